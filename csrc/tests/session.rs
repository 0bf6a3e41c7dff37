//! The bound of what a session has under way, deadlines, and the state of its connection.

use std::thread;
use std::time::Duration;

use runtimed_ffi::code::rtd_code::RTD_E_TIMEOUT;
use runtimed_ffi::code::rtd_done::RTD_DONE_TIMED_OUT;
use runtimed_ffi::code::rtd_event_kind::*;
use runtimed_ffi::drive::{DriveError, Session};
use runtimed_ffi::notebook::Op;
use serde_json::{json, Value};

mod support;

use support::{host_with_room, request, until, Place};

const LIMIT: u64 = 1024;

fn is_full(result: Result<(), DriveError>) -> bool {
    matches!(result, Err(DriveError::Again(text)) if text == "1024 requests are under way")
}

fn info(session: &Session, member: &str) -> Value {
    session.info().unwrap()[member].clone()
}

#[test]
fn a_session_has_a_thousand_and_twenty_four_executions_under_way() {
    let place = Place::new();
    let (host, session) = host_with_room(&place, "n");
    session.edit(&[Op::insert_cell("c", "code", "1", None)]).unwrap();
    for token in 1..=LIMIT {
        session.execute(token, "c", None).unwrap();
    }
    assert!(is_full(session.execute(0, "c", None)), "none is accepted yet");
    for token in 1..=LIMIT {
        let (answer, _) = request(&host);
        let id = token.to_string();
        host.respond(answer, &json!({"result": "cell_queued", "cell_id": "c", "execution_id": id})).unwrap();
        assert_eq!(until(&session, RTD_EV_QUEUED).token, token);
    }
    assert!(is_full(session.execute(0, "c", None)), "all are accepted");
    assert!(is_full(session.sync(0, None)));
    let done = json!({"event": "execution_done", "cell_id": "c", "execution_id": "5", "status": "ok"});
    host.publish("n", &[], &[done], 0).unwrap();
    assert_eq!(until(&session, RTD_EV_DONE).token, 5);
    session.execute(2000, "c", None).unwrap();
    assert!(is_full(session.execute(0, "c", None)));
}

#[test]
fn a_request_or_a_sync_counts_once_until_the_daemon_has_answered_it() {
    let place = Place::new();
    let (host, session) = host_with_room(&place, "n");
    let question = br#"{"action":"get_kernel_info"}"#;
    session.execute(1, "c", Some(1)).unwrap();
    for token in 2..LIMIT {
        session.request(token, question, Some(1)).unwrap();
    }
    session.request(LIMIT, question, None).unwrap();
    // All but the last end by time, and their answers are still to come.
    until(&session, RTD_EV_DONE);
    assert!(is_full(session.request(0, question, None)));
    for _ in 0..LIMIT {
        let (answer, _) = request(&host);
        host.respond(answer, &json!({"result": "no_kernel"})).unwrap();
    }
    while until(&session, RTD_EV_RESPONSE).token != LIMIT {}
    for token in 1..=LIMIT {
        session.sync(token, None).unwrap();
    }
    for token in 1..=LIMIT {
        assert_eq!(until(&session, RTD_EV_SYNCED).token, token);
    }
}

#[test]
fn a_session_with_our_daemon_gets_stream_text_in_pieces() {
    let place = Place::new();
    let (_host, session) = host_with_room(&place, "n");
    assert_eq!((info(&session, "stream_pieces"), info(&session, "protocol")), (json!(true), json!("v2")));
    assert_eq!((info(&session, "executing"), info(&session, "queued")), (Value::Null, json!([])));
}

#[test]
fn a_deadline_that_has_passed_comes_before_the_answer() {
    let place = Place::new();
    let (host, session) = host_with_room(&place, "n");
    session.edit(&[Op::insert_cell("c", "code", "1", None)]).unwrap();
    let limit = Duration::from_millis(200);
    session.execute(1, "c", Some(limit.as_millis() as u64)).unwrap();
    let (execution, _) = request(&host);
    session.request(2, br#"{"action":"get_kernel_info"}"#, Some(limit.as_millis() as u64)).unwrap();
    let (question, _) = request(&host);
    session
        .read(|_| {
            // The answers arrive in time, but the I/O thread waits for this reader until the limit is over.
            let queued = json!({"result": "cell_queued", "cell_id": "c", "execution_id": "e"});
            host.respond(execution, &queued).unwrap();
            host.respond(question, &json!({"result": "no_kernel"})).unwrap();
            let done =
                json!({"event": "execution_done", "cell_id": "c", "execution_id": "e", "status": "ok"});
            host.publish("n", &[], &[done], 0).unwrap();
            thread::sleep(limit);
            Ok(())
        })
        .unwrap();
    assert_eq!(until(&session, RTD_EV_RESPONSE).code, RTD_E_TIMEOUT as i32);
    assert_eq!(until(&session, RTD_EV_DONE).code, RTD_DONE_TIMED_OUT as i32);
}

#[test]
fn a_session_keeps_the_queue_that_the_daemon_reports() {
    let place = Place::new();
    let (host, session) = host_with_room(&place, "n");
    session.request(1, br#"{"action":"get_queue_state"}"#, None).unwrap();
    let (answer, _) = request(&host);
    host.respond(answer, &json!({"result": "queue_state", "executing": "a", "queued": ["b"]})).unwrap();
    until(&session, RTD_EV_RESPONSE);
    assert_eq!((info(&session, "executing"), info(&session, "queued")), (json!("a"), json!(["b"])));
    let moved = json!({"event": "queue_changed", "executing": "b", "queued": []});
    host.publish("n", &[], &[moved], 0).unwrap();
    until(&session, RTD_EV_BROADCAST);
    assert_eq!((info(&session, "executing"), info(&session, "queued")), (json!("b"), json!([])));
}
