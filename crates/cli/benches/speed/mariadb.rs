//! MariaDB: clones beside their floor and beside what its users do now, the first copy both ways, and what following
//! costs production. The load is `mariadb-slap`'s: four clients, each statement an UPDATE of one row and an INSERT.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pando_host::Account;
use pando_model::{PoolSnapshotId, VolumeId};
use pando_testkit::{Daemon, MariadbProduction, mariadb};
use tempfile::TempDir;

use super::bare::snapshots;
use super::load::{pin, sampled};
use super::rig::{self, Table};

/// Copies: the first, `@latest`, any second, and those of others.
pub fn measure(table: &mut Table, megabytes: u32, rounds: usize, seconds: u32) {
    let production = production(megabytes);
    let label = rig::size(bytes(&production));
    let daemon = first_copies(table, &production, &label);
    latest(table, &daemon, &label, rounds);
    let moments = any_second(table, &daemon, &production, &label, rounds, seconds);
    drop(daemon);
    peers(table, &production, &label, moments);
}

/// A production with one large table.
fn production(megabytes: u32) -> MariadbProduction {
    let made = MariadbProduction::start(&[
        "innodb_flush_log_at_trx_commit=1",
        "sync_binlog=1",
        "innodb_buffer_pool_size=256M",
        "innodb_log_file_size=256M",
    ]);
    // About 250 bytes a row, with its index.
    let rows = megabytes * 4000;
    made.sql(&format!(
        "CREATE TABLE stock (id INT PRIMARY KEY, n INT NOT NULL, text CHAR(180)); \
         CREATE TABLE sold (id INT AUTO_INCREMENT PRIMARY KEY, stock INT, at DATETIME(6) DEFAULT NOW(6)); \
         INSERT INTO stock SELECT seq, 0, REPEAT(MD5(seq), 5) FROM seq_1_to_{rows}"
    ));
    made
}

fn bytes(production: &MariadbProduction) -> u64 {
    let sql = "SELECT SUM(data_length + index_length) FROM information_schema.tables WHERE table_schema = 'blog'";
    production.sql("ANALYZE TABLE stock");
    production.sql(sql).parse().expect("a number")
}

fn link(daemon: &Daemon, production: &MariadbProduction, query: &str, more: &[&str]) -> Duration {
    let url = format!("db={}{query}", production.url());
    rig::timed(|| daemon.pando_json(&[&["link", "shop", url.as_str()], more].concat())).0
}

/// Both ways of the first copy; the daemon is left linked.
fn first_copies(table: &mut Table, production: &MariadbProduction, label: &str) -> Daemon {
    let daemon = rig::daemon();
    let dump = link(&daemon, production, "?datadir=none", &["--snapshot-every", "1h"]);
    assert!(daemon.pando(&["unlink", "shop"]).status.success());
    let files = link(&daemon, production, "", &["--snapshot-every", "10s"]);
    table.row(
        &format!("MariaDB: link, {label}, by files (`mariadb-backup`): until the first clone can be made"),
        &format!("{:.1} s", files.as_secs_f64()),
        &format!("by dump: {:.1} s", dump.as_secs_f64()),
        &format!("{:.2}", files.as_secs_f64() / dump.as_secs_f64()),
        "",
    );
    daemon
}

fn account() -> Option<Account> {
    Account::named("pando").ok().flatten().filter(|_| Account::is_root())
}

/// A directory that the servers' account may write.
fn room() -> TempDir {
    let dir = tempfile::Builder::new().prefix("floor-").tempdir_in("/tmp").expect("a directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("its mode");
    if let Some(account) = account() {
        chown(dir.path(), Some(account.uid), Some(account.gid)).expect("its owner");
    }
    dir
}

/// In an environment of its own. Production's files belong to another account than the servers': root reads them.
fn plain(command: &mut Command) -> &mut Command {
    command
        .current_dir("/")
        .env_clear()
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.stdin(Stdio::null())
}

fn as_account(command: &mut Command) -> &mut Command {
    if let Some(account) = account() {
        command.uid(account.uid).gid(account.gid);
    }
    plain(command)
}

fn run(command: &mut Command) {
    let output = command.output().expect("starting a program");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?} failed: {error}", command.get_program());
}

