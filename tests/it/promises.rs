//! What Tandem promises, each as a test. Those that are held elsewhere:
//!
//! | promise | test |
//! |---|---|
//! | 1 convergence, under every fault | `seeds_hold_every_invariant` |
//! | 2 nothing lost, under every fault | `seeds_hold_every_invariant` |
//! | 3 no duplicate create, under kills | `kill_9_under_load_loses_nothing_and_doubles_nothing_on_sqlite` |
//! | 4 external ids are unique | `an_external_id_stands_for_one_record` |
//! | 4 so are external references | `vx_20_an_external_reference_is_unique_in_an_account_on_both_databases` |
//! | 5 a crash at any point | `kill_9_under_load_loses_nothing_and_doubles_nothing_on_sqlite` |
//! | 7 rate limits are respected | `a_sole_consumer_uses_nearly_all_and_never_more_than_the_limit` |
//! | 10 a batch is bisected | `a_batch_refused_as_a_whole_is_halved_until_the_culprit_stands_alone` |
//! | 12 tenants are apart | `accounts_do_not_see_each_other` |
//! | 13 secrets are sealed | `what_is_sealed_opens_only_with_the_same_key_for_the_same_purpose` |
//!
//! Promise 8, that a sale at the till wins, waits for the first point of sale.

use std::{
    fs,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, body::Body, extract::Request, middleware, middleware::Next};
use tandem::{
    edit::{EditError, Fields},
    model::{HoldKind, LinkState, Profile, Winner, link::Verdict},
    simulation::Rig,
    store::SyncStore,
    sync::{
        guard::Limits,
        presence::{OnLocalDelete, OnRemoteDelete},
    },
};
use tandem_contract::{Kind, Value};
use tandem_hubspot::sandbox::{Change, Sandbox, Settings};

fn settings() -> Settings {
    Settings { search_lag_ms: (0, 0), recompute_seconds: 0, ..Settings::default() }
}

fn rig() -> Rig {
    Rig::new(11, settings(), Profile::Agency, |_| {})
}

fn text(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn says(pairs: &[(&str, &str)]) -> Fields {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), Value::text(value))).collect()
}

fn deal(rig: &Rig, name: &str) -> u64 {
    let stated = text(&[("dealname", name), ("dealstage", "qualifiedtobuy"), ("description", "as told")]);
    rig.sandbox.with(|world| world.create(Kind::Deal, &stated, Change::Person)).unwrap()
}

fn edit_there(rig: &Rig, deal: u64, pairs: &[(&str, &str)]) {
    rig.sandbox.with(|world| world.update(Kind::Deal, deal, &text(pairs), Change::Person)).unwrap();
}

fn ours(rig: &Rig) -> Vec<tandem::model::LocalRecord> {
    rig.store.all(&rig.account.name, Kind::Deal)
}

fn written(rig: &Rig) -> (u64, u64, u64) {
    rig.sandbox.with(|world| (world.stats.created, world.stats.updated, world.stats.archived))
}

/// Something that happens once, right before or right after HubSpot carries out a call whose path ends so.
struct Once {
    path: &'static str,
    happened: AtomicBool,
    sandbox: OnceLock<Sandbox>,
}

impl Once {
    fn when(path: &'static str) -> Arc<Self> {
        Arc::new(Self { path, happened: AtomicBool::new(false), sandbox: OnceLock::new() })
    }

    fn is_now(&self, request: &Request) -> bool {
        self.sandbox.get().is_some()
            && request.uri().path().ends_with(self.path)
            && !self.happened.swap(true, Ordering::SeqCst)
    }
}

/// A rig in which somebody does something at HubSpot between our read and our write.
fn with_someone_in_between(path: &'static str, act: fn(&Sandbox)) -> (Rig, Arc<Once>) {
    let once = Once::when(path);
    let watch = once.clone();
    let between = move |router: Router| {
        router.layer(middleware::from_fn(move |request: Request, next: Next| {
            let once = watch.clone();
            async move {
                if once.is_now(&request)
                    && let Some(sandbox) = once.sandbox.get()
                {
                    act(sandbox);
                }
                next.run(request).await
            }
        }))
    };
    (Rig::new_over(11, settings(), Profile::Agency, |_| {}, between), once)
}

