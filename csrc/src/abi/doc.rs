//! Storey 4, a notebook document: standalone, the replica of a session, or the document of a room.

use std::ffi::c_char;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use serde_json::{json, Value};

use super::buf::{rtd_buf, write_buf, write_json};
use super::guard::{bytes, guard, guard_value, handle, out_handle, out_ptr, take_handle, text, Failure};
use super::rtd_result;
use crate::code::rtd_code;
use crate::drive::{Host, Session};
use crate::notebook::{Cell, Notebook, Op};
use crate::replica::ChangeHash;

/// A notebook: an Automerge document with the schema of protocol 2, section 7. There are three sorts, with the same
/// functions. A standalone document comes from rtd_doc_new(), _create(), _load() or _fork(); rtd_sync and rtd_conn
/// take this sort only. The document of a session (rtd_session_doc()) is its replica: a change is sent at once; its
/// functions return RTD_E_STATE before RTD_EV_READY, and those that change it RTD_E_CLOSED after the end of the
/// connection and RTD_E_AGAIN while the daemon leaves more than 256 MiB unread. The document of a room
/// (rtd_host_doc()) is the one that its peers share: a change is recorded and sent to them; its functions return
/// RTD_E_NOT_FOUND while the room is not open and RTD_E_CLOSED once the host is closed.
pub struct rtd_doc(Source);

enum Source {
    Standalone(Box<Mutex<Notebook>>),
    /// Part of an `rtd_session`, so that it cannot outlive it.
    Session(Arc<Session>),
    /// Owned by the caller, who may free it after the host.
    Room(Weak<Host>, String),
}

impl rtd_doc {
    pub(super) fn standalone(notebook: Notebook) -> Self {
        Self(Source::Standalone(Box::new(Mutex::new(notebook))))
    }

    pub(super) fn of_session(session: Arc<Session>) -> Self {
        Self(Source::Session(session))
    }

    pub(super) fn of_room(host: &Arc<Host>, notebook_id: &str) -> Self {
        Self(Source::Room(Arc::downgrade(host), notebook_id.into()))
    }

    /// Locks a standalone document; after a panic inside it, it can only be freed.
    pub(super) fn lock(&self) -> Result<MutexGuard<'_, Notebook>, Failure> {
        match &self.0 {
            Source::Standalone(notebook) => notebook
                .lock()
                .map_err(|_| Failure::new(rtd_code::RTD_E_POISONED, "the document failed before")),
            _ => Err(Failure::new(
                rtd_code::RTD_E_ARG,
                "doc: its session or host synchronizes it; this takes a standalone document",
            )),
        }
    }

    /// Reads under the lock of the document: take out what is needed and print it afterwards.
    fn read<T>(&self, read: impl FnOnce(&Notebook) -> T) -> Result<T, Failure> {
        match &self.0 {
            Source::Standalone(_) => Ok(read(&*self.lock()?)),
            Source::Session(session) => Ok(session.read(|notebook| Ok(read(notebook)))?),
            Source::Room(host, id) => Ok(live(host)?.read(id, |notebook| Ok(read(notebook)))?),
        }
    }

    pub(super) fn edit(&self, ops: &[Op]) -> Result<(), Failure> {
        match &self.0 {
            Source::Standalone(_) => self.lock()?.edit(ops).map(drop)?,
            Source::Session(session) => session.edit(ops)?,
            Source::Room(host, id) => live(host)?.publish(id, ops, &[], 0)?,
        }
        Ok(())
    }

    fn merge(&self, other: &Notebook) -> Result<(), Failure> {
        match &self.0 {
            Source::Standalone(_) => self.lock()?.merge(other).map(drop)?,
            Source::Session(session) => session.merge(other)?,
            Source::Room(host, id) => live(host)?.merge(id, other)?,
        }
        Ok(())
    }
}

fn live(host: &Weak<Host>) -> Result<Arc<Host>, Failure> {
    host.upgrade().ok_or_else(|| Failure::new(rtd_code::RTD_E_CLOSED, "the host was freed"))
}

/// Makes a standalone document without any content, for joining a room: its structure comes from the peer.
///
/// \param out receives the handle, NULL on failure; release with rtd_doc_free()
/// \return RTD_OK; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_doc_new(out: *mut *mut rtd_doc) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe { out_handle(out, || Ok(rtd_doc::standalone(Notebook::empty()))) })
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
            out_handle(out, || {
                let id = text(notebook_id, len, "notebook_id")?;
                Ok(rtd_doc::standalone(Notebook::create(id)?))
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
        unsafe { out_handle(out, || Ok(rtd_doc::standalone(Notebook::load(bytes(data, len, "data")?)?))) }
    })
}

/// Saves the whole document.
///
/// \param doc the document
/// \param out receives the bytes; release with rtd_buf_free()
/// \return as rtd_doc_cells()
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_doc_save(doc: *const rtd_doc, out: *mut rtd_buf) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe { write_buf(out, handle(doc, "doc")?.read(Notebook::save)?) })
}

/// Saves the changes since some heads. Appended to a document that was saved at these heads, they make a newer one.
///
/// \param doc the document
/// \param heads change hashes of 32 bytes each, as rtd_doc_heads() gives them; (NULL, 0) means all changes
/// \param len length of `heads` in bytes, a multiple of 32
/// \param out receives the bytes, empty when nothing changed; release with rtd_buf_free()
/// \return as rtd_doc_cells(); RTD_E_ARG when `len` is no multiple of 32
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
        let (doc, heads) = (handle(doc, "doc")?, heads_of(bytes(heads, len, "heads")?)?);
        write_buf(out, doc.read(|notebook| notebook.save_since(&heads))?)
    })
}

