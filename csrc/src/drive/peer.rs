//! One accepted connection of a host.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use serde_json::{json, Value};

use super::event::{Event, EventKind, Hint};
use super::reactor::{Handler, Reactor};
use super::room::{Outcome, Room};
use super::shared::HostShared;
use super::{address, lock, DriveError};
use crate::code::code;
use crate::code::rtd_code::{RTD_E_IO, RTD_E_PANIC, RTD_E_TIMEOUT, RTD_E_TOO_BIG};
use crate::connection::{Server, ServerEvent};
use crate::notebook::Notebook;
use crate::wire::handshake::Channel;

/// Bytes read before other sockets get their turn.
const READ_BUDGET: usize = 256 * 1024;
/// Requests of one connection without an answer; the peer is not read beyond.
const UNANSWERED_LIMIT: usize = 1024;
/// Milliseconds a request waits for changes that its sender announced but did not deliver.
const DEFER_LIMIT: u64 = 250;
/// The same for a sender that answers sync frames at any time: only a machine that is very busy, or a
/// client that is broken, comes near it.
const DEFER_LIMIT_EXTENDED: u64 = 15_000;

/// Channels a request can come from; the numbers are those of the C ABI (`RTD_CHANNEL_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum ChannelKind {
    Notebook = 1,
    Pool = 2,
    Blob = 3,
    PoolState = 4,
}

/// One accepted connection.
pub struct Peer {
    /// Number of this connection in its host.
    pub id: u64,
    key: usize,
    reactor: Arc<Reactor>,
    stream: UnixStream,
    host: Weak<HostShared>,
    room: OnceLock<Arc<Room>>,
    pub state: Mutex<PeerState>,
    limit: usize,
}

/// The mutable half of a peer.
pub struct PeerState {
    pub server: Server,
    gone: bool,
    /// It takes nothing any more; what it wrote before it left is still to be read.
    deaf: bool,
    watched: (bool, bool),
    deferring: bool,
}

