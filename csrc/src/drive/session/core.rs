//! Storey 3: what a session knows, under one lock, and what it sends.

use serde_json::{Map, Value};

use super::link::Link;
use super::pending::{PendingKind, PendingTable};
use crate::connection::{Millis, Queue, Runs};
use crate::drive::DriveError;
use crate::notebook::Notebook;

/// Requests, syncs and executions under way at one time.
const REQUEST_LIMIT: usize = 1024;

/// The last state of the room that the daemon reported.
#[derive(Default)]
pub(super) struct View {
    pub(super) kernel_status: Option<String>,
    pub(super) queue: Queue,
}

/// The connection, the replica, and the requests under way.
pub(super) struct Core {
    pub(super) link: Link,
    pub(super) replica: Notebook,
    pub(super) pending: PendingTable,
    pub(super) runs: Runs,
    pub(super) view: View,
    /// Also report outputs of cells that others run.
    pub(super) watch_all: bool,
    /// Closed by this side, but the daemon does not have everything yet: when to give up.
    pub(super) leaving: Option<Millis>,
    /// Why the session has ended.
    pub(super) closed: Option<String>,
    pub(super) poisoned: bool,
}

impl Core {
    /// Each request, sync and execution counts once, from its call to its end or its response, whichever is later.
    pub(super) fn check_bound(&self) -> Result<(), DriveError> {
        if self.pending.unanswered() + self.runs.accepted() >= REQUEST_LIMIT {
            return Err(DriveError::Again(format!("{REQUEST_LIMIT} requests are under way")));
        }
        Ok(())
    }

    /// Whether the host program no longer needs the connection.
    pub(super) fn is_over(&self) -> bool {
        self.closed.is_some() || self.leaving.is_some()
    }

    /// Whether the daemon may lack something that was written here: it is not sent, or a Bloom filter withheld an edit,
    /// which only the daemon's next message releases.
    pub(super) fn owes(&self) -> bool {
        let client = &self.link.client;
        client.is_ready() && (self.link.is_unsent() || !client.acknowledged(&self.replica))
    }

    pub(super) fn push_changes(&mut self) -> Result<(), DriveError> {
        self.link.push_changes(&self.replica).map_err(Into::into)
    }

    /// Sends a request. Edits and executions that came before it are sent before it, in the same stream.
    pub(super) fn send(
        &mut self,
        kind: PendingKind,
        token: u64,
        deadline: Option<Millis>,
        body: Map<String, Value>,
    ) -> Result<(), DriveError> {
        if self.link.changes_wait {
            self.push_changes()?;
        }
        if !matches!(kind, PendingKind::Execute | PendingKind::Clear) {
            self.release_held()?;
        }
        let id = self.link.client.request(body)?;
        self.pending.sent(id, kind, token, deadline);
        Ok(())
    }

    /// Sends a document barrier and, after it, a request for the queue.
    pub(super) fn send_barrier(
        &mut self,
        kind: PendingKind,
        token: u64,
        deadline: Option<Millis>,
    ) -> Result<(), DriveError> {
        self.link.client.barrier(&self.replica)?;
        self.send(kind, token, deadline, action("get_queue_state", None))
    }

    pub(super) fn send_execute(&mut self, token: u64, cell_id: &str) -> Result<(), DriveError> {
        self.send(PendingKind::Execute, token, None, action("execute_cell", Some(cell_id)))
    }

    /// Whether an execution might run the source from before an edit: until the daemon announces that it has our edits.
    pub(super) fn may_miss_edits(&self) -> bool {
        let Link { client, changes_wait, .. } = &self.link;
        client.dialect().may_miss_edits()
            && (*changes_wait || !self.pending.held.is_empty() || !client.acknowledged(&self.replica))
    }

    pub(super) fn release_held(&mut self) -> Result<(), DriveError> {
        for (token, cell_id) in std::mem::take(&mut self.pending.held) {
            self.clear_outputs(&cell_id)?;
            self.send_execute(token, &cell_id)?;
        }
        Ok(())
    }

    /// Clears the outputs of a cell that is about to run, if the daemon leaves that to its clients.
    pub(super) fn clear_outputs(&mut self, cell_id: &str) -> Result<(), DriveError> {
        let left_to_us = self.link.client.dialect().clear_before_run() && !self.view.queue.contains(cell_id);
        if left_to_us && self.replica.outputs(cell_id).is_some_and(|outputs| !outputs.is_empty()) {
            return self.send(PendingKind::Clear, 0, None, action("clear_outputs", Some(cell_id)));
        }
        Ok(())
    }

    pub(super) fn deadline(&self) -> Option<Millis> {
        [
            self.pending.deadline(),
            self.link.connect_deadline,
            self.leaving,
            self.link.client.deadline(),
            self.runs.deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

/// A request of the session itself (protocol 2, section 5.6).
pub(super) fn action(name: &str, cell_id: Option<&str>) -> Map<String, Value> {
    let cell_id = cell_id.map(|id| ("cell_id".to_owned(), id.into()));
    [("action".to_owned(), name.into())].into_iter().chain(cell_id).collect()
}
