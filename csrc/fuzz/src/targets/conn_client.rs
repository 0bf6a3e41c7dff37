//! A client connection and what a daemon may send it. Invariants:
//! - any cut of the stream gives the same events, the same document and the same answers;
//! - an error is typed, and the connection stays in error whatever comes then;
//! - ready comes once at most, with the capabilities; each response answers a request that was made, once;
//!   broadcasts come in their order and none is lost;
//! - what the client sends are whole frames: a handshake, then sync messages and requests;
//! - the document is one that can be read, saved and loaded.

use runtimed_ffi::code::rtd_event_kind::*;
use runtimed_ffi::connection::{Client, Dialect, Event};
use runtimed_ffi::notebook::Notebook;
use runtimed_ffi::replica::PeerSync;
use runtimed_ffi::wire::frame::{self, Decoder, DATA_LIMIT};
use runtimed_ffi::wire::handshake::Handshake;
use runtimed_ffi::wire::typed::split;
use runtimed_ffi::wire::FrameType;
use serde_json::{json, Map, Value};

use super::document::{edit, empty_replica, examine, fix_checksums, room};
use super::script::{first, pieces, steps};

/// One byte for what is compared and the size of the pieces, then a script.
pub fn check(data: &[u8]) {
    let (flags, script) = first(data);
    let steps = steps(script);
    let whole = Play::of(&steps, 0);
    if flags & 1 != 0 {
        examine(&whole.replica);
    }
    if flags & 2 == 0 {
        return;
    }
    let cut = Play::of(&steps, (flags >> 2).max(1));
    assert_eq!(cut.events, whole.events);
    assert_eq!(cut.sent, whole.sent);
    assert_eq!(cut.replica.heads(), whole.replica.heads());
}

struct Play {
    client: Client,
    replica: Notebook,
    /// A correct daemon, for the steps in which it sends messages.
    daemon: (Notebook, PeerSync),
    of_daemon: Decoder,
    events: Vec<String>,
    sent: Vec<u8>,
    seen: Seen,
    now: u64,
    failed: bool,
}

/// What was pushed as whole frames and what came of it.
#[derive(Default)]
struct Seen {
    broadcasts: Vec<Vec<u8>>,
    /// Whether the script wrote broadcasts in another way, or bytes that are no frames: what they become is not
    /// counted.
    raw: bool,
    delivered: usize,
    requests: Vec<u64>,
    responses: Vec<u64>,
    ready: bool,
}

impl Play {
    fn of(steps: &[(u8, &[u8])], size: u8) -> Self {
        let mut play = Self {
            client: Client::new("n").unwrap(),
            replica: empty_replica(1),
            daemon: (room(2), PeerSync::new()),
            of_daemon: Decoder::new(DATA_LIMIT),
            events: Vec::new(),
            sent: Vec::new(),
            seen: Seen::default(),
            now: 0,
            failed: false,
        };
        for (what, with) in steps {
            let stream = play.step(*what, with);
            play.receive(&stream, size);
            play.take_output();
        }
        play.finish();
        play
    }

    /// Does one step; gives the bytes the daemon sends in it.
    fn step(&mut self, what: u8, with: &[u8]) -> Vec<u8> {
        let mut stream = Vec::new();
        match what % 14 {
            0 => {
                // A frame of any kind may be a broadcast.
                self.seen.raw |= with.first() == Some(&(FrameType::Broadcast as u8));
                stream.extend(frame::encode(with).unwrap());
            }
            1 => stream.extend(frame::encode_typed(FrameType::Sync, with).unwrap()),
            2 => {
                let mut message = with.to_vec();
                fix_checksums(&mut message);
                stream.extend(frame::encode_typed(FrameType::Sync, &message).unwrap());
            }
            3 => stream.extend(frame::encode_typed(FrameType::Response, with).unwrap()),
            4 => {
                self.seen.broadcasts.push(with.to_vec());
                stream.extend(frame::encode_typed(FrameType::Broadcast, with).unwrap());
            }
            5 => stream.extend(frame::encode_typed(FrameType::Request, with).unwrap()),
            6 => {
                self.seen.raw = true;
                stream.extend(with);
            }
            7 => {
                let op = edit(&self.replica, with);
                if self.replica.edit(&[op]).is_ok_and(|changed| changed) {
                    self.client.push_changes(&self.replica).unwrap();
                }
            }
            8 => {
                let body = Map::from_iter([("action".to_owned(), json!("get_queue_state"))]);
                if let Ok(id) = self.client.request(body) {
                    assert_eq!(id, 1 + self.seen.requests.len() as u64);
                    self.seen.requests.push(id);
                } else {
                    assert!(!self.client.dialect().typed());
                }
            }
            9 => {
                self.now += u64::from(first(with).0);
                self.client.tick(&self.replica, self.now).unwrap();
                assert!(self.client.deadline().is_none_or(|at| at > self.now), "due and not done");
            }
            10 => self.client.barrier(&self.replica).unwrap(),
            11 => {
                let op = edit(&self.daemon.0, with);
                // An edit that makes no sense is no edit.
                let _refused = self.daemon.0.edit(&[op]);
                stream.extend(self.daemon_speaks());
            }
            12 => {
                self.daemon_listens();
                stream.extend(self.daemon_speaks());
            }
            _ => {
                let capabilities = if with.is_empty() {
                    json!({"protocol": "v2", "rtd": 1})
                } else {
                    json!({"protocol": "v2"})
                };
                stream.extend(frame::encode(capabilities.to_string().as_bytes()).unwrap());
            }
        }
        stream
    }

