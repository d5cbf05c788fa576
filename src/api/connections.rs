//! The operator's desk: accounts, pipelines, connections, conflicts, failures.

use axum::{
    Json as JsonBody,
    extract::{State, rejection::JsonRejection},
    http::StatusCode,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use utoipa::ToSchema;

use super::{
    Door,
    auth::Caller,
    extract::{Path, Query},
    opportunities::{Page, PageQuery, parsed},
    problem::Problem,
    values,
};
use crate::{
    model::{Conflict, ConflictState, Winner, link::Verdict},
    store::SyncStore,
    sync::connection::Connection,
};

/// An account.
#[derive(Serialize, ToSchema)]
pub struct AccountView {
    name: String,
    timezone: String,
    currency: String,
}

/// The accounts this token reaches: its own.
#[utoipa::path(get, path = "/api/v1/accounts", responses((status = 200, body = Page<AccountView>)), security(("token" = [])))]
pub async fn accounts(Caller(account): Caller) -> JsonBody<Page<AccountView>> {
    let view = AccountView {
        name: account.name.to_string(),
        timezone: account.timezone.to_string(),
        currency: account.currency.to_string(),
    };
    JsonBody(Page { data: vec![view], next_cursor: None })
}

/// A stage.
#[derive(Serialize, ToSchema)]
pub struct StageView {
    id: String,
    label: String,
    probability: u8,
    kind: String,
}

/// A pipeline.
#[derive(Serialize, ToSchema)]
pub struct PipelineView {
    id: String,
    label: String,
    stages: Vec<StageView>,
}

/// The account's pipelines with their stages, in order.
#[utoipa::path(get, path = "/api/v1/pipelines", responses((status = 200, body = Page<PipelineView>)), security(("token" = [])))]
pub async fn pipelines(
    State(door): State<Door>,
    Caller(account): Caller,
) -> Result<JsonBody<Page<PipelineView>>, Problem> {
    let pipelines = door.0.installation.store.pipelines(&account.name).await?;
    let stage = |stage: crate::model::Stage| StageView {
        id: stage.id.to_string(),
        label: stage.label,
        probability: stage.probability,
        kind: format!("{:?}", stage.kind).to_lowercase(),
    };
    let view = |pipeline: crate::model::Pipeline| PipelineView {
        id: pipeline.id.to_string(),
        label: pipeline.label,
        stages: pipeline.stages.into_iter().map(stage).collect(),
    };
    Ok(JsonBody(Page { data: pipelines.into_iter().map(view).collect(), next_cursor: None }))
}

/// A connection and how it stands.
#[derive(Serialize, ToSchema)]
pub struct ConnectionView {
    name: String,
    connector: String,
    /// `file` or `api`: who manages it.
    managed_by: String,
    /// `active`, `paused`, `needs_auth`, `wrong_account`, or `new` before its first contact.
    state: String,
    /// Why it does not work, and what to do.
    reason: Option<String>,
    remote_account: Option<String>,
    /// Where the vendor sends webhooks.
    webhook_url: Option<String>,
    /// How its writes are protected.
    guarantee: String,
    /// Records that wait to be looked at.
    backlog: u64,
}

async fn view(door: &Door, connection: &Connection) -> Result<ConnectionView, Problem> {
    let installation = &door.0.installation;
    let row = installation.store.connection(&connection.account.name, &connection.name).await?;
    Ok(ConnectionView {
        name: connection.name.to_string(),
        connector: connection.connector.system().into(),
        managed_by: if installation.from_file.contains(&connection.name) { "file" } else { "api" }.into(),
        state: row.as_ref().map_or("new", |row| row.state.as_str()).into(),
        reason: row.as_ref().and_then(|row| row.reason.clone()),
        remote_account: row.and_then(|row| row.remote_account),
        webhook_url: connection.hook.as_ref().map(ToString::to_string),
        guarantee: connection.guarantee(),
        backlog: installation.store.backlog(&connection.account.name, &connection.name).await?,
    })
}

fn find<'a>(door: &'a Door, account: &crate::model::Account, name: &str) -> Result<&'a Connection, Problem> {
    let found =
        door.0.installation.connections.values().find(|c| c.name.as_str() == name && c.account.name == account.name);
    found.map(AsRef::as_ref).ok_or_else(|| Problem::not_found("connection"))
}

/// The account's connections.
#[utoipa::path(get, path = "/api/v1/connections", responses((status = 200, body = Page<ConnectionView>)), security(("token" = [])))]
pub async fn list(
    State(door): State<Door>,
    Caller(account): Caller,
) -> Result<JsonBody<Page<ConnectionView>>, Problem> {
    let mut data = Vec::new();
    for connection in door.0.installation.connections.values().filter(|c| c.account.name == account.name) {
        data.push(view(&door, connection).await?);
    }
    Ok(JsonBody(Page { data, next_cursor: None }))
}

