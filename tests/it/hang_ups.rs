//! Whoever asks for something may hang up while a clinic or a till thinks: what was begun goes on to its end. A request
//! that is dropped is what a closed connection comes to.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    middleware::{Next, from_fn},
};
use chrono::TimeDelta;
use http::{Method, header};
use serde_json::{Value as Json, json};
use tandem::{api::Door, config::Config, installation::Installation, store::seal::Sealer};
use tandem_contract::{Secret, SystemClock};
use tandem_fhir::sandbox as fhir;
use tandem_square::sandbox as square;
use tokio::{net::TcpListener, sync::Semaphore};
use tower::ServiceExt;

use crate::house::{emr_at, iso, now};

/// How long the end of what was begun is waited for: there is no virtual time beside a database.
const PATIENCE: Duration = Duration::from_secs(20);

/// Stands before a vendor who thinks about each of these requests until it is let go on.
struct Thinking {
    about: &'static str,
    asked: Semaphore,
    goes_on: Semaphore,
}

impl Thinking {
    fn about(about: &'static str) -> Arc<Self> {
        Arc::new(Self { about, asked: Semaphore::new(0), goes_on: Semaphore::new(0) })
    }

    /// Serves a vendor; answers where.
    async fn serve(self: &Arc<Self>, vendor: Router) -> String {
        let thinking = self.clone();
        let vendor = vendor.layer(from_fn(move |request: Request, next: Next| {
            let thinking = thinking.clone();
            async move {
                if request.method() == Method::POST && request.uri().path().ends_with(thinking.about) {
                    thinking.asked.add_permits(1);
                    thinking.goes_on.acquire().await.unwrap().forget();
                }
                next.run(request).await
            }
        }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, vendor).await });
        base
    }

    /// Asks, and hangs up while the vendor thinks.
    async fn hang_up(&self, office: &Office, path: &str, body: &Json) {
        let (door, path, body) = (office.door.clone(), path.to_owned(), body.clone());
        let asking = tokio::spawn(async move { ask(&door, Method::POST, &path, &body).await });
        self.asked.acquire().await.unwrap().forget();
        asking.abort();
        assert!(asking.await.unwrap_err().is_cancelled(), "nobody waits any more");
    }
}

async fn ask(door: &Router, method: Method, path: &str, body: &Json) -> (u16, Json) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::AUTHORIZATION, "Bearer boot")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body.to_string()))
        .unwrap();
    let answer = door.clone().oneshot(request).await.unwrap();
    let status = answer.status().as_u16();
    let said = to_bytes(answer.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&said).unwrap_or_default())
}

/// A daemon's door, and Ana's opportunity.
struct Office {
    door: Router,
    deal: String,
    _folder: tempfile::TempDir,
}

impl Office {
    async fn open(table: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = Sealer::new_key();
        let text = format!(
            r#"
[security]
master_key = "{}"
[accounts.glow_clinic]
timezone = "America/Phoenix"
currency = "USD"
{table}"#,
            key.expose()
        );
        let config = Config::parse(&text, folder.path().to_owned()).unwrap();
        let installation = Arc::new(Installation::open(config).await.unwrap());
        for connection in installation.connections.values() {
            connection.connector.identify().await.unwrap();
        }
        let door = Door::new(installation, Some(Secret::new("boot")), None, BTreeMap::new(), None).router();
        let mut office = Self { door, deal: String::new(), _folder: folder };
        let ana = json!({ "first_name": "Ana", "last_name": "Rivera", "email": "ana@example.com" });
        let ana = office.made("/api/v1/contacts", &ana).await;
        let value = json!({ "minor": 12_500, "currency": "USD" });
        let deal = json!({ "name": "Ana's course", "contact_id": ana["id"], "value": value });
        let deal = office.made("/api/v1/opportunities", &deal).await;
        office.deal = deal["id"].as_str().unwrap().to_owned();
        office
    }

    async fn made(&self, path: &str, body: &Json) -> Json {
        let (status, made) = ask(&self.door, Method::POST, path, body).await;
        assert_eq!(status, 201, "{body}: {made}");
        made
    }
}

#[tokio::test]
async fn a_booking_goes_on_where_whoever_asked_for_it_hangs_up() {
    let thinking = Thinking::about("/Appointment");
    let clinic = fhir::Sandbox::new(fhir::Settings::default(), 5, Arc::new(SystemClock::new()));
    let base = format!("{}/fhir", thinking.serve(clinic.router()).await);
    let office = Office::open(&emr_at(&base, &fhir::Settings::default().access_tokens[0], 3_600)).await;
    let path = format!("/api/v1/opportunities/{}/appointment", office.deal);
    let wish = json!({ "connection": "emr", "kind": "meeting", "starts_at": iso(now() + TimeDelta::days(1)) });
    thinking.hang_up(&office, &path, &wish).await;
    let (status, said) = ask(&office.door, Method::POST, &path, &wish).await;
    assert_eq!((status, &said["code"]), (409, &json!("booking")), "{said}");
    thinking.goes_on.add_permits(1);
    let until_it_ended = async {
        loop {
            let (status, said) = ask(&office.door, Method::POST, &path, &wish).await;
            assert_eq!(status, 409, "{said}");
            if said["code"] == "booked" {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, until_it_ended).await.expect("what was begun ends, and its end is stored");
    assert_eq!(clinic.with(|world| world.ids("Appointment").len()), 1);
}

#[tokio::test]
async fn a_checkout_goes_on_where_whoever_asked_for_it_hangs_up() {
    let thinking = Thinking::about("/payment-links");
    let till = square::Sandbox::new(square::Settings::default(), 5, Arc::new(SystemClock::new()));
    let base = thinking.serve(till.router()).await;
    let token = &square::Settings::default().access_tokens[0];
    let table = format!(
        r#"
[connections.square]
account = "glow_clinic"
connector = "square"
base_url = "{base}"
credentials = {{ access_token = "{token}" }}
"#
    );
    let office = Office::open(&table).await;
    let path = format!("/api/v1/opportunities/{}/checkout", office.deal);
    let wish = json!({ "connection": "square", "by": "link" });
    thinking.hang_up(&office, &path, &wish).await;
    thinking.goes_on.add_permits(1);
    let started = async {
        loop {
            let (status, sales) = ask(&office.door, Method::GET, "/api/v1/sales?state=waiting", &Json::Null).await;
            assert_eq!(status, 200, "{sales}");
            if let Some(sale) = sales["data"].as_array().and_then(|sales| sales.first()) {
                break sale.clone();
            }
        }
    };
    let sale = tokio::time::timeout(PATIENCE, started).await.expect("what was begun is stored");
    assert_eq!(sale["opportunity"], office.deal.as_str());
    thinking.goes_on.add_permits(1);
    assert_eq!(office.made(&path, &wish).await["sale"], sale["id"], "asked for again, it is the same one");
}
