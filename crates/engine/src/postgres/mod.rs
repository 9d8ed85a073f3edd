//! The engine for PostgreSQL clusters, 13 to 18: a streaming standby as mirror, its log kept complete, and
//! clones made from snapshots of the standby by PostgreSQL's own recovery, stopped by position.
//!
//! | file | what it knows |
//! |---|---|
//! | `install.rs` | which majors this machine has |
//! | `production.rs`, `facts.rs`, `relearn.rs` | talking to production, and what preflight learns, at once and later |
//! | `mirror.rs`, `mark.rs` | first copy, standby, receiver, how far we are; what a snapshot is worth |
//! | `wal/` | the log: records, index from time to position, segments for a replay |
//! | `tree.rs`, `settings.rs`, `control.rs` | a tree's files |
//! | `libraries.rs` | which of production's libraries are loaded in clones |
//! | `fence.rs` | writes of production held for an exact cut |
//! | `session.rs`, `admit.rs` | inside Pando's own servers |
//! | `image.rs` | servers in containers |

mod admit;
#[cfg(test)]
mod any_text;
mod control;
mod facts;
mod fence;
mod image;
mod install;
mod libraries;
mod mark;
mod mirror;
mod production;
mod relearn;
mod scrub;
mod session;
mod settings;
mod still;
pub(crate) mod tree;
pub mod wal;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use pando_host::{Account, Clock, SystemClock, Tool};
use pando_model::{DoctorItem, EngineKind, SettingChange, SourceUrl};

use self::facts::Facts;
pub use self::install::{Installation, Installations};
use self::session::{Server, Sessions, socket_there};
use self::wal::WalLog;
use crate::{
    Baked, Credentials, Engine, EngineError, Finding, ImageContent, ImageLook, Link, Mark, Point, Preflight, Pulse,
    Readiness, Seat, Source, Stage, Stretch, UnitPlan, Want, encoded,
};

/// In a tree: it was cut off production and stopped cleanly, nobody's password works.
const PREPARED: &str = "pando.prepared";
/// In a tree: what was known of production when it was copied.
const FACTS: &str = "pando.facts";
/// In the tree of a recording clone: the stretch of its log that it writes.
const EPOCH: &str = "pando.epoch";

/// The engine for PostgreSQL clusters.
pub struct PostgresEngine {
    installations: Installations,
    account: Option<Account>,
    sessions: Sessions,
    logs: Mutex<HashMap<PathBuf, Arc<WalLog>>>,
    held: Mutex<HashSet<PathBuf>>,
    asked: Mutex<HashMap<String, (Instant, String)>>,
}

impl PostgresEngine {
    /// An engine over the installations found. `account`: who talks to production and runs the servers.
    pub fn new(installations: Installations, account: Option<Account>) -> Self {
        Self {
            installations,
            account,
            sessions: Sessions::default(),
            logs: Mutex::default(),
            held: Mutex::default(),
            asked: Mutex::default(),
        }
    }

    fn installations(&self) -> &Installations {
        &self.installations
    }

    fn account(&self) -> Option<&Account> {
        self.account.as_ref()
    }

    fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// What is known of production today.
    fn facts(&self, source: &Source) -> Result<Facts, EngineError> {
        serde_json::from_value(source.facts.clone()).map_err(unreadable)
    }

    /// What was known of production when this tree was copied from it. Production may have been upgraded
    /// since; its older snapshots need the server that wrote them.
    fn facts_of(&self, seat: &Seat, source: &Source) -> Result<Facts, EngineError> {
        match fs::read(seat.data.join(FACTS)) {
            Ok(text) => serde_json::from_slice(&text).map_err(unreadable),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => self.facts(source),
            Err(error) => Err(io("reading what is known of production")(error)),
        }
    }

    fn installation(&self, seat: &Seat, source: &Source) -> Result<(Facts, &Installation), EngineError> {
        let facts = self.facts_of(seat, source)?;
        let installation = self.installations.of(facts.major)?;
        Ok((facts, installation))
    }

