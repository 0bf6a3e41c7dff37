//! Storey 1, what can be wrong with a stream of frames (protocol 2, section 2.3).

use std::fmt;

/// Why a stream of frames cannot be continued, or a frame cannot be written (protocol 2, section 2.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FrameError {
    /// The header announces, or the writer was given, more payload bytes than allowed.
    TooLarge {
        /// Payload bytes announced.
        announced: u64,
        /// Payload bytes allowed.
        limit: usize,
    },
    /// The peer closed after one to three bytes of a header.
    EofInHeader,
    /// The peer closed inside a payload.
    EofInBody,
    /// A frame without payload where a type byte is needed.
    Empty,
    /// A type byte that protocol 2 does not define.
    UnknownType(u8),
}

impl FrameError {
    /// The name of this class of errors in the golden vectors and in logs.
    pub fn class(&self) -> &'static str {
        match self {
            FrameError::TooLarge { .. } => "frame_too_large",
            FrameError::EofInHeader => "eof_in_header",
            FrameError::EofInBody => "eof_in_body",
            FrameError::Empty => "empty_frame",
            FrameError::UnknownType(_) => "unknown_frame_type",
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::TooLarge { announced, limit } => {
                write!(f, "frame too large: {announced} bytes (max {limit})")
            }
            FrameError::EofInHeader => write!(f, "unexpected end of file in a frame header"),
            FrameError::EofInBody => write!(f, "unexpected end of file"),
            FrameError::Empty => write!(f, "empty frame"),
            FrameError::UnknownType(byte) => {
                write!(f, "unknown notebook frame type: 0x{byte:02x}")
            }
        }
    }
}

impl std::error::Error for FrameError {}
