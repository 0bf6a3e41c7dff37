//! Storey 4, changing a document.

use std::ffi::c_char;

use super::buf::{rtd_buf, write_buf};
use super::doc::rtd_doc;
use super::guard::{bytes, guard, handle, out_ptr, text};
use super::rtd_result;
use crate::notebook::{parse_ops, Op};

/// Applies operations as one change; if one of them fails, nothing changes. A change of a session's document is sent
/// at once, that of a room is recorded and sent to its peers. The operations are a JSON array of objects with the
/// member `op`: insert_cell, delete_cell, move_cell, set_source,
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
/// \return RTD_OK; RTD_E_NOT_FOUND for an unknown cell; RTD_E_ARG for a bad operation; RTD_E_STATE or RTD_E_AGAIN
///   (session); RTD_E_NOT_FOUND (room); RTD_E_CLOSED (both); RTD_E_POISONED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_doc_edit(doc: *const rtd_doc, ops: *const u8, len: usize) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let (doc, ops) = unsafe { (handle(doc, "doc")?, bytes(ops, len, "ops")?) };
        doc.edit(&parse_ops(ops)?)
    })
}

/// Inserts a cell with its source, as one change.
///
/// \param doc the document
/// \param cell_type "code", "markdown" or "raw"; any text is stored
/// \param type_len its length in bytes
/// \param source the source in UTF-8
/// \param source_len its length in bytes
/// \param index position in the notebook; negative or past the end: at the end
/// \param cell_id receives the new id, "cell-" and a random UUID; release with rtd_buf_free()
/// \return as rtd_doc_edit(); RTD_E_UTF8
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_doc_create_cell(
    doc: *const rtd_doc,
    cell_type: *const c_char,
    type_len: usize,
    source: *const c_char,
    source_len: usize,
    index: i64,
    cell_id: *mut rtd_buf,
) -> rtd_result {
    guard(|| {
        let id = format!("cell-{}", uuid::Uuid::new_v4());
        // SAFETY: the caller's promise.
        unsafe {
            let doc = handle(doc, "doc")?;
            out_ptr(cell_id, "cell_id")?;
            let (kind, source) =
                (text(cell_type, type_len, "cell_type")?, text(source, source_len, "source")?);
            doc.edit(&[Op::insert_cell(&id, kind, source, usize::try_from(index).ok())])?;
            write_buf(cell_id, id.into_bytes())
        }
    })
}

/// Sets the source of a cell by a minimal edit, so that concurrent edits merge.
///
/// \param doc the document
/// \param cell_id id of the cell in UTF-8
/// \param id_len its length in bytes
/// \param source the new source in UTF-8
/// \param source_len its length in bytes
/// \return as rtd_doc_edit(); RTD_E_UTF8
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_doc_set_source(
    doc: *const rtd_doc,
    cell_id: *const c_char,
    id_len: usize,
    source: *const c_char,
    source_len: usize,
) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let doc = handle(doc, "doc")?;
        let cell_id = text(cell_id, id_len, "cell_id")?.to_owned();
        let source = text(source, source_len, "source")?.to_owned();
        doc.edit(&[Op::SetSource { cell_id, source }])
    })
}

/// Deletes a cell. If it is running, it goes on running.
///
/// \param doc the document
/// \param cell_id id of the cell in UTF-8
/// \param len its length in bytes
/// \return as rtd_doc_set_source()
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_doc_delete_cell(
    doc: *const rtd_doc,
    cell_id: *const c_char,
    len: usize,
) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let (doc, cell_id) = (handle(doc, "doc")?, text(cell_id, len, "cell_id")?.to_owned());
        doc.edit(&[Op::DeleteCell { cell_id }])
    })
}
