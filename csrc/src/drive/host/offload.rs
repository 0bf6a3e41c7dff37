//! Turns of peers that must not hold up the I/O thread: they take long, or wait for one that does.
//!
//! A change of millions of characters takes the document engine seconds. The I/O thread hands such a turn
//! to a thread of its room, and everything that comes for that room meanwhile queues behind it; peers
//! elsewhere notice nothing. There is no such thread while nothing takes long.

use std::collections::VecDeque;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::drive::lock;
use crate::replica::any_packed;

/// What a peer does when it is its turn.
pub type Turn = Box<dyn FnOnce() + Send>;

/// Bytes that never take long, unless they are packed.
const LONG_INPUT: usize = 64 * 1024;
/// A room in which something took longer does the next turn aside as well: its document is large, and the I/O thread
/// must not wait for the room's lock either.
const LONG_TURN: Duration = Duration::from_millis(10);

/// Whether a turn with these bytes to decode may take long.
pub fn may_take_long(pending: &[u8]) -> bool {
    pending.len() > LONG_INPUT || any_packed(pending)
}

/// The turns of one room that are done aside. One per peer and its timer at most: a peer is not read
/// while its turn waits.
#[derive(Default)]
pub struct Aside {
    /// None while no thread works on them.
    waiting: Mutex<Option<VecDeque<Turn>>>,
    slow: AtomicBool,
}

impl Aside {
    /// Whether the next turn is to be done aside, because others are, or because the last one took long.
    pub fn is_due(&self) -> bool {
        self.slow.load(Ordering::Relaxed) || lock(&self.waiting).is_some()
    }

    /// Does a turn and notes whether it took long.
    pub fn timed<T>(&self, turn: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let result = turn();
        self.turn_took(begun.elapsed());
        result
    }

    /// Does what is no turn; what follows is done aside if it took long.
    pub fn watched<T>(&self, step: impl FnOnce() -> T) -> T {
        let begun = Instant::now();
        let result = step();
        self.step_took(begun.elapsed());
        result
    }

    fn turn_took(&self, time: Duration) {
        self.slow.store(time >= LONG_TURN, Ordering::Relaxed);
    }

    fn step_took(&self, time: Duration) {
        self.slow.fetch_or(time >= LONG_TURN, Ordering::Relaxed);
    }

    /// Does a turn aside, behind those that wait.
    pub fn enqueue(self: &Arc<Self>, crew: &Crew, turn: Turn) {
        {
            let mut waiting = lock(&self.waiting);
            if let Some(waiting) = waiting.as_mut() {
                waiting.push_back(turn);
                return;
            }
            *waiting = Some(VecDeque::from([turn]));
        }
        let me = Arc::clone(self);
        if crew.start(move || me.work()).is_err() {
            // The system has no thread left: late for everybody is better than never.
            self.work();
        }
    }

    fn work(&self) {
        loop {
            let turn = {
                let mut waiting = lock(&self.waiting);
                let Some(turn) = waiting.as_mut().and_then(VecDeque::pop_front) else {
                    *waiting = None;
                    return;
                };
                turn
            };
            turn();
        }
    }
}

/// The threads of a host's rooms. They must have ended before the library may be unloaded.
#[derive(Default)]
pub struct Crew {
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Crew {
    fn start(&self, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let mut threads = lock(&self.threads);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread::Builder::new().name("runtimed-ffi-room".into()).spawn(work)?);
        Ok(())
    }

    /// Waits for the turns that are under way.
    pub fn join(&self) {
        loop {
            let Some(thread) = lock(&self.threads).pop() else { return };
            let _panicked = thread.join();
        }
    }
}

/// A turn that tells a panic instead of ending the thread, and with it the turns behind it.
pub fn guarded(turn: impl FnOnce() + Send + 'static, failed: impl FnOnce(String) + Send + 'static) -> Turn {
    Box::new(move || {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(turn)) {
            failed(crate::drive::panic_text(payload.as_ref()));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn turns_keep_their_order_and_survive_each_other() {
        let (aside, crew) = (Arc::new(Aside::default()), Crew::default());
        let (go, gate) = channel::<()>();
        let (tell, told) = channel::<String>();
        aside.enqueue(&crew, Box::new(move || gate.recv().unwrap()));
        assert!(aside.is_due());
        let say = tell.clone();
        aside.enqueue(&crew, guarded(|| panic!("boom"), move |reason| say.send(reason).unwrap()));
        for number in 0..3 {
            let say = tell.clone();
            aside.enqueue(&crew, Box::new(move || say.send(number.to_string()).unwrap()));
        }
        assert!(told.try_recv().is_err(), "they wait for the first one");
        go.send(()).unwrap();
        crew.join();
        drop(tell);
        let heard: Vec<String> = told.iter().collect();
        assert!(heard[0].contains("boom"), "{heard:?}");
        assert_eq!(heard[1..], ["0", "1", "2"]);
        assert!(!aside.is_due());
    }

    #[test]
    fn a_room_is_slow_as_long_as_its_turns_are() {
        let aside = Aside::default();
        aside.turn_took(LONG_TURN);
        assert!(aside.is_due());
        aside.step_took(Duration::ZERO);
        assert!(aside.is_due(), "only a turn shows that turns are quick again");
        aside.turn_took(Duration::ZERO);
        assert!(!aside.is_due());
        aside.step_took(LONG_TURN);
        assert!(aside.is_due());
    }
}
