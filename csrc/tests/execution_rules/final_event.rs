//! The final event of our daemon, joins, refusals and time limits.

use super::*;

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
    receive(&mut runs, &json!({"event": "execution_done", "cell_id": "c"}), 0);
    assert_eq!(runs.len(), 2, "an event without an identifier belongs to no run");
    let end = json!({"event": "execution_done", "cell_id": "c", "execution_id": "e2", "status": "cancelled",
        "reason": "dropped", "execution_count": 9});
    receive(&mut runs, &end, 0);
    assert_eq!(done(&runs.take_events()), Some((RTD_DONE_CANCELLED, Some(9), "dropped".into())));
    assert_eq!(runs.len(), 1);
    for (status, wanted) in [
        ("ok", RTD_DONE_OK),
        ("error", RTD_DONE_ERROR),
        ("interrupted", RTD_DONE_INTERRUPTED),
        ("kernel_died", RTD_DONE_KERNEL_DIED),
        ("launch_failed", RTD_DONE_LAUNCH_FAILED),
        ("a status of a later version", RTD_DONE_ERROR),
    ] {
        let mut runs = Runs::new(EndRule::FinalEvent);
        runs.submit(1, "c", None, 0);
        queued(&mut runs, 1, &json!({"result": "cell_queued", "cell_id": "c", "execution_id": "e"}));
        receive(
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
fn the_start_comes_before_its_outputs() {
    let output = OutputChange::Inserted { cell_id: "c".into(), index: 0, element: "x".into() };
    let started =
        json!({"event": "execution_started", "cell_id": "c", "execution_id": "e", "execution_count": 1});
    let end = json!({"event": "execution_done", "cell_id": "c", "execution_id": "e", "status": "ok"});
    let kinds =
        |events: Vec<Event>| -> Vec<rtd_event_kind> { events.iter().map(|event| event.kind).collect() };
    for (broadcasts, wanted) in [
        (vec![&started, &end], vec![RTD_EV_QUEUED, RTD_EV_STARTED, RTD_EV_OUTPUT, RTD_EV_DONE]),
        // The daemon sends no start for a kernel that dies early; its outputs are reported all the same.
        (vec![&end], vec![RTD_EV_QUEUED, RTD_EV_OUTPUT, RTD_EV_DONE]),
    ] {
        let mut runs = Runs::new(EndRule::FinalEvent);
        runs.submit(1, "c", None, 0);
        queued(&mut runs, 1, &json!({"result": "cell_queued", "cell_id": "c", "execution_id": "e"}));
        runs.outputs_changed(std::slice::from_ref(&output));
        for broadcast in broadcasts {
            receive(&mut runs, broadcast, 0);
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
        "a host that never reports the start delays nothing"
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
