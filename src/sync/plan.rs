//! The plan: what one linked pair of records needs, decided from base, local and remote, field by field.
//!
//! Pure: no clock, no I/O. The same values always give the same plan. The table:
//!
//! | local ≠ base | remote ≠ base | agree | step |
//! |---|---|---|---|
//! | no | no | | nothing |
//! | no | yes | | take the remote value in |
//! | yes | no | yes | move the base |
//! | yes | no | no | push the local value out |
//! | yes | yes | yes | move the base |
//! | yes | yes | no | conflict: the row's rule decides, both values are kept |

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use tandem_contract::{
    History, Record, Statement, Value,
    planted::{self, Bug},
};

use super::{
    lens::{Codec, Context, Direction, Lens, Need, Row, Rule, Unfit, higher},
    position,
};
use crate::model::{Base, Hold, HoldKind, Intent, IntentRow, Link, LocalRecord, Winner, link::Rewrites};

/// What happens when two records meet that never agreed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFirstLink {
    /// Each side fills the other's blanks; where both have something, the row's rule decides.
    #[default]
    FillBlanks,
    /// Ours.
    PreferLocal,
    /// The vendor's.
    PreferRemote,
    /// The later.
    Newest,
}

/// Two statements nearer than this are taken to be at the same time.
const UNCERTAIN: TimeDelta = TimeDelta::milliseconds(1_500);
/// How much earlier than we sent it, by the vendor's clock, a statement may be and still be our own.
const SLACK: TimeDelta = TimeDelta::seconds(60);
/// How often a row may be rewritten to the same value in a day before we stop fighting.
const REWRITES: u32 = 3;

/// A row whose value at the vendor cannot be read.
pub(super) const UNREAD: &str = "unread";
/// What people are told of it.
pub(super) const UNREAD_TEXT: &str = "the vendor does not show what it has here, so ours is not written over it: let the user whose credentials Tandem has see it there, or correct it there by hand";

/// Everything the plan may look at.
pub struct Snapshot<'a> {
    /// The rows.
    pub lens: &'a Lens,
    /// Pipelines, owners, people.
    pub context: Context<'a>,
    /// The link, unless the two have just met.
    pub link: Option<&'a Link>,
    /// Our record.
    pub local: &'a LocalRecord,
    /// Theirs.
    pub remote: &'a Record,
    /// An open intent, whose outcome is not known.
    pub intent: Option<&'a Intent>,
    /// The vendor's statements, where they were asked for.
    pub history: Option<&'a History>,
    /// Rows on hold for a person, with what the person decided meanwhile.
    pub answers: &'a BTreeMap<String, Winner>,
    /// What happens on first contact.
    pub on_first_link: OnFirstLink,
    /// False while nothing may be written: a late write may still land, or the connection only reads.
    pub may_push: bool,
    /// The vendor's clock minus ours.
    pub skew: TimeDelta,
    /// When this is planned.
    pub now: DateTime<Utc>,
}

/// A conflict found.
#[derive(Clone, Debug, PartialEq)]
pub struct Clash {
    /// Which row.
    pub row: String,
    /// Its fields.
    pub fields: Vec<String>,
    /// What both agreed on last.
    pub base: Vec<Value>,
    /// What we said.
    pub local: Vec<Value>,
    /// What they said, in our terms.
    pub remote: Vec<Value>,
    /// Who won.
    pub winner: Winner,
    /// By which rule.
    pub rule: &'static str,
}

