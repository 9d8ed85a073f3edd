//! A real PostgreSQL server that plays production: its own cluster in a temporary directory, on a free port
//! of loopback and on a unix socket, as an unprivileged account when the test is root.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use postgres::{Client, NoTls, SimpleQueryMessage};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{free_port, wait_until};

/// What a production server is to be like.
#[derive(Debug, Clone)]
pub struct ProductionOptions {
    /// The superuser that `initdb` makes.
    pub superuser: String,
    /// Its password (TCP asks for it, the socket does not).
    pub password: String,
    /// More lines for `postgresql.conf`; they win over the kit's own.
    pub conf: Vec<String>,
    /// More arguments for `initdb`, such as `--data-checksums` or `--wal-segsize=1`.
    pub initdb: Vec<String>,
    /// Its clock can be set ([`Production::set_clock`]).
    pub clock: bool,
}

impl Default for ProductionOptions {
    fn default() -> Self {
        Self {
            superuser: "boss".into(),
            password: "prod-secret".into(),
            conf: Vec::new(),
            initdb: Vec::new(),
            clock: false,
        }
    }
}

/// A running (or stopped) production server; gone when dropped.
#[derive(Debug)]
pub struct Production {
    dir: TempDir,
    bin: PathBuf,
    options: ProductionOptions,
    port: u16,
    child: Option<Child>,
}

impl Production {
    /// Makes a cluster with the programs in `bin` and starts it.
    ///
    /// # Panics
    /// When a program fails; its output is in the message.
    pub fn start(bin: &Path, options: ProductionOptions) -> Self {
        let mut made = Self::empty(bin, options);
        let password = made.dir.path().join("password");
        fs::write(&password, &made.options.password).expect("writing the password file");
        fs::set_permissions(&password, fs::Permissions::from_mode(0o644)).expect("opening the password file");
        let mut initdb = made.command("initdb");
        initdb.arg("-D").arg(made.data()).arg("--no-sync").args(["--encoding=UTF8", "--locale=C"]);
        initdb.args(["--auth-local=trust", "--auth-host=scram-sha-256", "-U", &made.options.superuser]);
        initdb.arg("--pwfile").arg(&password).args(&made.options.initdb);
        run(initdb);
        made.configure();
        made.resume();
        made
    }

    /// Makes a running standby of this server, of the same version.
    ///
    /// # Panics
    /// As [`Production::start`].
    pub fn standby(&self, options: ProductionOptions) -> Self {
        let mut made = Self::empty(&self.bin, options);
        let mut copy = made.command("pg_basebackup");
        copy.arg("-D").arg(made.data()).args(["-R", "-X", "stream", "-c", "fast", "-d", &self.url("postgres")]);
        run(copy);
        made.configure();
        made.resume();
        made
    }

