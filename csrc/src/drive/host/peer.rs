//! Storey 3, host: one accepted connection: its socket and its protocol state. Does not use the host.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use serde_json::{Map, Value};

use super::member::Member;
use super::room::{Membership, Room};
use crate::connection::{Outbox, Server, ServerEvent};
use crate::drive::reactor::Reactor;
use crate::drive::{address, lock, DriveError};
use crate::replica::{Doc, Replica};

/// Bytes read before other sockets get their turn.
const READ_BUDGET: usize = 256 * 1024;
/// Size of the first read of a turn; most turns need no more.
const SMALL_READ: usize = 4 * 1024;
/// Size of the reads after a first one that was full.
const LARGE_READ: usize = 64 * 1024;
/// Requests of one connection without an answer; with more, the rest of its input waits. The same holds for their bytes
/// over the limit of the peer.
const UNANSWERED_LIMIT: usize = 1024;

/// One accepted connection.
pub struct Peer {
    /// Number of this connection in its host.
    pub id: u64,
    key: usize,
    reactor: Arc<Reactor>,
    stream: UnixStream,
    membership: OnceLock<Membership>,
    state: Mutex<PeerState>,
    interest: Mutex<Interest>,
    limit: usize,
}

/// The protocol state of a peer.
pub struct PeerState {
    /// The connection without its socket.
    pub server: Server,
    closed: bool,
    /// Some input was left undecoded: requests must be answered first.
    held: bool,
    /// The timer of the gate is set.
    timed: bool,
    limit: usize,
}

/// What the poller watches the socket for. A lock of its own, held for a moment only, so that the I/O thread can stop
/// watching a peer whose state is in use.
struct Interest {
    readable: bool,
    writable: bool,
    /// A turn of this peer is queued; until it runs the socket is not watched.
    paused: bool,
}

impl Peer {
    /// A connection that was just accepted. `key` is that of its handler in the reactor.
    pub fn new(id: u64, key: usize, stream: UnixStream, reactor: &Arc<Reactor>, limit: usize) -> Self {
        Self {
            id,
            key,
            reactor: Arc::clone(reactor),
            stream,
            membership: OnceLock::new(),
            state: Mutex::new(PeerState {
                server: Server::new(),
                closed: false,
                held: false,
                timed: false,
                limit,
            }),
            interest: Mutex::new(Interest { readable: true, writable: false, paused: false }),
            limit,
        }
    }

    /// Starts watching the socket; the handshake must come before `deadline`.
    ///
    /// # Errors
    /// The system refused.
    pub fn start(&self, deadline: Option<u64>) -> io::Result<()> {
        self.reactor.watch(self.key, &self.stream, false)?;
        self.reactor.set_timer(self.key, deadline);
        Ok(())
    }

    /// The handshake has arrived: its time limit is off.
    pub fn handshake_arrived(&self) {
        self.reactor.set_timer(self.key, None);
    }

    /// Whether the handshake is still to come.
    pub fn is_before_handshake(&self) -> bool {
        self.lock().server.before_handshake()
    }

    /// What this peer takes part in; nothing before its handshake, and on channels without a document.
    pub fn membership(&self) -> Option<&Membership> {
        self.membership.get()
    }

    /// Sets what this peer takes part in, once: a peer enters one room in its life.
    pub fn set_membership(&self, membership: Membership) {
        let _entered_before = self.membership.set(membership);
    }

    /// The notebook's room that this peer is in.
    pub fn room(&self) -> Option<&Arc<Room>> {
        match self.membership() {
            Some(Membership::Room(room)) => Some(room),
            _ => None,
        }
    }

    /// Lets the peer share a document: capabilities (version 2) and the first sync message leave at once.
    ///
    /// # Errors
    /// The connection cannot be used.
    pub fn enter(&self, document: &dyn Doc, capabilities: &Map<String, Value>) -> Result<(), DriveError> {
        let mut state = self.lock();
        state.server.join(capabilities)?;
        if !state.server.pending().is_empty() {
            // Input that came together with the handshake does not make the socket readable again.
            self.reactor.revisit(self.key);
        }
        self.flush(&mut state, Some(document))
    }

