//! Appointments of an opportunity, and what is free at a clinic.

use std::sync::Arc;

use axum::{
    Json as JsonBody,
    extract::{State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tandem_contract::{ConnectorError, Kind, Opening, VisitChange, WantedOpenings};
use utoipa::{IntoParams, ToSchema};

use super::{
    Door,
    auth::Caller,
    extract::{Path, Query},
    opportunities::{Page, id, parsed},
    problem::Problem,
    under_way::to_the_end,
};
use crate::{
    booking::{self, BookingError, Wish},
    model::{Account, LocalRecord, Note, Visit},
    store::SyncStore,
    sync::connection::Connection,
};

/// An appointment to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAppointment {
    /// Which clinic: a connection's name.
    connection: String,
    /// `meeting`, `service` or `rental`: a kind of the connection's visit_types.
    kind: String,
    /// A day ago at the earliest: who walked in is written down afterwards.
    starts_at: DateTime<Utc>,
    /// Half an hour later if left out.
    ends_at: Option<DateTime<Utc>>,
    /// An opening, by the clinic's id.
    slot: Option<String>,
    /// Where, by the clinic's id of a location.
    site: Option<String>,
    /// With whom, by the clinic's id of a practitioner.
    practitioner: Option<String>,
}

/// When it is to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTime {
    /// Which clinic: a connection's name.
    connection: String,
    /// A day ago at the earliest.
    starts_at: DateTime<Utc>,
    /// Half an hour later if left out.
    ends_at: Option<DateTime<Utc>>,
}

/// Which clinic.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct Clinic {
    /// A connection's name.
    connection: String,
}

/// A visit, as far as a clinic tells of it.
#[derive(Serialize, ToSchema)]
pub struct VisitView {
    /// `connection:Appointment/…`, `…Encounter/…`, or of a plan of treatment `…ServiceRequest/…`.
    id: String,
    connection: String,
    /// `consult`, `treatment`, `follow_up`, `ignored` or `unmapped`.
    class: String,
    /// The service line.
    service: Option<String>,
    /// `proposed`, `requested`, `accepted`, `booked`, `arrived`, `kept`, `finished`, `missed`, `cancelled`, `erased` or
    /// `unclear`.
    status: String,
    starts_at: Option<DateTime<Utc>>,
    ends_at: Option<DateTime<Utc>>,
    site: Option<String>,
    /// The opportunity that it was booked from.
    booked_from: Option<String>,
    /// The opportunities that it moved: one of each who comes.
    moved: Vec<String>,
    /// What people were told of it.
    notes: Vec<Note>,
}

fn word<T: Serialize>(value: &T) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

impl From<Visit> for VisitView {
    fn from(visit: Visit) -> Self {
        Self {
            id: visit.id(),
            connection: visit.connection.to_string(),
            class: word(&visit.class),
            service: visit.service,
            status: word(&visit.status),
            starts_at: visit.starts_at,
            ends_at: visit.ends_at,
            site: visit.site,
            booked_from: visit.opportunity.map(|id| id.to_string()),
            moved: visit.raised.into_iter().map(|raised| raised.opportunity.to_string()).collect(),
            notes: visit.noted.into_iter().collect(),
        }
    }
}

fn clinic(door: &Door, account: &Account, name: &str) -> Result<Arc<Connection>, Problem> {
    let found = name.parse().ok().and_then(|name| door.0.installation.connections.get(&name));
    let found = found.filter(|connection| connection.account.name == account.name);
    found.cloned().ok_or_else(|| Problem::not_found("connection"))
}

/// Books an appointment for the opportunity's contact; it has one at a time.
#[utoipa::path(post, path = "/api/v1/opportunities/{id}/appointment", params(("id" = String, Path)), request_body = NewAppointment, responses((status = 201, body = VisitView), (status = 404), (status = 409), (status = 422), (status = 502)), security(("token" = [])))]
pub async fn book(
    State(door): State<Door>,
    Caller(account): Caller,
    Path(text): Path<String>,
    body: Result<JsonBody<NewAppointment>, JsonRejection>,
) -> Result<Response, Problem> {
    let asked = parsed(body)?;
    let opportunity = id(&text, "opportunity")?;
    let clinic = clinic(&door, &account, &asked.connection)?;
    let ends_at = booking::end(asked.starts_at, asked.ends_at);
    let NewAppointment { kind, starts_at, slot, site, practitioner, .. } = asked;
    let wish = Wish { kind, starts_at, ends_at, slot, site, practitioner };
    let at = clinic.clone();
    let booking = async move {
        let installation = &door.0.installation;
        let now = installation.clock.now();
        let booked = booking::book(&*installation.store, &clinic, opportunity, wish, now).await;
        door.ring(std::slice::from_ref(&clinic.name));
        booked
    };
    let visit = to_the_end(&at, booking).await?;
    Ok((StatusCode::CREATED, JsonBody(VisitView::from(visit))).into_response())
}

/// Moves the opportunity's appointment; 202 since the clinic has the last word.
#[utoipa::path(patch, path = "/api/v1/opportunities/{id}/appointment", params(("id" = String, Path)), request_body = NewTime, responses((status = 202, body = VisitView), (status = 404), (status = 422), (status = 502)), security(("token" = [])))]
pub async fn shift(
    State(door): State<Door>,
    Caller(account): Caller,
    Path(text): Path<String>,
    body: Result<JsonBody<NewTime>, JsonRejection>,
) -> Result<Response, Problem> {
    let asked = parsed(body)?;
    let to = VisitChange::Move { starts_at: asked.starts_at, ends_at: booking::end(asked.starts_at, asked.ends_at) };
    change(door, &account, &text, &asked.connection, to).await
}

