//! Executions that a client waits for: from the request to exactly one terminal state.
//!
//! How the end is learnt depends on the daemon and is decided here alone. Our daemon sends one
//! final `execution_done` with a status, after the last output. The reference daemon needs the
//! finish rule of protocol 2, section 5.9, followed by a document barrier.

use serde_json::Value;

use super::Millis;
use crate::code::rtd_done::{self, *};
use crate::notebook::OutputChange;

/// With a reference daemon: after this long without a word, ask for the queue (section 14.1 item 8).
const SILENCE: Millis = 5_000;
/// With a reference daemon: a barrier that is not answered for this long means a lost connection.
const BARRIER_LIMIT: Millis = 15_000;

/// How the end of an execution is learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// One `execution_done` per execution, with its status.
    FinalEvent,
    /// Idle, then `execution_done`, then the document barrier.
    FinishRule,
}

/// Where an output came to stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OutputPlace {
    /// At its index, normally the end.
    Appended,
    /// In the place of the one at its index.
    Replaced,
    /// In the place of these, from its index to the end: pieces of stream text were merged.
    Joined(Vec<String>),
}

/// What an execution tells the one who waits for it.
#[derive(Clone, Debug, PartialEq)]
pub enum RunEvent {
    Queued {
        token: u64,
        cell_id: String,
        response: Vec<u8>,
    },
    Started {
        token: u64,
        cell_id: String,
        count: Option<i64>,
    },
    Output {
        token: u64,
        cell_id: String,
        index: usize,
        element: String,
        place: OutputPlace,
    },
    /// `again` outputs follow that were there before: an execution was joined under way.
    Cleared {
        token: u64,
        cell_id: String,
        again: usize,
    },
    Done {
        token: u64,
        cell_id: String,
        end: rtd_done,
        count: Option<i64>,
        reason: String,
        payload: Vec<u8>,
    },
}

impl RunEvent {
    /// The event for those who watch the notebook and not an execution.
    pub fn of_nobody(mut self) -> Self {
        let (Self::Queued { token, .. }
        | Self::Started { token, .. }
        | Self::Output { token, .. }
        | Self::Cleared { token, .. }
        | Self::Done { token, .. }) = &mut self;
        *token = 0;
        self
    }
}

/// What the owner has to do for the runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing.
    Nothing,
    /// Send the barrier and `get_queue_state`; call [`Runs::barrier_passed`] with the response.
    Barrier,
    /// The request named a cell the daemon has not seen yet: sync and send it once more.
    Retry { token: u64, cell_id: String },
    /// The peer has to join outputs that are already there.
    Replay { token: u64, cell_id: String },
    /// The daemon does not answer any more: close the connection.
    GiveUp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Requested,
    Queued,
    /// The daemon showed the cell in its queue, or it started.
    Seen,
    Started,
    Idle,
    /// Over by the daemon's events; the barrier is still to pass.
    Over,
}

/// One execution somebody waits for.
#[derive(Debug)]
pub struct Run {
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
    /// Something was heard of the cell after it was queued, though not that it was in the queue.
    evidence: bool,
    /// Events of the cell came that need not be those of this run; only the daemon's queue can tell.
    doubt: bool,
    /// The barrier under way was sent after the cell was queued.
    asked: bool,
    deadline: Option<Millis>,
    /// Outputs that came before the word of the start. Our daemon sends that word right behind the
    /// change that carries them; whoever listens hears of the start first, as long as both come together.
    held: Vec<RunEvent>,
}

/// All executions of one session.
pub struct Runs {
    strategy: Strategy,
    runs: Vec<Run>,
    events: Vec<RunEvent>,
    barrier_since: Option<Millis>,
    heard: Millis,
}

impl Runs {
    /// No executions yet.
    pub fn new(strategy: Strategy) -> Self {
        Self { strategy, runs: Vec::new(), events: Vec::new(), barrier_since: None, heard: 0 }
    }

