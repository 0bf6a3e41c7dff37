//! Storey 1: the chunk framing of Automerge's storage format.
//!
//! A saved document, a change and the payload of a sync message are all sequences of chunks: magic,
//! four bytes of checksum, one type byte, a LEB128 length, that many bytes. The engine skips chunks it
//! cannot read when it loads incrementally; finding the boundaries here distinguishes a torn file
//! and a damaged message from a good one before anything is applied.

/// The first bytes of every chunk.
const MAGIC: [u8; 4] = [0x85, 0x6f, 0x4a, 0x83];
/// Bytes before the length: magic, checksum, type.
const FIXED: usize = 9;

/// Reads one unsigned LEB128 number; the value and the bytes it took.
pub fn leb128(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().enumerate().take(10) {
        let part = u64::from(byte & 0x7f);
        let shifted = part << (7 * i);
        if shifted >> (7 * i) != part {
            return None;
        }
        value |= shifted;
        if byte & 0x80 == 0 {
            return Some((value, i + 1));
        }
    }
    None
}

/// What the first chunk of some bytes holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One change, deflated or not.
    Change,
    /// A whole document.
    Document,
    /// A bundle, or something newer.
    Other,
}

/// The kind of the first chunk and its length in bytes with its header, if all of it is there.
pub fn first(bytes: &[u8]) -> Option<(Kind, usize)> {
    if bytes.get(..MAGIC.len())? != MAGIC {
        return None;
    }
    let kind = match bytes.get(FIXED - 1)? {
        0 => Kind::Document,
        1 | 2 => Kind::Change,
        _ => Kind::Other,
    };
    let (length, width) = leb128(&bytes[FIXED..])?;
    let end = usize::try_from(length).ok()?.checked_add(FIXED + width)?;
    (end <= bytes.len()).then_some((kind, end))
}

/// The type byte of the first chunk, what it holds, and what follows it; none if not all of it is there.
pub fn split(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (_, length) = first(bytes)?;
    let (_, width) = leb128(&bytes[FIXED..])?;
    Some((bytes[FIXED - 1], &bytes[FIXED + width..length], &bytes[length..]))
}

/// True if one of the chunks somewhere in `bytes` is packed (a deflated change, a whole document): a few bytes
/// may stand for millions of operations.
pub fn any_packed(bytes: &[u8]) -> bool {
    let kinds =
        bytes.windows(FIXED).filter(|window| window.starts_with(&MAGIC)).map(|window| window[FIXED - 1]);
    kinds.into_iter().any(|kind| kind != 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leb128_reads_what_it_should_and_stops_at_nonsense() {
        assert_eq!(leb128(&[0x00]), Some((0, 1)));
        assert_eq!(leb128(&[0xe5, 0x8e, 0x26, 0xff]), Some((624_485, 3)));
        assert_eq!(leb128(&[0xff; 9]), None);
        let mut max = [0xff; 10];
        max[9] = 0x01;
        assert_eq!(leb128(&max), Some((u64::MAX, 10)));
        max[9] = 0x02;
        assert_eq!(leb128(&max), None);
        assert_eq!(leb128(&[]), None);
    }

    #[test]
    fn packed_chunks_are_seen_wherever_they_stand() {
        let change = [0x85, 0x6f, 0x4a, 0x83, 1, 2, 3, 4, 1, 3, 7, 7, 7];
        let mut deflated = change;
        deflated[8] = 2;
        assert!(!any_packed(&[]));
        assert!(!any_packed(&change));
        assert!(!any_packed(&change[..8]));
        assert!(any_packed(&deflated));
        assert!(any_packed(&[b"other".as_slice(), &change, &deflated[..9]].concat()));
    }

    #[test]
    fn boundaries() {
        let mut chunk = vec![0x85, 0x6f, 0x4a, 0x83, 1, 2, 3, 4, 1, 3, 7, 7, 7];
        assert_eq!(first(&chunk), Some((Kind::Change, 13)));
        assert_eq!(split(&chunk), Some((1, &[7, 7, 7][..], &[][..])));
        assert_eq!(split(&chunk[..12]), None);
        assert_eq!(first(&[]), None);
        chunk.extend_from_slice(&chunk.clone());
        assert_eq!(split(&chunk), Some((1, &[7, 7, 7][..], &chunk[13..])));
        chunk[0] = 0;
        assert_eq!(first(&chunk), None);
        // A length that would overflow the address space is not a chunk.
        let huge = [
            0x85, 0x6f, 0x4a, 0x83, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
        ];
        assert_eq!(first(&huge), None);
    }
}
