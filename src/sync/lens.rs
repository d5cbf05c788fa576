//! Lenses: one mapping row turns a vendor's properties into local fields and back.
//!
//! Two sides agree when writing ours over theirs would change nothing: `put(local, remote) == remote`. That is the only
//! notion of equality across sides, and it is what makes a rounding, trimming or date-only vendor quiet. Each row obeys
//! `put(get(r), r) == r` and `get(put(l, r)) == l` up to the normalisation it declares; property tests hold it to that.
//! Source: J. N. Foster and others, "Combinators for bidirectional tree transformations", TOPLAS 2007.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, NaiveTime, SubsecRound, TimeZone, Utc};
use chrono_tz::Tz;
use rust_decimal::Decimal;
use tandem_contract::{
    ExternalId, Kind, OwnerInfo, PropertyType, Value,
    planted::{self, Bug},
};

use crate::model::{
    Currency, Money, Pipeline, RecordId, StageKind, StageMap, Status,
    ids::{PipelineId, StageId},
};

/// What decides when both sides changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rule {
    /// The later statement; ours if they are too close to tell.
    #[default]
    Newest,
    /// Ours.
    PreferLocal,
    /// The vendor's.
    PreferRemote,
    /// The stage further on.
    ForwardOnly,
    /// Both, joined.
    Union,
    /// The higher number.
    Highest,
    /// A person.
    Ask,
}

impl Rule {
    /// The word of the mapping file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Newest => "newest",
            Self::PreferLocal => "prefer_local",
            Self::PreferRemote => "prefer_remote",
            Self::ForwardOnly => "forward_only",
            Self::Union => "union",
            Self::Highest => "highest",
            Self::Ask => "ask",
        }
    }
}

/// Which way a row, or a connection, goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Both ways.
    #[default]
    Both,
    /// From the vendor only.
    In,
    /// To the vendor only.
    Out,
}

/// How values are translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// One field, one property, the same value.
    Plain,
    /// Amount and currency.
    Money,
    /// Pipeline, stage, close date, lost reason: together they are the local position.
    Position,
    /// A vendor's owner id and our owner's e-mail address.
    Owner,
    /// A vendor's contacts and our one contact.
    Contact,
}

/// One mapping row.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name: a field, `position` or `value`.
    pub name: String,
    /// Local fields, in the codec's order.
    pub fields: Vec<String>,
    /// The vendor's properties and their types, in the codec's order.
    pub properties: Vec<(String, PropertyType)>,
    /// How values are translated.
    pub codec: Codec,
    /// What decides when both sides changed.
    pub rule: Rule,
    /// Which way it goes.
    pub direction: Direction,
}

/// The rows of one kind.
#[derive(Clone, Debug)]
pub struct Lens {
    /// Which kind.
    pub kind: Kind,
    /// Its rows.
    pub rows: Vec<Row>,
}

/// What the codecs need to know of both sides.
#[derive(Clone, Debug)]
pub struct Directory {
    /// The vendor's name, for raw references.
    pub system: String,
    /// In which zone the vendor's people read a date.
    pub timezone: Tz,
    /// The currency of an amount that states none.
    pub currency: Currency,
    /// Currencies the vendor accepts; empty for any.
    pub currencies: Vec<String>,
    owners: BTreeMap<String, String>,
    owner_ids: BTreeMap<String, String>,
    stages: BTreeMap<(String, String), StageMap>,
    back: BTreeMap<(PipelineId, StageId), (String, String)>,
    pipelines: BTreeMap<PipelineId, Pipeline>,
}

impl Directory {
    /// Indexes what was discovered and mapped.
    #[must_use]
    pub fn new(system: &str, timezone: Tz, currency: Currency, currencies: Vec<String>) -> Self {
        Self {
            system: system.to_owned(),
            timezone,
            currency,
            currencies,
            owners: BTreeMap::new(),
            owner_ids: BTreeMap::new(),
            stages: BTreeMap::new(),
            back: BTreeMap::new(),
            pipelines: BTreeMap::new(),
        }
    }

