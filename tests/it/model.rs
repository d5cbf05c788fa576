//! The merge that ships, driven through every interleaving of a small world.
//!
//! One field, our record (the hub) and one to three vendors (spokes). Edits of people on any side, our reads, plans,
//! writes and commits, a crash, and requests that land after their sender died are interleaved in every order, breadth
//! first. From every state in which the edits are spent and nothing is in flight the engine runs until it is quiet; then
//! nothing may be lost, nothing may differ, nothing may have been invented, and an edit of ours alone may not be undone.
//!
//! What the merge decides is [`plan`] and [`overwrites`], as they ship. The glue around them is as short here as it can
//! be: what is kept over a crash, and when an intent ends. Each ingredient of the design can be left out; then the table
//! must show what it is for.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};
use tandem::{
    model::{
        Base, Currency, Intent, IntentOp, IntentRow, IntentState, Link, LinkState, LocalRecord, Opportunity, RecordId,
        Stamp,
        ids::{IntentId, RunId},
    },
    sync::{
        lens::{Codec, Context, Direction, Directory, Lens, People, Row, Rule},
        plan::{OnFirstLink, Snapshot, overwrites, plan},
    },
};
use tandem_contract::{ExternalId, History, Kind, PropertyType, Record, Statement, Value, Version};
use uuid::Uuid;

/// What a vendor makes of a text when it stores it.
type Norm = fn(&str) -> String;

fn exact(text: &str) -> String {
    text.to_owned()
}
fn trims_end(text: &str) -> String {
    text.trim_end().to_owned()
}
fn trims_start(text: &str) -> String {
    text.trim_start().to_owned()
}
/// No canoniser of the lens covers this one.
fn lowers(text: &str) -> String {
    text.to_lowercase()
}

/// An ingredient of the design that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    ForeignCheck,
    CheckInRecovery,
    Intent,
    TwoSidedBase,
    LateWindow,
}

/// A value: its place in the table of texts.
type V = u8;

/// A set of values.
type Set = u32;

fn of(value: V) -> Set {
    1 << value
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Phase {
    Idle,
    Fetched,
    Planned,
    Written,
}

/// The durable intent of a write: what is wanted, what we said, what we had seen.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Sent {
    want: V,
    ours: V,
    seen: V,
    landed: bool,
    /// What it replaced at the vendor without having seen it: the vendor's history tells.
    over: Option<V>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Spoke {
    remote: V,
    base: (V, V),
    phase: Phase,
    seen: V,
    /// Whether something could still land when the read began.
    read_open: bool,
    sent: Option<Sent>,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    hub: V,
    /// Values in our field history.
    history: Set,
    /// Values in conflicts.
    conflicts: Set,
    spokes: Vec<Spoke>,
    edits: u8,
    crashes: u8,
    /// Requests whose sender died: spoke, value.
    flying: Vec<(usize, V)>,
    /// Edits that nobody overwrote knowingly, and every value that was ever typed.
    standing: Set,
    typed: Set,
    /// The last edit, if all were ours.
    ours_last: Option<Option<V>>,
}

/// What a transaction decided.
#[derive(Clone, Copy)]
struct Decision {
    take: Option<V>,
    push: Option<V>,
    base: Option<(V, V)>,
    kept: Set,
}

struct World {
    texts: Vec<String>,
    norms: Vec<Norm>,
    vals: Vec<V>,
    without: Without,
    decided: HashMap<(V, (V, V), V, Option<Sent>, bool), Decision>,
    lens: Lens,
    directory: Directory,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    states: usize,
    ends: usize,
    never_quiet: usize,
    diverged: usize,
    lost: usize,
    invented: usize,
    rolled_back: usize,
    most_writes: usize,
}

impl Found {
    fn is_clean(&self) -> bool {
        self.never_quiet + self.diverged + self.lost + self.invented + self.rolled_back == 0
    }
}

fn instant(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_300_000 + seconds, 0).unwrap()
}

