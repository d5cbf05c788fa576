//! Every refusal of HubSpot's error documentation, in its own words with invented ids, and the decision that each one
//! is taken for. Nothing here waits: the clock leaps.

use serde_json::{Value as Json, json};
use tandem_contract::{Connector, ConnectorError, Cursor, Kind, Pushed, Secret, Value, Write};
use tandem_hubspot::{Credentials, Options};
use wiremock::{
    Mock, MockServer, ResponseTemplate,
    matchers::{header, method, path},
};

use super::{
    decisions::{self, PAGE, Want, row},
    routes::{
        ACCOUNT, CALL, CONTACT_PROPERTIES, DEAL_PROPERTIES, DEALS, PEOPLE, answer, answers, bodies, connect, create,
        marker, options, start, token, update, vendor,
    },
};

const TOKEN: &str = "/oauth/2026-09/token";

const EXPIRED: &str = r#"{"status":"error","message":"The OAuth token used to make this call expired 12 second(s) ago.","correlationId":"019c","category":"EXPIRED_AUTHENTICATION","context":{"expire time":["2026-11-20T10:00:00.000Z"]}}"#;
const NO_CREDENTIALS: &str = r#"{"status":"error","message":"Authentication credentials not found. This API supports OAuth 2.0 authentication.","correlationId":"00aa","category":"INVALID_AUTHENTICATION"}"#;
const MISSING_SCOPES: &str = r#"{"status":"error","message":"This app hasn't been granted all required scopes to make this call.","correlationId":"11aa","category":"MISSING_SCOPES",
 "errors":[{"message":"One or more of the following scopes are required.","context":{"requiredGranularScopes":["crm.objects.deals.write"]}}],
 "links":{"scopes":"https://developers.hubspot.com/scopes"}}"#;
const CONTACT_CLASH: &str = r#"{"status":"error","message":"Contact already exists. Existing ID: 70021","correlationId":"22bb","category":"CONFLICT"}"#;
const CONTACT_EXISTS: &str = r#"{"status":"error","message":"Contact already exists","correlationId":"55ee","category":"OBJECT_ALREADY_EXISTS","error":"CONTACT_EXISTS","errors":[{"message":"Contact already exists","in":"email"}]}"#;
const UNIQUE: &str = r#"{"status":"error","message":"Cannot set PropertyValueCoordinates{portalId=4242, objectTypeId=ObjectTypeId{legacyObjectType=DEAL}, propertyName=sync_key, value=pd:9f1c:4411} on 31550077. 31550001 already has that value.","correlationId":"33cc","category":"VALIDATION_ERROR"}"#;
const GENERIC: &str = r#"{"status":"error","message":"Invalid input JSON","correlationId":"0c1b","category":"VALIDATION_ERROR","subCategory":"CrmValidation.SOME",
 "errors":[{"message":"about 900 was not a valid number.","code":"INVALID_NUMBER","in":"properties","subCategory":"CrmValidation.SOME","context":{"propertyName":["amount"]}}],
 "context":{"k":["v"]},"links":{"k":"https://developers.hubspot.com"}}"#;
const NOT_FOUND: &str =
    r#"{"status":"error","message":"resource not found","correlationId":"66ff","category":"OBJECT_NOT_FOUND"}"#;
const ROW_NOT_FOUND: &str = r#"{"status":"COMPLETE","results":[],"numErrors":1,"errors":[{"status":"error","category":"OBJECT_NOT_FOUND","message":"Could not get some DEAL objects, they may be deleted or not exist. Check that ids are valid.","context":{"ids":["31550001"],"objectWriteTraceId":["t-1"]}}],
 "startedAt":"2026-11-20T10:06:00.000Z","completedAt":"2026-11-20T10:06:00.180Z"}"#;
const TEN_SECONDLY: &str = r#"{"status":"error","message":"You have reached your ten_secondly_rolling limit.","errorType":"RATE_LIMIT","correlationId":"5b0a","policyName":"TEN_SECONDLY_ROLLING","requestId":"7d1e"}"#;
const SECONDLY: &str = r#"{"status":"error","message":"You have reached your secondly limit.","errorType":"RATE_LIMIT","correlationId":"5b0b","policyName":"SECONDLY","requestId":"7d1f"}"#;
const DAILY: &str = r#"{"status":"error","message":"You have reached your daily limit.","errorType":"RATE_LIMIT","correlationId":"5b0c","policyName":"DAILY","requestId":"7d20"}"#;

