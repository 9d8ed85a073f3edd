//! A directory, simulated: no log, no server, brought up to date by a sync. Its one file holds the time of
//! the last sync.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use pando_engine::{
    Credentials, Engine, EngineError, Link, Mark, Point, Preflight, Pulse, Readiness, Seat, Source, Stage, Stretch,
    UnitPlan, Want,
};
use pando_host::Clock;
use pando_model::{DoctorItem, EngineKind, Lsn, SettingChange, SourceUrl};

/// What happens during a sync.
type During = Box<dyn Fn() + Send>;

#[derive(Clone)]
pub struct StillEngine {
    clock: Arc<dyn Clock>,
    during: Arc<Mutex<Option<During>>>,
}

fn plan(role: &'static str, seat: &Seat) -> UnitPlan {
    UnitPlan {
        role,
        program: "/bin/still-sync".into(),
        args: Vec::new(),
        env: BTreeMap::new(),
        dir: seat.data.clone(),
        account: None,
        locks: Vec::new(),
        stop_by_interrupt: false,
        stop_grace_seconds: 1,
    }
}

impl StillEngine {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, during: Arc::default() }
    }

    /// Happens during each sync.
    pub fn on_sync(&self, during: impl Fn() + Send + 'static) {
        *self.during.lock().unwrap() = Some(Box::new(during));
    }

    /// What the program that syncs does.
    pub fn synced(&self, data: &Path) {
        if let Some(during) = self.during.lock().unwrap().as_ref() {
            during();
        }
        std::fs::create_dir_all(data).unwrap();
        std::fs::write(data.join("stamp"), self.clock.now().to_string()).unwrap();
    }
}

impl Engine for StillEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Files
    }
    fn doctor(&self) -> Vec<DoctorItem> {
        Vec::new()
    }
    fn preflight(&self, _: &SourceUrl) -> Result<Preflight, EngineError> {
        Ok(Preflight { bytes: Some(8), ..Preflight::default() })
    }
    fn ingest(&self, seat: &Seat, _: &Source) -> Result<UnitPlan, EngineError> {
        Ok(plan("ingest", seat))
    }
    fn progress(&self, _: &Seat, _: &str) -> Option<(u64, Option<u64>)> {
        None
    }
    fn settle(&self, _: &Seat, _: &Source) -> Result<(), EngineError> {
        Ok(())
    }
    fn follow(&self, _: &Seat, _: &Source) -> Result<Vec<UnitPlan>, EngineError> {
        Ok(Vec::new())
    }
    fn pulse(&self, _: &Seat, _: &Source, _: bool) -> Result<Pulse, EngineError> {
        Ok(Pulse { link: Link::Following, through: None, changed: false })
    }
    fn diagnose(&self, _: &str) -> Option<Link> {
        None
    }
    fn sync(&self, seat: &Seat, _: &Source) -> Result<Option<UnitPlan>, EngineError> {
        Ok(Some(plan("sync", seat)))
    }
    fn hold(&self, _: &Seat, _: &Source) -> Result<(), EngineError> {
        Ok(())
    }
    fn release(&self, _: &Seat, _: &Source) -> Result<(), EngineError> {
        Ok(())
    }
    fn mark(&self, _: &Seat, _: &Seat, _: &Source, asked: Timestamp, _: bool) -> Result<Mark, EngineError> {
        let from = Point { epoch: 0, timeline: 0, lsn: Lsn(0), time: Some(asked) };
        Ok(Mark { from, at: asked, rolls: false })
    }
    fn detach(&self, _: &Source) -> Result<(), EngineError> {
        Ok(())
    }
    fn stretches(&self, _: &Path) -> Result<Vec<Stretch>, EngineError> {
        Ok(Vec::new())
    }
    fn locate(&self, _: &Path, _: &Point, _: Want) -> Result<Option<Point>, EngineError> {
        Ok(None)
    }
    fn trim(&self, _: &Path, _: &Point) -> Result<(), EngineError> {
        Ok(())
    }
    fn stage(&self, _: &Seat, _: &Source, _: &Stage) -> Result<(), EngineError> {
        Ok(())
    }
    fn serve(&self, _: &Seat, _: &Source) -> Result<Option<UnitPlan>, EngineError> {
        Ok(None)
    }
    fn ready(&self, _: &Seat, _: &Source) -> Result<Readiness, EngineError> {
        Ok(Readiness::Ready)
    }
    fn fits(&self, _: &Source) -> Result<(), EngineError> {
        Ok(())
    }
    fn admit(&self, _: &Seat, _: &Source, _: Option<&Credentials>) -> Result<(), EngineError> {
        Ok(())
    }
    fn record(&self, _: &Seat, _: &Source) -> Result<Option<UnitPlan>, EngineError> {
        Ok(None)
    }
    fn slim(&self, _: &Seat, _: &Source) -> Result<(), EngineError> {
        Ok(())
    }
    fn check_settings(&self, _: &SettingChange) -> Result<(), EngineError> {
        Ok(())
    }
    fn hand_over(&self, _: &Seat, _: &Source, _: &Stage) -> Result<(), EngineError> {
        Ok(())
    }
    fn hands_over(&self) -> bool {
        true
    }
    fn address(&self, _: &Source, _: u16, _: &Credentials) -> Option<String> {
        None
    }
}
