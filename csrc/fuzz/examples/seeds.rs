//! Writes the seeds of the corpus from the recordings and vectors of `tests/golden`, and the room that the targets
//! start from: `cargo run --example seeds DIRECTORY`. They and what the fuzzer finds beyond them are minimised and
//! packed into `corpus/` by `tools/corpus.py` (docs/fuzzing.md).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use runtimed_ffi::notebook::{Notebook, Op};
use runtimed_ffi::replica::PeerSync;
use runtimed_ffi::outputs::hash::sha256_hex;
use runtimed_ffi_fuzz::targets::manifest::BLOB;
use serde_json::Value;

/// Seeds above this many bytes teach the fuzzer nothing that smaller ones do not.
const MOST: usize = 2_048;

/// Between two steps of a script.
const THEN: [u8; 2] = [0xfe, 0xff];

struct Seeds(PathBuf);

impl Seeds {
    fn add(&self, target: &str, seed: &[u8]) {
        if seed.len() <= MOST {
            let directory = self.0.join(target);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join(&sha256_hex(seed)[..16]), seed).unwrap();
        }
    }
}

fn golden() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden"))
}

fn load(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap_or_default()).unwrap()
}

fn with(head: &[u8], rest: &[u8]) -> Vec<u8> {
    [head, rest].concat()
}

/// A script of these steps behind some first bytes.
fn script(head: &[u8], steps: &[Vec<u8>]) -> Vec<u8> {
    with(head, &steps.join(&THEN[..]))
}

fn main() {
    let seeds = Seeds(std::env::args_os().nth(1).expect("a directory for the seeds").into());
    let room = room();
    fs::write(seeds.0.join("room.automerge"), room.save()).unwrap();
    vectors(&seeds);
    recordings(&seeds);
    documents(&seeds, &room);
    scripts(&seeds);
}

/// Three cells: with stream pieces and an error, without outputs, and one that is no code.
fn room() -> Notebook {
    let mut room = Notebook::create("n").unwrap();
    let piece = r#"{"output_type":"stream","name":"stdout","text":"x\n"}"#.to_owned();
    let error = r#"{"output_type":"error","ename":"E","evalue":"v","traceback":[]}"#.to_owned();
    room.edit(&[
        Op::insert_cell("a", "code", "print('é🐍')\n", None),
        Op::insert_cell("b", "code", "1/0", None),
        Op::insert_cell("c", "markdown", "# c", None),
    ])
    .unwrap();
    let outputs = vec![piece.clone(), piece, error];
    room.edit(&[Op::AppendOutputs { cell_id: "a".into(), outputs }]).unwrap();
    room.edit(&[Op::SetExecutionCount { cell_id: "a".into(), execution_count: Some(1) }]).unwrap();
    room
}

