//! Storey 2: executions that a client waits for, from the request to exactly one terminal event.
//!
//! How a client learns the end depends on the daemon ([`EndRule`]): `final_event` reads the one event of our daemon,
//! `finish_rule` applies the finish rule to the reference daemon's.

mod final_event;
mod finish_rule;

use serde_json::Value;

use super::event::number;
use super::{EndRule, Event, Millis};
use crate::code::rtd_done::{self, *};
use crate::code::rtd_event_kind::*;
use crate::notebook::OutputChange;
use crate::wire::v2::{Broadcast, Response};
use crate::wire::Message;

/// What the owner has to do for the executions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    Nothing,
    /// Send a document barrier and `get_queue_state`; call [`Runs::barrier_passed`] with the response.
    Barrier,
    /// The daemon does not have the cell of the request yet, or ignored the request: sync and send it once more.
    Retry { token: u64, cell_id: String },
    /// The execution was joined under way: call [`Runs::replay`] with the outputs that are there.
    Replay { token: u64, cell_id: String },
    /// The daemon does not answer any more: close the connection.
    GiveUp,
}

/// The queue of a room, as the daemon reports it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// The cell that runs.
    pub executing: Option<String>,
    /// The cells that wait, the next first.
    pub queued: Vec<String>,
}

impl Queue {
    /// Whether the cell runs or waits.
    pub fn contains(&self, cell_id: &str) -> bool {
        self.executing.as_deref() == Some(cell_id) || self.queued.iter().any(|cell| cell == cell_id)
    }
}

/// How far an execution is known to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Requested,
    /// The daemon accepted the request.
    Queued,
    /// The daemon showed the cell in its queue, or it started.
    Seen,
    Started,
    Idle,
    /// Over by the daemon's events; the barrier is still to pass.
    Over,
}

/// One execution.
#[derive(Debug)]
struct Run {
    token: u64,
    cell_id: String,
    execution_id: Option<String>,
    phase: Phase,
    count: Option<i64>,
    /// The daemon showed the cell as executing.
    ran: bool,
    failed: bool,
    stopped: Option<(rtd_done, String)>,
    retried: bool,
    /// The cell got outputs after it was queued, though the daemon never showed it in the queue.
    evidence: bool,
    /// Events of the cell came that may be those of another run; only the daemon's queue can decide.
    doubt: bool,
    /// The barrier under way was sent after the cell was queued.
    asked: bool,
    deadline: Option<Millis>,
    /// Outputs that came before the start. Our daemon sends `execution_started` right after the change that carries
    /// them; the host program gets the start first as long as both come together.
    held: Vec<Event>,
}

/// All executions of one session.
pub struct Runs {
    rule: EndRule,
    runs: Vec<Run>,
    events: Vec<Event>,
    barrier_since: Option<Millis>,
    /// When the daemon last sent something.
    last_message: Millis,
}

impl Runs {
    /// No executions yet.
    pub fn new(rule: EndRule) -> Self {
        Self { rule, runs: Vec::new(), events: Vec::new(), barrier_since: None, last_message: 0 }
    }

    /// Sets the rule for ends, once the daemon is known.
    pub fn set_rule(&mut self, rule: EndRule) {
        self.rule = rule;
    }

    /// Number of executions without a terminal event.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether no execution is under way.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Number of executions that the daemon has accepted.
    pub fn accepted(&self) -> usize {
        self.runs.iter().filter(|run| run.phase >= Phase::Queued).count()
    }

    /// Whether an execution of this cell is under way.
    pub fn watches(&self, cell_id: &str) -> bool {
        self.runs.iter().any(|run| run.cell_id == cell_id)
    }

