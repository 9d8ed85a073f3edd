//! What the process runtime promises beyond the contract: crashes, strangers, crowds, logs.

mod postgres;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use super::*;
use crate::conformance::{self, ended, spec};

type Checked = Result<(), Box<dyn std::error::Error>>;

/// A runtime in a directory of its own; what a failed test leaves running is killed.
struct Bench {
    runtime: ProcessRuntime,
    home: tempfile::TempDir,
}

impl Bench {
    fn new() -> Result<Self, Box<dyn std::error::Error>> {
        let home = tempfile::tempdir()?;
        Ok(Self { runtime: ProcessRuntime::open(home.path())?, home })
    }

    /// What a daemon that died leaves to the next one.
    fn next_daemon(&self) -> Result<ProcessRuntime, RuntimeError> {
        ProcessRuntime::open(self.home.path())
    }

    fn record_path(&self, unit: &UnitId) -> PathBuf {
        self.home.path().join("units").join(unit.as_str()).join("unit.json")
    }

    fn set_phase(&self, unit: &UnitSpec, phase: Phase) -> Result<(), RuntimeError> {
        self.runtime.save(unit, phase)
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        for unit in self.runtime.inventory().unwrap_or_default() {
            let _ = self.runtime.ensure_gone_by(&unit, StopSignal::Kill, Duration::ZERO);
        }
    }
}

fn sleeper() -> UnitSpec {
    spec("/bin/sleep", &["600"])
}

fn shell(script: &str) -> UnitSpec {
    spec("/bin/sh", &["-c", script])
}

#[allow(clippy::disallowed_methods, reason = "tests measure and wait")]
fn now() -> Instant {
    Instant::now()
}

#[allow(clippy::disallowed_methods, reason = "tests measure and wait")]
fn nap(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        nap(10);
    }
    panic!("not within ten seconds: {what}");
}

fn members(runtime: &ProcessRuntime, unit: &UnitId) -> io::Result<usize> {
    let first = match runtime.state(unit) {
        Ok(UnitState::Running { pid }) => process::stat(pid).map(|stat| stat.id),
        _ => None,
    };
    runtime.with_crowd(unit, first, |crowd, _| Ok(crowd.alive().len()))
}

#[test]
fn it_keeps_the_contract() -> Checked {
    Ok(conformance::all(&Bench::new()?.runtime)?)
}

#[test]
fn a_unit_changes_files_below_its_directories_alone() -> Checked {
    let bench = Bench::new()?;
    let place = tempfile::tempdir()?;
    let [own, other] = ["own", "other"].map(|name| place.path().join(name));
    for dir in [&own, &other] {
        std::fs::create_dir(dir)?;
        std::fs::write(dir.join("file"), "as it was")?;
    }
    let script = |dir: &Path| {
        let dir = dir.display();
        shell(&format!("cat {dir}/file >/dev/null && echo x >{dir}/new; echo x >{dir}/file; rm {dir}/file"))
    };
    for (dir, left) in [(&other, vec!["file"]), (&own, vec!["new"])] {
        let mut unit = script(dir);
        unit.writes = Some(vec![own.clone()]);
        bench.runtime.run_once(&unit, &mut || true)?;
        let mut found: Vec<_> = std::fs::read_dir(dir)?.flatten().map(|entry| entry.file_name()).collect();
        found.sort();
        assert_eq!(found, left);
    }
    assert_eq!(std::fs::read_to_string(other.join("file"))?, "as it was");
    bench.runtime.run_once(&script(&other), &mut || true)?;
    assert!(!other.join("file").exists(), "who is not confined is not");
    Ok(())
}

#[test]
fn the_next_daemon_adopts_what_runs() -> Checked {
    let bench = Bench::new()?;
    let unit = sleeper();
    bench.runtime.ensure_running(&unit)?;
    let next = bench.next_daemon()?;
    assert_eq!(next.state(&unit.id)?, bench.runtime.state(&unit.id)?);
    assert_eq!(next.inventory()?, vec![unit.id.clone()]);
    assert_eq!(next.ensure_running(&unit)?, Ensured::AlreadyThere);
    assert_eq!(next.ensure_gone(&unit.id)?, Removed::Deleted);
    assert_eq!(next.state(&unit.id)?, UnitState::Gone);
    Ok(())
}