impl World {
    fn new(norms: &[Norm], vals: &[&str], remote_wins: bool, without: Without) -> Self {
        let mut texts = vec!["0".to_owned()];
        let mut place = |text: String| match texts.iter().position(|known| *known == text) {
            Some(place) => place as V,
            None => {
                texts.push(text);
                (texts.len() - 1) as V
            }
        };
        let vals: Vec<V> = vals.iter().map(|text| place((*text).to_owned())).collect();
        // Everything a vendor may make of them, and of what it made.
        for _ in 0..2 {
            for index in 0..texts.len() {
                for norm in norms {
                    let text = norm(&texts[index]);
                    if !texts.contains(&text) {
                        texts.push(text);
                    }
                }
            }
        }
        let row = Row {
            name: "name".into(),
            fields: vec!["name".into()],
            properties: vec![("dealname".into(), PropertyType::Text)],
            required: false,
            codec: Codec::Plain,
            rule: if remote_wins { Rule::PreferRemote } else { Rule::PreferLocal },
            direction: Direction::Both,
        };
        Self {
            texts,
            norms: norms.to_vec(),
            vals,

            without,
            decided: HashMap::new(),
            lens: Lens { kind: Kind::Deal, rows: vec![row] },
            directory: Directory::new("vendor", chrono_tz::UTC, Currency::new("USD").unwrap(), Vec::new()),
        }
    }

    fn norm(&self, spoke: usize, value: V) -> V {
        let text = (self.norms[spoke])(&self.texts[value as usize]);
        self.texts.iter().position(|known| *known == text).unwrap() as V
    }

    fn value(&self, value: V) -> Value {
        Value::text(&self.texts[value as usize])
    }

    fn place(&self, value: &Value) -> V {
        self.texts.iter().position(|text| Value::text(text) == *value).unwrap() as V
    }

    /// The plan as it ships, and what the vendor's history adds to it.
    fn decide(&mut self, hub: V, base: (V, V), seen: V, sent: Option<Sent>, open: bool) -> Decision {
        let key = (hub, base, seen, sent, open);
        if let Some(decision) = self.decided.get(&key) {
            return *decision;
        }
        let decision = self.plan(hub, base, seen, sent, open);
        self.decided.insert(key, decision);
        decision
    }

    fn plan(&self, hub: V, base: (V, V), seen: V, sent: Option<Sent>, open: bool) -> Decision {
        let base = if self.without == Without::TwoSidedBase { (base.0, base.0) } else { base };
        let id = RecordId(Uuid::from_u128(1));
        let mut local = LocalRecord::Deal(Opportunity::new(id, instant(0)));
        let stamp = Stamp { at: instant(1), by: "person".into() };
        local.set(&["name".into()], &[self.value(hub)], &stamp).unwrap();
        let external = ExternalId::new("7").unwrap();
        let remote = Record {
            id: external.clone(),
            version: Version::default(),
            created_at: None,
            marker: None,
            absorbed: Vec::new(),
            properties: BTreeMap::from([("dealname".to_owned(), self.value(seen))]),
        };
        let link = Link {
            connection: "vendor".parse().unwrap(),
            kind: Kind::Deal,
            local: id,
            external: external.clone(),
            state: LinkState::Linked,
            base: BTreeMap::from([("name".to_owned(), Base(vec![self.value(base.0)], vec![self.value(base.1)]))]),
            version: Version::default(),
            holds: BTreeMap::new(),
            rewrites: BTreeMap::new(),
            missing_since: None,
            unanswered: None,
            rulings: 0,
        };
        let intent = sent.map(|sent| self.intent(id, &external, sent));
        let history = sent.map_or_else(History::new, |sent| self.history(sent));
        let people = People::default();
        let context = Context { directory: &self.directory, people: &people };
        let known = intent.as_ref().filter(|_| self.without != Without::Intent);
        let plan = plan(&Snapshot {
            lens: &self.lens,
            context,
            link: Some(&link),
            local: &local,
            remote: &remote,
            intent: known,
            history: Some(&history),
            answers: &BTreeMap::new(),
            on_first_link: OnFirstLink::FillBlanks,
            may_push: !open,
            skew: TimeDelta::zero(),
            now: instant(100),
        });
        let mut take = plan.takes.first().map(|(_, _, values, _)| self.place(&values[0]));
        let mut kept = 0;
        for clash in &plan.clashes {
            kept |= of(self.place(&clash.local[0])) | of(self.place(&clash.remote[0]));
        }
        if let (Some(intent), false) = (known, self.without == Without::ForeignCheck) {
            for found in overwrites(intent, &self.lens, &history, &local, context, TimeDelta::zero()) {
                kept |= of(self.place(&found.clash.local[0])) | of(self.place(&found.clash.remote[0]));
                if let (Some((values, _)), None) = (found.revert, take) {
                    take = Some(self.place(&values[0]));
                }
            }
        }
        Decision {
            take,
            push: plan.pushes.get("name").map(|row| self.place(&row.want[0])),
            base: plan.base.get("name").map(|base| (self.place(&base.0[0]), self.place(&base.1[0]))),
            kept,
        }
    }

