//! Storey 1: what may enter a document. Two doors, [`admit_message`] and [`admit_file`], and one guarantee:
//!
//! **A refused message leaves the document as it was. What a document keeps can be saved and loaded.**
//!
//! A file is loaded whole by its door. A message passes in three steps: [`admit_message`] looks at its bytes (`limits` counts
//! operations, `verify` decodes each change and encodes it again), [`Admitted::apply`] gives it to the engine, and
//! [`Admitted::kept`] lets the engine give the new changes again and compares their hashes (`keep`). The operations that
//! `verify` decoded serve the rules about operations (`ops`) and whoever wants to know what changed ([`Applied`]). When the
//! engine panics or something cannot be kept, `rollback` takes it back.
//!
//! So an ordinary change, of some operations, behind known heads, is
//! - unpacked (if it is packed) twice: by `limits`, and by the engine's parser;
//! - parsed and its operations read three times: by the engine's parser, for [`Applied`], and by the engine that applies them;
//! - encoded and hashed twice: by `verify`, from its operations, and by `keep`, from the document; and hashed once as it came.
//!
//! Whole documents are looked at in their columns (`columns`, `op_ids`, `ops`), which costs less than making changes of them.
//! `chunks` finds where things begin and end in Automerge's storage format.

mod applied;
mod chunks;
mod columns;
mod document;
mod file;
mod keep;
mod limits;
mod message;
mod op_ids;
mod ops;
mod verify;

pub use applied::{object_id, op_id, Applied};
pub use chunks::{any_packed, leb128};
pub use file::admit_file;
pub use limits::{check_own, LimitExceeded};
pub use message::{admit_message, Admitted};
