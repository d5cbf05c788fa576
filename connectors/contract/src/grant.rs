//! How we prove who we are: a token, or an OAuth grant, which is a refresh token that is exchanged for access tokens, each
//! before the last one ends. The first refresh token is configured, or comes with the consent of a person who lets the app in.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::Mutex;
use tracing::Instrument;

use crate::{Clock, ConnectorError, Identity, Secret, Transport};

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
    /// An OAuth app that nobody let in yet.
    App {
        /// Its id.
        client_id: String,
        /// Its secret.
        client_secret: Secret,
    },
}

/// What calls are made with: a token, or a grant and the app that it was given to.
pub enum Auth<A> {
    /// The token, and what people are told when it is refused.
    Token(Secret, &'static str),
    /// The app and its grant.
    OAuth(Arc<A>, Grant),
}

impl<A: Exchange + 'static> Auth<A> {
    /// From what is configured; `app` makes the app of its id and secret, `refused` is for people.
    #[must_use]
    pub fn new(credentials: &Credentials, refused: &'static str, app: impl FnOnce(String, Secret) -> A) -> Self {
        let (client_id, client_secret, grant) = match credentials {
            Credentials::Token(token) => return Self::Token(token.clone(), refused),
            Credentials::OAuth { client_id, client_secret, refresh_token } => {
                (client_id, client_secret, Grant::new(refresh_token.clone()))
            }
            Credentials::App { client_id, client_secret } => (client_id, client_secret, Grant::default()),
        };
        Self::OAuth(Arc::new(app(client_id.clone(), client_secret.clone())), grant)
    }

    /// The app, where it is one that calls.
    pub fn app(&self) -> Option<&A> {
        match self {
            Self::Token(..) => None,
            Self::OAuth(app, _) => Some(&**app),
        }
    }

    /// Sets where a changed refresh token is kept.
    pub fn keep_by(&mut self, keep: Arc<dyn KeepRefreshToken>) {
        if let Self::OAuth(_, grant) = self {
            grant.keep = Some(keep);
        }
    }

