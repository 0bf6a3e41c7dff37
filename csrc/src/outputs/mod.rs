//! Storey 1: outputs: manifests, content references and the blob store on disk.
//!
//! Protocol 2, section 8. This module uses only files below the directory of the store:
//! no document, no sockets, no threads. Sizes are bytes.

pub mod derive;
mod error;
pub mod hash;
pub mod manifest;
mod nbformat;
pub mod store;
mod stream;

pub use error::OutputError;
pub use manifest::{build, resolve, resolve_available};
pub use nbformat::plain_text;
pub use store::BlobStore;
pub use stream::continuation;
