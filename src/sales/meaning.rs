//! What a sale means: whether it counts for a trigger, and how much it is worth.

use chrono::{DateTime, NaiveDate, Utc};
use rust_decimal::Decimal;
use tandem_contract::{
    LineKind, Sale, SaleLine, SaleState,
    planted::{self, Bug},
};

use crate::model::{Currency, Money, Name, Trigger, WonOn, Worth};

/// Whether a sale counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    Counts,
    /// It may.
    NotYet(Waits),
    /// It does not, and will not; the reason is for people.
    Never(&'static str),
}

/// What a sale waits for before it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// A payment.
    Payment,
    /// The rest of what is to be paid.
    Rest,
    /// What was sold: the till does not tell of all of it yet.
    Word,
}

impl Waits {
    /// For people.
    #[must_use]
    pub fn why(self) -> &'static str {
        match self {
            Self::Payment => "it is not paid",
            Self::Rest => "it is not paid in full",
            Self::Word => "the till does not tell yet what was sold",
        }
    }
}

/// The triggers a sale is held against: the account's, or the one that admits everything where it has none.
pub fn triggers<'a>(
    all: impl Iterator<Item = (&'a Name, &'a Trigger)>,
    connection: &Name,
    any: &'a Trigger,
) -> Vec<(Option<&'a Name>, &'a Trigger)> {
    let all: Vec<_> = all.collect();
    if all.is_empty() {
        return vec![(None, any)];
    }
    let is_ours = |trigger: &Trigger| trigger.connections.is_empty() || trigger.connections.contains(connection);
    all.into_iter().filter(|(_, trigger)| is_ours(trigger)).map(|(name, trigger)| (Some(name), trigger)).collect()
}

/// Why something is no sale, or none any more, whatever was paid.
#[must_use]
pub fn no_sale(sale: &Sale) -> Option<&'static str> {
    match sale.state {
        SaleState::Return => Some("goods or money that went back are no sale"),
        SaleState::Void => Some("it was called off"),
        SaleState::Unpaid | SaleState::PartlyPaid | SaleState::Paid => None,
    }
}

/// Whether as much was paid as a trigger asks for.
#[must_use]
pub fn is_paid(sale: &Sale, trigger: &Trigger) -> bool {
    match sale.state {
        SaleState::Paid => true,
        SaleState::PartlyPaid => trigger.won_on == WonOn::FirstPayment,
        SaleState::Unpaid | SaleState::Void | SaleState::Return => false,
    }
}

/// Whether a sale counts for a trigger, payment first.
#[must_use]
pub fn standing(sale: &Sale, trigger: &Trigger) -> Standing {
    let goods = sale.lines.iter().any(|line| line.kind == LineKind::Goods);
    let for_nothing = sale.total.saturating_sub(sale.tip) <= 0;
    // A drawer that is opened is an order too.
    let is_gift = trigger.for_nothing && !sale.lines.is_empty();
    if let Some(why) = no_sale(sale) {
        return Standing::Never(why);
    }
    match sale.state {
        _ if !sale.lines.is_empty() && !goods => Standing::Never("a gift card is money for later, not a sale"),
        SaleState::Unpaid => Standing::NotYet(Waits::Payment),
        _ if !is_paid(sale, trigger) => Standing::NotYet(Waits::Rest),
        _ if for_nothing && !is_gift => Standing::Never("it came to nothing"),
        _ => match meets(sale, trigger) {
            Some(true) => Standing::Counts,
            Some(false) => Standing::Never("no trigger names what was sold, where, or for how much"),
            None => Standing::NotYet(Waits::Word),
        },
    }
}

/// What a sale waits for before it counts for a trigger; `None` where it counts, or will not whatever comes.
#[must_use]
pub fn waits(sale: &Sale, trigger: &Trigger) -> Option<Waits> {
    match (standing(sale, trigger), meets(sale, trigger)) {
        (Standing::NotYet(_), Some(false)) => None,
        (Standing::NotYet(_), None) => Some(Waits::Word),
        (Standing::NotYet(waits), Some(true)) => Some(waits),
        _ => None,
    }
}

fn named(wanted: &std::collections::BTreeSet<String>, names: &[String]) -> bool {
    wanted.is_empty() || names.iter().any(|name| wanted.iter().any(|wanted| wanted.eq_ignore_ascii_case(name)))
}

fn matches(line: &SaleLine, trigger: &Trigger) -> bool {
    line.kind == LineKind::Goods && named(&trigger.items, &line.names) && named(&trigger.categories, &line.categories)
}

