//! The promise of the product: every second can be asked for, and what is shown is what was committed by then.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp, Unit};
use pando_testkit::Production;

use crate::stand::{Copy, Stand};

/// One commit: the clock on both sides of it. Its number is its place.
#[derive(Debug, Clone, Copy)]
pub struct Commit {
    before: Timestamp,
    after: Timestamp,
}

/// What was committed, and when.
#[derive(Debug, Default)]
pub struct Oracle(Vec<Commit>);

impl Oracle {
    /// Commits one row, by a statement that names its number.
    pub fn commit(&mut self, client: &mut postgres::Client, statement: impl Fn(i64) -> String) {
        let number = i64::try_from(self.0.len()).unwrap() + 1;
        let before = Timestamp::now();
        client.batch_execute(&statement(number)).unwrap();
        self.0.push(Commit { before, after: Timestamp::now() });
    }

    /// The same, by any means.
    pub fn commit_by(&mut self, commit: impl FnOnce(i64)) {
        let number = i64::try_from(self.0.len()).unwrap() + 1;
        let before = Timestamp::now();
        commit(number);
        self.0.push(Commit { before, after: Timestamp::now() });
    }

    /// The first and the last moment of it.
    pub fn span(&self) -> (Timestamp, Timestamp) {
        (self.0[0].before, self.0[self.0.len() - 1].after)
    }

    /// Asserts that the rows shown are exactly those committed at a moment.
    pub fn check(&self, moment: Timestamp, shown: &str) {
        self.check_within(moment, SignedDuration::ZERO, shown);
    }

    /// The same, where what was committed so shortly before may be missing.
    pub fn check_within(&self, moment: Timestamp, slack: SignedDuration, shown: &str) {
        self.check_between(moment - slack, moment, shown);
    }

    /// Asserts that all rows committed by `least` are shown, and none of after `most`.
    pub fn check_between(&self, least: Timestamp, most: Timestamp, shown: &str) {
        let shown: Vec<i64> = shown.lines().map(|line| line.parse().unwrap()).collect();
        let last = i64::try_from(shown.len()).unwrap();
        assert_eq!(shown, (1..=last).collect::<Vec<_>>(), "rows are missing at {most}");
        // The server takes a commit's time somewhere between the two looks at the clock, in microseconds.
        let must = self.0.iter().take_while(|commit| commit.after <= least).count();
        let may = self.0.iter().take_while(|commit| commit.before <= most).count();
        assert!((must..=may).contains(&shown.len()), "{most}: {must}..={may} commits, shown {last}");
    }

    /// How many there were.
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

/// An oracle's table.
pub fn table(production: &Production) {
    production.psql("CREATE TABLE mark (n bigint PRIMARY KEY, file text)");
}

/// A row alone.
pub fn row(number: i64) -> String {
    format!("INSERT INTO mark VALUES ({number}, NULL)")
}

/// Every row, in order.
pub const ROWS: &str = "SELECT n FROM mark ORDER BY n";

/// Writes until told to stop: a file, then the row that names it, ten times a second; now and then many
/// commits at once, and now and then with DDL in the same transaction.
fn write(stand: &Stand, oracle: &mut Oracle, stop: &AtomicBool) {
    let mut client = stand.production.client("postgres");
    for round in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let burst = if round % 17 == 0 { 12 } else { 1 };
        for _ in 0..burst {
            let ddl = round % 10 == 0;
            let files = stand.files();
            oracle.commit(&mut client, |number| {
                fs::write(files.join(format!("file-{number}")), number.to_string()).unwrap();
                let row = format!("INSERT INTO mark VALUES ({number}, 'file-{number}');");
                if ddl { format!("BEGIN; CREATE TABLE t{number} AS SELECT {number} AS n; {row} COMMIT") } else { row }
            });
        }
        sleep(Duration::from_millis(100));
    }
}

fn check(oracle: &Oracle, moment: Timestamp, copy: &Copy) {
    let shown = copy.sql(ROWS);
    oracle.check(moment, &shown);
    let files = copy.path("files");
    for file in copy.sql("SELECT file FROM mark").lines() {
        let text = fs::read_to_string(files.join(file)).unwrap_or_else(|error| panic!("{file} at {moment}: {error}"));
        assert_eq!(format!("file-{text}"), file);
    }
    // Tables stand and fall with the row of the same transaction.
    let tables = copy.sql("SELECT count(*) FROM pg_tables WHERE tablename ~ '^t[0-9]' AND substr(tablename, 2)::bigint NOT IN (SELECT n FROM mark)");
    assert_eq!(tables, "0");
}

