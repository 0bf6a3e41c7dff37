//! When an execution is over: the vectors of protocol 2, the recorded orders of failing cells, and
//! the final event of our own daemon.

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

fn hear(runs: &mut Runs, broadcast: &Value, now: Millis) -> Action {
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

#[test]
fn the_finish_rule_is_met_where_the_vectors_say() {
    let vectors = load("vectors-v2.json");
    let mut count = 0;
    for vector in vectors["vectors"].as_array().unwrap().iter().filter(|v| v["kind"] == "event_sequence") {
        let id = vector["id"].as_str().unwrap();
        let mut runs = Runs::new(EndRule::FinishRule);
        runs.submit(1, "cell-1", None, 0);
        assert_eq!(queued(&mut runs, 1, &vector["response"]), Action::Nothing);
        let mut met = None;
        let mut state = Value::Null;
        for (index, broadcast) in vector["broadcasts"].as_array().unwrap().iter().enumerate() {
            if broadcast["event"] == "queue_changed" {
                state = broadcast.clone();
            }
            if hear(&mut runs, broadcast, 0) == Action::Barrier {
                assert!(met.is_none(), "{id}: the barrier was asked for twice");
                met = Some(index as u64);
            }
        }
        let expect = &vector["expect"];
        assert_eq!(met, expect["finished_after_index"].as_u64(), "{id}");
        assert_eq!(pass(&mut runs, &state, 0, |_| None), Action::Nothing);
        let (end, number, _) = done(&runs.take_events()).unwrap();
        let wanted = if expect["success"] == true { RTD_DONE_OK } else { RTD_DONE_ERROR };
        assert_eq!((end, number), (wanted, expect["execution_count"].as_i64()), "{id}");
        count += 1;
    }
    assert_eq!(count, 7);
}

/// Plays a recording; gives how each execution ended. No output of a cell may follow its end.
fn replay(scenario: &Value, frames: &[Value]) -> Vec<(rtd_done, Option<i64>)> {
    let mut runs = Runs::new(EndRule::FinishRule);
    let mut ends = Vec::new();
    let mut requests = std::collections::VecDeque::new();
    let mut state = json!({"executing": null, "queued": []});
    let mut ended: Option<String> = None;
    for (number, frame) in frames.iter().enumerate() {
        let body = &frame["json"];
        let now = frame["t"].as_f64().unwrap() as u64;
        let mut action = Action::Nothing;
        match frame["kind"].as_str().unwrap() {
            "request" => {
                let execute = body["action"] == "execute_cell";
                requests.push_back(execute.then_some(number as u64));
                if execute {
                    runs.submit(number as u64, body["cell_id"].as_str().unwrap(), None, now);
                    ended = None;
                }
            }
            "response" => {
                if let Some(token) = requests.pop_front().unwrap() {
                    action = queued(&mut runs, token, body);
                }
            }
            "broadcast" => {
                if body["event"] == "queue_changed" {
                    state = body.clone();
                }
                let late = body["event"] == "output" && ended.as_deref() == body["cell_id"].as_str();
                assert!(!late, "{}: output after the end: {body}", scenario["scenario"]);
                action = hear(&mut runs, body, now);
            }
            _ => {}
        }
        // The daemon answers the barrier with the queue as it is.
        while action == Action::Barrier {
            action = pass(&mut runs, &state, now, |_| None);
        }
        for event in runs.take_events() {
            if let Some(end) = end(&event) {
                ends.push(end);
                ended = Some(event.id);
            }
        }
    }
    assert!(runs.is_empty(), "{}: an execution never ended", scenario["scenario"]);
    ends
}

#[test]
fn sixty_recorded_failures_end_as_failures() {
    let scenario = load("v2/error-orderings.json");
    let connections = scenario["connections"].as_array().unwrap();
    let frames = connections.iter().max_by_key(|c| c["frames"].as_array().unwrap().len()).unwrap();
    let ends = replay(&scenario, frames["frames"].as_array().unwrap());
    assert_eq!(ends.len(), 60);
    assert!(ends.iter().all(|(end, count)| *end == RTD_DONE_ERROR && count.is_some()));
}

#[test]
fn cells_dropped_by_an_error_are_told_as_cancelled() {
    let scenario = load("v2/queue-stop-on-error.json");
    let connections = scenario["connections"].as_array().unwrap();
    let frames = connections.iter().max_by_key(|c| c["frames"].as_array().unwrap().len()).unwrap();
    let mut ends: Vec<rtd_done> =
        replay(&scenario, frames["frames"].as_array().unwrap()).into_iter().map(|(end, _)| end).collect();
    ends.sort_by_key(|end| *end as i32);
    assert_eq!(ends, [RTD_DONE_OK, RTD_DONE_OK, RTD_DONE_ERROR, RTD_DONE_CANCELLED, RTD_DONE_CANCELLED]);
}

#[test]
fn our_daemons_final_event_ends_exactly_its_execution() {
    let mut runs = Runs::new(EndRule::FinalEvent);
    for token in [1, 2] {
        runs.submit(token, "c", None, 0);
        queued(
            &mut runs,
            token,
            &json!({"result": "cell_queued", "cell_id": "c", "execution_id": format!("e{token}")}),
        );
    }
    hear(&mut runs, &json!({"event": "execution_done", "cell_id": "c"}), 0);
    assert_eq!(runs.len(), 2, "an event without an identifier belongs to nobody");
    let end = json!({"event": "execution_done", "cell_id": "c", "execution_id": "e2", "status": "cancelled",
        "reason": "dropped", "execution_count": 9});
    hear(&mut runs, &end, 0);
    assert_eq!(done(&runs.take_events()), Some((RTD_DONE_CANCELLED, Some(9), "dropped".into())));
    assert_eq!(runs.len(), 1);
    for (status, wanted) in [
        ("ok", RTD_DONE_OK),
        ("error", RTD_DONE_ERROR),
        ("interrupted", RTD_DONE_INTERRUPTED),
        ("kernel_died", RTD_DONE_KERNEL_DIED),
        ("launch_failed", RTD_DONE_LAUNCH_FAILED),
        ("a word of a later version", RTD_DONE_ERROR),
    ] {
        let mut runs = Runs::new(EndRule::FinalEvent);
        runs.submit(1, "c", None, 0);
        queued(&mut runs, 1, &json!({"result": "cell_queued", "cell_id": "c", "execution_id": "e"}));
        hear(
            &mut runs,
            &json!({"event": "execution_done", "cell_id": "c", "execution_id": "e", "status": status}),
            0,
        );
        assert_eq!(done(&runs.take_events()).unwrap().0, wanted);
    }
}

#[test]
fn a_run_joined_under_way_gets_the_outputs_that_were_there() {
    let mut runs = Runs::new(EndRule::FinalEvent);
    runs.submit(1, "c", None, 0);
    let action = queued(
        &mut runs,
        1,
        &json!({"result": "cell_queued", "cell_id": "c", "execution_id": "e", "joined": true}),
    );
    assert_eq!(action, Action::Replay { token: 1, cell_id: "c".into() });
    assert!(runs.replay(1, "c", vec!["a".into()]).is_empty());
    runs.outputs_changed(&[OutputChange::Inserted { cell_id: "c".into(), index: 1, element: "b".into() }]);
    let events = runs.take_events();
    let outputs = events.iter().filter(|event| event.kind == RTD_EV_OUTPUT);
    let elements: Vec<&[u8]> = outputs.map(|event| &event.payload[..]).collect();
    assert_eq!(elements, [b"a", b"b"]);
}

#[test]
fn the_start_is_told_before_the_outputs_that_came_with_it() {
    let output = OutputChange::Inserted { cell_id: "c".into(), index: 0, element: "x".into() };
    let started =
        json!({"event": "execution_started", "cell_id": "c", "execution_id": "e", "execution_count": 1});
    let end = json!({"event": "execution_done", "cell_id": "c", "execution_id": "e", "status": "ok"});
    let kinds =
        |events: Vec<Event>| -> Vec<rtd_event_kind> { events.iter().map(|event| event.kind).collect() };
    for (broadcasts, wanted) in [
        (vec![&started, &end], vec![RTD_EV_QUEUED, RTD_EV_STARTED, RTD_EV_OUTPUT, RTD_EV_DONE]),
        // A kernel that dies early never says that it started; its outputs are told all the same.
        (vec![&end], vec![RTD_EV_QUEUED, RTD_EV_OUTPUT, RTD_EV_DONE]),
    ] {
        let mut runs = Runs::new(EndRule::FinalEvent);
        runs.submit(1, "c", None, 0);
        queued(&mut runs, 1, &json!({"result": "cell_queued", "cell_id": "c", "execution_id": "e"}));
        runs.outputs_changed(std::slice::from_ref(&output));
        for broadcast in broadcasts {
            hear(&mut runs, broadcast, 0);
        }
        assert_eq!(kinds(runs.take_events()), wanted);
    }
    let mut runs = Runs::new(EndRule::FinalEvent);
    runs.submit(1, "c", None, 0);
    runs.outputs_changed(std::slice::from_ref(&output));
    assert!(runs.take_events().is_empty());
    runs.release_held();
    assert_eq!(
        kinds(runs.take_events()),
        [RTD_EV_OUTPUT],
        "a host that never tells the start delays nothing"
    );
}

#[test]
fn refusals_limits_and_lost_connections_end_runs() {
    let mut runs = Runs::new(EndRule::FinishRule);
    runs.submit(1, "c", None, 0);
    let missing = json!({"result": "error", "error": "Cell not found in document: c"});
    assert_eq!(
        queued(&mut runs, 1, &missing),
        Action::Retry { token: 1, cell_id: "c".into() },
        "sync once more"
    );
    assert_eq!(queued(&mut runs, 1, &missing), Action::Nothing);
    assert_eq!(done(&runs.take_events()).unwrap().2, "Cell not found in document: c");
    runs.submit(2, "c", Some(10), 0);
    assert_eq!(runs.deadline(), Some(10));
    runs.tick(9);
    assert_eq!(runs.len(), 1);
    runs.tick(10);
    assert_eq!(done(&runs.take_events()).unwrap().0, RTD_DONE_TIMED_OUT);
    runs.submit(3, "c", None, 0);
    runs.disconnected("gone");
    assert_eq!(done(&runs.take_events()).unwrap().0, RTD_DONE_DISCONNECTED);
    assert_eq!(runs.deadline(), None);
}

#[test]
fn silence_and_a_dead_barrier_are_noticed_with_the_reference_only() {
    let mut runs = Runs::new(EndRule::FinishRule);
    runs.submit(1, "c", None, 0);
    queued(&mut runs, 1, &json!({"result": "cell_queued", "cell_id": "c"}));
    let guard = runs.deadline().unwrap();
    assert_eq!(runs.tick(guard - 1), Action::Nothing);
    assert_eq!(runs.tick(guard), Action::Barrier);
    // Still running: nothing ends, the guard starts anew.
    assert_eq!(pass(&mut runs, &json!({"executing": "c", "queued": []}), guard, |_| None), Action::Nothing);
    assert_eq!(runs.len(), 1);
    let again = runs.deadline().unwrap();
    assert!(again > guard);
    assert_eq!(runs.tick(again), Action::Barrier);
    let limit = runs.deadline().unwrap();
    assert_eq!(runs.tick(limit), Action::GiveUp);
    let mut ours = Runs::new(EndRule::FinalEvent);
    ours.submit(1, "c", None, 0);
    assert_eq!(ours.deadline(), None);
}

#[test]
fn a_shut_down_or_broken_kernel_ends_runs_of_the_reference() {
    for (event, wanted) in [
        (json!({"event": "kernel_status", "status": "shutdown", "cell_id": null}), RTD_DONE_CANCELLED),
        (
            json!({"event": "kernel_status", "status": "error: no memory", "cell_id": null}),
            RTD_DONE_KERNEL_DIED,
        ),
        (json!({"event": "kernel_error", "error": "it broke"}), RTD_DONE_KERNEL_DIED),
    ] {
        let mut runs = Runs::new(EndRule::FinishRule);
        runs.submit(1, "c", None, 0);
        queued(&mut runs, 1, &json!({"result": "cell_queued", "cell_id": "c"}));
        assert_eq!(hear(&mut runs, &event, 0), Action::Barrier);
        pass(&mut runs, &json!({"executing": null, "queued": []}), 0, |_| None);
        assert_eq!(done(&runs.take_events()).unwrap().0, wanted);
    }
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

#[test]
fn a_request_the_daemon_ignored_is_sent_again() {
    let mut runs = Runs::new(EndRule::FinishRule);
    runs.submit(1, "c", None, 0);
    assert_eq!(queued(&mut runs, 1, &cell_queued()), Action::Nothing);
    // The end of an execution nobody here waits for: the daemon took the request for that one's.
    assert_eq!(hear(&mut runs, &status("idle", "c"), 1), Action::Barrier);
    let retry = Action::Retry { token: 1, cell_id: "c".into() };
    assert_eq!(pass(&mut runs, &queue_changed(None, &[]), 2, |_| None), retry);
    assert_eq!(queued(&mut runs, 1, &cell_queued()), Action::Nothing);
    for event in [queue_changed(Some("c"), &[]), status("idle", "c")] {
        assert_eq!(hear(&mut runs, &event, 3), Action::Nothing);
    }
    assert_eq!(hear(&mut runs, &json!({"event": "execution_done", "cell_id": "c"}), 3), Action::Barrier);
    assert_eq!(pass(&mut runs, &queue_changed(None, &[]), 4, |_| None), Action::Nothing);
    assert_eq!(done(&runs.take_events()).unwrap().0, RTD_DONE_OK);
}

#[test]
fn a_run_of_which_only_the_outputs_were_seen_is_over_and_not_repeated() {
    let mut runs = Runs::new(EndRule::FinishRule);
    runs.submit(1, "c", None, 0);
    assert_eq!(queued(&mut runs, 1, &cell_queued()), Action::Nothing);
    runs.outputs_changed(&[OutputChange::Inserted { cell_id: "c".into(), index: 0, element: "{}".into() }]);
    // Every broadcast was lost; the silence asks.
    let due = runs.deadline().unwrap();
    assert_eq!(runs.tick(due), Action::Barrier);
    assert_eq!(pass(&mut runs, &queue_changed(None, &[]), due + 1, |_| None), Action::Barrier);
    assert_eq!(pass(&mut runs, &queue_changed(None, &[]), due + 2, |_| None), Action::Nothing);
    assert_eq!(done(&runs.take_events()).unwrap().0, RTD_DONE_OK);
}

#[test]
fn a_cell_that_runs_already_is_joined() {
    let mut runs = Runs::new(EndRule::FinishRule);
    runs.submit(1, "c", None, 0);
    queued(&mut runs, 1, &cell_queued());
    hear(&mut runs, &queue_changed(Some("c"), &[]), 0);
    runs.submit(2, "c", None, 0);
    assert_eq!(queued(&mut runs, 2, &cell_queued()), Action::Replay { token: 2, cell_id: "c".into() });
    hear(&mut runs, &status("idle", "c"), 0);
    assert_eq!(hear(&mut runs, &json!({"event": "execution_done", "cell_id": "c"}), 0), Action::Barrier);
    pass(&mut runs, &queue_changed(None, &[]), 0, |_| None);
    let ends = runs.take_events();
    assert_eq!(ends.iter().filter(is_ok).count(), 2);
}

#[test]
fn a_deaf_connection_is_given_up() {
    let mut runs = Runs::new(EndRule::FinishRule);
    runs.submit(1, "c", None, 0);
    queued(&mut runs, 1, &cell_queued());
    let silence = runs.deadline().unwrap();
    assert_eq!(runs.tick(silence), Action::Barrier);
    // Broadcasts of others go on; only the answer counts.
    let limit = runs.deadline().unwrap();
    assert_eq!(hear(&mut runs, &status("busy", "other"), limit - 1), Action::Nothing);
    assert_eq!(runs.tick(limit), Action::GiveUp);
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

#[test]
fn a_refusal_without_a_text_is_told_by_its_name() {
    let mut runs = Runs::new(EndRule::FinalEvent);
    runs.submit(1, "c", None, 0);
    assert_eq!(queued(&mut runs, 1, &json!({"result": "no_kernel"})), Action::Nothing);
    assert_eq!(done(&runs.take_events()), Some((RTD_DONE_REFUSED, None, "no_kernel".into())));
}

#[test]
fn one_who_joins_shares_what_was_seen_before() {
    let mut runs = reference_run();
    hear(&mut runs, &json!({"event": "execution_started", "cell_id": "c", "execution_count": 4}), 0);
    hear(
        &mut runs,
        &json!({"event": "output", "cell_id": "c", "output_type": "error", "output_json": "{}"}),
        0,
    );
    hear(&mut runs, &status("idle", "c"), 0);
    runs.submit(2, "c", None, 0);
    assert_eq!(queued(&mut runs, 2, &cell_queued()), Action::Replay { token: 2, cell_id: "c".into() });
    assert_eq!(hear(&mut runs, &json!({"event": "execution_done", "cell_id": "c"}), 0), Action::Barrier);
    // What is over is not joined.
    runs.submit(3, "c", None, 0);
    assert_eq!(queued(&mut runs, 3, &cell_queued()), Action::Nothing);
    assert_eq!(pass(&mut runs, &queue_changed(None, &["c"]), 0, |_| None), Action::Nothing);
    let ends: Vec<_> = runs
        .take_events()
        .iter()
        .filter_map(|event| end(event).map(|(end, count)| (event.token, end, count)))
        .collect();
    assert_eq!(ends, [(1, RTD_DONE_ERROR, Some(4)), (2, RTD_DONE_ERROR, Some(4))]);
    assert_eq!(runs.len(), 1);
}

#[test]
fn outputs_that_were_held_for_a_start_are_not_told_twice_to_one_who_joins() {
    let mut runs = Runs::new(EndRule::FinalEvent);
    runs.submit(1, "c", None, 0);
    runs.outputs_changed(&[inserted(0, "a"), inserted(1, "b")]);
    let joined = json!({"result": "cell_queued", "cell_id": "c", "execution_id": "e", "joined": true});
    queued(&mut runs, 1, &joined);
    let held = runs.replay(1, "c", vec!["a".into(), "b".into()]);
    runs.release_held();
    let told: Vec<_> = runs.take_events();
    let outputs = told.iter().filter(|event| event.kind == RTD_EV_OUTPUT).count();
    assert_eq!(outputs, 2, "{told:?}");
    assert!(told.contains(&Event { number: 2, ..cleared() }));
    // Subscribers to the notebook get them for the first time.
    assert_eq!(
        held.iter().map(|event| (event.kind, event.number)).collect::<Vec<_>>(),
        [(RTD_EV_OUTPUT, 0), (RTD_EV_OUTPUT, 1)]
    );
    // What comes now is told to the first; a second that joins holds back what watchers have heard of him.
    runs.submit(2, "c", None, 0);
    runs.outputs_changed(&[inserted(2, "c"), OutputChange::Cleared { cell_id: "c".into() }]);
    let told = runs.take_events();
    assert_eq!((told[0].kind, told[0].token), (RTD_EV_OUTPUT, 1));
    assert_eq!(told[1], cleared());
    queued(&mut runs, 2, &joined);
    assert!(runs.replay(2, "c", vec![]).is_empty());
}

#[test]
fn an_end_without_a_count_keeps_that_of_the_start() {
    let mut runs = Runs::new(EndRule::FinalEvent);
    runs.submit(1, "c", None, 0);
    queued(&mut runs, 1, &json!({"result": "cell_queued", "cell_id": "c", "execution_id": "e"}));
    hear(
        &mut runs,
        &json!({"event": "execution_started", "cell_id": "c", "execution_id": "e", "execution_count": 3}),
        0,
    );
    hear(
        &mut runs,
        &json!({"event": "execution_done", "cell_id": "c", "execution_id": "e", "status": "ok"}),
        0,
    );
    assert_eq!(done(&runs.take_events()).unwrap().1, Some(3));
}

#[test]
fn silence_counts_from_the_last_word_of_anybody() {
    let mut runs = Runs::new(EndRule::FinishRule);
    runs.submit(1, "c", None, 100);
    let silence = runs.deadline().unwrap() - 100;
    queued(&mut runs, 1, &cell_queued());
    hear(&mut runs, &status("busy", "other"), 700);
    assert_eq!(runs.deadline(), Some(700 + silence));
    assert_eq!(runs.tick(700 + silence), Action::Barrier);
    pass(&mut runs, &queue_changed(Some("c"), &[]), 9_000, |_| None);
    assert_eq!(runs.deadline(), Some(9_000 + silence));
    // The own limit of a run counts if it comes first.
    runs.submit(2, "d", Some(9_500), 9_000);
    assert_eq!(runs.deadline(), Some(9_500));
}

#[test]
fn any_sign_of_life_stands_for_a_lost_word_of_the_queue() {
    for sign in [
        json!({"event": "output", "cell_id": "c", "output_type": "stream", "output_json": "{}"}),
        status("busy", "c"),
    ] {
        let mut runs = reference_run();
        for event in [sign, status("idle", "c")] {
            assert_eq!(hear(&mut runs, &event, 0), Action::Nothing);
        }
        assert_eq!(hear(&mut runs, &json!({"event": "execution_done", "cell_id": "c"}), 0), Action::Barrier);
        pass(&mut runs, &queue_changed(None, &[]), 0, |_| None);
        assert_eq!(done(&runs.take_events()).unwrap().0, RTD_DONE_OK);
    }
    // It ran, so that its absence from the queue is its end and no cancellation.
    let mut runs = reference_run();
    hear(&mut runs, &status("busy", "c"), 0);
    assert_eq!(hear(&mut runs, &queue_changed(None, &[]), 0), Action::Barrier);
    pass(&mut runs, &queue_changed(None, &[]), 0, |_| None);
    assert_eq!(done(&runs.take_events()).unwrap().0, RTD_DONE_OK);
}

#[test]
fn signs_of_other_cells_mean_nothing() {
    let mut runs = reference_run();
    let done = json!({"event": "execution_done", "cell_id": "other"});
    for event in [status("busy", "other"), status("idle", "other"), done.clone()] {
        assert_eq!(hear(&mut runs, &event, 0), Action::Nothing);
    }
    hear(&mut runs, &queue_changed(Some("c"), &[]), 0);
    let error = json!({"event": "output", "cell_id": "other", "output_type": "error", "output_json": "{}"});
    for event in [error, status("idle", "other"), done, queue_changed(Some("other"), &["c"])] {
        assert_eq!(hear(&mut runs, &event, 0), Action::Nothing);
    }
    hear(&mut runs, &status("idle", "c"), 0);
    hear(&mut runs, &json!({"event": "execution_done", "cell_id": "c"}), 0);
    pass(&mut runs, &queue_changed(None, &[]), 0, |_| None);
    assert_eq!(self::done(&runs.take_events()).unwrap().0, RTD_DONE_OK);
}

#[test]
fn outputs_that_were_cleared_are_no_sign_of_a_run() {
    let mut runs = reference_run();
    runs.outputs_changed(&[OutputChange::Cleared { cell_id: "c".into() }]);
    assert_eq!(hear(&mut runs, &status("idle", "c"), 1), Action::Barrier);
    let retry = Action::Retry { token: 1, cell_id: "c".into() };
    assert_eq!(pass(&mut runs, &queue_changed(None, &[]), 2, |_| None), retry);
    // Nor are those of the time before the daemon had accepted it.
    let mut runs = Runs::new(EndRule::FinishRule);
    runs.submit(1, "c", None, 0);
    runs.outputs_changed(&[inserted(0, "of the run before")]);
    queued(&mut runs, 1, &cell_queued());
    assert_eq!(hear(&mut runs, &status("idle", "c"), 1), Action::Barrier);
    assert_eq!(pass(&mut runs, &queue_changed(None, &[]), 2, |_| None), retry);
}

#[test]
fn a_run_that_was_not_accepted_yet_does_not_end_with_the_kernel() {
    let mut runs = Runs::new(EndRule::FinishRule);
    runs.submit(1, "c", None, 0);
    assert_eq!(hear(&mut runs, &status("shutdown", "c"), 0), Action::Nothing);
    assert_eq!(hear(&mut runs, &json!({"event": "kernel_error", "error": "it broke"}), 0), Action::Nothing);
    assert_eq!(runs.len(), 1);
}

#[test]
fn a_cell_that_still_counts_as_executing_is_over_when_the_queue_says_so() {
    let mut runs = reference_run();
    hear(&mut runs, &queue_changed(Some("c"), &[]), 0);
    hear(&mut runs, &status("idle", "c"), 0);
    assert_eq!(hear(&mut runs, &json!({"event": "execution_done", "cell_id": "c"}), 0), Action::Barrier);
    assert_eq!(pass(&mut runs, &queue_changed(Some("c"), &[]), 0, |_| None), Action::Nothing);
    assert_eq!(runs.len(), 1);
    assert_eq!(hear(&mut runs, &queue_changed(None, &[]), 0), Action::Barrier);
    // The document has the last word on how it went.
    let failed = |cell: &str| (cell == "c").then_some(RTD_DONE_ERROR);
    assert_eq!(pass(&mut runs, &queue_changed(None, &[]), 0, failed), Action::Nothing);
    assert_eq!(done(&runs.take_events()).unwrap().0, RTD_DONE_ERROR);
}

#[test]
fn what_stopped_a_run_is_told_whatever_its_outputs_say() {
    let mut runs = reference_run();
    hear(&mut runs, &queue_changed(Some("c"), &[]), 0);
    assert_eq!(hear(&mut runs, &status("error: no memory", "c"), 0), Action::Barrier);
    pass(&mut runs, &queue_changed(Some("c"), &[]), 0, |_| Some(RTD_DONE_ERROR));
    assert_eq!(done(&runs.take_events()), Some((RTD_DONE_KERNEL_DIED, None, "no memory".into())));
}

#[test]
fn of_requests_that_were_ignored_one_is_sent_again_at_a_time() {
    let mut runs = Runs::new(EndRule::FinishRule);
    for token in [1, 2] {
        runs.submit(token, "c", None, 0);
        queued(&mut runs, token, &cell_queued());
    }
    assert_eq!(hear(&mut runs, &status("idle", "c"), 1), Action::Barrier);
    let retry = Action::Retry { token: 1, cell_id: "c".into() };
    assert_eq!(pass(&mut runs, &queue_changed(None, &[]), 2, |_| None), retry);
    // The second is asked about when it is silent long enough, or joins the first.
    assert_eq!(queued(&mut runs, 1, &cell_queued()), Action::Nothing);
    hear(&mut runs, &queue_changed(Some("c"), &[]), 3);
    hear(&mut runs, &status("idle", "c"), 3);
    assert_eq!(hear(&mut runs, &json!({"event": "execution_done", "cell_id": "c"}), 3), Action::Barrier);
    pass(&mut runs, &queue_changed(None, &[]), 4, |_| None);
    let ends = runs.take_events();
    assert_eq!(ends.iter().filter(is_ok).count(), 2);
}

#[test]
fn outputs_are_told_to_every_run_of_their_cell_and_to_no_other() {
    let mut runs = Runs::new(EndRule::FinishRule);
    for (token, cell) in [(1, "c"), (2, "c"), (3, "d")] {
        runs.submit(token, cell, None, 0);
    }
    assert!(runs.watches("c") && runs.watches("d") && !runs.watches("e"));
    runs.outputs_changed(&[inserted(0, "a")]);
    let told = runs.take_events();
    assert!(told.iter().all(|event| event.kind == RTD_EV_OUTPUT), "{told:?}");
    let tokens: Vec<u64> = told.iter().map(|event| event.token).collect();
    assert_eq!(tokens, [1, 2]);
}
