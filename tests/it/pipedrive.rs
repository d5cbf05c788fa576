//! Pipedrive: the contract's suite under both answers to what is not documented, and what is Pipedrive's own.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    Router,
    extract::Request,
    middleware::{Next, from_fn},
};
use chrono::{DateTime, NaiveDate, Utc};
use rust_decimal::Decimal;
use serde_json::{Value as Json, json};
use tandem::{
    config::Config,
    model::{Account, Currency, Profile},
    store::{seal::Sealer, sql::SqlStore},
    sync::mapping,
    vendors::{CONNECTORS, Others, Parts, connect},
};
use tandem_contract::{
    Call, Clock, Connector, ConnectorError, Cursor, ExternalId, Fetched, HttpRequest, KeepRefreshToken, Kind, Lane,
    Limit, PropertyType, Pushed, RouterTransport, Secret, Seen, Sought, Stream, TokioClock, Transport, Value, Version,
    Write, WriteOp, conformance,
};
use tandem_pipedrive::{
    Credentials, Options, Pipedrive, Plan,
    sandbox::{Change, Faults, Sandbox, Settings},
};

use crate::unreadable::spoiling;

pub const CALL: Call = Call::on(Lane::Interactive);
const VENDOR: &str = "http://pipedrive.example.com";

pub struct Company {
    pub connector: Pipedrive,
    pub sandbox: Sandbox,
    clock: Arc<dyn Clock>,
    kind: Kind,
}

fn default_selection() -> BTreeMap<Kind, BTreeMap<String, PropertyType>> {
    let (_, text) = CONNECTORS.iter().find(|(name, _)| *name == "pipedrive").unwrap();
    mapping::selection(&mapping::parse(text).unwrap())
}

/// The parts of a name follow the name, and the suite wants an update to change nothing else.
fn is_part_of_a_name(name: &str) -> bool {
    matches!(name, "first_name" | "last_name")
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(TokioClock::starting_at(DateTime::from_timestamp(1_795_000_000, 0).unwrap()))
}

/// The grant that a sandbox knows.
pub fn grant(settings: &Settings) -> Credentials {
    Credentials::OAuth {
        client_id: settings.client_id.clone(),
        client_secret: Secret::new(settings.client_secret.clone()),
        refresh_token: Secret::new(settings.refresh_token.clone()),
    }
}

/// A company with a sandbox behind it; `watch` stands between the two, `change` has the last word on the options.
pub fn company(
    settings: Settings,
    kind: Kind,
    watch: impl FnOnce(Router) -> Router,
    change: impl FnOnce(&mut Options),
) -> Company {
    let clock = clock();
    let token = settings.api_tokens.first().cloned().unwrap_or_default();
    let sandbox = Sandbox::new(settings, 3, clock.clone());
    let mut options = Options::new(VENDOR.parse().unwrap(), Credentials::Token(Secret::new(token)));
    options.select = default_selection();
    options.daily_budget = Some(300_000);
    change(&mut options);
    let transport = Arc::new(RouterTransport::new(watch(sandbox.router())));
    Company { connector: Pipedrive::new(options, transport, clock.clone()), sandbox, clock, kind }
}

fn plain(kind: Kind) -> Company {
    company(Settings::default(), kind, |router| router, |_| {})
}

pub fn id(number: u64) -> ExternalId {
    ExternalId::new(number.to_string()).unwrap()
}

fn number(id: &ExternalId) -> u64 {
    id.as_str().parse().unwrap()
}

/// Writes these properties of a record that is there.
pub fn update_of(kind: Kind, which: u64, properties: &[(&str, Value)]) -> Write {
    let op = WriteOp::Update {
        id: id(which),
        properties: properties.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        planned_on: BTreeMap::new(),
        expected: Version::default(),
    };
    Write { trace: "t".into(), kind, op }
}

impl Company {
    pub fn make_deal(&self, body: Json) -> u64 {
        self.sandbox.with(|world| world.create(Kind::Deal, &body, Change::Person)).unwrap()
    }

    pub fn value(&self, deal: u64, name: &str) -> Json {
        self.sandbox.with(|world| world.value(Kind::Deal, deal, name)).unwrap_or_default()
    }

    pub async fn update(&self, deal: u64, properties: &[(&str, Value)]) -> Pushed {
        self.connector.push(CALL, &[update_of(self.kind, deal, properties)]).await.pop().unwrap()
    }

    pub async fn create(&self, marker: &str, properties: &[(&str, Value)]) -> Pushed {
        let properties = properties.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        let op = WriteOp::Create { marker: marker.into(), properties };
        let write = Write { trace: "t".into(), kind: self.kind, op };
        self.connector.push(CALL, &[write]).await.pop().unwrap()
    }

    async fn read(&self, deal: u64) -> Fetched {
        self.connector.fetch(CALL, self.kind, &[id(deal)]).await.unwrap().pop().unwrap()
    }

    /// Everything that a stream brings from here on, to the end.
    async fn drain(&self, stream: &str, cursor: &mut Cursor) -> Vec<Seen> {
        let stream = self.connector.streams().into_iter().find(|known| known.name == stream).unwrap();
        let mut seen = Vec::new();
        loop {
            let page = self.connector.changes(CALL, &stream, cursor).await.unwrap();
            seen.extend(page.seen);
            *cursor = page.next;
            if !page.more {
                return seen;
            }
        }
    }
}

