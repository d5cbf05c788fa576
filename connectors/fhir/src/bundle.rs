//! Searches, and the bundles that answer them.
//!
//! Servers ignore filters that they do not know, silently, and answer the whole table: the `self` link tells which were heeded.
//! Links to the next page are followed as they are, and never to another server. Source: <https://hl7.org/fhir/R4/search.html>.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tandem_contract::{ConnectorError, Lane};
use url::Url;

use crate::{
    Fhir,
    client::{Ask, OUTCOME, Typed},
};

/// A page of resources.
pub struct Rows {
    /// They.
    pub found: Vec<Box<RawValue>>,
    /// Where to go on.
    pub next: Option<String>,
}

/// A page. What is anything else, such as an OperationOutcome that came with 200, is no page without rows.
#[derive(Deserialize)]
struct Bundle {
    #[serde(rename = "resourceType")]
    _kind: IsBundle,
    #[serde(default)]
    link: Vec<Link>,
    #[serde(default)]
    entry: Vec<Entry>,
}

#[derive(Deserialize)]
enum IsBundle {
    Bundle,
}

#[derive(Deserialize)]
struct Link {
    relation: String,
    url: String,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    resource: Option<Box<RawValue>>,
    #[serde(default)]
    search: Mode,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Mode {
    mode: Option<String>,
}

impl Bundle {
    fn link(&self, relation: &str) -> Option<&str> {
        self.link.iter().find(|link| link.relation == relation).map(|link| link.url.as_str())
    }

    /// Only matches: what was included and what is said about the search are not what was asked for, whether a server says which
    /// is which or not.
    fn matches(self) -> Vec<Box<RawValue>> {
        let is_match = |entry: &Entry| entry.search.mode.as_deref().is_none_or(|mode| mode == "match");
        let is_said = |raw: &RawValue| parse::<Typed>(raw).is_ok_and(|said| said.kind == OUTCOME);
        let rows = self.entry.into_iter().filter(is_match).filter_map(|entry| entry.resource);
        rows.filter(|raw| !is_said(raw)).collect()
    }
}

/// Text as it stands in a search value: commas and bars mean something there.
pub fn escaped(text: &str) -> String {
    let special = |letter: char| matches!(letter, '\\' | ',' | '|' | '$');
    text.chars().flat_map(|letter| special(letter).then_some('\\').into_iter().chain([letter])).collect()
}

/// What a resource says, of a type that has a place for it.
///
/// # Errors
/// [`ConnectorError::Malformed`] names the path.
pub fn parse<T: DeserializeOwned>(raw: &RawValue) -> Result<T, ConnectorError> {
    serde_json::from_str(raw.get()).or_else(|_| {
        let mut json = serde_json::Deserializer::from_str(raw.get());
        serde_path_to_error::deserialize(&mut json).map_err(|error| ConnectorError::malformed(&error))
    })
}

/// Whether the filters of a search were heeded, as far as the server tells.
fn heeded<'a>(link: Option<&str>, filters: impl Iterator<Item = &'a str>) -> Result<(), ConnectorError> {
    let Some((_, query)) = link.and_then(|link| link.split_once('?')) else { return Ok(()) };
    let pairs: Vec<String> = url::form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name.into_owned()).collect();
    // A page of a stored search says nothing of the search.
    if pairs.iter().any(|name| name == "_getpages") {
        return Ok(());
    }
    let is_filter = |name: &str| !matches!(name, "_count" | "_sort" | "_elements" | "page");
    let mut asked = filters.filter(|name| is_filter(name));
    let missed = asked.find(|name| !pairs.iter().any(|heeded| heeded.split(':').next() == Some(name)));
    match missed {
        None => Ok(()),
        Some(name) => Err(ConnectorError::Rejected {
            field: Some(name.to_owned()),
            reason: "the server ignores this filter and answers everything".into(),
        }),
    }
}