    /// With these owners; of two with one address the active one is written.
    #[must_use]
    pub fn with_owners(mut self, owners: &[OwnerInfo]) -> Self {
        for owner in owners {
            if let Some(email) = &owner.email {
                self.owners.insert(owner.id.clone(), email.clone());
                if !owner.archived || !self.owner_ids.contains_key(email) {
                    self.owner_ids.insert(email.clone(), owner.id.clone());
                }
            }
        }
        self
    }

    /// With these pipelines and this stage mapping.
    #[must_use]
    pub fn with_stages(mut self, pipelines: &[Pipeline], maps: &[StageMap]) -> Self {
        self.pipelines = pipelines.iter().map(|pipeline| (pipeline.id, pipeline.clone())).collect();
        let mut maps: Vec<&StageMap> = maps.iter().collect();
        maps.sort_by_key(|map| map.rank);
        for map in maps {
            self.stages.insert((map.remote_pipeline.clone(), map.remote_stage.clone()), map.clone());
            self.back
                .entry((map.pipeline, map.stage))
                .or_insert_with(|| (map.remote_pipeline.clone(), map.remote_stage.clone()));
        }
        self
    }

    /// True if this vendor stage is mapped.
    #[must_use]
    pub fn knows_stage(&self, pipeline: &str, stage: &str) -> bool {
        self.stages.contains_key(&(pipeline.to_owned(), stage.to_owned()))
    }

    /// Where a record starts that names no stage: the default stage of the first pipeline.
    #[must_use]
    pub fn default_position(&self) -> Option<(PipelineId, StageId)> {
        let pipeline = self.pipelines.values().next()?;
        Some((pipeline.id, pipeline.default_stage()?.id))
    }

    /// How far on a local stage is: closed beats open, then the probability.
    fn rank(&self, values: &[Value]) -> (StageKind, u8) {
        let found = (|| {
            let pipeline = self.pipelines.get(&values.first()?.as_text()?.parse().ok()?)?;
            pipeline.stage(values.get(1)?.as_text()?.parse().ok()?)
        })();
        found.map_or((StageKind::Open, 0), |stage| (stage.kind, stage.probability))
    }

    /// True if the first position is further on than the second.
    #[must_use]
    pub fn is_further(&self, a: &[Value], b: &[Value]) -> bool {
        self.rank(a) > self.rank(b)
    }
}

/// The contacts that the records of a batch name, both ways.
#[derive(Clone, Debug, Default)]
pub struct People {
    /// The vendor's id to ours.
    pub to_local: BTreeMap<String, RecordId>,
    /// Ours to the vendor's.
    pub to_remote: BTreeMap<RecordId, String>,
}

/// What a lens may look at besides the values.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Pipelines, owners, currencies.
    pub directory: &'a Directory,
    /// Contacts.
    pub people: &'a People,
}

/// A value cannot be translated now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// A person must act: a stable code, and what happened and what to do.
    Park(&'static str, String),
    /// Another record must come first.
    Wait(Need),
}

/// The record that must come first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// A vendor's contact that is not taken in yet.
    ContactIn(ExternalId),
    /// A contact of ours that the vendor does not have yet.
    ContactOut(RecordId),
}

type Values = Result<Vec<Value>, Unfit>;

impl Row {
    /// What the vendor's values mean here. `old` is what we say now: a codec keeps what the vendor cannot express.
    ///
    /// # Errors
    /// [`Unfit`].
    pub fn get(&self, remote: &[Value], old: &[Value], context: Context<'_>) -> Values {
        match self.codec {
            Codec::Plain => Ok(vec![self.fits(&remote[0])?]),
            Codec::Money => get_money(remote, context.directory),
            Codec::Position => get_position(remote, old, context.directory),
            Codec::Owner => Ok(vec![get_owner(&remote[0], context.directory)]),
            Codec::Contact => Ok(vec![get_contact(&remote[0], &old[0], context.people)?]),
        }
    }

    /// The vendor's values after ours are written over them; equal to `remote` if both sides agree.
    ///
    /// # Errors
    /// [`Unfit`].
    pub fn put(&self, local: &[Value], remote: &[Value], context: Context<'_>) -> Values {
        match self.codec {
            Codec::Plain => Ok(vec![put_plain(&self.typed(&local[0])?, &remote[0])]),
            Codec::Money => put_money(local, remote, context.directory),
            Codec::Position => put_position(local, remote, context.directory),
            Codec::Owner => Ok(vec![put_owner(&local[0], &remote[0], context.directory)?]),
            Codec::Contact => Ok(vec![put_contact(&local[0], &remote[0], context.people)?]),
        }
    }

