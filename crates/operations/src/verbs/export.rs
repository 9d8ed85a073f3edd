//! `export`: an app or clone at a moment as an archive, streamed to whoever asked. What goes out is what a
//! prepared snapshot is: recovered to its moment, cut off production, stopped cleanly; and made anew, where files keep
//! what was cut off, or what was masked.
//!
//! # Crash consistency
//! The work volumes have their ids from birth, and undo destroys them; nothing else is made.

use std::io::BufWriter;

use pando_image::{Counted, FORMAT, Manifest, SourceEntry, Writing};
use pando_model::{Moment, Name, SnapshotId, SourceUrl, VolumeId};
use serde::{Deserialize, Serialize};

use super::prepare::{Prepare, is_prepared};
use super::{provision, remove, renew};
use crate::fault::{Done, Fault, failed};
use crate::journal::{Run, Step, Verb, keep};
use crate::moments::{self, Plan};
use crate::owner::Owner;
use crate::transfer::{self, Way};
use crate::world::{Pin, World};

/// How many bytes go out between two looks at the progress.
const STRIDE: u64 = 16 << 20;

/// An archive in the making.
#[derive(Serialize, Deserialize)]
pub struct Export {
    name: Name,
    moment: Option<Moment>,
    fresh: Vec<VolumeId>,
    work: Option<Prepare>,
    /// Whether the trees are prepared already.
    ready: bool,
    written: Option<(String, Counted)>,
    /// From the plan until its trees are copied.
    #[serde(skip)]
    pin: Option<Pin>,
}

impl Verb for Export {
    const WORD: &'static str = "export";
    const STEPS: &'static [Step<Self>] = &[
        Step { name: "resolve", apply: Self::resolve, undo: keep },
        Step { name: "volume", apply: Self::volume, undo: Self::no_volume },
        Step { name: "prepare", apply: Self::prepare, undo: Self::stop_now },
        Step { name: "renew", apply: Self::renew, undo: Self::stop_now },
        Step { name: "stream", apply: Self::stream, undo: keep },
        Step { name: "clear", apply: Self::no_volume, undo: keep },
    ];
    const POINT_OF_NO_RETURN: usize = 5;

    fn subject(&self) -> Name {
        self.name.clone()
    }

    fn result(&self, _: &World) -> Option<serde_json::Value> {
        let ((sha256, counted), plan) = (self.written.as_ref()?, self.work.as_ref()?.plan());
        let Counted { entries, bytes, skipped, outward } = counted;
        Some(serde_json::json!({
            "name": self.name, "moment": plan.moment, "sha256": sha256,
            "entries": entries, "bytes": bytes, "left_out": skipped, "outward_links": outward,
        }))
    }
}

impl Export {
    /// An archive of an app or clone.
    pub fn new(world: &World, name: Name, moment: Option<Moment>) -> Done<Self> {
        let owner = Owner::named(world, &name)?;
        for held in owner.sources.values() {
            // What could not be imported anywhere is not exported.
            held.engine.fits(&held.source)?;
        }
        world.need_room()?;
        let fresh = provision::fresh_volumes(world, owner.sources.len());
        Ok(Self { name, moment, fresh, work: None, ready: false, written: None, pin: None })
    }

    fn work(&mut self) -> Done<&mut Prepare> {
        self.work.as_mut().ok_or_else(|| Fault::Problem(failed("an export has no plan")))
    }

    fn resolve(&mut self, run: &Run) -> Done<()> {
        let (owner, _claim) = remove::needed(run, &self.name, "export")?;
        self.pin = Some(run.world.pin(&owner.id));
        let plan = moments::resolve(run, &owner, &self.moment.clone().unwrap_or(Moment::Latest))?;
        // A masked one was prepared with what was changed still in its files.
        self.ready = !plan.masked && is_prepared(&run.world, &plan)?;
        let (millis, random) = run.world.id();
        let snapshot = SnapshotId::from_parts(millis, random);
        self.work = Some(Prepare::on(&run.world, &owner, plan, snapshot, &self.fresh)?);
        Ok(())
    }

    fn volume(&mut self, run: &Run) -> Done<()> {
        let work = self.work()?;
        work.volume(run)?;
        // A server in a container may have made its tree its own. This copy is read file by file anyway.
        provision::take_over(&run.world, &work.there(run)?)?;
        self.pin = None;
        Ok(())
    }

