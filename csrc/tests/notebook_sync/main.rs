//! Two replicas and the messages between them.

use automerge::sync::Message;
use automerge::transaction::Transactable;
use automerge::{AutoCommit, ObjId, ObjType, ReadDoc, ROOT};
use runtimed_ffi::notebook::{parse_ops, Changes, Notebook, OutputChange};
use runtimed_ffi::replica::{barrier, PeerSync, ReplicaError};

/// Two replicas and their states of each other.
struct Pair {
    server: Notebook,
    client: Notebook,
    of_client: PeerSync,
    of_server: PeerSync,
}

impl Pair {
    /// A room with two cells and a client that has joined.
    fn joined() -> Self {
        let mut server = Notebook::create("nb").unwrap();
        edit(
            &mut server,
            r#"[{"op":"insert_cell","cell_id":"a","cell_type":"code","source":"a"},
                {"op":"insert_cell","cell_id":"b","cell_type":"code","source":"b"},
                {"op":"append_outputs","cell_id":"a","outputs":["old"]}]"#,
        );
        let mut pair = Self {
            server,
            client: Notebook::empty(),
            of_client: PeerSync::new(),
            of_server: PeerSync::new(),
        };
        let all = pair.settle();
        assert!(all.order && all.metadata && all.outputs.is_empty());
        assert_eq!(all.cells.len(), 2);
        pair
    }

    /// Exchanges messages until nobody has anything to say; what the client saw.
    fn settle(&mut self) -> Changes {
        let mut seen = Changes::default();
        for _ in 0..100 {
            let down = self.of_client.generate(&self.server);
            let up = self.of_server.generate(&self.client);
            if down.is_none() && up.is_none() {
                assert!(self.of_client.converged(&self.server));
                assert!(self.of_server.converged(&self.client));
                assert!(self.of_client.acknowledged(&self.server));
                assert!(!self.of_server.missing(&self.client));
                assert_eq!(self.client.cells(), self.server.cells());
                return seen;
            }
            if let Some(message) = down {
                let step = self.of_server.receive(&mut self.client, &message).unwrap();
                seen.cells.extend(step.cells);
                seen.order |= step.order;
                seen.metadata |= step.metadata;
                seen.outputs.extend(step.outputs);
            }
            if let Some(message) = up {
                self.of_client.receive(&mut self.server, &message).unwrap();
            }
        }
        panic!("the exchange does not end");
    }

    /// What the client sees when the server makes these edits, each list a change, in one message.
    fn push(&mut self, changes: &[&str]) -> Changes {
        for json in changes {
            edit(&mut self.server, json);
        }
        self.settle()
    }
}

