//! The connectors there are, and how each is made of its configuration.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use tandem_contract::{Clock, Connector, Credentials, KeepRefreshToken, Kind, Secret, Transport};
use tandem_fhir::{Fhir, Login, PrivateKey};
use tandem_hubspot::HubSpot;
use tandem_pipedrive::Pipedrive;
use tandem_square::Square;
use url::Url;

use crate::{
    config::{ConfigError, Connection as Settings, Text},
    installation::SetupError,
    model::{Account, Name, digest},
    store::sql::SqlStore,
    sync::{
        connection::Connection,
        lens::{Direction, Lens},
        mapping,
    },
};

/// The connectors by name, each with the mapping it comes with.
pub const CONNECTORS: [(&str, &str); 4] = [
    ("hubspot", include_str!("../config/mappings/hubspot.toml")),
    ("pipedrive", include_str!("../config/mappings/pipedrive.toml")),
    ("square", include_str!("../config/mappings/square.toml")),
    ("fhir", include_str!("../config/mappings/fhir.toml")),
];

/// What every connection of an installation is made with.
pub struct Parts<'a> {
    /// Where renewed grants are kept.
    pub store: Arc<SqlStore>,
    /// This installation's id.
    pub installation: &'a str,
    /// Where relative paths start.
    pub folder: &'a Path,
    /// Where vendors reach the daemon.
    pub public_url: Option<&'a str>,
    /// How vendors are reached.
    pub transport: Arc<dyn Transport>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// The account's other connections.
#[derive(Debug, Default)]
pub struct Others {
    /// Those that are written to.
    pub siblings: Vec<Name>,
    /// Those that are only read.
    pub sources: Vec<Name>,
}

/// Makes a connection of its configuration.
///
/// # Errors
/// [`SetupError`] names the key that is wrong.
pub async fn connect(
    name: &Name,
    settings: &Settings,
    account: &Account,
    others: Others,
    parts: Parts<'_>,
) -> Result<Connection, SetupError> {
    let (folder, installation, store) = (parts.folder, parts.installation.to_owned(), parts.store.clone());
    let making = Making { name, settings, account, parts };
    let Some((_, default)) = CONNECTORS.iter().find(|(known, _)| *known == settings.connector) else {
        let known = CONNECTORS.map(|(known, _)| known).join(", ");
        return Err(making
            .wrong("connector", format!("`{}` is not a connector; there are {known}", settings.connector))
            .into());
    };
    let text = match &settings.mapping {
        None => (*default).to_owned(),
        Some(path) => {
            let path = folder.join(path);
            std::fs::read_to_string(&path)
                .map_err(|error| making.wrong("mapping", format!("{} cannot be read: {error}", path.display())))?
        }
    };
    let lenses = mapping::parse(&text).map_err(|error| SetupError::Mapping { connection: name.clone(), error })?;
    let hook = match making.parts.public_url {
        None => None,
        Some(url) => {
            let url = format!("{}/webhooks/{name}", url.trim_end_matches('/'));
            let parsed = url.parse::<Url>().map_err(|error| ConfigError::Value {
                key: "http.public_url".into(),
                why: format!("is not an address: {error}"),
            })?;
            Some(parsed)
        }
    };
    let connector: Arc<dyn Connector> = match settings.connector.as_str() {
        "pipedrive" => Arc::new(making.pipedrive(&lenses).await?),
        "square" => Arc::new(making.square(&lenses, hook.as_ref()).await?),
        "fhir" => Arc::new(making.fhir(&lenses)?),
        "hubspot" => Arc::new(making.hubspot(&lenses).await?),
        // It has a mapping, and nobody says how it is made.
        other => return Err(making.wrong("connector", format!("`{other}` cannot be made by this build")).into()),
    };
    let hook_segment = (!connector.signs_webhooks()).then(|| store.hook_segment(name));
    let hook = hook.map(|mut hook| {
        if let (Some(segment), Ok(mut path)) = (&hook_segment, hook.path_segments_mut()) {
            path.push(segment);
        }
        hook
    });
    Ok(Connection {
        account: account.clone(),
        name: name.clone(),
        connector,
        lenses: Connection::one_way(lenses, settings.direction),
        direction: settings.direction,
        on_first_link: settings.on_first_link,
        on_remote_delete: settings.on_remote_delete,
        on_local_delete: settings.on_local_delete,
        filter: settings.filter.clone(),
        installation,
        siblings: others.siblings,
        sources: others.sources,
        hook,
        hook_segment,
    })
}

struct Making<'a> {
    name: &'a Name,
    settings: &'a Settings,
    account: &'a Account,
    parts: Parts<'a>,
}