impl Peer {
    /// A connection that was just accepted.
    pub fn new(
        id: u64,
        stream: UnixStream,
        host: Weak<HostShared>,
        reactor: &Arc<Reactor>,
        limit: usize,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me: &Weak<Peer>| Self {
            id,
            key: reactor.register(me.clone()),
            reactor: Arc::clone(reactor),
            stream,
            host,
            room: OnceLock::new(),
            state: Mutex::new(PeerState {
                server: Server::new(),
                gone: false,
                deaf: false,
                watched: (true, false),
                deferring: false,
            }),
            limit,
        })
    }

    /// Starts reading; the handshake must come before `deadline`.
    ///
    /// # Errors
    /// The system refused.
    pub fn start(&self, deadline: Option<u64>) -> io::Result<()> {
        self.reactor.watch(self.key, &self.stream, false)?;
        self.reactor.set_timer(self.key, deadline);
        Ok(())
    }

    /// The room this peer is in.
    pub fn room(&self) -> Option<&Arc<Room>> {
        self.room.get()
    }

    /// Puts the peer into its room: capabilities and the first sync message go out at once.
    ///
    /// # Errors
    /// The connection cannot be used.
    pub fn enter(
        &self,
        room: &Arc<Room>,
        notebook: &Notebook,
        capabilities: &serde_json::Map<String, Value>,
    ) -> Result<(), DriveError> {
        // Set once: a peer enters one room in its life.
        let _entered_before = self.room.set(Arc::clone(room));
        let sent_more = {
            let mut state = lock(&self.state);
            state.server.join(capabilities)?;
            state.server.buffered() > 0
        };
        if sent_more {
            // What came together with the handshake has left the socket and makes nothing readable any
            // more. The I/O thread takes it, so that events keep their order.
            self.reactor.set_timer(self.key, Some(self.reactor.now()));
        }
        self.flush(Some(notebook))
    }

    /// Sends what the socket takes now; the rest follows when it is writable.
    ///
    /// # Errors
    /// The peer is gone, too slow for its bound, or a message does not fit a frame.
    pub fn flush(&self, notebook: Option<&Notebook>) -> Result<(), DriveError> {
        let mut state = lock(&self.state);
        if state.gone {
            return Ok(());
        }
        while !state.deaf {
            state.server.fill(notebook)?;
            if !state.server.outbox.has_output() {
                break;
            }
            match address::send(&self.stream, state.server.outbox.output()) {
                Ok(count) => state.server.outbox.written(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Its last edits may be unread; the end of the stream ends the connection.
                Err(error) if hung_up(&error) => state.deaf = true,
                Err(error) => return Err(error.into()),
            }
        }
        if state.server.outbox.queued() > self.limit {
            let text = format!("the peer left more than {} bytes unread", self.limit);
            return Err(DriveError::TooBig(text));
        }
        let reads = !state.server.is_waiting() && state.server.outbox.unanswered() < UNANSWERED_LIMIT;
        let wanted = (reads || state.deaf, !state.deaf && state.server.outbox.has_output());
        if state.watched != wanted {
            self.reactor.rewatch(self.key, &self.stream, wanted.0, wanted.1)?;
            state.watched = wanted;
        }
        Ok(())
    }

    /// Answers a request of a peer outside any room, or of one inside through the room's step.
    pub fn respond(&self, token: u64, body: &Value) -> bool {
        lock(&self.state).server.outbox.respond(token, body)
    }

    /// Closes the connection; `false` when it was closed before.
    pub fn hang_up(&self) -> bool {
        let mut state = lock(&self.state);
        if std::mem::replace(&mut state.gone, true) {
            return false;
        }
        self.reactor.forget(self.key, Some(&self.stream));
        let _peer_is_gone = self.stream.shutdown(std::net::Shutdown::Both);
        true
    }

    fn is_gone(&self) -> bool {
        lock(&self.state).gone
    }

    /// Reads what is there, up to the budget; `Ok(true)` at the end of the stream.
    fn read(&self) -> Result<bool, DriveError> {
        let mut buffer = vec![0_u8; 64 * 1024];
        let mut budget = READ_BUDGET;
        let mut state = lock(&self.state);
        if state.server.is_waiting() {
            return Ok(address::at_end(&self.stream));
        }
        while budget > 0 {
            match (&self.stream).read(&mut buffer) {
                Ok(0) => return Ok(true),
                Ok(count) => {
                    state.server.push(&buffer[..count]);
                    budget = budget.saturating_sub(count);
                    if count < buffer.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Who hangs up without reading all shows as a reset, behind what he wrote (section 2.4).
                Err(error) if hung_up(&error) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    fn next(&self, notebook: Option<&mut Notebook>) -> Result<Option<ServerEvent>, DriveError> {
        lock(&self.state).server.next(notebook).map_err(Into::into)
    }

    /// Sets or clears the time limit of requests that wait for changes.
    fn time_deferral(&self) {
        let mut state = lock(&self.state);
        let deferring = state.server.is_deferring();
        if std::mem::replace(&mut state.deferring, deferring) != deferring {
            let limit = if state.server.answers_sync() { DEFER_LIMIT_EXTENDED } else { DEFER_LIMIT };
            let deadline = deferring.then(|| self.reactor.now() + limit);
            self.reactor.set_timer(self.key, deadline);
        }
    }

    /// A step of a peer in a room, under the room's lock.
    fn step_in_room(self: &Arc<Self>, host: &Arc<HostShared>, room: &Arc<Room>, readable: bool) {
        let mut outcome = Outcome::default();
        let mut events = Vec::new();
        let result = room.step(&mut outcome, |state, outcome| {
            let ended = if readable { self.read()? } else { false };
            let before = state.notebook.heads();
            let mut hint = Hint::default();
            loop {
                match self.next(Some(&mut state.notebook)) {
                    Ok(Some(ServerEvent::Synced(changes))) => hint.merge(Hint::new(&changes)),
                    Ok(Some(ServerEvent::Request { body, request_id })) => {
                        let body = with_sources(body, &state.notebook);
                        events.push(host.expect(self, ChannelKind::Notebook, &room.id, body, request_id));
                    }
                    Ok(Some(_) | None) => {
                        self.time_deferral();
                        break;
                    }
                    Err(error) => {
                        // Frames before the bad one counted.
                        if state.notebook.heads() != before {
                            state.moved(outcome);
                            state.flush_all(outcome);
                        }
                        return Err(error);
                    }
                }
            }
            if state.notebook.heads() != before {
                let mut event = Event::new(EventKind::RoomChanged);
                event.id.clone_from(&room.id);
                event.hint = Some(hint);
                events.insert(0, event);
                state.moved(outcome);
                state.flush_all(outcome);
            } else {
                self.flush(Some(&state.notebook))?;
            }
            if ended {
                return Err(DriveError::Closed(String::new()));
            }
            Ok(())
        });
        host.publish_events(events);
        host.after(room, outcome);
        match result {
            Ok(()) => {}
            Err(DriveError::Panic(reason)) => host.break_room(room, code(RTD_E_PANIC), &reason),
            Err(error) => host.drop_peer(self, &error),
        }
    }

    /// A step of a peer on any other channel, or before its handshake.
    fn step_outside(self: &Arc<Self>, host: &Arc<HostShared>, readable: bool) -> Result<(), DriveError> {
        let ended = if readable { self.read()? } else { false };
        loop {
            match self.next(None)? {
                Some(ServerEvent::Handshake(handshake)) => {
                    self.reactor.set_timer(self.key, None);
                    match handshake.channel {
                        Channel::Notebook { notebook_id, .. } => {
                            self.flush(None)?;
                            host.wants_room(self, notebook_id);
                            return Ok(());
                        }
                        Channel::PoolState => {
                            let body = json!({"event": "pool_state"}).to_string().into_bytes();
                            let event = host.expect(self, ChannelKind::PoolState, "", body, None);
                            host.publish_events(vec![event]);
                        }
                        Channel::SettingsSync => {
                            return Err(DriveError::State("the settings channel is not served".into()));
                        }
                        Channel::Pool | Channel::Blob => {}
                    }
                }
                Some(ServerEvent::PoolRequest(body)) => {
                    let event = host.expect(self, ChannelKind::Pool, "", body, None);
                    host.publish_events(vec![event]);
                }
                Some(ServerEvent::BlobPort(body)) => {
                    let event = host.expect(self, ChannelKind::Blob, "", body, None);
                    host.publish_events(vec![event]);
                }
                Some(ServerEvent::BlobStore { media_type, bytes }) => {
                    let event = host.expect(self, ChannelKind::Blob, &media_type, bytes, None);
                    host.publish_events(vec![event]);
                }
                Some(ServerEvent::Synced(_) | ServerEvent::Request { .. }) | None => break,
            }
        }
        self.flush(None)?;
        if ended {
            return Err(DriveError::Closed(String::new()));
        }
        Ok(())
    }
}

fn hung_up(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// A request to execute, with the member `at_request`: the cells it means, as the document has them
/// at this moment. Edits that follow it must not change what runs (protocol 2, section 5.9), and the
/// host program sees the request only when they may have been applied.
fn with_sources(body: Vec<u8>, notebook: &Notebook) -> Vec<u8> {
    #[derive(serde::Deserialize)]
    struct Head {
        action: String,
        cell_id: Option<String>,
    }
    let Ok(head) = serde_json::from_slice::<Head>(&body) else { return body };
    let cells = match (head.action.as_str(), head.cell_id) {
        ("execute_cell", Some(id)) => notebook.cell(&id).into_iter().collect(),
        ("run_all_cells", _) => notebook.cells(),
        _ => return body,
    };
    let Ok(mut members) = serde_json::from_slice::<serde_json::Map<String, Value>>(&body) else {
        return body;
    };
    let cells = cells
        .iter()
        .map(|cell| json!({"id": cell.id, "cell_type": cell.cell_type, "source": cell.source}))
        .collect();
    members.insert("at_request".into(), Value::Array(cells));
    Value::Object(members).to_string().into_bytes()
}

/// The code that tells the host program why a peer left; zero for an ordinary goodbye.
pub fn leave_code(error: &DriveError) -> i32 {
    match error {
        DriveError::Closed(_) => 0,
        DriveError::Io(_) => code(RTD_E_IO),
        DriveError::TooBig(_) => code(RTD_E_TOO_BIG),
        DriveError::Timeout(_) => code(RTD_E_TIMEOUT),
        DriveError::Panic(_) | DriveError::Poisoned(_) => code(RTD_E_PANIC),
        _ => code(crate::code::rtd_code::RTD_E_PROTOCOL),
    }
}

/// The reactor holds peers weakly, the host's table holds them strongly; a handler call needs both.
impl Handler for Peer {
    fn ready(&self, readable: bool, _writable: bool) {
        let Some((host, me)) = self.host.upgrade().and_then(|host| host.peer(self.id).map(|me| (host, me)))
        else {
            return;
        };
        if self.is_gone() {
            return;
        }
        if let Some(room) = self.room() {
            me.step_in_room(&host, room, readable);
        } else if let Err(error) = me.step_outside(&host, readable) {
            host.drop_peer(&me, &error);
        }
    }

    fn timer(&self) {
        let Some((host, me)) = self.host.upgrade().and_then(|host| host.peer(self.id).map(|me| (host, me)))
        else {
            return;
        };
        if let Some(room) = self.room() {
            lock(&self.state).server.stop_deferring();
            me.step_in_room(&host, room, false);
        } else if lock(&self.state).server.before_handshake() {
            host.drop_peer(&me, &DriveError::Timeout("no handshake".into()));
        }
    }

    fn failed(&self, reason: String) {
        if let Some((host, me)) = self.host.upgrade().and_then(|host| host.peer(self.id).map(|me| (host, me)))
        {
            host.drop_peer(&me, &DriveError::Panic(reason));
        }
    }
}
