//! Pipedrive's webhooks: whose they are, which records they ask us to look at, and that they are subscribed to.
//!
//! Source: "Guide for webhooks v2", <https://pipedrive.readme.io/docs/guide-for-webhooks-v2>. They are not signed and carry
//! no time: a user and password of the connection's own is all there is, so nothing but the record's id is believed.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::{Method, header};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tandem_contract::{Call, ConnectorError, ExternalId, Hint, Kind, Secret, Value, WebhookError, WebhookRequest};
use url::Url;

use crate::{
    Pipedrive,
    client::{Api, Ask},
    fields::plain,
    item::Item,
    singular,
};

/// What webhooks carry, since they are not signed.
const LOGIN: &str = "webhook user and password (`webhook_user`, `webhook_password`)";

/// What a delivery says of itself.
#[derive(Debug, Deserialize)]
struct Delivery {
    meta: Item,
}

fn kind_of(word: &str) -> Option<Kind> {
    match word {
        "deal" => Some(Kind::Deal),
        "person" => Some(Kind::Contact),
        _ => None,
    }
}

/// Compares the login in constant time and reads which records the delivery names: the one that changed, and where it was
/// merged, the other one.
pub fn hints(login: Option<&(String, Secret)>, request: &WebhookRequest<'_>) -> Result<Vec<Hint>, WebhookError> {
    let (user, password) = login.ok_or(WebhookError::NoSecret(LOGIN))?;
    let mut given = request.headers.get_all(header::AUTHORIZATION).iter();
    let Some(first) = given.next() else { return Err(WebhookError::Unsigned("no user and password")) };
    // Two are as good as none: which one was checked would depend on the proxy in front.
    let basic = first.to_str().ok().filter(|_| given.next().is_none()).and_then(|text| text.strip_prefix("Basic "));
    let Some(basic) = basic else { return Err(WebhookError::Unsigned("no user and password")) };
    let want = Sha256::digest(format!("{user}:{}", password.expose()));
    let given = Sha256::digest(STANDARD.decode(basic.trim()).map_err(|_| WebhookError::BadSignature(LOGIN))?);
    if !bool::from(want.as_slice().ct_eq(given.as_slice())) {
        return Err(WebhookError::BadSignature(LOGIN));
    }
    let mut json = serde_json::Deserializer::from_slice(request.body);
    let delivery: Delivery = serde_path_to_error::deserialize(&mut json)
        .map_err(|error| WebhookError::Malformed { path: error.path().to_string() })?;
    let meta = delivery.meta;
    let Some(kind) = meta.text("entity").as_deref().and_then(kind_of) else { return Ok(Vec::new()) };
    let remote_account = meta.text("company_id");
    let id = |name: &str| meta.text(name).and_then(|id| ExternalId::new(id).ok());
    let hint = |id: ExternalId, merged_into: Option<ExternalId>| Hint {
        kind,
        id,
        remote_account: remote_account.clone(),
        merged_into,
    };
    // A merge is told twice: by the record that is gone, and by the one that lives on.
    let (entity, survivor, lost) = (id("entity_id"), id("merged_to_id"), id("merged_from_id"));
    let gone = lost.map(|lost| hint(lost, entity.clone()));
    let lives_on = survivor.clone().map(|survivor| hint(survivor, None));
    let itself = entity.map(|entity| hint(entity, survivor));
    Ok(itself.into_iter().chain(lives_on).chain(gone).collect())
}

