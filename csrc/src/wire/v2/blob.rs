//! Storey 1, the blob channel (protocol 2, section 8.6).

use serde::{Deserialize, Serialize};

use crate::wire::message::{Body, Tag};

/// A request on the blob channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlobRequest {
    /// Store the bytes that follow as one raw frame.
    Store {
        /// MIME type of the bytes.
        media_type: String,
    },
    /// Ask for the port of the HTTP server.
    GetPort,
}

impl Body for BlobRequest {
    const TAG: Tag = Tag::Member("action");
}

/// A response on the blob channel; its only member shows which one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", try_from = "Members")]
pub enum BlobResponse {
    /// SHA-256 of the bytes stored, 64 lower-case hexadecimal digits.
    Hash(String),
    /// TCP port of the HTTP server on 127.0.0.1.
    Port(u16),
    /// The request failed; text for humans.
    Error(String),
}

impl Body for BlobResponse {
    const TAG: Tag = Tag::None(&["hash", "port", "error"]);
}

/// A response as it stands on the wire.
#[derive(Deserialize)]
struct Members {
    hash: Option<String>,
    port: Option<u16>,
    error: Option<String>,
}

impl TryFrom<Members> for BlobResponse {
    type Error = &'static str;

    fn try_from(members: Members) -> Result<Self, &'static str> {
        match members {
            Members { hash: Some(hash), port: None, error: None } => Ok(BlobResponse::Hash(hash)),
            Members { hash: None, port: Some(port), error: None } => Ok(BlobResponse::Port(port)),
            Members { hash: None, port: None, error: Some(error) } => Ok(BlobResponse::Error(error)),
            _ => Err("a blob response has one of `hash`, `port`, `error`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::Message;

    #[test]
    fn the_only_member_shows_which_response_it_is() {
        for json in [r#"{"hash":"ab"}"#, r#"{"port":1}"#, r#"{"error":"no","x":[1]}"#] {
            let message = Message::<BlobResponse>::parse(json.as_bytes()).unwrap();
            assert_eq!(message.to_json(), json.as_bytes());
        }
        for json in ["{}", r#"{"hash":1}"#, r#"{"port":65536}"#, r#"{"hash":"a","port":1}"#] {
            let error = Message::<BlobResponse>::parse(json.as_bytes()).unwrap_err();
            assert_eq!(error.class(), "bad_message");
        }
    }
}
