//! All four vendors through the doors of the real program.

use crate::process::Place;

/// The tables of the three connections beside HubSpot's.
fn others(place: &Place) -> String {
    let of = |vendor: &str| place.vendors.iter().find(|started| started["vendor"] == vendor).unwrap();
    let text = |vendor: &str, name: &str| of(vendor)["credentials"][name].as_str().unwrap().to_owned();
    let base = |vendor: &str| of(vendor)["base_url"].as_str().unwrap().to_owned();
    format!(
        r#"
[connections.pipedrive]
account = "glow_clinic"
connector = "pipedrive"
base_url = "{}"
credentials = {{ api_token = "{}", webhook_user = "tandem", webhook_password = "long-random-password" }}
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
        base("pipedrive"),
        text("pipedrive", "api_token"),
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
    assert!(place.run_ok(&["sales", "unmatched"]).contains("Every sale that a trigger names has its opportunity."));
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
