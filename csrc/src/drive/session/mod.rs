//! Storey 3: a client of one room: local reads, edits that go out at once, requests, executions, events.
//!
//! `core` is the state under the lock: `link` is the part that ends with a connection, `pending` the requests under
//! way. `io` moves bytes on the I/O thread, `report` turns what happened into events, `blobs` reads large outputs.

mod blobs;
mod core;
mod io;
mod link;
mod pending;
mod report;

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use serde_json::{json, Map, Value};

use self::core::{action, Core, View};
use self::io::Shared;
use self::link::Link;
use self::pending::{PendingKind, PendingTable};
use super::queue::Queue;
use super::reactor::ReactorUse;
use super::source::EventSource;
use super::{address, lock, panic_text, DriveError};
use crate::code::code;
use crate::code::rtd_code::RTD_E_PANIC;
use crate::connection::{Client, Confirm, EndRule, Event, Millis, Runs};
use crate::notebook::{Notebook, Op};
use crate::wire::v2::Request;
use crate::wire::Message;

/// Bytes waiting to be written before edits and requests are refused with `Again`.
const OUT_LIMIT: usize = 256 * 1024 * 1024;

/// How a session is opened.
pub struct SessionOptions {
    /// Milliseconds for handshake and first synchronisation; `None` waits without limit.
    pub connect_timeout: Option<Millis>,
    /// Bound of the event queue in bytes.
    pub queue_limit: usize,
    /// Also report outputs of cells that others run.
    pub watch_all: bool,
    /// Directory of blobs; else the one that the daemon names, else `blobs` beside the socket.
    pub blobs_dir: Option<PathBuf>,
}

impl Default for SessionOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Some(10_000),
            queue_limit: 64 * 1024 * 1024,
            watch_all: false,
            blobs_dir: None,
        }
    }
}

/// A client of one room. Every method may be called from any thread; one thread at a time takes events.
pub struct Session {
    shared: Arc<Shared>,
    // Dropped last: the thread outlives what runs on it.
    _reactor: ReactorUse,
}

impl Session {
    /// Connects to the daemon at `socket_path` and starts joining the room. `Ready` or `Closed` follows.
    ///
    /// # Errors
    /// `Io` from the operating system; `Timeout` when the daemon does not accept in time; `Again` when a signal came
    /// while waiting for that; `TooBig` for a notebook id over the control frame limit.
    pub fn open(socket_path: &Path, notebook_id: &str, options: SessionOptions) -> Result<Self, DriveError> {
        let client = Client::without_output_broadcasts(notebook_id)?;
        let timeout = options.connect_timeout.map(std::time::Duration::from_millis);
        let stream = address::connect(socket_path, timeout).map_err(|error| match error.kind() {
            std::io::ErrorKind::TimedOut => DriveError::Timeout(error.to_string()),
            std::io::ErrorKind::Interrupted => {
                DriveError::Again("a signal came before the daemon accepted".into())
            }
            _ => error.into(),
        })?;
        let guard = ReactorUse::acquire()?;
        let reactor = guard.reactor();
        let connect_deadline = options.connect_timeout.map(|timeout| reactor.now().saturating_add(timeout));
        let core = Core {
            link: Link::new(client, connect_deadline),
            replica: Notebook::empty(),
            pending: PendingTable::default(),
            runs: Runs::new(EndRule::FinishRule),
            view: View::default(),
            watch_all: options.watch_all,
            leaving: None,
            closed: None,
            poisoned: false,
        };
        let queue = Queue::new(options.queue_limit)?;
        let shared = Arc::new_cyclic(|me: &Weak<Shared>| Shared {
            key: reactor.register(me.clone()),
            reactor,
            pid: std::process::id(),
            stream,
            socket_path: socket_path.into(),
            notebook_id: notebook_id.into(),
            blobs_dir: options.blobs_dir,
            blobs: Mutex::new(None),
            core: Mutex::new(core),
            queue,
        });
        let session = Self { shared, _reactor: guard };
        session.shared.reactor.watch(session.shared.key, &session.shared.stream, false)?;
        let announcer = session.shared.queue.announcer();
        let mut core = lock(&session.shared.core);
        session.shared.pump(&mut core);
        drop(core);
        drop(announcer);
        Ok(session)
    }

