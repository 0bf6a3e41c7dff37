//! Storey 1: the bytes on the socket. Knows frames, type bytes and JSON messages; touches no socket,
//! no thread, no clock and no document. Bytes go in, values come out, and the reverse.
//!
//! | Module | Noun | Source (`docs/protocol.md`, protocol 2) |
//! |---|---|---|
//! | [`frame`] | length-prefixed frames | section 2 |
//! | [`typed`] | the type byte of notebook frames | section 5.1 |
//! | [`message`] | strict reading, canonical writing of JSON | section 3 |
//! | [`handshake`] | first frame of either side | section 3 |
//! | [`v2`] | the messages of version 2 | sections 4, 5.6-5.8, 8.6, 11.2 |
//!
//! Nothing here panics on what a peer sent; every failure is a [`FrameError`] or a [`MessageError`].

#![deny(missing_docs)]

mod error;
pub mod frame;
pub mod handshake;
mod json;
pub mod message;
pub mod typed;
pub mod v2;

pub use error::FrameError;
pub use frame::{CONTROL_LIMIT, DATA_LIMIT};
pub use message::{Message, MessageError};
pub use typed::FrameType;
