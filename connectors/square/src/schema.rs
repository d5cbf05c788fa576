//! Who we are connected to, and what there is to read.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::json;
use tandem_contract::{Call, CheckItem, ConnectorError, Identity, Kind, Lane, PropertyInfo, PropertyType, Schema};

use crate::{Square, client::Ask};

const CALL: Call = Call::on(Lane::Interactive);

#[derive(Deserialize)]
struct OneMerchant {
    merchant: Merchant,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Merchant {
    id: String,
    currency: Option<String>,
}

/// Who are we connected to?
pub async fn identify(square: &Square) -> Result<Identity, ConnectorError> {
    let OneMerchant { merchant } = square.client.ask(&Ask::get("merchants/me", CALL.lane)).await?;
    if merchant.id.is_empty() {
        return Err(ConnectorError::Malformed { path: "merchant.id".into() });
    }
    Ok(Identity {
        remote_account: merchant.id,
        timezone: None,
        currency: merchant.currency,
        currencies: Vec::new(),
        clock_offset: square.client.offset(),
        items: Vec::new(),
    })
}

/// The same, with what it may do.
pub async fn check(square: &Square) -> Result<Identity, ConnectorError> {
    let mut identity = identify(square).await?;
    let mut item = |name: &str, ok: bool, detail: String| {
        identity.items.push(CheckItem { name: name.into(), ok, detail });
    };
    let locations = square.locations(CALL).await;
    match &locations {
        Ok(all) => item("locations", !all.is_empty(), format!("{} known", all.len())),
        Err(error) => item("locations", false, error.to_string()),
    }
    let place = locations.ok().and_then(|all| all.first().map(|location| location.id.clone())).unwrap_or_default();
    let asks = [
        ("orders", Ask::search("orders/search", CALL.lane, json!({ "location_ids": [place], "limit": 1 }))),
        ("payments", Ask::get("payments", CALL.lane).query("limit", "1")),
        ("invoices", Ask::get("invoices", CALL.lane).query("location_id", &place).query("limit", "1")),
        ("catalog", Ask::get("catalog/list", CALL.lane).query("types", "CATEGORY")),
        ("customers", Ask::get("customers", CALL.lane).query("limit", "1")),
    ];
    for (name, ask) in asks {
        match square.client.ask::<serde_json::Value>(&ask).await {
            Ok(_) => item(name, true, "may be read".into()),
            Err(ConnectorError::Forbidden(why)) => item(name, false, why),
            Err(error) => return Err(error),
        }
    }
    let (ok, detail) = match (square.options.signature_keys.is_empty(), &square.options.notification_url) {
        (true, _) => (false, "no signature_key: sales arrive by polling alone, up to half a minute late".to_owned()),
        (false, None) => (false, "no http.public_url: what was signed cannot be told".to_owned()),
        (false, Some(url)) => (true, format!("expected at {url}")),
    };
    item("webhooks", ok, detail);
    identity.clock_offset = square.client.offset();
    Ok(identity)
}

/// Square's customers have the same fields everywhere, and there are no pipelines.
pub fn properties(square: &Square) -> Schema {
    let info = |name: &str| PropertyInfo {
        label: name.replace('_', " "),
        kind: PropertyType::Text,
        read_only: matches!(name, "creation_source"),
        unique: false,
    };
    let known =
        ["given_name", "family_name", "email_address", "phone_number", "company_name", "nickname", "note", "birthday"];
    let selected = square.options.select.get(&Kind::Contact).into_iter().flatten().map(|(name, _)| name.as_str());
    let fields: BTreeMap<String, PropertyInfo> = known
        .into_iter()
        .chain(selected.filter(|name| known.contains(name)))
        .map(|name| (name.to_owned(), info(name)))
        .collect();
    Schema { properties: BTreeMap::from([(Kind::Contact, fields)]), ..Schema::default() }
}
