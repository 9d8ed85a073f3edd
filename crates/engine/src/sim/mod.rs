//! An engine without servers, for tests of whoever uses an engine: together with the simulated pool and
//! runtime every step of every operation can be failed in milliseconds.
//!
//! Production (`sim://host/path`) is one counter in memory. Its history, time and value, is what a log would
//! bring: a position is an index into it. Shared as an `Arc`, production outlives the daemon that a test
//! lets crash. On disk there is little, and all of it text:
//!
//! ```text
//! data/state     the counter, the "data"; a test may write it in a clone
//! data/place     what it stands for (JSON: epoch, index, through)
//! data/owner     who made the tree ready: `mirror TAG`, or `clone PORT PROFILE`
//! data/admitted  the user who may enter; not there before `admit`
//! log/stretches  the stretches of log (JSON)
//! ```

mod disk;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use pando_host::Clock;
use pando_model::{DoctorItem, EngineKind, Lsn, SettingChange, SourceUrl};

use crate::{
    Baked, Credentials, Engine, EngineError, Finding, Ingest, Instead, Link, Mark, Point, Preflight, Pulse, Readiness,
    Seat, Source, Stage, Stretch, UnitPlan, Want,
};
use disk::{Epoch, PlaceOf, read_stretches, read_text, write_stretches, write_text};

#[derive(Clone)]
struct Inner {
    history: Vec<(Timestamp, u64)>,
    link: Link,
    starting: bool,
    renews: bool,
    gives_up: bool,
    otherwise: BTreeSet<PathBuf>,
    refused: Option<String>,
    held: BTreeSet<PathBuf>,
    fences: BTreeSet<String>,
    slots: BTreeSet<String>,
    calls: BTreeMap<&'static str, u64>,
    failing: BTreeMap<&'static str, u64>,
}

/// A simulated engine and its production.
#[derive(Clone)]
pub struct SimEngine {
    clock: Arc<dyn Clock>,
    inner: Arc<Mutex<Inner>>,
}

