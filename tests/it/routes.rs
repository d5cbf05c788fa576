//! Every HubSpot route that the connector calls and `wire` leaves out: what is sent, to the byte where it matters, and
//! what is made of the answers. Answers have the shapes of the vendor's documentation, with invented ids.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound, Utc};
use rust_decimal::Decimal;
use serde_json::{Value as Json, json};
use tandem_contract::{
    Call, Clock, Connector, ConnectorError, Cursor, ExternalId, Fetched, Kind, Lane, PropertyType, Pushed,
    ReqwestTransport, Secret, Seen, Sought, Statement, Stream, Value, Version, Write, WriteOp,
};
use tandem_hubspot::{ApiVersion, CONTACTS, Credentials, HubSpot, Options};
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{any, body_string_contains, method, path, query_param, query_param_is_missing},
};

pub const CALL: Call = Call::on(Lane::Interactive);
pub const DEALS: &str = "/crm/objects/2026-09/deals";
pub const PEOPLE: &str = "/crm/objects/2026-09/contacts";
pub const DEAL_PROPERTIES: &str = "/crm/properties/2026-09/deals";
pub const CONTACT_PROPERTIES: &str = "/crm/properties/2026-09/contacts";
pub const ACCOUNT: &str = "/account-info/2026-09/details";
const LINKS: &str = "/crm/associations/2026-09/deals/contacts/batch";
const OWNERS: &str = "/crm/owners/2026-09";

/// A clock that moves only when somebody sleeps, and then at once: waits of minutes cost a test nothing, and what is
/// sent does not depend on how fast the machine is.
#[derive(Default)]
struct Leaping(Mutex<Duration>);

#[async_trait]
impl Clock for Leaping {
    fn now(&self) -> DateTime<Utc> {
        (start() + self.elapsed()).trunc_subsecs(6)
    }

    fn elapsed(&self) -> Duration {
        *self.0.lock().unwrap()
    }

    async fn sleep(&self, duration: Duration) {
        *self.0.lock().unwrap() += duration;
        tokio::task::yield_now().await;
    }
}

/// 2026-11-18T11:06:40Z, by our clock and by the mock's.
pub fn start() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_000_000, 0).unwrap()
}

/// A vendor that loudly refuses every call it was not told of.
pub async fn vendor() -> MockServer {
    let server = MockServer::start().await;
    let unmatched = ResponseTemplate::new(500).set_body_string("the mock was not told of this call");
    Mock::given(any()).respond_with(unmatched).with_priority(255).mount(&server).await;
    server
}

/// An answer at the moment the test's clock starts; without a body where there is none.
pub fn answer(status: u16, body: Json) -> ResponseTemplate {
    let answer = ResponseTemplate::new(status).insert_header("date", start().to_rfc2822());
    if body.is_null() { answer } else { answer.set_body_json(body) }
}

pub async fn answers(server: &MockServer, verb: &str, at: &str, status: u16, body: Json) {
    Mock::given(method(verb)).and(path(at)).respond_with(answer(status, body)).mount(server).await;
}

/// Answers one call this way; the next call meets what is mounted after it.
async fn once(server: &MockServer, verb: &str, at: &str, status: u16, body: Json) {
    let mock = Mock::given(method(verb)).and(path(at)).respond_with(answer(status, body));
    mock.up_to_n_times(1).mount(server).await;
}

/// The bodies that were sent to a route, as text.
pub async fn bodies(server: &MockServer, verb: &str, at: &str) -> Vec<String> {
    let all = server.received_requests().await.unwrap();
    let here = all.into_iter().filter(|request| request.method.as_str() == verb && request.url.path() == at);
    here.map(|request| String::from_utf8(request.body).unwrap()).collect()
}

async fn sent(server: &MockServer, at: &str) -> Vec<Json> {
    bodies(server, "POST", at).await.iter().map(|body| serde_json::from_str(body).unwrap()).collect()
}

/// A connection that maps a handful of properties.
pub fn options(server: &MockServer, credentials: Credentials) -> Options {
    let mut options = Options::new(server.uri().parse().unwrap(), credentials);
    let of = |names: &[(&str, PropertyType)]| -> BTreeMap<String, PropertyType> {
        names.iter().map(|(name, kind)| ((*name).to_owned(), *kind)).collect()
    };
    options.select = BTreeMap::from([
        (Kind::Contact, of(&[("email", PropertyType::Text)])),
        (
            Kind::Deal,
            of(&[
                ("amount", PropertyType::Number),
                (CONTACTS, PropertyType::Choices),
                ("dealname", PropertyType::Text),
                ("dealstage", PropertyType::Text),
            ]),
        ),
    ]);
    options.request_timeout = Duration::from_secs(5);
    options
}

pub fn token() -> Credentials {
    Credentials::Token(Secret::new("t"))
}

pub fn connect(options: Options) -> HubSpot {
    HubSpot::new(options, Arc::new(ReqwestTransport::new().unwrap()), Arc::new(Leaping::default()))
}

fn hubspot(server: &MockServer) -> HubSpot {
    connect(options(server, token()))
}

pub fn create(trace: &str, kind: Kind, properties: &[(&str, Value)]) -> Write {
    let op = WriteOp::Create { marker: format!("pd:{trace}"), properties: named(properties) };
    Write { trace: trace.into(), kind, op }
}

pub fn update(trace: &str, properties: &[(&str, Value)], planned_on: &[(&str, Value)]) -> Write {
    let op = WriteOp::Update {
        id: id("31550001"),
        properties: named(properties),
        planned_on: named(planned_on),
        expected: Version::default(),
    };
    Write { trace: trace.into(), kind: Kind::Deal, op }
}