/// A connection.
#[utoipa::path(get, path = "/api/v1/connections/{id}", params(("id" = String, Path)), responses((status = 200, body = ConnectionView), (status = 404)), security(("token" = [])))]
pub async fn show(
    State(door): State<Door>,
    Caller(account): Caller,
    Path(name): Path<String>,
) -> Result<JsonBody<ConnectionView>, Problem> {
    Ok(JsonBody(view(&door, find(&door, &account, &name)?).await?))
}

/// Pauses a connection. Webhooks are still stored, so nothing is lost meanwhile.
#[utoipa::path(post, path = "/api/v1/connections/{id}/pause", params(("id" = String, Path)), responses((status = 200, body = ConnectionView), (status = 404)), security(("token" = [])))]
pub async fn pause(
    State(door): State<Door>,
    Caller(account): Caller,
    Path(name): Path<String>,
) -> Result<JsonBody<ConnectionView>, Problem> {
    set_paused(&door, &account, &name, true).await
}

/// Lets a paused connection go on.
#[utoipa::path(post, path = "/api/v1/connections/{id}/resume", params(("id" = String, Path)), responses((status = 200, body = ConnectionView), (status = 404)), security(("token" = [])))]
pub async fn resume(
    State(door): State<Door>,
    Caller(account): Caller,
    Path(name): Path<String>,
) -> Result<JsonBody<ConnectionView>, Problem> {
    set_paused(&door, &account, &name, false).await
}

async fn set_paused(
    door: &Door,
    account: &crate::model::Account,
    name: &str,
    paused: bool,
) -> Result<JsonBody<ConnectionView>, Problem> {
    let connection = find(door, account, name)?;
    door.0.installation.set_paused(connection, paused).await?;
    door.ring(std::slice::from_ref(&connection.name));
    Ok(JsonBody(view(door, connection).await?))
}

/// What the mass-change guard holds of a connection.
#[derive(Serialize, ToSchema)]
pub struct GuardView {
    /// `delete`, `create`, `blank` or `one_value` at the vendor; `local_delete` or `local_blank` here.
    class: String,
    /// How many changes.
    count: u64,
    /// Some of the records.
    sample: Vec<String>,
    /// What tripped it, and what to do.
    message: String,
    at: DateTime<Utc>,
}

/// Changes the mass-change guard holds until a person decides.
#[utoipa::path(get, path = "/api/v1/connections/{id}/guard", params(("id" = String, Path)), responses((status = 200, body = Page<GuardView>), (status = 404)), security(("token" = [])))]
pub async fn guard(
    State(door): State<Door>,
    Caller(account): Caller,
    Path(name): Path<String>,
) -> Result<JsonBody<Page<GuardView>>, Problem> {
    let connection = find(&door, &account, &name)?;
    let events = door.0.installation.store.guard_events(&account.name, &connection.name).await?;
    let view = |event: crate::store::GuardEvent| GuardView {
        class: event.class,
        count: event.count,
        sample: event.sample,
        message: event.message,
        at: event.at,
    };
    let data = events.into_iter().filter(|event| event.state == "held").map(view).collect();
    Ok(JsonBody(Page { data, next_cursor: None }))
}

/// What a person decides about what is held.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GuardDecision {
    /// `approve` or `discard`.
    #[schema(value_type = String)]
    verdict: Verdict,
}

/// How many records a decision was about.
#[derive(Serialize, ToSchema)]
pub struct GuardDecided {
    records: u64,
}

/// Lets what is held go on, or leaves each side as it is until either changes.
#[utoipa::path(post, path = "/api/v1/connections/{id}/guard", params(("id" = String, Path)), request_body = GuardDecision, responses((status = 200, body = GuardDecided), (status = 404)), security(("token" = [])))]
pub async fn decide_guard(
    State(door): State<Door>,
    Caller(account): Caller,
    Path(name): Path<String>,
    body: Result<JsonBody<GuardDecision>, JsonRejection>,
) -> Result<JsonBody<GuardDecided>, Problem> {
    let decision = parsed(body)?;
    let connection = find(&door, &account, &name)?;
    let desk = door.0.installation.desk(&account, &[]);
    let records = desk.decide_held(&connection.name, decision.verdict).await?;
    door.ring(std::slice::from_ref(&connection.name));
    Ok(JsonBody(GuardDecided { records }))
}

/// A conflict: both values, and who won.
#[derive(Serialize, ToSchema)]
pub struct ConflictView {
    id: String,
    connection: String,
    kind: String,
    record_id: String,
    field: String,
    #[schema(value_type = Object)]
    base: Json,
    #[schema(value_type = Object)]
    local: Json,
    #[schema(value_type = Object)]
    remote: Json,
    winner: Winner,
    rule: String,
    state: ConflictState,
    at: DateTime<Utc>,
}

