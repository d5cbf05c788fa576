//! Every refusal of Square's, what it is taken for, and what becomes of the customer and of the others.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::Method,
    middleware::{Next, from_fn},
    response::Response,
};
use serde_json::{Value as Json, json};
use tandem::{
    model::{Failure, Profile},
    store::SyncStore,
};
use tandem_contract::{
    Connector, ConnectorError, Credentials, Cursor, Kind, Pushed, SaleRead, Secret, Value, Write, WriteOp,
};
use tandem_hubspot::sandbox as hubspot;
use tandem_square::sandbox::{Change, Part, Settings, Ticket};

use crate::{
    decisions::{self, PAGE, PRIVATE, Want, hold, row},
    proxy::{Answer, Proxy},
    square::{CALL, id, seller, update},
    till::{Shop, ticket},
};

/// How a customer whose answer breaks off begins.
const HALF: &str = r#"{"responses":{"KEY":{"customer":{"id":"CUST1","given_name":"Jane"#;

/// One of Square's errors, in an answer of its own. Its words are of people.
fn fault(category: &str, code: &str, field: Option<&str>) -> String {
    let detail = "Jane Roe's junk about 900";
    let mut one = json!({ "category": category, "code": code, "detail": detail });
    if let Some(field) = field {
        one["field"] = field.into();
    }
    json!({ "errors": [one] }).to_string()
}

fn invalid(code: &str, field: Option<&str>) -> String {
    fault("INVALID_REQUEST_ERROR", code, field)
}

fn broken() -> String {
    fault("API_ERROR", "INTERNAL_SERVER_ERROR", None)
}

/// The same error as the only row of a bulk.
fn in_a_bulk(fault: &str) -> String {
    let fault: Json = serde_json::from_str(fault).unwrap();
    json!({ "responses": { "KEY": fault } }).to_string()
}

#[derive(Clone, Copy, Debug)]
enum Ask {
    /// Reads: a page of the list.
    List,
    /// Reads: a page of what changed.
    Search,
    /// Reads: one customer.
    Fetch,
    /// Reads: one order.
    Sale,
    /// Writes: a new customer.
    Create,
    /// Writes: a customer who is there.
    Update,
}

impl Ask {
    /// The call that is refused.
    fn route(self) -> &'static str {
        match self {
            Self::List => "/v2/customers",
            Self::Search => "/customers/search",
            Self::Fetch => "/customers/bulk-retrieve",
            Self::Sale => "/orders/batch-retrieve",
            Self::Create => "/customers/bulk-create",
            Self::Update => "/customers/bulk-update",
        }
    }
}

type Row = decisions::Row<Ask>;

/// What a bulk calls the first of its customers.
fn key_of(said: &str) -> String {
    let said: Json = serde_json::from_str(said).unwrap_or_default();
    let written = said["customers"].as_object().and_then(|all| all.keys().next().cloned());
    written.or_else(|| said["customer_ids"][0].as_str().map(str::to_owned)).unwrap_or_default()
}

async fn tried(row: &Row) -> (Pushed, usize) {
    let proxy = Proxy::default();
    let seller = seller(Settings::default(), proxy.layer(), |_| {});
    let customer = seller.customer(json!({ "family_name": "Ito" }));
    let (at, answer) = (row.ask.route(), row.answer());
    proxy.answer(move |_, path, said| {
        let body = answer.body.replace("\"KEY\"", &format!("\"{}\"", key_of(said)));
        path.ends_with(at).then(|| Answer { body, ..answer.clone() })
    });
    let connector = &seller.connector;
    let late = connector.streams().into_iter().find(|stream| stream.name == "contact.late").unwrap();
    let got = match row.ask {
        Ask::List => Pushed::Failed(connector.list(CALL, Kind::Contact, &Cursor::start()).await.unwrap_err()),
        Ask::Search => Pushed::Failed(connector.changes(CALL, &late, &Cursor::start()).await.unwrap_err()),
        Ask::Fetch => Pushed::Failed(connector.fetch(CALL, Kind::Contact, &[id(&customer)]).await.unwrap_err()),
        Ask::Sale => Pushed::Failed(connector.sales(CALL, &[id("ORDER1")]).await.unwrap_err()),
        Ask::Create => {
            let properties = BTreeMap::from([("email_address".to_owned(), Value::text("jane@example.com"))]);
            let op = WriteOp::Create { marker: "pd:9f1c".into(), properties };
            let write = Write { trace: "t".into(), kind: Kind::Contact, op };
            connector.push(CALL, &[write]).await.remove(0)
        }
        Ask::Update => connector.push(CALL, &[update(&customer, "Jane Roe", Some("0"))]).await.remove(0),
    };
    (got, proxy.answered())
}

