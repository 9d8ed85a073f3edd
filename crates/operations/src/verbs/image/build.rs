//! `image build`: one source of an app or clone at a moment becomes an image: its data, cut off production, let in to
//! and stopped cleanly, as layers on top of the server image. It is kept in HOME, and the engine gets it.
//!
//! The same moment on the same server image is the same image: what was made once is found by what it was made of.
//! Not every server's data is the same bytes when it is made again, so the first one's is kept.
//!
//! ```text
//! resolve ─▶ base ─▶ found? ──yes─────────────────────────────────────────▶ publish ─▶ load ─▶ clear
//!                      └─no─▶ mask ─▶ volume ─▶ renew ─▶ prepare ─▶ pack ────┘
//! ```
//!
//! `mask` is for an app's data that has to be masked: it makes a clone by the steps of `clone`, so that all that masks has
//! what it has of any clone. It is stopped then, and its volumes are the work volumes. Nobody is shown it as a clone to be used, and
//! it goes with the operation.
//!
//! What `renew` does is little for most: only where files keep what was cut off is a tree prepared first, or made anew.
//!
//! # Crash consistency
//! The work volumes, the clone that is masked, and the directory of what is in the making have their names from
//! birth, and undo takes them away. A record of an image is written before its blobs come in (see `images.rs`), and
//! goes when this is undone; the name gets back what it stood for, here and in the engine.

use pando_catalog::{ImageName, ImageRecord, Sealed};
use pando_host::secret::Secret;
use pando_image::oci::digest_of;
use pando_model::{
    CloneRequest, HookPoint, ImageRequest, Moment, Name, NameError, OperationId, OwnerId, Profile, SnapshotId, VolumeId,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::bake::{self, Baking};
use super::site;
use crate::containers;
use crate::fault::{Done, Fault, failed, refused, usage};
use crate::hooks::Stitches;
use crate::images;
use crate::journal::{Run, Step, Verb, keep};
use crate::moments::{self, Plan};
use crate::owner::Owner;
use crate::units::{self, CLONE_USER};
use crate::verbs::clone::Clone;
use crate::verbs::prepare::Prepare;
use crate::verbs::{provision, remove};
use crate::world::{Claim, Pin, World};

/// An image in the making.
#[derive(Serialize, Deserialize)]
pub struct ImageBuild {
    /// What the name will be: how it is built, and what it stands for in the end.
    pub(super) name: ImageName,
    moment: Moment,
    login: Option<Sealed>,
    /// Whether the engine gets it.
    load: bool,
    /// The directory of what is in the making.
    pub(super) work_dir: String,
    fresh: Vec<VolumeId>,
    /// What the name stood for before, here and in the engine.
    former: Option<ImageName>,
    former_loaded: Option<String>,
    /// The clone on which all that masks runs, of an app that has to be masked.
    mask: Option<Clone>,
    /// Whose state it is, and what serves it.
    of: Option<(OwnerId, Plan)>,
    pub(super) work: Option<Prepare>,
    /// The server image.
    pub(super) base: Option<String>,
    /// The image that is there already.
    found: Option<String>,
    /// The image that was made.
    pub(super) made: Option<ImageRecord>,
    /// From the plan until its trees are copied.
    #[serde(skip)]
    pin: Option<Pin>,
    /// Nobody else does anything with the clone that is masked.
    #[serde(skip)]
    claim: Option<Claim>,
}

impl Verb for ImageBuild {
    const WORD: &'static str = "image-build";
    const STEPS: &'static [Step<Self>] = &[
        Step { name: "resolve", apply: Self::resolve, undo: keep },
        Step { name: "base", apply: Self::take_base, undo: Self::tidy },
        Step { name: "mask", apply: Self::mask, undo: Self::unmask },
        Step { name: "volume", apply: Self::volume, undo: Self::no_volume },
        Step { name: "renew", apply: Self::renew, undo: Self::stop_now },
        Step { name: "prepare", apply: Self::prepare, undo: Self::stop_now },
        Step { name: "pack", apply: Self::pack, undo: Self::unpack },
        Step { name: "publish", apply: Self::publish, undo: Self::withdraw },
        Step { name: "load", apply: Self::load, undo: Self::unload },
        Step { name: "clear", apply: Self::clear, undo: keep },
    ];
    const POINT_OF_NO_RETURN: usize = 9;

    fn subject(&self) -> Name {
        self.name.name.clone()
    }

    fn result(&self, world: &World) -> Option<serde_json::Value> {
        let image = images::image(world, &self.name).ok()?;
        Some(serde_json::json!({
            "reference": self.name.reference, "digest": image.digest, "moment": image.moment,
            "built": self.made.is_some(), "loaded": self.load, "data_bytes": image.data_bytes,
            "new_bytes": self.made.as_ref().map_or(0, |made| made.new_bytes),
            "changed_bytes": image.changed_bytes, "changed_file_bytes": image.changed_file_bytes,
        }))
    }
}

