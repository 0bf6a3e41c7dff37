//! Storey 1, the broadcasts of a notebook's room to all its peers (protocol 2, section 5.8).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::wire::message::{Body, Message, Tag};

/// A broadcast on the notebook channel (protocol 2, section 5.8; their order in 5.9 to 5.12).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Broadcast {
    /// The kernel changed its state.
    KernelStatus {
        /// `starting`, `idle`, `busy`, `restarting`, `shutdown`, `error: …` or other text.
        status: String,
        /// Cell whose execution caused it.
        cell_id: Option<String>,
    },
    /// The kernel began to run a cell.
    ExecutionStarted {
        /// The cell.
        cell_id: String,
        /// The kernel's counter.
        execution_count: i64,
    },
    /// A cell has one more output.
    Output {
        /// The cell.
        cell_id: String,
        /// `stream`, `display_data`, `execute_result` or `error`.
        output_type: String,
        /// Hash of a manifest (64 hexadecimal digits), or the output itself as JSON text.
        output_json: String,
    },
    /// A display changed in place.
    DisplayUpdate {
        /// Identifier the display was made with.
        display_id: String,
        /// Content by MIME type, complete.
        data: Value,
        /// Metadata by MIME type.
        metadata: Value,
    },
    /// A cell has run.
    ExecutionDone {
        /// The cell.
        cell_id: String,
    },
    /// The queue changed to this.
    QueueChanged {
        /// Cell that runs.
        executing: Option<String>,
        /// Cells that wait, the next first.
        queued: Vec<String>,
    },
    /// The kernel failed.
    KernelError {
        /// Text for humans.
        error: String,
    },
    /// The outputs of a cell are gone.
    OutputsCleared {
        /// The cell.
        cell_id: String,
    },
    /// A widget message of the kernel.
    Comm {
        /// `comm_open`, `comm_msg` or `comm_close`.
        msg_type: String,
        /// Content of the Jupyter message.
        content: Value,
        /// Binary attachments; on the wire arrays of byte values.
        #[serde(default)]
        buffers: Vec<Vec<u8>>,
    },
    /// The widget channels alive, at the start of a connection.
    CommSync {
        /// In the order they were opened.
        comms: Vec<CommState>,
    },
}

impl Body for Broadcast {
    const TAG: Tag = Tag::Member("event");
}

/// Members that our daemon adds to the broadcasts of an execution (`docs/protocol.md`). A member of another type counts
/// as absent.
impl Message<Broadcast> {
    /// The execution it belongs to.
    pub fn execution_id(&self) -> Option<&str> {
        self.extra.get("execution_id")?.as_str()
    }

    /// How the execution ended.
    pub fn status(&self) -> Option<&str> {
        self.extra.get("status")?.as_str()
    }

    /// Why it did not end well; text for humans.
    pub fn reason(&self) -> Option<&str> {
        self.extra.get("reason")?.as_str()
    }

    /// The kernel's counter at the end; unknown if the execution never started.
    pub fn execution_count(&self) -> Option<i64> {
        self.extra.get("execution_count")?.as_i64()
    }
}

/// One widget channel (protocol 2, section 5.8).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CommState {
    /// Identifier of the channel.
    pub comm_id: String,
    /// Target it was opened for.
    pub target_name: String,
    /// State of the widget, merged from all updates.
    pub state: Value,
    /// Module of the widget's model, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_module: Option<String>,
    /// Name of the widget's model, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_name: Option<String>,
    /// Binary attachments of its opening; on the wire arrays of byte values, absent if there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub buffers: Vec<Vec<u8>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_hold_bytes_only() {
        let json = |byte: &str| {
            format!(r#"{{"event":"comm","msg_type":"comm_msg","content":{{}},"buffers":[[{byte}]]}}"#)
        };
        let message = Message::<Broadcast>::parse(json("255").as_bytes()).unwrap();
        assert_eq!(message.to_json(), json("255").as_bytes());
        for byte in ["256", "-1", "1.5", "\"a\""] {
            assert!(Message::<Broadcast>::parse(json(byte).as_bytes()).is_err());
        }
    }

    #[test]
    fn details_of_an_execution_travel_as_extra_members() {
        let json = br#"{"event":"execution_done","cell_id":"c","execution_id":"e","status":"ok","execution_count":null}"#;
        let message = Message::<Broadcast>::parse(json).unwrap();
        assert_eq!((message.execution_id(), message.status()), (Some("e"), Some("ok")));
        assert_eq!((message.reason(), message.execution_count()), (None, None));
        assert_eq!(message.to_json(), json);
    }
}
