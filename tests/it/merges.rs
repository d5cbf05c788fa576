//! Records that are merged in one system, and what the other one has of them.

use std::{sync::Arc, time::Duration};

use serde_json::json;
use tandem::{
    model::{Link, LinkState, LocalRecord},
    store::{By, SyncStore},
    sync::presence::OnRemoteDelete,
};
use tandem_contract::Kind;
use tandem_hubspot::sandbox as hubspot;
use tandem_pipedrive::sandbox::Change;

use crate::two_crms::{Both, properties};

impl Both {
    fn deal_in_hubspot(&self, title: &str) -> u64 {
        let deal = [("dealname", title), ("dealstage", "qualifiedtobuy")];
        self.rig.sandbox.with(|world| world.create(Kind::Deal, &properties(&deal), hubspot::Change::Person)).unwrap()
    }

    async fn later(&self) {
        self.rig.clock.sleep(Duration::from_secs(5)).await;
        self.settle().await;
    }

    fn live(&self) -> Vec<LocalRecord> {
        self.ours().into_iter().filter(|record| !record.is_deleted()).collect()
    }

    async fn link_in_pipedrive(&self, record: &LocalRecord) -> Link {
        let (account, ids) = (&self.rig.account.name, [record.id()]);
        let links = self.rig.store.links(account, &self.second.name, record.kind(), By::Local(&ids)).await.unwrap();
        links.into_iter().next().expect("a link")
    }

