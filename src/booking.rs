//! Appointments made, moved and called off from an opportunity (AX-31 to AX-34). What becomes of them at the clinic comes back as
//! visits.

use chrono::{DateTime, TimeDelta, Utc};
use tandem_contract::{
    Call, ConnectorError, Disposition, ExternalId, Kind, Lane, NewVisit, NewVisitor, Opening, VisitChange, VisitStatus,
    WantedOpenings,
};
use tracing::warn;

use crate::{
    edit::EditError,
    model::{Contact, Invalid, Key, LocalRecord, Mark, Opportunity, Reason, RecordId, Visit},
    store::{By, Commit, Op, StoreError, SyncStore},
    sync::{connection::Connection, merges::heir_of},
};

/// What a person asks for.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Which kind of appointment: `meeting`, `service` or `rental`, as the connection's visit_types name them (AX-32).
    pub kind: String,
    /// When it begins: a day ago at the earliest.
    pub starts_at: DateTime<Utc>,
    /// When it ends.
    pub ends_at: DateTime<Utc>,
    /// The opening that it takes, by the clinic's id.
    pub slot: Option<String>,
    /// Where, by the clinic's id.
    pub site: Option<String>,
    /// With whom, by the clinic's id.
    pub practitioner: Option<String>,
}

/// An appointment was not made or changed.
#[derive(Debug, thiserror::Error)]
pub enum BookingError {
    /// The opportunity is not there, or a value does not fit.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// It has one already (AX-34).
    #[error("the opportunity has an appointment already, {0}: move that one, or call it off first")]
    Booked(String),
    /// It is being made one, or was, and whether that worked is not known yet (AX-34).
    #[error(
        "an appointment is being made for the opportunity, or whether it was made is not known yet: ask again, in {} at the latest",
        wait(.0)
    )]
    Busy(TimeDelta),
    /// It has none.
    #[error("the opportunity has no appointment")]
    None,
    /// The clinic refuses, or cannot be asked now: asking again makes nothing twice.
    #[error(transparent)]
    Clinic(#[from] ConnectorError),
}

impl From<StoreError> for BookingError {
    fn from(error: StoreError) -> Self {
        Self::Edit(error.into())
    }
}

const CALL: Call = Call::on(Lane::Interactive);
/// The furthest back an appointment begins: who walked in is written down afterwards, on the same day.
const BACK: TimeDelta = TimeDelta::days(1);
/// The furthest ahead an appointment is.
const FAR: TimeDelta = TimeDelta::days(3_650);
/// The longest an appointment is.
const LONGEST: TimeDelta = TimeDelta::hours(24);

/// How long an appointment is that does not say when it ends.
const USUAL: TimeDelta = TimeDelta::minutes(30);

/// When an appointment ends that need not say so.
#[must_use]
pub fn end(starts_at: DateTime<Utc>, ends_at: Option<DateTime<Utc>>) -> DateTime<Utc> {
    ends_at.or_else(|| starts_at.checked_add_signed(USUAL)).unwrap_or(starts_at)
}

/// Until when openings are looked for that begin then, a week later unless it is said; `None` where that is not after it, or
/// more than 31 days.
#[must_use]
pub fn until(from: DateTime<Utc>, until: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
    let until = until.or_else(|| from.checked_add_signed(TimeDelta::days(7))).unwrap_or(from);
    (until > from && until - from <= TimeDelta::days(31)).then_some(until)
}

fn wait(left: &TimeDelta) -> String {
    match left.num_seconds() {
        seconds @ ..=90 => format!("{} s", seconds.max(1)),
        seconds => format!("{} minutes", (seconds + 59) / 60),
    }
}

fn check(starts_at: DateTime<Utc>, ends_at: DateTime<Utc>, now: DateTime<Utc>) -> Result<(), EditError> {
    let wrong = |field, why: &str| Err(Invalid::new(field, why).into());
    if ends_at <= starts_at || ends_at - starts_at > LONGEST {
        return wrong("ends_at", "is not after starts_at, or more than a day later");
    }
    if starts_at < now - BACK || starts_at > now + FAR {
        return wrong("starts_at", "is more than a day ago, or years ahead");
    }
    Ok(())
}

