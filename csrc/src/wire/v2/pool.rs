//! Storey 1, the pool channel: requests to the daemon as a whole (protocol 2, section 4).

use serde::{Deserialize, Serialize};

use crate::wire::message::{Body, Tag};

/// A request on the pool channel (protocol 2, section 4.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolRequest {
    /// Ask whether the daemon is alive.
    Ping,
    /// Ask for the sizes of the pools.
    Status,
    /// Take an environment out of a pool.
    Take {
        /// Which pool.
        env_type: EnvType,
    },
    /// Give an environment back.
    Return {
        /// The environment.
        env: Environment,
    },
    /// Delete all idle environments.
    FlushPool,
    /// Ask for the rooms.
    ListRooms,
    /// Ask for the content of one notebook.
    InspectNotebook {
        /// Identifier of the notebook, as in the handshake.
        notebook_id: String,
    },
    /// Stop the daemon.
    Shutdown,
}

impl Body for PoolRequest {
    const TAG: Tag = Tag::Member("type");
}

/// A response on the pool channel (protocol 2, section 4.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolResponse {
    /// Answers a ping.
    Pong,
    /// Answers a status request.
    Stats {
        /// The sizes of the pools.
        stats: PoolStats,
    },
    /// The environment taken; it belongs to the client now.
    Env {
        /// The environment.
        env: Environment,
    },
    /// The pool has no environment.
    Empty,
    /// The environment was taken back, or deleted.
    Returned,
    /// The pools are empty.
    Flushed,
    /// The daemon means to stop.
    ShuttingDown,
    /// The rooms, in no particular order.
    RoomsList {
        /// One for each notebook that is open.
        rooms: Vec<Room>,
    },
    /// The content of a notebook.
    NotebookState {
        /// Identifier of the notebook.
        notebook_id: String,
        /// Its cells in document order.
        cells: Vec<NotebookCell>,
        /// `live_room` or `persisted_file`.
        source: String,
        /// Its kernel, if one runs.
        kernel_info: Option<KernelSummary>,
    },
    /// The notebook cannot be inspected.
    Error {
        /// Text for humans.
        message: String,
    },
}

impl Body for PoolResponse {
    const TAG: Tag = Tag::Member("type");
}

/// The two pools (protocol 2, section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnvType {
    /// Environments made by uv.
    Uv,
    /// Environments made by conda.
    Conda,
}

/// An environment of a pool (protocol 2, section 4.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Which pool it belongs to.
    pub env_type: EnvType,
    /// Its directory.
    pub venv_path: String,
    /// Its interpreter.
    pub python_path: String,
}

/// Sizes of the pools (protocol 2, section 4.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolStats {
    /// uv environments ready.
    pub uv_available: u64,
    /// uv environments being built.
    pub uv_warming: u64,
    /// conda environments ready.
    pub conda_available: u64,
    /// conda environments being built.
    pub conda_warming: u64,
    /// Why the uv pool fails; absent while it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uv_error: Option<PoolError>,
    /// Why the conda pool fails; absent while it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conda_error: Option<PoolError>,
}

/// Why a pool fails (protocol 2, section 4.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolError {
    /// Text for humans.
    pub message: String,
    /// Package that cannot be installed, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_package: Option<String>,
    /// Failures since the last success.
    pub consecutive_failures: u32,
    /// Seconds until the next attempt, counted when the message was built; 0 when it is due.
    pub retry_in_secs: u64,
}

/// A notebook that is open (protocol 2, section 4.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// Identifier of the notebook.
    pub notebook_id: String,
    /// Notebook connections to it, of both versions.
    pub active_peers: u64,
    /// Whether a kernel runs.
    pub has_kernel: bool,
    /// `python` or `deno`; absent without kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_type: Option<String>,
    /// Where the kernel's environment came from; absent without kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env_source: Option<String>,
    /// `starting`, `idle` or `busy`; absent without kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_status: Option<String>,
}

/// A cell as `inspect_notebook` shows it (protocol 2, section 4.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotebookCell {
    /// Identifier of the cell.
    pub id: String,
    /// `code`, `markdown` or `raw`.
    pub cell_type: String,
    /// Its source.
    pub source: String,
    /// The kernel's counter as JSON text: a number or `null`.
    pub execution_count: String,
    /// The strings of the document: JSON text or hashes of manifests.
    pub outputs: Vec<String>,
}

/// A running kernel as `inspect_notebook` shows it (protocol 2, section 4.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelSummary {
    /// `python` or `deno`.
    pub kernel_type: String,
    /// Where its environment came from.
    pub env_source: String,
    /// `starting`, `idle` or `busy`.
    pub status: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::Message;

    #[test]
    fn unknown_members_of_nested_objects_are_ignored() {
        let json =
            br#"{"type":"env","env":{"env_type":"conda","venv_path":"/e","python_path":"/e/p","x":1}}"#;
        let env = Environment {
            env_type: EnvType::Conda,
            venv_path: "/e".to_owned(),
            python_path: "/e/p".to_owned(),
        };
        assert_eq!(Message::parse(json), Ok(PoolResponse::Env { env }.into()));
    }

    #[test]
    fn a_room_without_kernel_has_no_kernel_members() {
        let json =
            br#"{"type":"rooms_list","rooms":[{"notebook_id":"","active_peers":0,"has_kernel":false}]}"#;
        let message = Message::<PoolResponse>::parse(json).unwrap();
        assert_eq!(message.to_json(), json);
    }
}
