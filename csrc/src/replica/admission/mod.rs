//! Storey 1: what may enter a document. Two functions, [`admit_message`] and [`admit_file`], and one guarantee:
//!
//! **A refused message leaves the document as it was. What a document keeps can be saved and loaded.**
//!
//! [`admit_file`] loads a whole file. A message passes in three steps: [`admit_message`] checks its bytes (`limits`
//! counts operations, `verify` decodes each change and encodes it again), [`Admitted::apply`] passes it to the engine
//! (`replay` applies a small change at its place), and [`Admitted::kept`] has the engine encode the new changes again
//! and compares their hashes (`keep`). The operations that `verify` decoded are used by the rules about operations
//! (`ops`) and by callers that report what changed ([`Applied`]). When the engine panics or something cannot be kept,
//! `rollback` undoes it.
//!
//! So an ordinary change, of few operations, that follows known heads, is
//! - decoded twice: by the engine's parser, and into the operations that all later steps use;
//! - encoded three times: by `verify` from those operations, by the transaction that replays it, and by `keep` from the
//!   document; and hashed as often, and once as it arrived.
//!
//! Its cost grows neither with the history of the document nor with its other content. For a change that does not
//! follow all known heads, or has many operations, the engine walks over the history of each object in it (see
//! `replay`).
//!
//! Whole documents are checked in their columns (`columns`, `op_ids`, `ops`), which costs less than decoding their
//! changes. `chunks` finds the boundaries of chunks in Automerge's storage format.

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
mod replay;
mod verify;

pub use applied::{object_id, op_id, Applied};
pub use chunks::{any_packed, leb128};
pub use file::admit_file;
pub use limits::{check_own, LimitExceeded};
pub use message::{admit_message, Admitted};
