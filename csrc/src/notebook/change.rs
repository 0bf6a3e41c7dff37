//! Storey 1: a change that somebody else made, on its way into a document.

use automerge::Change;

use super::chunks::{self, Kind};
use super::contain::contained;

/// The change in a chunk; none if it is damaged, or spelled in another way than the engine would.
///
/// Decoding a change looks neither at the checksum stored before it nor at all of its columns, and what of them is
/// read later may be something else.
pub(super) fn checked(chunk: &[u8]) -> Option<Change> {
    contained(|| {
        let change = Change::try_from(chunk).ok()?;
        let hash = change.hash();
        let good = hash.0[..4] == chunk[4..8] && Change::from(change.decode()).hash() == hash;
        good.then_some(change)
    })?
}

/// True if `bytes` are whole chunks from end to end (none at all counts), the changes among them good ones.
pub(super) fn all_checked(mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match chunks::first(bytes) {
            Some((Kind::Change, length)) if checked(&bytes[..length]).is_none() => return false,
            Some((_, length)) => bytes = &bytes[length..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notebook::{Notebook, Op};

    #[test]
    fn only_whole_and_undamaged_changes_pass() {
        let mut notebook = Notebook::create("n").unwrap();
        notebook.edit(&[Op::insert_cell("a", "code", "x", None)]).unwrap();
        let changes = notebook.save_since(&[]);
        let (kind, length) = chunks::first(&changes).unwrap();
        assert_eq!((kind, checked(&changes[..length]).is_some()), (Kind::Change, true));
        assert!(all_checked(&changes) && all_checked(&[]) && all_checked(&notebook.save()));
        for cut in 1..changes.len() {
            assert_eq!(all_checked(&changes[..cut]), cut == length, "cut at {cut}");
        }
        // Not the bytes that say what a chunk is: kinds that are newer than us are for the engine to judge.
        for at in (0..changes.len()).filter(|at| *at != 8 && *at != length + 8) {
            let mut damaged = changes.clone();
            damaged[at] ^= 0x10;
            assert!(!all_checked(&damaged), "byte {at}");
        }
    }
}
