//! What statements cost, counted in the steps of SQLite's own machine: by the rows they name, not by those of the table.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use chrono::{DateTime, TimeDelta, Utc};
use tandem_contract::{ExternalId, Kind, Value};
use uuid::Uuid;

use super::{
    By, Commit, Op, SyncStore,
    seal::Sealer,
    sql::{Pools, SqlStore},
};
use crate::model::{
    ConnectionRow, Contact, HistoryEntry, Key, Link, LocalRecord, Mark, Name, Opportunity, RecordId, ids::RunId,
};

/// Rows that each statement names.
const NAMED: u128 = 100;

/// Those that have tables.
const KINDS: [Kind; 2] = [Kind::Contact, Kind::Deal];
/// Counts every 16 steps of SQLite's virtual machine.
const GRAIN: i32 = 16;

struct Counted {
    store: SqlStore,
    steps: Arc<AtomicU64>,
    _folder: tempfile::TempDir,
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn start() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_000_000, 0).unwrap()
}

/// Contacts and opportunities have the same ids here: they are in different tables.
fn id(n: u128) -> RecordId {
    RecordId(Uuid::from_u128(n + 1))
}

fn external(n: u128) -> ExternalId {
    ExternalId::new(format!("{}", 70_000 + n)).unwrap()
}

fn email(n: u128) -> String {
    format!("person{n}@example.com")
}

fn records(n: u128, version: i64) -> [Op; 2] {
    let contact = Contact { version, email: Some(email(n)), ..Contact::new(id(n), start()) };
    let deal = Opportunity { version, contact: Some(id(n)), ..Opportunity::new(id(n), start()) };
    [LocalRecord::Contact(contact), LocalRecord::Deal(deal)].map(|record| Op::PutRecord {
        record,
        expected: version - 1,
        slot: None,
    })
}

fn link(kind: Kind, n: u128) -> Link {
    Link::new(name("hubspot"), kind, id(n), external(n))
}

fn mark(kind: Kind, n: u128) -> Op {
    let due_at = start() + TimeDelta::seconds(i64::try_from(n).unwrap());
    Op::Mark(Mark { connection: name("hubspot"), kind, key: Key::Local(id(n)), due_at, priority: 5 })
}

