//! Reading records: by id, by marker, and what the changelog says of them.
//!
//! Lists are read from the main store and cost ten tokens for one row as for five hundred; a single read costs one. So a
//! few ids are read one by one, many in one list. Search lags: it is asked where nothing depends on what it misses.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use tandem_contract::{
    Call, ConnectorError, ExternalId, Fetched, History, Kind, Record, Seen, Sought, Statement, Value, Version,
};
use tracing::warn;

use crate::{
    Pipedrive,
    client::{Api, Ask, MOST_PAGES, PAGE},
    fields::{self, Book},
    item::{Item, Row, read_time},
    marker, organizations, plural,
};

/// Ids of one list. Source: the published description, parameter `ids`.
pub const IDS: usize = 100;
/// Up to here single reads are cheaper than a list, in tokens and nearly so in calls.
const SINGLES: usize = 5;
/// How far clocks may be apart when a create is looked for.
const SKEW: TimeDelta = TimeDelta::minutes(5);
/// How long a field that an answer leaves out is taken to be there still.
const FIELDS_STAY: Duration = Duration::from_secs(60);

/// Which of the two lists of a kind: archived deals left the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shelf {
    Desk,
    Archive,
}

/// A list to read, a page at a time.
pub struct Listing {
    pub kind: Kind,
    pub shelf: Shelf,
    pub query: Vec<(&'static str, String)>,
}

impl Listing {
    pub fn new(kind: Kind, shelf: Shelf) -> Self {
        Self { kind, shelf, query: vec![("limit", PAGE.into())] }
    }

    pub fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.query.push((key, value.into()));
        self
    }

    /// Deleted ones too, where a list tells them: deals of the last 30 days.
    pub fn with_deleted(self) -> Self {
        if self.kind == Kind::Deal { self.with("status", "open,won,lost,deleted") } else { self }
    }

    pub fn by_id(self) -> Self {
        self.with("sort_by", "id").with("sort_direction", "asc")
    }

    /// All of a kind in the order in which they were made, the newest first.
    pub fn newest_first(kind: Kind, shelf: Shelf) -> Self {
        let listing = Self::new(kind, shelf).with("sort_by", "add_time").with("sort_direction", "desc");
        if shelf == Shelf::Desk { listing.with_deleted() } else { listing }
    }

    /// The page after `cursor`, and where the next begins.
    pub async fn page(
        &self,
        pipedrive: &Pipedrive,
        call: Call,
        cursor: Option<&str>,
    ) -> Result<(Vec<Item>, Option<String>), ConnectorError> {
        let (path, cost) = match self.shelf {
            Shelf::Desk => (plural(self.kind).to_owned(), 10),
            Shelf::Archive => (format!("{}/archived", plural(self.kind)), 20),
        };
        let mut ask = Ask::get(Api::V2, path, cost, call.lane);
        for (key, value) in &self.query {
            ask = ask.query(key, value.as_str());
        }
        let (rows, next) = pipedrive.client.page::<Row>(ask.after(cursor)).await?;
        Ok((rows.into_iter().map(|row| row.0).collect(), next))
    }
}

/// True for a deal or person in the bin. Pipedrive's documentation does not say which of the two it sets.
pub fn is_deleted(item: &Item) -> bool {
    item.flag("is_deleted") || item.text("status").as_deref() == Some("deleted")
}

pub fn version(item: &Item) -> Version {
    // A record that was never edited may have no time of change.
    Version { token: None, updated_at: item.time("update_time").or_else(|| item.time("add_time")) }
}

impl Pipedrive {
    /// One property of an object.
    fn property(&self, kind: Kind, name: &str, item: &Item, custom: &Item, book: &Book) -> Value {
        if name == organizations::NAME {
            return self.organization(item);
        }
        if fields::system(kind).contains(&name) {
            return fields::read_system(name, item);
        }
        match book.get(name).filter(|_| item.raw("custom_fields").is_some()) {
            // Fields without a value may be left out; a field that does not exist is not stated.
            Some(field) => match custom.raw(&field.code) {
                None | Some("null") => Value::Null,
                Some(raw) => field.read(raw),
            },
            None => Value::Absent,
        }
    }