    fn server(&self, seat: &Seat, source: &Source) -> Result<Server, EngineError> {
        let Facts { superuser: user, major, .. } = self.facts_of(seat, source)?;
        let linked = database(source).to_owned();
        Ok(Server { run: seat.run.clone(), port: port_of(&seat.data)?, user, major, linked })
    }

    /// The log at a path, opened once: it remembers how far it has read.
    fn log(&self, path: &Path) -> Result<Arc<WalLog>, EngineError> {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(log) = logs.get(path) {
            return Ok(Arc::clone(log));
        }
        let log = Arc::new(WalLog::open(path)?);
        logs.insert(path.to_owned(), Arc::clone(&log));
        Ok(log)
    }

    /// Begins a stretch of a recording clone's log, and notes in the tree that it is the one that writes it.
    fn begin_log(&self, seat: &Seat) -> Result<u32, EngineError> {
        let epoch = self.log(&seat.log)?.begin_epoch(seat.account.as_ref())?;
        tree::write(&seat.data.join(EPOCH), &epoch.to_string(), seat.account.as_ref())?;
        Ok(epoch)
    }

    fn wait(&self, millis: u64) {
        SystemClock.sleep(Duration::from_millis(millis));
    }

    fn is_held(&self, run: &Path) -> bool {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).contains(run)
    }

    /// What production said to the last question, if that is less than two seconds ago: one that does not stream is asked
    /// no more often.
    fn said(&self, tag: &str) -> Option<String> {
        let now = SystemClock.instant();
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, said) = asked.get(tag).filter(|(at, _)| now.duration_since(*at) < Duration::from_secs(2))?;
        Some(said.clone())
    }

    fn keep_said(&self, tag: &str, said: &str) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.insert(tag.to_owned(), (SystemClock.instant(), said.to_owned()));
    }
}

fn unreadable(error: serde_json::Error) -> EngineError {
    EngineError::Invalid(format!("what is known of production cannot be read: {error}"))
}

fn io(action: &str) -> impl Fn(std::io::Error) -> EngineError + '_ {
    move |source| EngineError::Io { action: action.to_owned(), source }
}

/// The port in the configuration that [`Engine::stage`] wrote.
fn port_of(data: &Path) -> Result<u16, EngineError> {
    let text = fs::read_to_string(data.join("postgresql.conf")).map_err(io("reading a clone's settings"))?;
    text.lines()
        .rev()
        .find_map(|line| line.strip_prefix("port = '")?.strip_suffix('\'')?.parse().ok())
        .ok_or_else(|| EngineError::Invalid("a clone's settings name no port".to_owned()))
}

/// The database that was linked: what the URL names, else libpq's rule.
fn database(source: &Source) -> &str {
    source.url.database().or(source.url.user.as_deref()).unwrap_or("postgres")
}

