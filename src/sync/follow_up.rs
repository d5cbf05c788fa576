//! What a change of an opportunity has stored elsewhere: its contact's visits are looked at again, and a quarantine that ended is off
//! the list.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use tandem_contract::Kind;

use super::{
    change::FollowUp,
    reconcile::{QUARANTINE, Reconciler},
};
use crate::{
    model::{Account, Key, Mark, Reason},
    store::{Op, StoreError, SyncStore},
};

/// What is to be stored with a change.
///
/// # Errors
/// [`StoreError`].
pub async fn follow_up(
    store: &dyn SyncStore,
    account: &Account,
    changed: FollowUp,
    now: DateTime<Utc>,
) -> Result<Vec<Op>, StoreError> {
    let mut ops = Vec::new();
    let visitors = changed.visitors.into_iter().filter(|_| !account.visit_rules.is_empty());
    for contact in visitors {
        for visit in store.visits_of(&account.name, contact).await? {
            let key = Key::External(visit.visit);
            ops.push(Op::Mark(Mark::new(&visit.connection, Kind::Appointment, key, now, Reason::Propagate)));
        }
    }
    if changed.released.is_empty() {
        return Ok(ops);
    }
    // Whichever connection found it.
    let released: BTreeSet<String> = changed.released.into_iter().map(|id| Key::Local(id).to_string()).collect();
    for failure in store.failures(&account.name, usize::MAX >> 1).await? {
        if failure.row == QUARANTINE
            && released.contains(&failure.key)
            && let Ok(key) = failure.key.parse()
        {
            let (connection, kind, row) = (failure.connection, failure.kind, Some(failure.row));
            ops.push(Op::DropFailures { connection, kind, key, row });
        }
    }
    Ok(ops)
}

impl Reconciler {
    pub(super) async fn follow_up(&self, changed: FollowUp) -> Result<Vec<Op>, StoreError> {
        follow_up(&*self.store, &self.connection.account, changed, self.clock.now()).await
    }
}
