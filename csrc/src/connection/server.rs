//! Storey 2: the server side of a connection of any channel of protocol 2.

use serde_json::{json, Map, Value};

use super::dialect::PeerDialect;
use super::gate::Gate;
use super::peer_request::PeerRequest;
use super::{ConnectionError, Event, Outbox};
use crate::code::rtd_channel::*;
use crate::notebook::Changes;
use crate::replica::{Doc, PeerSync, Replica};
use crate::wire::frame::{Decoder, CONTROL_LIMIT, DATA_LIMIT};
use crate::wire::handshake::{Capabilities, Channel, Handshake};
use crate::wire::typed::split;
use crate::wire::v2::request::AT_REQUEST;
use crate::wire::v2::{BlobRequest, PoolRequest, Request};
use crate::wire::{FrameType, Message};

/// What a server connection reports to its owner, in the order of the stream.
#[derive(Debug)]
pub enum ServerEvent<C = Changes> {
    /// The first frame: which channel the peer wants. Feed no document before [`Server::join`].
    Handshake(Handshake),
    /// The peer's sync message was applied.
    Synced(C),
    /// A request: pass it to [`Server::expect`], then answer through the outbox.
    Request(PeerRequest),
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    Handshake,
    /// The document is not there yet; nothing is decoded meanwhile.
    Waiting,
    /// In a room, or at the settings.
    Document,
    Pool,
    Blob,
    BlobBody(String),
    /// The channel only pushes; what the peer sends is ignored.
    Push,
    Failed,
}

