//! `apply`: makes an app what a file says it is. An app that is not there is linked; of one that is there policy,
//! settings, excludes, images, edits, hooks and production's passwords are changed, and what cannot be changed is refused.
//! Applied again, nothing changes. What was learned of production when it was linked is learned anew.
//!
//! # Crash consistency
//! The record holds all of it and is replaced at once, field by field beside what the heartbeat keeps there. Undo puts
//! the former fields back.

use std::collections::BTreeMap;

use pando_catalog::{AppRecord, AppSource, Durability};
use pando_engine::Source;
use pando_image::oci::Reference;
use pando_model::{
    AppState, ApplyPlan, Change, LinkRequest, LinkSource, Name, OwnerId, Policy, SettingChange, SourceUrl,
};
use serde::{Deserialize, Serialize};

use super::snapshot::Snapshot;
use super::{link, provision};
use crate::fault::{Done, Fault, IntoProblem, failed, refused, usage};
use crate::hooks::{self, Stitches};
use crate::journal::{Run, Step, Verb, run_now};
use crate::owner::{Owner, production};
use crate::units;
use crate::world::World;

/// An app being changed.
#[derive(Serialize, Deserialize)]
pub struct Apply {
    app: AppRecord,
    fresh: Fields,
    /// How many things change.
    changes: usize,
    /// Whether the mirror has to log in anew.
    log_in: bool,
}

/// What can be changed of an app.
#[derive(Clone, Serialize, Deserialize)]
struct Fields {
    policy: Policy,
    set: SettingChange,
    stitches: Option<pando_catalog::Sealed>,
    sources: BTreeMap<Name, AppSource>,
}

impl Fields {
    fn of(app: &AppRecord) -> Self {
        let AppRecord { policy, set, stitches, sources, .. } = app.clone();
        Self { policy, set, stitches, sources }
    }
}

impl Verb for Apply {
    const WORD: &'static str = "apply";
    const STEPS: &'static [Step<Self>] = &[
        Step { name: "record", apply: Self::record, undo: Self::restore },
        Step { name: "follow", apply: Self::follow, undo: Self::stop },
    ];
    const POINT_OF_NO_RETURN: usize = 2;

    fn subject(&self) -> Name {
        self.app.name.clone()
    }

    fn result(&self, _: &World) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "app": self.app.name, "changes": self.changes }))
    }
}

/// What applying would change. Nothing is touched.
pub fn plan(world: &World, request: LinkRequest) -> Done<ApplyPlan> {
    let app = request.app.clone();
    match there(world, &app)? {
        Some(_) => {
            let (_, changes) = Apply::planned(world, request)?;
            Ok(ApplyPlan { app, links: false, changes })
        }
        None => {
            let fresh = |what: String| Change { what, from: None, to: None };
            let mut changes: Vec<Change> = link::sources(&request)?
                .iter()
                .map(|(name, source)| fresh(format!("source {name} ({}){}", source.url, in_image(source))))
                .collect();
            let stitches = Stitches { edits: request.edits.clone(), hooks: request.hooks.clone() };
            changes.extend(stitches.labels().into_iter().map(fresh));
            // Whatever would be refused is refused here too.
            link::Link::new(world, request)?;
            Ok(ApplyPlan { app, links: true, changes })
        }
    }
}

fn in_image(source: &Described) -> String {
    source.image.as_ref().map(|image| format!(", in containers: {image}")).unwrap_or_default()
}

/// The app of that name, if there is one.
pub fn there(world: &World, name: &Name) -> Done<Option<AppRecord>> {
    match world.catalog.owner(name)? {
        Some(OwnerId::App(id)) => Ok(world.catalog.get(id.as_str())?),
        _ => Ok(None),
    }
}

impl Apply {
    /// An app to be changed.
    pub fn new(world: &World, request: LinkRequest) -> Done<Self> {
        Self::planned(world, request).map(|(apply, _)| apply)
    }

