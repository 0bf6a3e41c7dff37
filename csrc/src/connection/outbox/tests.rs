//! What is sent, and in which order.

use super::*;
use crate::notebook::{Notebook, Op};
use crate::wire::frame::{Decoder, DATA_LIMIT};
use crate::wire::typed::split;
use serde_json::json;

fn outbox() -> Outbox {
    Outbox::new(true)
}

fn broadcast(outbox: &mut Outbox, name: &str, cause: u64) {
    let json: Arc<[u8]> = json!({"event": name}).to_string().into_bytes().into();
    outbox.broadcast(&json, cause);
}

/// The frames that are sent now: "sync", or the result or event they carry.
fn sent(outbox: &mut Outbox, document: Option<(&mut PeerSync, &dyn Doc)>) -> Vec<String> {
    outbox.fill(document).unwrap();
    let mut decoder = Decoder::new(DATA_LIMIT);
    decoder.push(outbox.output());
    outbox.written(outbox.output().len());
    assert!(!outbox.has_output());
    std::iter::from_fn(|| decoder.next_frame().unwrap())
        .map(|frame| match split(&frame).unwrap() {
            (FrameType::Sync, _) => "sync".into(),
            (_, body) => {
                let value: Value = serde_json::from_slice(body).unwrap();
                let name = value.get("result").or(value.get("event")).and_then(Value::as_str);
                name.unwrap().to_owned()
            }
        })
        .collect()
}

#[test]
fn a_broadcast_never_overtakes_the_change_before_it() {
    let mut notebook = Notebook::create("n").unwrap();
    let mut sync = PeerSync::new();
    let mut outbox = outbox();
    outbox.expect(1, None, 10);
    notebook.edit(&[Op::insert_cell("c", "code", "", None)]).unwrap();
    broadcast(&mut outbox, "output", 0);
    outbox.document_moved();
    outbox.respond(1, &json!({"result": "ok"}));
    assert_eq!(sent(&mut outbox, Some((&mut sync, &notebook))), ["ok", "sync", "output"]);
    assert_eq!(outbox.queued(), 0);
}

#[test]
fn nothing_is_kept_for_a_peer_that_does_not_read_any_more() {
    let mut notebook = Notebook::create("n").unwrap();
    let mut sync = PeerSync::new();
    for typed in [true, false] {
        let mut outbox = Outbox::new(typed);
        let everything = |outbox: &mut Outbox, token| {
            assert!(outbox.respond(token, &json!({"result": "ok"})));
            broadcast(outbox, "output", 0);
            outbox.respond_in_turn(&json!({"result": "ok"}));
            outbox.send_latest(&Arc::from(&b"{}"[..]));
            outbox.document_moved();
        };
        for token in 1..=4 {
            outbox.expect(token, (token % 2 == 0).then(|| json!(token)), 10);
        }
        outbox.raw(b"{}").unwrap();
        everything(&mut outbox, 1);
        outbox.close();
        assert_eq!((outbox.unanswered(), outbox.unanswered_bytes()), (3, 30));
        everything(&mut outbox, 2);
        everything(&mut outbox, 3);
        outbox.fill(Some((&mut sync, &notebook))).unwrap();
        assert_eq!((outbox.has_output(), outbox.queued(), outbox.unanswered()), (false, 0, 1));
    }
    notebook.edit(&[Op::insert_cell("c", "code", "", None)]).unwrap();
    assert!(sync.generate(&notebook).is_some(), "no sync message was generated for it either");
}

#[test]
fn a_caused_broadcast_and_all_after_it_wait_for_the_response() {
    let mut outbox = outbox();
    outbox.expect(1, Some(json!(5)), 10);
    broadcast(&mut outbox, "before", 0);
    broadcast(&mut outbox, "starting", 1);
    broadcast(&mut outbox, "behind", 0);
    assert_eq!(sent(&mut outbox, None), ["before"]);
    outbox.respond(1, &json!({"result": "kernel_launched"}));
    assert_eq!(sent(&mut outbox, None), ["kernel_launched", "starting", "behind"]);
}

#[test]
fn a_caused_broadcast_waits_for_no_other_response() {
    let mut outbox = outbox();
    outbox.expect(1, Some(json!(5)), 10);
    outbox.expect(2, Some(json!(6)), 10);
    broadcast(&mut outbox, "starting", 1);
    outbox.respond(1, &json!({"result": "kernel_launched"}));
    assert_eq!(sent(&mut outbox, None), ["kernel_launched", "starting"]);
    assert_eq!(outbox.unanswered(), 1);
}

