//! The log over forged files: taking in, gaps in nothing, packing, moments, and what is copied out.

use std::fs;
use std::io::Write;
use std::path::Path;

use jiff::Timestamp;
use pando_model::Lsn;

use super::Look;
use super::dialect::{Groups as _, Position as _};
use super::event::{MAGIC, Place, Reader};
use crate::mariadb::log::groups::Groups;
use crate::mariadb::log::groups::forge::{event, foreign, format, gtid, rows, transaction, xid};
use crate::mariadb::log::{Mariadb, Position};
use crate::{Point, Want};

type BinLog = super::BinLog<Mariadb>;
type Done = Result<(), Box<dyn std::error::Error>>;

fn append(log: &BinLog, file: &str, parts: &[Vec<u8>]) {
    let path = log.live(1).with_file_name(file);
    let fresh = !path.exists();
    let mut file = fs::OpenOptions::new().create(true).append(true).open(path).expect("a file");
    if fresh {
        file.write_all(&MAGIC).expect("written");
        file.write_all(&format()).expect("written");
    }
    file.write_all(&parts.concat()).expect("written");
}

fn made(dir: &Path) -> BinLog {
    let log = BinLog::open(&dir.join("log")).expect("a log");
    assert_eq!(log.begin_epoch(&position("0-7-9"), None).expect("an epoch"), 1);
    log
}

fn position(text: &str) -> Position {
    text.parse().expect("a position")
}

fn begin(log: &BinLog) -> Point {
    Point { epoch: 1, timeline: 0, lsn: log.place_of(1, &position("0-7-9")).expect("a place"), time: None }
}

fn at(log: &BinLog, micros: i64) -> Lsn {
    let time = Timestamp::from_microsecond(micros).expect("a time");
    log.locate(&begin(log), Want::Time(time)).expect("looked").expect("found").lsn
}

fn numbers(path: &Path) -> Vec<u64> {
    let bytes = fs::read(path).expect("a relay log");
    let (mut from, mut groups, mut all) = (&bytes[4..], Groups::default(), Vec::new());
    let mut reader = Reader::default();
    while let Some(event) = reader.next(&mut from).expect("readable") {
        if let Place::Ends(gtid) = groups.place(&event) {
            all.push(gtid.seq);
        }
    }
    assert!(from.is_empty());
    all
}

#[test]
fn m06_a_whole_second_shows_all_of_the_seconds_before_and_nothing_else() -> Done {
    let dir = tempfile::tempdir()?;
    let log = made(dir.path());
    append(&log, "log.000001", &[transaction(100, 10), transaction(100, 11), transaction(101, 12)]);
    assert!(log.advance(None)?);
    let ends: Vec<Lsn> = [99_999_999, 100_999_999, 101_000_000, 101_999_999, 102_000_000]
        .into_iter()
        .map(|micros| at(&log, micros))
        .collect();
    let second = log.place_of(1, &position("0-7-11"))?;
    let last = log.end(1)?;
    assert_eq!(ends, [begin(&log).lsn, begin(&log).lsn, second, second, last]);
    // A look makes it finer.
    let seen = Look { before: position("0-7-12"), micros: 101_300_000, after: position("0-7-12") };
    assert!(log.look(&seen)?);
    assert_eq!((at(&log, 101_299_999), at(&log, 101_300_000)), (second, last));
    assert_eq!(log.through().map(|time| time.as_microsecond()), Some(101_300_000));
    Ok(())
}

#[test]
fn m07_what_is_copied_out_is_one_stream_that_ends_at_the_transaction() -> Done {
    let dir = tempfile::tempdir()?;
    let log = made(dir.path());
    append(&log, "log.000001", &[transaction(100, 10), gtid(100, 0, 11, false), rows(100)]);
    append(&log, "log.000002", &[xid(101), transaction(102, 12), transaction(103, 13)]);
    log.advance(None)?;
    let out = dir.path().join("relay");
    let to = log.place_of(1, &position("0-7-12"))?;
    let reached = log.copy_out(1, begin(&log).lsn, to, &position("0-7-10"), &out)?;
    assert_eq!((numbers(&out), reached), (vec![11, 12], Some(position("0-7-12"))));
    // Nothing to replay.
    assert_eq!(log.copy_out(1, to, to, &position("0-7-12"), &out)?, None);
    Ok(())
}

#[test]
fn m09_what_comes_twice_counts_once_and_what_never_ended_counts_for_nothing() -> Done {
    let dir = tempfile::tempdir()?;
    let log = made(dir.path());
    append(&log, "log.000001", &[transaction(100, 10), transaction(101, 11), gtid(102, 0, 12, false), rows(102)]);
    log.advance(None)?;
    // The server begins anew: its names go, and what it had not applied comes again.
    log.clear_live(1)?;
    append(&log, "log.000001", &[transaction(101, 11), transaction(102, 12), transaction(103, 13)]);
    assert!(log.advance(None)?);
    let out = dir.path().join("relay");
    log.copy_out(1, begin(&log).lsn, log.end(1)?, &position("0-7-9"), &out)?;
    assert_eq!(numbers(&out), [10, 11, 12, 13]);
    assert_eq!(log.position(1)?, position("0-7-13"));
    Ok(())
}

