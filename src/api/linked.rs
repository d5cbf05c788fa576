//! The same record at vendors, and how it stands with them.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use crate::model::{HoldKind, Link, LinkState, RecordId};

/// The same record at a vendor.
#[derive(Serialize, ToSchema)]
pub struct ExternalIdView {
    /// Which connection.
    connection: String,
    /// Which kind of record.
    kind: String,
    /// The vendor's id.
    id: String,
}

/// The links of a record, for people.
pub fn external_ids(links: &[&Link]) -> Vec<ExternalIdView> {
    let view = |link: &&Link| ExternalIdView {
        connection: link.connection.to_string(),
        kind: link.kind.to_string(),
        id: link.external.to_string(),
    };
    links.iter().map(view).collect()
}

/// How a record stands with the vendors, in one word: the worst of its links.
pub fn sync_state(quarantined: bool, links: &[&Link]) -> &'static str {
    let held = |kind: HoldKind| links.iter().any(|link| link.holds.values().any(|hold| hold.kind == kind));
    match links.iter().map(|link| link.state).find(|state| *state != LinkState::Linked) {
        _ if quarantined => "quarantined",
        _ if links.is_empty() => "local",
        _ if held(HoldKind::Ask) => "conflict",
        _ if held(HoldKind::Frozen) => "frozen",
        _ if held(HoldKind::Parked) => "parked",
        _ if held(HoldKind::Guarded) => "held",
        Some(state) => state.as_str(),
        None => "synced",
    }
}

/// The links of a page of records, by record.
pub fn by_record(links: &[Link]) -> BTreeMap<RecordId, Vec<&Link>> {
    let mut all: BTreeMap<RecordId, Vec<&Link>> = BTreeMap::new();
    for link in links {
        all.entry(link.local).or_default().push(link);
    }
    all
}
