//! Storey 4, bytes that the library owns and the caller frees.

use serde_json::Value;

use super::guard::{guard_value, out_ptr, Failure};

/// Bytes owned by the library. Start from all zeros (`rtd_buf b = {0}`), release with rtd_buf_free().
#[repr(C)]
pub struct rtd_buf {
    /// The bytes; NULL when there are none. Not terminated.
    pub data: *mut u8,
    /// Number of bytes.
    pub len: usize,
    /// Private to the library.
    pub cap: usize,
}

/// Hands `bytes` to the caller in its buffer; what was in it is not freed.
///
/// # Safety
/// `out` must be NULL or writable.
pub(super) unsafe fn write_buf(out: *mut rtd_buf, bytes: Vec<u8>) -> Result<(), Failure> {
    // SAFETY: as promised by the caller.
    let out = unsafe { out_ptr(out, "out")? };
    let mut bytes = std::mem::ManuallyDrop::new(bytes);
    let data = if bytes.capacity() == 0 { std::ptr::null_mut() } else { bytes.as_mut_ptr() };
    *out = rtd_buf { data, len: bytes.len(), cap: bytes.capacity() };
    Ok(())
}

/// As [`write_buf`], for JSON.
///
/// # Safety
/// `out` must be NULL or writable.
pub(super) unsafe fn write_json(out: *mut rtd_buf, value: &Value) -> Result<(), Failure> {
    // SAFETY: as promised by the caller.
    unsafe { write_buf(out, value.to_string().into_bytes()) }
}

/// Releases the bytes of a buffer and sets it to zeros. NULL and an empty buffer are fine.
///
/// \param buf a buffer filled by this library
/// \threads any; the buffer must not be in use elsewhere
#[no_mangle]
pub unsafe extern "C" fn rtd_buf_free(buf: *mut rtd_buf) {
    guard_value((), || {
        // SAFETY: NULL is checked by as_mut; the caller vouches for the rest.
        let Some(buf) = (unsafe { buf.as_mut() }) else { return };
        if !buf.data.is_null() {
            // SAFETY: `write_buf` took these three numbers from a Vec<u8>, and they are used once.
            drop(unsafe { Vec::from_raw_parts(buf.data, buf.len, buf.cap) });
        }
        *buf = rtd_buf { data: std::ptr::null_mut(), len: 0, cap: 0 };
    });
}
