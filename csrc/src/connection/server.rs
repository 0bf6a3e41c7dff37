//! Server side of one connection: any channel of protocol 2.

use std::collections::VecDeque;

use serde_json::{Map, Value};

use super::{ConnectionError, Outbox};
use crate::notebook::{Changes, Notebook, PeerSync};
use crate::wire::frame::{Decoder, CONTROL_LIMIT, DATA_LIMIT};
use crate::wire::handshake::{Capabilities, Channel, Handshake, Protocol};
use crate::wire::typed::split;
use crate::wire::v2::{BlobRequest, PoolRequest, Request};
use crate::wire::{FrameType, Message};

/// A request waits for changes that its sender announced but did not deliver (a Bloom filter may
/// withhold one, section 5.5) for at most this many further sync messages.
const DEFER_ROUNDS: u32 = 2;

/// What a server connection tells its owner, in the order of the stream.
#[derive(Debug)]
pub enum ServerEvent {
    /// The first frame: which channel the peer wants. Feed no document before [`Server::join`].
    Handshake(Handshake),
    /// The peer's sync message was applied.
    Synced(Changes),
    /// A notebook request; JSON as received. Answer through the outbox.
    Request { body: Vec<u8>, request_id: Option<Value> },
    /// A pool request; JSON as received.
    PoolRequest(Vec<u8>),
    /// `get_port` on the blob channel; JSON as received.
    BlobPort(Vec<u8>),
    /// A blob to store.
    BlobStore { media_type: String, bytes: Vec<u8> },
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Handshake,
    /// The owner looks for the room; nothing is decoded meanwhile.
    Waiting,
    Notebook,
    Pool,
    Blob,
    BlobBody(String),
    /// The channel only pushes; what the peer sends is not expected.
    Push,
    Failed,
}

/// A server connection. Its outgoing half is `outbox`.
pub struct Server {
    decoder: Decoder,
    state: State,
    protocol: Protocol,
    sync: PeerSync,
    deferred: VecDeque<ServerEvent>,
    deferred_rounds: u32,
    /// What is to be sent.
    pub outbox: Outbox,
}

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}

impl Server {
    /// A connection that waits for its handshake.
    pub fn new() -> Self {
        Self {
            decoder: Decoder::new(CONTROL_LIMIT),
            state: State::Handshake,
            protocol: Protocol::V1,
            sync: PeerSync::new(),
            deferred: VecDeque::new(),
            deferred_rounds: 0,
            outbox: Outbox::new(Protocol::V1, false),
        }
    }

