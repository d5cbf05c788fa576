//! An opportunity: a potential deal (AX-01, VX-01).

use std::{collections::BTreeMap, fmt, str::FromStr};

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use tandem_contract::Value;
use uuid::Uuid;

use super::{
    account::ValueSource,
    field,
    ids::{Name, PipelineId, RecordId, StageId},
    money::{Currency, Money},
    opportunity_type::{self, Types},
    pipeline::{Pipeline, StageKind},
    record::{Invalid, text, text_value},
    stamp::Stamp,
};

/// How an opportunity stands (AX-14). `is_closed` is derived (VX-04).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Worked on; the state of a new one.
    #[default]
    Open,
    /// Sold.
    Won,
    /// Not sold.
    Lost,
    /// Given up without an answer.
    Abandoned,
}

impl Status {
    /// The word of the API, the store and the export.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Won => "won",
            Self::Lost => "lost",
            Self::Abandoned => "abandoned",
        }
    }

    /// True unless open.
    #[must_use]
    pub fn is_closed(self) -> bool {
        self != Self::Open
    }

    /// The kind of stage a record of this status stands on.
    #[must_use]
    pub fn stage_kind(self) -> StageKind {
        match self {
            Self::Open => StageKind::Open,
            Self::Won => StageKind::Won,
            Self::Lost | Self::Abandoned => StageKind::Lost,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Status {
    type Err = Invalid;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        [Self::Open, Self::Won, Self::Lost, Self::Abandoned]
            .into_iter()
            .find(|status| status.as_str() == word)
            .ok_or_else(|| Invalid::new("status", "is not one of open, won, lost, abandoned"))
    }
}

/// Where an opportunity stands: merges as one value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Its pipeline; `None` until one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pipeline: Option<PipelineId>,
    /// Its stage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<StageId>,
    /// Its status.
    pub status: Status,
    /// Why it was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_reason: Option<String>,
    /// When it was closed; set by itself on closing (VX-03).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_at: Option<DateTime<Utc>>,
    /// When it is expected to close.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_close_on: Option<NaiveDate>,
}

impl Position {
    /// Makes stage and status agree after an edit that changed the given one of them, and keeps the close date.
    ///
    /// A move to a won or lost stage closes; closing moves to the first stage of that kind if the pipeline has one;
    /// reopening a closed record moves it to the pipeline's default stage.
    pub fn settle(&mut self, pipeline: &Pipeline, status_was_edited: bool, now: DateTime<Utc>) {
        self.pipeline = Some(pipeline.id);
        let stage = self.stage.and_then(|id| pipeline.stage(id));
        match stage {
            Some(stage) if !status_was_edited => {
                self.status = match (stage.kind, self.status) {
                    (StageKind::Won, _) => Status::Won,
                    (StageKind::Lost, Status::Abandoned) => Status::Abandoned,
                    (StageKind::Lost, _) => Status::Lost,
                    (StageKind::Open, _) => Status::Open,
                };
            }
            Some(stage) if stage.kind == self.status.stage_kind() => {}
            _ => {
                let kind = self.status.stage_kind();
                let wanted = if kind == StageKind::Open { pipeline.default_stage() } else { pipeline.first_of(kind) };
                self.stage = wanted.map(|stage| stage.id).or(self.stage);
            }
        }
        if self.status.is_closed() {
            self.closed_at.get_or_insert(now);
        } else {
            self.closed_at = None;
            self.lost_reason = None;
        }
    }
}