fn named(properties: &[(&str, Value)]) -> BTreeMap<String, Value> {
    properties.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

fn sought(markers: &[&str]) -> Vec<Sought> {
    markers.iter().map(|marker| Sought { marker: (*marker).to_owned(), since: DateTime::UNIX_EPOCH }).collect()
}

fn id(text: &str) -> ExternalId {
    ExternalId::new(text).unwrap()
}

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn refs(ids: &[&str]) -> Value {
    Value::Refs(ids.iter().map(|id| (*id).to_owned()).collect())
}

fn stream(hubspot: &HubSpot, name: &str) -> Stream {
    hubspot.streams().into_iter().find(|stream| stream.name == name).unwrap()
}

/// A deal with every property that the connection maps.
fn deal(id: &str, name: &str) -> Json {
    json!({
        "id": id,
        "properties": { "amount": "18250.00", "createdate": "2026-11-20T10:01:02.345Z", "dealname": name,
            "dealstage": "qualifiedtobuy", "hs_lastmodifieddate": "2026-11-20T10:01:02.345Z", "hs_object_id": id },
        "createdAt": "2026-11-20T10:01:02.345Z", "updatedAt": "2026-11-20T10:01:02.345Z", "archived": false,
    })
}

/// A deal that was just written, in answer to the write named `trace`.
fn written(id: &str, trace: &str, name: &str) -> Json {
    json!({
        "id": id, "objectWriteTraceId": trace,
        "properties": { "amount": "900", "createdate": "2026-11-20T10:06:00.100Z", "dealname": name,
            "hs_lastmodifieddate": "2026-11-20T10:06:00.100Z", "hs_object_id": id, "tandem_id": format!("pd:{trace}") },
        "createdAt": "2026-11-20T10:06:00.100Z", "updatedAt": "2026-11-20T10:06:00.100Z", "archived": false,
    })
}

fn batch(results: &[Json], errors: &[Json]) -> Json {
    let mut batch = json!({ "status": "COMPLETE", "results": results,
        "startedAt": "2026-11-20T10:06:00.000Z", "completedAt": "2026-11-20T10:06:00.180Z" });
    if !errors.is_empty() {
        batch["numErrors"] = errors.len().into();
        batch["errors"] = json!(errors);
    }
    batch
}

pub fn marker(name: &str, unique: bool) -> Json {
    json!({ "name": name, "label": "Tandem id", "type": "string", "fieldType": "text", "groupName": "dealinformation",
        "hasUniqueValue": unique, "hidden": false, "formField": false })
}

fn not_found() -> Json {
    json!({ "status": "error", "message": "resource not found", "correlationId": "66ff",
        "category": "OBJECT_NOT_FOUND" })
}

fn missing_scope(scope: &str) -> Json {
    json!({ "status": "error", "correlationId": "11aa", "category": "MISSING_SCOPES",
        "message": "This app hasn't been granted all required scopes to make this call.",
        "errors": [{ "message": "One or more of the following scopes are required.",
            "context": { "requiredGranularScopes": [scope] } }],
        "links": { "scopes": "https://developers.hubspot.com/scopes" } })
}

fn a_link(to: Json, label: Option<&str>) -> Json {
    json!({ "toObjectId": to, "associationTypes": [{ "category": "HUBSPOT_DEFINED", "typeId": 3, "label": label }] })
}

#[tokio::test]
async fn the_recycle_bin_is_walked_page_by_page() {
    let server = vendor().await;
    let archived = |id: &str| {
        json!({ "id": id, "properties": { "hs_object_id": id }, "createdAt": "2026-11-20T10:01:02.345Z",
            "updatedAt": "2026-11-20T10:01:02.345Z", "archived": true, "archivedAt": "2026-11-21T08:00:00.000Z" })
    };
    let next = json!({ "next": { "after": "31550009", "link": "https://api.hubapi.com/x" } });
    let asked = || {
        Mock::given(method("GET"))
            .and(path(DEALS))
            .and(query_param("archived", "true"))
            .and(query_param("limit", "100"))
            .and(query_param("properties", "hs_merged_object_ids"))
    };
    asked()
        .and(query_param_is_missing("after"))
        .respond_with(answer(200, json!({ "results": [archived("31550005"), archived("31550007")], "paging": next })))
        .expect(1)
        .mount(&server)
        .await;
    asked()
        .and(query_param("after", "31550009"))
        .respond_with(answer(200, json!({ "results": [archived("31550009")] })))
        .expect(1)
        .mount(&server)
        .await;
    let hubspot = hubspot(&server);
    let bin = stream(&hubspot, "deal.archived");
    let first = hubspot.changes(CALL, &bin, &Cursor::start()).await.unwrap();
    assert_eq!(first.seen, [Seen::Archived(id("31550005")), Seen::Archived(id("31550007"))]);
    assert!(first.more);
    let last = hubspot.changes(CALL, &bin, &first.next).await.unwrap();
    assert_eq!(last.seen, [Seen::Archived(id("31550009"))]);
    assert!(!last.more);
    assert_eq!(last.next, Cursor::start(), "the next walk begins at the front");
}

#[tokio::test]
async fn a_record_is_found_by_our_marker_and_a_marker_that_nobody_has_finds_nothing() {
    let server = vendor().await;
    let mut found = deal("31550001", "Harbor refit");
    found["properties"]["tandem_id"] = "pd:4411".into();
    let missing = json!({ "status": "error", "category": "OBJECT_NOT_FOUND",
        "message": "Could not get some DEAL objects, they may be deleted or not exist. Check that ids are valid.",
        "context": { "ids": ["pd:9999"] } });
    let read = format!("{DEALS}/batch/read");
    answers(&server, "POST", &read, 207, batch(&[found], &[missing])).await;
    let linked = json!({ "from": { "id": "31550001" }, "to": [a_link(json!(70021), None)] });
    answers(&server, "POST", &format!("{LINKS}/read"), 200, batch(&[linked], &[])).await;
    let markers = sought(&["pd:9999", "pd:4411"]);
    let answered = hubspot(&server).find(CALL, Kind::Deal, &markers).await.unwrap();
    let [None, Some(record)] = answered.as_slice() else { panic!("{answered:?}") };
    assert_eq!(record.id, id("31550001"));
    assert_eq!(record.marker.as_deref(), Some("pd:4411"));
    assert_eq!(record.property("amount"), Value::Number(Decimal::new(18_250, 0)));
    assert_eq!(record.property(CONTACTS), refs(&["70021"]));
    let asked = json!({
        "idProperty": "tandem_id",
        "properties": ["amount", "dealname", "dealstage", "hs_lastmodifieddate", "hs_merged_object_ids", "tandem_id"],
        "propertiesWithHistory": [],
        "inputs": [{ "id": "pd:9999" }, { "id": "pd:4411" }],
    });
    assert_eq!(sent(&server, &read).await, [asked]);
}

#[tokio::test]
async fn without_the_marker_property_nobody_carries_a_marker_and_with_it_a_refusal_stays_one() {
    let refused = json!({ "status": "error", "message": "The property tandem_id can not identify a record.",
        "correlationId": "77aa", "category": "VALIDATION_ERROR" });
    let markers = sought(&["pd:1", "pd:2"]);

    let server = vendor().await;
    answers(&server, "POST", &format!("{DEALS}/batch/read"), 400, refused.clone()).await;
    answers(&server, "GET", &format!("{DEAL_PROPERTIES}/tandem_id"), 404, not_found()).await;
    assert_eq!(hubspot(&server).find(CALL, Kind::Deal, &markers).await.unwrap(), [None, None]);

    let server = vendor().await;
    answers(&server, "POST", &format!("{DEALS}/batch/read"), 400, refused).await;
    answers(&server, "GET", &format!("{DEAL_PROPERTIES}/tandem_id"), 200, marker("tandem_id", true)).await;
    let error = hubspot(&server).find(CALL, Kind::Deal, &markers).await.unwrap_err();
    assert!(matches!(error, ConnectorError::Rejected { .. }), "not known to be absent: {error}");
}

#[tokio::test]
async fn history_is_read_fifty_records_at_a_time_with_values_of_their_type() {
    let server = vendor().await;
    let read = format!("{DEALS}/batch/read");
    let history = json!({
        "id": "1", "properties": {}, "createdAt": "2026-11-20T10:01:02.345Z", "updatedAt": "2026-11-20T11:00:00.123Z",
        "archived": false,
        "propertiesWithHistory": {
            "amount": [{ "value": "18250.00", "timestamp": "2026-11-20T10:01:02.345Z", "sourceType": "CRM_UI",
                "sourceId": "userId:77001", "updatedByUserId": 77001 }],
            "dealstage": [
                { "value": "contractsent", "timestamp": "2026-11-20T11:00:00.123Z", "sourceType": "INTEGRATION",
                    "sourceId": "1357", "sourceLabel": "Deal Sync", "updatedByUserId": 77001 },
                { "value": "", "timestamp": "2026-11-20T10:01:02.345Z", "sourceType": "API", "sourceId": "1357" },
            ],
        },
    });
    once(&server, "POST", &read, 207, batch(&[history], &[])).await;
    once(&server, "POST", &read, 200, batch(&[], &[])).await;
    let ids: Vec<ExternalId> = (1..=51).map(|n: u32| id(&n.to_string())).collect();
    let properties = ["dealstage".to_owned(), "amount".to_owned(), CONTACTS.to_owned()];
    let answered = hubspot(&server).history(CALL, Kind::Deal, &ids, &properties).await.unwrap();
    assert_eq!(answered.len(), 51);
    assert!(answered[1..].iter().all(Option::is_none));
    let first = answered[0].as_ref().unwrap();
    let (then, later) = (time("2026-11-20T10:01:02.345Z"), time("2026-11-20T11:00:00.123Z"));
    let amount = Value::Number(Decimal::new(18_250, 0));
    assert_eq!(first["amount"], [Statement { value: amount, at: then, source: "CRM_UI".into() }]);
    assert_eq!(
        first["dealstage"],
        [
            Statement { value: Value::text("contractsent"), at: later, source: "Deal Sync".into() },
            Statement { value: Value::Null, at: then, source: "API".into() },
        ]
    );
    let asked = sent(&server, &read).await;
    assert_eq!(asked[0]["inputs"].as_array().map(Vec::len), Some(50));
    let rest =
        json!({ "properties": [], "propertiesWithHistory": ["dealstage", "amount"], "inputs": [{ "id": "51" }] });
    assert_eq!(asked[1..], [rest], "contacts are no property and have no history");
}

fn row(id: &str) -> Json {
    json!({ "id": id, "properties": { "hs_lastmodifieddate": "2026-11-18T11:05:10.004Z",
        "createdate": "2026-11-02T08:00:00.000Z", "hs_object_id": id },
        "createdAt": "2026-11-02T08:00:00.000Z", "updatedAt": "2026-11-18T11:05:10.004Z", "archived": false })
}

fn search(modified: &str, since: &str, until: &str, after: &str) -> Json {
    json!({
        "filterGroups": [{ "filters": [
            { "propertyName": modified, "operator": "GTE", "value": since },
            { "propertyName": modified, "operator": "LTE", "value": until },
            { "propertyName": "hs_object_id", "operator": "GT", "value": after },
        ] }],
        "sorts": [{ "propertyName": "hs_object_id", "direction": "ASCENDING" }],
        "properties": [modified],
        "limit": 200,
        "after": "0",
    })
}

/// Where a stream stands after a first listing that brought nothing: the next page is a search.
async fn listed(server: &MockServer, hubspot: &HubSpot, stream: &Stream, at: &str) -> Cursor {
    answers(server, "GET", at, 200, json!({ "results": [] })).await;
    let page = hubspot.changes(CALL, stream, &Cursor::start()).await.unwrap();
    assert!(page.seen.is_empty() && !page.more);
    page.next
}

#[tokio::test]
async fn a_window_is_searched_in_order_of_id_until_a_page_is_short() {
    let server = vendor().await;
    let hubspot = hubspot(&server);
    let changes = stream(&hubspot, "deal.changes");
    let cursor = listed(&server, &hubspot, &changes, DEALS).await;
    let at = format!("{DEALS}/search");
    let full: Vec<Json> = (31_550_001..=31_550_200).map(|n: u32| row(&n.to_string())).collect();
    once(&server, "POST", &at, 200, json!({ "total": 201, "results": full })).await;
    answers(&server, "POST", &at, 200, json!({ "total": 1, "results": [row("31550201")] })).await;

    let first = hubspot.changes(CALL, &changes, &cursor).await.unwrap();
    assert_eq!((first.seen.len(), first.total), (200, Some(201)));
    let version = Version { token: None, updated_at: Some(time("2026-11-18T11:05:10.004Z")) };
    assert_eq!(first.seen[0], Seen::Hint { id: id("31550001"), version }, "a row is a hint and no record");
    assert!(first.more, "a full page goes on, whatever else the answer says");
    let last = hubspot.changes(CALL, &changes, &first.next).await.unwrap();
    assert!(last.seen.len() == 1 && !last.more, "a short page ends the window");
    hubspot.changes(CALL, &changes, &last.next).await.unwrap();

    let asked = sent(&server, &at).await;
    // From a quarter of an hour before the listing began: no answer had said yet what time it is at HubSpot.
    let (since, until) = ("1794999100000", "1795000000000");
    assert_eq!(asked[0], search("hs_lastmodifieddate", since, until, "0"));
    assert_eq!(asked[1], search("hs_lastmodifieddate", since, until, "31550200"), "the same window, further on");
    let filters = &asked[2]["filterGroups"][0]["filters"];
    assert_eq!(filters[0]["value"], "1794999880000", "the next window begins two minutes before the last one ended");
    assert_eq!(filters[2]["value"], "0");
}

#[tokio::test]
async fn a_short_page_that_names_a_next_one_goes_on_and_an_empty_one_does_not() {
    let server = vendor().await;
    let hubspot = hubspot(&server);
    let changes = stream(&hubspot, "deal.changes");
    let cursor = listed(&server, &hubspot, &changes, DEALS).await;
    let at = format!("{DEALS}/search");
    let next = json!({ "next": { "after": "1", "link": "https://api.hubapi.com/x" } });
    once(&server, "POST", &at, 200, json!({ "total": 431, "results": [row("31550004")], "paging": next })).await;
    once(&server, "POST", &at, 200, json!({ "total": 430, "results": [], "paging": next })).await;
    let short = hubspot.changes(CALL, &changes, &cursor).await.unwrap();
    assert!(short.seen.len() == 1 && short.more);
    let empty = hubspot.changes(CALL, &changes, &short.next).await.unwrap();
    assert!(empty.seen.is_empty() && !empty.more, "there is no last id to go on from");
    let asked = sent(&server, &at).await;
    assert_eq!(asked[1]["filterGroups"][0]["filters"][2]["value"], "31550004");
    assert_eq!(asked[1]["after"], "0", "never an offset: those end at 10,000 rows");
}

#[tokio::test]
async fn contacts_are_searched_by_the_time_that_contacts_have() {
    let server = vendor().await;
    let hubspot = hubspot(&server);
    let changes = stream(&hubspot, "contact.changes");
    let cursor = listed(&server, &hubspot, &changes, PEOPLE).await;
    let at = format!("{PEOPLE}/search");
    answers(&server, "POST", &at, 200, json!({ "total": 0, "results": [] })).await;
    hubspot.changes(CALL, &changes, &cursor).await.unwrap();
    assert_eq!(sent(&server, &at).await, [search("lastmodifieddate", "1794999100000", "1795000000000", "0")]);
}

#[tokio::test]
async fn the_late_stream_searches_the_hour_before_the_last_one() {
    let server = vendor().await;
    let hubspot = hubspot(&server);
    let at = format!("{DEALS}/search");
    answers(&server, "POST", &at, 200, json!({ "total": 0, "results": [] })).await;
    hubspot.changes(CALL, &stream(&hubspot, "deal.late"), &Cursor::start()).await.unwrap();
    assert_eq!(sent(&server, &at).await, [search("hs_lastmodifieddate", "1794992800000", "1794996400000", "0")]);
}

fn pier(name: &str) -> [(&'static str, Value); 2] {
    [("dealname", Value::text(name)), ("amount", Value::Number(Decimal::new(900, 0)))]
}

async fn with_marker(server: &MockServer) {
    answers(server, "GET", &format!("{DEAL_PROPERTIES}/tandem_id"), 200, marker("tandem_id", true)).await;
}

#[tokio::test]
async fn a_create_carries_our_marker_and_the_contacts() {
    let server = vendor().await;
    with_marker(&server).await;
    let at = format!("{DEALS}/batch/create");
    let stored = [written("31550003", "t-2", "South pier"), written("31550002", "t-1", "North pier")];
    answers(&server, "POST", &at, 201, batch(&stored, &[])).await;
    let mut linked = pier("North pier").to_vec();
    linked.extend([(CONTACTS, refs(&["70021", "70044"])), ("dealstage", Value::Absent)]);
    let writes = [create("t-1", Kind::Deal, &linked), create("t-2", Kind::Deal, &pier("South pier"))];
    let hubspot = hubspot(&server);
    let outcomes = hubspot.push(CALL, &writes).await;
    let Pushed::Written { id: made, properties, version } = &outcomes[0] else { panic!("{outcomes:?}") };
    assert_eq!(*made, id("31550002"), "matched by trace and not by place");
    assert_eq!(properties["dealname"], Value::text("North pier"));
    assert_eq!(properties["amount"], Value::Number(Decimal::new(900, 0)));
    assert_eq!(properties[CONTACTS], refs(&["70021", "70044"]));
    assert!(!properties.contains_key("dealstage"), "what was not returned is not known");
    assert_eq!(version.updated_at, Some(time("2026-11-20T10:06:00.100Z")));
    assert!(matches!(&outcomes[1], Pushed::Written { id: made, .. } if *made == id("31550003")), "{outcomes:?}");
    let link = |to: &str| {
        json!({ "to": { "id": to },
            "types": [{ "associationCategory": "HUBSPOT_DEFINED", "associationTypeId": 3 }] })
    };
    let asked = json!({ "inputs": [
        { "objectWriteTraceId": "t-1", "associations": [link("70021"), link("70044")],
            "properties": { "amount": "900", "dealname": "North pier", "tandem_id": "pd:t-1" } },
        { "objectWriteTraceId": "t-2", "associations": [],
            "properties": { "amount": "900", "dealname": "South pier", "tandem_id": "pd:t-2" } },
    ] });
    assert_eq!(sent(&server, &at).await, [asked]);
    hubspot.push(CALL, &writes).await;
    let looks = bodies(&server, "GET", &format!("{DEAL_PROPERTIES}/tandem_id")).await;
    assert_eq!(looks.len(), 1, "the property is looked for once");
}

#[tokio::test]
async fn each_row_of_a_create_has_its_own_outcome() {
    let server = vendor().await;
    with_marker(&server).await;
    let why = r#"Property values were not valid: [{"isValid":false,"message":"Property \"no_such_prop\" does not exist","error":"PROPERTY_DOESNT_EXIST","name":"no_such_prop"}]"#;
    let refused = json!({ "status": "error", "category": "VALIDATION_ERROR", "message": why,
        "context": { "objectWriteTraceId": ["t-2"] } });
    let body = batch(&[written("31550002", "t-1", "North pier")], &[refused]);
    answers(&server, "POST", &format!("{DEALS}/batch/create"), 207, body).await;
    let south = [("dealname", Value::text("South pier")), ("no_such_prop", Value::text("x"))];
    let writes = [
        create("t-1", Kind::Deal, &pier("North pier")),
        create("t-2", Kind::Deal, &south),
        create("t-3", Kind::Deal, &pier("West pier")),
    ];
    let outcomes = hubspot(&server).push(CALL, &writes).await;
    assert!(matches!(&outcomes[0], Pushed::Written { id: made, .. } if *made == id("31550002")), "{outcomes:?}");
    let Pushed::Failed(ConnectorError::Rejected { field, reason }) = &outcomes[1] else { panic!("{outcomes:?}") };
    assert_eq!((field.as_deref(), reason.as_str()), (Some("no_such_prop"), "PROPERTY_DOESNT_EXIST"));
    assert!(
        matches!(&outcomes[2], Pushed::Failed(ConnectorError::OutcomeUnknown(_))),
        "a row that is named nowhere may have been stored: {outcomes:?}"
    );
}

#[tokio::test]
async fn creates_that_are_refused_together_are_sent_apart() {
    let server = vendor().await;
    with_marker(&server).await;
    let at = format!("{DEALS}/batch/create");
    let clash = json!({ "status": "error", "correlationId": "33cc", "category": "VALIDATION_ERROR",
        "message": "Cannot set PropertyValueCoordinates{portalId=4242, \
                    objectTypeId=ObjectTypeId{legacyObjectType=DEAL}, propertyName=tandem_id, \
                    value=pd:t-2} on 31550077. 31550001 already has that value." });
    Mock::given(method("POST"))
        .and(path(&at))
        .and(body_string_contains("t-2"))
        .respond_with(answer(409, clash))
        .expect(2)
        .mount(&server)
        .await;
    answers(&server, "POST", &at, 201, batch(&[written("31550002", "t-1", "North pier")], &[])).await;
    let writes = [create("t-1", Kind::Deal, &pier("North pier")), create("t-2", Kind::Deal, &pier("South pier"))];
    let outcomes = hubspot(&server).push(CALL, &writes).await;
    assert!(matches!(&outcomes[0], Pushed::Written { id: made, .. } if *made == id("31550002")), "{outcomes:?}");
    assert!(
        matches!(&outcomes[1], Pushed::Exists { id: there, ours: true } if *there == id("31550001")),
        "{outcomes:?}"
    );
    let sizes: Vec<_> = sent(&server, &at).await.iter().map(|body| body["inputs"].as_array().map(Vec::len)).collect();
    assert_eq!(sizes, [Some(2), Some(1), Some(1)]);
}

#[tokio::test]
async fn records_are_archived_in_one_call() {
    let server = vendor().await;
    let at = format!("{DEALS}/batch/archive");
    answers(&server, "POST", &at, 204, Json::Null).await;
    let archive = |trace: &str, target: &str| Write {
        trace: trace.into(),
        kind: Kind::Deal,
        op: WriteOp::Archive { id: id(target) },
    };
    let outcomes = hubspot(&server).push(CALL, &[archive("a-1", "31550001"), archive("a-2", "31550002")]).await;
    for (outcome, target) in outcomes.iter().zip(["31550001", "31550002"]) {
        let Pushed::Written { id: gone, properties, .. } = outcome else { panic!("{outcome:?}") };
        assert!(*gone == id(target) && properties.is_empty());
    }
    assert_eq!(sent(&server, &at).await, [json!({ "inputs": [{ "id": "31550001" }, { "id": "31550002" }] })]);
}

/// The contacts of the deals 31550001 and 31550003 where their associations are answered so, and what was asked.
async fn contacts(pages: &[(u16, Json)]) -> (Vec<Option<Value>>, Vec<Json>) {
    let server = vendor().await;
    let deals = [deal("31550001", "Harbor refit"), deal("31550003", "Quay lights")];
    answers(&server, "POST", &format!("{DEALS}/batch/read"), 200, batch(&deals, &[])).await;
    let at = format!("{LINKS}/read");
    for (status, page) in pages {
        once(&server, "POST", &at, *status, page.clone()).await;
    }
    let fetched = hubspot(&server).fetch(CALL, Kind::Deal, &[id("31550001"), id("31550003")]).await.unwrap();
    let contacts = fetched.into_iter().map(|fetched| match fetched {
        Fetched::Found(record) => record.properties.get(CONTACTS).cloned(),
        other => panic!("{other:?}"),
    });
    (contacts.collect(), sent(&server, &at).await)
}

fn linked(from: &str, to: &[Json]) -> Json {
    json!({ "from": { "id": from }, "to": to })
}

#[tokio::test]
async fn a_deal_without_contacts_has_an_empty_list_of_them() {
    let none = json!({ "status": "error", "category": "OBJECT_NOT_FOUND",
        "subCategory": "crm.associations.NO_ASSOCIATIONS_FOUND",
        "message": "No contact is associated with deal 31550003.",
        "context": { "fromObjectId": ["31550003"], "fromObjectType": ["deal"], "toObjectType": ["contact"] } });
    let page = batch(&[linked("31550001", &[a_link(json!(70021), None)])], &[none]);
    let (contacts, asked) = contacts(&[(207, page)]).await;
    assert_eq!(contacts, [Some(refs(&["70021"])), Some(refs(&[]))]);
    assert_eq!(asked, [json!({ "inputs": [{ "id": "31550001" }, { "id": "31550003" }] })]);
}

#[tokio::test]
async fn contacts_that_could_not_be_read_are_absent_and_not_empty() {
    let found = linked("31550001", &[a_link(json!("70021"), None)]);
    let failed = json!({ "status": "error", "category": "INTERNAL_ERROR", "message": "internal error",
        "context": { "fromObjectId": ["31550003"], "fromObjectType": ["deal"], "toObjectType": ["contact"] } });
    let (of_each, _) = contacts(&[(207, batch(std::slice::from_ref(&found), &[failed]))]).await;
    assert_eq!(of_each, [Some(refs(&["70021"])), None]);

    let nameless = json!({ "status": "error", "category": "INTERNAL_ERROR", "message": "internal error" });
    let (of_each, _) = contacts(&[(207, batch(&[found], &[nameless]))]).await;
    assert_eq!(of_each, [None, None], "a failure that names nobody may be about anybody");
}

#[tokio::test]
async fn contacts_of_several_pages_are_one_list_with_the_primary_one_first() {
    let mut many = linked("31550001", &[a_link(json!(70044), None), a_link(json!(70021), None)]);
    many["paging"] = json!({ "next": { "after": "NzAwNDQ", "link": "https://api.hubapi.com/x" } });
    let few = linked("31550003", &[a_link(json!("70021"), None)]);
    // The same contact again, as a second type of link.
    let rest = linked("31550001", &[a_link(json!("70033"), Some("Primary")), a_link(json!("70021"), Some("Payer"))]);
    let (contacts, asked) = contacts(&[(200, batch(&[many, few], &[])), (200, batch(&[rest], &[]))]).await;
    assert_eq!(contacts, [Some(refs(&["70033", "70021", "70044"])), Some(refs(&["70021"]))]);
    assert_eq!(asked[1..], [json!({ "inputs": [{ "id": "31550001", "after": "NzAwNDQ" }] })]);
}

#[tokio::test]
async fn a_listed_deal_with_more_contacts_than_the_list_shows_is_asked_for_all_of_them() {
    let server = vendor().await;
    let to = |id: &str| json!({ "id": id, "type": "deal_to_contact" });
    let mut many = deal("31550001", "Harbor refit");
    many["associations"] = json!({ "contacts": { "results": [to("70021")],
        "paging": { "next": { "after": "NzAwMjE", "link": "https://api.hubapi.com/x" } } } });
    let mut few = deal("31550002", "North pier");
    few["associations"] = json!({ "contacts": { "results": [to("70044"), to("70021")] } });
    let none = deal("31550003", "Quay lights");
    Mock::given(method("GET"))
        .and(path(DEALS))
        .and(query_param("limit", "100"))
        .and(query_param("associations", "contacts"))
        .and(query_param("properties", "amount,dealname,dealstage,hs_lastmodifieddate,hs_merged_object_ids,tandem_id"))
        .and(query_param("after", "31550001"))
        .respond_with(answer(200, json!({ "results": [many, few, none] })))
        .mount(&server)
        .await;
    let all = linked("31550001", &[a_link(json!(70021), None), a_link(json!(70022), None)]);
    answers(&server, "POST", &format!("{LINKS}/read"), 200, batch(&[all], &[])).await;
    let page = hubspot(&server).list(CALL, Kind::Deal, &Cursor("31550001".into())).await.unwrap();
    let contacts: Vec<Value> = page
        .seen
        .iter()
        .map(|seen| match seen {
            Seen::Record(record) => record.property(CONTACTS),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(contacts, [refs(&["70021", "70022"]), refs(&["70021", "70044"]), refs(&[])]);
    let asked = sent(&server, &format!("{LINKS}/read")).await;
    assert_eq!(asked, [json!({ "inputs": [{ "id": "31550001" }] })]);
}

/// A deal whose contacts were 70021 and 70033 and are to be 70021 and 70044.
fn relinked() -> Write {
    let want = [("dealname", Value::text("Harbor refit")), (CONTACTS, refs(&["70021", "70044"]))];
    update("u-1", &want, &[(CONTACTS, refs(&["70033", "70021"]))])
}

async fn updated(server: &MockServer) {
    let stored = written("31550001", "u-1", "Harbor refit");
    answers(server, "POST", &format!("{DEALS}/batch/update"), 200, batch(&[stored], &[])).await;
}

#[tokio::test]
async fn contacts_that_changed_are_linked_and_unlinked_after_the_properties() {
    let spec = json!({ "from": { "id": "31550001" }, "to": { "id": "70044" },
        "associationSpec": { "associationCategory": "HUBSPOT_DEFINED", "associationTypeId": 3 } });
    let (link, unlink) = (format!("{LINKS}/associate/default"), format!("{LINKS}/archive"));
    // Either is documented for taking links away.
    for (status, body) in [(204, Json::Null), (200, batch(&[], &[]))] {
        let server = vendor().await;
        updated(&server).await;
        answers(&server, "POST", &link, 200, batch(std::slice::from_ref(&spec), &[])).await;
        answers(&server, "POST", &unlink, status, body).await;
        let outcomes = hubspot(&server).push(CALL, &[relinked()]).await;
        let Pushed::Written { properties, .. } = &outcomes[0] else { panic!("{outcomes:?}") };
        assert_eq!(properties["dealname"], Value::text("Harbor refit"));
        assert_eq!(properties[CONTACTS], refs(&["70021", "70044"]));
        let plain = json!({ "inputs": [
            { "id": "31550001", "objectWriteTraceId": "u-1", "properties": { "dealname": "Harbor refit" } }] });
        assert_eq!(sent(&server, &format!("{DEALS}/batch/update")).await, [plain]);
        let added = json!({ "inputs": [{ "from": { "id": "31550001" }, "to": { "id": "70044" } }] });
        assert_eq!(sent(&server, &link).await, [added]);
        let removed = json!({ "inputs": [{ "from": { "id": "31550001" }, "to": [{ "id": "70033" }] }] });
        assert_eq!(sent(&server, &unlink).await, [removed]);
    }
}

#[tokio::test]
async fn links_that_were_refused_in_part_are_read_back() {
    let server = vendor().await;
    updated(&server).await;
    let refused = json!({ "status": "error", "category": "OBJECT_NOT_FOUND", "message": "No contact 70044.",
        "context": { "toObjectId": ["70044"] } });
    answers(&server, "POST", &format!("{LINKS}/associate/default"), 207, batch(&[], &[refused])).await;
    let there = linked("31550001", &[a_link(json!(70033), None), a_link(json!(70021), None)]);
    answers(&server, "POST", &format!("{LINKS}/read"), 200, batch(&[there], &[])).await;
    let outcomes = hubspot(&server).push(CALL, &[relinked()]).await;
    let Pushed::Written { properties, .. } = &outcomes[0] else { panic!("{outcomes:?}") };
    assert_eq!(properties[CONTACTS], refs(&["70021", "70033"]), "what is there and not what was wanted");
    assert!(sent(&server, &format!("{LINKS}/archive")).await.is_empty(), "nobody is unlinked for want of the other");
}

#[tokio::test]
async fn an_update_whose_contacts_may_not_be_linked_is_not_known_to_be_done() {
    let server = vendor().await;
    updated(&server).await;
    answers(&server, "POST", &format!("{LINKS}/associate/default"), 503, Json::Null).await;
    let outcomes = hubspot(&server).push(CALL, &[relinked()]).await;
    assert!(matches!(&outcomes[0], Pushed::Failed(ConnectorError::OutcomeUnknown(_))), "{outcomes:?}");
}

#[tokio::test]
async fn a_clash_over_an_address_is_looked_up_by_that_address() {
    let server = vendor().await;
    answers(&server, "GET", &format!("{CONTACT_PROPERTIES}/tandem_id"), 200, marker("tandem_id", true)).await;
    let clash = json!({ "status": "error", "message": "Contact already exists", "correlationId": "55ee",
        "category": "OBJECT_ALREADY_EXISTS", "error": "CONTACT_EXISTS",
        "errors": [{ "message": "Contact already exists", "in": "email" }] });
    answers(&server, "POST", &format!("{PEOPLE}/batch/create"), 409, clash).await;
    let read = format!("{PEOPLE}/batch/read");
    let jane = json!({ "id": "70021", "properties": { "email": "jane@example.com" } });
    once(&server, "POST", &read, 200, batch(&[jane], &[])).await;
    once(&server, "POST", &read, 207, batch(&[], &[])).await;
    let write = [create("t-1", Kind::Contact, &[("email", Value::text("roe@example.com"))])];
    let hubspot = hubspot(&server);
    let found = hubspot.push(CALL, &write).await;
    assert!(
        matches!(&found[0], Pushed::Exists { id: there, ours: false } if *there == id("70021")),
        "by a further address of hers: {found:?}"
    );
    let nobody = hubspot.push(CALL, &write).await;
    assert!(matches!(&nobody[0], Pushed::Failed(ConnectorError::Conflict(_))), "{nobody:?}");
    let asked = json!({
        "idProperty": "email",
        "properties": ["email", "hs_merged_object_ids", "lastmodifieddate", "tandem_id"],
        "propertiesWithHistory": [],
        "inputs": [{ "id": "roe@example.com" }],
    });
    assert_eq!(sent(&server, &read).await, [asked.clone(), asked]);
}

#[tokio::test]
async fn the_marker_property_is_made_before_the_first_create_and_waited_for() {
    let taken = json!({ "status": "error", "message": "A property named 'tandem_id' already exists.",
        "correlationId": "88bb", "category": "OBJECT_ALREADY_EXISTS",
        "subCategory": "Properties.PROPERTY_WITH_NAME_EXISTS" });
    // The second: somebody made it between our look and our call.
    for (status, answered) in [(201, marker("tandem_id", true)), (409, taken)] {
        let server = vendor().await;
        let look = format!("{DEAL_PROPERTIES}/tandem_id");
        // Before it is made, and once after: it is usable only after a moment.
        once(&server, "GET", &look, 404, not_found()).await;
        once(&server, "GET", &look, 404, not_found()).await;
        with_marker(&server).await;
        answers(&server, "POST", DEAL_PROPERTIES, status, answered).await;
        let stored = written("31550002", "t-1", "North pier");
        answers(&server, "POST", &format!("{DEALS}/batch/create"), 201, batch(&[stored], &[])).await;
        let outcomes = hubspot(&server).push(CALL, &[create("t-1", Kind::Deal, &pier("North pier"))]).await;
        assert!(matches!(&outcomes[0], Pushed::Written { .. }), "{status}: {outcomes:?}");
        let made = json!({
            "name": "tandem_id", "label": "Tandem id", "type": "string", "fieldType": "text",
            "groupName": "dealinformation", "hasUniqueValue": true, "hidden": false, "formField": false,
            "description": "Written by Tandem on records it creates, so that none is created twice.",
        });
        assert_eq!(sent(&server, DEAL_PROPERTIES).await, [made]);
        assert_eq!(bodies(&server, "GET", &look).await.len(), 3);
    }
}

#[tokio::test]
async fn a_marker_property_that_is_not_unique_stops_creating() {
    let server = vendor().await;
    answers(&server, "GET", &format!("{DEAL_PROPERTIES}/tandem_id"), 200, marker("tandem_id", false)).await;
    let outcomes = hubspot(&server).push(CALL, &[create("t-1", Kind::Deal, &pier("North pier"))]).await;
    let Pushed::Failed(ConnectorError::Forbidden(why)) = &outcomes[0] else { panic!("{outcomes:?}") };
    assert!(why.contains("`tandem_id` of deals exists but is not unique"), "{why}");
    assert!(sent(&server, &format!("{DEALS}/batch/create")).await.is_empty());
}

#[tokio::test]
async fn a_check_reads_the_account_the_rights_and_the_mapped_properties() {
    let server = vendor().await;
    let account = json!({ "portalId": 4242, "accountType": "STANDARD", "timeZone": "US/Eastern",
        "companyCurrency": "USD", "additionalCurrencies": ["EUR"], "utcOffset": "-05:00",
        "utcOffsetMilliseconds": -18_000_000, "uiDomain": "app.hubspot.com", "dataHostingLocation": "na1" });
    answers(&server, "GET", ACCOUNT, 200, account).await;
    let reads = Mock::given(method("GET")).and(path(DEALS)).and(query_param("limit", "1"));
    reads.respond_with(answer(200, json!({ "results": [] }))).expect(1).mount(&server).await;
    answers(&server, "GET", PEOPLE, 403, missing_scope("crm.objects.contacts.read")).await;
    with_marker(&server).await;
    answers(&server, "GET", &format!("{CONTACT_PROPERTIES}/tandem_id"), 404, not_found()).await;
    let text = |name: &str| json!({ "name": name, "label": name, "type": "string", "fieldType": "text" });
    answers(&server, "GET", CONTACT_PROPERTIES, 200, json!({ "results": [text("email")] })).await;
    answers(&server, "GET", DEAL_PROPERTIES, 200, json!({ "results": [text("amount"), text("dealname")] })).await;
    let identity = hubspot(&server).check().await.unwrap();
    assert_eq!(identity.remote_account, "4242");
    assert_eq!(identity.timezone.as_deref(), Some("US/Eastern"));
    assert_eq!(identity.currency.as_deref(), Some("USD"));
    assert_eq!(BTreeSet::from_iter(identity.currencies), BTreeSet::from(["EUR".to_owned(), "USD".to_owned()]));
    assert!(identity.clock_offset.is_zero());
    let items: BTreeMap<&str, (bool, &str)> =
        identity.items.iter().map(|item| (item.name.as_str(), (item.ok, item.detail.as_str()))).collect();
    for (name, ok, word) in [
        ("access token", true, "4242"),
        ("read deals", true, "allowed"),
        ("read contacts", false, "crm.objects.contacts.read"),
        ("create deals", true, "is there"),
        ("create contacts", true, "will be made"),
        ("property dealstage of deals", false, "HubSpot does not have it"),
        ("clock", true, "agrees"),
        ("webhooks", false, "client_secret"),
    ] {
        let (found, detail) = items[name];
        assert!(found == ok && detail.contains(word), "{name}: {found}, {detail}");
    }
    assert_eq!(items.len(), 8, "{items:?}");
}

/// Everything that discovery asks for, but the owners.
async fn discoverable(server: &MockServer) {
    let stage = |id: &str, label: &str, order: u32, closed: &str, probability: &str| {
        json!({ "id": id, "label": label, "displayOrder": order, "archived": false,
            "metadata": { "isClosed": closed, "probability": probability },
            "createdAt": "2024-01-01T00:00:00Z", "updatedAt": "2024-01-01T00:00:00Z" })
    };
    let pipeline = |id: &str, label: &str, order: u32, archived: bool, stages: Json| {
        json!({ "id": id, "label": label, "displayOrder": order, "archived": archived, "stages": stages,
            "createdAt": "2024-01-01T00:00:00Z", "updatedAt": "2026-02-01T00:00:00Z" })
    };
    let sales = json!([
        stage("closedlost", "Lost", 6, "true", "0.0"),
        stage("qualifiedtobuy", "Qualified", 1, "false", "0.4"),
        stage("closedwon", "Won", 5, "true", "1.0"),
    ]);
    let pipelines = json!({ "results": [
        pipeline("712", "Refits", 1, false, json!([])),
        pipeline("713", "Old", 2, true, json!([])),
        pipeline("default", "Sales", 0, false, sales),
    ] });
    answers(server, "GET", "/crm/pipelines/2026-09/deals", 200, pipelines).await;
    let property = |name: &str, kind: &str, field: &str| {
        json!({ "name": name, "label": name, "type": kind, "fieldType": field, "hidden": false,
            "modificationMetadata": { "archivable": true, "readOnlyDefinition": true, "readOnlyValue": false } })
    };
    let mut closed = property("hs_is_closed", "bool", "booleancheckbox");
    closed["calculated"] = true.into();
    let mut modified = property("hs_lastmodifieddate", "datetime", "date");
    modified["modificationMetadata"]["readOnlyValue"] = true.into();
    let deals = json!({ "results": [
        property("amount", "number", "number"),
        property("dealstage", "enumeration", "radio"),
        property("services", "enumeration", "checkbox"),
        property("signed_on", "date", "date"),
        closed,
        modified,
        marker("tandem_id", true),
    ] });
    answers(server, "GET", DEAL_PROPERTIES, 200, deals).await;
    let people = json!({ "results": [property("email", "string", "text")] });
    answers(server, "GET", CONTACT_PROPERTIES, 200, people).await;
}

#[tokio::test]
async fn discovery_reads_pipelines_properties_and_every_page_of_owners() {
    let server = vendor().await;
    discoverable(&server).await;
    let owner = |id: &str, email: &str, first: &str, archived: bool| {
        json!({ "id": id, "email": email, "type": "PERSON", "firstName": first, "lastName": "Ito",
            "userId": if archived { Json::Null } else { json!(77_001) }, "userIdIncludingInactive": 77_001,
            "createdAt": "2025-03-01T09:00:00.000Z", "updatedAt": "2026-05-01T09:00:00.000Z", "archived": archived,
            "teams": [{ "id": "9", "name": "North", "primary": true }] })
    };
    let queue = json!({ "id": "55013", "email": "", "type": "QUEUE", "archived": false });
    let next = json!({ "next": { "after": "NTUwMTM", "link": "https://api.hubapi.com/x" } });
    let asked = |archived: &str| {
        let asked = Mock::given(method("GET")).and(path(OWNERS)).and(query_param("limit", "100"));
        asked.and(query_param("archived", archived))
    };
    let first = json!({ "results": [owner("55012", "Ana.Ito@Example.com", "Ana", false)], "paging": next });
    let page = asked("false").and(query_param_is_missing("after")).respond_with(answer(200, first));
    page.expect(1).mount(&server).await;
    let second = asked("false").and(query_param("after", "NTUwMTM"));
    second.respond_with(answer(200, json!({ "results": [queue] }))).expect(1).mount(&server).await;
    let left = json!({ "results": [owner("55014", "kei.ito@example.com", "Kei", true)] });
    asked("true").respond_with(answer(200, left)).expect(1).mount(&server).await;

    let schema = hubspot(&server).discover().await.unwrap();
    let pipelines: Vec<(&str, &str)> = schema.pipelines.iter().map(|p| (p.id.as_str(), p.label.as_str())).collect();
    assert_eq!(pipelines, [("default", "Sales"), ("712", "Refits")], "in their order, without the one put away");
    let stages: Vec<_> =
        schema.pipelines[0].stages.iter().map(|s| (s.id.as_str(), s.label.as_str(), s.probability, s.closed)).collect();
    let in_order =
        [("qualifiedtobuy", "Qualified", 40, false), ("closedwon", "Won", 100, true), ("closedlost", "Lost", 0, true)];
    assert_eq!(stages, in_order);
    let owners: Vec<_> =
        schema.owners.iter().map(|o| (o.id.as_str(), o.email.as_deref(), o.name.as_str(), o.archived)).collect();
    let people = [
        ("55012", Some("ana.ito@example.com"), "Ana Ito", false),
        ("55013", None, "", false),
        ("55014", Some("kei.ito@example.com"), "Kei Ito", true),
    ];
    assert_eq!(owners, people);
    let deals = &schema.properties[&Kind::Deal];
    for (name, kind, read_only, unique) in [
        ("amount", PropertyType::Number, false, false),
        ("dealstage", PropertyType::Text, false, false),
        ("services", PropertyType::Choices, false, false),
        ("signed_on", PropertyType::Date, false, false),
        ("hs_is_closed", PropertyType::Flag, true, false),
        ("hs_lastmodifieddate", PropertyType::Time, true, false),
        ("tandem_id", PropertyType::Text, false, true),
    ] {
        let found = &deals[name];
        assert_eq!((found.kind, found.read_only, found.unique), (kind, read_only, unique), "{name}");
    }
    assert!(schema.properties[&Kind::Contact].contains_key("email"));
}

#[tokio::test]
async fn without_the_owners_scope_the_rest_is_still_discovered() {
    let server = vendor().await;
    discoverable(&server).await;
    answers(&server, "GET", OWNERS, 403, missing_scope("crm.objects.owners.read")).await;
    let schema = hubspot(&server).discover().await.unwrap();
    assert!(schema.owners.is_empty());
    assert_eq!((schema.pipelines.len(), schema.properties.len()), (2, 2));
}

#[tokio::test]
async fn the_older_generation_of_paths_reaches_the_same_routes() {
    let server = vendor().await;
    let stored = batch(&[deal("31550001", "Harbor refit")], &[]);
    answers(&server, "POST", "/crm/v3/objects/deals/batch/read", 200, stored).await;
    let page = batch(&[linked("31550001", &[a_link(json!(70021), None)])], &[]);
    answers(&server, "POST", "/crm/v4/associations/deals/contacts/batch/read", 200, page).await;
    let mut options = options(&server, token());
    options.api_version = ApiVersion::V3;
    let fetched = connect(options).fetch(CALL, Kind::Deal, &[id("31550001")]).await.unwrap();
    let [Fetched::Found(record)] = fetched.as_slice() else { panic!("{fetched:?}") };
    assert_eq!(record.property(CONTACTS), refs(&["70021"]));
}
