//! `kill -9` of the real daemon, and of its database server, under load: nothing is lost, nothing is made twice (promises
//! 2, 3, 5).

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use crate::process::{Place, Progress, Running, postgres};

/// Kills of one run; `KILLS` asks for more.
fn kills() -> u32 {
    std::env::var("KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(25)
}

/// What is killed.
enum Victim {
    Daemon,
    Server(PostgresServer),
}

/// A PostgreSQL of this test alone, which it may kill.
struct PostgresServer {
    keeper: Child,
    address: String,
    folder: String,
    bin: String,
}

impl PostgresServer {
    /// `None` where there is no PostgreSQL to be had.
    fn start() -> Option<Self> {
        std::env::var_os("TEST_POSTGRES")?;
        let mut keeper = Command::new("tests/with-postgres")
            .args(["sh", "-c", r#"echo "$TEST_POSTGRES $TEST_POSTGRES_FOLDER $TEST_POSTGRES_BIN"; cat >/dev/null"#])
            .env("SYNCHRONOUS_COMMIT", "on")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(keeper.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let [address, folder, bin] = words.try_into().unwrap();
        Some(Self { keeper, address, folder, bin })
    }

    /// SIGKILL for the server and all that serve for it, which the daemon's connections end in.
    fn kill(&self) {
        let postmaster = std::fs::read_to_string(format!("{}/postmaster.pid", self.folder)).unwrap();
        let postmaster = postmaster.lines().next().unwrap().trim().to_owned();
        let children = Command::new("pgrep").args(["-P", &postmaster]).output().unwrap().stdout;
        let children = String::from_utf8(children).unwrap();
        let all: Vec<&str> = std::iter::once(postmaster.as_str()).chain(children.split_whitespace()).collect();
        // One that has gone by itself meanwhile is no error.
        Command::new("kill").arg("-9").args(all).stderr(Stdio::null()).status().unwrap();
    }

    /// Starts it again on what the dead one left.
    fn restart(&self) {
        let (folder, bin) = (&self.folder, &self.bin);
        let control = format!("{bin}/pg_ctl -D {folder} -w -l {folder}/../log restart >/dev/null 2>&1");
        let as_root = Command::new("id").arg("-u").output().unwrap().stdout.starts_with(b"0");
        let mut command = Command::new(if as_root { "runuser" } else { "sh" });
        command.args(if as_root { &["-u", "postgres", "--", "sh", "-c"][..] } else { &["-c"] });
        // What was killed may hold its port for a moment longer.
        let restarted = (0..10).any(|_| command.arg(&control).current_dir("/").status().unwrap().success());
        assert!(restarted, "PostgreSQL starts again");
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

fn killed_under_load(url: &str, victim: &Victim) {
    let place = Place::new(40, 60, url);
    // The vendor is slow at times, so that a kill finds calls under way.
    place.vendor(
        "POST",
        "/__faults",
        r#"{"slow": 0.3, "latency_ms": 120, "lost_answer": 0.02, "unavailable_after": 0.05}"#,
    );
    // This test looks at everything again and again, which is not to use up the daemon's budget.
    place.vendor("POST", "/__settings", r#"{"burst": 100000}"#);
    let mut acknowledged: BTreeMap<String, String> = BTreeMap::new();
    let rounds = if matches!(victim, Victim::Daemon) { kills() } else { kills().div_ceil(5) };
    let mut daemon: Option<Running> = None;
    for round in 0..rounds {
        let running = daemon.take().unwrap_or_else(|| place.serve());
        for n in 0..6 {
            let name = format!("made here {round}-{n}");
            let body = format!(r#"{{"name": "{name}"}}"#);
            let answer =
                place.api("POST", "/api/v1/opportunities", &["-H", "content-type: application/json", "-d", &body]);
            if let Some((201, text)) = answer {
                let made: serde_json::Value = serde_json::from_str(&text).unwrap();
                acknowledged.insert(made["id"].as_str().unwrap().to_owned(), name);
            }
            // Edits of earlier ones keep updates under way as well.
            if let Some((id, name)) = acknowledged.iter_mut().nth(n)
                && let Some(text) = place.get(&format!("/api/v1/opportunities/{id}"))
            {
                let seen: serde_json::Value = serde_json::from_str(&text).unwrap();
                let next = format!("{} again {round}", seen["name"].as_str().unwrap());
                let tag = format!("If-Match: \"{}\"", seen["version"]);
                let body = format!(r#"{{"name": "{next}"}}"#);
                let path = format!("/api/v1/opportunities/{id}");
                let answer =
                    place.api("PATCH", &path, &["-H", &tag, "-H", "content-type: application/json", "-d", &body]);
                if answer.is_some_and(|(status, _)| status == 200) {
                    *name = next;
                }
            }
        }
        match victim {
            // Dropping is SIGKILL: no handler runs, no lease is given back.
            Victim::Daemon => drop(running),
            Victim::Server(server) => {
                server.kill();
                let body = r#"{"name": "nobody can keep this now"}"#;
                let json = ["-H", "content-type: application/json", "-d", body];
                let answer = place.api("POST", "/api/v1/opportunities", &json);
                assert!(answer.is_some_and(|(status, _)| status >= 500), "what is not durable is not acknowledged");
                server.restart();
                place.until("the daemon finds its database again", || place.get("/readyz").is_some());
                daemon = Some(running);
            }
        }
    }
    place.vendor("POST", "/__faults", "{}");
    let daemon = daemon.unwrap_or_else(|| place.serve());
    // What stands still for so long is not going on; how long all of it takes depends on how many kills there were.
    let mut before = 0;
    place.until_still("everything is written and read back", || {
        let here = synced_here(&place);
        if here != before {
            before = here;
            return Progress::Moving;
        }
        let waiting = place.get("/api/v1/connections").unwrap_or_default();
        let done = here == deals_there(&place).len() && waiting.contains("\"backlog\":0");
        if done { Progress::Done } else { Progress::Still }
    });
    drop(daemon);
    let ours = place.export();
    for (id, name) in &acknowledged {
        let found = ours.iter().find(|deal| deal["id"] == id.as_str());
        let found = found.unwrap_or_else(|| panic!("{id} was acknowledged and is lost"));
        assert_eq!(found["name"], name.as_str(), "an acknowledged edit is lost");
        assert_eq!(found["external_ids"].as_array().unwrap().len(), 1, "{name} has its one record at the vendor");
    }
    // Everything at the vendor is one of ours, and nothing is there twice.
    let there = deals_there(&place);
    assert_eq!(there.len(), ours.len(), "as many deals there as here");
    let mut markers: BTreeMap<&str, u32> = BTreeMap::new();
    for marker in there.iter().filter_map(|deal| deal["properties"]["tandem_id"].as_str()) {
        *markers.entry(marker).or_default() += 1;
    }
    assert!(markers.values().all(|count| *count == 1), "a deal was made twice");
    assert!(markers.len() >= acknowledged.len());
}

/// How many opportunities are in step, page by page.
fn synced_here(place: &Place) -> usize {
    let (mut count, mut cursor) = (0, String::new());
    loop {
        let text = place.get(&format!("/api/v1/opportunities?limit=500{cursor}")).unwrap_or_default();
        count += text.matches("\"sync_state\":\"synced\"").count();
        let page: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return count,
        }
    }
}

/// Every deal at the vendor, page by page.
fn deals_there(place: &Place) -> Vec<serde_json::Value> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let page =
            place.vendor("GET", &format!("/crm/objects/2026-09/deals?limit=100&properties=tandem_id{after}"), "");
        all.extend(page["results"].as_array().unwrap().iter().cloned());
        match page["paging"]["next"]["after"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return all,
        }
    }
}

#[test]
fn kill_9_under_load_loses_nothing_and_doubles_nothing_on_sqlite() {
    killed_under_load("sqlite://tandem.db", &Victim::Daemon);
}

#[test]
fn kill_9_under_load_loses_nothing_and_doubles_nothing_on_postgresql() {
    if let Some(url) = postgres("kills") {
        killed_under_load(&url, &Victim::Daemon);
    }
}

#[test]
fn kill_9_of_the_database_server_loses_nothing_and_doubles_nothing() {
    let Some(server) = PostgresServer::start() else {
        return eprintln!("SKIPPED: TEST_POSTGRES is not set; `make test` starts one");
    };
    let create = "CREATE DATABASE t_server TEMPLATE template0 LOCALE 'C.UTF-8'";
    let made = Command::new("psql").args(["-q", &format!("{}/postgres", server.address), "-c", create]).status();
    assert!(made.unwrap().success());
    let url = format!("{}/t_server", server.address);
    killed_under_load(&url, &Victim::Server(server));
}

/// How often a route was asked, by the vendor's own count.
fn asked(place: &Place, route: &str) -> u64 {
    place.vendor("GET", "/__stats", "")["by_route"][route].as_u64().unwrap_or(0)
}

#[test]
fn a_backfill_goes_on_where_a_kill_left_it() {
    let place = Place::new(200, 6_000, "sqlite://tandem.db");
    let mut first = place.command().args(["sync", "--once"]).stdout(std::process::Stdio::null()).spawn().unwrap();
    place.until("a third of the deals is read", || asked(&place, "GET objects/deals") >= 20);
    first.kill().unwrap();
    first.wait().unwrap();
    let so_far = asked(&place, "GET objects/deals");
    assert!(so_far < 60, "the kill came in the middle");
    place.run_ok(&["sync", "--once"]);
    // 60 pages, one of them read twice, and those that were read ahead of it, ten at most; a look at each start whether deals
    // may be read; the recycle bin.
    let all = asked(&place, "GET objects/deals");
    assert!(all <= 60 + 1 + 10 + 2 + 1, "{all} pages were asked for");
    assert_eq!(place.export().len(), 6_000);
}
