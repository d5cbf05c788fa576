//! The daemon that works on the same database, if there is one: commands that change something are asked of it, so that
//! its engines are woken at once. Without one, or without a token for it, they are written to the database, which an
//! engine notices by itself within seconds.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use serde_json::Value as Json;
use tandem_contract::{HttpRequest, ReqwestTransport, Secret, Transport};
use url::Url;

use crate::{
    installation::{Installation, SetupError},
    model::Name,
    sync::connection::Connection,
};

/// How long the daemon may take by itself.
const SOON: Duration = Duration::from_secs(30);

/// A running daemon's API.
pub struct Daemon {
    transport: Arc<dyn Transport>,
    base: Url,
    token: Secret,
}

impl Daemon {
    /// The daemon of this installation, if one runs and the configuration has a token for it.
    ///
    /// # Errors
    /// A token that is configured and cannot be read.
    pub async fn of(installation: &Installation) -> anyhow::Result<Option<Self>> {
        let config = &installation.config;
        // Nobody works on the file: whatever listens at the address is not ours, and is not shown our token.
        if installation.store.is_sqlite() && !matches!(installation.lock(), Err(SetupError::Locked(_))) {
            return Ok(None);
        }
        let Some(token) = &config.auth.bootstrap_token else { return Ok(None) };
        let token = token.secret("auth.bootstrap_token", &config.folder)?;
        let listen = config.http.listen.resolve("http.listen", &config.folder)?;
        let base = Url::parse(&format!("http://{}", listen.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]")));
        let Ok(base) = base else { return Ok(None) };
        let transport = Arc::new(ReqwestTransport::new().map_err(anyhow::Error::msg)?);
        let daemon = Self { transport, base, token };
        let alive = daemon.ask("GET", "/healthz", None, &Json::Null, Duration::from_secs(2)).await;
        Ok(alive.is_ok_and(|(status, body)| status == 200 && body.starts_with("alive")).then_some(daemon))
    }

    /// Asks for a change in an account.
    ///
    /// # Errors
    /// The daemon's own words, if it refuses.
    pub async fn post(&self, account: &Name, path: &str, body: &Json) -> anyhow::Result<Json> {
        self.call("POST", account, path, body, SOON).await
    }

    /// Asks for what a vendor is to carry out, and waits longer than the daemon; without a body where that is null.
    ///
    /// # Errors
    /// The daemon's own words, if it refuses.
    pub async fn carry_out(&self, method: &str, at: &Connection, path: &str, body: &Json) -> anyhow::Result<Json> {
        self.call(method, &at.account.name, path, body, at.connector.push_deadline() + SOON).await
    }

    async fn call(
        &self,
        method: &str,
        account: &Name,
        path: &str,
        body: &Json,
        timeout: Duration,
    ) -> anyhow::Result<Json> {
        let (status, text) = self.ask(method, path, Some(account), body, timeout).await?;
        let answer: Json = serde_json::from_str(&text).unwrap_or_default();
        anyhow::ensure!(
            (200..300).contains(&status),
            "the daemon refuses: {}",
            answer["detail"].as_str().unwrap_or("it does not say why; its log does")
        );
        Ok(answer)
    }

    async fn ask(
        &self,
        method: &str,
        path: &str,
        account: Option<&Name>,
        body: &Json,
        timeout: Duration,
    ) -> anyhow::Result<(u16, String)> {
        use axum::http::{HeaderMap, HeaderValue, header};
        let mut headers = HeaderMap::new();
        if let Some(account) = account {
            let mut bearer = HeaderValue::try_from(format!("Bearer {}", self.token.expose()))
                .map_err(|_| anyhow::anyhow!("auth.bootstrap_token holds characters no header may carry"))?;
            bearer.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, bearer);
            headers.insert("tandem-account", HeaderValue::try_from(account.as_str())?);
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let body = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        let request = HttpRequest { method: method.parse()?, url: self.base.join(path)?, headers, body: body.into() };
        let answer = self.transport.send(request, timeout).await.context("asking the daemon")?;
        Ok((answer.status.as_u16(), String::from_utf8_lossy(&answer.body).into_owned()))
    }
}
