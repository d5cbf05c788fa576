//! Days, which begin at another moment in every time zone.

use chrono::{DateTime, NaiveDate, TimeZone, Utc};
use chrono_tz::Tz;

/// When a day begins: at midnight, or the hour after it where the clocks leave midnight out.
#[must_use]
pub fn begins(day: NaiveDate, zone: Tz) -> Option<DateTime<Utc>> {
    let at = |hour| zone.from_local_datetime(&day.and_hms_opt(hour, 0, 0)?).earliest();
    (0..3).find_map(at).map(|at| at.to_utc())
}
