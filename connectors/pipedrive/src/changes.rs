//! What changed, and how far we have read.
//!
//! `changes` starts with a full listing in order of id (the backfill), then asks for what was updated in fixed windows of
//! time, each overlapping the one before: times have whole seconds, and several changes share one. Deleted deals come with
//! them. `shelved` does the same for archived deals, which the first list leaves out. `late` goes over the windows an hour
//! behind, and then over what was made in them: a record that was never edited may have no time of change at all.
//!
//! Source: "Pagination", and the published description of `GET /deals`.

use std::time::Duration;

use chrono::{DateTime, Datelike, SubsecRound, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use tandem_contract::{
    Call, ConnectorError, Cursor, Kind, Page, Stream,
    planted::{self, Bug},
};

use crate::{
    Pipedrive,
    item::for_query,
    records::{Listing, Shelf, made_since},
};

/// How far two windows overlap.
const OVERLAP: TimeDelta = TimeDelta::seconds(120);
/// The same where no answer says what time it is at Pipedrive: its clock and ours may be minutes apart.
const WITHOUT_CLOCK: TimeDelta = TimeDelta::minutes(15);
/// How far the second pass stays behind.
const LATE: TimeDelta = TimeDelta::hours(1);
/// Archived deals change seldom, and their list costs twice as much.
const SELDOM: u32 = 10;
/// Seconds.
const HOUR: u64 = 3_600;
const DAY: u64 = 24 * HOUR;
/// The second pass takes a quarter of what polls may cost, at most: it finds what an index was slow to tell, and may be late.
const PART_OF_LATE: u64 = 4;

/// Where a stream stands. `after` is a cursor of Pipedrive's.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
enum Place {
    /// Listing everything; changes since `since` are still to be looked for.
    Listing { since: DateTime<Utc>, after: Option<String> },
    /// In a window.
    Window { since: DateTime<Utc>, until: DateTime<Utc>, after: Option<String> },
    /// Past a window of the second pass: what was made since, from new to old.
    Made { since: DateTime<Utc>, until: DateTime<Utc>, after: Option<String> },
    /// Between two windows.
    Waiting { since: DateTime<Utc> },
}

impl Place {
    /// False for moments at which there was no Pipedrive, or is none of us any more.
    fn is_possible(&self) -> bool {
        let times = match self {
            Self::Listing { since, .. } | Self::Waiting { since } => [since, since],
            Self::Window { since, until, .. } | Self::Made { since, until, .. } => [since, until],
        };
        times.iter().all(|at| (2000..2200).contains(&at.year()))
    }
}

/// How often a kind's feeds are asked.
#[derive(Clone, Copy, Debug)]
pub struct Periods {
    /// Between two polls of what changed.
    pub changes: Duration,
    /// Between two second passes.
    pub late: Duration,
}

impl Periods {
    /// Such that the polls of these kinds cost so many tokens a day, or less: the pages that it takes to see that nothing
    /// happened. The second pass goes first, once an hour or as seldom as a part of the tokens makes it; the rest is for what
    /// changed.
    pub fn within(tokens: u64, kinds: &[Kind]) -> Self {
        let kinds_read = kinds.len() as u64;
        // A window, and what was made in it.
        let pass = 2 * 10 * kinds_read;
        let late = seconds_between(pass, tokens / PART_OF_LATE).clamp(HOUR, DAY);
        let archived = if kinds.contains(&Kind::Deal) { 20 / u64::from(SELDOM) } else { 0 };
        let left = tokens.saturating_sub((DAY * pass).div_ceil(late));
        let changes = seconds_between(10 * kinds_read + archived, left).clamp(5, HOUR);
        Self { changes: Duration::from_secs(changes), late: Duration::from_secs(late) }
    }

    /// As somebody wishes it, whatever it costs.
    pub fn every(poll: Duration) -> Self {
        Self { changes: poll, late: Duration::from_secs(HOUR) }
    }
}

/// Seconds between two rounds that cost so much, where a day has so many tokens for them.
fn seconds_between(cost: u64, tokens: u64) -> u64 {
    (DAY * cost).div_ceil(tokens.max(1))
}

/// The feeds of these kinds.
pub fn streams(kinds: &[Kind], periods: Periods) -> Vec<Stream> {
    let feed =
        |kind: Kind, name: &str, period, backfills| Stream { name: format!("{kind}.{name}"), kind, period, backfills };
    let mut all = Vec::new();
    for kind in kinds {
        all.push(feed(*kind, "changes", periods.changes, true));
        if *kind == Kind::Deal {
            all.push(feed(*kind, "shelved", periods.changes * SELDOM, false));
        }
        all.push(feed(*kind, "late", periods.late, false));
    }
    all
}

/// True while a stream lists everything for the first time.
pub fn is_listing(cursor: &Cursor) -> bool {
    cursor.0.is_empty() || matches!(serde_json::from_str(&cursor.0), Ok(Place::Listing { .. }))
}

/// The next page of a stream.
pub async fn next_page(
    pipedrive: &Pipedrive,
    call: Call,
    stream: &Stream,
    cursor: &Cursor,
) -> Result<Page, ConnectorError> {
    let mut now = pipedrive.client.vendor_now();
    if planted::has(Bug::OurClockInCursor) {
        now -= pipedrive.client.offset();
    }
    // A cursor that cannot be read is treated as lost: reading again is safe, skipping is not.
    let place: Option<Place> = serde_json::from_str(&cursor.0).ok().filter(Place::is_possible);
    let (is_late, shelf) = match stream.name.rsplit('.').next() {
        Some("late") => (true, Shelf::Desk),
        Some("shelved") => (false, Shelf::Archive),
        _ => (false, Shelf::Desk),
    };
    let until = if is_late { now - LATE } else { now };
    let place = place.unwrap_or_else(|| match is_late {
        true => Place::Waiting { since: until - LATE },
        false => Place::Listing { since: now - WITHOUT_CLOCK, after: None },
    });
    match place {
        Place::Listing { since, after } => listing_page(pipedrive, call, stream.kind, shelf, since, after).await,
        Place::Waiting { since } => {
            window_page(pipedrive, call, stream.kind, shelf, is_late, (since, until), None).await
        }
        Place::Window { since, until, after } => {
            window_page(pipedrive, call, stream.kind, shelf, is_late, (since, until), after).await
        }
        Place::Made { since, until, after } => made_page(pipedrive, call, stream.kind, (since, until), after).await,
    }
}

fn cursor(place: &Place) -> Cursor {
    Cursor(serde_json::to_string(place).unwrap_or_default())
}

/// A page of a listing; a cursor that Pipedrive does not take any more begins it anew, at the next poll.
async fn page_after(
    pipedrive: &Pipedrive,
    call: Call,
    listing: &Listing,
    after: Option<&str>,
) -> Result<Option<(Vec<crate::item::Item>, Option<String>)>, ConnectorError> {
    match listing.page(pipedrive, call, after).await {
        Err(ConnectorError::Rejected { .. }) if after.is_some() => Ok(None),
        page => page.map(Some),
    }
}

async fn listing_page(
    pipedrive: &Pipedrive,
    call: Call,
    kind: Kind,
    shelf: Shelf,
    since: DateTime<Utc>,
    after: Option<String>,
) -> Result<Page, ConnectorError> {
    let listing = Listing::new(kind, shelf).by_id();
    let Some((items, next)) = page_after(pipedrive, call, &listing, after.as_deref()).await? else {
        return Ok(Page { next: cursor(&Place::Listing { since, after: None }), ..Page::default() });
    };
    let seen = pipedrive.seen(call, kind, &items).await?;
    let more = next.is_some();
    let place = match next {
        Some(after) => Place::Listing { since, after: Some(after) },
        None => Place::Waiting { since },
    };
    Ok(Page { seen, next: cursor(&place), more, total: None })
}

async fn window_page(
    pipedrive: &Pipedrive,
    call: Call,
    kind: Kind,
    shelf: Shelf,
    is_late: bool,
    (since, until): (DateTime<Utc>, DateTime<Utc>),
    after: Option<String>,
) -> Result<Page, ConnectorError> {
    // The upper end is exclusive and the lower is not.
    let end = until.trunc_subsecs(0) + TimeDelta::seconds(1);
    let listing = Listing::new(kind, shelf)
        .with_deleted()
        .by_id()
        .with("updated_since", for_query(since))
        .with("updated_until", for_query(end));
    let Some((items, next)) = page_after(pipedrive, call, &listing, after.as_deref()).await? else {
        return Ok(Page { next: cursor(&Place::Waiting { since }), ..Page::default() });
    };
    let place = match next {
        Some(after) => Place::Window { since, until, after: Some(after) },
        None if is_late => Place::Made { since, until, after: None },
        None => next_window(pipedrive, since, until),
    };
    let more = !matches!(place, Place::Waiting { .. });
    Ok(Page { seen: pipedrive.seen(call, kind, &items).await?, next: cursor(&place), more, total: None })
}

/// A page of what was made since a window of the second pass began.
async fn made_page(
    pipedrive: &Pipedrive,
    call: Call,
    kind: Kind,
    (since, until): (DateTime<Utc>, DateTime<Utc>),
    after: Option<String>,
) -> Result<Page, ConnectorError> {
    let listing = Listing::newest_first(kind, Shelf::Desk);
    let Some(page) = page_after(pipedrive, call, &listing, after.as_deref()).await? else {
        return Ok(Page { next: cursor(&Place::Made { since, until, after: None }), ..Page::default() });
    };
    let (items, next) = made_since(since, page);
    let place = match next {
        Some(after) => Place::Made { since, until, after: Some(after) },
        None => next_window(pipedrive, since, until),
    };
    let more = !matches!(place, Place::Waiting { .. });
    Ok(Page { seen: pipedrive.seen(call, kind, &items).await?, next: cursor(&place), more, total: None })
}

/// Where the window after this one begins.
fn next_window(pipedrive: &Pipedrive, since: DateTime<Utc>, until: DateTime<Utc>) -> Place {
    let overlap = match pipedrive.client.knows_the_time() {
        _ if planted::has(Bug::NoOverlap) => TimeDelta::zero(),
        true => OVERLAP,
        false => WITHOUT_CLOCK,
    };
    Place::Waiting { since: (until - overlap).max(since) }
}

/// One page of everything, for the audit: the list, then the archived ones.
pub async fn list(pipedrive: &Pipedrive, call: Call, kind: Kind, at: &Cursor) -> Result<Page, ConnectorError> {
    let (shelf, after) = match at.0.split_once(':') {
        Some(("archive", after)) => (Shelf::Archive, after),
        Some((_, after)) => (Shelf::Desk, after),
        None => (Shelf::Desk, ""),
    };
    let after = (!after.is_empty()).then_some(after);
    let (items, next) = Listing::new(kind, shelf).by_id().page(pipedrive, call, after).await?;
    let next = match next {
        Some(next) if shelf == Shelf::Desk => format!("desk:{next}"),
        Some(next) => format!("archive:{next}"),
        None if shelf == Shelf::Desk && kind == Kind::Deal => "archive:".to_owned(),
        None => String::new(),
    };
    let seen = pipedrive.seen(call, kind, &items).await?;
    Ok(Page { seen, more: !next.is_empty(), next: Cursor(next), total: None })
}
