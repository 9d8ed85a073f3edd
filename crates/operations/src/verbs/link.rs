//! `link`: looks at production, makes the first copy, follows it, and takes and prepares the first snapshot:
//! it is done when the first clone can be made.
//!
//! # Crash consistency
//! The record (state `linking`, passwords sealed) comes first. Undo stops the units, takes the slot off
//! production, destroys snapshots and volume, and frees the name. An interrupted copy is begun anew by
//! linking again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use pando_catalog::{AppRecord, AppSource, Durability};
use pando_engine::{Instead, Link as Following, Preflight, Source};
use pando_model::{
    AppId, AppState, EngineKind, HookPoint, LinkRequest, Name, OwnerId, Problem, SourceUrl, UnitId, VolumeId,
};
use serde::{Deserialize, Serialize};

use super::prepare::Prepare;
use super::{apply, provision, remove, snapshot};
use crate::doors;
use crate::fault::{Done, Fault, IntoProblem, failed, refused, usage};
use crate::hooks::{self, Stitches};
use crate::journal::{Run, Step, Verb, keep, run_now};
use crate::moments;
use crate::owner::{Held, Owner};
use crate::world::World;
use crate::{follow, units};

/// An app being linked.
#[derive(Serialize, Deserialize)]
pub struct Link {
    app: AppRecord,
    /// The hooks' unit.
    hook: UnitId,
}

impl Verb for Link {
    const WORD: &'static str = "link";
    const STEPS: &'static [Step<Self>] = &[
        Step { name: "reserve", apply: Self::reserve, undo: Self::release },
        Step { name: "preflight", apply: Self::preflight, undo: keep },
        Step { name: "volume", apply: Self::volume, undo: Self::no_volume },
        Step { name: "copy", apply: Self::copy, undo: Self::detach },
        Step { name: "settle", apply: Self::settle, undo: Self::no_log },
        Step { name: "post-ingest", apply: Self::ingested, undo: Self::no_hook },
        Step { name: "follow", apply: Self::follow, undo: Self::stop },
        Step { name: "snapshot", apply: Self::snapshot, undo: Self::no_snapshots },
        Step { name: "prepare", apply: Self::prepare, undo: keep },
        Step { name: "show", apply: Self::show, undo: keep },
    ];
    const POINT_OF_NO_RETURN: usize = 10;

    fn subject(&self) -> Name {
        self.app.name.clone()
    }

    fn result(&self, _: &World) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "app": self.app.name, "id": self.app.id }))
    }
}

impl Link {
    /// An app as asked for. Refuses what cannot be before anything is made.
    pub fn new(world: &World, request: LinkRequest) -> Done<Self> {
        if request.sources.is_empty() {
            return Err(usage("an app needs at least one source")
                .hint("pando link shop db=postgres://user:password@host/database files=file:///srv/files")
                .into());
        }
        let (millis, random) = world.id();
        let id = AppId::from_parts(millis, random);
        let mut sources = BTreeMap::new();
        let named = request.sources.iter().map(apply::source).collect::<Result<Vec<_>, _>>()?;
        let kinds: Vec<_> = named.iter().map(|(_, url)| url.engine).collect();
        for (index, (source, (name, url))) in request.sources.iter().zip(named).enumerate() {
            let engine = world.engine(url.engine)?;
            engine.check_settings(&provision::settings(&request.set, url.engine, &kinds))?;
            let body = id.as_str().trim_start_matches("app-");
            let tag = format!("pando_{body}_{index}");
            let shown = url.to_string();
            let kind = url.engine;
            let apply::Described { url, exclude, image } = apply::Described::of(source, &name, url)?;
            let stored = Source { url, exclude, facts: serde_json::Value::Null, tag };
            let (millis, random) = world.id();
            let app_source = AppSource {
                engine: kind,
                sealed: seal(world, &stored)?,
                shown,
                version: None,
                notes: Vec::new(),
                units: units::fresh_units(world),
                seat: UnitId::from_parts(millis, random),
                image,
            };
            if sources.insert(name.clone(), app_source).is_some() {
                return Err(usage(format!("two sources are named {name}")).hint("name them: NAME=URL").into());
            }
        }
        let stitches = Stitches { edits: request.edits, hooks: request.hooks };
        let kinds = sources.iter().map(|(name, source)| (name.clone(), source.engine)).collect();
        hooks::check::check(world, &stitches, &kinds)?;
        let (millis, random) = world.id();
        let app = AppRecord {
            id,
            name: request.app,
            state: AppState::Linking,
            problem: None,
            policy: request.policy.unwrap_or_default(),
            set: request.set,
            stitches: stitches.seal(world)?,
            volume: VolumeId::from_parts(millis, random),
            created_at: world.now(),
            copied_at: None,
            sources,
        };
        if world.catalog.owner(&app.name)?.is_some() {
            return Err(refused(format!("the name {} is taken", app.name))
                .hint("choose another name, or `pando ls` to see what has it")
                .into());
        }
        Ok(Self { app, hook: hooks::fresh_unit(world) })
    }