#[test]
fn an_adopted_unit_ends_without_a_code() -> Checked {
    let bench = Bench::new()?;
    let unit = shell("sleep 0.2; exit 3");
    bench.runtime.ensure_running(&unit)?;
    let next = bench.next_daemon()?;
    assert_eq!(ended(&next, &unit.id)?, UnitState::Exited { code: None });
    Ok(())
}

#[test]
fn a_crash_before_the_process_id_was_recorded_loses_nothing() -> Checked {
    let bench = Bench::new()?;
    let unit = sleeper();
    bench.runtime.ensure_running(&unit)?;
    let state = bench.runtime.state(&unit.id)?;
    bench.set_phase(&unit, Phase::Starting)?;
    let next = bench.next_daemon()?;
    assert_eq!(next.state(&unit.id)?, state);
    assert_eq!(next.ensure_running(&unit)?, Ensured::AlreadyThere);
    assert!(matches!(next.load(&unit.id)?.map(|record| record.phase), Some(Phase::Running(_))));
    assert_eq!(next.ensure_gone(&unit.id)?, Removed::Deleted);

    bench.set_phase(&unit, Phase::Starting)?;
    assert_eq!(next.state(&unit.id)?, UnitState::Gone, "it never was started");
    assert_eq!(next.ensure_gone(&unit.id)?, Removed::AlreadyGone);
    bench.set_phase(&unit, Phase::Starting)?;
    assert_eq!(next.ensure_running(&unit)?, Ensured::Created);
    Ok(())
}

#[test]
fn a_unit_is_found_when_its_files_are_lost_or_damaged() -> Checked {
    let bench = Bench::new()?;
    for damage in [None, Some(""), Some("{"), Some("{\"spec\":1}")] {
        let unit = sleeper();
        bench.runtime.ensure_running(&unit)?;
        match damage {
            None => std::fs::remove_dir_all(bench.home.path().join("units"))?,
            Some(text) => std::fs::write(bench.record_path(&unit.id), text)?,
        }
        let next = bench.next_daemon()?;
        assert!(matches!(next.state(&unit.id)?, UnitState::Running { .. }), "{damage:?}");
        assert_eq!(next.inventory()?, vec![unit.id.clone()]);
        assert_eq!(next.ensure_gone(&unit.id)?, Removed::Deleted);
        assert_eq!(next.inventory()?, vec![]);
    }
    Ok(())
}

#[test]
fn another_home_does_not_see_it() -> Checked {
    let (bench, other) = (Bench::new()?, Bench::new()?);
    let unit = sleeper();
    bench.runtime.ensure_running(&unit)?;
    assert_eq!(other.runtime.state(&unit.id)?, UnitState::Gone);
    assert_eq!(other.runtime.inventory()?, vec![]);
    assert_eq!(other.runtime.ensure_gone(&unit.id)?, Removed::AlreadyGone);
    assert!(matches!(bench.runtime.state(&unit.id)?, UnitState::Running { .. }));
    Ok(())
}

#[test]
fn a_process_that_took_the_id_over_is_left_alone() -> Checked {
    let bench = Bench::new()?;
    let mut stranger = pando_host::Tool::at("/bin/sleep").command().arg("600").build().spawn()?;
    let id = process::stat(stranger.id()).ok_or("it runs")?.id;
    let unit = sleeper();
    bench.set_phase(&unit, Phase::Running(ProcessId { start: id.start - 1, ..id }))?;
    assert_eq!(bench.runtime.state(&unit.id)?, UnitState::Gone);
    assert!(bench.runtime.inventory()?.is_empty());
    assert!(bench.runtime.reload(&unit.id).is_err());
    bench.runtime.pause(&unit.id)?;
    assert_eq!(bench.runtime.ensure_gone(&unit.id)?, Removed::AlreadyGone);

    let record = Record { spec: unit.clone(), boot: "another boot".into(), phase: Phase::Running(id) };
    bench.runtime.records.save(&record)?;
    assert_eq!(bench.runtime.state(&unit.id)?, UnitState::Gone);
    assert_eq!(bench.runtime.ensure_gone(&unit.id)?, Removed::AlreadyGone);
    assert!(stranger.try_wait()?.is_none(), "it was not touched");
    assert_ne!(process::stat(id.pid).ok_or("it runs")?.state, b'T');
    stranger.kill()?;
    stranger.wait()?;
    Ok(())
}

