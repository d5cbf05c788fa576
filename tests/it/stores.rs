//! One behaviour, three stores: memory, SQLite, PostgreSQL.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, TimeDelta, Utc};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tandem::{
    model::{
        Conflict, ConflictState, ConnectionRow, Contact, Dirty, Failure, Intent, IntentOp, IntentState, Key, Link,
        LinkState, LocalRecord, Mark, Name, Opportunity, RecordId, Winner,
        ids::{ConflictId, FailureId, IntentId, RunId},
        link::{Hold, HoldKind, Ruling, Unanswered, Verdict},
    },
    store::{
        By, CHECKOUTS_KEPT, Commit, EVENTS_KEPT, Fence, Op, StoreError, SyncStore, Taken, change_connection,
        memory::MemoryStore, seal::Sealer, sql::SqlStore,
    },
};
use tandem_contract::{CheckoutBy, Cursor, ExternalId, Kind, NewCheckout, Value, Version};
use uuid::Uuid;

use crate::process::postgres;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(1_795_000_000_123_456).unwrap() + TimeDelta::seconds(seconds)
}

fn record(n: u128) -> RecordId {
    RecordId(Uuid::from_u128(n + 1))
}

fn deal(n: u128, version: i64) -> Opportunity {
    Opportunity { version, name: format!("deal {n} v{version}"), ..Opportunity::new(record(n), at(0)) }
}

fn put(deal: Opportunity, expected: i64, slot: Option<&str>) -> Op {
    Op::PutRecord { record: LocalRecord::Deal(deal), expected, slot: slot.map(str::to_owned) }
}

fn link(n: u128, external: &str) -> Link {
    Link {
        connection: name("hubspot"),
        kind: Kind::Deal,
        local: record(n),
        external: ExternalId::new(external).unwrap(),
        state: LinkState::Linked,
        base: BTreeMap::new(),
        version: Version { token: None, updated_at: Some(at(3)) },
        holds: BTreeMap::new(),
        rewrites: BTreeMap::new(),
        missing_since: None,
        unanswered: (n % 2 == 1).then(|| Unanswered { said: BTreeMap::new(), until: at(4) }),
        rulings: 0,
    }
}

fn put_link(link: Link) -> Op {
    Op::PutLink { link, system: "hubspot".into(), remote_account: "4242".into() }
}

fn mark(key: Key, due: i64, priority: i64) -> Op {
    Op::Mark(Mark { connection: name("hubspot"), kind: Kind::Deal, key, due_at: at(due), priority })
}

fn intent(n: u128, local: u128) -> Intent {
    Intent {
        id: IntentId(Uuid::from_u128(900 + n)),
        connection: name("hubspot"),
        kind: Kind::Deal,
        local: record(local),
        op: IntentOp::Create { marker: "m".into() },
        rows: BTreeMap::new(),
        state: IntentState::Planned,
        sent_at: None,
        closes_at: None,
        again: n % 2 == 1,
        anew: n % 3 == 1,
        run: RunId(Uuid::nil()),
    }
}

fn checkout(key: &str, title: &str) -> NewCheckout {
    NewCheckout {
        by: CheckoutBy::Invoice,
        key: key.into(),
        reference: record(1).to_string(),
        title: title.into(),
        minor: 12_500,
        currency: "USD".into(),
        location: None,
        buyer: Some(ExternalId::new("C1").unwrap()),
        email: Some("ana@example.com".into()),
        due_on: at(0).date_naive().into(),
    }
}

fn commit(ops: Vec<Op>) -> Commit {
    Commit { account: name("a"), fence: None, ops }
}

async fn sqlite() -> (tempfile::TempDir, Arc<dyn SyncStore>) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}", folder.path().join("t.db").display());
    let store = SqlStore::open(&url, Sealer::new(&Sealer::new_key()).unwrap()).await.unwrap();
    (folder, Arc::new(store))
}

async fn on_postgres(test: &str) -> Option<Arc<dyn SyncStore>> {
    let url = postgres(test)?;
    Some(Arc::new(SqlStore::open(&url, Sealer::new(&Sealer::new_key()).unwrap()).await.unwrap()))
}

