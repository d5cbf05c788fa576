//! A stateful simulator of Pipedrive's API: deals, persons and organizations, pipelines and stages, custom fields, users,
//! webhooks, merges and changelogs, in both generations of paths.
//!
//! Same shapes, strictness, token budget and webhooks; a switchboard of faults that can be turned while it runs; and time
//! from an injected clock, so that under a virtual one it is exact and repeatable. What Pipedrive's documentation leaves
//! open is a field of [`Settings`].
//!
//! What it does not reproduce:
//! - Searches: they do not lag, look at e-mail addresses and custom fields only, answer all hits on one page, and count in the
//!   window of all calls and not in one of their own of ten in two seconds. There is no `itemSearch`, and none for organizations.
//! - Limits: all tokens share one window of calls, the day ends at midnight UTC, and callers who go on after many 429 are not
//!   blocked by themselves: a block is the fault `blocked`.
//! - Visibility: every user sees everything, whatever `visible_to` says, and is told of everything.
//! - What an administrator may ask for: fields that must be filled, limits of the plan, saved filters (`filter_id` is ignored).
//! - Leads, products, activities, notes, files, participants of deals, `recents`, and deals that are copied through the API.
//!   Pipelines, stages and fields are made through the API, and neither changed nor deleted.
//! - Webhooks: of deals, persons and organizations alone, in the second version alone, and none of a deal that changed because
//!   its person was merged. A subscription's address is not called when it is made, and the limit is the company's and not
//!   each user's.
//! - Merges move a person's deals and nothing else, and join no texts of organizations.
//!
//! [`Sandbox::router`] serves it, over a socket or in process. [`Sandbox::with`] is the hand of a person working in
//! Pipedrive's own screens.

mod body;
mod directory;
mod limits;
mod lists;
mod objects;
mod routes;
mod seed;
mod settings;
mod webhooks;
mod world;

pub use limits::Stats;
pub use seed::Company;
pub use settings::{Faults, Settings};
pub use world::{Change, Refusal, World};

/// One simulated Pipedrive company.
pub type Sandbox = tandem_sandbox::Sandbox<World>;
