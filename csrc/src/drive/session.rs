//! A client of one room: local reads, edits that go out at once, requests, executions, events.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use serde_json::{json, Map, Value};

use super::event::{Event, EventKind, Hint};
use super::queue::{Queue, Waited, Wakeup};
use super::reactor::{Handler, Reactor, ReactorUse};
use super::{address, lock, panic_text, DriveError};
use crate::code::code;
use crate::code::rtd_code::{RTD_E_CLOSED, RTD_E_IO, RTD_E_PANIC, RTD_E_PROTOCOL, RTD_E_TIMEOUT};
use crate::connection::{
    output_cell, output_event, Client, ClientEvent, Millis, Need, RunEvent, Runs, Strategy, Terminal,
};
use crate::notebook::{Cell, Changes, Notebook, Op};
use crate::outputs::{self, BlobStore};
use crate::wire::handshake::Protocol;

/// Requests and executions under way at one time.
const REQUEST_LIMIT: usize = 1024;
/// Bytes waiting to be written before edits and requests are refused with `Again`.
const OUT_LIMIT: usize = 256 * 1024 * 1024;
/// Above this many unsent bytes, local changes wait and coalesce into one sync message.
const OUT_MARK: usize = 256 * 1024;
/// Bytes read before other sockets get their turn.
const READ_BUDGET: usize = 1024 * 1024;

