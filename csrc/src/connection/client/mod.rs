//! Storey 2: the client side of a notebook connection.
//!
//! | State | A frame comes | Next state | Events |
//! |---|---|---|---|
//! | `AwaitingCapabilities` | the first one | `Joining` | none; the [`Dialect`] is known |
//! | `Joining` | sync, changes still missing | `Joining` | none |
//! | `Joining` | sync, nothing missing | `Live` | READY |
//! | `Live` | sync | `Live` | CHANGED, then the broadcasts that waited for it |
//! | `Joining`, `Live` | response | same | RESPONSE |
//! | `Joining`, `Live` | broadcast | same | BROADCAST, unless it waits for changes |
//! | any | a frame that breaks the protocol, or the end of the stream | `Failed` | none, now and later |

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use serde_json::{json, Map, Value};

use super::dialect::{Dialect, OURS, OUTPUTS, OUTPUTS_IN_DOCUMENT};
use super::{ConnectionError, Event, Millis};
use crate::code::rtd_event_kind::*;
use crate::notebook::{Notebook, OutputChange};
use crate::replica::{barrier, PeerSync};
use crate::wire::frame::{self, Decoder, DATA_LIMIT};
use crate::wire::handshake::{first_frame, Channel, FirstFrame, Handshake};
use crate::wire::typed::split;
use crate::wire::{FrameError, FrameType, MessageError};

/// An acknowledgement waits until nothing arrived for this long, so that a burst of changes costs one
/// answer (protocol 2, section 14.1 item 4) ...
const ACK_QUIET: Millis = 20;
/// ... but never longer than this after the first change it answers.
const ACK_LIMIT: Millis = 200;
/// Bytes of broadcasts that wait for an announced change, with their overhead in memory. A daemon that
/// sent so many without the change will not send it.
const HELD_LIMIT: usize = 64 * 1024 * 1024;

#[derive(Debug, PartialEq, Eq)]
enum State {
    AwaitingCapabilities,
    Joining,
    Live,
    Failed,
}

/// A client connection of one room: handshake, negotiation, document sync, requests, broadcasts.
pub struct Client {
    decoder: Decoder,
    state: State,
    dialect: Dialect,
    capabilities: Map<String, Value>,
    sync: PeerSync,
    /// Ids of the requests without a response, in their order.
    pending: VecDeque<u64>,
    next_request_id: u64,
    /// Broadcasts that wait for announced changes.
    held: VecDeque<Vec<u8>>,
    held_bytes: usize,
    ack_since: Option<Millis>,
    ack_at: Option<Millis>,
    ready_events: VecDeque<Event>,
    output_changes: Vec<OutputChange>,
    out: Vec<u8>,
}

impl Client {
    /// A connection that asks for protocol 2; the handshake is in the output at once.
    ///
    /// # Errors
    /// `TooLarge` when the notebook id does not fit a control frame.
    pub fn new(notebook_id: &str) -> Result<Self, ConnectionError> {
        Self::open(notebook_id, Map::from_iter([(OURS.into(), json!(1))]))
    }

