//! Storey 0: numbers that Rust, C and Python share, each written once: result codes, kinds of events, and the values of
//! the `code` of an event. Imports nothing.
#![allow(non_camel_case_types)]

/// `RTD_OK` (0) or a negative `RTD_E_*` of `rtd_code`.
pub type rtd_result = i32;

/// Result of a call, and code of an event. Zero is success, errors are negative and never renumbered.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum rtd_code {
    /// Success.
    RTD_OK = 0,
    /// Nothing there now, or a limit is reached: try again after the next event.
    RTD_E_AGAIN = -1,
    /// The handle or the connection is closed.
    RTD_E_CLOSED = -2,
    /// A pointer that must not be NULL is NULL.
    RTD_E_NULL = -3,
    /// An argument is wrong; the caller can correct it.
    RTD_E_ARG = -4,
    /// A text is not UTF-8.
    RTD_E_UTF8 = -5,
    /// Larger than the protocol or a limit allows.
    RTD_E_TOO_BIG = -6,
    /// The peer broke the protocol.
    RTD_E_PROTOCOL = -7,
    /// The operating system refused; the text is that of the system.
    RTD_E_IO = -8,
    /// A time limit passed.
    RTD_E_TIMEOUT = -9,
    /// No such cell, room, request, peer or blob.
    RTD_E_NOT_FOUND = -10,
    /// Not possible in this state, or in a forked child.
    RTD_E_STATE = -11,
    /// Header and library do not match.
    RTD_E_VERSION = -12,
    /// The library failed; the handle is poisoned.
    RTD_E_PANIC = -13,
    /// The library failed in this handle before.
    RTD_E_POISONED = -14,
    /// Stored data cannot be read; it was not changed.
    RTD_E_CORRUPT = -15,
}

/// Kinds of events. 1 to 12 come from sessions, 20 and above from hosts, RTD_EV_CLOSED from both.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum rtd_event_kind {
    /// No event.
    RTD_EV_NONE = 0,
    /// The session has joined the room and has its document. payload: capabilities of the daemon.
    RTD_EV_READY = 1,
    /// Peers changed the document, which has the changes already. payload: {"cells":[ids],"order":bool,"metadata":bool}.
    /// While such an event waits, later changes are added to it.
    RTD_EV_CHANGED = 2,
    /// End of a request. code RTD_OK: payload is the response, which may be a refusal ({"result":"error",...});
    /// else there is no response, and text says why: RTD_E_TIMEOUT, RTD_E_CLOSED, or the code of RTD_EV_CLOSED.
    RTD_EV_RESPONSE = 3,
    /// The daemon accepted an execution. payload: its response.
    RTD_EV_QUEUED = 4,
    /// The kernel started the cell. number: execution count. The document may be ahead of the daemon's broadcasts:
    /// outputs can come before this event.
    RTD_EV_STARTED = 5,
    /// An output. number: index in the cell; code: `rtd_output_change`; payload: nbformat output; text: plain text.
    /// If its blob cannot be read, payload is the element of the document as a JSON string and text the reason.
    RTD_EV_OUTPUT = 6,
    /// The outputs of the cell were cleared. number: when the session joined an execution that was already running, the
    /// number of outputs that follow and were there before; else -1.
    RTD_EV_CLEARED = 7,
    /// End of an execution. code: `rtd_done`; number: execution count, -1 if it never started; text: reason.
    RTD_EV_DONE = 8,
    /// Any broadcast (section 5.8) except `output`. payload: as received.
    RTD_EV_BROADCAST = 9,
    /// End of rtd_session_sync(). code: RTD_OK, or as for RTD_EV_RESPONSE with text.
    RTD_EV_SYNCED = 10,
    /// The queue was full, and events that are not terminal were dropped: read the document.
    RTD_EV_RESYNC = 11,
    /// The last event. code: RTD_OK when this side closed, RTD_E_CLOSED when the daemon did, RTD_E_TIMEOUT when the daemon
    /// did not complete the handshake, stopped answering or stopped reading, RTD_E_PROTOCOL, RTD_E_IO, RTD_E_PANIC; text:
    /// why.
    RTD_EV_CLOSED = 12,
    /// A peer asks for a room that is not open: answer with rtd_host_open_room() or rtd_host_refuse_room().
    RTD_EV_ROOM_WANTED = 20,
    /// A peer joined a room. number: peers in the room now.
    RTD_EV_PEER_JOINED = 21,
    /// A peer left a room; its requests no longer need an answer. number: peers in the room now; code: RTD_OK for an
    /// ordinary end, RTD_E_TOO_BIG when it did not read, RTD_E_PROTOCOL, RTD_E_TIMEOUT, RTD_E_IO, RTD_E_PANIC; text: why.
    RTD_EV_PEER_LEFT = 22,
    /// A request. code: `rtd_channel`; payload: the request, or the bytes of a blob. Answer once with rtd_host_respond().
    /// The library adds the member `at_request` to execute_cell and run_all_cells: an array of the cells to run (id,
    /// cell_type, source), as they were when the request arrived.
    RTD_EV_REQUEST = 23,
    /// Peers changed a room's document; only with RTD_HOST_WATCH_CHANGES. payload and merging as for RTD_EV_CHANGED, per
    /// room.
    RTD_EV_ROOM_CHANGED = 24,
    /// code RTD_E_IO: the room's journal cannot be written at present (the room stays open, and each change tries again);
    /// any other code: the room failed and was closed.
    RTD_EV_ROOM_FAILED = 25,
    /// Peers changed the settings. Not sent again before the next rtd_host_settings().
    RTD_EV_SETTINGS_CHANGED = 26,
    /// As RTD_EV_ROOM_FAILED, for the settings.
    RTD_EV_SETTINGS_FAILED = 27,
}

