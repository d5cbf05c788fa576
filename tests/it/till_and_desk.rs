//! The till and the clinic's desk through the doors of the real program: sales that a person links, checkouts, appointments, and
//! what must never leave a clinic. What each of them means is in `till.rs` and `emr.rs`.

use std::sync::Arc;

use chrono::TimeDelta;
use serde_json::{Value as Json, json};
use tandem_contract::ReqwestTransport;
use tandem_fhir::sandbox::{CANARY, Settings, World};

use crate::{
    house::{House, NOBODY, emr, emr_at, iso, now, square},
    process::Place,
};

/// The table of a till alone; polling is there if a webhook should be lost.
fn till(place: &Place) -> String {
    square(place, 5).0
}

/// CB-14: of two opportunities that may be meant none is taken, both are shown, and the one that a person names is won.
#[test]
fn a_sale_of_which_two_may_be_meant_is_shown_with_both_and_wins_the_one_that_a_person_names() {
    let house = House::open("info", till);
    let ana = house.person("Ana");
    let deals = ["Ana's course", "Ana's second"].map(|name| house.deal(name, Some(&ana), Some(10_000)));
    let customer = house.known_as(&ana, "square");
    let sale = house.paid(12_500, &json!({ "customer_id": customer }));
    house.place.until("the sale waits for a person", || {
        house.list("/api/v1/sales").iter().any(|shown| shown["id"] == sale.as_str())
    });
    let shown = house.list("/api/v1/sales").remove(0);
    assert_eq!(shown["why"], "the buyer has several opportunities that it could close");
    assert_eq!(shown["amount"], json!({ "minor": 12_500, "currency": "USD" }));
    let mut candidates: Vec<&str> = shown["candidates"].as_array().unwrap().iter().filter_map(Json::as_str).collect();
    let mut both = [deals[0].as_str(), deals[1].as_str()];
    candidates.sort_unstable();
    both.sort_unstable();
    assert_eq!(candidates, both);
    let told = house.place.run_ok(&["sales", "unmatched"]);
    for words in [sale.as_str(), "for 125.00 USD", "it may be of", deals[0].as_str(), deals[1].as_str()] {
        assert!(told.contains(words), "{words}: {told}");
    }
    let told = house.place.run_ok(&["sales", "unmatched", "--format", "json"]);
    let told: Json = serde_json::from_str(&told).unwrap();
    assert_eq!(told["sales"][0]["candidates"], shown["candidates"]);
    // What is not there, or is no id, changes nothing.
    let link = format!("/api/v1/sales/{sale}/link");
    house.refuses("POST", &link, &json!({ "opportunity": NOBODY }), 404, "not_found");
    house.refuses("POST", &link, &json!({ "opportunity": "Ana's course" }), 422, "opportunity");
    house.refuses("POST", "/api/v1/sales/square:never/link", &json!({ "opportunity": deals[0] }), 404, "not_found");
    house.refuses("POST", "/api/v1/sales/never/link", &json!({ "opportunity": deals[0] }), 404, "not_found");
    let refused = |opportunity: &str, why: &str| {
        let output = house.place.run(&["sales", "link", &sale, opportunity]);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains(why), "{told}");
    };
    refused(NOBODY, "there is no such opportunity");
    refused("Ana's course", "that is not the id of an opportunity");
    house.refuses("GET", "/api/v1/sales?limit=0", &Json::Null, 422, "limit");
    assert_eq!(house.list("/api/v1/sales").len(), 1);
    // A person says which.
    let told = house.place.run_ok(&["sales", "link", &sale, &deals[1]]);
    assert!(told.contains("Linked."), "{told}");
    house.until_won(&deals[1], 12_500);
    assert_eq!(house.shown(&deals[0])["status"], "open");
    let live = house.list("/api/v1/sales?state=live");
    assert_eq!((live.len(), &live[0]["id"], &live[0]["found_by"]), (1, &json!(sale), &json!("person")));
    assert_eq!(live[0]["opportunity"], deals[1].as_str());
    house.place.until("HubSpot says that it is won", || {
        let amount = house.in_hubspot(&deals[1], "amount").and_then(|amount| amount.parse::<f64>().ok());
        house.in_hubspot(&deals[1], "dealstage").as_deref() == Some("closedwon") && amount == Some(125.0)
    });
    let told = house.place.run_ok(&["sales", "unmatched"]);
    assert!(told.contains("No sale waits for you to say whose it is."), "{told}");
    assert!(house.list("/api/v1/sales").is_empty());
    // What counts for one does not count for another as well.
    refused(&deals[0], "counts for an opportunity already, or did: give it back at the till first");
    house.refuses("POST", &link, &json!({ "opportunity": deals[0] }), 422, "sale");
    assert_eq!(house.shown(&deals[0])["status"], "open");
}

