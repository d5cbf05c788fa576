//! Ten things that users of sync tools suffer from (FEATURES section 3), one test each.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{Router, extract::Request, middleware, middleware::Next};
use chrono::{DateTime, TimeZone};
use tandem::{
    edit::Fields,
    model::{LinkState, LocalRecord, Profile, RecordId, Winner},
    simulation::Rig,
    store::{Commit, SyncStore},
    sync::{connection::Connection, intake::marks_of, mapping::selection, summary::Summary},
};
use tandem_contract::{ExternalId, Hint, Kind, RouterTransport, Secret, Value};
use tandem_hubspot::{
    Credentials, HubSpot, Options,
    sandbox::{Change, Faults, Settings},
};

/// An account whose search shows everything at once, so that each case brings its own trouble and no other.
fn settings() -> Settings {
    Settings { search_lag_ms: (0, 0), recompute_seconds: 0, ..Settings::default() }
}

fn rig(settings: Settings) -> Rig {
    Rig::new(29, settings, Profile::Agency, |_| {})
}

fn text(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn says(pairs: &[(&str, &str)]) -> Fields {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), Value::text(value))).collect()
}

/// A person there makes a deal.
fn deal(rig: &Rig, name: &str) -> u64 {
    let stated = text(&[("dealname", name), ("dealstage", "qualifiedtobuy")]);
    rig.sandbox.with(|world| world.create(Kind::Deal, &stated, Change::Person)).unwrap()
}

/// A person there edits a deal.
fn edit_there(rig: &Rig, id: u64, pairs: &[(&str, &str)]) {
    rig.sandbox.with(|world| world.update(Kind::Deal, id, &text(pairs), Change::Person)).unwrap();
}

fn there(rig: &Rig, id: u64, property: &str) -> Option<String> {
    rig.sandbox.with(|world| world.value(Kind::Deal, id, property))
}

fn ours(rig: &Rig) -> Vec<LocalRecord> {
    rig.store.all(&rig.account.name, Kind::Deal)
}

/// Our record that stands for a deal.
fn linked(rig: &Rig, id: u64) -> RecordId {
    let links = rig.store.all_links(&rig.account.name, &rig.name);
    links.iter().find(|link| link.external.as_str() == id.to_string()).unwrap().local
}

/// A person here edits an opportunity.
async fn edit_here(rig: &Rig, id: RecordId, fields: &Fields) {
    rig.desk().update(Kind::Deal, id, None, fields, None).await.unwrap();
}

async fn once(rig: &Rig) -> Summary {
    rig.engine().once().await.unwrap()
}

/// Acts while an engine runs.
async fn beside(rig: &Rig, acting: impl Future<Output = ()>) {
    let engine = rig.engine();
    tokio::select! {
        () = engine.run() => unreachable!("an engine runs until it is dropped"),
        () = acting => {}
    }
}

/// Acts while webhooks are delivered.
async fn hearing(rig: &Rig, acting: impl Future<Output = ()>) {
    tokio::select! {
        () = rig.deliver_webhooks() => unreachable!("they are delivered until they are not wanted"),
        () = acting => {}
    }
}

/// What we made, changed and archived at HubSpot.
fn written(rig: &Rig) -> (u64, u64, u64) {
    rig.sandbox.with(|world| (world.stats.created, world.stats.updated, world.stats.archived))
}

fn calls(rig: &Rig, route: &str) -> u64 {
    rig.sandbox.with(|world| world.stats.by_route.get(route).copied().unwrap_or_default())
}

/// Links whose two records do not say the same.
fn out_of_step(rig: &Rig) -> Vec<String> {
    let links = rig.store.all_links(&rig.account.name, &rig.name);
    let records: BTreeMap<RecordId, LocalRecord> = ours(rig).into_iter().map(|record| (record.id(), record)).collect();
    let differs = |here: &LocalRecord, id: u64| {
        [("name", "dealname"), ("description", "description")]
            .iter()
            .any(|(field, property)| here.get(field) != there(rig, id, property).map_or(Value::Null, Value::Text))
    };
    links
        .iter()
        .filter(|link| differs(&records[&link.local], link.external.as_str().parse().unwrap()))
        .map(|link| link.external.to_string())
        .collect()
}