/// What one pair of records needs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldPlan {
    /// Local values to store: row, values, and when the vendor stated them.
    pub takes: Vec<(String, Vec<String>, Vec<Value>, Option<DateTime<Utc>>)>,
    /// Rows to write at the vendor.
    pub pushes: BTreeMap<String, IntentRow>,
    /// Rows whose base moves now.
    pub base: BTreeMap<String, Base>,
    /// Rows that go on hold, and rows that come off it.
    pub holds: BTreeMap<String, Option<Hold>>,
    /// Conflicts to record.
    pub clashes: Vec<Clash>,
    /// Rows that a person must see: row, code, text.
    pub failures: Vec<(String, &'static str, String)>,
    /// Records that must come first.
    pub needs: Vec<Need>,
    /// True if a decision waits for the vendor's history.
    pub needs_history: bool,
    /// True if something is to be written and may not be yet.
    pub waits: bool,
    /// Rows that were changed here and could not be read there: they are looked at again.
    pub unread: Vec<String>,
    /// True if what was taken in is to be answered: the record is to be planned once more.
    pub unsaid: bool,
    /// True if people at the vendor say that it is won, as a sale says here.
    pub also_won: bool,
}

/// Plans one pair.
#[must_use]
pub fn plan(snapshot: &Snapshot<'_>) -> FieldPlan {
    let mut plan = FieldPlan::default();
    let mut trial = None;
    for row in &snapshot.lens.rows {
        Planner { snapshot, row, plan: &mut plan, trial: &mut trial }.plan_row();
    }
    plan
}

/// The vendor's values of a row; `None` if it does not have one of the properties: that clears nothing.
#[must_use]
pub fn remote_values(row: &Row, remote: &Record) -> Option<Vec<Value>> {
    let values: Vec<Value> = row.properties.iter().map(|(name, _)| remote.property(name)).collect();
    (!values.contains(&Value::Absent)).then_some(values)
}

struct Planner<'a, 's> {
    snapshot: &'a Snapshot<'s>,
    row: &'a Row,
    plan: &'a mut FieldPlan,
    /// A copy of our record, on which values that are taken in are tried.
    trial: &'a mut Option<LocalRecord>,
}

impl Planner<'_, '_> {
    fn plan_row(&mut self) {
        let (row, s) = (self.row, self.snapshot);
        if self.is_at_rest() {
            return;
        }
        let local = s.local.values(&row.fields);
        let Some(remote) = remote_values(row, s.remote) else {
            let base = s.link.and_then(|link| link.base.get(&row.name));
            match base {
                _ if row.direction == Direction::In => {}
                Some(base) if base.0 != local => self.plan.unread.push(row.name.clone()),
                // Nobody changed it since the two met; once it can be read, it is a first contact.
                None if s.link.is_some()
                    && s.may_push
                    && self.is_known_there()
                    && !local.iter().all(Value::is_blank) =>
                {
                    self.plan.failures.push((row.name.clone(), UNREAD, UNREAD_TEXT.to_owned()));
                }
                _ => {}
            }
            return;
        };
        let mut base = s.link.and_then(|link| link.base.get(&row.name)).cloned();
        if let Some(ours) = s.intent.and_then(|intent| intent.rows.get(&row.name)) {
            // Our own write, acknowledged only now.
            if row.same(&ours.local, &remote, s.context) {
                base = Some(Base(ours.local.clone(), remote.clone()));
                self.plan.base.insert(row.name.clone(), Base(ours.local.clone(), remote.clone()));
            }
        }
        if let Some(hold) = s.link.and_then(|link| link.holds.get(&row.name))
            && self.is_held(hold, &local, &remote)
        {
            return;
        }
        match base {
            Some(base) => self.merge(&base, local, remote),
            None => self.first_contact(local, remote),
        }
    }

    /// True if the vendor has such properties at all: that one does not is no matter of single records.
    fn is_known_there(&self) -> bool {
        let directory = self.snapshot.context.directory;
        self.row.properties.iter().all(|(name, _)| directory.has_property(name))
    }