/// A server connection. Its outgoing half is `outbox`.
pub struct Server {
    decoder: Decoder,
    state: State,
    pub(super) peer: PeerDialect,
    pub(super) sync: PeerSync,
    gate: Gate,
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
            peer: PeerDialect::default(),
            sync: PeerSync::new(),
            gate: Gate::default(),
            outbox: Outbox::new(false),
        }
    }

    /// Takes bytes from the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
    }

    /// What is known of the peer from its handshake.
    pub fn peer(&self) -> PeerDialect {
        self.peer
    }

    /// Whether a request waits for changes that its sender announced but did not deliver.
    pub fn is_deferring(&self) -> bool {
        self.gate.is_closed()
    }

    /// Releases such requests: they see the document as it is. The reference client, which answers no sync message
    /// while it waits for a response (section 5.4), would wait forever.
    pub fn stop_deferring(&mut self) {
        self.gate.open();
    }

    /// Registers a request that must be answered, under a token of the owner; returns its event.
    pub fn expect(&mut self, token: u64, request: PeerRequest) -> Event {
        self.outbox.expect(token, request.request_id, request.body.len());
        Event::request(request.channel, token, request.media_type.unwrap_or_default(), request.body)
    }

    /// What was received but not yet decoded.
    pub fn pending(&self) -> &[u8] {
        self.decoder.pending()
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
    pub fn next<R: Replica>(
        &mut self,
        mut document: Option<&mut R>,
    ) -> Result<Option<ServerEvent<R::Changes>>, ConnectionError> {
        loop {
            if let Some(request) = self.gate.next() {
                return Ok(Some(ServerEvent::Request(request)));
            }
            if self.state == State::Failed {
                return Err(ConnectionError::Unexpected("the connection has failed".into()));
            }
            if self.state == State::Waiting || (self.state == State::Document && document.is_none()) {
                return Ok(None);
            }
            let result = match self.decoder.next_frame() {
                Ok(None) => return Ok(None),
                Ok(Some(payload)) => self.frame(payload, document.as_deref_mut()),
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

    fn frame<R: Replica>(
        &mut self,
        payload: Vec<u8>,
        document: Option<&mut R>,
    ) -> Result<Option<ServerEvent<R::Changes>>, ConnectionError> {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Handshake => self.handshake(&payload).map(Some),
            State::Document => {
                self.state = State::Document;
                match document {
                    Some(document) if !self.peer.typed() => self.sync_frame(&payload, document).map(Some),
                    Some(document) => self.typed_frame(&payload, document),
                    None => Ok(None),
                }
            }
            State::Pool => {
                Message::<PoolRequest>::parse(&payload)
                    .map_err(|error| ConnectionError::Message("pool request", error))?;
                self.state = State::Pool;
                Ok(Some(ServerEvent::Request(PeerRequest::new(RTD_CHANNEL_POOL, payload))))
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
                        Ok(Some(ServerEvent::Request(PeerRequest::new(RTD_CHANNEL_BLOB, payload))))
                    }
                }
            }
            State::BlobBody(media_type) => {
                self.state = State::Blob;
                let request = PeerRequest {
                    media_type: Some(media_type),
                    ..PeerRequest::new(RTD_CHANNEL_BLOB, payload)
                };
                Ok(Some(ServerEvent::Request(request)))
            }
            State::Push => {
                self.state = State::Push;
                Ok(None)
            }
            State::Waiting | State::Failed => Ok(None),
        }
    }

    fn handshake<C>(&mut self, payload: &[u8]) -> Result<ServerEvent<C>, ConnectionError> {
        let handshake =
            Handshake::parse(payload).map_err(|error| ConnectionError::Message("handshake", error))?;
        self.peer = PeerDialect::of(&handshake);
        self.state = match &handshake.channel {
            Channel::Notebook { .. } | Channel::SettingsSync => State::Waiting,
            Channel::Pool => State::Pool,
            Channel::Blob => State::Blob,
            Channel::PoolState => State::Push,
        };
        if self.state != State::Push {
            // Frames are ignored there, so large ones are not collected.
            self.decoder.set_limit(DATA_LIMIT);
        }
        self.outbox = Outbox::new(self.peer.typed());
        self.outbox.omits_outputs = self.peer.reads_outputs_from_document();
        Ok(ServerEvent::Handshake(handshake))
    }

    /// The room is there: capabilities and the first sync message are queued, in this order and
    /// before anything else (section 5.2).
    ///
    /// # Errors
    /// The capabilities do not fit a frame.
    pub fn join(&mut self, capabilities: &Map<String, Value>) -> Result<(), ConnectionError> {
        self.state = State::Document;
        if self.peer.typed() {
            let capabilities = Capabilities { protocol: "v2".into(), extra: capabilities.clone() };
            self.outbox.raw(&capabilities.to_json())?;
        }
        self.outbox.document_moved();
        Ok(())
    }

    fn typed_frame<R: Replica>(
        &mut self,
        payload: &[u8],
        document: &mut R,
    ) -> Result<Option<ServerEvent<R::Changes>>, ConnectionError> {
        let (kind, body) = split(payload)?;
        match kind {
            FrameType::Sync => self.sync_frame(body, document).map(Some),
            FrameType::Request => {
                let mut request = Message::<Request>::parse(body)
                    .map_err(|error| ConnectionError::Message("request", error))?;
                // Only the library adds this member.
                let body = match request.extra.shift_remove(AT_REQUEST) {
                    Some(_) => request.to_json(),
                    None => body.to_vec(),
                };
                if request.asks_for_sync() {
                    let id = request.request_id().cloned().unwrap_or_default();
                    self.outbox.respond_in_turn(&json!({"result": "ok", "request_id": id}));
                    return Ok(None);
                }
                let request = PeerRequest {
                    request_id: request.request_id().cloned(),
                    targets: request.body.targets(),
                    ..PeerRequest::new(RTD_CHANNEL_NOTEBOOK, body)
                };
                let admitted = self.gate.admit(request, self.sync.missing(document));
                Ok(admitted.map(ServerEvent::Request))
            }
            // A client may not send these; the reference ignores them as well (5.1).
            FrameType::Response | FrameType::Broadcast => Ok(None),
        }
    }

    fn sync_frame<R: Replica>(
        &mut self,
        body: &[u8],
        document: &mut R,
    ) -> Result<ServerEvent<R::Changes>, ConnectionError> {
        let changes = self.sync.receive(document, body).map_err(ConnectionError::Sync)?;
        // A sync message of a client that answers at any time may be a later edit and not an answer.
        self.gate.synced(self.sync.missing(document), !self.peer.answers_sync());
        // An answer is owed before any broadcast that follows (section 14.2 item 3).
        self.outbox.document_moved();
        Ok(ServerEvent::Synced(changes))
    }

    /// Moves what may be sent now to the wire buffer.
    ///
    /// # Errors
    /// A message does not fit a frame.
    pub fn fill(&mut self, document: Option<&dyn Doc>) -> Result<(), ConnectionError> {
        if self.state == State::Document {
            match document {
                Some(document) => self.outbox.fill(Some((&mut self.sync, document))),
                None => Ok(()),
            }
        } else {
            self.outbox.fill(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notebook::Notebook;
    use crate::wire::frame;

    #[test]
    fn our_client_is_recognised_by_its_handshake() {
        for (extra, ours) in [(json!({"rtd": 1}), true), (json!({}), false)] {
            let mut hello = json!({"channel": "notebook_sync", "notebook_id": "n", "protocol": "v2"});
            hello.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            let mut server = Server::new();
            let mut bytes = Vec::new();
            frame::append(&mut bytes, None, hello.to_string().as_bytes()).unwrap();
            server.push(&bytes);
            assert!(matches!(server.next::<Notebook>(None), Ok(Some(ServerEvent::Handshake(_)))));
            assert_eq!(server.peer().answers_sync(), ours);
        }
    }
}