#[tokio::test(start_paused = true)]
async fn credentials_rights_and_limits_are_told_apart() {
    let auth = |code| fault("AUTHENTICATION_ERROR", code, None);
    let (token, scope) = ("put the one from the Developer Console", "grant it to the application");
    let slow = fault("RATE_LIMIT_ERROR", "RATE_LIMITED", None);
    let limited = |wait| Want::RateLimited(wait, "calls in a short time");
    let mut rows = Vec::new();
    for ask in [Ask::List, Ask::Search, Ask::Fetch, Ask::Sale, Ask::Create, Ask::Update] {
        rows.extend([
            row("an expired token", ask, 401, auth("ACCESS_TOKEN_EXPIRED"), Want::Unauthorized(token)),
            row("a revoked token", ask, 401, auth("ACCESS_TOKEN_REVOKED"), Want::Unauthorized(token)),
            row("a scope", ask, 403, auth("INSUFFICIENT_SCOPES"), Want::Forbidden(scope)),
            // Repeated after 1, 2 and 4 seconds; a wait of 8 is the engine's.
            Row { calls: 4, ..row("a limit", ask, 429, slow.as_str(), limited(Some(8))) },
            Row { calls: 4, ..row("a limit's page", ask, 429, PAGE, limited(Some(8))) },
            Row { calls: 4, headers: &[("retry-after", "7")], ..row("a wait", ask, 429, "", limited(Some(7))) },
        ]);
    }
    rows.push(row("a limit, as a row", Ask::Update, 200, in_a_bulk(&slow), limited(None)));
    hold(rows, tried).await;
}