#[test]
fn m09_numbers_that_ascend_by_server_only_leave_nothing_out_and_count_once() -> Done {
    let dir = tempfile::tempdir()?;
    let log = made(dir.path());
    append(
        &log,
        "log.000001",
        &[transaction(100, 10), foreign(100, 5, 11), transaction(101, 11), transaction(102, 12)],
    );
    log.advance(None)?;
    assert!(!log.position(1)?.reaches(&position("0-7-13")) && log.position(1)?.reaches(&position("0-5-11")));
    let (own, second) = (log.place_of(1, &position("0-5-11"))?, log.place_of(1, &position("0-7-11"))?);
    assert!(own < second && second < log.end(1)?);
    // The mirror had applied up to the local write.
    log.clear_live(1)?;
    let again = [transaction(101, 11), transaction(102, 12), foreign(103, 6, 3), transaction(104, 13)];
    append(&log, "log.000001", &again);
    log.advance(None)?;
    let out = dir.path().join("relay");
    let reached = log.copy_out(1, own, log.end(1)?, &position("0-5-11"), &out)?;
    assert_eq!((numbers(&out), reached.map(|to| to.to_string())), (vec![11, 12, 3, 13], Some("0-7-13".to_owned())));
    log.copy_out(1, begin(&log).lsn, log.end(1)?, &position("0-7-9"), &out)?;
    assert_eq!((numbers(&out), log.ended()), (vec![10, 11, 11, 12, 3, 13], None));
    // The same from packed files, by the next daemon.
    append(&log, "log.000002", &[transaction(105, 14)]);
    log.advance(Some(3))?;
    drop(log);
    let log = BinLog::open(&dir.path().join("log"))?;
    log.clear_live(1)?;
    append(&log, "log.000001", &[foreign(103, 6, 3), transaction(104, 13), transaction(105, 14), foreign(106, 5, 12)]);
    log.advance(None)?;
    log.copy_out(1, begin(&log).lsn, log.end(1)?, &position("0-7-9"), &out)?;
    assert_eq!((numbers(&out), log.ended()), (vec![10, 11, 11, 12, 3, 13, 14, 12], None));
    assert_eq!(log.place_of(1, &position("0-5-11"))?, own);
    Ok(())
}

#[test]
fn m09_a_number_that_was_set_back_ends_the_stretch() -> Done {
    // One that never came, and one that came before.
    for (number, after) in [(11, 12), (10, 11)] {
        let dir = tempfile::tempdir()?;
        let log = made(dir.path());
        append(&log, "log.000001", &[transaction(100, 10), transaction(101, after), transaction(102, number)]);
        append(&log, "log.000002", &[transaction(103, 13)]);
        log.advance(None)?;
        assert_eq!(log.ended().map(|gtid| gtid.seq), Some(number));
        assert_eq!(log.position(1)?.to_string(), format!("0-7-{after}"));
        drop(log);
        let log = BinLog::open(&dir.path().join("log"))?;
        log.advance(None)?;
        assert_eq!(log.ended().map(|gtid| gtid.seq), Some(number));
    }
    // A clone that records gives what numbers it likes: nothing comes twice.
    let dir = tempfile::tempdir()?;
    let log = BinLog::open(&dir.path().join("log"))?;
    log.begin_own(None)?;
    append(&log, "log.000001", &[transaction(100, 10), transaction(101, 5), transaction(102, 11)]);
    log.advance(None)?;
    let out = dir.path().join("relay");
    log.copy_out(1, Lsn(1 << 32 | 4), log.end(1)?, &Position::default(), &out)?;
    assert_eq!((numbers(&out), log.ended()), (vec![10, 5, 11], None));
    Ok(())
}

#[test]
fn m09_a_number_that_is_given_to_another_transaction_in_a_new_file_ends_the_stretch() -> Done {
    // In another second, and in the same one with other rows; alone, and with all that follows given anew.
    let other = |when: u32, seq: u64| [gtid(when, 0, seq, false), rows(when), rows(when), xid(when)].concat();
    for (twins, packed) in [
        (vec![transaction(105, 11)], false),
        (vec![other(101, 11)], false),
        (vec![other(101, 11), other(102, 12), transaction(106, 13)], true),
        (vec![transaction(101, 11), other(102, 12)], true),
    ] {
        let dir = tempfile::tempdir()?;
        let log = made(dir.path());
        append(&log, "log.000001", &[transaction(100, 10), transaction(101, 11), transaction(102, 12)]);
        append(&log, "log.000002", &twins);
        log.advance(packed.then_some(2))?;
        let seq = log.ended().map(|gtid| gtid.seq);
        assert!(matches!(seq, Some(11 | 12)), "{seq:?}");
        assert_eq!(log.position(1)?.to_string(), "0-7-12");
        drop(log);
        let log = BinLog::open(&dir.path().join("log"))?;
        log.advance(None)?;
        assert_eq!(log.ended().map(|gtid| gtid.seq), seq, "for the next daemon, too");
    }
    Ok(())
}

