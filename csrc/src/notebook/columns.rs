//! Storey 1: the numbers and columns inside a chunk of Automerge's storage format, read without unpacking them.
//!
//! Source: the binary document format of Automerge.

use super::chunks::leb128;

/// Bit of a column's specification: it is deflated.
pub(super) const DEFLATED: u64 = 8;

/// Bytes that are not made as the format wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unreadable;

/// What is left of some bytes.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn number(&mut self) -> Result<u64, Unreadable> {
        let (value, width) = leb128(self.0).ok_or(Unreadable)?;
        self.0 = &self.0[width..];
        Ok(value)
    }

    /// A number, signed or not, that does not matter.
    pub(super) fn skip(&mut self) -> Result<&'a [u8], Unreadable> {
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

    pub(super) fn take(&mut self, length: u64) -> Result<&'a [u8], Unreadable> {
        let length = usize::try_from(length).map_err(|_| Unreadable)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Unreadable)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Unreadable> {
        let length = self.number()?;
        self.take(length)
    }

    pub(super) fn list(&mut self) -> Result<Vec<&'a [u8]>, Unreadable> {
        (0..self.number()?).map(|_| self.bytes()).collect()
    }

    /// The bytes of a list of hashes, 32 for each.
    pub(super) fn hashes(&mut self) -> Result<&'a [u8], Unreadable> {
        let count = self.number()?;
        self.take(count.saturating_mul(32))
    }

    /// Specification and length in bytes of each column.
    pub(super) fn columns(&mut self) -> Result<Vec<(u64, u64)>, Unreadable> {
        let mut columns = Vec::new();
        for _ in 0..self.number()? {
            columns.push((self.number()?, self.number()?));
        }
        Ok(columns)
    }

    /// Runs of equal values, of different ones, of none: the sum of what each row counts.
    pub(super) fn runs(
        &mut self,
        value: impl Fn(&mut Self) -> Result<u64, Unreadable>,
    ) -> Result<u64, Unreadable> {
        let mut sum: u64 = 0;
        while !self.0.is_empty() {
            let length = self.signed()?;
            let count = length.unsigned_abs();
            match length {
                0 => sum = sum.saturating_add(self.number()?),
                1.. => sum = sum.saturating_add(count.saturating_mul(value(self)?)),
                _ => {
                    for _ in 0..count {
                        sum = sum.saturating_add(value(self)?);
                    }
                }
            }
        }
        Ok(sum)
    }

    /// Reads a change up to its columns, and what [`Reader::columns`] says of them.
    pub(super) fn change_columns(&mut self) -> Result<Vec<(u64, u64)>, Unreadable> {
        self.hashes()?;
        self.bytes()?; // The author.
        for _ in 0..3 {
            self.skip()?; // Sequence number, first operation, time.
        }
        self.bytes()?; // The message.
        self.list()?; // Other authors.
        self.columns()
    }
}

/// The values of a column, row by row.
pub(super) struct Values<'a> {
    reader: Reader<'a>,
    /// Of texts it is only told whether they are there.
    texts: bool,
    /// Rows of this run that are left, and their value unless each has one of its own.
    left: u64,
    value: Option<Option<u64>>,
}

impl<'a> Values<'a> {
    /// Of a column of numbers, which are not signed.
    pub(super) fn numbers(column: &'a [u8]) -> Self {
        Self { reader: Reader::new(column), texts: false, left: 0, value: None }
    }

    /// Of a column of texts; zero stands for each.
    pub(super) fn texts(column: &'a [u8]) -> Self {
        Self { texts: true, ..Self::numbers(column) }
    }

    /// The next row; none behind the last, which another column may have more of.
    pub(super) fn next(&mut self) -> Result<Option<Option<u64>>, Unreadable> {
        while self.left == 0 {
            if self.reader.is_empty() {
                return Ok(None);
            }
            let length = self.reader.signed()?;
            (self.left, self.value) = match length {
                0 => (self.reader.number()?, Some(None)),
                1.. => (length.unsigned_abs(), Some(Some(self.read()?))),
                _ => (length.unsigned_abs(), None),
            };
        }
        self.left -= 1;
        match self.value {
            Some(value) => Ok(Some(value)),
            None => Ok(Some(Some(self.read()?))),
        }
    }

    fn read(&mut self) -> Result<u64, Unreadable> {
        if self.texts {
            self.reader.bytes().map(|_| 0)
        } else {
            self.reader.number()
        }
    }
}
