//! All four vendors through the doors of the real program.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use chrono::TimeDelta;
use serde_json::{Value as Json, json};
use tandem_contract::Secret;

use crate::{
    house::{HOOK, House, emr, iso, now, square},
    process::{Place, Running, curl, free_port, program},
};

/// The table of the other CRM.
fn pipedrive(place: &Place) -> String {
    let started = place.started("pipedrive");
    let base = started["base_url"].as_str().unwrap();
    let token = started["credentials"]["api_token"].as_str().unwrap();
    format!(
        r#"
[connections.pipedrive]
account = "glow_clinic"
connector = "pipedrive"
base_url = "{base}"
credentials = {{ api_token = "{token}", webhook_user = "tandem", webhook_password = "long-random-password" }}
"#
    )
}

/// The tables of the three connections beside HubSpot's.
fn others(place: &Place) -> String {
    let text = |vendor: &str, name: &str| place.started(vendor)["credentials"][name].as_str().unwrap().to_owned();
    let base = |vendor: &str| place.started(vendor)["base_url"].as_str().unwrap().to_owned();
    format!(
        r#"{}
[connections.square]
account = "glow_clinic"
connector = "square"
base_url = "{}"
credentials = {{ access_token = "{}" }}
[connections.emr]
account = "glow_clinic"
connector = "fhir"
base_url = "{}"
credentials = {{ access_token = "{}" }}
"#,
        pipedrive(place),
        base("square"),
        text("square", "access_token"),
        base("fhir"),
        text("fhir", "access_token"),
    )
}

#[test]
fn four_vendors_are_served_connected_and_told_of_at_their_own_addresses() {
    let place = Place::new(2, 3, "sqlite://tandem.db");
    let vendors: Vec<&str> = place.vendors.iter().filter_map(|started| started["vendor"].as_str()).collect();
    assert_eq!(vendors, ["hubspot", "pipedrive", "square", "fhir"]);
    place.configure(&others(&place));
    let _daemon = place.serve();
    let connections = || -> Vec<serde_json::Value> {
        let list = place.get("/api/v1/connections").unwrap_or_default();
        let list: serde_json::Value = serde_json::from_str(&list).unwrap_or_default();
        list["data"].as_array().cloned().unwrap_or_default()
    };
    place.until("all four are connected", || {
        connections().iter().filter(|connection| connection["state"] == "active").count() == 4
    });
    // Pipedrive signs nothing: only who knows the whole address and the password is believed.
    let all = connections();
    let pipedrive = all.iter().find(|connection| connection["name"] == "pipedrive").unwrap();
    // The weaker a guarantee, the more it has to be said.
    let guarantee = |name: &str| {
        let connection = all.iter().find(|connection| connection["name"] == name).unwrap();
        connection["guarantee"].as_str().unwrap().to_owned()
    };
    let weaker = guarantee("pipedrive");
    assert!(weaker.contains("deal: checked afterwards") && weaker.contains("contact: best effort"), "{weaker}");
    assert!(guarantee("square").starts_with("compare-and-swap"), "{}", guarantee("square"));
    let listed = place.run_ok(&["connection", "list"]);
    assert!(listed.contains(&weaker), "{listed}");
    let address = pipedrive["webhook_url"].as_str().unwrap();
    let (door, segment) = address.rsplit_once('/').unwrap();
    assert!(door.ends_with("/webhooks/pipedrive") && segment.len() == 32, "{address}");
    let body = r#"{"meta":{"action":"change","entity":"deal","entity_id":"4001","company_id":"4242","version":"2.0"},"data":{"id":4001},"previous":{}}"#;
    let login = ["-u", "tandem:long-random-password", "-H", "content-type: application/json", "-d", body];
    let wrong = format!("/webhooks/pipedrive/{}", "0".repeat(32));
    let right = format!("/webhooks/pipedrive/{segment}");
    let told = |path: &str, login: &[&str]| place.knock(path, login).unwrap();
    assert_eq!(told("/webhooks/pipedrive", &login).0, 401);
    assert_eq!(told(&wrong, &login).0, 401);
    assert_eq!(told(&right, &["-u", "tandem:guess", "-d", body]).0, 401);
    let (status, said) = told(&right, &login);
    assert_eq!(status, 200, "{said}");
    // Nothing was sold that nobody knows of, and what does not exist is said to be so.
    assert!(place.run_ok(&["sales", "unmatched"]).contains("No sale waits for you to say whose it is."));
    let nobody = place.run(&["sales", "link", "square:nothing", "0199d2c4-0000-7000-8000-00000000002a"]);
    assert!(!nobody.status.success());
    let sales = place.api("GET", "/api/v1/sales", &[]).unwrap();
    assert_eq!(sales.0, 200, "{}", sales.1);
    let booked = place.api(
        "POST",
        "/api/v1/opportunities/0199d2c4-0000-7000-8000-00000000002a/appointment",
        &[
            "-H",
            "content-type: application/json",
            "-d",
            r#"{"connection":"emr","kind":"service","starts_at":"2030-01-01T10:00:00Z"}"#,
        ],
    );
    assert_eq!(booked.unwrap().0, 404, "an opportunity that is not there has no appointment");
}

