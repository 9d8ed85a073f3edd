//! An oracle for time. Production itself keeps the time of every commit (`track_commit_timestamp`), and its writer
//! notes the end of the log behind each: so what a clone of any moment must show is known to the microsecond.
//! Meanwhile there are idle stretches, bursts, DDL, steps of production's clock, a crash and a failover of production, and
//! restarts of Pando.

use std::collections::BTreeMap;
use std::thread::sleep;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use pando_testkit::{Production, ProductionOptions, Seed, tools, wait_until};

use crate::any_second::ROWS;
use crate::proxy::Proxy;
use crate::stand::{Stand, with};

/// What was committed: for each row the end of the log right behind its commit.
#[derive(Default)]
struct Written {
    ends: BTreeMap<u64, String>,
}

impl Written {
    /// Writes for a while: single commits, bursts, DDL in between, pauses of a second or two.
    fn some(&mut self, production: &Production, seed: &mut Seed, commits: u64) {
        let mut client = production.client("postgres");
        for _ in 0..commits {
            let number = self.ends.len() as u64 + 1;
            let row = format!("INSERT INTO mark VALUES ({number}, NULL)");
            let text =
                if seed.once_in(9) { format!("BEGIN; CREATE TABLE t{number} (n int); {row}; COMMIT") } else { row };
            client.batch_execute(&text).unwrap();
            let end = client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).unwrap();
            self.ends.insert(number, end.get(0));
            match seed.below(12) {
                0..=4 => {}
                5..=9 => sleep(Duration::from_millis(seed.below(120))),
                10 => sleep(Duration::from_millis(400)),
                _ => sleep(Duration::from_millis(1_300 + seed.below(900))),
            }
        }
    }

    /// When each row was committed, by production's clock.
    fn times(&self, production: &Production) -> Vec<Timestamp> {
        let text = production
            .psql("SELECT (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::bigint FROM mark ORDER BY n");
        let times: Vec<Timestamp> =
            text.lines().map(|line| Timestamp::from_microsecond(line.parse().unwrap()).unwrap()).collect();
        assert_eq!(times.len(), self.ends.len());
        times
    }
}

/// A moment to ask for: anywhere, or at a commit, or a microsecond beside one.
fn draw(seed: &mut Seed, ranges: &[(Timestamp, Timestamp)], times: &[Timestamp]) -> Timestamp {
    loop {
        let (from, to) = ranges[seed.index(ranges.len())];
        let micros = u64::try_from(to.as_microsecond() - from.as_microsecond()).unwrap();
        let beside = SignedDuration::from_micros(i64::try_from(seed.below(3)).unwrap() - 1);
        let moment = if seed.once_in(2) {
            from + SignedDuration::from_micros(i64::try_from(seed.below(micros)).unwrap())
        } else {
            times[seed.index(times.len())] + beside
        };
        if (from..=to).contains(&moment) {
            return moment;
        }
    }
}