/// The list of behaviours, once: each runs on every store, so none can be forgotten on one.
macro_rules! behaviours {
    ($($name:ident),* $(,)?) => { $(
        mod $name {
            #[tokio::test]
            async fn memory() {
                super::behaviour::$name(std::sync::Arc::new(super::MemoryStore::new())).await;
            }
            #[tokio::test]
            async fn sqlite() {
                let (_folder, store) = super::sqlite().await;
                super::behaviour::$name(store).await;
            }
            #[tokio::test]
            async fn postgresql() {
                if let Some(store) = super::on_postgres(stringify!($name)).await {
                    super::behaviour::$name(store).await;
                }
            }
        }
    )* };
}

behaviours!(
    a_commit_happens_wholly_or_not_at_all,
    a_stale_version_is_refused,
    an_active_place_is_taken_once,
    an_external_id_stands_for_one_record,
    a_link_that_is_there_says_something_new_and_links_the_same,
    what_a_person_decided_of_a_link_is_not_written_over,
    opportunities_are_found_by_the_contact_they_have_now,
    a_mark_raised_during_work_survives_it,
    parents_and_urgent_marks_come_first,
    one_intent_is_open_per_record,
    a_fenced_engine_commits_nothing,
    a_connection_is_stored_over_the_version_it_was_changed_from,
    changes_of_a_connection_at_the_same_time_all_stay,
    a_lease_is_taken_once_and_taken_over_when_it_ended,
    the_same_conflict_is_recorded_once,
    a_failure_is_counted_not_repeated,
    what_a_checkout_was_asked_for_as_first_is_kept,
    old_checkouts_are_dropped,
    an_event_is_taken_once_and_kept_while_it_may_be_told_again,
    one_appointment_is_made_at_a_time,
    accounts_do_not_see_each_other,
);

mod behaviour {
    use super::*;

    type Store = Arc<dyn SyncStore>;

    pub async fn a_commit_happens_wholly_or_not_at_all(store: Store) {
        store.commit(&commit(vec![put(deal(1, 1), 0, None)])).await.unwrap();
        let cursor = Op::PutCursor { connection: name("hubspot"), stream: "s".into(), cursor: Cursor("1".into()) };
        let bad = commit(vec![put(deal(2, 1), 0, None), cursor, put(deal(1, 3), 2, None)]);
        assert!(store.commit(&bad).await.is_err());
        assert!(store.records(&name("a"), Kind::Deal, &[record(2)]).await.unwrap().is_empty());
        assert_eq!(store.cursor(&name("a"), &name("hubspot"), "s").await.unwrap(), None);
    }

    pub async fn a_link_that_is_there_says_something_new_and_links_the_same(store: Store) {
        let parted = |n, external| Op::UpdateLink(Link { state: LinkState::Unlinked, ..link(n, external) });
        let state = async || {
            let links = store.links(&name("a"), &name("hubspot"), Kind::Deal, By::Local(&[record(1)])).await.unwrap();
            links.first().map(|link| (link.external.to_string(), link.state))
        };
        let refused = |done: Result<(), StoreError>| matches!(done, Err(StoreError::Stale { .. }));
        assert!(refused(store.commit(&commit(vec![parted(1, "500")])).await), "nothing is linked yet");
        store.commit(&commit(vec![put_link(link(1, "500"))])).await.unwrap();
        assert!(refused(store.commit(&commit(vec![parted(1, "501")])).await), "another id is another link");
        assert_eq!(state().await, Some(("500".into(), LinkState::Linked)));
        store.commit(&commit(vec![parted(1, "500")])).await.unwrap();
        assert_eq!(state().await, Some(("500".into(), LinkState::Unlinked)));
    }

