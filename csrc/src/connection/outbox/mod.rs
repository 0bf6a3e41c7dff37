//! Storey 2: what a server connection still has to send, in the order the protocol promises.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::Value;

use super::ConnectionError;
use crate::replica::{Doc, PeerSync};
use crate::wire::frame;
use crate::wire::FrameType;

/// Frames are moved to the wire buffer only up to this many bytes, so that changes made while a
/// peer is slow coalesce into one sync message instead of piling up.
const WIRE_MARK: usize = 256 * 1024;

/// A request that has no answer on the wire yet.
pub struct Answer {
    token: u64,
    /// Identifier to echo; with it answers may be sent in any order.
    request_id: Option<Value>,
    /// Bytes of the request.
    size: usize,
    body: Option<Vec<u8>>,
}

/// Something that is sent after all changes made before it.
struct InTurn {
    kind: FrameType,
    json: Arc<[u8]>,
    cause: u64,
}

/// Outgoing half of one connection. Order: responses, then the sync message if the document moved,
/// then broadcasts; so a broadcast never overtakes the change it refers to, nor the response of the
/// request that caused it (protocol 2, section 5.5).
pub struct Outbox {
    /// Frames carry a type byte: the notebook channel of protocol 2, which alone has broadcasts.
    typed: bool,
    wire: Vec<u8>,
    /// Bytes at the start of `wire` that were written; dropped when they are many.
    sent: usize,
    answers: VecDeque<Answer>,
    /// Requests without an answer, and their bytes.
    unanswered: (usize, usize),
    ready: VecDeque<Vec<u8>>,
    in_turn: VecDeque<InTurn>,
    queued: usize,
    document_moved: bool,
    /// Replaced, not queued, while the peer does not read.
    latest: Option<Arc<[u8]>>,
    /// The peer does not read any more.
    closed: bool,
    /// The peer reads outputs from the document and wants no broadcasts of them.
    pub(super) omits_outputs: bool,
}

impl Outbox {
    /// `typed`: frames carry a type byte (notebook channel, protocol 2).
    pub fn new(typed: bool) -> Self {
        Self {
            typed,
            wire: Vec::new(),
            sent: 0,
            answers: VecDeque::new(),
            unanswered: (0, 0),
            ready: VecDeque::new(),
            in_turn: VecDeque::new(),
            queued: 0,
            document_moved: false,
            latest: None,
            closed: false,
            omits_outputs: false,
        }
    }

    /// Whether broadcasts of outputs are to be left out.
    pub fn omits_outputs(&self) -> bool {
        self.omits_outputs
    }

    /// Appends an untyped frame to the wire at once (capabilities).
    ///
    /// # Errors
    /// The payload does not fit a frame.
    pub fn raw(&mut self, payload: &[u8]) -> Result<(), ConnectionError> {
        frame::append(&mut self.wire, None, payload).map_err(Into::into)
    }

    /// Notes a request of `size` bytes that must be answered.
    pub fn expect(&mut self, token: u64, request_id: Option<Value>, size: usize) {
        self.answers.push_back(Answer { token, request_id, size, body: None });
        self.unanswered.0 += 1;
        self.unanswered.1 += size;
    }

    /// Number of requests without an answer.
    pub fn unanswered(&self) -> usize {
        self.unanswered.0
    }

    /// Bytes of the requests without an answer.
    pub fn unanswered_bytes(&self) -> usize {
        self.unanswered.1
    }

    /// The peer does not read any more: drops what waits to be sent, and keeps nothing from now on. Requests still have
    /// to be answered.
    pub fn close(&mut self) {
        let unanswered = self.unanswered;
        let answers = std::mem::take(&mut self.answers);
        *self = Self { answers, unanswered, closed: true, ..Self::new(self.typed) };
    }

    /// Answers a request; `false` when the token is unknown or was answered before.
    pub fn respond(&mut self, token: u64, body: &Value) -> bool {
        let Some(place) =
            self.answers.iter().position(|answer| answer.token == token && answer.body.is_none())
        else {
            return false;
        };
        self.unanswered.0 -= 1;
        self.unanswered.1 -= self.answers[place].size;
        if let Some(id) = self.answers[place].request_id.take() {
            let mut body = body.clone();
            if let Some(members) = body.as_object_mut() {
                members.insert("request_id".into(), id);
            }
            self.answers.remove(place);
            self.make_ready(body.to_string().into_bytes());
        } else {
            self.answers[place].body = Some(body.to_string().into_bytes());
            self.release_in_order();
        }
        true
    }

