//! The golden vectors of the wire (`tests/golden/vectors-v2.json`, protocol 2, section 15): frames,
//! handshakes, messages and conversations. The vectors of documents and outputs have their own tests.

use std::collections::BTreeMap;
use std::fmt::Debug;

use runtimed_ffi::wire::frame::{self, Decoder};
use runtimed_ffi::wire::handshake::{first_frame, Capabilities, FirstFrame, Handshake, Protocol};
use runtimed_ffi::wire::message::Body;
use runtimed_ffi::wire::typed::split;
use runtimed_ffi::wire::v2::{
    BlobRequest, BlobResponse, Broadcast, PoolRequest, PoolResponse, PoolState, Request, Response,
};
use runtimed_ffi::wire::{FrameError, FrameType, Message, MessageError, CONTROL_LIMIT, DATA_LIMIT};
use serde_json::{json, Value};

/// The kinds tested here and how many vectors the file holds of each.
const WIRE_KINDS: [(&str, usize); 10] = [
    ("frame", 5),
    ("stream", 8),
    ("declared_length", 10),
    ("typed_frame", 10),
    ("handshake", 31),
    ("handshake_padded", 2),
    ("first_frame", 5),
    ("json_message", 87),
    ("conversation", 4),
    ("event_sequence", 7),
];

/// The kinds of the storeys above the wire.
const OTHER_KINDS: [&str; 6] =
    ["sync_message", "sync_conversation", "document", "manifest", "content_ref", "derived"];

fn vectors() -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/vectors-v2.json");
    let file: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let vectors = file["vectors"].as_array().unwrap().clone();
    assert_eq!(file["count"], vectors.len());
    vectors
}

/// Runs `check` on every vector of a kind; a vector that was lost on the way is a failure.
fn each(kind: &str, check: impl Fn(&str, &Value)) {
    let expected = WIRE_KINDS.iter().find(|(name, _)| *name == kind).unwrap().1;
    let mut run = 0;
    for vector in vectors().iter().filter(|vector| vector["kind"] == kind) {
        check(text(vector, "id"), vector);
        run += 1;
    }
    assert_eq!(run, expected, "vectors of kind {kind}");
}

fn text<'a>(vector: &'a Value, member: &str) -> &'a str {
    vector[member].as_str().unwrap_or_else(|| panic!("{member} of {vector}"))
}

fn bytes(vector: &Value, member: &str) -> Vec<u8> {
    hex::decode(text(vector, member)).unwrap()
}

fn limit(vector: &Value) -> usize {
    match text(vector, "reader") {
        "control" => CONTROL_LIMIT,
        "data" => DATA_LIMIT,
        other => panic!("unknown reader {other}"),
    }
}

/// Everything a decoder makes of a stream that arrives in pieces of the given size and then ends.
fn read(limit: usize, stream: &[u8], size: usize) -> (Vec<Vec<u8>>, Result<(), FrameError>) {
    let mut decoder = Decoder::new(limit);
    let mut frames = Vec::new();
    for piece in stream.chunks(size) {
        decoder.push(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Err(error)),
            }
        }
    }
    let end = decoder.finish();
    (frames, end)
}

/// The payloads of a stream that ends between two frames.
fn payloads(stream: &[u8]) -> Vec<Vec<u8>> {
    let (frames, end) = read(DATA_LIMIT, stream, stream.len().max(1));
    assert_eq!(end, Ok(()));
    frames
}

/// The payload of the one frame in `frame_hex`.
fn payload(vector: &Value) -> Vec<u8> {
    let frames = payloads(&bytes(vector, "frame_hex"));
    assert_eq!(frames.len(), 1);
    frames.into_iter().next().unwrap()
}

fn value(json: &[u8]) -> Value {
    serde_json::from_slice(json).unwrap()
}

#[test]
fn no_kind_is_forgotten() {
    let mut counts = BTreeMap::new();
    for vector in vectors() {
        *counts.entry(text(&vector, "kind").to_owned()).or_insert(0) += 1;
    }
    for (kind, count) in WIRE_KINDS {
        assert_eq!(counts.remove(kind), Some(count), "{kind}");
    }
    for kind in OTHER_KINDS {
        counts.remove(kind);
    }
    assert!(counts.is_empty(), "kinds without a test: {counts:?}");
}

