//! Organizations go by their names; a deal or a person tells the id of its own only.
//!
//! Names are read a hundred at once and kept for an hour. One is written as an option goes by its label: the only organization
//! of that name, to the letter, is set. None is made: nothing would hold back the ones that somebody mistyped, and nothing tells
//! two of one name apart. So that a name costs no search, all organizations are listed once, and later what was made or changed
//! since; the one that is set is looked at right before.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use tandem_contract::{Call, ConnectorError, Kind, Value};

use crate::{
    Pipedrive,
    client::{Api, Ask},
    item::{Item, for_query},
    records::{IDS, Listing, Shelf, is_deleted, made_since},
};

/// The property of a deal or person that is its organization's name.
pub const NAME: &str = "organization";
/// How long a name is taken to stay as it is.
const FRESH: Duration = Duration::from_secs(3_600);
/// Names that are kept at most.
const MOST: usize = 50_000;
/// Pages of organizations that are listed at most, of five hundred each.
const PAGES: usize = 100;
/// How long a name that was not there is not looked for again.
const AGAIN: Duration = Duration::from_secs(600);
/// How far what is looked at anew overlaps what was listed before.
const OVERLAP: TimeDelta = TimeDelta::minutes(15);

/// What is known of organizations.
#[derive(Default)]
pub struct Names {
    /// Names by id, and since when they are known; `None` for an organization that is not there any more.
    by_id: Mutex<BTreeMap<String, (Duration, Option<String>)>>,
    listed: Mutex<Option<Listed>>,
}

/// The organizations that there are.
struct Listed {
    names: BTreeMap<String, String>,
    /// False where there are more than are listed.
    complete: bool,
    /// When they were looked at, by our clock.
    at: Duration,
    /// Up to when they are known, by Pipedrive's.
    until: DateTime<Utc>,
}

impl Names {
    fn by_id(&self) -> MutexGuard<'_, BTreeMap<String, (Duration, Option<String>)>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listed(&self) -> MutexGuard<'_, Option<Listed>> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ids of those of a name.
    fn called(&self, name: &str) -> Vec<String> {
        let listed = self.listed();
        let names = listed.iter().flat_map(|listed| &listed.names);
        names.filter(|(_, known)| *known == name).map(|(id, _)| id.clone()).collect()
    }

    /// What one is called by now; `None` if it is gone.
    fn put(&self, id: &str, name: Option<String>, now: Duration) {
        if let Some(listed) = self.listed().as_mut() {
            match &name {
                Some(name) => drop(listed.names.insert(id.to_owned(), name.clone())),
                None => drop(listed.names.remove(id)),
            }
        }
        self.by_id().insert(id.to_owned(), (now, name));
    }
}

fn name_of(item: &Item) -> Option<String> {
    item.text("name").map(|name| name.trim().to_owned()).filter(|_| !is_deleted(item))
}

