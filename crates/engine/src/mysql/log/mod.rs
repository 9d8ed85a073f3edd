//! What MySQL's transactions are in the log of mirrors and recording clones.
//!
//! Each knows the microsecond in which its server wrote it into the binary log, just before it became visible. So a
//! moment shows exactly what was committed by then.

#[cfg(test)]
mod any_bytes;
mod groups;
mod set;

use self::groups::Groups;
pub use self::set::{Gtid, GtidSet};
use crate::mysql_family::binlog::dialect::Dialect;
use crate::mysql_family::binlog::index::{Group, Post};

/// The words of MySQL.
#[derive(Debug, Clone, PartialEq)]
pub enum Mysql {}

fn micros(group: &Group<Gtid>) -> i64 {
    i64::try_from(group.when).unwrap_or(i64::MAX)
}

/// The microsecond it was written in; but not before a look that did not see it yet, for a transaction that waits for
/// its disk is written and not visible.
fn visible_from(group: &Group<Gtid>, posts: &[Post]) -> i64 {
    let passed = posts.partition_point(|post| post.behind < group.end);
    let unseen = passed.checked_sub(1).and_then(|last| posts.get(last)).map(|post| post.micros + 1);
    unseen.map_or(micros(group), |unseen| unseen.max(micros(group)))
}

impl Dialect for Mysql {
    type Gtid = Gtid;
    type Position = GtidSet;
    type Groups = Groups;
    const ASCENDS: bool = true;
    /// `PREVIOUS_GTIDS`: a server does not read a relay log that has transactions and not this.
    const HEAD: Option<u8> = Some(35);

    fn committed_by(group: &Group<Gtid>, posts: &[Post]) -> i64 {
        visible_from(group, posts)
    }

    fn complete_to(last: &Group<Gtid>) -> i64 {
        micros(last)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use jiff::Timestamp;
    use pando_model::Lsn;

    use super::groups::forge::{head, transaction};
    use super::*;
    use crate::mysql_family::binlog::Look;
    use crate::mysql_family::binlog::dialect::{Groups as _, Position as _};
    use crate::mysql_family::binlog::event::{MAGIC, Place, Reader};
    use crate::{Point, Want};

    type BinLog = crate::mysql_family::binlog::BinLog<Mysql>;

    const A: &str = "00000000-0000-0000-0000-00000000000a";

    fn set(numbers: &str) -> GtidSet {
        format!("{A}:{numbers}").parse().expect("a set")
    }

    fn append(log: &BinLog, file: &str, parts: &[Vec<u8>]) {
        let path = log.live(1).with_file_name(file);
        let fresh = !path.exists();
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path).expect("a file");
        if fresh {
            file.write_all(&[&MAGIC[..], &head()].concat()).expect("written");
        }
        file.write_all(&parts.concat()).expect("written");
    }

    fn at(log: &BinLog, micros: i64) -> Option<i64> {
        let from = Point { epoch: 1, timeline: 0, lsn: Lsn(1 << 32 | 4), time: None };
        let time = Timestamp::from_microsecond(micros).expect("a time");
        log.locate(&from, Want::Time(time)).expect("looked").expect("found").time.map(|time| time.as_microsecond())
    }

    #[test]
    fn m06_a_moment_shows_what_was_committed_by_then_to_the_microsecond() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let log = BinLog::open(&dir.path().join("log"))?;
        log.begin_epoch(&set("1-9"), None)?;
        append(&log, "log.000001", &[transaction(10, 1_000), transaction(11, 2_000)]);
        log.advance(None)?;
        assert_eq!(
            [999, 1_000, 1_999, 2_000].map(|micros| at(&log, micros)),
            [None, Some(1_000), Some(1_000), Some(2_000)]
        );
        // Seen by a look at 3,000; the next one, written before it, was not visible then.
        assert!(log.look(&Look { before: set("1-11"), micros: 3_000, after: set("1-11") })?);
        append(&log, "log.000001", &[transaction(12, 2_990)]);
        log.advance(None)?;
        assert_eq!([2_995, 3_000, 3_001].map(|micros| at(&log, micros)), [Some(2_000), Some(2_000), Some(3_001)]);
        assert!(!log.look(&Look { before: set("1-12"), micros: 4_000, after: set("1-13") })?);
        Ok(())
    }

    #[test]
    fn m07_m09_what_is_copied_out_has_its_head_and_each_transaction_once() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let log = BinLog::open(&dir.path().join("log"))?;
        log.begin_epoch(&set("1-9"), None)?;
        append(&log, "log.000001", &[transaction(10, 1), transaction(11, 2)]);
        log.advance(None)?;
        log.clear_live(1)?;
        append(&log, "log.000001", &[transaction(11, 2), transaction(12, 3), transaction(13, 4)]);
        log.advance(None)?;
        assert!(log.position(1)?.reaches(&set("1-13")));
        let out = dir.path().join("relay");
        let to = log.place_of(1, &set("1-12"))?;
        let reached = log.copy_out(1, Lsn(1 << 32 | 4), to, &set("1-10"), &out)?;
        assert_eq!(reached, Some(set("1-12")));
        let bytes = fs::read(&out)?;
        let (mut from, mut groups, mut kinds, mut numbers) = (&bytes[4..], Groups::default(), Vec::new(), Vec::new());
        let mut reader = Reader::default();
        while let Some(event) = reader.next(&mut from)? {
            kinds.push(event.kind());
            if let Place::Ends(gtid) = groups.place(&event) {
                numbers.push(gtid.number);
            }
        }
        assert_eq!((kinds.get(..2), numbers), (Some(&[15, 35][..]), vec![11, 12]));
        Ok(())
    }
}
