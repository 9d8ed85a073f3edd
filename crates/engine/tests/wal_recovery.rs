//! Recovery on real servers to located points: the traps T-1 to T-6.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod wal_support;

use jiff::{SignedDuration, Timestamp};
use pando_engine::postgres::wal::{SegmentName, SegmentSize, WalLog};
use pando_engine::{Point, Want};
use pando_model::Lsn;
use wal_support::{Rig, pause, programs_for, time_of, until};

fn rows(server: &wal_support::Server) -> String {
    server.sql("select coalesce(string_agg(n::text, ',' order by n), '') from t")
}

#[test]
fn t01_idle_target_time() {
    let Some(bin) = programs_for("t01_idle_target_time") else { return };
    let mut rig = Rig::new(&bin, 16);
    rig.primary.sql("create table t(n int);;insert into t values (1)");
    let (tree, from) = rig.snapshot("snap");
    // Nothing at all behind the snapshot; asked for a time with no commit after it.
    let far = time_of(&rig.primary) + SignedDuration::from_hours(1);
    for want in [Want::Time(far), Want::End] {
        let to = rig.locate(&from, want).unwrap();
        assert_eq!(rows(rig.clone_at(&tree, &from, &to)), "1");
    }
    rig.primary.sql("insert into t values (2)");
    rig.caught_up();
    let to = rig.locate(&from, Want::Time(far)).unwrap();
    assert_eq!(rows(rig.clone_at(&tree, &from, &to)), "1,2");
}
#[test]
fn t04_stops_before_the_first_later_commit() {
    let Some(bin) = programs_for("t04_stops_before_the_first_later_commit") else { return };
    let mut rig = Rig::new(&bin, 16);
    rig.primary.sql("create table t(n int);;insert into t values (1)");
    let (tree, from) = rig.snapshot("snap");
    let mut times: Vec<Timestamp> = Vec::new();
    for n in 2..6 {
        times.push(time_of(&rig.primary));
        rig.primary.sql(&format!("insert into t values ({n})"));
        pause(5);
    }
    rig.caught_up();
    for (n, time) in times.iter().enumerate() {
        let to = rig.locate(&from, Want::Time(*time)).unwrap();
        let expected: Vec<String> = (1..n + 2).map(|n| n.to_string()).collect();
        assert_eq!(rows(rig.clone_at(&tree, &from, &to)), expected.join(","));
    }
}

/// Production was stopped cleanly and nothing follows: the mirror's restartpoint is the very record asked
/// for. Replay would begin behind it, so PostgreSQL never meets the target; without one it stops right there.
#[test]
fn t01_the_restartpoint_itself_is_asked_for() {
    let Some(bin) = programs_for("t01_the_restartpoint_itself_is_asked_for") else { return };
    let mut rig = Rig::new(&bin, 16);
    rig.primary.sql("create table t(n int);;insert into t values (1)");
    rig.caught_up();
    rig.primary.stop("fast");
    let shutdown = rig.primary.control("Latest checkpoint location").parse::<Lsn>().unwrap();
    until("the log has the shutdown checkpoint", || rig.log.advance().unwrap().end > shutdown);
    let end = rig.log.advance().unwrap().end;
    rig.replayed(end);
    rig.standby.sql("checkpoint");
    let (tree, from) = rig.snapshot_now("snap");
    let to = rig.locate(&from, Want::End).unwrap();
    assert_eq!((to.lsn, from.lsn), (shutdown, end));
    let refused = rig.try_clone(&tree, &from, &to).map(|_| ());
    assert!(refused.is_err_and(|log| log.contains("recovery ended before configured recovery target was reached")));
    let clone = rig.try_clone_with(&tree, &from, &to, "").unwrap();
    assert_eq!(rows(clone), "1");
}

