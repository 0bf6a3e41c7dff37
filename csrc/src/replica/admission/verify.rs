//! Storey 1: one change that a peer made, on its way into a document.

use automerge::{Change, ExpandedChange};

use super::super::panic::catch_panic;

/// The change in a chunk, and its operations; none if it is damaged, or spelled in another way than the engine would.
///
/// Decoding a change looks neither at the checksum stored before it nor at all of its columns, and what of them is
/// read later may be something else.
pub fn verified(chunk: &[u8]) -> Option<(Change, ExpandedChange)> {
    catch_panic(|| {
        let change = Change::try_from(chunk).ok()?;
        let hash = change.hash();
        if hash.0[..4] != chunk[4..8] {
            return None;
        }
        let operations = change.decode();
        let same = Change::from(operations.clone()).hash() == hash;
        same.then_some((change, operations))
    })?
}
