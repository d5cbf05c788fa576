//! Writing customers, in bulk; one outcome per record. A bulk that is refused as a whole is halved until the culprit stands alone.
//!
//! A create carries our marker as its `reference_id`, and an idempotency key made of all that it says: sent again as it was,
//! it answers the customer that the first one made, whatever searches show by then. An update names the version that it was planned on.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Map, Value as Json, json};
use sha2::{Digest, Sha256};
use tandem_contract::{
    Call, ConnectorError, Pushed, Value, Version, Write, WriteOp,
    planted::{self, Bug},
};

use crate::{
    Square,
    client::{Ask, understood},
    customers::{Bulk, One, PAGE, with},
};

type Outcome = Result<Pushed, ConnectorError>;

/// Writes everything; never fails as a whole.
pub async fn push(square: &Square, call: Call, writes: &[Write]) -> Vec<Pushed> {
    let began = square.client.clock.elapsed();
    let call = call.until(began + square.patience());
    // What was looked for by half of it is made; the rest has its turn with the next batch.
    let looking = call.until(began + square.patience() / 2);
    let mut outcomes: Vec<Option<Outcome>> = writes.iter().map(|_| None).collect();
    let (mut creates, mut updates) = (BTreeMap::new(), BTreeMap::new());
    let mut stopped: Option<ConnectorError> = None;
    for (index, write) in writes.iter().enumerate() {
        if square.options.read_only {
            let why = "this connection only reads (direction = \"in\")".into();
            outcomes[index] = Some(Err(ConnectorError::Forbidden(why)));
            continue;
        }
        match &write.op {
            WriteOp::Create { marker, properties } => {
                let known = match (&stopped, looking.in_time(&*square.client.clock)) {
                    (Some(error), _) => Err(error.clone()),
                    (None, Err(late)) => Err(late),
                    (None, Ok(())) => already_there(square, call, marker, properties).await,
                };
                match known {
                    Ok(None) => {
                        let body = body(properties, Some(marker));
                        let mut key = key_of(&body);
                        if planted::has(Bug::KeyPerTry) {
                            key = format!("{}-{}", &key[..20], square.client.clock.elapsed().as_millis());
                        }
                        creates.insert(key, (index, body));
                    }
                    Ok(Some(known)) => outcomes[index] = Some(Ok(known)),
                    Err(error) => {
                        stopped = stops(&error).or(stopped);
                        outcomes[index] = Some(Err(error));
                    }
                }
            }
            WriteOp::Update { id, properties, expected, .. } => {
                let mut body = body(properties, None);
                let version = expected.token.as_deref().and_then(|token| token.parse::<i64>().ok());
                if let Some(version) = version.filter(|_| !planted::has(Bug::NoCompareAndSwap)) {
                    body["version"] = version.into();
                }
                updates.insert(id.to_string(), (index, body));
            }
            WriteOp::Archive { id } => {
                let ask = Ask::change(Method::DELETE, format!("customers/{id}"), call, None);
                let done = square.client.ask::<Json>(&ask).await;
                let gone = Pushed::Written { id: id.clone(), properties: BTreeMap::new(), version: Version::default() };
                outcomes[index] = Some(done.map(|_| gone));
            }
        }
    }
    for (path, writes) in [("customers/bulk-create", creates), ("customers/bulk-update", updates)] {
        let writes: Vec<(String, (usize, Json))> = writes.into_iter().collect();
        let mut waiting: Vec<&[(String, (usize, Json))]> = writes.chunks(PAGE).rev().collect();
        while let Some(some) = waiting.pop() {
            let answer = match &stopped {
                // What stops one stops all: the rest is not sent.
                Some(error) => Err(error.clone()),
                None => bulk(square, call, path, some).await,
            };
            // Refused as a whole, it is sent again in halves, until the culprit stands alone.
            if matches!(answer, Err(ConnectorError::Rejected { .. })) && some.len() > 1 {
                let (left, right) = some.split_at(some.len() / 2);
                waiting.extend([right, left]);
                continue;
            }
            if let Err(error) = &answer {
                stopped = stops(error).or(stopped);
            }
            for (key, (index, _)) in some {
                outcomes[*index] = Some(match &answer {
                    Ok(bulk) => outcome(square, bulk.responses.get(key)),
                    Err(error) => Err(error.clone()),
                });
            }
        }
    }
    let missed = || ConnectorError::NotSent("it was left out".into());
    outcomes.into_iter().map(|one| one.unwrap_or_else(|| Err(missed())).unwrap_or_else(Pushed::Failed)).collect()
}

