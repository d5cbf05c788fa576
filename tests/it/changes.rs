//! Whoever changes one of our records, the same goes with it: who closed it, what a sale won, a quarantine's end, and the visits of
//! its contact.

use std::{collections::BTreeMap, time::Duration};

use chrono::TimeDelta;
use tandem::{
    edit::Fields,
    model::{Conflict, ConflictState, LocalRecord, Opportunity, Profile, Status, Winner, field, ids::ConflictId},
    store::SyncStore,
    sync::{engine::Engine, guard::Limits},
};
use tandem_contract::{Kind, Value};
use tandem_fhir::{Dialect, sandbox::Settings};
use tandem_hubspot::sandbox::Change;

use crate::{
    emr::{Practice, rules},
    till::{Shop, ticket},
};

fn says(pairs: &[(&str, &str)]) -> Fields {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), Value::text(value))).collect()
}

fn closing(deal: &Opportunity) -> (Status, bool, Option<&str>) {
    (deal.position.status, deal.won_by_sale, deal.closed_by.as_deref())
}

#[tokio::test(start_paused = true)]
async fn an_edit_here_that_reopens_what_a_sale_won_leaves_nothing_of_the_sale_on_it() {
    let shop = Shop::new(&[]);
    let ana = shop.person("Ana").await;
    shop.sell_to(&ana.customer, ticket("Serum"));
    shop.settle().await;
    let won = shop.ours("Ana's course");
    assert_eq!(closing(&won), (Status::Won, true, Some("square")));
    let now = shop.rig.clock.now();
    shop.rig.desk().update(Kind::Deal, won.id, None, &says(&[("status", "open")]), None).await.unwrap();
    let open = shop.ours("Ana's course");
    assert_eq!(closing(&open), (Status::Open, false, None));
    assert_eq!((open.version, open.transition_seen_at), (won.version + 1, Some(now)));
    // Closed again by hand, it is the person's.
    shop.rig.desk().update(Kind::Deal, won.id, None, &says(&[("status", "won")]), None).await.unwrap();
    assert_eq!(closing(&shop.ours("Ana's course")), (Status::Won, false, Some("person")));
}

/// What a CRM said without knowing of the sale is kept in a conflict; a person may say that it is right all the same.
#[tokio::test(start_paused = true)]
async fn a_conflict_that_a_person_answers_reopens_what_a_sale_won() {
    let shop = Shop::new(&[]);
    let ana = shop.person("Ana").await;
    shop.sell_to(&ana.customer, ticket("Serum"));
    shop.rig.clock.sleep(Duration::from_secs(5)).await;
    shop.edit_in_hubspot(ana.deal, &[("dealstage", "presentationscheduled")]);
    Engine::new(shop.rig.shared(Limits::default()), shop.till.clone()).once().await.unwrap();
    shop.settle().await;
    let won = shop.ours("Ana's course");
    assert_eq!(closing(&won), (Status::Won, true, Some("square")));
    let all = shop.rig.store.conflicts(&shop.rig.account.name, false, 10).await.unwrap();
    let kept = all.into_iter().find(|conflict| conflict.row == "position").unwrap();
    let now = shop.rig.clock.now();
    shop.rig.desk().resolve(kept, Winner::Remote).await.unwrap();
    let open = shop.ours("Ana's course");
    assert_eq!(closing(&open), (Status::Open, false, None));
    assert_eq!((open.version, open.transition_seen_at), (won.version + 1, Some(now)));
    shop.settle().await;
    assert_eq!(shop.stage(ana.deal), "presentationscheduled");
    // No sale holds it any more: the CRM may say what it likes.
    shop.edit_in_hubspot(ana.deal, &[("dealstage", "closedlost")]);
    shop.settle().await;
    assert_eq!(closing(&shop.ours("Ana's course")), (Status::Lost, false, Some("hubspot")));
}

