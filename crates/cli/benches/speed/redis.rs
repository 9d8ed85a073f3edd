//! Redis: clones at the newest moment and at any second beside a bare `redis-server` on the same tree, what following
//! costs production, and how others get a copy.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pando_model::{PoolSnapshotId, VolumeId};
use pando_pool::PoolDriver;
use pando_testkit::{Daemon, RedisClient, RedisProduction, Seed, free_port};

use super::bare::snapshots;
use super::load::{pin, runs, sampled};
use super::rig::{self, Table};

/// All rows, for a production of so many megabytes.
pub fn measure(table: &mut Table, megabytes: u32, rounds: usize) {
    // Enough memory for the buffer of a replica that copies while it is written to.
    let production = RedisProduction::start(&["client-output-buffer-limit replica 0 0 0", "repl-backlog-size 64mb"]);
    fill(&production, megabytes);
    let label = format!("{megabytes} MB");
    clones(table, &production, &label, rounds);
    load(table, &production, &label);
    peers(table, &production, &label);
}

/// Values of a kilobyte that do not compress.
fn fill(production: &RedisProduction, megabytes: u32) {
    let (mut client, mut seed) = (production.client(), Seed::new(7));
    for megabyte in 0..megabytes {
        for key in 0..1024 {
            let mut value = String::with_capacity(1024);
            while value.len() < 1024 {
                let _ = write!(value, "{:016x}", seed.draw());
            }
            client.send(&["SET", &format!("key:{megabyte}:{key}"), &value]).expect("sending");
        }
        (0..1024).for_each(|_| drop(client.answer().expect("an answer")));
    }
}

fn link(daemon: &Daemon, production: &RedisProduction, every: &str) {
    daemon.pando_json(&["link", "shop", &format!("q={}", production.url(0)), "--snapshot-every", every]);
}

/// A bare server on a directory that holds an append-only file or a dump; the time until it answered a query.
fn serve(dir: &Path, appendonly: bool) -> Duration {
    let port = free_port();
    let begun = Instant::now();
    let mut server = bare(port, dir, &["--appendonly", if appendonly { "yes" } else { "no" }, "--appendfsync", "no"]);
    let url = format!("redis://:bare@127.0.0.1:{port}/0");
    loop {
        assert!(server.try_wait().expect("the server").is_none(), "the floor's server ended");
        let mut client = RedisClient::try_connect(&url);
        if client.as_mut().is_ok_and(|client| client.ask(&["GET", "key:0:0"]).is_ok_and(|text| text != "(nil)")) {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let took = begun.elapsed();
    let _ = server.kill();
    let _ = server.wait();
    took
}

fn bare(port: u16, dir: &Path, more: &[&str]) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--requirepass", "bare", "--save", ""]);
    command.arg("--dir").arg(dir).args(more).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("starting redis-server")
}

/// The floor: a snapshot, `redis-server` on it, one query.
struct Floor {
    pool: Box<dyn PoolDriver>,
    next: u32,
}

impl Floor {
    fn run(&mut self, tree: &PoolSnapshotId) -> Duration {
        self.next += 1;
        let volume = VolumeId::from_parts(2, self.next);
        let begun = Instant::now();
        self.pool.clone_volume(tree, &volume).expect("a snapshot");
        let cloned = begun.elapsed();
        let took = cloned + serve(&self.pool.volume_path(&volume).join("q"), true);
        self.pool.destroy_volume(&volume).expect("destroying the floor's volume");
        took
    }
}

fn clones(table: &mut Table, production: &RedisProduction, label: &str, rounds: usize) {
    let daemon = rig::daemon();
    let (linking, ()) = rig::timed(|| link(&daemon, production, "20s"));
    let mut floor = Floor { pool: pando_pool::btrfs::open(&daemon.home().join("pool")).expect("the pool"), next: 0 };
    let prepared = snapshots(&daemon).into_iter().rev().find_map(|one| one.prepared).expect("a prepared snapshot");
    let (mut wall, mut beside) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let (took, _) = rig::timed(|| daemon.pando_json(&["clone", "shop", "c"]));
        let bare = floor.run(&prepared);
        // The first round warms both.
        if round > 0 {
            wall.push(rig::ms(took));
            beside.push(rig::ms(bare));
        }
        rig::remove(&daemon, "c");
    }
    table.row(
        &format!("Redis: clone `@latest`, {label}: command begun to query answered"),
        &rig::spread(&wall),
        &format!("snapshot + `redis-server` + query: {}", rig::spread(&beside)),
        &rig::ratio(&wall, &beside),
        "≤ 1.5",
    );
    table.row(
        &format!("Redis: link, {label}: until the first clone can be made"),
        &format!("{:.1} s", linking.as_secs_f64()),
        "",
        "",
        "",
    );

    let span = 40_u64;
    let begun = jiff::Timestamp::now();
    steady(production, 2000.0, Duration::from_secs(span));
    std::thread::sleep(Duration::from_secs(2));
    let trees = snapshots(&daemon);
    let (mut wall, mut beside) = (Vec::new(), Vec::new());
    for index in 0..rounds as u64 {
        // An even spread with a step that shares no factor with the span stands in for chance, and repeats.
        let moment = begun + Duration::from_secs(2 + (index * 17 + 5) % (span - 4));
        let (took, shown) = rig::timed(|| daemon.pando_json(&["clone", &format!("shop@{moment}"), "s"]));
        wall.push(rig::ms(took));
        let tree = trees.iter().find(|one| Some(one.id.as_str()) == shown["snapshot"].as_str());
        // Where its tree is gone, the one that it was made ready as holds as much.
        if let Some(tree) = tree.and_then(|one| one.raw.as_ref().or(one.prepared.as_ref())) {
            beside.push(rig::ms(floor.run(tree)));
        }
        rig::remove(&daemon, "s");
    }
    table.row(
        &format!("Redis: clone at {} random seconds, {label} under 2,000 writes a second", wall.len()),
        &rig::spread(&wall),
        &format!("`redis-server` on the snapshot it stands on, wherever that is: {}", rig::spread(&beside)),
        &rig::ratio(&wall, &beside),
        "≤ 1 + clone floor",
    );
}

