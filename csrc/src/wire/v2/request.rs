//! Storey 1, the requests of a client to a notebook's room (protocol 2, section 5.6).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::wire::message::{Body, Message, Tag};

/// A request on the notebook channel (protocol 2, section 5.6; semantics in 5.9 to 5.13).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Start a kernel, if the room has none.
    LaunchKernel {
        /// `python` or `deno`.
        kernel_type: String,
        /// Where its environment comes from, for instance `uv:prewarmed` or `auto`.
        env_source: String,
        /// File of the notebook, for its directory.
        notebook_path: Option<String>,
    },
    /// Deprecated: run the given code for any cell id.
    QueueCell {
        /// Cell the outputs go to; need not exist.
        cell_id: String,
        /// Source to run.
        code: String,
    },
    /// Run the source that the cell has in the daemon's document now.
    ExecuteCell {
        /// An existing code cell.
        cell_id: String,
    },
    /// Replace the outputs of a cell by none.
    ClearOutputs {
        /// The cell; need not exist.
        cell_id: String,
    },
    /// Interrupt what the kernel is doing.
    InterruptExecution,
    /// Stop the kernel.
    ShutdownKernel,
    /// Ask which kernel runs.
    GetKernelInfo,
    /// Ask which cells run and wait.
    GetQueueState,
    /// Queue all code cells in document order.
    RunAllCells,
    /// Pass a widget message to the kernel.
    SendComm {
        /// A full Jupyter message; buffers are arrays of byte values.
        message: Value,
    },
    /// Search the kernel's history.
    GetHistory {
        /// Glob pattern; all entries without it.
        pattern: Option<String>,
        /// Most entries wanted.
        n: i32,
        /// Whether equal entries are reported once.
        unique: bool,
    },
    /// Ask for completions.
    Complete {
        /// Source of the cell.
        code: String,
        /// Place of the cursor in `code`, in Unicode code points.
        cursor_pos: u64,
    },
    /// Write the notebook file.
    SaveNotebook {
        /// Whether to format the cells; the reference ignores it.
        format_cells: bool,
    },
}

impl Body for Request {
    const TAG: Tag = Tag::Member("action");
}

/// The cells that a request executes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Targets {
    /// The request executes no cells.
    None,
    /// The cell with this id.
    Cell(String),
    /// All cells of the notebook.
    AllCells,
}

impl Request {
    /// The cells that this request executes.
    pub fn targets(&self) -> Targets {
        match self {
            Request::ExecuteCell { cell_id } => Targets::Cell(cell_id.clone()),
            Request::RunAllCells => Targets::AllCells,
            _ => Targets::None,
        }
    }
}

/// The member that [`with_cells`] adds.
pub const AT_REQUEST: &str = "at_request";

/// A request with the member `at_request`: the cells to execute, as they are at this moment. Edits that follow a
/// request do not change what runs (protocol 2, section 5.9), but may have been applied when the host program sees
/// it.
///
/// `body` is a parsed request without that member.
pub fn with_cells(mut body: Vec<u8>, cells: &Value) -> Vec<u8> {
    if let Some(end) = body.iter().rposition(|byte| *byte == b'}') {
        body.truncate(end);
        body.extend_from_slice(format!(r#","{AT_REQUEST}":{cells}}}"#).as_bytes());
    }
    body
}

/// Members that our clients add to requests (`docs/protocol.md`).
impl Message<Request> {
    /// Identifier to echo in the response.
    pub fn request_id(&self) -> Option<&Value> {
        self.extra.get("request_id")
    }

    /// Whether it is a request to the library, which answers it when everything before it was processed.
    pub fn asks_for_sync(&self) -> bool {
        self.extra.get("sync") == Some(&Value::Bool(true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_widest_numbers_pass_and_wider_ones_do_not() {
        let complete = Request::Complete { code: String::new(), cursor_pos: u64::MAX };
        let json = Message::from(complete.clone()).to_json();
        assert_eq!(Message::parse(&json), Ok(complete.into()));
        for n in ["2147483648", "1.0", "\"1\"", "true"] {
            let json = format!(r#"{{"action":"get_history","n":{n},"unique":false}}"#);
            let error = Message::<Request>::parse(json.as_bytes()).unwrap_err();
            assert_eq!(error.class(), "bad_message");
        }
    }

    #[test]
    fn a_request_id_comes_back_as_an_extra_member() {
        let message = Message::from(Request::RunAllCells).with("request_id", 5);
        let json = message.to_json();
        assert_eq!(json, br#"{"action":"run_all_cells","request_id":5}"#);
        assert_eq!(Message::<Request>::parse(&json).unwrap().extra["request_id"], 5);
    }
}