    /// Locks the protocol state.
    pub fn lock(&self) -> MutexGuard<'_, PeerState> {
        lock(&self.state)
    }

    /// Writes what the socket takes now; the rest follows when it is writable.
    ///
    /// # Errors
    /// As [`Member::send`].
    pub fn flush(&self, state: &mut PeerState, document: Option<&dyn Doc>) -> Result<(), DriveError> {
        if state.closed {
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
                // The last edits of the peer may be unread; the end of the stream ends the connection.
                Err(error) if is_hang_up(&error) => state.server.outbox.close(),
                Err(error) => return Err(error.into()),
            }
        }
        if state.server.outbox.queued() > self.limit {
            let text = format!("the peer left more than {} bytes unread", self.limit);
            return Err(DriveError::TooBig(text));
        }
        let full = state.is_full();
        if state.held && !full {
            self.reactor.revisit(self.key);
        }
        let reads = !state.server.is_waiting() && !full;
        self.watch(reads, state.server.outbox.has_output())?;
        Ok(())
    }

    /// Changes what the socket is watched for; while the peer is paused, not at all.
    fn watch(&self, readable: bool, writable: bool) -> io::Result<()> {
        self.set_interest(&mut lock(&self.interest), readable, writable)
    }

    fn set_interest(&self, interest: &mut Interest, readable: bool, writable: bool) -> io::Result<()> {
        let (readable, writable) = (readable && !interest.paused, writable && !interest.paused);
        if (interest.readable, interest.writable) != (readable, writable) {
            self.reactor.rewatch(self.key, &self.stream, readable, writable)?;
            (interest.readable, interest.writable) = (readable, writable);
        }
        Ok(())
    }

    /// Stops watching the socket because a turn of this peer is queued.
    ///
    /// # Errors
    /// The system refused.
    pub fn pause(&self) -> io::Result<()> {
        let mut interest = lock(&self.interest);
        interest.paused = true;
        self.set_interest(&mut interest, false, false)
    }

    /// The queued turn runs now; the next flush watches the socket again.
    pub fn resume(&self) {
        lock(&self.interest).paused = false;
    }

    /// Whether a turn of this peer is queued.
    pub fn is_paused(&self) -> bool {
        lock(&self.interest).paused
    }

    /// Notes the answer to a request; `false` when the token is unknown or was answered before.
    pub fn respond(&self, token: u64, body: &Value) -> bool {
        self.lock().server.outbox.respond(token, body)
    }

    /// Closes the connection. Idempotent.
    pub fn hang_up(&self) {
        if !std::mem::replace(&mut self.lock().closed, true) {
            self.reactor.forget(self.key, Some(&self.stream));
            let _already_disconnected = self.stream.shutdown(std::net::Shutdown::Both);
        }
    }

    /// Reads what is there, up to the budget; `Ok(true)` at the end of the stream.
    ///
    /// # Errors
    /// The socket failed.
    pub fn read(&self, state: &mut PeerState) -> Result<bool, DriveError> {
        if state.server.is_waiting() {
            return Ok(address::at_end(&self.stream));
        }
        let (mut small, mut large) = ([0_u8; SMALL_READ], Vec::new());
        let mut budget = READ_BUDGET;
        while budget > 0 {
            let buffer = if large.is_empty() { &mut small[..] } else { &mut large[..] };
            match (&self.stream).read(buffer) {
                Ok(0) => return Ok(true),
                Ok(count) => {
                    state.server.push(&buffer[..count]);
                    budget = budget.saturating_sub(count);
                    if count < buffer.len() {
                        break;
                    }
                    large.resize(LARGE_READ, 0);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // A peer that hangs up without reading all shows as a reset, after what it wrote (section 2.4).
                Err(error) if is_hang_up(&error) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(false)
    }

    /// Sets or clears the time limit of requests that wait for changes.
    pub fn set_gate_timer(&self, state: &mut PeerState) {
        let waits = state.server.is_deferring();
        if std::mem::replace(&mut state.timed, waits) != waits {
            let limit = state.server.peer().defer_limit();
            self.reactor.set_timer(self.key, waits.then(|| self.reactor.now() + limit));
        }
    }
}

impl PeerState {
    /// Whether the connection was closed.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether some input was left undecoded because requests must be answered first.
    pub fn is_held(&self) -> bool {
        self.held
    }

    /// Whether requests must be answered before more input is decoded.
    fn is_full(&self) -> bool {
        let outbox = &self.server.outbox;
        outbox.unanswered() >= UNANSWERED_LIMIT || outbox.unanswered_bytes() > self.limit
    }

    /// The next event in the input; `None` when there is none, or requests must be answered first.
    ///
    /// # Errors
    /// The peer broke the protocol.
    pub fn next<R: Replica>(
        &mut self,
        document: Option<&mut R>,
    ) -> Result<Option<ServerEvent<R::Changes>>, DriveError> {
        self.held = self.is_full();
        if self.held {
            return Ok(None);
        }
        self.server.next(document).map_err(Into::into)
    }
}

impl Member for Peer {
    fn id(&self) -> u64 {
        self.id
    }

    fn send(&self, document: Option<&dyn Doc>, queue: &dyn Fn(&mut Outbox)) -> Result<(), DriveError> {
        let mut state = self.lock();
        if !state.closed {
            queue(&mut state.server.outbox);
        }
        self.flush(&mut state, document)
    }
}

fn is_hang_up(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}
