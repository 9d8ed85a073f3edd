//! The tree of an image: recovered to its moment, cut off production, let in to, stopped cleanly and made ready for
//! the official image; and what of it becomes a layer.
//!
//! Layers lie on those of the image before, of the same source on the same server image: what changed since goes
//! into one more. A layer takes a changed file in whole, so from time to time all is written anew: when the later layers
//! are together larger than the first, or too many; and always where trees are made anew.

use std::collections::BTreeMap;
use std::net::TcpListener;

use pando_catalog::{BaseRecord, ImageName, ImageRecord};
use pando_engine::{Credentials, ImageContent};
use pando_host::secret::Secret;
use pando_image::oci::{
    Base, BlobWriter, CONFIG, Image, Layer, MANIFEST, Place, TreeState, digest_of, largest_files, saved_length,
    tree_bytes, write_layer, write_saved,
};
use pando_model::{EngineKind, Profile};

use super::ImageBuild;
use super::site::{self, Site};
use crate::fault::{Done, Fault, failed, io, refused};
use crate::images;
use crate::journal::Run;
use crate::moments::Plan;
use crate::owner::{Held, Owner};
use crate::units;
use crate::verbs::prepare::is_prepared;
use crate::verbs::provision::{self, Manner, settings};
use crate::verbs::renew;

/// The most layers of data.
const MOST_LAYERS: usize = 16;
/// How many bytes are read between two looks at the progress.
const STRIDE: u64 = 64 << 20;
/// The media type of what a tree holds file by file; it is never sent.
const STATE: &str = "application/vnd.pando.tree.v1+json";

/// What came of it.
pub struct Baking {
    /// Its record; the blobs lie in the directory of work.
    pub record: ImageRecord,
}

/// The tree in the making, as an owner with one source.
fn bench(build: &mut ImageBuild, run: &Run) -> Done<Owner> {
    let source = build.name.source.clone();
    let mut owner = build.work()?.there(run)?;
    owner.sources.retain(|name, _| *name == source);
    Ok(owner)
}

fn held(owner: &Owner) -> Done<&Held> {
    owner.sources.values().next().ok_or_else(|| Fault::Problem(failed("the source of an image is gone")))
}

fn base(build: &ImageBuild, run: &Run) -> Done<(BaseRecord, Base)> {
    let id = build.base.as_deref().unwrap_or_default();
    let record: Option<BaseRecord> = run.world.catalog.get(id)?;
    let record = record.ok_or_else(|| Fault::Problem(failed("the server image is gone")))?;
    let base = images::decoded(&record.base)?;
    Ok((record, base))
}

/// Prepares a tree that has to be, and makes it anew where that has to be.
pub fn renew(build: &mut ImageBuild, run: &Run) -> Done<()> {
    let owner = bench(build, run)?;
    let held = held(&owner)?;
    if !held.engine.prepares_images() {
        return Ok(());
    }
    let (record, base) = base(build, run)?;
    suits(held, &record, &base)?;
    let plan = build.work()?.plan();
    if !is_prepared(&run.world, plan)? {
        let manner = Manner { profile: Profile::Disposable, record: false, set: BTreeMap::new() };
        provision::stage(&owner, &BTreeMap::new(), plan, &manner)?;
        provision::start(run, &owner)?;
        run.pass("image-build.renew.started")?;
        provision::admit(run, &owner, None, false)?;
        units::stop_all(&run.world, &owner)?;
        held.engine.slim(&held.seat, &held.source)?;
    }
    renew::renew(run, &owner, build.work()?.plan().masked)
}