/// Create-timeout probe: HubSpot makes the record at once and says nothing, or makes it long after we asked again.
#[tokio::test(start_paused = true)]
async fn a_create_that_times_out_is_probed_before_it_is_sent_again() {
    for (late_ms, sent) in [(1, 1), (3_600_000, 2)] {
        let rig = rig(settings());
        // The first create makes our unique property too.
        once(&rig).await;
        rig.desk().create(Kind::Deal, &says(&[("name", "Peel")]), None).await.unwrap();
        once(&rig).await;
        rig.desk().create(Kind::Deal, &says(&[("name", "Laser")]), None).await.unwrap();
        rig.sandbox.with(|world| {
            world.clear_stats();
            world.faults = Faults { late_commit: 1.0, late_ms, ..Faults::default() };
        });
        let calm = async {
            // The request is on its way, and nobody has given it up yet.
            rig.clock.sleep(Duration::from_secs(8)).await;
            rig.sandbox.with(|world| world.faults = Faults::default());
        };
        let engine = rig.engine();
        let (done, ()) = tokio::join!(engine.once(), calm);
        done.unwrap();
        rig.clock.sleep(Duration::from_secs(10)).await;
        once(&rig).await;
        // By now the late request has arrived too.
        rig.clock.sleep(Duration::from_secs(7_200)).await;
        once(&rig).await;
        assert_eq!(calls(&rig, "POST objects/deals/batch/create"), sent, "made within {late_ms} ms");
        let ids = rig.sandbox.with(|world| world.ids(Kind::Deal));
        let names: Vec<String> = ids.iter().filter_map(|id| there(&rig, *id, "dealname")).collect();
        assert_eq!((written(&rig).0, names), (1, vec!["Peel".to_owned(), "Laser".to_owned()]), "{late_ms} ms");
        assert_ne!(linked(&rig, ids[0]), linked(&rig, ids[1]));
        assert!(rig.store.all_dirty(&rig.account.name, &rig.name).is_empty(), "nothing is left to be done");
    }
}

/// Create+update webhook race: the update is heard of minutes before the create, or both in one delivery.
#[tokio::test(start_paused = true)]
async fn an_update_that_is_heard_of_before_its_create_is_taken_in_once_with_the_latest_value() {
    for late in [600_000, 0] {
        // Search shows nothing all the while: only webhooks tell.
        let rig = rig(Settings { search_lag_ms: (3_600_000, 3_600_000), ..settings() });
        once(&rig).await;
        rig.sandbox.with(|world| {
            let slow = Faults { webhook_late: 1.0, webhook_delay_ms: late, webhook_twice: 1.0, ..Faults::default() };
            world.faults = slow;
        });
        let id = deal(&rig, "Peel");
        rig.sandbox.with(|world| world.faults = Faults::default());
        edit_there(&rig, id, &[("dealname", "Peel, two areas")]);
        let heard = || rig.sandbox.with(|world| world.stats.webhook_events);
        let looking = async {
            rig.clock.sleep(Duration::from_secs(5)).await;
            let (first, so_far) = (ours(&rig), heard());
            let names: Vec<Value> = first.iter().map(|record| record.get("name")).collect();
            assert_eq!(names, [Value::text("Peel, two areas")], "{late} ms");
            rig.clock.sleep(Duration::from_secs(900)).await;
            assert_eq!(heard() > so_far, late > 0, "the word of the create came later");
            assert_eq!(ours(&rig), first, "and told nothing new");
        };
        beside(&rig, hearing(&rig, looking)).await;
        assert_eq!((linked(&rig, id), written(&rig)), (ours(&rig)[0].id(), (0, 0, 0)));
    }
}

/// Search-lag window: what search shows within the overlap comes with the next poll, what it shows later with the
/// second pass an hour behind.
#[tokio::test(start_paused = true)]
async fn an_edit_that_search_shows_late_is_taken_in_without_webhooks_and_without_an_audit() {
    // In seconds: when search shows it, when nobody can know of it yet, and when it must be known.
    for (lag, unknown, known) in [(100, 90, 140), (600, 3_000, 3_800)] {
        let mut rig = rig(Settings { search_lag_ms: (lag * 1_000, lag * 1_000), ..settings() });
        rig.audit_every = Duration::from_secs(1_000_000);
        let id = deal(&rig, "Peel");
        once(&rig).await;
        edit_there(&rig, id, &[("dealname", "Peel, shown late")]);
        let looking = async {
            rig.clock.sleep(Duration::from_secs(unknown)).await;
            assert_eq!(ours(&rig)[0].get("name"), Value::text("Peel"), "shown after {lag} s");
            rig.clock.sleep(Duration::from_secs(known - unknown)).await;
            assert_eq!(ours(&rig)[0].get("name"), Value::text("Peel, shown late"), "shown after {lag} s");
        };
        beside(&rig, looking).await;
        assert_eq!(rig.sandbox.with(|world| world.stats.webhook_events), 0);
    }
}

