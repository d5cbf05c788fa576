//! Finding out about the account: who it is, which rights we have, its pipelines, owners and properties.

use std::collections::BTreeMap;

use tandem_contract::{
    Call, CheckItem, ConnectorError, Identity, Kind, Lane, OwnerInfo, PipelineInfo, PropertyInfo, PropertyType, Schema,
    StageInfo,
};

use crate::{
    CONTACTS, HubSpot,
    client::Ask,
    marker,
    paths::plural,
    wire::{Account, List, Object, Owner, Pipeline, Property},
};

const CALL: Call = Call::on(Lane::Interactive);

/// Who are we, may we read and write, is the clock right?
pub async fn check(hubspot: &HubSpot) -> Result<Identity, ConnectorError> {
    let path = hubspot.options.api_version.account();
    let account = match hubspot.client.ask(Ask::get(&path, CALL.lane)).await {
        Ok(answer) => answer.json()?,
        // A server of HubSpot's shape that tells nothing of itself is known by its address.
        Err(ConnectorError::Gone | ConnectorError::Forbidden(_)) => Account {
            portal_id: Some(hubspot.options.base_url.authority().to_owned()),
            time_zone: None,
            company_currency: None,
            additional_currencies: Vec::new(),
        },
        Err(error) => return Err(error),
    };
    if let Some(zone) = &account.time_zone {
        hubspot.client.set_timezone(zone);
    }
    let portal = account.portal_id.ok_or_else(|| ConnectorError::Malformed { path: "portalId".into() })?;
    let mut items = vec![CheckItem {
        name: "access token".into(),
        ok: true,
        detail: format!("accepted; HubSpot account {portal}"),
    }];
    for kind in hubspot.options.select.keys().copied() {
        items.push(may_read(hubspot, kind).await?);
        items.push(marker_item(hubspot, kind).await?);
        items.extend(mapped_properties(hubspot, kind).await?);
    }
    let offset = hubspot.client.offset();
    items.push(CheckItem {
        name: "clock".into(),
        ok: offset.num_seconds().abs() < 30,
        detail: match offset.num_seconds() {
            0 => "agrees with HubSpot's".into(),
            seconds => {
                format!("HubSpot's clock is {seconds} s from ours; it is allowed for, but set this machine's clock")
            }
        },
    });
    items.push(CheckItem {
        name: "webhooks".into(),
        ok: hubspot.options.client_secret.is_some(),
        detail: if hubspot.options.client_secret.is_some() {
            "a client secret is configured; deliveries will be verified".into()
        } else {
            "no client_secret: webhooks are refused and changes arrive by polling only".into()
        },
    });
    let mut currencies = account.additional_currencies;
    currencies.extend(account.company_currency.clone());
    Ok(Identity {
        remote_account: portal,
        timezone: account.time_zone,
        currency: account.company_currency,
        currencies,
        clock_offset: offset,
        items,
    })
}

async fn may_read(hubspot: &HubSpot, kind: Kind) -> Result<CheckItem, ConnectorError> {
    let path = hubspot.options.api_version.objects(kind);
    let name = format!("read {}", plural(kind));
    match hubspot.client.ask(Ask::get(&path, CALL.lane).query("limit", "1")).await {
        Ok(answer) => {
            answer.json::<List<Object>>()?;
            Ok(CheckItem { name, ok: true, detail: "allowed".into() })
        }
        Err(ConnectorError::Forbidden(why)) => Ok(CheckItem { name, ok: false, detail: why }),
        Err(error) => Err(error),
    }
}

async fn marker_item(hubspot: &HubSpot, kind: Kind) -> Result<CheckItem, ConnectorError> {
    let (name, property) = (format!("create {}", plural(kind)), &hubspot.options.marker_property);
    if hubspot.options.read_only {
        return Ok(CheckItem { name, ok: true, detail: "not needed: this connection only reads".into() });
    }
    match marker::look(hubspot, CALL, kind).await {
        Ok(Some(found)) if found.has_unique_value => {
            Ok(CheckItem { name, ok: true, detail: format!("the unique property `{property}` is there") })
        }
        Ok(Some(_)) => Ok(CheckItem {
            name,
            ok: false,
            detail: format!("the property `{property}` exists but is not unique; set another `marker_property`"),
        }),
        Ok(None) => Ok(CheckItem {
            name,
            ok: true,
            detail: format!("the property `{property}` will be made before the first create"),
        }),
        Err(ConnectorError::Forbidden(why)) => Ok(CheckItem { name, ok: false, detail: why }),
        Err(error) => Err(error),
    }
}

