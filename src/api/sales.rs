//! Sales at the till: which are nobody's, and whose they are.

use axum::{
    Json as JsonBody,
    extract::{State, rejection::JsonRejection},
};
use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    Door,
    auth::Caller,
    extract::{Path, Query},
    opportunities::{Page, parsed},
    problem::Problem,
};
use crate::{
    model::{Evidence, EvidenceState, Money},
    store::SyncStore,
};

/// An amount in minor units.
#[derive(Serialize, ToSchema)]
pub struct AmountView {
    minor: i64,
    currency: String,
}

impl From<Money> for AmountView {
    fn from(money: Money) -> Self {
        Self { minor: money.minor, currency: money.currency.to_string() }
    }
}

/// A sale, and what became of it.
#[derive(Serialize, ToSchema)]
pub struct SaleView {
    /// `connection:order`.
    id: String,
    connection: String,
    state: EvidenceState,
    /// Why it stands as it does, for people.
    why: String,
    /// The opportunity it is evidence for.
    opportunity: Option<String>,
    /// By what it was found: `reference`, `return`, `customer`, `recipient`, `marker`, `email`, `phone`, `receipt`,
    /// `invoice`, `person`.
    found_by: Option<String>,
    trigger: Option<String>,
    /// Opportunities it may be evidence for, where it is not known for which.
    candidates: Vec<String>,
    sold_at: DateTime<Utc>,
    /// The day, where it was sold.
    sold_on: NaiveDate,
    amount: Option<AmountView>,
    /// What was paid so far, while a part is still due.
    paid: Option<AmountView>,
    refunded: Option<AmountView>,
}

impl From<Evidence> for SaleView {
    fn from(evidence: Evidence) -> Self {
        Self {
            id: evidence.id(),
            connection: evidence.connection.to_string(),
            state: evidence.state,
            why: evidence.why,
            opportunity: evidence.opportunity.map(|id| id.to_string()),
            found_by: evidence.found_by,
            trigger: evidence.trigger.map(|name| name.to_string()),
            candidates: evidence.candidates.iter().map(ToString::to_string).collect(),
            sold_at: evidence.sold_at,
            sold_on: evidence.sold_on,
            amount: evidence.amount.map(AmountView::from),
            paid: evidence.paid.map(AmountView::from),
            refunded: evidence.refunded.map(AmountView::from),
        }
    }
}

/// Which sales.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct SalesQuery {
    /// `unmatched` if left out; `waiting`, `live`, `ended`, `passed_over`.
    state: Option<EvidenceState>,
    /// At most so many, 1 to 500; 100 if left out.
    limit: Option<u16>,
}

/// Sales in one state, newest first.
#[utoipa::path(get, path = "/api/v1/sales", params(SalesQuery), responses((status = 200, body = Page<SaleView>)), security(("token" = [])))]
pub async fn list(
    State(door): State<Door>,
    Caller(account): Caller,
    Query(query): Query<SalesQuery>,
) -> Result<JsonBody<Page<SaleView>>, Problem> {
    let limit = query.limit.unwrap_or(100);
    if !(1..=500).contains(&limit) {
        return Err(Problem::invalid("limit", "is not between 1 and 500"));
    }
    let state = query.state.unwrap_or(EvidenceState::Unmatched);
    let sales = door.0.installation.store.evidence_in(&account.name, state, limit.into()).await?;
    Ok(JsonBody(Page { data: sales.into_iter().map(SaleView::from).collect(), next_cursor: None }))
}

/// Whose it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Whose {
    /// Our id of the opportunity.
    opportunity: String,
}

/// Says which opportunity a sale is of; the till is asked how it stands, and it is won if it is paid.
#[utoipa::path(post, path = "/api/v1/sales/{id}/link", params(("id" = String, Path)), request_body = Whose, responses((status = 200, body = SaleView), (status = 404), (status = 422)), security(("token" = [])))]
pub async fn link(
    State(door): State<Door>,
    Caller(account): Caller,
    Path(id): Path<String>,
    body: Result<JsonBody<Whose>, JsonRejection>,
) -> Result<JsonBody<SaleView>, Problem> {
    let whose = parsed(body)?;
    let (connection, sale) = Evidence::parse_id(&id).ok_or_else(|| Problem::not_found("sale"))?;
    let opportunity = whose.opportunity.parse().map_err(|_| Problem::invalid("opportunity", "is not an id"))?;
    let connections = door.0.installation.written_connections(&account.name);
    let evidence = door.0.installation.desk(&account, &connections).link_sale(&connection, &sale, opportunity).await?;
    door.ring(&[connection]);
    Ok(JsonBody(evidence.into()))
}
