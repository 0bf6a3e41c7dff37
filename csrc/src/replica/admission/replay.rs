//! Storey 1: applying a small change of a peer as the peer made it.
//!
//! The engine applies changes in batches, and for a batch it walks over the whole history of each object in it
//! (`BatchApply`; automerge issue 1042): a character costs the history of its text. A transaction seeks the position.
//! So a small change that follows all known changes is replayed by a transaction under the actor of its author. An
//! equal hash proves that it is the same change; if the hash differs, the document is rebuilt.

use automerge::legacy::{ElementId, Key, Op, OpId, OpType};
use automerge::transaction::{CommitOptions, Transactable, Transaction};
use automerge::{Automerge, ChangeHash, Cursor, ExpandedChange, ObjId, ObjType, ReadDoc, ScalarValue};

use super::applied::{object_id, op_id};

/// Most operations of a change that is replayed. With more of them the batch is faster.
const OPERATIONS: usize = 64;

/// Result of replaying a change.
#[derive(Debug, PartialEq, Eq)]
pub enum Replayed {
    /// The document has it.
    Done,
    /// The change cannot be replayed; the document is as before.
    Untouched,
    /// The document has another change now, and must be restored.
    Spoiled,
}

/// Replays a change that follows all changes of `doc`.
pub fn replay(doc: &mut Automerge, hash: ChangeHash, change: &ExpandedChange) -> Replayed {
    if !is_next(doc, change) {
        return Replayed::Untouched;
    }
    let own = doc.get_actor().clone();
    doc.set_actor(change.actor_id.clone());
    let made = make(doc, change);
    doc.set_actor(own);
    match made {
        None => Replayed::Untouched,
        Some(made) if made == hash => Replayed::Done,
        Some(_) => Replayed::Spoiled,
    }
}

/// Whether it is small, follows what the document has, and no other change waits for it.
fn is_next(doc: &Automerge, change: &ExpandedChange) -> bool {
    let last_op = |hash| doc.get_change_meta_by_hash(hash).map_or(0, |change| change.max_op);
    (1..=OPERATIONS).contains(&change.operations.len())
        && change.seq > 1
        && change.author.is_none()
        && change.extra_bytes.is_empty()
        && change.deps == doc.get_heads()
        && change.start_op.get() == 1 + change.deps.iter().map(last_op).max().unwrap_or(0)
        && doc.get_missing_deps(&[]).is_empty()
}

/// Makes the same operations; returns the hash of the resulting change, none if they cannot be made.
fn make(doc: &mut Automerge, change: &ExpandedChange) -> Option<ChangeHash> {
    let mut tx = doc.transaction();
    let done = change.operations.iter().try_for_each(|op| operation(&mut tx, op));
    if done.is_none() || tx.pending_ops() != change.operations.len() {
        tx.rollback();
        return None;
    }
    let options = CommitOptions::default().with_time(change.time);
    let options = match &change.message {
        Some(message) => options.with_message(message),
        None => options,
    };
    tx.commit_with(options).0
}

fn operation(tx: &mut Transaction<'_>, op: &Op) -> Option<()> {
    let object = object_id(&op.obj);
    let text = match tx.object_type(&object).ok()? {
        ObjType::Text => true,
        ObjType::List | ObjType::Map => false,
        ObjType::Table => return None,
    };
    match (&op.key, &op.action) {
        (Key::Map(key), OpType::Put(value)) => tx.put(&object, key.as_str(), value.clone()).ok(),
        (Key::Map(key), OpType::Make(kind)) => tx.put_object(&object, key.as_str(), *kind).ok().map(drop),
        (Key::Map(key), OpType::Delete) => tx.delete(&object, key.as_str()).ok(),
        (Key::Seq(element), action) if op.insert => {
            let at = match element {
                ElementId::Head => 0,
                ElementId::Id(id) => place(tx, &object, id, text)? + 1,
            };
            match action {
                OpType::Put(ScalarValue::Str(value)) if text => tx.splice_text(&object, at, 0, value).ok(),
                OpType::Put(value) if !text => tx.insert(&object, at, value.clone()).ok(),
                OpType::Make(kind) if !text => tx.insert_object(&object, at, *kind).ok().map(drop),
                _ => None,
            }
        }
        (Key::Seq(ElementId::Id(id)), action) => {
            let at = place(tx, &object, id, text)?;
            match action {
                OpType::Delete if text => tx.splice_text(&object, at, 1, "").ok(),
                OpType::Delete => tx.delete(&object, at).ok(),
                OpType::Put(value) if !text => tx.put(&object, at, value.clone()).ok(),
                _ => None,
            }
        }
        _ => None,
    }
}

/// The position of an element that readers see as it was inserted, in a text one character.
fn place(tx: &Transaction<'_>, object: &ObjId, id: &OpId, text: bool) -> Option<usize> {
    let cursor = Cursor::try_from(format!("{}@{}", id.0, id.1.to_hex_string()).as_str()).ok()?;
    let at = tx.get_cursor_position(object, &cursor, None).ok()?;
    let (value, found) = tx.get(object, at).ok()??;
    let one = !text || value.as_str().is_some_and(|value| value.chars().count() == 1);
    (found == op_id(id) && one).then_some(at)
}

