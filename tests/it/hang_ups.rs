//! Whoever asks for something may hang up while a clinic thinks: what was begun goes on to its end.

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
use tandem_fhir::sandbox::{Sandbox, Settings};
use tokio::{net::TcpListener, sync::Semaphore};
use tower::ServiceExt;

use crate::house::{emr_at, iso, now};

/// Stands before a clinic that thinks about each appointment until it is let go on.
struct Thinking {
    asked: Semaphore,
    goes_on: Semaphore,
}

impl Thinking {
    fn before(self: &Arc<Self>, clinic: Router) -> Router {
        let thinking = self.clone();
        clinic.layer(from_fn(move |request: Request, next: Next| {
            let thinking = thinking.clone();
            async move {
                if request.method() == Method::POST && request.uri().path().ends_with("/Appointment") {
                    thinking.asked.add_permits(1);
                    thinking.goes_on.acquire().await.unwrap().forget();
                }
                next.run(request).await
            }
        }))
    }
}

async fn post(door: &Router, path: &str, body: &Json) -> (u16, Json) {
    let request = Request::builder()
        .method(Method::POST)
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

async fn made(door: &Router, path: &str, body: &Json) -> String {
    let (status, made) = post(door, path, body).await;
    assert_eq!(status, 201, "{body}: {made}");
    made["id"].as_str().unwrap().to_owned()
}

/// A request that is dropped is what a closed connection comes to.
#[tokio::test]
async fn a_booking_goes_on_where_whoever_asked_for_it_hangs_up() {
    let thinking = Arc::new(Thinking { asked: Semaphore::new(0), goes_on: Semaphore::new(0) });
    let clinic = Sandbox::new(Settings::default(), 5, Arc::new(SystemClock::new()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}/fhir", listener.local_addr().unwrap());
    let served = thinking.before(clinic.router());
    tokio::spawn(async move { axum::serve(listener, served).await });
    let folder = tempfile::tempdir().unwrap();
    let text = format!(
        r#"
[security]
master_key = "{}"
[accounts.glow_clinic]
timezone = "America/Phoenix"
currency = "USD"
{}"#,
        Sealer::new_key().expose(),
        emr_at(&base, &Settings::default().access_tokens[0], 3_600)
    );
    let config = Config::parse(&text, folder.path().to_owned()).unwrap();
    let installation = Arc::new(Installation::open(config).await.unwrap());
    for connection in installation.connections.values() {
        connection.connector.identify().await.unwrap();
    }
    let door = Door::new(installation, Some(Secret::new("boot")), None, BTreeMap::new(), None).router();
    let ana = json!({ "first_name": "Ana", "last_name": "Rivera", "email": "ana@example.com" });
    let ana = made(&door, "/api/v1/contacts", &ana).await;
    let deal = made(&door, "/api/v1/opportunities", &json!({ "name": "Ana's course", "contact_id": ana })).await;
    let path = format!("/api/v1/opportunities/{deal}/appointment");
    let wish = json!({ "connection": "emr", "kind": "meeting", "starts_at": iso(now() + TimeDelta::days(1)) });
    let press = {
        let (door, path, wish) = (door.clone(), path.clone(), wish.clone());
        tokio::spawn(async move { post(&door, &path, &wish).await })
    };
    thinking.asked.acquire().await.unwrap().forget();
    press.abort();
    assert!(press.await.unwrap_err().is_cancelled(), "nobody waits any more");
    let (status, said) = post(&door, &path, &wish).await;
    assert_eq!((status, &said["code"]), (409, &json!("booking")), "{said}");
    thinking.goes_on.add_permits(1);
    let until_it_ended = async {
        loop {
            let (status, said) = post(&door, &path, &wish).await;
            assert_eq!(status, 409, "{said}");
            if said["code"] == "booked" {
                break;
            }
        }
    };
    let patience = Duration::from_secs(20);
    tokio::time::timeout(patience, until_it_ended).await.expect("what was begun ends, and its end is stored");
    assert_eq!(clinic.with(|world| world.ids("Appointment").len()), 1);
}