    /// Takes bytes from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
    }

    /// Whether a request waits for changes that its sender announced but did not deliver.
    pub fn is_deferring(&self) -> bool {
        self.deferred_rounds > 0 && !self.deferred.is_empty()
    }

    /// The time for that is over: a client that answers no sync frame while it waits for a response
    /// (the reference's, section 5.4) would wait for ever. The request sees the document as it is.
    pub fn stop_deferring(&mut self) {
        self.deferred_rounds = 0;
    }

    /// Bytes received but not yet decoded.
    pub fn buffered(&self) -> usize {
        self.decoder.buffered()
    }

    /// Whether the peer waits for its room.
    pub fn is_waiting(&self) -> bool {
        self.state == State::Waiting
    }

    /// Whether the handshake is still to come.
    pub fn before_handshake(&self) -> bool {
        self.state == State::Handshake
    }

    /// The next event, `None` when more bytes (or the room) are needed.
    ///
    /// # Errors
    /// The peer broke the protocol; the connection stays failed.
    pub fn next(
        &mut self,
        mut notebook: Option<&mut Notebook>,
    ) -> Result<Option<ServerEvent>, ConnectionError> {
        loop {
            if self.deferred_rounds == 0 {
                if let Some(event) = self.deferred.pop_front() {
                    return Ok(Some(event));
                }
            }
            if self.state == State::Failed {
                return Err(ConnectionError::Unexpected("the connection has failed".into()));
            }
            if self.state == State::Waiting || (self.state == State::Notebook && notebook.is_none()) {
                return Ok(None);
            }
            let result = match self.decoder.next_frame() {
                Ok(None) => return Ok(None),
                Ok(Some(payload)) => self.frame(payload, notebook.as_deref_mut()),
                Err(error) => Err(error.into()),
            };
            match result {
                Ok(Some(event)) => return Ok(Some(event)),
                Ok(None) => {}
                Err(error) => {
                    self.state = State::Failed;
                    return Err(error);
                }
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

    fn frame(
        &mut self,
        payload: Vec<u8>,
        notebook: Option<&mut Notebook>,
    ) -> Result<Option<ServerEvent>, ConnectionError> {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Handshake => self.handshake(&payload).map(Some),
            State::Notebook => {
                self.state = State::Notebook;
                match notebook {
                    Some(notebook) if self.protocol == Protocol::V1 => {
                        self.sync_frame(&payload, notebook).map(Some)
                    }
                    Some(notebook) => self.typed_frame(&payload, notebook),
                    None => Ok(None),
                }
            }
            State::Pool => {
                Message::<PoolRequest>::parse(&payload)
                    .map_err(|error| ConnectionError::Message("pool request", error))?;
                self.state = State::Pool;
                Ok(Some(ServerEvent::PoolRequest(payload)))
            }
            State::Blob => {
                let request = Message::<BlobRequest>::parse(&payload)
                    .map_err(|error| ConnectionError::Message("blob request", error))?;
                match request.body {
                    BlobRequest::Store { media_type } => {
                        self.state = State::BlobBody(media_type);
                        Ok(None)
                    }
                    BlobRequest::GetPort => {
                        self.state = State::Blob;
                        Ok(Some(ServerEvent::BlobPort(payload)))
                    }
                }
            }
            State::BlobBody(media_type) => {
                self.state = State::Blob;
                Ok(Some(ServerEvent::BlobStore { media_type, bytes: payload }))
            }
            State::Push => {
                self.state = State::Push;
                Ok(None)
            }
            State::Waiting | State::Failed => Ok(None),
        }
    }

    fn handshake(&mut self, payload: &[u8]) -> Result<ServerEvent, ConnectionError> {
        let handshake =
            Handshake::parse(payload).map_err(|error| ConnectionError::Message("handshake", error))?;
        self.decoder.set_limit(DATA_LIMIT);
        self.protocol = handshake.channel.protocol();
        self.state = match &handshake.channel {
            Channel::Notebook { .. } => State::Waiting,
            Channel::Pool => State::Pool,
            Channel::Blob => State::Blob,
            Channel::PoolState | Channel::SettingsSync => State::Push,
        };
        let typed = self.state == State::Waiting && self.protocol == Protocol::V2;
        self.outbox = Outbox::new(self.protocol, typed);
        Ok(ServerEvent::Handshake(handshake))
    }

    /// The room is there: capabilities and the first sync message are queued, in this order and
    /// before anything else (section 5.2).
    ///
    /// # Errors
    /// The capabilities do not fit a frame.
    pub fn join(&mut self, capabilities: &Map<String, Value>) -> Result<(), ConnectionError> {
        self.state = State::Notebook;
        if self.protocol == Protocol::V2 {
            let capabilities = Capabilities { protocol: "v2".into(), extra: capabilities.clone() };
            self.outbox.raw(&capabilities.to_json())?;
        }
        self.outbox.document_moved();
        Ok(())
    }

    fn typed_frame(
        &mut self,
        payload: &[u8],
        notebook: &mut Notebook,
    ) -> Result<Option<ServerEvent>, ConnectionError> {
        let (kind, body) = split(payload)?;
        match kind {
            FrameType::Sync => self.sync_frame(body, notebook).map(Some),
            FrameType::Request => {
                let request = Message::<Request>::parse(body)
                    .map_err(|error| ConnectionError::Message("request", error))?;
                let event = ServerEvent::Request {
                    body: body.to_vec(),
                    request_id: request.extra.get("request_id").cloned(),
                };
                if self.deferred.is_empty() && self.sync.missing(notebook) {
                    self.deferred_rounds = DEFER_ROUNDS;
                }
                if self.deferred_rounds > 0 {
                    self.deferred.push_back(event);
                    return Ok(None);
                }
                Ok(Some(event))
            }
            // A client has no business sending these; the reference ignores them as well (5.1).
            FrameType::Response | FrameType::Broadcast => Ok(None),
        }
    }

    fn sync_frame(&mut self, body: &[u8], notebook: &mut Notebook) -> Result<ServerEvent, ConnectionError> {
        let changes = self.sync.receive(notebook, body).map_err(ConnectionError::Sync)?;
        if self.deferred_rounds > 0 {
            self.deferred_rounds = if self.sync.missing(notebook) { self.deferred_rounds - 1 } else { 0 };
        }
        // An answer is owed before any broadcast that follows (section 14.2 item 3).
        self.outbox.document_moved();
        Ok(ServerEvent::Synced(changes))
    }

    /// Moves what may be sent now to the wire buffer.
    ///
    /// # Errors
    /// A message does not fit a frame.
    pub fn fill(&mut self, notebook: Option<&Notebook>) -> Result<(), ConnectionError> {
        if self.state == State::Notebook {
            match notebook {
                Some(notebook) => self.outbox.fill(Some((&mut self.sync, notebook))),
                None => Ok(()),
            }
        } else {
            self.outbox.fill(None)
        }
    }
}
