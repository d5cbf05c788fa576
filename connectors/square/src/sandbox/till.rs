//! What people do at the till: sell, take payments, give money back.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Map, Value as Json, json};

use super::world::{Change, Refusal, World, iso};

/// What a line is of.
#[derive(Clone, Debug)]
pub enum Item {
    /// An item of the catalog, by its name.
    Named(String),
    /// A variation of the catalog, by its id.
    Variation(String),
    /// Something typed in, with its price.
    Custom(String, i64),
    /// A gift card of this worth.
    GiftCard(i64),
}

/// A line of a ticket; money in minor units.
#[derive(Clone, Debug)]
pub struct Line {
    /// What.
    pub item: Item,
    /// How many.
    pub quantity: u32,
    /// Taken off the line.
    pub discount: i64,
    /// Put on it.
    pub tax: i64,
}

impl Line {
    /// One of an item of the catalog.
    #[must_use]
    pub fn of(item: &str) -> Self {
        Self { item: Item::Named(item.into()), quantity: 1, discount: 0, tax: 0 }
    }
}

/// A payment towards a ticket.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// How much, without the tip; all that is due if left out.
    pub amount: Option<i64>,
    /// The tip that goes with it.
    pub tip: i64,
    /// Who pays, as far as the till knows.
    pub customer: Option<String>,
    /// Held, not taken yet.
    pub authorised: bool,
    /// The address the receipt goes to.
    pub buyer_email: Option<String>,
    /// A note on the payment.
    pub note: Option<String>,
    /// What an application wrote on the payment.
    pub reference: Option<String>,
}

/// What is sold together.
#[derive(Clone, Debug, Default)]
pub struct Ticket {
    /// Where, by name.
    pub location: String,
    /// What.
    pub lines: Vec<Line>,
    /// Service charge.
    pub service: i64,
    /// Who buys, if the order says so.
    pub customer: Option<String>,
    /// Who is to get it, if that is a customer.
    pub recipient: Option<String>,
    /// What an application wrote on the order.
    pub reference: Option<String>,
    /// What else it wrote there.
    pub metadata: Map<String, Json>,
    /// The payments, in order.
    pub parts: Vec<Part>,
}

#[derive(Clone, Debug)]
pub struct Order {
    pub id: String,
    pub location: String,
    pub currency: String,
    pub lines: Vec<Json>,
    pub service: i64,
    pub customer: Option<String>,
    pub recipient: Option<String>,
    pub reference: Option<String>,
    pub metadata: Map<String, Json>,
    pub state: String,
    /// Only what was made through the API has one.
    pub version: Option<i64>,
    pub payments: Vec<String>,
    pub returns: Vec<Json>,
    pub returned: i64,
    pub refunds: Vec<String>,
    /// A link's or an invoice's: it stays open when it is paid.
    pub stays_open: bool,
    /// Not to be read before it is paid.
    pub hidden: bool,
    /// The drawer was opened, and nothing was sold.
    pub no_sale: bool,
    pub created: DateTime<Utc>,
    pub updated: DateTime<Utc>,
    pub closed: Option<DateTime<Utc>>,
}

#[derive(Clone, Debug)]
pub struct Payment {
    pub id: String,
    pub order: String,
    pub location: String,
    pub currency: String,
    pub customer: Option<String>,
    pub amount: i64,
    pub tip: i64,
    pub refunded: i64,
    pub status: String,
    pub buyer_email: Option<String>,
    pub note: Option<String>,
    pub reference: Option<String>,
    pub product: &'static str,
    pub offline_at: Option<DateTime<Utc>>,
    pub refunds: Vec<String>,
    pub created: DateTime<Utc>,
    pub updated: DateTime<Utc>,
}

#[derive(Clone, Debug)]
pub struct Refund {
    pub id: String,
    pub payment: String,
    pub order: String,
    pub location: String,
    pub currency: String,
    pub amount: i64,
    pub status: String,
    pub created: DateTime<Utc>,
    pub updated: DateTime<Utc>,
}

