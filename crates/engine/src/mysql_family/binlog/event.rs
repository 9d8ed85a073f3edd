//! Events of a binary or relay log, read one after another: what MariaDB and MySQL have in common. Which of them make
//! up a transaction is the dialect's to know.

use std::io::{self, Read};

/// Bytes at the beginning of each file.
pub const MAGIC: [u8; 4] = [0xfe, b'b', b'i', b'n'];
/// Bytes before an event's body.
pub const HEADER: usize = 19;
/// Bytes of a checksum.
const CHECKSUM: usize = 4;
/// The type of an event that describes those behind it.
pub const FORMAT: u8 = 15;

/// One event, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// All its bytes.
    pub bytes: Vec<u8>,
}

/// Reads the events of a file one after another, up to the end of what is whole. A crash of the machine leaves zeroes where
/// something was not synced, at the end of a file or among what was: so where events carry checksums, they are looked at.
#[derive(Debug, Clone, Default)]
pub struct Reader {
    checked: bool,
}

impl Reader {
    /// Reads the next event; `None` at the end of what is whole so far.
    pub fn next(&mut self, from: &mut impl Read) -> io::Result<Option<Event>> {
        let mut bytes = Vec::with_capacity(256);
        if from.take(HEADER as u64).read_to_end(&mut bytes)? < HEADER {
            return Ok(None);
        }
        let Some(rest) = u64::from(u32_at(&bytes, 9)).checked_sub(HEADER as u64) else { return Ok(None) };
        if (from.take(rest).read_to_end(&mut bytes)? as u64) < rest {
            return Ok(None);
        }
        let event = Event { bytes };
        if event.is_format() {
            self.checked = event.says_checked();
        } else if self.checked && !event.is_as_written() {
            return Ok(None);
        }
        Ok(Some(event))
    }

    /// What stands behind an event's header, up to its checksum, which is of the header, too.
    pub fn content<'a>(&self, event: &'a Event) -> &'a [u8] {
        let body = event.body();
        if self.checked { &body[..body.len().saturating_sub(CHECKSUM)] } else { body }
    }
}

impl Event {
    /// Seconds since 1970: when the statement began, at its source.
    pub fn when(&self) -> u32 {
        u32_at(&self.bytes, 0)
    }

    /// Its type.
    pub fn kind(&self) -> u8 {
        self.bytes.get(4).copied().unwrap_or(0)
    }

    /// What stands behind its header.
    pub fn body(&self) -> &[u8] {
        self.bytes.get(HEADER..).unwrap_or_default()
    }

    /// The words of an event that is a statement.
    pub fn statement(&self) -> &[u8] {
        // Thread, seconds, length of the database's name, error, length of the variables; then these, a zero.
        let body = self.body();
        let database = usize::from(body.get(8).copied().unwrap_or(0));
        let variables =
            usize::from(body.get(11).copied().unwrap_or(0)) | usize::from(body.get(12).copied().unwrap_or(0)) << 8;
        body.get(13 + variables + database + 1..).unwrap_or_default()
    }

    /// Whether it describes the events that follow.
    pub fn is_format(&self) -> bool {
        self.kind() == FORMAT
    }

    /// Whether a description says that the events behind it end with a checksum: before its own stands the kind, 1 is CRC-32.
    fn says_checked(&self) -> bool {
        self.body().len() > CHECKSUM && self.bytes[self.bytes.len() - CHECKSUM - 1] == 1
    }

    /// Whether its checksum is that of its bytes.
    fn is_as_written(&self) -> bool {
        let end = self.bytes.len() - CHECKSUM.min(self.bytes.len());
        crc32fast::hash(&self.bytes[..end]) == u32_at(&self.bytes, end)
    }
}

/// A number at a place; 0 behind the end.
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// What an event is to the groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place<G> {
    /// It begins a group (one that was open counts for nothing).
    Begins(G),
    /// It belongs to the open group.
    Inside,
    /// It is the last of the open group.
    Ends(G),
    /// It belongs to no group.
    Outside,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_is_not_whole_is_the_end() {
        let mut whole = vec![0; HEADER + 8];
        whole[9] = u8::try_from(whole.len()).expect("small");
        let read = |mut bytes: &[u8]| Reader::default().next(&mut bytes).expect("readable");
        assert!(read(&whole).is_some());
        for length in 0..whole.len() {
            assert_eq!(read(&whole[..length]), None);
        }
        assert_eq!(read(&[0; 40]), None, "nothing was written there");
    }

    #[test]
    fn an_event_that_is_not_as_its_checksum_says_is_the_end() {
        let event = |kind: u8, body: &[u8]| {
            let mut bytes = [&[0; 4], &[kind][..], &[0; 14], body].concat();
            bytes[9] = u8::try_from(bytes.len() + CHECKSUM).expect("small");
            bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
            bytes
        };
        let file = [event(FORMAT, &[4, 0, 1]), event(23, b"rows and rows"), event(16, &[0; 8])].concat();
        let read = |mut bytes: &[u8]| {
            let (mut reader, mut kinds) = (Reader::default(), Vec::new());
            while let Some(event) = reader.next(&mut bytes).expect("readable") {
                kinds.push(event.kind());
            }
            kinds
        };
        assert_eq!(read(&file), [FORMAT, 23, 16]);
        let rows = event(FORMAT, &[4, 0, 1]).len() + HEADER;
        let torn = [&file[..rows], &[0; 4], &file[rows + 4..]].concat();
        assert_eq!(read(&torn), [FORMAT]);
        // Without checksums nobody can tell.
        let plain = [event(FORMAT, &[4, 0, 0]), torn[rows - HEADER..].to_vec()].concat();
        assert_eq!(read(&plain), [FORMAT, 23, 16]);
    }
}
