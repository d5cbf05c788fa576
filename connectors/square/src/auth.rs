//! Who we are to Square: a personal access token, or an application that a seller let in.
//!
//! Source: "OAuth API", <https://developer.squareup.com/docs/oauth-api/overview>. A grant does not end by itself; an access
//! token is good for thirty days, and Square advises to renew it every week. What an application may do is asked for with
//! the consent, and the seller permits all of it or nothing.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tandem_contract::{Auth, ConnectorError, Exchange, HttpRequest, Renewed, Secret, Transport};
use url::Url;

use crate::Options;

const REFUSED: &str = "Square refuses this access token: it was replaced or revoked; put the one from the Developer Console, \
                       Credentials, into the connection's credentials";
const GONE: &str = "the grant is gone, or Square does not know this application: the seller disconnected it, or \
                    client_id and client_secret are not its own; connect Square again, with `tandem connection \
                    authorize` or another refresh_token";
const SPENT: &str = "Square does not take the code: it is good for five minutes and for one exchange; ask for another, \
                     and if that is refused as well, compare client_id, client_secret and redirect_uri with the \
                     application's OAuth page in the Developer Console";
const STRANGER: &str = "Square does not know this application: client_id or client_secret in the connection's \
                        credentials is not its own, or is of Square's sandbox; the seller need not act";
const WRONG: &str = "Square refuses what this application asks for: compare client_id, client_secret and redirect_uri \
                     with the application's OAuth page in the Developer Console; the seller need not act";

/// What a seller is asked to permit: whatever is read here, the news of it by webhook, customers that are written, and
/// what checkouts are made of. Source: "OAuth Permissions".
const SCOPES: [&str; 10] = [
    "MERCHANT_PROFILE_READ",
    "CUSTOMERS_READ",
    "CUSTOMERS_WRITE",
    "INVOICES_READ",
    "INVOICES_WRITE",
    "ITEMS_READ",
    "ORDERS_READ",
    "ORDERS_WRITE",
    "PAYMENTS_READ",
    "PAYMENTS_WRITE",
];

/// The longest an access token is used. Source: "Refresh, Revoke, and Limit the Scope of OAuth Tokens".
const A_WEEK: Duration = Duration::from_secs(7 * 86_400);

/// The application that the grant was given to.
pub struct App {
    client_id: String,
    client_secret: Secret,
    token_url: Option<Url>,
    authorize_url: Option<Url>,
    redirect_uri: Option<String>,
    read_only: bool,
}

#[derive(Deserialize)]
struct Token {
    access_token: String,
    #[serde(default)]
    refresh_token: Option<String>,
    #[serde(default)]
    expires_at: Option<DateTime<Utc>>,
}

/// What calls are made with.
pub fn auth(options: &Options) -> Auth<App> {
    Auth::new(&options.credentials, REFUSED, |client_id, client_secret| App {
        client_id,
        client_secret,
        token_url: options.base_url.join("/oauth2/token").ok(),
        authorize_url: options.authorize_url.clone().or_else(|| options.base_url.join("/oauth2/authorize").ok()),
        redirect_uri: options.redirect_uri.clone(),
        read_only: options.read_only,
    })
}

/// How long a token is good for, by the clock of who sent it.
fn life(token: &Token, headers: &HeaderMap) -> Duration {
    let date = headers.get(header::DATE).and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| DateTime::parse_from_rfc2822(date).ok());
    let left = token.expires_at.zip(date).and_then(|(ends, date)| (ends - date.to_utc()).to_std().ok());
    left.map_or(A_WEEK, |left| left.min(A_WEEK))
}

impl App {
    /// Where a seller lets the application in; `None` without the address that the browser is to go back to.
    pub fn consent(&self, state: &str) -> Option<Url> {
        let redirect_uri = self.redirect_uri.as_deref()?;
        let mut url = self.authorize_url.clone()?;
        let asked: Vec<&str> = SCOPES.into_iter().filter(|scope| !self.read_only || scope.ends_with("_READ")).collect();
        let scope = asked.join(" ");
        // Whoever is logged in to Square in that browser may be another seller: they log in anew.
        let query = [
            ("client_id", self.client_id.as_str()),
            ("scope", scope.as_str()),
            ("session", "false"),
            ("state", state),
            ("redirect_uri", redirect_uri),
        ];
        url.query_pairs_mut().extend_pairs(query);
        Some(url)
    }

    /// Asks for tokens; `what` is said of what passes, `gone` of a grant or a code that is not taken.
    async fn tokens(
        &self,
        what: &str,
        mut body: Json,
        gone: &str,
        transport: &dyn Transport,
    ) -> Result<Renewed, ConnectorError> {
        let url = self.token_url.clone().ok_or_else(|| ConnectorError::NotSent("the base_url is no address".into()))?;
        body["client_id"] = self.client_id.as_str().into();
        body["client_secret"] = self.client_secret.expose().into();
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let request = HttpRequest { method: http::Method::POST, url, headers, body: body.to_string().into() };
        let passing = |why: String| ConnectorError::NotSent(format!("{what}: {why}"));
        // Asking for a token twice does no harm, so a lost answer is as good as an unsent request.
        let answer =
            transport.send(request, Duration::from_secs(15)).await.map_err(|error| passing(error.to_string()))?;
        if answer.status == StatusCode::OK {
            // A page in between that is no token says nothing about the grant.
            let token: Token = answer.json().map_err(|error| passing(error.to_string()))?;
            return Ok(Renewed {
                expires_in: life(&token, &answer.headers),
                access_token: Secret::new(token.access_token),
                refresh_token: token.refresh_token.map(Secret::new),
            });
        }
        let refusal: Json = answer.json().unwrap_or_default();
        Err(match answer.status {
            // Not documented: an application that is not known is refused without any of Square's errors.
            StatusCode::UNAUTHORIZED if refusal["type"] == "service.not_authorized" => {
                ConnectorError::Unauthorized(STRANGER.into())
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ConnectorError::Unauthorized(gone.into()),
            StatusCode::BAD_REQUEST if refusal["errors"].is_array() => ConnectorError::Unauthorized(WRONG.into()),
            status => passing(format!("Square answered {status}")),
        })
    }
}

#[async_trait]
impl Exchange for App {
    async fn exchange(&self, refresh_token: &Secret, transport: &dyn Transport) -> Result<Renewed, ConnectorError> {
        let body = json!({ "grant_type": "refresh_token", "refresh_token": refresh_token.expose() });
        self.tokens("refreshing the access token", body, GONE, transport).await
    }

    async fn redeem(&self, code: &Secret, transport: &dyn Transport) -> Result<Renewed, ConnectorError> {
        let body = json!({
            "grant_type": "authorization_code", "code": code.expose(), "redirect_uri": self.redirect_uri,
        });
        self.tokens("exchanging the code", body, SPENT, transport).await
    }
}
