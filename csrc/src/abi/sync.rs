//! Storey 4, the sync protocol with one peer: pure, without I/O.

use std::sync::{Mutex, MutexGuard};

use super::buf::{rtd_buf, write_buf};
use super::doc::rtd_doc;
use super::guard::{bytes, guard, guard_value, handle, out_handle, out_ptr, take_handle, Failure};
use super::rtd_result;
use crate::code::rtd_code;
use crate::replica::PeerSync;

/// What one peer's copy of a document is known to hold. One per connection; empty at first. Its functions take a
/// standalone document only (RTD_E_ARG for others).
pub struct rtd_sync {
    sync: Mutex<PeerSync>,
}

fn lock_sync(sync: &rtd_sync) -> Result<MutexGuard<'_, PeerSync>, Failure> {
    sync.sync.lock().map_err(|_| Failure::new(rtd_code::RTD_E_POISONED, "the sync state failed before"))
}

/// Makes the sync state for one connection.
///
/// \param out receives the handle, NULL on failure; release with rtd_sync_free()
/// \return RTD_OK; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_sync_new(out: *mut *mut rtd_sync) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe { out_handle(out, || Ok(rtd_sync { sync: Mutex::new(PeerSync::new()) })) })
}

/// Makes the next sync message for the peer.
///
/// \param sync the sync state of the peer
/// \param doc the document
/// \param out receives the message; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_AGAIN when there is nothing to send now; RTD_E_ARG; RTD_E_POISONED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_sync_generate(
    sync: *const rtd_sync,
    doc: *const rtd_doc,
    out: *mut rtd_buf,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let (sync, doc) = unsafe { (handle(sync, "sync")?, handle(doc, "doc")?) };
        let message = lock_sync(sync)?.generate(&*doc.lock()?);
        let message = message.ok_or_else(|| Failure::new(rtd_code::RTD_E_AGAIN, "nothing to send"))?;
        // SAFETY: the caller's promise.
        unsafe { write_buf(out, message) }
    })
}

/// Applies a sync message of the peer.
///
/// \param sync the sync state of the peer
/// \param doc the document
/// \param message the message
/// \param len its length in bytes
/// \return RTD_OK; RTD_E_PROTOCOL when it cannot be decoded (the document is unchanged); RTD_E_ARG; RTD_E_POISONED;
///   RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_sync_receive(
    sync: *const rtd_sync,
    doc: *const rtd_doc,
    message: *const u8,
    len: usize,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let (sync, doc) = unsafe { (handle(sync, "sync")?, handle(doc, "doc")?) };
        // SAFETY: the caller's promise.
        let message = unsafe { bytes(message, len, "message")? };
        lock_sync(sync)?.receive(&mut *doc.lock()?, message)?;
        Ok(())
    })
}

/// Whether both copies are known to be equal: the peer's heads are those of the document, and the peer knows it.
///
/// \param sync the sync state of the peer
/// \param doc the document
/// \param out receives 1 or 0
/// \return RTD_OK; RTD_E_ARG; RTD_E_POISONED; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_sync_converged(
    sync: *const rtd_sync,
    doc: *const rtd_doc,
    out: *mut i32,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let (sync, doc, out) = unsafe { (handle(sync, "sync")?, handle(doc, "doc")?, out_ptr(out, "out")?) };
        *out = i32::from(lock_sync(sync)?.converged(&*doc.lock()?));
        Ok(())
    })
}

/// Releases a sync state. NULL is fine.
///
/// \param sync the sync state; not used afterwards
/// \threads exclusive
#[no_mangle]
pub unsafe extern "C" fn rtd_sync_free(sync: *mut rtd_sync) {
    // SAFETY: the caller's promise.
    guard_value((), || drop(unsafe { take_handle(sync) }));
}
