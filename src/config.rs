//! The configuration: one typed struct, from the file and then the environment. Unknown keys are refused by name;
//! secrets are wrapped and may be given by reference.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;
use tandem_contract::{Limit, Secret, VisitClass};

use crate::{
    model::{Name, Profile, Trigger, Types, VisitRules},
    sync::{
        connection::Filter,
        guard::Limits,
        lens::Direction,
        plan::OnFirstLink,
        presence::{OnLocalDelete, OnRemoteDelete},
    },
};

/// The configuration is not usable; the text names the key, the file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// No file.
    #[error(
        "there is no configuration file {0}: copy config/tandem.example.toml there, name another with --config, or try `tandem demo`"
    )]
    Missing(PathBuf),
    /// Does not parse, or an unknown key.
    #[error("the configuration does not fit: {0}")]
    Unfit(String),
    /// A reference leads nowhere.
    #[error("{key}: {why}")]
    Reference {
        /// Which key.
        key: String,
        /// What is wrong; never the secret.
        why: String,
    },
    /// A value makes no sense.
    #[error("{key}: {why}")]
    Value {
        /// Which key.
        key: String,
        /// What is wrong.
        why: String,
    },
}

/// Text that may be `env:NAME`, `file:PATH` or itself. `Debug` prints the source, never a literal.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Text(String);

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let is_reference = self.0.starts_with("env:") || self.0.starts_with("file:");
        f.write_str(if is_reference { &self.0 } else { "[literal]" })
    }
}

impl Text {
    /// A literal.
    #[must_use]
    pub fn literal(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text it stands for; files are read relative to the configuration's folder.
    ///
    /// # Errors
    /// [`ConfigError::Reference`] names the key and the reference.
    pub fn resolve(&self, key: &str, folder: &Path) -> Result<String, ConfigError> {
        let wrong = |why: String| ConfigError::Reference { key: key.to_owned(), why };
        if let Some(name) = self.0.strip_prefix("env:") {
            return std::env::var(name).map_err(|_| wrong(format!("the environment variable {name} is not set")));
        }
        if let Some(path) = self.0.strip_prefix("file:") {
            let path = folder.join(path);
            let text = std::fs::read_to_string(&path)
                .map_err(|error| wrong(format!("{} cannot be read: {error}", path.display())))?;
            return Ok(text.trim_end_matches(['\r', '\n']).to_owned());
        }
        Ok(self.0.clone())
    }

    /// The secret it stands for.
    ///
    /// # Errors
    /// As [`Text::resolve`]; an empty secret is refused.
    pub fn secret(&self, key: &str, folder: &Path) -> Result<Secret, ConfigError> {
        let text = self.resolve(key, folder)?;
        if text.is_empty() {
            return Err(ConfigError::Reference { key: key.to_owned(), why: "is empty".into() });
        }
        Ok(Secret::new(text))
    }
}

/// Everything.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `[database]`
    #[serde(default)]
    pub database: Database,
    /// `[http]`
    #[serde(default)]
    pub http: Http,
    /// `[auth]`
    #[serde(default)]
    pub auth: Auth,
    /// `[security]`
    pub security: Security,
    /// `[engine]`
    #[serde(default)]
    pub engine: Engine,
    /// `[accounts.NAME]`
    #[serde(default)]
    pub accounts: BTreeMap<Name, Account>,
    /// `[connections.NAME]`
    #[serde(default)]
    pub connections: BTreeMap<Name, Connection>,
    /// The folder of the file: relative paths start here.
    #[serde(skip)]
    pub folder: PathBuf,
}

/// Where everything is kept.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    /// `sqlite://file` or `postgres://…`.
    pub url: Text,
}

impl Default for Database {
    fn default() -> Self {
        Self { url: Text::literal("sqlite://tandem.db") }
    }
}

/// The daemon's door.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    /// Address and port to listen on.
    pub listen: Text,
    /// What vendors call back; webhooks are signed over it.
    pub public_url: Option<Text>,
}

impl Default for Http {
    fn default() -> Self {
        Self { listen: Text::literal("127.0.0.1:8080"), public_url: None }
    }
}

