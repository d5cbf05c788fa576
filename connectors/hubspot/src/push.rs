//! Writing records: create, update, archive, a batch at a time, one outcome per record.
//!
//! Creates use `batch/create`, not upsert: a create that lands late is refused because of the marker, where a late
//! upsert would undo what a person typed meanwhile. With a trace id on every input HubSpot answers 207 and each
//! failure names its input; a batch that is refused as a whole is halved until the culprit stands alone.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};
use tandem_contract::{
    Call, ConnectorError, Kind, Pushed, Value, Write, WriteOp,
    planted::{self, Bug},
};

use crate::{
    CONTACTS, HubSpot, associations,
    client::{Ask, rejection},
    marker,
    records::{BATCH, external_id, version},
    values,
    wire::{List, Object},
};

/// The link type "deal to contact". Source: associations guide, table of type ids.
const DEAL_TO_CONTACT: u32 = 3;

/// Writes everything, in order; never fails as a whole.
pub async fn push(hubspot: &HubSpot, call: Call, writes: &[Write]) -> Vec<Pushed> {
    let mut outcomes: BTreeMap<usize, Pushed> = BTreeMap::new();
    let call = call.until(hubspot.client.clock.elapsed() + hubspot.patience());
    let mut groups: BTreeMap<(Kind, u8), Vec<usize>> = BTreeMap::new();
    for (index, write) in writes.iter().enumerate() {
        let rank = match write.op {
            WriteOp::Create { .. } => 0,
            WriteOp::Update { .. } => 1,
            WriteOp::Archive { .. } => 2,
        };
        groups.entry((write.kind, rank)).or_default().push(index);
    }
    for ((kind, rank), indexes) in groups {
        for chunk in indexes.chunks(BATCH) {
            let batch = Batch { hubspot, call, kind, writes, verb: ["create", "update", "archive"][usize::from(rank)] };
            if hubspot.options.read_only {
                let why = "this connection only reads (direction = \"in\")".into();
                batch.fail_all(chunk, ConnectorError::Forbidden(why), &mut outcomes);
                continue;
            }
            if rank == 0
                && let Err(error) = marker::ensure(hubspot, call, kind).await
            {
                // Nothing was written yet, whatever went wrong with the look.
                let error = match error {
                    ConnectorError::Malformed { .. } | ConnectorError::OutcomeUnknown(_) => {
                        ConnectorError::NotSent(error.to_string())
                    }
                    error => error,
                };
                batch.fail_all(chunk, error, &mut outcomes);
                continue;
            }
            let (bare, full): (Vec<usize>, Vec<usize>) = chunk.iter().partition(|index| only_links(&writes[**index]));
            for index in bare {
                // HubSpot refuses an update without properties; the links are made below.
                outcomes.insert(index, batch.nothing_to_send(index));
            }
            batch.send(full, &mut outcomes).await;
            batch.name_owners(chunk, &mut outcomes).await;
            batch.without_marker(chunk, &mut outcomes).await;
            if rank == 1 {
                batch.associate(chunk, &mut outcomes).await;
            }
        }
    }
    (0..writes.len())
        .map(|index| {
            outcomes.remove(&index).unwrap_or_else(|| {
                Pushed::Failed(ConnectorError::OutcomeUnknown(
                    "HubSpot's answer names neither success nor failure".into(),
                ))
            })
        })
        .collect()
}

struct Batch<'a> {
    hubspot: &'a HubSpot,
    call: Call,
    kind: Kind,
    writes: &'a [Write],
    verb: &'static str,
}

