//! Storey 1: copies of a notebook that are edited apart and merged.

use automerge::{AutomergeError, Change};

use super::rows::Rows;
use super::{EditError, Notebook};
use crate::replica::{ChangeHash, ReplicaError};

impl Notebook {
    /// A copy of this replica under an identity of its own.
    pub fn fork(&self) -> Self {
        Self { doc: self.doc.fork(), rows: self.rows.clone() }
    }

    /// A copy of what this replica was when these were its heads. Costs as much as loading that document.
    ///
    /// # Errors
    /// `UnknownHeads` when a change is not in this replica.
    pub fn fork_at(&self, heads: &[ChangeHash]) -> Result<Self, ReplicaError> {
        let doc = self.doc.fork_at(heads).map_err(|error| match error {
            AutomergeError::InvalidHash(hash) => ReplicaError::UnknownHeads(hash.to_string()),
            other => other.into(),
        })?;
        let rows = Rows::build(&doc);
        Ok(Self { doc, rows })
    }

    /// Merges the changes of a copy of this notebook, as if they came from a peer: edits of a text merge
    /// by character, and what both sides inserted is there twice. False if there is nothing new.
    ///
    /// # Errors
    /// `BadOp` when the other is no copy of this notebook; nothing changed then. Two roots would conflict,
    /// and one list of cells disappear (protocol 2, section 7.2).
    pub fn merge(&mut self, other: &Self) -> Result<bool, EditError> {
        let added = self.doc.get_changes_added(&other.doc);
        if !self.is_empty() && added.iter().map(Change::deps).any(<[ChangeHash]>::is_empty) {
            return Err(EditError::BadOp("the other document is no copy of this one".into()));
        }
        if added.is_empty() {
            return Ok(false);
        }
        self.doc.apply_changes(added)?;
        self.rows = Rows::build(&self.doc);
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notebook::Op;

    fn set(id: &str, source: &str) -> Op {
        Op::SetSource { cell_id: id.into(), source: source.into() }
    }

    fn notebook() -> Notebook {
        let mut notebook = Notebook::create("n").unwrap();
        notebook.edit(&[Op::insert_cell("a", "code", "one two", None)]).unwrap();
        notebook
    }

    #[test]
    fn a_copy_of_the_past_merges_by_character() {
        let mut room = notebook();
        let past = room.heads();
        room.edit(&[set("a", "ONE two"), Op::insert_cell("b", "code", "", Some(0))]).unwrap();
        let mut away = room.fork_at(&past).unwrap();
        assert_eq!(away.source("a").unwrap(), "one two");
        away.edit(&[set("a", "one TWO"), Op::insert_cell("c", "raw", "", None)]).unwrap();
        assert!(room.merge(&away).unwrap());
        assert_eq!(room.source("a").unwrap(), "ONE TWO");
        assert_eq!(room.cell_ids(), ["b", "a", "c"]);
        assert!(!room.merge(&away).unwrap(), "nothing comes twice");
        // The order of cells is known: an edit finds them.
        room.edit(&[set("c", "x")]).unwrap();
        assert_eq!(room.cell("c").unwrap().source, "x");
    }

    #[test]
    fn a_copy_of_the_present_has_its_heads_and_another_identity() {
        let mut room = notebook();
        let mut copy = room.fork();
        assert_eq!(copy.heads(), room.heads());
        copy.edit(&[set("a", "copy")]).unwrap();
        room.edit(&[Op::insert_cell("b", "code", "", None)]).unwrap();
        room.merge(&copy).unwrap();
        assert_eq!((room.source("a").unwrap().as_str(), room.cells().len()), ("copy", 2));
    }

    #[test]
    fn strangers_are_refused() {
        let mut room = notebook();
        let (before, stranger) = (room.heads(), notebook());
        assert!(matches!(room.merge(&stranger), Err(EditError::BadOp(_))));
        assert!(matches!(room.fork_at(&stranger.heads()), Err(ReplicaError::UnknownHeads(_))));
        assert_eq!(room.heads(), before);
    }
}