/// So many writes a second, for a while, twenty at a time. How many there were, and how long twenty took on average, in
/// milliseconds.
fn steady(production: &RedisProduction, rate: f64, span: Duration) -> (f64, f64) {
    let (mut client, begun) = (production.client(), Instant::now());
    let (mut number, mut waited) = (0_u64, Duration::ZERO);
    while begun.elapsed() < span {
        let sent = Instant::now();
        for _ in 0..20 {
            number += 1;
            client.send(&["SET", &format!("key:0:{}", number % 1024), &format!("{number:0512}")]).expect("sending");
        }
        (0..20).for_each(|_| drop(client.answer().expect("an answer")));
        waited += sent.elapsed();
        std::thread::sleep(Duration::from_secs_f64(number as f64 / rate).saturating_sub(begun.elapsed()));
    }
    (number as f64 / begun.elapsed().as_secs_f64(), rig::ms(waited) * 20.0 / number as f64)
}

/// Requests a second that production serves `redis-benchmark`, both on one core.
fn throughput(production: &RedisProduction, seconds: u32) -> f64 {
    let port = production.port().to_string();
    let run = |requests: &str| {
        let mut command = Command::new("taskset");
        command.args(["-c", "0", "redis-benchmark", "-h", "127.0.0.1", "-p", &port, "-a", "prod-secret", "--csv"]);
        command.args(["-t", "set", "-d", "512", "-r", "100000", "-n", requests]).stdin(Stdio::null());
        let output = command.output().expect("starting redis-benchmark");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let row = text.lines().find(|line| line.starts_with("\"SET\"")).unwrap_or_else(|| panic!("{output:?}"));
        row.split(',').nth(1).and_then(|word| word.trim_matches('"').parse::<f64>().ok()).expect("a number")
    };
    let guess = run("20000");
    run(&format!("{:.0}", guess * f64::from(seconds)))
}

