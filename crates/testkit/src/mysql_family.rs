//! A real MariaDB or MySQL server that plays production: its own data in a temporary directory, on a free port of
//! loopback and on a unix socket, as an unprivileged account when the test is root.

use std::fs;
use std::marker::PhantomData;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::production::account;
use crate::{free_port, tools, wait_until};

/// What differs between the two.
pub trait Make: Send + Sync {
    /// What its addresses begin with.
    const SCHEME: &'static str;
    /// Its server, which is also the section of its option file.
    const SERVER: &'static str;
    /// What its option file holds.
    const OPTIONS: &'static str;
    /// What makes an empty server: its program and its options.
    const INSTALL: &'static [&'static str];
    /// Where its newest installation is.
    fn prefix() -> Option<PathBuf>;
    /// Its client.
    fn client() -> Option<PathBuf>;
}

/// MariaDB, as this machine has it.
#[derive(Debug)]
pub enum Mariadb {}

impl Make for Mariadb {
    const SCHEME: &'static str = "mariadb";
    const SERVER: &'static str = "mariadbd";
    const OPTIONS: &'static str = "binlog_format=ROW\ninnodb_log_file_size=16M\n";
    const INSTALL: &'static [&'static str] =
        &["mariadb-install-db", "--auth-root-authentication-method=normal", "--skip-test-db"];

    fn prefix() -> Option<PathBuf> {
        Some("/usr".into())
    }

    fn client() -> Option<PathBuf> {
        tools::find("mariadb")
    }
}

/// MySQL, as `scripts/matrix` brought it.
#[derive(Debug)]
pub enum Mysql {}

impl Make for Mysql {
    const SCHEME: &'static str = "mysql";
    const SERVER: &'static str = "mysqld";
    /// No disk is waited for: no test takes the machine's power away here.
    const OPTIONS: &'static str = "gtid_mode=ON\nenforce_gtid_consistency=ON\nmysqlx=OFF\nsecure_file_priv=NULL\n\
        innodb_flush_method=nosync\ninnodb_redo_log_capacity=32M\ninnodb_doublewrite=OFF\nsync_binlog=0\n";
    const INSTALL: &'static [&'static str] = &["mysqld", "--initialize-insecure"];

    fn prefix() -> Option<PathBuf> {
        tools::mysql()
    }

    fn client() -> Option<PathBuf> {
        tools::mysql().map(|prefix| prefix.join("bin/mysql"))
    }
}

/// A running (or stopped) production server; gone when dropped.
#[derive(Debug)]
pub struct FamilyProduction<M: Make> {
    prefix: PathBuf,
    dir: TempDir,
    port: u16,
    child: Option<Child>,
    /// Its machine's time zone.
    zone: String,
    make: PhantomData<M>,
}

/// One of MariaDB.
pub type MariadbProduction = FamilyProduction<Mariadb>;
/// One of MySQL.
pub type MysqlProduction = FamilyProduction<Mysql>;

impl<M: Make> FamilyProduction<M> {
    /// Makes a server with a binary log, the account `rep` (password `prod-secret`, all rights) and the database
    /// `blog`. `conf`: more lines for its option file; they win.
    ///
    /// # Panics
    /// When a program fails; its output is in the message.
    pub fn start(conf: &[&str]) -> Self {
        Self::start_in("UTC", conf)
    }

    /// The same on a machine in that time zone.
    ///
    /// # Panics
    /// When a program fails; its output is in the message.
    pub fn start_in(zone: &str, conf: &[&str]) -> Self {
        Self::begin(&M::prefix().expect("an installed server"), zone, conf)
    }

    /// The same of the installation in `prefix`.
    ///
    /// # Panics
    /// When a program fails; its output is in the message.
    pub fn start_of(prefix: &Path, conf: &[&str]) -> Self {
        Self::begin(prefix, "UTC", conf)
    }

