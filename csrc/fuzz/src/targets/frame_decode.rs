//! Frames out of a byte stream. Invariants, against a plain reader of the whole stream:
//! - any cut of the stream gives the same payloads and the same end;
//! - a length over the limit is an error as soon as its fourth byte is there, not before, and for ever;
//! - the end of the stream is judged by its place, whether complete frames still wait or not;
//! - no more bytes are kept than were pushed, and none after an error;
//! - the payloads, written again, are the bytes they came from; so are typed frames and their types.

use runtimed_ffi::wire::frame::{self, Decoder, CONTROL_LIMIT, DATA_LIMIT};
use runtimed_ffi::wire::typed::split;
use runtimed_ffi::wire::FrameError;

use super::script::{first, pieces};

const LIMITS: [usize; 6] = [DATA_LIMIT, CONTROL_LIMIT, 300, 5, 1, 0];

/// Sizes around those where the decoder changes its way.
const SIZES: [usize; 8] = [0, 1, 70_000, 4_096, 65_535, 65_536, 65_537, 131_072];

/// What a stream means.
#[derive(Debug, PartialEq)]
struct Reading {
    frames: Vec<Vec<u8>>,
    end: Result<(), FrameError>,
    /// Bytes that must have come before the error can be known.
    known_at: Option<usize>,
    /// Bytes that were handed out, with their headers.
    consumed: usize,
}

/// One byte for both limits (the first frame has its own, as behind a handshake), one for the size of the pieces,
/// then the stream; or, with the high bit of the first byte, what big frames it is made of.
pub fn check(data: &[u8]) {
    let (flags, rest) = first(data);
    let (cut, rest) = first(rest);
    let big = flags & 0x80 != 0;
    let limits = (LIMITS[usize::from(flags & 7) % 6], LIMITS[usize::from(flags >> 3 & 7) % 6]);
    let stream = if big { big_frames(rest) } else { rest.to_vec() };
    let expected = read(&stream, limits);
    let mut out = Vec::new();
    for payload in &expected.frames {
        frame::append(&mut out, None, payload).unwrap();
        match split(payload) {
            Ok((kind, body)) => assert_eq!(frame::encode_typed(kind, body).unwrap()[4..], payload[..]),
            Err(FrameError::Empty) => assert!(payload.is_empty()),
            Err(FrameError::UnknownType(byte)) => assert!(byte == payload[0] && byte > 3),
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(out, stream[..expected.consumed]);
    decode(pieces(&stream, 0), limits, &expected);
    if big {
        // As sockets give them: some kilobytes at a time.
        decode(stream.chunks(usize::from(cut) * 512 + 1_000), limits, &expected);
    } else {
        decode(pieces(&stream, cut), limits, &expected);
        decode(pieces(&stream, 1), limits, &expected);
    }
}

fn big_frames(sizes: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    for byte in sizes.iter().take(5) {
        let size = SIZES[usize::from(byte & 7)];
        // Some headers announce more than follows.
        let announced = size + usize::from(byte >> 6 == 3);
        stream.extend((announced as u32).to_be_bytes());
        stream.resize(stream.len() + size, *byte);
    }
    stream
}

/// The plain reader.
fn read(stream: &[u8], limits: (usize, usize)) -> Reading {
    let mut reading = Reading { frames: Vec::new(), end: Ok(()), known_at: None, consumed: 0 };
    loop {
        let rest = &stream[reading.consumed..];
        let limit = if reading.frames.is_empty() { limits.0 } else { limits.1 };
        if rest.len() < 4 {
            reading.end = if rest.is_empty() { Ok(()) } else { Err(FrameError::EofInHeader) };
            return reading;
        }
        let length = rest[..4].iter().fold(0, |length, byte| length * 256 + usize::from(*byte));
        if length > limit {
            reading.end = Err(FrameError::TooLarge { announced: length as u64, limit });
            reading.known_at = Some(reading.consumed + 4);
            return reading;
        }
        if rest.len() - 4 < length {
            reading.end = Err(FrameError::EofInBody);
            return reading;
        }
        reading.frames.push(rest[4..4 + length].to_vec());
        reading.consumed += 4 + length;
    }
}

fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>, limits: (usize, usize), expected: &Reading) {
    let mut decoder = Decoder::new(limits.0);
    let mut frames = expected.frames.iter();
    let (mut pushed, mut taken) = (0, 0);
    for piece in pieces {
        pushed += piece.len();
        decoder.push(piece);
        if expected.known_at.is_some_and(|at| pushed - piece.len() >= at) {
            assert_eq!(decoder.buffered(), 0);
        } else {
            assert_eq!(decoder.buffered(), pushed - taken);
        }
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    assert_eq!(Some(&frame), frames.next());
                    taken += 4 + frame.len();
                    decoder.set_limit(limits.1);
                }
                Ok(None) => break assert!(expected.known_at.is_none_or(|at| pushed < at), "found too late"),
                Err(error) => {
                    assert_eq!(Err(&error), expected.end.as_ref());
                    assert!(expected.known_at.is_some_and(|at| at <= pushed), "found too early");
                    assert_eq!(decoder.buffered(), 0);
                    assert_eq!(decoder.next_frame(), Err(error));
                    break;
                }
            }
        }
    }
    assert!(frames.next().is_none(), "a frame is missing");
    assert_eq!(decoder.finish(), expected.end);
}
