//! Which opportunity a sale is evidence for. Never guessed: of two that may be meant, none is taken.

use chrono::TimeDelta;
use tandem_contract::{Origin, Sale};

use super::meaning::{Standing, Waits, standing, waits};
use crate::model::{Name, Opportunity, Pipeline, RecordId, Status, Trigger, Types, opportunity_type::called};

/// How far apart the clocks of a till and of a CRM may be.
const CLOCKS: TimeDelta = TimeDelta::minutes(1);
/// How far apart a person's word that an opportunity is won and the sale that won it may be, to be about the same thing.
const SAME_SALE: TimeDelta = TimeDelta::hours(24);

/// By what the buyer was found. What comes first is trusted most; what follows is tried where that comes to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundBy {
    /// A reference names the opportunity itself.
    Reference,
    /// It takes something back of a sale that is evidence for the opportunity.
    Return,
    /// The till's customer is a contact of ours.
    Customer,
    /// The customer who is to get the goods is one.
    Recipient,
    /// Our reference on the till's customer names a contact.
    Marker,
    /// The customer's e-mail address.
    Email,
    /// The customer's telephone number.
    Phone,
    /// The address that the receipt went to.
    Receipt,
    /// Whom the invoice is addressed to, however known.
    Invoice,
    /// A person said so.
    Person,
}

impl FoundBy {
    /// The word of the store and the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reference => "reference",
            Self::Return => "return",
            Self::Customer => "customer",
            Self::Recipient => "recipient",
            Self::Marker => "marker",
            Self::Email => "email",
            Self::Phone => "phone",
            Self::Receipt => "receipt",
            Self::Invoice => "invoice",
            Self::Person => "person",
        }
    }
}

/// By what of theirs a contact is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clue {
    /// The till's record of them.
    Record,
    /// Our reference on that record.
    Marker,
    /// E-mail address.
    Email,
    /// Telephone number.
    Phone,
}

/// Whom the till means by its customers.
const CUSTOMERS: &[Origin] = &[Origin::Customer, Origin::Recipient];

/// The ways of finding who bought, most trusted first: what is said of it then, who is looked at, and by what.
pub const WAYS: [(FoundBy, &[Origin], Clue); 10] = [
    (FoundBy::Customer, &[Origin::Customer], Clue::Record),
    (FoundBy::Recipient, &[Origin::Recipient], Clue::Record),
    (FoundBy::Marker, CUSTOMERS, Clue::Marker),
    (FoundBy::Email, CUSTOMERS, Clue::Email),
    (FoundBy::Phone, CUSTOMERS, Clue::Phone),
    (FoundBy::Receipt, &[Origin::Receipt], Clue::Email),
    (FoundBy::Invoice, &[Origin::Invoice], Clue::Record),
    (FoundBy::Invoice, &[Origin::Invoice], Clue::Marker),
    (FoundBy::Invoice, &[Origin::Invoice], Clue::Email),
    (FoundBy::Invoice, &[Origin::Invoice], Clue::Phone),
];

/// Whom a sale may be of.
#[derive(Clone, Debug, Default)]
pub struct Meant {
    /// Opportunities that the sale names by id.
    pub named: Vec<Opportunity>,
    /// Opportunities of the sales that it takes something back of.
    pub exchanged: Vec<RecordId>,
    /// Contacts who may have bought: those that each way of finding any came to, most trusted way first.
    pub buyers: Vec<Buyers>,
}

/// Contacts who may have bought.
#[derive(Clone, Debug)]
pub struct Buyers {
    /// By what they were found.
    pub found_by: FoundBy,
    /// They; nobody who was found in a better way.
    pub contacts: Vec<RecordId>,
    /// Their opportunities.
    pub theirs: Vec<Opportunity>,
}

