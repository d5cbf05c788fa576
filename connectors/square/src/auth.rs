//! Who we are to Square: a personal access token, or an OAuth grant.
//!
//! Source: "OAuth API", <https://developer.squareup.com/docs/oauth-api/overview>. A grant does not end by itself; an access
//! token is good for thirty days, and Square advises to renew it every week.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use tandem_contract::{Auth, ConnectorError, Exchange, HttpRequest, Renewed, Secret, Transport};
use url::Url;

use crate::Options;

const REFUSED: &str = "Square refuses this access token: it was replaced or revoked; put the one from the Developer Console, \
                       Credentials, into the connection's credentials";

/// The longest an access token is used. Source: "Refresh, Revoke, and Limit the Scope of OAuth Tokens".
const A_WEEK: Duration = Duration::from_secs(7 * 86_400);

/// The application that the grant was given to.
pub struct App {
    client_id: String,
    client_secret: Secret,
    token_url: Option<Url>,
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
    })
}

/// How long a token is good for, by the clock of who sent it.
fn life(token: &Token, headers: &HeaderMap) -> Duration {
    let date = headers.get(header::DATE).and_then(|date| date.to_str().ok());
    let date = date.and_then(|date| DateTime::parse_from_rfc2822(date).ok());
    let left = token.expires_at.zip(date).and_then(|(ends, date)| (ends - date.to_utc()).to_std().ok());
    left.map_or(A_WEEK, |left| left.min(A_WEEK))
}

#[async_trait]
impl Exchange for App {
    async fn exchange(&self, refresh_token: &Secret, transport: &dyn Transport) -> Result<Renewed, ConnectorError> {
        let url = self.token_url.clone().ok_or_else(|| ConnectorError::NotSent("the base_url is no address".into()))?;
        let body = serde_json::json!({
            "client_id": self.client_id, "client_secret": self.client_secret.expose(), "grant_type": "refresh_token",
            "refresh_token": refresh_token.expose(),
        });
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let request = HttpRequest { method: http::Method::POST, url, headers, body: body.to_string().into() };
        let passing = |why: String| ConnectorError::NotSent(format!("refreshing the access token: {why}"));
        // Asking for a token twice does no harm, so a lost answer is as good as an unsent request.
        let answer =
            transport.send(request, Duration::from_secs(15)).await.map_err(|error| passing(error.to_string()))?;
        match answer.status {
            StatusCode::OK => {
                // A page in between that is no token says nothing about the grant.
                let token: Token = answer.json().map_err(|error| passing(error.to_string()))?;
                Ok(Renewed {
                    expires_in: life(&token, &answer.headers),
                    access_token: Secret::new(token.access_token),
                    refresh_token: token.refresh_token.map(Secret::new),
                })
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(ConnectorError::Unauthorized(
                "the grant is gone, or Square does not know this application: the seller disconnected it, or client_id \
                 and client_secret are not its own; connect Square again"
                    .into(),
            )),
            status => Err(passing(format!("Square answered {status}"))),
        }
    }
}
