//! Real PostgreSQL servers for the tests of the change log: a primary ("production"), a standby of it (the
//! mirror) and `pg_receivewal` from the standby. Everything lies in one temporary directory and speaks over
//! sockets in it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
#![allow(dead_code, reason = "each test file uses its part")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use jiff::Timestamp;
use pando_engine::postgres::wal::{Progress, WalLog};
use pando_engine::{Point, Want};
use pando_host::{Account, Clock, SystemClock, Tool};
use pando_model::Lsn;

/// Where Debian keeps the programs; the newest version there is.
pub fn programs() -> Option<PathBuf> {
    let mut found: Vec<_> = (13..=18).map(|major| PathBuf::from(format!("/usr/lib/postgresql/{major}/bin"))).collect();
    found.retain(|dir| dir.join("pg_receivewal").exists() && dir.join("initdb").exists());
    found.pop()
}

/// The programs, or none after saying so. In CI their absence is a failure.
#[allow(clippy::print_stderr, reason = "a skipped test must be named")]
pub fn programs_for(test: &str) -> Option<PathBuf> {
    let found = programs();
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{test} needs PostgreSQL: apt-get install postgresql");
        eprintln!("SKIPPED {test}: PostgreSQL is not installed");
    }
    found
}

pub fn account() -> Option<Account> {
    Account::is_root().then(|| Account::named("postgres").unwrap().expect("an account named postgres"))
}

pub fn pause(ms: u64) {
    SystemClock.sleep(Duration::from_millis(ms));
}

/// Waits for something, half a minute at most.
pub fn until(what: &str, mut ready: impl FnMut() -> bool) {
    for _ in 0..1500 {
        if ready() {
            return;
        }
        pause(20);
    }
    panic!("waited too long: {what}");
}

/// A server's data directory; stopped when dropped.
pub struct Server {
    pub bin: PathBuf,
    pub data: PathBuf,
    pub sockets: PathBuf,
    pub port: u16,
}

impl Server {
    pub fn tool(&self, name: &str) -> pando_host::ToolCommand {
        let tool = Tool::find_in([self.bin.as_path()], name).expect("a PostgreSQL program");
        tool.command()
            .account(account().as_ref())
            .env("PGUSER", "postgres")
            .env("PGHOST", &self.sockets)
            .env("PGPORT", self.port.to_string())
    }
    pub fn set(&self, settings: &str) {
        let path = self.data.join("postgresql.auto.conf");
        let old = fs::read_to_string(&path).unwrap_or_default();
        fs::write(path, format!("{old}\n{settings}\n")).unwrap();
    }
    /// Starts it; the log on failure.
    pub fn try_start(&self) -> Result<(), String> {
        let log = self.sockets.join(format!("log-{}", self.port));
        let _ = fs::remove_file(&log);
        let options = format!("-p {} -k {} -c listen_addresses=", self.port, self.sockets.display());
        let started = self
            .tool("pg_ctl")
            .args(["-w", "-t", "30", "start", "-o", &options, "-l"])
            .arg(&log)
            .arg("-D")
            .arg(&self.data)
            .run();
        started.map(|_| ()).map_err(|_| fs::read_to_string(&log).unwrap_or_default())
    }
    pub fn start(&self) {
        self.try_start().unwrap_or_else(|log| panic!("the server did not start: {log}"));
    }
    pub fn stop(&self, mode: &str) {
        let _ = self.tool("pg_ctl").args(["-w", "-m", mode, "stop", "-D"]).arg(&self.data).run();
    }
    pub fn sql(&self, sql: &str) -> String {
        self.try_sql(sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }
    pub fn try_sql(&self, sql: &str) -> Result<String, String> {
        let command = self.tool("psql").args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", "postgres"]);
        // Statements one by one: several in one -c would be one transaction.
        let command = sql.split(";;").fold(command, |command, part| command.arg("-c").arg(part));
        command.run().map(|done| done.text().trim().to_owned()).map_err(|error| error.to_string())
    }
    pub fn lsn(&self) -> Lsn {
        self.sql("select pg_current_wal_insert_lsn()").parse().unwrap()
    }
    /// A line of `pg_controldata`.
    pub fn control(&self, key: &str) -> String {
        let text = self.tool("pg_controldata").arg("-D").arg(&self.data).run().unwrap().text();
        let line = text.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("no {key} in {text}"));
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop("immediate");
    }
}

