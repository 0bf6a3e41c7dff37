//! Requests and syncs that wait for changes. A session emits `Synced` only when the changes are there: the reference
//! daemon answers requests before it processes changes, so a response alone does not show it. A host emits a request
//! after the changes that its sender has announced.

use std::io::Write;
use std::os::unix::net::UnixListener;

use runtimed_ffi::code::rtd_code::RTD_E_PROTOCOL;
use runtimed_ffi::code::rtd_event_kind::*;
use runtimed_ffi::drive::{Session, SessionOptions};
use runtimed_ffi::notebook::{Notebook, Op};
use runtimed_ffi::replica::{barrier, PeerSync};
use runtimed_ffi::wire::frame::encode;
use runtimed_ffi::wire::typed::split;
use runtimed_ffi::wire::FrameType;
use serde_json::{json, Value};

mod support;

use support::{host_with_room, request, until, Peer, Place, Raw, Source, PATIENCE};

/// A daemon of one room that takes each step when the test calls it.
struct Daemon {
    peer: Raw,
    room: Notebook,
    sync: PeerSync,
    /// Sync messages that were read and not applied.
    held: Vec<Vec<u8>>,
}

impl Daemon {
    /// A daemon and a session that has joined its room.
    fn with_session(place: &Place) -> (Self, Session) {
        let listener = UnixListener::bind(place.socket()).unwrap();
        let session = Session::open(&place.socket(), "n", SessionOptions::default()).unwrap();
        let mut peer = Raw::over(listener.accept().unwrap().0);
        peer.frame();
        peer.send(br#"{"protocol":"v2"}"#);
        let room = Notebook::create("n").unwrap();
        let mut daemon = Self { peer, room, sync: PeerSync::new(), held: Vec::new() };
        daemon.send_changes();
        while !daemon.sync.converged(&daemon.room) {
            assert_eq!(daemon.read(), None);
            daemon.apply();
        }
        until(&session, RTD_EV_READY);
        (daemon, session)
    }

    fn send_typed(&mut self, kind: FrameType, body: &[u8]) {
        self.peer.send(&[&[kind as u8], body].concat());
    }

    /// Reads one frame: a request, or a sync message that is held.
    fn read(&mut self) -> Option<Value> {
        let frame = self.peer.frame();
        match split(&frame).unwrap() {
            (FrameType::Sync, message) => self.held.push(message.to_vec()),
            (FrameType::Request, body) => return Some(serde_json::from_slice(body).unwrap()),
            (kind, _) => panic!("a client sends no {kind:?}"),
        }
        None
    }

    /// Applies the messages that are held, and answers.
    fn apply(&mut self) {
        for message in std::mem::take(&mut self.held) {
            self.sync.receive(&mut self.room, &message).unwrap();
        }
        self.send_changes();
    }

    fn send_changes(&mut self) {
        if let Some(message) = self.sync.generate(&self.room) {
            self.send_typed(FrameType::Sync, &message);
        }
    }

    /// The next request; sync messages before it are held.
    fn request(&mut self) -> Value {
        loop {
            if let Some(request) = self.read() {
                break request;
            }
        }
    }

    /// Answers the next request.
    fn answer(&mut self) {
        let request = self.request();
        let answer = json!({"result": "queue_state", "queued": [], "request_id": request["request_id"]});
        self.send_typed(FrameType::Response, answer.to_string().as_bytes());
    }
}

/// Begins a sync, which sends a request. After the response it must still wait.
fn not_yet(daemon: &mut Daemon, session: &Session) {
    session.sync(1, None).unwrap();
    daemon.answer();
    // Messages that arrive together may become events in another order; after two requests all of them have.
    for token in [2, 3] {
        session.request(token, br#"{"action":"get_queue_state"}"#, None).unwrap();
        daemon.answer();
        loop {
            let Some(event) = session.take() else {
                session.wait_for_event(PATIENCE);
                continue;
            };
            assert_ne!(event.kind, RTD_EV_SYNCED);
            if event.kind == RTD_EV_RESPONSE {
                break assert_eq!((event.token, event.code), (token, 0));
            }
        }
    }
}

fn ends(session: &Session) {
    let event = until(session, RTD_EV_SYNCED);
    assert_eq!((event.token, event.code), (1, 0));
}

#[test]
fn a_sync_waits_until_the_daemon_has_every_edit() {
    let place = Place::new();
    let (mut daemon, session) = Daemon::with_session(&place);
    session.edit(&[Op::insert_cell("c", "code", "x", None)]).unwrap();
    not_yet(&mut daemon, &session);
    assert!(daemon.room.cell_ids().is_empty());
    daemon.apply();
    ends(&session);
    assert_eq!(daemon.room.cell_ids(), ["c"]);
}

#[test]
fn a_sync_waits_for_every_change_that_the_daemon_has_announced() {
    let place = Place::new();
    let (mut daemon, session) = Daemon::with_session(&place);
    daemon.room.edit(&[Op::insert_cell("c", "code", "x", None)]).unwrap();
    // Announced and withheld, as a Bloom filter may do.
    let announcement = barrier(&daemon.room);
    daemon.send_typed(FrameType::Sync, &announcement);
    not_yet(&mut daemon, &session);
    assert!(session.read(|notebook| Ok(notebook.cells())).unwrap().is_empty());
    daemon.apply();
    ends(&session);
    assert_eq!(session.read(|notebook| Ok(notebook.cells())).unwrap().len(), 1);
}

#[test]
fn an_execution_waits_until_the_daemon_has_every_edit() {
    let place = Place::new();
    let (mut daemon, session) = Daemon::with_session(&place);
    session.edit(&[Op::insert_cell("c", "code", "x", None)]).unwrap();
    assert_eq!(daemon.read(), None);
    session.execute(5, "c", None).unwrap();
    // The session answers a change of the daemon; an execution that did not wait would come before the answer.
    daemon.room.edit(&[Op::SetMetadata { key: "k".into(), value: "v".into() }]).unwrap();
    daemon.send_changes();
    assert_eq!(daemon.read(), None);
    daemon.apply();
    let request = daemon.request();
    assert_eq!((&request["action"], &request["cell_id"]), (&json!("execute_cell"), &json!("c")));
    assert_eq!(daemon.room.cell_ids(), ["c"]);
}

#[test]
fn a_request_stays_behind_an_execution_that_waits_for_an_edit() {
    let place = Place::new();
    let (mut daemon, session) = Daemon::with_session(&place);
    session.edit(&[Op::insert_cell("c", "code", "x", None)]).unwrap();
    session.execute(5, "c", None).unwrap();
    session.request(6, br#"{"action":"get_kernel_info"}"#, None).unwrap();
    assert_eq!(daemon.request()["action"], "execute_cell");
    assert_eq!(daemon.request()["action"], "get_kernel_info");
}

#[test]
fn outputs_are_cleared_before_a_run_unless_the_cell_is_in_the_queue() {
    let place = Place::new();
    let (mut daemon, session) = Daemon::with_session(&place);
    let output = json!({"output_type": "stream", "name": "stdout", "text": "old"}).to_string();
    daemon.room.edit(&[Op::insert_cell("c", "code", "x", None)]).unwrap();
    daemon.room.edit(&[Op::AppendOutputs { cell_id: "c".into(), outputs: vec![output] }]).unwrap();
    daemon.send_changes();
    until(&session, RTD_EV_CHANGED);
    session.execute(1, "c", None).unwrap();
    assert_eq!(daemon.request()["action"], "clear_outputs");
    assert_eq!(daemon.request()["action"], "execute_cell");
    daemon.send_typed(FrameType::Broadcast, br#"{"event":"queue_changed","executing":null,"queued":["c"]}"#);
    until(&session, RTD_EV_BROADCAST);
    session.execute(2, "c", None).unwrap();
    assert_eq!(daemon.request()["action"], "execute_cell");
}

impl Peer {
    /// Announces a new cell, withholds it, and requests its execution.
    fn ask_too_early(&mut self) {
        self.replica.edit(&[Op::insert_cell("c", "code", "x", None)]).unwrap();
        let announcement = barrier(&self.replica);
        self.send_typed(FrameType::Sync, &announcement);
        self.send_typed(FrameType::Request, br#"{"action":"execute_cell","cell_id":"c","request_id":1}"#);
    }
}

#[test]
fn a_request_waits_for_the_changes_before_it_and_delays_no_other_peer() {
    let place = Place::new();
    let (host, session) = host_with_room(&place, "n");
    let mut peer = Peer::join(&place, "n", true);
    peer.ask_too_early();
    for token in 1..=4 {
        session.request(token, br#"{"action":"get_kernel_info"}"#, None).unwrap();
        let (answer, body) = request(&host);
        assert_eq!(body["action"], "get_kernel_info");
        host.respond(answer, &json!({"result": "ok"})).unwrap();
        assert_eq!(until(&session, RTD_EV_RESPONSE).token, token);
    }
    peer.send_changes();
    assert_eq!(request(&host).1["action"], "execute_cell");
    assert_eq!(host.read("n", |notebook| Ok(notebook.source("c"))).unwrap().unwrap(), "x");
}

#[test]
fn a_request_whose_client_never_sends_the_announced_changes_becomes_an_event() {
    let place = Place::new();
    let (host, _session) = host_with_room(&place, "n");
    let mut peer = Peer::join(&place, "n", false);
    peer.ask_too_early();
    assert_eq!(request(&host).1["action"], "execute_cell");
    assert!(host.read("n", |notebook| Ok(notebook.cell("c"))).unwrap().is_none());
}

#[test]
fn a_request_of_a_peer_that_leaves_without_the_announced_changes_becomes_an_event() {
    let place = Place::new();
    let (host, _session) = host_with_room(&place, "n");
    // A client of ours has fifteen seconds for its changes, but nothing comes from one that has left.
    let mut peer = Peer::join(&place, "n", true);
    peer.ask_too_early();
    drop(peer);
    assert_eq!(request(&host).1["action"], "execute_cell");
    until(&host, RTD_EV_PEER_LEFT);
    // What it sent at the end comes before the request, although that was sent first.
    let mut peer = Peer::join(&place, "n", true);
    peer.ask_too_early();
    peer.send_changes();
    drop(peer);
    assert_eq!(request(&host).1["action"], "execute_cell");
    assert_eq!(host.read("n", |notebook| Ok(notebook.source("c"))).unwrap().unwrap(), "x");
}

#[test]
fn the_changes_before_a_broken_frame_are_sent_on_and_recorded() {
    let place = Place::new();
    let (host, _session) = host_with_room(&place, "n");
    let journal = place.0.join("m.automerge");
    host.open_room("m", Some(&journal)).unwrap();
    let other = Session::open(&place.socket(), "m", SessionOptions::default()).unwrap();
    until(&other, RTD_EV_READY);
    let mut peer = Peer::join(&place, "m", false);
    peer.replica.edit(&[Op::insert_cell("last", "code", "x", None)]).unwrap();
    let change = peer.sync.generate(&peer.replica).unwrap();
    let frames = [[&[FrameType::Sync as u8], change.as_slice()].concat(), b"\x09 no such type".to_vec()];
    let bytes: Vec<u8> = frames.iter().flat_map(|frame| encode(frame).unwrap()).collect();
    peer.raw.stream.write_all(&bytes).unwrap();
    assert_eq!(until(&host, RTD_EV_PEER_LEFT).code, RTD_E_PROTOCOL as i32);
    until(&other, RTD_EV_CHANGED);
    assert_eq!(other.read(|notebook| Ok(notebook.cell("last"))).unwrap().unwrap().source, "x");
    let saved = Notebook::load(&std::fs::read(&journal).unwrap()).unwrap();
    assert_eq!(saved.cell_ids(), ["last"]);
}
