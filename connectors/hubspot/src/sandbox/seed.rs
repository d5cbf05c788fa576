//! A believable clinic: contacts and deals in several pipelines, odd names, two currencies. Everyone is invented;
//! addresses end in example domains and telephone numbers are from the range reserved for fiction.

use chrono::TimeDelta;
use rand::{Rng, seq::IndexedRandom};
use tandem_contract::Kind;

use super::world::{Change, Properties, World, iso};

/// How large the clinic is.
#[derive(Clone, Copy, Debug)]
pub struct Clinic {
    /// People.
    pub contacts: usize,
    /// Deals; about one in twenty has no contact, one in thirty has two.
    pub deals: usize,
}

const FIRST: [&str; 20] = [
    "Ada",
    "Björn",
    "Chloé",
    "D'Angelo",
    "Eleni",
    "Farid",
    "Gráinne",
    "Hüseyin",
    "Ines",
    "José María",
    "Kwame",
    "Lý",
    "Māui",
    "Nuria",
    "Oluwaseun",
    "Priya",
    "Quentin",
    "Ракель",
    "Søren",
    "Ximena",
];
const LAST: [&str; 20] = [
    "O'Neill",
    "van der Berg",
    "Nguyễn",
    "Smith-Jones",
    "de la Cruz",
    "Ó Súilleabháin",
    "Łukasiewicz",
    "Ng",
    "Ünal",
    "Andersson",
    "García Márquez",
    "Null",
    "Test",
    "St. James",
    "Björk",
    "Tanaka 田中",
    "Müller",
    "Ibn Khaldun",
    "Zhou",
    "X",
];
const TREATMENTS: [&str; 6] = ["botox", "filler", "laser", "peel", "hydrafacial", "consultation"];

impl World {
    /// Fills the account.
    pub fn furnish_clinic(&mut self, clinic: Clinic) {
        self.add_pipeline(
            "71001",
            "Memberships",
            &[("9001", "Trial", 0.3), ("9002", "Offer made", 0.6), ("9003", "Member", 1.0), ("9004", "Declined", 0.0)],
        );
        self.add_pipeline(
            "71002",
            "Wholesale",
            &[
                ("9101", "Enquiry", 0.1),
                ("9102", "Sample sent", 0.5),
                ("9103", "Ordered", 1.0),
                ("9104", "No fit", 0.0),
            ],
        );
        self.add_property(Kind::Deal, "treatment_interest", "enumeration", "checkbox", &TREATMENTS);
        self.add_property(Kind::Deal, "lead_score", "number", "number", &[]);
        self.add_property(
            Kind::Deal,
            "lead_source",
            "enumeration",
            "select",
            &["web", "walk-in", "referral", "campaign"],
        );
        let contacts: Vec<u64> = (0..clinic.contacts).filter_map(|n| self.seed_contact(n)).collect();
        for n in 0..clinic.deals {
            self.seed_deal(n, &contacts);
        }
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        from.choose(&mut self.rng).copied()
    }

    fn seed_contact(&mut self, n: usize) -> Option<u64> {
        let (first, last) = (self.pick(&FIRST)?, self.pick(&LAST)?);
        let mut properties = Properties::from([
            ("firstname".to_owned(), first.to_owned()),
            ("lastname".to_owned(), last.to_owned()),
            ("phone".to_owned(), format!("+1 602 555 01{:02}", n % 100)),
        ]);
        if n % 10 != 9 {
            properties.insert("email".into(), format!("person{n}@example.com"));
        }
        self.create(Kind::Contact, &properties, Change::Person).ok()
    }

    fn seed_deal(&mut self, n: usize, contacts: &[u64]) {
        let pipeline = self.pipelines[n % self.pipelines.len()].clone();
        let index = self.rng.random_range(0..pipeline.stages.len());
        let stage = &pipeline.stages[index];
        let treatment = self.pick(&TREATMENTS).unwrap_or("laser");
        let amount = f64::from(self.rng.random_range(50_u32..900_000)) / 100.0;
        let days = self.rng.random_range(-60..120);
        let owner = self.pick(&[55_012_u64, 55_013, 55_014]).unwrap_or(55_012);
        let mut properties = Properties::from([
            ("dealname".to_owned(), format!("{treatment} #{n}")),
            ("pipeline".to_owned(), pipeline.id.clone()),
            ("dealstage".to_owned(), stage.id.clone()),
            ("amount".to_owned(), format!("{amount:.2}")),
            ("deal_currency_code".to_owned(), if n.is_multiple_of(7) { "EUR" } else { "USD" }.to_owned()),
            ("closedate".to_owned(), iso(self.now + TimeDelta::days(days))),
            ("hubspot_owner_id".to_owned(), owner.to_string()),
            ("treatment_interest".to_owned(), treatment.to_owned()),
            ("lead_score".to_owned(), (n % 100).to_string()),
        ]);
        if stage.closed && stage.probability <= 0.0 {
            properties.insert("closed_lost_reason".into(), "price".into());
        }
        let Ok(deal) = self.create(Kind::Deal, &properties, Change::Person) else { return };
        let links = match n % 30 {
            _ if n % 20 == 19 => 0,
            0 => 2,
            _ => 1,
        };
        for _ in 0..links {
            if let Some(contact) = self.pick(contacts) {
                self.associate(deal, contact, Change::Person);
            }
        }
    }
}
