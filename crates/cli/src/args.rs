//! The command line as clap reads it, and what is said when it cannot be read. The words are pinned by the
//! design: scripts rely on them.

use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue, ErrorKind as ClapKind};
use clap::{Args, Parser, Subcommand};
use pando_model::{ErrorKind, Problem, SnapshotRequest};

use crate::commands::{
    adopt, apply, clone, compose, connect, generate, image, keep, link, look, serve, time, toolkit, travel,
};
use crate::demo::DemoArgs;
use crate::errors::{Done, Error};

/// Private, writable, full-size copies of a production application, in seconds
#[derive(Debug, Parser)]
#[command(name = "pando", version, max_term_width = 100, propagate_version = false)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not found, 4 refused.")]
pub struct Cli {
    /// What every command takes.
    #[command(flatten)]
    pub global: Global,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Keeps what every command takes apart from what this one takes.
const EVERY: &str = "Options of every command";

const DEMO: &str = "Show what Pando does on a small production made for it, and check each step\n\nStarts a PostgreSQL \
    server and a daemon of its own in a directory of its own, links it, clones it at three moments, breaks, rewinds and \
    refreshes clones, while orders come in all the time, and compares each clone with what was committed at its moment. \
    At the end, also after an error or Ctrl-C, everything is stopped and removed. With --json the figures are printed.";

const APPLY: &str = "Make an app what a file says: link it, or change its policy, settings, edits and hooks\n\nThe file is \
    TOML and describes the whole app; docs/apply.md says how, docs/apply.schema.json is for editors. ${NAME} in a value is \
    a variable of the environment, ${file:PATH} the content of a file, $${ is ${ itself. Applied again, nothing changes. What \
    cannot be changed of a linked app is refused.";

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Data as JSON on stdout; an error also as one line of JSON, the last on stderr
    #[arg(long, global = true, help_heading = EVERY)]
    pub json: bool,
    /// The home of the daemon [default: /var/lib/pando for root, else pando in XDG_DATA_HOME or ~/.local/share]
    #[arg(long, global = true, help_heading = EVERY, env = "PANDO_HOME", hide_env_values = true, value_name = "DIR")]
    pub home: Option<PathBuf>,
    /// Speak to this daemon: http://HOST:PORT (with PANDO_TOKEN) or unix:///PATH [default: the home's socket]
    #[arg(long, global = true, help_heading = EVERY, env = "PANDO_HOST", hide_env_values = true, value_name = "URL")]
    pub host: Option<String>,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon
    Serve(serve::ServeArgs),
    /// Make or adopt a pool: the storage that clones live on
    Init(serve::InitArgs),
    /// Say what is there, what is missing, and the command that mends it (exit code 1 when something does not work)
    Doctor,
    /// Show what Pando does on a small production made for it, and check each step
    #[command(long_about = DEMO)]
    Demo(DemoArgs),
    /// Link a live application: mirror it, and keep its timeline
    Link(link::LinkArgs),
    /// Make an app what a file says: link it, or change its policy, settings, edits and hooks
    #[command(long_about = APPLY)]
    Apply(apply::ApplyArgs),
    /// Link what a Docker volume or a directory of a container holds
    Adopt(adopt::AdoptArgs),
    /// Remove an app and its timeline
    Unlink(link::UnlinkArgs),
    /// List apps and clones
    Ls,
    /// Show an app or clone
    Show(look::NameArgs),
    /// Show the moments that can be asked for
    Timeline(look::NameArgs),
    /// Show who uses how many bytes
    Du,
    /// List operations, newest first
    Ops,
    /// Show an operation
    Op(look::OpArgs),
    /// Show what happened
    Events(look::EventsArgs),
    /// Show the end of the servers' logs
    Logs(look::LogsArgs),
    /// Take a snapshot of an app (syncs first) or a clone
    Snapshot(keep::SnapshotArgs),
    /// Give a moment a name, and pin it
    Bookmark(keep::BookmarkArgs),
    /// Forget a bookmark
    Unbookmark(keep::UnbookmarkArgs),
    /// Make a writable copy of an app or clone at a moment
    Clone(clone::CloneArgs),
    /// What a Compose project on clones of an app needs
    Compose(compose::ComposeArgs),
    /// Write an app or clone at a moment as an archive, stopped cleanly and without production's passwords
    Export(travel::ExportArgs),
    /// Make a clone of an archive that export wrote, here or on another machine
    Import(travel::ImportArgs),
    /// Images of containers with data in them: build, push, update, list, forget
    Image(image::ImageArgs),
    /// Print a clone's addresses as shell variables
    Env(connect::EnvArgs),
    /// Open a shell on a clone: psql for a database, a shell in the directory for files
    Connect(connect::ConnectArgs),
    /// Start a clone's servers
    Start(clone::OneArgs),
    /// Stop a clone's servers; its data stays
    Stop(clone::OneArgs),
    /// Remove clones
    Rm(clone::RmArgs),
    /// Make a clone one that is kept: durable, recording its own log, leased for ever; its address stays
    Promote(clone::OneArgs),
    /// Change until when a clone is kept
    Lease(clone::LeaseArgs),
    /// Give a clone the data of a moment of its parent [default: latest]; address and password stay
    Refresh(time::RefreshArgs),
    /// Set a clone back to a moment of its own timeline
    Rewind(time::RewindArgs),
    /// Take back the last refresh or rewind
    Undo(clone::OneArgs),
    /// Test a toolkit: an executable that knows a kind of source
    Toolkit(toolkit::ToolkitArgs),
    /// Print the completions of a shell
    Completions(generate::CompletionsArgs),
    /// Write the manual pages to a directory
    Man(generate::ManArgs),
}

