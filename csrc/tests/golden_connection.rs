//! Recorded traffic played against our connection: the daemon's frames against our client, the
//! clients' frames against our server end. Both end in the recorded document.
//!
//! Each end sees only one direction as bytes; what the other side of the recording changed reaches
//! its document as the changes of one more peer.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use runtimed_ffi::code::rtd_channel::RTD_CHANNEL_NOTEBOOK;
use runtimed_ffi::code::rtd_event_kind::*;
use runtimed_ffi::connection::{Client, Event, Server, ServerEvent};
use runtimed_ffi::notebook::Notebook;
use runtimed_ffi::replica::PeerSync;
use runtimed_ffi::wire::frame;
use serde_json::{Map, Value};

fn golden() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/v2"))
}

fn load(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

struct Frame {
    time: f64,
    connection: usize,
    from_daemon: bool,
    kind: String,
    bytes: Vec<u8>,
    json: Value,
}

/// A notebook of a scenario: its connections' frames in the order the recorder saw them.
struct Notebooks(BTreeMap<String, Vec<Frame>>);

fn notebooks(scenario: &Value) -> Notebooks {
    let mut found: BTreeMap<String, Vec<Frame>> = BTreeMap::new();
    for (connection, recorded) in scenario["connections"].as_array().unwrap().iter().enumerate() {
        let frames = recorded["frames"].as_array().unwrap();
        let Some(id) = frames.first().and_then(|frame| frame["json"]["notebook_id"].as_str()) else {
            continue;
        };
        if frames[0]["kind"] != "handshake" {
            continue;
        }
        found.entry(id.into()).or_default().extend(frames.iter().map(|frame| Frame {
            time: frame["t"].as_f64().unwrap(),
            connection,
            from_daemon: frame["from"] == "daemon",
            kind: frame["kind"].as_str().unwrap().into(),
            bytes: hex::decode(frame["hex"].as_str().unwrap_or_default()).unwrap(),
            json: frame["json"].clone(),
        }));
    }
    for frames in found.values_mut() {
        frames.sort_by(|a, b| a.time.total_cmp(&b.time));
    }
    Notebooks(found)
}

fn scenarios() -> Vec<(String, Value)> {
    let mut all: Vec<(String, Value)> = fs::read_dir(golden())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .map(|path| (path.file_stem().unwrap().to_string_lossy().into_owned(), load(&path)))
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

fn is_v1(frames: &[Frame], connection: usize) -> bool {
    !frames.iter().any(|frame| frame.connection == connection && frame.kind == "capabilities")
}

/// The sync message of a recorded frame.
fn sync_body<'a>(frame: &'a Frame, frames: &[Frame]) -> &'a [u8] {
    if is_v1(frames, frame.connection) {
        &frame.bytes
    } else {
        &frame.bytes[1..]
    }
}

fn summary(notebook: &Notebook) -> Vec<(String, String, String, Vec<String>)> {
    let cells = notebook.cells();
    cells.into_iter().map(|cell| (cell.id, cell.cell_type, cell.source, cell.outputs)).collect()
}

fn expected_cells(expected: &Value) -> Vec<(String, String, String, Vec<String>)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    expected["cells"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cell| {
            let outputs = cell["output_hashes"].as_array().unwrap().iter().map(text).collect();
            (text(&cell["id"]), text(&cell["cell_type"]), text(&cell["source"]), outputs)
        })
        .collect()
}

/// Plays one recorded connection's daemon frames to our client; gives the replica.
fn play_client(id: &str, frames: &[Frame], connection: usize) -> (Client, Notebook, Vec<Event>) {
    let mut client = Client::new(id).unwrap();
    let mut notebook = Notebook::empty();
    let mut own = PeerSync::new();
    let mut events = Vec::new();
    for frame in frames.iter().filter(|frame| frame.connection == connection) {
        let now = frame.time as u64;
        match (frame.from_daemon, frame.kind.as_str()) {
            (_, "close" | "handshake") => {}
            (true, _) => {
                let bytes = frame::encode(&frame.bytes).unwrap();
                let (first, rest) = bytes.split_at(bytes.len() / 2);
                for part in [first, rest] {
                    client.push(part);
                    while let Some(event) = client.next(&mut notebook, now).unwrap() {
                        events.push(event);
                    }
                }
            }
            (false, "request") => {
                let body: Map<String, Value> = frame.json.as_object().unwrap().clone();
                client.request(body).unwrap();
            }
            // The recorded client's own edits: local changes, as far as our replica is concerned.
            (false, "sync") => {
                own.receive(&mut notebook, sync_body(frame, frames)).unwrap();
            }
            (false, other) => panic!("unexpected {other} from a client"),
        }
    }
    (client, notebook, events)
}

