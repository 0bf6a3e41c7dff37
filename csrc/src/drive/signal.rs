//! Storey 3: a file descriptor that is readable exactly while a flag is up.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

/// Level-triggered signal: at most one byte is ever in the pair, so neither end can block.
pub struct Signal {
    reader: UnixStream,
    writer: UnixStream,
    raised: bool,
}

impl Signal {
    /// A lowered signal.
    ///
    /// # Errors
    /// No descriptor could be made.
    pub fn new() -> io::Result<Self> {
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        Ok(Self { reader, writer, raised: false })
    }

    /// The descriptor to poll for reading.
    pub fn fd(&self) -> RawFd {
        self.reader.as_raw_fd()
    }

    /// Makes the descriptor readable (`true`) or not.
    pub fn set(&mut self, raised: bool) {
        if raised == self.raised {
            return;
        }
        let done = if raised { self.writer.write(&[1]) } else { self.reader.read(&mut [0]) };
        // Writing one byte to an empty socket pair cannot fail; if it does, the flag keeps the value that the
        // descriptor shows.
        if matches!(done, Ok(1)) {
            self.raised = raised;
        }
    }
}
