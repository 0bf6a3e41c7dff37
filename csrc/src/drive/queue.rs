//! Storey 3: the bounded event queue between the I/O thread and the host program.

use std::collections::{HashMap, VecDeque};
use std::os::fd::RawFd;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use super::lock;
use super::signal::Signal;
use crate::code::rtd_event_kind::{RTD_EV_CLOSED, RTD_EV_RESYNC};
use crate::connection::Event;

/// Called, with no data, from any thread, when events wait. No lock of ours is held meanwhile.
pub type Wakeup = Box<dyn Fn() + Send + Sync>;

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    Event,
    Woken,
    TimedOut,
    Closed,
}

struct Inner {
    events: VecDeque<Event>,
    bytes: usize,
    /// Events taken so far; the first one waiting has this position.
    seq: u64,
    /// Position of the hint that waits, per room.
    hints: HashMap<String, u64>,
    resync: bool,
    /// The queue has become non-empty and the wakeup callback does not know it yet.
    unannounced: bool,
    woken: bool,
    /// The final event was queued: nothing comes after it.
    ended: bool,
    /// The final event was taken.
    over: bool,
    signal: Signal,
}

/// One queue: many producers, one consumer. The descriptor is readable exactly while an event, or
/// the end, waits.
pub struct Queue {
    inner: Mutex<Inner>,
    arrived: Condvar,
    wakeup: Mutex<Option<Arc<Wakeup>>>,
    limit: usize,
    fd: RawFd,
}

impl Queue {
    /// A queue that holds `limit` bytes of droppable events.
    ///
    /// # Errors
    /// No descriptor could be made.
    pub fn new(limit: usize) -> std::io::Result<Self> {
        let signal = Signal::new()?;
        let fd = signal.fd();
        let inner = Inner {
            events: VecDeque::new(),
            bytes: 0,
            seq: 0,
            hints: HashMap::new(),
            resync: false,
            unannounced: false,
            woken: false,
            ended: false,
            over: false,
            signal,
        };
        Ok(Self { inner: Mutex::new(inner), arrived: Condvar::new(), wakeup: Mutex::new(None), limit, fd })
    }

    /// The descriptor to poll for reading. It lives as long as the queue.
    pub fn fd(&self) -> RawFd {
        self.fd
    }

    /// Bytes in the queue.
    pub fn bytes(&self) -> usize {
        lock(&self.inner).bytes
    }

    /// Sets, replaces or clears the wakeup callback. Events that wait already are announced at once:
    /// their own edge has passed.
    pub fn set_wakeup(&self, wakeup: Option<Wakeup>) {
        let new = wakeup.map(Arc::new);
        let old = std::mem::replace(&mut *lock(&self.wakeup), new.clone());
        drop(old);
        if let Some(new) = new {
            let waiting = !lock(&self.inner).events.is_empty();
            if waiting {
                new();
            }
        }
    }

    /// Appends an event. Hints merge with the one that waits. Beyond the bound, droppable events are
    /// replaced by one `Resync`; terminal events always go in (they are bounded by the number of
    /// requests under way). Hold an [`Announcer`] while pushing, and drop it after the locks.
    pub fn push(&self, mut event: Event) {
        let mut inner = lock(&self.inner);
        if inner.ended {
            return;
        }
        if let Some(hint) = event.hint.take() {
            let taken = inner.seq;
            if let Some(place) = inner.hints.get(&event.id).and_then(|at| usize::try_from(at - taken).ok()) {
                if let Some(old) = inner.events.get_mut(place).and_then(|old| old.hint.as_mut()) {
                    old.merge(hint);
                    return;
                }
            }
            event.hint = Some(hint);
            let position = taken + inner.events.len() as u64;
            inner.hints.insert(event.id.clone(), position);
        }
        if event.droppable() && inner.bytes + event.size() > self.limit {
            if std::mem::replace(&mut inner.resync, true) {
                return;
            }
            event = Event::new(RTD_EV_RESYNC);
        }
        inner.ended = event.kind == RTD_EV_CLOSED;
        inner.bytes += event.size();
        inner.events.push_back(event);
        inner.unannounced |= inner.events.len() == 1;
        inner.signal.set(true);
        drop(inner);
        self.arrived.notify_all();
    }

