//! Searches: which records match, in which order, and their pages.
//!
//! Source: <https://hl7.org/fhir/R4/search.html>.

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveTime, TimeDelta, Utc};
use serde_json::{Value as Json, json};
use tandem_sandbox::Query;

use super::{
    settings::LastUpdated,
    world::{Refusal, World},
};

/// The times that a value of some precision stands for, from the first to before the last.
fn span(text: &str) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        let at = at.to_utc();
        // A fraction that was written narrows it to a millisecond.
        let long = if text.contains('.') { TimeDelta::milliseconds(1) } else { TimeDelta::seconds(1) };
        return Some((at, at + long));
    }
    let mut parts = text.split('-').map(str::parse::<i32>);
    let year = parts.next()?.ok()?;
    let month = parts.next().transpose().ok()?;
    let day = parts.next().transpose().ok()?;
    let number = |part: Option<i32>| u32::try_from(part.unwrap_or(1)).ok();
    let first = NaiveDate::from_ymd_opt(year, number(month)?, number(day)?)?;
    let after = match (month, day) {
        (_, Some(_)) => first.checked_add_days(Days::new(1))?,
        (Some(_), None) => first.checked_add_months(Months::new(1))?,
        (None, None) => first.with_year(first.year() + 1)?,
    };
    let midnight = |day: NaiveDate| day.and_time(NaiveTime::MIN).and_utc();
    Some((midnight(first), midnight(after)))
}

/// Whether a moment, or a span of them, fits what was asked for.
fn fits_date(value: &str, asked: &str) -> Option<bool> {
    let (prefix, text) = match asked.get(..2) {
        Some(prefix @ ("eq" | "ne" | "gt" | "lt" | "ge" | "le" | "sa" | "eb")) => (prefix, &asked[2..]),
        _ => ("eq", asked),
    };
    let (from, until) = span(text)?;
    let (low, high) = span(value)?;
    Some(match prefix {
        "eq" => low >= from && high <= until,
        "ne" => !(low >= from && high <= until),
        "gt" => high > until,
        "sa" => low >= until,
        "lt" => low < from,
        "eb" => high <= from,
        "ge" => high > from,
        _ => low < until,
    })
}

/// Whether a server that knows changes by the day understands this: a day, and no other prefix than these three.
fn is_day(asked: &str) -> bool {
    let day = ["eq", "gt", "le"].into_iter().find_map(|prefix| asked.strip_prefix(prefix)).unwrap_or(asked);
    day.parse::<NaiveDate>().is_ok()
}

/// A value between two commas that are not escaped, unescaped.
fn alternatives(text: &str) -> Vec<String> {
    let (mut all, mut one, mut escaped) = (Vec::new(), String::new(), false);
    for letter in text.chars() {
        match (letter, escaped) {
            ('\\', false) => escaped = true,
            (',', false) => all.push(std::mem::take(&mut one)),
            // Kept, so that it is told from a bar that divides.
            ('|', true) => {
                one.push('\u{1}');
                escaped = false;
            }
            (letter, _) => {
                one.push(letter);
                escaped = false;
            }
        }
    }
    all.push(one);
    all
}

fn fits_token(system: Option<&str>, value: Option<&str>, asked: &str) -> bool {
    let plain = |text: &str| text.replace('\u{1}', "|");
    match asked.split_once('|') {
        Some((wanted, code)) => {
            system.unwrap_or_default() == plain(wanted)
                && (code.is_empty() || value.is_some_and(|value| value.eq_ignore_ascii_case(&plain(code))))
        }
        None => value.is_some_and(|value| value.eq_ignore_ascii_case(&plain(asked))),
    }
}

fn digits(text: &str) -> String {
    text.chars().filter(char::is_ascii_digit).collect()
}

impl World {
    fn refers(&self, reference: Option<&str>, kind: &str, asked: &str) -> bool {
        let id = asked.rsplit('/').next().unwrap_or(asked);
        reference.is_some_and(|found| found == format!("{kind}/{id}") || found == format!("{}/{kind}/{id}", self.base))
    }

