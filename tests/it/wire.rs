//! HubSpot's answers, one by one, from a mock that answers only what it was told and loudly refuses the rest.
//! Bodies are those of the vendor's error-handling documentation.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::DateTime;
use serde_json::json;
use tandem::{simulation::lenses, sync::mapping::selection};
use tandem_contract::{
    Call, Connector, ConnectorError, Cursor, Disposition, ExternalId, Fetched, Kind, Lane, Pushed, ReqwestTransport,
    Secret, TokioClock, Value, Version, Write, WriteOp,
};
use tandem_hubspot::{Credentials, HubSpot, Options};
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{any, body_partial_json, body_string_contains, header, method, path, query_param},
};

const CALL: Call = Call::on(Lane::Interactive);
const DEALS: &str = "/crm/objects/2026-09/deals";

async fn vendor() -> MockServer {
    let server = MockServer::start().await;
    let unmatched = ResponseTemplate::new(500).set_body_string("the mock was not told of this call");
    Mock::given(any()).respond_with(unmatched).with_priority(255).mount(&server).await;
    server
}

fn connect(server: &MockServer, credentials: Credentials) -> HubSpot {
    let mut options = Options::new(server.uri().parse().unwrap(), credentials);
    options.select = selection(&lenses());
    options.request_timeout = Duration::from_secs(5);
    let clock = Arc::new(TokioClock::starting_at(DateTime::from_timestamp(1_795_000_000, 0).unwrap()));
    HubSpot::new(options, Arc::new(ReqwestTransport::new().unwrap()), clock)
}

fn hubspot(server: &MockServer) -> HubSpot {
    connect(server, Credentials::Token(Secret::new("t")))
}

fn id(text: &str) -> ExternalId {
    ExternalId::new(text).unwrap()
}

fn deal(id: &str, name: &str) -> serde_json::Value {
    let properties: serde_json::Map<String, serde_json::Value> = selection(&lenses())[&Kind::Deal]
        .keys()
        .filter(|name| !name.starts_with("associations"))
        .map(|property| (property.clone(), if property == "dealname" { name.into() } else { serde_json::Value::Null }))
        .collect();
    json!({ "id": id, "properties": properties, "createdAt": "2026-11-20T10:01:02.345Z", "updatedAt": "2026-11-20T10:01:02.345Z", "archived": false })
}

async fn answers(server: &MockServer, verb: &str, at: &str, status: u16, body: serde_json::Value) {
    Mock::given(method(verb))
        .and(path(at))
        .and(header("authorization", "Bearer t"))
        .respond_with(ResponseTemplate::new(status).set_body_json(body))
        .mount(server)
        .await;
}

async fn list_error(status: u16, body: serde_json::Value) -> ConnectorError {
    let server = vendor().await;
    answers(&server, "GET", DEALS, status, body).await;
    hubspot(&server).list(CALL, Kind::Deal, &Cursor::start()).await.unwrap_err()
}

#[tokio::test]
async fn each_refusal_is_the_decision_it_asks_for() {
    let scopes = json!([{ "context": { "requiredGranularScopes": ["crm.objects.deals.read"] } }]);
    for (why, status, body, want) in [
        (
            "a bad token",
            401,
            json!({ "category": "INVALID_AUTHENTICATION", "message": "Authentication credentials not found" }),
            Disposition::PauseConnection,
        ),
        ("a missing scope", 403, json!({ "category": "MISSING_SCOPES", "errors": scopes }), Disposition::PauseStream),
        ("an outage", 503, json!({}), Disposition::Retry(None)),
        ("a time-out of theirs", 524, json!({}), Disposition::Retry(None)),
        ("a bad value", 400, json!({ "category": "VALIDATION_ERROR", "message": "nope" }), Disposition::Park),
        ("a moved account", 477, json!({}), Disposition::Retry(Some(Duration::from_secs(3_600)))),
    ] {
        assert_eq!(list_error(status, body).await.disposition(), want, "{why}");
    }
}

#[tokio::test]
async fn a_429_waits_as_long_as_the_vendor_says_and_parks_nothing() {
    let server = vendor().await;
    let body =
        json!({ "policyName": "TEN_SECONDLY_ROLLING", "message": "You have reached your ten_secondly_rolling limit." });
    let refused = ResponseTemplate::new(429).insert_header("retry-after", "1").set_body_json(body);
    Mock::given(method("GET")).and(path(DEALS)).respond_with(refused).up_to_n_times(1).mount(&server).await;
    answers(&server, "GET", DEALS, 200, json!({ "results": [] })).await;
    let page = hubspot(&server).list(CALL, Kind::Deal, &Cursor::start()).await.unwrap();
    assert!(page.seen.is_empty() && !page.more);
}