    pub async fn what_a_person_decided_of_a_link_is_not_written_over(store: Store) {
        let read = async || {
            let links = store.links(&name("a"), &name("hubspot"), Kind::Deal, By::Local(&[record(1)])).await.unwrap();
            links.into_iter().next().unwrap()
        };
        let rule = |ruling| {
            let (connection, kind, local) = (name("hubspot"), Kind::Deal, record(1));
            commit(vec![Op::RuleOnLink { connection, kind, local, ruling }])
        };
        let held = |kind| Hold { kind, local: vec![], remote: vec![], conflict: None };
        store.commit(&rule(Ruling::TryAgain)).await.unwrap();
        let holds = BTreeMap::from([
            ("name".to_owned(), held(HoldKind::Parked)),
            ("value".to_owned(), held(HoldKind::Guarded)),
            ("stage".to_owned(), held(HoldKind::Ask)),
        ]);
        store.commit(&commit(vec![put_link(Link { holds, ..link(1, "500") })])).await.unwrap();
        let before = read().await;
        store.commit(&rule(Ruling::TryAgain)).await.unwrap();
        let late = store.commit(&commit(vec![Op::UpdateLink(before)])).await;
        assert!(matches!(late, Err(StoreError::Stale { .. })), "{late:?}");
        let now = read().await;
        assert_eq!(now.holds.keys().collect::<Vec<_>>(), ["stage", "value"]);
        store.commit(&commit(vec![Op::UpdateLink(Link { state: LinkState::Unlinked, ..now })])).await.unwrap();
        store.commit(&rule(Ruling::Guarded(Verdict::Discard))).await.unwrap();
        let now = read().await;
        assert_eq!((now.state, now.holds["value"].kind), (LinkState::Unlinked, HoldKind::Parked));
        assert_eq!(now.holds["stage"].kind, HoldKind::Ask, "it is not the guard's");
        // What moves a link to another record there keeps what was counted.
        store.commit(&commit(vec![put_link(link(1, "501"))])).await.unwrap();
        assert_eq!((read().await.external.as_str(), read().await.rulings), ("501", 2));
    }

    pub async fn what_a_checkout_was_asked_for_as_first_is_kept(store: Store) {
        let keep = async |new: NewCheckout, asked_at| {
            let keep = Op::KeepCheckout { connection: name("square"), new, asked_at };
            store.commit(&commit(vec![keep])).await.unwrap();
        };
        let kept = async |key: &str| store.checkout(&name("a"), &name("square"), key).await.unwrap();
        keep(checkout("k1", "first"), at(1)).await;
        keep(checkout("k1", "second"), at(2)).await;
        keep(checkout("k2", "another"), at(2)).await;
        assert_eq!((kept("k1").await, kept("k3").await), (Some(checkout("k1", "first")), None));
        let elsewhere = store.checkout(&name("b"), &name("square"), "k1").await.unwrap();
        assert_eq!(elsewhere, None);
        let forget = Op::DropCheckout { connection: name("square"), key: "k1".into() };
        store.commit(&commit(vec![forget])).await.unwrap();
        assert_eq!((kept("k1").await, kept("k2").await), (None, Some(checkout("k2", "another"))));
        keep(checkout("k1", "second"), at(3)).await;
        assert_eq!(kept("k1").await, Some(checkout("k1", "second")));
    }

    pub async fn old_checkouts_are_dropped(store: Store) {
        let keep = async |account: &str, till: &str, key: &str, asked_at| {
            let keep = Op::KeepCheckout { connection: name(till), new: checkout(key, "a course"), asked_at };
            store.commit(&Commit { account: name(account), ..commit(vec![keep]) }).await.unwrap();
        };
        for (account, till, key, asked) in
            [("a", "square", "old", 0), ("a", "square", "young", 9), ("a", "gone", "old", 0), ("b", "square", "old", 0)]
        {
            keep(account, till, key, at(asked)).await;
        }
        let is_kept = async |account: &str, till: &str, key: &str| {
            store.checkout(&name(account), &name(till), key).await.unwrap().is_some()
        };
        let drop_at = async |now| store.commit(&commit(vec![Op::DropOld { now }])).await.unwrap();
        drop_at(at(0) + CHECKOUTS_KEPT).await;
        assert!(is_kept("a", "square", "old").await, "as long as it is kept");
        // A till that is configured no more has nobody else to drop its own.
        drop_at(at(5) + CHECKOUTS_KEPT).await;
        assert!(!is_kept("a", "square", "old").await && !is_kept("a", "gone", "old").await);
        assert!(is_kept("a", "square", "young").await && is_kept("b", "square", "old").await);
    }

