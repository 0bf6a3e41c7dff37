//! Storey 1: panics of the document engine, contained.
//!
//! The engine takes for granted what every honest peer keeps, and panics on some messages and files that nobody honest
//! writes (found by `csrc/fuzz`). Bytes from outside must not be able to take a room away from everybody else in it.

use std::any::Any;
use std::collections::HashSet;
use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};

use automerge::{Automerge, Change, ChangeHash};

use super::change::Told;
use super::document::{load, ENCODING};
use super::operations::Oddities;
use super::{NotebookError, Replica};

/// Calls the engine with bytes from outside; none if it panicked.
///
/// Nothing that `call` changed may be used then, unless it is [`rebuilt`].
pub(super) fn contained<T>(call: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(call)).ok()
}

/// Calls the engine, which changes `replica` by bytes from outside. If it panics, if it took what it cannot keep, or if
/// it left out what was `told`, the replica becomes what it was before, and that is an error of the sender.
///
/// # Panics
/// When what the engine left cannot be proven to be the document as it was.
pub(super) fn contained_change<T>(
    replica: &mut dyn Replica,
    told: &Told,
    call: impl FnOnce(&mut dyn Replica) -> Result<T, NotebookError>,
) -> Result<T, NotebookError> {
    let before = replica.doc().get_heads();
    let panic: Box<dyn Any + Send> = match catch_unwind(AssertUnwindSafe(|| call(replica))) {
        Ok(Err(error)) => return Err(error),
        Ok(done) if made_of(replica.doc(), told) && can_be_kept(replica.doc(), since(&before, told)) => {
            return done
        }
        Ok(_) => Box::new("changes that cannot be kept"),
        Err(panic) => panic,
    };
    match contained(|| rebuilt(replica.doc(), &before)).flatten() {
        Some(intact) => {
            replica.restore(intact);
            Err(NotebookError::BadSync("the document engine cannot take these changes".into()))
        }
        None => resume_unwind(panic),
    }
}

/// True if the engine can give again what was added to the document since it had these heads.
///
/// It takes changes that say what it does not keep, such as deleting what never was, and remembers them by their
/// hashes; but what it makes of them later has others, and such a document can be saved and never loaded.
pub(super) fn can_be_kept(doc: &Automerge, since: &[ChangeHash]) -> bool {
    let hashes =
        |doc: &Automerge| doc.get_changes_meta(since).iter().map(|change| change.hash).collect::<Vec<_>>();
    contained(|| {
        let known: HashSet<ChangeHash> = hashes(doc).into_iter().collect();
        let given = doc.get_changes(since);
        given.len() == known.len()
            && given.iter().all(|change| known.contains(&change.hash()) && follows(doc, change))
            && can_be_read(doc, &given)
    })
    .unwrap_or(false)
}

/// True if nothing in these changes, which are a part of the document, breaks the engine later.
fn can_be_read(doc: &Automerge, changes: &[Change]) -> bool {
    let mut marks = false;
    for change in changes {
        match Oddities::of_change(doc, change) {
            Some(Oddities { marks: its, misplaced: false }) => marks |= its,
            _ => return false,
        }
    }
    // A mark that ends and never began is found when a saved document is loaded.
    !marks || load(&doc.save()).is_ok()
}

/// What need not be given again: what was there before. For a newcomer whole documents, of which the hashes and the
/// numbers are known to be right; giving them again would cost nearly as much as loading them did.
fn since<'a>(before: &'a [ChangeHash], told: &'a Told) -> &'a [ChangeHash] {
    if before.is_empty() {
        &told.heads
    } else {
        before
    }
}

/// True if the whole documents of a message are there, and nothing in them breaks the engine later.
fn made_of(doc: &Automerge, told: &Told) -> bool {
    told.heads.iter().all(|head| doc.get_change_meta_by_hash(head).is_some())
        && told
            .unloaded
            .iter()
            .all(|chunk| matches!(Oddities::of_document(doc, chunk), Some(Oddities { misplaced: false, .. })))
}

