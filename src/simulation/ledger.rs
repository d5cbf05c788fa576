//! What people did, for the checks that none of it is lost.

use std::collections::BTreeSet;

use tandem_contract::Kind;

use crate::model::RecordId;

/// Every value a person typed, for the check that none is lost: record, property at HubSpot or field here, text.
#[derive(Default)]
pub struct Ledger {
    /// Texts typed here, by our field.
    pub here: Vec<(String, String)>,
    /// Texts typed there, by HubSpot's property.
    pub there: Vec<(String, String)>,
    /// Every text that was ever typed here.
    pub here_ever: Vec<String>,
    /// Every text that was ever typed there.
    pub there_ever: Vec<String>,
    /// Every text there that somebody there wrote over, having seen it.
    pub overwritten: BTreeSet<String>,
    /// Every text in order, with whose record it was.
    pub said: Vec<Said>,
    /// HubSpot's deals that somebody merged or put into the bin.
    pub touched: BTreeSet<u64>,
    /// Whether anything was merged.
    pub merged: bool,
    /// How often somebody took a contact off a deal.
    pub unlinked: u64,
    /// Records made here.
    pub created: u64,
    /// The record that was edited last: people come back to what they work on.
    pub focus_here: Option<(Kind, RecordId)>,
    /// The same at HubSpot.
    pub focus_there: Option<(Kind, u64)>,
    /// What was edited of it.
    pub focus_field: u32,
    /// Our records that somebody deleted here.
    pub deleted: BTreeSet<RecordId>,
    /// What people did, in words, for whoever reads a failing seed.
    pub story: Vec<String>,
    /// No audit, and nothing that only an audit can find.
    pub feeds_only: bool,
}

/// Whose record was edited.
#[derive(Clone, Copy)]
pub enum Whose {
    /// Ours.
    Ours(RecordId),
    /// HubSpot's.
    Theirs(u64),
}

/// One edit of a text.
pub struct Said {
    /// Of which kind.
    pub kind: Kind,
    /// Of which record.
    pub whose: Whose,
    /// Our field.
    pub field: String,
    /// What was typed.
    pub text: String,
}
