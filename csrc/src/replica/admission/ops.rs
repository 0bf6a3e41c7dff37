//! Storey 1: operations that the engine accepts and fails on later.
//!
//! They are searched for after the engine has applied them: what they act on may have been made by another change.
//! Those of a whole document are read from its columns, row by row.

use automerge::legacy::OpType;
use automerge::{ActorId, Automerge, ExpandedChange, ObjId, ObjType, ReadDoc};

use super::applied::object_id;
use super::chunks;
use super::columns::{Reader, Unreadable, Values};

const OBJECT_ACTOR: u64 = 0x01;
const OBJECT_COUNTER: u64 = 0x02;
const KEY_TEXT: u64 = 0x15;
const INSERT: u64 = 0x34;
const ACTION: u64 = 0x42;

/// The action that begins or ends a mark.
const MARK: u64 = 7;

/// Kinds of operations that need a closer check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpRules {
    /// They format text. This library writes none, but others may, and the engine checks them only when a saved
    /// document is loaded.
    pub marks: bool,
    /// They use a key in a list or a text, or a position in a map: editing that list would make the engine panic.
    /// Or they insert into an object without positions: a replica that applied that sees it under another name than a
    /// replica that loaded it.
    pub misplaced: bool,
}

impl OpRules {
    /// Checks the operations of a change that `doc` has applied.
    pub fn of_change(doc: &Automerge, change: &ExpandedChange) -> Self {
        let mut found = Self::default();
        let mut last = None;
        for op in &change.operations {
            let listed = match last {
                Some((object, listed)) if object == &op.obj => listed,
                _ => is_listed(doc, object_id(&op.obj)),
            };
            last = Some((&op.obj, listed));
            let mark = matches!(op.action, OpType::MarkBegin(_) | OpType::MarkEnd(_));
            found.add(mark, listed, op.key.is_map_key(), op.insert);
        }
        found
    }

    /// Checks the whole document in a chunk, from which `doc` was loaded; none if it cannot be read.
    pub fn of_document(doc: &Automerge, chunk: &[u8]) -> Option<Self> {
        let (_, body, _) = chunks::split(chunk)?;
        Self::of_body(doc, body).ok()
    }

    fn of_body(doc: &Automerge, body: &[u8]) -> Result<Self, Unreadable> {
        let actors: Vec<ActorId> = Reader::new(body).list()?.into_iter().map(ActorId::from).collect();
        let (_, columns) = Reader::new(body).document()?;
        let (mut object_actor, mut object_counter) =
            (Values::numbers(columns.get(OBJECT_ACTOR)), Values::numbers(columns.get(OBJECT_COUNTER)));
        let (mut key, mut action) =
            (Values::texts(columns.get(KEY_TEXT)), Values::numbers(columns.get(ACTION)));
        let mut insert = Values::flags(columns.get(INSERT));
        let mut found = Self::default();
        let mut last = None;
        while let Some(action) = action.row()? {
            let object = (object_actor.row()?.flatten(), object_counter.row()?.flatten());
            let named = key.row()?.flatten().is_some();
            let inserted = insert.row()?.flatten() == Some(1);
            let listed = match last {
                Some((same, listed)) if same == object => listed,
                _ => object_in(&actors, object).and_then(|object| is_listed(doc, object)),
            };
            last = Some((object, listed));
            found.add(action == Some(MARK), listed, named, inserted);
        }
        Ok(found)
    }

    fn add(&mut self, mark: bool, listed: Option<bool>, named: bool, inserted: bool) {
        self.marks |= mark;
        self.misplaced |= listed == Some(named) || named && inserted;
    }
}

/// The object that a row of columns names; none if its author is missing.
fn object_in(actors: &[ActorId], object: (Option<u64>, Option<u64>)) -> Option<ObjId> {
    match object {
        (Some(actor), Some(counter)) => {
            Some(ObjId::Id(counter, actors.get(usize::try_from(actor).ok()?)?.clone(), 0))
        }
        _ => Some(ObjId::Root),
    }
}

/// Whether an object has positions, not keys; none if there is no such object.
fn is_listed(doc: &Automerge, object: ObjId) -> Option<bool> {
    let kind = doc.object_type(object).ok()?;
    Some(matches!(kind, ObjType::List | ObjType::Text))
}

