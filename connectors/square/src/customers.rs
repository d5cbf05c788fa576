//! Customers: read in bulk by id, listed, searched by time and by what is unique to one.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use tandem_contract::{
    Call, ConnectorError, Cursor, ExternalId, Fetched, Kind, Page, Record, Seen, Sought, Value, Version,
};

use tracing::warn;

use crate::{
    Square,
    client::{Ask, Fault, complete, or_none},
};

/// Rows of a page, and ids of a bulk, at most. Source: `ListCustomers`, `BulkRetrieveCustomers`.
pub const PAGE: usize = 100;

/// A customer, as loosely as it is promised.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct Customer(pub Map<String, Json>);

impl Customer {
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Json::as_str).filter(|text| !text.is_empty())
    }

    fn time(&self, name: &str) -> Option<DateTime<Utc>> {
        DateTime::parse_from_rfc3339(self.text(name)?).ok().map(|at| at.to_utc())
    }

    pub fn id(&self) -> Result<ExternalId, ConnectorError> {
        let id = self.text("id").and_then(|id| ExternalId::new(id).ok());
        id.ok_or_else(|| ConnectorError::Malformed { path: "customer.id".into() })
    }

    pub fn version(&self) -> Version {
        let token = self.0.get("version").and_then(Json::as_i64).map(|version| version.to_string());
        Version { token, updated_at: self.time("updated_at") }
    }

    /// A property; what is empty is left out of answers.
    pub fn property(&self, name: &str) -> Value {
        match self.0.get(name) {
            None | Some(Json::Null) => Value::Null,
            Some(Json::String(text)) if text.is_empty() => Value::Null,
            Some(Json::String(text)) => Value::text(text),
            Some(Json::Bool(flag)) => Value::Flag(*flag),
            Some(Json::Number(number)) => Value::text(&number.to_string()),
            // What has parts is not ours to map.
            Some(Json::Array(_) | Json::Object(_)) => Value::Absent,
        }
    }
}

/// One answer for one customer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct One {
    pub customer: Option<Customer>,
    pub errors: Vec<Fault>,
}

/// The answer of a bulk: by id, or by the key of a create.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Bulk {
    pub responses: BTreeMap<String, One>,
    /// What kept the bulk as a whole from being carried out.
    #[serde(deserialize_with = "or_none")]
    pub errors: Vec<Fault>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Rows {
    #[serde(deserialize_with = "or_none")]
    customers: Vec<Json>,
    cursor: Option<String>,
    #[serde(deserialize_with = "or_none")]
    errors: Vec<Fault>,
}

impl Rows {
    fn customers(&mut self) -> Vec<Customer> {
        let object = |row: Json| match row {
            Json::Object(members) => Some(Customer(members)),
            _ => None,
        };
        std::mem::take(&mut self.customers).into_iter().filter_map(object).collect()
    }
}

impl Square {
    pub(crate) fn record(&self, customer: &Customer) -> Result<Record, ConnectorError> {
        let selected = self.options.select.get(&Kind::Contact);
        let properties =
            selected.into_iter().flatten().map(|(name, _)| (name.clone(), customer.property(name))).collect();
        Ok(Record {
            id: customer.id()?,
            version: customer.version(),
            created_at: customer.time("created_at"),
            properties,
            marker: customer.text("reference_id").map(str::to_owned),
            absorbed: Vec::new(),
        })
    }

    /// What a page says; a row without an id cannot be read by itself either, and does not keep the others from it.
    fn seen(&self, rows: &[Customer], whole: bool) -> Vec<Seen> {
        let seen = |customer: &Customer| match whole {
            true => self.record(customer).map(Seen::Record),
            false => customer.id().map(|id| Seen::Hint { id, version: customer.version() }),
        };
        let left_out = |error: &ConnectorError| warn!(%error, "a row of a list is left out");
        rows.iter().filter_map(|customer| seen(customer).inspect_err(left_out).ok()).collect()
    }
}

/// What one bulk says of each of these: the customer, nothing where there is none, or why that cannot be told.
async fn bulk(
    square: &Square,
    call: Call,
    ids: &[ExternalId],
) -> Result<Vec<(String, Result<Option<Customer>, ConnectorError>)>, ConnectorError> {
    let body = json!({ "customer_ids": ids.iter().map(ExternalId::as_str).collect::<Vec<_>>() });
    let answer: Bulk = square.client.ask(&Ask::search("customers/bulk-retrieve", call.lane, body)).await?;
    complete(&answer.errors)?;
    let told = |id: &ExternalId| match answer.responses.get(id.as_str()) {
        Some(One { customer: Some(customer), .. }) => Ok(Some(customer.clone())),
        Some(One { customer: None, errors }) => match complete(errors) {
            Err(ConnectorError::Gone) => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Err(ConnectorError::Malformed { path: "responses".into() }),
        },
        // Of one that is left out nothing is known: it may be there.
        None => Err(ConnectorError::Malformed { path: "responses".into() }),
    };
    Ok(ids.iter().map(|id| (id.to_string(), told(id))).collect())
}

/// Customers by id as they are now; those that are not there are left out.
async fn by_id(square: &Square, call: Call, ids: &[ExternalId]) -> Result<BTreeMap<String, Customer>, ConnectorError> {
    let mut found = BTreeMap::new();
    for ids in ids.chunks(PAGE) {
        for (id, told) in bulk(square, call, ids).await? {
            found.extend(told?.map(|customer| (id, customer)));
        }
    }
    Ok(found)
}

