//! Types of opportunities: what one is worth, where it begins and which sales close it, at our own desk, in HubSpot and at
//! the till. Invented people only.

use std::{collections::BTreeMap, time::Duration};

use rust_decimal::Decimal;
use serde_json::json;
use tandem::{
    edit::{EditError, Fields},
    model::{Opportunity, Profile, Types, ValueSource},
    simulation::Rig,
    sync::{connection::Connection, mapping},
};
use tandem_contract::{Kind, Value};
use tandem_hubspot::sandbox::{Change, Settings};

use crate::{
    house::{House, square},
    process::Place,
    till::usd,
};

/// The row of a mapping that types go by.
const ROW: &str = "[deal.type]\nproperty = \"dealtype\"\n";

/// An account with two types, and HubSpot's property for them mapped.
fn rig() -> Rig {
    let change = |connection: &mut Connection| {
        let types = "[course]\nlabel = \"Laser course\"\nvalue = 650\n[care]\nvalue = 45.5\n";
        connection.account.types = toml::from_str::<Types>(types).unwrap();
        let rows = mapping::parse(ROW).unwrap().remove(&Kind::Deal).unwrap().rows;
        connection.lenses.get_mut(&Kind::Deal).unwrap().rows.extend(rows);
    };
    let settings = Settings { search_lag_ms: (0, 0), recompute_seconds: 0, ..Settings::default() };
    Rig::new(19, settings, Profile::Boutique, change)
}

