//! Checkouts that carry an opportunity's id: payment links and invoices.
//!
//! Source: `CreatePaymentLink`, `CreateInvoice`, `PublishInvoice`. The order carries the reference; every step has a key of its
//! own, so that asking again goes on where the last try ended and makes nothing twice. After a refusal what is asked for may
//! differ: then a new order is begun, and the draft stays unsent.

use http::Method;
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tandem_contract::{Call, Checkout, CheckoutBy, ConnectorError, ExternalId, Location, NewCheckout};

use crate::{Square, client::Ask, push::key_of};

#[derive(Deserialize)]
struct Linked {
    payment_link: Link,
}

#[derive(Deserialize)]
struct Link {
    order_id: String,
    url: Option<String>,
}

#[derive(Deserialize)]
struct Ordered {
    order: Id,
}

#[derive(Deserialize)]
struct Id {
    id: String,
}

#[derive(Deserialize)]
struct Invoiced {
    invoice: Invoice,
}

#[derive(Deserialize)]
struct Invoice {
    id: String,
    version: i64,
    public_url: Option<String>,
}

/// Starts a checkout, or finds the one that was started under its key.
///
/// # Errors
/// [`ConnectorError`]; asked for again, what was done is not done twice.
pub async fn start(square: &Square, call: Call, new: &NewCheckout) -> Result<Checkout, ConnectorError> {
    if square.options.read_only {
        return Err(ConnectorError::Forbidden("this connection only reads (direction = \"in\")".into()));
    }
    let location = match &new.location {
        Some(location) => location.clone(),
        None => some_location(square, call, &new.currency).await?,
    };
    let price = json!({ "amount": new.minor, "currency": new.currency });
    let mut order = json!({
        "location_id": location, "reference_id": new.reference, "metadata": { "opportunity_id": new.reference },
        "line_items": [{ "name": new.title, "quantity": "1", "base_price_money": price }],
    });
    if let Some(buyer) = &new.buyer {
        order["customer_id"] = buyer.as_str().into();
    }
    match new.by {
        CheckoutBy::Link => link(square, call, new, order).await,
        CheckoutBy::Invoice => invoice(square, call, new, order, &location).await,
    }
}

/// The first open location that takes this currency: an order is in its location's.
pub async fn some_location(square: &Square, call: Call, currency: &str) -> Result<String, ConnectorError> {
    let all = square.locations(call).await?;
    let is_fit =
        |place: &&Location| !place.is_closed && place.currency.as_deref().is_none_or(|takes| takes == currency);
    all.iter().find(is_fit).map(|place| place.id.clone()).ok_or_else(|| ConnectorError::Rejected {
        field: Some("location".into()),
        reason: format!("no open location of the till takes {currency}: ask for a price in what one takes"),
    })
}

fn sale(id: String) -> Result<ExternalId, ConnectorError> {
    ExternalId::new(id).map_err(|_| ConnectorError::Malformed { path: "order.id".into() })
}

/// A body that is carried out once for what is asked for. What was refused may be asked for otherwise, and is then another request:
/// a key that comes back with another body is refused for good.
fn once(new: &NewCheckout, step: &str, mut body: Json) -> Json {
    body["idempotency_key"] = key_of(&json!([step, new])).into();
    body
}

async fn link(square: &Square, call: Call, new: &NewCheckout, order: Json) -> Result<Checkout, ConnectorError> {
    let mut body = json!({ "order": order, "payment_note": new.reference });
    if let Some(email) = &new.email {
        body["pre_populated_data"] = json!({ "buyer_email": email });
    }
    let body = once(new, "link", body);
    let ask = Ask::change(Method::POST, "online-checkout/payment-links", call, Some(body));
    let made: Linked = square.client.ask(&ask).await?;
    Ok(Checkout { sale: sale(made.payment_link.order_id)?, url: made.payment_link.url })
}

async fn invoice(
    square: &Square,
    call: Call,
    new: &NewCheckout,
    order: Json,
    location: &str,
) -> Result<Checkout, ConnectorError> {
    let Some(buyer) = &new.buyer else {
        return Err(ConnectorError::Rejected {
            field: Some("contact".into()),
            reason: "an invoice is sent to a customer of the till: link the contact to one first".into(),
        });
    };
    let say = |path: String, body: Json| Ask::change(Method::POST, path, call, Some(body));
    let body = once(new, "order", json!({ "order": order }));
    let Ordered { order } = square.client.ask(&say("orders".into(), body)).await?;
    let due_on = new.due_on.unwrap_or_else(|| square.client.vendor_now().date_naive());
    let invoice = json!({
        "location_id": location, "order_id": order.id, "title": new.title, "delivery_method": "EMAIL",
        "primary_recipient": { "customer_id": buyer.as_str() },
        "payment_requests": [{ "request_type": "BALANCE", "due_date": due_on.to_string() }],
        "accepted_payment_methods": { "card": true },
    });
    let body = once(new, "invoice", json!({ "invoice": invoice }));
    let Invoiced { invoice } = square.client.ask(&say("invoices".into(), body)).await?;
    let body = once(new, &format!("publish {}", invoice.id), json!({ "version": invoice.version }));
    let published = square.client.ask(&say(format!("invoices/{}/publish", invoice.id), body)).await;
    let url = match published {
        Ok(Invoiced { invoice }) => invoice.public_url,
        // Published by an earlier try.
        Err(ConnectorError::Stale) => invoice.public_url,
        Err(error) => return Err(error),
    };
    Ok(Checkout { sale: sale(order.id)?, url })
}