impl Pair {
    /// What the client sees when the server's document is changed in ways that no known writer has. The change is
    /// given the list of cells and the cell `a`.
    fn odd(&mut self, change: impl FnOnce(&mut AutoCommit, &ObjId, &ObjId)) -> Changes {
        let mut doc = AutoCommit::load(&self.server.save()).unwrap();
        let (_, cells) = doc.get(ROOT, "cells").unwrap().unwrap();
        let (_, cell) = doc.get(&cells, 0).unwrap().unwrap();
        change(&mut doc, &cells, &cell);
        self.server = Notebook::load(&doc.save()).unwrap();
        let changes = self.settle();
        assert_eq!(self.client.cell_ids(), self.server.cell_ids());
        // What was read of the order is true for later edits too.
        edit(&mut self.server, r#"[{"op":"insert_cell","cell_id":"last","cell_type":"raw","source":""}]"#);
        self.settle();
        changes
    }
}

fn edit(notebook: &mut Notebook, json: &str) {
    assert!(notebook.edit(&parse_ops(json.as_bytes()).unwrap()).unwrap(), "{json}");
}

fn cleared(cell: &str) -> OutputChange {
    OutputChange::Cleared { cell_id: cell.into() }
}

fn inserted(cell: &str, index: usize, element: &str) -> OutputChange {
    OutputChange::Inserted { cell_id: cell.into(), index, element: element.into() }
}

fn replaced(cell: &str, index: usize, element: &str) -> OutputChange {
    OutputChange::Replaced { cell_id: cell.into(), index, element: element.into() }
}

fn ids(changes: &Changes) -> Vec<&str> {
    changes.cells.iter().map(String::as_str).collect()
}

const CLEAR: &str = r#"[{"op":"clear_outputs","cell_id":"a"}]"#;
const ADD: &str = r#"[{"op":"append_outputs","cell_id":"a","outputs":["1","2"]}]"#;

#[test]
fn clear_and_insert_in_one_message_and_in_several() {
    let expected = [cleared("a"), inserted("a", 0, "1"), inserted("a", 1, "2")];
    // Two changes in one message.
    assert_eq!(Pair::joined().push(&[CLEAR, ADD]).outputs, expected);
    // One change.
    let both = format!("[{},{}]", &CLEAR[1..CLEAR.len() - 1], &ADD[1..ADD.len() - 1]);
    assert_eq!(Pair::joined().push(&[&both]).outputs, expected);
    // Separate messages.
    let mut pair = Pair::joined();
    assert_eq!(pair.push(&[CLEAR]).outputs, expected[..1]);
    let changes = pair.push(&[ADD]);
    assert_eq!(changes.outputs, expected[1..]);
    assert_eq!(ids(&changes), ["a"]);
    assert!(!changes.order && !changes.metadata);
    // What was appended before the clear never shows.
    assert_eq!(Pair::joined().push(&[ADD, CLEAR]).outputs, [cleared("a")]);
    assert_eq!(Pair::joined().push(&[ADD, CLEAR, ADD]).outputs, expected);
    // Appending only.
    let more = [inserted("a", 1, "1"), inserted("a", 2, "2")];
    assert_eq!(Pair::joined().push(&[ADD]).outputs, more);
}

#[test]
fn outputs_of_several_cells() {
    let mut pair = Pair::joined();
    let changes = pair.push(&[
        r#"[{"op":"append_outputs","cell_id":"b","outputs":["x"]},
            {"op":"replace_output","cell_id":"a","index":0,"output":"new"}]"#,
        r#"[{"op":"append_outputs","cell_id":"a","outputs":["y"]}]"#,
    ]);
    let of = |cell: &str| -> Vec<&OutputChange> {
        changes.outputs.iter().filter(|change| change.cell_id() == cell).collect()
    };
    assert_eq!(of("a"), [&replaced("a", 0, "new"), &inserted("a", 1, "y")]);
    assert_eq!(of("b"), [&inserted("b", 0, "x")]);
    assert_eq!(ids(&changes), ["a", "b"]);
}

fn joined(cell: &str, index: usize, covered: &[&str], element: &str) -> OutputChange {
    let covered = covered.iter().map(|&element| element.to_owned()).collect();
    OutputChange::Joined { cell_id: cell.into(), index, covered, element: element.into() }
}

const MERGE: &str = r#"[{"op":"splice_outputs","cell_id":"a","index":1,"delete":2,"outputs":["12"]}]"#;
const MORE: &str = r#"[{"op":"append_outputs","cell_id":"a","outputs":["3"]}]"#;
const AGAIN: &str = r#"[{"op":"splice_outputs","cell_id":"a","index":1,"delete":2,"outputs":["123"]}]"#;

#[test]
fn merged_pieces_are_told_as_one_however_messages_fall() {
    // A message each.
    let mut pair = Pair::joined();
    pair.push(&[ADD]);
    assert_eq!(pair.push(&[MERGE]).outputs, [joined("a", 1, &["1", "2"], "12")]);
    assert_eq!(pair.push(&[MORE]).outputs, [inserted("a", 2, "3")]);
    assert_eq!(pair.push(&[AGAIN]).outputs, [joined("a", 1, &["12", "3"], "123")]);
    // Several merges and pieces in one message.
    let mut pair = Pair::joined();
    pair.push(&[ADD]);
    let behind = r#"[{"op":"append_outputs","cell_id":"a","outputs":["d"]}]"#;
    let update = r#"[{"op":"replace_output","cell_id":"a","index":0,"output":"new"}]"#;
    let changes = pair.push(&[MERGE, MORE, update, AGAIN, behind]);
    let expected = [replaced("a", 0, "new"), joined("a", 1, &["1", "2"], "123"), inserted("a", 2, "d")];
    assert_eq!(changes.outputs, expected);
    // Nothing of it was there before, or it is cleared behind it.
    assert_eq!(Pair::joined().push(&[ADD, MERGE, MORE, AGAIN]).outputs, [inserted("a", 1, "123")]);
    assert_eq!(Pair::joined().push(&[ADD, MERGE, CLEAR]).outputs, [cleared("a")]);
}