#[test]
fn the_tests_that_are_named_here_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut sources = String::new();
    for folder in ["tests/it", "connectors/contract/src", "src/store"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            sources += &fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        }
    }
    let table = include_str!("promises.rs").lines().filter(|line| line.starts_with("//! |")).skip(2);
    let named: Vec<&str> = table.filter_map(|line| line.split('`').nth(1)).collect();
    assert!(named.len() >= 10);
    for name in named {
        assert!(sources.contains(&format!("fn {name}")), "there is no test {name}");
    }
}

#[tokio::test(start_paused = true)]
async fn promise_1_both_sides_end_equal_and_then_nothing_is_written() {
    let rig = rig();
    let deals: Vec<u64> = (0..6).map(|n| deal(&rig, &format!("deal {n}"))).collect();
    rig.engine().once().await.unwrap();
    for (n, record) in ours(&rig).iter().enumerate() {
        edit_there(&rig, deals[n], &[("amount", "70.5"), ("closedate", "2026-12-03T23:30:00Z")]);
        rig.desk().update(Kind::Deal, record.id(), None, &says(&[("description", "told again")]), None).await.unwrap();
    }
    // No webhook was delivered: the poll alone must do.
    rig.engine().once().await.unwrap();
    let before = written(&rig);
    rig.engine().once().await.unwrap();
    assert_eq!(written(&rig), before, "when nothing changes, nothing is written");
    for record in ours(&rig) {
        assert_eq!(record.get("amount"), Value::Number("70.5".parse().unwrap()));
        assert_eq!(record.get("expected_close_on"), Value::Date("2026-12-03".parse().unwrap()), "a day of Phoenix");
    }
    let there = rig.sandbox.with(|world| {
        deals.iter().all(|id| world.value(Kind::Deal, *id, "description").as_deref() == Some("told again"))
    });
    assert!(there);
}

#[tokio::test(start_paused = true)]
async fn promise_2_an_edit_that_slips_between_our_read_and_our_write_is_kept_in_a_conflict() {
    let (rig, once) = with_someone_in_between("/deals/batch/update", |sandbox| {
        sandbox.with(|world| {
            let deal = world.ids(Kind::Deal)[0];
            world
                .update(Kind::Deal, deal, &text(&[("dealname", "theirs, at the last moment")]), Change::Person)
                .unwrap();
        });
    });
    deal(&rig, "Laser");
    rig.engine().once().await.unwrap();
    rig.clock.sleep(Duration::from_secs(60)).await;
    rig.desk().update(Kind::Deal, ours(&rig)[0].id(), None, &says(&[("name", "ours")]), None).await.unwrap();
    rig.clock.sleep(Duration::from_secs(60)).await;
    once.sandbox.set(rig.sandbox.clone()).ok();
    rig.engine().once().await.unwrap();
    let conflicts = rig.store.conflicts(&rig.account.name, false, 10).await.unwrap();
    assert_eq!(conflicts.len(), 1, "{conflicts:?}");
    assert_eq!(conflicts[0].remote, [Value::text("theirs, at the last moment")]);
    assert_eq!(conflicts[0].winner, Winner::Remote, "it was stated later");
    rig.engine().once().await.unwrap();
    let there = rig.sandbox.with(|world| world.value(Kind::Deal, world.ids(Kind::Deal)[0], "dealname"));
    assert_eq!(
        (ours(&rig)[0].get("name"), there.as_deref()),
        (Value::text("theirs, at the last moment"), Some("theirs, at the last moment"))
    );
}