/// True if the operations of a change are numbered behind those it depends on; without any of its own, right behind.
/// A saved document does not say where the numbers of a change begin.
fn follows(doc: &Automerge, change: &Change) -> bool {
    let deps = change.deps().iter().filter_map(|dep| doc.get_change_meta_by_hash(dep));
    let before = deps.map(|dep| dep.max_op).max().unwrap_or(0);
    let start = change.start_op().get();
    start > before && (!change.is_empty() || start == before + 1)
}

/// The document as it was with these heads, out of what a failure left of it.
///
/// Heads are hashes over everything that led to them, and are computed anew from the content here: a document with the
/// same heads is the same document. Changes that wait for others are left out, the one that broke it may be among
/// them; peers send them again when they are asked for what is missing.
fn rebuilt(doc: &Automerge, heads: &[ChangeHash]) -> Option<Automerge> {
    let again =
        if heads.is_empty() { Automerge::new_with_encoding(ENCODING) } else { doc.fork_at(heads).ok()? };
    (again.get_heads() == heads).then(|| again.with_actor(doc.get_actor().clone()))
}

#[cfg(test)]
mod tests {
    use automerge::legacy::OpType;
    use automerge::marks::{ExpandMark, Mark};
    use automerge::sync::{ChunkList, Message};
    use automerge::transaction::Transactable;
    use automerge::{ObjType, ROOT};

    use super::*;
    use crate::notebook::{barrier, Notebook, Op, PeerSync};

    /// A room, and a peer with a text that makes a part of it bold; or says where that ends, and nothing else. If the
    /// room knows the text the peer sends one change, else its document.
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

    fn tell(room: &mut Notebook, peer: &Notebook) -> Result<(), NotebookError> {
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
        panic!("they never agree");
    }

    #[test]
    fn marks_of_others_are_kept() {
        for known in [false, true] {
            let (mut room, peer) = room_and_peer(true, known);
            tell(&mut room, &peer).unwrap();
            assert_eq!(room.heads(), peer.heads());
            assert_eq!(Notebook::load(&room.save()).unwrap().heads(), peer.heads());
            assert_eq!(Notebook::load_prefix(&room.save_since(&[])).unwrap().0.heads(), peer.heads());
        }
    }

    #[test]
    fn a_mark_that_ends_and_never_began_is_refused() {
        for known in [false, true] {
            let (mut room, peer) = room_and_peer(false, known);
            let before = (room.heads(), room.cells());
            assert!(matches!(tell(&mut room, &peer), Err(NotebookError::BadSync(_))), "{known}");
            assert_eq!((room.heads(), room.cells()), before);
            assert!(Notebook::load(&room.save()).is_ok());
            // A newcomer could not keep it either, and would ask for it again and again.
            assert!(matches!(tell(&mut Notebook::empty(), &peer), Err(NotebookError::BadSync(_))));
            // The journal of a room is changes, one behind the other.
            let journal = peer.save_since(&[]);
            assert!(matches!(Notebook::load_prefix(&journal), Err(NotebookError::Corrupt(_))));
        }
    }

    #[test]
    fn a_newcomer_takes_no_document_that_breaks_later() {
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
            // A whole document, one with a change behind it, and all as changes.
            let [whole, first, last] = [peer.save(), room.save(), peer.save_since(&room.heads())];
            for chunks in [whole, [first, last].concat(), peer.save_since(&[])] {
                let mut message = Message::decode(&barrier(&peer)).unwrap();
                message.changes = ChunkList::from(vec![chunks]);
                let mut newcomer = Notebook::empty();
                let told = PeerSync::new().receive(&mut newcomer, &message.encode());
                assert_eq!(told.is_ok(), taken);
                assert_eq!(newcomer.heads(), if taken { peer.heads() } else { vec![] });
            }
        }
    }

    #[test]
    fn operations_are_numbered_behind_what_they_depend_on() {
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
            assert_eq!(can_be_kept(&doc, &room.heads()), taken, "{operations} at {start}");
        }
    }
}
