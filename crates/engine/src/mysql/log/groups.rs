//! The transactions that the events of a MySQL log make up.
//!
//! ```text
//! GTID ▶ BEGIN or XA START ▶ rows, statements … ▶ XID | COMMIT | ROLLBACK | XA PREPARE
//! GTID ▶ one statement (DDL, XA COMMIT …)
//! GTID ▶ one payload, which holds a whole transaction, compressed
//! ```
//!
//! Layouts: `libs/mysql/binlog/event/control_events.h` of MySQL. A transaction may go on in the next file of a relay
//! log; one that never ends is begun again, and what there was of it counts for nothing.

use super::set::{Gtid, Origin};
use crate::mysql_family::binlog::dialect;
use crate::mysql_family::binlog::event::{Event, FORMAT, Place};

const QUERY: u8 = 2;
const STOP: u8 = 3;
const ROTATE: u8 = 4;
const XID: u8 = 16;
const INCIDENT: u8 = 26;
const HEARTBEAT: u8 = 27;
const GTID: u8 = 33;
const PREVIOUS_GTIDS: u8 = 35;
const XA_PREPARE: u8 = 38;
const PAYLOAD: u8 = 40;
const HEARTBEAT_2: u8 = 41;
const GTID_TAGGED: u8 = 42;

fn is_of_the_file(event: &Event) -> bool {
    matches!(event.kind(), STOP | ROTATE | FORMAT | INCIDENT | HEARTBEAT | HEARTBEAT_2 | PREVIOUS_GTIDS)
}

/// Follows transactions from event to event.
#[derive(Debug, Clone, Default)]
pub struct Groups {
    open: Option<Gtid>,
    /// Whether the open transaction goes on until its commit.
    begun: bool,
    /// When the one begun last was committed, in microseconds since 1970.
    micros: u64,
}

impl dialect::Groups<Gtid> for Groups {
    fn place(&mut self, event: &Event) -> Place<Gtid> {
        let begins = match event.kind() {
            GTID => plain(event.body()),
            GTID_TAGGED => tagged(event.body()),
            _ => None,
        };
        if let Some((gtid, micros)) = begins {
            (self.open, self.begun, self.micros) = (Some(gtid.clone()), false, micros);
            return Place::Begins(gtid);
        }
        let Some(gtid) = self.open.clone().filter(|_| !is_of_the_file(event)) else { return Place::Outside };
        let ends = match event.kind() {
            XID | XA_PREPARE | PAYLOAD => true,
            QUERY if self.begun => says(event, b"COMMIT") || says(event, b"ROLLBACK"),
            QUERY => {
                let text = event.statement();
                self.begun = text.starts_with(b"BEGIN") || text.starts_with(b"XA START");
                !self.begun
            }
            _ => false,
        };
        if ends {
            self.open = None;
            return Place::Ends(gtid);
        }
        Place::Inside
    }

    fn when(&self, _: &Event) -> u64 {
        self.micros
    }
}

/// Whether a statement is a word, and nothing but a checksum follows it: `ROLLBACK TO x` ends nothing.
fn says(event: &Event, word: &[u8]) -> bool {
    event.statement().strip_prefix(word).is_some_and(|rest| matches!(rest.len(), 0 | 4))
}

fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + length)?;
    Some(bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
}

/// Flags, UUID, number, a 2, two numbers of the parallel applier, then the time: 7 bytes whose highest bit says that
/// another one follows, of the server where the transaction was first committed.
fn plain(body: &[u8]) -> Option<(Gtid, u64)> {
    let uuid = body.get(1..17)?.try_into().map(u128::from_be_bytes).ok()?;
    let micros = number(body, 42, 7)? & !(1 << 55);
    Some((Gtid { origin: Origin { uuid, tag: None }, number: number(body, 17, 8)? }, micros))
}

/// What `mysql::serialization` writes: version, length, the last field that must be known, then fields: their number
/// and their value. Numbers have as many bytes as their first one has ones at its low end, and one more.
fn tagged(body: &[u8]) -> Option<(Gtid, u64)> {
    let mut rest = Varints(body);
    for _ in 0..3 {
        rest.next()?;
    }
    let (mut uuid, mut count, mut tag) = (0_u128, None, None);
    loop {
        match rest.next()? {
            0 => drop(rest.next()?),
            1 => {
                for _ in 0..16 {
                    uuid = uuid << 8 | u128::from(rest.next()? & 0xff);
                }
            }
            // Signed: the lowest bit is the sign.
            2 => count = Some(rest.next()? >> 1),
            3 => {
                let length = usize::try_from(rest.next()?).ok()?;
                let word = std::str::from_utf8(rest.take(length)?).ok()?;
                tag = (length > 0).then(|| word.into());
            }
            4 | 5 => drop(rest.next()?),
            6 => return Some((Gtid { origin: Origin { uuid, tag }, number: count? }, rest.next()?)),
            _ => return None,
        }
    }
}

struct Varints<'a>(&'a [u8]);

impl<'a> Varints<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn next(&mut self) -> Option<u64> {
        let more = usize::try_from(self.0.first()?.trailing_ones()).ok()?;
        let bytes = self.take(more + 1)?;
        match more {
            8 => number(bytes, 1, 8),
            // Bits of the ones and the zero behind them; with 7 ones the whole first byte is theirs.
            _ => Some(number(bytes, 0, more + 1)? >> (more + 1)),
        }
    }
}

