//! What changed, and how far we have read.
//!
//! `contact.changes` lists every customer (the backfill), then searches windows of time. `sale.changes` goes over the same
//! windows in steps: orders, ten locations a call; payments, one location a call, since those are told who paid after the
//! order was closed; refunds, all at once. Of both there is a second pass an hour behind, for what a lagging index left out.
//! Cursors of Square end after minutes: one that is refused begins its window anew.
//!
//! Source: `SearchOrders`, `ListPayments`, `ListPaymentRefunds`, `SearchCustomers`.

use std::time::Duration;

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use tandem_contract::{Call, ConnectorError, Cursor, Kind, Page, Seen, Stream};

use crate::{Square, customers, orders};

/// How far two windows overlap: searches for customers lag by up to a minute, occasionally more.
const OVERLAP: TimeDelta = TimeDelta::minutes(5);
/// The same where no answer says what time it is at Square.
const WITHOUT_CLOCK: TimeDelta = TimeDelta::minutes(15);
/// How far the second pass stays behind.
const LATE: TimeDelta = TimeDelta::hours(1);
/// How far back sales are looked for when a till is connected. A till that was offline reports within three days.
const FIRST_LOOK: TimeDelta = TimeDelta::hours(72);

/// Where a stream stands. `after` is a cursor of Square's; `step` counts what is gone over in a window.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
enum Place {
    /// Listing everything; changes since `since` are still to be looked for.
    Listing { since: DateTime<Utc>, after: Option<String> },
    /// In a window.
    Window(Window),
    /// Between two windows.
    Waiting { since: DateTime<Utc> },
}

/// A place in a window. `from` is where the step begins, once it has come further than `since`.
#[derive(Debug, Serialize, Deserialize)]
struct Window {
    since: DateTime<Utc>,
    until: DateTime<Utc>,
    step: usize,
    after: Option<String>,
    #[serde(default)]
    from: Option<DateTime<Utc>>,
}

impl Place {
    /// False for moments at which there was no Square, or is none of us any more.
    fn is_possible(&self) -> bool {
        let times = match self {
            Self::Listing { since, .. } | Self::Waiting { since } => [since, since],
            Self::Window(Window { since, until, from, .. }) => {
                if from.is_some_and(|from| from > *until) {
                    return false;
                }
                [since, until]
            }
        };
        times.iter().all(|at| (2000..2200).contains(&at.year()))
    }
}

/// The feeds.
pub fn streams(kinds: &[Kind], period: Duration) -> Vec<Stream> {
    let feed =
        |kind: Kind, name: &str, period, backfills| Stream { name: format!("{kind}.{name}"), kind, period, backfills };
    let hourly = Duration::from_secs(3_600);
    let mut all = Vec::new();
    for kind in kinds {
        all.push(feed(*kind, "changes", period, true));
        all.push(feed(*kind, "late", hourly, false));
    }
    all.push(feed(Kind::Sale, "changes", period, false));
    all.push(feed(Kind::Sale, "late", hourly, false));
    all
}

/// True while a stream lists everything for the first time.
pub fn is_listing(cursor: &Cursor) -> bool {
    matches!(serde_json::from_str(&cursor.0), Ok(Place::Listing { .. }))
}

fn cursor(place: &Place) -> Cursor {
    Cursor(serde_json::to_string(place).unwrap_or_default())
}

/// The next page of a stream.
pub async fn next_page(square: &Square, call: Call, stream: &Stream, at: &Cursor) -> Result<Page, ConnectorError> {
    let now = square.client.vendor_now();
    let is_late = stream.name.ends_with(".late");
    let end = if is_late { now - LATE } else { now };
    // A cursor that cannot be read is treated as lost: reading again is safe, skipping is not.
    let place: Option<Place> = serde_json::from_str(&at.0).ok().filter(Place::is_possible);
    let place = place.unwrap_or(match (stream.kind, is_late) {
        (_, true) => Place::Waiting { since: end - LATE },
        (Kind::Sale, false) => Place::Waiting { since: now - FIRST_LOOK },
        _ => Place::Listing { since: now - WITHOUT_CLOCK, after: None },
    });
    match place {
        Place::Listing { since, after } => listing_page(square, call, since, after).await,
        Place::Waiting { since } => {
            let window = Window { since, until: end.max(since), step: 0, after: None, from: None };
            window_page(square, call, stream.kind, window).await
        }
        Place::Window(window) => window_page(square, call, stream.kind, window).await,
    }
}

type Rows = (Vec<Seen>, Option<String>);

/// A page; `None` if Square does not take its own cursor any more. Whatever else it refuses stands: a list that is begun
/// anew for it would never end where it is refused each time.
fn refused_cursor(page: Result<Rows, ConnectorError>, after: Option<&str>) -> Result<Option<Rows>, ConnectorError> {
    let is_of_cursor = |error: &ConnectorError| match error {
        ConnectorError::Rejected { field, reason } => field.as_deref() == Some("cursor") || reason == "INVALID_CURSOR",
        _ => false,
    };
    match page {
        Err(error) if after.is_some() && is_of_cursor(&error) => Ok(None),
        page => page.map(Some),
    }
}

async fn listing_page(
    square: &Square,
    call: Call,
    since: DateTime<Utc>,
    after: Option<String>,
) -> Result<Page, ConnectorError> {
    let page = customers::page(square, call, after.as_deref()).await;
    let Some((seen, next)) = refused_cursor(page, after.as_deref())? else {
        return Ok(Page { next: cursor(&Place::Listing { since, after: None }), more: true, ..Page::default() });
    };
    let next = next.filter(|next| Some(next) != after.as_ref());
    let more = next.is_some();
    let place = match next {
        Some(after) => Place::Listing { since, after: Some(after) },
        None => Place::Waiting { since },
    };
    Ok(Page { seen, next: cursor(&place), more, total: None })
}

async fn window_page(square: &Square, call: Call, kind: Kind, at: Window) -> Result<Page, ConnectorError> {
    let Window { since, until, step, after, from } = at;
    let begin = from.unwrap_or(since);
    let (page, steps) = match kind {
        Kind::Sale => orders::changed(square, call, (begin, until), step, after.as_deref()).await?,
        _ => (customers::changed(square, call, since, until, after.as_deref()).await, 1),
    };
    let Some((seen, next)) = refused_cursor(page, after.as_deref())? else {
        // Sales come in order of change: their step goes on from as far as it came. Customers do not.
        let place = match kind {
            Kind::Sale => Place::Window(Window { since, until, step, after: None, from }),
            _ => Place::Waiting { since },
        };
        let more = kind == Kind::Sale && from.is_some();
        return Ok(Page { next: cursor(&place), more, ..Page::default() });
    };
    let next = next.filter(|next| Some(next) != after.as_ref());
    let reached = seen.iter().filter_map(|seen| match seen {
        Seen::Hint { version, .. } => version.updated_at,
        Seen::Record(_) | Seen::Archived(_) => None,
    });
    let place = match next {
        Some(after) => {
            let from = reached.max().or(from).filter(|_| kind == Kind::Sale);
            Place::Window(Window { since, until, step, after: Some(after), from })
        }
        None if step.saturating_add(1) < steps => {
            Place::Window(Window { since, until, step: step + 1, after: None, from: None })
        }
        None => {
            let overlap = if square.client.knows_the_time() { OVERLAP } else { WITHOUT_CLOCK };
            Place::Waiting { since: (until - overlap).max(since) }
        }
    };
    let more = matches!(place, Place::Window(_));
    Ok(Page { seen, next: cursor(&place), more, total: None })
}
