//! Which processes of this machine belong to a unit.
//!
//! Found out with PostgreSQL 15 on Linux 6.18:
//! - The postmaster keeps its environment readable. Its children overwrite theirs with zeros when they set
//!   their title, so `PANDO_UNIT` cannot be read from them, whatever `update_process_title` says.
//! - Every child calls setsid: a backend is its own session and process group. Signals to a group and looks
//!   at sessions miss them all; only the parent's id ties them to the postmaster.
//! - When the postmaster is killed, the children are handed to process 1 (or to a subreaper) and end by
//!   themselves within milliseconds, except one that is stopped or busy. Where process 1 reaps nobody (a
//!   container without an init) they stay zombies for ever, and so does an adopted postmaster. A zombie
//!   answers to `kill(pid, 0)`, so a new server refuses a data directory whose `postmaster.pid` names it (see `locks`).
//!
//! So a process belongs to a unit when one of these holds:
//! 1. it is the first process of the record (same id, same start time, same boot);
//! 2. its environment names unit and home;
//! 3. it holds the unit's log open (everything inherits a descriptor of it, see `session`);
//! 4. its parent belongs to the unit;
//! 5. it belonged to the unit when this operation last looked (its parent may have died since).
//!
//! Looking for 3 reads every descriptor of a process, so it is done only for orphans whose environment is
//! nearly empty or overwritten: everything else has a parent or an environment that answers. What escapes is
//! a process that lost its parent, cleared its environment and closed all inherited files, all three before
//! the operation began.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use pando_host::process::{self, Process, ProcessId, ProcessStat};
use pando_model::UnitId;

use super::session::{HOME, UNIT};

/// Where a home's marks point.
#[derive(Clone, Copy)]
pub struct Marks<'a> {
    /// The home, as it stands in `PANDO_HOME`.
    pub home: &'a Path,
    /// The directory of the units' logs.
    pub units: &'a Path,
}

/// Processes at one glance: all of them, or those around one unit.
pub struct Census {
    processes: BTreeMap<ProcessId, ProcessStat>,
    by_pid: HashMap<u32, ProcessId>,
}

impl Census {
    /// Looks at all processes. Costs some 20 µs for each that runs on the machine, whosoever it is.
    pub fn take() -> io::Result<Self> {
        let mut census = Self { processes: BTreeMap::new(), by_pid: HashMap::new() };
        process::list()?.into_iter().for_each(|stat| census.add(stat));
        Ok(census)
    }

    /// Looks at one unit: where orphans go, at those among them that carry its mark, at `seeds`, and at
    /// whoever stems from these. Answers the seeds with those orphans. An orphan that is older than the
    /// unit's first process (`since`) is passed over. Where children cannot be listed (not `nearby`) it must
    /// look at all processes.
    pub fn of_unit(
        unit: &UnitId,
        mut seeds: BTreeSet<ProcessId>,
        since: Option<u64>,
        marks: Marks<'_>,
        nearby: bool,
    ) -> io::Result<(Self, BTreeSet<ProcessId>)> {
        let mut census = if nearby { Self::of_own_line() } else { Self::take()? };
        let young = |stat: &&ProcessStat| since.is_none_or(|since| stat.id.start >= since);
        let ours = census.own_line();
        let orphans = census.processes.values().filter(|stat| ours.contains(&stat.parent)).filter(young);
        let marked: Vec<_> = orphans.filter(|stat| mark_of(stat, &ours, marks).as_ref() == Some(unit)).collect();
        seeds.extend(marked.into_iter().map(|stat| stat.id));
        if nearby {
            census.descend(&seeds);
        }
        Ok((census, seeds))
    }

    /// Looks at whoever stems from these.
    fn below(seeds: &BTreeSet<ProcessId>) -> io::Result<Self> {
        if !process::can_list_children() {
            return Self::take();
        }
        let mut census = Self { processes: BTreeMap::new(), by_pid: HashMap::new() };
        census.descend(seeds);
        Ok(census)
    }

    /// We, our ancestors, process 1, and the children of all these.
    fn of_own_line() -> Self {
        let mut census = Self { processes: BTreeMap::new(), by_pid: HashMap::new() };
        let line = std::iter::successors(process::stat(std::process::id()), |stat| process::stat(stat.parent));
        line.chain(process::stat(1)).for_each(|stat| census.add(stat));
        census.own_line().into_iter().for_each(|pid| {
            census.add_children(pid);
        });
        census
    }

    fn descend(&mut self, seeds: &BTreeSet<ProcessId>) {
        let mut open: Vec<ProcessId> = seeds.iter().copied().collect();
        let mut done = BTreeSet::new();
        while let Some(id) = open.pop() {
            if let Some(stat) = process::find(id).filter(|_| done.insert(id)) {
                self.add(stat);
                open.extend(self.add_children(id.pid));
            }
        }
    }

    fn add(&mut self, stat: ProcessStat) {
        self.by_pid.insert(stat.id.pid, stat.id);
        self.processes.insert(stat.id, stat);
    }

    fn add_children(&mut self, pid: u32) -> Vec<ProcessId> {
        let children = process::children(pid).into_iter().filter_map(process::stat);
        let children: Vec<_> = children.filter(|stat| !stat.kernel && !stat.has_ended()).collect();
        children.iter().for_each(|stat| self.add(*stat));
        children.into_iter().map(|stat| stat.id).collect()
    }

    /// The processes that stem from these, these included; only those that live.
    pub fn family(&self, seeds: &BTreeSet<ProcessId>) -> BTreeMap<ProcessId, ProcessStat> {
        let belongs = |stat: &&ProcessStat| self.line(stat).any(|ancestor| seeds.contains(&ancestor.id));
        self.processes.values().filter(belongs).map(|stat| (stat.id, *stat)).collect()
    }

