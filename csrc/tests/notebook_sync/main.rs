//! Two replicas and the messages between them.

mod changes;
mod protocol;

use automerge::{AutoCommit, ObjId, ReadDoc, ROOT};
use runtimed_ffi::notebook::{parse_ops, Changes, Notebook, OutputChange};
use runtimed_ffi::replica::PeerSync;

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

    /// Exchanges messages until neither side has a message; returns what the client saw.
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
