//! The first things a new user tries, in process: pull, edit on either side, edit on both.

use tandem::{
    edit::Fields,
    model::{Profile, Winner},
    simulation::Rig,
    store::SyncStore,
};
use tandem_contract::{Kind, Value};
use tandem_hubspot::sandbox::{Change, Clinic, Settings};

fn rig() -> Rig {
    Rig::new(
        7,
        Settings { search_lag_ms: (0, 0), recompute_seconds: 0, ..Settings::default() },
        Profile::Agency,
        |_| {},
    )
}

fn properties(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test(start_paused = true)]
async fn everything_is_pulled_and_a_second_run_writes_nothing() {
    let rig = rig();
    rig.sandbox.with(|world| world.furnish_clinic(Clinic { contacts: 250, deals: 430 }));
    let summary = rig.engine().once().await.unwrap();
    assert_eq!((summary.pulled.created, summary.failed), (680, 0));
    assert_eq!(rig.store.all(&rig.account.name, Kind::Deal).len(), 430);
    let again = rig.engine().once().await.unwrap();
    assert_eq!((again.pulled, again.pushed), Default::default());
    let stats = rig.sandbox.with(|world| world.stats.clone());
    assert_eq!((stats.created, stats.updated, stats.archived, stats.too_many), (0, 0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_edit_on_either_side_arrives_on_the_other() {
    let rig = rig();
    let deal = rig
        .sandbox
        .with(|world| {
            world.create(
                Kind::Deal,
                &properties(&[("dealname", "Peel"), ("dealstage", "qualifiedtobuy")]),
                Change::Person,
            )
        })
        .unwrap();
    rig.engine().once().await.unwrap();
    let ours = rig.store.all(&rig.account.name, Kind::Deal)[0].clone();
    rig.clock.sleep(std::time::Duration::from_secs(1)).await;
    let edit = Fields::from([("name".to_owned(), Value::text("Peel, second course"))]);
    rig.desk().update(Kind::Deal, ours.id(), None, &edit, None).await.unwrap();
    let summary = rig.engine().once().await.unwrap();
    assert_eq!(summary.pushed.updated, 1);
    assert_eq!(
        rig.sandbox.with(|world| world.value(Kind::Deal, deal, "dealname")).as_deref(),
        Some("Peel, second course")
    );
    rig.sandbox
        .with(|world| {
            world.update(
                Kind::Deal,
                deal,
                &properties(&[("amount", "120.50"), ("deal_currency_code", "EUR")]),
                Change::Person,
            )
        })
        .unwrap();
    rig.engine().once().await.unwrap();
    let value = rig.store.all(&rig.account.name, Kind::Deal)[0].as_opportunity().unwrap().value.unwrap();
    assert_eq!((value.minor, value.currency.code()), (12_050, "EUR"));
}

#[tokio::test(start_paused = true)]
async fn an_edit_on_both_sides_makes_one_conflict_that_keeps_both_values() {
    let rig = rig();
    let deal = rig
        .sandbox
        .with(|world| {
            world.create(
                Kind::Deal,
                &properties(&[("dealname", "Laser"), ("dealstage", "qualifiedtobuy")]),
                Change::Person,
            )
        })
        .unwrap();
    rig.engine().once().await.unwrap();
    let ours = rig.store.all(&rig.account.name, Kind::Deal)[0].id();
    rig.clock.sleep(std::time::Duration::from_secs(10)).await;
    rig.desk()
        .update(Kind::Deal, ours, None, &Fields::from([("name".to_owned(), Value::text("ours"))]), None)
        .await
        .unwrap();
    rig.clock.sleep(std::time::Duration::from_secs(10)).await;
    rig.sandbox
        .with(|world| world.update(Kind::Deal, deal, &properties(&[("dealname", "theirs")]), Change::Person))
        .unwrap();
    rig.engine().once().await.unwrap();
    let conflicts = rig.store.conflicts(&rig.account.name, false, 10).await.unwrap();
    assert_eq!(conflicts.len(), 1);
    assert_eq!(conflicts[0].winner, Winner::Remote, "the later statement wins");
    assert_eq!((&conflicts[0].local, &conflicts[0].remote), (&vec![Value::text("ours")], &vec![Value::text("theirs")]));
    assert_eq!(rig.store.all(&rig.account.name, Kind::Deal)[0].get("name"), Value::text("theirs"));
    assert_eq!(rig.engine().once().await.unwrap().conflicts, 0);
}

#[tokio::test(start_paused = true)]
async fn a_new_opportunity_of_ours_is_made_at_the_vendor_with_its_contact() {
    let rig = rig();
    rig.engine().once().await.unwrap();
    let person = Fields::from([
        ("first_name".to_owned(), Value::text("Ada")),
        ("email".to_owned(), Value::text("ada@example.com")),
    ]);
    let contact = rig.desk().create(Kind::Contact, &person, None).await.unwrap();
    let fields = Fields::from([
        ("name".to_owned(), Value::text("Hydrafacial")),
        ("contact".to_owned(), Value::Text(contact.id().to_string())),
    ]);
    rig.desk().create(Kind::Deal, &fields, None).await.unwrap();
    let summary = rig.engine().once().await.unwrap();
    assert_eq!((summary.pushed.created, summary.failed), (2, 0));
    rig.sandbox.with(|world| {
        let deal = world.ids(Kind::Deal)[0];
        assert_eq!(world.contacts_of(deal), world.ids(Kind::Contact));
        assert_eq!(
            world.value(Kind::Deal, deal, "dealstage").as_deref(),
            Some("appointmentscheduled"),
            "CB-09: the lowest stage above zero"
        );
    });
}

fn one_deal(rig: &Rig, name: &str) -> u64 {
    let stated = properties(&[("dealname", name), ("dealstage", "qualifiedtobuy"), ("description", "as told")]);
    rig.sandbox.with(|world| world.create(Kind::Deal, &stated, Change::Person)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_persons_answer_survives_a_push_that_failed() {
    let settings = Settings { search_lag_ms: (0, 0), recompute_seconds: 0, ..Settings::default() };
    let rig = Rig::new(7, settings, Profile::Agency, |connection| {
        for row in connection.lenses.get_mut(&Kind::Deal).unwrap().rows.iter_mut().filter(|row| row.name == "name") {
            row.rule = tandem::sync::lens::Rule::Ask;
        }
    });
    let deal = one_deal(&rig, "Laser");
    rig.engine().once().await.unwrap();
    let ours = rig.store.all(&rig.account.name, Kind::Deal)[0].id();
    let edit = |text| Fields::from([("name".to_owned(), Value::text(text))]);
    rig.desk().update(Kind::Deal, ours, None, &edit("ours"), None).await.unwrap();
    rig.sandbox
        .with(|world| world.update(Kind::Deal, deal, &properties(&[("dealname", "theirs")]), Change::Person))
        .unwrap();
    rig.engine().once().await.unwrap();
    let open = rig.store.conflicts(&rig.account.name, true, 10).await.unwrap();
    assert_eq!(open.len(), 1, "the field waits for a person");
    rig.desk().resolve(open[0].clone(), Winner::Local).await.unwrap();
    rig.sandbox.with(|world| world.faults.unavailable_before = 1.0);
    let _ = rig.engine().once().await;
    rig.sandbox.with(|world| world.faults.unavailable_before = 0.0);
    rig.sandbox.with(|world| world.faults.row_fails = 1.0);
    rig.engine().once().await.unwrap();
    rig.sandbox.with(|world| world.faults.row_fails = 0.0);
    rig.clock.sleep(std::time::Duration::from_secs(3_600)).await;
    rig.engine().once().await.unwrap();
    assert_eq!(rig.sandbox.with(|world| world.value(Kind::Deal, deal, "dealname")).as_deref(), Some("ours"));
    assert!(rig.store.conflicts(&rig.account.name, true, 10).await.unwrap().is_empty(), "it was answered once");
}

/// FEATURES section 2 row 1: the policy holds on what a vendor sends as well.
#[tokio::test(start_paused = true)]
async fn ax_02_a_second_open_deal_of_a_contact_is_quarantined_and_never_dropped() {
    let settings = Settings { search_lag_ms: (0, 0), recompute_seconds: 0, ..Settings::default() };
    let rig = Rig::new(7, settings, Profile::Clinic, |_| {});
    rig.sandbox.with(|world| {
        let contact = world.create(Kind::Contact, &properties(&[("firstname", "Ada")]), Change::Person).unwrap();
        for name in ["first", "second"] {
            let deal = world
                .create(Kind::Deal, &properties(&[("dealname", name), ("dealstage", "qualifiedtobuy")]), Change::Person)
                .unwrap();
            world.associate(deal, contact, Change::Person);
        }
    });
    let summary = rig.engine().once().await.unwrap();
    assert_eq!(summary.quarantined, 1);
    let deals = rig.store.all(&rig.account.name, Kind::Deal);
    assert_eq!((deals.len(), deals.iter().filter(|deal| deal.as_opportunity().unwrap().quarantined).count()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_record_deleted_at_the_vendor_is_kept_here_and_comes_back_when_it_is_restored() {
    let rig = rig();
    let deal = one_deal(&rig, "Peel");
    rig.engine().once().await.unwrap();
    rig.sandbox.with(|world| world.archive(Kind::Deal, deal, Change::Person)).unwrap();
    rig.engine().once().await.unwrap();
    let link = rig.store.all_links(&rig.account.name, &rig.name)[0].clone();
    assert_eq!(link.state, tandem::model::LinkState::RemoteMissing);
    assert!(!rig.store.all(&rig.account.name, Kind::Deal)[0].is_deleted());
    rig.sandbox.with(|world| {
        world.restore(Kind::Deal, deal).unwrap();
        world.update(Kind::Deal, deal, &properties(&[("dealname", "Peel again")]), Change::Person).unwrap();
    });
    rig.engine().once().await.unwrap();
    assert_eq!(rig.store.all(&rig.account.name, Kind::Deal)[0].get("name"), Value::text("Peel again"));
}

#[tokio::test(start_paused = true)]
async fn a_property_that_is_deleted_at_the_vendor_clears_nothing_and_stops_nothing() {
    let rig = rig();
    let deal = one_deal(&rig, "Filler");
    rig.engine().once().await.unwrap();
    rig.sandbox.with(|world| {
        world.remove_property(Kind::Deal, "description");
        world.update(Kind::Deal, deal, &properties(&[("dealname", "Filler, two")]), Change::Person).unwrap();
    });
    rig.engine().once().await.unwrap();
    let ours = rig.store.all(&rig.account.name, Kind::Deal)[0].clone();
    assert_eq!((ours.get("name"), ours.get("description")), (Value::text("Filler, two"), Value::text("as told")));
}

#[tokio::test(start_paused = true)]
async fn a_merge_chain_ends_in_one_record_here_too() {
    let rig = rig();
    let ids: Vec<u64> = ["A", "B", "C"].iter().map(|name| one_deal(&rig, name)).collect();
    rig.engine().once().await.unwrap();
    let survivor = rig.sandbox.with(|world| {
        let first = world.merge(Kind::Deal, ids[0], ids[1], Change::Person).unwrap();
        world.merge(Kind::Deal, first, ids[2], Change::Person).unwrap()
    });
    rig.engine().once().await.unwrap();
    let all = rig.store.all(&rig.account.name, Kind::Deal);
    let (live, merged): (Vec<_>, Vec<_>) = all.iter().partition(|deal| !deal.is_deleted());
    let links = rig.store.all_links(&rig.account.name, &rig.name);
    assert_eq!((live.len(), merged.len(), links.len()), (1, 2, 1), "{links:?}");
    assert_eq!((links[0].external.as_str(), links[0].local), (survivor.to_string().as_str(), live[0].id()));
    for deal in &merged {
        let mut end = deal.merged_into().expect("a pointer");
        while let Some(next) = merged.iter().find(|other| other.id() == end) {
            end = next.merged_into().expect("a pointer");
        }
        assert_eq!(end, live[0].id());
    }
}

#[tokio::test(start_paused = true)]
async fn a_merge_that_keeps_the_id_of_one_is_seen_without_any_word_of_it() {
    let settings =
        Settings { merge_makes_new: false, search_lag_ms: (0, 0), recompute_seconds: 0, ..Settings::default() };
    let rig = Rig::new(7, settings, Profile::Agency, |_| {});
    let ids: Vec<u64> = ["A", "B"].iter().map(|name| one_deal(&rig, name)).collect();
    rig.engine().once().await.unwrap();
    rig.clock.sleep(std::time::Duration::from_secs(600)).await;
    rig.sandbox.with(|world| world.merge(Kind::Deal, ids[0], ids[1], Change::Person)).unwrap();
    rig.engine().once().await.unwrap();
    let links = rig.store.all_links(&rig.account.name, &rig.name);
    assert_eq!(links.len(), 1, "{links:?}");
    assert_eq!(links[0].external.as_str(), ids[0].to_string());
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_revoked_pauses_the_connection_and_loses_nothing() {
    let rig = rig();
    let deal = one_deal(&rig, "Botox");
    rig.engine().once().await.unwrap();
    rig.sandbox.with(|world| {
        world.update(Kind::Deal, deal, &properties(&[("dealname", "Botox, edited")]), Change::Person).unwrap();
        world.revoke_access();
    });
    let error = rig.engine().once().await.unwrap_err().to_string();
    assert!(error.contains("HubSpot refuses this access token"), "{error}");
    rig.sandbox.with(|world| world.set_access_token("pat-na1-sandbox"));
    rig.engine().once().await.unwrap();
    assert_eq!(rig.store.all(&rig.account.name, Kind::Deal)[0].get("name"), Value::text("Botox, edited"));
}
