//! One record among several that comes in a shape which its vendor does not document: it is set aside with a reason that quotes
//! nothing, the others go on, and it comes in once it can be read. HubSpot's is in `promises`, a clinic's are in `emr` and `fhir`.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    middleware::{Next, from_fn},
    response::Response,
};
use chrono::TimeDelta;
use serde_json::{Value as Json, json};
use tandem::{
    model::{Profile, Status},
    simulation::Rig,
    store::SyncStore,
    sync::connection::Connection,
};
use tandem_contract::Kind;
use tandem_pipedrive::sandbox::Change;

use crate::{
    proxy::{Answer, Proxy},
    till::{Shop, ticket},
    two_crms::Both,
};

/// What a vendor says in the place of what it documents.
const ODD: &str = "Jane Roe";

fn each(json: &mut Json, spoil: fn(&mut Json)) {
    spoil(json);
    match json {
        Json::Object(members) => members.values_mut().for_each(|one| each(one, spoil)),
        Json::Array(rows) => rows.iter_mut().for_each(|one| each(one, spoil)),
        _ => {}
    }
}

/// Stands between a connector and its vendor: while the switch is on, every part of every answer goes through `spoil`.
pub fn spoiling(is_on: &Arc<AtomicBool>, spoil: fn(&mut Json)) -> impl FnOnce(Router) -> Router {
    let is_on = is_on.clone();
    move |router| {
        router.layer(from_fn(move |request: Request, next: Next| {
            let is_on = is_on.clone();
            async move {
                let (parts, body) = next.run(request).await.into_parts();
                let bytes = to_bytes(body, usize::MAX).await.unwrap();
                match serde_json::from_slice::<Json>(&bytes) {
                    Ok(mut json) if is_on.load(Ordering::SeqCst) => {
                        each(&mut json, spoil);
                        Response::from_parts(parts, Body::from(json.to_string()))
                    }
                    _ => Response::from_parts(parts, Body::from(bytes)),
                }
            }
        }))
    }
}

/// Stands before Square, and refuses whatever `is_refused` says of a request's path and body.
pub fn refusing(is_refused: impl Fn(&str, &str) -> bool + Send + 'static) -> impl FnOnce(Router) -> Router {
    let why = json!({ "errors": [{ "category": "INVALID_REQUEST_ERROR", "code": "BAD_REQUEST" }] }).to_string();
    let proxy = Proxy::default();
    proxy.answer(move |_, path, body| is_refused(path, body).then(|| Answer::new(400, why.as_str())));
    proxy.layer()
}

/// The codes of what is set aside; what is said of it quotes nothing.
async fn set_aside(rig: &Rig) -> Vec<String> {
    let all = rig.store.failures(&rig.account.name, 100).await.unwrap();
    assert!(all.iter().all(|failure| !failure.message.contains("Jane")), "{all:?}");
    all.into_iter().map(|failure| failure.code).collect()
}

#[tokio::test(start_paused = true)]
async fn a_sale_that_cannot_be_read_waits_alone_and_wins_when_it_can() {
    let spoil: fn(&mut Json) = |json| {
        if json["line_items"][0]["name"] == "Laser course" {
            json["line_items"] = ODD.into();
            // Windows look at this, and at no line.
            json["updated_at"] = ODD.into();
        }
    };
    let broken = Arc::new(AtomicBool::new(false));
    let shop = Shop::watched(Profile::Agency, &[], spoiling(&broken, spoil));
    let people = [shop.person("Ana").await, shop.person("Ben").await, shop.person("Cara").await];
    broken.store(true, Ordering::SeqCst);
    for (person, item) in people.iter().zip(["Serum", "Laser course", "Consultation"]) {
        shop.sell_to(&person.customer, ticket(item));
    }
    shop.settle().await;
    let won = || ["Ana", "Ben", "Cara"].map(|who| shop.ours(&format!("{who}'s course")).position.status == Status::Won);
    assert_eq!(won(), [true, false, true]);
    assert_eq!(set_aside(&shop.rig).await, ["malformed"]);
    broken.store(false, Ordering::SeqCst);
    shop.rig.clock.sleep(Duration::from_secs(3_600)).await;
    shop.settle().await;
    assert_eq!((won(), set_aside(&shop.rig).await), ([true; 3], Vec::new()));
}

