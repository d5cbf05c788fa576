//! One opportunity in two CRMs: what is typed in one arrives in the other, through ours.

use std::{sync::Arc, time::Duration};

use axum::Router;
use serde_json::{Value as Json, json};
use tandem::{
    model::{LocalRecord, Name, Profile, Status},
    simulation::Rig,
    store::{Commit, SyncStore},
    sync::{connection::Connection, engine::Engine, guard::Limits, intake::marks_of, lens::Direction, mapping},
    vendors::CONNECTORS,
};
use tandem_contract::{Call, ExternalId, Hint, Kind, Lane, RouterTransport, Secret};
use tandem_hubspot::sandbox as hubspot;
use tandem_pipedrive::{
    Credentials, Options, Pipedrive,
    sandbox::{Change, Company, Sandbox, Settings},
};

pub struct Both {
    pub rig: Rig,
    pub pipedrive: Sandbox,
    pub second: Arc<Connection>,
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

impl Both {
    pub fn new(seed: u64) -> Self {
        Self::watched(seed, |router| router)
    }

    /// The same, with `watch` between the connector and Pipedrive.
    pub fn watched(seed: u64, watch: impl FnOnce(Router) -> Router) -> Self {
        let settings =
            hubspot::Settings { search_lag_ms: (0, 0), recompute_seconds: 0, ..hubspot::Settings::default() };
        let rig = Rig::new(seed, settings, Profile::Agency, |connection| {
            connection.siblings = vec![name("pipedrive")];
        });
        let pipedrive = Sandbox::new(Settings::default(), seed, rig.clock.clone());
        let token = pipedrive.with(|world| world.settings.api_tokens[0].clone());
        let mut options =
            Options::new("http://pipedrive.example.com".parse().unwrap(), Credentials::Token(Secret::new(token)));
        let (_, text) = CONNECTORS.iter().find(|(name, _)| *name == "pipedrive").unwrap();
        let lenses = mapping::parse(text).unwrap();
        options.select = mapping::selection(&lenses);
        options.daily_budget = Some(300_000);
        options.installation = "sim".into();
        options.webhook_login = Some(("tandem".into(), Secret::new("long-random-secret")));
        let transport = Arc::new(RouterTransport::new(watch(pipedrive.router())));
        let mut second = Connection::clone(&rig.connection);
        second.connector = Arc::new(Pipedrive::new(options, transport, rig.clock.clone()));
        (second.name, second.lenses, second.siblings) = (name("pipedrive"), lenses, vec![name("hubspot")]);
        Self { rig, pipedrive, second: Arc::new(second) }
    }

    pub fn engines(&self) -> [Engine; 2] {
        let shared = self.rig.shared(Limits::default());
        [self.rig.engine(), Engine::new(shared, self.second.clone())]
    }

    /// Both engines in turn, until neither has anything to do.
    pub async fn settle(&self) {
        for _ in 0..4 {
            for engine in self.engines() {
                engine.once().await.unwrap();
            }
            self.rig.clock.sleep(Duration::from_secs(2)).await;
        }
    }

    pub fn ours(&self) -> Vec<LocalRecord> {
        self.rig.store.all(&self.rig.account.name, Kind::Deal)
    }

    /// HubSpot's pipeline in Pipedrive too, by name.
    pub fn have_one_pipeline(&self) {
        let stages = [
            "Appointment scheduled",
            "Qualified to buy",
            "Presentation scheduled",
            "Decision maker bought in",
            "Contract sent",
        ];
        let stages: Vec<(&str, u8)> = stages.into_iter().zip([20, 40, 60, 80, 90]).collect();
        self.pipedrive.with(|world| world.add_pipeline("Sales", &stages));
    }

    pub fn in_pipedrive(&self, deal: u64, name: &str) -> Json {
        self.pipedrive.with(|world| world.value(Kind::Deal, deal, name)).unwrap_or_default()
    }

