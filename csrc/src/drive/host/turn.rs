//! Storey 3, host: the handler of a peer. In a turn it reads what the peer wrote, applies it, emits events for the host
//! program and sends the changes on.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, Weak};

use super::hosted::Hosted;
use super::hub::Hub;
use super::offload::{catch_panic, may_take_long};
use super::peer::Peer;
use super::registry::Connection;
use super::room::{Membership, Outcome, Room, RoomState};
use crate::connection::{Event, Hint, ServerEvent};
use crate::drive::reactor::Handler;
use crate::drive::DriveError;
use crate::notebook::Notebook;
use crate::wire::handshake::Channel;
use crate::wire::v2::request::with_cells;

/// The media type of a blob whose sender names none.
const UNKNOWN_TYPE: &str = "application/octet-stream";

/// Why a peer has a turn.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trigger {
    /// There may be something to read.
    Readable,
    /// The socket has room to write.
    Writable,
    /// Requests have waited long enough for changes that the peer announced.
    GateTimeout,
}

/// The thread of a turn.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Thread {
    /// The I/O thread, where nothing may take long.
    Io,
    Worker,
}

/// Result of a turn in a room.
enum Turn {
    Done,
    /// It may take long: nothing was decoded, a worker has to do it.
    TooLong,
}

/// What one turn decoded.
struct Input {
    changed: bool,
    hint: Hint,
    requests: Vec<Event>,
    /// The stream has ended and everything in it was decoded.
    is_over: bool,
    /// The frame after the others broke the protocol; the frames before it count.
    error: Option<DriveError>,
}

/// The handler of a peer.
pub struct PeerHandler {
    hub: Weak<Hub>,
    peer: Arc<Peer>,
}

impl PeerHandler {
    /// A handler and its peer for a connection that was just accepted.
    pub fn connect(hub: &Arc<Hub>, id: u64, stream: UnixStream) -> Connection {
        let handler = Arc::new_cyclic(|me: &Weak<Self>| {
            let key = hub.reactor.register(me.clone());
            let peer = Peer::new(id, key, stream, &hub.reactor, hub.options.peer_limit);
            Self { hub: Arc::downgrade(hub), peer: Arc::new(peer) }
        });
        Connection { peer: Arc::clone(&handler.peer), handler }
    }

    /// The peer and its host, unless the connection was ended.
    fn connected(&self) -> Option<ConnectedPeer> {
        let hub = self.hub.upgrade()?;
        hub.is_connected(self.peer.id).then(|| ConnectedPeer { hub, peer: Arc::clone(&self.peer) })
    }
}

impl Handler for PeerHandler {
    fn ready(&self, readable: bool, _writable: bool) {
        let Some(connected) = self.connected() else { return };
        let trigger = if readable { Trigger::Readable } else { Trigger::Writable };
        match self.peer.membership() {
            // The queued turn will read this too.
            Some(_) if self.peer.is_paused() => {}
            Some(membership) => connected.turn(membership, trigger),
            None => {
                if let Err(error) = connected.turn_outside(trigger) {
                    connected.hub.drop_peer(self.peer.id, &error);
                }
            }
        }
    }

    fn timer(&self) {
        let Some(connected) = self.connected() else { return };
        match self.peer.membership() {
            Some(membership) => connected.turn(membership, Trigger::GateTimeout),
            None if self.peer.is_before_handshake() => {
                connected.hub.drop_peer(self.peer.id, &DriveError::Timeout("no handshake".into()));
            }
            None => {}
        }
    }

    fn failed(&self, reason: String) {
        if let Some(connected) = self.connected() {
            connected.hub.drop_peer(self.peer.id, &DriveError::Panic(reason));
        }
    }
}

/// A peer and its host, for the length of a turn.
#[derive(Clone)]
struct ConnectedPeer {
    hub: Arc<Hub>,
    peer: Arc<Peer>,
}

impl ConnectedPeer {
    fn turn(&self, membership: &Membership, trigger: Trigger) {
        match membership {
            Membership::Room(room) => self.turn_or_offload(room, trigger),
            Membership::Settings(room) => self.turn_or_offload(room, trigger),
        }
    }

    /// Runs the turn here, or on a worker where it may take long or has to wait for something that does.
    fn turn_or_offload<D: Hosted>(&self, room: &Arc<Room<D>>, trigger: Trigger) {
        if room.offload.is_due() || matches!(self.turn_in(room, trigger, Thread::Io), Turn::TooLong) {
            self.offload(room, trigger);
        }
    }

    /// Queues a turn for a worker; the peer is paused until then.
    fn offload<D: Hosted>(&self, room: &Arc<Room<D>>, trigger: Trigger) {
        if let Err(error) = self.peer.pause() {
            return self.hub.drop_peer(self.peer.id, &error.into());
        }
        let turn = {
            let (me, room) = (self.clone(), Arc::clone(room));
            move || {
                let _done = me.turn_in(&room, trigger, Thread::Worker);
            }
        };
        let failed = {
            let me = self.clone();
            move |reason| me.hub.drop_peer(me.peer.id, &DriveError::Panic(reason))
        };
        room.offload.enqueue(&self.hub.workers, catch_panic(turn, failed));
    }