/// A question that is refused as a whole because of one of what it names.
#[tokio::test(start_paused = true)]
async fn a_sale_that_the_till_refuses_to_speak_of_keeps_no_other_waiting() {
    let refused: Arc<Mutex<Option<String>>> = Arc::default();
    let watch = refusing({
        let refused = refused.clone();
        move |path, body| {
            let refused = refused.lock().unwrap();
            path.ends_with("/orders/batch-retrieve") && refused.as_ref().is_some_and(|order| body.contains(order))
        }
    });
    let shop = Shop::watched(Profile::Agency, &[], watch);
    let people = [shop.person("Ana").await, shop.person("Ben").await, shop.person("Cara").await];
    for (place, person) in people.iter().enumerate() {
        let order = shop.sell_to(&person.customer, ticket("Serum"));
        if place == 1 {
            *refused.lock().unwrap() = Some(order);
        }
    }
    shop.settle().await;
    let won = || ["Ana", "Ben", "Cara"].map(|who| shop.ours(&format!("{who}'s course")).position.status == Status::Won);
    assert_eq!((won(), set_aside(&shop.rig).await), ([true, false, true], vec!["rejected".to_owned()]));
    *refused.lock().unwrap() = None;
    shop.rig.clock.sleep(Duration::from_secs(3_600)).await;
    shop.settle().await;
    assert_eq!((won(), set_aside(&shop.rig).await), ([true; 3], Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn a_customer_without_an_id_keeps_no_other_from_being_read() {
    let spoil: fn(&mut Json) = |json| {
        if json["given_name"] == "Ben" {
            *json = ODD.into();
        }
    };
    let broken = Arc::new(AtomicBool::new(true));
    let shop = Shop::watched(Profile::Agency, &[], spoiling(&broken, spoil));
    for first in ["Ana", "Ben", "Cara"] {
        let body = json!({ "given_name": first, "email_address": format!("{}@example.com", first.to_lowercase()) });
        shop.square.with(|world| world.create_customer(&body, tandem_square::sandbox::Change::Person)).unwrap();
    }
    let known = || {
        let all = shop.rig.store.all(&shop.rig.account.name, Kind::Contact);
        let mut names: Vec<String> =
            all.iter().filter_map(|contact| contact.get("first_name").as_text().map(str::to_owned)).collect();
        names.sort();
        names
    };
    shop.settle().await;
    assert_eq!(known(), ["Ana", "Cara"]);
    broken.store(false, Ordering::SeqCst);
    // The second pass, an hour behind, has what the first could not name.
    shop.rig.clock.sleep(Duration::from_secs(2 * 3_600)).await;
    shop.settle().await;
    assert_eq!(known(), ["Ana", "Ben", "Cara"]);
}

#[tokio::test(start_paused = true)]
async fn a_pipedrive_deal_that_cannot_be_read_waits_alone_and_comes_in_when_it_can() {
    let named: fn(&mut Json) = |json| {
        if json["title"] == "odd" {
            json["custom_fields"] = ODD.into();
        }
    };
    let nameless: fn(&mut Json) = |json| {
        if json["title"] == "odd" {
            *json = ODD.into();
        }
    };
    for (what, spoil, told) in [("named", named, vec!["malformed"]), ("nameless", nameless, Vec::new())] {
        let broken = Arc::new(AtomicBool::new(true));
        let both = Both::watched(12, spoiling(&broken, spoil));
        for title in ["one", "odd", "two"] {
            both.pipedrive.with(|world| world.create(Kind::Deal, &json!({ "title": title }), Change::Person)).unwrap();
        }
        let [_, pipedrive] = both.engines();
        pipedrive.once().await.unwrap();
        let known = || {
            let mut titles: Vec<String> =
                both.ours().iter().filter_map(|deal| deal.get("name").as_text().map(str::to_owned)).collect();
            titles.sort();
            titles
        };
        assert_eq!(known(), ["one", "two"], "{what}");
        assert_eq!(set_aside(&both.rig).await, told, "{what}");
        broken.store(false, Ordering::SeqCst);
        // What nobody could name comes with the second pass, an hour behind.
        both.rig.clock.sleep(Duration::from_secs(2 * 3_600)).await;
        pipedrive.once().await.unwrap();
        assert_eq!(known(), ["odd", "one", "two"], "{what}");
        assert_eq!(set_aside(&both.rig).await, [""; 0], "{what}");
    }
}

/// What the filter leaves out is nobody's concern, also where it could not be read before.
#[tokio::test(start_paused = true)]
async fn a_deal_that_is_left_out_goes_off_the_list_once_it_can_be_read() {
    let spoil: fn(&mut Json) = |json| {
        if json["title"] == "odd" {
            json["custom_fields"] = ODD.into();
        }
    };
    let broken = Arc::new(AtomicBool::new(true));
    let mut both = Both::watched(13, spoiling(&broken, spoil));
    let mut second = Connection::clone(&both.second);
    second.filter.created_since = Some(both.rig.clock.now() + TimeDelta::days(1));
    both.second = Arc::new(second);
    both.pipedrive.with(|world| world.create(Kind::Deal, &json!({ "title": "odd" }), Change::Person)).unwrap();
    let [_, pipedrive] = both.engines();
    pipedrive.once().await.unwrap();
    assert_eq!(set_aside(&both.rig).await, ["malformed"]);
    broken.store(false, Ordering::SeqCst);
    both.rig.clock.sleep(Duration::from_secs(2 * 3_600)).await;
    pipedrive.once().await.unwrap();
    assert_eq!((both.ours().len(), set_aside(&both.rig).await), (0, Vec::new()));
}
