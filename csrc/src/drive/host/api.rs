//! Storey 3, host: its public face. Requests of peers become events that the host program answers.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use serde_json::{json, Map, Value};

use super::hub::Hub;
use super::listener::Listener;
use super::options::HostOptions;
use super::room::{Broadcast, Room};
use crate::drive::queue::Queue;
use crate::drive::reactor::ReactorUse;
use crate::drive::source::EventSource;
use crate::drive::{lock, DriveError};
use crate::notebook::{Notebook, Op};
use crate::wire::v2::PoolState;
use crate::wire::Message;

/// Rooms on one socket. Every method may be called from any thread; one thread at a time takes events.
pub struct Host {
    pub(super) hub: Arc<Hub>,
    listener: Arc<Listener>,
    /// The process that opened the host.
    pid: u32,
    // Dropped last: the thread outlives what runs on it.
    _reactor: ReactorUse,
}

impl Host {
    /// Listens at `path` (mode 0600). A socket file without a listener is replaced.
    ///
    /// # Errors
    /// `Io`, with `AddrInUse` when another process answers there.
    pub fn open(path: &Path, mut options: HostOptions) -> Result<Self, DriveError> {
        options.capabilities.insert("rtd".into(), json!(1));
        let guard = ReactorUse::acquire()?;
        let hub = Arc::new(Hub::new(options, guard.reactor())?);
        let listener = Listener::open(path, &hub)?;
        Ok(Self { hub, listener, pid: std::process::id(), _reactor: guard })
    }

    /// Whether this is the process that opened the host.
    pub fn in_own_process(&self) -> bool {
        self.pid == std::process::id()
    }

    /// Stops listening, disconnects every peer, removes the socket file. `Closed` is the last event.
    /// Idempotent.
    ///
    /// # Errors
    /// `State` in a forked child: socket and peers are the parent's.
    pub fn close(&self) -> Result<(), DriveError> {
        self.check_process()?;
        self.hub.close(|| self.listener.close());
        Ok(())
    }

    /// Disconnects the peers that wait for a room which will not be opened.
    ///
    /// # Errors
    /// `NotFound` when no peer waits for it.
    pub fn refuse_room(&self, id: &str) -> Result<(), DriveError> {
        self.check_open()?;
        let waiting = lock(&self.hub.registry).wanted.remove(id);
        let waiting =
            waiting.ok_or_else(|| DriveError::NotFound(format!("no peer waits for the room {id}")))?;
        for peer in waiting {
            self.hub.drop_peer(peer.id, &DriveError::State("the room was refused".into()));
        }
        Ok(())
    }

    /// Closes a room and disconnects its peers. The journal keeps the document.
    ///
    /// # Errors
    /// `NotFound` when there is no such room.
    pub fn close_room(&self, id: &str) -> Result<(), DriveError> {
        self.check_open()?;
        let room = self.hub.room(id)?;
        self.hub.close_room(&room);
        Ok(())
    }

    /// Closes a room without peers; a peer that enters at this moment asks for it again.
    ///
    /// # Errors
    /// `Again` when it has peers; `NotFound` when there is no such room.
    pub fn evict_room(&self, id: &str) -> Result<(), DriveError> {
        self.check_open()?;
        let room = self.hub.room(id)?;
        self.hub.evict_room(&room)
    }

    /// One change (all or nothing), one sync message per peer, then the broadcasts. With a `cause` the
    /// peer that made that request sees its response before these broadcasts.
    ///
    /// # Errors
    /// Those of the operations (nothing is done then); `NotFound`; `Poisoned`.
    pub fn publish(&self, id: &str, ops: &[Op], broadcasts: &[Value], cause: u64) -> Result<(), DriveError> {
        self.check_open()?;
        let room = self.hub.room(id)?;
        // Printed before the room is locked.
        let broadcasts: Vec<Broadcast> = broadcasts.iter().map(Broadcast::new).collect();
        self.hub.step(&room, |state, outcome| state.publish(ops, &broadcasts, cause, outcome))
    }

    /// Sends one broadcast to one peer, after the changes made before it. A peer of protocol version 1 has no
    /// broadcasts and gets nothing.
    ///
    /// # Errors
    /// `NotFound` when no such peer is in a room; `Poisoned`.
    pub fn send(&self, peer: u64, broadcast: &Value) -> Result<(), DriveError> {
        self.check_open()?;
        let gone = || DriveError::NotFound(format!("no such peer in a room: {peer}"));
        let peer = self.hub.peer(peer).ok_or_else(gone)?;
        let room = Arc::clone(peer.room().ok_or_else(gone)?);
        self.hub.step(&room, |state, outcome| state.send(peer.id, broadcast, outcome))
    }

