//! Where each call goes, in each generation of HubSpot's API.
//!
//! Source: HubSpot developer documentation, "Versioning": since March 2026 the version is a date in the path; v3
//! (with v4 for associations) stays until September 2027.

use std::str::FromStr;

use tandem_contract::Kind;

/// A generation of HubSpot's paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiVersion {
    /// `/YYYY-MM/`, such as `2026-09`.
    Dated(String),
    /// `v3`, and `v4` for associations.
    V3,
}

impl Default for ApiVersion {
    fn default() -> Self {
        Self::Dated("2026-09".into())
    }
}

/// Not a version of HubSpot's API.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a HubSpot API version; use `2026-09`, `2026-03` or `v3`")]
pub struct UnknownVersion(String);

impl FromStr for ApiVersion {
    type Err = UnknownVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let dated = text.len() >= 7
            && text.as_bytes()[..7]
                .iter()
                .enumerate()
                .all(|(i, b)| if i == 4 { *b == b'-' } else { b.is_ascii_digit() })
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        match text {
            "v3" => Ok(Self::V3),
            _ if dated => Ok(Self::Dated(text.to_owned())),
            _ => Err(UnknownVersion(text.to_owned())),
        }
    }
}

impl ApiVersion {
    /// `/crm/objects/{version}/deals`
    pub fn objects(&self, kind: Kind) -> String {
        self.crm("objects", plural(kind))
    }

    /// `/crm/pipelines/{version}/deals`
    pub fn pipelines(&self) -> String {
        self.crm("pipelines", "deals")
    }

    /// `/crm/properties/{version}/deals`
    pub fn properties(&self, kind: Kind) -> String {
        self.crm("properties", plural(kind))
    }

    /// `/crm/owners/{version}`
    pub fn owners(&self) -> String {
        match self {
            Self::Dated(version) => format!("/crm/owners/{version}"),
            Self::V3 => "/crm/v3/owners".into(),
        }
    }

    /// `/crm/associations/{version}/deals/contacts/batch/{verb}`
    pub fn associations(&self, verb: &str) -> String {
        match self {
            Self::Dated(version) => format!("/crm/associations/{version}/deals/contacts/batch/{verb}"),
            Self::V3 => format!("/crm/v4/associations/deals/contacts/batch/{verb}"),
        }
    }

    /// `/oauth/{version}/token`
    pub fn token(&self) -> String {
        match self {
            Self::Dated(version) => format!("/oauth/{version}/token"),
            Self::V3 => "/oauth/v3/token".into(),
        }
    }

    /// `/account-info/{version}/details`
    pub fn account(&self) -> String {
        match self {
            Self::Dated(version) => format!("/account-info/{version}/details"),
            Self::V3 => "/account-info/v3/details".into(),
        }
    }

    fn crm(&self, area: &str, object: &str) -> String {
        match self {
            Self::Dated(version) => format!("/crm/{area}/{version}/{object}"),
            Self::V3 => format!("/crm/v3/{area}/{object}"),
        }
    }
}

/// HubSpot's word for a kind in paths.
pub fn plural(kind: Kind) -> &'static str {
    match kind {
        Kind::Company => "companies",
        Kind::Contact => "contacts",
        Kind::Deal | Kind::Appointment | Kind::Sale => "deals",
    }
}

/// The property that holds a record's modification time. The wrong one yields no rows and no error.
pub fn modified_property(kind: Kind) -> &'static str {
    match kind {
        Kind::Contact => "lastmodifieddate",
        _ => "hs_lastmodifieddate",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_generation_has_its_own_paths() {
        let dated = ApiVersion::default();
        assert_eq!(dated.objects(Kind::Deal), "/crm/objects/2026-09/deals");
        assert_eq!(dated.associations("read"), "/crm/associations/2026-09/deals/contacts/batch/read");
        assert_eq!(ApiVersion::V3.objects(Kind::Contact), "/crm/v3/objects/contacts");
        assert_eq!(ApiVersion::V3.associations("read"), "/crm/v4/associations/deals/contacts/batch/read");
        assert_eq!("2027-03-beta".parse(), Ok(ApiVersion::Dated("2027-03-beta".into())));
        assert!("v4".parse::<ApiVersion>().is_err() && "../x".parse::<ApiVersion>().is_err());
    }
}
