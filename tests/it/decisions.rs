//! Rows of the tables of refusals: what a vendor answers to a call, and the decision that it is taken for.

use std::{fmt::Debug, time::Duration};

use tandem_contract::{ConnectorError, Pushed};

use crate::proxy::{Answer, Headers};

/// What stands between us and a vendor answers in HTML.
pub const PAGE: &str =
    "<html><head><title>A proxy</title></head><body>Nothing to see for jane.roe@example.com</body></html>";

/// People's data and our secrets, as the requests and answers of these tests hold them: no error quotes any.
pub const PRIVATE: [&str; 11] = [
    "example.com",
    "junk",
    "about 900",
    "pd:9f1c",
    "Jane",
    "555-01",
    "sandbox-0000",
    "sandbox-refresh",
    "EAAA",
    "sim-fhir-token",
    "long-random-secret",
];

/// The answer we expect of the connector; a text is to be found in the error's own.
#[derive(Debug)]
pub enum Want {
    NotSent,
    OutcomeUnknown,
    /// The wait in seconds, if there is one, and the name of the limit.
    RateLimited(Option<u64>, &'static str),
    Unauthorized(&'static str),
    Forbidden(&'static str),
    Stale,
    Gone,
    Conflict,
    /// The property, if it is named, and how the reason begins: the code.
    Rejected(Option<&'static str>, &'static str),
    Malformed,
    /// The record that stands in the way, and whether we made it.
    Exists(&'static str, bool),
}

impl Want {
    fn is(&self, got: &Pushed) -> bool {
        match (self, got) {
            (Self::Exists(want, want_ours), Pushed::Exists { id, ours }) => id.as_str() == *want && ours == want_ours,
            (_, Pushed::Failed(error)) => self.is_error(error),
            _ => false,
        }
    }

    pub fn is_error(&self, error: &ConnectorError) -> bool {
        match (self, error) {
            (Self::NotSent, ConnectorError::NotSent(_))
            | (Self::OutcomeUnknown, ConnectorError::OutcomeUnknown(_))
            | (Self::Stale, ConnectorError::Stale)
            | (Self::Gone, ConnectorError::Gone)
            | (Self::Conflict, ConnectorError::Conflict(_))
            | (Self::Malformed, ConnectorError::Malformed { .. }) => true,
            (Self::RateLimited(wait, name), ConnectorError::RateLimited { retry_after, policy }) => {
                *retry_after == wait.map(Duration::from_secs) && policy.contains(*name)
            }
            (Self::Unauthorized(word), ConnectorError::Unauthorized(why))
            | (Self::Forbidden(word), ConnectorError::Forbidden(why)) => why.contains(*word),
            (Self::Rejected(want, code), ConnectorError::Rejected { field, reason }) => {
                field.as_deref() == *want && reason.starts_with(*code)
            }
            _ => false,
        }
    }
}

/// A vendor's answer to one of its calls.
pub struct Row<A> {
    pub name: &'static str,
    pub ask: A,
    pub status: u16,
    pub headers: Headers,
    pub body: String,
    pub want: Want,
    /// How often the call is made: more than once only where the vendor is certain not to have acted.
    pub calls: usize,
}

impl<A> Row<A> {
    /// The row as an answer.
    pub fn answer(&self) -> Answer {
        Answer { headers: self.headers, ..Answer::new(self.status, self.body.as_str()) }
    }
}

pub fn row<A>(name: &'static str, ask: A, status: u16, body: impl Into<String>, want: Want) -> Row<A> {
    Row { name, ask, status, headers: &[], body: body.into(), want, calls: 1 }
}

/// Holds each row against what `tried` makes of it: what came, and how often the call was made.
pub async fn hold<A: Copy + Debug>(rows: Vec<Row<A>>, tried: impl AsyncFn(&Row<A>) -> (Pushed, usize)) {
    for row in rows {
        let (got, calls) = tried(&row).await;
        let told = format!("{got:?}");
        let what = format!("{}, {:?}, {}", row.name, row.ask, row.status);
        assert!(row.want.is(&got), "{what}: {told} is not {:?}", row.want);
        assert_eq!(calls, row.calls, "{what}: calls");
        for value in PRIVATE {
            assert!(!told.contains(value), "{what}: an error quotes no value: {told}");
        }
    }
}
