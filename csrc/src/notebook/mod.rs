//! Storey 1: the notebook document: the schema of a notebook (protocol 2, section 7) over Automerge.
//!
//! It knows no sockets, no threads, no clocks and no kernels: everything here is a function of the document and of the
//! bytes it is given. What it shares with other documents, above all the sync protocol, is in [`crate::replica`].
//!
//! One noun a file: [`Notebook`] (`document`, copies of it in `fork`), [`Cell`] (`cell`), [`Op`] (`op`, applied by
//! `edit`), [`Changes`] (`outputs_change`; read from patches by `changes`, with `splice` for lists that lost
//! something). Positions inside a source are Unicode code points.

mod cell;
mod changes;
mod document;
mod edit;
mod fork;
mod op;
mod outputs_change;
mod rows;
mod splice;
mod text;

pub use cell::Cell;
pub use document::Notebook;
pub use op::{parse_ops, Op};
pub use outputs_change::{Changes, OutputChange};

use std::fmt;

/// Why an edit of a notebook did not happen. The document is unchanged in every case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EditError {
    /// No visible cell has this id.
    CellNotFound(String),
    /// An edit that makes no sense: unknown operation, missing member, position out of range.
    BadOp(String),
    /// The document engine returned an unexpected error.
    Engine(String),
}

impl fmt::Display for EditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CellNotFound(id) => write!(f, "Cell not found: {id}"),
            Self::BadOp(text) => write!(f, "bad operation: {text}"),
            Self::Engine(text) => write!(f, "document error: {text}"),
        }
    }
}

impl std::error::Error for EditError {}

impl From<automerge::AutomergeError> for EditError {
    fn from(error: automerge::AutomergeError) -> Self {
        Self::Engine(error.to_string())
    }
}