/// Makes sure that each kind has one active subscription to this address: the ban of a failing address ends in its removal
/// after three days, and a second one would bring every event twice. True if they are there.
pub async fn subscribe(pipedrive: &Pipedrive, call: Call, address: &Url) -> Result<bool, ConnectorError> {
    let Some((user, password)) = &pipedrive.options.webhook_login else { return Ok(false) };
    if pipedrive.options.read_only {
        return Ok(false);
    }
    let mut are_there = true;
    let name = name_of(pipedrive);
    // The end of the address changes with the master key: what still sends to the old one is ours too.
    let door = address.as_str().split_inclusive('/').take(5).collect::<String>();
    let (there, _) = pipedrive.client.page::<Item>(Ask::get(Api::V1, "webhooks", 10, call.lane)).await?;
    for kind in pipedrive.options.select.keys().copied() {
        let is_ours = |item: &&Item| {
            let url = item.text("subscription_url").unwrap_or_default();
            let is_old = item.text("name").as_deref() == Some(&name) && format!("{url}/").starts_with(&door);
            (url == address.as_str() || is_old) && item.text("event_object").as_deref() == Some(singular(kind))
        };
        let is_good = |item: &Item| {
            item.flag("is_active")
                && item.text("subscription_url").as_deref() == Some(address.as_str())
                && item.text("version").as_deref() == Some("2.0")
                && item.text("event_action").as_deref() == Some("*")
                && item.text("http_auth_user").as_deref() == Some(user)
                && item.text("http_auth_password").is_none_or(|known| known == password.expose())
        };
        let mut kept = false;
        for item in there.iter().filter(is_ours) {
            if is_good(item) && !kept {
                kept = true;
                continue;
            }
            let ask = Ask::change(Method::DELETE, Api::V1, format!("webhooks/{}", item.id()?), 6, call);
            match pipedrive.client.data::<Item>(ask).await {
                Ok(_) | Err(ConnectorError::Gone | ConnectorError::Malformed { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        if !kept {
            are_there &= make(pipedrive, call, kind, address, user, password).await?;
        }
    }
    Ok(are_there)
}

/// What our subscriptions are called.
fn name_of(pipedrive: &Pipedrive) -> String {
    format!("Tandem {}", pipedrive.options.installation)
}

/// Makes a subscription; false if nobody answered whether it was.
async fn make(
    pipedrive: &Pipedrive,
    call: Call,
    kind: Kind,
    address: &Url,
    user: &str,
    password: &Secret,
) -> Result<bool, ConnectorError> {
    let name = name_of(pipedrive);
    let members = [
        ("subscription_url", address.as_str()),
        ("event_action", "*"),
        ("event_object", singular(kind)),
        ("name", name.as_str()),
        ("version", "2.0"),
        ("http_auth_user", user),
        ("http_auth_password", password.expose()),
    ];
    let mut body = std::collections::BTreeMap::new();
    for (name, text) in members {
        body.insert(name, plain(&Value::text(text))?);
    }
    let body = serde_json::value::to_raw_value(&body).unwrap_or_default();
    let ask = Ask::change(Method::POST, Api::V1, "webhooks", 10, call).body(body);
    match pipedrive.client.data::<Item>(ask).await {
        Ok(_) => Ok(true),
        // Looked at again within the hour; a second one is removed then.
        Err(ConnectorError::OutcomeUnknown(_)) => Ok(false),
        Err(ConnectorError::Rejected { .. }) => Err(ConnectorError::Forbidden(
            "Pipedrive refuses the webhook: its address must be public, with https, and a user may have forty; changes \
             arrive by polling meanwhile"
                .into(),
        )),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use http::{HeaderMap, HeaderValue};

    use super::*;

    fn ask(authorization: Option<&str>, body: &str) -> Result<Vec<Hint>, WebhookError> {
        let login = ("pd-91f0".to_owned(), Secret::new("long-random-secret"));
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization.and_then(|text| HeaderValue::try_from(text).ok()) {
            headers.insert(header::AUTHORIZATION, value);
        }
        let request = WebhookRequest {
            method: "POST",
            uri: "https://tandem.example.com/webhooks/pipedrive",
            headers: &headers,
            body: body.as_bytes(),
            received_at: DateTime::UNIX_EPOCH,
        };
        hints(Some(&login), &request)
    }

    const MERGED: &str = r#"{"data":null,"previous":{"title":"x"},"meta":{"action":"delete","entity":"deal","entity_id":"4411",
        "company_id":"5566","merged_to_id":4400,"id":"0f8fad5b","timestamp":"2026-11-20T11:00:00.512Z","attempt":1}}"#;

    #[test]
    fn only_the_right_user_and_password_are_believed() {
        let basic = |login: &str| format!("Basic {}", STANDARD.encode(login));
        assert_eq!(ask(None, MERGED), Err(WebhookError::Unsigned("no user and password")));
        assert_eq!(ask(Some("Bearer x"), MERGED), Err(WebhookError::Unsigned("no user and password")));
        assert_eq!(ask(Some(&basic("pd-91f0:guess")), MERGED), Err(WebhookError::BadSignature(LOGIN)));
        assert_eq!(ask(Some(&basic("pd-91f0long-random-secret:")), MERGED), Err(WebhookError::BadSignature(LOGIN)));
        let hints = ask(Some(&basic("pd-91f0:long-random-secret")), MERGED).expect("hints");
        let ids: Vec<&str> = hints.iter().map(|hint| hint.id.as_str()).collect();
        assert_eq!(ids, ["4411", "4400"], "both of a merge are looked at");
        assert_eq!(hints[0].merged_into.as_ref().map(ExternalId::as_str), Some("4400"));
        assert_eq!(hints[0].remote_account.as_deref(), Some("5566"));
    }

    #[test]
    fn what_is_no_delivery_is_told_by_its_place() {
        let basic = format!("Basic {}", STANDARD.encode("pd-91f0:long-random-secret"));
        assert!(matches!(ask(Some(&basic), r#"{"meta":7}"#), Err(WebhookError::Malformed { path }) if path == "meta"));
        assert_eq!(ask(Some(&basic), r#"{"meta":{"entity":"note","entity_id":"1"}}"#), Ok(Vec::new()));
    }
}