impl Batch<'_> {
    fn nothing_to_send(&self, index: usize) -> Pushed {
        match target(&self.writes[index]).map(external_id) {
            Some(Ok(id)) => {
                Pushed::Written { id, properties: BTreeMap::new(), version: tandem_contract::Version::default() }
            }
            _ => Pushed::Failed(ConnectorError::Gone),
        }
    }

    /// Sends one batch; a batch refused as a whole is sent again in halves.
    async fn send(&self, all: Vec<usize>, outcomes: &mut BTreeMap<usize, Pushed>) {
        let mut waiting = vec![all];
        while let Some(chunk) = waiting.pop() {
            if chunk.is_empty() {
                continue;
            }
            match self.try_send(&chunk).await {
                Ok(list) => self.settle(&chunk, list, outcomes),
                Err(ConnectorError::Rejected { .. } | ConnectorError::Conflict(_) | ConnectorError::Gone)
                    if chunk.len() > 1 =>
                {
                    let (left, right) = chunk.split_at(chunk.len() / 2);
                    waiting.push(right.to_vec());
                    waiting.push(left.to_vec());
                }
                Err(error) => self.fail_all(&chunk, error, outcomes),
            }
        }
    }

    async fn try_send(&self, chunk: &[usize]) -> Result<List<Object>, ConnectorError> {
        let path = format!("{}/batch/{}", self.hubspot.options.api_version.objects(self.kind), self.verb);
        let inputs: Vec<Json> = chunk.iter().map(|index| self.input(&self.writes[*index])).collect();
        let ask = Ask::post(&path, json!({ "inputs": inputs }), self.call.lane).writes(self.call);
        let answer = self.hubspot.client.ask(ask).await?;
        if answer.body.is_empty() {
            return Ok(List { results: Vec::new(), errors: Vec::new(), paging: None, total: None });
        }
        // The write happened; an answer that cannot be read leaves its outcome unknown.
        answer.json().map_err(|error| ConnectorError::OutcomeUnknown(error.to_string()))
    }

    fn input(&self, write: &Write) -> Json {
        match &write.op {
            WriteOp::Create { marker, properties } => {
                let mut body = wire_properties(properties);
                body.insert(self.hubspot.options.marker_property.clone(), marker.clone().into());
                let links: Vec<Json> = refs(properties.get(CONTACTS))
                    .iter()
                    .map(|id| {
                        json!({ "to": { "id": id }, "types": [{
                            "associationCategory": "HUBSPOT_DEFINED", "associationTypeId": DEAL_TO_CONTACT,
                        }] })
                    })
                    .collect();
                json!({ "objectWriteTraceId": write.trace, "properties": body, "associations": links })
            }
            WriteOp::Update { id, properties, .. } => {
                json!({ "id": id.as_str(), "objectWriteTraceId": write.trace, "properties": wire_properties(properties) })
            }
            WriteOp::Archive { id } => json!({ "id": id.as_str() }),
        }
    }

    /// Matches each result and each error to its write.
    fn settle(&self, chunk: &[usize], list: List<Object>, outcomes: &mut BTreeMap<usize, Pushed>) {
        let by_trace: BTreeMap<&str, usize> =
            chunk.iter().map(|index| (self.writes[*index].trace.as_str(), *index)).collect();
        let by_id: BTreeMap<&str, usize> =
            chunk.iter().filter_map(|index| Some((target(&self.writes[*index])?, *index))).collect();
        for object in list.results {
            let index = object.object_write_trace_id.as_deref().and_then(|trace| by_trace.get(trace)).copied();
            let index = index.or_else(|| by_id.get(object.id.as_deref()?).copied());
            if let Some(index) = index {
                outcomes.insert(index, self.written(&self.writes[index], object));
            }
        }
        for error in list.errors {
            let named: Vec<usize> = error
                .context("objectWriteTraceId")
                .filter_map(|trace| by_trace.get(trace))
                .chain(error.context("ids").filter_map(|id| by_id.get(id)))
                .copied()
                .collect();
            for index in named {
                let refused = rejection(&error, http::StatusCode::BAD_REQUEST);
                if planted::has(Bug::PartialFailureIsSuccess) && target(&self.writes[index]).is_some() {
                    outcomes.insert(index, self.nothing_to_send(index));
                }
                outcomes.entry(index).or_insert_with(|| self.refused(index, &refused));
            }
        }
        for index in chunk {
            match self.writes[*index].op {
                // An id that was merged away drops out of the answer without a word, and so may one that was written.
                WriteOp::Update { .. } if planted::has(Bug::MissingIsDone) => {
                    let done = self.nothing_to_send(*index);
                    outcomes.entry(*index).or_insert(done);
                }
                WriteOp::Update { .. } => {}
                WriteOp::Archive { ref id } => {
                    outcomes.entry(*index).or_insert_with(|| Pushed::Written {
                        id: id.clone(),
                        properties: BTreeMap::new(),
                        version: tandem_contract::Version::default(),
                    });
                }
                WriteOp::Create { .. } => {}
            }
        }
    }

    fn written(&self, write: &Write, object: Object) -> Pushed {
        let asked = match &write.op {
            WriteOp::Create { properties, .. } | WriteOp::Update { properties, .. } => properties,
            WriteOp::Archive { .. } => &BTreeMap::new(),
        };
        let types = self.hubspot.options.select.get(&self.kind);
        let mut properties: BTreeMap<String, Value> = BTreeMap::new();
        for name in asked.keys() {
            if let (Some(loose), Some(kind)) = (object.properties.get(name), types.and_then(|types| types.get(name))) {
                properties.insert(name.clone(), values::read(*kind, loose.0.as_deref()));
            }
        }
        if matches!(write.op, WriteOp::Create { .. })
            && let Some(links) = asked.get(CONTACTS)
        {
            properties.insert(CONTACTS.into(), links.clone());
        }
        match external_id(object.id.as_deref().unwrap_or_default()) {
            Ok(id) => Pushed::Written { id, properties, version: version(&object, self.kind) },
            Err(_) => Pushed::Failed(ConnectorError::OutcomeUnknown("HubSpot's answer names no id".into())),
        }
    }

    /// Creates that were refused for want of our property: it was put away, or is not usable everywhere yet. They are
    /// not wrong, only early.
    async fn without_marker(&self, chunk: &[usize], outcomes: &mut BTreeMap<usize, Pushed>) {
        let marker = &self.hubspot.options.marker_property;
        let mut missing = false;
        for index in chunk {
            if let Some(Pushed::Failed(ConnectorError::Rejected { field: Some(field), reason })) = outcomes.get(index)
                && field == marker
                && reason == "PROPERTY_DOESNT_EXIST"
            {
                missing = true;
                let why = format!("HubSpot does not know the property `{marker}` at this moment");
                outcomes.insert(*index, Pushed::Failed(ConnectorError::NotSent(why)));
            }
        }
        if missing {
            marker::forget(self.hubspot, self.kind).await;
        }
    }

    /// A clash over an e-mail address does not always name the contact that has it: then it is looked up.
    async fn name_owners(&self, chunk: &[usize], outcomes: &mut BTreeMap<usize, Pushed>) {
        for index in chunk {
            let (Some(Pushed::Failed(ConnectorError::Conflict(_))), Kind::Contact) = (outcomes.get(index), self.kind)
            else {
                continue;
            };
            let (WriteOp::Create { properties, .. } | WriteOp::Update { properties, .. }) = &self.writes[*index].op
            else {
                continue;
            };
            let Some(email) = properties.get("email").and_then(Value::as_text) else { continue };
            // A failed look leaves the clash as it is.
            if let Ok(Some(id)) = crate::records::owner_of_email(self.hubspot, self.call, email).await {
                let clash = ConnectorError::Conflict(format!("record {id} already holds the same value of email"));
                outcomes.insert(*index, self.refused(*index, &clash));
            }
        }
    }

    /// The second half of an update: contacts that were added to or taken from a deal.
    async fn associate(&self, chunk: &[usize], outcomes: &mut BTreeMap<usize, Pushed>) {
        let (mut add, mut remove, mut touched) = (Vec::new(), Vec::new(), Vec::new());
        for index in chunk {
            let WriteOp::Update { id, properties, planned_on, .. } = &self.writes[*index].op else { continue };
            let (Some(want), Some(Pushed::Written { .. })) = (properties.get(CONTACTS), outcomes.get(index)) else {
                continue;
            };
            let (want, had) = (refs(Some(want)), refs(planned_on.get(CONTACTS)));
            add.extend(want.iter().filter(|to| !had.contains(to)).map(|to| (id.to_string(), to.clone())));
            remove.extend(had.iter().filter(|to| !want.contains(to)).map(|to| (id.to_string(), to.clone())));
            touched.push((*index, want));
        }
        if touched.is_empty() {
            return;
        }
        let mut done = self.relink(&add, &remove, &touched).await;
        if let (Err(ConnectorError::Rejected { .. } | ConnectorError::Conflict(_) | ConnectorError::Gone), true) =
            (&done, touched.len() > 1)
        {
            // One of them is refused, and all with it: each by itself.
            for (index, _) in &touched {
                Box::pin(self.associate(&[*index], outcomes)).await;
            }
            return;
        }
        if let Err(error @ (ConnectorError::Rejected { .. } | ConnectorError::Conflict(_))) = &done {
            let refused = ConnectorError::Rejected { field: Some(CONTACTS.into()), reason: error.to_string() };
            for (index, _) in &touched {
                outcomes.insert(*index, Pushed::Failed(refused.clone()));
            }
            done = Ok(BTreeMap::new());
        }
        for (index, _) in touched {
            match &done {
                Ok(stored) => {
                    if let (Some(Pushed::Written { properties, .. }), Some(refs)) =
                        (outcomes.get_mut(&index), stored.get(&index))
                    {
                        properties.insert(CONTACTS.into(), Value::Refs(refs.clone()));
                    }
                }
                // The properties were written and the contacts perhaps not: read again.
                Err(error) => {
                    let why = format!("linking the contacts: {error}");
                    outcomes.insert(index, Pushed::Failed(ConnectorError::OutcomeUnknown(why)));
                }
            }
        }
    }

    /// Links and unlinks; answers what is stored, which is read back where HubSpot refused some of it.
    async fn relink(
        &self,
        add: &[(String, String)],
        remove: &[(String, String)],
        touched: &[(usize, Vec<String>)],
    ) -> Result<BTreeMap<usize, Vec<String>>, ConnectorError> {
        let mut all = true;
        if !add.is_empty() {
            all &= associations::link(self.hubspot, self.call, add).await?;
        }
        if all && !remove.is_empty() {
            all &= associations::unlink(self.hubspot, self.call, remove).await?;
        }
        if all {
            return Ok(touched.iter().cloned().collect());
        }
        let deal = |index: usize| target(&self.writes[index]).unwrap_or_default().to_owned();
        let deals: Vec<String> = touched.iter().map(|(index, _)| deal(*index)).collect();
        let there = associations::read(self.hubspot, self.call, &deals).await?;
        let mut stored = BTreeMap::new();
        for (index, _) in touched {
            let refs = there
                .get(&deal(*index))
                .ok_or_else(|| ConnectorError::NotSent("they could not be read back".into()))?;
            stored.insert(*index, refs.clone());
        }
        Ok(stored)
    }

    /// What a refusal means for one write. A clash stands in the way of a create; of an update it refuses one value.
    fn refused(&self, index: usize, error: &ConnectorError) -> Pushed {
        match (&self.writes[index].op, error) {
            (WriteOp::Update { .. }, ConnectorError::Conflict(text)) => match text.rsplit_once(" value of ") {
                Some((_, property)) => {
                    Pushed::Failed(ConnectorError::Rejected { field: Some(property.into()), reason: text.clone() })
                }
                None => Pushed::Failed(error.clone()),
            },
            _ => clash(error, &self.hubspot.options.marker_property),
        }
    }

    fn fail_all(&self, chunk: &[usize], error: ConnectorError, outcomes: &mut BTreeMap<usize, Pushed>) {
        for index in chunk {
            outcomes.insert(*index, self.refused(*index, &error));
        }
    }
}

