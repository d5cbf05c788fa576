//! The bearer token: a static one, or one from an OAuth grant that is refreshed before it ends.
//!
//! Source: HubSpot developer documentation, "Manage OAuth tokens". Client credentials go in the body. A grant that
//! is gone stops the connection; a mistake of our own configuration is said to be one; anything else passes.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use http::StatusCode;
use tandem_contract::{Clock, ConnectorError, HttpRequest, Secret, Transport};
use tokio::sync::Mutex;
use url::Url;

use crate::{
    Options,
    wire::{ErrorEntry, Token},
};

/// How we prove who we are.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// A private app's token or a service key; it does not expire.
    Token(Secret),
    /// An OAuth grant.
    OAuth {
        /// The app's id.
        client_id: String,
        /// The app's secret.
        client_secret: Secret,
        /// The grant.
        refresh_token: Secret,
    },
}

/// Keeps a refresh token that the vendor changed.
#[async_trait]
pub trait KeepRefreshToken: Send + Sync {
    /// Stores it durably.
    ///
    /// # Errors
    /// What went wrong, for people.
    async fn keep(&self, refresh_token: &Secret) -> Result<(), String>;

    /// The newest one that is stored: another process of this installation may have renewed it.
    ///
    /// # Errors
    /// What went wrong, for people.
    async fn newest(&self) -> Result<Option<Secret>, String>;
}

pub struct Auth {
    credentials: Credentials,
    token_url: Option<Url>,
    current: Mutex<Current>,
    pub keep: Option<Arc<dyn KeepRefreshToken>>,
}

#[derive(Default)]
struct Current {
    access: Option<Secret>,
    ends_at: Duration,
    refresh: Option<Secret>,
    /// The refresh token is newer than the one that is kept.
    unkept: bool,
}

impl Auth {
    pub fn new(options: &Options) -> Self {
        let beside = || options.base_url.join(&options.api_version.token()).ok();
        let token_url = options.token_url.clone().or_else(beside);
        Self { credentials: options.credentials.clone(), token_url, current: Mutex::default(), keep: None }
    }

    /// A token to call with. `refused` is one that was just answered 401: it is not handed out again.
    ///
    /// Refreshing happens under the lock, so ten calls that meet one 401 make one refresh.
    pub async fn token(
        &self,
        refused: Option<&Secret>,
        transport: &dyn Transport,
        clock: &dyn Clock,
    ) -> Result<Secret, ConnectorError> {
        let (client_id, client_secret, first) = match &self.credentials {
            Credentials::Token(token) if refused.is_none() => return Ok(token.clone()),
            Credentials::Token(_) => {
                return Err(ConnectorError::Unauthorized(
                    "HubSpot refuses this access token: it was rotated, deleted or mistyped; put a valid one into the \
                     connection's credentials"
                        .into(),
                ));
            }
            Credentials::OAuth { client_id, client_secret, refresh_token } => (client_id, client_secret, refresh_token),
        };
        let mut current = self.current.lock().await;
        self.keep_newest(&mut current).await?;
        if let Some(access) = &current.access {
            let is_refused = refused.is_some_and(|token| token.expose() == access.expose());
            if !is_refused && clock.elapsed() < current.ends_at {
                return Ok(access.clone());
            }
        }
        let refresh = current.refresh.clone().unwrap_or_else(|| first.clone());
        let refreshed = self.refresh(client_id, client_secret, &refresh, transport).await;
        let (answer, refresh) = match (refreshed, &self.keep) {
            (Err(ConnectorError::Unauthorized(why)), Some(keep)) => {
                let newest = keep.newest().await.map_err(ConnectorError::NotSent)?;
                let Some(newest) = newest.filter(|newest| newest.expose() != refresh.expose()) else {
                    return Err(ConnectorError::Unauthorized(why));
                };
                (self.refresh(client_id, client_secret, &newest, transport).await?, newest)
            }
            (refreshed, _) => (refreshed?, refresh),
        };
        let renewed = answer.refresh_token.filter(|token| !token.is_empty()).map(Secret::new);
        let access = Secret::new(answer.access_token);
        // A minute early, or at half of a very short life.
        let life = Duration::from_secs(answer.expires_in.min(86_400));
        current.ends_at = clock.elapsed() + life.saturating_sub(Duration::from_secs(60)).max(life / 2);
        current.access = Some(access.clone());
        current.unkept |= renewed.as_ref().is_some_and(|renewed| renewed.expose() != refresh.expose());
        current.refresh = renewed.or(Some(refresh));
        // Before the access token is used: after a crash the old refresh token may be worth nothing.
        self.keep_newest(&mut current).await?;
        Ok(access)
    }

    async fn keep_newest(&self, current: &mut Current) -> Result<(), ConnectorError> {
        if let (true, Some(newest), Some(keep)) = (current.unkept, &current.refresh, &self.keep) {
            keep.keep(newest)
                .await
                .map_err(|why| ConnectorError::NotSent(format!("the new refresh token could not be stored: {why}")))?;
        }
        current.unkept = false;
        Ok(())
    }

    async fn refresh(
        &self,
        client_id: &str,
        client_secret: &Secret,
        refresh_token: &Secret,
        transport: &dyn Transport,
    ) -> Result<Token, ConnectorError> {
        let url = self.token_url.clone().ok_or_else(|| ConnectorError::NotSent("the base_url is no address".into()))?;
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("grant_type", "refresh_token")
            .append_pair("client_id", client_id)
            .append_pair("client_secret", client_secret.expose())
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
            return answer
                .json()
                .map_err(|error| ConnectorError::NotSent(format!("refreshing the access token: {error}")));
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
