//! Payment links and invoices: checkouts that an application starts.

use chrono::{DateTime, Utc};
use serde_json::{Value as Json, json};
use tandem_sandbox::Query;

use super::{
    lists::Page,
    till::{Part, Ticket},
    world::{Refusal, World, iso},
};

#[derive(Clone, Debug)]
pub struct PaymentLink {
    pub id: String,
    pub order: String,
    pub url: String,
    pub note: Option<String>,
    pub created: DateTime<Utc>,
}

#[derive(Clone, Debug)]
pub struct Invoice {
    pub id: String,
    pub order: String,
    pub location: String,
    pub customer: Option<String>,
    pub title: Option<String>,
    pub requests: Json,
    pub methods: Json,
    pub status: String,
    pub version: i64,
    pub created: DateTime<Utc>,
    pub updated: DateTime<Utc>,
}

impl World {
    pub(super) fn make_link(&mut self, body: &Json) -> Result<Json, Refusal> {
        if !body["order"].is_null() && !body["quick_pay"].is_null() {
            return Err(Refusal::invalid("CONFLICTING_PARAMETERS", "order", "Either order or quick_pay."));
        }
        if body["order"].is_null() {
            return Err(Refusal::invalid("MISSING_REQUIRED_PARAMETER", "order", "An order is required."));
        }
        let order = self.make_order(&body["order"])?;
        let state = self.settings.link_order_state.clone();
        if let Some(found) = self.orders.get_mut(&order) {
            (found.state, found.stays_open) = (state, true);
        }
        let id = self.next_id("PLINK");
        let link = PaymentLink {
            url: format!("https://sandbox.square.link/u/{id}"),
            id: id.clone(),
            order,
            note: body["payment_note"].as_str().map(str::to_owned),
            created: self.now,
        };
        self.links.insert(id.clone(), link);
        let mut shown = self.link(&id)?;
        let order = self.links.get(&id).map(|link| link.order.clone()).unwrap_or_default();
        shown["related_resources"] = json!({ "orders": [self.show_order(&order)] });
        Ok(shown)
    }

    pub(super) fn link(&self, id: &str) -> Result<Json, Refusal> {
        let link = self.links.get(id).ok_or_else(|| Refusal::not_found("Payment link"))?;
        let mut shown = json!({
            "id": link.id, "version": 1, "order_id": link.order, "url": link.url, "long_url": link.url,
            "created_at": iso(link.created),
        });
        if let Some(note) = &link.note {
            shown["payment_note"] = note.clone().into();
        }
        Ok(json!({ "payment_link": shown }))
    }

    /// A customer pays by a link; answers the payment's id.
    ///
    /// # Errors
    /// 404.
    pub fn pay_link(&mut self, url: &str, email: &str) -> Result<String, Refusal> {
        let link = self.links.values().find(|link| link.url == url).cloned();
        let link = link.ok_or_else(|| Refusal::not_found("Payment link"))?;
        let part = Part { buyer_email: Some(email.to_owned()), note: link.note.clone(), ..Part::default() };
        self.pay_at(&link.order, &part, "ECOMMERCE_API", None)
    }

    pub(super) fn make_invoice(&mut self, body: &Json) -> Result<Json, Refusal> {
        let given = &body["invoice"];
        let order = given["order_id"].as_str().unwrap_or_default().to_owned();
        let Some(found) = self.orders.get_mut(&order) else {
            return Err(Refusal::invalid("MISSING_REQUIRED_PARAMETER", "invoice.order_id", "An order is required."));
        };
        found.stays_open = true;
        let location = found.location.clone();
        let methods = &given["accepted_payment_methods"];
        if !methods.as_object().is_some_and(|all| all.values().any(|accepted| accepted == true)) {
            return Err(Refusal::invalid(
                "MISSING_REQUIRED_PARAMETER",
                "invoice.accepted_payment_methods",
                "At least one payment method is required.",
            ));
        }
        if given["payment_requests"].as_array().is_none_or(Vec::is_empty) {
            return Err(Refusal::invalid("MISSING_REQUIRED_PARAMETER", "invoice.payment_requests", "Required."));
        }
        let id = self.next_id("INV");
        let invoice = Invoice {
            id: id.clone(),
            order,
            location,
            customer: given["primary_recipient"]["customer_id"].as_str().map(str::to_owned),
            title: given["title"].as_str().map(str::to_owned),
            requests: given["payment_requests"].clone(),
            methods: methods.clone(),
            status: "DRAFT".into(),
            version: 0,
            created: self.now,
            updated: self.now,
        };
        self.invoices.insert(id.clone(), invoice);
        self.tell_invoice(&id, "invoice.created");
        self.invoice(&id)
    }

    pub(super) fn publish_invoice(&mut self, id: &str, body: &Json) -> Result<Json, Refusal> {
        let now = self.now;
        let invoice = self.invoices.get_mut(id).ok_or_else(|| Refusal::not_found("Invoice"))?;
        if body["version"].as_i64() != Some(invoice.version) {
            return Err(Refusal::invalid("VERSION_MISMATCH", "version", "The version is not the current one."));
        }
        (invoice.status, invoice.updated) = ("UNPAID".into(), now);
        invoice.version += 1;
        self.tell_invoice(id, "invoice.published");
        self.invoice(id)
    }

