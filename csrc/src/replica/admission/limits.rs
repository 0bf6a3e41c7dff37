//! Storey 1: how many operations a chunk of Automerge's storage format stands for.
//!
//! A few bytes may stand for more operations than any memory holds: columns are run-length encoded and deflated. The
//! engine would notice only while it allocates them. So they are counted first, by the lengths of the runs, which costs
//! no more than reading the bytes. Source: the binary document format of Automerge.

use super::chunks;
use super::columns::{inflated, Reader, Unreadable, Values, DEFLATED};

/// Operations of one change. A character that is written or deleted is one; checking a change takes about 250 bytes for
/// each.
pub const CHANGE_OPERATIONS: u64 = 1 << 22;
/// Operations of one message or file: the whole history of a notebook, when a peer joins.
const OPERATIONS: u64 = 1 << 26;
/// Bytes that the packed parts of one message or file may unpack to.
const UNPACKED: u64 = 256 << 20;

const DOCUMENT: u8 = 0;
const CHANGE: u8 = 1;
const DEFLATED_CHANGE: u8 = 2;

/// Why the engine does not get a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitExceeded {
    /// More than [`CHANGE_OPERATIONS`] in one.
    Change,
    /// More than [`OPERATIONS`].
    Operations,
    /// More than [`UNPACKED`] bytes.
    Unpacked,
    /// A chunk of none of the known kinds, or malformed.
    Unreadable,
}

impl std::fmt::Display for LimitExceeded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Change => write!(f, "more than {CHANGE_OPERATIONS} operations in one change"),
            Self::Operations => write!(f, "more than {OPERATIONS} operations"),
            Self::Unpacked => write!(f, "more than {} MiB when unpacked", UNPACKED >> 20),
            Self::Unreadable => f.write_str("damaged changes"),
        }
    }
}

/// Refuses a change of our own that no peer would take.
///
/// # Errors
/// It has too many operations.
pub fn check_own(operations: usize) -> Result<(), LimitExceeded> {
    if operations as u64 > CHANGE_OPERATIONS {
        return Err(LimitExceeded::Change);
    }
    Ok(())
}

impl From<Unreadable> for LimitExceeded {
    fn from(_: Unreadable) -> Self {
        Self::Unreadable
    }
}

/// Counts the operations and unpacked bytes of one message or file.
#[derive(Debug, Default)]
pub struct OpCount {
    operations: u64,
    unpacked: u64,
}

impl OpCount {
    /// Adds whole chunks, one after the other.
    ///
    /// # Errors
    /// A limit is exceeded now, or the size cannot be determined.
    pub fn add(&mut self, mut bytes: &[u8]) -> Result<(), LimitExceeded> {
        while !bytes.is_empty() {
            let (kind, body, rest) = chunks::split(bytes).ok_or(LimitExceeded::Unreadable)?;
            match kind {
                CHANGE => self.change(&mut Reader::new(body))?,
                DEFLATED_CHANGE => {
                    let body = self.inflate(body)?;
                    self.change(&mut Reader::new(&body))?;
                }
                DOCUMENT => self.document(&mut Reader::new(body))?,
                _ => return Err(LimitExceeded::Unreadable),
            }
            bytes = rest;
        }
        Ok(())
    }

    fn change(&mut self, reader: &mut Reader<'_>) -> Result<(), LimitExceeded> {
        let columns = reader.change_columns()?;
        if self.columns(reader, &columns)? > CHANGE_OPERATIONS {
            return Err(LimitExceeded::Change);
        }
        Ok(())
    }

    fn document(&mut self, reader: &mut Reader<'_>) -> Result<(), LimitExceeded> {
        reader.list()?; // Authors.
        reader.hashes()?;
        let (changes, operations) = (reader.columns()?, reader.columns()?);
        self.columns(reader, &changes)?;
        self.columns(reader, &operations)?;
        Ok(())
    }

