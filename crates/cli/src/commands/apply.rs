//! `apply`: reads the file that describes an app, fills in what it refers to, shows what would change, applies it.

use std::path::{Path, PathBuf};

use clap::Args;
use pando_model::{ApplyPlan, Change, ErrorKind, LinkRequest, Problem, nearest};
use serde_json::Value;

use super::reader;
use crate::args::Detach;
use crate::context::Context;
use crate::errors::{Done, Error};
use crate::output;

/// Arguments of `apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// The file; `-` is stdin
    #[arg(value_name = "FILE.toml")]
    file: PathBuf,
    /// Show what would change, and touch nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    detach: Detach,
}

/// Makes an app what a file says.
pub async fn apply(context: &Context, args: &ApplyArgs) -> Done {
    let (text, dir) = if args.file == Path::new("-") {
        (std::io::read_to_string(std::io::stdin())?, PathBuf::from("."))
    } else {
        let text = std::fs::read_to_string(&args.file).map_err(|error| {
            let mut problem = Problem::new(ErrorKind::Usage, format!("{} cannot be read", args.file.display()));
            problem.causes.push(error.to_string());
            problem
        })?;
        (text, args.file.parent().unwrap_or(Path::new(".")).to_owned())
    };
    let shown = args.file.display().to_string();
    let body = filled(read(&text, &shown)?, &dir)?;
    let plan = context.client.plan(&body).await?;
    if args.dry_run {
        return context.print(&plan, people);
    }
    if !context.json {
        output::note(people(&plan).trim_end());
    }
    let Some(ended) = context.finish(context.client.apply(&body).await?, args.detach).await? else { return Ok(()) };
    let shown = context.client.show(&ended.subject).await?;
    context.print(&shown, |shown| reader(context).show(shown))
}

/// The plan in words.
fn people(plan: &ApplyPlan) -> String {
    if plan.links {
        let all = plan.changes.iter().map(|change| format!("  + {}\n", change.what));
        return format!("{} will be linked\n{}", plan.app, all.collect::<String>());
    }
    if plan.changes.is_empty() {
        return format!("{} is as the file says\n", plan.app);
    }
    let line = |change: &Change| match (&change.from, &change.to) {
        (None, Some(to)) if to == "there" => format!("  + {}\n", change.what),
        (Some(from), None) if from == "there" => format!("  - {}\n", change.what),
        (None, None) => format!("  ~ {}\n", change.what),
        (from, to) => {
            let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".to_owned());
            format!("  ~ {}: {} -> {}\n", change.what, text(from), text(to))
        }
    };
    format!("{} will be changed\n{}", plan.app, plan.changes.iter().map(line).collect::<String>())
}

/// Reads the file. What is unknown is refused with the word that was probably meant.
fn read(text: &str, file: &str) -> Done<LinkRequest> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let line = text.get(..at).unwrap_or_default().matches('\n').count() + 1;
        let said: Vec<&str> = error.message().lines().collect();
        let (message, hint) = meant(&said.join(" "));
        // The line itself is not shown: it may hold a password.
        let problem = Problem::new(ErrorKind::Usage, format!("{file}, line {line}: {message}"));
        Error::from(problem.hint(hint))
    })
}

/// serde's words for an unknown key, in ours.
fn meant(said: &str) -> (String, String) {
    // "invalid type: string "…", expected": what was typed may be a secret.
    let usual = || (without_strings(said), "docs/apply.md says what can stand in the file".to_owned());
    let words: Vec<&str> = said.split('`').collect();
    let (kind, typed) = match words.as_slice() {
        ["unknown field ", typed, ..] => ("key", *typed),
        ["unknown variant ", typed, ..] => ("word", *typed),
        _ => return usual(),
    };
    let known: Vec<&str> = words.iter().skip(3).step_by(2).copied().collect();
    let hint = match nearest(typed, known.iter().copied()) {
        Some(near) => format!("did you mean {near}?"),
        None => format!("known are: {}", known.join(", ")),
    };
    (format!("unknown {kind} {typed}"), hint)
}

fn without_strings(said: &str) -> String {
    match (said.find('"'), said.rfind('"')) {
        (Some(first), Some(last)) if first < last => {
            format!("{}{}", said.get(..first).unwrap_or_default().trim_end(), said.get(last + 1..).unwrap_or_default())
        }
        _ => said.to_owned(),
    }
}

