//! Storey 1: an Automerge document that peers keep equal. Knows no schema.
//!
//! A document that can be read is a [`Doc`]; one that also applies changes of peers is a [`Replica`]. [`PeerSync`] is
//! the state of the sync protocol with one peer (`sync`). Messages and files from outside pass `admission`; a change
//! that the engine fails on is undone (`rollback`).

mod admission;
mod panic;
mod rollback;
mod sync;

pub use admission::{admit_file, any_packed, object_id, op_id, Applied};
pub use automerge::ChangeHash;
pub use sync::{barrier, PeerSync};

pub(crate) use admission::{check_own, LimitExceeded};

use std::fmt;

use automerge::{Automerge, TextEncoding};

/// Positions in a text are Unicode code points, whatever the platform prefers.
pub(crate) const ENCODING: TextEncoding = TextEncoding::UnicodeCodePoint;

/// A document, to be read.
pub trait Doc {
    /// The document itself.
    fn doc(&self) -> &Automerge;
}

/// A document that peers keep equal by the sync protocol: a notebook, the settings.
pub trait Replica: Doc {
    /// What a received message changed, in the terms of the document's schema.
    type Changes: Default;

    /// The document, for the changes of peers.
    fn doc_mut(&mut self) -> &mut Automerge;

    /// Called after the document has applied changes of a peer: updates what is kept beside it, and returns what
    /// changed.
    fn changed(&mut self, applied: &Applied<'_>) -> Self::Changes;

    /// Replaces the document by an earlier state of it: the engine failed during a change.
    fn restore(&mut self, document: Automerge);
}

/// Why a document could not be loaded, received or read. It is unchanged in every case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReplicaError {
    /// Bytes that should be a saved document are not one.
    Corrupt(String),
    /// Bytes that should be a sync message are not one, or carry changes that cannot be applied.
    BadSync(String),
    /// A change that this replica does not have.
    UnknownHeads(String),
    /// The document engine returned an unexpected error.
    Engine(String),
}

impl fmt::Display for ReplicaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Corrupt(text) => write!(f, "corrupt document: {text}"),
            Self::BadSync(text) => write!(f, "bad sync message: {text}"),
            Self::UnknownHeads(text) => write!(f, "unknown heads: {text}"),
            Self::Engine(text) => write!(f, "document error: {text}"),
        }
    }
}

impl std::error::Error for ReplicaError {}

impl From<automerge::AutomergeError> for ReplicaError {
    fn from(error: automerge::AutomergeError) -> Self {
        Self::Engine(error.to_string())
    }
}