#[test]
fn m09_a_server_that_was_promoted_says_the_same_in_other_words() -> Done {
    let by = |server: u32| event(1, 15, server, &[4, 0]);
    let other = |when: u32, seq: u64| [gtid(when, 0, seq, false), rows(when), rows(when), xid(when)].concat();
    for (sender, ended) in [(8, None), (7, Some(11))] {
        let dir = tempfile::tempdir()?;
        let log = made(dir.path());
        append(&log, "log.000001", &[by(7), transaction(100, 10), transaction(101, 11)]);
        // The next file goes on with the same sender, and does not say so.
        append(&log, "log.000002", &[transaction(102, 12)]);
        append(&log, "log.000003", &[by(sender), other(101, 11), transaction(102, 12), transaction(103, 13)]);
        log.advance(None)?;
        assert_eq!(log.ended().map(|gtid| gtid.seq), ended, "{sender}");
        assert_eq!(log.position(1)?.to_string(), if ended.is_some() { "0-7-12" } else { "0-7-13" });
    }
    Ok(())
}

#[test]
fn a_transaction_that_goes_on_in_the_next_file_is_read_whole_by_the_next_daemon() -> Done {
    let dir = tempfile::tempdir()?;
    let log = made(dir.path());
    append(&log, "log.000001", &[transaction(100, 10), gtid(101, 0, 11, false), rows(101)]);
    append(&log, "log.000002", &[rows(101)]);
    // The server has gone on to the second file.
    log.advance(Some(2))?;
    drop(log);
    let log = BinLog::open(&dir.path().join("log"))?;
    log.advance(Some(2))?;
    append(&log, "log.000002", &[xid(101), transaction(102, 12)]);
    append(&log, "log.000003", &[transaction(103, 13)]);
    log.advance(Some(3))?;
    let out = dir.path().join("relay");
    log.copy_out(1, begin(&log).lsn, log.end(1)?, &position("0-7-9"), &out)?;
    assert_eq!(numbers(&out), [10, 11, 12, 13]);
    assert!(dir.path().join("log/epoch-1/segments/0000000001.idx").exists(), "it is packed then");
    Ok(())
}

#[test]
fn files_are_packed_behind_the_server_and_read_again_by_the_next_daemon() -> Done {
    let dir = tempfile::tempdir()?;
    let log = made(dir.path());
    append(&log, "log.000001", &[transaction(100, 10)]);
    append(&log, "log.000002", &[transaction(101, 11)]);
    append(&log, "log.000003", &[transaction(102, 12)]);
    log.advance(Some(2))?;
    let segments = dir.path().join("log/epoch-1/segments");
    assert!(segments.join("0000000001.idx").exists() && !segments.join("0000000001").exists());
    assert!(segments.join("0000000002").exists(), "the server still reads it");
    assert_eq!(fs::metadata(log.live(1).with_file_name("log.000001"))?.len(), 0);
    log.advance(Some(3))?;
    let whole = |log: &BinLog| -> Result<Vec<u64>, Box<dyn std::error::Error>> {
        let out = dir.path().join("relay");
        log.copy_out(1, begin(log).lsn, log.end(1)?, &position("0-7-9"), &out)?;
        Ok(numbers(&out))
    };
    assert_eq!(whole(&log)?, [10, 11, 12]);
    drop(log);
    let log = BinLog::open(&dir.path().join("log"))?;
    append(&log, "log.000003", &[transaction(103, 13)]);
    assert!(log.advance(Some(3))?);
    assert_eq!(whole(&log)?, [10, 11, 12, 13]);
    assert_eq!(at(&log, 102_000_000), log.place_of(1, &position("0-7-11"))?);
    log.trim(&Point { lsn: log.place_of(1, &position("0-7-11"))?, ..begin(&log) })?;
    assert_eq!(log.stretches()?[0].first, Lsn(2 << 32 | 4));
    assert!(!segments.join("0000000001.zst").exists());
    assert_eq!(log.locate(&Point { lsn: Lsn(4), ..begin(&log) }, Want::End)?, None);
    Ok(())
}

