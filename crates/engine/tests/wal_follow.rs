//! Taking in what a real `pg_receivewal` writes: every commit is known, whatever is killed and when.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod wal_support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;

use jiff::Timestamp;
use pando_engine::postgres::wal::{Input, Kind, Reader, Record, SegmentName, SegmentPages, SegmentSize, Step, WalLog};
use pando_engine::{Point, Want};
use pando_model::Lsn;
use wal_support::{Rig, own, parse_time, pause, programs_for, time_of, until};

/// Everything the log holds, brought into a directory.
fn bring_all(rig: &Rig, name: &str) -> (std::path::PathBuf, Lsn, Point) {
    let stretch = rig.log.stretches().unwrap().remove(0);
    let from = Point { epoch: rig.epoch, timeline: 0, lsn: stretch.first, time: None };
    let to = rig.locate(&from, Want::End).unwrap();
    let dir = rig.dir.path().join("r").join(name);
    fs::create_dir(&dir).unwrap();
    own(&dir);
    rig.log.bring(rig.epoch, stretch.first, &to, &dir, None).unwrap();
    for file in fs::read_dir(&dir).unwrap() {
        own(&file.unwrap().path());
    }
    (dir, stretch.first, to)
}

fn records(dir: &Path, size: SegmentSize, first: Lsn) -> Vec<Record> {
    let mut pages = SegmentPages::new(size, |segno| {
        let path = dir.join(SegmentName { segno, tli: 1 }.file(size));
        Ok(path.exists().then(|| File::open(&path)).transpose()?.map(Input::Plain))
    });
    let mut reader = Reader::at_segment(size.segno(first), size);
    let mut records = Vec::new();
    while let Step::Record(record) = reader.step(&mut pages).unwrap() {
        records.push(record);
    }
    records
}

/// What `pg_waldump` says of the same files.
fn dumped(rig: &Rig, dir: &Path, first: Lsn, end: Lsn) -> BTreeMap<Lsn, (&'static str, Timestamp)> {
    let range = ["-s".to_owned(), first.to_string(), "-e".to_owned(), end.to_string()];
    let text =
        rig.primary.tool("pg_waldump").args(["--rmgr=Transaction", "-p"]).arg(dir).args(range).run().unwrap().text();
    let kinds = ["COMMIT_PREPARED", "ABORT_PREPARED", "COMMIT", "ABORT", "PREPARE"];
    let mut commits = BTreeMap::new();
    for line in text.lines() {
        let lsn = line.split("lsn: ").nth(1).and_then(|rest| rest.split(',').next()).unwrap().parse().unwrap();
        let what = line.split("desc: ").nth(1).unwrap();
        if let Some(kind) = kinds.iter().find(|kind| what.starts_with(&format!("{kind} "))) {
            let at = what.find(" 20").unwrap() + 1;
            commits.insert(lsn, (*kind, parse_time(&what[at..at + 26])));
        }
    }
    commits
}

/// Compares every commit and abort of the log with `pg_waldump`. How many records, commits and abort there are.
fn cross_check(rig: &Rig, megabytes: u64) -> Vec<Record> {
    assert_eq!(rig.log.stretches().unwrap().len(), 1, "the log has a gap");
    let (dir, first, to) = bring_all(rig, "all");
    let size = SegmentSize::new(megabytes << 20).unwrap();
    let records = records(&dir, size, first);
    assert_eq!(records.last().map(|record| record.start), Some(to.lsn));
    let ours: BTreeMap<_, _> = records
        .iter()
        .filter_map(|record| {
            let kind = match record.kind {
                Kind::Commit { .. } => "COMMIT",
                Kind::Abort { .. } => "ABORT",
                Kind::Prepare { .. } => "PREPARE",
                Kind::CommitPrepared { .. } => "COMMIT_PREPARED",
                Kind::AbortPrepared { .. } => "ABORT_PREPARED",
                _ => return None,
            };
            Some((record.start, (kind, record.kind.stop_time().unwrap())))
        })
        .collect();
    let theirs = dumped(rig, &dir, first, records.last().unwrap().end);
    let different = ours.iter().zip(&theirs).find(|(one, other)| one != other);
    assert!(different.is_none() && ours.len() == theirs.len(), "{different:?}, {} and {}", ours.len(), theirs.len());
    records
}