#[test]
fn t04_t06_any_second_is_what_production_says_it_was_through_crashes_failover_and_restarts() {
    let keeps = ["track_commit_timestamp = on", "wal_keep_size = '1GB'"];
    if !tools::require("faketime") {
        return;
    }
    let Some(mut stand) = Stand::of(ProductionOptions { clock: true, ..with(&keeps) }) else { return };
    let mut seed = Seed::from_env("PANDO_SEED", 5);
    let asked: usize = std::env::var("PANDO_POINTS").map_or(50, |text| text.parse().unwrap());
    // Longer runs have more to ask for.
    let much = 12 + asked as u64 / 6;
    stand.production.psql("CREATE TABLE mark (n bigint PRIMARY KEY, file text)");
    let proxy = Proxy::new(stand.production.port());
    stand.json(&["link", "shop", &proxy.url(), "--snapshot-every", "3s"]);
    let mut written = Written::default();
    written.some(&stand.production, &mut seed, much);
    stand.daemon.kill9();
    written.some(&stand.production, &mut seed, much / 2);
    stand.daemon.resume();
    written.some(&stand.production, &mut seed, much);
    // Its clock goes back while it runs, is ahead of Pando's for a while, and is set right again.
    for seconds in [-4, 3, 0] {
        stand.production.set_clock(seconds);
        written.some(&stand.production, &mut seed, 8);
    }
    stand.production.kill();
    stand.production.resume();
    written.some(&stand.production, &mut seed, much);
    let second = stand.production.standby(with(&keeps));
    written.some(&stand.production, &mut seed, much / 2);
    let end = stand.production.psql("SELECT pg_current_wal_flush_lsn()");
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{end}'");
    assert!(wait_until(Duration::from_secs(30), || second.psql(&replayed) == "t"));
    stand.production.stop();
    second.promote();
    proxy.lead_to(second.port());
    written.some(&second, &mut seed, much);
    stand.daemon.restart();
    written.some(&second, &mut seed, much / 2);
    let all = written.ends.len();
    let up = || stand.daemon.pando(&["clone", "shop@now", "dev"]).status.success();
    assert!(wait_until(Duration::from_secs(60), up), "{}\n{}", stand.events(), stand.daemon.log());
    let dev = stand.show("dev");
    assert_eq!(dev.sql(ROWS).lines().count(), all);

    let times = written.times(&second);
    let ranges: Vec<(Timestamp, Timestamp)> = stand.json(&["timeline", "shop"])["ranges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|range| (range["from"].as_str().unwrap().parse().unwrap(), range["to"].as_str().unwrap().parse().unwrap()))
        .collect();
    assert_eq!(ranges.len(), 1, "nothing was lost, so there is no gap: {ranges:?}");
    let begun = Instant::now();
    for number in 0..asked {
        let moment = draw(&mut seed, &ranges, &times);
        stand.json(&["refresh", &format!("dev@{moment}")]);
        // What lies before the first commit that came later: after a step back of the clock others may follow (T-4).
        let must = times.iter().take_while(|time| **time <= moment).count();
        let shown = dev.sql(ROWS);
        let rows: Vec<u64> = shown.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(rows, (1..=must as u64).collect::<Vec<_>>(), "{number}: {moment}, {seed}\n{times:?}");
        let tables = dev.sql("SELECT count(*) FROM pg_tables WHERE tablename ~ '^t[0-9]' AND substr(tablename, 2)::bigint NOT IN (SELECT n FROM mark)");
        assert_eq!(tables, "0", "{moment}, {seed}");
    }
    // By position: what lay before it and nothing else. (Positions before the first snapshot cannot be asked for.)
    let first = times.iter().position(|time| *time > ranges[0].0).unwrap() as u64 + 1;
    assert!(times.windows(2).any(|two| two[0] > two[1]), "the clock never went back: {times:?}");
    for _ in 0..asked.div_ceil(10) {
        let number = first + seed.below(all as u64 - first);
        let copy = stand.copy(&format!("shop@lsn:{}", written.ends[&number]), "at");
        assert_eq!(copy.sql("SELECT max(n) || ' ' || count(*) FROM mark"), format!("{number} {number}"), "{seed}");
        stand.json(&["rm", "at"]);
    }
    eprintln!("{asked} moments of {all} commits, none wrong, none refused, {:?}", begun.elapsed());
    stand.json(&["rm", "dev"]);
    stand.json(&["unlink", "shop"]);
    stand.end(&[]);
}

#[test]
fn t04_where_productions_clock_is_far_ahead_moments_are_by_it() {
    with_clock(300);
}

#[test]
fn t04_where_productions_clock_is_far_behind_moments_are_by_it() {
    with_clock(-300);
}

fn with_clock(seconds: i64) {
    for both in [false, true] {
        let Some(stand) = Stand::of(ProductionOptions { clock: true, ..with(&[]) }) else { return };
        stand.production.set_clock(seconds);
        stand.production.psql("CREATE TABLE mark (n int); INSERT INTO mark VALUES (1)");
        if both {
            stand.link_both(&[])
        } else {
            stand.link(&[])
        };
        sleep(Duration::from_millis(1100));
        let clock = || stand.production.psql("SELECT to_json(clock_timestamp() AT TIME ZONE 'UTC') #>> '{}'") + "Z";
        let first = clock();
        sleep(Duration::from_millis(1100));
        stand.production.psql("INSERT INTO mark VALUES (2)");
        let second = clock();
        let taken = stand.json(&["snapshot", "shop"])["result"]["snapshot"].as_str().unwrap().to_owned();
        sleep(Duration::from_millis(1100));
        stand.production.psql("INSERT INTO mark VALUES (3)");
        let shown = |moment: &str| {
            let copy = stand.copy(&format!("shop@{moment}"), "dev");
            let rows = copy.sql("SELECT string_agg(n::text, ' ' ORDER BY n) FROM mark");
            stand.json(&["rm", "dev"]);
            rows
        };
        let timeline = stand.json(&["timeline", "shop"]);
        let from = timeline["ranges"][0]["from"].as_str().unwrap();
        for (moment, rows) in [(&*taken, "1 2"), (&*second, "1 2"), (&*first, "1"), (from, "1"), ("now", "1 2 3")] {
            assert_eq!(shown(moment), rows, "{seconds} s, {both}: {moment}\n{timeline}\n{}", stand.events());
        }
        stand.json(&["unlink", "shop"]);
        stand.end(&[]);
    }
}

#[test]
fn t04_where_productions_clock_is_set_back_the_latest_is_what_was_taken_last() {
    for both in [false, true] {
        let Some(stand) = Stand::of(ProductionOptions { clock: true, ..with(&[]) }) else { return };
        stand.production.psql("CREATE TABLE mark (n int); INSERT INTO mark VALUES (1)");
        if both {
            stand.link_both(&[])
        } else {
            stand.link(&[])
        };
        stand.production.set_clock(-600);
        stand.production.psql("INSERT INTO mark VALUES (2)");
        let taken = stand.json(&["snapshot", "shop"])["result"]["snapshot"].clone();
        let timeline = || stand.json(&["timeline", "shop"])["snapshots"].as_array().unwrap().clone();
        let ready = || timeline().iter().any(|one| one["id"] == taken && one["prepared"] == true);
        assert!(wait_until(Duration::from_secs(60), ready), "{both}: {taken} of {:?}\n{}", timeline(), stand.events());
        assert_ne!(timeline().last().unwrap()["id"], taken, "{both}: its moment is before that of the first");
        let copy = stand.copy("shop@latest", "dev");
        assert_eq!(copy.sql("SELECT count(*) FROM mark"), "2", "{both}: {:?}", timeline());
        stand.json(&["rm", "dev"]);
        stand.json(&["unlink", "shop"]);
        stand.end(&[]);
    }
}
