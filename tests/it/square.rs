//! Square: the contract's suite under both answers to what is not documented, and what is Square's own.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::Router;
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value as Json, json};
use tandem::{sync::mapping, vendors::CONNECTORS};
use tandem_contract::{
    Call, CheckoutBy, Clock, Connector, ConnectorError, Credentials, Cursor, ExternalId, Fetched, KeepRefreshToken,
    Kind, Lane, NewCheckout, PropertyType, Pushed, RouterTransport, SaleRead, SaleState, Secret, Seen, TokioClock,
    Value, Version, WebhookRequest, Write, WriteOp, conformance,
};
use tandem_square::{
    Options, Square,
    sandbox::{Change, Faults, Line, Part, Sandbox, Settings, Ticket},
    sign,
};

use crate::{
    pipedrive::{Drawer, brought_back},
    proxy::{Answer, Proxy},
    unreadable::refusing,
};

pub const CALL: Call = Call::on(Lane::Interactive);

pub struct Seller {
    pub connector: Square,
    pub sandbox: Sandbox,
    pub clock: Arc<dyn Clock>,
}

fn default_selection() -> BTreeMap<Kind, BTreeMap<String, PropertyType>> {
    let (_, text) = CONNECTORS.iter().find(|(name, _)| *name == "square").unwrap();
    mapping::selection(&mapping::parse(text).unwrap())
}

/// A seller with a sandbox behind it; `watch` stands between the two, `change` has the last word on the options.
pub fn seller(settings: Settings, watch: impl FnOnce(Router) -> Router, change: impl FnOnce(&mut Options)) -> Seller {
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(DateTime::from_timestamp(1_795_000_000, 0).unwrap()));
    let token = Credentials::Token(Secret::new(settings.access_tokens.first().cloned().unwrap_or_default()));
    let sandbox = Sandbox::new(settings, 3, clock.clone());
    let mut options = Options::new("http://square.example.com".parse().unwrap(), token);
    options.select = default_selection();
    change(&mut options);
    let transport = Arc::new(RouterTransport::new(watch(sandbox.router())));
    Seller { connector: Square::new(options, transport, clock.clone()), sandbox, clock }
}

/// Lists that show everything at once.
fn prompt() -> Settings {
    Settings { customer_lag_ms: 0, payment_lag_ms: 0, order_lag_ms: 0, ..Settings::default() }
}

fn plain() -> Seller {
    seller(prompt(), |router| router, |_| {})
}

pub fn id(text: &str) -> ExternalId {
    ExternalId::new(text).unwrap()
}

impl Seller {
    pub fn customer(&self, fields: Json) -> String {
        self.sandbox.with(|world| world.create_customer(&fields, Change::Person)).unwrap()
    }

    fn merchant(&self) -> String {
        self.sandbox.with(|world| world.settings.merchant_id.clone())
    }

    /// The code that the seller's browser brings back, who lets the application in.
    pub fn code(&self) -> Secret {
        let code = self.sandbox.with(|world| {
            let Settings { client_id, redirect_uri, scopes, .. } = world.settings.clone();
            world.consent(&client_id, &redirect_uri, &scopes.iter().map(String::as_str).collect::<Vec<_>>())
        });
        Secret::new(code.unwrap())
    }

    async fn sale(&self, order: &str) -> SaleRead {
        self.connector.sales(CALL, &[id(order)]).await.unwrap().pop().unwrap()
    }

    async fn found(&self, order: &str) -> tandem_contract::Sale {
        match self.sale(order).await {
            SaleRead::Found(sale) => *sale,
            SaleRead::NotYet => panic!("{order} cannot be read yet"),
        }
    }

    /// Everything that a stream brings from here on, to the end.
    async fn drain(&self, stream: &str, cursor: &mut Cursor) -> Vec<String> {
        let stream = self.connector.streams().into_iter().find(|known| known.name == stream).unwrap();
        let mut seen = Vec::new();
        loop {
            let page = self.connector.changes(CALL, &stream, cursor).await.unwrap();
            seen.extend(page.seen.into_iter().map(|seen| match seen {
                Seen::Record(record) => record.id.to_string(),
                Seen::Hint { id, .. } | Seen::Archived(id) => id.to_string(),
            }));
            *cursor = page.next;
            if !page.more {
                return seen;
            }
        }
    }
}

#[async_trait]
impl conformance::Vendor for Seller {
    fn connector(&self) -> &dyn Connector {
        &self.connector
    }

    fn kind(&self) -> Kind {
        Kind::Contact
    }

    fn text_property(&self) -> String {
        "family_name".into()
    }

    fn needed(&self) -> BTreeMap<String, Value> {
        BTreeMap::from([("given_name".into(), Value::text("Ada"))])
    }