    /// A turn in a room or at the settings, under the room's lock.
    fn turn_in<D: Hosted>(&self, room: &Arc<Room<D>>, trigger: Trigger, thread: Thread) -> Turn {
        let _announcer = self.hub.queue.announcer();
        let mut outcome = Outcome::default();
        let step = |state: &mut RoomState<D>, outcome: &mut Outcome| {
            let input = match self.read(room, &mut state.document, trigger, thread)? {
                Ok(Some(input)) => input,
                Ok(None) => return Ok(Turn::Done),
                Err(too_long) => return Ok(too_long),
            };
            self.apply(room, state, outcome, input)
        };
        let result = room.offload.timed(|| room.step(&mut outcome, step));
        self.hub.finish_step(room, outcome);
        match result {
            Ok(turn) => return turn,
            Err(DriveError::Panic(reason)) => self.hub.break_room(room, &reason),
            Err(error) => self.hub.drop_peer(self.peer.id, &error),
        }
        Turn::Done
    }

    /// Reads and decodes input, and applies its changes to the document; `None` on a closed connection.
    fn read<D: Hosted>(
        &self,
        room: &Room<D>,
        document: &mut D,
        trigger: Trigger,
        thread: Thread,
    ) -> Result<Result<Option<Input>, Turn>, DriveError> {
        let mut peer = self.peer.lock();
        if peer.is_closed() {
            // The journal of a closed host gets no more changes.
            return Ok(Ok(None));
        }
        self.peer.resume();
        let ended = trigger == Trigger::Readable && self.peer.read(&mut peer)?;
        if thread == Thread::Io && may_take_long(peer.server.pending()) {
            return Ok(Err(Turn::TooLong));
        }
        if trigger == Trigger::GateTimeout {
            peer.server.stop_deferring();
        }
        let before = document.doc().get_heads();
        let (mut hint, mut requests) = (Hint::default(), Vec::new());
        let error = loop {
            match peer.next(Some(document)) {
                Ok(Some(ServerEvent::Synced(changes))) => hint.merge(D::hint(&changes)),
                Ok(Some(ServerEvent::Request(mut request))) => {
                    if let Some(cells) = document.cells_of(&request.targets) {
                        request.body = with_cells(request.body, &cells);
                    }
                    let event = self.hub.expect_answer(&self.peer, &mut peer, request);
                    requests.push(Event { id: room.id.clone(), ..event });
                }
                // A peer whose stream has ended sends no more changes: its requests do not wait for any.
                Ok(None) if ended && peer.server.is_deferring() => peer.server.stop_deferring(),
                Ok(_) => {
                    self.peer.set_gate_timer(&mut peer);
                    break None;
                }
                Err(error) => break Some(error),
            }
        };
        let changed = document.doc().get_heads() != before;
        Ok(Ok(Some(Input { changed, hint, requests, is_over: ended && !peer.is_held(), error })))
    }

    /// Emits the events of what was read, and sends its changes to every member.
    fn apply<D: Hosted>(
        &self,
        room: &Room<D>,
        state: &mut RoomState<D>,
        outcome: &mut Outcome,
        input: Input,
    ) -> Result<Turn, DriveError> {
        let change = input.changed.then(|| D::changed_event(&self.hub.change_events, room, input.hint));
        for event in change.flatten().into_iter().chain(input.requests) {
            self.hub.queue.push(event);
        }
        if input.changed {
            state.changed(outcome);
        } else if input.error.is_none() {
            self.peer.flush(&mut self.peer.lock(), Some(&state.document))?;
        }
        match input.error {
            Some(error) => Err(error),
            None if input.is_over => Err(DriveError::Closed(String::new())),
            None => Ok(Turn::Done),
        }
    }

    /// A turn before the handshake, or on a channel without a document.
    fn turn_outside(&self, trigger: Trigger) -> Result<(), DriveError> {
        let ended = trigger == Trigger::Readable && self.peer.read(&mut self.peer.lock())?;
        loop {
            let event = self.peer.lock().next::<Notebook>(None)?;
            match event {
                Some(ServerEvent::Handshake(handshake)) => {
                    self.hub.handshake_arrived(&self.peer);
                    match handshake.channel {
                        Channel::Notebook { notebook_id, .. } => {
                            self.flush()?;
                            self.hub.find_room(&self.peer, notebook_id);
                            return Ok(());
                        }
                        Channel::PoolState => self.hub.subscribe(&self.peer)?,
                        Channel::SettingsSync => return self.hub.enter_settings(&self.peer),
                        Channel::Pool | Channel::Blob => {}
                    }
                }
                Some(ServerEvent::Request(mut request)) => {
                    // A blob request without an id asks for the port.
                    if let Some(media_type) = request.media_type.as_mut().filter(|it| it.is_empty()) {
                        media_type.push_str(UNKNOWN_TYPE);
                    }
                    let event = self.hub.expect_answer(&self.peer, &mut self.peer.lock(), request);
                    self.hub.emit(event);
                }
                Some(ServerEvent::Synced(_)) | None => break,
            }
        }
        self.flush()?;
        if ended && !self.peer.lock().is_held() {
            return Err(DriveError::Closed(String::new()));
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), DriveError> {
        self.peer.flush(&mut self.peer.lock(), None)
    }
}
