//! The names of organizations: a deal or a person tells the id of its own only.
//!
//! They are read a hundred at once and kept for an hour. They are not written: Pipedrive keeps two of one name apart by
//! nothing that could be asked for before one is made.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tandem_contract::{Call, ConnectorError, Kind, Value};

use crate::{
    Pipedrive,
    item::Item,
    records::{IDS, Listing, Shelf},
};

/// The property of a deal or person that is its organization's name.
pub const NAME: &str = "organization";
/// How long a name is taken to stay as it is.
const FRESH: Duration = Duration::from_secs(3_600);
/// Names that are kept at most.
const MOST: usize = 50_000;

/// Names by id, and since when they are known; `None` for an organization that is not there any more.
#[derive(Default)]
pub struct Names(Mutex<BTreeMap<String, (Duration, Option<String>)>>);

impl Pipedrive {
    /// Looks the organizations of these objects up, where the mapping asks for their names.
    pub(crate) async fn learn_organizations(
        &self,
        call: Call,
        kind: Kind,
        items: &[Item],
    ) -> Result<(), ConnectorError> {
        if !self.selected(kind).any(|name| name == NAME) {
            return Ok(());
        }
        let now = self.client.clock.elapsed();
        let unknown: Vec<String> = {
            let names = self.organizations.0.lock().unwrap_or_else(PoisonError::into_inner);
            let is_known = |id: &String| names.get(id).is_some_and(|(since, _)| now.saturating_sub(*since) < FRESH);
            let ids: BTreeSet<String> = items.iter().filter_map(|item| item.text("org_id")).collect();
            ids.into_iter().filter(|id| !is_known(id)).collect()
        };
        for chunk in unknown.chunks(IDS) {
            let listing = Listing::new(Kind::Company, Shelf::Desk).with("ids", chunk.join(","));
            let (found, _) = listing.page(self, call, None).await?;
            let mut found: BTreeMap<String, String> =
                found.iter().filter_map(|item| Some((item.text("id")?, item.text("name")?))).collect();
            let mut names = self.organizations.0.lock().unwrap_or_else(PoisonError::into_inner);
            if names.len() + chunk.len() > MOST {
                names.clear();
            }
            names.extend(chunk.iter().map(|id| (id.clone(), (now, found.remove(id)))));
        }
        Ok(())
    }

    /// The name of an object's organization; absent where it was not looked up.
    pub(crate) fn organization(&self, item: &Item) -> Value {
        let Some(id) = item.text("org_id") else { return Value::Null };
        let names = self.organizations.0.lock().unwrap_or_else(PoisonError::into_inner);
        match names.get(&id) {
            None => Value::Absent,
            Some((_, name)) => name.as_deref().map_or(Value::Null, Value::text),
        }
    }
}
