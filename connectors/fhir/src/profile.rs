//! What a server can do: a profile of its vendor, narrowed by what the server's CapabilityStatement promises.
//!
//! One code path serves them all; what differs between vendors is a field here. Sources: the vendors' own pages, and
//! <https://hl7.org/fhir/R4/capabilitystatement.html>.

use std::{collections::BTreeMap, str::FromStr, time::Duration};

use serde::Deserialize;
use tandem_contract::Limit;

/// How changes are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feed {
    /// `_lastUpdated` to the second.
    Instant,
    /// `_lastUpdated` by day: the days around today are read again and again.
    Day,
    /// No `_lastUpdated`: windows of appointment dates are read again and again. Of appointments only.
    Dates,
    /// Not at all.
    None,
}

/// A vendor whose dialect is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Dialect {
    /// Everything that R4 offers: HAPI, Medplum and servers like them.
    #[default]
    FullR4,
    /// ModMed EMA's proprietary API.
    ModmedEma,
    /// Nextech Select and Practice+, which speak STU3.
    NextechStu3,
    /// Canvas Medical.
    Canvas,
    /// athenahealth.
    Athena,
    /// A certified endpoint that offers US Core and nothing else.
    UsCoreOnly,
}

impl Dialect {
    const ALL: [(Self, &'static str); 6] = [
        (Self::FullR4, "full-r4"),
        (Self::ModmedEma, "modmed-ema"),
        (Self::NextechStu3, "nextech-stu3"),
        (Self::Canvas, "canvas"),
        (Self::Athena, "athena"),
        (Self::UsCoreOnly, "us-core-only"),
    ];

    /// The word of the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(known, _)| *known == self).map_or("full-r4", |(_, word)| word)
    }
}

/// The text names no dialect.
#[derive(Debug, thiserror::Error)]
#[error("is not one of full-r4, modmed-ema, nextech-stu3, canvas, athena, us-core-only")]
pub struct UnknownDialect;

impl FromStr for Dialect {
    type Err = UnknownDialect;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().find(|(_, word)| *word == text).map(|(known, _)| *known).ok_or(UnknownDialect)
    }
}

/// What the server can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Profile {
    /// How changes of appointments are found.
    pub feed: Feed,
    /// Whether pages are numbered, and end with an empty one.
    pub numbered_pages: bool,
    /// Rows of a page, at most.
    pub page: usize,
    /// How changes of encounters are found.
    pub encounters: Feed,
    /// How changes of patients are found.
    pub patients: Feed,
    /// Whether plans of treatment are found by `_lastUpdated`, and by when they were made.
    pub plans: bool,
    /// Whether several records are read by their ids in one search.
    pub by_ids: bool,
    /// Whether a patient is found by e-mail address and by telephone number.
    pub by_contact: bool,
    /// Whether appointments can be made and changed.
    pub books: bool,
    /// Whether a write names the version that it was planned on.
    pub if_match: bool,
    /// Whether a create is refused where a record of the same identifier is there.
    pub conditional_create: bool,
    /// Whether invoices can be read.
    pub invoices: bool,
    /// Whether charges can be read.
    pub charges: bool,
    /// Whether openings in the calendar can be read.
    pub slots: bool,
    /// Whether it is told whose time they are.
    pub schedules: bool,
    /// Whether the server sends news by itself.
    pub subscriptions: bool,
    /// Whether `pending` means booked.
    pub pending_is_booked: bool,
    /// Calls in a window, at most.
    pub rate: Limit,
}

impl Profile {
    /// A vendor's, before its server was asked.
    #[must_use]
    pub fn of(dialect: Dialect) -> Self {
        let rate = |a_second: u32| Limit { requests: a_second * 10, per: Duration::from_secs(10) };
        let full = Self {
            feed: Feed::Instant,
            numbered_pages: false,
            page: 100,
            encounters: Feed::Instant,
            patients: Feed::Instant,
            plans: true,
            by_ids: true,
            by_contact: true,
            books: true,
            if_match: true,
            conditional_create: true,
            invoices: true,
            charges: true,
            slots: true,
            schedules: true,
            subscriptions: true,
            pending_is_booked: false,
            rate: rate(20),
        };
        let plain =
            Self { plans: false, if_match: false, conditional_create: false, subscriptions: false, ..full.clone() };
        match dialect {
            Dialect::FullR4 => full,
            Dialect::ModmedEma => Self {
                feed: Feed::Day,
                encounters: Feed::Day,
                patients: Feed::Day,
                numbered_pages: true,
                page: 50,
                by_ids: false,
                invoices: false,
                pending_is_booked: true,
                rate: rate(15),
                ..plain
            },
            Dialect::NextechStu3 => Self {
                feed: Feed::Dates,
                page: 50,
                encounters: Feed::None,
                patients: Feed::None,
                by_ids: false,
                invoices: false,
                charges: false,
                rate: rate(10),
                ..plain
            },
            Dialect::Canvas => Self { feed: Feed::Dates, invoices: false, charges: false, rate: rate(5), ..plain },
            Dialect::Athena => Self {
                feed: Feed::None,
                by_ids: false,
                by_contact: false,
                books: false,
                invoices: false,
                charges: false,
                slots: false,
                schedules: false,
                rate: rate(5),
                ..plain
            },
            Dialect::UsCoreOnly => Self {
                feed: Feed::None,
                page: 50,
                by_contact: false,
                books: false,
                invoices: false,
                charges: false,
                slots: false,
                schedules: false,
                rate: rate(5),
                ..plain
            },
        }
    }

