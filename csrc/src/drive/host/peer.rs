//! One accepted connection of a host.

mod turn;

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use serde_json::Value;

use turn::Turn;

use super::hub::{HostShared, Hosted};
use super::room::{Home, Room};
use crate::code::code;
use crate::code::rtd_channel::{RTD_CHANNEL_BLOB, RTD_CHANNEL_POOL};
use crate::code::rtd_code::{RTD_E_IO, RTD_E_PANIC, RTD_E_TIMEOUT, RTD_E_TOO_BIG};
use crate::connection::{Server, ServerEvent};
use crate::drive::reactor::{Handler, Reactor};
use crate::drive::{address, lock, DriveError};
use crate::notebook::Notebook;
use crate::replica::{Doc, Replica};
use crate::wire::handshake::Channel;

/// Bytes read before other sockets get their turn.
const READ_BUDGET: usize = 256 * 1024;
/// Requests of one connection without an answer; what the peer sends beyond is not looked at. The same holds for
/// their bytes beyond the limit of the peer.
const UNANSWERED_LIMIT: usize = 1024;
/// Milliseconds a request waits for changes that its sender announced but did not deliver.
const DEFER_LIMIT: u64 = 250;
/// The media type of a blob whose sender names none.
const UNKNOWN_TYPE: &str = "application/octet-stream";
/// The same for a sender that answers sync frames at any time: only a machine that is very busy, or a
/// client that is broken, comes near it.
const DEFER_LIMIT_EXTENDED: u64 = 15_000;

/// One accepted connection.
pub struct Peer {
    /// Number of this connection in its host.
    pub id: u64,
    key: usize,
    reactor: Arc<Reactor>,
    stream: UnixStream,
    host: Weak<HostShared>,
    home: OnceLock<Home>,
    pub state: Mutex<PeerState>,
    watch: Mutex<Watch>,
    limit: usize,
}

/// The mutable half of a peer.
pub struct PeerState {
    pub server: Server,
    gone: bool,
    /// Not all that was read was looked at: requests must be answered first.
    held: bool,
    deferring: bool,
}

/// What the socket is watched for. A lock of its own, held for a moment only, so that the I/O thread can
/// stop watching a peer whose state is in use.
struct Watch {
    readable: bool,
    writable: bool,
    /// Its turn waits; until then it is watched for nothing.
    parked: bool,
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
            home: OnceLock::new(),
            state: Mutex::new(PeerState {
                server: Server::new(),
                gone: false,
                held: false,
                deferring: false,
            }),
            watch: Mutex::new(Watch { readable: true, writable: false, parked: false }),
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

    /// Where this peer is; nowhere before its handshake, and on channels without a document.
    pub fn home(&self) -> Option<&Home> {
        self.home.get()
    }

    /// The room of a notebook this peer is in.
    pub fn room(&self) -> Option<&Arc<Room>> {
        match self.home() {
            Some(Home::Room(room)) => Some(room),
            _ => None,
        }
    }

    /// Lets the peer share a document: capabilities (version 2) and the first sync message go out at once.
    ///
    /// # Errors
    /// The connection cannot be used.
    pub fn enter<D: Hosted>(
        &self,
        room: &Arc<Room<D>>,
        document: &D,
        capabilities: &serde_json::Map<String, Value>,
    ) -> Result<(), DriveError> {
        // Set once: a peer enters one room in its life.
        let _entered_before = self.home.set(D::home(Arc::clone(room)));
        let mut state = lock(&self.state);
        state.server.join(capabilities)?;
        if !state.server.pending().is_empty() {
            // What came together with the handshake makes the socket readable no more.
            self.reactor.revisit(self.key);
        }
        drop(state);
        self.flush(Some(document))
    }

    /// Sends a state, instead of the last one if that still waits.
    ///
    /// # Errors
    /// As [`Peer::flush`].
    pub fn present(&self, json: &Arc<[u8]>) -> Result<(), DriveError> {
        lock(&self.state).server.outbox.present(json);
        self.flush(None)
    }

