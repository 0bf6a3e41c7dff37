//! Storey 2: what a connection, a session or a host reports, from here up to the C ABI the same type.

use std::collections::BTreeSet;

use serde_json::{json, Value};

use crate::code::rtd_event_kind::{self, *};
use crate::notebook::Changes;

/// One event. Members that do not apply are empty, zero, or -1 for `number`.
#[derive(Clone, Debug)]
pub struct Event {
    pub kind: rtd_event_kind,
    pub code: i32,
    pub seq: u64,
    pub token: u64,
    pub peer: u64,
    pub number: i64,
    pub id: String,
    pub payload: Vec<u8>,
    pub text: String,
    /// `payload` is an element of a cell's outputs, to be resolved when the event is taken: reading
    /// a blob is not the I/O thread's work.
    pub unresolved: bool,
    /// Elements whose place an unresolved output takes: their text was delivered already.
    pub covered: Option<Vec<String>>,
    /// Cells of a change hint; rendered into `payload` when the event is taken.
    pub hint: Option<Hint>,
}

/// What changed since the last hint that was taken.
#[derive(Clone, Debug, Default)]
pub struct Hint {
    cells: BTreeSet<String>,
    order: bool,
    metadata: bool,
}

impl Event {
    /// An event of this kind with nothing else set.
    pub fn new(kind: rtd_event_kind) -> Self {
        Self {
            kind,
            code: 0,
            seq: 0,
            token: 0,
            peer: 0,
            number: -1,
            id: String::new(),
            payload: Vec::new(),
            text: String::new(),
            unresolved: false,
            covered: None,
            hint: None,
        }
    }

    /// Bytes this event counts for at the bound of its queue.
    pub fn size(&self) -> usize {
        let covered: usize = self.covered.iter().flatten().map(String::len).sum();
        std::mem::size_of::<Self>() + self.id.len() + self.payload.len() + self.text.len() + covered
    }

    /// Terminal events and those that need an answer are never dropped.
    pub fn droppable(&self) -> bool {
        matches!(
            self.kind,
            RTD_EV_OUTPUT | RTD_EV_CLEARED | RTD_EV_STARTED | RTD_EV_QUEUED | RTD_EV_BROADCAST
        )
    }
}

impl Hint {
    /// The hint for these changes.
    pub fn new(changes: &Changes) -> Self {
        Self { cells: changes.cells.clone(), order: changes.order, metadata: changes.metadata }
    }

    /// Adds another hint to this one.
    pub fn merge(&mut self, other: Self) {
        self.cells.extend(other.cells);
        self.order |= other.order;
        self.metadata |= other.metadata;
    }

    /// The hint as JSON.
    pub fn to_json(&self) -> Value {
        json!({"cells": self.cells, "order": self.order, "metadata": self.metadata})
    }
}
