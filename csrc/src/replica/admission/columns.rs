//! Storey 1: the numbers and columns inside a chunk of Automerge's storage format.
//!
//! Source: the binary document format of Automerge.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::DeflateDecoder;

use super::chunks::leb128;

/// Bit of a column's specification: it is deflated.
pub const DEFLATED: u64 = 8;

/// Bytes that do not have the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable;

/// The unread rest of some bytes.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn number(&mut self) -> Result<u64, Unreadable> {
        let (value, width) = leb128(self.0).ok_or(Unreadable)?;
        self.0 = &self.0[width..];
        Ok(value)
    }

    /// A number, signed or not, that does not matter.
    pub fn skip(&mut self) -> Result<&'a [u8], Unreadable> {
        let last = self.0.iter().take(10).position(|byte| byte & 0x80 == 0).ok_or(Unreadable)?;
        self.take(last as u64 + 1)
    }

    /// A signed number: its sign is the highest of the bits that are written.
    fn signed(&mut self) -> Result<i64, Unreadable> {
        let written = self.skip()?;
        let mut value: i128 = 0;
        for (place, byte) in written.iter().enumerate() {
            value |= i128::from(byte & 0x7f) << (7 * place);
        }
        if written.last().is_some_and(|byte| byte & 0x40 != 0) {
            value -= 1 << (7 * written.len());
        }
        i64::try_from(value).map_err(|_| Unreadable)
    }

    pub fn take(&mut self, length: u64) -> Result<&'a [u8], Unreadable> {
        let length = usize::try_from(length).map_err(|_| Unreadable)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Unreadable)?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn bytes(&mut self) -> Result<&'a [u8], Unreadable> {
        let length = self.number()?;
        self.take(length)
    }

    pub fn list(&mut self) -> Result<Vec<&'a [u8]>, Unreadable> {
        (0..self.number()?).map(|_| self.bytes()).collect()
    }

    /// The bytes of a list of hashes, 32 for each.
    pub fn hashes(&mut self) -> Result<&'a [u8], Unreadable> {
        let count = self.number()?;
        self.take(count.saturating_mul(32))
    }

    /// Specification and length in bytes of each column.
    pub fn columns(&mut self) -> Result<Vec<(u64, u64)>, Unreadable> {
        let mut columns = Vec::new();
        for _ in 0..self.number()? {
            columns.push((self.number()?, self.number()?));
        }
        Ok(columns)
    }

    /// Reads a change up to its columns, and their specifications as [`Reader::columns`] returns them.
    pub fn change_columns(&mut self) -> Result<Vec<(u64, u64)>, Unreadable> {
        self.hashes()?;
        self.bytes()?; // The author.
        for _ in 0..3 {
            self.skip()?; // Sequence number, first operation, time.
        }
        self.bytes()?; // The message.
        self.list()?; // Other authors.
        self.columns()
    }

    /// Reads the columns of a whole document from its beginning: those of its changes, and those of their operations.
    pub fn document(&mut self) -> Result<(Columns<'a>, Columns<'a>), Unreadable> {
        self.list()?; // Authors.
        self.hashes()?;
        let (changes, operations) = (self.columns()?, self.columns()?);
        Ok((self.unpacked(&changes)?, self.unpacked(&operations)?))
    }

    /// Reads columns with the specifications that [`Reader::columns`] returned. Their unpacked size must have been
    /// checked before.
    pub fn unpacked(&mut self, columns: &[(u64, u64)]) -> Result<Columns<'a>, Unreadable> {
        let mut unpacked = Vec::new();
        for (specification, length) in columns {
            let bytes = self.take(*length)?;
            let column = match specification & DEFLATED {
                0 => Cow::from(bytes),
                _ => inflated(bytes, u64::MAX)?.into(),
            };
            unpacked.push((specification & !DEFLATED, column));
        }
        Ok(Columns(unpacked))
    }
}

/// Columns by their specifications, unpacked.
pub struct Columns<'a>(Vec<(u64, Cow<'a, [u8]>)>);

impl Columns<'_> {
    /// A column; no bytes if there is none.
    pub fn get(&self, specification: u64) -> &[u8] {
        self.0.iter().find(|(is, _)| *is == specification).map_or(&[][..], |(_, column)| column)
    }
}

/// What the values of a column are.
enum Kind {
    /// Numbers without a sign.
    Numbers,
    /// Texts: only their presence is reported.
    Texts,
    /// Numbers with or without a sign: only their presence is reported.
    Others,
    /// Differences to the number before, with a sign. A run has equal differences.
    Deltas,
    /// Ones and zeros in turn, zeros first; only the lengths of their runs are written.
    Flags,
}