async fn mapped_properties(hubspot: &HubSpot, kind: Kind) -> Result<Vec<CheckItem>, ConnectorError> {
    let known = hubspot.properties(CALL, kind).await?;
    let mapped = hubspot.options.select.get(&kind).into_iter().flatten().map(|(name, _)| name);
    Ok(mapped
        .filter(|name| *name != CONTACTS && !known.contains_key(*name))
        .map(|name| CheckItem {
            name: format!("property {name} of {}", plural(kind)),
            ok: false,
            detail:
                "is mapped but HubSpot does not have it: restore it there or take it out of the mapping; nothing is \
                     cleared meanwhile"
                    .into(),
        })
        .collect())
}

/// Pipelines, owners and properties.
pub async fn discover(hubspot: &HubSpot) -> Result<Schema, ConnectorError> {
    let version = &hubspot.options.api_version;
    let path = version.pipelines();
    let pipelines: List<Pipeline> = hubspot.client.ask(Ask::get(&path, CALL.lane)).await?.json()?;
    let mut schema =
        Schema { pipelines: in_order(pipelines.results)?, owners: owners(hubspot).await?, ..Schema::default() };
    for kind in hubspot.options.select.keys() {
        schema.properties.insert(*kind, hubspot.properties(CALL, *kind).await?);
    }
    Ok(schema)
}

fn in_order(mut pipelines: Vec<Pipeline>) -> Result<Vec<PipelineInfo>, ConnectorError> {
    pipelines.retain(|pipeline| !pipeline.archived);
    pipelines.sort_by_key(|pipeline| pipeline.display_order);
    pipelines
        .into_iter()
        .map(|mut pipeline| {
            pipeline.stages.retain(|stage| !stage.archived);
            pipeline.stages.sort_by_key(|stage| stage.display_order);
            let stages = pipeline.stages.into_iter().map(|stage| {
                let text = |key: &str| stage.metadata.get(key).and_then(|loose| loose.0.as_deref());
                // Won and lost are told by this, never by the stage's id. Source: "Pipelines" guide.
                let probability: f64 = text("probability")
                    .unwrap_or("0.5")
                    .parse()
                    .map_err(|_| ConnectorError::Malformed { path: "stages.metadata.probability".into() })?;
                let probability = (probability.clamp(0.0, 1.0) * 100.0).round() as u8;
                let closed = text("isClosed").map_or(probability == 0 || probability == 100, |flag| flag == "true");
                Ok(StageInfo { id: stage.id.clone(), label: stage.label.clone(), probability, closed })
            });
            Ok(PipelineInfo {
                id: pipeline.id,
                label: pipeline.label,
                stages: stages.collect::<Result<_, ConnectorError>>()?,
            })
        })
        .collect()
}

async fn owners(hubspot: &HubSpot) -> Result<Vec<OwnerInfo>, ConnectorError> {
    let path = hubspot.options.api_version.owners();
    let mut owners = Vec::new();
    for archived in ["false", "true"] {
        let mut after: Option<String> = None;
        loop {
            let mut ask = Ask::get(&path, CALL.lane).query("limit", "100").query("archived", archived);
            if let Some(after) = &after {
                ask = ask.query("after", after.as_str());
            }
            let page: List<Owner> = match hubspot.client.ask(ask).await {
                Ok(answer) => answer.json()?,
                // Without the owners' scope their ids are kept as they are.
                Err(ConnectorError::Forbidden(_) | ConnectorError::Gone) => return Ok(owners),
                Err(error) => return Err(error),
            };
            after = page.after();
            owners.extend(page.results.into_iter().map(|owner| OwnerInfo {
                name: [owner.first_name, owner.last_name].into_iter().flatten().collect::<Vec<_>>().join(" "),
                email: owner.email.map(|email| email.trim().to_lowercase()).filter(|email| !email.is_empty()),
                archived: owner.archived,
                id: owner.id,
            }));
            if after.is_none() {
                break;
            }
        }
    }
    Ok(owners)
}

impl HubSpot {
    /// The definitions of a kind's properties, by name.
    pub(crate) async fn properties(
        &self,
        call: Call,
        kind: Kind,
    ) -> Result<BTreeMap<String, PropertyInfo>, ConnectorError> {
        let path = self.options.api_version.properties(kind);
        let list: List<Property> = self.client.ask(Ask::get(&path, call.lane)).await?.json()?;
        Ok(list
            .results
            .into_iter()
            .map(|property| {
                let kind = match (property.kind.as_str(), property.field_type.as_str()) {
                    ("number", _) => PropertyType::Number,
                    ("bool", _) => PropertyType::Flag,
                    ("date", _) => PropertyType::Date,
                    ("datetime", _) => PropertyType::Time,
                    ("enumeration", "checkbox") => PropertyType::Choices,
                    _ => PropertyType::Text,
                };
                let read_only =
                    property.calculated || property.modification_metadata.is_some_and(|m| m.read_only_value);
                (
                    property.name,
                    PropertyInfo { label: property.label, kind, read_only, unique: property.has_unique_value },
                )
            })
            .collect())
    }
}