impl Making<'_> {
    fn key(&self, field: &str) -> String {
        format!("connections.{}.{field}", self.name)
    }

    fn wrong(&self, field: &str, why: String) -> ConfigError {
        ConfigError::Value { key: self.key(field), why }
    }

    fn secret(&self, field: &str) -> Result<Option<Secret>, ConfigError> {
        let text = self.settings.credentials.get(field);
        text.map(|text: &Text| text.secret(&self.key(&format!("credentials.{field}")), self.parts.folder)).transpose()
    }

    /// No other secrets than these: a mistyped one would be missed silently.
    fn only_secrets(&self, known: &[&str]) -> Result<(), ConfigError> {
        match self.settings.credentials.keys().find(|field| !known.contains(&field.as_str())) {
            Some(field) => Err(self.wrong("credentials", format!("`{field}` is not one of {}", known.join(", ")))),
            None => Ok(()),
        }
    }

    /// No settings that are only some vendors', but these.
    fn only_settings(&self, known: &[&str]) -> Result<(), ConfigError> {
        let settings = self.settings;
        let given = [
            ("api_version", settings.api_version.is_some()),
            ("search_rate_limit", settings.search_rate_limit.is_some()),
            ("accept_v1_signature", settings.accept_v1_signature),
            (
                "marker_property",
                settings.marker_property.is_some() && matches!(settings.connector.as_str(), "square" | "fhir"),
            ),
            ("token_url", settings.token_url.is_some() && settings.connector == "square"),
            ("dialect", settings.dialect.is_some()),
            ("visit_types", !settings.visit_types.is_empty()),
            ("headers", !settings.headers.is_empty()),
            ("patients", settings.patients),
            ("subscription_topic", settings.subscription_topic.is_some()),
            ("authorize_url", settings.authorize_url.is_some()),
            ("redirect_uri", settings.redirect_uri.is_some()),
            ("plan", settings.plan.is_some()),
            ("seats", settings.seats.is_some()),
        ];
        match given.into_iter().find(|(field, given)| *given && !known.contains(field)) {
            Some((field, _)) => {
                Err(self.wrong(field, format!("is not a setting of {}: take it out", settings.connector)))
            }
            None => Ok(()),
        }
    }

    fn address(&self, field: &str, given: Option<&Text>) -> Result<Option<Url>, ConfigError> {
        let Some(text) = given else { return Ok(None) };
        let address = text.resolve(&self.key(field), self.parts.folder)?;
        address.parse().map(Some).map_err(|error| self.wrong(field, format!("is not an address: {error}")))
    }

    /// The callback address of an app. It goes as it stands: a vendor compares it letter by letter.
    fn redirect_uri(&self) -> Result<Option<String>, ConfigError> {
        let Some(text) = &self.settings.redirect_uri else { return Ok(None) };
        self.address("redirect_uri", Some(text))?;
        text.resolve(&self.key("redirect_uri"), self.parts.folder).map(Some)
    }

    fn base(&self, default: &str) -> Result<Url, ConfigError> {
        match self.address("base_url", self.settings.base_url.as_ref())? {
            Some(url) => Ok(url),
            None => default.parse().map_err(|error| self.wrong("base_url", format!("is not an address: {error}"))),
        }
    }

    /// The token of this name, or the OAuth grant: the newest that came from the configured one, and who keeps the next. With a
    /// `redirect_uri` the first grant may come with a person's consent, whenever that is.
    async fn credentials(&self, token: &str) -> Result<(Credentials, Option<Arc<dyn KeepRefreshToken>>), SetupError> {
        let given = self.secret(token)?;
        let (configured, id, secret) =
            (self.secret("refresh_token")?, self.secret("client_id")?, self.secret("client_secret")?);
        if let Some(token) = given {
            return Ok((Credentials::Token(token), None));
        }
        let asks = self.settings.redirect_uri.is_some();
        let (Some(id), Some(client_secret), true) = (id, secret, configured.is_some() || asks) else {
            let or_ask = match self.settings.connector.as_str() {
                "pipedrive" | "square" => {
                    ", or redirect_uri beside the first two and then `tandem connection authorize`"
                }
                _ => "",
            };
            let why = format!("needs {token}, or client_id, client_secret and refresh_token{or_ask}");
            return Err(self.wrong("credentials", why).into());
        };
        let client_id = id.expose().to_owned();
        let came_from = match &configured {
            Some(token) => digest(token.expose().as_bytes()),
            // Nobody configured it: it belongs to the app that was let in.
            None => digest(format!("app {client_id}").as_bytes()),
        };
        let (store, account) = (&self.parts.store, &self.account.name);
        let newest = store.grant(account, self.name, &came_from).await?;
        let keeper =
            GrantKeeper { store: store.clone(), account: account.clone(), connection: self.name.clone(), came_from };
        let credentials = match newest.or(configured) {
            Some(refresh_token) => Credentials::OAuth { client_id, client_secret, refresh_token },
            None => Credentials::App { client_id, client_secret },
        };
        Ok((credentials, Some(Arc::new(keeper))))
    }

    async fn hubspot(&self, lenses: &BTreeMap<Kind, Lens>) -> Result<HubSpot, SetupError> {
        use tandem_hubspot::Options;
        let settings = self.settings;
        self.only_secrets(&["access_token", "client_id", "client_secret", "refresh_token"])?;
        self.only_settings(&["api_version", "search_rate_limit", "accept_v1_signature"])?;
        let (credentials, keeper) = self.credentials("access_token").await?;
        let mut options = Options::new(self.base(Options::BASE_URL)?, credentials);
        options.client_secret = self.secret("client_secret")?;
        options.token_url = self.address("token_url", settings.token_url.as_ref())?;
        options.accept_v1_signature = settings.accept_v1_signature;
        options.select = mapping::selection(lenses);
        if let Some(version) = &settings.api_version {
            options.api_version = version.parse().map_err(|error| self.wrong("api_version", format!("{error}")))?;
        }
        given(&mut options.rate_limit, settings.rate_limit);
        given(&mut options.search_rate_limit, settings.search_rate_limit);
        given(&mut options.daily_budget, settings.daily_budget);
        options.poll = settings.poll_seconds.map(at_least_one);
        given(&mut options.request_timeout, settings.request_timeout_seconds.map(at_least_one));
        given(&mut options.marker_property, settings.marker_property.clone());
        options.installation = self.parts.installation.to_owned();
        options.read_only = settings.direction == Direction::In;
        let hubspot = HubSpot::new(options, self.parts.transport.clone(), self.parts.clock.clone());
        Ok(match keeper {
            Some(keeper) => hubspot.keep_refresh_token(keeper),
            None => hubspot,
        })
    }

    async fn pipedrive(&self, lenses: &BTreeMap<Kind, Lens>) -> Result<Pipedrive, SetupError> {
        use tandem_pipedrive::Options;
        let settings = self.settings;
        let login = ["webhook_user", "webhook_password"];
        self.only_secrets(&["api_token", "client_id", "client_secret", "refresh_token", login[0], login[1]])?;
        self.only_settings(&["authorize_url", "redirect_uri", "plan", "seats"])?;
        let (credentials, keeper) = self.credentials("api_token").await?;
        let mut options = Options::new(self.base(Options::BASE_URL)?, credentials);
        options.webhook_login = match (self.secret(login[0])?, self.secret(login[1])?) {
            (Some(user), Some(password)) => Some((user.expose().to_owned(), password)),
            (None, None) => None,
            _ => return Err(self.wrong("credentials", "webhook_user and webhook_password go together".into()).into()),
        };
        options.token_url = self.address("token_url", settings.token_url.as_ref())?;
        options.authorize_url = self.address("authorize_url", settings.authorize_url.as_ref())?;
        options.redirect_uri = self.redirect_uri()?;
        options.select = mapping::selection(lenses);
        if let Some(plan) = &settings.plan {
            options.plan = plan.parse().map_err(|error| self.wrong("plan", format!("{error}")))?;
        }
        if settings.seats == Some(0) {
            return Err(self.wrong("seats", "is how many people have a seat: at least 1".into()).into());
        }
        given(&mut options.seats, settings.seats);
        options.rate_limit = settings.rate_limit.map(Into::into);
        options.daily_budget = settings.daily_budget;
        options.poll = settings.poll_seconds.map(at_least_one);
        given(&mut options.request_timeout, settings.request_timeout_seconds.map(at_least_one));
        given(&mut options.marker_field, settings.marker_property.clone());
        options.installation = self.parts.installation.to_owned();
        options.read_only = settings.direction == Direction::In;
        let pipedrive = Pipedrive::new(options, self.parts.transport.clone(), self.parts.clock.clone());
        Ok(match keeper {
            Some(keeper) => pipedrive.keep_refresh_token(keeper),
            None => pipedrive,
        })
    }

    async fn square(&self, lenses: &BTreeMap<Kind, Lens>, hook: Option<&Url>) -> Result<Square, SetupError> {
        use tandem_square::Options;
        let settings = self.settings;
        let keys = ["signature_key", "old_signature_key"];
        self.only_secrets(&["access_token", "client_id", "client_secret", "refresh_token", keys[0], keys[1]])?;
        self.only_settings(&["authorize_url", "redirect_uri"])?;
        let (credentials, keeper) = self.credentials("access_token").await?;
        let mut options = Options::new(self.base(Options::BASE_URL)?, credentials);
        options.authorize_url = self.address("authorize_url", settings.authorize_url.as_ref())?;
        options.redirect_uri = self.redirect_uri()?;
        for key in keys {
            options.signature_keys.extend(self.secret(key)?);
        }
        options.notification_url = hook.map(ToString::to_string);
        options.select = mapping::selection(lenses);
        given(&mut options.rate_limit, settings.rate_limit);
        options.daily_budget = settings.daily_budget;
        options.poll = settings.poll_seconds.map(at_least_one);
        given(&mut options.request_timeout, settings.request_timeout_seconds.map(at_least_one));
        options.read_only = settings.direction == Direction::In;
        let square = Square::new(options, self.parts.transport.clone(), self.parts.clock.clone());
        Ok(match keeper {
            Some(keeper) => square.keep_refresh_token(keeper),
            None => square,
        })
    }
}

