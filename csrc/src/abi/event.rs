//! Storey 4, events as C sees them.

use std::ffi::c_char;
use std::sync::{Mutex, PoisonError};

use super::guard::{out_ptr, Failure};
use crate::code::rtd_code;
use crate::connection::Event;

/// One event of a session, a host or a connection. Set `struct_size` to `sizeof(rtd_event)` before the call. The
/// pointers are borrowed: they are valid until the next event is taken from the same queue or connection, until that is
/// freed, and in an `rtd_event_fn` until it returns. The texts are not terminated. Members that the kind does not
/// mention are zero, empty, or -1 for `number`.
#[repr(C)]
pub struct rtd_event {
    /// sizeof(rtd_event), as the program was compiled.
    pub struct_size: u32,
    /// One of `rtd_event_kind`.
    pub kind: i32,
    /// A result code; RTD_EV_DONE: `rtd_done`; RTD_EV_OUTPUT: `rtd_output_change`; RTD_EV_REQUEST: `rtd_channel`.
    pub code: i32,
    /// Zero.
    pub reserved: i32,
    /// Position in this queue: 1, 2, 3, ... without a gap; 0 from rtd_conn_next_event().
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

/// The event whose texts and payload the caller has borrowed.
#[derive(Default)]
pub(super) struct BorrowedEvent(Mutex<Option<Event>>);

impl BorrowedEvent {
    /// Keeps `event` until the next one and describes it for C.
    pub fn keep(&self, event: Event) -> rtd_event {
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

    /// Writes the next event to where the caller wants it.
    ///
    /// # Safety
    /// `out` must be NULL or writable for the size it says.
    pub unsafe fn write(&self, next: Option<Event>, out: *mut rtd_event) -> Result<(), Failure> {
        // SAFETY: as promised by the caller.
        let out = unsafe { out_ptr(out, "event")? };
        let event = next.ok_or_else(|| Failure::new(rtd_code::RTD_E_AGAIN, "no event waits"))?;
        *out = self.keep(event);
        Ok(())
    }
}

/// Checks where the caller wants an event, before one is taken for it.
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
