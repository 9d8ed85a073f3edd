//! The same for what Pando itself does not run or know: durable clones in containers, whose data lies on the disk that
//! dies, and the source of a toolkit with its durable clones. The containers die with the machine; what the engine had
//! noted of each is lost, too, or has outlived it, as the seed draws: then it may be newer than what Pando knows.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pando_testkit::{Daemon, DiskMoment, Docker, Etcd, FsKind, Image, RecordedDisk, Seed, example_toolkit, wait_until};
use serde_json::Value;

use super::points;
use crate::proxy::Proxy;
use crate::stand::{Copy, PANDO, bounded, production, sql_at};
use crate::toolkit::{Address, install, value};

/// Something that was acknowledged.
#[derive(Debug, Clone)]
enum Ack {
    /// A pair of durable clones, one in a container, one of a toolkit.
    Clones(usize),
    /// What was committed in both.
    Rows { round: usize, count: usize },
    /// A snapshot of the toolkit's app, and the value that production had then.
    Snapshot { id: String, shows: String },
}

struct Guests {
    disk: RecordedDisk,
    docker: Docker,
    acks: Vec<(DiskMoment, Ack)>,
    linked: DiskMoment,
}

fn names(round: usize) -> [String; 2] {
    [format!("c{round}"), format!("k{round}")]
}

impl Guests {
    fn play(kind: FsKind, rounds: usize) -> Option<Self> {
        let docker = Docker::start()?;
        docker.image(Image::Postgres);
        let disk = RecordedDisk::new(kind, 2048)?;
        let (production, mut keys) = (production(bounded())?, Etcd::start()?);
        let proxy = Proxy::new(production.port());
        production.psql("CREATE TABLE mark AS SELECT 1 AS n");
        keys.put("n", "0");
        let mut made = Self { disk, docker, acks: Vec::new(), linked: 0 };
        let mut daemon = made.daemon();
        install(&daemon, "etcd", &example_toolkit());
        daemon.pando_json(&["link", "shop", &proxy.url(), "--snapshot-every", "2s"]);
        daemon.pando_json(&["link", "keys", &keys.url("etcd"), "--snapshot-every", "2s"]);
        made.linked = made.disk.now();
        for round in 0..rounds {
            made.work(&daemon, &keys, round);
        }
        made.lights_out(&mut daemon, || true);
        drop(daemon);
        proxy.cut();
        keys.stop();
        made.disk.pull_the_plug();
        Some(made)
    }

    fn home(&self) -> PathBuf {
        self.disk.path().join("home")
    }

    fn daemon(&self) -> Daemon {
        Daemon::start_on_with(Path::new(PANDO), &self.home(), &[("DOCKER_HOST", &self.docker.host())])
    }

    fn note(&mut self, ack: Ack) {
        self.acks.push((self.disk.now(), ack));
    }

    fn work(&mut self, daemon: &Daemon, keys: &Etcd, round: usize) {
        let shows = format!("{}", round + 1);
        keys.put("n", &shows);
        let taken = daemon.pando_json(&["snapshot", "keys"]);
        let id = taken["result"]["snapshot"].as_str().unwrap_or_else(|| panic!("{taken}")).to_owned();
        self.note(Ack::Snapshot { id, shows });
        let [inside, copied] = names(round);
        let line = ["clone", "shop", &inside, "--profile", "durable", "--runtime", "docker", "--memory", "300M"];
        let inside = Copy(daemon.pando_json(&line));
        let copied = daemon.pando_json(&["clone", "keys", &copied, "--profile", "durable"]);
        self.note(Ack::Clones(round));
        inside.sql("CREATE TABLE own (n int)");
        for count in 1..=5 {
            inside.sql(&format!("INSERT INTO own VALUES ({count})"));
            let put = Address::of(&copied, "etcd").ctl(&["put", "own", &count.to_string()]);
            assert!(put.status.success(), "{put:?}");
            self.note(Ack::Rows { round, count });
        }
    }

    /// What a machine that dies does to processes and containers. `noted`: whether the engine's notes of one outlive it.
    fn lights_out(&mut self, daemon: &mut Daemon, mut noted: impl FnMut() -> bool) {
        daemon.kill9();
        let mut any = false;
        for id in self.docker.run(&["ps", "--all", "--quiet"]).lines() {
            let noted = noted();
            any |= noted;
            let ended =
                if noted { self.docker.output(&["kill", id]) } else { self.docker.output(&["rm", "--force", id]) };
            // One may have ended by itself.
            assert!(noted || ended.status.success(), "{ended:?}");
        }
        super::blackout(daemon);
        if any {
            self.docker.kill9();
            self.docker.resume();
        }
    }

    fn crash(&mut self, at: DiskMoment, seed: &mut Seed) {
        let crash = self.disk.crash(at, seed);
        let acks: Vec<Ack> = self.acks.iter().filter(|(when, _)| *when <= at).map(|(_, ack)| ack.clone()).collect();
        let told = format!("{crash:?}, {seed}, after {} acknowledgements", acks.len());
        std::fs::write(self.home().join("boot"), "the one before").unwrap();
        let mut daemon = self.daemon();
        self.judge(&daemon, &acks, &told, seed);
        self.lights_out(&mut daemon, || seed.once_in(2));
        drop(daemon);
        self.disk.leave();
    }

