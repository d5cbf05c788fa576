//! The laws of lenses and the merge table, by enumeration and by random values.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
use proptest::prelude::*;
use rust_decimal::Decimal;
use tandem::{
    model::{
        Base, Currency, Link, LinkState, LocalRecord, Opportunity, Pipeline, RecordId, Stage, StageKind, StageMap,
        Stamp,
        ids::{PipelineId, StageId},
    },
    simulation::lenses,
    sync::{
        lens::{Codec, Context, Directory, Lens, People, Row, Rule},
        mapping,
        plan::{FieldPlan, OnFirstLink, Snapshot, plan},
    },
};
use tandem_contract::{ExternalId, History, Kind, OwnerInfo, PropertyType, Record, Statement, Value, Version};
use uuid::Uuid;

fn pipeline() -> Pipeline {
    let stage = |n: u128, label: &str, probability, kind| Stage {
        id: StageId(Uuid::from_u128(n)),
        label: label.into(),
        probability,
        kind,
    };
    Pipeline {
        id: PipelineId(Uuid::from_u128(1)),
        label: "Sales".into(),
        version: 1,
        stages: vec![
            stage(10, "Enquiry", 10, StageKind::Open),
            stage(11, "Offer", 60, StageKind::Open),
            stage(12, "Won", 100, StageKind::Won),
            stage(13, "Lost", 0, StageKind::Lost),
        ],
    }
}

fn directory(timezone: chrono_tz::Tz) -> Directory {
    let pipeline = pipeline();
    let maps: Vec<StageMap> = pipeline
        .stages
        .iter()
        .enumerate()
        .map(|(rank, stage)| StageMap {
            connection: "hubspot".parse().unwrap(),
            remote_pipeline: "default".into(),
            remote_stage: format!("s{rank}"),
            pipeline: pipeline.id,
            stage: stage.id,
            kind: stage.kind,
            rank: rank as u32,
        })
        .collect();
    let owner = |id: &str, email: &str| OwnerInfo {
        id: id.into(),
        email: Some(email.into()),
        name: String::new(),
        archived: false,
    };
    Directory::new("hubspot", timezone, Currency::new("USD").unwrap(), vec!["USD".into(), "EUR".into()])
        .with_owners(&[owner("55012", "ana@clinic.example.com"), owner("55013", "bo@clinic.example.com")])
        .with_stages(&[pipeline], &maps)
}

fn row(name: &str) -> Row {
    lenses()[&Kind::Deal].rows.iter().find(|row| row.name == name).unwrap().clone()
}

fn maybe(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    prop_oneof![1 => Just(Value::Null), 4 => value]
}

fn instant() -> impl Strategy<Value = Value> {
    (1_700_000_000_000_i64..1_900_000_000_000).prop_map(|ms| Value::Time(DateTime::from_timestamp_millis(ms).unwrap()))
}

fn remote_position() -> impl Strategy<Value = Vec<Value>> {
    (0..4_usize, maybe(instant()), maybe("[a-z]{1,6}".prop_map(Value::Text)))
        .prop_map(|(stage, date, reason)| vec![Value::text("default"), Value::Text(format!("s{stage}")), date, reason])
}

/// A local position in which stage and status agree, as every door makes it.
fn local_position() -> impl Strategy<Value = Vec<Value>> {
    let day = (0..3_000_i64)
        .prop_map(|n| Value::Date(NaiveDate::from_ymd_opt(2024, 1, 1).unwrap() + chrono::Days::new(n as u64)));
    (0..4_usize, any::<bool>(), maybe("[a-z]{1,6}".prop_map(Value::Text)), instant(), maybe(day)).prop_map(
        |(n, abandoned, reason, closed, expected)| {
            let pipeline = pipeline();
            let stage = &pipeline.stages[n];
            let status = match stage.kind {
                StageKind::Open => "open",
                StageKind::Won => "won",
                StageKind::Lost if abandoned => "abandoned",
                StageKind::Lost => "lost",
            };
            let is_lost = stage.kind == StageKind::Lost;
            let is_open = stage.kind == StageKind::Open;
            vec![
                Value::Text(pipeline.id.to_string()),
                Value::Text(stage.id.to_string()),
                Value::text(status),
                if is_lost { reason } else { Value::Null },
                if is_open { Value::Null } else { closed },
                expected,
            ]
        },
    )
}

fn money() -> impl Strategy<Value = Vec<Value>> {
    prop_oneof![
        Just(vec![Value::Null, Value::Null]),
        (0..10_000_000_i64, prop_oneof![Just("USD"), Just("EUR")])
            .prop_map(|(minor, code)| vec![Value::Number(Decimal::new(minor, 2)), Value::text(code)]),
    ]
}