/// A PREPARE is acknowledged: where nothing follows it, the moment is placed behind it all the same.
#[test]
fn t01_a_prepared_transaction_with_no_commit_behind_it() {
    let Some(bin) = programs_for("t01_a_prepared_transaction_with_no_commit_behind_it") else { return };
    let mut rig = Rig::new(&bin, 16);
    rig.primary.sql("create table t(n int);;insert into t values (1)");
    let (tree, from) = rig.snapshot("snap");
    let before = time_of(&rig.primary);
    pause(5);
    rig.primary.sql("begin;insert into t values (2);prepare transaction 'p'");
    let lsn = rig.primary.lsn();
    let after = time_of(&rig.primary);
    until("the log has it", || rig.log.advance().unwrap().end >= lsn);
    for (time, expected) in [(before, "0"), (after, "1"), (after + SignedDuration::from_hours(1), "1")] {
        let to = rig.locate(&from, Want::Time(time)).unwrap();
        let clone = rig.clone_at(&tree, &from, &to);
        assert_eq!(clone.sql("select count(*) from pg_prepared_xacts where gid = 'p'"), expected, "{time}");
        assert_eq!(rows(clone), "1");
    }
}

/// Restore points as heartbeats, and records of every other kind, do not move a time.
#[test]
fn t02_restore_points_are_no_commits() {
    let Some(bin) = programs_for("t02_restore_points_are_no_commits") else { return };
    let mut rig = Rig::new(&bin, 16);
    rig.primary.sql("create table t(n int);;insert into t values (1)");
    let (tree, from) = rig.snapshot("snap");
    rig.primary.sql("insert into t values (2)");
    let time = time_of(&rig.primary);
    pause(5);
    rig.primary.sql(
        "select pg_create_restore_point('heartbeat');;select pg_logical_emit_message(false, 'a', 'b');;checkpoint",
    );
    let lsn = rig.primary.lsn();
    until("the log has it", || rig.log.advance().unwrap().end >= lsn);
    let to = rig.locate(&from, Want::Time(time)).unwrap();
    assert_eq!(rows(rig.clone_at(&tree, &from, &to)), "1,2");
    let to = rig.locate(&from, Want::End).unwrap();
    assert_eq!(rows(rig.clone_at(&tree, &from, &to)), "1,2");
    rig.primary.sql("insert into t values (3)");
    rig.caught_up();
    let again = rig.locate(&from, Want::Time(time)).unwrap();
    assert_eq!(rows(rig.clone_at(&tree, &from, &again)), "1,2");
}

/// Times never reach PostgreSQL; positions do, in its own form, and any record will do as a target.
#[test]
fn t03_every_record_can_be_stopped_at() {
    let Some(bin) = programs_for("t03_every_record_can_be_stopped_at") else { return };
    let mut rig = Rig::new(&bin, 1);
    rig.primary.sql("create table t(n int);;insert into t values (1)");
    let (tree, from) = rig.snapshot("snap");
    let mut positions = Vec::new();
    for sql in [
        "insert into t values (2)",
        "select pg_switch_wal()",
        "checkpoint",
        "select pg_logical_emit_message(false, 'long', repeat('x', 3000000))",
        "begin;insert into t values (3);prepare transaction 'p'",
        "commit prepared 'p'",
    ] {
        rig.primary.sql(sql);
        positions.push((rig.primary.lsn(), rows(&rig.primary)));
    }
    rig.caught_up();
    for (lsn, expected) in positions {
        let to = rig.locate(&from, Want::Lsn(lsn)).unwrap();
        assert!(to.lsn <= lsn);
        assert_eq!(rig.locate(&from, Want::Lsn(to.lsn)), Some(to.clone()));
        // The record at that place itself is the first behind the one before it.
        let before = rig.locate(&from, Want::Lsn(Lsn(lsn.0 - 1))).unwrap();
        assert_eq!(rows(rig.clone_at(&tree, &from, &before)), expected);
    }
}