    /// The values of these properties; `custom` are the object's custom fields.
    pub(crate) fn properties<'a>(
        &self,
        kind: Kind,
        names: impl Iterator<Item = &'a str>,
        item: &Item,
        custom: &Item,
        book: &Book,
    ) -> BTreeMap<String, Value> {
        names
            .map(|name| (name.to_owned(), self.property(kind, name, item, custom, book)))
            .filter(|(_, value)| *value != Value::Absent)
            .collect()
    }

    pub(crate) fn selected(&self, kind: Kind) -> impl Iterator<Item = &str> {
        self.options.select.get(&kind).into_iter().flatten().map(|(name, _)| name.as_str())
    }

    fn record(&self, kind: Kind, item: &Item, book: &Book) -> Result<Record, ConnectorError> {
        // Without them a field would seem to be empty.
        let custom = item.object("custom_fields")?;
        Ok(Record {
            id: item.id()?,
            version: version(item),
            created_at: item.time("add_time"),
            properties: self.properties(kind, self.selected(kind), item, &custom, book),
            marker: marker::of(self, book, &custom),
            absorbed: Vec::new(),
        })
    }

    /// The book that tells every option of these objects.
    async fn book_for(&self, call: Call, kind: Kind, items: &[Item]) -> Result<Arc<Book>, ConnectorError> {
        let book = self.book(call, kind).await?;
        let names: Vec<&str> = self.selected(kind).filter(|name| !fields::system(kind).contains(name)).collect();
        let customs: Vec<Item> = items.iter().map(|item| item.item("custom_fields")).collect();
        if customs.iter().any(|custom| book.is_outdated(custom, &names)) {
            return self.new_book(call, kind).await;
        }
        // What is left out may have no value, or be gone: that is looked up, though not for every page.
        let left_out =
            |name: &&str| book.get(name).is_some_and(|field| customs.iter().any(|c| c.raw(&field.code).is_none()));
        if names.iter().any(left_out) && self.book_age(kind) > FIELDS_STAY {
            return self.new_book(call, kind).await;
        }
        Ok(book)
    }

    /// What each object says, or why it cannot be read.
    async fn read(
        &self,
        call: Call,
        kind: Kind,
        items: &[Item],
    ) -> Result<Vec<Result<Seen, ConnectorError>>, ConnectorError> {
        // Most polls find nothing: for that no fields are read.
        if items.is_empty() {
            return Ok(Vec::new());
        }
        let book = self.book_for(call, kind, items).await?;
        self.learn_organizations(call, kind, items).await?;
        let read = |item: &Item| match is_deleted(item) {
            true => item.id().map(Seen::Archived),
            false => self.record(kind, item, &book).map(Seen::Record),
        };
        Ok(items.iter().map(read).collect())
    }

    /// What a page of a list says. An object that cannot be read is named, to be looked at by itself; one that cannot be named
    /// either does not keep the others from it.
    pub(crate) async fn seen(&self, call: Call, kind: Kind, items: &[Item]) -> Result<Vec<Seen>, ConnectorError> {
        let mut all = Vec::with_capacity(items.len());
        for (item, seen) in items.iter().zip(self.read(call, kind, items).await?) {
            match (seen, item.id()) {
                (Ok(seen), _) => all.push(seen),
                (Err(_), Ok(id)) => all.push(Seen::Hint { id, version: Version::default() }),
                (Err(error), Err(_)) => warn!(%kind, %error, "a row of a list is left out"),
            }
        }
        Ok(all)
    }
}

/// The truth about each id, in the order asked.
pub async fn fetch(
    pipedrive: &Pipedrive,
    call: Call,
    kind: Kind,
    ids: &[ExternalId],
) -> Result<Vec<Fetched>, ConnectorError> {
    let mut found: BTreeMap<String, Fetched> = BTreeMap::new();
    // What is no number is no id of Pipedrive's, and would spoil a list.
    let numbers: Vec<&ExternalId> = ids.iter().filter(|id| is_number(id.as_str())).collect();
    if numbers.len() > SINGLES {
        for chunk in numbers.chunks(IDS) {
            let list = chunk.iter().map(|id| id.as_str()).collect::<Vec<_>>().join(",");
            let (items, _) =
                Listing::new(kind, Shelf::Desk).with_deleted().with("ids", list).page(pipedrive, call, None).await?;
            for seen in pipedrive.read(call, kind, &items).await? {
                match seen {
                    Ok(Seen::Record(record)) => found.insert(record.id.to_string(), Fetched::Found(record)),
                    Ok(Seen::Archived(id)) => found.insert(id.to_string(), Fetched::Archived),
                    // Read by itself, it says why.
                    Ok(Seen::Hint { .. }) | Err(_) => None,
                };
            }
        }
    }
    // What no list shows is archived, deleted, or not there.
    for id in numbers {
        if found.contains_key(id.as_str()) {
            continue;
        }
        let ask = Ask::get(Api::V2, format!("{}/{id}", plural(kind)), 1, call.lane);
        let fetched = match pipedrive.client.data::<Item>(ask).await {
            Ok(item) => match pipedrive.read(call, kind, &[item]).await?.pop().transpose()? {
                Some(Seen::Record(record)) => Fetched::Found(record),
                Some(_) => Fetched::Archived,
                None => Fetched::Gone,
            },
            Err(ConnectorError::Gone) => Fetched::Gone,
            Err(ConnectorError::Forbidden(_)) => Fetched::Forbidden,
            Err(error) => return Err(error),
        };
        found.insert(id.to_string(), fetched);
    }
    Ok(ids.iter().map(|id| found.get(id.as_str()).cloned().unwrap_or(Fetched::Gone)).collect())
}

