//! Storey 3: the one I/O thread of the process (`reactor`), sockets (`address`), event queues (`queue`, `signal`), and
//! what runs on them: a `session` (client of a room) and a `host` (rooms and their peers).
//!
//! Nothing here knows what a kernel is.

mod address;
mod host;
mod queue;
mod reactor;
mod session;
mod signal;
mod source;

pub use host::{Host, HostOptions};
pub use queue::{Queue, Waited, Wakeup};
pub use session::{Session, SessionOptions};
pub use source::EventSource;

use std::any::Any;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::connection::ConnectionError;
use crate::notebook::EditError;
use crate::replica::ReplicaError;
use crate::settings::SettingsError;

/// Why an operation of a session or a host failed.
#[derive(Debug)]
pub enum DriveError {
    /// An operating system error.
    Io(std::io::Error),
    /// The peer broke the protocol.
    Protocol(String),
    /// An argument is wrong; the caller can correct it.
    Argument(String),
    /// No such cell, room, request or peer.
    NotFound(String),
    /// Not possible in this state, or in a forked child.
    State(String),
    /// A bound was reached; try again when something ended.
    Again(String),
    /// Larger than the protocol or a limit allows.
    TooBig(String),
    /// The connection is over.
    Closed(String),
    /// A stored document cannot be read.
    Corrupt(String),
    /// The library failed in this handle before.
    Poisoned(String),
    /// The library failed now.
    Panic(String),
    /// A deadline passed.
    Timeout(String),
}

impl fmt::Display for DriveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Protocol(text)
            | Self::Argument(text)
            | Self::NotFound(text)
            | Self::State(text)
            | Self::Again(text)
            | Self::TooBig(text)
            | Self::Closed(text)
            | Self::Corrupt(text)
            | Self::Poisoned(text)
            | Self::Panic(text)
            | Self::Timeout(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for DriveError {}

impl From<std::io::Error> for DriveError {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ConnectionError> for DriveError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::Frame(crate::wire::FrameError::TooLarge { .. }) => {
                Self::TooBig(error.to_string())
            }
            other => Self::Protocol(other.to_string()),
        }
    }
}

impl From<ReplicaError> for DriveError {
    fn from(error: ReplicaError) -> Self {
        let text = error.to_string();
        match error {
            ReplicaError::UnknownHeads(_) => Self::NotFound(text),
            ReplicaError::Corrupt(_) => Self::Corrupt(text),
            ReplicaError::BadSync(_) => Self::Protocol(text),
            ReplicaError::Engine(_) => Self::State(text),
        }
    }
}

impl From<EditError> for DriveError {
    fn from(error: EditError) -> Self {
        let text = error.to_string();
        match error {
            EditError::CellNotFound(_) => Self::NotFound(text),
            EditError::BadOp(_) => Self::Argument(text),
            EditError::Engine(_) => Self::State(text),
        }
    }
}

impl From<SettingsError> for DriveError {
    fn from(error: SettingsError) -> Self {
        match error {
            SettingsError::WrongType(_) => Self::Argument(error.to_string()),
            SettingsError::Replica(error) => error.into(),
        }
    }
}

/// Locks even after a panic elsewhere: poisoning is tracked per handle, with a reason.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The text of a caught panic.
pub fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned());
    format!("internal error: {}", text.unwrap_or_else(|| "panic without a message".into()))
}
