//! Numbers that Rust, C and Python share, each written once: result codes, kinds of events, and what the `code` of an
//! event can be. Below all storeys; touches nothing.
#![allow(non_camel_case_types)]

/// `RTD_OK` (0) or a negative `RTD_E_*` of `rtd_code`.
pub type rtd_result = i32;

/// Result of a call, and code of an event. Zero is success, errors are negative and never renumbered.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum rtd_code {
    /// Success.
    RTD_OK = 0,
    /// Nothing there now, or a bound is reached: try again when something happened.
    RTD_E_AGAIN = -1,
    /// The handle or the connection is closed.
    RTD_E_CLOSED = -2,
    /// A pointer that must not be NULL is NULL.
    RTD_E_NULL = -3,
    /// An argument is wrong; the caller can mend it.
    RTD_E_ARG = -4,
    /// Text is not UTF-8.
    RTD_E_UTF8 = -5,
    /// Larger than the protocol or a limit allows.
    RTD_E_TOO_BIG = -6,
    /// The peer broke the protocol.
    RTD_E_PROTOCOL = -7,
    /// The operating system refused; the text is its own.
    RTD_E_IO = -8,
    /// A time limit passed.
    RTD_E_TIMEOUT = -9,
    /// No such cell, room, request, peer or blob.
    RTD_E_NOT_FOUND = -10,
    /// Not possible in this state, or in a forked child.
    RTD_E_STATE = -11,
    /// Header and library do not fit.
    RTD_E_VERSION = -12,
    /// The library failed; the handle is poisoned.
    RTD_E_PANIC = -13,
    /// The library failed in this handle before.
    RTD_E_POISONED = -14,
    /// Stored data cannot be read; it was left as it is.
    RTD_E_CORRUPT = -15,
}

/// Kinds of events. 1 to 12 come from sessions, 20 and above from hosts, RTD_EV_CLOSED from both.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum rtd_event_kind {
    /// No event.
    RTD_EV_NONE = 0,
    /// The room was joined and its document is here. payload: capabilities of the daemon.
    RTD_EV_READY = 1,
    /// Peers changed the document. payload: {"cells":[ids],"order":bool,"metadata":bool}. A hint that waits
    /// takes in the ones after it; the document has the changes already.
    RTD_EV_CHANGED = 2,
    /// End of a request. code RTD_OK: payload is the response, which may be a refusal ({"result":"error",...});
    /// else text says why there is none: RTD_E_TIMEOUT, RTD_E_CLOSED, or the code of RTD_EV_CLOSED.
    RTD_EV_RESPONSE = 3,
    /// The daemon accepted an execution. payload: its response.
    RTD_EV_QUEUED = 4,
    /// The kernel started the cell. number: execution count. The document may be ahead of what the daemon tells:
    /// outputs can come before this.
    RTD_EV_STARTED = 5,
    /// An output. number: index in the cell; code: `rtd_output_change`; payload: nbformat output; text: plain text.
    /// If its blob cannot be read, payload is the element of the document as a JSON string and text the reason.
    RTD_EV_OUTPUT = 6,
    /// The outputs of the cell were cleared. number: how many outputs follow that were there before, because an
    /// execution was joined under way; else -1.
    RTD_EV_CLEARED = 7,
    /// End of an execution. code: `rtd_done`; number: execution count, -1 if it never started; text: reason.
    RTD_EV_DONE = 8,
    /// Any broadcast (section 5.8) but `output`. payload: as received.
    RTD_EV_BROADCAST = 9,
    /// End of rtd_session_sync(). code: RTD_OK, or as for RTD_EV_RESPONSE with text.
    RTD_EV_SYNCED = 10,
    /// Events that do not end anything were dropped at the bound of the queue: read the document.
    RTD_EV_RESYNC = 11,
    /// The last event. code: RTD_OK when closed by this side, RTD_E_CLOSED by the daemon, RTD_E_TIMEOUT when the
    /// daemon did not let us in, stopped answering or did not take what was written, RTD_E_PROTOCOL, RTD_E_IO, RTD_E_PANIC; text: why.
    RTD_EV_CLOSED = 12,
    /// A peer asks for a room that is not open: answer with rtd_host_open_room() or rtd_host_refuse_room().
    RTD_EV_ROOM_WANTED = 20,
    /// A peer entered a room. number: peers in it now.
    RTD_EV_PEER_JOINED = 21,
    /// A peer left a room; its requests need no answer any more. number: peers in it now; code: RTD_OK for a plain
    /// end, RTD_E_TOO_BIG when it did not read, RTD_E_PROTOCOL, RTD_E_TIMEOUT, RTD_E_IO, RTD_E_PANIC; text: why.
    RTD_EV_PEER_LEFT = 22,
    /// A request. code: `rtd_channel`; payload: the request (or the blob's bytes). Answer once with rtd_host_respond().
    /// execute_cell and run_all_cells have an added member `at_request`: an array of the cells they mean (id,
    /// cell_type, source) as they were when the request came.
    RTD_EV_REQUEST = 23,
    /// Peers changed a room's document. payload as RTD_EV_CHANGED. Hints collapse per room.
    RTD_EV_ROOM_CHANGED = 24,
    /// code RTD_E_IO: the room's journal cannot be written at present (the room goes on, every change tries again);
    /// any other code: the room failed and was closed.
    RTD_EV_ROOM_FAILED = 25,
    /// Peers changed the settings: rtd_host_settings(). Not told again until they were read.
    RTD_EV_SETTINGS_CHANGED = 26,
    /// As RTD_EV_ROOM_FAILED, for the settings.
    RTD_EV_SETTINGS_FAILED = 27,
}

/// How an execution ended.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum rtd_done {
    /// Without an error.
    RTD_DONE_OK = 0,
    /// With an error of the code; it is the last error output.
    RTD_DONE_ERROR = 1,
    /// By an interrupt.
    RTD_DONE_INTERRUPTED = 2,
    /// It never ran, or its kernel was shut down.
    RTD_DONE_CANCELLED = 3,
    /// The kernel died.
    RTD_DONE_KERNEL_DIED = 4,
    /// The kernel could not be started.
    RTD_DONE_LAUNCH_FAILED = 5,
    /// The caller's time limit passed; the cell goes on.
    RTD_DONE_TIMED_OUT = 6,
    /// The connection ended.
    RTD_DONE_DISCONNECTED = 7,
    /// The daemon refused the request; text is its reason, payload its response.
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
    /// Stream text that had come in pieces is one output now, at the index: it takes the place of the pieces, which
    /// are all outputs from there on. Payload and text are only what it has more than they had together, so nothing
    /// is told twice; often that is an empty text.
    RTD_OUTPUT_JOINED = 2,
    /// Takes the place of all outputs from the index on. So a merge is told if the library cannot compare the texts,
    /// because a blob is not at hand; the payload is the whole output.
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
    /// The pool state (section 11.2). Only from rtd_conn_next_event(): a host answers by itself,
    /// see rtd_host_announce_pool_state().
    RTD_CHANNEL_POOL_STATE = 4,
    /// The settings (section 11.1). Only from rtd_conn_next_event(): a host answers by itself, see
    /// rtd_host_open_settings().
    RTD_CHANNEL_SETTINGS = 5,
}

/// The number of a code.
pub const fn code(code: rtd_code) -> i32 {
    code as i32
}