impl Engine for PostgresEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Postgres
    }

    fn doctor(&self) -> Vec<DoctorItem> {
        let missing = self.installations.newest().is_none();
        vec![DoctorItem {
            what: "PostgreSQL servers".to_owned(),
            level: if missing { "warning" } else { "ok" }.to_owned(),
            found: self.installations.words(),
            fix: missing.then(|| "apt-get install postgresql".to_owned()),
        }]
    }

    fn preflight(&self, url: &SourceUrl) -> Result<Preflight, EngineError> {
        let (facts, mut preflight) = facts::look(&self.installations, self.account(), url)?;
        if let Ok(installation) = self.installations.of(facts.major) {
            preflight.notes.extend(libraries::notes(&facts, installation));
        }
        Ok(preflight)
    }

    fn relearn(&self, seat: &Seat, source: &Source) -> Result<Option<Preflight>, EngineError> {
        relearn::relearn(self, seat, source)
    }

    fn ingest(&self, seat: &Seat, source: &Source) -> Result<UnitPlan, EngineError> {
        mirror::ingest(self, seat, source)
    }

    fn progress(&self, _: &Seat, log: &str) -> Option<(u64, Option<u64>)> {
        mirror::progress(log)
    }

    fn hang_up(&self, sockets: &Path) {
        self.sessions.drop(sockets);
    }

    fn settle(&self, seat: &Seat, source: &Source) -> Result<(), EngineError> {
        self.sessions.drop(&seat.run);
        mirror::settle(self, seat, source)
    }

    fn follow(&self, seat: &Seat, source: &Source) -> Result<Vec<UnitPlan>, EngineError> {
        mirror::follow(self, seat, source)
    }

    fn pulse(&self, seat: &Seat, source: &Source, urgent: bool) -> Result<Pulse, EngineError> {
        mirror::pulse(self, seat, source, urgent)
    }

    fn diagnose(&self, log: &str) -> Option<Link> {
        mirror::diagnose(log)
    }

    fn sync(&self, _: &Seat, _: &Source) -> Result<Option<UnitPlan>, EngineError> {
        Ok(None)
    }

    fn hold(&self, seat: &Seat, source: &Source) -> Result<(), EngineError> {
        let server = self.server(seat, source)?;
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(seat.run.clone());
        self.sessions.with(&server, |client| {
            client.batch_execute("SELECT pg_catalog.pg_wal_replay_pause()")?;
            // Replay stops before its next record; on an idle server it may not be told before the next one.
            for _ in 0..40 {
                let asked = if server.major >= 14 {
                    "SELECT pg_catalog.pg_get_wal_replay_pause_state() = 'paused'"
                } else {
                    "SELECT pg_catalog.pg_is_wal_replay_paused()"
                };
                if client.query_one(asked, &[])?.get(0) {
                    break;
                }
                SystemClock.sleep(Duration::from_millis(5));
            }
            Ok(())
        })
    }

    fn release(&self, seat: &Seat, source: &Source) -> Result<(), EngineError> {
        let was_held = self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&seat.run);
        if !was_held && !socket_there(&seat.run, settings::SOCKET_PORT) {
            return Ok(());
        }
        self.sessions.with(&self.server(seat, source)?, |client| {
            client.batch_execute("SELECT pg_catalog.pg_wal_replay_resume() WHERE pg_catalog.pg_is_in_recovery()")
        })
    }

    fn mark(
        &self,
        tree: &Seat,
        seat: &Seat,
        source: &Source,
        asked: Timestamp,
        clone: bool,
    ) -> Result<Mark, EngineError> {
        mark::mark(self, (tree, seat), source, asked, clone)
    }

    fn detach(&self, source: &Source) -> Result<(), EngineError> {
        let facts = self.facts(source)?;
        if facts.slot { mirror::drop_slot(self, source) } else { Ok(()) }
    }

    fn can_fence(&self) -> bool {
        true
    }

    fn fence(&self, source: &Source, limit: Duration) -> Result<(), EngineError> {
        let facts = self.facts(source)?;
        fence::raise(self, self.installations().of(facts.major)?, source, limit)
    }

    fn unfence(&self, source: &Source) -> Result<bool, EngineError> {
        let facts = self.facts(source)?;
        fence::lower(self, self.installations().of(facts.major)?, source)
    }

    fn stretches(&self, log: &Path) -> Result<Vec<Stretch>, EngineError> {
        self.log(log)?.stretches()
    }

    fn locate(&self, log: &Path, from: &Point, want: Want) -> Result<Option<Point>, EngineError> {
        self.log(log)?.locate(from.epoch, from, want)
    }

    fn trim(&self, log: &Path, before: &Point) -> Result<(), EngineError> {
        self.log(log)?.trim(before)
    }

    fn stage(&self, seat: &Seat, source: &Source, stage: &Stage) -> Result<(), EngineError> {
        let (facts, installation) = self.installation(seat, source)?;
        let account = seat.account.as_ref();
        tree::private_dir(&seat.run, account)?;
        tree::clean(&seat.data, false)?;
        let mut settings = settings::clone(&facts, installation, &seat.run, stage.port, stage.profile, &stage.set)?;
        if let (Some(to), Some(path)) = (&stage.to, &stage.log) {
            let control = control::read(installation, account, &seat.data)?;
            let log = self.log(path)?;
            let first = log.stretches()?.into_iter().find(|one| one.epoch == to.epoch).map(|one| one.first);
            let begin = control.redo.max(first.unwrap_or_default());
            log.bring(to.epoch, begin, to, &seat.data.join("pg_wal"), account)?;
            let nothing = Tool::find("false", "coreutils")
                .map_err(|source| EngineError::Tool { action: "preparing a recovery".to_owned(), source })?;
            // A primary's tree (of a recording clone) says nowhere from where on it is consistent, so no target
            // would be accepted. It recovers from a crash instead, to the end of what was brought in.
            if control.minimum.0 > 0 || control.state.starts_with("shut down") {
                settings
                    // Everything needed lies in pg_wal; PostgreSQL insists on a command all the same.
                    .set("restore_command", nothing.path().to_string_lossy())
                    .set("recovery_target_timeline", to.timeline.to_string());
                // A replay that begins at the very record asked for never meets it (a production stopped cleanly,
                // with nothing behind); what `bring` wrote ends there, so it needs no target.
                if to.lsn != control.checkpoint {
                    settings
                        .set("recovery_target_lsn", to.lsn.to_string())
                        .set("recovery_target_inclusive", "on")
                        .set("recovery_target_action", "promote");
                }
                tree::write(&seat.data.join("recovery.signal"), "", account)?;
            }
        }
        let prepared =
            pando_host::durable::remove_if_there(&seat.data.join(PREPARED)).map_err(io("reading a tree's mark"))?;
        // Passwords of others may still work in a tree that was not prepared: its door stays shut until `admit`.
        tree::configure(&seat.data, &settings, prepared && stage.port.is_some(), account)?;
        if stage.record {
            tree::private_dir(&seat.log, account)?;
            self.begin_log(seat)?;
        }
        Ok(())
    }

    fn serve(&self, seat: &Seat, source: &Source) -> Result<Option<UnitPlan>, EngineError> {
        let (_, installation) = self.installation(seat, source)?;
        // After a reboot the directory for sockets is gone.
        tree::private_dir(&seat.run, seat.account.as_ref())?;
        mirror::server(installation, seat, port_of(&seat.data)?).map(Some)
    }

    fn ready(&self, seat: &Seat, source: &Source) -> Result<Readiness, EngineError> {
        let server = self.server(seat, source)?;
        if !socket_there(&seat.run, server.port) {
            return Ok(Readiness::Starting("the server is starting".to_owned()));
        }
        // One database for all that follows: the first connection to each builds its caches anew.
        let tried = session::connect_somewhere(&server, database(source)).and_then(|mut client| {
            let ready: bool = client.query_one("SELECT NOT pg_catalog.pg_is_in_recovery()", &[])?.get(0);
            Ok((ready, client))
        });
        match tried {
            Ok((true, client)) => {
                self.sessions.keep(&seat.run, client);
                Ok(Readiness::Ready)
            }
            Ok((false, _)) => Ok(Readiness::Starting("replaying the log".to_owned())),
            Err(error) => session::starting(error).map(Readiness::Starting),
        }
    }

    fn fits(&self, source: &Source) -> Result<(), EngineError> {
        let facts = self.facts(source)?;
        facts.plain()?;
        self.installations.of(facts.major).map(drop)
    }

    fn receive(&self, data: &Path, source: &Source) -> Result<(), EngineError> {
        // An older tree has its own facts with it, as much a stranger's as those of the source.
        let own = fs::symlink_metadata(data.join(FACTS)).is_ok_and(|meta| meta.is_file());
        let facts: Facts = match own {
            true => serde_json::from_slice(&fs::read(data.join(FACTS)).map_err(io("reading a tree's facts"))?)
                .map_err(unreadable)?,
            false => self.facts(source)?,
        };
        facts.plain()?;
        let installation = self.installations.of(facts.major)?;
        tree::recognise(data, facts.major)?;
        let control = control::read(installation, self.account(), data)?;
        if control.state != "shut down" {
            return Err(EngineError::Invalid(format!("the cluster is {:?} instead of shut down", control.state)));
        }
        // That nobody's password works in it is for `admit` to see to, whatever it says of itself.
        pando_host::durable::remove_if_there(&data.join(PREPARED)).map(drop).map_err(io("reading a tree's mark"))
    }

    fn admit(&self, seat: &Seat, source: &Source, credentials: Option<&Credentials>) -> Result<(), EngineError> {
        let own = self.server(seat, source)?;
        let hba = seat.data.join("pg_hba.conf");
        let open = fs::read_to_string(&hba).map_err(io("reading a clone's door"))? == settings::host_based(true);
        let server = |source: postgres::Error| EngineError::Server {
            action: "entering a clone".to_owned(),
            source: Box::new(source),
        };
        let mut client = match self.sessions.take(&seat.run) {
            Some(client) => client,
            None => session::connect_somewhere(&own, database(source)).map_err(server)?,
        };
        if !open {
            admit::cut(&mut client, &own)?;
        }
        let Some(who) = credentials else { return Ok(()) };
        admit::let_in(&mut client, who)?;
        if self.log(&seat.log)?.current_epoch().is_some() {
            mirror::ensure_log_slot(&mut client).map_err(server)?;
        }
        // Else the server has answered queries, and its door was open from its start.
        if !open {
            tree::write(&hba, &settings::host_based(true), seat.account.as_ref())?;
            admit::reload(&mut client)?;
            admit::knock(&own, database(source), who, 200)?;
        }
        if tree::is_durable(&seat.data)? {
            // Then nothing that was replayed into it is needed again, and it starts with its own settings.
            client.batch_execute("CHECKPOINT").map_err(server)?;
            tree::settle(&seat.data)?;
        }
        Ok(())
    }

    fn record(&self, seat: &Seat, source: &Source) -> Result<Option<UnitPlan>, EngineError> {
        let (facts, installation) = self.installation(seat, source)?;
        let log = self.log(&seat.log)?;
        let Some(mut epoch) = log.current_epoch() else { return Ok(None) };
        // After an undo another tree sits here than the one that was recorded last: it goes on from elsewhere,
        // perhaps on the same timeline, so what it writes is a stretch of its own.
        if fs::read_to_string(seat.data.join(EPOCH)).ok().and_then(|text| text.parse().ok()) != Some(epoch) {
            epoch = self.begin_log(seat)?;
        }
        log.mend_live(epoch)?;
        mirror::receiver(installation, seat, port_of(&seat.data)?, &facts.superuser, &log.live_dir(epoch)).map(Some)
    }

    fn slim(&self, seat: &Seat, source: &Source) -> Result<(), EngineError> {
        let (_, installation) = self.installation(seat, source)?;
        let control = control::read(installation, seat.account.as_ref(), &seat.data)?;
        if control.state != "shut down" {
            return Err(EngineError::Invalid(format!("a prepared tree is {:?} instead of shut down", control.state)));
        }
        tree::slim(&seat.data, &control.checkpoint_segment(), control.checkpoint.0 % control.segment.max(1))?;
        tree::clean(&seat.data, false)?;
        tree::write(&seat.data.join(PREPARED), "", seat.account.as_ref())
    }

    fn may_leave(&self, seat: &Seat) -> Result<(), EngineError> {
        tree::refuse_prepared(&seat.data)
    }

    fn check_settings(&self, set: &SettingChange) -> Result<(), EngineError> {
        set.iter().try_for_each(|(name, value)| settings::check(name, value))
    }

    fn execute(&self, seat: &Seat, source: &Source, statements: &str) -> Result<(), EngineError> {
        let failed = |error: postgres::Error| {
            // The server's own words say which name or sign it is about.
            let source: Box<dyn std::error::Error + Send + Sync> = match error.as_db_error() {
                Some(said) => said.to_string().into(),
                None => Box::new(error),
            };
            EngineError::Server { action: "running statements on a clone".to_owned(), source }
        };
        let server = self.server(seat, source)?;
        let mut client = session::connect_to_work(&server, database(source)).map_err(failed)?;
        client.batch_execute("SET statement_timeout = '10min'").map_err(failed)?;
        client.batch_execute(statements).map_err(failed)
    }

    fn image(&self, seat: &Seat, source: &Source) -> Result<Option<String>, EngineError> {
        self.facts_of(seat, source).map(|facts| Some(image::official(&facts)))
    }

    fn image_look(&self, _: &Source) -> Result<Option<ImageLook>, EngineError> {
        Ok(Some(ImageLook { server: "postgres", libraries: true }))
    }

    fn baked(&self, env: &dyn Fn(&str) -> Option<String>) -> Option<Baked> {
        Some(image::baked(env))
    }

    fn stage_image(&self, seat: &Seat, source: &Source, stage: &Stage) -> Result<(), EngineError> {
        self.stage(seat, source, stage)?;
        tree::write(&seat.data.join("postgresql.conf"), &settings::alone(&seat.data)?, seat.account.as_ref())
    }

    fn bake(&self, seat: &Seat, source: &Source, stage: &Stage, moment: Timestamp) -> Result<(), EngineError> {
        self.hand_over(seat, source, stage)?;
        self.slim(seat, source)?;
        self.may_leave(seat)?;
        let (_, installation) = self.installation(seat, source)?;
        let control = control::read(installation, seat.account.as_ref(), &seat.data)?;
        if !still::settle(&seat.data, &control, moment)? {
            tracing::info!("an image of this tree is another one each time: its last checkpoint is of no known layout");
        }
        pando_host::durable::remove_if_there(&seat.data.join(PREPARED)).map(drop).map_err(io("removing a tree's mark"))
    }

    fn scrub(&self, seat: &Seat, source: &Source) -> Result<(), EngineError> {
        scrub::scrub(&self.server(seat, source)?)
    }

    fn scrub_stopped(&self, seat: &Seat, _: &Source) -> Result<(), EngineError> {
        still::forget(&seat.data)
    }

    fn largest(&self, seat: &Seat, source: &Source) -> Result<Vec<(String, u64)>, EngineError> {
        image::largest(&self.server(seat, source)?)
    }

    fn suits(&self, seat: &Seat, source: &Source, content: &ImageContent) -> Result<Vec<Finding>, EngineError> {
        let (facts, installation) = self.installation(seat, source)?;
        Ok(image::suits(&facts, &libraries::preload(&facts, installation, libraries::SHARED).0, content))
    }

    fn reindex(&self, seat: &Seat, source: &Source) -> Result<(), EngineError> {
        image::reindex(&self.server(seat, source)?)
    }

    fn hand_over(&self, seat: &Seat, source: &Source, stage: &Stage) -> Result<(), EngineError> {
        image::hand_over(seat, &self.facts_of(seat, source)?, stage)
    }

    fn hands_over(&self) -> bool {
        true
    }

    fn address(&self, source: &Source, port: u16, credentials: &Credentials) -> Option<String> {
        Some(format!(
            "postgres://{}:{}@127.0.0.1:{port}/{}",
            encoded(&credentials.user),
            encoded(credentials.password.reveal()),
            encoded(database(source))
        ))
    }
}