    /// A token to call with. `refused` is one that was just answered 401: it is not handed out again.
    ///
    /// # Errors
    /// [`ConnectorError::Unauthorized`] for a configured token that was refused; else as [`Grant::token`].
    pub async fn token(
        &self,
        refused: Option<&Secret>,
        transport: &Arc<dyn Transport>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Secret, ConnectorError> {
        match self {
            Self::Token(token, _) if refused.is_none() => Ok(token.clone()),
            Self::Token(_, why) => Err(ConnectorError::Unauthorized((*why).into())),
            Self::OAuth(app, grant) => grant.token(refused, app, transport, clock).await,
        }
    }

    /// Exchanges the code that a person's consent brought, and asks `whose` account that leads to: by then it is what
    /// calls are made with. It is kept if it leads to `account`, or to any where none is known; else all is as it was.
    ///
    /// # Errors
    /// [`ConnectorError::Unauthorized`] where a token is configured; else as [`Grant::redeem`] and as `whose` answer, or
    /// if it cannot be kept.
    pub async fn redeem(
        &self,
        code: &Secret,
        account: Option<&str>,
        whose: impl Future<Output = Result<Identity, ConnectorError>> + Send,
        transport: &dyn Transport,
        clock: &dyn Clock,
    ) -> Result<Identity, ConnectorError> {
        let Self::OAuth(app, grant) = self else {
            let why = "a token is configured: there is no app to let in";
            return Err(ConnectorError::Unauthorized(why.into()));
        };
        grant.redeem(code, &**app, transport, clock).await?;
        let found = whose.await;
        let is_right = |identity: &Identity| account.is_none_or(|account| account == identity.remote_account);
        match &found {
            Ok(identity) if is_right(identity) => grant.confirm().await?,
            _ => grant.forget().await,
        }
        found
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

/// A vendor's way of exchanging a refresh token, and the code that a person's consent brings.
#[async_trait]
pub trait Exchange: Send + Sync {
    /// Exchanges a refresh token.
    ///
    /// # Errors
    /// [`ConnectorError::Unauthorized`] if the grant is gone or the app is not accepted; [`ConnectorError::NotSent`] for
    /// everything that passes: asking twice does no harm.
    async fn exchange(&self, refresh_token: &Secret, transport: &dyn Transport) -> Result<Renewed, ConnectorError>;

    /// Exchanges a code, which is good for once, for the first refresh token. A connector that asks nobody rejects it.
    ///
    /// # Errors
    /// [`ConnectorError::Unauthorized`] if the code or the app is not accepted; [`ConnectorError::NotSent`] for everything
    /// else: then it takes another code.
    async fn redeem(&self, code: &Secret, transport: &dyn Transport) -> Result<Renewed, ConnectorError> {
        let _ = (code, transport);
        Err(ConnectorError::Rejected { field: None, reason: "this connector asks nobody to let an app in".into() })
    }
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

/// A grant and the access token that is in use, the same one for every clone.
#[derive(Clone, Default)]
pub struct Grant {
    /// `None` while nobody let the app in.
    configured: Option<Secret>,
    current: Arc<Mutex<Current>>,
    keep: Option<Arc<dyn KeepRefreshToken>>,
}

#[derive(Default)]
struct Current {
    access: Option<Secret>,
    ends_at: Duration,
    refresh: Option<Secret>,
    /// What was kept when it was last looked at.
    kept: Option<Secret>,
    /// The refresh token is newer than the one that is kept.
    unkept: bool,
    /// A code brought it, and nobody has looked yet whose account it leads to.
    unconfirmed: bool,
}

impl Current {
    /// Takes in what was handed out, for a refresh token or for a code.
    fn take(&mut self, renewed: Renewed, refresh: Option<Secret>, clock: &dyn Clock) {
        let next = renewed.refresh_token.filter(|token| !token.expose().is_empty());
        // A minute early, or at half of a very short life.
        let life = renewed.expires_in.min(Duration::from_secs(86_400));
        self.ends_at = clock.elapsed() + life.saturating_sub(Duration::from_secs(60)).max(life / 2);
        self.access = Some(renewed.access_token);
        let before = refresh.as_ref().map(Secret::expose);
        self.unkept |= next.as_ref().is_some_and(|next| Some(next.expose()) != before);
        self.refresh = next.or(refresh);
    }
}

impl Grant {
    /// The grant of a configured refresh token.
    #[must_use]
    pub fn new(refresh_token: Secret) -> Self {
        Self { configured: Some(refresh_token), ..Self::default() }
    }

    /// A token to call with. `refused` is one that was just answered 401: it is not handed out again.
    ///
    /// Exchanging happens under the lock, so ten calls that meet one 401 make one exchange. It goes on where whoever asked is
    /// dropped meanwhile: the vendor may have taken the refresh token already, and tells the next one only once.
    ///
    /// # Errors
    /// [`ConnectorError`] as [`Exchange::exchange`] answers, or if a changed refresh token cannot be kept.
    pub async fn token<A: Exchange + 'static>(
        &self,
        refused: Option<&Secret>,
        exchange: &Arc<A>,
        transport: &Arc<dyn Transport>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Secret, ConnectorError> {
        let mut current = self.current.clone().lock_owned().await;
        self.keep_newest(&mut current).await?;
        if let Some(access) = &current.access {
            let is_refused = refused.is_some_and(|token| token.expose() == access.expose());
            if !is_refused && clock.elapsed() < current.ends_at {
                return Ok(access.clone());
            }
        }
        let (grant, exchange, transport, clock) = (self.clone(), exchange.clone(), transport.clone(), clock.clone());
        let renewing = async move { grant.renew(&mut current, &*exchange, &*transport, &*clock).await };
        match tokio::spawn(renewing.in_current_span()).await {
            Ok(renewed) => renewed,
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(ConnectorError::NotSent("the program ends".into())),
            },
        }
    }

    /// Exchanges a refresh token that the vendor still takes, and keeps what it became.
    async fn renew(
        &self,
        current: &mut Current,
        exchange: &dyn Exchange,
        transport: &dyn Transport,
        clock: &dyn Clock,
    ) -> Result<Secret, ConnectorError> {
        let (mut refused, mut why) = (Vec::<Secret>::new(), nobody());
        let (renewed, refresh) = loop {
            let kept = if current.unconfirmed { None } else { self.kept().await? };
            let is_news = current.refresh.is_some() && !is_same(kept.as_ref(), current.kept.as_ref());
            let mine = current.refresh.clone().or_else(|| self.configured.clone());
            // Somebody let the app in anew, or another process renewed it, while this one was at work.
            let in_order = if is_news { [kept.clone(), mine] } else { [mine, kept.clone()] };
            let is_refused = |one: &Secret| refused.iter().any(|known| known.expose() == one.expose());
            let Some(refresh) = in_order.into_iter().flatten().find(|one| !is_refused(one)) else { return Err(why) };
            match exchange.exchange(&refresh, transport).await {
                Err(error @ ConnectorError::Unauthorized(_)) => {
                    why = error;
                    refused.push(refresh);
                }
                renewed => {
                    let renewed = renewed?;
                    current.kept = kept;
                    break (renewed, refresh);
                }
            }
        };
        let access = renewed.access_token.clone();
        current.take(renewed, Some(refresh), clock);
        // Before the access token is used: after a crash the old refresh token may be worth nothing.
        self.keep_newest(current).await?;
        Ok(access)
    }

    /// Exchanges the code that a person's consent brought. What comes of it is called with from then on, and kept once it is
    /// confirmed: a grant of somebody else's account must not reach a daemon that is at work.
    ///
    /// # Errors
    /// [`ConnectorError`] as [`Exchange::redeem`] answers, or if no refresh token came.
    pub async fn redeem(
        &self,
        code: &Secret,
        exchange: &dyn Exchange,
        transport: &dyn Transport,
        clock: &dyn Clock,
    ) -> Result<(), ConnectorError> {
        let mut current = self.current.lock().await;
        let renewed = exchange.redeem(code, transport).await?;
        if renewed.refresh_token.as_ref().is_none_or(|token| token.expose().is_empty()) {
            return Err(ConnectorError::Malformed { path: "refresh_token".into() });
        }
        current.take(renewed, None, clock);
        current.unconfirmed = true;
        Ok(())
    }

    /// Keeps what a code brought.
    ///
    /// # Errors
    /// [`ConnectorError::NotSent`] if it cannot be kept.
    pub async fn confirm(&self) -> Result<(), ConnectorError> {
        let mut current = self.current.lock().await;
        current.unconfirmed = false;
        self.keep_newest(&mut current).await
    }

    /// Forgets what a code brought: the configured grant, or the one that is kept, is used again.
    pub async fn forget(&self) {
        *self.current.lock().await = Current::default();
    }

    /// The newest refresh token that is kept.
    async fn kept(&self) -> Result<Option<Secret>, ConnectorError> {
        match &self.keep {
            Some(keep) => keep.newest().await.map_err(ConnectorError::NotSent),
            None => Ok(None),
        }
    }

    async fn keep_newest(&self, current: &mut Current) -> Result<(), ConnectorError> {
        if current.unconfirmed {
            return Ok(());
        }
        if let (true, Some(newest), Some(keep)) = (current.unkept, &current.refresh, &self.keep) {
            keep.keep(newest)
                .await
                .map_err(|why| ConnectorError::NotSent(format!("the new refresh token could not be stored: {why}")))?;
            current.kept = Some(newest.clone());
        }
        current.unkept = false;
        Ok(())
    }
}

fn is_same(one: Option<&Secret>, other: Option<&Secret>) -> bool {
    one.map(Secret::expose) == other.map(Secret::expose)
}

fn nobody() -> ConnectorError {
    ConnectorError::Unauthorized(
        "nobody let the app in yet: `tandem connection authorize` asks for it, and then the connection goes on by itself"
            .into(),
    )
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use super::*;
    use crate::{HttpRequest, HttpResponse, TokioClock, TransportError};

    /// A vendor that rotates: every refresh token is good for one exchange, and the next one is longer by a star.
    #[derive(Default)]
    struct Rotating {
        /// Away for so many exchanges.
        away: AtomicUsize,
        /// Whose tokens are refused.
        refuses: &'static str,
        /// How long it takes to answer.
        slow: Duration,
        spent: std::sync::Mutex<BTreeSet<String>>,
    }

    #[async_trait]
    impl Exchange for Rotating {
        async fn exchange(&self, refresh_token: &Secret, _: &dyn Transport) -> Result<Renewed, ConnectorError> {
            let given = refresh_token.expose();
            if self.away.load(Ordering::SeqCst) > 0 {
                self.away.fetch_sub(1, Ordering::SeqCst);
                return Err(ConnectorError::NotSent("away".into()));
            }
            if !self.refuses.is_empty() && given.starts_with(self.refuses) {
                return Err(ConnectorError::Unauthorized("refused".into()));
            }
            if !self.spent.lock().unwrap().insert(given.to_owned()) {
                return Err(ConnectorError::Unauthorized("spent".into()));
            }
            tokio::time::sleep(self.slow).await;
            Ok(Renewed {
                access_token: Secret::new(format!("access of {given}")),
                expires_in: Duration::from_secs(600),
                refresh_token: Some(Secret::new(format!("{given}*"))),
            })
        }
    }

    struct Nowhere;

    #[async_trait]
    impl Transport for Nowhere {
        async fn send(&self, _: HttpRequest, _: Duration) -> Result<HttpResponse, TransportError> {
            panic!("nothing is sent")
        }
    }

    #[derive(Default)]
    struct Drawer(std::sync::Mutex<Option<String>>);

    #[async_trait]
    impl KeepRefreshToken for Drawer {
        async fn keep(&self, refresh_token: &Secret) -> Result<(), String> {
            *self.0.lock().unwrap() = Some(refresh_token.expose().to_owned());
            Ok(())
        }

        async fn newest(&self) -> Result<Option<Secret>, String> {
            Ok(self.0.lock().unwrap().clone().map(Secret::new))
        }
    }

    fn clock() -> Arc<dyn Clock> {
        Arc::new(TokioClock::starting_at(chrono::DateTime::UNIX_EPOCH))
    }

    async fn token(grant: &Grant, vendor: &Arc<Rotating>, clock: &Arc<dyn Clock>) -> Result<String, ConnectorError> {
        let nowhere: Arc<dyn Transport> = Arc::new(Nowhere);
        grant.token(None, vendor, &nowhere, clock).await.map(|token| token.expose().to_owned())
    }

    async fn next(grant: &Grant, vendor: &Arc<Rotating>, clock: &Arc<dyn Clock>) -> Result<String, ConnectorError> {
        clock.sleep(Duration::from_secs(700)).await;
        token(grant, vendor, clock).await
    }

    /// An engine that lost its lease drops what it does where it stands.
    #[tokio::test(start_paused = true)]
    async fn what_the_vendor_hands_out_is_kept_also_where_nobody_waits_for_it_any_more() {
        let drawer = Arc::new(Drawer::default());
        let grant = Grant { keep: Some(drawer.clone()), ..Grant::new(Secret::new("first")) };
        let (clock, slow) = (clock(), Duration::from_secs(10));
        let vendor = Arc::new(Rotating { slow, ..Rotating::default() });
        tokio::time::timeout(slow / 2, token(&grant, &vendor, &clock)).await.unwrap_err();
        assert!(drawer.newest().await.unwrap().is_none(), "the vendor has not answered yet");
        assert_eq!(token(&grant, &vendor, &clock).await.unwrap(), "access of first", "of the exchange under way");
        assert_eq!(drawer.newest().await.unwrap().unwrap().expose(), "first*");
        tokio::time::timeout(Duration::from_secs(700) + slow / 2, next(&grant, &vendor, &clock)).await.unwrap_err();
        clock.sleep(slow).await;
        assert_eq!(drawer.newest().await.unwrap().unwrap().expose(), "first**", "before anybody asks again");
    }

    /// Both grants are good: what was consented to last is what is called with, and it is not overwritten.
    #[tokio::test(start_paused = true)]
    async fn a_second_consent_is_taken_up_while_the_first_one_still_works() {
        let drawer = Arc::new(Drawer::default());
        let grant = Grant { keep: Some(drawer.clone()), ..Grant::new(Secret::new("first")) };
        let clock = clock();
        let vendor = Arc::new(Rotating::default());
        assert_eq!(next(&grant, &vendor, &clock).await.unwrap(), "access of first");
        assert_eq!(next(&grant, &vendor, &clock).await.unwrap(), "access of first*");
        *drawer.0.lock().unwrap() = Some("second".into());
        assert_eq!(token(&grant, &vendor, &clock).await.unwrap(), "access of first*", "until it ends");
        vendor.away.store(1, Ordering::SeqCst);
        assert!(matches!(next(&grant, &vendor, &clock).await, Err(ConnectorError::NotSent(_))));
        assert_eq!(next(&grant, &vendor, &clock).await.unwrap(), "access of second", "also after a try that failed");
        assert_eq!(drawer.newest().await.unwrap().unwrap().expose(), "second*");
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_consent_that_the_vendor_refuses_takes_nothing_away() {
        let drawer = Arc::new(Drawer::default());
        let grant = Grant { keep: Some(drawer.clone()), ..Grant::new(Secret::new("first")) };
        let clock = clock();
        let vendor = Arc::new(Rotating { refuses: "second", ..Rotating::default() });
        assert_eq!(next(&grant, &vendor, &clock).await.unwrap(), "access of first");
        *drawer.0.lock().unwrap() = Some("second".into());
        assert_eq!(next(&grant, &vendor, &clock).await.unwrap(), "access of first*");
        let nothing = Arc::new(Rotating { refuses: "first", ..Rotating::default() });
        assert!(matches!(next(&grant, &nothing, &clock).await, Err(ConnectorError::Unauthorized(_))));
    }
}
