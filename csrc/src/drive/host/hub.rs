//! What the I/O thread and the host program share of a host: its peers, rooms and requests.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use serde_json::Value;

use super::latest::Bulletin;
use super::offload::{guarded, Crew};

use super::api::HostOptions;
use super::peer::{leave_code, Peer};
use super::room::{Home, Outcome, Room, RoomState};
use crate::code::code;
use crate::code::rtd_channel;
use crate::code::rtd_code::{RTD_E_IO, RTD_E_PANIC};
use crate::code::rtd_event_kind::{self, *};
use crate::connection::{Event, Hint, Millis};
use crate::drive::queue::Queue;
use crate::drive::reactor::{Handler, Reactor};
use crate::drive::{address, lock, DriveError};
use crate::notebook::Notebook;
use crate::replica::Replica;
use crate::settings::Settings;
use crate::wire::v2::PoolState;
use crate::wire::Message;

/// Connections before their handshake. When more come, the one that has waited longest is closed: clients send
/// theirs at once. More than the system keeps for us, so that a crowd of them is no harm.
const NEWCOMERS: usize = 256;

/// When the system has no descriptor for a new connection, accepting pauses this long: the
/// listening socket stays readable, and trying at once would spin.
const ACCEPT_PAUSE: Millis = 100;

/// Who is there. Locked last of all locks, and only for a moment.
#[derive(Default)]
pub struct Tables {
    pub peers: HashMap<u64, Arc<Peer>>,
    pub rooms: HashMap<String, Arc<Room>>,
    /// Rooms that nobody may enter yet.
    pub prepared: HashMap<String, Arc<Room>>,
    /// Peers that wait for a room the host program has not opened yet.
    pub wanted: HashMap<String, Vec<Arc<Peer>>>,
    pub tokens: HashMap<u64, Arc<Peer>>,
    /// Connections before their handshake; numbers grow, so the first one has waited longest.
    newcomers: BTreeSet<u64>,
    pub settings: Option<Arc<Room<Settings>>>,
    pub closed: bool,
}

/// A document that a host has: what differs between a room and the settings.
pub trait Hosted: Replica + Sized {
    /// The event that tells a failure.
    const FAILED: rtd_event_kind;
    /// Takes it out of the tables, so that nobody finds it any more.
    fn take_out(tables: &mut Tables, room: &Room<Self>);
    /// The place of a peer that is in it.
    fn home(room: Arc<Room<Self>>) -> Home;
    /// What a change event says of changes.
    fn hint(changes: &Self::Changes) -> Hint;
}

impl Hosted for Notebook {
    const FAILED: rtd_event_kind = RTD_EV_ROOM_FAILED;
    fn take_out(tables: &mut Tables, room: &Room) {
        tables.rooms.remove(&room.id);
        tables.prepared.remove(&room.id);
    }
    fn home(room: Arc<Room>) -> Home {
        Home::Room(room)
    }
    fn hint(changes: &Self::Changes) -> Hint {
        Hint::new(changes)
    }
}

impl Hosted for Settings {
    const FAILED: rtd_event_kind = RTD_EV_SETTINGS_FAILED;
    fn take_out(tables: &mut Tables, _room: &Room<Self>) {
        tables.settings = None;
    }
    fn home(room: Arc<Room<Self>>) -> Home {
        Home::Settings(room)
    }
    fn hint(_: &Self::Changes) -> Hint {
        Hint::default()
    }
}

/// What the I/O thread and the host program share.
pub struct HostShared {
    reactor: Arc<Reactor>,
    key: usize,
    /// The process that opened the host.
    pub pid: u32,
    listener: UnixListener,
    path: PathBuf,
    options: HostOptions,
    me: Weak<HostShared>,
    pub tables: Mutex<Tables>,
    next_peer: AtomicU64,
    next_token: AtomicU64,
    pub pool_state: Bulletin,
    /// The event that tells a change of the settings waits, or was taken and the settings not read since.
    pub settings_unread: AtomicBool,
    pub crew: Crew,
    pub queue: Queue,
}

