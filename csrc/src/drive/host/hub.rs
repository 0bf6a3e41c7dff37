//! Storey 3, host: what a host's handlers and its API share: the registry of peers, rooms and requests, and the steps
//! on them.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::hosted::{ChangeEvents, Hosted};
use super::latest::LatestValue;
use super::member::Member;
use super::offload::{catch_panic, Workers};
use super::options::HostOptions;
use super::peer::{Peer, PeerState};
use super::registry::Registry;
use super::room::{Membership, Outcome, Room, RoomState};
use crate::code::code;
use crate::code::rtd_code::{RTD_E_IO, RTD_E_PANIC, RTD_E_PROTOCOL, RTD_E_TIMEOUT, RTD_E_TOO_BIG};
use crate::code::rtd_event_kind::{self, *};
use crate::connection::{Event, PeerRequest};
use crate::drive::queue::Queue;
use crate::drive::reactor::Reactor;
use crate::drive::{lock, DriveError};
use crate::notebook::Notebook;
use crate::settings::Settings;
use crate::wire::v2::PoolState;
use crate::wire::Message;

/// What the I/O thread, the workers and the host program share of a host.
pub struct Hub {
    /// The I/O thread.
    pub reactor: Arc<Reactor>,
    /// How the host was opened.
    pub options: HostOptions,
    /// Peers, rooms, requests.
    pub registry: Mutex<Registry>,
    /// The state of the environment pools.
    pub pool_state: LatestValue,
    /// Which changes by peers become events.
    pub change_events: ChangeEvents,
    /// Threads for turns that take long.
    pub workers: Workers,
    /// Events for the host program.
    pub queue: Queue,
    next_token: AtomicU64,
}

