//! Storey 3: the one I/O thread of the process: readiness of sockets, and timers.
//!
//! It starts with the first session or host and ends with the last. A panic in a handler is caught and reported to that
//! handler; nothing else fails.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::{AsFd, AsRawFd};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use polling::{Event as Ready, Events, PollMode, Poller};

use super::{lock, panic_text};
use crate::connection::Millis;

/// Something with a socket and perhaps a timer. Called on the I/O thread, one at a time.
pub trait Handler: Send + Sync {
    /// The socket is readable or writable, or broken (then both).
    fn ready(&self, readable: bool, writable: bool);
    /// The time set with [`Reactor::set_timer`] has come.
    fn timer(&self);
    /// A call above panicked.
    fn failed(&self, reason: String);
}

#[derive(Default)]
struct Table {
    handlers: HashMap<usize, Entry>,
    timers: BTreeSet<(Instant, usize)>,
    /// Handlers to be called as if their sockets were readable.
    due: BTreeSet<usize>,
    next_key: usize,
    stopping: bool,
}

struct Entry {
    handler: Weak<dyn Handler>,
    timer: Option<Instant>,
}

/// The I/O thread.
pub struct Reactor {
    poller: Poller,
    table: Mutex<Table>,
    started: Instant,
    /// Number of [`ReactorUse`]; changed only under the lock of its [`Slot`].
    users: AtomicUsize,
    thread: Mutex<Option<JoinHandle<()>>>,
    pid: u32,
}

/// The reactor of a process, while a session or host uses it.
struct Slot {
    pid: AtomicU32,
    current: Mutex<Weak<Reactor>>,
    /// The slot of the child, if this process forked. A thread of the parent may have held the lock at
    /// that moment, and no thread of the child would ever release it.
    child: OnceLock<Box<Slot>>,
}

impl Slot {
    const fn new(pid: u32) -> Self {
        Self { pid: AtomicU32::new(pid), current: Mutex::new(Weak::new()), child: OnceLock::new() }
    }
}

/// The slot of the process that used the library first; its pid is zero until then.
static FIRST: Slot = Slot::new(0);

/// The slot of this process.
fn slot() -> &'static Slot {
    let pid = std::process::id();
    let mut slot = &FIRST;
    loop {
        match slot.pid.compare_exchange(0, pid, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => return slot,
            Err(found) if found == pid => return slot,
            Err(_) => slot = slot.child.get_or_init(|| Box::new(Slot::new(pid))),
        }
    }
}

/// A use of the reactor by one session or host; the last one to go ends the thread and joins it.
pub struct ReactorUse(Arc<Reactor>);

impl ReactorUse {
    /// Joins the running reactor, or starts one.
    ///
    /// # Errors
    /// The system has no thread or descriptor left.
    pub fn acquire() -> std::io::Result<Self> {
        Reactor::acquire()
    }

    /// The reactor itself, for handlers.
    pub fn reactor(&self) -> Arc<Reactor> {
        Arc::clone(&self.0)
    }
}

impl Reactor {
    fn acquire() -> std::io::Result<ReactorUse> {
        // After a fork the thread exists only in the parent: the child has a slot, and a reactor, of its own.
        let mut current = lock(&slot().current);
        if let Some(reactor) = current.upgrade() {
            reactor.users.fetch_add(1, Ordering::Relaxed);
            return Ok(ReactorUse(reactor));
        }
        let reactor = Arc::new(Self {
            poller: Poller::new()?,
            table: Mutex::new(Table::default()),
            started: Instant::now(),
            users: AtomicUsize::new(1),
            thread: Mutex::new(None),
            pid: std::process::id(),
        });
        let runner = Arc::clone(&reactor);
        let thread = thread::Builder::new().name("runtimed-ffi-io".into()).spawn(move || runner.run())?;
        *lock(&reactor.thread) = Some(thread);
        *current = Arc::downgrade(&reactor);
        Ok(ReactorUse(reactor))
    }

    /// Milliseconds since the reactor started.
    pub fn now(&self) -> Millis {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(Millis::MAX)
    }

