//! Pipelines, stages, and which vendor stage stands for which of ours.

use serde::{Deserialize, Serialize};

use super::ids::{Name, PipelineId, StageId};

/// What a stage means for the record on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageKind {
    /// Still worked on.
    Open,
    /// Closed, lost.
    Lost,
    /// Closed, won.
    Won,
}

impl StageKind {
    /// Closed at 100 is won, closed at 0 is lost, all else is open (FEATURES section 2, row 4).
    #[must_use]
    pub fn of(closed: bool, probability: u8) -> Self {
        match (closed, probability) {
            (true, 100) => Self::Won,
            (true, 0) => Self::Lost,
            _ => Self::Open,
        }
    }
}

/// A stage of a pipeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Our id.
    pub id: StageId,
    /// What people call it.
    pub label: String,
    /// Chance to win, 0 to 100.
    pub probability: u8,
    /// What it means.
    pub kind: StageKind,
}

/// A pipeline with its stages in order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pipeline {
    /// Our id.
    pub id: PipelineId,
    /// What people call it.
    pub label: String,
    /// In display order.
    pub stages: Vec<Stage>,
    /// Raised by one with every change; 0 while it is not stored.
    #[serde(default)]
    pub version: i64,
}

impl Pipeline {
    /// The stage a new record starts on: the lowest probability above zero among the open ones, the first of equals
    /// (CB-09); the first stage if there is none.
    #[must_use]
    pub fn default_stage(&self) -> Option<&Stage> {
        let open = self.stages.iter().filter(|stage| stage.kind == StageKind::Open && stage.probability > 0);
        open.min_by_key(|stage| stage.probability).or_else(|| self.first_of(StageKind::Open))
    }

    /// Whether it goes by this label or id.
    #[must_use]
    pub fn is_called(&self, text: &str) -> bool {
        self.label.eq_ignore_ascii_case(text) || self.id.to_string() == text
    }

    /// A stage by id.
    #[must_use]
    pub fn stage(&self, id: StageId) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.id == id)
    }

    /// The first stage of a kind.
    #[must_use]
    pub fn first_of(&self, kind: StageKind) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.kind == kind)
    }
}

/// A vendor's stage and ours that stands for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageMap {
    /// Whose stage.
    pub connection: Name,
    /// The vendor's pipeline id.
    pub remote_pipeline: String,
    /// The vendor's stage id.
    pub remote_stage: String,
    /// Our pipeline.
    pub pipeline: PipelineId,
    /// Our stage.
    pub stage: StageId,
    /// What the vendor's stage means.
    pub kind: StageKind,
    /// Its place in the vendor's pipeline.
    pub rank: u32,
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn cb_09_a_record_starts_on_the_lowest_stage_above_zero() {
        let stage = |n: u128, label: &str, probability, kind| Stage {
            id: StageId(Uuid::from_u128(n)),
            label: label.into(),
            probability,
            kind,
        };
        let pipeline = Pipeline {
            id: PipelineId(Uuid::nil()),
            label: "Boutique".into(),
            stages: vec![
                stage(1, "Lost", 0, StageKind::Lost),
                stage(2, "Open", 50, StageKind::Open),
                stage(3, "Inquiry", 10, StageKind::Open),
                stage(4, "Sold", 100, StageKind::Won),
            ],
            version: 1,
        };
        assert_eq!(pipeline.default_stage().map(|stage| stage.label.as_str()), Some("Inquiry"));
    }
}