impl ImageBuild {
    /// An image of what is asked for; what is not said is as it was at the last build of that reference.
    pub fn new(world: &World, request: ImageRequest) -> Done<Self> {
        let reference = images::reference(&request.reference)?.to_string();
        let before: Option<ImageName> = world.catalog.get(&reference)?;
        let (name, former) = match (request.name, before) {
            (Some(name), before) => (name, before),
            (None, Some(before)) => (before.name.clone(), Some(before)),
            (None, None) => return Err(images::named(world, &reference).err().unwrap_or_else(|| lost(&reference))),
        };
        // Only of the same it goes on as before.
        let last = former.as_ref().filter(|former| former.name == name);
        let owner = Owner::named(world, &name)?;
        let source = site::source(&owner, request.source.or_else(|| last.map(|last| last.source.clone())))?;
        let last = last.filter(|last| last.source == source);
        let base = request.base.or_else(|| last.and_then(|last| last.base.clone()));
        let path = request.path.or_else(|| last.and_then(|last| last.path.clone()));
        let path = site::wanted(site::kind(&owner, &source)?, base.as_deref(), path)?;
        let user = request.user.or_else(|| last.map(|last| last.user.clone())).unwrap_or_else(|| CLONE_USER.to_owned());
        check_user(&user)?;
        let password = match (request.password, last) {
            (Some(told), _) => (world.seal(told.as_bytes())?, true),
            (None, Some(last)) => last.password.clone(),
            (None, None) => (world.seal(Secret::generate().reveal().as_bytes())?, false),
        };
        let masked = request.masked.or(last.map(|last| last.masked)).unwrap_or(false);
        let mask = if masked && owner.clone.is_none() { Some(mask(world, &owner)?) } else { None };
        let load = request.load.or_else(|| last.and_then(|last| last.load));
        world.need_room()?;
        let id = {
            let (millis, random) = world.id();
            OperationId::from_parts(millis, random)
        };
        Ok(Self {
            name: ImageName {
                reference,
                image: String::new(),
                name,
                source,
                base,
                path,
                user,
                password,
                max_bytes: request.max_bytes.or_else(|| last.and_then(|last| last.max_bytes)),
                profile: request.profile.or(last.map(|last| last.profile)).unwrap_or(Profile::Disposable),
                masked,
                load,
                pushed: former.as_ref().and_then(|former| former.pushed.clone()),
            },
            moment: request.moment.unwrap_or(Moment::Latest),
            login: images::seal_login(world, request.login.as_ref())?,
            load: images::engine_for(world, load)?,
            work_dir: id.to_string(),
            fresh: provision::fresh_volumes(world, 1),
            former_loaded: None,
            former,
            mask,
            of: None,
            work: None,
            base: None,
            found: None,
            made: None,
            pin: None,
            claim: None,
        })
    }