    fn begin(prefix: &Path, zone: &str, conf: &[&str]) -> Self {
        // Not below TMPDIR: a socket's path has at most 107 bytes.
        let dir = tempfile::Builder::new().prefix("pando-my-").tempdir_in("/tmp").expect("a temporary directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("opening a directory");
        if let Some((uid, gid)) = account() {
            std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)).expect("giving a directory to the account");
        }
        let (prefix, zone, port) = (prefix.to_owned(), zone.to_owned(), free_port());
        let mut made = Self { prefix, dir, port, child: None, zone, make: PhantomData };
        made.configure(conf);
        let (program, options) = M::INSTALL.split_first().expect("a program");
        let output = made.command(program).args(options).output().expect("starting a program");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        made.resume();
        made.sql(
            "CREATE USER rep@'%' IDENTIFIED BY 'prod-secret'; GRANT ALL ON *.* TO rep@'%' WITH GRANT OPTION; \
             CREATE DATABASE blog",
        );
        made
    }

    fn configure(&self, conf: &[&str]) {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let text = format!(
            "[{}]\ntmpdir={}\ndatadir={}\nsocket={}\npid-file={}\nport={}\nbind-address=127.0.0.1\nskip-name-resolve\n\
             log_bin=prod-bin\nserver_id=7\ninnodb_flush_log_at_trx_commit=2\nperformance_schema=OFF\n{}{}\n",
            M::SERVER,
            // One that starts removes what looks like temporary tables of another.
            self.dir.path().display(),
            path("data"),
            path("s"),
            path("pid"),
            self.port,
            M::OPTIONS,
            conf.join("\n")
        );
        fs::write(self.options(), text).expect("writing the option file");
    }

    fn options(&self) -> PathBuf {
        self.dir.path().join("my.cnf")
    }

    fn command(&self, program: &str) -> Command {
        let path = ["sbin", "bin"].iter().map(|dir| self.prefix.join(dir).join(program)).find(|path| path.is_file());
        let mut command = Command::new(path.unwrap_or_else(|| panic!("no {program} in {}", self.prefix.display())));
        command.env_clear().env("LC_ALL", "C").env("TZ", &self.zone).env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.current_dir("/").stdin(Stdio::null()).arg(format!("--defaults-file={}", self.options().display()));
        command.arg(format!("--basedir={}", self.prefix.display()));
        if let Some((uid, gid)) = account() {
            command.uid(uid).gid(gid);
        }
        command
    }

    /// Starts a stopped or killed server and waits until it answers.
    ///
    /// # Panics
    /// When it does not within a minute; the end of its log is in the message.
    pub fn resume(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("log"));
        let log = log.expect("opening production's log");
        let mut server = self.command(M::SERVER);
        server.stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.child = Some(server.spawn().expect("starting a server"));
        let answers = wait_until(Duration::from_secs(60), || self.try_sql("SELECT 1").is_ok());
        assert!(answers, "production does not start: {}", self.log());
    }

    /// Goes on as a server of another installation, as after an upgrade.
    ///
    /// # Panics
    /// When it does not start.
    pub fn move_to(&mut self, prefix: &Path) {
        self.stop();
        prefix.clone_into(&mut self.prefix);
        self.resume();
    }

    /// Stops it and waits.
    pub fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    /// Kills it with SIGKILL, as a crash would.
    pub fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    fn end(&mut self, signal: Signal) {
        if let Some(mut child) = self.child.take() {
            let _ = kill_process(Pid::from_child(&child), signal);
            if !wait_until(Duration::from_secs(30), || child.try_wait().is_ok_and(|status| status.is_some())) {
                let _ = child.kill();
            }
            let _ = child.wait();
        }
    }

    /// Runs statements in `blog` as `root` over the socket; rows as lines, columns with tabs between them.
    ///
    /// # Panics
    /// When one fails.
    pub fn sql(&self, sql: &str) -> String {
        self.try_sql(sql).unwrap_or_else(|error| panic!("{sql}: {error}\n{}", self.log()))
    }

    fn try_sql(&self, sql: &str) -> Result<String, String> {
        let socket = format!("--socket={}", self.dir.path().join("s").display());
        // The database comes with the first statements of a test.
        let there = self.dir.path().join("data/blog").is_dir();
        let args = [socket.as_str(), "--user=root", if there { "--database=blog" } else { "--protocol=socket" }];
        client(&M::client().ok_or("its client is not here")?, &args, None, sql)
    }

    /// The address over TCP, password included.
    pub fn url(&self) -> String {
        format!("{}://rep:prod-secret@127.0.0.1:{}/blog", M::SCHEME, self.port)
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Its socket, where `root` needs no password.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl<M: Make> Drop for FamilyProduction<M> {
    fn drop(&mut self) {
        self.end(Signal::KILL);
    }
}

/// Runs MariaDB's client on statements; rows as lines, or what it complained of.
///
/// # Errors
/// What the client printed when it failed.
pub fn mariadb(args: &[&str], password: Option<&str>, sql: &str) -> Result<String, String> {
    client(&tools::find("mariadb").ok_or("mariadb is not installed")?, args, password, sql)
}

fn client(program: &Path, args: &[&str], password: Option<&str>, sql: &str) -> Result<String, String> {
    let mut client = Command::new(program);
    client.env_clear().env("LC_ALL", "C").stdin(Stdio::null()).arg("--no-defaults").args(args);
    client.args(["--connect-timeout=5", "--batch", "--raw", "--skip-column-names", "--execute", sql]);
    if let Some(password) = password {
        client.env("MYSQL_PWD", password);
    }
    let output = client.output().map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Runs a make's client on statements through a socket, as an account that needs no password.
///
/// # Errors
/// What the client printed when it failed.
pub fn sql_through<M: Make>(socket: &Path, user: &str, sql: &str) -> Result<String, String> {
    let program = M::client().ok_or("its client is not here")?;
    client(&program, &[&format!("--socket={}", socket.display()), &format!("--user={user}")], None, sql)
}

/// The same at an address, as `pando clone` gives it.
///
/// # Errors
/// What the client printed when it failed.
pub fn mariadb_at(url: &str, sql: &str) -> Result<String, String> {
    sql_at::<Mariadb>(url, sql)
}

/// Runs MySQL's client on statements at an address.
///
/// # Errors
/// What the client printed when it failed.
pub fn mysql_at(url: &str, sql: &str) -> Result<String, String> {
    sql_at::<Mysql>(url, sql)
}

/// Runs a make's client on statements at an address.
///
/// # Errors
/// What the client printed when it failed.
pub fn sql_at<M: Make>(url: &str, sql: &str) -> Result<String, String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (login, place) = rest.rsplit_once('@').ok_or("an address without a user")?;
    let (user, password) = login.split_once(':').unwrap_or((login, ""));
    let (address, database) = place.split_once('/').unwrap_or((place, ""));
    let (host, port) = address.split_once(':').unwrap_or((address, "3306"));
    let args = [
        format!("--host={host}"),
        format!("--port={port}"),
        format!("--user={user}"),
        format!("--database={database}"),
        "--protocol=tcp".to_owned(),
    ];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    client(&M::client().ok_or("its client is not here")?, &args, Some(password), sql)
}