/// Fills in `${NAME}` and `${file:PATH}` in all values.
fn filled(request: LinkRequest, dir: &Path) -> Done<LinkRequest> {
    let wrong = |error: serde_json::Error| Error::new(ErrorKind::Failed, error.to_string());
    let mut value = serde_json::to_value(request).map_err(wrong)?;
    walk(&mut value, &|text| fill(text, dir, &crate::context::variable))?;
    serde_json::from_value(value).map_err(wrong)
}

fn walk(value: &mut Value, change: &dyn Fn(&str) -> Done<String>) -> Done {
    match value {
        Value::String(text) => {
            *text = change(text)?;
            Ok(())
        }
        Value::Array(all) => all.iter_mut().try_for_each(|one| walk(one, change)),
        Value::Object(all) => all.values_mut().try_for_each(|one| walk(one, change)),
        _ => Ok(()),
    }
}

fn fill(text: &str, dir: &Path, variable: &dyn Fn(&str) -> Option<String>) -> Done<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, after) = (rest.get(..at).unwrap_or_default(), rest.get(at + 2..).unwrap_or_default());
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = after;
            continue;
        }
        let (name, after) = after
            .split_once('}')
            .ok_or_else(|| Error::usage("${ is not followed by a name and }", "$${ stands for ${ itself"))?;
        out.push_str(before);
        out.push_str(&match name.strip_prefix("file:") {
            Some(path) => {
                let path = dir.join(path);
                let content = std::fs::read_to_string(&path).map_err(|error| {
                    let mut problem = Problem::new(
                        ErrorKind::Usage,
                        format!("{} cannot be read, to which ${{{name}}} refers", path.display()),
                    );
                    problem.causes.push(error.to_string());
                    problem
                })?;
                content.trim_end_matches(['\n', '\r']).to_owned()
            }
            None => variable(name).ok_or_else(|| {
                let hint = format!("export {name}=…, or write $${{{name}}} where the text itself is meant");
                Error::usage(format!("${{{name}}} is not set"), hint)
            })?,
        });
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod any_text;

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        match read(text, "app.toml") {
            Err(Error::Problem(problem)) => format!("{problem} ({})", problem.hint.clone().unwrap_or_default()),
            _ => panic!("{text} is read"),
        }
    }

    #[test]
    fn unknown_keys_are_refused_with_the_nearest_known() {
        let head = "app = \"shop\"\n[[sources]]\nurl = \"file:///srv/x\"\n";
        assert!(read(head, "f").is_ok());
        for (more, expected) in [
            ("exclud = []\n", "app.toml, line 4: unknown key exclud (did you mean exclude?)"),
            ("[polcy]\n", "app.toml, line 4: unknown key polcy (did you mean policy?)"),
            (
                "[policy]\nsnapshot_every = 5\n",
                "app.toml, line 5: unknown key snapshot_every (known are: snapshot_every_seconds, log_keep_seconds, tiers)",
            ),
            (
                "[[hooks]]\nat = \"pre-strat\"\nrun = [\"x\"]\n",
                "app.toml, line 5: unknown word pre-strat (did you mean pre-start?)",
            ),
            ("[[edits]]\nremove_file = \"x\"\n", "app.toml, line 5: unknown key remove_file (known are: "),
        ] {
            let said = said(&format!("{head}{more}"));
            assert!(said.starts_with(expected), "{said}");
        }
        assert!(said("app = 5\n[[sources]]\nurl = \"postgres://u:hush@h/d\"\n").contains("line 1"));
        assert!(!said("app = \"x\"\nsources = \"postgres://u:hush@h/d\"\n").contains("hush"));
    }

    #[test]
    fn references_are_filled_in() {
        let dir = tempfile::tempdir().expect("dir");
        std::fs::write(dir.path().join("secret"), "p}w\n").expect("file");
        let variable = |name: &str| (name == "USER").then(|| "joe".to_owned());
        let fill = |text: &str| fill(text, dir.path(), &variable);
        assert_eq!(fill("a://${USER}:${file:secret}@h $${USER} $x").ok().as_deref(), Some("a://joe:p}w@h ${USER} $x"));
        for bad in ["${NONE}", "${file:none}", "${USER"] {
            assert!(fill(bad).is_err(), "{bad}");
        }
    }
}