/// GYM-20, GYM-29, GYM-31: a checkout carries its opportunity, whoever pays it, and says what that is worth.
#[test]
fn gym_20_a_checkout_that_was_started_over_the_api_wins_its_very_opportunity_when_it_is_paid() {
    let house = House::open("info", till);
    let ana = house.person("Ana");
    let [by_link, by_invoice, untouched] =
        ["By link", "By invoice", "Untouched"].map(|name| house.deal(name, Some(&ana), Some(12_500)));
    // An invoice is sent to a customer of the till.
    house.known_as(&ana, "square");
    let start = |id: &str, body: &Json| {
        let (status, started) = house.place.ask("POST", &format!("/api/v1/opportunities/{id}/checkout"), body);
        assert_eq!(status, 201, "{body}: {started}");
        let text = |name: &str| started[name].as_str().unwrap().to_owned();
        (text("sale"), text("url"))
    };
    let pays = |sale: &str, minor: i64| {
        let order = sale.strip_prefix("square:").unwrap();
        let by = json!({ "order_id": order, "buyer_email_address": "somebody@example.com" });
        assert_eq!(house.paid(minor, &by), sale);
    };
    let plain = json!({ "connection": "square", "by": "link" });
    let (sale, url) = start(&by_link, &plain);
    assert!(url.starts_with("https://sandbox.square.link/u/"), "{url}");
    assert_eq!(start(&by_link, &plain), (sale.clone(), url), "asked for again it is the same one");
    let another = start(&by_link, &json!({ "connection": "square", "by": "link", "key": "another" }));
    assert_ne!(another.0, sale);
    house.place.until("what is not paid waits", || {
        house.list("/api/v1/sales?state=waiting").iter().any(|shown| shown["id"] == sale.as_str())
    });
    assert_eq!(house.shown(&by_link)["status"], "open");
    pays(&sale, 12_500);
    house.until_won(&by_link, 12_500);
    let price = json!({ "minor": 9_900, "currency": "USD" });
    let wish = json!({ "connection": "square", "by": "invoice", "price": price, "due_on": iso(now())[..10] });
    let (invoice, url) = start(&by_invoice, &wish);
    assert!(url.starts_with("https://sandbox.square.site/pay-invoice/"), "{url}");
    assert_eq!(house.shown(&by_invoice)["status"], "open");
    pays(&invoice, 9_900);
    house.until_won(&by_invoice, 9_900);
    // Nothing is asked for twice; what is paid on top of what won it is added.
    house.refuses("POST", &format!("/api/v1/opportunities/{by_link}/checkout"), &plain, 409, "won");
    let price = json!({ "minor": 2_500, "currency": "USD" });
    let (more, _) = start(&by_link, &json!({ "connection": "square", "by": "link", "price": price }));
    pays(&more, 2_500);
    house.until_won(&by_link, 15_000);
    assert_eq!(house.shown(&untouched)["status"], "open", "the same person's, and nobody paid for it");
    let live = house.list("/api/v1/sales?state=live");
    for (sale, opportunity) in [(&sale, &by_link), (&invoice, &by_invoice), (&more, &by_link)] {
        let shown = live.iter().find(|shown| shown["id"] == sale.as_str()).unwrap();
        assert_eq!(shown["opportunity"], opportunity.as_str());
        assert_eq!(shown["found_by"], "reference");
    }
    house.place.until("HubSpot says that it is won", || {
        house.in_hubspot(&by_link, "dealstage").as_deref() == Some("closedwon")
    });
}

