//! A seller that has been at work for a while. Invented people only.

use serde_json::json;

use super::{
    till::{Line, Part, Ticket},
    world::{Change, World},
};

/// How much of everything there is.
#[derive(Clone, Copy, Debug)]
pub struct Shop {
    /// Customers.
    pub customers: usize,
    /// Sales of the past.
    pub sales: usize,
}

const FIRST: [&str; 8] = ["Ana", "Ben", "Chloe", "Dev", "Elif", "Finn", "Gia", "Hugo"];
const LAST: [&str; 8] = ["Ito", "Jones", "Kaya", "Larsen", "Moreau", "Nowak", "Okafor", "Perez"];

impl World {
    /// Fills the seller's account, without a word to its subscribers.
    pub fn fill(&mut self, size: Shop) {
        let mut customers = Vec::with_capacity(size.customers);
        for n in 0..size.customers {
            let (first, last) = (FIRST[n % FIRST.len()], LAST[(n / FIRST.len()) % LAST.len()]);
            let body = json!({
                "given_name": first, "family_name": last,
                "email_address": format!("{}.{}.{n}@example.com", first.to_lowercase(), last.to_lowercase()),
                "phone_number": format!("+1602555{:04}", 100 + n % 100),
            });
            customers.extend(self.create_customer(&body, Change::Person));
        }
        let items: Vec<String> = self.catalog.items.iter().map(|item| item.name.clone()).collect();
        for n in 0..size.sales {
            let customer = customers.get(n % customers.len().max(1)).cloned();
            let ticket = Ticket {
                location: "Downtown".into(),
                lines: vec![Line::of(&items[n % items.len()])],
                parts: vec![Part { customer, ..Part::default() }],
                ..Ticket::default()
            };
            let _ = self.sell(&ticket);
        }
    }
}