    /// True if both sides agree.
    #[must_use]
    pub fn same(&self, local: &[Value], remote: &[Value], context: Context<'_>) -> bool {
        self.put(local, remote, context).is_ok_and(|put| put == remote)
    }

    /// A text of ours, as people and programs write one, in the type of the vendor's property.
    fn typed(&self, ours: &Value) -> Result<Value, Unfit> {
        let (property, kind) = &self.properties[0];
        let Value::Text(text) = ours else { return Ok(ours.clone()) };
        let text = text.trim();
        if text.is_empty() {
            return Ok(ours.clone());
        }
        let typed = match kind {
            PropertyType::Text => Some(ours.clone()),
            PropertyType::Number => text.parse().ok().map(Value::Number),
            PropertyType::Flag => text.parse().ok().map(Value::Flag),
            PropertyType::Date => text.parse().ok().map(Value::Date),
            PropertyType::Time => DateTime::parse_from_rfc3339(text).ok().map(|at| Value::Time(at.to_utc())),
            PropertyType::Choices => {
                Some(Value::Choices(text.split(';').map(|choice| choice.trim().to_owned()).collect()))
            }
        };
        typed.ok_or_else(|| {
            let word = type_word(*kind);
            Unfit::Park(
                "wrong_type",
                format!("the property `{property}` takes {word}, and ours is not: correct it here"),
            )
        })
    }

    /// A value the vendor declared of one type and filled with another.
    fn fits(&self, value: &Value) -> Result<Value, Unfit> {
        let (property, kind) = &self.properties[0];
        let fits = matches!(
            (kind, value),
            (_, Value::Null | Value::Absent)
                | (PropertyType::Text, Value::Text(_))
                | (PropertyType::Number, Value::Number(_))
                | (PropertyType::Flag, Value::Flag(_))
                | (PropertyType::Date, Value::Date(_))
                | (PropertyType::Time, Value::Time(_))
                | (PropertyType::Choices, Value::Choices(_))
        );
        if fits {
            Ok(value.clone())
        } else {
            Err(Unfit::Park(
                "wrong_type",
                format!(
                    "the property `{property}` holds something that is not {}; correct it at the vendor or change its type in the mapping",
                    type_word(*kind)
                ),
            ))
        }
    }
}

fn type_word(kind: PropertyType) -> &'static str {
    match kind {
        PropertyType::Text => "text",
        PropertyType::Number => "a number",
        PropertyType::Flag => "yes or no",
        PropertyType::Date => "a day",
        PropertyType::Time => "a time",
        PropertyType::Choices => "a set of options",
    }
}

/// Blank is blank on both sides; text agrees when it is the same without blanks around it, times to the millisecond.
fn put_plain(local: &Value, remote: &Value) -> Value {
    if planted::has(Bug::NoCanoniser) {
        return local.clone();
    }
    match (local, remote) {
        (local, remote) if local.is_blank() && remote.is_blank() => remote.clone(),
        (Value::Text(ours), Value::Text(theirs)) if ours.trim() == theirs.trim() => remote.clone(),
        (Value::Time(ours), Value::Time(theirs)) if ours.trunc_subsecs(3) == theirs.trunc_subsecs(3) => remote.clone(),
        (local, _) if local.is_blank() => Value::Null,
        _ => local.clone(),
    }
}

fn get_money(remote: &[Value], directory: &Directory) -> Values {
    let [amount, currency] = remote else { return Err(bad_row()) };
    match amount {
        Value::Null => Ok(vec![Value::Null, Value::Null]),
        Value::Number(major) => {
            let code = currency.as_text().unwrap_or(directory.currency.code());
            let currency = Currency::new(code)
                .map_err(|error| Unfit::Park("unknown_currency", format!("{error}; correct it at the vendor")))?;
            let money = Money::from_major(*major, currency)
                .map_err(|error| Unfit::Park("amount", format!("{error}; correct the amount at the vendor")))?;
            Ok(vec![Value::Number(money.to_major()), Value::Text(code.to_owned())])
        }
        _ => Err(Unfit::Park("amount", "the amount is not a number; correct it at the vendor".into())),
    }
}