/// The largest request that the daemon reads.
const LARGEST: usize = 2 * 1024 * 1024;
/// Deeper than anybody nests anything.
const DEEP: usize = 50_000;

/// The same at every door.
fn thrice(body: &[u8]) -> [Vec<u8>; 3] {
    std::array::from_fn(|_| body.to_vec())
}

/// Nobody tells a connection of changes while it is not configured: when it is back, they are looked for.
#[test]
fn what_was_made_while_a_connection_was_not_configured_goes_there_when_it_is_back() {
    let house = House::open("info", pipedrive);
    let known = |place: &Place, record: &str| {
        let told = String::from_utf8(place.run(&["why", record]).stdout).unwrap();
        told.contains(" at pipedrive (")
    };
    let ana = house.person("Ana");
    house.known_as(&ana, "pipedrive");
    let place = house.leave();
    place.configure("");
    let ben = {
        let _daemon = place.serve();
        place.until("it serves", || place.get("/readyz").as_deref() == Some("ready\n"));
        let body = json!({ "first_name": "Ben", "last_name": "Rivera", "email": "ben@example.com" });
        let (status, made) = place.ask("POST", "/api/v1/contacts", &body);
        assert_eq!(status, 201, "{made}");
        made["id"].as_str().unwrap().to_owned()
    };
    assert!(!known(&place, &ben));
    place.configure(&pipedrive(&place));
    let _daemon = place.serve();
    place.until("what was made meanwhile is there", || known(&place, &ben));
}

