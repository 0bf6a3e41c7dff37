//! Storey 3, host: how a host is opened.

use serde_json::{Map, Value};

use crate::connection::Millis;

/// How a host is opened.
pub struct HostOptions {
    /// Connections at one time; further ones are closed at once.
    pub max_peers: usize,
    /// Milliseconds a new connection has for its handshake.
    pub handshake_timeout: Option<Millis>,
    /// Bytes of responses and broadcasts kept for a peer that does not read; with more, the host disconnects it. Also
    /// bytes of its requests without an answer; with more, the rest of its input waits.
    pub peer_limit: usize,
    /// Members added to the capabilities frame.
    pub capabilities: Map<String, Value>,
    /// Whether the host emits `RoomChanged` when peers change a room.
    pub watch_changes: bool,
}

impl Default for HostOptions {
    fn default() -> Self {
        Self {
            max_peers: 1024,
            handshake_timeout: Some(10_000),
            peer_limit: 64 * 1024 * 1024,
            capabilities: Map::new(),
            watch_changes: false,
        }
    }
}