/// The heads: the hashes of the newest changes, 32 bytes each. Equal heads mean equal documents.
///
/// \param doc the document
/// \param out receives the hashes; release with rtd_buf_free()
/// \return as rtd_doc_cells()
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_doc_heads(doc: *const rtd_doc, out: *mut rtd_buf) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let heads = handle(doc, "doc")?.read(Notebook::heads)?;
        write_buf(out, heads.iter().flat_map(|head| head.0).collect())
    })
}

/// The cells in document order, as a JSON array of objects with the members id, cell_type, source,
/// execution_count (number or null) and outputs (array of elements for rtd_output_resolve()).
///
/// \param doc the document
/// \param out receives the JSON; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_STATE (session); RTD_E_NOT_FOUND or RTD_E_CLOSED (room); RTD_E_POISONED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_doc_cells(doc: *const rtd_doc, out: *mut rtd_buf) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let cells = handle(doc, "doc")?.read(Notebook::cells)?;
        write_json(out, &Value::Array(cells.iter().map(Cell::to_json).collect()))
    })
}

/// One cell, as in rtd_doc_cells().
///
/// \param doc the document
/// \param cell_id id of the cell in UTF-8
/// \param len its length in bytes
/// \param out receives the JSON object; release with rtd_buf_free()
/// \return as rtd_doc_cells(); RTD_E_NOT_FOUND also when there is no such cell; RTD_E_UTF8
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
        let (doc, id) = (handle(doc, "doc")?, text(cell_id, len, "cell_id")?);
        let missing = || Failure::new(rtd_code::RTD_E_NOT_FOUND, format!("Cell not found: {id}"));
        write_json(out, &doc.read(|notebook| notebook.cell(id))?.ok_or_else(missing)?.to_json())
    })
}

/// The strings of the document's metadata, as a JSON object.
///
/// \param doc the document
/// \param out receives the JSON; release with rtd_buf_free()
/// \return as rtd_doc_cells()
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_doc_metadata(doc: *const rtd_doc, out: *mut rtd_buf) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe { write_json(out, &json!(handle(doc, "doc")?.read(Notebook::metadata)?)) })
}

/// Makes a standalone copy of a document as it was at some heads. Edits of the copy and of the original are concurrent
/// until one is merged into the other with rtd_doc_merge().
///
/// \param doc the document
/// \param heads change hashes of 32 bytes each, as rtd_doc_heads() gives them; (NULL, 0): as it is now
/// \param len length of `heads` in bytes, a multiple of 32
/// \param out receives the copy, NULL on failure; release with rtd_doc_free()
/// \return as rtd_doc_cells(); RTD_E_NOT_FOUND also for heads that the document never had; RTD_E_ARG
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
            out_handle(out, || {
                let doc = handle(doc, "doc")?;
                let copy = match heads_of(bytes(heads, len, "heads")?)?.as_slice() {
                    [] => doc.read(Notebook::fork)?,
                    heads => doc.read(|notebook| notebook.fork_at(heads))??,
                };
                Ok(rtd_doc::standalone(copy))
            })
        }
    })
}

/// Merges the changes of another copy of the same document, as if the copy were a peer that was away. Edits of a source
/// merge by character; what was inserted in both is there twice.
///
/// \param doc the document
/// \param other the other copy, not `doc` itself; it stays as it is
/// \return as rtd_doc_edit(), RTD_OK also when there is nothing new; RTD_E_ARG when `other` is no copy of this document
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_doc_merge(doc: *const rtd_doc, other: *const rtd_doc) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let (doc, other) = unsafe { (handle(doc, "doc")?, handle(other, "other")?) };
        if std::ptr::eq(doc, other) {
            return Err(Failure::new(rtd_code::RTD_E_ARG, "a document cannot be merged into itself"));
        }
        if let (Source::Session(_) | Source::Room(..), Source::Standalone(_)) = (&doc.0, &other.0) {
            return doc.merge(&*other.lock()?);
        }
        // Merged from a copy, so that no two locks are held: two threads may merge two documents into each other.
        doc.merge(&other.read(Notebook::fork)?)
    })
}

/// Whether a document has all of these changes.
///
/// \param doc the document
/// \param heads change hashes of 32 bytes each, as rtd_doc_heads() gives them
/// \param len length of `heads` in bytes, a multiple of 32
/// \param out receives 1 or 0
/// \return as rtd_doc_cells(); RTD_E_ARG
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
            unsafe { (handle(doc, "doc")?, bytes(heads, len, "heads")?, out_ptr(out, "out")?) };
        let heads = heads_of(heads)?;
        *out = i32::from(doc.read(|notebook| heads.iter().all(|head| notebook.has_change(head)))?);
        Ok(())
    })
}

/// Releases a document that the caller owns: a standalone one, or the handle of a room's document (the room keeps
/// its document). NULL is fine; that of a session is left alone.
///
/// \param doc the document; not used afterwards
/// \threads exclusive
#[no_mangle]
pub unsafe extern "C" fn rtd_doc_free(doc: *mut rtd_doc) {
    guard_value((), || {
        // SAFETY: the caller's promise.
        let borrowed = matches!(unsafe { doc.as_ref() }, Some(rtd_doc(Source::Session(_))));
        if !borrowed {
            // SAFETY: the caller's promise.
            drop(unsafe { take_handle(doc) });
        }
    });
}

/// Change hashes out of their bytes.
fn heads_of(bytes: &[u8]) -> Result<Vec<ChangeHash>, Failure> {
    let hashes: Result<Vec<ChangeHash>, _> = bytes.chunks(32).map(ChangeHash::try_from).collect();
    hashes.map_err(|_| Failure::new(rtd_code::RTD_E_ARG, "heads: not a multiple of 32 bytes"))
}