#[test]
fn frames() {
    each("frame", |id, vector| {
        let (inner, whole) = (bytes(vector, "payload_hex"), bytes(vector, "frame_hex"));
        assert_eq!(frame::encode(&inner).unwrap(), whole, "{id}");
        for size in [1, 3, whole.len()] {
            let read = read(DATA_LIMIT, &whole, size);
            assert_eq!(read, (vec![inner.clone()], Ok(())), "{id}");
        }
    });
}

#[test]
fn streams() {
    each("stream", |id, vector| {
        let stream = bytes(vector, "stream_hex");
        let expect = vector["expect"].as_array().unwrap();
        let (end, frames) = expect.split_last().unwrap();
        let frames: Vec<_> = frames.iter().map(|step| bytes(step, "frame_hex")).collect();
        // We take the stricter outcome where the vectors leave the choice.
        let strict = vector["strict_alternative"]["error"].as_str();
        let error = strict.or(end["error"].as_str());
        assert!(error.is_some() || end["end"] == "clean_eof", "{id}");
        for size in [1, 2, 5, stream.len().max(1)] {
            let (found, end) = read(limit(vector), &stream, size);
            assert_eq!(found, frames, "{id}");
            assert_eq!(end.err().map(|end| end.class()), error, "{id}");
        }
    });
}

#[test]
fn declared_lengths() {
    each("declared_length", |id, vector| {
        let header = bytes(vector, "header_hex");
        let mut decoder = Decoder::new(limit(vector));
        decoder.push(&header);
        match (text(vector, "expect"), decoder.next_frame()) {
            ("accept_header", Ok(None)) => (),
            ("frame_too_large", Err(error)) => {
                assert_eq!(error.class(), "frame_too_large", "{id}");
                let FrameError::TooLarge { announced, .. } = error else {
                    panic!("{id}: {error}");
                };
                assert_eq!(vector["declared_length"], announced, "{id}");
            }
            other => panic!("{id}: {other:?}"),
        }
        if let Some(inner) = vector["max_payload_after_type_byte"].as_u64() {
            let mut inner = vec![0; inner as usize];
            let whole = frame::encode_typed(FrameType::Sync, &inner).unwrap();
            assert_eq!(whole[..4], header, "{id}");
            inner.push(0);
            assert!(frame::encode_typed(FrameType::Sync, &inner).is_err());
        }
    });
}

#[test]
fn typed_frames() {
    each("typed_frame", |id, vector| {
        let expect = &vector["expect"];
        let whole = payload(vector);
        let (kind, inner) = match split(&whole) {
            Ok(parts) => parts,
            Err(error) => return assert_eq!(expect["error"], error.class(), "{id}"),
        };
        assert_eq!(expect["frame_type"], format!("0x{:02x}", kind as u8), "{id}");
        let again = frame::encode_typed(kind, inner).unwrap();
        assert_eq!(again, bytes(vector, "frame_hex"), "{id}");
        if expect.get("payload_hex").is_some() {
            assert_eq!(inner, bytes(expect, "payload_hex"), "{id}");
        }
        match expect["then"].as_str() {
            // Whether it is a sync message is for the document to say.
            Some("bad_sync_message") => assert_eq!(kind, FrameType::Sync, "{id}"),
            Some(class) => {
                let error = Message::<Request>::parse(inner).unwrap_err();
                assert_eq!(error.class(), class, "{id}");
            }
            None => assert_eq!(expect["daemon_effect"], "ignored", "{id}"),
        }
    });
}

/// Checks what a handshake was read as.
fn check_handshake(id: &str, expect: &Value, found: Result<Handshake, MessageError>) {
    let handshake = match found {
        Ok(handshake) => handshake,
        Err(error) => return assert_eq!(expect["error"], error.class(), "{id}"),
    };
    assert_eq!(expect.get("error"), None, "{id}");
    let json = handshake.to_json();
    let written = value(&json);
    assert_eq!(written["channel"], expect["channel"], "{id}");
    assert_eq!(written.get("notebook_id"), expect.get("notebook_id"), "{id}");
    let protocol = match expect["mode"].as_str() {
        Some("v2") => Protocol::V2,
        _ => Protocol::V1,
    };
    assert_eq!(handshake.channel.protocol(), protocol, "{id}");
    assert_eq!(Handshake::parse(&json), Ok(handshake), "{id}");
}