/// What a sale is.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Evidence for this opportunity.
    For {
        /// Which.
        opportunity: RecordId,
        /// By what it was found.
        found_by: FoundBy,
        /// By which trigger, where the account has any.
        trigger: Option<Name>,
    },
    /// Nobody's, as far as is known.
    Unmatched {
        /// Why, for people.
        why: &'static str,
        /// Those that may be meant.
        candidates: Vec<RecordId>,
    },
    /// Not paid yet, or the till does not tell yet what was sold.
    NotYet(&'static str),
    /// No sale of an opportunity.
    PassedOver(&'static str),
}

/// Finds the opportunity that a sale is evidence for.
#[must_use]
pub fn judge(
    sale: &Sale,
    triggers: &[(Option<&Name>, &Trigger)],
    pipelines: &[Pipeline],
    types: &Types,
    meant: &Meant,
) -> Verdict {
    // A sale that names its opportunity is of that one, whatever was sold (GYM-20); payment is what counts.
    if let [deal] = meant.named.as_slice() {
        let met =
            triggers.iter().find(|(_, rules)| standing(sale, rules) == Standing::Counts).and_then(|(name, _)| *name);
        let rules = match triggers {
            [(_, only)] => only.about_anything(),
            _ => Trigger { for_nothing: true, ..Trigger::default() },
        };
        let standing = if met.is_some() { Standing::Counts } else { standing(sale, &rules) };
        return match standing {
            Standing::Counts => {
                Verdict::For { opportunity: deal.id, found_by: FoundBy::Reference, trigger: met.cloned() }
            }
            Standing::NotYet(waits) => Verdict::NotYet(waits.why()),
            Standing::Never(why) => Verdict::PassedOver(why),
        };
    }
    if meant.named.len() > 1 {
        let candidates = meant.named.iter().map(|deal| deal.id).collect();
        return Verdict::Unmatched { why: "it names several opportunities", candidates };
    }
    let standings: Vec<Standing> = triggers.iter().map(|(_, trigger)| standing(sale, trigger)).collect();
    let counting: Vec<_> = triggers
        .iter()
        .zip(&standings)
        .filter(|(_, standing)| **standing == Standing::Counts)
        .map(|(t, _)| (t, None))
        .collect();
    // What waits may come to count: of two opportunities the one of a trigger that counts already is a guess.
    let waiting = triggers.iter().filter_map(|t| Some((t, Some(waits(sale, t.1)?))));
    if counting.is_empty() {
        let waits = standings.iter().find_map(|standing| match standing {
            Standing::NotYet(waits) => Some(waits.why()),
            _ => None,
        });
        let never = standings.iter().find_map(|standing| match standing {
            Standing::Never(why) => Some(*why),
            _ => None,
        });
        return match waits {
            Some(why) => Verdict::NotYet(why),
            None => Verdict::PassedOver(never.unwrap_or("no trigger of this account is about this till")),
        };
    }
    if let ([opportunity], Some(((name, _), _))) = (meant.exchanged.as_slice(), counting.first()) {
        let trigger = name.cloned();
        return Verdict::For { opportunity: *opportunity, found_by: FoundBy::Return, trigger };
    }
    if meant.buyers.is_empty() {
        let why = if sale.buyers.is_empty() {
            "the till does not say who bought"
        } else {
            "nobody of ours is known by what the till says of the buyer"
        };
        return Verdict::Unmatched { why, candidates: Vec::new() };
    }
    // The till's own customer is a contact of ours too, and may be all that is known of somebody whose opportunity hangs on
    // another: the next way of finding them is tried while the better ones come to nothing.
    let mut later = None;
    for (is_meant, buyers) in
        [is_open, is_won_by_a_person].into_iter().flat_map(|is| meant.buyers.iter().map(move |b| (is, b)))
    {
        let mut chosen: Vec<(RecordId, Option<&Name>, Option<Waits>)> = Vec::new();
        for ((name, trigger), waits) in counting.iter().copied().chain(waiting.clone()) {
            let is_theirs = |deal: &&Opportunity| {
                is_meant(deal, sale) && is_in(deal, trigger, pipelines) && is_of(deal, trigger, types)
            };
            for deal in buyers.theirs.iter().filter(is_theirs) {
                if !chosen.iter().any(|(id, ..)| *id == deal.id) {
                    chosen.push((deal.id, *name, waits));
                }
            }
        }
        if chosen.iter().any(|(.., waits)| *waits == Some(Waits::Word)) {
            return Verdict::NotYet(Waits::Word.why());
        }
        // One that waits for money beside one that has it: both are the buyer's, and people tell them apart. Where all wait, what
        // is found in another way may have it.
        if let Some((.., Some(waits))) = chosen.first().filter(|_| chosen.iter().all(|(.., waits)| waits.is_some())) {
            later.get_or_insert(waits.why());
            continue;
        }
        match (chosen.as_slice(), buyers.contacts.len()) {
            ([], _) => {}
            ([(opportunity, trigger, _)], 1) => {
                return Verdict::For {
                    opportunity: *opportunity,
                    found_by: buyers.found_by,
                    trigger: trigger.cloned(),
                };
            }
            (several, contacts) => {
                let why = match contacts {
                    1 => "the buyer has several opportunities that it could close",
                    _ => "several contacts of ours may be the buyer",
                };
                return Verdict::Unmatched { why, candidates: several.iter().map(|(id, ..)| *id).collect() };
            }
        }
    }
    match later {
        Some(why) => Verdict::NotYet(why),
        None => {
            Verdict::Unmatched { why: "the buyer has no open opportunity that it can close", candidates: Vec::new() }
        }
    }
}

fn is_live(deal: &Opportunity) -> bool {
    deal.deleted_at.is_none() && !deal.quarantined
}

/// Open, and there when the sale was made: what was begun afterwards is about something else.
fn is_open(deal: &Opportunity, sale: &Sale) -> bool {
    is_live(deal) && deal.position.status == Status::Open && deal.created_at <= sale.sold_at + CLOCKS
}

/// A person said it is won at about the time of the sale, and no sale did: it is the sale they meant.
fn is_won_by_a_person(deal: &Opportunity, sale: &Sale) -> bool {
    let at_that_time = |closed_at| sale.sold_at.signed_duration_since(closed_at).abs() <= SAME_SALE;
    is_live(deal)
        && deal.position.status == Status::Won
        && !deal.won_by_sale
        && deal.position.closed_at.is_some_and(at_that_time)
}

fn is_in(deal: &Opportunity, trigger: &Trigger, pipelines: &[Pipeline]) -> bool {
    let is_called = |pipeline: &Pipeline| trigger.pipelines.iter().any(|wanted| pipeline.is_called(wanted));
    let stands_in = pipelines.iter().find(|pipeline| Some(pipeline.id) == deal.position.pipeline);
    trigger.pipelines.is_empty() || stands_in.is_some_and(is_called)
}

fn is_of(deal: &Opportunity, trigger: &Trigger, types: &Types) -> bool {
    let known = deal.opportunity_type.as_deref().and_then(|text| called(types, text));
    trigger.types.is_empty() || known.is_some_and(|(name, _)| trigger.types.contains(name))
}