/// The records that carry these markers, in the order asked: a walk back to when the oldest of the creates was sent, in
/// the main store. Of several the lowest id, and one that is not deleted before one that is. Where too much was made since,
/// the rest is searched for: what is that old no search misses.
pub async fn find(
    pipedrive: &Pipedrive,
    call: Call,
    kind: Kind,
    sought: &[Sought],
) -> Result<Vec<Option<Record>>, ConnectorError> {
    let Some(since) = sought.iter().map(|one| one.since).min() else { return Ok(Vec::new()) };
    let since = since + pipedrive.client.offset() - SKEW;
    let mut book = pipedrive.book(call, kind).await?;
    if marker::fields(pipedrive, &book).is_empty() {
        book = pipedrive.new_book(call, kind).await?;
    }
    if marker::fields(pipedrive, &book).is_empty() {
        // The create was interrupted before the field itself was made: no record can carry it.
        return Ok(vec![None; sought.len()]);
    }
    let mut found = Marked::default();
    for shelf in [Shelf::Desk, Shelf::Archive] {
        if shelf == Shelf::Archive && (kind != Kind::Deal || sought.iter().all(|one| found.has(&one.marker))) {
            break;
        }
        let listing = Listing::newest_first(kind, shelf);
        let mut cursor: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let page = listing.page(pipedrive, call, cursor.as_deref()).await?;
            let (items, next) = made_since(since, page);
            for item in &items {
                match pipedrive.record(kind, item, &book) {
                    Ok(record) => found.put(record, is_deleted(item)),
                    Err(error) if may_carry(item, sought) => return Err(error),
                    // Somebody else's: it keeps nobody's create waiting.
                    Err(error) => warn!(%kind, %error, "a row of a list is left out"),
                }
            }
            cursor = next;
            if cursor.is_none() {
                break;
            }
        }
        if cursor.is_none() {
            continue;
        }
        for one in sought {
            if found.has(&one.marker) {
                continue;
            }
            for item in searched(pipedrive, call, kind, "custom_fields", &one.marker).await? {
                found.put(pipedrive.record(kind, &item, &book)?, is_deleted(&item));
            }
        }
    }
    Ok(sought.iter().map(|one| found.0.get(&one.marker).map(|(.., record)| record.clone())).collect())
}

/// Whether an object that cannot be read may be one of those that are sought.
fn may_carry(item: &Item, sought: &[Sought]) -> bool {
    let fields = item.raw("custom_fields").unwrap_or_default();
    sought.iter().any(|one| fields.contains(&one.marker))
}

/// Records by the marker they carry: of several the lowest id, and one that is not deleted before one that is.
#[derive(Default)]
struct Marked(BTreeMap<String, (bool, u64, Record)>);

impl Marked {
    fn has(&self, marker: &str) -> bool {
        self.0.contains_key(marker)
    }

    fn put(&mut self, record: Record, is_deleted: bool) {
        let Some(marker) = record.marker.clone() else { return };
        let id: u64 = record.id.as_str().parse().unwrap_or(u64::MAX);
        let known = self.0.get(&marker).map(|(deleted, id, _)| (*deleted, *id));
        if known.is_none_or(|known| (is_deleted, id) < known) {
            self.0.insert(marker, (is_deleted, id, record));
        }
    }
}

/// What of a page that goes from new to old was made since, and where the next page begins, if there is more of it.
pub fn made_since(since: DateTime<Utc>, (mut items, next): (Vec<Item>, Option<String>)) -> (Vec<Item>, Option<String>) {
    let is_recent = |item: &Item| item.time("add_time").is_none_or(|at| at >= since);
    let goes_on = items.last().is_some_and(is_recent);
    items.retain(is_recent);
    (items, next.filter(|_| goes_on))
}

/// What was stated for each property, newest first: from a deal's changelog. Persons have none.
pub async fn history(
    pipedrive: &Pipedrive,
    call: Call,
    kind: Kind,
    ids: &[ExternalId],
    properties: &[String],
) -> Result<Vec<Option<History>>, ConnectorError> {
    if kind != Kind::Deal {
        return Ok(vec![Some(History::new()); ids.len()]);
    }
    let book = pipedrive.book(call, kind).await?;
    let mut histories = Vec::with_capacity(ids.len());
    for id in ids {
        // In which order they come is not documented: all are read.
        let ask = Ask::get(Api::V1, format!("deals/{id}/changelog"), 20, call.lane);
        histories.push(match pipedrive.client.all::<Item>(ask).await {
            Ok(entries) => {
                if properties.iter().any(|name| name == organizations::NAME) {
                    pipedrive.learn_names(call, logged_organizations(&entries)).await?;
                }
                Some(statements(pipedrive, &entries, properties, &book))
            }
            Err(ConnectorError::Gone) => None,
            Err(error) => return Err(error),
        });
    }
    Ok(histories)
}