/// Pipeline edit storm of 50k modified times (here fewer): HubSpot computes a property of every deal anew.
#[tokio::test(start_paused = true)]
async fn a_storm_of_modified_times_is_read_within_the_bound_and_writes_nothing_on_either_side() {
    const STORM: u64 = 2_950;
    // Each route with the records that one call of it takes.
    const ROUTES: [(&str, u64); 3] = [
        ("POST objects/deals/search", 200),
        ("POST objects/deals/batch/read", 100),
        ("POST associations/deals/contacts/batch/read", 1_000),
    ];
    let rig = rig(settings());
    let deals: Vec<u64> = (0..STORM).map(|n| deal(&rig, &format!("deal {n}"))).collect();
    // Too old for the second pass, which is an hour behind.
    rig.clock.sleep(Duration::from_secs(3 * 3_600)).await;
    assert_eq!(once(&rig).await.pulled.created, STORM);
    let (before, modified) = (ours(&rig), there(&rig, deals[0], "hs_lastmodifieddate"));
    let asked = || ROUTES.map(|(route, _)| calls(&rig, route));
    rig.sandbox.with(|world| world.clear_stats());
    once(&rig).await;
    let idle = asked();
    rig.sandbox.with(|world| {
        world.clear_stats();
        let computed = text(&[("hs_deal_stage_probability", "0.45")]);
        for id in &deals {
            world.update(Kind::Deal, *id, &computed, Change::Calculated).unwrap();
        }
    });
    let summary = once(&rig).await;
    assert_ne!(there(&rig, deals[0], "hs_lastmodifieddate"), modified, "the times moved");
    assert_eq!((summary.pulled, summary.pushed, summary.conflicts), Default::default());
    assert_eq!(written(&rig), (0, 0, 0));
    assert!(ours(&rig) == before, "not one record of ours was touched");
    for ((made, idle), (route, rows)) in asked().into_iter().zip(idle).zip(ROUTES) {
        let bound = idle + STORM.div_ceil(rows);
        assert!(made <= bound, "{route}: {made} calls, at most {bound} are needed");
    }
}

/// Archive without modified time: the bin tells, and once the bin is emptied only the audit can.
#[tokio::test(start_paused = true)]
async fn an_archive_that_moves_no_modified_time_is_noticed_and_ours_is_kept() {
    for purge_days in [90, 0] {
        let mut rig = rig(Settings { purge_days, ..settings() });
        rig.audit_every = Duration::from_secs(if purge_days > 0 { 1_000_000 } else { 1_800 });
        let (gone, stays) = (deal(&rig, "Peel"), deal(&rig, "Laser"));
        once(&rig).await;
        let modified = there(&rig, gone, "hs_lastmodifieddate");
        rig.sandbox.with(|world| world.archive(Kind::Deal, gone, Change::Person)).unwrap();
        assert_eq!(there(&rig, gone, "hs_lastmodifieddate"), modified, "no search can tell");
        beside(&rig, rig.clock.sleep(Duration::from_secs(3_600))).await;
        let links = rig.store.all_links(&rig.account.name, &rig.name);
        let state = |id| links.iter().find(|link| link.local == linked(&rig, id)).unwrap().state;
        assert_eq!((state(gone), state(stays)), (LinkState::RemoteMissing, LinkState::Linked), "{purge_days} days");
        assert!(ours(&rig).iter().all(|record| !record.is_deleted()), "on_remote_delete = keep");
        // What is said of it here stays here: nothing is made anew there.
        for record in ours(&rig) {
            edit_here(&rig, record.id(), &says(&[("description", "said afterwards")])).await;
        }
        once(&rig).await;
        assert_eq!(written(&rig), (0, 1, 0), "{purge_days} days: only the one that stays is written");
        assert_eq!(there(&rig, stays, "description").as_deref(), Some("said afterwards"));
    }
}

