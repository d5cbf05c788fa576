//! Who we are to Pipedrive: an API token, or an app that a person let in.
//!
//! Source: "Authentication", <https://pipedrive.readme.io/docs/core-api-concepts-authentication>; "OAuth authorization",
//! <https://pipedrive.readme.io/docs/marketplace-oauth-authorization>; "OAuth status codes",
//! <https://pipedrive.readme.io/docs/marketplace-oauth-and-api-proxy-status-codes>. The app's id and secret go as Basic
//! authorisation; the answer names the company's own address. What an app may do is set where it is registered.

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
const GONE: &str = "the grant is gone (invalid_grant): the app was uninstalled, or not used for 60 days; connect Pipedrive \
                    again, with `tandem connection authorize` or another refresh_token";
const SPENT: &str = "Pipedrive does not take the code (invalid_grant): it is good for five minutes and for one exchange; ask \
                     for another";

/// The app that the grant was given to.
pub struct App {
    client_id: String,
    client_secret: Secret,
    token_url: Option<Url>,
    authorize_url: Option<Url>,
    redirect_uri: Option<String>,
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

impl Refusal {
    /// Its code, which is also met in words: "Invalid grant: refresh_token is invalid". Other words are not repeated.
    fn code(&self) -> Option<&'static str> {
        let said = self.error.as_deref()?.to_ascii_lowercase().replace(' ', "_");
        let known =
            ["invalid_grant", "invalid_client", "invalid_request", "unauthorized_client", "unsupported_grant_type"];
        Some(known.into_iter().find(|code| said.starts_with(*code)).unwrap_or("for a reason of its own"))
    }
}

/// What calls are made with: a user's API token, which sees what that user sees, or a grant, which ends after 60 days
/// without use.
pub fn auth(options: &Options) -> Auth<App> {
    Auth::new(&options.credentials, REFUSED, |client_id, client_secret| {
        let or_theirs = |given: &Option<Url>, theirs: &str| given.clone().or_else(|| theirs.parse().ok());
        App {
            client_id,
            client_secret,
            token_url: or_theirs(&options.token_url, Options::TOKEN_URL),
            authorize_url: or_theirs(&options.authorize_url, Options::AUTHORIZE_URL),
            redirect_uri: options.redirect_uri.clone(),
            domain: Mutex::default(),
        }
    })
}

/// The header that carries a token.
pub fn header_of(auth: &Auth<App>, token: &Secret) -> Option<(HeaderName, HeaderValue)> {
    let (name, text) = match auth {
        Auth::Token(..) => (HeaderName::from_static("x-api-token"), token.expose().to_owned()),
        Auth::OAuth(..) => (header::AUTHORIZATION, format!("Bearer {}", token.expose())),
    };
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some((name, value))
}

/// The company's own address, once an exchange named it.
pub fn domain(auth: &Auth<App>) -> Option<Url> {
    match auth {
        Auth::Token(..) => None,
        Auth::OAuth(app, _) => app.domain.lock().unwrap_or_else(PoisonError::into_inner).clone(),
    }
}

impl App {
    /// Where a person lets the app in; `None` without the address that the browser is to go back to.
    pub fn consent(&self, state: &str) -> Option<Url> {
        let redirect_uri = self.redirect_uri.as_deref()?;
        let mut url = self.authorize_url.clone()?;
        let query = [("client_id", self.client_id.as_str()), ("redirect_uri", redirect_uri), ("state", state)];
        url.query_pairs_mut().extend_pairs(query);
        Some(url)
    }

    /// Asks for tokens; `what` is said of what passes, `gone` of an `invalid_grant`.
    async fn tokens(
        &self,
        what: &str,
        form: &[(&str, &str)],
        gone: &str,
        transport: &dyn Transport,
    ) -> Result<Renewed, ConnectorError> {
        let url =
            self.token_url.clone().ok_or_else(|| ConnectorError::NotSent("the token_url is no address".into()))?;
        let form = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let login = STANDARD.encode(format!("{}:{}", self.client_id, self.client_secret.expose()));
        let mut basic = HeaderValue::try_from(format!("Basic {login}"))
            .map_err(|_| ConnectorError::NotSent("the app's id and secret fit no header".into()))?;
        basic.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, basic);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        let request = HttpRequest { method: http::Method::POST, url, headers, body: form.into() };
        let passing = |why: String| ConnectorError::NotSent(format!("{what}: {why}"));
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
        Err(match (answer.status, refusal.code()) {
            (StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED, Some("invalid_grant")) => {
                ConnectorError::Unauthorized(gone.into())
            }
            (StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED, Some(code)) => ConnectorError::Unauthorized(format!(
                "Pipedrive refuses this app ({code}): compare client_id, client_secret and redirect_uri with the app's \
                 settings; the customer need not act"
            )),
            (status, _) => passing(format!("Pipedrive answered {status}")),
        })
    }
}

#[async_trait]
impl Exchange for App {
    async fn exchange(&self, refresh_token: &Secret, transport: &dyn Transport) -> Result<Renewed, ConnectorError> {
        let form = [("grant_type", "refresh_token"), ("refresh_token", refresh_token.expose())];
        self.tokens("refreshing the access token", &form, GONE, transport).await
    }

    async fn redeem(&self, code: &Secret, transport: &dyn Transport) -> Result<Renewed, ConnectorError> {
        let redirect_uri = self.redirect_uri.as_deref().unwrap_or_default();
        let form = [("grant_type", "authorization_code"), ("code", code.expose()), ("redirect_uri", redirect_uri)];
        self.tokens("exchanging the code", &form, SPENT, transport).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_known_by_its_code_and_in_words_and_nothing_else_is_repeated() {
        let code = |error: &str| Refusal { error: Some(error.into()) }.code();
        assert_eq!(code("invalid_grant"), Some("invalid_grant"));
        assert_eq!(code("Invalid grant: refresh_token is invalid"), Some("invalid_grant"));
        assert_eq!(code("Invalid client: client is invalid"), Some("invalid_client"));
        assert_eq!(code("Jane Roe left"), Some("for a reason of its own"));
        assert_eq!(Refusal::default().code(), None);
    }
}
