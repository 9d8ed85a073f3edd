//! Processes of this machine, as /proc shows them.
//!
//! A process is known by its id *and* its start time: ids are given again, the pair is not (within one boot,
//! see [`boot_id`]). Signals and waits go through a pidfd where the kernel has them (5.3 and later), which
//! cannot hit a process that took the id over; elsewhere the start time is compared right before.
//!
//! A zombie counts as gone: it runs no instruction and holds no file. Who must reap it is its parent's matter.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, kill_process, pidfd_open, pidfd_send_signal, waitpid};
use serde::{Deserialize, Serialize};

use crate::clock::{Clock, SystemClock};

/// Once this process is about to end, whatever waits for an answer is given so long.
const GRACE: Duration = Duration::from_secs(2);
/// What is asked only then is given at least so long.
const LEAST: Duration = Duration::from_secs(1);

/// Since when this process is about to end. It is one of the process, as the signal is that says so.
static ENDING: OnceLock<Instant> = OnceLock::new();

/// This process is about to end: whoever waits for an answer from elsewhere gives up within some two seconds.
pub fn end_soon() {
    ENDING.get_or_init(|| SystemClock.instant());
}

/// Whether what has been waited for since `begun` is given up, because this process is about to end.
pub fn is_given_up(begun: Instant) -> bool {
    ENDING.get().is_some_and(|ending| SystemClock.instant() >= (*ending + GRACE).max(begun + LEAST))
}

/// One process, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessId {
    /// Its process id.
    pub pid: u32,
    /// When it started, in clock ticks since the boot.
    pub start: u64,
}

/// What `/proc/PID/stat` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessStat {
    /// Which process.
    pub id: ProcessId,
    /// Its parent's process id.
    pub parent: u32,
    /// Its session.
    pub session: u32,
    /// The kernel's letter for its state.
    pub state: u8,
    /// How many threads it has.
    pub threads: u32,
    /// Whether it is a thread of the kernel.
    pub kernel: bool,
}

impl ProcessStat {
    /// Whether it has ended. A first thread that left before the others is a zombie too, but not the process.
    pub fn has_ended(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x') && self.threads <= 1
    }

    /// Whether every thread of it is stopped (by SIGSTOP or a tracer) or has ended.
    pub fn stands_still(&self) -> bool {
        if self.threads <= 1 {
            return is_still(self.state);
        }
        let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", self.id.pid)) else { return true };
        tasks.flatten().all(|task| {
            let stat = fs::read(task.path().join("stat")).unwrap_or_default();
            parse(&stat).is_none_or(|stat| is_still(stat.state))
        })
    }
}

const fn is_still(state: u8) -> bool {
    matches!(state, b'T' | b't' | b'Z' | b'X' | b'x')
}

