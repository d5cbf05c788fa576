//! The API's side of orders, payments and refunds.

use chrono::{DateTime, Utc};
use serde_json::{Value as Json, json};
use tandem_sandbox::Query;

use super::{
    lists::Range,
    till::{Item, Line, Part},
    world::{Change, Refusal, World, iso},
};

fn texts(list: &Json) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

impl World {
    pub(super) fn search_orders(&self, body: &Json) -> Result<Json, Refusal> {
        let locations = texts(&body["location_ids"]);
        if locations.is_empty() || locations.len() > 10 {
            return Err(Refusal::invalid("BAD_REQUEST", "location_ids", "Between one and ten locations are required."));
        }
        let filter = &body["query"]["filter"];
        let times = &filter["date_time_filter"];
        let by = ["created_at", "updated_at", "closed_at"].into_iter().filter(|name| !times[*name].is_null());
        let by: Vec<&str> = by.collect();
        let sort = body["query"]["sort"]["sort_field"].as_str().unwrap_or("CREATED_AT").to_ascii_lowercase();
        if by.len() > 1 || by.first().is_some_and(|by| *by != sort) {
            return Err(Refusal::invalid(
                "BAD_REQUEST",
                "query.sort.sort_field",
                "The sort field must be that of the date_time_filter.",
            ));
        }
        let field = by.first().copied().unwrap_or("created_at");
        let range = Range::parse(times[field]["start_at"].as_str(), times[field]["end_at"].as_str())?;
        let states = texts(&filter["state_filter"]["states"]);
        let newest_first = body["query"]["sort"]["sort_order"].as_str() != Some("ASC");
        let limit = body["limit"].as_u64().unwrap_or(500).min(1_000) as usize;
        let mut query = body.clone();
        query["cursor"] = Json::Null;
        let page = self.page(&query.to_string(), body["cursor"].as_str(), limit, newest_first, |asked| {
            let range = Range { end: Some(range.end.unwrap_or(asked)), ..range };
            self.shown("orders")
                .filter_map(|(id, order, updated)| {
                    let at = match field {
                        "updated_at" => Some(updated),
                        other => time(&order[other]),
                    }?;
                    let here = locations.iter().any(|location| order["location_id"] == location.as_str());
                    let state = states.is_empty() || states.iter().any(|state| order["state"] == state.as_str());
                    (here && state && range.holds(at)).then(|| (iso(at), id.clone(), order.clone()))
                })
                .collect()
        })?;
        Ok(page.show("orders"))
    }

    /// An order by id, as it is now; one with several payments is there when the last is made.
    pub(super) fn order(&self, id: &str) -> Result<Json, Refusal> {
        match self.orders.get(id) {
            Some(order) if !order.hidden => Ok(self.show_order(id)),
            _ => Err(Refusal::not_found("Order")),
        }
    }

    pub(super) fn batch_orders(&self, body: &Json) -> Result<Json, Refusal> {
        let ids = texts(&body["order_ids"]);
        if ids.len() > 100 {
            return Err(Refusal::invalid("BAD_REQUEST", "order_ids", "At most 100 orders."));
        }
        let orders: Vec<Json> = ids.iter().filter_map(|id| self.order(id).ok()).collect();
        Ok(if orders.is_empty() { json!({}) } else { json!({ "orders": orders }) })
    }

