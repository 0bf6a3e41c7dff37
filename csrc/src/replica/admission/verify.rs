//! Storey 1: one change that a peer made, on its way into a document.

use automerge::{Change, ExpandedChange};

use super::super::panic::catch_panic;

/// Operations of a change that are returned with it. One takes about 250 bytes.
pub const DECODED_OPERATIONS: usize = 1 << 12;

/// The change in a chunk, decoded too if it has not too many operations; none if it is damaged, or encoded otherwise
/// than the engine would.
///
/// Decoding a change checks neither the checksum stored before it nor all of its columns, and a later read of them may
/// give something else.
pub fn verified(chunk: &[u8]) -> Option<(Change, Option<ExpandedChange>)> {
    catch_panic(|| {
        let change = Change::try_from(chunk).ok()?;
        let hash = change.hash();
        if hash.0[..4] != chunk[4..8] {
            return None;
        }
        let decoded = change.decode();
        let kept = (decoded.operations.len() <= DECODED_OPERATIONS).then(|| decoded.clone());
        let same = Change::from(decoded).hash() == hash;
        same.then_some((change, kept))
    })?
}