    fn resolve(&mut self, run: &Run) -> Done<()> {
        let world = &run.world;
        let (mut owner, _claim) = remove::needed(run, &self.name.name, "image build")?;
        self.pin = Some(world.pin(&owner.id));
        let mut plan = moments::resolve(run, &owner, &self.moment)?;
        provision::readable(world, &owner, &plan)?;
        if self.name.masked && owner.clone.is_some() && !plan.masked {
            return Err(refused(format!("{} is not masked at that moment", owner.name))
                .hint(format!(
                    "`masks = true` in the file of {} says what masks; then: pando refresh {}",
                    owner.app.name, owner.name
                ))
                .into());
        }
        // That clone has all sources: what masks may need any of them.
        self.of = Some((owner.id.clone(), plan.clone()));
        owner.sources.retain(|name, _| *name == self.name.source);
        if owner.clone.is_none() && owner.sources.values().all(|held| held.engine.bakes_raw()) {
            moments::stand_on_raw(world, &owner, &mut plan)?;
        }
        plan.sources.retain(|name, _| *name == self.name.source);
        let (millis, random) = world.id();
        if self.mask.is_none() {
            self.work = Some(Prepare::on(world, &owner, plan, SnapshotId::from_parts(millis, random), &self.fresh)?);
        }
        if self.load
            && let Some(docker) = &world.docker
        {
            self.former_loaded = docker.image_layers(&self.name.reference)?.map(|(id, _)| id);
        }
        Ok(())
    }

    /// Takes the server image in, and looks whether all is there already.
    fn take_base(&mut self, run: &Run) -> Done<()> {
        let world = &run.world;
        let owner = Owner::named(world, &self.name.name)?;
        let held = owner.sources.get(&self.name.source);
        let held = held.ok_or_else(|| Fault::Problem(failed("the source of an image is gone")))?;
        let reference = match self.name.base.as_ref().or_else(|| containers::of_app(&owner.app, &self.name.source)) {
            Some(named) => named.clone(),
            None if site::is_directory(held.kind) => images::SCRATCH.to_owned(),
            None => held.engine.image(&held.seat, &held.source)?.ok_or_else(|| {
                let text = format!("no server image is known for sources of the kind {}", held.kind);
                Fault::Problem(refused(text).hint("name one: --base REFERENCE"))
            })?,
        };
        let login = images::open_login(world, self.login.as_ref(), &reference)?;
        self.base = Some(images::ensure_base(run, &reference, login, &self.work_dir)?.id);
        self.login = None;
        let made_of = self.made_of(world)?;
        let password = world.unseal(&self.name.password.0)?;
        for image in world.catalog.of::<ImageRecord>(&format!("{}/{}", owner.app.id, self.name.source))? {
            let fits = !self.name.password.1 || world.unseal(&image.password)? == password;
            // One that is too large now is looked at again, to name what is large in it.
            let small = self.name.max_bytes.is_none_or(|most| image.data_bytes <= most);
            if image.made_of == made_of && fits && small {
                self.found = Some(image.digest);
                return Ok(());
            }
        }
        Ok(())
    }

    /// What the image is made of, as one text.
    pub(super) fn made_of(&self, world: &World) -> Done<String> {
        let (owner, plan) = self.of.as_ref().ok_or_else(|| Fault::Problem(failed("an image has no plan")))?;
        let at = plan.sources.get(&self.name.source).map(|source| source.at);
        let mut made_of = vec![
            json!(owner),
            json!(self.name.source),
            json!(plan.moment),
            json!(at),
            json!(self.base),
            json!(self.name.user),
            json!(self.name.profile),
            json!(self.name.path),
        ];
        if plan.masked {
            made_of.push(json!("masked"));
        }
        if self.mask.is_some() {
            made_of.push(json!(self.masked_by(world)?));
        }
        Ok(serde_json::Value::from(made_of).to_string())
    }