fn refused(reason: &str) -> ConnectorError {
    ConnectorError::Rejected { field: Some(NAME.into()), reason: reason.into() }
}

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
        self.learn_names(call, items.iter().filter_map(|item| item.text("org_id")).collect()).await
    }

    /// Looks the organizations of these ids up.
    pub(crate) async fn learn_names(&self, call: Call, ids: BTreeSet<String>) -> Result<(), ConnectorError> {
        let now = self.client.clock.elapsed();
        let unknown: Vec<String> = {
            let names = self.organizations.by_id();
            let is_known = |id: &String| names.get(id).is_some_and(|(since, _)| now.saturating_sub(*since) < FRESH);
            ids.into_iter().filter(|id| !is_known(id)).collect()
        };
        for chunk in unknown.chunks(IDS) {
            let listing = Listing::new(Kind::Company, Shelf::Desk).with("ids", chunk.join(","));
            let (found, _) = listing.page(self, call, None).await?;
            let mut found: BTreeMap<String, String> =
                found.iter().filter_map(|item| Some((item.text("id")?, item.text("name")?))).collect();
            let mut names = self.organizations.by_id();
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
        match self.organization_of(&id) {
            // It has one, whose name we may not see: that is not none.
            Value::Null => Value::Absent,
            name => name,
        }
    }

    /// The name of the organization of an id; absent where it was not looked up.
    pub(crate) fn organization_of(&self, id: &str) -> Value {
        match self.organizations.by_id().get(id) {
            None => Value::Absent,
            Some((_, name)) => name.as_deref().map_or(Value::Null, Value::text),
        }
    }

    /// The id of the only organization of a name.
    ///
    /// # Errors
    /// [`ConnectorError::Rejected`] for a name that none has, or several have; else as Pipedrive answers.
    pub(crate) async fn organization_called(&self, call: Call, name: &str) -> Result<String, ConnectorError> {
        let name = name.trim();
        let names = &self.organizations;
        let mut ids = self.still_called(call, name).await?;
        if ids.is_empty() {
            self.list_organizations(call).await?;
            ids = names.called(name);
        }
        let complete = names.listed().as_ref().is_some_and(|listed| listed.complete);
        match ids.as_slice() {
            [one] => {
                names.put(one, Some(name.to_owned()), self.client.clock.elapsed());
                Ok(one.clone())
            }
            [] if complete => {
                Err(refused("Pipedrive has no organization of this name: make it there, or correct the name"))
            }
            [] => Err(refused(
                "none of this name is among the first 50,000 organizations: map it with `direction = \"in\"`",
            )),
            _ => Err(refused(
                "Pipedrive has several organizations of this name: merge them there, or rename all but one",
            )),
        }
    }

    /// Those of a name, two at most, looked at now: since they were listed they may have got another name, or have gone, and
    /// one that was merged away tells nobody.
    async fn still_called(&self, call: Call, name: &str) -> Result<Vec<String>, ConnectorError> {
        let names = &self.organizations;
        let mut ids = Vec::new();
        for id in names.called(name) {
            let ask = Ask::get(Api::V2, format!("organizations/{id}"), 1, call.lane);
            let called = match self.client.data::<Item>(ask).await {
                Ok(item) => name_of(&item),
                Err(ConnectorError::Gone | ConnectorError::Forbidden(_)) => None,
                Err(error) => return Err(error),
            };
            let is_it = called.as_deref() == Some(name);
            names.put(&id, called, self.client.clock.elapsed());
            if is_it {
                ids.push(id);
            }
            if ids.len() == 2 {
                break;
            }
        }
        Ok(ids)
    }

    /// Lists all organizations, or what was made or changed since that was done; not more often than every ten minutes.
    async fn list_organizations(&self, call: Call) -> Result<(), ConnectorError> {
        let at = self.client.clock.elapsed();
        let known = self.organizations.listed().as_ref().map(|listed| (listed.complete, listed.at, listed.until));
        let until = self.client.vendor_now();
        let (items, complete) = match known {
            Some((complete, before, _)) if !complete || at.saturating_sub(before) < AGAIN => return Ok(()),
            None => self.walk(call, &Listing::new(Kind::Company, Shelf::Desk).by_id(), None).await?,
            Some((.., since)) => {
                let since = since - OVERLAP;
                let changed = Listing::new(Kind::Company, Shelf::Desk).by_id().with("updated_since", for_query(since));
                let (mut items, all) = self.walk(call, &changed, None).await?;
                // One that was never edited may have no time of change.
                let made = Listing::newest_first(Kind::Company, Shelf::Desk);
                let (new, all_new) = self.walk(call, &made, Some(since)).await?;
                items.extend(new);
                (items, all && all_new)
            }
        };
        let mut listed = self.organizations.listed();
        let mut names = listed.take().map(|listed| listed.names).unwrap_or_default();
        names.extend(items.iter().filter_map(|item| Some((item.text("id")?, name_of(item)?))));
        *listed = Some(Listed { names, complete, at, until });
        Ok(())
    }

    /// The pages of a list, and whether those are all; of one that goes from new to old what was made since.
    async fn walk(
        &self,
        call: Call,
        listing: &Listing,
        since: Option<DateTime<Utc>>,
    ) -> Result<(Vec<Item>, bool), ConnectorError> {
        let (mut all, mut cursor): (Vec<Item>, Option<String>) = (Vec::new(), None);
        for _ in 0..PAGES {
            let page = listing.page(self, call, cursor.as_deref()).await?;
            let (items, next) = match since {
                Some(since) => made_since(since, page),
                None => page,
            };
            all.extend(items);
            if next.is_none() {
                return Ok((all, true));
            }
            cursor = next;
        }
        Ok((all, false))
    }
}
