//! Bugs that are planted on purpose, to prove that the simulation finds what it is there to find.
//!
//! They exist only under the feature `planted`, which tests switch on and no build that ships has: without it [`has`]
//! is a constant false and nothing of a bug is compiled. One bug at a time, per thread.

/// A deliberate mistake, and where it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Bug {
    /// No intent is stored before a write.
    NoIntent,
    /// The vendor's history is not looked at after a write.
    ForeignCheckOff,
    /// It is looked at after a write, but not in recovery.
    RecoveryCheckOff,
    /// A write whose outcome is not known is settled by the first read.
    LateWindowIgnored,
    /// Every row of a 207 is taken for done.
    PartialFailureIsSuccess,
    /// A second try of a create carries another marker.
    NewMarkerOnRetry,
    /// A conflict is decided and not recorded.
    ConflictNotRecorded,
    /// A commit moves the base of rows that were not written.
    BaseMovesForAll,
    /// Finishing a mark ends newer marks of the record too.
    GenerationIgnored,
    /// Trimming and rounding are not allowed for when sides are compared.
    NoCanoniser,
    /// A stage is taken in without the status it means.
    StageWithoutStatus,
    /// Merges at the vendor are taken for deletions.
    MergeIsDeletion,
    /// A property that could not be read is taken for an empty one.
    AbsentIsNull,
    /// The cursor is stored before the marks of its page.
    CursorBeforeMarks,
    /// The intent is stored after the write.
    IntentAfterCall,
    /// Only our half of the base is looked at.
    OneSidedBase,
    /// A search begins where the last one ended.
    NoOverlap,
    /// How far was read is told by our clock and not by the vendor's.
    OurClockInCursor,
    /// A row that is missing in an answer is taken for done.
    MissingIsDone,
    /// An update does not name the version that it was planned on.
    NoCompareAndSwap,
    /// A second try of a create goes out under another key.
    KeyPerTry,
    /// What was taken in from one system is not marked for the others.
    SiblingsNotMarked,
    /// Sales are heard of by webhooks alone.
    SalesByWebhookAlone,
    /// What was given back is not taken off.
    RefundIgnored,
    /// A visit that is known is not read again when it changed.
    KnownVisitIsNoNews,
    /// Visits move an opportunity that is won.
    VisitLeavesWon,
    /// A create that lands after it was sent again is taken for somebody's new record.
    TwinIsNews,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 27] = [
        Bug::NoIntent,
        Bug::ForeignCheckOff,
        Bug::RecoveryCheckOff,
        Bug::LateWindowIgnored,
        Bug::PartialFailureIsSuccess,
        Bug::NewMarkerOnRetry,
        Bug::ConflictNotRecorded,
        Bug::BaseMovesForAll,
        Bug::GenerationIgnored,
        Bug::NoCanoniser,
        Bug::StageWithoutStatus,
        Bug::MergeIsDeletion,
        Bug::AbsentIsNull,
        Bug::CursorBeforeMarks,
        Bug::IntentAfterCall,
        Bug::OneSidedBase,
        Bug::NoOverlap,
        Bug::OurClockInCursor,
        Bug::MissingIsDone,
        Bug::NoCompareAndSwap,
        Bug::KeyPerTry,
        Bug::SiblingsNotMarked,
        Bug::SalesByWebhookAlone,
        Bug::RefundIgnored,
        Bug::KnownVisitIsNoNews,
        Bug::VisitLeavesWon,
        Bug::TwinIsNews,
    ];
}

#[cfg(feature = "planted")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants a bug in this thread, or takes it out.
#[cfg(feature = "planted")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// True where this bug is planted.
#[must_use]
#[inline]
pub fn has(bug: Bug) -> bool {
    #[cfg(feature = "planted")]
    return PLANTED.get() == Some(bug);
    #[cfg(not(feature = "planted"))]
    {
        let _ = bug;
        false
    }
}