/// How HubSpot names a value it does not take: in JSON, as text, inside a message.
fn not_valid(why: &str, code: &str, property: &str) -> String {
    format!(
        r#"{{"status":"error","message":"Property values were not valid: [{{\"isValid\":false,\"message\":\"{why}\",\"error\":\"{code}\",\"name\":\"{property}\"}}]","correlationId":"44dd","category":"VALIDATION_ERROR"}}"#
    )
}

/// The same refusal as the only row of a batch.
fn in_a_batch(refusal: &str) -> String {
    let mut entry: Json = serde_json::from_str(refusal).unwrap();
    entry["context"] = json!({ "objectWriteTraceId": ["t-1"] });
    json!({ "status": "COMPLETE", "results": [], "numErrors": 1, "errors": [entry],
        "startedAt": "2026-11-20T10:06:00.000Z", "completedAt": "2026-11-20T10:06:00.180Z" })
    .to_string()
}

#[derive(Clone, Copy, Debug)]
enum Ask {
    /// Reads: a page of the list.
    List,
    /// Reads: a page of a search.
    Search,
    /// Writes: a deal that is there.
    Update,
    /// Writes: a new deal.
    Create,
    /// Writes: a new contact.
    CreateContact,
    /// Writes: a contact that is there.
    UpdateContact,
}

impl Ask {
    /// The call that is refused.
    fn route(self) -> (&'static str, String) {
        match self {
            Self::List => ("GET", DEALS.to_owned()),
            Self::Search => ("POST", format!("{DEALS}/search")),
            Self::Update => ("POST", format!("{DEALS}/batch/update")),
            Self::Create => ("POST", format!("{DEALS}/batch/create")),
            Self::CreateContact => ("POST", format!("{PEOPLE}/batch/create")),
            Self::UpdateContact => ("POST", format!("{PEOPLE}/batch/update")),
        }
    }
}

type Row = decisions::Row<Ask>;

/// Our unique property is called `sync_key` here, as in the vendor's words above.
fn keyed(server: &MockServer, credentials: Credentials) -> Options {
    let mut options = options(server, credentials);
    options.marker_property = "sync_key".into();
    options
}

/// A vendor that has the marker property and one contact, and refuses `row`'s call.
async fn refusing(row: &Row) -> MockServer {
    let server = vendor().await;
    for properties in [DEAL_PROPERTIES, CONTACT_PROPERTIES] {
        answers(&server, "GET", &format!("{properties}/sync_key"), 200, marker("sync_key", true)).await;
    }
    let jane = json!({ "status": "COMPLETE",
        "results": [{ "id": "70021", "properties": { "email": "jane.roe@example.com" } }] });
    answers(&server, "POST", &format!("{PEOPLE}/batch/read"), 200, jane).await;
    if matches!(row.ask, Ask::Search) {
        answers(&server, "GET", DEALS, 200, json!({ "results": [] })).await;
    }
    let mut refused = ResponseTemplate::new(row.status).insert_header("date", start().to_rfc2822());
    for (name, value) in row.headers {
        refused = refused.insert_header(*name, *value);
    }
    if !row.body.is_empty() {
        let mime = if row.body.starts_with('<') { "text/html" } else { "application/json" };
        refused = refused.set_body_raw(row.body.as_str(), mime);
    }
    let (verb, at) = row.ask.route();
    Mock::given(method(verb)).and(path(at)).respond_with(refused).mount(&server).await;
    server
}

