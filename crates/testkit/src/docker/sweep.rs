//! The numbered places where engines live, and how one is taken away by its place alone: its processes, mounts,
//! bridges and control groups, also of an engine whose test was killed.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal, kill_process};

use crate::loopfs::unmount;
use crate::{tools, wait_until};

/// Short, for sockets.
const PLACES: &str = "/tmp/pando-dk";
/// As many ranges of addresses as there are places: 10.64 to 10.191.
const HOW_MANY: u8 = 128;

/// A directory and a range of addresses for one engine, held by the lock on a file beside the directory.
#[derive(Debug)]
pub struct Place {
    number: u8,
    dir: PathBuf,
    _lock: File,
}

impl Place {
    /// Takes the first free place and clears away what a killed test left, there and in all others.
    ///
    /// # Panics
    /// When a file cannot be made, or all places are taken.
    pub fn take() -> Self {
        fs::create_dir_all(PLACES).expect("making the directory of all test engines");
        let first = (0..HOW_MANY).find_map(Self::lock).expect("a free place for an engine");
        let others = (0..HOW_MANY).filter(|number| *number != first.number && Self::dir_of(*number).exists());
        others.filter_map(Self::lock).for_each(|abandoned| abandoned.clear());
        first.clear();
        fs::create_dir(&first.dir).expect("making an engine's directory");
        // A machine's own engine lets nothing be forwarded, also between two ports of a bridge, but to its own networks.
        first.let_pass("--insert");
        first
    }

    fn dir_of(number: u8) -> PathBuf {
        Path::new(PLACES).join(number.to_string())
    }

    fn lock(number: u8) -> Option<Self> {
        let dir = Self::dir_of(number);
        let lock = File::create(dir.with_extension("lock")).expect("making an engine's lock");
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()?;
        Some(Self { number, dir, _lock: lock })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The first two numbers of all addresses: engines do not meet, and bridges can be told apart.
    pub fn addresses(&self) -> String {
        format!("10.{}", 64 + self.number)
    }

    /// The control group above all containers.
    pub fn group(&self) -> String {
        format!("pando-dk-{}", self.number)
    }

    /// Adds or deletes the packet filter's rule that containers of this engine reach each other. Whether it did: not
    /// where there is no filter, nor where the rule is not there.
    fn let_pass(&self, change: &str) -> bool {
        let all = format!("{}.0.0/16", self.addresses());
        let rule = ["--wait", change, "FORWARD", "--source", &all, "--destination", &all, "--jump", "ACCEPT"];
        tools::find("iptables").is_some_and(|iptables| tools::output(&iptables, &rule).status.success())
    }

    /// Takes away whatever is there.
    pub fn clear(&self) {
        if !self.dir.exists() {
            return;
        }
        wait_until(Duration::from_secs(20), || {
            let left = processes(&self.dir);
            // Children before their parents, which bury them: nobody else might.
            let parents: BTreeSet<i32> = left.iter().filter_map(|pid| parent(*pid)).collect();
            for pid in left.difference(&parents).filter_map(|pid| Pid::from_raw(*pid)) {
                let _ = kill_process(pid, Signal::KILL);
            }
            left.is_empty()
        });
        self.wake_nobody();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        for point in points.filter(|point| point.starts_with(&self.dir)).collect::<Vec<_>>().into_iter().rev() {
            unmount(&point);
        }
        remove_bridges(&format!("{}.", self.addresses()));
        while self.let_pass("--delete") {}
        // One hierarchy (v2), or one for each controller (v1).
        remove_groups(&Path::new("/sys/fs/cgroup").join(self.group()));
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            remove_groups(&hierarchy.path().join(self.group()));
        }
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("{} is not removed: {error}", self.dir.display());
        }
    }
}

impl Place {
    /// Ends the process that holds a rootless Podman's namespaces: it names nothing of the place.
    fn wake_nobody(&self) {
        let Ok(text) = fs::read_to_string(self.dir.join("user/tmp/pause.pid")) else { return };
        let pid: Option<i32> = text.trim().parse().ok();
        let is_it = |pid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|name| ["catatonit", "podman"].contains(&name.trim()))
        };
        if let Some(pid) = pid.filter(is_it).and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// The processes of an engine: whoever names its directory among its arguments, and all that stem from these.
fn processes(dir: &Path) -> BTreeSet<i32> {
    let inside = format!("{}/", dir.display());
    let pids: Vec<i32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    let named = |pid: &i32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let program = words.split(|byte| *byte == 0).next().unwrap_or_default();
        // Not the test itself, nor a shell that somebody uses to look at it.
        let engine = ["dockerd", "containerd", "setpriv", "podman", "conmon", "runc", "crun"]
            .iter()
            .any(|name| String::from_utf8_lossy(program).rsplit('/').next().is_some_and(|p| p.starts_with(name)));
        engine && String::from_utf8_lossy(&words).contains(&inside)
    };
    let mut found: BTreeSet<i32> = pids.iter().copied().filter(named).collect();
    loop {
        let before = found.len();
        let child = |pid: &&i32| parent(**pid).is_some_and(|parent| found.contains(&parent));
        let more: Vec<i32> = pids.iter().filter(child).copied().collect();
        found.extend(more);
        if found.len() == before {
            return found;
        }
    }
}

/// Whether a process is there and no zombie.
pub fn lives(pid: i32) -> bool {
    parent(pid).is_some()
}

/// The parent of a process that has not ended.
fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit(')').next()?.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.next()?.parse().ok()
}

fn remove_bridges(addresses: &str) {
    if tools::find("ip").is_none() {
        return;
    }
    let listed = tools::output(Path::new("ip"), &["-oneline", "-4", "address", "show"]);
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        let mut words = line.split_whitespace().skip(1);
        if let (Some(bridge), Some("inet"), Some(address)) = (words.next(), words.next(), words.next())
            && bridge.starts_with("br-")
            && address.starts_with(addresses)
        {
            tools::output(Path::new("ip"), &["link", "delete", bridge]);
        }
    }
}

fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}
