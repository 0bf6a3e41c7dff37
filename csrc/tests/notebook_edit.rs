//! Edits of one replica: what each does, what is refused, and that a list of them is all or nothing.

use automerge::marks::{ExpandMark, Mark};
use automerge::transaction::Transactable;
use automerge::{AutoCommit, ObjType, ReadDoc, ROOT};
use runtimed_ffi::notebook::{parse_ops, EditError, Notebook, Op};

fn ops(json: &str) -> Vec<Op> {
    parse_ops(json.as_bytes()).unwrap()
}

fn edited(json: &str) -> Notebook {
    let mut notebook = Notebook::create("n").unwrap();
    assert!(notebook.edit(&ops(json)).unwrap());
    notebook
}

const THREE: &str = r#"[
    {"op":"insert_cell","cell_id":"a","cell_type":"code","source":"aé中🐍z"},
    {"op":"insert_cell","cell_id":"b","cell_type":"code","source":"b"},
    {"op":"insert_cell","cell_id":"c","cell_type":"markdown","source":"c"},
    {"op":"append_outputs","cell_id":"b","outputs":["1","2"]},
    {"op":"set_execution_count","cell_id":"b","execution_count":4}
]"#;

#[test]
fn one_list_is_one_change() {
    let mut notebook = edited(THREE);
    assert_eq!(notebook.heads().len(), 1);
    let before = notebook.heads();
    notebook
        .edit(&ops(r#"[{"op":"set_source","cell_id":"a","source":"x"},{"op":"delete_cell","cell_id":"c"}]"#))
        .unwrap();
    let change = automerge::Change::from_bytes(notebook.save_since(&before)).unwrap();
    assert_eq!(change.deps(), before);
    assert_eq!(change.timestamp(), 0);
    assert_eq!(notebook.heads(), [change.hash()]);
}

#[test]
fn what_changes_nothing_makes_no_change() {
    let mut notebook = edited(THREE);
    let before = notebook.heads();
    for json in [
        "[]",
        r#"[{"op":"set_source","cell_id":"a","source":"aé中🐍z"}]"#,
        r#"[{"op":"splice_source","cell_id":"a","index":5,"delete":0,"insert":""}]"#,
        r#"[{"op":"set_cell_type","cell_id":"a","cell_type":"code"}]"#,
        r#"[{"op":"append_outputs","cell_id":"a","outputs":[]}]"#,
        r#"[{"op":"replace_output","cell_id":"b","index":1,"output":"2"}]"#,
        r#"[{"op":"splice_outputs","cell_id":"b","index":2,"delete":0,"outputs":[]}]"#,
        r#"[{"op":"splice_outputs","cell_id":"b","index":0,"delete":1,"outputs":["1"],"expect":["1"]}]"#,
        r#"[{"op":"clear_outputs","cell_id":"a"}]"#,
        r#"[{"op":"set_execution_count","cell_id":"b","execution_count":4}]"#,
        r#"[{"op":"set_metadata","key":"runtime","value":"python"}]"#,
        r#"[{"op":"move_cell","cell_id":"b","index":1}]"#,
        r#"[{"op":"delete_cell","cell_id":"x","if_present":true}]"#,
    ] {
        assert!(!notebook.edit(&ops(json)).unwrap(), "{json}");
        assert_eq!(notebook.heads(), before, "{json}");
    }
}

#[test]
fn each_edit() {
    let mut notebook = edited(THREE);
    let mut edit = |json: &str| {
        assert!(notebook.edit(&ops(json)).unwrap(), "{json}");
        notebook.clone()
    };
    let n = edit(r#"[{"op":"splice_source","cell_id":"a","index":3,"delete":1,"insert":"e\u0301"}]"#);
    assert_eq!(n.source("a").unwrap(), "aé中e\u{301}z");
    let n = edit(r#"[{"op":"set_source","cell_id":"a","source":"a\r\nz"}]"#);
    assert_eq!(n.source("a").unwrap(), "a\r\nz");
    let n = edit(r#"[{"op":"set_cell_type","cell_id":"a","cell_type":"raw"}]"#);
    assert_eq!(n.cell_type("a").unwrap(), "raw");
    let n = edit(r#"[{"op":"replace_output","cell_id":"b","index":0,"output":"9"}]"#);
    assert_eq!(n.outputs("b").unwrap(), ["9", "2"]);
    let n = edit(r#"[{"op":"replace_output","cell_id":"b","index":0,"output":"1","expect":"9"}]"#);
    assert_eq!(n.outputs("b").unwrap(), ["1", "2"]);
    let n = edit(r#"[{"op":"splice_outputs","cell_id":"b","index":0,"delete":2,"outputs":["12"]}]"#);
    assert_eq!(n.outputs("b").unwrap(), ["12"]);
    let n = edit(r#"[{"op":"splice_outputs","cell_id":"b","index":1,"delete":0,"outputs":["3","4"]}]"#);
    assert_eq!(n.outputs("b").unwrap(), ["12", "3", "4"]);
    let n = edit(
        r#"[{"op":"splice_outputs","cell_id":"b","index":1,"delete":1,"outputs":["x","y"],"expect":["3"]}]"#,
    );
    assert_eq!(n.outputs("b").unwrap(), ["12", "x", "y", "4"]);
    let n = edit(r#"[{"op":"clear_outputs","cell_id":"b"}]"#);
    assert!(n.outputs("b").unwrap().is_empty());
    assert_eq!(n.execution_count_text("b").unwrap(), "null");
    let n = edit(r#"[{"op":"set_execution_count","cell_id":"b","execution_count":12}]"#);
    assert_eq!(n.execution_count_text("b").unwrap(), "12");
    let n = edit(r#"[{"op":"set_metadata","key":"notebook_metadata","value":"{}"}]"#);
    assert_eq!(n.metadata()["notebook_metadata"], "{}");
    let whole = n.cell("a");
    let n = edit(r#"[{"op":"move_cell","cell_id":"a","index":1}]"#);
    assert_eq!(n.cell_ids(), ["b", "a", "c"]);
    assert_eq!(n.cell("a"), whole);
    let n = edit(r#"[{"op":"move_cell","cell_id":"a","index":99}]"#);
    assert_eq!(n.cell_ids(), ["b", "c", "a"]);
    let n = edit(r#"[{"op":"insert_cell","cell_id":"d","cell_type":"code","source":"","index":1}]"#);
    assert_eq!(n.cell_ids(), ["b", "d", "c", "a"]);
    let n = edit(r#"[{"op":"delete_cell","cell_id":"b"}]"#);
    assert_eq!(n.cell_ids(), ["d", "c", "a"]);
}

#[test]
fn a_failing_edit_takes_the_others_with_it() {
    let mut notebook = edited(THREE);
    let (heads, cells) = (notebook.heads(), notebook.cells());
    let good = r#"{"op":"delete_cell","cell_id":"a"},{"op":"move_cell","cell_id":"c","index":0},
        {"op":"insert_cell","cell_id":"d","cell_type":"code","source":"d"},
        {"op":"set_source","cell_id":"b","source":"other"},{"op":"clear_outputs","cell_id":"b"},
        {"op":"append_outputs","cell_id":"b","outputs":["3"]}"#;
    for (bad, not_found) in [
        (r#"{"op":"delete_cell","cell_id":"x"}"#, true),
        (r#"{"op":"set_source","cell_id":"a","source":""}"#, true),
        (r#"{"op":"set_execution_count","cell_id":"x","execution_count":1}"#, true),
        (r#"{"op":"append_outputs","cell_id":"x","outputs":[]}"#, true),
        (r#"{"op":"insert_cell","cell_id":"d","cell_type":"code","source":""}"#, false),
        (r#"{"op":"splice_source","cell_id":"c","index":2,"delete":0,"insert":""}"#, false),
        (r#"{"op":"splice_source","cell_id":"c","index":1,"delete":1,"insert":""}"#, false),
        (
            r#"{"op":"splice_source","cell_id":"c","index":0,"delete":18446744073709551615,"insert":""}"#,
            false,
        ),
        (r#"{"op":"replace_output","cell_id":"b","index":1,"output":""}"#, false),
        (r#"{"op":"replace_output","cell_id":"b","index":0,"output":"","expect":"2"}"#, false),
        (r#"{"op":"splice_outputs","cell_id":"b","index":0,"delete":2,"outputs":[]}"#, false),
        (r#"{"op":"splice_outputs","cell_id":"b","index":2,"delete":0,"outputs":[]}"#, false),
        (r#"{"op":"splice_outputs","cell_id":"b","index":0,"delete":1,"outputs":[],"expect":["2"]}"#, false),
        (r#"{"op":"splice_outputs","cell_id":"x","index":0,"delete":0,"outputs":[]}"#, true),
    ] {
        let error = notebook.edit(&ops(&format!("[{good},{bad}]"))).unwrap_err();
        match error {
            EditError::CellNotFound(id) if not_found => assert!(bad.contains(&id)),
            EditError::BadOp(_) if !not_found => {}
            other => panic!("{bad}: {other}"),
        }
        assert_eq!(notebook.heads(), heads);
        assert_eq!(notebook.cells(), cells);
    }
    // And then it still works.
    assert!(notebook.edit(&ops(&format!("[{good}]"))).unwrap());
    assert_eq!(notebook.cell_ids(), ["c", "b", "d"]);
    assert_eq!(EditError::CellNotFound("x".into()).to_string(), "Cell not found: x");
}

#[test]
fn a_replica_that_has_not_joined_refuses() {
    let mut notebook = Notebook::empty();
    for json in [
        r#"[{"op":"insert_cell","cell_id":"a","cell_type":"code","source":""}]"#,
        r#"[{"op":"set_metadata","key":"k","value":"v"}]"#,
    ] {
        assert!(matches!(notebook.edit(&ops(json)), Err(EditError::BadOp(_))));
        assert!(notebook.is_empty());
    }
}

/// A document whose cells are not what section 7.2 says, and one that lacks lists altogether.
#[test]
fn writing_to_odd_documents() {
    let mut doc = AutoCommit::new();
    doc.put(ROOT, "notebook_id", "odd").unwrap();
    let bytes = doc.save();
    let mut bare = Notebook::load(&bytes).unwrap();
    assert!(bare.cells().is_empty());
    assert!(bare.metadata().is_empty());
    bare.edit(&ops(r#"[{"op":"insert_cell","cell_id":"a","cell_type":"code","source":"x"},
            {"op":"set_metadata","key":"k","value":"v"}]"#))
        .unwrap();
    assert_eq!(bare.cell_ids(), ["a"]);
    assert_eq!(bare.metadata()["k"], "v");

    let cells = doc.put_object(ROOT, "cells", ObjType::List).unwrap();
    doc.insert(&cells, 0, "not a cell").unwrap();
    let cell = doc.insert_object(&cells, 1, ObjType::Map).unwrap();
    doc.put(&cell, "id", "a").unwrap();
    doc.put(&cell, "source", "scalar").unwrap();
    doc.put(&cell, "outputs", 7).unwrap();
    doc.put(&cell, "unknown", true).unwrap();
    let other = doc.insert_object(&cells, 2, ObjType::Map).unwrap();
    doc.put(&other, "id", "b").unwrap();
    let outputs = doc.put_object(&other, "outputs", ObjType::List).unwrap();
    doc.insert(&outputs, 0, 1).unwrap();
    doc.insert(&outputs, 1, "{}").unwrap();
    let mut odd = Notebook::load(&doc.save()).unwrap();
    assert_eq!(odd.cell_ids(), ["a", "b"]);
    assert_eq!(odd.source("a").unwrap(), "");
    odd.edit(&ops(r#"[{"op":"set_source","cell_id":"a","source":"x"},
            {"op":"append_outputs","cell_id":"a","outputs":["1"]},
            {"op":"replace_output","cell_id":"b","index":0,"output":"{\"x\":1}"},
            {"op":"splice_outputs","cell_id":"b","index":0,"delete":1,"outputs":["p","q"]},
            {"op":"splice_outputs","cell_id":"a","index":1,"delete":0,"outputs":["2"]},
            {"op":"splice_source","cell_id":"b","index":0,"delete":0,"insert":"y"},
            {"op":"insert_cell","cell_id":"c","cell_type":"code","source":"","index":1},
            {"op":"move_cell","cell_id":"a","index":2}]"#))
        .unwrap();
    assert_eq!(odd.cell_ids(), ["c", "b", "a"]);
    assert_eq!(odd.source("a").unwrap(), "x");
    assert_eq!(odd.source("b").unwrap(), "y");
    assert_eq!(odd.outputs("a").unwrap(), ["1", "2"]);
    assert_eq!(odd.outputs("b").unwrap(), ["p", "q"]);
    // What this version does not know stays with the cell.
    let saved = AutoCommit::load(&odd.save()).unwrap();
    let (_, moved) = saved.get(&cells, 3).unwrap().unwrap();
    assert!(saved.get(&moved, "unknown").unwrap().is_some());
    assert_eq!(Notebook::load(&odd.save()).unwrap().cells(), odd.cells());
}

#[test]
fn the_first_of_two_cells_with_one_id_is_meant() {
    let mut doc = AutoCommit::new();
    let cells = doc.put_object(ROOT, "cells", ObjType::List).unwrap();
    for i in 0..2 {
        let cell = doc.insert_object(&cells, i, ObjType::Map).unwrap();
        doc.put(&cell, "id", "a").unwrap();
        doc.put(&cell, "cell_type", i.to_string()).unwrap();
    }
    let mut twice = Notebook::load(&doc.save()).unwrap();
    assert_eq!(twice.cells().len(), 2);
    assert_eq!(twice.cell_type("a").unwrap(), "0");
    twice.edit(&ops(r#"[{"op":"delete_cell","cell_id":"a"}]"#)).unwrap();
    assert_eq!(twice.cell_type("a").unwrap(), "1");
}

/// Other programs may put marks and blocks into a text; readers see the characters.
#[test]
fn sources_with_marks_and_blocks() {
    let mut doc = AutoCommit::new();
    let cells = doc.put_object(ROOT, "cells", ObjType::List).unwrap();
    let cell = doc.insert_object(&cells, 0, ObjType::Map).unwrap();
    doc.put(&cell, "id", "a").unwrap();
    let text = doc.put_object(&cell, "source", ObjType::Text).unwrap();
    doc.splice_text(&text, 0, 0, "x🐍y").unwrap();
    let mark = Mark::new("bold".into(), true, 0, 2);
    doc.mark(&text, mark, ExpandMark::Both).unwrap();
    doc.split_block(&text, 1).unwrap();
    let mut notebook = Notebook::load(&doc.save()).unwrap();
    let seen = notebook.source("a").unwrap();
    assert_eq!(seen, "x\u{fffc}🐍y");
    assert_eq!(notebook.cells()[0].source, seen);
    notebook
        .edit(&ops(r#"[{"op":"insert_cell","cell_id":"b","cell_type":"code","source":""},
                {"op":"move_cell","cell_id":"a","index":1},
                {"op":"set_source","cell_id":"a","source":"z"}]"#))
        .unwrap();
    assert_eq!(notebook.source("a").unwrap(), "z");
}

#[test]
fn many_cells_at_once_land_where_each_alone_would() {
    let json = r#"[
        {"op":"insert_cell","cell_id":"1","cell_type":"code","source":"1","index":0},
        {"op":"insert_cell","cell_id":"2","cell_type":"code","source":"é🐍","index":1},
        {"op":"insert_cell","cell_id":"3","cell_type":"code","source":"3"},
        {"op":"insert_cell","cell_id":"4","cell_type":"code","source":"4","index":1,"if_present":true},
        {"op":"insert_cell","cell_id":"5","cell_type":"code","source":"","index":2},
        {"op":"insert_cell","cell_id":"6","cell_type":"code","source":"6","index":0}
    ]"#;
    let (mut together, mut alone) = (edited(THREE), edited(THREE));
    assert!(together.edit(&ops(json)).unwrap());
    for op in ops(json) {
        assert!(alone.edit(&[op]).unwrap());
    }
    assert_eq!(together.cell_ids(), ["6", "1", "4", "5", "2", "a", "b", "c", "3"]);
    assert_eq!(together.cells(), alone.cells());
    together.edit(&ops(r#"[{"op":"set_source","cell_id":"2","source":"e"}]"#)).unwrap();
    assert_eq!(together.source("2").unwrap(), "e");
    let twice = r#"[{"op":"insert_cell","cell_id":"x","cell_type":"code","source":""},
        {"op":"insert_cell","cell_id":"x","cell_type":"code","source":""}]"#;
    let before = together.cells();
    assert!(matches!(together.edit(&ops(twice)), Err(EditError::BadOp(_))));
    assert_eq!(together.cells(), before);
}