    /// Whether a record fits one parameter; `None` for one that is not known.
    fn fits(&self, kind: &str, body: &Json, name: &str, asked: &str) -> Option<bool> {
        let text = |pointer: &str| body.pointer(pointer).and_then(Json::as_str);
        let list = |name: &str| body[name].as_array().into_iter().flatten();
        let telecom = |system: &str, fits: &dyn Fn(&str) -> bool| {
            list("telecom").any(|one| one["system"] == system && one["value"].as_str().is_some_and(fits))
        };
        let date = |value: Option<&str>| value.is_some_and(|value| fits_date(value, asked).unwrap_or(false));
        Some(match (name, kind) {
            ("_id", _) => text("/id") == Some(&asked.replace('\u{1}', "|")),
            ("_lastUpdated", _) => {
                let at = text("/meta/lastUpdated");
                match self.settings.last_updated {
                    LastUpdated::None => return None,
                    LastUpdated::Instant => date(at),
                    LastUpdated::Day => date(at.map(|at| at.get(..10).unwrap_or(at))),
                }
            }
            ("identifier", _) => {
                list("identifier").any(|one| fits_token(one["system"].as_str(), one["value"].as_str(), asked))
            }
            ("email", "Patient") => telecom("email", &|value| value.eq_ignore_ascii_case(&asked.replace('\u{1}', "|"))),
            ("phone", "Patient") => {
                let tail = |text: &str| {
                    let digits = digits(text);
                    digits[digits.len().saturating_sub(10)..].to_owned()
                };
                telecom("phone", &|value| tail(value) == tail(asked))
            }
            ("family", "Patient") => {
                let wanted = asked.to_lowercase();
                list("name")
                    .any(|one| one["family"].as_str().is_some_and(|name| name.to_lowercase().starts_with(&wanted)))
            }
            ("patient", "Appointment") => {
                list("participant").any(|one| self.refers(one["actor"]["reference"].as_str(), "Patient", asked))
            }
            ("patient", _) => self.refers(text("/subject/reference"), "Patient", asked),
            ("status", _) => fits_token(None, text("/status"), asked),
            ("date", "Appointment") => date(text("/start")),
            ("date", "Encounter") => date(text("/period/start")),
            ("date", "Invoice") => date(text("/date")),
            ("authored", "ServiceRequest") => date(text("/authoredOn")),
            ("intent", "ServiceRequest") => fits_token(None, text("/intent"), asked),
            ("code", "ServiceRequest") => {
                let mut codings = body["code"]["coding"].as_array().into_iter().flatten();
                codings.any(|one| fits_token(one["system"].as_str(), one["code"].as_str(), asked))
            }
            ("start", "Slot") => date(text("/start")),
            ("schedule", "Slot") => self.refers(text("/schedule/reference"), "Schedule", asked),
            ("actor", "Schedule") => {
                let kind = asked.split('/').next().unwrap_or_default();
                list("actor").any(|one| self.refers(one["reference"].as_str(), kind, asked))
            }
            ("active", "Schedule") => body["active"].as_bool().is_some_and(|active| active.to_string() == asked),
            ("account", "Invoice") => self.refers(text("/account/reference"), "Account", asked),
            ("context", "ChargeItem") => self.refers(text("/context/reference"), "Encounter", asked),
            ("url", "Subscription") => text("/channel/endpoint") == Some(asked),
            ("criteria", "Subscription") => text("/criteria") == Some(asked),
            _ => return None,
        })
    }

