//! Storey 1: the settings, a document that peers share (protocol 2, section 11.1).
//!
//! One noun a file: [`Settings`] (`document`), values of a document as JSON and back (`json`). The sync protocol is in
//! [`crate::replica`].

mod document;
mod json;

pub use document::Settings;

use std::fmt;

use crate::replica::ReplicaError;

/// Why the settings were not changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SettingsError {
    /// A member that the protocol defines has another type than its own.
    WrongType(String),
    /// The document engine refused.
    Replica(ReplicaError),
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongType(text) => write!(f, "bad operation: settings: {text}"),
            Self::Replica(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for SettingsError {}

impl From<ReplicaError> for SettingsError {
    fn from(error: ReplicaError) -> Self {
        Self::Replica(error)
    }
}