    /// Whether this is the process that opened the session.
    pub fn in_own_process(&self) -> bool {
        self.shared.pid == std::process::id()
    }

    /// Leaves the room. Everything under way ends with a terminal event; `Closed` is the last one, when the
    /// daemon has read what was written here, or has read nothing for a while. Idempotent.
    ///
    /// # Errors
    /// `State` in a forked child: the connection is the parent's.
    pub fn close(&self) -> Result<(), DriveError> {
        self.check_process()?;
        let _announcer = self.shared.queue.announcer();
        self.shared.leave(&mut lock(&self.shared.core));
        Ok(())
    }

    /// Turns outputs of cells run by others on or off (token 0).
    ///
    /// # Errors
    /// `State` in a forked child; `Closed`; `Poisoned`.
    pub fn watch(&self, on: bool) -> Result<(), DriveError> {
        self.with(|_, core| {
            core.watch_all = on;
            Ok(())
        })
    }

    /// Sends a request; ends in exactly one `Response` event.
    ///
    /// # Errors
    /// `Argument` when `body` is no request; `Again` at the bound; `State` before `Ready`; `Closed`.
    pub fn request(&self, token: u64, body: &[u8], timeout: Option<Millis>) -> Result<(), DriveError> {
        let not_a_request =
            |error: &dyn std::fmt::Display| DriveError::Argument(format!("not a request: {error}"));
        Message::<Request>::parse(body).map_err(|error| not_a_request(&error))?;
        let body: Map<String, Value> = serde_json::from_slice(body).map_err(|error| not_a_request(&error))?;
        self.with_live(|shared, core| {
            core.check_bound()?;
            let deadline = timeout.map(|timeout| shared.reactor.now().saturating_add(timeout));
            core.send(PendingKind::Request, token, deadline, body)
        })
    }

    /// Executes a cell of the shared document; ends in exactly one `Done` event.
    ///
    /// # Errors
    /// `Again` at the bound; `State` before `Ready`; `Closed`.
    pub fn execute(&self, token: u64, cell_id: &str, timeout: Option<Millis>) -> Result<(), DriveError> {
        self.with_live(|shared, core| {
            core.check_bound()?;
            let now = shared.reactor.now();
            if core.may_miss_edits() {
                core.pending.held.push((token, cell_id.into()));
                core.push_changes()?;
            } else {
                core.clear_outputs(cell_id)?;
                core.send_execute(token, cell_id)?;
            }
            core.runs.submit(token, cell_id, timeout.map(|timeout| now.saturating_add(timeout)), now);
            Ok(())
        })
    }

    /// Ends in one `Synced` event when the daemon has every local change and we have all it announced.
    ///
    /// That is more than what has arrived here: the session sends the daemon a request, and the response follows
    /// everything that the daemon sent before it.
    ///
    /// # Errors
    /// `Again` at the bound; `State` before `Ready`; `Closed`.
    pub fn sync(&self, token: u64, timeout: Option<Millis>) -> Result<(), DriveError> {
        self.with_live(|shared, core| {
            core.check_bound()?;
            let deadline = timeout.map(|timeout| shared.reactor.now().saturating_add(timeout));
            core.push_changes()?;
            match core.link.client.dialect().confirm() {
                Confirm::Ask => {
                    let mut question = action("get_queue_state", None);
                    question.insert("sync".into(), Value::Bool(true));
                    core.send(PendingKind::Sync, token, deadline, question)?;
                }
                Confirm::Barrier => core.send_barrier(PendingKind::Sync, token, deadline)?,
                Confirm::Heads => core.pending.sync_without_request(token, deadline),
            }
            Ok(())
        })
    }

    /// Applies operations as one change and sends it at once. All or nothing.
    ///
    /// # Errors
    /// `NotFound` for an unknown cell; `Argument` for a bad operation; `State`; `Closed`.
    pub fn edit(&self, ops: &[Op]) -> Result<(), DriveError> {
        self.with_live(|_, core| {
            if core.replica.edit(ops)? {
                core.link.changes_wait = true;
            }
            Ok(())
        })
    }

