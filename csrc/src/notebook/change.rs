//! Storey 1: a change that somebody else made, on its way into a document.

use automerge::{Change, ChangeHash};

use super::chunks::{self, Kind};
use super::columns::{Reader, Unreadable};
use super::contain::contained;
use super::document::load;
use super::numbers;

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

/// Checks whole chunks, one behind the other; none if one is no chunk, or a change that is no good.
///
/// Gives the heads of whole documents among them: the engine leaves out one that it cannot load, and says nothing.
/// If they come `upon` a document that has changes, they are loaded by themselves first: what the engine makes of a bad
/// one cannot be taken out of that document again. A newcomer loads them once, and their numbers are looked at before.
pub(super) fn all_checked(mut bytes: &[u8], upon: bool) -> Option<Vec<ChangeHash>> {
    let mut heads = Vec::new();
    while !bytes.is_empty() {
        let (kind, length) = chunks::first(bytes)?;
        let (chunk, rest) = bytes.split_at(length);
        match kind {
            Kind::Change => drop(checked(chunk)?),
            Kind::Document => {
                if upon {
                    load(chunk).ok()?;
                } else if !numbers::agree(chunk) {
                    return None;
                }
                heads.extend(heads_of(chunk).ok()?);
            }
            Kind::Other => {}
        }
        bytes = rest;
    }
    Some(heads)
}

/// The heads that a whole document says it has.
fn heads_of(document: &[u8]) -> Result<Vec<ChangeHash>, Unreadable> {
    let (_, body, _) = chunks::split(document).ok_or(Unreadable)?;
    let mut reader = Reader::new(body);
    reader.list()?; // Authors.
    let hashes = reader.hashes()?.chunks_exact(32);
    Ok(hashes.map(|hash| ChangeHash(hash.try_into().expect("32 bytes"))).collect())
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
        assert_eq!(all_checked(&changes, true), Some(vec![]));
        assert_eq!(all_checked(&[], true), Some(vec![]));
        assert_eq!(all_checked(&notebook.save(), true), Some(notebook.heads()));
        for cut in 1..changes.len() {
            assert_eq!(all_checked(&changes[..cut], true).is_some(), cut == length, "cut at {cut}");
        }
        // Not the bytes that say what a chunk is: kinds that are newer than us are for the engine to judge.
        for at in (0..changes.len()).filter(|at| *at != 8 && *at != length + 8) {
            let mut damaged = changes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(all_checked(&damaged, true), None, "byte {at}");
        }
    }
}