async fn outcome(server: &MockServer, ask: Ask) -> Pushed {
    let hubspot = connect(keyed(server, token()));
    let deal = [("amount", Value::text("about 900")), ("dealstage", Value::text("junk"))];
    let contact = [("email", Value::text("jane.roe@example.com"))];
    let write = match ask {
        Ask::List => {
            return Pushed::Failed(hubspot.list(CALL, Kind::Deal, &Cursor::start()).await.unwrap_err());
        }
        Ask::Search => {
            let changes = hubspot.streams().into_iter().find(|stream| stream.name == "deal.changes").unwrap();
            // After the listing comes the search.
            let listed = hubspot.changes(CALL, &changes, &Cursor::start()).await.unwrap();
            return Pushed::Failed(hubspot.changes(CALL, &changes, &listed.next).await.unwrap_err());
        }
        Ask::Update => update("t-1", &deal, &[]),
        Ask::Create => create("t-1", Kind::Deal, &deal),
        Ask::CreateContact => create("t-1", Kind::Contact, &contact),
        Ask::UpdateContact => Write { kind: Kind::Contact, ..update("t-1", &contact, &[]) },
    };
    hubspot.push(CALL, &[write]).await.remove(0)
}

async fn tried(row: &Row) -> (Pushed, usize) {
    let server = refusing(row).await;
    let got = outcome(&server, row.ask).await;
    let (verb, at) = row.ask.route();
    (got, bodies(&server, verb, &at).await.len())
}

async fn hold(rows: Vec<Row>) {
    decisions::hold(rows, tried).await;
}

#[tokio::test]
async fn credentials_that_are_refused_are_told_from_rights_that_are_missing() {
    hold(vec![
        row("an expired token", Ask::List, 401, EXPIRED, Want::Unauthorized("refuses this access token")),
        row("an expired token", Ask::Update, 401, EXPIRED, Want::Unauthorized("refuses this access token")),
        row("no such token", Ask::List, 401, NO_CREDENTIALS, Want::Unauthorized("refuses this access token")),
        row("a missing scope", Ask::Update, 403, MISSING_SCOPES, Want::Forbidden("crm.objects.deals.write")),
        row("a missing scope", Ask::List, 403, MISSING_SCOPES, Want::Forbidden("crm.objects.deals.write")),
    ])
    .await;
}