#[tokio::test]
async fn an_answer_that_does_not_parse_names_the_path_and_quotes_nothing() {
    let server = vendor().await;
    let body = json!({ "results": [{ "id": "1", "properties": "Jane Roe" }] });
    let links = "/crm/associations/2026-09/deals/contacts/batch/read";
    answers(&server, "POST", links, 200, json!({ "results": [] })).await;
    answers(&server, "POST", &format!("{DEALS}/batch/read"), 200, body).await;
    let error = hubspot(&server).fetch(CALL, Kind::Deal, &[id("1")]).await.unwrap_err();
    assert_eq!(error.to_string(), "the vendor's answer does not parse at `results[0].properties`");
    assert!(!format!("{error:?}").contains("Jane"));
}

#[tokio::test]
async fn a_listed_object_that_does_not_parse_is_named_and_the_others_are_read() {
    let server = vendor().await;
    let body = json!({ "results": [{ "id": "1", "properties": "Jane Roe" }, deal("2", "fine")] });
    answers(&server, "GET", DEALS, 200, body).await;
    let seen = hubspot(&server).list(CALL, Kind::Deal, &Cursor::start()).await.unwrap().seen;
    assert!(matches!(&seen[0], tandem_contract::Seen::Record(record) if record.id == id("2")));
    assert!(matches!(&seen[1], tandem_contract::Seen::Hint { id: hinted, .. } if *hinted == id("1")));
}

#[tokio::test]
async fn a_dead_vendor_and_a_silent_one_are_told_apart() {
    let dead = Options::new("http://127.0.0.1:1".parse().unwrap(), Credentials::Token(Secret::new("t")));
    let clock = Arc::new(TokioClock::starting_at(DateTime::from_timestamp(1_795_000_000, 0).unwrap()));
    let dead = HubSpot::new(
        Options { select: selection(&lenses()), ..dead },
        Arc::new(ReqwestTransport::new().unwrap()),
        clock,
    );
    let error = dead.list(CALL, Kind::Deal, &Cursor::start()).await.unwrap_err();
    assert!(matches!(&error, ConnectorError::NotSent(why) if !why.contains("127.0.0.1:1/")), "{error}");
}

#[tokio::test]
async fn a_batch_read_tells_found_archived_merged_and_gone_apart() {
    let server = vendor().await;
    let read = format!("{DEALS}/batch/read");
    let missing = json!({ "status": "COMPLETE", "results": [deal("1", "here")], "numErrors": 1, "errors": [
        { "status": "error", "category": "OBJECT_NOT_FOUND", "message": "Could not get some DEAL objects", "context": { "ids": ["2", "3", "4"] } } ] });
    let archived = json!({ "status": "COMPLETE", "results": [{ "id": "2", "properties": {}, "archived": true }] });
    Mock::given(method("POST"))
        .and(path(&read))
        .and(query_param("archived", "true"))
        .respond_with(ResponseTemplate::new(207).set_body_json(archived))
        .with_priority(1)
        .mount(&server)
        .await;
    answers(&server, "POST", &read, 207, missing).await;
    answers(&server, "GET", &format!("{DEALS}/3"), 200, deal("40", "merged")).await;
    answers(
        &server,
        "GET",
        &format!("{DEALS}/4"),
        404,
        json!({ "category": "OBJECT_NOT_FOUND", "message": "resource not found" }),
    )
    .await;
    answers(&server, "POST", "/crm/associations/2026-09/deals/contacts/batch/read", 200, json!({ "results": [] }))
        .await;
    let fetched = hubspot(&server).fetch(CALL, Kind::Deal, &[id("1"), id("2"), id("3"), id("4")]).await.unwrap();
    assert!(matches!(&fetched[0], Fetched::Found(record) if record.property("dealname") == Value::text("here")));
    assert_eq!(fetched[1], Fetched::Archived);
    assert!(matches!(&fetched[2], Fetched::MergedInto(record) if record.id == id("40")));
    assert_eq!(fetched[3], Fetched::Gone);
}