    pub fn in_hubspot(&self, deal: u64, name: &str) -> String {
        self.rig.sandbox.with(|world| world.value(Kind::Deal, deal, name)).unwrap_or_default()
    }

    /// The ids in HubSpot and Pipedrive of our only deal.
    pub async fn pair(&self) -> (u64, u64) {
        let ours = self.ours();
        assert_eq!(ours.len(), 1, "one opportunity");
        let mut ids = Vec::new();
        for connection in ["hubspot", "pipedrive"] {
            let ids_here = [ours[0].id()];
            let by = tandem::store::By::Local(&ids_here);
            let links = self.rig.store.links(&self.rig.account.name, &name(connection), Kind::Deal, by).await.unwrap();
            ids.push(links[0].external.as_str().parse().unwrap());
        }
        (ids[0], ids[1])
    }
}

pub fn properties(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// VX-16, VX-17, VX-18: opportunities are Pipedrive deals, whose ids are kept, and edits go both ways.
#[tokio::test(start_paused = true)]
async fn a_deal_of_one_crm_is_made_in_the_other_with_its_person_and_edits_go_both_ways() {
    let both = Both::new(5);
    both.have_one_pipeline();
    both.engines()[0].once().await.unwrap();
    let person = both
        .rig
        .sandbox
        .with(|world| {
            let person = [("firstname", "Ana"), ("lastname", "Ito"), ("email", "ana@example.com")];
            world.create(Kind::Contact, &properties(&person), hubspot::Change::Person)
        })
        .unwrap();
    let deal = both
        .rig
        .sandbox
        .with(|world| {
            let deal = [("dealname", "Peel"), ("dealstage", "qualifiedtobuy"), ("amount", "900.50")];
            let deal = world.create(Kind::Deal, &properties(&deal), hubspot::Change::Person)?;
            world.associate(deal, person, hubspot::Change::Person);
            Ok::<_, hubspot::Refusal>(deal)
        })
        .unwrap();
    both.rig.clock.sleep(Duration::from_secs(2)).await;
    both.settle().await;
    let (in_hubspot, twin) = both.pair().await;
    assert_eq!(in_hubspot, deal);
    assert_eq!(both.in_pipedrive(twin, "title"), "Peel");
    assert_eq!(both.in_pipedrive(twin, "value"), json!(900.5));
    let of = both.in_pipedrive(twin, "person_id").as_u64().expect("its person");
    let person = both.pipedrive.with(|world| world.value(Kind::Contact, of, "name")).unwrap();
    assert_eq!(person, "Ana Ito");

    // Pipedrive gave it an owner, as it must have one; nobody said so, here or in HubSpot.
    assert!(both.in_pipedrive(twin, "owner_id").is_u64());
    assert_eq!(both.ours()[0].as_opportunity().unwrap().owner, None);
    assert_eq!(both.in_hubspot(deal, "hubspot_owner_id"), "");

    both.pipedrive
        .with(|world| world.update(Kind::Deal, twin, &json!({ "title": "Peel, twice" }), Change::Person))
        .unwrap();
    both.rig.clock.sleep(Duration::from_secs(2)).await;
    both.settle().await;
    assert_eq!(both.in_hubspot(deal, "dealname"), "Peel, twice");

    // Won in Pipedrive: a stage that means won in HubSpot, and Pipedrive's own stage stays.
    let stage = both.in_pipedrive(twin, "stage_id");
    both.pipedrive.with(|world| world.update(Kind::Deal, twin, &json!({ "status": "won" }), Change::Person)).unwrap();
    both.rig.clock.sleep(Duration::from_secs(2)).await;
    both.settle().await;
    assert_eq!(both.in_hubspot(deal, "dealstage"), "closedwon");
    assert_eq!(both.in_pipedrive(twin, "stage_id"), stage);
    let ours = both.ours();
    assert_eq!(ours[0].as_opportunity().unwrap().position.status, Status::Won);

    // Lost in HubSpot, with its reason.
    both.rig
        .sandbox
        .with(|world| {
            let lost = properties(&[("dealstage", "closedlost"), ("closed_lost_reason", "moved away")]);
            world.update(Kind::Deal, deal, &lost, hubspot::Change::Person)
        })
        .unwrap();
    both.rig.clock.sleep(Duration::from_secs(2)).await;
    both.settle().await;
    assert_eq!(both.in_pipedrive(twin, "status"), "lost");
    assert_eq!(both.in_pipedrive(twin, "lost_reason"), "moved away");

    let (here, there) = (both.rig.sandbox.with(|w| w.stats.updated), both.pipedrive.with(|w| w.stats.updated));
    both.settle().await;
    assert_eq!(both.rig.sandbox.with(|w| w.stats.updated), here, "nothing more is written");
    assert_eq!(both.pipedrive.with(|w| w.stats.updated), there, "nothing more is written");
}

/// Pipedrive refuses no write that was planned on an older version: what is done instead is said where the operator looks, for each
/// kind of record, and in the guide.
#[tokio::test(start_paused = true)]
async fn each_kind_of_pipedrives_records_says_how_far_its_writes_are_protected() {
    let said = Both::new(1).second.guarantee();
    let [persons, deals] = ["contact: best effort", "deal: checked afterwards"];
    assert!(said.contains(persons) && said.contains(deals) && !said.contains("compare-and-swap:"), "{said}");
    let guide = std::fs::read_to_string("docs/connectors.md").unwrap();
    let row = guide.lines().find(|line| line.starts_with("| `guarantee` |")).unwrap();
    assert!(row.contains("| checked afterwards for deals, best effort for persons |"), "{row}");
}

#[tokio::test(start_paused = true)]
async fn a_company_that_has_been_at_work_is_taken_in_and_made_in_the_other_crm() {
    let both = Both::new(6);
    both.pipedrive.with(|world| world.fill(Company { persons: 40, deals: 120 }));
    both.settle().await;
    assert_eq!(both.ours().len(), 120);
    // What it filled in by itself it said all the same: nothing of it is missing here.
    for contact in both.rig.store.all(&both.rig.account.name, Kind::Contact) {
        let LocalRecord::Contact(contact) = contact else { panic!("a contact") };
        assert!(contact.first_name.is_some() && contact.last_name.is_some(), "{contact:?}");
        assert_eq!(contact.owner.as_deref(), Some("ines@example.com"));
    }
    let failures = both.rig.store.failures(&both.rig.account.name, 500).await.unwrap();
    let unmapped = failures.iter().filter(|failure| failure.code == "unmapped_stage").count();
    // HubSpot has no pipeline of that name: nothing is guessed.
    assert_eq!(unmapped, 120, "{:?}", failures.first());
    assert_eq!(both.pipedrive.with(|world| world.stats.created), 0);
    assert_eq!(both.pipedrive.with(|world| world.stats.updated), 0);

    // It gets one: all of them go there.
    let stages = [
        ("q", "Qualified", 0.2),
        ("m", "Contact made", 0.4),
        ("d", "Demo scheduled", 0.6),
        ("n", "Negotiations started", 0.8),
        ("w", "Won", 1.0),
        ("l", "Lost", 0.0),
    ];
    both.rig.sandbox.with(|world| world.add_pipeline("theirs", "Pipeline", &stages));
    both.settle().await;
    let failures = both.rig.store.failures(&both.rig.account.name, 500).await.unwrap();
    assert_eq!(failures.iter().filter(|failure| failure.code == "unmapped_stage").count(), 0, "{:?}", failures.first());
    let there = both.rig.sandbox.with(|world| world.ids(Kind::Deal));
    assert_eq!(there.len(), 120);
    assert_eq!(there.iter().filter(|deal| both.in_hubspot(**deal, "dealstage") == "w").count(), 12);
}

#[tokio::test(start_paused = true)]
async fn deals_that_are_merged_in_pipedrive_are_one_here_and_the_other_crm_keeps_both() {
    let both = Both::new(8);
    both.pipedrive.with(|world| world.add_pipeline("Sales", &[("Qualified to buy", 40)]));
    both.engines()[0].once().await.unwrap();
    let in_hubspot: Vec<u64> = ["Peel", "Laser"]
        .iter()
        .map(|name| {
            let deal = properties(&[("dealname", name), ("dealstage", "qualifiedtobuy")]);
            both.rig.sandbox.with(|world| world.create(Kind::Deal, &deal, hubspot::Change::Person)).unwrap()
        })
        .collect();
    both.rig.clock.sleep(Duration::from_secs(2)).await;
    both.settle().await;
    let there = both.pipedrive.with(|world| world.ids(Kind::Deal));
    let [survivor, lost] = there.as_slice() else { panic!("{there:?}") };
    let (survivor, lost) = (*survivor, *lost);
    // Each keeps the marker it was made with, so that nothing but Pipedrive's own word tells where the lost one lives on.
    let address = "https://tandem.example.com/webhooks/pipedrive".parse().unwrap();
    both.second.connector.subscribe(Call::on(Lane::Interactive), &address).await.unwrap();
    let delivery = tokio::spawn(both.pipedrive.clone().deliver_webhooks(both.rig.door_of(&both.second)));
    both.pipedrive.with(|world| world.merge(Kind::Deal, lost, survivor, Change::Person)).unwrap();
    both.rig.clock.sleep(Duration::from_secs(2)).await;
    assert_eq!(both.pipedrive.with(|world| world.stats.webhook_events), 2, "of both");
    both.settle().await;
    let live: Vec<LocalRecord> = both.ours().into_iter().filter(|deal| !deal.is_deleted()).collect();
    assert_eq!(live.len(), 1, "one opportunity here");
    assert_eq!(both.pipedrive.with(|world| world.ids(Kind::Deal)), [survivor], "nothing is made again");
    assert_eq!(both.rig.sandbox.with(|world| world.ids(Kind::Deal)), in_hubspot, "nothing is deleted in the other");
    delivery.abort();
}

#[tokio::test(start_paused = true)]
async fn a_word_of_a_merge_that_did_not_happen_changes_nothing() {
    let both = Both::new(9);
    both.pipedrive.with(|world| world.fill(Company { persons: 0, deals: 2 }));
    both.engines()[1].once().await.unwrap();
    let there = both.pipedrive.with(|world| world.ids(Kind::Deal));
    let id = |id: u64| ExternalId::new(id.to_string()).unwrap();
    // In a circle, and both are there.
    let told = [(there[0], there[1]), (there[1], there[0])].map(|(old, new)| Hint {
        kind: Kind::Deal,
        id: id(old),
        remote_account: None,
        merged_into: Some(id(new)),
    });
    let ops = marks_of(&name("pipedrive"), told.into(), None, both.rig.clock.now());
    both.rig.store.commit(&Commit { account: both.rig.account.name.clone(), fence: None, ops }).await.unwrap();
    both.engines()[1].once().await.unwrap();
    assert_eq!(both.ours().iter().filter(|deal| !deal.is_deleted()).count(), 2);
    // And now one of them is deleted: the other was there before and is another one's; theirs become one, as was told.
    both.pipedrive.with(|world| world.delete(Kind::Deal, there[0], Change::Person)).unwrap();
    both.rig.clock.sleep(Duration::from_secs(600)).await;
    both.engines()[1].once().await.unwrap();
    assert_eq!(both.ours().iter().filter(|deal| !deal.is_deleted()).count(), 1);
}

#[tokio::test(start_paused = true)]
async fn two_companies_that_know_the_same_people_have_them_once() {
    let both = Both::new(11);
    for n in 0..30 {
        let email = format!("person{n}@example.com");
        let there = [("firstname", "Ana"), ("lastname", "Ito"), ("email", email.as_str())];
        both.rig
            .sandbox
            .with(|world| world.create(Kind::Contact, &properties(&there), hubspot::Change::Person))
            .unwrap();
        let body = json!({ "name": "Ana Ito", "emails": [{ "value": email, "primary": true, "label": "work" }] });
        both.pipedrive.with(|world| world.create(Kind::Contact, &body, Change::Person)).unwrap();
    }
    both.settle().await;
    // What met by its address is looked at once more.
    both.rig.clock.sleep(Duration::from_secs(1_800)).await;
    both.settle().await;
    let ours = both.rig.store.all(&both.rig.account.name, Kind::Contact);
    assert_eq!(ours.iter().filter(|contact| !contact.is_deleted()).count(), 30);
    assert_eq!(both.pipedrive.with(|world| world.ids(Kind::Contact)).len(), 30);
    assert_eq!(both.rig.sandbox.with(|world| world.ids(Kind::Contact)).len(), 30);
}

impl Both {
    /// HubSpot alone, as if the other connection did not write, or were not there.
    async fn hubspot_alone(&self) {
        let mut alone = Connection::clone(&self.rig.connection);
        alone.siblings = Vec::new();
        let shared = self.rig.shared(Limits::default());
        Engine::new(shared, Arc::new(alone)).once().await.unwrap();
    }

    fn add_in_hubspot(&self, title: &str) -> u64 {
        let deal = properties(&[("dealname", title), ("dealstage", "qualifiedtobuy")]);
        self.rig.sandbox.with(|world| world.create(Kind::Deal, &deal, hubspot::Change::Person)).unwrap()
    }

    fn titles_in_pipedrive(&self) -> Vec<String> {
        let ids = self.pipedrive.with(|world| world.ids(Kind::Deal));
        let mut titles: Vec<String> =
            ids.into_iter().map(|id| self.in_pipedrive(id, "title").as_str().unwrap().to_owned()).collect();
        titles.sort();
        titles
    }
}

/// VX-16: a CRM that is added later has everything, and not only what changes from then on; and it is asked for once.
#[tokio::test(start_paused = true)]
async fn a_crm_that_is_added_later_is_given_what_was_here_before() {
    let both = Both::new(23);
    both.have_one_pipeline();
    both.add_in_hubspot("before");
    both.hubspot_alone().await;
    assert_eq!(both.titles_in_pipedrive(), [""; 0]);
    both.settle().await;
    assert_eq!(both.titles_in_pipedrive(), ["before"]);
    // Deleted there while nobody looks, it is not made again by the next start.
    let (_, deal) = both.pair().await;
    both.pipedrive.with(|world| world.delete(Kind::Deal, deal, Change::Person)).unwrap();
    let calls = || both.second.connector.calls();
    both.settle().await;
    both.settle().await;
    assert_eq!(both.titles_in_pipedrive(), [""; 0]);
    let quiet = {
        let before = calls();
        both.settle().await;
        calls() - before
    };
    let again = {
        let before = calls();
        both.settle().await;
        calls() - before
    };
    assert_eq!(quiet, again, "later starts look at what changed, and at nothing else");
}

/// A connection that only read, and is given leave to write, has missed the changes of that time.
#[tokio::test(start_paused = true)]
async fn what_changed_while_a_crm_was_only_read_goes_there_when_it_may_be_written_to() {
    let mut both = Both::new(24);
    both.have_one_pipeline();
    let deal = both.add_in_hubspot("first");
    both.settle().await;
    assert_eq!(both.titles_in_pipedrive(), ["first"]);
    let may_write = both.second.clone();
    both.second = Arc::new(Connection { direction: Direction::In, ..Connection::clone(&may_write) });
    both.settle().await;
    let edit = properties(&[("dealname", "first, renamed")]);
    both.rig.sandbox.with(|world| world.update(Kind::Deal, deal, &edit, hubspot::Change::Person)).unwrap();
    both.add_in_hubspot("second");
    both.hubspot_alone().await;
    both.settle().await;
    assert_eq!(both.titles_in_pipedrive(), ["first"]);
    both.second = may_write;
    both.settle().await;
    assert_eq!(both.titles_in_pipedrive(), ["first, renamed", "second"]);
}
