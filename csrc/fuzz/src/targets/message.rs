//! JSON messages of every kind. Invariants:
//! - what is not JSON is no message, and what is a message is one JSON object that has no member twice;
//! - a message that is written reads as the same message, and is written to the same bytes again;
//! - no member is lost or changed on the way, whether the protocol knows it or not;
//! - garbage gives one of the two typed errors.

use std::fmt::Debug;

use runtimed_ffi::wire::handshake::{first_frame, Capabilities, FirstFrame, Handshake};
use runtimed_ffi::wire::message::{Body, Message};
use runtimed_ffi::wire::v2::{
    BlobRequest, BlobResponse, Broadcast, PoolRequest, PoolResponse, PoolState, Request, Response,
};
use runtimed_ffi::wire::MessageError;
use serde_json::Value;

use super::script::first;

/// One byte for the kind, then the JSON.
pub fn check(data: &[u8]) {
    let (kind, json) = first(data);
    match kind % 10 {
        0 => there_and_back(json, Handshake::parse, Handshake::to_json),
        1 => {
            there_and_back(json, Capabilities::parse, Capabilities::to_json);
            let v2 = Capabilities::parse(json).ok().filter(|found| found.protocol == "v2");
            assert_eq!(first_frame(json), v2.map_or(FirstFrame::V1, FirstFrame::V2));
        }
        2 => body::<Request>(json),
        3 => body::<Response>(json),
        4 => body::<Broadcast>(json),
        5 => body::<PoolRequest>(json),
        6 => body::<PoolResponse>(json),
        7 => body::<BlobRequest>(json),
        8 => body::<BlobResponse>(json),
        _ => body::<PoolState>(json),
    }
}

fn body<T: Body + Debug + PartialEq>(json: &[u8]) {
    there_and_back(json, Message::<T>::parse, Message::<T>::to_json);
}

fn there_and_back<T: Debug + PartialEq>(
    json: &[u8],
    parse: impl Fn(&[u8]) -> Result<T, MessageError>,
    to_json: impl Fn(&T) -> Vec<u8>,
) {
    let value = serde_json::from_slice::<Value>(json);
    let message = match parse(json) {
        Ok(message) => message,
        // What is no message is found before it is read to its end, where it may turn out to be no JSON either.
        Err(MessageError::BadMessage(_)) => return,
        Err(MessageError::BadJson(_)) => return assert!(value.is_err()),
    };
    let written = to_json(&message);
    let again = parse(&written).expect("what was written can be read");
    assert_eq!(again, message);
    assert_eq!(to_json(&again), written);
    let written: Value = serde_json::from_slice(&written).expect("what was written is JSON");
    kept(&value.expect("a message is JSON"), &written, true);
}

/// Every member is there, with its value; new ones are those that were left out and are null. In the members whose
/// content the protocol defines, such as the entries of a history, what it does not know is left out.
fn kept(before: &Value, after: &Value, outermost: bool) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (name, value) in before {
                match after.get(name) {
                    Some(found) => kept(value, found, false),
                    // An optional member is left out rather than null.
                    None => assert!(!outermost || value.is_null(), "lost: {name}"),
                }
            }
            for (name, value) in after {
                assert!(before.contains_key(name) || value.is_null(), "made up: {name}");
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            assert_eq!(before.len(), after.len());
            before.iter().zip(after).for_each(|(before, after)| kept(before, after, false));
        }
        _ => assert_eq!(before, after),
    }
}
