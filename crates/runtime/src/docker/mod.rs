//! Units as containers of a Docker or Podman engine, both through the engine's Docker interface.
//!
//! ```text
//!   (nothing) --start--> running --ended by itself--> exited --stop--> (nothing)
//!                           +----------- stop ------------------------^
//! ```
//!
//! A container is one run of a unit: every start makes a new one from the spec of that moment, under the name
//! `pando-UNIT`, and stopping removes it after its log was taken over. So the engine holds what runs, and what
//! ended by itself and nobody has looked after yet. Of units nothing is kept in memory: the daemon may restart at any
//! time, and so may the engine, with or without its containers.
//!
//! # Crash consistency
//! `HOME/units/UNIT/container.json` says that a unit is a container's. It is written before the container is made
//! and goes with the unit's log when the unit is forgotten; the name and the labels of a container are made of ids,
//! so a container is found again whatever is lost here. A crash between making and starting leaves a container that
//! never ran: the next start replaces it, and stopping removes it.

mod client;
mod form;
mod image;
mod look;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use pando_host::{Clock, SystemClock};
use pando_model::UnitId;
use serde_json::Value;

use self::client::{Client, Trouble, encoded};
use self::form::Habits;
pub use self::form::Unlimited;
pub use self::image::ImageFacts;
use self::image::Inspected;
pub use self::look::{Confines, EngineWords, socket};
use crate::{Ensured, Outcome, Removed, Runtime, RuntimeError, StopSignal, UnitSpec, UnitState, log};

/// The record of a unit that is a container's, beside its log.
const RECORD: &str = "container.json";
/// How often a program run to its end is asked after.
const TICK: Duration = Duration::from_millis(100);
/// How many lines of its log a finished program leaves behind.
const OUTCOME_LINES: usize = 200;
/// So many lines are taken over from a container that goes.
const KEPT_LINES: usize = 20_000;
/// How long SIGKILL may take.
const KILL_WITHIN: Duration = Duration::from_secs(30);

/// Runs units as containers.
pub struct DockerRuntime {
    home: PathBuf,
    client: Client,
    habits: OnceLock<Habits>,
    images: Mutex<HashMap<String, Inspected>>,
    facts: Mutex<HashMap<(String, String), ImageFacts>>,
    /// Whether a container that looked into an image may be left; locked while one looks.
    probes_left: Mutex<bool>,
    fallback: Option<String>,
}

/// A container, as the engine sees it.
struct Seen {
    status: String,
    pid: u32,
    code: Option<i32>,
}

impl Seen {
    fn runs(&self) -> bool {
        matches!(self.status.as_str(), "running" | "paused" | "restarting")
    }

    fn ended(&self) -> bool {
        matches!(self.status.as_str(), "exited" | "stopped" | "dead")
    }
}

fn failed(action: impl Into<String>) -> impl FnOnce(Trouble) -> RuntimeError {
    let action = action.into();
    move |trouble| RuntimeError::Io { action, source: trouble.into_io() }
}

fn io_error(action: impl Into<String>) -> impl FnOnce(io::Error) -> RuntimeError {
    let action = action.into();
    move |source| RuntimeError::Io { action, source }
}

const fn word(signal: StopSignal) -> &'static str {
    match signal {
        StopSignal::Term => "SIGTERM",
        StopSignal::Int => "SIGINT",
        StopSignal::Quit => "SIGQUIT",
        StopSignal::Kill => "SIGKILL",
    }
}

impl DockerRuntime {
    /// The runtime of a home on the engine behind a socket. The engine is not called yet, and need not be there.
    pub fn new(home: &Path, socket: &Path) -> Self {
        Self {
            home: home.to_owned(),
            client: Client::new(socket),
            habits: OnceLock::new(),
            images: Mutex::default(),
            facts: Mutex::default(),
            // The daemon before may have died in a look.
            probes_left: Mutex::new(true),
            fallback: None,
        }
    }

    /// Units whose spec names no image run in this one.
    #[must_use]
    pub fn with_fallback(mut self, image: &str) -> Self {
        self.fallback = Some(image.to_owned());
        self
    }

    /// The socket of the engine.
    pub fn socket(&self) -> &Path {
        self.client.socket()
    }

    /// Whether a unit is a container's: it was started as one and is not forgotten.
    pub fn has(&self, unit: &UnitId) -> bool {
        self.unit_dir(unit).join(RECORD).exists()
    }

