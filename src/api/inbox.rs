//! Webhooks in: verify on the raw bytes, make the named records dirty durably, answer 2xx. Nothing else on that path.
//!
//! Deliveries that arrive together are stored together: one disk flush serves them all, and none is answered before it.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode, Uri},
};
use tandem_contract::{WebhookError, WebhookRequest};
use tokio::sync::{mpsc, oneshot};

use super::{Door, problem::Problem};
use crate::{
    model::Name,
    store::{Commit, Op, StoreError, SyncStore, sql::SqlStore},
    sync::{connection::is_own_address, intake::marks_of},
};

/// Deliveries stored in one go.
const GROUP: usize = 256;

type Answer = oneshot::Sender<Result<(), String>>;
type Waiting = (Commit, Answer);

/// The one writer of webhooks.
pub struct Inbox(mpsc::Sender<Waiting>);

impl Inbox {
    /// Starts the writer; it ends when the inbox is dropped.
    #[must_use]
    pub fn start(store: Arc<SqlStore>) -> Self {
        let (sender, mut arrived) = mpsc::channel::<Waiting>(4_096);
        tokio::spawn(async move {
            let mut group = Vec::with_capacity(GROUP);
            while arrived.recv_many(&mut group, GROUP).await > 0 {
                let mut accounts: BTreeMap<Name, (Vec<Op>, Vec<Answer>)> = BTreeMap::new();
                for (commit, waiting) in group.drain(..) {
                    let (ops, answers) = accounts.entry(commit.account).or_default();
                    ops.extend(commit.ops);
                    answers.push(waiting);
                }
                store_groups(&store, accounts).await;
            }
        });
        Self(sender)
    }

    /// Waits until a commit is durable.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the delivery must not be answered with 2xx.
    pub async fn store(&self, commit: Commit) -> Result<(), StoreError> {
        let (done, answer) = oneshot::channel();
        let gone = || StoreError::Unavailable("the inbox is closed".into());
        self.0.send((commit, done)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?.map_err(StoreError::Unavailable)
    }
}

/// On SQLite one flush serves all accounts. Elsewhere a transaction stays in one account, so that none waits for, or
/// fails with, another.
async fn store_groups(store: &SqlStore, accounts: BTreeMap<Name, (Vec<Op>, Vec<Answer>)>) {
    let (mut commits, mut waiting) = (Vec::new(), Vec::new());
    for (account, (ops, answers)) in accounts {
        commits.push(Commit { account, fence: None, ops });
        waiting.push(answers);
    }
    let groups = if store.is_sqlite() {
        vec![(commits, waiting.into_iter().flatten().collect())]
    } else {
        commits.into_iter().map(|commit| vec![commit]).zip(waiting).collect::<Vec<_>>()
    };
    for (commits, answers) in groups {
        let stored = store.commit_all(&commits).await.map_err(|error| error.to_string());
        for one in answers {
            // A caller that hung up will send it again.
            let _ = one.send(stored.clone());
        }
    }
}

/// Takes a vendor's webhook. 401 for a bad signature, 413 for a body that is too large, 503 if it could not be stored.
#[utoipa::path(post, path = "/webhooks/{connection}", params(("connection" = String, Path)), request_body = String, responses((status = 200), (status = 401), (status = 413), (status = 503)))]
pub async fn receive(
    State(door): State<Door>,
    Path(name): Path<String>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, Problem> {
    take(&door, &name, None, &method, &uri, &headers, &body).await
}

/// The same, where a vendor signs nothing: the address ends in a part that nobody guesses. 401 for another.
#[utoipa::path(post, path = "/webhooks/{connection}/{segment}", params(("connection" = String, Path), ("segment" = String, Path)), request_body = String, responses((status = 200), (status = 401)))]
pub async fn receive_at_segment(
    State(door): State<Door>,
    Path(parts): Path<(String, String)>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, Problem> {
    take(&door, &parts.0, Some(&parts.1), &method, &uri, &headers, &body).await
}

/// The same, where a server puts the record itself below the address, as FHIR's rest-hooks do.
#[utoipa::path(method(put, post), path = "/webhooks/{connection}/{kind}/{id}", params(("connection" = String, Path), ("kind" = String, Path), ("id" = String, Path)), request_body = String, responses((status = 200), (status = 401)))]
pub async fn receive_below(
    State(door): State<Door>,
    Path(parts): Path<(String, String, String)>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, Problem> {
    take(&door, &parts.0, None, &method, &uri, &headers, &body).await
}

async fn take(
    door: &Door,
    name: &str,
    segment: Option<&str>,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<StatusCode, Problem> {
    let installation = &door.0.installation;
    let name: Name = name.parse().map_err(|_| Problem::not_found("connection"))?;
    let connection = installation.connections.get(&name).ok_or_else(|| Problem::not_found("connection"))?;
    if !is_own_address(connection.hook_segment.as_deref(), segment) {
        tracing::warn!(connection.name = %name, "a webhook is refused: it came to another address than the connection's own");
        let text = "this is not the connection's whole address: `tandem connection list` prints it";
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "webhook_refused", text));
    }
    // Behind a proxy the address the vendor signed is the public one.
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = headers.get("host").and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let address = match &door.0.public_url {
        Some(public) => format!("{}{path}", public.trim_end_matches('/')),
        None => format!("http://{host}{path}"),
    };
    let now = installation.clock.now();
    let asked = WebhookRequest { method: method.as_str(), uri: &address, headers, body, received_at: now };
    let hints = connection.connector.hints(&asked).map_err(|error| {
        tracing::warn!(connection.name = %name, %error, "a webhook is refused");
        let status = if matches!(error, WebhookError::Malformed { .. }) {
            StatusCode::BAD_REQUEST
        } else {
            StatusCode::UNAUTHORIZED
        };
        Problem::new(status, "webhook_refused", error.to_string())
    })?;
    let account = &connection.account.name;
    let event = connection.connector.event(&asked);
    if let Some(event) = &event
        && installation.store.has_event(account, &name, event).await?
    {
        return Ok(StatusCode::OK);
    }
    let ours = installation.remote_account(connection).await?;
    let mut ops = marks_of(&name, hints, ours.as_deref(), now);
    metrics::counter!("tandem_webhook_events_total", "connection" => name.to_string()).increment(ops.len() as u64);
    if !ops.is_empty() {
        ops.extend(event.map(|event| Op::KeepEvent { connection: name.clone(), event, taken_at: now }));
        door.0.inbox.store(Commit { account: account.clone(), fence: None, ops }).await?;
        door.ring(std::slice::from_ref(&name));
    }
    Ok(StatusCode::OK)
}
