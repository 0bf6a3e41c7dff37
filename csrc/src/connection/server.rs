//! Server side of one connection: any channel of protocol 2.

use std::collections::VecDeque;

use serde_json::{json, Map, Value};

use super::{ConnectionError, Outbox};
use crate::notebook::Changes;
use crate::replica::{Doc, PeerSync, Replica};
use crate::wire::frame::{Decoder, CONTROL_LIMIT, DATA_LIMIT};
use crate::wire::handshake::{Capabilities, Channel, Handshake, Protocol};
use crate::wire::typed::split;
use crate::wire::v2::request::AT_REQUEST;
use crate::wire::v2::{BlobRequest, PoolRequest, Request, Targets};
use crate::wire::{FrameType, Message};

/// A request waits for changes that its sender announced but did not deliver (a Bloom filter may
/// withhold one, section 5.5) for at most this many further sync messages.
const DEFER_ROUNDS: u32 = 2;
/// Requests that wait so at one time. When more come, or more bytes, they see the document as it is.
const DEFER_REQUESTS: usize = 1024;
/// Their bytes.
const DEFER_BYTES: usize = 64 * 1024 * 1024;

/// What a server connection tells its owner, in the order of the stream.
#[derive(Debug)]
pub enum ServerEvent<C = Changes> {
    /// The first frame: which channel the peer wants. Feed no document before [`Server::join`].
    Handshake(Handshake),
    /// The peer's sync message was applied.
    Synced(C),
    /// A notebook request; JSON as received, but without the library's own member `at_request`. Answer through the
    /// outbox.
    Request { body: Vec<u8>, request_id: Option<Value>, targets: Targets },
    /// A pool request; JSON as received.
    PoolRequest(Vec<u8>),
    /// `get_port` on the blob channel; JSON as received.
    BlobPort(Vec<u8>),
    /// A blob to store.
    BlobStore { media_type: String, bytes: Vec<u8> },
}

/// The JSON of a request, its id, and the cells it means.
type Deferred = (Vec<u8>, Option<Value>, Targets);

#[derive(Debug, PartialEq, Eq)]
enum State {
    Handshake,
    /// The owner looks for the document; nothing is decoded meanwhile.
    Waiting,
    /// In a room, or at the settings.
    Document,
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
    deferred: VecDeque<Deferred>,
    deferred_bytes: usize,
    deferred_rounds: u32,
    answers_sync: bool,
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
            deferred_bytes: 0,
            deferred_rounds: 0,
            answers_sync: false,
            outbox: Outbox::new(false),
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

