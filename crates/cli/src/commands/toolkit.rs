//! `toolkit test`: what the author of a toolkit runs. Needs no daemon.

use std::fs::DirBuilder;
use std::io::BufRead;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, Subcommand};
use pando_engine::toolkit::kit::{self, Check, Options};
use pando_host::Account;
use pando_host::clock::random;
use pando_model::{EngineKind, ErrorKind, SourceUrl};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::errors::{Done, Error};
use crate::output;

/// Arguments of `toolkit`.
#[derive(Debug, Args)]
pub struct ToolkitArgs {
    #[command(subcommand)]
    command: ToolkitCommand,
}

/// What is done with a toolkit.
#[derive(Debug, Subcommand)]
enum ToolkitCommand {
    /// Test a toolkit against a production of yours, promise by promise (exit code 1 when one does not hold)
    ///
    /// Runs the whole life of a source in a directory of its own, without a daemon: questions right and wrong,
    /// copies that are made, repeated and killed, servers that are started, entered and stopped. The production is
    /// only read. What a toolkit has to promise is in docs/toolkit.
    Test(TestArgs),
}

/// Arguments of `toolkit test`.
#[derive(Debug, Args)]
struct TestArgs {
    /// The toolkit's executable
    path: PathBuf,
    /// A production to test with: toolkit+NAME://user:password@host:port/path; `-` reads it from stdin, so that its
    /// password shows in no process list. Without one only questions and answers are tested
    #[arg(value_name = "URL")]
    url: Option<String>,
    /// Seconds that each operation gets, instead of the usual time
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    limit: Option<u64>,
    /// Stop at the first promise that does not hold
    #[arg(long)]
    first: bool,
}

/// Does what is to be done with a toolkit.
pub fn toolkit(args: &ToolkitArgs, json: bool) -> Done {
    let ToolkitCommand::Test(args) = &args.command;
    let url = args.url.as_deref().map(|text| url(text, std::io::stdin().lock())).transpose()?;
    let path = std::path::absolute(&args.path)?;
    let (account, scratch) = (account()?, Scratch::make()?);
    let (seconds, first) = (args.limit, args.first);
    let (of, at, dir) = (url.clone(), path.clone(), scratch.0.clone());
    let work = move |stop: &AtomicBool| {
        let stop = Some(stop);
        let options = Options { path: &at, url: of.as_ref(), account, scratch: &dir, seconds, first, stop };
        kit::run(&options, &mut |check| {
            // Who does not read on gets no more; the exit code tells all the same.
            drop((!json).then(|| output::line(&shown(check))));
        })
    };
    let checks = unless_interrupted(&scratch.0, work)?;
    let failed = checks.iter().filter(|check| check.problem.is_some()).count();
    if json {
        output::json(&json!({ "toolkit": path, "passed": failed == 0, "checks": checks }))?;
    } else {
        let all = checks.len();
        let more = if url.is_none() { "; with a URL the rest is looked at, too" } else { "" };
        output::line(&format!("{} of {all} promises hold{more}", all - failed))?;
    }
    if failed == 0 { Ok(()) } else { Err(Error::Quiet(1)) }
}

/// What the kit found; nothing when somebody pressed Ctrl-C: then what it started is ended.
fn unless_interrupted(
    scratch: &Path,
    work: impl FnOnce(&AtomicBool) -> Vec<Check> + Send + 'static,
) -> Done<Vec<Check>> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let (mut term, mut hang_up) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
        let mut working = tokio::task::spawn_blocking(move || work(&told));
        let code = tokio::select! {
            found = &mut working => return found.map_err(|_| Error::new(ErrorKind::Failed, "the test kit broke down")),
            _ = tokio::signal::ctrl_c() => 130,
            _ = term.recv() => 143,
            _ = hang_up.recv() => 129,
        };
        stop.store(true, Ordering::Relaxed);
        // What it waits for ends now, and with that the last thing it looks at; what is left goes with `scratch`.
        if let Err(error) = kit::abandon(scratch) {
            output::note(&format!("{}: {error}", scratch.display()));
        }
        drop(tokio::time::timeout(Duration::from_secs(10), working).await);
        Err(Error::Quiet(code))
    });
    runtime.shutdown_background();
    outcome
}

fn shown(check: &Check) -> String {
    match &check.problem {
        None => format!("ok    {} ({} ms)", check.promise, check.millis),
        Some(problem) => format!("FAIL  {}\n      {problem}", check.promise),
    }
}

/// Reads a URL; what is wrong with it never repeats it.
fn url(text: &str, mut stdin: impl BufRead) -> Done<SourceUrl> {
    let mut line = String::new();
    if text == "-" {
        stdin.read_line(&mut line)?;
    } else {
        text.clone_into(&mut line);
    }
    let hint = "a URL looks like toolkit+etcd://user:password@127.0.0.1:2379";
    let read: SourceUrl = line.trim().parse().map_err(|error: pando_model::SourceUrlError| {
        Error::from(pando_model::Problem::from_error(ErrorKind::Usage, &error).hint(hint))
    })?;
    match read.engine {
        EngineKind::Toolkit => Ok(read),
        _ => Err(Error::usage(format!("{}:// is no toolkit's", read.scheme), hint)),
    }
}

/// Who runs it: as under a daemon, an unprivileged account when this is root.
fn account() -> Done<Option<Account>> {
    if !Account::is_root() {
        return Ok(None);
    }
    let named = |name| Account::named(name).map_err(Error::from);
    match named("pando")? {
        Some(account) => Ok(Some(account)),
        None => named("nobody"),
    }
}

/// A directory that is gone when this is. Its path is short, for sockets; other accounts may pass, not list.
struct Scratch(PathBuf);

impl Scratch {
    fn make() -> Done<Self> {
        let tag: String = random::<6>().iter().map(|byte| format!("{byte:02x}")).collect();
        let path = Path::new("/tmp").join(format!("pando-kit-{tag}"));
        DirBuilder::new().mode(0o711).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = kit::abandon(&self.0) {
            output::note(&format!("{} is left behind: {error}", self.0.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_read_from_stdin_too_and_never_repeated() {
        let typed = "toolkit+etcd://root:secret@h:1\n";
        assert_eq!(url("-", typed.as_bytes()).expect("read").password.as_deref(), Some("secret"));
        for bad in ["postgres://u:secret@h/db", "secret", "toolkit+a.b://u:secret@h"] {
            let error = url(bad, "".as_bytes()).expect_err("refused");
            assert_eq!(error.code(), 2);
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }
}
