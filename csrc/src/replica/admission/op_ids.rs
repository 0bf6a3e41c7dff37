//! Storey 1: the numbers of operations in a whole document.
//!
//! A saved document has the operations of all changes in one table, and gives for each change only the number of its
//! last operation. The engine checks that all operations up to it exist for small changes only, and a number that is
//! too high goes into no hash. The next change is numbered after the true last operation, so it does not follow that
//! document, and the replica cannot apply any later change.

use super::chunks;
use super::columns::{Columns, Reader, Unreadable, Values};

const CHANGE_ACTOR: u64 = 0x01;
const CHANGE_LAST: u64 = 0x13;
const ID_ACTOR: u64 = 0x21;
const ID_COUNTER: u64 = 0x23;
const SUCCESSOR_ACTOR: u64 = 0x81;
const SUCCESSOR_COUNTER: u64 = 0x83;

/// Operations of one actor that are numbered without a gap: actor, first, last.
type Range = (u32, u32, u32);

/// True if the changes in the chunk of a whole document end where their operations do; false as well if it cannot be
/// read.
///
/// The operations of a change have no gap, so a change must end where there is one. Between two changes without a gap
/// the number decides which of them an operation belongs to, and their hashes cover that.
pub fn consistent(chunk: &[u8]) -> bool {
    chunks::split(chunk).is_some_and(|(_, body, _)| consistent_in(&mut Reader::new(body)).unwrap_or(false))
}

fn consistent_in(reader: &mut Reader<'_>) -> Result<bool, Unreadable> {
    let (changes, operations) = reader.document()?;
    let mut ends = Vec::new();
    pairs(&changes, CHANGE_ACTOR, CHANGE_LAST, |actor, last| ends.push((actor, last)))?;
    ends.sort_unstable();
    let mut runs: Vec<Range> = Vec::new();
    let mut add = |actor, counter| match runs.last_mut() {
        Some((of, _, last)) if *of == actor && last.checked_add(1) == Some(counter) => *last = counter,
        _ => runs.push((actor, counter, counter)),
    };
    pairs(&operations, ID_ACTOR, ID_COUNTER, &mut add)?;
    // Deletions have no row of their own: they are listed as successors of what they deleted.
    pairs(&operations, SUCCESSOR_ACTOR, SUCCESSOR_COUNTER, &mut add)?;
    runs.sort_unstable();
    let mut runs = runs.into_iter().peekable();
    let mut reached = 0;
    while let Some((actor, _, last)) = runs.next() {
        reached = last.max(reached);
        if runs.peek().is_some_and(|(of, first, _)| *of == actor && *first <= reached.saturating_add(1)) {
            continue;
        }
        if ends.binary_search(&(actor, reached)).is_err() {
            return Ok(false);
        }
        reached = 0;
    }
    Ok(true)
}

/// Visits each row of two columns that has an actor and a number.
fn pairs(
    columns: &Columns<'_>,
    actor: u64,
    number: u64,
    mut give: impl FnMut(u32, u32),
) -> Result<(), Unreadable> {
    let mut actors = Values::numbers(columns.get(actor));
    let mut numbers = Values::deltas(columns.get(number));
    while let Some(number) = numbers.row()? {
        // The engine cannot represent larger ones either.
        let narrow = |value: Option<u64>| u32::try_from(value.ok_or(Unreadable)?).map_err(|_| Unreadable);
        give(narrow(actors.row()?.flatten())?, narrow(number)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use automerge::transaction::Transactable;
    use automerge::{Automerge, ROOT};

    use super::*;
    use crate::notebook::{Notebook, Op};
    use crate::outputs::hash::sha256_hex;
    use crate::replica::admission::admit_message;
    use crate::replica::ReplicaError;

    /// A change that declares an end `shift` operations after its last one.
    fn shifted(shift: u8) -> (Notebook, Vec<u8>) {
        let notebook = Notebook::create("n").unwrap();
        let mut chunk = notebook.save();
        let (_, body, _) = chunks::split(&chunk).unwrap();
        let start = chunk.len() - body.len();
        // A run of one value: the number of the last of the four operations. Searched from the end, because actors and
        // heads, at the beginning, are random bytes.
        let column = body.windows(2).rposition(|window| window == [0x7f, 4]).unwrap();
        chunk[start + column + 1] += shift;
        let sum = u32::from_str_radix(&sha256_hex(&chunk[8..])[..8], 16).unwrap();
        chunk[4..8].copy_from_slice(&sum.to_be_bytes());
        (notebook, chunk)
    }

    #[test]
    fn an_end_after_the_last_operation_is_refused() {
        let (notebook, chunk) = shifted(0);
        assert_eq!(chunk, notebook.save());
        assert!(consistent(&chunk));
        for shift in [1, 2, 50] {
            let (notebook, chunk) = shifted(shift);
            // For changes of more than a few operations the engine accepts it, with the expected heads.
            let taken = Automerge::load(&chunk).is_ok_and(|doc| doc.get_heads() == notebook.heads());
            assert_eq!(taken, shift == 50);
            assert!(!consistent(&chunk), "{shift}");
            for has_changes in [false, true] {
                assert!(admit_message([&chunk[..]].into_iter(), !has_changes).is_err(), "{shift}");
            }
            assert!(matches!(Notebook::load(&chunk), Err(ReplicaError::Corrupt(_))), "{shift}");
        }
    }

    #[test]
    fn unreadable_documents_are_not_consistent() {
        let saved = Notebook::create("n").unwrap().save();
        for cut in 0..saved.len() {
            assert!(!consistent(&saved[..cut]), "cut at {cut}");
        }
    }

    #[test]
    fn documents_of_correct_peers_are_consistent() {
        let mut room = Notebook::create("n").unwrap();
        let cell = |id: &str, source: &str| Op::insert_cell(id, "code", source, None);
        let delete = |id: &str| Op::DeleteCell { cell_id: id.into() };
        assert!(consistent(&Notebook::empty().save()));
        room.edit(&[cell("a", "text"), cell("b", &"x = 1\n".repeat(500)), cell("c", "")]).unwrap();
        assert!(consistent(&room.save()));
        // Operations that leave no row, at the end of a change; of two actors at once, with the same numbers.
        let mut peer = room.clone();
        peer.set_actor(&[7; 16]);
        for (notebook, id) in [(&mut room, "b"), (&mut peer, "a")] {
            notebook.edit(&[cell(&format!("new-{id}"), "s")]).unwrap();
            notebook.edit(&[delete(id)]).unwrap();
            notebook.edit(&[Op::SetSource { cell_id: "c".into(), source: id.repeat(9) }]).unwrap();
            assert!(consistent(&notebook.save()));
        }
        room.doc.merge(&mut peer.doc).unwrap();
        assert!(consistent(&room.save()));
        // A change without operations, and one after it; the deletion of values in conflict; a counter.
        room.doc.empty_commit(automerge::transaction::CommitOptions::default());
        assert!(consistent(&room.save()));
        let mut one = room.doc.fork();
        let mut other = room.doc.fork();
        for doc in [&mut one, &mut other] {
            doc.transact::<_, _, automerge::AutomergeError>(|tx| {
                tx.put(ROOT, "x", automerge::ScalarValue::counter(1))?;
                tx.increment(ROOT, "x", 2)
            })
            .unwrap();
        }
        one.merge(&mut other).unwrap();
        one.transact::<_, _, automerge::AutomergeError>(|tx| tx.delete(ROOT, "x")).unwrap();
        assert!(consistent(&one.save()));
    }
}
