//! The engine for servers of the MySQL family: a replica as mirror, what it receives kept as the log, and clones made
//! from snapshots of the replica by the server's own applier, which gets exactly the transactions up to the moment.
//!
//! All of it serves MariaDB and MySQL alike; **what differs between the two is [`flavor::Flavor`]**, and nothing but
//! that is in `mariadb/` and `mysql/` beside.
//!
//! | file | what it knows |
//! |---|---|
//! | `flavor.rs` | what differs |
//! | `binlog/` | the log: what is in it, which place stands for a moment |
//! | `install.rs` | which series this machine has |
//! | `production.rs`, `facts.rs`, `zone.rs` | talking to production, and what preflight learns |
//! | `first.rs` | the first copy |
//! | `mirror.rs` | the replica, how far we are, standing still |
//! | `refill.rs` | what a crash took from the end of the log, received again |
//! | `identity.rs` | whether production is still what the mirror followed |
//! | `fence.rs` | writes of production held for an exact cut |
//! | `clone.rs`, `record.rs` | a tree made ready, replayed, shut and opened; one that writes a log itself |
//! | `tree.rs`, `config.rs` | a tree's files |
//! | `wire.rs`, `session.rs` | talking to Pando's own servers |
//! | `hand_over.rs`, `image.rs` | a tree for a container of the user's; images of its servers |
//! | `anew.rs` | a tree made anew, to leave this machine |
//! | `travel.rs` | trees from elsewhere |

mod anew;
pub mod binlog;
mod clone;
pub mod config;
pub mod facts;
mod fence;
pub mod first;
pub mod flavor;
mod hand_over;
pub mod identity;
mod image;
pub mod install;
mod mirror;
pub mod production;
mod record;
mod refill;
pub mod session;
mod travel;
pub mod tree;
pub mod wire;
mod zone;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use pando_host::{Account, Clock, SystemClock};
use pando_model::{DoctorItem, EngineKind, Lsn, SettingChange, SourceUrl};

use self::binlog::BinLog;
use self::facts::Facts;
use self::flavor::Flavor;
use self::identity::Seen;
use self::install::{Installation, Installations, words};
pub use self::mirror::{place, server, text};
use self::session::Sessions;
use self::tree::{Mark as TreeMark, Tree};
use crate::{
    Baked, Credentials, Engine, EngineError, Finding, ImageContent, ImageLook, Ingest, Instead, Link, Mark, Point,
    Preflight, Pulse, Readiness, Seat, Source, Stage, Stretch, UnitPlan, Want, encoded,
};

/// The engine for one make of them.
pub struct FamilyEngine<F: Flavor> {
    installations: Installations,
    account: Option<Account>,
    sessions: Sessions,
    logs: Mutex<HashMap<PathBuf, Arc<BinLog<F>>>>,
    looked: Mutex<HashMap<String, Instant>>,
    seen: Seen<F>,
    /// The mirrors whose next first copy is a dump, by their log.
    dumped: Mutex<HashSet<PathBuf>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A failed file as the engine's error.
pub fn io(action: &str) -> impl Fn(std::io::Error) -> EngineError + '_ {
    move |source| EngineError::Io { action: action.to_owned(), source }
}

impl<F: Flavor> FamilyEngine<F> {
    /// An engine over the installations that are found, first in `prefixes`. `account`: who talks to production and
    /// runs the servers.
    pub fn new(prefixes: &[PathBuf], account: Option<Account>) -> Self {
        Self {
            installations: Installations::find(&F::PROGRAMS, prefixes),
            account,
            sessions: Sessions::default(),
            logs: Mutex::default(),
            looked: Mutex::default(),
            seen: Seen::default(),
            dumped: Mutex::default(),
        }
    }

    /// What preflight learned of production.
    pub fn facts(&self, source: &Source) -> Result<Facts, EngineError> {
        serde_json::from_value(source.facts.clone())
            .map_err(|error| EngineError::Invalid(format!("what is known of production cannot be read: {error}")))
    }

    /// The installation of production's series.
    pub fn installation(&self, facts: &Facts) -> Result<&Installation, EngineError> {
        self.installations.of(facts.series())
    }

    /// What was known of production when it was of the series that wrote a tree, which is served by that.
    fn facts_of(&self, tree: Option<&Tree<F>>, source: &Source) -> Result<Facts, EngineError> {
        let facts = self.facts(source)?;
        let (major, minor, _) = tree.map(|tree| tree.version).unwrap_or_default();
        match tree.filter(|_| (major, minor) != (0, 0) && (major, minor) != facts.series()) {
            Some(tree) => {
                let then = Facts { version: words(tree.version), settings: tree.settings.clone(), ..facts };
                travel::plain(&then).map(|()| then)
            }
            None => Ok(facts),
        }
    }

    /// Asks production.
    pub fn ask(&self, facts: &Facts, source: &Source, sql: &str) -> Result<String, EngineError> {
        production::query(self.installation(facts)?, self.account.as_ref(), &source.url, sql)
    }

