//! Finding out about the company: who it is, which rights we have, its pipelines, people and fields.

use std::{collections::BTreeMap, sync::PoisonError};

use tandem_contract::{
    Call, CheckItem, ConnectorError, Identity, Kind, Lane, OwnerInfo, PipelineInfo, PropertyInfo, PropertyType, Schema,
    StageInfo,
};

use crate::{
    Pipedrive,
    client::{Api, Ask},
    fields,
    item::Item,
    marker, plural,
};

const CALL: Call = Call::on(Lane::Interactive);

/// Who are we? Two tokens, and twenty once for the currencies.
pub async fn identify(pipedrive: &Pipedrive) -> Result<Identity, ConnectorError> {
    let me = pipedrive.client.data::<Item>(Ask::get(Api::V1, "users/me", 2, CALL.lane)).await?;
    let company = me.text("company_id").ok_or_else(|| ConnectorError::Malformed { path: "data.company_id".into() })?;
    let known = pipedrive.currencies.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let currencies = match known {
        Some(currencies) => currencies,
        None => currencies(pipedrive).await?,
    };
    *pipedrive.currencies.lock().unwrap_or_else(PoisonError::into_inner) = Some(currencies.clone());
    let user = me.text("id").unwrap_or_default();
    Ok(Identity {
        remote_account: company.clone(),
        timezone: me.text("timezone_name"),
        currency: me.text("default_currency"),
        currencies,
        clock_offset: pipedrive.client.offset(),
        items: vec![CheckItem {
            name: "token".into(),
            ok: true,
            detail: format!("accepted; Pipedrive company {company}, as user {user}"),
        }],
    })
}

/// Who are we, may we read and write, is the clock right?
pub async fn check(pipedrive: &Pipedrive) -> Result<Identity, ConnectorError> {
    // A person asks: what was known is looked at again.
    *pipedrive.currencies.lock().unwrap_or_else(PoisonError::into_inner) = None;
    let mut identity = identify(pipedrive).await?;
    let items = &mut identity.items;
    for kind in pipedrive.options.select.keys().copied() {
        items.push(may_read(pipedrive, kind).await?);
        items.extend(of_fields(pipedrive, kind).await?);
    }
    let offset = pipedrive.client.offset();
    items.push(CheckItem {
        name: "clock".into(),
        ok: offset.num_seconds().abs() < 30,
        detail: match offset.num_seconds() {
            0 => "agrees with Pipedrive's".into(),
            seconds => {
                format!("Pipedrive's clock is {seconds} s from ours; it is allowed for, but set this machine's clock")
            }
        },
    });
    let budget = pipedrive.options.budget();
    let every = |share: u64| pipedrive.periods_at(share).changes.as_secs();
    let (told, untold) = (Pipedrive::POLLING_SHARE, Pipedrive::SHARE_UNTOLD);
    let because = if pipedrive.options.daily_budget.is_some() { "daily_budget" } else { "plan, seats" };
    items.push(CheckItem {
        name: "polling".into(),
        ok: true,
        detail: match pipedrive.options.poll {
            Some(poll) => {
                format!("every {} s (poll_seconds), whatever that costs of {budget} tokens a day", poll.as_secs())
            }
            None => format!(
                "every {} s, for {told} % of {budget} tokens a day ({because}); while no webhooks are subscribed to, every \
                 {} s, for {untold} %",
                every(told),
                every(untold)
            ),
        },
    });
    let login = pipedrive.options.webhook_login.is_some();
    items.push(CheckItem {
        name: "webhooks".into(),
        ok: login,
        detail: if login {
            "a user and password are configured; deliveries without them are refused".into()
        } else {
            "no webhook_user and webhook_password: webhooks are refused and changes arrive by polling only".into()
        },
    });
    Ok(identity)
}

async fn may_read(pipedrive: &Pipedrive, kind: Kind) -> Result<CheckItem, ConnectorError> {
    let name = format!("read {}", plural(kind));
    let ask = Ask::get(Api::V2, plural(kind), 10, CALL.lane).query("limit", "1");
    match pipedrive.client.page::<Item>(ask).await {
        Ok(_) => Ok(CheckItem { name, ok: true, detail: "allowed".into() }),
        Err(ConnectorError::Forbidden(why)) => Ok(CheckItem { name, ok: false, detail: why }),
        Err(error) => Err(error),
    }
}