    pub async fn an_event_is_taken_once_and_kept_while_it_may_be_told_again(store: Store) {
        let event = |text: &str| ExternalId::new(text).unwrap();
        let take = async |account: &str, till: &str, id: &str, seconds| {
            let op = Op::KeepEvent { connection: name(till), event: event(id), taken_at: at(seconds) };
            store.commit(&Commit { account: name(account), ..commit(vec![op]) }).await.unwrap();
        };
        let has =
            async |account: &str, till: &str, id: &str| store.has_event(&name(account), &name(till), &event(id)).await;
        take("a", "square", "e1", 0).await;
        // Taken at the same moment by another process: the first word stands.
        take("a", "square", "e1", 9).await;
        take("a", "square", "e2", 9).await;
        take("b", "square", "e1", 0).await;
        assert!(has("a", "square", "e1").await.unwrap() && !has("a", "other", "e1").await.unwrap());
        assert!(!has("b", "square", "e2").await.unwrap(), "each account by itself");
        store.commit(&commit(vec![Op::DropOld { now: at(5) + EVENTS_KEPT }])).await.unwrap();
        assert!(!has("a", "square", "e1").await.unwrap() && has("a", "square", "e2").await.unwrap());
        assert!(has("b", "square", "e1").await.unwrap());
    }

    pub async fn one_appointment_is_made_at_a_time(store: Store) {
        let of = |n: u128, now: i64, until: i64| {
            let begin = Op::BeginBooking { opportunity: record(n), now: at(now), until: at(until) };
            commit(vec![begin])
        };
        store.commit(&of(1, 0, 60)).await.unwrap();
        assert!(matches!(store.commit(&of(1, 59, 120)).await, Err(StoreError::Outdated(_))), "one is under way");
        store.commit(&of(2, 1, 61)).await.unwrap();
        store.commit(&of(1, 60, 120)).await.unwrap();
        let end = |until| commit(vec![Op::EndBooking { opportunity: record(1), until: at(until) }]);
        store.commit(&end(60)).await.unwrap();
        assert!(matches!(store.commit(&of(1, 61, 121)).await, Err(StoreError::Outdated(_))), "another's is not ended");
        store.commit(&end(120)).await.unwrap();
        store.commit(&of(1, 62, 122)).await.unwrap();
    }

    pub async fn opportunities_are_found_by_the_contact_they_have_now(store: Store) {
        let of = |version, contact: Option<u128>| Opportunity { contact: contact.map(record), ..deal(1, version) };
        let found = async |contacts: &[RecordId]| store.opportunities_of(&name("a"), contacts).await.unwrap();
        store.commit(&commit(vec![put(of(1, Some(7)), 0, None)])).await.unwrap();
        assert_eq!(found(&[record(7), record(8)]).await, [record(1)]);
        store.commit(&commit(vec![put(of(2, Some(8)), 1, None)])).await.unwrap();
        assert!(found(&[record(7)]).await.is_empty());
        assert_eq!(found(&[record(8)]).await, [record(1)]);
        store.commit(&commit(vec![put(of(3, None), 2, None)])).await.unwrap();
        assert!(found(&[record(7), record(8)]).await.is_empty());
    }

    pub async fn a_stale_version_is_refused(store: Store) {
        store.commit(&commit(vec![put(deal(1, 1), 0, None)])).await.unwrap();
        store.commit(&commit(vec![put(deal(1, 2), 1, None)])).await.unwrap();
        assert!(matches!(store.commit(&commit(vec![put(deal(1, 2), 1, None)])).await, Err(StoreError::Stale { .. })));
        assert!(matches!(store.commit(&commit(vec![put(deal(1, 1), 0, None)])).await, Err(StoreError::Stale { .. })));
        let stored = store.records(&name("a"), Kind::Deal, &[record(1)]).await.unwrap();
        assert_eq!(stored, vec![LocalRecord::Deal(deal(1, 2))]);
    }

