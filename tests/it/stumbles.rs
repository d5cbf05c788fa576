//! A vendor that stumbles over one record: its value makes the vendor fail, or what it says of it cannot be read. The others go
//! on, and people are told which one it is.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{Method, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::Response,
};
use serde_json::json;
use tandem::{
    store::SyncStore,
    sync::{
        engine::{Engine, EngineError, Shared},
        guard::Limits,
    },
};
use tandem_contract::Kind;
use tandem_hubspot::sandbox as hubspot;
use tandem_pipedrive::sandbox::{Change, Faults};

use crate::{
    proxy::{Answer, Proxy},
    two_crms::{Both, properties},
};

/// Whatever is to be written of a poisoned record is answered this way.
pub fn poison(proxy: &Proxy, answer: Answer) {
    proxy.answer(move |method, _, said| (*method != Method::GET && said.contains("Poison")).then(|| answer.clone()));
}

/// The changelog of one deal.
fn unreadable(proxy: &Proxy, deal: u64) {
    let changelog = format!("/deals/{deal}/changelog");
    let odd = r#"{"success":true,"data":"nothing of the kind"}"#;
    proxy.answer(move |_, path, _| path.ends_with(&changelog).then(|| Answer::new(200, odd)));
}

pub fn two_crms(seed: u64) -> (Both, Proxy) {
    let proxy = Proxy::default();
    let both = Both::watched(seed, proxy.layer());
    both.have_one_pipeline();
    (both, proxy)
}

impl Both {
    pub fn told(&self, title: &str) -> u64 {
        let deal = [("dealname", title), ("dealstage", "qualifiedtobuy"), ("amount", "900.50")];
        self.rig.sandbox.with(|world| world.create(Kind::Deal, &properties(&deal), hubspot::Change::Person)).unwrap()
    }

    pub fn renamed(&self, deal: u64, title: &str) {
        let edit = properties(&[("dealname", title)]);
        self.rig.sandbox.with(|world| world.update(Kind::Deal, deal, &edit, hubspot::Change::Person)).unwrap();
    }

    pub fn titles(&self) -> Vec<String> {
        let ids = self.pipedrive.with(|world| world.ids(Kind::Deal));
        let mut titles: Vec<String> =
            ids.into_iter().map(|id| self.in_pipedrive(id, "title").as_str().unwrap_or_default().to_owned()).collect();
        titles.sort();
        titles
    }

