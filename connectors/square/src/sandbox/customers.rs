//! Customers: made, changed, deleted and merged, with versions and without any uniqueness.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value as Json, json};

use super::world::{Change, Refusal, World, iso};

/// The fields that a caller may write.
const FIELDS: [&str; 10] = [
    "given_name",
    "family_name",
    "company_name",
    "nickname",
    "email_address",
    "address",
    "phone_number",
    "reference_id",
    "note",
    "birthday",
];
/// One of these a customer has.
const NEEDED: [&str; 5] = ["given_name", "family_name", "company_name", "email_address", "phone_number"];

#[derive(Clone, Debug)]
pub struct Customer {
    pub id: String,
    pub fields: Map<String, Json>,
    pub version: i64,
    pub created: DateTime<Utc>,
    pub updated: DateTime<Utc>,
    pub by: Change,
}

impl Customer {
    pub fn text(&self, name: &str) -> Option<&str> {
        self.fields.get(name).and_then(Json::as_str)
    }

    pub fn show(&self) -> Json {
        let mut shown = Json::Object(self.fields.clone());
        let source = if self.by == Change::Api { "THIRD_PARTY" } else { "DIRECTORY" };
        for (name, value) in [
            ("id", json!(self.id)),
            ("created_at", json!(iso(self.created))),
            ("updated_at", json!(iso(self.updated))),
            ("creation_source", json!(source)),
            ("version", json!(self.version)),
            ("preferences", json!({ "email_unsubscribed": false })),
        ] {
            shown[name] = value;
        }
        shown
    }
}

fn check(name: &str, value: &Json) -> Result<(), Refusal> {
    if value.is_null() {
        return Ok(());
    }
    let text = match (name, value) {
        ("address", Json::Object(_)) => return Ok(()),
        (_, Json::String(text)) => text,
        _ => return Err(Refusal::invalid("EXPECTED_STRING", name, "Expected a string.")),
    };
    let most = match name {
        "given_name" | "family_name" => 300,
        "company_name" => 500,
        "nickname" | "reference_id" => 100,
        "email_address" => 254,
        _ => usize::MAX,
    };
    let digits = text.chars().filter(char::is_ascii_digit).count();
    match name {
        _ if text.chars().count() > most => Err(Refusal::invalid("VALUE_TOO_LONG", name, "The value is too long.")),
        "email_address" if !text.contains('@') => {
            Err(Refusal::invalid("INVALID_EMAIL_ADDRESS", name, "Expected a valid email address."))
        }
        "phone_number" if !(9..=16).contains(&digits) => {
            Err(Refusal::invalid("INVALID_PHONE_NUMBER", name, "Expected phone_number to be a valid phone number."))
        }
        _ => Ok(()),
    }
}

impl World {
    /// Makes a customer; answers the id.
    ///
    /// # Errors
    /// Square's refusal of a value.
    pub fn create_customer(&mut self, fields: &Json, by: Change) -> Result<String, Refusal> {
        let mut kept = Map::new();
        for (name, value) in fields.as_object().into_iter().flatten() {
            if name == "idempotency_key" {
                continue;
            }
            if !FIELDS.contains(&name.as_str()) {
                return Err(Refusal::invalid("UNKNOWN_BODY_PARAMETER", name, "The parameter is not known."));
            }
            check(name, value)?;
            let blank = value.as_str().is_some_and(str::is_empty);
            if !value.is_null() && !blank {
                kept.insert(name.clone(), value.clone());
            }
        }
        if !NEEDED.iter().any(|name| kept.contains_key(*name)) {
            return Err(Refusal::new(
                400,
                "INVALID_REQUEST_ERROR",
                "BAD_REQUEST",
                "At least one of given_name, family_name, company_name, email_address or phone_number is required.",
            ));
        }
        let id = self.next_id("CUST");
        let now = self.now;
        let customer = Customer { id: id.clone(), fields: kept, version: 0, created: now, updated: now, by };
        let shown = customer.show();
        self.customers.insert(id.clone(), customer);
        self.list_later("customers", &id, shown.clone(), now);
        self.tell_of("customer.created", "customer", &id, json!({ "customer": shown }), "CUSTOMERS_READ");
        Ok(id)
    }

