//! Checkouts: an opportunity continues at the till with the same person (GYM-20, GYM-29). The sale that it becomes carries the
//! opportunity's id, and paying it wins that very opportunity.

use chrono::{DateTime, NaiveDate, Utc};
use tandem_contract::{Call, CheckoutBy, ConnectorError, Kind, Lane, NewCheckout};

use crate::{
    edit::EditError,
    model::{Evidence, Invalid, LocalRecord, Money, RecordId, Status},
    sales::{closing, matching::FoundBy},
    store::{By, Commit, Op, StoreError, SyncStore},
    sync::connection::Connection,
};

/// What a person asks for.
#[derive(Clone, Debug)]
pub struct Wish {
    /// How it is to be paid.
    pub by: CheckoutBy,
    /// What it costs; the opportunity's value if left out, which is not asked for a second time once it is won.
    pub price: Option<Money>,
    /// Where, by the till's id.
    pub location: Option<String>,
    /// When an invoice is due; today if left out.
    pub due_on: Option<NaiveDate>,
    /// Tells one checkout of the same kind and price from another.
    pub key: Option<String>,
}

/// A checkout was not started.
#[derive(Debug, thiserror::Error)]
pub enum CheckoutError {
    /// The opportunity is not there, or a value does not fit.
    #[error(transparent)]
    Edit(#[from] EditError),
    /// It is won, and nobody says what is to be paid besides.
    #[error(
        "the opportunity is won already: name a price for what is to be paid besides, or reopen it if it is not won"
    )]
    Won,
    /// The till refuses, or cannot be asked now: asking again makes nothing twice.
    #[error(transparent)]
    Till(#[from] ConnectorError),
}

impl From<StoreError> for CheckoutError {
    fn from(error: StoreError) -> Self {
        Self::Edit(error.into())
    }
}

fn today(till: &Connection, now: DateTime<Utc>) -> NaiveDate {
    now.with_timezone(&till.account.timezone).date_naive()
}

/// Keeps what a checkout is asked for as, with the place that it is made at. Where two ask at once the first word stands.
async fn keep(
    store: &dyn SyncStore,
    till: &Connection,
    call: Call,
    mut new: NewCheckout,
    now: DateTime<Utc>,
) -> Result<NewCheckout, CheckoutError> {
    if new.location.is_none() {
        new.location = till.connector.checkout_location(call, &new.currency).await?;
    }
    let account = &till.account.name;
    let keep = Op::KeepCheckout { connection: till.name.clone(), new: new.clone(), asked_at: now };
    store.commit(&Commit { account: account.clone(), fence: None, ops: vec![keep] }).await?;
    Ok(store.checkout(account, &till.name, &new.key).await?.unwrap_or(new))
}

/// Starts a checkout, and remembers whose it is before anybody can pay it unnoticed: the sale names the opportunity
/// itself as well. Asked for again with the same wish it is the same checkout. Of a lost opportunity it is one like any
/// other: whoever pays has bought, and it is won.
///
/// # Errors
/// [`CheckoutError`].
pub async fn start(
    store: &dyn SyncStore,
    till: &Connection,
    opportunity: RecordId,
    wish: Wish,
    now: DateTime<Utc>,
) -> Result<(Evidence, Option<String>), CheckoutError> {
    let account = &till.account.name;
    let found = store.records(account, Kind::Deal, &[opportunity]).await?.pop();
    let Some(LocalRecord::Deal(deal)) = found.filter(|record| !record.is_deleted()) else {
        return Err(EditError::NotFound("opportunity").into());
    };
    if deal.position.status == Status::Won && wish.price.is_none() {
        return Err(CheckoutError::Won);
    }
    let price = match (wish.price, deal.value) {
        (Some(price), _) | (None, Some(price)) if price.minor > 0 => price,
        (Some(_), _) => return Err(EditError::from(Invalid::new("price", "must be more than nothing")).into()),
        (None, _) => {
            return Err(EditError::from(Invalid::new("price", "is missing, and the opportunity has no value")).into());
        }
    };
    let (mut buyer, mut email) = (None, None);
    if let Some(contact) = deal.contact {
        let pairs = store.pairs(account, &till.name, Kind::Contact, By::Local(&[contact])).await?;
        buyer = pairs.into_iter().next().map(|(_, customer)| customer);
        if let Some(LocalRecord::Contact(person)) = store.records(account, Kind::Contact, &[contact]).await?.pop() {
            email = person.email;
        }
    }
    let asked = format!("{opportunity}|{wish:?}|{price:?}");
    let new = NewCheckout {
        by: wish.by,
        key: crate::model::digest(asked.as_bytes()).chars().take(48).collect(),
        reference: opportunity.to_string(),
        title: if deal.name.trim().is_empty() { "Opportunity".into() } else { deal.name.clone() },
        minor: price.minor,
        currency: price.currency.code().to_owned(),
        location: wish.location,
        buyer,
        email,
        due_on: wish.due_on.or_else(|| (wish.by == CheckoutBy::Invoice).then(|| today(till, now))),
    };
    // What it says may change meanwhile; asked for again it says what it said first, or the till takes it for another. One
    // that is dropped as too old is kept anew as it is asked for now.
    let call = Call::on(Lane::Interactive);
    let drop_old = Op::DropOld { now };
    store.commit(&Commit { account: account.clone(), fence: None, ops: vec![drop_old] }).await?;
    let new = match store.checkout(account, &till.name, &new.key).await? {
        Some(kept) => kept,
        None => keep(store, till, call, new, now).await?,
    };
    let started = till.connector.checkout(call, &new).await;
    if let Err(ConnectorError::Rejected { .. } | ConnectorError::Forbidden(_)) = &started {
        let forget = Op::DropCheckout { connection: till.name.clone(), key: new.key.clone() };
        store.commit(&Commit { account: account.clone(), fence: None, ops: vec![forget] }).await?;
    }
    let checkout = started?;
    let stored = store.evidence(account, &till.name, std::slice::from_ref(&checkout.sale)).await?.pop();
    if let Some(known) = stored.filter(|known| known.opportunity.is_some()) {
        return Ok((known, checkout.url));
    }
    let mut evidence = Evidence::new(till.name.clone(), checkout.sale, now);
    closing::attach(&mut evidence, opportunity, FoundBy::Reference.as_str());
    evidence.why = "a checkout was started; it is not paid".into();
    evidence.amount = Some(price);
    evidence.version = 1;
    let ops = vec![Op::PutEvidence(evidence.clone())];
    match store.commit(&Commit { account: account.clone(), fence: None, ops }).await {
        // Somebody else heard of the order first; it names its opportunity itself.
        Ok(()) | Err(StoreError::Outdated(_)) => Ok((evidence, checkout.url)),
        Err(error) => Err(error.into()),
    }
}
