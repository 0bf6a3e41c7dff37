//! Rooms on a listening socket. Requests of peers become events that the host program answers.

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use serde_json::{json, Map, Value};

use super::event::{Event, EventKind};
use super::peer::{leave_code, ChannelKind, Peer};
use super::queue::{Queue, Waited, Wakeup};
use super::reactor::{Handler, Reactor, ReactorUse};
use super::room::{Outcome, Room, RoomState};
use super::{address, lock, DriveError};
use crate::code::code;
use crate::code::rtd_code::{RTD_E_IO, RTD_E_PANIC};
use crate::connection::Millis;
use crate::notebook::{Cell, Op};

/// When the system has no descriptor for a new connection, accepting pauses this long: the
/// listening socket stays readable, and trying at once would spin.
const ACCEPT_PAUSE: Millis = 100;

/// How a host is opened.
pub struct HostOptions {
    /// Connections at one time; further ones are closed at once.
    pub max_peers: usize,
    /// Milliseconds a new connection has for its handshake.
    pub handshake_timeout: Option<Millis>,
    /// Bytes of responses and broadcasts kept for a peer that does not read; beyond, it is disconnected.
    pub peer_limit: usize,
    /// Members added to the capabilities frame.
    pub capabilities: Map<String, Value>,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            max_peers: 1024,
            handshake_timeout: Some(10_000),
            peer_limit: 64 * 1024 * 1024,
            capabilities: Map::new(),
        }
    }
}

#[derive(Default)]
pub(super) struct Tables {
    peers: HashMap<u64, Arc<Peer>>,
    pub(super) rooms: HashMap<String, Arc<Room>>,
    /// Rooms that nobody may enter yet.
    pub(super) prepared: HashMap<String, Arc<Room>>,
    /// Peers that wait for a room the host program has not opened yet.
    pub(super) wanted: HashMap<String, Vec<Arc<Peer>>>,
    tokens: HashMap<u64, Arc<Peer>>,
    closed: bool,
}

/// What the I/O thread and the host program share.
pub struct HostShared {
    reactor: Arc<Reactor>,
    key: usize,
    pid: u32,
    listener: UnixListener,
    path: PathBuf,
    options: HostOptions,
    me: Weak<HostShared>,
    pub(super) tables: Mutex<Tables>,
    next_peer: AtomicU64,
    next_token: AtomicU64,
    queue: Queue,
}

/// Rooms on one socket. Every method may be called from any thread; one thread at a time takes events.
pub struct Host {
    pub(super) shared: Arc<HostShared>,
    // Dropped last: the thread outlives what runs on it.
    _reactor: ReactorUse,
}

impl Host {
    /// Listens at `path` (mode 0600). A socket file nobody answers on is replaced.
    ///
    /// # Errors
    /// `Io`, with `AddrInUse` when another process answers there.
    pub fn open(path: &Path, mut options: HostOptions) -> Result<Self, DriveError> {
        options.capabilities.insert("rtd".into(), json!(1));
        let guard = ReactorUse::acquire()?;
        let reactor = guard.reactor();
        let queue = Queue::new(usize::MAX)?;
        let listener = address::listen(path)?;
        let shared = Arc::new_cyclic(|me: &Weak<HostShared>| HostShared {
            key: reactor.register(me.clone()),
            reactor,
            pid: std::process::id(),
            listener,
            path: path.into(),
            options,
            me: me.clone(),
            tables: Mutex::new(Tables::default()),
            next_peer: AtomicU64::new(1),
            next_token: AtomicU64::new(1),
            queue,
        });
        let host = Self { shared, _reactor: guard };
        host.shared.reactor.watch(host.shared.key, &host.shared.listener, false)?;
        Ok(host)
    }

    /// Whether this is the process that opened the host.
    pub fn in_own_process(&self) -> bool {
        self.shared.pid == std::process::id()
    }

    /// Stops listening, disconnects every peer, removes the socket file. `Closed` is the last event.
    /// Idempotent.
    ///
    /// # Errors
    /// `State` in a forked child: socket and peers are the parent's.
    pub fn close(&self) -> Result<(), DriveError> {
        self.check_process()?;
        self.shared.close();
        Ok(())
    }

    /// The event queue's descriptor: readable exactly while an event or the end waits.
    pub fn fd(&self) -> std::os::fd::RawFd {
        self.shared.queue.fd()
    }

    /// Takes the next event.
    ///
    /// # Errors
    /// `Closed` after the last one; `State` in a forked child.
    pub fn next_event(&self) -> Result<Option<Event>, DriveError> {
        self.check_process()?;
        self.shared.queue.pop().map_err(|()| DriveError::Closed("the host is closed".into()))
    }

