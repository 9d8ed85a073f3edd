//! What the verbs of images have in common: the store, the server image that others stand on, what is kept, and what
//! is shown.
//!
//! Every image that a name stands for is kept, and of each source that has one the newest before: so the same moment
//! asked for again is the same image. The rest, and the server images that nothing stands on, are taken away together
//! with their blobs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pando_catalog::{BaseRecord, ImageName, ImageRecord, OperationRecord, Sealed};
use pando_host::durable::{remove_if_there, write_atomic};
use pando_image::oci::{
    Base, Descriptor, LAYOUT, Layer, Layout, Login, MANIFEST, Origin, Reference, Registry, Store, digest_of, index,
    read_saved, take_image,
};
use pando_model::{ImageView, Name, OperationId, OperationState, RegistryLogin};

use crate::fault::{Done, Fault, IntoProblem, failed, io, not_found, refused, usage};
use crate::journal::{Run, Verb};
use crate::verbs::image::ImageBuild;
use crate::world::{Claim, World};

/// So many images without a name are kept of each source that has one with.
const KEPT: usize = 10;

/// What stands for nothing below, as Dockerfiles have it.
pub const SCRATCH: &str = "scratch";

/// The store of this home.
pub fn store(world: &World) -> Store {
    Store::at(world.home.images())
}

/// Whoever changes what is in the store, or what records name of it, is alone there.
pub fn alone(world: &Arc<World>) -> Done<Claim> {
    Ok(world.claim(&["images".to_owned()], "images", true)?)
}

/// What a verb takes for itself: one name of an image, and the making of images of one app or clone.
pub fn claims(reference: &str, of: Option<&Name>) -> Vec<String> {
    // Written in another way it is the same; what cannot be read is refused by the verb.
    let reference = reference.parse::<Reference>().map_or_else(|_| reference.to_owned(), |read| read.to_string());
    let of = of.map(|name| format!("the images of {name}"));
    [Some(format!("the image {reference}")), of].into_iter().flatten().collect()
}

/// A reference that can be built, pushed and removed.
pub fn reference(text: &str) -> Done<Reference> {
    let read: Reference = text.parse().map_err(|error: String| usage(error).hint("such as shop-db:ci"))?;
    if read.is_digest() {
        return Err(usage("an image is named by a tag; its digest is what comes out").into());
    }
    Ok(read)
}

/// The record of a name.
pub fn named(world: &World, text: &str) -> Done<ImageName> {
    let reference = reference(text)?.to_string();
    world.catalog.get::<ImageName>(&reference)?.ok_or_else(|| {
        let problem = not_found(format!("no image {reference} was built here"));
        Fault::Problem(problem.hint("`pando image ls` shows those that were; pando image build NAME REF makes one"))
    })
}

/// The image of a name.
pub fn image(world: &World, name: &ImageName) -> Done<ImageRecord> {
    let found = world.catalog.get::<ImageRecord>(&name.image)?;
    found.ok_or_else(|| Fault::Problem(failed(format!("the record of the image {} is gone", name.reference))))
}

/// The server image of an image.
pub fn base_of(world: &World, image: &ImageRecord) -> Done<BaseRecord> {
    let found = world.catalog.get::<BaseRecord>(&image.base)?;
    found.ok_or_else(|| Fault::Problem(failed(format!("the server image of {} is gone", image.digest))))
}

/// What a record holds in the store's own form.
pub fn decoded<T: serde::de::DeserializeOwned>(value: &serde_json::Value) -> Done<T> {
    serde_json::from_value(value.clone())
        .map_err(|error| Fault::Problem(failed(format!("a record of an image cannot be read: {error}"))))
}

/// The same, to be kept.
pub fn encoded<T: serde::Serialize>(value: &T) -> Done<serde_json::Value> {
    serde_json::to_value(value)
        .map_err(|error| Fault::Problem(failed(format!("a record of an image cannot be written: {error}"))))
}

/// What a registry is shown, as an operation keeps it.
pub fn seal_login(world: &World, login: Option<&RegistryLogin>) -> Done<Option<Sealed>> {
    let Some(login) = login else { return Ok(None) };
    let text = serde_json::to_vec(login).map_err(|error| Fault::Problem(failed(error.to_string())))?;
    Ok(Some(world.seal(&text)?))
}

