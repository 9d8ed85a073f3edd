//! Stops, pauses and resumes a crowd of processes.
//!
//! ```text
//!   stop:   ask the first process --grace--> ask what it left behind --grace--> SIGKILL to all, until none is left
//!   pause:  SIGSTOP, parents first, again and again until two looks in a row find all of them standing
//!   resume: SIGCONT, children first
//! ```
//!
//! A stopped parent can start no more children, hence parents first. A process is seen standing at one
//! instant each; only when a whole look that *began* after all stood finds nobody new, nobody is missing.

use std::io;
use std::time::{Duration, Instant};

use pando_host::process::{Process, ProcessId, ProcessStat, find, wait_ended};
use pando_host::{Clock, SystemClock};
use rustix::process::Signal;

use super::census::Crowd;
use crate::StopSignal;

/// How long SIGKILL may take. Beyond it a process hangs in the kernel and nothing helps but its device.
const KILL_WITHIN: Duration = Duration::from_secs(30);
/// How long a pause may take: a process in a long disk write stops when the write is done.
const PAUSE_WITHIN: Duration = Duration::from_secs(20);

/// Fills a crowd anew.
pub type Look<'a> = &'a mut dyn FnMut(&mut Crowd) -> io::Result<()>;

const fn signal_of(signal: StopSignal) -> Signal {
    match signal {
        StopSignal::Term => Signal::TERM,
        StopSignal::Int => Signal::INT,
        StopSignal::Quit => Signal::QUIT,
        StopSignal::Kill => Signal::KILL,
    }
}

/// Ends all of a crowd; answers whether none is left.
pub fn stop(
    crowd: &mut Crowd,
    look: Look<'_>,
    first: Option<ProcessId>,
    signal: StopSignal,
    grace: Duration,
) -> io::Result<bool> {
    if signal != StopSignal::Kill {
        ask(crowd, look, first, signal_of(signal), SystemClock.instant() + grace)?;
    }
    let deadline = SystemClock.instant() + KILL_WITHIN;
    while !crowd.alive().is_empty() {
        if SystemClock.instant() >= deadline {
            return Ok(false);
        }
        send(crowd.processes(), Signal::KILL)?;
        wait_ended(crowd.processes(), Duration::from_secs(1))?;
        crowd.processes().filter(|process| Some(process.id()) != first).for_each(Process::reap_orphan);
        look(crowd)?;
    }
    Ok(true)
}

/// Asks, and waits until nobody is left or the deadline has passed.
fn ask(
    crowd: &mut Crowd,
    look: Look<'_>,
    first: Option<ProcessId>,
    signal: Signal,
    deadline: Instant,
) -> io::Result<()> {
    let left = || deadline.saturating_duration_since(SystemClock.instant());
    if let Some(process) = first.and_then(|id| crowd.process(id)) {
        process.signal(signal)?;
        wake(crowd)?;
        if !wait_ended([process], left())? {
            return look(crowd);
        }
        look(crowd)?;
        if crowd.alive().is_empty() {
            return Ok(());
        }
    }
    // These have lost the one who would have told them, and may not know what its signal means.
    send(crowd.processes(), Signal::TERM)?;
    wake(crowd)?;
    wait_ended(crowd.processes(), left())?;
    crowd.processes().filter(|process| Some(process.id()) != first).for_each(Process::reap_orphan);
    look(crowd)
}

fn send<'a>(processes: impl Iterator<Item = &'a Process>, signal: Signal) -> io::Result<()> {
    processes.into_iter().try_for_each(|process| process.signal(signal))
}

/// Lets everybody go on, children first, so that a parent finds its children going.
pub fn wake(crowd: &Crowd) -> io::Result<()> {
    send(crowd.processes().rev(), Signal::CONT)
}

/// Stops, or lets go on, all that stem from a process that is not of our making: the first one of a container.
pub fn hold(first: u32, hold: bool) -> io::Result<()> {
    let Some(first) = pando_host::process::stat(first).map(|stat| stat.id) else { return Ok(()) };
    let mut crowd = Crowd::new();
    let mut look = |crowd: &mut Crowd| crowd.look_below(first);
    look(&mut crowd)?;
    if hold { pause(&mut crowd, &mut look) } else { wake(&crowd) }
}

/// Stops everybody where they are. Whoever was stopped goes on again when this fails.
pub fn pause(crowd: &mut Crowd, look: Look<'_>) -> io::Result<()> {
    let outcome = stand(crowd, look);
    if outcome.is_err() {
        wake(crowd)?;
    }
    outcome
}

fn stand(crowd: &mut Crowd, look: Look<'_>) -> io::Result<()> {
    let deadline = SystemClock.instant() + PAUSE_WITHIN;
    let mut nap = Duration::from_micros(100);
    let mut stood = false;
    loop {
        let moving: Vec<ProcessId> = crowd.alive().iter().filter(|s| !s.stands_still()).map(|s| s.id).collect();
        if moving.is_empty() && stood {
            return Ok(());
        }
        stood = moving.is_empty();
        if !stood {
            if SystemClock.instant() >= deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "a process does not stop"));
            }
            send(moving.iter().filter_map(|id| crowd.process(*id)), Signal::STOP)?;
            SystemClock.sleep(nap);
            nap = (nap * 2).min(Duration::from_millis(5));
            stood = crowd.alive().iter().all(|old| find(old.id).is_none_or(|now| now.stands_still()));
            if !stood {
                release_vfork(crowd, nap)?;
            }
        }
        look(crowd)?;
    }
}

/// After vfork the parent cannot stop before its child has called exec, and a stopped child never will:
/// such a child is let go for a moment. (The C library's `system` does this, and so each `restore_command`.)
fn release_vfork(crowd: &Crowd, nap: Duration) -> io::Result<()> {
    let now: Vec<ProcessStat> = crowd.alive().iter().filter_map(|old| find(old.id)).collect();
    let waits = |pid: u32| now.iter().any(|stat| stat.id.pid == pid && stat.state == b'D');
    let held: Vec<&ProcessStat> = now.iter().filter(|stat| stat.stands_still() && waits(stat.parent)).collect();
    if held.is_empty() {
        return Ok(());
    }
    send(held.iter().filter_map(|stat| crowd.process(stat.id)), Signal::CONT)?;
    SystemClock.sleep(nap);
    Ok(())
}
