//! Storey 1, frames: a 4-byte big-endian length, then that many payload bytes (protocol 2, section 2).
//! Works on byte buffers only.

use super::error::FrameError;
use super::typed::FrameType;

/// Largest payload of the first frame of a connection, in bytes (protocol 2, section 2.2).
pub const CONTROL_LIMIT: usize = 65_536;

/// Largest payload of every later frame, in bytes; a type byte counts (protocol 2, section 2.2).
pub const DATA_LIMIT: usize = 104_857_600;

/// Bytes of the length in front of every payload.
const HEADER: usize = 4;

/// An empty buffer larger than this (bytes) is given back to the allocator, so that one big document
/// does not cost its size for the rest of the connection.
const KEEP_CAPACITY: usize = 256 * 1024;

/// Frames from this size on (bytes) are handed out without a second copy where possible.
const BIG_FRAME: usize = 64 * 1024;

/// The bytes of one untyped frame, header included, to be written at once (protocol 2, section 2.5).
pub fn encode(payload: &[u8]) -> Result<Vec<u8>, FrameError> {
    let mut out = Vec::new();
    append(&mut out, None, payload)?;
    Ok(out)
}

/// The bytes of one typed frame, header and type byte included (protocol 2, section 5.1).
pub fn encode_typed(kind: FrameType, payload: &[u8]) -> Result<Vec<u8>, FrameError> {
    let mut out = Vec::new();
    append(&mut out, Some(kind), payload)?;
    Ok(out)
}

/// Appends one frame to `out`, so that several frames leave in one write. On an error `out` is as it
/// was: a reader would refuse the frame, and part of it would ruin the stream.
pub fn append(out: &mut Vec<u8>, kind: Option<FrameType>, payload: &[u8]) -> Result<(), FrameError> {
    let length = payload.len() + usize::from(kind.is_some());
    if length > DATA_LIMIT {
        return Err(FrameError::TooLarge { announced: length as u64, limit: DATA_LIMIT });
    }
    out.reserve(HEADER + length);
    // The limit is far below 4 GiB: nothing is cut off.
    out.extend_from_slice(&(length as u32).to_be_bytes());
    out.extend(kind.map(|kind| kind as u8));
    out.extend_from_slice(payload);
    Ok(())
}

/// Cuts a byte stream into frame payloads, however the stream was cut on its way.
///
/// Feed bytes with [`push`](Decoder::push), take payloads with [`next_frame`](Decoder::next_frame)
/// until it gives `None`, and call [`finish`](Decoder::finish) at the end of the stream. Memory grows
/// with the bytes received, never with the length announced. An error is final: there is no way to find
/// the next frame after a bad one.
#[derive(Debug)]
pub struct Decoder {
    limit: usize,
    buffer: Vec<u8>,
    /// Bytes at the front of `buffer` that were handed out already.
    consumed: usize,
    failed: Option<FrameError>,
}

