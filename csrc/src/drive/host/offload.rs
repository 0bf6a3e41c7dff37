//! Storey 3, host: turns that must not block the I/O thread, because they take long or wait for one that does.
//!
//! A change of millions of characters takes the document engine seconds. The I/O thread hands such a turn to a worker
//! thread; further work on the same room queues behind it, and other rooms go on. A room has no worker while all its
//! turns are short.

use std::collections::VecDeque;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::drive::{address, lock, panic_text};
use crate::replica::any_packed;

/// One piece of work on a room.
pub type Job = Box<dyn FnOnce() + Send>;

/// Input of at most this many bytes never takes long, unless it is packed.
const LONG_INPUT: usize = 64 * 1024;
/// A room where something took this much processor time has its next turn done by a worker as well: its document is
/// large, and the I/O thread must not wait for the room's lock either.
const LONG_WORK: Duration = Duration::from_millis(10);
/// The same by the clock: the disk is slow. Longer, because on a busy machine everything waits.
const LONG_WAIT: Duration = Duration::from_millis(100);
/// How long an idle worker waits for more work; starting a thread for each turn would cost more than the turn.
const IDLE_TIME: Duration = Duration::from_secs(5);

/// Whether a turn with these bytes to decode may take long.
pub fn may_take_long(pending: &[u8]) -> bool {
    pending.len() > LONG_INPUT || any_packed(pending)
}

/// The work of one room that a worker does. Bounded: a peer whose turn is queued is not read, so it has one turn and
/// one timer here at most.
#[derive(Default)]
pub struct Offload {
    /// `None` while no worker has this room.
    queue: Mutex<Option<VecDeque<Job>>>,
    slow: AtomicBool,
}

impl Offload {
    /// Whether the next turn goes to a worker: others wait there, or the last one took long.
    pub fn is_due(&self) -> bool {
        self.slow.load(Ordering::Relaxed) || lock(&self.queue).is_some()
    }

    /// Runs a turn and notes whether it took long.
    pub fn timed<T>(&self, turn: impl FnOnce() -> T) -> T {
        let watch = Stopwatch::start();
        let result = turn();
        self.turn_ended(watch.is_long());
        result
    }

    /// Runs a step that is no turn; if it takes long, the next turn goes to a worker.
    pub fn watched<T>(&self, step: impl FnOnce() -> T) -> T {
        let watch = Stopwatch::start();
        let result = step();
        self.step_ended(watch.is_long());
        result
    }

    /// Only a turn shows that turns are short again.
    fn turn_ended(&self, long: bool) {
        self.slow.store(long, Ordering::Relaxed);
    }

    fn step_ended(&self, long: bool) {
        self.slow.fetch_or(long, Ordering::Relaxed);
    }

    /// Queues a job for a worker, after those that wait.
    pub fn enqueue(self: &Arc<Self>, workers: &Workers, job: Job) {
        {
            let mut queue = lock(&self.queue);
            if let Some(queue) = queue.as_mut() {
                queue.push_back(job);
                return;
            }
            *queue = Some(VecDeque::from([job]));
        }
        if workers.start(self).is_err() {
            // The system has no thread left: do the work on this one, late rather than never.
            self.work();
        }
    }

    fn work(&self) {
        loop {
            let job = {
                let mut queue = lock(&self.queue);
                let Some(job) = queue.as_mut().and_then(VecDeque::pop_front) else {
                    *queue = None;
                    return;
                };
                job
            };
            job();
        }
    }
}

struct Stopwatch {
    cpu: Duration,
    clock: Instant,
}

impl Stopwatch {
    fn start() -> Self {
        Self { cpu: address::thread_time(), clock: Instant::now() }
    }

    fn is_long(&self) -> bool {
        took_long(address::thread_time().saturating_sub(self.cpu), self.clock.elapsed())
    }
}

fn took_long(cpu: Duration, clock: Duration) -> bool {
    cpu >= LONG_WORK || clock >= LONG_WAIT
}

/// The worker threads of a host. They must have ended before the library may be unloaded.
#[derive(Default)]
pub struct Workers {
    pool: Arc<Pool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the threads share. At most one of them is idle; it waits for a room to work on.
struct Pool {
    state: Mutex<PoolState>,
    changed: Condvar,
    idle_time: Duration,
}

impl Default for Pool {
    fn default() -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), idle_time: IDLE_TIME }
    }
}

#[derive(Default)]
struct PoolState {
    idle: bool,
    next: Option<Arc<Offload>>,
    closed: bool,
}

impl Workers {
    /// Gives a room to the idle worker, or to a new one.
    fn start(&self, room: &Arc<Offload>) -> std::io::Result<()> {
        {
            let mut state = lock(&self.pool.state);
            if state.idle && state.next.is_none() {
                state.next = Some(Arc::clone(room));
                self.pool.changed.notify_one();
                return Ok(());
            }
        }
        let mut threads = lock(&self.threads);
        threads.retain(|thread| !thread.is_finished());
        let (pool, mut room) = (Arc::clone(&self.pool), Arc::clone(room));
        let run = move || loop {
            room.work();
            match pool.next() {
                Some(next) => room = next,
                None => return,
            }
        };
        threads.push(thread::Builder::new().name("runtimed-ffi-room".into()).spawn(run)?);
        Ok(())
    }