    /// Waits for an event, a wake, or the time limit.
    ///
    /// # Errors
    /// `State` in a forked child.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<Waited, DriveError> {
        self.check_process()?;
        Ok(self.shared.queue.wait(timeout))
    }

    /// Ends the present or next wait.
    ///
    /// # Errors
    /// `State` in a forked child.
    pub fn wake(&self) -> Result<(), DriveError> {
        self.check_process()?;
        self.shared.queue.wake();
        Ok(())
    }

    /// Sets or clears the wakeup callback; calls it at once when events wait.
    ///
    /// # Errors
    /// `State` in a forked child.
    pub fn set_wakeup(&self, wakeup: Option<Wakeup>) -> Result<(), DriveError> {
        self.check_process()?;
        self.shared.queue.set_wakeup(wakeup);
        Ok(())
    }

    /// Disconnects the peers that wait for a room which will not be opened.
    ///
    /// # Errors
    /// `NotFound` when nobody waits for it.
    pub fn refuse_room(&self, id: &str) -> Result<(), DriveError> {
        self.check_open()?;
        let waiting = lock(&self.shared.tables).wanted.remove(id);
        let waiting =
            waiting.ok_or_else(|| DriveError::NotFound(format!("nobody waits for the room {id}")))?;
        for peer in waiting {
            self.shared.drop_peer(&peer, &DriveError::State("the room was refused".into()));
        }
        Ok(())
    }

    /// Closes a room and disconnects its peers. The journal keeps the document.
    ///
    /// # Errors
    /// `NotFound` when there is no such room.
    pub fn close_room(&self, id: &str) -> Result<(), DriveError> {
        self.check_open()?;
        let room = self.shared.room(id)?;
        self.shared.close_room(&room);
        Ok(())
    }

    /// One change (all or nothing), one sync message per peer, then the broadcasts. With a `cause` the
    /// peer that made that request sees its response before these broadcasts.
    ///
    /// # Errors
    /// Those of the operations (nothing is done then); `NotFound`; `Poisoned`.
    pub fn publish(&self, id: &str, ops: &[Op], broadcasts: &[Value], cause: u64) -> Result<(), DriveError> {
        self.check_open()?;
        let room = self.shared.room(id)?;
        self.shared.step(&room, |state, outcome| state.publish(ops, broadcasts, cause, outcome))
    }

    /// Answers a request. Order and identifiers are the library's work.
    ///
    /// # Errors
    /// `NotFound` when the request was answered or its peer has gone.
    pub fn respond(&self, token: u64, body: &Value) -> Result<(), DriveError> {
        self.check_open()?;
        let gone = || DriveError::NotFound(format!("no such request: {token}"));
        let peer = lock(&self.shared.tables).tokens.remove(&token).ok_or_else(gone)?;
        if !peer.respond(token, body) {
            return Err(gone());
        }
        match peer.room() {
            Some(room) => self.shared.step(&Arc::clone(room), |state, _| {
                // Through the document's lock: the flush may have a sync message to make as well.
                peer.flush(Some(&state.notebook))
            }),
            None => peer.flush(None),
        }
        .map_err(|error| {
            self.shared.drop_peer(&peer, &error);
            gone()
        })
    }

    /// The cells of a room, in document order.
    ///
    /// # Errors
    /// `NotFound`; `Poisoned`.
    pub fn cells(&self, id: &str) -> Result<Vec<Cell>, DriveError> {
        self.read(id, |state| Ok(state.notebook.cells()))
    }

    /// One cell of a room.
    ///
    /// # Errors
    /// `NotFound` for the room or the cell; `Poisoned`.
    pub fn cell(&self, id: &str, cell_id: &str) -> Result<Cell, DriveError> {
        self.read(id, |state| {
            let cell = state.notebook.cell(cell_id);
            cell.ok_or_else(|| DriveError::NotFound(format!("Cell not found: {cell_id}")))
        })
    }

    /// The metadata strings of a room's document.
    ///
    /// # Errors
    /// `NotFound`; `Poisoned`.
    pub fn metadata(&self, id: &str) -> Result<Value, DriveError> {
        self.read(id, |state| Ok(json!(state.notebook.metadata())))
    }

    /// All rooms: id, number of peers.
    ///
    /// # Errors
    /// `State` in a forked child.
    pub fn rooms(&self) -> Result<Value, DriveError> {
        self.check_process()?;
        let rooms: Vec<Arc<Room>> = lock(&self.shared.tables).rooms.values().cloned().collect();
        Ok(rooms.iter().map(|room| json!({"notebook_id": room.id, "peers": room.peer_count()})).collect())
    }

    /// Disconnects one peer.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn disconnect(&self, peer: u64) -> Result<(), DriveError> {
        self.check_open()?;
        let peer =
            self.shared.peer(peer).ok_or_else(|| DriveError::NotFound(format!("no such peer: {peer}")))?;
        self.shared.drop_peer(&peer, &DriveError::Closed("disconnected by the host".into()));
        Ok(())
    }

    fn read<T>(
        &self,
        id: &str,
        read: impl FnOnce(&RoomState) -> Result<T, DriveError>,
    ) -> Result<T, DriveError> {
        self.check_open()?;
        let room = self.shared.room(id)?;
        self.shared.step(&room, |state, _| read(state))
    }

    fn check_process(&self) -> Result<(), DriveError> {
        if self.in_own_process() {
            Ok(())
        } else {
            Err(DriveError::State("this host belongs to the parent process".into()))
        }
    }

    pub(super) fn check_open(&self) -> Result<(), DriveError> {
        self.check_process()?;
        if lock(&self.shared.tables).closed {
            return Err(DriveError::Closed("the host is closed".into()));
        }
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The C layer never drops a handle of the parent in a forked child.
        if self.close().is_ok() {
            self.shared.queue.set_wakeup(None);
        }
    }
}