#[tokio::test(start_paused = true)]
async fn promise_2_a_value_and_its_currency_are_never_half_of_each_side() {
    let (rig, once) = with_someone_in_between("/deals/batch/update", |sandbox| {
        sandbox.with(|world| {
            let deal = world.ids(Kind::Deal)[0];
            let euros = text(&[("amount", "90"), ("deal_currency_code", "EUR")]);
            world.update(Kind::Deal, deal, &euros, Change::Person).unwrap();
        });
    });
    let id = deal(&rig, "Laser");
    edit_there(&rig, id, &[("amount", "100"), ("deal_currency_code", "USD")]);
    rig.engine().once().await.unwrap();
    rig.clock.sleep(Duration::from_secs(60)).await;
    once.sandbox.set(rig.sandbox.clone()).ok();
    let more =
        Fields::from([("amount".to_owned(), Value::Number(120.into())), ("currency".to_owned(), Value::text("USD"))]);
    rig.desk().update(Kind::Deal, ours(&rig)[0].id(), None, &more, None).await.unwrap();
    rig.engine().once().await.unwrap();
    rig.engine().once().await.unwrap();
    let conflicts = rig.store.conflicts(&rig.account.name, false, 10).await.unwrap();
    assert_eq!(conflicts.len(), 1, "{conflicts:?}");
    assert_eq!(conflicts[0].remote, [Value::Number(90.into()), Value::text("EUR")], "what they said, whole");
    let there = rig
        .sandbox
        .with(|world| (world.value(Kind::Deal, id, "amount"), world.value(Kind::Deal, id, "deal_currency_code")));
    let amount: rust_decimal::Decimal = there.0.unwrap().parse().unwrap();
    let pair = (amount, there.1.unwrap());
    assert!(
        [(90.into(), "EUR".to_owned()), (120.into(), "USD".to_owned())].contains(&pair),
        "{pair:?} is what nobody said"
    );
}

#[tokio::test(start_paused = true)]
async fn promise_3_a_create_whose_answer_was_lost_is_found_and_not_made_again() {
    let lost = Once::when("/deals/batch/create");
    let watch = lost.clone();
    let losing = move |router: Router| {
        router.layer(middleware::from_fn(move |request: Request, next: Next| {
            let once = watch.clone();
            async move {
                let is_lost = once.is_now(&request);
                let answer = next.run(request).await;
                if is_lost {
                    std::future::pending::<()>().await;
                }
                answer
            }
        }))
    };
    let rig = Rig::new_over(11, settings(), Profile::Agency, |_| {}, losing);
    rig.engine().once().await.unwrap();
    lost.sandbox.set(rig.sandbox.clone()).ok();
    rig.desk().create(Kind::Deal, &says(&[("name", "Once only")]), None).await.unwrap();
    rig.engine().once().await.unwrap();
    assert!(lost.happened.load(Ordering::SeqCst));
    // Meanwhile a person here says something else: the record that is there was still ours.
    rig.desk().update(Kind::Deal, ours(&rig)[0].id(), None, &says(&[("name", "Once, renamed")]), None).await.unwrap();
    rig.clock.sleep(Duration::from_secs(600)).await;
    rig.engine().once().await.unwrap();
    rig.engine().once().await.unwrap();
    let names = rig.sandbox.with(|world| {
        world
            .ids(Kind::Deal)
            .iter()
            .map(|id| world.value(Kind::Deal, *id, "dealname").unwrap_or_default())
            .collect::<Vec<_>>()
    });
    assert_eq!(names, ["Once, renamed"]);
    assert!(rig.store.conflicts(&rig.account.name, false, 10).await.unwrap().is_empty(), "nobody else said anything");
}

#[tokio::test(start_paused = true)]
async fn promise_6_no_record_is_skipped_past_the_cap_of_a_search_or_at_one_instant() {
    let rig = Rig::new(11, Settings { search_cap: 400, ..settings() }, Profile::Agency, |_| {});
    let deals: Vec<u64> = (0..1_000).map(|n| deal(&rig, &format!("deal {n}"))).collect();
    rig.engine().once().await.unwrap();
    rig.clock.sleep(Duration::from_secs(3_600)).await;
    // All at one instant, and more than a search can reach.
    rig.sandbox.with(|world| {
        for id in &deals {
            world.update(Kind::Deal, *id, &text(&[("description", "storm")]), Change::Person).unwrap();
        }
    });
    rig.engine().once().await.unwrap();
    assert!(ours(&rig).iter().all(|deal| deal.get("description") == Value::text("storm")));
}

#[tokio::test(start_paused = true)]
async fn promise_6_what_an_index_outage_hid_is_found_by_the_second_pass() {
    let rig = rig();
    let id = deal(&rig, "Hidden");
    rig.engine().once().await.unwrap();
    rig.clock.sleep(Duration::from_secs(600)).await;
    rig.engine().once().await.unwrap();
    // Shown by search only after the window that should have seen it, overlap and all, has gone by.
    rig.sandbox.with(|world| world.settings.search_lag_ms = (900_000, 900_000));
    edit_there(&rig, id, &[("dealname", "seen late")]);
    for _ in 0..3 {
        rig.engine().once().await.unwrap();
        rig.clock.sleep(Duration::from_secs(400)).await;
    }
    assert_eq!(ours(&rig)[0].get("name"), Value::text("Hidden"), "the first pass cannot have seen it");
    rig.clock.sleep(Duration::from_secs(3_700)).await;
    rig.engine().once().await.unwrap();
    assert_eq!(ours(&rig)[0].get("name"), Value::text("seen late"));
}

