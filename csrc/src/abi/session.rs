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

/// A client of one room: a replica of the document, requests, executions, and a queue of events.
pub struct rtd_session {
    session: Arc<Session>,
    queue: rtd_queue,
    doc: rtd_doc,
}

/// Options of rtd_session_open(). Call rtd_session_options_init() first, then set what you need.
#[repr(C)]
pub struct rtd_session_options {
    /// sizeof(rtd_session_options), as the program was compiled.
    pub struct_size: u32,
    /// A sum of `rtd_session_flag`. Default 0.
    pub flags: u32,
    /// Milliseconds for handshake and first synchronisation; negative: no limit. Default 10000.
    pub connect_timeout_ms: i64,
    /// Bytes of events kept until the program takes them, see RTD_EV_RESYNC. Default 67108864.
    pub queue_limit: u64,
    /// Directory of blobs in UTF-8; NULL: the one that the daemon names, else `blobs` beside the socket.
    pub blobs_dir: *const c_char,
    /// Length of `blobs_dir` in bytes.
    pub blobs_dir_len: usize,
}

/// Flags of a session.
#[repr(C)]
pub enum rtd_session_flag {
    /// Also report RTD_EV_OUTPUT and RTD_EV_CLEARED of cells that other peers run, with token 0.
    RTD_SESSION_WATCH_ALL = 1,
}

/// Sets options to their defaults.
///
/// \param options the options; NULL is ignored
/// \param size sizeof(rtd_session_options); with any other size nothing is set
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

/// Connects to a daemon and starts to join a room; the daemon creates the room if it is new. RTD_EV_READY follows, or
/// RTD_EV_CLOSED. Before RTD_EV_READY, requests and the functions of the document return RTD_E_STATE.
///
/// \param socket_path path of the daemon's socket in UTF-8
/// \param path_len its length in bytes
/// \param notebook_id id of the room in UTF-8; any text
/// \param id_len its length in bytes
/// \param options NULL for the defaults
/// \param out receives the handle, NULL on failure; release with rtd_session_free()
/// \return RTD_OK; RTD_E_IO with the system's text when no daemon listens; RTD_E_TIMEOUT when the daemon does not accept
///   the connection in time (the call blocks for as long); RTD_E_AGAIN when a signal handler ran meanwhile: call again, or
///   give up; RTD_E_TOO_BIG for an id that does not fit the handshake; RTD_E_ARG for unknown flags; RTD_E_VERSION;
///   RTD_E_UTF8; RTD_E_NULL
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

/// Leaves the room. Each pending request and execution gets its terminal event at once; RTD_EV_CLOSED is the last event:
/// it follows when the daemon has read what this session wrote or, with RTD_E_TIMEOUT, has read nothing for 10 seconds.
/// Does not wait for it. The handle stays valid. Idempotent.
///
/// \param session the session
/// \return RTD_OK; RTD_E_STATE in a forked child; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_session_close(session: *const rtd_session) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe { Ok(live(session)?.close()?) })
}

/// Closes and releases a session, with its queue and its document. Events that were not taken and bytes that were not
/// sent are dropped: where they matter, close first and take events until RTD_EV_CLOSED. NULL is fine. Waits for the
/// I/O thread to end if this was the last session or host, so do not call it from a wakeup function. Does nothing in a
/// forked child.
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
/// \return the queue, borrowed: always the same, valid until rtd_session_free(); NULL for NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_session_queue(session: *const rtd_session) -> *mut rtd_queue {
    // SAFETY: the caller's promise.
    guard_value(std::ptr::null_mut(), || match unsafe { session.as_ref() } {
        Some(session) => std::ptr::from_ref(&session.queue).cast_mut(),
        None => std::ptr::null_mut(),
    })
}

/// The session's replica of the document. Reading it needs no I/O and works after the end of the connection too; a
/// change is sent at once.
///
/// \param session the session
/// \return the document, borrowed: always the same, valid until rtd_session_free(); NULL for NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_session_doc(session: *const rtd_session) -> *mut rtd_doc {
    // SAFETY: the caller's promise.
    guard_value(std::ptr::null_mut(), || match unsafe { session.as_ref() } {
        Some(session) => std::ptr::from_ref(&session.doc).cast_mut(),
        None => std::ptr::null_mut(),
    })
}

/// Turns events about outputs of cells that other peers run on or off. They carry token 0.
///
/// \param session the session
/// \param on 0 or 1
/// \return RTD_OK; RTD_E_STATE in a forked child; RTD_E_POISONED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_session_watch(session: *const rtd_session, on: i32) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe { Ok(live(session)?.watch(on != 0)?) })
}

/// Sends a request (section 5.6), after all local edits. It ends in exactly one RTD_EV_RESPONSE with this token. The
/// daemon handles the requests of one session in order.
///
/// \param session the session
/// \param token chosen by the caller: not 0, preferably below 2^53, and not the token of another pending call
/// \param json the request, an object with the member `action`, in UTF-8
/// \param len its length in bytes
/// \param timeout_ms milliseconds until RTD_E_TIMEOUT; negative: no limit
/// \return RTD_OK; RTD_E_ARG when it is not a request; RTD_E_AGAIN with 1024 calls pending, or while the daemon leaves
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
    guard(|| unsafe { Ok(live(session)?.request(token, bytes(json, len, "json")?, millis(timeout_ms))?) })
}

/// Executes a code cell of the shared document as it is now, local edits included. Events with this token follow:
/// RTD_EV_QUEUED, RTD_EV_STARTED, RTD_EV_OUTPUT and RTD_EV_CLEARED as they happen, and exactly one RTD_EV_DONE at the
/// end. A cell that does not exist or cannot run ends in RTD_DONE_REFUSED.
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
        Ok(live(session)?.execute(token, text(cell_id, len, "cell_id")?, millis(timeout_ms))?)
    })
}

/// Asks for one RTD_EV_SYNCED with this token. It comes when the daemon has every local change and the replica has every
/// change that the daemon announced.
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
    guard(|| unsafe { Ok(live(session)?.sync(token, millis(timeout_ms))?) })
}

/// The state of the connection, as a JSON object with the members notebook_id, state ("connecting", "ready",
/// "closed"), reason (text once closed, else null), protocol ("v1" or "v2"), stream_pieces (whether stream text
/// comes in pieces that are merged later), capabilities (object), kernel_status (text, null before its first
/// broadcast), executing (cell id or null), queued (array of cell ids), queue_bytes (bytes of events that wait), unsent (whether the daemon may lack something that this session wrote), blobs_dir.
/// No I/O.
///
/// \param session the session
/// \param out receives the JSON; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_STATE in a forked child; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_session_info(session: *const rtd_session, out: *mut rtd_buf) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe { write_json(out, &live(session)?.info()?) })
}

/// # Safety
/// `session` must be NULL or live.
unsafe fn live<'a>(session: *const rtd_session) -> Result<&'a Session, Failure> {
    // SAFETY: as promised by the caller.
    Ok(&unsafe { handle(session, "session")? }.session)
}