    fn no_volume(&mut self, run: &Run) -> Done<()> {
        match &mut self.work {
            Some(work) => work.no_volume(run),
            None => provision::destroy(run, &self.fresh),
        }
    }

    fn prepare(&mut self, run: &Run) -> Done<()> {
        if self.ready {
            return Ok(());
        }
        let work = self.work()?;
        work.stage(run)?;
        work.start(run)?;
        run.pass("export.prepare.started")?;
        work.cut(run)?;
        let masked = work.plan().masked;
        if masked {
            renew::scrub(run, &work.there(run)?)?;
        }
        work.stop(run)?;
        if masked { renew::scrub_stopped(&work.there(run)?) } else { Ok(()) }
    }

    fn renew(&mut self, run: &Run) -> Done<()> {
        let work = self.work()?;
        renew::renew(run, &work.there(run)?, work.plan().masked)
    }

    fn stop_now(&mut self, run: &Run) -> Done<()> {
        self.work.as_mut().map_or(Ok(()), |work| work.stop_now(run))
    }

    fn stream(&mut self, run: &Run) -> Done<()> {
        let name = self.name.clone();
        let work = self.work()?;
        let owner = work.there(run)?;
        let mut counted = Counted::default();
        for held in owner.sources.values() {
            held.engine.may_leave(&held.seat)?;
            pando_image::count(&held.seat.data, &mut counted)?;
        }
        let manifest = manifest(run, &name, &owner, work.plan(), counted)?;
        let stream = transfer::open(run, Way::Out)?;
        let mut writing = Writing::begin(BufWriter::with_capacity(1 << 18, stream), &manifest)?;
        let mut told = 0;
        for (source, held) in &owner.sources {
            writing.tree(source, &held.seat.data, &mut |bytes| {
                if bytes - told >= STRIDE {
                    told = bytes;
                    run.progress("exporting", bytes, Some(counted.bytes));
                }
            })?;
        }
        let (sha256, written) = writing.finish()?;
        if (written.entries, written.bytes) != (counted.entries, counted.bytes) {
            return Err(failed("the tree changed while it was exported").into());
        }
        self.written = Some((sha256, counted));
        Ok(())
    }
}

fn manifest(run: &Run, name: &Name, owner: &Owner, plan: &Plan, counted: Counted) -> Done<Manifest> {
    let mut sources = std::collections::BTreeMap::new();
    for (source, held) in &owner.sources {
        let stored = owner.app.sources.get(source);
        let planned = plan.sources.get(source);
        let entry = SourceEntry {
            engine: held.kind,
            version: stored.and_then(|stored| stored.version.clone()),
            moment: planned.map(|planned| planned.at),
            position: planned.and_then(|planned| planned.position.clone()),
            notes: stored.map(|stored| stored.notes.clone()).unwrap_or_default(),
            url: nowhere(&held.source.url),
            facts: held.source.facts.clone(),
        };
        sources.insert(source.clone(), entry);
    }
    Ok(Manifest {
        format: FORMAT,
        pando: env!("CARGO_PKG_VERSION").to_owned(),
        app: owner.app.name.clone(),
        name: name.clone(),
        moment: plan.moment,
        asked: plan.asked.clone(),
        written_at: run.world.now(),
        masked: plan.masked,
        arch: std::env::consts::ARCH.to_owned(),
        libc: pando_host::libc_version(),
        entries: counted.entries,
        bytes: counted.bytes,
        digest: "sha256".to_owned(),
        sources,
    })
}

/// What of a source's URL may leave this machine: which database, and as whom; not where, nor the password.
fn nowhere(url: &SourceUrl) -> SourceUrl {
    let path = if url.scheme == "ssh" || url.scheme == "file" { "/exported".to_owned() } else { url.path.clone() };
    let scheme = if url.scheme == "ssh" { "file".to_owned() } else { url.scheme.clone() };
    let user = if scheme == "file" { None } else { url.user.clone() };
    SourceUrl {
        engine: url.engine,
        scheme,
        user,
        password: None,
        host: None,
        port: None,
        path,
        query: Default::default(),
    }
}
