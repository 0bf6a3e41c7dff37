//! Storey 4, which library this is.

use std::ffi::c_char;

use super::guard::{guard_value, text};

/// Version of the C ABI that this header describes. A library with the same major and at least this minor number fits;
/// while the major number is 0, the minor number has to be the same.
#[repr(C)]
pub enum rtd_abi {
    /// Changes when something is removed or changes its meaning.
    RTD_ABI_MAJOR = 0,
    /// Changes when something is added; while the major number is 0, also when something is removed.
    RTD_ABI_MINOR = 3,
}

/// The features that `rtd_has` knows.
const FEATURES: &[&str] = &["protocol-2", "session", "host", "journal", "blobs", "conn"];

/// The ABI version of the loaded library.
///
/// \return major number << 16 | minor number
/// \threads any
#[no_mangle]
pub extern "C" fn rtd_abi_version() -> u32 {
    guard_value(0, || ((rtd_abi::RTD_ABI_MAJOR as u32) << 16) | rtd_abi::RTD_ABI_MINOR as u32)
}

/// The version of the library as text, such as "0.1.0".
///
/// \return static text, never NULL
/// \threads any
#[no_mangle]
pub extern "C" fn rtd_version() -> *const c_char {
    guard_value(c"".as_ptr(), || concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast())
}

/// Whether the library has a feature: "protocol-2", "session", "host", "journal", "blobs", "conn".
///
/// \param feature name in UTF-8
/// \param len its length in bytes
/// \return 1 or 0; 0 for unknown names
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_has(feature: *const c_char, len: usize) -> i32 {
    guard_value(0, || {
        // SAFETY: the caller's promise.
        let name = unsafe { text(feature, len, "feature") };
        i32::from(name.is_ok_and(|name| FEATURES.contains(&name)))
    })
}
