//! The built binary as a daemon on a home of its own, to be spoken to as a user would, killed, and started
//! again. Its units outlive it by design; here they end with the [`Daemon`] value.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::loopfs::unmount;
use crate::{tools, wait_until};

/// A daemon on a temporary home.
#[derive(Debug)]
pub struct Daemon {
    dir: TempDir,
    home: PathBuf,
    pando: PathBuf,
    env: Vec<(String, String)>,
    child: Option<Child>,
}

impl Daemon {
    /// Starts `pando serve` on a fresh home and waits for its socket. A test of crate `pando` passes
    /// `env!("CARGO_BIN_EXE_pando")`.
    ///
    /// # Panics
    /// When it does not come up; its log is in the message.
    pub fn start(pando: &Path) -> Self {
        Self::start_with(pando, &[])
    }

    /// The same with more environment, such as fail points.
    ///
    /// # Panics
    /// As [`Daemon::start`].
    pub fn start_with(pando: &Path, env: &[(&str, &str)]) -> Self {
        Self::begin(pando, None, env)
    }

    /// The same on a home that is somewhere else, such as on a file system of its own.
    ///
    /// # Panics
    /// As [`Daemon::start`].
    pub fn start_on(pando: &Path, home: &Path) -> Self {
        Self::start_on_with(pando, home, &[])
    }

    /// The same with more environment.
    ///
    /// # Panics
    /// As [`Daemon::start`].
    pub fn start_on_with(pando: &Path, home: &Path, env: &[(&str, &str)]) -> Self {
        Self::begin(pando, Some(home), env)
    }

    fn begin(pando: &Path, home: Option<&Path>, env: &[(&str, &str)]) -> Self {
        // Short, for sockets; open to traverse, because servers run as another account when we are root.
        let dir = tempfile::Builder::new().prefix("pando-").tempdir_in("/tmp").expect("a temporary directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).expect("opening a directory");
        let home = home.map_or_else(|| dir.path().join("home"), Path::to_owned);
        let mut made = Self { dir, home, pando: pando.to_owned(), env: Vec::new(), child: None };
        made.set_env(env);
        made.resume();
        made
    }

    /// Starts it again on the same home, with the environment it had.
    ///
    /// # Panics
    /// When it does not come up; its log is in the message.
    pub fn resume(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_path()).expect("opening the log");
        let mut serve = self.command(&["serve", "--listen", "127.0.0.1:0", "--home"]);
        serve.arg(self.home()).stdout(log.try_clone().expect("a second handle")).stderr(log);
        serve.envs(self.env.iter().map(|(name, value)| (name, value)));
        let mut child = serve.spawn().expect("starting pando serve");
        let mut ended = None;
        let up = wait_until(Duration::from_secs(60), || {
            ended = child.try_wait().expect("looking at the daemon");
            ended.is_some() || UnixStream::connect(self.socket()).is_ok()
        });
        self.child = Some(child);
        assert!(up && ended.is_none(), "the daemon does not come up ({ended:?}): {}", self.log());
    }

    /// Replaces the extra environment of the next start, for instance to disarm fail points.
    pub fn set_env(&mut self, env: &[(&str, &str)]) {
        self.env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    }

    /// Kills it with SIGKILL; its units go on.
    pub fn kill9(&mut self) {
        self.end(Signal::KILL);
    }

    /// Sends it SIGKILL and does not look back: for a thread that only borrows it. [`Daemon::kill9`] follows.
    pub fn strike(&self) {
        if let Some(child) = &self.child {
            let _ = kill_process(Pid::from_child(child), Signal::KILL);
        }
    }

    /// Kills everything that belongs to its home, as a crash of the machine would.
    ///
    /// # Panics
    /// When something does not die.
    pub fn kill_units(&self) {
        let gone = || {
            let left = self.processes();
            for pid in left.iter().filter_map(|pid| Pid::from_raw(i32::try_from(*pid).ok()?)) {
                let _ = kill_process(pid, Signal::KILL);
            }
            left.is_empty()
        };
        assert!(wait_until(Duration::from_secs(10), gone), "{:?} do not die", self.processes());
    }

    /// Asks it to end (SIGTERM) and waits; its units go on.
    pub fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    /// Stops it and starts it again.
    pub fn restart(&mut self) {
        self.stop();
        self.resume();
    }

    /// Waits until it has died by itself, as at a fail point; says whether it did.
    pub fn wait_dead(&mut self, at_most: Duration) -> bool {
        self.child.as_mut().is_none_or(|child| wait_until(at_most, || matches!(child.try_wait(), Ok(Some(_)))))
    }