/// The values of a column, where rows of equal ones are runs; zero stands for a value of which only the presence is
/// reported.
pub struct Values<'a> {
    reader: Reader<'a>,
    kind: Kind,
    /// Values that follow one by one.
    single: u64,
    /// Rows that are left of a run that is taken row by row, and their value.
    run: (u64, Option<u64>),
    /// The value of the next run of flags.
    flag: u64,
    /// The sum of the differences so far; less than zero if it is very large.
    sum: u64,
}

impl<'a> Values<'a> {
    pub fn numbers(column: &'a [u8]) -> Self {
        Self::of(column, Kind::Numbers)
    }

    pub fn texts(column: &'a [u8]) -> Self {
        Self::of(column, Kind::Texts)
    }

    pub fn others(column: &'a [u8]) -> Self {
        Self::of(column, Kind::Others)
    }

    pub fn flags(column: &'a [u8]) -> Self {
        Self::of(column, Kind::Flags)
    }

    /// Numbers, each of which is written as the difference to the one before. To be taken row by row.
    pub fn deltas(column: &'a [u8]) -> Self {
        Self::of(column, Kind::Deltas)
    }

    fn of(column: &'a [u8], kind: Kind) -> Self {
        Self { reader: Reader::new(column), kind, single: 0, run: (0, None), flag: 0, sum: 0 }
    }

    /// The next rows that have one value, or none: how many they are, and the value.
    pub fn run(&mut self) -> Result<Option<(u64, Option<u64>)>, Unreadable> {
        while self.single == 0 {
            if self.reader.0.is_empty() {
                return Ok(None);
            }
            if let Kind::Flags = self.kind {
                self.flag ^= 1;
                return Ok(Some((self.reader.number()?, Some(self.flag ^ 1))));
            }
            let length = self.reader.signed()?;
            match length {
                0 => return Ok(Some((self.reader.number()?, None))),
                1.. => return Ok(Some((length.unsigned_abs(), Some(self.read()?)))),
                _ => self.single = length.unsigned_abs(),
            }
        }
        self.single -= 1;
        Ok(Some((1, Some(self.read()?))))
    }

    /// The next row; none after the last (another column may have more rows).
    pub fn row(&mut self) -> Result<Option<Option<u64>>, Unreadable> {
        while self.run.0 == 0 {
            let Some(run) = self.run()? else { return Ok(None) };
            self.run = run;
        }
        self.run.0 -= 1;
        if let (Kind::Deltas, Some(difference)) = (&self.kind, self.run.1) {
            self.sum = self.sum.wrapping_add(difference);
            return Ok(Some(Some(self.sum)));
        }
        Ok(Some(self.run.1))
    }

    fn read(&mut self) -> Result<u64, Unreadable> {
        match self.kind {
            Kind::Numbers | Kind::Flags => self.reader.number(),
            Kind::Deltas => self.reader.signed().map(|difference| difference as u64),
            Kind::Texts => self.reader.bytes().map(|_| 0),
            Kind::Others => self.reader.skip().map(|_| 0),
        }
    }
}

