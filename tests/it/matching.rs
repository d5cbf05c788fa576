//! Whose a sale at the till is: by each thing that a till says of it alone, and by two that name different people, of which the more
//! telling one is believed.

use serde_json::{Map, Value as Json, json};
use tandem::{
    model::RecordId,
    store::{By, SyncStore},
};
use tandem_contract::Kind;
use tandem_square::sandbox::{Change, Part, Ticket};

use crate::{
    square::id,
    till::{Shop, ticket},
};

/// Longer than any of these tests: what Square's lists do not show yet, nobody links.
const UNSEEN: u64 = 86_400_000;

/// Somebody with one open deal, whom the till knows as a customer.
struct Who {
    deal: u64,
    opportunity: RecordId,
    customer: String,
    marker: String,
    email: String,
    phone: String,
}

impl Shop {
    async fn known(&self, first: &str, phone: &str) -> Who {
        let email = format!("{}@example.com", first.to_lowercase());
        let customer = json!({ "given_name": first, "family_name": "Ito", "email_address": email });
        let customer = self.square.with(|world| world.create_customer(&customer, Change::Person)).unwrap();
        let deal = self.deal_of(self.contact(first, &email, phone), &format!("{first}'s course"));
        self.settle().await;
        let ours = self.ours(&format!("{first}'s course"));
        let marker = self.till.marker(ours.contact.unwrap());
        Who { deal, opportunity: ours.id, customer, marker, email, phone: phone.to_owned() }
    }
}

/// What a till says of a sale.
#[derive(Default)]
struct Told {
    ticket: Ticket,
    part: Part,
    /// A customer whom nobody linked.
    stranger: Map<String, Json>,
    /// Whom it is invoiced to.
    invoiced: Option<String>,
}

impl Told {
    /// Sells so; answers the order.
    fn sell(self, shop: &Shop) -> String {
        let Self { ticket: said, mut part, stranger, invoiced } = self;
        let Ticket { location, lines, .. } = ticket("Serum");
        let sale = Ticket { location, lines, ..said };
        shop.square.with(|world| {
            if !stranger.is_empty() {
                let mut fields = stranger;
                fields.insert("given_name".into(), "Somebody".into());
                part.customer = Some(world.create_customer(&Json::Object(fields), Change::Person).unwrap());
            }
            let Some(customer) = invoiced else {
                return world.sell(&Ticket { parts: vec![part], ..sale }).unwrap();
            };
            let (invoice, order) = world.write_invoice(&customer, &sale).unwrap();
            let payment = world.pay_invoice(&invoice, None).unwrap();
            if let Some(email) = part.buyer_email {
                world.send_receipt(&payment, &email);
            }
            order
        })
    }
}

/// By what somebody is found, and how a till names them so.
type Rule = (&'static str, fn(&mut Told, &Who));

fn opportunity(who: &Who) -> String {
    format!("opp_{}", who.opportunity)
}

/// Most telling first.
const RULES: [Rule; 12] = [
    ("reference", |told, who| told.ticket.reference = Some(opportunity(who))),
    ("reference", |told, who| {
        told.ticket.metadata.insert("opportunity_id".into(), opportunity(who).into());
    }),
    ("reference", |told, who| told.part.reference = Some(opportunity(who))),
    ("reference", |told, who| told.part.note = Some(opportunity(who))),
    ("customer", |told, who| told.ticket.customer = Some(who.customer.clone())),
    ("customer", |told, who| told.part.customer = Some(who.customer.clone())),
    ("recipient", |told, who| told.ticket.recipient = Some(who.customer.clone())),
    ("marker", |told, who| {
        told.stranger.insert("reference_id".into(), who.marker.clone().into());
    }),
    ("email", |told, who| {
        told.stranger.insert("email_address".into(), who.email.clone().into());
    }),
    ("phone", |told, who| {
        told.stranger.insert("phone_number".into(), who.phone.clone().into());
    }),
    ("receipt", |told, who| told.part.buyer_email = Some(who.email.clone())),
    ("invoice", |told, who| told.invoiced = Some(who.customer.clone())),
];

/// CB-14: Ana is told of by the first rule, and Ben by the second.
async fn whose(first: Rule, second: Option<Rule>) {
    let what = format!("{} before {:?}", first.0, second.map(|rule| rule.0));
    let shop = Shop::new(&[]);
    shop.square.with(|world| world.settings.invoice_payment_names_buyer = false);
    let (ana, ben) = (shop.known("Ana", "+16025550142").await, shop.known("Ben", "+16025550177").await);
    shop.square.with(|world| world.settings.customer_lag_ms = UNSEEN);
    let mut told = Told::default();
    (first.1)(&mut told, &ana);
    if let Some((_, tell)) = second {
        tell(&mut told, &ben);
    }
    let order = told.sell(&shop);
    shop.settle().await;
    let evidence = shop.evidence(&order).await;
    let found = (evidence.opportunity, evidence.found_by.as_deref());
    assert_eq!(found, (Some(ana.opportunity), Some(first.0)), "{what}: {}", evidence.why);
    assert_eq!([shop.stage(ana.deal), shop.stage(ben.deal)], ["closedwon", "qualifiedtobuy"], "{what}");
}

#[tokio::test(start_paused = true)]
async fn whoever_a_till_names_is_found_by_each_thing_that_names_them_alone() {
    for rule in RULES {
        whose(rule, None).await;
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_things_that_name_different_people_the_more_telling_one_is_believed() {
    for pair in RULES.windows(2).filter(|pair| pair[0].0 != pair[1].0) {
        whose(pair[0], Some(pair[1])).await;
    }
}

/// Who is merged in Square's dashboard goes on under a new id, and what was rung up before goes on naming the old one.
#[tokio::test(start_paused = true)]
async fn a_customer_who_was_merged_twice_is_found_by_the_first_of_their_ids() {
    let shop = Shop::new(&[]);
    let deliveries = tokio::spawn(shop.square.clone().deliver_webhooks(shop.rig.door_of(&shop.till)));
    let ana = shop.known("Ana", "").await;
    shop.square.with(|world| world.settings.customer_lag_ms = UNSEEN);
    let sale = Ticket { customer: Some(ana.customer.clone()), ..ticket("Serum") };
    let order = shop.square.with(|world| world.open_ticket(&sale)).unwrap();
    let mut known_as = ana.customer.clone();
    for number in 0..2 {
        known_as = shop.square.with(|world| {
            let again = json!({ "given_name": "Ana", "nickname": format!("again {number}") });
            let again = world.create_customer(&again, Change::Person).unwrap();
            world.merge_customers(&[&known_as, &again]).unwrap()
        });
        shop.settle().await;
    }
    let contact = shop.ours("Ana's course").contact.unwrap();
    let account = &shop.rig.account.name;
    let survivor = [id(&known_as)];
    let links = shop.rig.store.links(account, &shop.till.name, Kind::Contact, By::External(&survivor)).await.unwrap();
    assert_eq!(links.iter().map(|link| link.local).collect::<Vec<_>>(), [contact], "the link went with the merges");
    shop.square.with(|world| world.pay(&order, &Part::default())).unwrap();
    shop.settle().await;
    assert_eq!(shop.evidence(&order).await.found_by.as_deref(), Some("customer"));
    assert_eq!(shop.stage(ana.deal), "closedwon");
    deliveries.abort();
}
