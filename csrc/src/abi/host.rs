//! Storey 4, rooms on a listening socket and their peers.

use std::ffi::c_char;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::guard::{bytes, guard, guard_value, handle, millis, out_handle, take_handle, text, Failure};
use super::queue::rtd_queue;
use super::rtd_result;
use crate::code::rtd_code;
use crate::drive::{Host, HostOptions};
use crate::notebook::parse_ops;

/// Rooms on one socket. The library keeps the documents, synchronizes the peers and keeps everything in order; requests
/// of peers become events, and the program decides what they mean.
pub struct rtd_host {
    pub(super) host: Arc<Host>,
    queue: rtd_queue,
}

/// Options of rtd_host_open(). Call rtd_host_options_init() first, then set what you need.
#[repr(C)]
pub struct rtd_host_options {
    /// sizeof(rtd_host_options), as the program was compiled.
    pub struct_size: u32,
    /// Sum of rtd_host_flag. Default 0.
    pub flags: u32,
    /// Largest number of connections; the host closes further ones at once. Default 1024.
    pub max_peers: u32,
    /// Milliseconds until a new connection must have sent its handshake; negative: no limit. Default 10000.
    pub handshake_timeout_ms: i64,
    /// Bytes of responses and broadcasts kept for a peer that does not read; with more, the host disconnects it. Also
    /// bytes of requests of one peer without an answer; with more, the host stops reading from it. Default 67108864.
    pub peer_limit: u64,
    /// JSON object whose members are added to the capabilities frame; NULL for none. The member `blobs` names the
    /// directory of the blobs of rtd_output_store() to sessions; needed unless it is `blobs` beside the socket.
    pub capabilities: *const u8,
    /// Length of `capabilities` in bytes.
    pub capabilities_len: usize,
}

/// Flags of a host.
#[repr(C)]
pub enum rtd_host_flag {
    /// RTD_EV_ROOM_CHANGED whenever a peer changes the document of a room.
    RTD_HOST_WATCH_CHANGES = 1,
}

/// Sets options to their defaults.
///
/// \param options the options; NULL is ignored
/// \param size sizeof(rtd_host_options); with any other size nothing is set
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_host_options_init(options: *mut rtd_host_options, size: usize) {
    guard_value((), || {
        if size != size_of::<rtd_host_options>() {
            return;
        }
        // SAFETY: NULL is checked by as_mut; the caller vouches for the rest.
        if let Some(options) = unsafe { options.as_mut() } {
            let defaults = HostOptions::default();
            *options = rtd_host_options {
                struct_size: size as u32,
                flags: 0,
                max_peers: defaults.max_peers as u32,
                handshake_timeout_ms: defaults.handshake_timeout.map_or(-1, |timeout| timeout as i64),
                peer_limit: defaults.peer_limit as u64,
                capabilities: std::ptr::null(),
                capabilities_len: 0,
            };
        }
    });
}

/// Listens on a socket (mode 0600). Replaces the socket file of a process that is gone, but neither that of a live one
/// nor a file that is not a socket.
///
/// \param socket_path path of the socket in UTF-8
/// \param len its length in bytes, at most 107 on Linux
/// \param options NULL for the defaults
/// \param out receives the handle, NULL on failure; release with rtd_host_free()
/// \return RTD_OK; RTD_E_IO with the system's text, also when another daemon listens there; RTD_E_ARG, also for
///   unknown flags; RTD_E_VERSION; RTD_E_UTF8; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_host_open(
    socket_path: *const c_char,
    len: usize,
    options: *const rtd_host_options,
    out: *mut *mut rtd_host,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        unsafe {
            out_handle(out, || {
                let path = Path::new(text(socket_path, len, "socket_path")?);
                let host = Arc::new(Host::open(path, read_options(options)?)?);
                Ok(rtd_host { queue: rtd_queue::new(host.clone()), host })
            })
        }
    })
}

