//! `link`, `unlink`.

use std::collections::BTreeMap;
use std::io::BufRead;

use clap::Args;
use pando_model::{LinkRequest, LinkSource, Name, Policy};

use super::{reader, then_say};
use crate::args::Detach;
use crate::context::Context;
use crate::errors::{Done, Error};
use crate::settings;

/// Arguments of `link`.
#[derive(Debug, Args)]
pub struct LinkArgs {
    /// The app's name
    app: Name,
    /// A source: postgres://user:password@host/database, mariadb://… or mysql://…, redis://:password@host/0, file:///path,
    /// ssh://user@host/path, toolkit+NAME://… (see docs/toolkit). With `-` they are read from stdin, one per line, so
    /// that passwords show in no process list
    #[arg(value_name = "[NAME=]URL", required = true)]
    sources: Vec<String>,
    /// A pattern of files to leave out, as rsync reads it
    #[arg(long, value_name = "PATTERN")]
    exclude: Vec<String>,
    /// A server setting that every clone of the app gets
    #[arg(long, value_name = "NAME=VALUE", value_parser = settings::setting)]
    set: Vec<(String, String)>,
    /// How often a snapshot is taken when something changed [default: 60s]
    #[arg(long, value_name = "SPAN", value_parser = settings::seconds)]
    snapshot_every: Option<i64>,
    /// For how long the log is kept: every second of it can be asked for [default: 14d]
    #[arg(long, value_name = "SPAN", value_parser = settings::seconds)]
    log_keep: Option<i64>,
    #[command(flatten)]
    detach: Detach,
}

/// Arguments of `unlink`.
#[derive(Debug, Args)]
pub struct UnlinkArgs {
    /// The app's name
    app: Name,
    #[command(flatten)]
    detach: Detach,
}

/// Links an app. Answers when the first clone can be made.
pub async fn link(context: &Context, args: LinkArgs) -> Done {
    let detach = args.detach;
    let body = request(args, std::io::stdin().lock())?;
    let Some(ended) = context.finish(context.client.link(&body).await?, detach).await? else { return Ok(()) };
    let shown = context.client.show(&ended.subject).await?;
    context.print(&shown, |shown| reader(context).show(shown))
}

fn request(args: LinkArgs, stdin: impl BufRead) -> Done<LinkRequest> {
    let changed = args.snapshot_every.is_some() || args.log_keep.is_some();
    let usual = Policy::default();
    let policy = changed.then(|| Policy {
        snapshot_every_seconds: args.snapshot_every.unwrap_or(usual.snapshot_every_seconds),
        log_keep_seconds: args.log_keep.unwrap_or(usual.log_keep_seconds),
        ..usual
    });
    let sources = sources(&args.sources, &args.exclude, stdin)?;
    let set: BTreeMap<String, String> = args.set.into_iter().collect();
    Ok(LinkRequest { app: args.app, sources, policy, set, edits: Vec::new(), hooks: Vec::new() })
}

fn sources(typed: &[String], exclude: &[String], stdin: impl BufRead) -> Done<Vec<LinkSource>> {
    let mut texts: Vec<String> = typed.iter().filter(|text| *text != "-").cloned().collect();
    if texts.len() < typed.len() {
        for line in stdin.lines() {
            let line = line?;
            texts.extend(Some(line.trim().to_owned()).filter(|line| !line.is_empty() && !line.starts_with('#')));
        }
    }
    if texts.is_empty() {
        return Err(Error::usage("there was no source on stdin", "one [NAME=]URL per line"));
    }
    texts.iter().map(|text| settings::source(text, exclude).map_err(Error::from)).collect()
}

/// Removes an app and its timeline.
pub async fn unlink(context: &Context, args: &UnlinkArgs) -> Done {
    let begun = context.client.unlink(&args.app).await;
    then_say(context, begun, args.detach, &format!("{} is unlinked", args.app)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_come_from_the_line_and_from_stdin() {
        let typed = ["file:///srv/up".to_owned(), "-".to_owned()];
        let stdin = b"# comment\n\nmain=postgres://u:p@h/db\n".as_slice();
        let read = sources(&typed, &["*.log".to_owned()], stdin).expect("read");
        assert_eq!(read.len(), 2);
        assert_eq!((read[0].exclude.len(), read[1].exclude.len()), (1, 0));
        assert_eq!(read[1].name.as_ref().map(Name::as_str), Some("main"));
        assert!(sources(&["-".to_owned()], &[], b"\n".as_slice()).is_err());
    }
}
