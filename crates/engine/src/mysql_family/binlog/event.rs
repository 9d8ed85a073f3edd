//! Events of a binary or relay log, read one after another: what MariaDB and MySQL have in common. Which of them make
//! up a transaction is the dialect's to know.

use std::io::{self, Read};

/// Bytes at the beginning of each file.
pub const MAGIC: [u8; 4] = [0xfe, b'b', b'i', b'n'];
/// Bytes before an event's body.
pub const HEADER: usize = 19;
/// The type of an event that describes those behind it.
pub const FORMAT: u8 = 15;

/// One event, whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// All its bytes.
    pub bytes: Vec<u8>,
}

impl Event {
    /// Reads the next event; `None` at the end of what is written so far.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut bytes = Vec::with_capacity(256);
        if from.take(HEADER as u64).read_to_end(&mut bytes)? < HEADER {
            return Ok(None);
        }
        let size = u64::from(u32_at(&bytes, 9));
        let Some(rest) = size.checked_sub(HEADER as u64) else {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an event of a binary log has no sensible size"));
        };
        let read = from.take(rest).read_to_end(&mut bytes)?;
        Ok((read as u64 == rest).then_some(Self { bytes }))
    }

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
        assert!(Event::read(&mut whole.as_slice()).expect("readable").is_some());
        for length in 0..whole.len() {
            assert_eq!(Event::read(&mut &whole[..length]).expect("readable"), None);
        }
        assert!(Event::read(&mut &[0_u8; 40][..]).is_err());
    }
}