pub fn money(amount: i64, currency: &str) -> Json {
    json!({ "amount": amount, "currency": currency })
}

fn sum(lines: &[Json], name: &str) -> i64 {
    lines.iter().filter_map(|line| line[name]["amount"].as_i64()).sum()
}

impl World {
    pub(super) fn line(&self, number: usize, line: &Line, currency: &str) -> Result<Json, Refusal> {
        let quantity = i64::from(line.quantity);
        let (mut shown, price) = match &line.item {
            Item::Named(_) | Item::Variation(_) => {
                let id = match &line.item {
                    Item::Named(name) => self.variation_id(name),
                    Item::Variation(id) => Some(id.clone()),
                    _ => None,
                };
                let id = id.ok_or_else(|| Refusal::not_found("Catalog object"))?;
                let (item, variation) = self.variation(&id).ok_or_else(|| Refusal::not_found("Catalog object"))?;
                let shown = json!({
                    "catalog_object_id": id, "catalog_version": 1_746_180_000_000_i64, "name": item.name,
                    "variation_name": variation.name, "item_type": "ITEM",
                });
                (shown, variation.price)
            }
            Item::Custom(name, price) => (json!({ "name": name, "item_type": "CUSTOM_AMOUNT" }), *price),
            Item::GiftCard(price) => (json!({ "name": "Gift card", "item_type": "GIFT_CARD" }), *price),
        };
        let gross = price * quantity;
        for (name, value) in [
            ("uid", json!(format!("li-{number}"))),
            ("quantity", json!(line.quantity.to_string())),
            ("base_price_money", money(price, currency)),
            ("gross_sales_money", money(gross, currency)),
            ("total_tax_money", money(line.tax, currency)),
            ("total_discount_money", money(line.discount, currency)),
            ("total_money", money(gross - line.discount + line.tax, currency)),
        ] {
            shown[name] = value;
        }
        Ok(shown)
    }

    pub(super) fn new_order(&mut self, location: &str, lines: Vec<Json>, by: Change) -> Result<Order, Refusal> {
        let place = self
            .location(location)
            .ok_or_else(|| Refusal::invalid("INVALID_VALUE", "location_id", "Unknown location."))?;
        let currency = place.currency.clone();
        Ok(Order {
            id: self.next_id("ORD"),
            location: location.to_owned(),
            currency,
            lines,
            service: 0,
            customer: None,
            recipient: None,
            reference: None,
            metadata: Map::new(),
            state: "OPEN".into(),
            version: (by == Change::Api).then_some(1),
            payments: Vec::new(),
            returns: Vec::new(),
            returned: 0,
            refunds: Vec::new(),
            stays_open: false,
            hidden: false,
            no_sale: false,
            created: self.now,
            updated: self.now,
            closed: None,
        })
    }

    /// Sells at the till; answers the order's id.
    ///
    /// # Errors
    /// Square's refusal of something in the ticket.
    pub fn sell(&mut self, ticket: &Ticket) -> Result<String, Refusal> {
        self.sell_at(ticket, None)
    }

    /// Sells at a till that was offline and reports now what it sold then.
    ///
    /// # Errors
    /// As [`World::sell`].
    pub fn sell_offline(&mut self, ticket: &Ticket, ago: TimeDelta) -> Result<String, Refusal> {
        let at = self.now - ago;
        self.sell_at(ticket, Some(at))
    }

    fn sell_at(&mut self, ticket: &Ticket, at: Option<DateTime<Utc>>) -> Result<String, Refusal> {
        let id = self.open_ticket(ticket)?;
        if let (Some(order), Some(at)) = (self.orders.get_mut(&id), at) {
            order.created = at;
        }
        let parts = if ticket.parts.is_empty() { vec![Part::default()] } else { ticket.parts.clone() };
        for part in &parts {
            self.pay_at(&id, part, "SQUARE_POS", at)?;
        }
        Ok(id)
    }

