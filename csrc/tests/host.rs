//! A host and peers that are plain sockets: what is sent to which peer, and what connections may not do.

mod support;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::time::Instant;

use runtimed_ffi::code::rtd_event_kind::*;
use runtimed_ffi::connection::Client;
use runtimed_ffi::drive::{DriveError, Host, HostOptions, Session, SessionOptions, Waited};
use runtimed_ffi::notebook::{Notebook, Op};
use runtimed_ffi::replica::PeerSync;
use runtimed_ffi::wire::FrameType;
use serde_json::{json, Map, Value};
use support::{host_with, until, Place, Raw, Source, PATIENCE};

const V2: &str = r#"{"channel":"notebook_sync","notebook_id":"n","protocol":"v2"}"#;
const V1: &str = r#"{"channel":"notebook_sync","notebook_id":"n"}"#;

fn open(place: &Place) -> Host {
    let host = Host::open(&place.socket(), HostOptions::default()).unwrap();
    host.open_room("n", None).unwrap();
    host
}

#[test]
fn what_is_sent_to_one_peer_follows_the_changes_before_it_and_reaches_no_other() {
    let place = Place::new();
    let host = open(&place);
    let other = Session::open(&place.socket(), "n", SessionOptions::default()).unwrap();
    until(&other, RTD_EV_READY);
    until(&host, RTD_EV_PEER_JOINED);
    let mut peer = Raw::open(&place.socket(), V2);
    let number = until(&host, RTD_EV_PEER_JOINED).peer;

    host.publish("n", &[Op::insert_cell("c", "code", "x", None)], &[], 0).unwrap();
    host.send(number, &json!({"event": "comm_sync", "comms": []})).unwrap();
    host.publish("n", &[], &[json!({"event": "kernel_error", "error": "for all"})], 0).unwrap();

    assert_eq!(serde_json::from_slice::<Value>(&peer.frame()).unwrap()["protocol"], "v2");
    let (mut sync, mut replica) = (PeerSync::new(), Notebook::empty());
    let mut broadcasts = Vec::new();
    while broadcasts.len() < 2 {
        let frame = peer.frame();
        if frame[0] == FrameType::Sync as u8 {
            sync.receive(&mut replica, &frame[1..]).unwrap();
            if let Some(answer) = sync.generate(&replica) {
                peer.send(&[&[FrameType::Sync as u8], answer.as_slice()].concat());
            }
        } else {
            let body: Value = serde_json::from_slice(&frame[1..]).unwrap();
            // The change it refers to was announced before it, at the latest in the frame before.
            assert!(sync.their_heads().is_some_and(|heads| !heads.is_empty()));
            broadcasts.push(body["event"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(broadcasts, ["comm_sync", "kernel_error"]);
    let seen: Value = serde_json::from_slice(&until(&other, RTD_EV_BROADCAST).payload).unwrap();
    assert_eq!(seen["event"], "kernel_error", "only its own peer gets what is sent to it");
}

#[test]
fn nothing_can_be_sent_to_a_peer_that_is_in_no_room() {
    let place = Place::new();
    let host = open(&place);
    assert!(host.send(1, &json!({"event": "x"})).is_err());
    let peer = Raw::open(&place.socket(), V2);
    let number = until(&host, RTD_EV_PEER_JOINED).peer;
    drop(peer);
    until(&host, RTD_EV_PEER_LEFT);
    let error = host.send(number, &json!({"event": "x"})).unwrap_err();
    assert_eq!(error.to_string(), format!("no such peer in a room: {number}"));
    // Version 1 has no broadcasts; sending to such a peer is no error.
    let _old = Raw::open(&place.socket(), V1);
    let number = until(&host, RTD_EV_PEER_JOINED).peer;
    host.send(number, &json!({"event": "x"})).unwrap();
}

#[test]
fn changes_of_peers_are_events_for_a_host_that_watches_them_and_no_other() {
    for watch_changes in [true, false] {
        let place = Place::new();
        let options = HostOptions { watch_changes, ..HostOptions::default() };
        let (host, session) = host_with(options, &place, "n");
        session.edit(&[Op::insert_cell("c", "code", "x", None)]).unwrap();
        session.request(1, br#"{"action":"get_kernel_info"}"#, None).unwrap();
        let mut changed = false;
        // The request is behind the edit, and its event behind the one of the edit.
        loop {
            match host.take() {
                Some(event) if event.kind == RTD_EV_REQUEST => break,
                Some(event) => changed |= event.kind == RTD_EV_ROOM_CHANGED,
                None => assert_ne!(host.wait_for_event(PATIENCE), Waited::TimedOut),
            }
        }
        assert_eq!(changed, watch_changes);
        assert_eq!(host.read("n", |notebook| Ok(notebook.cells())).unwrap().len(), 1);
    }
}

/// The broadcasts that a peer gets, up to and with `execution_done`.
fn broadcasts(peer: &mut Raw) -> Vec<String> {
    let mut events: Vec<String> = Vec::new();
    while events.last().is_none_or(|event| event != "execution_done") {
        let frame = peer.frame();
        if frame[0] == FrameType::Broadcast as u8 {
            let body: Value = serde_json::from_slice(&frame[1..]).unwrap();
            events.push(body["event"].as_str().unwrap().to_owned());
        }
    }
    events
}

#[test]
fn only_a_peer_that_reads_outputs_from_the_document_gets_no_broadcasts_of_them() {
    let place = Place::new();
    let host = open(&place);
    let hello = |members: &str| V2.replace('}', members);
    let reads_document = hello(r#","rtd":1,"outputs":"document"}"#);
    let gets_all = [V2.to_owned(), hello(r#","rtd":1}"#), hello(r#","rtd":1,"outputs":"all"}"#)];
    let mut peers: Vec<Raw> =
        gets_all.iter().chain([&reads_document]).map(|hello| Raw::open(&place.socket(), hello)).collect();
    let numbers: Vec<u64> = peers.iter().map(|_| until(&host, RTD_EV_PEER_JOINED).peer).collect();
    for peer in &mut peers {
        assert_eq!(serde_json::from_slice::<Value>(&peer.frame()).unwrap()["protocol"], "v2");
    }
    let events = ["execution_started", "output", "output", "execution_done"];
    let bodies = events.map(|event| json!({"event": event, "cell_id": "c", "output": {}}));
    host.publish("n", &[Op::insert_cell("c", "code", "x", None)], &bodies, 0).unwrap();
    let last = peers.len() - 1;
    for peer in &mut peers[..last] {
        assert_eq!(broadcasts(peer), events);
    }
    assert_eq!(broadcasts(&mut peers[last]), ["execution_started", "execution_done"]);
    // What is sent to one peer is sent as it is.
    for number in numbers {
        host.send(number, &bodies[1]).unwrap();
        host.send(number, &bodies[3]).unwrap();
    }
    for peer in &mut peers {
        assert_eq!(broadcasts(peer), ["output", "execution_done"]);
    }
}

#[test]
fn a_session_asks_for_no_broadcasts_of_outputs() {
    let place = Place::new();
    let listener = UnixListener::bind(place.socket()).unwrap();
    let _session = Session::open(&place.socket(), "n", SessionOptions::default()).unwrap();
    let mut daemon = Raw::over(listener.accept().unwrap().0);
    let hello: Value = serde_json::from_slice(&daemon.frame()).unwrap();
    assert_eq!((&hello["rtd"], &hello["outputs"]), (&json!(1), &json!("document")));
    // An owner of the state machine alone may read broadcasts.
    let mut out = Vec::new();
    Client::new("n").unwrap().take_output(&mut out);
    let hello: Value = serde_json::from_slice(&out[4..]).unwrap();
    assert_eq!((&hello["rtd"], hello.get("outputs")), (&json!(1), None));
}

const SUBSCRIBE: &str = r#"{"channel":"pool_state_subscribe"}"#;

fn failing(text: &str) -> Map<String, Value> {
    let error =
        json!({"message": text, "failed_package": null, "consecutive_failures": 1, "retry_in_secs": 30});
    Map::from_iter([("uv_error".to_owned(), error), ("conda_error".to_owned(), Value::Null)])
}

fn uv_error(frame: &[u8]) -> Option<String> {
    let state: Value = serde_json::from_slice(frame).unwrap();
    assert_eq!(state["event"], "pool_state");
    assert!(state.as_object().unwrap().contains_key("conda_error"));
    state["uv_error"]["message"].as_str().map(str::to_owned)
}

#[test]
fn a_subscriber_gets_the_present_pool_state_and_then_each_change() {
    let place = Place::new();
    let host = open(&place);
    let mut early = Raw::open(&place.socket(), SUBSCRIBE);
    assert_eq!(uv_error(&early.frame()), None, "nothing was announced: all is well");
    host.announce_pool_state(&failing("no network")).unwrap();
    host.announce_pool_state(&failing("no network")).unwrap();
    host.announce_pool_state(&failing("disk full")).unwrap();
    assert_eq!(uv_error(&early.frame()).unwrap(), "no network");
    assert_eq!(uv_error(&early.frame()).unwrap(), "disk full", "a state that is not new is not sent");
    let mut late = Raw::open(&place.socket(), SUBSCRIBE);
    assert_eq!(uv_error(&late.frame()).unwrap(), "disk full");
    let wrong = Map::from_iter([("uv_error".to_owned(), json!(5))]);
    assert!(host.announce_pool_state(&wrong).is_err());
    assert!(host.announce_pool_state(&Map::from_iter([("event".to_owned(), json!("other"))])).is_err());
}

#[test]
fn a_subscriber_that_does_not_read_gets_the_newest_state_and_no_backlog() {
    let place = Place::new();
    let host = open(&place);
    let mut deaf = Raw::open(&place.socket(), SUBSCRIBE);
    assert_eq!(uv_error(&deaf.frame()), None);
    let filler = "x".repeat(20_000);
    for number in 0..1000 {
        host.announce_pool_state(&failing(&format!("{number} {filler}"))).unwrap();
    }
    let (mut last, mut count) = (String::new(), 0);
    while !last.starts_with("999 ") {
        last = uv_error(&deaf.frame()).unwrap();
        count += 1;
    }
    assert!(count < 500, "{count} states were kept for it");
}

#[test]
fn a_vanished_subscriber_is_noticed_without_sending_to_it() {
    let place = Place::new();
    let host = Host::open(&place.socket(), HostOptions { max_peers: 1, ..HostOptions::default() }).unwrap();
    let mut first = Raw::open(&place.socket(), SUBSCRIBE);
    first.frame();
    drop(first);
    let deadline = Instant::now() + PATIENCE;
    // There is place for one connection only: the next gets in when the host knows that the first has gone.
    loop {
        let mut next = Raw::connect(&place.socket());
        let hello = runtimed_ffi::wire::frame::encode(SUBSCRIBE.as_bytes()).unwrap();
        if next.stream.write_all(&hello).is_ok() && next.next().is_some() {
            break;
        }
        assert!(Instant::now() < deadline, "the host still counts a subscriber that has gone");
    }
    drop(host);
}

#[test]
fn input_of_a_subscriber_is_bounded() {
    let place = Place::new();
    let _host = open(&place);
    let mut peer = Raw::open(&place.socket(), SUBSCRIBE);
    peer.frame();
    peer.stream.write_all(&100_000_u32.to_be_bytes()).unwrap();
    peer.closed();
}

#[test]
fn a_connection_without_a_handshake_ends_at_its_time_limit_however_it_dribbles() {
    let place = Place::new();
    let options = HostOptions { handshake_timeout: Some(50), ..HostOptions::default() };
    let host = Host::open(&place.socket(), options).unwrap();
    let mut silent = Raw::connect(&place.socket());
    let mut slow = Raw::connect(&place.socket());
    slow.stream.write_all(&[0, 0]).unwrap();
    slow.stream.write_all(&[0, 30, b'{']).unwrap();
    silent.closed();
    slow.closed();
    drop(host);
}

#[test]
fn idle_newcomers_make_room_for_others_and_peers_stay() {
    let place = Place::new();
    let options = HostOptions { handshake_timeout: None, ..HostOptions::default() };
    let _host = Host::open(&place.socket(), options).unwrap();
    let mut subscriber = Raw::open(&place.socket(), SUBSCRIBE);
    subscriber.frame();
    let mut idle: Vec<Raw> = (0..300).map(|_| Raw::connect(&place.socket())).collect();
    // Among so many a client still gets in at once.
    let mut client = Raw::open(&place.socket(), SUBSCRIBE);
    client.frame();
    idle[0].closed();
    subscriber.stream.set_nonblocking(true).unwrap();
    let stays = subscriber.stream.read(&mut [0; 1]).unwrap_err();
    assert_eq!(stays.kind(), std::io::ErrorKind::WouldBlock, "a peer with a handshake is not closed");
    let newest = idle.last_mut().unwrap();
    newest.send(SUBSCRIBE.as_bytes());
    newest.frame();
}

#[test]
fn the_oldest_newcomer_makes_room_when_there_are_more_than_256() {
    let place = Place::new();
    let options = HostOptions { handshake_timeout: None, ..HostOptions::default() };
    let _host = Host::open(&place.socket(), options).unwrap();
    let mut idle: Vec<Raw> = (0..255).map(|_| Raw::connect(&place.socket())).collect();
    // The 256th has a handshake, whose answer shows that all were accepted.
    Raw::open(&place.socket(), SUBSCRIBE).frame();
    idle[0].send(SUBSCRIBE.as_bytes());
    idle[0].frame();
    // 254 are left, and three more come.
    idle.extend((0..2).map(|_| Raw::connect(&place.socket())));
    Raw::open(&place.socket(), SUBSCRIBE).frame();
    idle[1].closed();
    idle[2].send(SUBSCRIBE.as_bytes());
    idle[2].frame();
}

#[test]
fn so_many_peers_are_let_in_and_no_more() {
    let place = Place::new();
    let options = HostOptions { max_peers: 2, handshake_timeout: None, ..HostOptions::default() };
    let host = Host::open(&place.socket(), options).unwrap();
    host.open_room("n", None).unwrap();
    let join = || {
        let mut peer = Raw::open(&place.socket(), V2);
        peer.frame();
        peer
    };
    let (first, _second) = (join(), join());
    for peers in [1, 2] {
        assert_eq!(until(&host, RTD_EV_PEER_JOINED).number, peers);
    }
    assert_eq!(host.rooms().unwrap()[0]["peers"], 2);
    for _ in 0..2 {
        Raw::connect(&place.socket()).closed();
    }
    drop(first);
    assert_eq!(until(&host, RTD_EV_PEER_LEFT).number, 1);
    assert_eq!(host.rooms().unwrap()[0]["peers"], 1);
    let _third = join();
    assert_eq!(until(&host, RTD_EV_PEER_JOINED).number, 2);
    Raw::connect(&place.socket()).closed();
}

#[test]
fn requests_of_a_peer_that_has_gone_cannot_be_answered() {
    let place = Place::new();
    let host = open(&place);
    let ask = |peer: &mut Raw| {
        peer.send(&[&[FrameType::Request as u8], &br#"{"action":"get_kernel_info"}"#[..]].concat());
        until(&host, RTD_EV_REQUEST).token
    };
    let (mut leaves, mut stays) = (Raw::open(&place.socket(), V2), Raw::open(&place.socket(), V2));
    let mut tokens = Vec::new();
    for _ in 0..2 {
        tokens.push(ask(&mut leaves));
    }
    let answerable = ask(&mut stays);
    drop(leaves);
    until(&host, RTD_EV_PEER_LEFT);
    for token in tokens {
        let error = host.respond(token, &json!({"result": "ok"})).unwrap_err();
        assert_eq!(error.to_string(), format!("no such request: {token}"));
    }
    host.respond(answerable, &json!({"result": "ok"})).unwrap();
}

#[test]
fn a_room_is_evicted_again_after_each_last_peer_has_left() {
    let place = Place::new();
    let host = Host::open(&place.socket(), HostOptions::default()).unwrap();
    for _ in 0..2 {
        host.open_room("n", None).unwrap();
        let (first, second) = (Raw::open(&place.socket(), V2), Raw::open(&place.socket(), V2));
        for peers in [1, 2] {
            assert_eq!(until(&host, RTD_EV_PEER_JOINED).number, peers);
        }
        for (peer, left) in [(first, 1), (second, 0)] {
            assert!(matches!(host.evict_room("n"), Err(DriveError::Again(_))));
            drop(peer);
            assert_eq!(until(&host, RTD_EV_PEER_LEFT).number, left);
        }
        host.evict_room("n").unwrap();
        assert!(matches!(host.evict_room("n"), Err(DriveError::NotFound(_))));
    }
}

/// Connects as another user; returns 0 when the host has closed the connection, 1 when it answers,
/// 4 when it does neither.
fn as_user(user: u32, socket: &std::path::Path) -> i32 {
    use std::os::unix::ffi::OsStrExt;
    let mut address: libc::sockaddr_un = unsafe { std::mem::zeroed() };
    address.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (place, byte) in address.sun_path.iter_mut().zip(socket.as_os_str().as_bytes()) {
        *place = *byte as libc::c_char;
    }
    let hello = runtimed_ffi::wire::frame::encode(SUBSCRIBE.as_bytes()).unwrap();
    // The child does nothing but system calls.
    unsafe {
        let child = libc::fork();
        if child == 0 {
            let socket = libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0);
            let limit = libc::timeval { tv_sec: PATIENCE.as_secs() as libc::time_t, tv_usec: 0 };
            let size = std::mem::size_of::<libc::timeval>() as libc::socklen_t;
            let at = std::ptr::from_ref(&limit).cast();
            libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, at, size);
            let length = std::mem::size_of::<libc::sockaddr_un>() as libc::socklen_t;
            if libc::setuid(user) != 0 {
                libc::_exit(3);
            }
            if libc::connect(socket, std::ptr::from_ref(&address).cast(), length) != 0 {
                libc::_exit(2);
            }
            libc::send(socket, hello.as_ptr().cast(), hello.len(), libc::MSG_NOSIGNAL);
            let mut byte = 0_u8;
            let got = libc::recv(socket, std::ptr::from_mut(&mut byte).cast(), 1, 0);
            let silent = got < 0 && std::io::Error::last_os_error().kind() == std::io::ErrorKind::WouldBlock;
            libc::_exit(if silent { 4 } else { i32::from(got == 1) });
        }
        let mut status = 0;
        assert_eq!(libc::waitpid(child, &mut status, 0), child);
        assert!(libc::WIFEXITED(status));
        libc::WEXITSTATUS(status)
    }
}

#[test]
fn another_user_is_not_let_in_even_where_the_file_system_does() {
    if unsafe { libc::geteuid() } != 0 {
        eprintln!("skipped: only root can connect as another user");
        return;
    }
    let place = Place::new();
    let _host = open(&place);
    std::fs::set_permissions(&place.0, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(place.socket(), std::fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(as_user(65_534, &place.socket()), 0, "closed at once, without an answer");
    assert_eq!(as_user(0, &place.socket()), 1);
}

#[test]
fn what_comes_together_with_the_handshake_is_read() {
    let place = Place::new();
    let host = open(&place);
    host.open_settings(None).unwrap();
    for hello in [V2, r#"{"channel":"settings_sync"}"#] {
        let mut peer = Raw::connect(&place.socket());
        let frames = [hello.as_bytes(), b"\x09 nothing of the protocol"];
        let bytes: Vec<u8> =
            frames.iter().flat_map(|frame| runtimed_ffi::wire::frame::encode(frame).unwrap()).collect();
        peer.stream.write_all(&bytes).unwrap();
        // The greeting may come first; then the host refuses what it read, and nothing more has to arrive.
        while peer.next().is_some() {}
    }
}