fn text(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// A person makes a deal in HubSpot.
fn made_there(rig: &Rig, title: &str, kind: &str) -> u64 {
    let stated = text(&[("dealname", title), ("dealstage", "qualifiedtobuy"), ("dealtype", kind)]);
    rig.sandbox.with(|world| world.create(Kind::Deal, &stated, Change::Person)).unwrap()
}

fn edit_there(rig: &Rig, id: u64, pairs: &[(&str, &str)]) {
    rig.sandbox.with(|world| world.update(Kind::Deal, id, &text(pairs), Change::Person)).unwrap();
}

fn ours(rig: &Rig, title: &str) -> Opportunity {
    let all = rig.store.all(&rig.account.name, Kind::Deal);
    let mut all = all.iter().filter_map(|record| record.as_opportunity());
    all.find(|deal| deal.name == title).unwrap().clone()
}

/// What an opportunity is: its type, its value, and who says so.
fn worth(rig: &Rig, title: &str) -> (String, Option<i64>, ValueSource) {
    let deal = ours(rig, title);
    (deal.opportunity_type.unwrap_or_default(), deal.value.map(|value| value.minor), deal.value_source)
}

fn there(rig: &Rig, id: u64) -> (String, Option<Decimal>) {
    let said = |property: &str| rig.sandbox.with(|world| world.value(Kind::Deal, id, property));
    (said("dealtype").unwrap_or_default(), said("amount").and_then(|amount| amount.parse().ok()))
}

async fn settle(rig: &Rig) {
    for _ in 0..3 {
        rig.clock.sleep(Duration::from_secs(2)).await;
        rig.engine().once().await.unwrap();
    }
}

async fn say(rig: &Rig, title: &str, said: &[(&str, Value)]) -> Result<(), EditError> {
    let fields: Fields = said.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    rig.desk().update(Kind::Deal, ours(rig, title).id, None, &fields, None).await.map(drop)
}

/// FEATURES section 2 row 9 and CB-10: what nobody said is what the type says, also where the type was said in a CRM,
/// until somebody says otherwise. An import writes nothing back.
#[tokio::test(start_paused = true)]
async fn row_9_a_type_says_what_is_worth_what_nobody_says() {
    let rig = rig();
    let old = made_there(&rig, "imported", "Laser course");
    settle(&rig).await;
    assert_eq!(worth(&rig, "imported"), ("course".into(), None, ValueSource::Manual), "by its label there");
    assert_eq!(there(&rig, old), ("Laser course".into(), None), "an import writes nothing back");
    let new = made_there(&rig, "walk-in", "course");
    settle(&rig).await;
    assert_eq!(worth(&rig, "walk-in"), ("course".into(), Some(65_000), ValueSource::TypeDefault));
    assert_eq!(there(&rig, new), ("course".into(), Some(Decimal::from(650))), "the type's own name does as well");
    // Another type has another value, as long as nobody says one.
    edit_there(&rig, new, &[("dealtype", "care")]);
    settle(&rig).await;
    assert_eq!(worth(&rig, "walk-in"), ("care".into(), Some(4_550), ValueSource::TypeDefault));
    assert_eq!(there(&rig, new).1, Some(Decimal::new(4_550, 2)));
    edit_there(&rig, new, &[("amount", "700")]);
    settle(&rig).await;
    assert_eq!(worth(&rig, "walk-in"), ("care".into(), Some(70_000), ValueSource::Manual), "a vendor said so");
    say(&rig, "walk-in", &[("type", Value::text("laser COURSE"))]).await.unwrap();
    settle(&rig).await;
    assert_eq!(worth(&rig, "walk-in"), ("course".into(), Some(70_000), ValueSource::Manual), "somebody's word stays");
    assert_eq!(there(&rig, new), ("Laser course".into(), Some(Decimal::from(700))), "HubSpot is told the label");
    // What the account does not have goes by what HubSpot calls it, and is worth what somebody says.
    edit_there(&rig, new, &[("dealtype", "existingbusiness")]);
    settle(&rig).await;
    assert_eq!(worth(&rig, "walk-in"), ("existingbusiness".into(), Some(70_000), ValueSource::Manual));
}

/// FEATURES section 2 row 9 at our own desk: a person's word, and a person's blank, go before the type's.
#[tokio::test(start_paused = true)]
async fn row_9_a_person_says_otherwise_than_the_type() {
    let rig = rig();
    settle(&rig).await;
    let typed = ("type".to_owned(), Value::text("care"));
    let fields = Fields::from([typed.clone(), ("name".to_owned(), Value::text("by type"))]);
    rig.desk().create(Kind::Deal, &fields, None).await.unwrap();
    let price = [("amount".to_owned(), Value::Number(Decimal::TEN)), ("currency".to_owned(), Value::text("USD"))];
    let mut fields = Fields::from([typed, ("name".to_owned(), Value::text("by hand"))]);
    fields.extend(price);
    rig.desk().create(Kind::Deal, &fields, None).await.unwrap();
    assert_eq!(worth(&rig, "by type"), ("care".into(), Some(4_550), ValueSource::TypeDefault));
    assert_eq!(worth(&rig, "by hand"), ("care".into(), Some(1_000), ValueSource::Manual));
    let same = [("amount", Value::Number(Decimal::new(4_550, 2)))];
    say(&rig, "by type", &same).await.unwrap();
    assert_eq!(worth(&rig, "by type").2, ValueSource::Manual, "somebody says so now, though it is the same");
    say(&rig, "by type", &[("amount", Value::Null)]).await.unwrap();
    settle(&rig).await;
    assert_eq!(ours(&rig, "by type").value, None, "and it stays empty");
    assert_eq!(ours(&rig, "by hand").value, usd(1_000));
    let unknown = say(&rig, "by hand", &[("type", Value::text("gold"))]).await.unwrap_err().to_string();
    assert!(unknown.contains("care, course"), "{unknown}");
}

/// What a type is worth is said once, when that type is, and of what is open: it takes back nobody's blank or word.
#[tokio::test(start_paused = true)]
async fn row_9_a_type_takes_no_word_back() {
    let rig = rig();
    settle(&rig).await;
    let there_too = made_there(&rig, "walk-in", "course");
    settle(&rig).await;
    // Emptied in one go with another type: the blank is somebody's word.
    edit_there(&rig, there_too, &[("dealtype", "care"), ("amount", "")]);
    settle(&rig).await;
    assert_eq!(worth(&rig, "walk-in"), ("care".into(), None, ValueSource::Manual));
    assert_eq!(there(&rig, there_too), ("care".into(), None), "nothing is filled in there");
    // The type that it has, said again.
    say(&rig, "walk-in", &[("type", Value::text("Care"))]).await.unwrap();
    assert_eq!(worth(&rig, "walk-in").1, None);
    // With another type, and that it is worth nothing.
    say(&rig, "walk-in", &[("type", Value::text("course")), ("amount", Value::Null)]).await.unwrap();
    assert_eq!(worth(&rig, "walk-in"), ("course".into(), None, ValueSource::Manual));
    say(&rig, "walk-in", &[("type", Value::text("care"))]).await.unwrap();
    assert_eq!(worth(&rig, "walk-in"), ("care".into(), Some(4_550), ValueSource::TypeDefault));
    // No type any more: it is worth what it was, and nobody's type says so.
    say(&rig, "walk-in", &[("type", Value::Null)]).await.unwrap();
    assert_eq!(worth(&rig, "walk-in"), (String::new(), Some(4_550), ValueSource::Manual));
    // What was won is worth what it was won for.
    settle(&rig).await;
    let second = made_there(&rig, "won", "course");
    settle(&rig).await;
    assert_eq!(worth(&rig, "won"), ("course".into(), Some(65_000), ValueSource::TypeDefault));
    edit_there(&rig, second, &[("dealstage", "closedwon")]);
    settle(&rig).await;
    edit_there(&rig, second, &[("dealtype", "care")]);
    settle(&rig).await;
    assert_eq!(worth(&rig, "won"), ("care".into(), Some(65_000), ValueSource::Manual));
    assert_eq!(there(&rig, second), ("care".into(), Some(Decimal::from(650))));
}

fn shop(place: &Place) -> String {
    let mapping = format!("{}\n{ROW}", include_str!("../../config/mappings/hubspot.toml"));
    std::fs::write(place.folder.path().join("typed.toml"), mapping).unwrap();
    let till = square(place, 5).0;
    format!(
        r#"mapping = "typed.toml"
{till}
[accounts.glow_clinic.sales_triggers.courses]
on_refund = "keep"
[accounts.glow_clinic.types.course]
label = "Laser course"
value = 650
pipeline = "sales"
sales_trigger = "courses"
[accounts.glow_clinic.types.care]
value = 45.5
"#
    )
}

/// CB-14 and FEATURES section 2 row 9 through the doors: of two of one buyer the one whose type is linked to the sales
/// trigger is won, by itself.
#[test]
fn cb_14_a_sale_wins_the_opportunity_whose_type_is_linked_to_the_trigger() {
    let house = House::open("info", shop);
    let ana = house.person("Ana");
    let made = |name: &str, kind: &str| {
        let body = json!({ "name": name, "contact_id": ana, "type": kind });
        let (status, made) = house.place.ask("POST", "/api/v1/opportunities", &body);
        assert_eq!(status, 201, "{made}");
        made
    };
    let course = made("Ana's course", "Laser course");
    assert_eq!((&course["type"], &course["value_source"]), (&json!("course"), &json!("type_default")));
    assert_eq!(course["value"], json!({ "minor": 65_000, "currency": "USD" }));
    assert_eq!(course["pipeline"].as_str().map(str::to_lowercase).as_deref(), Some("sales"), "where the type begins");
    let care = made("Ana's skin care", "care");
    let (course, care) = (course["id"].as_str().unwrap(), care["id"].as_str().unwrap());
    house.refuses("POST", "/api/v1/opportunities", &json!({ "name": "x", "type": "gold" }), 422, "type");
    let refused = json!({ "name": "x", "value_source": "checkout" });
    house.refuses("POST", "/api/v1/opportunities", &refused, 422, "value_source");
    let customer = house.known_as(&ana, "square");
    house.place.until("HubSpot knows what kind of sale it is", || {
        let amount = house.in_hubspot(course, "amount").and_then(|amount| amount.parse::<f64>().ok());
        house.in_hubspot(course, "dealtype").as_deref() == Some("Laser course") && amount == Some(650.0)
    });
    house.paid(70_000, &json!({ "customer_id": customer }));
    house.until_won(course, 70_000);
    let shown = house.shown(care);
    assert_eq!((&shown["status"], &shown["value_source"]), (&json!("open"), &json!("type_default")));
    // The price of a plan, over the API.
    let plan = json!({ "value": { "minor": 9_900, "currency": "USD" }, "value_source": "plan" }).to_string();
    let path = format!("/api/v1/opportunities/{care}");
    house.place.until("the plan is said of the opportunity as it is by then", || {
        let version = format!("If-Match: {}", house.shown(care)["version"]);
        let more = ["-H", "content-type: application/json", "-H", version.as_str(), "-d", plan.as_str()];
        let (status, said) = house.place.api("PATCH", &path, &more).unwrap();
        assert!([200, 412].contains(&status), "{said}");
        status == 200
    });
    let shown = house.shown(care);
    assert_eq!((&shown["value_source"], &shown["value"]["minor"]), (&json!("plan"), &json!(9_900)));
    let table = house.place.run_ok(&["export", "opportunities", "--format", "csv"]);
    assert!(table.lines().next().is_some_and(|head| head.ends_with(",type,value_source")), "{table}");
    assert!(table.lines().any(|row| row.starts_with(care) && row.ends_with(",care,plan")), "{table}");
}
