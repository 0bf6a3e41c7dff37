//! Result codes, the one vocabulary of success and failure in Rust, C and Python.

/// `RTD_OK` (0) or a negative `RTD_E_*` of `rtd_code`.
#[allow(non_camel_case_types)]
pub type rtd_result = i32;

/// Result of a call, and code of an event. Zero is success, errors are negative and never renumbered.
#[allow(non_camel_case_types)]
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

/// The number of a code.
pub const fn code(code: rtd_code) -> i32 {
    code as i32
}
