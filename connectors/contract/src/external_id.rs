//! The vendor's own id of a record.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A vendor's id: opaque text of 1 to 255 characters without NUL bytes.
///
/// Numbers are kept as text: vendors send both, and an id is never added up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ExternalId(String);

/// The text cannot be an id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ExternalIdError {
    /// Nothing is not an id.
    #[error("an external id is empty")]
    Empty,
    /// Longer than any vendor's id.
    #[error("an external id has {0} characters; 255 is the most")]
    TooLong(usize),
    /// PostgreSQL cannot store it, and no vendor sends it on purpose.
    #[error("an external id holds a NUL character")]
    Nul,
}

impl ExternalId {
    /// Parses an id.
    ///
    /// # Errors
    /// [`ExternalIdError`] for empty text, more than 255 characters, or a NUL character.
    pub fn new(text: impl Into<String>) -> Result<Self, ExternalIdError> {
        let text = text.into();
        match text.chars().count() {
            0 => Err(ExternalIdError::Empty),
            n if n > 255 => Err(ExternalIdError::TooLong(n)),
            _ if text.contains('\0') => Err(ExternalIdError::Nul),
            _ => Ok(Self(text)),
        }
    }

    /// The id as the vendor writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ExternalId {
    type Error = ExternalIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(text)
    }
}

impl From<ExternalId> for String {
    fn from(id: ExternalId) -> Self {
        id.0
    }
}

impl fmt::Display for ExternalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_short_text_without_nul() {
        assert_eq!(ExternalId::new(""), Err(ExternalIdError::Empty));
        assert_eq!(ExternalId::new("a\0b"), Err(ExternalIdError::Nul));
        assert_eq!(ExternalId::new("x".repeat(256)), Err(ExternalIdError::TooLong(256)));
        assert_eq!(ExternalId::new("31550001").map(String::from), Ok("31550001".to_owned()));
    }
}