async fn opportunity(
    store: &dyn SyncStore,
    clinic: &Connection,
    id: RecordId,
) -> Result<(Opportunity, Contact), BookingError> {
    let account = &clinic.account.name;
    let found = store.records(account, Kind::Deal, &[id]).await?.pop();
    let Some(LocalRecord::Deal(deal)) = found.filter(|record| !record.is_deleted()) else {
        return Err(EditError::NotFound("opportunity").into());
    };
    let nobody = || EditError::from(Invalid::new("contact", "is missing: an appointment is made for somebody"));
    let contact = store.records(account, Kind::Contact, &[deal.contact.ok_or_else(nobody)?]).await?.pop();
    match contact.filter(|record| !record.is_deleted()) {
        Some(LocalRecord::Contact(contact)) => Ok((deal, contact)),
        _ => Err(nobody().into()),
    }
}

/// The appointments that were made from an opportunity, the first first.
async fn booked_from(
    store: &dyn SyncStore,
    clinic: &Connection,
    deal: &Opportunity,
    contact: &Contact,
) -> Result<Vec<Visit>, StoreError> {
    let account = &clinic.account.name;
    let mut all = Vec::new();
    for visit in store.visits_of(account, contact.id).await? {
        let Some(of) = visit.opportunity else { continue };
        // What was made from one that was merged away is the survivor's.
        let lives =
            of == deal.id || heir_of(store, account, Kind::Deal, of).await?.is_some_and(|it| it.id() == deal.id);
        if lives {
            all.push(visit);
        }
    }
    all.sort_by(|a, b| (a.seen_at, &a.visit).cmp(&(b.seen_at, &b.visit)));
    Ok(all)
}

/// The appointment that an opportunity has.
async fn current(store: &dyn SyncStore, clinic: &Connection, id: RecordId) -> Result<Visit, BookingError> {
    let (deal, contact) = opportunity(store, clinic, id).await?;
    let all = booked_from(store, clinic, &deal, &contact).await?;
    let mine = |visit: &Visit| visit.connection == clinic.name && visit.is_booked();
    all.into_iter().rfind(mine).ok_or(BookingError::None)
}

/// Makes the opportunity's appointment, and the clinic's record of the contact if there is none, after whatever can be
/// refused before it. One at a time: a second wish is refused while the first one is under way, and as long as it may
/// still land at a clinic that cannot tell the two to be one.
///
/// # Errors
/// [`BookingError`].
pub async fn book(
    store: &dyn SyncStore,
    clinic: &Connection,
    id: RecordId,
    wish: Wish,
    now: DateTime<Utc>,
) -> Result<Visit, BookingError> {
    check(wish.starts_at, wish.ends_at, now)?;
    let (deal, contact) = opportunity(store, clinic, id).await?;
    let longest = clinic.connector.push_deadline() + clinic.connector.late_window();
    let longest = TimeDelta::from_std(longest).unwrap_or(TimeDelta::minutes(10));
    let (opportunity, until) = (deal.id, now + longest);
    let carry_out =
        async |op| store.commit(&Commit { account: clinic.account.name.clone(), fence: None, ops: vec![op] }).await;
    match carry_out(Op::BeginBooking { opportunity, now, until }).await {
        Err(StoreError::Outdated(_)) => return Err(BookingError::Busy(longest)),
        begun => begun?,
    }
    // However slowly the clinic answers: nothing is sent any more when the time is over in which another waits.
    let made = tokio::time::timeout(clinic.connector.push_deadline(), make(store, clinic, deal, contact, wish, now));
    let slow = || ConnectorError::OutcomeUnknown("the clinic answers too slowly".into());
    let booked = made.await.unwrap_or_else(|_| Err(slow().into()));
    let may_land = matches!(&booked, Err(BookingError::Clinic(error)) if error.disposition() == Disposition::Ambiguous);
    if !may_land || clinic.connector.refuses_twins() {
        // What is not ended here ends by itself.
        if let Err(error) = carry_out(Op::EndBooking { opportunity, until }).await {
            warn!(%opportunity, %error, "the end of a booking was not stored");
        }
    }
    booked
}

