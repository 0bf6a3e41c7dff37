//! Storey 1: changing a text into another one with a small difference.

use automerge::transaction::{Transactable, Transaction};
use automerge::{AutomergeError, ObjId, ReadDoc};

/// Above this many differing code points, old and new together, the differing part is replaced whole.
///
/// The engine's difference has no bound of its own: for two texts that share nothing its time grows
/// with the square of their length. At this size the worst case is some tens of milliseconds.
const DIFF_LIMIT: usize = 3_000;

/// Makes the Text object `text` read `new`. The object stays the same; the parts that are equal are
/// not touched, so what peers do there at the same time survives (protocol 2, section 7.3).
pub(super) fn update(tx: &mut Transaction<'_>, text: &ObjId, new: &str) -> Result<(), AutomergeError> {
    let old = tx.text(text)?;
    let Span { start, old_middle, new_middle } = differing(&old, new);
    if old_middle.is_empty() && new_middle.is_empty() {
        return Ok(());
    }
    let removed = old_middle.chars().count();
    if removed + new_middle.chars().count() <= DIFF_LIMIT {
        return tx.update_text(text, new);
    }
    let at = old[..start].chars().count();
    // A count of characters of a String always fits.
    tx.splice_text(text, at, removed as isize, new_middle)
}

struct Span<'a> {
    /// Bytes both texts have in common at the start.
    start: usize,
    old_middle: &'a str,
    new_middle: &'a str,
}

/// The parts left when the common start and the common end are taken off.
fn differing<'a>(old: &'a str, new: &'a str) -> Span<'a> {
    let start: usize =
        old.chars().zip(new.chars()).take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum();
    let (old_rest, new_rest) = (&old[start..], &new[start..]);
    let end: usize = old_rest
        .chars()
        .rev()
        .zip(new_rest.chars().rev())
        .take_while(|(a, b)| a == b)
        .map(|(c, _)| c.len_utf8())
        .sum();
    Span {
        start,
        old_middle: &old_rest[..old_rest.len() - end],
        new_middle: &new_rest[..new_rest.len() - end],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notebook::{Notebook, Op};

    #[test]
    fn the_differing_part() {
        let check = |old, new, start, a, b| {
            let span = differing(old, new);
            assert_eq!((span.start, span.old_middle, span.new_middle), (start, a, b));
        };
        check("", "", 0, "", "");
        check("abc", "abc", 3, "", "");
        check("aaa", "aa", 2, "a", "");
        check("aé中z", "aü中z", 1, "é", "ü");
        check("🐍", "🐢", 0, "🐍", "🐢");
        check("ab", "xaby", 0, "ab", "xaby");
    }

    fn updated(old: &str, new: &str) -> Notebook {
        let mut notebook = Notebook::create("n").unwrap();
        notebook.edit(&[Op::insert_cell("a", "code", old, None)]).unwrap();
        notebook.edit(&[Op::SetSource { cell_id: "a".into(), source: new.into() }]).unwrap();
        assert_eq!(notebook.source("a").unwrap(), new);
        notebook
    }

    #[test]
    fn texts_that_share_nothing_do_not_take_forever() {
        // Character by character it would take hours.
        let old: String = "abcdefg\n".repeat(25_000);
        let new: String = "ACBDGEF ".repeat(25_000);
        updated(&format!("début{old}fin"), &format!("début{new}fin"));
    }

    #[test]
    fn both_ways_around_the_limit_read_the_same() {
        for n in [DIFF_LIMIT / 2 - 1, DIFF_LIMIT / 2, DIFF_LIMIT / 2 + 1] {
            updated(&"é".repeat(n), &"中".repeat(n));
        }
    }
}
