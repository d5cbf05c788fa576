//! Where businesses disagree, and what each account has instead: rows of FEATURES section 2.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use rust_decimal::Decimal;
use tandem::{
    edit::{EditError, Fields},
    model::{
        Conflict, LocalRecord, Name, OnRefund, OpportunityType, Profile, Status, Trigger, Types, ValueSource, Winner,
    },
    store::SyncStore,
    sync::connection::Connection,
};
use tandem_contract::{Kind, Value};
use tandem_square::sandbox::{Part, Ticket};

use crate::till::{Shop, ticket, usd};

impl Shop {
    /// Another open one of Ana's, made at our own desk.
    async fn open_another(&self, title: &str, deliberate: bool) -> Result<LocalRecord, EditError> {
        let contact = self.ours("Ana's course").contact.unwrap().to_string();
        let said = [("name", Value::text(title)), ("contact", Value::text(&contact))];
        let mut fields: Fields = said.map(|(name, value)| (name.to_owned(), value)).into();
        fields.extend(deliberate.then(|| ("deliberate".to_owned(), Value::Flag(true))));
        self.rig.desk().create(Kind::Deal, &fields, None).await
    }

    async fn say(&self, title: &str, said: &[(&str, Value)]) -> Result<(), EditError> {
        let fields: Fields = said.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        self.rig.desk().update(Kind::Deal, self.ours(title).id, None, &fields, None).await.map(drop)
    }

    async fn say_worth(&self, title: &str, amount: i64) -> Result<(), EditError> {
        self.say(title, &[("amount", Value::Number(Decimal::from(amount)))]).await
    }

    /// The opportunity's price is a plan's.
    async fn say_plan(&self, title: &str, amount: i64) -> Result<(), EditError> {
        let price = ("amount", Value::Number(Decimal::from(amount)));
        self.say(title, &[price, ("currency", Value::text("USD")), ("value_source", Value::text("plan"))]).await
    }

    /// The only conflict about what an opportunity is worth.
    async fn kept(&self) -> Conflict {
        let conflicts = self.rig.store.conflicts(&self.rig.account.name, false, 10).await.unwrap();
        let about: Vec<_> = conflicts.into_iter().filter(|one| one.fields.contains(&"amount".to_owned())).collect();
        let [kept] = &about[..] else { panic!("{about:?}") };
        kept.clone()
    }
}

/// AX-02, VX-08 and GYM-30 at our own desk: one, any number, or a second on purpose.
#[tokio::test(start_paused = true)]
async fn row_1_a_second_open_opportunity_is_refused_made_or_made_once_somebody_says_that_it_is_meant() {
    let said = |made: Result<LocalRecord, EditError>| match made {
        Ok(_) => "made",
        Err(EditError::Second) => "one only",
        Err(EditError::Unconfirmed) => "asked",
        Err(EditError::Invalid(_)) => "of no use",
        Err(error) => panic!("{error}"),
    };
    for (profile, unasked, meant) in [
        (Profile::Clinic, "one only", "of no use"),
        (Profile::Agency, "made", "made"),
        (Profile::Boutique, "made", "made"),
        (Profile::Gym, "asked", "made"),
    ] {
        let shop = Shop::of(profile, &[]);
        shop.person("Ana").await;
        assert_eq!(said(shop.open_another("by mistake", false).await), unasked, "{profile:?}");
        assert_eq!(said(shop.open_another("on purpose", true).await), meant, "{profile:?}");
        shop.settle().await;
        if meant == "made" {
            let second = shop.ours("on purpose");
            assert!(!second.quarantined && second.position.status == Status::Open, "{profile:?}");
        }
    }
}

