//! What a vendor has, and taking its pipelines over: a pipeline that nobody mapped becomes one of ours, stage by stage.

use std::{collections::BTreeMap, sync::Arc};

use chrono_tz::Tz;
use tandem_contract::{Kind, PipelineInfo, Schema};

use super::{
    lens::Directory,
    position::UNMAPPED_STAGE,
    reconcile::{Reconciler, SyncError},
};
use crate::{
    model::{
        ConnectionRow, Currency, Failure, Key, Link, Mark, Pipeline, Reason, RecordId, Stage, StageKind, StageMap,
        ids::{PipelineId, StageId},
    },
    store::{By, Op, StoreError},
};

/// Records that are released together.
const PAGE: usize = 500;

impl Reconciler {
    /// Asks the vendor for pipelines and owners, takes over what is not mapped yet, and renews the directory.
    ///
    /// # Errors
    /// [`SyncError`]; the old directory stays.
    pub async fn discover(&self, row: &ConnectionRow) -> Result<Schema, SyncError> {
        let schema = self.connection.connector.discover().await?;
        let (account, name) = (&self.connection.account, &self.connection.name);
        let (pipelines, maps, news) = loop {
            let mut pipelines = self.store.pipelines(&account.name).await?;
            let mut maps = self.store.stage_maps(&account.name, name).await?;
            let mut ops = Vec::new();
            for theirs in &schema.pipelines {
                self.take_over(theirs, &mut pipelines, &mut maps, &mut ops);
            }
            let news = ops.iter().any(|op| matches!(op, Op::PutStageMap(_)));
            if !ops.is_empty() {
                match self.store.commit(&self.commit_of(ops)).await {
                    // The account's other connections take theirs over as well. Each time round, one got further.
                    Err(StoreError::Outdated(_)) => continue,
                    done => done?,
                }
            }
            break (pipelines, maps, news);
        };
        let timezone: Tz = row.timezone.as_deref().and_then(|zone| zone.parse().ok()).unwrap_or(account.timezone);
        let currency = row.currency.as_deref().and_then(|code| Currency::new(code).ok()).unwrap_or(account.currency);
        let directory = Directory::new(self.connection.connector.system(), timezone, currency, row.currencies.clone())
            .with_owners(&schema.owners)
            .with_properties(schema.properties.values().flat_map(|of_kind| of_kind.keys()))
            .with_stages(&pipelines, &maps)
            .with_types(&account.types);
        *self.directory.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Arc::new(directory);
        if news {
            self.release_unmapped().await?;
        }
        Ok(schema)
    }

    /// Records whose stage was not mapped are looked at again: it may be now.
    ///
    /// # Errors
    /// [`SyncError`].
    pub async fn release_unmapped(&self) -> Result<(), SyncError> {
        let (account, name) = (&self.connection.account.name, &self.connection.name);
        let now = self.clock.now();
        let all = self.store.failures(account, usize::MAX >> 1).await?;
        let unmapped: Vec<(Key, Failure)> = all
            .into_iter()
            .filter(|failure| failure.connection == *name && failure.code == UNMAPPED_STAGE)
            .filter_map(|failure| Some((failure.key.parse().ok()?, failure)))
            .collect();
        // Where a pipeline was not mapped, that is most of an account.
        for some in unmapped.chunks(PAGE) {
            let mut links: BTreeMap<(Kind, RecordId), Link> = BTreeMap::new();
            for kind in [Kind::Contact, Kind::Deal] {
                let ours = |(key, failure): &(Key, Failure)| match key {
                    Key::Local(id) if failure.kind == kind => Some(*id),
                    _ => None,
                };
                let ids: Vec<RecordId> = some.iter().filter_map(ours).collect();
                let found = self.store.links(account, name, kind, By::Local(&ids)).await?;
                links.extend(found.into_iter().map(|link| ((kind, link.local), link)));
            }
            let mut ops = Vec::with_capacity(3 * some.len());
            for (key, failure) in some {
                if let Key::Local(id) = key
                    && let Some(link) = links.get_mut(&(failure.kind, *id))
                {
                    link.holds.remove(&failure.row);
                }
                ops.push(self.solved(failure.kind, key, Some(&failure.row)));
                ops.push(Op::Mark(Mark::new(name, failure.kind, key.clone(), now, Reason::Retry)));
            }
            ops.extend(links.into_values().map(|link| self.put_link(link)));
            self.store.commit(&self.commit_of(ops)).await?;
        }
        Ok(())
    }