    /// The number of operations: the rows of the longest column.
    fn columns(&mut self, reader: &mut Reader<'_>, columns: &[(u64, u64)]) -> Result<u64, LimitExceeded> {
        let mut longest = 0;
        for (specification, length) in columns {
            let data = reader.take(*length)?;
            let rows = if specification & DEFLATED == 0 {
                rows(*specification, data)?
            } else {
                rows(*specification, &self.inflate(data)?)?
            };
            longest = longest.max(rows);
        }
        self.operations = self.operations.saturating_add(longest);
        if self.operations > OPERATIONS {
            return Err(LimitExceeded::Operations);
        }
        Ok(longest)
    }

    fn inflate(&mut self, data: &[u8]) -> Result<Vec<u8>, LimitExceeded> {
        // One byte more shows that there are too many.
        let unpacked = inflated(data, UNPACKED - self.unpacked + 1)?;
        self.unpacked += unpacked.len() as u64;
        if self.unpacked > UNPACKED {
            return Err(LimitExceeded::Unpacked);
        }
        Ok(unpacked)
    }
}

/// Rows of an encoded column; for a group column, which counts the rows of other columns, those.
fn rows(specification: u64, column: &[u8]) -> Result<u64, Unreadable> {
    let kind = specification & 7;
    let mut values = match kind {
        0 => Values::numbers(column),
        4 => Values::flags(column),
        5 => Values::texts(column),
        // Raw values: another column has their lengths.
        7 => return Ok(0),
        _ => Values::others(column),
    };
    let mut rows: u64 = 0;
    while let Some((count, value)) = values.run()? {
        let each = if kind == 0 { value.unwrap_or(0).max(1) } else { 1 };
        rows = rows.saturating_add(count.saturating_mul(each));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notebook::{Notebook, Op};

    fn counted(bytes: &[u8]) -> Result<u64, LimitExceeded> {
        let mut count = OpCount::default();
        count.add(bytes)?;
        Ok(count.operations)
    }

    fn notebook(text: &str) -> Notebook {
        let mut notebook = Notebook::create("n").unwrap();
        notebook.edit(&[Op::insert_cell("a", "code", text, None)]).unwrap();
        notebook
    }

    /// An unsigned number.
    fn leb(mut value: u64, out: &mut Vec<u8>) {
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }

    fn chunk(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut chunk = vec![0x85, 0x6f, 0x4a, 0x83, 0, 0, 0, 0, kind];
        leb(body.len() as u64, &mut chunk);
        chunk.extend(body);
        chunk
    }

    /// A change with one column.
    fn change(specification: u64, column: &[u8]) -> Vec<u8> {
        let mut body = vec![0, 1, 7, 1, 1, 0, 0, 0, 1];
        leb(specification, &mut body);
        leb(column.len() as u64, &mut body);
        body.extend(column);
        body
    }

    /// A run of `rows` equal values; the sign of the number must not be taken for a part of it.
    fn run(rows: u64, value: u8) -> Vec<u8> {
        let mut column = Vec::new();
        let mut left = rows;
        while left >= 0x40 {
            column.push(left as u8 | 0x80);
            left >>= 7;
        }
        column.extend([left as u8, value]);
        column
    }

    #[test]
    fn a_character_is_one_operation() {
        for text in ["", "x", "\u{1f40d} é中", &"abc\n".repeat(5_000), &"x".repeat(100_000)] {
            let notebook = notebook(text);
            let characters = text.chars().count() as u64;
            let changes: u64 = counted(&notebook.save_since(&[])).unwrap();
            assert!((characters..characters + 30).contains(&changes), "{changes} for {characters}");
            let saved = counted(&notebook.save()).unwrap();
            assert!((characters..characters + 40).contains(&saved), "{saved} for {characters}");
        }
    }

    #[test]
    fn a_few_bytes_that_stand_for_more_than_any_memory_holds_are_refused() {
        // Action, object, delta, boolean, text, group: any column can give the number of rows.
        let mut boolean = Vec::new();
        leb(1 << 40, &mut boolean);
        let columns = [
            (0x42, run(1 << 40, 1)),
            (0x11, run(1 << 40, 0)),
            (0x13, run(1 << 40, 1)),
            (0x34, boolean),
            (0x15, [run(1 << 40, 1), vec![b'k']].concat()),
            (0x70, run(1 << 20, 0x7f)),
            (0x42, [vec![0], run(1 << 40, 0)[..6].to_vec()].concat()),
        ];
        for (specification, column) in columns {
            let body = change(specification, &column);
            assert_eq!(counted(&chunk(1, &body)), Err(LimitExceeded::Operations), "{specification:#x}");
        }
        let allowed = chunk(1, &change(0x42, &run(CHANGE_OPERATIONS, 1)));
        assert_eq!(counted(&allowed), Ok(CHANGE_OPERATIONS));
        let one_more = chunk(1, &change(0x42, &run(CHANGE_OPERATIONS + 1, 1)));
        assert_eq!(counted(&one_more), Err(LimitExceeded::Change));
        let full = allowed.repeat((OPERATIONS / CHANGE_OPERATIONS) as usize);
        assert_eq!(counted(&full), Ok(OPERATIONS));
        let more = [full, chunk(1, &change(0x42, &run(1, 1)))].concat();
        assert_eq!(counted(&more), Err(LimitExceeded::Operations), "all chunks of a message together");
    }

    #[test]
    fn a_file_with_such_a_change_is_refused() {
        let chunk = chunk(1, &change(0x42, &run(1 << 40, 1)));
        for file in [chunk.clone(), [notebook("text").save(), chunk].concat()] {
            let error = Notebook::load_prefix(&file).unwrap_err();
            assert!(error.to_string().contains("more than 67108864 operations"), "{error}");
        }
    }

    #[test]
    fn a_message_with_such_a_change_changes_nothing() {
        let mut notebook = notebook("text");
        let before = notebook.heads();
        let chunk = chunk(1, &change(0x42, &run(1 << 40, 1)));
        // Version 1, no heads, no needs, nothing it has, one change.
        let mut message = vec![0x42, 0, 0, 0, 1];
        leb(chunk.len() as u64, &mut message);
        message.extend(chunk);
        let error = crate::replica::PeerSync::new().receive(&mut notebook, &message).unwrap_err();
        assert!(error.to_string().contains("more than 67108864 operations"), "{error}");
        assert_eq!(notebook.heads(), before);
    }

    #[test]
    fn a_change_that_no_peer_would_accept_is_not_made() {
        assert!(check_own(CHANGE_OPERATIONS as usize).is_ok());
        let error = check_own(CHANGE_OPERATIONS as usize + 1).unwrap_err();
        assert!(error.to_string().contains("more than 4194304 operations in one change"), "{error}");
    }

    #[test]
    fn what_unpacks_without_end_is_refused() {
        use std::io::Write;
        let mut packed = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        let zeros = vec![0; 1 << 20];
        for _ in 0..=(UNPACKED >> 20) {
            packed.write_all(&zeros).unwrap();
        }
        assert_eq!(counted(&chunk(2, &packed.finish().unwrap())), Err(LimitExceeded::Unpacked));
    }

    #[test]
    fn what_cannot_be_counted_is_refused() {
        let saved = notebook("text").save();
        let body = chunks::split(&saved).unwrap().1.len();
        for cut in 0..body {
            let start = saved.len() - body;
            let _counted_or_refused = counted(&chunk(0, &saved[start..start + cut]));
        }
        assert_eq!(counted(&chunk(3, b"")), Err(LimitExceeded::Unreadable));
        assert_eq!(counted(&chunk(1, &[0xff; 40])), Err(LimitExceeded::Unreadable));
        assert_eq!(counted(&chunk(2, &[0xff; 40])), Err(LimitExceeded::Unreadable));
        assert_eq!(counted(b"no chunk"), Err(LimitExceeded::Unreadable));
    }
}