impl Counted {
    /// A store of this many contacts, opportunities, links and marks of each kind.
    async fn of(size: u128) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("t.db").display());
        let store = SqlStore::open(&url, Sealer::new(&Sealer::new_key()).unwrap()).await.unwrap();
        let mut ops = vec![Op::PutConnection(ConnectionRow {
            version: 1,
            ..ConnectionRow::new(name("a"), name("hubspot"), "hubspot")
        })];
        for n in 0..size {
            ops.extend(records(n, 1));
            for kind in KINDS {
                ops.push(Op::PutLink { link: link(kind, n), system: "hubspot".into(), remote_account: "4242".into() });
                ops.push(mark(kind, n));
            }
        }
        let counted = Self { store, steps: Arc::default(), _folder: folder };
        counted.commit(ops).await;
        let Pools::Sqlite { read, write } = &counted.store.pools else { panic!("SQLite was asked for") };
        for pool in [read, write] {
            let mut connections = Vec::new();
            for _ in 0..pool.options().get_max_connections() {
                let mut connection = pool.acquire().await.unwrap();
                let steps = counted.steps.clone();
                connection.lock_handle().await.unwrap().set_progress_handler(GRAIN, move || {
                    steps.fetch_add(1, Ordering::Relaxed);
                    true
                });
                connections.push(connection);
            }
        }
        counted
    }

    async fn commit(&self, ops: Vec<Op>) {
        self.store.commit(&Commit { account: name("a"), fence: None, ops }).await.unwrap();
    }

    /// What each door of the store costs for [`NAMED`] of its rows, spread over all.
    async fn costs(&self, size: u128) -> Vec<(&'static str, u64)> {
        let named: Vec<u128> = (0..size).step_by(usize::try_from(size / NAMED).unwrap()).collect();
        let ids: Vec<RecordId> = named.iter().map(|n| id(*n)).collect();
        let externals: Vec<ExternalId> = named.iter().map(|n| external(*n)).collect();
        let emails: Vec<String> = named.iter().map(|n| email(*n)).collect();
        let (a, hubspot) = (name("a"), name("hubspot"));
        let mut costs = Vec::new();
        macro_rules! cost {
            ($what:literal, $rows:expr, $work:expr) => {
                let before = self.steps.load(Ordering::Relaxed);
                let found = $work;
                assert_eq!(found, $rows, "{}", $what);
                costs.push(($what, self.steps.load(Ordering::Relaxed) - before));
            };
        }
        let rows = named.len();
        for kind in KINDS {
            cost!("links by our ids", rows, self.store.links(&a, &hubspot, kind, By::Local(&ids)).await.unwrap().len());
            cost!(
                "links by the vendor's ids",
                rows,
                self.store.links(&a, &hubspot, kind, By::External(&externals)).await.unwrap().len()
            );
            cost!("records", rows, self.store.records(&a, kind, &ids).await.unwrap().len());
            cost!("intents", 0, self.store.intents(&a, &hubspot, kind, &ids).await.unwrap().len());
            cost!("aliases", 0, self.store.aliases(&a, &hubspot, kind, &externals).await.unwrap().len());
            cost!(
                "a page of links",
                50,
                self.store.link_page(&a, &hubspot, kind, Some(id(7)), 50).await.unwrap().len()
            );
        }
        cost!("contacts by e-mail", rows, self.store.contacts_by_email(&a, &emails).await.unwrap().len());
        cost!("opportunities of contacts", rows, self.store.opportunities_of(&a, &ids).await.unwrap().len());
        cost!("opportunities that wait for a place", 0, self.store.quarantined(&a, true, 50).await.unwrap().len());
        cost!("links of a record", rows, self.store.links_of(&a, Kind::Deal, &ids).await.unwrap().len());
        cost!("opportunities counted", rows, self.store.opportunity_counts(&a, &ids).await.unwrap().len());
        let until = start() + TimeDelta::seconds(40);
        let due = self.store.due(&a, &hubspot, None, until, 20).await.unwrap();
        cost!("marks that are due", 20, self.store.due(&a, &hubspot, None, until, 20).await.unwrap().len());
        cost!("the next mark", true, self.store.next_due(&a, &hubspot).await.unwrap().is_some());
        let finish = due.into_iter().map(|dirty| Op::Finish { connection: hubspot.clone(), dirty });
        cost!("finishing marks", (), self.commit(finish.collect()).await);
        let marks = named.iter().map(|n| mark(Kind::Deal, *n));
        cost!("marking", (), self.commit(marks.collect()).await);
        cost!("storing records", (), self.commit(named.iter().flat_map(|n| records(*n, 2)).collect()).await);
        let links = named.iter().map(|n| Op::UpdateLink(link(Kind::Deal, *n)));
        cost!("storing links", (), self.commit(links.collect()).await);
        let history = ids.iter().map(|record| {
            Op::AddHistory(HistoryEntry {
                kind: Kind::Deal,
                record: *record,
                at: start(),
                field: "name".into(),
                old: Value::Null,
                new: Value::Null,
                by: "a person".into(),
                run: RunId(Uuid::nil()),
            })
        });
        cost!("storing history", (), self.commit(history.collect()).await);
        costs
    }
}

#[tokio::test]
async fn a_statement_costs_by_the_rows_it_names_and_not_by_the_tables() {
    const SMALL: u128 = 300;
    const LARGE: u128 = 6_000;
    let small = Counted::of(SMALL).await.costs(SMALL).await;
    let large = Counted::of(LARGE).await.costs(LARGE).await;
    for ((what, few), (_, many)) in small.into_iter().zip(large) {
        // A new connection's first statements also read the schema.
        assert!(
            many <= few + few / 10 + 50,
            "{what}: {few} among {SMALL}, {many} among {LARGE}, in grains of {GRAIN} steps"
        );
    }
}
