//! Every refusal of Pipedrive's, what it is taken for, and what becomes of the record and of the others.

use std::time::Duration;

use axum::http::Method;
use serde_json::json;
use tandem::{model::ConnectionState, store::SyncStore};
use tandem_contract::{Connector, ConnectorError, Cursor, Kind, Pushed, Secret, Value};
use tandem_hubspot::sandbox as hubspot;
use tandem_pipedrive::sandbox::Settings;

use crate::{
    decisions::{self, PAGE, PRIVATE, Want, hold, row},
    pipedrive::{CALL, company, grant, id, update_of},
    proxy::{Answer, Headers, Proxy},
    stumbles::{poison, two_crms},
    two_crms::properties,
};

const TOKEN: &str = r#"{"success":false,"error":"unauthorized access","errorCode":401,"error_info":"Please check developers.pipedrive.com"}"#;
const UNPAID: &str = r#"{"success":false,"error":"Payment required","errorCode":402}"#;
const SCOPE: &str = r#"{"success":false,"error":"Scope and URL mismatch","errorCode":403,"error_info":"Jane Roe"}"#;
const CAPPED: &str = r#"{"success":false,"error":"Couldn't add the deal. Open deals limit reached.","code":"feature_capping_deals_limit","data":null,"additional_data":null}"#;
const FIELD: &str = r#"{"success":false,"error":"job_title: Jane Roe's contacts are not synchronised","data":null}"#;
const TITLE: &str = r#"{"success":false,"error":"Validation failed: title: Jane Roe is not taken","data":null}"#;
const GONE: &str = r#"{"success":false,"error":"Deal not found","error_info":"Please check developers.pipedrive.com","data":null,"additional_data":null}"#;
const NOT_DONE: &str = r#"{"success":false,"error":"Jane Roe was not stored","data":null}"#;
const BROKEN: &str = r#"{"success":false,"error":"Internal server error"}"#;
const HALF: &str = r#"{"success":true,"data":{"id":4411,"title":"Jane"#;
const TOO_MANY: &str = r#"{"success":false,"error":"request over limit","data":null,"additional_data":null}"#;
const ADDRESS: &str =
    r#"{"status":"error","success":false,"errors":{"subscription_url":["https://tandem.example.com"]}}"#;
const HOOKS: &str = r#"{"success":false,"message":"Forbidden"}"#;

#[derive(Clone, Copy, Debug)]
enum Ask {
    /// Reads: a page of the list.
    List,
    /// Reads: one deal.
    Read,
    /// Writes: a new deal.
    Create,
    /// Writes: a deal that is there.
    Update,
    /// Writes: our own field, before the first create.
    Field,
    /// Writes: a subscription to its news.
    Subscribe,
}

impl Ask {
    /// The call that is refused.
    fn route(self) -> (Method, &'static str) {
        match self {
            Self::List => (Method::GET, "/v2/deals"),
            Self::Read => (Method::GET, "/v2/deals/"),
            Self::Create => (Method::POST, "/v2/deals"),
            Self::Update => (Method::PATCH, "/v2/deals/"),
            Self::Field => (Method::POST, "/v2/dealFields"),
            Self::Subscribe => (Method::POST, "/v1/webhooks"),
        }
    }
}

type Row = decisions::Row<Ask>;

async fn tried(row: &Row) -> (Pushed, usize) {
    let proxy = Proxy::default();
    let login = Some(("pd-1".to_owned(), Secret::new("long-random-secret")));
    let company = company(Settings::default(), Kind::Deal, proxy.layer(), |options| options.webhook_login = login);
    let deal = company.make_deal(json!({ "title": "Peel" }));
    let ((verb, at), answer) = (row.ask.route(), row.answer());
    proxy.answer(move |method, path, _| (*method == verb && path.contains(at)).then(|| answer.clone()));
    let title = [("title", Value::text("Jane Roe's course"))];
    let connector = &company.connector;
    let got = match row.ask {
        Ask::List => Pushed::Failed(connector.list(CALL, Kind::Deal, &Cursor::start()).await.unwrap_err()),
        Ask::Read => Pushed::Failed(connector.fetch(CALL, Kind::Deal, &[id(deal)]).await.unwrap_err()),
        Ask::Create | Ask::Field => company.create("pd:9f1c", &title).await,
        Ask::Update => company.update(deal, &title).await,
        Ask::Subscribe => {
            let address = "https://tandem.example.com/webhooks/pipedrive".parse().unwrap();
            Pushed::Failed(connector.subscribe(CALL, &address).await.unwrap_err())
        }
    };
    (got, proxy.answered())
}

