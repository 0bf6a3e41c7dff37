//! Sessions and a host in one process, over a real socket.

mod support;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Instant;

use runtimed_ffi::code::rtd_event_kind::*;
use runtimed_ffi::drive::{DriveError, EventSource, Host, HostOptions, Session, SessionOptions, Waited};
use runtimed_ffi::notebook::Op;
use serde_json::json;
use support::{host_with_room, request, until, Place, Source, PATIENCE};

fn join(place: &Place, id: &str) -> Session {
    let session = Session::open(&place.socket(), id, SessionOptions::default()).unwrap();
    until(&session, RTD_EV_READY);
    session
}

fn synced(session: &Session) {
    session.sync(9_999, Some(20_000)).unwrap();
    let event = until(session, RTD_EV_SYNCED);
    assert_eq!((event.token, event.code), (9_999, 0), "{}", event.text);
}

#[test]
fn an_edit_reaches_the_other_session_that_does_nothing() {
    let place = Place::new();
    let (_host, one) = host_with_room(&place, "n");
    let two = join(&place, "n");
    for number in 0..25 {
        one.edit(&[Op::insert_cell(&format!("c{number}"), "code", "1", None)]).unwrap();
    }
    let deadline = Instant::now() + PATIENCE;
    while two.read(|notebook| Ok(notebook.cells())).unwrap().len() < 25 {
        assert!(Instant::now() < deadline);
        until(&two, RTD_EV_CHANGED);
    }
    let ids: Vec<String> =
        two.read(|notebook| Ok(notebook.cells())).unwrap().into_iter().map(|cell| cell.id).collect();
    assert_eq!(ids, (0..25).map(|number| format!("c{number}")).collect::<Vec<_>>());
}

#[test]
fn a_request_sees_the_edit_before_it_and_ends_once() {
    let place = Place::new();
    let (host, session) = host_with_room(&place, "n");
    session.edit(&[Op::insert_cell("c", "code", "x = 1", None)]).unwrap();
    session.execute(7, "c", Some(20_000)).unwrap();
    let (token, body) = request(&host);
    assert_eq!(body["action"], "execute_cell");
    assert_eq!(host.read("n", |notebook| Ok(notebook.source("c"))).unwrap().unwrap(), "x = 1");
    host.respond(token, &json!({"result": "cell_queued", "cell_id": "c", "execution_id": "e"})).unwrap();
    assert_eq!(until(&session, RTD_EV_QUEUED).token, 7);
    let output = json!({"output_type": "stream", "name": "stdout", "text": "hi\n"}).to_string();
    host.publish(
        "n",
        &[Op::AppendOutputs { cell_id: "c".into(), outputs: vec![output] }],
        &[
            json!({"event": "execution_started", "cell_id": "c", "execution_count": 3, "execution_id": "e"}),
            json!({"event": "execution_done", "cell_id": "c", "execution_id": "e", "status": "ok"}),
        ],
        0,
    )
    .unwrap();
    let mut kinds = Vec::new();
    loop {
        let Some(event) = session.next_event().unwrap() else {
            assert_ne!(session.wait(Some(PATIENCE)).unwrap(), Waited::TimedOut);
            continue;
        };
        if event.kind == RTD_EV_OUTPUT {
            assert_eq!((event.token, event.number, event.text.as_str()), (7, 0, "hi\n"));
        }
        kinds.push(event.kind);
        if event.kind == RTD_EV_DONE {
            assert_eq!((event.token, event.code, event.number), (7, 0, 3));
            break;
        }
    }
    let place_of = |kind| kinds.iter().position(|other| *other == kind);
    assert!(place_of(RTD_EV_OUTPUT) < place_of(RTD_EV_DONE));
    assert!(host.respond(token, &json!({"result": "ok"})).is_err(), "a request is answered once");
}