    /// Names of the parameters by which a type is searched, for the CapabilityStatement.
    pub(super) fn search_names(&self, kind: &str) -> Vec<&'static str> {
        let all = [
            "_id",
            "_lastUpdated",
            "identifier",
            "email",
            "phone",
            "family",
            "patient",
            "status",
            "date",
            "authored",
            "intent",
            "code",
            "start",
            "schedule",
            "actor",
            "active",
            "account",
            "context",
            "url",
            "criteria",
        ];
        let probe = json!({});
        all.into_iter().filter(|name| self.fits(kind, &probe, name, "1").is_some()).collect()
    }

    fn matching(&self, kind: &str, asked: &[(String, String)]) -> Vec<Json> {
        let all =
            self.shown.iter().filter(|((known, _), _)| known == kind).filter_map(|(_, record)| record.body.as_ref());
        let fits = |body: &&Json| {
            asked.iter().all(|(name, value)| {
                alternatives(value).iter().any(|one| self.fits(kind, body, name, one).unwrap_or(true))
            })
        };
        all.filter(fits).cloned().collect()
    }

    /// How many records a condition meets, and the first of them: as they are, not as searches show them.
    pub(super) fn meets(&self, kind: &str, condition: &Query) -> Vec<String> {
        let asked = condition.pairs();
        let all = self.records.iter().filter(|((known, _), _)| known == kind);
        let live = all.filter_map(|((_, id), record)| Some((id, record.body.as_ref()?)));
        let fits = |body: &Json| {
            asked.iter().all(|(name, value)| {
                alternatives(value).iter().any(|one| self.fits(kind, body, name, one).unwrap_or(false))
            })
        };
        live.filter(|(_, body)| fits(body)).map(|(id, _)| id.clone()).collect()
    }

    /// Answers a search.
    pub(super) fn search(&mut self, kind: &str, query: &Query, strict: bool) -> Result<Json, Refusal> {
        let is_result = |name: &str| matches!(name, "_count" | "_sort" | "_elements" | "_summary" | "page" | "_format");
        let (mut filters, mut heeded) = (Vec::new(), Vec::new());
        for (name, value) in query.pairs() {
            if is_result(&name) {
                heeded.push((name, value));
                continue;
            }
            let known = self.fits(kind, &json!({}), &name, "1").is_some();
            if known {
                let is_date = matches!(name.as_str(), "_lastUpdated" | "date" | "authored" | "start");
                if is_date && fits_date("2020", &value).is_none() {
                    return Err(Refusal::at(400, "value", "The date cannot be read.", Some(&format!("{kind}.{name}"))));
                }
                let by_day = name == "_lastUpdated" && self.settings.last_updated == LastUpdated::Day;
                if by_day && !is_day(&value) {
                    let text = "A day is asked for, with eq, gt or le.";
                    return Err(Refusal::at(400, "value", text, Some(&format!("{kind}.{name}"))));
                }
                heeded.push((name.clone(), value.clone()));
                filters.push((name, value));
            } else if strict || !self.settings.lenient {
                return Err(Refusal::at(
                    400,
                    "not-supported",
                    "Unknown search parameter.",
                    Some(&format!("{kind}.{name}")),
                ));
            }
        }
        let mut rows = self.matching(kind, &filters);
        if let Some(sort) = query.text("_sort") {
            let key = |body: &Json| body["meta"]["lastUpdated"].as_str().unwrap_or_default().to_owned();
            if sort.trim_start_matches('-') == "_lastUpdated" {
                rows.sort_by_key(key);
                if sort.starts_with('-') {
                    rows.reverse();
                }
            }
        }
        let elements = query.list("_elements");
        if !elements.is_empty() {
            for body in &mut rows {
                subset(body, &elements);
            }
        }
        let count = query.number("_count").unwrap_or(50).min(self.settings.page_rows).max(1);
        let link = format!("{}/{kind}?{}", self.base, encode(&heeded));
        if query.text("_summary").as_deref() == Some("count") {
            return Ok(
                json!({ "resourceType": "Bundle", "type": "searchset", "total": rows.len(), "link": [{ "relation": "self", "url": link }] }),
            );
        }
        if self.settings.numbered_pages {
            let page = query.number("page").unwrap_or(1).max(1);
            let pages = rows.len().div_ceil(count);
            let rows: Vec<Json> = rows.into_iter().skip((page - 1) * count).take(count).collect();
            // Of such a server the total is the number of pages.
            return Ok(self.bundle(&rows, pages, json!([{ "relation": "self", "url": link }])));
        }
        let mut links = vec![json!({ "relation": "self", "url": link })];
        if rows.len() > count {
            let name = self.next_id("page");
            let ends = self.now + TimeDelta::seconds(self.settings.page_seconds);
            links.push(json!({ "relation": "next", "url": format!("{}?_getpages={name}&_offset={count}", self.base) }));
            self.searches.insert(name, (rows.clone(), count, ends));
        }
        Ok(self.bundle(&rows[..rows.len().min(count)], rows.len(), links.into()))
    }

    /// A further page of a search.
    pub(super) fn page(&self, name: &str, offset: usize) -> Result<Json, Refusal> {
        let Some((rows, count, _)) = self.searches.get(name) else {
            return Err(Refusal::new(410, "not-found", "The search has ended."));
        };
        let url = |offset: usize| format!("{}?_getpages={name}&_offset={offset}", self.base);
        let mut links = vec![json!({ "relation": "self", "url": url(offset) })];
        if offset + count < rows.len() {
            links.push(json!({ "relation": "next", "url": url(offset + count) }));
        }
        let some: Vec<Json> = rows.iter().skip(offset).take(*count).cloned().collect();
        Ok(self.bundle(&some, rows.len(), links.into()))
    }

    fn bundle(&self, rows: &[Json], total: usize, links: Json) -> Json {
        let entry = |body: &Json| {
            let (kind, id) =
                (body["resourceType"].as_str().unwrap_or_default(), body["id"].as_str().unwrap_or_default());
            json!({ "fullUrl": format!("{}/{kind}/{id}", self.base), "resource": body, "search": { "mode": "match" } })
        };
        let mut bundle = json!({ "resourceType": "Bundle", "type": "searchset", "total": total, "link": links });
        if !rows.is_empty() {
            bundle["entry"] = rows.iter().map(entry).collect();
        }
        bundle
    }
}

