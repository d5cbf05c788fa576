//! News that a vendor sends by itself.

use chrono::{DateTime, Utc};
use http::HeaderMap;

use crate::{ExternalId, Kind};

/// A webhook as it arrived: the raw bytes, because signatures are over bytes.
#[derive(Clone, Copy, Debug)]
pub struct WebhookRequest<'a> {
    /// HTTP method, upper case.
    pub method: &'a str,
    /// The whole address as the vendor called it, with query: behind a proxy, rebuilt from the public URL.
    pub uri: &'a str,
    /// Headers.
    pub headers: &'a HeaderMap,
    /// Raw body.
    pub body: &'a [u8],
    /// When it arrived, by our clock.
    pub received_at: DateTime<Utc>,
}

/// "Look at this record": all that a webhook is believed to say.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hint {
    /// Which kind of record.
    pub kind: Kind,
    /// Which one.
    pub id: ExternalId,
    /// The vendor's account it belongs to, if the event names it.
    pub remote_account: Option<String>,
    /// The record it was merged into, if the event says so. Followed only where the vendor itself no longer has this one.
    pub merged_into: Option<ExternalId>,
}

/// A webhook is refused. None of these say anything of the body. What webhooks are verified with is named as people
/// find it in the connection's credentials: the signature key, `signature_key`.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum WebhookError {
    /// Nothing that says who sent it, or nothing of a kind that this connection accepts.
    #[error("the webhook carries nothing that this connection would believe it by: {0}")]
    Unsigned(&'static str),
    /// It was not made of these bytes and this secret, which is named.
    #[error(
        "the webhook was not made with the {0} that is configured here, or was altered: compare it with the vendor's settings"
    )]
    BadSignature(&'static str),
    /// Signed too long ago, or in the future: a replay, or a clock far off.
    #[error("the webhook was signed {0} seconds from now; more than 300 is refused")]
    Expired(i64),
    /// Signed, but not what the vendor documents.
    #[error("the webhook does not parse at `{path}`")]
    Malformed {
        /// Where in the body.
        path: String,
    },
    /// The connection has no secret to check with: this one.
    #[error("the credentials of this connection have no {0}: add that, or its webhooks cannot be verified")]
    NoSecret(&'static str),
}
