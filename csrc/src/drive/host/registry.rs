//! Storey 3, host: the peers, rooms and requests of a host.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::peer::Peer;
use super::room::{Membership, Room};
use crate::drive::reactor::Handler;
use crate::settings::Settings;

/// Connections before their handshake. When there are more, the one that has waited longest is closed: clients send
/// their handshake at once. More than the system's own queue, so that a crowd of clients does no harm.
const NEWCOMERS: usize = 256;

/// A peer and its handler, which the reactor holds only weakly.
#[derive(Clone)]
pub struct Connection {
    /// The peer.
    pub peer: Arc<Peer>,
    /// Called by the reactor.
    pub handler: Arc<dyn Handler>,
}

/// The peers, rooms and requests of a host. Its lock is the last one taken, and held only for a moment.
#[derive(Default)]
pub struct Registry {
    peers: HashMap<u64, Connection>,
    /// Open rooms.
    pub rooms: HashMap<String, Arc<Room>>,
    /// Rooms that no peer may enter yet.
    pub prepared: HashMap<String, Arc<Room>>,
    /// Peers that wait for a room the host program has not opened yet.
    pub wanted: HashMap<String, Vec<Arc<Peer>>>,
    /// Requests without an answer, by token.
    pub requests: HashMap<u64, Arc<Peer>>,
    /// Connections before their handshake; numbers grow, so the first one has waited longest.
    newcomers: BTreeSet<u64>,
    /// The settings, if they are open.
    pub settings: Option<Arc<Room<Settings>>>,
    /// The host was closed.
    pub closed: bool,
}

impl Registry {
    /// Adds a connection; `false` when the host is closed or has as many as it may have.
    pub fn add(&mut self, connection: Connection, max_peers: usize) -> bool {
        if self.closed || self.peers.len() >= max_peers {
            return false;
        }
        let id = connection.peer.id;
        self.peers.insert(id, connection);
        self.newcomers.insert(id);
        true
    }

    /// The connection that has waited longest for its handshake, if there are more than may wait.
    pub fn surplus_newcomer(&self) -> Option<Connection> {
        let oldest = self.newcomers.first().filter(|_| self.newcomers.len() > NEWCOMERS);
        oldest.and_then(|id| self.peers.get(id).cloned())
    }

    /// A peer finished its handshake.
    pub fn handshake_arrived(&mut self, id: u64) {
        self.newcomers.remove(&id);
    }

    /// A connected peer.
    pub fn peer(&self, id: u64) -> Option<&Arc<Peer>> {
        self.peers.get(&id).map(|connection| &connection.peer)
    }

    /// Notes which room a peer enters; false when the peer is not connected any more. A later [`Registry::remove`] finds
    /// the room, so that the peer leaves it.
    pub fn note_membership(&mut self, peer: &Peer, membership: Membership) -> bool {
        let connected = self.peers.contains_key(&peer.id);
        if connected {
            peer.set_membership(membership);
        }
        connected
    }

    /// The numbers of all connected peers.
    pub fn peer_ids(&self) -> Vec<u64> {
        self.peers.keys().copied().collect()
    }

    /// Removes a peer and all that waits for it; `None` when it was removed before.
    pub fn remove(&mut self, id: u64) -> Option<Arc<Peer>> {
        let connection = self.peers.remove(&id)?;
        self.newcomers.remove(&id);
        self.requests.retain(|_, peer| peer.id != id);
        for waiting in self.wanted.values_mut() {
            waiting.retain(|peer| peer.id != id);
        }
        Some(connection.peer)
    }

    /// An open or prepared room.
    pub fn room(&self, id: &str) -> Option<&Arc<Room>> {
        self.rooms.get(id).or_else(|| self.prepared.get(id))
    }
}
