//! How much a host reads from a peer whose requests are not answered.

use std::io::Write;

use runtimed_ffi::code::rtd_code::RTD_OK;
use runtimed_ffi::code::rtd_event_kind::*;
use runtimed_ffi::connection::Event;
use runtimed_ffi::drive::{EventSource, Host, HostOptions, Session};
use runtimed_ffi::wire::FrameType;
use serde_json::{json, Value};

mod support;

use support::{host_with, host_with_room, request, until, Peer, Place, Raw};

const MOST: u64 = 1024;

/// The events of everything that had arrived, once the host's thread has processed it.
fn settled(host: &Host, witness: &Session) -> Vec<Event> {
    let mut events = Vec::new();
    // The first answer may come before other sockets were read; with the second they have been.
    for token in [1, 2] {
        witness.request(token, br#"{"action":"get_kernel_info"}"#, None).unwrap();
        loop {
            let event = host.next_event().unwrap();
            let Some(event) = event else {
                host.wait(Some(support::PATIENCE)).unwrap();
                continue;
            };
            let body = serde_json::from_slice::<Value>(&event.payload).unwrap_or_default();
            if body["action"] == "get_kernel_info" {
                host.respond(event.token, &json!({"result": "ok"})).unwrap();
                break;
            }
            events.push(event);
        }
        until(witness, RTD_EV_RESPONSE);
    }
    events
}

fn requests(events: &[Event]) -> Vec<(u64, u64)> {
    let number =
        |event: &Event| serde_json::from_slice::<Value>(&event.payload).unwrap()["n"].as_u64().unwrap();
    let requests = events.iter().filter(|event| event.kind == RTD_EV_REQUEST);
    requests.map(|event| (event.token, number(event))).collect()
}

fn ask(peer: &mut Peer, numbers: std::ops::Range<u64>, padding: &str) {
    for number in numbers {
        let body = json!({"action": "get_queue_state", "n": number, "padding": padding}).to_string();
        peer.send_typed(FrameType::Request, body.as_bytes());
    }
}

fn answer(host: &Host, token: u64) {
    host.respond(token, &json!({"result": "ok"})).unwrap();
}

#[test]
fn a_peer_waits_with_1024_unanswered_requests() {
    let place = Place::new();
    let (host, witness) = host_with_room(&place, "n");
    let mut peer = Peer::join(&place, "n", true);
    ask(&mut peer, 0..MOST + 3, "");
    let seen = requests(&settled(&host, &witness));
    assert_eq!(seen.iter().map(|seen| seen.1).collect::<Vec<_>>(), (0..MOST).collect::<Vec<_>>());
    for (place, next) in (MOST..MOST + 3).enumerate() {
        answer(&host, seen[place].0);
        assert_eq!(requests(&settled(&host, &witness))[0].1, next);
    }
    assert!(requests(&settled(&host, &witness)).is_empty());
    answer(&host, seen[3].0);
    // It is read again, not only what had been read.
    ask(&mut peer, 7777..7778, "");
    assert_eq!(request(&host).1["n"], 7777);
}

/// A host that takes 4000 bytes of requests without an answer.
fn narrow_host(place: &Place) -> (Host, Session) {
    host_with(HostOptions { peer_limit: 4000, watch_changes: true, ..HostOptions::default() }, place, "n")
}

#[test]
fn a_peer_waits_when_what_it_asked_is_large() {
    let place = Place::new();
    let (host, witness) = narrow_host(&place);
    let mut peer = Peer::join(&place, "n", true);
    ask(&mut peer, 0..6, &"x".repeat(1500));
    let seen = requests(&settled(&host, &witness));
    assert_eq!(seen.iter().map(|seen| seen.1).collect::<Vec<_>>(), [0, 1, 2]);
    answer(&host, seen[1].0);
    assert_eq!(requests(&settled(&host, &witness))[0].1, 3);
    answer(&host, seen[0].0);
    assert_eq!(requests(&settled(&host, &witness))[0].1, 4);
}

#[test]
fn nothing_more_is_read_from_a_peer_that_waits_for_answers() {
    let place = Place::new();
    let (host, witness) = narrow_host(&place);
    let mut peer = Peer::join(&place, "n", true);
    ask(&mut peer, 0..3, &"x".repeat(1500));
    assert_eq!(requests(&settled(&host, &witness)).len(), 3);
    // One frame that never ends: far more than the socket takes, and than the host may keep.
    peer.raw.stream.write_all(&(64_u32 << 20).to_be_bytes()).unwrap();
    peer.raw.stream.set_nonblocking(true).unwrap();
    let refused = |peer: &mut Peer| loop {
        match peer.raw.stream.write(&[0; 65_536]) {
            Ok(count) => assert!(count > 0),
            Err(error) => break assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    };
    refused(&mut peer);
    settled(&host, &witness);
    let more = peer.raw.stream.write(&[0; 65_536]);
    assert!(more.is_err(), "the host has read on: {more:?}");
}

#[test]
fn the_cells_that_a_request_means_count_as_well() {
    let place = Place::new();
    let (host, witness) = narrow_host(&place);
    let mut peer = Peer::join(&place, "n", true);
    peer.add("c", &"x".repeat(3000));
    while host.read("n", |notebook| Ok(notebook.cell("c"))).unwrap().is_none() {
        until(&host, RTD_EV_ROOM_CHANGED);
    }
    for number in 0..100 {
        let body = json!({"action": "run_all_cells", "n": number}).to_string();
        peer.send_typed(FrameType::Request, body.as_bytes());
    }
    assert_eq!(requests(&settled(&host, &witness)).len(), 2);
}

#[test]
fn nothing_is_lost_of_a_peer_that_asks_too_much_and_leaves() {
    let place = Place::new();
    let (host, witness) = host_with_room(&place, "n");
    let mut peer = Peer::join(&place, "n", true);
    ask(&mut peer, 0..MOST + 100, "");
    let mut seen = requests(&settled(&host, &witness));
    ask(&mut peer, MOST + 100..MOST + 200, "");
    peer.add("last", "words");
    drop(peer);
    assert!(settled(&host, &witness).iter().all(|event| event.kind != RTD_EV_PEER_LEFT));
    assert!(host.read("n", |notebook| Ok(notebook.cell("last"))).unwrap().is_none());
    // Something is sent to it, which fails.
    host.publish("n", &[], &[json!({"event": "news"})], 0).unwrap();
    let mut answered = 0;
    while answered < MOST + 200 {
        while answered < seen.len() as u64 {
            // It has left for good when the last of its requests was an event.
            let _gone = host.respond(seen[answered as usize].0, &json!({"result": "ok"}));
            answered += 1;
        }
        if answered < MOST + 200 {
            let (token, body) = request(&host);
            seen.push((token, body["n"].as_u64().unwrap()));
        }
    }
    let left = until(&host, RTD_EV_PEER_LEFT);
    assert_eq!((left.id.as_str(), left.code), ("n", RTD_OK as i32));
    assert_eq!(seen.iter().map(|seen| seen.1).collect::<Vec<_>>(), (0..MOST + 200).collect::<Vec<_>>());
    assert_eq!(host.read("n", |notebook| Ok(notebook.source("last"))).unwrap().unwrap(), "words");
}

#[test]
fn blobs_wait_as_well() {
    let place = Place::new();
    let (host, witness) = narrow_host(&place);
    let mut blobs = Raw::open(&place.socket(), r#"{"channel":"blob"}"#);
    for number in 0..4 {
        blobs.send(br#"{"action":"store","media_type":"image/png"}"#);
        blobs.send(&[number; 3000]);
    }
    let seen: Vec<Event> =
        settled(&host, &witness).into_iter().filter(|event| event.kind == RTD_EV_REQUEST).collect();
    assert_eq!(seen.iter().map(|event| event.payload[0]).collect::<Vec<_>>(), [0, 1]);
    drop(blobs);
    answer(&host, seen[0].token);
    let next = until(&host, RTD_EV_REQUEST);
    assert_eq!(next.payload, [2; 3000]);
    answer(&host, next.token);
    assert_eq!(until(&host, RTD_EV_REQUEST).payload, [3; 3000]);
}