    /// Hands out what was paid for before: a ticket that comes to nothing, which nobody pays; answers the order's id.
    ///
    /// # Errors
    /// As [`World::sell`].
    pub fn redeem(&mut self, ticket: &Ticket) -> Result<String, Refusal> {
        let id = self.open_ticket(ticket)?;
        self.order_changed(&id);
        Ok(id)
    }

    /// Opens the drawer to give change; answers the id of the order that stands for it.
    ///
    /// # Errors
    /// There is no such location.
    pub fn open_drawer(&mut self, location: &str) -> Result<String, Refusal> {
        let id = self.open_ticket(&Ticket { location: location.to_owned(), ..Ticket::default() })?;
        if let Some(order) = self.orders.get_mut(&id) {
            order.no_sale = true;
        }
        self.order_changed(&id);
        Ok(id)
    }

    /// Rings up a ticket without a payment; nobody can read it yet.
    ///
    /// # Errors
    /// As [`World::sell`].
    pub fn open_ticket(&mut self, ticket: &Ticket) -> Result<String, Refusal> {
        let location = self.location_id(&ticket.location).unwrap_or_else(|| ticket.location.clone());
        let currency = self.location(&location).map_or("USD".to_owned(), |place| place.currency.clone());
        let mut lines = Vec::with_capacity(ticket.lines.len());
        for (number, line) in ticket.lines.iter().enumerate() {
            lines.push(self.line(number + 1, line, &currency)?);
        }
        let mut order = self.new_order(&location, lines, Change::Person)?;
        (order.service, order.customer, order.hidden) = (ticket.service, ticket.customer.clone(), true);
        (order.recipient, order.reference) = (ticket.recipient.clone(), ticket.reference.clone());
        order.metadata.clone_from(&ticket.metadata);
        let id = order.id.clone();
        self.orders.insert(id.clone(), order);
        Ok(id)
    }

    /// Takes a payment towards an order; answers its id.
    ///
    /// # Errors
    /// 404.
    pub fn pay(&mut self, order: &str, part: &Part) -> Result<String, Refusal> {
        self.pay_at(order, part, "SQUARE_POS", None)
    }

    pub(super) fn pay_at(
        &mut self,
        order: &str,
        part: &Part,
        product: &'static str,
        at: Option<DateTime<Utc>>,
    ) -> Result<String, Refusal> {
        let (due, location, currency) = {
            let found = self.orders.get(order).ok_or_else(|| Refusal::not_found("Order"))?;
            (self.due(found), found.location.clone(), found.currency.clone())
        };
        let id = self.next_id("PAY");
        let payment = Payment {
            id: id.clone(),
            order: order.to_owned(),
            location,
            currency,
            customer: part.customer.clone(),
            amount: part.amount.unwrap_or(due),
            tip: part.tip,
            refunded: 0,
            status: if part.authorised { "APPROVED" } else { "COMPLETED" }.into(),
            buyer_email: part.buyer_email.clone(),
            note: part.note.clone(),
            reference: part.reference.clone(),
            product,
            offline_at: at,
            refunds: Vec::new(),
            created: at.unwrap_or(self.now),
            updated: self.now,
        };
        self.payments.insert(id.clone(), payment);
        if let Some(found) = self.orders.get_mut(order) {
            found.payments.push(id.clone());
        }
        self.payment_changed(&id, "payment.created");
        self.order_changed(order);
        Ok(id)
    }

    /// Takes what was only held.
    pub fn capture(&mut self, payment: &str) {
        self.set_payment(payment, "COMPLETED");
    }

    /// Lets go of what was only held.
    pub fn void(&mut self, payment: &str) {
        self.set_payment(payment, "CANCELED");
        let order = self.payments.get(payment).map(|payment| payment.order.clone()).unwrap_or_default();
        if let Some(order) = self.orders.get_mut(&order) {
            order.state = "CANCELED".into();
            order.hidden = false;
        }
        self.order_changed(&order);
    }

