//! The transactions that the events of a MariaDB log make up.
//!
//! ```text
//! magic, FORMAT_DESCRIPTION, … GTID ▶ (BEGIN) rows, statements … ▶ XID | COMMIT      a group
//!                              GTID (standalone) ▶ one statement                     a group
//! ```
//!
//! Layouts: `sql/log_event.h` of MariaDB. A group may go on in the next file of a relay log; one that never ends
//! (a connection or a machine died) is begun again, and what there was of it counts for nothing.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::mysql_family::binlog::dialect;
use crate::mysql_family::binlog::event::{Event, FORMAT, Place, u32_at};

const QUERY: u8 = 2;
const STOP: u8 = 3;
const ROTATE: u8 = 4;
const INTVAR: u8 = 5;
const RAND: u8 = 13;
const USER_VAR: u8 = 14;
const XID: u8 = 16;
const TABLE_MAP: u8 = 19;
const HEARTBEAT: u8 = 27;
const XA_PREPARE: u8 = 38;
const ANNOTATE: u8 = 160;
const CHECKPOINT: u8 = 161;
const GTID: u8 = 162;
const GTID_LIST: u8 = 163;
const ENCRYPTION: u8 = 164;
const QUERY_COMPRESSED: u8 = 165;
/// A GTID event's flag: the group is the next statement alone.
const STANDALONE: u8 = 1;

/// A transaction's number: domain, server, sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "(u32, u32, u64)", into = "(u32, u32, u64)")]
pub struct Gtid {
    /// The replication domain.
    pub domain: u32,
    /// The server that wrote it first.
    pub server: u32,
    /// Counted within the domain.
    pub seq: u64,
}

impl From<(u32, u32, u64)> for Gtid {
    fn from((domain, server, seq): (u32, u32, u64)) -> Self {
        Self { domain, server, seq }
    }
}

impl From<Gtid> for (u32, u32, u64) {
    fn from(gtid: Gtid) -> Self {
        (gtid.domain, gtid.server, gtid.seq)
    }
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.domain, self.server, self.seq)
    }
}

/// Whether an event belongs to no transaction.
fn is_of_the_file(event: &Event) -> bool {
    matches!(event.kind(), STOP | ROTATE | FORMAT | HEARTBEAT | CHECKPOINT | GTID_LIST | ENCRYPTION)
}

fn gtid_of(event: &Event) -> Option<(Gtid, bool)> {
    if event.kind() != GTID {
        return None;
    }
    let body = event.body();
    let seq = u64::from(u32_at(body, 0)) | u64::from(u32_at(body, 4)) << 32;
    let flags = body.get(12).copied().unwrap_or(0);
    let gtid = Gtid { domain: u32_at(body, 8), server: u32_at(&event.bytes, 5), seq };
    Some((gtid, flags & STANDALONE != 0))
}

/// Whether a statement ends its group by its words: `ROLLBACK TO x` ends nothing.
fn says_end(event: &Event) -> bool {
    let text = event.statement();
    let begins = |word: &&[u8]| text.get(..word.len()).is_some_and(|said| said.eq_ignore_ascii_case(word));
    [&b"COMMIT"[..], b"ROLLBACK", b"XA COMMIT", b"XA ROLLBACK"].iter().any(begins) && !begins(&&b"ROLLBACK TO "[..])
}

/// Follows groups from event to event.
#[derive(Debug, Clone, Default)]
pub struct Groups {
    open: Option<(Gtid, bool)>,
}

impl dialect::Groups<Gtid> for Groups {
    fn place(&mut self, event: &Event) -> Place<Gtid> {
        if let Some((gtid, standalone)) = gtid_of(event) {
            self.open = Some((gtid, standalone));
            return Place::Begins(gtid);
        }
        let Some((gtid, standalone)) = self.open.filter(|_| !is_of_the_file(event)) else { return Place::Outside };
        let kind = event.kind();
        let ends = if standalone {
            !matches!(kind, INTVAR | RAND | USER_VAR | TABLE_MAP | ANNOTATE)
        } else {
            matches!(kind, XID | XA_PREPARE) || matches!(kind, QUERY | QUERY_COMPRESSED) && says_end(event)
        };
        if ends {
            self.open = None;
            return Place::Ends(gtid);
        }
        Place::Inside
    }

    /// A transaction has the second of its last event: when the statement began that ended it.
    fn when(&self, last: &Event) -> u64 {
        u64::from(last.when())
    }
}

