//! The machine dies: Pando's home lies on a disk that remembers every write and every flush, under the load of a
//! PostgreSQL, a MariaDB and a Redis and the verbs of several users. The disk is then made as a crash would have left it, at moments that a
//! seed has drawn, with some of the unflushed writes, torn and in any order. Whatever was acknowledged before the
//! crash must be there, without production's help.

mod guests;

use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use pando_catalog::{BookmarkRecord, Catalog};
use pando_model::{AppId, Name, OwnerId, SnapshotId};
use pando_testkit::{Daemon, DiskMoment, FsKind, Production, RecordedDisk, Seed, tools, wait_until};
use serde_json::Value;

use crate::any_second::{Oracle, ROWS, row, table};
use crate::others::{self, Others, Seen};
use crate::proxy::Proxy;
use crate::stand::{Copy, PANDO, Raised, production, with};

/// Something that Pando has acknowledged, and when.
#[derive(Debug, Clone)]
pub enum Ack {
    Snapshot(String),
    Bookmark(String),
    /// A clone; durable ones keep what was committed there.
    Clone {
        name: String,
        durable: bool,
    },
    /// Rows committed in each database of a durable clone.
    Rows {
        name: String,
        count: usize,
    },
    /// A removal was asked for: from now on it may be gone.
    Going(String),
    Gone(String),
    /// Every second up to here can be asked for.
    Through(Timestamp),
}

#[derive(Default)]
struct Acks(Mutex<Vec<(DiskMoment, Ack)>>);

impl Acks {
    /// Notes something that has happened.
    fn note(&self, disk: &RecordedDisk, ack: Ack) {
        let at = disk.now();
        self.0.lock().unwrap().push((at, ack));
    }

    fn before(&self, at: DiskMoment) -> Vec<Ack> {
        let all = self.0.lock().unwrap();
        all.iter().filter(|(when, _)| *when <= at).map(|(_, ack)| ack.clone()).collect()
    }
}

const BALANCES: &str =
    "SELECT (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(tbalance) FROM pgbench_tellers)
    AND (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT sum(bbalance) FROM pgbench_branches)
    AND (SELECT sum(abalance) FROM pgbench_accounts) = (SELECT coalesce(sum(delta), 0) FROM pgbench_history)";

struct Load(Child);