impl HostShared {
    /// A peer by its number.
    pub fn peer(&self, id: u64) -> Option<Arc<Peer>> {
        lock(&self.tables).peers.get(&id).cloned()
    }

    /// An open or prepared room.
    pub(super) fn room(&self, id: &str) -> Result<Arc<Room>, DriveError> {
        let tables = lock(&self.tables);
        let room = tables.rooms.get(id).or_else(|| tables.prepared.get(id)).cloned();
        room.ok_or_else(|| DriveError::NotFound(format!("no such room: {id}")))
    }

    pub(super) fn step<T>(
        &self,
        room: &Arc<Room>,
        step: impl FnOnce(&mut RoomState, &mut Outcome) -> Result<T, DriveError>,
    ) -> Result<T, DriveError> {
        let mut outcome = Outcome::default();
        let result = room.step(&mut outcome, step);
        self.after(room, outcome);
        if let Err(DriveError::Panic(reason)) = &result {
            self.break_room(room, code(RTD_E_PANIC), reason);
        }
        result
    }

    /// Registers a request and makes its event.
    pub fn expect(
        &self,
        peer: &Arc<Peer>,
        channel: ChannelKind,
        id: &str,
        body: Vec<u8>,
        request_id: Option<Value>,
    ) -> Event {
        let token = self.next_token.fetch_add(1, Ordering::Relaxed);
        lock(&peer.state).server.outbox.expect(token, request_id);
        lock(&self.tables).tokens.insert(token, Arc::clone(peer));
        let mut event = Event::new(EventKind::Request);
        event.code = channel as i32;
        event.token = token;
        event.peer = peer.id;
        event.id = id.into();
        event.payload = body;
        event
    }

    /// Queues events for the host program.
    pub fn publish_events(&self, events: Vec<Event>) {
        let _announcer = self.queue.announcer();
        for event in events {
            self.queue.push(event);
        }
    }

    /// Tells what a step left: lost peers, a failed journal.
    pub fn after(&self, room: &Arc<Room>, outcome: Outcome) {
        if let Some(error) = outcome.unsaved {
            self.room_failed(room, code(RTD_E_IO), &error.to_string());
        }
        for (peer, error) in outcome.lost {
            self.drop_peer(&peer, &error);
        }
    }

    fn room_failed(&self, room: &Room, reason_code: i32, reason: &str) {
        let _announcer = self.queue.announcer();
        let mut event = Event::new(EventKind::RoomFailed);
        event.id.clone_from(&room.id);
        event.code = reason_code;
        event.text = reason.into();
        self.queue.push(event);
    }

    /// Closes a room that cannot be used any more, and says so.
    pub fn break_room(&self, room: &Arc<Room>, reason_code: i32, reason: &str) {
        self.room_failed(room, reason_code, reason);
        self.close_room(room);
    }

    fn close_room(&self, room: &Arc<Room>) {
        {
            let mut tables = lock(&self.tables);
            tables.rooms.remove(&room.id);
            tables.prepared.remove(&room.id);
        }
        for peer in room.shut() {
            self.drop_peer(&peer, &DriveError::Closed("the room was closed".into()));
        }
    }

    /// A peer finished its handshake for a room.
    pub fn wants_room(&self, peer: &Arc<Peer>, id: String) {
        let room = {
            let mut tables = lock(&self.tables);
            let room = tables.rooms.get(&id).cloned();
            if room.is_none() {
                let prepared = tables.prepared.contains_key(&id);
                let waiting = tables.wanted.entry(id.clone()).or_default();
                waiting.push(Arc::clone(peer));
                if prepared || waiting.len() > 1 {
                    return;
                }
            }
            room
        };
        match room {
            Some(room) => self.enter(peer, &room),
            None => {
                let _announcer = self.queue.announcer();
                let mut event = Event::new(EventKind::RoomWanted);
                event.id = id;
                self.queue.push(event);
            }
        }
    }

