//! Foreign programs that are not trusted to end, or to be brief: run with a text on their stdin, a time limit
//! and a limit to what they print. They get a process group of their own, which ends with them: whatever they
//! left running in it is killed. A process that made itself a session of its own escapes that, but not the
//! limits: nobody waits for it.
//!
//! Once this process is about to end, nobody waits for such a program much longer either: see [`crate::process::end_soon`].

use std::io::{Read, Write};
#[allow(clippy::disallowed_types, reason = "children of commands that host::Tool built")]
use std::process::{Child, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use std::os::unix::process::CommandExt;

use rustix::process::{Pid, Signal, kill_process_group};

use crate::clock::{Clock, SystemClock};
use crate::process::{Process, is_given_up, stat, wait_ended};
use crate::tool::{Finished, ToolCommand, ToolError, tail};

/// After a program ended, what it printed is waited for so long: a process that escaped may hold the pipe.
const REST: Duration = Duration::from_secs(2);
/// How often it is looked whether this process is about to end.
const TURN: Duration = Duration::from_millis(100);
/// How much of stderr is kept.
const STDERR: usize = 2000;

/// What a program is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Time to end.
    pub time: Duration,
    /// Bytes on stdout.
    pub output: usize,
}

/// How a program was waited for.
enum Waited {
    Ended,
    Late,
    GivenUp,
}

impl ToolCommand {
    /// Runs it to its end within bounds, with `input` on its stdin, or what else it was given there.
    ///
    /// # Errors
    /// As [`ToolCommand::run`]; [`ToolError::Late`] and [`ToolError::Flood`] when it went over its bounds;
    /// [`ToolError::GivenUp`] when this process is about to end.
    pub fn run_bounded(&self, input: &[u8], bounds: Bounds) -> Result<Finished, ToolError> {
        let start = |source| ToolError::Start { program: self.program().to_owned(), source };
        let name = self.program().file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut command = self.build();
        if !input.is_empty() {
            command.stdin(Stdio::piped());
        }
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(start)?;
        let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        feed(&mut child, input);
        let limit = bounds.output;
        let stdout = child.stdout.take().map(|pipe| collect(pipe, limit, true));
        let stderr = child.stderr.take().map(|pipe| collect(pipe, STDERR, false));
        let waited = wait(&child, bounds.time).map_err(start)?;
        // The first process is not reaped yet, so the number is still its group's.
        if let Some(group) = group {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let (stdout, over) = gathered(stdout);
        let (stderr, _) = gathered(stderr);
        let status = child.wait().map_err(start)?;
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        if over {
            return Err(ToolError::Flood { program: name, limit });
        }
        match waited {
            Waited::Ended => {}
            Waited::Late => return Err(ToolError::Late { program: name, seconds: bounds.time.as_secs() }),
            Waited::GivenUp => return Err(ToolError::GivenUp { program: name }),
        }
        if !status.success() {
            return Err(ToolError::Failed { program: name, status: status.to_string(), stderr: tail(&stderr, STDERR) });
        }
        Ok(Finished { stdout, stderr })
    }
}

#[allow(clippy::disallowed_types, reason = "a child of a command that host::Tool built")]
fn feed(child: &mut Child, input: &[u8]) {
    if let Some(mut pipe) = child.stdin.take() {
        let input = input.to_vec();
        // One that does not read its stdin closes it at its end: no error.
        thread::spawn(move || drop(pipe.write_all(&input)));
    }
}

#[allow(clippy::disallowed_types, reason = "a child of a command that host::Tool built")]
fn wait(child: &Child, time: Duration) -> std::io::Result<Waited> {
    // Not reaped yet, so /proc shows it even when it has ended already.
    let Some(process) = stat(child.id()).and_then(|stat| Process::open(stat.id)) else { return Ok(Waited::Ended) };
    let begun = SystemClock.instant();
    loop {
        let left = time.saturating_sub(begun.elapsed());
        if wait_ended([&process], left.min(TURN))? {
            return Ok(Waited::Ended);
        }
        if left.is_zero() {
            return Ok(Waited::Late);
        }
        if is_given_up(begun) {
            return Ok(Waited::GivenUp);
        }
    }
}

/// Reads a pipe to its end and keeps the first or the last bytes of it; says whether there were more.
fn collect(mut pipe: impl Read + Send + 'static, limit: usize, first: bool) -> Receiver<(Vec<u8>, bool)> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut kept = Vec::new();
        let mut over = false;
        let mut buffer = [0; 8192];
        while let Ok(read @ 1..) = pipe.read(&mut buffer) {
            kept.extend_from_slice(buffer.get(..read).unwrap_or_default());
            if kept.len() > limit {
                over = true;
                if first {
                    break;
                }
                kept.drain(..kept.len() - limit);
            }
        }
        // Closed here: a program that goes on printing is told so, and ends.
        drop(pipe);
        let _ = send.send((kept, over));
    });
    receive
}