    fn end(&mut self, signal: Signal) {
        if let Some(mut child) = self.child.take() {
            let _ = kill_process(Pid::from_child(&child), signal);
            if !wait_until(Duration::from_secs(60), || matches!(child.try_wait(), Ok(Some(_)))) {
                let _ = child.kill();
            }
            let _ = child.wait();
        }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.pando);
        for name in ["PANDO_HOST", "PANDO_TOKEN", "PANDO_POSTGRES", "PANDO_MARIADB", "PANDO_MYSQL", "PANDO_REDIS"] {
            command.env_remove(name);
        }
        command.args(args).env("PANDO_HOME", self.home()).stdin(Stdio::null());
        command
    }

    /// Runs `pando ARGS` against it, however that ends.
    pub fn pando(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("starting pando")
    }

    /// Runs `pando ARGS --json` and reads what it prints.
    ///
    /// # Panics
    /// When it fails or prints no JSON; what it said, and the daemon's log, are in the message.
    pub fn pando_json(&self, args: &[&str]) -> Value {
        let output = self.pando(&[args, &["--json"]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "pando {args:?} failed: {stderr}\n{}", self.log());
        serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("pando {args:?} printed no JSON ({error}): {output:?}"))
    }

    /// Its home.
    pub fn home(&self) -> PathBuf {
        self.home.clone()
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.home().join("run/pando.sock")
    }

    /// What it logged, over all its lives.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// The lines of its log that are warnings or errors and hold none of the texts that the test announces.
    pub fn alarms(&self, announced: &[&str]) -> Vec<String> {
        let alarm = |line: &&str| matches!(line.split_whitespace().nth(1), Some("WARN" | "ERROR"));
        let unannounced = |line: &&str| !announced.iter().any(|text| line.contains(text));
        self.log().lines().filter(alarm).filter(unannounced).map(str::to_owned).collect()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// The daemon's own process.
    ///
    /// # Panics
    /// When it was stopped or killed.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a daemon that runs").id()
    }

    /// The processes that belong to this home.
    pub fn processes(&self) -> Vec<u32> {
        processes_of(&self.home)
    }

    /// What these processes are, for a message.
    pub fn command_lines(&self) -> Vec<String> {
        let line = |pid: u32| {
            let (words, parent) =
                (fs::read(format!("/proc/{pid}/cmdline")), fs::read_to_string(format!("/proc/{pid}/stat")));
            let words = String::from_utf8_lossy(&words.unwrap_or_default()).replace('\0', " ");
            format!("{pid}: {words}({})", parent.unwrap_or_default())
        };
        self.processes().into_iter().map(line).collect()
    }

    fn unmount_all(&self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let inside = |line: &str| {
            line.split(' ').nth(4).map(PathBuf::from).filter(|p| p.starts_with(&self.home) && *p != self.home)
        };
        for path in mounts.lines().filter_map(inside).collect::<Vec<_>>().into_iter().rev() {
            unmount(&path);
        }
        if tools::find("losetup").is_some() {
            let loops = tools::run("losetup", &["--list", "--noheadings", "--output", "NAME,BACK-FILE"]);
            for (name, file) in loops.lines().filter_map(|line| line.split_once(' ')) {
                if Path::new(file.trim()).starts_with(&self.home) {
                    tools::output(Path::new("losetup"), &["--detach", name]);
                }
            }
        }
    }
}

/// The processes that belong to a home: started with it in their environment, or working inside it (PostgreSQL's
/// children overwrite their environment with their title).
pub fn processes_of(home: &Path) -> Vec<u32> {
    let mark = [b"PANDO_HOME=".as_slice(), home.as_os_str().as_bytes()].concat();
    let is_ours = |pid: u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let inside = fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(home));
        inside || environment.split(|byte| *byte == 0).any(|entry| entry == mark)
    };
    let pid = |name: &OsStr| name.to_str()?.parse::<u32>().ok();
    let all = fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| pid(&entry.file_name()));
    all.filter(|pid| is_ours(*pid)).collect()
}

/// The directories for sockets that a home's units were told of: they lie outside of it, because a socket's
/// path must be short.
fn run_dirs(home: &Path) -> Vec<PathBuf> {
    let records = fs::read_dir(home.join("units")).into_iter().flatten().flatten();
    let found = records.filter_map(|record| {
        let text = ["unit.json", "container.json"].map(|name| fs::read_to_string(record.path().join(name)));
        let text = text.into_iter().find_map(Result::ok)?;
        let from = ["/run/pando-", "/dev/shm/pando-"].iter().find_map(|start| text.find(start))?;
        let dir = text[from..].split('"').next()?;
        Path::new(dir)
            .ancestors()
            .find(|dir| dir.parent().is_some_and(|up| up.file_name().is_some_and(is_base)))
            .map(Path::to_owned)
    });
    found.collect()
}

fn is_base(name: &OsStr) -> bool {
    name == "run" || name == "shm"
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let outside = run_dirs(&self.home);
        self.stop();
        if !std::thread::panicking() {
            self.kill_units();
        } else if let Err(stubborn) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.kill_units())) {
            eprintln!("{stubborn:?}");
        }
        for dir in outside {
            let _ = fs::remove_dir_all(dir);
        }
        self.unmount_all();
    }
}