/// An opportunity of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opportunity {
    /// Our id.
    pub id: RecordId,
    /// Counts changes, from 1; a change names the version it was made on.
    pub version: i64,
    /// Title.
    #[serde(default)]
    pub name: String,
    /// Longer text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Where it stands.
    pub position: Position,
    /// What it is worth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Money>,
    /// Who says so.
    #[serde(default, skip_serializing_if = "is_manual")]
    pub value_source: ValueSource,
    /// What kind of sale it is (CB-02): a type of the account by name, or what a vendor calls one that is none of its types.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub opportunity_type: Option<String>,
    /// Who is responsible: an e-mail address, or `system:id` where a vendor's owner has no known address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Its contact (VX-07).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact: Option<RecordId>,
    /// Where the lead came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Free reference of an outside system (VX-19), unique per account (VX-20).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_reference: Option<String>,
    /// The account's own fields (VX-11).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub custom: BTreeMap<String, Value>,
    /// When each field was last stated and by whom.
    #[serde(default, with = "super::stamp::grouped", skip_serializing_if = "BTreeMap::is_empty")]
    pub stamps: BTreeMap<String, Stamp>,
    /// Made.
    pub created_at: DateTime<Utc>,
    /// Last changed.
    pub updated_at: DateTime<Utc>,
    /// Deleted, to be undone for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted_at: Option<DateTime<Utc>>,
    /// The record it was merged into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merged_into: Option<RecordId>,
    /// True if somebody said that it is meant beside another open one of its contact (GYM-30). Looked at where the policy asks
    /// for that word, and nowhere else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deliberate: bool,
    /// True for a second active record where the policy allows only one: kept, shown, not counted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub quarantined: bool,
    /// Who made it: `person`, or the connection it came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Who closed it (VX-06): `person`, or the connection that said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed_by: Option<String>,
    /// True while it is won by a sale, and no person said so as well: what somebody typed without knowing of the sale does
    /// not lower it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub won_by_sale: bool,
    /// When its status was last seen to change here, as it happened: what came with a first import or was found by the
    /// audit changed at some other time. [`Position::closed_at`] is when it was closed, whenever that was heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transition_seen_at: Option<DateTime<Utc>>,
}

fn is_manual(source: &ValueSource) -> bool {
    *source == ValueSource::Manual
}

impl Opportunity {
    /// An empty, open one.
    #[must_use]
    pub fn new(id: RecordId, now: DateTime<Utc>) -> Self {
        Self {
            id,
            version: 1,
            name: String::new(),
            description: None,
            position: Position::default(),
            value: None,
            value_source: ValueSource::Manual,
            opportunity_type: None,
            owner: None,
            contact: None,
            source: None,
            external_reference: None,
            custom: BTreeMap::new(),
            stamps: BTreeMap::new(),
            created_at: now,
            updated_at: now,
            deleted_at: None,
            merged_into: None,
            deliberate: false,
            quarantined: false,
            created_by: None,
            closed_by: None,
            won_by_sale: false,
            transition_seen_at: None,
        }
    }

    /// Its external reference, which a deleted one no longer holds.
    #[must_use]
    pub fn live_reference(&self) -> Option<&str> {
        self.external_reference.as_deref().filter(|_| self.deleted_at.is_none())
    }

    /// Notes who closed it, and forgets it when it is open again.
    pub fn note_closing(&mut self, by: &str) {
        if self.position.status.is_closed() {
            self.closed_by.get_or_insert_with(|| by.to_owned());
        } else {
            self.closed_by = None;
        }
        self.won_by_sale &= self.position.status == Status::Won;
    }

    /// It is won, since then, by this connection: it stands where its pipeline has what is won.
    pub fn win(&mut self, pipeline: Option<&Pipeline>, at: DateTime<Utc>, by: &Name) {
        self.position.status = Status::Won;
        self.position.lost_reason = None;
        self.position.closed_at = Some(at);
        if let Some(pipeline) = pipeline {
            self.position.settle(pipeline, true, at);
        }
        self.closed_by = Some(by.to_string());
        self.end_quarantine();
    }

    /// Another type was said: as long as it is open, it is worth what that type says, unless somebody says otherwise (CB-10).
    /// Not stamped, since nobody said it: whoever says another amount, anywhere, said it later.
    pub fn value_by_type(&mut self, types: &Types, currency: Currency) {
        let known = self.opportunity_type.as_deref().and_then(|text| opportunity_type::called(types, text));
        let worth = known.and_then(|(_, one)| one.worth(currency).ok().flatten());
        let is_by_type = self.value_source == ValueSource::TypeDefault;
        let is_nobodys = self.value.is_none() || is_by_type;
        match worth {
            Some(worth) if is_nobodys && !self.position.status.is_closed() => {
                (self.value, self.value_source) = (Some(worth), ValueSource::TypeDefault);
            }
            // No type that it has says so any more.
            _ if is_by_type => self.value_source = ValueSource::Manual,
            _ => {}
        }
    }

