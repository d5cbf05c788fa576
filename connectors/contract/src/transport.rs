//! The small HTTP interface through which every connector speaks: `reqwest` in production, an in-process router
//! under simulation, so that the same connector code runs a million simulated steps without a socket.

use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, StatusCode, header};
use serde::de::DeserializeOwned;
use tower::ServiceExt;
use url::Url;

use crate::ConnectorError;

/// The largest answer that is read.
const LARGEST_ANSWER: usize = 32 * 1024 * 1024;

/// A request to a vendor.
#[derive(Clone, Debug)]
pub struct HttpRequest {
    /// Method.
    pub method: Method,
    /// Whole address. Never printed: it may hold a person's e-mail.
    pub url: Url,
    /// Headers, authorisation included.
    pub headers: HeaderMap,
    /// Body, possibly empty.
    pub body: Bytes,
}

/// A vendor's answer, whatever its status.
#[derive(Clone, Debug)]
pub struct HttpResponse {
    /// Status.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Whole body.
    pub body: Bytes,
}

impl HttpResponse {
    /// Parses the body.
    ///
    /// # Errors
    /// [`ConnectorError::Malformed`] with the path and without the value.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ConnectorError> {
        // Keeping the path costs as much as parsing: it is looked for when there is something to say.
        serde_json::from_slice(&self.body).or_else(|_| {
            let mut json = serde_json::Deserializer::from_slice(&self.body);
            serde_path_to_error::deserialize(&mut json).map_err(|error| ConnectorError::malformed(&error))
        })
    }

    /// How long the vendor asks to be left alone, in seconds and unbounded; `None` where it does not say so in seconds.
    /// Source: RFC 9110, section 10.2.3.
    #[must_use]
    pub fn retry_after(&self) -> Option<u64> {
        self.headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()
    }
}

/// No answer came.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The request did not reach the vendor.
    #[error("{0}")]
    NotSent(String),
    /// The request may have reached the vendor.
    #[error("{0}")]
    Unknown(String),
    /// An answer came but it is larger than anything a vendor documents.
    #[error("an answer of more than {0} bytes")]
    TooLarge(usize),
}

/// Sends a request and waits for the whole answer.
#[async_trait]
pub trait Transport: Send + Sync {
    /// Sends `request`; gives up after `timeout`.
    ///
    /// # Errors
    /// [`TransportError`], which tells whether the vendor may have acted.
    async fn send(&self, request: HttpRequest, timeout: Duration) -> Result<HttpResponse, TransportError>;
}

/// Over the network. One connection pool; clone it rather than build a second.
#[derive(Clone, Debug)]
pub struct ReqwestTransport(reqwest::Client);

impl ReqwestTransport {
    /// Builds the client: TLS by rustls with the system's roots, gzip, no redirects (a vendor's API does not move,
    /// and a redirect would carry the credentials elsewhere).
    ///
    /// # Errors
    /// The text of the TLS back end's failure.
    #[expect(clippy::disallowed_methods, reason = "the one place that builds an HTTP client")]
    pub fn new() -> Result<Self, String> {
        reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .pool_idle_timeout(Duration::from_secs(60))
            .user_agent(concat!("tandem/", env!("CARGO_PKG_VERSION")))
            .build()
            .map(Self)
            .map_err(|error| format!("the HTTP client could not be built: {error}"))
    }
}

#[async_trait]
impl Transport for ReqwestTransport {
    async fn send(&self, request: HttpRequest, timeout: Duration) -> Result<HttpResponse, TransportError> {
        let sent = self
            .0
            .request(request.method, request.url)
            .headers(request.headers)
            .body(request.body)
            .timeout(timeout)
            .send()
            .await;
        let mut answer = sent.map_err(|error| classify(error, timeout))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let mut body = BytesMut::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| classify(error, timeout))? {
            if body.len() + chunk.len() > LARGEST_ANSWER {
                return Err(TransportError::TooLarge(LARGEST_ANSWER));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(HttpResponse { status, headers, body: body.freeze() })
    }
}

fn classify(error: reqwest::Error, timeout: Duration) -> TransportError {
    let error = error.without_url();
    if error.is_connect() || error.is_builder() {
        TransportError::NotSent(format!("no connection ({})", root_cause(&error)))
    } else if error.is_timeout() {
        TransportError::Unknown(format!("no answer within {} s", timeout.as_secs()))
    } else {
        TransportError::Unknown(format!("the connection broke ({})", root_cause(&error)))
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// To a router in this process: no socket, no operating-system time.
#[derive(Clone, Debug)]
pub struct RouterTransport(Router);

impl RouterTransport {
    /// Sends every request to `router`.
    #[must_use]
    pub fn new(router: Router) -> Self {
        Self(router)
    }
}

#[async_trait]
impl Transport for RouterTransport {
    async fn send(&self, request: HttpRequest, timeout: Duration) -> Result<HttpResponse, TransportError> {
        let mut built = http::Request::new(axum::body::Body::from(request.body));
        *built.method_mut() = request.method;
        *built.headers_mut() = request.headers;
        *built.uri_mut() = request.url.as_str().parse().map_err(|_| TransportError::NotSent("a bad address".into()))?;
        let answering = async {
            let Ok(answer) = self.0.clone().oneshot(built).await;
            let (status, headers) = (answer.status(), answer.headers().clone());
            let body = axum::body::to_bytes(answer.into_body(), usize::MAX)
                .await
                .map_err(|_| TransportError::Unknown("the connection broke".into()))?;
            if body.len() > LARGEST_ANSWER {
                return Err(TransportError::TooLarge(LARGEST_ANSWER));
            }
            Ok(HttpResponse { status, headers, body })
        };
        tokio::time::timeout(timeout, answering)
            .await
            .unwrap_or_else(|_| Err(TransportError::Unknown(format!("no answer within {} s", timeout.as_secs()))))
    }
}