fn put_money(local: &[Value], remote: &[Value], directory: &Directory) -> Values {
    let ([amount, currency], [_, their_currency]) = (local, remote) else { return Err(bad_row()) };
    if amount.is_blank() {
        return Ok(vec![Value::Null, their_currency.clone()]);
    }
    let code = currency.as_text().unwrap_or(directory.currency.code());
    let stated = their_currency.as_text();
    if stated.unwrap_or(directory.currency.code()) == code {
        return Ok(vec![amount.clone(), their_currency.clone()]);
    }
    if !directory.currencies.is_empty() && !directory.currencies.iter().any(|known| known == code) {
        return Err(Unfit::Park(
            "currency_not_enabled",
            format!(
                "the vendor's account does not have the currency {code}: add it there, or change the record's currency"
            ),
        ));
    }
    Ok(vec![amount.clone(), Value::Text(code.to_owned())])
}

fn get_owner(remote: &Value, directory: &Directory) -> Value {
    match remote.as_text() {
        None => Value::Null,
        Some(id) => {
            Value::Text(directory.owners.get(id).cloned().unwrap_or_else(|| format!("{}:{id}", directory.system)))
        }
    }
}

/// An owner the vendor does not know is not written, never blanks the vendor's, and is shown.
fn put_owner(local: &Value, remote: &Value, directory: &Directory) -> Result<Value, Unfit> {
    let Some(owner) = local.as_text().filter(|owner| !owner.trim().is_empty()) else {
        return Ok(if remote.is_blank() { remote.clone() } else { Value::Null });
    };
    let owner = owner.trim().to_lowercase();
    if remote.as_text().is_some_and(|id| directory.owners.get(id) == Some(&owner)) {
        return Ok(remote.clone());
    }
    let raw = owner.strip_prefix(&format!("{}:", directory.system)).map(str::to_owned);
    raw.or_else(|| directory.owner_ids.get(&owner).cloned()).map(Value::Text).ok_or_else(|| {
        let text = format!(
            "the owner {owner} is nobody at the vendor: add that person there, or name another owner; all other fields go on"
        );
        Unfit::Park("unknown_owner", text)
    })
}

fn refs(value: &Value) -> &[String] {
    match value {
        Value::Refs(refs) => refs,
        _ => &[],
    }
}

/// Our contact is theirs as long as it is among them; else it is the primary one.
fn get_contact(remote: &Value, old: &Value, people: &People) -> Result<Value, Unfit> {
    let list = refs(remote);
    let mine = old.as_text().and_then(|id| people.to_remote.get(&id.parse().ok()?));
    if mine.is_some_and(|mine| list.contains(mine)) {
        return Ok(old.clone());
    }
    let Some(first) = list.first() else { return Ok(Value::Null) };
    match (people.to_local.get(first), ExternalId::new(first.as_str())) {
        (Some(local), _) => Ok(Value::Text(local.to_string())),
        (None, Ok(id)) => Err(Unfit::Wait(Need::ContactIn(id))),
        (None, Err(_)) => Ok(old.clone()),
    }
}

/// Replaces the primary contact and keeps the others.
fn put_contact(local: &Value, remote: &Value, people: &People) -> Result<Value, Unfit> {
    let list = refs(remote);
    let Some(id) = local.as_text().and_then(|id| id.parse::<RecordId>().ok()) else {
        return Ok(Value::Refs(list.iter().skip(1).cloned().collect()));
    };
    let Some(theirs) = people.to_remote.get(&id) else { return Err(Unfit::Wait(Need::ContactOut(id))) };
    if list.contains(theirs) {
        return Ok(remote.clone());
    }
    let mut next: Vec<String> = list.iter().skip(1).cloned().collect();
    next.push(theirs.clone());
    next.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    Ok(Value::Refs(next))
}

/// The places in a position's local values.
const PIPELINE: usize = 0;
const STAGE: usize = 1;
const STATUS: usize = 2;
const LOST_REASON: usize = 3;
const CLOSED_AT: usize = 4;
const EXPECTED: usize = 5;

