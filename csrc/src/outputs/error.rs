//! Storey 1: why an output could not be stored or read.

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
    /// A blob of `size` bytes is larger than `limit`.
    TooLarge { size: usize, limit: usize },
    /// The file system failed.
    Io(io::Error),
}

impl fmt::Display for OutputError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound(hash) => write!(f, "blob not found: {hash}"),
            Self::Corrupt(text) => write!(f, "corrupt output: {text}"),
            Self::BadOutput(text) => write!(f, "not an output: {text}"),
            Self::TooLarge { size, limit } => write!(f, "blob too large: {size} bytes (max {limit})"),
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
