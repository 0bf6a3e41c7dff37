//! Storey 1: a whole document in one chunk.

use automerge::{Automerge, AutomergeError, ChangeHash, LoadOptions};

use super::super::panic::catch_panic;
use super::super::{ReplicaError, ENCODING};
use super::columns::{Reader, Unreadable};
use super::ops::OpRules;
use super::{chunks, op_ids};

/// Loads one chunk that is a whole document.
pub fn load(chunk: &[u8]) -> Result<Automerge, ReplicaError> {
    let options = LoadOptions::new().text_encoding(ENCODING);
    let doc =
        catch_panic(|| Automerge::load_with_options(chunk, options)).ok_or_else(broken)?.map_err(corrupt)?;
    match OpRules::of_document(&doc, chunk) {
        Some(OpRules { misplaced: false, .. }) if op_ids::consistent(chunk) => Ok(doc),
        _ => Err(broken()),
    }
}

/// The heads that a whole document declares.
pub fn heads_of(document: &[u8]) -> Result<Vec<ChangeHash>, Unreadable> {
    let (_, body, _) = chunks::split(document).ok_or(Unreadable)?;
    let mut reader = Reader::new(body);
    reader.list()?; // Authors.
    let hashes = reader.hashes()?.chunks_exact(32);
    Ok(hashes.map(|hash| ChangeHash(hash.try_into().expect("32 bytes"))).collect())
}

pub fn broken() -> ReplicaError {
    ReplicaError::Corrupt("it breaks the document engine".into())
}

pub fn corrupt(error: AutomergeError) -> ReplicaError {
    ReplicaError::Corrupt(error.to_string())
}