/// Merge chain A→B→C, in one go or with a look in between, whether a merge makes a new record or keeps an id.
#[tokio::test(start_paused = true)]
async fn a_merge_chain_ends_in_one_record_to_which_every_old_id_leads_and_nothing_is_lost() {
    for (merge_makes_new, apart) in [(true, false), (true, true), (false, false), (false, true)] {
        let rig = rig(Settings { merge_makes_new, ..settings() });
        let ids = ["A", "B", "C"].map(|name| deal(&rig, name));
        for (id, told) in ids.iter().zip(["told of A", "told of B", "told of C"]) {
            edit_there(&rig, *id, &[("description", told)]);
        }
        once(&rig).await;
        rig.clock.sleep(Duration::from_secs(60)).await;
        edit_here(&rig, linked(&rig, ids[0]), &says(&[("description", "said here of A")])).await;
        let second = rig.sandbox.with(|world| world.merge(Kind::Deal, ids[1], ids[0], Change::Person)).unwrap();
        if apart {
            once(&rig).await;
        }
        let end = rig.sandbox.with(|world| world.merge(Kind::Deal, ids[2], second, Change::Person)).unwrap();
        once(&rig).await;
        once(&rig).await;
        // A late word of every id there ever was.
        let quiet = written(&rig);
        let hint = |id: u64| {
            let id = ExternalId::new(id.to_string()).unwrap();
            Hint { kind: Kind::Deal, id, remote_account: None, merged_into: None }
        };
        let ops = marks_of(&rig.name, [ids[0], ids[1], ids[2], second].map(hint).into(), None, rig.clock.now());
        rig.store.commit(&Commit { account: rig.account.name.clone(), fence: None, ops }).await.unwrap();
        once(&rig).await;
        assert_eq!((written(&rig), out_of_step(&rig)), (quiet, Vec::new()));
        let all = ours(&rig);
        let live: Vec<&LocalRecord> = all.iter().filter(|record| !record.is_deleted()).collect();
        let links = rig.store.all_links(&rig.account.name, &rig.name).len();
        assert_eq!((all.len(), live.len(), links), (3, 1, 1), "new: {merge_makes_new}, apart: {apart}");
        assert_eq!(linked(&rig, end), live[0].id());
        // Every text that anyone stated is in a record, in the history or in a conflict.
        let conflicts = rig.store.conflicts(&rig.account.name, false, 10).await.unwrap();
        let mut kept: Vec<Value> = conflicts.into_iter().flat_map(|one| [one.local, one.remote]).flatten().collect();
        for record in &all {
            let history = rig.store.history(&rig.account.name, Kind::Deal, record.id()).await.unwrap();
            kept.extend(history.into_iter().map(|entry| entry.old).chain([record.get("description")]));
        }
        for stated in ["told of A", "told of B", "told of C", "said here of A"] {
            assert!(kept.contains(&Value::text(stated)), "{stated}: new: {merge_makes_new}, apart: {apart}");
        }
    }
}

/// Puts an OAuth grant in the place of the static token; every call goes through `router`.
fn connect_by_grant(rig: &mut Rig, router: Router) {
    let grant = rig.sandbox.with(|world| Credentials::OAuth {
        client_id: world.settings.client_id.clone(),
        client_secret: Secret::new(world.settings.client_secret.clone()),
        refresh_token: Secret::new(world.settings.refresh_token.clone()),
    });
    let mut options = Options::new("http://hubspot.example.com".parse().unwrap(), grant);
    options.select = selection(rig.lenses());
    let hubspot = HubSpot::new(options, Arc::new(RouterTransport::new(router)), rig.clock.clone());
    let mut connection = Connection::clone(&rig.connection);
    connection.connector = Arc::new(hubspot);
    rig.connection = Arc::new(connection);
}

