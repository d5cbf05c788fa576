//! Whom an invoice is addressed to: all that tells who bought, where neither the order nor its payments name a customer.
//!
//! Invoices are searched by location and not by order, so those of a location are gone over from the newest back, as far as
//! [`MOST_PAGES`] reach. Who asks does so only for a sale that was paid by invoice and names nobody.
//! Source: `SearchInvoices`, <https://developer.squareup.com/reference/square/invoices-api/search-invoices>.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::json;
use tandem_contract::{Call, ConnectorError, ExternalId};

use crate::{
    Square,
    client::{Ask, or_none},
};

/// Invoices of a page, at most. Source: `SearchInvoices`.
const PAGE: usize = 200;
/// Pages of a location that are gone over: an invoice that is paid is seldom behind a thousand newer ones.
const MOST_PAGES: usize = 5;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Invoices {
    #[serde(deserialize_with = "or_none")]
    invoices: Vec<Invoice>,
    cursor: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Invoice {
    order_id: Option<String>,
    primary_recipient: Option<Recipient>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Recipient {
    customer_id: Option<String>,
}

/// The customers to whom the invoices of these orders are addressed, by order: of each order, the location it was made for.
///
/// # Errors
/// [`ConnectorError`]; without the right to read invoices nobody is named.
pub async fn recipients(
    square: &Square,
    call: Call,
    orders: &[(&str, &str)],
) -> Result<BTreeMap<String, ExternalId>, ConnectorError> {
    let mut found = BTreeMap::new();
    let mut places: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (order, location) in orders {
        places.entry(*location).or_default().insert(*order);
    }
    for (location, mut sought) in places {
        let mut after: Option<String> = None;
        for _ in 0..MOST_PAGES {
            let mut body = json!({
                "query": {
                    "filter": { "location_ids": [location] },
                    "sort": { "field": "INVOICE_SORT_DATE", "order": "DESC" },
                },
                "limit": PAGE,
            });
            if let Some(after) = &after {
                body["cursor"] = after.as_str().into();
            }
            let page: Invoices = match square.client.ask(&Ask::search("invoices/search", call.lane, body)).await {
                Err(ConnectorError::Forbidden(_) | ConnectorError::Rejected { .. }) => return Ok(found),
                page => page?,
            };
            for invoice in page.invoices {
                let Some(order) = invoice.order_id.filter(|id| sought.remove(id.as_str())) else { continue };
                let customer = invoice.primary_recipient.and_then(|recipient| recipient.customer_id);
                found.extend(customer.and_then(|id| ExternalId::new(id).ok()).map(|id| (order, id)));
            }
            after = page.cursor.filter(|next| !next.is_empty() && Some(next) != after.as_ref());
            if sought.is_empty() || after.is_none() {
                break;
            }
        }
    }
    Ok(found)
}