    /// Maps one vendor pipeline: to the one it is mapped to, else to one of ours of the same name, else to a new one.
    fn take_over(
        &self,
        theirs: &PipelineInfo,
        pipelines: &mut Vec<Pipeline>,
        maps: &mut Vec<StageMap>,
        ops: &mut Vec<Op>,
    ) {
        let now = self.clock.now();
        // Where several systems share a pipeline, none of them renames its stages.
        let alone = self.connection.is_alone();
        let mapped = maps.iter().find(|map| map.remote_pipeline == theirs.id).map(|map| map.pipeline);
        let place = mapped
            .and_then(|id| pipelines.iter().position(|p| p.id == id))
            .or_else(|| pipelines.iter().position(|p| p.label.eq_ignore_ascii_case(&theirs.label)));
        let place = place.unwrap_or_else(|| {
            pipelines.push(Pipeline {
                id: PipelineId(self.ids.next(now)),
                label: theirs.label.clone(),
                stages: Vec::new(),
                version: 0,
            });
            pipelines.len() - 1
        });
        let pipeline = &mut pipelines[place];
        let before = pipeline.clone();
        for (rank, stage) in theirs.stages.iter().enumerate() {
            let kind = StageKind::of(stage.closed, stage.probability);
            let rank_now = u32::try_from(rank).unwrap_or(u32::MAX);
            if let Some(map) =
                maps.iter_mut().find(|map| map.remote_pipeline == theirs.id && map.remote_stage == stage.id)
            {
                // The vendor's stage may have become another: won, say, or the third instead of the second.
                if (map.kind, map.rank) != (kind, rank_now) {
                    (map.kind, map.rank) = (kind, rank_now);
                    ops.push(Op::PutStageMap(map.clone()));
                }
                if let Some(ours) = pipeline.stages.iter_mut().find(|ours| ours.id == map.stage).filter(|_| alone) {
                    (ours.label, ours.probability, ours.kind) = (stage.label.clone(), stage.probability, kind);
                }
                continue;
            }
            // A stage that means won is not one that only has its name.
            let is_it = |ours: &&Stage| ours.kind == kind && ours.label.eq_ignore_ascii_case(&stage.label);
            let known = pipeline.stages.iter().find(is_it).map(|ours| ours.id);
            let id = known.unwrap_or_else(|| {
                let id = StageId(self.ids.next(now));
                pipeline.stages.push(Stage { id, label: stage.label.clone(), probability: stage.probability, kind });
                id
            });
            let map = StageMap {
                connection: self.connection.name.clone(),
                remote_pipeline: theirs.id.clone(),
                remote_stage: stage.id.clone(),
                pipeline: pipeline.id,
                stage: id,
                kind,
                rank: rank_now,
            };
            ops.push(Op::PutStageMap(map.clone()));
            maps.push(map);
        }
        // Where a vendor's status stands apart from its stages, won and lost have no stage there, and need one here.
        for (kind, label, probability) in [(StageKind::Won, "Won", 100), (StageKind::Lost, "Lost", 0)] {
            if !pipeline.stages.is_empty() && pipeline.first_of(kind).is_none() {
                let id = StageId(self.ids.next(now));
                pipeline.stages.push(Stage { id, label: label.into(), probability, kind });
            }
        }
        if *pipeline != before || before.version == 0 {
            pipeline.version += 1;
            ops.push(Op::PutPipeline(pipeline.clone(), i64::try_from(place).unwrap_or(i64::MAX)));
        }
    }
}
