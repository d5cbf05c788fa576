//! Writing records: one call each, in order; one outcome per record.
//!
//! A create carries our marker in the same call that makes the record. Pipedrive would make a second one of the same
//! marker, so a create whose outcome is not known is repeated only after [`crate::records::find`] did not find it.

use std::collections::BTreeMap;

use http::Method;
use serde_json::value::RawValue;
use tandem_contract::{Call, ConnectorError, ExternalId, Kind, Pushed, Value, Version, Write, WriteOp};

use crate::{
    Pipedrive,
    client::{Api, Ask},
    fields::{self, plain},
    item::Item,
    marker, organizations, plural,
    records::{owner_of_email, version},
};

/// Properties that follow from others and cannot be written.
const READ_ONLY: [&str; 2] = ["first_name", "last_name"];
/// Ids of other things, which Pipedrive wants as numbers.
const IDS: [&str; 5] = ["person_id", "org_id", "owner_id", "pipeline_id", "stage_id"];

type Body = BTreeMap<String, Box<RawValue>>;

/// Writes everything, in order; never fails as a whole.
pub async fn push(pipedrive: &Pipedrive, call: Call, writes: &[Write]) -> Vec<Pushed> {
    let call = call.until(pipedrive.client.clock.elapsed() + pipedrive.patience());
    let mut outcomes = Vec::with_capacity(writes.len());
    let mut stopped: Option<ConnectorError> = None;
    for write in writes {
        let outcome = match &stopped {
            // What stops one stops all: the rest is not sent.
            Some(error) => Err(error.clone()),
            None => one(pipedrive, call, write).await,
        };
        if let Err(error @ (ConnectorError::RateLimited { .. } | ConnectorError::Unauthorized(_))) = &outcome {
            stopped = Some(error.clone());
        }
        outcomes.push(outcome.unwrap_or_else(Pushed::Failed));
    }
    outcomes
}

async fn one(pipedrive: &Pipedrive, call: Call, write: &Write) -> Result<Pushed, ConnectorError> {
    if pipedrive.options.read_only {
        return Err(ConnectorError::Forbidden("this connection only reads (direction = \"in\")".into()));
    }
    // Nor is anything read for what would come too late.
    call.in_time(&*pipedrive.client.clock)?;
    match &write.op {
        WriteOp::Create { marker, properties } => create(pipedrive, call, write.kind, marker, properties).await,
        WriteOp::Update { id, properties, planned_on, .. } => {
            update(pipedrive, call, write.kind, id, properties, planned_on).await
        }
        WriteOp::Archive { id } => {
            let path = format!("{}/{id}", plural(write.kind));
            let ask = Ask::change(Method::DELETE, Api::V2, path, 3, call);
            pipedrive.client.data::<Item>(ask).await?;
            Ok(Pushed::Written { id: id.clone(), properties: BTreeMap::new(), version: Version::default() })
        }
    }
}

/// What fails before the record's own call was sent left nothing behind.
fn unsent(error: ConnectorError) -> ConnectorError {
    match error {
        ConnectorError::Malformed { .. } | ConnectorError::OutcomeUnknown(_) => {
            ConnectorError::NotSent(error.to_string())
        }
        error => error,
    }
}

/// An answer without a record is an answer all the same.
fn done_unread(error: ConnectorError) -> ConnectorError {
    match error {
        ConnectorError::Malformed { path } => ConnectorError::OutcomeUnknown(format!("its answer lacks `{path}`")),
        error => error,
    }
}

/// A refusal of the organization's id is one of the property that named it.
fn in_our_words(error: ConnectorError, properties: &BTreeMap<String, Value>) -> ConnectorError {
    match error {
        ConnectorError::Rejected { field: Some(field), reason }
            if field == "org_id" && properties.contains_key(organizations::NAME) =>
        {
            ConnectorError::Rejected { field: Some(organizations::NAME.into()), reason }
        }
        error => error,
    }
}

async fn create(
    pipedrive: &Pipedrive,
    call: Call,
    kind: Kind,
    marker: &str,
    properties: &BTreeMap<String, Value>,
) -> Result<Pushed, ConnectorError> {
    let code = marker::ensure(pipedrive, call, kind).await.map_err(unsent)?;
    // Pipedrive makes a second person of one address without a word.
    if kind == Kind::Contact
        && let Some(email) = properties.get("email").and_then(Value::as_text).filter(|email| !email.trim().is_empty())
        && let Some(id) = owner_of_email(pipedrive, call, email).await.map_err(unsent)?
    {
        return Ok(Pushed::Exists { id, ours: false });
    }
    let mut body = body(pipedrive, call, kind, properties, &[], &[]).await?;
    let mut custom: Body =
        body.remove("custom_fields").and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default();
    custom.insert(code, plain(&Value::text(marker))?);
    body.insert("custom_fields".into(), object(&custom));
    let ask = Ask::change(Method::POST, Api::V2, plural(kind), 5, call).body(object(&body));
    let item = pipedrive.client.data::<Item>(ask).await.map_err(|error| match done_unread(error) {
        // Nothing can be missing of what is being made.
        ConnectorError::Gone => ConnectorError::NotSent("something in between answered 404".into()),
        error => in_our_words(error, properties),
    })?;
    written(pipedrive, call, kind, pipedrive.selected(kind), &item).await
}