    /// Chooses how ends are learnt, once the daemon is known.
    pub fn set_strategy(&mut self, strategy: Strategy) {
        self.strategy = strategy;
    }

    /// The strategy in use.
    pub fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// Number of executions without a terminal state.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether nobody waits for an execution.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Whether somebody waits for an execution of this cell.
    pub fn watches(&self, cell_id: &str) -> bool {
        self.runs.iter().any(|run| run.cell_id == cell_id)
    }

    /// Events since the last call, in order.
    pub fn take_events(&mut self) -> Vec<RunEvent> {
        std::mem::take(&mut self.events)
    }

    /// An execution was requested.
    pub fn submit(&mut self, token: u64, cell_id: &str, deadline: Option<Millis>, now: Millis) {
        self.heard = now;
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
        self.events.push(RunEvent::Done {
            token: run.token,
            cell_id: run.cell_id,
            end,
            count: run.count,
            reason: reason.into(),
            payload,
        });
    }

    /// The daemon answered the execute request of `token`.
    pub fn responded(&mut self, token: u64, response: &Value, raw: &[u8]) -> Need {
        let Some(place) = self.runs.iter().position(|run| run.token == token) else {
            return Need::Nothing;
        };
        let member = |name: &str| response.get(name).and_then(Value::as_str).unwrap_or_default();
        if member("result") != "cell_queued" {
            let text = member("error");
            let run = &mut self.runs[place];
            if !run.retried && text.starts_with("Cell not found in document") {
                run.retried = true;
                return Need::Retry { token, cell_id: run.cell_id.clone() };
            }
            let reason = if text.is_empty() { member("result").to_owned() } else { text.to_owned() };
            self.finish(place, RTD_DONE_REFUSED, &reason, raw.to_vec());
            return Need::Nothing;
        }
        let run = &mut self.runs[place];
        run.phase = run.phase.max(Phase::Queued);
        run.execution_id = response.get("execution_id").and_then(Value::as_str).map(str::to_owned);
        let cell_id = run.cell_id.clone();
        self.events.push(RunEvent::Queued { token, cell_id: cell_id.clone(), response: raw.to_vec() });
        if response.get("joined") == Some(&Value::Bool(true)) || self.joins(place) {
            return Need::Replay { token, cell_id };
        }
        Need::Nothing
    }

    /// The reference daemon ignores the request for a cell that is queued or executing (section 5.9):
    /// the run is the one that is under way.
    fn joins(&mut self, place: usize) -> bool {
        if self.strategy == Strategy::FinalEvent {
            return false;
        }
        let cell = self.runs[place].cell_id.as_str();
        let under_way = |run: &&Run| run.cell_id == cell && (Phase::Seen..Phase::Over).contains(&run.phase);
        let Some((phase, count, ran, failed)) = self.runs[..place]
            .iter()
            .find(under_way)
            .map(|first| (first.phase, first.count, first.ran, first.failed))
        else {
            return false;
        };
        let run = &mut self.runs[place];
        (run.phase, run.count, run.ran, run.failed) = (phase, count, ran, failed);
        true
    }

    /// Changes of the outputs of a cell, in the order they were applied.
    pub fn outputs_changed(&mut self, changes: &[OutputChange]) {
        for change in changes {
            let cell = change.cell_id();
            for run in self.runs.iter_mut().filter(|run| run.cell_id == cell) {
                run.evidence |= matches!(change, OutputChange::Inserted { .. }) && run.phase >= Phase::Queued;
                let event = output_event(change, run.token);
                let early = self.strategy == Strategy::FinalEvent && run.phase < Phase::Started;
                if early { &mut run.held } else { &mut self.events }.push(event);
            }
        }
    }

    /// Everything that came together was seen: outputs wait no longer for the word of a start.
    pub fn release_held(&mut self) {
        for run in &mut self.runs {
            self.events.append(&mut run.held);
        }
    }