    fn planned(world: &World, request: LinkRequest) -> Done<(Self, Vec<Change>)> {
        let app =
            there(world, &request.app)?.ok_or_else(|| Fault::Problem(failed(format!("{} is gone", request.app))))?;
        if matches!(app.state, AppState::Linking | AppState::Removing) {
            return Err(refused(format!("{} is {}", app.name, app.state))
                .hint("`pando ops` shows how far it is")
                .into());
        }
        let mut differences = Differences::default();
        let wanted = link::sources(&request)?;
        let gone: Vec<&str> = app.sources.keys().filter(|name| !wanted.contains_key(*name)).map(Name::as_str).collect();
        let new: Vec<&str> = wanted.keys().filter(|name| !app.sources.contains_key(*name)).map(Name::as_str).collect();
        if !gone.is_empty() || !new.is_empty() {
            let mut problem = refused(format!("the sources of {} cannot be changed once it is linked", app.name));
            problem.causes.extend(
                Some(gone.join(", ")).filter(|all| !all.is_empty()).map(|all| format!("not in the file: {all}")),
            );
            problem
                .causes
                .extend(Some(new.join(", ")).filter(|all| !all.is_empty()).map(|all| format!("not in the app: {all}")));
            let hint = format!(
                "link an app of another name, or pando unlink {} (its timeline goes) and apply again",
                app.name
            );
            return Err(problem.hint(hint).into());
        }
        let mut fresh = Fields::of(&app);
        let mut log_in = false;
        for (name, Described { url, exclude, image }) in wanted {
            let mut source = production(world, &app, &name)?;
            log_in |= differences.of_source(&app, &name, &source, &url, &exclude)?;
            if let Some(stored) = fresh.sources.get_mut(&name).filter(|stored| stored.image != image) {
                differences.add(format!("image of {name}"), stored.image.clone(), image.clone());
                stored.image = image;
            }
            let same = source.url == url && source.exclude == exclude;
            if let Some(stored) = fresh.sources.get_mut(&name).filter(|_| !same) {
                source = Source { url, exclude, ..source };
                stored.sealed = link::seal(world, &source)?;
            }
        }
        fresh.policy = request.policy.unwrap_or_default();
        differences.values("policy", &app.policy, &fresh.policy);
        let kinds: Vec<_> = app.sources.values().map(|source| source.engine).collect();
        for kind in &kinds {
            world.engine(*kind)?.check_settings(&provision::settings(&request.set, *kind, &kinds))?;
        }
        fresh.set = request.set;
        differences.values("set", &app.set, &fresh.set);
        let (before, after) = (Stitches::of(world, &app)?, Stitches { edits: request.edits, hooks: request.hooks });
        let kinds = app.sources.iter().map(|(name, source)| (name.clone(), source.engine)).collect();
        hooks::check::check(world, &after, &kinds)?;
        if before != after {
            differences.stitches(&before, &after);
            fresh.stitches = after.seal(world)?;
        }
        Ok((Self { app, fresh, changes: differences.0.len(), log_in }, differences.0))
    }

    fn put(&self, run: &Run, fields: &Fields) -> Done<()> {
        let id = self.app.id.as_str();
        Ok(run.world.catalog.change(Durability::Synced, |change| {
            let Some(mut app) = change.get::<AppRecord>(id)? else { return Ok(()) };
            let Fields { policy, set, stitches, sources } = fields.clone();
            app.policy = policy;
            app.set = set;
            app.stitches = stitches;
            for (name, source) in sources {
                if let Some(stored) = app.sources.get_mut(&name) {
                    stored.sealed = source.sealed;
                    stored.image = source.image;
                }
            }
            change.put(&app)
        })?)
    }

    fn record(&mut self, run: &Run) -> Done<()> {
        self.put(run, &self.fresh)?;
        run.world.anew.forget(&OwnerId::App(self.app.id.clone()));
        Ok(())
    }

    fn restore(&mut self, run: &Run) -> Done<()> {
        self.put(run, &Fields::of(&self.app))
    }

    fn owner(&self, run: &Run) -> Done<Option<Owner>> {
        Owner::load(&run.world, &OwnerId::App(self.app.id.clone()))
    }

    /// With another password the mirror connects anew; that it does shows that the password is right. So it does where
    /// production is set otherwise than before: what it was is in the snapshots until then, what it is in the next.
    fn follow(&mut self, run: &Run) -> Done<()> {
        let learned = self.relearn(run)?;
        self.log_in |= learned;
        self.stop(run)?;
        let Some(owner) = self.owner(run)?.filter(|_| self.log_in) else { return Ok(()) };
        link::start_following(run, &owner)?;
        match learned.then(|| run_now(&run.world, Snapshot::new(&run.world, &owner))) {
            Some(Err(Fault::Crash)) => return Err(Fault::Crash),
            // The next one of its schedule will do.
            Some(Err(Fault::Problem(problem))) => {
                tracing::info!(app = owner.name.as_str(), %problem, "no snapshot yet")
            }
            _ => {}
        }
        Ok(())
    }

    /// Asks productions for what was learned when they were linked; answers whether anything is another. One that cannot be
    /// reached keeps nobody from changing an app.
    fn relearn(&self, run: &Run) -> Done<bool> {
        let Some(owner) = self.owner(run)? else { return Ok(false) };
        if !matches!(owner.app.state, AppState::Following | AppState::Disconnected) {
            return Ok(false);
        }
        let mut learned = false;
        for (name, held) in &owner.sources {
            let found = match held.engine.relearn(&held.seat, &held.source) {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                Err(error) => {
                    let why = error.into_problem();
                    tracing::info!(app = self.app.name.as_str(), "nothing new is known of production of {name}: {why}");
                    continue;
                }
            };
            let sealed = link::seal(&run.world, &Source { facts: found.facts.clone(), ..held.source.clone() })?;
            let notes = link::notes(&found);
            run.world.catalog.change(Durability::Synced, |change| {
                let Some(mut app) = change.get::<AppRecord>(self.app.id.as_str())? else { return Ok(()) };
                if let Some(stored) = app.sources.get_mut(name) {
                    (stored.sealed, stored.version, stored.notes) = (sealed, found.version, notes);
                }
                change.put(&app)
            })?;
            learned = true;
        }
        Ok(learned)
    }

