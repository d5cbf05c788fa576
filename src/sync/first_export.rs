//! The first export: what was here before a connection was allowed to write.
//!
//! A change here marks the record for every connection that writes. What has not changed since a connection was added, or was
//! given leave to write, is marked for it once, when the vendor's own records of that kind were listed: then it is known which
//! of them meet one of ours, and are not made again.

use tandem_contract::{Cursor, Kind};

use super::reconcile::Reconciler;
use crate::{
    model::{Key, Mark, Name, Reason, RecordId},
    store::{Op, StoreError},
};

/// Records marked in one transaction.
const PAGE: usize = 500;
/// While nothing may be written.
const READS_ONLY: &str = "reads only";
/// When everything was marked.
const DONE: &str = "done";

/// What is to be stored of a connection that is not configured: nobody tells it of changes, so that when it is back everything is
/// marked for it as if it had only read until then.
#[must_use]
pub fn absent(connection: &Name, kind: Kind) -> Op {
    Op::PutCursor { connection: connection.clone(), stream: stream(kind), cursor: Cursor(READS_ONLY.into()) }
}

/// The stream of a kind: which connections have one, and how far each is.
#[must_use]
pub fn stream(kind: Kind) -> String {
    format!("first_export.{kind}")
}

impl Reconciler {
    /// Marks what was here before, once. Interrupted, it goes on where it was.
    pub(super) async fn export_what_was_here(&self, kind: Kind) -> Result<(), StoreError> {
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let stored = self.store.cursor(account, name, &stream(kind)).await?;
        let stored = stored.as_ref().map(|cursor| cursor.0.as_str());
        if !self.writes() {
            return match stored {
                Some(READS_ONLY) => Ok(()),
                _ => self.store.commit(&self.commit_of(vec![self.exported(kind, READS_ONLY.to_owned())])).await,
            };
        }
        if stored == Some(DONE) {
            return Ok(());
        }
        // What is linked may have been changed here as long as nobody wrote it there.
        if stored == Some(READS_ONLY) {
            self.mark_links(kind).await?;
        }
        let mut after = stored.and_then(|at| at.parse().ok()).map(RecordId);
        loop {
            let ids = self.store.unlinked_page(account, name, kind, after, PAGE).await?;
            after = ids.last().copied();
            let now = self.clock.now();
            let marks = ids.into_iter().map(|id| Op::Mark(Mark::new(name, kind, Key::Local(id), now, Reason::Audit)));
            let mut ops: Vec<Op> = marks.collect();
            ops.push(self.exported(kind, after.map_or_else(|| DONE.to_owned(), |id| id.0.to_string())));
            self.store.commit(&self.commit_of(ops)).await?;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    fn exported(&self, kind: Kind, state: String) -> Op {
        Op::PutCursor { connection: self.connection.name.clone(), stream: stream(kind), cursor: Cursor(state) }
    }

    async fn mark_links(&self, kind: Kind) -> Result<(), StoreError> {
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let mut after = None;
        loop {
            let page = self.store.link_page(account, name, kind, after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.local);
            let now = self.clock.now();
            let marks =
                page.iter().map(|link| Op::Mark(Mark::new(name, kind, Key::Local(link.local), now, Reason::Audit)));
            self.store.commit(&self.commit_of(marks.collect())).await?;
        }
    }
}