#[test]
fn handshakes() {
    each("handshake", |id, vector| {
        let (frames, end) = read(CONTROL_LIMIT, &bytes(vector, "frame_hex"), 7);
        assert_eq!((frames.len(), end), (1, Ok(())), "{id}");
        check_handshake(id, &vector["expect"], Handshake::parse(&frames[0]));
        // These are the ones a writer may produce, so ours produces the same.
        let canonical = [
            "hs-pool",
            "hs-settings",
            "hs-blob",
            "hs-pool-state",
            "hs-notebook-v1",
            "hs-notebook-v2",
            "hs-notebook-path",
            "hs-extra-field-notebook",
        ];
        if canonical.contains(&id) {
            let handshake = Handshake::parse(&frames[0]).unwrap();
            assert_eq!(handshake.to_json(), frames[0], "{id}");
        }
    });
}

#[test]
fn padded_handshakes() {
    each("handshake_padded", |id, vector| {
        let expect = &vector["expect"];
        let length = vector["total_payload_length"].as_u64().unwrap() as usize;
        let mut stream = bytes(vector, "header_hex");
        stream.extend_from_slice(text(vector, "prefix_utf8").as_bytes());
        stream.resize(4 + length, bytes(vector, "pad_byte_hex")[0]);
        match read(CONTROL_LIMIT, &stream, 4096) {
            (frames, Ok(())) => check_handshake(id, expect, Handshake::parse(&frames[0])),
            (frames, Err(error)) => {
                assert!(frames.is_empty(), "{id}");
                assert_eq!(expect["error"], error.class(), "{id}");
            }
        }
    });
}

#[test]
fn first_frames() {
    each("first_frame", |id, vector| {
        let expect = &vector["expect"];
        let inner = payload(vector);
        match first_frame(&inner) {
            FirstFrame::V2(capabilities) => {
                assert_eq!(expect["mode"], "v2", "{id}");
                assert_eq!(capabilities.to_json(), inner, "{id}");
            }
            // The sync decoder accepts the frame or finds that it is none.
            FirstFrame::V1 => {
                assert!(expect["mode"] == "v1" || expect["error"] == "bad_sync_message", "{id}")
            }
        }
    });
}

/// Checks one message of a known type against its vector.
fn check_message<T: Body + PartialEq + Debug + Clone>(id: &str, vector: &Value, json: &[u8]) {
    let expect = &vector["expect"];
    let message = match Message::<T>::parse(json) {
        Ok(message) => message,
        Err(error) => return assert_eq!(expect["error"], error.class(), "{id}: {error}"),
    };
    assert_eq!(expect.get("error"), None, "{id}");
    let written = message.to_json();
    assert_eq!(Message::parse(&written).as_ref(), Ok(&message), "{id}");
    if vector["canonical"] == true {
        assert_eq!(written, json, "{id}");
        assert_eq!(value(&written), vector["value"], "{id}");
        assert!(message.extra.is_empty(), "{id}");
        let more = message.with("x_ext", json!([1]));
        assert_eq!(Message::parse(&more.to_json()), Ok(more), "{id}");
    } else {
        let bare = Message::from(message.body).to_json();
        assert_eq!(value(&bare), expect["value"], "{id}");
    }
}

/// Calls `check_message` for the type that channel and message name.
fn dispatch(id: &str, vector: &Value, json: &[u8]) {
    match (text(vector, "channel"), text(vector, "message")) {
        ("pool", "Request") => check_message::<PoolRequest>(id, vector, json),
        ("pool", "Response") => check_message::<PoolResponse>(id, vector, json),
        ("blob", "BlobRequest") => check_message::<BlobRequest>(id, vector, json),
        ("blob", "BlobResponse") => check_message::<BlobResponse>(id, vector, json),
        (_, "DaemonBroadcast") => check_message::<PoolState>(id, vector, json),
        (_, "NotebookRequest") => check_message::<Request>(id, vector, json),
        (_, "NotebookResponse") => check_message::<Response>(id, vector, json),
        (_, "NotebookBroadcast") => check_message::<Broadcast>(id, vector, json),
        other => panic!("{id}: unknown message {other:?}"),
    }
}