/// Token expiry mid-backfill: a token lives four seconds, and every third page is longer on its way.
#[tokio::test(start_paused = true)]
async fn a_token_that_ends_in_the_middle_of_the_first_import_costs_a_call_and_no_page() {
    const DEALS: u64 = 730;
    let mut rig = rig(Settings { token_seconds: 4, ..settings() });
    for n in 0..DEALS {
        deal(&rig, &format!("deal {n}"));
    }
    let pages: Arc<Mutex<Vec<(String, u16)>>> = Arc::default();
    let (told, clock) = (pages.clone(), rig.clock.clone());
    let watched = rig.sandbox.router().layer(middleware::from_fn(move |request: Request, next: Next| {
        let (told, clock) = (told.clone(), clock.clone());
        async move {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let is_list = request.uri().path().ends_with("/deals") && query.contains("limit=100");
            let is_page = is_list && !query.contains("archived");
            let before = told.lock().unwrap().len();
            if is_page && before % 3 == 2 {
                clock.sleep(Duration::from_secs(5)).await;
            }
            let answer = next.run(request).await;
            if is_page {
                told.lock().unwrap().push((query, answer.status().as_u16()));
            }
            answer
        }
    }));
    connect_by_grant(&mut rig, watched);
    let summary = once(&rig).await;
    let pages = pages.lock().unwrap().clone();
    let refused = pages.iter().filter(|(_, status)| *status == 401).count();
    assert!(refused >= 2, "a token ended on its way more than once: {refused}");
    assert!(calls(&rig, "POST oauth/token") > refused as u64, "there was a new one each time");
    let read: Vec<&String> = pages.iter().filter(|(_, status)| *status == 200).map(|(query, _)| query).collect();
    let distinct: BTreeSet<&String> = read.iter().copied().collect();
    assert_eq!((read.len(), distinct.len()), (DEALS.div_ceil(100) as usize, read.len()), "no page was read twice");
    assert_eq!((summary.state.as_str(), summary.pulled.created, summary.failed), ("active", DEALS, 0));
    let names: BTreeSet<String> = ours(&rig).iter().map(|record| record.get("name").to_string()).collect();
    assert_eq!((ours(&rig).len() as u64, names.len() as u64), (DEALS, DEALS), "none is missing, none is doubled");
}

/// >10k window split (here more than six times the cap): changes of one instant, some of which change again meanwhile.
#[tokio::test(start_paused = true)]
async fn more_changes_of_one_instant_than_a_search_can_reach_are_all_taken_in() {
    let rig = rig(Settings { search_cap: 200, ..settings() });
    let deals: Vec<u64> = (0..700).map(|n| deal(&rig, &format!("deal {n}"))).collect();
    once(&rig).await;
    rig.clock.sleep(Duration::from_secs(600)).await;
    for id in &deals {
        edit_there(&rig, *id, &[("description", "edited")]);
    }
    for n in 700..1_300 {
        deal(&rig, &format!("deal {n}"));
    }
    rig.sandbox.with(|world| world.clear_stats());
    let meanwhile = async {
        for _ in 0..400 {
            rig.clock.sleep(Duration::from_millis(50)).await;
            if calls(&rig, "POST objects/deals/search") >= 3 {
                break;
            }
        }
        // One of the pages behind, and one of the pages to come, which leaves the window that is being read.
        for id in [deals[0], deals[699]] {
            edit_there(&rig, id, &[("dealname", "edited again")]);
        }
    };
    let engine = rig.engine();
    let (done, ()) = tokio::join!(engine.once(), meanwhile);
    let summary = done.unwrap();
    assert_eq!((summary.state.as_str(), summary.pulled.created), ("active", 600), "no page was refused");
    once(&rig).await;
    assert_eq!((ours(&rig).len(), out_of_step(&rig)), (1_300, Vec::new()));
    let again = ours(&rig).iter().filter(|record| record.get("name") == Value::text("edited again")).count();
    let edited = ours(&rig).iter().filter(|record| record.get("description") == Value::text("edited")).count();
    assert_eq!((again, edited, written(&rig)), (2, 700, (0, 0, 0)));
}