#[tokio::test]
async fn a_property_that_is_gone_clears_nothing_and_one_that_is_empty_does() {
    let server = vendor().await;
    let mut bare = deal("1", "here");
    bare["properties"].as_object_mut().unwrap().remove("description");
    bare["properties"].as_object_mut().unwrap().remove("amount");
    answers(&server, "GET", DEALS, 200, json!({ "results": [bare] })).await;
    let known =
        json!({ "results": [{ "name": "amount", "label": "Amount", "type": "number", "fieldType": "number" }] });
    answers(&server, "GET", "/crm/properties/2026-09/deals", 200, known).await;
    let page = hubspot(&server).list(CALL, Kind::Deal, &Cursor::start()).await.unwrap();
    let tandem_contract::Seen::Record(record) = &page.seen[0] else { panic!("a record") };
    assert_eq!(record.property("amount"), Value::Null, "left out because it is empty");
    assert_eq!(record.property("description"), Value::Absent, "left out because it does not exist");
}

fn update(trace: &str, target: &str, name: &str) -> Write {
    let op = WriteOp::Update {
        id: id(target),
        properties: BTreeMap::from([("dealname".to_owned(), Value::text(name))]),
        planned_on: BTreeMap::new(),
        expected: Version::default(),
    };
    Write { trace: trace.into(), kind: Kind::Deal, op }
}

#[tokio::test]
async fn every_row_of_a_207_gets_its_own_outcome_and_a_missing_one_is_read_again() {
    let server = vendor().await;
    let refused = "Property values were not valid: [{\"isValid\":false,\"message\":\"junk\",\"error\":\"INVALID_OPTION\",\"name\":\"dealstage\"}]";
    let body = json!({ "status": "COMPLETE",
        "results": [{ "id": "1", "objectWriteTraceId": "u-1", "properties": { "dealname": "one" }, "updatedAt": "2026-11-20T10:06:00.100Z" }],
        "errors": [{ "category": "VALIDATION_ERROR", "message": refused, "context": { "objectWriteTraceId": ["u-2"] } }] });
    let shape = json!({ "inputs": [{ "id": "1", "objectWriteTraceId": "u-1", "properties": { "dealname": "one" } }] });
    Mock::given(method("POST"))
        .and(path(format!("{DEALS}/batch/update")))
        .and(body_partial_json(shape))
        .respond_with(ResponseTemplate::new(207).set_body_json(body))
        .expect(1)
        .mount(&server)
        .await;
    let outcomes = hubspot(&server)
        .push(CALL, &[update("u-1", "1", "one"), update("u-2", "2", "two"), update("u-3", "3", "three")])
        .await;
    assert!(matches!(&outcomes[0], Pushed::Written { properties, .. } if properties["dealname"] == Value::text("one")));
    assert!(
        matches!(&outcomes[1], Pushed::Failed(ConnectorError::Rejected { field: Some(field), reason }) if field == "dealstage" && reason == "INVALID_OPTION")
    );
    let unknown = matches!(&outcomes[2], Pushed::Failed(ConnectorError::OutcomeUnknown(_)));
    assert!(unknown, "dropped without a word: merged away, or written all the same");
}

#[tokio::test]
async fn a_batch_refused_as_a_whole_is_halved_until_the_culprit_stands_alone() {
    let server = vendor().await;
    let at = format!("{DEALS}/batch/update");
    let poison = json!({ "category": "VALIDATION_ERROR", "message": "Property values were not valid: [{\"error\":\"INVALID_INTEGER\",\"name\":\"amount\"}]" });
    Mock::given(method("POST"))
        .and(path(&at))
        .and(body_string_contains("poison"))
        .respond_with(ResponseTemplate::new(400).set_body_json(poison))
        .with_priority(1)
        .mount(&server)
        .await;
    for n in ["1", "3", "4"] {
        let body = json!({ "results": [{ "id": n, "objectWriteTraceId": format!("u-{n}"), "properties": {} }] });
        Mock::given(method("POST"))
            .and(path(&at))
            .and(body_string_contains(format!("u-{n}")))
            .respond_with(ResponseTemplate::new(200).set_body_json(body))
            .with_priority(9)
            .mount(&server)
            .await;
    }
    let writes = [update("u-1", "1", "a"), update("u-2", "2", "poison")];
    let outcomes = hubspot(&server).push(CALL, &writes).await;
    assert!(matches!(&outcomes[0], Pushed::Written { .. }));
    assert!(
        matches!(&outcomes[1], Pushed::Failed(ConnectorError::Rejected { field: Some(field), .. }) if field == "amount")
    );
}

#[tokio::test]
async fn a_write_that_ends_in_504_is_not_known_to_have_failed() {
    let server = vendor().await;
    answers(&server, "POST", &format!("{DEALS}/batch/update"), 504, json!({})).await;
    let outcomes = hubspot(&server).push(CALL, &[update("u-1", "1", "a")]).await;
    assert!(matches!(&outcomes[0], Pushed::Failed(error) if error.disposition() == Disposition::Ambiguous));
}

