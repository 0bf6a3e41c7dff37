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

/// What the whole documents in a message say, to be compared with what the engine makes of them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Told {
    /// Their heads: the engine leaves out a document that it cannot load, and says nothing.
    pub(super) heads: Vec<ChangeHash>,
    /// Their chunks, if they were not loaded by themselves.
    pub(super) unloaded: Vec<Vec<u8>>,
}

impl Told {
    /// Checks whole chunks, one behind the other; none if one is no chunk, or a change that is no good.
    ///
    /// Documents that come `upon` one that has changes are loaded by themselves first: what the engine makes of a bad
    /// one cannot be taken out of that document again. A newcomer loads them once, and their numbers are looked at
    /// before.
    pub(super) fn add(&mut self, mut bytes: &[u8], upon: bool) -> Option<()> {
        while !bytes.is_empty() {
            let (kind, length) = chunks::first(bytes)?;
            let (chunk, rest) = bytes.split_at(length);
            match kind {
                Kind::Change => drop(checked(chunk)?),
                Kind::Document => {
                    if upon {
                        load(chunk).ok()?;
                    } else if numbers::agree(chunk) {
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

    fn all_checked(bytes: &[u8], upon: bool) -> Option<Told> {
        let mut told = Told::default();
        told.add(bytes, upon)?;
        Some(told)
    }

    #[test]
    fn only_whole_and_undamaged_changes_pass() {
        let mut notebook = Notebook::create("n").unwrap();
        notebook.edit(&[Op::insert_cell("a", "code", "x", None)]).unwrap();
        let changes = notebook.save_since(&[]);
        let (kind, length) = chunks::first(&changes).unwrap();
        assert_eq!((kind, checked(&changes[..length]).is_some()), (Kind::Change, true));
        let nothing = Told::default();
        assert_eq!(all_checked(&changes, true).as_ref(), Some(&nothing));
        assert_eq!(all_checked(&[], true).as_ref(), Some(&nothing));
        let (saved, heads) = (notebook.save(), notebook.heads());
        let unloaded = vec![saved.clone()];
        assert_eq!(all_checked(&saved, true), Some(Told { heads: heads.clone(), unloaded: vec![] }));
        assert_eq!(all_checked(&saved, false), Some(Told { heads, unloaded }));
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
