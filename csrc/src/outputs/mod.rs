//! Storey 1: outputs: manifests, content references and the blob store on disk.
//!
//! Protocol 2, section 8. This module knows files below the directory of the store and nothing else:
//! no document, no sockets, no threads. Sizes are bytes.

pub mod derive;
pub mod hash;
pub mod manifest;
mod nbformat;
pub mod store;
mod stream;

pub use manifest::{build, resolve, resolve_available};
pub use nbformat::plain_text;
pub use store::BlobStore;
pub use stream::continuation;

use std::{fmt, io};

/// Why an output could not be stored or read.
#[derive(Debug)]
pub enum OutputError {
    /// No blob of this hash, or a string that is no hash.
    NotFound(String),
    /// What is stored is not what it should be.
    Corrupt(String),
    /// What should be stored is not an nbformat output.
    BadOutput(String),
    /// A blob of this many bytes is above the limit.
    TooLarge(usize),
    /// The disk refused.
    Io(io::Error),
}

impl fmt::Display for OutputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(hash) => write!(f, "blob not found: {hash}"),
            Self::Corrupt(text) => write!(f, "corrupt output: {text}"),
            Self::BadOutput(text) => write!(f, "not an output: {text}"),
            Self::TooLarge(size) => {
                write!(f, "blob too large: {size} bytes (max {})", store::MAX_BLOB)
            }
            Self::Io(error) => write!(f, "blob store: {error}"),
        }
    }
}

impl std::error::Error for OutputError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for OutputError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}
