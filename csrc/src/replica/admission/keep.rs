//! Storey 1: whether what the engine has applied can be saved and loaded again.

use automerge::{Automerge, Change, ChangeHash};

use super::super::panic::catch_panic;
use super::applied::{Applied, Decoded};
use super::document::load;
use super::ops::OpRules;

/// The changes that were added to the document since it had these heads; none if the engine cannot encode them again.
///
/// The engine accepts changes with operations that it does not keep, such as deleting what never existed, and
/// remembers them by their hashes; but it encodes them with other hashes later, and such a document can be saved and
/// never loaded.
pub fn kept<'a>(doc: &Automerge, since: &'a [ChangeHash], decoded: &'a Decoded) -> Option<Applied<'a>> {
    catch_panic(|| {
        let applied = Applied::of(doc, since, decoded)?;
        let follow = applied.changes().iter().all(|change| follows(doc, change));
        (follow && can_be_read(doc, &applied)).then_some(applied)
    })?
}

/// True if nothing in these changes, which the document has applied, breaks the engine later.
fn can_be_read(doc: &Automerge, applied: &Applied<'_>) -> bool {
    let mut all = OpRules::default();
    applied.each_decoded(|change| {
        let found = OpRules::of_change(doc, change);
        all.marks |= found.marks;
        all.misplaced |= found.misplaced;
    });
    // The engine rejects a mark with an end and no begin only when a saved document is loaded.
    !all.misplaced && (!all.marks || load(&doc.save()).is_ok())
}

/// True if the operations of a change are numbered after those it depends on; an empty change, directly after.
/// A saved document does not store where the numbers of a change begin.
fn follows(doc: &Automerge, change: &Change) -> bool {
    let deps = change.deps().iter().filter_map(|dep| doc.get_change_meta_by_hash(dep));
    let before = deps.map(|dep| dep.max_op).max().unwrap_or(0);
    let start = change.start_op().get();
    start > before && (!change.is_empty() || start == before + 1)
}

#[cfg(test)]
mod tests {
    use automerge::legacy::OpType;
    use automerge::marks::{ExpandMark, Mark};
    use automerge::sync::{ChunkList, Message};
    use automerge::transaction::Transactable;
    use automerge::{ObjType, ROOT};

    use super::*;
    use crate::notebook::{Notebook, Op};
    use crate::replica::{barrier, PeerSync, ReplicaError};

    /// A room, and a peer with a text that makes a part of it bold; or writes only the end of that mark. If the room
    /// knows the text the peer sends one change, else its document.
    fn room_and_peer(whole: bool, known: bool) -> (Notebook, Notebook) {
        let mut room = Notebook::create("n").unwrap();
        room.edit(&[Op::insert_cell("a", "code", "x", None)]).unwrap();
        let mut peer = room.doc.fork();
        let text = peer
            .transact::<_, _, automerge::AutomergeError>(|tx| {
                let text = tx.put_object(ROOT, "text", ObjType::Text)?;
                tx.splice_text(&text, 0, 0, "abc")?;
                Ok(text)
            })
            .unwrap()
            .result;
        if known {
            room = Notebook::over(peer.fork());
        }
        let mut marked = peer.fork();
        let bold = Mark::new("bold".into(), true, 1, 2);
        marked.transact(|tx| tx.mark(&text, bold, ExpandMark::None)).unwrap();
        let mut change = marked.get_last_local_change().unwrap().decode();
        let actions = [&change.operations[0].action, &change.operations[1].action];
        assert!(matches!(actions, [OpType::MarkBegin(_), OpType::MarkEnd(_)]));
        if !whole {
            change.operations.remove(0);
        }
        peer.apply_changes([Change::from(change)]).unwrap();
        (room, Notebook::over(peer))
    }

    fn sync(room: &mut Notebook, peer: &Notebook) -> Result<(), ReplicaError> {
        let (mut of_peer, mut of_room) = (PeerSync::new(), PeerSync::new());
        for _ in 0..10 {
            let (up, down) = (of_room.generate(peer), of_peer.generate(room));
            if up.is_none() && down.is_none() {
                return Ok(());
            }
            if let Some(message) = up {
                of_peer.receive(room, &message)?;
            }
            if let Some(message) = down {
                of_room.receive(&mut peer.clone(), &message)?;
            }
        }
        panic!("the replicas do not converge");
    }