    pub async fn an_active_place_is_taken_once(store: Store) {
        store.commit(&commit(vec![put(deal(1, 1), 0, Some("c/p"))])).await.unwrap();
        let second = store.commit(&commit(vec![put(deal(2, 1), 0, Some("c/p"))])).await;
        assert!(matches!(second, Err(StoreError::Taken { what: Taken::ActivePlace })));
        store.commit(&commit(vec![put(deal(1, 2), 1, None)])).await.unwrap();
        store.commit(&commit(vec![put(deal(2, 1), 0, Some("c/p"))])).await.unwrap();
    }

    pub async fn an_external_id_stands_for_one_record(store: Store) {
        store.commit(&commit(vec![put_link(link(1, "77"))])).await.unwrap();
        assert!(matches!(
            store.commit(&commit(vec![put_link(link(2, "77"))])).await,
            Err(StoreError::Taken { what: Taken::ExternalId })
        ));
        store.commit(&commit(vec![put_link(link(1, "78"))])).await.unwrap();
        store.commit(&commit(vec![put_link(link(2, "77"))])).await.unwrap();
        let ids = [ExternalId::new("77").unwrap()];
        let found = store.links(&name("a"), &name("hubspot"), Kind::Deal, By::External(&ids)).await.unwrap();
        assert_eq!(found, vec![link(2, "77")]);
        let count = async |most| store.count_links(&name("a"), &name("hubspot"), Kind::Deal, most).await.unwrap();
        assert_eq!((count(u64::MAX).await, count(2).await, count(1).await), (2, 2, 1));
    }

    pub async fn a_mark_raised_during_work_survives_it(store: Store) {
        let key = Key::Local(record(1));
        store.commit(&commit(vec![mark(key.clone(), 5, 3)])).await.unwrap();
        let claimed = store.due(&name("a"), &name("hubspot"), None, at(5), 10).await.unwrap();
        store.commit(&commit(vec![mark(key.clone(), 2, 1)])).await.unwrap();
        let finish = |dirty: Dirty| Op::Finish { connection: name("hubspot"), dirty };
        store.commit(&commit(vec![finish(claimed[0].clone())])).await.unwrap();
        let again = store.due(&name("a"), &name("hubspot"), None, at(5), 10).await.unwrap();
        assert_eq!((again.len(), again[0].due_at, again[0].priority), (1, at(2), 1));
        store.commit(&commit(vec![finish(again[0].clone())])).await.unwrap();
        assert_eq!(store.next_due(&name("a"), &name("hubspot")).await.unwrap(), None);
    }

    pub async fn parents_and_urgent_marks_come_first(store: Store) {
        let contact = Op::Mark(Mark {
            connection: name("hubspot"),
            kind: Kind::Contact,
            key: Key::Local(record(9)),
            due_at: at(3),
            priority: 4,
        });
        store
            .commit(&commit(vec![mark(Key::Local(record(1)), 1, 3), mark(Key::Local(record(2)), 2, 0), contact]))
            .await
            .unwrap();
        let due = |limit| {
            let store = store.clone();
            async move { store.due(&name("a"), &name("hubspot"), None, at(9), limit).await.unwrap() }
        };
        let first = due(10).await;
        assert_eq!(first.iter().map(|d| d.kind).collect::<Vec<_>>(), vec![Kind::Contact]);
        store.commit(&commit(vec![Op::Finish { connection: name("hubspot"), dirty: first[0].clone() }])).await.unwrap();
        assert_eq!(due(1).await[0].key, Key::Local(record(2)), "urgent before early");
        assert_eq!(due(10).await.len(), 2);
    }

    pub async fn one_intent_is_open_per_record(store: Store) {
        store.commit(&commit(vec![Op::PutIntent(intent(1, 1))])).await.unwrap();
        assert!(matches!(
            store.commit(&commit(vec![Op::PutIntent(intent(2, 1))])).await,
            Err(StoreError::Taken { what: Taken::Intent })
        ));
        let mut sent = intent(1, 1);
        (sent.state, sent.sent_at) = (IntentState::Sent, Some(at(4)));
        store.commit(&commit(vec![Op::PutIntent(sent.clone())])).await.unwrap();
        assert_eq!(store.intents(&name("a"), &name("hubspot"), Kind::Deal, &[record(1)]).await.unwrap(), vec![sent]);
        store.commit(&commit(vec![Op::DropIntent(intent(1, 1).id)])).await.unwrap();
        store.commit(&commit(vec![Op::PutIntent(intent(2, 1))])).await.unwrap();
    }