    fn empty(bin: &Path, options: ProductionOptions) -> Self {
        // Not below TMPDIR: a socket's path has at most 107 bytes.
        let dir = tempfile::Builder::new().prefix("pando-pg-").tempdir_in("/tmp").expect("a temporary directory");
        let sockets = dir.path().join("s");
        fs::create_dir(&sockets).expect("making the socket directory");
        for path in [dir.path(), &sockets] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("opening a directory");
            if let Some((uid, gid)) = account() {
                std::os::unix::fs::chown(path, Some(uid), Some(gid)).expect("giving a directory to the account");
            }
        }
        Self { dir, bin: bin.to_owned(), options, port: free_port(), child: None }
    }

    fn configure(&self) {
        let mut text = format!(
            "\nlisten_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\n\
             fsync = off\nshared_buffers = 16MB\nmax_wal_senders = 10\nwal_level = replica\n",
            self.port,
            self.sockets().display()
        );
        for line in &self.options.conf {
            text.push_str(line);
            text.push('\n');
        }
        // Appended, so that the owner stays; a standby's copy of an older block is overruled by the last line.
        use std::io::Write;
        let conf = fs::OpenOptions::new().append(true).open(self.data().join("postgresql.conf"));
        conf.and_then(|mut file| file.write_all(text.as_bytes())).expect("writing postgresql.conf");
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.env_clear().env("LC_ALL", "C").env("TZ", "UTC").env("PATH", "/usr/bin:/bin").current_dir("/");
        command.stdin(Stdio::null());
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
        let mut starts = 0;
        let answers = wait_until(Duration::from_secs(60), || {
            let ended = self.child.as_mut().is_none_or(|child| child.try_wait().is_ok_and(|status| status.is_some()));
            if ended && starts < 20 {
                // Also again: the children of a killed server need a moment to let go of its memory.
                std::thread::sleep(Duration::from_millis(if starts == 0 { 0 } else { 250 }));
                self.child = Some(self.spawn());
                starts += 1;
            }
            self.try_client("postgres").is_ok() || (ended && starts == 20)
        });
        let answers = answers && self.try_client("postgres").is_ok();
        assert!(answers, "production does not start: {}", self.log());
    }

    fn spawn(&self) -> Child {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("log"));
        let log = log.expect("opening production's log");
        let mut postgres = self.command("postgres");
        if self.options.clock {
            self.set_clock(0);
            postgres.env("LD_PRELOAD", faketime()).env("FAKETIME_TIMESTAMP_FILE", self.clock_file());
            postgres.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
            postgres.env("FAKETIME_DISABLE_SHM", "1");
        }
        postgres.arg("-D").arg(self.data()).stdout(log.try_clone().expect("a second handle")).stderr(log);
        postgres.spawn().expect("starting postgres")
    }

    fn clock_file(&self) -> PathBuf {
        self.dir.path().join("clock")
    }

    /// Sets its clock so many seconds ahead of the machine's, or behind it, at once. Each start sets it right.
    ///
    /// # Panics
    /// When the clock cannot be set.
    pub fn set_clock(&self, seconds: i64) {
        // Renamed into place: it is read at every look at the clock.
        let fresh = self.dir.path().join("clock.new");
        fs::write(&fresh, format!("{seconds:+}\n")).expect("setting a clock");
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o644)).expect("showing a clock");
        fs::rename(fresh, self.clock_file()).expect("setting a clock");
    }

    /// Stops it the fast way (SIGINT) and waits.
    pub fn stop(&mut self) {
        self.end(Signal::INT);
    }

    /// Kills it with SIGKILL, as a crash would. Its child processes end by themselves.
    pub fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    /// Stops and starts it.
    pub fn restart(&mut self) {
        self.stop();
        self.resume();
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

    /// Promotes a standby and waits until it takes writes.
    ///
    /// # Panics
    /// When it is no standby, or does not come up.
    pub fn promote(&self) {
        assert_eq!(self.psql("SELECT pg_promote(true, 60)"), "t", "promoting: {}", self.log());
    }

    /// Runs statements in the database `postgres` over the socket, as the superuser; answers the rows as
    /// `psql -At` would: columns with `|` between them, one row per line.
    ///
    /// # Panics
    /// When a statement fails.
    pub fn psql(&self, sql: &str) -> String {
        self.psql_in("postgres", sql)
    }

    /// The same in another database.
    ///
    /// # Panics
    /// When a statement fails.
    pub fn psql_in(&self, database: &str, sql: &str) -> String {
        let answer = self.client(database).simple_query(sql).unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        let row = |message: SimpleQueryMessage| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|i| row.get(i).unwrap_or("")).collect::<Vec<_>>().join("|"))
            }
            _ => None,
        };
        answer.into_iter().filter_map(row).collect::<Vec<_>>().join("\n")
    }

    /// A connection over the socket, as the superuser.
    ///
    /// # Panics
    /// When it is refused.
    pub fn client(&self, database: &str) -> Client {
        self.try_client(database).unwrap_or_else(|error| panic!("connecting to production: {error:?}\n{}", self.log()))
    }

    fn try_client(&self, database: &str) -> Result<Client, postgres::Error> {
        let mut config = postgres::Config::new();
        config.host_path(self.sockets()).port(self.port).user(&self.options.superuser).dbname(database);
        config.connect_timeout(Duration::from_secs(5)).connect(NoTls)
    }

    /// The address over TCP, password included.
    pub fn url(&self, database: &str) -> String {
        let ProductionOptions { superuser, password, .. } = &self.options;
        format!("postgres://{superuser}:{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where its programs are.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The directory of its unix socket.
    pub fn sockets(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Production {
    fn drop(&mut self) {
        // Immediate: the directory goes away anyway.
        self.end(Signal::QUIT);
    }
}

/// PostgreSQL refuses to run as root: `postgres` where there is one, else `nobody`; none when not root.
pub(crate) fn account() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").expect("reading /etc/passwd");
    let find = |name: &str| {
        let line = passwd.lines().find(|line| line.starts_with(&format!("{name}:")))?;
        let mut ids = line.split(':').skip(2).map_while(|field| field.parse().ok());
        Some((ids.next()?, ids.next()?))
    };
    Some(find("postgres").or_else(|| find("nobody")).expect("an account named postgres or nobody"))
}

/// The library that shows another time to the server it is loaded into.
fn faketime() -> PathBuf {
    let dirs = fs::read_dir("/usr/lib").expect("listing /usr/lib").flatten();
    let found = dirs.map(|dir| dir.path().join("faketime/libfaketime.so.1")).find(|path| path.is_file());
    found.expect("libfaketime (apt-get install faketime)")
}

fn run(mut command: Command) {
    let output = command.output().expect("starting a program of PostgreSQL");
    assert!(output.status.success(), "{command:?} failed: {}", String::from_utf8_lossy(&output.stderr));
}
