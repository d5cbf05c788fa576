//! What a record is made of, row by row of the requirements, through the desk and through HubSpot.

use std::{collections::BTreeMap, time::Duration};

use tandem::{
    edit::{EditError, Fields},
    model::{LocalRecord, Profile, Status},
    simulation::Rig,
    store::SyncStore,
    sync::{
        lens::{Codec, Direction, Row, Rule},
        presence::OnRemoteDelete,
    },
};
use tandem_contract::{Kind, PropertyType, Value};
use tandem_hubspot::sandbox::{Change, Settings};

fn settings() -> Settings {
    Settings { search_lag_ms: (0, 0), recompute_seconds: 0, ..Settings::default() }
}

fn rig() -> Rig {
    Rig::new(13, settings(), Profile::Agency, |_| {})
}

fn text(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn says(pairs: &[(&str, &str)]) -> Fields {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), Value::text(value))).collect()
}

fn deal(rig: &Rig, more: &[(&str, &str)]) -> u64 {
    let mut stated = text(&[("dealname", "Peel"), ("dealstage", "qualifiedtobuy")]);
    stated.extend(text(more));
    rig.sandbox.with(|world| world.create(Kind::Deal, &stated, Change::Person)).unwrap()
}

fn edit_there(rig: &Rig, id: u64, pairs: &[(&str, &str)]) {
    rig.sandbox.with(|world| world.update(Kind::Deal, id, &text(pairs), Change::Person)).unwrap();
}

fn ours(rig: &Rig) -> LocalRecord {
    rig.store.all(&rig.account.name, Kind::Deal)[0].clone()
}

async fn edit_here(rig: &Rig, pairs: &[(&str, &str)]) {
    rig.desk().update(Kind::Deal, ours(rig).id(), None, &says(pairs), None).await.unwrap();
}

fn there(rig: &Rig, id: u64, property: &str) -> Option<String> {
    rig.sandbox.with(|world| world.value(Kind::Deal, id, property))
}

#[tokio::test(start_paused = true)]
async fn vx_01_vx_05_vx_15_name_value_close_date_and_owner_go_both_ways() {
    let rig = rig();
    let id = deal(&rig, &[("amount", "10"), ("closedate", "2026-12-24T18:00:00Z"), ("hubspot_owner_id", "55012")]);
    rig.engine().once().await.unwrap();
    assert_eq!(ours(&rig).get("owner"), Value::text("ana@clinic.example.com"));
    assert_eq!(ours(&rig).get("expected_close_on"), Value::Date("2026-12-24".parse().unwrap()));
    let mut fields = says(&[("owner", "bo@clinic.example.com"), ("name", "Peel, two")]);
    fields.insert("expected_close_on".into(), Value::Date("2027-01-02".parse().unwrap()));
    rig.desk().update(Kind::Deal, ours(&rig).id(), None, &fields, None).await.unwrap();
    rig.engine().once().await.unwrap();
    assert_eq!(
        (there(&rig, id, "hubspot_owner_id").as_deref(), there(&rig, id, "dealname").as_deref()),
        (Some("55013"), Some("Peel, two"))
    );
    assert!(there(&rig, id, "closedate").unwrap().starts_with("2027-01-02T19:00"), "noon in Phoenix");
}

#[tokio::test(start_paused = true)]
async fn vx_02_ax_14_an_opportunity_starts_open_and_can_be_won_lost_and_abandoned() {
    let rig = rig();
    rig.engine().once().await.unwrap();
    let made = rig.desk().create(Kind::Deal, &says(&[("name", "Peel")]), None).await.unwrap();
    assert_eq!(made.as_opportunity().unwrap().position.status, Status::Open);
    rig.engine().once().await.unwrap();
    let id = rig.sandbox.with(|world| world.ids(Kind::Deal)[0]);
    for (status, stage, reason) in [
        ("won", "closedwon", None),
        ("lost", "closedlost", None),
        ("abandoned", "closedlost", Some("Abandoned")),
        ("open", "appointmentscheduled", Some("Abandoned")),
    ] {
        edit_here(&rig, &[("status", status)]).await;
        rig.engine().once().await.unwrap();
        assert_eq!(there(&rig, id, "dealstage").as_deref(), Some(stage), "{status}");
        assert_eq!(there(&rig, id, "closed_lost_reason").as_deref(), reason, "{status}");
        rig.engine().once().await.unwrap();
        assert_eq!(ours(&rig).get("status"), Value::text(status), "the vendor's answer does not change our word");
    }
}