async fn update(
    pipedrive: &Pipedrive,
    call: Call,
    kind: Kind,
    id: &ExternalId,
    properties: &BTreeMap<String, Value>,
    planned_on: &BTreeMap<String, Value>,
) -> Result<Pushed, ConnectorError> {
    let path = format!("{}/{id}", plural(kind));
    let (mut emails, mut phones) = (Vec::new(), Vec::new());
    if kind == Kind::Contact {
        // Persons have no changelog: what was written since the plan was made is seen now or never. And a list is written
        // whole: its other addresses stay as they are now.
        let now =
            pipedrive.client.data::<Item>(Ask::get(Api::V2, path.as_str(), 1, call.lane)).await.map_err(unsent)?;
        let book = pipedrive.book(call, kind).await.map_err(unsent)?;
        if planned_on.contains_key(organizations::NAME) {
            pipedrive.learn_organizations(call, kind, std::slice::from_ref(&now)).await.map_err(unsent)?;
        }
        let stands =
            pipedrive.properties(kind, planned_on.keys().map(String::as_str), &now, &now.item("custom_fields"), &book);
        let moved = |(name, was): (&String, &Value)| {
            stands.get(name).is_some_and(|now| now != was && !(now.is_blank() && was.is_blank()))
        };
        if planned_on.iter().any(moved) {
            return Err(ConnectorError::Stale);
        }
        (emails, phones) = (now.items("emails"), now.items("phones"));
    }
    let body = body(pipedrive, call, kind, properties, &emails, &phones).await?;
    if body.is_empty() {
        return Ok(Pushed::Written { id: id.clone(), properties: BTreeMap::new(), version: Version::default() });
    }
    let ask = Ask::change(Method::PATCH, Api::V2, path, 5, call).body(object(&body));
    let item =
        pipedrive.client.data::<Item>(ask).await.map_err(|error| in_our_words(done_unread(error), properties))?;
    written(pipedrive, call, kind, properties.keys().map(String::as_str), &item).await
}

/// What was stored: of an update what it named, of a create everything, since Pipedrive fills in what was not said.
async fn written(
    pipedrive: &Pipedrive,
    call: Call,
    kind: Kind,
    names: impl Iterator<Item = &str>,
    item: &Item,
) -> Result<Pushed, ConnectorError> {
    let unknown = |error: ConnectorError| ConnectorError::OutcomeUnknown(error.to_string());
    let book = pipedrive.book(call, kind).await.map_err(unknown)?;
    let properties = pipedrive.properties(kind, names, item, &item.item("custom_fields"), &book);
    Ok(Pushed::Written { id: item.id().map_err(unknown)?, properties, version: version(item) })
}

fn object(body: &Body) -> Box<RawValue> {
    serde_json::value::to_raw_value(body).unwrap_or_default()
}

