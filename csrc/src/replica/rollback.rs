//! Storey 1: undoing a change that the document engine failed on.

use std::any::Any;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};

use automerge::{Automerge, ChangeHash};

use super::panic::catch_panic;
use super::{Replica, ReplicaError, ENCODING};

/// Calls the engine, which changes `replica` by bytes from outside. If it panics, or if it accepted what cannot be kept
/// (none), restores the replica and reports an error of the sender.
///
/// # Errors
/// That of `apply`, which has not changed the document then; or `BadSync`.
///
/// # Panics
/// When what the engine left cannot be proven to be the document as it was.
pub(super) fn apply_or_restore<R: Replica, T>(
    replica: &mut R,
    before: &[ChangeHash],
    apply: impl FnOnce(&mut R) -> Result<Option<T>, ReplicaError>,
) -> Result<T, ReplicaError> {
    let own = replica.doc().get_actor().clone();
    let panic: Box<dyn Any + Send> = match catch_unwind(AssertUnwindSafe(|| apply(replica))) {
        Ok(Err(error)) => return Err(error),
        Ok(Ok(Some(done))) => return Ok(done),
        Ok(Ok(None)) => Box::new("changes that cannot be kept"),
        Err(panic) => panic,
    };
    match catch_panic(|| rebuilt(replica.doc(), before)).flatten() {
        Some(intact) => {
            replica.restore(intact.with_actor(own));
            Err(ReplicaError::BadSync("the document engine cannot take these changes".into()))
        }
        None => resume_unwind(panic),
    }
}

/// Rebuilds the document as it was with these heads from what a failure left of it.
///
/// Heads are hashes over their whole history, and are recomputed from the content here: a document with the same heads
/// is the same document. Changes that wait for others are dropped, since the one that broke the engine may be among
/// them; peers send them again when asked for what is missing.
pub(super) fn rebuilt(doc: &Automerge, heads: &[ChangeHash]) -> Option<Automerge> {
    let again =
        if heads.is_empty() { Automerge::new_with_encoding(ENCODING) } else { doc.fork_at(heads).ok()? };
    (again.get_heads() == heads).then(|| again.with_actor(doc.get_actor().clone()))
}