    /// Merges a copy of the document, as if the copy were a peer that was away, and sends the changes at once.
    ///
    /// # Errors
    /// `Argument` when it is no copy of this document; else as [`Session::edit`].
    pub fn merge(&self, copy: &Notebook) -> Result<(), DriveError> {
        self.with_live(|_, core| {
            if core.replica.merge(copy)? {
                core.link.changes_wait = true;
            }
            Ok(())
        })
    }

    /// The state of the connection and the kernel, without I/O.
    ///
    /// # Errors
    /// `State` in a forked child.
    pub fn info(&self) -> Result<Value, DriveError> {
        self.check_process()?;
        let core = lock(&self.shared.core);
        let client = &core.link.client;
        let state = match (core.is_over(), client.is_ready()) {
            (true, _) => "closed",
            (false, true) => "ready",
            (false, false) => "connecting",
        };
        Ok(json!({
            "notebook_id": self.shared.notebook_id,
            "state": state,
            "reason": core.closed,
            "protocol": client.dialect().version(),
            "stream_pieces": client.dialect().stream_pieces(),
            "capabilities": client.capabilities(),
            "kernel_status": core.view.kernel_status,
            "executing": core.view.queue.executing,
            "queued": core.view.queue.queued,
            "queue_bytes": self.shared.queue.bytes(),
            "unsent": core.closed.is_none() && !core.poisoned && core.owes(),
            "blobs_dir": self.shared.blobs_place(&core).to_string_lossy(),
        }))
    }

    /// Runs `call` under the lock; a panic poisons this session and nothing else.
    fn with<T>(
        &self,
        call: impl FnOnce(&Shared, &mut Core) -> Result<T, DriveError>,
    ) -> Result<T, DriveError> {
        self.check_process()?;
        let _announcer = self.shared.queue.announcer();
        let mut core = lock(&self.shared.core);
        if core.poisoned {
            return Err(DriveError::Poisoned("the session failed before".into()));
        }
        match catch_unwind(AssertUnwindSafe(|| call(&self.shared, &mut core))) {
            Ok(result) => result,
            Err(payload) => {
                let reason = panic_text(payload.as_ref());
                core.poisoned = true;
                self.shared.end(&mut core, code(RTD_E_PANIC), &reason);
                Err(DriveError::Panic(reason))
            }
        }
    }

    fn with_live(
        &self,
        call: impl FnOnce(&Shared, &mut Core) -> Result<(), DriveError>,
    ) -> Result<(), DriveError> {
        self.with(|shared, core| {
            if core.is_over() {
                return Err(DriveError::Closed("Channel closed".into()));
            }
            if !core.link.client.is_ready() {
                return Err(DriveError::State("Not connected".into()));
            }
            if core.link.unsent() > OUT_LIMIT {
                return Err(DriveError::Again("the daemon does not take what was sent".into()));
            }
            call(shared, core)?;
            shared.pump(core);
            Ok(())
        })
    }

    /// Reads the replica under its lock.
    ///
    /// # Errors
    /// `State` before the first synchronisation and in a forked child; `Poisoned`; those of `call`.
    pub fn read<T>(&self, call: impl FnOnce(&Notebook) -> Result<T, DriveError>) -> Result<T, DriveError> {
        self.with(|_, core| {
            if !core.link.client.is_ready() && !core.is_over() {
                return Err(DriveError::State("Not connected".into()));
            }
            call(&core.replica)
        })
    }
}

impl EventSource for Session {
    fn queue(&self) -> &Queue {
        &self.shared.queue
    }

    fn check_process(&self) -> Result<(), DriveError> {
        if self.in_own_process() {
            Ok(())
        } else {
            Err(DriveError::State(
                "this session belongs to the parent process; open a new one after fork".into(),
            ))
        }
    }

    /// Reads the output of an event from its blob: no work for the I/O thread.
    fn complete(&self, event: Event) -> Event {
        self.shared.resolve(event)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // The C layer never drops a handle of the parent in a forked child.
        if self.close().is_ok() {
            self.shared.queue.set_wakeup(None);
        }
    }
}
