//! Storey 1: the changes that a document applied from a message or a file.

use std::collections::{HashMap, HashSet};

use automerge::legacy::{ObjectId, Op, OpId};
use automerge::{Automerge, Change, ChangeHash, ExpandedChange, ObjId, ReadDoc};

use super::verify::DECODED_OPERATIONS;

/// Some changes of a message, decoded.
#[derive(Debug, Default)]
pub struct Decoded {
    changes: HashMap<ChangeHash, ExpandedChange>,
    operations: usize,
}

impl Decoded {
    /// Keeps a decoded change, unless that would be too much: then it is decoded again when needed, one at a time.
    pub fn add(&mut self, hash: ChangeHash, change: ExpandedChange) {
        self.operations += change.operations.len();
        if self.operations <= DECODED_OPERATIONS {
            self.changes.insert(hash, change);
        }
    }

    /// A change, if it was kept.
    pub fn get(&self, hash: &ChangeHash) -> Option<&ExpandedChange> {
        self.changes.get(hash)
    }
}

/// The changes that a document applied: those of the message, and those that had waited for them.
pub struct Applied<'a> {
    /// The heads of the document before.
    pub before: &'a [ChangeHash],
    pub(super) changes: Vec<Change>,
    pub(super) decoded: &'a Decoded,
}

impl<'a> Applied<'a> {
    /// What `doc` has and did not have `before`, as the engine encodes it; none if that differs from what it applied.
    pub fn of(doc: &Automerge, before: &'a [ChangeHash], decoded: &'a Decoded) -> Option<Self> {
        let (known, changes): (HashSet<ChangeHash>, Vec<Change>) = match doc.get_heads()[..] {
            // The usual case: one change that depends on everything that was there.
            [head] if decoded.get(&head).is_some_and(|change| change.deps == before) => {
                (HashSet::from([head]), doc.get_change_by_hash(&head).into_iter().collect())
            }
            _ => {
                let changes = doc.get_changes_meta(before);
                (changes.iter().map(|change| change.hash).collect(), doc.get_changes(before))
            }
        };
        let same =
            changes.len() == known.len() && changes.iter().all(|change| known.contains(&change.hash()));
        same.then_some(Self { before, changes, decoded })
    }

    /// The changes, each after those it depends on.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Calls `see` with the operations of each change.
    pub fn each_decoded(&self, mut see: impl FnMut(&ExpandedChange)) {
        for change in &self.changes {
            match self.decoded.get(&change.hash()) {
                Some(decoded) => see(decoded),
                None => see(&change.decode()),
            }
        }
    }

    /// Calls `see` with each operation and its id, which is also that of the object it makes.
    pub fn each_operation(&self, mut see: impl FnMut(ObjId, &Op)) {
        self.each_decoded(|change| {
            for (counter, op) in (change.start_op.get()..).zip(&change.operations) {
                see(ObjId::Id(counter, change.actor_id.clone(), 0), op);
            }
        });
    }
}

/// The object that an operation changes.
pub fn object_id(object: &ObjectId) -> ObjId {
    match object {
        ObjectId::Root => ObjId::Root,
        ObjectId::Id(id) => op_id(id),
    }
}

/// The id of an operation, or of the object it makes.
pub fn op_id(OpId(counter, actor): &OpId) -> ObjId {
    ObjId::Id(*counter, actor.clone(), 0)
}
