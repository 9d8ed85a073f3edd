//! MariaDB and MySQL: clones beside their floor, the first copy both ways, and what following costs production. The load is
//! that of `mariadb-slap` and `mysqlslap`: four clients, each statement an UPDATE of one row and an INSERT.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pando_host::Account;
use pando_model::{PoolSnapshotId, VolumeId};
use pando_testkit::{Daemon, FamilyProduction, Make, sql_through};
use tempfile::TempDir;

use super::bare::snapshots;
use super::load::{pin, sampled};
use super::rig::{self, Table};

/// What differs between the two.
pub trait Bench: Make {
    const NAME: &'static str;
    /// Production's settings, besides those that all have.
    const CONF: &'static [&'static str];
    /// Statements before the first one that fills.
    const FIRST: &'static str;
    /// Answers rows with numbers from 1 to ROWS.
    const NUMBERS: &'static str;
    /// What a bare server is given besides.
    const BARE: &'static [&'static str];
    /// Its program that makes a load.
    const SLAP: &'static str;
    /// How the first copy is made by itself, and what in an address makes it a dump.
    const COPY: (&'static str, &'static str);

    /// Where a program of it is.
    fn program(name: &str) -> PathBuf {
        let prefix = Self::prefix().expect("an installed server");
        let places = ["sbin", "bin"].iter().map(|dir| prefix.join(dir).join(name));
        places.into_iter().find(|path| path.is_file()).unwrap_or_else(|| panic!("no {name} in {}", prefix.display()))
    }
}

/// Copies: the first, `@latest`, any second. The daemon goes on; `before`: what is done right before the load that the
/// seconds are of. Answers that, and the last of the seconds.
pub fn measure<M: Bench, T>(
    table: &mut Table,
    production: &FamilyProduction<M>,
    rounds: usize,
    seconds: u32,
    before: impl FnOnce() -> T,
) -> (T, jiff::Timestamp) {
    let label = rig::size(bytes(production));
    let daemon = first_copies(table, production, &label);
    latest::<M>(table, &daemon, &label, rounds);
    let given = before();
    let moment = any_second(table, &daemon, production, &label, rounds, seconds);
    (given, moment)
}

/// A production with one large table.
pub fn production<M: Bench>(megabytes: u32) -> FamilyProduction<M> {
    let common = ["innodb_flush_log_at_trx_commit=1", "sync_binlog=1", "innodb_buffer_pool_size=256M"];
    let made = FamilyProduction::<M>::start(&[&common, M::CONF].concat());
    // About 250 bytes a row, with its index.
    let numbers = M::NUMBERS.replace("ROWS", &(megabytes * 4000).to_string());
    made.sql(&format!(
        "{}CREATE TABLE stock (id INT PRIMARY KEY, n INT NOT NULL, text CHAR(180)); \
         CREATE TABLE sold (id INT AUTO_INCREMENT PRIMARY KEY, stock INT, at DATETIME(6) DEFAULT NOW(6)); \
         INSERT INTO stock {}",
        M::FIRST,
        numbers.replace("COLUMNS", "seq, 0, REPEAT(LEFT(SHA2(seq, 256), 36), 5)"),
    ));
    made
}

/// Of its tables.
pub fn bytes<M: Bench>(production: &FamilyProduction<M>) -> u64 {
    let sql = "SELECT SUM(data_length + index_length) FROM information_schema.tables WHERE table_schema = 'blog'";
    production.sql("ANALYZE TABLE stock");
    production.sql(sql).parse().expect("a number")
}

fn link<M: Bench>(daemon: &Daemon, production: &FamilyProduction<M>, query: &str, more: &[&str]) -> Duration {
    let url = format!("db={}{query}", production.url());
    rig::timed(|| daemon.pando_json(&[&["link", "shop", url.as_str()], more].concat())).0
}

fn daemon() -> Daemon {
    rig::daemon_with(&env())
}

/// MySQL comes from a place of its own.
fn env() -> Vec<(&'static str, &'static str)> {
    let mysql = std::env::var("PANDO_MYSQL").ok().map(|dirs| &*dirs.leak());
    mysql.map(|dirs| ("PANDO_MYSQL", dirs)).into_iter().collect()
}

