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