#[test]
fn a_thousand_outputs_arrive_in_order() {
    let place = Place::new();
    let (host, session) = host_with_room(&place, "n");
    session.edit(&[Op::insert_cell("c", "code", "x", None)]).unwrap();
    session.execute(1, "c", Some(20_000)).unwrap();
    let (token, _) = request(&host);
    host.respond(token, &json!({"result": "cell_queued", "cell_id": "c", "execution_id": "e"})).unwrap();
    for number in 0..1000 {
        let output = json!({"output_type": "display_data", "data": {"text/plain": number.to_string()}, "metadata": {}});
        let op = Op::AppendOutputs { cell_id: "c".into(), outputs: vec![output.to_string()] };
        host.publish("n", &[op], &[], 0).unwrap();
    }
    let done = json!({"event": "execution_done", "cell_id": "c", "execution_id": "e", "status": "ok"});
    host.publish("n", &[], &[done], 0).unwrap();
    for number in 0..1000 {
        let event = until(&session, RTD_EV_OUTPUT);
        assert_eq!((event.number, event.text), (number, number.to_string()));
    }
    until(&session, RTD_EV_DONE);
}

#[test]
fn responses_wait_for_their_order_only_without_identifiers() {
    let place = Place::new();
    let (host, session) = host_with_room(&place, "n");
    for token in [1, 2] {
        session.request(token, br#"{"action":"get_kernel_info"}"#, Some(20_000)).unwrap();
    }
    let (first, _) = request(&host);
    let (second, _) = request(&host);
    host.respond(second, &json!({"result": "ok"})).unwrap();
    assert_eq!(until(&session, RTD_EV_RESPONSE).token, 2);
    host.respond(first, &json!({"result": "ok"})).unwrap();
    assert_eq!(until(&session, RTD_EV_RESPONSE).token, 1);
}

#[test]
fn a_broadcast_caused_by_a_request_follows_its_response() {
    let place = Place::new();
    let (host, session) = host_with_room(&place, "n");
    let watcher = join(&place, "n");
    session.request(5, br#"{"action":"get_kernel_info"}"#, Some(20_000)).unwrap();
    let (token, _) = request(&host);
    host.publish(
        "n",
        &[],
        &[json!({"event": "kernel_status", "status": "starting", "cell_id": null})],
        token,
    )
    .unwrap();
    // The others see it at once.
    until(&watcher, RTD_EV_BROADCAST);
    host.respond(token, &json!({"result": "ok"})).unwrap();
    let mut order = Vec::new();
    while order.len() < 2 {
        match session.next_event().unwrap() {
            Some(event) if event.kind == RTD_EV_RESPONSE || event.kind == RTD_EV_BROADCAST => {
                order.push(event.kind);
            }
            Some(_) => {}
            None => assert_ne!(session.wait(Some(PATIENCE)).unwrap(), Waited::TimedOut),
        }
    }
    assert_eq!(order, [RTD_EV_RESPONSE, RTD_EV_BROADCAST]);
}

#[test]
fn every_waiter_ends_when_the_host_goes() {
    let place = Place::new();
    let (host, session) = host_with_room(&place, "n");
    session.edit(&[Op::insert_cell("c", "code", "x", None)]).unwrap();
    session.execute(1, "c", None).unwrap();
    session.request(2, br#"{"action":"get_queue_state"}"#, None).unwrap();
    until(&host, RTD_EV_REQUEST);
    host.close().unwrap();
    until(&host, RTD_EV_CLOSED);
    assert!(!place.socket().exists());
    let done = until(&session, RTD_EV_DONE);
    assert_eq!((done.token, done.code), (1, 7));
    assert_eq!(until(&session, RTD_EV_RESPONSE).token, 2);
    until(&session, RTD_EV_CLOSED);
    assert!(session.next_event().is_err());
    assert_eq!(session.wait(None).unwrap(), Waited::Closed);
    assert!(session.edit(&[Op::insert_cell("d", "code", "x", None)]).is_err());
    assert_eq!(session.read(|notebook| Ok(notebook.cells())).unwrap().len(), 1, "the replica stays readable");
}

#[test]
fn time_limits_end_requests_and_executions() {
    let place = Place::new();
    let (host, session) = host_with_room(&place, "n");
    session.edit(&[Op::insert_cell("c", "code", "x", None)]).unwrap();
    session.request(1, br#"{"action":"get_kernel_info"}"#, Some(0)).unwrap();
    session.execute(2, "c", Some(10)).unwrap();
    assert_eq!(until(&session, RTD_EV_RESPONSE).code, -9);
    assert_eq!(until(&session, RTD_EV_DONE).code, 6);
    // A late response has no request any more and does no harm.
    let (late, _) = request(&host);
    host.respond(late, &json!({"result": "ok"})).unwrap();
    session.request(3, br#"{"action":"get_kernel_info"}"#, Some(20_000)).unwrap();
    request(&host);
    let (token, _) = request(&host);
    host.respond(token, &json!({"result": "ok"})).unwrap();
    assert_eq!(until(&session, RTD_EV_RESPONSE).token, 3);
}

#[test]
fn a_journal_brings_the_room_back() {
    let place = Place::new();
    let journal = place.0.join("n.automerge");
    {
        let host = Host::open(&place.socket(), HostOptions::default()).unwrap();
        let session = Session::open(&place.socket(), "n", SessionOptions::default()).unwrap();
        until(&host, RTD_EV_ROOM_WANTED);
        host.open_room("n", Some(&journal)).unwrap();
        until(&session, RTD_EV_READY);
        for number in 0..10 {
            session.edit(&[Op::insert_cell(&format!("c{number}"), "code", "é🐍", None)]).unwrap();
        }
        synced(&session);
        // Whatever comes after an acknowledgement, the file has it: read it while the room is open.
        let bytes = std::fs::read(&journal).unwrap();
        assert_eq!(runtimed_ffi::notebook::Notebook::load(&bytes).unwrap().cells().len(), 10);
    }
    // A torn tail, as a crash leaves it.
    let mut bytes = std::fs::read(&journal).unwrap();
    bytes.extend_from_slice(&[0x85, 0x6f, 0x4a]);
    std::fs::write(&journal, &bytes).unwrap();
    let host = Host::open(&place.socket(), HostOptions::default()).unwrap();
    host.open_room("n", Some(&journal)).unwrap();
    assert_eq!(host.read("n", |notebook| Ok(notebook.cells())).unwrap().len(), 10);
    assert!(host.open_room("other", Some(&journal)).is_err(), "a journal belongs to one notebook");
    std::fs::write(&journal, b"garbage").unwrap();
    assert!(matches!(host.open_room("n2", Some(&journal)), Err(runtimed_ffi::drive::DriveError::Corrupt(_))));
    assert_eq!(std::fs::read(&journal).unwrap(), b"garbage", "what cannot be read is left alone");
}

#[test]
fn a_prepared_room_is_filled_before_its_first_peer_enters() {
    let place = Place::new();
    let host = Host::open(&place.socket(), HostOptions::default()).unwrap();
    let first = Session::open(&place.socket(), "n", SessionOptions::default()).unwrap();
    until(&host, RTD_EV_ROOM_WANTED);
    host.prepare_room("n", None).unwrap();
    assert!(host.prepare_room("n", None).is_err(), "once");
    assert!(host.open_room("n", None).is_err(), "it is there already");
    let mut copy = host.read("n", |notebook| Ok(notebook.fork())).unwrap();
    copy.edit(&[Op::insert_cell("a", "code", "of the file", None)]).unwrap();
    host.merge("n", &copy).unwrap();
    host.publish("n", &[Op::insert_cell("b", "code", "", None)], &[], 0).unwrap();
    let second = Session::open(&place.socket(), "n", SessionOptions::default()).unwrap();
    assert_eq!(host.rooms().unwrap(), json!([]), "it has no peers and takes none");
    host.admit("n").unwrap();
    assert!(host.admit("n").is_err(), "once");
    for session in [&first, &second] {
        until(session, RTD_EV_READY);
        assert_eq!(
            session.read(|notebook| Ok(notebook.cells())).unwrap().len(),
            2,
            "the first thing they see is whole"
        );
    }
    // A copy from before comes back into the open room, and its peers get it.
    copy.edit(&[Op::SetSource { cell_id: "a".into(), source: "of the file, changed".into() }]).unwrap();
    host.merge("n", &copy).unwrap();
    until(&first, RTD_EV_CHANGED);
    assert_eq!(first.read(|notebook| Ok(notebook.source("a"))).unwrap().unwrap(), "of the file, changed");
    // Closed before a peer entered.
    host.prepare_room("m", None).unwrap();
    host.close_room("m").unwrap();
    assert!(host.admit("m").is_err());
}

#[test]
fn a_second_host_does_not_take_a_live_socket_but_a_dead_one() {
    let place = Place::new();
    let first = Host::open(&place.socket(), HostOptions::default()).unwrap();
    assert!(Host::open(&place.socket(), HostOptions::default()).is_err());
    // The refused second host left the first one's socket in place.
    UnixStream::connect(place.socket()).unwrap();
    drop(first);
    drop(UnixListener::bind(place.socket()).unwrap());
    assert!(place.socket().exists());
    Host::open(&place.socket(), HostOptions::default()).unwrap();
}

#[test]
fn a_room_is_evicted_only_without_peers() {
    let place = Place::new();
    let (host, session) = host_with_room(&place, "n");
    assert!(matches!(host.evict_room("n"), Err(DriveError::Again(_))));
    session.edit(&[Op::insert_cell("c", "code", "x", None)]).unwrap();
    until(&host, RTD_EV_ROOM_CHANGED);
    session.close().unwrap();
    until(&host, RTD_EV_PEER_LEFT);
    host.evict_room("n").unwrap();
    assert!(matches!(host.evict_room("n"), Err(DriveError::NotFound(_))));
    assert!(matches!(host.read("n", |notebook| Ok(notebook.cells())), Err(DriveError::NotFound(_))));
    let _again = Session::open(&place.socket(), "n", SessionOptions::default()).unwrap();
    assert_eq!(until(&host, RTD_EV_ROOM_WANTED).id, "n");
}

#[test]
fn garbage_disturbs_only_its_own_connection() {
    let place = Place::new();
    let (host, session) = host_with_room(&place, "n");
    for bytes in [&b"\xff\xff\xff\xff"[..], b"\0\0\0\x02{}", b"\0\0\0\x05hello", b"GET / HTTP/1.0\r\n\r\n"] {
        let mut peer = UnixStream::connect(place.socket()).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        peer.write_all(bytes).unwrap();
        let end = peer.read(&mut [0; 16]);
        assert!(
            end.as_ref().is_ok_and(|count| *count == 0)
                || end.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset)
        );
    }
    session.request(1, br#"{"action":"get_kernel_info"}"#, Some(20_000)).unwrap();
    let (token, _) = request(&host);
    host.respond(token, &json!({"result": "ok"})).unwrap();
    until(&session, RTD_EV_RESPONSE);
}

/// A wakeup callback may not call the library, but it may block on a lock that another thread holds while it
/// does: so the library must hold none itself. Reading the room in the callback shows it.
#[test]
fn wakeup_callbacks_run_without_locks_of_the_library() {
    let place = Place::new();
    let (host, session) = host_with_room(&place, "n");
    let host = std::sync::Arc::new(host);
    while host.take().is_some() {}
    let asked = std::sync::Arc::downgrade(&host);
    let (report, reports) = std::sync::mpsc::channel();
    let at_host = report.clone();
    let ask = move || {
        let host = asked.upgrade();
        at_host
            .send(host.is_some_and(|host| host.read("n", |notebook| Ok(notebook.cells())).is_ok()))
            .unwrap();
    };
    host.set_wakeup(Some(Box::new(ask))).unwrap();
    let other = join(&place, "n");
    assert_eq!(reports.recv_timeout(PATIENCE), Ok(true), "a peer joined");
    while host.take().is_some() {}
    drop(other);
    assert_eq!(reports.recv_timeout(PATIENCE), Ok(true), "a peer left");

    let session = std::sync::Arc::new(session);
    while session.take().is_some() {}
    let asked = std::sync::Arc::downgrade(&session);
    let ask = move || {
        let session = asked.upgrade();
        report
            .send(session.is_some_and(|session| session.read(|notebook| Ok(notebook.cells())).is_ok()))
            .unwrap();
    };
    session.set_wakeup(Some(Box::new(ask))).unwrap();
    host.publish("n", &[Op::insert_cell("c", "code", "", None)], &[], 0).unwrap();
    assert_eq!(reports.recv_timeout(PATIENCE), Ok(true), "the document changed");
    session.set_wakeup(None).unwrap();
    host.set_wakeup(None).unwrap();
}

#[test]
fn what_comes_together_with_the_handshake_is_not_forgotten() {
    let place = Place::new();
    let framed =
        |payload: &[u8]| [&u32::try_from(payload.len()).unwrap().to_be_bytes()[..], payload].concat();
    let host = Host::open(&place.socket(), HostOptions::default()).unwrap();
    for open_first in [false, true] {
        let id = format!("n{open_first}");
        let _session = open_first.then(|| {
            let session = Session::open(&place.socket(), &id, SessionOptions::default()).unwrap();
            until(&host, RTD_EV_ROOM_WANTED);
            host.open_room(&id, None).unwrap();
            session
        });
        let hello = json!({"channel": "notebook_sync", "notebook_id": id, "protocol": "v2"}).to_string();
        let request_frame = framed(b"\x01{\"action\":\"get_kernel_info\"}");
        let mut peer = UnixStream::connect(place.socket()).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        peer.write_all(&[framed(hello.as_bytes()), request_frame, framed(b"\x07")].concat()).unwrap();
        if !open_first {
            until(&host, RTD_EV_ROOM_WANTED);
            host.open_room(&id, None).unwrap();
        }
        assert_eq!(request(&host).1["action"], "get_kernel_info");
        // The last frame is of no known type and ends the connection.
        let mut rest = Vec::new();
        assert!(peer.read_to_end(&mut rest).is_ok_and(|count| count > 0) || rest.starts_with(b"\0\0"));
    }
}

#[test]
fn a_refused_room_and_a_missing_daemon_end_a_session() {
    let place = Place::new();
    let missing = Session::open(&place.socket(), "n", SessionOptions::default()).err().unwrap();
    assert_eq!(missing.to_string(), "No such file or directory (os error 2)");
    let host = Host::open(&place.socket(), HostOptions::default()).unwrap();
    let session = Session::open(&place.socket(), "n", SessionOptions::default()).unwrap();
    assert!(
        session.read(|notebook| Ok(notebook.cells())).is_err(),
        "nothing to read before the first synchronisation"
    );
    until(&host, RTD_EV_ROOM_WANTED);
    host.refuse_room("n").unwrap();
    assert_eq!(until(&session, RTD_EV_CLOSED).code, -2);
    let slow = Session::open(
        &place.socket(),
        "n",
        SessionOptions { connect_timeout: Some(1), ..Default::default() },
    );
    assert_eq!(until(&slow.unwrap(), RTD_EV_CLOSED).text, "Connection timeout");
}

#[test]
fn a_peer_that_does_not_read_is_dropped_and_delays_no_other() {
    let place = Place::new();
    let host =
        Host::open(&place.socket(), HostOptions { peer_limit: 1 << 20, ..HostOptions::default() }).unwrap();
    host.open_room("n", None).unwrap();
    let session = join(&place, "n");
    let mut deaf = UnixStream::connect(place.socket()).unwrap();
    let hello = br#"{"channel":"notebook_sync","notebook_id":"n","protocol":"v2"}"#;
    deaf.write_all(&(hello.len() as u32).to_be_bytes()).unwrap();
    deaf.write_all(hello).unwrap();
    let peer = loop {
        let event = until(&host, RTD_EV_PEER_JOINED);
        if event.number == 2 {
            break event.peer;
        }
    };
    let big = json!({"event": "kernel_error", "error": "x".repeat(100_000)});
    for _ in 0..40 {
        host.publish("n", &[], std::slice::from_ref(&big), 0).unwrap();
        until(&session, RTD_EV_BROADCAST);
    }
    let left = until(&host, RTD_EV_PEER_LEFT);
    assert_eq!((left.peer, left.code), (peer, -6));
}

#[test]
fn the_descriptor_is_readable_exactly_while_something_waits() {
    let place = Place::new();
    let (host, session) = host_with_room(&place, "n");
    let readable = |fd: i32| {
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        unsafe { libc::poll(&mut poll, 1, 0) == 1 }
    };
    while session.next_event().unwrap().is_some() {}
    assert!(!readable(session.fd()));
    host.publish("n", &[], &[json!({"event": "kernel_status", "status": "idle", "cell_id": null})], 0)
        .unwrap();
    assert_eq!(session.wait(Some(PATIENCE)).unwrap(), Waited::Event);
    assert!(readable(session.fd()));
    until(&session, RTD_EV_BROADCAST);
    assert!(!readable(session.fd()));
    session.wake().unwrap();
    assert_eq!(session.wait(Some(PATIENCE)).unwrap(), Waited::Woken);
    session.close().unwrap();
    assert!(readable(session.fd()));
    until(&session, RTD_EV_CLOSED);
    assert!(readable(session.fd()), "the end stays visible");
}