impl HostShared {
    /// Listens at `path` and accepts from now on.
    ///
    /// # Errors
    /// As [`address::listen`].
    pub fn listen(path: &Path, options: HostOptions, reactor: Arc<Reactor>) -> Result<Arc<Self>, DriveError> {
        let queue = Queue::new(usize::MAX)?;
        let listener = address::listen(path)?;
        let healthy = PoolState::PoolState { uv_error: None, conda_error: None };
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
            pool_state: Bulletin::new(Message::from(healthy).to_json()),
            settings_unread: AtomicBool::new(false),
            crew: Crew::default(),
            queue,
        });
        shared.reactor.watch(shared.key, &shared.listener, false)?;
        Ok(shared)
    }

    /// A peer by its number.
    pub fn peer(&self, id: u64) -> Option<Arc<Peer>> {
        lock(&self.tables).peers.get(&id).cloned()
    }

    /// An open or prepared room.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn room(&self, id: &str) -> Result<Arc<Room>, DriveError> {
        let tables = lock(&self.tables);
        let room = tables.rooms.get(id).or_else(|| tables.prepared.get(id)).cloned();
        room.ok_or_else(|| DriveError::NotFound(format!("no such room: {id}")))
    }

    /// Runs a step of a room and tells what it left; a room that panicked is closed.
    ///
    /// # Errors
    /// As [`Room::step`].
    pub fn step<D: Hosted, T>(
        &self,
        room: &Arc<Room<D>>,
        step: impl FnOnce(&mut RoomState<D>, &mut Outcome) -> Result<T, DriveError>,
    ) -> Result<T, DriveError> {
        let mut outcome = Outcome::default();
        let result = room.aside.watched(|| room.step(&mut outcome, step));
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
        channel: rtd_channel,
        id: &str,
        body: Vec<u8>,
        request_id: Option<Value>,
    ) -> Event {
        let token = self.next_token.fetch_add(1, Ordering::Relaxed);
        lock(&peer.state).server.outbox.expect(token, request_id, body.len());
        lock(&self.tables).tokens.insert(token, Arc::clone(peer));
        let mut event = Event::new(RTD_EV_REQUEST);
        event.code = channel as i32;
        event.token = token;
        event.peer = peer.id;
        event.id = id.into();
        event.payload = body;
        event
    }

    /// Queues an event for the host program. Not to be called under a lock.
    pub fn publish_event(&self, event: Event) {
        let _announcer = self.queue.announcer();
        self.queue.push(event);
    }

    /// Tells what a step left: lost peers, a failed journal.
    pub fn after<D: Hosted>(&self, room: &Arc<Room<D>>, outcome: Outcome) {
        if let Some(error) = outcome.unsaved {
            self.room_failed(room, code(RTD_E_IO), &error.to_string());
        }
        for (peer, error) in outcome.lost {
            self.drop_peer(&peer, &error);
        }
    }

    fn room_failed<D: Hosted>(&self, room: &Room<D>, reason_code: i32, reason: &str) {
        let _announcer = self.queue.announcer();
        let mut event = Event::new(D::FAILED);
        event.id.clone_from(&room.id);
        event.code = reason_code;
        event.text = reason.into();
        self.queue.push(event);
    }

    /// Closes a room that cannot be used any more, and says so.
    pub fn break_room<D: Hosted>(&self, room: &Arc<Room<D>>, reason_code: i32, reason: &str) {
        self.room_failed(room, reason_code, reason);
        self.close_room(room);
    }

    /// Closes a room and ends the connections of its peers.
    pub fn close_room<D: Hosted>(&self, room: &Arc<Room<D>>) {
        D::take_out(&mut lock(&self.tables), room);
        for peer in room.shut() {
            self.drop_peer(&peer, &DriveError::Closed("the room was closed".into()));
        }
    }

    /// Closes a room that nobody is in.
    ///
    /// # Errors
    /// As [`Room::evict`].
    pub fn evict_room(&self, room: &Arc<Room>) -> Result<(), DriveError> {
        room.evict(|| Notebook::take_out(&mut lock(&self.tables), room))
    }

    /// The settings, if they are open.
    ///
    /// # Errors
    /// `State`.
    pub fn settings(&self) -> Result<Arc<Room<Settings>>, DriveError> {
        let settings = lock(&self.tables).settings.clone();
        settings.ok_or_else(|| DriveError::State("the settings are not open".into()))
    }

    /// A peer finished its handshake.
    pub fn greeted(&self, peer: &Peer) {
        lock(&self.tables).newcomers.remove(&peer.id);
    }

    /// Lets a peer share the settings.
    ///
    /// # Errors
    /// `State` when they are not open; else the connection cannot be used.
    pub fn enter_settings(&self, peer: &Arc<Peer>) -> Result<(), DriveError> {
        let room = self.settings()?;
        self.step(&room, |state, _| {
            if self.peer(peer.id).is_some() {
                peer.enter(&room, &state.document, &self.options.capabilities)?;
                state.peers.push(Arc::clone(peer));
            }
            Ok(())
        })
    }

    /// A peer subscribes to the pool state.
    ///
    /// # Errors
    /// The connection cannot be used.
    pub fn subscribe(&self, peer: &Arc<Peer>) -> Result<(), DriveError> {
        self.pool_state.subscribe(peer, || self.peer(peer.id).is_some())
    }

    /// A peer finished its handshake for a room.
    pub fn wants_room(self: &Arc<Self>, peer: &Arc<Peer>, id: String) {
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
            Some(room) => self.enter_aside(peer, &room),
            None => {
                let _announcer = self.queue.announcer();
                let mut event = Event::new(RTD_EV_ROOM_WANTED);
                event.id = id;
                self.queue.push(event);
            }
        }
    }

    /// Lets a peer into a room when it is its turn there: another one may be taking long.
    fn enter_aside(self: &Arc<Self>, peer: &Arc<Peer>, room: &Arc<Room>) {
        let enter = {
            let (host, peer, room) = (Arc::clone(self), Arc::clone(peer), Arc::clone(room));
            move || host.enter(&peer, &room)
        };
        let failed = {
            let (host, peer) = (Arc::clone(self), Arc::clone(peer));
            move |reason| host.drop_peer(&peer, &DriveError::Panic(reason))
        };
        room.aside.enqueue(&self.crew, guarded(enter, failed));
    }

    /// Lets a peer into a room; if it was closed meanwhile, the peer asks for it once more.
    pub fn enter(self: &Arc<Self>, peer: &Arc<Peer>, room: &Arc<Room>) {
        let _announcer = self.queue.announcer();
        let entered = self.step(room, |state, _| {
            if self.peer(peer.id).is_none() {
                return Ok(());
            }
            peer.enter(room, &state.document, &self.options.capabilities)?;
            state.peers.push(Arc::clone(peer));
            // Under the room's lock, so that joins and leaves are told in the order they happened.
            let peers = room.count_peers(state);
            self.queue.push(room_event(RTD_EV_PEER_JOINED, room, peer, peers));
            Ok(())
        });
        match entered {
            Ok(()) => {}
            Err(DriveError::NotFound(_)) => self.wants_room(peer, room.id.clone()),
            Err(error) => self.drop_peer(peer, &error),
        }
    }

    /// Ends a connection and tells who left. Idempotent.
    pub fn drop_peer(&self, peer: &Arc<Peer>, error: &DriveError) {
        {
            let mut tables = lock(&self.tables);
            if tables.peers.remove(&peer.id).is_none() {
                return;
            }
            tables.newcomers.remove(&peer.id);
            tables.tokens.retain(|_, other| other.id != peer.id);
            for waiting in tables.wanted.values_mut() {
                waiting.retain(|other| other.id != peer.id);
            }
        }
        peer.hang_up();
        let room = match peer.home() {
            Some(Home::Room(room)) => room,
            Some(Home::Settings(room)) => {
                // A document that failed or was closed has forgotten its peers.
                let _gone = room.step(&mut Outcome::default(), |state, _| {
                    state.peers.retain(|other| other.id != peer.id);
                    Ok(())
                });
                return;
            }
            None => return self.pool_state.leave(peer.id),
        };
        let _announcer = self.queue.announcer();
        let tell = |peers: usize| {
            let mut event = room_event(RTD_EV_PEER_LEFT, room, peer, peers);
            event.code = leave_code(error);
            event.text = error.to_string();
            self.queue.push(event);
        };
        let left = room.step(&mut Outcome::default(), |state, _| {
            state.peers.retain(|other| other.id != peer.id);
            tell(room.count_peers(state));
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
            // A stranger learns nothing, not even why.
            if !address::is_friend(&stream) || stream.set_nonblocking(true).is_err() {
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
                tables.newcomers.insert(id);
            }
            let deadline =
                self.options.handshake_timeout.map(|timeout| self.reactor.now().saturating_add(timeout));
            if let Err(error) = peer.start(deadline) {
                self.drop_peer(&peer, &error.into());
            }
            self.limit_newcomers();
        }
    }

    fn limit_newcomers(&self) {
        let oldest = {
            let tables = lock(&self.tables);
            let oldest = tables.newcomers.first().filter(|_| tables.newcomers.len() > NEWCOMERS);
            oldest.and_then(|id| tables.peers.get(id).cloned())
        };
        if let Some(peer) = oldest {
            // Its handshake may have come and only not been read yet.
            peer.ready(true, false);
            if lock(&peer.state).server.before_handshake() {
                self.drop_peer(&peer, &DriveError::Timeout("no handshake".into()));
            }
        }
    }

    /// Ends everything; `Closed` is the last event. Idempotent.
    pub fn close(&self) {
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
        tables.settings = None;
        tables.wanted.clear();
        drop(tables);
        let _announcer = self.queue.announcer();
        self.queue.push(Event::new(RTD_EV_CLOSED));
    }
}

