//! The contract of [`Runtime`], as functions that fail by assertion. Each runtime's tests call [`all`].
//!
//! The programs used are `sleep`, `true`, `false` and `echo` in `/bin`: they exist on every machine and in
//! every small image, and the simulation knows them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use pando_host::clock::id_parts;
use pando_host::{Clock, SystemClock};
use pando_model::UnitId;

use crate::{Ensured, Removed, Runtime, RuntimeError, StopSignal, UnitSpec, UnitState};

type Checked = Result<(), RuntimeError>;

/// A unit with a fresh id.
pub fn spec(program: &str, args: &[&str]) -> UnitSpec {
    let (millis, random) = id_parts(&SystemClock);
    UnitSpec {
        input: None,
        id: UnitId::from_parts(millis, random),
        program: PathBuf::from(program),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: BTreeMap::new(),
        dir: PathBuf::from("/"),
        account: None,
        idmap: None,
        locks: Vec::new(),
        writes: None,
        stop_signal: StopSignal::Term,
        stop_grace_ms: 10_000,
        container: None,
    }
}

fn sleeper() -> UnitSpec {
    spec("/bin/sleep", &["600"])
}

/// Waits until a unit has ended by itself, and says how it stands then.
pub fn ended(runtime: &dyn Runtime, unit: &UnitId) -> Result<UnitState, RuntimeError> {
    for _ in 0..1000 {
        match runtime.state(unit)? {
            UnitState::Running { .. } => SystemClock.sleep(Duration::from_millis(10)),
            state => return Ok(state),
        }
    }
    runtime.state(unit)
}

fn is_running(runtime: &dyn Runtime, unit: &UnitId) -> Result<bool, RuntimeError> {
    Ok(matches!(runtime.state(unit)?, UnitState::Running { .. }))
}

/// The whole contract.
pub fn all(runtime: &dyn Runtime) -> Checked {
    starting_and_stopping_may_be_repeated(runtime)?;
    nothing_is_known_of_a_stranger(runtime)?;
    the_inventory_is_what_runs(runtime)?;
    an_end_is_seen_with_its_code(runtime)?;
    what_ended_can_start_again(runtime)?;
    a_program_that_is_not_there_is_an_error(runtime)?;
    a_program_runs_to_its_end(runtime)?;
    a_program_can_be_cancelled(runtime)?;
    a_running_unit_is_not_run_once_more(runtime)?;
    pausing_may_be_repeated_and_undone(runtime)?;
    starting_and_stopping_resume(runtime)?;
    a_log_lives_until_it_is_forgotten(runtime)?;
    what_runs_is_not_forgotten(runtime)
}

/// Each call answers whether it had anything to do.
pub fn starting_and_stopping_may_be_repeated(runtime: &dyn Runtime) -> Checked {
    let unit = sleeper();
    assert_eq!(runtime.ensure_running(&unit)?, Ensured::Created);
    let first = runtime.state(&unit.id)?;
    assert_eq!(runtime.ensure_running(&unit)?, Ensured::AlreadyThere);
    assert_eq!(runtime.state(&unit.id)?, first, "the same process still runs");
    assert_eq!(runtime.ensure_gone(&unit.id)?, Removed::Deleted);
    assert_eq!(runtime.state(&unit.id)?, UnitState::Gone);
    assert_eq!(runtime.ensure_gone(&unit.id)?, Removed::AlreadyGone);
    assert_eq!(runtime.ensure_running(&unit)?, Ensured::Created, "it can start again");
    assert_eq!(runtime.ensure_gone_by(&unit.id, StopSignal::Kill, Duration::ZERO)?, Removed::Deleted);
    assert_eq!(runtime.ensure_gone_by(&unit.id, StopSignal::Kill, Duration::ZERO)?, Removed::AlreadyGone);
    runtime.forget(&unit.id)?;
    runtime.forget(&unit.id)
}

/// Looking at, stopping, pausing and forgetting what never was is no error; telling it something is.
pub fn nothing_is_known_of_a_stranger(runtime: &dyn Runtime) -> Checked {
    let unit = sleeper().id;
    assert_eq!(runtime.state(&unit)?, UnitState::Gone);
    assert_eq!(runtime.ensure_gone(&unit)?, Removed::AlreadyGone);
    assert_eq!(runtime.log_tail(&unit, 10)?, "");
    assert!(runtime.reload(&unit).is_err());
    runtime.pause(&unit)?;
    runtime.resume(&unit)?;
    runtime.forget(&unit)
}

/// What runs is listed; what has ended or was stopped is not.
pub fn the_inventory_is_what_runs(runtime: &dyn Runtime) -> Checked {
    let (runs, ends, stopped) = (sleeper(), spec("/bin/true", &[]), sleeper());
    for unit in [&runs, &ends, &stopped] {
        runtime.ensure_running(unit)?;
    }
    ended(runtime, &ends.id)?;
    runtime.ensure_gone(&stopped.id)?;
    let listed = runtime.inventory()?;
    assert!(listed.contains(&runs.id));
    assert!(!listed.contains(&ends.id) && !listed.contains(&stopped.id));
    let left = runtime.remains()?;
    assert!(!left.contains(&runs.id) && !left.contains(&stopped.id));
    for unit in [&runs, &ends] {
        runtime.ensure_gone(&unit.id)?;
    }
    Ok(())
}

/// A unit that ended by itself says so until it is stopped.
pub fn an_end_is_seen_with_its_code(runtime: &dyn Runtime) -> Checked {
    for (program, code) in [("/bin/true", 0), ("/bin/false", 1)] {
        let unit = spec(program, &[]);
        runtime.ensure_running(&unit)?;
        assert_eq!(ended(runtime, &unit.id)?, UnitState::Exited { code: Some(code) });
        assert_eq!(runtime.state(&unit.id)?, UnitState::Exited { code: Some(code) }, "asked twice");
        assert_eq!(runtime.ensure_gone(&unit.id)?, Removed::AlreadyGone);
        assert_eq!(runtime.state(&unit.id)?, UnitState::Gone);
    }
    Ok(())
}

