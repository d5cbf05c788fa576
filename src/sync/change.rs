//! A change of one of our records: everything that goes with it, whoever makes it. A person, a vendor, a sale and a visit all come
//! through here.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use tandem_contract::Kind;

use crate::{
    model::{
        HistoryEntry, Key, LocalRecord, Mark, Name, Opportunity, Reason, RecordId, Status, Uniqueness, ids::RunId,
    },
    store::Op,
};

/// Who changes a record, when, and who is told.
pub struct Change<'a> {
    /// `person`, or the connection.
    pub by: &'a str,
    /// When.
    pub now: DateTime<Utc>,
    /// The run history entries name.
    pub run: RunId,
    /// How many open opportunities a contact may have.
    pub uniqueness: Uniqueness,
    /// The connections that are to look at the record.
    pub tell: &'a [Name],
    /// Why they are to.
    pub reason: Reason,
    /// False where what is found says nothing of when it came about.
    pub is_news: bool,
}

/// A change that is to be stored.
pub struct Changed {
    /// The record, as it is then.
    pub record: LocalRecord,
    /// What stores it.
    pub ops: Vec<Op>,
    /// What else is to be stored with it.
    pub follow_up: FollowUp,
}

/// What is to be looked up in the store before a change is all of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FollowUp {
    /// Contacts whose visits are to be looked at again: what they do depends on where opportunities stand.
    pub visitors: BTreeSet<RecordId>,
    /// Opportunities whose quarantine has ended.
    pub released: BTreeSet<RecordId>,
}

impl Change<'_> {
    /// What was `before`, or was not there, is `after` from now on.
    #[must_use]
    pub fn of(&self, before: Option<&LocalRecord>, after: LocalRecord) -> Changed {
        let mut record = after;
        let (kind, id) = (record.kind(), record.id());
        if before.is_some() {
            record.touch(self.now);
        }
        let was = before.and_then(LocalRecord::as_opportunity);
        let slot = slot(self.uniqueness, &record);
        let mut follow_up = FollowUp::default();
        if let LocalRecord::Deal(deal) = &mut record {
            deal.note_closing(self.by);
            // What takes no place waits for none.
            deal.quarantined &= slot.is_some();
            if self.is_news {
                deal.note_transition(was.map_or(Status::Open, |was| was.position.status), self.now);
            }
            if let Some(was) = was {
                if place(was) != place(deal) {
                    follow_up.visitors.extend([was.contact, deal.contact].into_iter().flatten());
                }
                if was.quarantined && !deal.quarantined {
                    follow_up.released.insert(id);
                }
            }
        }
        let mut ops = Vec::new();
        if let Some(before) = before {
            ops.extend(history_ops(kind, before, &record, self.by, self.now, self.run));
        }
        let mark = |connection: &Name| Op::Mark(Mark::new(connection, kind, Key::Local(id), self.now, self.reason));
        ops.extend(self.tell.iter().map(mark));
        let expected = before.map_or(0, LocalRecord::version);
        ops.push(Op::PutRecord { record: record.clone(), expected, slot });
        Changed { record, ops, follow_up }
    }
}

/// All of an opportunity that decides what the visits of its contact do.
fn place(deal: &Opportunity) -> impl PartialEq + use<> {
    let position = &deal.position;
    let stands = (position.pipeline, position.stage, position.status);
    (deal.contact, stands, deal.quarantined, deal.deleted_at.is_some())
}

/// The one active place of a contact in a pipeline that a record takes, or waits for; `None` where it takes none.
#[must_use]
pub fn slot(uniqueness: Uniqueness, record: &LocalRecord) -> Option<String> {
    let deal = record.as_opportunity()?;
    let active = deal.position.status == Status::Open && deal.deleted_at.is_none();
    let has_places = match uniqueness {
        Uniqueness::OneActivePerContact => true,
        Uniqueness::ConfirmSecond => !deal.deliberate,
        Uniqueness::Unlimited => false,
    };
    match (deal.contact, deal.position.pipeline) {
        (Some(contact), Some(pipeline)) if active && has_places => Some(format!("{contact}/{pipeline}")),
        _ => None,
    }
}

/// One history entry per field that differs.
#[must_use]
pub fn history_ops(
    kind: Kind,
    before: &LocalRecord,
    after: &LocalRecord,
    by: &str,
    now: DateTime<Utc>,
    run: RunId,
) -> Vec<Op> {
    let names: Vec<String> = match kind {
        Kind::Contact => crate::model::field::CONTACT
            .iter()
            .map(|name| (*name).to_owned())
            .chain(custom_names(before, after))
            .collect(),
        _ => crate::model::field::OPPORTUNITY
            .iter()
            .map(|name| (*name).to_owned())
            .chain(custom_names(before, after))
            .collect(),
    };
    names
        .into_iter()
        .filter_map(|field| {
            let (old, new) = (before.get(&field), after.get(&field));
            (old != new).then(|| {
                Op::AddHistory(HistoryEntry { kind, record: after.id(), field, old, new, by: by.into(), at: now, run })
            })
        })
        .collect()
}

fn custom_names(before: &LocalRecord, after: &LocalRecord) -> BTreeSet<String> {
    let names = |record: &LocalRecord| match record {
        LocalRecord::Contact(contact) => contact.custom.keys().cloned().collect::<Vec<_>>(),
        LocalRecord::Deal(deal) => deal.custom.keys().cloned().collect(),
    };
    names(before).into_iter().chain(names(after)).map(|name| format!("custom.{name}")).collect()
}
