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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::Outbox;
    use crate::replica::Doc;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Keeps what it gets, unless it is broken.
    struct Subscriber {
        id: u64,
        outbox: Mutex<Outbox>,
        broken: AtomicBool,
    }

    impl Subscriber {
        fn new(id: u64) -> Arc<Self> {
            Arc::new(Self { id, outbox: Mutex::new(Outbox::new(false)), broken: AtomicBool::new(false) })
        }

        /// The value it got last, if it got one since the last call.
        fn received(&self) -> Option<Vec<u8>> {
            let mut outbox = lock(&self.outbox);
            outbox.fill(None).unwrap();
            let output = outbox.output().to_vec();
            outbox.written(output.len());
            (!output.is_empty()).then(|| output[4..].to_vec())
        }
    }

    impl Member for Subscriber {
        fn id(&self) -> u64 {
            self.id
        }

        fn send(&self, _: Option<&dyn Doc>, queue: &dyn Fn(&mut Outbox)) -> Result<(), DriveError> {
            if self.broken.load(Ordering::Relaxed) {
                return Err(DriveError::Closed("broken".into()));
            }
            queue(&mut lock(&self.outbox));
            Ok(())
        }
    }

    #[test]
    fn only_present_subscribers_get_a_value_and_each_failure_is_returned() {
        let latest = LatestValue::new(b"1".to_vec());
        let [first, second, third, gone] = [1, 2, 3, 4].map(Subscriber::new);
        for subscriber in [&first, &second, &third] {
            latest.subscribe(Arc::clone(subscriber) as _, || true).unwrap();
            assert_eq!(subscriber.received().unwrap(), b"1");
        }
        latest.subscribe(Arc::clone(&gone) as _, || false).unwrap();
        latest.unsubscribe(2);
        first.broken.store(true, Ordering::Relaxed);
        for value in [b"2", b"3"] {
            let failed = latest.publish(value.to_vec());
            assert_eq!(failed.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1]);
            assert_eq!(third.received().unwrap(), value);
        }
        assert!(latest.publish(b"3".to_vec()).is_empty());
        for subscriber in [&first, &second, &third, &gone] {
            assert_eq!(subscriber.received(), None);
        }
    }
}