    /// True if nothing is to be done, as for most rows of most records: neither side moved, and nothing is under way.
    fn is_at_rest(&self) -> bool {
        let (row, s) = (self.row, self.snapshot);
        let Some(link) = s.link.filter(|link| !link.holds.contains_key(&row.name)) else { return false };
        let Some(Base(ours, theirs)) = link.base.get(&row.name) else { return false };
        let is_written = s.intent.is_some_and(|intent| intent.rows.contains_key(&row.name));
        // A bug that is planted in the comparison is to be met.
        !is_written
            && !planted::has(Bug::OneSidedBase)
            && row.properties.len() == theirs.len()
            && row.properties.iter().zip(theirs).all(|((name, _), value)| s.remote.says(name, value))
            && s.local.says(&row.fields, ours)
    }

    /// True if the row stays on hold.
    fn is_held(&mut self, hold: &Hold, local: &[Value], remote: &[Value]) -> bool {
        let (row, s) = (self.row, self.snapshot);
        let unchanged = hold.local == local && hold.remote == remote;
        match hold.kind {
            HoldKind::Frozen => match s.answers.get(&row.name) {
                None => true,
                Some(answer) => {
                    self.obey(*answer, local, remote);
                    true
                }
            },
            HoldKind::Parked | HoldKind::Guarded => {
                if !unchanged {
                    self.plan.holds.insert(row.name.clone(), None);
                }
                unchanged
            }
            HoldKind::Ask => {
                if row.same(local, remote, s.context) {
                    self.plan.holds.insert(row.name.clone(), None);
                    self.rebase(local.to_vec(), remote.to_vec());
                } else if let Some(answer) = s.answers.get(&row.name) {
                    self.obey(*answer, local, remote);
                }
                true
            }
        }
    }

    /// Carries out what a person decided.
    fn obey(&mut self, answer: Winner, local: &[Value], remote: &[Value]) {
        self.plan.holds.insert(self.row.name.clone(), None);
        match answer {
            Winner::Remote => self.take_in(local, remote),
            _ => {
                // From now on theirs is what we saw and ours has moved: should this write fail, the next try is a plain push.
                self.plan.base.insert(self.row.name.clone(), Base(Vec::new(), remote.to_vec()));
                self.push_out(local.to_vec(), remote.to_vec());
            }
        }
    }

    fn merge(&mut self, base: &Base, local: Vec<Value>, remote: Vec<Value>) {
        let ours_moved = local != base.0;
        let theirs_moved = if planted::has(Bug::OneSidedBase) {
            self.row.get(&remote, &local, self.snapshot.context).is_ok_and(|theirs| theirs != base.0)
        } else {
            remote != base.1
        };
        match (ours_moved, theirs_moved) {
            (false, false) => {}
            (_, true) if is_settled(self.row, self.snapshot.local) => {
                self.decide(Rule::Evidence, base.0.clone(), local, remote)
            }
            _ if self.row.same(&local, &remote, self.snapshot.context) && ours_moved => {
                self.plan.also_won |= theirs_moved && is_position(self.row) && is_won_by_sale(self.snapshot.local);
                self.rebase(local, remote);
            }
            // One way only: what the other side said is replaced, and kept in a conflict.
            (_, true) if self.row.direction == Direction::Out => {
                self.decide(Rule::PreferLocal, base.0.clone(), local, remote)
            }
            (true, _) if self.row.direction == Direction::In => {
                self.decide(Rule::PreferRemote, base.0.clone(), local, remote)
            }
            (false, true) => self.take_in(&local, &remote),
            (true, false) => self.push_out(local, remote),
            (true, true) => self.conflict(base.0.clone(), local, remote),
        }
    }

