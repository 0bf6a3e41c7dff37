//! Storey 3, host: a connection as seen by what it takes part in (a room, the settings, the pool state).

use crate::connection::Outbox;
use crate::drive::DriveError;
use crate::replica::Doc;

/// A connection that takes part in something. The trait keeps rooms independent of sockets.
pub trait Member: Send + Sync {
    /// Number of the connection in its host.
    fn id(&self) -> u64;

    /// Lets `queue` add to the outbox, then writes what the socket takes now; the rest follows when the socket is
    /// writable. Does nothing on a closed connection.
    ///
    /// # Errors
    /// The connection cannot be used any more: the socket failed, more is queued than the peer's limit, or a message
    /// does not fit a frame.
    fn send(&self, document: Option<&dyn Doc>, queue: &dyn Fn(&mut Outbox)) -> Result<(), DriveError>;
}
