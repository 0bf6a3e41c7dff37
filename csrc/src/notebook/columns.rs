//! Storey 1: the numbers and columns inside a chunk of Automerge's storage format, read without unpacking them.
//!
//! Source: the binary document format of Automerge.

use super::chunks::leb128;

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

    pub(super) fn bytes(&mut self) -> Result<(), Unreadable> {
        let length = self.number()?;
        self.take(length).map(drop)
    }

    pub(super) fn list(&mut self) -> Result<(), Unreadable> {
        for _ in 0..self.number()? {
            self.bytes()?;
        }
        Ok(())
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
