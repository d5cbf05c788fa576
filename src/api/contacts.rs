//! Contacts: list, show, make, change, delete.

use std::collections::BTreeMap;

use axum::{
    Json as JsonBody,
    extract::{State, rejection::JsonRejection},
    http::{HeaderMap, StatusCode},
    response::Response,
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value as Json};
use tandem_contract::Kind;
use utoipa::ToSchema;

use super::{
    Door,
    auth::Caller,
    extract::{Path, Query},
    linked::{ExternalIdView, by_record, external_ids, sync_state},
    opportunities::{Page, PageQuery, id, if_match, parsed, versioned},
    problem::Problem,
    values,
};
use crate::{
    model::{Contact, Link, LocalRecord, Name, RecordId},
    store::SyncStore,
};

/// A contact.
#[derive(Serialize, ToSchema)]
pub struct ContactView {
    id: String,
    version: i64,
    first_name: Option<String>,
    last_name: Option<String>,
    email: Option<String>,
    phone: Option<String>,
    company: Option<String>,
    owner: Option<String>,
    #[schema(value_type = Object)]
    custom: BTreeMap<String, Json>,
    /// How many opportunities it has (VX-09).
    opportunity_count: u64,
    /// The same record at vendors.
    external_ids: Vec<ExternalIdView>,
    /// As an opportunity's, but for `quarantined`.
    sync_state: String,
    updated_at: DateTime<Utc>,
}

impl ContactView {
    fn new(contact: Contact, opportunity_count: u64, links: &[&Link]) -> Self {
        Self {
            id: contact.id.to_string(),
            version: contact.version,
            first_name: contact.first_name,
            last_name: contact.last_name,
            email: contact.email,
            phone: contact.phone,
            company: contact.company,
            owner: contact.owner,
            custom: contact.custom.iter().map(|(name, value)| (name.clone(), values::plain(value))).collect(),
            opportunity_count,
            external_ids: external_ids(links),
            sync_state: sync_state(false, links).into(),
            updated_at: contact.updated_at,
        }
    }
}

async fn views(door: &Door, account: &Name, contacts: Vec<Contact>) -> Result<Vec<ContactView>, Problem> {
    let ids: Vec<RecordId> = contacts.iter().map(|contact| contact.id).collect();
    let store = &door.0.installation.store;
    let counts: BTreeMap<RecordId, u64> = store.opportunity_counts(account, &ids).await?.into_iter().collect();
    let links = store.links_of(account, Kind::Contact, &ids).await?;
    let links = by_record(&links);
    let view = |contact: Contact| {
        let count = counts.get(&contact.id).copied().unwrap_or(0);
        let links = links.get(&contact.id).map_or(&[][..], Vec::as_slice);
        ContactView::new(contact, count, links)
    };
    Ok(contacts.into_iter().map(view).collect())
}

async fn answer(door: &Door, account: &Name, status: StatusCode, id: RecordId) -> Result<Response, Problem> {
    let contact = load(door, account, id).await?;
    let version = contact.version;
    let view = views(door, account, vec![contact]).await?.pop().ok_or_else(|| Problem::not_found("contact"))?;
    Ok(versioned(status, version, view))
}

async fn load(door: &Door, account: &Name, id: RecordId) -> Result<Contact, Problem> {
    match door.0.installation.store.records(account, Kind::Contact, &[id]).await?.pop() {
        Some(LocalRecord::Contact(contact)) if contact.deleted_at.is_none() => Ok(contact),
        _ => Err(Problem::not_found("contact")),
    }
}

/// Lists contacts in order of id.
#[utoipa::path(get, path = "/api/v1/contacts", params(PageQuery), responses((status = 200, body = Page<ContactView>)), security(("token" = [])))]
pub async fn list(
    State(door): State<Door>,
    Caller(account): Caller,
    Query(page): Query<PageQuery>,
) -> Result<JsonBody<Page<ContactView>>, Problem> {
    let (limit, after) = page.parse()?;
    let contacts = door.0.installation.store.contacts(&account.name, after, limit).await?;
    let next_cursor =
        (contacts.len() as u32 == limit).then(|| contacts.last().map(|contact| contact.id.to_string())).flatten();
    Ok(JsonBody(Page { data: views(&door, &account.name, contacts).await?, next_cursor }))
}

/// Shows a contact; its version is the ETag.
#[utoipa::path(get, path = "/api/v1/contacts/{id}", params(("id" = String, Path)), responses((status = 200, body = ContactView), (status = 404)), security(("token" = [])))]
pub async fn show(
    State(door): State<Door>,
    Caller(account): Caller,
    Path(text): Path<String>,
) -> Result<Response, Problem> {
    answer(&door, &account.name, StatusCode::OK, id(&text, "contact")?).await
}

/// Makes a contact.
#[utoipa::path(post, path = "/api/v1/contacts", request_body = Object, responses((status = 201, body = ContactView), (status = 422)), security(("token" = [])))]
pub async fn create(
    State(door): State<Door>,
    Caller(account): Caller,
    body: Result<JsonBody<Map<String, Json>>, JsonRejection>,
) -> Result<Response, Problem> {
    let fields = values::contact(&parsed(body)?)?;
    let connections = door.0.installation.written_connections(&account.name);
    let record = door.0.installation.desk(&account, &connections).create(Kind::Contact, &fields, None).await?;
    door.ring(&connections);
    answer(&door, &account.name, StatusCode::CREATED, record.id()).await
}

/// Changes the fields named (a merge patch); `If-Match` names the version it was made on.
#[utoipa::path(patch, path = "/api/v1/contacts/{id}", params(("id" = String, Path), ("If-Match" = String, Header)), request_body = Object, responses((status = 200, body = ContactView), (status = 412), (status = 428)), security(("token" = [])))]
pub async fn change(
    State(door): State<Door>,
    Caller(account): Caller,
    Path(text): Path<String>,
    headers: HeaderMap,
    body: Result<JsonBody<Map<String, Json>>, JsonRejection>,
) -> Result<Response, Problem> {
    let id = id(&text, "contact")?;
    let version = if_match(&headers)?;
    let fields = values::contact(&parsed(body)?)?;
    let connections = door.0.installation.written_connections(&account.name);
    door.0.installation.desk(&account, &connections).update(Kind::Contact, id, Some(version), &fields, None).await?;
    door.ring(&connections);
    answer(&door, &account.name, StatusCode::OK, id).await
}

/// Deletes a contact: with its opportunities where the account's profile cascades (VX-10), refused otherwise.
#[utoipa::path(delete, path = "/api/v1/contacts/{id}", params(("id" = String, Path)), responses((status = 204), (status = 409)), security(("token" = [])))]
pub async fn delete(
    State(door): State<Door>,
    Caller(account): Caller,
    Path(text): Path<String>,
) -> Result<StatusCode, Problem> {
    let id = id(&text, "contact")?;
    let connections = door.0.installation.written_connections(&account.name);
    door.0.installation.desk(&account, &connections).delete(Kind::Contact, id).await?;
    door.ring(&connections);
    Ok(StatusCode::NO_CONTENT)
}