#[test]
fn t05_nothing_before_the_snapshot_is_offered() {
    let Some(bin) = programs_for("t05_nothing_before_the_snapshot_is_offered") else { return };
    let mut rig = Rig::new(&bin, 16);
    rig.primary.sql("create table t(n int);;insert into t values (1)");
    let early = time_of(&rig.primary);
    pause(5);
    rig.primary.sql("insert into t values (2);;checkpoint");
    let replayed = rig.caught_up().end;
    rig.replayed(replayed);
    // What a standby has on disk, not what it has replayed, decides how far back its tree can be stopped.
    rig.standby.sql("checkpoint");
    let (tree, from) = rig.snapshot("snap");
    assert_eq!(rig.locate(&from, Want::Time(early)), None);
    assert_eq!(rig.locate(&from, Want::Lsn(Lsn(from.lsn.0 - 10_000))), None);
    let end = rig.log.advance().unwrap().end;
    assert_eq!(rig.locate(&from, Want::Lsn(Lsn(end.0 + 8))), None);
    let ahead = Point { lsn: Lsn(end.0 + 8), ..from.clone() };
    assert_eq!(rig.locate(&ahead, Want::End), None);
    // The earliest that is offered is consistent.
    let to = rig.locate(&from, Want::Lsn(from.lsn)).unwrap();
    assert_eq!(rows(rig.clone_at(&tree, &from, &to)), "1,2");
}

#[test]
fn t06_two_failovers_and_every_side_of_them() {
    let Some(bin) = programs_for("t06_two_failovers_and_every_side_of_them") else { return };
    let mut rig = Rig::new(&bin, 1);
    rig.primary.sql("create table t(n int);;insert into t values (1)");
    let (tree, from) = rig.snapshot("snap");
    let mut times = Vec::new();
    let (mut n, mut trees) = (1, vec![(tree, from)]);
    for failover in 0..3 {
        for _ in 0..2 {
            n += 1;
            rig.primary.sql(&format!("insert into t values ({n})"));
            times.push((time_of(&rig.primary), n));
            pause(5);
        }
        rig.caught_up();
        if failover == 2 {
            break;
        }
        rig.fail_over(5010 + failover);
        rig.caught_up();
        assert_eq!(rig.log.advance().unwrap().timeline, u32::from(failover) + 2);
        trees.push(rig.snapshot(&format!("snap{failover}")));
    }
    for (at, (tree, from)) in trees.iter().enumerate() {
        for (time, n) in times.iter().skip(at * 3) {
            let to = rig.locate(from, Want::Time(*time)).unwrap();
            let expected: Vec<String> = (1..=*n).map(|n| n.to_string()).collect();
            assert_eq!(to.timeline, u32::try_from((n - 2) / 2 + 1).unwrap());
            assert_eq!(rows(rig.clone_at(tree, from, &to)), expected.join(","), "{to:?} from {from:?}");
        }
    }
    assert_eq!(rig.log.stretches().unwrap().len(), 1);
}

/// A disk gives back another byte than it was told: the log ends there, says so, and what lies before it is served.
#[test]
fn t26_a_damaged_segment_ends_the_log_and_older_seconds_are_still_served() {
    let Some(bin) = programs_for("t26_a_damaged_segment_ends_the_log_and_older_seconds_are_still_served") else {
        return;
    };
    let mut rig = Rig::new(&bin, 1);
    rig.primary.sql("create table t(n int);;insert into t values (1)");
    let (tree, from) = rig.snapshot("snap");
    rig.primary.sql("insert into t values (2)");
    let before = time_of(&rig.primary);
    rig.primary.sql("insert into t values (3)");
    let good = rig.caught_up().end;
    rig.primary.sql("insert into t select generate_series(4, 60000)");
    let size = SegmentSize::new(1 << 20).unwrap();
    let name = SegmentName { segno: size.segno(good) + 1, tli: 1 }.file(size);
    let bad = rig.log.live_dir(rig.epoch).join(&name);
    until("a whole segment has come", || bad.exists());
    rig.receiver = None;
    let mut bytes = std::fs::read(&bad).unwrap();
    bytes[500_000] ^= 1;
    std::fs::write(&bad, bytes).unwrap();
    for _ in 0..2 {
        let error = rig.log.advance().unwrap_err().to_string();
        assert!(error.contains("damaged") && error.contains(&name), "{error}");
        let to = rig.locate(&from, Want::Time(before)).unwrap();
        assert_eq!(rows(rig.clone_at(&tree, &from, &to)), "1,2");
        rig.log = WalLog::open(&rig.dir.path().join("log")).unwrap();
    }
}