    /// A card that was taken offline is declined when the till sends it on: nobody paid after all.
    pub fn decline(&mut self, payment: &str) {
        self.set_payment(payment, "FAILED");
    }

    fn set_payment(&mut self, payment: &str, status: &str) {
        let Some(found) = self.payments.get_mut(payment) else { return };
        found.status = status.into();
        let order = found.order.clone();
        self.payment_changed(payment, "payment.updated");
        self.order_changed(&order);
    }

    /// Square finds out who paid, a while later.
    pub fn name_buyer(&mut self, payment: &str, customer: &str) {
        if let Some(found) = self.payments.get_mut(payment) {
            found.customer = Some(customer.to_owned());
        }
        self.payment_changed(payment, "payment.updated");
    }

    /// The buyer has the receipt sent there, once it is paid.
    pub fn send_receipt(&mut self, payment: &str, email: &str) {
        if let Some(found) = self.payments.get_mut(payment) {
            found.buyer_email = Some(email.to_owned());
        }
        self.payment_changed(payment, "payment.updated");
    }

    /// Gives money back: a return order of its own; answers the refund's id.
    ///
    /// # Errors
    /// 404; more than was paid; another refund of it is under way.
    pub fn refund(&mut self, payment: &str, amount: i64) -> Result<String, Refusal> {
        self.give_back(payment, amount, "COMPLETED")
    }

    /// The same, and the bank has yet to say what becomes of it.
    ///
    /// # Errors
    /// As [`World::refund`].
    pub fn begin_refund(&mut self, payment: &str, amount: i64) -> Result<String, Refusal> {
        self.give_back(payment, amount, "PENDING")
    }

    /// The bank says what became of a refund: `COMPLETED`, `REJECTED` or `FAILED`.
    pub fn end_refund(&mut self, refund: &str, status: &str) {
        if let Some(found) = self.refunds.get_mut(refund) {
            found.status = status.into();
        }
        self.refund_changed(refund, false);
    }

    fn give_back(&mut self, payment: &str, amount: i64, status: &str) -> Result<String, Refusal> {
        let paid = self.payments.get(payment).cloned().ok_or_else(|| Refusal::not_found("Payment"))?;
        let is_pending = |id: &String| self.refunds.get(id).is_some_and(|refund| refund.status == "PENDING");
        if paid.refunds.iter().any(is_pending) {
            return Err(Refusal::invalid("REFUND_ALREADY_PENDING", "payment_id", "A refund of it is under way."));
        }
        if amount <= 0 || paid.refunded + amount > paid.amount + paid.tip {
            return Err(Refusal::invalid("REFUND_AMOUNT_INVALID", "amount_money", "More than was paid."));
        }
        let mut order = self.new_order(&paid.location, Vec::new(), Change::Person)?;
        order.returns = vec![json!({
            "uid": "ret-1", "source_order_id": paid.order,
            "return_line_items": [{ "uid": "rli-1", "quantity": "1", "item_type": "CUSTOM_AMOUNT", "total_money": money(amount, &paid.currency) }],
            "return_amounts": { "total_money": money(amount, &paid.currency) },
        })];
        order.returned = amount;
        (order.state, order.closed) = ("COMPLETED".into(), Some(self.now));
        let id = self.next_id("REF");
        order.refunds.push(id.clone());
        let returned = order.id.clone();
        self.orders.insert(returned.clone(), order);
        let refund = Refund {
            id: id.clone(),
            payment: payment.to_owned(),
            order: returned,
            location: paid.location,
            currency: paid.currency,
            amount,
            status: status.into(),
            created: self.now,
            updated: self.now,
        };
        self.refunds.insert(id.clone(), refund);
        if let Some(paid) = self.payments.get_mut(payment) {
            paid.refunds.push(id.clone());
        }
        self.refund_changed(&id, true);
        Ok(id)
    }