/// A page of a search: the first, or the one that the last named.
///
/// # Errors
/// [`ConnectorError`]; one of [`ConnectorError::Gone`] and [`ConnectorError::Rejected`] where the server does not know its own
/// link any more.
pub async fn search(
    fhir: &Fhir,
    lane: Lane,
    kind: &str,
    filters: &[(&'static str, String)],
    at: Option<&str>,
) -> Result<Rows, ConnectorError> {
    let profile = fhir.profile();
    let number: usize = at.and_then(|at| at.strip_prefix("page:")?.parse().ok()).unwrap_or(1);
    let next: Option<Url> = at.filter(|_| !profile.numbered_pages).and_then(|at| at.parse().ok());
    let is_first = next.is_none();
    let ask = match next {
        Some(url) if fhir.client.is_here(&url) => Ask::next(url, lane),
        Some(_) => return Err(elsewhere()),
        None => {
            let mut ask = Ask::get(&[kind], lane);
            for (name, value) in filters {
                ask = ask.query(name, value.clone());
            }
            ask = ask.query("_count", profile.page.to_string());
            if profile.numbered_pages { ask.query("page", number.to_string()) } else { ask }
        }
    };
    let bundle: Bundle = fhir.client.read(&ask).await?;
    if is_first {
        heeded(bundle.link("self"), filters.iter().map(|(name, _)| *name))?;
    }
    if profile.numbered_pages {
        if number > MOST_NUMBERS {
            return Err(ConnectorError::Rejected { field: Some("page".into()), reason: "the pages do not end".into() });
        }
        let found = bundle.matches();
        let next = (!found.is_empty()).then(|| format!("page:{}", number.saturating_add(1)));
        return Ok(Rows { found, next });
    }
    let next = bundle.link("next").map(str::to_owned);
    if let Some(next) = &next
        && !fhir.client.base_url().join(next).is_ok_and(|url| fhir.client.is_here(&url))
    {
        return Err(elsewhere());
    }
    let next = next.and_then(|next| fhir.client.base_url().join(&next).ok()).map(String::from);
    let next = next.filter(|next| at != Some(next.as_str()));
    Ok(Rows { found: bundle.matches(), next })
}

fn elsewhere() -> ConnectorError {
    ConnectorError::Malformed { path: "link.next, which leads to another server".into() }
}

/// A search whose values are personal, all of its pages up to a bound. Servers leave such values out of their `self` links, so
/// whoever asks holds each row against what was asked.
///
/// # Errors
/// [`ConnectorError`].
pub async fn quietly<T: DeserializeOwned>(
    fhir: &Fhir,
    lane: Lane,
    kind: &str,
    pairs: &[(&str, &str)],
) -> Result<Vec<T>, ConnectorError> {
    let mut found = Vec::new();
    let mut bundle: Bundle = fhir.client.read_quietly(kind, pairs, lane).await?;
    for left in (0..MOST_PAGES).rev() {
        let next = bundle.link("next").and_then(|next| fhir.client.base_url().join(next).ok());
        for raw in bundle.matches() {
            found.push(parse(&raw)?);
        }
        match next {
            Some(url) if left > 0 && fhir.client.is_here(&url) => {
                bundle = fhir.client.read(&Ask::next(url, lane)).await?
            }
            _ => break,
        }
    }
    Ok(found)
}

/// Numbered pages of one search: a server that answers more ignores the number.
const MOST_NUMBERS: usize = 2_000;
/// Pages of a search for one person: more is no search for one person.
const MOST_PAGES: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ignored_filter_is_told_by_the_self_link() {
        let asked = ["_lastUpdated", "_count"];
        let base = "https://ehr.example.test/fhir/R4/Appointment";
        assert!(heeded(Some(&format!("{base}?_lastUpdated=ge2026-01-01&_count=5")), asked.into_iter()).is_ok());
        assert!(heeded(Some(&format!("{base}?_getpages=sim-7c1e")), asked.into_iter()).is_ok());
        let error = heeded(Some(&format!("{base}?_count=5")), asked.into_iter()).expect_err("ignored");
        assert!(error.to_string().contains("_lastUpdated"), "{error}");
    }

    #[test]
    fn what_means_something_in_a_search_is_escaped() {
        assert_eq!(escaped(r"CHG|17,22$\"), r"CHG\|17\,22\$\\");
    }
}
