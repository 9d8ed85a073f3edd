//! The toolkit engine: any other server or tool, known to an executable that its user wrote, in any language.
//! The executable answers fixed questions (`message.rs`, published in `docs/toolkit`); this engine asks them
//! where an engine is called, and believes nothing it has not checked.
//!
//! | call of an engine | what a toolkit is asked |
//! |---|---|
//! | `doctor`, before `preflight` | `identify` |
//! | `preflight` | `preflight` |
//! | `ingest` | `ingest`: a unit that makes the first copy |
//! | `sync` | `follow`: a unit that brings the copy up to date |
//! | `pulse` | `position`: has production changed, can it be reached? |
//! | `stage` | `prepare` |
//! | `serve` | `unit` |
//! | `ready` | `ready` |
//! | `admit` | `sanitise` |
//!
//! A toolkit has no log: like a directory, its source shows the state of a sync, and a clone takes the first
//! one at or after its moment. Unlike a directory it has a server, so its snapshots are prepared.
//!
//! ```text
//! seat.data/data         the toolkit's; owned by the account that runs it
//! seat.data/serve.json   how it is served: ours, so that a toolkit needs to keep nothing
//! ```
//!
//! # Crash consistency
//! A sync that was interrupted leaves what the toolkit's unit left: the next one has to mend it, and snapshots
//! are taken only after one that ended well. `serve.json` is written whole before `prepare` is asked, and a
//! tree that was not staged to its end is never served.

#[cfg(test)]
mod any_text;
mod call;
mod found;
pub mod kit;
pub mod message;
#[cfg(test)]
mod schema;

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use pando_host::durable::write_atomic;
use pando_host::{Account, Clock, SystemClock};
use pando_model::{DoctorItem, EngineKind, Lsn, SettingChange, SourceUrl};

use self::call::{About, Toolkit, hidden, text};
use self::message::{
    Done, Entry, Identity, IsReady, Looked, Operation, PROTOCOL, Place, Serve, Stop, ToRun, UnitOf, Where,
};
use crate::postgres::tree::{empty, private_dir};
use crate::{
    Credentials, Engine, EngineError, Finding, Link, Mark, Point, Preflight, Pulse, Readiness, Seat, Source, Stage,
    Stretch, UnitPlan, Verdict, Want,
};

/// How often production's position is asked for.
const LOOK: Duration = Duration::from_secs(5);
/// The exit code of a unit that asks for another run (`EX_TEMPFAIL` of sysexits.h).
const AGAIN: i32 = 75;

/// What a toolkit's source is known by after it was linked.
const IDENTITY: &str = "identity";
/// What the toolkit itself learned.
const FACTS: &str = "facts";

#[derive(Debug, Clone)]
struct Seen {
    at: Instant,
    position: Option<String>,
    link: Link,
}

/// Sources of toolkits.
#[derive(Debug)]
pub struct ToolkitEngine {
    dirs: Vec<PathBuf>,
    account: Option<Account>,
    seen: Mutex<HashMap<String, Seen>>,
    /// Seconds for each operation, where it is not the usual time.
    seconds: Option<u64>,
}

impl ToolkitEngine {
    /// An engine over the toolkits in these directories; the first that has a name wins. `account`: who runs them.
    pub fn new(dirs: Vec<PathBuf>, account: Option<Account>) -> Self {
        Self { dirs, account, seen: Mutex::default(), seconds: None }
    }

    fn toolkit(&self, url: &SourceUrl) -> Result<Toolkit, EngineError> {
        let name =
            url.toolkit().ok_or_else(|| EngineError::Invalid(format!("{url} names no toolkit: toolkit+NAME://…")))?;
        let path = found::toolkit(&self.dirs, name)?;
        Ok(Toolkit { name: name.to_owned(), path, account: self.account.clone(), seconds: self.seconds })
    }

    fn plan(&self, role: &'static str, seat: &Seat, source: &Source) -> Result<Option<UnitPlan>, EngineError> {
        let toolkit = self.toolkit(&source.url)?;
        let operation = match role {
            "ingest" => Operation::Ingest,
            "sync" => Operation::Follow,
            _ => Operation::Unit,
        };
        let serve = if operation == Operation::Unit { Some(read_serve(seat)?) } else { None };
        let about = About { source: Some(source), place: Some(place(seat)?), serve, entry: None };
        let answer: ToRun = toolkit.ask(operation, about)?;
        answer.unit.map(|unit| plan_of(&toolkit, operation, role, seat, source, unit)).transpose()
    }

