//! Storey 1, the messages of version 2, one module per channel or direction. Each type is the body of a
//! [`Message`](super::message::Message), which puts in the tag and keeps unknown members; members of
//! nested objects that the protocol does not define are ignored.

pub mod blob;
pub mod broadcast;
pub mod pool;
pub mod pool_state;
pub mod request;
pub mod response;

pub use blob::{BlobRequest, BlobResponse};
pub use broadcast::Broadcast;
pub use pool::{PoolRequest, PoolResponse};
pub use pool_state::PoolState;
pub use request::{Request, Targets};
pub use response::Response;