    /// Reserves a key for a handler.
    pub fn register(&self, handler: Weak<dyn Handler>) -> usize {
        let mut table = lock(&self.table);
        table.next_key += 1;
        let key = table.next_key;
        table.handlers.insert(key, Entry { handler, timer: None });
        key
    }

    /// Watches a socket under a key. The socket must be taken out with [`Reactor::forget`] before it
    /// is closed.
    ///
    /// # Errors
    /// The system refused.
    pub fn watch(&self, key: usize, socket: &(impl AsRawFd + AsFd), writable: bool) -> std::io::Result<()> {
        super::address::watch(&self.poller, socket, Ready::new(key, true, writable))
    }

    /// Changes what a socket is watched for. One that is watched for nothing and breaks is reported once: the
    /// system reports it whether it is watched or not, and would again and again.
    ///
    /// # Errors
    /// The system refused.
    pub fn rewatch(
        &self,
        key: usize,
        socket: &impl AsFd,
        readable: bool,
        writable: bool,
    ) -> std::io::Result<()> {
        let mode = if readable || writable { PollMode::Level } else { PollMode::Oneshot };
        self.poller.modify_with_mode(socket, Ready::new(key, readable, writable), mode)
    }

    /// Stops watching a socket and forgets its handler and timer. A socket that was never watched is fine.
    pub fn forget(&self, key: usize, socket: Option<&impl AsFd>) {
        if let Some(socket) = socket {
            let _never_watched = self.poller.delete(socket);
        }
        let mut table = lock(&self.table);
        if let Some(at) = table.handlers.remove(&key).and_then(|entry| entry.timer) {
            table.timers.remove(&(at, key));
        }
        table.due.remove(&key);
    }

    /// Calls a handler soon as if its socket were readable: input that was read before may be processed now.
    pub fn revisit(&self, key: usize) {
        if lock(&self.table).due.insert(key) {
            self.interrupt();
        }
    }

    /// Sets or clears the timer of a handler (milliseconds of [`Reactor::now`]).
    pub fn set_timer(&self, key: usize, at: Option<Millis>) {
        let at = at.map(|at| self.started + Duration::from_millis(at));
        let mut table = lock(&self.table);
        let first = table.timers.first().map(|(at, _)| *at);
        let Some(entry) = table.handlers.get_mut(&key) else {
            return;
        };
        let old = std::mem::replace(&mut entry.timer, at);
        if old == at {
            return;
        }
        if let Some(old) = old {
            table.timers.remove(&(old, key));
        }
        if let Some(at) = at {
            table.timers.insert((at, key));
            if first.is_none_or(|first| at < first) {
                drop(table);
                self.interrupt();
            }
        }
    }

    fn interrupt(&self) {
        // Only a broken kernel object refuses; the thread then wakes at its next timer or event.
        let _refused = self.poller.notify();
    }

    fn run(&self) {
        let mut events = Events::new();
        loop {
            let timeout = {
                let table = lock(&self.table);
                if table.stopping {
                    return;
                }
                let left = |(at, _): &(Instant, usize)| at.saturating_duration_since(Instant::now());
                if table.due.is_empty() {
                    table.timers.first().map(left)
                } else {
                    Some(Duration::ZERO)
                }
            };
            events.clear();
            if self.poller.wait(&mut events, timeout).is_err() {
                continue;
            }
            for ready in events.iter() {
                if let Some(handler) = self.handler(ready.key) {
                    guarded(&handler, |handler| handler.ready(ready.readable, ready.writable));
                }
            }
            let due = std::mem::take(&mut lock(&self.table).due);
            for handler in due.into_iter().filter_map(|key| self.handler(key)) {
                guarded(&handler, |handler| handler.ready(true, false));
            }
            self.run_timers();
        }
    }

    fn handler(&self, key: usize) -> Option<Arc<dyn Handler>> {
        lock(&self.table).handlers.get(&key).and_then(|entry| entry.handler.upgrade())
    }

