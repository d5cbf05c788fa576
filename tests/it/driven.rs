//! Whatever a connector asks is a route that `tests/sdk` has driven by the vendor's own client library.

use std::collections::BTreeMap;

use tandem_contract::{
    CheckoutBy, Connector, Cursor, Kind, NewCheckout, Secret, Write, WriteOp,
    conformance::{self, Vendor},
};
use tandem_hubspot::{ApiVersion, sandbox as hubspot};
use tandem_pipedrive::sandbox as pipedrive;
use tandem_square::sandbox as square;

use crate::{
    conformance::account,
    pipedrive::{CALL, company},
    square::{id, seller},
};

const DRIVEN: &str = include_str!("../sdk/routes");

/// Goes in by the doors that every connector has; how it behaves there is for other tests.
async fn walk(vendor: &dyn Vendor) {
    drop(conformance::run(vendor).await);
    let (connector, kind) = (vendor.connector(), vendor.kind());
    connector.discover().await.unwrap();
    connector.list(CALL, kind, &Cursor::start()).await.unwrap();
    for stream in connector.streams() {
        let mut cursor = Cursor::start();
        for _ in 0..5 {
            cursor = connector.changes(CALL, &stream, &cursor).await.unwrap().next;
        }
    }
    let made = vendor.make("told").await;
    connector.history(CALL, kind, std::slice::from_ref(&made), &[vendor.text_property()]).await.unwrap();
    drop(connector.push(CALL, &[Write { trace: "away".into(), kind, op: WriteOp::Archive { id: made } }]).await);
}

fn assert_driven(vendor: &str, asked: &BTreeMap<String, u64>) {
    let is_driven = |route: &str| DRIVEN.lines().any(|line| line.split_once(' ') == Some((vendor, route)));
    let missing: Vec<&String> = asked.keys().filter(|route| !is_driven(route.as_str())).collect();
    assert!(missing.is_empty(), "{vendor} is asked {missing:?}: add them to tests/sdk/routes, and drive them there");
    assert!(!asked.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_hubspot_is_asked_its_own_library_asks() {
    for kind in [Kind::Contact, Kind::Deal] {
        let account = account(hubspot::Settings::default(), ApiVersion::default(), kind, |router| router);
        walk(&account).await;
        assert_driven("hubspot", &account.sandbox.with(|world| world.stats.by_route.clone()));
    }
}

#[tokio::test(start_paused = true)]
async fn what_pipedrive_is_asked_its_own_library_asks() {
    for kind in [Kind::Contact, Kind::Deal] {
        let company = company(
            pipedrive::Settings::default(),
            kind,
            |router| router,
            |options| options.webhook_login = Some(("pd-1".into(), Secret::new("long-random-secret"))),
        );
        walk(&company).await;
        let address = "https://tandem.example.com/webhooks/pipedrive".parse().unwrap();
        company.connector.subscribe(CALL, &address).await.unwrap();
        assert_driven("pipedrive", &company.sandbox.with(|world| world.stats.by_route.clone()));
    }
}

#[tokio::test(start_paused = true)]
async fn what_square_is_asked_its_own_library_asks() {
    let settings = square::Settings { customer_lag_ms: 0, payment_lag_ms: 0, order_lag_ms: 0, ..Default::default() };
    let seller = seller(settings, |router| router, |_| {});
    walk(&seller).await;
    let lines = vec![square::Line::of("Serum")];
    let ticket = square::Ticket { location: "Uptown".into(), lines, ..Default::default() };
    let order = seller.sandbox.with(|world| world.sell(&ticket)).unwrap();
    seller.connector.sales(CALL, &[id(&order)]).await.unwrap();
    let buyer = seller.sandbox.with(|world| world.customer_ids()[0].clone());
    for (key, by) in [("k1", CheckoutBy::Link), ("k2", CheckoutBy::Invoice)] {
        let new = NewCheckout {
            by,
            key: key.into(),
            reference: "opp_1".into(),
            title: "Serum".into(),
            minor: 4_500,
            currency: "USD".into(),
            location: None,
            buyer: Some(id(&buyer)),
            email: None,
            due_on: None,
        };
        seller.connector.checkout(CALL, &new).await.unwrap();
    }
    assert_driven("square", &seller.sandbox.with(|world| world.stats.by_route.clone()));
}
