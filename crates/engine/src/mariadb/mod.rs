//! The engine for MariaDB servers, 10.5 and later: a replica as mirror, what it receives kept as the log, and
//! clones made from snapshots of the replica by the server's own applier, which gets exactly the transactions up
//! to the moment.
//!
//! | file | what it knows |
//! |---|---|
//! | `install.rs` | which series this machine has |
//! | `production.rs`, `facts.rs` | talking to production, and what preflight learns |
//! | `near.rs`, `copy.rs` | the first copy where production's files can be reached |
//! | `mirror.rs` | the first copy as a dump, replica, how far we are, standing still |
//! | `fence.rs` | writes of production held for an exact cut |
//! | `reset.rs` | whether production's binary log is still the one that the mirror followed |
//! | `log/` | what MariaDB's transactions are in the log (`binlog`) |
//! | `clone.rs` | a tree made ready, replayed, shut and opened |
//! | `tree.rs`, `config.rs` | a tree's files |
//! | `hand_over.rs` | a tree for a container of the user's |
//! | `image.rs`, `travel.rs` | images of its servers; trees from elsewhere |

mod clone;
mod config;
mod copy;
mod facts;
mod fence;
mod hand_over;
mod image;
mod install;
pub(crate) mod log;
mod mirror;
mod near;
mod production;
mod reset;
mod travel;
mod tree;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use pando_host::{Account, Clock, SystemClock};
use pando_model::{DoctorItem, EngineKind, Lsn, SettingChange, SourceUrl};

use self::facts::Facts;
pub use self::install::{Installation, Installations};
use self::log::BinLog;
use self::reset::Seen;
use self::tree::{Mark as TreeMark, Tree};
use crate::session::Sessions;
use crate::{
    Baked, Credentials, Engine, EngineError, Finding, ImageContent, ImageLook, Ingest, Link, Mark, Point, Preflight,
    Pulse, Readiness, Seat, Source, Stage, Stretch, UnitPlan, Want, encoded,
};

/// The engine for MariaDB servers.
pub struct MariadbEngine {
    installations: Installations,
    account: Option<Account>,
    sessions: Sessions,
    logs: Mutex<HashMap<PathBuf, Arc<BinLog>>>,
    looked: Mutex<HashMap<String, Instant>>,
    seen: Seen,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn io(action: &str) -> impl Fn(std::io::Error) -> EngineError + '_ {
    move |source| EngineError::Io { action: action.to_owned(), source }
}

impl MariadbEngine {
    /// An engine over the installations found. `account`: who talks to production and runs the servers.
    pub fn new(installations: Installations, account: Option<Account>) -> Self {
        Self {
            installations,
            account,
            sessions: Sessions::default(),
            logs: Mutex::default(),
            looked: Mutex::default(),
            seen: Seen::default(),
        }
    }

    fn facts(&self, source: &Source) -> Result<Facts, EngineError> {
        serde_json::from_value(source.facts.clone())
            .map_err(|error| EngineError::Invalid(format!("what is known of production cannot be read: {error}")))
    }

    /// The log at a path, opened once: it remembers how far it has read.
    fn log(&self, path: &Path) -> Result<Arc<BinLog>, EngineError> {
        let mut logs = lock(&self.logs);
        if let Some(log) = logs.get(path) {
            // One that was removed with its clone, whose name another has now, is another.
            if path.is_dir() {
                return Ok(Arc::clone(log));
            }
        }
        let log = Arc::new(BinLog::open(path)?);
        logs.insert(path.to_owned(), Arc::clone(&log));
        Ok(log)
    }

    /// Whether it is time for another look at production.
    fn may_look(&self, tag: &str, every: Duration) -> bool {
        let now = SystemClock.instant();
        let mut looked = lock(&self.looked);
        let due = looked.get(tag).is_none_or(|last| now.duration_since(*last) >= every);
        if due {
            looked.insert(tag.to_owned(), now);
        }
        due
    }
}

/// The database that was linked.
fn database(source: &Source) -> &str {
    source.url.database().unwrap_or_default()
}

