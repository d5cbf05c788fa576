//! Refusals, as RFC 9457 problem details.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value as Json, json};

use crate::{edit::EditError, store::StoreError};

/// A refusal: what happened and what to do.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    field: Option<String>,
}

impl Problem {
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), field: None }
    }

    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no such {what} in this account"))
    }

    pub fn invalid(field: &str, why: impl Into<String>) -> Self {
        let detail = format!("`{field}` {}", why.into());
        Self { field: Some(field.to_owned()), ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", detail) }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Stale { .. } => {
                Self::new(StatusCode::PRECONDITION_FAILED, "stale", "the record changed meanwhile: read it again")
            }
            StoreError::Outdated(_) => Self::new(StatusCode::CONFLICT, "stale", error.to_string()),
            StoreError::Taken { what } => Self::new(StatusCode::CONFLICT, "taken", format!("{what} is already taken")),
            StoreError::Fenced => Self::new(StatusCode::SERVICE_UNAVAILABLE, "fenced", error.to_string()),
            StoreError::Unavailable(_) | StoreError::Corrupt { .. } => {
                tracing::error!(%error, "the store refuses");
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "store",
                    "nothing was stored: the database is not available; the log says why",
                )
            }
        }
    }
}

impl From<EditError> for Problem {
    fn from(error: EditError) -> Self {
        match error {
            EditError::Invalid(invalid) => Self::invalid(&invalid.field, invalid.why),
            EditError::NotFound(what) => Self::not_found(what),
            EditError::Stale => Self::new(StatusCode::PRECONDITION_FAILED, "stale", error.to_string()),
            EditError::Second | EditError::Unconfirmed => {
                Self::new(StatusCode::CONFLICT, "second_opportunity", error.to_string())
            }
            EditError::ReferenceTaken => Self::new(StatusCode::CONFLICT, "external_reference_taken", error.to_string()),
            EditError::HasOpportunities(_) => Self::new(StatusCode::CONFLICT, "has_opportunities", error.to_string()),
            EditError::Store(error) => error.into(),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body: Json = json!({
            "type": format!("https://tandem.example/problems/{}", self.code),
            "title": self.status.canonical_reason().unwrap_or("refused"),
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
        });
        if let Some(field) = self.field {
            body["field"] = field.into();
        }
        (self.status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
    }
}

/// An address that is not served.
pub async fn no_such_page() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "no_such_page",
        "there is nothing at this address; /api/v1/openapi.json lists what there is",
    )
}
