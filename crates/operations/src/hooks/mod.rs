//! Hooks and edits: what a user does to a clone, or around an operation, at named points (DESIGN §7).
//!
//! ```text
//! clone    … admit ▶ edits, configure-clone ▶ …        (what masks comes first, see `provision::configure`)
//! refresh  pre-refresh ▶ … admit ▶ edits, configure-clone ▶ swap ▶ post-refresh ▶ the old data goes
//! rewind   the same with pre-rewind, post-rewind; `undo` has none: what it brings back is configured
//! start    pre-start ▶ servers ▶ post-start         stop    pre-stop ▶ servers ▶ post-stop
//! snapshot pre-snapshot ▶ … ▶ post-snapshot, whatever came of it
//! link     copy ▶ post-ingest ▶ follow              rm      pre-destroy ▶ …
//! ```
//!
//! Each is a step of its verb, before the point of no return: a hook that fails, or takes too long, fails the
//! operation, which is undone. Edits change only volumes that undo throws away.
//!
//! **Who a hook is.** It runs as `pando-hook`, an account that owns nothing: not as root, and not as the account of
//! the servers, which could read every clone and production's passwords in the mirrors. Another account has to be
//! named by the hook *and* by the machine's owner, in HOME/hook-accounts: who may speak to the daemon cannot become
//! somebody else by a hook. Where the daemon is not root, hooks run as it does. A hook is told of the clone only,
//! never of production, in its environment and as JSON on its standard input.
//!
//! # Crash consistency
//! A hook is a unit whose id its operation knows from birth. A daemon that dies while it runs finds and kills it when
//! the operation is undone. It may have run once more than an operation that is done again knows of.

mod account;
pub mod check;
mod edits;
mod facts;

use std::time::Duration;

use pando_host::{Clock, SystemClock, Tool};
use pando_model::{Edit, Hook, HookPoint, UnitId};
use pando_runtime::{Outcome, RuntimeError, StopSignal, UnitSpec};
use serde::{Deserialize, Serialize};

pub use edits::edit;
use facts::Facts;

use crate::fault::{Done, Fault, IntoProblem, failed, refused};
use crate::journal::Run;
use crate::owner::Owner;
use crate::world::World;

/// How long a hook may take when it does not say.
const PATIENCE: u64 = 600;
/// How much of its output is kept.
const LINES: usize = 20;
const WIDTH: usize = 300;

/// What an app has of both.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stitches {
    /// Made in this order.
    pub edits: Vec<Edit>,
    /// Run in this order, each at its point.
    pub hooks: Vec<Hook>,
}

impl Stitches {
    /// Those of an app.
    pub fn of(world: &World, app: &pando_catalog::AppRecord) -> Done<Self> {
        let Some(sealed) = &app.stitches else { return Ok(Self::default()) };
        serde_json::from_slice(&world.unseal(sealed)?)
            .map_err(|error| Fault::Problem(failed(format!("the hooks of {} cannot be read: {error}", app.name))))
    }

    /// For the catalog.
    pub fn seal(&self, world: &World) -> Done<Option<pando_catalog::Sealed>> {
        if self.edits.is_empty() && self.hooks.is_empty() {
            return Ok(None);
        }
        let plain = serde_json::to_vec(self).map_err(|error| failed(format!("hooks cannot be stored: {error}")))?;
        world.seal(&plain).map(Some)
    }

    /// What they are, in the order of their points.
    pub fn labels(&self) -> Vec<String> {
        let word = |masks: bool| if masks { " (masks)" } else { "" };
        let edits = self
            .edits
            .iter()
            .map(|edit| format!("{}: {}{}", HookPoint::ConfigureClone, edit.label(), word(edit.masks)));
        let mut hooks: Vec<&Hook> = self.hooks.iter().collect();
        hooks.sort_by_key(|hook| hook.at);
        edits
            .chain(hooks.into_iter().map(|hook| format!("{}: run {}{}", hook.at, hook.label(), word(hook.masks))))
            .collect()
    }

    /// Whether any of them masks.
    pub fn mask(&self) -> bool {
        self.edits.iter().any(|edit| edit.masks) || self.hooks.iter().any(|hook| hook.masks)
    }
}

/// An id for the hooks of one operation, which run one after the other.
pub fn fresh_unit(world: &World) -> UnitId {
    let (millis, random) = world.id();
    UnitId::from_parts(millis, random)
}

/// Runs the hooks of a point. `owner`: the clone as it is to be seen, or the app.
pub fn run_at(run: &Run, unit: &UnitId, point: HookPoint, owner: &Owner) -> Done<()> {
    run_all(run, unit, point, owner, false)
}

/// The same, also while the daemon is being stopped.
pub fn run_anyway(run: &Run, unit: &UnitId, point: HookPoint, owner: &Owner) -> Done<()> {
    run_all(run, unit, point, owner, true)
}

fn run_all(run: &Run, unit: &UnitId, point: HookPoint, owner: &Owner, anyway: bool) -> Done<()> {
    run_those(run, unit, point, owner, &Stitches::of(&run.world, &owner.app)?, anyway)
}

fn run_those(run: &Run, unit: &UnitId, point: HookPoint, owner: &Owner, stitches: &Stitches, anyway: bool) -> Done<()> {
    for hook in stitches.hooks.iter().filter(|hook| hook.at == point) {
        run.progress(&format!("running the hook {} ({point})", hook.label()), 0, None);
        run_one(run, unit, hook, owner, anyway)?;
    }
    Ok(())
}