    fn owner_id(&self) -> OwnerId {
        OwnerId::App(self.app.id.clone())
    }

    fn owner(&self, run: &Run) -> Done<Owner> {
        Owner::load(&run.world, &self.owner_id())?
            .ok_or_else(|| Fault::Problem(failed(format!("the record of {} is gone", self.app.name))))
    }

    fn reserve(&mut self, run: &Run) -> Done<()> {
        run.world.home.reachable(run.world.account.as_ref())?;
        run.world.need_room()?;
        Ok(run.world.catalog.change(Durability::Ordered, |change| {
            change.take_name(&self.app.name, &self.owner_id())?;
            change.put(&self.app)
        })?)
    }

    fn release(&mut self, run: &Run) -> Done<()> {
        run.world.drop_live(&self.owner_id());
        let seats: Vec<UnitId> = self.app.sources.values().map(|source| source.seat.clone()).collect();
        remove::clear_files(run, &self.owner_id(), &seats)?;
        remove::forget_timeline::<AppRecord>(run, &self.owner_id())
    }

    fn preflight(&mut self, run: &Run) -> Done<()> {
        let world = &run.world;
        let owner = self.owner(run)?;
        let bytes = examine(world, &mut self.app, &owner, "cannot be linked yet")?;
        let usage = world.pool()?.usage()?;
        if bytes > usage.free_bytes {
            return Err(refused(format!(
                "production holds {} MB, the pool has {} MB free",
                bytes >> 20,
                usage.free_bytes >> 20
            ))
            .hint("give the pool more room, or choose another one: pando init --pool PATH")
            .into());
        }
        Ok(world.catalog.note(&self.app)?)
    }

    fn volume(&mut self, run: &Run) -> Done<()> {
        run.world.pool()?.create_volume(&self.app.volume)?;
        Ok(())
    }

    fn no_volume(&mut self, run: &Run) -> Done<()> {
        provision::destroy(run, [&self.app.volume])
    }

    fn copy(&mut self, run: &Run) -> Done<()> {
        copy(run, &self.owner(run)?, &mut self.app)
    }

    /// Takes the slot off production. What cannot be reached keeps a bounded slot.
    fn detach(&mut self, run: &Run) -> Done<()> {
        let Some(owner) = Owner::load(&run.world, &self.owner_id())? else { return Ok(()) };
        units::stop_all(&run.world, &owner)?;
        units::forget_all(&run.world, &owner)?;
        for held in owner.sources.values().filter(|held| !held.source.facts.is_null()) {
            if let Err(error) = held.engine.detach(&held.source) {
                let text = format!("the slot {} may be left on production: {}", held.source.tag, error.into_problem());
                run.world.event("slot-left-behind", Some(&self.app.name), &text);
            }
        }
        Ok(())
    }

    fn settle(&mut self, run: &Run) -> Done<()> {
        settle(&self.owner(run)?)
    }

    fn no_log(&mut self, run: &Run) -> Done<()> {
        remove::clear_files(run, &self.owner_id(), &[])
    }

    fn ingested(&mut self, run: &Run) -> Done<()> {
        hooks::run_at(run, &self.hook, HookPoint::PostIngest, &self.owner(run)?)
    }

    fn no_hook(&mut self, run: &Run) -> Done<()> {
        hooks::clear(run, &self.hook)
    }

    fn follow(&mut self, run: &Run) -> Done<()> {
        start_following(run, &self.owner(run)?)
    }

