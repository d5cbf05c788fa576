//! Who we are to Pipedrive: an API token, or an OAuth grant.
//!
//! Source: "Authentication", <https://pipedrive.readme.io/docs/core-api-concepts-authentication>, and "OAuth
//! authorization", <https://pipedrive.readme.io/docs/marketplace-oauth-authorization>. The app's id and secret go as
//! Basic authorisation; the answer names the company's own address.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::Deserialize;
use tandem_contract::{
    Clock, ConnectorError, Exchange, Grant, HttpRequest, KeepRefreshToken, Renewed, Secret, Transport,
};
use url::Url;

use crate::Options;

/// How we prove who we are.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// A user's API token; it does not expire, and sees what that user sees.
    Token(Secret),
    /// An OAuth grant.
    OAuth {
        /// The app's id.
        client_id: String,
        /// The app's secret.
        client_secret: Secret,
        /// The grant. It ends after 60 days without use.
        refresh_token: Secret,
    },
}

pub enum Auth {
    Token(Secret),
    OAuth(Box<(App, Grant)>),
}

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

impl Auth {
    pub fn new(options: &Options) -> Self {
        match &options.credentials {
            Credentials::Token(token) => Self::Token(token.clone()),
            Credentials::OAuth { client_id, client_secret, refresh_token } => {
                let token_url = options.token_url.clone().or_else(|| Options::TOKEN_URL.parse().ok());
                let app = App {
                    client_id: client_id.clone(),
                    client_secret: client_secret.clone(),
                    token_url,
                    domain: Mutex::default(),
                };
                Self::OAuth(Box::new((app, Grant::new(refresh_token.clone()))))
            }
        }
    }

    pub fn keep_by(&mut self, keep: Arc<dyn KeepRefreshToken>) {
        if let Self::OAuth(app) = self {
            app.1.keep_by(keep);
        }
    }

    /// A token to call with. `refused` is one that was just answered 401: it is not handed out again.
    pub async fn token(
        &self,
        refused: Option<&Secret>,
        transport: &dyn Transport,
        clock: &dyn Clock,
    ) -> Result<Secret, ConnectorError> {
        match self {
            Self::Token(token) if refused.is_none() => Ok(token.clone()),
            Self::Token(_) => Err(ConnectorError::Unauthorized(
                "Pipedrive refuses this API token: it was renewed, or its user left; put the one from Settings, Personal \
                 preferences, API into the connection's credentials"
                    .into(),
            )),
            Self::OAuth(app) => app.1.token(refused, &app.0, transport, clock).await,
        }
    }

    /// The header that carries a token.
    pub fn header(&self, token: &Secret) -> Option<(HeaderName, HeaderValue)> {
        let (name, text) = match self {
            Self::Token(_) => (HeaderName::from_static("x-api-token"), token.expose().to_owned()),
            Self::OAuth(_) => (header::AUTHORIZATION, format!("Bearer {}", token.expose())),
        };
        let mut value = HeaderValue::try_from(text).ok()?;
        value.set_sensitive(true);
        Some((name, value))
    }

    /// The company's own address, once an exchange named it.
    pub fn domain(&self) -> Option<Url> {
        match self {
            Self::Token(_) => None,
            Self::OAuth(app) => app.0.domain.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
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
