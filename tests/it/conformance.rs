//! Each connector passes the contract's suite against its sandbox.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use axum::Router;
use chrono::{DateTime, Utc};
use tandem::{simulation::lenses, sync::mapping::selection};
use tandem_contract::{Clock, Connector, ExternalId, Kind, RouterTransport, Secret, TokioClock, Value, conformance};
use tandem_hubspot::{
    ApiVersion, Credentials, HubSpot, Options,
    sandbox::{Change, Sandbox, Settings},
};

pub struct Account {
    connector: HubSpot,
    pub sandbox: Sandbox,
    clock: Arc<dyn Clock>,
    kind: Kind,
}

/// An account with a sandbox behind it; `watch` stands between the two.
pub fn account(settings: Settings, version: ApiVersion, kind: Kind, watch: impl FnOnce(Router) -> Router) -> Account {
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(DateTime::from_timestamp(1_795_000_000, 0).unwrap()));
    let sandbox = Sandbox::new(Settings { search_lag_ms: (0, 0), ..settings }, 3, clock.clone());
    let mut options =
        Options::new("http://hubspot.example.com".parse().unwrap(), Credentials::Token(Secret::new("pat-na1-sandbox")));
    options.select = selection(&lenses());
    options.api_version = version;
    let connector = HubSpot::new(options, Arc::new(RouterTransport::new(watch(sandbox.router()))), clock.clone());
    Account { connector, sandbox, clock, kind }
}

impl Account {
    fn number(id: &ExternalId) -> u64 {
        id.as_str().parse().unwrap()
    }
}

#[async_trait]
impl conformance::Vendor for Account {
    fn connector(&self) -> &dyn Connector {
        &self.connector
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn text_property(&self) -> String {
        if self.kind == Kind::Deal { "dealname" } else { "lastname" }.into()
    }

    fn needed(&self) -> BTreeMap<String, Value> {
        match self.kind {
            Kind::Deal => BTreeMap::from([
                ("pipeline".into(), Value::text("default")),
                ("dealstage".into(), Value::text("contractsent")),
            ]),
            _ => BTreeMap::from([("firstname".into(), Value::text("Ada"))]),
        }
    }

    fn selected(&self) -> BTreeSet<String> {
        selection(&lenses()).remove(&self.kind).unwrap_or_default().into_keys().collect()
    }

    async fn make(&self, text: &str) -> ExternalId {
        let mut properties = BTreeMap::from([(self.text_property(), text.to_owned())]);
        if self.kind == Kind::Deal {
            properties.insert("dealstage".into(), "contractsent".into());
        }
        let id = self.sandbox.with(|world| world.create(self.kind, &properties, Change::Person)).unwrap();
        ExternalId::new(id.to_string()).unwrap()
    }

    async fn edit(&self, id: &ExternalId, text: &str) {
        self.clock.sleep(Duration::from_secs(1)).await;
        let properties = BTreeMap::from([(self.text_property(), text.to_owned())]);
        self.sandbox.with(|world| world.update(self.kind, Self::number(id), &properties, Change::Person)).unwrap();
        self.clock.sleep(Duration::from_secs(1)).await;
    }

    async fn delete(&self, id: &ExternalId) {
        self.sandbox.with(|world| world.archive(self.kind, Self::number(id), Change::Person)).unwrap();
    }

    fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    async fn count(&self) -> usize {
        self.sandbox.with(|world| world.ids(self.kind).len())
    }
}

#[tokio::test(start_paused = true)]
async fn hubspot_conforms_in_every_generation_of_its_api_and_under_both_answers_to_what_is_not_documented() {
    let versions = ["2026-09", "2026-03", "v3"].map(|version| version.parse::<ApiVersion>().unwrap());
    let dialects = [
        Settings::default(),
        // Ten minutes behind ours, and ten before.
        Settings { clock_ahead_ms: -600_000, ..Settings::default() },
        Settings { clock_ahead_ms: 600_000, ..Settings::default() },
        Settings {
            omit_empty: true,
            normalise_numbers: true,
            trim_text: true,
            archived_keeps_unique: false,
            recompute_seconds: 0,
            ..Settings::default()
        },
    ];
    for version in versions {
        for settings in &dialects {
            for kind in [Kind::Contact, Kind::Deal] {
                let account = account(settings.clone(), version.clone(), kind, |router| router);
                let broken = conformance::run(&account).await;
                assert!(broken.is_empty(), "{version:?} {kind}:\n{}", broken.join("\n"));
            }
        }
    }
}
