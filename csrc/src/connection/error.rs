//! Storey 2: why a connection cannot go on.

use std::fmt;

use crate::replica::ReplicaError;
use crate::wire::{FrameError, MessageError};

/// The peer broke the protocol, or went away in the middle of a frame. Every variant is final:
/// the stream has no resynchronisation point (protocol 2, section 2.4).
#[derive(Debug)]
pub enum ConnectionError {
    /// Framing (section 2.3).
    Frame(FrameError),
    /// JSON of a handshake, request, response or broadcast.
    Message(&'static str, MessageError),
    /// A sync message that does not decode or does not apply.
    Sync(ReplicaError),
    /// A legal frame at a place where the protocol has none.
    Unexpected(String),
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(error) => write!(f, "{error}"),
            Self::Message(what, error) => write!(f, "{what}: {error}"),
            Self::Sync(error) => write!(f, "{error}"),
            Self::Unexpected(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for ConnectionError {}

impl From<FrameError> for ConnectionError {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}
