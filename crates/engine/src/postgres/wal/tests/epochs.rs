//! Moments, trimming, and many segments.

use std::fs;

use jiff::{SignedDuration, Timestamp};
use pando_host::{Clock, SystemClock};
use pando_model::Lsn;

use super::forge::{Forge, at};
use crate::postgres::wal::index::{Entry, Index};
use crate::postgres::wal::{SegmentName, WalLog};
use crate::{Point, Want};

fn log() -> (tempfile::TempDir, WalLog) {
    let dir = tempfile::tempdir().unwrap();
    let log = WalLog::open(dir.path()).unwrap();
    log.begin_epoch(None).unwrap();
    (dir, log)
}

fn point(lsn: Lsn, time: Option<Timestamp>) -> Point {
    Point { epoch: 1, timeline: 1, lsn, time }
}

/// PostgreSQL's rule, told plainly, over all records.
fn plainly(forge: &Forge, from: Lsn, wanted: Timestamp) -> Option<Lsn> {
    let held = forge.records.iter().take_while(|record| record.1 < from).filter_map(|record| record.2).last();
    if held.is_some_and(|time| time > wanted) {
        return None;
    }
    let candidates = forge.records.iter().filter(|record| record.1 >= from);
    let before: Vec<_> = candidates.take_while(|record| record.2.is_none_or(|time| time <= wanted)).collect();
    before.iter().rev().find(|record| record.2.is_some()).or(before.first()).map(|record| record.0)
}

#[test]
fn t04_the_first_later_commit_ends_the_search_whatever_the_clock_did() {
    let mut forge = Forge::new(3);
    forge.other(50);
    // The clock goes back and forth; there are stretches without commits, several commits in one instant,
    // and commits over the ends of pages and segments.
    for round in 0..160 {
        let second = [10, 20, 20, 15, 30, 5, 40][round % 7] + i64::try_from(round / 7 * 3).unwrap();
        forge.commit(at(second), round % 5 * 4000);
        forge.other(if round % 20 < 10 { 40_000 } else { 10 });
    }
    let (_dir, log) = log();
    let last = forge.size.segno(forge.end());
    assert!(last > 5);
    forge.write(&log.live_dir(1), 3..=last);
    let progress = log.advance().unwrap();
    assert_eq!(progress.end, forge.end());
    for (from, _, _) in forge.records.iter().step_by(23) {
        for second in (0..130).step_by(7) {
            for nanos in [0, 1, -1] {
                let wanted = at(second) + SignedDuration::from_nanos(nanos);
                let found = log.locate(1, &point(*from, None), Want::Time(wanted)).unwrap();
                assert_eq!(found.map(|point| point.lsn), plainly(&forge, *from, wanted), "{from} {wanted}");
            }
        }
        let found = log.locate(1, &point(*from, None), Want::Time(at(100_000))).unwrap().unwrap();
        assert_eq!(found.time, progress.last_commit);
    }
    for (index, (start, end, _)) in forge.records.iter().enumerate() {
        let origin = point(forge.records[0].0, None);
        for (lsn, expected) in [(*start, index), (Lsn(start.0 + 1), index), (Lsn(end.0 - 1), index)] {
            let found = log.locate(1, &origin, Want::Lsn(lsn)).unwrap().unwrap();
            assert_eq!(found.lsn, forge.records[expected].0);
            let time = forge.records[..=expected].iter().filter_map(|record| record.2).next_back();
            assert_eq!(found.time, time);
        }
        // Where a record ends is a place to start from: it is the first candidate itself.
        let idle = log.locate(1, &point(*end, Some(at(-1))), Want::Lsn(*start)).unwrap().unwrap();
        assert_eq!(idle.lsn, *start);
    }
}

#[test]
fn trimming_leaves_what_is_needed_and_can_be_repeated() {
    let mut forge = Forge::new(3);
    let mut second = 0;
    forge.fill_to(8, &mut second);
    let (dir, log) = log();
    let live = log.live_dir(1);
    forge.write(&live, 3..=8);
    log.advance().unwrap();
    fs::write(live.join("00000002.history"), "1\t0/1\tx\n").unwrap();
    let keep = forge.records.iter().find(|record| record.0 > forge.size.start(5)).unwrap();
    // Its end as a starting place: the record itself is still needed.
    let before = point(keep.1, None);
    let full = log.bytes().unwrap();
    let segments = dir.path().join("epoch-1/segments");
    let leftover = segments.join(format!("{}.zst", forge.name(3)));
    for _ in 0..2 {
        log.trim(&before).unwrap();
        assert_eq!(fs::read_dir(&segments).unwrap().count(), 3);
        assert!(log.bytes().unwrap() < full);
        assert!(log.locate(1, &before, Want::Time(at(second))).unwrap().is_some());
        assert_eq!(log.locate(1, &point(forge.records[0].0, None), Want::End).unwrap(), None);
        // A crash between index and files.
        fs::write(&leftover, "left").unwrap();
        fs::write(segments.join(format!(".{}.zst.tmp", forge.name(4))), "left").unwrap();
    }
    log.trim(&before).unwrap();
    assert_eq!(WalLog::open(dir.path()).unwrap().stretches().unwrap(), log.stretches().unwrap());
    // A new first copy begins a new stretch; of the old one only the timelines' history stays.
    assert_eq!((log.begin_epoch(None).unwrap(), log.current_epoch()), (2, Some(2)));
    assert_eq!(log.begin_epoch(None).unwrap(), 3);
    log.trim(&Point { epoch: 3, ..point(Lsn(1), None) }).unwrap();
    assert!(live.join("00000002.history").exists() && !segments.exists() && !dir.path().join("epoch-2").exists());
    assert_eq!((log.stretches().unwrap(), log.current_epoch()), (vec![], Some(3)));
}

#[test]
fn two_weeks_of_segments_are_looked_up_quickly() {
    let mut forge = Forge::new(3);
    forge.commit(at(1), 0);
    let (dir, log) = log();
    forge.write(&log.live_dir(1), [3]);
    log.advance().unwrap();
    let path = dir.path().join("epoch-1/index");
    let entries: Vec<Entry> = (100..100_100_u64)
        .map(|segno| {
            let start = forge.size.start(segno);
            let (commit, time) = (Lsn(start.0 + 8192), at(i64::try_from(segno).unwrap()));
            let mut entry = Entry::new(SegmentName { segno, tli: 1 });
            entry.first = Some(Lsn(start.0 + 40));
            entry.last = Some((Lsn(start.0 + 9000), forge.size.start(segno + 1)));
            (entry.first_time, entry.max_time, entry.last_commit) = (Some(time), Some(time), Some((commit, time)));
            entry
        })
        .collect();
    Index::write_for_tests(&path, &entries);
    let clock = SystemClock;
    let begun = clock.instant();
    let log = WalLog::open(dir.path()).unwrap();
    assert_eq!(log.stretches().unwrap().len(), 2);
    let opened = begun.elapsed();
    let from = point(Lsn(forge.size.start(50_000).0 + 100), None);
    let begun = clock.instant();
    let found = log.locate(1, &from, Want::Time(at(1_000_000))).unwrap().unwrap();
    let looked_up = begun.elapsed();
    assert_eq!(found.time, Some(at(100_099)));
    // Generous: other tests run beside this one, without optimisation.
    assert!(looked_up.as_millis() < 500 && opened.as_millis() < 3000, "{opened:?} {looked_up:?}");
    assert!(fs::metadata(&path).unwrap().len() < 10_000_000);
}