/// What commands that change something take.
#[derive(Debug, Clone, Copy, Args)]
pub struct Detach {
    /// Do not wait: print the operation's id
    #[arg(long)]
    pub detach: bool,
}

/// What holds production's writes.
#[derive(Debug, Clone, Copy, Args)]
pub struct Fence {
    /// Hold production's writes for a moment, at most so long, so that all sources are cut at exactly one instant
    /// [without a value: 10s]
    #[arg(long, value_name = "SPAN", num_args = 0..=1, default_missing_value = "10s", require_equals = true)]
    #[arg(value_parser = crate::settings::seconds)]
    pub fence: Option<i64>,
}

impl Fence {
    /// The body of the call.
    pub fn body(self) -> SnapshotRequest {
        SnapshotRequest { fence_seconds: self.fence.and_then(|seconds| u64::try_from(seconds).ok()) }
    }
}

/// Why an argument cannot be read, and the command that was probably meant.
#[derive(Debug)]
pub struct Meant {
    /// Why.
    pub why: String,
    /// The command.
    pub meant: Option<String>,
}

impl std::fmt::Display for Meant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for Meant {}

/// Help and version are answers; all else is wrong usage, said in one line with a hint.
pub fn not_understood(error: &clap::Error) -> Done {
    match error.kind() {
        ClapKind::DisplayHelp | ClapKind::DisplayVersion => Ok(error.print()?),
        ClapKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            error.print()?;
            Err(Error::Quiet(2))
        }
        _ => Err(usage(error).into()),
    }
}

fn usage(error: &clap::Error) -> Problem {
    let rendered = error.render().to_string();
    let first: Vec<&str> = rendered.lines().take_while(|line| !line.trim().is_empty()).map(str::trim).collect();
    let said = first.join(" ");
    let message = own_words(error).unwrap_or_else(|| said.trim_start_matches("error: ").to_owned());
    let line = |start: &str| rendered.lines().find_map(|line| line.trim().strip_prefix(start));
    let meant = std::error::Error::source(error).and_then(|why| why.downcast_ref::<Meant>()?.meant.clone());
    let tip = meant.or_else(|| line("tip: ").map(str::to_owned));
    let hint = tip.or_else(|| line("Usage: ").map(|usage| format!("usage: {usage}")));
    let short: String = message.chars().take(300).collect();
    Problem::new(ErrorKind::Usage, short).hint(hint.unwrap_or_else(|| "pando --help lists the commands".to_owned()))
}

/// A value that was refused: our reason, without the value before it, which may be long.
fn own_words(error: &clap::Error) -> Option<String> {
    let reason = std::error::Error::source(error)?;
    match error.get(ContextKind::InvalidArg)? {
        ContextValue::String(arg) if error.kind() == ClapKind::ValueValidation => Some(format!("{arg}: {reason}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn problem(line: &[&str]) -> Problem {
        usage(&Cli::try_parse_from(line).expect_err("wrong usage"))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_usage_is_one_line_with_a_hint() {
        let long = "x".repeat(300);
        let lines: [&[&str]; 7] = [
            &["pando", "clone", "a"],
            &["pando", "clone", "a", &long],
            &["pando", "shw", "a"],
            &["pando", "ls", "--nonsense"],
            &["pando", "lease", "dev1"],
            &["pando", "clone", "a", "b", "--for", "8"],
            &["pando", "op", "nonsense"],
        ];
        for line in lines {
            let problem = problem(line);
            assert_eq!(problem.kind, ErrorKind::Usage, "{line:?}");
            assert!(!problem.message.contains('\n') && !problem.message.contains(&long), "{problem:?}");
            assert!(!problem.message.starts_with("error") && problem.hint.is_some(), "{problem:?}");
        }
        assert!(problem(lines[1]).message.contains("at most 63 characters, this one has 300"));
        assert!(problem(lines[2]).hint.is_some_and(|hint| hint.contains("show")));
    }

    #[test]
    fn a_bookmark_that_is_written_as_a_moment_is_named_by_the_command_that_was_meant() {
        for line in [&["pando", "unbookmark", "shop@mark"][..], &["pando", "unbookmark", "shop@mark", "--json"]] {
            let problem = problem(line);
            assert!(problem.message.contains("\"shop@mark\" cannot be a name"), "{problem:?}");
            assert_eq!(problem.hint.as_deref(), Some("pando unbookmark shop mark"));
        }
        let hint = problem(&["pando", "unbookmark", "shop@-2h"]).hint;
        assert_eq!(hint.as_deref(), Some("pando timeline shop shows its bookmarks"));
    }
}