    fn refund_changed(&mut self, id: &str, is_new: bool) {
        let now = self.now;
        let Some(refund) = self.refunds.get_mut(id) else { return };
        refund.updated = now;
        let (shown, payment, returned) = (Self::show_refund(refund), refund.payment.clone(), refund.order.clone());
        let sum = self.given_back(&payment);
        let paid = self.payments.get_mut(&payment);
        let is_other = paid.is_some_and(|paid| std::mem::replace(&mut paid.refunded, sum) != sum);
        self.list_later("refunds", id, shown.clone(), now);
        for _ in 0..self.settings.burst.max(1) {
            self.tell_of("refund.updated", "refund", id, json!({ "refund": shown }), "PAYMENTS_READ");
        }
        if is_new || is_other {
            self.payment_changed(&payment, "payment.updated");
        }
        self.order_changed(&returned);
    }

    /// What was given back of a payment, as the payment says it.
    fn given_back(&self, payment: &str) -> i64 {
        let counts = |refund: &&Refund| match refund.status.as_str() {
            "COMPLETED" => true,
            "PENDING" => self.settings.pending_is_refunded,
            _ => false,
        };
        let of_it = self.refunds.values().filter(|refund| refund.payment == payment);
        of_it.filter(counts).map(|refund| refund.amount).sum()
    }

    /// Takes something back for something else: one order with both; answers its id.
    ///
    /// # Errors
    /// As [`World::sell`].
    pub fn exchange(&mut self, source: &str, returned: i64, ticket: &Ticket) -> Result<String, Refusal> {
        let id = self.open_ticket(ticket)?;
        let currency = self.orders.get(&id).map(|order| order.currency.clone()).unwrap_or_default();
        if let Some(order) = self.orders.get_mut(&id) {
            order.returned = returned;
            order.returns = vec![json!({
                "uid": "ret-1", "source_order_id": source,
                "return_amounts": { "total_money": money(returned, &currency) },
            })];
        }
        let part = Part { customer: ticket.customer.clone(), ..Part::default() };
        self.pay(&id, &part)?;
        Ok(id)
    }

    fn taken(&self, order: &Order) -> i64 {
        let parts = order.payments.iter().filter_map(|id| self.payments.get(id));
        let is_taken = |payment: &&Payment| matches!(payment.status.as_str(), "COMPLETED" | "FAILED");
        let taken = parts.filter(|payment| self.stands(payment)).filter(is_taken);
        taken.map(|payment| payment.amount + payment.tip).sum()
    }

    /// Whether an order goes on naming a payment.
    fn stands(&self, payment: &Payment) -> bool {
        match payment.status.as_str() {
            "CANCELED" => false,
            "FAILED" => !self.settings.declined_is_due,
            _ => true,
        }
    }

    fn tips(&self, order: &Order) -> i64 {
        let parts = order.payments.iter().filter_map(|id| self.payments.get(id));
        parts.filter(|payment| self.stands(payment)).map(|payment| payment.tip).sum()
    }

    fn total(&self, order: &Order) -> i64 {
        sum(&order.lines, "total_money") + order.service + self.tips(order)
    }

    /// What is still to be paid; what is only held does not lower it.
    pub(super) fn due(&self, order: &Order) -> i64 {
        (self.total(order) - order.returned - self.taken(order)).max(0)
    }

    pub(super) fn payment_changed(&mut self, id: &str, event: &str) {
        let now = self.now;
        let Some(payment) = self.payments.get_mut(id) else { return };
        payment.updated = now;
        let shown = Self::show_payment(payment);
        self.list_later("payments", id, shown.clone(), now);
        for copy in 0..self.settings.burst.max(1) {
            let event = if copy == 0 { event } else { "payment.updated" };
            self.tell_of(event, "payment", id, json!({ "payment": shown }), "PAYMENTS_READ");
        }
    }