/// A running `pg_receivewal`, killed when dropped.
pub struct Receiver(pub Child);

impl Receiver {
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Production, mirror, log.
pub struct Rig {
    pub receiver: Option<Receiver>,
    pub clones: Vec<Server>,
    pub standby: Server,
    pub primary: Server,
    pub log: WalLog,
    pub epoch: u32,
    pub dir: tempfile::TempDir,
}

pub fn own(path: &Path) {
    if let Some(account) = account() {
        chown(path, Some(account.uid), Some(account.gid)).unwrap();
    }
}

pub fn server(dir: &Path, bin: &Path, name: &str, port: u16) -> Server {
    Server { bin: bin.to_owned(), data: dir.join(name), sockets: dir.to_owned(), port }
}

impl Rig {
    pub fn new(bin: &Path, segment_megabytes: u32) -> Self {
        let dir = tempfile::Builder::new().prefix("pw").tempdir_in(roomy()).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
        let run = dir.path().join("r");
        fs::create_dir(&run).unwrap();
        own(&run);
        let primary = server(&run, bin, "primary", 5001);
        let size = format!("--wal-segsize={segment_megabytes}");
        primary
            .tool("initdb")
            .args(["-A", "trust", "-U", "postgres", "--no-sync", "--no-locale", "-E", "UTF8", &size, "-D"])
            .arg(&primary.data)
            .run()
            .unwrap();
        primary.set(
            "fsync=off\ntrack_commit_timestamp=on\nmax_prepared_transactions=10\nwal_level=logical\nautovacuum=off\nshared_buffers=32MB\n\
             bgwriter_delay=10s\nlog_min_messages=log\nmax_wal_size=1GB\nwal_keep_size=256MB\nTimeZone=UTC\nlog_timezone=UTC",
        );
        primary.start();
        let standby = server(&run, bin, "standby", 5002);
        standby_of(&primary, &standby);
        let log = WalLog::open(&dir.path().join("log")).unwrap();
        let epoch = log.begin_epoch(account().as_ref()).unwrap();
        // Not by pg_receivewal --create-slot: that reserves nothing until the first connection, and the log
        // would begin behind the mirror's redo point.
        standby.sql("select pg_create_physical_replication_slot('pando', true)");
        let mut rig = Self { receiver: None, clones: Vec::new(), standby, primary, log, epoch, dir };
        rig.receive();
        rig.caught_up();
        rig
    }

    /// Starts `pg_receivewal`.
    pub fn receive(&mut self) {
        self.receiver = None;
        self.log.mend_live(self.epoch).unwrap();
        self.receiver = Some(self.receive_from(&self.standby));
    }

    pub fn receive_from(&self, server: &Server) -> Receiver {
        let live = self.log.live_dir(self.epoch);
        let errors = fs::OpenOptions::new().create(true).append(true).open(self.receiver_log()).unwrap();
        let command = server.tool("pg_receivewal").args(["--synchronous", "-v", "-S", "pando", "-D"]).arg(live);
        Receiver(command.build().stdout(Stdio::null()).stderr(errors).spawn().unwrap())
    }

    pub fn receiver_log(&self) -> PathBuf {
        self.dir.path().join("receiver.log")
    }

    /// Waits until the log holds all that production has committed.
    pub fn caught_up(&self) -> Progress {
        self.primary.sql("select txid_current()");
        self.caught_up_to(&self.primary)
    }

    pub fn caught_up_to(&self, primary: &Server) -> Progress {
        let wanted = primary.lsn();
        let mut last = Progress::default();
        until("the log catches up", || {
            last = self.log.advance().unwrap();
            last.end >= wanted
        });
        last
    }

    /// A snapshot of the mirror as a pool would make it: crash-consistent. Its tree, and where it can be
    /// brought to.
    pub fn snapshot(&mut self, name: &str) -> (PathBuf, Point) {
        let replayed = self.caught_up().end;
        self.replayed(replayed);
        self.snapshot_now(name)
    }

    pub fn replayed(&self, lsn: Lsn) {
        let sql = format!("select pg_last_wal_replay_lsn() >= '{lsn}'");
        until("the standby replays", || self.standby.sql(&sql) == "t");
    }