#[cfg(test)]
mod tests {
    use automerge::{Change, ROOT};

    use super::*;
    use crate::replica::ENCODING;

    /// A document with a text, a list and a map that two peers have written, and the one of the first peer.
    fn documents() -> (Automerge, Automerge, [ObjId; 3]) {
        let mut doc = Automerge::new_with_encoding(ENCODING);
        let made = doc.transact::<_, _, automerge::AutomergeError>(|tx| {
            let text = tx.put_object(ROOT, "text", ObjType::Text)?;
            tx.splice_text(&text, 0, 0, "aé中🐍")?;
            let list = tx.put_object(ROOT, "list", ObjType::List)?;
            tx.splice(&list, 0, 0, ["1", "2", "3"].map(ScalarValue::from))?;
            Ok([text, list, tx.put_object(ROOT, "map", ObjType::Map)?])
        });
        let objects = made.unwrap().result;
        let copy = doc.fork();
        (doc, copy, objects)
    }

    fn last(doc: &mut Automerge) -> (ChangeHash, ExpandedChange) {
        let change = doc.get_last_local_change().unwrap();
        (change.hash(), change.decode())
    }

    type Edit = fn(&mut Transaction<'_>, &[ObjId; 3]) -> Result<(), automerge::AutomergeError>;

    #[test]
    fn what_a_peer_does_is_replayed() {
        let edits: [Edit; 10] = [
            |tx, [text, ..]| tx.splice_text(text, 1, 2, "xyz"),
            |tx, [text, ..]| tx.splice_text(text, 0, 0, "🐢"),
            |tx, [text, ..]| tx.update_text(text, "was anders"),
            |tx, [text, ..]| tx.splice_text(text, 10, 0, " ende"),
            |tx, [_, list, _]| tx.splice(list, 1, 2, ["4", "5"].map(ScalarValue::from)),
            |tx, [_, list, _]| tx.insert_object(list, 0, ObjType::Map).and_then(|map| tx.put(map, "k", 1.5)),
            |tx, [_, list, _]| tx.delete(list, 3),
            |tx, [_, _, map]| tx.put(map, "k", "v"),
            |tx, [_, _, map]| tx.delete(map, "k"),
            |tx, _| {
                tx.put_object(ROOT, "text", ObjType::Text).and_then(|text| tx.splice_text(text, 0, 0, "new"))
            },
        ];
        let (mut peer, mut doc, objects) = documents();
        let own = doc.get_actor().clone();
        for (number, edit) in edits.iter().enumerate() {
            peer.transact::<_, _, automerge::AutomergeError>(|tx| edit(tx, &objects)).unwrap();
            let (hash, change) = last(&mut peer);
            assert_eq!(replay(&mut doc, hash, &change), Replayed::Done, "{number}");
            assert_eq!((doc.get_heads(), doc.get_actor()), (peer.get_heads(), &own));
            assert_eq!(doc.hydrate(None), peer.hydrate(None));
        }
        assert_eq!(Automerge::load(&doc.save()).unwrap().get_heads(), peer.get_heads());
        // The first change of an author: the engine would have to make room for its name.
        doc.transact::<_, _, automerge::AutomergeError>(|tx| tx.put(ROOT, "x", 1)).unwrap();
        let (hash, change) = last(&mut doc);
        assert_eq!(replay(&mut peer, hash, &change), Replayed::Untouched);
    }

    #[test]
    fn what_does_not_follow_is_left_to_the_engine() {
        let (mut peer, mut doc, [text, ..]) = documents();
        let edit = |doc: &mut Automerge| {
            doc.transact::<_, _, automerge::AutomergeError>(|tx| tx.splice_text(&text, 0, 1, "b")).unwrap();
        };
        edit(&mut peer);
        let (hash, first) = last(&mut peer);
        edit(&mut peer);
        let (later_hash, later) = last(&mut peer);
        assert_eq!(replay(&mut doc, later_hash, &later), Replayed::Untouched, "it depends on the first");
        // One waits for another: the engine must find it when that comes.
        doc.apply_changes([Change::from(later.clone())]).unwrap();
        assert_eq!(replay(&mut doc, hash, &first), Replayed::Untouched);
        doc.apply_changes([Change::from(first.clone())]).unwrap();
        assert_eq!(doc.get_heads(), peer.get_heads());
        assert_eq!(replay(&mut doc, hash, &first), Replayed::Untouched, "it is there");
    }

    #[test]
    fn a_replay_that_makes_another_change_is_detected_by_its_hash() {
        let (mut peer, mut doc, [text, ..]) = documents();
        peer.transact::<_, _, automerge::AutomergeError>(|tx| tx.splice_text(&text, 0, 1, "b")).unwrap();
        let (_, change) = last(&mut peer);
        // An element that claims to replace another one than it does.
        let mut bad = change.clone();
        bad.operations[0].pred = bad.operations[1].pred.clone();
        let hash = Change::from(bad.clone()).hash();
        assert_eq!(replay(&mut doc, hash, &bad), Replayed::Spoiled);
    }
}