/// How a session is opened.
pub struct SessionOptions {
    /// Milliseconds for handshake and first synchronisation; `None` waits without limit.
    pub connect_timeout: Option<Millis>,
    /// Bound of the event queue in bytes.
    pub queue_limit: usize,
    /// Also report outputs of cells that others run.
    pub watch_all: bool,
    /// Where blobs lie; else the daemon's word, else `blobs` beside the socket.
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

enum Purpose {
    Request(u64),
    Execute(u64),
    /// Its caller gave up; the response is still to be taken off the stream.
    Abandoned,
    ClearOutputs,
    Barrier,
    /// The question of a `sync`; its answer comes behind everything the daemon had announced by then.
    Sync(u64),
}

struct Waiting {
    token: u64,
    deadline: Option<Millis>,
    /// The daemon has answered; a sync may have to wait for changes all the same.
    answered: bool,
}

struct Core {
    client: Client,
    notebook: Notebook,
    runs: Runs,
    out: Vec<u8>,
    sent: usize,
    changes_wait: bool,
    purposes: HashMap<u64, Purpose>,
    next_purpose: u64,
    requests: Vec<Waiting>,
    syncs: Vec<Waiting>,
    connect_deadline: Option<Millis>,
    /// Executions that wait until the daemon has our edits (reference daemon only).
    held: Vec<(u64, String)>,
    /// Response of a barrier whose announced changes are still missing.
    barrier_state: Option<Value>,
    watch_all: bool,
    capabilities: Map<String, Value>,
    kernel_status: Option<String>,
    queue_state: Value,
    closed: Option<String>,
    poisoned: bool,
    watching_writable: bool,
}

struct Shared {
    reactor: Arc<Reactor>,
    key: usize,
    pid: u32,
    stream: UnixStream,
    socket_path: PathBuf,
    notebook_id: String,
    blobs_dir: Option<PathBuf>,
    blobs: Mutex<Option<Arc<BlobStore>>>,
    core: Mutex<Core>,
    queue: Queue,
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
    /// `Io` as the operating system says; `TooBig` for a notebook id over the control frame limit.
    pub fn open(socket_path: &Path, notebook_id: &str, options: SessionOptions) -> Result<Self, DriveError> {
        let client = Client::new(notebook_id)?;
        let stream = address::connect(socket_path)?;
        let guard = ReactorUse::acquire()?;
        let reactor = guard.reactor();
        let connect_deadline = options.connect_timeout.map(|timeout| reactor.now().saturating_add(timeout));
        let core = Core {
            client,
            notebook: Notebook::empty(),
            runs: Runs::new(Strategy::FinishRule),
            out: Vec::new(),
            sent: 0,
            changes_wait: false,
            purposes: HashMap::new(),
            next_purpose: 1,
            requests: Vec::new(),
            syncs: Vec::new(),
            connect_deadline,
            held: Vec::new(),
            barrier_state: None,
            watch_all: options.watch_all,
            capabilities: Map::new(),
            kernel_status: None,
            queue_state: json!({"executing": null, "queued": []}),
            closed: None,
            poisoned: false,
            watching_writable: false,
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
        let mut core = lock(&session.shared.core);
        session.shared.settle(&mut core);
        drop(core);
        Ok(session)
    }

    /// Whether this is the process that opened the session.
    pub fn in_own_process(&self) -> bool {
        self.shared.pid == std::process::id()
    }

    /// Leaves the room. Everything under way ends with a terminal event; `Closed` is the last one.
    /// Idempotent.
    ///
    /// # Errors
    /// `State` in a forked child: the connection is the parent's.
    pub fn close(&self) -> Result<(), DriveError> {
        self.check_process()?;
        self.shared.end(&mut lock(&self.shared.core), 0, "closed by this side");
        Ok(())
    }

    /// The event queue's descriptor: readable exactly while an event or the end waits.
    pub fn fd(&self) -> std::os::fd::RawFd {
        self.shared.queue.fd()
    }

    /// Takes the next event. `Closed` after the last one.
    ///
    /// # Errors
    /// `Closed`, or `State` in a forked child.
    pub fn next_event(&self) -> Result<Option<Event>, DriveError> {
        self.check_process()?;
        let event = self.shared.queue.pop().map_err(|()| DriveError::Closed("Channel closed".into()))?;
        Ok(event.map(|event| self.shared.resolve(event)))
    }

    /// Waits for an event, a wake, or the time limit.
    ///
    /// # Errors
    /// `State` in a forked child.
    pub fn wait(&self, timeout: Option<std::time::Duration>) -> Result<Waited, DriveError> {
        self.check_process()?;
        Ok(self.shared.queue.wait(timeout))
    }

    /// Ends the present or next wait.
    ///
    /// # Errors
    /// `State` in a forked child.
    pub fn wake(&self) -> Result<(), DriveError> {
        self.check_process()?;
        self.shared.queue.wake();
        Ok(())
    }

    /// Sets or clears the wakeup callback; calls it at once when events wait.
    ///
    /// # Errors
    /// `State` in a forked child.
    pub fn set_wakeup(&self, wakeup: Option<Wakeup>) -> Result<(), DriveError> {
        self.check_process()?;
        self.shared.queue.set_wakeup(wakeup);
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
        let message = crate::wire::Message::<crate::wire::v2::Request>::parse(body)
            .map_err(|error| DriveError::Argument(format!("not a request: {error}")))?;
        let _checked_only = message;
        let body: Map<String, Value> = serde_json::from_slice(body)
            .map_err(|error| DriveError::Argument(format!("not a request: {error}")))?;
        self.with_live(|shared, core| {
            core.check_bound()?;
            let deadline = timeout.map(|timeout| shared.reactor.now().saturating_add(timeout));
            core.send(Purpose::Request(token), body)?;
            core.requests.push(Waiting { token, deadline, answered: false });
            Ok(())
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
                core.held.push((token, cell_id.into()));
                core.flush_changes()?;
            } else {
                core.prepare_outputs(cell_id)?;
                core.send_execute(token, cell_id)?;
            }
            core.runs.submit(token, cell_id, timeout.map(|timeout| now.saturating_add(timeout)), now);
            Ok(())
        })
    }