#[test]
fn json_messages() {
    each("json_message", |id, vector| {
        let whole = payload(vector);
        let typed = text(vector, "channel") == "notebook_sync v2";
        let inner = if typed {
            let (kind, inner) = split(&whole).unwrap();
            assert_eq!(vector["frame_type"], format!("0x{:02x}", kind as u8), "{id}");
            inner
        } else {
            &whole
        };
        assert_eq!(inner, text(vector, "payload_utf8").as_bytes(), "{id}");
        dispatch(id, vector, inner);
    });
}

/// Reads a payload as a message and gives the bytes written back.
fn again<T: Body>(json: &[u8]) -> Vec<u8> {
    Message::<T>::parse(json).unwrap().to_json()
}

/// Reads and writes the payload of a typed frame.
fn again_typed(whole: &[u8]) -> Vec<u8> {
    let (kind, inner) = split(whole).unwrap();
    let inner = match kind {
        FrameType::Sync => inner.to_vec(),
        FrameType::Request => again::<Request>(inner),
        FrameType::Response => again::<Response>(inner),
        FrameType::Broadcast => again::<Broadcast>(inner),
    };
    frame::encode_typed(kind, &inner).unwrap()[4..].to_vec()
}

#[test]
fn conversations() {
    each("conversation", |id, vector| {
        let (from_client, from_daemon) =
            (bytes(vector, "client_stream_hex"), bytes(vector, "daemon_stream_hex"));
        let client = payloads(&from_client);
        let daemon = payloads(&from_daemon);
        let handshake = Handshake::parse(&client[0]).unwrap();
        let mut client_again = vec![handshake.to_json()];
        let mut daemon_again = Vec::new();
        match value(&client[0])["channel"].as_str().unwrap() {
            "pool" => {
                client_again.extend(client[1..].iter().map(|json| again::<PoolRequest>(json)));
                daemon_again.extend(daemon.iter().map(|json| again::<PoolResponse>(json)));
            }
            "blob" => {
                let mut rest = client[1..].iter();
                while let Some(json) = rest.next() {
                    let request = Message::<BlobRequest>::parse(json).unwrap();
                    client_again.push(request.to_json());
                    if let BlobRequest::Store { .. } = request.body {
                        client_again.push(rest.next().unwrap().clone());
                    }
                }
                daemon_again.extend(daemon.iter().map(|json| again::<BlobResponse>(json)));
            }
            "notebook_sync" => {
                assert_eq!(handshake.channel.protocol(), Protocol::V2, "{id}");
                client_again.extend(client[1..].iter().map(|whole| again_typed(whole)));
                daemon_again.push(Capabilities::parse(&daemon[0]).unwrap().to_json());
                daemon_again.extend(daemon[1..].iter().map(|whole| again_typed(whole)));
            }
            other => panic!("{id}: unknown channel {other}"),
        }
        for (frames, stream) in [(client_again, from_client), (daemon_again, from_daemon)] {
            let mut out = Vec::new();
            for inner in frames {
                frame::append(&mut out, None, &inner).unwrap();
            }
            assert_eq!(out, stream, "{id}");
        }
    });
}

#[test]
fn event_sequences() {
    each("event_sequence", |id, vector| {
        let request = vector["request"].to_string();
        assert_eq!(again::<Request>(request.as_bytes()), request.as_bytes(), "{id}");
        let response = vector["response"].to_string();
        assert_eq!(again::<Response>(response.as_bytes()), response.as_bytes(), "{id}");

        let stream = bytes(vector, "broadcast_stream_hex");
        let broadcasts = vector["broadcasts"].as_array().unwrap();
        let frames = payloads(&stream);
        assert_eq!(frames.len(), broadcasts.len(), "{id}");
        let mut out = Vec::new();
        for (whole, expected) in frames.iter().zip(broadcasts) {
            let (kind, inner) = split(whole).unwrap();
            assert_eq!(kind, FrameType::Broadcast, "{id}");
            let json = again::<Broadcast>(inner);
            assert_eq!(&value(&json), expected, "{id}");
            frame::append(&mut out, Some(kind), &json).unwrap();
        }
        assert_eq!(out, stream, "{id}");
    });
}