    fn stop(&mut self, run: &Run) -> Done<()> {
        match Owner::load(&run.world, &self.owner_id())? {
            Some(owner) => units::stop_all(&run.world, &owner),
            None => Ok(()),
        }
    }

    fn snapshot(&mut self, run: &Run) -> Done<()> {
        snapshot::of_owner(run, &self.owner(run)?).map(drop)
    }

    fn no_snapshots(&mut self, run: &Run) -> Done<()> {
        let pool = run.world.pool()?;
        for tree in remove::trees(&run.world, &self.owner_id())? {
            pool.destroy_snapshot(&tree)?;
        }
        Ok(())
    }

    fn prepare(&mut self, run: &Run) -> Done<()> {
        prepare_newest(run, &self.owner(run)?)
    }

    fn show(&mut self, run: &Run) -> Done<()> {
        self.app.state = AppState::Following;
        Ok(run.world.catalog.note(&self.app)?)
    }
}

/// Looks at production of every source, and keeps what it learns in the app's record. All that is wrong is said
/// at once. Answers the bytes of all sources.
pub fn examine(world: &World, app: &mut AppRecord, owner: &Owner, refusal: &str) -> Done<u64> {
    let mut wrong = Vec::new();
    let mut fixes = Vec::new();
    let mut bytes = 0;
    for (name, held) in &owner.sources {
        refuse_own(world, &held.source.url)?;
        let (kind, found) = preflight(world, held).map_err(|mut problem| {
            problem.message = format!("the source {name} {refusal}: {}", problem.message);
            problem
        })?;
        bytes += found.bytes.unwrap_or(0);
        let notes = notes(&found);
        for finding in found.findings {
            if finding.fatal {
                wrong.push(format!("{name}: {}", finding.what));
                fixes.extend(finding.fix);
            } else {
                world.event("preflight", Some(&app.name), &format!("{name}: {}", advice(&finding)));
            }
        }
        if let Some(stored) = app.sources.get_mut(name) {
            let mut source = Source { facts: found.facts, ..held.source.clone() };
            source.url.engine = kind;
            stored.engine = kind;
            stored.sealed = seal(world, &source)?;
            stored.version = found.version;
            stored.notes = notes;
        }
    }
    if wrong.is_empty() {
        return Ok(bytes);
    }
    let mut problem = failed(format!("{} {refusal}", app.name));
    problem.causes = wrong;
    Err(if fixes.is_empty() { problem } else { problem.hint(fixes.join("\n        ")) }.into())
}

/// What is shown of a source that can be linked: what its engine says of it, and what could be better.
pub fn notes(found: &Preflight) -> Vec<String> {
    let better = found.findings.iter().filter(|finding| !finding.fatal).map(advice);
    found.notes.iter().cloned().chain(better).collect()
}

fn advice(finding: &pando_engine::Finding) -> String {
    finding.what.clone() + &finding.fix.as_ref().map(|fix| format!(" ({fix})")).unwrap_or_default()
}

/// A copy of Pando's home would have its key, its token and every secret in it; what lies in the pool is some source's
/// data, and the pool may lie in the home.
fn refuse_own(world: &World, url: &SourceUrl) -> Result<(), Problem> {
    let Some(path) = Path::new(&url.path).canonicalize().ok().filter(|_| url.scheme == "file") else { return Ok(()) };
    let home = world.home.root();
    let pool = world.pool()?.root().canonicalize().ok();
    let in_pool = pool.as_deref().is_some_and(|pool| path != pool && path.starts_with(pool));
    let holds = [Some(home), pool.as_deref()].into_iter().flatten().find(|own| own.starts_with(&path));
    match holds.or_else(|| Some(home).filter(|home| path.starts_with(home) && !in_pool)) {
        None => Ok(()),
        Some(own) => {
            let what = format!("{} and Pando's own {} lie inside one another", path.display(), own.display());
            Err(refused(what).hint("keep Pando's home and its pool out of what is linked"))
        }
    }
}

