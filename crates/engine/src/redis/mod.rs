//! The engine for Redis and Valkey servers: a replica as mirror, whose append-only file is taken into a log, and
//! clones that load a snapshot's files, cut or extended to the second asked for.
//!
//! | file | what it knows |
//! |---|---|
//! | `install.rs` | which servers this machine has, and what they can read |
//! | `client.rs`, `production.rs`, `facts.rs` | talking to servers, and what preflight learns |
//! | `mirror.rs` | following, and how far we are |
//! | `fence.rs` | writes of production held for an exact cut |
//! | `aof.rs`, `log.rs` | commands, and the log made of them |
//! | `tree.rs`, `ttl.rs` | a tree's files; keys that expire |
//! | `session.rs` | connections that are kept |
//! | `hand_over.rs` | a tree for a container of the user's, or for an image |
//! | `image.rs`, `travel.rs` | images of its servers; trees from elsewhere |
//!
//! # What is promised
//! A moment is told by this machine's clock. While the daemon runs, a clone shows production as it was at most
//! a third of a second before the moment asked for; where it looks late, on a busy machine or because it was away, the
//! seconds that the file itself notes bound it to 1.3 s. What production acknowledged and had not yet sent when
//! it died is in no replica, and not here.

#[cfg(test)]
mod any_text;
mod aof;
mod client;
mod facts;
mod fence;
mod hand_over;
mod image;
mod install;
mod log;
mod mirror;
mod production;
mod session;
mod travel;
mod tree;
mod ttl;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use pando_host::{Clock, SystemClock};
use pando_model::{DoctorItem, EngineKind, Lsn, SettingChange, SourceUrl};

use self::aof::Manifest;
use self::client::{Client, ClientError};
use self::facts::Facts;
use self::fence::Fences;
use self::install::Installation;
pub use self::install::Installations;
use self::log::AofLog;
use self::session::Sessions;
use crate::postgres::tree::private_dir;
use crate::{
    Baked, Credentials, Engine, EngineError, Finding, ImageContent, ImageLook, Link, Mark, Point, Preflight, Pulse,
    Readiness, Seat, Source, Stage, Stretch, UnitPlan, Want, encoded,
};

/// The engine for Redis and Valkey.
pub struct RedisEngine {
    installations: Installations,
    rewrite_above: u64,
    sessions: Sessions,
    fences: Fences,
    logs: Mutex<HashMap<PathBuf, Arc<AofLog>>>,
}

fn io(action: &str) -> impl Fn(std::io::Error) -> EngineError + '_ {
    move |source| EngineError::Io { action: action.to_owned(), source }
}

fn server(action: &str) -> impl Fn(ClientError) -> EngineError + '_ {
    move |source| EngineError::Server { action: action.to_owned(), source: Box::new(source) }
}

/// What is in the way of a server that is starting. Whatever else it refuses it would refuse for ever.
fn starting(error: EngineError) -> Result<String, EngineError> {
    let why = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<ClientError>());
    match why {
        Some(ClientError::Refused(why)) if why.starts_with("LOADING") => Ok("loading the data".to_owned()),
        Some(why @ ClientError::Io(_)) => Ok(why.to_string()),
        _ => Err(error),
    }
}

impl RedisEngine {
    /// An engine over the installations found.
    pub fn new(installations: Installations) -> Self {
        Self {
            installations,
            rewrite_above: mirror::rewrite_default(),
            sessions: Sessions::default(),
            fences: Fences::default(),
            logs: Mutex::default(),
        }
    }

    /// The same with rewrites of increments larger than this.
    #[must_use]
    pub fn rewriting_above(self, bytes: u64) -> Self {
        Self { rewrite_above: bytes, ..self }
    }

    fn rewrite_above(&self) -> u64 {
        self.rewrite_above
    }

    fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    fn fences(&self) -> &Fences {
        &self.fences
    }

    fn facts(&self, source: &Source) -> Result<Facts, EngineError> {
        serde_json::from_value(source.facts.clone())
            .map_err(|error| EngineError::Invalid(format!("what is known of production cannot be read: {error}")))
    }

    fn installation(&self, source: &Source) -> Result<(Facts, &Installation), EngineError> {
        let facts = self.facts(source)?;
        let installation = self.installations.for_production(facts.version)?;
        Ok((facts, installation))
    }

    fn log(&self, path: &Path) -> Arc<AofLog> {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(logs.entry(path.to_owned()).or_insert_with(|| Arc::new(AofLog::open(path))))
    }

    /// Asks the server of a seat.
    fn own<T>(&self, seat: &Seat, work: impl FnOnce(&mut Client) -> Result<T, ClientError>) -> Result<T, EngineError> {
        let connect = || {
            let secret = pando_host::plain::read_text(&seat.run.join("secret"))?;
            let mut client = Client::unix(&tree::socket(&seat.run))?;
            client.login(Some(tree::INSIDE), Some(&secret))?;
            Ok(client)
        };
        self.sessions.with(&seat.run, connect, work).map_err(server("asking Pando's own server"))
    }