    fn first_contact(&mut self, local: Vec<Value>, remote: Vec<Value>) {
        let blank = |values: &[Value]| match self.row.codec {
            // Every record has a status; a position without a stage says nothing.
            Codec::Position | Codec::StatusPosition => values[0].is_blank() || values[1].is_blank(),
            Codec::Money => values[0].is_blank(),
            _ => values.iter().all(Value::is_blank),
        };
        let (ours, theirs) = (blank(&local), blank(&remote));
        // A row that the vendor fills in agrees with a blank of ours, and yet says something that we do not have.
        let news = ours && !theirs && self.row.direction != Direction::Out;
        if !news && self.row.same(&local, &remote, self.snapshot.context) {
            return self.rebase(local, remote);
        }
        let s = self.snapshot;
        match (self.row.direction, s.on_first_link) {
            (Direction::In, _) if !is_kept(self.row, s.local) => self.take_in(&local, &remote),
            (Direction::In, _) => self.decide(Rule::PreferRemote, Vec::new(), local, remote),
            // What nobody said here replaces nothing there, and what it replaces is kept in a conflict.
            (Direction::Out, _) if ours => self.rebase(local, remote),
            (Direction::Out, _) if theirs => self.push_out(local, remote),
            (Direction::Out, _) => self.decide(Rule::PreferLocal, Vec::new(), local, remote),
            (_, OnFirstLink::PreferRemote) => self.decide(Rule::PreferRemote, Vec::new(), local, remote),
            (_, OnFirstLink::PreferLocal) => self.decide(Rule::PreferLocal, Vec::new(), local, remote),
            _ if ours => self.take_in(&local, &remote),
            _ if theirs => self.push_out(local, remote),
            (_, OnFirstLink::Newest) => self.decide(Rule::Newest, Vec::new(), local, remote),
            (_, OnFirstLink::FillBlanks) => self.conflict(Vec::new(), local, remote),
        }
    }

    fn conflict(&mut self, base: Vec<Value>, local: Vec<Value>, remote: Vec<Value>) {
        self.decide(self.row.rule, base, local, remote);
    }

    fn decide(&mut self, rule: Rule, base: Vec<Value>, local: Vec<Value>, remote: Vec<Value>) {
        let (row, s) = (self.row, self.snapshot);
        let theirs = match row.get(&remote, &local, s.context) {
            Ok(theirs) => theirs,
            Err(unfit) => return self.unfit(unfit, &local, &remote),
        };
        // Both say won, each with its own close date.
        self.plan.also_won |= is_position(row) && is_won_by_sale(s.local) && position::is_won(&theirs);
        let is_evidence = lowers_a_sale(row, s.local, &theirs) || is_settled(row, s.local);
        let rule = if is_evidence { Rule::Evidence } else { rule };
        if rule == Rule::Evidence && row.direction == Direction::In {
            // It is not to be told there.
            return self.rebase(local, remote);
        }
        let mut joined = None;
        let winner = match rule {
            Rule::PreferLocal | Rule::Evidence => Winner::Local,
            Rule::PreferRemote => Winner::Remote,
            Rule::Ask => Winner::Nobody,
            Rule::ForwardOnly if s.context.directory.is_further(&theirs, &local) => Winner::Remote,
            Rule::ForwardOnly => Winner::Local,
            Rule::Highest => match higher(&local[0], &theirs[0]) {
                Some(high) if high == theirs[0] => Winner::Remote,
                _ => Winner::Local,
            },
            Rule::Union => {
                if let (Value::Choices(a), Value::Choices(b)) = (&local[0], &theirs[0]) {
                    joined = Some(vec![Value::Choices(a.union(b).cloned().collect())]);
                    Winner::Both
                } else {
                    Winner::Local
                }
            }
            Rule::Newest => match self.newest() {
                Some(winner) => winner,
                None => {
                    self.plan.needs_history = true;
                    return;
                }
            },
        };
        self.plan.clashes.push(Clash {
            row: row.name.clone(),
            fields: row.fields.clone(),
            base,
            local: local.clone(),
            remote: theirs.clone(),
            winner,
            rule: rule.as_str(),
        });
        match (winner, joined) {
            (Winner::Remote, _) => self.take_in(&local, &remote),
            (Winner::Nobody, _) => self.hold(HoldKind::Ask, local, remote),
            (Winner::Both, Some(joined)) => {
                if s.may_push {
                    self.plan.takes.push((row.name.clone(), row.fields.clone(), joined.clone(), None));
                }
                self.push_out(joined, remote);
            }
            _ => self.push_out(local, remote),
        }
    }