#[test]
fn a_checkout_that_does_not_fit_is_refused_and_makes_nothing_at_the_till() {
    let house = House::open("info", till);
    let (ana, bare) = (house.person("Ana"), house.deal("Nobody's", None, None));
    let course = house.deal("Ana's course", Some(&ana), Some(12_500));
    let path = |id: &str| format!("/api/v1/opportunities/{id}/checkout");
    let wish = json!({ "connection": "square", "by": "link" });
    house.refuses("POST", &path(NOBODY), &wish, 404, "not_found");
    house.refuses("POST", &path("Ana's%20course"), &wish, 404, "not_found");
    house.refuses("POST", &path(&bare), &wish, 422, "price");
    let price = |minor: Json, currency: &str| json!({ "price": { "minor": minor, "currency": currency } });
    for (change, status, word) in [
        (json!({ "connection": "nobody" }), 404, "not_found"),
        (json!({ "connection": "No Name!" }), 404, "not_found"),
        (json!({ "connection": "hubspot" }), 422, "connection"),
        (price(0.into(), "USD"), 422, "price"),
        (price((-5).into(), "USD"), 422, "price"),
        (price(100.into(), "XXZ"), 422, "price"),
        (price("12.50".into(), "USD"), 422, "bad_request"),
        (price(12.5.into(), "USD"), 422, "bad_request"),
        (json!({ "location": "LNOWHERE" }), 422, "location_id"),
        (json!({ "by": "cash" }), 422, "bad_request"),
        (json!({ "due_on": "tomorrow" }), 422, "bad_request"),
        (json!({ "discount": 5 }), 422, "bad_request"),
    ] {
        let mut asked = wish.clone();
        asked.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        house.refuses("POST", &path(&course), &asked, status, word);
    }
    // An invoice is sent to somebody.
    let invoice = json!({ "connection": "square", "by": "invoice", "price": { "minor": 100, "currency": "USD" } });
    house.refuses("POST", &path(&bare), &invoice, 422, "contact");
    let raw = |more: &[&str]| house.place.api("POST", &path(&course), more).unwrap();
    let json_type = "content-type: application/json";
    assert_eq!(raw(&["-H", json_type, "-d", "{"]).0, 400);
    assert_eq!(raw(&["-H", json_type]).0, 400);
    assert_eq!(raw(&["-d", "{}"]).0, 415);
    let body = wish.to_string();
    assert_eq!(raw(&["-H", "Tandem-Account: other", "-H", json_type, "-d", &body]).0, 404);
    let url = format!("http://127.0.0.1:{}{}", house.place.port, path(&course));
    let (status, told) = house.place.request("POST", &url, "guess", &["-H", json_type, "-d", &body]).unwrap();
    assert_eq!(status, 401);
    assert!(told.contains("this token is not known"), "{told}");
    assert!(house.list("/api/v1/sales?state=waiting").is_empty());
    let places = json!({ "location_ids": ["LDOWNTOWN00001", "LUPTOWN0000002"] });
    let (status, orders) = house.place.there("square", "POST", "/v2/orders/search", &places);
    assert_eq!(status, 200, "{orders}");
    assert!(orders["orders"].as_array().is_none_or(Vec::is_empty), "{orders}");
}