    /// Asks production.
    fn production<T>(
        &self,
        source: &Source,
        work: impl FnOnce(&mut Client) -> Result<T, ClientError>,
    ) -> Result<T, EngineError> {
        let connect = || production::connect(&source.url, &source.tag);
        self.sessions.with(Path::new(&source.tag), connect, work).map_err(server("asking production"))
    }

    fn wait(&self, millis: u64) {
        SystemClock.sleep(Duration::from_millis(millis));
    }

    /// Waits until the server has put all its data into one base.
    fn compact(&self, seat: &Seat) -> Result<(), EngineError> {
        self.own(seat, |client| match client.call(&["BGREWRITEAOF"]) {
            // The server's own, which is as good.
            Err(ClientError::Refused(why)) if why.contains("in progress") => Ok(()),
            other => other.map(drop),
        })?;
        loop {
            let info = self.own(seat, |client| client.info(Some("persistence")))?;
            let value = |name: &str| info.get(name).map(String::as_str).unwrap_or_default();
            if value("aof_rewrite_in_progress") == "0" && value("aof_rewrite_scheduled") == "0" {
                return match value("aof_last_bgrewrite_status") {
                    "ok" => Ok(()),
                    status => Err(EngineError::Invalid(format!("rewriting a tree's files failed: {status}"))),
                };
            }
            self.wait(5);
        }
    }
}