fn get_position(remote: &[Value], old: &[Value], directory: &Directory) -> Values {
    let [pipeline, stage, close_date, reason] = remote else { return Err(bad_row()) };
    let map = stage_of(pipeline, stage, directory)?;
    let was = old[STATUS].as_text().and_then(|word| word.parse::<Status>().ok()).unwrap_or_default();
    let same_stage = old[STAGE].as_text() == Some(map.stage.to_string().as_str());
    let status = match map.kind {
        _ if planted::has(Bug::StageWithoutStatus) => was,
        StageKind::Open => Status::Open,
        StageKind::Won => Status::Won,
        // The vendor has no word for it; we keep ours while the record stays where it was and its reason is stated.
        StageKind::Lost if was == Status::Abandoned && same_stage && !reason.is_blank() => Status::Abandoned,
        StageKind::Lost => Status::Lost,
    };
    let (closed_at, expected) = if status.is_closed() {
        (close_date.clone(), old[EXPECTED].clone())
    } else {
        let day = match close_date {
            Value::Time(at) => Value::Date(at.with_timezone(&directory.timezone).date_naive()),
            _ => Value::Null,
        };
        (Value::Null, day)
    };
    let reason = match status {
        Status::Lost => reason.clone(),
        Status::Abandoned if reason.as_text() == Some(ABANDONED) => Value::Null,
        Status::Abandoned => reason.clone(),
        Status::Open | Status::Won => Value::Null,
    };
    let mut position = vec![Value::Null; 6];
    position[PIPELINE] = Value::Text(map.pipeline.to_string());
    position[STAGE] = Value::Text(map.stage.to_string());
    position[STATUS] = Value::Text(status.as_str().into());
    position[LOST_REASON] = reason;
    position[CLOSED_AT] = closed_at;
    position[EXPECTED] = expected;
    Ok(position)
}

/// What a vendor's one close date leaves unsaid (VX-03): a record that was closed without a date was closed when that
/// was stated; one that was opened again is expected when it was before, not on the day it had been closed.
pub fn complete_position(position: &mut [Value], old: &[Value], remote: &[Value], stated: DateTime<Utc>) {
    let [.., close_date, _] = remote else { return };
    let status = position[STATUS].as_text().and_then(|word| word.parse::<Status>().ok()).unwrap_or_default();
    if status.is_closed() {
        if position[CLOSED_AT].is_blank() {
            position[CLOSED_AT] = Value::Time(stated.trunc_subsecs(3));
        }
    } else if let (Value::Time(was), Value::Time(now)) = (&old[CLOSED_AT], close_date)
        && was.trunc_subsecs(3) == now.trunc_subsecs(3)
    {
        position[EXPECTED] = old[EXPECTED].clone();
    }
}

/// The lost reason a vendor without the status is given.
const ABANDONED: &str = "Abandoned";

/// The code of a record whose stage has no counterpart on the other side.
pub const UNMAPPED_STAGE: &str = "unmapped_stage";

fn stage_of<'a>(pipeline: &Value, stage: &Value, directory: &'a Directory) -> Result<&'a StageMap, Unfit> {
    let (pipeline, stage) = (pipeline.as_text().unwrap_or_default(), stage.as_text().unwrap_or_default());
    directory.stages.get(&(pipeline.to_owned(), stage.to_owned())).ok_or_else(|| {
        Unfit::Park(
            UNMAPPED_STAGE,
            format!("the vendor's stage `{stage}` of pipeline `{pipeline}` is not known here: if it is new, it is taken over within a minute or so; if the vendor deleted it, put the record on another stage there; all other fields go on"),
        )
    })
}

fn put_position(local: &[Value], remote: &[Value], directory: &Directory) -> Values {
    let [their_pipeline, their_stage, their_date, their_reason] = remote else { return Err(bad_row()) };
    let status = local[STATUS].as_text().and_then(|word| word.parse::<Status>().ok()).unwrap_or_default();
    let (pipeline, stage) = stage_for(local, status, their_pipeline, their_stage, directory)?;
    let date = if status.is_closed() {
        match (&local[CLOSED_AT], their_date) {
            (Value::Time(ours), Value::Time(theirs)) if ours.trunc_subsecs(3) == theirs.trunc_subsecs(3) => {
                their_date.clone()
            }
            (Value::Time(ours), _) => Value::Time(ours.trunc_subsecs(3)),
            _ => their_date.clone(),
        }
    } else {
        put_day(&local[EXPECTED], their_date, directory.timezone)
    };
    let reason = match status {
        Status::Open | Status::Won => their_reason.clone(),
        Status::Lost => put_plain(&local[LOST_REASON], their_reason),
        Status::Abandoned if local[LOST_REASON].is_blank() => put_plain(&Value::Text(ABANDONED.into()), their_reason),
        Status::Abandoned => put_plain(&local[LOST_REASON], their_reason),
    };
    Ok(vec![pipeline, stage, date, reason])
}