/// # Safety
/// `options` must be NULL or readable.
unsafe fn read_options(options: *const rtd_host_options) -> Result<HostOptions, Failure> {
    // SAFETY: NULL is checked by as_ref; the caller vouches for the rest.
    let Some(options) = (unsafe { options.as_ref() }) else {
        return Ok(HostOptions::default());
    };
    if options.struct_size as usize != size_of::<rtd_host_options>() {
        return Err(Failure::new(rtd_code::RTD_E_VERSION, "struct_size of rtd_host_options is unknown"));
    }
    let watch = rtd_host_flag::RTD_HOST_WATCH_CHANGES as u32;
    if options.flags & !watch != 0 {
        return Err(Failure::new(rtd_code::RTD_E_ARG, "unknown flags"));
    }
    // SAFETY: the caller's promise.
    let json = unsafe { bytes(options.capabilities, options.capabilities_len, "capabilities")? };
    let capabilities = if json.is_empty() { Map::new() } else { object(json, "capabilities")? };
    Ok(HostOptions {
        max_peers: options.max_peers as usize,
        handshake_timeout: millis(options.handshake_timeout_ms),
        peer_limit: usize::try_from(options.peer_limit).unwrap_or(usize::MAX),
        capabilities,
        watch_changes: options.flags & watch != 0,
    })
}

pub(super) fn object(json: &[u8], name: &str) -> Result<Map<String, Value>, Failure> {
    serde_json::from_slice(json)
        .map_err(|error| Failure::new(rtd_code::RTD_E_ARG, format!("{name}: not a JSON object: {error}")))
}

/// Stops listening, disconnects every peer and removes the socket file. RTD_EV_CLOSED is the last event. The handle
/// stays valid. Idempotent.
///
/// \param host the host
/// \return RTD_OK; RTD_E_STATE in a forked child; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_host_close(host: *const rtd_host) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe { Ok(live(host)?.close()?) })
}

/// Closes and releases a host with its queue; events that were not taken are dropped. NULL is fine. Waits for the I/O
/// thread to end if this was the last session or host, so do not call it from a wakeup function. Does nothing in a
/// forked child.
///
/// \param host the host; not used afterwards
/// \threads exclusive
#[no_mangle]
pub unsafe extern "C" fn rtd_host_free(host: *mut rtd_host) {
    guard_value((), || {
        // SAFETY: the caller's promise.
        if let Some(host) = unsafe { take_handle(host) } {
            if !host.host.in_own_process() {
                // Its locks and its thread belong to the parent.
                std::mem::forget(host);
            }
        }
    });
}

/// The queue of a host's events.
///
/// \param host the host
/// \return the queue, borrowed: always the same, valid until rtd_host_free(); NULL for NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_host_queue(host: *const rtd_host) -> *mut rtd_queue {
    // SAFETY: the caller's promise.
    guard_value(std::ptr::null_mut(), || match unsafe { host.as_ref() } {
        Some(host) => std::ptr::from_ref(&host.queue).cast_mut(),
        None => std::ptr::null_mut(),
    })
}

