//! A server connection and what a peer may send it, on every channel. Invariants:
//! - any cut of the stream gives the same events, the same document and the same answers;
//! - an error is typed, and the connection stays in error whatever comes then;
//! - the handshake comes first and once; only events of its channel follow;
//! - every request of a notebook is reported or answered, in order, once; a response carries the identifier of its
//!   request, those without one leave in the order of the requests; no broadcast leaves before the response that it
//!   waits for;
//! - what the server sends are whole frames, and the document is one that can be read, saved and loaded.

use std::sync::Arc;

use runtimed_ffi::code::rtd_channel::*;
use runtimed_ffi::connection::{Event, Server, ServerEvent};
use runtimed_ffi::notebook::Notebook;
use runtimed_ffi::replica::PeerSync;
use runtimed_ffi::wire::frame::{self, Decoder, DATA_LIMIT};
use runtimed_ffi::wire::handshake::{Channel, Protocol};
use runtimed_ffi::wire::typed::split;
use runtimed_ffi::wire::v2::Request;
use runtimed_ffi::wire::{FrameType, Message};
use serde_json::{json, Map, Value};

use super::document::{edit, empty_replica, examine, fix_checksums, room};
use super::script::{first, pieces, steps};

const HANDSHAKES: [&str; 7] = [
    r#"{"channel":"notebook_sync","notebook_id":"n","protocol":"v2","rtd":1}"#,
    r#"{"channel":"notebook_sync","notebook_id":"n","protocol":"v2"}"#,
    r#"{"channel":"notebook_sync","notebook_id":"n"}"#,
    r#"{"channel":"pool"}"#,
    r#"{"channel":"blob"}"#,
    r#"{"channel":"settings_sync"}"#,
    r#"{"channel":"pool_state_subscribe"}"#,
];

/// One byte for what is compared and the size of the pieces, one for the handshake or for none; then a script.
pub fn check(data: &[u8]) {
    let (flags, rest) = first(data);
    let (hello, script) = first(rest);
    let hello = HANDSHAKES.get(usize::from(hello % 8)).copied();
    let steps = steps(script);
    let whole = Play::of(hello, &steps, 0);
    if flags & 1 != 0 {
        examine(&whole.room);
    }
    if flags & 2 == 0 {
        return;
    }
    let cut = Play::of(hello, &steps, (flags >> 2).max(1));
    assert_eq!(cut.events, whole.events);
    assert_eq!(cut.sent, whole.sent);
    assert_eq!(cut.room.heads(), whole.room.heads());
}

struct Play {
    server: Server,
    room: Notebook,
    /// A correct peer, for the steps in which it sends messages.
    peer: (Notebook, PeerSync),
    of_peer: Decoder,
    channel: Option<Channel>,
    events: Vec<String>,
    sent: Vec<u8>,
    /// Identifiers of the requests that were reported. The token is the position, counted from one.
    reported: Vec<Option<Value>>,
    answered: Vec<u64>,
    /// Requests the peer made, as far as its frames are requests, and those among them that ask the library.
    made: usize,
    barriers: usize,
    raw: bool,
    failed: bool,
}

impl Play {
    fn of(hello: Option<&str>, steps: &[(u8, &[u8])], size: u8) -> Self {
        let mut play = Self {
            server: Server::new(),
            room: room(2),
            peer: (empty_replica(1), PeerSync::new()),
            of_peer: Decoder::new(DATA_LIMIT),
            channel: None,
            events: Vec::new(),
            sent: Vec::new(),
            reported: Vec::new(),
            answered: Vec::new(),
            made: 0,
            barriers: 0,
            raw: false,
            failed: false,
        };
        if let Some(hello) = hello {
            let stream = frame::encode(hello.as_bytes()).unwrap();
            play.receive(&stream, size);
        }
        for (what, with) in steps {
            let stream = play.step(*what, with);
            play.receive(&stream, size);
            play.write();
        }
        play.finish();
        play
    }

    fn typed(&self) -> bool {
        self.channel.as_ref().is_some_and(|channel| channel.protocol() == Protocol::V2)
    }

