//! A host and peers that are nothing but sockets: what is sent to one peer only, and what strangers may not do.

mod support;

use runtimed_ffi::drive::{EventKind, Host, HostOptions, Session, SessionOptions};
use runtimed_ffi::notebook::{Notebook, Op, PeerSync};
use runtimed_ffi::wire::FrameType;
use serde_json::{json, Value};
use support::{until, Place, Raw};

const V2: &str = r#"{"channel":"notebook_sync","notebook_id":"n","protocol":"v2"}"#;
const V1: &str = r#"{"channel":"notebook_sync","notebook_id":"n"}"#;

fn open(place: &Place) -> Host {
    let host = Host::open(&place.socket(), HostOptions::default()).unwrap();
    host.open_room("n", None).unwrap();
    host
}

#[test]
fn what_is_sent_to_one_peer_follows_the_changes_before_it_and_reaches_nobody_else() {
    let place = Place::new();
    let host = open(&place);
    let other = Session::open(&place.socket(), "n", SessionOptions::default()).unwrap();
    until(&other, EventKind::Ready);
    until(&host, EventKind::PeerJoined);
    let mut peer = Raw::open(&place.socket(), V2);
    let number = until(&host, EventKind::PeerJoined).peer;

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
            // What it speaks of was announced before it, at the latest in the frame before.
            assert!(sync.their_heads().is_some_and(|heads| !heads.is_empty()));
            broadcasts.push(body["event"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(broadcasts, ["comm_sync", "kernel_error"]);
    let seen: Value = serde_json::from_slice(&until(&other, EventKind::Broadcast).payload).unwrap();
    assert_eq!(seen["event"], "kernel_error", "only its own peer gets what is sent to it");
}

#[test]
fn nothing_can_be_sent_to_a_peer_that_is_in_no_room() {
    let place = Place::new();
    let host = open(&place);
    assert!(host.send(1, &json!({"event": "x"})).is_err());
    let peer = Raw::open(&place.socket(), V2);
    let number = until(&host, EventKind::PeerJoined).peer;
    drop(peer);
    until(&host, EventKind::PeerLeft);
    let error = host.send(number, &json!({"event": "x"})).unwrap_err();
    assert_eq!(error.to_string(), format!("no such peer in a room: {number}"));
    // Version 1 has no broadcasts; sending to such a peer is no error.
    let _old = Raw::open(&place.socket(), V1);
    let number = until(&host, EventKind::PeerJoined).peer;
    host.send(number, &json!({"event": "x"})).unwrap();
}
