//! A change that takes long holds up its own room only, and nothing of what waits behind it is lost.

mod support;

use std::collections::BTreeSet;

use runtimed_ffi::code::rtd_event_kind::*;
use runtimed_ffi::connection::Event;
use runtimed_ffi::drive::{EventSource, Host, HostOptions};
use runtimed_ffi::notebook::Notebook;
use runtimed_ffi::wire::FrameType;
use serde_json::json;
use support::{until, Peer, Place};

/// Characters that take the engine seconds, not milliseconds.
const LARGE: usize = 400_000;
/// Round trips that take milliseconds, not seconds.
const TRIPS: usize = 20;

/// Joins a room as a peer and waits for its event.
fn join(place: &Place, host: &Host, room: &str) -> Peer {
    let peer = Peer::join(place, room, false);
    until(host, RTD_EV_PEER_JOINED);
    peer
}

impl Peer {
    /// Sends a request and has it answered by the host; the events before it go to `others`.
    fn trip(&mut self, host: &Host, others: &mut Vec<Event>) {
        self.send_typed(FrameType::Request, br#"{"action":"get_queue_state"}"#);
        loop {
            let event = next(host);
            if event.kind == RTD_EV_REQUEST {
                host.respond(event.token, &json!({"result": "queue_state"})).unwrap();
                break;
            }
            others.push(event);
        }
        while self.raw.frame()[0] != FrameType::Response as u8 {}
    }
}

fn next(host: &Host) -> Event {
    loop {
        if let Some(event) = host.next_event().unwrap() {
            return event;
        }
        host.wait(Some(support::PATIENCE)).unwrap();
    }
}

fn open(place: &Place) -> Host {
    let options = HostOptions { watch_changes: true, ..HostOptions::default() };
    let host = Host::open(&place.socket(), options).unwrap();
    host.open_room("slow", Some(&place.0.join("slow.automerge"))).unwrap();
    host.open_room("quick", None).unwrap();
    host
}

/// Whether the long change was done by then.
fn done(events: &[Event]) -> bool {
    let large = |event: &Event| String::from_utf8_lossy(&event.payload).contains("large");
    events.iter().any(|event| event.kind == RTD_EV_ROOM_CHANGED && large(event))
}

#[test]
fn a_long_change_holds_up_its_own_room_only() {
    let place = Place::new();
    let host = open(&place);
    let mut author = join(&place, &host, "slow");
    let mut neighbour = join(&place, &host, "slow");
    let mut other = join(&place, &host, "quick");

    author.add("large", &"é\n".repeat(LARGE / 2));
    neighbour.add("small", "1");
    let mut events = Vec::new();
    for _ in 0..TRIPS {
        other.trip(&host, &mut events);
    }
    assert!(!done(&events), "others had to wait for the long change");

    // The room itself goes on as soon as it can.
    let mut late = join(&place, &host, "slow");
    let all = BTreeSet::from(["large".to_owned(), "small".to_owned()]);
    for peer in [&mut author, &mut neighbour, &mut late] {
        while peer.replica.cell_ids().iter().cloned().collect::<BTreeSet<_>>() != all {
            peer.receive();
        }
    }
    assert_eq!(late.replica.source("large").unwrap().chars().count(), LARGE);
    assert_eq!(host.read("slow", |notebook| Ok(notebook.cells())).unwrap().len(), 2);
}

#[test]
fn a_host_can_be_closed_in_the_middle_of_a_long_change() {
    let place = Place::new();
    let host = open(&place);
    let mut author = join(&place, &host, "slow");
    let mut other = join(&place, &host, "quick");
    author.add("large", &"é\n".repeat(LARGE / 2));
    other.trip(&host, &mut Vec::new());
    drop(host);
    let journal = place.0.join("slow.automerge");
    let saved = std::fs::read(&journal).unwrap();
    let notebook = Notebook::load(&saved).unwrap();
    assert!(notebook.cell_ids().is_empty() || notebook.source("large").unwrap().chars().count() == LARGE);
    author.raw.stream.set_nonblocking(false).unwrap();
    while author.raw.next().is_some() {}
    assert_eq!(std::fs::read(&journal).unwrap(), saved, "nothing is written after the end");
}
