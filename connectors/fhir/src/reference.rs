//! References between resources: relative, absolute, versioned. One to another server is not followed.

use serde::{Deserialize, Deserializer};
use url::Url;

/// A reference, as loosely as it is promised.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Reference {
    /// `Patient/1`, an address, or something else.
    pub reference: Option<String>,
}

impl Reference {
    /// The id, if it is of this type and on this server.
    #[must_use]
    pub fn id(&self, kind: &str, base: &Url) -> Option<String> {
        let text = self.reference.as_deref()?;
        let text = match text.contains("://") {
            true => text.strip_prefix(base.as_str().trim_end_matches('/'))?.trim_start_matches('/'),
            false => text,
        };
        let mut parts = text.split('/');
        let id = (parts.next()? == kind).then(|| parts.next()).flatten().filter(|id| !id.is_empty())?;
        // Nothing, or the version that was meant.
        matches!(parts.next(), None | Some("_history")).then(|| id.to_owned())
    }
}

/// One, several or none: STU3 has one encounter's appointment where R4 has a list.
pub fn one_or_many<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Reference>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Many(Vec<Reference>),
        One(Reference),
    }
    Ok(match Option::deserialize(from)? {
        None => Vec::new(),
        Some(Either::One(one)) => vec![one],
        Some(Either::Many(many)) => many,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_read_in_every_form_and_not_followed_elsewhere() {
        let base: Url = "https://ehr.example.test/fhir/R4".parse().expect("an address");
        let id = |text: &str| Reference { reference: Some(text.into()) }.id("Patient", &base);
        assert_eq!(id("Patient/1").as_deref(), Some("1"));
        assert_eq!(id("https://ehr.example.test/fhir/R4/Patient/1/_history/2").as_deref(), Some("1"));
        for other in
            ["Practitioner/1", "https://elsewhere.example.test/fhir/R4/Patient/1", "#x", "urn:uuid:1", "Patient/"]
        {
            assert_eq!(id(other), None, "{other}");
        }
    }
}