#[test]
fn strange_values_reach_the_unit_unchanged_and_cannot_hide_it() -> Checked {
    let bench = Bench::new()?;
    let mut unit = spec("/usr/bin/env", &["-0"]);
    let strange = "a b\n'\"$(x)`\\ü\u{1F333}=;\tPANDO_UNIT=unit-0000000000000000\nPANDO_HOME=/";
    unit.env.insert("STRANGE".into(), strange.into());
    unit.env.insert("EMPTY".into(), String::new());
    unit.env.insert("PANDO_UNIT".into(), "unit-0000000000000000".into());
    unit.env.insert("LC_ALL".into(), "C.UTF-8".into());
    let outcome = bench.runtime.run_once(&unit, &mut || true)?;
    let seen: Vec<&str> = outcome.log.trim_end_matches('\n').split('\0').collect();
    assert!(seen.contains(&format!("STRANGE={strange}").as_str()), "{seen:?}");
    assert!(seen.contains(&"EMPTY=") && seen.contains(&"LC_ALL=C.UTF-8"));
    assert!(seen.contains(&format!("PANDO_UNIT={}", unit.id).as_str()));

    for (name, value) in [("", "x"), ("A=B", "x"), ("A\0B", "x"), ("A", "s3cret\0")] {
        let mut unit = sleeper();
        unit.env.insert(name.into(), value.into());
        let error = bench.runtime.ensure_running(&unit).expect_err("it cannot be passed on");
        assert!(!format!("{error:?}").contains("s3cret"));
        assert_eq!(bench.runtime.state(&unit.id)?, UnitState::Gone);
    }
    Ok(())
}

#[test]
fn what_could_not_start_says_why() -> Checked {
    let bench = Bench::new()?;
    let missing = spec("/no/such/program", &[]);
    let error = bench.runtime.ensure_running(&missing).expect_err("there is no such program");
    assert_eq!(error.to_string(), "starting /no/such/program");
    let mut nowhere = sleeper();
    nowhere.dir = "/no/such/dir".into();
    let error = bench.runtime.ensure_running(&nowhere).expect_err("there is no such directory");
    assert!(std::error::Error::source(&error).is_some_and(|why| why.to_string().contains("/no/such/dir")));
    assert!(bench.runtime.run_once(&missing, &mut || true).is_err());
    assert!(bench.runtime.inventory()?.is_empty());
    Ok(())
}

#[test]
fn records_and_logs_are_closed_to_others() -> Checked {
    let bench = Bench::new()?;
    let unit = sleeper();
    bench.runtime.ensure_running(&unit)?;
    let mode = |path: &Path| std::fs::metadata(path).map(|meta| meta.permissions().mode() & 0o777);
    assert_eq!(mode(&bench.record_path(&unit.id))?, 0o600);
    assert_eq!(mode(&bench.runtime.records.log_path(&unit.id))?, 0o600);
    assert_eq!(mode(&bench.home.path().join("units"))?, 0o700);
    Ok(())
}

#[test]
fn fifty_units_from_eight_threads() -> Checked {
    let bench = Bench::new()?;
    let units: Vec<UnitSpec> = (0..50).map(|_| sleeper()).collect();
    let each = |work: &(dyn Fn(&UnitSpec) + Sync)| {
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let units = &units;
                scope.spawn(move || units.iter().skip(thread).step_by(8).for_each(work));
            }
        });
    };
    each(&|unit| assert_eq!(bench.runtime.ensure_running(unit).expect("starts"), Ensured::Created));
    let mut expected: Vec<UnitId> = units.iter().map(|unit| unit.id.clone()).collect();
    expected.sort();
    assert_eq!(bench.runtime.inventory()?, expected);
    each(&|unit| assert_eq!(bench.runtime.ensure_gone(&unit.id).expect("stops"), Removed::Deleted));
    assert!(bench.runtime.inventory()?.is_empty());
    Ok(())
}

