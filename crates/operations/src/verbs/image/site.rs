//! Where a source lies in an image. A server's data lies where its official image has it, and belongs to that one's
//! account. A directory lies where the user wants it, on top of an application's own image or of nothing, and keeps
//! its owners and times.

use std::collections::BTreeMap;

use pando_catalog::BaseRecord;
use pando_engine::Baked;
use pando_image::oci::{Base, Place};
use pando_model::{EngineKind, Name};

use crate::fault::{Done, Fault, failed, refused, usage};
use crate::images::SCRATCH;
use crate::owner::{Held, Owner};

/// Where it lies, and what of a server an image has with it.
pub struct Site {
    /// In the image.
    pub place: Place,
    /// Where its server listens.
    pub port: Option<u16>,
    /// What runs, where that is not what the image below runs.
    pub command: Option<Vec<String>>,
}

/// Whether a source is a directory and nothing else.
pub fn is_directory(kind: EngineKind) -> bool {
    kind == EngineKind::Files
}

/// How a server has its data on that server image.
pub fn baked(held: &Held, base: &Base) -> Done<Baked> {
    let baked = held.engine.baked(&|name| base.env(name).map(str::to_owned));
    baked.ok_or_else(|| Fault::Problem(refused(format!("sources of the kind {} cannot be in an image", held.kind))))
}

/// Where a source lies on what is below it. `path`: what the user wants of a directory.
pub fn site(held: &Held, below: &BaseRecord, base: &Base, path: Option<&str>) -> Done<Site> {
    let above = base.facts.directories.clone();
    if is_directory(held.kind) {
        let path = path.unwrap_or("/").to_owned();
        return Ok(Site { place: Place { path, owner: None, above }, port: None, command: None });
    }
    let baked = baked(held, base)?;
    let owner = base.facts.account(baked.account).ok_or_else(|| {
        let text = format!("the server image {} has no account {}", below.reference, baked.account);
        Fault::Problem(refused(text).hint("name an image of that server: --base REFERENCE"))
    })?;
    Ok(Site {
        place: Place { path: baked.path, owner: Some(owner), above },
        port: Some(baked.port),
        command: baked.command,
    })
}

/// Looks at what the user wants of the place, and writes it plainly.
pub fn wanted(kind: EngineKind, base: Option<&str>, path: Option<String>) -> Done<Option<String>> {
    let nothing_below = base.is_none_or(|base| base == SCRATCH);
    let Some(path) = path else {
        if is_directory(kind) && !nothing_below {
            return Err(usage("it must be said where in that image the directory is to be")
                .hint("--path /var/www/html")
                .into());
        }
        return Ok(None);
    };
    if !is_directory(kind) {
        let text = "a server's data lies where its image has it: only a directory can be told where";
        return Err(usage(text).hint("leave --path out").into());
    }
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let strange = |part: &&str| matches!(*part, "." | "..") || part.chars().any(char::is_control);
    if !path.starts_with('/') || parts.iter().any(strange) || path.len() > 1000 {
        return Err(usage(format!("{path:?} is no absolute path")).hint("--path /var/www/html").into());
    }
    if parts.is_empty() && !nothing_below {
        return Err(usage("the directory would lie over all of that image").hint("--path /var/www/html").into());
    }
    Ok(Some(format!("/{}", parts.join("/"))))
}

/// The source that is put into an image: the one that was named, or the only server, or the only directory.
pub fn source(owner: &Owner, asked: Option<Name>) -> Done<Name> {
    let servers =
        owner.sources.iter().filter(|(_, held)| held.engine.hands_over() && held.engine.baked(&|_| None).is_some());
    let servers: Vec<&Name> = servers.map(|(name, _)| name).collect();
    let directories = owner.sources.iter().filter(|(_, held)| is_directory(held.kind)).map(|(name, _)| name);
    let directories: Vec<&Name> = directories.collect();
    let words = || servers.iter().chain(&directories).map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(asked) = asked {
        if servers.contains(&&asked) || directories.contains(&&asked) {
            return Ok(asked);
        }
        let text = match owner.sources.get(&asked) {
            Some(held) => format!("sources of the kind {} cannot be in an image", held.kind),
            None => format!("{} has no source {asked}", owner.name),
        };
        return Err(refused(text).hint(format!("those that can: {}", words())).into());
    }
    match (servers.as_slice(), directories.as_slice()) {
        ([one], _) | ([], [one]) => Ok((*one).clone()),
        ([], []) => Err(refused(format!("no source of {} can be in an image", owner.name))
            .hint("databases that a server image is known for can, and directories; `pando export` packs the rest")
            .into()),
        _ => Err(usage(format!("{} has several sources, and an image holds one", owner.name))
            .hint(format!("--source: {}", words()))
            .into()),
    }
}

/// What it says of itself, besides what the image below says.
pub fn labels(below: &BaseRecord) -> BTreeMap<String, String> {
    if below.reference == SCRATCH {
        return BTreeMap::new();
    }
    let name = if below.reference.starts_with("oci:") { "oci".to_owned() } else { below.reference.clone() };
    BTreeMap::from([
        ("org.opencontainers.image.base.name".to_owned(), name),
        ("org.opencontainers.image.base.digest".to_owned(), below.id.clone()),
    ])
}

/// The kind of a source.
pub fn kind(owner: &Owner, source: &Name) -> Done<EngineKind> {
    let held = owner.sources.get(source);
    held.map(|held| held.kind).ok_or_else(|| Fault::Problem(failed("the source of an image is gone")))
}
