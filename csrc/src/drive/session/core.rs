//! What a session knows, under one lock, and what it sends.

use std::collections::HashMap;

use serde_json::{json, Map, Value};

use crate::connection::{Client, Millis, Runs, Strategy};
use crate::drive::DriveError;
use crate::notebook::Notebook;

/// Requests and executions under way at one time.
const REQUEST_LIMIT: usize = 1024;

/// What the response to a request of ours is for.
pub(super) enum Purpose {
    Request(u64),
    Execute(u64),
    /// Its caller gave up; the response is still to be taken off the stream.
    Abandoned,
    ClearOutputs,
    Barrier,
    /// The question of a `sync`; its answer comes behind everything the daemon had announced by then.
    Sync(u64),
}

/// Somebody who waits for an answer or for agreement.
pub(super) struct Waiting {
    pub(super) token: u64,
    pub(super) deadline: Option<Millis>,
    /// The daemon has answered; a sync may have to wait for changes all the same.
    pub(super) answered: bool,
}

/// The connection, the replica, and who waits for what.
pub(super) struct Core {
    pub(super) client: Client,
    pub(super) notebook: Notebook,
    pub(super) runs: Runs,
    pub(super) out: Vec<u8>,
    pub(super) sent: usize,
    pub(super) changes_wait: bool,
    pub(super) purposes: HashMap<u64, Purpose>,
    pub(super) next_purpose: u64,
    pub(super) requests: Vec<Waiting>,
    pub(super) syncs: Vec<Waiting>,
    pub(super) connect_deadline: Option<Millis>,
    /// Executions that wait until the daemon has our edits (reference daemon only).
    pub(super) held: Vec<(u64, String)>,
    /// Response of a barrier whose announced changes are still missing.
    pub(super) barrier_state: Option<Value>,
    pub(super) watch_all: bool,
    pub(super) capabilities: Map<String, Value>,
    pub(super) kernel_status: Option<String>,
    pub(super) queue_state: Value,
    /// Closed by this side, but the daemon does not have everything yet: when to give up.
    pub(super) leaving: Option<Millis>,
    pub(super) closed: Option<String>,
    pub(super) poisoned: bool,
    pub(super) watching_writable: bool,
}

impl Core {
    pub(super) fn check_bound(&self) -> Result<(), DriveError> {
        if self.purposes.len() + self.runs.len() + self.syncs.len() >= REQUEST_LIMIT {
            return Err(DriveError::Again(format!("{REQUEST_LIMIT} requests are under way")));
        }
        Ok(())
    }

    /// Whether the host program has no use of the connection any more.
    pub(super) fn is_over(&self) -> bool {
        self.closed.is_some() || self.leaving.is_some()
    }

    /// Whether something that was written here may not have reached the daemon: it is not sent, or a filter
    /// withheld an edit and only the daemon's next word brings it out.
    pub(super) fn owes(&self) -> bool {
        self.client.is_ready() && (self.is_unsent() || !self.client.acknowledged(&self.notebook))
    }

    /// Whether something that was written here waits for the socket.
    pub(super) fn is_unsent(&self) -> bool {
        self.changes_wait || self.sent < self.out.len()
    }

    pub(super) fn flush_changes(&mut self) -> Result<(), DriveError> {
        self.changes_wait = false;
        self.client.push_changes(&self.notebook).map_err(Into::into)
    }

    /// Edits made before a request are sent before it, in the same stream.
    pub(super) fn send(&mut self, purpose: Purpose, body: Map<String, Value>) -> Result<(), DriveError> {
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

    pub(super) fn send_action(&mut self, purpose: Purpose, body: Value) -> Result<(), DriveError> {
        match body {
            Value::Object(body) => self.send(purpose, body),
            _ => Ok(()),
        }
    }

    pub(super) fn send_execute(&mut self, token: u64, cell_id: &str) -> Result<(), DriveError> {
        self.send_action(Purpose::Execute(token), json!({"action": "execute_cell", "cell_id": cell_id}))
    }

    /// A filter may withhold an edit, and the reference daemon then runs the old source (section 5.5):
    /// only its word that it has our edits makes an execution safe. Our own daemon sees to it itself.
    pub(super) fn may_miss_edits(&self) -> bool {
        self.runs.strategy() == Strategy::FinishRule
            && (self.changes_wait || !self.held.is_empty() || !self.client.acknowledged(&self.notebook))
    }

    pub(super) fn release_held(&mut self) -> Result<(), DriveError> {
        for (token, cell_id) in std::mem::take(&mut self.held) {
            self.prepare_outputs(&cell_id)?;
            self.send_execute(token, &cell_id)?;
        }
        Ok(())
    }

    /// The reference daemon appends a run's outputs to those of the one before; only a list emptied
    /// first tells them apart (protocol 2, section 14.1 item 9).
    pub(super) fn prepare_outputs(&mut self, cell_id: &str) -> Result<(), DriveError> {
        if self.runs.strategy() == Strategy::FinalEvent || self.in_queue(cell_id) {
            return Ok(());
        }
        if self.notebook.outputs(cell_id).is_some_and(|outputs| !outputs.is_empty()) {
            return self
                .send_action(Purpose::ClearOutputs, json!({"action": "clear_outputs", "cell_id": cell_id}));
        }
        Ok(())
    }

    pub(super) fn in_queue(&self, cell_id: &str) -> bool {
        let queued = self.queue_state.get("queued").and_then(Value::as_array);
        self.queue_state.get("executing").and_then(Value::as_str) == Some(cell_id)
            || queued.is_some_and(|queued| queued.iter().any(|cell| cell.as_str() == Some(cell_id)))
    }

    pub(super) fn deadline(&self) -> Option<Millis> {
        let waiting = self.requests.iter().chain(&self.syncs).filter_map(|waiting| waiting.deadline);
        waiting
            .chain(self.connect_deadline)
            .chain(self.leaving)
            .chain(self.client.deadline())
            .chain(self.runs.deadline())
            .min()
    }
}
