//! Storey 3, the host: rooms on a listening socket, their peers and journals.
//!
//! From the bottom up: `options`, `member` (a connection as rooms see it), `journal`, `offload` (turns that take long),
//! `room` and `latest` (what members share), `peer` (a socket and its protocol state), `registry`, `hosted`, `hub` (the
//! steps on all of them), `turn` (the handler of a peer), `listener`, `api` and `prepare` ([`Host`]).

mod api;
mod hosted;
mod hub;
mod journal;
mod latest;
mod listener;
mod member;
mod offload;
mod options;
mod peer;
mod prepare;
mod registry;
mod room;
mod turn;

pub use api::Host;
pub use options::HostOptions;