    /// Whether the client announced that it is one of ours: it answers sync frames also while it waits
    /// for a response, so its requests need not fear to wait for a change.
    pub fn answers_sync(&self) -> bool {
        self.answers_sync
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
            if self.deferred_rounds == 0 {
                if let Some((body, request_id, targets)) = self.deferred.pop_front() {
                    return Ok(Some(ServerEvent::Request { body, request_id, targets }));
                }
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
                    Some(document) if self.protocol == Protocol::V1 => {
                        self.sync_frame(&payload, document).map(Some)
                    }
                    Some(document) => self.typed_frame(&payload, document),
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

    fn handshake<C>(&mut self, payload: &[u8]) -> Result<ServerEvent<C>, ConnectionError> {
        let handshake =
            Handshake::parse(payload).map_err(|error| ConnectionError::Message("handshake", error))?;
        self.protocol = handshake.channel.protocol();
        self.answers_sync = handshake.extra.contains_key("rtd");
        self.state = match &handshake.channel {
            Channel::Notebook { .. } | Channel::SettingsSync => State::Waiting,
            Channel::Pool => State::Pool,
            Channel::Blob => State::Blob,
            Channel::PoolState => State::Push,
        };
        if self.state != State::Push {
            // Nothing is expected there: what comes all the same is not collected.
            self.decoder.set_limit(DATA_LIMIT);
        }
        let typed = self.state == State::Waiting && self.protocol == Protocol::V2;
        self.outbox = Outbox::new(typed);
        if handshake.extra.get("outputs").and_then(Value::as_str) == Some("document") {
            self.outbox.omit_outputs();
        }
        Ok(ServerEvent::Handshake(handshake))
    }

    /// The room is there: capabilities and the first sync message are queued, in this order and
    /// before anything else (section 5.2).
    ///
    /// # Errors
    /// The capabilities do not fit a frame.
    pub fn join(&mut self, capabilities: &Map<String, Value>) -> Result<(), ConnectionError> {
        self.state = State::Document;
        if self.protocol == Protocol::V2 {
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
                // "sync" asks the library, not the program behind it: has everything up to here arrived?
                if request.extra.get("sync") == Some(&Value::Bool(true)) {
                    let id = request.extra.get("request_id").cloned().unwrap_or_default();
                    self.outbox.respond_in_turn(&json!({"result": "ok", "request_id": id}));
                    return Ok(None);
                }
                let (request_id, targets) =
                    (request.extra.get("request_id").cloned(), request.body.targets());
                if self.deferred.is_empty() && self.sync.missing(document) {
                    self.deferred_rounds = DEFER_ROUNDS;
                    self.deferred_bytes = 0;
                }
                if self.deferred_rounds > 0 {
                    self.deferred_bytes += body.len();
                    self.deferred.push_back((body, request_id, targets));
                    if self.deferred.len() >= DEFER_REQUESTS || self.deferred_bytes >= DEFER_BYTES {
                        self.stop_deferring();
                    }
                    return Ok(None);
                }
                Ok(Some(ServerEvent::Request { body, request_id, targets }))
            }
            // A client has no business sending these; the reference ignores them as well (5.1).
            FrameType::Response | FrameType::Broadcast => Ok(None),
        }
    }

    fn sync_frame<R: Replica>(
        &mut self,
        body: &[u8],
        document: &mut R,
    ) -> Result<ServerEvent<R::Changes>, ConnectionError> {
        let changes = self.sync.receive(document, body).map_err(ConnectionError::Sync)?;
        if self.deferred_rounds > 0 {
            // A frame of a client that answers at any time may be a later edit and no answer; only the time
            // limit ends its waiting.
            let round = u32::from(!self.answers_sync);
            self.deferred_rounds = if self.sync.missing(document) { self.deferred_rounds - round } else { 0 };
        }
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
    use crate::connection::{Client, ClientEvent};
    use crate::notebook::{Notebook, Op};
    use crate::wire::frame;

    #[test]
    fn a_client_of_ours_is_known_by_its_announcement() {
        for (extra, ours) in [(json!({"rtd": 1}), true), (json!({}), false)] {
            let mut hello = json!({"channel": "notebook_sync", "notebook_id": "n", "protocol": "v2"});
            hello.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            let mut server = Server::new();
            let mut bytes = Vec::new();
            frame::append(&mut bytes, None, hello.to_string().as_bytes()).unwrap();
            server.push(&bytes);
            assert!(matches!(server.next::<Notebook>(None), Ok(Some(ServerEvent::Handshake(_)))));
            assert_eq!(server.answers_sync(), ours);
        }
    }

    /// Moves bytes both ways until nobody has anything to say; gives what each side saw.
    fn settle(
        client: (&mut Client, &mut Notebook),
        server: (&mut Server, &mut Notebook),
    ) -> (Vec<ClientEvent>, Vec<ServerEvent>) {
        let (mut at_client, mut at_server) = (Vec::new(), Vec::new());
        loop {
            let mut up = Vec::new();
            client.0.take_output(&mut up);
            server.0.push(&up);
            while let Some(event) = server.0.next(Some(server.1)).unwrap() {
                if matches!(event, ServerEvent::Handshake(_)) {
                    server.0.join(&Map::from_iter([("rtd".to_owned(), json!(1))])).unwrap();
                }
                at_server.push(event);
            }
            server.0.fill(Some(server.1)).unwrap();
            let down = server.0.outbox.output().to_vec();
            server.0.outbox.written(down.len());
            client.0.push(&down);
            while let Some(event) = client.0.next(client.1, 0).unwrap() {
                at_client.push(event);
            }
            if up.is_empty() && down.is_empty() {
                return (at_client, at_server);
            }
        }
    }

    fn joined() -> (Client, Notebook, Server, Notebook) {
        let mut client = Client::new("n").unwrap();
        let mut replica = Notebook::empty();
        let mut server = Server::new();
        let mut notebook = Notebook::create("n").unwrap();
        let (seen, _) = settle((&mut client, &mut replica), (&mut server, &mut notebook));
        assert!(matches!(seen[..], [ClientEvent::Capabilities(_), ClientEvent::Ready]));
        assert!(client.is_ready() && client.extended() && client.agrees(&replica));
        (client, replica, server, notebook)
    }

    #[test]
    fn a_request_waits_for_changes_its_sender_announced() {
        let (mut client, mut replica, mut server, mut notebook) = joined();
        replica.edit(&[Op::insert_cell("c", "code", "x", None)]).unwrap();
        // The change is announced by its head but withheld, as a Bloom filter may do.
        let announcement = crate::replica::barrier(&replica);
        server.push(&frame::encode_typed(FrameType::Sync, &announcement).unwrap());
        let body = br#"{"action":"execute_cell","cell_id":"c"}"#;
        server.push(&frame::encode_typed(FrameType::Request, body).unwrap());
        assert!(matches!(server.next(Some(&mut notebook)), Ok(Some(ServerEvent::Synced(_)))));
        assert!(matches!(server.next(Some(&mut notebook)), Ok(None)), "the request waits");
        client.push_changes(&replica).unwrap();
        let (_, seen) = settle((&mut client, &mut replica), (&mut server, &mut notebook));
        let request = seen.iter().position(|event| matches!(event, ServerEvent::Request { .. })).unwrap();
        assert!(request > 0, "it came after the change");
        assert!(notebook.cell("c").is_some());
    }

    #[test]
    fn a_sync_question_is_answered_behind_all_changes_and_asks_nobody() {
        let (mut client, mut replica, mut server, mut notebook) = joined();
        notebook.edit(&[Op::insert_cell("c", "code", "x", None)]).unwrap();
        let question = json!({"action": "get_queue_state", "sync": true});
        client.request(1, question.as_object().unwrap().clone()).unwrap();
        let (seen, asked) = settle((&mut client, &mut replica), (&mut server, &mut notebook));
        assert!(!asked.iter().any(|event| matches!(event, ServerEvent::Request { .. })), "{asked:?}");
        assert!(matches!(seen[..], [ClientEvent::Changed(_), ClientEvent::Response { .. }]), "{seen:?}");
    }

    #[test]
    fn a_peer_that_never_delivers_cannot_hold_its_request_back_for_ever() {
        for ours in [false, true] {
            let (_, mut replica, mut server, mut notebook) = joined();
            server.answers_sync = ours;
            replica.edit(&[Op::insert_cell("c", "code", "x", None)]).unwrap();
            let announcement =
                frame::encode_typed(FrameType::Sync, &crate::replica::barrier(&replica)).unwrap();
            let request =
                frame::encode_typed(FrameType::Request, br#"{"action":"get_queue_state"}"#).unwrap();
            for bytes in [&announcement, &request, &announcement, &announcement] {
                server.push(bytes);
            }
            let mut events = || -> Vec<ServerEvent> {
                std::iter::from_fn(|| server.next(Some(&mut notebook)).unwrap()).collect()
            };
            let is_request = |event: &ServerEvent| matches!(event, ServerEvent::Request { .. });
            // A client of ours may have sent edits meanwhile: frames say nothing, the time limit does.
            assert_eq!(events().iter().any(is_request), !ours);
            if ours {
                server.stop_deferring();
                let mut events = || -> Vec<ServerEvent> {
                    std::iter::from_fn(|| server.next(Some(&mut notebook)).unwrap()).collect()
                };
                assert!(events().iter().any(is_request));
            }
        }
    }

    #[test]
    fn so_many_requests_and_so_many_bytes_wait_for_a_change_and_no_more() {
        let request = |size: usize| {
            let body = json!({"action": "get_queue_state", "padding": "x".repeat(size)}).to_string();
            frame::encode_typed(FrameType::Request, body.as_bytes()).unwrap()
        };
        for (size, most) in [(0, DEFER_REQUESTS), (DEFER_BYTES / 4, 4)] {
            let (_, mut replica, mut server, mut notebook) = joined();
            server.answers_sync = true;
            replica.edit(&[Op::insert_cell("c", "code", "x", None)]).unwrap();
            let announcement = crate::replica::barrier(&replica);
            server.push(&frame::encode_typed(FrameType::Sync, &announcement).unwrap());
            assert!(matches!(server.next(Some(&mut notebook)), Ok(Some(ServerEvent::Synced(_)))));
            for _ in 1..most {
                server.push(&request(size));
                assert!(matches!(server.next(Some(&mut notebook)), Ok(None)));
            }
            assert!(server.is_deferring());
            server.push(&request(size));
            for _ in 0..most {
                assert!(matches!(server.next(Some(&mut notebook)), Ok(Some(ServerEvent::Request { .. }))));
            }
            assert!(matches!(server.next(Some(&mut notebook)), Ok(None)));
            // What follows begins anew.
            server.push(&request(0));
            assert!(matches!(server.next(Some(&mut notebook)), Ok(None)));
            assert!(server.is_deferring());
        }
    }

    #[test]
    fn broadcasts_wait_for_the_changes_they_speak_of() {
        let (mut client, mut replica, mut server, mut notebook) = joined();
        notebook.edit(&[Op::insert_cell("c", "code", "x", None)]).unwrap();
        // Announced but withheld on the way down; then the broadcast about it.
        let announcement = crate::replica::barrier(&notebook);
        client.push(&frame::encode_typed(FrameType::Sync, &announcement).unwrap());
        client.push(&frame::encode_typed(FrameType::Broadcast, br#"{"event":"execution_done"}"#).unwrap());
        assert!(client.next(&mut replica, 0).unwrap().is_none(), "the broadcast is held");
        server.outbox.document_moved();
        let (seen, _) = settle((&mut client, &mut replica), (&mut server, &mut notebook));
        assert!(matches!(seen[..], [ClientEvent::Changed(_), ClientEvent::Broadcast(_)]), "{seen:?}");
    }

    #[test]
    fn broadcasts_do_not_wait_without_a_bound() {
        let (mut client, mut replica, mut server, mut notebook) = joined();
        let broadcast = frame::encode_typed(FrameType::Broadcast, &vec![b' '; 20 << 20]).unwrap();
        for round in 0..2 {
            notebook.edit(&[Op::insert_cell(&round.to_string(), "code", "x", None)]).unwrap();
            let announcement = crate::replica::barrier(&notebook);
            client.push(&frame::encode_typed(FrameType::Sync, &announcement).unwrap());
            for _ in 0..3 {
                client.push(&broadcast);
                assert!(client.next(&mut replica, 0).unwrap().is_none());
            }
            if round == 0 {
                // What was told does not count any more.
                server.outbox.document_moved();
                let (seen, _) = settle((&mut client, &mut replica), (&mut server, &mut notebook));
                assert_eq!(seen.len(), 4);
            }
        }
        client.push(&broadcast);
        let error = client.next(&mut replica, 0).unwrap_err().to_string();
        assert!(error.contains("withholds"), "{error}");
    }

    #[test]
    fn responses_find_their_requests_by_identifier_or_by_order() {
        let (mut client, mut replica, mut server, mut notebook) = joined();
        for token in [10, 11, 12] {
            client.request(token, Map::from_iter([("action".to_owned(), json!("get_queue_state"))])).unwrap();
        }
        let (_, seen) = settle((&mut client, &mut replica), (&mut server, &mut notebook));
        assert_eq!(seen.len(), 3);
        assert_eq!(client.pending_requests(), 3);
        for body in
            [r#"{"result":"ok","request_id":2}"#, r#"{"result":"ok"}"#, r#"{"result":"ok","request_id":3}"#]
        {
            client.push(&frame::encode_typed(FrameType::Response, body.as_bytes()).unwrap());
        }
        let tokens: Vec<u64> = std::iter::from_fn(|| client.next(&mut replica, 0).unwrap())
            .map(|event| match event {
                ClientEvent::Response { token, .. } => token,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(tokens, [11, 10, 12]);
        client.push(&frame::encode_typed(FrameType::Response, br#"{"result":"ok"}"#).unwrap());
        assert!(client.next(&mut replica, 0).is_err(), "a response without a request breaks the protocol");
        assert!(client.next(&mut replica, 0).is_err(), "and the connection stays failed");
    }

    #[test]
    fn acknowledgements_are_combined_and_never_forgotten() {
        let (mut client, mut replica, mut server, mut notebook) = joined();
        let mut out = Vec::new();
        for number in 0..5_u64 {
            notebook.edit(&[Op::insert_cell(&number.to_string(), "code", "", None)]).unwrap();
            server.outbox.document_moved();
            server.fill(Some(&notebook)).unwrap();
            client.push(server.outbox.output());
            server.outbox.written(server.outbox.output().len());
            while client.next(&mut replica, number).unwrap().is_some() {}
            client.take_output(&mut out);
        }
        assert!(out.is_empty(), "no answer to each");
        let due = client.deadline().unwrap();
        client.tick(&replica, due).unwrap();
        client.take_output(&mut out);
        server.push(&out);
        while server.next(Some(&mut notebook)).unwrap().is_some() {}
        assert_eq!(client.deadline(), None);
        assert!(client.agrees(&replica) && server.sync.converged(&notebook));
    }
}
