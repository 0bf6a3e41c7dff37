//! Storey 1: the notebook document and the sync state of a peer.
//!
//! This module knows the schema of a notebook (protocol 2, section 7) over Automerge. It knows no
//! sockets, no threads, no clocks and no kernels: everything here is a function of the document and
//! of the bytes it is given.
//!
//! One noun a file: [`Notebook`] (`document`, copies of it in `fork`), [`Cell`] (`cell`), [`Op`] (`op`, applied by
//! `edit`), [`PeerSync`] (`sync`), [`Changes`] (`changes`, with `splice` for lists that lost something). What comes from
//! outside is looked at first (`weight`, `change`), applied so that a panic does no harm (`contain`), and looked at again
//! (`operations`); `chunks` and `columns` read the storage format. Positions inside a source are Unicode code points.

mod cell;
mod change;
mod changes;
mod chunks;
mod columns;
mod contain;
mod document;
mod edit;
mod fork;
mod numbers;
mod op;
mod operations;
mod rows;
mod splice;
mod sync;
mod text;
mod weight;

pub use automerge::ChangeHash;
pub use cell::Cell;
pub use changes::{Changes, OutputChange};
pub use chunks::any_packed;
pub use document::Notebook;
pub use op::{parse_ops, Op};
pub use sync::{barrier, PeerSync, Replica};

pub(crate) use document::{load_prefix, ENCODING};

use std::fmt;

/// Why an operation on a notebook did not happen. The document is unchanged in every case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotebookError {
    /// No visible cell has this id.
    CellNotFound(String),
    /// An edit that makes no sense: unknown operation, missing member, position out of range.
    BadOp(String),
    /// Bytes that should be a saved document are not one.
    Corrupt(String),
    /// Bytes that should be a sync message are not one, or carry changes that cannot be applied.
    BadSync(String),
    /// A change that this replica does not have.
    UnknownHeads(String),
    /// The document engine refused something this module did not foresee.
    Automerge(String),
}

impl fmt::Display for NotebookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CellNotFound(id) => write!(f, "Cell not found: {id}"),
            Self::BadOp(text) => write!(f, "bad operation: {text}"),
            Self::Corrupt(text) => write!(f, "corrupt document: {text}"),
            Self::BadSync(text) => write!(f, "bad sync message: {text}"),
            Self::UnknownHeads(text) => write!(f, "unknown heads: {text}"),
            Self::Automerge(text) => write!(f, "document error: {text}"),
        }
    }
}

impl std::error::Error for NotebookError {}

impl From<automerge::AutomergeError> for NotebookError {
    fn from(error: automerge::AutomergeError) -> Self {
        Self::Automerge(error.to_string())
    }
}
