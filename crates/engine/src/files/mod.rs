//! The files engine: a directory of this machine or of another (by ssh), kept as an exact copy by rsync.
//!
//! A directory has no log: the mirror shows production as of the start of the last sync, and a clone's files
//! are the snapshot's, as they are. Every copy is made in place, so that blocks that did not change stay
//! shared with the snapshots before it.
//!
//! # Crash consistency
//! A copy that was interrupted leaves a mixture of old and new files in the mirror. The next one mends it:
//! rsync compares everything, to the nanosecond. Whoever takes snapshots takes them after a copy that ended
//! well. Second names of hard links that were taken away ([`links`]) and files that are all hole ([`holes`])
//! are made good by the next copy, too.

mod holes;
mod links;
mod place;
mod rsync;

#[cfg(test)]
pub(crate) use rsync::{parse_version, progress};

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use jiff::Timestamp;
use pando_host::{Account, Tool, ToolError};
use pando_model::{DoctorItem, EngineKind, Lsn, SettingChange, SourceUrl};

use crate::{
    Credentials, Engine, EngineError, Finding, Link, Mark, Point, Preflight, Pulse, Readiness, Seat, Source, Stage,
    Stretch, UnitPlan, Verdict, Want,
};
use place::Place;
pub use rsync::first_error;

/// Directories, local (`file://`) or by ssh (`ssh://`).
#[derive(Debug, Clone)]
pub struct FilesEngine {
    env: BTreeMap<String, String>,
    root: bool,
}

impl Default for FilesEngine {
    fn default() -> Self {
        Self::new()
    }
}

impl FilesEngine {
    /// An engine that copies with the rights, and with the ssh agent, of this process.
    pub fn new() -> Self {
        // The keys that open production are the daemon's own; a unit's environment is otherwise clean.
        let env = ["HOME", "SSH_AUTH_SOCK"]
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?)))
            .collect();
        Self { env, root: Account::is_root() }
    }

    fn plan(&self, role: &'static str, seat: &Seat, source: &Source) -> Result<UnitPlan, EngineError> {
        let first = role == "ingest";
        let place = Place::of(&source.url)?;
        fs::create_dir_all(&seat.data).map_err(io("making the mirror's directory"))?;
        refuse_overlap(&place, &seat.data)?;
        links::loosen(&seat.data).map_err(io("loosening hard links of the mirror"))?;
        if let (Place::Local(production), false) = (&place, first) {
            holes::reserve(&seat.data, production).map_err(io("preparing files with holes"))?;
        }
        let tool = rsync::find().map_err(tool_error("looking for rsync"))?;
        let mut args = rsync::flags(self.root, first);
        args.extend(source.exclude.iter().filter(|pattern| !pattern.is_empty()).map(|p| format!("--exclude={p}")));
        if let Some(shell) = place.remote_shell()? {
            args.extend(["-e".to_owned(), shell]);
        }
        let data = seat.data.to_str().ok_or_else(|| {
            EngineError::Invalid(format!("{} is not UTF-8: choose another home", seat.data.display()))
        })?;
        args.extend(["--".to_owned(), place.argument(), format!("{data}/")]);
        Ok(UnitPlan {
            role,
            program: tool.path().to_owned(),
            args,
            env: self.env.clone(),
            dir: "/".into(),
            // As the daemon itself, never as the units' account: only root can keep owners.
            account: None,
            locks: Vec::new(),
            stop_by_interrupt: false,
            stop_grace_seconds: 10,
        })
    }

    fn notes(&self) -> Vec<String> {
        let kept = if self.root {
            "owners, modes, ACLs, extended attributes, hard links and holes are kept; device files are left out"
        } else {
            "Pando runs as an ordinary user: modes, hard links and holes are kept; owners, ACLs and extended attributes \
             are not, and their owner can always read and write the copies"
        };
        let links = "symbolic links are copied as they are: one that leads out of the directory leads to the same place \
                     from every clone";
        vec![kept.to_owned(), links.to_owned()]
    }
}

fn io(action: &str) -> impl FnOnce(std::io::Error) -> EngineError {
    let action = action.to_owned();
    move |source| EngineError::Io { action, source }
}

fn tool_error(action: &str) -> impl FnOnce(ToolError) -> EngineError {
    let action = action.to_owned();
    move |source| EngineError::Tool { action, source }
}

/// A directory that holds its own mirror would be copied into itself until the disk is full.
fn refuse_overlap(place: &Place, data: &Path) -> Result<(), EngineError> {
    let Place::Local(path) = place else { return Ok(()) };
    let (Ok(path), Ok(data)) = (path.canonicalize(), data.canonicalize()) else { return Ok(()) };
    if data.starts_with(&path) || path.starts_with(&data) {
        return Err(EngineError::Invalid(format!(
            "{} and the mirror {} lie inside one another: keep Pando's home out of what is linked",
            path.display(),
            data.display()
        )));
    }
    Ok(())
}

impl Engine for FilesEngine {
    fn kind(&self) -> EngineKind {
        EngineKind::Files
    }

    fn doctor(&self) -> Vec<DoctorItem> {
        let rsync = match rsync::find().and_then(|tool| rsync::version(&tool)) {
            Ok(version) if rsync::too_old(&version) => Err((format!("{version} is too old"), None)),
            Ok(version) => Ok(version),
            Err(error) => Err((error.to_string(), Some("apt-get install rsync"))),
        };
        let ssh = place::ssh().map(|tool| tool.path().display().to_string());
        let ssh = ssh.map_err(|error| (error.to_string(), Some("apt-get install openssh-client")));
        // Warnings only: who links no directory needs neither.
        let item = |what: &str, looked: Result<String, (String, Option<&str>)>| {
            let (level, found, fix) = match looked {
                Ok(found) => ("ok", found, None),
                Err((found, fix)) => ("warning", found, fix.map(str::to_owned)),
            };
            DoctorItem { what: what.to_owned(), level: level.to_owned(), found, fix }
        };
        vec![item("rsync (for directories)", rsync), item("ssh (for directories of other machines)", ssh)]
    }

