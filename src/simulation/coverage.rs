//! Which fault met which phase of the engine, and how often: a fault that never strikes proves nothing.

use std::collections::{BTreeMap, BTreeSet};

/// Which fault happened where, and how often.
pub type Coverage = BTreeMap<(String, String), u64>;

/// The phases of the engine, in the order it goes through them.
const PHASES: [&str; 10] =
    ["account", "schema", "list", "search", "read", "links", "create", "update", "archive", "store"];

/// The phase a route or a point of the gate belongs to; `None` for what belongs to none, such as a webhook.
fn phase(place: &str) -> Option<&'static str> {
    let path = place.trim_start_matches("asked ").trim_start_matches("answered ");
    let (method, path) = path.split_once(' ').unwrap_or(("", path));
    let is = |part: &str| path.contains(part);
    Some(match method {
        "commit" | "stored" => "store",
        _ if is("account-info") => "account",
        _ if is("properties") || is("pipelines") || is("owners") => "schema",
        _ if is("associations") => "links",
        _ if is("/search") => "search",
        _ if is("/batch/read") => "read",
        _ if is("/batch/create") || is("/batch/upsert") => "create",
        _ if is("/batch/update") => "update",
        _ if is("/batch/archive") => "archive",
        "GET" if is("/objects/") || path.starts_with("objects/") => "list",
        "" if ["take_lease", "renew_lease"].contains(&path) => "store",
        _ => return None,
    })
}

/// Adds one seed's coverage to that of all.
pub fn add(all: &mut Coverage, more: Coverage) {
    for (key, count) in more {
        *all.entry(key).or_default() += count;
    }
}

/// A table: a line a fault, a column a phase; what belongs to no phase in the last.
#[must_use]
pub fn table(all: &Coverage) -> String {
    let mut lines: BTreeMap<&str, BTreeMap<&str, u64>> = BTreeMap::new();
    for ((fault, place), count) in all {
        *lines.entry(fault).or_default().entry(phase(place).unwrap_or("other")).or_default() += count;
    }
    let columns: BTreeSet<&str> = lines.values().flat_map(|line| line.keys().copied()).collect();
    let columns: Vec<&str> = PHASES.into_iter().chain(["other"]).filter(|column| columns.contains(column)).collect();
    let mut text = format!("{:<20}", "fault");
    for column in &columns {
        text.push_str(&format!("{column:>10}"));
    }
    for (fault, line) in &lines {
        text.push_str(&format!("\n{fault:<20}"));
        for column in &columns {
            text.push_str(&format!("{:>10}", line.get(column).map_or_else(|| "-".into(), u64::to_string)));
        }
    }
    text
}
