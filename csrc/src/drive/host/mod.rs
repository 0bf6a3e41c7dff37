//! Storey 3, the host: rooms on a listening socket, their peers and journals.

mod api;
mod hub;
mod journal;
mod latest;
mod offload;
mod peer;
mod prepare;
mod room;

pub use api::{Host, HostOptions};
