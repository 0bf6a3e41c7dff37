//! Storey 1: admission of files: a saved document, then appended changes, of which a crash may have torn the last.

use automerge::Automerge;

use super::super::panic::catch_panic;
use super::super::{ReplicaError, ENCODING};
use super::applied::Decoded;
use super::chunks::{first, Kind};
use super::document::{broken, corrupt, load};
use super::keep::kept;
use super::limits::{LimitExceeded, OpCount};
use super::verify::verified;

/// Loads a saved document followed by appended change chunks, as far as they can be read.
///
/// True if the end was dropped: a crash can tear the last append. What follows the first unreadable chunk is dropped
/// with it, because an append is only ever written after the one before it.
///
/// # Errors
/// `Corrupt`: the first chunk is damaged, so nothing can be loaded; or the content is too large, or breaks the engine.
pub fn admit_file(bytes: &[u8]) -> Result<(Automerge, bool), ReplicaError> {
    let (kind, mut at) =
        first(bytes).ok_or_else(|| ReplicaError::Corrupt("the first chunk is not complete".into()))?;
    let mut count = OpCount::default();
    let mut changes = Vec::new();
    let mut doc = if kind == Kind::Change {
        at = 0;
        Automerge::new_with_encoding(ENCODING)
    } else {
        count.add(&bytes[..at]).map_err(too_large)?;
        load(&bytes[..at])?
    };
    while let Some((Kind::Change, length)) = first(&bytes[at..]) {
        let chunk = &bytes[at..at + length];
        match count.add(chunk) {
            Ok(()) => {}
            Err(LimitExceeded::Unreadable) => break,
            Err(limit) => return Err(too_large(limit)),
        }
        let Some((change, _)) = verified(chunk) else { break };
        changes.push(change);
        at += length;
    }
    if at == 0 {
        return Err(ReplicaError::Corrupt("the first change is damaged".into()));
    }
    let before = doc.get_heads();
    catch_panic(|| doc.apply_changes(changes)).ok_or_else(broken)?.map_err(corrupt)?;
    kept(&doc, &before, &Decoded::default()).ok_or_else(broken)?;
    Ok((doc, at < bytes.len()))
}

/// Loading it would take more memory than there may be.
fn too_large(limit: LimitExceeded) -> ReplicaError {
    ReplicaError::Corrupt(limit.to_string())
}
