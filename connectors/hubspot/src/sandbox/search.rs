//! Search over an index that lags behind the records.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};
use serde_json::{Value as Json, json};
use tandem_contract::Kind;

use super::{
    objects::{names, wire},
    world::{Object, Properties, Refusal, World},
};
use crate::values;

type Row = (Arc<Properties>, DateTime<Utc>, DateTime<Utc>);

/// What search sees, and what it is yet to see.
#[derive(Clone, Default)]
pub struct Index {
    rows: BTreeMap<Kind, BTreeMap<u64, Row>>,
    pending: BTreeMap<(DateTime<Utc>, u64), (Kind, u64, Option<Row>)>,
    sequence: u64,
    /// The latest write of each record that search has seen, removals included.
    shown: BTreeMap<(Kind, u64), u64>,
}

impl Index {
    pub fn put(&mut self, visible: DateTime<Utc>, kind: Kind, id: u64, row: Option<Row>) {
        self.sequence += 1;
        self.pending.insert((visible, self.sequence), (kind, id, row));
    }

    /// Shows what has become visible. Rows may overtake one another, as the real index lets them.
    pub fn settle(&mut self, now: DateTime<Utc>) {
        while let Some(entry) = self.pending.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let sequence = entry.key().1;
            let (kind, id, row) = entry.remove();
            let shown = self.shown.entry((kind, id)).or_default();
            // An older state that comes late replaces neither a newer one nor a removal.
            if *shown > sequence {
                continue;
            }
            *shown = sequence;
            let rows = self.rows.entry(kind).or_default();
            match row {
                Some(row) => drop(rows.insert(id, row)),
                None => drop(rows.remove(&id)),
            }
        }
    }
}

impl World {
    pub(super) fn search(&mut self, kind: Kind, body: &Json) -> Result<Json, Refusal> {
        self.settle();
        let query = super::objects::text_of(body.get("query")).to_lowercase();
        let groups = body.get("filterGroups").and_then(Json::as_array).cloned().unwrap_or_default();
        let filters: Vec<Vec<Filter>> = groups
            .iter()
            .map(|group| {
                group.get("filters").and_then(Json::as_array).into_iter().flatten().map(Filter::parse).collect()
            })
            .collect::<Result<_, _>>()?;
        let total: usize = filters.iter().map(Vec::len).sum();
        if filters.len() > 5 || filters.iter().any(|group| group.len() > 6) || total > 18 {
            return Err(Refusal::new(400, "VALIDATION_ERROR", "too many filters or filter groups"));
        }
        let limit = number(body.get("limit")).unwrap_or(10);
        if limit > 200 {
            return Err(Refusal::new(400, "VALIDATION_ERROR", "limit must be at most 200"));
        }
        let limit = limit.min(self.settings.page_rows);
        let after = number(body.get("after")).unwrap_or(0);
        if after + limit > self.settings.search_cap {
            return Err(Refusal::new(400, "VALIDATION_ERROR", "paging past 10,000 results is not supported"));
        }
        let empty = BTreeMap::new();
        let rows = self.index.rows.get(&kind).unwrap_or(&empty);
        let mut hits: Vec<(&u64, &Row)> = rows
            .iter()
            .filter(|(_, (properties, ..))| {
                (filters.is_empty() || filters.iter().any(|group| group.iter().all(|f| f.holds(properties))))
                    && (query.is_empty() || says(kind, properties, &query))
            })
            .collect();
        sort(&mut hits, body.get("sorts"));
        let asked = names(body.get("properties"));
        let results: Vec<Json> = hits
            .iter()
            .skip(after)
            .take(limit)
            .map(|(id, (properties, created, updated))| {
                let object = Object {
                    id: **id,
                    properties: properties.clone(),
                    history: BTreeMap::new(),
                    created: *created,
                    updated: *updated,
                    archived: None,
                };
                wire(self, kind, &object, &asked, &[])
            })
            .collect();
        let mut answer = json!({ "total": hits.len(), "results": results });
        if after + limit < hits.len() {
            answer["paging"] = json!({ "next": { "after": (after + limit).to_string() } });
        }
        Ok(answer)
    }
}

/// Whether one of the properties that a free text is looked for in holds it. Source: "Search the CRM", table of defaults.
fn says(kind: Kind, properties: &Properties, query: &str) -> bool {
    let names: &[&str] = match kind {
        Kind::Contact => &["firstname", "lastname", "email", "phone", "company"],
        Kind::Company => &["name", "domain", "phone"],
        _ => &["dealname", "description", "dealtype"],
    };
    names.iter().filter_map(|name| properties.get(*name)).any(|text| text.to_lowercase().contains(query))
}

