//! Opening the rooms of a host, and copies of their documents.

use std::ffi::c_char;
use std::path::Path;
use std::sync::Mutex;

use super::doc::{lock_doc, rtd_doc};
use super::guard::{give, guard, handle, text, Outcome};
use super::host::{rtd_host, with};
use super::rtd_result;
use crate::drive::{DriveError, Host};

/// A text as a caller gives it: where, and how many bytes.
type Text = (*const c_char, usize);

/// Opens a room in one of two ways.
///
/// # Safety
/// `host` is null or a live host; what the texts point at is there and as long as they say.
unsafe fn open(
    host: *const rtd_host,
    notebook_id: Text,
    journal_path: Text,
    way: fn(&Host, &str, Option<&Path>) -> Result<(), DriveError>,
) -> Outcome {
    // SAFETY: as promised by the caller.
    unsafe {
        with(host, |host| {
            let id = text(notebook_id.0, notebook_id.1, "notebook_id")?;
            let path = text(journal_path.0, journal_path.1, "journal_path")?;
            Ok(way(host, id, (!path.is_empty()).then(|| Path::new(path)))?)
        })
    }
}

/// Opens a room and lets the peers in that wait for it. May be called before anybody asks. With a journal, the document is
/// loaded from it and every change is appended to it before anybody gets an acknowledgement.
///
/// \param host the host
/// \param notebook_id id of the room in UTF-8
/// \param id_len its length in bytes
/// \param journal_path file of the document in UTF-8; NULL: kept in memory only
/// \param path_len its length in bytes
/// \return RTD_OK; RTD_E_STATE when the room is open or in a forked child; RTD_E_CORRUPT when the file cannot be read (it is left as it is);
///   RTD_E_IO; RTD_E_CLOSED; RTD_E_UTF8; RTD_E_NULL. After a failure the peers go on waiting
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_host_open_room(
    host: *const rtd_host,
    notebook_id: *const c_char,
    id_len: usize,
    journal_path: *const c_char,
    path_len: usize,
) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe { open(host, (notebook_id, id_len), (journal_path, path_len), Host::open_room) })
}

/// Opens a room like rtd_host_open_room(), but lets nobody in: the peers wait for rtd_host_admit(). What is published
/// meanwhile is there before the first peer sees the document; the notebook of a file, for instance, because a client
/// that finds an empty room may fill it by itself. rtd_host_close_room() gives it up again.
///
/// \param host the host
/// \param notebook_id id of the room in UTF-8
/// \param id_len its length in bytes
/// \param journal_path file of the document in UTF-8; NULL: kept in memory only
/// \param path_len its length in bytes
/// \return as rtd_host_open_room()
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_host_prepare_room(
    host: *const rtd_host,
    notebook_id: *const c_char,
    id_len: usize,
    journal_path: *const c_char,
    path_len: usize,
) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe { open(host, (notebook_id, id_len), (journal_path, path_len), Host::prepare_room) })
}

/// Lets the peers into a prepared room.
///
/// \param host the host
/// \param notebook_id id of the room in UTF-8
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_NOT_FOUND when no such room is prepared; RTD_E_STATE in a forked child; RTD_E_CLOSED; RTD_E_UTF8; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_host_admit(
    host: *const rtd_host,
    notebook_id: *const c_char,
    len: usize,
) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe { with(host, |host| Ok(host.admit(text(notebook_id, len, "notebook_id")?)?)) })
}

/// Makes a copy of a room's document. It goes its own way (rtd_doc_edit(), rtd_doc_fork(), rtd_doc_merge()); what was
/// done in it comes back by rtd_host_merge().
///
/// \param host the host
/// \param notebook_id id of the room in UTF-8
/// \param len its length in bytes
/// \param out receives the copy, NULL on failure; release with rtd_doc_free()
/// \return RTD_OK; RTD_E_NOT_FOUND; RTD_E_STATE in a forked child; RTD_E_CLOSED; RTD_E_POISONED; RTD_E_UTF8; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_host_fork(
    host: *const rtd_host,
    notebook_id: *const c_char,
    len: usize,
    out: *mut *mut rtd_doc,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        unsafe {
            give(out, || {
                let host = handle(host, "host")?;
                let copy = host.host.fork(text(notebook_id, len, "notebook_id")?)?;
                Ok(rtd_doc { notebook: Mutex::new(copy) })
            })
        }
    })
}

/// Takes what a copy did meanwhile into the room's document and tells the peers, as if the copy were a peer that was
/// away: edits of a source merge by character.
///
/// \param host the host
/// \param notebook_id id of the room in UTF-8
/// \param id_len its length in bytes
/// \param doc a copy made by rtd_host_fork() of this room, or by rtd_doc_fork() of such a copy; it stays as it is
/// \return RTD_OK, also when there is nothing new; RTD_E_ARG when it is no copy of this document; RTD_E_NOT_FOUND;
///   RTD_E_STATE in a forked child; RTD_E_CLOSED; RTD_E_POISONED; RTD_E_UTF8; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_host_merge(
    host: *const rtd_host,
    notebook_id: *const c_char,
    id_len: usize,
    doc: *const rtd_doc,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let (host, id) = unsafe { (handle(host, "host")?, text(notebook_id, id_len, "notebook_id")?) };
        // SAFETY: the caller's promise.
        let doc = unsafe { handle(doc, "doc")? };
        Ok(host.host.merge(id, &*lock_doc(doc)?)?)
    })
}