    fn served(&self, seat: &Seat, source: &Source) -> Result<(Toolkit, Place, Serve), EngineError> {
        Ok((self.toolkit(&source.url)?, place(seat)?, read_serve(seat)?))
    }

    fn look(&self, source: &Source) -> (Option<String>, Link) {
        let asked = self.toolkit(&source.url).and_then(|toolkit| {
            toolkit.ask::<Where>(Operation::Position, About { source: Some(source), ..About::default() })
        });
        match asked {
            Ok(Where { unreachable: Some(why), .. }) => {
                (None, Link::Disconnected(one_line(&hidden(&why, &source.url.secrets()))))
            }
            Ok(Where { position, unreachable: None }) => (position, Link::Following),
            Err(error) => (None, Link::Disconnected(chain(&error))),
        }
    }
}

fn io(action: &str) -> impl Fn(std::io::Error) -> EngineError + '_ {
    move |source| EngineError::Io { action: action.to_owned(), source }
}

/// An error with its causes, in one line.
fn chain(error: &EngineError) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    one_line(&text)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(500).collect()
}

fn data_of(seat: &Seat) -> PathBuf {
    seat.data.join("data")
}

/// The toolkit's directories, made where they are missing.
fn place(seat: &Seat) -> Result<Place, EngineError> {
    let data = data_of(seat);
    if !data.is_dir() {
        fs::create_dir_all(&seat.data).map_err(io("making the directory of a source"))?;
        // The account passes through here, and must not write: `serve.json` is ours.
        fs::set_permissions(&seat.data, fs::Permissions::from_mode(0o711))
            .map_err(io("opening the directory of a source"))?;
        private_dir(&data, seat.account.as_ref())?;
    }
    private_dir(&seat.run, seat.account.as_ref())?;
    Ok(Place { data: text(&data)?, run: text(&seat.run)? })
}

fn read_serve(seat: &Seat) -> Result<Serve, EngineError> {
    let bytes = fs::read(seat.data.join("serve.json")).map_err(io("reading how a clone is served"))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| EngineError::Invalid(format!("how a clone is served cannot be read: {error}")))
}

/// A unit as the runtime takes it; what a toolkit must not ask for is refused.
fn plan_of(
    toolkit: &Toolkit,
    operation: Operation,
    role: &'static str,
    seat: &Seat,
    source: &Source,
    unit: UnitOf,
) -> Result<UnitPlan, EngineError> {
    let wrong = |why: String| toolkit.wrong(operation, &why);
    let program = unit.program.map_or_else(|| toolkit.path.clone(), PathBuf::from);
    if !program.is_absolute() || !program.is_file() {
        return Err(wrong(format!("the program {} is no absolute path of a file", program.display())));
    }
    let secrets = source.url.secrets();
    if secrets.iter().any(|secret| unit.args.iter().any(|arg| arg.contains(secret))) {
        return Err(wrong("production's password is in an argument, which every user sees; use env".to_owned()));
    }
    let odd = |name: &&String| name.is_empty() || name.contains('=') || name.starts_with("PANDO_");
    if let Some(name) = unit.env.keys().find(odd) {
        return Err(wrong(format!("the variable {name:?} cannot be set: names are not empty and not PANDO_…")));
    }
    if unit.args.iter().chain(unit.env.values()).chain(unit.env.keys()).any(|text| text.contains('\0')) {
        return Err(wrong("a zero byte is in an argument or variable".to_owned()));
    }
    Ok(UnitPlan {
        role,
        program,
        args: unit.args,
        env: unit.env,
        dir: seat.run.clone(),
        account: seat.account.clone(),
        locks: Vec::new(),
        stop_by_interrupt: unit.stop == Stop::Int,
        stop_grace_seconds: unit.stop_seconds.min(600),
    })
}

fn identity(source: &Source) -> Option<Identity> {
    serde_json::from_value(source.facts.get(IDENTITY)?.clone()).ok()
}

/// Who a toolkit is, if it speaks our protocol.
fn identify(toolkit: &Toolkit) -> Result<Identity, EngineError> {
    let identity: Identity = toolkit.ask(Operation::Identify, About::default())?;
    if identity.protocol != PROTOCOL {
        let why = format!("it speaks protocol {}, this Pando speaks {PROTOCOL}", identity.protocol);
        return Err(toolkit.wrong(Operation::Identify, &why));
    }
    Ok(identity)
}

