//! Runs the real program: a sandbox, a daemon, commands, each in a throw-away folder.

use std::{
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value as Json;

pub const TOKEN: &str = "pat-na1-sandbox";
pub const SECRET: &str = "11111111-2222-4333-8444-555555555555";

/// A child that is killed with its test.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A folder with a configuration, a sandbox beside it, and a port for the daemon.
pub struct Place {
    pub folder: tempfile::TempDir,
    pub sandbox: String,
    pub credentials: Json,
    /// What each vendor's simulator said of itself.
    pub vendors: Vec<Json>,
    pub port: u16,
    key: String,
    url: String,
    _sandbox: Running,
}

/// What a look at another process shows.
pub enum Progress {
    /// What was waited for.
    Done,
    /// Something else than at the last look.
    Moving,
    /// The same as at the last look.
    Still,
}

/// The program, with nothing of this process's environment.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tandem"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// One request; `None` if nobody answers.
pub fn curl(method: &str, url: &str, more: &[&str]) -> Option<(u16, String)> {
    let mut command = Command::new("curl");
    command.args(["-s", "-m", "10", "-X", method, "-w", "\n%{http_code}"]).args(more).arg(url);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n')?;
    let status: u16 = status.trim().parse().ok()?;
    (status > 0).then(|| (status, body.to_owned()))
}

impl Place {
    pub fn new(contacts: u32, deals: u32, url: &str) -> Self {
        let port = free_port();
        let hook = format!("http://127.0.0.1:{port}/webhooks/hubspot");
        let mut sandbox = program()
            .args(["sandbox", "--contacts", &contacts.to_string(), "--deals", &deals.to_string(), "--webhooks", &hook])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(sandbox.stdout.as_mut().unwrap()).lines().take(4);
        let vendors: Vec<Json> = lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect();
        let started = vendors[0].clone();
        let key = String::from_utf8(program().args(["keys", "new"]).output().unwrap().stdout).unwrap();
        let place = Self {
            folder: tempfile::tempdir().unwrap(),
            sandbox: started["base_url"].as_str().unwrap().to_owned(),
            credentials: started["credentials"].clone(),
            vendors,
            port,
            key: key.trim().to_owned(),
            url: url.to_owned(),
            _sandbox: Running(sandbox),
        };
        place.configure("");
        place
    }

    /// Writes the configuration; `more` goes into the connection's table.
    pub fn configure(&self, more: &str) {
        let text = format!(
            r#"
[database]
url = "{}"
[http]
listen = "127.0.0.1:{}"
public_url = "http://127.0.0.1:{}"
[auth]
bootstrap_token = "env:BOOTSTRAP_TOKEN"
[security]
master_key = "env:MASTER_KEY"
[engine]
lease_seconds = 2
[accounts.glow_clinic]
timezone = "America/Phoenix"
currency = "USD"
[connections.hubspot]
account = "glow_clinic"
connector = "hubspot"
base_url = "{}"
credentials = {{ access_token = "env:HUBSPOT_TOKEN", client_secret = "env:HUBSPOT_SECRET" }}
rate_limit = {{ requests = 190, per_seconds = 10 }}
daily_budget = 625000
request_timeout_seconds = 3
{more}
"#,
            self.url, self.port, self.port, self.sandbox
        );
        std::fs::write(self.config(), text).unwrap();
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("tandem.toml")
    }

    pub fn command(&self) -> Command {
        let mut command = program();
        command
            .arg("--config")
            .arg(self.config())
            .env("MASTER_KEY", &self.key)
            .env("BOOTSTRAP_TOKEN", "boot")
            .env("HUBSPOT_TOKEN", TOKEN)
            .env("HUBSPOT_SECRET", SECRET);
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    pub fn run_ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {out}{err}");
        out.into_owned()
    }

    /// Starts the daemon and waits until it answers.
    pub fn serve(&self) -> Running {
        self.serve_telling("info")
    }

    /// The same, with a log that tells this much.
    pub fn serve_telling(&self, level: &str) -> Running {
        let mut child = self.command().env("RUST_LOG", level).arg("serve").stderr(Stdio::piped()).spawn().unwrap();
        // A full pipe would stop the daemon.
        let (mut said, path) = (child.stderr.take().unwrap(), self.folder.path().join("log"));
        let mut log = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        std::thread::spawn(move || std::io::copy(&mut said, &mut log));
        let daemon = Running(child);
        self.until("the daemon answers", || self.get("/readyz").is_some());
        daemon
    }

    /// Waits for an event of another process; there is no virtual time across processes.
    pub fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        self.until_still(what, || if holds() { Progress::Done } else { Progress::Still });
    }

    /// Waits as long as something moves, and three minutes more: the outcome of a write that was under way is open for as long
    /// as a push may take and land late, which is 148 s here.
    pub fn until_still(&self, what: &str, mut look: impl FnMut() -> Progress) {
        const PATIENCE: Duration = Duration::from_secs(180);
        let mut deadline = Instant::now() + PATIENCE;
        loop {
            match look() {
                Progress::Done => return,
                Progress::Moving => deadline = Instant::now() + PATIENCE,
                Progress::Still => {}
            }
            if Instant::now() > deadline {
                let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(12).collect();
                let shown = ["connections", "failures"].map(|list| self.get(&format!("/api/v1/{list}")));
                panic!("gave up waiting until {what}; {shown:?}; the daemon said last\n{}", last.join("\n"));
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    pub fn request(&self, method: &str, url: &str, token: &str, more: &[&str]) -> Option<(u16, String)> {
        let bearer = format!("Authorization: Bearer {token}");
        curl(method, url, &[&["-H", &bearer], more].concat())
    }

    /// The same in JSON both ways; an answer that is none comes as text.
    fn ask_at(&self, method: &str, url: &str, token: &str, body: &Json) -> (u16, Json) {
        let text = body.to_string();
        let more = ["-H", "content-type: application/json", "-d", text.as_str()];
        let more: &[&str] = if body.is_null() { &[] } else { &more };
        let (status, said) = self.request(method, url, token, more).unwrap();
        (status, serde_json::from_str(&said).unwrap_or(Json::String(said)))
    }

    /// Asks the daemon's API.
    pub fn ask(&self, method: &str, path: &str, body: &Json) -> (u16, Json) {
        self.ask_at(method, &format!("http://127.0.0.1:{}{path}", self.port), "boot", body)
    }

    /// What a vendor's simulator said of itself.
    pub fn started(&self, vendor: &str) -> &Json {
        self.vendors.iter().find(|started| started["vendor"] == vendor).unwrap()
    }

    /// Asks a vendor by its own API, as another program of the same business does.
    pub fn there(&self, vendor: &str, method: &str, path: &str, body: &Json) -> (u16, Json) {
        let started = self.started(vendor);
        let (base, token) = (&started["base_url"], &started["credentials"]["access_token"]);
        self.ask_at(method, &format!("{}{path}", base.as_str().unwrap()), token.as_str().unwrap(), body)
    }

    /// Changes how a vendor's simulator behaves.
    pub fn set(&self, vendor: &str, settings: &Json) {
        let control = self.started(vendor)["control_url"].as_str().unwrap();
        let (status, said) = self.ask_at("POST", &format!("{control}/__settings"), "", settings);
        assert_eq!(status, 200, "{said}");
    }

    pub fn api(&self, method: &str, path: &str, more: &[&str]) -> Option<(u16, String)> {
        self.request(method, &format!("http://127.0.0.1:{}{path}", self.port), "boot", more)
    }

    /// A request that says who it is by `more` alone.
    pub fn knock(&self, path: &str, more: &[&str]) -> Option<(u16, String)> {
        curl("POST", &format!("http://127.0.0.1:{}{path}", self.port), more)
    }

    pub fn get(&self, path: &str) -> Option<String> {
        self.api("GET", path, &[]).filter(|(status, _)| *status == 200).map(|(_, body)| body)
    }

    pub fn vendor(&self, method: &str, path: &str, body: &str) -> Json {
        let more = ["-H", "content-type: application/json", "-d", body];
        let more: &[&str] = if body.is_empty() { &[] } else { &more };
        let (_, text) = self.request(method, &format!("{}{path}", self.sandbox), TOKEN, more).unwrap();
        serde_json::from_str(&text).unwrap_or_default()
    }

    pub fn export(&self) -> Vec<Json> {
        self.run_ok(&["export", "opportunities"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A PostgreSQL of its own, for the tests of one run: started once, thrown away with the process.
pub fn postgres(name: &str) -> Option<String> {
    let base = match std::env::var("TEST_POSTGRES") {
        Ok(base) => base,
        Err(_) if std::env::var_os("CI").is_some() => {
            panic!("TEST_POSTGRES is not set: `make test` starts a PostgreSQL and sets it")
        }
        Err(_) => {
            eprintln!("SKIPPED on PostgreSQL: TEST_POSTGRES is not set; `make test` starts one");
            return None;
        }
    };
    let psql = |sql: &str| {
        let mut child = Command::new("psql")
            .args(["-q", &format!("{base}/postgres"), "-c", sql])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut text = String::new();
        child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(child.wait().unwrap().success(), "{sql}: {text}");
    };
    let database = format!("t_{name}_{}", std::process::id());
    psql(&format!("DROP DATABASE IF EXISTS {database}"));
    psql(&format!("CREATE DATABASE {database} TEMPLATE template0 LOCALE 'C.UTF-8'"));
    Some(format!("{base}/{database}"))
}
