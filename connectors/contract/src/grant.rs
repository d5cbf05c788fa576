//! How we prove who we are: a token, or an OAuth grant, which is a refresh token that is exchanged for access tokens, each
//! before the last one ends.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::Mutex;

use crate::{Clock, ConnectorError, Secret, Transport};

/// What an operator configures.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// A token that people made at the vendor; it does not expire.
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

/// What calls are made with: a token, or a grant and the app that it was given to.
pub enum Auth<A> {
    /// The token, and what people are told when it is refused.
    Token(Secret, &'static str),
    /// The app and its grant.
    OAuth(Box<(A, Grant)>),
}

impl<A: Exchange> Auth<A> {
    /// From what is configured; `app` makes the app of its id and secret, `refused` is for people.
    #[must_use]
    pub fn new(credentials: &Credentials, refused: &'static str, app: impl FnOnce(String, Secret) -> A) -> Self {
        match credentials {
            Credentials::Token(token) => Self::Token(token.clone(), refused),
            Credentials::OAuth { client_id, client_secret, refresh_token } => {
                let app = app(client_id.clone(), client_secret.clone());
                Self::OAuth(Box::new((app, Grant::new(refresh_token.clone()))))
            }
        }
    }

    /// Sets where a changed refresh token is kept.
    pub fn keep_by(&mut self, keep: Arc<dyn KeepRefreshToken>) {
        if let Self::OAuth(app) = self {
            app.1.keep = Some(keep);
        }
    }

    /// A token to call with. `refused` is one that was just answered 401: it is not handed out again.
    ///
    /// # Errors
    /// [`ConnectorError::Unauthorized`] for a configured token that was refused; else as [`Grant::token`].
    pub async fn token(
        &self,
        refused: Option<&Secret>,
        transport: &dyn Transport,
        clock: &dyn Clock,
    ) -> Result<Secret, ConnectorError> {
        match self {
            Self::Token(token, _) if refused.is_none() => Ok(token.clone()),
            Self::Token(_, why) => Err(ConnectorError::Unauthorized((*why).into())),
            Self::OAuth(app) => app.1.token(refused, &app.0, transport, clock).await,
        }
    }
}

/// What a vendor hands out for a refresh token.
pub struct Renewed {
    /// The token to call with.
    pub access_token: Secret,
    /// How long it is good for.
    pub expires_in: Duration,
    /// The refresh token from now on, if the vendor sent one.
    pub refresh_token: Option<Secret>,
}

/// A vendor's way of exchanging a refresh token.
#[async_trait]
pub trait Exchange: Send + Sync {
    /// Exchanges it.
    ///
    /// # Errors
    /// [`ConnectorError::Unauthorized`] if the grant is gone or the app is not accepted; [`ConnectorError::NotSent`] for
    /// everything that passes: asking twice does no harm.
    async fn exchange(&self, refresh_token: &Secret, transport: &dyn Transport) -> Result<Renewed, ConnectorError>;
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

/// A grant and the access token that is in use.
pub struct Grant {
    configured: Secret,
    current: Mutex<Current>,
    keep: Option<Arc<dyn KeepRefreshToken>>,
}

#[derive(Default)]
struct Current {
    access: Option<Secret>,
    ends_at: Duration,
    refresh: Option<Secret>,
    /// The refresh token is newer than the one that is kept.
    unkept: bool,
}

impl Grant {
    /// The grant of a configured refresh token.
    #[must_use]
    pub fn new(refresh_token: Secret) -> Self {
        Self { configured: refresh_token, current: Mutex::default(), keep: None }
    }

    /// A token to call with. `refused` is one that was just answered 401: it is not handed out again.
    ///
    /// Exchanging happens under the lock, so ten calls that meet one 401 make one exchange.
    ///
    /// # Errors
    /// [`ConnectorError`] as [`Exchange::exchange`] answers, or if a changed refresh token cannot be kept.
    pub async fn token(
        &self,
        refused: Option<&Secret>,
        exchange: &dyn Exchange,
        transport: &dyn Transport,
        clock: &dyn Clock,
    ) -> Result<Secret, ConnectorError> {
        let mut current = self.current.lock().await;
        self.keep_newest(&mut current).await?;
        if let Some(access) = &current.access {
            let is_refused = refused.is_some_and(|token| token.expose() == access.expose());
            if !is_refused && clock.elapsed() < current.ends_at {
                return Ok(access.clone());
            }
        }
        let refresh = current.refresh.clone().unwrap_or_else(|| self.configured.clone());
        let (renewed, refresh) = match (exchange.exchange(&refresh, transport).await, &self.keep) {
            (Err(ConnectorError::Unauthorized(why)), Some(keep)) => {
                let newest = keep.newest().await.map_err(ConnectorError::NotSent)?;
                let Some(newest) = newest.filter(|newest| newest.expose() != refresh.expose()) else {
                    return Err(ConnectorError::Unauthorized(why));
                };
                (exchange.exchange(&newest, transport).await?, newest)
            }
            (renewed, _) => (renewed?, refresh),
        };
        let next = renewed.refresh_token.filter(|token| !token.expose().is_empty());
        // A minute early, or at half of a very short life.
        let life = renewed.expires_in.min(Duration::from_secs(86_400));
        current.ends_at = clock.elapsed() + life.saturating_sub(Duration::from_secs(60)).max(life / 2);
        current.access = Some(renewed.access_token.clone());
        current.unkept |= next.as_ref().is_some_and(|next| next.expose() != refresh.expose());
        current.refresh = next.or(Some(refresh));
        // Before the access token is used: after a crash the old refresh token may be worth nothing.
        self.keep_newest(&mut current).await?;
        Ok(renewed.access_token)
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
}