fn parse(line: &[u8]) -> Option<ProcessStat> {
    // The name stands in parentheses and may itself hold parentheses and blanks.
    let open = line.iter().position(|byte| *byte == b'(')?;
    let close = line.iter().rposition(|byte| *byte == b')')?;
    let pid = std::str::from_utf8(line.get(..open)?).ok()?.trim().parse().ok()?;
    let rest = std::str::from_utf8(line.get(close + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().take(20).collect();
    let flags: u64 = fields.get(6)?.parse().ok()?;
    Some(ProcessStat {
        id: ProcessId { pid, start: fields.get(19)?.parse().ok()? },
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().unwrap_or(0),
        state: *fields.first()?.as_bytes().first()?,
        threads: fields.get(17)?.parse().ok()?,
        kernel: flags & 0x0020_0000 != 0,
    })
}

/// Looks at one process; none when there is no such process.
pub fn stat(pid: u32) -> Option<ProcessStat> {
    parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Looks at a process that may have ended and left its id to another.
pub fn find(id: ProcessId) -> Option<ProcessStat> {
    stat(id.pid).filter(|stat| stat.id == id && !stat.has_ended())
}

/// All processes, zombies and kernel threads left out. What starts meanwhile may be missing.
pub fn list() -> io::Result<Vec<ProcessStat>> {
    let pids = fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(pids.filter_map(stat).filter(|stat| !stat.kernel && !stat.has_ended()).collect())
}

/// Whether this kernel lists the children of a process (most do), and lets us see those of process 1.
pub fn can_list_children() -> bool {
    fs::File::open("/proc/1/task/1/children").is_ok()
}

/// The children of a process, zombies included; none when it has ended. What it starts meanwhile may be missing.
pub fn children(pid: u32) -> BTreeSet<u32> {
    // A child that ends during a reading can hide the one after it; two equal readings hide nobody.
    let mut last = children_once(pid);
    for _ in 0..10 {
        let now = children_once(pid);
        if now == last {
            break;
        }
        last = &last | &now;
    }
    last
}

fn children_once(pid: u32) -> BTreeSet<u32> {
    // Each thread has its own list.
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// The environment a process was started with. Empty when it may not be read; anything else when the process
/// has written its title over it.
pub fn environment(pid: u32) -> Vec<Vec<u8>> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    bytes.split(|byte| *byte == 0).filter(|entry| !entry.is_empty()).map(<[u8]>::to_vec).collect()
}

/// The program a process runs; none when that may not be seen.
pub fn program(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// The files a process holds open, as far as they may be seen.
pub fn open_files(pid: u32) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
}

/// The directory that a process works in; none when it has ended, or may not be looked at.
pub fn directory(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// A text that is another after each boot of the machine.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// A hold on one process: signals and waits that cannot meet another one.
#[derive(Debug)]
pub struct Process {
    id: ProcessId,
    fd: Option<OwnedFd>,
}

impl Process {
    /// Takes hold of a process; none when it has ended.
    pub fn open(id: ProcessId) -> Option<Self> {
        // An old kernel, or too many open files: the start time is compared instead.
        let fd = to_pid(id.pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        // Looked at after the pidfd was opened, or it might be the next owner's.
        find(id).map(|_| Self { id, fd })
    }

    /// Which process.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Whether it has not ended.
    pub fn is_alive(&self) -> bool {
        find(self.id).is_some()
    }

    /// Sends a signal; that the process has ended is no error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let sent = match (&self.fd, to_pid(self.id.pid)) {
            (Some(fd), _) => pidfd_send_signal(fd, signal),
            (None, Some(pid)) if self.is_alive() => kill_process(pid, signal),
            (None, _) => Ok(()),
        };
        match sent {
            Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reaps it if it has ended and is this process's child (orphans come to whoever is process 1 of a
    /// container). Must not be called for a child that a `std::process::Child` owns.
    pub fn reap_orphan(&self) {
        if let Some(pid) = to_pid(self.id.pid) {
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}

fn to_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw)
}

/// Waits until all of these have ended, at most so long; answers whether they have.
pub fn wait_ended<'a>(processes: impl IntoIterator<Item = &'a Process>, span: Duration) -> io::Result<bool> {
    let clock = SystemClock;
    let deadline = clock.instant() + span;
    let (mut watched, mut polled): (Vec<&Process>, Vec<&Process>) =
        processes.into_iter().partition(|process| process.fd.is_some());
    let mut nap = Duration::from_millis(1);
    loop {
        polled.retain(|process| process.is_alive());
        if watched.is_empty() && polled.is_empty() {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(clock.instant());
        if left.is_zero() {
            return Ok(false);
        }
        let turn = if polled.is_empty() { left } else { left.min(nap) };
        nap = (nap * 2).min(Duration::from_millis(50));
        watched = wait_turn(watched, turn)?;
    }
}

fn wait_turn(watched: Vec<&Process>, turn: Duration) -> io::Result<Vec<&Process>> {
    let mut fds: Vec<PollFd<'_>> = watched
        .iter()
        .filter_map(|process| process.fd.as_ref())
        .map(|fd| PollFd::from_borrowed_fd(fd.as_fd(), PollFlags::IN))
        .collect();
    let timeout = Timespec::try_from(turn).map_err(io::Error::other)?;
    match poll(&mut fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let ended: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
    Ok(watched.into_iter().zip(ended).filter(|(_, ended)| !ended).map(|(process, _)| process).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Tool;

    proptest! {
        #[test]
        fn any_bytes_are_a_process_or_none(
            changes in proptest::collection::vec((0_usize..90, 0_usize..12, proptest::collection::vec(any::<u8>(), 0..6)), 0..4),
        ) {
            let mut line = b"42 (a) b (c) S 7 42 41 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 12345 1 2 3".to_vec();
            for (at, less, more) in changes {
                let at = at.min(line.len());
                line.splice(at..(at + less).min(line.len()), more);
            }
            if let Some(stat) = parse(&line) {
                let _ = (stat.has_ended(), is_still(stat.state));
                let name = line.iter().position(|byte| *byte == b'(').unwrap_or_default();
                let pid = String::from_utf8_lossy(&line[..name]).trim().parse::<u32>();
                prop_assert_eq!(pid, Ok(stat.id.pid));
            }
        }
    }

    #[test]
    fn a_name_may_hold_parentheses_and_blanks() {
        let line = b"42 (a) b (c) S 7 42 41 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 12345 1 2 3";
        let stat = parse(line).expect("a stat line");
        assert_eq!(stat.id, ProcessId { pid: 42, start: 12345 });
        assert_eq!((stat.parent, stat.session, stat.state, stat.threads), (7, 41, b'S', 3));
        assert!(parse(b"").is_none() && parse(b"1 (x) S").is_none() && parse(b")(").is_none());
    }

    #[test]
    fn a_process_is_held_signalled_and_seen_ending() -> Result<(), Box<dyn std::error::Error>> {
        let mut child = Tool::find("sleep", "coreutils")?.command().arg("600").env("MARK", "x").build().spawn()?;
        let id = stat(child.id()).ok_or("no stat")?.id;
        let process = Process::open(id).ok_or("it runs")?;
        assert!(list()?.iter().any(|stat| stat.id == id));
        assert!(children(std::process::id()).contains(&id.pid) || !can_list_children());
        // The kernel lets a starter go on a moment before it shows the environment of what was started.
        assert!(!wait_ended([&process], Duration::from_millis(200))?);
        assert!(environment(id.pid).contains(&b"MARK=x".to_vec()));
        assert!(Process::open(ProcessId { start: id.start + 1, ..id }).is_none());
        process.signal(Signal::KILL)?;
        assert!(wait_ended([&process], Duration::from_secs(10))?);
        assert!(!process.is_alive(), "a zombie is gone");
        child.wait()?;
        process.signal(Signal::KILL)?;
        assert!(Process::open(id).is_none());
        Ok(())
    }

    #[test]
    fn without_pidfd_the_start_time_is_compared() -> Result<(), Box<dyn std::error::Error>> {
        let mut child = Tool::find("sleep", "coreutils")?.command().arg("600").build().spawn()?;
        let id = stat(child.id()).ok_or("no stat")?.id;
        let stranger = Process { id: ProcessId { start: id.start + 1, ..id }, fd: None };
        stranger.signal(Signal::KILL)?;
        let process = Process { id, fd: None };
        assert!(!wait_ended([&process], Duration::from_millis(20))?, "it was not hit");
        process.signal(Signal::KILL)?;
        assert!(wait_ended([&process, &stranger], Duration::from_secs(10))?);
        child.wait()?;
        Ok(())
    }
}
