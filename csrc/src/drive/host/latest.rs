//! Storey 3, host: a value with subscribers. Each gets the current value first, then every new one.
//!
//! Lock order: latest value, then peer, then registry.

use std::sync::{Arc, Mutex};

use super::member::Member;
use crate::drive::{lock, DriveError};

/// The value published last, and its subscribers.
pub struct LatestValue(Mutex<State>);

/// Locked for every step, so that all subscribers get the values in one order.
struct State {
    value: Arc<[u8]>,
    subscribers: Vec<Arc<dyn Member>>,
}

impl LatestValue {
    /// Starts with this value.
    pub fn new(value: Vec<u8>) -> Self {
        Self(Mutex::new(State { value: value.into(), subscribers: Vec::new() }))
    }

    /// Sends a subscriber the current value and, from now on, each new one; nothing unless it `is_connected`.
    ///
    /// # Errors
    /// The connection cannot be used.
    pub fn subscribe(
        &self,
        member: Arc<dyn Member>,
        is_connected: impl FnOnce() -> bool,
    ) -> Result<(), DriveError> {
        let mut state = lock(&self.0);
        if is_connected() {
            state.subscribers.push(Arc::clone(&member));
            send_latest(&*member, &state.value)?;
        }
        Ok(())
    }

    /// Sends a value to all subscribers, unless it is the current one. A subscriber that does not read gets only the
    /// newest value when it reads again. Returns the numbers of the connections that failed, with their errors.
    pub fn publish(&self, value: Vec<u8>) -> Vec<(u64, DriveError)> {
        let mut state = lock(&self.0);
        if *state.value == *value {
            return Vec::new();
        }
        state.value = value.into();
        let send =
            |member: &Arc<dyn Member>| Some((member.id(), send_latest(&**member, &state.value).err()?));
        state.subscribers.iter().filter_map(send).collect()
    }

    /// Removes a subscriber.
    pub fn unsubscribe(&self, id: u64) {
        lock(&self.0).subscribers.retain(|member| member.id() != id);
    }
}

fn send_latest(member: &dyn Member, value: &Arc<[u8]>) -> Result<(), DriveError> {
    member.send(None, &|outbox| outbox.send_latest(value))
}