    /// The same for an owner that reads outputs from the document: a daemon of ours then sends no broadcasts of them.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn without_output_broadcasts(notebook_id: &str) -> Result<Self, ConnectionError> {
        let members = [(OURS.into(), json!(1)), (OUTPUTS.into(), json!(OUTPUTS_IN_DOCUMENT))];
        Self::open(notebook_id, Map::from_iter(members))
    }

    fn open(notebook_id: &str, extra: Map<String, Value>) -> Result<Self, ConnectionError> {
        let channel = Channel::Notebook { notebook_id: notebook_id.into(), protocol: Some("v2".into()) };
        let hello = Handshake { channel, extra }.to_json();
        if hello.len() > frame::CONTROL_LIMIT {
            let announced = hello.len() as u64;
            return Err(FrameError::TooLarge { announced, limit: frame::CONTROL_LIMIT }.into());
        }
        let mut out = Vec::new();
        frame::append(&mut out, None, &hello)?;
        Ok(Self {
            decoder: Decoder::new(DATA_LIMIT),
            state: State::AwaitingCapabilities,
            dialect: Dialect::Reference2,
            capabilities: Map::new(),
            sync: PeerSync::new(),
            pending: VecDeque::new(),
            next_request_id: 1,
            held: VecDeque::new(),
            held_bytes: 0,
            ack_since: None,
            ack_at: None,
            ready_events: VecDeque::new(),
            output_changes: Vec::new(),
            out,
        })
    }

    /// The daemon; meaningful once its first frame was received.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// The daemon's capabilities; without members before its first frame, and for a daemon of protocol 1.
    pub fn capabilities(&self) -> &Map<String, Value> {
        &self.capabilities
    }

    /// Whether the first synchronisation is complete.
    pub fn is_ready(&self) -> bool {
        self.state == State::Live
    }

    /// Whether the daemon announced changes that the replica does not have yet.
    pub fn missing(&self, notebook: &Notebook) -> bool {
        self.sync.missing(notebook)
    }

    /// Whether the daemon has every local change and we have every change it announced; it need not
    /// know yet that we have them.
    pub fn agrees(&self, notebook: &Notebook) -> bool {
        !self.sync.missing(notebook) && self.sync.acknowledged(notebook)
    }

    /// Whether the daemon has every local change, by its own announcement.
    pub fn acknowledged(&self, notebook: &Notebook) -> bool {
        self.sync.acknowledged(notebook)
    }

    /// Number of requests without a response.
    pub fn pending_requests(&self) -> usize {
        self.pending.len()
    }

    /// Takes bytes from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
    }

    /// The changes of outputs that came with the latest CHANGED event.
    pub fn take_output_changes(&mut self) -> Vec<OutputChange> {
        std::mem::take(&mut self.output_changes)
    }

    /// The next event, `None` when more bytes are needed: READY, CHANGED, RESPONSE with the id that
    /// [`Client::request`] gave as its token, or BROADCAST. JSON is as it was received.
    ///
    /// # Errors
    /// The peer broke the protocol; the connection stays failed.
    pub fn next(&mut self, notebook: &mut Notebook, now: Millis) -> Result<Option<Event>, ConnectionError> {
        loop {
            if let Some(event) = self.ready_events.pop_front() {
                return Ok(Some(event));
            }
            if self.state == State::Failed {
                return Err(ConnectionError::Unexpected("the connection has failed".into()));
            }
            let result = match self.decoder.next_frame() {
                Ok(None) => return Ok(None),
                Ok(Some(payload)) => self.frame(&payload, notebook, now),
                Err(error) => Err(error.into()),
            };
            if let Err(error) = result {
                self.state = State::Failed;
                // Drop events of the frame that failed.
                self.ready_events.clear();
                return Err(error);
            }
        }
    }

    /// The stream ended.
    ///
    /// # Errors
    /// It ended inside a frame.
    pub fn eof(&mut self) -> Result<(), ConnectionError> {
        self.state = State::Failed;
        self.decoder.finish().map_err(Into::into)
    }

    fn frame(&mut self, payload: &[u8], notebook: &mut Notebook, now: Millis) -> Result<(), ConnectionError> {
        if self.state == State::AwaitingCapabilities {
            self.state = State::Joining;
            let first = first_frame(payload);
            self.dialect = Dialect::of(&first);
            return match first {
                FirstFrame::V2(capabilities) => {
                    self.capabilities.insert("protocol".into(), Value::String(capabilities.protocol));
                    self.capabilities.extend(capabilities.extra);
                    Ok(())
                }
                FirstFrame::V1 => self.sync_frame(payload, notebook, now),
            };
        }
        if !self.dialect.typed() {
            return self.sync_frame(payload, notebook, now);
        }
        let (kind, body) = split(payload)?;
        match kind {
            FrameType::Sync => self.sync_frame(body, notebook, now),
            FrameType::Response => self.response(body),
            FrameType::Broadcast => {
                if self.dialect.broadcasts_follow_changes() && self.sync.missing(notebook) {
                    return self.hold(body);
                }
                self.ready_events.push_back(Event::received(RTD_EV_BROADCAST, 0, body.to_vec()));
                Ok(())
            }
            // A daemon has no requests for us; the reference client ignores them as well (5.1).
            FrameType::Request => Ok(()),
        }
    }

    fn sync_frame(
        &mut self,
        body: &[u8],
        notebook: &mut Notebook,
        now: Millis,
    ) -> Result<(), ConnectionError> {
        let changes = self.sync.receive(notebook, body).map_err(ConnectionError::Sync)?;
        let missing = self.sync.missing(notebook);
        if self.state == State::Joining {
            self.answer(notebook)?;
            if !missing {
                self.state = State::Live;
                let capabilities = Value::Object(self.capabilities.clone()).to_string();
                self.ready_events.push_back(Event::received(RTD_EV_READY, 0, capabilities.into_bytes()));
                // Sent to a client that joins, such as the open widgets.
                self.release_held();
            }
            return Ok(());
        }
        if missing || !self.sync.acknowledged(notebook) {
            // A filter withheld a change, and only our answer releases it, so the answer cannot wait.
            self.answer(notebook)?;
        } else {
            let since = *self.ack_since.get_or_insert(now);
            self.ack_at = Some((now + ACK_QUIET).min(since + ACK_LIMIT));
        }
        if !changes.is_empty() {
            self.ready_events.push_back(Event::changed(RTD_EV_CHANGED, &changes));
            self.output_changes = changes.outputs;
        }
        if !missing {
            self.release_held();
        }
        Ok(())
    }

    fn hold(&mut self, broadcast: &[u8]) -> Result<(), ConnectionError> {
        self.held_bytes += broadcast.len() + std::mem::size_of::<Vec<u8>>();
        if self.held_bytes > HELD_LIMIT {
            return Err(ConnectionError::Unexpected(
                "the daemon withholds a change that it announced".into(),
            ));
        }
        self.held.push_back(broadcast.to_vec());
        Ok(())
    }

    fn release_held(&mut self) {
        self.held_bytes = 0;
        let broadcasts = self.held.drain(..).map(|body| Event::received(RTD_EV_BROADCAST, 0, body));
        self.ready_events.extend(broadcasts);
    }

    fn response(&mut self, body: &[u8]) -> Result<(), ConnectionError> {
        let value: Value = serde_json::from_slice(body).map_err(|error| {
            ConnectionError::Message("deserialize response", MessageError::BadJson(error.to_string()))
        })?;
        let place = match value.get("request_id").and_then(Value::as_u64) {
            Some(id) => self.pending.iter().position(|pending| *pending == id),
            // Without an identifier responses come in the order of the requests (5.5).
            None => (!self.pending.is_empty()).then_some(0),
        };
        let Some(id) = place.and_then(|place| self.pending.remove(place)) else {
            return Err(ConnectionError::Unexpected("response without a request".into()));
        };
        self.ready_events.push_back(Event::received(RTD_EV_RESPONSE, id, body.to_vec()));
        Ok(())
    }

    /// Sends a request; `body` must be an object with the member `action` (section 5.6). Returns its id.
    ///
    /// # Errors
    /// A body over the frame limit, or a daemon with protocol 1 only.
    pub fn request(&mut self, mut body: Map<String, Value>) -> Result<u64, ConnectionError> {
        if !self.dialect.typed() {
            return Err(ConnectionError::Unexpected("send_request requires v2 protocol".into()));
        }
        let id = self.next_request_id;
        body.insert("request_id".into(), json!(id));
        frame::append(&mut self.out, Some(FrameType::Request), Value::Object(body).to_string().as_bytes())?;
        self.next_request_id += 1;
        self.pending.push_back(id);
        Ok(id)
    }

    /// Sends what the daemon does not have yet: call after every local edit.
    ///
    /// # Errors
    /// The message does not fit a frame.
    pub fn push_changes(&mut self, notebook: &Notebook) -> Result<(), ConnectionError> {
        self.answer(notebook)
    }

    /// Asks the daemon to announce its heads even if nothing changed (document barrier, 5.5).
    ///
    /// # Errors
    /// The message does not fit a frame.
    pub fn barrier(&mut self, notebook: &Notebook) -> Result<(), ConnectionError> {
        self.answer(notebook)?;
        let message = barrier(notebook);
        self.append_sync(&message)
    }

    fn answer(&mut self, notebook: &Notebook) -> Result<(), ConnectionError> {
        self.ack_since = None;
        self.ack_at = None;
        if let Some(message) = self.sync.generate(notebook) {
            self.append_sync(&message)?;
        }
        Ok(())
    }

    fn append_sync(&mut self, message: &[u8]) -> Result<(), ConnectionError> {
        let kind = self.dialect.typed().then_some(FrameType::Sync);
        frame::append(&mut self.out, kind, message).map_err(Into::into)
    }

    /// When `tick` is due, on the caller's clock.
    pub fn deadline(&self) -> Option<Millis> {
        self.ack_at
    }

    /// Sends an acknowledgement whose time has come.
    ///
    /// # Errors
    /// The message does not fit a frame.
    pub fn tick(&mut self, notebook: &Notebook, now: Millis) -> Result<(), ConnectionError> {
        match self.ack_at {
            Some(at) if at <= now => self.answer(notebook),
            _ => Ok(()),
        }
    }

    /// Moves the bytes to send to the end of `out`.
    pub fn take_output(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.out);
    }
}
