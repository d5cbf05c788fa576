//! Lenses: one mapping row turns a vendor's properties into local fields and back.
//!
//! Two sides agree when writing ours over theirs would change nothing: `put(local, remote) == remote`. That is the only
//! notion of equality across sides, and it is what makes a rounding, trimming or date-only vendor quiet. Each row obeys
//! `put(get(r), r) == r` and `get(put(l, r)) == l` up to the normalisation it declares; property tests hold it to that.
//! Source: J. N. Foster and others, "Combinators for bidirectional tree transformations", TOPLAS 2007.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, SubsecRound};
use chrono_tz::Tz;
use rust_decimal::Decimal;
use tandem_contract::{
    ExternalId, Kind, OwnerInfo, PropertyType, Value,
    planted::{self, Bug},
};

use super::position;
use crate::model::{
    Currency, Money, Pipeline, RecordId, StageKind, StageMap, Types,
    ids::{PipelineId, StageId},
    opportunity_type::called,
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
    /// Ours, which a sale at the till won, or which is a plan's price: no mapping names it, and it goes before any that does.
    Evidence,
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
            Self::Evidence => "evidence",
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
    /// The same where the vendor has a status apart from the stage: pipeline, stage, status, expected day, closing time,
    /// lost reason.
    StatusPosition,
    /// First and last name here, and one name there, of which the vendor tells the parts.
    Name,
    /// A vendor's owner id and our owner's e-mail address.
    Owner,
    /// A vendor's contacts and our one contact.
    Contact,
    /// A type by its name here and by its label there.
    Type,
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
    /// The vendor fills it by itself where nobody says anything, and does not let it be emptied: ours, while it is blank,
    /// agrees with whatever stands there.
    pub required: bool,
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
    properties: BTreeSet<String>,
    types: Types,
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
            properties: BTreeSet::new(),
            types: Types::new(),
        }
    }

    /// With the account's types.
    #[must_use]
    pub fn with_types(mut self, types: &Types) -> Self {
        self.types.clone_from(types);
        self
    }

    /// With the names of properties that the vendor has, of whichever kind.
    #[must_use]
    pub fn with_properties<'a>(mut self, names: impl IntoIterator<Item = &'a String>) -> Self {
        self.properties.extend(names.into_iter().cloned());
        self
    }

    /// True if the vendor has a property of this name.
    #[must_use]
    pub fn has_property(&self, name: &str) -> bool {
        self.properties.contains(name)
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

    pub(super) fn stage_map(&self, pipeline: &str, stage: &str) -> Option<&StageMap> {
        self.stages.get(&(pipeline.to_owned(), stage.to_owned()))
    }

    pub(super) fn stage_maps(&self) -> impl Iterator<Item = &StageMap> {
        self.stages.values()
    }

    /// The vendor's pipeline and stage that stand for ours.
    pub(super) fn remote_stage(&self, pipeline: PipelineId, stage: StageId) -> Option<&(String, String)> {
        self.back.get(&(pipeline, stage))
    }

    pub(super) fn pipeline(&self, id: PipelineId) -> Option<&Pipeline> {
        self.pipelines.get(&id)
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
    /// Ours that were merged away, and whom they go on as.
    pub merged: BTreeMap<RecordId, RecordId>,
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

pub(super) type Values = Result<Vec<Value>, Unfit>;

impl Row {
    /// What the vendor's values mean here. `old` is what we say now: a codec keeps what the vendor cannot express.
    ///
    /// # Errors
    /// [`Unfit`].
    pub fn get(&self, remote: &[Value], old: &[Value], context: Context<'_>) -> Values {
        match self.codec {
            Codec::Plain => Ok(vec![self.fits(&remote[0])?]),
            Codec::Money => get_money(remote, context.directory),
            Codec::Position => position::get(remote, old, context.directory),
            Codec::StatusPosition => position::get_with_status(remote, old, context.directory),
            Codec::Name => get_name(remote, old),
            Codec::Owner => Ok(vec![get_owner(&remote[0], context.directory)]),
            Codec::Contact => Ok(vec![get_contact(&remote[0], &old[0], context.people)?]),
            Codec::Type => Ok(vec![get_type(self.fits(&remote[0])?, context.directory)]),
        }
    }

    /// The vendor's values after ours are written over them; equal to `remote` if both sides agree.
    ///
    /// # Errors
    /// [`Unfit`].
    pub fn put(&self, local: &[Value], remote: &[Value], context: Context<'_>) -> Values {
        if self.required && local.iter().all(Value::is_blank) {
            return Ok(remote.to_vec());
        }
        match self.codec {
            Codec::Plain => Ok(vec![put_plain(&self.typed(&local[0])?, &remote[0])]),
            Codec::Money => put_money(local, remote, context.directory),
            Codec::Position => position::put(local, remote, context.directory),
            Codec::StatusPosition => position::put_with_status(local, remote, context.directory),
            Codec::Name => put_name(local, remote),
            Codec::Owner => Ok(vec![put_owner(&local[0], &remote[0], context.directory)?]),
            Codec::Contact => Ok(vec![put_contact(&local[0], &remote[0], context.people)?]),
            Codec::Type => Ok(vec![put_type(&local[0], &remote[0], context.directory)]),
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
pub(super) fn put_plain(local: &Value, remote: &Value) -> Value {
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

/// Both names in one, as people write it.
fn joined(first: &Value, last: &Value) -> String {
    let parts = [first, last].map(|part| part.as_text().unwrap_or_default().trim());
    parts.join(" ").trim().to_owned()
}

/// Ours while it reads the same; else the parts as the vendor tells them, or up to the last blank where it does not.
fn get_name(remote: &[Value], old: &[Value]) -> Values {
    let ([name, first, last], [old_first, old_last]) = (remote, old) else { return Err(bad_row()) };
    let whole = name.as_text().unwrap_or_default().trim();
    if joined(old_first, old_last) == whole {
        return Ok(old.to_vec());
    }
    if joined(first, last) == whole {
        return Ok(vec![first.clone(), last.clone()]);
    }
    let text = |part: &str| if part.is_empty() { Value::Null } else { Value::text(part) };
    let (first, last) = whole.rsplit_once(' ').unwrap_or((whole, ""));
    Ok(vec![text(first.trim()), text(last)])
}

/// The vendor needs a name: an empty one of ours does not clear it.
fn put_name(local: &[Value], remote: &[Value]) -> Values {
    let ([ours_first, ours_last], [name, first, last]) = (local, remote) else { return Err(bad_row()) };
    let whole = joined(ours_first, ours_last);
    if whole.is_empty() || whole == name.as_text().unwrap_or_default().trim() {
        return Ok(remote.to_vec());
    }
    Ok(vec![Value::Text(whole), first.clone(), last.clone()])
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

/// One that the account does not have goes by what the vendor calls it.
fn get_type(theirs: Value, directory: &Directory) -> Value {
    let known = theirs.as_text().and_then(|text| called(&directory.types, text));
    known.map_or(theirs, |(name, _)| Value::text(name.as_str()))
}

/// The vendor may call it by its name or its label, and is told the label.
fn put_type(local: &Value, remote: &Value, directory: &Directory) -> Value {
    let Some((name, one)) = local.as_text().and_then(|text| called(&directory.types, text)) else {
        return put_plain(local, remote);
    };
    if get_type(remote.clone(), directory).as_text() == Some(name.as_str()) {
        return remote.clone();
    }
    Value::text(one.label.as_deref().unwrap_or(name.as_str()).trim())
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

pub(super) fn bad_row() -> Unfit {
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
