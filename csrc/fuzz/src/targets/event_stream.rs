//! Executions and their stream of events. Invariants for any messages of the daemon:
//! - every execution has exactly one end, no event follows it, and it is then no longer watched;
//! - every event of an execution names its cell;
//! - no change of outputs is lost: all of them are reported before the end;
//! - a timer that expires does something or is set later: nothing spins;
//! - with our own daemon no end is reported before the daemon reports it or the time limit passes.

use std::collections::BTreeMap;

use runtimed_ffi::code::rtd_done::{self, *};
use runtimed_ffi::code::rtd_event_kind::*;
use runtimed_ffi::connection::{Action, EndRule, Event, Queue, Runs};
use runtimed_ffi::notebook::OutputChange;
use runtimed_ffi::wire::Message;
use serde_json::{json, Value};

use super::script::{first, steps};

const CELLS: [&str; 3] = ["a", "b", "c"];

const STATUSES: [&str; 10] = [
    "ok",
    "error",
    "interrupted",
    "cancelled",
    "kernel_died",
    "launch_failed",
    "idle",
    "busy",
    "shutdown",
    "error: gone",
];

const EVENTS: [&str; 6] =
    ["execution_started", "execution_done", "output", "kernel_status", "queue_changed", "kernel_error"];

#[derive(Default)]
struct Expected {
    cell: &'static str,
    /// The daemon owes a response to a request for this.
    asked: bool,
    /// Changes of outputs that must be reported, and those that were.
    owed: usize,
    seen: usize,
    ended: bool,
}

struct Play {
    runs: Runs,
    expected: BTreeMap<u64, Expected>,
    now: u64,
}

/// One byte for the kind of daemon, then a script.
pub fn check(data: &[u8]) {
    let (ours, script) = first(data);
    let rule = if ours & 1 == 0 { EndRule::FinalEvent } else { EndRule::FinishRule };
    let mut play = Play { runs: Runs::new(rule), expected: BTreeMap::new(), now: 0 };
    for (what, with) in steps(script) {
        play.step(what, with);
        play.collect(None);
    }
    play.runs.disconnected("the end");
    play.collect(Some(RTD_DONE_DISCONNECTED));
    assert!(play.runs.is_empty() && play.expected.values().all(|run| run.ended));
}

impl Play {
    fn step(&mut self, what: u8, with: &[u8]) {
        let at = |n: usize| with.get(n).copied().unwrap_or_default();
        match what % 9 {
            0 => {
                let (token, cell) = (self.expected.len() as u64 + 1, CELLS[usize::from(at(0)) % 3]);
                let deadline = (at(1) > 0).then(|| self.now + u64::from(at(1)) * 100);
                self.runs.submit(token, cell, deadline, self.now);
                self.expected.insert(token, Expected { cell, asked: true, ..Expected::default() });
            }
            1 => {
                let open: Vec<u64> =
                    self.expected.iter().filter(|(_, run)| run.asked).map(|(token, _)| *token).collect();
                let Some(token) = open.get(usize::from(at(0)) % open.len().max(1)).copied() else { return };
                self.expected.get_mut(&token).unwrap().asked = false;
                let response = response(with.get(1..).unwrap_or_default());
                let action = self.runs.responded(token, response.to_string().as_bytes());
                self.act(action);
            }
            2 => {
                let raw = broadcast(with).to_string().into_bytes();
                let Ok(message) = Message::parse(&raw) else { return self.runs.received(self.now) };
                let action = self.runs.broadcast(&message, &raw, self.now);
                self.act(action);
            }
            3 => {
                let changes: Vec<OutputChange> = with.chunks(2).take(8).map(output).collect();
                for change in &changes {
                    for run in
                        self.expected.values_mut().filter(|run| !run.ended && run.cell == change.cell_id())
                    {
                        run.owed += 1;
                    }
                }
                self.runs.outputs_changed(&changes);
            }
            4 => {
                let state = broadcast(with);
                let end = [None, Some(RTD_DONE_ERROR), Some(RTD_DONE_INTERRUPTED)][usize::from(at(4)) % 3];
                let texts = |value: &Value| value.as_str().map(str::to_owned);
                let queued = state.get("queued").and_then(Value::as_array).into_iter().flatten();
                let executing = state.get("executing").and_then(texts);
                let queue = Queue { executing, queued: queued.filter_map(texts).collect() };
                let action = self.runs.barrier_passed(&queue, self.now, |_| end);
                self.act(action);
            }
            5 | 6 => {
                let step = u64::from(at(0)) * if what % 9 == 5 { 1 } else { 100 };
                self.now += step;
                let action = self.runs.tick(self.now);
                let later = self.runs.deadline().is_none_or(|at| at > self.now);
                assert!(later || action != Action::Nothing, "a timer that has come does nothing");
                self.act(action);
            }
            7 => self.runs.release_held(),
            _ => {
                self.runs.disconnected("cut off");
                self.collect(Some(RTD_DONE_DISCONNECTED));
                assert!(self.runs.is_empty());
            }
        }
    }

