//! Storey 1: panics of the document engine, contained.
//!
//! The engine takes for granted what every honest peer keeps, and panics on some messages and files that nobody honest
//! writes (found by `csrc/fuzz`). Bytes from outside must not be able to take a room away from everybody else in it.

use std::any::Any;
use std::collections::HashSet;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};

use automerge::{Automerge, Change, ChangeHash};

use super::document::ENCODING;
use super::{NotebookError, Replica};

/// Calls the engine with bytes from outside; none if it panicked.
///
/// Nothing that `call` changed may be used then, unless it is [`rebuilt`].
pub(super) fn contained<T>(call: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(call)).ok()
}

/// Calls the engine, which changes `replica` by bytes from outside. If it panics, or if it took what it cannot keep, the
/// replica becomes what it was before, and that is an error of the sender.
///
/// # Panics
/// When what the engine left cannot be proven to be the document as it was.
pub(super) fn contained_change<T>(
    replica: &mut dyn Replica,
    call: impl FnOnce(&mut dyn Replica) -> Result<T, NotebookError>,
) -> Result<T, NotebookError> {
    let before = replica.doc().get_heads();
    let panic: Box<dyn Any + Send> = match catch_unwind(AssertUnwindSafe(|| call(replica))) {
        // A newcomer takes the document of the room as it is, and keeps it for nobody.
        Ok(result) if before.is_empty() || can_be_kept(replica.doc(), &before) => return result,
        Ok(_) => Box::new("changes that cannot be kept"),
        Err(panic) => panic,
    };
    match contained(|| rebuilt(replica.doc(), &before)).flatten() {
        Some(intact) => {
            replica.restore(intact);
            Err(NotebookError::BadSync("the document engine cannot take these changes".into()))
        }
        None => resume_unwind(panic),
    }
}

/// True if the engine can give again what was added to the document since it had these heads.
///
/// It takes changes that say what it does not keep, such as deleting what never was, and remembers them by their
/// hashes; but what it makes of them later has others, and such a document can be saved and never loaded.
pub(super) fn can_be_kept(doc: &Automerge, since: &[ChangeHash]) -> bool {
    let hashes =
        |doc: &Automerge| doc.get_changes_meta(since).iter().map(|change| change.hash).collect::<Vec<_>>();
    contained(|| {
        let known: HashSet<ChangeHash> = hashes(doc).into_iter().collect();
        let given = doc.get_changes(since);
        given.len() == known.len()
            && given.iter().all(|change| known.contains(&change.hash()) && follows(doc, change))
    })
    .unwrap_or(false)
}

/// True if the operations of a change are numbered behind those it depends on; without any of its own, right behind.
/// A saved document does not say where the numbers of a change begin.
fn follows(doc: &Automerge, change: &Change) -> bool {
    let deps = change.deps().iter().filter_map(|dep| doc.get_change_meta_by_hash(dep));
    let before = deps.map(|dep| dep.max_op).max().unwrap_or(0);
    let start = change.start_op().get();
    start > before && (!change.is_empty() || start == before + 1)
}

/// The document as it was with these heads, out of what a failure left of it.
///
/// Heads are hashes over everything that led to them, and are computed anew from the content here: a document with the
/// same heads is the same document. Changes that wait for others are left out, the one that broke it may be among
/// them; peers send them again when they are asked for what is missing.
fn rebuilt(doc: &Automerge, heads: &[ChangeHash]) -> Option<Automerge> {
    let again =
        if heads.is_empty() { Automerge::new_with_encoding(ENCODING) } else { doc.fork_at(heads).ok()? };
    (again.get_heads() == heads).then(|| again.with_actor(doc.get_actor().clone()))
}
