//! A mapping that was changed between two runs.
//!
//! The base of a row is what both sides said of certain properties. If the row reads other properties now, its base is of
//! no use: compared with it, a new and empty property would look like one that was emptied. So the base goes, and the two
//! sides meet as for the first time, by the connection's `on_first_link`; no value is taken for an edit.

use std::collections::BTreeMap;

use tandem_contract::{Cursor, Kind};

use super::reconcile::{Reconciler, SyncError};
use crate::{
    model::{Key, Mark, Reason},
    store::Op,
};

/// The stream under which the mapping of the last run is kept.
const MAPPING: &str = "mapping";
/// Links changed in one transaction.
const PAGE: usize = 500;

/// Which properties each row reads.
type Shape = BTreeMap<Kind, BTreeMap<String, Vec<String>>>;

impl Reconciler {
    /// Follows a changed mapping: drops the bases of rows that read other properties now, and marks every record of a
    /// kind with a new or changed row. Interrupted, it begins anew at the next start.
    ///
    /// # Errors
    /// [`SyncError`].
    pub async fn follow_mapping(&self) -> Result<(), SyncError> {
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let shape = self.shape();
        let stored = self.store.cursor(account, name, MAPPING).await?;
        let before: Option<Shape> = stored.and_then(|cursor| serde_json::from_str(&cursor.0).ok());
        if before.as_ref() == Some(&shape) {
            return Ok(());
        }
        for (kind, rows) in before.iter().flatten().filter_map(|(kind, before)| {
            let now = shape.get(kind)?;
            let changed: Vec<&String> =
                now.iter().filter(|(row, reads)| before.get(*row) != Some(reads)).map(|(row, _)| row).collect();
            (!changed.is_empty()).then_some((*kind, changed))
        }) {
            tracing::info!(connection = %name, %kind, rows = ?rows, "the mapping changed: every record is looked at");
            self.forget_bases(kind, &rows).await?;
        }
        let cursor = Cursor(serde_json::to_string(&shape).unwrap_or_default());
        let op = Op::PutCursor { connection: name.clone(), stream: MAPPING.into(), cursor };
        Ok(self.store.commit(&self.commit_of(vec![op])).await?)
    }

    fn shape(&self) -> Shape {
        let rows = |lens: &super::lens::Lens| {
            lens.rows
                .iter()
                .map(|row| (row.name.clone(), row.properties.iter().map(|(name, _)| name.clone()).collect()))
                .collect()
        };
        self.connection.lenses.iter().map(|(kind, lens)| (*kind, rows(lens))).collect()
    }

    async fn forget_bases(&self, kind: Kind, rows: &[&String]) -> Result<(), SyncError> {
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let now = self.clock.now();
        let mut after = None;
        loop {
            let page = self.store.link_page(account, name, kind, after, PAGE).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.local);
            let mut ops = Vec::with_capacity(page.len() * 2);
            for mut link in page {
                ops.push(Op::Mark(Mark::new(name, kind, Key::Local(link.local), now, Reason::Audit)));
                for row in rows {
                    link.base.remove(*row);
                    link.holds.remove(*row);
                    link.rewrites.remove(*row);
                }
                ops.push(self.put_link(link));
            }
            self.store.commit(&self.commit_of(ops)).await?;
        }
    }
}
