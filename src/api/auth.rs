//! Who is asking: a token belongs to an account; the bootstrap token names the account it acts in.

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, header, request::Parts},
};
use subtle::ConstantTimeEq;

use super::{Door, problem::Problem};
use crate::model::{Account, digest};

/// The account the caller acts in.
pub struct Caller(pub Account);

impl FromRequestParts<Door> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, door: &Door) -> Result<Self, Problem> {
        let token =
            parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let token =
            token.ok_or_else(|| refused("send a token: `Authorization: Bearer …`; `tandem token create` makes one"))?;
        let inner = &door.0;
        let is_bootstrap =
            inner.bootstrap.as_ref().is_some_and(|right| bool::from(right.expose().as_bytes().ct_eq(token.as_bytes())));
        let name = if is_bootstrap {
            let named = parts.headers.get("tandem-account").and_then(|value| value.to_str().ok()?.parse().ok());
            let only =
                inner.installation.accounts.keys().next().filter(|_| inner.installation.accounts.len() == 1).cloned();
            named.or(only).ok_or_else(|| {
                Problem::new(
                    StatusCode::BAD_REQUEST,
                    "account_missing",
                    "the bootstrap token serves every account: name one in the header Tandem-Account",
                )
            })?
        } else {
            let found = inner.installation.store.account_of_token(&digest(token.as_bytes())).await?;
            found.ok_or_else(|| refused("this token is not known: it was mistyped or never made here"))?
        };
        let account = inner.installation.accounts.get(&name).cloned();
        account.map(Self).ok_or_else(|| Problem::not_found("account"))
    }
}

fn refused(detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
}