    fn preflight(&self, url: &SourceUrl) -> Result<Preflight, EngineError> {
        let place = Place::of(url)?;
        let mut answer = Preflight { notes: self.notes(), ..Preflight::default() };
        match rsync::find().and_then(|tool| Ok((rsync::version(&tool)?, tool))) {
            Ok((version, tool)) => {
                if rsync::too_old(&version) {
                    let what = format!("rsync {version} is too old: 3.1.3 is the first that keeps holes in place");
                    answer.findings.push(Finding { what, fix: None, fatal: true });
                }
                answer.findings.extend(place.look(&tool)?);
                answer.facts = serde_json::json!({ "rsync": version });
            }
            Err(error) => {
                let fix = Some("apt-get install rsync".to_owned());
                answer.findings.push(Finding { what: error.to_string(), fix, fatal: true });
            }
        }
        Ok(answer)
    }

    // What an interrupted first copy left is kept: rsync goes on from there, and `--delete` takes away
    // whatever does not belong to production.
    fn ingest(&self, seat: &Seat, source: &Source) -> Result<UnitPlan, EngineError> {
        self.plan("ingest", seat, source)
    }

    fn verdict(&self, code: i32, log: &str) -> Verdict {
        rsync::verdict(code, log)
    }

    fn progress(&self, _: &Seat, log: &str) -> Option<(u64, Option<u64>)> {
        rsync::progress(log)
    }

    fn settle(&self, _seat: &Seat, _source: &Source) -> Result<(), EngineError> {
        Ok(())
    }

    fn follow(&self, _seat: &Seat, _source: &Source) -> Result<Vec<UnitPlan>, EngineError> {
        Ok(Vec::new())
    }

    // Called every second: a look at a local directory, nothing at all by ssh.
    fn pulse(&self, _seat: &Seat, source: &Source, _urgent: bool) -> Result<Pulse, EngineError> {
        let link = match Place::of(&source.url)? {
            Place::Local(path) => match fs::metadata(&path) {
                Ok(found) if found.is_dir() => Link::Following,
                Ok(_) => Link::Disconnected(format!("{} is not a directory", path.display())),
                Err(error) => Link::Disconnected(format!("{}: {error}", path.display())),
            },
            Place::Remote { .. } => Link::Following,
        };
        Ok(Pulse { link, through: None, changed: false })
    }

    fn sync(&self, seat: &Seat, source: &Source) -> Result<Option<UnitPlan>, EngineError> {
        self.plan("sync", seat, source).map(Some)
    }

    fn hold(&self, _seat: &Seat, _source: &Source) -> Result<(), EngineError> {
        Ok(())
    }

    fn release(&self, _seat: &Seat, _source: &Source) -> Result<(), EngineError> {
        Ok(())
    }

    fn mark(
        &self,
        _tree: &Seat,
        _seat: &Seat,
        _source: &Source,
        asked: Timestamp,
        _clone: bool,
    ) -> Result<Mark, EngineError> {
        let from = Point { epoch: 0, timeline: 0, lsn: Lsn(0), time: Some(asked) };
        Ok(Mark { from, at: asked, rolls: false })
    }

    fn detach(&self, _source: &Source) -> Result<(), EngineError> {
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

    fn stage(&self, _seat: &Seat, _source: &Source, _stage: &Stage) -> Result<(), EngineError> {
        Ok(())
    }

    fn serves(&self, _source: &Source) -> bool {
        false
    }

    fn serve(&self, _seat: &Seat, _source: &Source) -> Result<Option<UnitPlan>, EngineError> {
        Ok(None)
    }

    fn ready(&self, _seat: &Seat, _source: &Source) -> Result<Readiness, EngineError> {
        Ok(Readiness::Ready)
    }

    // Any directory is one, and nothing of it is run here.
    fn fits(&self, _source: &Source) -> Result<(), EngineError> {
        Ok(())
    }

    fn admit(&self, _seat: &Seat, _source: &Source, _credentials: Option<&Credentials>) -> Result<(), EngineError> {
        Ok(())
    }

    fn record(&self, _seat: &Seat, _source: &Source) -> Result<Option<UnitPlan>, EngineError> {
        Ok(None)
    }

    fn diagnose(&self, _log: &str) -> Option<Link> {
        None
    }

    fn check_settings(&self, _set: &SettingChange) -> Result<(), EngineError> {
        Ok(())
    }

    fn slim(&self, _seat: &Seat, _source: &Source) -> Result<(), EngineError> {
        Ok(())
    }

    // A directory is what it is, whoever looks at it.
    fn hand_over(&self, _seat: &Seat, _source: &Source, _stage: &Stage) -> Result<(), EngineError> {
        Ok(())
    }

    fn hands_over(&self) -> bool {
        true
    }

    fn address(&self, _source: &Source, _port: u16, _credentials: &Credentials) -> Option<String> {
        None
    }
}

/// What a command of rsync that was run here (not as a unit) needs: the daemon's ssh keys and agent.
fn with_ssh_environment(tool: &Tool) -> pando_host::ToolCommand {
    tool.command().inherit("HOME").inherit("SSH_AUTH_SOCK")
}
