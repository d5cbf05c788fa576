//! A link as a row: what its columns say is not said again in its body.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tandem_contract::{ExternalId, Version};
use uuid::Uuid;

use super::{
    StoreError,
    sql::{json, parse},
};
use crate::model::{
    Link, LinkState, RecordId,
    link::{Base, Hold, Rewrites},
};

/// The columns that are read, in this order.
pub(super) const SELECT: &str = "SELECT connection, kind, local_id, external_id, state, body FROM link";

/// Those columns of one row.
pub(super) type Columns = (String, String, Uuid, String, String, String);

#[derive(Serialize)]
struct Written<'a> {
    base: &'a BTreeMap<String, Base>,
    version: &'a Version,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    holds: &'a BTreeMap<String, Hold>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    rewrites: &'a BTreeMap<String, Rewrites>,
    #[serde(skip_serializing_if = "Option::is_none")]
    missing_since: Option<DateTime<Utc>>,
}

#[derive(Deserialize)]
struct Read {
    base: BTreeMap<String, Base>,
    version: Version,
    #[serde(default)]
    holds: BTreeMap<String, Hold>,
    #[serde(default)]
    rewrites: BTreeMap<String, Rewrites>,
    missing_since: Option<DateTime<Utc>>,
}

/// The body of a link's row.
pub(super) fn body(link: &Link) -> Result<String, StoreError> {
    json(&Written {
        base: &link.base,
        version: &link.version,
        holds: &link.holds,
        rewrites: &link.rewrites,
        missing_since: link.missing_since,
    })
}

/// The link of a row.
pub(super) fn link((connection, kind, local, external, state, body): Columns) -> Result<Link, StoreError> {
    let corrupt = |column: &str| StoreError::Corrupt {
        table: "link",
        row: local.to_string(),
        why: format!("the column {column} is not what this program writes"),
    };
    let read: Read = parse("link", local, &body)?;
    Ok(Link {
        connection: connection.parse().map_err(|_| corrupt("connection"))?,
        kind: kind.parse().map_err(|_| corrupt("kind"))?,
        local: RecordId(local),
        external: ExternalId::new(external).map_err(|_| corrupt("external_id"))?,
        state: LinkState::named(&state).ok_or_else(|| corrupt("state"))?,
        base: read.base,
        version: read.version,
        holds: read.holds,
        rewrites: read.rewrites,
        missing_since: read.missing_since,
    })
}