    /// Sends answers without identifiers in the order of their requests.
    fn release_in_order(&mut self) {
        while let Some(place) = self.answers.iter().position(|answer| answer.request_id.is_none()) {
            if self.answers[place].body.is_none() {
                break;
            }
            if let Some(body) = self.answers.remove(place).and_then(|answer| answer.body) {
                self.make_ready(body);
            }
        }
    }

    fn make_ready(&mut self, body: Vec<u8>) {
        if self.closed {
            return;
        }
        self.queued += body.len();
        self.ready.push_back(body);
    }

    /// Queues a broadcast. With a `cause` it waits for the response to that request, and everything
    /// after it waits too.
    pub fn broadcast(&mut self, json: &Arc<[u8]>, cause: u64) {
        if self.typed && !self.closed {
            self.queued += json.len();
            self.in_turn.push_back(InTurn { kind: FrameType::Broadcast, json: Arc::clone(json), cause });
        }
    }

    /// Queues a response that means "you have everything up to here": unlike others it is sent after the changes and
    /// broadcasts before it.
    pub fn respond_in_turn(&mut self, body: &Value) {
        if self.closed {
            return;
        }
        let json: Arc<[u8]> = body.to_string().into_bytes().into();
        self.queued += json.len();
        self.document_moved = true;
        self.in_turn.push_back(InTurn { kind: FrameType::Response, json, cause: 0 });
    }

    /// Sends a value when everything before it was written, and replaces one that still waits: on a channel that sends
    /// only the current value, a slow peer needs no other.
    pub fn send_latest(&mut self, json: &Arc<[u8]>) {
        if !self.closed {
            self.latest = Some(Arc::clone(json));
        }
    }

    /// The document changed, or a sync message has to be answered.
    pub fn document_moved(&mut self) {
        self.document_moved = true;
    }

    /// Bytes of responses and broadcasts not yet on the wire.
    pub fn queued(&self) -> usize {
        self.queued
    }

    /// Moves what may be sent now to the wire buffer.
    ///
    /// # Errors
    /// A message does not fit a frame.
    pub fn fill(&mut self, mut document: Option<(&mut PeerSync, &dyn Doc)>) -> Result<(), ConnectionError> {
        if self.closed {
            return Ok(());
        }
        let response = self.typed.then_some(FrameType::Response);
        while self.wire.len() - self.sent < WIRE_MARK {
            if let Some(body) = self.ready.pop_front() {
                self.queued -= body.len();
                frame::append(&mut self.wire, response, &body)?;
                continue;
            }
            if std::mem::take(&mut self.document_moved) {
                if let Some((sync, replica)) = document.as_mut() {
                    if let Some(message) = sync.generate(*replica) {
                        frame::append(&mut self.wire, self.typed.then_some(FrameType::Sync), &message)?;
                    }
                }
                continue;
            }
            match self.in_turn.front() {
                Some(next)
                    if !self.answers.iter().any(|answer| next.cause != 0 && answer.token == next.cause) =>
                {
                    frame::append(&mut self.wire, Some(next.kind), &next.json)?;
                    self.queued -= next.json.len();
                    self.in_turn.pop_front();
                }
                _ => break,
            }
        }
        if !self.has_output() {
            if let Some(json) = self.latest.take() {
                frame::append(&mut self.wire, None, &json)?;
            }
        }
        Ok(())
    }

    /// Whether bytes wait to be written.
    pub fn has_output(&self) -> bool {
        self.sent < self.wire.len()
    }

    /// The bytes to write; report what was written with [`Outbox::written`].
    pub fn output(&self) -> &[u8] {
        &self.wire[self.sent..]
    }

    /// The first `count` bytes of the output were written.
    pub fn written(&mut self, count: usize) {
        self.sent += count;
        // Moving the rest down only when most is gone keeps a long message linear.
        if self.sent * 2 >= self.wire.len() {
            self.wire.drain(..self.sent);
            self.sent = 0;
        }
    }
}
