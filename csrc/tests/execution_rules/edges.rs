//! Several executions of a cell, and the edges of the rules.

use super::*;

#[test]
fn a_refusal_without_a_text_is_named() {
    let mut runs = Runs::new(EndRule::FinalEvent);
    runs.submit(1, "c", None, 0);
    assert_eq!(queued(&mut runs, 1, &json!({"result": "no_kernel"})), Action::Nothing);
    assert_eq!(done(&runs.take_events()), Some((RTD_DONE_REFUSED, None, "no_kernel".into())));
}

#[test]
fn a_joined_run_shares_what_was_seen_before() {
    let mut runs = reference_run();
    receive(&mut runs, &json!({"event": "execution_started", "cell_id": "c", "execution_count": 4}), 0);
    receive(
        &mut runs,
        &json!({"event": "output", "cell_id": "c", "output_type": "error", "output_json": "{}"}),
        0,
    );
    receive(&mut runs, &status("idle", "c"), 0);
    runs.submit(2, "c", None, 0);
    assert_eq!(queued(&mut runs, 2, &cell_queued()), Action::Replay { token: 2, cell_id: "c".into() });
    assert_eq!(receive(&mut runs, &json!({"event": "execution_done", "cell_id": "c"}), 0), Action::Barrier);
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
fn held_outputs_are_not_repeated_to_a_joined_run() {
    let mut runs = Runs::new(EndRule::FinalEvent);
    runs.submit(1, "c", None, 0);
    runs.outputs_changed(&[inserted(0, "a"), inserted(1, "b")]);
    let joined = json!({"result": "cell_queued", "cell_id": "c", "execution_id": "e", "joined": true});
    queued(&mut runs, 1, &joined);
    let held = runs.replay(1, "c", vec!["a".into(), "b".into()]);
    runs.release_held();
    let events: Vec<_> = runs.take_events();
    let outputs = events.iter().filter(|event| event.kind == RTD_EV_OUTPUT).count();
    assert_eq!(outputs, 2, "{events:?}");
    assert!(events.contains(&Event { number: 2, ..cleared() }));
    // Subscribers to the notebook get them for the first time.
    assert_eq!(
        held.iter().map(|event| (event.kind, event.number)).collect::<Vec<_>>(),
        [(RTD_EV_OUTPUT, 0), (RTD_EV_OUTPUT, 1)]
    );
    // The first run gets these outputs; a second run that joins does not repeat them to subscribers.
    runs.submit(2, "c", None, 0);
    runs.outputs_changed(&[inserted(2, "c"), OutputChange::Cleared { cell_id: "c".into() }]);
    let events = runs.take_events();
    assert_eq!((events[0].kind, events[0].token), (RTD_EV_OUTPUT, 1));
    assert_eq!(events[1], cleared());
    queued(&mut runs, 2, &joined);
    assert!(runs.replay(2, "c", vec![]).is_empty());
}

#[test]
fn an_end_without_a_count_keeps_that_of_the_start() {
    let mut runs = Runs::new(EndRule::FinalEvent);
    runs.submit(1, "c", None, 0);
    queued(&mut runs, 1, &json!({"result": "cell_queued", "cell_id": "c", "execution_id": "e"}));
    receive(
        &mut runs,
        &json!({"event": "execution_started", "cell_id": "c", "execution_id": "e", "execution_count": 3}),
        0,
    );
    receive(
        &mut runs,
        &json!({"event": "execution_done", "cell_id": "c", "execution_id": "e", "status": "ok"}),
        0,
    );
    assert_eq!(done(&runs.take_events()).unwrap().1, Some(3));
}

#[test]
fn silence_counts_from_the_last_message() {
    let mut runs = Runs::new(EndRule::FinishRule);
    runs.submit(1, "c", None, 100);
    let silence = runs.deadline().unwrap() - 100;
    queued(&mut runs, 1, &cell_queued());
    receive(&mut runs, &status("busy", "other"), 700);
    assert_eq!(runs.deadline(), Some(700 + silence));
    assert_eq!(runs.tick(700 + silence), Action::Barrier);
    pass(&mut runs, &queue_changed(Some("c"), &[]), 9_000, |_| None);
    assert_eq!(runs.deadline(), Some(9_000 + silence));
    // The own limit of a run counts if it comes first.
    runs.submit(2, "d", Some(9_500), 9_000);
    assert_eq!(runs.deadline(), Some(9_500));
}

#[test]
fn any_sign_of_life_replaces_a_lost_queue_message() {
    for sign in [
        json!({"event": "output", "cell_id": "c", "output_type": "stream", "output_json": "{}"}),
        status("busy", "c"),
    ] {
        let mut runs = reference_run();
        for event in [sign, status("idle", "c")] {
            assert_eq!(receive(&mut runs, &event, 0), Action::Nothing);
        }
        assert_eq!(
            receive(&mut runs, &json!({"event": "execution_done", "cell_id": "c"}), 0),
            Action::Barrier
        );
        pass(&mut runs, &queue_changed(None, &[]), 0, |_| None);
        assert_eq!(done(&runs.take_events()).unwrap().0, RTD_DONE_OK);
    }
    // It ran, so that its absence from the queue is its end and no cancellation.
    let mut runs = reference_run();
    receive(&mut runs, &status("busy", "c"), 0);
    assert_eq!(receive(&mut runs, &queue_changed(None, &[]), 0), Action::Barrier);
    pass(&mut runs, &queue_changed(None, &[]), 0, |_| None);
    assert_eq!(done(&runs.take_events()).unwrap().0, RTD_DONE_OK);
}

#[test]
fn a_cell_that_ran_is_not_cancelled_by_a_queue_that_shows_it_waiting_again() {
    let mut runs = reference_run();
    for state in [queue_changed(Some("c"), &[]), queue_changed(None, &["c"])] {
        assert_eq!(receive(&mut runs, &state, 0), Action::Nothing);
    }
    assert_eq!(receive(&mut runs, &queue_changed(None, &[]), 0), Action::Barrier);
    pass(&mut runs, &queue_changed(None, &[]), 0, |_| None);
    assert_eq!(done(&runs.take_events()).unwrap().0, RTD_DONE_OK);
}

#[test]
fn a_broadcast_of_a_later_version_ends_the_silence() {
    let mut runs = reference_run();
    let silence = runs.deadline().unwrap();
    runs.received(700);
    assert_eq!(runs.deadline(), Some(700 + silence));
}

#[test]
fn signs_of_other_cells_mean_nothing() {
    let mut runs = reference_run();
    let done = json!({"event": "execution_done", "cell_id": "other"});
    for event in [status("busy", "other"), status("idle", "other"), done.clone()] {
        assert_eq!(receive(&mut runs, &event, 0), Action::Nothing);
    }
    receive(&mut runs, &queue_changed(Some("c"), &[]), 0);
    let error = json!({"event": "output", "cell_id": "other", "output_type": "error", "output_json": "{}"});
    for event in [error, status("idle", "other"), done, queue_changed(Some("other"), &["c"])] {
        assert_eq!(receive(&mut runs, &event, 0), Action::Nothing);
    }
    receive(&mut runs, &status("idle", "c"), 0);
    receive(&mut runs, &json!({"event": "execution_done", "cell_id": "c"}), 0);
    pass(&mut runs, &queue_changed(None, &[]), 0, |_| None);
    assert_eq!(self::done(&runs.take_events()).unwrap().0, RTD_DONE_OK);
}

#[test]
fn outputs_that_were_cleared_are_no_sign_of_a_run() {
    let mut runs = reference_run();
    runs.outputs_changed(&[OutputChange::Cleared { cell_id: "c".into() }]);
    assert_eq!(receive(&mut runs, &status("idle", "c"), 1), Action::Barrier);
    let retry = Action::Retry { token: 1, cell_id: "c".into() };
    assert_eq!(pass(&mut runs, &queue_changed(None, &[]), 2, |_| None), retry);
    // Nor are those of the time before the daemon had accepted it.
    let mut runs = Runs::new(EndRule::FinishRule);
    runs.submit(1, "c", None, 0);
    runs.outputs_changed(&[inserted(0, "of the run before")]);
    queued(&mut runs, 1, &cell_queued());
    assert_eq!(receive(&mut runs, &status("idle", "c"), 1), Action::Barrier);
    assert_eq!(pass(&mut runs, &queue_changed(None, &[]), 2, |_| None), retry);
}

#[test]
fn a_run_that_was_not_accepted_yet_does_not_end_with_the_kernel() {
    let mut runs = Runs::new(EndRule::FinishRule);
    runs.submit(1, "c", None, 0);
    assert_eq!(receive(&mut runs, &status("shutdown", "c"), 0), Action::Nothing);
    assert_eq!(
        receive(&mut runs, &json!({"event": "kernel_error", "error": "it broke"}), 0),
        Action::Nothing
    );
    assert_eq!(runs.len(), 1);
}

#[test]
fn a_cell_that_still_counts_as_executing_is_over_when_the_queue_says_so() {
    let mut runs = reference_run();
    receive(&mut runs, &queue_changed(Some("c"), &[]), 0);
    receive(&mut runs, &status("idle", "c"), 0);
    assert_eq!(receive(&mut runs, &json!({"event": "execution_done", "cell_id": "c"}), 0), Action::Barrier);
    assert_eq!(pass(&mut runs, &queue_changed(Some("c"), &[]), 0, |_| None), Action::Nothing);
    assert_eq!(runs.len(), 1);
    assert_eq!(receive(&mut runs, &queue_changed(None, &[]), 0), Action::Barrier);
    // The document has the last word on how it went.
    let failed = |cell: &str| (cell == "c").then_some(RTD_DONE_ERROR);
    assert_eq!(pass(&mut runs, &queue_changed(None, &[]), 0, failed), Action::Nothing);
    assert_eq!(done(&runs.take_events()).unwrap().0, RTD_DONE_ERROR);
}

#[test]
fn the_reason_of_an_end_outweighs_its_outputs() {
    let mut runs = reference_run();
    receive(&mut runs, &queue_changed(Some("c"), &[]), 0);
    assert_eq!(receive(&mut runs, &status("error: no memory", "c"), 0), Action::Barrier);
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
    assert_eq!(receive(&mut runs, &status("idle", "c"), 1), Action::Barrier);
    let retry = Action::Retry { token: 1, cell_id: "c".into() };
    assert_eq!(pass(&mut runs, &queue_changed(None, &[]), 2, |_| None), retry);
    // The second is asked about when it is silent long enough, or joins the first.
    assert_eq!(queued(&mut runs, 1, &cell_queued()), Action::Nothing);
    receive(&mut runs, &queue_changed(Some("c"), &[]), 3);
    receive(&mut runs, &status("idle", "c"), 3);
    assert_eq!(receive(&mut runs, &json!({"event": "execution_done", "cell_id": "c"}), 3), Action::Barrier);
    pass(&mut runs, &queue_changed(None, &[]), 4, |_| None);
    let ends = runs.take_events();
    assert_eq!(ends.iter().filter(is_ok).count(), 2);
}

#[test]
fn outputs_reach_every_run_of_their_cell_and_no_other() {
    let mut runs = Runs::new(EndRule::FinishRule);
    for (token, cell) in [(1, "c"), (2, "c"), (3, "d")] {
        runs.submit(token, cell, None, 0);
    }
    assert!(runs.watches("c") && runs.watches("d") && !runs.watches("e"));
    runs.outputs_changed(&[inserted(0, "a")]);
    let events = runs.take_events();
    assert!(events.iter().all(|event| event.kind == RTD_EV_OUTPUT), "{events:?}");
    let tokens: Vec<u64> = events.iter().map(|event| event.token).collect();
    assert_eq!(tokens, [1, 2]);
}