#[test]
fn every_commit_and_abort_is_known() {
    let Some(bin) = programs_for("every_commit_and_abort_is_known") else { return };
    let rig = Rig::new(&bin, 16);
    rig.primary.tool("pgbench").args(["-i", "-q", "-s", "2", "postgres"]).run().unwrap();
    let mut bench = rig
        .primary
        .tool("pgbench")
        .args(["-c", "4", "-T", "4", "-n", "postgres"])
        .build()
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let subtransactions = "do $$ begin for n in 1..200 loop begin insert into s values (n); \
                           if n % 2 = 0 then raise 'x'; end if; exception when others then null; end; end loop; end $$";
    for sql in [
        "create table s(n int)",
        subtransactions,
        "begin;insert into s values (1);rollback",
        "begin;insert into s values (1);prepare transaction 'a'",
        "begin;insert into s values (1);prepare transaction 'b'",
        "commit prepared 'a';;rollback prepared 'b'",
        "select pg_logical_emit_message(true, 'p', repeat('x', 100000))",
        "do $$ begin for n in 1..300 loop execute 'create table big' || n || '(a text primary key)'; end loop; end $$",
        "do $$ begin for n in 1..300 loop execute 'drop table big' || n; end loop; end $$",
        "select pg_switch_wal()",
        "set synchronous_commit=off;;insert into s values (3);;checkpoint;;insert into s select generate_series(1, 200000)",
    ] {
        rig.primary.sql(sql);
        rig.log.advance().unwrap();
    }
    bench.wait().unwrap();
    rig.caught_up();
    let records = cross_check(&rig, 16);
    let count = |wanted: fn(&Kind) -> bool| records.iter().filter(|record| wanted(&record.kind)).count();
    assert!(count(|kind| matches!(kind, Kind::Commit { .. })) > 100);
    assert!(count(|kind| matches!(kind, Kind::Abort { .. })) >= 101);
    assert_eq!(count(|kind| matches!(kind, Kind::Prepare { .. })), 2);
    assert_eq!(count(|kind| matches!(kind, Kind::CommitPrepared { .. })), 1);
    assert_eq!(count(|kind| matches!(kind, Kind::AbortPrepared { .. })), 1);
    assert!(count(|kind| matches!(kind, Kind::Checkpoint { shutdown: false, tli: 1, .. })) >= 1);
    // A second reader of the same directory sees the same.
    let other = WalLog::open(&rig.dir.path().join("log")).unwrap();
    assert_eq!(other.stretches().unwrap(), rig.log.stretches().unwrap());
    assert!(rig.log.bytes().unwrap() > 0);
}

/// A transaction whose commit record goes on in the next segment.
fn straddle(rig: &Rig) {
    rig.primary.sql(
        "do $$ begin for n in 1..150 loop execute 'create table w' || n || '(a text primary key)'; end loop; \
         perform pg_logical_emit_message(false, 'pad', repeat('x', \
           (1048576 - (pg_current_wal_insert_lsn() - '0/0') % 1048576 - 3000)::int)); end $$",
    );
    rig.primary.sql("do $$ begin for n in 1..150 loop execute 'drop table w' || n; end loop; end $$");
}

