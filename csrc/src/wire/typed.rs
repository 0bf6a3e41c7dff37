//! Storey 1, the type byte in front of every notebook frame after the capabilities (protocol 2,
//! section 5.1). Works on byte slices only.

use super::error::FrameError;

/// What a typed frame holds (protocol 2, section 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameType {
    /// An Automerge sync message, binary; sent by both sides.
    Sync = 0,
    /// A JSON request; sent by the client.
    Request = 1,
    /// A JSON response; sent by the daemon.
    Response = 2,
    /// A JSON broadcast; sent by the daemon.
    Broadcast = 3,
}

impl TryFrom<u8> for FrameType {
    type Error = FrameError;

    fn try_from(byte: u8) -> Result<Self, FrameError> {
        match byte {
            0 => Ok(FrameType::Sync),
            1 => Ok(FrameType::Request),
            2 => Ok(FrameType::Response),
            3 => Ok(FrameType::Broadcast),
            other => Err(FrameError::UnknownType(other)),
        }
    }
}

/// Splits the payload of a frame into its type and what follows the type byte.
pub fn split(frame: &[u8]) -> Result<(FrameType, &[u8]), FrameError> {
    let (&kind, payload) = frame.split_first().ok_or(FrameError::Empty)?;
    Ok((FrameType::try_from(kind)?, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_a_type_or_an_error() {
        for byte in 0..=u8::MAX {
            match FrameType::try_from(byte) {
                Ok(kind) => assert!(byte < 4 && kind as u8 == byte),
                Err(error) => assert!(byte >= 4 && error == FrameError::UnknownType(byte)),
            }
        }
        assert_eq!(FrameError::UnknownType(0x0a).to_string(), "unknown notebook frame type: 0x0a");
    }

    #[test]
    fn the_payload_is_what_follows_the_type() {
        assert_eq!(split(&[0, 0, 1]), Ok((FrameType::Sync, &[0u8, 1][..])));
        assert_eq!(split(&[3]), Ok((FrameType::Broadcast, &[][..])));
        assert_eq!(split(&[]), Err(FrameError::Empty));
    }
}
