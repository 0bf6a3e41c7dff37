//! What the targets need of documents: a room to start from, edits made of bytes, and what is true of every notebook.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use automerge::{ReadDoc, ROOT};
use runtimed_ffi::notebook::{Notebook, Op};
use runtimed_ffi::outputs::hash::sha256_hex;
use runtimed_ffi::replica::Doc;

/// The first bytes of every chunk of Automerge's format.
const MAGIC: [u8; 4] = [0x85, 0x6f, 0x4a, 0x83];

/// A small notebook of three cells with outputs, always the same one, to be edited under this identity.
pub fn room(actor: u8) -> Notebook {
    static ROOM: OnceLock<Notebook> = OnceLock::new();
    let room = ROOM.get_or_init(|| Notebook::load(include_bytes!("../../room.automerge")).unwrap());
    let mut copy = room.clone();
    copy.set_actor(&[actor; 16]);
    copy
}

/// A replica that has not joined yet.
pub fn empty_replica(actor: u8) -> Notebook {
    let mut replica = Notebook::empty();
    replica.set_actor(&[actor; 16]);
    replica
}

/// An edit: what, which cell, where, how much, and a text.
pub fn edit(notebook: &Notebook, bytes: &[u8]) -> Op {
    let at = |n: usize| bytes.get(n).copied().unwrap_or_default();
    let text = String::from_utf8_lossy(bytes.get(4..).unwrap_or_default()).into_owned();
    let (index, count) = (usize::from(at(2)), usize::from(at(3) % 8));
    let ids = notebook.cell_ids();
    let cell_id = match ids.len() {
        0 => "none".into(),
        length => ids[usize::from(at(1)) % length].clone(),
    };
    let texts = || text.split('\n').map(str::to_owned).collect();
    match at(0) % 12 {
        0 => Op::SetSource { cell_id, source: text },
        1 => Op::SpliceSource { cell_id, index: index % 32, delete: count, insert: text },
        2 => Op::insert_cell(&format!("n{}", at(1) % 8), "code", &text, (index < 128).then_some(index % 8)),
        3 => Op::DeleteCell { cell_id },
        4 => Op::MoveCell { cell_id, index: index % 8 },
        5 => Op::AppendOutputs { cell_id, outputs: texts() },
        6 => Op::ReplaceOutput { cell_id, index: index % 4, output: text, expect: None },
        7 => {
            let (index, outputs) = (index % 4, texts());
            Op::SpliceOutputs { cell_id, index, delete: count, outputs, expect: None }
        }
        8 => Op::ClearOutputs { cell_id },
        9 => Op::SetExecutionCount { cell_id, execution_count: (count > 0).then_some(index as i64) },
        10 => Op::SetMetadata { key: format!("k{}", at(1) % 4), value: text },
        _ => Op::SetCellType { cell_id, cell_type: text },
    }
}

/// The cells whose stored outputs have elements that are no texts. No reader sees those, and yet they count.
pub fn cells_with_unseen_outputs(notebook: &Notebook) -> BTreeSet<String> {
    let doc = notebook.doc();
    let Ok(Some((_, list))) = doc.get(ROOT, "cells") else { return BTreeSet::new() };
    let cells = doc.list_range(&list, ..).map(|cell| cell.id());
    let unseen = cells.filter(|cell| {
        let Ok(Some((_, outputs))) = doc.get(cell, "outputs") else { return false };
        let found = doc.list_range(&outputs, ..).any(|element| element.value.into_value().as_str().is_none());
        found
    });
    unseen.filter_map(|cell| doc.get(&cell, "id").ok()??.0.into_string().ok()).collect()
}

/// What is true of a notebook however it came to be: every way of reading gives the same, and a copy that is loaded
/// from what it saves is the same.
pub fn examine(notebook: &Notebook) {
    let cells = notebook.cells();
    let ids: Vec<&str> = cells.iter().map(|cell| cell.id.as_str()).collect();
    assert_eq!(notebook.cell_ids(), ids);
    for (place, cell) in cells.iter().enumerate() {
        // Two cells have one id after both peers moved it: the first is the one that is found.
        if ids.iter().position(|id| *id == cell.id) != Some(place) {
            continue;
        }
        assert_eq!(notebook.cell(&cell.id).as_ref(), Some(cell));
        assert_eq!(notebook.source(&cell.id).as_ref(), Some(&cell.source));
        assert_eq!(notebook.outputs(&cell.id).as_ref(), Some(&cell.outputs));
        assert_eq!(notebook.cell_type(&cell.id).as_ref(), Some(&cell.cell_type));
    }
    let again = Notebook::load(&notebook.save()).expect("what was saved can be loaded");
    assert_eq!(again.heads(), notebook.heads());
    assert_eq!(again.cells(), cells);
    assert_eq!(again.metadata(), notebook.metadata());
    assert_eq!(again.notebook_id(), notebook.notebook_id());
}

/// Gives every chunk that is framed well the checksum of its content. A random change of a checked chunk is refused
/// at its checksum; an attacker writes a good one.
pub fn fix_checksums(bytes: &mut [u8]) {
    let mut at = 0;
    while at + 10 < bytes.len() {
        if bytes[at..at + 4] != MAGIC {
            at += 1;
            continue;
        }
        let mut length = 0u64;
        let mut end = at + 9;
        while let Some(byte) = bytes.get(end).filter(|_| end < at + 13) {
            length |= u64::from(byte & 0x7f) << (7 * (end - at - 9));
            end += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let end = end.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
        if end > bytes.len() {
            at += 4;
            continue;
        }
        // Of a deflated change the sum is that of the inflated one: those are left alone.
        if bytes[at + 8] != 2 {
            let sum = u32::from_str_radix(&sha256_hex(&bytes[at + 8..end])[..8], 16).unwrap();
            bytes[at + 4..at + 8].copy_from_slice(&sum.to_be_bytes());
        }
        at = end;
    }
}