#[tokio::test(start_paused = true)]
async fn promise_9_ax_02_one_active_opportunity_holds_at_every_door_and_the_next_one_takes_the_place() {
    let rig = Rig::new(11, settings(), Profile::Clinic, |_| {});
    let deals = rig.sandbox.with(|world| {
        let contact = world.create(Kind::Contact, &text(&[("firstname", "Ada")]), Change::Person).unwrap();
        ["first", "second"].map(|name| {
            let stated = text(&[("dealname", name), ("dealstage", "qualifiedtobuy")]);
            let deal = world.create(Kind::Deal, &stated, Change::Person).unwrap();
            world.associate(deal, contact, Change::Person);
            deal
        })
    });
    rig.engine().once().await.unwrap();
    let waits = |rig: &Rig| ours(rig).into_iter().find(|deal| deal.as_opportunity().unwrap().quarantined);
    let second = waits(&rig).expect("the second is kept aside");
    let failures = rig.store.failures(&rig.account.name, 10).await.unwrap();
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0].code, "second_opportunity");
    // It is still kept in step.
    let external = rig
        .store
        .all_links(&rig.account.name, &rig.name)
        .into_iter()
        .find(|link| link.local == second.id())
        .unwrap()
        .external;
    edit_there(&rig, external.as_str().parse().unwrap(), &[("description", "still told")]);
    rig.engine().once().await.unwrap();
    assert_eq!(waits(&rig).unwrap().get("description"), Value::text("still told"));
    // The API's door.
    let contact = second.as_opportunity().unwrap().contact.unwrap().to_string();
    let third = says(&[("name", "third"), ("contact", &contact)]);
    assert!(matches!(rig.desk().create(Kind::Deal, &third, None).await, Err(EditError::Second)));
    // The first is won at the vendor: the second takes its place.
    let first = deals.iter().find(|id| id.to_string() != external.as_str()).unwrap();
    edit_there(&rig, *first, &[("dealstage", "closedwon")]);
    rig.engine().once().await.unwrap();
    assert!(waits(&rig).is_none());
    assert!(rig.store.failures(&rig.account.name, 10).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn promise_10_one_bad_value_waits_alone_and_is_tried_again_when_it_is_corrected() {
    let rig = rig();
    let deals: Vec<u64> = (0..3).map(|n| deal(&rig, &format!("deal {n}"))).collect();
    rig.engine().once().await.unwrap();
    let bad = ours(&rig)[1].id();
    for record in ours(&rig) {
        let mut fields = says(&[("name", "renamed")]);
        if record.id() == bad {
            // A currency that this HubSpot account does not have.
            fields
                .extend([("amount".to_owned(), Value::Number(5.into())), ("currency".to_owned(), Value::text("CHF"))]);
        }
        rig.desk().update(Kind::Deal, record.id(), None, &fields, None).await.unwrap();
    }
    let summary = rig.engine().once().await.unwrap();
    assert_eq!(summary.pushed.updated, 3, "the names of all three went out");
    let names = rig.sandbox.with(|world| {
        deals.iter().filter(|id| world.value(Kind::Deal, **id, "dealname").as_deref() == Some("renamed")).count()
    });
    assert_eq!(names, 3);
    let failures = rig.store.failures(&rig.account.name, 10).await.unwrap();
    assert_eq!(
        (failures.len(), failures[0].row.as_str(), failures[0].code.as_str()),
        (1, "value", "currency_not_enabled")
    );
    let mended =
        Fields::from([("amount".to_owned(), Value::Number(5.into())), ("currency".to_owned(), Value::text("EUR"))]);
    rig.desk().update(Kind::Deal, bad, None, &mended, None).await.unwrap();
    assert_eq!(rig.engine().once().await.unwrap().pushed.updated, 1);
    assert!(rig.store.failures(&rig.account.name, 10).await.unwrap().is_empty(), "what is solved is off the list");
}

const TIGHT: Limits = Limits { deletes: 5, delete_percent: 0, alike: 5, alike_percent: 0, creates: 5 };

#[tokio::test(start_paused = true)]
async fn promise_11_a_mass_change_waits_for_a_person_across_restarts_and_audits() {
    let rig = rig();
    let deals: Vec<u64> = (0..20).map(|n| deal(&rig, &format!("deal {n}"))).collect();
    rig.engine_within(TIGHT).once().await.unwrap();
    for record in ours(&rig) {
        let blank = Fields::from([
            ("description".to_owned(), Value::Null),
            ("name".to_owned(), Value::text(&format!("{} x", record.id()))),
        ]);
        rig.desk().update(Kind::Deal, record.id(), None, &blank, None).await.unwrap();
    }
    let summary = rig.engine_within(TIGHT).once().await.unwrap();
    let blanked = |rig: &Rig| {
        rig.sandbox
            .with(|world| deals.iter().filter(|id| world.value(Kind::Deal, **id, "description").is_none()).count())
    };
    let renamed = rig.sandbox.with(|world| {
        deals
            .iter()
            .filter(|id| world.value(Kind::Deal, **id, "dealname").is_some_and(|name| name.ends_with(" x")))
            .count()
    });
    assert_eq!((summary.held, blanked(&rig), renamed), (15, 5, 20), "the rest of each record goes on");
    let events = rig.store.guard_events(&rig.account.name, &rig.name).await.unwrap();
    assert_eq!((events.len(), events[0].class.as_str(), events[0].count), (1, "blank", 15));
    // Hours, restarts and an audit later it still waits.
    for _ in 0..3 {
        rig.clock.sleep(Duration::from_secs(3_600)).await;
        let engine = rig.engine_within(TIGHT);
        tokio::select! {
            () = engine.run() => {}
            () = rig.clock.sleep(Duration::from_secs(7_200)) => {}
        }
    }
    assert_eq!(blanked(&rig), 5);
    assert_eq!(rig.desk().decide_held(&rig.name, Verdict::Approve).await.unwrap(), 15);
    rig.engine_within(TIGHT).once().await.unwrap();
    assert_eq!(blanked(&rig), 20);
}

#[tokio::test(start_paused = true)]
async fn promise_11_what_is_discarded_stays_as_it_is_on_each_side() {
    let rig = rig();
    for n in 0..12 {
        deal(&rig, &format!("deal {n}"));
    }
    rig.engine_within(TIGHT).once().await.unwrap();
    for record in ours(&rig) {
        rig.desk().update(Kind::Deal, record.id(), None, &says(&[("description", "all alike")]), None).await.unwrap();
    }
    rig.engine_within(TIGHT).once().await.unwrap();
    assert_eq!(rig.desk().decide_held(&rig.name, Verdict::Discard).await.unwrap(), 7);
    let before = written(&rig);
    rig.clock.sleep(Duration::from_secs(7_200)).await;
    rig.engine_within(TIGHT).once().await.unwrap();
    assert_eq!(written(&rig), before);
    let parked = rig
        .store
        .all_links(&rig.account.name, &rig.name)
        .iter()
        .filter(|link| link.holds.values().any(|hold| hold.kind == HoldKind::Parked))
        .count();
    assert_eq!(parked, 7);
}

#[tokio::test(start_paused = true)]
async fn promise_11_mass_deletions_are_held_on_both_sides_and_so_are_mass_creations() {
    let rig = Rig::new(11, settings(), Profile::Agency, |connection| {
        connection.on_local_delete = OnLocalDelete::Archive;
        connection.on_remote_delete = OnRemoteDelete::Delete;
    });
    let deals: Vec<u64> = (0..30).map(|n| deal(&rig, &format!("deal {n}"))).collect();
    rig.engine_within(TIGHT).once().await.unwrap();
    let (mine, theirs) = deals.split_at(15);
    let links = rig.store.all_links(&rig.account.name, &rig.name);
    for link in links.iter().filter(|link| mine.iter().any(|id| id.to_string() == link.external.as_str())) {
        rig.desk().delete(Kind::Deal, link.local).await.unwrap();
    }
    rig.sandbox.with(|world| theirs.iter().for_each(|id| world.archive(Kind::Deal, *id, Change::Person).unwrap()));
    rig.engine_within(TIGHT).once().await.unwrap();
    let there = |rig: &Rig| rig.sandbox.with(|world| mine.iter().filter(|id| world.is_live(Kind::Deal, **id)).count());
    let here = |rig: &Rig| ours(rig).iter().filter(|deal| !deal.is_deleted()).count();
    assert_eq!((there(&rig), here(&rig)), (10, 10), "five of each went through");
    for n in 0..12 {
        rig.desk().create(Kind::Deal, &says(&[("name", &format!("new {n}"))]), None).await.unwrap();
    }
    rig.engine_within(TIGHT).once().await.unwrap();
    assert_eq!(rig.sandbox.with(|world| world.stats.created), 5);
    assert_eq!(rig.desk().decide_held(&rig.name, Verdict::Approve).await.unwrap(), 10 + 10 + 7);
    rig.engine_within(TIGHT).once().await.unwrap();
    assert_eq!((there(&rig), rig.sandbox.with(|world| world.stats.created)), (0, 12));
    assert_eq!(here(&rig), 12, "the new ones; those deleted there are deleted here");
}

#[tokio::test(start_paused = true)]
async fn a_mapping_that_reads_another_property_blanks_nothing() {
    let rig = rig();
    rig.sandbox.with(|world| world.add_property(Kind::Deal, "notes", "string", "textarea", &[]));
    let id = deal(&rig, "Peel");
    rig.engine().once().await.unwrap();
    let mut remapped = Rig::new(11, settings(), Profile::Agency, |connection| {
        for row in
            connection.lenses.get_mut(&Kind::Deal).unwrap().rows.iter_mut().filter(|row| row.name == "description")
        {
            row.properties[0].0 = "notes".into();
        }
    });
    // The same installation with another mapping file.
    remapped.adopt(&rig);
    remapped.engine().once().await.unwrap();
    assert_eq!(ours(&remapped)[0].get("description"), Value::text("as told"), "empty there is not emptied there");
    assert_eq!(rig.sandbox.with(|world| world.value(Kind::Deal, id, "notes")).as_deref(), Some("as told"));
}

#[tokio::test(start_paused = true)]
async fn a_stage_that_is_added_at_the_vendor_is_taken_over_and_its_records_with_it() {
    let rig = rig();
    let id = deal(&rig, "Peel");
    rig.engine().once().await.unwrap();
    let engine = rig.engine();
    let acting = async {
        rig.clock.sleep(Duration::from_secs(120)).await;
        rig.sandbox.with(|world| world.add_stage("default", "trial", "Trial", 0.5));
        edit_there(&rig, id, &[("dealstage", "trial"), ("dealname", "Peel on trial")]);
        rig.clock.sleep(Duration::from_secs(600)).await;
    };
    tokio::select! {
        () = engine.run() => {}
        () = acting => {}
    }
    let pipelines = rig.store.pipelines(&rig.account.name).await.unwrap();
    let stage = pipelines[0].stages.iter().find(|stage| stage.label == "Trial").expect("taken over");
    assert_eq!(
        (ours(&rig)[0].get("stage"), ours(&rig)[0].get("name")),
        (Value::text(&stage.id.to_string()), Value::text("Peel on trial"))
    );
    assert!(rig.store.failures(&rig.account.name, 10).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_scope_that_is_missing_for_contacts_does_not_keep_deals_from_being_read() {
    let scopes = Settings::default().scopes.into_iter().filter(|scope| !scope.contains("contacts")).collect();
    let rig = Rig::new(11, Settings { scopes, ..settings() }, Profile::Agency, |_| {});
    deal(&rig, "Peel");
    let summary = rig.engine().once().await.unwrap();
    assert_eq!((summary.state.as_str(), ours(&rig).len()), ("forbidden", 1));
    let row = rig.store.connection(&rig.account.name, &rig.name).await.unwrap().unwrap();
    assert!(row.reason.is_some_and(|reason| reason.contains("crm.objects.contacts.read")));
}

#[tokio::test(start_paused = true)]
async fn a_record_that_only_comes_back_from_the_bin_is_linked_again() {
    let rig = rig();
    let id = deal(&rig, "Peel");
    rig.engine().once().await.unwrap();
    rig.sandbox.with(|world| world.archive(Kind::Deal, id, Change::Person)).unwrap();
    rig.engine().once().await.unwrap();
    assert_eq!(rig.store.all_links(&rig.account.name, &rig.name)[0].state, LinkState::RemoteMissing);
    rig.sandbox.with(|world| world.restore(Kind::Deal, id)).unwrap();
    let engine = rig.engine();
    tokio::select! {
        () = engine.run() => {}
        // Nothing tells of it but the audit.
        () = rig.clock.sleep(Duration::from_secs(7_200)) => {}
    }
    assert_eq!(rig.store.all_links(&rig.account.name, &rig.name)[0].state, LinkState::Linked);
}

#[tokio::test(start_paused = true)]
async fn an_update_to_an_address_that_is_anothers_parks_that_field_and_sends_the_rest() {
    let rig = rig();
    rig.sandbox.with(|world| {
        for name in ["ada", "bo"] {
            let stated = text(&[("firstname", name), ("email", &format!("{name}@example.com"))]);
            world.create(Kind::Contact, &stated, Change::Person).unwrap();
        }
    });
    rig.engine().once().await.unwrap();
    let bo = rig
        .store
        .all(&rig.account.name, Kind::Contact)
        .into_iter()
        .find(|c| c.get("first_name") == Value::text("bo"))
        .unwrap();
    rig.desk()
        .update(Kind::Contact, bo.id(), None, &says(&[("email", "ada@example.com"), ("phone", "555-0142")]), None)
        .await
        .unwrap();
    rig.engine().once().await.unwrap();
    rig.engine().once().await.unwrap();
    let phones = rig.sandbox.with(|world| {
        world
            .ids(Kind::Contact)
            .iter()
            .filter(|id| world.value(Kind::Contact, **id, "phone").as_deref() == Some("555-0142"))
            .count()
    });
    assert_eq!(phones, 1);
    let failures = rig.store.failures(&rig.account.name, 10).await.unwrap();
    assert_eq!((failures.len(), failures[0].row.as_str()), (1, "email"));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_only_reads_writes_nothing_not_even_its_own_property() {
    let rig = Rig::new(11, settings(), Profile::Agency, |connection| {
        connection.direction = tandem::sync::lens::Direction::In;
    });
    let id = deal(&rig, "Peel");
    rig.engine().once().await.unwrap();
    rig.desk().update(Kind::Deal, ours(&rig)[0].id(), None, &says(&[("name", "ours")]), None).await.unwrap();
    rig.desk().create(Kind::Deal, &says(&[("name", "new")]), None).await.unwrap();
    edit_there(&rig, id, &[("description", "told there")]);
    let summary = rig.engine().once().await.unwrap();
    assert_eq!((summary.pushed, summary.pulled.updated), (Default::default(), 1));
    let first = ours(&rig).into_iter().find(|deal| deal.get("name") == Value::text("ours")).expect("our edit stays");
    assert_eq!(first.get("description"), Value::text("told there"));
    let wrote = rig.sandbox.with(|world| {
        let routes = world.stats.by_route.keys();
        routes
            .filter(|route| !route.starts_with("GET") && !route.ends_with("read") && !route.ends_with("search"))
            .count()
    });
    assert_eq!((written(&rig), wrote), ((0, 0, 0), 0));
}

#[tokio::test(start_paused = true)]
async fn a_malformed_record_waits_alone_and_comes_in_when_it_can_be_read() {
    let broken = Arc::new(AtomicBool::new(true));
    let breaks = broken.clone();
    // One deal's properties come as a text, wherever it is read.
    let watch = move |router: Router| {
        router.layer(middleware::from_fn(move |request: Request, next: Next| {
            let broken = breaks.clone();
            async move {
                let (parts, body) = next.run(request).await.into_parts();
                let bytes = axum::body::to_bytes(body, usize::MAX).await.unwrap();
                let mut json: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
                let mut spoil = |object: &mut serde_json::Value| {
                    if object["properties"]["dealname"] == "odd" {
                        object["properties"] = "Jane Roe".into();
                    }
                };
                if broken.load(Ordering::SeqCst) && json.is_object() {
                    json["results"].as_array_mut().into_iter().flatten().for_each(&mut spoil);
                    spoil(&mut json);
                    return axum::response::Response::from_parts(parts, Body::from(json.to_string()));
                }
                axum::response::Response::from_parts(parts, Body::from(bytes))
            }
        }))
    };
    let rig = Rig::new_over(11, settings(), Profile::Agency, |_| {}, watch);
    for name in ["one", "odd", "two"] {
        deal(&rig, name);
    }
    rig.engine().once().await.unwrap();
    assert_eq!(ours(&rig).len(), 2, "the other two are here");
    let failures = rig.store.failures(&rig.account.name, 10).await.unwrap();
    assert_eq!((failures.len(), failures[0].code.as_str()), (1, "malformed"));
    assert!(!failures[0].message.contains("Jane"), "{}", failures[0].message);
    broken.store(false, Ordering::SeqCst);
    rig.clock.sleep(Duration::from_secs(3_600)).await;
    rig.engine().once().await.unwrap();
    assert_eq!(ours(&rig).len(), 3);
    assert!(rig.store.failures(&rig.account.name, 10).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn promise_11_creations_that_are_approved_late_can_be_approved_again() {
    let rig = rig();
    rig.engine_within(TIGHT).once().await.unwrap();
    for n in 0..8 {
        rig.desk().create(Kind::Deal, &says(&[("name", &format!("new {n}"))]), None).await.unwrap();
    }
    assert_eq!(rig.engine_within(TIGHT).once().await.unwrap().held, 3);
    assert_eq!(rig.desk().decide_held(&rig.name, Verdict::Approve).await.unwrap(), 3);
    // The engine comes to them only when the approval is over: they are held again, and said to be.
    rig.clock.sleep(Duration::from_secs(7_200)).await;
    let tight = Limits { creates: 0, ..TIGHT };
    rig.engine_within(tight).once().await.unwrap();
    assert_eq!(rig.sandbox.with(|world| world.stats.created), 5);
    let events = rig.store.guard_events(&rig.account.name, &rig.name).await.unwrap();
    assert_eq!((events[0].state.as_str(), events[0].count), ("held", 3));
    rig.desk().decide_held(&rig.name, Verdict::Approve).await.unwrap();
    rig.engine_within(tight).once().await.unwrap();
    assert_eq!(rig.sandbox.with(|world| world.stats.created), 8);
}

#[tokio::test(start_paused = true)]
async fn a_field_that_an_automation_keeps_undoing_is_frozen_and_a_person_ends_it() {
    let rig = rig();
    let id = deal(&rig, "Peel");
    rig.engine().once().await.unwrap();
    rig.desk().update(Kind::Deal, ours(&rig)[0].id(), None, &says(&[("description", "ours")]), None).await.unwrap();
    // Undone over there after every write of ours; what we say here is always the later word.
    for _ in 0..5 {
        rig.engine().once().await.unwrap();
        rig.clock.sleep(Duration::from_secs(600)).await;
        edit_there(&rig, id, &[("description", "undone")]);
        rig.engine().once().await.unwrap();
        rig.clock.sleep(Duration::from_secs(600)).await;
        rig.desk().update(Kind::Deal, ours(&rig)[0].id(), None, &says(&[("description", "ours")]), None).await.unwrap();
    }
    rig.engine().once().await.unwrap();
    let open = rig.store.conflicts(&rig.account.name, true, 10).await.unwrap();
    assert_eq!((open.len(), open[0].rule.as_str()), (1, "frozen"));
    rig.desk().resolve(open[0].clone(), Winner::Local).await.unwrap();
    rig.engine().once().await.unwrap();
    let there = rig.sandbox.with(|world| world.value(Kind::Deal, id, "description"));
    assert_eq!(there.as_deref(), Some("ours"), "a person who says so is obeyed");
    assert!(rig.store.conflicts(&rig.account.name, true, 10).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_any_more_when_both_sides_agree_by_themselves() {
    let rig = Rig::new(11, settings(), Profile::Agency, |connection| {
        for row in connection.lenses.get_mut(&Kind::Deal).unwrap().rows.iter_mut().filter(|row| row.name == "name") {
            row.rule = tandem::sync::lens::Rule::Ask;
        }
    });
    let id = deal(&rig, "Peel");
    rig.engine().once().await.unwrap();
    rig.desk().update(Kind::Deal, ours(&rig)[0].id(), None, &says(&[("name", "ours")]), None).await.unwrap();
    edit_there(&rig, id, &[("dealname", "theirs")]);
    rig.engine().once().await.unwrap();
    assert_eq!(rig.store.conflicts(&rig.account.name, true, 10).await.unwrap().len(), 1);
    edit_there(&rig, id, &[("dealname", "ours")]);
    rig.engine().once().await.unwrap();
    assert!(rig.store.conflicts(&rig.account.name, true, 10).await.unwrap().is_empty());
}
