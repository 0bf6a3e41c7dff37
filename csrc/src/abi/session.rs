//! Storey 4, a client of one room: its connection, requests and executions.

use std::ffi::c_char;
use std::path::PathBuf;
use std::sync::Arc;

use super::buf::{rtd_buf, write_json};
use super::doc::rtd_doc;
use super::guard::{bytes, guard, guard_value, handle, millis, out_handle, take_handle, text, Failure};
use super::queue::rtd_queue;
use super::rtd_result;
use crate::code::rtd_code;
use crate::drive::{Session, SessionOptions};

/// A client of one room: a replica of its document, requests, executions, events.
pub struct rtd_session {
    session: Arc<Session>,
    queue: rtd_queue,
    doc: rtd_doc,
}

/// Options of rtd_session_open(). Fill with rtd_session_options_init(), then change what you want.
#[repr(C)]
pub struct rtd_session_options {
    /// sizeof(rtd_session_options) of the caller.
    pub struct_size: u32,
    /// A sum of `rtd_session_flag`; default 0.
    pub flags: u32,
    /// Milliseconds for handshake and first synchronisation; negative: no limit. Default 10000.
    pub connect_timeout_ms: i64,
    /// Bytes of events kept for a host that does not take them, see RTD_EV_RESYNC; default 67108864.
    pub queue_limit: u64,
    /// Directory of blobs in UTF-8; NULL: what the daemon says, else `blobs` beside the socket.
    pub blobs_dir: *const c_char,
    /// Length of `blobs_dir` in bytes.
    pub blobs_dir_len: usize,
}

/// Flags of a session.
#[repr(C)]
pub enum rtd_session_flag {
    /// RTD_EV_OUTPUT and RTD_EV_CLEARED also for cells that others run, with token 0.
    RTD_SESSION_WATCH_ALL = 1,
}

/// Fills options with their defaults.
///
/// \param options the options; NULL is ignored
/// \param size sizeof(rtd_session_options) of the caller; another size is ignored
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_session_options_init(options: *mut rtd_session_options, size: usize) {
    guard_value((), || {
        if size != size_of::<rtd_session_options>() {
            return;
        }
        // SAFETY: NULL is checked by as_mut; the caller vouches for the rest.
        if let Some(options) = unsafe { options.as_mut() } {
            let defaults = SessionOptions::default();
            *options = rtd_session_options {
                struct_size: size as u32,
                flags: 0,
                connect_timeout_ms: defaults.connect_timeout.map_or(-1, |timeout| timeout as i64),
                queue_limit: defaults.queue_limit as u64,
                blobs_dir: std::ptr::null(),
                blobs_dir_len: 0,
            };
        }
    });
}

/// Connects to a daemon and starts joining a room; the daemon makes one that is new. RTD_EV_READY follows, or
/// RTD_EV_CLOSED. Until then only close, free, info and the functions of the queue are of use.
///
/// \param socket_path path of the daemon's socket in UTF-8
/// \param path_len its length in bytes
/// \param notebook_id id of the room in UTF-8; any text
/// \param id_len its length in bytes
/// \param options NULL for the defaults
/// \param out receives the handle, NULL on failure; release with rtd_session_free()
/// \return RTD_OK; RTD_E_IO with the system's text when nobody listens; RTD_E_TIMEOUT when the daemon accepts nobody
///   (blocks so long, where the system makes callers wait in line); RTD_E_AGAIN when a signal came meanwhile and had a
///   handler: call again, or out_handle up; RTD_E_TOO_BIG for an id that does not fit the handshake; RTD_E_ARG for unknown flags; RTD_E_VERSION; RTD_E_UTF8; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_session_open(
    socket_path: *const c_char,
    path_len: usize,
    notebook_id: *const c_char,
    id_len: usize,
    options: *const rtd_session_options,
    out: *mut *mut rtd_session,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        unsafe {
            out_handle(out, || {
                let path = PathBuf::from(text(socket_path, path_len, "socket_path")?);
                let id = text(notebook_id, id_len, "notebook_id")?;
                let session = Arc::new(Session::open(&path, id, read_options(options)?)?);
                let queue = rtd_queue::new(session.clone());
                Ok(rtd_session { queue, doc: rtd_doc::of_session(Arc::clone(&session)), session })
            })
        }
    })
}