/// GYM-30: a CRM asks nobody, so a second that comes from there is kept aside, and never dropped, until somebody says that it is
/// meant.
#[tokio::test(start_paused = true)]
async fn row_1_where_a_second_is_made_on_purpose_one_that_a_crm_sends_waits_for_somebodys_word() {
    let shop = Shop::of(Profile::Gym, &[]);
    let ana = shop.person("Ana").await;
    let contact = shop.rig.sandbox.with(|world| world.contacts_of(ana.deal))[0];
    let there = shop.deal_of(contact, "Ana's second");
    shop.settle().await;
    let second = shop.ours("Ana's second");
    assert!(second.quarantined && !shop.ours("Ana's course").quarantined);
    let account = &shop.rig.account.name;
    let failures = shop.rig.store.failures(account, 10).await.unwrap();
    let [failure] = &failures[..] else { panic!("{failures:?}") };
    assert_eq!((failure.code.as_str(), failure.key.clone()), ("second_opportunity", format!("l:{}", second.id)));
    assert!(failure.message.contains("policy confirm_second"), "{}", failure.message);
    // It is kept in step meanwhile.
    shop.edit_in_hubspot(there, &[("amount", "250")]);
    shop.rig.clock.sleep(Duration::from_secs(2)).await;
    shop.settle().await;
    assert_eq!(shop.ours("Ana's second").value, usd(25_000));
    let word = Fields::from([("deliberate".to_owned(), Value::Flag(true))]);
    shop.rig.desk().update(Kind::Deal, second.id, None, &word, None).await.unwrap();
    shop.settle().await;
    let second = shop.ours("Ana's second");
    assert!(second.deliberate && !second.quarantined);
    assert!(shop.rig.store.failures(account, 10).await.unwrap().is_empty(), "it is off the list");
    let history = shop.rig.store.history(account, Kind::Deal, second.id).await.unwrap();
    assert!(history.iter().any(|entry| entry.field == "deliberate" && entry.by == "person"), "{history:?}");
    // The first is lost: the one that is left was meant, and a third is asked about all the same.
    shop.edit_in_hubspot(ana.deal, &[("dealstage", "closedlost")]);
    shop.rig.clock.sleep(Duration::from_secs(2)).await;
    shop.settle().await;
    assert_eq!(shop.ours("Ana's course").position.status, Status::Lost);
    assert!(matches!(shop.open_another("a third", false).await, Err(EditError::Unconfirmed)));
}

/// GYM-30: an edit that makes a second open one is asked about as making one is, also where the first was meant and so
/// takes no place.
#[tokio::test(start_paused = true)]
async fn row_1_an_edit_that_makes_a_second_open_one_is_asked_about_as_making_one_is() {
    let shop = Shop::of(Profile::Gym, &[]);
    shop.rig.sandbox.with(|world| {
        world.add_pipeline("courses", "Courses", &[("begun", "Begun", 0.2), ("done", "Done", 1.0)]);
    });
    shop.person("Ana").await;
    shop.person("Ben").await;
    let says = async |title: &str, said: &[(&str, Value)]| {
        let fields: Fields = said.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        match shop.rig.desk().update(Kind::Deal, shop.ours(title).id, None, &fields, None).await {
            Ok(_) => "done",
            Err(EditError::Unconfirmed) => "asked",
            Err(error) => panic!("{title} {fields:?}: {error}"),
        }
    };
    let pipelines = shop.rig.store.pipelines(&shop.rig.account.name).await.unwrap();
    let called = |label: &str| Value::text(&pipelines.iter().find(|one| one.label == label).unwrap().id.to_string());
    let (sales, courses) = (shop.ours("Ana's course").get("pipeline"), called("Courses"));
    let ana = shop.ours("Ana's course").get("contact");
    let meant = || ("deliberate", Value::Flag(true));
    assert_eq!(says("Ana's course", &[meant()]).await, "done");
    // Given to somebody who has one.
    assert_eq!(says("Ben's course", &[("contact", ana.clone())]).await, "asked");
    assert_ne!(shop.ours("Ben's course").get("contact"), ana, "nothing of it is stored");
    // Whatever else is said of it is not about that.
    assert_eq!(says("Ana's course", &[("description", Value::text("six sessions"))]).await, "done");
    // Moved to where she has one.
    shop.open_another("in between", true).await.unwrap();
    assert_eq!(says("in between", &[("pipeline", courses)]).await, "done");
    assert_eq!(says("in between", &[("deliberate", Value::Flag(false))]).await, "done", "it is the only one there");
    assert_eq!(says("in between", &[("pipeline", sales.clone())]).await, "asked");
    // Reopened beside it.
    assert_eq!(says("in between", &[("status", Value::text("lost"))]).await, "done");
    assert_eq!(says("in between", &[("pipeline", sales), ("status", Value::text("lost"))]).await, "done");
    assert_eq!(says("in between", &[("status", Value::text("open"))]).await, "asked");
    assert_eq!(says("in between", &[("status", Value::text("open")), meant()]).await, "done");
    assert_eq!(says("Ben's course", &[("contact", ana), meant()]).await, "done");
    let account = &shop.rig.account.name;
    assert!(
        shop.rig.store.quarantined(account, false, 10).await.unwrap().is_empty(),
        "what is meant waits for nothing"
    );
}