fn ids_of(seen: &[Seen]) -> Vec<u64> {
    let mut ids: Vec<u64> = seen
        .iter()
        .map(|seen| match seen {
            Seen::Record(record) => number(&record.id),
            Seen::Hint { id, .. } | Seen::Archived(id) => number(id),
        })
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[async_trait]
impl conformance::Vendor for Company {
    fn connector(&self) -> &dyn Connector {
        &self.connector
    }

    fn kind(&self) -> Kind {
        self.kind
    }

    fn text_property(&self) -> String {
        if self.kind == Kind::Deal { "title" } else { "name" }.into()
    }

    fn needed(&self) -> BTreeMap<String, Value> {
        BTreeMap::new()
    }

    fn selected(&self) -> BTreeSet<String> {
        let mut properties = default_selection().remove(&self.kind).unwrap_or_default();
        properties.retain(|name, _| !is_part_of_a_name(name));
        properties.into_keys().collect()
    }

    async fn make(&self, text: &str) -> ExternalId {
        let body = json!({ self.text_property(): text });
        id(self.sandbox.with(|world| world.create(self.kind, &body, Change::Person)).unwrap())
    }

    async fn edit(&self, id: &ExternalId, text: &str) {
        self.clock.sleep(Duration::from_secs(1)).await;
        let body = json!({ self.text_property(): text });
        self.sandbox.with(|world| world.update(self.kind, number(id), &body, Change::Person)).unwrap();
        self.clock.sleep(Duration::from_secs(1)).await;
    }

    async fn delete(&self, id: &ExternalId) {
        self.sandbox.with(|world| world.delete(self.kind, number(id), Change::Person)).unwrap();
    }

    fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    async fn count(&self) -> usize {
        self.sandbox.with(|world| world.ids(self.kind).len())
    }
}

#[tokio::test(start_paused = true)]
async fn pipedrive_conforms_under_both_answers_to_what_is_not_documented() {
    let dialects = [
        Settings::default(),
        // Ten minutes behind ours, and ten before.
        Settings { clock_ahead_ms: -600_000, ..Settings::default() },
        Settings { clock_ahead_ms: 600_000, ..Settings::default() },
        Settings {
            failed_calls_cost: false,
            limit_headers: false,
            fresh_has_no_update_time: true,
            deleted_is_a_status: false,
            omit_empty_custom: true,
            no_value_is_zero: true,
            reopening_clears_times: false,
            foreign_stage_refused: false,
            long_page_refused: false,
            value_resets_probability: true,
            changelog_oldest_first: true,
            page_rows: 2,
            ..Settings::default()
        },
    ];
    for settings in dialects {
        for kind in [Kind::Contact, Kind::Deal] {
            let company = company(
                settings.clone(),
                kind,
                |router| router,
                |options| {
                    for properties in options.select.values_mut() {
                        properties.retain(|name, _| !is_part_of_a_name(name));
                    }
                },
            );
            let broken = conformance::run(&company).await;
            assert!(broken.is_empty(), "{kind} under {settings:?}:\n{}", broken.join("\n"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn status_and_stage_are_two_things_and_times_go_with_their_status() {
    let company = plain(Kind::Deal);
    let deal = company.make_deal(json!({ "title": "Harbor refit", "stage_id": 2 }));
    let at = DateTime::from_timestamp(1_795_000_100, 0).unwrap();
    let outcome = company
        .update(
            deal,
            &[("status", Value::text("won")), ("close_time", Value::Time(at)), ("stage_id", Value::text("2"))],
        )
        .await;
    let Pushed::Written { properties, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!(properties["close_time"], Value::Time(at));
    assert_eq!(company.value(deal, "status"), "won");
    assert_eq!(company.value(deal, "stage_id"), 2, "it keeps the stage it stood on");
    let lost = [("status", Value::text("lost")), ("lost_reason", Value::text("too dear")), ("close_time", Value::Null)];
    assert!(matches!(company.update(deal, &lost).await, Pushed::Written { .. }));
    assert_eq!(company.value(deal, "lost_reason"), "too dear");
    // What goes with another status is left out, not refused.
    let open =
        [("status", Value::text("open")), ("lost_reason", Value::text("too dear")), ("close_time", Value::Time(at))];
    assert!(matches!(company.update(deal, &open).await, Pushed::Written { .. }));
    assert_eq!(company.value(deal, "close_time"), Json::Null);
}

#[tokio::test(start_paused = true)]
async fn custom_fields_go_by_name_options_by_label_and_money_by_digits() {
    let company = company(
        Settings::default(),
        Kind::Deal,
        |router| router,
        |options| {
            let deal = options.select.get_mut(&Kind::Deal).unwrap();
            deal.insert("Treatment".into(), PropertyType::Text);
            deal.insert("Rooms".into(), PropertyType::Choices);
            deal.insert("Twice".into(), PropertyType::Text);
        },
    );
    company.sandbox.with(|world| {
        world.add_field(Kind::Deal, "Treatment", "enum", &["Peel", "Laser"]);
        world.add_field(Kind::Deal, "Rooms", "set", &["North", "South"]);
        world.add_field(Kind::Deal, "Twice", "varchar", &[]);
        world.add_field(Kind::Deal, "Twice", "varchar", &[]);
    });
    let rooms = Value::Choices(["North".to_owned(), "South".to_owned()].into());
    let amount = Value::Number(Decimal::new(1_234_567_890_123, 2));
    let said = [
        ("title", Value::text("x")),
        ("Treatment", Value::text("Laser")),
        ("Rooms", rooms.clone()),
        ("value", amount.clone()),
        ("expected_close_date", Value::Date(NaiveDate::from_ymd_opt(2026, 12, 18).unwrap())),
    ];
    let outcome = company.create("tandem:1", &said).await;
    let Pushed::Written { id, properties, .. } = outcome else { panic!("{outcome:?}") };
    for (name, value) in &said {
        assert_eq!(properties.get(*name), Some(value), "{name}");
    }
    let Fetched::Found(record) = company.read(number(&id)).await else { panic!("it is there") };
    assert_eq!(record.property("Rooms"), rooms);
    assert_eq!(record.property("value"), amount);
    assert_eq!(record.marker.as_deref(), Some("tandem:1"));
    assert_eq!(record.property("Twice"), Value::Absent, "a name of two fields is not guessed at");
    let none = company.update(number(&id), &[("Treatment", Value::text("Botox"))]).await;
    assert!(
        matches!(&none, Pushed::Failed(ConnectorError::Rejected { field: Some(field), .. }) if field == "Treatment"),
        "{none:?}"
    );
    // An option that was added since is known when it is met.
    let option = company.sandbox.with(|world| world.add_option(Kind::Deal, "Treatment", "Botox")).unwrap();
    let code = company.sandbox.with(|world| world.field_code(Kind::Deal, "Treatment")).unwrap();
    let body = json!({ "custom_fields": { code: option } });
    company.sandbox.with(|world| world.update(Kind::Deal, number(&id), &body, Change::Person)).unwrap();
    let Fetched::Found(record) = company.read(number(&id)).await else { panic!("it is there") };
    assert_eq!(record.property("Treatment"), Value::text("Botox"));
    let checked = company.connector.check().await.unwrap();
    let twice = checked.items.iter().find(|item| item.name.contains("Twice")).unwrap();
    assert!(!twice.ok && twice.detail.contains("40-character key"), "{twice:?}");
}

#[tokio::test(start_paused = true)]
async fn a_persons_other_addresses_stay_when_the_primary_one_changes() {
    let company = plain(Kind::Contact);
    let entry = |value: &str, primary: bool, label: &str| json!({ "value": value, "primary": primary, "label": label });
    let body = json!({ "name": "Ana Ito", "emails": [entry("home@example.com", false, "home"), entry("ana@example.com", true, "work")] });
    let person = company.sandbox.with(|world| world.create(Kind::Contact, &body, Change::Person)).unwrap();
    let outcome = company.update(person, &[("email", Value::text("ana.ito@example.com"))]).await;
    assert!(matches!(outcome, Pushed::Written { .. }), "{outcome:?}");
    let emails = company.sandbox.with(|world| world.value(Kind::Contact, person, "emails")).unwrap();
    assert_eq!(emails, json!([entry("home@example.com", false, "home"), entry("ana.ito@example.com", true, "work")]));
}

#[tokio::test(start_paused = true)]
async fn the_feeds_bring_what_changed_what_was_deleted_and_what_lies_in_the_archive() {
    let company = company(Settings { page_rows: 2, ..Settings::default() }, Kind::Deal, |router| router, |_| {});
    let deals: Vec<u64> = (0..5).map(|n| company.make_deal(json!({ "title": format!("deal {n}") }))).collect();
    company
        .sandbox
        .with(|world| world.update(Kind::Deal, deals[4], &json!({ "is_archived": true }), Change::Person))
        .unwrap();
    let (mut changes, mut shelved) = (Cursor::start(), Cursor::start());
    assert_eq!(ids_of(&company.drain("deal.changes", &mut changes).await), deals[..4]);
    assert_eq!(ids_of(&company.drain("deal.shelved", &mut shelved).await), deals[4..]);
    company.clock.sleep(Duration::from_secs(3_600)).await;
    company.drain("deal.changes", &mut changes).await;
    company.drain("deal.shelved", &mut shelved).await;
    company.clock.sleep(Duration::from_secs(600)).await;
    company.sandbox.with(|world| {
        world.update(Kind::Deal, deals[0], &json!({ "title": "louder" }), Change::Person).unwrap();
        world.delete(Kind::Deal, deals[1], Change::Person).unwrap();
        world.update(Kind::Deal, deals[2], &json!({ "is_archived": true }), Change::Person).unwrap();
    });
    let seen = company.drain("deal.changes", &mut changes).await;
    assert_eq!(ids_of(&seen), deals[..2], "nothing that did not change is read again");
    assert!(seen.contains(&Seen::Archived(id(deals[1]))));
    assert_eq!(ids_of(&company.drain("deal.shelved", &mut shelved).await), [deals[2]], "archived is not deleted");
    assert!(matches!(company.read(deals[2]).await, Fetched::Found(_)));
}

#[tokio::test(start_paused = true)]
async fn a_list_that_answers_the_cursor_it_was_asked_with_ends() {
    let page = json!({ "success": true, "data": [], "additional_data": { "next_cursor": "again" } });
    let answer = move || async move { axum::Json(page) };
    let company = company(Settings::default(), Kind::Deal, |_| Router::new().fallback(answer), |_| {});
    let mut cursor = Cursor::start();
    for _ in 0..4 {
        cursor = company.connector.list(CALL, Kind::Deal, &cursor).await.unwrap().next;
    }
    assert_eq!(cursor, Cursor::start(), "two pages of the list, two of the archive, and the end");
    for stream in ["deal.changes", "deal.shelved", "deal.late"] {
        let mut cursor = Cursor::start();
        for _ in 0..2 {
            assert!(company.drain(stream, &mut cursor).await.is_empty(), "{stream}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_without_a_time_of_change_is_found_by_the_second_pass() {
    let settings = Settings { fresh_has_no_update_time: true, updated_since_finds_fresh: false, ..Settings::default() };
    let company = company(settings, Kind::Deal, |router| router, |_| {});
    let (mut changes, mut late) = (Cursor::start(), Cursor::start());
    company.drain("deal.changes", &mut changes).await;
    company.clock.sleep(Duration::from_secs(1_800)).await;
    let deal = company.make_deal(json!({ "title": "never edited" }));
    company.clock.sleep(Duration::from_secs(600)).await;
    assert!(company.drain("deal.changes", &mut changes).await.is_empty(), "this feed cannot see it");
    assert_eq!(ids_of(&company.drain("deal.late", &mut late).await), [deal]);
}

#[tokio::test(start_paused = true)]
async fn a_create_whose_answer_was_lost_is_found_and_the_oldest_of_twins_is_taken() {
    let company = plain(Kind::Deal);
    company.create("tandem:0", &[("title", Value::text("makes the field"))]).await;
    let since = company.clock.now();
    company.sandbox.with(|world| world.faults = Faults { lost_answer: 1.0, ..Faults::default() });
    let outcome = company.create("tandem:7", &[("title", Value::text("made unseen"))]).await;
    assert!(matches!(outcome, Pushed::Failed(ConnectorError::OutcomeUnknown(_))), "{outcome:?}");
    company.sandbox.with(|world| world.faults = Faults::default());
    let first = *company.sandbox.with(|world| world.ids(Kind::Deal)).last().unwrap();
    assert!(matches!(company.create("tandem:7", &[("title", Value::text("twin"))]).await, Pushed::Written { .. }));
    // Other work, so that what is sought is not on the first page.
    company.clock.sleep(Duration::from_secs(30)).await;
    for n in 0..600 {
        company.make_deal(json!({ "title": format!("deal {n}") }));
    }
    let sought = |marker: &str| Sought { marker: marker.into(), since };
    let found = company.connector.find(CALL, Kind::Deal, &[sought("tandem:8"), sought("tandem:7")]).await.unwrap();
    let [None, Some(record)] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(record.id, id(first));
}

/// Somebody else's deal that cannot be read keeps nobody's create waiting; one that may be the one is not passed over.
#[tokio::test(start_paused = true)]
async fn a_create_is_found_beside_a_row_that_cannot_be_read() {
    for is_ours in [false, true] {
        let spoil: fn(&mut Json) = |json| {
            if json["title"] == "odd" {
                json["custom_fields"] = format!("no object: {}", json["custom_fields"]).into();
            }
        };
        let is_on = Arc::new(AtomicBool::new(true));
        let company = company(Settings::default(), Kind::Deal, spoiling(&is_on, spoil), |_| {});
        let since = company.clock.now();
        let title = if is_ours { "odd" } else { "ours" };
        company.create("tandem:7", &[("title", Value::text(title))]).await;
        company.make_deal(json!({ "title": "odd" }));
        let sought = [Sought { marker: "tandem:7".into(), since }];
        let found = company.connector.find(CALL, Kind::Deal, &sought).await;
        match found {
            Ok(found) => assert!(!is_ours && found[0].is_some(), "{found:?}"),
            Err(error) => assert!(is_ours && matches!(error, ConnectorError::Malformed { .. }), "{error}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_create_is_found_behind_more_records_than_are_walked_through() {
    let company = company(Settings { page_rows: 2, ..Settings::default() }, Kind::Deal, |router| router, |_| {});
    company.create("tandem:0", &[("title", Value::text("makes the field"))]).await;
    let since = company.clock.now();
    company.create("tandem:7", &[("title", Value::text("made long ago"))]).await;
    let made = *company.sandbox.with(|world| world.ids(Kind::Deal)).last().unwrap();
    for n in 0..150 {
        company.make_deal(json!({ "title": format!("deal {n}") }));
    }
    let sought = |marker: &str| Sought { marker: marker.into(), since };
    let found = company.connector.find(CALL, Kind::Deal, &[sought("tandem:8"), sought("tandem:7")]).await.unwrap();
    let [None, Some(record)] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(record.id, id(made));
}

#[tokio::test(start_paused = true)]
async fn the_second_pass_gets_through_however_much_was_made_at_once() {
    let settings = Settings {
        page_rows: 2,
        fresh_has_no_update_time: true,
        updated_since_finds_fresh: false,
        ..Settings::default()
    };
    let company = company(settings, Kind::Deal, |router| router, |_| {});
    let mut late = Cursor::start();
    company.drain("deal.late", &mut late).await;
    company.clock.sleep(Duration::from_secs(4_000)).await;
    let deals: Vec<u64> = (0..150).map(|n| company.make_deal(json!({ "title": format!("deal {n}") }))).collect();
    company.clock.sleep(Duration::from_secs(4_000)).await;
    assert_eq!(ids_of(&company.drain("deal.late", &mut late).await), deals);
    company.clock.sleep(Duration::from_secs(8_000)).await;
    company.drain("deal.late", &mut late).await;
    company.clock.sleep(Duration::from_secs(4_000)).await;
    assert!(company.drain("deal.late", &mut late).await.is_empty(), "what was read is not read for ever");
}

#[tokio::test(start_paused = true)]
async fn the_changelog_tells_what_people_wrote_before_and_after_us() {
    for changelog_oldest_first in [false, true] {
        let company =
            company(Settings { changelog_oldest_first, ..Settings::default() }, Kind::Deal, |router| router, |_| {});
        let deal = company.make_deal(json!({ "title": "first" }));
        for (text, by) in [("a person's", Change::Person), ("ours", Change::Api), ("a person's again", Change::Person)]
        {
            company.clock.sleep(Duration::from_secs(2)).await;
            company.sandbox.with(|world| world.update(Kind::Deal, deal, &json!({ "title": text }), by)).unwrap();
        }
        let asked = ["title".to_owned(), "value".to_owned()];
        let history = company.connector.history(CALL, Kind::Deal, &[id(deal), id(1)], &asked).await.unwrap();
        let [Some(history), None] = history.as_slice() else { panic!("{history:?}") };
        let said: Vec<&Value> = history["title"].iter().map(|statement| &statement.value).collect();
        assert_eq!(said, [&Value::text("a person's again"), &Value::text("ours"), &Value::text("a person's")]);
        assert!(!history.contains_key("value"));
    }
}

#[tokio::test(start_paused = true)]
async fn every_call_costs_its_published_tokens_and_the_budget_is_kept() {
    let company = company(Settings::default(), Kind::Deal, |router| router, |options| options.daily_budget = Some(60));
    company.make_deal(json!({ "title": "x" }));
    let backfill = Call::on(Lane::Backfill);
    let mut pages = 0;
    let stopped = loop {
        match company.connector.list(backfill, Kind::Deal, &Cursor::start()).await {
            Ok(_) => pages += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(stopped, ConnectorError::RateLimited { .. }), "{stopped}");
    // Ten for the fields, ten a page, and seven tenths of the day for a backfill.
    assert_eq!(company.sandbox.with(|world| world.stats.tokens), 10 + 10 * pages);
    assert_eq!(pages, 4);
    assert!(matches!(company.read(4_001).await, Fetched::Found(_)), "people go on");
}

/// A list costs the same for a hundred rows as for one. Source: the published description, parameter `ids`.
#[tokio::test(start_paused = true)]
async fn records_are_read_a_hundred_at_once_and_by_themselves_only_where_no_list_shows_them() {
    const DEALS: usize = 150;
    let company = plain(Kind::Deal);
    let deals: Vec<u64> = (0..DEALS).map(|n| company.make_deal(json!({ "title": format!("deal {n}") }))).collect();
    let ids: Vec<ExternalId> = deals.iter().map(|deal| id(*deal)).collect();
    let lists = DEALS.div_ceil(100) as u64;
    let cost = || company.sandbox.with(|world| (world.stats.requests, world.stats.tokens));
    let fetched = company.connector.fetch(CALL, Kind::Deal, &ids).await.unwrap();
    assert_eq!(cost(), (1 + lists, 10 + 10 * lists), "the fields, and the lists");
    let read: Vec<&ExternalId> = fetched
        .iter()
        .map(|fetched| match fetched {
            Fetched::Found(record) => &record.id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(read.into_iter().eq(&ids), "in the order asked");
    // Deals in the bin are listed with the others, archived ones are not.
    company.sandbox.with(|world| {
        world.delete(Kind::Deal, deals[7], Change::Person).unwrap();
        world.update(Kind::Deal, deals[120], &json!({ "is_archived": true }), Change::Person).unwrap();
        world.clear_stats();
    });
    let fetched = company.connector.fetch(CALL, Kind::Deal, &ids).await.unwrap();
    assert_eq!(cost(), (lists + 1, 10 * lists + 1), "the lists, and the one that is archived");
    let there = fetched.iter().filter(|fetched| matches!(fetched, Fetched::Found(_))).count();
    assert_eq!((there, &fetched[7]), (DEALS - 1, &Fetched::Archived));
}

/// What the feeds cost in a day in which nothing happens, once everything was listed.
async fn a_day_of_polls(company: &Company) -> u64 {
    let (streams, ends_at) = (company.connector.streams(), company.clock.elapsed() + Duration::from_secs(86_400));
    let mut cursors = vec![Cursor::start(); streams.len()];
    for (stream, cursor) in streams.iter().zip(&mut cursors) {
        company.drain(&stream.name, cursor).await;
    }
    company.sandbox.with(|world| world.clear_stats());
    let mut due: Vec<Duration> = streams.iter().map(|stream| company.clock.elapsed() + stream.period).collect();
    loop {
        let next = (0..streams.len()).min_by_key(|one| due[*one]).unwrap();
        if due[next] > ends_at {
            return company.sandbox.with(|world| world.stats.tokens);
        }
        company.clock.sleep(due[next].saturating_sub(company.clock.elapsed())).await;
        company.drain(&streams[next].name, &mut cursors[next]).await;
        due[next] += streams[next].period;
    }
}

/// The tokens are the whole company's: with fewer of them a day we look more seldom, more seldom still while webhooks tell us
/// what changed, and the operator is told how often.
/// Source: <https://pipedrive.readme.io/docs/core-api-concepts-rate-limiting>.
#[tokio::test(start_paused = true)]
async fn the_smaller_the_budget_the_longer_between_two_polls_and_the_operator_is_told() {
    let with = |daily_budget: u64, poll: Option<u64>| {
        company(
            Settings::default(),
            Kind::Deal,
            |router| router,
            |options| {
                options.daily_budget = Some(daily_budget);
                options.poll = poll.map(Duration::from_secs);
                options.webhook_login = Some(("pd-1".into(), Secret::new("long-random-secret")));
            },
        )
    };
    let address = "https://tandem.example.com/webhooks/pipedrive".parse().unwrap();
    let period = |company: &Company, name: &str| {
        company.connector.streams().into_iter().find(|stream| stream.name == name).unwrap().period.as_secs()
    };
    let seconds = [0, 5_000, 30_000, 300_000, 3_000_000, u64::MAX].map(|b| period(&with(b, None), "deal.changes"));
    assert!(seconds.is_sorted_by(|few, more| few >= more), "{seconds:?}");
    assert_eq!((seconds[0], seconds[5]), (3_600, 5), "within bounds, whatever somebody writes there");
    for (budget, seconds) in [(5_000, seconds[1]), (30_000, seconds[2]), (300_000, seconds[3])] {
        assert!(seconds > 5 && seconds < 3_600, "{budget}: {seconds} s");
        let company = with(budget, None);
        assert_eq!(period(&company, "deal.shelved"), 10 * seconds, "what changes seldom");
        let spent = a_day_of_polls(&company).await;
        assert!(spent * 100 <= budget * 20, "{budget}: polls every {seconds} s cost {spent}");
        assert!(spent * 100 >= budget * 18, "{budget}: {spent} tokens are fewer than they may cost");
        company.connector.subscribe(CALL, &address).await.unwrap();
        let beside = period(&company, "deal.changes");
        assert!(beside > seconds, "{budget}: {beside} s, and {seconds} s without webhooks");
        let spent = a_day_of_polls(&company).await;
        assert!(beside == 3_600 || spent * 100 <= budget * 5, "{budget}: {beside} s beside webhooks cost {spent}");
        // Nobody knows whether they are still there.
        company.sandbox.with(|world| world.faults = Faults { unavailable_before: 1.0, ..Faults::default() });
        company.connector.subscribe(CALL, &address).await.unwrap_err();
        assert_eq!(period(&company, "deal.changes"), seconds, "{budget}: without webhooks");
    }
    let told = async |company: Company| {
        let items = company.connector.check().await.unwrap().items;
        items.into_iter().find(|item| item.name == "polling").unwrap().detail
    };
    let detail = told(with(30_000, None)).await;
    let beside = with(30_000, None);
    beside.connector.subscribe(CALL, &address).await.unwrap();
    let (beside, untold) = (period(&beside, "deal.changes"), seconds[2]);
    assert_eq!(
        detail,
        format!(
            "every {beside} s, for 5 % of 30000 tokens a day (daily_budget); while no webhooks are subscribed to, every \
             {untold} s, for 20 %"
        )
    );
    assert_eq!(period(&with(30_000, Some(7)), "deal.changes"), 7, "the operator has the last word");
    let detail = told(with(30_000, Some(7))).await;
    assert!(detail.starts_with("every 7 s (poll_seconds)"), "{detail}");
}

#[tokio::test(start_paused = true)]
async fn a_spent_day_stops_and_a_spent_window_only_waits() {
    let company = company(Settings { daily_tokens: 25, ..Settings::default() }, Kind::Deal, |router| router, |_| {});
    let deal = company.make_deal(json!({ "title": "x" }));
    let mut refused = None;
    for _ in 0..40 {
        if let Err(error) = company.connector.fetch(CALL, Kind::Deal, &[id(deal)]).await {
            refused = Some(error);
            break;
        }
    }
    let refused = refused.expect("the company's day is spent");
    let ConnectorError::RateLimited { retry_after: Some(wait), policy } = refused else { panic!("{refused}") };
    assert!(policy.contains("of the day"), "{policy}");
    assert!(wait >= Duration::from_secs(900), "a spent day is not asked again after the window of two seconds");

    let company = self::company(Settings { burst: 20, ..Settings::default() }, Kind::Deal, |router| router, |_| {});
    let deal = company.make_deal(json!({ "title": "x" }));
    for _ in 0..100 {
        company.connector.fetch(CALL, Kind::Deal, &[id(deal)]).await.unwrap();
    }
    assert_eq!(company.sandbox.with(|world| world.stats.too_many), 0, "none of our making");
}

/// How many seconds three hundred reads take.
async fn three_hundred_reads(settings: Settings, change: impl FnOnce(&mut Options)) -> u64 {
    let company = company(settings, Kind::Deal, |router| router, change);
    let deal = company.make_deal(json!({ "title": "x" }));
    let began = company.clock.elapsed();
    for _ in 0..300 {
        company.connector.fetch(CALL, Kind::Deal, &[id(deal)]).await.unwrap();
    }
    assert_eq!(company.sandbox.with(|world| world.stats.too_many), 0, "none of our making");
    (company.clock.elapsed() - began).as_secs()
}

#[tokio::test(start_paused = true)]
async fn the_window_of_two_seconds_goes_by_plan_and_credentials_until_the_headers_say_more() {
    let silent = Settings { limit_headers: false, ..Settings::default() };
    let growth = |options: &mut Options| options.plan = Plan::Growth;
    let took = three_hundred_reads(silent.clone(), growth).await;
    assert!((14..=17).contains(&took), "40 in 2 s by a user's token: {took} s");
    let app = grant(&silent);
    let took = three_hundred_reads(silent.clone(), |options| {
        (options.plan, options.credentials) = (Plan::Growth, app);
    })
    .await;
    assert!((3..=5).contains(&took), "160 by an app: {took} s");
    let app = grant(&silent);
    let took = three_hundred_reads(silent.clone(), |options| options.credentials = app).await;
    assert!((7..=9).contains(&took), "80 by an app on the smallest plan: {took} s");
    let took = three_hundred_reads(Settings::default(), |_| {}).await;
    assert!((14..=17).contains(&took), "the headers say 40: {took} s");
    let own = Limit { requests: 20, per: Duration::from_secs(2) };
    let took = three_hundred_reads(Settings::default(), |options| options.rate_limit = Some(own)).await;
    assert!((31..=35).contains(&took), "what an operator says stands: {took} s");
}

/// The feeds of a connection as an operator describes it.
async fn described(connector: &str, more: &str) -> Result<Vec<Stream>, String> {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("t.db").display());
    let store = Arc::new(SqlStore::open(&url, Sealer::new(&Sealer::new_key()).unwrap()).await.unwrap());
    let text = format!("account = \"glow_clinic\"\nconnector = \"{connector}\"\n{more}");
    let settings = Config::parse_connection(&text).map_err(|error| error.to_string())?;
    let account = Account {
        name: "glow_clinic".parse().unwrap(),
        profile: Profile::Clinic,
        timezone: chrono_tz::UTC,
        currency: Currency::new("USD").unwrap(),
        triggers: BTreeMap::new(),
        types: BTreeMap::new(),
        visit_rules: BTreeMap::new(),
    };
    let transport = Arc::new(RouterTransport::new(Router::new()));
    let parts =
        Parts { store, installation: "sim", folder: folder.path(), public_url: None, transport, clock: clock() };
    let made = connect(&"crm".parse().unwrap(), &settings, &account, Others::default(), parts).await;
    made.map(|connection| connection.connector.streams()).map_err(|error| error.to_string())
}

#[tokio::test]
async fn polls_follow_the_plan_and_its_seats_and_an_explicit_budget_goes_before_them() {
    for (why, more, seconds) in [
        ("one seat of the smallest plan leaves 6,000 tokens, 960 for the second passes, and a round takes 22", "", 378),
        ("two seats", "seats = 2", 173),
        ("five seats of twice as much", "plan = \"growth\"\nseats = 5", 33),
        ("not more often than every five seconds", "plan = \"Ultimate\"\nseats = 10", 5),
        ("what is said goes before what is computed", "plan = \"growth\"\nseats = 5\ndaily_budget = 30000", 378),
    ] {
        let streams = described("pipedrive", &format!("credentials = {{ api_token = \"t\" }}\n{more}")).await.unwrap();
        let changes = streams.iter().find(|stream| stream.name == "deal.changes").unwrap();
        assert_eq!(changes.period, Duration::from_secs(seconds), "{why}");
    }
}

#[tokio::test]
async fn what_an_operator_gets_wrong_is_named_and_so_is_a_setting_of_another_vendor() {
    let token = "credentials = { api_token = \"t\" }";
    let app = "credentials = { client_id = \"app\", client_secret = \"s\" }";
    let hubspot = "credentials = { access_token = \"t\" }";
    for (connector, credentials, more, said) in [
        ("pipedrive", token, "plan = \"gold\"", "crm.plan: `gold` is not one of lite, growth, premium, ultimate"),
        ("pipedrive", token, "seats = 0", "crm.seats: is how many people have a seat: at least 1"),
        ("pipedrive", token, "seat = 5", "unknown field `seat`"),
        ("pipedrive", app, "", "needs api_token, or client_id, client_secret and refresh_token, or redirect_uri"),
        ("pipedrive", app, "redirect_uri = \"callback\"", "crm.redirect_uri: is not an address"),
        ("square", app, "", "needs access_token, or client_id, client_secret and refresh_token, or redirect_uri"),
        ("square", app, "redirect_uri = \"callback\"", "crm.redirect_uri: is not an address"),
        ("hubspot", hubspot, "redirect_uri = \"https://tandem.example.com\"", "crm.redirect_uri: is not a setting of"),
        ("hubspot", hubspot, "plan = \"growth\"", "crm.plan: is not a setting of hubspot: take it out"),
        ("hubspot", hubspot, "seats = 5", "crm.seats: is not a setting of hubspot: take it out"),
    ] {
        let wrong = described(connector, &format!("{credentials}\n{more}")).await.unwrap_err();
        assert!(wrong.contains(said), "{wrong}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_of_the_gateway_and_an_unpaid_account_are_told_from_a_missing_right() {
    let company = plain(Kind::Deal);
    company.sandbox.with(|world| world.faults = Faults { blocked: 1.0, ..Faults::default() });
    let blocked = company.connector.check().await.unwrap_err();
    assert!(matches!(&blocked, ConnectorError::RateLimited { policy, .. } if policy.contains("gateway")), "{blocked}");
    let company = plain(Kind::Deal);
    company.sandbox.with(|world| world.faults = Faults { unpaid: true, ..Faults::default() });
    let unpaid = company.connector.check().await.unwrap_err();
    assert!(matches!(&unpaid, ConnectorError::Unauthorized(why) if why.contains("not open")), "{unpaid}");
}

#[tokio::test(start_paused = true)]
async fn a_grant_is_exchanged_once_and_the_companys_own_address_is_called() {
    let settings =
        Settings { api_domain: "https://glow.pipedrive.com".into(), token_seconds: 120, ..Settings::default() };
    let grant = grant(&settings);
    let company = company(
        settings,
        Kind::Deal,
        |router| router,
        |options| {
            options.base_url = Options::BASE_URL.parse().unwrap();
            options.credentials = grant;
        },
    );
    for _ in 0..3 {
        company.connector.check().await.unwrap();
    }
    let asked = company.sandbox.with(|world| world.stats.by_route.clone());
    assert_eq!(asked["POST oauth/token"], 1, "{asked:?}");
    company.clock.sleep(Duration::from_secs(90)).await;
    company.connector.check().await.unwrap();
    assert_eq!(company.sandbox.with(|world| world.stats.by_route["POST oauth/token"]), 2);
    company.sandbox.with(|world| world.revoke_access());
    let gone = company.connector.check().await.unwrap_err();
    assert!(matches!(&gone, ConnectorError::Unauthorized(why) if why.contains("connect Pipedrive again")), "{gone}");
}

/// Without the right to make our field nothing is created, and whoever reads why knows what to ask of whom.
#[tokio::test(start_paused = true)]
async fn where_the_marker_field_may_not_be_made_people_are_told_who_makes_it_and_reading_goes_on() {
    for (kind, text_property, right) in
        [(Kind::Deal, "title", "deal-fields:full"), (Kind::Contact, "name", "contact-fields:full")]
    {
        let mut settings = Settings::default();
        settings.scopes.retain(|scope| scope != right && scope != "admin");
        let app = grant(&settings);
        let company = company(settings, kind, |router| router, |options| options.credentials = app);
        let body = json!({ text_property: "made by a person" });
        let made = company.sandbox.with(|world| world.create(kind, &body, Change::Person)).unwrap();
        let said = [(text_property, Value::text("made by us"))];
        for _ in 0..2 {
            let refused = company.create("tandem:1", &said).await;
            let Pushed::Failed(ConnectorError::Forbidden(why)) = refused else { panic!("{refused:?}") };
            let plural = if kind == Kind::Deal { "deals" } else { "persons" };
            assert!(
                why.starts_with(&format!("the field `Tandem id` of {plural} is missing and may not be made")),
                "{why}"
            );
            assert!(why.contains("grant the permission or the scope in Pipedrive"), "why not: {why}");
            assert!(why.ends_with("let an administrator make a text field of that name"), "what to do: {why}");
        }
        assert_eq!(company.sandbox.with(|world| world.ids(kind)), [made], "nothing was made");
        assert!(matches!(company.read(made).await, Fetched::Found(_)), "reading works");
        // As they were told to.
        company.sandbox.with(|world| world.add_field(kind, "Tandem id", "varchar", &[]));
        let Pushed::Written { id, .. } = company.create("tandem:1", &said).await else { panic!("{kind}: not made") };
        assert_eq!(company.sandbox.with(|world| world.value(kind, number(&id), "Tandem id")), Some(json!("tandem:1")));
    }
}

/// Where an installation's processes keep the newest grant.
#[derive(Default)]
pub struct Drawer(Mutex<Option<String>>);

#[async_trait]
impl KeepRefreshToken for Drawer {
    async fn keep(&self, refresh_token: &Secret) -> Result<(), String> {
        *self.0.lock().unwrap() = Some(refresh_token.expose().to_owned());
        Ok(())
    }

    async fn newest(&self) -> Result<Option<Secret>, String> {
        Ok(self.0.lock().unwrap().clone().map(Secret::new))
    }
}

/// One process of an installation whose app nobody has let in.
fn process(company: &Company, kept: &Arc<Drawer>) -> Pipedrive {
    let settings = company.sandbox.with(|world| world.settings.clone());
    let app = Credentials::App { client_id: settings.client_id, client_secret: Secret::new(settings.client_secret) };
    let mut options = Options::new(Options::BASE_URL.parse().unwrap(), app);
    options.redirect_uri = Some(settings.redirect_uri);
    options.select = default_selection();
    options.daily_budget = Some(300_000);
    let transport = Arc::new(RouterTransport::new(company.sandbox.router()));
    Pipedrive::new(options, transport, company.clock.clone()).keep_refresh_token(kept.clone())
}

/// What the browser of a person brings back who lets an app in on this page.
pub async fn brought_back(vendor: Router, page: url::Url) -> BTreeMap<String, String> {
    let method = "GET".parse().unwrap();
    let request = HttpRequest { method, url: page, headers: Default::default(), body: Default::default() };
    let answer = RouterTransport::new(vendor).send(request, Duration::from_secs(9)).await.unwrap();
    let back: url::Url = answer.headers["location"].to_str().unwrap().parse().unwrap();
    back.query_pairs().into_owned().collect()
}

/// The code that it brings.
fn code(company: &Company) -> Secret {
    let code = company.sandbox.with(|world| {
        let (client_id, redirect_uri) = (world.settings.client_id.clone(), world.settings.redirect_uri.clone());
        world.consent(&client_id, &redirect_uri)
    });
    Secret::new(code.unwrap())
}

#[tokio::test(start_paused = true)]
async fn an_app_that_nobody_let_in_asks_where_that_is_done_and_goes_on_with_what_comes_of_it() {
    let settings = Settings { api_domain: "https://glow.pipedrive.com".into(), ..Settings::default() };
    let company = company(settings, Kind::Deal, |router| router, |_| {});
    let kept = Arc::new(Drawer::default());
    let pipedrive = process(&company, &kept);
    let nobody = pipedrive.identify().await.unwrap_err();
    assert!(
        matches!(&nobody, ConnectorError::Unauthorized(why) if why.contains("`tandem connection authorize`")),
        "{nobody}"
    );
    assert_eq!(company.sandbox.with(|world| world.stats.requests), 0, "nothing is asked without a grant");
    let address = pipedrive.consent("s 1").unwrap();
    assert_eq!(
        address.as_str(),
        "https://oauth.pipedrive.com/oauth/authorize?client_id=sandbox-app\
         &redirect_uri=https%3A%2F%2Ftandem.example.com%2Fcallback&state=s+1"
    );
    let brought = brought_back(company.sandbox.router(), address).await;
    assert_eq!(brought["state"], "s 1");
    let identity = pipedrive.redeem(&Secret::new(brought["code"].as_str()), None).await.unwrap();
    assert_eq!(identity.remote_account, "5566");
    let grant = company.sandbox.with(|world| world.settings.refresh_token.clone());
    assert_eq!(kept.newest().await.unwrap().unwrap().expose(), grant);
    let exchanges = || company.sandbox.with(|world| world.stats.by_route["POST oauth/token"]);
    pipedrive.identify().await.unwrap();
    assert_eq!(exchanges(), 1, "the code brought an access token as well");
    company.clock.sleep(Duration::from_secs(3_600)).await;
    pipedrive.identify().await.unwrap();
    assert_eq!(exchanges(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_code_is_good_once_for_five_minutes_and_for_the_account_that_the_connection_belongs_to() {
    let company = plain(Kind::Deal);
    let kept = Arc::new(Drawer::default());
    let pipedrive = process(&company, &kept);
    let late = code(&company);
    company.clock.sleep(Duration::from_secs(301)).await;
    let refused = pipedrive.redeem(&late, None).await.unwrap_err();
    assert!(matches!(&refused, ConnectorError::Unauthorized(why) if why.contains("five minutes")), "{refused}");
    assert!(!format!("{refused:?}").contains(late.expose()));
    // The account of somebody else.
    let found = pipedrive.redeem(&code(&company), Some("4711")).await.unwrap();
    assert_eq!(found.remote_account, "5566");
    assert!(kept.newest().await.unwrap().is_none(), "its grant reaches no other process");
    assert!(matches!(pipedrive.identify().await, Err(ConnectorError::Unauthorized(_))), "nor is it used by this one");
    let good = code(&company);
    pipedrive.redeem(&good, Some("5566")).await.unwrap();
    let grant = kept.newest().await.unwrap().unwrap();
    let twice = pipedrive.redeem(&good, Some("5566")).await.unwrap_err();
    assert!(matches!(&twice, ConnectorError::Unauthorized(why) if why.contains("one exchange")), "{twice}");
    assert_eq!(kept.newest().await.unwrap().unwrap().expose(), grant.expose());
    pipedrive.identify().await.unwrap();
    // The callback address was changed at Pipedrive, and not here.
    company.sandbox.with(|world| world.settings.redirect_uri = "https://tandem.example.com/other".into());
    let other = pipedrive.redeem(&code(&company), None).await.unwrap_err();
    assert!(matches!(&other, ConnectorError::Unauthorized(why) if why.contains("redirect_uri")), "{other}");
    // An answer that was lost says nothing about the app.
    company.sandbox.with(|world| world.faults = Faults { lost_answer: 1.0, ..Faults::default() });
    let lost = pipedrive.redeem(&code(&company), None).await.unwrap_err();
    assert!(matches!(&lost, ConnectorError::NotSent(why) if why.starts_with("exchanging the code")), "{lost}");
}

#[tokio::test(start_paused = true)]
async fn a_daemon_goes_on_with_the_grant_that_another_process_was_given_or_renewed() {
    for rotate_refresh_token in [false, true] {
        let settings = Settings { rotate_refresh_token, ..Settings::default() };
        let company = company(settings, Kind::Deal, |router| router, |_| {});
        let kept = Arc::new(Drawer::default());
        let (daemon, command) = (process(&company, &kept), process(&company, &kept));
        assert!(matches!(daemon.identify().await, Err(ConnectorError::Unauthorized(_))));
        command.redeem(&code(&company), None).await.unwrap();
        for _ in 0..3 {
            daemon.identify().await.unwrap();
            company.clock.sleep(Duration::from_secs(3_600)).await;
            command.identify().await.unwrap();
        }
        let grant = company.sandbox.with(|world| world.settings.refresh_token.clone());
        assert_eq!(kept.newest().await.unwrap().unwrap().expose(), grant);
        // Nobody called for two months.
        company.clock.sleep(Duration::from_secs(61 * 86_400)).await;
        let gone = daemon.identify().await.unwrap_err();
        let again = "connect Pipedrive again";
        assert!(matches!(&gone, ConnectorError::Unauthorized(why) if why.contains(again)), "{gone}");
        command.redeem(&code(&company), Some("5566")).await.unwrap();
        daemon.identify().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn one_subscription_a_kind_is_kept_and_made_again_when_it_was_taken_away() {
    let company = company(
        Settings::default(),
        Kind::Deal,
        |router| router,
        |options| {
            options.webhook_login = Some(("pd-1".into(), Secret::new("long-random-secret")));
        },
    );
    let address = "https://tandem.example.com/webhooks/pipedrive".parse().unwrap();
    for _ in 0..2 {
        company.connector.subscribe(CALL, &address).await.unwrap();
        assert_eq!(company.sandbox.with(|world| world.webhooks()), 2, "one for deals, one for persons");
    }
    let made = || company.sandbox.with(|world| world.stats.by_route["POST v1/webhooks"]);
    assert_eq!(made(), 2);
    company.sandbox.with(|world| world.take_webhooks_away());
    company.connector.subscribe(CALL, &address).await.unwrap();
    assert_eq!((company.sandbox.with(|world| world.webhooks()), made()), (2, 4), "made again");
    company.sandbox.with(|world| world.switch_webhooks_off());
    company.connector.subscribe(CALL, &address).await.unwrap();
    assert_eq!((company.sandbox.with(|world| world.webhooks()), made()), (2, 6), "replaced");
    let renamed = "https://tandem.example.com/webhooks/pipedrive/0123456789abcdef".parse().unwrap();
    company.connector.subscribe(CALL, &renamed).await.unwrap();
    let addresses = company.sandbox.with(|world| world.webhook_addresses());
    assert_eq!(addresses, [renamed.as_str(), renamed.as_str()], "nothing sends to the old address any more");
}

/// Ten first tries that fail silence a subscription for half an hour, and what happens then is never told: the feed has it.
#[tokio::test(start_paused = true)]
async fn what_is_not_told_while_a_subscription_is_banned_comes_by_the_feed() {
    let company = company(
        Settings::default(),
        Kind::Deal,
        |router| router,
        |options| options.webhook_login = Some(("pd-1".into(), Secret::new("long-random-secret"))),
    );
    let mut changes = Cursor::start();
    company.drain("deal.changes", &mut changes).await;
    company.connector.subscribe(CALL, &"https://nobody.example.com/webhooks/pipedrive".parse().unwrap()).await.unwrap();
    let nobody = axum::Router::new().fallback(|| async { axum::http::StatusCode::BAD_GATEWAY });
    let delivery = tokio::spawn(company.sandbox.clone().deliver_webhooks(Arc::new(RouterTransport::new(nobody))));
    let deals: Vec<u64> = (0..30).map(|n| company.make_deal(json!({ "title": format!("deal {n}") }))).collect();
    company.clock.sleep(Duration::from_secs(1_200)).await;
    assert!(company.sandbox.with(|world| world.is_banned()), "the vendor gave up for a while");
    let later = company.make_deal(json!({ "title": "made meanwhile" }));
    let seen = ids_of(&company.drain("deal.changes", &mut changes).await);
    assert!(deals.iter().chain([&later]).all(|deal| seen.contains(deal)), "{seen:?}");
    delivery.abort();
}

#[tokio::test(start_paused = true)]
async fn a_person_who_was_edited_since_the_plan_is_planned_anew() {
    let company = plain(Kind::Contact);
    let body = json!({ "name": "Ana Ito", "emails": [{ "value": "b@example.com", "primary": true, "label": "work" }] });
    let person = company.sandbox.with(|world| world.create(Kind::Contact, &body, Change::Person)).unwrap();
    let op = WriteOp::Update {
        id: id(person),
        properties: BTreeMap::from([("email".to_owned(), Value::text("c@example.com"))]),
        planned_on: BTreeMap::from([("email".to_owned(), Value::text("a@example.com"))]),
        expected: Version::default(),
    };
    let write = Write { trace: "t".into(), kind: Kind::Contact, op };
    let outcome = company.connector.push(CALL, &[write]).await.pop().unwrap();
    assert!(matches!(outcome, Pushed::Failed(ConnectorError::Stale)), "{outcome:?}");
    assert_eq!(company.sandbox.with(|world| world.stats.updated), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_said_within_one_second_keeps_its_order_whichever_way_the_changelog_runs() {
    for changelog_oldest_first in [false, true] {
        let settings = Settings { changelog_oldest_first, ..Settings::default() };
        let company = company(settings, Kind::Deal, |router| router, |_| {});
        let deal = company.make_deal(json!({ "title": "first" }));
        for (text, by) in [("a person's", Change::Person), ("ours", Change::Api)] {
            company.sandbox.with(|world| world.update(Kind::Deal, deal, &json!({ "title": text }), by)).unwrap();
        }
        let history = company.connector.history(CALL, Kind::Deal, &[id(deal)], &["title".to_owned()]).await.unwrap();
        let said: Vec<&Value> =
            history[0].as_ref().unwrap()["title"].iter().map(|statement| &statement.value).collect();
        assert_eq!(said, [&Value::text("ours"), &Value::text("a person's")]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_field_that_was_removed_there_says_nothing_and_an_option_goes_by_its_label() {
    let company = company(
        Settings::default(),
        Kind::Deal,
        |router| router,
        |options| {
            let deal = options.select.get_mut(&Kind::Deal).unwrap();
            deal.insert("Rounds".into(), PropertyType::Text);
        },
    );
    let ids: Vec<u64> = company.sandbox.with(|world| {
        world.add_field(Kind::Deal, "Rounds", "enum", &["sixty"]);
        let first = world.add_option(Kind::Deal, "Rounds", "x").unwrap();
        // A label that is the id of another option.
        vec![first, world.add_option(Kind::Deal, "Rounds", &first.to_string()).unwrap()]
    });
    let code = company.sandbox.with(|world| world.field_code(Kind::Deal, "Rounds")).unwrap();
    let deal = company.make_deal(json!({ "title": "x" }));
    let outcome = company.update(deal, &[("Rounds", Value::text(&ids[0].to_string()))]).await;
    assert!(matches!(outcome, Pushed::Written { .. }), "{outcome:?}");
    assert_eq!(company.value(deal, &code), json!(ids[1]));
    company.clock.sleep(Duration::from_secs(90)).await;
    company.sandbox.with(|world| world.remove_field(Kind::Deal, "Rounds"));
    let Fetched::Found(record) = company.read(deal).await else { panic!("it is there") };
    assert_eq!(record.property("Rounds"), Value::Absent, "nobody emptied it");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_only_reads_subscribes_to_nothing() {
    let company = company(
        Settings::default(),
        Kind::Deal,
        |router| router,
        |options| {
            options.webhook_login = Some(("pd-1".into(), Secret::new("long-random-secret")));
            options.read_only = true;
        },
    );
    let address = "https://tandem.example.com/webhooks/pipedrive".parse().unwrap();
    company.connector.subscribe(CALL, &address).await.unwrap();
    assert_eq!(company.sandbox.with(|world| world.webhooks()), 0);
}

#[tokio::test(start_paused = true)]
async fn a_person_who_is_there_already_is_not_made_again() {
    let company = plain(Kind::Contact);
    let emails = json!([{ "value": "Ana@example.com", "primary": false, "label": "home" }]);
    let body = json!({ "name": "Ana Ito", "emails": emails });
    let person = company.sandbox.with(|world| world.create(Kind::Contact, &body, Change::Person)).unwrap();
    let ana = [("name", Value::text("Ana Ito")), ("email", Value::text("ana@example.com"))];
    let outcome = company.create("tandem:1", &ana).await;
    assert!(matches!(&outcome, Pushed::Exists { id: found, ours: false } if *found == id(person)), "{outcome:?}");
    let bo = [("name", Value::text("Bo Lund")), ("email", Value::text("bo@example.com"))];
    assert!(matches!(company.create("tandem:2", &bo).await, Pushed::Written { .. }));
    assert_eq!(company.sandbox.with(|world| world.ids(Kind::Contact)).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_waits_for_its_turn_costs_two_tokens_a_look() {
    let company = plain(Kind::Deal);
    company.connector.identify().await.unwrap();
    company.sandbox.with(|world| world.clear_stats());
    for _ in 0..10 {
        assert_eq!(company.connector.identify().await.unwrap().remote_account, "5566");
    }
    assert_eq!(company.sandbox.with(|world| world.stats.tokens), 20);
}

const ORGANIZATION: &str = "organization";

/// A company whose organizations are mapped by name.
fn with_organizations(kind: Kind) -> Company {
    company(
        Settings::default(),
        kind,
        |router| router,
        |options| {
            options.select.entry(kind).or_default().insert(ORGANIZATION.to_owned(), PropertyType::Text);
        },
    )
}

impl Company {
    fn make_organization(&self, name: &str) -> u64 {
        let body = json!({ "name": name });
        self.sandbox.with(|world| world.create(Kind::Company, &body, Change::Person)).unwrap()
    }

    fn asked(&self, route: &str) -> u64 {
        self.sandbox.with(|world| world.stats.by_route.get(route).copied().unwrap_or(0))
    }
}

#[tokio::test(start_paused = true)]
async fn the_names_of_organizations_are_read_a_hundred_at_once() {
    let company = with_organizations(Kind::Contact);
    let clinic = company.make_organization("Harbor Clinic");
    let persons: Vec<u64> = company.sandbox.with(|world| {
        let of = [Some(clinic), Some(clinic), None];
        let person = |of: Option<u64>| json!({ "name": "Ana Ito", "org_id": of });
        of.into_iter().map(|of| world.create(Kind::Contact, &person(of), Change::Person).unwrap()).collect()
    });
    for _ in 0..2 {
        let ids: Vec<ExternalId> = persons.iter().map(|person| id(*person)).collect();
        let fetched = company.connector.fetch(CALL, Kind::Contact, &ids).await.unwrap();
        let named: Vec<Value> = fetched
            .into_iter()
            .map(|fetched| match fetched {
                Fetched::Found(record) => record.property(ORGANIZATION),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(named, [Value::text("Harbor Clinic"), Value::text("Harbor Clinic"), Value::Null]);
    }
    assert_eq!(company.asked("GET v2/organizations"), 1, "names are kept for a while");
}

/// Somebody who works for an organization that we may not see does not work for none.
#[tokio::test(start_paused = true)]
async fn an_organization_that_is_not_shown_is_not_known_to_be_none() {
    let hide: fn(&mut Json) = |json| {
        if let Some(rows) = json.as_array_mut() {
            rows.retain(|row| row["name"] != "Harbor Clinic");
        }
    };
    let is_on = Arc::new(AtomicBool::new(true));
    let company = company(Settings::default(), Kind::Contact, spoiling(&is_on, hide), |options| {
        options.select.entry(Kind::Contact).or_default().insert(ORGANIZATION.to_owned(), PropertyType::Text);
    });
    let clinic = company.make_organization("Harbor Clinic");
    let person = json!({ "name": "Ana Ito", "org_id": clinic });
    let person = company.sandbox.with(|world| world.create(Kind::Contact, &person, Change::Person)).unwrap();
    let Fetched::Found(record) = company.read(person).await else { panic!() };
    assert_eq!(record.property(ORGANIZATION), Value::Absent);
}

#[tokio::test(start_paused = true)]
async fn an_organization_is_set_by_a_name_that_only_it_has_and_none_is_made() {
    let company = with_organizations(Kind::Contact);
    let clinic = company.make_organization("Harbor Clinic");
    let (twin, other) = (company.make_organization("Twin"), company.make_organization("Twin"));
    let body = json!({ "name": "Ana Ito" });
    let person = company.sandbox.with(|world| world.create(Kind::Contact, &body, Change::Person)).unwrap();
    let of = || company.sandbox.with(|world| world.value(Kind::Contact, person, "org_id")).unwrap();
    let named = |name: &str| [(ORGANIZATION, Value::text(name))];
    for _ in 0..3 {
        let outcome = company.update(person, &named("Harbor Clinic")).await;
        let Pushed::Written { properties, .. } = outcome else { panic!("{outcome:?}") };
        assert_eq!(properties[ORGANIZATION], Value::text("Harbor Clinic"));
        assert_eq!(of(), clinic);
    }
    assert_eq!(company.asked("GET v2/organizations"), 1, "they are listed once");
    assert_eq!(company.asked("GET v2/organizations/{id}"), 2, "and the one is looked at right before");
    let made = company.create("tandem:1", &[("name", Value::text("Bo Lund")), named("Harbor Clinic")[0].clone()]).await;
    assert!(
        matches!(&made, Pushed::Written { properties, .. } if properties[ORGANIZATION] == Value::text("Harbor Clinic"))
    );
    for (name, why) in [("Twin", "several organizations"), ("Nobody", "no organization"), ("harbor clinic", "no organ")]
    {
        let refused = company.update(person, &named(name)).await;
        let Pushed::Failed(ConnectorError::Rejected { field, reason }) = refused else { panic!("{refused:?}") };
        assert_eq!(field.as_deref(), Some(ORGANIZATION));
        assert!(reason.contains(why) && !reason.contains(name), "{reason}");
    }
    assert_eq!(
        (company.asked("GET v2/organizations"), of()),
        (1, json!(clinic)),
        "a name that is not there costs nothing"
    );
    // Somebody makes it: ten minutes later it is looked for among what was made and changed since.
    let nobody = company.make_organization("Nobody");
    company.clock.sleep(Duration::from_secs(601)).await;
    assert!(matches!(company.update(person, &named("Nobody")).await, Pushed::Written { .. }));
    assert_eq!((company.asked("GET v2/organizations"), of()), (3, json!(nobody)));
    // One of two is renamed: the other one is the only one, and that is seen at once.
    assert!(matches!(company.update(person, &named("Twin")).await, Pushed::Failed(_)));
    let body = json!({ "name": "Twin the elder" });
    company.sandbox.with(|world| world.update(Kind::Company, twin, &body, Change::Person)).unwrap();
    assert!(matches!(company.update(person, &named("Twin")).await, Pushed::Written { .. }));
    assert_eq!(of(), other);
    // What was renamed goes by its old name no more.
    let body = json!({ "name": "Harbour Clinic" });
    company.sandbox.with(|world| world.update(Kind::Company, clinic, &body, Change::Person)).unwrap();
    assert!(matches!(company.update(person, &named("Harbor Clinic")).await, Pushed::Failed(_)));
    assert!(matches!(company.update(person, &named("Harbour Clinic")).await, Pushed::Written { .. }));
    assert_eq!(of(), clinic);
    assert!(matches!(company.update(person, &[(ORGANIZATION, Value::Null)]).await, Pushed::Written { .. }));
    assert_eq!(of(), Json::Null);
    assert_eq!(company.sandbox.with(|world| world.ids(Kind::Company)).len(), 4, "none was made");
}

#[tokio::test(start_paused = true)]
async fn the_changelog_tells_which_organization_a_deal_had() {
    let company = with_organizations(Kind::Deal);
    let (clinic, other) = (company.make_organization("Harbor Clinic"), company.make_organization("Other"));
    let deal = company.make_deal(json!({ "title": "x" }));
    for (of, by) in [(json!(clinic), Change::Person), (json!(other), Change::Api), (Json::Null, Change::Person)] {
        company.clock.sleep(Duration::from_secs(2)).await;
        company.sandbox.with(|world| world.update(Kind::Deal, deal, &json!({ "org_id": of }), by)).unwrap();
    }
    let asked = [ORGANIZATION.to_owned()];
    let history = company.connector.history(CALL, Kind::Deal, &[id(deal)], &asked).await.unwrap();
    let said: Vec<&Value> =
        history[0].as_ref().unwrap()[ORGANIZATION].iter().map(|statement| &statement.value).collect();
    assert_eq!(said, [&Value::Null, &Value::text("Other"), &Value::text("Harbor Clinic")]);
}

/// Whoever takes a connection over settles what was under way after `push_deadline`: a write that is sent later than its patience
/// would land behind that.
#[tokio::test(start_paused = true)]
async fn what_was_looked_up_too_slowly_is_not_made_any_more() {
    let slowly = |request: Request, next: Next| async move {
        if request.method() == axum::http::Method::GET {
            tokio::time::sleep(Duration::from_secs(16)).await;
        }
        next.run(request).await
    };
    let company = company(Settings::default(), Kind::Contact, |router| router.layer(from_fn(slowly)), |_| {});
    let person = [("name", Value::text("Ana Ito")), ("email", Value::text("ana@example.com"))];
    // The fields, and who has the address.
    let outcome = company.create("tandem:1", &person).await;
    assert!(matches!(outcome, Pushed::Failed(ConnectorError::Late)), "{outcome:?}");
    assert_eq!(company.sandbox.with(|world| world.ids(Kind::Contact)).len(), 0);
    // What was looked up is known by now.
    let outcome = company.create("tandem:1", &person).await;
    assert!(matches!(outcome, Pushed::Written { .. }), "{outcome:?}");
}