#[tokio::test(start_paused = true)]
async fn vx_03_vx_06_closing_is_dated_and_signed_wherever_it_happens() {
    let rig = Rig::new(13, Settings { close_date_on_api_move: false, ..settings() }, Profile::Agency, |_| {});
    let id = deal(&rig, &[]);
    rig.engine().once().await.unwrap();
    // Moved there by a program that states no close date.
    rig.clock.sleep(Duration::from_secs(3_600)).await;
    rig.sandbox.with(|world| world.update(Kind::Deal, id, &text(&[("dealstage", "closedwon")]), Change::Api)).unwrap();
    let moved = rig.clock.now();
    rig.engine().once().await.unwrap();
    let closed = ours(&rig).as_opportunity().unwrap().clone();
    let at = closed.position.closed_at.expect("closed, so dated");
    assert!((at - moved).num_seconds().abs() < 5, "{at} is when it was said");
    assert_eq!(closed.closed_by.as_deref(), Some("hubspot"));
    assert!(there(&rig, id, "closedate").is_some(), "and the vendor is told");
    // Won becomes lost here: closed anew, now, by a person.
    rig.clock.sleep(Duration::from_secs(86_400)).await;
    edit_here(&rig, &[("status", "lost")]).await;
    let lost = ours(&rig).as_opportunity().unwrap().clone();
    assert!(lost.position.closed_at.unwrap() - at >= chrono::TimeDelta::hours(23));
    edit_here(&rig, &[("status", "open")]).await;
    edit_here(&rig, &[("status", "won")]).await;
    assert_eq!(ours(&rig).as_opportunity().unwrap().closed_by.as_deref(), Some("person"));
}

#[tokio::test(start_paused = true)]
async fn vx_03_opened_again_at_the_vendor_it_is_expected_when_it_was_before() {
    let rig = rig();
    let id = deal(&rig, &[("closedate", "2026-12-24T18:00:00Z")]);
    rig.engine().once().await.unwrap();
    edit_here(&rig, &[("status", "won")]).await;
    rig.engine().once().await.unwrap();
    rig.clock.sleep(Duration::from_secs(3_600)).await;
    edit_there(&rig, id, &[("dealstage", "contractsent")]);
    rig.engine().once().await.unwrap();
    let open = ours(&rig).as_opportunity().unwrap().position.clone();
    assert_eq!(
        (open.status, open.closed_at, open.expected_close_on),
        (Status::Open, None, Some("2026-12-24".parse().unwrap()))
    );
    assert!(there(&rig, id, "closedate").unwrap().starts_with("2026-12-24"), "the vendor is told");
    let before = rig.sandbox.with(|world| world.stats.updated);
    rig.engine().once().await.unwrap();
    assert_eq!(rig.sandbox.with(|world| world.stats.updated), before);
}

