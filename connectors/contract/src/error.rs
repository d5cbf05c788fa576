//! Errors whose variants are the decisions the engine can take.

use std::time::Duration;

use crate::TransportError;

/// How the place is called where an answer is larger than what is read.
const TOO_LARGE: &str = "body of more than";

/// Why a call did not do what was asked. The variant decides; the text is for people and holds no body, no address
/// and no value of a record.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ConnectorError {
    /// Nothing reached the vendor: repeating is free.
    #[error("the vendor could not be reached: {0}")]
    NotSent(String),
    /// Nothing reached the vendor, because the time of the write was over ([`crate::Call::until`]): repeating is free.
    #[error("it was not written: the vendor, or its rate limit, was so slow before that the write's own time was over")]
    Late,
    /// It may or may not have happened, now or later.
    #[error("the vendor did not answer, so the outcome is not known: {0}")]
    OutcomeUnknown(String),
    /// Too many calls. Penalises the budget, never the record.
    #[error("the vendor's rate limit is reached ({policy})")]
    RateLimited {
        /// How long the vendor asks us to wait.
        retry_after: Option<Duration>,
        /// Which limit, in the vendor's word.
        policy: String,
    },
    /// The credentials are not accepted, and refreshing them did not help.
    #[error("the vendor does not accept the credentials: {0}")]
    Unauthorized(String),
    /// The credentials are fine but do not reach this far.
    #[error("the vendor refuses access: {0}")]
    Forbidden(String),
    /// The record changed between our read and our write.
    #[error("the record changed at the vendor while it was being written")]
    Stale,
    /// Another record stands in the way, for instance one with the same unique value.
    #[error("another record at the vendor stands in the way: {0}")]
    Conflict(String),
    /// The record is not there.
    #[error("the vendor does not have the record")]
    Gone,
    /// The vendor refuses a value.
    #[error("the vendor refuses {}: {reason}", field.as_deref().map_or("the record".to_owned(), |f| format!("`{f}`")))]
    Rejected {
        /// The vendor's property name, if the answer names one.
        field: Option<String>,
        /// The vendor's code, such as `INVALID_OPTION`.
        reason: String,
    },
    /// The answer is not what the vendor documents. The path is named, the value is not: it may be somebody's name.
    #[error("the vendor's answer does not parse at `{path}`")]
    Malformed {
        /// Where in the answer.
        path: String,
    },
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// Repeat after the given time, or after the usual back-off.
    Retry(Option<Duration>),
    /// Find out by reading whether it happened.
    Ambiguous,
    /// Stop the connection until a person renews the credentials.
    PauseConnection,
    /// Stop this stream of records until a person grants the scope.
    PauseStream,
    /// Read the record again and plan anew.
    Reread,
    /// Set this record or field aside for a person.
    Park,
}

impl ConnectorError {
    /// True if it may be said of one of the records that were asked for, and not of the vendor: then the others are asked for
    /// without it.
    #[must_use]
    pub fn may_be_of_one(&self) -> bool {
        matches!(self, Self::Malformed { .. } | Self::Rejected { .. } | Self::Gone)
    }

    /// True if an answer came, and was larger than what is read of one: less can be asked for at once.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::Malformed { path } if path.starts_with(TOO_LARGE))
    }

    /// The decision this error stands for.
    #[must_use]
    pub fn disposition(&self) -> Disposition {
        match self {
            Self::NotSent(_) | Self::Late => Disposition::Retry(None),
            Self::RateLimited { retry_after, .. } => Disposition::Retry(*retry_after),
            Self::OutcomeUnknown(_) => Disposition::Ambiguous,
            Self::Unauthorized(_) => Disposition::PauseConnection,
            Self::Forbidden(_) => Disposition::PauseStream,
            Self::Stale | Self::Gone => Disposition::Reread,
            Self::Conflict(_) | Self::Rejected { .. } | Self::Malformed { .. } => Disposition::Park,
        }
    }

    /// A stable word for logs, metrics and the failures list.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotSent(_) => "not_sent",
            Self::Late => "late",
            Self::OutcomeUnknown(_) => "outcome_unknown",
            Self::RateLimited { .. } => "rate_limited",
            Self::Unauthorized(_) => "unauthorized",
            Self::Forbidden(_) => "forbidden",
            Self::Stale => "stale",
            Self::Conflict(_) => "conflict",
            Self::Gone => "gone",
            Self::Rejected { .. } => "rejected",
            Self::Malformed { .. } => "malformed",
        }
    }

    /// Where in a vendor's answer parsing failed, without the value that serde would quote.
    #[must_use]
    pub fn malformed(error: &serde_path_to_error::Error<serde_json::Error>) -> Self {
        Self::Malformed { path: error.path().to_string() }
    }
}

impl From<TransportError> for ConnectorError {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::NotSent(why) => Self::NotSent(why),
            TransportError::Unknown(why) => Self::OutcomeUnknown(why),
            TransportError::TooLarge(bytes) => Self::Malformed { path: format!("{TOO_LARGE} {bytes} bytes") },
        }
    }
}