    pub async fn codes(&self) -> Vec<String> {
        let all = self.rig.store.failures(&self.rig.account.name, 10).await.unwrap();
        all.into_iter().map(|failure| failure.code).filter(|code| code != "unknown_owner").collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_that_the_vendor_always_fails_for_is_shown_and_its_correction_goes_out() {
    let (both, proxy) = two_crms(41);
    poison(&proxy, Answer::new(500, r#"{"success":false,"error":"Internal server error"}"#));
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
    let (both, proxy) = two_crms(42);
    both.minutes(1).await;
    let poisoned = both.told("Poison");
    // Sent, and it lands within forty minutes.
    let late = Faults { late_create: 1.0, late_create_ms: 2_400_000, ..Faults::default() };
    both.pipedrive.with(|world| world.faults = late);
    both.minutes(1).await;
    both.pipedrive.with(|world| world.faults = Faults::default());
    let refused = r#"{"success":false,"error":"title: this word is not taken","code":"ERR"}"#;
    poison(&proxy, Answer::new(400, refused));
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
    let (both, proxy) = two_crms(43);
    both.minutes(1).await;
    let (first, second) = (both.told("first"), both.told("second"));
    both.minutes(2).await;
    assert_eq!(both.titles(), ["first", "second"]);
    let there = both.pipedrive.with(|world| world.ids(Kind::Deal));
    let is_second = |id: &&u64| both.in_pipedrive(**id, "title") == "second";
    let (other, unread) = (*there.iter().find(is_second).unwrap(), *there.iter().find(|id| !is_second(id)).unwrap());
    unreadable(&proxy, unread);
    both.renamed(first, "first, again");
    both.renamed(second, "second, again");
    both.minutes(5).await;
    let edit = json!({ "title": "typed in Pipedrive" });
    both.pipedrive.with(|world| world.update(Kind::Deal, other, &edit, Change::Person)).unwrap();
    both.minutes(5).await;
    assert_eq!(both.in_hubspot(second, "dealname"), "typed in Pipedrive");
    assert_eq!(both.codes().await, ["malformed"]);
    proxy.pass();
    both.minutes(45).await;
    assert_eq!(both.codes().await, [""; 0]);
}

/// Something between us and the vendor answers in its place, for every record: that is seen after a few, and not asked of each.
#[tokio::test(start_paused = true)]
async fn a_vendor_that_can_answer_for_no_record_is_not_asked_about_each() {
    const DEALS: usize = 40;
    let (both, proxy) = two_crms(44);
    both.minutes(1).await;
    let deals: Vec<u64> = (0..DEALS).map(|n| both.told(&format!("deal {n:02}"))).collect();
    both.minutes(2).await;
    assert_eq!(both.titles().len(), DEALS);
    let odd = "<html>Please sign in to the network</html>";
    proxy.answer(move |method, path, _| {
        let is_read = *method == Method::GET && path.contains("/deals");
        is_read.then(|| Answer::new(200, odd))
    });
    deals.iter().enumerate().for_each(|(n, deal)| both.renamed(*deal, &format!("again {n:02}")));
    both.minutes(1).await;
    let asked = proxy.answered();
    assert!((1..DEALS).contains(&asked), "{asked} calls for {DEALS} deals");
    let shown = both.rig.store.failures(&both.rig.account.name, 2 * DEALS).await.unwrap();
    assert!((1..DEALS / 2).contains(&shown.len()), "{} are shown", shown.len());
    proxy.pass();
    both.minutes(60).await;
    assert!(both.titles().iter().all(|title| title.starts_with("again")), "{:?}", both.titles());
    assert_eq!(both.codes().await, [""; 0]);
}

/// As a member that this user may not see: what has parts is no text.
async fn hide(State(hidden): State<Arc<Mutex<&'static str>>>, request: Request, next: Next) -> Response {
    let (parts, body) = next.run(request).await.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let hidden = format!("\"{}\":", hidden.lock().unwrap());
    let text = String::from_utf8_lossy(&body).replace(&hidden, &format!("{hidden}{{}},\"was\":"));
    let mut response = Response::from_parts(parts, Body::from(text));
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response
}

#[tokio::test(start_paused = true)]
async fn an_edit_where_the_vendor_does_not_show_what_it_has_is_not_written_and_not_kept_silent() {
    let hidden = Arc::new(Mutex::new("nothing"));
    let both = Both::watched(45, |router| router.layer(from_fn_with_state(hidden.clone(), hide)));
    both.have_one_pipeline();
    both.minutes(1).await;
    let deal = both.told("Peel");
    both.minutes(2).await;
    assert_eq!(both.titles(), ["Peel"]);
    *hidden.lock().unwrap() = "title";
    both.renamed(deal, "Deep peel");
    both.minutes(5).await;
    assert_eq!((both.titles(), both.codes().await), (vec!["Peel".to_owned()], vec!["unread".to_owned()]));
    *hidden.lock().unwrap() = "nothing";
    both.minutes(45).await;
    assert_eq!((both.titles(), both.codes().await), (vec!["Deep peel".to_owned()], vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_value_that_was_never_shown_is_not_written_over_and_not_kept_silent() {
    let hidden = Arc::new(Mutex::new("phones"));
    let both = Both::watched(46, |router| router.layer(from_fn_with_state(hidden.clone(), hide)));
    let phone = |number: &str| json!([{ "value": number, "primary": true, "label": "work" }]);
    let address = json!([{ "value": "ana@example.com", "primary": true, "label": "work" }]);
    let person = json!({ "name": "Ana Ito", "emails": address, "phones": phone("+1 212 555 0100") });
    let person = both.pipedrive.with(|world| world.create(Kind::Contact, &person, Change::Person)).unwrap();
    let contact = [("firstname", "Ana"), ("lastname", "Ito"), ("email", "ana@example.com"), ("phone", "+12125550101")];
    let contact = properties(&contact);
    let contact =
        both.rig.sandbox.with(|world| world.create(Kind::Contact, &contact, hubspot::Change::Person)).unwrap();
    both.minutes(5).await;
    assert_eq!(both.codes().await, ["unread"]);
    *hidden.lock().unwrap() = "nothing";
    // It is looked at when something changes, and then the two numbers meet.
    let edit = properties(&[("lastname", "Ito-Berg")]);
    both.rig.sandbox.with(|world| world.update(Kind::Contact, contact, &edit, hubspot::Change::Person)).unwrap();
    both.minutes(5).await;
    assert_eq!(both.codes().await, [""; 0]);
    let there = both.pipedrive.with(|world| world.value(Kind::Contact, person, "phones")).unwrap();
    let here = both.rig.sandbox.with(|world| world.value(Kind::Contact, contact, "phone")).unwrap();
    let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
    assert_eq!(digits(there[0]["value"].as_str().unwrap()), digits(&here), "one of the two won, on both sides");
}

/// Every write takes almost as long as is waited for an answer.
async fn slowly(request: Request, next: Next) -> Response {
    if request.method() != Method::GET {
        tokio::time::sleep(Duration::from_secs(18)).await;
    }
    next.run(request).await
}

#[tokio::test(start_paused = true)]
async fn while_a_slow_vendor_is_written_to_no_other_process_takes_the_connection_over() {
    const TITLES: [&str; 3] = ["first", "second", "third"];
    let both = Both::watched(47, |router| router.layer(from_fn(slowly)));
    both.have_one_pipeline();
    both.told("before");
    both.minutes(2).await;
    for title in TITLES {
        both.told(title);
    }
    let [here, there] = both.engines();
    here.once().await.unwrap();
    let other = Shared { owner: "another process".into(), ..both.rig.shared(Limits::default()) };
    let other = Engine::new(other, both.second.clone());
    let asking = async {
        // Longer than a lease lasts.
        for second in (10..=50).step_by(10) {
            both.rig.clock.sleep(Duration::from_secs(10)).await;
            let started = other.start().await.err();
            assert!(matches!(started, Some(EngineError::Taken)), "after {second} s: {started:?}");
        }
    };
    let (done, ()) = tokio::join!(there.once(), asking);
    done.unwrap();
    assert_eq!(both.titles()[1..], TITLES);
    assert!(other.start().await.is_ok(), "it is given back at the end");
}

#[tokio::test(start_paused = true)]
async fn what_a_person_has_tried_again_while_the_record_is_written_is_tried_again() {
    let proxy = Proxy::default();
    let both = Both::watched(51, |router| proxy.layer()(router).layer(from_fn(slowly)));
    both.have_one_pipeline();
    let deal = both.told("Peel");
    both.minutes(2).await;
    poison(&proxy, Answer::new(400, r#"{"success":false,"error":"title: this word is not taken","code":"ERR"}"#));
    both.renamed(deal, "Poison");
    both.minutes(2).await;
    assert_eq!((both.titles(), both.codes().await), (vec!["Peel".to_owned()], vec!["rejected".to_owned()]));
    // The word is allowed by now. Another row of the record is on its way when a person has the refused one tried again.
    proxy.pass();
    let shown = both.rig.store.failures(&both.rig.account.name, 10).await.unwrap();
    let shown = shown.into_iter().find(|failure| failure.code == "rejected").unwrap();
    both.rig.sandbox.with(|world| {
        world.update(Kind::Deal, deal, &properties(&[("amount", "950")]), hubspot::Change::Person).unwrap();
    });
    both.rig.clock.sleep(Duration::from_secs(2)).await;
    let [here, there] = both.engines();
    here.once().await.unwrap();
    let person = async {
        both.rig.clock.sleep(Duration::from_secs(9)).await;
        assert_eq!(both.in_pipedrive(both.pair().await.1, "value"), json!(900.5), "it is on its way");
        both.rig.desk().retry(&shown).await.unwrap();
    };
    let (done, ()) = tokio::join!(there.once(), person);
    done.unwrap();
    both.minutes(10).await;
    assert_eq!((both.titles(), both.codes().await), (vec!["Poison".to_owned()], vec![]));
    assert_eq!(both.in_pipedrive(both.pair().await.1, "value"), json!(950));
}

/// What did not reach the vendor made nothing there: however often it is tried, it is one to the mass-change guard.
#[tokio::test(start_paused = true)]
async fn what_is_not_made_uses_nothing_of_the_guards_limits_up() {
    let (both, proxy) = two_crms(52);
    both.minutes(1).await;
    let busy = Answer {
        headers: &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1")],
        ..Answer::new(429, r#"{"success":false,"error":"request over limit"}"#)
    };
    proxy.answer(move |method, path, _| (*method == Method::POST && path.ends_with("/deals")).then(|| busy.clone()));
    for title in ["first", "second", "third", "fourth"] {
        both.told(title);
    }
    both.rig.clock.sleep(Duration::from_secs(2)).await;
    both.rig.engine().once().await.unwrap();
    let limits = Limits { creates: 5, ..Limits::default() };
    let engine = Engine::new(both.rig.shared(limits), both.second.clone());
    let acting = async {
        // Tried again and again, within what the guard adds up.
        both.rig.clock.sleep(Duration::from_secs(300)).await;
        assert!(both.titles().is_empty());
        proxy.pass();
        both.rig.clock.sleep(Duration::from_secs(1_800)).await;
    };
    tokio::select! {
        () = engine.run() => unreachable!("an engine runs until it is dropped"),
        () = acting => {}
    }
    assert_eq!(both.titles().len(), 4);
    let account = &both.rig.account.name;
    assert!(both.rig.store.guard_events(account, &both.second.name).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_where_two_records_meet_stays_on_the_list_until_it_is_mended() {
    let (both, proxy) = two_crms(48);
    let address = json!([{ "value": "ana@example.com", "primary": true, "label": "work" }]);
    let person = json!({ "name": "Ana Ito", "emails": address });
    both.pipedrive.with(|world| world.create(Kind::Contact, &person, Change::Person)).unwrap();
    let contact = [("firstname", "Ana"), ("lastname", "Ito"), ("email", "ana@example.com"), ("phone", "+12125550101")];
    let contact = properties(&contact);
    let contact =
        both.rig.sandbox.with(|world| world.create(Kind::Contact, &contact, hubspot::Change::Person)).unwrap();
    let refusal = r#"{"success":false,"error":"phones: this one is not taken","code":"ERR"}"#;
    proxy.answer(move |method, _, said| {
        (*method != Method::GET && said.contains("5550101")).then(|| Answer::new(400, refusal))
    });
    both.minutes(5).await;
    assert_eq!(both.codes().await, ["rejected"]);
    let edit = properties(&[("lastname", "Ito-Berg")]);
    both.rig.sandbox.with(|world| world.update(Kind::Contact, contact, &edit, hubspot::Change::Person)).unwrap();
    both.minutes(5).await;
    assert_eq!(both.codes().await, ["rejected"], "another field goes out, and this one still waits");
    let edit = properties(&[("phone", "+12125550102")]);
    both.rig.sandbox.with(|world| world.update(Kind::Contact, contact, &edit, hubspot::Change::Person)).unwrap();
    both.minutes(5).await;
    assert_eq!(both.codes().await, [""; 0]);
}