    /// Whose statement is later; `None` if the vendor's history is needed and was not asked for yet.
    fn newest(&self) -> Option<Winner> {
        let s = self.snapshot;
        let history = s.history?;
        let ours = s.local.stamped(&self.row.fields).map(|stamp| stamp.at);
        let theirs = latest(self.row, history).map(|statement| statement.at - s.skew);
        Some(later(ours, theirs))
    }

    fn take_in(&mut self, local: &[Value], remote: &[Value]) {
        let (row, s) = (self.row, self.snapshot);
        match row.get(remote, local, s.context) {
            Ok(mut values) => {
                let stated = s.history.and_then(|history| latest(row, history)).map(|statement| statement.at - s.skew);
                let stated = stated.or_else(|| s.remote.version.updated_at.map(|at| at - s.skew));
                // Of two that only meet now nothing is completed: a first import writes nothing back.
                let agreed = s.link.is_some_and(|link| link.base.contains_key(&row.name));
                let at = stated.unwrap_or(s.now);
                match row.codec {
                    Codec::Position if agreed => position::complete(&mut values, local, remote, at),
                    Codec::StatusPosition if agreed => drop(position::close(&mut values, at)),
                    _ => {}
                }
                // A value that does not fit our own field is set aside, and the rest of the record goes on.
                let trial = self.trial.get_or_insert_with(|| s.local.clone());
                if let Err(invalid) = trial.try_set(&row.fields, &values) {
                    return self.unfit(
                        Unfit::Park("invalid", format!("{invalid}; correct it at the vendor")),
                        local,
                        remote,
                    );
                }
                if values != local {
                    self.plan.takes.push((row.name.clone(), row.fields.clone(), values.clone(), stated));
                }
                if row.direction != Direction::In && !row.same(&values, remote, s.context) {
                    // More than the vendor said: it is told so next, as by an edit of ours.
                    self.plan.unsaid = true;
                    return self.rebase(Vec::new(), remote.to_vec());
                }
                self.rebase(values, remote.to_vec());
            }
            Err(unfit) => self.unfit(unfit, local, remote),
        }
    }

    fn rebase(&mut self, local: Vec<Value>, remote: Vec<Value>) {
        self.plan.base.insert(self.row.name.clone(), Base(local, remote));
    }

    fn push_out(&mut self, local: Vec<Value>, remote: Vec<Value>) {
        let (row, s) = (self.row, self.snapshot);
        let want = match row.put(&local, &remote, s.context) {
            Ok(want) => want,
            Err(unfit) => return self.unfit(unfit, &local, &remote),
        };
        if want == remote {
            return self.rebase(local, remote);
        }
        if !s.may_push {
            self.plan.waits = true;
            return;
        }
        let rewrites = s.link.and_then(|link| link.rewrites.get(&row.name));
        let fought = |r: &Rewrites| r.value == want && r.count >= REWRITES && s.now - r.since < TimeDelta::hours(24);
        // A person who says so is obeyed.
        if rewrites.is_some_and(fought) && !s.answers.contains_key(&row.name) {
            let theirs = row.get(&remote, &local, s.context).unwrap_or_default();
            self.plan.clashes.push(Clash {
                row: row.name.clone(),
                fields: row.fields.clone(),
                base: Vec::new(),
                local: local.clone(),
                remote: theirs,
                winner: Winner::Nobody,
                rule: "frozen",
            });
            return self.hold(HoldKind::Frozen, local, remote);
        }
        self.plan.pushes.insert(row.name.clone(), IntentRow { local, seen: remote, want });
    }