#[test]
fn our_client_ends_in_the_recorded_document() {
    let expected = load(&golden().join("files/expected.json"));
    let (mut connections, mut compared) = (0, 0);
    for (name, scenario) in scenarios() {
        for (id, frames) in notebooks(&scenario).0 {
            let mut numbers: Vec<usize> = frames.iter().map(|frame| frame.connection).collect();
            numbers.sort_unstable();
            numbers.dedup();
            for number in numbers {
                let (client, notebook, events) = play_client(&id, &frames, number);
                connections += 1;
                assert!(client.is_ready(), "{name}: {id} never became ready");
                assert!(!client.missing(&notebook), "{name}: {id} lacks announced changes");
                let recorded =
                    |kind: &str| frames.iter().filter(|f| f.connection == number && f.kind == kind).count();
                let broadcasts = events.iter().filter(|e| e.kind == RTD_EV_BROADCAST).count();
                let responses = events.iter().filter(|e| e.kind == RTD_EV_RESPONSE).count();
                assert_eq!((broadcasts, responses), (recorded("broadcast"), recorded("response")), "{name}");
                let notebooks = expected["notebooks"].as_array().unwrap();
                if let Some(wanted) = notebooks.iter().find(|notebook| notebook["notebook_id"] == id.as_str())
                {
                    // A client that left early holds an earlier state.
                    let heads: Vec<String> = notebook.heads().iter().map(ToString::to_string).collect();
                    if wanted["heads"] == serde_json::json!(heads) {
                        assert_eq!(summary(&notebook), expected_cells(wanted), "{name}: {id}");
                        compared += 1;
                    }
                }
            }
        }
    }
    assert_eq!(connections, 35, "every recorded notebook connection was played");
    assert!(compared >= 9, "only {compared} replicas reached a recorded document");
}

#[test]
fn our_server_end_ends_in_the_recorded_document() {
    let expected = load(&golden().join("files/expected.json"));
    let mut compared = 0;
    for (name, scenario) in scenarios() {
        for (id, frames) in notebooks(&scenario).0 {
            let mut notebook = Notebook::empty();
            let mut servers: BTreeMap<usize, (Server, PeerSync)> = BTreeMap::new();
            let mut requests = 0;
            for frame in &frames {
                let (server, daemon) = servers.entry(frame.connection).or_default();
                if frame.from_daemon {
                    if frame.kind == "sync" {
                        daemon.receive(&mut notebook, sync_body(frame, &frames)).unwrap();
                    }
                    continue;
                }
                if frame.kind == "close" {
                    server.eof().unwrap();
                    continue;
                }
                server.push(&frame::encode(&frame.bytes).unwrap());
                while let Some(event) = server.next(Some(&mut notebook)).unwrap() {
                    match event {
                        ServerEvent::Handshake(_) => server.join(&Map::new()).unwrap(),
                        ServerEvent::Request(request) => {
                            assert_eq!(request.channel, RTD_CHANNEL_NOTEBOOK, "{name}");
                            assert_eq!(serde_json::from_slice::<Value>(&request.body).unwrap(), frame.json);
                            assert_eq!(request.request_id, None);
                            requests += 1;
                        }
                        ServerEvent::Synced(_) => {}
                    }
                }
            }
            let recorded = frames.iter().filter(|f| !f.from_daemon && f.kind == "request").count();
            assert_eq!(requests, recorded, "{name}: {id}");
            let notebooks = expected["notebooks"].as_array().unwrap();
            if let Some(wanted) = notebooks.iter().find(|notebook| notebook["notebook_id"] == id.as_str()) {
                assert_eq!(summary(&notebook), expected_cells(wanted), "{name}: {id}");
                let heads: Vec<String> = notebook.heads().iter().map(ToString::to_string).collect();
                assert_eq!(serde_json::json!(heads), wanted["heads"], "{name}: {id}");
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 9, "every recorded document was reached");
}