    pub(super) fn order_changed(&mut self, id: &str) {
        let now = self.now;
        let Some(order) = self.orders.get(id) else { return };
        let is_paid = self.due(order) == 0 && (!order.payments.is_empty() || self.total(order) == 0);
        let held =
            order.payments.iter().filter_map(|id| self.payments.get(id)).any(|payment| payment.status == "APPROVED");
        // A till that was offline reports when it sold.
        let parts = order.payments.iter().filter_map(|id| self.payments.get(id));
        let offline = parts.filter_map(|payment| payment.offline_at).max();
        let Some(order) = self.orders.get_mut(id) else { return };
        order.updated = now;
        if is_paid && !held && matches!(order.state.as_str(), "OPEN" | "DRAFT") {
            order.state = if order.stays_open { "OPEN" } else { "COMPLETED" }.into();
            if !order.stays_open {
                order.closed = Some(offline.unwrap_or(now));
            }
        }
        if is_paid || held {
            order.hidden = false;
        }
        if let Some(version) = &mut order.version {
            *version += 1;
        }
        let (hidden, version, location, state, created) =
            (order.hidden, order.version, order.location.clone(), order.state.clone(), order.created);
        if hidden {
            return;
        }
        let shown = self.show_order(id);
        self.list_later("orders", id, shown, now);
        if let Some(version) = version {
            let object = json!({ "order_updated": {
                "created_at": iso(created), "location_id": location, "order_id": id, "state": state,
                "updated_at": iso(now), "version": version,
            } });
            self.tell_of("order.updated", "order_updated", id, object, "ORDERS_READ");
        }
    }

    pub(super) fn show_payment(payment: &Payment) -> Json {
        let currency = payment.currency.as_str();
        let mut shown = json!({
            "id": payment.id, "status": payment.status, "source_type": "CARD", "order_id": payment.order,
            "location_id": payment.location, "amount_money": money(payment.amount, currency),
            "total_money": money(payment.amount + payment.tip, currency),
            "approved_money": money(payment.amount + payment.tip, currency),
            "created_at": iso(payment.created), "updated_at": iso(payment.updated),
            "application_details": { "square_product": payment.product },
            "version_token": format!("VT{}", payment.updated.timestamp_millis()),
        });
        let mut set = |name: &str, value: Option<Json>| {
            if let Some(value) = value {
                shown[name] = value;
            }
        };
        set("tip_money", (payment.tip > 0).then(|| money(payment.tip, currency)));
        set("refunded_money", (payment.refunded > 0).then(|| money(payment.refunded, currency)));
        set("refund_ids", (!payment.refunds.is_empty()).then(|| json!(payment.refunds)));
        set("customer_id", payment.customer.as_ref().map(|id| json!(id)));
        set("buyer_email_address", payment.buyer_email.as_ref().map(|email| json!(email)));
        set("note", payment.note.as_ref().map(|note| json!(note)));
        set("reference_id", payment.reference.as_ref().map(|reference| json!(reference)));
        if let Some(at) = payment.offline_at {
            set("is_offline_payment", Some(json!(true)));
            set("offline_payment_details", Some(json!({ "client_created_at": iso(at) })));
        }
        shown
    }

    pub(super) fn show_refund(refund: &Refund) -> Json {
        json!({
            "id": refund.id, "status": refund.status, "payment_id": refund.payment, "order_id": refund.order,
            "location_id": refund.location, "amount_money": money(refund.amount, &refund.currency),
            "created_at": iso(refund.created), "updated_at": iso(refund.updated),
        })
    }