impl Engine for RedisEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Redis
    }

    fn doctor(&self) -> Vec<DoctorItem> {
        let missing = self.installations.is_empty();
        vec![DoctorItem {
            what: "Redis servers".to_owned(),
            level: if missing { "warning" } else { "ok" }.to_owned(),
            found: self.installations.words(),
            fix: missing.then(|| "apt-get install redis-server".to_owned()),
        }]
    }

    fn preflight(&self, url: &SourceUrl) -> Result<Preflight, EngineError> {
        facts::look(&self.installations, url)
    }

    fn ingest(&self, seat: &Seat, source: &Source) -> Result<UnitPlan, EngineError> {
        mirror::ingest(self, seat, source)
    }

    fn progress(&self, _: &Seat, _: &str) -> Option<(u64, Option<u64>)> {
        None
    }

    fn hang_up(&self, sockets: &Path) {
        self.sessions.drop(sockets);
    }

    fn settle(&self, seat: &Seat, _: &Source) -> Result<(), EngineError> {
        self.sessions.drop(&seat.run);
        Ok(())
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

    /// A tree can be cut back to any place since its last rewrite, so nothing has to stand still: but what was
    /// written before this is to be found at the moment that follows.
    fn hold(&self, seat: &Seat, source: &Source) -> Result<(), EngineError> {
        self.pulse(seat, source, true).map(drop)
    }

    fn release(&self, _: &Seat, _: &Source) -> Result<(), EngineError> {
        Ok(())
    }

    fn mark(&self, tree: &Seat, seat: &Seat, _: &Source, asked: Timestamp, clone: bool) -> Result<Mark, EngineError> {
        let Some(stretch) = tree::stretch(&seat.data)? else {
            let from = Point { epoch: 0, timeline: 0, lsn: Lsn(0), time: Some(asked) };
            return Ok(Mark { from, at: asked, rolls: false });
        };
        let log = self.log(&seat.log);
        log.advance(&seat.data, &stretch, clone.then_some(asked), clone, None)?;
        let away = || EngineError::Invalid("production is being copied anew: there is nothing to snapshot".to_owned());
        let epoch = log.current(&stretch)?.ok_or_else(away)?;
        let manifest = Manifest::read(&tree.data)?.ok_or_else(away)?;
        let (increments, first) = log.increments(epoch)?;
        let oldest = manifest.increments().next().ok_or_else(away)?;
        let start = increments.iter().find(|one| one.seq == oldest.seq).map(|one| one.start).ok_or_else(away)?;
        let from = start.max(first);
        let time = log.time_of(epoch, from)?;
        let from = Point { epoch, timeline: 0, lsn: Lsn(from), time };
        Ok(Mark { at: time.unwrap_or(asked).min(asked), from, rolls: true })
    }

    fn detach(&self, source: &Source) -> Result<(), EngineError> {
        // Nothing of ours is on production but connections.
        self.sessions.drop(Path::new(&source.tag));
        Ok(())
    }

    fn can_fence(&self) -> bool {
        true
    }

    fn fence(&self, source: &Source, limit: Duration) -> Result<(), EngineError> {
        fence::raise(self, source, limit)
    }

    fn unfence(&self, source: &Source) -> Result<bool, EngineError> {
        fence::lower(self, source)
    }

    fn stretches(&self, log: &Path) -> Result<Vec<Stretch>, EngineError> {
        self.log(log).stretches()
    }

    fn locate(&self, log: &Path, from: &Point, want: Want) -> Result<Option<Point>, EngineError> {
        self.log(log).locate(from, want)
    }

    fn trim(&self, log: &Path, before: &Point) -> Result<(), EngineError> {
        self.log(log).trim(before)
    }

    fn stage(&self, seat: &Seat, source: &Source, stage: &Stage) -> Result<(), EngineError> {
        let (facts, _) = self.installation(source)?;
        private_dir(&seat.run, seat.account.as_ref())?;
        self.sessions.drop(&seat.run);
        hand_over::refuse_written(&seat.data)?;
        let mut manifest = tree::clean(&seat.data)?;
        if let (Some(to), Some(path)) = (&stage.to, &stage.log) {
            tree::bring(&seat.data, &mut manifest, &self.log(path), to)?;
            tree::set_moment(seat, to.time)?;
        }
        tree::write_manifest(seat, &manifest)?;
        if stage.port.is_some() {
            if let Some(moment) = tree::moment(&seat.data).filter(|_| tree::keeps_alive(&stage.set)) {
                let passed = SystemClock.now().duration_since(moment).as_millis();
                ttl::shift(&seat.data, &manifest, i64::try_from(passed).unwrap_or(0))?;
            }
            tree::set_moment(seat, None)?;
        }
        tree::clone_conf(seat, &facts, stage)?;
        if stage.record {
            private_dir(&seat.log, seat.account.as_ref())?;
            let last = manifest.increments().last();
            let length = last.map(|part| std::fs::metadata(aof::file(&seat.data, part)).map(|meta| meta.len()));
            let length = length.transpose().map_err(io("reading an AOF file"))?.unwrap_or(0);
            tree::begin_stretch(seat, last.map_or(1, |part| part.seq).saturating_sub(1), length)?;
        }
        Ok(())
    }

    fn serve(&self, seat: &Seat, source: &Source) -> Result<Option<UnitPlan>, EngineError> {
        let (_, installation) = self.installation(source)?;
        // After a reboot the directory for sockets is gone, and with it the users.
        private_dir(&seat.run, seat.account.as_ref())?;
        self.sessions.drop(&seat.run);
        // One that runs still writes: its end is not torn.
        if Client::unix(&tree::socket(&seat.run)).is_err()
            && let Some(manifest) = Manifest::read(&seat.data)?
        {
            let dropped = tree::mend(&seat.data, &manifest)?;
            if dropped > 0 {
                tracing::warn!(dropped, tree = %seat.data.display(), "the unfinished end of an AOF file was dropped");
            }
        }
        tree::write_users(seat)?;
        Ok(Some(mirror::server(installation.program(), &seat.data.join(tree::CONF), seat)))
    }

    fn ready(&self, seat: &Seat, _: &Source) -> Result<Readiness, EngineError> {
        if !tree::socket(&seat.run).exists() {
            return Ok(Readiness::Starting("the server is starting".to_owned()));
        }
        match self.own(seat, |client| client.call(&["PING"])) {
            Ok(_) => Ok(Readiness::Ready),
            Err(error) => starting(error).map(Readiness::Starting),
        }
    }

    fn admit(&self, seat: &Seat, source: &Source, credentials: Option<&Credentials>) -> Result<(), EngineError> {
        let Some(who) = credentials else { return self.compact(seat) };
        let password = format!(">{}", who.password.reveal());
        let lines = self.own(seat, |client| {
            // Most applications know only a password: it is that of the user without a name.
            for user in ["default", &who.user] {
                client.call(&["ACL", "SETUSER", user, "reset", "on", &password, "~*", "&*", "+@all"])?;
            }
            let listed = client.call(&["ACL", "LIST"])?;
            let inside = format!("user {} ", tree::INSIDE);
            Ok(listed.list().iter().map(client::Reply::text).filter(|line| !line.starts_with(&inside)).collect())
        })?;
        let lines: Vec<String> = lines;
        tree::keep_users(seat, &lines)?;
        if tree::is_durable(&seat.data)? {
            crate::seat::settle(&[&seat.data, &seat.data.join(aof::DIR)])?;
        }
        let port = tree::port(&seat.data)?;
        let knock = || -> Result<(), ClientError> {
            let mut client = Client::tcp("127.0.0.1", port)?;
            client.login(Some(&who.user), Some(who.password.reveal()))?;
            client.call(&["SELECT", &production::database(&source.url).to_string()]).map(drop)
        };
        knock().map_err(server("asking a clone a first query"))
    }

    fn fits(&self, source: &Source) -> Result<(), EngineError> {
        travel::fits(&self.installations, &self.facts(source)?)
    }

    fn receive(&self, data: &Path, _: &Source) -> Result<(), EngineError> {
        travel::receive(data)
    }

    fn record(&self, seat: &Seat, _: &Source) -> Result<Option<UnitPlan>, EngineError> {
        // The server writes it itself. That it goes on from here is seen at the next look.
        if tree::stretch(&seat.data)?.is_some() {
            self.log(&seat.log);
        }
        Ok(None)
    }

    fn slim(&self, seat: &Seat, _: &Source) -> Result<(), EngineError> {
        let manifest = tree::clean(&seat.data)?;
        tree::write_manifest(seat, &manifest)
    }

    fn check_settings(&self, set: &SettingChange) -> Result<(), EngineError> {
        set.iter().try_for_each(|(name, value)| tree::check(name, value))
    }

    fn part(&self, seat: &Seat, _: &Source) -> Result<(), EngineError> {
        hand_over::part(self, seat)
    }

    /// Commands stand in the append-only file until it is written anew.
    fn scrub(&self, seat: &Seat, _: &Source) -> Result<(), EngineError> {
        hand_over::part(self, seat)
    }

    fn hand_over(&self, seat: &Seat, source: &Source, stage: &Stage) -> Result<(), EngineError> {
        let (facts, _) = self.installation(source)?;
        hand_over::hand_over(seat, &facts, stage)
    }

    fn hands_over(&self) -> bool {
        true
    }

    fn image(&self, _: &Seat, source: &Source) -> Result<Option<String>, EngineError> {
        self.installation(source).map(|(facts, mirror)| Some(image::official(&facts, mirror)))
    }

    fn image_look(&self, source: &Source) -> Result<Option<ImageLook>, EngineError> {
        self.installation(source).map(|(facts, mirror)| Some(image::look(&facts, mirror)))
    }

    fn suits(&self, _: &Seat, source: &Source, content: &ImageContent) -> Result<Vec<Finding>, EngineError> {
        self.installation(source).map(|(_, mirror)| image::suits(mirror.version, content))
    }

    fn baked(&self, env: &dyn Fn(&str) -> Option<String>) -> Option<Baked> {
        Some(image::baked(env))
    }

    fn bakes_raw(&self) -> bool {
        true
    }

    fn is_packable(&self, seat: &Seat) -> Result<bool, EngineError> {
        hand_over::is_short(&seat.data)
    }

    fn stage_image(&self, seat: &Seat, source: &Source, stage: &Stage) -> Result<(), EngineError> {
        self.stage(seat, source, stage)?;
        tree::stand_still(seat)
    }

    fn bake(&self, seat: &Seat, source: &Source, stage: &Stage, _: Timestamp) -> Result<(), EngineError> {
        hand_over::bake(seat, &self.facts(source)?, stage)
    }

    fn address(&self, source: &Source, port: u16, credentials: &Credentials) -> Option<String> {
        Some(address(production::database(&source.url), port, credentials))
    }
}

