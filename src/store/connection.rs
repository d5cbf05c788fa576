//! Changing a connection's row: an engine and a person may do so at the same time, and neither overwrites the other.

use super::{Commit, Fence, Op, StoreError, SyncStore};
use crate::model::ConnectionRow;

/// Changes a connection as it is stored now; anew on what it became, if it was changed in between. `row` names it, and is
/// what it begins as if it is not stored yet. Nothing is stored where `change` answers false. Answers how it is stored.
///
/// # Errors
/// [`StoreError`]; nothing was stored then.
pub async fn change_connection(
    store: &dyn SyncStore,
    fence: Option<Fence>,
    row: &ConnectionRow,
    mut change: impl FnMut(&mut ConnectionRow) -> bool,
) -> Result<ConnectionRow, StoreError> {
    loop {
        let stored = store.connection(&row.account, &row.name).await?;
        let mut next = stored.unwrap_or_else(|| ConnectionRow { version: 0, ..row.clone() });
        if !change(&mut next) {
            return Ok(next);
        }
        next.version += 1;
        let ops = vec![Op::PutConnection(next.clone())];
        match store.commit(&Commit { account: row.account.clone(), fence: fence.clone(), ops }).await {
            // Each time round, somebody else got further.
            Err(StoreError::Outdated(_)) => {}
            done => return done.map(|()| next),
        }
    }
}
