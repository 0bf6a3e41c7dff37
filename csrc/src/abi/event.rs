//! Events as C sees them.

use std::ffi::c_char;
use std::sync::{Mutex, PoisonError};

use super::guard::{place, Failure};
use crate::code::rtd_code;
use crate::connection::Event;
use crate::drive::DriveError;

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
