//! Whom a visit is of: one contact, or a person decides. Families share addresses and telephones, so it is never guessed.

use tandem_contract::{Visitor, is_same_number};

use crate::model::{Contact, RecordId};

/// What finding somebody came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// They.
    One(RecordId),
    /// Nobody here.
    Nobody,
    /// Any of these.
    Several(Vec<RecordId>),
}

/// Which of the contacts who share an address or a telephone number with a visitor is that visitor: both are the same, or one of
/// both and the family name.
#[must_use]
pub fn find(visitor: &Visitor, alike: &[Contact]) -> Found {
    let is_same = |contact: &&Contact| {
        let email = visitor.email.as_ref().map(|email| email.trim().to_lowercase());
        let email = email.is_some() && email == contact.email_key();
        let is_theirs = |ours: &str| visitor.phones.iter().any(|theirs| is_same_number(ours, theirs, None));
        let phone = contact.phone.as_deref().is_some_and(is_theirs);
        let name = |text: Option<&str>| text.map(|text| text.trim().to_lowercase()).filter(|text| !text.is_empty());
        let family = name(visitor.family.as_deref());
        let family = family.is_some() && family == name(contact.last_name.as_deref());
        (email && phone) || ((email || phone) && family)
    };
    let mut same: Vec<RecordId> = alike.iter().filter(is_same).map(|contact| contact.id).collect();
    same.sort_unstable();
    same.dedup();
    match same.as_slice() {
        [] => Found::Nobody,
        [one] => Found::One(*one),
        _ => Found::Several(same),
    }
}