    /// Sends what the socket takes now; the rest follows when it is writable.
    ///
    /// # Errors
    /// The peer is gone, too slow for its bound, or a message does not fit a frame.
    pub fn flush(&self, document: Option<&dyn Doc>) -> Result<(), DriveError> {
        let mut state = lock(&self.state);
        if state.gone {
            return Ok(());
        }
        loop {
            state.server.fill(document)?;
            if !state.server.outbox.has_output() {
                break;
            }
            match address::send(&self.stream, state.server.outbox.output()) {
                Ok(count) => state.server.outbox.written(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Its last edits may be unread; the end of the stream ends the connection.
                Err(error) if hung_up(&error) => state.server.outbox.close(),
                Err(error) => return Err(error.into()),
            }
        }
        if state.server.outbox.queued() > self.limit {
            let text = format!("the peer left more than {} bytes unread", self.limit);
            return Err(DriveError::TooBig(text));
        }
        let full = self.is_full(&state);
        if state.held && !full {
            self.reactor.revisit(self.key);
        }
        let reads = !state.server.is_waiting() && !full;
        self.watch_for(reads, state.server.outbox.has_output(), false)?;
        Ok(())
    }

    /// Whether requests must be answered before more of them are looked at.
    fn is_full(&self, state: &PeerState) -> bool {
        let outbox = &state.server.outbox;
        outbox.unanswered() >= UNANSWERED_LIMIT || outbox.unanswered_bytes() > self.limit
    }

    /// Changes what the socket is watched for: at once, or when its turn, which waits, is done.
    fn watch_for(&self, readable: bool, writable: bool, park: bool) -> io::Result<()> {
        let mut watch = lock(&self.watch);
        watch.parked |= park;
        let (readable, writable) = (readable && !watch.parked, writable && !watch.parked);
        if (watch.readable, watch.writable) != (readable, writable) {
            self.reactor.rewatch(self.key, &self.stream, readable, writable)?;
            (watch.readable, watch.writable) = (readable, writable);
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

    fn next<R: Replica>(
        &self,
        document: Option<&mut R>,
    ) -> Result<Option<ServerEvent<R::Changes>>, DriveError> {
        let mut state = lock(&self.state);
        state.held = self.is_full(&state);
        if state.held {
            return Ok(None);
        }
        state.server.next(document).map_err(Into::into)
    }

    /// To be called at the end of the stream, when all was looked at that may be.
    ///
    /// # Errors
    /// `Closed`, unless some of it has to wait; the end is found again then.
    fn end(&self) -> Result<(), DriveError> {
        if lock(&self.state).held {
            return Ok(());
        }
        Err(DriveError::Closed(String::new()))
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

    /// A step of a peer on any other channel, or before its handshake.
    fn step_outside(self: &Arc<Self>, host: &Arc<HostShared>, readable: bool) -> Result<(), DriveError> {
        let ended = if readable { self.read()? } else { false };
        loop {
            match self.next::<Notebook>(None)? {
                Some(ServerEvent::Handshake(handshake)) => {
                    self.reactor.set_timer(self.key, None);
                    host.greeted(self);
                    match handshake.channel {
                        Channel::Notebook { notebook_id, .. } => {
                            self.flush(None)?;
                            host.wants_room(self, notebook_id);
                            return Ok(());
                        }
                        Channel::PoolState => host.subscribe(self)?,
                        Channel::SettingsSync => {
                            host.enter_settings(self)?;
                            return Ok(());
                        }
                        Channel::Pool | Channel::Blob => {}
                    }
                }
                Some(ServerEvent::PoolRequest(body)) => {
                    let event = host.expect(self, RTD_CHANNEL_POOL, "", body, None);
                    host.publish_event(event);
                }
                Some(ServerEvent::BlobPort(body)) => {
                    let event = host.expect(self, RTD_CHANNEL_BLOB, "", body, None);
                    host.publish_event(event);
                }
                Some(ServerEvent::BlobStore { media_type, bytes }) => {
                    // An event without an id is a question for the port.
                    let media_type = if media_type.is_empty() { UNKNOWN_TYPE } else { &media_type };
                    let event = host.expect(self, RTD_CHANNEL_BLOB, media_type, bytes, None);
                    host.publish_event(event);
                }
                Some(ServerEvent::Synced(_) | ServerEvent::Request { .. }) | None => break,
            }
        }
        self.flush(None)?;
        if ended {
            self.end()?;
        }
        Ok(())
    }
}

fn hung_up(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
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
        match self.home() {
            // Its turn waits, and looks at everything.
            Some(_) if lock(&self.watch).parked => {}
            Some(home) => me.turn(&host, home, Turn { readable, late: false }),
            None => {
                if let Err(error) = me.step_outside(&host, readable) {
                    host.drop_peer(&me, &error);
                }
            }
        }
    }

    fn timer(&self) {
        let Some((host, me)) = self.host.upgrade().and_then(|host| host.peer(self.id).map(|me| (host, me)))
        else {
            return;
        };
        match self.home() {
            Some(home) => me.turn(&host, home, Turn { readable: false, late: true }),
            None if lock(&self.state).server.before_handshake() => {
                host.drop_peer(&me, &DriveError::Timeout("no handshake".into()));
            }
            None => {}
        }
    }

    fn failed(&self, reason: String) {
        if let Some((host, me)) = self.host.upgrade().and_then(|host| host.peer(self.id).map(|me| (host, me)))
        {
            host.drop_peer(&me, &DriveError::Panic(reason));
        }
    }
}