    /// The log at a path, opened once: it remembers how far it has read.
    fn log(&self, path: &Path) -> Result<Arc<BinLog<F>>, EngineError> {
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

impl<F: Flavor> Engine for FamilyEngine<F> {
    fn kind(&self) -> EngineKind {
        F::KIND
    }

    fn doctor(&self) -> Vec<DoctorItem> {
        let missing = self.installations.newest().is_none();
        vec![DoctorItem {
            what: format!("{} servers", F::PROGRAMS.make),
            level: if missing { "warning" } else { "ok" }.to_owned(),
            found: self.installations.words(),
            fix: missing.then(|| self.installations.hint().to_owned()),
        }]
    }

    fn preflight(&self, url: &SourceUrl) -> Result<Preflight, EngineError> {
        facts::look::<F>(&self.installations, self.account.as_ref(), url)
    }

    fn ingest(&self, seat: &Seat, source: &Source) -> Result<UnitPlan, EngineError> {
        first::begin(self, seat, source)
    }

    fn ingest_next(&self, seat: &Seat, source: &Source, done: usize) -> Result<Option<Ingest>, EngineError> {
        first::next(self, seat, source, done)
    }

    fn instead(&self, seat: &Seat, why: &str) -> Option<Instead> {
        let instead = F::instead(seat, why)?;
        if matches!(instead, Instead::Anew { .. }) {
            lock(&self.dumped).insert(seat.log.clone());
        }
        Some(instead)
    }

    fn progress(&self, seat: &Seat, _: &str) -> Option<(u64, Option<u64>)> {
        F::progress(seat)
    }

    fn settle(&self, seat: &Seat, source: &Source) -> Result<(), EngineError> {
        first::settle(self, seat, source)
    }

    fn follow(&self, seat: &Seat, source: &Source) -> Result<Vec<UnitPlan>, EngineError> {
        mirror::follow(self, seat, source).map(|plan| vec![plan])
    }

    fn pulse(&self, seat: &Seat, source: &Source, urgent: bool) -> Result<Pulse, EngineError> {
        match Tree::<F>::read(&seat.data)?.manner {
            Some(_) => record::pulse(self, seat),
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
        match Tree::<F>::read(&seat.data)?.manner {
            Some(_) => record::hold(self, seat),
            None => mirror::hold(self, seat),
        }
    }

    fn release(&self, seat: &Seat, _: &Source) -> Result<(), EngineError> {
        if tree::is_handed_over(&seat.data) {
            return Ok(());
        }
        match Tree::<F>::read(&seat.data)?.manner {
            Some(_) => record::release(self, seat),
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
        let Some(mark) = TreeMark::<F>::read(&tree.data)? else {
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
        let at = from.time.unwrap_or(asked);
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
        fence::raise(self.installation(&self.facts(source)?)?, self.account.as_ref(), source, limit)
    }

    fn unfence(&self, source: &Source) -> Result<bool, EngineError> {
        fence::lower(self.installation(&self.facts(source)?)?, self.account.as_ref(), source)
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
        travel::receive::<F>(data)
    }

    fn record(&self, _: &Seat, _: &Source) -> Result<Option<UnitPlan>, EngineError> {
        // The server writes its log itself.
        Ok(None)
    }

    fn hang_up(&self, sockets: &Path) {
        self.sessions.drop(sockets);
    }

    fn slim(&self, seat: &Seat, _: &Source) -> Result<(), EngineError> {
        self.sessions.drop(&seat.run);
        clone::slim::<F>(seat)
    }

    fn check_settings(&self, set: &SettingChange) -> Result<(), EngineError> {
        set.iter().try_for_each(|(name, value)| config::check::<F>(name, value))
    }

    fn prepares_images(&self) -> bool {
        true
    }

    fn renews(&self) -> bool {
        F::ANEW.is_some()
    }

    fn renews_masked(&self) -> bool {
        true
    }

    fn renew(&self, seat: &Seat, source: &Source, done: usize) -> Result<Option<Ingest>, EngineError> {
        anew::next(self, seat, source, done)
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

    fn image(&self, seat: &Seat, source: &Source) -> Result<Option<String>, EngineError> {
        let facts = self.facts_of(Tree::find(&seat.data)?.as_ref(), source)?;
        Ok(Some(image::official::<F>(facts.numbers())))
    }

    fn image_look(&self, _: &Source) -> Result<Option<ImageLook>, EngineError> {
        Ok(Some(image::look::<F>()))
    }

    fn contained(&self, _: &Source, plan: UnitPlan) -> Result<UnitPlan, EngineError> {
        Ok(image::contained::<F>(plan))
    }

    fn server_writes_log(&self) -> bool {
        true
    }

    fn suits(&self, seat: &Seat, source: &Source, content: &ImageContent) -> Result<Vec<Finding>, EngineError> {
        let facts = self.facts_of(Tree::find(&seat.data)?.as_ref(), source)?;
        Ok(image::suits::<F>(self.installation(&facts)?.version, content))
    }

    fn baked(&self, env: &dyn Fn(&str) -> Option<String>) -> Option<Baked> {
        Some(image::baked::<F>(env))
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