    /// Events since the last call, in order.
    pub fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }

    /// An execution was requested.
    pub fn submit(&mut self, token: u64, cell_id: &str, deadline: Option<Millis>, now: Millis) {
        self.last_message = now;
        self.runs.push(Run {
            token,
            cell_id: cell_id.into(),
            execution_id: None,
            phase: Phase::Requested,
            count: None,
            ran: false,
            failed: false,
            stopped: None,
            retried: false,
            evidence: false,
            doubt: false,
            asked: false,
            deadline,
            held: Vec::new(),
        });
    }

    fn finish(&mut self, place: usize, end: rtd_done, reason: &str, payload: Vec<u8>) {
        let run = self.runs.remove(place);
        self.events.extend(run.held);
        self.events.push(Event {
            code: end as i32,
            number: run.count.unwrap_or(-1),
            text: reason.into(),
            payload,
            ..Event::of_run(RTD_EV_DONE, run.token, &run.cell_id)
        });
    }

    /// The daemon answered the execute request of `token`; `raw` is JSON.
    pub fn responded(&mut self, token: u64, raw: &[u8]) -> Action {
        let Some(place) = self.runs.iter().position(|run| run.token == token) else {
            return Action::Nothing;
        };
        let response = match Message::<Response>::parse(raw) {
            Ok(response) if matches!(response.body, Response::CellQueued { .. }) => response,
            _ => return self.refused(place, raw),
        };
        let run = &mut self.runs[place];
        run.phase = run.phase.max(Phase::Queued);
        run.execution_id = response.execution_id().map(str::to_owned);
        let cell_id = run.cell_id.clone();
        let payload = raw.to_vec();
        self.events.push(Event { payload, ..Event::of_run(RTD_EV_QUEUED, token, &cell_id) });
        if response.joined() || (self.rule == EndRule::FinishRule && self.joins(place)) {
            return Action::Replay { token, cell_id };
        }
        Action::Nothing
    }

    /// Anything but `cell_queued` is a refusal.
    fn refused(&mut self, place: usize, raw: &[u8]) -> Action {
        let response: Value = serde_json::from_slice(raw).unwrap_or_default();
        let member = |name: &str| response.get(name).and_then(Value::as_str).unwrap_or_default();
        let text = member("error");
        let run = &mut self.runs[place];
        if !run.retried && text.starts_with("Cell not found in document") {
            run.retried = true;
            return Action::Retry { token: run.token, cell_id: run.cell_id.clone() };
        }
        let reason = if text.is_empty() { member("result") } else { text };
        self.finish(place, RTD_DONE_REFUSED, reason, raw.to_vec());
        Action::Nothing
    }

    /// Changes of the outputs of a cell, in the order they were applied.
    pub fn outputs_changed(&mut self, changes: &[OutputChange]) {
        for change in changes {
            let cell = change.cell_id();
            for run in self.runs.iter_mut().filter(|run| run.cell_id == cell) {
                run.evidence |= matches!(change, OutputChange::Inserted { .. }) && run.phase >= Phase::Queued;
                let early = self.rule == EndRule::FinalEvent && run.phase < Phase::Started;
                let events = if early { &mut run.held } else { &mut self.events };
                events.push(Event::output(change, run.token));
            }
        }
    }

    /// Everything that came together was read: outputs wait no longer for the start of their execution.
    pub fn release_held(&mut self) {
        for run in &mut self.runs {
            self.events.append(&mut run.held);
        }
    }

    /// Outputs of an execution that was joined under way. Returns what had been held for it, which is among `outputs`,
    /// unless another execution of the cell has reported it.
    #[must_use]
    pub fn replay(&mut self, token: u64, cell_id: &str, outputs: Vec<String>) -> Vec<Event> {
        let reported = self
            .runs
            .iter()
            .any(|run| run.token != token && run.cell_id == cell_id && run.phase >= Phase::Started);
        let mut held = Vec::new();
        for run in self.runs.iter_mut().filter(|run| run.token == token) {
            // It started before it was joined.
            run.phase = run.phase.max(Phase::Started);
            held.append(&mut run.held);
        }
        let mut cleared = Event::of_run(RTD_EV_CLEARED, token, cell_id);
        if !outputs.is_empty() {
            cleared.number = number(outputs.len());
        }
        self.events.push(cleared);
        self.events.extend(outputs.into_iter().enumerate().map(|(index, element)| {
            Event::output(&OutputChange::Inserted { cell_id: cell_id.into(), index, element }, token)
        }));
        if reported {
            held.clear();
        }
        held
    }

    /// A broadcast came; `raw` is its JSON.
    pub fn broadcast(&mut self, message: &Message<Broadcast>, raw: &[u8], now: Millis) -> Action {
        self.last_message = now;
        match self.rule {
            _ if self.runs.is_empty() => Action::Nothing,
            EndRule::FinalEvent => {
                self.final_event(message, raw);
                Action::Nothing
            }
            EndRule::FinishRule => self.finish_rule(&message.body, now),
        }
    }

    /// The daemon sent something that does not concern executions.
    pub fn received(&mut self, now: Millis) {
        self.last_message = now;
    }

    fn started(&mut self, count: i64, concerns: impl Fn(&Run) -> bool) {
        for run in self.runs.iter_mut().filter(|run| concerns(run)) {
            run.count = Some(count);
            run.doubt = false;
            run.phase = run.phase.max(Phase::Started);
            self.events
                .push(Event { number: count, ..Event::of_run(RTD_EV_STARTED, run.token, &run.cell_id) });
            self.events.append(&mut run.held);
        }
    }

    /// When [`Runs::tick`] is due.
    pub fn deadline(&self) -> Option<Millis> {
        let own = self.runs.iter().filter_map(|run| run.deadline).min();
        own.into_iter().chain(self.guard()).min()
    }

    /// Ends executions whose deadline has passed.
    pub fn expire(&mut self, now: Millis) {
        while let Some(place) = self.runs.iter().position(|run| run.deadline.is_some_and(|at| at <= now)) {
            self.finish(place, RTD_DONE_TIMED_OUT, "the time limit passed", Vec::new());
        }
    }

    /// Ends executions whose deadline has passed, and guards against lost broadcasts.
    pub fn tick(&mut self, now: Millis) -> Action {
        self.expire(now);
        match self.guard() {
            Some(at) if at <= now => self.silence(now),
            _ => Action::Nothing,
        }
    }

    /// The connection ended: every execution ends with it.
    pub fn disconnected(&mut self, reason: &str) {
        while !self.runs.is_empty() {
            self.finish(0, RTD_DONE_DISCONNECTED, reason, Vec::new());
        }
    }
}
