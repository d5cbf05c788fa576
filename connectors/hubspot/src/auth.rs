//! The bearer token: a static one, or one from an OAuth grant that is refreshed before it ends.
//!
//! Source: HubSpot developer documentation, "Manage OAuth tokens". Client credentials go in the body. A grant that
//! is gone stops the connection; a mistake of our own configuration is said to be one; anything else passes.

use std::time::Duration;

use async_trait::async_trait;
use http::StatusCode;
use tandem_contract::{Auth, ConnectorError, Exchange, HttpRequest, Renewed, Secret, Transport};
use url::Url;

use crate::{
    Options,
    wire::{ErrorEntry, Token},
};

const REFUSED: &str = "HubSpot refuses this access token: it was rotated, deleted or mistyped; put a valid one into the \
                       connection's credentials";

/// The app that the grant was given to.
pub struct App {
    client_id: String,
    client_secret: Secret,
    token_url: Option<Url>,
}

/// What calls are made with: a private app's token or a service key, or a grant.
pub fn auth(options: &Options) -> Auth<App> {
    Auth::new(&options.credentials, REFUSED, |client_id, client_secret| {
        let beside = || options.base_url.join(&options.api_version.token()).ok();
        App { client_id, client_secret, token_url: options.token_url.clone().or_else(beside) }
    })
}

#[async_trait]
impl Exchange for App {
    async fn exchange(&self, refresh_token: &Secret, transport: &dyn Transport) -> Result<Renewed, ConnectorError> {
        let url = self.token_url.clone().ok_or_else(|| ConnectorError::NotSent("the base_url is no address".into()))?;
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "refresh_token")
            .append_pair("client_id", &self.client_id)
            .append_pair("client_secret", self.client_secret.expose())
            .append_pair("refresh_token", refresh_token.expose())
            .finish();
        let mut headers = http::HeaderMap::new();
        headers.insert(
            http::header::CONTENT_TYPE,
            http::HeaderValue::from_static("application/x-www-form-urlencoded;charset=utf-8"),
        );
        let request = HttpRequest { method: http::Method::POST, url, headers, body: form.into() };
        // Asking for a token twice does no harm, so a lost answer is as good as an unsent request.
        let answer = transport
            .send(request, Duration::from_secs(15))
            .await
            .map_err(|error| ConnectorError::NotSent(format!("refreshing the access token: {error}")))?;
        if answer.status == StatusCode::OK {
            // Asked for again later: a page in between that is no token says nothing about the grant.
            let token: Token = answer
                .json()
                .map_err(|error| ConnectorError::NotSent(format!("refreshing the access token: {error}")))?;
            return Ok(Renewed {
                access_token: Secret::new(token.access_token),
                expires_in: Duration::from_secs(token.expires_in),
                refresh_token: token.refresh_token.map(Secret::new),
            });
        }
        let refusal: ErrorEntry = answer.json().unwrap_or_default();
        Err(match refusal.status.as_deref().or(refusal.error.as_deref()) {
            Some(code @ ("BAD_REFRESH_TOKEN" | "BAD_HUB" | "invalid_grant" | "access_denied")) => {
                ConnectorError::Unauthorized(format!(
                    "the grant is gone ({code}): the app was uninstalled or access was revoked; connect HubSpot again"
                ))
            }
            Some(code @ ("BAD_CLIENT_ID" | "BAD_CLIENT_SECRET" | "invalid_client")) => {
                ConnectorError::Unauthorized(format!(
                    "HubSpot refuses this app ({code}): client_id or client_secret in the connection's credentials is \
                     wrong; the customer need not act"
                ))
            }
            Some(code) if answer.status == StatusCode::BAD_REQUEST || answer.status == StatusCode::UNAUTHORIZED => {
                ConnectorError::Unauthorized(format!(
                    "HubSpot refuses this app ({code}): compare the connection's credentials with the app's settings; \
                     the customer need not act"
                ))
            }
            _ => ConnectorError::NotSent(format!("refreshing the access token: HubSpot answered {}", answer.status)),
        })
    }
}
