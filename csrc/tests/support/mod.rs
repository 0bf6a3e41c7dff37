//! What the tests of the driven tier share: a directory, waiting for events, a peer that is nothing but a socket.

// Each test program uses its part of this.
#![allow(dead_code)]

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use runtimed_ffi::code::rtd_event_kind::{self, *};
use runtimed_ffi::connection::Event;
use runtimed_ffi::drive::{EventSource, Host, HostOptions, Session, SessionOptions, Waited};
use runtimed_ffi::notebook::{Notebook, Op};
use runtimed_ffi::replica::PeerSync;
use runtimed_ffi::wire::frame::{self, Decoder, DATA_LIMIT};
use runtimed_ffi::wire::FrameType;
use serde_json::{json, Value};

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
pub fn until(source: &impl Source, kind: rtd_event_kind) -> Event {
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
    /// Connects and sends nothing.
    pub fn connect(socket: &Path) -> Self {
        Self::over(UnixStream::connect(socket).unwrap())
    }

    /// Uses an open connection.
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
                Err(error) => panic!("the host sends nothing: {error}"),
            }
        }
    }

    /// The end of the connection, with nothing before it.
    pub fn closed(&mut self) {
        assert_eq!(self.next(), None);
    }
}

/// A host with one room, and a session that has joined it.
pub fn host_with_room(place: &Place, id: &str) -> (Host, Session) {
    host_with(HostOptions { watch_changes: true, ..HostOptions::default() }, place, id)
}

/// The same with other options.
pub fn host_with(options: HostOptions, place: &Place, id: &str) -> (Host, Session) {
    let host = Host::open(&place.socket(), options).unwrap();
    let session = Session::open(&place.socket(), id, SessionOptions::default()).unwrap();
    let wanted = until(&host, RTD_EV_ROOM_WANTED);
    assert_eq!(wanted.id, id);
    host.open_room(id, None).unwrap();
    until(&session, RTD_EV_READY);
    (host, session)
}

/// The next request event of the host: its token and its body.
pub fn request(host: &Host) -> (u64, Value) {
    let event = until(host, RTD_EV_REQUEST);
    (event.token, serde_json::from_slice(&event.payload).unwrap())
}

/// A peer with a replica: it reads and writes when the test calls it.
pub struct Peer {
    pub raw: Raw,
    pub sync: PeerSync,
    pub replica: Notebook,
}

impl Peer {
    /// Joins an open room, as a client of ours or as another one.
    pub fn join(place: &Place, room: &str, ours: bool) -> Self {
        let mut hello = json!({"channel": "notebook_sync", "notebook_id": room, "protocol": "v2"});
        if ours {
            hello["rtd"] = 1.into();
        }
        let mut raw = Raw::open(&place.socket(), &hello.to_string());
        raw.frame();
        let mut peer = Self { raw, sync: PeerSync::new(), replica: Notebook::empty() };
        while peer.replica.is_empty() {
            peer.receive();
        }
        peer
    }

    /// Takes a frame that is for the document, and answers it.
    pub fn receive(&mut self) {
        let frame = self.raw.frame();
        assert_eq!(frame[0], FrameType::Sync as u8);
        self.sync.receive(&mut self.replica, &frame[1..]).unwrap();
        self.send_changes();
    }

    pub fn send_changes(&mut self) {
        if let Some(message) = self.sync.generate(&self.replica) {
            self.send_typed(FrameType::Sync, &message);
        }
    }

    pub fn send_typed(&mut self, kind: FrameType, body: &[u8]) {
        self.raw.send(&[&[kind as u8], body].concat());
    }

    pub fn add(&mut self, cell_id: &str, source: &str) {
        self.replica.edit(&[Op::insert_cell(cell_id, "code", source, None)]).unwrap();
        self.send_changes();
    }
}
