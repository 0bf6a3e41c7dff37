//! Storey 1: the document of a notebook: creating, loading, saving.

use std::collections::BTreeMap;

use automerge::transaction::Transactable;
use automerge::{ActorId, Automerge, ChangeHash, ObjType, ReadDoc, ROOT};

use super::changes::{digest, everything};
use super::rows::{object, ref_str, scalar_str, Rows};
use super::Changes;
use crate::replica::{admit_file, Applied, Doc, Replica, ReplicaError, ENCODING};

/// A replica of a notebook document (protocol 2, section 7).
///
/// Every change goes through [`Notebook::edit`](super::Notebook::edit) or
/// [`PeerSync::receive`](crate::replica::PeerSync::receive), which keep the order of the cells up to date
/// without walking the document.
#[derive(Debug, Clone)]
pub struct Notebook {
    pub(crate) doc: Automerge,
    pub(super) rows: Rows,
}

impl Notebook {
    /// A document without any change, for joining a room.
    ///
    /// A client must begin with this: two roots created independently conflict, and one of the two
    /// lists of cells would disappear (protocol 2, section 7.2).
    pub fn empty() -> Self {
        Self::over(Automerge::new_with_encoding(ENCODING))
    }

    /// The document of a new room: `notebook_id`, `cells`, `metadata`, `metadata/runtime`, written in
    /// this order (protocol 2, section 7.2).
    pub fn create(notebook_id: &str) -> Result<Self, ReplicaError> {
        Self::create_by(ActorId::random(), notebook_id)
    }

    fn create_by(actor: ActorId, notebook_id: &str) -> Result<Self, ReplicaError> {
        let mut doc = Automerge::new_with_encoding(ENCODING).with_actor(actor);
        let mut tx = doc.transaction();
        tx.put(ROOT, "notebook_id", notebook_id)?;
        tx.put_object(ROOT, "cells", ObjType::List)?;
        let metadata = tx.put_object(ROOT, "metadata", ObjType::Map)?;
        tx.put(&metadata, "runtime", "python")?;
        tx.commit();
        Ok(Self::over(doc))
    }

    /// Loads a saved document, possibly followed by change chunks; every byte must be good.
    pub fn load(bytes: &[u8]) -> Result<Self, ReplicaError> {
        match Self::load_prefix(bytes)? {
            (notebook, false) => Ok(notebook),
            (_, true) => Err(ReplicaError::Corrupt("it does not end where it should".into())),
        }
    }

    /// Loads a saved document followed by appended change chunks, as far as they can be read.
    ///
    /// True if the end was dropped: a crash can tear the last append. What follows the first
    /// unreadable chunk is dropped with it, because an append is only ever written after the one
    /// before it. A damaged first chunk is an error.
    pub fn load_prefix(bytes: &[u8]) -> Result<(Self, bool), ReplicaError> {
        let (doc, torn) = admit_file(bytes)?;
        Ok((Self::over(doc), torn))
    }

    pub(crate) fn over(doc: Automerge) -> Self {
        let rows = Rows::build(&doc);
        Self { doc, rows }
    }

    /// The whole document as one compact chunk.
    pub fn save(&self) -> Vec<u8> {
        self.doc.save()
    }

    /// The changes that are not ancestors of `heads`, as chunks that can be appended to a saved
    /// document; empty if there are none.
    pub fn save_since(&self, heads: &[ChangeHash]) -> Vec<u8> {
        self.doc.save_after(heads)
    }

    /// The hashes of the changes nothing depends on yet, sorted.
    pub fn heads(&self) -> Vec<ChangeHash> {
        self.doc.get_heads()
    }

    /// True if this replica has no change at all: it has not joined yet.
    pub fn is_empty(&self) -> bool {
        self.heads().is_empty()
    }

    /// Sets the identity under which the next changes are made. Two replicas must never share one.
    pub fn set_actor(&mut self, actor: &[u8]) {
        self.doc.set_actor(ActorId::from(actor));
    }

    /// The room this document belongs to; none before the initial sync.
    pub fn notebook_id(&self) -> Option<String> {
        scalar_str(&self.doc, &ROOT, "notebook_id")
    }

    /// The scalar strings of `/metadata`. The value of `notebook_metadata` is itself JSON text
    /// (protocol 2, section 7.4).
    pub fn metadata(&self) -> BTreeMap<String, String> {
        let Some(metadata) = object(&self.doc, &ROOT, "metadata", ObjType::Map) else {
            return BTreeMap::new();
        };
        self.doc
            .map_range(&metadata, ..)
            .filter_map(|item| Some((item.key.to_string(), ref_str(&item.value)?)))
            .collect()
    }
}