#[test]
fn threads_that_start_one_unit_start_one_process() -> Checked {
    let bench = Bench::new()?;
    let unit = sleeper();
    let created: usize = std::thread::scope(|scope| {
        let start = || bench.runtime.ensure_running(&unit).expect("starts") == Ensured::Created;
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
        threads.into_iter().map(|thread| usize::from(thread.join().expect("no panic"))).sum()
    });
    assert_eq!(created, 1);
    assert_eq!(members(&bench.runtime, &unit.id)?, 1);
    Ok(())
}

#[test]
fn nothing_is_left_of_a_family_that_will_not_go() -> Checked {
    let bench = Bench::new()?;
    // A stubborn first process; a child in a session of its own; an orphan without environment.
    let mut unit = shell(
        "trap '' TERM; setsid sh -c 'trap \"\" TERM; sleep 600; sleep 600' & \
         (env -i setsid sleep 600 >/dev/null 2>&1 &) ; while :; do sleep 600; done",
    );
    unit.stop_grace_ms = 200;
    bench.runtime.ensure_running(&unit)?;
    until("all five run", || members(&bench.runtime, &unit.id).is_ok_and(|members| members == 5));
    let begun = now();
    assert_eq!(bench.runtime.ensure_gone(&unit.id)?, Removed::Deleted);
    assert!(begun.elapsed() >= Duration::from_millis(200) && begun.elapsed() < Duration::from_secs(5));
    assert_eq!(members(&bench.runtime, &unit.id)?, 0);
    Ok(())
}

#[test]
fn orphans_of_a_killed_process_are_found_by_the_next_daemon() -> Checked {
    let bench = Bench::new()?;
    let unit = shell("setsid sleep 600 & env -i setsid sleep 600 >/dev/null 2>&1 & wait");
    bench.runtime.ensure_running(&unit)?;
    until("all run", || members(&bench.runtime, &unit.id).is_ok_and(|members| members == 3));
    let UnitState::Running { pid } = bench.runtime.state(&unit.id)? else { return Err("it runs".into()) };
    Process::open(process::stat(pid).ok_or("it runs")?.id).ok_or("it runs")?.signal(Signal::KILL)?;
    let next = bench.next_daemon()?;
    assert_eq!(ended(&next, &unit.id)?, UnitState::Exited { code: None });
    assert_eq!(members(&next, &unit.id)?, 2);
    assert_eq!(next.inventory()?, vec![unit.id.clone()]);
    assert_eq!(next.ensure_gone(&unit.id)?, Removed::Deleted);
    assert_eq!(members(&next, &unit.id)?, 0);
    Ok(())
}

#[test]
fn looking_nearby_finds_whom_looking_everywhere_finds() -> Checked {
    let bench = Bench::new()?;
    let unit = shell("setsid sh -c 'sleep 600; :' & (env -i setsid sleep 600 >/dev/null 2>&1 &) ; wait");
    bench.runtime.ensure_running(&unit)?;
    until("all four run", || members(&bench.runtime, &unit.id).is_ok_and(|members| members == 4));
    let UnitState::Running { pid } = bench.runtime.state(&unit.id)? else { return Err("it runs".into()) };
    let first = process::stat(pid).ok_or("it runs")?.id;
    for (seeds, since) in [(BTreeSet::from([first]), Some(first.start)), (BTreeSet::new(), None)] {
        let look = |nearby| -> io::Result<Vec<ProcessId>> {
            let (census, seeds) = Census::of_unit(&unit.id, seeds.clone(), since, bench.runtime.marks(), nearby)?;
            Ok(census.family(&seeds).into_keys().collect())
        };
        assert_eq!(look(true)?, look(false)?);
        assert_eq!(look(true)?.len(), 4);
    }
    Ok(())
}