    /// Outputs of a run that was joined while under way. Gives what had been held for it, which is among `outputs`,
    /// unless others who wait for the cell were told of it.
    #[must_use]
    pub fn replay(&mut self, token: u64, cell_id: &str, outputs: Vec<String>) -> Vec<RunEvent> {
        let told = self
            .runs
            .iter()
            .any(|run| run.token != token && run.cell_id == cell_id && run.phase >= Phase::Started);
        let mut held = Vec::new();
        for run in self.runs.iter_mut().filter(|run| run.token == token) {
            // Its start was told before it was joined.
            run.phase = run.phase.max(Phase::Started);
            held.append(&mut run.held);
        }
        self.events.push(RunEvent::Cleared { token, cell_id: cell_id.into(), again: outputs.len() });
        self.events.extend(outputs.into_iter().enumerate().map(|(index, element)| RunEvent::Output {
            token,
            cell_id: cell_id.into(),
            index,
            element,
            place: OutputPlace::Appended,
        }));
        if told {
            held.clear();
        }
        held
    }

    /// A broadcast came.
    pub fn broadcast(&mut self, message: &Value, now: Millis) -> Need {
        self.heard = now;
        if self.runs.is_empty() {
            return Need::Nothing;
        }
        match self.strategy {
            Strategy::FinalEvent => {
                self.final_event(message);
                Need::Nothing
            }
            Strategy::FinishRule => self.finish_rule(message, now),
        }
    }

    fn started(&mut self, message: &Value, concerns: impl Fn(&Run) -> bool) {
        let count = message.get("execution_count").and_then(Value::as_i64);
        for run in self.runs.iter_mut().filter(|run| concerns(run)) {
            run.count = count;
            run.doubt = false;
            run.phase = run.phase.max(Phase::Started);
            self.events.push(RunEvent::Started { token: run.token, cell_id: run.cell_id.clone(), count });
            self.events.append(&mut run.held);
        }
    }

    fn final_event(&mut self, message: &Value) {
        let Some(id) = message.get("execution_id").and_then(Value::as_str) else {
            return;
        };
        let concerns = |run: &Run| run.execution_id.as_deref() == Some(id);
        match message.get("event").and_then(Value::as_str) {
            Some("execution_started") => self.started(message, concerns),
            Some("execution_done") => {
                let end = match message.get("status").and_then(Value::as_str) {
                    Some("ok") => RTD_DONE_OK,
                    Some("interrupted") => RTD_DONE_INTERRUPTED,
                    Some("cancelled") => RTD_DONE_CANCELLED,
                    Some("kernel_died") => RTD_DONE_KERNEL_DIED,
                    Some("launch_failed") => RTD_DONE_LAUNCH_FAILED,
                    _ => RTD_DONE_ERROR,
                };
                let reason = message.get("reason").and_then(Value::as_str).unwrap_or_default();
                while let Some(place) = self.runs.iter().position(concerns) {
                    if let Some(count) = message.get("execution_count").and_then(Value::as_i64) {
                        self.runs[place].count = Some(count);
                    }
                    self.finish(place, end, reason, message.to_string().into_bytes());
                }
            }
            _ => {}
        }
    }