    fn unit_dir(&self, unit: &UnitId) -> PathBuf {
        self.home.join("units").join(unit.as_str())
    }

    fn log_path(&self, unit: &UnitId) -> PathBuf {
        self.unit_dir(unit).join("log")
    }

    /// How the engine differs from others; asked once.
    fn habits(&self) -> Result<Habits, RuntimeError> {
        if let Some(habits) = self.habits.get() {
            return Ok(*habits);
        }
        let words = self.engine()?;
        Ok(*self.habits.get_or_init(|| words.habits))
    }

    fn look(&self, unit: &UnitId) -> Result<Option<Seen>, RuntimeError> {
        let answer = match self.client.container(&form::name(unit)) {
            Ok(answer) => answer,
            Err(trouble) if trouble.is_missing() => return Ok(None),
            Err(trouble) => return Err(failed(format!("asking {} for {unit}", self.socket().display()))(trouble)),
        };
        let state = &answer["State"];
        let number = |key: &str| state[key].as_i64();
        // Of a program that a signal has ended, the engine makes 128 and the signal's number.
        let code = number("ExitCode").and_then(|code| i32::try_from(code).ok()).filter(|code| (0..=128).contains(code));
        Ok(Some(Seen {
            status: state["Status"].as_str().unwrap_or_default().to_owned(),
            pid: number("Pid").and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default(),
            code,
        }))
    }

    /// Starts a container for a unit that has none that runs.
    fn start(&self, spec: &UnitSpec) -> Result<(), RuntimeError> {
        let refused = |source: io::Error| RuntimeError::Start { program: spec.program.clone(), source };
        if !spec.program.is_absolute() {
            return Err(refused(io::Error::new(io::ErrorKind::InvalidInput, "the program's path is not absolute")));
        }
        if spec.input.is_some() {
            return Err(refused(io::Error::new(io::ErrorKind::InvalidInput, "a container gets no standard input")));
        }
        let container = spec.container.clone().or_else(|| self.fallback.as_deref().map(crate::Container::of_image));
        let Some(container) = container else {
            return Err(refused(io::Error::new(io::ErrorKind::InvalidInput, "no image is named for it")));
        };
        let volumes = self.volumes_of(&container.image).map_err(Trouble::into_io).map_err(refused)?;
        let wanted = form::create(spec, &container, &self.home, self.habits()?, &volumes);
        self.record(spec)?;
        let name = form::name(&spec.id);
        let made = self
            .client
            .post(&format!("/containers/create?name={name}"), Some(&wanted))
            .and_then(|_| self.client.post(&format!("/containers/{name}/start"), None));
        if let Err(trouble) = made {
            let _ = self.client.delete(&format!("/containers/{name}?force=1&v=1"));
            return Err(refused(trouble.into_io()));
        }
        Ok(())
    }