impl Making<'_> {
    fn login(&self) -> Result<Login, SetupError> {
        let secrets = [self.secret("access_token")?, self.secret("client_id")?, self.secret("client_secret")?];
        let key = self.secret("private_key")?;
        Ok(match (secrets, key) {
            ([Some(token), None, None], None) => Login::Token(token),
            ([None, Some(id), Some(client_secret)], None) => {
                Login::Client { client_id: id.expose().to_owned(), client_secret }
            }
            ([None, Some(id), None], Some(pem)) => {
                let key = PrivateKey::from_pem(&pem)
                    .map_err(|why| self.wrong("credentials", format!("private_key {why}")))?;
                let key_id = self.secret("key_id")?;
                let key_id = key_id.ok_or_else(|| self.wrong("credentials", "private_key needs key_id".into()))?;
                Login::Key { client_id: id.expose().to_owned(), key_id: key_id.expose().to_owned(), key }
            }
            _ => {
                let why =
                    "needs access_token, or client_id with client_secret, or client_id with private_key and key_id";
                return Err(self.wrong("credentials", why.into()).into());
            }
        })
    }

    fn fhir(&self, lenses: &BTreeMap<Kind, Lens>) -> Result<Fhir, SetupError> {
        use tandem_fhir::Options;
        let settings = self.settings;
        let known =
            ["access_token", "client_id", "client_secret", "private_key", "key_id", "hook_token", "hook_secret"];
        self.only_secrets(&known)?;
        self.only_settings(&["dialect", "visit_types", "headers", "patients", "subscription_topic"])?;
        let base = self.address("base_url", settings.base_url.as_ref())?;
        let base = base.ok_or_else(|| self.wrong("base_url", "is missing: every FHIR server has its own".into()))?;
        let mut options = Options::new(base, self.login()?);
        options.token_url = self.address("token_url", settings.token_url.as_ref())?;
        if let Some(dialect) = &settings.dialect {
            options.dialect = dialect.parse().map_err(|error| self.wrong("dialect", format!("{error}")))?;
        }
        for (name, text) in &settings.headers {
            let secret = text.secret(&self.key(&format!("headers.{name}")), self.parts.folder)?;
            options.extra_headers.insert(name.clone(), secret);
        }
        let row = |row: &crate::config::VisitType| tandem_fhir::VisitType {
            system: row.system.clone(),
            code: row.code.clone(),
            class: row.class,
            service: row.service.clone(),
            kind: row.kind.clone(),
        };
        options.visit_types = settings.visit_types.iter().map(row).collect();
        options.patients = settings.patients;
        options.plans = self.account.visit_rules.values().any(|rules| rules.plan_accepted.is_some());
        options.hook_token = self.secret("hook_token")?;
        options.hook_secret = self.secret("hook_secret")?;
        options.topic.clone_from(&settings.subscription_topic);
        options.select = mapping::selection(lenses);
        options.rate_limit = settings.rate_limit.map(Into::into);
        options.daily_budget = settings.daily_budget;
        options.poll = settings.poll_seconds.map(at_least_one);
        given(&mut options.request_timeout, settings.request_timeout_seconds.map(at_least_one));
        options.read_only = settings.direction == Direction::In;
        Ok(Fhir::new(options, self.parts.transport.clone(), self.parts.clock.clone()))
    }
}

/// What is configured, in the place of the connector's own.
fn given<T>(place: &mut T, configured: Option<impl Into<T>>) {
    if let Some(value) = configured {
        *place = value.into();
    }
}

fn at_least_one(seconds: u64) -> Duration {
    Duration::from_secs(seconds.max(1))
}

/// Keeps the grants that a vendor renews.
struct GrantKeeper {
    store: Arc<SqlStore>,
    account: Name,
    connection: Name,
    came_from: String,
}

#[async_trait]
impl KeepRefreshToken for GrantKeeper {
    async fn keep(&self, refresh_token: &Secret) -> Result<(), String> {
        let kept = self.store.keep_grant(&self.account, &self.connection, &self.came_from, refresh_token.expose());
        kept.await.map_err(|error| error.to_string())
    }

    async fn newest(&self) -> Result<Option<Secret>, String> {
        let newest = self.store.grant(&self.account, &self.connection, &self.came_from);
        newest.await.map_err(|error| error.to_string())
    }
}
