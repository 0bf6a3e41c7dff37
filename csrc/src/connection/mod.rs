//! Storey 2: one connection as a sans-IO state machine, client side and server side.
//!
//! Bytes go in, events come out, bytes to send come out. Nothing here knows sockets, threads or
//! clocks; where time matters it is passed in. The document is passed in too, because on the
//! server one document serves many connections.

mod client;
mod dialect;
mod error;
mod event;
mod gate;
mod outbox;
mod peer_request;
mod run;
mod server;
#[cfg(test)]
mod tests;

pub use client::Client;
pub use dialect::{Confirm, Dialect, EndRule, PeerDialect};
pub use error::ConnectionError;
pub use event::{Event, Hint};
pub use outbox::{Answer, Outbox};
pub use peer_request::PeerRequest;
pub use run::{Action, Queue, Runs};
pub use server::{Server, ServerEvent};

/// Milliseconds on the caller's monotonic clock.
pub type Millis = u64;