#[test]
fn a_failed_sync_is_no_success_until_what_it_covered_was_written_anew() -> Done {
    let dir = tempfile::tempdir()?;
    let log = made(dir.path());
    append(&log, "log.000001", &[transaction(100, 10)]);
    log.advance(None)?;
    let (segment, mark) = (dir.path().join("log/epoch-1/segments/0000000001"), dir.path().join("log/epoch-1/unsynced"));
    let before = fs::metadata(&segment)?.len();
    append(&log, "log.000001", &[transaction(101, 11)]);
    log.sync_by(|_| Err(std::io::Error::from_raw_os_error(5)));
    let seen = Look { before: position("0-7-11"), micros: 101_300_000, after: position("0-7-11") };
    for _ in 0..2 {
        assert!(log.advance(None).is_err() && log.look(&seen).is_err());
        assert!(log.stretches().is_err(), "shown, and perhaps lost");
    }
    // The disk is well again, but what it was told meanwhile is gone: the kernel says nothing of that.
    log.sync_by(fs::File::sync_data);
    let whole = fs::read(&segment)?;
    let at = usize::try_from(before)?;
    fs::write(&segment, [&whole[..at], &vec![0; whole.len() - at]].concat())?;
    assert!(log.advance(None).is_err() && log.stretches().is_err());
    assert!(mark.exists());
    // It is still there: written anew, synced, shown. The next daemon knows of it, too.
    fs::write(&segment, &whole)?;
    drop(log);
    let log = BinLog::open(&dir.path().join("log"))?;
    assert!(log.advance(None)? && log.look(&seen)?);
    assert_eq!((fs::read(&segment)? == whole, mark.exists()), (true, false));
    assert_eq!(log.stretches()?[0].through.map(|time| time.as_microsecond()), Some(101_300_000));
    Ok(())
}

#[test]
fn idle_seconds_are_kept_for_the_next_daemon_and_for_the_next_boot() -> Done {
    let dir = tempfile::tempdir()?;
    let log = made(dir.path());
    append(&log, "log.000001", &[transaction(100, 10)]);
    log.advance(None)?;
    for second in 101..=140 {
        let micros = second * 1_000_000;
        assert!(log.look(&Look { before: position("0-7-10"), micros, after: position("0-7-10") })?);
    }
    drop(log);
    let log = BinLog::open(&dir.path().join("log"))?;
    assert_eq!(log.stretches()?[0].through.map(|time| time.as_second()), Some(140));
    Ok(())
}

#[test]
fn a_look_that_a_crash_took_from_its_file_still_bounds_what_was_committed_before_it() -> Done {
    let dir = tempfile::tempdir()?;
    let log = made(dir.path());
    append(&log, "log.000001", &[transaction(100, 10)]);
    log.advance(None)?;
    assert!(log.look(&Look { before: position("0-7-10"), micros: 100_100_000, after: position("0-7-10") })?);
    append(&log, "log.000001", &[transaction(100, 11)]);
    log.advance(None)?;
    let early = Look { before: position("0-7-11"), micros: 100_300_000, after: position("0-7-11") };
    assert!(log.look(&early)?);
    let shown = log.stretches()?;
    let log_dir = log.live(1).parent().and_then(Path::parent).ok_or("no directory")?.to_owned();
    drop(log);
    // Of the second look's line a crash of the machine has left some signs.
    let posts = log_dir.join("posts");
    let text = fs::read_to_string(&posts)?;
    let second = text.lines().next().ok_or("no line")?.len() + 1;
    fs::write(&posts, &text[..second + 9])?;

    let log = BinLog::open(&dir.path().join("log"))?;
    assert_eq!(log.stretches()?, shown);
    log.advance(None)?;
    assert!(log.look(&Look { micros: 100_700_000, ..early })?);
    // Opened once more: the looks are those of the file, and the last one.
    drop(log);
    let log = BinLog::open(&dir.path().join("log"))?;
    log.advance(None)?;
    assert_eq!((at(&log, 100_299_999), at(&log, 100_300_000)), (log.place_of(1, &position("0-7-10"))?, log.end(1)?));
    Ok(())
}

#[test]
fn what_the_daemon_before_has_shown_is_shown_before_anything_is_taken_in() -> Done {
    let dir = tempfile::tempdir()?;
    let log = made(dir.path());
    append(&log, "log.000001", &[transaction(100, 10)]);
    log.advance(None)?;
    assert!(log.look(&Look { before: position("0-7-10"), micros: 100_900_000, after: position("0-7-10") })?);
    append(&log, "log.000001", &[transaction(101, 11)]);
    log.advance(None)?;
    let shown = log.stretches()?;
    assert_eq!(shown[0].through.map(|time| time.as_second()), Some(101));
    drop(log);
    let log = BinLog::open(&dir.path().join("log"))?;
    assert_eq!(log.stretches()?, shown);
    assert!(log.advance(None)?, "what was read meanwhile is told once");
    assert!(!log.advance(None)?);
    Ok(())
}
