//! Putting an installation together: configuration, database, connectors, engines.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tandem_contract::{Clock, Kind, ReqwestTransport, SystemClock, Transport};

use crate::{
    config::{self, Config, ConfigError},
    edit::Desk,
    model::{Account, ConnectionRow, ConnectionState, Ids, Name, ids::RunId},
    store::{
        Commit, StoreError, SyncStore, change_connection,
        seal::{SealError, Sealer},
        sql::{SqlStore, sqlite_path},
    },
    sync::{
        connection::Connection,
        engine::{Engine, Shared},
        first_export,
        mapping::MappingError,
    },
    vendors::{Others, Parts, connect},
};

/// The installation cannot be put together; the text says what is wrong and who must act.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The master key.
    #[error("security.master_key: {0}")]
    Key(#[from] SealError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A mapping file.
    #[error("connections.{connection}.mapping: {error}")]
    Mapping {
        /// Of which connection.
        connection: Name,
        /// What is wrong.
        error: MappingError,
    },
    /// Another engine works on this database.
    #[error("another Tandem already works on {0}: stop it first, or use its API")]
    Locked(PathBuf),
    /// Anything else of the machine.
    #[error("{0}")]
    Machine(String),
}

/// An installation, ready to work.
pub struct Installation {
    /// The configuration it was made from.
    pub config: Config,
    /// Where everything is kept.
    pub store: Arc<SqlStore>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// New ids.
    pub ids: Arc<Ids>,
    /// The accounts.
    pub accounts: BTreeMap<Name, Account>,
    /// The connections, those of the file and the stored ones.
    pub connections: BTreeMap<Name, Arc<Connection>>,
    /// Which of them are in the file and cannot be changed elsewhere.
    pub from_file: Vec<Name>,
    /// This run.
    pub run: RunId,
    remote_accounts: Mutex<BTreeMap<Name, String>>,
}