#[cfg(test)]
pub mod forge {
    //! Events as MySQL writes them, without checksums.
    use super::*;
    use crate::mysql_family::binlog::event::HEADER;

    /// One event.
    pub fn event(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = 5_u32.to_le_bytes().to_vec();
        bytes.push(kind);
        bytes.extend(7_u32.to_le_bytes());
        bytes.extend(u32::try_from(HEADER + body.len()).expect("small").to_le_bytes());
        bytes.extend([0; 6]);
        bytes.extend(body);
        bytes
    }

    /// The beginning of a transaction.
    pub fn gtid(number: u64, micros: u64) -> Vec<u8> {
        let mut body = vec![0];
        body.extend(0xa_u128.to_be_bytes());
        body.extend(number.to_le_bytes());
        body.push(2);
        body.extend([0; 16]);
        body.extend(&micros.to_le_bytes()[..7]);
        event(GTID, &body)
    }

    /// A statement.
    pub fn query(text: &str) -> Vec<u8> {
        let mut body = vec![0; 13];
        body[8] = 2;
        body.extend(b"db\0");
        body.extend(text.as_bytes());
        event(QUERY, &body)
    }

    /// A whole transaction.
    pub fn transaction(number: u64, micros: u64) -> Vec<u8> {
        [gtid(number, micros), query("BEGIN"), event(30, b"rows"), event(XID, &[0; 8])].concat()
    }

    /// What stands at the beginning of a relay log, behind the magic.
    pub fn head() -> Vec<u8> {
        [event(FORMAT, &[4, 0]), event(PREVIOUS_GTIDS, &[0; 8])].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::forge::{event, gtid, query};
    use super::*;
    use crate::mysql_family::binlog::dialect::Groups as _;
    use crate::mysql_family::binlog::event::Reader;

    fn places(bytes: &[u8]) -> String {
        let (mut from, mut groups, mut all) = (bytes, Groups::default(), String::new());
        let mut reader = Reader::default();
        while let Some(event) = reader.next(&mut from).expect("readable") {
            all.push(match groups.place(&event) {
                Place::Begins(_) => 'b',
                Place::Inside => 'i',
                Place::Ends(_) => 'e',
                Place::Outside => 'o',
            });
        }
        all
    }

    #[test]
    fn m06_a_transaction_ends_with_its_commit_and_nothing_else() {
        let rows = || event(30, b"rows");
        let log =
            [gtid(1, 5), query("BEGIN"), rows(), query("SAVEPOINT `a`"), query("ROLLBACK TO `a`"), event(XID, &[0; 8])];
        assert_eq!(places(&log.concat()), "biiiie");
        assert_eq!(places(&[gtid(1, 5), query("BEGIN"), rows(), query("COMMIT")].concat()), "biie");
        // With a checksum, as tables without transactions end theirs.
        assert_eq!(places(&[gtid(1, 5), query("BEGIN\u{1}234"), rows(), query("COMMIT\u{1}234")].concat()), "biie");
        assert_eq!(
            places(&[gtid(1, 5), query("CREATE TABLE t (n int)"), gtid(2, 6), event(PAYLOAD, b"x")].concat()),
            "bebe"
        );
        let xa =
            [gtid(1, 5), query("XA START X'71',X'',1"), rows(), query("XA END X'71',X'',1"), event(XA_PREPARE, b"x")];
        assert_eq!(places(&[xa.concat(), gtid(2, 6), query("XA COMMIT X'71',X'',1")].concat()), "biiiebe");
        assert_eq!(
            places(&[gtid(1, 5), event(ROTATE, b"x"), event(FORMAT, b"x"), query("BEGIN"), rows()].concat()),
            "booii"
        );
    }

    #[test]
    fn a_tagged_number_is_read_as_mysql_9_7_wrote_it() {
        const RECORDED: &str = "02 72 00 00 00 02 69 03 ae 45 02 30 a9 03 be 22 c5 03 41 02 4a 04 f1 03 00 00 00 02 04 08 \
            06 0a 6d 79 74 61 67 08 54 0a 60 0c 7f 3d 4e 6a c2 41 61 06 10 85 04 12 83 12 0b";
        let body: Vec<u8> =
            RECORDED.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).expect("a byte")).collect();
        let (read, micros) = tagged(&body).expect("a number");
        assert_eq!(String::from(read), "da579118-ea5f-11f1-9025-02fc00000001:mytag:2");
        assert_eq!(micros, 0x06_6141_c26a_4e3d);
        assert_eq!(tagged(&body[..20]), None);
    }

    #[test]
    fn a_number_and_its_time_are_read_as_mysql_9_7_wrote_them() {
        const RECORDED: &str = "00 da 57 91 18 ea 5f 11 f1 90 25 02 fc 00 00 00 01 16 00 00 00 00 00 00 00 02 15 00 00 00 \
            00 00 00 00 16 00 00 00 00 00 00 00 4d 38 f5 b8 41 61 06 fc 1e 01 50 62 01 00";
        let body: Vec<u8> =
            RECORDED.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).expect("a byte")).collect();
        let (read, micros) = plain(&body).expect("a number");
        assert_eq!(String::from(read), "da579118-ea5f-11f1-9025-02fc00000001:22");
        assert_eq!(micros, 0x06_6141_b8f5_384d);
    }
}
