//! Cursors by name, and the bytes in which they are stored.

use std::io;

use super::cursor::Cursor;
use crate::{
    error::{Error, Result},
    name_map::NameMap,
};

/// As many bytes as a name of a consumer may have.
pub(super) const MAX_NAME_BYTES: usize = 64;
pub(super) const MAX_NAMES: usize = 256;
/// What a slot takes at most.
const MAX_SLOT_BYTES: usize = HEAD_LEN + MAX_NAMES * (MAX_NAME_BYTES + 18) + CRC_LEN;

pub(super) const MAGIC: [u8; 8] = *b"palyra\x00\xC5";
const VERSION: u32 = 1;
pub(super) const HEAD_LEN: usize = 28;
const CRC_LEN: usize = 4;

/// The cursors that were saved last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct CursorTable {
    cursors: NameMap<Cursor>,
    /// Others were saved, and lost to damage.
    is_incomplete: bool,
}

impl CursorTable {
    /// No cursors, since all were lost to damage.
    pub(super) fn incomplete() -> Self {
        Self { is_incomplete: true, ..Self::default() }
    }

    pub(super) fn is_incomplete(&self) -> bool {
        self.is_incomplete
    }

    pub(super) fn get(&self, name: &str) -> Option<Cursor> {
        self.cursors.get(name).copied()
    }

    pub(super) fn all(&self) -> Vec<(Box<str>, Cursor)> {
        self.cursors.iter().map(|(name, cursor)| (name.into(), *cursor)).collect()
    }

    /// # Errors
    ///
    /// `InvalidConfig` for a name that is empty or too long, and if there are too many.
    pub(super) fn set(&mut self, name: &str, cursor: Cursor) -> Result<()> {
        check_name(name)?;
        if let Some(known) = self.cursors.get_mut(name) {
            *known = cursor;
        } else if self.cursors.len() < MAX_NAMES {
            self.cursors.insert(name.into(), cursor);
        } else {
            return Err(Error::invalid_config(format!("a store keeps at most {MAX_NAMES} cursors")));
        }
        Ok(())
    }

    /// The content of a slot. The greater `generation` is the newer one.
    pub(super) fn encode(&self, generation: u64) -> Vec<u8> {
        let mut body = Vec::new();
        for (name, cursor) in self.cursors.iter() {
            body.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
            body.extend_from_slice(name.as_bytes());
            body.push(u8::from(cursor.epoch().is_some()));
            body.extend_from_slice(&cursor.epoch().unwrap_or_default().to_le_bytes());
            body.extend_from_slice(&cursor.seq().to_le_bytes());
        }
        let mut bytes = Vec::with_capacity(HEAD_LEN + body.len() + CRC_LEN);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&generation.to_le_bytes());
        bytes.extend_from_slice(&u32::from(self.is_incomplete).to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(&body);
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// How long the content of a slot is that begins with these bytes; `None` if it is not valid.
    pub(super) fn encoded_len(head: &[u8]) -> Option<usize> {
        let len = head.strip_prefix(&MAGIC)?.get(16..)?.first_chunk()?;
        let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
        Some(HEAD_LEN.saturating_add(len).saturating_add(CRC_LEN)).filter(|len| *len <= MAX_SLOT_BYTES)
    }

    /// The cursors in a slot, and their generation, which is not the greatest; `None` if it is damaged, or
    /// empty.
    ///
    /// # Errors
    ///
    /// [`Unsupported`](io::ErrorKind::Unsupported) if a later version of this crate wrote it. That must not
    /// pass for damage, after which the slot would be overwritten.
    pub(super) fn decode(slot: &[u8]) -> io::Result<Option<(u64, Self)>> {
        match Self::decode_any(slot) {
            // No store gets there. Nothing could be saved after the greatest one.
            Some((VERSION, u64::MAX, _)) => Ok(None),
            Some((VERSION, generation, table)) => Ok(table.map(|table| (generation, table))),
            Some((version, ..)) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                format!("the cursors have format {version}, and this version of the crate reads {VERSION}"),
            )),
            None => Ok(None),
        }
    }

    /// The version and generation of an undamaged slot, whose cursors may be of another format.
    fn decode_any(slot: &[u8]) -> Option<(u32, u64, Option<Self>)> {
        let rest = slot.strip_prefix(&MAGIC)?;
        let (version, rest) = rest.split_first_chunk()?;
        let (generation, rest) = rest.split_first_chunk()?;
        let (flags, rest) = rest.split_first_chunk()?;
        let (len, rest) = rest.split_first_chunk()?;
        let len = usize::try_from(u32::from_le_bytes(*len)).ok()?;
        let (body, rest) = rest.split_at_checked(len)?;
        let crc = u32::from_le_bytes(*rest.first_chunk()?);
        if crc != crc32fast::hash(slot.get(..HEAD_LEN + len)?) {
            return None;
        }
        let is_incomplete = u32::from_le_bytes(*flags) != 0;
        let table = decode_cursors(body).map(|cursors| Self { cursors, is_incomplete });
        Some((u32::from_le_bytes(*version), u64::from_le_bytes(*generation), table))
    }
}