fn vectors(seeds: &Seeds) {
    let all = load(&golden().join("vectors-v2.json"));
    for vector in all["vectors"].as_array().unwrap() {
        let text = |name: &str| vector[name].as_str().unwrap_or_default().as_bytes();
        for name in ["frame_hex", "stream_hex", "header_hex", "client_stream_hex", "daemon_stream_hex"] {
            let stream = bytes(&vector[name]);
            if !stream.is_empty() {
                let limits = if vector["reader"] == "control" { 9 } else { 0 };
                seeds.add("frame_decode", &with(&[limits, 3], &stream));
                seeds.add("conn_server", &script(&[5, 7], &[with(&[7], &stream)]));
                seeds.add("conn_client", &script(&[5], &[vec![13], with(&[6], &stream)]));
            }
        }
        match vector["kind"].as_str().unwrap() {
            "handshake" | "handshake_padded" => seeds.add("message", &with(&[0], text("payload_utf8"))),
            "first_frame" => seeds.add("message", &with(&[1], text("payload_utf8"))),
            "json_message" => seeds.add("message", &with(&[kind(vector)], text("payload_utf8"))),
            "manifest" => {
                seeds.add("manifest", &with(&[1], text("manifest_utf8")));
                seeds.add("manifest", &with(&[2], vector["nbformat_output"].to_string().as_bytes()));
            }
            "document" => seeds.add("doc_load", &with(&[4], &bytes(&vector["document_hex"]))),
            "sync_message" => seeds.add("doc_sync", &script(&[0], &[with(&[5], &bytes(&vector["message_hex"]))])),
            "event_sequence" => {
                let response = with(&[1, 0], vector["response"].to_string().as_bytes());
                let mut steps = vec![vec![0, 0, 0], response];
                for event in vector["broadcasts"].as_array().unwrap() {
                    let event = event.to_string().replace("cell-1", "a");
                    steps.push(with(&[2], event.as_bytes()));
                }
                steps.push(with(&[4], br#"{"result":"queue_state","executing":null,"queued":[]}"#));
                for strategy in [0, 1] {
                    seeds.add("event_stream", &script(&[strategy], &steps));
                }
            }
            _ => {}
        }
    }
    let reference = format!(
        r#"{{"output_type":"error","ename":"E","evalue":"v","traceback":{{"blob":"{}","size":10}}}}"#,
        sha256_hex(BLOB.as_bytes())
    );
    seeds.add("manifest", &with(&[1], reference.as_bytes()));
}

fn kind(vector: &Value) -> u8 {
    let channel = vector["channel"].as_str().unwrap();
    match (channel, vector["message"].as_str().unwrap()) {
        ("notebook_sync", "Request") => 2,
        ("notebook_sync", "Response") => 3,
        ("notebook_sync", _) => 4,
        ("pool", "Request") => 5,
        ("pool", _) => 6,
        ("blob", "Request") => 7,
        ("blob", _) => 8,
        _ => 9,
    }
}

/// Connections from their first frame on, as far as they fit; and single frames of every kind.
fn recordings(seeds: &Seeds) {
    let mut names: Vec<_> = fs::read_dir(golden().join("v2")).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|end| end == "json"));
    names.sort();
    let mut known = BTreeSet::new();
    for recording in names.iter().map(|path| load(path)) {
        for connection in recording["connections"].as_array().unwrap() {
            let frames = connection["frames"].as_array().unwrap();
            let typed = frames.iter().any(|frame| frame["kind"] == "capabilities");
            let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
            for frame in frames {
                let body = bytes(&frame["hex"]);
                let from_daemon = frame["from"] == "daemon";
                if body.is_empty() {
                    continue;
                }
                let mut stream = (body.len() as u32).to_be_bytes().to_vec();
                stream.extend(&body);
                let tag = frame["json"]["event"].as_str().or(frame["json"]["action"].as_str());
                let tag = tag.or(frame["json"]["result"].as_str()).map(str::to_owned);
                if tag.is_some_and(|tag| known.insert((from_daemon, tag))) {
                    seeds.add("frame_decode", &with(&[0, 1], &stream));
                    let kind = match frame["kind"].as_str().unwrap() {
                        "request" => 2,
                        "response" => 3,
                        _ => 4,
                    };
                    seeds.add("message", &with(&[kind], frame["json"].to_string().as_bytes()));
                }
                // A typed frame becomes the step that sends one of its type.
                let step = match (from_daemon, typed && body[0] < 4) {
                    (true, true) => with(&[[1, 5, 3, 4][usize::from(body[0])]], &body[1..]),
                    (false, true) => with(&[[1, 3, 5, 6][usize::from(body[0])]], &body[1..]),
                    (_, false) => with(&[0], &body),
                };
                let steps = if from_daemon { &mut to_client } else { &mut to_server };
                if steps.iter().map(|step: &Vec<u8>| step.len() + 2).sum::<usize>() + step.len() < 1_000 {
                    if from_daemon && body[0] == 2 && typed {
                        steps.push(vec![8]);
                    }
                    steps.push(step);
                }
            }
            seeds.add("conn_client", &script(&[2 + 4 * 3], &to_client));
            seeds.add("conn_server", &script(&[2 + 4 * 3, 7], &to_server));
        }
    }
}

