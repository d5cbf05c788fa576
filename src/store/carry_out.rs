//! Carrying out the operations of a commit: runs of equal ones, many rows a statement, on either database.

use std::collections::BTreeSet;

use sqlx::QueryBuilder;
use tandem_contract::Kind;

use super::{
    CHECKOUTS_KEPT, EVENTS_KEPT, Op, StoreError, link_row,
    sql::{ROWS, Tx, json, on_tx, parse, refused},
};
use crate::model::{Failure, LocalRecord, Name, RecordId, ids::IntentId, link::Ruling};

/// What makes two operations of one kind touch the same row; `None` for operations that are carried out one by one.
fn row_of(op: &Op) -> Option<(u8, String)> {
    match op {
        Op::PutRecord { record, expected: 0, .. } => {
            Some((u8::from(record.kind() == Kind::Deal), record.id().to_string()))
        }
        // What takes or gives up something unique is carried out by itself: within one statement the order is not ours.
        Op::PutRecord { record, slot: None, .. } if !refers(record) => {
            Some((8 + u8::from(record.kind() == Kind::Deal), record.id().to_string()))
        }
        Op::PutLink { link, .. } => Some((3, format!("{}{}{}", link.connection, link.kind, link.local))),
        Op::UpdateLink(link) => Some((10, format!("{}{}{}", link.connection, link.kind, link.local))),
        Op::Mark(mark) => Some((4, format!("{}{}{}", mark.connection, mark.kind, mark.key))),
        Op::Finish { connection, dirty } => Some((5, format!("{connection}{}{}", dirty.kind, dirty.key))),
        Op::AddHistory(_) => Some((6, String::new())),
        Op::PutIntent(intent) => Some((7, intent.id.to_string())),
        _ => None,
    }
}

fn refers(record: &LocalRecord) -> bool {
    record.as_opportunity().is_some_and(|deal| deal.external_reference.is_some())
}

