//! Checkouts: an opportunity continues at the till.

use axum::{
    Json as JsonBody,
    extract::{State, rejection::JsonRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use chrono::NaiveDate;
use serde::{Deserialize, Serialize};
use tandem_contract::{CheckoutBy, ConnectorError};
use utoipa::ToSchema;

use super::{
    Door,
    auth::Caller,
    extract::Path,
    opportunities::{id, parsed},
    problem::Problem,
    under_way::to_the_end,
};
use crate::{
    checkout::{CheckoutError, Wish, start},
    model::{Currency, Money},
};

/// How it is paid.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// By a link to a page.
    Link,
    /// By an invoice that the till sends.
    Invoice,
}

/// A price in minor units.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Price {
    minor: i64,
    currency: String,
}

/// What to start.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckoutRequest {
    /// Which till: a connection's name.
    connection: String,
    by: By,
    /// The opportunity's value if left out; what is to be paid besides, where it is won.
    price: Option<Price>,
    /// The till's id of a location; its first open one that takes the currency if left out.
    location: Option<String>,
    /// When an invoice is due; today if left out.
    due_on: Option<NaiveDate>,
    /// Makes another checkout of the same kind and price; asked for again without, or with the same, it is the same checkout.
    key: Option<String>,
}

/// A checkout that was started.
#[derive(Serialize, ToSchema)]
pub struct CheckoutView {
    /// The sale that it will be: `connection:order`.
    sale: String,
    /// Where it is paid.
    url: Option<String>,
}

/// Starts a checkout that carries the opportunity's id; paying it wins the opportunity, also one that is lost. One that
/// is won is refused without a price; what is paid with one counts besides its other sales.
#[utoipa::path(post, path = "/api/v1/opportunities/{id}/checkout", params(("id" = String, Path)), request_body = CheckoutRequest, responses((status = 201, body = CheckoutView), (status = 404), (status = 409), (status = 422), (status = 502)), security(("token" = [])))]
pub async fn checkout(
    State(door): State<Door>,
    Caller(account): Caller,
    Path(text): Path<String>,
    body: Result<JsonBody<CheckoutRequest>, JsonRejection>,
) -> Result<Response, Problem> {
    let asked = parsed(body)?;
    let opportunity = id(&text, "opportunity")?;
    let installation = &door.0.installation;
    let till = asked.connection.parse().ok().and_then(|name| installation.connections.get(&name));
    let till = till.filter(|till| till.account.name == account.name).cloned();
    let till = till.ok_or_else(|| Problem::not_found("connection"))?;
    let price = match asked.price {
        None => None,
        Some(price) => {
            let currency =
                Currency::new(&price.currency).map_err(|error| Problem::invalid("price", error.to_string()))?;
            Some(Money { minor: price.minor, currency })
        }
    };
    let by = match asked.by {
        By::Link => CheckoutBy::Link,
        By::Invoice => CheckoutBy::Invoice,
    };
    let wish = Wish { by, price, location: asked.location, due_on: asked.due_on, key: asked.key };
    let at = till.clone();
    let starting = async move {
        let installation = &door.0.installation;
        start(&*installation.store, &till, opportunity, wish, installation.clock.now()).await
    };
    let (evidence, url) = to_the_end(&at, starting).await?;
    let view = CheckoutView { sale: evidence.id(), url };
    Ok((StatusCode::CREATED, JsonBody(view)).into_response())
}

impl From<CheckoutError> for Problem {
    fn from(error: CheckoutError) -> Self {
        match error {
            CheckoutError::Edit(error) => error.into(),
            CheckoutError::Won => Self::new(StatusCode::CONFLICT, "won", error.to_string()),
            CheckoutError::Till(ConnectorError::Rejected { field: Some(field), reason }) => {
                Self::invalid(&field, format!("is refused by the till: {reason}"))
            }
            CheckoutError::Till(error) => {
                Self::new(StatusCode::BAD_GATEWAY, "till", format!("{error}; asking again makes nothing twice"))
            }
        }
    }
}
