//! Lists and searches: what they show lags behind, their pages are bound to a query and a moment, their cursors end.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use super::world::{Refusal, World};

/// A page: rows, and the cursor of the next one.
pub struct Page {
    pub rows: Vec<Json>,
    pub cursor: Option<String>,
}

impl Page {
    /// As an answer; a list that is empty is left out.
    pub fn show(self, name: &str) -> Json {
        let mut shown = json!({});
        if !self.rows.is_empty() {
            shown[name] = self.rows.into();
        }
        if let Some(cursor) = self.cursor {
            shown["cursor"] = cursor.into();
        }
        shown
    }
}

/// A range of time, both ends in it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Range {
    pub begin: Option<DateTime<Utc>>,
    pub end: Option<DateTime<Utc>>,
}

impl Range {
    pub fn holds(&self, at: DateTime<Utc>) -> bool {
        self.begin.is_none_or(|begin| at >= begin) && self.end.is_none_or(|end| at <= end)
    }

    /// Of two texts.
    ///
    /// # Errors
    /// One is no time.
    pub fn parse(begin: Option<&str>, end: Option<&str>) -> Result<Self, Refusal> {
        let read = |text: Option<&str>| match text {
            None | Some("") => Ok(None),
            Some(text) => DateTime::parse_from_rfc3339(text)
                .map(|at| Some(at.to_utc()))
                .map_err(|_| Refusal::invalid("INVALID_TIME", "begin_time", "Expected an RFC 3339 timestamp.")),
        };
        Ok(Self { begin: read(begin)?, end: read(end)? })
    }
}

/// Where the next page goes on.
struct At {
    query: String,
    issued: DateTime<Utc>,
    asked: DateTime<Utc>,
    after: (String, String),
}

impl At {
    fn write(&self) -> String {
        let text = json!([
            self.query,
            self.issued.timestamp_millis(),
            self.asked.timestamp_millis(),
            self.after.0,
            self.after.1
        ]);
        URL_SAFE_NO_PAD.encode(text.to_string())
    }

    fn read(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let list: Json = serde_json::from_slice(&bytes).ok()?;
        let time = |place: usize| DateTime::from_timestamp_millis(list[place].as_i64()?);
        let word = |place: usize| Some(list[place].as_str()?.to_owned());
        Some(Self { query: word(0)?, issued: time(1)?, asked: time(2)?, after: (word(3)?, word(4)?) })
    }
}

impl World {
    /// A page of rows, each with its sort key and its id, in this order.
    ///
    /// `query` is everything that was asked but the cursor. `keep` sees the moment of the first page, which is the end of
    /// what is listed.
    pub(super) fn page(
        &self,
        query: &str,
        cursor: Option<&str>,
        limit: usize,
        newest_first: bool,
        all: impl FnOnce(DateTime<Utc>) -> Vec<(String, String, Json)>,
    ) -> Result<Page, Refusal> {
        let query: String = Sha256::digest(query.as_bytes()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let at = match cursor.filter(|cursor| !cursor.is_empty()) {
            None => None,
            Some(cursor) => {
                let life = TimeDelta::seconds(i64::try_from(self.settings.cursor_seconds).unwrap_or(300));
                let at = At::read(cursor).filter(|at| at.query == query && self.now - at.issued <= life);
                Some(at.ok_or_else(|| Refusal::invalid("INVALID_CURSOR", "cursor", "The cursor is not valid."))?)
            }
        };
        let asked = at.as_ref().map_or(self.now, |at| at.asked);
        let mut rows = all(asked);
        rows.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
        if newest_first {
            rows.reverse();
        }
        if let Some(at) = &at {
            rows.retain(|(key, id, _)| {
                let here = (key, id);
                let there = (&at.after.0, &at.after.1);
                if newest_first { here < there } else { here > there }
            });
        }
        let limit = limit.min(self.settings.page_rows).max(1);
        let more = rows.len() > limit;
        rows.truncate(limit);
        let cursor = rows
            .last()
            .filter(|_| more)
            .map(|(key, id, _)| At { query, issued: self.now, asked, after: (key.clone(), id.clone()) }.write());
        Ok(Page { rows: rows.into_iter().map(|(.., row)| row).collect(), cursor })
    }

    /// What lists show of a kind of thing now: id, the thing, its time of change as they know it.
    pub(super) fn shown(&self, what: &str) -> impl Iterator<Item = (&String, &Json, DateTime<Utc>)> {
        let all = self.listed.get(what).into_iter().flatten();
        all.filter_map(|(id, listed)| listed.shown.as_ref().map(|(json, updated)| (id, json, *updated)))
    }
}