impl Load {
    fn pgbench(production: &Production) -> Self {
        let url = production.url("postgres");
        tools::run(production.bin().join("pgbench"), &["-i", "-q", "-s", "2", &url]);
        let mut command = Command::new(production.bin().join("pgbench"));
        command.args(["-n", "-c", "2", "-T", "600", "--rate", "300", &url]);
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Stage {
    disk: RecordedDisk,
    acks: Acks,
    oracle: Oracle,
    seen: Seen,
    proxy: Proxy,
    production: Production,
    others: Others,
    linked: DiskMoment,
}

/// Kills the daemon and everything it runs, and what a reboot empties is empty.
fn blackout(daemon: &mut Daemon) {
    daemon.kill9();
    daemon.kill_units();
    let _ = std::fs::remove_dir_all(pando_daemon::run_dir(&daemon.home().canonicalize().unwrap()));
}

/// Users at work, until they have done this many rounds.
fn work(daemon: &Daemon, disk: &RecordedDisk, acks: &Acks, rounds: usize) {
    for round in 0..rounds {
        let taken = daemon.pando_json(&["snapshot", "shop"]);
        acks.note(
            disk,
            Ack::Snapshot(taken["result"]["snapshot"].as_str().unwrap_or_else(|| panic!("{taken}")).to_owned()),
        );
        let (name, mark) = (format!("c{round}"), format!("b{round}"));
        let durable = round % 2 == 0;
        let profile = if durable { "durable" } else { "disposable" };
        let copy = Copy(daemon.pando_json(&["clone", "shop", &name, "--profile", profile]));
        acks.note(disk, Ack::Clone { name: name.clone(), durable });
        daemon.pando_json(&["bookmark", "shop", &mark]);
        acks.note(disk, Ack::Bookmark(mark));
        if durable {
            copy.sql("CREATE TABLE own (n int)");
            others::begin(&copy.0);
            for count in 1..=5 {
                copy.sql(&format!("INSERT INTO own VALUES ({count})"));
                others::add(&copy.0, count);
                acks.note(disk, Ack::Rows { name: name.clone(), count });
            }
        } else {
            daemon.pando_json(&["refresh", &name]);
        }
        if round == 1 {
            acks.note(disk, Ack::Going("c0".into()));
            daemon.pando_json(&["rm", "c0"]);
            acks.note(disk, Ack::Gone("c0".into()));
        }
    }
}

impl Stage {
    /// Everything that happens before the crashes.
    fn play(kind: FsKind, rounds: usize) -> Option<Self> {
        let disk = RecordedDisk::new(kind, 3072)?;
        // Later crashes must find the log that an earlier one still needs.
        let production = production(with(&["wal_keep_size = '2GB'", "max_slot_wal_keep_size = '4GB'"]))?;
        table(&production);
        let others = Others::start()?;
        let proxy = Proxy::new(production.port());
        let load = Load::pgbench(&production);
        let mut daemon = Daemon::start_on(std::path::Path::new(PANDO), &disk.path().join("home"));
        let [maria, redis] = others.urls();
        daemon.pando_json(&["link", "shop", &proxy.url(), &maria, &redis, "--snapshot-every", "2s"]);
        let (linked, acks, mut oracle, mut seen) = (disk.now(), Acks::default(), Oracle::default(), Seen::default());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _stop = Raised(&stop);
            let (daemon, disk, acks, stop, production) = (&daemon, &disk, &acks, &stop, &production);
            let (oracle, seen, others) = (&mut oracle, &mut seen, &others);
            scope.spawn(move || others.write(seen, stop));
            scope.spawn(move || {
                let mut client = production.client("postgres");
                while !stop.load(Ordering::Relaxed) {
                    oracle.commit(&mut client, row);
                    std::thread::sleep(Duration::from_millis(40));
                }
            });
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let ranges = daemon.pando_json(&["timeline", "shop"])["ranges"].clone();
                    if let Some(to) = ranges.as_array().and_then(|all| all.last()?["to"].as_str()?.parse().ok()) {
                        acks.note(disk, Ack::Through(to));
                    }
                    std::thread::sleep(Duration::from_millis(150));
                }
            });
            work(daemon, disk, acks, rounds);
        });
        blackout(&mut daemon);
        drop(load);
        proxy.cut();
        others.cut();
        let mut made = Self { disk, acks, oracle, seen, proxy, production, others, linked };
        drop(daemon);
        made.disk.pull_the_plug();
        Some(made)
    }

    /// Crashes once, and asks for everything that was acknowledged; `all`: also by clones of old and new moments.
    fn crash(&mut self, at: DiskMoment, seed: &mut Seed, all: bool, last: bool) {
        let crash = self.disk.crash(at, seed);
        let acks = self.acks.before(at);
        let told = format!("{crash:?}, {seed}, after {} acknowledgements", acks.len());
        let home = self.disk.path().join("home");
        // Another boot, as far as the daemon can see.
        std::fs::write(home.join("boot"), "the one before").unwrap();
        let mut daemon = Daemon::start_on(std::path::Path::new(PANDO), &home);
        self.judge(&daemon, &acks, &told, seed, all);
        if last {
            self.proxy.lead_to(self.production.port());
            self.others.lead_back();
            let caught_up = || daemon.pando(&["clone", "shop@now", "again"]).status.success();
            assert!(wait_until(Duration::from_secs(40), caught_up), "{told}\n{}", daemon.log());
            let again = Copy(daemon.pando_json(&["show", "again"]));
            assert_eq!(again.sql(BALANCES), "t", "{told}");
            assert!(others::whole(&again.0), "{told}");
        }
        blackout(&mut daemon);
        drop(daemon);
        self.disk.leave();
    }

    fn judge(&self, daemon: &Daemon, acks: &[Ack], told: &str, seed: &mut Seed, all: bool) {
        let listed = daemon.pando_json(&["ls"]);
        let timeline = daemon.pando_json(&["timeline", "shop"]);
        let there: Vec<&str> = names(&listed["clones"], "name");
        let snapshots = names(&timeline["snapshots"], "id");
        let bookmarks: Vec<&str> =
            timeline["snapshots"].as_array().unwrap().iter().flat_map(|one| strings(&one["bookmarks"])).collect();
        let going: Vec<&str> =
            acks.iter().filter_map(|ack| if let Ack::Going(name) = ack { Some(name.as_str()) } else { None }).collect();
        let (mut through, mut durables, mut disposable) = (None, Vec::new(), Vec::new());
        for ack in acks {
            match ack {
                Ack::Snapshot(id) => assert!(snapshots.contains(&id.as_str()), "{id} is lost: {told}\n{timeline}"),
                Ack::Bookmark(name) => {
                    assert!(bookmarks.contains(&name.as_str()), "{name} is lost: {told}\n{timeline}")
                }
                Ack::Gone(name) => assert!(!there.contains(&name.as_str()), "{name} is there again: {told}\n{listed}"),
                Ack::Clone { name, .. } if going.contains(&name.as_str()) => {}
                Ack::Clone { name, durable } => {
                    assert!(there.contains(&name.as_str()), "{name} is lost: {told}\n{listed}");
                    if *durable { durables.push(name.as_str()) } else { disposable.push(name.as_str()) }
                }
                Ack::Through(to) => through = Some(*to),
                Ack::Rows { .. } | Ack::Going(_) => {}
            }
        }
        if all {
            self.promised(daemon, &timeline, through, told);
        }
        for name in durables {
            let rows = acks.iter().filter_map(|ack| match ack {
                Ack::Rows { name: of, count } if of == name => Some(*count),
                _ => None,
            });
            let rows = rows.max().unwrap_or(0);
            let up = || {
                let view = daemon.pando_json(&["show", name]);
                others::answer(&view) && crate::stand::sql_at(Copy(view).url(), "SELECT 1").is_ok()
            };
            assert!(wait_until(Duration::from_secs(40), up), "{name}: {told}\n{}", daemon.log());
            let copy = Copy(daemon.pando_json(&["show", name]));
            assert_eq!(copy.sql(BALANCES), "t", "{name}: {told}");
            assert!(others::whole(&copy.0), "{name}: {told}");
            if rows > 0 {
                let own = copy.sql("SELECT count(*) FROM own").parse().unwrap();
                for (engine, found) in [("PostgreSQL", own)].into_iter().chain(others::counts(&copy.0)) {
                    assert!(found >= rows, "{engine} in {name} has {found} of {rows} rows: {told}");
                }
            }
        }
        let doctor = daemon.pando_json(&["doctor"]);
        let strange = doctor["items"].as_array().unwrap().iter().filter(|item| item["what"] == "strangers");
        assert_eq!(strange.count(), 0, "{told}\n{doctor}");
        assert_eq!(names(&daemon.pando_json(&["ops"]), "state").iter().filter(|state| **state == "stuck").count(), 0);
        if !all {
            return;
        }
        if let Some(name) = disposable.first() {
            assert_eq!(daemon.pando_json(&["show", name])["state"], "failed", "{told}");
            daemon.pando_json(&["refresh", name]);
            assert_eq!(Copy(daemon.pando_json(&["show", name])).sql(BALANCES), "t", "{told}");
        }
        if !snapshots.is_empty() {
            let id = snapshots[seed.index(snapshots.len())];
            let copy = Copy(daemon.pando_json(&["clone", &format!("shop@{id}"), "of-snapshot"]));
            assert_eq!(copy.sql(BALANCES), "t", "{id}: {told}");
            let checked = Command::new(self.production.bin().join("pg_amcheck"))
                .args(["--install-missing", "--heapallindexed", "-h", "127.0.0.1", "-U", "pando", "postgres"])
                .args(["-p", &copy.port().to_string()])
                .env("PGPASSWORD", copy.password())
                .output()
                .unwrap();
            assert!(checked.status.success() && checked.stdout.is_empty(), "{checked:?}: {told}");
            assert!(others::whole(&copy.0), "{id}: {told}");
        }
    }

    /// The last second that was shown as one that can be asked for still can be, production being unreachable.
    fn promised(&self, daemon: &Daemon, timeline: &Value, through: Option<Timestamp>, told: &str) {
        let Some(through) = through else { return };
        let ranges = timeline["ranges"].as_array().unwrap();
        let to: Timestamp = ranges.last().unwrap()["to"].as_str().unwrap().parse().unwrap();
        assert!(to >= through, "{through} was promised: {told}\n{ranges:?}");
        let copy = Copy(daemon.pando_json(&["clone", &format!("shop@{through}"), "promised"]));
        self.oracle.check(through, &copy.sql(ROWS));
        self.seen.check(through, &copy.0, told);
        assert_eq!(copy.sql(BALANCES), "t", "{told}");
    }
}

