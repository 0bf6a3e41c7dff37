//! Storey 1, the responses of a notebook's room (protocol 2, section 5.7).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::wire::message::{Body, Message, Tag};

/// A response on the notebook channel, one for each request (protocol 2, section 5.7).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// The kernel was started.
    KernelLaunched {
        /// `python` or `deno`.
        kernel_type: String,
        /// Where its environment came from.
        env_source: String,
    },
    /// The room had a kernel already; this one, which may differ from the request.
    KernelAlreadyRunning {
        /// `python` or `deno`.
        kernel_type: String,
        /// Where its environment came from.
        env_source: String,
    },
    /// The cell runs or waits.
    CellQueued {
        /// The cell.
        cell_id: String,
    },
    /// The outputs are gone.
    OutputsCleared {
        /// The cell; need not exist.
        cell_id: String,
    },
    /// The kernel was interrupted.
    InterruptSent,
    /// The kernel was stopped.
    KernelShuttingDown,
    /// The request needs a kernel and there is none.
    NoKernel,
    /// The kernel of the room.
    KernelInfo {
        /// `python` or `deno`; none without kernel.
        kernel_type: Option<String>,
        /// Where its environment came from; none without kernel.
        env_source: Option<String>,
        /// `starting`, `idle`, `busy`, or `not_started` without kernel.
        status: String,
    },
    /// The queue of the room.
    QueueState {
        /// Cell that runs.
        executing: Option<String>,
        /// Cells that wait, the next first.
        queued: Vec<String>,
    },
    /// All code cells run or wait.
    AllCellsQueued {
        /// Number of code cells.
        count: u64,
    },
    /// The notebook file was written.
    NotebookSaved,
    /// The widget message was passed on.
    Ok,
    /// The request failed.
    Error {
        /// Text for humans.
        error: String,
    },
    /// What the history search found.
    HistoryResult {
        /// Oldest first.
        entries: Vec<HistoryEntry>,
    },
    /// What could be completed.
    CompletionResult {
        /// Proposals, best first.
        items: Vec<CompletionItem>,
        /// Start of the text they replace, in Unicode code points.
        cursor_start: u64,
        /// End of the text they replace, in Unicode code points.
        cursor_end: u64,
    },
}

impl Body for Response {
    const TAG: Tag = Tag::Member("result");
}

/// Members that our daemon adds to `cell_queued` (`docs/protocol.md`). A member of another type counts as absent.
impl Message<Response> {
    /// The name of the execution.
    pub fn execution_id(&self) -> Option<&str> {
        self.extra.get("execution_id")?.as_str()
    }

    /// Whether the cell was running already: its outputs so far are in the document.
    pub fn joined(&self) -> bool {
        self.extra.get("joined") == Some(&Value::Bool(true))
    }
}

/// One line of the kernel's history (protocol 2, section 5.7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// Session of the kernel; 0 and below count back from the present one.
    pub session: i64,
    /// Number of the execution in its session.
    pub line: i64,
    /// Source that ran.
    pub source: String,
}

/// One proposal of a completion (protocol 2, section 5.7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompletionItem {
    /// Text to insert.
    pub label: String,
    /// What it names, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// More about it, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Source of the proposal: `kernel`.
    pub source: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn completion_items_show_only_what_is_known() {
        let json = br#"{"result":"completion_result","items":[{"label":"a","kind":"function","source":"kernel"},{"label":"b","source":"kernel"}],"cursor_start":0,"cursor_end":1}"#;
        let message = Message::<Response>::parse(json).unwrap();
        assert_eq!(message.to_json(), json);
    }

    #[test]
    fn missing_states_count_as_null() {
        let message = Message::<Response>::parse(br#"{"result":"queue_state","queued":[]}"#);
        let body = Response::QueueState { executing: None, queued: Vec::new() };
        assert_eq!(message, Ok(body.into()));
    }
}
