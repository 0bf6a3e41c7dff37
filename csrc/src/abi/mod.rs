//! Storey 4: the exported C functions. Types, ownership, guard and errors; no logic.
//!
//! Every export is a plain function whose body is one call of a guard, so that no panic crosses
//! the C boundary and every failure leaves a text.
// The modules stand in the order of the chapters of the header.
#![allow(unsafe_code, non_camel_case_types)]
// The contract of every export stands in its parameters and threads, and once in the header's preface.
#![allow(clippy::missing_safety_doc)]

mod guard;
mod version;
mod error;
mod buf;
mod event;
mod queue;
mod session;
mod host;
mod room;
mod settings;
mod frame;
mod message;
mod doc;
mod edit;
mod sync;
mod output;
mod blobs;
mod conn;

pub use crate::code::{rtd_channel, rtd_done, rtd_event_kind, rtd_output_change, rtd_result};
pub use blobs::*;
pub use buf::*;
pub use conn::*;
pub use doc::*;
pub use edit::*;
pub use error::*;
pub use event::*;
pub use frame::*;
pub use host::*;
pub use message::*;
pub use output::*;
pub use queue::*;
pub use room::*;
pub use session::*;
pub use settings::*;
pub use sync::*;
pub use version::*;