fn strings(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn names<'a>(list: &'a Value, key: &str) -> Vec<&'a str> {
    let list = list.as_array().or_else(|| list.as_object()?.values().find_map(Value::as_array));
    list.into_iter().flatten().filter_map(|one| one[key].as_str()).collect()
}

/// How many crashes: few in every test run, as many as wanted in a long one.
pub fn points(usual: usize) -> usize {
    std::env::var("PANDO_POINTS").map_or(usual, |text| text.parse().unwrap())
}

/// So many crashes are of one load. What a crash costs grows with the clones that the load has made.
const OF_A_LOAD: usize = 125;

fn crash_points(kind: FsKind, usual: usize) {
    let points = points(usual);
    let mut seed = Seed::from_env("PANDO_SEED", 20_261_121);
    let begun = Instant::now();
    for done in (0..points).step_by(OF_A_LOAD) {
        let count = OF_A_LOAD.min(points - done);
        let Some(mut stage) = Stage::play(kind, 3 + count / 80) else { return };
        let (first, end) = (stage.linked, stage.disk.now());
        let mut moments: Vec<DiskMoment> = (1..count).map(|_| first + seed.index(end - first)).collect();
        moments.push(end);
        moments.sort_unstable();
        eprintln!("{kind:?}: {} flushes, {end} told, played {:?}", stage.disk.flushes(), begun.elapsed());
        for (number, at) in moments.iter().enumerate() {
            stage.crash(*at, &mut seed, number % 4 == 0, number + 1 == count);
        }
        eprintln!("{kind:?}: {} of {points} crashes, {:?}", done + count, begun.elapsed());
    }
}