fn load(table: &mut Table, production: &RedisProduction, label: &str) {
    const SECONDS: u32 = 8;
    pin(std::process::id(), "1-255");
    pin(production.pid().expect("production runs"), "0");
    let full = || throughput(production, SECONDS);
    let mut without = vec![full()];
    let rate = without[0] / 2.0;
    let half = || steady(production, rate, Duration::from_secs(u64::from(SECONDS)));
    let mut calm = vec![half()];
    let daemon = rig::daemon();
    daemon.processes().into_iter().for_each(|pid| pin(pid, "1-255"));
    link(&daemon, production, "1m");
    let (first, mut lags) = sampled(&daemon, full);
    let (second, seen) = sampled(&daemon, full);
    lags.extend(seen);
    let (calm_with, calm_lags) = sampled(&daemon, half);
    drop(daemon);
    without.push(full());
    calm.push(half());

    let folder = tempfile::tempdir().expect("a folder");
    let replica = format!("127.0.0.1 {}", production.port());
    let (host, port) = replica.split_once(' ').expect("two words");
    let mut standby = bare(
        free_port(),
        folder.path(),
        &["--replicaof", host, port, "--masterauth", "prod-secret", "--appendonly", "yes"],
    );
    pin(standby.id(), "1-255");
    let up = || production.run(&["INFO", "replication"]).contains("state=online");
    assert!(pando_testkit::wait_until(Duration::from_secs(120), up), "the bare replica does not follow");
    let beside = [full(), full()];
    let _ = standby.kill();
    let _ = standby.wait();
    without.push(full());

    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let share = |values: &[f64]| format!("{:.2}", mean(values) / mean(&without));
    table.row(
        &format!("Redis: production's SETs a second while Pando follows, {label}, at full speed on one core"),
        &format!("{:.0}", mean(&[first, second])),
        &format!("without: {:.0} ({}); with a bare replica: {:.0}", mean(&without), runs(&without), mean(&beside)),
        &format!("{} (bare replica: {})", share(&[first, second]), share(&beside)),
        "≥ 0.95",
    );
    let calm = (calm[0].0.midpoint(calm[1].0), calm[0].1.midpoint(calm[1].1));
    table.row(
        &format!("Redis: the same at a steady {rate:.0} SETs a second, half of what it can do: SETs, mean of twenty"),
        &format!("{:.0}, {:.2} ms", calm_with.0, calm_with.1),
        &format!("without: {:.0}, {:.2} ms", calm.0, calm.1),
        &format!("{:.2}, {:.2}", calm_with.0 / calm.0, calm_with.1 / calm.1),
        "≥ 0.95",
    );
    for (what, lags) in [("full speed", lags), ("the steady rate", calm_lags)] {
        table.row(
            &format!("Redis: lag of the timeline at {what}, {} looks", lags.len()),
            &format!("p50 {:.0} ms, p99 {:.0} ms", rig::percentile(&lags, 0.5), rig::percentile(&lags, 0.99)),
            "",
            "",
            "p99 ≤ 1 s",
        );
    }
}

fn peers(table: &mut Table, production: &RedisProduction, label: &str) {
    let mut peer = |what: &str, took: Duration| {
        table.row(&format!("peer: {what}, {label}"), "", &format!("{:.1} s", took.as_secs_f64()), "", "");
    };
    let folder = tempfile::tempdir().expect("a folder");
    let dump: PathBuf = folder.path().join("dump.rdb");
    let (took, _) = rig::timed(|| {
        production.run(&["BGSAVE"]);
        let saved = || production.run(&["INFO", "persistence"]).contains("rdb_bgsave_in_progress:0");
        assert!(pando_testkit::wait_until(Duration::from_secs(300), saved), "BGSAVE does not end");
        std::fs::copy(production.dir().join("dump.rdb"), &dump).expect("copying the dump");
        serve(folder.path(), false)
    });
    peer("`BGSAVE`, copy of the file, `redis-server`, query", took);
    let (took, _) = rig::timed(|| {
        let port = production.port().to_string();
        let mut command = Command::new("redis-cli");
        command.args(["-p", &port, "-a", "prod-secret", "--no-auth-warning", "--rdb"]).arg(&dump);
        assert!(command.output().expect("starting redis-cli").status.success(), "redis-cli --rdb failed");
        serve(folder.path(), false)
    });
    peer("`redis-cli --rdb`, `redis-server`, query", took);
}