#[tokio::test(start_paused = true)]
async fn a_conflict_that_a_person_answers_closes_and_ends_the_quarantine() {
    let shop = Shop::of(Profile::Clinic, &[]);
    let (ana, ben) = (shop.person("Ana").await, shop.person("Ben").await);
    let contact = shop.rig.sandbox.with(|world| world.contacts_of(ana.deal))[0];
    let there = shop.deal_of(contact, "Ana's second");
    shop.edit_in_hubspot(ben.deal, &[("dealstage", "closedlost")]);
    shop.settle().await;
    let second = shop.ours("Ana's second");
    let account = &shop.rig.account.name;
    let told = shop.rig.store.failures(account, 10).await.unwrap();
    assert_eq!((second.quarantined, told.len()), (true, 1), "{told:?}");
    let fields = Vec::from(field::POSITION.map(str::to_owned));
    let conflict = Conflict {
        id: ConflictId(uuid::Uuid::nil()),
        connection: shop.rig.name.clone(),
        kind: Kind::Deal,
        record: second.id,
        row: "position".into(),
        base: Vec::new(),
        local: LocalRecord::Deal(second.clone()).values(&fields),
        remote: LocalRecord::Deal(shop.ours("Ben's course")).values(&fields),
        fields,
        winner: Winner::Local,
        rule: "prefer_local".into(),
        state: ConflictState::Decided,
        at: shop.rig.clock.now(),
    };
    shop.rig.desk().resolve(conflict, Winner::Remote).await.unwrap();
    let lost = shop.ours("Ana's second");
    assert_eq!((closing(&lost), lost.quarantined), ((Status::Lost, false, Some("person")), false));
    let told = shop.rig.store.failures(account, 10).await.unwrap();
    assert!(told.is_empty(), "{told:?}");
    shop.settle().await;
    assert_eq!(shop.stage(there), "closedlost");
}

/// The visit was there before; nothing at the clinic changes, and its daily look is hours away.
#[tokio::test(start_paused = true)]
async fn an_edit_here_of_the_contact_or_the_pipeline_has_the_contacts_visits_looked_at_again() {
    for moved in [false, true] {
        let practice = Practice::watched(Dialect::FullR4, rules(), Settings::default(), |router| router);
        practice.rig.sandbox.with(|world| {
            world.add_pipeline("courses", "Courses", &[("begun", "Begun", 0.2), ("done", "Done", 1.0)]);
        });
        let ana = practice.contact("Ana", "Rivera", "ana@example.com", "(310) 555-0142");
        let ben = practice.contact("Ben", "Ito", "ben@example.com", "");
        let deal = practice.deal_of(if moved { ana } else { ben }, "A course");
        if moved {
            let elsewhere = [("pipeline", "courses"), ("dealstage", "begun")];
            let elsewhere: BTreeMap<_, _> = elsewhere.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
            practice.rig.sandbox.with(|world| world.update(Kind::Deal, deal, &elsewhere, Change::Person)).unwrap();
        }
        let start = practice.now() + TimeDelta::days(1);
        practice.emr.with(|world| {
            let patient = world.register("Ana", "Rivera", "Ana@Example.com", "+13105550142");
            world.appoint(&patient, "CONSULT", "booked", start);
        });
        practice.settle().await;
        let account = &practice.rig.account.name;
        let ours = practice.deals().remove(0);
        let edit = if moved {
            let pipelines = practice.rig.store.pipelines(account).await.unwrap();
            let sales = pipelines.iter().find(|pipeline| Some(pipeline.id) != ours.position.pipeline).unwrap();
            ("pipeline", sales.id.to_string())
        } else {
            assert_eq!(practice.rung(deal), 0, "the visit is not Ben's");
            let contacts = practice.rig.store.all(account, Kind::Contact);
            let ana = contacts.iter().find(|contact| contact.get("first_name") == Value::text("Ana")).unwrap();
            ("contact", ana.id().to_string())
        };
        practice.rig.desk().update(Kind::Deal, ours.id, None, &says(&[(edit.0, edit.1.as_str())]), None).await.unwrap();
        practice.settle().await;
        assert_eq!(practice.rung(deal), 2, "moved: {moved}");
    }
}