    fn intent(&self, local: RecordId, external: &ExternalId, sent: Sent) -> Intent {
        let one = |value: V| vec![self.value(value)];
        Intent {
            id: IntentId(Uuid::from_u128(2)),
            connection: "vendor".parse().unwrap(),
            kind: Kind::Deal,
            local,
            op: IntentOp::Update { external: external.clone(), version: Version::default() },
            rows: BTreeMap::from([(
                "name".to_owned(),
                IntentRow { local: one(sent.ours), seen: one(sent.seen), want: one(sent.want) },
            )]),
            state: IntentState::Sent,
            sent_at: Some(instant(10)),
            closes_at: None,
            again: false,
            anew: false,
            run: RunId(Uuid::nil()),
        }
    }

    /// What the vendor's history says of the field, newest first.
    fn history(&self, sent: Sent) -> History {
        let statement = |value: V, at| Statement { value: self.value(value), at: instant(at), source: String::new() };
        let mut all = Vec::new();
        if sent.landed {
            all.push(statement(sent.want, 20));
        }
        all.extend(sent.over.map(|over| statement(over, 15)));
        all.push(statement(sent.seen, -500));
        History::from([("dealname".to_owned(), all)])
    }

    /// The local transaction after a read.
    fn transact(&mut self, state: &State, i: usize, seen: V) -> (State, bool) {
        let spoke = state.spokes[i];
        let keeps_window = self.without != Without::LateWindow;
        let open = keeps_window && (state.flying.iter().any(|(at, _)| *at == i) || spoke.read_open);
        let decision = self.decide(state.hub, spoke.base, seen, spoke.sent, open);
        let mut next = state.clone();
        let one = &mut next.spokes[i];
        (one.phase, one.seen, one.read_open) = (Phase::Idle, 0, false);
        if let Some(base) = decision.base {
            one.base = base;
        }
        // An intent ends with a read that began after its window closed.
        if !open {
            one.sent = None;
        }
        next.conflicts |= decision.kept;
        if let Some(take) = decision.take {
            next.hub = take;
            next.history |= of(take);
        }
        if let Some(want) = decision.push {
            let one = &mut next.spokes[i];
            one.phase = Phase::Planned;
            one.seen = seen;
            // What is written is what we said when it was planned.
            one.sent = Some(Sent { want, ours: state.hub, seen, landed: false, over: None });
        }
        let idle = decision.take.is_none()
            && decision.push.is_none()
            && next == {
                let mut same = state.clone();
                (same.spokes[i].phase, same.spokes[i].seen, same.spokes[i].read_open) = (Phase::Idle, 0, false);
                same
            };
        (next, idle)
    }

    fn land(&self, spoke: &mut Spoke, i: usize, want: V) {
        let stored = self.norm(i, want);
        if let Some(sent) = &mut spoke.sent
            && sent.want == want
        {
            if spoke.remote != sent.seen && spoke.remote != stored {
                sent.over = Some(spoke.remote);
            }
            sent.landed = true;
        }
        spoke.remote = stored;
    }

    /// The vendor carries the write out.
    fn write(&self, state: &State, i: usize) -> State {
        let mut next = state.clone();
        let one = &mut next.spokes[i];
        if let Some(sent) = one.sent {
            self.land(one, i, sent.want);
        }
        one.phase = Phase::Written;
        next
    }

    /// The transaction after the write: the base moves, the history is looked at.
    fn commit(&self, state: &State, i: usize) -> State {
        let mut next = state.clone();
        let Some(sent) = next.spokes[i].sent.take() else { return next };
        let one = &mut next.spokes[i];
        (one.phase, one.seen) = (Phase::Idle, 0);
        one.base = (sent.ours, self.norm(i, sent.want));
        let found = Decision { take: None, push: None, base: None, kept: 0 };
        let found = if self.without == Without::ForeignCheck { found } else { self.check(state.hub, sent) };
        next.conflicts |= found.kept;
        if let Some(take) = found.take {
            next.hub = take;
            next.history |= of(take);
        }
        next
    }