    /// Changes fields of a customer; null clears. `version`, if given, must be the current one.
    ///
    /// # Errors
    /// Square's refusal.
    pub fn update_customer(&mut self, id: &str, fields: &Json) -> Result<(), Refusal> {
        let Some(customer) = self.customers.get(id) else { return Err(Refusal::not_found("Customer")) };
        let mut next = customer.clone();
        for (name, value) in fields.as_object().into_iter().flatten() {
            if name == "version" {
                if value.as_i64() != Some(customer.version) {
                    let mut stale =
                        Refusal::invalid("VERSION_MISMATCH", "version", "The version is not the current one.");
                    stale.status = self.settings.stale_customer_status;
                    if stale.status == 409 {
                        stale.body["errors"][0]["code"] = "CONFLICT".into();
                    }
                    return Err(stale);
                }
                continue;
            }
            if !FIELDS.contains(&name.as_str()) {
                return Err(Refusal::invalid("UNKNOWN_BODY_PARAMETER", name, "The parameter is not known."));
            }
            check(name, value)?;
            if value.is_null() || value.as_str().is_some_and(str::is_empty) {
                next.fields.remove(name);
            } else {
                next.fields.insert(name.clone(), value.clone());
            }
        }
        next.version += 1;
        next.updated = self.now;
        let (shown, now) = (next.show(), self.now);
        self.customers.insert(id.to_owned(), next);
        self.list_later("customers", id, shown.clone(), now);
        self.tell_of("customer.updated", "customer", id, json!({ "customer": shown }), "CUSTOMERS_READ");
        Ok(())
    }

    /// Deletes a customer.
    ///
    /// # Errors
    /// 404.
    pub fn delete_customer(&mut self, id: &str) -> Result<(), Refusal> {
        self.remove_customer(id, None)
    }

    fn remove_customer(&mut self, id: &str, merge: Option<Json>) -> Result<(), Refusal> {
        let customer = self.customers.remove(id).ok_or_else(|| Refusal::not_found("Customer"))?;
        let now = self.now;
        self.list_later("customers", id, Json::Null, now);
        let mut object = json!({ "customer": customer.show() });
        if let Some(merge) = merge {
            object["event_context"] = json!({ "merge": merge });
        }
        self.tell_deleted("customer.deleted", "customer", id, object, "CUSTOMERS_READ");
        Ok(())
    }

    /// Merges customers in the dashboard: they go, and a new one comes; answers its id.
    ///
    /// # Errors
    /// 404.
    pub fn merge_customers(&mut self, ids: &[&str]) -> Result<String, Refusal> {
        let mut fields = Map::new();
        for id in ids {
            let customer = self.customers.get(*id).ok_or_else(|| Refusal::not_found("Customer"))?;
            for (name, value) in &customer.fields {
                fields.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
        let new = self.next_id("CUST");
        let now = self.now;
        let customer = Customer { id: new.clone(), fields, version: 0, created: now, updated: now, by: Change::Person };
        let merge = json!({ "from_customer_ids": ids, "to_customer_id": new });
        for id in ids {
            self.remove_customer(id, Some(merge.clone()))?;
        }
        for payment in self.payments.values_mut() {
            if payment.customer.as_deref().is_some_and(|of| ids.contains(&of)) {
                payment.customer = Some(new.clone());
            }
        }
        let shown = customer.show();
        self.customers.insert(new.clone(), customer);
        self.list_later("customers", &new, shown.clone(), now);
        let object = json!({ "customer": shown, "event_context": { "merge": merge } });
        self.tell_of("customer.created", "customer", &new, object, "CUSTOMERS_READ");
        Ok(new)
    }

    /// Ids of all customers, in order.
    #[must_use]
    pub fn customer_ids(&self) -> Vec<String> {
        self.customers.keys().cloned().collect()
    }

    /// A field of a customer.
    #[must_use]
    pub fn customer_field(&self, id: &str, name: &str) -> Option<String> {
        self.customers.get(id)?.text(name).map(str::to_owned)
    }
}