fn decode_cursors(mut body: &[u8]) -> Option<NameMap<Cursor>> {
    let mut cursors = NameMap::default();
    while let Some((name_len, rest)) = body.split_first() {
        let (name, rest) = rest.split_at_checked(usize::from(*name_len))?;
        let (has_epoch, rest) = rest.split_first()?;
        let (epoch, rest) = rest.split_first_chunk()?;
        let (seq, rest) = rest.split_first_chunk()?;
        let epoch = (*has_epoch == 1).then_some(u64::from_le_bytes(*epoch));
        let cursor = Cursor::new(epoch, u64::from_le_bytes(*seq));
        cursors.insert(std::str::from_utf8(name).ok()?.into(), cursor);
        body = rest;
    }
    Some(cursors)
}

pub(super) fn check_name(name: &str) -> Result<()> {
    if (1..=MAX_NAME_BYTES).contains(&name.len()) {
        return Ok(());
    }
    let len = name.len();
    Err(Error::invalid_config(format!(
        "the name of a cursor has {len} bytes, and may have 1 to {MAX_NAME_BYTES}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn table() -> CursorTable {
        let mut table = CursorTable::default();
        table.set("gateway", Cursor::new(Some(5), 41)).unwrap();
        table.set("é", Cursor::new(None, u64::MAX)).unwrap();
        table
    }

    #[test]
    fn a_table_survives_as_bytes() {
        for is_incomplete in [false, true] {
            let table = CursorTable { is_incomplete, ..table() };
            assert_eq!(CursorTable::decode(&table.encode(7)).unwrap(), Some((7, table.clone())));
            assert_eq!(CursorTable::encoded_len(&table.encode(7)), Some(table.encode(7).len()));
            // A slot is longer than what is in it.
            assert_eq!(
                CursorTable::decode(&[table.encode(7), vec![1; 9]].concat()).unwrap(),
                Some((7, table))
            );
        }
    }

    #[test]
    fn every_byte_is_covered_by_the_checksum() {
        let bytes = table().encode(7);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert_eq!(CursorTable::decode(&damaged).unwrap(), None, "byte {at}");
            assert_eq!(CursorTable::decode(&bytes[..at]).unwrap(), None, "cut at {at}");
        }
    }

    #[test]
    fn a_later_format_is_told_from_damage() {
        let mut bytes = table().encode(7);
        let content = bytes.len() - CRC_LEN;
        bytes[MAGIC.len()] += 1;
        assert_eq!(CursorTable::decode(&bytes).unwrap(), None, "the checksum is wrong");
        let crc = crc32fast::hash(&bytes[..content]);
        bytes[content..].copy_from_slice(&crc.to_le_bytes());
        let error = CursorTable::decode(&bytes).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::Unsupported);
        assert!(error.to_string().contains("format 2"), "{error}");
    }

    #[test]
    fn names_are_bounded_and_the_largest_table_fits_a_slot() {
        let mut table = CursorTable::default();
        for n in 0..MAX_NAMES {
            table.set(&format!("{n:064}"), Cursor::new(Some(u64::MAX), u64::MAX)).unwrap();
        }
        assert_eq!(table.encode(u64::MAX).len(), MAX_SLOT_BYTES);
        let known = format!("{:064}", 3);
        table.set(&known, Cursor::new(None, 1)).unwrap();
        for name in ["", &"x".repeat(65), "one more"] {
            let error = table.set(name, Cursor::new(None, 1)).unwrap_err();
            assert_eq!(error.kind(), &ErrorKind::InvalidConfig, "{name}");
        }
        assert_eq!(table.get(&known), Some(Cursor::new(None, 1)));
    }
}