    /// Notes when its status changed, if it did (FEATURES section 2, row 16).
    pub fn note_transition(&mut self, was: Status, now: DateTime<Utc>) {
        if self.position.status != was {
            self.transition_seen_at = Some(now);
        }
    }

    /// Notes who said these fields, and when.
    pub fn stamp(&mut self, fields: &[&str], stamp: &Stamp) {
        self.stamps.extend(fields.iter().map(|name| ((*name).to_owned(), stamp.clone())));
    }

    /// Ends a quarantine that has no reason any more: what is closed, deleted or nobody's takes no place.
    pub fn end_quarantine(&mut self) {
        let takes_a_place = self.position.status == Status::Open && self.deleted_at.is_none() && self.contact.is_some();
        self.quarantined &= takes_a_place;
    }

    /// Whether a field has this value: as [`Self::get`] and a comparison, without making texts of ids.
    #[must_use]
    pub fn says(&self, name: &str, value: &Value) -> bool {
        let text = |ours: Option<&str>| ours == value.as_text() && (ours.is_some() || *value == Value::Null);
        let id = |ours: Option<Uuid>| match ours {
            Some(ours) => value.as_text() == Some(&*ours.hyphenated().encode_lower(&mut Uuid::encode_buffer())),
            None => *value == Value::Null,
        };
        match name {
            "name" => text(Some(&self.name)),
            "description" => text(self.description.as_deref()),
            "pipeline" => id(self.position.pipeline.map(|id| id.0)),
            "stage" => id(self.position.stage.map(|id| id.0)),
            "status" => text(Some(self.position.status.as_str())),
            "lost_reason" => text(self.position.lost_reason.as_deref()),
            "currency" => text(self.value.as_ref().map(|money| money.currency.code())),
            "owner" => text(self.owner.as_deref()),
            "type" => text(self.opportunity_type.as_deref()),
            "contact" => id(self.contact.map(|id| id.0)),
            _ => self.get(name) == *value,
        }
    }

    /// The value of a field; absent for a field it does not have.
    #[must_use]
    pub fn get(&self, name: &str) -> Value {
        let id = |id: Option<String>| id.map_or(Value::Null, Value::Text);
        match name {
            "name" => Value::Text(self.name.clone()),
            "description" => text_value(self.description.as_deref()),
            "pipeline" => id(self.position.pipeline.map(|id| id.to_string())),
            "stage" => id(self.position.stage.map(|id| id.to_string())),
            "status" => Value::Text(self.position.status.as_str().into()),
            "lost_reason" => text_value(self.position.lost_reason.as_deref()),
            "closed_at" => self.position.closed_at.map_or(Value::Null, Value::Time),
            "expected_close_on" => self.position.expected_close_on.map_or(Value::Null, Value::Date),
            "amount" => self.value.map_or(Value::Null, |money| Value::Number(money.to_major())),
            "currency" => self.value.map_or(Value::Null, |money| Value::Text(money.currency.code().into())),
            "owner" => text_value(self.owner.as_deref()),
            "contact" => id(self.contact.map(|id| id.to_string())),
            "source" => text_value(self.source.as_deref()),
            "deliberate" => Value::Flag(self.deliberate),
            "type" => text_value(self.opportunity_type.as_deref()),
            "value_source" => Value::Text(self.value_source.as_str().into()),
            _ => {
                field::custom(name).map_or(Value::Absent, |name| self.custom.get(name).cloned().unwrap_or(Value::Null))
            }
        }
    }

