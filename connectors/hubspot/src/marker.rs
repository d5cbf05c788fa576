//! Our own unique property, without which nothing is created.
//!
//! HubSpot has no idempotency key. A property with `hasUniqueValue` does the same work: a create that carries it can
//! be repeated, because the second one is refused. It can only be made unique when it is made, so an existing one
//! that is not unique is of no use and is said to be so.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;
use tandem_contract::{Call, ConnectorError, Kind};
use tokio::sync::Mutex;

use crate::{HubSpot, client::Ask, paths::plural, wire::Property};

/// Whether the property is known to be there, by kind.
#[derive(Default)]
pub struct Marker(Mutex<BTreeMap<Kind, ()>>);

/// Makes sure the marker property exists and is unique; makes it if it does not exist.
pub async fn ensure(hubspot: &HubSpot, call: Call, kind: Kind) -> Result<(), ConnectorError> {
    let mut ready = hubspot.marker.0.lock().await;
    if ready.contains_key(&kind) {
        return Ok(());
    }
    match look(hubspot, call, kind).await? {
        Some(property) if property.has_unique_value => {}
        Some(_) => return Err(not_unique(hubspot, kind)),
        None if hubspot.options.read_only => {
            return Err(ConnectorError::Forbidden("this connection only reads (direction = \"in\")".into()));
        }
        None => make(hubspot, call, kind).await?,
    }
    ready.insert(kind, ());
    Ok(())
}

/// HubSpot says that it does not have the property: it is looked for, and made, again before the next create.
pub async fn forget(hubspot: &HubSpot, kind: Kind) {
    hubspot.marker.0.lock().await.remove(&kind);
}

/// The marker property's definition, if it is there.
pub async fn look(hubspot: &HubSpot, call: Call, kind: Kind) -> Result<Option<Property>, ConnectorError> {
    let path = format!("{}/{}", hubspot.options.api_version.properties(kind), hubspot.options.marker_property);
    match hubspot.client.ask(Ask::get(&path, call.lane)).await {
        Ok(answer) => answer.json().map(Some),
        Err(ConnectorError::Gone) => Ok(None),
        Err(error) => Err(error),
    }
}

fn not_unique(hubspot: &HubSpot, kind: Kind) -> ConnectorError {
    ConnectorError::Forbidden(format!(
        "the property `{}` of {} exists but is not unique, and HubSpot cannot change that: rename it there or set \
         another `marker_property` here; until then nothing is created",
        hubspot.options.marker_property,
        plural(kind)
    ))
}

async fn make(hubspot: &HubSpot, call: Call, kind: Kind) -> Result<(), ConnectorError> {
    let name = &hubspot.options.marker_property;
    let path = hubspot.options.api_version.properties(kind);
    let group = if kind == Kind::Deal { "dealinformation" } else { "contactinformation" };
    let body = json!({
        "name": name, "label": "Tandem id", "type": "string", "fieldType": "text", "groupName": group,
        "description": "Written by Tandem on records it creates, so that none is created twice.",
        "hasUniqueValue": true, "hidden": false, "formField": false,
    });
    match hubspot.client.ask(Ask::post(&path, body, call.lane).writes(call)).await {
        // Somebody was faster, or an earlier answer was lost: the next look decides.
        Ok(_) | Err(ConnectorError::Conflict(_) | ConnectorError::OutcomeUnknown(_)) => {}
        Err(ConnectorError::Forbidden(why)) => {
            return Err(ConnectorError::Forbidden(format!(
                "the property `{name}` is missing and may not be made ({why}); reading works, creating does not"
            )));
        }
        Err(error) => return Err(error),
    }
    // A new property is usable after a moment (250 to 700 ms were seen).
    for _ in 0..10 {
        hubspot.client.clock.sleep(Duration::from_millis(500)).await;
        match look(hubspot, call, kind).await? {
            Some(property) if property.has_unique_value => return Ok(()),
            Some(_) => return Err(not_unique(hubspot, kind)),
            None => {}
        }
    }
    Err(ConnectorError::NotSent(format!("the property `{name}` was made but cannot be seen yet")))
}
