//! Positions: pipeline, stage, status, lost reason and close dates, which merge as one, and what vendors say in their place.

use chrono::{DateTime, NaiveDate, NaiveTime, SubsecRound, TimeZone, Utc};
use chrono_tz::Tz;
use tandem_contract::{
    Value,
    planted::{self, Bug},
};

use super::lens::{Directory, Unfit, Values, bad_row, put_plain};
use crate::model::{
    StageKind, StageMap, Status,
    ids::{PipelineId, StageId},
};

/// The places in a position's local values.
const PIPELINE: usize = 0;
const STAGE: usize = 1;
const STATUS: usize = 2;
const LOST_REASON: usize = 3;
const CLOSED_AT: usize = 4;
const EXPECTED: usize = 5;

fn status_of(local: &[Value]) -> Status {
    local[STATUS].as_text().and_then(|word| word.parse().ok()).unwrap_or_default()
}

/// True if these values of ours are those of a record that is won.
pub fn is_won(local: &[Value]) -> bool {
    local.len() > STATUS && status_of(local) == Status::Won
}

/// Our pipeline and stage.
fn stands_on(local: &[Value]) -> Result<(PipelineId, StageId), Unfit> {
    let place = (|| Some((local[PIPELINE].as_text()?.parse().ok()?, local[STAGE].as_text()?.parse().ok()?)))();
    place.ok_or_else(|| Unfit::Park("no_stage", "the record stands on no stage: choose its pipeline and stage".into()))
}

/// Why it was lost, in the vendor's words.
fn get_reason(status: Status, theirs: &Value) -> Value {
    match status {
        Status::Abandoned if theirs.as_text() == Some(ABANDONED) => Value::Null,
        Status::Lost | Status::Abandoned => theirs.clone(),
        Status::Open | Status::Won => Value::Null,
    }
}

/// Why it was lost, in ours; of a record that was not, theirs is left as it is.
fn put_reason(local: &[Value], status: Status, theirs: &Value) -> Value {
    match status {
        Status::Open | Status::Won => theirs.clone(),
        Status::Abandoned if local[LOST_REASON].is_blank() => put_plain(&Value::Text(ABANDONED.into()), theirs),
        Status::Lost | Status::Abandoned => put_plain(&local[LOST_REASON], theirs),
    }
}

pub(super) fn get(remote: &[Value], old: &[Value], directory: &Directory) -> Values {
    let [pipeline, stage, close_date, reason] = remote else { return Err(bad_row()) };
    let map = stage_of(pipeline, stage, directory)?;
    let was = status_of(old);
    let same_stage = old[STAGE].as_text() == Some(map.stage.to_string().as_str());
    let status = match map.kind {
        _ if planted::has(Bug::StageWithoutStatus) => was,
        StageKind::Open => Status::Open,
        StageKind::Won => Status::Won,
        // The vendor has no word for it; we keep ours while the record stays where it was and its reason is stated.
        StageKind::Lost if was == Status::Abandoned && same_stage && !reason.is_blank() => Status::Abandoned,
        StageKind::Lost => Status::Lost,
    };
    let (closed_at, expected) = if status.is_closed() {
        (close_date.clone(), old[EXPECTED].clone())
    } else {
        let day = match close_date {
            Value::Time(at) => Value::Date(at.with_timezone(&directory.timezone).date_naive()),
            _ => Value::Null,
        };
        (Value::Null, day)
    };
    let mut position = vec![Value::Null; 6];
    position[PIPELINE] = Value::Text(map.pipeline.to_string());
    position[STAGE] = Value::Text(map.stage.to_string());
    position[STATUS] = Value::Text(status.as_str().into());
    position[LOST_REASON] = get_reason(status, reason);
    position[CLOSED_AT] = closed_at;
    position[EXPECTED] = expected;
    Ok(position)
}

/// What a vendor's one close date leaves unsaid (VX-03): a record that was closed without a date was closed when that
/// was stated; one that was opened again is expected when it was before, not on the day it had been closed.
pub fn complete(position: &mut [Value], old: &[Value], remote: &[Value], stated: DateTime<Utc>) {
    let [.., close_date, _] = remote else { return };
    if close(position, stated) {
        return;
    }
    if let (Value::Time(was), Value::Time(now)) = (&old[CLOSED_AT], close_date)
        && was.trunc_subsecs(3) == now.trunc_subsecs(3)
    {
        position[EXPECTED] = old[EXPECTED].clone();
    }
}

/// A record that was closed without a date was closed when that was stated. False for one that is open.
pub fn close(position: &mut [Value], stated: DateTime<Utc>) -> bool {
    let status = status_of(position);
    if status.is_closed() && position[CLOSED_AT].is_blank() {
        position[CLOSED_AT] = Value::Time(stated.trunc_subsecs(3));
    }
    status.is_closed()
}