    /// What masks an app's data, as one text. Programs can be others the next time, so what they have masked is made each
    /// time.
    fn masked_by(&self, world: &World) -> Done<String> {
        let stitches = Stitches::of(world, &Owner::named(world, &self.name.name)?.app)?;
        if stitches.hooks.iter().any(|hook| hook.at == HookPoint::ConfigureClone) {
            return Ok(format!("masked by {}", self.work_dir));
        }
        let text = serde_json::to_vec(&stitches.edits).map_err(|error| Fault::Problem(failed(error.to_string())))?;
        Ok(format!("masked by {}", digest_of(&text)))
    }

    /// Whose image it is.
    pub(super) fn owner(&self) -> Done<OwnerId> {
        let (owner, _) = self.of.as_ref().ok_or_else(|| Fault::Problem(failed("an image has no plan")))?;
        Ok(owner.clone())
    }

    pub(super) fn work(&mut self) -> Done<&mut Prepare> {
        self.work.as_mut().ok_or_else(|| Fault::Problem(failed("an image has no plan")))
    }

    /// Takes away what is in the making, and what no record names.
    fn tidy(&mut self, run: &Run) -> Done<()> {
        images::store(&run.world).drop_work(&self.work_dir)?;
        let _alone = images::alone(&run.world)?;
        images::settle(&run.world, &run.id)
    }

    /// Makes the clone on which all that masks runs, and stops it.
    fn mask(&mut self, run: &Run) -> Done<()> {
        let (None, Some(clone), Some((_, plan))) = (&self.found, &mut self.mask, &self.of) else { return Ok(()) };
        let world = &run.world;
        if self.claim.is_none() {
            self.claim = Some(world.claim(&[clone.subject().to_string()], "image build", false)?);
        }
        run.progress("making a clone that is masked", 0, None);
        let record = clone.make(run, plan.clone())?;
        if !record.masked {
            return Err(refused(format!("nothing of {} masks any more", self.name.name)).hint(HOW_TO_MASK).into());
        }
        run.pass("image-build.mask.made")?;
        let owner = Owner::of_clone(world, record.clone())?;
        units::stop_all(world, &owner)?;
        let mut plan = Plan { masked: true, snapshot: None, ..plan.clone() };
        plan.sources.values_mut().for_each(|source| (source.to, source.log) = (None, None));
        let (millis, random) = world.id();
        self.work = Some(Prepare::over(owner.id, &record, plan, SnapshotId::from_parts(millis, random)));
        Ok(())
    }

    fn unmask(&mut self, run: &Run) -> Done<()> {
        self.mask.as_mut().map_or(Ok(()), |clone| clone.unmake(run))?;
        self.claim = None;
        Ok(())
    }

    fn volume(&mut self, run: &Run) -> Done<()> {
        if self.found.is_none() {
            self.work()?.volume(run)?;
        }
        self.pin = None;
        Ok(())
    }

    fn no_volume(&mut self, run: &Run) -> Done<()> {
        match &mut self.work {
            Some(work) => work.no_volume(run),
            None => provision::destroy(run, &self.fresh),
        }
    }

    fn renew(&mut self, run: &Run) -> Done<()> {
        if self.found.is_some() {
            return Ok(());
        }
        bake::renew(self, run)
    }

    fn prepare(&mut self, run: &Run) -> Done<()> {
        if self.found.is_some() {
            return Ok(());
        }
        bake::prepare(self, run)
    }

    fn stop_now(&mut self, run: &Run) -> Done<()> {
        self.work.as_mut().map_or(Ok(()), |work| work.stop_now(run))
    }

    fn pack(&mut self, run: &Run) -> Done<()> {
        if self.found.is_some() {
            return Ok(());
        }
        let Baking { record } = bake::pack(self, run)?;
        self.made = Some(record);
        Ok(())
    }

    fn unpack(&mut self, run: &Run) -> Done<()> {
        Ok(images::store(&run.world).drop_work(&self.work_dir)?)
    }

