//! Lists: filters, order, and cursors that go on after the last row however many were made meanwhile.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};
use tandem_contract::Kind;
use tandem_sandbox::Query;

use super::world::{Object, Refusal, World};
use crate::item::read_time;

/// Most ids of one list.
const IDS: usize = 100;
/// Most rows of a page.
const MOST: usize = 500;

/// The last row of a page.
#[derive(Debug, Deserialize, Serialize)]
struct After {
    key: i64,
    id: u64,
    /// What was asked: a cursor is of no use for another list.
    of: String,
}

/// A page, and the cursor of the next one.
pub type Page = (Vec<Json>, Option<String>);

#[derive(Clone, Copy)]
enum Order {
    Id,
    Added,
    Updated,
}

impl Order {
    fn key(self, object: &Object) -> i64 {
        match self {
            Self::Id => 0,
            Self::Added => object.created.timestamp(),
            Self::Updated => object.updated.map_or(0, |at| at.timestamp()),
        }
    }
}

fn moment(query: &Query, name: &str) -> Result<Option<DateTime<Utc>>, Refusal> {
    let Some(text) = query.text(name) else { return Ok(None) };
    let at = DateTime::parse_from_rfc3339(&text).ok().and_then(|_| read_time(&text));
    at.map(Some).ok_or_else(|| Refusal::invalid(name, "Expected a time as in RFC 3339"))
}

impl World {
    /// A page of the records of a kind; `archived` asks for that list of deals.
    pub(super) fn list(&self, kind: Kind, query: &Query, archived: bool) -> Result<Page, Refusal> {
        let limit = query.number("limit").unwrap_or(100);
        if limit == 0 || (limit > MOST && self.settings.long_page_refused) {
            return Err(Refusal::invalid("limit", "Expected a number from 1 to 500"));
        }
        let limit = limit.min(MOST).min(self.settings.page_rows.max(1));
        let ids: Vec<u64> = query.list("ids").iter().filter_map(|id| id.parse().ok()).collect();
        if ids.len() > IDS {
            return Err(Refusal::invalid("ids", "Too many ids"));
        }
        let (since, until) = (moment(query, "updated_since")?, moment(query, "updated_until")?);
        let order = match query.text("sort_by").as_deref() {
            None | Some("id") => Order::Id,
            Some("add_time") => Order::Added,
            Some("update_time") => Order::Updated,
            Some(_) => return Err(Refusal::invalid("sort_by", "Expected id, add_time or update_time")),
        };
        let descending = query.text("sort_direction").as_deref() == Some("desc");
        let statuses = query.list("status");
        let asked = |name: &str| query.text(name).and_then(|id| id.parse::<u64>().ok());
        let filters: Vec<(&str, u64)> = ["owner_id", "person_id", "org_id", "pipeline_id", "stage_id"]
            .into_iter()
            .filter_map(|name| Some((name, asked(name)?)))
            .collect();
        let admits = |object: &Object| {
            let text = |name: &str| object.values.get(name).and_then(Json::as_str);
            let of_status = match (object.deleted.is_some(), kind) {
                (true, Kind::Deal) => statuses.iter().any(|status| status == "deleted"),
                // Deleted persons and organizations are in no list.
                (true, _) => false,
                (false, _) => {
                    statuses.is_empty() || statuses.iter().any(|status| Some(status.as_str()) == text("status"))
                }
            };
            let is_archived = object.values.get("is_archived").and_then(Json::as_bool).unwrap_or(false);
            let recent = match object.updated {
                Some(at) => since.is_none_or(|since| at >= since) && until.is_none_or(|until| at < until),
                None => {
                    (since.is_none() && until.is_none())
                        || self.settings.updated_since_finds_fresh
                            && since.is_none_or(|since| object.created >= since)
                            && until.is_none_or(|until| object.created < until)
                }
            };
            of_status
                && is_archived == archived
                && recent
                && (ids.is_empty() || ids.contains(&object.id))
                && filters.iter().all(|(name, id)| object.values.get(*name).and_then(Json::as_u64) == Some(*id))
        };
        let mut rows: Vec<(i64, u64)> =
            self.all(kind).filter(|object| admits(object)).map(|object| (order.key(object), object.id)).collect();
        rows.sort_unstable();
        if descending {
            rows.reverse();
        }
        let of = format!("{kind}{archived}{}", query.without("cursor"));
        if let Some(cursor) = query.text("cursor") {
            let after =
                URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|json| serde_json::from_slice::<After>(&json).ok());
            let after =
                after.filter(|after| after.of == of).ok_or_else(|| Refusal::invalid("cursor", "Invalid cursor"))?;
            let last = (after.key, after.id);
            rows.retain(|row| if descending { *row < last } else { *row > last });
        }
        let more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| more).map(|(key, id)| {
            let after = After { key: *key, id: *id, of };
            URL_SAFE_NO_PAD.encode(serde_json::to_vec(&after).unwrap_or_default())
        });
        Ok((rows.into_iter().map(|(_, id)| self.show(kind, id)).collect(), next))
    }

    /// The records of a kind that hold the whole of a text, in an e-mail address or in a custom field, as a search tells
    /// them.
    pub(super) fn search(&self, kind: Kind, query: &Query) -> Result<Json, Refusal> {
        let term = query.text("term").filter(|term| term.chars().count() > 1);
        let term = term.ok_or_else(|| Refusal::invalid("term", "Expected two characters or more"))?;
        let fields = query.list("fields");
        let within = |name: &str| fields.is_empty() || fields.iter().any(|field| field == name);
        let is_it = |text: &str| text.trim().eq_ignore_ascii_case(term.trim());
        let hits = self.all(kind).filter(|object| object.deleted.is_none()).filter_map(|object| {
            let emails: Vec<&str> = object
                .values
                .get("emails")
                .and_then(Json::as_array)
                .into_iter()
                .flatten()
                .filter_map(|one| one["value"].as_str())
                .collect();
            let custom: Vec<&str> = object.custom.values().filter_map(Json::as_str).collect();
            let has = (within("email") && emails.iter().any(|text| is_it(text)))
                || (within("custom_fields") && custom.iter().any(|text| is_it(text)));
            has.then(|| match kind {
                Kind::Contact => json!({ "result_score": 1.0, "item": {
                    "id": object.id, "type": "person", "name": object.values.get("name"), "emails": emails,
                    "custom_fields": custom,
                } }),
                _ => json!({ "result_score": 1.0, "item": {
                    "id": object.id, "type": "deal", "title": object.values.get("title"), "custom_fields": custom,
                } }),
            })
        });
        Ok(json!({ "items": hits.collect::<Vec<_>>() }))
    }

    /// A page of something that is short.
    pub(super) fn page_of(&self, all: Vec<Json>, query: &Query) -> Result<Page, Refusal> {
        let start: usize = match query.text("cursor") {
            None => 0,
            Some(text) => text.parse().map_err(|_| Refusal::invalid("cursor", "Invalid cursor"))?,
        };
        let limit = query.number("limit").unwrap_or(100).clamp(1, MOST).min(self.settings.page_rows.max(1));
        let next = (start + limit < all.len()).then(|| (start + limit).to_string());
        Ok((all.into_iter().skip(start).take(limit).collect(), next))
    }
}