/// GYM-31: a value that a till said is the till's; before that it is anybody's, and elsewhere it is always.
#[tokio::test(start_paused = true)]
async fn row_9_in_a_gym_nobody_but_the_till_changes_what_the_till_said() {
    for profile in [Profile::Gym, Profile::Agency] {
        let shop = Shop::of(profile, &[]);
        shop.settle().await;
        let person = shop.person("Ana").await;
        shop.edit_in_hubspot(person.deal, &[("amount", "120")]);
        shop.rig.clock.sleep(Duration::from_secs(2)).await;
        shop.settle().await;
        assert_eq!(shop.ours("Ana's course").value, usd(12_000), "{profile:?}: nothing was sold yet");
        let sale = shop.sell_to(&person.customer, ticket("Neurotoxin treatment"));
        shop.heard_of(&sale).await;
        shop.settle().await;
        let deal = shop.ours("Ana's course");
        assert_eq!((deal.value, deal.position.status), (usd(65_000), Status::Won));
        shop.edit_in_hubspot(person.deal, &[("amount", "1"), ("dealname", "Ana's course, paid")]);
        shop.rig.clock.sleep(Duration::from_secs(2)).await;
        shop.settle().await;
        shop.settle().await;
        let deal = shop.ours("Ana's course, paid");
        let said = shop.say_worth("Ana's course, paid", 2).await;
        let conflicts = shop.rig.store.conflicts(&shop.rig.account.name, false, 10).await.unwrap();
        let kept: Vec<_> = conflicts.iter().filter(|conflict| conflict.fields.contains(&"amount".to_owned())).collect();
        if profile == Profile::Agency {
            assert_eq!((deal.value, deal.value_source), (usd(100), ValueSource::Manual));
            assert!(said.is_ok() && kept.is_empty(), "{kept:?}");
            continue;
        }
        assert_eq!((deal.value, deal.value_source), (usd(65_000), ValueSource::Checkout));
        assert_eq!(shop.amount(person.deal), Decimal::from(650), "changed back there");
        let [kept] = kept[..] else { panic!("{kept:?}") };
        assert_eq!((kept.winner, kept.rule.as_str()), (Winner::Local, "evidence"));
        assert_eq!(kept.remote[0], Value::Number(Decimal::ONE), "what somebody typed is kept");
        let refused = said.unwrap_err().to_string();
        assert!(refused.contains("nobody else changes it"), "{refused}");
        shop.square.with(|world| world.refund(&world.payments_of(&sale)[0].clone(), 15_000)).unwrap();
        shop.heard_of(&sale).await;
        shop.settle().await;
        assert_eq!(shop.ours("Ana's course, paid").value, usd(50_000), "the till goes on saying it");
    }
}

/// FEATURES section 2 row 9, GYM-31: the price of a plan is said here, and what a CRM says of it is kept in a conflict.
#[tokio::test(start_paused = true)]
async fn row_9_the_price_of_a_plan_is_said_here_alone() {
    let shop = Shop::new(&[]);
    let ana = shop.person("Ana").await;
    shop.say_plan("Ana's course", 99).await.unwrap();
    shop.settle().await;
    assert_eq!(shop.amount(ana.deal), Decimal::from(99));
    shop.edit_in_hubspot(ana.deal, &[("amount", "1"), ("dealname", "Ana's plan")]);
    shop.rig.clock.sleep(Duration::from_secs(2)).await;
    shop.settle().await;
    shop.settle().await;
    let deal = shop.ours("Ana's plan");
    assert_eq!((deal.value, deal.value_source), (usd(9_900), ValueSource::Plan));
    assert_eq!(shop.amount(ana.deal), Decimal::from(99), "changed back there");
    let kept = shop.kept().await;
    assert_eq!((kept.winner, &kept.remote[0]), (Winner::Local, &Value::Number(Decimal::ONE)), "what was typed is kept");
    // Whoever confirms it leaves it a plan's.
    shop.rig.desk().resolve(kept, Winner::Local).await.unwrap();
    assert_eq!(shop.ours("Ana's plan").value_source, ValueSource::Plan);
    // Here it changes by saying that a plan is meant, or none any more.
    let refused = shop.say_worth("Ana's plan", 2).await.unwrap_err().to_string();
    assert!(refused.contains("the price of a plan"), "{refused}");
    let nothing = shop.say("Ana's plan", &[("amount", Value::Null), ("value_source", Value::text("plan"))]).await;
    assert!(nothing.unwrap_err().to_string().contains("plan needs a value"));
    let invented = shop.say("Ana's plan", &[("value_source", Value::text("checkout"))]).await;
    assert!(matches!(invented, Err(EditError::Invalid(invalid)) if invalid.field == "value_source"));
    shop.say_plan("Ana's plan", 120).await.unwrap();
    shop.settle().await;
    assert_eq!(shop.amount(ana.deal), Decimal::from(120));
    shop.say("Ana's plan", &[("value_source", Value::text("manual"))]).await.unwrap();
    shop.edit_in_hubspot(ana.deal, &[("amount", "50")]);
    shop.rig.clock.sleep(Duration::from_secs(2)).await;
    shop.settle().await;
    let deal = shop.ours("Ana's plan");
    assert_eq!((deal.value, deal.value_source), (usd(5_000), ValueSource::Manual));
}