    /// Writes down that a unit is a container's, and what was asked for.
    fn record(&self, spec: &UnitSpec) -> Result<(), RuntimeError> {
        let write = || {
            let dir = self.unit_dir(&spec.id);
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
            let hidden = dir.join(".container.json.tmp");
            pando_host::durable::remove_if_there(&hidden)?;
            // Its environment may hold secrets.
            let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&hidden)?;
            file.write_all(&serde_json::to_vec(spec)?)?;
            fs::rename(&hidden, dir.join(RECORD))
        };
        write().map_err(io_error(format!("writing the record of {}", spec.id)))
    }

    fn recorded(&self, unit: &UnitId) -> Option<UnitSpec> {
        serde_json::from_slice(&fs::read(self.unit_dir(unit).join(RECORD)).ok()?).ok()
    }

    /// What a container printed, at most so many lines of it.
    fn printed(&self, container: &str, lines: usize) -> Result<Vec<u8>, Trouble> {
        let path = format!("/containers/{container}/logs?stdout=1&stderr=1&tail={lines}");
        self.client.get_bytes(&path).map(|bytes| look::unwrapped(&bytes))
    }

    /// Removes a unit's container, which does not run, after taking over what it printed.
    fn bury(&self, unit: &UnitId) -> Result<(), RuntimeError> {
        let name = form::name(unit);
        if let Ok(bytes) = self.printed(&name, KEPT_LINES)
            && !bytes.is_empty()
        {
            let keep = || {
                fs::DirBuilder::new().recursive(true).mode(0o700).create(self.unit_dir(unit))?;
                let path = self.log_path(unit);
                log::open(&path, None)?.write_all(&bytes)?;
                log::trim(&path)
            };
            keep().map_err(io_error(format!("keeping the log of {unit}")))?;
        }
        match self.client.delete(&format!("/containers/{name}?force=1&v=1")) {
            Err(trouble) if !trouble.is_missing() => Err(failed(format!("removing the container of {unit}"))(trouble)),
            _ => Ok(()),
        }
    }

    fn signal(&self, unit: &UnitId, signal: &str) -> Result<(), Trouble> {
        self.client.post(&format!("/containers/{}/kill?signal={signal}", form::name(unit)), None).map(drop)
    }

    /// Waits until a container has ended; says whether it did.
    fn wait_ended(&self, unit: &UnitId, at_most: Duration) -> Result<bool, RuntimeError> {
        let deadline: Instant = SystemClock.instant() + at_most;
        let mut nap = Duration::from_millis(2);
        loop {
            if self.look(unit)?.is_none_or(|seen| !seen.runs()) {
                return Ok(true);
            }
            if SystemClock.instant() >= deadline {
                return Ok(false);
            }
            SystemClock.sleep(nap);
            nap = (nap * 2).min(Duration::from_millis(50));
        }
    }

    fn stop(&self, unit: &UnitId, how: Option<(StopSignal, Duration)>) -> Result<Removed, RuntimeError> {
        let Some(seen) = self.look(unit)? else { return Ok(Removed::AlreadyGone) };
        if !seen.runs() {
            return self.bury(unit).map(|()| Removed::AlreadyGone);
        }
        let of_spec = |spec: UnitSpec| (spec.stop_signal, Duration::from_millis(spec.stop_grace_ms));
        let how = how.or_else(|| self.recorded(unit).map(of_spec));
        let (signal, grace) = how.unwrap_or((StopSignal::Term, Duration::from_secs(10)));
        if signal != StopSignal::Kill {
            if seen.status == "paused" || self.habits()?.stops_by_signals() {
                self.resume(unit)?;
            }
            // It may have ended just now; whether it has is asked next.
            let _ = self.signal(unit, word(signal));
        }
        if signal == StopSignal::Kill || !self.wait_ended(unit, grace)? {
            self.resume(unit)?;
            let _ = self.signal(unit, word(StopSignal::Kill));
            if !self.wait_ended(unit, KILL_WITHIN)? {
                return Err(RuntimeError::Unstoppable(unit.clone()));
            }
        }
        self.bury(unit).map(|()| Removed::Deleted)
    }

    /// Pauses or lets go on; what does not run, or is so already, is left alone.
    fn freeze(&self, unit: &UnitId, freeze: bool) -> Result<(), RuntimeError> {
        let Some(seen) = self.look(unit)? else { return Ok(()) };
        if seen.runs() && self.habits()?.stops_by_signals() {
            let word = if freeze { "pausing" } else { "resuming" };
            return crate::process::hold(seen.pid, freeze).map_err(io_error(format!("{word} {unit}")));
        }
        let word = if freeze { "pause" } else { "unpause" };
        if !seen.runs() || (seen.status == "paused") == freeze {
            return Ok(());
        }
        match self.client.post(&format!("/containers/{}/{word}", form::name(unit)), None) {
            Err(trouble) if self.look(unit)?.is_some_and(|seen| seen.runs() && (seen.status == "paused") != freeze) => {
                Err(failed(format!("{word} of {unit}"))(trouble))
            }
            _ => Ok(()),
        }
    }
}

impl DockerRuntime {
    /// The units of this home whose containers are so.
    fn listed(&self, states: &[&str]) -> Result<Vec<UnitId>, RuntimeError> {
        let label = format!("{}={}", form::HOME, self.home.display());
        let filter = serde_json::json!({ "label": [label], "status": states }).to_string();
        let listed = self.client.get(&format!("/containers/json?all=1&filters={}", encoded(&filter)));
        let listed = listed.map_err(failed(format!("listing the containers of {}", self.socket().display())))?;
        let unit = |one: &Value| one["Labels"][form::UNIT].as_str()?.parse().ok();
        let mut units: Vec<UnitId> = listed.as_array().into_iter().flatten().filter_map(unit).collect();
        units.sort();
        Ok(units)
    }
}

