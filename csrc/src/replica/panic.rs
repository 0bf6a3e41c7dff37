//! Storey 1: panics of the document engine.
//!
//! The engine relies on rules that every correct peer keeps, and panics on some messages and files that no correct
//! program writes (found by `csrc/fuzz`). Bytes of one peer must not break a room for the other peers.

use std::panic::{catch_unwind, AssertUnwindSafe};

/// Calls the engine with bytes from outside; none if it panicked.
///
/// Nothing that `call` changed may be used then, unless [`super::rollback`] restores it.
pub(super) fn catch_panic<T>(call: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(call)).ok()
}
