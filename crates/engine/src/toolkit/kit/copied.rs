//! Copies: the first one, those after it, ones that were killed, and ones that cannot be made.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pando_model::SourceUrl;

use super::{Kit, Look, Stop, said, seen};
use crate::{Engine, Source, UnitPlan};

/// A file of so many bytes that is written anew at each copy costs what Pando is there to save.
const LARGE: u64 = 256 << 10;

impl Kit<'_> {
    pub(super) fn copied(&mut self) -> Result<(), Stop> {
        let plan = self.must("ingest: it names a unit, with no secret in its arguments", |kit| {
            kit.engine.ingest(&kit.seat("mirror")?, kit.source()?).map_err(said)
        })?;
        self.must("ingest: its unit makes the first copy", |kit| kit.copies(&plan, "ingest"))?;
        self.check("ingest: neither its unit nor the copy shows a secret", |kit| kit.shows_no_secret("ingest"));
        let Some(follow) = self.must("follow: it names a unit, or that there is nothing to do", |kit| {
            kit.engine.sync(&kit.seat("mirror")?, kit.source()?).map_err(said)
        })?
        else {
            return Ok(());
        };
        let before = files(&self.options.scratch.join("mirror/data"));
        self.must("follow: its unit brings the copy up to date", |kit| kit.copies(&follow, "follow"))?;
        self.check("follow: files that are there already are written in place", |kit| {
            let after = files(&kit.options.scratch.join("mirror/data"));
            match after.iter().find(|(path, inode)| before.get(*path).is_some_and(|known| known != *inode)) {
                None => Ok(()),
                Some((path, _)) => {
                    Err(format!("{} is another file now: what did not change in it is stored again", path.display()))
                }
            }
        });
        self.must("follow: one that was killed is mended by the next", |kit| {
            for millis in [20, 120, 350, 700, 1500] {
                let mut program = kit.start(&follow, "killed")?;
                program.wait(Duration::from_millis(millis))?;
                program.kill()?;
            }
            kit.copies(&follow, "follow")
        })?;
        self.check("follow: neither its unit nor the copy shows a secret", |kit| kit.shows_no_secret("follow"));
        self.check("follow: one that cannot be made fails, and says why", Self::fails);
        self.must("follow: after that it works again", |kit| kit.copies(&follow, "follow"))
    }

    fn copies(&self, plan: &UnitPlan, log: &str) -> Look {
        for _ in 0..5 {
            let (code, printed) = self.run_unit(plan, log)?;
            match code {
                Some(0) => return Ok(()),
                Some(super::super::AGAIN) => {}
                code => {
                    let last = printed.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it printed nothing");
                    return Err(format!("it ended with {code:?}: {last}"));
                }
            }
        }
        Err("it asked to be run again five times".to_owned())
    }

    fn shows_no_secret(&self, log: &str) -> Look {
        let printed = fs::read_to_string(self.log(log)).unwrap_or_default();
        for secret in self.secrets() {
            if printed.contains(&secret) {
                return Err("its unit prints production's password".to_owned());
            }
            if let Some(path) = seen::holds(&self.options.scratch.join("mirror"), &secret) {
                return Err(format!("production's password is in {path}"));
            }
        }
        Ok(())
    }

    /// A copy of a production that is not there.
    fn fails(&mut self) -> Look {
        let source = self.source()?;
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr()).map(|at| at.port());
        let url = if source.url.host.is_some() {
            SourceUrl { host: Some("127.0.0.1".into()), port: port.ok(), ..source.url.clone() }
        } else {
            SourceUrl { path: format!("{}.no-such-production", source.url.path), ..source.url.clone() }
        };
        let gone = Source { url, ..source.clone() };
        // That no unit is named at all is an answer, too.
        let Ok(Some(plan)) = self.engine.sync(&self.seat("mirror")?, &gone) else { return Ok(()) };
        let (code, printed) = self.run_unit(&plan, "failed")?;
        match code {
            Some(0) => Err("nobody was there to copy from, and it ended with 0".to_owned()),
            _ if printed.trim().is_empty() => Err("it failed, but printed nothing".to_owned()),
            _ if self.secrets().iter().any(|secret| printed.contains(secret)) => {
                Err("it prints production's password".to_owned())
            }
            _ => Ok(()),
        }
    }
}

/// Large files and their inodes.
fn files(dir: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() {
            found.extend(files(&entry.path()));
        } else if meta.is_file() && meta.len() >= LARGE {
            found.insert(entry.path(), meta.ino());
        }
    }
    found
}