/// The address of a server on this machine. Its password may have been chosen by a person.
fn address(database: impl std::fmt::Display, port: u16, credentials: &Credentials) -> String {
    let (user, password) = (encoded(&credentials.user), encoded(credentials.password.reveal()));
    format!("redis://{user}:{password}@127.0.0.1:{port}/{database}")
}

#[cfg(test)]
mod tests {
    use pando_host::secret::Secret;
    use pando_model::SourceUrl;

    use super::*;

    #[test]
    fn an_address_holds_any_password() -> Result<(), pando_model::SourceUrlError> {
        let who = Credentials { user: "pando".to_owned(), password: Secret::new("p@ss/w:rd 1%"), salt: None };
        let text = address(3, 6400, &who);
        assert_eq!(text, "redis://pando:p%40ss%2Fw%3Ard%201%25@127.0.0.1:6400/3");
        assert_eq!(text.parse::<SourceUrl>()?.password.as_deref(), Some("p@ss/w:rd 1%"));
        Ok(())
    }

    #[test]
    fn a_server_that_refuses_is_not_starting() {
        let told = |error: ClientError| starting(server("asking Pando's own server")(error)).ok();
        let refused = |words: &str| told(ClientError::Refused(words.to_owned()));
        assert_eq!(refused("LOADING Redis is loading the dataset in memory").as_deref(), Some("loading the data"));
        assert_eq!(refused("WRONGPASS invalid username-password pair or user is disabled."), None);
        assert_eq!(refused("ERR max number of clients reached"), None);
        assert_eq!(told(ClientError::Nonsense), None);
        let nobody = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert!(told(nobody.into()).is_some_and(|why| why.contains("refused")));
    }
}
