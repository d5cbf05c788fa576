//! A sale at the till, read whole: what was sold, what was paid, who bought.

use chrono::{DateTime, NaiveDate, Utc};
use serde::{Deserialize, Serialize};

use crate::ExternalId;

/// How far a sale has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaleState {
    /// Nothing is paid for good: a cart, a link that nobody followed, a payment that is only authorised.
    Unpaid,
    /// Something is paid, and something is due.
    PartlyPaid,
    /// Paid in full, or nothing was to be paid.
    Paid,
    /// Called off before it was paid.
    Void,
    /// Goods or money that went back; never a sale itself.
    Return,
}

/// What a line of a sale is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineKind {
    /// A thing or a treatment.
    Goods,
    /// Money for later: nothing is sold yet.
    GiftCard,
}

/// A line of a sale. Money is in minor units of the sale's currency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SaleLine {
    /// What it is of.
    pub kind: LineKind,
    /// What the till calls it, by name and by id: the item, its variation.
    pub names: Vec<String>,
    /// The categories it is in, and those above them, by name and by id.
    pub categories: Vec<String>,
    /// False where the till names something of its catalog and does not tell, or not yet, all of what that is: it may
    /// go by more names and be in more categories than these.
    pub is_known: bool,
    /// With tax, after discounts.
    pub total: i64,
    /// Tax in it.
    pub tax: i64,
}

/// What of a sale names somebody, most telling first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The sale itself, or one of its payments, as the till's customer.
    #[default]
    Customer,
    /// They are to get the goods.
    Recipient,
    /// The receipt of a payment went to them.
    Receipt,
    /// The invoice is addressed to them.
    Invoice,
}

/// Somebody who may have bought: what the till knows of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Buyer {
    /// What names them.
    pub origin: Origin,
    /// The vendor's record of them.
    pub id: Option<ExternalId>,
    /// What we, or another system, wrote on that record.
    pub reference: Option<String>,
    /// E-mail address.
    pub email: Option<String>,
    /// Telephone number, as the till has it.
    pub phone: Option<String>,
}

/// Where it was sold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// The vendor's id.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// IANA time zone: what day it was.
    pub timezone: Option<String>,
    /// ISO 3166 code of two letters: how telephone numbers are read.
    pub country: Option<String>,
    /// ISO 4217 code of what it takes.
    pub currency: Option<String>,
    /// True if nothing is sold there any more.
    pub is_closed: bool,
}

/// A sale. Money is in minor units of its currency.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sale {
    /// The vendor's id of the order.
    pub id: ExternalId,
    /// How far it has come.
    pub state: SaleState,
    /// Where.
    pub location: Location,
    /// When the goods changed hands; for a sale that was made offline long before it was reported.
    pub sold_at: DateTime<Utc>,
    /// ISO 4217 code.
    pub currency: String,
    /// What it came to, with tax and tip, after discounts and whatever was exchanged; may be negative.
    pub total: i64,
    /// Tip in it.
    pub tip: i64,
    /// Tax in it.
    pub tax: i64,
    /// What was paid for good, the tip with it.
    pub paid: i64,
    /// What was given back of it since.
    pub refunded: i64,
    /// What was sold.
    pub lines: Vec<SaleLine>,
    /// Texts that may name an opportunity: references, notes.
    pub mentions: Vec<String>,
    /// Who may have bought, best first.
    pub buyers: Vec<Buyer>,
    /// The sales that this one takes something back of.
    pub returns: Vec<ExternalId>,
}

/// What reading a sale came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SaleRead {
    /// Here it is.
    Found(Box<Sale>),
    /// Not to be read yet: the till shows a sale with several payments only after the last one.
    NotYet,
}

/// How a buyer pays a checkout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckoutBy {
    /// A link to a page where they pay now.
    Link,
    /// An invoice that the vendor sends them.
    Invoice,
}

/// A checkout to start at a till: paying it is a sale that carries the reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewCheckout {
    /// How it is paid.
    pub by: CheckoutBy,
    /// Asked for again under the same key it is the same checkout; at most 60 characters.
    pub key: String,
    /// What the sale carries: our id of the opportunity.
    pub reference: String,
    /// What is sold, in a few words.
    pub title: String,
    /// What it costs, in minor units.
    pub minor: i64,
    /// ISO 4217 code.
    pub currency: String,
    /// Where, by the vendor's id; its first open location that takes the currency if left out.
    pub location: Option<String>,
    /// The vendor's record of the buyer.
    pub buyer: Option<ExternalId>,
    /// Their address.
    pub email: Option<String>,
    /// When an invoice is due.
    pub due_on: Option<NaiveDate>,
}

/// A checkout that was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkout {
    /// The sale it will be.
    pub sale: ExternalId,
    /// Where it is paid.
    pub url: Option<String>,
}