#[test]
fn the_machine_dies_under_load_on_btrfs_and_nothing_acknowledged_is_lost() {
    crash_points(FsKind::Btrfs, 22);
}

#[test]
fn the_machine_dies_under_load_on_xfs_and_nothing_acknowledged_is_lost() {
    crash_points(FsKind::Xfs, 18);
}

/// The catalog alone, on a file system that dies: every synced commit is there, and of the others the first ones.
#[test]
fn the_machine_dies_and_the_catalog_has_every_synced_commit() {
    let points = points(100);
    let mut seed = Seed::from_env("PANDO_SEED", 3);
    for kind in [FsKind::Btrfs, FsKind::Xfs] {
        let Some(mut disk) = RecordedDisk::new(kind, 320) else { return };
        let catalog = Catalog::open(&disk.path().join("catalog.db")).unwrap();
        tools::run("sync", &["-f", &disk.path().display().to_string()]);
        let first = disk.now();
        // Enough for checkpoints to come in between.
        let mut synced = vec![(first, 0)];
        for number in 1..=300_u32 {
            let record = bookmark(number);
            if seed.once_in(4) {
                catalog.put(&record).unwrap();
                synced.push((disk.now(), number));
            } else {
                catalog.note(&record).unwrap();
            }
        }
        let end = disk.now();
        drop(catalog);
        disk.pull_the_plug();
        let mut moments: Vec<DiskMoment> = (0..points / 2).map(|_| first + seed.index(end - first)).collect();
        moments.sort_unstable();
        for at in moments {
            let crash = disk.crash(at, &mut seed);
            let catalog = Catalog::open(&disk.path().join("catalog.db")).unwrap();
            let found: Vec<BookmarkRecord> = catalog.all().unwrap();
            let least = synced.iter().take_while(|(when, _)| *when <= at).last().unwrap().1;
            let ids: Vec<Name> = found.into_iter().map(|one| one.name).collect();
            let all: Vec<Name> = (1..=300).map(|number| bookmark(number).name).collect();
            let count = ids.len();
            assert!(
                all.starts_with(&ids) && count >= least as usize,
                "{count} of {least}: {kind:?}, {crash:?}, {seed}"
            );
            drop(catalog);
            disk.leave();
        }
    }
}

fn bookmark(number: u32) -> BookmarkRecord {
    BookmarkRecord {
        name: format!("mark-{number:06}-{}", "x".repeat(40)).parse().unwrap(),
        owner: OwnerId::App(AppId::from_parts(1, 1)),
        snapshot: SnapshotId::from_parts(1, 1),
        moment: Timestamp::UNIX_EPOCH,
    }
}