#[tokio::test]
async fn a_clash_names_the_record_that_stands_in_the_way_and_whether_we_made_it() {
    let other = UNIQUE.replace("sync_key", "po_number");
    let named = CONTACT_EXISTS
        .replace("Contact already exists\",\"corr", "Contact already exists. Existing ID: 70021\",\"corr");
    assert_ne!(named, CONTACT_EXISTS);
    let taken = Want::Rejected;
    let (ours, theirs, hers) =
        (|| Want::Exists("31550001", true), || Want::Exists("31550001", false), || Want::Exists("70021", false));
    hold(vec![
        row("a contact's address", Ask::CreateContact, 409, CONTACT_CLASH, hers()),
        row("a contact's address, as a row", Ask::CreateContact, 207, in_a_batch(CONTACT_CLASH), hers()),
        row("the newer form", Ask::CreateContact, 409, CONTACT_EXISTS, hers()),
        row("the newer form, as a row", Ask::CreateContact, 207, in_a_batch(CONTACT_EXISTS), hers()),
        row("the newer form with the id", Ask::CreateContact, 409, named.as_str(), hers()),
        row("the newer form with the id, as a row", Ask::CreateContact, 207, in_a_batch(&named), hers()),
        row("our key", Ask::Create, 400, UNIQUE, ours()),
        row("our key", Ask::Create, 409, UNIQUE, ours()),
        row("our key, as a row", Ask::Create, 207, in_a_batch(UNIQUE), ours()),
        row("another unique property", Ask::Create, 400, other.as_str(), theirs()),
        row("another unique property", Ask::Create, 409, other.as_str(), theirs()),
        row("another unique property, as a row", Ask::Create, 207, in_a_batch(&other), theirs()),
        row("a clash that names nobody", Ask::Create, 409, CONTACT_EXISTS, Want::Conflict),
        // A record that is there stays what it is: only the value is refused.
        row("an update to her address", Ask::UpdateContact, 409, CONTACT_CLASH, taken(Some("email"), "record 70021")),
        row("an update to her address", Ask::UpdateContact, 409, CONTACT_EXISTS, taken(Some("email"), "record 70021")),
        row(
            "an update to a taken value",
            Ask::Update,
            400,
            other.as_str(),
            taken(Some("po_number"), "record 31550001"),
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_value_that_is_refused_is_named_by_its_property_and_the_vendors_code() {
    let option = not_valid("junk was not one of the allowed options: ...", "INVALID_OPTION", "dealstage");
    let unknown =
        |name| not_valid(&format!(r#"Property \\\"{name}\\\" does not exist"#), "PROPERTY_DOESNT_EXIST", name);
    let read_only = not_valid("hs_is_closed_won is read only", "READ_ONLY_VALUE", "hs_is_closed_won");
    let email = not_valid("Email address jane.roe@example.com is invalid", "INVALID_EMAIL", "email");
    let rejected = |field, code| Want::Rejected(Some(field), code);
    hold(vec![
        row("an option", Ask::Update, 400, option.as_str(), rejected("dealstage", "INVALID_OPTION")),
        row("an option, as a row", Ask::Update, 207, in_a_batch(&option), rejected("dealstage", "INVALID_OPTION")),
        row("the general shape", Ask::Update, 400, GENERIC, rejected("amount", "INVALID_NUMBER")),
        row("a property", Ask::Create, 400, unknown("no_such_prop"), rejected("no_such_prop", "PROPERTY_DOESNT_EXIST")),
        row(
            "a property, as a row",
            Ask::Create,
            207,
            in_a_batch(&unknown("no_such_prop")),
            rejected("no_such_prop", "PROPERTY_DOESNT_EXIST"),
        ),
        row("a calculated property", Ask::Update, 400, read_only, rejected("hs_is_closed_won", "READ_ONLY_VALUE")),
        row("an address", Ask::CreateContact, 400, email, rejected("email", "INVALID_EMAIL")),
        // Put away, or made a moment ago: the create is early and not wrong.
        row("our own property", Ask::Create, 400, unknown("sync_key"), Want::NotSent),
        row("our own property, as a row", Ask::Create, 207, in_a_batch(&unknown("sync_key")), Want::NotSent),
    ])
    .await;
}

#[tokio::test]
async fn only_hubspot_can_say_that_a_record_is_gone() {
    hold(vec![
        row("gone", Ask::List, 404, NOT_FOUND, Want::Gone),
        row("gone", Ask::Update, 404, NOT_FOUND, Want::Gone),
        row("gone, as a row", Ask::Update, 207, ROW_NOT_FOUND, Want::Gone),
        row("a proxy's page", Ask::List, 404, PAGE, Want::NotSent),
        row("a proxy's page", Ask::Update, 404, PAGE, Want::NotSent),
        row("a proxy's page", Ask::Update, 400, PAGE, Want::NotSent),
        row("an address too long", Ask::List, 414, "", Want::Rejected(None, "HTTP 414")),
        row("an address too long", Ask::Update, 414, "", Want::Rejected(None, "HTTP 414")),
    ])
    .await;
}

#[tokio::test]
async fn a_vendor_that_asks_for_patience_gets_it_and_parks_nothing() {
    let told = |wait| Want::RateLimited(Some(wait), "");
    let moving = |ask| Row { headers: &[("retry-after", "7200")], ..row("a move", ask, 477, "", told(7_200)) };
    hold(vec![
        // Held about two seconds: repeated after 2, 4 and 6.
        Row { calls: 4, ..row("a lock", Ask::Update, 423, "", Want::RateLimited(None, "")) },
        Row { calls: 4, ..row("a lock", Ask::List, 423, "", Want::RateLimited(None, "")) },
        // Repeated after 10 and 20 seconds; a wait of 30 is the engine's.
        Row { calls: 3, ..row("ten seconds", Ask::List, 429, TEN_SECONDLY, told(30)) },
        Row { calls: 3, ..row("ten seconds", Ask::Update, 429, TEN_SECONDLY, told(30)) },
        // Repeated after 1, 2 and 3.
        Row { calls: 4, ..row("a second", Ask::Search, 429, SECONDLY, Want::RateLimited(None, "SECONDLY")) },
        // From 11:06:40 to midnight, in UTC as long as the account's zone is not known.
        row("a day", Ask::List, 429, DAILY, told(46_400)),
        row("a day", Ask::Update, 429, DAILY, told(46_400)),
        Row { headers: &[("retry-after", "90")], ..row("a stated wait", Ask::List, 429, TEN_SECONDLY, told(90)) },
        moving(Ask::List),
        moving(Ask::Search),
        moving(Ask::Update),
    ])
    .await;
}

#[tokio::test]
async fn an_outage_leaves_a_write_in_doubt_and_a_read_to_be_repeated() {
    let mut rows = Vec::new();
    for status in [502, 503, 504, 521, 522, 523, 524] {
        rows.push(row("an outage", Ask::Update, status, PAGE, Want::OutcomeUnknown));
        rows.push(row("an outage", Ask::Create, status, "", Want::OutcomeUnknown));
        rows.push(row("an outage", Ask::List, status, PAGE, Want::NotSent));
    }
    for status in [525, 526] {
        for ask in [Ask::Update, Ask::Create, Ask::List] {
            rows.push(row("no connection behind the proxy", ask, status, PAGE, Want::NotSent));
        }
    }
    hold(rows).await;
}

#[tokio::test]
async fn a_day_that_is_spent_ends_at_midnight_of_the_account() {
    let server = vendor().await;
    let account = json!({ "portalId": 4242, "timeZone": "America/Phoenix", "companyCurrency": "USD" });
    answers(&server, "GET", ACCOUNT, 200, account).await;
    answers(&server, "GET", DEALS, 429, serde_json::from_str(DAILY).unwrap()).await;
    let mut options = keyed(&server, token());
    // Then a check asks for nothing but the account.
    options.select.clear();
    let hubspot = connect(options);
    hubspot.check().await.unwrap();
    let error = hubspot.list(CALL, Kind::Deal, &Cursor::start()).await.unwrap_err();
    let ConnectorError::RateLimited { retry_after: Some(wait), .. } = error else { panic!("{error:?}") };
    // It is 04:06:40 there; the two calls themselves may have taken a moment.
    assert!(wait.as_secs().abs_diff(71_600) <= 1, "{wait:?}");
}

#[tokio::test]
async fn a_marker_property_that_was_put_away_is_looked_for_before_the_next_create() {
    let refused = not_valid("It does not exist", "PROPERTY_DOESNT_EXIST", "sync_key");
    let server = refusing(&row("put away", Ask::Create, 400, refused, Want::NotSent)).await;
    let hubspot = connect(keyed(&server, token()));
    for looks in [1, 2] {
        let outcomes = hubspot.push(CALL, &[create("t-1", Kind::Deal, &[("dealname", Value::text("x"))])]).await;
        assert!(matches!(&outcomes[0], Pushed::Failed(ConnectorError::NotSent(_))), "{outcomes:?}");
        assert_eq!(bodies(&server, "GET", &format!("{DEAL_PROPERTIES}/sync_key")).await.len(), looks);
    }
}

fn grant() -> Credentials {
    let (client_secret, refresh_token) = (Secret::new("CSEC"), Secret::new("na1-7c1e"));
    Credentials::OAuth { client_id: "CID".into(), client_secret, refresh_token }
}

fn access(token: &str) -> Json {
    json!({ "access_token": token, "refresh_token": "na1-7c1e", "expires_in": 1800, "token_type": "bearer",
        "hub_id": 4242, "user_id": 77_001, "scopes": ["oauth", "crm.objects.deals.read"],
        "token_use": "access_token" })
}

/// Two access tokens, one after the other; the first one has expired.
async fn expiring() -> MockServer {
    let server = vendor().await;
    let first = Mock::given(method("POST")).and(path(TOKEN)).respond_with(answer(200, access("CJ7f-old")));
    first.up_to_n_times(1).mount(&server).await;
    answers(&server, "POST", TOKEN, 200, access("CJ7f-new")).await;
    let old = Mock::given(method("GET")).and(path(DEALS)).and(header("authorization", "Bearer CJ7f-old"));
    old.respond_with(answer(401, serde_json::from_str(EXPIRED).unwrap())).mount(&server).await;
    server
}

#[tokio::test]
async fn an_expired_access_token_is_refreshed_once_and_the_call_repeated() {
    let server = expiring().await;
    let new = Mock::given(method("GET")).and(path(DEALS)).and(header("authorization", "Bearer CJ7f-new"));
    new.respond_with(answer(200, json!({ "results": [] }))).mount(&server).await;
    let page = connect(keyed(&server, grant())).list(CALL, Kind::Deal, &Cursor::start()).await.unwrap();
    assert!(page.seen.is_empty());
    assert_eq!(bodies(&server, "GET", DEALS).await.len(), 2);
    let form = "grant_type=refresh_token&client_id=CID&client_secret=CSEC&refresh_token=na1-7c1e";
    assert_eq!(bodies(&server, "POST", TOKEN).await, [form, form], "the first token, and one refresh");
}

#[tokio::test]
async fn a_token_that_is_refused_again_after_its_refresh_stops_the_connection() {
    let server = expiring().await;
    answers(&server, "GET", DEALS, 401, serde_json::from_str(NO_CREDENTIALS).unwrap()).await;
    let error = connect(keyed(&server, grant())).list(CALL, Kind::Deal, &Cursor::start()).await.unwrap_err();
    assert!(matches!(&error, ConnectorError::Unauthorized(why) if why.contains("also after a refresh")), "{error}");
    assert_eq!(bodies(&server, "GET", DEALS).await.len(), 2);
    assert_eq!(bodies(&server, "POST", TOKEN).await.len(), 2);
}

#[tokio::test]
async fn only_a_refusal_of_the_grant_itself_stops_the_connection_to_connect_again() {
    let (gone, ours) = ("connect HubSpot again", "the customer need not act");
    for (status, body, want) in [
        (
            400_u16,
            r#"{"error":"invalid_grant","error_description":"refresh token is invalid, expired or revoked","status":"BAD_REFRESH_TOKEN","message":"refresh token is invalid, expired or revoked"}"#,
            Want::Unauthorized(gone),
        ),
        (
            400,
            r#"{"status":"BAD_REFRESH_TOKEN","message":"missing or invalid refresh token"}"#,
            Want::Unauthorized(gone),
        ),
        (400, r#"{"error":"invalid_grant","error_description":"refresh token is invalid"}"#, Want::Unauthorized(gone)),
        (
            400,
            r#"{"status":"BAD_HUB","message":"missing or unknown hub id","error":"access_denied"}"#,
            Want::Unauthorized(gone),
        ),
        (
            400,
            r#"{"error":"invalid_client","error_description":"missing or unknown client id","status":"BAD_CLIENT_ID","message":"missing or unknown client id"}"#,
            Want::Unauthorized(ours),
        ),
        (
            400,
            r#"{"error":"invalid_client","error_description":"missing or invalid client secret","status":"BAD_CLIENT_SECRET","message":"missing or invalid client secret"}"#,
            Want::Unauthorized(ours),
        ),
        (401, r#"{"error":"invalid_client"}"#, Want::Unauthorized(ours)),
        (423, "", Want::NotSent),
        (429, TEN_SECONDLY, Want::NotSent),
        (477, "", Want::NotSent),
        (500, r#"{"status":"error","message":"internal error","correlationId":"99dd"}"#, Want::NotSent),
        (502, PAGE, Want::NotSent),
        (503, "", Want::NotSent),
        (504, PAGE, Want::NotSent),
        (524, PAGE, Want::NotSent),
        (200, PAGE, Want::NotSent),
        (200, r#"{"token_type":"bearer"}"#, Want::NotSent),
        (404, PAGE, Want::NotSent),
    ] {
        let server = vendor().await;
        let refused = ResponseTemplate::new(status).set_body_raw(body, "application/json");
        Mock::given(method("POST")).and(path(TOKEN)).respond_with(refused).mount(&server).await;
        let error = connect(keyed(&server, grant())).list(CALL, Kind::Deal, &Cursor::start()).await.unwrap_err();
        assert!(want.is_error(&error), "{status} {body}: {error:?} is not {want:?}");
        for secret in ["CSEC", "na1-7c1e", "example.com"] {
            assert!(!format!("{error:?} {error}").contains(secret), "{error:?}");
        }
        assert_eq!(bodies(&server, "POST", TOKEN).await.len(), 1, "{status}");
        assert!(bodies(&server, "GET", DEALS).await.is_empty(), "{status}: without a token nothing is asked");
    }
}