/// The same, ready to be shown to the registry of a name, if it is for that one.
pub fn open_login(world: &World, sealed: Option<&Sealed>, reference: &str) -> Done<Option<Login>> {
    let Some(sealed) = sealed else { return Ok(None) };
    let login: RegistryLogin = serde_json::from_slice(&world.unseal(sealed)?)
        .map_err(|error| Fault::Problem(failed(format!("a login cannot be read: {error}"))))?;
    let registry = reference.parse::<Reference>().ok().map(|read| read.registry().to_owned());
    let fits = login.registry.is_none() || login.registry == registry;
    Ok(fits.then_some(Login { user: login.user, password: login.password }))
}

/// Makes sure that a server image is in the store: from a directory, else from the engine, else from its registry.
/// `work` names the directory for what comes in.
pub fn ensure_base(run: &Run, reference: &str, login: Option<Login>, work: &str) -> Done<BaseRecord> {
    let world = &run.world;
    if reference == SCRATCH {
        let base = Base::scratch();
        let id = digest_of(base.config.to_string().as_bytes());
        return keep_base(run, id, reference, &base, store(world).root());
    }
    if let Some(mut layout) = Layout::named(reference) {
        return from_origin(run, reference, &mut layout, work);
    }
    if let Some(docker) = &world.docker
        && let Ok(Some((id, _))) = docker.image_layers(reference)
    {
        if let Some(known) = world.catalog.get(&id)? {
            return Ok(known);
        }
        run.progress(&format!("taking {reference} from the engine"), 0, None);
        let dir = store(world).work(work)?;
        let base = read_saved(&mut docker.save_image(reference)?, &dir)?;
        return keep_base(run, id, reference, &base, &dir);
    }
    let named: Reference = reference.parse().map_err(|error: String| usage(error))?;
    from_origin(run, reference, &mut Registry::new(named, login, &world.trust), work).map_err(|fault| match fault {
        Fault::Problem(mut problem) => {
            problem.causes.insert(0, problem.message);
            problem.message =
                format!("the server image {reference} is not here, and could not be taken from its registry");
            let advice = format!("docker pull {reference}; or name an image that is there: --base REFERENCE");
            problem.hint.get_or_insert(advice);
            Fault::Problem(problem)
        }
        crash => crash,
    })
}

fn from_origin(run: &Run, reference: &str, origin: &mut dyn Origin, work: &str) -> Done<BaseRecord> {
    let (id, manifest) = origin.chosen()?;
    if let Some(known) = run.world.catalog.get(&id)? {
        return Ok(known);
    }
    run.progress(&format!("taking {reference} from its registry"), 0, None);
    let dir = store(&run.world).work(work)?;
    let base = take_image(origin, &manifest, &dir)?;
    keep_base(run, id, reference, &base, &dir)
}

fn keep_base(run: &Run, id: String, reference: &str, base: &Base, dir: &std::path::Path) -> Done<BaseRecord> {
    let blobs: Vec<String> = base.layers.iter().map(|layer| layer.blob.digest.clone()).collect();
    let record = BaseRecord { id, reference: reference.to_owned(), base: encoded(base)?, blobs };
    let _alone = alone(&run.world)?;
    run.world.catalog.note(&record)?;
    run.pass("image-build.base.recorded")?;
    store(&run.world).adopt(dir, record.blobs.iter().map(String::as_str))?;
    Ok(record)
}

