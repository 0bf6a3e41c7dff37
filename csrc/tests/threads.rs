//! Many threads on the same sessions and the same host: nothing deadlocks, and whatever was asked for ends
//! exactly once.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{mpsc, Arc};
use std::thread;
use std::time::Duration;

use runtimed_ffi::code::rtd_event_kind::*;
use runtimed_ffi::drive::{DriveError, EventSource, Host, HostOptions, Session, SessionOptions, Waited};
use runtimed_ffi::notebook::Op;
use serde_json::{json, Value};

const SESSIONS: usize = 3;
const EDITORS: usize = 3;
const ROUNDS: usize = 60;
/// A deadlock shows as a test that is not over by then.
const PATIENCE: Duration = Duration::from_secs(90);

struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

/// Runs `work` elsewhere and fails, instead of hanging, when it does not end.
fn within_patience(work: impl FnOnce() + Send + 'static) {
    let (done, over) = mpsc::channel();
    let worker = thread::spawn(move || {
        work();
        done.send(()).unwrap();
    });
    if over.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
        panic!("still not over after {PATIENCE:?}: a deadlock?");
    }
    worker.join().unwrap();
}

/// Answers every request, runs every cell, until the host is closed.
fn serve(host: &Host) {
    let mut count = 0;
    loop {
        let event = match host.next_event() {
            Ok(Some(event)) => event,
            Ok(None) => {
                host.wait(Some(PATIENCE)).unwrap();
                continue;
            }
            Err(DriveError::Closed(_)) => return,
            Err(error) => panic!("{error}"),
        };
        match event.kind {
            RTD_EV_ROOM_WANTED => {
                // Another thread may have opened or closed it in between.
                let _raced = host.open_room(&event.id, None);
            }
            RTD_EV_REQUEST => {
                let body: Value = serde_json::from_slice(&event.payload).unwrap();
                let cell = body["cell_id"].as_str().unwrap_or_default();
                count += 1;
                let run = format!("run-{count}");
                let response = json!({"result": "cell_queued", "cell_id": cell, "execution_id": run});
                // The peer may have gone at any moment.
                let _gone = host.respond(event.token, &response);
                if body["action"] == "execute_cell" {
                    let output = json!({"output_type": "stream", "name": "stdout", "text": "x"}).to_string();
                    let append = Op::AppendOutputs { cell_id: cell.into(), outputs: vec![output] };
                    let done = json!({"event": "execution_done", "cell_id": cell, "execution_id": run, "status": "ok"});
                    let _gone = host.publish(&event.id, &[append.if_present()], &[done], event.token);
                }
            }
            _ => {}
        }
    }
}

/// Takes events until the end and counts the terminal ones by token.
fn consume(session: &Session, ready: &AtomicBool) -> HashMap<u64, usize> {
    let mut ends = HashMap::new();
    loop {
        let event = match session.next_event() {
            Ok(Some(event)) => event,
            Ok(None) => {
                let waited = session.wait(Some(PATIENCE)).unwrap();
                assert_ne!(waited, Waited::TimedOut);
                continue;
            }
            Err(DriveError::Closed(_)) => return ends,
            Err(error) => panic!("{error}"),
        };
        match event.kind {
            RTD_EV_READY => ready.store(true, Ordering::SeqCst),
            RTD_EV_RESPONSE | RTD_EV_DONE | RTD_EV_SYNCED => {
                *ends.entry(event.token).or_default() += 1;
            }
            _ => {}
        }
    }
}

