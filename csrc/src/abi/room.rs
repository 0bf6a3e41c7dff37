//! Storey 4, the rooms of a host: opening and closing them, and their documents.

use std::ffi::c_char;
use std::path::Path;

use super::buf::{rtd_buf, write_json};
use super::doc::rtd_doc;
use super::guard::{guard, handle, out_handle, text, Failure};
use super::host::{live, rtd_host};
use super::rtd_result;
use crate::drive::{DriveError, Host};

/// A text of the caller: pointer and length.
type Text = (*const c_char, usize);

/// Opens a room with one of the two functions of `Host`.
///
/// # Safety
/// `host` must be NULL or live, and both texts readable for their length.
unsafe fn open(
    host: *const rtd_host,
    notebook_id: Text,
    journal_path: Text,
    open: fn(&Host, &str, Option<&Path>) -> Result<(), DriveError>,
) -> Result<(), Failure> {
    // SAFETY: as promised by the caller.
    unsafe {
        let host = live(host)?;
        let id = text(notebook_id.0, notebook_id.1, "notebook_id")?;
        let path = text(journal_path.0, journal_path.1, "journal_path")?;
        Ok(open(host, id, (!path.is_empty()).then(|| Path::new(path)))?)
    }
}

/// Opens a room and admits the peers that wait for it. The room may be opened before a peer asks for it. With a journal,
/// the document is loaded from it, and every change is appended to it before it is acknowledged.
///
/// \param host the host
/// \param notebook_id id of the room in UTF-8
/// \param id_len its length in bytes
/// \param journal_path file of the document in UTF-8; NULL: in memory only
/// \param path_len its length in bytes
/// \return RTD_OK; RTD_E_STATE when the room is open or in a forked child; RTD_E_CORRUPT when the file cannot be read (it
///   stays as it is); RTD_E_IO; RTD_E_CLOSED; RTD_E_UTF8; RTD_E_NULL. After a failure the peers still wait
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

/// Opens a room as rtd_host_open_room() does, but makes its peers wait for rtd_host_admit(). The first peer sees the
/// document with everything that was published meanwhile, such as the content of a notebook file: a client may fill a
/// room that it finds empty. rtd_host_close_room() abandons the room.
///
/// \param host the host
/// \param notebook_id id of the room in UTF-8
/// \param id_len its length in bytes
/// \param journal_path file of the document in UTF-8; NULL: in memory only
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

/// Admits the peers of a prepared room.
///
/// \param host the host
/// \param notebook_id id of the room in UTF-8
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_NOT_FOUND when no such room is prepared; RTD_E_STATE in a forked child; RTD_E_CLOSED;
///   RTD_E_UTF8; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_host_admit(
    host: *const rtd_host,
    notebook_id: *const c_char,
    len: usize,
) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe { Ok(live(host)?.admit(text(notebook_id, len, "notebook_id")?)?) })
}

/// Disconnects the peers that wait for a room, instead of opening it.
///
/// \param host the host
/// \param notebook_id id of the room in UTF-8
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_NOT_FOUND when no peer waits for it; RTD_E_CLOSED; RTD_E_UTF8; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_host_refuse_room(
    host: *const rtd_host,
    notebook_id: *const c_char,
    len: usize,
) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe { Ok(live(host)?.refuse_room(text(notebook_id, len, "notebook_id")?)?) })
}

/// Closes a room and disconnects its peers. Its journal keeps the document.
///
/// \param host the host
/// \param notebook_id id of the room in UTF-8
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_NOT_FOUND; RTD_E_CLOSED; RTD_E_UTF8; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_host_close_room(
    host: *const rtd_host,
    notebook_id: *const c_char,
    len: usize,
) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe { Ok(live(host)?.close_room(text(notebook_id, len, "notebook_id")?)?) })
}

/// Closes a room if no peer is in it. A peer that joins at this moment is not disconnected: it asks for the room again
/// (RTD_EV_ROOM_WANTED).
///
/// \param host the host
/// \param notebook_id id of the room in UTF-8
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_AGAIN when a peer is in it; RTD_E_NOT_FOUND; RTD_E_CLOSED; RTD_E_UTF8; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_host_evict_room(
    host: *const rtd_host,
    notebook_id: *const c_char,
    len: usize,
) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe { Ok(live(host)?.evict_room(text(notebook_id, len, "notebook_id")?)?) })
}

/// The open rooms, as a JSON array of objects with the members notebook_id and peers.
///
/// \param host the host
/// \param out receives the JSON; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_STATE in a forked child; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_host_rooms(host: *const rtd_host, out: *mut rtd_buf) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe { write_json(out, &live(host)?.rooms()?) })
}

/// Makes a handle for the document of a room: to read it, to change it, to copy it, and to merge a copy into it. The
/// handle refers to the room by its id, so it also serves a room that is closed and opened again.
///
/// \param host the host
/// \param notebook_id id of the room in UTF-8; the room need not be open yet
/// \param len its length in bytes
/// \param out receives the handle, NULL on failure; release with rtd_doc_free(), before or after the host
/// \return RTD_OK; RTD_E_UTF8; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_host_doc(
    host: *const rtd_host,
    notebook_id: *const c_char,
    len: usize,
    out: *mut *mut rtd_doc,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        unsafe {
            out_handle(out, || {
                let host = handle(host, "host")?;
                Ok(rtd_doc::of_room(&host.host, text(notebook_id, len, "notebook_id")?))
            })
        }
    })
}
