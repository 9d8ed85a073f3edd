//! MariaDB, also beside what its users do now: a backup of files and the binary log, and a dump.

use std::process::{Command, Stdio};
use std::time::Instant;

use pando_testkit::{Mariadb, MariadbProduction};
use tempfile::TempDir;

use super::mysql_family::{self, Bare, Bench, account, as_account, bytes, plain, room, run};
use super::rig::{self, Table};

impl Bench for Mariadb {
    const NAME: &'static str = "MariaDB";
    const CONF: &'static [&'static str] = &["innodb_log_file_size=256M"];
    const FIRST: &'static str = "";
    const NUMBERS: &'static str = "SELECT COLUMNS FROM seq_1_to_ROWS";
    const BARE: &'static [&'static str] = &["--innodb-log-file-size=64M"];
    const SLAP: &'static str = "mariadb-slap";
    const COPY: (&'static str, &'static str) = ("by files (`mariadb-backup`)", "?datadir=none");
}

/// Copies: the first, `@latest`, any second, and those of others.
pub fn measure(table: &mut Table, megabytes: u32, rounds: usize, seconds: u32) {
    let production = mysql_family::production::<Mariadb>(megabytes);
    let before = || Given::take(&production);
    let (given, moment) = mysql_family::measure(table, &production, rounds, seconds, before);
    peers(table, &production, &given, moment);
}

/// What a peer is given: a backup, and a place in the binary log from before the load.
struct Given {
    backup: TempDir,
    file: String,
    byte: String,
}

impl Given {
    fn take(production: &MariadbProduction) -> Self {
        let backup = backup(production);
        let status = production.sql("SHOW MASTER STATUS");
        let mut place = status.split('\t').map(str::to_owned);
        let (file, byte) = (place.next().expect("a file"), place.next().expect("a place"));
        Self { backup, file, byte }
    }
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
fn peers(table: &mut Table, production: &MariadbProduction, given: &Given, moment: jiff::Timestamp) {
    let label = rig::size(bytes(production));
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
    let server = Bare::start::<Mariadb>(&data, "root");
    // The option is in the local time zone, and stops at the first event of that second.
    let stop = moment.to_zoned(jiff::tz::TimeZone::UTC).strftime("--stop-datetime=%F %T").to_string();
    let mut reader = Command::new("mariadb-binlog");
    reader.arg("--no-defaults").arg(format!("--start-position={}", given.byte)).arg(stop).args(&logs);
    let mut reader = plain(&mut reader).stdout(Stdio::piped()).spawn().expect("mariadb-binlog");
    let mut client = Command::new("mariadb");
    client.args(["--no-defaults", "--user=root"]).arg(format!("--socket={}", server.socket().display()));
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
    let server = Bare::start::<Mariadb>(&empty.path().join("data"), "root");
    let (took, ()) = rig::timed(|| {
        let mut dump = Command::new("mariadb-dump");
        dump.args(["--no-defaults", "--user=root", "--single-transaction", "--databases", "blog"])
            .arg(format!("--socket={}", production.socket().display()));
        let mut dump = plain(&mut dump).stdout(Stdio::piped()).spawn().expect("mariadb-dump");
        let mut load = Command::new("mariadb");
        load.args(["--no-defaults", "--user=root"]).arg(format!("--socket={}", server.socket().display()));
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
