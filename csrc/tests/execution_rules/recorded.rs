//! What the vectors and the recordings of protocol 2 say about the end of an execution.

use super::*;

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
            if receive(&mut runs, broadcast, 0) == Action::Barrier {
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
                action = receive(&mut runs, body, now);
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
fn cells_dropped_by_an_error_are_cancelled() {
    let scenario = load("v2/queue-stop-on-error.json");
    let connections = scenario["connections"].as_array().unwrap();
    let frames = connections.iter().max_by_key(|c| c["frames"].as_array().unwrap().len()).unwrap();
    let mut ends: Vec<rtd_done> =
        replay(&scenario, frames["frames"].as_array().unwrap()).into_iter().map(|(end, _)| end).collect();
    ends.sort_by_key(|end| *end as i32);
    assert_eq!(ends, [RTD_DONE_OK, RTD_DONE_OK, RTD_DONE_ERROR, RTD_DONE_CANCELLED, RTD_DONE_CANCELLED]);
}