fn room_event(kind: rtd_event_kind, room: &Room, peer: &Peer, peers: usize) -> Event {
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
        let mut event = Event::new(RTD_EV_ROOM_FAILED);
        event.code = code(RTD_E_PANIC);
        event.text = reason;
        self.queue.push(event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::queue::Waited;
    use crate::drive::reactor::ReactorUse;
    use crate::wire::frame;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    #[test]
    fn who_stands_at_the_door_of_a_room_that_is_closed_asks_for_it_once_more() {
        let path = std::env::temp_dir().join(format!("rtd-{}", uuid::Uuid::new_v4().simple()));
        let running = ReactorUse::acquire().unwrap();
        let host = HostShared::listen(&path, HostOptions::default(), running.reactor()).unwrap();
        let mut stream = UnixStream::connect(&path).unwrap();
        let hello = br#"{"channel":"notebook_sync","notebook_id":"n","protocol":"v2"}"#;
        stream.write_all(&frame::encode(hello).unwrap()).unwrap();
        let wanted = || {
            assert_eq!(host.queue.wait(Some(Duration::from_secs(60))), Waited::Event);
            let event = host.queue.pop().unwrap().unwrap();
            assert_eq!((event.kind, event.id.as_str()), (RTD_EV_ROOM_WANTED, "n"));
            let mut waiting = lock(&host.tables).wanted.remove("n").unwrap();
            assert_eq!(waiting.len(), 1);
            waiting.remove(0)
        };
        let peer = wanted();
        let room = Arc::new(Room::open("n", None).unwrap());
        lock(&host.tables).rooms.insert("n".into(), Arc::clone(&room));
        host.evict_room(&room).unwrap();
        assert!(matches!(host.evict_room(&room), Err(DriveError::NotFound(_))));
        host.enter(&peer, &room);
        assert_eq!(wanted().id, peer.id);
        host.close();
    }
}
