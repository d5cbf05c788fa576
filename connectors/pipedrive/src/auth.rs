//! Who we are to Pipedrive: an API token, or an OAuth grant.
//!
//! Source: "Authentication", <https://pipedrive.readme.io/docs/core-api-concepts-authentication>, and "OAuth
//! authorization", <https://pipedrive.readme.io/docs/marketplace-oauth-authorization>. The app's id and secret go as
//! Basic authorisation; the answer names the company's own address.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Deserialize;
use tandem_contract::{Auth, ConnectorError, Exchange, HttpRequest, Renewed, Secret, Transport};
use url::Url;

use crate::Options;

const REFUSED: &str = "Pipedrive refuses this API token: it was renewed, or its user left; put the one from Settings, Personal \
                       preferences, API into the connection's credentials";

/// The app that the grant was given to.
pub struct App {
    client_id: String,
    client_secret: Secret,
    token_url: Option<Url>,
    domain: Mutex<Option<Url>>,
}

#[derive(Deserialize)]
struct Token {
    access_token: String,
    #[serde(default)]
    refresh_token: Option<String>,
    expires_in: u64,
    #[serde(default)]
    api_domain: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refusal {
    error: Option<String>,
}

/// What calls are made with: a user's API token, which sees what that user sees, or a grant, which ends after 60 days
/// without use.
pub fn auth(options: &Options) -> Auth<App> {
    Auth::new(&options.credentials, REFUSED, |client_id, client_secret| {
        let token_url = options.token_url.clone().or_else(|| Options::TOKEN_URL.parse().ok());
        App { client_id, client_secret, token_url, domain: Mutex::default() }
    })
}

/// The header that carries a token.
pub fn header_of(auth: &Auth<App>, token: &Secret) -> Option<(HeaderName, HeaderValue)> {
    let (name, text) = match auth {
        Auth::Token(..) => (HeaderName::from_static("x-api-token"), token.expose().to_owned()),
        Auth::OAuth(_) => (header::AUTHORIZATION, format!("Bearer {}", token.expose())),
    };
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some((name, value))
}

/// The company's own address, once an exchange named it.
pub fn domain(auth: &Auth<App>) -> Option<Url> {
    match auth {
        Auth::Token(..) => None,
        Auth::OAuth(app) => app.0.domain.lock().unwrap_or_else(PoisonError::into_inner).clone(),
    }
}

#[async_trait]
impl Exchange for App {
    async fn exchange(&self, refresh_token: &Secret, transport: &dyn Transport) -> Result<Renewed, ConnectorError> {
        let url =
            self.token_url.clone().ok_or_else(|| ConnectorError::NotSent("the token_url is no address".into()))?;
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "refresh_token")
            .append_pair("refresh_token", refresh_token.expose())
            .finish();
        let login = STANDARD.encode(format!("{}:{}", self.client_id, self.client_secret.expose()));
        let mut basic = HeaderValue::try_from(format!("Basic {login}"))
            .map_err(|_| ConnectorError::NotSent("the app's id and secret fit no header".into()))?;
        basic.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, basic);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        let request = HttpRequest { method: http::Method::POST, url, headers, body: form.into() };
        let passing = |why: String| ConnectorError::NotSent(format!("refreshing the access token: {why}"));
        // Asking for a token twice does no harm, so a lost answer is as good as an unsent request.
        let answer =
            transport.send(request, Duration::from_secs(15)).await.map_err(|error| passing(error.to_string()))?;
        if answer.status == StatusCode::OK {
            // A page in between that is no token says nothing about the grant.
            let token: Token = answer.json().map_err(|error| passing(error.to_string()))?;
            if let Some(domain) = token.api_domain.as_deref().and_then(|domain| domain.parse().ok()) {
                *self.domain.lock().unwrap_or_else(PoisonError::into_inner) = Some(domain);
            }
            return Ok(Renewed {
                access_token: Secret::new(token.access_token),
                expires_in: Duration::from_secs(token.expires_in),
                refresh_token: token.refresh_token.map(Secret::new),
            });
        }
        let refusal: Refusal = answer.json().unwrap_or_default();
        Err(match (answer.status, refusal.error.as_deref()) {
            (StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED, Some("invalid_grant")) => {
                ConnectorError::Unauthorized(
                    "the grant is gone (invalid_grant): the app was uninstalled, or not used for 60 days; connect \
                     Pipedrive again"
                        .into(),
                )
            }
            (StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED, Some(code)) => ConnectorError::Unauthorized(format!(
                "Pipedrive refuses this app ({code}): compare client_id and client_secret in the connection's credentials \
                 with the app's settings; the customer need not act"
            )),
            (status, _) => passing(format!("Pipedrive answered {status}")),
        })
    }
}