    fn hold(&mut self, kind: HoldKind, local: Vec<Value>, remote: Vec<Value>) {
        self.plan.holds.insert(self.row.name.clone(), Some(Hold { kind, local, remote, conflict: None }));
    }

    fn unfit(&mut self, unfit: Unfit, local: &[Value], remote: &[Value]) {
        match unfit {
            Unfit::Wait(need) => self.plan.needs.push(need),
            Unfit::Park(code, message) => {
                self.plan.failures.push((self.row.name.clone(), code, message));
                self.hold(HoldKind::Parked, local.to_vec(), remote.to_vec());
            }
        }
    }
}

/// True for the row that says where an opportunity stands.
pub(super) fn is_position(row: &Row) -> bool {
    matches!(row.codec, Codec::Position | Codec::StatusPosition)
}

/// True for a value that no CRM changes: a plan's price, or what the till said in an account where nobody else says it.
fn is_settled(row: &Row, local: &LocalRecord) -> bool {
    row.codec == Codec::Money
        && local.as_opportunity().is_some_and(|deal| deal.value_source.is_settled() && deal.value.is_some())
}

/// True for what is not replaced unasked: that a sale won it, or what it is worth where no CRM says that.
fn is_kept(row: &Row, local: &LocalRecord) -> bool {
    is_settled(row, local) || (is_position(row) && is_won_by_sale(local))
}

fn is_won_by_sale(local: &LocalRecord) -> bool {
    local.as_opportunity().is_some_and(|deal| deal.won_by_sale)
}

/// True if theirs, which both sides came to without knowing of one another, would open or lose what a sale won: it was said
/// of the record as it stood before. Who knows of the sale and opens the record again changes what both agree on.
fn lowers_a_sale(row: &Row, local: &LocalRecord, theirs: &[Value]) -> bool {
    is_position(row) && is_won_by_sale(local) && !position::is_won(theirs)
}

/// The latest statement of a row's properties.
fn latest<'h>(row: &Row, history: &'h History) -> Option<&'h Statement> {
    row.properties.iter().filter_map(|(name, _)| history.get(name)?.first()).max_by_key(|statement| statement.at)
}

/// The later side; ours if they cannot be told apart.
fn later(ours: Option<DateTime<Utc>>, theirs: Option<DateTime<Utc>>) -> Winner {
    match (ours, theirs) {
        (Some(ours), Some(theirs)) if theirs - ours > UNCERTAIN => Winner::Remote,
        (None, Some(_)) => Winner::Remote,
        _ => Winner::Local,
    }
}

/// An edit of somebody else's that a write of ours replaced without having seen it.
#[derive(Clone, Debug, PartialEq)]
pub struct Overwrite {
    /// What happened to it.
    pub clash: Clash,
    /// If the rule says theirs wins: what we are to say, and when it was stated.
    pub revert: Option<(Vec<Value>, DateTime<Utc>)>,
}

/// The statement of ours in a property's history, newest first, as far back as the write can have landed.
///
/// A property that is written only because its row merges as one keeps its value, and the vendor may not record that
/// as a statement: then only one that is surely later than the request is taken for ours.
fn own_statement(
    intent: &Intent,
    statements: &[Statement],
    seen: &Value,
    want: &Value,
    skew: TimeDelta,
) -> Option<usize> {
    let slack = if seen == want { UNCERTAIN } else { SLACK };
    let recent = |at: DateTime<Utc>| intent.sent_at.is_none_or(|sent| at - skew >= sent - slack);
    let by_time = statements.iter().position(|one| alike(&one.value, want) && recent(one.at));
    // Where the vendor's clock is not known, the order tells: ours came after what we had seen.
    let by_order = || {
        let had_seen = statements.iter().position(|one| alike(&one.value, seen));
        // What was never set has no statement.
        let had_seen = had_seen.or_else(|| seen.is_blank().then_some(statements.len()))?;
        statements[..had_seen].iter().position(|one| alike(&one.value, want))
    };
    by_time.or_else(|| if seen == want { None } else { by_order() })
}