/// The marker field, and every custom field that is mapped.
async fn of_fields(pipedrive: &Pipedrive, kind: Kind) -> Result<Vec<CheckItem>, ConnectorError> {
    let book = pipedrive.new_book(CALL, kind).await?;
    let (name, field) = (format!("create {}", plural(kind)), &pipedrive.options.marker_field);
    let ours = marker::fields(pipedrive, &book);
    let detail = match (pipedrive.options.read_only, ours.len()) {
        (true, _) => "not needed: this connection only reads".into(),
        (false, 0) => format!("the text field `{field}` will be made before the first create"),
        (false, 1) => format!("the text field `{field}` is there"),
        (false, several) => {
            format!("{several} text fields are called `{field}`; all are read, {} is written", ours[0].code)
        }
    };
    let mut items = vec![CheckItem { name, ok: true, detail }];
    for property in pipedrive.selected(kind).filter(|name| !fields::system(kind).contains(name)) {
        let detail = match (book.get(property), book.named(property).len()) {
            (Some(found), _) if found.property_type().is_some() => continue,
            (Some(found), _) => {
                format!("is of the type {}, which cannot be mapped: take it out of the mapping", found.kind)
            }
            (None, 0) => "is mapped but Pipedrive does not have it: restore it there or take it out of the mapping; nothing is cleared meanwhile".into(),
            (None, several) => {
                format!("{several} fields have this name: put the 40-character key of one of them into the mapping")
            }
        };
        items.push(CheckItem { name: format!("field {property} of {}", plural(kind)), ok: false, detail });
    }
    Ok(items)
}

/// The currencies a deal may have; none, which restricts nothing, where they may not be read.
async fn currencies(pipedrive: &Pipedrive) -> Result<Vec<String>, ConnectorError> {
    match pipedrive.client.page::<Item>(Ask::get(Api::V1, "currencies", 20, CALL.lane)).await {
        Ok((items, _)) => {
            Ok(items.iter().filter(|item| item.flag("active_flag")).filter_map(|item| item.text("code")).collect())
        }
        Err(ConnectorError::Forbidden(_) | ConnectorError::Gone) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Pipelines, people and fields.
pub async fn discover(pipedrive: &Pipedrive) -> Result<Schema, ConnectorError> {
    let mut schema =
        Schema { pipelines: pipelines(pipedrive).await?, owners: owners(pipedrive).await?, ..Schema::default() };
    for kind in pipedrive.options.select.keys().copied() {
        let mut properties = pipedrive.new_book(CALL, kind).await?.infos();
        properties.extend(fields::system(kind).iter().map(|name| ((*name).to_owned(), system_info(name))));
        schema.properties.insert(kind, properties);
    }
    Ok(schema)
}

fn system_info(name: &str) -> PropertyInfo {
    let kind = match name {
        "value" => PropertyType::Number,
        "expected_close_date" => PropertyType::Date,
        "close_time" => PropertyType::Time,
        _ => PropertyType::Text,
    };
    PropertyInfo {
        label: name.replace('_', " "),
        kind,
        read_only: matches!(name, "first_name" | "last_name"),
        unique: false,
    }
}

/// Stages have no won or lost among them: that is a status of its own.
async fn pipelines(pipedrive: &Pipedrive) -> Result<Vec<PipelineInfo>, ConnectorError> {
    let mut stages: BTreeMap<String, Vec<(i64, StageInfo)>> = BTreeMap::new();
    let of_list = |path: &'static str| pipedrive.client.all::<Item>(Ask::get(Api::V2, path, 5, CALL.lane));
    let order = |item: &Item| item.text("order_nr").and_then(|place| place.parse().ok()).unwrap_or(0_i64);
    for item in of_list("stages").await?.iter().filter(|item| !item.flag("is_deleted")) {
        let probability = item.text("deal_probability").and_then(|chance| chance.parse::<f64>().ok()).unwrap_or(0.0);
        let info = StageInfo {
            id: item.id()?.to_string(),
            label: item.text("name").unwrap_or_default(),
            probability: probability.clamp(0.0, 100.0) as u8,
            closed: false,
        };
        stages.entry(item.text("pipeline_id").unwrap_or_default()).or_default().push((order(item), info));
    }
    let mut pipelines = Vec::new();
    for item in of_list("pipelines").await?.iter().filter(|item| !item.flag("is_deleted")) {
        let id = item.id()?.to_string();
        let mut of_it = stages.remove(&id).unwrap_or_default();
        of_it.sort_by_key(|(place, _)| *place);
        let label = item.text("name").unwrap_or_default();
        let stages = of_it.into_iter().map(|(_, stage)| stage).collect();
        pipelines.push((order(item), PipelineInfo { id, label, stages }));
    }
    pipelines.sort_by_key(|(place, _)| *place);
    Ok(pipelines.into_iter().map(|(_, pipeline)| pipeline).collect())
}

async fn owners(pipedrive: &Pipedrive) -> Result<Vec<OwnerInfo>, ConnectorError> {
    let users = match pipedrive.client.page::<Item>(Ask::get(Api::V1, "users", 20, CALL.lane)).await {
        Ok((users, _)) => users,
        // Without the users' scope their ids are kept as they are.
        Err(ConnectorError::Forbidden(_) | ConnectorError::Gone) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    users
        .iter()
        .map(|user| {
            Ok(OwnerInfo {
                id: user.id()?.to_string(),
                email: user.text("email").map(|email| email.trim().to_lowercase()).filter(|email| !email.is_empty()),
                name: user.text("name").unwrap_or_default(),
                archived: user.flag("is_deleted") || user.raw("active_flag").is_some_and(|_| !user.flag("active_flag")),
            })
        })
        .collect()
}
