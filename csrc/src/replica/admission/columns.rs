//! Storey 1: the numbers and columns inside a chunk of Automerge's storage format.
//!
//! Source: the binary document format of Automerge.

use std::borrow::Cow;
use std::io::Read;

use flate2::read::DeflateDecoder;

use super::chunks::leb128;

/// Bit of a column's specification: it is deflated.
pub const DEFLATED: u64 = 8;

/// Bytes that are not made as the format wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unreadable;

/// What is left of some bytes.
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

    /// Reads a change up to its columns, and what [`Reader::columns`] says of them.
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

    /// Reads columns of which is known what [`Reader::columns`] says. How much they are when unpacked must have been
    /// weighed before.
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
    /// Texts, of which it is only told that they are there.
    Texts,
    /// Numbers with or without a sign, of which it is only told that they are there.
    Others,
    /// Differences to the number before, with a sign. A run has equal differences.
    Deltas,
    /// Ones and zeros in turn, zeros first; only the lengths of their runs are written.
    Flags,
}

/// The values of a column, where rows of equal ones are runs; zero stands for each of which it is only told that it is
/// there.
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

    /// The next row; none behind the last, which another column may have more of.
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

/// What deflated bytes are, cut off behind `limit` bytes.
pub fn inflated(data: &[u8], limit: u64) -> Result<Vec<u8>, Unreadable> {
    let mut unpacked = Vec::new();
    DeflateDecoder::new(data).take(limit).read_to_end(&mut unpacked).map_err(|_| Unreadable)?;
    Ok(unpacked)
}