    /// The engine may know containers of clones that the crash took, or that begin later: these are named, no others.
    fn nothing_strange(&self, daemon: &Daemon, told: &str) {
        let strange = || {
            let items = daemon.pando_json(&["doctor"])["items"].clone();
            let found = items.as_array().unwrap().iter().filter(|item| item["what"] == "strangers");
            found.map(|item| item["found"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        for found in strange() {
            let unit = found.strip_suffix(" has ended, nothing knows of it, and its container is left");
            let unit = unit.and_then(|begin| begin.strip_prefix("the unit "));
            let unit = unit.unwrap_or_else(|| panic!("{found}: {told}"));
            self.docker.run(&["rm", &format!("pando-{unit}")]);
        }
        assert_eq!(strange(), Vec::<String>::new(), "{told}");
        // Then each container is one of a clone.
        let clones = daemon.pando_json(&["ls"])["clones"].as_array().unwrap().len();
        let containers = self.docker.run(&["ps", "--all", "--quiet"]).lines().count();
        assert!(containers <= clones, "{containers} containers of {clones} clones: {told}");
    }

    fn judge(&self, daemon: &Daemon, acks: &[Ack], told: &str, seed: &mut Seed) {
        let rows = |of: usize| {
            let count = |ack: &Ack| match ack {
                Ack::Rows { round, count } if *round == of => Some(*count),
                _ => None,
            };
            acks.iter().filter_map(count).max().unwrap_or(0)
        };
        for ack in acks {
            let Ack::Clones(round) = ack else { continue };
            let [inside, copied] = names(*round).map(|name| up(daemon, &name, told));
            assert!(inside["sources"]["db"]["container"]["id"].is_string(), "{inside}: {told}");
            let must = rows(*round);
            if must > 0 {
                let found: usize = Copy(inside).sql("SELECT count(*) FROM own").parse().unwrap();
                assert!(found >= must, "{found} of {must} rows in a container: {told}");
                let found: usize = value(&copied, "etcd", "own").parse().unwrap();
                assert!(found >= must, "{found} of {must} in a toolkit's clone: {told}");
            }
        }
        let taken: Vec<(&String, &String)> = acks
            .iter()
            .filter_map(|ack| if let Ack::Snapshot { id, shows } = ack { Some((id, shows)) } else { None })
            .collect();
        if !taken.is_empty() {
            let (id, shows) = taken[seed.index(taken.len())];
            let copy = daemon.pando_json(&["clone", &format!("keys@{id}"), "of-snapshot"]);
            assert_eq!(value(&copy, "etcd", "n"), *shows, "{id}: {told}");
        }
        self.nothing_strange(daemon, told);
        let stuck = daemon.pando_json(&["ops"]).to_string().contains("\"stuck\"");
        assert!(!stuck, "{told}\n{}", daemon.log());
    }
}

/// A clone that answers, by itself.
fn up(daemon: &Daemon, name: &str, told: &str) -> Value {
    let mut view = Value::Null;
    let there = wait_until(Duration::from_secs(60), || {
        let shown = daemon.pando(&["show", name, "--json"]);
        view = serde_json::from_slice(&shown.stdout).unwrap_or(Value::Null);
        if view["sources"]["etcd"]["url"].is_string() {
            return Address::of(&view, "etcd").ctl(&["get", "own"]).status.success();
        }
        view["sources"]["db"]["url"].as_str().is_some_and(|url| sql_at(url, "SELECT 1").is_ok())
    });
    assert!(there, "{name} is not there or does not answer: {view}: {told}\n{}", daemon.log());
    view
}

fn crash_points(kind: FsKind, usual: usize) {
    let points = points(usual);
    let mut seed = Seed::from_env("PANDO_SEED", 20_261_127);
    let begun = Instant::now();
    let Some(mut guests) = Guests::play(kind, 3) else { return };
    let (first, end) = (guests.linked, guests.disk.now());
    let mut moments: Vec<DiskMoment> = (1..points).map(|_| first + seed.index(end - first)).collect();
    moments.push(end);
    moments.sort_unstable();
    eprintln!("{kind:?}: {} flushes, {end} told, played {:?}", guests.disk.flushes(), begun.elapsed());
    for at in moments {
        guests.crash(at, &mut seed);
    }
    eprintln!("{kind:?}: {points} crashes, {:?}", begun.elapsed());
}

#[test]
fn the_machine_dies_on_btrfs_under_clones_in_containers_and_a_toolkit() {
    crash_points(FsKind::Btrfs, 5);
}

#[test]
fn the_machine_dies_on_xfs_under_clones_in_containers_and_a_toolkit() {
    crash_points(FsKind::Xfs, 5);
}