impl Decoder {
    /// A decoder that accepts payloads of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Decoder { limit, buffer: Vec::new(), consumed: 0, failed: None }
    }

    /// Sets the limit (payload bytes) for the frames not handed out yet: a server raises it from
    /// [`CONTROL_LIMIT`] to [`DATA_LIMIT`] after the handshake.
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Takes bytes as they came from the peer. After an error they are dropped.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_some() {
            return;
        }
        // Close the gap only when it is at least as large as what has to be moved: each byte is then
        // moved a bounded number of times on average, however small the pieces are.
        if self.consumed > 0 && self.consumed >= self.buffered() {
            self.buffer.drain(..self.consumed);
            self.consumed = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete payload; `None` when more bytes are needed. The length is checked as soon as
    /// the header is there. After an error every call gives the same error.
    pub fn next_frame(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        match self.length_at(self.consumed) {
            Ok(Some(length)) if self.buffered() - HEADER >= length => {
                let start = self.consumed + HEADER;
                Ok(Some(self.take(start, start + length)))
            }
            Ok(_) => Ok(None),
            Err(error) => {
                self.buffer = Vec::new();
                self.consumed = 0;
                self.failed = Some(error.clone());
                Err(error)
            }
        }
    }

    /// Whether the stream may end here: `Ok` between two frames, an error inside one. Complete
    /// frames still waiting for [`next_frame`](Decoder::next_frame) are no error.
    pub fn finish(&self) -> Result<(), FrameError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let mut at = self.consumed;
        while at < self.buffer.len() {
            let length = self.length_at(at)?.ok_or(FrameError::EofInHeader)?;
            at += HEADER;
            if self.buffer.len() - at < length {
                return Err(FrameError::EofInBody);
            }
            at += length;
        }
        Ok(())
    }

    /// Bytes received and not handed out yet, headers included.
    pub fn buffered(&self) -> usize {
        self.pending().len()
    }

    /// What was received and not handed out yet, headers included.
    pub fn pending(&self) -> &[u8] {
        &self.buffer[self.consumed..]
    }

    /// The payload length that the header at `at` announces, if all its bytes are there.
    fn length_at(&self, at: usize) -> Result<Option<usize>, FrameError> {
        let Some(header) = self.buffer[at..].first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let announced = u32::from_be_bytes(*header);
        match usize::try_from(announced) {
            Ok(length) if length <= self.limit => Ok(Some(length)),
            _ => Err(FrameError::TooLarge { announced: announced.into(), limit: self.limit }),
        }
    }

    /// Removes `start..end` of the buffer (and all before) and returns it.
    fn take(&mut self, start: usize, end: usize) -> Vec<u8> {
        let rest = self.buffer.len() - end;
        // A big frame takes the buffer along, and what follows moves to a new one. Not when much
        // follows: moving all of it for each of many frames would cost their square.
        if end - start >= BIG_FRAME && rest <= end - start {
            let tail = self.buffer.split_off(end);
            let mut frame = std::mem::replace(&mut self.buffer, tail);
            frame.drain(..start);
            self.consumed = 0;
            return frame;
        }
        let frame = self.buffer[start..end].to_vec();
        self.consumed = end;
        if rest == 0 {
            self.consumed = 0;
            self.buffer.clear();
            if self.buffer.capacity() > KEEP_CAPACITY {
                self.buffer = Vec::new();
            }
        }
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(decoder: &mut Decoder) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        while let Some(frame) = decoder.next_frame().unwrap() {
            frames.push(frame);
        }
        frames
    }

    #[test]
    fn every_cut_gives_the_same_frames() {
        let payloads: Vec<Vec<u8>> = (0..40usize).map(|n| vec![n as u8; n * n]).collect();
        let mut stream = Vec::new();
        for payload in &payloads {
            append(&mut stream, None, payload).unwrap();
        }
        for size in [1, 2, 3, 4, 5, 7, 64, 1000, stream.len()] {
            let mut decoder = Decoder::new(DATA_LIMIT);
            let mut frames = Vec::new();
            for piece in stream.chunks(size) {
                decoder.push(piece);
                frames.append(&mut drain(&mut decoder));
            }
            assert_eq!(frames, payloads, "pieces of {size}");
            assert_eq!(decoder.finish(), Ok(()));
            assert_eq!(decoder.buffered(), 0);
        }
    }

    #[test]
    fn big_frames_between_others_arrive_and_their_memory_is_released() {
        let big = vec![7u8; 3 * 1024 * 1024];
        let mut stream = encode(b"before").unwrap();
        append(&mut stream, None, &big).unwrap();
        append(&mut stream, None, b"after").unwrap();
        let mut decoder = Decoder::new(DATA_LIMIT);
        let mut frames = Vec::new();
        for piece in stream.chunks(65_536) {
            decoder.push(piece);
            frames.append(&mut drain(&mut decoder));
        }
        assert_eq!(frames, [b"before".to_vec(), big, b"after".to_vec()]);
        assert!(decoder.buffer.capacity() <= KEEP_CAPACITY);

        // Many frames of middle size in one piece: handed out by copying, released at the end.
        let middle = vec![1u8; BIG_FRAME];
        let mut stream = Vec::new();
        for _ in 0..64 {
            append(&mut stream, None, &middle).unwrap();
        }
        decoder.push(&stream);
        assert_eq!(drain(&mut decoder).len(), 64);
        assert!(decoder.buffer.capacity() <= KEEP_CAPACITY);
    }

    #[test]
    fn a_length_over_the_limit_is_refused_at_its_fourth_byte_and_stays_refused() {
        let mut decoder = Decoder::new(CONTROL_LIMIT);
        decoder.push(&[0, 1, 0]);
        assert_eq!(decoder.next_frame(), Ok(None));
        decoder.push(&[1]);
        let error = decoder.next_frame().unwrap_err();
        assert_eq!(error.to_string(), "frame too large: 65537 bytes (max 65536)");
        decoder.push(&encode(b"fine").unwrap());
        assert_eq!(decoder.buffered(), 0);
        assert_eq!(decoder.next_frame(), Err(error.clone()));
        assert_eq!(decoder.finish(), Err(error));
    }

    #[test]
    fn an_announced_length_alone_costs_nothing() {
        let mut decoder = Decoder::new(DATA_LIMIT);
        decoder.push(&(DATA_LIMIT as u32).to_be_bytes());
        assert_eq!(decoder.next_frame(), Ok(None));
        assert!(decoder.buffer.capacity() < 64);
    }

    #[test]
    fn the_limit_of_a_frame_is_the_one_set_when_it_is_taken() {
        let large = vec![0u8; CONTROL_LIMIT + 1];
        let mut decoder = Decoder::new(CONTROL_LIMIT);
        decoder.push(&encode(b"hello").unwrap());
        decoder.push(&encode(&large).unwrap());
        assert_eq!(decoder.next_frame(), Ok(Some(b"hello".to_vec())));
        decoder.set_limit(DATA_LIMIT);
        assert_eq!(decoder.next_frame(), Ok(Some(large)));
    }

    #[test]
    fn the_stream_may_end_only_between_two_frames() {
        let mut decoder = Decoder::new(DATA_LIMIT);
        decoder.push(&encode(b"ab").unwrap());
        assert_eq!(decoder.finish(), Ok(()));
        decoder.push(&[0, 0]);
        assert_eq!(decoder.finish(), Err(FrameError::EofInHeader));
        decoder.push(&[0, 3, 1]);
        assert_eq!(decoder.finish(), Err(FrameError::EofInBody));
        decoder.push(&[2, 3]);
        assert_eq!(decoder.finish(), Ok(()));
        assert_eq!(drain(&mut decoder), [b"ab".to_vec(), vec![1, 2, 3]]);
    }

    #[test]
    fn a_writer_refuses_what_no_reader_accepts() {
        let payload = vec![0u8; DATA_LIMIT];
        assert_eq!(encode(&payload).map(|frame| frame.len()), Ok(DATA_LIMIT + 4));
        let mut out = vec![9];
        let error = append(&mut out, Some(FrameType::Sync), &payload).unwrap_err();
        assert_eq!(error.class(), "frame_too_large");
        assert_eq!(out, [9]);
    }
}