    fn selected(&self) -> BTreeSet<String> {
        default_selection().remove(&Kind::Contact).unwrap_or_default().into_keys().collect()
    }

    async fn make(&self, text: &str) -> ExternalId {
        id(&self.customer(json!({ "family_name": text })))
    }

    async fn edit(&self, id: &ExternalId, text: &str) {
        self.clock.sleep(Duration::from_secs(1)).await;
        self.sandbox.with(|world| world.update_customer(id.as_str(), &json!({ "family_name": text }))).unwrap();
        self.clock.sleep(Duration::from_secs(1)).await;
    }

    async fn delete(&self, id: &ExternalId) {
        self.sandbox.with(|world| world.delete_customer(id.as_str())).unwrap();
    }

    fn remembers_deleted(&self) -> bool {
        false
    }

    fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    async fn count(&self) -> usize {
        self.sandbox.with(|world| world.customer_ids().len())
    }
}

#[tokio::test(start_paused = true)]
async fn square_conforms_under_both_answers_to_what_is_not_documented() {
    let other = Settings {
        stale_customer_status: 409,
        link_order_state: "OPEN".into(),
        retry_after: true,
        page_rows: 2,
        ..prompt()
    };
    // Ten minutes behind ours, and ten before.
    let behind = Settings { clock_ahead_ms: -600_000, ..prompt() };
    let ahead = Settings { clock_ahead_ms: 600_000, ..prompt() };
    for settings in [prompt(), other, behind, ahead] {
        let broken = conformance::run(&seller(settings, |router| router, |_| {})).await;
        assert!(broken.is_empty(), "{}", broken.join("\n"));
    }
}

pub fn update(of: &str, text: &str, version: Option<&str>) -> Write {
    let op = WriteOp::Update {
        id: id(of),
        properties: BTreeMap::from([("family_name".into(), Value::text(text))]),
        planned_on: BTreeMap::new(),
        expected: Version { token: version.map(str::to_owned), updated_at: None },
    };
    Write { trace: format!("t-{of}"), kind: Kind::Contact, op }
}

