//! What a visit was charged: the invoices of its account or of its patient's day, else the charges of the encounter. Totals only,
//! since the sign of a line's discount differs between systems; lines are not read. A charge without a price may say what it came to
//! in ModMed's own extension.
//!
//! Source: <https://hl7.org/fhir/R4/invoice.html>, <https://hl7.org/fhir/R4/chargeitem.html>. The till stays the authority for money
//! received.

use chrono::{DateTime, TimeDelta, Utc};
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::value::RawValue;
use tandem_contract::{ConnectorError, Lane};

use crate::{Fhir, booking::iso, bundle::quietly, reference::Reference};

/// What the charges are of.
pub struct Of<'a> {
    pub patient: Option<&'a str>,
    pub account: Option<&'a str>,
    pub encounter: Option<&'a str>,
    pub at: Option<DateTime<Utc>>,
}

/// Money with the digits that were written: an amount never goes through binary floating point.
#[derive(Deserialize)]
struct Money {
    value: Option<Box<RawValue>>,
    currency: Option<String>,
}

impl Money {
    fn read(&self) -> Option<(Decimal, String)> {
        let text = self.value.as_ref()?.get();
        let amount = text.parse().or_else(|_| Decimal::from_scientific(text)).ok()?;
        Some((amount, self.currency.clone()?))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Invoice {
    status: String,
    #[serde(default)]
    subject: Reference,
    #[serde(default)]
    account: Reference,
    #[serde(default)]
    total_net: Option<Money>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ChargeItem {
    status: String,
    #[serde(default)]
    context: Reference,
    #[serde(default)]
    price_override: Option<Money>,
    #[serde(default)]
    extension: Vec<Extension>,
}

/// What a vendor adds to the standard, as far as it is money.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Extension {
    #[serde(default)]
    url: String,
    #[serde(default)]
    value_money: Option<Money>,
}

/// How the address of the extension ends that says what a charge came to.
const TOTAL_COST: &str = "financialTransaction.totalCost";

impl ChargeItem {
    /// The price that was set; else what the vendor says that it came to. One that was set and cannot be read is not left out: a
    /// sum without it would be another one.
    fn amount(&self) -> Option<&Money> {
        let set = self.price_override.as_ref();
        let total = || self.extension.iter().find(|one| one.url.ends_with(TOTAL_COST))?.value_money.as_ref();
        set.filter(|price| price.read().is_some()).or_else(total).or(set)
    }
}

/// The sum; `None` where there is nothing, or not in one currency.
pub async fn total(fhir: &Fhir, lane: Lane, of: &Of<'_>) -> Result<Option<(Decimal, String)>, ConnectorError> {
    let profile = fhir.profile();
    if profile.invoices {
        // The day of the visit, wherever the clinic is.
        let around = of.at.and_then(|at| {
            let from = at.checked_sub_signed(TimeDelta::hours(12))?;
            Some((format!("ge{}", iso(from)), format!("lt{}", iso(at.checked_add_signed(TimeDelta::hours(18))?))))
        });
        let whose = of.account.map(|account| ("account", account)).or(of.patient.map(|patient| ("patient", patient)));
        let pairs: Option<Vec<(&str, &str)>> = match (whose, &around) {
            (Some(whose), Some((from, until))) => Some(vec![whose, ("date", from), ("date", until)]),
            _ => None,
        };
        if let Some(pairs) = pairs {
            let invoices: Vec<Invoice> = unless_refused(quietly(fhir, lane, "Invoice", &pairs).await)?;
            let base = fhir.client.base_url();
            // A server that ignores a filter answers everybody's.
            let is_theirs = |one: &&Invoice| match of.account {
                Some(account) => one.account.id("Account", base).as_deref() == Some(account),
                None => one.subject.id("Patient", base).as_deref() == of.patient,
            };
            let counted = invoices.iter().filter(|one| matches!(one.status.as_str(), "issued" | "balanced"));
            let counted = counted.filter(is_theirs);
            let sums: Vec<_> = counted.filter_map(|one| one.total_net.as_ref()).collect();
            if !sums.is_empty() {
                return Ok(sum(sums.into_iter()));
            }
        }
    }
    if let (true, Some(encounter)) = (profile.charges, of.encounter) {
        let charges: Vec<ChargeItem> =
            unless_refused(quietly(fhir, lane, "ChargeItem", &[("context", encounter)]).await)?;
        let is_its =
            |one: &&ChargeItem| one.context.id("Encounter", fhir.client.base_url()).as_deref() == Some(encounter);
        let counted = charges.iter().filter(|one| matches!(one.status.as_str(), "billable" | "billed"));
        let counted = counted.filter(is_its);
        return Ok(sum(counted.filter_map(ChargeItem::amount)));
    }
    Ok(None)
}

/// What may not be read, or searched this way, tells nothing: a visit does not wait for money.
fn unless_refused<T>(found: Result<Vec<T>, ConnectorError>) -> Result<Vec<T>, ConnectorError> {
    match found {
        Err(ConnectorError::Forbidden(_) | ConnectorError::Rejected { .. } | ConnectorError::Gone) => Ok(Vec::new()),
        found => found,
    }
}

fn sum<'a>(all: impl Iterator<Item = &'a Money>) -> Option<(Decimal, String)> {
    let mut all = all.map(Money::read);
    let (mut total, currency) = all.next()??;
    for one in all {
        let (amount, other) = one?;
        if other != currency {
            return None;
        }
        total = total.checked_add(amount)?;
    }
    Some((total, currency))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn money(text: &str) -> Money {
        serde_json::from_str(text).expect("money")
    }

    #[test]
    fn amounts_are_exact_and_of_one_currency() {
        let all = [
            money(r#"{"value":650,"currency":"USD"}"#),
            money(r#"{"value":0.10,"currency":"USD"}"#),
            money(r#"{"value":650.00,"currency":"USD"}"#),
        ];
        assert_eq!(sum(all.iter()).map(|(sum, _)| sum.to_string()).as_deref(), Some("1300.10"));
        let mixed = [money(r#"{"value":1,"currency":"USD"}"#), money(r#"{"value":1,"currency":"EUR"}"#)];
        assert_eq!(sum(mixed.iter()), None);
        assert_eq!(sum([].iter()), None);
        let unsaid = [money(r#"{"value":1,"currency":"USD"}"#), money(r#"{"currency":"USD"}"#)];
        assert_eq!(sum(unsaid.iter()), None);
    }
}