/// AX-31, AX-32 and AX-34: booked from the opportunity, one at a time, and at the clinic it is so. AX-33: the appointment that there is
/// can be viewed, edited and deleted from there, and viewed it says everything that an edit of it begins with.
#[test]
fn ax_31_ax_33_an_appointment_is_made_viewed_moved_and_called_off_over_the_api_and_so_it_is_at_the_clinic() {
    let house = House::open("info", |place| emr(place, 2));
    let began = now();
    let at = |hours: i64| iso(began + TimeDelta::hours(hours));
    let ana = house.person("Ana");
    let (course, bare) = (house.deal("Ana's course", Some(&ana), Some(10_000)), house.deal("Nobody's", None, None));
    let there = |path: &str| {
        let (status, shown) = house.place.there("fhir", "GET", path, &Json::Null);
        assert_eq!(status, 200, "{path}: {shown}");
        shown
    };
    let [second, first, far] = [50, 48, 24 * 20].map(|hours| {
        let schedule = json!({ "reference": "Schedule/simsch01" });
        let (start, end) = (at(hours), at(hours + 1));
        let slot =
            json!({ "resourceType": "Slot", "status": "free", "schedule": schedule, "start": start, "end": end });
        let (status, made) = house.place.there("fhir", "POST", "/Slot", &slot);
        assert_eq!(status, 201, "{made}");
        made["id"].as_str().unwrap().to_owned()
    });
    // What is free.
    let openings = |connection: &str, more: &str| format!("/api/v1/openings?connection={connection}{more}");
    let free = |until: &str| -> Vec<String> {
        let all = house.list(&openings("emr", &format!("&from={}{until}", at(0))));
        all.iter().map(|opening| opening["slot"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(free(""), [first.as_str(), second.as_str()], "a week");
    assert_eq!(free(&format!("&until={}", at(24 * 30))), [first.as_str(), second.as_str(), far.as_str()]);
    let from = format!("&from={}", at(0));
    house.refuses("GET", &openings("nobody", &from), &Json::Null, 404, "not_found");
    house.refuses("GET", &openings("hubspot", &from), &Json::Null, 422, "connection");
    house.refuses("GET", &openings("emr", &format!("{from}&until={}", at(0))), &Json::Null, 422, "until");
    house.refuses("GET", &openings("emr", &format!("{from}&until={}", at(24 * 32))), &Json::Null, 422, "until");
    house.refuses("GET", &openings("emr", ""), &Json::Null, 400, "bad_request");
    house.refuses("GET", &openings("emr", "&from=tomorrow"), &Json::Null, 400, "bad_request");
    // What does not fit is refused, and the clinic has no appointment of it.
    let path = |id: &str| format!("/api/v1/opportunities/{id}/appointment");
    let appointment = path(&course);
    let wish = json!({
        "connection": "emr", "kind": "meeting", "starts_at": at(48), "ends_at": at(49), "slot": first,
    });
    for (change, status, word) in [
        (json!({ "starts_at": at(-48), "ends_at": at(-47) }), 422, "starts_at"),
        (json!({ "ends_at": at(47) }), 422, "ends_at"),
        (json!({ "ends_at": at(48 + 25) }), 422, "ends_at"),
        (json!({ "starts_at": "tomorrow" }), 422, "bad_request"),
        (json!({ "connection": "nobody" }), 404, "not_found"),
        (json!({ "connection": "hubspot" }), 422, "connection"),
        (json!({ "kind": "rental" }), 422, "kind"),
        (json!({ "reason": "none of your business" }), 422, "bad_request"),
        (json!({ "slot": "never" }), 409, "clinic"),
    ] {
        let mut asked = wish.clone();
        asked.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        house.refuses("POST", &appointment, &asked, status, word);
    }
    house.refuses("POST", &path(&bare), &wish, 422, "contact");
    house.refuses("POST", &path(NOBODY), &wish, 404, "not_found");
    let to = |hours: i64| json!({ "connection": "emr", "starts_at": at(hours) });
    house.refuses("PATCH", &appointment, &to(72), 404, "no_appointment");
    assert_eq!(there("/Appointment?_summary=count")["total"], 0);
    assert_eq!(there("/Patient?_summary=count")["total"], 0, "nobody is made for what is refused");
    // Booked.
    let (status, booked) = house.place.ask("POST", &appointment, &wish);
    assert_eq!(status, 201, "{booked}");
    assert_eq!((&booked["booked_from"], &booked["starts_at"]), (&json!(course), &json!(at(48))));
    let id = booked["id"].as_str().unwrap().strip_prefix("emr:").unwrap().to_owned();
    let made = there(&format!("/{id}"));
    assert_eq!((&made["status"], &made["start"], &made["end"]), (&json!("booked"), &json!(at(48)), &json!(at(49))));
    assert_eq!(made["identifier"][0]["value"], course.as_str());
    assert_eq!(made["appointmentType"]["coding"][0]["code"], "CONSULT");
    assert_eq!(made["slot"][0]["reference"], format!("Slot/{first}"));
    let patient = made["participant"][0]["actor"]["reference"].as_str().unwrap();
    assert!(there(&format!("/{patient}"))["telecom"].to_string().contains("ana@example.com"), "{made}");
    assert_eq!(free(""), [second.as_str()], "what is taken is not free");
    house.refuses("POST", &appointment, &wish, 409, "booked");
    let ben = house.person("Ben");
    let other = house.deal("Ben's course", Some(&ben), None);
    house.refuses("POST", &path(&other), &wish, 409, "clinic");
    house.until_visit(&course, "status", "booked");
    house
        .place
        .until("the opportunity stands further on", || house.shown(&course)["stage"] == "Presentation scheduled");
    let visit = house.visits(&course).remove(0);
    assert_eq!((&visit["class"], &visit["service"]), (&json!("consult"), &json!("injectables")));
    assert_eq!((&visit["booked_from"], &visit["moved"]), (&json!(course), &json!([course])));
    let viewed = ["id", "connection", "starts_at", "ends_at"].map(|member| visit[member].clone());
    assert_eq!(viewed, [json!(format!("emr:{id}")), json!("emr"), json!(at(48)), json!(at(49))], "AX-33: pre-filled");
    // Moved.
    house.refuses("PATCH", &appointment, &to(-48), 422, "starts_at");
    let (status, moved) = house.place.ask("PATCH", &appointment, &to(72));
    assert_eq!(status, 202, "{moved}");
    let shown = there(&format!("/{id}"));
    let half_past = iso(began + TimeDelta::hours(72) + TimeDelta::minutes(30));
    assert_eq!((&shown["start"], &shown["end"]), (&json!(at(72)), &json!(half_past)));
    assert_eq!(shown["slot"], Json::Null, "the opening that it had is not the one that it has");
    assert_eq!(free(""), [first.as_str(), second.as_str()], "and is free again");
    house.until_visit(&course, "starts_at", &at(72));
    // Called off: at the clinic it stays, as cancelled.
    house.refuses("DELETE", &appointment, &Json::Null, 400, "bad_request");
    house.refuses("DELETE", &format!("{appointment}?connection=nobody"), &Json::Null, 404, "not_found");
    let at_emr = format!("{appointment}?connection=emr");
    let (status, cancelled) = house.place.ask("DELETE", &at_emr, &Json::Null);
    assert_eq!(status, 202, "{cancelled}");
    assert_eq!(there(&format!("/{id}"))["status"], "cancelled");
    house.until_visit(&course, "status", "cancelled");
    house.refuses("DELETE", &at_emr, &Json::Null, 404, "no_appointment");
    house.refuses("PATCH", &appointment, &to(80), 404, "no_appointment");
    // The next is another one.
    let next = json!({ "connection": "emr", "kind": "service", "starts_at": at(50), "slot": second });
    let (status, next) = house.place.ask("POST", &appointment, &next);
    assert_eq!(status, 201, "{next}");
    assert_ne!(next["id"], booked["id"]);
    assert_eq!(there("/Appointment?_summary=count")["total"], 2);
    assert!(house.visits(&bare).is_empty());
    house.refuses("GET", &format!("/api/v1/opportunities/{NOBODY}/visits"), &Json::Null, 404, "not_found");
}

/// GYM-20, AX-31: what the API's doors start the commands start as well: by the daemon where one runs, else by
/// themselves.
#[test]
fn a_checkout_and_an_appointment_are_started_by_commands_with_a_daemon_and_without() {
    let house = House::open("info", |place| format!("{}{}", till(place), emr(place, 2)));
    let ana = house.person("Ana");
    let course = house.deal("Ana's course", Some(&ana), Some(12_500));
    let told = |place: &Place, words: &[&str]| -> Json {
        serde_json::from_str(&place.run_ok(&[words, &["--format", "json"][..]].concat())).unwrap()
    };
    let refused = |place: &Place, words: &[&str], why: &str| {
        let output = place.run(words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(why), "{said}");
    };
    let at = |hours: i64| iso(now() + TimeDelta::hours(hours));
    let (first, later) = (at(48), at(72));
    let checkout = ["checkout", course.as_str(), "--connection", "square"];
    let appointment = |what: &'static str| ["appointment", what, course.as_str(), "--connection", "emr"];
    let begins = |what: &'static str, at: &str| -> Vec<String> {
        appointment(what).into_iter().chain(["--starts-at", at]).map(str::to_owned).collect()
    };
    let words = |all: &[String], more: &[&'static str]| -> Vec<String> {
        all.iter().cloned().chain(more.iter().map(|word| (*word).to_owned())).collect()
    };
    let run = |place: &Place, all: Vec<String>| told(place, &all.iter().map(String::as_str).collect::<Vec<_>>());
    let started = told(&house.place, &checkout);
    assert!(started["url"].as_str().unwrap().starts_with("https://sandbox.square.link/u/"), "{started}");
    refused(&house.place, &["checkout", NOBODY, "--connection", "square"], "there is no such opportunity");
    refused(&house.place, &appointment("cancel"), "the opportunity has no appointment");
    let booked = run(&house.place, words(&begins("book", &first), &["--kind", "meeting"]));
    house.until_visit(&course, "status", "booked");
    let place = house.leave();
    assert_eq!(told(&place, &checkout), started, "asked for again it is the same one");
    let dearer = told(&place, &[&checkout[..], &["--price", "140.50"][..]].concat());
    assert_ne!(dearer["sale"], started["sale"]);
    refused(&place, &["checkout", NOBODY, "--connection", "square"], "there is no such opportunity");
    refused(&place, &["checkout", &course, "--connection", "nobody"], "there is no connection nobody");
    let again: Vec<String> = words(&begins("book", &later), &["--kind", "meeting"]);
    let again: Vec<&str> = again.iter().map(String::as_str).collect();
    refused(&place, &again, "the opportunity has an appointment already");
    let there = || {
        let id = booked["visit"].as_str().unwrap().strip_prefix("emr:").unwrap();
        let (status, shown) = place.there("fhir", "GET", &format!("/{id}"), &Json::Null);
        assert_eq!(status, 200, "{shown}");
        shown
    };
    assert_eq!(there()["start"], first.as_str());
    assert_eq!(run(&place, begins("move", &later)), booked);
    assert_eq!(there()["start"], later.as_str());
    assert_eq!(told(&place, &appointment("cancel")), booked);
    assert_eq!(there()["status"], "cancelled");
    let schedule = json!({ "reference": "Schedule/simsch01" });
    let slot = json!({
        "resourceType": "Slot", "status": "free", "schedule": schedule, "start": at(96), "end": at(97),
    });
    let (status, slot) = place.there("fhir", "POST", "/Slot", &slot);
    assert_eq!(status, 201, "{slot}");
    let free = told(&place, &["appointment", "openings", "--connection", "emr"]);
    assert_eq!(free["openings"].as_array().unwrap().len(), 1, "{free}");
    assert_eq!(free["openings"][0]["slot"], slot["id"]);
}

/// An appointment that is ahead is looked at every day until it is over; no work is left undone by that.
#[test]
fn sync_once_has_done_its_work_where_an_appointment_is_ahead() {
    let house = House::open("info", |place| emr(place, 2));
    let ana = house.person("Ana");
    let course = house.deal("Ana's course", Some(&ana), None);
    let at = |hours: i64| iso(now() + TimeDelta::hours(hours));
    let wish = json!({ "connection": "emr", "kind": "meeting", "starts_at": at(48), "ends_at": at(49) });
    let (status, booked) = house.place.ask("POST", &format!("/api/v1/opportunities/{course}/appointment"), &wish);
    assert_eq!(status, 201, "{booked}");
    house.until_visit(&course, "status", "booked");
    let place = house.leave();
    place.until("nothing is left undone", || place.run(&["sync", "--once"]).status.code() == Some(0));
    let told: Json = serde_json::from_str(&place.run_ok(&["sync", "--once", "--format", "json"])).unwrap();
    assert_eq!(told["converged"], true, "{told}");
    assert!(told["connections"].as_array().unwrap().iter().all(|one| one["waiting"] == 0), "{told}");
    let shown = place.run_ok(&["connection", "list", "--format", "json"]);
    assert!(shown.contains("\"backlog\":1"), "the appointment is looked at again: {shown}");
}

/// A private key is read from a file beside the configuration, and the clinic lets in what it signs. One that cannot be used is named
/// by its key in the configuration, and not quoted.
#[test]
fn a_clinics_private_key_is_read_from_a_file_beside_the_configuration() {
    let (pems, jwks) = crate::fhir::keys();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (clinic, base) = runtime.block_on(async {
        // Nothing but a key lets anybody in.
        let settings =
            Settings { jwks, access_tokens: Vec::new(), client_secret: String::new(), ..Settings::default() };
        tandem::command::sandbox::serve(settings, 5, 0, |_: &mut World| {}).await.unwrap()
    });
    let place = Place::new(1, 1, "sqlite://tandem.db");
    let write = |name: &str, text: &str| std::fs::write(place.folder.path().join(name), text).unwrap();
    let tested = |credentials: &str| {
        place.configure(&format!(
            r#"
[connections.emr]
account = "glow_clinic"
connector = "fhir"
base_url = "{base}/fhir"
credentials = {{ client_id = "tandem-sandbox", {credentials} }}
"#
        ));
        let output = place.run(&["connection", "test", "emr"]);
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let tokens = || clinic.with(|world| world.stats.tokens);
    for (key_id, pem) in &pems {
        let before = tokens();
        write("emr.pem", pem.expose());
        let told = tested(&format!(r#"private_key = "file:emr.pem", key_id = "{key_id}""#));
        assert!(told.contains("ok   fhir: version 4.0.1"), "{key_id}: {told}");
        assert_eq!(tokens(), before + 1, "{key_id}");
    }
    let before = tokens();
    write("other.pem", "no-key-but-a-canary\n");
    for (credentials, why) in [
        (r#"private_key = "file:missing.pem", key_id = "rsa-1""#, "missing.pem cannot be read"),
        (r#"private_key = "file:other.pem", key_id = "rsa-1""#, "private_key is no private key in PEM"),
        (r#"private_key = "file:emr.pem""#, "private_key needs key_id"),
    ] {
        let told = tested(credentials);
        assert!(told.contains("connections.emr.credentials") && told.contains(why), "{credentials}: {told}");
        assert!(!told.contains("canary"), "{told}");
    }
    assert_eq!(tokens(), before, "nobody was asked");
}

/// Where a clinic's server takes no searches by POST, the address of a search names a person: the log does not, however talkative.
#[test]
fn a_search_by_address_is_in_no_log() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (clinic, base) = runtime.block_on(async {
        let settings = Settings { post_search: 405, calls_per_second: 1_000, ..Settings::default() };
        tandem::command::sandbox::serve(settings, 5, 0, |_: &mut World| {}).await.unwrap()
    });
    let token = clinic.with(|world| world.settings.access_tokens[0].clone());
    let house = House::open("trace", |_| emr_at(&format!("{base}/fhir"), &token, 2));
    let uma = house.person("Uma");
    let course = house.deal("Uma's course", Some(&uma), None);
    let wish = json!({ "connection": "emr", "kind": "service", "starts_at": iso(now() + TimeDelta::days(2)) });
    let (status, booked) = house.place.ask("POST", &format!("/api/v1/opportunities/{course}/appointment"), &wish);
    assert_eq!(status, 201, "{booked}");
    assert!(clinic.with(|world| world.stats.by_route.contains_key("GET Patient")), "she was looked for by address");
    assert!(clinic.with(|world| world.patient_with("uma@example.com")).is_some());
    house.until_visit(&course, "status", "booked");
    let log = std::fs::read_to_string(house.place.folder.path().join("log")).unwrap();
    assert!(log.contains("\"level\":\"DEBUG\""), "it is talkative");
    for word in ["uma@example.com", "uma%40example.com"] {
        assert!(!log.contains(word), "the log knows {word}");
    }
}

/// A patient whom nobody here knows.
const STRANGER: &str = "stranger@example.com";

/// What somebody could look at afterwards, each by its name.
fn everything_told(house: &House, opportunity: &str, contact: &str) -> Vec<(String, Vec<u8>)> {
    let mut told = Vec::new();
    for path in [
        "/api/v1/opportunities",
        &format!("/api/v1/opportunities/{opportunity}"),
        &format!("/api/v1/opportunities/{opportunity}/history"),
        &format!("/api/v1/opportunities/{opportunity}/visits"),
        "/api/v1/contacts",
        &format!("/api/v1/contacts/{contact}"),
        "/api/v1/sales",
        "/api/v1/conflicts",
        "/api/v1/failures",
        "/api/v1/connections",
        "/api/v1/pipelines",
        "/metrics",
    ] {
        let (status, text) = house.place.api("GET", path, &[]).unwrap();
        assert_eq!(status, 200, "{path}: {text}");
        told.push((path.to_owned(), text.into_bytes()));
    }
    let commands: [&[&str]; 9] = [
        &["export", "opportunities"],
        &["export", "opportunities", "--format", "csv"],
        &["why", opportunity],
        &["why", contact],
        &["failures", "list"],
        &["conflicts", "list"],
        &["connection", "list"],
        &["connection", "test", "emr"],
        &["doctor"],
    ];
    for command in commands {
        let output = house.place.run(command);
        told.push((format!("tandem {}", command.join(" ")), [output.stdout, output.stderr].concat()));
    }
    for (kind, properties) in
        [("deals", "dealname,description,amount,dealstage"), ("contacts", "firstname,email,phone")]
    {
        let path = format!("/crm/objects/2026-09/{kind}?limit=100&properties={properties}");
        let (status, text) = house.place.there("hubspot", "GET", &path, &Json::Null);
        assert_eq!(status, 200, "{text}");
        told.push((format!("HubSpot's {kind}"), text.to_string().into_bytes()));
    }
    for entry in std::fs::read_dir(house.place.folder.path()).unwrap() {
        let path = entry.unwrap().path();
        told.push((path.display().to_string(), std::fs::read(&path).unwrap()));
    }
    told
}

/// Section 12 of the clinic's sheet, with the real program at its most talkative: in no log, no file, no export, no answer and no
/// CRM is anything that must not leave a clinic.
#[test]
fn what_must_not_leave_a_clinic_is_in_no_log_no_file_no_export_and_no_answer() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (clinic, base) = runtime.block_on(async {
        let settings = Settings { canary: true, calls_per_second: 1_000, ..Settings::default() };
        let empty = |_: &mut World| {};
        let (clinic, base) = tandem::command::sandbox::serve(settings, 5, 0, empty).await.unwrap();
        tokio::spawn(clinic.clone().deliver_webhooks(Arc::new(ReqwestTransport::new().unwrap())));
        (clinic, base)
    });
    let token = clinic.with(|world| world.settings.access_tokens[0].clone());
    let house = House::open("trace", |_| emr_at(&format!("{base}/fhir"), &token, 2));
    house
        .place
        .until("the clinic's news are subscribed to", || clinic.with(|world| world.ids("Subscription").len()) == 2);
    let ana = house.person("Ana");
    let course = house.deal("Ana's course", Some(&ana), None);
    let (patient, treatment) = clinic.with(|world| {
        let tomorrow = world.now + TimeDelta::days(1);
        let patient = world.register("Ana", "Rivera", "ana@example.com", "+16025550142");
        let treatment = world.appoint(&patient, "TREAT", "booked", tomorrow);
        let stranger = world.register("Stranger", "Unknown", STRANGER, "");
        world.appoint(&stranger, "CONSULT", "booked", tomorrow);
        (patient, treatment)
    });
    house.until_visit(&course, "status", "booked");
    let met = clinic.with(|world| {
        let met = world.encounter(&patient, "TREAT", "in-progress", Some(&treatment));
        world.invoice(&patient, "balanced", 600.0, "USD");
        world.set_status("Encounter", &met, "finished");
        met
    });
    // What may leave it came here, and went on to the CRM: only the invoice says what it was worth.
    house.until_won(&course, 60_000);
    house.place.until("HubSpot knows what it was worth", || {
        house.in_hubspot(&course, "amount").and_then(|amount| amount.parse::<f64>().ok()) == Some(600.0)
    });
    // What must not was there to be read, and was sent here with the news.
    house.place.until("the clinic's news arrived", || clinic.with(|world| world.stats.webhook_events) > 0);
    let routes = clinic.with(|world| world.stats.by_route.clone());
    for (kind, id) in [("Patient", &patient), ("Appointment", &treatment), ("Encounter", &met)] {
        let asked = [format!("GET {kind}/{{id}}"), format!("POST {kind}/_search")];
        assert!(asked.iter().any(|route| routes.contains_key(route)), "{kind} was not read: {routes:?}");
        let (status, body) = house.place.request("GET", &format!("{base}/fhir/{kind}/{id}"), &token, &[]).unwrap();
        assert_eq!(status, 200, "{body}");
        assert!(body.contains(CANARY), "{kind} has nothing to hide: {body}");
    }
    let told = everything_told(&house, &course, &ana);
    for (place, bytes) in &told {
        let text = String::from_utf8_lossy(bytes);
        for word in [CANARY, STRANGER] {
            assert!(!text.contains(word), "{place} knows what must not leave a clinic: {word}");
        }
    }
    // Whoever looks like this finds what is there.
    for (place, word) in [
        ("tandem export opportunities", "60000"),
        ("/visits", "\"treatment\""),
        ("HubSpot's deals", "Ana's course"),
        ("/tandem.db", "Ana's course"),
        ("/tandem.db", treatment.as_str()),
        ("/log", "\"level\":\"DEBUG\""),
    ] {
        let found =
            |(name, bytes): &(String, Vec<u8>)| name.contains(place) && String::from_utf8_lossy(bytes).contains(word);
        assert!(told.iter().any(found), "{place} does not know {word}");
    }
}
