//! Storey 4, outputs: from nbformat to an element of the document and back.

use super::blobs::rtd_blobs;
use super::buf::{rtd_buf, write_buf};
use super::guard::{bytes, guard, handle, text, Failure};
use super::rtd_result;
use crate::code::rtd_code;
use crate::outputs;

/// Converts an output to an element of a cell's `outputs`: its nbformat JSON when it is small (under 8192 bytes), else
/// the hash of a manifest that is written to the blob store (protocol 2, section 8).
///
/// \param blobs the store
/// \param json one nbformat output, an object, in UTF-8
/// \param len its length in bytes
/// \param out receives the element; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_ARG when it is not a JSON object; RTD_E_TOO_BIG; RTD_E_IO; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_output_store(
    blobs: *const rtd_blobs,
    json: *const u8,
    len: usize,
    out: *mut rtd_buf,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let (blobs, json) = unsafe { (handle(blobs, "blobs")?, bytes(json, len, "json")?) };
        let output: serde_json::Value = serde_json::from_slice(json)
            .map_err(|error| Failure::new(rtd_code::RTD_E_ARG, format!("not an output: {error}")))?;
        if !output.is_object() {
            return Err(Failure::new(rtd_code::RTD_E_ARG, "not an output: no JSON object"));
        }
        let element = outputs::manifest::store(&output, &blobs.store)?;
        // SAFETY: the caller's promise.
        unsafe { write_buf(out, element.into_bytes()) }
    })
}

/// Converts an element of a cell's `outputs` back to an nbformat output.
///
/// \param blobs the store; NULL when there is none: then only elements that are nbformat JSON can be converted
/// \param element the element: nbformat JSON or the hash of a manifest
/// \param len its length in bytes
/// \param out receives one nbformat output as JSON; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_NOT_FOUND for a missing blob; RTD_E_CORRUPT; RTD_E_IO; RTD_E_UTF8; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_output_resolve(
    blobs: *const rtd_blobs,
    element: *const u8,
    len: usize,
    out: *mut rtd_buf,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let (blobs, element) = unsafe { (blobs.as_ref(), text(element.cast(), len, "element")?) };
        let output = outputs::resolve(element, blobs.map(|blobs| &blobs.store))?;
        // SAFETY: the caller's promise.
        unsafe { write_buf(out, output.to_string().into_bytes()) }
    })
}