    /// The heartbeat starts the mirror again.
    fn stop(&mut self, run: &Run) -> Done<()> {
        match self.owner(run)?.filter(|_| self.log_in) {
            Some(owner) => {
                units::stop_all(&run.world, &owner)?;
                // When it was started last is of no account: this was no crash.
                run.world.drop_live(&owner.id);
                Ok(())
            }
            None => Ok(()),
        }
    }
}

/// What is another than before, for people.
#[derive(Default)]
struct Differences(Vec<Change>);

impl Differences {
    fn add(&mut self, what: impl Into<String>, from: Option<String>, to: Option<String>) {
        self.0.push(Change { what: what.into(), from, to });
    }

    /// Compares a source; answers whether its mirror has to log in anew.
    fn of_source(
        &mut self,
        app: &AppRecord,
        name: &Name,
        old: &Source,
        url: &SourceUrl,
        exclude: &[String],
    ) -> Done<bool> {
        if old.url.without_password() != url.without_password() {
            let mut problem = refused(format!("the source {name} of {} cannot be moved once it is linked", app.name));
            problem.causes.push(format!("it is {}, the file says {url}", old.url));
            let hint = format!(
                "link an app of another name, or pando unlink {} (its timeline goes) and apply again",
                app.name
            );
            return Err(problem.hint(hint).into());
        }
        if old.exclude != exclude {
            self.add(format!("exclude of {name}"), Some(old.exclude.join(" ")), Some(exclude.join(" ")));
        }
        let other = old.url.password != url.password;
        if other {
            self.add(format!("password of {name}"), None, None);
        }
        Ok(other)
    }

    /// Compares by the names of the fields.
    fn values(&mut self, of: &str, old: &impl Serialize, new: &impl Serialize) {
        let fields = |value: serde_json::Value| value.as_object().cloned().unwrap_or_default();
        let (old, new) = (
            fields(serde_json::to_value(old).unwrap_or_default()),
            fields(serde_json::to_value(new).unwrap_or_default()),
        );
        let shown = |value: Option<&serde_json::Value>| {
            value.map(|value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned))
        };
        let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            if old.get(name) != new.get(name) {
                self.add(format!("{of} {name}"), shown(old.get(name)), shown(new.get(name)));
            }
        }
    }

    /// Edits and hooks by what they are called; their values are never shown.
    fn stitches(&mut self, old: &Stitches, new: &Stitches) {
        let (old_labels, new_labels) = (old.labels(), new.labels());
        let before = self.0.len();
        for label in old_labels.iter().filter(|label| !new_labels.contains(label)) {
            self.add(label.clone(), Some("there".to_owned()), None);
        }
        for label in new_labels.iter().filter(|label| !old_labels.contains(label)) {
            self.add(label.clone(), None, Some("there".to_owned()));
        }
        if self.0.len() == before {
            self.add("edits and hooks: values or order", None, None);
        }
    }
}

/// Sources by their names.
pub type Sources = BTreeMap<Name, Described>;

/// What a file says of a source.
pub struct Described {
    /// Where production is.
    pub url: SourceUrl,
    /// What is left out.
    pub exclude: Vec<String>,
    /// The image that its server runs in, in containers.
    pub image: Option<String>,
}

impl Described {
    /// What was asked for. Refuses an image that cannot be one, or has nothing to run.
    pub fn of(wanted: &LinkSource, name: &Name, url: SourceUrl) -> Done<Self> {
        if let Some(image) = &wanted.image {
            if !units::has_server(url.engine) {
                let what = format!("{name} is a {} source: it has no server that could run in an image", url.engine);
                return Err(usage(what).hint("leave its image out").into());
            }
            image.parse::<Reference>().map_err(|error| usage(error).hint("such as registry.example/postgres:15.4"))?;
        }
        Ok(Self { url, exclude: wanted.exclude.clone(), image: wanted.image.clone() })
    }
}

/// The source's name and URL as asked for.
pub fn source(source: &LinkSource) -> Done<(Name, SourceUrl)> {
    let url: SourceUrl = source.url.parse().map_err(|error: pando_model::SourceUrlError| usage(error.to_string()))?;
    let name = match &source.name {
        Some(name) => name.clone(),
        None => url.default_source_name().parse().map_err(|error| usage(format!("a source has no name: {error}")))?,
    };
    Ok((name, url))
}