    fn finish_rule(&mut self, message: &Value, now: Millis) -> Need {
        let cell = message.get("cell_id").and_then(Value::as_str);
        let concerns = |run: &Run| run.phase >= Phase::Queued && cell == Some(run.cell_id.as_str());
        let status = message.get("status").and_then(Value::as_str).unwrap_or_default();
        let event = message.get("event").and_then(Value::as_str);
        // The broadcasts that showed the cell in the queue may be lost (section 5.14).
        for run in self.runs.iter_mut().filter(|run| run.phase == Phase::Queued && concerns(run)) {
            match event {
                Some("output") => {
                    run.phase = Phase::Seen;
                    run.ran = true;
                }
                Some("kernel_status") if status == "busy" => {
                    run.phase = Phase::Seen;
                    run.ran = true;
                }
                Some("kernel_status") if status == "idle" => run.doubt = true,
                _ => {}
            }
        }
        match event {
            Some("execution_started") => self.started(message, concerns),
            Some("output") if message.get("output_type").and_then(Value::as_str) == Some("error") => {
                self.runs.iter_mut().filter(|run| concerns(run)).for_each(|run| run.failed = true);
            }
            Some("kernel_status") if status == "idle" => {
                for run in self.runs.iter_mut().filter(|run| concerns(run) && run.phase >= Phase::Seen) {
                    run.phase = run.phase.max(Phase::Idle);
                }
            }
            // Only the one behind the idle counts: a failing cell sends an early one as well.
            Some("execution_done") => {
                for run in self.runs.iter_mut().filter(|run| concerns(run) && run.phase == Phase::Idle) {
                    run.phase = Phase::Over;
                }
            }
            Some("queue_changed") => self.queue(message),
            Some("kernel_status") if status == "shutdown" => {
                self.stop(RTD_DONE_CANCELLED, "the kernel was shut down");
            }
            Some("kernel_status") if status.starts_with("error: ") => {
                self.stop(RTD_DONE_KERNEL_DIED, &status["error: ".len()..]);
            }
            Some("kernel_error") => {
                let text = message.get("error").and_then(Value::as_str).unwrap_or("the kernel failed");
                self.stop(RTD_DONE_KERNEL_DIED, text);
            }
            _ => {}
        }
        self.barrier_if_over(now)
    }

    fn stop(&mut self, end: rtd_done, reason: &str) {
        for run in self.runs.iter_mut().filter(|run| run.phase >= Phase::Queued) {
            run.phase = Phase::Over;
            run.stopped = Some((end, reason.into()));
        }
    }

    /// The queue as the daemon tells it: a cell that was there and is not any more is over, whatever
    /// broadcast was lost (sections 5.10, 5.14).
    fn queue(&mut self, state: &Value) {
        let executing = state.get("executing").and_then(Value::as_str);
        let queued: Vec<&str> = state
            .get("queued")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        for run in &mut self.runs {
            let cell = run.cell_id.as_str();
            if executing == Some(cell) || queued.contains(&cell) {
                run.doubt = false;
                if run.phase == Phase::Queued {
                    run.phase = Phase::Seen;
                }
                if executing == Some(cell) {
                    run.ran = true;
                }
            } else if run.phase >= Phase::Seen && run.phase < Phase::Over {
                let never_ran = run.phase == Phase::Seen && !run.ran;
                run.phase = Phase::Over;
                if never_ran {
                    run.stopped = Some((RTD_DONE_CANCELLED, "dropped from the queue".into()));
                }
            }
        }
    }

    fn barrier_if_over(&mut self, now: Millis) -> Need {
        if self.barrier_since.is_none() && self.runs.iter().any(|run| run.phase == Phase::Over || run.doubt) {
            return self.ask(now);
        }
        Need::Nothing
    }

    fn ask(&mut self, now: Millis) -> Need {
        self.barrier_since = Some(now);
        for run in &mut self.runs {
            run.asked = run.phase == Phase::Queued;
        }
        Need::Barrier
    }

    /// What became of cells that were queued and never seen in the queue: they are over, or the
    /// request was ignored, because the daemon still regarded the cell as executing (section 5.10).
    fn unseen(&mut self) -> Need {
        let mut ignored = Need::Nothing;
        for run in &mut self.runs {
            if !std::mem::take(&mut run.asked) || run.phase != Phase::Queued {
                continue;
            }
            run.doubt = false;
            if run.evidence {
                run.phase = Phase::Over;
            } else if ignored == Need::Nothing {
                run.phase = Phase::Requested;
                ignored = Need::Retry { token: run.token, cell_id: run.cell_id.clone() };
            }
        }
        ignored
    }

