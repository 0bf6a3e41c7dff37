//! The recorded traffic (`tests/golden/v2/*.json`, described by the README there): every frame is read
//! as what its `kind` says and written back.

use std::collections::BTreeMap;

use runtimed_ffi::wire::frame::{self, Decoder};
use runtimed_ffi::wire::handshake::{first_frame, FirstFrame, Handshake, Protocol};
use runtimed_ffi::wire::message::Body;
use runtimed_ffi::wire::typed::split;
use runtimed_ffi::wire::v2::{
    BlobRequest, BlobResponse, Broadcast, PoolRequest, PoolResponse, PoolState, Request, Response,
};
use runtimed_ffi::wire::{FrameType, Message, MessageError, DATA_LIMIT};
use serde_json::Value;

/// How many frames of each kind the files hold.
const FRAMES: [(&str, usize); 7] = [
    ("blob_bytes", 3),
    ("broadcast", 2193),
    ("capabilities", 34),
    ("handshake", 60),
    ("request", 300),
    ("response", 297),
    ("sync", 2510),
];

/// Requests that the daemon answered by closing the connection.
const REFUSED: usize = 2;

/// The recorded files by name.
fn scenarios() -> Vec<(String, Value)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/v2");
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            let file = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
            (name, file)
        })
        .collect()
}

/// The connections of a scenario. Some were accepted and closed without a frame by a daemon about to
/// stop; they have no channel.
fn connections(file: &Value) -> impl Iterator<Item = &Value> {
    let connections = file["connections"].as_array().unwrap().iter();
    connections.filter(|connection| connection["channel"].is_string())
}

/// Reads and writes one message.
fn again<T: Body>(json: &[u8]) -> Result<Vec<u8>, MessageError> {
    Message::<T>::parse(json).map(|message| message.to_json())
}

/// Reads and writes one payload as what it is on its channel.
fn rewrite(channel: &str, typed: bool, kind: &str, whole: &[u8]) -> Result<Vec<u8>, MessageError> {
    match (channel, kind) {
        (_, "handshake") => Handshake::parse(whole).map(|handshake| handshake.to_json()),
        (_, "capabilities") => match first_frame(whole) {
            FirstFrame::V2(capabilities) => Ok(capabilities.to_json()),
            FirstFrame::V1 => panic!("capabilities taken for a sync message"),
        },
        ("pool", "request") => again::<PoolRequest>(whole),
        ("pool", "response") => again::<PoolResponse>(whole),
        ("blob", "request") => again::<BlobRequest>(whole),
        ("blob", "response") => again::<BlobResponse>(whole),
        ("blob", "blob_bytes") => Ok(whole.to_vec()),
        ("pool_state_subscribe", "broadcast") => again::<PoolState>(whole),
        ("notebook_sync", _) if typed => {
            let (frame_type, inner) = split(whole).unwrap();
            let inner = match (frame_type, kind) {
                (FrameType::Sync, "sync") => inner.to_vec(),
                (FrameType::Request, "request") => again::<Request>(inner)?,
                (FrameType::Response, "response") => again::<Response>(inner)?,
                (FrameType::Broadcast, "broadcast") => again::<Broadcast>(inner)?,
                other => panic!("frame of type {other:?}"),
            };
            Ok(frame::encode_typed(frame_type, &inner).unwrap()[4..].to_vec())
        }
        (_, "sync") => {
            // A raw sync message is not mistaken for a version 2 daemon.
            assert_eq!(first_frame(whole), FirstFrame::V1);
            Ok(whole.to_vec())
        }
        other => panic!("unexpected frame {other:?}"),
    }
}

#[test]
fn every_frame_is_read_and_written_back() {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut refused = 0;
    for (name, file) in scenarios() {
        for connection in connections(&file) {
            let channel = connection["channel"].as_str().unwrap();
            let typed = connection["mode"] == "v2";
            for frame in connection["frames"].as_array().unwrap() {
                let kind = frame["kind"].as_str().unwrap();
                if kind == "close" {
                    continue;
                }
                *counts.entry(kind.to_owned()).or_default() += 1;
                let whole = hex::decode(frame["hex"].as_str().unwrap()).unwrap();
                match rewrite(channel, typed, kind, &whole) {
                    Ok(written) => assert_eq!(
                        String::from_utf8_lossy(&written),
                        String::from_utf8_lossy(&whole),
                        "{name} at {}",
                        frame["t"]
                    ),
                    Err(error) => {
                        assert_eq!(frame["from"], "client", "{name}: {error}");
                        refused += 1;
                    }
                }
            }
        }
    }
    let expected = FRAMES.map(|(kind, count)| (kind.to_owned(), count));
    assert_eq!(counts, BTreeMap::from(expected));
    assert_eq!(refused, REFUSED);
}

#[test]
fn handshakes_choose_the_mode_that_was_recorded() {
    for (name, file) in scenarios() {
        for connection in connections(&file) {
            let hex = connection["frames"][0]["hex"].as_str().unwrap();
            let handshake = Handshake::parse(&hex::decode(hex).unwrap()).unwrap();
            let protocol = match connection["mode"].as_str().unwrap() {
                "v2" => Protocol::V2,
                _ => Protocol::V1,
            };
            assert_eq!(handshake.channel.protocol(), protocol, "{name}");
        }
    }
}

#[test]
fn a_direction_of_a_connection_is_a_stream_of_its_frames() {
    for (name, file) in scenarios() {
        for connection in connections(&file) {
            for from in ["client", "daemon"] {
                let payloads: Vec<Vec<u8>> = connection["frames"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter(|frame| frame["from"] == from && frame["kind"] != "close")
                    .map(|frame| hex::decode(frame["hex"].as_str().unwrap()).unwrap())
                    .collect();
                let mut stream = Vec::new();
                for payload in &payloads {
                    frame::append(&mut stream, None, payload).unwrap();
                }
                for size in [1, 13, 4096] {
                    let mut decoder = Decoder::new(DATA_LIMIT);
                    let mut found = Vec::new();
                    for piece in stream.chunks(size) {
                        decoder.push(piece);
                        while let Some(frame) = decoder.next_frame().unwrap() {
                            found.push(frame);
                        }
                    }
                    assert_eq!(decoder.finish(), Ok(()));
                    assert!(found == payloads, "{name}: pieces of {size}");
                }
            }
        }
    }
}
