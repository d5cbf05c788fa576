//! A company that has been at work for a while. Invented people only.

use chrono::TimeDelta;
use rand::Rng;
use serde_json::json;
use tandem_contract::Kind;

use super::world::{Change, World};

/// How much of everything there is.
#[derive(Clone, Copy, Debug)]
pub struct Company {
    /// Persons.
    pub persons: usize,
    /// Deals; nearly all have a person.
    pub deals: usize,
}

const FIRST: [&str; 8] = ["Ana", "Ben", "Chloe", "Dev", "Elif", "Finn", "Gia", "Hugo"];
const LAST: [&str; 8] = ["Ito", "Jones", "Kaya", "Larsen", "Moreau", "Nowak", "Okafor", "Perez"];
const WORK: [&str; 6] = ["Membership", "Laser course", "Consultation", "Peel series", "Retainer", "Annual plan"];

impl World {
    /// Fills the company with what was made in the course of a year, the last of it an hour ago; without a word to its
    /// subscribers.
    pub fn fill(&mut self, size: Company) {
        let now = self.now;
        let made_at = |n: usize, of: usize| {
            let ago = TimeDelta::days(365) / i32::try_from(of).unwrap_or(i32::MAX) * i32::try_from(of - n).unwrap_or(1);
            now - TimeDelta::hours(1) - ago
        };
        let mut persons = Vec::with_capacity(size.persons);
        for n in 0..size.persons {
            self.now = made_at(n, size.persons);
            let (first, last) = (FIRST[n % FIRST.len()], LAST[(n / FIRST.len()) % LAST.len()]);
            let email = format!("{}.{}.{n}@example.com", first.to_lowercase(), last.to_lowercase());
            let phone = format!("+1602555{:04}", 100 + n % 100);
            let body = json!({
                "name": format!("{first} {last}"), "emails": [{ "value": email, "primary": true, "label": "work" }],
                "phones": [{ "value": phone, "primary": true, "label": "mobile" }],
            });
            if let Ok(id) = self.create(Kind::Contact, &body, Change::Person) {
                persons.push(id);
            }
        }
        let stages: Vec<u64> = self.stages.iter().filter(|stage| !stage.deleted).map(|stage| stage.id).collect();
        for n in 0..size.deals {
            self.now = made_at(n, size.deals);
            let mut body = json!({
                "title": format!("{} {n}", WORK[n % WORK.len()]),
                "value": self.rng.random_range(50..20_000_u32),
                "stage_id": stages[n % stages.len().max(1)],
            });
            if let Some(person) = persons.get(n % persons.len().max(1)).filter(|_| n % 20 != 0) {
                body["person_id"] = (*person).into();
            }
            if n % 10 == 9 {
                body["status"] = "won".into();
            }
            // What a company made is what it takes.
            let _ = self.create(Kind::Deal, &body, Change::Person);
        }
        self.now = now;
    }
}