    pub async fn a_fenced_engine_commits_nothing(store: Store) {
        let take = |owner: &'static str, now: i64| {
            let store = store.clone();
            async move { store.take_lease(7, &name("a"), &name("hubspot"), owner, at(now), at(now + 30)).await.unwrap() }
        };
        let old = take("one", 0).await.unwrap();
        let new = take("two", 31).await.unwrap();
        assert!(new > old);
        let by = |epoch| Commit {
            fence: Some(Fence { connection: name("hubspot"), epoch }),
            ..commit(vec![Op::PutCursor {
                connection: name("hubspot"),
                stream: "s".into(),
                cursor: Cursor(epoch.to_string()),
            }])
        };
        assert!(matches!(store.commit(&by(old)).await, Err(StoreError::Fenced)));
        store.commit(&by(new)).await.unwrap();
        assert_eq!(store.cursor(&name("a"), &name("hubspot"), "s").await.unwrap(), Some(Cursor(new.to_string())));
    }

    pub async fn a_connection_is_stored_over_the_version_it_was_changed_from(store: Store) {
        let new = ConnectionRow::new(name("a"), name("hubspot"), "hubspot");
        // An engine that took the lease has made the row, with nothing in it.
        store.take_lease(7, &name("a"), &name("hubspot"), "one", at(0), at(30)).await.unwrap();
        let put = |version, reason: &str| {
            let row = ConnectionRow { version, reason: Some(reason.into()), ..new.clone() };
            commit(vec![Op::PutConnection(row)])
        };
        store.commit(&put(1, "first")).await.unwrap();
        store.commit(&put(2, "second")).await.unwrap();
        let late = store.commit(&put(2, "also from the first")).await;
        assert!(matches!(late, Err(StoreError::Outdated(what)) if what == "connection hubspot"));
        let stored = store.connection(&name("a"), &name("hubspot")).await.unwrap().unwrap();
        assert_eq!((stored.version, stored.reason.as_deref()), (2, Some("second")));
    }

    pub async fn changes_of_a_connection_at_the_same_time_all_stay(store: Store) {
        let new = Arc::new(ConnectionRow::new(name("a"), name("hubspot"), "hubspot"));
        let changes = (0..10).map(|n| {
            let (store, new) = (store.clone(), new.clone());
            tokio::spawn(async move {
                change_connection(&*store, None, &new, |row| {
                    row.currencies.push(format!("{n}"));
                    true
                })
                .await
                .unwrap();
            })
        });
        for change in changes.collect::<Vec<_>>() {
            change.await.unwrap();
        }
        let mut stored = store.connection(&name("a"), &name("hubspot")).await.unwrap().unwrap().currencies;
        stored.sort();
        assert_eq!(stored, (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
    }

    pub async fn a_lease_is_taken_once_and_taken_over_when_it_ended(store: Store) {
        let take = |owner: &'static str, now: i64| {
            let store = store.clone();
            async move { store.take_lease(7, &name("a"), &name("hubspot"), owner, at(now), at(now + 30)).await.unwrap() }
        };
        let epoch = take("one", 0).await.unwrap();
        assert_eq!(take("two", 29).await, None);
        assert!(store.renew_lease(7, "one", epoch, at(60)).await.unwrap());
        assert_eq!(take("two", 40).await, None);
        assert!(take("two", 60).await.unwrap() > epoch);
        assert!(!store.renew_lease(7, "one", epoch, at(90)).await.unwrap());
    }

    pub async fn the_same_conflict_is_recorded_once(store: Store) {
        let conflict = |n: u128| Conflict {
            id: ConflictId(Uuid::from_u128(n)),
            connection: name("hubspot"),
            kind: Kind::Deal,
            record: record(1),
            row: "name".into(),
            fields: vec!["name".into()],
            base: vec![Value::text("a")],
            local: vec![Value::text("b")],
            remote: vec![Value::text("c")],
            winner: Winner::Remote,
            rule: "newest".into(),
            state: ConflictState::Decided,
            at: at(0),
        };
        store.commit(&commit(vec![Op::AddConflict(conflict(1))])).await.unwrap();
        store.commit(&commit(vec![Op::AddConflict(conflict(2))])).await.unwrap();
        assert_eq!(store.conflicts(&name("a"), false, 10).await.unwrap(), vec![conflict(1)]);
        // A question that comes up a second time is asked a second time.
        let asked = |n| Conflict { state: ConflictState::Open, winner: Winner::Nobody, ..conflict(n) };
        store.commit(&commit(vec![Op::AddConflict(asked(3)), Op::AddConflict(asked(4))])).await.unwrap();
        assert_eq!(store.conflicts(&name("a"), true, 10).await.unwrap(), vec![asked(4), asked(3)]);
        let decided = Conflict { state: ConflictState::Resolved, winner: Winner::Local, ..conflict(1) };
        store.commit(&commit(vec![Op::PutConflict(decided.clone())])).await.unwrap();
        assert_eq!(store.conflict(&name("a"), conflict(1).id).await.unwrap(), Some(decided));
    }

    pub async fn a_failure_is_counted_not_repeated(store: Store) {
        let failure = |n: u128, seconds| Failure {
            id: FailureId(Uuid::from_u128(n)),
            connection: name("hubspot"),
            kind: Kind::Deal,
            key: Key::Local(record(1)).to_string(),
            row: "name".into(),
            code: "rejected".into(),
            message: "the vendor refuses it".into(),
            first_at: at(seconds),
            last_at: at(seconds),
            attempts: 1,
        };
        store.commit(&commit(vec![Op::PutFailure(failure(1, 0))])).await.unwrap();
        store.commit(&commit(vec![Op::PutFailure(failure(2, 9))])).await.unwrap();
        let all = store.failures(&name("a"), 10).await.unwrap();
        assert_eq!(
            (all.len(), all[0].id, all[0].attempts, all[0].first_at, all[0].last_at),
            (1, failure(1, 0).id, 2, at(0), at(9))
        );
        let drop =
            Op::DropFailures { connection: name("hubspot"), kind: Kind::Deal, key: Key::Local(record(1)), row: None };
        store.commit(&commit(vec![drop])).await.unwrap();
        assert_eq!(store.failures(&name("a"), 10).await.unwrap(), vec![]);
    }

    pub async fn accounts_do_not_see_each_other(store: Store) {
        let contact = Contact { email: Some("Ada@Example.com ".into()), ..Contact::new(record(5), at(0)) };
        let ops = vec![
            put(deal(1, 1), 0, Some("c/p")),
            Op::PutRecord { record: LocalRecord::Contact(contact), expected: 0, slot: None },
            put_link(link(1, "77")),
            mark(Key::Local(record(1)), 0, 0),
        ];
        store.commit(&commit(ops.clone())).await.unwrap();
        store.commit(&Commit { account: name("b"), ..commit(ops) }).await.unwrap();
        let stranger = name("c");
        assert!(store.records(&stranger, Kind::Deal, &[record(1)]).await.unwrap().is_empty());
        assert!(
            store.links(&stranger, &name("hubspot"), Kind::Deal, By::Local(&[record(1)])).await.unwrap().is_empty()
        );
        assert!(store.due(&stranger, &name("hubspot"), None, at(9), 10).await.unwrap().is_empty());
        let emails = ["ada@example.com".to_owned()];
        assert!(store.contacts_by_email(&stranger, &emails).await.unwrap().is_empty());
        assert_eq!(store.contacts_by_email(&name("b"), &emails).await.unwrap(), vec![(emails[0].clone(), record(5))]);
    }
}