/// Leaves out everything but these elements, and says so.
fn subset(body: &mut Json, elements: &[String]) {
    if let Some(all) = body.as_object_mut() {
        all.retain(|name, _| matches!(name.as_str(), "resourceType" | "id" | "meta") || elements.contains(name));
    }
    body["meta"]["tag"] =
        json!([{ "system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED" }]);
}

fn encode(pairs: &[(String, String)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_stands_for_all_of_its_day() {
        for (value, asked, fits) in [
            ("2026-05-14T19:31:07.220Z", "ge2026-05-14T19:31:07Z", true),
            ("2026-05-14T19:31:07.220Z", "lt2026-05-14T19:31:07Z", false),
            ("2026-05-14T19:31:07.220Z", "eq2026-05-14", true),
            ("2026-05-14T19:31:07.220Z", "gt2026-05-14", false),
            ("2026-05-14T19:31:07.220Z", "ge2026-05", true),
            ("2026-05-14", "le2026-05-14", true),
        ] {
            assert_eq!(fits_date(value, asked), Some(fits), "{value} {asked}");
        }
        assert_eq!(fits_date("2026-05-14", "ge tomorrow"), None);
        for (asked, is_one) in [
            ("2026-05-14", true),
            ("eq2026-05-14", true),
            ("gt2026-05-14", true),
            ("le2026-05-14", true),
            ("ge2026-05-14", false),
            ("lt2026-05-14", false),
            ("eq2026-05-14T19:31:07Z", false),
        ] {
            assert_eq!(is_day(asked), is_one, "{asked}");
        }
    }

    #[test]
    fn escaped_commas_and_bars_are_part_of_a_value() {
        assert_eq!(alternatives(r"a\,b,c"), ["a,b", "c"]);
        assert!(fits_token(Some("urn:x"), Some("inst:7|8"), &alternatives(r"urn:x|inst:7\|8")[0]));
        assert!(!fits_token(Some("urn:x"), Some("7"), "urn:y|7"));
    }
}