#[cfg(test)]
mod tests {
    use automerge::legacy::Key;
    use automerge::transaction::Transactable;
    use automerge::{Change, ROOT};

    use super::*;
    use crate::notebook::{Notebook, Op};
    use crate::replica::ReplicaError;

    fn notebook() -> Notebook {
        let mut notebook = Notebook::create("n").unwrap();
        let insert = |n: usize| Op::insert_cell(&n.to_string(), "code", &"x = 1\n".repeat(n), None);
        notebook.edit(&[insert(1), insert(100)]).unwrap();
        let outputs = vec!["o".into(); 200];
        notebook.edit(&[Op::AppendOutputs { cell_id: "1".into(), outputs }]).unwrap();
        notebook.edit(&[Op::DeleteCell { cell_id: "100".into() }]).unwrap();
        notebook
    }

    /// The last change of a copy that sets an entry of the root and puts something over an element of a list.
    fn change(notebook: &Notebook) -> (Automerge, Change) {
        let mut doc = notebook.doc.fork();
        let (_, cells) = doc.get(ROOT, "cells").unwrap().unwrap();
        doc.transact::<_, _, automerge::AutomergeError>(|tx| {
            tx.put(ROOT, "x", 1)?;
            tx.put(&cells, 0, 1)
        })
        .unwrap();
        let change = doc.get_last_local_change().unwrap();
        (notebook.doc.fork(), change)
    }

    #[test]
    fn notebooks_have_none() {
        let notebook = notebook();
        for change in notebook.doc.get_changes(&[]) {
            assert_eq!(OpRules::of_change(&notebook.doc, &change.decode()), OpRules::default());
        }
        let saved = OpRules::of_document(&notebook.doc, &notebook.save());
        assert_eq!(saved, Some(OpRules::default()));
        let (mut doc, change) = change(&notebook);
        doc.apply_changes([change.clone()]).unwrap();
        assert_eq!(OpRules::of_change(&doc, &change.decode()), OpRules::default());
    }

    #[test]
    fn what_would_break_a_later_edit_is_refused() {
        let notebook = notebook();
        let (doc, good) = change(&notebook);
        for swapped in [0, 1] {
            let mut bad = good.decode();
            let other = bad.operations[1 - swapped].key.clone();
            assert!(matches!((&bad.operations[0].key, &bad.operations[1].key), (Key::Map(_), Key::Seq(_))));
            bad.operations[swapped].key = other;
            let bad = Change::from(bad);
            let file = [notebook.save(), bad.raw_bytes().to_vec()].concat();
            assert!(matches!(Notebook::load_prefix(&file), Err(ReplicaError::Corrupt(_))), "{swapped}");
            // The engine takes it.
            let mut doc = doc.fork();
            doc.apply_changes([bad.clone()]).unwrap();
            let found = OpRules { marks: false, misplaced: true };
            assert_eq!(OpRules::of_change(&doc, &bad.decode()), found, "{swapped}");
            if swapped == 0 {
                assert_eq!(OpRules::of_document(&doc, &doc.save()), Some(found));
            }
        }
    }

    #[test]
    fn an_insertion_into_a_map_is_refused() {
        let notebook = notebook();
        let (_, good) = change(&notebook);
        let mut bad = good.decode();
        assert!(matches!(&bad.operations[0].key, Key::Map(_)));
        bad.operations[0].insert = true;
        let bad = Change::from(bad);
        let file = [notebook.save(), bad.raw_bytes().to_vec()].concat();
        assert!(matches!(Notebook::load_prefix(&file), Err(ReplicaError::Corrupt(_))));
        // The engine takes it.
        let mut doc = notebook.doc.fork();
        doc.apply_changes([bad.clone()]).unwrap();
        let found = OpRules { marks: false, misplaced: true };
        assert_eq!(OpRules::of_change(&doc, &bad.decode()), found);
        assert_eq!(OpRules::of_document(&doc, &doc.save()), Some(found));
        assert!(matches!(Notebook::load(&doc.save()), Err(ReplicaError::Corrupt(_))));
    }
}
