//! Days, which are not the same everywhere.

use chrono::{DateTime, NaiveDate, NaiveTime, TimeZone, Utc};
use chrono_tz::Tz;

/// A moment that is on this day for the people of a time zone: noon, which is also that day for their neighbours.
#[must_use]
pub fn noon(day: NaiveDate, timezone: Tz) -> DateTime<Utc> {
    let noon = day.and_time(NaiveTime::from_hms_opt(12, 0, 0).unwrap_or_default());
    let at = timezone.from_local_datetime(&noon).earliest().unwrap_or_else(|| timezone.from_utc_datetime(&noon));
    at.to_utc()
}
