//! The servers of mirrors and clones: started from an engine's plan, watched until ready, stopped.

use std::time::Duration;

use pando_engine::{Credentials, Ingest, Readiness, UnitPlan, Verdict};
use pando_host::durable::remove_tree_if_there;
use pando_host::secret::Secret;
use pando_model::{EngineKind, Name, UnitId};
use pando_runtime::{Outcome, StopSignal, UnitSpec, UnitState};

use crate::containers;
use crate::fault::{Done, Fault, failed, io};
use crate::journal::Run;
use crate::owner::{Held, Owner};
use crate::world::World;

/// The superuser of every clone.
pub const CLONE_USER: &str = "pando";

/// The roles that a source of an owner may have units for.
pub const ROLES: [&str; 4] = ["server", "receiver", "ingest", "sync"];

/// Fresh ids for all roles of a source.
pub fn fresh_units(world: &World) -> std::collections::BTreeMap<String, UnitId> {
    ROLES
        .iter()
        .map(|role| {
            let (millis, random) = world.id();
            ((*role).to_owned(), UnitId::from_parts(millis, random))
        })
        .collect()
}

/// A plan with its id.
pub fn spec(held: &Held, plan: UnitPlan) -> Done<UnitSpec> {
    let id = held
        .units
        .get(plan.role)
        .cloned()
        .ok_or_else(|| Fault::Problem(failed(format!("there is no unit for the role {}", plan.role))))?;
    let container = containers::container(held, plan.role)?;
    let plan = if container.is_some() { held.engine.contained(&held.source, plan)? } else { plan };
    Ok(UnitSpec {
        id,
        writes: held.writes(),
        idmap: held.idmap(),
        container,
        program: plan.program,
        args: plan.args,
        env: plan.env,
        input: None,
        dir: plan.dir,
        account: plan.account,
        locks: plan.locks,
        stop_signal: if plan.stop_by_interrupt { StopSignal::Int } else { StopSignal::Term },
        stop_grace_ms: plan.stop_grace_seconds * 1000,
    })
}

/// How often a program whose engine asks for another run gets one.
const RUNS: u32 = 5;

/// Runs a one-shot program of a source to its end, showing its progress.
pub fn run_to_end(run: &Run, held: &Held, what: &str, plan: UnitPlan) -> Done<()> {
    let role = plan.role;
    let program = plan.program.clone();
    let spec = spec(held, plan)?;
    let world = &run.world;
    let mut runs = 0;
    let (code, log) = loop {
        // A crash of the daemon may have left the former try running.
        world.runtime.ensure_gone(&spec.id)?;
        world.runtime.forget(&spec.id)?;
        let mut ticks = 0_u32;
        let Outcome { code, log } = world.runtime.run_once(&spec, &mut || {
            ticks += 1;
            if ticks.is_multiple_of(3)
                && let Ok(log) = world.runtime.log_tail(&spec.id, 5)
                && let Some((done, total)) = held.engine.progress(&held.seat, &log)
            {
                run.progress(what, done, total);
            }
            !world.is_stopping()
        })?;
        // Its record holds its environment, and in that production's password: it does not stay.
        world.runtime.forget(&spec.id)?;
        runs += 1;
        match code.map(|code| held.engine.verdict(code, &log)) {
            Some(Verdict::Done) => return Ok(()),
            Some(Verdict::Again) if runs < RUNS => {}
            _ => break (code, log),
        }
    };
    let mut problem = failed(format!("{what} failed"));
    let program = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let end: Vec<&str> = log.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    // The first error names the reason, later ones are mostly its consequences.
    let error = end.iter().find(|line| line.contains("error") || line.contains("FATAL") || line.contains("rsync:"));
    problem.causes.push(match error.or(end.last()) {
        Some(line) => format!("{program}: {}", line.trim_start_matches(&format!("{program}: "))),
        None => format!("{program} ended with {code:?} in the role {role}"),
    });
    Err(problem.into())
}

/// Runs one more program of a first copy to its end, and the server it works on as long.
pub fn run_beside(run: &Run, held: &Held, what: &str, next: Ingest) -> Done<()> {
    let runtime = &run.world.runtime;
    let server = next.server.map(|plan| spec(held, plan)).transpose()?;
    if let Some(server) = &server {
        runtime.ensure_running(server)?;
    }
    let done = match &server {
        Some(_) => wait_ready(run, held).and_then(|()| run_to_end(run, held, what, next.plan)),
        None => run_to_end(run, held, what, next.plan),
    };
    if let Some(server) = &server {
        runtime.ensure_gone(&server.id)?;
    }
    done
}

/// Starts a clone's servers (the server of each source, then its log receiver).
pub fn start_server(world: &World, held: &Held) -> Done<()> {
    if let Some(plan) = held.engine.serve(&held.seat, &held.source)? {
        world.runtime.ensure_running(&spec(held, plan)?)?;
    }
    Ok(())
}

/// Starts what keeps the log of a recording clone.
pub fn start_receiver(world: &World, held: &Held) -> Done<()> {
    if let Some(unit) = held.units.get("receiver")
        && matches!(world.runtime.state(unit)?, UnitState::Running { .. })
    {
        return Ok(());
    }
    if let Some(plan) = held.engine.record(&held.seat, &held.source)? {
        world.runtime.ensure_running(&spec(held, plan)?)?;
    }
    Ok(())
}

/// Waits until a source's server answers. An exit of the server, or too long a wait, is a problem with the
/// end of the server's log. Recovery has no limit as long as the server runs: it is bounded by the log.
pub fn wait_ready(run: &Run, held: &Held) -> Done<()> {
    wait_ready_within(run, held, Duration::MAX)
}