fn gathered(receive: Option<Receiver<(Vec<u8>, bool)>>) -> (Vec<u8>, bool) {
    receive.and_then(|receive| receive.recv_timeout(REST).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tool;
    use crate::process::end_soon;

    const BOUNDS: Bounds = Bounds { time: Duration::from_secs(20), output: 1000 };

    fn tool(name: &str) -> ToolCommand {
        Tool::find(name, "coreutils").expect("a program of every system").command()
    }

    #[test]
    fn what_goes_in_comes_out() -> Result<(), ToolError> {
        assert_eq!(tool("cat").run_bounded(b"{}\n", BOUNDS)?.stdout, b"{}\n");
        // More than a pipe holds, to a program that does not read.
        assert!(tool("true").run_bounded(&vec![0; 1 << 20], BOUNDS).is_ok());
        let failed = tool("ls").arg("/no/such").run_bounded(b"", BOUNDS);
        assert!(matches!(failed, Err(ToolError::Failed { stderr, .. }) if stderr.contains("No such file")));
        Ok(())
    }

    #[test]
    fn one_that_does_not_end_is_killed_with_its_children() {
        let clock = SystemClock;
        let begun = clock.instant();
        let short = Bounds { time: Duration::from_millis(300), ..BOUNDS };
        // `timeout` stays the parent of the sleep and would wait for it.
        let late = tool("timeout").args(["--foreground", "31.7", "sleep", "31.7"]).run_bounded(b"", short);
        assert!(matches!(late, Err(ToolError::Late { .. })), "{late:?}");
        assert!(begun.elapsed() < Duration::from_secs(10));
        let left = crate::process::list().expect("the processes").into_iter().any(|one| {
            std::fs::read(format!("/proc/{}/cmdline", one.id.pid)).is_ok_and(|line| line == b"sleep\x0031.7\x00")
                && one.state != b'Z'
        });
        assert!(!left, "the child of a late program goes on");
    }

    #[test]
    fn once_the_process_is_about_to_end_nobody_waits_much_longer() {
        let begun = SystemClock.instant();
        let asked = thread::spawn(|| tool("sleep").arg("31.8").run_bounded(b"", BOUNDS));
        end_soon();
        let given_up = asked.join().expect("it did not panic");
        assert!(matches!(given_up, Err(ToolError::GivenUp { .. })), "{given_up:?}");
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(10), "{took:?}");
        // What answers is heard, also then.
        assert!(tool("sleep").arg("0.1").run_bounded(b"", BOUNDS).is_ok());
        let begun = SystemClock.instant();
        assert!(tool("sleep").arg("31.8").run_bounded(b"", BOUNDS).is_err());
        assert!(begun.elapsed() >= Duration::from_secs(1) && begun.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn one_that_prints_without_end_is_stopped() {
        let flood = tool("yes").run_bounded(b"", BOUNDS);
        assert!(matches!(flood, Err(ToolError::Flood { limit: 1000, .. })), "{flood:?}");
    }
}
