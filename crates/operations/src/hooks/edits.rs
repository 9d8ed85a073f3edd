//! Edits made on a clone: from what the user declared to `pando-edit`, and to the clone's files and databases.

use std::path::Path;

use pando_edit::EditError;
use pando_host::Beneath;
use pando_model::{Edit, EditFormat, Name, Problem};

use super::facts::Facts;
use crate::fault::{Done, IntoProblem, failed, refused};
use crate::owner::{Held, Owner};
use crate::units;

/// Makes one edit.
pub fn edit(owner: &Owner, facts: &Facts, edit: &Edit) -> Done<()> {
    let outcome = match &edit.sql {
        Some(statements) => execute(owner, facts, edit, statements),
        None => change(owner, facts, edit),
    };
    outcome.map_err(|cause| {
        let mut problem = failed(format!("the edit \"{}\" of {} failed", edit.label(), owner.name));
        problem.causes.push(cause.message);
        problem.causes.extend(cause.causes);
        problem.hint(cause.hint.unwrap_or_else(|| "mend the app's edits: pando apply FILE.toml".to_owned())).into()
    })
}

/// The source and the path in it of `SOURCE/PATH`.
pub fn place(file: &str) -> Result<(&str, &Path), Problem> {
    let (source, path) = file.split_once('/').unwrap_or((file, ""));
    let odd = |part: &str| part.is_empty() || part == "." || part == "..";
    if source.is_empty() || path.split('/').any(odd) {
        return Err(refused(format!("{file:?} names no file: it looks like SOURCE/PATH, without . and ..")));
    }
    Ok((source, Path::new(path)))
}

/// What reads the file.
pub fn format(edit: &Edit, file: &str) -> Result<EditFormat, Problem> {
    edit.format.or_else(|| EditFormat::of_file(file)).ok_or_else(|| {
        refused(format!("the format of {file} cannot be told by its name"))
            .hint("say it: format = \"xml\", \"ini\", \"properties\", \"json\", \"yaml\", \"php\" or \"env\"")
    })
}

fn source<'a>(owner: &'a Owner, name: &str) -> Result<&'a Held, Problem> {
    let found = owner.sources.iter().find(|(known, _)| known.as_str() == name).map(|(_, held)| held);
    found.ok_or_else(|| refused(format!("there is no source {name}")))
}

fn unmade(error: &EditError) -> Problem {
    failed(error.to_string())
}

fn change(owner: &Owner, facts: &Facts, edit: &Edit) -> Result<(), Problem> {
    let file = edit.file().ok_or_else(|| refused("it is about no file"))?;
    let (name, path) = place(file)?;
    let io = |error: std::io::Error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            failed(format!("{file} is not there"))
        } else {
            failed(format!("{file}: {error}"))
        }
    };
    let tree = Beneath::open(&source(owner, name)?.seat.data).map_err(io)?;
    let filled =
        |text: &Option<String>| facts.fill(text.as_deref().unwrap_or_default()).map_err(|error| unmade(&error));
    if edit.write.is_some() {
        let mode = edit.mode.as_deref().and_then(|mode| u32::from_str_radix(mode, 8).ok()).unwrap_or(0o600);
        return tree.write(path, filled(&edit.text)?.as_bytes(), mode, facts.durable).map_err(io);
    }
    if edit.remove.is_some() && edit.path.is_none() {
        return tree.remove(path).map(drop).map_err(io);
    }
    let before = tree.read(path).map_err(io)?;
    let at = filled(&edit.path)?;
    let after = if edit.set.is_some() {
        pando_edit::set(format(edit, file)?, &before, &at, &filled(&edit.value)?, edit.create)
    } else if edit.remove.is_some() {
        pando_edit::remove(format(edit, file)?, &before, &at)
    } else if let Some(pattern) = &edit.pattern {
        pando_edit::replace_pattern(&before, pattern, &filled(&edit.with)?)
    } else {
        pando_edit::replace(&before, &filled(&edit.find)?, &filled(&edit.with)?)
    };
    let after = after.map_err(|error| match error {
        EditError::Unreadable { line, what } => failed(format!("{file}, line {line}: {what}")),
        other => failed(format!("{file}: {other}")),
    })?;
    if after == before {
        return Ok(());
    }
    tree.rewrite(path, &after, facts.durable).map_err(io)
}

fn execute(owner: &Owner, facts: &Facts, edit: &Edit, statements: &str) -> Result<(), Problem> {
    let mut servers = owner.sources.iter().filter(|(_, held)| units::has_server(held.kind));
    let held = match (&edit.source, servers.next(), servers.next()) {
        (Some(name), ..) => source(owner, name.as_str())?,
        (None, Some((_, only)), None) => only,
        _ => return Err(refused("it does not say which source it is for").hint("name it: source = \"db\"")),
    };
    let value = |key: &str| {
        // Inside of quotes; a value that could end them is not put there.
        facts.get(key).filter(|value| !value.contains(['\'', '"', '\\', ';', '\0']))
    };
    let filled = pando_edit::fill(statements, &value).map_err(|error| match error {
        EditError::Refused(text) => refused(text).hint("a value with quotes or backslashes cannot stand in SQL"),
        other => unmade(&other),
    })?;
    held.engine.execute(&held.seat, &held.source, &filled).map_err(IntoProblem::into_problem)
}

/// The sources that an edit names.
pub fn named(edit: &Edit) -> Result<Option<Name>, Problem> {
    match edit.file() {
        Some(file) => {
            let (source, _) = place(file)?;
            source.parse().map(Some).map_err(|_| refused(format!("{file:?} names no source")))
        }
        None => Ok(edit.source.clone()),
    }
}
