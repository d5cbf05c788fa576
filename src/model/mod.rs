//! Pure types and rules of the business. Nothing here reads a clock, draws a number or does I/O: time and ids come in
//! as values.

pub mod account;
pub mod conflict;
pub mod connection;
pub mod contact;
pub mod digest;
pub mod dirty;
pub mod evidence;
pub mod failure;
pub mod field;
pub mod history;
pub mod ids;
pub mod intent;
pub mod link;
pub mod money;
pub mod opportunity;
pub mod opportunity_type;
pub mod pipeline;
pub mod record;
pub mod stamp;
pub mod trigger;
pub mod visit;

pub use account::{Account, Policy, Profile, Uniqueness, ValueSource};
pub use conflict::{Conflict, ConflictState, Winner};
pub use connection::{ConnectionRow, ConnectionState};
pub use contact::Contact;
pub use digest::digest;
pub use dirty::{Dirty, Key, Mark, Reason};
pub use evidence::{Before, Evidence, EvidenceState};
pub use failure::Failure;
pub use history::HistoryEntry;
pub use ids::{Ids, Name, PipelineId, RecordId, StageId};
pub use intent::{Intent, IntentOp, IntentRow, IntentState};
pub use link::{Base, Hold, HoldKind, Link, LinkState};
pub use money::{Currency, Money, MoneyError};
pub use opportunity::{Opportunity, Position, Status};
pub use opportunity_type::{OpportunityType, Types};
pub use pipeline::{Pipeline, Stage, StageKind, StageMap};
pub use record::{Invalid, LocalRecord};
pub use stamp::Stamp;
pub use trigger::{OnRefund, Trigger, WonOn, Worth};
pub use visit::{Note, Raised, Visit, VisitRules};
