//! What changed, and how far we have read.
//!
//! Three feeds a kind. `changes` starts with a full listing in order of id (the backfill), then polls the search in
//! fixed time windows, sorted by id, each overlapping the one before: the search index lags, and a window sorted by id
//! passes both the 10,000-row cap and any number of rows with one time stamp. `late` goes over the same windows an
//! hour behind, for index outages. `archived` walks the recycle bin, which no search shows.
//!
//! Source: HubSpot developer documentation, "Search the CRM".

use std::time::Duration;

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tandem_contract::{
    Call, ConnectorError, Cursor, Kind, Page, Seen, Stream,
    planted::{self, Bug},
};

use crate::{
    HubSpot,
    client::{Ask, SEARCH},
    paths::modified_property,
    records,
    wire::{List, Object},
};

/// How far two windows overlap: search rows show up seconds, sometimes a minute, after the write.
const OVERLAP: TimeDelta = TimeDelta::seconds(120);
/// The same where no answer says what time it is at HubSpot: its clock and ours may be minutes apart.
const WITHOUT_CLOCK: TimeDelta = TimeDelta::minutes(15);
/// How far the second pass stays behind.
const LATE: TimeDelta = TimeDelta::hours(1);
/// Rows of a search page.
const SEARCH_PAGE: usize = 200;

/// Where a stream stands.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
enum Place {
    /// Listing everything; changes since `since` are still to be looked for.
    Listing { since: DateTime<Utc>, after: Option<String> },
    /// In a window, after the given id.
    Window { since: DateTime<Utc>, until: DateTime<Utc>, after: String },
    /// Between two windows.
    Waiting { since: DateTime<Utc> },
    /// In the recycle bin.
    Bin { after: String },
}

impl Place {
    /// False for moments at which there was no HubSpot, or is none of us any more.
    fn is_possible(&self) -> bool {
        let times = match self {
            Self::Listing { since, .. } | Self::Waiting { since } => [since, since],
            Self::Window { since, until, .. } => [since, until],
            Self::Bin { .. } => return true,
        };
        times.iter().all(|at| (2000..2200).contains(&at.year()))
    }
}

/// The feeds of these kinds.
pub fn streams(kinds: &[Kind], period: Duration) -> Vec<Stream> {
    let feed =
        |kind: Kind, name: &str, period, backfills| Stream { name: format!("{kind}.{name}"), kind, period, backfills };
    kinds
        .iter()
        .flat_map(|kind| {
            [
                feed(*kind, "changes", period, true),
                feed(*kind, "archived", (period * 10).max(Duration::from_secs(300)), false),
                feed(*kind, "late", Duration::from_secs(3_600), false),
            ]
        })
        .collect()
}

/// The next page of a stream.
pub async fn next_page(
    hubspot: &HubSpot,
    call: Call,
    stream: &Stream,
    cursor: &Cursor,
) -> Result<Page, ConnectorError> {
    let mut now = hubspot.client.vendor_now();
    if planted::has(Bug::OurClockInCursor) {
        now -= hubspot.client.offset();
    }
    let place: Option<Place> = if cursor.0.is_empty() {
        None
    } else {
        // A cursor that cannot be read is treated as lost: reading again is safe, skipping is not.
        serde_json::from_str(&cursor.0).ok().filter(Place::is_possible)
    };
    match stream.name.rsplit('.').next() {
        Some("archived") => archived_page(hubspot, call, stream.kind, place).await,
        Some("late") => {
            let until = now - LATE;
            window_page(hubspot, call, stream.kind, place.unwrap_or(Place::Waiting { since: until - LATE }), until)
                .await
        }
        _ => match place.unwrap_or(Place::Listing { since: now - WITHOUT_CLOCK, after: None }) {
            Place::Listing { since, after } => listing_page(hubspot, call, stream.kind, since, after).await,
            place => window_page(hubspot, call, stream.kind, place, now).await,
        },
    }
}

fn cursor(place: &Place) -> Cursor {
    Cursor(serde_json::to_string(place).unwrap_or_default())
}

async fn listing_page(
    hubspot: &HubSpot,
    call: Call,
    kind: Kind,
    since: DateTime<Utc>,
    after: Option<String>,
) -> Result<Page, ConnectorError> {
    let (seen, next) = records::list(hubspot, call, kind, after.as_deref()).await?;
    let more = next.is_some();
    let place = match next {
        Some(after) => Place::Listing { since, after: Some(after) },
        None => Place::Waiting { since },
    };
    Ok(Page { seen, next: cursor(&place), more, total: None })
}

/// True while a stream lists everything for the first time.
pub fn is_listing(stream: &Stream, cursor: &Cursor) -> bool {
    stream.backfills && matches!(serde_json::from_str(&cursor.0).ok(), None | Some(Place::Listing { .. }))
}

async fn window_page(
    hubspot: &HubSpot,
    call: Call,
    kind: Kind,
    place: Place,
    until: DateTime<Utc>,
) -> Result<Page, ConnectorError> {
    let (since, until, after) = match place {
        Place::Window { since, until, after } => (since, until, after),
        Place::Waiting { since } | Place::Listing { since, .. } => (since, until, String::from("0")),
        Place::Bin { .. } => (until - OVERLAP, until, String::from("0")),
    };
    let modified = modified_property(kind);
    let path = format!("{}/search", hubspot.options.api_version.objects(kind));
    let body = json!({
        "filterGroups": [{ "filters": [
            { "propertyName": modified, "operator": "GTE", "value": since.timestamp_millis().to_string() },
            { "propertyName": modified, "operator": "LTE", "value": until.timestamp_millis().to_string() },
            { "propertyName": "hs_object_id", "operator": "GT", "value": after },
        ] }],
        "sorts": [{ "propertyName": "hs_object_id", "direction": "ASCENDING" }],
        "properties": [modified],
        "limit": SEARCH_PAGE,
        "after": "0",
    });
    let page: List<Object> = hubspot.client.ask(Ask::post(&path, body, call.lane).bucket(SEARCH)).await?.json()?;
    let (more, total) = (page.results.len() >= SEARCH_PAGE || page.after().is_some(), page.total);
    let mut seen = Vec::with_capacity(page.results.len());
    let mut last = after.clone();
    for object in &page.results {
        let id = records::external_id(object.id.as_deref().unwrap_or_default())?;
        if (id.as_str().len(), id.as_str()) > (last.len(), last.as_str()) {
            last = id.to_string();
        }
        seen.push(Seen::Hint { id, version: records::version(object, kind) });
    }
    // A page that names no last id cannot be gone on from.
    let more = more && last != after;
    let place = if more {
        Place::Window { since, until, after: last }
    } else {
        let overlap = match hubspot.client.knows_the_time() {
            _ if planted::has(Bug::NoOverlap) => TimeDelta::zero(),
            true => OVERLAP,
            false => WITHOUT_CLOCK,
        };
        Place::Waiting { since: (until - overlap).max(since) }
    };
    Ok(Page { seen, next: cursor(&place), more, total })
}

async fn archived_page(
    hubspot: &HubSpot,
    call: Call,
    kind: Kind,
    place: Option<Place>,
) -> Result<Page, ConnectorError> {
    let after = match place {
        Some(Place::Bin { after }) => Some(after),
        _ => None,
    };
    let (ids, next) = records::list_archived(hubspot, call, kind, after.as_deref()).await?;
    let more = next.is_some();
    let next = next.map_or_else(Cursor::start, |after| cursor(&Place::Bin { after }));
    Ok(Page { seen: ids.into_iter().map(Seen::Archived).collect(), next, more, total: None })
}