/// Makes the tree of the image ready.
pub fn prepare(build: &mut ImageBuild, run: &Run) -> Done<()> {
    let owner = bench(build, run)?;
    let held = held(&owner)?;
    let (record, base) = base(build, run)?;
    let mut plan = build.work()?.plan().clone();
    if held.engine.prepares_images() {
        // It was rolled forward before.
        plan.sources.values_mut().for_each(|source| (source.to, source.log) = (None, None));
    }
    let manner = Manner { profile: Profile::Disposable, record: false, set: BTreeMap::new() };
    let ports = owner.sources.keys().map(|name| Ok((name.clone(), Some(free_port()?)))).collect::<Done<_>>()?;
    provision::stage_image(&owner, &ports, &plan, &manner)?;
    if site::is_directory(held.kind) {
        return budget(build, held, &[]);
    }
    suits(held, &record, &base)?;
    provision::start(run, &owner)?;
    run.pass("image-build.prepare.started")?;
    units::wait_ready(run, held)?;
    let largest = match build.name.max_bytes {
        Some(_) => held.engine.largest(&held.seat, &held.source)?,
        None => Vec::new(),
    };
    let password = run.world.unseal_text(&build.name.password.0)?;
    let salt = Some(salt(build, &plan, &password));
    let who = Credentials { user: build.name.user.clone(), password: Secret::new(password), salt };
    held.engine.admit(&held.seat, &held.source, Some(&who))?;
    // What a clone has overwritten is not for others; it may still stand in what its server wrote before.
    if owner.clone.is_some() || !held.engine.is_packable(&held.seat)? {
        held.engine.part(&held.seat, &held.source)?;
    }
    if plan.masked {
        renew::scrub(run, &owner)?;
    }
    units::stop_all(&run.world, &owner)?;
    run.pass("image-build.prepare.stopped")?;
    if plan.masked {
        renew::scrub_stopped(&owner)?;
    }
    let kinds: Vec<EngineKind> = owner.app.sources.values().map(|source| source.engine).collect();
    let set = settings(&owner.app.set, held.kind, &kinds);
    let stage =
        pando_engine::Stage { to: None, log: None, port: None, profile: build.name.profile, record: false, set };
    held.engine.bake(&held.seat, &held.source, &stage, plan.moment)?;
    budget(build, held, &largest)
}

/// What the password is salted with: the same for the same image, another for any other. Who does not know the
/// password cannot know it either.
fn salt(build: &ImageBuild, plan: &Plan, password: &str) -> [u8; 16] {
    let name = &build.name;
    let words = [name.source.as_str(), &plan.moment.to_string(), &name.user, password];
    let digest = digest_of(words.join("\n").as_bytes());
    let hex = digest.rsplit(':').next().unwrap_or_default();
    std::array::from_fn(|at| {
        let byte = hex.get(2 * at..2 * at + 2).and_then(|byte| u8::from_str_radix(byte, 16).ok());
        byte.unwrap_or(0)
    })
}

/// A port that nobody has at this moment. The server that gets it runs for a second or two.
fn free_port() -> Done<u16> {
    let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    port.map(|address| address.port()).map_err(|error| Fault::Problem(io("looking for a free port", error)))
}

/// Refuses a server image that does not suit the data (T-14, T-15).
fn suits(held: &Held, record: &BaseRecord, base: &Base) -> Done<()> {
    let baked = site::baked(held, base)?;
    if baked.version.is_none() {
        let text = format!("the server image {} does not say which version it has", record.reference);
        return Err(refused(text)
            .hint("official images, and those made FROM them, say it in their environment")
            .into());
    }
    let (libc, files) = (base.facts.libc.clone(), base.facts.files.clone());
    let content = ImageContent { version: baked.version, libc, files };
    let findings = held.engine.suits(&held.seat, &held.source, &content)?;
    let Some(finding) = findings.into_iter().find(|finding| finding.fatal) else { return Ok(()) };
    let mut problem = refused(format!("the server image {} does not suit the data", record.reference));
    problem.causes.push(finding.what);
    Err(problem.hint("name one that does: --base REFERENCE").into())
}