/// Changes a room's document and sends it to its peers: the operations as one change (all or nothing; outputs as
/// rtd_output_store() returns them, or nbformat JSON), in one sync message per peer, then the broadcasts. A broadcast
/// never overtakes the change before it. A slow peer delays no other peer.
///
/// \param host the host
/// \param notebook_id id of the room in UTF-8
/// \param id_len its length in bytes
/// \param ops JSON array as in rtd_doc_edit(); (NULL, 0) for none
/// \param ops_len its length in bytes
/// \param broadcasts JSON array of broadcasts (section 5.8); (NULL, 0) for none
/// \param broadcasts_len its length in bytes
/// \param cause token of a request whose peer must get its response before these broadcasts; 0 for none
/// \return RTD_OK; RTD_E_NOT_FOUND for the room or a cell; RTD_E_ARG; RTD_E_CLOSED; RTD_E_POISONED; RTD_E_UTF8;
///   RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_host_publish(
    host: *const rtd_host,
    notebook_id: *const c_char,
    id_len: usize,
    ops: *const u8,
    ops_len: usize,
    broadcasts: *const u8,
    broadcasts_len: usize,
    cause: u64,
) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let host = live(host)?;
        let id = text(notebook_id, id_len, "notebook_id")?;
        let ops = match bytes(ops, ops_len, "ops")? {
            [] => Vec::new(),
            json => parse_ops(json)?,
        };
        let broadcasts: Vec<Map<String, Value>> = match bytes(broadcasts, broadcasts_len, "broadcasts")? {
            [] => Vec::new(),
            json => serde_json::from_slice(json).map_err(|error| {
                let text = format!("broadcasts: not a JSON array of objects: {error}");
                Failure::new(rtd_code::RTD_E_ARG, text)
            })?,
        };
        let broadcasts: Vec<Value> = broadcasts.into_iter().map(Value::Object).collect();
        Ok(host.publish(id, &ops, &broadcasts, cause)?)
    })
}

/// Sends one broadcast to one peer, after the changes and broadcasts before it: what only a new peer needs, such as the
/// current state of widgets (comm_sync). A peer that speaks protocol version 1 has no broadcasts and gets nothing.
///
/// \param host the host
/// \param peer number of the connection, as in RTD_EV_PEER_JOINED
/// \param broadcast the broadcast (section 5.8), a JSON object
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_NOT_FOUND when no such peer is in a room; RTD_E_ARG; RTD_E_CLOSED; RTD_E_POISONED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_host_send(
    host: *const rtd_host,
    peer: u64,
    broadcast: *const u8,
    len: usize,
) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let host = live(host)?;
        let broadcast = object(bytes(broadcast, len, "broadcast")?, "broadcast")?;
        Ok(host.send(peer, &Value::Object(broadcast))?)
    })
}

/// Sends the state of the environment pools to its subscribers (section 11.2) if it differs from the last one. The host
/// keeps it for new subscribers; before the first call they get a state without errors. A subscriber that does not read
/// gets the newest state when it does, and nothing in between.
///
/// \param host the host
/// \param state JSON object with the members uv_error and conda_error, each null or a pool error (section 4.2)
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_ARG; RTD_E_CLOSED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_host_announce_pool_state(
    host: *const rtd_host,
    state: *const u8,
    len: usize,
) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe { Ok(live(host)?.announce_pool_state(&object(bytes(state, len, "state")?, "state")?)?) })
}

/// Answers a request event, now or later, in any order; the library adds the identifiers and sends the responses in the
/// order of the requests. While a peer has 1024 requests without an answer, or more than `peer_limit` bytes of them, the
/// host reads nothing more from it; if it leaves meanwhile, RTD_EV_PEER_LEFT follows their answers.
///
/// \param host the host
/// \param token token of the event
/// \param json the response, a JSON object
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_NOT_FOUND when it was answered or its peer has left; RTD_E_ARG; RTD_E_CLOSED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_host_respond(
    host: *const rtd_host,
    token: u64,
    json: *const u8,
    len: usize,
) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let host = live(host)?;
        Ok(host.respond(token, &Value::Object(object(bytes(json, len, "json")?, "response")?))?)
    })
}

/// Disconnects one peer.
///
/// \param host the host
/// \param peer number of the connection
/// \return RTD_OK; RTD_E_NOT_FOUND; RTD_E_CLOSED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_host_disconnect(host: *const rtd_host, peer: u64) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe { Ok(live(host)?.disconnect(peer)?) })
}

/// # Safety
/// `host` must be NULL or live.
pub(super) unsafe fn live<'a>(host: *const rtd_host) -> Result<&'a Host, Failure> {
    // SAFETY: as promised by the caller.
    Ok(&unsafe { handle(host, "host")? }.host)
}