/// A clash names the record that stands in the way; one over our marker is a record that we made.
fn clash(error: &ConnectorError, marker: &str) -> Pushed {
    let ConnectorError::Conflict(text) = error else { return Pushed::Failed(error.clone()) };
    let id = text.split_whitespace().find(|word| word.chars().all(|c| c.is_ascii_digit()));
    match id.and_then(|id| external_id(id).ok()) {
        Some(id) => Pushed::Exists { id, ours: text.ends_with(&format!(" {marker}")) },
        None => Pushed::Failed(error.clone()),
    }
}

/// True for an update of which all is in the contacts.
fn only_links(write: &Write) -> bool {
    matches!(&write.op, WriteOp::Update { properties, .. } if wire_properties(properties).is_empty())
}

fn target(write: &Write) -> Option<&str> {
    match &write.op {
        WriteOp::Create { .. } => None,
        WriteOp::Update { id, .. } | WriteOp::Archive { id } => Some(id.as_str()),
    }
}

fn wire_properties(properties: &BTreeMap<String, Value>) -> Map<String, Json> {
    properties
        .iter()
        .filter(|(name, value)| *name != CONTACTS && **value != Value::Absent)
        .map(|(name, value)| (name.clone(), values::write(value).into()))
        .collect()
}

fn refs(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::Refs(refs)) => refs.clone(),
        _ => Vec::new(),
    }
}
