//! Storey 3: what happened to a session, as events for the host program.

use serde_json::Value;

use super::core::Core;
use super::io::Shared;
use super::pending::PendingKind;
use crate::code::code;
use crate::code::rtd_code::{RTD_E_IO, RTD_E_TIMEOUT};
use crate::code::rtd_done::{self, *};
use crate::code::rtd_event_kind::*;
use crate::connection::{Action, Event, Millis, Queue};
use crate::drive::DriveError;
use crate::outputs::{self, BlobStore};
use crate::wire::v2::{Broadcast, Response};
use crate::wire::{Message, MessageError};

impl Shared {
    pub(super) fn changed(&self, core: &mut Core, event: Event) {
        let changes = core.link.client.take_output_changes();
        core.runs.outputs_changed(&changes);
        self.deliver_runs(core);
        if core.watch_all {
            let of_others = changes.iter().filter(|change| !core.runs.watches(change.cell_id()));
            of_others.for_each(|change| self.queue.push(Event::output(change, 0)));
        }
        self.queue.push(event);
    }

    /// The token of the event is the id of the request.
    pub(super) fn responded(&self, core: &mut Core, mut event: Event) -> Result<(), DriveError> {
        match core.pending.responded(event.token) {
            Some((PendingKind::Request, token)) => {
                if let Some(queue) = queue_of(&event.payload) {
                    core.view.queue = queue;
                }
                event.token = token;
                self.queue.push(event);
                Ok(())
            }
            Some((PendingKind::Execute, token)) => {
                let action = core.runs.responded(token, &event.payload);
                self.act(core, action)
            }
            Some((PendingKind::Barrier, _)) => {
                core.pending.barrier = Some(queue_of(&event.payload).unwrap_or_default());
                Ok(())
            }
            Some((PendingKind::Clear | PendingKind::Sync, _)) | None => Ok(()),
        }
    }

    pub(super) fn broadcast(&self, core: &mut Core, event: Event, now: Millis) -> Result<(), DriveError> {
        let message = match Message::<Broadcast>::parse(&event.payload) {
            Ok(message) => message,
            Err(error) => {
                // A broadcast of a later version is passed on, anything but JSON is not.
                let json = serde_json::from_slice::<Value>(&event.payload).map_err(MessageError::from);
                if matches!(error, MessageError::BadJson(_)) || json.is_err() {
                    return Err(DriveError::Protocol(format!("deserialize broadcast: {error}")));
                }
                core.runs.received(now);
                self.queue.push(event);
                return Ok(());
            }
        };
        let action = core.runs.broadcast(&message, &event.payload, now);
        self.deliver_runs(core);
        self.act(core, action)?;
        match message.body {
            // Outputs come from the document, where none is ever lost.
            Broadcast::Output { .. } => return Ok(()),
            Broadcast::KernelStatus { status, .. } => core.view.kernel_status = Some(status),
            Broadcast::QueueChanged { executing, queued } => core.view.queue = Queue { executing, queued },
            _ => {}
        }
        self.queue.push(event);
        Ok(())
    }

    pub(super) fn act(&self, core: &mut Core, action: Action) -> Result<(), DriveError> {
        match action {
            Action::Nothing => Ok(()),
            Action::Barrier => core.send_barrier(PendingKind::Barrier, 0, None),
            Action::Retry { token, cell_id } => {
                core.link.client.barrier(&core.replica)?;
                core.send_execute(token, &cell_id)
            }
            Action::Replay { token, cell_id } => {
                let outputs = core.replica.outputs(&cell_id).unwrap_or_default();
                let held = core.runs.replay(token, &cell_id, outputs);
                if core.watch_all {
                    // The execution gets these outputs again, subscribers to the notebook for the first time.
                    held.into_iter().for_each(|event| self.queue.push(Event { token: 0, ..event }));
                }
                Ok(())
            }
            Action::GiveUp => {
                self.end(core, code(RTD_E_TIMEOUT), "the daemon does not answer on this connection any more");
                Ok(())
            }
        }
    }

    /// Ends what the latest step settled: barriers, syncs, events of executions.
    pub(super) fn deliver(&self, core: &mut Core) {
        let waits = core.link.changes_wait || !core.link.client.acknowledged(&core.replica);
        if !core.pending.held.is_empty() && !waits {
            if let Err(error) = core.release_held() {
                return self.end(core, code(RTD_E_IO), &error.to_string());
            }
        }
        if core.pending.barrier.is_some() && !core.link.client.missing(&core.replica) {
            if let Some(queue) = core.pending.barrier.take() {
                let replica = &core.replica;
                let blobs = self.blobs_now(self.blobs_place(core));
                let action = core.runs.barrier_passed(&queue, self.reactor.now(), |cell| {
                    failure(&replica.outputs(cell).unwrap_or_default(), blobs.as_deref())
                });
                core.view.queue = queue;
                if let Err(error) = self.act(core, action) {
                    return self.end(core, code(RTD_E_IO), &error.to_string());
                }
            }
        }
        core.runs.release_held();
        self.deliver_runs(core);
        if core.pending.has_answered_sync() && core.link.client.agrees(&core.replica) {
            for token in core.pending.take_answered_syncs() {
                self.queue.push(Event::ended(RTD_EV_SYNCED, token, 0, ""));
            }
        }
    }

    pub(super) fn deliver_runs(&self, core: &mut Core) {
        core.runs.take_events().into_iter().for_each(|event| self.queue.push(event));
    }
}

/// The queue that a response to `get_queue_state` shows.
fn queue_of(response: &[u8]) -> Option<Queue> {
    match Message::<Response>::parse(response).ok()?.body {
        Response::QueueState { executing, queued } => Some(Queue { executing, queued }),
        _ => None,
    }
}

/// Whether the last outputs of a cell show a failure. Only the last few can: an error ends a run,
/// and at most a warning of the shell follows it (section 5.10).
fn failure(elements: &[String], blobs: Option<&BlobStore>) -> Option<rtd_done> {
    elements.iter().rev().take(4).find_map(|element| {
        let output = outputs::resolve(element, blobs).ok()?;
        if output.get("output_type")?.as_str()? != "error" {
            return None;
        }
        let interrupted = output.get("ename").and_then(Value::as_str) == Some("KeyboardInterrupt");
        Some(if interrupted { RTD_DONE_INTERRUPTED } else { RTD_DONE_ERROR })
    })
}