#[tokio::test(start_paused = true)]
async fn credentials_an_account_and_a_right_that_are_missing_are_told_apart() {
    let (right, plan) = ("grant the permission or the scope", "close some, or change the plan");
    hold(
        vec![
            row("a token", Ask::List, 401, TOKEN, Want::Unauthorized("put the one from Settings")),
            row("a token", Ask::Update, 401, TOKEN, Want::Unauthorized("put the one from Settings")),
            row("an account that is not open", Ask::List, 402, UNPAID, Want::Unauthorized("reopen it there")),
            row("an account that is not open", Ask::Create, 402, UNPAID, Want::Unauthorized("reopen it there")),
            row("a scope", Ask::List, 403, SCOPE, Want::Forbidden(right)),
            row("a scope", Ask::Update, 403, SCOPE, Want::Forbidden(right)),
            row("a field that may not be written", Ask::Update, 403, FIELD, Want::Forbidden(right)),
            row("our field may not be made", Ask::Field, 403, SCOPE, Want::Forbidden("let an administrator make")),
            row("the plan's number of deals", Ask::Create, 403, CAPPED, Want::Forbidden(plan)),
            row("a webhook's address", Ask::Subscribe, 400, ADDRESS, Want::Forbidden("must be public, with https")),
            row("too many webhooks", Ask::Subscribe, 422, NOT_DONE, Want::Forbidden("a user may have forty")),
            row("no right to webhooks", Ask::Subscribe, 403, HOOKS, Want::Forbidden(right)),
        ],
        tried,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_stands_in_between_is_not_taken_for_pipedrives_word() {
    let mut rows = Vec::new();
    for status in [500, 502, 503, 504] {
        rows.push(row("an outage", Ask::Create, status, PAGE, Want::OutcomeUnknown));
        rows.push(row("an outage", Ask::Update, status, BROKEN, Want::OutcomeUnknown));
        rows.push(row("an outage", Ask::Read, status, "", Want::NotSent));
    }
    let blocked = || Want::RateLimited(Some(600), "the gateway blocks");
    for (ask, unread) in [
        (Ask::List, Want::Malformed),
        (Ask::Read, Want::Malformed),
        (Ask::Create, Want::OutcomeUnknown),
        (Ask::Update, Want::OutcomeUnknown),
    ] {
        let is_write = matches!(unread, Want::OutcomeUnknown);
        let half = if is_write { Want::OutcomeUnknown } else { Want::Malformed };
        let not_done = if is_write { Want::OutcomeUnknown } else { Want::NotSent };
        rows.extend([
            row("a page in the place of an answer", ask, 200, PAGE, unread),
            row("half an answer", ask, 200, HALF, half),
            row("a success that says it is none", ask, 200, NOT_DONE, not_done),
            row("a page that blocks", ask, 403, PAGE, blocked()),
            row("a page that knows no such address", ask, 404, PAGE, Want::NotSent),
            row("a page that takes no such thing", ask, 400, PAGE, Want::NotSent),
        ]);
    }
    hold(rows, tried).await;
}

#[tokio::test(start_paused = true)]
async fn values_records_and_limits_are_told_by_their_place() {
    let burst: Headers = &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1")];
    let (window, day) =
        (|| Want::RateLimited(Some(1), "two seconds"), |wait| Want::RateLimited(Some(wait), "of the day"));
    hold(
        vec![
            row("a value", Ask::Update, 400, TITLE, Want::Rejected(Some("title"), "HTTP 400")),
            row("a value", Ask::Create, 400, TITLE, Want::Rejected(Some("title"), "HTTP 400")),
            row("what cannot be done", Ask::Update, 422, NOT_DONE, Want::Rejected(None, "HTTP 422")),
            row("gone", Ask::Update, 404, GONE, Want::Gone),
            // Nothing can be missing of what is being made.
            row("gone", Ask::Create, 404, GONE, Want::NotSent),
            Row { headers: burst, calls: 4, ..row("two seconds", Ask::Read, 429, TOO_MANY, window()) },
            Row { headers: burst, calls: 4, ..row("two seconds", Ask::Create, 429, TOO_MANY, window()) },
            row("a day", Ask::Read, 429, TOO_MANY, day(900)),
            row("a day", Ask::Update, 429, PAGE, day(900)),
            Row { headers: &[("retry-after", "7200")], ..row("a wait", Ask::Create, 429, TOO_MANY, day(7_200)) },
        ],
        tried,
    )
    .await;
}

/// An access token that ends between two writes: with another one everything goes out; where the grant is gone,
/// nothing more is sent.
#[tokio::test(start_paused = true)]
async fn a_token_that_is_refused_in_mid_flight_is_renewed_once_or_stops_what_is_left() {
    let refused = r#"{"success":false,"error":"invalid_grant","error_description":"Jane Roe left"}"#;
    for (renewal, outcomes) in [
        (None, ["written", "written", "written"]),
        (Some((400, refused)), ["written", "unauthorized", "unauthorized"]),
        (Some((503, PAGE)), ["written", "not_sent", "written"]),
    ] {
        let (proxy, settings) = (Proxy::default(), Settings::default());
        let grant = grant(&settings);
        let company = company(settings, Kind::Deal, proxy.layer(), |options| options.credentials = grant);
        let deals = ["one", "two", "three"].map(|title| company.make_deal(json!({ "title": title })));
        let (mut writes, mut is_over) = (0, false);
        proxy.answer(move |method, path, _| {
            writes += usize::from(*method == Method::PATCH);
            if writes == 2 && !is_over {
                is_over = true;
                return Some(Answer::new(401, TOKEN));
            }
            let (status, body) = renewal.filter(|_| is_over && path.ends_with("/oauth/token"))?;
            Some(Answer::new(status, body))
        });
        let all = deals.map(|deal| update_of(Kind::Deal, deal, &[("title", Value::text("Jane Roe's course"))]));
        let pushed = company.connector.push(CALL, &all).await;
        let came: Vec<&str> = pushed
            .iter()
            .map(|one| match one {
                Pushed::Failed(error) => error.code(),
                _ => "written",
            })
            .collect();
        assert_eq!(came, outcomes, "{pushed:?}");
        let told = |one: &Pushed| match one {
            Pushed::Failed(ConnectorError::Unauthorized(why)) => why.contains("connect Pipedrive again"),
            _ => true,
        };
        assert!(pushed.iter().all(told), "{pushed:?}");
        let failed: Vec<_> = pushed.iter().filter(|one| matches!(one, Pushed::Failed(_))).collect();
        assert!(PRIVATE.iter().all(|value| !format!("{failed:?}").contains(value)), "{failed:?}");
        let is_written = outcomes[2] == "written";
        assert_eq!(company.value(deals[2], "title") == "Jane Roe's course", is_written, "{came:?}");
    }
}

/// One deal is refused; the other one goes on, people are told what to do, and it goes out by itself once it is taken.
#[tokio::test(start_paused = true)]
async fn a_deal_that_is_refused_waits_alone_and_says_what_to_do() {
    for (seed, (what, status, body, shown)) in (60..).zip([
        ("a scope", 403, SCOPE, Some(("forbidden", "grant the permission or the scope"))),
        ("the plan's number of deals", 403, CAPPED, Some(("forbidden", "close some, or change the plan"))),
        ("a value", 400, TITLE, Some(("rejected", "correct the value here"))),
        ("what cannot be done", 422, NOT_DONE, Some(("rejected", "correct the value here"))),
        ("no such address", 404, PAGE, None),
    ]) {
        let (both, proxy) = two_crms(seed);
        both.minutes(1).await;
        poison(&proxy, Answer::new(status, body));
        both.told("Poison");
        both.told("Peel");
        both.minutes(3).await;
        assert_eq!(both.titles(), ["Peel"], "{what}: the other one goes on");
        let all = both.rig.store.failures(&both.rig.account.name, 10).await.unwrap();
        let all: Vec<_> = all.iter().filter(|failure| failure.code != "unknown_owner").collect();
        let says = shown.map(|(_, says)| says).unwrap_or_default();
        assert!(all.iter().all(|failure| failure.message.contains(says)), "{what}: {all:?}");
        let private = |text: &str| text.contains("Poison") || PRIVATE.iter().any(|value| text.contains(value));
        assert!(!all.iter().any(|failure| private(&failure.message)), "{what}: {all:?}");
        assert_eq!(all.iter().map(|failure| failure.code.as_str()).next(), shown.map(|(code, _)| code), "{what}");
        proxy.pass();
        both.minutes(25).await;
        assert_eq!(both.titles(), ["Peel", "Poison"], "{what}: it goes out by itself");
        assert_eq!(both.codes().await, [""; 0], "{what}: what is solved is off the list");
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_that_is_refused_keeps_no_other_value_of_its_record_waiting() {
    let (both, proxy) = two_crms(70);
    both.minutes(1).await;
    let deal = both.told("Peel");
    both.minutes(2).await;
    let there = both.pipedrive.with(|world| world.ids(Kind::Deal))[0];
    poison(&proxy, Answer::new(400, TITLE));
    let edit = properties(&[("dealname", "Poison"), ("amount", "1200")]);
    both.rig.sandbox.with(|world| world.update(Kind::Deal, deal, &edit, hubspot::Change::Person)).unwrap();
    both.minutes(3).await;
    assert_eq!(both.in_pipedrive(there, "value").as_f64(), Some(1_200.0));
    assert_eq!((both.titles(), both.codes().await), (vec!["Peel".to_owned()], vec!["rejected".to_owned()]));
    both.renamed(deal, "Potion");
    both.minutes(3).await;
    assert_eq!((both.titles(), both.codes().await), (vec!["Potion".to_owned()], vec![]));
}

/// The deal is made, and what comes back does not say so.
#[tokio::test(start_paused = true)]
async fn a_create_that_was_carried_out_and_answered_badly_is_found_by_its_marker_and_made_once() {
    for (seed, (status, body)) in
        (80..).zip([(500, BROKEN), (502, PAGE), (200, NOT_DONE), (200, PAGE), (200, HALF), (408, PAGE)])
    {
        let (both, proxy) = two_crms(seed);
        both.minutes(1).await;
        let mut is_over = false;
        proxy.answer(move |method, path, said| {
            let is_it = *method == Method::POST && path.ends_with("/v2/deals") && said.contains("Peel") && !is_over;
            is_over |= is_it;
            is_it.then(|| Answer { is_done: true, ..Answer::new(status, body) })
        });
        let deal = both.told("Peel");
        both.minutes(10).await;
        assert_eq!((both.titles(), proxy.answered()), (vec!["Peel".to_owned()], 1), "{status} {body}");
        both.renamed(deal, "Potion");
        both.minutes(3).await;
        assert_eq!(both.titles(), ["Potion"], "{status} {body}: it is known as ours");
        assert_eq!((both.ours().len(), both.codes().await), (1, vec![]), "{status} {body}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_company_whose_account_is_closed_stops_its_connection_alone_and_everything_goes_out_when_it_is_open() {
    for (seed, (status, body, says)) in
        (90..).zip([(402, UNPAID, "reopen it there"), (401, TOKEN, "put the one from Settings")])
    {
        let (both, proxy) = two_crms(seed);
        both.minutes(1).await;
        proxy.answer(move |_, _, _| Some(Answer::new(status, body)));
        both.told("Peel");
        both.rig.clock.sleep(Duration::from_secs(30)).await;
        let [hubspot, pipedrive] = both.engines();
        hubspot.once().await.unwrap();
        let stopped = pipedrive.once().await.unwrap_err().to_string();
        let row = both.rig.store.connection(&both.rig.account.name, &both.second.name).await.unwrap().unwrap();
        let reason = row.reason.unwrap_or_default();
        assert_eq!((row.state, both.ours().len()), (ConnectionState::NeedsAuth, 1), "{stopped}");
        assert!(reason.contains(says) && !PRIVATE.iter().any(|value| reason.contains(value)), "{reason}");
        proxy.pass();
        both.minutes(2).await;
        assert_eq!((both.titles(), both.codes().await), (vec!["Peel".to_owned()], vec![]));
    }
}