#[test]
fn t21_the_receiver_is_killed_again_and_again() {
    let Some(bin) = programs_for("t21_the_receiver_is_killed_again_and_again") else { return };
    let mut rig = Rig::new(&bin, 1);
    rig.primary.tool("pgbench").args(["-i", "-q", "postgres"]).run().unwrap();
    let mut bench = rig
        .primary
        .tool("pgbench")
        .args(["-c", "2", "-T", "5", "-n", "postgres"])
        .build()
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    for round in 0..14_u64 {
        pause(30 + (round * 97) % 300);
        if round % 3 != 0 {
            rig.log.advance().unwrap();
        }
        rig.receiver.as_mut().unwrap().kill();
        if round % 2 == 0 {
            rig.log.advance().unwrap();
        }
        if round % 4 == 3 {
            // Pando itself is started anew.
            rig.log = WalLog::open(&rig.dir.path().join("log")).unwrap();
        }
        straddle(&rig);
        rig.receive();
    }
    bench.wait().unwrap();
    rig.caught_up();
    let records = cross_check(&rig, 1);
    let wide = |record: &&Record| record.start.0 >> 20 != (record.end.0 - 1) >> 20;
    let straddling = records.iter().filter(wide).filter(|record| record.kind.stop_time().is_some()).count();
    assert!(straddling >= 3, "{straddling} commit records go over a segment's end");
    // Only the newest complete segment is still where pg_receivewal looks for it.
    let live: Vec<_> =
        fs::read_dir(rig.log.live_dir(rig.epoch)).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(live.len() <= 2, "{live:?}");
}

#[test]
fn t21_a_half_made_partial_file_is_cleared_away() {
    let Some(bin) = programs_for("t21_a_half_made_partial_file_is_cleared_away") else { return };
    let mut rig = Rig::new(&bin, 1);
    rig.primary.sql("create table t(n int);;insert into t select generate_series(1, 50000)");
    rig.caught_up();
    rig.receiver = None;
    // Exactly at a border: no partial file, only the newest complete one to go on from.
    let live = rig.log.live_dir(rig.epoch);
    let names = || -> Vec<_> { fs::read_dir(&live).unwrap().map(|file| file.unwrap().path()).collect() };
    let partial = names().into_iter().find(|path| path.extension().is_some()).unwrap();
    File::options().write(true).open(&partial).unwrap().set_len(300_000).unwrap();
    rig.receiver = Some(rig.receive_from(&rig.standby));
    until("pg_receivewal complains", || {
        fs::read_to_string(rig.receiver_log()).unwrap().contains("should be 0 or 1048576")
    });
    rig.receive();
    assert!(names().iter().all(|path| path.extension().is_none() || path.metadata().unwrap().len() == 1 << 20));
    rig.primary.sql("insert into t select generate_series(1, 50000)");
    rig.caught_up();
    cross_check(&rig, 1);
}

#[test]
fn t04_many_commits_in_a_busy_second() {
    let Some(bin) = programs_for("t04_many_commits_in_a_busy_second") else { return };
    let mut rig = Rig::new(&bin, 16);
    rig.primary.tool("pgbench").args(["-i", "-q", "postgres"]).run().unwrap();
    let (tree, from) = rig.snapshot("snap");
    let mut bench = rig
        .primary
        .tool("pgbench")
        .args(["-c", "4", "-T", "3", "-n", "postgres"])
        .build()
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    pause(1500);
    let time = time_of(&rig.primary);
    until("the log is past it", || rig.log.advance().unwrap().last_commit.is_some_and(|last| last > time));
    let to = rig.locate(&from, Want::Time(time)).unwrap();
    assert!(to.time.is_some_and(|found| found <= time && found > from.time.unwrap_or(Timestamp::MIN)));
    // Made while the log goes on growing.
    let latest = "select max(pg_xact_commit_timestamp(xmin))::timestamp from pgbench_history";
    let count = "select count(*) from pgbench_history";
    let clone = rig.clone_at(&tree, &from, &to);
    let (rows, last) = (clone.sql(count).parse::<u64>().unwrap(), parse_time(&clone.sql(latest)));
    let balance =
        clone.sql("select (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history)");
    bench.wait().unwrap();
    assert!(last <= time && to.time == Some(last), "{last} {to:?}");
    assert_eq!(balance, "t");
    let text = time.to_string().replace('Z', "+00");
    let all: u64 =
        rig.primary.sql(&format!("{count} where pg_xact_commit_timestamp(xmin) <= '{text}'")).parse().unwrap();
    // Of transactions that commit at once, one may stand in the log behind a later one.
    assert!(rows > 0 && rows <= all && all - rows <= 4, "{rows} of {all}");
}
