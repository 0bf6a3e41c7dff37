//! A client and a server connection that exchange frames.

use serde_json::{json, Map};

use super::dialect::PeerDialect;
use super::{gate, Client, Dialect, Event, Server, ServerEvent};
use crate::code::rtd_event_kind::{self, *};
use crate::notebook::{Notebook, Op};
use crate::wire::frame;
use crate::wire::handshake::{Channel, Handshake};
use crate::wire::FrameType;

fn kinds(events: &[Event]) -> Vec<rtd_event_kind> {
    events.iter().map(|event| event.kind).collect()
}

/// A notebook client, ours or the reference's.
fn peer(ours: bool) -> PeerDialect {
    let channel = Channel::Notebook { notebook_id: "n".into(), protocol: Some("v2".into()) };
    let extra = if ours { Map::from_iter([("rtd".to_owned(), json!(1))]) } else { Map::new() };
    PeerDialect::of(&Handshake { channel, extra })
}

/// Moves bytes both ways until neither side has more; returns the events of each side.
fn exchange(
    client: (&mut Client, &mut Notebook),
    server: (&mut Server, &mut Notebook),
) -> (Vec<Event>, Vec<ServerEvent>) {
    let (mut at_client, mut at_server) = (Vec::new(), Vec::new());
    loop {
        let mut up = Vec::new();
        client.0.take_output(&mut up);
        server.0.push(&up);
        while let Some(event) = server.0.next(Some(server.1)).unwrap() {
            if matches!(event, ServerEvent::Handshake(_)) {
                server.0.join(&Map::from_iter([("rtd".to_owned(), json!(1))])).unwrap();
            }
            at_server.push(event);
        }
        server.0.fill(Some(server.1)).unwrap();
        let down = server.0.outbox.output().to_vec();
        server.0.outbox.written(down.len());
        client.0.push(&down);
        while let Some(event) = client.0.next(client.1, 0).unwrap() {
            at_client.push(event);
        }
        if up.is_empty() && down.is_empty() {
            return (at_client, at_server);
        }
    }
}

fn joined() -> (Client, Notebook, Server, Notebook) {
    let mut client = Client::new("n").unwrap();
    let mut replica = Notebook::empty();
    let mut server = Server::new();
    let mut notebook = Notebook::create("n").unwrap();
    let (seen, _) = exchange((&mut client, &mut replica), (&mut server, &mut notebook));
    assert_eq!(kinds(&seen), [RTD_EV_READY]);
    assert!(client.is_ready() && client.dialect() == Dialect::Ours2 && client.agrees(&replica));
    (client, replica, server, notebook)
}

#[test]
fn a_request_waits_for_changes_its_sender_announced() {
    let (mut client, mut replica, mut server, mut notebook) = joined();
    replica.edit(&[Op::insert_cell("c", "code", "x", None)]).unwrap();
    // The change is announced by its head but withheld, as a Bloom filter may do.
    let announcement = crate::replica::barrier(&replica);
    server.push(&frame::encode_typed(FrameType::Sync, &announcement).unwrap());
    let body = br#"{"action":"execute_cell","cell_id":"c"}"#;
    server.push(&frame::encode_typed(FrameType::Request, body).unwrap());
    assert!(matches!(server.next(Some(&mut notebook)), Ok(Some(ServerEvent::Synced(_)))));
    assert!(matches!(server.next(Some(&mut notebook)), Ok(None)), "the request waits");
    client.push_changes(&replica).unwrap();
    let (_, seen) = exchange((&mut client, &mut replica), (&mut server, &mut notebook));
    let request = seen.iter().position(|event| matches!(event, ServerEvent::Request(_))).unwrap();
    assert!(request > 0, "it came after the change");
    assert!(notebook.cell("c").is_some());
}

