//! The presence table: what to do when one side has the record and the other has not.
//!
//! An edit beats a delete. Forbidden is not gone. Gone needs two looks.

use serde::{Deserialize, Serialize};

use crate::model::LinkState;

/// Our side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Here {
    /// We have it.
    Present,
    /// It was deleted here.
    Deleted,
    /// We never had it.
    Unknown,
}

/// The vendor's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum There {
    /// It is there; true if it was edited since the last agreement.
    Found {
        /// Edited since the last agreement.
        edited: bool,
    },
    /// In the recycle bin.
    Archived,
    /// Not known; true if an earlier look, long enough ago, said so too.
    Gone {
        /// The second look.
        again: bool,
    },
    /// We may not see it.
    Forbidden,
    /// It was never there.
    Unknown,
}

/// What a deletion at the vendor does here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnRemoteDelete {
    /// Ours stays, and is shown as missing there.
    #[default]
    Keep,
    /// Ours is deleted too, unless it was edited since.
    Delete,
}

/// What a deletion here does at the vendor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLocalDelete {
    /// Theirs is left alone.
    #[default]
    Unlink,
    /// Theirs goes to the recycle bin.
    Archive,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// Merge the fields.
    Merge,
    /// Ours was deleted and theirs edited: ours comes back, and the fields are merged.
    Revive,
    /// Take the vendor's record in.
    TakeIn,
    /// Make the record at the vendor.
    Create,
    /// Move the vendor's record to its recycle bin.
    ArchiveRemote,
    /// End the link and leave theirs alone.
    Unlink,
    /// Remember that theirs is missing.
    Missing,
    /// Look a second time later.
    LookAgain,
    /// Delete ours.
    DeleteLocal,
    /// Both are gone.
    Tombstone,
    /// Leave it for later and tell a person.
    Forbidden,
}

/// Decides.
#[must_use]
pub fn decide(
    here: Here,
    there: There,
    link: Option<LinkState>,
    edited_here: bool,
    on_remote: OnRemoteDelete,
    on_local: OnLocalDelete,
) -> Step {
    use {Here as H, There as T};
    match (link, here, there) {
        (_, _, T::Forbidden) => Step::Forbidden,
        (None, H::Unknown, T::Found { .. }) => Step::TakeIn,
        (None, H::Present, T::Found { .. }) => Step::Merge,
        (None, H::Present, T::Unknown) => Step::Create,
        (None, ..) => Step::Nothing,
        (Some(LinkState::Unlinked), H::Deleted | H::Unknown, T::Archived) => Step::Tombstone,
        (Some(LinkState::Unlinked | LinkState::Tombstoned), H::Deleted | H::Unknown, _) => Step::Nothing,
        (Some(_), H::Present, T::Found { .. }) => Step::Merge,
        (Some(_), H::Deleted, T::Found { edited: true }) => Step::Revive,
        (Some(_), H::Deleted, T::Found { edited: false }) => match on_local {
            OnLocalDelete::Unlink => Step::Unlink,
            OnLocalDelete::Archive => Step::ArchiveRemote,
        },
        (Some(_), _, T::Gone { again: false }) => Step::LookAgain,
        (Some(_), H::Deleted | H::Unknown, T::Archived | T::Gone { .. }) => Step::Tombstone,
        (Some(LinkState::RemoteMissing), H::Present, T::Archived | T::Gone { .. }) => Step::Nothing,
        (Some(_), H::Present, T::Archived | T::Gone { again: true }) => match on_remote {
            OnRemoteDelete::Delete if !edited_here => Step::DeleteLocal,
            _ => Step::Missing,
        },
        (Some(_), H::Unknown, T::Found { .. }) | (Some(_), _, T::Unknown) => Step::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: [Here; 3] = [Here::Present, Here::Deleted, Here::Unknown];
    const THERE: [There; 7] = [
        There::Found { edited: false },
        There::Found { edited: true },
        There::Archived,
        There::Gone { again: false },
        There::Gone { again: true },
        There::Forbidden,
        There::Unknown,
    ];
    const LINKS: [Option<LinkState>; 5] = [
        None,
        Some(LinkState::Linked),
        Some(LinkState::RemoteMissing),
        Some(LinkState::Unlinked),
        Some(LinkState::Tombstoned),
    ];

    fn each(mut check: impl FnMut(Here, There, Option<LinkState>, bool, OnRemoteDelete, OnLocalDelete, Step)) {
        for here in HERE {
            for there in THERE {
                for link in LINKS {
                    for edited in [false, true] {
                        for on_remote in [OnRemoteDelete::Keep, OnRemoteDelete::Delete] {
                            for on_local in [OnLocalDelete::Unlink, OnLocalDelete::Archive] {
                                let step = decide(here, there, link, edited, on_remote, on_local);
                                check(here, there, link, edited, on_remote, on_local, step);
                            }
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn no_cell_of_the_table_deletes_what_was_edited_or_cannot_be_seen() {
        each(|here, there, _, edited, on_remote, on_local, step| {
            let deletes = matches!(step, Step::DeleteLocal | Step::ArchiveRemote);
            if deletes {
                assert!(!matches!(
                    there,
                    There::Forbidden | There::Gone { again: false } | There::Found { edited: true }
                ));
            }
            if step == Step::DeleteLocal {
                assert!(here == Here::Present && !edited && on_remote == OnRemoteDelete::Delete);
            }
            if step == Step::ArchiveRemote {
                assert!(here == Here::Deleted && on_local == OnLocalDelete::Archive);
            }
        });
    }

    #[test]
    fn forbidden_is_never_gone_and_gone_is_looked_at_twice() {
        each(|here, there, link, _, _, _, step| {
            if there == There::Forbidden {
                assert_eq!(step, Step::Forbidden);
            }
            if there == (There::Gone { again: false }) {
                assert!(matches!(step, Step::LookAgain | Step::Nothing), "{here:?} {link:?}");
            }
        });
    }

    #[test]
    fn the_cells_people_ask_about() {
        use LinkState::{Linked, RemoteMissing, Unlinked};
        let (keep, unlink) = (OnRemoteDelete::Keep, OnLocalDelete::Unlink);
        let cell = |here, there, link| decide(here, there, link, false, keep, unlink);
        for (why, here, there, link, want) in [
            ("both have it", Here::Present, There::Found { edited: true }, Some(Linked), Step::Merge),
            ("a new one of theirs", Here::Unknown, There::Found { edited: false }, None, Step::TakeIn),
            ("a new one of ours", Here::Present, There::Unknown, None, Step::Create),
            ("archived there", Here::Present, There::Archived, Some(Linked), Step::Missing),
            ("still archived there", Here::Present, There::Archived, Some(RemoteMissing), Step::Nothing),
            ("restored there", Here::Present, There::Found { edited: false }, Some(RemoteMissing), Step::Merge),
            ("deleted here, edited there", Here::Deleted, There::Found { edited: true }, Some(Linked), Step::Revive),
            ("deleted here", Here::Deleted, There::Found { edited: false }, Some(Linked), Step::Unlink),
            (
                "deleted here, left alone there, then archived",
                Here::Deleted,
                There::Archived,
                Some(Unlinked),
                Step::Tombstone,
            ),
            ("deleted here and there", Here::Deleted, There::Archived, Some(Linked), Step::Tombstone),
        ] {
            assert_eq!(cell(here, there, link), want, "{why}");
        }
    }
}