fn stops(error: &ConnectorError) -> Option<ConnectorError> {
    matches!(error, ConnectorError::RateLimited { .. } | ConnectorError::Unauthorized(_)).then(|| error.clone())
}

/// Square makes a second customer of one address without a word: one that is there is linked instead.
async fn already_there(
    square: &Square,
    call: Call,
    marker: &str,
    properties: &BTreeMap<String, Value>,
) -> Result<Option<Pushed>, ConnectorError> {
    let email = properties.get("email_address").and_then(Value::as_text).filter(|email| !email.trim().is_empty());
    let Some(email) = email else { return Ok(None) };
    let unsent = |error| match error {
        error @ (ConnectorError::RateLimited { .. }
        | ConnectorError::Unauthorized(_)
        | ConnectorError::Forbidden(_)) => error,
        error => ConnectorError::NotSent(error.to_string()),
    };
    let known = with(square, call, "email_address", email).await.map_err(unsent)?;
    let ours = known.iter().find(|customer| customer.text("reference_id") == Some(marker));
    let found = ours.or(known.first());
    found.map(|customer| Ok(Pushed::Exists { id: customer.id()?, ours: ours.is_some() })).transpose()
}

fn body(properties: &BTreeMap<String, Value>, marker: Option<&str>) -> Json {
    let mut body = Map::new();
    for (name, value) in properties {
        let json = match value {
            Value::Absent => continue,
            Value::Null if marker.is_some() => continue,
            Value::Null => Json::Null,
            Value::Flag(flag) => (*flag).into(),
            other => other.to_string().into(),
        };
        body.insert(name.clone(), json);
    }
    if let Some(marker) = marker {
        body.insert("reference_id".into(), marker.into());
    }
    body.into()
}

/// The key of a create: the same for the same marker and values.
pub fn key_of(body: &Json) -> String {
    Sha256::digest(body.to_string().as_bytes()).iter().take(20).map(|byte| format!("{byte:02x}")).collect()
}

async fn bulk(
    square: &Square,
    call: Call,
    path: &str,
    writes: &[(String, (usize, Json))],
) -> Result<Bulk, ConnectorError> {
    let customers: Map<String, Json> = writes.iter().map(|(key, (_, body))| (key.clone(), body.clone())).collect();
    let ask = Ask::change(Method::POST, path, call, Some(json!({ "customers": customers })));
    let bulk: Bulk = square.client.ask(&ask).await?;
    match bulk.errors.first() {
        // Nothing of it was begun.
        Some(fault) if bulk.responses.is_empty() => Err(understood(fault, 400)),
        _ => Ok(bulk),
    }
}

fn outcome(square: &Square, one: Option<&One>) -> Outcome {
    // In neither the good nor the bad: it may have happened.
    let Some(one) = one else { return Err(ConnectorError::OutcomeUnknown("it is missing in the answer".into())) };
    match (&one.customer, one.errors.first()) {
        (Some(customer), _) => {
            let record = square.record(customer).map_err(|error| ConnectorError::OutcomeUnknown(error.to_string()))?;
            Ok(Pushed::Written { id: record.id, properties: record.properties, version: record.version })
        }
        (None, Some(fault)) => Err(understood(fault, 400)),
        (None, None) => Err(ConnectorError::OutcomeUnknown("its answer is empty".into())),
    }
}