    /// What the owner does.
    fn act(&mut self, action: Action) {
        match action {
            // Barriers are answered by a step of the script, or never.
            Action::Nothing | Action::Barrier => {}
            Action::Retry { token, cell_id } => {
                let run = self.expected.get_mut(&token).expect("a run that was made");
                assert!(!run.ended && run.cell == cell_id);
                run.asked = true;
            }
            Action::Replay { token, cell_id } => {
                self.collect(None);
                let run = self.expected.get_mut(&token).expect("a run that was made");
                assert!(!run.ended && run.cell == cell_id);
                // What was held back is among the outputs that are reported now.
                run.owed = run.seen + 3;
                let held = self.runs.replay(token, &cell_id, vec!["x".into(), "y".into()]);
                assert!(held.iter().all(is_output));
            }
            Action::GiveUp => {
                self.collect(None);
                self.runs.disconnected("no answer");
                self.collect(Some(RTD_DONE_DISCONNECTED));
                assert!(self.runs.is_empty());
            }
        }
    }

    fn collect(&mut self, all_end: Option<rtd_done>) {
        for event in self.runs.take_events() {
            let run = self.expected.get_mut(&event.token).expect("a run that was made");
            assert_eq!(run.cell, event.id);
            assert!(!run.ended, "{event:?} behind the end");
            match event.kind {
                RTD_EV_OUTPUT | RTD_EV_CLEARED => run.seen += 1,
                RTD_EV_DONE => {
                    assert!(all_end.is_none_or(|all| all as i32 == event.code));
                    assert_eq!(run.seen, run.owed, "outputs were lost");
                    run.ended = true;
                    run.asked = false;
                }
                _ => assert!(matches!(event.kind, RTD_EV_QUEUED | RTD_EV_STARTED)),
            }
        }
        let live: Vec<&Expected> = self.expected.values().filter(|run| !run.ended).collect();
        assert_eq!(self.runs.len(), live.len());
        for cell in CELLS {
            assert_eq!(self.runs.watches(cell), live.iter().any(|run| run.cell == cell));
        }
    }
}

fn is_output(event: &Event) -> bool {
    matches!(event.kind, RTD_EV_OUTPUT | RTD_EV_CLEARED)
}

/// JSON, or a few bytes that stand for a response.
fn response(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| match first(bytes).0 % 8 {
        0 => json!({"result": "error", "error": "Cell not found in document: a"}),
        1 => json!({"result": "no_kernel"}),
        2 => json!({"result": "cell_queued", "cell_id": "a", "execution_id": "1", "joined": true}),
        3 => json!({"result": "cell_queued", "cell_id": "a"}),
        id => json!({"result": "cell_queued", "cell_id": "a", "execution_id": id.to_string()}),
    })
}

/// JSON, or a few bytes that stand for a broadcast: event, cell, status, further cells.
fn broadcast(bytes: &[u8]) -> Value {
    if let Ok(value @ Value::Object(_)) = serde_json::from_slice(bytes) {
        return value;
    }
    let at = |n: usize| usize::from(bytes.get(n).copied().unwrap_or_default());
    let cell = |n: usize| CELLS.get(at(n) % 4).copied();
    let event = EVENTS[at(0) % EVENTS.len()];
    if event == "queue_changed" {
        let queued: Vec<&str> = (2..bytes.len().min(5)).filter_map(cell).collect();
        return json!({"event": event, "executing": cell(1), "queued": queued});
    }
    json!({
        "event": event, "cell_id": cell(1), "status": STATUSES[at(2) % STATUSES.len()],
        "execution_id": (at(3) % 8).to_string(), "output_type": if at(4) % 2 == 0 { "error" } else { "stream" },
        "output_json": "{}", "execution_count": at(5), "error": "it broke",
    })
}

fn output(bytes: &[u8]) -> OutputChange {
    let at = |n: usize| usize::from(bytes.get(n).copied().unwrap_or_default());
    let (cell_id, index, element) = (CELLS[at(0) % 3].to_owned(), at(1) % 4, "x".to_owned());
    match at(1) / 4 % 4 {
        0 => OutputChange::Cleared { cell_id },
        1 => OutputChange::Replaced { cell_id, index, element },
        2 => OutputChange::Joined { cell_id, index, covered: Vec::new(), element },
        _ => OutputChange::Inserted { cell_id, index, element },
    }
}
