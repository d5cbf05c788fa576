//! Who we are to the server: a token, a client's secret, or a key of our own (SMART Backend Services).
//!
//! Source: "Backend Services" and "Client Authentication: Asymmetric" of SMART App Launch,
//! <https://hl7.org/fhir/smart-app-launch/backend-services.html>. There is no refresh token: a new access token is asked for
//! before the last one ends.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::{Deserialize, Serialize};
use tandem_contract::{Auth, Clock, ConnectorError, Exchange, Grant, HttpRequest, Renewed, Secret, Transport};
use url::Url;

use crate::Options;

const REFUSED: &str =
    "the server refuses this token: it was replaced or has ended; put a new one into the connection's credentials";
const TIMEOUT: Duration = Duration::from_secs(15);
/// How far ahead an assertion ends: five minutes are the most, one is left to clocks that differ.
const ASSERTION: i64 = 240;
/// The shortest life that a token is taken for, where the server does not say.
const FIVE_MINUTES: u64 = 300;

/// Who we are.
#[derive(Clone, Debug)]
pub enum Login {
    /// A token that people made at the vendor.
    Token(Secret),
    /// A client and its secret.
    Client {
        /// Its id.
        client_id: String,
        /// Its secret.
        client_secret: Secret,
    },
    /// A client and its private key.
    Key {
        /// Its id.
        client_id: String,
        /// The key's id in the set that was registered.
        key_id: String,
        /// The key.
        key: PrivateKey,
    },
}

/// A private key that assertions are signed with.
#[derive(Clone)]
pub struct PrivateKey {
    algorithm: Algorithm,
    key: EncodingKey,
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PrivateKey({:?})", self.algorithm)
    }
}

impl PrivateKey {
    /// Reads a PEM: an RSA key signs RS384, one on the curve P-384 signs ES384.
    ///
    /// # Errors
    /// What it is not; never quotes it.
    pub fn from_pem(pem: &Secret) -> Result<Self, &'static str> {
        let bytes = pem.expose().as_bytes();
        let made = EncodingKey::from_rsa_pem(bytes).map(|key| Self { algorithm: Algorithm::RS384, key });
        let made =
            made.or_else(|_| EncodingKey::from_ec_pem(bytes).map(|key| Self { algorithm: Algorithm::ES384, key }));
        let made = made.map_err(|_| "is no private key in PEM: an RSA key, or an EC key on P-384 in PKCS#8")?;
        // A key of another curve is read as well, and refused where it is used.
        made.sign("probe", &Claims { iss: "", sub: "", aud: "", exp: 0, iat: 0, jti: String::new() })
            .map_err(|_| "is a key that can sign neither RS384 nor ES384: use RSA, or EC on P-384")?;
        Ok(made)
    }

    fn sign(&self, key_id: &str, claims: &Claims<'_>) -> jsonwebtoken::errors::Result<String> {
        let header = Header { kid: Some(key_id.to_owned()), ..Header::new(self.algorithm) };
        jsonwebtoken::encode(&header, claims, &self.key)
    }
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    exp: i64,
    iat: i64,
    jti: String,
}

/// An assertion's own name, new to the server also after a restart.
#[expect(clippy::disallowed_methods, reason = "nothing depends on it but that it is new")]
fn fresh() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// The client that asks for tokens.
pub struct Client {
    login: Login,
    base_url: Url,
    token_url: Option<Url>,
    scopes: Scopes,
    clock: Arc<dyn Clock>,
    granted: Arc<Mutex<Option<String>>>,
}

/// What is asked for: the smallest set that the settings need.
#[derive(Clone, Debug)]
struct Scopes {
    writes: bool,
    plans: bool,
}

impl Scopes {
    /// As the second version of SMART writes them, or the first.
    fn text(&self, second: bool) -> String {
        let (read, write, all) = if second { ("rs", "crus", "cruds") } else { ("read", "write", "*") };
        let mut scopes: Vec<String> = ["Patient", "Appointment", "Encounter", "Invoice", "ChargeItem"]
            .map(|kind| format!("system/{kind}.{read}"))
            .to_vec();
        if self.plans {
            scopes.push(format!("system/ServiceRequest.{read}"));
        }
        if self.writes {
            scopes.extend(["Patient", "Appointment"].map(|kind| format!("system/{kind}.{write}")));
            scopes.extend(["Schedule", "Slot"].map(|kind| format!("system/{kind}.{read}")));
        }
        scopes.push(format!("system/Subscription.{all}"));
        // What may be written and read is one letter more, not another scope.
        if second && self.writes {
            scopes.retain(|scope| scope != "system/Patient.rs" && scope != "system/Appointment.rs");
        }
        scopes.join(" ")
    }
}

