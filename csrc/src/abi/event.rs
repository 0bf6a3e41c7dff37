//! Events as C sees them.

use std::ffi::c_char;
use std::sync::{Mutex, PoisonError};

use super::guard::{place, Failure};
use crate::code::rtd_code;
use crate::drive::{DriveError, Event};

/// One event of a session, a host or a connection. Set `struct_size` to `sizeof(rtd_event)` before the call. The
/// pointers are borrowed: they end with the next call of next_event, dispatch or free on that handle,
/// and in a function called by dispatch, when it returns. None of the texts is terminated. Members that
/// the kind does not mention are zero, empty, or -1 for `number`.
#[repr(C)]
pub struct rtd_event {
    /// Size of this struct as the caller knows it.
    pub struct_size: u32,
    /// One of `rtd_event_kind`.
    pub kind: i32,
    /// A result code; RTD_EV_DONE: `rtd_done`; RTD_EV_OUTPUT: `rtd_output_change`; RTD_EV_REQUEST: `rtd_channel`.
    pub code: i32,
    /// Zero.
    pub reserved: i32,
    /// Position on this queue: 1, 2, 3, ... without a gap; 0 from rtd_conn_next_event().
    pub seq: u64,
    /// Session: the token of the call that this event belongs to, 0 for none. Host: the token to answer.
    pub token: u64,
    /// Host: number of the connection.
    pub peer: u64,
    /// Execution count, index of an output, or number of peers; -1 when unknown.
    pub number: i64,
    /// Cell id (session), notebook id (host), media type (a blob to store).
    pub id: *const c_char,
    /// Length of `id` in bytes.
    pub id_len: usize,
    /// JSON, unless the kind says otherwise.
    pub payload: *const u8,
    /// Length of `payload` in bytes.
    pub payload_len: usize,
    /// Plain text of an output, or the reason of an end.
    pub text: *const c_char,
    /// Length of `text` in bytes.
    pub text_len: usize,
}

/// Kinds of events. 1 to 12 come from sessions, 20 and above from hosts, RTD_EV_CLOSED from both.
#[repr(C)]
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

/// Called by dispatch, on the thread that called dispatch. May call any function of this library but
/// next_event, dispatch and free of the same handle. Must return normally: no exception, no longjmp.
pub type rtd_event_fn =
    Option<unsafe extern "C" fn(userdata: *mut std::ffi::c_void, event: *const rtd_event)>;
/// Called from any thread when events wait, perhaps on several at a time. Returns at once, calls nothing
/// of this library: it may run in the middle of a call of it. A finalizer keeps the same rules.
pub type rtd_wakeup_fn = Option<unsafe extern "C" fn(userdata: *mut std::ffi::c_void)>;

/// The event lent to the caller.
#[derive(Default)]
pub(super) struct Lent(Mutex<Option<Event>>);

impl Lent {
    /// Keeps an event and describes it for C.
    pub fn lend(&self, event: Event) -> rtd_event {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let event = kept.insert(event);
        rtd_event {
            struct_size: size_of::<rtd_event>() as u32,
            kind: event.kind as i32,
            code: event.code,
            reserved: 0,
            seq: event.seq,
            token: event.token,
            peer: event.peer,
            number: event.number,
            id: event.id.as_ptr().cast(),
            id_len: event.id.len(),
            payload: event.payload.as_ptr(),
            payload_len: event.payload.len(),
            text: event.text.as_ptr().cast(),
            text_len: event.text.len(),
        }
    }

    /// Hands the next event to a place of the caller.
    ///
    /// # Safety
    /// `out` must be NULL or writable for the size it says.
    pub unsafe fn next(
        &self,
        next: Result<Option<Event>, DriveError>,
        out: *mut rtd_event,
    ) -> Result<(), Failure> {
        // SAFETY: as promised by the caller.
        let out = unsafe { place(out, "event")? };
        let event = next?.ok_or_else(|| Failure::new(rtd_code::RTD_E_AGAIN, "no event waits"))?;
        *out = self.lend(event);
        Ok(())
    }
}

/// Checks what next_event is given before an event is taken for it.
///
/// # Safety
/// `out` must be NULL or readable.
pub(super) unsafe fn check_event(out: *const rtd_event) -> Result<(), Failure> {
    // SAFETY: NULL is checked; the caller vouches for the rest.
    let size = unsafe { out.as_ref() }.map(|event| event.struct_size as usize);
    match size {
        None => Err(Failure::new(rtd_code::RTD_E_NULL, "event is NULL")),
        Some(size) if size == size_of::<rtd_event>() => Ok(()),
        Some(size) => {
            Err(Failure::new(rtd_code::RTD_E_VERSION, format!("struct_size {size} of rtd_event is unknown")))
        }
    }
}

/// Delivers waiting events to a function, on this thread.
///
/// # Safety
/// `call` must be callable with `userdata`.
pub(super) unsafe fn dispatch(
    lent: &Lent,
    mut next: impl FnMut() -> Result<Option<Event>, DriveError>,
    call: rtd_event_fn,
    userdata: *mut std::ffi::c_void,
    max: usize,
    delivered: *mut usize,
) -> Result<(), Failure> {
    // SAFETY: as promised by the caller.
    let delivered = unsafe { place(delivered, "delivered")? };
    let call = call.ok_or_else(|| Failure::new(rtd_code::RTD_E_NULL, "fn is NULL"))?;
    let mut count = 0;
    while count < max {
        let event = match next() {
            Ok(Some(event)) => lent.lend(event),
            Ok(None) => break,
            Err(DriveError::Closed(_)) if count > 0 => break,
            Err(error) => return Err(error.into()),
        };
        count += 1;
        // SAFETY: the caller promises that the function may be called with its userdata.
        unsafe { call(userdata, &event) };
    }
    *delivered = count;
    Ok(())
}

/// What a wakeup callback needs, sent to the I/O thread.
pub(super) struct Userdata {
    call: unsafe extern "C" fn(*mut std::ffi::c_void),
    data: *mut std::ffi::c_void,
    finalizer: rtd_wakeup_fn,
}

// SAFETY: the contract of set_wakeup says that the function may be called from any thread with this
// pointer, also while another call is under way.
unsafe impl Send for Userdata {}
// SAFETY: the same contract.
unsafe impl Sync for Userdata {}

impl Userdata {
    /// The callback of set_wakeup; NULL clears it (a finalizer is then run at once).
    pub fn wakeup(
        call: rtd_wakeup_fn,
        data: *mut std::ffi::c_void,
        finalizer: rtd_wakeup_fn,
    ) -> Option<crate::drive::Wakeup> {
        let Some(call) = call else {
            if let Some(finalizer) = finalizer {
                // SAFETY: the caller handed it over to be called once with `data`.
                unsafe { finalizer(data) };
            }
            return None;
        };
        let userdata = Self { call, data, finalizer };
        Some(Box::new(move || userdata.run()))
    }

    fn run(&self) {
        // SAFETY: see the Send and Sync implementations.
        unsafe { (self.call)(self.data) };
    }
}

impl Drop for Userdata {
    fn drop(&mut self) {
        if let Some(finalizer) = self.finalizer.take() {
            // SAFETY: called once, after the last call of the callback.
            unsafe { finalizer(self.data) };
        }
    }
}
