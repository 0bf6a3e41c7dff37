//! Storey 1, the first frame of either side: which channel, which version (protocol 2, section 3).
//! Works on byte slices only.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::message::{Body, Message, MessageError, Tag};

/// The version that [`Channel::Notebook`] must ask for, and a capabilities frame confirm, literally.
const V2: &str = "v2";

/// What a client wants from the connection (protocol 2, section 3).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// Requests to the daemon as a whole (section 4).
    Pool,
    /// The settings document (section 11.1).
    SettingsSync,
    /// One notebook (sections 5 and 6).
    #[serde(rename = "notebook_sync")]
    Notebook {
        /// Any string, usually the path of the file.
        notebook_id: String,
        /// Version asked for; see [`Channel::protocol`].
        #[serde(skip_serializing_if = "Option::is_none")]
        protocol: Option<String>,
    },
    /// Storing of blobs (section 8.6).
    Blob,
    /// Error states of the environment pools (section 11.2).
    #[serde(rename = "pool_state_subscribe")]
    PoolState,
}

impl Body for Channel {
    const TAG: Tag = Tag::Member("channel");
}

/// The form of the frames after the handshake of a notebook channel (protocol 2, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Raw sync messages, no capabilities frame (section 6).
    V1,
    /// A capabilities frame, then typed frames (section 5).
    V2,
}

impl Channel {
    /// The version a daemon has to use: [`Protocol::V2`] on a notebook channel that asked for exactly
    /// `v2`, otherwise [`Protocol::V1`]: other channels have no typed frames either.
    pub fn protocol(&self) -> Protocol {
        match self {
            Channel::Notebook { protocol: Some(protocol), .. } if protocol == V2 => Protocol::V2,
            _ => Protocol::V1,
        }
    }
}

/// The first frame of a client.
#[derive(Debug, Clone, PartialEq)]
pub struct Handshake {
    /// What the client wants.
    pub channel: Channel,
    /// Members the protocol does not define, in their order.
    pub extra: Map<String, Value>,
}

impl From<Channel> for Handshake {
    fn from(channel: Channel) -> Self {
        Handshake { channel, extra: Map::new() }
    }
}

impl Handshake {
    /// Reads the payload of a first frame; the 64 KiB limit is the decoder's.
    pub fn parse(payload: &[u8]) -> Result<Self, MessageError> {
        let Message { body, extra } = Message::parse(payload)?;
        Ok(Handshake { channel: body, extra })
    }

    /// The payload: members in canonical order, then extra ones.
    pub fn to_json(&self) -> Vec<u8> {
        let (body, extra) = (self.channel.clone(), self.extra.clone());
        Message { body, extra }.to_json()
    }
}

/// The daemon's answer to a version 2 handshake (protocol 2, section 3.1).
#[derive(Debug, Clone, PartialEq)]
pub struct Capabilities {
    /// The version in use. A daemon sends `v2` or no such frame at all.
    pub protocol: String,
    /// Members the protocol does not define, in their order.
    pub extra: Map<String, Value>,
}

#[derive(Serialize, Deserialize)]
struct CapabilitiesBody {
    protocol: String,
}

impl Body for CapabilitiesBody {
    const TAG: Tag = Tag::None(&["protocol"]);
}

impl Capabilities {
    /// The capabilities of version 2, the only ones a daemon may send.
    pub fn v2() -> Self {
        Capabilities { protocol: V2.to_owned(), extra: Map::new() }
    }

    /// Reads the payload of an untyped frame.
    pub fn parse(payload: &[u8]) -> Result<Self, MessageError> {
        let Message { body, extra } = Message::<CapabilitiesBody>::parse(payload)?;
        Ok(Capabilities { protocol: body.protocol, extra })
    }

    /// The payload: the version, then extra members.
    pub fn to_json(&self) -> Vec<u8> {
        let protocol = self.protocol.clone();
        Message { body: CapabilitiesBody { protocol }, extra: self.extra.clone() }.to_json()
    }
}

/// How a client reads the daemon's first frame (protocol 2, section 3.1).
#[derive(Debug, Clone, PartialEq)]
pub enum FirstFrame {
    /// Continue with typed frames.
    V2(Capabilities),
    /// Pass the frame to the sync decoder: the daemon uses version 1, or sent garbage.
    V1,
}

/// Reads the daemon's first frame. Anything but capabilities of version 2 is [`FirstFrame::V1`].
pub fn first_frame(frame: &[u8]) -> FirstFrame {
    match Capabilities::parse(frame) {
        Ok(capabilities) if capabilities.protocol == V2 => FirstFrame::V2(capabilities),
        _ => FirstFrame::V1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notebook(protocol: Option<&str>) -> Channel {
        Channel::Notebook { notebook_id: "abc".to_owned(), protocol: protocol.map(str::to_owned) }
    }

    #[test]
    fn only_exactly_v2_on_the_notebook_channel_is_version_2() {
        assert_eq!(notebook(Some("v2")).protocol(), Protocol::V2);
        for other in [None, Some("v1"), Some("V2"), Some("v2 "), Some("v3"), Some("")] {
            assert_eq!(notebook(other).protocol(), Protocol::V1);
        }
        assert_eq!(Channel::Pool.protocol(), Protocol::V1);
        let pool = Handshake::parse(br#"{"channel":"pool","protocol":"v2"}"#).unwrap();
        assert_eq!(pool.channel.protocol(), Protocol::V1);
    }

    #[test]
    fn extensions_follow_the_defined_members() {
        let mut handshake = Handshake::from(notebook(Some("v2")));
        handshake.extra.insert("rtd".to_owned(), 1.into());
        let json = handshake.to_json();
        assert_eq!(json, br#"{"channel":"notebook_sync","notebook_id":"abc","protocol":"v2","rtd":1}"#);
        assert_eq!(Handshake::parse(&json), Ok(handshake));

        let mut capabilities = Capabilities::v2();
        capabilities.extra.insert("pid".to_owned(), 7.into());
        let json = capabilities.to_json();
        assert_eq!(json, br#"{"protocol":"v2","pid":7}"#);
        assert_eq!(first_frame(&json), FirstFrame::V2(capabilities));
    }

    #[test]
    fn what_is_not_version_2_goes_to_the_sync_decoder() {
        let frames: [&[u8]; 6] = [
            b"",
            b"B\x00\x00\x00",
            br#"{"protocol":"v1"}"#,
            br#"{"protocol":2}"#,
            br#"["v2"]"#,
            br#"{"protocol":"v2"}x"#,
        ];
        for frame in frames {
            assert_eq!(first_frame(frame), FirstFrame::V1);
        }
    }
}