    /// How many ancestors a process has: parents have fewer than their children.
    pub fn depth(&self, stat: &ProcessStat) -> usize {
        self.line(stat).count()
    }

    /// Every process that carries the mark of a unit itself.
    pub fn marked(&self, marks: Marks<'_>) -> Vec<(UnitId, ProcessId)> {
        let ours = self.own_line();
        self.processes.values().filter_map(|stat| Some((mark_of(stat, &ours, marks)?, stat.id))).collect()
    }

    /// Where orphans go: to process 1, to an ancestor of ours that is a subreaper, to us, or out of sight.
    fn own_line(&self) -> BTreeSet<u32> {
        let own = self.by_pid.get(&std::process::id()).and_then(|id| self.processes.get(id));
        let line = own.into_iter().flat_map(|stat| self.line(stat)).map(|stat| stat.id.pid);
        line.chain([0, 1, std::process::id()]).collect()
    }

    /// A process, its parent, and so on.
    fn line<'a>(&'a self, stat: &'a ProcessStat) -> impl Iterator<Item = &'a ProcessStat> {
        let parent = |stat: &&'a ProcessStat| {
            let parent = self.processes.get(self.by_pid.get(&stat.parent)?)?;
            // Seen at different instants, a reused id could close a circle: a parent is never younger.
            (parent.id.start <= stat.id.start && parent.id.pid != stat.id.pid).then_some(parent)
        };
        std::iter::successors(Some(stat), parent).take(1000)
    }
}

/// The unit whose mark a process carries; `ours` is where orphans go.
fn mark_of(stat: &ProcessStat, ours: &BTreeSet<u32>, marks: Marks<'_>) -> Option<UnitId> {
    if stat.id.pid == std::process::id() {
        return None;
    }
    let environment = process::environment(stat.id.pid);
    named(&environment, marks.home).or_else(|| {
        let orphan = ours.contains(&stat.parent) && is_bare(&environment) && !is_fork_of_ours(stat);
        if orphan { holding(stat.id.pid, marks.units) } else { None }
    })
}

/// Fewer variables than any unit gets: cleared, or overwritten (with zeros, or with the end of a long title).
fn is_bare(environment: &[Vec<u8>]) -> bool {
    environment.iter().filter(|entry| entry.contains(&b'=')).count() < 3
}

/// Between fork and exec a child of ours still holds whatever we hold, logs of other units among them.
fn is_fork_of_ours(stat: &ProcessStat) -> bool {
    stat.parent == std::process::id() && process::program(stat.id.pid) == process::program(stat.parent)
}

fn named(environment: &[Vec<u8>], home: &Path) -> Option<UnitId> {
    let value = |name: &str| {
        environment
            .iter()
            .find_map(|entry| entry.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(b"=")))
    };
    if value(HOME)? != home.as_os_str().as_bytes() {
        return None;
    }
    std::str::from_utf8(value(UNIT)?).ok()?.parse().ok()
}

fn holding(pid: u32, units: &Path) -> Option<UnitId> {
    process::open_files(pid).into_iter().find_map(|file| {
        let below = file.strip_prefix(units).ok()?.to_str()?.to_owned();
        let (unit, name) = below.split_once('/')?;
        // A log that was removed reads "log (deleted)".
        name.starts_with("log").then(|| unit.parse().ok())?
    })
}

/// The processes of one unit while something is done to them. What was once seen stays known.
pub struct Crowd {
    known: BTreeMap<ProcessId, Process>,
    alive: Vec<ProcessStat>,
}

impl Crowd {
    /// Nobody yet.
    pub fn new() -> Self {
        Self { known: BTreeMap::new(), alive: Vec::new() }
    }

    /// Looks again: forgets who ended, takes in who came. Parents stand before their children.
    pub fn look(&mut self, unit: &UnitId, first: Option<ProcessId>, marks: Marks<'_>) -> io::Result<()> {
        let seeds = self.known.keys().copied().chain(first).collect();
        let (census, seeds) =
            Census::of_unit(unit, seeds, first.map(|first| first.start), marks, process::can_list_children())?;
        self.take_in(&census, &seeds);
        Ok(())
    }

    /// The same of all that stem from one process, of which nothing else is known.
    pub fn look_below(&mut self, first: ProcessId) -> io::Result<()> {
        let seeds = self.known.keys().copied().chain([first]).collect();
        let census = Census::below(&seeds)?;
        self.take_in(&census, &seeds);
        Ok(())
    }

    fn take_in(&mut self, census: &Census, seeds: &BTreeSet<ProcessId>) {
        let family = census.family(seeds);
        self.known.retain(|id, _| family.contains_key(id));
        for id in family.keys().filter(|id| !self.known.contains_key(id)).copied().collect::<Vec<_>>() {
            self.known.extend(Process::open(id).map(|process| (id, process)));
        }
        self.alive = family.into_values().filter(|stat| self.known.contains_key(&stat.id)).collect();
        self.alive.sort_by_key(|stat| (census.depth(stat), stat.id));
    }

    /// Who lived at the last look, parents first.
    pub fn alive(&self) -> &[ProcessStat] {
        &self.alive
    }

    /// The hold on one of them.
    pub fn process(&self, id: ProcessId) -> Option<&Process> {
        self.known.get(&id)
    }

    /// The holds on all of them, parents first.
    pub fn processes(&self) -> impl DoubleEndedIterator<Item = &Process> {
        self.alive.iter().filter_map(|stat| self.known.get(&stat.id))
    }
}
