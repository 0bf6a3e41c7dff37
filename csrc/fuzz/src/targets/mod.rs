//! The bodies of the fuzz targets: one module a target, each with its invariants in its first lines.
//!
//! libFuzzer calls `check` with what it makes up (`fuzz_targets/`); `csrc/tests/fuzz_replay.rs` with the files of
//! `corpus/` and `crashers/`. A body is a function of its bytes alone: no clock, no random numbers, fixed identities,
//! so that a file that fails once fails always.

pub mod conn_client;
pub mod conn_server;
pub mod doc_load;
pub mod doc_sync;
pub mod event_stream;
pub mod frame_decode;
pub mod manifest;
pub mod message;

mod document;
mod script;

/// The name of a target, which is that of its directories, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 8] = [
    ("conn_client", conn_client::check),
    ("conn_server", conn_server::check),
    ("doc_load", doc_load::check),
    ("doc_sync", doc_sync::check),
    ("event_stream", event_stream::check),
    ("frame_decode", frame_decode::check),
    ("manifest", manifest::check),
    ("message", message::check),
];