/// A bare server, with what clones are given that matters for their speed.
struct Bare {
    room: TempDir,
    child: Child,
}

impl Bare {
    /// Starts on a data directory and answers once a query was answered.
    fn start(data: &Path, user: &str) -> Self {
        let room = room();
        let log = std::fs::File::create(room.path().join("log")).expect("a log");
        let path = |name: &str| room.path().join(name).display().to_string();
        let mut command = Command::new("/usr/sbin/mariadbd");
        command
            .arg("--no-defaults")
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--socket={}", path("s")))
            .arg(format!("--pid-file={}", path("pid")))
            .arg(format!("--tmpdir={}", room.path().display()))
            .args(["--skip-networking", "--skip-log-bin", "--performance-schema=OFF", "--innodb-log-file-size=64M"])
            .args(["--innodb-flush-log-at-trx-commit=2", "--innodb-flush-method=nosync", "--innodb-doublewrite=OFF"])
            .args(["--innodb-buffer-pool-load-at-startup=OFF", "--innodb-buffer-pool-dump-at-shutdown=OFF"]);
        let child = as_account(&mut command).stdout(Stdio::null()).stderr(log).spawn().expect("starting mariadbd");
        let mut bare = Self { room, child };
        loop {
            if bare.child.try_wait().expect("the server").is_some() {
                let log = std::fs::read_to_string(bare.room.path().join("log")).unwrap_or_default();
                panic!("the floor's server ended: {log}");
            }
            if bare.room.path().join("s").exists() && bare.sql(user, "SELECT 1").is_ok() {
                return bare;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn sql(&self, user: &str, sql: &str) -> Result<String, String> {
        let socket = format!("--socket={}", self.room.path().join("s").display());
        mariadb(&[&socket, &format!("--user={user}")], None, sql)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `@latest`, beside snapshot, server and one query on the same prepared tree.
fn latest(table: &mut Table, daemon: &Daemon, label: &str, rounds: usize) {
    let prepared = snapshots(daemon).into_iter().rev().find_map(|one| one.prepared).expect("a prepared snapshot");
    let pool = pando_pool::btrfs::open(&daemon.home().join("pool")).expect("the daemon's pool");
    let (mut wall, mut bare) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let name = format!("c{round}");
        let (took, _) = rig::timed(|| daemon.pando_json(&["clone", "shop", &name]));
        rig::remove(daemon, &name);
        let beside = floor(pool.as_ref(), &prepared, u32::try_from(round).unwrap_or(0) + 1);
        // The first round warms both.
        if round > 0 {
            wall.push(rig::ms(took));
            bare.push(rig::ms(beside));
        }
    }
    table.row(
        &format!("MariaDB: clone `@latest`, {label}: command begun to query answered"),
        &rig::spread(&wall),
        &format!("snapshot + `mariadbd` + query: {}", rig::spread(&bare)),
        &rig::ratio(&wall, &bare),
        "≤ 1.5",
    );
}

fn floor(pool: &dyn pando_pool::PoolDriver, tree: &PoolSnapshotId, number: u32) -> Duration {
    let volume = VolumeId::from_parts(2, number);
    let begun = Instant::now();
    pool.clone_volume(tree, &volume).expect("a snapshot");
    let server = Bare::start(&pool.volume_path(&volume).join("db"), "pando_keeper");
    let took = begun.elapsed();
    drop(server);
    pool.destroy_volume(&volume).expect("destroying the floor's volume");
    took
}

/// The load as arguments of `mariadb-slap`.
fn slap(production: &MariadbProduction, queries: u64) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", "0", "mariadb-slap", "--no-defaults", "--user=root", "--create-schema=blog", "--delimiter=;"]);
    command.arg(format!("--socket={}", production.socket().display()));
    command.args(["--concurrency=4", &format!("--number-of-queries={queries}")]);
    command.arg(
        "--query=UPDATE stock SET n = n + 1 WHERE id = 1 + FLOOR(RAND() * 10000); \
         INSERT INTO sold (stock) VALUES (FLOOR(RAND() * 10000))",
    );
    command.stdin(Stdio::null());
    command
}

/// Queries a second.
fn speed(production: &MariadbProduction, queries: u64) -> f64 {
    let (took, output) = rig::timed(|| slap(production, queries).output().expect("starting mariadb-slap"));
    assert!(output.status.success(), "mariadb-slap: {}", String::from_utf8_lossy(&output.stderr));
    queries as f64 / took.as_secs_f64()
}

/// What a peer is given: a moment under load, and a backup and a place in the binary log from before it.
struct Moments {
    backup: TempDir,
    file: String,
    byte: String,
    moment: jiff::Timestamp,
}

/// Seconds under load.
fn any_second(
    table: &mut Table,
    daemon: &Daemon,
    production: &MariadbProduction,
    label: &str,
    count: usize,
    seconds: u32,
) -> Moments {
    let backup = backup(production);
    let status = production.sql("SHOW MASTER STATUS");
    let mut place = status.split('\t').map(str::to_owned);
    let (file, byte) = (place.next().expect("a file"), place.next().expect("a place"));
    let begun = jiff::Timestamp::now();
    let end = begun + Duration::from_secs(u64::from(seconds));
    while jiff::Timestamp::now() < end {
        speed(production, 100);
    }
    std::thread::sleep(Duration::from_secs(2));
    let mut wall = Vec::new();
    let mut moment = begun;
    for index in 0..count {
        let offset = 1 + (index as u64 * 37 + 11) % (u64::from(seconds) - 1);
        moment = (begun + Duration::from_secs(offset)).round(jiff::Unit::Second).expect("a second");
        let name = format!("s{index}");
        let (took, _) = rig::timed(|| daemon.pando_json(&["clone", &format!("shop@{moment}"), &name]));
        wall.push(rig::ms(took));
        rig::remove(daemon, &name);
    }
    table.row(
        &format!("MariaDB: clone at {count} seconds of {seconds} s under full load, {label}, a snapshot each 10 s"),
        &format!("p50 {:.0} ms, p90 {:.0} ms", rig::percentile(&wall, 0.5), rig::percentile(&wall, 0.9)),
        "",
        "",
        "",
    );
    Moments { backup, file, byte, moment }
}

/// A backup of files, prepared.
fn backup(production: &MariadbProduction) -> TempDir {
    let dir = room();
    let target = format!("--target-dir={}", dir.path().join("data").display());
    let mut take = Command::new("mariadb-backup");
    take.args(["--no-defaults", "--backup", "--user=root", &target])
        .arg(format!("--socket={}", production.socket().display()))
        .arg(format!("--datadir={}", production.data().display()));
    run(plain(&mut take));
    run(plain(Command::new("mariadb-backup").args(["--no-defaults", "--prepare", &target])));
    if let Some(account) = account() {
        let owner = format!("{}:{}", account.uid, account.gid);
        run(plain(Command::new("chown").args(["-R", &owner]).arg(dir.path())));
    }
    dir
}

/// What others do for the same: a backup and the binary log up to a second, and a dump.
fn peers(table: &mut Table, production: &MariadbProduction, label: &str, given: Moments) {
    let room = room();
    let data = room.path().join("data");
    let logs: Vec<String> = production
        .sql("SHOW BINARY LOGS")
        .lines()
        .filter_map(|line| line.split('\t').next())
        .filter(|name| *name >= given.file.as_str())
        .map(|name| production.data().join(name).display().to_string())
        .collect();
    let begun = Instant::now();
    run(plain(Command::new("cp").args(["-a", "--"]).arg(given.backup.path().join("data")).arg(&data)));
    let server = Bare::start(&data, "root");
    // The option is in the local time zone, and stops at the first event of that second.
    let stop = given.moment.to_zoned(jiff::tz::TimeZone::UTC).strftime("--stop-datetime=%F %T").to_string();
    let mut reader = Command::new("mariadb-binlog");
    reader.arg("--no-defaults").arg(format!("--start-position={}", given.byte)).arg(stop).args(&logs);
    let mut reader = plain(&mut reader).stdout(Stdio::piped()).spawn().expect("mariadb-binlog");
    let mut client = Command::new("mariadb");
    client.args(["--no-defaults", "--user=root"]).arg(format!("--socket={}", server.room.path().join("s").display()));
    let status = plain(&mut client).stdin(reader.stdout.take().expect("its output")).status().expect("mariadb");
    assert!(status.success() && reader.wait().is_ok_and(|status| status.success()), "the peer's replay failed");
    let took = begun.elapsed();
    drop(server);
    table.row(
        &format!("peer: a `mariadb-backup` copied, `mariadb-binlog --stop-datetime` into it, {label}"),
        "",
        &format!("{:.1} s", took.as_secs_f64()),
        "",
        "",
    );
    let empty = empty_server();
    let server = Bare::start(&empty.path().join("data"), "root");
    let (took, ()) = rig::timed(|| {
        let mut dump = Command::new("mariadb-dump");
        dump.args(["--no-defaults", "--user=root", "--single-transaction", "--databases", "blog"])
            .arg(format!("--socket={}", production.socket().display()));
        let mut dump = plain(&mut dump).stdout(Stdio::piped()).spawn().expect("mariadb-dump");
        let mut load = Command::new("mariadb");
        load.args(["--no-defaults", "--user=root"]).arg(format!("--socket={}", server.room.path().join("s").display()));
        let status = plain(&mut load).stdin(dump.stdout.take().expect("its output")).status().expect("mariadb");
        assert!(status.success() && dump.wait().is_ok_and(|status| status.success()), "dump and load failed");
    });
    table.row(
        &format!("peer: `mariadb-dump | mariadb` into a running server, {label}"),
        "",
        &format!("{:.1} s", took.as_secs_f64()),
        "",
        "",
    );
}

fn empty_server() -> TempDir {
    let dir = room();
    let mut install = Command::new("mariadb-install-db");
    install.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
    install.arg(format!("--datadir={}", dir.path().join("data").display())).arg("--innodb-log-file-size=64M");
    run(as_account(&mut install));
    dir
}

/// What following costs: production and its clients on one core and on the disk, Pando on the others and in memory.
pub fn load(table: &mut Table, megabytes: u32, seconds: u32) {
    let production = &production(megabytes);
    pin(std::process::id(), "1-255");
    pin(production.pid().expect("production runs"), "0");
    let queries = (speed(production, 200) * f64::from(seconds)) as u64;
    let full = || speed(production, queries.max(200));
    let mut without = vec![full()];
    let memory = tempfile::Builder::new().prefix("pando-bench-").tempdir_in("/dev/shm").expect("a folder in memory");
    std::fs::set_permissions(memory.path(), std::fs::Permissions::from_mode(0o711)).expect("its mode");
    let daemon = rig::daemon_on(&memory.path().join("home"));
    for pid in daemon.processes() {
        pin(pid, "1-255");
    }
    // Its files are read by production's account, which is on production's core; a dump is loaded on the others.
    link(&daemon, production, "?datadir=none", &["--snapshot-every", "1m"]);
    let (first, mut lags) = sampled(&daemon, full);
    let (second, seen) = sampled(&daemon, full);
    lags.extend(seen);
    assert!(daemon.pando(&["unlink", "shop"]).status.success());
    drop(daemon);
    without.push(full());
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    table.row(
        "MariaDB: production's statements a second while Pando follows, 4 clients at full speed on one core, durable",
        &format!("{:.0}", mean(&[first, second])),
        &format!("without: {:.0} ({:.0}, {:.0})", mean(&without), without[0], without[1]),
        &format!("{:.2}", mean(&[first, second]) / mean(&without)),
        "≥ 0.95",
    );
    table.row(
        &format!("MariaDB: lag of the timeline at full speed, {} looks", lags.len()),
        &format!("p50 {:.0} ms, p99 {:.0} ms", rig::percentile(&lags, 0.5), rig::percentile(&lags, 0.99)),
        "",
        "",
        "p99 ≤ 1 s",
    );
}