impl Hub {
    /// A host without connections.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn new(options: HostOptions, reactor: Arc<Reactor>) -> Result<Self, DriveError> {
        let healthy = PoolState::PoolState { uv_error: None, conda_error: None };
        let change_events =
            ChangeEvents { watch_rooms: options.watch_changes, settings_unread: AtomicBool::new(false) };
        Ok(Self {
            reactor,
            options,
            change_events,
            registry: Mutex::default(),
            pool_state: LatestValue::new(Message::from(healthy).to_json()),
            workers: Workers::default(),
            queue: Queue::new(usize::MAX)?,
            next_token: AtomicU64::new(1),
        })
    }

    /// A peer finished its handshake.
    pub fn handshake_arrived(&self, peer: &Peer) {
        peer.handshake_arrived();
        lock(&self.registry).handshake_arrived(peer.id);
    }

    /// A connected peer by its number.
    pub fn peer(&self, id: u64) -> Option<Arc<Peer>> {
        lock(&self.registry).peer(id).cloned()
    }

    /// Whether a peer is connected.
    pub fn is_connected(&self, id: u64) -> bool {
        lock(&self.registry).peer(id).is_some()
    }

    /// An open or prepared room.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn room(&self, id: &str) -> Result<Arc<Room>, DriveError> {
        let room = lock(&self.registry).room(id).cloned();
        room.ok_or_else(|| DriveError::NotFound(format!("no such room: {id}")))
    }

    /// The settings.
    ///
    /// # Errors
    /// `State` when they are not open.
    pub fn settings(&self) -> Result<Arc<Room<Settings>>, DriveError> {
        let settings = lock(&self.registry).settings.clone();
        settings.ok_or_else(|| DriveError::State("the settings are not open".into()))
    }

    /// Queues an event for the host program. Not to be called under a lock.
    pub fn emit(&self, event: Event) {
        let _announcer = self.queue.announcer();
        self.queue.push(event);
    }

    /// Registers a request and makes its event. `peer_state` is that of the peer.
    pub fn expect_answer(&self, peer: &Arc<Peer>, peer_state: &mut PeerState, request: PeerRequest) -> Event {
        let token = self.next_token.fetch_add(1, Ordering::Relaxed);
        let event = peer_state.server.expect(token, request);
        lock(&self.registry).requests.insert(token, Arc::clone(peer));
        Event { peer: peer.id, ..event }
    }

    /// Runs a step of a room and what it leaves to be done; closes a room that panicked.
    ///
    /// # Errors
    /// As [`Room::step`].
    pub fn step<D: Hosted, T>(
        &self,
        room: &Arc<Room<D>>,
        step: impl FnOnce(&mut RoomState<D>, &mut Outcome) -> Result<T, DriveError>,
    ) -> Result<T, DriveError> {
        let mut outcome = Outcome::default();
        let result = room.offload.watched(|| room.step(&mut outcome, step));
        self.finish_step(room, outcome);
        if let Err(DriveError::Panic(reason)) = &result {
            self.break_room(room, reason);
        }
        result
    }

    /// Does what a step left to be done: reports a journal that failed, drops peers that were lost.
    pub fn finish_step<D: Hosted>(&self, room: &Room<D>, outcome: Outcome) {
        if let Some(error) = outcome.unsaved {
            self.emit_failure(room, code(RTD_E_IO), &error.to_string());
        }
        for (peer, error) in outcome.lost {
            self.drop_peer(peer, &error);
        }
    }

    fn emit_failure<D: Hosted>(&self, room: &Room<D>, reason_code: i32, reason: &str) {
        self.emit(Event { id: room.id.clone(), ..Event::ended(D::FAILED, 0, reason_code, reason) });
    }

    /// Reports a room that panicked, and closes it.
    pub fn break_room<D: Hosted>(&self, room: &Room<D>, reason: &str) {
        self.emit_failure(room, code(RTD_E_PANIC), reason);
        self.close_room(room);
    }

    /// Closes a room and disconnects its peers.
    pub fn close_room<D: Hosted>(&self, room: &Room<D>) {
        D::unregister(&mut lock(&self.registry), room);
        for peer in room.close() {
            self.drop_peer(peer, &DriveError::Closed("the room was closed".into()));
        }
    }

    /// Closes a room that has no peers.
    ///
    /// # Errors
    /// As [`Room::evict`].
    pub fn evict_room(&self, room: &Room) -> Result<(), DriveError> {
        room.evict(|| Notebook::unregister(&mut lock(&self.registry), room))
    }

    /// Lets a peer share the settings.
    ///
    /// # Errors
    /// `State` when they are not open; else the connection cannot be used.
    pub fn enter_settings(&self, peer: &Arc<Peer>) -> Result<(), DriveError> {
        let room = self.settings()?;
        self.step(&room, |state, _| self.add_member(peer, &room, state).map(|_| ()))
    }

    /// Subscribes a peer to the pool state.
    ///
    /// # Errors
    /// The connection cannot be used.
    pub fn subscribe(&self, peer: &Arc<Peer>) -> Result<(), DriveError> {
        let member: Arc<dyn Member> = Arc::clone(peer) as _;
        self.pool_state.subscribe(member, || self.is_connected(peer.id))
    }

    /// Lets a peer into a room, or has it wait until the host program opens the room.
    pub fn find_room(self: &Arc<Self>, peer: &Arc<Peer>, id: String) {
        let room = {
            let mut registry = lock(&self.registry);
            let room = registry.rooms.get(&id).cloned();
            if room.is_none() {
                let prepared = registry.prepared.contains_key(&id);
                let waiting = registry.wanted.entry(id.clone()).or_default();
                waiting.push(Arc::clone(peer));
                if prepared || waiting.len() > 1 {
                    return;
                }
            }
            room
        };
        match room {
            Some(room) => self.enter_by_worker(peer, &room),
            None => self.emit(Event { id, ..Event::new(RTD_EV_ROOM_WANTED) }),
        }
    }

    /// Lets a peer into a room after the work that is queued there.
    fn enter_by_worker(self: &Arc<Self>, peer: &Arc<Peer>, room: &Arc<Room>) {
        let enter = {
            let (hub, peer, room) = (Arc::clone(self), Arc::clone(peer), Arc::clone(room));
            move || hub.enter(&peer, &room)
        };
        let failed = {
            let (hub, peer) = (Arc::clone(self), peer.id);
            move |reason| hub.drop_peer(peer, &DriveError::Panic(reason))
        };
        room.offload.enqueue(&self.workers, catch_panic(enter, failed));
    }

    /// Lets a peer into a room; if the room was closed meanwhile, the peer asks for it again.
    pub fn enter(self: &Arc<Self>, peer: &Arc<Peer>, room: &Arc<Room>) {
        let _announcer = self.queue.announcer();
        let entered = self.step(room, |state, _| {
            // Under the room's lock, so that the events of joins and leaves keep their order.
            if let Some(count) = self.add_member(peer, room, state)? {
                self.queue.push(peer_event(RTD_EV_PEER_JOINED, room, peer, count));
            }
            Ok(())
        });
        match entered {
            Ok(()) => {}
            Err(DriveError::NotFound(_)) => self.find_room(peer, room.id.clone()),
            Err(error) => self.drop_peer(peer.id, &error),
        }
    }

    /// Adds a peer to a room in a step of that; the number of peers there now, or `None` when the peer has gone.
    fn add_member<D: Hosted>(
        &self,
        peer: &Arc<Peer>,
        room: &Arc<Room<D>>,
        state: &mut RoomState<D>,
    ) -> Result<Option<usize>, DriveError> {
        if !lock(&self.registry).note_membership(peer, D::membership(Arc::clone(room))) {
            return Ok(None);
        }
        peer.enter(&state.document, &self.options.capabilities)?;
        Ok(Some(room.add_member(state, Arc::clone(peer) as _)))
    }

    /// Ends a connection; its room's host program gets an event. Idempotent.
    pub fn drop_peer(&self, id: u64, error: &DriveError) {
        let Some(peer) = lock(&self.registry).remove(id) else { return };
        peer.hang_up();
        match peer.membership() {
            Some(Membership::Room(room)) => self.leave(&peer, room, error),
            Some(Membership::Settings(room)) => {
                // Settings that failed or were closed have no members any more.
                let _closed = room.step(&mut Outcome::default(), |state, _| {
                    room.remove_member(state, id);
                    Ok(())
                });
            }
            None => self.pool_state.unsubscribe(id),
        }
    }

    fn leave(&self, peer: &Peer, room: &Room, error: &DriveError) {
        let _announcer = self.queue.announcer();
        let emit = |count: usize| {
            let event = peer_event(RTD_EV_PEER_LEFT, room, peer, count);
            self.queue.push(Event { code: leave_code(error), text: error.to_string(), ..event });
        };
        let left = room.step(&mut Outcome::default(), |state, _| {
            emit(room.remove_member(state, peer.id));
            Ok(())
        });
        if left.is_err() {
            emit(0);
        }
    }

    /// Ends everything; `Closed` is the last event. Idempotent: `stop_listening` is called once.
    pub fn close(&self, stop_listening: impl FnOnce()) {
        let peers: Vec<u64> = {
            let mut registry = lock(&self.registry);
            if std::mem::replace(&mut registry.closed, true) {
                return;
            }
            registry.peer_ids()
        };
        stop_listening();
        for peer in peers {
            self.drop_peer(peer, &DriveError::Closed("the host was closed".into()));
        }
        let mut registry = lock(&self.registry);
        registry.rooms.clear();
        registry.prepared.clear();
        registry.settings = None;
        registry.wanted.clear();
        drop(registry);
        self.emit(Event::new(RTD_EV_CLOSED));
    }
}

fn peer_event(kind: rtd_event_kind, room: &Room, peer: &Peer, count: usize) -> Event {
    let number = i64::try_from(count).unwrap_or(i64::MAX);
    Event { id: room.id.clone(), peer: peer.id, number, ..Event::new(kind) }
}

/// The code of a `PeerLeft` event; zero for an ordinary goodbye.
fn leave_code(error: &DriveError) -> i32 {
    match error {
        DriveError::Closed(_) => 0,
        DriveError::Io(_) => code(RTD_E_IO),
        DriveError::TooBig(_) => code(RTD_E_TOO_BIG),
        DriveError::Timeout(_) => code(RTD_E_TIMEOUT),
        DriveError::Panic(_) | DriveError::Poisoned(_) => code(RTD_E_PANIC),
        _ => code(RTD_E_PROTOCOL),
    }
}
