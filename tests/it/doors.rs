//! The doors of the real program, with a stranger's hands: wrong keys, wrong tokens, wrong sizes, forged messages.

use std::{
    io::{BufRead, BufReader, Read, Write},
    process::{Child, Command, Stdio},
};

use crate::process::{Place, TOKEN, postgres, program};

fn text(output: &std::process::Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_first_day() {
    let place = Place::new(60, 250, "sqlite://tandem.db");
    let first = place.run_ok(&["sync", "--once", "--format", "json"]);
    let first: serde_json::Value = serde_json::from_str(&first).unwrap();
    assert_eq!(first["connections"][0]["pulled"]["created"], 310);
    let exported = place.run_ok(&["export", "opportunities"]);
    assert_eq!(exported.lines().count(), 250);
    let second: serde_json::Value =
        serde_json::from_str(&place.run_ok(&["sync", "--once", "--format", "json"])).unwrap();
    assert_eq!(second["converged"], true);
    assert_eq!(second["connections"][0]["pushed"], serde_json::json!({"created": 0, "updated": 0, "deleted": 0}));
    assert_eq!(place.run_ok(&["export", "opportunities"]), exported, "the same bytes");
    assert!(place.run_ok(&["audit"]).contains("No drift"));
    assert!(place.run_ok(&["export", "opportunities", "--format", "csv"]).starts_with("id,account,name,status"));
}

#[test]
fn a_record_is_explained_by_its_id_and_by_the_keys_that_failures_are_listed_under() {
    let place = Place::new(3, 5, "sqlite://tandem.db");
    place.run_ok(&["sync", "--once"]);
    let deal = place.export().remove(0);
    let (id, there) = (deal["id"].as_str().unwrap(), deal["external_ids"][0]["id"].as_str().unwrap());
    let by_id = place.run_ok(&["why", id]);
    assert!(by_id.contains(&format!("is {there} at hubspot")), "{by_id}");
    for key in [format!("l:{id}"), format!("x:{there}")] {
        assert_eq!(place.run_ok(&["why", &key]), by_id, "{key}");
    }
    let unknown = place.run(&["why", "x:1"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown).contains("tandem failures list"), "{}", text(&unknown));
}

#[test]
fn a_plan_is_what_happens_and_a_stale_one_is_refused() {
    let place = Place::new(3, 5, "sqlite://tandem.db");
    place.run_ok(&["sync", "--once"]);
    let deal = place.export()[0]["external_ids"][0]["id"].as_str().unwrap().to_owned();
    let path = format!("/crm/objects/2026-09/deals/{deal}");
    place.vendor("POST", "/__settings", r#"{"search_lag_ms": [0, 0], "recompute_seconds": 0}"#);
    place.vendor("PATCH", &path, r#"{"properties": {"dealname": "seen in the plan"}}"#);
    let file = place.folder.path().join("p.json");
    let file = file.to_str().unwrap();
    let plan = place.run_ok(&["plan", "--out", file]);
    assert!(plan.contains("seen in the plan"), "{plan}");
    assert!(!place.run_ok(&["export", "opportunities"]).contains("seen in the plan"), "a plan writes nothing");
    place.vendor("PATCH", &path, r#"{"properties": {"dealname": "changed since"}}"#);
    assert_eq!(place.run(&["apply", file]).status.code(), Some(5), "stale");
    place.run_ok(&["plan", "--out", file]);
    place.run_ok(&["apply", file]);
    assert!(place.run_ok(&["export", "opportunities"]).contains("changed since"));
}

#[test]
fn what_an_operator_gets_wrong_is_named() {
    let place = Place::new(1, 1, "sqlite://tandem.db");
    place.configure("polll_seconds = 5");
    let told = text(&place.run(&["sync", "--once"]));
    assert!(told.contains("polll_seconds"), "{told}");
    place.configure("");
    let output = place.command().env_remove("MASTER_KEY").args(["sync", "--once"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("the environment variable MASTER_KEY is not set"), "{}", text(&output));
    let output = place.command().env("HUBSPOT_TOKEN", "pat-wrong-canary").args(["sync", "--once"]).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "people must act: {}", text(&output));
    assert!(text(&output).contains("HubSpot refuses this access token"), "{}", text(&output));
    assert!(!text(&output).contains("canary"), "a token is never printed");
    assert_eq!(place.run(&["sync"]).status.code(), Some(2), "usage");
    let nowhere = program().args(["--config", "/nowhere.toml", "doctor"]).output().unwrap();
    assert!(text(&nowhere).contains("there is no configuration file /nowhere.toml"), "{}", text(&nowhere));
    place.run_ok(&["sync", "--once"]);
}

#[test]
fn a_forged_or_huge_webhook_is_refused_and_a_signed_one_arrives() {
    let place = Place::new(2, 3, "sqlite://tandem.db");
    place.configure("poll_seconds = 3600");
    let _daemon = place.serve();
    place.until("the import is done", || {
        place.get("/api/v1/opportunities").unwrap_or_default().matches("\"status\"").count() == 3
    });
    let body = r#"[{"subscriptionType":"deal.propertyChange","objectId":31550001,"portalId":4242}]"#;
    let forged = ["-H", "X-HubSpot-Signature-v3: Zm9yZ2Vk", "-H", "X-HubSpot-Request-Timestamp: 1", "-d", body];
    assert_eq!(place.api("POST", "/webhooks/hubspot", &forged).unwrap().0, 401);
    assert_eq!(place.api("POST", "/webhooks/hubspot", &["-d", body]).unwrap().0, 401);
    assert_eq!(place.api("POST", "/webhooks/nobody", &["-d", body]).unwrap().0, 404);
    let huge = place.folder.path().join("huge");
    std::fs::write(&huge, vec![b'x'; 10 * 1024 * 1024]).unwrap();
    let data = format!("@{}", huge.display());
    assert_eq!(place.api("POST", "/webhooks/hubspot", &["-H", "Expect:", "--data-binary", &data]).unwrap().0, 413);
    // The sandbox signs what it sends; polling is an hour away here, so only the webhook can have brought it.
    place.vendor("PATCH", "/crm/objects/2026-09/deals/31550001", r#"{"properties": {"dealname": "told by webhook"}}"#);
    place.until("the webhook brought the change", || {
        place.get("/api/v1/opportunities").unwrap_or_default().contains("told by webhook")
    });
}

#[test]
fn strangers_and_other_accounts_are_kept_out() {
    let place = Place::new(1, 1, "sqlite://tandem.db");
    let _daemon = place.serve();
    let url = format!("http://127.0.0.1:{}/api/v1/opportunities", place.port);
    let (status, body) = place.request("GET", &url, "guess", &[]).unwrap();
    assert_eq!(status, 401);
    assert!(body.contains("this token is not known"), "{body}");
    assert_eq!(place.api("GET", "/api/v1/opportunities", &["-H", "Tandem-Account: other"]).unwrap().0, 404);
    let made = place.run_ok(&["token", "create"]);
    assert_eq!(place.request("GET", &url, made.trim(), &[]).unwrap().0, 200);
    assert_eq!(place.api("GET", "/api/v1/opportunities/01a20249-2d4d-7008-8fa3-fa30a0684c75", &[]).unwrap().0, 404);
    assert!(!place.get("/metrics").unwrap_or_default().contains(TOKEN));
    let second = place.run(&["sync", "--once"]);
    assert_eq!(second.status.code(), Some(1), "a second engine refuses to start: {}", text(&second));
    assert!(text(&second).contains("another Tandem already works on"), "{}", text(&second));
}

/// VX-19 and VX-20: a free reference to an outside system, unique in its account.
#[test]
fn vx_20_an_external_reference_is_unique_in_an_account_on_both_databases() {
    for url in [Some("sqlite://tandem.db".to_owned()), postgres("reference")].into_iter().flatten() {
        let place = Place::new(1, 1, &url);
        let _daemon = place.serve();
        let body = r#"{"name": "a", "external_reference": "ERP-1"}"#;
        let post = ["-H", "content-type: application/json", "-d", body];
        assert_eq!(place.api("POST", "/api/v1/opportunities", &post).unwrap().0, 201);
        let (status, answer) = place.api("POST", "/api/v1/opportunities", &post).unwrap();
        assert_eq!(status, 409);
        assert!(answer.contains("external_reference_taken"), "{answer}");
    }
}

#[test]
fn commands_that_change_something_ask_the_running_daemon() {
    let place = Place::new(1, 2, "sqlite://tandem.db");
    place.configure("poll_seconds = 3600");
    let daemon = place.serve();
    place.until("the import is done", || {
        place.get("/api/v1/opportunities").unwrap_or_default().matches("\"status\"").count() == 2
    });
    let told = place.run_ok(&["connection", "pause", "hubspot"]);
    assert!(told.contains("is paused"), "{told}");
    assert!(place.get("/api/v1/connections/hubspot").unwrap().contains("\"state\":\"paused\""));
    place.run_ok(&["connection", "resume", "hubspot"]);
    place.until("it goes on", || place.get("/api/v1/connections/hubspot").unwrap().contains("\"state\":\"active\""));
    let none = place.run(&["guard", "approve", "hubspot"]);
    assert_eq!(none.status.code(), Some(1));
    assert!(text(&none).contains("there is no such held change"), "{}", text(&none));
    // The file is the daemon's: a new key must wait.
    let key = place.run(&["keys", "rotate", "--to", "env:NEW_KEY"]);
    assert!(text(&key).contains("another Tandem already works on"), "{}", text(&key));
    drop(daemon);
    place.run_ok(&["connection", "pause", "hubspot"]);
    assert!(place.run_ok(&["connection", "list"]).contains("paused"));
}

#[test]
fn a_new_master_key_opens_everything_and_the_old_one_nothing() {
    for url in [Some("sqlite://tandem.db".to_owned()), postgres("keys")].into_iter().flatten() {
        let place = Place::new(1, 1, &url);
        let stored = place.folder.path().join("second.toml");
        let second =
            "account = \"glow_clinic\"\nconnector = \"hubspot\"\ncredentials = { access_token = \"pat-canary\" }\n";
        std::fs::write(&stored, second).unwrap();
        place.run_ok(&["connection", "add", "second", stored.to_str().unwrap()]);
        let key = String::from_utf8(program().args(["keys", "new"]).output().unwrap().stdout).unwrap();
        let rotated = place
            .command()
            .env("NEW_KEY", key.trim())
            .args(["keys", "rotate", "--to", "env:NEW_KEY"])
            .output()
            .unwrap();
        assert!(rotated.status.success(), "{}", text(&rotated));
        let old = place.run(&["connection", "list"]);
        assert!(text(&old).contains("sealed with another master key"), "{}", text(&old));
        let new = place.command().env("MASTER_KEY", key.trim()).args(["connection", "list"]).output().unwrap();
        assert!(new.status.success() && text(&new).contains("second"), "{}", text(&new));
        assert!(!text(&new).contains("canary"));
    }
}

#[test]
fn a_grant_that_the_vendor_renews_outlives_the_process() {
    let place = Place::new(1, 2, "sqlite://tandem.db");
    // Every refresh hands out a new grant and ends the old one.
    place.vendor("POST", "/__settings", r#"{"rotate_refresh_token": true, "search_lag_ms": [0, 0]}"#);
    let word = |name: &str| place.credentials[name].as_str().unwrap().to_owned();
    let oauth = format!(
        r#"credentials = {{ client_id = "{}", client_secret = "{}", refresh_token = "{}" }}"#,
        word("client_id"),
        word("client_secret"),
        word("refresh_token")
    );
    let text = std::fs::read_to_string(place.config()).unwrap();
    let line = text.lines().find(|line| line.starts_with("credentials")).unwrap();
    std::fs::write(place.config(), text.replace(line, &oauth)).unwrap();
    for _ in 0..3 {
        place.run_ok(&["sync", "--once"]);
    }
    assert_eq!(place.export().len(), 2);
}

#[test]
fn an_operator_has_an_app_let_in_by_pasting_where_the_browser_went() {
    let place = Place::new(1, 1, "sqlite://tandem.db");
    let table = |vendor: &str, more: &str, secrets: &str| {
        let started = place.started(vendor);
        let word = |name: &str| started["credentials"][name].as_str().unwrap();
        format!(
            r#"
[connections.{vendor}]
account = "glow_clinic"
connector = "{vendor}"
base_url = "{}"
redirect_uri = "https://tandem.example.com/callback"
{more}
[connections.{vendor}.credentials]
client_id = "{}"
client_secret = "{}"
{secrets}
"#,
            started["base_url"].as_str().unwrap(),
            word("client_id"),
            word("client_secret"),
        )
    };
    let base = place.started("pipedrive")["base_url"].as_str().unwrap();
    let oauth = format!("authorize_url = \"{base}/oauth/authorize\"\ntoken_url = \"{base}/oauth/token\"");
    let login = "webhook_user = \"tandem\"\nwebhook_password = \"long-random-password\"";
    let pipedrive = table("pipedrive", &oauth, login);
    // Beside the base_url.
    let square = table("square", "", "signature_key = \"long-random-key\"");
    place.configure(&[pipedrive, square].concat());
    let authorize = |vendor: &str| {
        place
            .command()
            .args(["connection", "authorize", vendor])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let answer = |mut child: Child, pasted: &str| {
        child.stdin.take().unwrap().write_all(format!("{pasted}\n").as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    for (vendor, account) in [("pipedrive", "5566"), ("square", "MLSANDBOX0001")] {
        let stranger = place.run(&["connection", "test", vendor]);
        assert_eq!(stranger.status.code(), Some(3), "{}", text(&stranger));
        assert!(text(&stranger).contains("`tandem connection authorize`"), "{}", text(&stranger));
        let wrong = answer(authorize(vendor), "https://tandem.example.com/callback?code=canary&state=guessed");
        assert_eq!(wrong.status.code(), Some(1));
        assert!(text(&wrong).contains("answers another question"), "{}", text(&wrong));
        assert!(!text(&wrong).contains("canary"), "{}", text(&wrong));
        let mut child = authorize(vendor);
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut address = String::new();
        while !address.starts_with("http") {
            address.clear();
            assert!(said.read_line(&mut address).unwrap() > 0, "it prints an address");
        }
        let look = ["-s", "-o", "/dev/null", "-w", "%{redirect_url}", address.trim()];
        let went = Command::new("curl").args(look).output().unwrap().stdout;
        let ended = answer(child, &String::from_utf8(went).unwrap());
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        assert!(ended.status.success(), "{rest}{}", text(&ended));
        assert!(rest.contains(&format!("{vendor} is let in to account {account}")), "{rest}");
        place.run_ok(&["connection", "test", vendor]);
    }
    let nobody = place.run(&["connection", "authorize", "hubspot"]);
    assert!(text(&nobody).contains("hubspot asks nobody"), "{}", text(&nobody));
}

#[test]
fn the_demo_is_alive() {
    let port = crate::process::free_port().to_string();
    let size = ["--contacts", "20", "--deals", "30", "--seconds", "6"];
    let output = program().args(["demo", "--port", &port]).args(size).output().unwrap();
    let told = text(&output);
    assert!(output.status.success(), "{told}");
    assert!(told.contains("hubspot: took in 50 records"), "{told}");
    assert!(told.contains("in Pipedrive are won, for 650.00"), "{told}");
    assert!(told.contains("In HubSpot, somebody set deal"), "{told}");
    assert!(told.contains("Here, somebody renamed"), "{told}");
}

#[test]
fn a_reader_that_has_read_enough_is_no_failure() {
    let mut child = program()
        .args(["simulate", "--help"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
    let place = Place::new(1, 1, "sqlite://tandem.db");
    let mut child = place
        .command()
        .args(["connection", "list"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
    assert!(ended.status.success(), "{:?}", ended.status);
}