/// The same, for so long at most.
pub fn wait_ready_within(run: &Run, held: &Held, patience: Duration) -> Done<()> {
    let world = &run.world;
    let unit = held.units.get("server");
    let begun = world.clock.instant();
    // A process is looked at for nothing; asking an engine after a container takes time from what starts in it.
    let every = if held.container.is_some() { Duration::from_millis(100) } else { Duration::ZERO };
    let mut looked = begun;
    let mut shown = 0;
    loop {
        let starting = match held.engine.ready(&held.seat, &held.source)? {
            Readiness::Ready => return Ok(()),
            Readiness::Starting(what) => what,
        };
        if let Some(unit) = unit
            && looked.elapsed() >= every
        {
            looked = world.clock.instant();
            if !matches!(world.runtime.state(unit)?, UnitState::Running { .. }) {
                return Err(died(world, unit, "the server of the clone ended before it answered").into());
            }
        }
        if world.is_stopping() {
            return Err(failed("the daemon is stopping").into());
        }
        if begun.elapsed() > patience {
            let text = format!("the server of the clone does not answer within {} s", patience.as_secs());
            return Err(unit.map_or_else(|| failed(&text), |unit| died(world, unit, &text)).into());
        }
        let seconds = begun.elapsed().as_secs();
        if seconds > shown {
            shown = seconds;
            run.progress(&starting, 0, None);
        }
        let pause = if begun.elapsed() < Duration::from_millis(500) { 2 } else { 20 };
        world.clock.sleep(Duration::from_millis(pause));
    }
}

/// A problem with the end of a unit's log.
pub fn died(world: &World, unit: &UnitId, message: &str) -> pando_model::Problem {
    let mut problem = failed(message);
    if let Ok(log) = world.runtime.log_tail(unit, 60) {
        // Of the MySQL family each run begins with these words.
        let log = log.rfind(" starting as process ").map_or(log.as_str(), |at| log.get(at..).unwrap_or_default());
        tracing::info!(%unit, "a server ended; its last words:\n{log}");
        // "the database system is starting up" is what those who knock hear, never the reason of an end.
        let telling = log.lines().rev().find(|line| {
            (line.contains("FATAL") || line.contains("PANIC")) && !line.contains("the database system is")
        });
        // Of a configuration it says what is wrong before it gives up.
        let before = log.lines().rev().skip_while(|line| !line.contains("\" contains errors")).nth(1);
        // Of the MySQL family the first error names the reason, but for what the system says of a file.
        let first = log.lines().find(|line| {
            line.contains("[ERROR]")
                && !["perating system error", "Error number", "error means"].iter().any(|of| line.contains(of))
        });
        let telling = before.or(telling).or(first);
        if let Some(line) = telling.or_else(|| log.lines().rev().find(|line| !line.trim().is_empty())) {
            problem.causes.push(line.trim().to_owned());
        }
    }
    problem
}

/// Stops all units of an owner: receivers first, then servers.
pub fn stop_all(world: &World, owner: &Owner) -> Done<()> {
    for role in ["ingest", "sync", "receiver", "server"] {
        for held in owner.sources.values() {
            if let Some(unit) = held.units.get(role) {
                world.runtime.ensure_gone(unit)?;
            }
        }
    }
    Ok(())
}

/// Drops logs and records of all units of an owner.
pub fn forget_all(world: &World, owner: &Owner) -> Done<()> {
    for held in owner.sources.values() {
        for unit in held.units.values() {
            world.runtime.forget(unit)?;
        }
    }
    Ok(())
}

/// Takes away the directory of sockets of a server that has gone for good.
pub fn remove_sockets(world: &World, seat: &UnitId) -> Done<()> {
    let sockets = world.home.run(seat.as_str());
    world.engines.values().for_each(|engine| engine.hang_up(&sockets));
    remove_tree_if_there(&sockets).map_err(|error| io("removing a socket directory", error))?;
    Ok(())
}

/// Kills units at once: their data is about to be thrown away. A server is told, so that its children go with
/// it; programs without children need no telling.
pub fn kill(world: &World, units: &std::collections::BTreeMap<String, UnitId>) -> Done<()> {
    for (role, unit) in units {
        let signal = if role == "server" { StopSignal::Quit } else { StopSignal::Kill };
        world.runtime.ensure_gone_by(unit, signal, Duration::from_secs(2))?;
    }
    Ok(())
}

/// Kills all units of an owner.
pub fn kill_all(world: &World, owner: &Owner) -> Done<()> {
    owner.sources.values().try_for_each(|held| kill(world, &held.units))
}

/// Who enters a clone.
pub fn credentials(password: &str) -> Credentials {
    Credentials { user: CLONE_USER.to_owned(), password: Secret::new(password), salt: None }
}

/// Whether sources of this kind have a server in a clone.
pub const fn has_server(kind: EngineKind) -> bool {
    !matches!(kind, EngineKind::Files)
}

/// Whether sources of this kind have a log, and with it every second. The others show what their last sync found.
pub const fn has_log(kind: EngineKind) -> bool {
    !matches!(kind, EngineKind::Files | EngineKind::Toolkit)
}

/// The roles of the units that keep a mirror of this kind up to date.
pub const fn following(kind: EngineKind) -> &'static [&'static str] {
    match kind {
        EngineKind::Files | EngineKind::Toolkit => &[],
        EngineKind::Redis | EngineKind::Mariadb | EngineKind::Mysql => &["server"],
        EngineKind::Postgres | EngineKind::Sim => &["server", "receiver"],
    }
}

/// A source's name and server unit, for logs.
pub fn servers(owner: &Owner) -> Vec<(Name, String, UnitId)> {
    owner
        .sources
        .iter()
        .flat_map(|(name, held)| held.units.iter().map(move |(role, unit)| (name.clone(), role.clone(), unit.clone())))
        .collect()
}