impl Doc for Notebook {
    fn doc(&self) -> &Automerge {
        &self.doc
    }
}

impl Replica for Notebook {
    type Changes = Changes;

    fn doc_mut(&mut self) -> &mut Automerge {
        &mut self.doc
    }

    fn changed(&mut self, applied: &Applied<'_>) -> Changes {
        if !applied.before.is_empty() {
            return digest(&self.doc, &mut self.rows, applied);
        }
        self.rows = Rows::build(&self.doc);
        if self.is_empty() {
            Changes::default()
        } else {
            everything(&self.rows)
        }
    }

    fn restore(&mut self, document: Automerge) {
        *self = Self::over(document);
    }
}

impl Notebook {
    /// True if this replica has applied this change.
    pub fn has_change(&self, hash: &ChangeHash) -> bool {
        self.doc.get_change_meta_by_hash(hash).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notebook::Op;

    fn set(key: &str, value: &str) -> [Op; 1] {
        [Op::SetMetadata { key: key.into(), value: value.into() }]
    }

    #[test]
    fn creation_makes_the_change_every_peer_knows() {
        let made = Notebook::create_by(ActorId::from([0xa1; 16]), "nb1").unwrap();
        let heads: Vec<String> = made.heads().iter().map(ToString::to_string).collect();
        assert_eq!(heads, ["6bc5d9881e85d84d076e51dfada7c6867dc0674c504f70d7c491993c6c9bf099"]);
        assert_eq!(made.notebook_id().as_deref(), Some("nb1"));
        assert_eq!(made.metadata()["runtime"], "python");
        assert!(made.cell_ids().is_empty());
        assert!(!made.is_empty());
        assert!(Notebook::empty().is_empty());
        assert_eq!(Notebook::empty().notebook_id(), None);
    }

    #[test]
    fn saving_and_appending() {
        let mut notebook = Notebook::create("a").unwrap();
        let mut file = notebook.save();
        // Where each whole file ends, and its heads.
        let mut ends = vec![(file.len(), notebook.heads())];
        for i in 0..3 {
            let before = notebook.heads();
            assert!(notebook.edit(&set("k", &i.to_string())).unwrap());
            file.extend(notebook.save_since(&before));
            ends.push((file.len(), notebook.heads()));
        }
        assert!(notebook.save_since(&notebook.heads()).is_empty());
        assert_eq!(Notebook::load(&file).unwrap().heads(), notebook.heads());

        for cut in 0..=file.len() {
            let whole = ends.iter().rev().find(|(end, _)| *end <= cut);
            match (Notebook::load_prefix(&file[..cut]), whole) {
                (Ok((part, torn)), Some((end, heads))) => {
                    assert_eq!(torn, *end < cut, "cut at {cut}");
                    assert_eq!(part.heads(), *heads, "cut at {cut}");
                }
                (Err(ReplicaError::Corrupt(_)), None) => {}
                (other, _) => panic!("cut at {cut}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_flipped_bit_in_the_tail_is_noticed() {
        let mut notebook = Notebook::create("a").unwrap();
        let saved = notebook.save();
        let before = notebook.heads();
        notebook.edit(&set("k", "value")).unwrap();
        let tail = notebook.save_since(&before);
        for i in 0..tail.len() {
            let mut file = saved.clone();
            file.extend(&tail);
            file[saved.len() + i] ^= 0x10;
            let (part, torn) = Notebook::load_prefix(&file).unwrap();
            assert!(torn, "byte {i}");
            assert_eq!(part.heads(), before);
            assert!(Notebook::load(&file).is_err(), "byte {i}");
        }
    }

    #[test]
    fn what_is_not_a_document() {
        for bytes in [&b""[..], b"{}", &[0x85, 0x6f, 0x4a, 0x83]] {
            assert!(matches!(Notebook::load(bytes), Err(ReplicaError::Corrupt(_))));
            assert!(matches!(Notebook::load_prefix(bytes), Err(ReplicaError::Corrupt(_))));
        }
    }

    #[test]
    fn a_notebook_may_move_between_threads() {
        fn sendable<T: Send + Sync>() {}
        sendable::<Notebook>();
        sendable::<crate::replica::PeerSync>();
    }
}