/// Both ways of the first copy; the daemon is left linked.
fn first_copies<M: Bench>(table: &mut Table, production: &FamilyProduction<M>, label: &str) -> Daemon {
    let daemon = daemon();
    let (way, none) = M::COPY;
    let dump = link(&daemon, production, none, &["--snapshot-every", "1h"]);
    assert!(daemon.pando(&["unlink", "shop"]).status.success());
    let files = link(&daemon, production, "", &["--snapshot-every", "10s"]);
    table.row(
        &format!("{}: link, {label}, {way}: until the first clone can be made", M::NAME),
        &format!("{:.1} s", files.as_secs_f64()),
        &format!("by dump: {:.1} s", dump.as_secs_f64()),
        &format!("{:.2}", files.as_secs_f64() / dump.as_secs_f64()),
        "",
    );
    daemon
}

pub fn account() -> Option<Account> {
    Account::named("pando").ok().flatten().filter(|_| Account::is_root())
}

/// A directory that the servers' account may write.
pub fn room() -> TempDir {
    let dir = tempfile::Builder::new().prefix("floor-").tempdir_in("/tmp").expect("a directory");
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("its mode");
    if let Some(account) = account() {
        chown(dir.path(), Some(account.uid), Some(account.gid)).expect("its owner");
    }
    dir
}

/// In an environment of its own. Production's files belong to another account than the servers': root reads them.
pub fn plain(command: &mut Command) -> &mut Command {
    command
        .current_dir("/")
        .env_clear()
        .env("LC_ALL", "C")
        .env("TZ", "UTC")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.stdin(Stdio::null())
}

pub fn as_account(command: &mut Command) -> &mut Command {
    if let Some(account) = account() {
        command.uid(account.uid).gid(account.gid);
    }
    plain(command)
}

pub fn run(command: &mut Command) {
    let output = command.output().expect("starting a program");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?} failed: {error}", command.get_program());
}

/// A bare server, with what clones are given that matters for their speed.
pub struct Bare {
    room: TempDir,
    child: Child,
}