#[test]
fn whatever_is_sent_to_the_doors_of_webhooks_is_answered_with_a_refusal_and_stops_nobody() {
    let mut key = String::new();
    // Polling is an hour away: only webhooks tell.
    let house = House::open("info", |place| {
        let (till, signed_with) = square(place, 3_600);
        key = signed_with;
        format!("poll_seconds = 3600\n{}{till}{}", pipedrive(place), emr(place, 3_600))
    });
    let place = &house.place;
    let connections = || house.list("/api/v1/connections");
    let active = || connections().iter().filter(|connection| connection["state"] == "active").count();
    place.until("all four are connected", || active() == 4);
    let doors = ["square", "emr", "pipedrive"].map(|name| {
        let all = connections();
        let found = all.iter().find(|connection| connection["name"] == name).unwrap();
        found["webhook_url"].as_str().unwrap().to_owned()
    });
    let signature = |key: &str, body: &[u8]| {
        let signed = tandem_square::sign(&Secret::new(key), &doors[0], body);
        format!("x-square-hmacsha256-signature: {signed}")
    };
    let logins = |is_right: bool, body: &[u8]| -> [[String; 2]; 3] {
        let (key, hook, password) =
            if is_right { (key.as_str(), HOOK, "long-random-password") } else { ("guess", "guess", "guess") };
        [
            ["-H".into(), signature(key, body)],
            ["-H".into(), format!("authorization: Bearer {hook}")],
            ["-u".into(), format!("tandem:{password}")],
        ]
    };
    let file = place.folder.path().join("body");
    let knock = |door: &str, login: &[String], body: &[u8]| -> u16 {
        std::fs::write(&file, body).unwrap();
        let data = format!("@{}", file.display());
        let mut more = vec!["-H", "Expect:", "--data-binary", data.as_str()];
        more.extend(login.iter().map(String::as_str));
        curl("POST", door, &more).unwrap().0
    };
    let large = vec![b'x'; LARGEST + 1];
    let nested = [
        format!(r#"{{"type":"payment.created","data":{{"object":{}"#, "[".repeat(DEEP)),
        format!(r#"{{"entry":[{{"resource":{{"parameter":[{}"#, r#"{"part":["#.repeat(DEEP)),
        format!(r#"{{"meta":{{"entity":"deal","entity_id":{}"#, "[".repeat(DEEP)),
    ];
    let no_text = b"{\"type\":\"\xff\xfe\",\"resourceType\":\"\xff\xfe\",\"meta\":{\"entity\":\"\xff\xfe\"}}";
    // What is sent, and what it is answered with where the secret is right.
    let sent: [(&str, [Vec<u8>; 3], [u16; 3]); 8] = [
        // FHIR's rest-hooks may be empty: something changed, and the next poll finds what.
        ("nothing", thrice(b""), [400, 200, 400]),
        ("no JSON", thrice(b"<html>"), [400; 3]),
        ("a text", thrice(br#""a text""#), [400; 3]),
        ("another shape", thrice(br#"{"type":7,"entry":7,"meta":7}"#), [400; 3]),
        ("no UTF-8", thrice(no_text), [400; 3]),
        ("a deep nest", nested.map(String::into_bytes), [400; 3]),
        ("just not too much", thrice(&large[..LARGEST]), [400; 3]),
        ("too much", thrice(&large), [413; 3]),
    ];
    for (what, bodies, wanted) in sent {
        for (at, (body, wanted)) in bodies.iter().zip(wanted).enumerate() {
            let door = doors[at].as_str();
            assert_eq!(knock(door, &logins(true, body)[at], body), wanted, "{what} at {door}");
            // Of a stranger nothing is read.
            let refused = if body.len() > LARGEST { 413 } else { 401 };
            assert_eq!(knock(door, &logins(false, body)[at], body), refused, "{what} at {door}, wrongly signed");
            assert_eq!(knock(door, &[], body), refused, "{what} at {door}, unsigned");
        }
    }
    // A refusal says what is to be compared by the name that it has in this connection's credentials.
    for ((door, login), named) in
        doors.iter().zip(logins(false, b"{}")).zip(["`signature_key`", "`hook_token`", "`webhook_password`"])
    {
        let (status, said) = curl("POST", door, &["-d", "{}", &login[0], &login[1]]).unwrap();
        assert_eq!(status, 401, "{door}: {said}");
        assert!(said.contains(named) && !said.contains("client secret"), "{door}: {said}");
    }
    let root = format!("http://127.0.0.1:{}/webhooks", place.port);
    for (path, status) in [("nobody", 404), ("No%20Name", 404), ("%ff%fe", 400), ("emr/Appointment/never", 401)] {
        assert_eq!(curl("POST", &format!("{root}/{path}"), &["-d", "{}"]).unwrap().0, status, "{path}");
    }
    assert_eq!(curl("GET", &doors[0], &[]).unwrap().0, 405);
    // It lives, and hears everybody who has something to say.
    assert_eq!(place.get("/readyz").as_deref(), Some("ready\n"));
    assert_eq!(active(), 4);
    let log = std::fs::read_to_string(place.folder.path().join("log")).unwrap();
    assert!(!log.contains("panicked"), "{log}");
    let renamed = r#"{"properties": {"dealname": "told by HubSpot"}}"#;
    place.vendor("PATCH", "/crm/objects/2026-09/deals/31550001", renamed);
    place.until("HubSpot is heard", || {
        place.get("/api/v1/opportunities").unwrap_or_default().contains("told by HubSpot")
    });
    // An event that Square tells again is one: its id says so, and nothing of it is done twice.
    let heard = || {
        let counted = place.get("/metrics").unwrap_or_default();
        let line = counted.lines().find(|line| line.starts_with("tandem_webhook_events_total{connection=\"square\"}"));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).unwrap_or(0)
    };
    let event = |id: &str| {
        let customer = json!({ "type": "customer", "id": "NOBODY", "object": { "customer": { "id": "NOBODY" } } });
        json!({ "type": "customer.updated", "event_id": id, "data": customer }).to_string().into_bytes()
    };
    let before = heard();
    for (id, more) in [("e1", 1), ("e1", 1), ("e2", 2), ("e1", 2)] {
        let body = event(id);
        assert_eq!(knock(&doors[0], &logins(true, &body)[0], &body), 200, "{id}");
        assert_eq!(heard() - before, more, "{id}");
    }
    let news = br#"{"meta":{"action":"change","entity":"deal","entity_id":"4001","company_id":"4242","version":"2.0"},"data":{"id":4001},"previous":{}}"#;
    assert_eq!(knock(&doors[2], &logins(true, news)[2], news), 200);
    let sale = house.paid(4_500, &json!({}));
    place.until("the till is heard", || house.list("/api/v1/sales").iter().any(|shown| shown["id"] == sale.as_str()));
    place.until("the clinic's news are subscribed to", || {
        place.there("fhir", "GET", "/Subscription?_summary=count", &Json::Null).1["total"] == 2
    });
    let ana = house.person("Ana");
    let course = house.deal("Ana's course", Some(&ana), None);
    let make = |kind: &str, body: Json| {
        let (status, made) = place.there("fhir", "POST", &format!("/{kind}"), &body);
        assert_eq!(status, 201, "{made}");
        made["id"].as_str().unwrap().to_owned()
    };
    let name = json!({ "use": "official", "family": "Rivera", "given": ["Ana"] });
    let email = json!({ "system": "email", "value": "ana@example.com" });
    let patient = make("Patient", json!({ "resourceType": "Patient", "name": [name], "telecom": [email] }));
    let (start, end) = (iso(now() + TimeDelta::hours(48)), iso(now() + TimeDelta::hours(49)));
    let comes = json!({ "actor": { "reference": format!("Patient/{patient}") }, "status": "accepted" });
    let visit = json!({
        "resourceType": "Appointment", "status": "booked", "appointmentType": { "coding": [{ "code": "CONSULT" }] },
        "start": start, "end": end, "participant": [comes],
    });
    make("Appointment", visit);
    house.until_visit(&course, "status", "booked");
    // Whoever gives nothing but an address for the receipt is known by it.
    house.paid(4_500, &json!({ "buyer_email_address": "ana@example.com" }));
    house.until_won(&course, 4_500);
}

fn is_linked(opportunity: &Json, connection: &str, id: &str) -> bool {
    let links = opportunity["external_ids"].as_array().unwrap();
    links.iter().any(|link| link["connection"] == connection && link["id"] == id)
}

/// The demonstration as a newcomer sees it: CB-14 within the two seconds that were asked for, by its own words, and what those
/// words are about asked of all four systems.
#[test]
fn the_demo_shows_a_person_of_four_systems_whose_purchase_wins_in_both_crms_within_two_seconds() {
    let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
    let said = folder.path().join("said");
    let mut demo = Running(
        program()
            .env("TMPDIR", folder.path())
            .args(["demo", "--port", &port.to_string(), "--contacts", "20", "--deals", "30", "--seconds", "120"])
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&said).unwrap())
            .spawn()
            .unwrap(),
    );
    // Kept: who prints where nobody reads is ended.
    let mut lines = BufReader::new(demo.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut told = Vec::new();
    let outcome = lines.find(|line| {
        told.push(line.clone());
        line.contains("are won, for") || line.contains("tandem sales unmatched`.")
    });
    let Some(outcome) = outcome else {
        panic!("nobody bought anything: {told:#?}{}", std::fs::read_to_string(&said).unwrap())
    };
    assert!(told.iter().any(|line| line.contains("At the till, somebody buys a neurotoxin treatment for 650.00")));
    let words: Vec<&str> = outcome.split_whitespace().collect();
    let [
        "...",
        "and",
        took,
        "s",
        "later",
        "deal",
        in_hubspot,
        "in",
        "HubSpot",
        "and",
        "deal",
        in_pipedrive,
        "in",
        "Pipedrive",
        "are",
        "won,",
        "for",
        "650.00.",
    ] = words[..]
    else {
        panic!("{outcome}")
    };
    let took: f64 = took.parse().unwrap();
    assert!(took < 2.0, "{outcome}");
    // What it is about is asked where it happened.
    let written = folder.path().join(format!("tandem-demo-{}", demo.0.id())).join("tandem.toml");
    let config: Json = toml::from_str(&std::fs::read_to_string(&written).unwrap()).unwrap();
    let of = |connection: &str, pointer: &str| {
        let found = config["connections"][connection].pointer(pointer);
        found.and_then(Json::as_str).unwrap().to_owned()
    };
    let bearer = |token: &str| format!("authorization: Bearer {token}");
    let ask = |method: &str, url: String, login: &str, body: &Json| -> Json {
        let text = body.to_string();
        let more = ["-H", login, "-H", "content-type: application/json", "-d", text.as_str()];
        let (status, said) = curl(method, &url, if body.is_null() { &more[..2] } else { &more[..] }).unwrap();
        assert_eq!(status, 200, "{url}: {said}");
        serde_json::from_str(&said).unwrap()
    };
    let get = |url: String, login: &str| ask("GET", url, login, &Json::Null);
    let ours = format!("http://127.0.0.1:{port}/api/v1");
    let all = get(format!("{ours}/opportunities?limit=500"), &bearer("demo"));
    let mut all = all["data"].as_array().unwrap().iter();
    let is_it = |deal: &&Json| is_linked(deal, "hubspot", in_hubspot) && is_linked(deal, "pipedrive", in_pipedrive);
    let deal = all.find(is_it).unwrap();
    assert_eq!((&deal["status"], &deal["value"]["minor"]), (&json!("won"), &json!(65_000)));
    let (hubspot, login) = (of("hubspot", "/base_url"), bearer(&of("hubspot", "/credentials/access_token")));
    let path = format!("crm/objects/2026-09/deals/{in_hubspot}?properties=amount,dealstage");
    let there = get(format!("{hubspot}/{path}"), &login);
    let pipelines = get(format!("{hubspot}/crm/v3/pipelines/deals"), &login);
    let mut stages = pipelines["results"].as_array().unwrap().iter().flat_map(|one| one["stages"].as_array().unwrap());
    let stage = stages.find(|stage| stage["id"] == there["properties"]["dealstage"]).unwrap();
    assert_eq!(stage["metadata"]["probability"], "1.0", "it is on the stage that means won: {stage}");
    assert_eq!(deal["stage"], stage["label"]);
    let contact = deal["contact_id"].as_str().unwrap();
    let contact = get(format!("{ours}/contacts/{contact}"), &bearer("demo"));
    let email = contact["email"].as_str().unwrap();
    let path = format!("crm/objects/2026-09/contacts/{email}?idProperty=email&properties=email");
    assert_eq!(get(format!("{hubspot}/{path}"), &login)["properties"]["email"], email);
    let (pipedrive, login) = (of("pipedrive", "/base_url"), of("pipedrive", "/credentials/api_token"));
    let login = format!("x-api-token: {login}");
    let there = get(format!("{pipedrive}/api/v2/deals/{in_pipedrive}"), &login);
    assert_eq!((&there["data"]["status"], there["data"]["value"].as_f64()), (&json!("won"), Some(650.0)));
    let persons = get(format!("{pipedrive}/api/v2/persons?limit=500"), &login);
    let has = |person: &&Json| person["emails"].as_array().unwrap().iter().any(|one| one["value"] == email);
    let in_pipedrive = persons["data"].as_array().unwrap().iter().filter(has).count();
    let linked = contact["external_ids"].as_array().unwrap().iter().find(|link| link["connection"] == "square");
    let customer = linked.unwrap()["id"].as_str().unwrap();
    let (square, login) = (of("square", "/base_url"), bearer(&of("square", "/credentials/access_token")));
    let customer = get(format!("{square}/v2/customers/{customer}"), &login);
    assert_eq!(customer["customer"]["email_address"], email);
    let (clinic, login) = (of("emr", "/base_url"), bearer(&of("emr", "/credentials/access_token")));
    let patients = get(format!("{clinic}/Patient?email={email}"), &login);
    assert_eq!((in_pipedrive, &patients["total"]), (1, &json!(1)), "{email} is one person everywhere");
    // And everything is thrown away.
    Command::new("kill").arg(demo.0.id().to_string()).status().unwrap();
    assert!(demo.0.wait().unwrap().success(), "{}", std::fs::read_to_string(&said).unwrap());
    assert!(!written.exists());
}