/// Date-only close date in UTC−7 and UTC+13: a day is the same day on both sides, whoever states it.
#[tokio::test(start_paused = true)]
async fn a_close_date_is_the_same_day_in_phoenix_and_in_tonga_and_is_not_rewritten() {
    let day = |text: &str| Value::Date(text.parse().unwrap());
    for zone in [chrono_tz::America::Phoenix, chrono_tz::Pacific::Tongatapu] {
        let rig = rig(Settings { timezone: zone.to_string(), ..settings() });
        let at = |hour, minute| zone.with_ymd_and_hms(2026, 12, 31, hour, minute, 0).unwrap().to_rfc3339();
        let deals = [deal(&rig, "Peel"), deal(&rig, "Laser")];
        for (id, stated) in deals.iter().zip([at(0, 0), at(23, 59)]) {
            edit_there(&rig, *id, &[("closedate", &stated)]);
        }
        once(&rig).await;
        let days = || ours(&rig).iter().map(|record| record.get("expected_close_on")).collect::<BTreeSet<_>>();
        assert_eq!(days(), BTreeSet::from([day("2026-12-31")]), "{zone}: the first and the last minute of a day");
        rig.clock.sleep(Duration::from_secs(60)).await;
        let pipelines = rig.store.pipelines(&rig.account.name).await.unwrap();
        let stage = pipelines[0].stages.iter().find(|stage| stage.label == "Contract sent").unwrap().id;
        for record in ours(&rig) {
            edit_here(&rig, record.id(), &says(&[("stage", &stage.to_string())])).await;
        }
        once(&rig).await;
        for id in deals {
            assert_eq!(there(&rig, id, "dealstage").as_deref(), Some("contractsent"));
            let stated = rig.sandbox.with(|world| world.stated(Kind::Deal, id, "closedate"));
            assert_eq!(stated.len(), 1, "{zone}: a move to another stage keeps the minute they chose: {stated:?}");
        }
        // Now a day that is chosen here, on what is there and on something new.
        let new_year = Fields::from([("expected_close_on".to_owned(), day("2027-01-01"))]);
        for record in ours(&rig) {
            edit_here(&rig, record.id(), &new_year).await;
        }
        let mut fields = says(&[("name", "Filler")]);
        fields.extend(new_year);
        rig.desk().create(Kind::Deal, &fields, None).await.unwrap();
        once(&rig).await;
        let quiet = written(&rig);
        once(&rig).await;
        assert_eq!(
            (written(&rig), days()),
            (quiet, BTreeSet::from([day("2027-01-01")])),
            "{zone}: nothing is rewritten"
        );
        let ids = rig.sandbox.with(|world| world.ids(Kind::Deal));
        assert_eq!(ids.len(), 3);
        for id in ids {
            let closes = DateTime::parse_from_rfc3339(&there(&rig, id, "closedate").unwrap()).unwrap();
            assert_eq!(closes.with_timezone(&zone).date_naive().to_string(), "2027-01-01", "{zone}: {closes}");
        }
    }
}

/// Two edits in one second: two people there under one time stamp, then one person on each side.
#[tokio::test(start_paused = true)]
async fn of_two_edits_in_one_second_the_last_stands_and_of_two_sides_both_are_kept() {
    let rig = rig(settings());
    let id = deal(&rig, "Peel");
    once(&rig).await;
    let name = || ours(&rig)[0].get("name");
    let two_people = async {
        rig.clock.sleep(Duration::from_secs(60)).await;
        edit_there(&rig, id, &[("dealname", "Peel, two areas")]);
        let modified = there(&rig, id, "hs_lastmodifieddate");
        // The clock stands still while anyone has something to do: it is read at the very instant it was stated.
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        assert_eq!(name(), Value::text("Peel, two areas"), "read in between");
        // Nobody tells of the second, and its time stamp tells nothing.
        rig.sandbox.with(|world| world.faults.webhook_lost = 1.0);
        edit_there(&rig, id, &[("dealname", "Peel, three areas")]);
        assert_eq!(there(&rig, id, "hs_lastmodifieddate"), modified);
        rig.clock.sleep(Duration::from_secs(60)).await;
        assert_eq!(name(), Value::text("Peel, three areas"), "the last stands");
    };
    beside(&rig, hearing(&rig, two_people)).await;
    assert!(rig.store.conflicts(&rig.account.name, false, 10).await.unwrap().is_empty(), "one side alone spoke");
    let half = Duration::from_millis(500);
    for (mine, theirs, mine_first) in [("here 1", "there 1", true), ("here 2", "there 2", false)] {
        if mine_first {
            edit_here(&rig, linked(&rig, id), &says(&[("name", mine)])).await;
            rig.clock.sleep(half).await;
            edit_there(&rig, id, &[("dealname", theirs)]);
        } else {
            edit_there(&rig, id, &[("dealname", theirs)]);
            rig.clock.sleep(half).await;
            edit_here(&rig, linked(&rig, id), &says(&[("name", mine)])).await;
        }
        once(&rig).await;
        once(&rig).await;
        let conflicts = rig.store.conflicts(&rig.account.name, false, 10).await.unwrap();
        let clash = conflicts.iter().find(|one| one.local == [Value::text(mine)]).expect("a conflict");
        assert_eq!((&clash.remote, clash.winner), (&vec![Value::text(theirs)], Winner::Local), "too near to tell");
        assert_eq!((name(), out_of_step(&rig)), (Value::text(mine), Vec::new()), "and both sides say the same");
    }
    assert_eq!(rig.store.conflicts(&rig.account.name, false, 10).await.unwrap().len(), 2);
}
