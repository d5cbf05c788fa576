//! A create that was given up and sent again lands after all, at a vendor that lets two records carry one marker.

use std::time::Duration;

use serde_json::json;
use tandem::store::SyncStore;
use tandem_contract::Kind;
use tandem_hubspot::sandbox as hubspot;
use tandem_pipedrive::sandbox::{Change, Faults};

use crate::two_crms::{Both, properties};

/// Long after the create was sent again.
const LATE_MS: u64 = 600_000;

impl Both {
    /// Half a minute, again and again, with both engines at work in it.
    pub async fn minutes(&self, minutes: u64) {
        for _ in 0..2 * minutes {
            for engine in self.engines() {
                engine.once().await.unwrap();
            }
            self.rig.clock.sleep(Duration::from_secs(30)).await;
        }
    }

    fn deals_there(&self) -> Vec<u64> {
        self.pipedrive.with(|world| world.ids(Kind::Deal))
    }

    async fn failures(&self) -> Vec<String> {
        let all = self.rig.store.failures(&self.rig.account.name, 10).await.unwrap();
        // Owners are none of this.
        let all = all.into_iter().filter(|failure| failure.code != "unknown_owner");
        all.map(|failure| format!("{} {}: {}", failure.key, failure.code, failure.message)).collect()
    }

    /// A deal of HubSpot's that was made in Pipedrive, after a try that will land a few minutes from now.
    async fn with_a_create_under_way(seed: u64) -> (Self, u64) {
        let both = Self::new(seed);
        both.have_one_pipeline();
        both.minutes(1).await;
        both.rig
            .sandbox
            .with(|world| {
                let deal = [("dealname", "Peel"), ("dealstage", "qualifiedtobuy"), ("amount", "900.50")];
                world.create(Kind::Deal, &properties(&deal), hubspot::Change::Person)
            })
            .unwrap();
        let late = Faults { late_create: 1.0, late_create_ms: LATE_MS, ..Faults::default() };
        both.pipedrive.with(|world| world.faults = late);
        both.minutes(1).await;
        assert!(both.deals_there().is_empty(), "nothing came of it so far");
        both.pipedrive.with(|world| world.faults = Faults::default());
        both.minutes(4).await;
        let made = both.deals_there();
        assert_eq!(made.len(), 1, "sent again when nothing was found");
        (both, made[0])
    }
}

#[tokio::test(start_paused = true)]
async fn a_twin_that_nobody_touched_is_removed_and_is_no_news() {
    let (both, kept) = Both::with_a_create_under_way(5).await;
    both.minutes(12).await;
    let removed = both.pipedrive.with(|world| world.stats.deleted);
    assert_eq!((both.deals_there(), removed), (vec![kept], 1), "it landed, and was taken away");
    assert_eq!(both.pair().await.1, kept);
    assert_eq!(both.failures().await, [""; 0]);
    both.pipedrive
        .with(|world| world.update(Kind::Deal, kept, &json!({ "title": "Peel, deep" }), Change::Person))
        .unwrap();
    both.minutes(3).await;
    let (in_hubspot, _) = both.pair().await;
    assert_eq!(both.in_hubspot(in_hubspot, "dealname"), "Peel, deep", "the one that is kept is kept in step");
}

#[tokio::test(start_paused = true)]
async fn a_twin_that_somebody_changed_stays_and_is_shown_until_it_is_gone() {
    let (both, kept) = Both::with_a_create_under_way(6).await;
    // Nobody looks while it lands and is changed.
    both.rig.clock.sleep(Duration::from_millis(LATE_MS)).await;
    let there = both.deals_there();
    let twin = *there.iter().find(|id| **id != kept).expect("it landed");
    both.pipedrive.with(|world| world.update(Kind::Deal, twin, &json!({ "value": 1_200 }), Change::Person)).unwrap();
    both.minutes(3).await;
    assert_eq!((both.deals_there(), both.ours().len()), (vec![kept, twin], 1), "left alone, and not taken in");
    let shown = both.failures().await;
    assert_eq!(shown.len(), 1, "{shown:?}");
    let says = format!("the vendor's record {twin} was made a second time for one of ours, because an answer was lost");
    assert!(shown[0].contains(" twin: ") && shown[0].contains(&says), "{shown:?}");
    both.pipedrive.with(|world| world.delete(Kind::Deal, twin, Change::Person)).unwrap();
    both.minutes(20).await;
    assert_eq!(both.failures().await, [""; 0], "what is solved is off the list");
    assert_eq!((both.deals_there(), both.pair().await.1), (vec![kept], kept));
}

/// Pipedrive copies a deal with all its fields, ours among them.
#[tokio::test(start_paused = true)]
async fn a_copy_that_people_make_is_a_deal_of_its_own() {
    let (both, kept) = Both::with_a_create_under_way(7).await;
    both.minutes(75).await;
    assert_eq!(both.deals_there(), [kept]);
    let copy = both.pipedrive.with(|world| {
        let field = world.field_code(Kind::Deal, "Tandem id").unwrap();
        let value = |name: &str| world.value(Kind::Deal, kept, name).unwrap_or_default();
        let body = json!({
            "title": value("title"), "value": value("value"), "stage_id": value("stage_id"),
            "custom_fields": { field: value("Tandem id") },
        });
        world.create(Kind::Deal, &body, Change::Person).unwrap()
    });
    both.minutes(3).await;
    assert_eq!(both.deals_there(), [kept, copy]);
    assert_eq!(both.ours().len(), 2, "an opportunity of its own");
    assert_eq!(both.failures().await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_person_of_the_same_address_is_nobodys_twin() {
    let both = Both::new(8);
    both.have_one_pipeline();
    both.minutes(1).await;
    let person = [("firstname", "Ana"), ("lastname", "Ito"), ("email", "ana@example.com")];
    both.rig.sandbox.with(|world| world.create(Kind::Contact, &properties(&person), hubspot::Change::Person)).unwrap();
    let late = Faults { late_create: 1.0, late_create_ms: LATE_MS, ..Faults::default() };
    both.pipedrive.with(|world| world.faults = late);
    both.minutes(1).await;
    both.pipedrive.with(|world| world.faults = Faults::default());
    both.minutes(4).await;
    let same =
        json!({ "name": "Ana Ito", "emails": [{ "value": "ana@example.com", "primary": true, "label": "work" }] });
    let (made, by_hand) = both.pipedrive.with(|world| {
        let made = world.ids(Kind::Contact);
        (made, world.create(Kind::Contact, &same, Change::Person).unwrap())
    });
    assert_eq!(made.len(), 1);
    both.minutes(15).await;
    let there = both.pipedrive.with(|world| (world.ids(Kind::Contact), world.stats.deleted));
    assert_eq!(there, (vec![made[0], by_hand], 1), "the late one went, and not the one that a person made");
}
