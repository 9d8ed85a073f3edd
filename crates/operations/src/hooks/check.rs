//! What is wrong with hooks and edits, said when an app is linked or applied, and not at the first clone.

use std::collections::BTreeMap;

use pando_model::{Edit, EngineKind, Hook, HookPoint, Name, Problem};

use super::edits::{format, named};
use super::facts::{OF_ALL, OF_SOURCE};
use super::{Stitches, account};
use crate::fault::{Done, usage};
use crate::units;
use crate::world::World;

/// Longest time a hook may ask for.
const DAY: u64 = 24 * 3600;

/// Refuses what could not work on any clone of an app with these sources.
pub fn check(world: &World, stitches: &Stitches, sources: &BTreeMap<Name, EngineKind>) -> Done<()> {
    for edit in &stitches.edits {
        of_edit(edit, sources)?;
    }
    for hook in &stitches.hooks {
        of_hook(hook, sources)?;
        account::of(world, hook)?;
    }
    Ok(())
}

fn of_edit(edit: &Edit, sources: &BTreeMap<Name, EngineKind>) -> Result<(), Problem> {
    if let Some(wrong) = edit.wrong() {
        return Err(usage(wrong));
    }
    let label = edit.label();
    let known: Vec<&str> = sources.keys().map(Name::as_str).collect();
    let hint = format!("the sources are: {}", known.join(", "));
    match named(edit)? {
        Some(name) => {
            let kind = sources.get(&name).copied();
            let kind = kind.ok_or_else(|| usage(format!("{label}: there is no source {name}")).hint(hint))?;
            if edit.file().is_some() && units::has_server(kind) {
                let text = format!("{label}: {name} is a {kind} source, and its files are its server's");
                return Err(usage(text).hint("files of directories can be edited; use sql, or --set for settings"));
            }
            if edit.sql.is_some() && !units::has_server(kind) {
                return Err(usage(format!("{label}: {name} is a directory and takes no SQL")));
            }
        }
        None if sources.values().filter(|kind| units::has_server(**kind)).count() != 1 => {
            return Err(usage(format!("{label}: it does not say which source it is for")).hint(hint));
        }
        None => {}
    }
    if (edit.set.is_some() || (edit.remove.is_some() && edit.path.is_some()))
        && let Some(file) = edit.file()
    {
        format(edit, file)?;
    }
    let texts = [&edit.path, &edit.value, &edit.find, &edit.with, &edit.text, &edit.sql];
    if edit.masks && texts.into_iter().flatten().flat_map(|text| pando_edit::keys(text)).any(is_secret) {
        return Err(usage(format!("{label}: what masks has a password of its own, which lets nobody in afterwards"))
            .hint("write addresses and passwords by an edit without masks"));
    }
    texts.into_iter().flatten().try_for_each(|text| keys(text, &label, sources, true))
}

fn of_hook(hook: &Hook, sources: &BTreeMap<Name, EngineKind>) -> Result<(), Problem> {
    let label = hook.label();
    if hook.run.first().is_none_or(String::is_empty) {
        return Err(
            usage(format!("a hook at {} names no program", hook.at)).hint("run = [\"/path/of/program\", \"argument\"]")
        );
    }
    if hook.masks && hook.at != HookPoint::ConfigureClone {
        let text =
            format!("the hook {label} masks, and runs at {}: clones are masked at configure-clone alone", hook.at);
        return Err(usage(text).hint("at = \"configure-clone\""));
    }
    if hook.timeout_seconds.is_some_and(|seconds| seconds == 0 || seconds > DAY) {
        return Err(usage(format!("the hook {label} needs a time limit between a second and a day")));
    }
    if let Some(name) = hook.env.keys().find(|name| name.is_empty() || name.contains(['=', '\0'])) {
        return Err(usage(format!("the hook {label}: {name:?} is no name of a variable")));
    }
    let of_clone = !matches!(hook.at, HookPoint::PostIngest | HookPoint::PreSnapshot | HookPoint::PostSnapshot);
    for word in &hook.run {
        if let Some(key) = pando_edit::keys(word).into_iter().find(|key| is_secret(key)) {
            return Err(usage(format!("the hook {label}: {{{{{key}}}}} is secret, and everybody can read arguments"))
                .hint("put it into env, or read it from standard input"));
        }
        keys(word, label, sources, of_clone)?;
    }
    hook.env.values().try_for_each(|value| keys(value, label, sources, of_clone))
}

/// Whether what stands for a key has the clone's password in it.
fn is_secret(key: &str) -> bool {
    key.ends_with(".password") || key.ends_with(".url")
}

/// Whether everything between double braces has a value. Snapshots are also taken of the app, which has no address.
fn keys(text: &str, label: &str, sources: &BTreeMap<Name, EngineKind>, of_clone: bool) -> Result<(), Problem> {
    let mut known: Vec<String> = OF_ALL
        .iter()
        .filter(|key| of_clone || !key.starts_with("clone.") && **key != "owner.moment")
        .map(|key| (*key).to_owned())
        .collect();
    for (name, kind) in sources {
        let fields = OF_SOURCE
            .iter()
            .filter(|field| matches!(**field, "engine" | "path") || (of_clone && units::has_server(*kind)));
        known.extend(fields.map(|field| format!("{name}.{field}")));
    }
    for key in pando_edit::keys(text) {
        if !known.iter().any(|one| one == key) {
            let mut problem = usage(format!("{label}: {{{{{key}}}}} has no value"));
            let nearest = pando_model::nearest(key, known.iter().map(String::as_str));
            problem = match nearest {
                Some(nearest) => problem.hint(format!("did you mean {{{{{nearest}}}}}?")),
                None => problem.hint(format!("known are: {}", known.join(", "))),
            };
            return Err(problem);
        }
    }
    pando_edit::fill(text, &|_| Some(String::new())).map(drop).map_err(|error| usage(format!("{label}: {error}")))
}