/// Inflates bytes, up to `limit` bytes.
pub fn inflated(data: &[u8], limit: u64) -> Result<Vec<u8>, Unreadable> {
    let mut unpacked = Vec::new();
    DeflateDecoder::new(data).take(limit).read_to_end(&mut unpacked).map_err(|_| Unreadable)?;
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn rows(mut values: Values<'_>) -> Result<Vec<Option<u64>>, Unreadable> {
        let mut rows = Vec::new();
        while let Some(row) = values.row()? {
            rows.push(row);
        }
        Ok(rows)
    }

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut packed = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(bytes).unwrap();
        packed.finish().unwrap()
    }

    #[test]
    fn runs_single_values_and_rows_without_a_value() {
        // Three times 7; 1 and 2; two rows of nothing; 300 once.
        let column = [3, 7, 0x7e, 1, 2, 0, 2, 1, 0xac, 2];
        let read = rows(Values::numbers(&column)).unwrap();
        assert_eq!(read, [Some(7), Some(7), Some(7), Some(1), Some(2), None, None, Some(300)]);
        let mut runs = Values::numbers(&column);
        assert_eq!(runs.run(), Ok(Some((3, Some(7)))));
        assert_eq!(runs.run(), Ok(Some((1, Some(1)))));
        assert_eq!(rows(Values::numbers(&[])), Ok(vec![]));
    }

    #[test]
    fn differences_are_added_up() {
        // 5, then four times one more, then two less.
        let column = [0x7f, 5, 4, 1, 0x7f, 0x7e];
        let read: Vec<u64> = rows(Values::deltas(&column)).unwrap().into_iter().flatten().collect();
        assert_eq!(read, [5, 6, 7, 8, 9, 7]);
    }

    #[test]
    fn flags_take_turns_and_begin_with_zero() {
        let read: Vec<u64> = rows(Values::flags(&[2, 1, 3])).unwrap().into_iter().flatten().collect();
        assert_eq!(read, [0, 0, 1, 0, 0, 0]);
        let read: Vec<u64> = rows(Values::flags(&[0, 2])).unwrap().into_iter().flatten().collect();
        assert_eq!(read, [1, 1]);
    }

    #[test]
    fn of_texts_and_others_only_the_presence_is_reported() {
        let texts = [2, 1, b'k', 0, 1, 0x7f, 2, b'a', b'b'];
        assert_eq!(rows(Values::texts(&texts)), Ok(vec![Some(0), Some(0), None, Some(0)]));
        assert_eq!(rows(Values::others(&[2, 0xff, 0x7f])), Ok(vec![Some(0), Some(0)]));
    }

    #[test]
    fn a_column_that_ends_too_early_is_unreadable() {
        for column in [&[3][..], &[0x7e, 1], &[0], &[0x80], &[0xff; 11]] {
            assert_eq!(rows(Values::numbers(column)), Err(Unreadable), "{column:?}");
        }
        assert_eq!(rows(Values::texts(&[1, 5, b'k'])), Err(Unreadable));
        assert_eq!(rows(Values::flags(&[0x80])), Err(Unreadable));
    }

    #[test]
    fn signed_numbers_have_their_sign_in_the_highest_bit_written() {
        let read = |bytes: &[u8]| Reader::new(bytes).signed();
        assert_eq!(read(&[0x3f]), Ok(63));
        assert_eq!(read(&[0x40]), Ok(-64));
        assert_eq!(read(&[0xc0, 0]), Ok(64));
        assert_eq!(read(&[0x7f]), Ok(-1));
        assert_eq!(read(&[0x80; 3]), Err(Unreadable));
        let mut least = [0x80; 10];
        least[9] = 0x7f;
        assert_eq!(read(&least), Ok(i64::MIN));
        least[9] = 0x3f;
        assert_eq!(read(&least), Err(Unreadable), "more than 64 bits");
    }

    #[test]
    fn columns_are_found_by_their_specification_also_when_they_are_packed() {
        let packed = packed(&[2, 9]);
        let said = [(0x42, 2), (0x13 | DEFLATED, packed.len() as u64)];
        let bytes = [&[1, 7][..], &packed, &[0xee]].concat();
        let mut reader = Reader::new(&bytes);
        let columns = reader.unpacked(&said).unwrap();
        assert_eq!(
            (columns.get(0x42), columns.get(0x13), columns.get(0x99)),
            (&[1, 7][..], &[2, 9][..], &[][..])
        );
        assert_eq!(reader.take(2), Err(Unreadable), "one byte is left");
        assert_eq!(reader.take(1), Ok(&[0xee][..]));
        let mut short = Reader::new(&bytes[..3]);
        assert!(short.unpacked(&said).is_err());
    }

    #[test]
    fn lists_and_hashes_begin_with_their_length() {
        let mut reader = Reader::new(&[2, 1, b'a', 0, 5]);
        assert_eq!(reader.list(), Ok(vec![&b"a"[..], &b""[..]]));
        assert_eq!(reader.number(), Ok(5));
        let hashes = [&[2][..], &[7; 64], &[1]].concat();
        assert_eq!(Reader::new(&hashes).hashes(), Ok(&[7; 64][..]));
        assert_eq!(Reader::new(&hashes[..64]).hashes(), Err(Unreadable));
        assert_eq!(Reader::new(&[0xff; 9]).hashes(), Err(Unreadable));
    }

    #[test]
    fn unpacking_stops_at_the_limit() {
        let packed = packed(&[0; 1000]);
        assert_eq!(inflated(&packed, 10).unwrap().len(), 10);
        assert_eq!(inflated(&packed, u64::MAX).unwrap().len(), 1000);
        assert_eq!(inflated(&[0xff; 9], u64::MAX), Err(Unreadable));
    }
}