/// # Safety
/// `options` must be NULL or readable.
unsafe fn read_options(options: *const rtd_session_options) -> Result<SessionOptions, Failure> {
    // SAFETY: NULL is checked by as_ref; the caller vouches for the rest.
    let Some(options) = (unsafe { options.as_ref() }) else {
        return Ok(SessionOptions::default());
    };
    if options.struct_size as usize != size_of::<rtd_session_options>() {
        return Err(Failure::new(rtd_code::RTD_E_VERSION, "struct_size of rtd_session_options is unknown"));
    }
    let watch = rtd_session_flag::RTD_SESSION_WATCH_ALL as u32;
    if options.flags & !watch != 0 {
        return Err(Failure::new(rtd_code::RTD_E_ARG, "unknown flags"));
    }
    let blobs_dir = if options.blobs_dir.is_null() {
        None
    } else {
        // SAFETY: the caller's promise.
        Some(PathBuf::from(unsafe { text(options.blobs_dir, options.blobs_dir_len, "blobs_dir")? }))
    };
    Ok(SessionOptions {
        connect_timeout: millis(options.connect_timeout_ms),
        queue_limit: usize::try_from(options.queue_limit).unwrap_or(usize::MAX),
        watch_all: options.flags & watch != 0,
        blobs_dir,
    })
}

/// Leaves the room: everything under way ends with its terminal event at once. RTD_EV_CLOSED is the last one; it
/// comes when the daemon has what was written here, or, with RTD_E_TIMEOUT, when it has taken nothing of it for
/// 10 seconds. Does not wait for that. The handle stays valid. Idempotent.
///
/// \param session the session
/// \return RTD_OK; RTD_E_STATE in a forked child; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_session_close(session: *const rtd_session) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe { with(session, |session| Ok(session.close()?)) })
}

/// Closes and releases a session and drops events not taken, and what was written and is not sent: close first and
/// take events until RTD_EV_CLOSED where that matters. NULL is fine. Waits for the I/O thread when this was
/// the last session or host, so not from a wakeup function. In a forked child nothing is touched.
///
/// \param session the session; not used afterwards
/// \threads exclusive
#[no_mangle]
pub unsafe extern "C" fn rtd_session_free(session: *mut rtd_session) {
    guard_value((), || {
        // SAFETY: the caller's promise.
        if let Some(session) = unsafe { take_handle(session) } {
            if !session.session.in_own_process() {
                // Its locks and its thread belong to the parent.
                std::mem::forget(session);
            }
        }
    });
}

/// The queue of a session's events.
///
/// \param session the session
/// \return the queue, borrowed from the session: always the same, valid until rtd_session_free(), never freed by
///   itself; NULL for NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_session_queue(session: *const rtd_session) -> *mut rtd_queue {
    // SAFETY: the caller's promise.
    guard_value(std::ptr::null_mut(), || match unsafe { session.as_ref() } {
        Some(session) => std::ptr::from_ref(&session.queue).cast_mut(),
        None => std::ptr::null_mut(),
    })
}

/// The session's replica of the document. Reading it takes no I/O, and is possible after the end of the connection
/// too; a change is sent at once.
///
/// \param session the session
/// \return the document, borrowed from the session: always the same, valid until rtd_session_free(), never freed by
///   itself; NULL for NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_session_doc(session: *const rtd_session) -> *mut rtd_doc {
    // SAFETY: the caller's promise.
    guard_value(std::ptr::null_mut(), || match unsafe { session.as_ref() } {
        Some(session) => std::ptr::from_ref(&session.doc).cast_mut(),
        None => std::ptr::null_mut(),
    })
}