/// Whether a trigger names what was sold, where and for how much; `None` while that hangs on what the till does not
/// tell of yet.
fn meets(sale: &Sale, trigger: &Trigger) -> Option<bool> {
    let place = [sale.location.id.clone(), sale.location.name.clone()];
    if !named(&trigger.locations, &place) {
        return Some(false);
    }
    let about_lines = !trigger.items.is_empty() || !trigger.categories.is_empty();
    let may_be_named = |line: &SaleLine| line.kind == LineKind::Goods && !line.is_known && !matches(line, trigger);
    let is_open = about_lines && sale.lines.iter().any(may_be_named);
    // What it is worth is settled when it counts: not before all is known that is part of it.
    if is_open && trigger.worth == Worth::MatchedLines {
        return None;
    }
    let lines = !about_lines || sale.lines.iter().any(|line| matches(line, trigger));
    let in_range = match worth(sale, trigger) {
        Some(worth) => {
            let major = worth.to_major();
            let above = trigger.at_least.is_none_or(|least: Decimal| major >= least);
            above && trigger.at_most.is_none_or(|most: Decimal| major <= most)
        }
        None => trigger.at_least.is_none() && trigger.at_most.is_none(),
    };
    match lines {
        false if is_open && in_range => None,
        lines => Some(lines && in_range),
    }
}

/// A sale of which no more is to be told than is known.
#[must_use]
pub fn as_told(sale: &Sale) -> Sale {
    let mut sale = sale.clone();
    sale.lines.iter_mut().for_each(|line| line.is_known = true);
    sale
}

/// What a sale is worth to an opportunity, before anything was given back: without the tip and, unless asked for, without
/// tax. `None` in a currency that is not known.
#[must_use]
pub fn worth(sale: &Sale, trigger: &Trigger) -> Option<Money> {
    let currency = Currency::new(&sale.currency).ok()?;
    let tax = |tax: i64| if trigger.with_tax { 0 } else { tax };
    let minor = match trigger.worth {
        Worth::Order => {
            let tip = if trigger.with_tip { 0 } else { sale.tip };
            // Money for later is not what was sold.
            let cards = sale.lines.iter().filter(|line| line.kind == LineKind::GiftCard);
            let cards = cards.fold(0_i64, |sum, line| sum.saturating_add(line.total.saturating_sub(tax(line.tax))));
            sale.total.saturating_sub(tip).saturating_sub(tax(sale.tax)).saturating_sub(cards)
        }
        Worth::MatchedLines => {
            let lines = sale.lines.iter().filter(|line| matches(line, trigger));
            lines.fold(0_i64, |sum, line| sum.saturating_add(line.total.saturating_sub(tax(line.tax))))
        }
    };
    Some(Money { minor, currency })
}

/// What is left of a sale's worth after what was given back. Tips are given back last; of the rest, worth goes down as what was
/// paid does, since a till says how much was given back, and rarely of what.
#[must_use]
pub fn net(sale: &Sale, worth: Money) -> Money {
    if is_given_back(sale) {
        return Money { minor: 0, ..worth };
    }
    let goods = i128::from(sale.total) - i128::from(sale.tip);
    if sale.refunded <= 0 || goods <= 0 || planted::has(Bug::RefundIgnored) {
        return worth;
    }
    let left = (goods - i128::from(sale.refunded)).max(0);
    let minor = (i128::from(worth.minor) * left + goods / 2) / goods;
    Money { minor: i64::try_from(minor).unwrap_or(worth.minor), ..worth }
}

/// True if everything that was paid, or all of it but the tip, was given back.
#[must_use]
pub fn is_given_back(sale: &Sale) -> bool {
    let goods = sale.total.saturating_sub(sale.tip);
    sale.refunded > 0 && (sale.refunded >= goods || sale.refunded >= sale.paid)
}

/// What was paid so far of a sale of which a part is still due.
#[must_use]
pub fn paid_so_far(sale: &Sale) -> Option<Money> {
    let currency = Currency::new(&sale.currency).ok()?;
    (sale.state == SaleState::PartlyPaid).then_some(Money { minor: sale.paid, currency })
}

/// The day an instant is on, where it was sold; in the account's zone where the till does not say.
#[must_use]
pub fn day_there(sale: &Sale, at: DateTime<Utc>, otherwise: chrono_tz::Tz) -> NaiveDate {
    let zone = sale.location.timezone.as_deref().and_then(|zone| zone.parse().ok()).unwrap_or(otherwise);
    at.with_timezone(&zone).date_naive()
}
