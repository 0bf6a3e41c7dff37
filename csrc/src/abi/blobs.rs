//! Storey 4, the blob store on disk.

use std::ffi::c_char;
use std::path::Path;

use super::buf::{rtd_buf, write_buf};
use super::guard::{bytes, guard, guard_value, handle, out_handle, take_handle, text, Failure};
use super::rtd_result;
use crate::code::rtd_code;
use crate::outputs::BlobStore;

/// A directory of blobs named by the SHA-256 of their content (protocol 2, section 8.4).
pub struct rtd_blobs {
    pub(super) store: BlobStore,
}

/// Opens a blob store. Creates the directory with mode 0700 if it does not exist.
///
/// \param dir the directory in UTF-8
/// \param len its length in bytes
/// \param out receives the handle, NULL on failure; release with rtd_blobs_free()
/// \return RTD_OK; RTD_E_IO; RTD_E_UTF8; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_blobs_open(
    dir: *const c_char,
    len: usize,
    out: *mut *mut rtd_blobs,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        unsafe {
            out_handle(out, || {
                let dir = Path::new(text(dir, len, "dir")?);
                let store = BlobStore::open(dir).map_err(|error| io(&error))?;
                Ok(rtd_blobs { store })
            })
        }
    })
}

fn io(error: &std::io::Error) -> Failure {
    Failure::new(rtd_code::RTD_E_IO, error.to_string())
}

/// Stores bytes; storing the same bytes again changes nothing.
///
/// \param blobs the store
/// \param data the bytes
/// \param len their number, at most 104857600
/// \param media_type their media type in UTF-8
/// \param mlen its length in bytes
/// \param hash receives the 64 hexadecimal digits; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_TOO_BIG; RTD_E_IO; RTD_E_UTF8; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_blobs_put(
    blobs: *const rtd_blobs,
    data: *const u8,
    len: usize,
    media_type: *const c_char,
    mlen: usize,
    hash: *mut rtd_buf,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let (blobs, data) = unsafe { (handle(blobs, "blobs")?, bytes(data, len, "data")?) };
        // SAFETY: the caller's promise.
        let media_type = unsafe { text(media_type, mlen, "media_type")? };
        let name = blobs.store.put(data, media_type)?;
        // SAFETY: the caller's promise.
        unsafe { write_buf(hash, name.into_bytes()) }
    })
}

/// Reads a blob and verifies its hash.
///
/// \param blobs the store
/// \param hash 64 hexadecimal digits
/// \param len their number
/// \param out receives the bytes; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_NOT_FOUND, also when `hash` is not a hash; RTD_E_CORRUPT when the content does not have this
///   hash; RTD_E_IO; RTD_E_UTF8; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_blobs_get(
    blobs: *const rtd_blobs,
    hash: *const c_char,
    len: usize,
    out: *mut rtd_buf,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let (blobs, hash) = unsafe { (handle(blobs, "blobs")?, text(hash, len, "hash")?) };
        let content = blobs.store.get(hash)?;
        // SAFETY: the caller's promise.
        unsafe { write_buf(out, content) }
    })
}

/// Releases the handle of a store; the files stay. NULL is fine.
///
/// \param blobs the store; not used afterwards
/// \threads exclusive
#[no_mangle]
pub unsafe extern "C" fn rtd_blobs_free(blobs: *mut rtd_blobs) {
    // SAFETY: the caller's promise.
    guard_value((), || drop(unsafe { take_handle(blobs) }));
}