    /// Waits until all work is done and all threads have ended.
    pub fn join(&self) {
        lock(&self.pool.state).closed = true;
        self.pool.changed.notify_one();
        loop {
            let Some(thread) = lock(&self.threads).pop() else { return };
            let _panicked = thread.join();
        }
    }
}

impl Pool {
    /// The next room for a worker that has finished one; `None` when the thread is to end.
    fn next(&self) -> Option<Arc<Offload>> {
        let mut state = lock(&self.state);
        if let Some(next) = state.next.take() {
            // The idle worker has not woken yet; it goes on waiting.
            return Some(next);
        }
        if state.idle || state.closed {
            return None;
        }
        state.idle = true;
        let waits = |state: &mut PoolState| state.next.is_none() && !state.closed;
        let waited = self.changed.wait_timeout_while(state, self.idle_time, waits);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.idle = false;
        state.next.take()
    }
}

/// A job that reports a panic instead of ending the thread and with it the jobs after it.
pub fn catch_panic(job: impl FnOnce() + Send + 'static, failed: impl FnOnce(String) + Send + 'static) -> Job {
    Box::new(move || {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(job)) {
            failed(panic_text(payload.as_ref()));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn jobs_keep_their_order_and_survive_a_panic_of_another() {
        let (room, workers) = (Arc::new(Offload::default()), Workers::default());
        let (go, gate) = channel::<()>();
        let (sender, results) = channel::<String>();
        room.enqueue(&workers, Box::new(move || gate.recv().unwrap()));
        assert!(room.is_due());
        let failed = sender.clone();
        room.enqueue(&workers, catch_panic(|| panic!("boom"), move |reason| failed.send(reason).unwrap()));
        for number in 0..3 {
            let done = sender.clone();
            room.enqueue(&workers, Box::new(move || done.send(number.to_string()).unwrap()));
        }
        assert!(results.try_recv().is_err(), "they wait for the first one");
        go.send(()).unwrap();
        workers.join();
        drop(sender);
        let results: Vec<String> = results.iter().collect();
        assert!(results[0].contains("boom"), "{results:?}");
        assert_eq!(results[1..], ["0", "1", "2"]);
        assert!(!room.is_due());
    }

    /// The thread on which a job of a room of its own runs.
    fn thread_of_a_job(workers: &Workers) -> thread::ThreadId {
        let (sender, result) = channel();
        let job = move || sender.send(thread::current().id()).unwrap();
        Arc::new(Offload::default()).enqueue(workers, Box::new(job));
        result.recv().unwrap()
    }

    fn wait_until_idle(workers: &Workers) {
        while !lock(&workers.pool.state).idle {
            thread::yield_now();
        }
    }

    #[test]
    fn one_worker_waits_for_more_work_and_further_ones_end() {
        let pool = Pool { idle_time: Duration::MAX, ..Pool::default() };
        let workers = Workers { pool: Arc::new(pool), ..Workers::default() };
        let first = thread_of_a_job(&workers);
        wait_until_idle(&workers);
        assert_eq!(thread_of_a_job(&workers), first, "no new thread for it");
        wait_until_idle(&workers);
        // Two rooms at a time need two threads.
        let (go, gate) = channel::<()>();
        let (started, is_running) = channel();
        let job = move || {
            started.send(()).unwrap();
            gate.recv().unwrap();
        };
        Arc::new(Offload::default()).enqueue(&workers, Box::new(job));
        // Until it runs the first worker counts as idle, and the second one would end at once.
        is_running.recv().unwrap();
        assert_ne!(thread_of_a_job(&workers), first);
        wait_until_idle(&workers);
        go.send(()).unwrap();
        let busy = |workers: &Workers| {
            let threads = lock(&workers.threads);
            threads.iter().filter(|thread| !thread.is_finished()).count()
        };
        while busy(&workers) > 1 {
            thread::yield_now();
        }
        workers.join();
        assert!(lock(&workers.threads).is_empty());
    }

    #[test]
    fn a_room_is_slow_as_long_as_its_turns_are() {
        let room = Offload::default();
        room.turn_ended(true);
        assert!(room.is_due());
        room.step_ended(false);
        assert!(room.is_due(), "only a turn shows that turns are short again");
        room.turn_ended(false);
        assert!(!room.is_due());
        room.step_ended(true);
        assert!(room.is_due());
    }

    #[test]
    fn input_is_long_beyond_its_bound() {
        assert!(!may_take_long(&vec![0; LONG_INPUT]));
        assert!(may_take_long(&vec![0; LONG_INPUT + 1]));
    }

    #[test]
    fn work_is_long_by_its_processor_time_and_only_far_beyond_that_by_the_clock() {
        let moment = Duration::from_nanos(1);
        assert!(!took_long(LONG_WORK - moment, LONG_WAIT - moment));
        assert!(took_long(LONG_WORK, LONG_WORK));
        assert!(took_long(Duration::ZERO, LONG_WAIT));
        let room = Offload::default();
        let end = address::thread_time() + LONG_WORK * 2;
        room.timed(|| while address::thread_time() < end {});
        assert!(room.is_due());
    }
}