    #[test]
    fn marks_of_others_are_kept() {
        for known in [false, true] {
            let (mut room, peer) = room_and_peer(true, known);
            sync(&mut room, &peer).unwrap();
            assert_eq!(room.heads(), peer.heads());
            assert_eq!(Notebook::load(&room.save()).unwrap().heads(), peer.heads());
            assert_eq!(Notebook::load_prefix(&room.save_since(&[])).unwrap().0.heads(), peer.heads());
        }
    }

    #[test]
    fn a_mark_with_an_end_and_no_begin_is_refused() {
        for known in [false, true] {
            let (mut room, peer) = room_and_peer(false, known);
            let before = (room.heads(), room.cells());
            assert!(matches!(sync(&mut room, &peer), Err(ReplicaError::BadSync(_))), "{known}");
            assert_eq!((room.heads(), room.cells()), before);
            assert!(Notebook::load(&room.save()).is_ok());
            // An empty replica could not keep it either, and would ask for it again and again.
            assert!(matches!(sync(&mut Notebook::empty(), &peer), Err(ReplicaError::BadSync(_))));
            // The journal of a room is a sequence of changes.
            let journal = peer.save_since(&[]);
            assert!(matches!(Notebook::load_prefix(&journal), Err(ReplicaError::Corrupt(_))));
        }
    }

    #[test]
    fn an_empty_replica_refuses_a_document_that_breaks_later() {
        let mut room = Notebook::create("n").unwrap();
        room.edit(&[Op::insert_cell("a", "code", "x", None)]).unwrap();
        let mut peer = room.doc.fork();
        peer.transact::<_, _, automerge::AutomergeError>(|tx| tx.put(ROOT, "x", 1)).unwrap();
        let good = peer.get_last_local_change().unwrap();
        let mut bad = good.decode();
        bad.operations[0].insert = true;
        for (change, taken) in [(good, true), (Change::from(bad), false)] {
            let mut doc = room.doc.fork();
            doc.apply_changes([change]).unwrap();
            let peer = Notebook::over(doc);
            // A whole document, one followed by a change, and everything as changes.
            let [whole, first, last] = [peer.save(), room.save(), peer.save_since(&room.heads())];
            for chunks in [whole, [first, last].concat(), peer.save_since(&[])] {
                let mut message = Message::decode(&barrier(&peer)).unwrap();
                message.changes = ChunkList::from(vec![chunks]);
                let mut joining = Notebook::empty();
                let received = PeerSync::new().receive(&mut joining, &message.encode());
                assert_eq!(received.is_ok(), taken);
                assert_eq!(joining.heads(), if taken { peer.heads() } else { vec![] });
            }
        }
    }

    #[test]
    fn operations_are_numbered_after_what_they_depend_on() {
        let mut room = Notebook::create("n").unwrap();
        room.edit(&[Op::insert_cell("a", "code", "x", None)]).unwrap();
        let mut peer = room.doc.fork();
        peer.transact::<_, _, automerge::AutomergeError>(|tx| tx.put(ROOT, "x", 1)).unwrap();
        let good = peer.get_last_local_change().unwrap();
        let before = room.doc.get_change_meta_by_hash(&good.deps()[0]).unwrap().max_op;
        assert_eq!(good.start_op().get(), before + 1);
        let full = [(before - 1, false), (before, false), (before + 1, true), (before + 2, true)];
        let empty = [(before, false), (before + 1, true), (before + 2, false)];
        let cases = full.map(|case| (1, case)).into_iter().chain(empty.map(|case| (0, case)));
        for (operations, (start, taken)) in cases {
            let mut change = good.decode();
            change.start_op = start.try_into().unwrap();
            change.operations.truncate(operations);
            let mut doc = room.doc.fork();
            doc.apply_changes([Change::from(change)]).unwrap();
            assert_eq!(
                kept(&doc, &room.heads(), &Decoded::default()).is_some(),
                taken,
                "{operations} at {start}"
            );
        }
    }
}