/// Who may use the API.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Auth {
    /// A token that may do everything in every account; the account is named in `Tandem-Account`.
    pub bootstrap_token: Option<Text>,
}

/// What seals secrets at rest.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Security {
    /// 32 bytes in base64.
    pub master_key: Text,
}

/// How the engine works.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Engine {
    /// How long a lease lasts without renewal.
    pub lease_seconds: u64,
    /// Hours between two audits of everything.
    pub audit_hours: u64,
    /// The mass-change guard.
    pub guard: Limits,
}

impl Default for Engine {
    fn default() -> Self {
        Self { lease_seconds: 30, audit_hours: 24, guard: Limits::default() }
    }
}

/// A business.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Policy profile.
    #[serde(default)]
    pub profile: Profile,
    /// IANA time zone.
    #[serde(default = "utc")]
    pub timezone: chrono_tz::Tz,
    /// ISO 4217 code.
    #[serde(default = "usd")]
    pub currency: crate::model::Currency,
    /// `[accounts.NAME.sales_triggers.NAME]`: which sales close opportunities; any, where there is none.
    #[serde(default)]
    pub sales_triggers: BTreeMap<Name, Trigger>,
    /// `[accounts.NAME.types.NAME]`: the kinds of its sales.
    #[serde(default)]
    pub types: Types,
    /// `[accounts.NAME.visit_rules.NAME]`: how visits at a clinic move opportunities.
    #[serde(default)]
    pub visit_rules: BTreeMap<Name, VisitRules>,
}

impl Account {
    /// Ties types and sales triggers together, whichever of the two names the other (CB-14).
    fn tie_types(&mut self, account: &Name) -> Result<(), ConfigError> {
        let wrong = |key: String, why: String| ConfigError::Value { key: format!("accounts.{account}.{key}"), why };
        let mut taken = BTreeSet::new();
        for (name, one) in &self.types {
            let label = one.label.as_deref().map(|label| label.trim().to_ascii_lowercase());
            if label.as_deref() == Some("") {
                return Err(wrong(format!("types.{name}.label"), "is blank: leave it out, and it is the name".into()));
            }
            let words: BTreeSet<String> = label.into_iter().chain([name.to_string()]).collect();
            if words.into_iter().any(|word| !taken.insert(word)) {
                let why = "is what another type goes by: which of the two is meant could not be told".into();
                return Err(wrong(format!("types.{name}.label"), why));
            }
            if one.value.is_some_and(|value| value.is_sign_negative()) {
                return Err(wrong(format!("types.{name}.value"), "is less than nothing".into()));
            }
            one.worth(self.currency).map_err(|error| wrong(format!("types.{name}.value"), error.to_string()))?;
            if let Some(named) = &one.sales_trigger {
                let trigger = self.sales_triggers.get_mut(named).ok_or_else(|| {
                    let why = format!("there is no [accounts.{account}.sales_triggers.{named}]");
                    wrong(format!("types.{name}.sales_trigger"), why)
                })?;
                trigger.types.insert(name.clone());
            }
        }
        for (name, trigger) in &self.sales_triggers {
            if let Some(unknown) = trigger.types.iter().find(|named| !self.types.contains_key(*named)) {
                let why = format!("there is no [accounts.{account}.types.{unknown}]");
                return Err(wrong(format!("sales_triggers.{name}.types"), why));
            }
        }
        Ok(())
    }
}

fn utc() -> chrono_tz::Tz {
    chrono_tz::UTC
}

#[expect(clippy::expect_used, reason = "a constant that parses")]
fn usd() -> crate::model::Currency {
    crate::model::Currency::new("USD").expect("a currency")
}

/// Requests in a window.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// How many.
    pub requests: u32,
    /// In how many seconds.
    pub per_seconds: u64,
}

impl From<RateLimit> for Limit {
    fn from(limit: RateLimit) -> Self {
        Self { requests: limit.requests.max(1), per: Duration::from_secs(limit.per_seconds.max(1)) }
    }
}