/// FEATURES section 2 row 9: whoever said what it was worth before the sale says it again after the refund.
#[tokio::test(start_paused = true)]
async fn row_9_a_plan_that_was_paid_and_given_back_costs_what_it_cost() {
    let shop = Shop::new(&[("any", Trigger { on_refund: OnRefund::Reopen, ..Trigger::default() })]);
    let ana = shop.person("Ana").await;
    shop.say_plan("Ana's course", 99).await.unwrap();
    let sale = shop.sell_to(&ana.customer, ticket("Serum"));
    shop.settle().await;
    let deal = shop.ours("Ana's course");
    assert_eq!((deal.value, deal.value_source), (usd(4_500), ValueSource::Manual));
    shop.square.with(|world| world.refund(&world.payments_of(&sale)[0].clone(), 4_500)).unwrap();
    shop.heard_of(&sale).await;
    shop.settle().await;
    let deal = shop.ours("Ana's course");
    assert_eq!((deal.position.status, deal.value, deal.value_source), (Status::Open, usd(9_900), ValueSource::Plan));
}

/// VX-26 and VX-27 look at when a win was seen, so that one which arrives late counts once, and an import counts for none.
#[tokio::test(start_paused = true)]
async fn row_16_a_change_of_status_is_dated_when_it_is_seen_and_an_import_changes_none() {
    let shop = Shop::new(&[]);
    let contact = shop.contact("Ana", "ana@example.com", "");
    let old = shop.deal_of(contact, "won long ago");
    shop.edit_in_hubspot(old, &[("dealstage", "closedwon"), ("closedate", "2026-01-05T10:00:00Z")]);
    let open = shop.deal_of(contact, "still open");
    shop.rig.clock.sleep(Duration::from_secs(2)).await;
    shop.settle().await;
    let imported = shop.ours("won long ago");
    assert_eq!((imported.position.status, imported.transition_seen_at), (Status::Won, None));
    let closed_at = shop.rig.clock.now() - TimeDelta::minutes(10);
    let closed_on = closed_at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    shop.edit_in_hubspot(open, &[("dealstage", "closedwon"), ("closedate", &closed_on)]);
    shop.rig.clock.sleep(Duration::from_secs(2)).await;
    let before = shop.rig.clock.now();
    shop.settle().await;
    let won = shop.ours("still open");
    assert_eq!(won.position.closed_at.map(|at| at.timestamp()), Some(closed_at.timestamp()));
    assert!(won.transition_seen_at.is_some_and(|seen| seen >= before), "{:?}", won.transition_seen_at);
    let seen = won.transition_seen_at;
    shop.edit_in_hubspot(open, &[("dealname", "renamed")]);
    shop.rig.clock.sleep(Duration::from_secs(2)).await;
    shop.settle().await;
    assert_eq!(shop.ours("renamed").transition_seen_at, seen, "once");
    let person = shop.person("Ben").await;
    let part = Part { customer: Some(person.customer.clone()), ..Part::default() };
    let sale = shop.sell(&Ticket { parts: vec![part], ..ticket("Neurotoxin treatment") });
    let before = shop.rig.clock.now();
    shop.heard_of(&sale).await;
    shop.settle().await;
    assert!(shop.ours("Ben's course").transition_seen_at.is_some_and(|seen| seen >= before), "a sale is seen as well");
}

fn trigger(change: impl FnOnce(&mut Trigger)) -> Trigger {
    let mut trigger = Trigger::default();
    change(&mut trigger);
    trigger
}