    /// Ends in one `Synced` event when the daemon has every local change and we have all it announced.
    ///
    /// What it has announced is more than what has arrived here: the daemon is asked something, and its answer
    /// comes behind all it has sent until then.
    ///
    /// # Errors
    /// `Again` at the bound; `State` before `Ready`; `Closed`.
    pub fn sync(&self, token: u64, timeout: Option<Millis>) -> Result<(), DriveError> {
        self.with_live(|shared, core| {
            core.check_bound()?;
            let deadline = timeout.map(|timeout| shared.reactor.now().saturating_add(timeout));
            core.flush_changes()?;
            let asks = core.client.protocol() == Protocol::V2;
            if asks && core.client.extended() {
                // Answered by the daemon's library, behind everything it has to send.
                let question = json!({"action": "get_queue_state", "sync": true});
                core.send_action(Purpose::Sync(token), question)?;
            } else if asks {
                // The reference announces changes when it comes to it, not before it answers.
                core.client.barrier(&core.notebook)?;
                core.send_action(Purpose::Sync(token), json!({"action": "get_queue_state"}))?;
            }
            core.syncs.push(Waiting { token, deadline, answered: !asks });
            Ok(())
        })
    }

    /// Applies operations as one change and sends it at once. All or nothing.
    ///
    /// # Errors
    /// `NotFound` for an unknown cell; `Argument` for a bad operation; `State`; `Closed`.
    pub fn edit(&self, ops: &[Op]) -> Result<(), DriveError> {
        self.with_live(|_, core| {
            if core.notebook.edit(ops)? {
                core.changes_wait = true;
            }
            Ok(())
        })
    }

    /// The cells in document order.
    ///
    /// # Errors
    /// `State` before the first synchronisation and in a forked child; `Poisoned`.
    pub fn cells(&self) -> Result<Vec<Cell>, DriveError> {
        self.read(|notebook| Ok(notebook.cells()))
    }

    /// One cell.
    ///
    /// # Errors
    /// `NotFound`; else as [`Session::cells`].
    pub fn cell(&self, id: &str) -> Result<Cell, DriveError> {
        self.read(|notebook| {
            notebook.cell(id).ok_or_else(|| DriveError::NotFound(format!("Cell not found: {id}")))
        })
    }

    /// The strings of the document's metadata.
    ///
    /// # Errors
    /// As [`Session::cells`].
    pub fn metadata(&self) -> Result<Value, DriveError> {
        self.read(|notebook| Ok(json!(notebook.metadata())))
    }

    /// What is known of the connection and the kernel, without I/O.
    ///
    /// # Errors
    /// `State` in a forked child.
    pub fn info(&self) -> Result<Value, DriveError> {
        self.check_process()?;
        let core = lock(&self.shared.core);
        let ready = core.client.is_ready();
        let state = match (&core.closed, ready) {
            (Some(_), _) => "closed",
            (None, true) => "ready",
            (None, false) => "connecting",
        };
        let protocol = match core.client.protocol() {
            Protocol::V2 => "v2",
            Protocol::V1 => "v1",
        };
        let blobs = self.shared.blobs_place(&core);
        Ok(json!({
            "notebook_id": self.shared.notebook_id,
            "state": state,
            "reason": core.closed,
            "protocol": protocol,
            "capabilities": core.capabilities,
            "kernel_status": core.kernel_status,
            "executing": core.queue_state.get("executing"),
            "queued": core.queue_state.get("queued"),
            "queue_bytes": self.shared.queue.bytes(),
            "blobs_dir": blobs.to_string_lossy(),
        }))
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

    /// Runs `call` under the lock; a panic poisons this session and nothing else.
    fn with<T>(
        &self,
        call: impl FnOnce(&Shared, &mut Core) -> Result<T, DriveError>,
    ) -> Result<T, DriveError> {
        self.check_process()?;
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
            if core.closed.is_some() {
                return Err(DriveError::Closed("Channel closed".into()));
            }
            if !core.client.is_ready() {
                return Err(DriveError::State("Not connected".into()));
            }
            if core.out.len() - core.sent > OUT_LIMIT {
                return Err(DriveError::Again("the daemon does not take what was sent".into()));
            }
            call(shared, core)?;
            shared.settle(core);
            Ok(())
        })
    }