#[tokio::test(start_paused = true)]
async fn a_write_planned_on_an_older_version_is_refused_whatever_the_status() {
    for status in [400, 409] {
        let seller = seller(Settings { stale_customer_status: status, ..prompt() }, |router| router, |_| {});
        let customer = seller.customer(json!({ "family_name": "Ito" }));
        let read = seller.connector.fetch(CALL, Kind::Contact, &[id(&customer)]).await.unwrap();
        let [Fetched::Found(record)] = read.as_slice() else { panic!("{read:?}") };
        let known = record.version.token.clone();
        seller.sandbox.with(|world| world.update_customer(&customer, &json!({ "family_name": "Kaya" }))).unwrap();
        let stale = seller.connector.push(CALL, &[update(&customer, "Mine", known.as_deref())]).await;
        assert!(matches!(stale.as_slice(), [Pushed::Failed(ConnectorError::Stale)]), "{status}: {stale:?}");
        let now = seller.sandbox.with(|world| world.customer_field(&customer, "family_name"));
        assert_eq!(now.as_deref(), Some("Kaya"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_create_whose_answer_was_lost_is_the_same_when_it_is_sent_again() {
    // No search shows it by then.
    let seller = seller(Settings { customer_lag_ms: 600_000, ..prompt() }, |router| router, |_| {});
    let create = |trace: &str| {
        let properties = BTreeMap::from([
            ("given_name".to_owned(), Value::text("Ana")),
            ("email_address".to_owned(), Value::text("ana@example.com")),
        ]);
        let op = WriteOp::Create { marker: "sim:1".into(), properties };
        Write { trace: trace.into(), kind: Kind::Contact, op }
    };
    seller.sandbox.with(|world| world.faults = Faults { lost_answer: 1.0, ..Faults::default() });
    let lost = seller.connector.push(CALL, &[create("a")]).await;
    assert!(matches!(lost.as_slice(), [Pushed::Failed(_)]), "{lost:?}");
    seller.sandbox.with(|world| world.faults = Faults::default());
    // The intent may be another by then; what is said is the same.
    for trace in ["a", "b"] {
        let again = seller.connector.push(CALL, &[create(trace)]).await;
        assert!(matches!(again.as_slice(), [Pushed::Written { .. }]), "{again:?}");
    }
    let (count, reused) = seller.sandbox.with(|world| (world.customer_ids().len(), world.stats.keys_reused));
    assert_eq!((count, reused), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn somebody_who_is_a_customer_already_is_not_made_again() {
    let seller = plain();
    let known = seller.customer(json!({ "given_name": "Ana", "email_address": "Ana@Example.com" }));
    let properties = BTreeMap::from([("email_address".to_owned(), Value::text("ana@example.com"))]);
    let op = WriteOp::Create { marker: "sim:1".into(), properties };
    let done = seller.connector.push(CALL, &[Write { trace: "a".into(), kind: Kind::Contact, op }]).await;
    assert!(matches!(done.as_slice(), [Pushed::Exists { id, ours: false }] if id.as_str() == known), "{done:?}");
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_nobody_publishes_is_found_and_kept() {
    let settings = Settings { calls_per_second: 2, ..prompt() };
    let seller = seller(settings, |router| router, |_| {});
    for _ in 0..40 {
        seller.connector.fetch(CALL, Kind::Contact, &[id("CUST1")]).await.unwrap();
    }
    let (refused, asked) = seller.sandbox.with(|world| (world.stats.too_many, world.stats.requests));
    assert!(refused > 0 && refused < asked / 4, "{refused} of {asked} were too many");
}

#[tokio::test(start_paused = true)]
async fn a_sale_of_two_payments_is_there_when_the_last_is_made_and_names_who_paid() {
    let seller = plain();
    let ana = seller.customer(json!({ "given_name": "Ana", "email_address": "ana@example.com" }));
    let ticket = Ticket { location: "Downtown".into(), lines: vec![Line::of("Laser course")], ..Ticket::default() };
    let order = seller.sandbox.with(|world| world.open_ticket(&ticket)).unwrap();
    let part = Part { amount: Some(50_000), ..Part::default() };
    seller.sandbox.with(|world| world.pay(&order, &part)).unwrap();
    assert_eq!(seller.sale(&order).await, SaleRead::NotYet);
    let rest = Part { customer: Some(ana.clone()), tip: 5_000, ..Part::default() };
    seller.sandbox.with(|world| world.pay(&order, &rest)).unwrap();
    let sale = seller.found(&order).await;
    assert_eq!((sale.state, sale.total, sale.tip), (SaleState::Paid, 125_000, 5_000));
    assert_eq!(sale.buyers[0].id.as_ref().map(ExternalId::as_str), Some(ana.as_str()));
    assert_eq!(sale.buyers[0].email.as_deref(), Some("ana@example.com"));
    let categories = &sale.lines[0].categories;
    assert!(categories.iter().any(|name| name == "Treatments"), "{categories:?}");
}

/// Invoices are not found by their order: they are gone over from the newest back, five pages of two hundred at most, and only for a
/// sale that was paid by invoice and names nobody.
#[tokio::test(start_paused = true)]
async fn whom_an_invoice_is_addressed_to_is_looked_for_where_nothing_else_tells_and_not_for_ever() {
    let settings = Settings { invoice_payment_names_buyer: false, ..prompt() };
    let seller = seller(settings, |router| router, |_| {});
    let [ana, ben] =
        ["ana@example.com", "ben@example.com"].map(|email| seller.customer(json!({ "email_address": email })));
    let ticket = Ticket { location: "Uptown".into(), lines: vec![Line::of("Serum")], ..Ticket::default() };
    let write = |customer: &str| seller.sandbox.with(|world| world.write_invoice(customer, &ticket)).unwrap();
    let asked = || {
        let route = "POST v2/invoices/search";
        seller.sandbox.with(|world| world.stats.by_route.get(route).copied().unwrap_or(0))
    };
    // At the till nobody writes an invoice.
    let sold = seller.sandbox.with(|world| world.sell(&ticket)).unwrap();
    assert!(seller.found(&sold).await.buyers.is_empty());
    assert_eq!(asked(), 0);
    let (invoice, order) = write(&ana);
    assert!(seller.found(&order).await.buyers.is_empty());
    assert_eq!(asked(), 0, "nothing is paid yet");
    seller.sandbox.with(|world| world.pay_invoice(&invoice, None)).unwrap();
    for (newer, pages, is_found) in [(0, 1, true), (300, 2, true), (700, 5, false)] {
        seller.clock.sleep(Duration::from_secs(60)).await;
        (0..newer).for_each(|_| drop(write(&ben)));
        let before = asked();
        let buyers = seller.found(&order).await.buyers;
        let told = buyers.first().map(|buyer| (buyer.id.clone(), buyer.email.as_deref()));
        let hers = (Some(id(&ana)), Some("ana@example.com"));
        assert_eq!((told, asked() - before), (is_found.then_some(hers), pages), "behind {newer} more");
    }
}

/// Where Square's news of the next tests arrive.
const HOOK: &str = "https://tandem.example.com/webhooks/square";

/// A seller whose news are believed.
fn told(watch: impl FnOnce(Router) -> Router) -> Seller {
    seller(prompt(), watch, |options| {
        options.signature_keys = vec![Secret::new("signature-key")];
        options.notification_url = Some(HOOK.into());
    })
}

impl Seller {
    /// Square tells that its catalog changed.
    fn hears_of_the_catalog(&self) {
        let body = r#"{"merchant_id":"MLSANDBOX0001","type":"catalog.version.updated","event_id":"e1","data":{"type":"catalog_version",
            "id":"c1","object":{"catalog_version":{"updated_at":"2026-11-20T10:00:00Z"}}}}"#;
        let signature = sign(&Secret::new("signature-key"), HOOK, body.as_bytes());
        let mut headers = http::HeaderMap::new();
        headers.insert("x-square-hmacsha256-signature", signature.parse().unwrap());
        let (body, received_at) = (body.as_bytes(), self.clock.now());
        let told = WebhookRequest { method: "POST", uri: HOOK, headers: &headers, body, received_at };
        assert!(self.connector.hints(&told).unwrap().is_empty(), "it names no record");
    }

    fn sells_serum(&self) -> String {
        let ticket = Ticket { location: "Downtown".into(), lines: vec![Line::of("Serum")], ..Ticket::default() };
        self.sandbox.with(|world| world.sell(&ticket)).unwrap()
    }

    /// Whether what was sold is a treatment, as far as the catalog that was read tells.
    async fn sold_a_treatment(&self, order: &str) -> bool {
        self.found(order).await.lines[0].categories.iter().any(|name| name == "Treatments")
    }
}

/// What was read of the catalog is kept for five minutes; once Square tells that it changed, for one.
#[tokio::test(start_paused = true)]
async fn a_word_that_the_catalog_changed_has_it_read_again() {
    let seller = told(|router| router);
    let order = seller.sells_serum();
    assert!(!seller.sold_a_treatment(&order).await);
    seller.sandbox.with(|world| world.move_item("Serum", "Treatments"));
    seller.clock.sleep(Duration::from_secs(70)).await;
    assert!(!seller.sold_a_treatment(&order).await, "nobody told");
    seller.hears_of_the_catalog();
    assert!(seller.sold_a_treatment(&order).await);
}

/// A sale that is read after a failure is held against the catalog as it is, and not as it was before the word.
#[tokio::test(start_paused = true)]
async fn a_word_that_the_catalog_changed_is_not_forgotten_with_a_read_that_fails() {
    let is_refused = Arc::new(AtomicBool::new(false));
    let seller = told(refusing({
        let is_refused = is_refused.clone();
        move |path, _| path.ends_with("/catalog/list") && is_refused.load(Ordering::SeqCst)
    }));
    let order = seller.sells_serum();
    assert!(!seller.sold_a_treatment(&order).await);
    seller.sandbox.with(|world| world.move_item("Serum", "Treatments"));
    seller.clock.sleep(Duration::from_secs(70)).await;
    seller.hears_of_the_catalog();
    is_refused.store(true, Ordering::SeqCst);
    assert!(seller.connector.sales(CALL, &[id(&order)]).await.is_err());
    is_refused.store(false, Ordering::SeqCst);
    assert!(seller.sold_a_treatment(&order).await);
}

#[tokio::test(start_paused = true)]
async fn a_sale_is_on_some_page_whenever_its_order_its_payment_or_its_refund_changes() {
    let seller = plain();
    let uptown = Ticket { location: "Uptown".into(), lines: vec![Line::of("Serum")], ..Ticket::default() };
    let order = seller.sandbox.with(|world| world.sell(&uptown)).unwrap();
    let mut cursor = Cursor::start();
    assert!(seller.drain("sale.changes", &mut cursor).await.contains(&order), "sold before the till was connected");
    // Windows overlap: once more, and then not.
    for _ in 0..2 {
        seller.clock.sleep(Duration::from_secs(3_600)).await;
        if !seller.drain("sale.changes", &mut cursor).await.contains(&order) {
            break;
        }
    }
    assert!(!seller.drain("sale.changes", &mut cursor).await.contains(&order), "nothing changed");
    let ana = seller.customer(json!({ "given_name": "Ana" }));
    let payment = seller.sandbox.with(|world| world.payments_of(&order))[0].clone();
    seller.sandbox.with(|world| world.name_buyer(&payment, &ana));
    assert!(seller.drain("sale.changes", &mut cursor).await.contains(&order), "the buyer became known");
    seller.clock.sleep(Duration::from_secs(3_600)).await;
    seller.drain("sale.changes", &mut cursor).await;
    seller.sandbox.with(|world| world.refund(&payment, 1_000)).unwrap();
    let seen = seller.drain("sale.changes", &mut cursor).await;
    assert!(seen.contains(&order), "{seen:?}: money was given back");
}

#[tokio::test(start_paused = true)]
async fn a_cursor_of_squares_that_ended_begins_its_window_anew() {
    let seller = seller(Settings { page_rows: 1, cursor_seconds: 60, ..prompt() }, |router| router, |_| {});
    let made: Vec<String> = (0..3).map(|n| seller.customer(json!({ "family_name": format!("L{n}") }))).collect();
    let stream = seller.connector.streams().into_iter().find(|stream| stream.backfills).unwrap();
    let first = seller.connector.changes(CALL, &stream, &Cursor::start()).await.unwrap();
    assert!(first.more);
    seller.clock.sleep(Duration::from_secs(120)).await;
    let mut cursor = first.next;
    let seen = seller.drain(&stream.name, &mut cursor).await;
    assert!(made.iter().all(|id| seen.contains(id)), "{seen:?}");
}

/// The listing of customers goes last among all work, from its first page on, and nothing else does.
#[tokio::test(start_paused = true)]
async fn the_import_is_the_whole_listing_of_customers_and_nothing_else() {
    let seller = seller(Settings { page_rows: 1, ..prompt() }, |router| router, |_| {});
    for n in 0..3 {
        seller.customer(json!({ "family_name": format!("L{n}") }));
    }
    for stream in seller.connector.streams() {
        let mut cursor = Cursor::start();
        loop {
            let is_import = seller.connector.is_backfill(&stream, &cursor);
            assert_eq!(is_import, stream.backfills, "{} {}", stream.name, cursor.0);
            let page = seller.connector.changes(CALL, &stream, &cursor).await.unwrap();
            cursor = page.next;
            if !page.more {
                break;
            }
        }
        assert!(!seller.connector.is_backfill(&stream, &cursor), "{}: everything was listed", stream.name);
    }
}

/// A page that is larger than what is read of an answer is asked for in smaller ones, and so are those after it: whether the
/// first one is too large, or one after it, whose cursor is then good for nothing.
#[tokio::test(start_paused = true)]
async fn orders_that_are_too_large_to_be_read_together_are_read_in_smaller_pages() {
    for is_first in [true, false] {
        let proxy = Proxy::default();
        let seller = seller(Settings { page_rows: 1, ..prompt() }, proxy.layer(), |_| {});
        let sold = [(); 3].map(|()| seller.sells_serum());
        proxy.answer(move |_, path, said| {
            let asked: Json = serde_json::from_str(said).unwrap_or_default();
            let is_late = is_first || !asked["cursor"].is_null();
            let is_large = path.ends_with("/orders/search") && is_late && asked["limit"].as_u64() > Some(300);
            is_large.then(|| Answer::new(200, " ".repeat(33 * 1024 * 1024)))
        });
        let mut cursor = Cursor::start();
        let seen = seller.drain("sale.changes", &mut cursor).await;
        // Once with its payment, so once more as an order.
        let often = |order: &String| seen.iter().filter(|id| *id == order).count();
        assert!(sold.iter().all(|order| often(order) > 1), "{is_first}: {seen:?}");
        assert_eq!(proxy.answered(), 2, "{is_first}: 1,000 and 500 are too many");
        seller.clock.sleep(Duration::from_secs(60)).await;
        seller.drain("sale.changes", &mut cursor).await;
        assert_eq!(proxy.answered(), 2, "{is_first}: that is remembered");
    }
}

#[tokio::test(start_paused = true)]
async fn a_till_that_was_offline_tells_when_it_sold() {
    let seller = plain();
    let ticket = Ticket { location: "Downtown".into(), lines: vec![Line::of("Serum")], ..Ticket::default() };
    let ago = TimeDelta::hours(60);
    let order = seller.sandbox.with(|world| world.sell_offline(&ticket, ago)).unwrap();
    let sale = seller.found(&order).await;
    let late = seller.clock.now() - sale.sold_at;
    assert!((late - ago).num_seconds().abs() < 5, "{late}");
}

#[tokio::test(start_paused = true)]
async fn what_is_held_is_not_paid_and_what_is_let_go_is_no_sale() {
    let seller = plain();
    let held = Part { authorised: true, ..Part::default() };
    let ticket =
        Ticket { location: "Downtown".into(), lines: vec![Line::of("Serum")], parts: vec![held], ..Ticket::default() };
    let order = seller.sandbox.with(|world| world.sell(&ticket)).unwrap();
    assert_eq!(seller.found(&order).await.state, SaleState::Unpaid);
    let payment = seller.sandbox.with(|world| world.payments_of(&order))[0].clone();
    seller.sandbox.with(|world| world.capture(&payment));
    assert_eq!(seller.found(&order).await.state, SaleState::Paid);
    let other = seller.sandbox.with(|world| world.sell(&ticket)).unwrap();
    let payment = seller.sandbox.with(|world| world.payments_of(&other))[0].clone();
    seller.sandbox.with(|world| world.void(&payment));
    assert_eq!(seller.found(&other).await.state, SaleState::Void);
}

#[tokio::test(start_paused = true)]
async fn what_was_declined_after_it_was_taken_offline_is_not_paid_whatever_the_order_says() {
    for declined_is_due in [true, false] {
        let seller = seller(Settings { declined_is_due, ..prompt() }, |router| router, |_| {});
        let part = |amount: i64| Part { amount: Some(amount), ..Part::default() };
        let ticket = Ticket {
            location: "Downtown".into(),
            lines: vec![Line::of("Serum")],
            parts: vec![part(1_000), part(3_500)],
            ..Ticket::default()
        };
        let order = seller.sandbox.with(|world| world.sell_offline(&ticket, TimeDelta::hours(9))).unwrap();
        assert_eq!(seller.found(&order).await.state, SaleState::Paid);
        let payments = seller.sandbox.with(|world| world.payments_of(&order));
        for (payment, state) in payments.iter().zip([SaleState::PartlyPaid, SaleState::Unpaid]) {
            seller.sandbox.with(|world| world.decline(payment));
            assert_eq!(seller.found(&order).await.state, state, "due again: {declined_is_due}");
        }
        seller.sandbox.with(|world| world.pay(&order, &part(4_500))).unwrap();
        assert_eq!(seller.found(&order).await.state, SaleState::Paid, "paid anew, due again: {declined_is_due}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_grant_is_exchanged_for_a_token_that_is_renewed_in_time_and_told_when_it_is_gone() {
    let settings = prompt();
    let credentials = |settings: &Settings| Credentials::OAuth {
        client_id: settings.client_id.clone(),
        client_secret: Secret::new(settings.client_secret.clone()),
        refresh_token: Secret::new(settings.refresh_token.clone()),
    };
    let grant = credentials(&settings);
    let seller = seller(settings, |router| router, |options| options.credentials = grant);
    let asked = |route: &str| seller.sandbox.with(|world| world.stats.by_route.get(route).copied().unwrap_or(0));
    for _ in 0..3 {
        seller.connector.identify().await.unwrap();
    }
    assert_eq!(asked("POST oauth2/token"), 1, "one token serves many calls");
    // Good for thirty days, and renewed every week, as Square asks.
    seller.clock.sleep(Duration::from_secs(8 * 86_400)).await;
    seller.connector.identify().await.unwrap();
    assert_eq!(asked("POST oauth2/token"), 2);
    seller.sandbox.with(|world| world.revoke_access());
    let refused = seller.connector.identify().await.unwrap_err();
    assert!(matches!(&refused, ConnectorError::Unauthorized(why) if why.contains("connect Square again")), "{refused}");
}

/// One process of an installation whose application no seller has let in; `watch` and `change` as for [`seller`].
pub fn process(
    seller: &Seller,
    kept: &Arc<Drawer>,
    watch: impl FnOnce(Router) -> Router,
    change: impl FnOnce(&mut Options),
) -> Square {
    let settings = seller.sandbox.with(|world| world.settings.clone());
    let app = Credentials::App { client_id: settings.client_id, client_secret: Secret::new(settings.client_secret) };
    let mut options = Options::new("http://square.example.com".parse().unwrap(), app);
    options.redirect_uri = Some(settings.redirect_uri);
    options.select = default_selection();
    change(&mut options);
    let transport = Arc::new(RouterTransport::new(watch(seller.sandbox.router())));
    Square::new(options, transport, seller.clock.clone()).keep_refresh_token(kept.clone())
}

/// From `in` to `both` it takes another consent, and whoever reads why knows of which command.
#[tokio::test(start_paused = true)]
async fn a_seller_is_asked_for_what_the_connection_does_and_nothing_else_can_be_done_with_it() {
    let seller = plain();
    let customer = seller.customer(json!({ "family_name": "Ito", "email_address": "ana@example.com" }));
    let kept = Arc::new(Drawer::default());
    let reader = process(&seller, &kept, |router| router, |options| options.read_only = true);
    let writer = process(&seller, &kept, |router| router, |_| {});
    let says = "`tandem connection authorize`";
    let nobody = reader.identify().await.unwrap_err();
    assert!(matches!(&nobody, ConnectorError::Unauthorized(why) if why.contains(says)), "{nobody}");
    assert_eq!(seller.sandbox.with(|world| world.stats.requests), 0, "nothing is asked without a grant");
    for (square, writes) in [(&reader, false), (&writer, true)] {
        let page = square.consent("s 1").unwrap();
        assert_eq!((page.host_str(), page.path()), (Some("square.example.com"), "/oauth2/authorize"));
        let asked: BTreeMap<String, String> = page.query_pairs().into_owned().collect();
        assert_eq!((asked["session"].as_str(), asked["scope"].contains("_WRITE")), ("false", writes));
        let brought = brought_back(seller.sandbox.router(), page).await;
        assert_eq!(brought["state"], "s 1");
        let identity = square.redeem(&Secret::new(brought["code"].as_str()), None).await.unwrap();
        assert_eq!(identity.remote_account, seller.merchant());
        let grant = seller.sandbox.with(|world| world.settings.refresh_token.clone());
        assert_eq!(kept.newest().await.unwrap().unwrap().expose(), grant);
        let items = square.check().await.unwrap().items;
        let lacking: Vec<_> = items.iter().filter(|item| !item.ok && item.name != "webhooks").collect();
        assert!(lacking.is_empty(), "{lacking:?}");
        // With the grant that is kept, whichever process was given it.
        match writer.push(CALL, &[update(&customer, "Kaya", None)]).await.remove(0) {
            Pushed::Written { .. } => assert!(writes),
            Pushed::Failed(ConnectorError::Forbidden(why)) => assert!(!writes && why.contains(says), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    for (key, by) in [("k1", CheckoutBy::Link), ("k2", CheckoutBy::Invoice)] {
        let new = NewCheckout {
            by,
            key: key.into(),
            reference: "0199d2c4-0000-7000-8000-00000000002a".into(),
            title: "Facial".into(),
            minor: 9_800,
            currency: "USD".into(),
            location: None,
            buyer: Some(id(&customer)),
            email: None,
            due_on: None,
        };
        writer.checkout(CALL, &new).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_sellers_code_is_good_once_for_five_minutes_and_for_the_seller_whom_the_connection_belongs_to() {
    let seller = plain();
    let kept = Arc::new(Drawer::default());
    let square = process(&seller, &kept, |router| router, |_| {});
    let late = seller.code();
    seller.clock.sleep(Duration::from_secs(301)).await;
    let refused = square.redeem(&late, None).await.unwrap_err();
    assert!(matches!(&refused, ConnectorError::Unauthorized(why) if why.contains("five minutes")), "{refused}");
    assert!(!format!("{refused:?}").contains(late.expose()));
    // Another seller than the one before.
    let found = square.redeem(&seller.code(), Some("MLANOTHER0002")).await.unwrap();
    assert_eq!(found.remote_account, seller.merchant());
    assert!(kept.newest().await.unwrap().is_none(), "that grant reaches no other process");
    assert!(matches!(square.identify().await, Err(ConnectorError::Unauthorized(_))), "nor is it used by this one");
    let good = seller.code();
    seller.clock.sleep(Duration::from_secs(299)).await;
    square.redeem(&good, Some(&seller.merchant())).await.unwrap();
    let grant = kept.newest().await.unwrap().unwrap();
    let twice = square.redeem(&good, Some(&seller.merchant())).await.unwrap_err();
    assert!(matches!(&twice, ConnectorError::Unauthorized(why) if why.contains("one exchange")), "{twice}");
    assert_eq!(kept.newest().await.unwrap().unwrap().expose(), grant.expose());
    square.identify().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_about_the_application_is_told_from_what_passes_and_nothing_is_kept() {
    let seller = plain();
    let (kept, proxy) = (Arc::new(Drawer::default()), Proxy::default());
    let square = process(&seller, &kept, proxy.layer(), |_| {});
    for stranger_has_errors in [false, true] {
        seller.sandbox.with(|world| world.settings.stranger_has_errors = stranger_has_errors);
        let stranger = process(
            &seller,
            &kept,
            |router| router,
            |options| {
                let Credentials::App { client_secret, .. } = &mut options.credentials else { panic!("an application") };
                *client_secret = Secret::new("canary");
            },
        );
        let refused = stranger.redeem(&seller.code(), None).await.unwrap_err();
        assert!(matches!(&refused, ConnectorError::Unauthorized(why) if why.contains("client_secret")), "{refused}");
        assert_eq!(refused.to_string().contains("the seller need not act"), !stranger_has_errors, "{refused}");
        assert!(!format!("{refused:?}").contains("canary"));
    }
    // The redirect address was changed at Square, and not here; the second is how Square refuses a parameter.
    seller.sandbox.with(|world| world.settings.redirect_uri = "https://tandem.example.com/other".into());
    let moved = square.redeem(&seller.code(), None).await.unwrap_err();
    let parameter = json!({ "errors": [{
        "category": "INVALID_REQUEST_ERROR", "code": "INVALID_VALUE", "field": "redirect_uri", "detail": "canary",
    }] });
    let answered = |status: u16, body: String| {
        proxy.answer(move |_, path, _| path.ends_with("/oauth2/token").then(|| Answer::new(status, body.as_str())));
    };
    answered(400, parameter.to_string());
    let named = square.redeem(&seller.code(), None).await.unwrap_err();
    for error in [moved, named] {
        assert!(matches!(&error, ConnectorError::Unauthorized(why) if why.contains("redirect_uri")), "{error}");
        assert!(!format!("{error:?}").contains("canary"));
    }
    // A page in between, an outage, and an answer that was lost say nothing about the application.
    let mut passing = Vec::new();
    for (status, body) in [(400, "<html>no</html>"), (200, "<html>yes</html>"), (503, "")] {
        answered(status, body.to_owned());
        passing.push(square.redeem(&seller.code(), None).await.unwrap_err());
    }
    proxy.pass();
    seller.sandbox.with(|world| world.faults = Faults { lost_answer: 1.0, ..Faults::default() });
    passing.push(square.redeem(&seller.code(), None).await.unwrap_err());
    for error in passing {
        assert!(matches!(&error, ConnectorError::NotSent(why) if why.starts_with("exchanging the code")), "{error}");
    }
    assert!(kept.newest().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_daemon_goes_on_with_the_grant_that_a_seller_gave_to_another_process() {
    let seller = plain();
    let kept = Arc::new(Drawer::default());
    let [daemon, command] = [(); 2].map(|()| process(&seller, &kept, |router| router, |_| {}));
    assert!(matches!(daemon.identify().await, Err(ConnectorError::Unauthorized(_))));
    command.redeem(&seller.code(), None).await.unwrap();
    let grant = kept.newest().await.unwrap().unwrap();
    for _ in 0..5 {
        daemon.identify().await.unwrap();
        // An access token is good for thirty days.
        seller.clock.sleep(Duration::from_secs(8 * 86_400)).await;
    }
    assert_eq!(kept.newest().await.unwrap().unwrap().expose(), grant.expose(), "Square's stays the same");
    seller.sandbox.with(|world| world.revoke_access());
    let gone = daemon.identify().await.unwrap_err();
    assert!(matches!(&gone, ConnectorError::Unauthorized(why) if why.contains("connect Square again")), "{gone}");
    command.redeem(&seller.code(), Some(&seller.merchant())).await.unwrap();
    assert_ne!(kept.newest().await.unwrap().unwrap().expose(), grant.expose());
    daemon.identify().await.unwrap();
}

/// Orders are searched ten locations at a time: what the eleventh sold is found as well.
#[tokio::test(start_paused = true)]
async fn the_sales_of_more_than_ten_locations_are_all_found() {
    let seller = plain();
    let names: Vec<String> = (0..23).map(|n| format!("Branch {n}")).collect();
    seller.sandbox.with(|world| {
        names.iter().for_each(|name| drop(world.add_location(name, "America/New_York", "US", "USD")));
    });
    let mut cursor = Cursor::start();
    seller.drain("sale.changes", &mut cursor).await;
    seller.clock.sleep(Duration::from_secs(60)).await;
    let sold: Vec<String> = seller.sandbox.with(|world| {
        let ticket =
            |name: &String| Ticket { location: name.clone(), lines: vec![Line::of("Serum")], ..Ticket::default() };
        names.iter().map(|name| world.sell(&ticket(name)).unwrap()).collect()
    });
    seller.clock.sleep(Duration::from_secs(60)).await;
    let seen = seller.drain("sale.changes", &mut cursor).await;
    assert!(sold.iter().all(|order| seen.contains(order)), "{} of {} were found", seen.len(), sold.len());
}

/// An order is in its location's currency, and what is closed sells nothing.
#[tokio::test(start_paused = true)]
async fn a_checkout_is_made_at_the_first_open_location_that_takes_its_currency_or_not_at_all() {
    let seller = plain();
    seller.sandbox.with(|world| {
        world.close_location("Downtown");
        world.add_location("Ginza", "Asia/Tokyo", "JP", "JPY");
    });
    let start = async |currency: &str| {
        let new = NewCheckout {
            by: CheckoutBy::Link,
            key: format!("wish in {currency}"),
            reference: "0199d2c4-0000-7000-8000-00000000002a".into(),
            title: "Facial".into(),
            minor: 9_800,
            currency: currency.into(),
            location: None,
            buyer: None,
            email: None,
            due_on: None,
        };
        seller.connector.checkout(CALL, &new).await
    };
    for (currency, place) in [("USD", "Uptown"), ("JPY", "Ginza")] {
        let started = start(currency).await.unwrap();
        let sale = seller.found(started.sale.as_str()).await;
        let made = (sale.location.name.as_str(), sale.currency.as_str(), sale.total);
        assert_eq!(made, (place, currency, 9_800));
    }
    let refused = start("EUR").await.unwrap_err();
    let ConnectorError::Rejected { field, reason } = refused else { panic!("{refused}") };
    assert_eq!(field.as_deref(), Some("location"), "{reason}");
    let asked = seller.sandbox.with(|world| world.stats.by_route.get("POST v2/online-checkout/payment-links").copied());
    assert_eq!(asked, Some(2), "nothing was asked of Square in vain");
}