    pub(super) fn invoice(&self, id: &str) -> Result<Json, Refusal> {
        let invoice = self.invoices.get(id).ok_or_else(|| Refusal::not_found("Invoice"))?;
        Ok(json!({ "invoice": self.show_invoice(invoice) }))
    }

    fn show_invoice(&self, invoice: &Invoice) -> Json {
        let mut shown = json!({
            "id": invoice.id, "version": invoice.version, "location_id": invoice.location, "order_id": invoice.order,
            "payment_requests": invoice.requests, "accepted_payment_methods": invoice.methods, "status": invoice.status,
            "created_at": iso(invoice.created), "updated_at": iso(invoice.updated), "timezone": "UTC",
        });
        if let Some(customer) = &invoice.customer {
            shown["primary_recipient"] = json!({ "customer_id": customer });
        }
        if let Some(title) = &invoice.title {
            shown["title"] = title.clone().into();
        }
        if invoice.status != "DRAFT" {
            shown["public_url"] = format!("https://sandbox.square.site/pay-invoice/{}", invoice.id).into();
        }
        shown
    }

    fn tell_invoice(&mut self, id: &str, event: &str) {
        let Some(invoice) = self.invoices.get(id) else { return };
        let shown = self.show_invoice(invoice);
        self.tell_of(event, "invoice", id, json!({ "invoice": shown }), "INVOICES_READ");
    }

    /// Somebody writes an invoice in Square's dashboard and sends it; the order says nothing of whom it is for. Answers the
    /// invoice's id and its order's.
    ///
    /// # Errors
    /// As [`World::sell`].
    pub fn write_invoice(&mut self, customer: &str, ticket: &Ticket) -> Result<(String, String), Refusal> {
        let order = self.open_ticket(ticket)?;
        if let Some(found) = self.orders.get_mut(&order) {
            found.hidden = false;
        }
        let due = json!([{ "request_type": "BALANCE", "due_date": self.now.date_naive().to_string() }]);
        let made = self.make_invoice(&json!({ "invoice": {
            "order_id": order, "primary_recipient": { "customer_id": customer }, "payment_requests": due,
            "accepted_payment_methods": { "card": true },
        } }))?;
        let id = made["invoice"]["id"].as_str().unwrap_or_default().to_owned();
        self.publish_invoice(&id, &json!({ "version": 0 }))?;
        Ok((id, order))
    }

    /// A page of the invoices of one location.
    fn invoices_of(
        &self,
        location: &str,
        query: &str,
        cursor: Option<&str>,
        limit: Option<u64>,
        newest_first: bool,
    ) -> Result<Page, Refusal> {
        let limit = limit.unwrap_or(100).min(200) as usize;
        self.page(query, cursor, limit, newest_first, |_| {
            let here = self.invoices.values().filter(|invoice| invoice.location == location);
            here.map(|invoice| (iso(invoice.created), invoice.id.clone(), self.show_invoice(invoice))).collect()
        })
    }

    pub(super) fn list_invoices(&self, query: &Query) -> Result<Json, Refusal> {
        let missing = || Refusal::invalid("MISSING_REQUIRED_PARAMETER", "location_id", "A location is required.");
        let location = query.text("location_id").ok_or_else(missing)?;
        let (question, cursor) = (format!("invoices{}", query.without("cursor")), query.text("cursor"));
        let limit = query.number("limit").map(|limit| limit as u64);
        Ok(self.invoices_of(&location, &question, cursor.as_deref(), limit, true)?.show("invoices"))
    }

    pub(super) fn search_invoices(&self, body: &Json) -> Result<Json, Refusal> {
        let Some([location]) = body["query"]["filter"]["location_ids"].as_array().map(Vec::as_slice) else {
            let field = "query.filter.location_ids";
            return Err(Refusal::invalid("INVALID_VALUE", field, "One location is required, and no more."));
        };
        let newest_first = body["query"]["sort"]["order"].as_str() != Some("ASC");
        let mut question = body.clone();
        question["cursor"] = Json::Null;
        let (location, question) = (location.as_str().unwrap_or_default(), question.to_string());
        let (cursor, limit) = (body["cursor"].as_str(), body["limit"].as_u64());
        Ok(self.invoices_of(location, &question, cursor, limit, newest_first)?.show("invoices"))
    }

    /// A customer pays towards an invoice; answers the payment's id.
    ///
    /// # Errors
    /// 404.
    pub fn pay_invoice(&mut self, id: &str, amount: Option<i64>) -> Result<String, Refusal> {
        let invoice = self.invoices.get(id).cloned().ok_or_else(|| Refusal::not_found("Invoice"))?;
        let customer = invoice.customer.filter(|_| self.settings.invoice_payment_names_buyer);
        let part = Part { amount, customer, ..Part::default() };
        let payment = self.pay_at(&invoice.order, &part, "INVOICES", None)?;
        let due = self.orders.get(&invoice.order).map_or(0, |order| self.due(order));
        let now = self.now;
        if let Some(invoice) = self.invoices.get_mut(id) {
            invoice.status = if due == 0 { "PAID" } else { "PARTIALLY_PAID" }.into();
            invoice.version += 1;
            invoice.updated = now;
        }
        self.tell_invoice(id, "invoice.payment_made");
        Ok(payment)
    }
}