/// The same as far as they can be read: whoever cannot be is not known, and keeps nobody's sale from being read. A bulk
/// that is refused as a whole is halved until the culprit stands alone.
pub async fn readable(
    square: &Square,
    call: Call,
    ids: &[ExternalId],
) -> Result<BTreeMap<String, Customer>, ConnectorError> {
    let mut found = BTreeMap::new();
    let mut waiting: Vec<&[ExternalId]> = ids.chunks(PAGE).collect();
    while let Some(ids) = waiting.pop() {
        match bulk(square, call, ids).await {
            Ok(all) => {
                for (id, told) in all {
                    match told {
                        Ok(customer) => found.extend(customer.map(|customer| (id, customer))),
                        Err(error) => warn!(%error, "a customer of a sale cannot be read"),
                    }
                }
            }
            Err(error) if error.may_be_of_one() => match ids.split_at(ids.len() / 2) {
                ([], _) => warn!(%error, "a customer of a sale cannot be read"),
                (left, right) => waiting.extend([left, right]),
            },
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Records by id, in the order asked. Square forgets deleted customers: they are gone.
pub async fn fetch(square: &Square, call: Call, ids: &[ExternalId]) -> Result<Vec<Fetched>, ConnectorError> {
    let found = by_id(square, call, ids).await?;
    ids.iter()
        .map(|id| match found.get(id.as_str()) {
            // A customer that answers to another id than its own was merged into that one.
            Some(customer) => square.record(customer).map(|record| match record.id == *id {
                true => Fetched::Found(record),
                false => Fetched::MergedInto(record),
            }),
            None => Ok(Fetched::Gone),
        })
        .collect()
}

async fn search(
    square: &Square,
    call: Call,
    filter: Json,
    after: Option<&str>,
) -> Result<(Vec<Customer>, Option<String>), ConnectorError> {
    let mut body = json!({
        "limit": PAGE, "query": { "filter": filter, "sort": { "field": "CREATED_AT", "order": "ASC" } },
    });
    if let Some(after) = after {
        body["cursor"] = after.into();
    }
    let mut rows: Rows = square.client.ask(&Ask::search("customers/search", call.lane, body)).await?;
    complete(&rows.errors)?;
    Ok((rows.customers(), rows.cursor))
}

/// The customers with exactly this text, oldest first. The search is loose about case and lags behind writes.
pub async fn with(square: &Square, call: Call, field: &str, text: &str) -> Result<Vec<Customer>, ConnectorError> {
    let (mut rows, _) = search(square, call, json!({ field: { "exact": text } }), None).await?;
    let alike = |found: &str| match field {
        "email_address" => found.trim().eq_ignore_ascii_case(text.trim()),
        _ => found == text,
    };
    rows.retain(|customer| customer.text(field).is_some_and(alike));
    Ok(rows)
}

/// The records that carry these markers. A search lags: what was made a moment ago is not found, and made again under the
/// same key it is the same.
pub async fn find(square: &Square, call: Call, sought: &[Sought]) -> Result<Vec<Option<Record>>, ConnectorError> {
    let mut found = Vec::with_capacity(sought.len());
    for one in sought {
        let oldest = with(square, call, "reference_id", &one.marker).await?.into_iter().next();
        let id = oldest.as_ref().map(Customer::id).transpose()?;
        // As it is now, not as the search remembers it; one that was deleted since is not there.
        let now = match id {
            Some(id) => by_id(square, call, std::slice::from_ref(&id)).await?.remove(id.as_str()),
            None => None,
        };
        found.push(now.as_ref().map(|customer| square.record(customer)).transpose()?);
    }
    Ok(found)
}

/// A page of all customers, whole, in the order they were made.
pub async fn page(
    square: &Square,
    call: Call,
    after: Option<&str>,
) -> Result<(Vec<Seen>, Option<String>), ConnectorError> {
    let ask = Ask::get("customers", call.lane)
        .query("limit", PAGE.to_string())
        .query("sort_field", "CREATED_AT")
        .query("sort_order", "ASC")
        .after(after);
    let mut rows: Rows = square.client.ask(&ask).await?;
    complete(&rows.errors)?;
    Ok((square.seen(&rows.customers(), true), rows.cursor))
}

/// One page of everything, for the audit.
pub async fn list(square: &Square, call: Call, at: &Cursor) -> Result<Page, ConnectorError> {
    let after = Some(at.0.as_str()).filter(|after| !after.is_empty());
    let (seen, next) = page(square, call, after).await?;
    let next = next.filter(|next| Some(next.as_str()) != after);
    Ok(Page { seen, more: next.is_some(), next: Cursor(next.unwrap_or_default()), total: None })
}

/// A page of the customers that changed in a window, both ends in it.
pub async fn changed(
    square: &Square,
    call: Call,
    since: DateTime<Utc>,
    until: DateTime<Utc>,
    after: Option<&str>,
) -> Result<(Vec<Seen>, Option<String>), ConnectorError> {
    let range = json!({ "updated_at": { "start_at": for_query(since), "end_at": for_query(until) } });
    let (rows, next) = search(square, call, range, after).await?;
    Ok((square.seen(&rows, false), next))
}

/// A moment as Square's filters want it.
pub fn for_query(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}
