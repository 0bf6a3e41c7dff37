//! Notebook documents and their sync with a peer: the pure tier.

use std::ffi::c_char;
use std::sync::{Mutex, MutexGuard};

use serde_json::Value;

use super::buf::{fill, rtd_buf};
use super::guard::{bytes, give, guard, guard_value, handle, place, text, Failure, Outcome};
use super::rtd_result;
use crate::code::rtd_code;
use crate::notebook::{parse_ops, Notebook};
use crate::replica::{ChangeHash, PeerSync};

/// A notebook: an Automerge document with the schema of protocol 2, section 7.
pub struct rtd_doc {
    pub(super) notebook: Mutex<Notebook>,
}

/// What is known of one peer's copy of a document. One per connection; starts empty.
pub struct rtd_sync {
    sync: Mutex<PeerSync>,
}

/// Locks a document; after a panic inside it, it can only be freed.
pub(super) fn lock_doc(doc: &rtd_doc) -> Result<MutexGuard<'_, Notebook>, Failure> {
    doc.notebook.lock().map_err(|_| Failure::new(rtd_code::RTD_E_POISONED, "the document failed before"))
}

fn lock_sync(sync: &rtd_sync) -> Result<MutexGuard<'_, PeerSync>, Failure> {
    sync.sync.lock().map_err(|_| Failure::new(rtd_code::RTD_E_POISONED, "the sync state failed before"))
}

/// Makes a document without any content, for joining a room: its structure comes from the peer.
///
/// \param out receives the handle, NULL on failure; release with rtd_doc_free()
/// \return RTD_OK; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_doc_new(out: *mut *mut rtd_doc) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe { give(out, || Ok(rtd_doc { notebook: Mutex::new(Notebook::empty()) })) })
}

/// Makes the document of a new room, with the structure of section 7.2 and no cells.
///
/// \param notebook_id its id in UTF-8
/// \param len length of the id in bytes
/// \param out receives the handle, NULL on failure; release with rtd_doc_free()
/// \return RTD_OK; RTD_E_UTF8; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_doc_create(
    notebook_id: *const c_char,
    len: usize,
    out: *mut *mut rtd_doc,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        unsafe {
            give(out, || {
                let id = text(notebook_id, len, "notebook_id")?;
                Ok(rtd_doc { notebook: Mutex::new(Notebook::create(id)?) })
            })
        }
    })
}

/// Loads a saved document.
///
/// \param data saved bytes, or saved bytes followed by saved changes
/// \param len their number
/// \param out receives the handle, NULL on failure; release with rtd_doc_free()
/// \return RTD_OK; RTD_E_CORRUPT; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_doc_load(data: *const u8, len: usize, out: *mut *mut rtd_doc) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        unsafe {
            give(out, || {
                let notebook = Notebook::load(bytes(data, len, "data")?)?;
                Ok(rtd_doc { notebook: Mutex::new(notebook) })
            })
        }
    })
}

/// Saves the whole document.
///
/// \param doc the document
/// \param out receives the bytes; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_POISONED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_doc_save(doc: *const rtd_doc, out: *mut rtd_buf) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe { read(doc, out, |notebook| Ok(notebook.save())) })
}

/// Saves the changes since some heads; behind a saved document they make a newer one.
///
/// \param doc the document
/// \param heads change hashes of 32 bytes each, as rtd_doc_heads() gives them; (NULL, 0) means all changes
/// \param len length of `heads` in bytes, a multiple of 32
/// \param out receives the bytes, empty when nothing changed; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_ARG; RTD_E_POISONED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_doc_save_since(
    doc: *const rtd_doc,
    heads: *const u8,
    len: usize,
    out: *mut rtd_buf,
) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        read(doc, out, |notebook| Ok(notebook.save_since(&heads_of(bytes(heads, len, "heads")?)?)))
    })
}

/// The heads: the hashes of the newest changes, 32 bytes each. Equal heads mean equal documents.
///
/// \param doc the document
/// \param out receives the hashes; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_POISONED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_doc_heads(doc: *const rtd_doc, out: *mut rtd_buf) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        read(doc, out, |notebook| Ok(notebook.heads().iter().flat_map(|head| head.0).collect()))
    })
}

/// The cells in document order, as a JSON array of objects with the members id, cell_type, source,
/// execution_count (number or null) and outputs (array of elements for rtd_output_resolve()).
///
/// \param doc the document
/// \param out receives the JSON; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_POISONED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_doc_cells(doc: *const rtd_doc, out: *mut rtd_buf) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe { read(doc, out, |notebook| Ok(cells_json(&notebook.cells()))) })
}

