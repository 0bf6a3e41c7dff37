//! What a replica reports of the changes that a message brought.

use automerge::transaction::Transactable;
use automerge::{ObjType, ROOT};
use runtimed_ffi::notebook::OutputChange;

use super::*;

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
fn merged_pieces_are_reported_as_one_however_messages_are_cut() {
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
fn outputs_removed_in_another_way_are_reported_again() {
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
    // A cell replaced by itself: its outputs are reported from the start.
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
fn outputs_removed_after_unseen_ones_are_reported_as_readers_see_them() {
    let mut pair = Pair::joined();
    pair.push(&[ADD]);
    let changes = pair.odd(|doc, _, cell| {
        let (_, outputs) = doc.get(cell, "outputs").unwrap().unwrap();
        doc.splice(&outputs, 1, 2, [automerge::ScalarValue::Int(7), "12".into()]).unwrap();
    });
    // No merge: the replacement begins with an element that readers do not see.
    assert_eq!(changes.outputs, [cleared("a"), inserted("a", 0, "old"), inserted("a", 2, "12")]);
}