/// Splits a list of operations into runs that one statement can carry out; their order stays.
pub(super) fn runs(ops: &[Op]) -> Vec<Vec<&Op>> {
    let mut runs: Vec<Vec<&Op>> = Vec::new();
    let mut current: Option<(u8, BTreeSet<String>)> = None;
    // Operations of different tables do not disturb one another: records, then links, then the rest, each in order.
    let (mut records, mut links, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    let removes_links = ops.iter().any(|op| matches!(op, Op::RemoveLink { .. }));
    for op in ops {
        match op {
            Op::PutRecord { .. } => records.push(op),
            Op::PutLink { .. } | Op::UpdateLink(_) | Op::RuleOnLink { .. } if !removes_links => links.push(op),
            op => rest.push(op),
        }
    }
    rest.sort_by_key(|op| match op {
        Op::AddHistory(_) => 1,
        Op::Finish { .. } => 2,
        _ => 0,
    });
    for op in records.into_iter().chain(links).chain(rest) {
        let row = row_of(op);
        let joins = match (&mut current, &row) {
            (Some((kind, seen)), Some((next, key))) => {
                *kind == *next && seen.len() < ROWS && (*next == 6 || seen.insert(key.clone()))
            }
            _ => false,
        };
        let full = runs.last().is_some_and(|run| run.len() >= ROWS);
        if joins && !full {
            if let Some(run) = runs.last_mut() {
                run.push(op);
            }
        } else {
            current = row.map(|(kind, key)| (kind, BTreeSet::from([key])));
            runs.push(vec![op]);
        }
    }
    runs
}

pub(super) async fn put_records(
    tx: &mut Tx,
    account: &str,
    kind: Kind,
    is_new: bool,
    run: &[&Op],
) -> Result<(), StoreError> {
    let mut rows = Vec::with_capacity(run.len());
    for op in run {
        if let Op::PutRecord { record, expected, slot } = op {
            let body = match record {
                LocalRecord::Contact(contact) => json(contact)?,
                LocalRecord::Deal(deal) => json(deal)?,
            };
            rows.push((record, *expected, slot, body));
        }
    }
    if !is_new {
        return update_records(tx, account, kind, &rows).await;
    }
    let done = if kind == Kind::Contact {
        on_tx!(tx, c, Db => {
            let mut q = QueryBuilder::<Db>::new("INSERT INTO contact (account, id, version, email, phone, deleted, updated_at, body) ");
            q.push_values(&rows, |mut b, (record, _, _, body)| {
                let LocalRecord::Contact(contact) = record else { return };
                b.push_bind(account).push_bind(contact.id.0).push_bind(contact.version).push_bind(contact.email_key())
                    .push_bind(contact.phone_tail()).push_bind(contact.deleted_at.is_some()).push_bind(contact.updated_at).push_bind(body.as_str());
            });
            q.build().execute(&mut **c).await.map(|_| ())
        })
    } else {
        on_tx!(tx, c, Db => {
            let mut q = QueryBuilder::<Db>::new(
                "INSERT INTO opportunity (account, id, version, contact, pipeline, stage, status, slot, waiting_slot, external_reference, deleted, updated_at, body) ",
            );
            q.push_values(&rows, |mut b, (record, _, slot, body)| {
                let LocalRecord::Deal(deal) = record else { return };
                b.push_bind(account).push_bind(deal.id.0).push_bind(deal.version).push_bind(deal.contact.map(|id| id.0))
                    .push_bind(deal.position.pipeline.map(|id| id.0)).push_bind(deal.position.stage.map(|id| id.0))
                    .push_bind(deal.position.status.as_str())
                    .push_bind(slot.as_deref().filter(|_| !deal.quarantined)).push_bind(slot.as_deref().filter(|_| deal.quarantined))
                    .push_bind(deal.live_reference())
                    .push_bind(deal.deleted_at.is_some()).push_bind(deal.updated_at).push_bind(body.as_str());
            });
            q.build().execute(&mut **c).await.map(|_| ())
        })
    };
    done.map_err(refused)
}

/// A record as it is to be stored: the version it was changed from, the place it takes, its text.
type Update<'a> = (&'a LocalRecord, i64, &'a Option<String>, String);

async fn update_records(tx: &mut Tx, account: &str, kind: Kind, rows: &[Update<'_>]) -> Result<(), StoreError> {
    let hit = if kind == Kind::Contact {
        on_tx!(tx, c, Db => {
            let mut q = QueryBuilder::<Db>::new("WITH next (id, expected, version, email, phone, deleted, updated_at, body) AS (");
            q.push_values(rows, |mut b, (record, expected, _, body)| {
                let LocalRecord::Contact(contact) = record else { return };
                b.push_bind(contact.id.0).push_bind(*expected).push_bind(contact.version).push_bind(contact.email_key())
                    .push_bind(contact.phone_tail()).push_bind(contact.deleted_at.is_some()).push_bind(contact.updated_at).push_bind(body.as_str());
            });
            q.push(
                ") UPDATE contact SET version = next.version, email = next.email, phone = next.phone, deleted = next.deleted,
                          updated_at = next.updated_at, body = next.body
                    FROM next WHERE contact.id = next.id AND contact.version = next.expected AND contact.account = ",
            )
            .push_bind(account);
            q.build().execute(&mut **c).await.map(|done| done.rows_affected())
        })
    } else {
        on_tx!(tx, c, Db => {
            let mut q = QueryBuilder::<Db>::new(
                "WITH next (id, expected, version, pipeline, stage, status, slot, waiting_slot, external_reference, deleted,
                            updated_at, body) AS (",
            );
            q.push_values(rows, |mut b, (record, expected, slot, body)| {
                let LocalRecord::Deal(deal) = record else { return };
                b.push_bind(deal.id.0).push_bind(*expected).push_bind(deal.version)
                    .push_bind(deal.position.pipeline.map(|id| id.0)).push_bind(deal.position.stage.map(|id| id.0))
                    .push_bind(deal.position.status.as_str())
                    .push_bind(slot.as_deref().filter(|_| !deal.quarantined)).push_bind(slot.as_deref().filter(|_| deal.quarantined))
                    .push_bind(deal.live_reference()).push_bind(deal.deleted_at.is_some()).push_bind(deal.updated_at)
                    .push_bind(body.as_str());
            });
            q.push(
                ") UPDATE opportunity SET version = next.version, pipeline = next.pipeline,
                          stage = next.stage, status = next.status, slot = next.slot, waiting_slot = next.waiting_slot,
                          external_reference = next.external_reference, deleted = next.deleted,
                          updated_at = next.updated_at, body = next.body
                    FROM next WHERE opportunity.id = next.id AND opportunity.version = next.expected AND opportunity.account = ",
            )
            .push_bind(account);
            q.build().execute(&mut **c).await.map(|done| done.rows_affected())
        })
    };
    match (hit.map_err(refused)?, rows.first()) {
        (hit, Some((first, ..))) if hit < rows.len() as u64 => {
            // Which of them it is shows when each is stored by itself.
            Err(StoreError::Stale { kind, id: first.id() })
        }
        _ if kind == Kind::Deal => move_to_contacts(tx, account, rows).await,
        _ => Ok(()),
    }
}

/// Opportunities whose contact is another one now. By itself, because SQLite writes an index anew wherever its column is
/// set, also to what it was; and contacts change seldom.
async fn move_to_contacts(tx: &mut Tx, account: &str, rows: &[Update<'_>]) -> Result<(), StoreError> {
    on_tx!(tx, c, Db => {
        let mut q = QueryBuilder::<Db>::new("WITH next (id, contact) AS (");
        q.push_values(rows, |mut b, (record, ..)| {
            let contact = record.as_opportunity().and_then(|deal| deal.contact);
            b.push_bind(record.id().0).push_bind(contact.map(|id| id.0));
        });
        q.push(
            ") UPDATE opportunity SET contact = next.contact FROM next
                WHERE opportunity.id = next.id AND opportunity.contact IS DISTINCT FROM next.contact
                  AND opportunity.account = ",
        )
        .push_bind(account);
        q.build().execute(&mut **c).await.map(|_| ())
    })
    .map_err(refused)
}

pub(super) async fn put_links(tx: &mut Tx, account: &str, run: &[&Op]) -> Result<(), StoreError> {
    let mut rows = Vec::with_capacity(run.len());
    for op in run {
        if let Op::PutLink { link, system, remote_account } = op {
            rows.push((link, system.as_str(), remote_account.as_str(), link_row::body(link)?));
        }
    }
    on_tx!(tx, c, Db => {
        let mut q = QueryBuilder::<Db>::new(
            "INSERT INTO link (account, connection, kind, local_id, system, remote_account, external_id, state, rulings, body) ",
        );
        q.push_values(&rows, |mut b, (link, system, remote_account, body)| {
            b.push_bind(account).push_bind(link.connection.as_str()).push_bind(link.kind.as_str()).push_bind(link.local.0)
                .push_bind(*system).push_bind(*remote_account).push_bind(link.external.as_str()).push_bind(link.state.as_str())
                .push_bind(link.rulings).push_bind(body.as_str());
        });
        q.push(
            " ON CONFLICT (account, connection, kind, local_id) DO UPDATE SET system = excluded.system,
                remote_account = excluded.remote_account, external_id = excluded.external_id, state = excluded.state, body = excluded.body",
        );
        q.build().execute(&mut **c).await.map(|_| ())
    })
    .map_err(refused)
}

pub(super) async fn update_links(tx: &mut Tx, account: &str, run: &[&Op]) -> Result<(), StoreError> {
    let mut rows = Vec::with_capacity(run.len());
    for op in run {
        if let Op::UpdateLink(link) = op {
            rows.push((link, link_row::body(link)?));
        }
    }
    let hit = on_tx!(tx, c, Db => {
        let mut q =
            QueryBuilder::<Db>::new("WITH next (connection, kind, local_id, external_id, state, rulings, body) AS (");
        q.push_values(&rows, |mut b, (link, body)| {
            b.push_bind(link.connection.as_str()).push_bind(link.kind.as_str()).push_bind(link.local.0)
                .push_bind(link.external.as_str()).push_bind(link.state.as_str()).push_bind(link.rulings)
                .push_bind(body.as_str());
        });
        q.push(
            ") UPDATE link SET state = next.state, body = next.body FROM next
                WHERE link.connection = next.connection AND link.kind = next.kind AND link.local_id = next.local_id
                  AND link.external_id = next.external_id AND link.rulings = next.rulings AND link.account = ",
        )
        .push_bind(account);
        q.build().execute(&mut **c).await.map(|done| done.rows_affected())
    });
    match (hit.map_err(refused)?, rows.first()) {
        (hit, Some((first, _))) if hit < rows.len() as u64 => {
            Err(StoreError::Stale { kind: first.kind, id: first.local })
        }
        _ => Ok(()),
    }
}

/// Read and written in one transaction: what was decided is about the link as it is stored, whatever was read before.
async fn rule_on_link(
    tx: &mut Tx,
    account: &str,
    (connection, kind, local): (&Name, Kind, RecordId),
    ruling: Ruling,
) -> Result<(), StoreError> {
    let locked = if matches!(tx, Tx::Postgres(_)) { " FOR UPDATE" } else { "" };
    let found: Option<link_row::Columns> = on_tx!(tx, c, Db => {
        let mut q = QueryBuilder::<Db>::new(link_row::SELECT);
        q.push(" WHERE account = ").push_bind(account).push(" AND connection = ").push_bind(connection.as_str())
            .push(" AND kind = ").push_bind(kind.as_str()).push(" AND local_id = ").push_bind(local.0).push(locked);
        q.build_query_as().fetch_optional(&mut **c).await
    })
    .map_err(refused)?;
    let Some(found) = found else { return Ok(()) };
    let mut link = link_row::link(found)?;
    link.rule(ruling);
    let body = link_row::body(&link)?;
    on_tx!(tx, c, Db => {
        sqlx::query(
            "UPDATE link SET state = $5, rulings = $6, body = $7
              WHERE account = $1 AND connection = $2 AND kind = $3 AND local_id = $4",
        )
        .bind(account).bind(connection.as_str()).bind(kind.as_str()).bind(local.0)
        .bind(link.state.as_str()).bind(link.rulings).bind(body).execute(&mut **c).await.map(|_| ())
    })
    .map_err(refused)
}

pub(super) async fn put_marks(tx: &mut Tx, account: &str, run: &[&Op]) -> Result<(), StoreError> {
    let rows: Vec<_> = run
        .iter()
        .filter_map(|op| match *op {
            Op::Mark(mark) => Some((mark, mark.key.to_string())),
            _ => None,
        })
        .collect();
    on_tx!(tx, c, Db => {
        let mut q = QueryBuilder::<Db>::new(
            "INSERT INTO dirty (account, connection, kind, rank, record_key, generation, due_at, priority, attempts) ",
        );
        q.push_values(&rows, |mut b, (mark, key)| {
            b.push_bind(account).push_bind(mark.connection.as_str()).push_bind(mark.kind.as_str()).push_bind(rank(mark.kind))
                .push_bind(key.as_str()).push_bind(1_i64).push_bind(mark.due_at).push_bind(mark.priority).push_bind(0_i64);
        });
        q.push(
            " ON CONFLICT (account, connection, kind, record_key) DO UPDATE SET generation = dirty.generation + 1,
                due_at = CASE WHEN excluded.due_at < dirty.due_at THEN excluded.due_at ELSE dirty.due_at END,
                priority = CASE WHEN excluded.priority < dirty.priority THEN excluded.priority ELSE dirty.priority END",
        );
        q.build().execute(&mut **c).await.map(|_| ())
    })
    .map_err(refused)
}

/// Parents before children.
pub(super) fn rank(kind: Kind) -> i64 {
    Kind::ALL.iter().position(|one| *one == kind).map_or(9, |place| i64::try_from(place).unwrap_or(9))
}

pub(super) async fn finish_marks(tx: &mut Tx, account: &str, run: &[&Op]) -> Result<(), StoreError> {
    let rows: Vec<_> = run
        .iter()
        .filter_map(|op| match *op {
            // A generation of 0 was never marked.
            Op::Finish { connection, dirty } if dirty.generation > 0 => {
                Some((connection, dirty, dirty.key.to_string()))
            }
            _ => None,
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    on_tx!(tx, c, Db => {
        let mut q = QueryBuilder::<Db>::new("DELETE FROM dirty WHERE account = ");
        q.push_bind(account).push(" AND (connection, kind, record_key, generation) IN (");
        q.push_values(&rows, |mut b, (connection, dirty, key)| {
            b.push_bind(connection.as_str()).push_bind(dirty.kind.as_str()).push_bind(key.as_str()).push_bind(dirty.generation);
        });
        q.push(")");
        q.build().execute(&mut **c).await.map(|_| ())
    })
    .map_err(refused)
}

pub(super) async fn add_history(tx: &mut Tx, account: &str, run: &[&Op]) -> Result<(), StoreError> {
    let mut rows = Vec::with_capacity(run.len());
    for op in run {
        if let Op::AddHistory(entry) = op {
            rows.push((entry, json(entry)?));
        }
    }
    on_tx!(tx, c, Db => {
        let mut q = QueryBuilder::<Db>::new("INSERT INTO history (account, kind, record, at, body) ");
        q.push_values(&rows, |mut b, (entry, body)| {
            b.push_bind(account).push_bind(entry.kind.as_str()).push_bind(entry.record.0).push_bind(entry.at).push_bind(body.as_str());
        });
        q.build().execute(&mut **c).await.map(|_| ())
    })
    .map_err(refused)
}

/// Operations that are rare: one statement each.
pub(super) async fn put_one(tx: &mut Tx, account: &str, op: &Op) -> Result<(), StoreError> {
    macro_rules! run {
        ($sql:literal $(, $bind:expr)*) => {
            on_tx!(tx, c, Db => { sqlx::query($sql).bind(account) $(.bind($bind))* .execute(&mut **c).await.map(|done| done.rows_affected()) })
                .map_err(refused)
        };
    }
    match op {
        Op::RuleOnLink { connection, kind, local, ruling } => {
            rule_on_link(tx, account, (connection, *kind, *local), *ruling).await?;
        }
        Op::RemoveLink { connection, kind, local } => {
            run!(
                "DELETE FROM link WHERE account = $1 AND connection = $2 AND kind = $3 AND local_id = $4",
                connection.as_str(),
                kind.as_str(),
                local.0
            )?;
        }
        Op::PutAlias { connection, kind, old, new } => {
            run!(
                "INSERT INTO alias (account, connection, kind, old_id, new_id) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (account, connection, kind, old_id) DO UPDATE SET new_id = excluded.new_id",
                connection.as_str(),
                kind.as_str(),
                old.as_str(),
                new.as_str()
            )?;
        }
        Op::Defer { connection, dirty, until, failed } => {
            run!(
                "UPDATE dirty SET due_at = $6, attempts = attempts + $7
                  WHERE account = $1 AND connection = $2 AND kind = $3 AND record_key = $4 AND generation = $5",
                connection.as_str(),
                dirty.kind.as_str(),
                dirty.key.to_string(),
                dirty.generation,
                *until,
                i64::from(*failed)
            )?;
        }
        Op::DropIntent(IntentId(id)) => {
            run!("DELETE FROM intent WHERE account = $1 AND id = $2", *id)?;
        }
        Op::PutCursor { connection, stream, cursor } => {
            run!(
                "INSERT INTO cursor (account, connection, stream, position) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (account, connection, stream) DO UPDATE SET position = excluded.position",
                connection.as_str(),
                stream.as_str(),
                cursor.0.as_str()
            )?;
        }
        Op::AddConflict(conflict) => {
            run!(
                "INSERT INTO conflict (account, id, fingerprint, state, body) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (account, fingerprint) DO NOTHING",
                conflict.id.0,
                conflict.fingerprint(),
                conflict.state.as_str(),
                json(conflict)?
            )?;
        }
        Op::PutConflict(conflict) => {
            run!(
                "UPDATE conflict SET state = $3, body = $4 WHERE account = $1 AND id = $2",
                conflict.id.0,
                conflict.state.as_str(),
                json(conflict)?
            )?;
        }
        Op::PutFailure(failure) => put_failure(tx, account, failure).await?,
        Op::DropFailures { connection, kind, key, row } => match row {
            Some(row) => {
                run!(
                    "DELETE FROM failure WHERE account = $1 AND connection = $2 AND kind = $3 AND record_key = $4 AND field = $5",
                    connection.as_str(),
                    kind.as_str(),
                    key.to_string(),
                    row.as_str()
                )?;
            }
            None => {
                run!(
                    "DELETE FROM failure WHERE account = $1 AND connection = $2 AND kind = $3 AND record_key = $4",
                    connection.as_str(),
                    kind.as_str(),
                    key.to_string()
                )?;
            }
        },
        Op::PutPipeline(pipeline, place) => {
            let hit = run!(
                "INSERT INTO pipeline (account, id, place, version, body) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (account, id) DO UPDATE SET place = excluded.place, version = excluded.version,
                  body = excluded.body
                  WHERE pipeline.version = excluded.version - 1",
                pipeline.id.0,
                *place,
                pipeline.version,
                json(pipeline)?
            )?;
            if hit == 0 {
                return Err(StoreError::Outdated(format!("pipeline {}", pipeline.label)));
            }
        }
        Op::PutStageMap(map) => {
            run!(
                "INSERT INTO stage_map (account, connection, remote_pipeline, remote_stage, body) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (account, connection, remote_pipeline, remote_stage) DO UPDATE SET body = excluded.body",
                map.connection.as_str(), map.remote_pipeline.as_str(), map.remote_stage.as_str(), json(map)?
            )?;
        }
        Op::PutConnection(row) => {
            let hit = run!(
                "INSERT INTO connection (account, name, version, body) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (account, name) DO UPDATE SET version = excluded.version, body = excluded.body
                  WHERE connection.version = excluded.version - 1",
                row.name.as_str(),
                row.version,
                json(row)?
            )?;
            if hit == 0 {
                return Err(StoreError::Outdated(format!("connection {}", row.name)));
            }
        }
        Op::PutEvidence(evidence) => {
            let hit = run!(
                "INSERT INTO evidence (account, connection, sale, version, state, opportunity, sold_at, body)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
                 ON CONFLICT (account, connection, sale) DO UPDATE SET version = excluded.version,
                  state = excluded.state, opportunity = excluded.opportunity, sold_at = excluded.sold_at,
                  body = excluded.body
                  WHERE evidence.version = excluded.version - 1",
                evidence.connection.as_str(),
                evidence.sale.as_str(),
                evidence.version,
                evidence.state.as_str(),
                evidence.opportunity.map(|id| id.0),
                evidence.sold_at,
                json(evidence)?
            )?;
            if hit == 0 {
                return Err(StoreError::Outdated(format!("sale {}", evidence.id())));
            }
        }
        Op::KeepCheckout { connection, new, asked_at } => {
            run!(
                "INSERT INTO checkout (account, connection, wish, asked_at, body) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (account, connection, wish) DO NOTHING",
                connection.as_str(),
                new.key.as_str(),
                asked_at,
                json(new)?
            )?;
        }
        Op::DropCheckout { connection, key } => {
            run!(
                "DELETE FROM checkout WHERE account = $1 AND connection = $2 AND wish = $3",
                connection.as_str(),
                key.as_str()
            )?;
        }
        Op::KeepEvent { connection, event, taken_at } => {
            run!(
                "INSERT INTO event (account, connection, event, taken_at) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (account, connection, event) DO NOTHING",
                connection.as_str(),
                event.as_str(),
                taken_at
            )?;
        }
        Op::DropOld { now } => {
            run!("DELETE FROM event WHERE account = $1 AND taken_at < $2", *now - EVENTS_KEPT)?;
            run!("DELETE FROM checkout WHERE account = $1 AND asked_at < $2", *now - CHECKOUTS_KEPT)?;
        }
        Op::BeginBooking { opportunity, now, until } => {
            let hit = run!(
                "INSERT INTO booking (account, opportunity, until) VALUES ($1, $2, $4)
                 ON CONFLICT (account, opportunity) DO UPDATE SET until = excluded.until WHERE booking.until <= $3",
                opportunity.to_string(),
                now,
                until
            )?;
            if hit == 0 {
                return Err(StoreError::Outdated(format!("booking of {opportunity}")));
            }
        }
        Op::EndBooking { opportunity, until } => {
            run!(
                "DELETE FROM booking WHERE account = $1 AND opportunity = $2 AND until = $3",
                opportunity.to_string(),
                until
            )?;
        }
        Op::PutVisit(visit) => {
            let hit = run!(
                "INSERT INTO visit (account, connection, visit, version, body) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (account, connection, visit) DO UPDATE SET version = excluded.version, body = excluded.body
                  WHERE visit.version = excluded.version - 1",
                visit.connection.as_str(),
                visit.visit.as_str(),
                visit.version,
                json(visit)?
            )?;
            if hit == 0 {
                return Err(StoreError::Outdated(format!("visit {}", visit.id())));
            }
            run!(
                "DELETE FROM visitor WHERE account = $1 AND connection = $2 AND visit = $3",
                visit.connection.as_str(),
                visit.visit.as_str()
            )?;
            for contact in &visit.contacts {
                run!(
                    "INSERT INTO visitor (account, contact, connection, visit) VALUES ($1, $2, $3, $4)
                     ON CONFLICT (account, contact, connection, visit) DO NOTHING",
                    contact.0,
                    visit.connection.as_str(),
                    visit.visit.as_str()
                )?;
            }
        }
        Op::PutGuard(event) => {
            run!(
                "INSERT INTO guard_event (account, connection, class, body) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (account, connection, class) DO UPDATE SET body = excluded.body",
                event.connection.as_str(),
                event.class.as_str(),
                json(event)?
            )?;
        }
        Op::PutRecord { .. }
        | Op::PutLink { .. }
        | Op::UpdateLink(_)
        | Op::Mark(_)
        | Op::Finish { .. }
        | Op::AddHistory(_)
        | Op::PutIntent(_) => {}
    }
    Ok(())
}

async fn put_failure(tx: &mut Tx, account: &str, failure: &Failure) -> Result<(), StoreError> {
    let key = (failure.connection.as_str(), failure.kind.as_str(), failure.key.as_str(), failure.row.as_str());
    let old: Option<(String,)> = on_tx!(tx, c, Db => {
        sqlx::query_as("SELECT body FROM failure WHERE account = $1 AND connection = $2 AND kind = $3 AND record_key = $4 AND field = $5")
            .bind(account).bind(key.0).bind(key.1).bind(key.2).bind(key.3).fetch_optional(&mut **c).await
    })
    .map_err(refused)?;
    let next = match old {
        Some((body,)) => {
            let old: Failure = parse("failure", key.2, &body)?;
            Failure { id: old.id, first_at: old.first_at, attempts: old.attempts + 1, ..failure.clone() }
        }
        None => failure.clone(),
    };
    let body = json(&next)?;
    on_tx!(tx, c, Db => {
        sqlx::query(
            "INSERT INTO failure (account, id, connection, kind, record_key, field, body) VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (account, connection, kind, record_key, field) DO UPDATE SET body = excluded.body",
        )
        .bind(account).bind(next.id.0).bind(key.0).bind(key.1).bind(key.2).bind(key.3).bind(body)
        .execute(&mut **c).await.map(|_| ())
    })
    .map_err(refused)
}