/// Uses one session in every way; returns the tokens of what was accepted.
fn use_session(session: &Session, tokens: &AtomicU64, me: usize) -> Vec<u64> {
    let mut accepted = Vec::new();
    // Several sessions share a room: an id of one's own each.
    let cell = format!("cell-{}", uuid::Uuid::new_v4());
    let insert = Op::insert_cell(&cell, "code", "0", None);
    match session.edit(&[insert]) {
        Ok(()) | Err(DriveError::Closed(_)) => {}
        Err(error) => panic!("{error}"),
    }
    for round in 0..ROUNDS {
        let token = tokens.fetch_add(1, Ordering::SeqCst);
        let timeout = if round % 7 == 0 { Some(1) } else { None };
        let done = match round % 6 {
            0 | 3 => session.execute(token, &cell, timeout),
            1 => session.request(token, br#"{"action":"get_kernel_info"}"#, timeout),
            2 => session.sync(token, timeout),
            4 => {
                session.wake().unwrap();
                session.watch(round % 4 == 0).unwrap();
                session.info().unwrap();
                session.set_wakeup(Some(Box::new(|| ()))).unwrap();
                let _maybe_closed = session.read(|notebook| Ok(notebook.cells())).unwrap();
                continue;
            }
            _ => {
                let source = format!("{me} in round {round}");
                let edit = Op::SetSource { cell_id: cell.clone(), source };
                match session.edit(&[edit.if_present()]) {
                    Ok(()) => continue,
                    Err(error) => Err(error),
                }
            }
        };
        match done {
            Ok(()) => accepted.push(token),
            Err(DriveError::Closed(_) | DriveError::Again(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    accepted
}

/// How a session ends while threads use it.
#[derive(Clone, Copy)]
enum End {
    /// By itself, when all is done.
    Quietly,
    /// Closed in the middle.
    Closed,
    /// Disconnected by the host in the middle.
    Disconnected,
}

fn storm(host: &Arc<Host>, socket: &std::path::Path, room: &str, end: End) {
    let session = Arc::new(Session::open(socket, room, SessionOptions::default()).unwrap());
    let ready = Arc::new(AtomicBool::new(false));
    let consumer = {
        let (session, ready) = (Arc::clone(&session), Arc::clone(&ready));
        thread::spawn(move || consume(&session, &ready))
    };
    while !ready.load(Ordering::SeqCst) {
        thread::yield_now();
    }
    let tokens = Arc::new(AtomicU64::new(1));
    let busy = Arc::new(AtomicUsize::new(EDITORS));
    let users: Vec<_> = (0..EDITORS)
        .map(|me| {
            let (session, tokens, busy) = (Arc::clone(&session), Arc::clone(&tokens), Arc::clone(&busy));
            thread::spawn(move || {
                let accepted = use_session(&session, &tokens, me);
                busy.fetch_sub(1, Ordering::SeqCst);
                accepted
            })
        })
        .collect();
    let middle = (EDITORS * ROUNDS / 2) as u64;
    while tokens.load(Ordering::SeqCst) < middle && busy.load(Ordering::SeqCst) > 0 {
        thread::yield_now();
    }
    match end {
        End::Quietly => {}
        End::Closed => session.close().unwrap(),
        End::Disconnected => {
            host.close_room(room).unwrap();
        }
    }
    let accepted: Vec<u64> = users.into_iter().flat_map(|user| user.join().unwrap()).collect();
    if matches!(end, End::Quietly) {
        // Everything asked for so far comes to its end by itself; the barrier is the last of them.
        session.sync(u64::MAX, None).unwrap();
    }
    session.close().unwrap();
    let ends = consumer.join().unwrap();
    let expected: HashSet<u64> = accepted.iter().copied().collect();
    assert_eq!(expected.len(), accepted.len());
    for token in &expected {
        assert_eq!(ends.get(token), Some(&1), "token {token} did not end exactly once");
    }
    for token in ends.keys() {
        assert!(expected.contains(token) || *token == u64::MAX, "there was no request with token {token}");
    }
}

#[test]
fn sessions_and_a_host_used_from_many_threads() {
    within_patience(|| {
        let place = Place(std::env::temp_dir().join(format!("rtd-{}", uuid::Uuid::new_v4().simple())));
        std::fs::create_dir(&place.0).unwrap();
        let socket = place.0.join("s");
        let host = Arc::new(Host::open(&socket, HostOptions::default()).unwrap());
        let server = {
            let host = Arc::clone(&host);
            thread::spawn(move || serve(&host))
        };
        let over = Arc::new(AtomicBool::new(false));
        // Reads and wakes the host all the while.
        let watcher = {
            let (host, over) = (Arc::clone(&host), Arc::clone(&over));
            thread::spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    for room in host.rooms().unwrap().as_array().unwrap() {
                        // It may be closed by now.
                        let _closed =
                            host.read(room["notebook_id"].as_str().unwrap(), |notebook| Ok(notebook.cells()));
                    }
                    host.wake().unwrap();
                    host.set_wakeup(Some(Box::new(|| ()))).unwrap();
                    thread::yield_now();
                }
            })
        };
        let storms: Vec<_> = (0..SESSIONS)
            .flat_map(|number| [End::Quietly, End::Closed, End::Disconnected].map(|end| (number, end)))
            .map(|(number, end)| {
                let (host, socket) = (Arc::clone(&host), socket.clone());
                // Those that the host disconnects have a room each; the others share one.
                let room = match end {
                    End::Disconnected => format!("own-{number}"),
                    End::Quietly | End::Closed => "shared".into(),
                };
                thread::spawn(move || storm(&host, &socket, &room, end))
            })
            .collect();
        for storm in storms {
            storm.join().unwrap();
        }
        over.store(true, Ordering::SeqCst);
        watcher.join().unwrap();
        host.close().unwrap();
        server.join().unwrap();
    });
}

/// The I/O thread starts with the first and ends with the last; the ends race with new beginnings.
#[test]
fn opening_and_freeing_at_the_same_time() {
    within_patience(|| {
        let place = Place(std::env::temp_dir().join(format!("rtd-{}", uuid::Uuid::new_v4().simple())));
        std::fs::create_dir(&place.0).unwrap();
        let threads: Vec<_> = (0..4)
            .map(|number| {
                let socket = place.0.join(number.to_string());
                thread::spawn(move || {
                    for _ in 0..40 {
                        let host = Host::open(&socket, HostOptions::default()).unwrap();
                        host.open_room("n", None).unwrap();
                        let session = Session::open(&socket, "n", SessionOptions::default()).unwrap();
                        loop {
                            match session.next_event().unwrap() {
                                Some(event) if event.kind == RTD_EV_READY => break,
                                Some(_) => {}
                                None => assert_eq!(session.wait(Some(PATIENCE)).unwrap(), Waited::Event),
                            }
                        }
                        drop(host);
                        drop(session);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
    });
}