/// A connection to a vendor.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connection {
    /// The account it belongs to.
    pub account: Name,
    /// `hubspot`, `pipedrive`, `square` or `fhir`.
    pub connector: String,
    /// The vendor's own address if left out.
    #[serde(default)]
    pub base_url: Option<Text>,
    /// Secrets by name.
    #[serde(default)]
    pub credentials: BTreeMap<String, Text>,
    /// Where OAuth grants are exchanged; beside `base_url` if left out.
    #[serde(default)]
    pub token_url: Option<Text>,
    /// Where a person lets an OAuth app in; the vendor's own address if left out, at Square the one beside `base_url`.
    #[serde(default)]
    pub authorize_url: Option<Text>,
    /// The app's callback address, letter by letter as the vendor has it.
    #[serde(default)]
    pub redirect_uri: Option<Text>,
    /// Which generation of the vendor's API.
    #[serde(default)]
    pub api_version: Option<String>,
    /// `both`, `in` (read-only, the careful first step) or `out`.
    #[serde(default)]
    pub direction: Direction,
    /// Which records are taken in.
    #[serde(default)]
    pub filter: Filter,
    /// What happens when two records meet that never agreed.
    #[serde(default)]
    pub on_first_link: OnFirstLink,
    /// What a deletion at the vendor does here.
    #[serde(default)]
    pub on_remote_delete: OnRemoteDelete,
    /// What a deletion here does at the vendor.
    #[serde(default)]
    pub on_local_delete: OnLocalDelete,
    /// The vendor's documented floor if left out.
    #[serde(default)]
    pub rate_limit: Option<RateLimit>,
    /// The vendor's documented floor if left out.
    #[serde(default)]
    pub search_rate_limit: Option<RateLimit>,
    /// Calls a day; at Pipedrive tokens, those of its plan and seats if left out.
    #[serde(default)]
    pub daily_budget: Option<u64>,
    /// The plan of a Pipedrive company.
    #[serde(default)]
    pub plan: Option<String>,
    /// Its seats; one if left out.
    #[serde(default)]
    pub seats: Option<u32>,
    /// Derived from the budget if left out.
    #[serde(default)]
    pub poll_seconds: Option<u64>,
    /// The connector's default mapping if left out.
    #[serde(default)]
    pub mapping: Option<PathBuf>,
    /// Accept webhooks that carry only the replayable v1 signature.
    #[serde(default)]
    pub accept_v1_signature: bool,
    /// Name of our own property, which tells records that we made.
    #[serde(default)]
    pub marker_property: Option<String>,
    /// When a request is given up.
    #[serde(default)]
    pub request_timeout_seconds: Option<u64>,
    /// Whose dialect a FHIR server speaks.
    #[serde(default)]
    pub dialect: Option<String>,
    /// What a clinic's codes stand for.
    #[serde(default)]
    pub visit_types: Vec<VisitType>,
    /// Headers that a FHIR server wants besides.
    #[serde(default)]
    pub headers: BTreeMap<String, Text>,
    /// Whether a clinic's contact details of patients are kept in step.
    #[serde(default)]
    pub patients: bool,
    /// The topic that a FHIR server offers to subscribe to.
    #[serde(default)]
    pub subscription_topic: Option<String>,
}

/// A code that a clinic books with, and what it stands for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisitType {
    /// The code's system; any, if left out.
    #[serde(default)]
    pub system: Option<String>,
    /// The code.
    pub code: String,
    /// `consult`, `treatment`, `follow_up` or `ignored`.
    pub class: VisitClass,
    /// The service line.
    #[serde(default)]
    pub service: Option<String>,
    /// What people call it when they book it from here: `meeting`, `service`, `rental`.
    #[serde(default)]
    pub kind: Option<String>,
}