    pub(super) fn enter(&self, peer: &Arc<Peer>, room: &Arc<Room>) {
        let _announcer = self.queue.announcer();
        let entered = self.step(room, |state, _| {
            if self.peer(peer.id).is_none() {
                return Ok(());
            }
            peer.enter(room, &state.notebook, &self.options.capabilities)?;
            state.peers.push(Arc::clone(peer));
            // Under the room's lock, so that joins and leaves are told in the order they happened.
            self.queue.push(room_event(EventKind::PeerJoined, room, peer, state.peers.len()));
            Ok(())
        });
        if let Err(error) = entered {
            self.drop_peer(peer, &error);
        }
    }

    /// Ends a connection and tells who left. Idempotent.
    pub fn drop_peer(&self, peer: &Arc<Peer>, error: &DriveError) {
        {
            let mut tables = lock(&self.tables);
            if tables.peers.remove(&peer.id).is_none() {
                return;
            }
            tables.tokens.retain(|_, other| other.id != peer.id);
            for waiting in tables.wanted.values_mut() {
                waiting.retain(|other| other.id != peer.id);
            }
        }
        peer.hang_up();
        let Some(room) = peer.room() else {
            return;
        };
        let _announcer = self.queue.announcer();
        let tell = |peers: usize| {
            let mut event = room_event(EventKind::PeerLeft, room, peer, peers);
            event.code = leave_code(error);
            event.text = error.to_string();
            self.queue.push(event);
        };
        let left = room.step(&mut Outcome::default(), |state, _| {
            state.peers.retain(|other| other.id != peer.id);
            tell(state.peers.len());
            Ok(())
        });
        if left.is_err() {
            tell(0);
        }
    }

    fn accept(&self) {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(_) => {
                    if self.reactor.rewatch(self.key, &self.listener, false, false).is_ok() {
                        self.reactor.set_timer(self.key, Some(self.reactor.now() + ACCEPT_PAUSE));
                    }
                    return;
                }
            };
            if stream.set_nonblocking(true).is_err() {
                continue;
            }
            let id = self.next_peer.fetch_add(1, Ordering::Relaxed);
            let peer = Peer::new(id, stream, self.me.clone(), &self.reactor, self.options.peer_limit);
            {
                let mut tables = lock(&self.tables);
                if tables.closed || tables.peers.len() >= self.options.max_peers {
                    drop(tables);
                    peer.hang_up();
                    continue;
                }
                tables.peers.insert(id, Arc::clone(&peer));
            }
            let deadline =
                self.options.handshake_timeout.map(|timeout| self.reactor.now().saturating_add(timeout));
            if let Err(error) = peer.start(deadline) {
                self.drop_peer(&peer, &error.into());
            }
        }
    }

    fn close(&self) {
        let peers: Vec<Arc<Peer>> = {
            let mut tables = lock(&self.tables);
            if std::mem::replace(&mut tables.closed, true) {
                return;
            }
            tables.peers.values().cloned().collect()
        };
        self.reactor.forget(self.key, Some(&self.listener));
        let _removed_by_others = std::fs::remove_file(&self.path);
        for peer in peers {
            self.drop_peer(&peer, &DriveError::Closed("the host was closed".into()));
        }
        let mut tables = lock(&self.tables);
        tables.rooms.clear();
        tables.prepared.clear();
        tables.wanted.clear();
        drop(tables);
        let _announcer = self.queue.announcer();
        self.queue.push(Event::new(EventKind::Closed));
    }
}

fn room_event(kind: EventKind, room: &Room, peer: &Peer, peers: usize) -> Event {
    let mut event = Event::new(kind);
    event.id.clone_from(&room.id);
    event.peer = peer.id;
    event.number = i64::try_from(peers).unwrap_or(i64::MAX);
    event
}

impl Handler for HostShared {
    fn ready(&self, readable: bool, _writable: bool) {
        if readable {
            self.accept();
        }
    }

    fn timer(&self) {
        // The pause after running out of descriptors is over.
        if self.reactor.rewatch(self.key, &self.listener, true, false).is_ok() {
            self.accept();
        }
    }

    fn failed(&self, reason: String) {
        let _announcer = self.queue.announcer();
        let mut event = Event::new(EventKind::RoomFailed);
        event.code = code(RTD_E_PANIC);
        event.text = reason;
        self.queue.push(event);
    }
}
