//! The engine for MySQL servers, 8.0.26 and later: a replica as mirror, what it receives kept as the log, and clones
//! made from snapshots of the replica by the server's own applier, which gets exactly the transactions up to the
//! moment. Much is as with MariaDB, whose room is beside; what both share is `binlog`, `wire`, `session`, `options`.
//!
//! | file | what it knows |
//! |---|---|
//! | `install.rs` | which series this machine has |
//! | `production.rs`, `facts.rs` | talking to production, and what preflight learns |
//! | `first.rs` | the first copy |
//! | `mirror.rs` | the replica, how far we are, standing still |
//! | `log/` | what MySQL's transactions are in the log |
//! | `clone.rs` | a tree made ready, replayed, shut and opened |
//! | `tree.rs`, `config.rs` | a tree's files |

mod clone;
mod config;
mod facts;
mod first;
mod install;
mod log;
mod mirror;
mod production;
mod tree;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use pando_host::{Account, Clock, SystemClock};
use pando_model::{DoctorItem, EngineKind, Lsn, SettingChange, SourceUrl};

use self::facts::Facts;
use self::install::INSTALL;
pub use self::install::{Installation, Installations};
use self::log::BinLog;
use self::tree::{Mark as TreeMark, Tree};
use crate::session::Sessions;
use crate::{
    Credentials, Engine, EngineError, Ingest, Link, Mark, Point, Preflight, Pulse, Readiness, Seat, Source, Stage,
    Stretch, UnitPlan, Want, encoded,
};

/// The engine for MySQL servers.
pub struct MysqlEngine {
    installations: Installations,
    account: Option<Account>,
    sessions: Sessions,
    logs: Mutex<HashMap<PathBuf, Arc<BinLog>>>,
    looked: Mutex<HashMap<String, Instant>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn io(action: &str) -> impl Fn(std::io::Error) -> EngineError + '_ {
    move |source| EngineError::Io { action: action.to_owned(), source }
}

impl MysqlEngine {
    /// An engine over the installations found. `account`: who talks to production and runs the servers.
    pub fn new(installations: Installations, account: Option<Account>) -> Self {
        Self { installations, account, sessions: Sessions::default(), logs: Mutex::default(), looked: Mutex::default() }
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

impl Engine for MysqlEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Mysql
    }

    fn doctor(&self) -> Vec<DoctorItem> {
        let missing = self.installations.newest().is_none();
        vec![DoctorItem {
            what: "MySQL servers".to_owned(),
            level: if missing { "warning" } else { "ok" }.to_owned(),
            found: self.installations.words(),
            fix: missing.then(|| INSTALL.to_owned()),
        }]
    }

    fn preflight(&self, url: &SourceUrl) -> Result<Preflight, EngineError> {
        facts::look(&self.installations, self.account.as_ref(), url)
    }

    fn ingest(&self, seat: &Seat, source: &Source) -> Result<UnitPlan, EngineError> {
        first::dump(self, seat, source)
    }

    fn ingest_next(&self, seat: &Seat, source: &Source, done: usize) -> Result<Option<Ingest>, EngineError> {
        match done {
            1 => Ok(Some(Ingest { plan: first::install(self, seat, source)?, server: None })),
            2 => {
                let (plan, server) = first::load(self, seat, source)?;
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

    fn hold(&self, seat: &Seat, source: &Source) -> Result<(), EngineError> {
        match Tree::read(&seat.data)?.manner {
            Some(_) => clone::hold(self, seat, source),
            None => mirror::hold(self, seat),
        }
    }

    fn release(&self, seat: &Seat, _: &Source) -> Result<(), EngineError> {
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
            _ => mirror::stands(self, &log, source, &mark)?,
        };
        let from = Point { epoch: mark.epoch, timeline: 0, lsn, time };
        let at = from.time.unwrap_or(asked).min(asked);
        Ok(Mark { from, at, rolls: true })
    }

    fn detach(&self, _: &Source) -> Result<(), EngineError> {
        // A replica leaves nothing on production.
        Ok(())
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
