//! Storey 1: a change that somebody else made, on its way into a document.

use automerge::legacy::OpType;
use automerge::{Change, ChangeHash};

use super::chunks::{self, Kind};
use super::contain::contained;

/// What a document must keep of the chunks that it takes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Claims {
    /// Heads of whole documents among them. The engine leaves out one that it cannot load, and says nothing.
    pub(super) heads: Vec<ChangeHash>,
    /// Whether changes have marks (formatting of text), which no notebook of ours has, but others may write. Whether
    /// they make sense shows only when a saved document is loaded.
    pub(super) marks: bool,
}

/// The change in a chunk, and whether it has marks; none if it is damaged, or spelled in another way than the engine would.
///
/// Decoding a change looks neither at the checksum stored before it nor at all of its columns, and what of them is
/// read later may be something else.
pub(super) fn checked(chunk: &[u8]) -> Option<(Change, bool)> {
    contained(|| {
        let change = Change::try_from(chunk).ok()?;
        let hash = change.hash();
        let decoded = change.decode();
        let mark = |action: &OpType| matches!(action, OpType::MarkBegin(_) | OpType::MarkEnd(_));
        let marks = decoded.operations.iter().any(|op| mark(&op.action));
        let good = hash.0[..4] == chunk[4..8] && Change::from(decoded).hash() == hash;
        good.then_some((change, marks))
    })?
}

impl Claims {
    /// Adds whole chunks, one behind the other; none if one is no chunk, or a change that is no good.
    pub(super) fn add(&mut self, mut bytes: &[u8]) -> Option<()> {
        while !bytes.is_empty() {
            let (kind, length) = chunks::first(bytes)?;
            let (chunk, rest) = bytes.split_at(length);
            match kind {
                Kind::Change => self.marks |= checked(chunk)?.1,
                Kind::Document => self.heads.extend(chunks::heads(chunk)?.into_iter().map(ChangeHash)),
                Kind::Other => {}
            }
            bytes = rest;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notebook::{Notebook, Op};

    fn claims(bytes: &[u8]) -> Option<Claims> {
        let mut claims = Claims::default();
        claims.add(bytes).map(|()| claims)
    }

    #[test]
    fn only_whole_and_undamaged_changes_pass() {
        let mut notebook = Notebook::create("n").unwrap();
        notebook.edit(&[Op::insert_cell("a", "code", "x", None)]).unwrap();
        let changes = notebook.save_since(&[]);
        let (kind, length) = chunks::first(&changes).unwrap();
        assert_eq!((kind, checked(&changes[..length]).is_some()), (Kind::Change, true));
        assert_eq!(claims(&changes), Some(Claims::default()));
        assert_eq!(claims(&[]), Some(Claims::default()));
        assert_eq!(claims(&notebook.save()), Some(Claims { heads: notebook.heads(), marks: false }));
        for cut in 1..changes.len() {
            assert_eq!(claims(&changes[..cut]).is_some(), cut == length, "cut at {cut}");
        }
        // Not the bytes that say what a chunk is: kinds that are newer than us are for the engine to judge.
        for at in (0..changes.len()).filter(|at| *at != 8 && *at != length + 8) {
            let mut damaged = changes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(claims(&damaged), None, "byte {at}");
        }
    }
}