/// True for what can be an id of Pipedrive's.
fn is_number(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The ids of the organizations that a changelog names.
fn logged_organizations(entries: &[Item]) -> BTreeSet<String> {
    let named = entries.iter().filter(|entry| entry.text("field_key").as_deref() == Some("org_id"));
    named.filter_map(|entry| entry.text("new_value")).filter(|id| is_number(id)).collect()
}

fn statements(pipedrive: &Pipedrive, entries: &[Item], properties: &[String], book: &Book) -> History {
    let mut history = History::new();
    for name in properties {
        let is_organization = name == organizations::NAME;
        let field = book.get(name).filter(|_| !is_organization);
        let key = match field {
            Some(field) => field.code.as_str(),
            None if is_organization => "org_id",
            None => name.as_str(),
        };
        let is_ours = |entry: &&Item| {
            let named = entry.text("field_key");
            // The first generation calls the owner the user.
            named.as_deref() == Some(key) || (key == "owner_id" && named.as_deref() == Some("user_id"))
        };
        let mut lines: Vec<&Item> = entries.iter().filter(is_ours).collect();
        // In which order they come is not documented, and within one second only their values tell: what one replaced is
        // what the one before it said.
        let follows = |earlier: &Item, later: &Item| earlier.text("new_value") == later.text("old_value");
        let oldest_first = |two: &[&Item]| follows(two[0], two[1]) && !follows(two[1], two[0]);
        if lines.windows(2).any(oldest_first) {
            lines.reverse();
        }
        let mut said: Vec<Statement> = lines
            .into_iter()
            .filter_map(|entry| {
                let text = entry.text("new_value").filter(|text| !text.is_empty());
                let value = match (&text, field) {
                    (None, _) if name == "person_id" => Value::Refs(Vec::new()),
                    (None, _) => Value::Null,
                    (Some(id), _) if is_organization && is_number(id) => pipedrive.organization_of(id),
                    (Some(text), Some(field)) => field.read_logged(text),
                    (Some(text), None) => fields::read_logged(name, text),
                };
                let source = entry.text("change_source").unwrap_or_default();
                Some(Statement { value, at: read_time(&entry.text("time")?)?, source })
            })
            .collect();
        // Stable: of one second, the order stays.
        said.sort_by_key(|statement| std::cmp::Reverse(statement.at));
        if !said.is_empty() {
            history.insert(name.clone(), said);
        }
    }
    history
}

/// The person who has this address, among its primary and further ones. Search may lag, so that nobody is found proves
/// nothing; who is found is read by id and compared.
pub async fn owner_of_email(
    pipedrive: &Pipedrive,
    call: Call,
    email: &str,
) -> Result<Option<ExternalId>, ConnectorError> {
    let email = email.trim().to_lowercase();
    let persons = match searched(pipedrive, call, Kind::Contact, "email", &email).await {
        Ok(persons) => persons,
        // Without the right to search, two persons of one address are what Pipedrive allows anyway.
        Err(ConnectorError::Forbidden(_) | ConnectorError::Gone | ConnectorError::Rejected { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let has = |one: &Item| one.text("value").is_some_and(|known| known.trim().to_lowercase() == email);
    let owner = persons.iter().find(|person| !is_deleted(person) && person.items("emails").iter().any(has));
    owner.map(Item::id).transpose()
}

/// The first records that a search for the whole of a text names, in order of id, as they are in the main store now.
async fn searched(
    pipedrive: &Pipedrive,
    call: Call,
    kind: Kind,
    fields: &'static str,
    text: &str,
) -> Result<Vec<Item>, ConnectorError> {
    let ask = Ask::get(Api::V2, format!("{}/search", plural(kind)), 20, call.lane)
        .query("term", text)
        .query("fields", fields)
        .query("exact_match", "true");
    let hits: Item = pipedrive.client.data(ask).await?;
    let mut ids: Vec<u64> = Vec::new();
    ids.extend(hits.items("items").iter().filter_map(|hit| hit.item("item").text("id")?.parse::<u64>().ok()));
    ids.sort_unstable();
    let mut items = Vec::new();
    for id in ids.into_iter().take(SINGLES) {
        let ask = Ask::get(Api::V2, format!("{}/{id}", plural(kind)), 1, call.lane);
        match pipedrive.client.data::<Item>(ask).await {
            Ok(item) => items.push(item),
            Err(ConnectorError::Gone | ConnectorError::Forbidden(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(items)
}