/// Forgets images that are not kept, takes away all blobs that no record names, and writes down which names there are.
/// `own`: the operation that does it. The caller is [`alone`].
pub fn settle(world: &World, own: &OperationId) -> Done<()> {
    let names: Vec<ImageName> = world.catalog.all()?;
    let mut images: Vec<ImageRecord> = world.catalog.all()?;
    images.sort_by_key(|image| std::cmp::Reverse(image.built_at));
    let named: BTreeSet<&str> = names.iter().map(|name| name.image.as_str()).collect();
    let line = |image: &ImageRecord| pando_catalog::Record::key(image);
    let alive: BTreeSet<String> =
        images.iter().filter(|image| named.contains(image.digest.as_str())).map(line).collect();
    let mut others: BTreeMap<String, usize> = BTreeMap::new();
    let (kept, gone): (Vec<ImageRecord>, Vec<ImageRecord>) = images.into_iter().partition(|image| {
        named.contains(image.digest.as_str())
            || (alive.contains(&line(image)) && {
                let count = others.entry(line(image)).or_default();
                *count += 1;
                *count <= KEPT
            })
    });
    for image in gone {
        world.catalog.delete::<ImageRecord>(&image.digest)?;
    }
    let used: BTreeSet<&str> = kept.iter().map(|image| image.base.as_str()).collect();
    let others_build = others_build(world, own)?;
    let mut keep: BTreeSet<String> = kept.iter().flat_map(|image| image.blobs.iter().cloned()).collect();
    for base in world.catalog.all::<BaseRecord>()? {
        if used.contains(base.id.as_str()) || others_build {
            keep.extend(base.blobs);
        } else {
            world.catalog.delete::<BaseRecord>(&base.id)?;
        }
    }
    let store = store(world);
    store.sweep(&keep)?;
    write_index(&store, &names)
}

/// Whether another build is under way: the server image that it took in is in no image yet.
fn others_build(world: &World, own: &OperationId) -> Done<bool> {
    for state in [OperationState::Running, OperationState::Undoing, OperationState::Stuck] {
        let open: Vec<OperationRecord> = world.catalog.of(state.as_str())?;
        if open.iter().any(|one| one.verb == ImageBuild::WORD && one.id != *own) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Programs that know OCI's layout find the images in the store by its index.
fn write_index(store: &Store, names: &[ImageName]) -> Done<()> {
    let failed = |error| Fault::Problem(io("writing the index of the images", error));
    let file = store.root().join("index.json");
    if names.is_empty() {
        return remove_if_there(&file).map(drop).map_err(failed);
    }
    let mut manifests = BTreeMap::new();
    for name in names.iter().filter(|name| store.has(&name.image)) {
        let size = store.read(&name.image)?.len() as u64;
        let manifest = Descriptor { media_type: MANIFEST.to_owned(), digest: name.image.clone(), size };
        manifests.insert(name.reference.clone(), manifest);
    }
    write_atomic(&store.root().join("oci-layout"), LAYOUT, 0o600).map_err(failed)?;
    write_atomic(&file, &index(&manifests), 0o600).map_err(failed)
}

/// All images that have a name.
pub fn views(world: &World) -> Done<Vec<ImageView>> {
    let mut shown = Vec::new();
    for name in world.catalog.all::<ImageName>()? {
        let image = image(world, &name)?;
        let base = base_of(world, &image)?;
        let data: Vec<Layer> = decoded(&image.layers)?;
        let below: Base = decoded(&base.base)?;
        let layer_bytes = data.iter().chain(&below.layers).map(|layer| layer.blob.size).sum();
        shown.push(ImageView {
            reference: name.reference,
            digest: image.digest.clone(),
            name: image.name,
            app: image.app_name,
            source: image.source,
            engine: image.engine,
            moment: image.moment,
            asked: image.asked,
            base: base.reference,
            masked: image.masked,
            password: match image.port {
                Some(_) => Some(world.unseal_text(&image.password)?),
                None => None,
            },
            user: image.port.map(|_| image.user),
            port: image.port,
            path: image.path,
            data_bytes: image.data_bytes,
            layer_bytes,
            data_layers: data.len(),
            new_bytes: image.new_bytes,
            changed_bytes: image.changed_bytes,
            changed_file_bytes: image.changed_file_bytes,
            built_at: image.built_at,
            pushes: name.pushed.is_some(),
            pushed_at: name.pushed.filter(|(digest, _)| *digest == image.digest).map(|(_, at)| at),
        });
    }
    Ok(shown)
}

/// The engine, where a build is to give it its image.
pub fn engine_for(world: &World, wanted: Option<bool>) -> Done<bool> {
    if wanted == Some(false) {
        return Ok(false);
    }
    let answer = world.docker.as_ref().map(|docker| docker.engine());
    match (wanted, answer) {
        (_, Some(Ok(_))) => Ok(true),
        (Some(true), Some(Err(error))) => {
            Err(refused(error.into_problem().to_string()).hint("--no-load keeps the image in HOME alone").into())
        }
        (Some(true), None) => Err(refused("there is no Docker or Podman engine here").into()),
        _ => Ok(false),
    }
}