#[tokio::test(start_paused = true)]
async fn vx_05_an_owner_who_is_nobody_at_the_vendor_is_shown_and_blanks_nobody() {
    let rig = rig();
    let id = deal(&rig, &[("hubspot_owner_id", "55012")]);
    rig.engine().once().await.unwrap();
    edit_here(&rig, &[("owner", "new@clinic.example.com"), ("name", "Peel, hers now")]).await;
    rig.engine().once().await.unwrap();
    assert_eq!(
        (there(&rig, id, "hubspot_owner_id").as_deref(), there(&rig, id, "dealname").as_deref()),
        (Some("55012"), Some("Peel, hers now"))
    );
    let failures = rig.store.failures(&rig.account.name, 10).await.unwrap();
    assert_eq!((failures.len(), failures[0].code.as_str(), failures[0].row.as_str()), (1, "unknown_owner", "owner"));
    edit_here(&rig, &[("owner", "chidi@clinic.example.com")]).await;
    rig.engine().once().await.unwrap();
    assert_eq!(there(&rig, id, "hubspot_owner_id").as_deref(), Some("55014"));
    assert!(rig.store.failures(&rig.account.name, 10).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn vx_07_vx_08_vx_09_a_contact_is_optional_and_may_have_several_opportunities() {
    let rig = rig();
    rig.engine().once().await.unwrap();
    let ada = rig.desk().create(Kind::Contact, &says(&[("first_name", "Ada")]), None).await.unwrap();
    let id = ada.id().to_string();
    rig.desk().create(Kind::Deal, &says(&[("name", "without anyone")]), None).await.unwrap();
    for name in ["first", "second"] {
        rig.desk().create(Kind::Deal, &says(&[("name", name), ("contact", &id)]), None).await.unwrap();
    }
    let summary = rig.engine().once().await.unwrap();
    assert_eq!((summary.pushed.created, summary.failed, summary.quarantined), (4, 0, 0));
    assert_eq!(rig.store.opportunities_of(&rig.account.name, &[ada.id()]).await.unwrap().len(), 2);
    let stranger = uuid::Uuid::from_u128(7).to_string();
    let refused = rig.desk().create(Kind::Deal, &says(&[("name", "x"), ("contact", &stranger)]), None).await;
    assert!(matches!(refused, Err(EditError::Invalid(_))));
}

#[tokio::test(start_paused = true)]
async fn vx_10_deleting_a_contact_takes_its_opportunities_along_or_is_refused_by_profile() {
    for (profile, cascades) in [(Profile::Agency, true), (Profile::Clinic, false)] {
        let rig = Rig::new(13, settings(), profile, |connection| connection.on_remote_delete = OnRemoteDelete::Delete);
        let contact = rig
            .sandbox
            .with(|world| world.create(Kind::Contact, &text(&[("firstname", "Ada")]), Change::Person))
            .unwrap();
        let id = deal(&rig, &[]);
        rig.sandbox.with(|world| world.associate(id, contact, Change::Person));
        rig.engine().once().await.unwrap();
        let ada = rig.store.all(&rig.account.name, Kind::Contact)[0].clone();
        // Here.
        let deleted = rig.desk().delete(Kind::Contact, ada.id()).await;
        assert_eq!((deleted.is_ok(), ours(&rig).is_deleted()), (cascades, cascades), "{profile:?}");
        if !cascades {
            assert!(matches!(deleted, Err(EditError::HasOpportunities(1))));
            // There: hers are kept, and so is she.
            rig.sandbox.with(|world| world.archive(Kind::Contact, contact, Change::Person)).unwrap();
            rig.engine().once().await.unwrap();
            assert!(!rig.store.all(&rig.account.name, Kind::Contact)[0].is_deleted() && !ours(&rig).is_deleted());
            // Closed ones are history and stand in nobody's way.
            edit_here(&rig, &[("status", "won")]).await;
            rig.desk().delete(Kind::Contact, ada.id()).await.unwrap();
            assert!(!ours(&rig).is_deleted());
        }
    }
    let rig =
        Rig::new(13, settings(), Profile::Agency, |connection| connection.on_remote_delete = OnRemoteDelete::Delete);
    let contact =
        rig.sandbox.with(|world| world.create(Kind::Contact, &text(&[("firstname", "Ada")]), Change::Person)).unwrap();
    let id = deal(&rig, &[]);
    rig.sandbox.with(|world| world.associate(id, contact, Change::Person));
    rig.engine().once().await.unwrap();
    rig.sandbox.with(|world| world.archive(Kind::Contact, contact, Change::Person)).unwrap();
    rig.engine().once().await.unwrap();
    assert!(ours(&rig).is_deleted(), "deleted there, with hers here");
}

#[tokio::test(start_paused = true)]
async fn vx_11_custom_fields_of_every_type_go_both_ways() {
    let kinds = [
        ("size", "string", PropertyType::Text, "M", "L"),
        ("units", "number", PropertyType::Number, "3", "4.5"),
        ("vip", "bool", PropertyType::Flag, "true", "false"),
        ("since", "date", PropertyType::Date, "2024-02-29", "2025-03-01"),
        ("called", "datetime", PropertyType::Time, "2026-01-02T03:04:05Z", "2026-02-03T04:05:06Z"),
        ("areas", "enumeration", PropertyType::Choices, "face;neck", "neck"),
    ];
    let rig = Rig::new(13, settings(), Profile::Agency, |connection| {
        let lens = connection.lenses.get_mut(&Kind::Deal).unwrap();
        for (name, _, kind, ..) in kinds {
            let field = format!("custom.{name}");
            lens.rows.push(Row {
                name: field.clone(),
                fields: vec![field],
                properties: vec![(name.into(), kind)],
                required: false,
                codec: Codec::Plain,
                rule: Rule::Newest,
                direction: Direction::Both,
            });
        }
    });
    rig.sandbox.with(|world| {
        for (name, kind, ..) in kinds {
            let field_type = if kind == "enumeration" { "checkbox" } else { "text" };
            world.add_property(
                Kind::Deal,
                name,
                kind,
                field_type,
                if kind == "enumeration" { &["face", "neck"] } else { &[] },
            );
        }
    });
    let stated: Vec<(&str, &str)> = kinds.iter().map(|(name, _, _, first, _)| (*name, *first)).collect();
    let id = deal(&rig, &stated);
    let mut remapped =
        Rig::new(13, settings(), Profile::Agency, |connection| connection.lenses.clone_from(rig.lenses()));
    remapped.adopt(&rig);
    let rig = remapped;
    rig.engine().once().await.unwrap();
    assert_eq!(ours(&rig).get("custom.units"), Value::Number(3.into()));
    assert_eq!(ours(&rig).get("custom.since"), Value::Date("2024-02-29".parse().unwrap()));
    // As a program writes them: texts.
    let edit: Vec<(String, String)> =
        kinds.iter().map(|(name, .., second)| (format!("custom.{name}"), (*second).to_owned())).collect();
    let edit: Vec<(&str, &str)> = edit.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    edit_here(&rig, &edit).await;
    rig.engine().once().await.unwrap();
    rig.engine().once().await.unwrap();
    let failures = rig.store.failures(&rig.account.name, 10).await.unwrap();
    assert!(failures.is_empty(), "{failures:?}");
    assert_eq!(there(&rig, id, "since").as_deref(), Some("2025-03-01"));
    assert_eq!((there(&rig, id, "units").as_deref(), there(&rig, id, "areas").as_deref()), (Some("4.5"), Some("neck")));
    edit_here(&rig, &[("custom.units", "many")]).await;
    rig.engine().once().await.unwrap();
    assert_eq!(rig.store.failures(&rig.account.name, 10).await.unwrap()[0].code, "wrong_type");
}

#[tokio::test(start_paused = true)]
async fn vx_13_vx_14_every_record_has_an_id_of_its_own_and_keeps_the_vendors() {
    let rig = rig();
    let ids = [deal(&rig, &[]), deal(&rig, &[])];
    rig.engine().once().await.unwrap();
    let links = rig.store.all_links(&rig.account.name, &rig.name);
    let mut theirs: Vec<u64> = links.iter().map(|link| link.external.as_str().parse().unwrap()).collect();
    theirs.sort_unstable();
    assert_eq!(theirs, ids);
    assert_ne!(links[0].local, links[1].local);
}

#[tokio::test(start_paused = true)]
async fn vx_19_vx_20_a_reference_belongs_to_one_live_opportunity() {
    let rig = rig();
    rig.engine().once().await.unwrap();
    let reference = || Some("PO-7".to_owned());
    let first = rig.desk().create(Kind::Deal, &says(&[("name", "a"), ("source", "fair")]), reference()).await.unwrap();
    assert_eq!(first.get("source"), Value::text("fair"));
    let second = rig.desk().create(Kind::Deal, &says(&[("name", "b")]), reference()).await;
    assert!(matches!(second, Err(EditError::ReferenceTaken)));
    rig.desk().delete(Kind::Deal, first.id()).await.unwrap();
    rig.desk().create(Kind::Deal, &says(&[("name", "b")]), reference()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn ax_01_a_stage_belongs_to_its_pipeline() {
    let rig = rig();
    rig.sandbox.with(|world| world.add_pipeline("second", "Second", &[("s1", "One", 0.3), ("s2", "Two", 1.0)]));
    deal(&rig, &[]);
    rig.engine().once().await.unwrap();
    let pipelines = rig.store.pipelines(&rig.account.name).await.unwrap();
    let (first, second) = (&pipelines[0], &pipelines[1]);
    let stage = second.stages[0].id.to_string();
    let both = rig
        .desk()
        .update(
            Kind::Deal,
            ours(&rig).id(),
            None,
            &says(&[("pipeline", &first.id.to_string()), ("stage", &stage)]),
            None,
        )
        .await;
    assert!(matches!(both, Err(EditError::Invalid(_))), "a stage of another pipeline than the one named");
    edit_here(&rig, &[("stage", &stage)]).await;
    let position = ours(&rig).as_opportunity().unwrap().position.clone();
    assert_eq!((position.pipeline, position.stage), (Some(second.id), Some(second.stages[0].id)));
}
