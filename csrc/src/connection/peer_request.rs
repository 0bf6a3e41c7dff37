//! Storey 2: a request as a server connection received it.

use serde_json::Value;

use crate::code::rtd_channel;
use crate::wire::v2::Targets;

/// A request of a peer.
#[derive(Debug)]
pub struct PeerRequest {
    /// Where it came from.
    pub channel: rtd_channel,
    /// JSON as received, but without the library's own member `at_request`; or the bytes of a blob to store.
    pub body: Vec<u8>,
    /// The media type of a blob to store, which may be empty; none for other requests.
    pub media_type: Option<String>,
    /// Identifier to echo.
    pub request_id: Option<Value>,
    /// The cells that it executes.
    pub targets: Targets,
}

impl PeerRequest {
    /// A request with this body and nothing else.
    pub(super) fn new(channel: rtd_channel, body: Vec<u8>) -> Self {
        Self { channel, body, media_type: None, request_id: None, targets: Targets::None }
    }
}
