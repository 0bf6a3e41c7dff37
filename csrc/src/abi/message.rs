//! Storey 4, JSON messages of protocol 2: checked and rewritten.

use super::buf::{rtd_buf, write_buf};
use super::guard::{bytes, guard, Failure};
use super::rtd_result;
use crate::code::rtd_code;
use crate::wire::handshake::{Capabilities, Handshake};
use crate::wire::v2::{
    BlobRequest, BlobResponse, Broadcast, PoolRequest, PoolResponse, PoolState, Request, Response,
};
use crate::wire::Message;

/// Kinds of JSON messages.
#[repr(C)]
pub enum rtd_message {
    /// First frame of a connection (protocol 2, section 3).
    RTD_MESSAGE_HANDSHAKE = 0,
    /// Capabilities of the notebook channel (3.1).
    RTD_MESSAGE_CAPABILITIES = 1,
    /// Notebook request (5.6).
    RTD_MESSAGE_REQUEST = 2,
    /// Notebook response (5.7).
    RTD_MESSAGE_RESPONSE = 3,
    /// Notebook broadcast (5.8).
    RTD_MESSAGE_BROADCAST = 4,
    /// Pool request (4.1).
    RTD_MESSAGE_POOL_REQUEST = 5,
    /// Pool response (4.2).
    RTD_MESSAGE_POOL_RESPONSE = 6,
    /// Blob request (8.6).
    RTD_MESSAGE_BLOB_REQUEST = 7,
    /// Blob response (8.6).
    RTD_MESSAGE_BLOB_RESPONSE = 8,
    /// Pool state (11.2).
    RTD_MESSAGE_POOL_STATE = 9,
}

/// Checks a JSON message and writes it as nteract's `runtimed` would: compact, with the members in its order and
/// unknown members after them.
///
/// \param kind one of `rtd_message`
/// \param json the message in UTF-8
/// \param len its length in bytes
/// \param out receives the canonical bytes; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_PROTOCOL when it is not such a message; RTD_E_ARG for an unknown kind; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_message_check(
    kind: i32,
    json: *const u8,
    len: usize,
    out: *mut rtd_buf,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let json = unsafe { bytes(json, len, "json")? };
        let canonical = match kind {
            0 => Handshake::parse(json)?.to_json(),
            1 => Capabilities::parse(json)?.to_json(),
            2 => Message::<Request>::parse(json)?.to_json(),
            3 => Message::<Response>::parse(json)?.to_json(),
            4 => Message::<Broadcast>::parse(json)?.to_json(),
            5 => Message::<PoolRequest>::parse(json)?.to_json(),
            6 => Message::<PoolResponse>::parse(json)?.to_json(),
            7 => Message::<BlobRequest>::parse(json)?.to_json(),
            8 => Message::<BlobResponse>::parse(json)?.to_json(),
            9 => Message::<PoolState>::parse(json)?.to_json(),
            _ => return Err(Failure::new(rtd_code::RTD_E_ARG, "unknown kind of message")),
        };
        // SAFETY: the caller's promise.
        unsafe { write_buf(out, canonical) }
    })
}