impl Config {
    /// Reads the file, then `TANDEM_…` variables: `TANDEM_CONNECTIONS__HUBSPOT__POLL_SECONDS`.
    ///
    /// # Errors
    /// [`ConfigError`] names what is wrong and where.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        if !path.exists() {
            return Err(ConfigError::Missing(path.to_owned()));
        }
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::Unfit(format!("{}: {error}", path.display())))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned();
        Self::parse(&text, folder)
    }

    /// Reads a text, then the environment.
    ///
    /// # Errors
    /// [`ConfigError`] names what is wrong and where.
    pub fn parse(text: &str, folder: PathBuf) -> Result<Self, ConfigError> {
        let environment = config::Environment::with_prefix("TANDEM").prefix_separator("_").separator("__");
        let built = config::Config::builder()
            .add_source(config::File::from_str(text, config::FileFormat::Toml))
            .add_source(environment)
            .build()
            .and_then(config::Config::try_deserialize::<Self>);
        let mut config = built.map_err(|error| ConfigError::Unfit(error.to_string()))?;
        config.folder = folder;
        for (name, account) in &mut config.accounts {
            account.tie_types(name)?;
        }
        for (name, connection) in &config.connections {
            if !config.accounts.contains_key(&connection.account) {
                return Err(ConfigError::Value {
                    key: format!("connections.{name}.account"),
                    why: format!("there is no [accounts.{}]", connection.account),
                });
            }
        }
        Ok(config)
    }

    /// One connection from TOML, as `connection add` stores it.
    ///
    /// # Errors
    /// [`ConfigError`] names what is wrong.
    pub fn parse_connection(text: &str) -> Result<Connection, ConfigError> {
        toml::from_str(text).map_err(|error| ConfigError::Unfit(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "[security]\nmaster_key = \"env:NO_SUCH_KEY\"\n[accounts.glow_clinic]\nprofile = \"clinic\"\n";

    fn parse(text: &str) -> Result<Config, ConfigError> {
        Config::parse(text, PathBuf::from("."))
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = parse(&format!("{SMALL}\n[database]\nurll = \"x\"")).unwrap_err().to_string();
        assert!(error.contains("urll"), "{error}");
    }

    #[test]
    fn a_reference_that_leads_nowhere_is_named() {
        let config = parse(SMALL).unwrap();
        let error = config.security.master_key.secret("security.master_key", &config.folder).unwrap_err().to_string();
        assert_eq!(error, "security.master_key: the environment variable NO_SUCH_KEY is not set");
    }

    #[test]
    fn a_connection_names_an_account_that_exists() {
        let text = format!("{SMALL}\n[connections.hubspot]\naccount = \"other\"\nconnector = \"hubspot\"");
        assert_eq!(parse(&text).unwrap_err().to_string(), "connections.hubspot.account: there is no [accounts.other]");
    }

    #[test]
    fn cb_14_types_and_triggers_name_one_another_and_what_is_not_there_is_named() {
        let trigger = "[accounts.glow_clinic.sales_triggers.paid]\n";
        let types = "[accounts.glow_clinic.types.gold]\nlabel = \"Gold plan\"\nsales_trigger = \"paid\"\n";
        let config = parse(&format!("{SMALL}{trigger}{types}")).unwrap();
        let tied = config.accounts.values().next().unwrap().sales_triggers.values().next().unwrap().types.clone();
        assert_eq!(tied.into_iter().map(|name| name.to_string()).collect::<Vec<_>>(), ["gold"]);
        for (text, want) in [
            (types.to_owned(), "types.gold.sales_trigger: there is no [accounts.glow_clinic.sales_triggers.paid]"),
            (format!("{trigger}types = [\"gold\"]\n"), "sales_triggers.paid.types: there is no"),
            (format!("{trigger}{types}[accounts.glow_clinic.types.silver]\nlabel = \"gold\"\n"), "types.silver.label"),
            ("[accounts.glow_clinic.types.gold]\nvalue = 1.005\n".to_owned(), "types.gold.value"),
            ("[accounts.glow_clinic.types.gold]\nvalue = -1\n".to_owned(), "types.gold.value: is less than nothing"),
            ("[accounts.glow_clinic.types.gold]\nlabel = \" \"\n".to_owned(), "types.gold.label: is blank"),
        ] {
            let error = parse(&format!("{SMALL}{text}")).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn a_literal_secret_is_not_printed() {
        assert_eq!(format!("{:?}", Text::literal("pat-canary")), "[literal]");
    }
}
