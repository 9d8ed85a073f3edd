//! The demo's own directory and who plays in it: a daemon, a production server, after `--keep` also a writer. Here
//! they are started, noted, and taken away again.
//!
//! ```text
//! DIR/  demo.json (who plays)  home/ (the daemon's)  shop/ (production)  daemon.log
//! ```
//!
//! # Crash consistency
//! Whoever is started is noted in `demo.json` right after, by process id and start time, so that `--end DIR` can end
//! a demo that was killed. A process that was started but not noted yet is found by its working directory or its
//! arguments. The directory goes last: while it is there, `--end` can be repeated.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use pando_api::socket_path;
use pando_host::clock::random;
use pando_host::durable::{remove_tree_if_there, write_atomic};
use pando_host::process::{self, Process, ProcessId, wait_ended};
use pando_host::{Account, Clock, SystemClock, Tool, ToolCommand};
use pando_model::{ErrorKind, OperationState, Problem};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::hands::Hands;
use super::production::{Shop, failed};
use crate::errors::{Done, Error};
use crate::output;

const MARK: &str = "demo.json";
const PATIENCE: Duration = Duration::from_secs(60);

/// Who plays.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Actors {
    daemon: Option<ProcessId>,
    production: Option<ProcessId>,
    writer: Option<ProcessId>,
    shop: Option<Shop>,
}

/// One demo's directory and its processes.
pub struct Stage {
    /// The directory.
    pub dir: PathBuf,
    /// Speaks to the daemon.
    pub hands: Hands,
    actors: Actors,
    children: Vec<Child>,
}

