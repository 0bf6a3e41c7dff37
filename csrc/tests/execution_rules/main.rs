//! When an execution is over: the vectors of protocol 2, the recorded orders of failing cells, and
//! the final event of our own daemon.

mod edges;
mod final_event;
mod lost_messages;
mod recorded;

use std::fs;
use std::path::Path;

use runtimed_ffi::code::rtd_done::{self, *};
use runtimed_ffi::code::rtd_event_kind::{self, *};
use runtimed_ffi::connection::{Action, EndRule, Event, Millis, Queue, Runs};
use runtimed_ffi::notebook::OutputChange;
use runtimed_ffi::wire::Message;
use serde_json::{json, Value};

fn load(name: &str) -> Value {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden")).join(name);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn queued(runs: &mut Runs, token: u64, response: &Value) -> Action {
    runs.responded(token, response.to_string().as_bytes())
}

fn receive(runs: &mut Runs, broadcast: &Value, now: Millis) -> Action {
    let raw = broadcast.to_string().into_bytes();
    runs.broadcast(&Message::parse(&raw).unwrap(), &raw, now)
}

/// The barrier passes with this queue.
fn pass(runs: &mut Runs, state: &Value, now: Millis, failed: impl Fn(&str) -> Option<rtd_done>) -> Action {
    let texts = |value: &Value| value.as_array().into_iter().flatten().map(text).collect();
    let queue =
        Queue { executing: state["executing"].as_str().map(str::to_owned), queued: texts(&state["queued"]) };
    runs.barrier_passed(&queue, now, failed)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// How an execution ended, from its DONE event: end and count.
fn end(event: &Event) -> Option<(rtd_done, Option<i64>)> {
    let ends = [
        RTD_DONE_OK,
        RTD_DONE_ERROR,
        RTD_DONE_INTERRUPTED,
        RTD_DONE_CANCELLED,
        RTD_DONE_KERNEL_DIED,
        RTD_DONE_LAUNCH_FAILED,
        RTD_DONE_TIMED_OUT,
        RTD_DONE_DISCONNECTED,
        RTD_DONE_REFUSED,
    ];
    let end = *ends.iter().find(|end| **end as i32 == event.code)?;
    (event.kind == RTD_EV_DONE).then_some((end, (event.number >= 0).then_some(event.number)))
}

fn done(events: &[Event]) -> Option<(rtd_done, Option<i64>, String)> {
    let mut ends = events.iter().filter(|event| event.kind == RTD_EV_DONE);
    let last = ends.next()?;
    assert!(ends.next().is_none(), "an execution ended twice");
    end(last).map(|(end, count)| (end, count, last.text.clone()))
}

fn is_ok(event: &&Event) -> bool {
    end(event).is_some_and(|(end, _)| end == RTD_DONE_OK)
}

fn queue_changed(executing: Option<&str>, queued: &[&str]) -> Value {
    json!({"event": "queue_changed", "executing": executing, "queued": queued})
}

fn status(status: &str, cell: &str) -> Value {
    json!({"event": "kernel_status", "status": status, "cell_id": cell})
}

fn cell_queued() -> Value {
    json!({"result": "cell_queued", "cell_id": "c"})
}

fn cleared() -> Event {
    Event::of_run(RTD_EV_CLEARED, 1, "c")
}

fn inserted(index: usize, element: &str) -> OutputChange {
    OutputChange::Inserted { cell_id: "c".into(), index, element: element.into() }
}

/// A run of the reference that is queued and of which nothing was seen.
fn reference_run() -> Runs {
    let mut runs = Runs::new(EndRule::FinishRule);
    runs.submit(1, "c", None, 0);
    assert_eq!(queued(&mut runs, 1, &cell_queued()), Action::Nothing);
    runs
}