/// One cell, as in rtd_doc_cells().
///
/// \param doc the document
/// \param cell_id id of the cell in UTF-8
/// \param len its length in bytes
/// \param out receives the JSON object; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_NOT_FOUND; RTD_E_UTF8; RTD_E_POISONED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_doc_cell(
    doc: *const rtd_doc,
    cell_id: *const c_char,
    len: usize,
    out: *mut rtd_buf,
) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        read(doc, out, |notebook| {
            let id = text(cell_id, len, "cell_id")?;
            let missing = || Failure::new(rtd_code::RTD_E_NOT_FOUND, format!("Cell not found: {id}"));
            Ok(notebook.cell(id).ok_or_else(missing)?.to_json().to_string().into_bytes())
        })
    })
}

/// The strings of the document's metadata, as a JSON object.
///
/// \param doc the document
/// \param out receives the JSON; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_POISONED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_doc_metadata(doc: *const rtd_doc, out: *mut rtd_buf) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        read(doc, out, |notebook| Ok(serde_json::json!(notebook.metadata()).to_string().into_bytes()))
    })
}

/// Applies operations as one change; if one of them fails, nothing changes. The operations are a JSON
/// array of objects with the member `op`: insert_cell, delete_cell, move_cell, set_source,
/// splice_source, set_cell_type, append_outputs, replace_output, splice_outputs, clear_outputs,
/// set_execution_count, set_metadata. Their members:
///
/// - insert_cell: cell_id (new), cell_type, source, index (optional; the end when absent or past it)
/// - delete_cell, clear_outputs: cell_id; clearing also takes the execution count away
/// - move_cell: cell_id, index among the cells that remain
/// - set_source: cell_id, source; only what differs is touched
/// - splice_source: cell_id, index, delete, insert; text indices count Unicode code points
/// - set_cell_type: cell_id, cell_type
/// - append_outputs: cell_id, outputs (array of strings: elements of rtd_output_store())
/// - replace_output: cell_id, index, output (string), expect (optional: the string that must be there now)
/// - splice_outputs: cell_id, index, delete, outputs (array of strings), expect (optional: the array of the strings
///   that must be there now); made for merging stream text: sessions report a splice at the end of the list as
///   RTD_OUTPUT_JOINED, any other as RTD_EV_CLEARED and the outputs again
/// - set_execution_count: cell_id, execution_count (number or null)
/// - set_metadata: key, value (strings)
///
/// With "if_present": true an operation on a cell that does not exist is skipped instead of refused.
///
/// \param doc the document
/// \param ops the JSON array in UTF-8
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_NOT_FOUND for an unknown cell; RTD_E_ARG for a bad operation; RTD_E_POISONED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_doc_edit(doc: *const rtd_doc, ops: *const u8, len: usize) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let (doc, ops) = unsafe { (handle(doc, "doc")?, bytes(ops, len, "ops")?) };
        lock_doc(doc)?.edit(&parse_ops(ops)?)?;
        Ok(())
    })
}

/// Makes a copy of a document as it was at some heads, under an identity of its own: edits in the copy and in the
/// original are concurrent until one is merged into the other.
///
/// \param doc the document
/// \param heads change hashes of 32 bytes each, as rtd_doc_heads() gives them; (NULL, 0): as it is now
/// \param len length of `heads` in bytes, a multiple of 32
/// \param out receives the copy, NULL on failure; release with rtd_doc_free()
/// \return RTD_OK; RTD_E_NOT_FOUND for heads it never had; RTD_E_ARG; RTD_E_POISONED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_doc_fork(
    doc: *const rtd_doc,
    heads: *const u8,
    len: usize,
    out: *mut *mut rtd_doc,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        unsafe {
            give(out, || {
                let notebook = lock_doc(handle(doc, "doc")?)?;
                let copy = match heads_of(bytes(heads, len, "heads")?)?.as_slice() {
                    [] => notebook.fork(),
                    heads => notebook.fork_at(heads)?,
                };
                Ok(rtd_doc { notebook: Mutex::new(copy) })
            })
        }
    })
}

/// Takes in what another copy of the same document did. Edits of a source merge by character; what both
/// inserted is there twice.
///
/// \param doc the document
/// \param other the other copy, not `doc` itself; it stays as it is
/// \return RTD_OK, also when there is nothing new; RTD_E_ARG when it is no copy of this document; RTD_E_POISONED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_doc_merge(doc: *const rtd_doc, other: *const rtd_doc) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let (doc, other) = unsafe { (handle(doc, "doc")?, handle(other, "other")?) };
        if std::ptr::eq(doc, other) {
            return Err(Failure::new(rtd_code::RTD_E_ARG, "a document cannot be merged into itself"));
        }
        // Copied, so that two threads that merge two documents into each other do not wait for ever.
        let other = lock_doc(other)?.fork();
        lock_doc(doc)?.merge(&other)?;
        Ok(())
    })
}