impl SimEngine {
    /// A production whose counter is 0 since now.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let inner = Inner {
            history: vec![(clock.now(), 0)],
            link: Link::Following,
            starting: false,
            renews: false,
            gives_up: false,
            otherwise: BTreeSet::new(),
            refused: None,
            held: BTreeSet::new(),
            fences: BTreeSet::new(),
            slots: BTreeSet::new(),
            calls: BTreeMap::new(),
            failing: BTreeMap::new(),
        };
        Self { clock, inner: Arc::new(Mutex::new(inner)) }
    }

    /// The same production, going its own way from here on.
    #[must_use]
    pub fn fork(&self, clock: Arc<dyn Clock>) -> Self {
        Self { clock, inner: Arc::new(Mutex::new(self.lock().clone())) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Production commits a value, now. Answers its position.
    pub fn commit(&self, value: u64) -> Lsn {
        let now = self.clock.now();
        let mut inner = self.lock();
        inner.history.push((now, value));
        Lsn(inner.history.len() as u64 - 1)
    }

    /// What `pulse` answers from now on; `Following` heals.
    pub fn set_link(&self, link: Link) {
        self.lock().link = link;
    }

    /// Whether served sources stay at "starting".
    pub fn set_starting(&self, starting: bool) {
        self.lock().starting = starting;
    }

    /// Whether trees have to be made anew before they leave.
    pub fn set_renews(&self, renews: bool) {
        self.lock().renews = renews;
    }

    /// Whether a first copy fails, and is made in another way.
    pub fn set_gives_up(&self, gives_up: bool) {
        self.lock().gives_up = gives_up;
    }

    /// Makes `preflight` find something fatal, or not.
    pub fn set_refused(&self, why: Option<&str>) {
        self.lock().refused = why.map(str::to_owned);
    }

    /// The `nth` call (1: the next) of the method with this name fails, once, before it does anything.
    pub fn fail(&self, method: &'static str, nth: u64) {
        let mut inner = self.lock();
        let at = inner.calls.get(method).copied().unwrap_or(0) + nth;
        inner.failing.insert(method, at);
    }

    /// How often a method was called.
    pub fn calls(&self, method: &str) -> u64 {
        self.lock().calls.get(method).copied().unwrap_or(0)
    }

    /// The mirrors that production keeps log for: tags that were ingested and not detached.
    pub fn slots(&self) -> Vec<String> {
        self.lock().slots.iter().cloned().collect()
    }

    /// The mirrors for which production's writes are held.
    pub fn fences(&self) -> Vec<String> {
        self.lock().fences.iter().cloned().collect()
    }

    /// A fence's time is over.
    pub fn drop_fences(&self) {
        self.lock().fences.clear();
    }

    /// Whether a mirror is being held.
    pub fn is_held(&self, data: &Path) -> bool {
        self.lock().held.contains(data)
    }

    fn enter(&self, method: &'static str) -> Result<MutexGuard<'_, Inner>, EngineError> {
        let mut inner = self.lock();
        let count = inner.calls.entry(method).or_insert(0);
        *count += 1;
        let count = *count;
        if inner.failing.get(method) == Some(&count) {
            inner.failing.remove(method);
            return Err(EngineError::Invalid(format!("{method} was told to fail")));
        }
        Ok(inner)
    }
}

impl Inner {
    fn last(&self) -> u64 {
        self.history.len() as u64 - 1
    }

    fn at(&self, index: u64) -> Result<(Timestamp, u64), EngineError> {
        let known = usize::try_from(index).ok().and_then(|index| self.history.get(index));
        known.copied().ok_or_else(|| EngineError::Invalid(format!("production never was at {}", Lsn(index))))
    }

    fn show(&self, data: &Path, place: &PlaceOf) -> Result<(), EngineError> {
        write_text(data, "state", &self.at(place.index)?.1.to_string())?;
        place.write(data)
    }
}

fn plan(role: &'static str, program: &str, seat: &Seat) -> UnitPlan {
    UnitPlan {
        role,
        program: program.into(),
        args: Vec::new(),
        env: BTreeMap::new(),
        dir: seat.data.clone(),
        account: seat.account.clone(),
        locks: Vec::new(),
        stop_by_interrupt: false,
        stop_grace_seconds: 1,
    }
}

impl Engine for SimEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Sim
    }

    fn doctor(&self) -> Vec<DoctorItem> {
        Vec::new()
    }

    fn preflight(&self, _url: &SourceUrl) -> Result<Preflight, EngineError> {
        let refused = self.enter("preflight")?.refused.clone();
        let findings = refused.map(|what| Finding { what, fix: None, fatal: true }).into_iter().collect();
        let facts = serde_json::json!({ "sim": 1 });
        Ok(Preflight { facts, version: Some("sim 1".into()), bytes: Some(8), findings, ..Preflight::default() })
    }

    fn ingest(&self, seat: &Seat, source: &Source) -> Result<UnitPlan, EngineError> {
        self.enter("ingest")?.slots.insert(source.tag.clone());
        disk::empty(&seat.data)?;
        let mut inner = self.lock();
        let fails = !inner.otherwise.remove(&seat.log) && inner.gives_up;
        Ok(plan("ingest", if fails { "/bin/false" } else { "/bin/true" }, seat))
    }

    fn instead(&self, seat: &Seat, _: &str) -> Option<Instead> {
        let mut inner = self.lock();
        let other = inner.gives_up && inner.otherwise.insert(seat.log.clone());
        other.then(|| Instead::Anew { was: "", now: "it was copied in another way".to_owned() })
    }

    fn progress(&self, _: &Seat, _log: &str) -> Option<(u64, Option<u64>)> {
        Some((8, Some(8)))
    }

    fn settle(&self, seat: &Seat, source: &Source) -> Result<(), EngineError> {
        let inner = self.enter("settle")?;
        let through = self.clock.now();
        let mut epochs = read_stretches(&seat.log)?;
        let epoch = epochs.last().map_or(1, |last| last.epoch + 1);
        // Repeated, it begins one more epoch, as a real copy made twice would.
        epochs.push(Epoch { epoch, first: inner.last(), last: inner.last(), through });
        write_stretches(&seat.log, &epochs)?;
        inner.show(&seat.data, &PlaceOf { epoch, index: inner.last(), through })?;
        write_text(&seat.data, "owner", &format!("mirror {}", source.tag))
    }

    fn follow(&self, seat: &Seat, source: &Source) -> Result<Vec<UnitPlan>, EngineError> {
        self.enter("follow")?.slots.insert(source.tag.clone());
        Ok(vec![plan("receiver", "/bin/sim-receiver", seat), plan("server", "/bin/sim-server", seat)])
    }

    fn pulse(&self, seat: &Seat, _source: &Source, _urgent: bool) -> Result<Pulse, EngineError> {
        let inner = self.enter("pulse")?;
        let mut epochs = read_stretches(&seat.log)?;
        let Some(epoch) = epochs.last_mut() else {
            return Ok(Pulse { link: inner.link.clone(), through: None, changed: false });
        };
        let before = epoch.last;
        if inner.link == Link::Following {
            *epoch = Epoch { last: inner.last(), through: self.clock.now(), ..*epoch };
            if !inner.held.contains(&seat.data) {
                let place = PlaceOf { epoch: epoch.epoch, index: epoch.last, through: epoch.through };
                inner.show(&seat.data, &place)?;
            }
        }
        let (through, changed) = (Some(epoch.through), epoch.last != before);
        write_stretches(&seat.log, &epochs)?;
        Ok(Pulse { link: inner.link.clone(), through, changed })
    }

    fn sync(&self, _seat: &Seat, _source: &Source) -> Result<Option<UnitPlan>, EngineError> {
        self.enter("sync").map(|_| None)
    }

    fn hold(&self, seat: &Seat, _source: &Source) -> Result<(), EngineError> {
        self.enter("hold")?.held.insert(seat.data.clone());
        Ok(())
    }

    fn can_fence(&self) -> bool {
        true
    }

    fn fence(&self, source: &Source, _limit: std::time::Duration) -> Result<(), EngineError> {
        self.enter("fence")?.fences.insert(source.tag.clone());
        Ok(())
    }

    fn unfence(&self, source: &Source) -> Result<bool, EngineError> {
        Ok(self.enter("unfence")?.fences.remove(&source.tag))
    }

    fn release(&self, seat: &Seat, _source: &Source) -> Result<(), EngineError> {
        self.enter("release")?.held.remove(&seat.data);
        Ok(())
    }

    fn mark(
        &self,
        tree: &Seat,
        _seat: &Seat,
        _source: &Source,
        asked: Timestamp,
        clone: bool,
    ) -> Result<Mark, EngineError> {
        let inner = self.enter("mark")?;
        let place = PlaceOf::read(&tree.data)?;
        let time = Some(inner.at(place.index)?.0);
        let from = Point { epoch: place.epoch, timeline: 0, lsn: Lsn(place.index), time };
        Ok(Mark { from, at: if clone { asked } else { place.through }, rolls: !clone })
    }

    fn detach(&self, source: &Source) -> Result<(), EngineError> {
        self.enter("detach")?.slots.remove(&source.tag);
        Ok(())
    }

    fn stretches(&self, log: &Path) -> Result<Vec<Stretch>, EngineError> {
        drop(self.enter("stretches")?);
        Ok(read_stretches(log)?.iter().map(Epoch::stretch).collect())
    }

    fn locate(&self, log: &Path, from: &Point, want: Want) -> Result<Option<Point>, EngineError> {
        let inner = self.enter("locate")?;
        let Some(epoch) = read_stretches(log)?.into_iter().find(|epoch| epoch.epoch == from.epoch) else {
            return Ok(None);
        };
        let first = epoch.first.max(from.lsn.0);
        let index = match want {
            Want::End => Some(epoch.last),
            Want::Lsn(lsn) => Some(lsn.0),
            Want::Time(time) if time > epoch.through => None,
            Want::Time(time) => (first..=epoch.last).rev().find(|index| inner.at(*index).is_ok_and(|(t, _)| t <= time)),
        };
        let Some(index) = index.filter(|index| (first..=epoch.last).contains(index)) else { return Ok(None) };
        Ok(Some(Point { epoch: from.epoch, timeline: 0, lsn: Lsn(index), time: Some(inner.at(index)?.0) }))
    }

    fn trim(&self, log: &Path, before: &Point) -> Result<(), EngineError> {
        drop(self.enter("trim")?);
        let mut epochs = read_stretches(log)?;
        epochs.retain(|epoch| epoch.epoch >= before.epoch);
        for epoch in epochs.iter_mut().filter(|epoch| epoch.epoch == before.epoch) {
            epoch.first = epoch.first.max(before.lsn.0);
        }
        write_stretches(log, &epochs)
    }

    fn stage(&self, seat: &Seat, _source: &Source, stage: &Stage) -> Result<(), EngineError> {
        let inner = self.enter("stage")?;
        if let (Some(point), Some(log)) = (&stage.to, &stage.log) {
            let epochs = read_stretches(log)?;
            let there =
                |epoch: &&Epoch| epoch.epoch == point.epoch && (epoch.first..=epoch.last).contains(&point.lsn.0);
            let epoch = epochs.iter().find(there).ok_or_else(|| {
                EngineError::Invalid(format!("{} of epoch {} is not in the log", point.lsn, point.epoch))
            })?;
            let through = point.time.unwrap_or(epoch.through);
            inner.show(&seat.data, &PlaceOf { epoch: point.epoch, index: point.lsn.0, through })?;
        }
        disk::remove(&seat.data, "admitted")?;
        let port = stage.port.map_or_else(|| "none".to_owned(), |port| port.to_string());
        write_text(&seat.data, "owner", &format!("clone {port} {}", stage.profile))
    }

    fn serve(&self, seat: &Seat, _source: &Source) -> Result<Option<UnitPlan>, EngineError> {
        drop(self.enter("serve")?);
        Ok(Some(plan("server", "/bin/sim-server", seat)))
    }

    fn ready(&self, seat: &Seat, _source: &Source) -> Result<Readiness, EngineError> {
        let starting = self.enter("ready")?.starting;
        read_text(&seat.data, "state")?;
        Ok(if starting { Readiness::Starting("told to take its time".into()) } else { Readiness::Ready })
    }

    fn fits(&self, _source: &Source) -> Result<(), EngineError> {
        drop(self.enter("fits")?);
        Ok(())
    }

    fn receive(&self, data: &Path, _source: &Source) -> Result<(), EngineError> {
        drop(self.enter("receive")?);
        read_text(data, "state").map(drop)
    }

    fn admit(&self, seat: &Seat, _source: &Source, credentials: Option<&Credentials>) -> Result<(), EngineError> {
        drop(self.enter("admit")?);
        credentials.map_or(Ok(()), |credentials| write_text(&seat.data, "admitted", &credentials.user))
    }

    fn record(&self, seat: &Seat, _source: &Source) -> Result<Option<UnitPlan>, EngineError> {
        drop(self.enter("record")?);
        Ok(Some(plan("receiver", "/bin/sim-receiver", seat)))
    }

    fn diagnose(&self, _log: &str) -> Option<Link> {
        None
    }

    fn check_settings(&self, _set: &SettingChange) -> Result<(), EngineError> {
        Ok(())
    }

    fn slim(&self, seat: &Seat, _source: &Source) -> Result<(), EngineError> {
        drop(self.enter("slim")?);
        fs::metadata(&seat.data).map(drop).map_err(disk::io("looking at", &seat.data))
    }

    fn prepares_images(&self) -> bool {
        self.lock().renews
    }

    fn renews(&self) -> bool {
        self.lock().renews
    }

    fn scrub(&self, seat: &Seat, _source: &Source) -> Result<(), EngineError> {
        drop(self.enter("scrub")?);
        write_text(&seat.data, "scrubbed", "yes")
    }

    fn scrub_stopped(&self, seat: &Seat, _source: &Source) -> Result<(), EngineError> {
        drop(self.enter("scrub_stopped")?);
        read_text(&seat.data, "scrubbed").map(drop)
    }

    fn renew(&self, seat: &Seat, _source: &Source, done: usize) -> Result<Option<Ingest>, EngineError> {
        drop(self.enter("renew")?);
        read_text(&seat.data, "state")?;
        let program = |server| Ingest { plan: plan("ingest", "/bin/true", seat), server };
        Ok(match done {
            0 => Some(program(Some(plan("server", "/bin/sim-server", seat)))),
            1 => Some(program(None)),
            _ => None,
        })
    }

    fn part(&self, _seat: &Seat, _source: &Source) -> Result<(), EngineError> {
        self.enter("part").map(drop)
    }

    fn hand_over(&self, seat: &Seat, _source: &Source, stage: &Stage) -> Result<(), EngineError> {
        drop(self.enter("hand_over")?);
        write_text(&seat.data, "owner", &format!("container {}", stage.profile))
    }

    fn hands_over(&self) -> bool {
        true
    }

    fn image(&self, _seat: &Seat, _source: &Source) -> Result<Option<String>, EngineError> {
        Ok(Some("sim:1".to_owned()))
    }

    fn baked(&self, _env: &dyn Fn(&str) -> Option<String>) -> Option<Baked> {
        Some(Baked {
            path: "/var/lib/sim".to_owned(),
            account: "sim",
            port: 7,
            version: Some("sim 1".to_owned()),
            command: None,
        })
    }

    fn largest(&self, seat: &Seat, _source: &Source) -> Result<Vec<(String, u64)>, EngineError> {
        drop(self.enter("largest")?);
        Ok(vec![("state".to_owned(), read_text(&seat.data, "state")?.len() as u64)])
    }

    fn address(&self, _source: &Source, port: u16, credentials: &Credentials) -> Option<String> {
        Some(format!("sim://{}:{}@127.0.0.1:{port}/", credentials.user, credentials.password.reveal()))
    }
}
