//! Opportunities: list, show, make, change, delete, history.

use std::collections::BTreeMap;

use axum::{
    Json as JsonBody,
    extract::{State, rejection::JsonRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use tandem_contract::Kind;
use utoipa::{IntoParams, ToSchema};

use super::{
    Door,
    auth::Caller,
    extract::{Path, Query},
    linked::{ExternalIdView, by_record, external_ids, sync_state},
    problem::Problem,
    values,
};
use crate::{
    model::{Link, LocalRecord, Name, Opportunity, Pipeline, RecordId},
    store::{SyncStore, sql::SqlStore},
};

/// An amount in minor units (cents).
#[derive(Serialize, ToSchema)]
pub struct MoneyView {
    /// How many minor units.
    minor: i64,
    /// ISO 4217 code.
    currency: String,
}

/// An opportunity, as the export prints it.
#[derive(Serialize, ToSchema)]
pub struct OpportunityView {
    /// Our id.
    pub id: String,
    /// The account.
    pub account: String,
    /// Title.
    pub name: String,
    /// `open`, `won`, `lost` or `abandoned`.
    pub status: String,
    /// What people call its pipeline.
    pub pipeline: Option<String>,
    /// What people call its stage.
    pub stage: Option<String>,
    /// What it is worth.
    pub value: Option<MoneyView>,
    /// Who says what it is worth: `manual`, anybody; `type_default`, its type, until somebody says otherwise; `plan`, the
    /// price of a plan, said here alone; `checkout`, the till alone.
    pub value_source: String,
    /// What kind of sale it is: a type of the account by name, or what a vendor calls one that is none of its types.
    #[serde(rename = "type")]
    pub opportunity_type: Option<String>,
    /// Its contact.
    pub contact_id: Option<String>,
    /// Who is responsible.
    pub owner: Option<String>,
    /// When it is expected to close.
    pub expected_close_on: Option<NaiveDate>,
    /// When it was closed.
    pub closed_at: Option<DateTime<Utc>>,
    /// When its status was last seen to change, as it happened; null for what an import brought as it is.
    pub transition_seen_at: Option<DateTime<Utc>>,
    /// Why it was lost.
    pub lost_reason: Option<String>,
    /// The same record at vendors.
    pub external_ids: Vec<ExternalIdView>,
    /// `synced`, `local`, `conflict`, `parked`, `held`, `frozen`, `remote_missing`, `unlinked` or `quarantined`.
    pub sync_state: String,
    /// Last changed.
    pub updated_at: DateTime<Utc>,
}

impl OpportunityView {
    /// From the record, its links and the account's pipelines.
    #[must_use]
    pub fn new(account: &Name, deal: &Opportunity, links: &[&Link], pipelines: &[Pipeline]) -> Self {
        let pipeline = deal.position.pipeline.and_then(|id| pipelines.iter().find(|pipeline| pipeline.id == id));
        let stage = deal.position.stage.and_then(|id| pipeline?.stage(id));
        Self {
            id: deal.id.to_string(),
            account: account.to_string(),
            name: deal.name.clone(),
            status: deal.position.status.to_string(),
            pipeline: pipeline.map(|pipeline| pipeline.label.clone()),
            stage: stage.map(|stage| stage.label.clone()),
            value: deal.value.map(|money| MoneyView { minor: money.minor, currency: money.currency.code().into() }),
            value_source: deal.value_source.as_str().into(),
            opportunity_type: deal.opportunity_type.clone(),
            contact_id: deal.contact.map(|id| id.to_string()),
            owner: deal.owner.clone(),
            expected_close_on: deal.position.expected_close_on,
            closed_at: deal.position.closed_at,
            transition_seen_at: deal.transition_seen_at,
            lost_reason: deal.position.lost_reason.clone(),
            external_ids: external_ids(links),
            sync_state: sync_state(deal.quarantined, links).into(),
            updated_at: deal.updated_at,
        }
    }
}

/// A page of opportunities with everything the view needs, in one query each.
pub async fn views(
    store: &SqlStore,
    account: &Name,
    deals: &[Opportunity],
) -> Result<Vec<OpportunityView>, crate::store::StoreError> {
    let pipelines = store.pipelines(account).await?;
    let ids: Vec<RecordId> = deals.iter().map(|deal| deal.id).collect();
    let links = store.links_of(account, Kind::Deal, &ids).await?;
    let links = by_record(&links);
    let of = |deal: &Opportunity| links.get(&deal.id).map_or(&[][..], Vec::as_slice);
    Ok(deals.iter().map(|deal| OpportunityView::new(account, deal, of(deal), &pipelines)).collect())
}

/// An opportunity with the fields the export leaves out.
#[derive(Serialize, ToSchema)]
pub struct OpportunityDetail {
    #[serde(flatten)]
    view: OpportunityView,
    /// Counts changes; also the ETag.
    version: i64,
    /// True unless it is open (VX-04).
    is_closed: bool,
    /// Who made it: `person`, or the connection it came from.
    created_by: Option<String>,
    /// Who closed it: `person`, or the connection that said so.
    closed_by: Option<String>,
    /// Longer text.
    description: Option<String>,
    /// Where the lead came from.
    source: Option<String>,
    /// Reference of an outside system, unique per account.
    external_reference: Option<String>,
    /// True if somebody said that it is meant beside another open one of its contact.
    deliberate: bool,
    /// Our id of its pipeline.
    pipeline_id: Option<String>,
    /// Our id of its stage.
    stage_id: Option<String>,
    /// The account's own fields.
    #[schema(value_type = Object)]
    custom: BTreeMap<String, Json>,
    /// Made.
    created_at: DateTime<Utc>,
}

/// A page.
#[derive(Deserialize, IntoParams)]
pub struct PageQuery {
    /// At most this many; 100 if left out, 500 at the most.
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

impl PageQuery {
    /// Limit and cursor, checked.
    pub fn parse(&self) -> Result<(u32, Option<RecordId>), Problem> {
        let limit = self.limit.unwrap_or(100).clamp(1, 500);
        let cursor = self.cursor.as_deref().map(str::parse).transpose();
        Ok((limit, cursor.map_err(|_| Problem::invalid("cursor", "is not one this list handed out"))?))
    }
}

/// One page of a list.
#[derive(Serialize, ToSchema)]
pub struct Page<T: ToSchema> {
    /// What is on it.
    pub data: Vec<T>,
    /// Ask with this for the next page; null on the last.
    pub next_cursor: Option<String>,
}

/// The body of a request, or a refusal that says where it does not parse.
pub fn parsed<T>(body: Result<JsonBody<T>, JsonRejection>) -> Result<T, Problem> {
    body.map(|JsonBody(asked)| asked).map_err(Problem::from)
}

/// The id in a path.
pub fn id(text: &str, what: &str) -> Result<RecordId, Problem> {
    text.parse().map_err(|_| Problem::not_found(what))
}

/// The version a change was made on: `If-Match` is asked of every change.
pub fn if_match(headers: &HeaderMap) -> Result<i64, Problem> {
    let missing = || {
        Problem::new(
            StatusCode::PRECONDITION_REQUIRED,
            "if_match_missing",
            "name the version you read: send its ETag as If-Match",
        )
    };
    let text = headers.get(header::IF_MATCH).and_then(|value| value.to_str().ok()).ok_or_else(missing)?;
    text.trim_matches('"')
        .parse()
        .map_err(|_| Problem::new(StatusCode::PRECONDITION_FAILED, "stale", "If-Match names no version of this record"))
}

/// An answer with its version as ETag.
pub fn versioned(status: StatusCode, version: i64, body: impl Serialize) -> Response {
    (status, [(header::ETAG, format!("\"{version}\""))], JsonBody(serde_json::to_value(body).unwrap_or_default()))
        .into_response()
}

async fn detail(door: &Door, account: &Name, deal: &Opportunity) -> Result<OpportunityDetail, Problem> {
    let view = views(&door.0.installation.store, account, std::slice::from_ref(deal))
        .await?
        .pop()
        .ok_or_else(|| Problem::not_found("opportunity"))?;
    Ok(OpportunityDetail {
        view,
        version: deal.version,
        is_closed: deal.position.status.is_closed(),
        created_by: deal.created_by.clone(),
        closed_by: deal.closed_by.clone(),
        description: deal.description.clone(),
        source: deal.source.clone(),
        external_reference: deal.external_reference.clone(),
        deliberate: deal.deliberate,
        pipeline_id: deal.position.pipeline.map(|id| id.to_string()),
        stage_id: deal.position.stage.map(|id| id.to_string()),
        custom: deal.custom.iter().map(|(name, value)| (name.clone(), values::plain(value))).collect(),
        created_at: deal.created_at,
    })
}

async fn load(door: &Door, account: &Name, id: RecordId) -> Result<Opportunity, Problem> {
    match door.0.installation.store.records(account, Kind::Deal, &[id]).await?.pop() {
        Some(LocalRecord::Deal(deal)) if deal.deleted_at.is_none() => Ok(deal),
        _ => Err(Problem::not_found("opportunity")),
    }
}

/// Lists opportunities in order of id.
#[utoipa::path(get, path = "/api/v1/opportunities", params(PageQuery), responses((status = 200, body = Page<OpportunityView>)), security(("token" = [])))]
pub async fn list(
    State(door): State<Door>,
    Caller(account): Caller,
    Query(page): Query<PageQuery>,
) -> Result<JsonBody<Page<OpportunityView>>, Problem> {
    let (limit, after) = page.parse()?;
    let store = &door.0.installation.store;
    let deals = store.opportunities(&account.name, after, limit).await?;
    let next_cursor = (deals.len() as u32 == limit).then(|| deals.last().map(|deal| deal.id.to_string())).flatten();
    Ok(JsonBody(Page { data: views(store, &account.name, &deals).await?, next_cursor }))
}

/// Shows an opportunity; its version is the ETag.
#[utoipa::path(get, path = "/api/v1/opportunities/{id}", params(("id" = String, Path)), responses((status = 200, body = OpportunityDetail), (status = 404)), security(("token" = [])))]
pub async fn show(
    State(door): State<Door>,
    Caller(account): Caller,
    Path(text): Path<String>,
) -> Result<Response, Problem> {
    let deal = load(&door, &account.name, id(&text, "opportunity")?).await?;
    Ok(versioned(StatusCode::OK, deal.version, detail(&door, &account.name, &deal).await?))
}

/// Makes an opportunity: open, on the default stage of its type's pipeline, or of the first, unless others are named. Where
/// the account's profile asks before a second open one of a contact is made, `deliberate` answers.
#[utoipa::path(post, path = "/api/v1/opportunities", request_body = Object, responses((status = 201, body = OpportunityDetail), (status = 409), (status = 422)), security(("token" = [])))]
pub async fn create(
    State(door): State<Door>,
    Caller(account): Caller,
    body: Result<JsonBody<Map<String, Json>>, JsonRejection>,
) -> Result<Response, Problem> {
    let (fields, reference) = values::opportunity(&parsed(body)?)?;
    let connections = door.0.installation.written_connections(&account.name);
    let record =
        door.0.installation.desk(&account, &connections).create(Kind::Deal, &fields, reference.flatten()).await?;
    door.ring(&connections);
    let deal = load(&door, &account.name, record.id()).await?;
    Ok(versioned(StatusCode::CREATED, deal.version, detail(&door, &account.name, &deal).await?))
}

/// Changes the fields named (a merge patch); `If-Match` names the version it was made on. What makes it a second open
/// one of its contact is refused, or asked about, as making one is.
#[utoipa::path(patch, path = "/api/v1/opportunities/{id}", params(("id" = String, Path), ("If-Match" = String, Header)), request_body = Object, responses((status = 200, body = OpportunityDetail), (status = 409), (status = 412), (status = 422), (status = 428)), security(("token" = [])))]
pub async fn change(
    State(door): State<Door>,
    Caller(account): Caller,
    Path(text): Path<String>,
    headers: HeaderMap,
    body: Result<JsonBody<Map<String, Json>>, JsonRejection>,
) -> Result<Response, Problem> {
    let id = id(&text, "opportunity")?;
    let version = if_match(&headers)?;
    let (fields, reference) = values::opportunity(&parsed(body)?)?;
    let connections = door.0.installation.written_connections(&account.name);
    door.0.installation.desk(&account, &connections).update(Kind::Deal, id, Some(version), &fields, reference).await?;
    door.ring(&connections);
    let deal = load(&door, &account.name, id).await?;
    Ok(versioned(StatusCode::OK, deal.version, detail(&door, &account.name, &deal).await?))
}

/// Deletes an opportunity; what happens at the vendors is each connection's `on_local_delete`.
#[utoipa::path(delete, path = "/api/v1/opportunities/{id}", params(("id" = String, Path)), responses((status = 204), (status = 404)), security(("token" = [])))]
pub async fn delete(
    State(door): State<Door>,
    Caller(account): Caller,
    Path(text): Path<String>,
) -> Result<StatusCode, Problem> {
    let connections = door.0.installation.written_connections(&account.name);
    door.0.installation.desk(&account, &connections).delete(Kind::Deal, id(&text, "opportunity")?).await?;
    door.ring(&connections);
    Ok(StatusCode::NO_CONTENT)
}

/// One change of one field.
#[derive(Serialize, ToSchema)]
pub struct HistoryView {
    field: String,
    #[schema(value_type = Object)]
    old: Json,
    #[schema(value_type = Object)]
    new: Json,
    by: String,
    at: DateTime<Utc>,
}

/// Every change of an opportunity's fields, oldest first.
#[utoipa::path(get, path = "/api/v1/opportunities/{id}/history", params(("id" = String, Path)), responses((status = 200, body = Vec<HistoryView>)), security(("token" = [])))]
pub async fn history(
    State(door): State<Door>,
    Caller(account): Caller,
    Path(text): Path<String>,
) -> Result<JsonBody<Vec<HistoryView>>, Problem> {
    let entries = door.0.installation.store.history(&account.name, Kind::Deal, id(&text, "opportunity")?).await?;
    let view = |entry: crate::model::HistoryEntry| HistoryView {
        field: entry.field,
        old: values::plain(&entry.old),
        new: values::plain(&entry.new),
        by: entry.by,
        at: entry.at,
    };
    Ok(JsonBody(entries.into_iter().map(view).collect()))
}