/// Calls the opportunity's appointment off; at the clinic it stays, as cancelled.
#[utoipa::path(delete, path = "/api/v1/opportunities/{id}/appointment", params(("id" = String, Path), Clinic), responses((status = 202, body = VisitView), (status = 404), (status = 502)), security(("token" = [])))]
pub async fn cancel(
    State(door): State<Door>,
    Caller(account): Caller,
    Path(text): Path<String>,
    Query(at): Query<Clinic>,
) -> Result<Response, Problem> {
    change(door, &account, &text, &at.connection, VisitChange::Cancel).await
}

async fn change(
    door: Door,
    account: &Account,
    text: &str,
    connection: &str,
    to: VisitChange,
) -> Result<Response, Problem> {
    let opportunity = id(text, "opportunity")?;
    let clinic = clinic(&door, account, connection)?;
    let at = clinic.clone();
    let changing = async move {
        let installation = &door.0.installation;
        let now = installation.clock.now();
        let changed = booking::change(&*installation.store, &clinic, opportunity, to, now).await;
        door.ring(std::slice::from_ref(&clinic.name));
        changed
    };
    let visit = to_the_end(&at, changing).await?;
    Ok((StatusCode::ACCEPTED, JsonBody(VisitView::from(visit))).into_response())
}

/// The visits of the opportunity's contact, those of today and later last.
#[utoipa::path(get, path = "/api/v1/opportunities/{id}/visits", params(("id" = String, Path)), responses((status = 200, body = Page<VisitView>), (status = 404)), security(("token" = [])))]
pub async fn visits(
    State(door): State<Door>,
    Caller(account): Caller,
    Path(text): Path<String>,
) -> Result<JsonBody<Page<VisitView>>, Problem> {
    let store = &door.0.installation.store;
    let found = store.records(&account.name, Kind::Deal, &[id(&text, "opportunity")?]).await?.pop();
    let Some(LocalRecord::Deal(deal)) = found else { return Err(Problem::not_found("opportunity")) };
    let mut all = match deal.contact {
        Some(contact) => store.visits_of(&account.name, contact).await?,
        None => Vec::new(),
    };
    all.sort_by(|a, b| (a.starts_at, &a.visit).cmp(&(b.starts_at, &b.visit)));
    Ok(JsonBody(Page { data: all.into_iter().map(VisitView::from).collect(), next_cursor: None }))
}

/// Between when, with whom and where.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct Between {
    /// A connection's name.
    connection: String,
    from: DateTime<Utc>,
    /// A week later if left out; 31 days at most.
    until: Option<DateTime<Utc>>,
    /// With whom, by the clinic's id of a practitioner; anybody if left out.
    practitioner: Option<String>,
    /// Where, by the clinic's id of a location; anywhere if left out.
    site: Option<String>,
}

/// An offer of the clinic's, not a hold.
#[derive(Serialize, ToSchema)]
pub struct OpeningView {
    slot: String,
    starts_at: DateTime<Utc>,
    ends_at: DateTime<Utc>,
    /// With whom, by the clinic's id, where it tells.
    practitioner: Option<String>,
    /// Where, by the clinic's id, where it tells.
    site: Option<String>,
}

impl From<Opening> for OpeningView {
    fn from(one: Opening) -> Self {
        let Opening { slot, starts_at, ends_at, practitioner, site } = one;
        Self { slot, starts_at, ends_at, practitioner, site }
    }
}

/// What is free at a clinic, in order.
#[utoipa::path(get, path = "/api/v1/openings", params(Between), responses((status = 200, body = Page<OpeningView>), (status = 404), (status = 422), (status = 502)), security(("token" = [])))]
pub async fn openings(
    State(door): State<Door>,
    Caller(account): Caller,
    Query(between): Query<Between>,
) -> Result<JsonBody<Page<OpeningView>>, Problem> {
    let clinic = clinic(&door, &account, &between.connection)?;
    let Some(until) = booking::until(between.from, between.until) else {
        return Err(Problem::invalid("until", "is not after `from`, or more than 31 days later"));
    };
    let Between { from, practitioner, site, .. } = between;
    let wanted = WantedOpenings { from, until, practitioner, site };
    let found = booking::openings(&clinic, &wanted).await.map_err(BookingError::from)?;
    Ok(JsonBody(Page { data: found.into_iter().map(OpeningView::from).collect(), next_cursor: None }))
}

impl From<BookingError> for Problem {
    fn from(error: BookingError) -> Self {
        match error {
            BookingError::Edit(error) => error.into(),
            BookingError::Booked(_) => Self::new(StatusCode::CONFLICT, "booked", error.to_string()),
            BookingError::Busy(_) => Self::new(StatusCode::CONFLICT, "booking", error.to_string()),
            BookingError::None => Self::new(StatusCode::NOT_FOUND, "no_appointment", error.to_string()),
            BookingError::Clinic(ConnectorError::Conflict(why)) => Self::new(StatusCode::CONFLICT, "clinic", why),
            BookingError::Clinic(ConnectorError::Rejected { field: Some(field), reason }) => {
                Self::invalid(&field, format!("is refused by the clinic: {reason}"))
            }
            BookingError::Clinic(error) => {
                Self::new(StatusCode::BAD_GATEWAY, "clinic", format!("{error}; asking again makes nothing twice"))
            }
        }
    }
}
