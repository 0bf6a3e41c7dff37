//! Storey 1: panics of the document engine.
//!
//! The engine takes for granted what every honest peer keeps, and panics on some messages and files that no honest
//! program writes (found by `csrc/fuzz`). Bytes of one peer must not take a room away from the others in it.

use std::panic::{catch_unwind, AssertUnwindSafe};

/// Calls the engine with bytes from outside; none if it panicked.
///
/// Nothing that `call` changed may be used then, unless [`super::rollback`] restores it.
pub(super) fn catch_panic<T>(call: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(call)).ok()
}