/// The same, but for what vendors do to a value when they store it: trimming, rounding a time, blank for nothing.
fn alike(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Text(a), Value::Text(b)) => a.trim() == b.trim(),
        (Value::Time(a), Value::Time(b)) => (*a - *b).num_milliseconds() == 0,
        _ => a == b || (a.is_blank() && b.is_blank()),
    }
}

/// Looks in the vendor's history for edits that our write replaced: statements right before ours that we had not seen
/// when it was planned. A row merges as one, so all its properties are looked at, and what was replaced is the whole
/// row as it stood then.
#[must_use]
pub fn overwrites(
    intent: &Intent,
    lens: &Lens,
    history: &History,
    local: &LocalRecord,
    context: Context<'_>,
    skew: TimeDelta,
) -> Vec<Overwrite> {
    let mut found = Vec::new();
    if planted::has(Bug::ForeignCheckOff) {
        return found;
    }
    for row in &lens.rows {
        let Some(written) = intent.rows.get(&row.name) else { continue };
        let mut foreign = written.seen.clone();
        let mut stated: Option<DateTime<Utc>> = None;
        for (index, (property, _)) in row.properties.iter().enumerate() {
            let (seen, want) = (&written.seen[index], &written.want[index]);
            let is_composite = row.properties.len() > 1;
            if seen == want && !is_composite {
                continue;
            }
            let Some(statements) = history.get(property) else { continue };
            let Some(ours) = own_statement(intent, statements, seen, want, skew) else { continue };
            let Some(before) = statements.get(ours + 1) else { continue };
            if !alike(&before.value, seen) {
                foreign[index] = before.value.clone();
                stated = stated.max(Some(before.at));
            }
        }
        let Some(stated) = stated else { continue };
        // What cannot be said in our terms is kept as the vendor said it, and ours stands.
        let mapped = row.get(&foreign, &written.local, context);
        let is_mapped = mapped.is_ok();
        let theirs = mapped.unwrap_or_else(|_| foreign.clone());
        let mut joined = None;
        let ours_at = local.stamped(&row.fields).map(|stamp| stamp.at);
        let is_evidence = is_settled(row, local) || (is_mapped && lowers_a_sale(row, local, &theirs));
        let rule = if is_evidence { Rule::Evidence } else { row.rule };
        let winner = match rule {
            _ if !is_mapped => Winner::Local,
            Rule::Ask => Winner::Nobody,
            Rule::Union => match (&written.local[0], &theirs[0]) {
                (Value::Choices(a), Value::Choices(b)) => {
                    joined = Some(vec![Value::Choices(a.union(b).cloned().collect())]);
                    Winner::Both
                }
                _ => Winner::Local,
            },
            Rule::PreferRemote => Winner::Remote,
            Rule::Newest => later(ours_at, Some(stated - skew)),
            Rule::ForwardOnly if context.directory.is_further(&theirs, &written.local) => Winner::Remote,
            Rule::Highest if higher(&written.local[0], &theirs[0]).is_some_and(|high| high == theirs[0]) => {
                Winner::Remote
            }
            _ => Winner::Local,
        };
        let base = row.get(&written.seen, &written.local, context).unwrap_or_default();
        found.push(Overwrite {
            clash: Clash {
                row: row.name.clone(),
                fields: row.fields.clone(),
                base,
                local: written.local.clone(),
                remote: theirs.clone(),
                winner,
                rule: rule.as_str(),
            },
            // Only while we still say what we wrote: a later edit of ours stands on its own.
            revert: match winner {
                _ if local.values(&row.fields) != written.local => None,
                Winner::Remote => Some((theirs, stated)),
                Winner::Both => joined.map(|joined| (joined, stated)),
                Winner::Local | Winner::Nobody => None,
            },
        });
    }
    found
}