    fn check(&self, hub: V, sent: Sent) -> Decision {
        let id = RecordId(Uuid::from_u128(1));
        let mut local = LocalRecord::Deal(Opportunity::new(id, instant(0)));
        let stamp = Stamp { at: instant(1), by: "person".into() };
        local.set(&["name".into()], &[self.value(hub)], &stamp).unwrap();
        let intent = self.intent(id, &ExternalId::new("7").unwrap(), sent);
        let people = People::default();
        let context = Context { directory: &self.directory, people: &people };
        let mut decision = Decision { take: None, push: None, base: None, kept: 0 };
        for found in overwrites(&intent, &self.lens, &self.history(sent), &local, context, TimeDelta::zero()) {
            decision.kept |= of(self.place(&found.clash.local[0])) | of(self.place(&found.clash.remote[0]));
            decision.take = found.revert.map(|(values, _)| self.place(&values[0]));
        }
        decision
    }

    fn step(&mut self, state: &State, i: usize) -> State {
        match state.spokes[i].phase {
            Phase::Idle => {
                let mut next = state.clone();
                next.spokes[i].phase = Phase::Fetched;
                next.spokes[i].seen = next.spokes[i].remote;
                next.spokes[i].read_open = state.flying.iter().any(|(at, _)| *at == i);
                next
            }
            Phase::Fetched => self.transact(state, i, state.spokes[i].seen).0,
            Phase::Planned => self.write(state, i),
            Phase::Written => self.commit(state, i),
        }
    }

    fn edits(&self, state: &State, all: &mut Vec<State>) {
        for value in self.vals.iter().copied() {
            if value != state.hub {
                let mut next = state.clone();
                next.hub = value;
                next.history |= of(value);
                next.standing |= of(value);
                next.typed |= of(value);
                next.ours_last = next.ours_last.map(|_| Some(value));
                next.edits -= 1;
                all.push(next);
            }
            for i in 0..state.spokes.len() {
                let stored = self.norm(i, value);
                if stored != state.spokes[i].remote {
                    let mut next = state.clone();
                    // Whoever overwrites a value at the vendor has seen it there.
                    next.standing = (next.standing & !of(next.spokes[i].remote)) | of(stored);
                    next.typed |= of(stored);
                    next.spokes[i].remote = stored;
                    next.ours_last = None;
                    next.edits -= 1;
                    all.push(next);
                }
            }
        }
    }

    fn successors(&mut self, state: &State) -> Vec<State> {
        let mut all = Vec::new();
        if state.edits > 0 {
            self.edits(state, &mut all);
        }
        for i in 0..state.spokes.len() {
            all.push(self.step(state, i));
        }
        if state.crashes > 0 && state.spokes.iter().any(|spoke| spoke.phase != Phase::Idle) {
            let mut dead = state.clone();
            dead.crashes -= 1;
            for one in &mut dead.spokes {
                (one.phase, one.seen, one.read_open) = (Phase::Idle, 0, false);
                if let (Some(sent), Without::CheckInRecovery) = (&mut one.sent, self.without) {
                    sent.over = None;
                }
            }
            let under_way =
                |(i, spoke): (usize, &Spoke)| Some((i, spoke.sent?.want)).filter(|_| spoke.phase == Phase::Planned);
            let flying: Vec<(usize, V)> = state.spokes.iter().enumerate().filter_map(under_way).collect();
            if !flying.is_empty() {
                let mut late = dead.clone();
                late.flying.extend(flying);
                late.flying.sort_unstable();
                late.flying.dedup();
                all.push(late);
            }
            all.push(dead);
        }
        for (place, (i, want)) in state.flying.iter().enumerate() {
            let mut next = state.clone();
            self.land(&mut next.spokes[*i], *i, *want);
            next.flying.remove(place);
            all.push(next);
        }
        all
    }

    /// Runs the engine until nothing changes; how many writes that took, or `None` if it does not end.
    fn quiesce(&mut self, mut state: State) -> (State, Option<usize>) {
        let mut writes = 0;
        for _ in 0..60 {
            let mut changed = false;
            for i in 0..state.spokes.len() {
                while state.spokes[i].phase != Phase::Idle {
                    writes += usize::from(state.spokes[i].phase == Phase::Planned);
                    state = self.step(&state, i);
                    changed = true;
                }
                let (next, idle) = self.transact(&state, i, state.spokes[i].remote);
                state = next;
                changed |= !idle;
                while state.spokes[i].phase != Phase::Idle {
                    writes += usize::from(state.spokes[i].phase == Phase::Planned);
                    state = self.step(&state, i);
                }
            }
            if !changed {
                return (state, Some(writes));
            }
        }
        (state, None)
    }