/// How an execution ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum rtd_done {
    /// The cell ran without an error.
    RTD_DONE_OK = 0,
    /// The code raised an error; it is the last error output.
    RTD_DONE_ERROR = 1,
    /// The kernel was interrupted.
    RTD_DONE_INTERRUPTED = 2,
    /// The cell never ran, or its kernel was shut down.
    RTD_DONE_CANCELLED = 3,
    /// The kernel died.
    RTD_DONE_KERNEL_DIED = 4,
    /// The kernel could not be started.
    RTD_DONE_LAUNCH_FAILED = 5,
    /// The caller's time limit passed; the cell keeps running.
    RTD_DONE_TIMED_OUT = 6,
    /// The connection ended.
    RTD_DONE_DISCONNECTED = 7,
    /// The daemon refused the request. text: its reason; payload: its response.
    RTD_DONE_REFUSED = 8,
}

/// What an output event did to the list of outputs.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum rtd_output_change {
    /// Inserted at the index, normally the end.
    RTD_OUTPUT_APPENDED = 0,
    /// Took the place of the one at the index.
    RTD_OUTPUT_REPLACED = 1,
    /// Stream text that came in pieces is one output now, at the index: it replaces the pieces, which are all outputs from
    /// there on. Payload and text have only what is new, so that no text is reported twice; they are often empty.
    RTD_OUTPUT_JOINED = 2,
    /// Replaces all outputs from the index on, with the whole output as payload. Reported instead of RTD_OUTPUT_JOINED
    /// when the library cannot compare the texts, because a blob is missing.
    RTD_OUTPUT_REPLACED_ALL = 3,
}

/// Where a request came from.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum rtd_channel {
    /// A peer of a room (protocol 2, section 5.6).
    RTD_CHANNEL_NOTEBOOK = 1,
    /// The pool channel (section 4).
    RTD_CHANNEL_POOL = 2,
    /// The blob channel (section 8.6): with an id, payload holds bytes to store and id their media type.
    RTD_CHANNEL_BLOB = 3,
    /// The pool state (section 11.2). Only from rtd_conn_next_event(): a host answers by itself, see
    /// rtd_host_announce_pool_state().
    RTD_CHANNEL_POOL_STATE = 4,
    /// The settings (section 11.1). Only from rtd_conn_next_event(): a host answers by itself, see
    /// rtd_host_open_settings().
    RTD_CHANNEL_SETTINGS = 5,
}

/// The number of a code.
pub const fn code(code: rtd_code) -> i32 {
    code as i32
}
