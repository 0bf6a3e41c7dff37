//! What a queue carries to the host program.

use std::collections::BTreeSet;

use serde_json::{json, Value};

use crate::notebook::Changes;

/// Kinds of events; the numbers are those of the C ABI (`RTD_EV_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum EventKind {
    Ready = 1,
    Changed = 2,
    Response = 3,
    Queued = 4,
    Started = 5,
    Output = 6,
    Cleared = 7,
    Done = 8,
    Broadcast = 9,
    Synced = 10,
    Resync = 11,
    Closed = 12,
    RoomWanted = 20,
    PeerJoined = 21,
    PeerLeft = 22,
    Request = 23,
    RoomChanged = 24,
    RoomFailed = 25,
    SettingsChanged = 26,
    SettingsFailed = 27,
}

/// What an output did to the list of outputs; the numbers of the C ABI (`RTD_OUTPUT_*`).
pub const APPENDED: i32 = 0;
/// It took the place of the one at its index.
pub const REPLACED: i32 = 1;
/// The outputs from its index on are one now; the event carries what that one has more than they had.
pub const JOINED: i32 = 2;
/// It took the place of all outputs from its index on.
pub const REPLACED_ALL: i32 = 3;

/// One event. Members that do not apply are empty, zero, or -1 for `number`.
#[derive(Clone, Debug)]
pub struct Event {
    pub kind: EventKind,
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
    pub fn new(kind: EventKind) -> Self {
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
            EventKind::Output
                | EventKind::Cleared
                | EventKind::Started
                | EventKind::Queued
                | EventKind::Broadcast
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
