//! What the tests of the driven tier share: a directory, waiting for events, a peer that is nothing but a socket.

// Each test program uses its part of this.
#![allow(dead_code)]

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use runtimed_ffi::drive::{Event, EventKind, Host, Session, Waited};
use runtimed_ffi::wire::frame::{self, Decoder, DATA_LIMIT};

pub const PATIENCE: Duration = Duration::from_secs(90);

pub struct Place(pub PathBuf);

impl Place {
    pub fn new() -> Self {
        let place = std::env::temp_dir().join(format!("rtd-{}", uuid::Uuid::new_v4().simple()));
        std::fs::create_dir(&place).unwrap();
        Self(place)
    }
    pub fn socket(&self) -> PathBuf {
        self.0.join("s")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

pub trait Source {
    fn take(&self) -> Option<Event>;
    fn wait_for_event(&self, left: Duration) -> Waited;
}

impl Source for Session {
    fn take(&self) -> Option<Event> {
        self.next_event().expect("the queue is open")
    }
    fn wait_for_event(&self, left: Duration) -> Waited {
        self.wait(Some(left)).unwrap()
    }
}

impl Source for Host {
    fn take(&self) -> Option<Event> {
        self.next_event().expect("the queue is open")
    }
    fn wait_for_event(&self, left: Duration) -> Waited {
        self.wait(Some(left)).unwrap()
    }
}

/// Takes events until one of this kind comes.
pub fn until(source: &impl Source, kind: EventKind) -> Event {
    let deadline = Instant::now() + PATIENCE;
    loop {
        while let Some(event) = source.take() {
            if event.kind == kind {
                return event;
            }
        }
        let left =
            deadline.checked_duration_since(Instant::now()).unwrap_or_else(|| panic!("no {kind:?} came"));
        source.wait_for_event(left);
    }
}

/// A peer that is nothing but a socket.
pub struct Raw {
    pub stream: UnixStream,
    decoder: Decoder,
}

impl Raw {
    /// Connects and says nothing.
    pub fn connect(socket: &Path) -> Self {
        Self::over(UnixStream::connect(socket).unwrap())
    }

    /// Speaks over a connection that is there.
    pub fn over(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, decoder: Decoder::new(DATA_LIMIT) }
    }

    /// Connects and sends a handshake.
    pub fn open(socket: &Path, handshake: &str) -> Self {
        let mut raw = Self::connect(socket);
        raw.send(handshake.as_bytes());
        raw
    }

    /// Writes one frame.
    pub fn send(&mut self, payload: &[u8]) {
        self.stream.write_all(&frame::encode(payload).unwrap()).unwrap();
    }

    /// Takes the next frame.
    pub fn frame(&mut self) -> Vec<u8> {
        self.next().expect("the host has closed the connection")
    }

    /// The next frame; `None` at the end of the connection.
    pub fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Some(frame);
            }
            let mut buffer = [0; 65_536];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.decoder.push(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("the host says nothing: {error}"),
            }
        }
    }

    /// The end of the connection, with nothing before it.
    pub fn closed(&mut self) {
        assert_eq!(self.next(), None);
    }
}