#[tokio::test(start_paused = true)]
async fn values_and_versions_are_told_by_their_code_alone_and_as_a_row() {
    let rejected = Want::Rejected;
    let mut rows = vec![
        row("an older version", Ask::Update, 409, invalid("CONFLICT", Some("version")), Want::Stale),
        row("gone", Ask::Update, 404, invalid("NOT_FOUND", None), Want::Gone),
    ];
    for is_row in [false, true] {
        let said = |fault: String| if is_row { (200, in_a_bulk(&fault)) } else { (400, fault) };
        for (ask, code, field, want) in [
            (Ask::Update, "VERSION_MISMATCH", Some("customer.version"), Want::Stale),
            (Ask::Create, "IDEMPOTENCY_KEY_REUSED", None, rejected(None, "IDEMPOTENCY_KEY_REUSED")),
            (
                Ask::Create,
                "INVALID_EMAIL_ADDRESS",
                Some("email_address"),
                rejected(Some("email_address"), "INVALID_EM"),
            ),
            (
                Ask::Update,
                "INVALID_EMAIL_ADDRESS",
                Some("email_address"),
                rejected(Some("email_address"), "INVALID_EM"),
            ),
            (
                Ask::Update,
                "INVALID_PHONE_NUMBER",
                Some("customer.phone_number"),
                rejected(Some("phone_number"), "INVA"),
            ),
            // Somebody's words are neither a field nor a code.
            (Ask::Update, "Jane Roe", Some("Jane Roe"), rejected(None, "HTTP 400")),
        ] {
            let (status, body) = said(invalid(code, field));
            rows.push(row("a refusal", ask, status, body, want));
        }
    }
    for ask in [Ask::Create, Ask::Update] {
        rows.push(row("a row that fails", ask, 200, in_a_bulk(&broken()), Want::OutcomeUnknown));
        rows.push(row("a row that is missing", ask, 200, r#"{"responses":{}}"#, Want::OutcomeUnknown));
        rows.push(row("an empty row", ask, 200, r#"{"responses":{"KEY":{}}}"#, Want::OutcomeUnknown));
    }
    hold(rows, tried).await;
}

/// What is not read is neither nothing nor gone.
#[tokio::test(start_paused = true)]
async fn an_answer_that_is_none_is_not_taken_for_one() {
    let mut rows = vec![
        row("a customer that fails", Ask::Fetch, 200, in_a_bulk(&broken()), Want::NotSent),
        row("a customer that is missing", Ask::Fetch, 200, r#"{"responses":{}}"#, Want::Malformed),
    ];
    for ask in [Ask::List, Ask::Search, Ask::Fetch] {
        rows.push(row("a success that holds an error", ask, 200, broken(), Want::NotSent));
    }
    for ask in [Ask::List, Ask::Search, Ask::Fetch, Ask::Sale, Ask::Create, Ask::Update] {
        let is_write = matches!(ask, Ask::Create | Ask::Update);
        let odd = || if is_write { Want::OutcomeUnknown } else { Want::Malformed };
        let down = || if is_write { Want::OutcomeUnknown } else { Want::NotSent };
        rows.extend([
            row("a page in the place of an answer", ask, 200, PAGE, odd()),
            row("half an answer", ask, 200, HALF, odd()),
            row("an outage", ask, 500, broken(), down()),
            row("an outage behind a proxy", ask, 502, PAGE, down()),
            row("an outage without a word", ask, 503, "", down()),
            row("a proxy's redirection", ask, 302, PAGE, down()),
            row("a page that knows no such address", ask, 404, PAGE, Want::NotSent),
            row("a page that forbids", ask, 403, PAGE, Want::NotSent),
        ]);
    }
    hold(rows, tried).await;
}

/// Whoever cannot be read is not known: their sale is read all the same, and so is everybody else.
#[tokio::test(start_paused = true)]
async fn a_buyer_who_cannot_be_read_keeps_no_sale_from_being_read() {
    let proxy = Proxy::default();
    let seller = seller(Settings::default(), proxy.layer(), |_| {});
    let [ana, ben] =
        ["ana@example.com", "ben@example.com"].map(|email| seller.customer(json!({ "email_address": email })));
    let sold = [&ana, &ben].map(|customer| {
        let parts = vec![Part { customer: Some(customer.clone()), ..Part::default() }];
        id(&seller.sandbox.with(|world| world.sell(&Ticket { parts, ..ticket("Serum") })).unwrap())
    });
    let beside = |hers: Option<Json>| {
        let mut all = json!({});
        all[ben.as_str()] = json!({ "customer": { "id": ben, "email_address": "ben@example.com" } });
        if let Some(hers) = hers {
            all[ana.as_str()] = hers;
        }
        (200, json!({ "responses": all }).to_string())
    };
    let fails: Json = serde_json::from_str(&broken()).unwrap();
    for (what, (status, body)) in [
        ("she is left out", beside(None)),
        ("she is nothing", beside(Some(json!({})))),
        ("she fails", beside(Some(fails))),
        ("she is odd", beside(Some(json!({ "customer": "Jane Roe" })))),
        ("her bulk is refused", (400, invalid("BAD_REQUEST", Some("customer_ids")))),
        ("her bulk is refused in a success", (200, invalid("BAD_REQUEST", Some("customer_ids")))),
    ] {
        let hers = ana.clone();
        proxy.answer(move |_, path, said| {
            let is_of_her = path.ends_with("/customers/bulk-retrieve") && said.contains(hers.as_str());
            is_of_her.then(|| Answer::new(status, body.as_str()))
        });
        let read = seller.connector.sales(CALL, &sold).await.unwrap();
        assert!(proxy.answered() > 0, "{what}");
        let buyers = read.into_iter().map(|sale| match sale {
            SaleRead::Found(sale) => sale.buyers.into_iter().map(|buyer| (buyer.id, buyer.email)).collect::<Vec<_>>(),
            SaleRead::NotYet => panic!("{what}: a sale is not read"),
        });
        let known = [(Some(id(&ana)), None), (Some(id(&ben)), Some("ben@example.com".to_owned()))];
        assert_eq!(buyers.collect::<Vec<_>>(), known.map(|buyer| vec![buyer]), "{what}");
    }
    // An outage is no word on anybody.
    proxy.answer(|_, path, _| path.ends_with("/customers/bulk-retrieve").then(|| Answer::new(503, "")));
    let error = seller.connector.sales(CALL, &sold).await.unwrap_err();
    assert!(Want::NotSent.is_error(&error), "{error}");
}

/// Stands before Square, and refuses every page of its customers but the first one, while the switch is on.
fn refusing_later_pages(is_on: Arc<AtomicBool>, status: u16) -> impl FnOnce(Router) -> Router {
    let why = invalid("BAD_REQUEST", Some("limit"));
    move |router| {
        router.layer(from_fn(move |request: Request, next: Next| {
            let is_late = request.uri().query().is_some_and(|query| query.contains("cursor="));
            let is_it = is_late && request.uri().path().ends_with("/v2/customers") && is_on.load(Ordering::SeqCst);
            let why = why.clone();
            async move {
                match is_it {
                    true => Response::builder().status(status).body(Body::from(why)).unwrap(),
                    false => next.run(request).await,
                }
            }
        }))
    }
}

/// Every page but the first one is refused: that is shown, and sales are found meanwhile.
#[tokio::test(start_paused = true)]
async fn a_page_that_is_always_refused_is_shown_and_keeps_no_sale_waiting() {
    for status in [200, 400] {
        let is_refused = Arc::new(AtomicBool::new(true));
        let shop = Shop::watched(Profile::Agency, &[], refusing_later_pages(is_refused.clone(), status));
        shop.square.with(|world| {
            world.settings.page_rows = 1;
            let ben = json!({ "given_name": "Ben", "email_address": "ben@example.com" });
            world.create_customer(&ben, Change::Person).unwrap();
        });
        let an_hour = Duration::from_secs(3_600);
        let ana = tokio::time::timeout(an_hour, shop.person("Ana")).await.expect("the other streams have their turn");
        shop.sell_to(&ana.customer, ticket("Serum"));
        shop.settle().await;
        assert_eq!(shop.stage(ana.deal), "closedwon", "{status}");
        let account = &shop.rig.account.name;
        let shown = shop.rig.store.connection(account, &shop.till.name).await.unwrap().unwrap().reason;
        assert!(shown.as_ref().is_some_and(|shown| shown.contains("BAD_REQUEST")), "{status}: {shown:?}");
        is_refused.store(false, Ordering::SeqCst);
        shop.settle().await;
        let shown = shop.rig.store.connection(account, &shop.till.name).await.unwrap().unwrap().reason;
        assert_eq!(shown, None, "{status}: what is read again is off the list");
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_is_begun_anew_where_its_cursor_is_what_is_refused() {
    for (code, field) in [("INVALID_CURSOR", None), ("BAD_REQUEST", Some("query.cursor"))] {
        let proxy = Proxy::default();
        let settings = Settings { page_rows: 1, customer_lag_ms: 0, ..Settings::default() };
        let seller = seller(settings, proxy.layer(), |_| {});
        for name in ["Ito", "Kaya"] {
            seller.customer(json!({ "family_name": name }));
        }
        let stream = seller.connector.streams().into_iter().find(|stream| stream.backfills).unwrap();
        let first = seller.connector.changes(CALL, &stream, &Cursor::start()).await.unwrap();
        let ended = invalid(code, field);
        proxy.answer(move |_, _, _| Some(Answer::new(400, ended.as_str())));
        let anew = seller.connector.changes(CALL, &stream, &first.next).await.unwrap();
        assert!(anew.more && anew.seen.is_empty(), "{code}: {anew:?}");
        proxy.pass();
        let again = seller.connector.changes(CALL, &stream, &anew.next).await.unwrap();
        assert_eq!((first.seen.len(), &first.seen), (1, &again.seen), "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_was_revoked_is_told_from_a_token_that_ended() {
    for (code, is_over, says) in
        [("ACCESS_TOKEN_EXPIRED", true, ""), ("ACCESS_TOKEN_REVOKED", false, "connect Square again")]
    {
        let (proxy, settings) = (Proxy::default(), Settings::default());
        let credentials = Credentials::OAuth {
            client_id: settings.client_id.clone(),
            client_secret: Secret::new(settings.client_secret.clone()),
            refresh_token: Secret::new(settings.refresh_token.clone()),
        };
        let seller = seller(settings, proxy.layer(), |options| options.credentials = credentials);
        let customer = seller.customer(json!({ "family_name": "Ito" }));
        let refused = fault("AUTHENTICATION_ERROR", code, None);
        let mut times = 0;
        proxy.answer(move |_, path, _| {
            times += usize::from(path.ends_with("/bulk-update"));
            let is_refused = path.ends_with("/bulk-update") && (times == 1 || !is_over);
            is_refused.then(|| Answer::new(401, refused.as_str()))
        });
        let pushed = seller.connector.push(CALL, &[update(&customer, "Kaya", None)]).await.remove(0);
        let exchanges = seller.sandbox.with(|world| world.stats.by_route["POST oauth2/token"]);
        assert_eq!((matches!(pushed, Pushed::Written { .. }), exchanges), (is_over, 2), "{code}: {pushed:?}");
        if let Pushed::Failed(error) = &pushed {
            assert!(matches!(error, ConnectorError::Unauthorized(why) if why.contains(says)), "{error}");
            assert!(!PRIVATE.iter().any(|value| error.to_string().contains(value)), "{error}");
        }
    }
}

fn shop() -> (Shop, Proxy) {
    let proxy = Proxy::default();
    (Shop::watched(Profile::Agency, &[], proxy.layer()), proxy)
}

impl Shop {
    async fn minutes(&self, minutes: u64) {
        for _ in 0..minutes {
            self.settle().await;
            self.rig.clock.sleep(Duration::from_secs(54)).await;
        }
    }

    /// What the till's customers are called.
    fn customers(&self) -> Vec<String> {
        let mut names = self.square.with(|world| {
            let ids = world.customer_ids();
            ids.iter().filter_map(|id| world.customer_field(id, "given_name")).collect::<Vec<_>>()
        });
        names.sort();
        names
    }

    async fn set_aside(&self) -> Vec<Failure> {
        self.rig.store.failures(&self.rig.account.name, 100).await.unwrap()
    }
}

/// One customer is refused; the others go on, people are told what to do, and the refused one goes out once it is taken.
#[tokio::test(start_paused = true)]
async fn a_customer_who_is_refused_waits_alone_and_says_what_to_do() {
    let scopes = fault("AUTHENTICATION_ERROR", "INSUFFICIENT_SCOPES", None);
    for (what, status, body, code, says) in [
        (
            "an address",
            400,
            invalid("INVALID_EMAIL_ADDRESS", Some("email_address")),
            "rejected",
            "correct the value here",
        ),
        ("a key", 400, invalid("IDEMPOTENCY_KEY_REUSED", None), "rejected", "correct the value here"),
        ("a scope", 403, scopes, "forbidden", "grant it to the application"),
        ("no such address", 404, PAGE.to_owned(), "", ""),
    ] {
        let (shop, proxy) = shop();
        shop.minutes(1).await;
        proxy.answer(move |_, path, said| {
            (path.contains("/customers/bulk-") && said.contains("poison@")).then(|| Answer::new(status, body.as_str()))
        });
        shop.contact("Poison", "poison@example.com", "");
        // Of one bulk with her only where it is a value of hers that is refused.
        let is_hers = status == 400;
        shop.minutes(if is_hers { 0 } else { 2 }).await;
        shop.contact("Peel", "peel@example.com", "");
        shop.minutes(3).await;
        assert!(proxy.answered() > 0, "{what}");
        assert_eq!(shop.customers(), ["Peel"], "{what}: the other one goes on");
        let all = shop.set_aside().await;
        assert!(all.iter().all(|failure| failure.code == code && failure.message.contains(says)), "{what}: {all:?}");
        assert_eq!(all.len(), usize::from(!code.is_empty()), "{what}: {all:?}");
        let private = |text: &str| text.contains("oison") || PRIVATE.iter().any(|value| text.contains(value));
        assert!(!all.iter().any(|failure| private(&failure.message)), "{what}: {all:?}");
        proxy.pass();
        shop.minutes(20).await;
        assert_eq!(shop.customers(), ["Peel", "Poison"], "{what}: she goes out by herself");
        assert!(shop.set_aside().await.is_empty(), "{what}: what is solved is off the list");
    }
}

/// She is made, and what comes back does not say so.
#[tokio::test(start_paused = true)]
async fn a_create_that_was_carried_out_and_answered_badly_is_made_once() {
    let missing = r#"{"responses":{}}"#.to_owned();
    for (status, body) in
        [(500, broken()), (502, PAGE.to_owned()), (200, missing), (200, PAGE.to_owned()), (200, HALF.to_owned())]
    {
        let (shop, proxy) = shop();
        shop.minutes(1).await;
        let (said, mut is_over) = (body.clone(), false);
        proxy.answer(move |_, path, _| {
            let is_it = path.ends_with("/customers/bulk-create") && !is_over;
            is_over |= is_it;
            is_it.then(|| Answer { is_done: true, ..Answer::new(status, said.as_str()) })
        });
        shop.contact("Ana", "ana@example.com", "");
        shop.minutes(8).await;
        assert_eq!((shop.customers(), proxy.answered()), (vec!["Ana".to_owned()], 1), "{status} {body}");
        let (created, reused) = shop.square.with(|world| (world.stats.created, world.stats.keys_reused));
        assert_eq!((created, reused, shop.set_aside().await), (1, 0, vec![]), "{status} {body}");
    }
}

/// Rows of a bulk that fail by themselves, or an older version: none of it is anybody's to mend, and it is tried again.
#[tokio::test(start_paused = true)]
async fn an_update_that_fails_by_itself_is_tried_again_until_it_is_taken() {
    for what in ["a row fails", "a row is missing", "a version"] {
        let (shop, proxy) = shop();
        shop.minutes(1).await;
        let ana = shop.contact("Ana", "ana@example.com", "");
        shop.minutes(2).await;
        assert_eq!(shop.customers(), ["Ana"]);
        let refused = match what {
            "a row is missing" => Some(Answer::new(200, r#"{"responses":{}}"#)),
            "a version" => Some(Answer::new(400, invalid("VERSION_MISMATCH", Some("customer.version")))),
            _ => None,
        };
        let fails = f64::from(u8::from(refused.is_none()));
        shop.square.with(|world| world.faults.row_fails = fails);
        proxy.answer(move |method, path, _| {
            refused.clone().filter(|_| *method == Method::POST && path.ends_with("/customers/bulk-update"))
        });
        let edit = [("firstname".to_owned(), "Anita".to_owned())].into();
        shop.rig.sandbox.with(|world| world.update(Kind::Contact, ana, &edit, hubspot::Change::Person)).unwrap();
        shop.minutes(4).await;
        let struck = shop.square.with(|world| world.stats.faults.contains_key("row_fails"));
        assert!(struck || proxy.answered() > 0, "{what}: it was met");
        let is_unknown = |failure: &Failure| failure.code == "outcome_unknown";
        assert!(shop.set_aside().await.iter().all(is_unknown), "{what}: nothing is refused");
        assert_eq!(shop.customers(), ["Ana"], "{what}");
        shop.square.with(|world| world.faults.row_fails = 0.0);
        proxy.pass();
        shop.minutes(10).await;
        assert_eq!((shop.customers(), shop.set_aside().await), (vec!["Anita".to_owned()], vec![]), "{what}");
    }
}