/// A unit that ended is started again by the same call.
pub fn what_ended_can_start_again(runtime: &dyn Runtime) -> Checked {
    let mut unit = spec("/bin/false", &[]);
    runtime.ensure_running(&unit)?;
    ended(runtime, &unit.id)?;
    unit.program = sleeper().program;
    unit.args = sleeper().args;
    assert_eq!(runtime.ensure_running(&unit)?, Ensured::Created);
    assert!(is_running(runtime, &unit.id)?);
    runtime.ensure_gone(&unit.id).map(|_| ())
}

/// A failed start leaves nothing.
pub fn a_program_that_is_not_there_is_an_error(runtime: &dyn Runtime) -> Checked {
    // A relative path is refused everywhere; the simulation cannot know which absolute ones exist.
    let unit = spec("no-such-program", &[]);
    assert!(matches!(runtime.ensure_running(&unit), Err(RuntimeError::Start { .. })));
    assert_eq!(runtime.state(&unit.id)?, UnitState::Gone);
    runtime.forget(&unit.id)
}

/// Its code and the end of its log come back, also the second time, and only this run's log.
pub fn a_program_runs_to_its_end(runtime: &dyn Runtime) -> Checked {
    let mut unit = spec("/bin/echo", &["one", "two"]);
    let outcome = runtime.run_once(&unit, &mut || true)?;
    assert_eq!((outcome.code, outcome.log.as_str()), (Some(0), "one two\n"));
    unit.args = vec!["three".to_owned()];
    assert_eq!(runtime.run_once(&unit, &mut || true)?.log, "three\n");
    unit.program = PathBuf::from("/bin/false");
    assert_eq!(runtime.run_once(&unit, &mut || true)?.code, Some(1));
    assert_eq!(runtime.state(&unit.id)?, UnitState::Exited { code: Some(1) });
    assert_eq!(runtime.log_tail(&unit.id, 10)?, "one two\nthree\n");
    runtime.forget(&unit.id)
}

/// When the caller has had enough, the program ends.
pub fn a_program_can_be_cancelled(runtime: &dyn Runtime) -> Checked {
    let unit = sleeper();
    let mut ticks = 0;
    let outcome = runtime.run_once(&unit, &mut || {
        ticks += 1;
        ticks < 3
    });
    assert!(matches!(outcome, Err(RuntimeError::Cancelled)));
    assert_eq!(ticks, 3);
    assert_eq!(runtime.state(&unit.id)?, UnitState::Gone);
    Ok(())
}

/// Two runs of one unit would write over each other.
pub fn a_running_unit_is_not_run_once_more(runtime: &dyn Runtime) -> Checked {
    let unit = sleeper();
    runtime.ensure_running(&unit)?;
    assert!(matches!(runtime.run_once(&unit, &mut || true), Err(RuntimeError::Start { .. })));
    assert!(is_running(runtime, &unit.id)?);
    runtime.ensure_gone(&unit.id).map(|_| ())
}

/// A paused unit runs, as far as its state goes.
pub fn pausing_may_be_repeated_and_undone(runtime: &dyn Runtime) -> Checked {
    let unit = sleeper();
    runtime.ensure_running(&unit)?;
    for _ in 0..2 {
        runtime.pause(&unit.id)?;
        assert!(is_running(runtime, &unit.id)?);
    }
    assert!(runtime.inventory()?.contains(&unit.id));
    for _ in 0..2 {
        runtime.resume(&unit.id)?;
        assert!(is_running(runtime, &unit.id)?);
    }
    runtime.ensure_gone(&unit.id).map(|_| ())
}

/// Nobody has to know that a unit was paused.
pub fn starting_and_stopping_resume(runtime: &dyn Runtime) -> Checked {
    let unit = sleeper();
    runtime.ensure_running(&unit)?;
    runtime.pause(&unit.id)?;
    assert_eq!(runtime.ensure_running(&unit)?, Ensured::AlreadyThere);
    runtime.pause(&unit.id)?;
    let clock = SystemClock;
    let begun = clock.instant();
    assert_eq!(runtime.ensure_gone(&unit.id)?, Removed::Deleted);
    assert!(begun.elapsed() < Duration::from_millis(unit.stop_grace_ms), "it was asked, not killed");
    Ok(())
}

/// Stopping keeps the log, forgetting drops it.
pub fn a_log_lives_until_it_is_forgotten(runtime: &dyn Runtime) -> Checked {
    let unit = spec("/bin/echo", &["hello"]);
    runtime.ensure_running(&unit)?;
    ended(runtime, &unit.id)?;
    runtime.ensure_running(&unit)?;
    ended(runtime, &unit.id)?;
    runtime.ensure_gone(&unit.id)?;
    runtime.tidy()?;
    assert_eq!(runtime.log_tail(&unit.id, 10)?, "hello\nhello\n");
    assert_eq!(runtime.log_tail(&unit.id, 1)?, "hello\n");
    runtime.forget(&unit.id)?;
    assert_eq!(runtime.log_tail(&unit.id, 10)?, "");
    Ok(())
}

/// The record of a running unit is not dropped.
pub fn what_runs_is_not_forgotten(runtime: &dyn Runtime) -> Checked {
    let unit = sleeper();
    runtime.ensure_running(&unit)?;
    assert!(runtime.forget(&unit.id).is_err());
    assert!(is_running(runtime, &unit.id)?);
    runtime.ensure_gone(&unit.id)?;
    runtime.forget(&unit.id)
}