    pub(super) fn show_order(&self, id: &str) -> Json {
        let Some(order) = self.orders.get(id) else { return Json::Null };
        let currency = order.currency.as_str();
        let (total, tips) = (self.total(order), self.tips(order));
        let (tax, discount) = (sum(&order.lines, "total_tax_money"), sum(&order.lines, "total_discount_money"));
        let mut shown = json!({
            "id": order.id, "location_id": order.location, "state": order.state,
            "created_at": iso(order.created), "updated_at": iso(order.updated),
            "total_money": money(total, currency), "total_tax_money": money(tax, currency),
            "total_discount_money": money(discount, currency), "total_tip_money": money(tips, currency),
            "total_service_charge_money": money(order.service, currency),
            "net_amounts": {
                "total_money": money(total - order.returned, currency), "tax_money": money(tax, currency),
                "discount_money": money(discount, currency), "tip_money": money(tips, currency),
                "service_charge_money": money(order.service, currency),
            },
            "net_amount_due_money": money(self.due(order), currency),
            "source": { "name": if order.version.is_some() { "Sandbox application" } else { "Square Point of Sale" } },
        });
        let mut tenders: Vec<Json> = order
            .payments
            .iter()
            .filter_map(|id| self.payments.get(id))
            .filter(|payment| self.stands(payment))
            .map(|payment| {
                let captured = match payment.status.as_str() {
                    "COMPLETED" => "CAPTURED",
                    "FAILED" => "FAILED",
                    _ => "AUTHORIZED",
                };
                let mut tender = json!({
                    "id": payment.id, "payment_id": payment.id, "location_id": order.location, "transaction_id": order.id,
                    "created_at": iso(payment.created), "type": "CARD", "card_details": { "status": captured },
                    "amount_money": money(payment.amount + payment.tip, currency), "tip_money": money(payment.tip, currency),
                });
                if let Some(customer) = &payment.customer {
                    tender["customer_id"] = customer.clone().into();
                }
                tender
            })
            .collect();
        if order.no_sale {
            tenders.push(json!({
                "id": format!("NS{}", order.id), "location_id": order.location, "transaction_id": order.id,
                "created_at": iso(order.created), "type": "NO_SALE", "amount_money": money(0, currency),
            }));
        }
        let mut set = |name: &str, value: Option<Json>| {
            if let Some(value) = value {
                shown[name] = value;
            }
        };
        set("line_items", (!order.lines.is_empty()).then(|| order.lines.clone().into()));
        let charge = || {
            let charged = money(order.service, currency);
            json!([{
                "uid": "sc-1", "name": "Service charge", "amount_money": charged, "applied_money": charged,
                "total_money": charged, "total_tax_money": money(0, currency), "calculation_phase": "SUBTOTAL_PHASE",
                "taxable": false, "type": "CUSTOM",
            }])
        };
        set("service_charges", (order.service > 0).then(charge));
        set("tenders", (!tenders.is_empty()).then(|| tenders.into()));
        set("returns", (!order.returns.is_empty()).then(|| order.returns.clone().into()));
        set("version", order.version.map(Json::from));
        set("customer_id", order.customer.as_ref().map(|id| json!(id)));
        let handed = |id: &String| {
            json!([{
                "uid": "ful-1", "type": "PICKUP", "state": "COMPLETED",
                "pickup_details": { "recipient": { "customer_id": id } },
            }])
        };
        set("fulfillments", order.recipient.as_ref().map(handed));
        set("reference_id", order.reference.as_ref().map(|reference| json!(reference)));
        set("metadata", (!order.metadata.is_empty()).then(|| order.metadata.clone().into()));
        set("closed_at", order.closed.map(|at| json!(iso(at))));
        let refunds: Vec<Json> = order
            .refunds
            .iter()
            .filter_map(|id| self.refunds.get(id))
            .map(|refund| {
                // An order has another word for it than the refund itself.
                let status = if refund.status == "COMPLETED" { "APPROVED" } else { refund.status.as_str() };
                json!({
                    "id": refund.id, "location_id": refund.location, "tender_id": refund.payment, "reason": "",
                    "amount_money": money(refund.amount, currency), "status": status, "transaction_id": refund.order,
                })
            })
            .collect();
        if !refunds.is_empty() {
            shown["refunds"] = refunds.into();
            shown["return_amounts"] = json!({ "total_money": money(order.returned, currency) });
        }
        shown
    }

    /// The payments of an order.
    #[must_use]
    pub fn payments_of(&self, order: &str) -> Vec<String> {
        self.orders.get(order).map(|order| order.payments.clone()).unwrap_or_default()
    }
}
