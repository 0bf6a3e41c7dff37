//! Storey 2: one connection as a sans-IO state machine, client side and server side.
//!
//! Bytes go in, events come out, bytes to send come out. Nothing here knows sockets, threads or
//! clocks; where time matters it is passed in. The document is passed in too, because on the
//! server one document serves many connections.

mod client;
mod error;
mod event;
mod outbox;
mod run;
mod server;

pub use client::{Client, ClientEvent};
pub use error::ConnectionError;
pub use event::{Event, Hint};
pub use outbox::{Answer, Outbox};
pub use run::{output_event, Need, OutputPlace, RunEvent, Runs, Strategy};
pub use server::{Server, ServerEvent};

/// Milliseconds on the caller's monotonic clock.
pub type Millis = u64;