/// Refuses data that is larger than it may be, before any of it is packed.
fn budget(build: &ImageBuild, held: &Held, largest: &[(String, u64)]) -> Done<()> {
    let Some(most) = build.name.max_bytes else { return Ok(()) };
    let bytes = tree_bytes(&held.seat.data)?;
    if bytes <= most {
        return Ok(());
    }
    let largest = match site::is_directory(held.kind) {
        true => largest_files(&held.seat.data, 5)?,
        false => largest.to_vec(),
    };
    let words: Vec<String> = largest.iter().map(|(name, bytes)| format!("{name} {}", megabytes(*bytes))).collect();
    let named = if words.is_empty() { String::new() } else { format!("; the largest: {}", words.join(", ")) };
    let text = format!(
        "{} of {} has {}, and {} are allowed{named}",
        build.name.source,
        build.name.name,
        megabytes(bytes),
        megabytes(most)
    );
    Err(refused(text).hint("raise --max-size, or build it of a clone that was made smaller").into())
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / (1 << 20) as f64)
}

/// Writes layers, configuration and manifest into the directory of work.
pub fn pack(build: &mut ImageBuild, run: &Run) -> Done<Baking> {
    let world = &run.world;
    let owner = bench(build, run)?;
    let held = held(&owner)?;
    let (below, base) = base(build, run)?;
    let Site { place, port, command } = site::site(held, &below, &base, build.name.path.as_deref())?;
    let store = images::store(world);
    let dir = store.work(&build.work_dir)?;
    let masked = build.work()?.plan().masked;
    let mut telling = Telling { run, what: "reading", told: 0 };
    let state = TreeState::of(&held.seat.data, place.owner.is_none(), &mut |bytes| telling.hear(bytes))?;
    // What was made anew has other pages than what was made before. And a layer below keeps what was masked since, or
    // was not masked well enough then.
    let before = if masked || held.engine.renews() { None } else { before(run, &owner, build, &place)? };
    let known: Option<TreeState> = match &before {
        Some((image, _)) => Some(read_state(&store.read(&image.state)?)?),
        None => None,
    };
    let change = state.since(known.as_ref());
    let mut telling = Telling { run, what: "packing", told: 0 };
    let mut write = |change: &_| write_layer(&held.seat.data, &place, change, &dir, &mut |bytes| telling.hear(bytes));
    let layer = write(&change)?;
    let (layers, new_bytes) = match before {
        Some((_, former)) if goes_on(&former, &layer) => {
            let new_bytes = layer.blob.size;
            ([former, vec![layer]].concat(), new_bytes)
        }
        Some(_) => {
            let whole = write(&state.since(None))?;
            let new_bytes = whole.blob.size;
            (vec![whole], new_bytes)
        }
        None => (vec![layer.clone()], layer.blob.size),
    };
    let plan = build.work()?.plan().clone();
    let labels = labels(build, &owner, &plan, &below, &place.path);
    let image = Image {
        base: &base,
        layers: &layers,
        place: &place.path,
        command: command.as_deref(),
        labels: &labels,
        created: plan.moment,
    };
    let config = image.config();
    let manifest = image.manifest(&config);
    let text = serde_json::to_vec(&state).map_err(|error| Fault::Problem(failed(error.to_string())))?;
    let config = BlobWriter::whole(&dir, CONFIG, &config)?.digest;
    let manifest = BlobWriter::whole(&dir, MANIFEST, &manifest)?.digest;
    let tree = BlobWriter::whole(&dir, STATE, &text)?.digest;
    let data = layers.iter().map(|layer| layer.blob.digest.clone());
    let record = ImageRecord {
        made_of: build.made_of(world)?,
        owner: build.owner()?,
        name: build.name.name.clone(),
        app: owner.app.id.clone(),
        app_name: owner.app.name.clone(),
        source: build.name.source.clone(),
        engine: held.kind,
        moment: plan.moment,
        asked: plan.asked.clone(),
        base: below.id,
        layers: images::encoded(&layers)?,
        blobs: data.chain([config.clone(), manifest.clone(), tree.clone()]).collect(),
        config,
        digest: manifest,
        state: tree,
        path: place.path,
        port,
        user: build.name.user.clone(),
        password: build.name.password.0.clone(),
        masked: plan.masked,
        data_bytes: state.bytes(),
        new_bytes,
        changed_bytes: change.changed_bytes,
        changed_file_bytes: change.file_bytes,
        built_at: world.now(),
    };
    Ok(Baking { record })
}