    /// Calls the wakeup callback when it goes out of scope, if something was pushed meanwhile. Made
    /// before the locks under which events are pushed, it goes after them.
    pub fn announcer(&self) -> Announcer<'_> {
        Announcer(self)
    }

    /// Takes the next event; `Err(())` once the final one was taken.
    #[allow(clippy::result_unit_err)]
    pub fn pop(&self) -> Result<Option<Event>, ()> {
        let mut inner = lock(&self.inner);
        let Some(mut event) = inner.events.pop_front() else {
            return if inner.over { Err(()) } else { Ok(None) };
        };
        inner.bytes -= event.size();
        inner.seq += 1;
        event.seq = inner.seq;
        inner.over = event.kind == RTD_EV_CLOSED;
        inner.resync &= event.kind != RTD_EV_RESYNC;
        if event.hint.is_some() {
            inner.hints.remove(&event.id);
        }
        // After the end the descriptor stays readable: no reader waits for more.
        let waiting = !inner.events.is_empty() || inner.over;
        inner.signal.set(waiting);
        drop(inner);
        Ok(Some(event.rendered()))
    }

    /// Waits until an event is there; `None` waits without limit.
    pub fn wait(&self, timeout: Option<Duration>) -> Waited {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let mut inner = lock(&self.inner);
        loop {
            if inner.over {
                return Waited::Closed;
            }
            if std::mem::take(&mut inner.woken) {
                return Waited::Woken;
            }
            if !inner.events.is_empty() {
                return Waited::Event;
            }
            inner = match deadline {
                None => self.arrived.wait(inner).unwrap_or_else(std::sync::PoisonError::into_inner),
                Some(deadline) => {
                    let Some(left) =
                        deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
                    else {
                        return Waited::TimedOut;
                    };
                    let waited = self.arrived.wait_timeout(inner, left);
                    waited.unwrap_or_else(std::sync::PoisonError::into_inner).0
                }
            };
        }
    }

    /// Ends the present or the next wait.
    pub fn wake(&self) {
        lock(&self.inner).woken = true;
        self.arrived.notify_all();
    }
}

/// See [`Queue::announcer`].
pub struct Announcer<'a>(&'a Queue);

