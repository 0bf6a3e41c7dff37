//! Storey 4, the text of the last failure on this thread, and the names of codes.

use std::ffi::c_char;

use super::guard::{guard, guard_value, last_error, out_ptr};
use super::rtd_result;
use crate::code::rtd_code::{self, *};

/// Copies the text of the last failure on this thread: UTF-8, with a final NUL if `cap` has room for it. Each call that
/// fails sets it, and no call that succeeds changes it: read it right after the failure, on the same thread.
///
/// \param buf where to write at most `cap` bytes; may be NULL when `cap` is 0
/// \param cap size of `buf` in bytes
/// \param len receives the length of the whole text in bytes, without NUL
/// \return RTD_OK; RTD_E_NULL when `len`, or `buf` with a positive `cap`, is NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_last_error(buf: *mut c_char, cap: usize, len: *mut usize) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let len = unsafe { out_ptr(len, "len")? };
        if cap > 0 {
            // SAFETY: the caller's promise; checked for NULL.
            unsafe { out_ptr(buf, "buf")? };
        }
        let text = last_error();
        *len = text.len();
        let count = text.len().min(cap);
        // SAFETY: `buf` is writable for `cap` bytes and `count` is not more.
        unsafe { std::ptr::copy_nonoverlapping(text.as_ptr().cast(), buf, count) };
        if count < cap {
            // SAFETY: `count` is inside the buffer.
            unsafe { *buf.add(count) = 0 };
        }
        Ok(())
    })
}

/// The name of a result code, such as "RTD_E_IO"; "RTD_E_UNKNOWN" for any other number.
///
/// \param code any number
/// \return static text, never NULL
/// \threads any
#[no_mangle]
pub extern "C" fn rtd_result_name(code: rtd_result) -> *const c_char {
    guard_value(c"RTD_E_UNKNOWN".as_ptr(), || {
        let known = [
            (RTD_OK, c"RTD_OK"),
            (RTD_E_AGAIN, c"RTD_E_AGAIN"),
            (RTD_E_CLOSED, c"RTD_E_CLOSED"),
            (RTD_E_NULL, c"RTD_E_NULL"),
            (RTD_E_ARG, c"RTD_E_ARG"),
            (RTD_E_UTF8, c"RTD_E_UTF8"),
            (RTD_E_TOO_BIG, c"RTD_E_TOO_BIG"),
            (RTD_E_PROTOCOL, c"RTD_E_PROTOCOL"),
            (RTD_E_IO, c"RTD_E_IO"),
            (RTD_E_TIMEOUT, c"RTD_E_TIMEOUT"),
            (RTD_E_NOT_FOUND, c"RTD_E_NOT_FOUND"),
            (RTD_E_STATE, c"RTD_E_STATE"),
            (RTD_E_VERSION, c"RTD_E_VERSION"),
            (RTD_E_PANIC, c"RTD_E_PANIC"),
            (RTD_E_POISONED, c"RTD_E_POISONED"),
            (RTD_E_CORRUPT, c"RTD_E_CORRUPT"),
        ];
        let name = known.iter().find(|(known, _): &&(rtd_code, _)| *known as rtd_result == code);
        name.map_or(c"RTD_E_UNKNOWN".as_ptr(), |(_, name)| name.as_ptr())
    })
}