fn number(value: Option<&Json>) -> Option<usize> {
    match value? {
        Json::Number(number) => usize::try_from(number.as_u64()?).ok(),
        Json::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn sort(hits: &mut [(&u64, &Row)], sorts: Option<&Json>) {
    let Some(rule) = sorts.and_then(|list| list.get(0)) else {
        hits.sort_by_key(|(id, (_, created, _))| (*created, **id));
        return;
    };
    let (name, descending) = match rule {
        Json::String(name) => (name.trim_start_matches('-').to_owned(), name.starts_with('-')),
        rule => (
            rule.get("propertyName").and_then(Json::as_str).unwrap_or("createdate").to_owned(),
            rule.get("direction").and_then(Json::as_str) == Some("DESCENDING"),
        ),
    };
    hits.sort_by(|(a_id, a), (b_id, b)| {
        let key = |id: &u64, row: &Row| comparable(row.0.get(&name).map_or("", String::as_str), *id);
        let order = key(a_id, a).partial_cmp(&key(b_id, b)).unwrap_or(std::cmp::Ordering::Equal);
        if descending { order.reverse() } else { order }
    });
}

fn comparable(text: &str, id: u64) -> (f64, String, u64) {
    (magnitude(text).unwrap_or(f64::MAX), text.to_lowercase(), id)
}

/// A number, or an instant as epoch milliseconds.
fn magnitude(text: &str) -> Option<f64> {
    text.parse::<f64>().ok().or_else(|| values::read_time(text).map(|at| at.timestamp_millis() as f64))
}

struct Filter {
    property: String,
    operator: String,
    value: String,
    high: String,
    values: Vec<String>,
}

impl Filter {
    fn parse(json: &Json) -> Result<Self, Refusal> {
        let text = |key: &str| match json.get(key) {
            Some(Json::String(text)) => text.clone(),
            Some(Json::Null) | None => String::new(),
            Some(other) => other.to_string(),
        };
        let operator = text("operator");
        let known = [
            "EQ",
            "NEQ",
            "LT",
            "LTE",
            "GT",
            "GTE",
            "BETWEEN",
            "IN",
            "NOT_IN",
            "HAS_PROPERTY",
            "NOT_HAS_PROPERTY",
            "CONTAINS_TOKEN",
            "NOT_CONTAINS_TOKEN",
        ];
        if !known.contains(&operator.as_str()) {
            return Err(Refusal::new(400, "VALIDATION_ERROR", "unknown operator"));
        }
        Ok(Self {
            property: text("propertyName"),
            operator,
            value: text("value"),
            high: text("highValue"),
            values: names(json.get("values")),
        })
    }

    fn holds(&self, properties: &Properties) -> bool {
        let have = properties.get(&self.property);
        let same = |a: &str, b: &str| match (magnitude(a), magnitude(b)) {
            (Some(a), Some(b)) => a == b,
            _ => a.eq_ignore_ascii_case(b),
        };
        let against = |other: &str| magnitude(have?)?.partial_cmp(&magnitude(other)?);
        match self.operator.as_str() {
            "EQ" => have.is_some_and(|have| same(have, &self.value)),
            "NEQ" => have.is_some_and(|have| !same(have, &self.value)),
            "LT" => against(&self.value).is_some_and(std::cmp::Ordering::is_lt),
            "LTE" => against(&self.value).is_some_and(std::cmp::Ordering::is_le),
            "GT" => against(&self.value).is_some_and(std::cmp::Ordering::is_gt),
            "GTE" => against(&self.value).is_some_and(std::cmp::Ordering::is_ge),
            "BETWEEN" => {
                against(&self.value).is_some_and(std::cmp::Ordering::is_ge)
                    && against(&self.high).is_some_and(std::cmp::Ordering::is_le)
            }
            "IN" => have.is_some_and(|have| self.values.iter().any(|value| *value == have.to_lowercase())),
            "NOT_IN" => have.is_none_or(|have| !self.values.iter().any(|value| *value == have.to_lowercase())),
            "HAS_PROPERTY" => have.is_some(),
            "NOT_HAS_PROPERTY" => have.is_none(),
            "CONTAINS_TOKEN" => have.is_some_and(|have| tokens(have).any(|token| token == self.value.to_lowercase())),
            _ => have.is_none_or(|have| !tokens(have).any(|token| token == self.value.to_lowercase())),
        }
    }
}

fn tokens(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|token| !token.is_empty()).map(str::to_lowercase)
}