    /// Without what the server does not promise. What it promises and the vendor's profile lacks is not believed: presence is
    /// no proof.
    #[must_use]
    pub fn narrowed(mut self, statement: &Capabilities) -> Self {
        let searches = |kind: &str, name: &str| statement.of(kind).is_some_and(|known| known.searches(name));
        let does = |kind: &str, what: &str| statement.of(kind).is_some_and(|known| known.does(what));
        if statement.of("Appointment").is_none() {
            self.feed = Feed::None;
        } else if self.feed == Feed::Instant && !searches("Appointment", "_lastUpdated") {
            self.feed = if searches("Appointment", "date") { Feed::Dates } else { Feed::None };
        }
        for (feed, kind) in [(&mut self.encounters, "Encounter"), (&mut self.patients, "Patient")] {
            if !searches(kind, "_lastUpdated") {
                *feed = Feed::None;
            }
        }
        self.plans &= searches("ServiceRequest", "_lastUpdated") && searches("ServiceRequest", "authored");
        self.by_contact &= searches("Patient", "email") && searches("Patient", "phone");
        self.books &= does("Appointment", "create") && does("Appointment", "update");
        self.if_match &=
            statement.of("Appointment").is_none_or(|known| known.versioning.as_deref() != Some("no-version"));
        let made_once = |kind: &str| statement.of(kind).is_some_and(|known| known.conditional_create);
        self.conditional_create &= made_once("Appointment") && made_once("Patient");
        self.invoices &= statement.of("Invoice").is_some();
        self.charges &= statement.of("ChargeItem").is_some();
        self.slots &= statement.of("Slot").is_some();
        self.schedules &= statement.of("Schedule").is_some();
        self.subscriptions &= does("Subscription", "create");
        self
    }
}

/// A CapabilityStatement, as far as it is looked at.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Capabilities {
    /// Which FHIR.
    pub fhir_version: String,
    format: Vec<String>,
    rest: Vec<Rest>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Rest {
    mode: String,
    resource: Vec<Promised>,
}

/// What is promised of one type.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Promised {
    #[serde(rename = "type")]
    kind: String,
    interaction: Vec<BTreeMap<String, serde_json::Value>>,
    search_param: Vec<BTreeMap<String, serde_json::Value>>,
    /// `no-version`, `versioned` or `versioned-update`.
    pub versioning: Option<String>,
    /// Whether `If-None-Exist` is heeded.
    pub conditional_create: bool,
}

impl Promised {
    fn has(list: &[BTreeMap<String, serde_json::Value>], key: &str, wanted: &str) -> bool {
        list.iter().any(|one| one.get(key).and_then(serde_json::Value::as_str) == Some(wanted))
    }

    /// Whether it can be searched by this parameter. A statement that names none at all is one that was not filled in.
    #[must_use]
    pub fn searches(&self, name: &str) -> bool {
        self.search_param.is_empty() || Self::has(&self.search_param, "name", name)
    }

    /// Whether this interaction is there.
    #[must_use]
    pub fn does(&self, interaction: &str) -> bool {
        Self::has(&self.interaction, "code", interaction)
    }
}

impl Capabilities {
    /// What is promised of a type.
    #[must_use]
    pub fn of(&self, kind: &str) -> Option<&Promised> {
        let server = self.rest.iter().filter(|rest| rest.mode == "server");
        server.flat_map(|rest| &rest.resource).find(|known| known.kind == kind)
    }

    /// Whether it speaks JSON.
    #[must_use]
    pub fn speaks_json(&self) -> bool {
        self.format.is_empty() || self.format.iter().any(|format| format.contains("json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(text: &str) -> Capabilities {
        serde_json::from_str(text).expect("a statement")
    }

    #[test]
    fn a_profile_only_narrows() {
        let all = statement(
            r#"{"fhirVersion":"4.0.1","rest":[{"mode":"server","resource":[{"type":"Appointment","versioning":"no-version",
            "interaction":[{"code":"read"}],"searchParam":[{"name":"date"}]}]}]}"#,
        );
        let full = Profile::of(Dialect::FullR4).narrowed(&all);
        assert_eq!(full.feed, Feed::Dates, "no `_lastUpdated` is promised");
        assert!(!full.books && !full.if_match && !full.invoices && !full.subscriptions);
        assert!(!full.plans && !full.slots && !full.schedules);
        assert_eq!((full.encounters, full.patients), (Feed::None, Feed::None));
        let us_core = Profile::of(Dialect::UsCoreOnly).narrowed(&all);
        assert_eq!(us_core.feed, Feed::None, "what is promised and not known of the vendor is not believed");
    }

    #[test]
    fn every_dialect_has_a_word() {
        for (dialect, word) in Dialect::ALL {
            assert_eq!(word.parse::<Dialect>().ok(), Some(dialect));
            assert_eq!(dialect.as_str(), word);
        }
    }
}
