//! Parts of a request, refused in the API's own words where they do not parse.

use axum::{
    extract::{
        FromRequestParts,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::StatusCode,
};

use super::problem::Problem;

/// The members of the query.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Problem))]
pub struct Query<T>(pub T);

/// The variable parts of the path.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Problem))]
pub struct Path<T>(pub T);

fn bad(status: StatusCode, detail: String) -> Problem {
    Problem::new(status, "bad_request", detail)
}

impl From<QueryRejection> for Problem {
    fn from(refused: QueryRejection) -> Self {
        bad(refused.status(), refused.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(refused: PathRejection) -> Self {
        bad(refused.status(), refused.body_text())
    }
}

impl From<JsonRejection> for Problem {
    fn from(refused: JsonRejection) -> Self {
        bad(refused.status(), refused.body_text())
    }
}