#[test]
fn outputs_removed_in_another_way_are_told_again() {
    let splice = |index: usize, delete: usize, outputs: &str| {
        let mut pair = Pair::joined();
        pair.push(&[ADD]);
        let op = format!(
            r#"[{{"op":"splice_outputs","cell_id":"a","index":{index},"delete":{delete},"outputs":{outputs}}}]"#
        );
        pair.push(&[&op]).outputs
    };
    assert_eq!(splice(1, 2, "[]"), [cleared("a"), inserted("a", 0, "old")]);
    let again = [cleared("a"), inserted("a", 0, "x"), inserted("a", 1, "2")];
    assert_eq!(splice(0, 2, r#"["x"]"#), again);
}

#[test]
fn concurrent_appends_both_show() {
    let mut pair = Pair::joined();
    edit(&mut pair.client, r#"[{"op":"append_outputs","cell_id":"a","outputs":["mine"]}]"#);
    let changes = pair.push(&[r#"[{"op":"append_outputs","cell_id":"a","outputs":["theirs"]}]"#]);
    let outputs = pair.client.outputs("a").unwrap();
    let place = outputs.iter().position(|o| o == "theirs").unwrap();
    assert_eq!(outputs.len(), 3);
    assert_eq!(changes.outputs, [inserted("a", place, "theirs")]);
}

#[test]
fn cells_come_move_and_go() {
    let mut pair = Pair::joined();
    let changes = pair
        .push(&[r#"[{"op":"insert_cell","cell_id":"c","cell_type":"code","source":"s","index":0},
            {"op":"append_outputs","cell_id":"c","outputs":["1"]}]"#]);
    assert!(changes.order);
    assert_eq!(ids(&changes), ["c"]);
    assert_eq!(changes.outputs, [inserted("c", 0, "1")], "a new cell is not a cleared one");

    let changes = pair.push(&[r#"[{"op":"move_cell","cell_id":"a","index":0}]"#]);
    assert!(changes.order);
    assert_eq!(ids(&changes), ["a"]);
    assert_eq!(changes.outputs, [cleared("a"), inserted("a", 0, "old")]);

    let changes = pair.push(&[r#"[{"op":"delete_cell","cell_id":"a"}]"#]);
    assert_eq!((changes.order, changes.cells.len()), (true, 0));
    assert!(changes.outputs.is_empty());

    // An output of a cell that is gone when the message arrives.
    edit(&mut pair.client, r#"[{"op":"delete_cell","cell_id":"c"}]"#);
    let changes = pair.push(&[r#"[{"op":"append_outputs","cell_id":"c","outputs":["2"]}]"#]);
    assert!(changes.is_empty());
    assert_eq!(pair.client.cell_ids(), ["b"]);
}

#[test]
fn contents_and_metadata() {
    let mut pair = Pair::joined();
    let changes = pair.push(&[r#"[{"op":"set_metadata","key":"k","value":"v"}]"#]);
    assert!(changes.metadata && !changes.order && changes.cells.is_empty());
    for json in [
        r#"[{"op":"set_source","cell_id":"b","source":"é🐍"}]"#,
        r#"[{"op":"set_cell_type","cell_id":"b","cell_type":"raw"}]"#,
        r#"[{"op":"set_execution_count","cell_id":"b","execution_count":1}]"#,
    ] {
        let changes = pair.push(&[json]);
        assert_eq!(ids(&changes), ["b"]);
        assert!(!changes.order && !changes.metadata && changes.outputs.is_empty());
    }
}

#[test]
fn another_list_of_cells_is_another_order() {
    let mut pair = Pair::joined();
    let changes = pair.odd(|doc, _, _| {
        let cells = doc.put_object(ROOT, "cells", ObjType::List).unwrap();
        let cell = doc.insert_object(&cells, 0, ObjType::Map).unwrap();
        doc.put(&cell, "id", "z").unwrap();
    });
    assert!(changes.order && !changes.metadata);
    assert_eq!(ids(&changes), ["z"]);
    assert_eq!(pair.client.cell_ids(), ["z", "last"]);
    let mut pair = Pair::joined();
    let changes = pair.odd(|doc, _, _| drop(doc.put_object(ROOT, "cells", ObjType::List).unwrap()));
    assert!(changes.order && changes.cells.is_empty());
    assert_eq!(pair.client.cell_ids(), ["last"]);
    let mut pair = Pair::joined();
    let changes = pair.odd(|doc, _, _| drop(doc.put_object(ROOT, "metadata", ObjType::Map).unwrap()));
    assert!(changes.metadata && !changes.order);
    let mut pair = Pair::joined();
    let changes = pair.odd(|doc, _, _| doc.put(ROOT, "other", 1).unwrap());
    assert!(changes.is_empty());
}

#[test]
fn a_cell_that_is_renamed_put_over_or_loses_its_name() {
    let mut pair = Pair::joined();
    let changes = pair.odd(|doc, _, cell| doc.put(cell, "id", "renamed").unwrap());
    assert!(changes.order);
    assert_eq!(ids(&changes), ["renamed"]);
    assert_eq!(pair.client.cell_ids(), ["renamed", "b", "last"]);
    let mut pair = Pair::joined();
    let changes = pair.odd(|doc, _, cell| doc.delete(cell, "id").unwrap());
    assert!(changes.order);
    assert_eq!(pair.client.cell_ids(), ["b", "last"]);
    let mut pair = Pair::joined();
    let changes = pair.odd(|doc, cells, _| {
        let cell = doc.put_object(cells, 0, ObjType::Map).unwrap();
        doc.put(&cell, "id", "over").unwrap();
    });
    assert!(changes.order);
    assert_eq!(ids(&changes), ["over"]);
    assert_eq!(pair.client.cell_ids(), ["over", "b", "last"]);
    // Put over by itself its outputs are told from the start.
    let mut pair = Pair::joined();
    let changes = pair.odd(|doc, cells, _| {
        let cell = doc.put_object(cells, 0, ObjType::Map).unwrap();
        doc.put(&cell, "id", "a").unwrap();
        let outputs = doc.put_object(&cell, "outputs", ObjType::List).unwrap();
        doc.insert(&outputs, 0, "new").unwrap();
    });
    assert_eq!(changes.outputs, [cleared("a"), inserted("a", 0, "new")]);
}

#[test]
fn outputs_that_are_no_list_of_texts() {
    let mut pair = Pair::joined();
    let changes = pair.odd(|doc, _, cell| doc.put(cell, "outputs", "none").unwrap());
    assert_eq!(changes.outputs, [cleared("a")]);
    assert!(!changes.order);
    let mut pair = Pair::joined();
    assert_eq!(pair.odd(|doc, _, cell| doc.delete(cell, "outputs").unwrap()).outputs, [cleared("a")]);
    let mut pair = Pair::joined();
    let changes = pair.odd(|doc, _, cell| {
        let (_, outputs) = doc.get(cell, "outputs").unwrap().unwrap();
        doc.insert(&outputs, 1, 7).unwrap();
        doc.insert(&outputs, 2, "seen").unwrap();
        doc.put(&outputs, 0, true).unwrap();
    });
    assert_eq!(changes.outputs, [inserted("a", 2, "seen")]);
    assert_eq!(pair.client.outputs("a").unwrap(), ["seen"]);
    // Nothing is cleared when another member of the cell is put.
    let mut pair = Pair::joined();
    let changes = pair.odd(|doc, _, cell| drop(doc.put_object(cell, "source", ObjType::Text).unwrap()));
    assert!(changes.outputs.is_empty() && !changes.order);
    assert_eq!(ids(&changes), ["a"]);
}

#[test]
fn outputs_removed_behind_unseen_ones_are_told_as_readers_see_them() {
    let mut pair = Pair::joined();
    pair.push(&[ADD]);
    let changes = pair.odd(|doc, _, cell| {
        let (_, outputs) = doc.get(cell, "outputs").unwrap().unwrap();
        doc.splice(&outputs, 1, 2, [automerge::ScalarValue::Int(7), "12".into()]).unwrap();
    });
    // No merge: what came instead begins with something that nobody sees.
    assert_eq!(changes.outputs, [cleared("a"), inserted("a", 0, "old"), inserted("a", 2, "12")]);
}

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
    assert!(!pair.of_client.converged(&pair.server), "the client has not been told");

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

/// The engine takes a message with our heads for an announcement of ours. Who sends its changes in one message and its
/// heads in the next waits for it all the same.
#[test]
fn a_peer_is_told_that_its_changes_are_here_though_they_came_before_its_heads() {
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

/// The filter in a peer's message speaks of the changes that are there when it comes. About one later change in
/// a hundred looks as if the filter had it; it must not be withheld for that from a peer that does not answer.
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