#[test]
fn a_busy_family_stands_still_while_paused() -> Checked {
    let bench = Bench::new()?;
    // Forks and vforks without end, and counts.
    let mut unit = shell("i=0; while :; do i=$((i+1)); echo $i; /bin/true; (: ; /bin/true); done");
    unit.stop_grace_ms = 2000;
    bench.runtime.ensure_running(&unit)?;
    let log = bench.runtime.records.log_path(&unit.id);
    for _ in 0..100 {
        bench.runtime.pause(&unit.id)?;
        let length = log::length(&log);
        nap(5);
        assert_eq!(log::length(&log), length, "it wrote while paused");
        bench.runtime.resume(&unit.id)?;
        until("it goes on", || log::length(&log) > length);
    }
    bench.runtime.pause(&unit.id)?;
    let length = log::length(&log);
    let next = bench.next_daemon()?;
    assert_eq!(next.ensure_running(&unit)?, Ensured::AlreadyThere);
    until("the next daemon lets it go on", || log::length(&log) > length);
    next.pause(&unit.id)?;
    assert_eq!(next.ensure_gone(&unit.id)?, Removed::Deleted);
    Ok(())
}

#[test]
fn a_program_that_ends_is_noticed_at_once_and_leaves_nobody() -> Checked {
    let bench = Bench::new()?;
    let unit = shell("setsid sleep 600 & echo done; exit 4");
    let mut fastest = Duration::MAX;
    for _ in 0..20 {
        let begun = now();
        let outcome = bench.runtime.run_once(&unit, &mut || true)?;
        fastest = fastest.min(begun.elapsed());
        assert_eq!((outcome.code, outcome.log.as_str()), (Some(4), "done\n"));
        assert_eq!(members(&bench.runtime, &unit.id)?, 0);
    }
    assert!(fastest < TICK, "waiting is not cut into ticks: {fastest:?}");
    let killed = shell("kill -9 $$");
    assert_eq!(bench.runtime.run_once(&killed, &mut || true)?.code, None);
    Ok(())
}

#[test]
fn somebody_else_can_stop_a_program() -> Checked {
    let bench = Bench::new()?;
    let unit = sleeper();
    std::thread::scope(|scope| {
        let run = scope.spawn(|| bench.runtime.run_once(&unit, &mut || true));
        until("it runs", || bench.runtime.inventory().is_ok_and(|units| units.contains(&unit.id)));
        assert_eq!(bench.runtime.ensure_gone(&unit.id).expect("stops"), Removed::Deleted);
        assert_eq!(run.join().expect("no panic").expect("an outcome").code, None);
    });
    Ok(())
}

#[test]
fn a_log_is_bounded_while_it_is_written() -> Checked {
    let bench = Bench::new()?;
    let unit = shell("yes 0123456789012345678901234567890123456789 | head -c 11000000; echo; echo last; sleep 600");
    bench.runtime.ensure_running(&unit)?;
    until("all is written", || bench.runtime.log_tail(&unit.id, 1).is_ok_and(|end| end == "last\n"));
    bench.runtime.tidy()?;
    let log = bench.runtime.records.log_path(&unit.id);
    let length = log::length(&log);
    assert!(length <= log::KEEP && length > log::KEEP - 100, "{length}");
    let text = bench.runtime.log_tail(&unit.id, 3)?;
    assert!(text.ends_with("last\n"));
    assert!(std::fs::read_to_string(&log)?.starts_with("0123456789012345678901234567890123456789\n"));
    assert!(bench.runtime.log_tail(&unit.id, usize::MAX)?.len() <= 1 << 20);
    Ok(())
}

#[test]
fn a_reload_reaches_the_first_process() -> Checked {
    let bench = Bench::new()?;
    let unit = shell("trap 'echo again' HUP; echo ready; while :; do sleep 0.05; done");
    bench.runtime.ensure_running(&unit)?;
    until("it is ready", || bench.runtime.log_tail(&unit.id, 1).is_ok_and(|end| end == "ready\n"));
    bench.runtime.reload(&unit.id)?;
    until("it was told", || bench.runtime.log_tail(&unit.id, 1).is_ok_and(|end| end == "again\n"));
    Ok(())
}