/// What a person may call one: by its name, by its label, otherwise, or not at all.
fn kind_of_sale() -> impl Strategy<Value = Vec<Value>> {
    let said = prop_oneof![
        Just("course"),
        Just("Laser course"),
        Just("LASER COURSE "),
        Just("care"),
        Just("Care"),
        Just("newbusiness"),
    ];
    prop_oneof![1 => Just(vec![Value::Null]), 6 => said.prop_map(|text| vec![Value::text(text)])]
}

fn zones() -> impl Strategy<Value = chrono_tz::Tz> {
    prop_oneof![
        Just(chrono_tz::America::Phoenix),
        Just(chrono_tz::Pacific::Tongatapu),
        Just(chrono_tz::UTC),
        Just(chrono_tz::Asia::Kolkata)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn taking_in_and_writing_back_changes_nothing(remote in remote_position(), old in local_position(), zone in zones()) {
        let (row, directory, people) = (row("position"), directory(zone), People::default());
        let context = Context { directory: &directory, people: &people };
        let ours = row.get(&remote, &old, context).unwrap();
        prop_assert_eq!(row.put(&ours, &remote, context).unwrap(), remote);
    }

    #[test]
    fn what_is_written_reads_back_as_it_was(ours in local_position(), remote in remote_position(), zone in zones()) {
        let (row, directory, people) = (row("position"), directory(zone), People::default());
        let context = Context { directory: &directory, people: &people };
        let written = row.put(&ours, &remote, context).unwrap();
        // Read by somebody who says the same already: a date-only vendor keeps the day, never the hour.
        let read = row.get(&written, &ours, context).unwrap();
        prop_assert_eq!(&read, &ours);
        prop_assert!(row.same(&ours, &written, context));
    }

    #[test]
    fn the_latest_write_alone_counts(first in local_position(), second in local_position(), remote in remote_position(), zone in zones()) {
        let (row, directory, people) = (row("position"), directory(zone), People::default());
        let context = Context { directory: &directory, people: &people };
        let (twice, once) = (
            row.put(&second, &row.put(&first, &remote, context).unwrap(), context).unwrap(),
            row.put(&second, &remote, context).unwrap(),
        );
        prop_assert!(row.same(&second, &twice, context) && row.same(&second, &once, context));
    }

    #[test]
    fn money_obeys_the_laws(ours in money(), theirs in money()) {
        let (row, directory, people) = (row("value"), directory(chrono_tz::UTC), People::default());
        let context = Context { directory: &directory, people: &people };
        let written = row.put(&ours, &theirs, context).unwrap();
        prop_assert_eq!(&row.get(&written, &theirs, context).unwrap(), &ours);
        let read = row.get(&theirs, &ours, context).unwrap();
        prop_assert_eq!(row.put(&read, &theirs, context).unwrap(), theirs);
    }

    #[test]
    fn plain_text_obeys_the_laws(ours in ".{0,12}", theirs in ".{0,12}") {
        let (row, directory, people) = (row("name"), directory(chrono_tz::UTC), People::default());
        let context = Context { directory: &directory, people: &people };
        let (ours, theirs) = (vec![Value::text(&ours)], vec![Value::text(&theirs)]);
        let written = row.put(&ours, &theirs, context).unwrap();
        prop_assert!(row.same(&ours, &written, context));
        let read = row.get(&theirs, &ours, context).unwrap();
        prop_assert_eq!(row.put(&read, &theirs, context).unwrap(), theirs);
    }

    #[test]
    fn owners_obey_the_laws_and_an_unknown_one_is_never_blanked(id in prop_oneof![Just("55012"), Just("55013"), Just("99")], ours in prop_oneof![Just("ana@clinic.example.com"), Just("stranger@example.com"), Just("hubspot:99")]) {
        let (row, directory, people) = (row("owner"), directory(chrono_tz::UTC), People::default());
        let context = Context { directory: &directory, people: &people };
        let theirs = vec![Value::text(id)];
        let read = row.get(&theirs, &[Value::Null], context).unwrap();
        prop_assert_eq!(row.put(&read, &theirs, context).unwrap(), theirs.clone());
        // Nobody at the vendor: shown, and nothing is written.
        let put = row.put(&[Value::text(ours)], &theirs, context);
        prop_assert_eq!(put.is_err(), ours.starts_with("stranger"));
        prop_assert!(put.is_err() || put.unwrap()[0] != Value::Null);
    }

    #[test]
    fn types_obey_the_laws_whatever_a_vendor_calls_them(ours in kind_of_sale(), theirs in kind_of_sale(), later in kind_of_sale()) {
        let row = mapping::parse("[deal.type]\nproperty = \"dealtype\"\n").unwrap().remove(&Kind::Deal).unwrap().rows.remove(0);
        let types = "[course]\nlabel = \" Laser course\"\n[care]\n".parse::<toml::Table>().unwrap().try_into().unwrap();
        let (directory, people) = (directory(chrono_tz::UTC).with_types(&types), People::default());
        let context = Context { directory: &directory, people: &people };
        let read = row.get(&theirs, &ours, context).unwrap();
        prop_assert_eq!(&row.put(&read, &theirs, context).unwrap(), &theirs, "what is taken in and written back is as it was");
        let written = row.put(&ours, &theirs, context).unwrap();
        prop_assert!(row.same(&ours, &written, context));
        prop_assert_eq!(row.get(&written, &ours, context).unwrap(), row.get(&ours, &ours, context).unwrap());
        let again = row.put(&later, &written, context).unwrap();
        prop_assert!(row.same(&later, &again, context), "the latest counts");
    }
}

#[test]
fn a_date_only_close_date_is_the_same_day_west_and_east() {
    let row = row("position");
    for zone in [chrono_tz::America::Phoenix, chrono_tz::Pacific::Tongatapu] {
        let (directory, people) = (directory(zone), People::default());
        let context = Context { directory: &directory, people: &people };
        let day = NaiveDate::from_ymd_opt(2026, 12, 18).unwrap();
        let ours = vec![
            Value::Text(pipeline().id.to_string()),
            Value::Text(pipeline().stages[0].id.to_string()),
            Value::text("open"),
            Value::Null,
            Value::Null,
            Value::Date(day),
        ];
        let blank = vec![Value::text("default"), Value::text("s0"), Value::Null, Value::Null];
        let written = row.put(&ours, &blank, context).unwrap();
        let Value::Time(at) = &written[2] else { panic!("a time") };
        assert_eq!(at.with_timezone(&zone).date_naive(), day, "{zone}");
        assert_eq!(row.get(&written, &ours, context).unwrap()[5], Value::Date(day));
    }
}

/// One text field, merged by one rule: what happens to the three copies.
fn merged(base: Option<(&str, &str)>, local: &str, remote: Option<&str>, rule: Rule, times: (i64, i64)) -> FieldPlan {
    let mut name = row("name");
    name.rule = rule;
    let lens = Lens { kind: Kind::Deal, rows: vec![name] };
    let at = |seconds| DateTime::<Utc>::from_timestamp(1_795_000_000 + seconds, 0).unwrap();
    let id = RecordId(Uuid::from_u128(7));
    let mut ours = LocalRecord::Deal(Opportunity::new(id, at(0)));
    ours.set(&["name".into()], &[Value::text(local)], &Stamp { at: at(times.0), by: "person".into() }).unwrap();
    let external = ExternalId::new("1").unwrap();
    let theirs = Record {
        id: external.clone(),
        version: Version::default(),
        created_at: None,
        properties: remote.map(|text| ("dealname".to_owned(), Value::text(text))).into_iter().collect(),
        marker: None,
        absorbed: Vec::new(),
    };
    let link = base.map(|(b_local, b_remote)| Link {
        connection: "hubspot".parse().unwrap(),
        kind: Kind::Deal,
        local: id,
        external,
        state: LinkState::Linked,
        base: [("name".to_owned(), Base(vec![Value::text(b_local)], vec![Value::text(b_remote)]))].into(),
        version: Version::default(),
        holds: BTreeMap::new(),
        rewrites: BTreeMap::new(),
        missing_since: None,
        unanswered: None,
        rulings: 0,
    });
    let statement =
        Statement { value: Value::text(remote.unwrap_or_default()), at: at(times.1), source: "CRM_UI".into() };
    let history: History = [("dealname".to_owned(), vec![statement])].into();
    let (directory, people) = (directory(chrono_tz::UTC), People::default());
    plan(&Snapshot {
        lens: &lens,
        context: Context { directory: &directory, people: &people },
        link: link.as_ref(),
        local: &ours,
        remote: &theirs,
        intent: None,
        history: Some(&history),
        answers: &BTreeMap::new(),
        on_first_link: OnFirstLink::FillBlanks,
        may_push: true,
        skew: chrono::TimeDelta::zero(),
        now: at(1_000),
    })
}

fn told(plan: &FieldPlan) -> String {
    let mut words = Vec::new();
    if let Some((_, _, values, _)) = plan.takes.first() {
        words.push(format!("take {}", values[0]));
    }
    if let Some(written) = plan.pushes.get("name") {
        words.push(format!("push {}", written.want[0]));
    }
    if let (true, Some(base)) = (words.is_empty(), plan.base.get("name")) {
        words.push(format!("base {}|{}", base.0[0], base.1[0]));
    }
    words.extend(plan.clashes.iter().map(|clash| format!("conflict {}/{}", clash.local[0], clash.remote[0])));
    words.extend(plan.holds.values().flatten().map(|hold| format!("hold {:?}", hold.kind)));
    if words.is_empty() { "nothing".into() } else { words.join(", ") }
}

#[test]
fn the_merge_table_holds() {
    use Rule::{Ask, Newest, PreferLocal, PreferRemote};
    let agreed = Some(("a", "a"));
    for (why, base, local, remote, rule, times, want) in [
        ("nobody moved", agreed, "a", Some("a"), Newest, (0, 0), "nothing"),
        ("only the vendor moved", agreed, "a", Some("b"), Newest, (0, 0), "take b"),
        ("only we moved", agreed, "b", Some("a"), Newest, (0, 0), "push b"),
        ("we moved to what they hold but for blanks", Some(("a", "b ")), "b", Some("b "), Newest, (0, 0), "base b|b "),
        ("both moved alike", agreed, "b", Some("b"), Newest, (0, 0), "base b|b"),
        ("both moved apart, theirs later", agreed, "b", Some("c"), Newest, (0, 9), "take c, conflict b/c"),
        ("both moved apart, ours later", agreed, "b", Some("c"), Newest, (9, 0), "push b, conflict b/c"),
        ("both moved apart in one second: ours", agreed, "b", Some("c"), Newest, (5, 6), "push b, conflict b/c"),
        ("both moved apart, we are preferred", agreed, "b", Some("c"), PreferLocal, (0, 9), "push b, conflict b/c"),
        ("both moved apart, they are preferred", agreed, "b", Some("c"), PreferRemote, (9, 0), "take c, conflict b/c"),
        ("both moved apart, a person decides", agreed, "b", Some("c"), Ask, (0, 9), "conflict b/c, hold Ask"),
        ("a value they stored otherwise is no edit", Some(("a ", "a")), "a ", Some("a"), Newest, (0, 0), "nothing"),
        ("a property that was not returned clears nothing", agreed, "b", None, Newest, (0, 0), "nothing"),
        ("first contact, they are blank", None, "b", Some(""), Newest, (0, 0), "push b"),
        ("first contact, we are blank", None, "", Some("c"), Newest, (0, 0), "take c"),
        ("first contact, both say something", None, "b", Some("c"), Newest, (0, 9), "take c, conflict b/c"),
    ] {
        assert_eq!(told(&merged(base, local, remote, rule, times)), want, "{why}");
    }
}

#[test]
fn a_plan_is_the_same_for_the_same_values() {
    let once = || merged(Some(("a", "a")), "b", Some("c"), Rule::Newest, (0, 9));
    assert_eq!(once(), once());
}

#[test]
fn the_shipped_mapping_parses_and_maps_every_group() {
    let lenses = lenses();
    let codecs: Vec<Codec> = lenses[&Kind::Deal].rows.iter().map(|row| row.codec).collect();
    for codec in [Codec::Plain, Codec::Money, Codec::Position, Codec::Owner, Codec::Contact] {
        assert!(codecs.contains(&codec), "{codec:?}");
    }
    assert!(
        lenses[&Kind::Deal]
            .rows
            .iter()
            .all(|row| row.properties.iter().all(|(_, kind)| *kind != PropertyType::Choices))
    );
}

#[test]
fn a_field_says_what_it_gives_and_nothing_else() {
    let mut deal = LocalRecord::Deal(Opportunity::new(RecordId(Uuid::from_u128(5)), DateTime::UNIX_EPOCH));
    let blank = deal.clone();
    let contact = Value::text("00000000-0000-0000-0000-0000000000ff");
    let values = [
        ("name", Value::text("Peel")),
        ("description", Value::text("long")),
        ("contact", contact),
        ("owner", Value::text("ana@clinic.example.com")),
        ("expected_close_on", Value::Date(NaiveDate::from_ymd_opt(2026, 12, 1).unwrap())),
        ("source", Value::text("web")),
    ];
    for (name, value) in &values {
        deal.try_set(&[(*name).to_owned()], std::slice::from_ref(value)).unwrap();
    }
    let all = tandem::model::field::OPPORTUNITY;
    for (field, other) in all.iter().flat_map(|field| all.iter().map(move |other| (field, other))) {
        for (record, told) in [(&deal, &deal), (&deal, &blank), (&blank, &deal), (&blank, &blank)] {
            let value = told.get(other);
            let says = record.says(&[(*field).to_owned()], std::slice::from_ref(&value));
            assert_eq!(says, record.get(field) == value, "{field} and {value:?}");
        }
    }
}