impl Drop for Announcer<'_> {
    fn drop(&mut self) {
        let due = std::mem::take(&mut lock(&self.0.inner).unannounced);
        if due {
            let wakeup = lock(&self.0.wakeup).clone();
            if let Some(wakeup) = wakeup {
                wakeup();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::code::rtd_event_kind::{self, *};
    use crate::connection::Hint;
    use crate::notebook::Changes;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn output(text: &str) -> Event {
        let mut event = Event::new(RTD_EV_OUTPUT);
        event.text = text.into();
        event
    }

    fn hint(room: &str, cell: &str) -> Event {
        let mut event = Event::new(RTD_EV_CHANGED);
        event.id = room.into();
        let changes = Changes { cells: [cell.to_owned()].into(), ..Changes::default() };
        event.hint = Some(Hint::new(&changes));
        event
    }

    fn kinds(queue: &Queue) -> Vec<rtd_event_kind> {
        std::iter::from_fn(|| queue.pop().unwrap()).map(|event| event.kind).collect()
    }

    #[test]
    fn events_are_numbered_without_a_gap_and_end_with_the_last() {
        let queue = Queue::new(1 << 20).unwrap();
        queue.push(output("a"));
        queue.push(Event::new(RTD_EV_CLOSED));
        queue.push(output("too late"));
        assert_eq!(queue.pop().unwrap().unwrap().seq, 1);
        assert_eq!(queue.pop().unwrap().unwrap().seq, 2);
        assert!(queue.pop().is_err());
        assert_eq!(queue.wait(None), Waited::Closed);
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn beyond_the_bound_outputs_become_one_resync_and_terminals_still_arrive() {
        let queue = Queue::new(2000).unwrap();
        for _ in 0..100 {
            queue.push(output(&"x".repeat(500)));
        }
        queue.push(Event::new(RTD_EV_DONE));
        assert!(queue.bytes() < 4000, "the bound holds but for terminal events");
        let kinds = kinds(&queue);
        assert_eq!(kinds.iter().filter(|kind| **kind == RTD_EV_RESYNC).count(), 1);
        assert_eq!(kinds.last(), Some(&RTD_EV_DONE));
        queue.push(output("room again"));
        assert_eq!(queue.pop().unwrap().unwrap().kind, RTD_EV_OUTPUT);
    }

    #[test]
    fn each_overflow_makes_a_resync_of_its_own() {
        let queue = Queue::new(2000).unwrap();
        let large = || output(&"x".repeat(500));
        let overflow = || (0..10).for_each(|_| queue.push(large()));
        for _ in 0..3 {
            overflow();
            let kinds = kinds(&queue);
            assert_eq!(kinds.iter().filter(|kind| **kind == RTD_EV_RESYNC).count(), 1, "{kinds:?}");
            assert_eq!(kinds.last(), Some(&RTD_EV_RESYNC));
        }
        // Also when the queue is never empty in between.
        overflow();
        while queue.pop().unwrap().unwrap().kind != RTD_EV_RESYNC {}
        queue.push(Event::new(RTD_EV_DONE));
        overflow();
        assert_eq!(kinds(&queue).iter().filter(|kind| **kind == RTD_EV_RESYNC).count(), 1);
    }

    #[test]
    fn an_event_that_fills_the_queue_to_its_bound_goes_in() {
        let queue = Queue::new(output("x").size() * 2).unwrap();
        queue.push(output("a"));
        queue.push(output("b"));
        assert_eq!(kinds(&queue), [RTD_EV_OUTPUT, RTD_EV_OUTPUT]);
        queue.push(output("a"));
        queue.push(output("bc"));
        assert_eq!(kinds(&queue), [RTD_EV_OUTPUT, RTD_EV_RESYNC]);
    }

    #[test]
    fn requests_and_terminal_events_go_into_a_full_queue() {
        let dropped = [RTD_EV_QUEUED, RTD_EV_STARTED, RTD_EV_OUTPUT, RTD_EV_CLEARED, RTD_EV_BROADCAST];
        let kept = [
            RTD_EV_READY,
            RTD_EV_CHANGED,
            RTD_EV_RESPONSE,
            RTD_EV_DONE,
            RTD_EV_SYNCED,
            RTD_EV_RESYNC,
            RTD_EV_ROOM_WANTED,
            RTD_EV_PEER_JOINED,
            RTD_EV_PEER_LEFT,
            RTD_EV_REQUEST,
            RTD_EV_ROOM_CHANGED,
            RTD_EV_ROOM_FAILED,
            RTD_EV_SETTINGS_CHANGED,
            RTD_EV_SETTINGS_FAILED,
        ];
        let queue = Queue::new(1).unwrap();
        for kind in dropped.into_iter().chain(kept) {
            queue.push(Event::new(kind));
        }
        let mut expected = vec![RTD_EV_RESYNC];
        expected.extend(kept);
        assert_eq!(kinds(&queue), expected);
        queue.push(Event::new(RTD_EV_CLOSED));
        assert_eq!(queue.pop().unwrap().unwrap().kind, RTD_EV_CLOSED);
    }

    #[test]
    fn the_bound_is_in_bytes_of_all_that_an_event_carries() {
        let mut event = Event::new(RTD_EV_OUTPUT);
        let empty = event.size();
        event.id = "i".repeat(100);
        event.payload = vec![0; 1000];
        event.text = "t".repeat(10_000);
        event.covered = Some(vec!["c".repeat(100_000), "d".repeat(100_000)]);
        assert_eq!(event.size() - empty, 211_100);
        let queue = Queue::new(event.size() * 2).unwrap();
        for _ in 0..3 {
            queue.push(event.clone());
        }
        assert_eq!(kinds(&queue), [RTD_EV_OUTPUT, RTD_EV_OUTPUT, RTD_EV_RESYNC]);
    }

    #[test]
    fn hints_collapse_per_room_until_they_are_taken() {
        let queue = Queue::new(1 << 20).unwrap();
        queue.push(output("first"));
        queue.push(hint("r", "a"));
        queue.push(hint("s", "b"));
        queue.push(output("between"));
        queue.push(hint("r", "c"));
        queue.pop().unwrap();
        let merged = queue.pop().unwrap().unwrap();
        assert_eq!(merged.payload, br#"{"cells":["a","c"],"order":false,"metadata":false}"#);
        queue.push(hint("r", "d"));
        assert_eq!(kinds(&queue), [RTD_EV_CHANGED, RTD_EV_OUTPUT, RTD_EV_CHANGED]);
    }

    #[test]
    fn a_wake_is_never_lost_and_a_wait_ends_in_time() {
        let queue = Queue::new(1 << 20).unwrap();
        queue.wake();
        assert_eq!(queue.wait(None), Waited::Woken);
        assert_eq!(queue.wait(Some(Duration::ZERO)), Waited::TimedOut);
        std::thread::scope(|scope| {
            scope.spawn(|| queue.push(output("x")));
            assert_eq!(queue.wait(None), Waited::Event);
        });
    }

    #[test]
    fn the_wakeup_is_called_when_the_queue_stops_being_empty() {
        let queue = Queue::new(1 << 20).unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        queue.set_wakeup(Some(Box::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
        })));
        let announcer = queue.announcer();
        queue.push(output("a"));
        queue.push(output("b"));
        assert_eq!(calls.load(Ordering::Relaxed), 0, "not before the announcer is dropped");
        drop(announcer);
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        kinds(&queue);
        drop(queue.announcer());
        assert_eq!(calls.load(Ordering::Relaxed), 1, "nothing was pushed");
        let announcer = queue.announcer();
        queue.push(output("c"));
        drop(announcer);
        assert_eq!(calls.load(Ordering::Relaxed), 2);
        queue.set_wakeup(None);
        assert_eq!(Arc::strong_count(&calls), 1, "the callback is dropped with its last call");
    }
}