    /// Makes an order of what a caller sent; answers its id.
    pub(super) fn make_order(&mut self, given: &Json) -> Result<String, Refusal> {
        let location = given["location_id"].as_str().unwrap_or_default().to_owned();
        let currency = self.location(&location).map_or("USD".to_owned(), |place| place.currency.clone());
        let mut lines = Vec::new();
        for (number, line) in given["line_items"].as_array().into_iter().flatten().enumerate() {
            let quantity: u32 = line["quantity"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
            if quantity == 0 {
                return Err(Refusal::invalid("MISSING_REQUIRED_PARAMETER", "order.line_items.quantity", "Required."));
            }
            let said = line["base_price_money"]["currency"].as_str();
            if said.is_some_and(|said| said != currency) {
                let field = "order.line_items.base_price_money.currency";
                return Err(Refusal::invalid("INVALID_VALUE", field, "Expected the currency of the location."));
            }
            let item = match (line["catalog_object_id"].as_str(), line["base_price_money"]["amount"].as_i64()) {
                (Some(id), _) => Item::Variation(id.to_owned()),
                (None, Some(price)) => Item::Custom(line["name"].as_str().unwrap_or("Item").to_owned(), price),
                (None, None) => {
                    return Err(Refusal::invalid(
                        "MISSING_REQUIRED_PARAMETER",
                        "order.line_items.base_price_money",
                        "A line without a catalog object needs a price.",
                    ));
                }
            };
            lines.push(self.line(number + 1, &Line { item, quantity, discount: 0, tax: 0 }, &currency)?);
        }
        let reference = given["reference_id"].as_str();
        if reference.is_some_and(|text| text.chars().count() > 40) {
            return Err(Refusal::invalid("VALUE_TOO_LONG", "order.reference_id", "At most 40 characters."));
        }
        let mut order = self.new_order(&location, lines, Change::Api)?;
        order.reference = reference.map(str::to_owned);
        order.customer = given["customer_id"].as_str().map(str::to_owned);
        order.metadata = given["metadata"].as_object().cloned().unwrap_or_default();
        let id = order.id.clone();
        self.orders.insert(id.clone(), order);
        let (shown, now) = (self.show_order(&id), self.now);
        self.list_later("orders", &id, shown, now);
        let object = json!({ "order_created": {
            "created_at": iso(now), "location_id": location, "order_id": id, "state": "OPEN", "version": 1,
        } });
        self.tell_of("order.created", "order_created", &id, object, "ORDERS_READ");
        Ok(id)
    }

    pub(super) fn change_order(&mut self, id: &str, given: &Json) -> Result<Json, Refusal> {
        let order = self.orders.get_mut(id).filter(|order| !order.hidden).ok_or_else(|| Refusal::not_found("Order"))?;
        let Some(version) = order.version else {
            return Err(Refusal::invalid("BAD_REQUEST", "order", "Only orders made through the API can be updated."));
        };
        if matches!(order.state.as_str(), "COMPLETED" | "CANCELED") {
            return Err(Refusal::invalid("BAD_REQUEST", "order.state", "A closed order cannot be updated."));
        }
        if given["version"].as_i64() != Some(version) {
            let text = format!("Supplied version does not match the current version {version} of order {id}.");
            return Err(Refusal::invalid("VERSION_MISMATCH", "order.version", text));
        }
        if let Some(reference) = given["reference_id"].as_str() {
            order.reference = Some(reference.to_owned());
        }
        if let Some(state) = given["state"].as_str() {
            order.state = state.to_owned();
        }
        self.order_changed(id);
        Ok(json!({ "order": self.show_order(id) }))
    }

    pub(super) fn list_payments(&self, query: &Query) -> Result<Json, Refusal> {
        self.list_money("payments", query, self.locations.first().map(|place| place.id.clone()))
    }

    pub(super) fn list_refunds(&self, query: &Query) -> Result<Json, Refusal> {
        self.list_money("refunds", query, None)
    }

    /// Payments or refunds; payments of the main location only, where none is named.
    fn list_money(&self, what: &'static str, query: &Query, main: Option<String>) -> Result<Json, Refusal> {
        let location = query.text("location_id").or(main);
        let by_update = query.text("sort_field").as_deref() == Some("UPDATED_AT");
        let (begin, end) = match by_update {
            true => (query.text("updated_at_begin_time"), query.text("updated_at_end_time")),
            false => (query.text("begin_time"), query.text("end_time")),
        };
        let range = Range::parse(begin.as_deref(), end.as_deref())?;
        let newest_first = query.text("sort_order").as_deref() != Some("ASC");
        let limit = query.number("limit").unwrap_or(100).min(100);
        let cursor = query.text("cursor");
        let page = self.page(
            &format!("{what}{}", query.without("cursor")),
            cursor.as_deref(),
            limit,
            newest_first,
            |asked| {
                let range = Range { end: Some(range.end.unwrap_or(asked)), ..range };
                self.shown(what)
                    .filter_map(|(id, row, updated)| {
                        let at = if by_update { Some(updated) } else { time(&row["created_at"]) }?;
                        let here = location.as_deref().is_none_or(|location| row["location_id"] == location);
                        (here && range.holds(at)).then(|| (iso(at), id.clone(), row.clone()))
                    })
                    .collect()
            },
        )?;
        Ok(page.show(what))
    }

    pub(super) fn payment(&self, id: &str) -> Result<Json, Refusal> {
        let payment = self.payments.get(id).ok_or_else(|| Refusal::not_found("Payment"))?;
        Ok(json!({ "payment": Self::show_payment(payment) }))
    }

    /// A payment through the API, as a test or an app of the seller makes it.
    pub(super) fn make_payment(&mut self, body: &Json) -> Result<Json, Refusal> {
        let amount = body["amount_money"]["amount"]
            .as_i64()
            .ok_or_else(|| Refusal::invalid("MISSING_REQUIRED_PARAMETER", "amount_money", "An amount is required."))?;
        let part = Part {
            amount: Some(amount),
            tip: body["tip_money"]["amount"].as_i64().unwrap_or(0),
            customer: body["customer_id"].as_str().map(str::to_owned),
            authorised: body["autocomplete"].as_bool() == Some(false),
            buyer_email: body["buyer_email_address"].as_str().map(str::to_owned),
            note: body["note"].as_str().map(str::to_owned),
            reference: body["reference_id"].as_str().map(str::to_owned),
        };
        let order = match body["order_id"].as_str() {
            Some(order) => order.to_owned(),
            None => {
                let location = body["location_id"].as_str().map(str::to_owned);
                let location = location.or_else(|| self.locations.first().map(|place| place.id.clone()));
                let currency = body["amount_money"]["currency"].as_str().unwrap_or("USD");
                let price = json!({ "amount": amount, "currency": currency });
                let line = json!({ "name": "Custom amount", "quantity": "1", "base_price_money": price });
                self.make_order(&json!({ "location_id": location, "line_items": [line] }))?
            }
        };
        let id = self.pay_at(&order, &part, "ECOMMERCE_API", None)?;
        self.payment(&id)
    }

    pub(super) fn make_refund(&mut self, body: &Json) -> Result<Json, Refusal> {
        let payment = body["payment_id"].as_str().unwrap_or_default().to_owned();
        let id = self.refund(&payment, body["amount_money"]["amount"].as_i64().unwrap_or(0))?;
        self.show_refund_by(&id)
    }

    pub(super) fn show_refund_by(&self, id: &str) -> Result<Json, Refusal> {
        let refund = self.refunds.get(id).ok_or_else(|| Refusal::not_found("Refund"))?;
        Ok(json!({ "refund": Self::show_refund(refund) }))
    }
}

fn time(value: &Json) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc3339(value.as_str()?).ok().map(|at| at.to_utc())
}