struct Telling<'a> {
    run: &'a Run,
    what: &'static str,
    told: u64,
}

impl Telling<'_> {
    fn hear(&mut self, bytes: u64) {
        if bytes >= self.told + STRIDE {
            self.told = bytes;
            self.run.progress(self.what, bytes, None);
        }
    }
}

fn read_state(bytes: &[u8]) -> Done<TreeState> {
    serde_json::from_slice(bytes)
        .map_err(|error| Fault::Problem(failed(format!("what an image holds cannot be read: {error}"))))
}

/// The newest image whose layers this one can lie on.
fn before(run: &Run, owner: &Owner, build: &ImageBuild, place: &Place) -> Done<Option<(ImageRecord, Vec<Layer>)>> {
    let all: Vec<ImageRecord> = run.world.catalog.of(&format!("{}/{}", owner.app.id, build.name.source))?;
    let fits =
        |image: &ImageRecord| Some(&image.base) == build.base.as_ref() && image.path == place.path && !image.masked;
    let Some(newest) = all.into_iter().filter(fits).max_by_key(|image| image.built_at) else { return Ok(None) };
    let layers = images::decoded(&newest.layers)?;
    Ok(Some((newest, layers)))
}

/// Whether one more layer is better than all anew.
fn goes_on(former: &[Layer], more: &Layer) -> bool {
    let Some((first, later)) = former.split_first() else { return false };
    let later: u64 = later.iter().map(|layer| layer.blob.size).sum();
    former.len() < MOST_LAYERS && later + more.blob.size <= first.blob.size
}

fn labels(build: &ImageBuild, owner: &Owner, plan: &Plan, below: &BaseRecord, path: &str) -> BTreeMap<String, String> {
    [
        ("pando.app", owner.app.name.to_string()),
        ("pando.name", build.name.name.to_string()),
        ("pando.source", build.name.source.to_string()),
        ("pando.moment", plan.moment.to_string()),
        ("pando.masked", plan.masked.to_string()),
        ("pando.path", path.to_owned()),
        ("pando.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("org.opencontainers.image.created", plan.moment.to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into_iter()
    .chain(site::labels(below))
    .collect()
}

/// Gives an image to the engine: first without the layers that it seems to have, which not every engine takes.
pub fn load(run: &Run, name: &ImageName) -> Done<()> {
    let world = &run.world;
    let Some(docker) = &world.docker else { return Ok(()) };
    let image = images::image(world, name)?;
    let has = docker.image_layers(&name.reference)?;
    if has.as_ref().is_some_and(|(id, _)| *id == image.config) {
        return Ok(());
    }
    let record = images::base_of(world, &image)?;
    let (base, data): (Base, Vec<Layer>) = (images::decoded(&record.base)?, images::decoded(&image.layers)?);
    let store = images::store(world);
    let config = (image.config.clone(), store.read(&image.config)?);
    let below = if base.layers.is_empty() || record.reference.starts_with("oci:") {
        None
    } else {
        docker.image_layers(&record.reference)?
    };
    let known: Vec<Vec<String>> = has.into_iter().chain(below).map(|(_, layers)| layers).collect();
    let mut all = Vec::new();
    for layer in base.layers.into_iter().chain(data) {
        let path = store.path(&layer.blob.digest)?;
        all.push((layer, Some(path)));
    }
    let same = |layers: &Vec<String>| all.iter().zip(layers).take_while(|((one, _), two)| one.diff_id == **two).count();
    let there = known.iter().map(same).max().unwrap_or(0);
    let mut partly = all.clone();
    partly.iter_mut().take(there).for_each(|(_, path)| *path = None);
    run.progress(&format!("giving {} to the engine", name.reference), 0, None);
    let send = |layers: &[_]| {
        let length = saved_length(&name.reference, &config, layers);
        docker.load_image(length, &mut |out| write_saved(out, &name.reference, &config, layers))
    };
    if there > 0 && send(&partly).is_ok() {
        return Ok(());
    }
    Ok(send(&all)?)
}