/// Asks the engine that the URL names, and where that one says that another knows what is there, that other: then the
/// source is its own. `mysql://` is said of MariaDB too, whose passwords MySQL's client may not know.
fn preflight(world: &World, held: &Held) -> Result<(EngineKind, Preflight), Problem> {
    let asked = held.engine.preflight(&held.source.url);
    let other = match &asked {
        Ok(found) => found.belongs_to,
        Err(_) => (held.kind == EngineKind::Mysql).then_some(EngineKind::Mariadb),
    };
    if let Some(kind) = other {
        let mut url = held.source.url.clone();
        url.engine = kind;
        let found = world.engine(kind)?.preflight(&url);
        if let Some(found) = found.ok().filter(|found| found.belongs_to.is_none()) {
            return Ok((kind, found));
        }
    }
    // What the first one lacks is what would help.
    asked.map(|found| (held.kind, found)).map_err(IntoProblem::into_problem)
}

/// The sources that are asked for, by name.
pub fn sources(request: &LinkRequest) -> Done<apply::Sources> {
    let mut found = BTreeMap::new();
    for wanted in &request.sources {
        let (name, url) = apply::source(wanted)?;
        if found.insert(name.clone(), apply::Described::of(wanted, &name, url)?).is_some() {
            return Err(usage(format!("two sources are named {name}")).hint("give each a name of its own").into());
        }
    }
    Ok(found)
}

/// A source, encrypted for the catalog.
pub fn seal(world: &World, source: &Source) -> Done<pando_catalog::Sealed> {
    let plain = serde_json::to_vec(source).map_err(|error| failed(format!("a source cannot be stored: {error}")))?;
    world.seal(&plain)
}

/// Makes the first copy of all sources; what becomes of it otherwise than was noted is noted in the app's record.
pub fn copy(run: &Run, owner: &Owner, app: &mut AppRecord) -> Done<()> {
    doors::before_copy(&run.world, app)?;
    let copied = copy_all(run, owner, app);
    let closed = doors::close_mirror(&run.world, app);
    copied.and(closed)
}

fn copy_all(run: &Run, owner: &Owner, app: &mut AppRecord) -> Done<()> {
    for (name, held) in &owner.sources {
        while let Err(fault) = copy_one(run, name, held) {
            let mut problem = match fault {
                Fault::Problem(problem) if !run.world.is_stopping() => problem,
                other => return Err(other),
            };
            let why = [&problem.message].into_iter().chain(&problem.causes).cloned().collect::<Vec<_>>().join(": ");
            match held.engine.instead(&held.seat, &why) {
                Some(Instead::Anew { was, now }) => {
                    run.world.event("first-copy", Some(&app.name), &format!("{name}: {now}"));
                    if let Some(stored) = app.sources.get_mut(name) {
                        stored.notes.retain(|note| note != was);
                        stored.notes.push(now);
                    }
                    run.world.catalog.note(&*app)?;
                    run.pass("copy.instead")?;
                }
                Some(Instead::Hint(hint)) => {
                    problem.hint.get_or_insert_with(|| hint.to_owned());
                    return Err(problem.into());
                }
                None => return Err(problem.into()),
            }
        }
    }
    Ok(())
}

fn copy_one(run: &Run, name: &Name, held: &Held) -> Done<()> {
    // A crash of the daemon may have left the server of a former try running.
    if let Some(server) = held.units.get("server") {
        run.world.runtime.ensure_gone(server)?;
    }
    let plan = held.engine.ingest(&held.seat, &held.source)?;
    let what = format!("copying {name}");
    units::run_to_end(run, held, &what, plan)?;
    for done in 1.. {
        let Some(next) = held.engine.ingest_next(&held.seat, &held.source, done)? else { break };
        units::run_beside(run, held, &what, next)?;
    }
    Ok(())
}

/// Turns the copies into a mirror.
pub fn settle(owner: &Owner) -> Done<()> {
    for held in owner.sources.values() {
        std::fs::create_dir_all(&held.seat.log)
            .map_err(|error| Fault::Problem(crate::fault::io("making a log", error)))?;
        held.engine.settle(&held.seat, &held.source)?;
    }
    Ok(())
}

/// How long a mirror is waited for that does not follow yet: so long from when it last came on.
struct Patience {
    since: Instant,
    heard: BTreeSet<String>,
    copied: String,
}

impl Patience {
    const LONG: Duration = Duration::from_secs(120);

    fn new(now: Instant) -> Self {
        Self { since: now, heard: BTreeSet::new(), copied: String::new() }
    }