#[test]
fn a_sync_request_is_answered_after_all_changes_and_does_not_reach_the_host_program() {
    let (mut client, mut replica, mut server, mut notebook) = joined();
    notebook.edit(&[Op::insert_cell("c", "code", "x", None)]).unwrap();
    let question = json!({"action": "get_queue_state", "sync": true});
    client.request(question.as_object().unwrap().clone()).unwrap();
    let (seen, asked) = exchange((&mut client, &mut replica), (&mut server, &mut notebook));
    assert!(!asked.iter().any(|event| matches!(event, ServerEvent::Request(_))), "{asked:?}");
    assert_eq!(kinds(&seen), [RTD_EV_CHANGED, RTD_EV_RESPONSE]);
}

#[test]
fn a_request_does_not_wait_forever_for_changes_that_never_come() {
    for ours in [false, true] {
        let (_, mut replica, mut server, mut notebook) = joined();
        server.peer = peer(ours);
        replica.edit(&[Op::insert_cell("c", "code", "x", None)]).unwrap();
        let announcement = frame::encode_typed(FrameType::Sync, &crate::replica::barrier(&replica)).unwrap();
        let request = frame::encode_typed(FrameType::Request, br#"{"action":"get_queue_state"}"#).unwrap();
        for bytes in [&announcement, &request, &announcement, &announcement] {
            server.push(bytes);
        }
        let mut events = || -> Vec<ServerEvent> {
            std::iter::from_fn(|| server.next(Some(&mut notebook)).unwrap()).collect()
        };
        let is_request = |event: &ServerEvent| matches!(event, ServerEvent::Request(_));
        // A client of ours may send edits meanwhile: its frames do not count, only the time limit does.
        assert_eq!(events().iter().any(is_request), !ours);
        if ours {
            server.stop_deferring();
            let mut events = || -> Vec<ServerEvent> {
                std::iter::from_fn(|| server.next(Some(&mut notebook)).unwrap()).collect()
            };
            assert!(events().iter().any(is_request));
        }
    }
}

#[test]
fn the_requests_that_wait_for_a_change_are_bounded_in_number_and_bytes() {
    let request = |size: usize| {
        let body = json!({"action": "get_queue_state", "padding": "x".repeat(size)}).to_string();
        frame::encode_typed(FrameType::Request, body.as_bytes()).unwrap()
    };
    for (size, most) in [(0, gate::REQUESTS), (gate::BYTES / 4, 4)] {
        let (_, mut replica, mut server, mut notebook) = joined();
        server.peer = peer(true);
        replica.edit(&[Op::insert_cell("c", "code", "x", None)]).unwrap();
        let announcement = crate::replica::barrier(&replica);
        server.push(&frame::encode_typed(FrameType::Sync, &announcement).unwrap());
        assert!(matches!(server.next(Some(&mut notebook)), Ok(Some(ServerEvent::Synced(_)))));
        for _ in 1..most {
            server.push(&request(size));
            assert!(matches!(server.next(Some(&mut notebook)), Ok(None)));
        }
        assert!(server.is_deferring());
        server.push(&request(size));
        for _ in 0..most {
            assert!(matches!(server.next(Some(&mut notebook)), Ok(Some(ServerEvent::Request(_)))));
        }
        assert!(matches!(server.next(Some(&mut notebook)), Ok(None)));
        // The count starts again for what follows.
        server.push(&request(0));
        assert!(matches!(server.next(Some(&mut notebook)), Ok(None)));
        assert!(server.is_deferring());
    }
}

#[test]
fn broadcasts_wait_for_the_changes_they_refer_to() {
    let (mut client, mut replica, mut server, mut notebook) = joined();
    notebook.edit(&[Op::insert_cell("c", "code", "x", None)]).unwrap();
    // Announced but withheld on the way down; then the broadcast about it.
    let announcement = crate::replica::barrier(&notebook);
    client.push(&frame::encode_typed(FrameType::Sync, &announcement).unwrap());
    client.push(&frame::encode_typed(FrameType::Broadcast, br#"{"event":"execution_done"}"#).unwrap());
    assert!(client.next(&mut replica, 0).unwrap().is_none(), "the broadcast is held");
    server.outbox.document_moved();
    let (seen, _) = exchange((&mut client, &mut replica), (&mut server, &mut notebook));
    assert_eq!(kinds(&seen), [RTD_EV_CHANGED, RTD_EV_BROADCAST]);
}

#[test]
fn broadcasts_do_not_wait_without_a_bound() {
    let (mut client, mut replica, mut server, mut notebook) = joined();
    let broadcast = frame::encode_typed(FrameType::Broadcast, &vec![b' '; 20 << 20]).unwrap();
    for round in 0..2 {
        notebook.edit(&[Op::insert_cell(&round.to_string(), "code", "x", None)]).unwrap();
        let announcement = crate::replica::barrier(&notebook);
        client.push(&frame::encode_typed(FrameType::Sync, &announcement).unwrap());
        for _ in 0..3 {
            client.push(&broadcast);
            assert!(client.next(&mut replica, 0).unwrap().is_none());
        }
        if round == 0 {
            // Delivered broadcasts do not count any more.
            server.outbox.document_moved();
            let (seen, _) = exchange((&mut client, &mut replica), (&mut server, &mut notebook));
            assert_eq!(seen.len(), 4);
        }
    }
    client.push(&broadcast);
    let error = client.next(&mut replica, 0).unwrap_err().to_string();
    assert!(error.contains("withholds"), "{error}");
}

#[test]
fn responses_find_their_requests_by_identifier_or_by_order() {
    let (mut client, mut replica, mut server, mut notebook) = joined();
    for id in [1, 2, 3] {
        let question = Map::from_iter([("action".to_owned(), json!("get_queue_state"))]);
        assert_eq!(client.request(question).unwrap(), id);
    }
    let (_, seen) = exchange((&mut client, &mut replica), (&mut server, &mut notebook));
    assert_eq!(seen.len(), 3);
    assert_eq!(client.pending_requests(), 3);
    for body in
        [r#"{"result":"ok","request_id":2}"#, r#"{"result":"ok"}"#, r#"{"result":"ok","request_id":3}"#]
    {
        client.push(&frame::encode_typed(FrameType::Response, body.as_bytes()).unwrap());
    }
    let seen: Vec<Event> = std::iter::from_fn(|| client.next(&mut replica, 0).unwrap()).collect();
    assert_eq!(kinds(&seen), [RTD_EV_RESPONSE; 3]);
    let ids: Vec<u64> = seen.iter().map(|event| event.token).collect();
    assert_eq!(ids, [2, 1, 3]);
    client.push(&frame::encode_typed(FrameType::Response, br#"{"result":"ok"}"#).unwrap());
    assert!(client.next(&mut replica, 0).is_err(), "a response without a request breaks the protocol");
    assert!(client.next(&mut replica, 0).is_err(), "and the connection stays failed");
}

#[test]
fn acknowledgements_are_combined_and_never_forgotten() {
    let (mut client, mut replica, mut server, mut notebook) = joined();
    let mut out = Vec::new();
    for number in 0..5_u64 {
        notebook.edit(&[Op::insert_cell(&number.to_string(), "code", "", None)]).unwrap();
        server.outbox.document_moved();
        server.fill(Some(&notebook)).unwrap();
        client.push(server.outbox.output());
        server.outbox.written(server.outbox.output().len());
        while client.next(&mut replica, number).unwrap().is_some() {}
        client.take_output(&mut out);
    }
    assert!(out.is_empty(), "no answer to each");
    let due = client.deadline().unwrap();
    client.tick(&replica, due).unwrap();
    client.take_output(&mut out);
    server.push(&out);
    while server.next(Some(&mut notebook)).unwrap().is_some() {}
    assert_eq!(client.deadline(), None);
    assert!(client.agrees(&replica) && server.sync.converged(&notebook));
}