/// A day, as an instant that is on that day for the vendor's people: noon, which is also that day for their neighbours.
fn put_day(ours: &Value, theirs: &Value, timezone: Tz) -> Value {
    let Value::Date(day) = ours else { return if theirs.is_blank() { theirs.clone() } else { Value::Null } };
    match theirs {
        Value::Time(at) if at.with_timezone(&timezone).date_naive() == *day => theirs.clone(),
        _ => noon(*day, timezone),
    }
}

fn noon(day: NaiveDate, timezone: Tz) -> Value {
    let noon = day.and_time(NaiveTime::from_hms_opt(12, 0, 0).unwrap_or_default());
    let at = timezone.from_local_datetime(&noon).earliest().unwrap_or_else(|| timezone.from_utc_datetime(&noon));
    Value::Time(at.to_utc())
}

fn stage_for(
    local: &[Value],
    status: Status,
    their_pipeline: &Value,
    their_stage: &Value,
    directory: &Directory,
) -> Result<(Value, Value), Unfit> {
    let key = (|| Some((local[PIPELINE].as_text()?.parse().ok()?, local[STAGE].as_text()?.parse().ok()?)))();
    let Some((pipeline, stage)): Option<(PipelineId, StageId)> = key else {
        return Err(Unfit::Park("no_stage", "the record stands on no stage: choose its pipeline and stage".into()));
    };
    let wanted = status.stage_kind();
    if let Some((remote_pipeline, remote_stage)) = directory.back.get(&(pipeline, stage)) {
        let theirs = directory.stages.get(&(
            their_pipeline.as_text().unwrap_or_default().to_owned(),
            their_stage.as_text().unwrap_or_default().to_owned(),
        ));
        // Two vendor stages may stand for one of ours: the one the record is on is as good.
        if theirs.is_some_and(|map| map.pipeline == pipeline && map.stage == stage) {
            return Ok((their_pipeline.clone(), their_stage.clone()));
        }
        let kind = directory.stages.get(&(remote_pipeline.clone(), remote_stage.clone())).map(|map| map.kind);
        if kind == Some(wanted) {
            return Ok((Value::Text(remote_pipeline.clone()), Value::Text(remote_stage.clone())));
        }
    }
    // A status without a stage of its own: the first of that kind in the vendor's pipeline.
    let of_kind = |map: &&StageMap| map.pipeline == pipeline && map.kind == wanted;
    let first = directory.stages.values().filter(of_kind).min_by_key(|map| map.rank);
    match first {
        Some(map) if wanted != StageKind::Open => {
            Ok((Value::Text(map.remote_pipeline.clone()), Value::Text(map.remote_stage.clone())))
        }
        _ => {
            let label = directory.pipelines.get(&pipeline).map_or("?".to_owned(), |p| {
                format!("{} / {}", p.label, p.stage(stage).map_or("?", |s| s.label.as_str()))
            });
            Err(Unfit::Park(
                UNMAPPED_STAGE,
                format!(
                    "the vendor has no stage for `{label}` ({status}): map it, or create it at the vendor; all other fields go on"
                ),
            ))
        }
    }
}

fn bad_row() -> Unfit {
    Unfit::Park("mapping", "the mapping row has the wrong number of properties".into())
}

/// The higher of two numbers, if both are.
#[must_use]
pub fn higher(a: &Value, b: &Value) -> Option<Value> {
    let number = |value: &Value| match value {
        Value::Number(number) => Some(*number),
        _ => None,
    };
    let (a, b): (Decimal, Decimal) = (number(a)?, number(b)?);
    Some(Value::Number(a.max(b)))
}