async fn make(
    store: &dyn SyncStore,
    clinic: &Connection,
    deal: Opportunity,
    contact: Contact,
    wish: Wish,
    now: DateTime<Utc>,
) -> Result<Visit, BookingError> {
    let (account, id) = (&clinic.account.name, deal.id);
    let before = booked_from(store, clinic, &deal, &contact).await?;
    if let Some(booked) = before.iter().find(|visit| visit.is_booked()) {
        return Err(BookingError::Booked(booked.id()));
    }
    // One that was called off keeps its name: the next has another.
    let reference = match before.len() {
        0 => id.to_string(),
        number => format!("{id}/{}", number + 1),
    };
    let linked = store.pairs(account, &clinic.name, Kind::Contact, By::Local(&[contact.id])).await?;
    let known = linked.into_iter().next().map(|(_, patient)| patient);
    let seen = store.visits_of(account, contact.id).await?;
    let came = seen.iter().filter(|visit| visit.connection == clinic.name && visit.contacts == [contact.id]);
    let known = known
        .or_else(|| came.filter(|visit| visit.patients.len() == 1).find_map(|visit| visit.patients.first().cloned()));
    let new = NewVisit {
        reference,
        visitor: NewVisitor {
            id: known,
            marker: clinic.marker(contact.id),
            first_name: contact.first_name.clone(),
            last_name: contact.last_name.clone(),
            email: contact.email.clone(),
            phone: contact.phone.clone(),
        },
        kind: wish.kind,
        starts_at: wish.starts_at,
        ends_at: wish.ends_at,
        slot: wish.slot,
        site: wish.site,
        practitioner: wish.practitioner,
    };
    let (made, patient) = clinic.connector.book(CALL, &new).await?;
    let mut visit = Visit::new(clinic.name.clone(), made, now);
    visit.version = 1;
    visit.status = VisitStatus::Proposed;
    (visit.starts_at, visit.ends_at) = (Some(new.starts_at), Some(new.ends_at));
    (visit.contacts, visit.opportunity, visit.patients) = (vec![contact.id], Some(deal.id), vec![patient]);
    let ops = vec![Op::PutVisit(visit.clone()), look_at(clinic, &visit.visit, now)];
    match store.commit(&Commit { account: account.clone(), fence: None, ops }).await {
        Ok(()) => Ok(visit),
        // Somebody else heard of it first; it names its opportunity itself.
        Err(StoreError::Outdated(_)) => {
            let stored = store.visits(account, &clinic.name, std::slice::from_ref(&visit.visit)).await?.pop();
            Ok(stored.unwrap_or(visit))
        }
        Err(error) => Err(error.into()),
    }
}

fn look_at(clinic: &Connection, visit: &ExternalId, now: DateTime<Utc>) -> Op {
    Op::Mark(Mark::new(&clinic.name, Kind::Appointment, Key::External(visit.clone()), now, Reason::Webhook))
}

/// Moves the opportunity's appointment, or calls it off; what it is then is read back from the clinic.
///
/// # Errors
/// [`BookingError`].
pub async fn change(
    store: &dyn SyncStore,
    clinic: &Connection,
    id: RecordId,
    to: VisitChange,
    now: DateTime<Utc>,
) -> Result<Visit, BookingError> {
    if let VisitChange::Move { starts_at, ends_at } = to {
        check(starts_at, ends_at, now)?;
    }
    let visit = current(store, clinic, id).await?;
    clinic.connector.change_visit(CALL, &visit.visit, &to).await?;
    let ops = vec![look_at(clinic, &visit.visit, now)];
    store.commit(&Commit { account: clinic.account.name.clone(), fence: None, ops }).await?;
    Ok(visit)
}

/// What is free at a clinic: offers, not holds.
///
/// # Errors
/// [`ConnectorError`].
pub async fn openings(clinic: &Connection, wanted: &WantedOpenings) -> Result<Vec<Opening>, ConnectorError> {
    clinic.connector.openings(CALL, wanted).await
}