#[test]
fn answers_keep_the_order_of_requests_unless_these_carry_identifiers() {
    let mut outbox = outbox();
    outbox.expect(1, None, 10);
    outbox.expect(2, Some(json!("x")), 10);
    outbox.expect(3, None, 10);
    assert!(outbox.respond(3, &json!({"result": "third"})));
    assert!(outbox.respond(2, &json!({"result": "second"})));
    assert_eq!(sent(&mut outbox, None), ["second"]);
    assert_eq!(outbox.unanswered(), 1);
    assert!(outbox.respond(1, &json!({"result": "first"})));
    assert_eq!(sent(&mut outbox, None), ["first", "third"]);
    assert!(!outbox.respond(1, &json!({"result": "again"})), "a request is answered once");
}

#[test]
fn a_slow_peer_costs_one_sync_message_however_many_changes_wait() {
    let mut notebook = Notebook::create("n").unwrap();
    let mut sync = PeerSync::new();
    let mut outbox = outbox();
    // The wire is full: nothing is generated until the peer takes some of it.
    let big: Arc<[u8]> =
        json!({"event": "big", "data": "x".repeat(WIRE_MARK)}).to_string().into_bytes().into();
    outbox.broadcast(&big, 0);
    outbox.fill(Some((&mut sync, &notebook))).unwrap();
    for number in 0..20 {
        notebook.edit(&[Op::insert_cell(&number.to_string(), "code", "", None)]).unwrap();
        outbox.document_moved();
        outbox.fill(Some((&mut sync, &notebook))).unwrap();
    }
    assert_eq!(sent(&mut outbox, None), ["big"]);
    assert_eq!(sent(&mut outbox, Some((&mut sync, &notebook))), ["sync"]);
}

#[test]
fn the_wire_takes_no_more_than_its_mark_and_one_frame() {
    let mut outbox = outbox();
    let body = json!({"event": "x".repeat(1000)}).to_string();
    let json: Arc<[u8]> = body.clone().into_bytes().into();
    for _ in 0..3 * WIRE_MARK / body.len() {
        outbox.broadcast(&json, 0);
    }
    let mut taken = 0;
    while outbox.queued() > 0 || outbox.has_output() {
        outbox.fill(None).unwrap();
        let full = outbox.output().len();
        assert!(full < WIRE_MARK + body.len() + 5);
        assert!(full >= WIRE_MARK || outbox.queued() == 0, "the peer waits for what could be sent");
        // A peer that takes a part gets the rest and more.
        let part = full.div_ceil(3);
        outbox.written(part);
        taken += part;
    }
    assert_eq!(taken, 3 * WIRE_MARK / body.len() * (body.len() + 5));
}

#[test]
fn a_connection_without_types_has_no_broadcasts() {
    let mut outbox = Outbox::new(false);
    broadcast(&mut outbox, "output", 0);
    assert_eq!(outbox.queued(), 0);
    outbox.fill(None).unwrap();
    assert!(!outbox.has_output());
}

#[test]
fn a_slow_peer_gets_only_the_newest_state() {
    let mut outbox = Outbox::new(false);
    let state = |name: &str| -> Arc<[u8]> { name.as_bytes().into() };
    let sent = |outbox: &mut Outbox| {
        let output = outbox.output().to_vec();
        outbox.written(output.len());
        output[4..].to_vec()
    };
    outbox.send_latest(&state("first"));
    outbox.fill(None).unwrap();
    for name in ["second", "third"] {
        outbox.send_latest(&state(name));
        outbox.fill(None).unwrap();
    }
    assert_eq!(sent(&mut outbox), b"first");
    outbox.fill(None).unwrap();
    assert_eq!(sent(&mut outbox), b"third");
    outbox.fill(None).unwrap();
    assert!(!outbox.has_output(), "a state is sent once");
}

#[test]
fn a_partly_written_frame_goes_on_where_it_stopped() {
    let mut outbox = outbox();
    broadcast(&mut outbox, "one", 0);
    broadcast(&mut outbox, "two", 0);
    outbox.fill(None).unwrap();
    let whole = outbox.output().to_vec();
    let mut taken = Vec::new();
    while outbox.has_output() {
        taken.push(outbox.output()[0]);
        outbox.written(1);
    }
    assert_eq!(taken, whole);
}
