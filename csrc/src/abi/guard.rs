//! Storey 4, what every export uses: it checks arguments, catches panics and keeps the error text.

use std::cell::RefCell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::time::Duration;

use crate::code::rtd_code;
use crate::connection::ConnectionError;
use crate::drive::{panic_text, DriveError};
use crate::outputs::OutputError;
use crate::wire::{FrameError, MessageError};

use super::rtd_result;

thread_local! {
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

fn set_last_error(text: &str) {
    // While a thread is torn down its storage is gone, and nothing can read the text any more.
    let _torn_down = LAST.try_with(|last| {
        let mut last = last.borrow_mut();
        last.clear();
        last.push_str(text);
    });
}

/// The text of the last failure on this thread.
pub fn last_error() -> String {
    LAST.try_with(|last| last.borrow().clone()).unwrap_or_default()
}

/// A result code and the text for `rtd_last_error`.
pub struct Failure {
    code: rtd_code,
    text: String,
}

impl Failure {
    pub fn new(code: rtd_code, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

/// Runs the body of an export.
pub fn guard(body: impl FnOnce() -> Result<(), Failure>) -> rtd_result {
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return rtd_code::RTD_OK as rtd_result,
        Ok(Err(failure)) => failure,
        Err(payload) => Failure::new(rtd_code::RTD_E_PANIC, panic_text(payload.as_ref())),
    };
    set_last_error(&failure.text);
    failure.code as rtd_result
}

/// Runs the body of an export that has no result code.
pub fn guard_value<T>(fallback: T, body: impl FnOnce() -> T) -> T {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(value) => value,
        Err(payload) => {
            set_last_error(&panic_text(payload.as_ref()));
            fallback
        }
    }
}

/// Bytes borrowed from the caller: `(NULL, 0)` is empty, `(NULL, n)` an error.
///
/// # Safety
/// `data` must be readable for `len` bytes while the result lives.
pub unsafe fn bytes<'a>(data: *const u8, len: usize, name: &str) -> Result<&'a [u8], Failure> {
    if data.is_null() {
        return if len == 0 { Ok(&[]) } else { Err(null(name)) };
    }
    if isize::try_from(len).is_err() {
        return Err(Failure::new(rtd_code::RTD_E_ARG, format!("{name}: impossible length")));
    }
    // SAFETY: not NULL, and the caller vouches for the length.
    Ok(unsafe { std::slice::from_raw_parts(data, len) })
}

/// UTF-8 text borrowed from the caller.
///
/// # Safety
/// As [`bytes`].
pub unsafe fn text<'a>(data: *const std::ffi::c_char, len: usize, name: &str) -> Result<&'a str, Failure> {
    // SAFETY: the same promise of the caller.
    let bytes = unsafe { bytes(data.cast(), len, name)? };
    std::str::from_utf8(bytes).map_err(|error| Failure::new(rtd_code::RTD_E_UTF8, format!("{name}: {error}")))
}

/// A handle that the caller passes in.
///
/// # Safety
/// `handle` must be NULL or a live handle of this type.
pub unsafe fn handle<'a, T>(handle: *const T, name: &str) -> Result<&'a T, Failure> {
    // SAFETY: NULL is checked by as_ref; the caller vouches for the rest.
    unsafe { handle.as_ref() }.ok_or_else(|| null(name))
}

/// Where the caller wants a result.
///
/// # Safety
/// `out` must be NULL or writable.
pub unsafe fn out_ptr<'a, T>(out: *mut T, name: &str) -> Result<&'a mut T, Failure> {
    // SAFETY: NULL is checked by as_mut; the caller vouches for the rest.
    unsafe { out.as_mut() }.ok_or_else(|| null(name))
}

/// Makes a handle that the caller owns; NULL on failure.
///
/// # Safety
/// `out` must be NULL or writable.
pub unsafe fn out_handle<T>(
    out: *mut *mut T,
    make: impl FnOnce() -> Result<T, Failure>,
) -> Result<(), Failure> {
    // SAFETY: as promised by the caller.
    let out = unsafe { out_ptr(out, "out")? };
    *out = std::ptr::null_mut();
    *out = Box::into_raw(Box::new(make()?));
    Ok(())
}

/// Takes a handle back from the caller, who owned it; `None` for NULL.
///
/// # Safety
/// `handle` must be NULL or made by [`out_handle`], and is not used again.
pub unsafe fn take_handle<T>(handle: *mut T) -> Option<Box<T>> {
    // SAFETY: as promised by the caller.
    (!handle.is_null()).then(|| unsafe { Box::from_raw(handle) })
}

/// Milliseconds of the C ABI: negative means no limit.
pub fn millis(timeout_ms: i64) -> Option<u64> {
    u64::try_from(timeout_ms).ok()
}

/// The same as a duration.
pub fn duration(timeout_ms: i64) -> Option<Duration> {
    millis(timeout_ms).map(Duration::from_millis)
}

fn null(name: &str) -> Failure {
    Failure::new(rtd_code::RTD_E_NULL, format!("{name} is NULL"))
}

impl<E: Into<DriveError>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        let code = match &error {
            DriveError::Io(_) => rtd_code::RTD_E_IO,
            DriveError::Protocol(_) => rtd_code::RTD_E_PROTOCOL,
            DriveError::Argument(_) => rtd_code::RTD_E_ARG,
            DriveError::NotFound(_) => rtd_code::RTD_E_NOT_FOUND,
            DriveError::State(_) => rtd_code::RTD_E_STATE,
            DriveError::Again(_) => rtd_code::RTD_E_AGAIN,
            DriveError::TooBig(_) => rtd_code::RTD_E_TOO_BIG,
            DriveError::Closed(_) => rtd_code::RTD_E_CLOSED,
            DriveError::Corrupt(_) => rtd_code::RTD_E_CORRUPT,
            DriveError::Poisoned(_) => rtd_code::RTD_E_POISONED,
            DriveError::Panic(_) => rtd_code::RTD_E_PANIC,
            DriveError::Timeout(_) => rtd_code::RTD_E_TIMEOUT,
        };
        Self::new(code, error.to_string())
    }
}

