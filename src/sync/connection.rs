//! A connection as the engine drives it: the connector, the mapping and the switches.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use subtle::ConstantTimeEq;
use tandem_contract::{Connector, Kind, Record, Value};
use url::Url;

use super::{
    lens::{Direction, Lens},
    plan::OnFirstLink,
    presence::{OnLocalDelete, OnRemoteDelete},
};
use crate::model::{Account, Name};

/// Which of a vendor's records are taken in at all.
#[derive(Clone, Debug, Default, serde::Deserialize, serde::Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Only these pipelines, by the vendor's ids.
    pub pipelines: BTreeSet<String>,
    /// Only these owners, by the vendor's ids.
    pub owners: BTreeSet<String>,
    /// Only records made since.
    pub created_since: Option<DateTime<Utc>>,
}

impl Filter {
    /// True if a record that is not linked yet is to be taken in.
    #[must_use]
    pub fn admits(&self, kind: Kind, lens: &Lens, record: &Record) -> bool {
        let property = |row: &str, index: usize| {
            let row = lens.rows.iter().find(|r| r.name == row)?;
            Some(record.property(&row.properties.get(index)?.0))
        };
        let among = |set: &BTreeSet<String>, value: Option<Value>| {
            set.is_empty() || value.as_ref().and_then(Value::as_text).is_some_and(|text| set.contains(text))
        };
        kind != Kind::Deal
            || (among(&self.pipelines, property("position", 0))
                && among(&self.owners, property("owner", 0))
                && self.created_since.is_none_or(|since| record.created_at.is_none_or(|made| made >= since)))
    }
}

/// Whether a webhook came to a connection's whole address. Where the vendor signs nothing its end is `ours`, which nobody guesses.
#[must_use]
pub fn is_own_address(ours: Option<&str>, given: Option<&str>) -> bool {
    let is_it = |ours: &str| given.is_some_and(|given| given.as_bytes().ct_eq(ours.as_bytes()).into());
    ours.is_none_or(is_it)
}

/// Everything the engine knows of a connection that does not change while it runs.
#[derive(Clone)]
pub struct Connection {
    /// The account it belongs to.
    pub account: Account,
    /// Its name.
    pub name: Name,
    /// The vendor.
    pub connector: Arc<dyn Connector>,
    /// The mapping.
    pub lenses: BTreeMap<Kind, Lens>,
    /// Which way it goes.
    pub direction: Direction,
    /// Where the vendor reaches us with its news; `None` where it cannot.
    pub hook: Option<Url>,
    /// The end of that address, where the vendor signs nothing.
    pub hook_segment: Option<String>,
    /// What happens on first contact.
    pub on_first_link: OnFirstLink,
    /// What a deletion at the vendor does here.
    pub on_remote_delete: OnRemoteDelete,
    /// What a deletion here does at the vendor.
    pub on_local_delete: OnLocalDelete,
    /// Which records are taken in.
    pub filter: Filter,
    /// This installation, for markers.
    pub installation: String,
    /// The account's other connections that are written to.
    pub siblings: Vec<Name>,
    /// The account's other connections that are only read.
    pub sources: Vec<Name>,
}

impl Connection {
    /// Whether the account has no other connection, of whichever direction.
    #[must_use]
    pub fn is_alone(&self) -> bool {
        self.siblings.is_empty() && self.sources.is_empty()
    }

    /// With every row going out only, where the connection does: then what was said here wins.
    #[must_use]
    pub fn one_way(mut lenses: BTreeMap<Kind, Lens>, direction: Direction) -> BTreeMap<Kind, Lens> {
        if direction == Direction::Out {
            for row in lenses.values_mut().flat_map(|lens| &mut lens.rows) {
                row.direction = Direction::Out;
            }
        }
        lenses
    }

    /// How far its writes are protected, for the operator: in one sentence, or one a kind where kinds differ.
    #[must_use]
    pub fn guarantee(&self) -> String {
        let kinds = self.connector.kinds();
        let of = |kind: &Kind| self.connector.guarantee(*kind).explain();
        match kinds.first() {
            Some(first) if kinds.iter().all(|kind| of(kind) == of(first)) => of(first).to_owned(),
            _ => kinds.iter().map(|kind| format!("{kind}: {}", of(kind))).collect::<Vec<_>>().join("; "),
        }
    }

    /// The marker of one of our records.
    #[must_use]
    pub fn marker(&self, local: crate::model::RecordId) -> String {
        format!("{}:{local}", self.installation)
    }

    /// Our record that a marker names, if it is one of this installation's.
    #[must_use]
    pub fn of_marker(&self, marker: &str) -> Option<crate::model::RecordId> {
        marker.strip_prefix(&self.installation)?.strip_prefix(':')?.parse().ok()
    }

    /// The shard that owns this vendor account: its rate limit has exactly one owner.
    #[must_use]
    pub fn shard(&self, remote_account: &str) -> i64 {
        let digest = crate::model::digest(format!("{}|{remote_account}", self.connector.system()).as_bytes());
        i64::from_str_radix(&digest[..15], 16).unwrap_or(0)
    }
}