/// Random operations, one stream on two stores: every answer and every read must be the same.
async fn same_on_random_operations(other: Arc<dyn SyncStore>, streams: u64) {
    for seed in 0..streams {
        let memory: Arc<dyn SyncStore> = Arc::new(MemoryStore::new());
        let account = name(&format!("d{seed}"));
        let mut rng = StdRng::seed_from_u64(seed);
        let mut versions: BTreeMap<u128, i64> = BTreeMap::new();
        for _ in 0..40 {
            let ops: Vec<Op> = (0..rng.random_range(1..4)).map(|_| random_op(&mut rng, &versions)).collect();
            // No commit stores one record twice: the two stores may put equal operations together.
            let mut stored = std::collections::BTreeSet::new();
            let ops: Vec<Op> = ops
                .into_iter()
                .filter(|op| match op {
                    Op::PutRecord { record, .. } => stored.insert(record.id()),
                    _ => true,
                })
                .collect();
            let commit = Commit { account: account.clone(), fence: None, ops: ops.clone() };
            let (a, b) = (memory.commit(&commit).await, other.commit(&commit).await);
            assert_eq!(a.is_ok(), b.is_ok(), "seed {seed}: {ops:?}\n memory: {a:?}\n other: {b:?}");
            if a.is_ok() {
                for op in &ops {
                    if let Op::PutRecord { record, .. } = op {
                        versions.insert(record.id().0.as_u128() - 1, record.version());
                    }
                }
            }
            let ids: Vec<RecordId> = (0..4).map(record).collect();
            let sorted = |mut all: Vec<LocalRecord>| {
                all.sort_by_key(LocalRecord::id);
                all
            };
            let read = |store: Arc<dyn SyncStore>| {
                let (account, ids) = (account.clone(), ids.clone());
                async move {
                    let hubspot = name("hubspot");
                    let records = sorted(store.records(&account, Kind::Deal, &ids).await.unwrap());
                    let links = store.link_page(&account, &hubspot, Kind::Deal, None, 99).await.unwrap();
                    let unlinked = store.unlinked_page(&account, &hubspot, Kind::Deal, None, 99).await.unwrap();
                    let after = unlinked.first().copied();
                    let rest = store.unlinked_page(&account, &hubspot, Kind::Deal, after, 99).await.unwrap();
                    assert_eq!(rest, unlinked.get(1..).unwrap_or_default());
                    let due = store.due(&account, &hubspot, None, at(99), 99).await.unwrap();
                    let due: Vec<_> = due.into_iter().map(|d| (d.key, d.due_at, d.priority)).collect();
                    let intents = store.open_intents(&account, &hubspot).await.unwrap();
                    (records, links, unlinked, due, intents)
                }
            };
            assert_eq!(read(memory.clone()).await, read(other.clone()).await, "seed {seed}: {ops:?}");
        }
    }
}

