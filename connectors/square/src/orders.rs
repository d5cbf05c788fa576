//! Sales: orders with their payments and whoever bought, read whole; and the windows in which they changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::Ordering,
};

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value as Json, json};
use tandem_contract::{
    Buyer, Call, ConnectorError, ExternalId, LineKind, Location, Origin, Sale, SaleLine, SaleRead, SaleState, Seen,
    Version,
};

use crate::{
    Square,
    catalog::Catalog,
    client::{Ask, Fault, complete, or_none},
    customers::{Customer, for_query, readable},
    invoices::recipients,
};

/// Locations of one search, and orders of one batch. Source: `SearchOrders`, `BatchRetrieveOrders`.
const LOCATIONS: usize = 10;
const ORDERS: usize = 100;
/// Orders of a page of a search, at most. Source: `SearchOrders`.
pub const PAGE: usize = 1_000;

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct Amount {
    #[serde(deserialize_with = "or_none")]
    amount: i64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Total {
    #[serde(deserialize_with = "or_none")]
    amount: i64,
    #[serde(deserialize_with = "or_none")]
    currency: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Order {
    id: String,
    location_id: String,
    reference_id: Option<String>,
    customer_id: Option<String>,
    metadata: Option<BTreeMap<String, String>>,
    #[serde(deserialize_with = "or_none")]
    line_items: Vec<LineItem>,
    #[serde(deserialize_with = "or_none")]
    tenders: Vec<Tender>,
    #[serde(deserialize_with = "or_none")]
    returns: Vec<Return>,
    #[serde(deserialize_with = "or_none")]
    fulfillments: Vec<Fulfillment>,
    state: Option<String>,
    total_money: Option<Total>,
    total_tip_money: Option<Amount>,
    total_tax_money: Option<Amount>,
    net_amounts: Option<NetAmounts>,
    net_amount_due_money: Option<Amount>,
    created_at: Option<DateTime<Utc>>,
    updated_at: Option<DateTime<Utc>>,
    closed_at: Option<DateTime<Utc>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct NetAmounts {
    total_money: Option<Amount>,
    tip_money: Option<Amount>,
    tax_money: Option<Amount>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct LineItem {
    name: Option<String>,
    variation_name: Option<String>,
    catalog_object_id: Option<String>,
    item_type: Option<String>,
    total_money: Option<Amount>,
    total_tax_money: Option<Amount>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Tender {
    id: Option<String>,
    payment_id: Option<String>,
    customer_id: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Return {
    source_order_id: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Fulfillment {
    pickup_details: Option<Recipient>,
    shipment_details: Option<Recipient>,
    delivery_details: Option<Recipient>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Recipient {
    recipient: Option<CustomerId>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct CustomerId {
    customer_id: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Payment {
    customer_id: Option<String>,
    status: Option<String>,
    reference_id: Option<String>,
    note: Option<String>,
    buyer_email_address: Option<String>,
    total_money: Option<Total>,
    refunded_money: Option<Amount>,
    #[serde(deserialize_with = "or_none")]
    refund_ids: Vec<String>,
    created_at: Option<DateTime<Utc>>,
    offline_payment_details: Option<Offline>,
    application_details: Option<Application>,
}

impl Payment {
    fn is_of_invoice(&self) -> bool {
        let product = self.application_details.as_ref().and_then(|by| by.square_product.as_deref());
        product == Some("INVOICES")
    }

    fn total(&self) -> i64 {
        self.total_money.as_ref().map_or(0, |total| total.amount)
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Offline {
    client_created_at: Option<DateTime<Utc>>,
}

/// Which of Square's products took a payment.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Application {
    square_product: Option<String>,
}

/// A page of what changed in a window. Of a row it only matters which sale it is of and when it changed: nothing else that stands
/// in it keeps the others from being read.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Changed {
    #[serde(deserialize_with = "or_none")]
    orders: Vec<Json>,
    #[serde(deserialize_with = "or_none")]
    payments: Vec<Json>,
    #[serde(deserialize_with = "or_none")]
    refunds: Vec<Json>,
    cursor: Option<String>,
    #[serde(deserialize_with = "or_none")]
    errors: Vec<Fault>,
}

impl Changed {
    fn rows(self) -> Rows {
        complete(&self.errors)?;
        let of_money = self.payments.iter().chain(&self.refunds).map(|row| (&row["order_id"], row));
        let named = self.orders.iter().map(|row| (&row["id"], row)).chain(of_money);
        let seen = named.filter_map(|(id, row)| {
            let id = ExternalId::new(id.as_str()?).ok()?;
            let at = row["updated_at"].as_str().and_then(|text| DateTime::parse_from_rfc3339(text).ok());
            Some(Seen::Hint { id, version: Version { token: None, updated_at: at.map(|at| at.to_utc()) } })
        });
        Ok((seen.collect(), self.cursor))
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Orders {
    #[serde(deserialize_with = "or_none")]
    orders: Vec<Order>,
}

#[derive(Deserialize)]
struct OnePayment {
    payment: Payment,
}

#[derive(Deserialize)]
struct OneRefund {
    refund: Refund,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Refund {
    status: Option<String>,
    amount_money: Option<Amount>,
}

type Rows = Result<(Vec<Seen>, Option<String>), ConnectorError>;

/// One page of the orders that changed in a window, or whose payments or refunds did, and how many steps a window has.
pub async fn changed(
    square: &Square,
    call: Call,
    (since, until): (DateTime<Utc>, DateTime<Utc>),
    step: usize,
    after: Option<&str>,
) -> Result<(Rows, usize), ConnectorError> {
    let locations = square.locations(call).await?;
    let groups: Vec<&[Location]> = locations.chunks(LOCATIONS).collect();
    let steps = groups.len() + locations.len() + 1;
    if let Some(group) = groups.get(step) {
        let ids: Vec<&str> = group.iter().map(|location| location.id.as_str()).collect();
        let range = json!({ "updated_at": { "start_at": for_query(since), "end_at": for_query(until) } });
        let mut body = json!({
            "location_ids": ids,
            "query": {
                "filter": { "date_time_filter": range, "state_filter": { "states": ["OPEN", "COMPLETED", "CANCELED"] } },
                "sort": { "sort_field": "UPDATED_AT", "sort_order": "ASC" },
            },
        });
        if let Some(after) = after {
            body["cursor"] = after.into();
        }
        return Ok((search(square, call, body).await, steps));
    }
    let ask = |path: &str| {
        Ask::get(path, call.lane)
            .query("updated_at_begin_time", for_query(since))
            .query("updated_at_end_time", for_query(until))
            .query("sort_field", "UPDATED_AT")
            .query("sort_order", "ASC")
            .query("limit", "100")
            .after(after)
    };
    let ask = match locations.get(step - groups.len()) {
        Some(location) => ask("payments").query("location_id", &location.id),
        None => ask("refunds"),
    };
    Ok((square.client.ask::<Changed>(&ask).await.and_then(Changed::rows), steps))
}

/// A page of a search for orders; of fewer, from then on, where so many are more than is read of an answer.
async fn search(square: &Square, call: Call, mut body: Json) -> Rows {
    loop {
        let limit = square.orders_of_a_page.load(Ordering::Relaxed);
        body["limit"] = limit.into();
        match square.client.ask::<Changed>(&Ask::search("orders/search", call.lane, body.clone())).await {
            Err(error) if error.is_too_large() && limit > 1 => {
                square.orders_of_a_page.fetch_min(limit / 2, Ordering::Relaxed);
            }
            page => return page.and_then(Changed::rows),
        }
    }
}

/// Sales by id, in the order asked.
pub async fn sales(square: &Square, call: Call, ids: &[ExternalId]) -> Result<Vec<SaleRead>, ConnectorError> {
    let mut orders: BTreeMap<String, Order> = BTreeMap::new();
    for ids in ids.chunks(ORDERS) {
        let body = json!({ "order_ids": ids.iter().map(ExternalId::as_str).collect::<Vec<_>>() });
        let page: Orders = square.client.ask(&Ask::search("orders/batch-retrieve", call.lane, body)).await?;
        orders.extend(page.orders.into_iter().map(|order| (order.id.clone(), order)));
    }
    if orders.is_empty() {
        return Ok(ids.iter().map(|_| SaleRead::NotYet).collect());
    }
    let locations = square.locations(call).await?;
    let lines = orders.values().flat_map(|order| &order.line_items);
    let sold: BTreeSet<&str> = lines.filter_map(|line| line.catalog_object_id.as_deref()).collect();
    let catalog = square.catalog_of(call, &sold).await?;
    let mut payments: BTreeMap<String, Vec<Payment>> = BTreeMap::new();
    for order in orders.values() {
        let mut of = Vec::new();
        for tender in order.tenders.iter().filter(|tender| tender.kind.as_deref() != Some("NO_SALE")) {
            let Some(id) = tender.payment_id.as_deref().or(tender.id.as_deref()) else { continue };
            match square.client.ask::<OnePayment>(&Ask::get(format!("payments/{id}"), call.lane)).await {
                Ok(OnePayment { mut payment }) => {
                    payment.refunded_money = Some(given_back(square, call, &payment).await?);
                    of.push(payment);
                }
                // A tender of another kind than a payment.
                Err(ConnectorError::Gone) => {}
                Err(error) => return Err(error),
            }
        }
        payments.insert(order.id.clone(), of);
    }
    let mut named: BTreeMap<String, Vec<(ExternalId, Origin)>> = BTreeMap::new();
    let mut nameless: Vec<(&str, &str)> = Vec::new();
    for order in orders.values() {
        let of = payments.get(&order.id).map_or(&[] as &[Payment], Vec::as_slice);
        let all = customers_of(order, of);
        if all.is_empty() && of.iter().any(Payment::is_of_invoice) {
            nameless.push((order.id.as_str(), order.location_id.as_str()));
        }
        named.insert(order.id.clone(), all);
    }
    for (order, customer) in recipients(square, call, &nameless).await? {
        named.entry(order).or_default().push((customer, Origin::Invoice));
    }
    let wanted: BTreeSet<ExternalId> = named.values().flatten().map(|(id, _)| id.clone()).collect();
    let wanted: Vec<ExternalId> = wanted.into_iter().collect();
    let customers = readable(square, call, &wanted).await?;
    let reads = ids.iter().map(|id| match orders.get(id.as_str()) {
        Some(order) => {
            let place = locations.iter().find(|location| location.id == order.location_id);
            let place =
                place.cloned().unwrap_or_else(|| Location { id: order.location_id.clone(), ..Location::default() });
            let of = payments.get(&order.id).map_or(&[] as &[Payment], Vec::as_slice);
            let named = named.get(&order.id).map_or(&[] as &[(ExternalId, Origin)], Vec::as_slice);
            SaleRead::Found(Box::new(sale(id.clone(), order, of, named, place, &catalog, &customers)))
        }
        None => SaleRead::NotYet,
    });
    Ok(reads.collect())
}

/// What of a payment was given back for good. Whether it counts what is still under way, and may be refused, is not documented: its
/// refunds tell. Source: `PaymentRefund`.
async fn given_back(square: &Square, call: Call, payment: &Payment) -> Result<Amount, ConnectorError> {
    let all = payment.refunded_money.unwrap_or_default();
    let mut done = 0_i64;
    for id in payment.refund_ids.iter().filter(|_| all.amount > 0) {
        let one: OneRefund = match square.client.ask(&Ask::get(format!("refunds/{id}"), call.lane)).await {
            Err(ConnectorError::Gone) => return Ok(all),
            one => one?,
        };
        if one.refund.status.as_deref() == Some("COMPLETED") {
            done = done.saturating_add(amount(one.refund.amount_money.as_ref()));
        }
    }
    let is_told = !payment.refund_ids.is_empty();
    Ok(Amount { amount: if is_told { done.min(all.amount) } else { all.amount } })
}

/// Everybody whom an order or its payments name, and what does so, best first.
fn customers_of(order: &Order, payments: &[Payment]) -> Vec<(ExternalId, Origin)> {
    let recipients = order.fulfillments.iter().flat_map(|one| {
        [&one.pickup_details, &one.shipment_details, &one.delivery_details]
            .into_iter()
            .filter_map(|details| details.as_ref()?.recipient.as_ref()?.customer_id.clone())
    });
    let named = order
        .customer_id
        .iter()
        .cloned()
        .chain(order.tenders.iter().filter_map(|tender| tender.customer_id.clone()))
        .chain(payments.iter().filter_map(|payment| payment.customer_id.clone()))
        .map(|id| (id, Origin::Customer))
        .chain(recipients.map(|id| (id, Origin::Recipient)));
    let mut all: Vec<(ExternalId, Origin)> = Vec::new();
    for (id, origin) in named {
        let Ok(id) = ExternalId::new(id) else { continue };
        if !all.iter().any(|(known, _)| *known == id) {
            all.push((id, origin));
        }
    }
    all
}

fn amount(money: Option<&Amount>) -> i64 {
    money.map_or(0, |money| money.amount)
}

fn sale(
    id: ExternalId,
    order: &Order,
    payments: &[Payment],
    named: &[(ExternalId, Origin)],
    location: Location,
    catalog: &Catalog,
    customers: &BTreeMap<String, Customer>,
) -> Sale {
    let net = order.net_amounts.clone().unwrap_or_default();
    let is = |payment: &&Payment, status: &str| payment.status.as_deref() == Some(status);
    let completed: Vec<&Payment> = payments.iter().filter(|payment| is(payment, "COMPLETED")).collect();
    let paid = completed.iter().fold(0_i64, |sum, one| sum.saturating_add(one.total()));
    // A part-paid invoice was seen without a total: then what was paid is what there is.
    let first = completed.first().and_then(|payment| payment.total_money.clone()).unwrap_or_default();
    let gross = order.total_money.clone().unwrap_or(Total { amount: paid, ..first });
    let total = net.total_money.map_or(gross.amount, |net| net.amount);
    let tip = net.tip_money.map_or(amount(order.total_tip_money.as_ref()), |tip| tip.amount);
    let tax = net.tax_money.map_or(amount(order.total_tax_money.as_ref()), |tax| tax.amount);
    let offline = completed.iter().filter_map(|one| one.offline_payment_details.as_ref()?.client_created_at).max();
    let sold_at = offline
        .or(order.closed_at)
        .or_else(|| completed.iter().filter_map(|payment| payment.created_at).max())
        .or(order.created_at)
        .or(order.updated_at)
        .unwrap_or_default();
    let buyers = named
        .iter()
        .map(|(id, origin)| {
            let known = customers.get(id.as_str());
            let text = |name: &str| known.and_then(|customer| customer.text(name)).map(str::to_owned);
            Buyer {
                origin: *origin,
                reference: text("reference_id"),
                email: text("email_address"),
                phone: text("phone_number"),
                id: Some(id.clone()),
            }
        })
        // Where the receipt was sent to.
        .chain(payments.iter().filter_map(|payment| payment.buyer_email_address.clone()).map(|email| Buyer {
            origin: Origin::Receipt,
            email: Some(email),
            ..Buyer::default()
        }));
    let mut buyers: Vec<Buyer> = buyers.collect();
    buyers.sort_by_key(|buyer| buyer.origin);
    let metadata = order.metadata.as_ref().and_then(|all| all.get("opportunity_id").cloned());
    let of_payments = payments.iter().flat_map(|payment| [payment.reference_id.clone(), payment.note.clone()]);
    Sale {
        id,
        state: state(order, payments, paid, gross.amount.saturating_sub(total)),
        location,
        sold_at,
        currency: gross.currency,
        total,
        tip,
        tax,
        paid,
        refunded: completed.iter().fold(0_i64, |sum, one| sum.saturating_add(amount(one.refunded_money.as_ref()))),
        lines: order.line_items.iter().map(|line| sale_line(line, catalog)).collect(),
        mentions: order.reference_id.iter().cloned().chain(metadata).chain(of_payments.flatten()).collect(),
        buyers,
        returns: order.returns.iter().filter_map(|back| ExternalId::new(back.source_order_id.clone()?).ok()).collect(),
    }
}

/// How far an order has come. Completed is not paid, and paid is not completed: what counts is what is still due.
fn state(order: &Order, payments: &[Payment], paid: i64, returned: i64) -> SaleState {
    if !order.returns.is_empty() && order.line_items.is_empty() {
        return SaleState::Return;
    }
    if order.state.as_deref() == Some("CANCELED") {
        return SaleState::Void;
    }
    let is = |status: &str| payments.iter().any(|one| one.status.as_deref() == Some(status));
    let tenders = order.tenders.iter().filter(|tender| tender.kind.as_deref() != Some("NO_SALE")).count();
    // Some ways to pay are no payments of Square's: of those only the tender tells.
    let is_paid_otherwise = tenders > payments.len();
    // Part-paid invoices were seen without a total and with less than nothing due, and what was declined after the order was closed
    // may count for it still: then the payments are summed.
    let is_off = (is("FAILED") || is("CANCELED")) && !is_paid_otherwise;
    let total = order.total_money.as_ref().map(|total| total.amount);
    let due = match (total, order.net_amount_due_money) {
        (Some(_), Some(due)) if due.amount >= 0 && !is_off => Some(due.amount),
        (Some(total), _) => Some(total.saturating_sub(returned).saturating_sub(paid)),
        (None, _) => None,
    };
    match due {
        Some(due) if due <= 0 && !is("APPROVED") && !is("PENDING") => {
            // A gift: nothing was to be paid.
            let is_gift = tenders == 0 && total.is_some_and(|total| total <= returned);
            match is("COMPLETED") || is_paid_otherwise || (is_gift && order.state.as_deref() == Some("COMPLETED")) {
                true => SaleState::Paid,
                false => SaleState::Unpaid,
            }
        }
        _ if !is("COMPLETED") && !is_paid_otherwise => SaleState::Unpaid,
        _ => SaleState::PartlyPaid,
    }
}

fn sale_line(line: &LineItem, catalog: &Catalog) -> SaleLine {
    let named = line.catalog_object_id.as_deref().filter(|id| !id.is_empty());
    let known = named.and_then(|id| catalog.of(id));
    let (mut names, categories) = known.unwrap_or_default();
    // The order keeps the names of what the catalog has no more.
    for name in [&line.name, &line.variation_name, &line.catalog_object_id].into_iter().flatten() {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    SaleLine {
        kind: match line.item_type.as_deref() {
            Some("GIFT_CARD") => LineKind::GiftCard,
            _ => LineKind::Goods,
        },
        names,
        categories,
        is_known: named.is_none_or(|id| catalog.tells_of(id)),
        total: amount(line.total_money.as_ref()),
        tax: amount(line.total_tax_money.as_ref()),
    }
}