impl Bare {
    /// Starts on a data directory and answers once a query was answered.
    pub fn start<M: Bench>(data: &Path, user: &str) -> Self {
        let room = room();
        let log = std::fs::File::create(room.path().join("log")).expect("a log");
        let path = |name: &str| room.path().join(name).display().to_string();
        let mut command = Command::new(M::program(M::SERVER));
        command
            .arg("--no-defaults")
            .arg(format!("--basedir={}", M::prefix().expect("an installed server").display()))
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--socket={}", path("s")))
            .arg(format!("--pid-file={}", path("pid")))
            .arg(format!("--tmpdir={}", room.path().display()))
            .args(["--skip-networking", "--skip-log-bin", "--performance-schema=OFF"])
            .args(["--innodb-flush-log-at-trx-commit=2", "--innodb-flush-method=nosync", "--innodb-doublewrite=OFF"])
            .args(["--innodb-buffer-pool-load-at-startup=OFF", "--innodb-buffer-pool-dump-at-shutdown=OFF"])
            .args(M::BARE);
        let child = as_account(&mut command).stdout(Stdio::null()).stderr(log).spawn().expect("starting a server");
        let mut bare = Self { room, child };
        loop {
            if bare.child.try_wait().expect("the server").is_some() {
                let log = std::fs::read_to_string(bare.room.path().join("log")).unwrap_or_default();
                panic!("the floor's server ended: {log}");
            }
            if bare.socket().exists() && sql_through::<M>(&bare.socket(), user, "SELECT 1").is_ok() {
                return bare;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.room.path().join("s")
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `@latest`, beside snapshot, server and one query on the same prepared tree.
fn latest<M: Bench>(table: &mut Table, daemon: &Daemon, label: &str, rounds: usize) {
    let prepared = snapshots(daemon).into_iter().rev().find_map(|one| one.prepared).expect("a prepared snapshot");
    let pool = pando_pool::btrfs::open(&daemon.home().join("pool")).expect("the daemon's pool");
    let (mut wall, mut bare) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let name = format!("c{round}");
        let (took, _) = rig::timed(|| daemon.pando_json(&["clone", "shop", &name]));
        rig::remove(daemon, &name);
        let beside = floor::<M>(pool.as_ref(), &prepared, u32::try_from(round).unwrap_or(0) + 1);
        // The first round warms both.
        if round > 0 {
            wall.push(rig::ms(took));
            bare.push(rig::ms(beside));
        }
    }
    table.row(
        &format!("{}: clone `@latest`, {label}: command begun to query answered", M::NAME),
        &rig::spread(&wall),
        &format!("snapshot + `{}` + query: {}", M::SERVER, rig::spread(&bare)),
        &rig::ratio(&wall, &bare),
        "≤ 1.5",
    );
}

fn floor<M: Bench>(pool: &dyn pando_pool::PoolDriver, tree: &PoolSnapshotId, number: u32) -> Duration {
    let volume = VolumeId::from_parts(2, number);
    let begun = Instant::now();
    pool.clone_volume(tree, &volume).expect("a snapshot");
    let server = Bare::start::<M>(&pool.volume_path(&volume).join("db"), "pando_keeper");
    let took = begun.elapsed();
    drop(server);
    pool.destroy_volume(&volume).expect("destroying the floor's volume");
    took
}

/// The load, on production's core.
fn slap<M: Bench>(production: &FamilyProduction<M>, queries: u64) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(M::program(M::SLAP));
    command.args(["--no-defaults", "--user=root", "--create-schema=blog", "--delimiter=;"]);
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
fn speed<M: Bench>(production: &FamilyProduction<M>, queries: u64) -> f64 {
    let (took, output) = rig::timed(|| slap(production, queries).output().expect("starting a load"));
    assert!(output.status.success(), "{}: {}", M::SLAP, String::from_utf8_lossy(&output.stderr));
    queries as f64 / took.as_secs_f64()
}

/// Seconds under load. The last of them.
fn any_second<M: Bench>(
    table: &mut Table,
    daemon: &Daemon,
    production: &FamilyProduction<M>,
    label: &str,
    count: usize,
    seconds: u32,
) -> jiff::Timestamp {
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
        &format!("{}: clone at {count} seconds of {seconds} s under full load, {label}, a snapshot each 10 s", M::NAME),
        &format!("p50 {:.0} ms, p90 {:.0} ms", rig::percentile(&wall, 0.5), rig::percentile(&wall, 0.9)),
        "",
        "",
        "",
    );
    moment
}

/// What following costs: production and its clients on one core and on the disk, Pando on the others and in memory.
pub fn load<M: Bench>(table: &mut Table, megabytes: u32, seconds: u32) {
    let production = &production::<M>(megabytes);
    pin(std::process::id(), "1-255");
    pin(production.pid().expect("production runs"), "0");
    let queries = (speed(production, 200) * f64::from(seconds)) as u64;
    let full = || speed(production, queries.max(200));
    let mut without = vec![full()];
    let memory = tempfile::Builder::new().prefix("pando-bench-").tempdir_in("/dev/shm").expect("a folder in memory");
    std::fs::set_permissions(memory.path(), std::fs::Permissions::from_mode(0o711)).expect("its mode");
    let daemon = rig::daemon_on_with(&memory.path().join("home"), &env());
    for pid in daemon.processes() {
        pin(pid, "1-255");
    }
    // Its files are read by production's account, which is on production's core; a dump is loaded on the others.
    link(&daemon, production, M::COPY.1, &["--snapshot-every", "1m"]);
    let (first, mut lags) = sampled(&daemon, full);
    let (second, seen) = sampled(&daemon, full);
    lags.extend(seen);
    assert!(daemon.pando(&["unlink", "shop"]).status.success());
    drop(daemon);
    without.push(full());
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    table.row(
        &format!(
            "{}: production's statements a second while Pando follows, 4 clients at full speed on one core, durable",
            M::NAME
        ),
        &format!("{:.0}", mean(&[first, second])),
        &format!("without: {:.0} ({:.0}, {:.0})", mean(&without), without[0], without[1]),
        &format!("{:.2}", mean(&[first, second]) / mean(&without)),
        "≥ 0.95",
    );
    table.row(
        &format!("{}: lag of the timeline at full speed, {} looks", M::NAME, lags.len()),
        &format!("p50 {:.0} ms, p99 {:.0} ms", rig::percentile(&lags, 0.5), rig::percentile(&lags, 0.99)),
        "",
        "",
        "p99 ≤ 1 s",
    );
}