/// Turns events about outputs of cells that others run on or off (they carry token 0).
///
/// \param session the session
/// \param on 0 or 1
/// \return RTD_OK; RTD_E_STATE in a forked child; RTD_E_POISONED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_session_watch(session: *const rtd_session, on: i32) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe { with(session, |session| Ok(session.watch(on != 0)?)) })
}

/// Sends a request (section 5.6), behind all local edits. It ends in exactly one RTD_EV_RESPONSE with this
/// token. The daemon works on requests of one session in order.
///
/// \param session the session
/// \param token chosen by the caller; best below 2^53, not 0, and not that of another call under way
/// \param json the request, an object with the member `action`, in UTF-8
/// \param len its length in bytes
/// \param timeout_ms milliseconds until RTD_E_TIMEOUT; negative: no limit
/// \return RTD_OK; RTD_E_ARG when it is no request; RTD_E_AGAIN with 1024 calls under way, or while the daemon leaves
///   more than 256 MiB unread; RTD_E_STATE before RTD_EV_READY or in a forked child; RTD_E_PROTOCOL when the daemon
///   speaks protocol 1 only; RTD_E_TOO_BIG; RTD_E_CLOSED; RTD_E_POISONED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_session_request(
    session: *const rtd_session,
    token: u64,
    json: *const u8,
    len: usize,
    timeout_ms: i64,
) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        with(session, |session| Ok(session.request(token, bytes(json, len, "json")?, millis(timeout_ms))?))
    })
}

/// Executes a code cell of the shared document as it stands now, local edits included. Events with
/// this token follow: RTD_EV_QUEUED, RTD_EV_STARTED, RTD_EV_OUTPUT and RTD_EV_CLEARED as they happen, and at the
/// end exactly one RTD_EV_DONE. A cell that does not exist, or that cannot run, ends in RTD_DONE_REFUSED.
///
/// \param session the session
/// \param token as for rtd_session_request()
/// \param cell_id id of the cell in UTF-8
/// \param len its length in bytes
/// \param timeout_ms milliseconds until RTD_DONE_TIMED_OUT; negative: no limit
/// \return as rtd_session_request(); RTD_E_UTF8
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_session_execute(
    session: *const rtd_session,
    token: u64,
    cell_id: *const c_char,
    len: usize,
    timeout_ms: i64,
) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        with(session, |session| {
            Ok(session.execute(token, text(cell_id, len, "cell_id")?, millis(timeout_ms))?)
        })
    })
}

/// Asks for one RTD_EV_SYNCED with this token, once the daemon has every local change and this replica
/// every change the daemon announced.
///
/// \param session the session
/// \param token as for rtd_session_request()
/// \param timeout_ms milliseconds until RTD_E_TIMEOUT; negative: no limit
/// \return as rtd_session_request()
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_session_sync(
    session: *const rtd_session,
    token: u64,
    timeout_ms: i64,
) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe { with(session, |session| Ok(session.sync(token, millis(timeout_ms))?)) })
}

/// What is known of the connection, as a JSON object with the members notebook_id, state ("connecting",
/// "ready", "closed"), reason (text once closed, else null), protocol ("v1" or "v2"), capabilities (object),
/// kernel_status (text, null before the first broadcast of it), executing (cell id or null), queued (array of
/// cell ids), queue_bytes (bytes of events that wait), unsent (whether the daemon may not have
/// everything yet that was written here), blobs_dir. No I/O.
///
/// \param session the session
/// \param out receives the JSON; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_STATE in a forked child; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_session_info(session: *const rtd_session, out: *mut rtd_buf) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe { with(session, |session| write_json(out, &session.info()?)) })
}

/// # Safety
/// `session` must be NULL or live.
unsafe fn with(
    session: *const rtd_session,
    call: impl FnOnce(&Session) -> Result<(), Failure>,
) -> Result<(), Failure> {
    // SAFETY: as promised by the caller.
    call(&unsafe { handle(session, "session")? }.session)
}
