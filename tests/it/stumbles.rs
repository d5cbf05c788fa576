//! A vendor that stumbles over one record: its value makes the vendor fail, or what it says of it cannot be read. The others go
//! on, and people are told which one it is.

use std::sync::{Arc, Mutex};

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{Method, StatusCode},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use serde_json::json;
use tandem::store::SyncStore;
use tandem_contract::Kind;
use tandem_hubspot::sandbox as hubspot;
use tandem_pipedrive::sandbox::{Change, Faults};

use crate::two_crms::{Both, properties};

/// What the vendor answers instead, if it stumbles over a request: its method, path and body.
type Rule = Box<dyn Fn(&Method, &str, &str) -> Option<(u16, &'static str)> + Send>;

/// Stands between the connector and Pipedrive.
async fn stumble(State(rule): State<Arc<Mutex<Rule>>>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let answer = (rule.lock().unwrap())(&parts.method, parts.uri.path(), &String::from_utf8_lossy(&body));
    match answer {
        Some((status, text)) => (StatusCode::from_u16(status).unwrap(), text).into_response(),
        None => next.run(Request::from_parts(parts, Body::from(body))).await,
    }
}

fn never() -> Rule {
    Box::new(|_, _, _| None)
}

/// Whatever is to be written of a poisoned record.
fn answers(status: u16, body: &'static str) -> Rule {
    Box::new(move |method, _, said| (method != Method::GET && said.contains("Poison")).then_some((status, body)))
}

/// The changelog of one deal.
fn unreadable(deal: u64) -> Rule {
    let changelog = format!("/deals/{deal}/changelog");
    let odd = r#"{"success":true,"data":"nothing of the kind"}"#;
    Box::new(move |_, path, _| path.ends_with(&changelog).then_some((200, odd)))
}

fn two_crms(seed: u64) -> (Both, Arc<Mutex<Rule>>) {
    let rule = Arc::new(Mutex::new(never()));
    let both = Both::watched(seed, |router| router.layer(from_fn_with_state(rule.clone(), stumble)));
    both.have_one_pipeline();
    (both, rule)
}

impl Both {
    fn told(&self, title: &str) -> u64 {
        let deal = [("dealname", title), ("dealstage", "qualifiedtobuy"), ("amount", "900.50")];
        self.rig.sandbox.with(|world| world.create(Kind::Deal, &properties(&deal), hubspot::Change::Person)).unwrap()
    }

    fn renamed(&self, deal: u64, title: &str) {
        let edit = properties(&[("dealname", title)]);
        self.rig.sandbox.with(|world| world.update(Kind::Deal, deal, &edit, hubspot::Change::Person)).unwrap();
    }

    fn titles(&self) -> Vec<String> {
        let ids = self.pipedrive.with(|world| world.ids(Kind::Deal));
        let mut titles: Vec<String> =
            ids.into_iter().map(|id| self.in_pipedrive(id, "title").as_str().unwrap_or_default().to_owned()).collect();
        titles.sort();
        titles
    }

    async fn codes(&self) -> Vec<String> {
        let all = self.rig.store.failures(&self.rig.account.name, 10).await.unwrap();
        all.into_iter().map(|failure| failure.code).filter(|code| code != "unknown_owner").collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_that_the_vendor_always_fails_for_is_shown_and_its_correction_goes_out() {
    let (both, rule) = two_crms(41);
    *rule.lock().unwrap() = answers(500, r#"{"success":false,"error":"Internal server error"}"#);
    both.minutes(1).await;
    let poisoned = both.told("Poison");
    both.told("Peel");
    both.minutes(60).await;
    assert_eq!(both.titles(), ["Peel"], "the other one goes on");
    let shown = both.rig.store.failures(&both.rig.account.name, 10).await.unwrap();
    let shown: Vec<_> = shown.iter().filter(|failure| failure.code == "outcome_unknown").collect();
    let [shown] = shown[..] else { panic!("{shown:?}") };
    assert!(shown.message.contains("may stumble over a value of this record"), "{}", shown.message);
    both.renamed(poisoned, "Potion");
    both.minutes(30).await;
    assert_eq!(both.titles(), ["Peel", "Potion"], "what is said by now, not what was said first");
    assert_eq!(both.codes().await, [""; 0], "what is solved is off the list");
}

#[tokio::test(start_paused = true)]
async fn a_create_that_is_refused_after_one_without_an_answer_remembers_that_one() {
    let (both, rule) = two_crms(42);
    both.minutes(1).await;
    let poisoned = both.told("Poison");
    // Sent, and it lands within forty minutes.
    let late = Faults { late_create: 1.0, late_create_ms: 2_400_000, ..Faults::default() };
    both.pipedrive.with(|world| world.faults = late);
    both.minutes(1).await;
    both.pipedrive.with(|world| world.faults = Faults::default());
    let refused = r#"{"success":false,"error":"title: this word is not taken","code":"ERR"}"#;
    *rule.lock().unwrap() = answers(400, refused);
    both.minutes(4).await;
    assert_eq!((both.titles(), both.codes().await), (vec![], vec!["rejected".to_owned()]));
    both.renamed(poisoned, "Potion");
    both.minutes(1).await;
    assert_eq!(both.titles(), ["Potion"], "the correction goes out");
    // The first one lands: it is no deal of its own.
    both.minutes(45).await;
    assert_eq!((both.titles(), both.ours().len()), (vec!["Potion".to_owned()], 1));
    assert_eq!(both.codes().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn one_record_of_which_the_history_cannot_be_read_holds_up_no_other() {
    let (both, rule) = two_crms(43);
    both.minutes(1).await;
    let (first, second) = (both.told("first"), both.told("second"));
    both.minutes(2).await;
    assert_eq!(both.titles(), ["first", "second"]);
    let there = both.pipedrive.with(|world| world.ids(Kind::Deal));
    let is_second = |id: &&u64| both.in_pipedrive(**id, "title") == "second";
    let (other, unread) = (*there.iter().find(is_second).unwrap(), *there.iter().find(|id| !is_second(id)).unwrap());
    *rule.lock().unwrap() = unreadable(unread);
    both.renamed(first, "first, again");
    both.renamed(second, "second, again");
    both.minutes(5).await;
    let edit = json!({ "title": "typed in Pipedrive" });
    both.pipedrive.with(|world| world.update(Kind::Deal, other, &edit, Change::Person)).unwrap();
    both.minutes(5).await;
    assert_eq!(both.in_hubspot(second, "dealname"), "typed in Pipedrive");
    assert_eq!(both.codes().await, ["malformed"]);
    *rule.lock().unwrap() = never();
    both.minutes(45).await;
    assert_eq!(both.codes().await, [""; 0]);
}