    fn daemon_speaks(&mut self) -> Vec<u8> {
        let typed = self.client.dialect().typed();
        match self.daemon.1.generate(&self.daemon.0) {
            Some(message) if typed => frame::encode_typed(FrameType::Sync, &message).unwrap(),
            Some(message) => frame::encode(&message).unwrap(),
            None => Vec::new(),
        }
    }

    fn daemon_listens(&mut self) {
        while let Some(payload) = self.of_daemon.next_frame().unwrap() {
            let message = match split(&payload) {
                Ok((FrameType::Sync, body)) if self.client.dialect().typed() => body,
                _ if !self.client.dialect().typed() && payload[0] != b'{' => &payload[..],
                _ => continue,
            };
            // What the script made the client believe may not apply here; that is an error like any other.
            let _refused = self.daemon.1.receive(&mut self.daemon.0, message);
        }
    }

    fn receive(&mut self, stream: &[u8], size: u8) {
        for piece in pieces(stream, size) {
            self.client.push(piece);
            loop {
                match self.client.next(&mut self.replica, self.now) {
                    Ok(None) => break assert!(!self.failed, "it recovered"),
                    Ok(Some(event)) => {
                        assert!(!self.failed, "an event behind an error");
                        self.event(event);
                    }
                    Err(error) => {
                        if !std::mem::replace(&mut self.failed, true) {
                            self.events.push(error.to_string());
                        }
                        break;
                    }
                }
            }
        }
    }

    fn event(&mut self, event: Event) {
        self.events.push(format!("{event:?}"));
        assert!(self.client.dialect() != Dialect::Sync1 || self.client.capabilities().is_empty());
        match event.kind {
            RTD_EV_READY => {
                assert!(!std::mem::replace(&mut self.seen.ready, true));
                assert!(self.client.is_ready());
                let capabilities: Value =
                    serde_json::from_slice(&event.payload).expect("capabilities are JSON");
                assert_eq!(capabilities, Value::Object(self.client.capabilities().clone()));
            }
            RTD_EV_CHANGED => {
                let outputs = self.client.take_output_changes();
                let nothing = br#"{"cells":[],"order":false,"metadata":false}"#;
                assert!(self.seen.ready && !(outputs.is_empty() && event.rendered().payload == nothing));
                self.events.push(format!("{outputs:?}"));
            }
            RTD_EV_RESPONSE => {
                let id = event.token;
                assert!(self.seen.requests.contains(&id), "{id} was not requested");
                assert!(!self.seen.responses.contains(&id), "{id} is answered twice");
                let body: Value = serde_json::from_slice(&event.payload).expect("a response is JSON");
                // With an identifier it is that of its request.
                assert!(body.get("request_id").and_then(Value::as_u64).is_none_or(|named| named == id));
                self.seen.responses.push(id);
            }
            _ => {
                assert_eq!(event.kind, RTD_EV_BROADCAST);
                if !self.seen.raw {
                    assert_eq!(event.payload, self.seen.broadcasts[self.seen.delivered]);
                }
                self.seen.delivered += 1;
            }
        }
    }

    fn take_output(&mut self) {
        let mut out = Vec::new();
        self.client.take_output(&mut out);
        self.of_daemon.push(&out);
        self.sent.extend(out);
    }

    fn finish(&mut self) {
        let seen = &self.seen;
        assert_eq!(self.client.pending_requests(), seen.requests.len() - seen.responses.len());
        let held = self.client.dialect().broadcasts_follow_changes() && self.client.missing(&self.replica);
        let typed = self.client.dialect().typed();
        if !(seen.raw || held || self.failed) && typed && seen.ready {
            assert_eq!(seen.delivered, seen.broadcasts.len(), "a broadcast was lost");
        }
        let mut decoder = Decoder::new(DATA_LIMIT);
        decoder.push(&self.sent);
        if let Some(hello) = decoder.next_frame().unwrap() {
            Handshake::parse(&hello).unwrap();
        }
        while let Some(payload) = decoder.next_frame().unwrap() {
            // Before the daemon's first frame the client takes it for one of version 2.
            match split(&payload) {
                Ok((FrameType::Sync, _)) => {}
                Ok((FrameType::Request, body)) => {
                    let body: Value = serde_json::from_slice(body).unwrap();
                    assert!(body["request_id"].is_u64());
                }
                _ => assert!(!typed, "{payload:?}"),
            }
        }
        assert_eq!(decoder.finish(), Ok(()));
        while matches!(self.client.next(&mut self.replica, self.now), Ok(Some(_))) {}
        let _cut_off = self.client.eof();
        assert!(self.client.next(&mut self.replica, self.now).is_err(), "the end is final");
    }
}
