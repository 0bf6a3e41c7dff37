//! Storey 2: what a connection, a session or a host reports. One type, from here up to the C ABI.

use std::collections::BTreeSet;

use serde_json::json;

use crate::code::rtd_channel;
use crate::code::rtd_event_kind::{self, *};
use crate::code::rtd_output_change::{RTD_OUTPUT_APPENDED, RTD_OUTPUT_JOINED, RTD_OUTPUT_REPLACED};
use crate::notebook::{Changes, OutputChange};

/// One event. Members that do not apply are empty, zero, or -1 for `number`.
#[derive(Clone, Debug, PartialEq)]
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
    /// `payload` is an element of a cell's outputs. It is resolved when the event is taken, because reading a blob
    /// is no work for the I/O thread.
    pub unresolved: bool,
    /// Elements whose place an unresolved output takes: their text was delivered already.
    pub covered: Option<Vec<String>>,
    /// Cells of a change hint; rendered into `payload` when the event is taken.
    pub hint: Option<Hint>,
}

/// What changed since the last hint that was taken.
#[derive(Clone, Debug, Default, PartialEq)]
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

    /// An event with JSON as it was received.
    pub fn received(kind: rtd_event_kind, token: u64, payload: Vec<u8>) -> Self {
        Self { token, payload, ..Self::new(kind) }
    }

    /// The end of something that the token stands for: a result code and, unless it is zero, the reason.
    pub fn ended(kind: rtd_event_kind, token: u64, code: i32, text: &str) -> Self {
        Self { token, code, text: text.into(), ..Self::new(kind) }
    }

    /// An event about an execution.
    pub fn of_run(kind: rtd_event_kind, token: u64, cell_id: &str) -> Self {
        Self { token, id: cell_id.into(), ..Self::new(kind) }
    }

    /// A change of a document.
    pub fn changed(kind: rtd_event_kind, changes: &Changes) -> Self {
        Self { hint: Some(Hint::new(changes)), ..Self::new(kind) }
    }

    /// A request to answer; `id` is the media type of a blob to store.
    pub fn request(channel: rtd_channel, token: u64, id: String, payload: Vec<u8>) -> Self {
        Self { code: channel as i32, token, id, payload, ..Self::new(RTD_EV_REQUEST) }
    }

    /// A change of the outputs of a cell, for the execution that the token stands for.
    pub fn output(change: &OutputChange, token: u64) -> Self {
        let (index, element, code, covered) = match change {
            OutputChange::Cleared { cell_id } => return Self::of_run(RTD_EV_CLEARED, token, cell_id),
            OutputChange::Inserted { index, element, .. } => (index, element, RTD_OUTPUT_APPENDED, None),
            OutputChange::Replaced { index, element, .. } => (index, element, RTD_OUTPUT_REPLACED, None),
            OutputChange::Joined { index, element, covered, .. } => {
                (index, element, RTD_OUTPUT_JOINED, Some(covered.clone()))
            }
        };
        Self {
            code: code as i32,
            number: number(*index),
            payload: element.clone().into_bytes(),
            unresolved: true,
            covered,
            ..Self::of_run(RTD_EV_OUTPUT, token, change.cell_id())
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

    /// Writes the hint into the payload: the last step before the host program gets the event.
    #[must_use]
    pub fn rendered(mut self) -> Self {
        if let Some(hint) = self.hint.take() {
            let json = json!({"cells": hint.cells, "order": hint.order, "metadata": hint.metadata});
            self.payload = json.to_string().into_bytes();
        }
        self
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
}

/// A count or an index as the member `number` has it.
pub(super) fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
