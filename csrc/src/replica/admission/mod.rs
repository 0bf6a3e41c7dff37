//! Storey 1: what may enter a document. Two doors, [`admit_message`] and [`admit_file`], and one guarantee:
//!
//! **A refused message leaves the document as it was. What a document keeps can be saved and loaded.**
//!
//! A file is loaded whole by its door. A message passes in three steps: [`admit_message`] looks at its bytes (`limits` counts
//! operations, `verify` decodes each change and encodes it again), [`Admitted::apply`] gives it to the engine (`replay` seeks where a small
//! change goes), and
//! [`Admitted::kept`] lets the engine give the new changes again and compares their hashes (`keep`). The operations that
//! `verify` decoded serve the rules about operations (`ops`) and whoever wants to know what changed ([`Applied`]). When the
//! engine panics or something cannot be kept, `rollback` takes it back.
//!
//! So an ordinary change, of some operations, behind known heads, is
//! - decoded twice: by the engine's parser, and into the operations that serve everything that follows;
//! - encoded three times: by `verify` from those operations, by the transaction that makes it again, and by `keep` from the
//!   document; and hashed as often, and once as it came.
//!
//! Its cost grows neither with the history of the document nor with what else is in it. Of a change that does not follow all
//! we have, or of many operations, the engine walks over the history of each object in it (see `replay`).
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
mod replay;
mod verify;

pub use applied::{object_id, op_id, Applied};
pub use chunks::{any_packed, leb128};
pub use file::admit_file;
pub use limits::{check_own, LimitExceeded};
pub use message::{admit_message, Admitted};