/// The lost reason a vendor without the status is given.
const ABANDONED: &str = "Abandoned";

/// The code of a record whose stage has no counterpart on the other side.
pub const UNMAPPED_STAGE: &str = "unmapped_stage";

fn stage_of<'a>(pipeline: &Value, stage: &Value, directory: &'a Directory) -> Result<&'a StageMap, Unfit> {
    let (pipeline, stage) = (pipeline.as_text().unwrap_or_default(), stage.as_text().unwrap_or_default());
    directory.stage_map(pipeline, stage).ok_or_else(|| {
        Unfit::Park(
            UNMAPPED_STAGE,
            format!("the vendor's stage `{stage}` of pipeline `{pipeline}` is not known here: if it is new, it is taken over within a minute or so; if the vendor deleted it, put the record on another stage there; all other fields go on"),
        )
    })
}

pub(super) fn put(local: &[Value], remote: &[Value], directory: &Directory) -> Values {
    let [their_pipeline, their_stage, their_date, their_reason] = remote else { return Err(bad_row()) };
    let status = status_of(local);
    let (pipeline, stage) = stage_for(local, status, their_pipeline, their_stage, directory)?;
    let date = if status.is_closed() {
        match (&local[CLOSED_AT], their_date) {
            (Value::Time(ours), Value::Time(theirs)) if ours.trunc_subsecs(3) == theirs.trunc_subsecs(3) => {
                their_date.clone()
            }
            (Value::Time(ours), _) => Value::Time(ours.trunc_subsecs(3)),
            _ => their_date.clone(),
        }
    } else {
        put_day(&local[EXPECTED], their_date, directory.timezone)
    };
    Ok(vec![pipeline, stage, date, put_reason(local, status, their_reason)])
}

/// A day, as an instant that is on that day for the vendor's people: noon, which is also that day for their neighbours.
fn put_day(ours: &Value, theirs: &Value, timezone: Tz) -> Value {
    let Value::Date(day) = ours else { return if theirs.is_blank() { theirs.clone() } else { Value::Null } };
    match theirs {
        Value::Time(at) if at.with_timezone(&timezone).date_naive() == *day => theirs.clone(),
        _ => noon(*day, timezone),
    }
}

fn noon(day: NaiveDate, timezone: Tz) -> Value {
    let noon = day.and_time(NaiveTime::from_hms_opt(12, 0, 0).unwrap_or_default());
    let at = timezone.from_local_datetime(&noon).earliest().unwrap_or_else(|| timezone.from_utc_datetime(&noon));
    Value::Time(at.to_utc())
}

fn stage_for(
    local: &[Value],
    status: Status,
    their_pipeline: &Value,
    their_stage: &Value,
    directory: &Directory,
) -> Result<(Value, Value), Unfit> {
    let (pipeline, stage) = stands_on(local)?;
    let wanted = status.stage_kind();
    if let Some((remote_pipeline, remote_stage)) = directory.remote_stage(pipeline, stage) {
        let theirs = directory
            .stage_map(their_pipeline.as_text().unwrap_or_default(), their_stage.as_text().unwrap_or_default());
        // Two vendor stages may stand for one of ours: the one the record is on is as good.
        if theirs.is_some_and(|map| map.pipeline == pipeline && map.stage == stage) {
            return Ok((their_pipeline.clone(), their_stage.clone()));
        }
        let kind = directory.stage_map(remote_pipeline, remote_stage).map(|map| map.kind);
        if kind == Some(wanted) {
            return Ok((Value::Text(remote_pipeline.clone()), Value::Text(remote_stage.clone())));
        }
    }
    // A status without a stage of its own: the first of that kind in the vendor's pipeline.
    let of_kind = |map: &&StageMap| map.pipeline == pipeline && map.kind == wanted;
    let first = directory.stage_maps().filter(of_kind).min_by_key(|map| map.rank);
    match first {
        Some(map) if wanted != StageKind::Open => {
            Ok((Value::Text(map.remote_pipeline.clone()), Value::Text(map.remote_stage.clone())))
        }
        _ => Err(no_stage_there(pipeline, stage, status, directory)),
    }
}

fn no_stage_there(pipeline: PipelineId, stage: StageId, status: Status, directory: &Directory) -> Unfit {
    let label = directory
        .pipeline(pipeline)
        .map_or("?".to_owned(), |p| format!("{} / {}", p.label, p.stage(stage).map_or("?", |s| s.label.as_str())));
    Unfit::Park(
        UNMAPPED_STAGE,
        format!(
            "the vendor has no stage for `{label}` ({status}): map it, or create it at the vendor; all other fields go on"
        ),
    )
}