impl Engine for ToolkitEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Toolkit
    }

    fn doctor(&self) -> Vec<DoctorItem> {
        let item = |name: &str, level: &str, found: String, fix| DoctorItem {
            what: format!("toolkit {name}"),
            level: level.to_owned(),
            found,
            fix,
        };
        let look = |(name, path): (String, PathBuf)| {
            let asked = found::may_run(&path).and_then(|()| {
                identify(&Toolkit { name: name.clone(), path, account: self.account.clone(), seconds: None })
            });
            match asked {
                Ok(identity) => match identity.missing.first() {
                    None => item(&name, "ok", format!("{} {}", identity.title, identity.version), None),
                    Some(missing) => {
                        let found = format!("{}: {} is not installed", identity.title, missing.program);
                        item(&name, "warning", found, missing.install.clone())
                    }
                },
                Err(error) => item(&name, "warning", chain(&error), None),
            }
        };
        found::all(&self.dirs).into_iter().map(look).collect()
    }

    fn preflight(&self, url: &SourceUrl) -> Result<Preflight, EngineError> {
        let toolkit = self.toolkit(url)?;
        let identity = identify(&toolkit)?;
        let mut answer = Preflight::default();
        for missing in &identity.missing {
            let what = format!("the toolkit {} needs {}, which is not installed", toolkit.name, missing.program);
            answer.findings.push(Finding { what, fix: missing.install.clone(), fatal: true });
        }
        if !answer.findings.is_empty() {
            return Ok(answer);
        }
        let source =
            Source { url: url.clone(), exclude: Vec::new(), facts: serde_json::Value::Null, tag: String::new() };
        let looked: Looked = toolkit.ask(Operation::Preflight, About { source: Some(&source), ..About::default() })?;
        let secrets = url.secrets();
        let clean = |text: String| one_line(&hidden(&text, &secrets));
        answer.findings = looked
            .findings
            .into_iter()
            .map(|one| Finding { what: clean(one.what), fix: one.fix.map(clean), fatal: one.fatal })
            .collect();
        answer.notes = looked.notes.into_iter().map(clean).collect();
        answer.version = looked.version.map(clean);
        answer.bytes = looked.bytes;
        answer.facts = serde_json::json!({ IDENTITY: identity, FACTS: looked.facts });
        if secrets.iter().any(|secret| answer.facts.to_string().contains(secret)) {
            return Err(toolkit.wrong(Operation::Preflight, "production's password is in its facts"));
        }
        Ok(answer)
    }

    fn ingest(&self, seat: &Seat, source: &Source) -> Result<UnitPlan, EngineError> {
        place(seat)?;
        empty(&data_of(seat))?;
        let nothing =
            || EngineError::Foreign(format!("the toolkit of {} names no unit that makes the first copy", source.url));
        self.plan("ingest", seat, source)?.ok_or_else(nothing)
    }

    fn verdict(&self, code: i32, _log: &str) -> Verdict {
        match code {
            0 => Verdict::Done,
            AGAIN => Verdict::Again,
            _ => Verdict::Failed,
        }
    }

    fn progress(&self, _: &Seat, log: &str) -> Option<(u64, Option<u64>)> {
        log.lines().rev().find_map(|line| {
            let read: serde_json::Value = serde_json::from_str(line.trim()).ok()?;
            Some((read.get("done")?.as_u64()?, read.get("total").and_then(serde_json::Value::as_u64)))
        })
    }

    fn settle(&self, _seat: &Seat, _source: &Source) -> Result<(), EngineError> {
        Ok(())
    }

    fn follow(&self, _seat: &Seat, _source: &Source) -> Result<Vec<UnitPlan>, EngineError> {
        Ok(Vec::new())
    }

    // Called every second: a toolkit is asked less often, and what it said stands in between.
    fn pulse(&self, _seat: &Seat, source: &Source, urgent: bool) -> Result<Pulse, EngineError> {
        let now = SystemClock.instant();
        let known = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(&source.tag).cloned();
        if let Some(seen) = known.as_ref().filter(|seen| !urgent && now.duration_since(seen.at) < LOOK) {
            return Ok(Pulse { link: seen.link.clone(), through: None, changed: false });
        }
        let (position, link) = self.look(source);
        let before = known.and_then(|seen| seen.position);
        // Who cannot tell may have changed; who is away will tell when it is back.
        let changed = link == Link::Following && (position.is_none() || position != before);
        let position = if link == Link::Following { position } else { before };
        let seen = Seen { at: now, position, link: link.clone() };
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(source.tag.clone(), seen);
        Ok(Pulse { link, through: None, changed })
    }

    fn diagnose(&self, _log: &str) -> Option<Link> {
        None
    }

    fn sync(&self, seat: &Seat, source: &Source) -> Result<Option<UnitPlan>, EngineError> {
        self.plan("sync", seat, source)
    }

    fn hold(&self, _seat: &Seat, _source: &Source) -> Result<(), EngineError> {
        Ok(())
    }

    fn release(&self, _seat: &Seat, _source: &Source) -> Result<(), EngineError> {
        Ok(())
    }

    fn mark(&self, _: &Seat, _: &Seat, _: &Source, asked: Timestamp, _clone: bool) -> Result<Mark, EngineError> {
        let from = Point { epoch: 0, timeline: 0, lsn: Lsn(0), time: Some(asked) };
        Ok(Mark { from, at: asked, rolls: false })
    }

    fn detach(&self, source: &Source) -> Result<(), EngineError> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(&source.tag);
        Ok(())
    }

    fn stretches(&self, _log: &Path) -> Result<Vec<Stretch>, EngineError> {
        Ok(Vec::new())
    }

    fn locate(&self, _log: &Path, _from: &Point, _want: Want) -> Result<Option<Point>, EngineError> {
        Ok(None)
    }

    fn trim(&self, _log: &Path, _before: &Point) -> Result<(), EngineError> {
        Ok(())
    }

    fn stage(&self, seat: &Seat, source: &Source, stage: &Stage) -> Result<(), EngineError> {
        let toolkit = self.toolkit(&source.url)?;
        let place = place(seat)?;
        let serve = Serve { port: stage.port, profile: stage.profile, settings: stage.set.clone() };
        let bytes = serde_json::to_vec(&serve).map_err(|error| EngineError::Invalid(error.to_string()))?;
        write_atomic(&seat.data.join("serve.json"), &bytes, 0o600).map_err(io("noting how a clone is served"))?;
        let about = About { source: Some(source), place: Some(place), serve: Some(serve), entry: None };
        toolkit.ask::<Done>(Operation::Prepare, about).map(drop)
    }

    fn serves(&self, source: &Source) -> bool {
        identity(source).is_none_or(|identity| identity.server)
    }

    fn serve(&self, seat: &Seat, source: &Source) -> Result<Option<UnitPlan>, EngineError> {
        if !self.serves(source) {
            return Ok(None);
        }
        let toolkit = self.toolkit(&source.url)?;
        let nothing = || toolkit.wrong(Operation::Unit, "it names no server, but `identify` said that there is one");
        self.plan("server", seat, source)?.ok_or_else(nothing).map(Some)
    }

    fn ready(&self, seat: &Seat, source: &Source) -> Result<Readiness, EngineError> {
        if !self.serves(source) {
            return Ok(Readiness::Ready);
        }
        let (toolkit, place, serve) = self.served(seat, source)?;
        let about = About { source: Some(source), place: Some(place), serve: Some(serve), entry: None };
        let answer: IsReady = toolkit.ask(Operation::Ready, about)?;
        let doing = || answer.doing.as_deref().map_or_else(|| "starting".to_owned(), one_line);
        Ok(if answer.ready { Readiness::Ready } else { Readiness::Starting(doing()) })
    }

    fn admit(&self, seat: &Seat, source: &Source, credentials: Option<&Credentials>) -> Result<(), EngineError> {
        let (toolkit, place, serve) = self.served(seat, source)?;
        let entry = credentials.map(|who| Entry { user: who.user.clone(), password: who.password.reveal().to_owned() });
        let about = About { source: Some(source), place: Some(place), serve: Some(serve), entry };
        toolkit.ask::<Done>(Operation::Sanitise, about).map(drop)
    }

    fn record(&self, _seat: &Seat, _source: &Source) -> Result<Option<UnitPlan>, EngineError> {
        Ok(None)
    }

    fn slim(&self, _seat: &Seat, _source: &Source) -> Result<(), EngineError> {
        Ok(())
    }

    // Which of them are a toolkit's own, only it knows: it sees all of them at `prepare`.
    fn check_settings(&self, _set: &SettingChange) -> Result<(), EngineError> {
        Ok(())
    }

    fn address(&self, source: &Source, port: u16, credentials: &Credentials) -> Option<String> {
        let template = identity(source).filter(|identity| identity.server)?.address?;
        let filled = template
            .replace("{user}", &credentials.user)
            .replace("{password}", credentials.password.reveal())
            .replace("{host}", "127.0.0.1")
            .replace("{port}", &port.to_string());
        Some(filled)
    }
}
