//! Storey 1: admission of sync messages.

use automerge::{Automerge, Change, ChangeHash};

use super::super::panic::catch_panic;
use super::super::rollback::rebuilt;
use super::super::ReplicaError;
use super::applied::{Applied, Decoded};
use super::chunks::{self, Kind};
use super::document::{heads_of, load};
use super::keep::kept;
use super::limits::{LimitExceeded, OpCount};
use super::op_ids;
use super::ops::OpRules;
use super::replay::{replay, Replayed};
use super::verify::verified;

/// The content of a message, checked as far as is possible before a document applies it.
#[derive(Debug, Default)]
pub struct Admitted {
    /// Its single changes.
    changes: Vec<Change>,
    decoded: Decoded,
    /// The heads of its whole documents: the engine silently skips a document that it cannot load.
    heads: Vec<ChangeHash>,
    /// The chunks of whole documents that were not loaded by themselves.
    unloaded: Vec<Vec<u8>>,
    /// All of its chunks, if some are not single changes: the engine applies them together.
    together: Vec<u8>,
}

/// Checks the content of a message, whole chunks one after the other, for a replica that is `empty` or not.
///
/// If the replica has changes, whole documents are loaded on their own first: what the engine makes of a bad one could
/// not be removed from the replica again. An empty replica loads them once, after a check of their operation ids.
///
/// # Errors
/// A limit is exceeded, or `Unreadable`: something is not a chunk, is damaged, or is a change that the engine would
/// encode otherwise.
pub fn admit_message<'c>(
    bytes: impl Iterator<Item = &'c [u8]>,
    empty: bool,
) -> Result<Admitted, LimitExceeded> {
    let mut admitted = Admitted::default();
    let mut count = OpCount::default();
    for mut rest in bytes {
        // Before anything is decoded: a few bytes may stand for more than any memory holds.
        count.add(rest)?;
        admitted.together.extend(rest);
        while let Some((kind, length)) = chunks::first(rest) {
            admitted.add(kind, &rest[..length], empty).ok_or(LimitExceeded::Unreadable)?;
            rest = &rest[length..];
        }
    }
    if !empty && admitted.heads.is_empty() {
        admitted.together = Vec::new();
    }
    Ok(admitted)
}

impl Admitted {
    fn add(&mut self, kind: Kind, chunk: &[u8], empty: bool) -> Option<()> {
        match kind {
            Kind::Change => {
                let (change, decoded) = verified(chunk)?;
                decoded.into_iter().for_each(|decoded| self.decoded.add(change.hash(), decoded));
                self.changes.push(change);
            }
            Kind::Document => {
                if !empty {
                    load(chunk).ok()?;
                } else if op_ids::consistent(chunk) {
                    self.unloaded.push(chunk.to_vec());
                } else {
                    return None;
                }
                self.heads.extend(heads_of(chunk).ok()?);
            }
            Kind::Other => return None,
        }
        Some(())
    }

    /// Applies it with the engine. The document must be restored if that panics. A small change is replayed if the peer
    /// `writes_as_we_do`, which becomes false if a replayed change has another hash.
    ///
    /// # Errors
    /// The engine refuses it, and has not changed the document.
    pub fn apply(&mut self, doc: &mut Automerge, writes_as_we_do: &mut bool) -> Result<(), ReplicaError> {
        let before = doc.get_heads();
        let result = if self.together.is_empty() {
            let rest = self.replay(doc, writes_as_we_do);
            doc.apply_changes(rest)
        } else {
            doc.load_incremental(&self.together).map(drop)
        };
        result.map_err(|error| {
            if doc.get_heads() != before {
                // The changes before the refused one were replayed.
                *doc = intact(doc, &before);
            }
            ReplicaError::BadSync(error.to_string())
        })
    }

    /// Replays the changes that can be replayed; returns the others, which follow them.
    fn replay(&mut self, doc: &mut Automerge, writes_as_we_do: &mut bool) -> Vec<Change> {
        let mut changes = std::mem::take(&mut self.changes);
        let mut done = 0;
        while let Some(change) = changes.get(done).filter(|_| *writes_as_we_do) {
            let Some(decoded) = self.decoded.get(&change.hash()) else { break };
            let before = doc.get_heads();
            match replay(doc, change.hash(), decoded) {
                Replayed::Done => done += 1,
                Replayed::Untouched => break,
                Replayed::Spoiled => {
                    *doc = intact(doc, &before);
                    *writes_as_we_do = false;
                }
            }
        }
        changes.split_off(done)
    }

    /// What `doc`, which had the heads `before`, applied of it; none if it cannot be kept: if a whole document is
    /// missing, or if the engine could not save everything and load it again.
    ///
    /// Whole documents that an empty replica loaded are not encoded again: their hashes and ids are known to be right,
    /// and encoding would cost nearly as much as loading them did.
    pub fn kept<'a>(&'a self, doc: &Automerge, before: &'a [ChangeHash]) -> Option<Applied<'a>> {
        let sound =
            |chunk| matches!(OpRules::of_document(doc, chunk), Some(OpRules { misplaced: false, .. }));
        let there = |head| doc.get_change_meta_by_hash(head).is_some();
        let whole =
            catch_panic(|| self.heads.iter().all(there) && self.unloaded.iter().all(|chunk| sound(chunk)));
        let since = if before.is_empty() { &self.heads } else { before };
        let applied = whole?.then(|| kept(doc, since, &self.decoded))??;
        Some(Applied { before, ..applied })
    }
}

/// The document with these heads, which it had before this message.
fn intact(doc: &Automerge, heads: &[ChangeHash]) -> Automerge {
    rebuilt(doc, heads).expect("the document has the ancestors of these heads")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notebook::{Notebook, Op};

    /// How many changes pass, the heads of documents, and their chunks.
    type Passed = (usize, Vec<ChangeHash>, Vec<Vec<u8>>);

    fn passed(bytes: &[u8], empty: bool) -> Option<Passed> {
        let admitted = admit_message([bytes].into_iter(), empty).ok()?;
        Some((admitted.changes.len(), admitted.heads, admitted.unloaded))
    }

    #[test]
    fn only_whole_and_undamaged_changes_pass() {
        let mut notebook = Notebook::create("n").unwrap();
        notebook.edit(&[Op::insert_cell("a", "code", "x", None)]).unwrap();
        let changes = notebook.save_since(&[]);
        let (kind, length) = chunks::first(&changes).unwrap();
        assert_eq!((kind, verified(&changes[..length]).is_some()), (Kind::Change, true));
        assert_eq!(passed(&changes, false), Some((2, vec![], vec![])));
        assert_eq!(passed(&[], false), Some((0, vec![], vec![])));
        let (saved, heads) = (notebook.save(), notebook.heads());
        assert_eq!(passed(&saved, false), Some((0, heads.clone(), vec![])));
        assert_eq!(passed(&saved, true), Some((0, heads, vec![saved.clone()])));
        for cut in 1..changes.len() {
            assert_eq!(passed(&changes[..cut], false).is_some(), cut == length, "cut at {cut}");
        }
        // Not the type bytes of chunks: the engine decides about kinds that are newer than this library.
        for at in (0..changes.len()).filter(|at| *at != 8 && *at != length + 8) {
            let mut damaged = changes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(passed(&damaged, false), None, "byte {at}");
        }
    }
}
