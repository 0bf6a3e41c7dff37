//! Storey 1: a change that somebody else made, on its way into a document.

use automerge::{Change, ChangeHash};

use super::super::panic::catch_panic;
use super::chunks::{self, Kind};
use super::document::{heads_of, load};
use super::op_ids;

/// The change in a chunk; none if it is damaged, or spelled in another way than the engine would.
///
/// Decoding a change looks neither at the checksum stored before it nor at all of its columns, and what of them is
/// read later may be something else.
pub fn verified(chunk: &[u8]) -> Option<Change> {
    catch_panic(|| {
        let change = Change::try_from(chunk).ok()?;
        let hash = change.hash();
        let good = hash.0[..4] == chunk[4..8] && Change::from(change.decode()).hash() == hash;
        good.then_some(change)
    })?
}

/// What the whole documents in a message say, to be compared with what the engine makes of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// Their heads: the engine leaves out a document that it cannot load, and says nothing.
    pub heads: Vec<ChangeHash>,
    /// Their chunks, if they were not loaded by themselves.
    pub unloaded: Vec<Vec<u8>>,
}

impl Announced {
    /// Checks whole chunks, one behind the other; none if one is no chunk, or a change that is no good.
    ///
    /// Documents that come `upon` one that has changes are loaded by themselves first: what the engine makes of a bad
    /// one cannot be taken out of that document again. A newcomer loads them once, and their numbers are looked at
    /// before.
    pub fn add(&mut self, mut bytes: &[u8], upon: bool) -> Option<()> {
        while !bytes.is_empty() {
            let (kind, length) = chunks::first(bytes)?;
            let (chunk, rest) = bytes.split_at(length);
            match kind {
                Kind::Change => drop(verified(chunk)?),
                Kind::Document => {
                    if upon {
                        load(chunk).ok()?;
                    } else if op_ids::consistent(chunk) {
                        self.unloaded.push(chunk.to_vec());
                    } else {
                        return None;
                    }
                    self.heads.extend(heads_of(chunk).ok()?);
                }
                Kind::Other => {}
            }
            bytes = rest;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notebook::{Notebook, Op};

    fn all_verified(bytes: &[u8], upon: bool) -> Option<Announced> {
        let mut announced = Announced::default();
        announced.add(bytes, upon)?;
        Some(announced)
    }

    #[test]
    fn only_whole_and_undamaged_changes_pass() {
        let mut notebook = Notebook::create("n").unwrap();
        notebook.edit(&[Op::insert_cell("a", "code", "x", None)]).unwrap();
        let changes = notebook.save_since(&[]);
        let (kind, length) = chunks::first(&changes).unwrap();
        assert_eq!((kind, verified(&changes[..length]).is_some()), (Kind::Change, true));
        let nothing = Announced::default();
        assert_eq!(all_verified(&changes, true).as_ref(), Some(&nothing));
        assert_eq!(all_verified(&[], true).as_ref(), Some(&nothing));
        let (saved, heads) = (notebook.save(), notebook.heads());
        let unloaded = vec![saved.clone()];
        assert_eq!(all_verified(&saved, true), Some(Announced { heads: heads.clone(), unloaded: vec![] }));
        assert_eq!(all_verified(&saved, false), Some(Announced { heads, unloaded }));
        for cut in 1..changes.len() {
            assert_eq!(all_verified(&changes[..cut], true).is_some(), cut == length, "cut at {cut}");
        }
        // Not the bytes that say what a chunk is: kinds that are newer than us are for the engine to judge.
        for at in (0..changes.len()).filter(|at| *at != 8 && *at != length + 8) {
            let mut damaged = changes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(all_verified(&damaged, true), None, "byte {at}");
        }
    }
}