impl Stage {
    /// Makes the directory below `under`.
    pub fn make(under: &Path) -> Done<Self> {
        let tag: String = random::<4>().iter().map(|byte| format!("{byte:02x}")).collect();
        let made = fs::canonicalize(under).and_then(|under| {
            let dir = under.join(format!("pando-demo-{tag}"));
            fs::create_dir(&dir)?;
            // Servers run as an account of their own when we are root: it must be able to pass.
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o711))?;
            Ok(dir)
        });
        let dir = made.map_err(|error| failed(format!("making a directory below {}", under.display()), error))?;
        let hands = Hands::of(&dir.join("home"))?;
        let stage = Self { dir, hands, actors: Actors::default(), children: Vec::new() };
        stage.note()?;
        Ok(stage)
    }

    /// One that is there already.
    pub fn open(dir: &Path) -> Done<Self> {
        let (dir, actors) = Self::noted(dir)?;
        Ok(Self { hands: Hands::of(&dir.join("home"))?, dir, actors, children: Vec::new() })
    }

    /// The shop of one that is there already.
    pub fn shop_of(dir: &Path) -> Done<Option<Shop>> {
        Ok(Self::noted(dir)?.1.shop)
    }

    fn noted(dir: &Path) -> Done<(PathBuf, Actors)> {
        let no_demo = |error| {
            let mut problem = Problem::new(ErrorKind::NotFound, format!("there is no demo in {}", dir.display()));
            problem.causes.push(error);
            Error::from(problem)
        };
        let dir = fs::canonicalize(dir).map_err(|error| no_demo(error.to_string()))?;
        let text = fs::read(dir.join(MARK)).map_err(|error| no_demo(format!("{MARK}: {error}")))?;
        let actors = serde_json::from_slice(&text).map_err(|error| no_demo(format!("{MARK}: {error}")))?;
        Ok((dir, actors))
    }

    /// The home of its daemon.
    pub fn home(&self) -> PathBuf {
        self.dir.join("home")
    }

    /// The shop, once it was opened.
    pub fn shop(&self) -> Option<&Shop> {
        self.actors.shop.as_ref()
    }

    fn note(&self) -> Done {
        let text = serde_json::to_vec_pretty(&self.actors)?;
        write_atomic(&self.dir.join(MARK), &text, 0o600).map_err(|error| failed("noting who plays", error))
    }

    fn pando(&self) -> Done<ToolCommand> {
        Ok(Tool::at(std::env::current_exe()?).command().inherit("PANDO_LOG"))
    }

    /// Starts this program once more, with its words in the daemon's log.
    fn start(&mut self, command: &ToolCommand) -> Done<ProcessId> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        let mut command = command.build();
        // A group of its own: Ctrl-C is for the demo, which ends it when its turn comes.
        let child = command.process_group(0).stdout(log.try_clone()?).stderr(log).spawn();
        let child = child.map_err(|error| failed("starting pando once more", error))?;
        let id = process::stat(child.id()).map(|stat| stat.id);
        self.children.push(child);
        id.ok_or_else(|| failed("starting pando once more", "it ended at once"))
    }

    fn log(&self) -> PathBuf {
        self.dir.join("daemon.log")
    }

    /// Starts the daemon and waits until it answers.
    pub fn start_daemon(&mut self) -> Done {
        let command = self.pando()?.args(["serve", "--listen", "127.0.0.1:0", "--home"]).arg(self.home());
        let id = self.start(&command)?;
        self.actors.daemon = Some(id);
        self.note()?;
        let end = SystemClock.instant() + PATIENCE;
        loop {
            match self.hands.ask(async |client| client.version().await) {
                Ok(_) => return Ok(()),
                Err(error @ Error::Quiet(_)) => return Err(error),
                Err(error) if process::find(id).is_none() || SystemClock.instant() > end => {
                    let said = fs::read_to_string(self.log()).unwrap_or_default();
                    output::note(&pando_host::tool::tail(&said, 1000));
                    return Err(error);
                }
                Err(_) => SystemClock.sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Makes production and starts it.
    pub fn open_shop(&mut self, bytes: u64) -> Done<Shop> {
        let account = account()?;
        let dir = self.dir.join("shop");
        fs::create_dir(&dir)?;
        let mut shop = Shop::make(&dir, account.as_ref())?;
        self.hands.go_on()?;
        let child = shop.serve(account.as_ref())?;
        self.actors.production = process::stat(child.id()).map(|stat| stat.id);
        self.children.push(child);
        self.note()?;
        shop.fill(bytes)?;
        self.actors.shop = Some(shop.clone());
        self.note()?;
        Ok(shop)
    }

    /// Lets a process of its own go on placing orders, for a demo that is kept.
    pub fn keep_writing(&mut self) -> Done {
        let command = self.pando()?.args(["demo", "--write"]).arg(&self.dir);
        self.actors.writer = Some(self.start(&command)?);
        self.note()
    }

    /// Warnings and errors that the daemon logged.
    pub fn alarms(&self) -> Vec<String> {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let alarm = |line: &&str| matches!(line.split_whitespace().nth(1), Some("WARN" | "ERROR"));
        text.lines().filter(alarm).map(str::to_owned).collect()
    }

    /// Ends everything and removes the directory. May be repeated.
    pub fn end(mut self) -> Done {
        self.hands.insist();
        signal(self.actors.writer, Signal::TERM)?;
        let removed = self.give_back();
        if let Err(error) = &removed {
            output::note("the daemon could not give back what it holds; its processes are ended the hard way:");
            error.tell(false);
        }
        signal(self.actors.daemon, Signal::TERM)?;
        // Immediate: its directory goes away anyway.
        signal(self.actors.production, Signal::QUIT)?;
        end_strays(&self.dir)?;
        for child in &mut self.children {
            let _ = child.wait();
        }
        let run = fs::canonicalize(self.home()).map(|home| pando_daemon::run_dir(&home));
        if let Ok(run) = run {
            remove_tree_if_there(&run).map_err(|error| failed(format!("removing {}", run.display()), error))?;
        }
        unmount(&self.dir)?;
        remove_tree_if_there(&self.dir).map_err(|error| failed(format!("removing {}", self.dir.display()), error))?;
        Ok(())
    }

    /// Removes clones and app through the daemon: it is the one that knows what belongs to them.
    fn give_back(&mut self) -> Done {
        if !self.home().exists() {
            return Ok(());
        }
        if self.actors.daemon.and_then(process::find).is_none() || !socket_path(&self.home()).exists() {
            self.start_daemon()?;
        }
        let hands = &self.hands;
        for operation in hands.ask(async |client| client.operations().await)? {
            if matches!(operation.state, OperationState::Running | OperationState::Undoing) {
                hands.wait_for(operation)?;
            }
        }
        let list = hands.ask(async |client| client.list().await)?;
        for clone in list.clones {
            patiently(|| hands.carry_out(async |client| client.remove(&clone.name).await))?;
        }
        for app in list.apps {
            patiently(|| hands.carry_out(async |client| client.unlink(&app.name).await))?;
        }
        Ok(())
    }
}

/// Tries again while it is refused: the daemon may be busy with what is to go, such as with a snapshot.
fn patiently<T>(mut attempt: impl FnMut() -> Done<T>) -> Done<T> {
    let end = SystemClock.instant() + PATIENCE;
    loop {
        match attempt() {
            Err(Error::Problem(problem)) if problem.kind == ErrorKind::Refused && SystemClock.instant() < end => {
                SystemClock.sleep(Duration::from_millis(100));
            }
            outcome => return outcome,
        }
    }
}

/// Who owns servers when we are root: the account that the daemon made for the same reason.
fn account() -> Done<Option<Account>> {
    if !Account::is_root() {
        return Ok(None);
    }
    let found =
        Account::named("pando").and_then(|found| found.map_or_else(|| Account::named("nobody"), |it| Ok(Some(it))));
    let found = found.map_err(|error| failed("reading /etc/passwd", error))?;
    match found {
        Some(account) => Ok(Some(account)),
        None => Err(failed("looking for an account that servers may run as", "there is neither pando nor nobody")),
    }
}

fn signal(actor: Option<ProcessId>, signal: Signal) -> Done {
    if let Some(process) = actor.and_then(Process::open) {
        process.signal(signal)?;
        if !wait_ended([&process], PATIENCE)? {
            process.signal(Signal::KILL)?;
            wait_ended([&process], PATIENCE)?;
        }
    }
    Ok(())
}

/// Kills the servers and their tools that still run in the directory; a shell of somebody who looks around stays.
fn end_strays(dir: &Path) -> Done {
    const OURS: [&str; 4] = ["postgres", "pg_receivewal", "pg_basebackup", "rsync"];
    let inside = |stat: &process::ProcessStat| {
        let pid = stat.id.pid;
        let program = process::program(pid).and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let named = String::from_utf8_lossy(&arguments).contains(&*dir.to_string_lossy());
        program.is_some_and(|program| OURS.contains(&program.as_str()))
            && (named || fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(dir)))
    };
    let strays: Vec<Process> =
        process::list()?.iter().filter(|stat| inside(stat)).filter_map(|stat| Process::open(stat.id)).collect();
    for stray in &strays {
        stray.signal(Signal::KILL)?;
    }
    wait_ended(&strays, PATIENCE)?;
    Ok(())
}

/// Unmounts what is mounted below the directory: the pool's image, whose loop device goes with it.
fn unmount(dir: &Path) -> Done {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let inside =
        mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|path| Path::new(path).starts_with(dir));
    for path in inside.collect::<Vec<_>>().into_iter().rev() {
        Tool::find("umount", "mount")?.command().arg("--").arg(path).run()?;
    }
    Ok(())
}
