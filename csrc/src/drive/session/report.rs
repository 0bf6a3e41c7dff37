//! What happened, as events for the host program.

use serde_json::{json, Value};

use super::core::{Core, Purpose};
use super::io::Shared;
use crate::code::code;
use crate::code::rtd_code::{RTD_E_IO, RTD_E_TIMEOUT};
use crate::code::rtd_done::{self, *};
use crate::code::rtd_event_kind::*;
use crate::code::rtd_output_change::*;
use crate::connection::{output_event, Event, Hint, Millis, Need, OutputPlace, RunEvent};
use crate::drive::DriveError;
use crate::notebook::Changes;
use crate::outputs::{self, BlobStore};

impl Shared {
    pub(super) fn changed(&self, core: &mut Core, changes: &Changes) {
        core.runs.outputs_changed(&changes.outputs);
        self.deliver_runs(core);
        if core.watch_all {
            for change in &changes.outputs {
                if !core.runs.watches(change.cell_id()) {
                    self.queue_run_events([output_event(change, 0)]);
                }
            }
        }
        let mut event = Event::new(RTD_EV_CHANGED);
        event.hint = Some(Hint::new(changes));
        self.queue.push(event);
    }

    pub(super) fn responded(&self, core: &mut Core, number: u64, body: Vec<u8>) -> Result<(), DriveError> {
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
                let mut event = Event::new(RTD_EV_RESPONSE);
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

    pub(super) fn broadcast(&self, core: &mut Core, body: Vec<u8>, now: Millis) -> Result<(), DriveError> {
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
        let mut event = Event::new(RTD_EV_BROADCAST);
        event.payload = body;
        self.queue.push(event);
        Ok(())
    }

    pub(super) fn serve(&self, core: &mut Core, need: Need) -> Result<(), DriveError> {
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
                let held = core.runs.replay(token, &cell_id, outputs);
                if core.watch_all {
                    // Who watches has heard all before, and nothing of what is told again.
                    self.queue_run_events(held.into_iter().map(RunEvent::of_nobody));
                }
                Ok(())
            }
            Need::GiveUp => {
                self.end(core, code(RTD_E_TIMEOUT), "the daemon does not answer on this connection any more");
                Ok(())
            }
        }
    }

    /// Ends what the latest step settled: barriers, syncs, events of executions.
    pub(super) fn hand_out(&self, core: &mut Core) {
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
        core.runs.release_held();
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

    pub(super) fn synced(&self, token: u64, code: i32, text: &str) {
        let mut event = Event::new(RTD_EV_SYNCED);
        event.token = token;
        event.code = code;
        event.text = text.into();
        self.queue.push(event);
    }

    pub(super) fn response_failed(&self, token: u64, code: i32, text: &str) {
        let mut event = Event::new(RTD_EV_RESPONSE);
        event.token = token;
        event.code = code;
        event.text = text.into();
        self.queue.push(event);
    }

    pub(super) fn deliver_runs(&self, core: &mut Core) {
        self.queue_run_events(core.runs.take_events());
    }

    pub(super) fn queue_run_events(&self, events: impl IntoIterator<Item = RunEvent>) {
        for run in events {
            let (kind, token, cell_id) = match &run {
                RunEvent::Queued { token, cell_id, .. } => (RTD_EV_QUEUED, *token, cell_id),
                RunEvent::Started { token, cell_id, .. } => (RTD_EV_STARTED, *token, cell_id),
                RunEvent::Output { token, cell_id, .. } => (RTD_EV_OUTPUT, *token, cell_id),
                RunEvent::Cleared { token, cell_id, .. } => (RTD_EV_CLEARED, *token, cell_id),
                RunEvent::Done { token, cell_id, .. } => (RTD_EV_DONE, *token, cell_id),
            };
            let mut event = Event::new(kind);
            event.token = token;
            event.id.clone_from(cell_id);
            match run {
                RunEvent::Queued { response, .. } => event.payload = response,
                RunEvent::Started { count, .. } => event.number = count.unwrap_or(-1),
                RunEvent::Output { index, element, place, .. } => {
                    event.number = i64::try_from(index).unwrap_or(i64::MAX);
                    (event.code, event.covered) = match place {
                        OutputPlace::Appended => (RTD_OUTPUT_APPENDED as i32, None),
                        OutputPlace::Replaced => (RTD_OUTPUT_REPLACED as i32, None),
                        OutputPlace::Joined(covered) => (RTD_OUTPUT_JOINED as i32, Some(covered)),
                    };
                    event.payload = element.into_bytes();
                    event.unresolved = true;
                }
                RunEvent::Cleared { again, .. } => {
                    if again > 0 {
                        event.number = i64::try_from(again).unwrap_or(i64::MAX);
                    }
                }
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
}

/// Whether the last outputs of a cell tell of a failure. Only the last few can: an error ends a run,
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