    /// Gives the image its name, and takes its blobs in.
    fn publish(&mut self, run: &Run) -> Done<()> {
        let world = &run.world;
        let digest = self.made.as_ref().map(|made| made.digest.clone()).or_else(|| self.found.clone());
        self.name.image = digest.ok_or_else(|| Fault::Problem(failed("an image was not made")))?;
        let _alone = images::alone(world)?;
        if let Some(made) = &self.made {
            world.catalog.change(pando_catalog::Durability::Ordered, |change| {
                change.put(made)?;
                change.put(&self.name)
            })?;
            run.pass("image-build.publish.recorded")?;
            let store = images::store(world);
            let work = store.root().join("work").join(&self.work_dir);
            store.adopt(&work, made.blobs.iter().map(String::as_str))?;
        } else {
            // Found, but perhaps swept since.
            images::image(world, &self.name)?;
            world.catalog.note(&self.name)?;
        }
        images::settle(world, &run.id)
    }

    fn withdraw(&mut self, run: &Run) -> Done<()> {
        let world = &run.world;
        let _alone = images::alone(world)?;
        world.catalog.change(pando_catalog::Durability::Ordered, |change| {
            match &self.former {
                Some(former) => change.put(former)?,
                None => change.delete::<ImageName>(&self.name.reference)?,
            }
            match &self.made {
                Some(made) => change.delete::<ImageRecord>(&made.digest),
                None => Ok(()),
            }
        })?;
        images::settle(world, &run.id)
    }

    /// Gives it to the engine.
    fn load(&mut self, run: &Run) -> Done<()> {
        if self.load { bake::load(run, &self.name) } else { Ok(()) }
    }

    fn unload(&mut self, run: &Run) -> Done<()> {
        let (true, Some(docker)) = (self.load, &run.world.docker) else { return Ok(()) };
        let reference = &self.name.reference;
        let now = docker.image_layers(reference)?.map(|(id, _)| id);
        match &self.former_loaded {
            _ if now == self.former_loaded => Ok(()),
            Some(former) => Ok(docker.tag_image(former, reference)?),
            // What somebody else gave that name in the meantime is not ours to take.
            None if self.made.as_ref().is_some_and(|made| now.as_deref() == Some(made.config.as_str())) => {
                Ok(docker.untag_image(reference)?)
            }
            None => Ok(()),
        }
    }

    fn clear(&mut self, run: &Run) -> Done<()> {
        self.no_volume(run)?;
        self.unmask(run)?;
        Ok(images::store(&run.world).drop_work(&self.work_dir)?)
    }
}

/// What is said where nothing masks.
const HOW_TO_MASK: &str = "`masks = true` on edits and hooks in the app's file says what masks: see docs/apply.md";

/// The clone of an app on which all that masks is to run.
fn mask(world: &World, owner: &Owner) -> Done<Clone> {
    let app = &owner.name;
    if !Stitches::of(world, &owner.app)?.mask() {
        return Err(refused(format!("nothing masks the data of {app}")).hint(HOW_TO_MASK).into());
    }
    // A name that nobody would give.
    let begin: String = app.as_str().chars().take(30).collect();
    let name = format!("{begin}-masking-{:08x}", world.id().1);
    let clone = name.parse().map_err(|error: NameError| Fault::Problem(failed(error.to_string())))?;
    let request = CloneRequest {
        from: app.clone(),
        moment: None,
        clone,
        profile: Some(Profile::Disposable),
        record: false,
        lease_seconds: None,
        set: Default::default(),
        runtime: None,
        container: Default::default(),
        compose: None,
    };
    Clone::new(world, request)
}

fn lost(reference: &str) -> Fault {
    Fault::Problem(failed(format!("the record of the image {reference} is gone")))
}

/// An account's name that needs no quoting anywhere.
fn check_user(user: &str) -> Done<()> {
    let plain = user.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && user.len() <= 63
        && user.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain {
        Ok(())
    } else {
        Err(usage(format!("{user:?} is no name for a user: small letters, digits and _")).into())
    }
}