/// Each criterion of a trigger by itself: what it lets through and what not.
#[tokio::test(start_paused = true)]
async fn cb_14_a_trigger_says_which_tills_prices_and_gifts_win_and_what_of_them_counts() {
    let bounded = trigger(|trigger| trigger.at_most = Some(Decimal::from(100)));
    let elsewhere = trigger(|trigger| trigger.connections.extend("other_till".parse().ok()));
    let gifts = trigger(|trigger| trigger.for_nothing = true);
    let whole = trigger(|trigger| (trigger.with_tax, trigger.with_tip) = (true, true));
    let mut free = ticket("Consultation");
    free.lines[0].discount = 10_000;
    let mut taxed = ticket("Serum");
    taxed.lines[0].tax = 500;
    for (what, trigger, sale, tip, wins) in [
        ("not more than this", &bounded, ticket("Neurotoxin treatment"), 0, None),
        ("as little as this", &bounded, ticket("Serum"), 0, Some(4_500)),
        ("another till's", &elsewhere, ticket("Serum"), 0, None),
        ("a gift that counts", &gifts, free, 0, Some(0)),
        ("with tax and tip", &whole, taxed, 700, Some(5_700)),
    ] {
        let shop = Shop::new(&[("sales", trigger.clone())]);
        let ana = shop.person("Ana").await;
        let part = Part { customer: Some(ana.customer.clone()), tip, ..Part::default() };
        shop.sell(&Ticket { parts: vec![part], ..sale });
        shop.settle().await;
        let deal = shop.ours("Ana's course");
        let won = (deal.position.status == Status::Won).then_some(deal.value.map(|value| value.minor)).flatten();
        assert_eq!(won, wins, "{what}");
    }
}

/// Of two open opportunities the one in the trigger's pipeline is meant; without such a trigger neither is.
#[tokio::test(start_paused = true)]
async fn cb_14_a_trigger_says_which_pipeline_is_meant() {
    for named in [false, true] {
        let only = trigger(|trigger| trigger.pipelines.extend(named.then(|| "Courses".to_owned())));
        let shop = Shop::new(&[("sales", only)]);
        shop.rig.sandbox.with(|world| {
            world.add_pipeline("courses", "Courses", &[("begun", "Begun", 0.2), ("done", "Done", 1.0)]);
        });
        let ana = shop.person("Ana").await;
        let contact = shop.rig.sandbox.with(|world| world.contacts_of(ana.deal))[0];
        let course = shop.deal_of(contact, "a course");
        shop.edit_in_hubspot(course, &[("pipeline", "courses"), ("dealstage", "begun")]);
        shop.rig.clock.sleep(Duration::from_secs(2)).await;
        shop.settle().await;
        shop.sell_to(&ana.customer, ticket("Serum"));
        shop.settle().await;
        let won = |title: &str| shop.ours(title).position.status == Status::Won;
        assert_eq!((won("Ana's course"), won("a course")), (false, named), "{named}");
    }
}

/// Of two open opportunities the one of the trigger's type is meant; without such a trigger neither is.
#[tokio::test(start_paused = true)]
async fn cb_14_a_trigger_says_which_type_is_meant() {
    let course: Name = "course".parse().unwrap();
    let types = Types::from([
        (course.clone(), OpportunityType { label: Some("Laser course".into()), ..OpportunityType::default() }),
        ("care".parse().unwrap(), OpportunityType::default()),
    ]);
    for named in [false, true] {
        let only = trigger(|trigger| trigger.types.extend(named.then(|| course.clone())));
        let mut shop = Shop::new(&[("sales", only)]);
        let mut till = Connection::clone(&shop.till);
        till.account.types.clone_from(&types);
        (shop.rig.account.types, shop.till) = (types.clone(), Arc::new(till));
        let ana = shop.person("Ana").await;
        shop.open_another("a course", false).await.unwrap();
        shop.say("Ana's course", &[("type", Value::text("care"))]).await.unwrap();
        shop.say("a course", &[("type", Value::text("laser COURSE"))]).await.unwrap();
        assert_eq!(shop.ours("a course").opportunity_type.as_deref(), Some("course"), "by its label as well");
        shop.settle().await;
        let sale = shop.sell_to(&ana.customer, ticket("Serum"));
        shop.settle().await;
        let won = |title: &str| shop.ours(title).position.status == Status::Won;
        assert_eq!((won("Ana's course"), won("a course")), (false, named), "{named}");
        let met = shop.evidence(&sale).await.trigger;
        assert_eq!(met.map(|name| name.to_string()).as_deref(), named.then_some("sales"));
    }
}