    fn run_timers(&self) {
        loop {
            let key = {
                let mut table = lock(&self.table);
                let Some(&(at, key)) = table.timers.first() else {
                    return;
                };
                if at > Instant::now() {
                    return;
                }
                table.timers.remove(&(at, key));
                if let Some(entry) = table.handlers.get_mut(&key) {
                    entry.timer = None;
                }
                key
            };
            if let Some(handler) = self.handler(key) {
                guarded(&handler, |handler| handler.timer());
            }
        }
    }
}

fn guarded(handler: &Arc<dyn Handler>, call: impl FnOnce(&dyn Handler)) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(|| call(handler.as_ref()))) {
        let reason = panic_text(payload.as_ref());
        // A second panic, while the first is reported, is dropped.
        let _unreported = catch_unwind(AssertUnwindSafe(|| handler.failed(reason)));
    }
}

impl Drop for ReactorUse {
    fn drop(&mut self) {
        if self.0.pid != std::process::id() {
            return;
        }
        let mut current = lock(&slot().current);
        if self.0.users.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        // Under the lock, so that no session or host joins a reactor that is about to stop.
        *current = Weak::new();
        drop(current);
        lock(&self.0.table).stopping = true;
        self.0.interrupt();
        // Handles of the host program hold uses; code on this thread never does.
        let thread = lock(&self.0.thread).take();
        if let Some(thread) = thread {
            let _panicked = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    /// Reads one byte at a time and counts its calls.
    struct Reader {
        stream: UnixStream,
        calls: AtomicUsize,
    }

    impl Handler for Reader {
        fn ready(&self, readable: bool, _writable: bool) {
            if readable {
                let _end = (&self.stream).read(&mut [0]);
            }
            self.calls.fetch_add(1, Ordering::Relaxed);
            let _other_end_is_gone = (&self.stream).write(&[0]);
        }
        fn timer(&self) {}
        fn failed(&self, reason: String) {
            panic!("{reason}");
        }
    }

    /// A reader that is watched, its key, and the other end, which gets a byte for each call.
    fn reader(reactor: &Reactor) -> (Arc<Reader>, usize, UnixStream) {
        let (stream, other) = UnixStream::pair().unwrap();
        stream.set_nonblocking(true).unwrap();
        other.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let reader = Arc::new(Reader { stream, calls: AtomicUsize::new(0) });
        let weak: Weak<Reader> = Arc::downgrade(&reader);
        let key = reactor.register(weak);
        reactor.watch(key, &reader.stream, false).unwrap();
        (reader, key, other)
    }

    fn await_call(other: &mut UnixStream) {
        other.read_exact(&mut [0]).unwrap();
    }

    #[test]
    fn a_socket_that_breaks_while_it_is_watched_for_nothing_is_reported_once() {
        let running = ReactorUse::acquire().unwrap();
        let reactor = running.reactor();
        let (broken, key, other) = reader(&reactor);
        let (witness, witness_key, mut end) = reader(&reactor);
        reactor.rewatch(key, &broken.stream, false, false).unwrap();
        drop(other);
        // Each round is one wait of the thread at least, which would report it again.
        for _ in 0..50 {
            end.write_all(&[0]).unwrap();
            await_call(&mut end);
        }
        assert_eq!(broken.calls.load(Ordering::Relaxed), 1);
        // Watched again, it is broken still.
        reactor.rewatch(key, &broken.stream, true, false).unwrap();
        for _ in 0..2 {
            end.write_all(&[0]).unwrap();
            await_call(&mut end);
        }
        assert!(broken.calls.load(Ordering::Relaxed) > 1);
        reactor.forget(key, Some(&broken.stream));
        reactor.forget(witness_key, Some(&witness.stream));
    }

    #[test]
    fn a_handler_is_called_again_when_it_asks_for_it() {
        let running = ReactorUse::acquire().unwrap();
        let reactor = running.reactor();
        let (reader, key, mut other) = reader(&reactor);
        for _ in 0..3 {
            reactor.revisit(key);
            await_call(&mut other);
        }
        reactor.forget(key, Some(&reader.stream));
        assert_eq!(reader.calls.load(Ordering::Relaxed), 3);
    }
}
