//! The sync protocol: what a replica knows of its peer, and messages it refuses.

use automerge::sync::Message;
use runtimed_ffi::notebook::Notebook;
use runtimed_ffi::replica::{barrier, PeerSync, ReplicaError};

use super::*;

#[test]
fn what_is_known_of_the_peer() {
    let mut pair = Pair::joined();
    assert!(pair.of_server.acknowledged(&pair.client));
    edit(&mut pair.client, ADD);
    assert!(!pair.of_server.acknowledged(&pair.client));
    assert!(!pair.of_server.converged(&pair.client));
    let up = pair.of_server.generate(&pair.client).unwrap();
    assert_eq!(pair.of_server.generate(&pair.client), None, "one message until it is answered");

    // The server knows the new heads, and has them.
    pair.of_client.receive(&mut pair.server, &up).unwrap();
    assert_eq!(pair.of_client.their_heads(), Some(&pair.client.heads()[..]));
    assert!(pair.of_client.acknowledged(&pair.server));
    assert!(!pair.of_client.missing(&pair.server));
    assert!(!pair.of_client.converged(&pair.server), "the client has no announcement yet");

    // The server edits on top: it still has what the client has.
    edit(&mut pair.server, r#"[{"op":"set_source","cell_id":"b","source":"more"}]"#);
    assert!(!pair.of_client.acknowledged(&pair.server));
    let down = pair.of_client.generate(&pair.server).unwrap();
    pair.of_server.receive(&mut pair.client, &down).unwrap();
    assert!(pair.of_server.acknowledged(&pair.client));
    pair.settle();

    // A message that only announces: the receiver is missing something until the exchange goes on.
    edit(&mut pair.server, r#"[{"op":"set_source","cell_id":"b","source":"again"}]"#);
    pair.of_server.receive(&mut pair.client, &barrier(&pair.server)).unwrap();
    assert!(pair.of_server.missing(&pair.client));
    assert!(pair.of_server.acknowledged(&pair.client), "shared before");
    pair.settle();
}

/// The engine assumes that a peer with our heads received them from us. A peer that sends its changes in one message
/// and its heads in the next still waits for our announcement.
#[test]
fn changes_are_acknowledged_though_they_came_before_the_heads() {
    let mut pair = Pair::joined();
    let old = pair.client.heads();
    edit(&mut pair.client, ADD);
    let mut changes = Message::decode(&pair.of_server.generate(&pair.client).unwrap()).unwrap();
    changes.heads = old;
    pair.of_client.receive(&mut pair.server, &changes.encode()).unwrap();
    assert_eq!(pair.server.heads(), pair.client.heads());
    pair.of_client.receive(&mut pair.server, &barrier(&pair.client)).unwrap();
    let answer = pair.of_client.generate(&pair.server).expect("the client waits for it");
    assert!(!pair.of_server.acknowledged(&pair.client));
    pair.of_server.receive(&mut pair.client, &answer).unwrap();
    assert!(pair.of_server.acknowledged(&pair.client));
    pair.settle();
}

/// The filter in a peer's message covers the changes that exist when it arrives. About one later change in a hundred
/// is a false positive; it must not be withheld from a peer that does not answer.
#[test]
fn no_later_change_is_withheld() {
    let mut pair = Pair::joined();
    for number in 0..1000 {
        edit(&mut pair.client, &format!(r#"[{{"op":"set_metadata","key":"theirs","value":"{number}"}}]"#));
        let message = pair.of_server.generate(&pair.client).unwrap();
        pair.of_client.receive(&mut pair.server, &message).unwrap();
        let answer = pair.of_client.generate(&pair.server).unwrap();
        pair.of_server.receive(&mut pair.client, &answer).unwrap();
        edit(&mut pair.server, &format!(r#"[{{"op":"set_metadata","key":"ours","value":"{number}"}}]"#));
        let message = pair.of_client.generate(&pair.server).unwrap();
        pair.of_server.receive(&mut pair.client, &message).unwrap();
        assert_eq!(pair.client.heads(), pair.server.heads(), "change {number} was withheld");
    }
    pair.settle();
}

#[test]
fn the_barrier_is_answered_if_and_only_if_heads_differ() {
    let mut pair = Pair::joined();
    let message = barrier(&pair.client);
    pair.of_client.receive(&mut pair.server, &message).unwrap();
    assert_eq!(pair.of_client.generate(&pair.server), None);

    edit(&mut pair.server, ADD);
    let message = barrier(&pair.client);
    pair.of_client.receive(&mut pair.server, &message).unwrap();
    let answer = pair.of_client.generate(&pair.server).unwrap();
    let changes = pair.of_server.receive(&mut pair.client, &answer).unwrap();
    assert_eq!(changes.outputs.len(), 2);
    pair.settle();
}

#[test]
fn a_reconnecting_client_reports_what_it_missed() {
    let mut pair = Pair::joined();
    edit(&mut pair.client, r#"[{"op":"set_source","cell_id":"b","source":"offline"}]"#);
    pair.of_client = PeerSync::new();
    pair.of_server = PeerSync::new();
    let changes = pair.push(&[CLEAR, ADD]);
    assert_eq!(changes.outputs, [cleared("a"), inserted("a", 0, "1"), inserted("a", 1, "2")]);
    assert_eq!(pair.server.source("b").unwrap(), "offline");
}

#[test]
fn damaged_messages_change_nothing() {
    let mut pair = Pair::joined();
    edit(&mut pair.server, ADD);
    let good = pair.of_client.clone().generate(&pair.server).unwrap();
    let before = pair.client.heads();
    let mut refused = 0;
    for i in 0..good.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bad = good.clone();
            bad[i] ^= flip;
            let mut client = pair.client.clone();
            match pair.of_server.clone().receive(&mut client, &bad) {
                Ok(_) => assert_eq!(client.cells().len(), 2),
                Err(ReplicaError::BadSync(_)) => {
                    assert_eq!(client.heads(), before);
                    refused += 1;
                }
                Err(other) => panic!("{other}"),
            }
            assert_eq!(Notebook::load(&client.save()).unwrap().cells(), client.cells());
        }
        let mut client = pair.client.clone();
        let _ = pair.of_server.clone().receive(&mut client, &good[..i]);
        assert!(client.heads() == before || i > good.len() - 4, "cut at {i}");
    }
    assert!(refused > 0);
    assert!(!pair.of_server.receive(&mut pair.client, &good).unwrap().is_empty());
}

#[test]
fn filters_that_would_stop_the_engine_are_refused() {
    let mut notebook = Notebook::create("n").unwrap();
    // Entries without bits, and a filter of billions of probes.
    for filter in [&[1, 0, 7][..], &[1, 10, 0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0][..]] {
        let mut message = vec![0x42, 0, 0, 1, 0, filter.len() as u8];
        message.extend(filter);
        message.push(0);
        let result = PeerSync::new().receive(&mut notebook, &message);
        assert!(matches!(result, Err(ReplicaError::BadSync(_))));
    }
    // Heads out of order are only put in order.
    let mut message = vec![0x42, 2];
    message.extend([9; 32]);
    message.extend([8; 32]);
    message.extend([0, 0, 0]);
    let mut peer = PeerSync::new();
    peer.receive(&mut notebook, &message).unwrap();
    assert!(peer.missing(&notebook));
    assert!(peer.generate(&notebook).is_some());
}