    /// Does one step; gives the bytes the peer sends in it.
    fn step(&mut self, what: u8, with: &[u8]) -> Vec<u8> {
        let mut stream = Vec::new();
        let mut send = |kind: FrameType, body: &[u8]| stream.extend(frame::encode_typed(kind, body).unwrap());
        match what % 16 {
            0 => stream.extend(frame::encode(with).unwrap()),
            1 => send(FrameType::Sync, with),
            2 => {
                let mut message = with.to_vec();
                fix_checksums(&mut message);
                send(FrameType::Sync, &message);
            }
            3 => {
                send(FrameType::Request, with);
                self.request(with);
            }
            4 => {
                let (id, rest) = first(with);
                let mut body = json!({"action": "get_queue_state"});
                if id < 128 {
                    body["request_id"] = id.into();
                }
                if !rest.is_empty() {
                    body["sync"] = true.into();
                }
                let body = body.to_string();
                send(FrameType::Request, body.as_bytes());
                self.request(body.as_bytes());
            }
            5 => send(FrameType::Response, with),
            6 => send(FrameType::Broadcast, with),
            7 => {
                self.raw = true;
                stream.extend(with);
            }
            8 => {
                let op = edit(&self.room, with);
                if self.room.edit(&[op]).is_ok_and(|changed| changed) {
                    self.server.outbox.document_moved();
                }
            }
            9 => {
                let op = edit(&self.peer.0, with);
                if self.peer.0.edit(&[op]).is_ok() {
                    stream.extend(self.peer_speaks());
                }
            }
            10 => {
                self.peer_listens();
                stream.extend(self.peer_speaks());
            }
            11 => self.answer(first(with).0),
            12 => {
                let cause = u64::from(first(with).0) % (self.reported.len() as u64 + 1);
                let json = json!({"event": "e", "cause": cause}).to_string();
                self.server.outbox.broadcast(&Arc::from(json.into_bytes()), cause);
            }
            13 => {
                self.server.stop_deferring();
                assert!(!self.server.is_deferring());
            }
            14 if matches!(self.channel, Some(Channel::PoolState)) => {
                self.server.outbox.send_latest(&Arc::from(&br#"{"state":1}"#[..]));
            }
            14 => {}
            _ => {
                // A change that is announced and withheld, as a Bloom filter may do.
                let op = edit(&self.peer.0, with);
                if self.peer.0.edit(&[op]).is_ok() {
                    send(FrameType::Sync, &runtimed_ffi::replica::barrier(&self.peer.0));
                }
            }
        }
        stream
    }

    fn request(&mut self, body: &[u8]) {
        let Ok(request) = Message::<Request>::parse(body) else { return };
        self.made += 1;
        self.barriers += usize::from(request.extra.get("sync") == Some(&Value::Bool(true)));
    }

    fn peer_speaks(&mut self) -> Vec<u8> {
        match self.peer.1.generate(&self.peer.0) {
            Some(message) if self.typed() => frame::encode_typed(FrameType::Sync, &message).unwrap(),
            Some(message) => frame::encode(&message).unwrap(),
            None => Vec::new(),
        }
    }

    fn peer_listens(&mut self) {
        while let Some(payload) = self.of_peer.next_frame().unwrap() {
            let message = match split(&payload) {
                Ok((FrameType::Sync, body)) if self.typed() => body,
                _ if self.typed() => continue,
                _ => &payload[..],
            };
            // What the script made the server believe may not apply here; that is an error like any other.
            let _refused = self.peer.1.receive(&mut self.peer.0, message);
        }
    }

    fn answer(&mut self, which: u8) {
        let open: Vec<u64> =
            (1..=self.reported.len() as u64).filter(|token| !self.answered.contains(token)).collect();
        assert_eq!(self.server.outbox.unanswered(), open.len());
        let Some(token) = open.get(usize::from(which) % open.len().max(1)) else { return };
        assert!(self.server.outbox.respond(*token, &json!({"result": "ok", "token": token})));
        assert!(!self.server.outbox.respond(*token, &json!({})), "a request is answered once");
        self.answered.push(*token);
    }

    fn receive(&mut self, stream: &[u8], size: u8) {
        for piece in pieces(stream, size) {
            self.server.push(piece);
            self.drain();
        }
        self.drain();
    }

    fn drain(&mut self) {
        loop {
            match self.server.next(Some(&mut self.room)) {
                Ok(None) => break assert!(!self.failed, "it recovered"),
                Ok(Some(event)) => {
                    // Requests that had come before the error may still be reported.
                    assert!(!self.failed || matches!(event, ServerEvent::Request(_)));
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

    fn event(&mut self, event: ServerEvent) {
        self.events.push(format!("{event:?}"));
        assert_eq!(self.channel.is_none(), matches!(event, ServerEvent::Handshake(_)), "{event:?}");
        let channel = self.channel.as_ref();
        match event {
            ServerEvent::Handshake(handshake) => {
                let documents = matches!(handshake.channel, Channel::Notebook { .. } | Channel::SettingsSync);
                assert_eq!(self.server.is_waiting(), documents);
                self.channel = Some(handshake.channel);
                if documents {
                    self.server.join(&Map::new()).unwrap();
                    assert!(!self.server.is_waiting());
                }
            }
            ServerEvent::Synced(_) => {
                assert!(matches!(channel, Some(Channel::Notebook { .. } | Channel::SettingsSync)));
            }
            ServerEvent::Request(request) if request.channel == RTD_CHANNEL_NOTEBOOK => {
                assert!(self.typed());
                let body: Value = serde_json::from_slice(&request.body).expect("a request is JSON");
                assert_eq!(body.get("request_id"), request.request_id.as_ref());
                let request_id = request.request_id.clone();
                let (token, body) = (self.reported.len() as u64 + 1, request.body.clone());
                let event = self.server.expect(token, request);
                assert_eq!(event, Event::request(RTD_CHANNEL_NOTEBOOK, token, String::new(), body));
                self.reported.push(request_id);
            }
            ServerEvent::Request(request) if request.channel == RTD_CHANNEL_POOL => {
                assert!(matches!(channel, Some(Channel::Pool)));
                serde_json::from_slice::<Value>(&request.body).expect("a request is JSON");
            }
            ServerEvent::Request(request) => {
                assert_eq!(request.channel, RTD_CHANNEL_BLOB);
                assert!(matches!(channel, Some(Channel::Blob)));
            }
        }
    }

    /// Writes what is to be sent, a few bytes and then the rest.
    fn write(&mut self) {
        self.server.fill(Some(&self.room)).unwrap();
        while self.server.outbox.has_output() {
            let out = self.server.outbox.output();
            let count = out.len().min(if self.sent.len() & 1 == 0 { 3 } else { out.len() });
            self.sent.extend(&out[..count]);
            self.of_peer.push(&out[..count]);
            self.server.outbox.written(count);
        }
    }

    fn finish(&mut self) {
        self.server.stop_deferring();
        self.drain();
        self.write();
        if self.typed() && !self.raw && !self.failed {
            assert_eq!(self.reported.len() + self.barriers, self.made, "a request was lost");
        }
        let mut decoder = Decoder::new(DATA_LIMIT);
        decoder.push(&self.sent);
        let (mut seen, mut in_order): (Vec<u64>, u64) = (Vec::new(), 0);
        let mut frames = 0;
        while let Some(payload) = decoder.next_frame().unwrap() {
            frames += 1;
            // The first frame of version 2 are the capabilities, untyped; other channels have no types.
            if !self.typed() || frames == 1 {
                continue;
            }
            let (kind, body) = split(&payload).unwrap();
            match kind {
                FrameType::Sync => {}
                FrameType::Request => panic!("a server has no requests"),
                FrameType::Response => {
                    let body: Value = serde_json::from_slice(body).unwrap();
                    let Some(token) = body["token"].as_u64() else { continue };
                    assert!(!seen.contains(&token), "{token} is answered twice");
                    seen.push(token);
                    let id = &self.reported[token as usize - 1];
                    assert_eq!(body.get("request_id"), id.as_ref());
                    if id.is_none() {
                        assert!(token > in_order, "{token} overtook another");
                        in_order = token;
                    }
                }
                FrameType::Broadcast => {
                    let body: Value = serde_json::from_slice(body).unwrap();
                    let cause = body["cause"].as_u64().unwrap();
                    assert!(cause == 0 || seen.contains(&cause), "a broadcast overtook its response");
                }
            }
        }
        assert_eq!(decoder.finish(), Ok(()));
        let _cut_off = self.server.eof();
        assert!(self.server.next(Some(&mut self.room)).is_err(), "the end is final");
    }
}
