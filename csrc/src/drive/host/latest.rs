//! A state that is told to whoever subscribed: the present one first, then each new one.
//!
//! Lock order: bulletin, then peer, then the host's tables.

use std::sync::{Arc, Mutex};

use super::peer::Peer;
use crate::drive::{lock, DriveError};

/// The last state announced, and who wants to know.
pub struct Bulletin(Mutex<Board>);

/// Held locked for every step, so that each subscriber sees the states in one order.
struct Board {
    state: Arc<[u8]>,
    subscribers: Vec<Arc<Peer>>,
}

impl Bulletin {
    /// A bulletin that says this until something else is announced.
    pub fn new(state: Vec<u8>) -> Self {
        Self(Mutex::new(Board { state: state.into(), subscribers: Vec::new() }))
    }

    /// Tells a newcomer the present state, and what follows. `here` says whether he is still connected.
    ///
    /// # Errors
    /// The connection cannot be used.
    pub fn subscribe(&self, peer: &Arc<Peer>, here: impl FnOnce() -> bool) -> Result<(), DriveError> {
        let mut board = lock(&self.0);
        if here() {
            board.subscribers.push(Arc::clone(peer));
            peer.present(&board.state)?;
        }
        Ok(())
    }

    /// Tells all subscribers, unless it is what they know. One that does not read gets the newest state when it
    /// does. Gives those whose connection has ended.
    pub fn announce(&self, state: Vec<u8>) -> Vec<(Arc<Peer>, DriveError)> {
        let mut board = lock(&self.0);
        if *board.state == *state {
            return Vec::new();
        }
        board.state = state.into();
        let tell = |peer: &Arc<Peer>| peer.present(&board.state).err().map(|error| (Arc::clone(peer), error));
        board.subscribers.iter().filter_map(tell).collect()
    }

    /// A connection has ended.
    pub fn leave(&self, peer: u64) {
        lock(&self.0).subscribers.retain(|other| other.id != peer);
    }
}