/// Whether a document has all of these changes.
///
/// \param doc the document
/// \param heads change hashes of 32 bytes each, as rtd_doc_heads() gives them
/// \param len length of `heads` in bytes, a multiple of 32
/// \param out receives 1 or 0
/// \return RTD_OK; RTD_E_ARG; RTD_E_POISONED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_doc_contains(
    doc: *const rtd_doc,
    heads: *const u8,
    len: usize,
    out: *mut i32,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let (doc, heads, out) =
            unsafe { (handle(doc, "doc")?, bytes(heads, len, "heads")?, place(out, "out")?) };
        let (heads, notebook) = (heads_of(heads)?, lock_doc(doc)?);
        *out = i32::from(heads.iter().all(|head| notebook.has_change(head)));
        Ok(())
    })
}

/// Releases a document. NULL is fine.
///
/// \param doc the document; not used afterwards
/// \threads exclusive
#[no_mangle]
pub unsafe extern "C" fn rtd_doc_free(doc: *mut rtd_doc) {
    guard_value((), || {
        if !doc.is_null() {
            // SAFETY: made by `give`, freed once by the caller's promise.
            drop(unsafe { Box::from_raw(doc) });
        }
    });
}

/// Makes the sync state for one connection.
///
/// \param out receives the handle, NULL on failure; release with rtd_sync_free()
/// \return RTD_OK; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_sync_new(out: *mut *mut rtd_sync) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe { give(out, || Ok(rtd_sync { sync: Mutex::new(PeerSync::new()) })) })
}

/// Makes the next sync message for the peer.
///
/// \param sync what is known of the peer
/// \param doc the document
/// \param out receives the message; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_AGAIN when there is nothing to say now; RTD_E_POISONED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_sync_generate(
    sync: *const rtd_sync,
    doc: *const rtd_doc,
    out: *mut rtd_buf,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let (sync, doc) = unsafe { (handle(sync, "sync")?, handle(doc, "doc")?) };
        let message = lock_sync(sync)?.generate(&*lock_doc(doc)?);
        let message = message.ok_or_else(|| Failure::new(rtd_code::RTD_E_AGAIN, "nothing to say"))?;
        // SAFETY: the caller's promise.
        unsafe { fill(out, message) }
    })
}

/// Applies a sync message of the peer.
///
/// \param sync what is known of the peer
/// \param doc the document
/// \param message the message
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_PROTOCOL when it does not decode (the document is unchanged); RTD_E_POISONED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_sync_receive(
    sync: *const rtd_sync,
    doc: *const rtd_doc,
    message: *const u8,
    len: usize,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let (sync, doc) = unsafe { (handle(sync, "sync")?, handle(doc, "doc")?) };
        // SAFETY: the caller's promise.
        let message = unsafe { bytes(message, len, "message")? };
        lock_sync(sync)?.receive(&mut *lock_doc(doc)?, message)?;
        Ok(())
    })
}

/// Whether both copies are equal as far as the messages tell: the peer's heads are ours, and it knows.
///
/// \param sync what is known of the peer
/// \param doc the document
/// \param out receives 1 or 0
/// \return RTD_OK; RTD_E_POISONED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_sync_converged(
    sync: *const rtd_sync,
    doc: *const rtd_doc,
    out: *mut i32,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let (sync, doc, out) = unsafe { (handle(sync, "sync")?, handle(doc, "doc")?, place(out, "out")?) };
        *out = i32::from(lock_sync(sync)?.converged(&*lock_doc(doc)?));
        Ok(())
    })
}

/// Releases a sync state. NULL is fine.
///
/// \param sync the sync state; not used afterwards
/// \threads exclusive
#[no_mangle]
pub unsafe extern "C" fn rtd_sync_free(sync: *mut rtd_sync) {
    guard_value((), || {
        if !sync.is_null() {
            // SAFETY: made by `give`, freed once by the caller's promise.
            drop(unsafe { Box::from_raw(sync) });
        }
    });
}

/// Change hashes out of their bytes.
fn heads_of(bytes: &[u8]) -> Result<Vec<ChangeHash>, Failure> {
    let hashes: Result<Vec<ChangeHash>, _> = bytes.chunks(32).map(ChangeHash::try_from).collect();
    hashes.map_err(|_| Failure::new(rtd_code::RTD_E_ARG, "heads: not a multiple of 32 bytes"))
}

/// Cells as JSON.
pub(super) fn cells_json(cells: &[crate::notebook::Cell]) -> Vec<u8> {
    Value::Array(cells.iter().map(crate::notebook::Cell::to_json).collect()).to_string().into_bytes()
}

/// # Safety
/// As the exports that call it.
unsafe fn read(
    doc: *const rtd_doc,
    out: *mut rtd_buf,
    read: impl FnOnce(&Notebook) -> Result<Vec<u8>, Failure>,
) -> Outcome {
    // SAFETY: the caller's promise.
    let doc = unsafe { handle(doc, "doc")? };
    let bytes = read(&*lock_doc(doc)?)?;
    // SAFETY: the caller's promise.
    unsafe { fill(out, bytes) }
}
