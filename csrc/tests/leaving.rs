//! How connections begin and end at the edges: what was written last, and peers that do nothing.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{mpsc, Mutex};
use std::time::Instant;

use runtimed_ffi::code::rtd_code::{RTD_E_TIMEOUT, RTD_OK};
use runtimed_ffi::code::rtd_event_kind::*;
use runtimed_ffi::connection::{Client, Server, ServerEvent};
use runtimed_ffi::drive::{DriveError, EventSource, Host, HostOptions, Session, SessionOptions};
use runtimed_ffi::notebook::{Notebook, Op};
use serde_json::{json, Map};

mod support;

use support::{until, Place, PATIENCE};

fn host(place: &Place) -> Host {
    Host::open(&place.socket(), HostOptions::default()).unwrap()
}

fn session(place: &Place, host: &Host, id: &str) -> Session {
    let session = Session::open(&place.socket(), id, SessionOptions::default()).unwrap();
    host.open_room(id, None).unwrap();
    until(&session, RTD_EV_READY);
    session
}

/// Text that no compression makes small.
fn noise(length: usize) -> String {
    let mut text = String::new();
    while text.len() < length {
        text.push_str(&uuid::Uuid::new_v4().simple().to_string());
    }
    text
}

#[test]
fn what_was_written_before_the_end_arrives_however_much_it_is() {
    let place = Place::new();
    let host = host(&place);
    let session = session(&place, &host, "n");
    // More than the socket takes at once.
    let source = noise(600_000);
    session.edit(&[Op::insert_cell("c", "code", &source, None)]).unwrap();
    session.request(7, br#"{"action":"get_queue_state"}"#, None).unwrap();
    session.close().unwrap();
    assert_eq!(session.info().unwrap()["state"], "closed");
    assert!(matches!(session.edit(&[]), Err(DriveError::Closed(_))));
    assert_eq!(until(&session, RTD_EV_RESPONSE).token, 7);
    assert_eq!(until(&session, RTD_EV_CLOSED).code, RTD_OK as i32);
    assert_eq!(session.info().unwrap()["unsent"], false);
    until(&host, RTD_EV_PEER_LEFT);
    assert_eq!(host.read("n", |notebook| Ok(notebook.source("c"))).unwrap().unwrap(), source);
}

/// A client without the driven tier, to choose the moment of each step.
struct Raw {
    stream: UnixStream,
    client: Client,
    replica: Notebook,
}

impl Raw {
    fn join(place: &Place, id: &str) -> Self {
        let stream = UnixStream::connect(place.socket()).unwrap();
        let mut raw = Self { stream, client: Client::new(id).unwrap(), replica: Notebook::empty() };
        raw.send();
        let mut buffer = [0; 4096];
        while !raw.client.is_ready() {
            let count = raw.stream.read(&mut buffer).unwrap();
            raw.client.push(&buffer[..count]);
            while raw.client.next(&mut raw.replica, 0).unwrap().is_some() {}
            raw.send();
        }
        raw
    }

    fn send(&mut self) {
        let mut out = Vec::new();
        self.client.take_output(&mut out);
        self.stream.write_all(&out).unwrap();
    }
}

#[test]
fn the_last_edits_of_a_peer_count_also_when_something_was_sent_to_it_after_it_left() {
    let place = Place::new();
    let host = host(&place);
    let _there = session(&place, &host, "n");
    let mut raw = Raw::join(&place, "n");
    // The I/O thread stands still while the peer writes and leaves, and something is sent to it.
    let _elsewhere = session(&place, &host, "m");
    while host.next_event().unwrap().is_some() {}
    let (stands, standing) = mpsc::channel();
    let (go, goes) = mpsc::channel::<()>();
    let stands = Mutex::new(Some((stands, goes)));
    host.set_wakeup(Some(Box::new(move || {
        let first = stands.lock().unwrap().take();
        if let Some((stands, goes)) = first {
            stands.send(()).unwrap();
            goes.recv_timeout(PATIENCE).unwrap();
        }
    })))
    .unwrap();
    let _newcomer = Session::open(&place.socket(), "m", SessionOptions::default()).unwrap();
    standing.recv_timeout(PATIENCE).unwrap();
    raw.replica.edit(&[Op::insert_cell("last", "code", "words", None)]).unwrap();
    raw.client.push_changes(&raw.replica).unwrap();
    raw.send();
    drop(raw);
    host.publish("n", &[], &[json!({"event": "news"})], 0).unwrap();
    go.send(()).unwrap();
    let left = until(&host, RTD_EV_PEER_LEFT);
    assert_eq!((left.id.as_str(), left.code), ("n", RTD_OK as i32));
    assert_eq!(host.read("n", |notebook| Ok(notebook.source("last"))).unwrap().unwrap(), "words");
}

#[test]
fn a_daemon_that_takes_nothing_cannot_hold_back_a_session_that_leaves() {
    let place = Place::new();
    let listener = UnixListener::bind(place.socket()).unwrap();
    let session = Session::open(&place.socket(), "n", SessionOptions::default()).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let (mut server, mut notebook) = (Server::new(), Notebook::create("n").unwrap());
    let mut buffer = [0; 4096];
    while session.info().unwrap()["state"] != "ready" {
        let count = stream.read(&mut buffer).unwrap();
        server.push(&buffer[..count]);
        while let Some(event) = server.next(Some(&mut notebook)).unwrap() {
            if matches!(event, ServerEvent::Handshake(_)) {
                server.join(&Map::new()).unwrap();
            }
        }
        server.fill(Some(&notebook)).unwrap();
        let out = server.outbox.output().to_vec();
        stream.write_all(&out).unwrap();
        server.outbox.written(out.len());
    }
    session.edit(&[Op::insert_cell("c", "code", &noise(1_000_000), None)]).unwrap();
    session.close().unwrap();
    let closed = until(&session, RTD_EV_CLOSED);
    assert_eq!(closed.code, RTD_E_TIMEOUT as i32, "{}", closed.text);
}

#[test]
fn a_daemon_that_never_accepts_costs_no_more_than_the_limit() {
    let place = Place::new();
    let _listener = UnixListener::bind(place.socket()).unwrap();
    let mut waiting = Vec::new();
    let refused = loop {
        let options = SessionOptions { connect_timeout: Some(50), ..SessionOptions::default() };
        match Session::open(&place.socket(), "n", options) {
            Ok(session) => waiting.push(session),
            Err(error) => break error,
        }
        assert!(waiting.len() < 5000, "the system has no bound for connections that are not accepted");
    };
    // Where a full line refuses at once there is nothing to wait for.
    let refused_at_once =
        matches!(&refused, DriveError::Io(error) if error.kind() == std::io::ErrorKind::ConnectionRefused);
    assert!(refused_at_once || matches!(&refused, DriveError::Timeout(_)), "{refused}");
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let place = Place::new();
    std::fs::write(place.socket(), "precious").unwrap();
    let refused = Host::open(&place.socket(), HostOptions::default());
    assert!(matches!(&refused, Err(DriveError::Io(error)) if error.kind() == std::io::ErrorKind::AddrInUse));
    assert_eq!(std::fs::read_to_string(place.socket()).unwrap(), "precious");
}

#[test]
fn a_client_that_finds_the_socket_can_connect() {
    let place = Place::new();
    for _ in 0..100 {
        let path = place.socket();
        let waiting = std::thread::spawn(move || {
            let deadline = Instant::now() + PATIENCE;
            while !path.exists() {
                assert!(Instant::now() < deadline);
            }
            UnixStream::connect(path).map(drop)
        });
        let host = host(&place);
        waiting.join().unwrap().unwrap();
        drop(host);
        assert_eq!(std::fs::read_dir(&place.0).unwrap().count(), 0, "nothing is left beside it");
    }
}