    fn name_of(record: &LocalRecord) -> String {
        record.as_opportunity().unwrap().name.clone()
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_merged_in_one_crm_is_shown_where_the_other_has_both_and_is_not_brought_back() {
    let both = Both::new(5);
    both.have_one_pipeline();
    both.settle().await;
    let (first, second) = (both.deal_in_hubspot("first"), both.deal_in_hubspot("second"));
    both.later().await;
    let there = both.pipedrive.with(|world| world.ids(Kind::Deal));
    assert_eq!((both.live().len(), there.len()), (2, 2));
    both.rig.sandbox.with(|world| world.merge(Kind::Deal, first, second, hubspot::Change::Person)).unwrap();
    both.later().await;
    assert_eq!(both.live().len(), 1, "one is left here");
    let kept = Both::name_of(&both.live()[0]);
    let lost = *there.iter().find(|id| both.in_pipedrive(**id, "title") != kept.as_str()).expect("the other one");
    let shown = both.rig.store.failures(&both.rig.account.name, 10).await.unwrap();
    let shown: Vec<_> = shown.iter().filter(|failure| failure.code == "merged_elsewhere").collect();
    let [shown] = shown[..] else { panic!("{shown:?}") };
    assert!(shown.message.contains(&format!("the vendor's record {lost}")), "{}", shown.message);
    let edit = json!({ "title": "typed into the one that was merged away" });
    both.pipedrive.with(|world| world.update(Kind::Deal, lost, &edit, Change::Person)).unwrap();
    both.later().await;
    assert_eq!(both.live().len(), 1, "an edit there does not bring it back");
    assert_eq!(both.pipedrive.with(|world| world.ids(Kind::Deal)).len(), 2, "and nothing is thrown away there");

    // Tried again before anybody merged them, it is shown again; when one of them is gone, no more.
    let listed = async || {
        let all = both.rig.store.failures(&both.rig.account.name, 10).await.unwrap();
        all.into_iter().filter(|failure| failure.code == "merged_elsewhere").collect::<Vec<_>>()
    };
    both.rig.desk().retry(&listed().await[0]).await.unwrap();
    assert_eq!(listed().await.len(), 0);
    both.later().await;
    assert_eq!(listed().await.len(), 1, "both are still there");
    let kept = *there.iter().find(|id| **id != lost).unwrap();
    both.pipedrive.with(|world| world.merge(Kind::Deal, lost, kept, Change::Person)).unwrap();
    both.minutes(10).await;
    assert_eq!((listed().await.len(), both.live().len()), (0, 1), "merged there as well");
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_there_is_not_merged_into_one_that_was_deleted_here() {
    for newer_wins in [false, true] {
        let both = Both::new(6);
        both.have_one_pipeline();
        both.settle().await;
        let older = both.deal_in_hubspot("older");
        both.later().await;
        let newer = both.deal_in_hubspot("newer");
        both.later().await;
        let doomed = both.live().into_iter().find(|record| Both::name_of(record) == "older").unwrap();
        both.rig.desk().delete(Kind::Deal, doomed.id()).await.unwrap();
        both.later().await;
        let (kept, lost) = if newer_wins { (newer, older) } else { (older, newer) };
        let made = both.rig.sandbox.with(|world| world.merge(Kind::Deal, kept, lost, hubspot::Change::Person)).unwrap();
        both.later().await;
        let live = both.live();
        assert_eq!(live.len(), 1, "{newer_wins}: what is there lives on");
        let edit = properties(&[("dealname", "typed after the merge")]);
        both.rig.sandbox.with(|world| world.update(Kind::Deal, made, &edit, hubspot::Change::Person)).unwrap();
        both.later().await;
        assert_eq!(Both::name_of(&both.live()[0]), "typed after the merge", "{newer_wins}");
    }
}

/// Pipedrive tells of a merge by webhooks alone. When none comes, what it filled the survivor with does: our marker.
#[tokio::test(start_paused = true)]
async fn what_was_merged_in_pipedrive_lives_on_as_the_survivor_though_every_webhook_is_lost() {
    for on_remote_delete in [OnRemoteDelete::Keep, OnRemoteDelete::Delete] {
        let mut both = Both::new(7);
        Arc::make_mut(&mut both.second).on_remote_delete = on_remote_delete;
        let (_, stages) = both.pipedrive.with(|world| world.add_pipeline("Sales", &[("Qualified to buy", 40)]));
        both.settle().await;
        let typed = json!({ "title": "typed in Pipedrive", "stage_id": stages[0] });
        let typed = both.pipedrive.with(|world| world.create(Kind::Deal, &typed, Change::Person)).unwrap();
        both.later().await;
        both.deal_in_hubspot("typed in HubSpot");
        both.later().await;
        let there = both.pipedrive.with(|world| world.ids(Kind::Deal));
        let [first, made] = there[..] else { panic!("{there:?}") };
        assert_eq!((first, both.live().len()), (typed, 2));
        let in_hubspot = both.rig.sandbox.with(|world| world.ids(Kind::Deal));

        both.pipedrive.with(|world| world.merge(Kind::Deal, made, typed, Change::Person)).unwrap();
        both.minutes(3).await;
        let live = both.live();
        assert_eq!(live.len(), 1, "{on_remote_delete:?}: one opportunity");
        let link = both.link_in_pipedrive(&live[0]).await;
        assert_eq!((link.external.as_str(), link.state), (typed.to_string().as_str(), LinkState::Linked));
        let lost = both.ours().into_iter().filter(LocalRecord::is_deleted);
        let heirs: Vec<_> = lost.map(|record| record.merged_into()).collect();
        assert_eq!(heirs, [Some(live[0].id())], "{on_remote_delete:?}: merged, and not deleted");
        let left = both.pipedrive.with(|world| (world.ids(Kind::Deal), world.stats.deleted));
        assert_eq!(left, (vec![typed], 0), "nothing is made again, and nothing thrown away");
        assert_eq!(both.rig.sandbox.with(|world| world.ids(Kind::Deal)), in_hubspot);

        let edit = json!({ "title": "typed after the merge" });
        both.pipedrive.with(|world| world.update(Kind::Deal, typed, &edit, Change::Person)).unwrap();
        both.minutes(2).await;
        assert_eq!(Both::name_of(&both.live()[0]), "typed after the merge");
    }
}

/// No list names persons who are gone, and no feed: only the survivor is seen to have changed.
#[tokio::test(start_paused = true)]
async fn a_person_who_was_merged_in_pipedrive_is_known_by_the_survivor_alone() {
    let both = Both::new(8);
    both.have_one_pipeline();
    both.settle().await;
    let typed = both.pipedrive.with(|world| world.create(Kind::Contact, &json!({ "name": "A. Ito" }), Change::Person));
    let typed = typed.unwrap();
    both.later().await;
    let person = properties(&[("firstname", "Ana"), ("lastname", "Ito"), ("email", "ana@example.com")]);
    both.rig.sandbox.with(|world| world.create(Kind::Contact, &person, hubspot::Change::Person)).unwrap();
    both.later().await;
    let there = both.pipedrive.with(|world| world.ids(Kind::Contact));
    let [first, made] = there[..] else { panic!("{there:?}") };
    assert_eq!(first, typed);
    both.pipedrive.with(|world| world.merge(Kind::Contact, made, typed, Change::Person)).unwrap();
    both.minutes(3).await;
    let live: Vec<LocalRecord> = both.rig.store.all(&both.rig.account.name, Kind::Contact);
    let live: Vec<LocalRecord> = live.into_iter().filter(|contact| !contact.is_deleted()).collect();
    assert_eq!(live.len(), 1, "one person");
    assert_eq!(both.link_in_pipedrive(&live[0]).await.external.as_str(), typed.to_string());
    assert_eq!(both.pipedrive.with(|world| world.ids(Kind::Contact)), [typed]);
}

#[tokio::test(start_paused = true)]
async fn a_copy_does_not_take_the_place_of_the_original_that_people_deleted() {
    let both = Both::new(9);
    both.have_one_pipeline();
    both.settle().await;
    both.deal_in_hubspot("original");
    both.later().await;
    let (_, original) = both.pair().await;
    let copy = both.pipedrive.with(|world| {
        let field = world.field_code(Kind::Deal, "Tandem id").unwrap();
        let value = |name: &str| world.value(Kind::Deal, original, name).unwrap_or_default();
        let marker = value("Tandem id");
        assert!(marker.is_string(), "{marker}");
        let body = json!({ "title": "copy", "stage_id": value("stage_id"), "custom_fields": { field: marker } });
        world.create(Kind::Deal, &body, Change::Person).unwrap()
    });
    both.later().await;
    assert_eq!(both.live().len(), 2, "an opportunity of its own");
    both.pipedrive.with(|world| world.delete(Kind::Deal, original, Change::Person)).unwrap();
    both.later().await;
    let edit = json!({ "title": "copy, edited" });
    both.pipedrive.with(|world| world.update(Kind::Deal, copy, &edit, Change::Person)).unwrap();
    both.minutes(3).await;
    let mut live = both.live();
    live.sort_by_key(Both::name_of);
    let names: Vec<String> = live.iter().map(Both::name_of).collect();
    assert_eq!(names, ["copy, edited", "original"]);
    let (of_copy, of_original) = (both.link_in_pipedrive(&live[0]).await, both.link_in_pipedrive(&live[1]).await);
    assert_eq!(of_copy.external.as_str(), copy.to_string());
    assert_eq!(
        (of_original.external.as_str(), of_original.state),
        (original.to_string().as_str(), LinkState::RemoteMissing)
    );
}
