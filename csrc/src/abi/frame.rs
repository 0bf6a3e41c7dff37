//! Storey 4, frames: the pure codec.

use super::buf::{rtd_buf, write_buf};
use super::guard::{bytes, guard, guard_value, handle, out_handle, take_handle, Failure};
use super::rtd_result;
use crate::code::rtd_code;
use crate::wire::frame::{self, Decoder};
use crate::wire::{FrameError, FrameType};
use std::sync::{Mutex, PoisonError};

/// Kinds of frames of the notebook channel (protocol 2, section 5.1).
#[repr(C)]
pub enum rtd_frame {
    /// No type byte: handshakes, capabilities, the other channels.
    RTD_FRAME_UNTYPED = -1,
    /// Automerge sync message.
    RTD_FRAME_SYNC = 0,
    /// Request, JSON.
    RTD_FRAME_REQUEST = 1,
    /// Response, JSON.
    RTD_FRAME_RESPONSE = 2,
    /// Broadcast, JSON.
    RTD_FRAME_BROADCAST = 3,
}

/// Limits of the length that a frame may announce, in bytes.
#[repr(C)]
pub enum rtd_frame_limit {
    /// First frame of every connection.
    RTD_LIMIT_CONTROL = 65536,
    /// Every other frame.
    RTD_LIMIT_DATA = 104857600,
}

/// Splits a byte stream into frames, without I/O.
pub struct rtd_decoder {
    decoder: Mutex<Decoder>,
}

/// Makes one frame: length, type byte if any, payload. Write it in one piece.
///
/// \param type one of `rtd_frame`
/// \param payload the payload without the type byte; (NULL, 0) is empty
/// \param len its length in bytes
/// \param out receives the frame; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_ARG for an unknown type; RTD_E_TOO_BIG over 104857600 bytes with the type byte; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_frame_encode(
    r#type: i32,
    payload: *const u8,
    len: usize,
    out: *mut rtd_buf,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let payload = unsafe { bytes(payload, len, "payload")? };
        let kind = match u8::try_from(r#type) {
            Ok(number) => Some(FrameType::try_from(number).map_err(|error| bad_type(&error))?),
            Err(_) if r#type == rtd_frame::RTD_FRAME_UNTYPED as i32 => None,
            Err(_) => return Err(Failure::new(rtd_code::RTD_E_ARG, "unknown frame type")),
        };
        let mut frame = Vec::new();
        frame::append(&mut frame, kind, payload)?;
        // SAFETY: the caller's promise.
        unsafe { write_buf(out, frame) }
    })
}

fn bad_type(error: &FrameError) -> Failure {
    Failure::new(rtd_code::RTD_E_ARG, error.to_string())
}

/// Makes a decoder.
///
/// \param limit largest length a frame may announce, in bytes (`rtd_frame_limit`)
/// \param out receives the handle, NULL on failure; release with rtd_decoder_free()
/// \return RTD_OK; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_decoder_new(limit: usize, out: *mut *mut rtd_decoder) -> rtd_result {
    // SAFETY: the caller's promise.
    guard(|| unsafe { out_handle(out, || Ok(rtd_decoder { decoder: Mutex::new(Decoder::new(limit)) })) })
}

/// Adds bytes of the stream, in portions of any size.
///
/// \param decoder the decoder
/// \param data the bytes; copied
/// \param len their number
/// \return RTD_OK; RTD_E_NULL
/// \threads any, one call at a time counts: bytes must come in order
#[no_mangle]
pub unsafe extern "C" fn rtd_decoder_push(
    decoder: *const rtd_decoder,
    data: *const u8,
    len: usize,
) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let (decoder, data) = unsafe { (handle(decoder, "decoder")?, bytes(data, len, "data")?) };
        decoder.decoder.lock().unwrap_or_else(PoisonError::into_inner).push(data);
        Ok(())
    })
}

/// Takes the next whole frame: its payload, with the type byte in front on a notebook channel.
///
/// \param decoder the decoder
/// \param out receives the payload; release with rtd_buf_free()
/// \return RTD_OK; RTD_E_AGAIN when more bytes are needed; RTD_E_TOO_BIG when the peer announced more than the limit
///   (again at every later call); RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_decoder_next(decoder: *const rtd_decoder, out: *mut rtd_buf) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let decoder = unsafe { handle(decoder, "decoder")? };
        let frame = decoder.decoder.lock().unwrap_or_else(PoisonError::into_inner).next_frame()?;
        let frame = frame.ok_or_else(|| Failure::new(rtd_code::RTD_E_AGAIN, "more bytes are needed"))?;
        // SAFETY: the caller's promise.
        unsafe { write_buf(out, frame) }
    })
}

/// Reports the end of the stream, and returns whether it came between two frames.
///
/// \param decoder the decoder
/// \return RTD_OK; RTD_E_PROTOCOL inside a frame; RTD_E_TOO_BIG after a length over the limit; RTD_E_NULL
/// \threads any
#[no_mangle]
pub unsafe extern "C" fn rtd_decoder_finish(decoder: *const rtd_decoder) -> rtd_result {
    guard(|| {
        // SAFETY: the caller's promise.
        let decoder = unsafe { handle(decoder, "decoder")? };
        decoder.decoder.lock().unwrap_or_else(PoisonError::into_inner).finish().map_err(Into::into)
    })
}

/// Releases a decoder. NULL is fine.
///
/// \param decoder the decoder; not used afterwards
/// \threads exclusive
#[no_mangle]
pub unsafe extern "C" fn rtd_decoder_free(decoder: *mut rtd_decoder) {
    // SAFETY: the caller's promise.
    guard_value((), || drop(unsafe { take_handle(decoder) }));
}
