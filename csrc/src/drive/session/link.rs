//! Storey 3: the part of a session that ends with its connection.

use std::io;
use std::os::unix::net::UnixStream;

use crate::connection::{Client, ConnectionError, Millis};
use crate::drive::address;
use crate::notebook::Notebook;

/// Above this many unsent bytes, local changes wait and coalesce into one sync message.
const OUT_MARK: usize = 256 * 1024;

/// One connection to the daemon.
pub(super) struct Link {
    pub(super) client: Client,
    out: Vec<u8>,
    /// Bytes at the start of `out` that the socket took.
    sent: usize,
    /// Local changes for which there is no sync message yet.
    pub(super) changes_wait: bool,
    pub(super) watching_writable: bool,
    /// When the room must have been joined.
    pub(super) connect_deadline: Option<Millis>,
}

impl Link {
    pub(super) fn new(client: Client, connect_deadline: Option<Millis>) -> Self {
        Self {
            client,
            out: Vec::new(),
            sent: 0,
            changes_wait: false,
            watching_writable: false,
            connect_deadline,
        }
    }

    /// Bytes that wait for the socket.
    pub(super) fn unsent(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Whether something that was written here waits for the socket.
    pub(super) fn is_unsent(&self) -> bool {
        self.changes_wait || self.unsent() > 0
    }

    pub(super) fn push_changes(&mut self, replica: &Notebook) -> Result<(), ConnectionError> {
        self.changes_wait = false;
        self.client.push_changes(replica)
    }

    /// Writes what the socket takes and calls `taken` for each part. Returns whether more waits.
    ///
    /// # Errors
    /// The socket's; what waited is dropped.
    pub(super) fn write(
        &mut self,
        replica: &Notebook,
        stream: &UnixStream,
        mut taken: impl FnMut(),
    ) -> io::Result<bool> {
        loop {
            if self.changes_wait && self.unsent() < OUT_MARK {
                self.push_changes(replica)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            }
            self.client.take_output(&mut self.out);
            // Moving the rest down only when most is gone keeps a long message linear.
            if self.sent * 2 >= self.out.len() {
                self.out.drain(..self.sent);
                self.sent = 0;
            }
            if self.out.is_empty() {
                return Ok(false);
            }
            match address::send(stream, &self.out[self.sent..]) {
                Ok(count) => {
                    self.sent += count;
                    taken();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => {
                    self.out.clear();
                    self.sent = 0;
                    return Err(error);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn each_part_that_the_socket_takes_is_reported() {
        let (here, mut there) = UnixStream::pair().unwrap();
        here.set_nonblocking(true).unwrap();
        let mut link = Link::new(Client::new("n").unwrap(), None);
        let replica = Notebook::empty();
        let mut parts = 0;
        assert!(!link.write(&replica, &here, || parts += 1).unwrap());
        assert_eq!(parts, 1, "the handshake");
        assert!(!link.write(&replica, &here, || parts += 1).unwrap());
        assert_eq!(parts, 1, "nothing waited");
        link.out = vec![7; 8 << 20];
        assert!(link.write(&replica, &here, || parts += 1).unwrap(), "the socket is full");
        let waits = link.unsent();
        assert!(parts > 1 && waits < 8 << 20);
        let mut buffer = [0; 1 << 16];
        assert!(there.read(&mut buffer).unwrap() > 0);
        let before = parts;
        assert!(link.write(&replica, &here, || parts += 1).unwrap());
        assert!(parts > before && link.unsent() < waits, "it goes on where it stopped");
    }
}
