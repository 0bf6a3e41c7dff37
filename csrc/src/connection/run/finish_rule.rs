//! Storey 2: the end of an execution with the reference daemon: the finish rule of protocol 2, section 5.9, and a
//! document barrier after it. The daemon may lose broadcasts, so its queue decides.

use super::{Action, EndRule, Phase, Queue, Run, Runs};
use crate::code::rtd_done::{self, *};
use crate::connection::Millis;
use crate::wire::v2::Broadcast;

/// When the daemon sent nothing for so long, ask for the queue (section 14.1 item 8).
const SILENCE: Millis = 5_000;
/// A barrier that is not answered for so long means a lost connection.
const BARRIER_LIMIT: Millis = 15_000;

impl Runs {
    /// The reference daemon ignores the request for a cell that is queued or executing (section 5.9): the execution is
    /// the one that is under way.
    pub(super) fn joins(&mut self, place: usize) -> bool {
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

    pub(super) fn finish_rule(&mut self, message: &Broadcast, now: Millis) -> Action {
        match message {
            Broadcast::ExecutionStarted { cell_id, execution_count } => {
                self.started(*execution_count, |run| run.phase >= Phase::Queued && run.cell_id == *cell_id);
            }
            Broadcast::Output { cell_id, output_type, .. } => {
                self.sign_of_life(cell_id);
                if output_type == "error" {
                    self.accepted_runs(cell_id).for_each(|run| run.failed = true);
                }
            }
            Broadcast::KernelStatus { status, cell_id } => self.kernel_status(status, cell_id.as_deref()),
            // Only the one after the idle counts: a failing cell sends an early one as well.
            Broadcast::ExecutionDone { cell_id } => {
                for run in self.accepted_runs(cell_id).filter(|run| run.phase == Phase::Idle) {
                    run.phase = Phase::Over;
                }
            }
            Broadcast::QueueChanged { executing, queued } => self.queue(executing.as_deref(), queued),
            Broadcast::KernelError { error } => self.stop(RTD_DONE_KERNEL_DIED, error),
            _ => {}
        }
        self.barrier_if_over(now)
    }

    fn accepted_runs<'a>(&'a mut self, cell_id: &'a str) -> impl Iterator<Item = &'a mut Run> {
        self.runs.iter_mut().filter(move |run| run.phase >= Phase::Queued && run.cell_id == cell_id)
    }

    /// The broadcasts that showed the cell in the queue may be lost (section 5.14); this one shows that it runs.
    fn sign_of_life(&mut self, cell_id: &str) {
        for run in self.accepted_runs(cell_id).filter(|run| run.phase == Phase::Queued) {
            run.phase = Phase::Seen;
            run.ran = true;
        }
    }

    fn kernel_status(&mut self, status: &str, cell_id: Option<&str>) {
        match (status, cell_id) {
            ("busy", Some(cell_id)) => self.sign_of_life(cell_id),
            ("idle", Some(cell_id)) => {
                for run in self.accepted_runs(cell_id) {
                    if run.phase == Phase::Queued {
                        run.doubt = true;
                    } else {
                        run.phase = run.phase.max(Phase::Idle);
                    }
                }
            }
            ("shutdown", _) => self.stop(RTD_DONE_CANCELLED, "the kernel was shut down"),
            _ => {
                if let Some(text) = status.strip_prefix("error: ") {
                    self.stop(RTD_DONE_KERNEL_DIED, text);
                }
            }
        }
    }

    fn stop(&mut self, end: rtd_done, reason: &str) {
        for run in self.runs.iter_mut().filter(|run| run.phase >= Phase::Queued) {
            run.phase = Phase::Over;
            run.stopped = Some((end, reason.into()));
        }
    }

    /// The queue as the daemon reports it: a cell that was there and is not any more is over, whatever
    /// broadcast was lost (sections 5.10, 5.14).
    fn queue(&mut self, executing: Option<&str>, queued: &[String]) {
        for run in &mut self.runs {
            let executes = executing == Some(run.cell_id.as_str());
            if executes || queued.contains(&run.cell_id) {
                run.doubt = false;
                if run.phase == Phase::Queued {
                    run.phase = Phase::Seen;
                }
                run.ran |= executes;
            } else if run.phase >= Phase::Seen && run.phase < Phase::Over {
                let never_ran = run.phase == Phase::Seen && !run.ran;
                run.phase = Phase::Over;
                if never_ran {
                    run.stopped = Some((RTD_DONE_CANCELLED, "dropped from the queue".into()));
                }
            }
        }
    }

    fn barrier_if_over(&mut self, now: Millis) -> Action {
        if self.barrier_since.is_none() && self.runs.iter().any(|run| run.phase == Phase::Over || run.doubt) {
            return self.ask(now);
        }
        Action::Nothing
    }

    fn ask(&mut self, now: Millis) -> Action {
        self.barrier_since = Some(now);
        for run in &mut self.runs {
            run.asked = run.phase == Phase::Queued;
        }
        Action::Barrier
    }

    /// Decides about cells that were queued and never seen in the queue: they are over, or the
    /// request was ignored, because the daemon still regarded the cell as executing (section 5.10).
    fn unseen(&mut self) -> Action {
        let mut ignored = Action::Nothing;
        for run in &mut self.runs {
            if !std::mem::take(&mut run.asked) || run.phase != Phase::Queued {
                continue;
            }
            run.doubt = false;
            if run.evidence {
                run.phase = Phase::Over;
            } else if ignored == Action::Nothing {
                run.phase = Phase::Requested;
                ignored = Action::Retry { token: run.token, cell_id: run.cell_id.clone() };
            }
        }
        ignored
    }

    /// The response of the barrier's `get_queue_state` came and the replica lacks nothing.
    /// `failed` looks into the document for an error output of a cell.
    pub fn barrier_passed(
        &mut self,
        queue: &Queue,
        now: Millis,
        failed: impl Fn(&str) -> Option<rtd_done>,
    ) -> Action {
        self.barrier_since = None;
        self.last_message = now;
        let over: Vec<u64> =
            self.runs.iter().filter(|run| run.phase == Phase::Over).map(|run| run.token).collect();
        self.queue(queue.executing.as_deref(), &queue.queued);
        for token in over {
            let Some(place) = self.runs.iter().position(|run| run.token == token) else { continue };
            let run = &mut self.runs[place];
            // Still marked as executing: the same cell could not be run again yet (section 5.10), so
            // the run ends with the queue_changed that releases it.
            if run.stopped.is_none() && queue.executing.as_deref() == Some(run.cell_id.as_str()) {
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
            Action::Nothing => self.barrier_if_over(now),
            action => action,
        }
    }

    /// When the daemon has sent nothing, or has not answered a barrier, for too long.
    pub(super) fn guard(&self) -> Option<Millis> {
        if self.rule == EndRule::FinalEvent || self.runs.is_empty() {
            return None;
        }
        Some(self.barrier_since.map_or(self.last_message + SILENCE, |since| since + BARRIER_LIMIT))
    }

    /// The daemon has sent nothing for too long.
    pub(super) fn silence(&mut self, now: Millis) -> Action {
        if self.barrier_since.is_some() {
            return Action::GiveUp;
        }
        self.ask(now)
    }
}