    /// Sends the pool state to its subscribers if it changed. Adds the member `event`.
    ///
    /// # Errors
    /// `Argument` when it is no state of protocol 2, section 11.2.
    pub fn announce_pool_state(&self, state: &Map<String, Value>) -> Result<(), DriveError> {
        self.check_open()?;
        let mut message = Map::from_iter([("event".to_owned(), json!("pool_state"))]);
        message.extend(state.clone());
        let message = Message::<PoolState>::parse(&Value::Object(message).to_string().into_bytes())
            .map_err(|error| DriveError::Argument(format!("pool state: {error}")))?;
        for (peer, error) in self.hub.pool_state.publish(message.to_json()) {
            self.hub.drop_peer(peer, &error);
        }
        Ok(())
    }

    /// Opens the settings; without a journal they are kept in memory only. Before this, connections to the
    /// settings channel are closed.
    ///
    /// # Errors
    /// `State` when they are open; `Corrupt` or `Io` from the journal.
    pub fn open_settings(&self, journal: Option<&Path>) -> Result<(), DriveError> {
        self.check_open()?;
        let open = || DriveError::State("the settings are open".into());
        if lock(&self.hub.registry).settings.is_some() {
            return Err(open());
        }
        let room = Arc::new(Room::open_settings(journal)?);
        let mut tables = lock(&self.hub.registry);
        if tables.settings.is_some() {
            return Err(open());
        }
        tables.settings = Some(room);
        Ok(())
    }

    /// The settings. The next change of a peer makes an event again.
    ///
    /// # Errors
    /// `State` when they are not open; `Poisoned`.
    pub fn settings(&self) -> Result<Value, DriveError> {
        self.check_open()?;
        let room = self.hub.settings()?;
        self.hub.step(&room, |state, _| {
            self.hub.change_events.settings_unread.store(false, Ordering::Relaxed);
            Ok(Value::Object(state.document.to_json()))
        })
    }

    /// Changes the members of the settings that are given and different, as one change, and sends it to the peers.
    ///
    /// # Errors
    /// `Argument` for a member of the wrong type (nothing changed then); `State` when they are not open;
    /// `Poisoned`.
    pub fn change_settings(&self, members: &Map<String, Value>) -> Result<(), DriveError> {
        self.check_open()?;
        let room = self.hub.settings()?;
        self.hub.step(&room, |state, outcome| {
            if state.document.change(members)? {
                state.changed(outcome);
            }
            Ok(())
        })
    }

    /// Answers a request. Order and identifiers are the library's work.
    ///
    /// # Errors
    /// `NotFound` when the request was answered or its peer has gone.
    pub fn respond(&self, token: u64, body: &Value) -> Result<(), DriveError> {
        self.check_open()?;
        let gone = || DriveError::NotFound(format!("no such request: {token}"));
        let peer = lock(&self.hub.registry).requests.remove(&token).ok_or_else(gone)?;
        if !peer.respond(token, body) {
            return Err(gone());
        }
        match peer.room() {
            Some(room) => self.hub.step(&Arc::clone(room), |state, _| {
                // Through the document's lock: the flush may have a sync message to make as well.
                peer.flush(&mut peer.lock(), Some(&state.document))
            }),
            None => peer.flush(&mut peer.lock(), None),
        }
        .map_err(|error| {
            self.hub.drop_peer(peer.id, &error);
            gone()
        })
    }

    /// All rooms: id, number of peers.
    ///
    /// # Errors
    /// `State` in a forked child.
    pub fn rooms(&self) -> Result<Value, DriveError> {
        self.check_process()?;
        let rooms: Vec<Arc<Room>> = lock(&self.hub.registry).rooms.values().cloned().collect();
        Ok(rooms.iter().map(|room| json!({"notebook_id": room.id, "peers": room.member_count()})).collect())
    }

    /// Disconnects one peer.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn disconnect(&self, peer: u64) -> Result<(), DriveError> {
        self.check_open()?;
        let peer =
            self.hub.peer(peer).ok_or_else(|| DriveError::NotFound(format!("no such peer: {peer}")))?;
        self.hub.drop_peer(peer.id, &DriveError::Closed("disconnected by the host".into()));
        Ok(())
    }

    /// Reads the document of a room under its lock.
    ///
    /// # Errors
    /// `NotFound`; `Poisoned`; those of `read`.
    pub fn read<T>(
        &self,
        id: &str,
        read: impl FnOnce(&Notebook) -> Result<T, DriveError>,
    ) -> Result<T, DriveError> {
        self.check_open()?;
        let room = self.hub.room(id)?;
        self.hub.step(&room, |state, _| read(&state.document))
    }

    pub(super) fn check_open(&self) -> Result<(), DriveError> {
        self.check_process()?;
        if lock(&self.hub.registry).closed {
            return Err(DriveError::Closed("the host is closed".into()));
        }
        Ok(())
    }
}

impl EventSource for Host {
    fn queue(&self) -> &Queue {
        &self.hub.queue
    }

    fn check_process(&self) -> Result<(), DriveError> {
        if self.in_own_process() {
            Ok(())
        } else {
            Err(DriveError::State("this host belongs to the parent process".into()))
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The C layer never drops a handle of the parent in a forked child.
        if self.close().is_ok() {
            self.hub.queue.set_wakeup(None);
            self.hub.workers.join();
        }
    }
}