    /// Sets fields together; those of a group must come together to make sense.
    ///
    /// # Errors
    /// [`Invalid`] names the field whose value does not fit; nothing is changed then.
    pub fn set(&mut self, values: &[(&str, &Value)]) -> Result<(), Invalid> {
        // Tried on a copy without the parts that are long and cannot be refused.
        let (custom, stamps) = (std::mem::take(&mut self.custom), std::mem::take(&mut self.stamps));
        let mut next = self.clone();
        (next.custom, next.stamps) = (custom, stamps);
        match next.assign(values) {
            Ok(()) => {
                *self = next;
                Ok(())
            }
            Err(invalid) => {
                (self.custom, self.stamps) = (next.custom, next.stamps);
                Err(invalid)
            }
        }
    }

    fn assign(&mut self, values: &[(&str, &Value)]) -> Result<(), Invalid> {
        let next = self;
        for (name, value) in values {
            match *name {
                "name" => next.name = text(name, value)?.unwrap_or_default(),
                "description" => next.description = text(name, value)?,
                "pipeline" => next.position.pipeline = parsed(name, value)?,
                "stage" => next.position.stage = parsed(name, value)?,
                "status" => next.position.status = parsed(name, value)?.unwrap_or_default(),
                "lost_reason" => next.position.lost_reason = text(name, value)?,
                "closed_at" => {
                    next.position.closed_at = match value {
                        Value::Time(at) => Some(*at),
                        Value::Null => None,
                        _ => return Err(Invalid::new(name, "is not a time")),
                    }
                }
                "expected_close_on" => {
                    next.position.expected_close_on = match value {
                        Value::Date(day) => Some(*day),
                        Value::Null => None,
                        _ => return Err(Invalid::new(name, "is not a day")),
                    }
                }
                "amount" | "currency" | "value_source" => {}
                "type" => next.opportunity_type = text(name, value)?.filter(|text| !text.trim().is_empty()),
                "owner" => next.owner = text(name, value)?,
                "contact" => next.contact = parsed(name, value)?,
                "source" => next.source = text(name, value)?,
                "deliberate" => {
                    next.deliberate = match value {
                        Value::Flag(flag) => *flag,
                        Value::Null => false,
                        _ => return Err(Invalid::new(name, "is neither true nor false")),
                    }
                }
                _ if field::custom(name).is_some() => {}
                _ => return Err(Invalid::new(name, "is not a field of an opportunity")),
            }
        }
        let given = |wanted: &str| values.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
        if let Some(amount) = given("amount") {
            let currency = next.get("currency");
            let value = money(amount, given("currency").unwrap_or(&currency))?;
            // Said by somebody from now on, though it is the same.
            if value != next.value || next.value_source == ValueSource::TypeDefault {
                (next.value, next.value_source) = (value, ValueSource::Manual);
            }
        }
        if let Some(source) = given("value_source") {
            next.value_source = match source.as_text() {
                Some("manual") => ValueSource::Manual,
                Some("plan") if next.value.is_some() => ValueSource::Plan,
                Some("plan") => return Err(Invalid::new("value_source", "plan needs a value: say what it costs")),
                _ => return Err(Invalid::new("value_source", "is said to be manual or plan, nothing else")),
            };
        }
        field::set_custom(&mut next.custom, values);
        Ok(())
    }
}

fn money(amount: &Value, currency: &Value) -> Result<Option<Money>, Invalid> {
    match (amount, currency) {
        (Value::Null, _) => Ok(None),
        (Value::Number(major), Value::Text(code)) => {
            let currency = Currency::new(code).map_err(|error| Invalid::new("currency", error.to_string()))?;
            Money::from_major(*major, currency).map(Some).map_err(|error| Invalid::new("amount", error.to_string()))
        }
        _ => Err(Invalid::new("amount", "needs a number and a currency")),
    }
}

fn parsed<T: FromStr>(name: &str, value: &Value) -> Result<Option<T>, Invalid> {
    match value {
        Value::Null => Ok(None),
        Value::Text(text) => text.parse().map(Some).map_err(|_| Invalid::new(name, "does not parse")),
        _ => Err(Invalid::new(name, "does not parse")),
    }
}
