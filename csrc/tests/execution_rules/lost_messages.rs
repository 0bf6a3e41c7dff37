//! Silence, dead barriers and lost messages of the reference daemon.

use super::*;

#[test]
fn silence_and_a_dead_barrier_are_noticed_with_the_reference_only() {
    let mut runs = Runs::new(EndRule::FinishRule);
    runs.submit(1, "c", None, 0);
    queued(&mut runs, 1, &json!({"result": "cell_queued", "cell_id": "c"}));
    let guard = runs.deadline().unwrap();
    assert_eq!(runs.tick(guard - 1), Action::Nothing);
    assert_eq!(runs.tick(guard), Action::Barrier);
    // Still running: nothing ends, the time limit starts again.
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
        assert_eq!(receive(&mut runs, &event, 0), Action::Barrier);
        pass(&mut runs, &json!({"executing": null, "queued": []}), 0, |_| None);
        assert_eq!(done(&runs.take_events()).unwrap().0, wanted);
    }
}

#[test]
fn a_request_the_daemon_ignored_is_sent_again() {
    let mut runs = Runs::new(EndRule::FinishRule);
    runs.submit(1, "c", None, 0);
    assert_eq!(queued(&mut runs, 1, &cell_queued()), Action::Nothing);
    // The end of an execution of another client: the daemon took the request for that one's.
    assert_eq!(receive(&mut runs, &status("idle", "c"), 1), Action::Barrier);
    let retry = Action::Retry { token: 1, cell_id: "c".into() };
    assert_eq!(pass(&mut runs, &queue_changed(None, &[]), 2, |_| None), retry);
    assert_eq!(queued(&mut runs, 1, &cell_queued()), Action::Nothing);
    for event in [queue_changed(Some("c"), &[]), status("idle", "c")] {
        assert_eq!(receive(&mut runs, &event, 3), Action::Nothing);
    }
    assert_eq!(receive(&mut runs, &json!({"event": "execution_done", "cell_id": "c"}), 3), Action::Barrier);
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
    receive(&mut runs, &queue_changed(Some("c"), &[]), 0);
    runs.submit(2, "c", None, 0);
    assert_eq!(queued(&mut runs, 2, &cell_queued()), Action::Replay { token: 2, cell_id: "c".into() });
    receive(&mut runs, &status("idle", "c"), 0);
    assert_eq!(receive(&mut runs, &json!({"event": "execution_done", "cell_id": "c"}), 0), Action::Barrier);
    pass(&mut runs, &queue_changed(None, &[]), 0, |_| None);
    let ends = runs.take_events();
    assert_eq!(ends.iter().filter(is_ok).count(), 2);
}

#[test]
fn a_connection_without_answers_is_given_up() {
    let mut runs = Runs::new(EndRule::FinishRule);
    runs.submit(1, "c", None, 0);
    queued(&mut runs, 1, &cell_queued());
    let silence = runs.deadline().unwrap();
    assert_eq!(runs.tick(silence), Action::Barrier);
    // Broadcasts of others go on; only the answer counts.
    let limit = runs.deadline().unwrap();
    assert_eq!(receive(&mut runs, &status("busy", "other"), limit - 1), Action::Nothing);
    assert_eq!(runs.tick(limit), Action::GiveUp);
}
