//! A real MySQL server that plays production: its own data in a temporary directory, on a free port of loopback and on
//! a unix socket, as an unprivileged account when the test is root.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::mariadb::{client, client_at};
use crate::production::account;
use crate::{free_port, tools, wait_until};

/// A running (or stopped) production server; gone when dropped.
#[derive(Debug)]
pub struct MysqlProduction {
    prefix: PathBuf,
    dir: TempDir,
    port: u16,
    child: Option<Child>,
}

impl MysqlProduction {
    /// Makes a server with a binary log and GTIDs, the account `rep` (password `prod-secret`, all rights) and the
    /// database `blog`. `conf`: more lines for its option file; they win.
    ///
    /// # Panics
    /// When a program fails; its output is in the message.
    pub fn start(conf: &[&str]) -> Self {
        // Not below TMPDIR: a socket's path has at most 107 bytes.
        let dir = tempfile::Builder::new().prefix("pando-ms-").tempdir_in("/tmp").expect("a temporary directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("opening a directory");
        if let Some((uid, gid)) = account() {
            std::os::unix::fs::chown(dir.path(), Some(uid), Some(gid)).expect("giving a directory to the account");
        }
        let prefix = tools::mysql().expect("an installed MySQL");
        let mut made = Self { prefix, dir, port: free_port(), child: None };
        let path = |name: &str| made.dir.path().join(name).display().to_string();
        // No disk is waited for: no test takes the machine's power away here.
        let mut text = format!(
            "[mysqld]\ndatadir={}\nsocket={}\npid-file={}\nport={}\nbind-address=127.0.0.1\nskip-name-resolve\n\
             log_bin=prod-bin\nserver_id=7\ngtid_mode=ON\nenforce_gtid_consistency=ON\nmysqlx=OFF\n\
             secure_file_priv=NULL\ninnodb_flush_log_at_trx_commit=2\ninnodb_flush_method=nosync\n\
             innodb_redo_log_capacity=32M\ninnodb_doublewrite=OFF\nsync_binlog=0\nperformance_schema=OFF\n",
            path("data"),
            path("s"),
            path("pid"),
            made.port
        );
        for line in conf {
            text.push_str(line);
            text.push('\n');
        }
        fs::write(made.options(), text).expect("writing the option file");
        let output = made.server().arg("--initialize-insecure").output().expect("starting mysqld");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        made.resume();
        made.sql(
            "CREATE USER rep@'%' IDENTIFIED BY 'prod-secret'; GRANT ALL ON *.* TO rep@'%' WITH GRANT OPTION; \
             CREATE DATABASE blog",
        );
        made
    }

    fn options(&self) -> PathBuf {
        self.dir.path().join("my.cnf")
    }

    fn server(&self) -> Command {
        let mut command = Command::new(self.prefix.join("sbin/mysqld"));
        command.env_clear().env("LC_ALL", "C").env("TZ", "UTC").env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
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
        let mut server = self.server();
        server.stdout(log.try_clone().expect("a second handle")).stderr(log);
        self.child = Some(server.spawn().expect("starting mysqld"));
        let answers = wait_until(Duration::from_secs(60), || self.try_sql("SELECT 1").is_ok());
        assert!(answers, "production does not start: {}", self.log());
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
        let database = if there { "--database=blog" } else { "--protocol=socket" };
        client(&self.prefix.join("bin/mysql"), &[&socket, "--user=root", database], None, sql)
    }

    /// The address over TCP, password included.
    pub fn url(&self) -> String {
        format!("mysql://rep:prod-secret@127.0.0.1:{}/blog", self.port)
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for MysqlProduction {
    fn drop(&mut self) {
        self.end(Signal::KILL);
    }
}

/// Runs MySQL's client on statements at an address, as `pando clone` gives it; rows as lines.
///
/// # Errors
/// What the client printed when it failed.
pub fn mysql_at(url: &str, sql: &str) -> Result<String, String> {
    client_at(&tools::mysql().ok_or("MySQL is not here")?.join("bin/mysql"), url, sql)
}