    fn read<T>(&self, call: impl FnOnce(&Notebook) -> Result<T, DriveError>) -> Result<T, DriveError> {
        self.with(|_, core| {
            if !core.client.is_ready() && core.closed.is_none() {
                return Err(DriveError::State("Not connected".into()));
            }
            call(&core.notebook)
        })
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

impl Core {
    fn check_bound(&self) -> Result<(), DriveError> {
        if self.purposes.len() + self.runs.len() + self.syncs.len() >= REQUEST_LIMIT {
            return Err(DriveError::Again(format!("{REQUEST_LIMIT} requests are under way")));
        }
        Ok(())
    }

    fn flush_changes(&mut self) -> Result<(), DriveError> {
        self.changes_wait = false;
        self.client.push_changes(&self.notebook).map_err(Into::into)
    }

    /// Edits made before a request are sent before it, in the same stream.
    fn send(&mut self, purpose: Purpose, body: Map<String, Value>) -> Result<(), DriveError> {
        if self.changes_wait {
            self.flush_changes()?;
        }
        if !matches!(purpose, Purpose::Execute(_) | Purpose::ClearOutputs) {
            // What was asked for first is sent first, come what may.
            self.release_held()?;
        }
        let number = self.next_purpose;
        self.client.request(number, body)?;
        self.next_purpose += 1;
        self.purposes.insert(number, purpose);
        Ok(())
    }

    fn send_action(&mut self, purpose: Purpose, body: Value) -> Result<(), DriveError> {
        match body {
            Value::Object(body) => self.send(purpose, body),
            _ => Ok(()),
        }
    }

    fn send_execute(&mut self, token: u64, cell_id: &str) -> Result<(), DriveError> {
        self.send_action(Purpose::Execute(token), json!({"action": "execute_cell", "cell_id": cell_id}))
    }

    /// A filter may withhold an edit, and the reference daemon then runs the old source (section 5.5):
    /// only its word that it has our edits makes an execution safe. Our own daemon sees to it itself.
    fn may_miss_edits(&self) -> bool {
        self.runs.strategy() == Strategy::FinishRule
            && (self.changes_wait || !self.held.is_empty() || !self.client.acknowledged(&self.notebook))
    }

    fn release_held(&mut self) -> Result<(), DriveError> {
        for (token, cell_id) in std::mem::take(&mut self.held) {
            self.prepare_outputs(&cell_id)?;
            self.send_execute(token, &cell_id)?;
        }
        Ok(())
    }

    /// The reference daemon appends a run's outputs to those of the one before; only a list emptied
    /// first tells them apart (protocol 2, section 14.1 item 9).
    fn prepare_outputs(&mut self, cell_id: &str) -> Result<(), DriveError> {
        if self.runs.strategy() == Strategy::FinalEvent || self.in_queue(cell_id) {
            return Ok(());
        }
        if self.notebook.outputs(cell_id).is_some_and(|outputs| !outputs.is_empty()) {
            return self
                .send_action(Purpose::ClearOutputs, json!({"action": "clear_outputs", "cell_id": cell_id}));
        }
        Ok(())
    }

    fn in_queue(&self, cell_id: &str) -> bool {
        let queued = self.queue_state.get("queued").and_then(Value::as_array);
        self.queue_state.get("executing").and_then(Value::as_str) == Some(cell_id)
            || queued.is_some_and(|queued| queued.iter().any(|cell| cell.as_str() == Some(cell_id)))
    }

    fn deadline(&self) -> Option<Millis> {
        let waiting = self.requests.iter().chain(&self.syncs).filter_map(|waiting| waiting.deadline);
        waiting.chain(self.connect_deadline).chain(self.client.deadline()).chain(self.runs.deadline()).min()
    }
}

impl Shared {
    /// Sends what can be sent, hands out what happened, and sets the timer. Called after every step.
    fn settle(&self, core: &mut Core) {
        if core.closed.is_some() {
            return;
        }
        self.hand_out(core);
        if core.closed.is_some() {
            return;
        }
        if let Err(error) = self.flush(core) {
            // What the daemon said last may still be readable; its end of stream ends the session.
            if !matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) {
                self.end(core, code(RTD_E_IO), &error.to_string());
                return;
            }
        }
        self.reactor.set_timer(self.key, core.deadline());
    }

    fn flush(&self, core: &mut Core) -> io::Result<()> {
        loop {
            if core.changes_wait && core.out.len() - core.sent < OUT_MARK {
                if let Err(error) = core.flush_changes() {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, error.to_string()));
                }
            }
            core.client.take_output(&mut core.out);
            if core.sent == core.out.len() {
                core.out.clear();
                core.sent = 0;
                return self.want_writable(core, false);
            }
            match address::send(&self.stream, &core.out[core.sent..]) {
                Ok(count) => core.sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return self.want_writable(core, true)
                }
                Err(error) => {
                    core.out.clear();
                    core.sent = 0;
                    self.want_writable(core, false)?;
                    return Err(error);
                }
            }
            if core.sent * 2 >= core.out.len() {
                core.out.drain(..core.sent);
                core.sent = 0;
            }
        }
    }

    fn want_writable(&self, core: &mut Core, writable: bool) -> io::Result<()> {
        if core.watching_writable != writable {
            self.reactor.rewatch(self.key, &self.stream, true, writable)?;
            core.watching_writable = writable;
        }
        Ok(())
    }

    fn receive(&self, core: &mut Core) {
        let mut buffer = vec![0_u8; 64 * 1024];
        let mut budget = READ_BUDGET;
        while budget > 0 && core.closed.is_none() {
            match (&self.stream).read(&mut buffer) {
                Ok(0) => {
                    let text = match core.client.eof() {
                        Ok(()) => "Disconnected".to_owned(),
                        Err(error) => format!("Disconnected: {error}"),
                    };
                    return self.end(core, code(RTD_E_CLOSED), &text);
                }
                Ok(count) => {
                    budget = budget.saturating_sub(count);
                    core.client.push(&buffer[..count]);
                    self.process(core);
                    if count < buffer.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // A daemon that closes with unread bytes of ours shows as a reset (section 2.4).
                Err(error) => return self.end(core, code(RTD_E_CLOSED), &format!("Disconnected: {error}")),
            }
        }
        self.settle(core);
    }

    fn process(&self, core: &mut Core) {
        loop {
            let now = self.reactor.now();
            let event = match core.client.next(&mut core.notebook, now) {
                Ok(Some(event)) => event,
                Ok(None) => return,
                Err(error) => {
                    let text = error.to_string();
                    return self.end(core, code(RTD_E_PROTOCOL), &text);
                }
            };
            let need = match event {
                ClientEvent::Capabilities(capabilities) => {
                    core.capabilities = capabilities;
                    if core.client.extended() {
                        core.runs.set_strategy(Strategy::FinalEvent);
                    }
                    Ok(())
                }
                ClientEvent::Ready => {
                    core.connect_deadline = None;
                    let mut event = Event::new(EventKind::Ready);
                    event.payload = Value::Object(core.capabilities.clone()).to_string().into_bytes();
                    self.queue.push(event);
                    Ok(())
                }
                ClientEvent::Changed(changes) => {
                    self.changed(core, &changes);
                    Ok(())
                }
                ClientEvent::Response { token, body } => self.responded(core, token, body),
                ClientEvent::Broadcast(body) => self.broadcast(core, body, now),
            };
            if let Err(error) = need {
                return self.end(core, code(RTD_E_PROTOCOL), &error.to_string());
            }
        }
    }

    fn changed(&self, core: &mut Core, changes: &Changes) {
        core.runs.outputs_changed(&changes.outputs);
        self.deliver_runs(core);
        if core.watch_all {
            for change in &changes.outputs {
                let cell = output_cell(change);
                if !core.runs.watches(cell) {
                    self.queue_run_events(output_event(change, 0, cell.into()));
                }
            }
        }
        let mut event = Event::new(EventKind::Changed);
        event.hint = Some(Hint::new(changes));
        self.queue.push(event);
    }

    fn responded(&self, core: &mut Core, number: u64, body: Vec<u8>) -> Result<(), DriveError> {
        let value: Value = serde_json::from_slice(&body)
            .map_err(|error| DriveError::Protocol(format!("deserialize response: {error}")))?;
        match core.purposes.remove(&number) {
            Some(Purpose::Request(token)) => {
                // One only: a token used twice at a time still ends twice.
                if let Some(place) = core.requests.iter().position(|waiting| waiting.token == token) {
                    core.requests.remove(place);
                }
                if value.get("result").and_then(Value::as_str) == Some("queue_state") {
                    core.queue_state.clone_from(&value);
                }
                let mut event = Event::new(EventKind::Response);
                event.token = token;
                event.payload = body;
                self.queue.push(event);
                Ok(())
            }
            Some(Purpose::Execute(token)) => {
                let need = core.runs.responded(token, &value, &body);
                self.serve(core, need)
            }
            Some(Purpose::Barrier) => {
                core.barrier_state = Some(value);
                Ok(())
            }
            Some(Purpose::Sync(token)) => {
                for waiting in core.syncs.iter_mut().filter(|waiting| waiting.token == token) {
                    waiting.answered = true;
                }
                Ok(())
            }
            Some(Purpose::Abandoned | Purpose::ClearOutputs) | None => Ok(()),
        }
    }

    fn broadcast(&self, core: &mut Core, body: Vec<u8>, now: Millis) -> Result<(), DriveError> {
        let value: Value = serde_json::from_slice(&body)
            .map_err(|error| DriveError::Protocol(format!("deserialize broadcast: {error}")))?;
        let need = core.runs.broadcast(&value, now);
        self.deliver_runs(core);
        self.serve(core, need)?;
        match value.get("event").and_then(Value::as_str) {
            // Outputs come from the document, where none is ever lost.
            Some("output") => return Ok(()),
            Some("kernel_status") => {
                core.kernel_status = value.get("status").and_then(Value::as_str).map(str::to_owned);
            }
            Some("queue_changed") => core.queue_state = value,
            _ => {}
        }
        let mut event = Event::new(EventKind::Broadcast);
        event.payload = body;
        self.queue.push(event);
        Ok(())
    }

    fn serve(&self, core: &mut Core, need: Need) -> Result<(), DriveError> {
        match need {
            Need::Nothing => Ok(()),
            Need::Barrier => {
                core.client.barrier(&core.notebook)?;
                core.send_action(Purpose::Barrier, json!({"action": "get_queue_state"}))
            }
            Need::Retry { token, cell_id } => {
                core.client.barrier(&core.notebook)?;
                core.send_execute(token, &cell_id)
            }
            Need::Replay { token, cell_id } => {
                let outputs = core.notebook.outputs(&cell_id).unwrap_or_default();
                core.runs.replay(token, &cell_id, outputs);
                Ok(())
            }
            Need::GiveUp => {
                self.end(core, code(RTD_E_TIMEOUT), "the daemon does not answer on this connection any more");
                Ok(())
            }
        }
    }

    /// Ends what the latest step settled: barriers, syncs, events of executions.
    fn hand_out(&self, core: &mut Core) {
        if !core.held.is_empty() && !core.changes_wait && core.client.acknowledged(&core.notebook) {
            if let Err(error) = core.release_held() {
                return self.end(core, code(RTD_E_IO), &error.to_string());
            }
        }
        if core.barrier_state.is_some() && !core.client.missing(&core.notebook) {
            if let Some(state) = core.barrier_state.take() {
                let notebook = &core.notebook;
                let blobs = self.blobs_now(self.blobs_place_of(&core.capabilities));
                let need = core.runs.barrier_passed(&state, self.reactor.now(), |cell| {
                    failure(&notebook.outputs(cell).unwrap_or_default(), blobs.as_deref())
                });
                core.queue_state = state;
                if let Err(error) = self.serve(core, need) {
                    return self.end(core, code(RTD_E_IO), &error.to_string());
                }
            }
        }
        self.deliver_runs(core);
        if core.syncs.iter().any(|sync| sync.answered) && core.client.agrees(&core.notebook) {
            let (ended, waiting): (Vec<_>, Vec<_>) =
                std::mem::take(&mut core.syncs).into_iter().partition(|sync| sync.answered);
            core.syncs = waiting;
            for sync in ended {
                self.synced(sync.token, 0, "");
            }
        }
    }

    fn synced(&self, token: u64, code: i32, text: &str) {
        let mut event = Event::new(EventKind::Synced);
        event.token = token;
        event.code = code;
        event.text = text.into();
        self.queue.push(event);
    }

    fn response_failed(&self, token: u64, code: i32, text: &str) {
        let mut event = Event::new(EventKind::Response);
        event.token = token;
        event.code = code;
        event.text = text.into();
        self.queue.push(event);
    }

    fn deliver_runs(&self, core: &mut Core) {
        self.queue_run_events(core.runs.take_events());
    }

    fn queue_run_events(&self, events: impl IntoIterator<Item = RunEvent>) {
        for run in events {
            let (kind, token, cell_id) = match &run {
                RunEvent::Queued { token, cell_id, .. } => (EventKind::Queued, *token, cell_id),
                RunEvent::Started { token, cell_id, .. } => (EventKind::Started, *token, cell_id),
                RunEvent::Output { token, cell_id, .. } => (EventKind::Output, *token, cell_id),
                RunEvent::Cleared { token, cell_id } => (EventKind::Cleared, *token, cell_id),
                RunEvent::Done { token, cell_id, .. } => (EventKind::Done, *token, cell_id),
            };
            let mut event = Event::new(kind);
            event.token = token;
            event.id.clone_from(cell_id);
            match run {
                RunEvent::Queued { response, .. } => event.payload = response,
                RunEvent::Started { count, .. } => event.number = count.unwrap_or(-1),
                RunEvent::Output { index, element, replaced, .. } => {
                    event.number = i64::try_from(index).unwrap_or(i64::MAX);
                    event.code = i32::from(replaced);
                    event.payload = element.into_bytes();
                    event.unresolved = true;
                }
                RunEvent::Cleared { .. } => {}
                RunEvent::Done { end, count, reason, payload, .. } => {
                    event.code = end as i32;
                    event.number = count.unwrap_or(-1);
                    event.text = reason;
                    event.payload = payload;
                }
            }
            self.queue.push(event);
        }
    }

    fn expire(&self, core: &mut Core) {
        let now = self.reactor.now();
        let due = |deadline: Option<Millis>| deadline.is_some_and(|at| at <= now);
        if due(core.connect_deadline) {
            return self.end(core, code(RTD_E_TIMEOUT), "Connection timeout");
        }
        for place in (0..core.requests.len()).rev() {
            if due(core.requests[place].deadline) {
                let token = core.requests.remove(place).token;
                for purpose in core.purposes.values_mut() {
                    if matches!(purpose, Purpose::Request(other) if *other == token) {
                        *purpose = Purpose::Abandoned;
                    }
                }
                self.response_failed(token, code(RTD_E_TIMEOUT), "Connection timeout");
            }
        }
        for place in (0..core.syncs.len()).rev() {
            if due(core.syncs[place].deadline) {
                let token = core.syncs.remove(place).token;
                for purpose in core.purposes.values_mut() {
                    if matches!(purpose, Purpose::Sync(other) if *other == token) {
                        *purpose = Purpose::Abandoned;
                    }
                }
                self.synced(token, code(RTD_E_TIMEOUT), "Connection timeout");
            }
        }
        let need = core.runs.tick(now);
        let ticked = core.client.tick(&core.notebook, now).map_err(DriveError::from);
        if let Err(error) = self.serve(core, need).and(ticked) {
            self.end(core, code(RTD_E_IO), &error.to_string());
        }
        self.settle(core);
    }

    /// Ends the session: every waiter gets its terminal event, then `Closed`.
    fn end(&self, core: &mut Core, code: i32, text: &str) {
        if core.closed.is_some() {
            return;
        }
        core.closed = Some(text.into());
        self.reactor.forget(self.key, Some(&self.stream));
        let _peer_is_gone = self.stream.shutdown(std::net::Shutdown::Both);
        let waiting = if code == 0 { RTD_E_CLOSED as i32 } else { code };
        core.runs.disconnected(text);
        self.deliver_runs(core);
        for request in std::mem::take(&mut core.requests) {
            self.response_failed(request.token, waiting, text);
        }
        for sync in std::mem::take(&mut core.syncs) {
            self.synced(sync.token, waiting, text);
        }
        core.purposes.clear();
        let mut event = Event::new(EventKind::Closed);
        event.code = code;
        event.text = text.into();
        self.queue.push(event);
    }

    fn blobs_place(&self, core: &Core) -> PathBuf {
        self.blobs_place_of(&core.capabilities)
    }

    fn blobs_place_of(&self, capabilities: &Map<String, Value>) -> PathBuf {
        let told = capabilities.get("blobs").and_then(Value::as_str).map(PathBuf::from);
        let beside = || self.socket_path.parent().unwrap_or(Path::new(".")).join("blobs");
        self.blobs_dir.clone().or(told).unwrap_or_else(beside)
    }

    fn blobs_now(&self, place: PathBuf) -> Option<Arc<BlobStore>> {
        let mut blobs = lock(&self.blobs);
        if blobs.is_none() && place.is_dir() {
            *blobs = BlobStore::open(place).ok().map(Arc::new);
        }
        blobs.clone()
    }

    /// Turns the document's element of an output into the output, on the consumer's thread.
    fn resolve(&self, mut event: Event) -> Event {
        if !std::mem::take(&mut event.unresolved) {
            return event;
        }
        let place = self.blobs_place(&lock(&self.core));
        let element = String::from_utf8_lossy(&event.payload).into_owned();
        match outputs::resolve(&element, self.blobs_now(place).as_deref()) {
            Ok(output) => {
                event.text = outputs::plain_text(&output);
                event.payload = output.to_string().into_bytes();
            }
            Err(error) => {
                event.text = error.to_string();
                event.payload = Value::String(element).to_string().into_bytes();
            }
        }
        event
    }
}

/// Whether the last outputs of a cell tell of a failure. Only the last few can: an error ends a run,
/// and at most a warning of the shell follows it (section 5.10).
fn failure(elements: &[String], blobs: Option<&BlobStore>) -> Option<Terminal> {
    elements.iter().rev().take(4).find_map(|element| {
        let output = outputs::resolve(element, blobs).ok()?;
        if output.get("output_type")?.as_str()? != "error" {
            return None;
        }
        let interrupted = output.get("ename").and_then(Value::as_str) == Some("KeyboardInterrupt");
        Some(if interrupted { Terminal::Interrupted } else { Terminal::Error })
    })
}

impl Handler for Shared {
    fn ready(&self, readable: bool, writable: bool) {
        let mut core = lock(&self.core);
        if core.closed.is_some() {
            return;
        }
        if readable {
            self.receive(&mut core);
        } else if writable {
            self.settle(&mut core);
        }
    }

    fn timer(&self) {
        let mut core = lock(&self.core);
        if core.closed.is_none() {
            self.expire(&mut core);
        }
    }

    fn failed(&self, reason: String) {
        let mut core = lock(&self.core);
        core.poisoned = true;
        self.end(&mut core, code(RTD_E_PANIC), &reason);
    }
}
