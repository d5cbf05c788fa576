//! What a Tandem connector is.
//!
//! A connector says what its vendor can do and does it in batches. Everything else (limits, retries, cursors,
//! merging, links) is done once, above it. This crate knows no vendor and no engine: it holds the trait, the
//! vendor-neutral records that cross it, the errors that tell the engine what to do next, and the small HTTP
//! interface through which every connector speaks, over a socket or to an in-process sandbox.
//!
//! Start with [`Connector`]; then [`Value`], the three-way value every record is made of; then
//! [`ConnectorError`], whose variants are the decisions the engine can take.

mod clock;
pub mod conformance;
mod connector;
pub mod day;
mod error;
mod external_id;
mod grant;
mod kind;
mod limiter;
mod pace;
mod phone;
pub mod planted;
mod record;
mod retry;
mod sale;
mod schema;
mod secret;
mod transport;
mod value;
mod vendor_clock;
mod visit;
mod webhook;

pub use clock::{Clock, SystemClock, TokioClock};
pub use connector::{Call, Connector, Cursor, Guarantee, Page, Pushed, Seen, Sought, Stream, Write, WriteOp};
pub use error::{ConnectorError, Disposition};
pub use external_id::{ExternalId, ExternalIdError};
pub use grant::{Auth, Credentials, Exchange, Grant, KeepRefreshToken, Renewed};
pub use kind::{Kind, UnknownKind};
pub use limiter::{Bucket, Lane, Limit, Limiter};
pub use pace::Pace;
pub use phone::is_same_number;
pub use record::{Fetched, History, Record, Statement, Version};
pub use retry::Backoff;
pub use sale::{
    Buyer, Checkout, CheckoutBy, LineKind, Location, NewCheckout, Origin, Sale, SaleLine, SaleRead, SaleState,
};
pub use schema::{CheckItem, Identity, OwnerInfo, PipelineInfo, PropertyInfo, PropertyType, Schema, StageInfo};
pub use secret::Secret;
pub use transport::{HttpRequest, HttpResponse, ReqwestTransport, RouterTransport, Transport, TransportError};
pub use value::Value;
pub use vendor_clock::VendorClock;
pub use visit::{
    NewVisit, NewVisitor, Opening, Visit, VisitChange, VisitClass, VisitRead, VisitStatus, Visitor, WantedOpenings,
};
pub use webhook::{Hint, WebhookError, WebhookRequest};