impl Engine for MariadbEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Mariadb
    }

    fn doctor(&self) -> Vec<DoctorItem> {
        let missing = self.installations.newest().is_none();
        vec![DoctorItem {
            what: "MariaDB servers".to_owned(),
            level: if missing { "warning" } else { "ok" }.to_owned(),
            found: self.installations.words(),
            fix: missing.then(|| "apt-get install mariadb-server-core mariadb-client".to_owned()),
        }]
    }

    fn preflight(&self, url: &SourceUrl) -> Result<Preflight, EngineError> {
        facts::look(&self.installations, self.account.as_ref(), url)
    }

    fn ingest(&self, seat: &Seat, source: &Source) -> Result<UnitPlan, EngineError> {
        mirror::first(self, seat, source)
    }

    fn ingest_next(&self, seat: &Seat, source: &Source, done: usize) -> Result<Option<Ingest>, EngineError> {
        match (done, copy::runs(seat)) {
            (1, true) => Ok(Some(Ingest { plan: copy::prepare(self, seat, source)?, server: None })),
            (2, true) => {
                let (plan, server) = copy::adopt(self, seat, source)?;
                Ok(Some(Ingest { plan, server: Some(server) }))
            }
            (1, false) => Ok(Some(Ingest { plan: mirror::install(self, seat, source)?, server: None })),
            (2, false) => {
                let (plan, server) = mirror::load(self, seat, source)?;
                Ok(Some(Ingest { plan, server: Some(server) }))
            }
            _ => Ok(None),
        }
    }

    fn progress(&self, _: &str) -> Option<(u64, Option<u64>)> {
        None
    }

    fn settle(&self, seat: &Seat, source: &Source) -> Result<(), EngineError> {
        mirror::settle(self, seat, source)
    }

    fn follow(&self, seat: &Seat, source: &Source) -> Result<Vec<UnitPlan>, EngineError> {
        mirror::follow(self, seat, source).map(|plan| vec![plan])
    }

    fn pulse(&self, seat: &Seat, source: &Source, urgent: bool) -> Result<Pulse, EngineError> {
        match Tree::read(&seat.data)?.manner {
            Some(_) => clone::pulse(self, seat),
            None => mirror::pulse(self, seat, source, urgent),
        }
    }

    fn diagnose(&self, _: &str) -> Option<Link> {
        None
    }

    fn sync(&self, _: &Seat, _: &Source) -> Result<Option<UnitPlan>, EngineError> {
        Ok(None)
    }

    fn must_hold(&self) -> bool {
        true
    }

    fn hold(&self, seat: &Seat, _: &Source) -> Result<(), EngineError> {
        // Nobody here can hold a server in a container of the user's.
        if tree::is_handed_over(&seat.data) {
            return Ok(());
        }
        match Tree::read(&seat.data)?.manner {
            Some(_) => clone::hold(self, seat),
            None => mirror::hold(self, seat),
        }
    }

    fn release(&self, seat: &Seat, _: &Source) -> Result<(), EngineError> {
        if tree::is_handed_over(&seat.data) {
            return Ok(());
        }
        match Tree::read(&seat.data)?.manner {
            Some(_) => clone::release(self, seat),
            None => mirror::release(self, seat),
        }
    }

    fn mark(
        &self,
        tree: &Seat,
        seat: &Seat,
        source: &Source,
        asked: Timestamp,
        clone: bool,
    ) -> Result<Mark, EngineError> {
        let Some(mark) = TreeMark::read(&tree.data)? else {
            let from = Point { epoch: 0, timeline: 0, lsn: Lsn(0), time: Some(asked) };
            return Ok(Mark { from, at: asked, rolls: false });
        };
        let log = self.log(&seat.log)?;
        let (lsn, time) = match mark.place {
            Some(place) if clone => {
                log.advance(None)?;
                (Lsn(place), log.time_of(mark.epoch, Lsn(place))?)
            }
            _ => mirror::stands(self, &log, seat, source, &mark)?,
        };
        let from = Point { epoch: mark.epoch, timeline: 0, lsn, time };
        let at = from.time.unwrap_or(asked).min(asked);
        Ok(Mark { from, at, rolls: true })
    }

    fn detach(&self, _: &Source) -> Result<(), EngineError> {
        // A replica leaves nothing on production.
        Ok(())
    }

    fn can_fence(&self) -> bool {
        true
    }

    fn fence(&self, source: &Source, limit: Duration) -> Result<(), EngineError> {
        let facts = self.facts(source)?;
        fence::raise(self.installations.of(facts.series)?, self.account.as_ref(), source, limit)
    }

    fn unfence(&self, source: &Source) -> Result<bool, EngineError> {
        let facts = self.facts(source)?;
        fence::lower(self.installations.of(facts.series)?, self.account.as_ref(), source)
    }

    fn stretches(&self, log: &Path) -> Result<Vec<Stretch>, EngineError> {
        if log.is_dir() { self.log(log)?.stretches() } else { Ok(Vec::new()) }
    }

    fn locate(&self, log: &Path, from: &Point, want: Want) -> Result<Option<Point>, EngineError> {
        self.log(log)?.locate(from, want)
    }

    fn trim(&self, log: &Path, before: &Point) -> Result<(), EngineError> {
        self.log(log)?.trim(before)
    }

    fn stage(&self, seat: &Seat, source: &Source, stage: &Stage) -> Result<(), EngineError> {
        clone::stage(self, seat, source, stage)
    }

    fn serve(&self, seat: &Seat, source: &Source) -> Result<Option<UnitPlan>, EngineError> {
        clone::serve(self, seat, source).map(Some)
    }

    fn ready(&self, seat: &Seat, source: &Source) -> Result<Readiness, EngineError> {
        clone::ready(self, seat, source)
    }

    fn admit(&self, seat: &Seat, source: &Source, credentials: Option<&Credentials>) -> Result<(), EngineError> {
        clone::admit(self, seat, source, credentials)
    }

    fn fits(&self, source: &Source) -> Result<(), EngineError> {
        travel::fits(&self.installations, &self.facts(source)?)
    }

    fn receive(&self, data: &Path, _: &Source) -> Result<(), EngineError> {
        travel::receive(data)
    }

    fn record(&self, _: &Seat, _: &Source) -> Result<Option<UnitPlan>, EngineError> {
        // The server writes its log itself.
        Ok(None)
    }

    fn slim(&self, seat: &Seat, _: &Source) -> Result<(), EngineError> {
        self.sessions.drop(&seat.run);
        clone::slim(seat)
    }

    fn check_settings(&self, set: &SettingChange) -> Result<(), EngineError> {
        set.iter().try_for_each(|(name, value)| config::check(name, value))
    }

    fn execute(&self, seat: &Seat, source: &Source, statements: &str) -> Result<(), EngineError> {
        clone::execute(self, seat, source, statements)
    }

    fn part(&self, seat: &Seat, _: &Source) -> Result<(), EngineError> {
        hand_over::part(self, seat)
    }

    fn hand_over(&self, seat: &Seat, source: &Source, stage: &Stage) -> Result<(), EngineError> {
        hand_over::hand_over(self, seat, source, stage)
    }

    fn hands_over(&self) -> bool {
        true
    }

    fn image(&self, _: &Seat, source: &Source) -> Result<Option<String>, EngineError> {
        self.facts(source).map(|facts| Some(image::official(&facts)))
    }

    fn image_look(&self, _: &Source) -> Result<Option<ImageLook>, EngineError> {
        Ok(Some(image::LOOK))
    }

    fn contained(&self, _: &Source, plan: UnitPlan) -> Result<UnitPlan, EngineError> {
        Ok(image::contained(plan))
    }

    fn server_writes_log(&self) -> bool {
        true
    }

    fn suits(&self, _: &Seat, source: &Source, content: &ImageContent) -> Result<Vec<Finding>, EngineError> {
        let facts = self.facts(source)?;
        Ok(image::suits(facts.series, &self.installations.of(facts.series)?.version, content))
    }

    fn baked(&self, env: &dyn Fn(&str) -> Option<String>) -> Option<Baked> {
        Some(image::baked(env))
    }

    fn largest(&self, seat: &Seat, _: &Source) -> Result<Vec<(String, u64)>, EngineError> {
        image::largest(self, seat)
    }

    fn address(&self, source: &Source, port: u16, credentials: &Credentials) -> Option<String> {
        Some(format!(
            "{}://{}:{}@127.0.0.1:{port}/{}",
            source.url.scheme,
            encoded(&credentials.user),
            encoded(credentials.password.reveal()),
            encoded(database(source))
        ))
    }
}