impl From<FrameError> for Failure {
    fn from(error: FrameError) -> Self {
        ConnectionError::from(error).into()
    }
}

impl From<MessageError> for Failure {
    fn from(error: MessageError) -> Self {
        Self::new(rtd_code::RTD_E_PROTOCOL, error.to_string())
    }
}

impl From<OutputError> for Failure {
    fn from(error: OutputError) -> Self {
        let code = match &error {
            OutputError::NotFound(_) => rtd_code::RTD_E_NOT_FOUND,
            OutputError::TooLarge { .. } => rtd_code::RTD_E_TOO_BIG,
            OutputError::Io(_) => rtd_code::RTD_E_IO,
            OutputError::BadOutput(_) => rtd_code::RTD_E_ARG,
            OutputError::Corrupt(_) => rtd_code::RTD_E_CORRUPT,
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_result_with_its_text() {
        let rc = guard(|| panic!("number {}", 7));
        assert_eq!(rc, rtd_code::RTD_E_PANIC as rtd_result);
        assert!(last_error().contains("number 7"), "{}", last_error());
    }

    #[test]
    fn a_panic_becomes_the_fallback_with_its_text() {
        assert_eq!(guard_value(-1, || -> i32 { panic!("no value") }), -1);
        assert!(last_error().contains("no value"), "{}", last_error());
    }

    #[test]
    fn a_failure_leaves_its_text_and_a_success_does_not_touch_it() {
        let fail = || guard(|| Err(Failure::new(rtd_code::RTD_E_ARG, "first")));
        assert_eq!(fail(), rtd_code::RTD_E_ARG as rtd_result);
        assert_eq!(guard(|| Ok(())), rtd_code::RTD_OK as rtd_result);
        assert_eq!(guard_value(0, || 5), 5);
        assert_eq!(last_error(), "first");
        let other = std::thread::spawn(last_error).join().unwrap();
        assert_eq!(other, "", "the text belongs to the thread");
    }

    #[test]
    fn what_the_caller_passes_is_checked() {
        // SAFETY: NULL, or memory that lives.
        unsafe {
            assert!(bytes(std::ptr::null(), 0, "x").is_ok_and(<[u8]>::is_empty));
            assert_eq!(
                bytes(std::ptr::null(), 1, "x").err().unwrap().code as i32,
                rtd_code::RTD_E_NULL as i32
            );
            assert_eq!(
                bytes([0u8].as_ptr(), usize::MAX, "x").err().unwrap().code as i32,
                rtd_code::RTD_E_ARG as i32
            );
            let wrong = text(c"\xff".as_ptr(), 1, "x").err().unwrap();
            assert_eq!(wrong.code as i32, rtd_code::RTD_E_UTF8 as i32);
            assert!(handle(std::ptr::null::<u8>(), "x").is_err());
            assert!(out_ptr(std::ptr::null_mut::<u8>(), "x").is_err());
            let mut out = std::ptr::without_provenance_mut::<u8>(1);
            let made = out_handle(&raw mut out, || Err(Failure::new(rtd_code::RTD_E_STATE, "no")));
            assert!(made.is_err() && out.is_null(), "a handle that was not made is NULL");
        }
    }
}