impl Runtime for DockerRuntime {
    fn name(&self) -> &'static str {
        "docker"
    }

    fn confines(&self) -> bool {
        true
    }

    fn ensure_running(&self, unit: &UnitSpec) -> Result<Ensured, RuntimeError> {
        match self.look(&unit.id)? {
            Some(seen) if seen.runs() => {
                self.resume(&unit.id)?;
                if !self.has(&unit.id) {
                    self.record(unit)?;
                }
                return Ok(Ensured::AlreadyThere);
            }
            Some(_) => self.bury(&unit.id)?,
            None => {}
        }
        self.start(unit).map(|()| Ensured::Created)
    }

    fn ensure_gone(&self, unit: &UnitId) -> Result<Removed, RuntimeError> {
        self.stop(unit, None)
    }

    fn ensure_gone_by(&self, unit: &UnitId, signal: StopSignal, grace: Duration) -> Result<Removed, RuntimeError> {
        self.stop(unit, Some((signal, grace)))
    }

    fn state(&self, unit: &UnitId) -> Result<UnitState, RuntimeError> {
        Ok(match self.look(unit)? {
            Some(seen) if seen.runs() => UnitState::Running { pid: seen.pid },
            Some(seen) if seen.ended() => UnitState::Exited { code: seen.code },
            _ => UnitState::Gone,
        })
    }

    fn inventory(&self) -> Result<Vec<UnitId>, RuntimeError> {
        // By name: Podman leaves paused ones out of what it lists of itself.
        self.listed(&["running", "paused"])
    }

    fn remains(&self) -> Result<Vec<UnitId>, RuntimeError> {
        self.listed(&["created", "exited"])
    }

    fn run_once(&self, unit: &UnitSpec, tick: &mut dyn FnMut() -> bool) -> Result<Outcome, RuntimeError> {
        if self.ensure_running(unit)? == Ensured::AlreadyThere {
            let source = io::Error::new(io::ErrorKind::AlreadyExists, "it runs already");
            return Err(RuntimeError::Start { program: unit.program.clone(), source });
        }
        while !self.wait_ended(&unit.id, TICK)? {
            if !tick() {
                self.stop(&unit.id, Some((StopSignal::Kill, Duration::ZERO)))?;
                return Err(RuntimeError::Cancelled);
            }
        }
        let code = self.look(&unit.id)?.and_then(|seen| seen.code);
        let bytes = self.printed(&form::name(&unit.id), OUTCOME_LINES);
        let bytes = bytes.map_err(failed(format!("reading the log of {}", unit.id)))?;
        Ok(Outcome { code, log: String::from_utf8_lossy(&bytes).into_owned() })
    }

    fn reload(&self, unit: &UnitId) -> Result<(), RuntimeError> {
        self.signal(unit, "SIGHUP").map_err(failed(format!("reloading {unit}")))
    }

    fn pause(&self, unit: &UnitId) -> Result<(), RuntimeError> {
        self.freeze(unit, true)
    }

    fn resume(&self, unit: &UnitId) -> Result<(), RuntimeError> {
        self.freeze(unit, false)
    }

    fn log_tail(&self, unit: &UnitId, lines: usize) -> Result<String, RuntimeError> {
        let before = log::tail(&self.log_path(unit), 0, lines);
        let before = before.map_err(io_error(format!("reading the log of {unit}")))?;
        let now = match self.printed(&form::name(unit), lines) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(trouble) if trouble.is_missing() => String::new(),
            Err(trouble) => return Err(failed(format!("reading the log of {unit}"))(trouble)),
        };
        let all: Vec<&str> = before.lines().chain(now.lines()).collect();
        let shown = all.get(all.len().saturating_sub(lines)..).unwrap_or_default();
        Ok(shown.iter().flat_map(|line| [*line, "\n"]).collect())
    }

    fn tidy(&self) -> Result<(), RuntimeError> {
        self.clear_probes();
        for entry in fs::read_dir(self.home.join("units")).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.join(RECORD).exists() && path.join("log").exists() {
                log::trim(&path.join("log")).map_err(io_error(format!("trimming {}", path.display())))?;
            }
        }
        Ok(())
    }

    fn forget(&self, unit: &UnitId) -> Result<(), RuntimeError> {
        match self.look(unit)? {
            Some(seen) if seen.runs() => {
                let source = io::Error::new(io::ErrorKind::ResourceBusy, "it runs");
                return Err(RuntimeError::Io { action: format!("forgetting {unit}"), source });
            }
            Some(_) => self.bury(unit)?,
            None => {}
        }
        pando_host::durable::remove_tree_if_there(&self.unit_dir(unit))
            .map(drop)
            .map_err(io_error(format!("dropping the record of {unit}")))
    }
}
