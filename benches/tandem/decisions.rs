//! Decisions in memory: the pure plan of one linked deal of which both sides changed the name.

use std::{
    collections::BTreeMap,
    hint::black_box,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use chrono::{DateTime, TimeDelta, Utc};
use tandem::{
    model::{
        Link, LinkState, LocalRecord, Name, Opportunity, Pipeline, Profile, RecordId, Stage, StageKind, StageMap,
        Stamp,
        ids::{PipelineId, StageId},
    },
    simulation::{account, lenses},
    sync::{
        lens::{Context, Directory, People},
        plan::{FieldPlan, OnFirstLink, Snapshot, plan},
    },
};
use tandem_contract::{ExternalId, History, Kind, OwnerInfo, Record, Statement, Value, Version};
use uuid::Uuid;

use crate::table::{Figure, Row, Rows};

/// How long each side of the comparison runs.
const LONG: Duration = Duration::from_secs(1);

/// Decides the same record again and again on one core.
pub fn rows() -> Rows {
    let lenses = lenses();
    let lens = lenses.get(&Kind::Deal).context("the mapping has no deals")?;
    let now = DateTime::from_timestamp(1_795_300_000, 0).context("a moment")?;
    let (directory, people, answers) = (directory()?, people(), BTreeMap::new());
    let (blank, remote) = (ours(now)?, theirs(now)?);
    let meeting = Snapshot {
        lens,
        context: Context { directory: &directory, people: &people },
        link: None,
        local: &blank,
        remote: &remote,
        intent: None,
        history: None,
        answers: &answers,
        on_first_link: OnFirstLink::PreferRemote,
        may_push: true,
        skew: TimeDelta::zero(),
        now,
    };
    let met = plan(&meeting);
    let in_step = taken(&blank, &met, now)?;
    let link = linked(&in_step, &remote, met)?;
    let quiet = Snapshot { link: Some(&link), local: &in_step, ..meeting };
    ensure!(plan(&quiet) == FieldPlan::default(), "two records in step are to be changed");
    // Both sides rename it; theirs is the later statement.
    let (mut local, mut renamed) = (in_step.clone(), remote.clone());
    let person = Stamp { at: now - TimeDelta::seconds(20), by: "person".into() };
    local.set(&["name".into()], &[Value::text("renamed here")], &person)?;
    renamed.properties.insert("dealname".into(), Value::text("renamed there"));
    let stated =
        Statement { value: Value::text("renamed there"), at: now - TimeDelta::seconds(10), source: "CRM_UI".into() };
    let history = History::from([("dealname".to_owned(), vec![stated])]);
    let conflict = Snapshot { local: &local, remote: &renamed, history: Some(&history), ..quiet };
    let found = plan(&conflict);
    ensure!(found.clashes.len() == 1 && found.takes.len() == 1, "the plan is not a conflict that theirs wins");
    let deal = local.as_opportunity().context("a deal")?;
    let text = serde_json::to_string(deal)?;
    ensure!(serde_json::from_str::<Opportunity>(&text)? == *deal, "a deal does not survive its own text");
    let decisions = a_second(|| drop(black_box(plan(black_box(&conflict)))));
    let round_trips = a_second(|| {
        let text = serde_json::to_string(black_box(deal));
        drop(black_box(text.and_then(|text| serde_json::from_str::<Opportunity>(&text))));
    });
    Ok(vec![Row::new(
        "decisions in memory, one core, both sides renamed a deal of 6 rows",
        Figure(decisions, "decisions/s"),
        "the same deal to JSON and back",
        Figure(round_trips, "round trips/s"),
    )])
}

/// How often something can be done in a second.
fn a_second(mut work: impl FnMut()) -> f64 {
    let (began, mut count) = (Instant::now(), 0_u32);
    while began.elapsed() < LONG {
        // So that reading the clock is not what is measured.
        for _ in 0..1_000 {
            work();
        }
        count += 1_000;
    }
    f64::from(count) / began.elapsed().as_secs_f64()
}

fn directory() -> anyhow::Result<Directory> {
    let stage = |id: u128, label: &str, probability, kind| Stage {
        id: StageId(Uuid::from_u128(id)),
        label: label.into(),
        probability,
        kind,
    };
    let pipeline = Pipeline {
        id: PipelineId(Uuid::from_u128(1)),
        label: "Sales".into(),
        version: 1,
        stages: vec![
            stage(2, "Qualified to buy", 40, StageKind::Open),
            stage(3, "Closed won", 100, StageKind::Won),
            stage(4, "Closed lost", 0, StageKind::Lost),
        ],
    };
    let connection: Name = "hubspot".parse()?;
    let map = |(rank, remote): (u32, &str)| {
        let stage = pipeline.stages.get(rank as usize)?;
        Some(StageMap {
            connection: connection.clone(),
            remote_pipeline: "default".into(),
            remote_stage: remote.into(),
            pipeline: pipeline.id,
            stage: stage.id,
            kind: stage.kind,
            rank,
        })
    };
    let maps: Vec<StageMap> =
        [(0, "qualifiedtobuy"), (1, "closedwon"), (2, "closedlost")].into_iter().filter_map(map).collect();
    let owner = OwnerInfo {
        id: "55012".into(),
        email: Some("ana@clinic.example.com".into()),
        name: "Ana Ito".into(),
        archived: false,
    };
    let account = account("glow_clinic", Profile::Agency);
    Ok(Directory::new("hubspot", account.timezone, account.currency, Vec::new())
        .with_owners(&[owner])
        .with_stages(std::slice::from_ref(&pipeline), &maps))
}

fn people() -> People {
    let contact = RecordId(Uuid::from_u128(7));
    People {
        to_local: [("70021".to_owned(), contact)].into(),
        to_remote: [(contact, "70021".to_owned())].into(),
        ..People::default()
    }
}

fn ours(now: DateTime<Utc>) -> anyhow::Result<LocalRecord> {
    LocalRecord::new(Kind::Deal, RecordId(Uuid::from_u128(9)), now).context("deals have no record here")
}

fn theirs(now: DateTime<Utc>) -> anyhow::Result<Record> {
    let properties = [
        ("dealname", Value::text("laser #1")),
        ("description", Value::text("called twice, wants an offer before the summer")),
        ("pipeline", Value::text("default")),
        ("dealstage", Value::text("qualifiedtobuy")),
        ("closedate", Value::Time(now + TimeDelta::days(30))),
        ("closed_lost_reason", Value::Null),
        ("amount", Value::Number("1250.50".parse()?)),
        ("deal_currency_code", Value::text("USD")),
        ("hubspot_owner_id", Value::text("55012")),
        (tandem_hubspot::CONTACTS, Value::Refs(vec!["70021".into()])),
    ];
    Ok(Record {
        id: ExternalId::new("31550001")?,
        version: Version { token: None, updated_at: Some(now) },
        created_at: None,
        properties: properties.map(|(name, value)| (name.to_owned(), value)).into(),
        marker: None,
        absorbed: Vec::new(),
    })
}

/// Our record after it took in what a plan says.
fn taken(local: &LocalRecord, plan: &FieldPlan, now: DateTime<Utc>) -> anyhow::Result<LocalRecord> {
    let mut local = local.clone();
    for (_, fields, values, _) in &plan.takes {
        local.set(fields, values, &Stamp { at: now - TimeDelta::days(1), by: "hubspot".into() })?;
    }
    Ok(local)
}

fn linked(local: &LocalRecord, remote: &Record, met: FieldPlan) -> anyhow::Result<Link> {
    Ok(Link {
        connection: "hubspot".parse()?,
        kind: Kind::Deal,
        local: local.id(),
        external: remote.id.clone(),
        state: LinkState::Linked,
        base: met.base,
        version: remote.version.clone(),
        holds: BTreeMap::new(),
        rewrites: BTreeMap::new(),
        missing_since: None,
        unanswered: None,
        rulings: 0,
    })
}