    fn explore(mut self, edits: u8) -> Found {
        let spoke = Spoke { remote: 0, base: (0, 0), phase: Phase::Idle, seen: 0, read_open: false, sent: None };
        let start = State {
            hub: 0,
            history: of(0),
            conflicts: 0,
            spokes: vec![spoke; self.norms.len()],
            edits,
            crashes: 1,
            flying: Vec::new(),
            standing: 0,
            typed: of(0),
            ours_last: Some(None),
        };
        let mut known = HashSet::from([start.clone()]);
        let mut queue = VecDeque::from([start]);
        let mut found = Found::default();
        while let Some(state) = queue.pop_front() {
            if state.edits == 0 && state.flying.is_empty() {
                self.judge(&state, &mut found);
            }
            for next in self.successors(&state) {
                if known.insert(next.clone()) {
                    queue.push_back(next);
                }
            }
        }
        found.states = known.len();
        found
    }

    fn judge(&mut self, state: &State, found: &mut Found) {
        found.ends += 1;
        let (end, writes) = self.quiesce(state.clone());
        match writes {
            None => found.never_quiet += 1,
            Some(writes) => {
                found.most_writes = found.most_writes.max(writes);
                let agrees = |i: usize, spoke: &Spoke| {
                    self.texts[self.norm(i, end.hub) as usize].trim() == self.texts[spoke.remote as usize].trim()
                };
                found.diverged += usize::from(!end.spokes.iter().enumerate().all(|(i, spoke)| agrees(i, spoke)));
            }
        }
        let there = end.spokes.iter().fold(0, |set, spoke| set | of(spoke.remote));
        let kept = end.history | end.conflicts | there | of(end.hub);
        found.lost += usize::from(end.standing & !kept != 0);
        found.invented += usize::from(end.typed & of(end.hub) == 0);
        found.rolled_back += usize::from(matches!(end.ours_last, Some(Some(last)) if last != end.hub));
    }
}

const EXACT: [&str; 3] = ["a", "b", "c"];
const SPACED: [&str; 3] = [" b", "b ", "c"];
const CASED: [&str; 3] = ["B", "b", "C"];

fn explore(norms: &[Norm], vals: &[&str], remote_wins: bool, without: Without, edits: u8) -> Found {
    let found = World::new(norms, vals, remote_wins, without).explore(edits);
    let wins = if remote_wins { "remote" } else { "hub" };
    println!("without {without:?}, {} spokes, {wins} wins, {edits} edits: {found:?}", norms.len());
    found
}

#[test]
fn the_whole_design_loses_nothing_differs_nowhere_invents_nothing_and_ends() {
    let worlds: [(&[Norm], &[&str], u8); 4] = [
        (&[exact], &EXACT, 3),
        (&[exact, exact], &EXACT, 2),
        (&[trims_end, trims_start], &SPACED, 2),
        (&[exact, trims_end, trims_start], &SPACED, 1),
    ];
    for (norms, vals, edits) in worlds {
        for remote_wins in [false, true] {
            let found = explore(norms, vals, remote_wins, Without::Nothing, edits);
            assert!(found.is_clean(), "{found:?}");
        }
    }
}

#[test]
fn each_ingredient_is_needed() {
    let lost = |found: &Found| found.lost;
    let invented = |found: &Found| found.invented;
    let rolled_back = |found: &Found| found.rolled_back;
    type Case = (Without, &'static [Norm], &'static [&'static str], bool, fn(&Found) -> usize);
    let cases: [Case; 5] = [
        (Without::ForeignCheck, &[exact, exact], &EXACT, false, lost),
        (Without::CheckInRecovery, &[exact, exact], &EXACT, false, lost),
        (Without::Intent, &[trims_end, trims_start], &SPACED, true, invented),
        (Without::TwoSidedBase, &[trims_end, trims_start], &SPACED, true, invented),
        (Without::LateWindow, &[exact], &EXACT, false, rolled_back),
    ];
    for (without, norms, vals, remote_wins, shows) in cases {
        let found = explore(norms, vals, remote_wins, without, 2);
        assert!(shows(&found) > 0, "{without:?} is not missed: {found:?}");
    }
    // A vendor that does to values what no canoniser of the lens declares.
    let found = explore(&[lowers, exact], &CASED, true, Without::Nothing, 2);
    assert!(found.invented > 0, "an undeclared normalisation is not missed: {found:?}");
}