    /// Whether it is at its end. A copy comes on as long as it says another number. Of a trouble only words that were not
    /// heard before are news: they alternate, and their numbers count tries and seconds.
    fn is_over(&mut self, now: Instant, link: &Following, why: &str) -> bool {
        let comes_on = match link {
            Following::Copying(_) => std::mem::replace(&mut self.copied, why.to_owned()) != why,
            _ => self.heard.insert(why.chars().filter(|c| !c.is_ascii_digit()).collect()),
        };
        if comes_on {
            self.since = now;
        }
        now.duration_since(self.since) > Self::LONG
    }
}

/// Starts the mirror's units and waits until all sources follow production.
pub fn start_following(run: &Run, owner: &Owner) -> Done<()> {
    let world = &run.world;
    let mut patience = Patience::new(world.clock.instant());
    loop {
        let mut waiting = None;
        for (name, held) in &owner.sources {
            follow::ensure_units(world, owner, name, held)?;
            let mut pulse = held.engine.pulse(&held.seat, &held.source, false)?;
            if pulse.link == Following::Following && units::has_log(held.kind) {
                // The first copy of a busy production brings commits into the log: only what production is asked
                // for now, and is found in the log, shows that it flows.
                pulse = held.engine.pulse(&held.seat, &held.source, true)?;
            }
            world.set_live(&owner.id, name, |live| live.pulse = pulse.clone());
            let why = match &pulse.link {
                Following::Following if pulse.through.is_some() || !units::has_log(held.kind) => continue,
                Following::Following => "the log does not flow yet".to_owned(),
                Following::Disconnected(why)
                | Following::Copying(why)
                | Following::Restart(why)
                | Following::Lost(why) => why.clone(),
            };
            let hopeless = world.live(&owner.id, name).dying.is_some_and(|dying| dying.is_hopeless());
            waiting = Some((held, pulse.link, why, hopeless));
        }
        let Some((held, link, why, hopeless)) = waiting else { return Ok(()) };
        if world.is_stopping() {
            return Err(failed("the daemon is stopping").into());
        }
        if hopeless || patience.is_over(world.clock.instant(), &link, &why) {
            let server = held.units.get("server");
            let mut problem = match server {
                Some(unit) => units::died(world, unit, "the mirror does not follow production"),
                None => failed("the mirror does not follow production"),
            };
            problem.causes.insert(0, why);
            return Err(problem.into());
        }
        run.progress(&why, 0, None);
        world.clock.sleep(Duration::from_millis(50));
    }
}

/// Prepares the snapshot that was taken last, where it needs that.
pub fn prepare_newest(run: &Run, owner: &Owner) -> Done<()> {
    let world = &run.world;
    let snapshots = owner.snapshots(world)?;
    let Some(newest) = moments::as_taken(owner, &snapshots).pop().filter(|snapshot| snapshot.prepared.is_none()) else {
        return Ok(());
    };
    let _pin = world.pin(&owner.id);
    let plan = moments::resolve(run, owner, &pando_model::Moment::Snapshot(newest.id.clone()))?;
    run_now(world, Prepare::new(world, owner, plan, newest.id.clone())?).map(drop)
}

#[cfg(test)]
mod tests {
    use pando_host::{Clock, SystemClock};

    use super::*;

    #[test]
    fn a_mirror_is_waited_for_as_long_as_it_comes_on() {
        let begun = SystemClock.instant();
        let at = |seconds: u64| begun + Duration::from_secs(seconds);
        let trouble = |why: &str| Following::Disconnected(why.to_owned());
        let mut patience = Patience::new(begun);
        // A server that dies at every start, and tries that are counted.
        for second in 0..60 {
            let words = [format!("try {second} of 86400"), "starting".to_owned(), "no socket".to_owned()];
            for why in &words {
                assert!(!patience.is_over(at(second), &trouble(why), why));
            }
        }
        assert!(!patience.is_over(at(115), &trouble("starting"), "starting"));
        // A long copy, also one that is begun again.
        for second in 115..500 {
            let why = format!("{} MB", second % 100);
            assert!(!patience.is_over(at(second), &Following::Copying(why.clone()), &why));
        }
        assert!(!patience.is_over(at(600), &trouble("starting"), "starting"));
        assert!(patience.is_over(at(620), &trouble("try 7 of 86400"), "try 7 of 86400"));
    }
}
