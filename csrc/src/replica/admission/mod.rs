//! Storey 1: what may enter a document.
//!
//! `chunks` and `columns` read Automerge's storage format. Before the engine sees a message or a file, `limits` counts its
//! operations and `verify` checks its changes; when the engine has applied it, `keep` and `ops` look for what it took and
//! could not save and load. `document` loads a whole document, `op_ids` checks the ids of its operations.

mod chunks;
mod columns;
mod document;
mod keep;
mod limits;
mod op_ids;
mod ops;
mod verify;

pub use chunks::any_packed;
pub use limits::{check_own, LimitExceeded};

pub(super) use chunks::{first, leb128, Kind};
pub(super) use document::{broken, corrupt, load};
pub(super) use keep::{can_be_kept, includes, since};
pub(super) use limits::OpCount;
pub(super) use verify::{verified, Announced};