#[tokio::test]
async fn a_create_that_was_made_before_names_the_record_and_says_it_is_ours() {
    let server = vendor().await;
    let marker = json!({ "name": "tandem_id", "label": "Tandem id", "type": "string", "fieldType": "text", "hasUniqueValue": true });
    answers(&server, "GET", "/crm/properties/2026-09/deals/tandem_id", 200, marker).await;
    let message = "Cannot set PropertyValueCoordinates{portalId=4242, objectTypeId=ObjectTypeId{legacyObjectType=DEAL}, propertyName=tandem_id, value=a:1} on 31550077. 31550001 already has that value.";
    answers(
        &server,
        "POST",
        &format!("{DEALS}/batch/create"),
        400,
        json!({ "category": "VALIDATION_ERROR", "message": message }),
    )
    .await;
    let op = WriteOp::Create {
        marker: "a:1".into(),
        properties: BTreeMap::from([("dealname".to_owned(), Value::text("x"))]),
    };
    let outcomes = hubspot(&server).push(CALL, &[Write { trace: "k-1".into(), kind: Kind::Deal, op }]).await;
    assert!(
        matches!(&outcomes[0], Pushed::Exists { id: existing, ours: true } if *existing == id("31550001")),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn without_the_right_to_make_the_marker_creating_is_refused_with_the_reason() {
    let server = vendor().await;
    answers(
        &server,
        "GET",
        "/crm/properties/2026-09/deals/tandem_id",
        404,
        json!({ "category": "OBJECT_NOT_FOUND", "message": "resource not found" }),
    )
    .await;
    let scopes = json!([{ "context": { "requiredGranularScopes": ["crm.schemas.deals.write"] } }]);
    answers(
        &server,
        "POST",
        "/crm/properties/2026-09/deals",
        403,
        json!({ "category": "MISSING_SCOPES", "errors": scopes }),
    )
    .await;
    let op = WriteOp::Create { marker: "a:1".into(), properties: BTreeMap::new() };
    let outcomes = hubspot(&server).push(CALL, &[Write { trace: "k-1".into(), kind: Kind::Deal, op }]).await;
    let Pushed::Failed(error) = &outcomes[0] else { panic!("{outcomes:?}") };
    assert!(error.to_string().contains("crm.schemas.deals.write"), "{error}");
}

fn oauth(server: &MockServer) -> HubSpot {
    let (client_secret, refresh_token) = (Secret::new("cs"), Secret::new("rt"));
    connect(server, Credentials::OAuth { client_id: "ci".into(), client_secret, refresh_token })
}

#[tokio::test]
async fn ten_calls_that_need_a_token_make_one_refresh() {
    let server = vendor().await;
    let token = json!({ "access_token": "t", "refresh_token": "rt", "expires_in": 1800, "token_type": "bearer" });
    Mock::given(method("POST"))
        .and(path("/oauth/2026-09/token"))
        .and(body_string_contains("refresh_token=rt"))
        .respond_with(ResponseTemplate::new(200).set_body_json(token))
        .expect(1)
        .mount(&server)
        .await;
    answers(&server, "GET", DEALS, 200, json!({ "results": [] })).await;
    let hubspot = Arc::new(oauth(&server));
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let hubspot = hubspot.clone();
            tokio::spawn(async move { hubspot.list(CALL, Kind::Deal, &Cursor::start()).await.is_ok() })
        })
        .collect();
    for call in calls {
        assert!(call.await.unwrap());
    }
}

#[tokio::test]
async fn a_revoked_grant_is_told_from_a_mistake_of_our_own() {
    for (status, word) in [
        ("BAD_REFRESH_TOKEN", "connect HubSpot again"),
        ("BAD_HUB", "connect HubSpot again"),
        ("BAD_CLIENT_SECRET", "the customer need not act"),
    ] {
        let server = vendor().await;
        Mock::given(method("POST"))
            .and(path("/oauth/2026-09/token"))
            .respond_with(ResponseTemplate::new(400).set_body_json(json!({ "status": status })))
            .mount(&server)
            .await;
        let error = oauth(&server).list(CALL, Kind::Deal, &Cursor::start()).await.unwrap_err();
        assert_eq!(error.disposition(), Disposition::PauseConnection);
        assert!(error.to_string().contains(word), "{status}: {error}");
    }
}