    /// The response of the barrier's `get_queue_state` came and the replica lacks nothing.
    /// `failed` tells whether the document shows an error output for a cell.
    pub fn barrier_passed(
        &mut self,
        state: &Value,
        now: Millis,
        failed: impl Fn(&str) -> Option<rtd_done>,
    ) -> Need {
        self.barrier_since = None;
        self.heard = now;
        let executing = state.get("executing").and_then(Value::as_str).map(str::to_owned);
        let over: Vec<u64> =
            self.runs.iter().filter(|run| run.phase == Phase::Over).map(|run| run.token).collect();
        self.queue(state);
        for token in over {
            let Some(place) = self.runs.iter().position(|run| run.token == token) else { continue };
            let run = &mut self.runs[place];
            // Still marked as executing: the same cell could not be run again yet (section 5.10), so
            // the run ends with the queue_changed that releases it.
            if run.stopped.is_none() && executing.as_deref() == Some(run.cell_id.as_str()) {
                run.phase = Phase::Idle;
                continue;
            }
            let (end, reason) = match run.stopped.take() {
                Some(stopped) => stopped,
                None => {
                    let end = failed(&run.cell_id).or(run.failed.then_some(RTD_DONE_ERROR));
                    (end.unwrap_or(RTD_DONE_OK), String::new())
                }
            };
            self.finish(place, end, &reason, Vec::new());
        }
        match self.unseen() {
            Need::Nothing => self.barrier_if_over(now),
            need => need,
        }
    }

    /// When [`Runs::tick`] is due.
    pub fn deadline(&self) -> Option<Millis> {
        let own = self.runs.iter().filter_map(|run| run.deadline).min();
        let guard = match (self.strategy, self.barrier_since) {
            _ if self.runs.is_empty() => None,
            (Strategy::FinalEvent, _) => None,
            (Strategy::FinishRule, Some(since)) => Some(since + BARRIER_LIMIT),
            (Strategy::FinishRule, None) => Some(self.heard + SILENCE),
        };
        own.into_iter().chain(guard).min()
    }

    /// Ends runs whose caller's deadline has passed, and guards against lost broadcasts.
    pub fn tick(&mut self, now: Millis) -> Need {
        while let Some(place) = self.runs.iter().position(|run| run.deadline.is_some_and(|at| at <= now)) {
            self.finish(place, RTD_DONE_TIMED_OUT, "the time limit passed", Vec::new());
        }
        if self.strategy == Strategy::FinalEvent || self.runs.is_empty() {
            return Need::Nothing;
        }
        match self.barrier_since {
            Some(since) if since + BARRIER_LIMIT <= now => Need::GiveUp,
            None if self.heard + SILENCE <= now => self.ask(now),
            _ => Need::Nothing,
        }
    }

    /// The connection ended: every run ends with it.
    pub fn disconnected(&mut self, reason: &str) {
        while !self.runs.is_empty() {
            self.finish(0, RTD_DONE_DISCONNECTED, reason, Vec::new());
        }
    }
}

/// The event that a change of a cell's outputs means for one who follows them.
pub fn output_event(change: &OutputChange, token: u64) -> RunEvent {
    let cell_id = change.cell_id().to_owned();
    let (index, element, place) = match change {
        OutputChange::Cleared { .. } => return RunEvent::Cleared { token, cell_id, again: 0 },
        OutputChange::Inserted { index, element, .. } => (*index, element, OutputPlace::Appended),
        OutputChange::Replaced { index, element, .. } => (*index, element, OutputPlace::Replaced),
        OutputChange::Joined { index, element, covered, .. } => {
            (*index, element, OutputPlace::Joined(covered.clone()))
        }
    };
    RunEvent::Output { token, cell_id, index, element: element.clone(), place }
}