/// Where a vendor has a status apart from the stage, a closed record keeps its last stage there; here it stands on a stage
/// that means what its status says.
pub(super) fn get_with_status(remote: &[Value], old: &[Value], directory: &Directory) -> Values {
    let [pipeline, stage, word, expected, closed_at, reason] = remote else { return Err(bad_row()) };
    let map = stage_of(pipeline, stage, directory)?;
    let was = status_of(old);
    let status = match word.as_text() {
        _ if planted::has(Bug::StageWithoutStatus) => was,
        Some("won") => Status::Won,
        // The vendor has no word for it; we keep ours while its reason is stated.
        Some("lost") if was == Status::Abandoned && !reason.is_blank() => Status::Abandoned,
        Some("lost") => Status::Lost,
        _ => Status::Open,
    };
    let ours = directory.pipeline(map.pipeline);
    let kind_of = |stage: StageId| ours.and_then(|pipeline| pipeline.stage(stage)).map(|stage| stage.kind);
    let standing = old[STAGE].as_text().and_then(|id| id.parse::<StageId>().ok());
    let wanted = status.stage_kind();
    let stage = match standing.filter(|stage| wanted != StageKind::Open && kind_of(*stage) == Some(wanted)) {
        Some(stage) => stage,
        None if kind_of(map.stage) == Some(wanted) => map.stage,
        None => ours.and_then(|pipeline| pipeline.first_of(wanted)).map_or(map.stage, |stage| stage.id),
    };
    let mut position = vec![Value::Null; 6];
    position[PIPELINE] = Value::Text(map.pipeline.to_string());
    position[STAGE] = Value::Text(stage.to_string());
    position[STATUS] = Value::Text(status.as_str().into());
    position[LOST_REASON] = get_reason(status, reason);
    position[CLOSED_AT] = match (status.is_closed(), &old[CLOSED_AT], closed_at) {
        (false, ..) => Value::Null,
        // Ours is finer than the vendor's whole seconds.
        (true, Value::Time(ours), Value::Time(theirs)) if ours.trunc_subsecs(0) == theirs.trunc_subsecs(0) => {
            old[CLOSED_AT].clone()
        }
        (true, ..) => closed_at.clone(),
    };
    position[EXPECTED] = expected.clone();
    Ok(position)
}

/// The vendor's values after ours are written over them. What goes with another status only is left as it is: the vendor
/// clears it by itself.
pub(super) fn put_with_status(local: &[Value], remote: &[Value], directory: &Directory) -> Values {
    let [their_pipeline, their_stage, their_word, their_expected, their_closed_at, their_reason] = remote else {
        return Err(bad_row());
    };
    let status = status_of(local);
    let (pipeline, stage) = open_stage_for(local, status, their_pipeline, their_stage, directory)?;
    let word = match status {
        Status::Open => "open",
        Status::Won => "won",
        Status::Lost | Status::Abandoned => "lost",
    };
    let word = if their_word.as_text() == Some(word) { their_word.clone() } else { Value::Text(word.into()) };
    let closed_at = match (status.is_closed(), &local[CLOSED_AT], their_closed_at) {
        (true, Value::Time(ours), Value::Time(theirs)) if ours.trunc_subsecs(0) == theirs.trunc_subsecs(0) => {
            their_closed_at.clone()
        }
        (true, Value::Time(ours), _) => Value::Time(ours.trunc_subsecs(0)),
        _ => their_closed_at.clone(),
    };
    let reason = put_reason(local, status, their_reason);
    Ok(vec![pipeline, stage, word, put_plain(&local[EXPECTED], their_expected), closed_at, reason])
}

/// Where a record stands at a vendor whose stages are all open: on the stage of ours, and when it is closed wherever it
/// stood in that pipeline.
fn open_stage_for(
    local: &[Value],
    status: Status,
    their_pipeline: &Value,
    their_stage: &Value,
    directory: &Directory,
) -> Result<(Value, Value), Unfit> {
    let (pipeline, stage) = stands_on(local)?;
    let theirs =
        directory.stage_map(their_pipeline.as_text().unwrap_or_default(), their_stage.as_text().unwrap_or_default());
    if theirs.is_some_and(|map| map.pipeline == pipeline && (status.is_closed() || map.stage == stage)) {
        return Ok((their_pipeline.clone(), their_stage.clone()));
    }
    if let Some((pipeline, stage)) = directory.remote_stage(pipeline, stage) {
        return Ok((Value::Text(pipeline.clone()), Value::Text(stage.clone())));
    }
    let of_it = directory.stage_maps().filter(|map| map.pipeline == pipeline);
    match of_it.max_by_key(|map| map.rank).filter(|_| status.is_closed()) {
        Some(map) => Ok((Value::Text(map.remote_pipeline.clone()), Value::Text(map.remote_stage.clone()))),
        None => Err(no_stage_there(pipeline, stage, status, directory)),
    }
}