    /// Production stays up, and idle.
    pub fn snapshot_now(&mut self, name: &str) -> (PathBuf, Point) {
        self.receiver = None;
        self.standby.stop("immediate");
        let tree = self.dir.path().join("r").join(name);
        Tool::find("cp", "coreutils")
            .unwrap()
            .command()
            .args(["-a", "--reflink=auto"])
            .arg(&self.standby.data)
            .arg(&tree)
            .run()
            .unwrap();
        let copy = server(&self.primary.sockets, &self.primary.bin, name, 1);
        let lsn = copy.control("Minimum recovery ending location").parse().unwrap();
        let timeline = copy.control("Min recovery ending loc's timeline").parse().unwrap();
        self.standby.start();
        self.receive();
        (tree, Point { epoch: self.epoch, timeline, lsn, time: None })
    }

    /// Production fails over to a standby of its own; the mirror follows it.
    pub fn fail_over(&mut self, port: u16) {
        let next = server(&self.primary.sockets, &self.primary.bin, &format!("next{port}"), port);
        standby_of(&self.primary, &next);
        let lsn = self.caught_up().end;
        until("the next primary has everything", || {
            next.sql(&format!("select pg_last_wal_replay_lsn() >= '{lsn}'")) == "t"
        });
        self.primary.stop("immediate");
        next.sql("select pg_promote()");
        self.primary = next;
        self.standby
            .set(&format!("primary_conninfo='host={} port={port} user=postgres'", self.primary.sockets.display()));
        self.standby.sql("select pg_reload_conf()");
    }

    pub fn locate(&self, from: &Point, want: Want) -> Option<Point> {
        self.log.locate(self.epoch, from, want).unwrap()
    }

    /// Makes a clone of a tree at a point and starts it; the server's log when it does not come up.
    pub fn try_clone(&mut self, tree: &Path, from: &Point, to: &Point) -> Result<&Server, String> {
        let target = format!("recovery_target_lsn='{}'\nrecovery_target_action=promote", to.lsn);
        self.try_clone_with(tree, from, to, &target)
    }

    pub fn try_clone_with(&mut self, tree: &Path, from: &Point, to: &Point, target: &str) -> Result<&Server, String> {
        let port = 5100 + u16::try_from(self.clones.len()).unwrap();
        let clone = server(&self.primary.sockets, &self.primary.bin, &format!("clone{port}"), port);
        Tool::find("cp", "coreutils")
            .unwrap()
            .command()
            .args(["-a", "--reflink=auto"])
            .arg(tree)
            .arg(&clone.data)
            .run()
            .unwrap();
        for file in ["standby.signal", "postmaster.pid"] {
            let _ = fs::remove_file(clone.data.join(file));
        }
        fs::write(clone.data.join("recovery.signal"), "").unwrap();
        own(&clone.data.join("recovery.signal"));
        self.log.bring(self.epoch, from.lsn, to, &clone.data.join("pg_wal"), account().as_ref()).unwrap();
        clone.set(&format!(
            "restore_command='false'\nprimary_conninfo=''\nprimary_slot_name=''\n\
             recovery_target_inclusive=on\nrecovery_target_timeline={}\n{target}",
            to.timeline
        ));
        let started = clone.try_start();
        self.clones.push(clone);
        started?;
        let clone = self.clones.last().unwrap();
        until("the clone is promoted", || clone.sql("select pg_is_in_recovery()") == "f");
        Ok(clone)
    }

    pub fn clone_at(&mut self, tree: &Path, from: &Point, to: &Point) -> &Server {
        self.try_clone(tree, from, to).unwrap_or_else(|log| panic!("the clone did not start: {log}"))
    }
}

/// Memory where there is enough of it: trees are copied again and again.
fn roomy() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let enough = rustix::fs::statvfs(memory).is_ok_and(|at| at.f_bavail * at.f_frsize > 6 << 30);
    if enough { memory.to_owned() } else { PathBuf::from("/tmp") }
}

/// Makes and starts a standby.
pub fn standby_of(primary: &Server, standby: &Server) {
    primary
        .tool("pg_basebackup")
        .args(["-R", "-X", "stream", "-c", "fast", "--no-sync", "-D"])
        .arg(&standby.data)
        .run()
        .unwrap();
    standby.set("wal_retrieve_retry_interval=100ms\nhot_standby=on");
    standby.start();
}

/// The time on production's clock, as it writes it into commits.
pub fn time_of(server: &Server) -> Timestamp {
    parse_time(&server.sql("select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')"))
}

/// `2026-11-21 01:02:03.123456`, UTC.
pub fn parse_time(text: &str) -> Timestamp {
    format!("{}Z", text.trim().replacen(' ', "T", 1)).parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}