fn random_op(rng: &mut StdRng, versions: &BTreeMap<u128, i64>) -> Op {
    let n = rng.random_range(0..4_u128);
    let slots = [None, Some("x"), Some("y")];
    match rng.random_range(0..9) {
        0 | 1 => {
            let known = versions.get(&n).copied().unwrap_or(0);
            let expected = if rng.random_bool(0.85) { known } else { known + 1 };
            put(deal(n, expected + 1), expected, slots[rng.random_range(0..3)])
        }
        2 => put_link(link(n, &rng.random_range(1..6).to_string())),
        3 => Op::RemoveLink { connection: name("hubspot"), kind: Kind::Deal, local: record(n) },
        4 => mark(Key::Local(record(n)), rng.random_range(0..9), rng.random_range(0..4)),
        7 => Op::UpdateLink(Link { rulings: rng.random_range(0..2), ..link(n, &rng.random_range(1..6).to_string()) }),
        8 => Op::RuleOnLink {
            connection: name("hubspot"),
            kind: Kind::Deal,
            local: record(n),
            ruling: Ruling::Guarded(Verdict::Approve),
        },
        5 => Op::PutIntent(intent(rng.random_range(0..2) * 10 + n, n)),
        _ => Op::DropIntent(IntentId(Uuid::from_u128(900 + rng.random_range(0..2_u128) * 10 + n))),
    }
}

#[tokio::test]
async fn memory_and_sqlite_are_one_store() {
    let (_folder, store) = sqlite().await;
    same_on_random_operations(store, 40).await;
}

#[tokio::test]
async fn memory_and_postgresql_are_one_store() {
    if let Some(store) = on_postgres("differential").await {
        same_on_random_operations(store, 40).await;
    }
}