impl From<Conflict> for ConflictView {
    fn from(conflict: Conflict) -> Self {
        let named = |values: &[tandem_contract::Value]| -> Json {
            conflict
                .fields
                .iter()
                .zip(values)
                .map(|(name, value)| (name.clone(), values::plain(value)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        Self {
            id: conflict.id.to_string(),
            connection: conflict.connection.to_string(),
            kind: conflict.kind.to_string(),
            record_id: conflict.record.to_string(),
            base: named(&conflict.base),
            local: named(&conflict.local),
            remote: named(&conflict.remote),
            field: conflict.row,
            winner: conflict.winner,
            rule: conflict.rule,
            state: conflict.state,
            at: conflict.at,
        }
    }
}

/// Conflicts, newest first.
#[utoipa::path(get, path = "/api/v1/conflicts", params(PageQuery), responses((status = 200, body = Page<ConflictView>)), security(("token" = [])))]
pub async fn conflicts(
    State(door): State<Door>,
    Caller(account): Caller,
    Query(page): Query<PageQuery>,
) -> Result<JsonBody<Page<ConflictView>>, Problem> {
    let (limit, _) = page.parse()?;
    let conflicts = door.0.installation.store.conflicts(&account.name, false, limit as usize).await?;
    Ok(JsonBody(Page { data: conflicts.into_iter().map(ConflictView::from).collect(), next_cursor: None }))
}

async fn load(door: &Door, account: &crate::model::Account, id: &str) -> Result<Conflict, Problem> {
    let id = id.parse().map_err(|_| Problem::not_found("conflict"))?;
    door.0.installation.store.conflict(&account.name, id).await?.ok_or_else(|| Problem::not_found("conflict"))
}

/// A conflict.
#[utoipa::path(get, path = "/api/v1/conflicts/{id}", params(("id" = String, Path)), responses((status = 200, body = ConflictView), (status = 404)), security(("token" = [])))]
pub async fn conflict(
    State(door): State<Door>,
    Caller(account): Caller,
    Path(id): Path<String>,
) -> Result<JsonBody<ConflictView>, Problem> {
    Ok(JsonBody(load(&door, &account, &id).await?.into()))
}

/// What a person decides.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// `local` or `remote`.
    take: Winner,
}

/// Decides an open conflict, or overturns what a rule decided.
#[utoipa::path(post, path = "/api/v1/conflicts/{id}/resolve", params(("id" = String, Path)), request_body = Decision, responses((status = 200, body = ConflictView), (status = 404)), security(("token" = [])))]
pub async fn resolve(
    State(door): State<Door>,
    Caller(account): Caller,
    Path(id): Path<String>,
    body: Result<JsonBody<Decision>, JsonRejection>,
) -> Result<JsonBody<ConflictView>, Problem> {
    let decision = parsed(body)?;
    if !matches!(decision.take, Winner::Local | Winner::Remote) {
        return Err(Problem::invalid("take", "is not one of local, remote"));
    }
    let conflict = load(&door, &account, &id).await?;
    let connections = door.0.installation.written_connections(&account.name);
    let resolved = door.0.installation.desk(&account, &connections).resolve(conflict, decision.take).await?;
    door.ring(&connections);
    Ok(JsonBody(resolved.into()))
}

/// Something that was set aside for a person.
#[derive(Serialize, ToSchema)]
pub struct FailureView {
    id: String,
    connection: String,
    kind: String,
    record: String,
    field: Option<String>,
    code: String,
    message: String,
    first_at: DateTime<Utc>,
    last_at: DateTime<Utc>,
    attempts: u32,
}

/// Failures, newest first.
#[utoipa::path(get, path = "/api/v1/failures", params(PageQuery), responses((status = 200, body = Page<FailureView>)), security(("token" = [])))]
pub async fn failures(
    State(door): State<Door>,
    Caller(account): Caller,
    Query(page): Query<PageQuery>,
) -> Result<JsonBody<Page<FailureView>>, Problem> {
    let (limit, _) = page.parse()?;
    let failures = door.0.installation.store.failures(&account.name, limit as usize).await?;
    let view = |failure: crate::model::Failure| FailureView {
        id: failure.id.to_string(),
        connection: failure.connection.to_string(),
        kind: failure.kind.to_string(),
        record: failure.key,
        field: Some(failure.row).filter(|row| !row.is_empty()),
        code: failure.code,
        message: failure.message,
        first_at: failure.first_at,
        last_at: failure.last_at,
        attempts: failure.attempts,
    };
    Ok(JsonBody(Page { data: failures.into_iter().map(view).collect(), next_cursor: None }))
}

/// Tries a failed record again now.
#[utoipa::path(post, path = "/api/v1/failures/{id}/retry", params(("id" = String, Path)), responses((status = 202), (status = 404)), security(("token" = [])))]
pub async fn retry(
    State(door): State<Door>,
    Caller(account): Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let store = &door.0.installation.store;
    let failure =
        store.failures(&account.name, usize::MAX >> 1).await?.into_iter().find(|failure| failure.id.to_string() == id);
    let failure = failure.ok_or_else(|| Problem::not_found("failure"))?;
    door.0.installation.desk(&account, &[]).retry(&failure).await?;
    door.ring(&[failure.connection]);
    Ok(StatusCode::ACCEPTED)
}