/// The edits and hooks that make a clone's data its own: those that mask it, or all others.
pub fn configure(run: &Run, unit: &UnitId, owner: &Owner, masking: bool) -> Done<()> {
    let mut stitches = Stitches::of(&run.world, &owner.app)?;
    stitches.edits.retain(|edit| edit.masks == masking);
    stitches.hooks.retain(|hook| hook.masks == masking);
    if !stitches.edits.is_empty() {
        let facts = Facts::of(run, HookPoint::ConfigureClone, owner)?;
        stitches.edits.iter().try_for_each(|one| edit(owner, &facts, one))?;
    }
    run_those(run, unit, HookPoint::ConfigureClone, owner, &stitches, false)
}

/// Ends a hook that a former daemon has left running.
pub fn clear(run: &Run, unit: &UnitId) -> Done<()> {
    run.world.runtime.ensure_gone_by(unit, StopSignal::Kill, Duration::ZERO)?;
    Ok(run.world.runtime.forget(unit)?)
}

fn run_one(run: &Run, unit: &UnitId, hook: &Hook, owner: &Owner, anyway: bool) -> Done<()> {
    let world = &run.world;
    let facts = Facts::of(run, hook.at, owner)?;
    let spec = spec(world, unit, hook, &facts)?;
    let limit = Duration::from_secs(hook.timeout_seconds.unwrap_or(PATIENCE));
    clear(run, unit)?;
    let begun = SystemClock.instant();
    let (mut ticks, mut late) = (0_u32, false);
    let outcome = world.runtime.run_once(&spec, &mut || {
        ticks += 1;
        if ticks.is_multiple_of(20) {
            // Whatever it prints, its log does not fill the disk.
            let _ = world.runtime.tidy();
        }
        late = begun.elapsed() >= limit;
        !late && (anyway || !world.is_stopping())
    });
    let (why, log) = match outcome {
        Ok(Outcome { code: Some(0), .. }) => {
            clear(run, unit)?;
            let text = format!("the hook {} ({}) of {} is done", hook.label(), hook.at, owner.name);
            world.event("hook-done", Some(&owner.name), &text);
            return Ok(());
        }
        Ok(Outcome { code: Some(code), log }) => (format!("it ended with exit code {code}"), log),
        Ok(Outcome { code: None, log }) => ("it was killed by a signal".to_owned(), log),
        Err(RuntimeError::Cancelled) => {
            let why = if late {
                format!("it took longer than {} s and was killed", limit.as_secs())
            } else {
                "the daemon is stopping".to_owned()
            };
            (why, world.runtime.log_tail(unit, LINES)?)
        }
        Err(error) => {
            let problem = error.into_problem();
            (problem.to_string(), String::new())
        }
    };
    clear(run, unit)?;
    let mut problem = failed(format!("the hook {} ({}) of {} failed", hook.label(), hook.at, owner.name));
    problem.causes.push(why);
    problem.causes.extend(output(&log, &facts.secrets(hook)));
    Err(problem.hint("mend it, or give the app other hooks: pando apply FILE.toml").into())
}

/// The end of what it printed, line by line, without what is secret.
fn output(log: &str, secrets: &[String]) -> Vec<String> {
    let lines: Vec<&str> = log.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let last = lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default();
    let shown = last.iter().map(|line| {
        let line = secrets.iter().fold((*line).to_owned(), |line, secret| line.replace(secret.as_str(), "***"));
        let short: String = line.chars().filter(|one| !one.is_control()).take(WIDTH).collect();
        format!("it printed: {short}")
    });
    shown.collect()
}

fn spec(world: &World, unit: &UnitId, hook: &Hook, facts: &Facts) -> Done<UnitSpec> {
    let filled = |text: &String| {
        facts.fill(text).map_err(|error| Fault::Problem(refused(format!("the hook {}: {error}", hook.label()))))
    };
    let mut words = hook.run.iter().map(filled).collect::<Done<Vec<String>>>()?.into_iter();
    let program = words.next().ok_or_else(|| Fault::Problem(refused("a hook names no program")))?;
    let program = if program.starts_with('/') {
        program.into()
    } else {
        let missing = || failed(format!("there is no program {program}")).hint("name it by its absolute path");
        Tool::find(&program, "").map_err(|_| missing())?.path().to_owned()
    };
    let mut env = facts.variables();
    for (name, value) in &hook.env {
        env.insert(name.clone(), filled(value)?);
    }
    Ok(UnitSpec {
        id: unit.clone(),
        program,
        args: words.collect(),
        env,
        input: Some(facts.json()),
        dir: "/".into(),
        account: account::of(world, hook)?,
        locks: Vec::new(),
        idmap: None,
        writes: None,
        stop_signal: StopSignal::Kill,
        stop_grace_ms: 0,
        // The user's own program, on this machine.
        container: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_hook_printed_is_bounded_and_holds_no_secret() {
        let log: String = (0..100).map(|n| format!("line {n} hunter22\n\n")).collect();
        let shown = output(&log, &["hunter22".to_owned()]);
        assert_eq!(shown.len(), LINES);
        assert_eq!(shown[LINES - 1], "it printed: line 99 ***");
        assert_eq!(output(&"x".repeat(10_000), &[])[0].len(), WIDTH + "it printed: ".len());
    }
}