/// What calls are made with, and the scopes that the server granted.
pub fn auth(options: &Options, clock: Arc<dyn Clock>) -> (Auth<Client>, Arc<Mutex<Option<String>>>) {
    let granted = Arc::new(Mutex::new(None));
    let auth = match &options.login {
        Login::Token(token) => Auth::Token(token.clone(), REFUSED),
        login => Auth::OAuth(
            Arc::new(Client {
                login: login.clone(),
                base_url: options.base_url.clone(),
                token_url: options.token_url.clone(),
                scopes: Scopes { writes: !options.read_only, plans: options.plans },
                clock,
                granted: granted.clone(),
            }),
            Grant::new(Secret::new(String::new())),
        ),
    };
    (auth, granted)
}

#[derive(Deserialize)]
struct Discovered {
    token_endpoint: Url,
    #[serde(default)]
    capabilities: Vec<String>,
}

#[derive(Deserialize)]
struct Token {
    access_token: String,
    #[serde(default)]
    expires_in: Option<u64>,
    #[serde(default)]
    scope: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refused {
    error: String,
}

fn passing(why: impl std::fmt::Display) -> ConnectorError {
    ConnectorError::NotSent(format!("asking for an access token: {why}"))
}

impl Client {
    /// Where tokens are asked for, and whether the server knows scopes of the second version.
    async fn discover(&self, transport: &dyn Transport) -> Result<(Url, bool), ConnectorError> {
        if let Some(url) = &self.token_url {
            return Ok((url.clone(), true));
        }
        let text = format!("{}/.well-known/smart-configuration", self.base_url.as_str().trim_end_matches('/'));
        let url: Url = text.parse().map_err(|_| passing("the base_url is no address"))?;
        let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static("application/json"))]);
        let request = HttpRequest { method: Method::GET, url, headers, body: bytes::Bytes::new() };
        let answer = transport.send(request, TIMEOUT).await.map_err(passing)?;
        if answer.status != StatusCode::OK {
            return Err(passing(format!(
                "{} answered {}: set token_url, or correct base_url",
                ".well-known/smart-configuration", answer.status
            )));
        }
        let found: Discovered = answer.json().map_err(passing)?;
        Ok((found.token_endpoint, found.capabilities.iter().any(|one| one == "permission-v2")))
    }

    fn form(&self, token_url: &Url, second: bool) -> Result<(String, HeaderMap), ConnectorError> {
        let scope = self.scopes.text(second);
        let mut headers = HeaderMap::from_iter([
            (header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded")),
            (header::ACCEPT, HeaderValue::from_static("application/json")),
        ]);
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials").append_pair("scope", &scope);
        match &self.login {
            Login::Token(_) => {}
            Login::Client { client_id, client_secret } => {
                let pair = format!("{client_id}:{}", client_secret.expose());
                let mut value = HeaderValue::try_from(format!("Basic {}", STANDARD.encode(pair)))
                    .map_err(|_| ConnectorError::Unauthorized("the client's secret fits no header".into()))?;
                value.set_sensitive(true);
                headers.insert(header::AUTHORIZATION, value);
            }
            Login::Key { client_id, key_id, key } => {
                let now = self.clock.now().timestamp();
                let claims = Claims {
                    iss: client_id,
                    sub: client_id,
                    aud: token_url.as_str(),
                    exp: now + ASSERTION,
                    iat: now,
                    jti: fresh(),
                };
                let assertion = key.sign(key_id, &claims).map_err(|_| {
                    ConnectorError::Unauthorized("the private key cannot sign: RSA, or EC on P-384, is needed".into())
                })?;
                form.append_pair("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
                    .append_pair("client_assertion", &assertion);
            }
        }
        Ok((form.finish(), headers))
    }
}

#[async_trait]
impl Exchange for Client {
    async fn exchange(&self, _: &Secret, transport: &dyn Transport) -> Result<Renewed, ConnectorError> {
        let (url, second) = self.discover(transport).await?;
        let (form, headers) = self.form(&url, second)?;
        let request = HttpRequest { method: Method::POST, url, headers, body: form.into() };
        // Asking for a token twice does no harm, so a lost answer is as good as an unsent request.
        let answer = transport.send(request, TIMEOUT).await.map_err(passing)?;
        match answer.status {
            StatusCode::OK => {
                let token: Token = answer.json().map_err(passing)?;
                *self.granted.lock().unwrap_or_else(PoisonError::into_inner) = token.scope;
                Ok(Renewed {
                    access_token: Secret::new(token.access_token),
                    expires_in: Duration::from_secs(token.expires_in.unwrap_or(FIVE_MINUTES)),
                    refresh_token: None,
                })
            }
            StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let refused: Refused = answer.json().unwrap_or_default();
                Err(ConnectorError::Unauthorized(match refused.error.as_str() {
                    "invalid_client" => "the server does not accept this client: client_id, the key or its key_id are not \
                                         those that were registered, the token address is another, or the clocks differ by \
                                         minutes"
                        .into(),
                    "invalid_scope" => "the server grants none of the scopes that are needed: register them for this client".into(),
                    _ => format!("the token address answered {}", answer.status),
                }))
            }
            status => Err(passing(format!("the server answered {status}"))),
        }
    }
}
