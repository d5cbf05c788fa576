//! A link as a row: what its columns say is not said again in its body.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tandem_contract::{ExternalId, Value, Version};
use uuid::Uuid;

use super::{
    StoreError,
    sql::{json, parse},
};
use crate::model::{
    Link, LinkState, RecordId,
    link::{Base, Hold, Rewrites, Unanswered},
};

/// The columns that are read, in this order.
pub(super) const SELECT: &str = "SELECT connection, kind, local_id, external_id, state, rulings, body FROM link";

/// Those columns of one row.
pub(super) type Columns = (String, String, Uuid, String, String, i64, String);

/// The halves of a base: what both said alike, as most do, is written once.
#[derive(Serialize)]
#[serde(untagged)]
enum Halves<'a> {
    Alike([&'a [Value]; 1]),
    Apart([&'a [Value]; 2]),
}

impl<'a> From<&'a Base> for Halves<'a> {
    fn from(Base(local, remote): &'a Base) -> Self {
        if local == remote { Self::Alike([local]) } else { Self::Apart([local, remote]) }
    }
}

#[derive(Serialize)]
struct Written<'a> {
    base: BTreeMap<&'a str, Halves<'a>>,
    version: &'a Version,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    holds: &'a BTreeMap<String, Hold>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    rewrites: &'a BTreeMap<String, Rewrites>,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing_since: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unanswered: Option<&'a Unanswered>,
}

#[derive(Deserialize)]
struct Read {
    base: BTreeMap<String, Vec<Vec<Value>>>,
    version: Version,
    #[serde(default)]
    holds: BTreeMap<String, Hold>,
    #[serde(default)]
    rewrites: BTreeMap<String, Rewrites>,
    missing_since: Option<DateTime<Utc>>,
    unanswered: Option<Unanswered>,
}

/// The body of a link's row.
pub(super) fn body(link: &Link) -> Result<String, StoreError> {
    json(&Written {
        base: link.base.iter().map(|(row, base)| (row.as_str(), base.into())).collect(),
        version: &link.version,
        holds: &link.holds,
        rewrites: &link.rewrites,
        missing_since: link.missing_since,
        unanswered: link.unanswered.as_ref(),
    })
}

/// The link of a row.
pub(super) fn link((connection, kind, local, external, state, rulings, body): Columns) -> Result<Link, StoreError> {
    let corrupt = |column: &str| StoreError::Corrupt {
        table: "link",
        row: local.to_string(),
        why: format!("the column {column} is not what this program writes"),
    };
    let read: Read = parse("link", local, &body)?;
    let whole = |(row, halves): (String, Vec<Vec<Value>>)| {
        let mut halves = halves.into_iter();
        let ours = halves.next().ok_or_else(|| corrupt("body"))?;
        let theirs = halves.next().unwrap_or_else(|| ours.clone());
        Ok((row, Base(ours, theirs)))
    };
    Ok(Link {
        connection: connection.parse().map_err(|_| corrupt("connection"))?,
        kind: kind.parse().map_err(|_| corrupt("kind"))?,
        local: RecordId(local),
        external: ExternalId::new(external).map_err(|_| corrupt("external_id"))?,
        state: LinkState::named(&state).ok_or_else(|| corrupt("state"))?,
        base: read.base.into_iter().map(whole).collect::<Result<_, StoreError>>()?,
        version: read.version,
        holds: read.holds,
        rewrites: read.rewrites,
        missing_since: read.missing_since,
        unanswered: read.unanswered,
        rulings,
    })
}