#[test]
fn t02_any_second_shows_exactly_what_was_committed_and_every_file_that_rows_name() {
    let Some(stand) = Stand::new() else { return };
    table(&stand.production);
    stand.link_both(&["--snapshot-every", "5s"]);
    let mut oracle = Oracle::default();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| write(&stand, &mut oracle, &stop));
        sleep(Duration::from_secs(20));
        stop.store(true, Ordering::Relaxed);
    });
    let (from, to) = oracle.span();
    let step = to.duration_since(from) / 11;
    // Spread over the whole stretch, at odd places; every other one a whole second.
    let seed = from.subsec_nanosecond();
    for place in 1..=10 {
        let odd = SignedDuration::from_nanos(i64::from(seed).wrapping_mul(i64::from(place) * 7919) % 1_000_000_000);
        let mut moment = from + step * place + odd;
        if place % 2 == 0 {
            moment = moment.round(Unit::Second).unwrap();
        }
        let moment = moment.min(to);
        let copy = if place < 5 {
            stand.copy(&format!("shop@{moment}"), &format!("c{place}"))
        } else {
            // The same by way of a refresh.
            stand.json(&["refresh", &format!("c4@{moment}")]);
            stand.show("c4")
        };
        assert_eq!(copy.0["moment"], moment.to_string());
        check(&oracle, moment, &copy);
    }
    stand.json(&["rm", "c1", "c2", "c3", "c4"]);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}

#[test]
fn t01_an_idle_stretch_the_first_moment_the_future_and_every_other_way_to_say_a_moment() {
    let Some(stand) = Stand::new() else { return };
    table(&stand.production);
    let early = Timestamp::now();
    stand.link_both(&["--snapshot-every", "3s"]);
    let mut oracle = Oracle::default();
    let mut client = stand.production.client("postgres");
    for _ in 0..3 {
        oracle.commit(&mut client, row);
    }
    let lsn = stand.production.psql("SELECT pg_current_wal_flush_lsn()");
    oracle.commit(&mut client, row);
    let idle = Timestamp::now();
    sleep(Duration::from_secs(10));

    // In the middle of the idle stretch: no commit comes after it.
    let middle = idle + SignedDuration::from_millis(6_300);
    let quiet = stand.copy(&format!("shop@{middle}"), "quiet");
    oracle.check(middle, &quiet.sql(ROWS));
    assert_eq!(quiet.sql(ROWS).lines().count(), 4);
    let ago = stand.copy("shop@-5s", "ago");
    assert_eq!(ago.sql(ROWS).lines().count(), 4);

    oracle.commit(&mut client, row);
    let now = stand.copy("shop@now", "now");
    assert_eq!(now.sql(ROWS).lines().count(), 5);
    let at = stand.copy(&format!("shop@lsn:{lsn}"), "at");
    assert_eq!(at.sql(ROWS).lines().count(), 3);
    assert_eq!(stand.copy("shop@latest", "latest").0["asked"], "latest");

    // Before the link: refused, and the first one that is named works.
    let refused = stand.fails(4, &["clone", &format!("shop@{early}"), "early"]);
    let first = refused.rsplit_once("the first moment that can be served is ").unwrap().1.lines().next().unwrap();
    stand.copy(&format!("shop@{first}"), "early");
    let tomorrow = Timestamp::now() + SignedDuration::from_hours(24);
    let refused = stand.fails(4, &["clone", &format!("shop@{tomorrow}"), "late"]);
    assert!(refused.contains("lies in the future"), "{refused}");

    // A bookmark between two snapshots, and one snapshot by its id.
    let between = idle + SignedDuration::from_millis(1_700);
    stand.json(&["bookmark", &format!("shop@{between}"), "kept"]);
    let kept = stand.copy("shop@kept", "of-kept");
    assert_eq!((kept.sql(ROWS).lines().count(), kept.0["moment"].as_str().unwrap()), (4, between.to_string().as_str()));
    let timeline = stand.json(&["timeline", "shop"]);
    let snapshots = timeline["snapshots"].as_array().unwrap();
    assert!(snapshots.iter().any(|snapshot| snapshot["bookmarks"][0] == "kept"), "{timeline}");
    let snapshot = snapshots.iter().find(|one| one["bookmarks"].as_array().unwrap().is_empty()).unwrap();
    let moment: Timestamp = snapshot["moment"].as_str().unwrap().parse().unwrap();
    let by_id = stand.copy(&format!("shop@{}", snapshot["id"].as_str().unwrap()), "by-id");
    oracle.check(moment, &by_id.sql(ROWS));
    stand.end(&[]);
}