/// Held while an engine works on a SQLite file. The system lets go of it when the process ends, however it ends.
pub struct EngineLock(#[expect(dead_code, reason = "held, not read")] Option<File>);

impl Installation {
    /// Opens the database, brings it up to date, and builds every connector.
    ///
    /// # Errors
    /// [`SetupError`].
    pub async fn open(config: Config) -> Result<Self, SetupError> {
        let folder = config.folder.clone();
        let sealer = Sealer::new(&config.security.master_key.secret("security.master_key", &folder)?)?;
        let url = database_url(&config.database.url.resolve("database.url", &folder)?, &folder);
        let store = Arc::new(SqlStore::open(&url, sealer).await?);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let ids = Arc::new(Ids::random());
        let transport: Arc<dyn Transport> = Arc::new(ReqwestTransport::new().map_err(SetupError::Machine)?);
        let accounts: BTreeMap<Name, Account> = config
            .accounts
            .iter()
            .map(|(name, account)| {
                let account = Account {
                    name: name.clone(),
                    profile: account.profile,
                    timezone: account.timezone,
                    currency: account.currency,
                    triggers: account.sales_triggers.clone(),
                    types: account.types.clone(),
                    visit_rules: account.visit_rules.clone(),
                };
                (name.clone(), account)
            })
            .collect();
        let public_url =
            config.http.public_url.as_ref().map(|url| url.resolve("http.public_url", &folder)).transpose()?;
        let installation = store.installation(ids.next(clock.now())).await?;
        let mut stored = BTreeMap::new();
        for (name, text) in store.stored_connections().await? {
            let wrong = |why: String| ConfigError::Value { key: format!("stored connection {name}"), why };
            let parsed: Name = name.parse().map_err(|error: crate::model::ids::BadName| wrong(error.to_string()))?;
            stored.insert(parsed, Config::parse_connection(&text)?);
        }
        let from_file: Vec<Name> = config.connections.keys().cloned().collect();
        let mut connections = BTreeMap::new();
        let all: Vec<(&Name, &config::Connection)> = config
            .connections
            .iter()
            .chain(stored.iter().filter(|(name, _)| !config.connections.contains_key(name)))
            .collect();
        for (name, connection) in &all {
            let Some(account) = accounts.get(&connection.account) else {
                let why = format!("there is no [accounts.{}]", connection.account);
                return Err(ConfigError::Value { key: format!("connections.{name}.account"), why }.into());
            };
            let others = all.iter().filter(|(other, c)| other != name && c.account == connection.account);
            let (sources, siblings) = others.partition(|(_, c)| c.direction == crate::sync::lens::Direction::In);
            let names = |those: Vec<&(&Name, _)>| those.into_iter().map(|(other, _)| (*other).clone()).collect();
            let others = Others { siblings: names(siblings), sources: names(sources) };
            let parts = Parts {
                store: store.clone(),
                installation: &installation,
                folder: &folder,
                public_url: public_url.as_deref(),
                transport: transport.clone(),
                clock: clock.clone(),
            };
            let built = connect(name, connection, account, others, parts).await?;
            connections.insert((*name).clone(), Arc::new(built));
        }
        let run = RunId(ids.next(clock.now()));
        Ok(Self { config, store, clock, ids, accounts, connections, from_file, run, remote_accounts: Mutex::default() })
    }

    /// Remembers which connections of earlier are not configured: changes mark nothing for them, so what changes meanwhile is looked at
    /// when they are back.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn note_absent(&self) -> Result<(), StoreError> {
        for account in self.accounts.keys() {
            let mut ops = Vec::new();
            for kind in [Kind::Contact, Kind::Deal] {
                let known = self.store.keepers(account, &first_export::stream(kind)).await?;
                let absent = known.iter().filter(|name| !self.connections.contains_key(*name));
                ops.extend(absent.map(|name| first_export::absent(name, kind)));
            }
            if !ops.is_empty() {
                self.store.commit(&Commit { account: account.clone(), fence: None, ops }).await?;
            }
        }
        Ok(())
    }

    /// Claims the database for an engine. SQLite: a lock on a file beside it, which also proves an earlier owner dead.
    ///
    /// # Errors
    /// [`SetupError::Locked`] while another engine works on it.
    pub fn lock(&self) -> Result<EngineLock, SetupError> {
        let url =
            database_url(&self.config.database.url.resolve("database.url", &self.config.folder)?, &self.config.folder);
        let Some(path) = sqlite_path(&url) else { return Ok(EngineLock(None)) };
        let mut lock = path.as_os_str().to_owned();
        lock.push(".lock");
        let lock = PathBuf::from(lock);
        let file = File::create(&lock).map_err(|error| SetupError::Machine(format!("{}: {error}", lock.display())))?;
        file.try_lock().map_err(|_| SetupError::Locked(path.to_owned()))?;
        Ok(EngineLock(Some(file)))
    }

    /// An engine for each connection.
    #[must_use]
    pub fn engines(&self) -> Vec<Engine> {
        let is_file = matches!(self.store_kind(), "sqlite");
        let shared = Shared {
            store: self.store.clone(),
            clock: self.clock.clone(),
            ids: self.ids.clone(),
            // On SQLite the file lock has proven every earlier owner dead, so a new process is the same owner.
            owner: if is_file { "the holder of the file lock".into() } else { self.run.to_string() },
            lease: Duration::from_secs(self.config.engine.lease_seconds.max(1)),
            limits: self.config.engine.guard,
            audit_every: Duration::from_secs(self.config.engine.audit_hours.max(1) * 3_600),
        };
        self.connections.values().map(|connection| Engine::new(shared.clone(), connection.clone())).collect()
    }

    fn store_kind(&self) -> &'static str {
        let url = self.config.database.url.resolve("database.url", &self.config.folder).unwrap_or_default();
        if url.starts_with("sqlite:") { "sqlite" } else { "postgres" }
    }

    /// The account's connections that are written to.
    #[must_use]
    pub fn written_connections(&self, account: &Name) -> Vec<Name> {
        let mine = self
            .connections
            .values()
            .filter(|c| c.account.name == *account && c.direction != crate::sync::lens::Direction::In);
        mine.map(|connection| connection.name.clone()).collect()
    }

    /// A desk for edits in an account.
    #[must_use]
    pub fn desk<'a>(&'a self, account: &'a Account, connections: &'a [Name]) -> Desk<'a> {
        Desk { store: &*self.store, ids: &self.ids, account, connections, now: self.clock.now(), run: self.run }
    }

    /// The vendor's account of a connection, once known; it never changes by itself, so it is read once.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remote_account(&self, connection: &Connection) -> Result<Option<String>, StoreError> {
        let known = |all: &BTreeMap<Name, String>| all.get(&connection.name).cloned();
        if let Some(account) = known(&self.remote_accounts.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(Some(account));
        }
        let row = self.store.connection(&connection.account.name, &connection.name).await?;
        let account = row.and_then(|row| row.remote_account);
        if let Some(account) = &account {
            let mut all = self.remote_accounts.lock().unwrap_or_else(PoisonError::into_inner);
            all.insert(connection.name.clone(), account.clone());
        }
        Ok(account)
    }

    /// Pauses a connection, or lets it go on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_paused(&self, connection: &Connection, paused: bool) -> Result<(), StoreError> {
        let (account, name) = (&connection.account.name, &connection.name);
        let new = ConnectionRow::new(account.clone(), name.clone(), connection.connector.system());
        change_connection(&*self.store, None, &new, |row| {
            row.state = if paused { ConnectionState::Paused } else { ConnectionState::Active };
            row.reason = paused.then(|| format!("paused by a person; `tandem connection resume {name}` lets it go on"));
            true
        })
        .await
        .map(|_| ())
    }
}

/// A relative SQLite path starts at the configuration's folder.
#[must_use]
pub fn database_url(url: &str, folder: &Path) -> String {
    match sqlite_path(url) {
        Some(path) if path.is_relative() && path != Path::new(":memory:") => {
            let rest = url.split_once('?').map(|(_, rest)| format!("?{rest}")).unwrap_or_default();
            format!("sqlite://{}{rest}", folder.join(path).display())
        }
        _ => url.to_owned(),
    }
}