/// The body of a write. `emails` and `phones` are the lists as they are now.
async fn body(
    pipedrive: &Pipedrive,
    call: Call,
    kind: Kind,
    properties: &BTreeMap<String, Value>,
    emails: &[Item],
    phones: &[Item],
) -> Result<Body, ConnectorError> {
    let (mut body, mut custom) = (Body::new(), Body::new());
    let status = properties.get("status").and_then(Value::as_text);
    for (name, value) in properties {
        if *value == Value::Absent || READ_ONLY.contains(&name.as_str()) {
            continue;
        }
        match name.as_str() {
            "email" => drop(body.insert("emails".into(), list(value, emails, "work")?)),
            "phone" => drop(body.insert("phones".into(), list(value, phones, "mobile")?)),
            // These go with one status only, and Pipedrive refuses them with another.
            "close_time" => {
                let key = match status {
                    Some("won") => "won_time",
                    Some("lost") => "lost_time",
                    _ => continue,
                };
                if !value.is_blank() {
                    body.insert(key.into(), plain(value)?);
                }
            }
            "lost_reason" if status != Some("lost") => {}
            organizations::NAME => {
                let id = match value.as_text() {
                    _ if value.is_blank() => Value::Null,
                    Some(name) => Value::text(&pipedrive.organization_called(call, name).await.map_err(unsent)?),
                    None => {
                        return Err(ConnectorError::Rejected {
                            field: Some(name.clone()),
                            reason: "an organization goes by its name, which is a text".into(),
                        });
                    }
                };
                body.insert("org_id".into(), reference("org_id", &id)?);
            }
            id if IDS.contains(&id) => drop(body.insert(id.into(), reference(id, value)?)),
            system if fields::system(kind).contains(&system) => {
                drop(body.insert(system.into(), named(system, plain(value))?));
            }
            own => {
                let book = pipedrive.book(call, kind).await.map_err(unsent)?;
                let field = book.get(own).ok_or_else(|| ConnectorError::Rejected {
                    field: Some(own.to_owned()),
                    reason: "Pipedrive has no field of this key, or not just one of this name".into(),
                })?;
                custom.insert(field.code.clone(), named(own, field.write(value))?);
            }
        }
    }
    if !custom.is_empty() {
        body.insert("custom_fields".into(), object(&custom));
    }
    Ok(body)
}

/// A refusal names the property.
fn named(name: &str, written: Result<Box<RawValue>, ConnectorError>) -> Result<Box<RawValue>, ConnectorError> {
    written.map_err(|error| match error {
        ConnectorError::Rejected { reason, .. } => ConnectorError::Rejected { field: Some(name.to_owned()), reason },
        error => error,
    })
}

/// The id of another thing, as a number; null for nothing.
fn reference(name: &str, value: &Value) -> Result<Box<RawValue>, ConnectorError> {
    let id = match value {
        Value::Refs(refs) => refs.first().cloned(),
        other => other.as_text().map(str::to_owned),
    };
    let is_number = |id: &String| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_digit());
    match id.filter(|id| !id.is_empty()) {
        None => plain(&Value::Null),
        Some(id) if is_number(&id) => Ok(RawValue::from_string(id).unwrap_or_default()),
        Some(_) => Err(ConnectorError::Rejected {
            field: Some(name.to_owned()),
            reason: "is not the id of anything at Pipedrive".into(),
        }),
    }
}

/// A person's addresses or numbers with the primary one replaced, and all others as they are.
fn list(value: &Value, now: &[Item], label: &str) -> Result<Box<RawValue>, ConnectorError> {
    let place = now.iter().position(|one| one.flag("primary")).unwrap_or(0);
    let mut entries: Vec<Body> = Vec::with_capacity(now.len() + 1);
    let members = ["value", "primary", "label"];
    for (index, one) in now.iter().enumerate() {
        let mut entry: Body = members
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), RawValue::from_string(one.raw(name)?.to_owned()).ok()?)))
            .collect();
        if index == place {
            if value.is_blank() {
                continue;
            }
            entry.insert("value".into(), plain(value)?);
        }
        entries.push(entry);
    }
    if now.is_empty() && !value.is_blank() {
        let entry =
            [("value", plain(value)?), ("primary", plain(&Value::Flag(true))?), ("label", plain(&Value::text(label))?)];
        entries.push(entry.map(|(name, raw)| (name.to_owned(), raw)).into());
    }
    Ok(serde_json::value::to_raw_value(&entries).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(json: &str) -> Vec<Item> {
        serde_json::from_str(json).unwrap_or_default()
    }

    #[test]
    fn the_primary_address_is_replaced_and_the_others_stay() {
        let now = items(
            r#"[{"value":"old@example.com","primary":false,"label":"home"},{"value":"ana@example.com","primary":true,"label":"work"}]"#,
        );
        let next = list(&Value::text("new@example.com"), &now, "work").expect("a list");
        let next = items(next.get());
        let said: Vec<_> = next.iter().map(|one| (one.text("value"), one.flag("primary"), one.text("label"))).collect();
        let want = |value: &str, primary, label: &str| (Some(value.to_owned()), primary, Some(label.to_owned()));
        assert_eq!(said, [want("old@example.com", false, "home"), want("new@example.com", true, "work")]);
        assert_eq!(items(list(&Value::Null, &now, "work").expect("a list").get()).len(), 1);
    }

    #[test]
    fn ids_go_as_numbers_and_nothing_else_does() {
        assert_eq!(reference("person_id", &Value::Refs(vec!["501".into()])).expect("an id").get(), "501");
        assert_eq!(reference("person_id", &Value::Refs(Vec::new())).expect("nothing").get(), "null");
        assert!(reference("owner_id", &Value::text("1e5")).is_err());
    }
}