#[cfg(test)]
pub mod forge {
    //! Events as a server writes them, without checksums.
    use super::*;
    use crate::mysql_family::binlog::event::HEADER;

    /// One event.
    pub fn event(when: u32, kind: u8, server: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = when.to_le_bytes().to_vec();
        bytes.push(kind);
        bytes.extend(server.to_le_bytes());
        bytes.extend(u32::try_from(HEADER + body.len()).expect("small").to_le_bytes());
        bytes.extend([0; 6]);
        bytes.extend(body);
        bytes
    }

    /// A description of the format, as short as it may be here.
    pub fn format() -> Vec<u8> {
        event(1, FORMAT, 9, &[4, 0])
    }

    /// The beginning of a group.
    pub fn gtid(when: u32, domain: u32, seq: u64, standalone: bool) -> Vec<u8> {
        let mut body = seq.to_le_bytes().to_vec();
        body.extend(domain.to_le_bytes());
        body.push(u8::from(standalone));
        event(when, GTID, 7, &body)
    }

    /// A whole transaction that another server wrote first.
    pub fn foreign(when: u32, server: u32, seq: u64) -> Vec<u8> {
        let mut begin = gtid(when, 0, seq, false);
        begin[5..9].copy_from_slice(&server.to_le_bytes());
        [begin, rows(when), xid(when)].concat()
    }

    /// A statement.
    pub fn query(when: u32, text: &str) -> Vec<u8> {
        let mut body = vec![0; 13];
        body[8] = 2;
        body.extend(b"db\0");
        body.extend(text.as_bytes());
        event(when, QUERY, 7, &body)
    }

    /// Rows of a transaction.
    pub fn rows(when: u32) -> Vec<u8> {
        event(when, 23, 7, b"rows")
    }

    /// The end of a transaction.
    pub fn xid(when: u32) -> Vec<u8> {
        event(when, XID, 7, &[0; 8])
    }

    /// A whole transaction.
    pub fn transaction(when: u32, seq: u64) -> Vec<u8> {
        [gtid(when, 0, seq, false), rows(when), xid(when)].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::forge::{event, format, gtid, query, rows, xid};
    use super::*;
    use crate::mysql_family::binlog::dialect::Groups as _;
    use crate::mysql_family::binlog::event::Reader;

    fn places(bytes: &[u8]) -> Vec<Place<Gtid>> {
        let (mut from, mut groups, mut all) = (bytes, Groups::default(), Vec::new());
        let mut reader = Reader::default();
        while let Some(event) = reader.next(&mut from).expect("readable") {
            all.push(groups.place(&event));
        }
        all
    }

    fn number(seq: u64) -> Gtid {
        Gtid { domain: 0, server: 7, seq }
    }

    #[test]
    fn m06_a_group_ends_with_its_commit_and_nothing_else() {
        let log = [format(), gtid(5, 0, 1, false), query(5, "INSERT INTO t VALUES ('COMMIT')"), xid(6)].concat();
        let expected = [Place::Outside, Place::Begins(number(1)), Place::Inside, Place::Ends(number(1))];
        assert_eq!(places(&log), expected);
        let log = [gtid(5, 0, 2, true), event(5, INTVAR, 7, &[0; 9]), query(5, "CREATE TABLE t (n int)")].concat();
        assert_eq!(places(&log), [Place::Begins(number(2)), Place::Inside, Place::Ends(number(2))]);
        let log = [gtid(5, 0, 3, false), rows(5), query(6, "COMMIT")].concat();
        assert_eq!(places(&log)[2], Place::Ends(number(3)));
        let log = [gtid(5, 0, 4, false), rows(5), query(5, "ROLLBACK TO `a`"), query(6, "ROLLBACK")].concat();
        let expected = [Place::Begins(number(4)), Place::Inside, Place::Inside, Place::Ends(number(4))];
        assert_eq!(places(&log), expected);
    }

    #[test]
    fn a_group_goes_on_behind_what_belongs_to_the_file_and_begins_again_after_a_crash() {
        let log = [gtid(5, 0, 1, false), event(0, ROTATE, 7, &[0; 9]), format(), rows(5), xid(5)].concat();
        let expected =
            [Place::Begins(number(1)), Place::Outside, Place::Outside, Place::Inside, Place::Ends(number(1))];
        assert_eq!(places(&log), expected);
        let log = [gtid(5, 0, 1, false), rows(5), format(), gtid(5, 0, 1, false), rows(5), xid(5)].concat();
        assert_eq!(places(&log).iter().filter(|place| matches!(place, Place::Ends(_))).count(), 1);
    }
}