fn documents(seeds: &Seeds, room: &Notebook) {
    for entry in fs::read_dir(golden().join("v2/files/notebook-docs")).unwrap() {
        seeds.add("doc_load", &with(&[4], &fs::read(entry.unwrap().path()).unwrap()));
    }
    seeds.add("doc_load", &with(&[2 | 1], &fs::read(golden().join("v2/files/settings.automerge")).unwrap()));
    seeds.add("doc_load", &with(&[1 | 16], &room.save()));
    // In pieces, undeflated: the fuzzer sees what it changes.
    seeds.add("doc_load", &with(&[1 | 4 | 8 | 16], &room.save_since(&[])));
    let fresh = Notebook::create("n").unwrap();
    let mut edited = Notebook::load(&fresh.save()).unwrap();
    edited.edit(&[Op::insert_cell("a", "code", "x", None)]).unwrap();
    let file = with(&fresh.save(), &edited.save_since(&fresh.heads()));
    seeds.add("doc_load", &with(&[1 | 8 | 16], &file));
    seeds.add("doc_load", &with(&[1 | 4 | 16], &fresh.save_since(&[])));

    // Messages between two replicas, as input that a fuzzer may change.
    let mut other = Notebook::load(&room.save()).unwrap();
    other.set_actor(&[9; 16]);
    for op in [
        Op::SetSource { cell_id: "a".into(), source: "z".into() },
        Op::ClearOutputs { cell_id: "a".into() },
        Op::DeleteCell { cell_id: "b".into() },
        Op::MoveCell { cell_id: "c".into(), index: 0 },
        Op::SetMetadata { key: "k".into(), value: "v".into() },
        Op::AppendOutputs { cell_id: "c".into(), outputs: vec!["{}".into()] },
    ] {
        let mut target = Notebook::load(&room.save()).unwrap();
        let (mut from, mut to) = (PeerSync::new(), PeerSync::new());
        to.receive(&mut target, &from.generate(&other).unwrap()).unwrap();
        from.receive(&mut other, &to.generate(&target).unwrap()).unwrap();
        other.edit(&[op]).unwrap();
        if let Some(message) = from.generate(&other) {
            for what in [5, 6] {
                seeds.add("doc_sync", &script(&[0], &[with(&[what], &message)]));
            }
            seeds.add("conn_client", &script(&[1], &[vec![13], vec![12], with(&[2], &message), vec![12]]));
            seeds.add("conn_server", &script(&[1, 0], &[vec![10], with(&[2], &message), vec![10]]));
        }
    }
}

fn scripts(seeds: &Seeds) {
    for begin in [0, 1u8] {
        let (a, b) = (0u8, 0x80u8);
        for edit in 0..12u8 {
            let steps = vec![
                vec![a, edit, 0, 1, 2, b'x', b'\n', b'y'],
                vec![b, edit + 1, 1, 0, 1, b'z'],
                vec![a | 1],
                vec![b | 1],
                vec![b | 3, 0],
                vec![a | 3, 0],
                vec![a | 1],
                vec![b | 3, 0x40],
                vec![b | 3, 0, 30, 1],
                vec![a | 2],
            ];
            seeds.add("doc_sync", &script(&[begin + 2 * (edit % 4)], &steps));
        }
    }
    for edit in 0..12u8 {
        let steps = vec![
            vec![13],
            vec![11, edit, 0, 1, 2, b'x'],
            vec![12],
            vec![12],
            vec![8],
            with(&[3], br#"{"result":"ok","request_id":1}"#),
            with(&[4], br#"{"event":"e"}"#),
            vec![7, edit, 1, 1, 1, b'y'],
            vec![9, 30],
            vec![10],
            vec![12],
        ];
        seeds.add("conn_client", &script(&[3], &steps));
        let steps = vec![
            vec![10],
            vec![10],
            vec![9, edit, 0, 1, 2, b'x'],
            vec![15, edit + 1, 1, 0, 1, b'y'],
            vec![4, 1],
            vec![4, 200],
            vec![4, 2, 1],
            vec![10],
            vec![12, 1],
            vec![11, 1],
            vec![8, edit, 0, 0, 1, b'z'],
            vec![12, 0],
            vec![11, 0],
            vec![13],
            vec![10],
        ];
        for hello in [0, 1, 2, 5] {
            seeds.add("conn_server", &script(&[3, hello], &steps));
        }
    }
    let blob = vec![with(&[0], br#"{"action":"store","media_type":"a/b"}"#), vec![0, 1, 2], with(&[0], br#"{"action":"get_port"}"#)];
    seeds.add("conn_server", &script(&[1, 4], &blob));
    seeds.add("conn_server", &script(&[1, 3], &[with(&[0], br#"{"type":"ping"}"#)]));
    seeds.add("conn_server", &script(&[1, 6], &[vec![14], vec![0, 1]]));
    for daemon in [0, 1] {
        let steps = vec![
            vec![0, 0, 0], vec![0, 0, 9], vec![1, 0, 4], vec![3, 0, 12, 0, 13], vec![2, 0, 0, 0, 4], vec![1, 0, 2],
            vec![3, 0, 2], vec![7], vec![2, 4, 0, 1], vec![2, 2, 0, 6, 4], vec![2, 1, 0, 1, 4], vec![4, 4, 3],
            vec![6, 60], vec![6, 200], vec![8],
        ];
        seeds.add("event_stream", &script(&[daemon], &steps));
    }
    for sizes in [&[0u8, 2, 5][..], &[6, 7], &[2, 0xc5]] {
        seeds.add("frame_decode", &with(&[0x80, 120], sizes));
    }
}
