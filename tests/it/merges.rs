//! Records that are merged in one system, and what the other one has of them.

use std::time::Duration;

use serde_json::json;
use tandem::{model::LocalRecord, store::SyncStore};
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
