//! Storey 1: whether a change formats text.
//!
//! No notebook of ours has marks, but others may write them, and whether they make sense shows only when a saved
//! document is loaded (see `contain::can_be_kept`).

use automerge::Change;

use super::chunks;
use super::columns::{Reader, Unreadable};

/// The column of actions, not deflated: changes that the engine gives have none that is.
const ACTION: u64 = 0x42;
/// The action that begins or ends a mark.
const MARK: u64 = 7;

/// True if operations of the change begin or end marks.
pub(super) fn has_marks(change: &Change) -> bool {
    let chunk = change.raw_bytes();
    // What the engine has made can be read.
    chunks::split(chunk).is_none_or(|(_, body, _)| count(&mut Reader::new(body)) != Ok(0))
}

fn count(reader: &mut Reader<'_>) -> Result<u64, Unreadable> {
    let mut marks = 0;
    for (specification, length) in reader.change_columns()? {
        let mut column = Reader::new(reader.take(length)?);
        if specification == ACTION {
            marks += column.runs(|reader| reader.number().map(|action| u64::from(action == MARK)))?;
        }
    }
    Ok(marks)
}
