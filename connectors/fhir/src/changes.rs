//! What changed, and how far we have read. Each way of finding out that a profile knows is a feed here.
//!
//! `_lastUpdated` to the second: windows that overlap by two minutes, up to the server's own time less five seconds. By day: the
//! days around today, of appointments, encounters and patients alike: such servers know no time of day and no `ge`. Without it:
//! windows of appointment dates, and all patients once a day, however often we are started: the cursor knows when it was. What was
//! read before is told by its version, or by what it says.
//! Deleted records vanish from searches: every visit that is held as open is read by id once a day, whatever feeds say.
//!
//! Source: <https://hl7.org/fhir/R4/search.html>.

use std::time::Duration;

use chrono::{DateTime, Datelike, Days, NaiveDate, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use tandem_contract::{Call, ConnectorError, Cursor, ExternalId, Kind, Page, Seen, Stream, Version};
use tracing::warn;

use crate::{
    Fhir,
    booking::iso,
    bundle::search,
    patients,
    profile::{Feed, Profile},
    visits::{self, Type},
};

/// How far two windows overlap.
const OVERLAP: TimeDelta = TimeDelta::minutes(2);
/// The same where no answer says what time it is at the server.
const WITHOUT_CLOCK: TimeDelta = TimeDelta::minutes(15);
/// How far behind the server's time a window ends: records of one transaction become visible one after another.
const BEHIND: TimeDelta = TimeDelta::seconds(5);
/// Since when appointments are looked at, when a clinic is connected.
const FIRST_LOOK: Days = Days::new(30);
/// How far the second pass stays behind, for what an index showed late.
const LATE: TimeDelta = TimeDelta::hours(1);
/// How often all patients are listed where nothing tells who changed.
const LISTED: TimeDelta = TimeDelta::days(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Where a stream stands. `next` is where the server said to go on; `again` is true once such a link had ended and the search was
/// begun anew: a second time it is an error, since a link that always ends would be followed for ever.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "snake_case")]
enum Place {
    /// Listing everything since a day; changes since `since` are still to be looked for.
    Listing {
        since: DateTime<Utc>,
        next: Option<String>,
        #[serde(default)]
        again: bool,
    },
    /// In a window of time.
    Window {
        since: DateTime<Utc>,
        until: DateTime<Utc>,
        next: Option<String>,
        #[serde(default)]
        again: bool,
    },
    /// Between two windows.
    Waiting { since: DateTime<Utc> },
    /// On a day of several, or in a window of dates.
    Days {
        day: NaiveDate,
        until: NaiveDate,
        next: Option<String>,
        #[serde(default)]
        again: bool,
    },
    /// All days up to this one were read.
    Read { until: NaiveDate },
}

impl Place {
    /// False for moments at which there was no FHIR, or is none of us any more.
    fn is_possible(&self) -> bool {
        let years = match self {
            Self::Listing { since, .. } | Self::Waiting { since } => [since.year(), since.year()],
            Self::Window { since, until, .. } => [since.year(), until.year()],
            Self::Days { day, until, .. } => [day.year(), until.year()],
            Self::Read { until } => [until.year(), until.year()],
        };
        years.iter().all(|year| (2000..2200).contains(year))
    }
}

fn stream(kind: Kind, name: &str, period: Duration, backfills: bool) -> Stream {
    Stream { name: format!("{kind}.{name}"), kind, period, backfills }
}

/// The feeds.
pub fn streams(fhir: &Fhir) -> Vec<Stream> {
    let poll = fhir.options.poll.unwrap_or(MINUTE);
    let visits = Kind::Appointment;
    let (mut all, mut last) = (Vec::new(), None);
    let profile = fhir.profile();
    if fhir.options.patients {
        let patients = Kind::Contact;
        match profile.patients {
            Feed::Instant => all.push(stream(patients, "changes", poll, true)),
            Feed::Day => {
                all.push(stream(patients, "changes", poll.max(5 * MINUTE), true));
                all.push(stream(patients, "around", 30 * MINUTE, false));
            }
            // Nothing tells who changed: everybody is listed again, once that is due. No visit waits for the end of it: streams
            // are looked at in order before each page.
            Feed::Dates | Feed::None => last = Some(stream(patients, "changes", 60 * MINUTE, true)),
        }
    }
    match profile.feed {
        Feed::Instant => {
            all.push(stream(visits, "changes", poll, false));
            all.push(stream(visits, "late", 60 * MINUTE, false));
        }
        Feed::Day => {
            all.push(stream(visits, "today", poll.max(5 * MINUTE), false));
            all.push(stream(visits, "around", 30 * MINUTE, false));
            all.push(stream(visits, "far", 1_440 * MINUTE, false));
        }
        Feed::Dates => {
            all.push(stream(visits, "near", poll.max(2 * MINUTE), false));
            all.push(stream(visits, "soon", 15 * MINUTE, false));
            all.push(stream(visits, "far", 1_440 * MINUTE, false));
        }
        Feed::None => {}
    }
    match profile.encounters {
        Feed::Instant => all.push(stream(visits, "encounters", poll, false)),
        Feed::Day => {
            all.push(stream(visits, "encounters", poll.max(5 * MINUTE), false));
            all.push(stream(visits, "encounters_around", 30 * MINUTE, false));
            all.push(stream(visits, "encounters_far", 1_440 * MINUTE, false));
        }
        Feed::Dates | Feed::None => {}
    }
    if fhir.options.plans && profile.plans {
        all.push(stream(visits, "plans", poll, false));
    }
    all.extend(last);
    all
}

/// True while a stream lists everything for the first time.
pub fn is_listing(cursor: &Cursor) -> bool {
    matches!(serde_json::from_str(&cursor.0), Ok(Place::Listing { .. }))
}

fn cursor(place: &Place) -> Cursor {
    Cursor(serde_json::to_string(place).unwrap_or_default())
}

/// The type that a stream looks for, and how: by windows of time (`changes`, `late`), or by days and dates.
fn sought<'a>(stream: &'a Stream, profile: &Profile, place: Option<&Place>) -> (&'static str, &'a str) {
    let is_listed = place.is_some_and(|place| !matches!(place, Place::Listing { .. }));
    match (stream.kind, stream.name.rsplit('.').next().unwrap_or_default()) {
        // Patients are listed once, whatever the server knows of changes.
        (Kind::Contact, "changes") if is_listed && profile.patients == Feed::Day => ("Patient", "today"),
        (Kind::Contact, name) => ("Patient", name),
        (_, "encounters") if profile.encounters == Feed::Day => ("Encounter", "today"),
        (_, "encounters") => ("Encounter", "changes"),
        (_, "encounters_around") => ("Encounter", "around"),
        (_, "encounters_far") => ("Encounter", "far"),
        (_, "plans") => ("ServiceRequest", "changes"),
        (_, name) => ("Appointment", name),
    }
}

/// The next page of a stream.
pub async fn next_page(fhir: &Fhir, call: Call, stream: &Stream, at: &Cursor) -> Result<Page, ConnectorError> {
    let now = fhir.client.vendor_now();
    // A cursor that cannot be read is treated as lost: reading again is safe, skipping is not.
    let place: Option<Place> = serde_json::from_str(&at.0).ok().filter(Place::is_possible);
    let profile = fhir.profile();
    let (kind, name) = sought(stream, &profile, place.as_ref());
    match name {
        "today" | "around" | "near" | "soon" | "far" => {
            days_page(fhir, call, kind, name, now.date_naive(), place).await
        }
        _ => {
            let has_windows = kind != "Patient" || profile.patients == Feed::Instant;
            if let (false, Some(Place::Waiting { since })) = (has_windows, &place)
                && (TimeDelta::zero()..LISTED).contains(&(now - *since))
            {
                return Ok(Page { next: at.clone(), ..Page::default() });
            }
            let place = place.filter(|place| match place {
                Place::Listing { .. } => true,
                Place::Window { .. } | Place::Waiting { .. } => has_windows,
                Place::Days { .. } | Place::Read { .. } => false,
            });
            let now = if name == "late" { now - LATE } else { now };
            let first = match name {
                "late" => Place::Waiting { since: now - LATE },
                _ => Place::Listing { since: now - WITHOUT_CLOCK, next: None, again: false },
            };
            window_page(fhir, call, kind, now, place.unwrap_or(first)).await
        }
    }
}

/// Rows of a search as what was seen: patients of listings and days whole, everything else as hints.
fn seen(fhir: &Fhir, kind: &str, rows: &[Box<serde_json::value::RawValue>], whole: bool) -> Vec<Seen> {
    let mut seen = Vec::with_capacity(rows.len());
    for raw in rows {
        let hinted = match kind {
            // One that cannot be read is named, and read by itself.
            "Patient" if whole => {
                patients::whole(fhir, raw).map(Seen::Record).or_else(|_| patients::hint(raw).map(hint))
            }
            "Patient" => patients::hint(raw).map(hint),
            "Encounter" => visits::hint(Type::Encounter, raw).map(hint),
            "ServiceRequest" => visits::hint(Type::ServiceRequest, raw).map(hint),
            _ => visits::hint(Type::Appointment, raw).map(hint),
        };
        match hinted {
            Ok(one) => seen.push(one),
            // One that cannot be named cannot be read either: it does not keep the others from it.
            Err(error) => warn!(kind, %error, "a row of a search is left out"),
        }
    }
    seen
}

fn hint((id, version): (ExternalId, Version)) -> Seen {
    Seen::Hint { id, version }
}

async fn window_page(
    fhir: &Fhir,
    call: Call,
    kind: &str,
    now: DateTime<Utc>,
    place: Place,
) -> Result<Page, ConnectorError> {
    let elements = |filters: &mut Vec<(&'static str, String)>| {
        // Of visits only the version is looked at here.
        if kind != "Patient" {
            filters.push(("_elements", "id,meta".into()));
        }
    };
    let (mut filters, since, until, next, again) = match place {
        Place::Listing { since, next, again } => {
            let from = (now.date_naive() - FIRST_LOOK).to_string();
            let filters = match kind {
                "Patient" => Vec::new(),
                "ServiceRequest" => vec![("authored", format!("ge{from}"))],
                _ => vec![("date", format!("ge{from}"))],
            };
            (filters, since, None, next, again)
        }
        Place::Window { since, until, next, again } => (Vec::new(), since, Some(until), next, again),
        Place::Waiting { since } => (Vec::new(), since, Some((now - BEHIND).max(since)), None, false),
        Place::Days { .. } | Place::Read { .. } => (Vec::new(), now - WITHOUT_CLOCK, Some(now - BEHIND), None, false),
    };
    if let Some(until) = until {
        filters.push(("_lastUpdated", format!("ge{}", iso(since))));
        filters.push(("_lastUpdated", format!("lt{}", iso(until))));
        filters.push(("_sort", "_lastUpdated".into()));
    }
    elements(&mut filters);
    let rows = match search(fhir, call.lane, kind, &filters, next.as_deref()).await {
        // Its link has ended: the search begins anew.
        Err(ConnectorError::Gone | ConnectorError::Rejected { .. }) if next.is_some() && !again => {
            let place = match until {
                Some(until) => Place::Window { since, until, next: None, again: true },
                None => Place::Listing { since, next: None, again: true },
            };
            return Ok(Page { next: cursor(&place), more: true, ..Page::default() });
        }
        rows => rows?,
    };
    let seen = seen(fhir, kind, &rows.found, until.is_none());
    let more = rows.next.is_some();
    let place = match (rows.next, until) {
        (Some(next), Some(until)) => Place::Window { since, until, next: Some(next), again },
        (Some(next), None) => Place::Listing { since, next: Some(next), again },
        (None, Some(until)) => {
            let overlap = if fhir.client.knows_the_time() { OVERLAP } else { WITHOUT_CLOCK };
            Place::Waiting { since: (until - overlap).max(since) }
        }
        (None, None) => Place::Waiting { since },
    };
    Ok(Page { seen, next: cursor(&place), more, total: None })
}

/// The days that a feed goes over, seen from today: first and last.
fn span(name: &str, today: NaiveDate) -> (NaiveDate, NaiveDate) {
    let (back, ahead) = match name {
        "today" => (0, 0),
        "around" => (1, 1),
        "near" => (2, 2),
        "soon" => (0, 30),
        _ => (30, 180),
    };
    (today - Days::new(back), today + Days::new(ahead))
}

async fn days_page(
    fhir: &Fhir,
    call: Call,
    kind: &str,
    name: &str,
    today: NaiveDate,
    place: Option<Place>,
) -> Result<Page, ConnectorError> {
    let (first, last) = span(name, today);
    let by_day = matches!(name, "today" | "around");
    let place = match place {
        // What came since a listing, or since a window, is on the days since.
        Some(Place::Listing { since, .. } | Place::Window { since, .. } | Place::Waiting { since }) => {
            Some(Place::Read { until: since.date_naive() })
        }
        place => place,
    };
    let (day, until, next, again) = match place {
        Some(Place::Days { day, until, next, again }) if day <= until => (day, until, next, again),
        // Days that passed while nobody read them are read now.
        Some(Place::Read { until }) if by_day => (first.min(until), last, None, false),
        _ => (first, last, None, false),
    };
    let filters = match by_day {
        true => vec![("_lastUpdated", format!("eq{day}"))],
        false => vec![("date", format!("ge{day}")), ("date", format!("le{until}"))],
    };
    let rows = match search(fhir, call.lane, kind, &filters, next.as_deref()).await {
        Err(ConnectorError::Gone | ConnectorError::Rejected { .. }) if next.is_some() && !again => {
            let place = Place::Days { day, until, next: None, again: true };
            return Ok(Page { next: cursor(&place), more: true, ..Page::default() });
        }
        rows => rows?,
    };
    // The days of patients are read again and again: whole rows spare a read of each by its id.
    let seen = seen(fhir, kind, &rows.found, kind == "Patient");
    let place = match (rows.next, by_day && day < until) {
        (Some(next), _) => Place::Days { day, until, next: Some(next), again },
        (None, true) => Place::Days { day: day + Days::new(1), until, next: None, again: false },
        // Over: the next poll begins with the days around its own today.
        (None, false) => {
            let read = Place::Read { until: today.min(until) };
            return Ok(Page { seen, next: cursor(&read), more: false, total: None });
        }
    };
    Ok(Page { seen, next: cursor(&place), more: true, total: None })
}

/// One page of all patients, whole, for the audit.
pub async fn list(fhir: &Fhir, call: Call, at: &Cursor) -> Result<Page, ConnectorError> {
    let next = Some(at.0.as_str()).filter(|next| !next.is_empty());
    let rows = search(fhir, call.lane, "Patient", &[], next).await?;
    let seen = seen(fhir, "Patient", &rows.found, true);
    Ok(Page { seen, more: rows.next.is_some(), next: Cursor(rows.next.unwrap_or_default()), total: None })
}
