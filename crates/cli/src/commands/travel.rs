//! What goes out and comes in: `export` writes an archive, `import` reads one.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use pando_model::{
    ErrorKind, ExportRequest, ImportRequest, Name, OperationState, OperationView, Problem, Profile, StepState,
};
use tokio::signal::unix::{SignalKind, signal};

use super::clone::profiles;
use super::{Begun, of_clone, reader};
use crate::context::{Context, why};
use crate::errors::{Done, Error};
use crate::{human, output};

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// An app's or clone's name, and the moment [default: latest]
    #[arg(value_name = "NAME[@MOMENT]")]
    target: String,
    /// Write to this file, which appears when it is whole [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Arguments of `import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The archive that export wrote; - reads standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The new clone's name
    clone: Name,
    /// What its data is worth [default: durable: there is nowhere to get it from again]
    #[arg(long, value_parser = profiles(), hide_default_value = true)]
    profile: Option<Profile>,
    /// Take symbolic links of directories that lead out of them
    #[arg(long)]
    outward_links: bool,
}

/// Writes an archive.
pub async fn export(context: &Context, args: &ExportArgs) -> Done {
    if args.output.is_none() && io::stdout().is_terminal() {
        return Err(Error::usage("an archive is not for a terminal", "pando export NAME > FILE.tar, or --output FILE"));
    }
    let target = context.target(&args.target)?;
    let body = ExportRequest { moment: target.moment };
    let ended = take(context, context.client.export(&target.name, &body), args.output.as_deref()).await?;
    told(context, &ended, args.output.is_some())
}

/// Begins an operation and fetches what it gives into a file, which appears when it is whole, or to standard output.
pub(super) async fn take(
    context: &Context,
    begin: impl Future<Output = Begun>,
    file: Option<&Path>,
) -> Done<OperationView> {
    let out: Box<dyn Write> = match file {
        Some(file) => Box::new(File::create_new(part(file)).map_err(|error| cannot_make(file, &error))?),
        None => Box::new(io::stdout().lock()),
    };
    let ended = tokio::select! {
        ended = fetch(context, begin, out, file) => ended,
        code = interrupted() => Err(Error::Quiet(code)),
    };
    if let (Err(_), Some(file)) = (&ended, file) {
        // What is not whole does not stay; that it cannot be removed changes nothing about the error.
        let _ = std::fs::remove_file(part(file));
    }
    ended
}

/// Waits for whatever ends this program in good order, and answers its exit code.
async fn interrupted() -> u8 {
    let ends = |kind| async move {
        match signal(kind) {
            Ok(mut heard) => heard.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = ends(SignalKind::interrupt()) => 130,
        _ = ends(SignalKind::terminate()) => 143,
        _ = ends(SignalKind::hangup()) => 129,
    }
}

fn part(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".part");
    name.into()
}

fn cannot_make(file: &Path, error: &io::Error) -> Error {
    if error.kind() != io::ErrorKind::AlreadyExists {
        return cannot_write(file, error);
    }
    let text = format!("{} is there already: another program writes it, or one was killed", part(file).display());
    Problem::new(ErrorKind::Refused, text).hint("if nobody writes it, remove it").into()
}

fn cannot_write(file: &Path, error: &io::Error) -> Error {
    let problem = Problem::new(ErrorKind::Failed, format!("{} could not be written", file.display()));
    Problem { causes: vec![error.to_string()], ..problem }.into()
}

/// Fetches what the operation gives, and waits for its end.
async fn fetch(
    context: &Context,
    begin: impl Future<Output = Begun>,
    mut out: Box<dyn Write>,
    file: Option<&Path>,
) -> Done<OperationView> {
    let begun = begin.await?;
    let id = begun.id.clone();
    let streams = |operation: &OperationView| {
        operation.steps.iter().any(|step| step.name == "stream" && step.state != StepState::Waiting)
    };
    let begun = context.watch_until(begun, streams).await?;
    let (taken, ended) =
        tokio::join!(context.client.take_data(&id, |bytes| out.write_all(bytes)), context.watch(begun));
    let ended = ended?;
    // Who cannot write says so; else the operation knows best why it did not go well.
    if let Ok(Err(error)) = taken {
        // A reader that went away is no success here: what it has is not an archive.
        return Err(cannot_write(file.unwrap_or(Path::new("the archive")), &error));
    }
    if ended.state != OperationState::Done {
        return Err(why(&ended).into());
    }
    taken??;
    out.flush()?;
    if let Some(file) = file {
        File::open(part(file))?.sync_all()?;
        std::fs::rename(part(file), file)?;
    }
    Ok(ended)
}

fn told(context: &Context, ended: &OperationView, to_file: bool) -> Done {
    if context.json {
        let text = serde_json::to_string(ended)?;
        if to_file {
            output::line(&text)?
        } else {
            output::note(&text)
        }
        return Ok(());
    }
    let number = |key: &str| ended.result.as_ref().and_then(|result| result[key].as_u64()).unwrap_or(0);
    output::note(&format!("{}: {} in {} entries", ended.subject, human::bytes(number("bytes")), number("entries")));
    if number("left_out") > 0 {
        output::note(&format!("{} sockets, fifos or devices do not travel", number("left_out")));
    }
    if number("outward_links") > 0 {
        let text = "symbolic links lead out of their directory: import takes them with --outward-links";
        output::note(&format!("{} {text}", number("outward_links")));
    }
    Ok(())
}

/// Makes a clone of an archive.
pub async fn import(context: &Context, args: ImportArgs) -> Done {
    let from: Box<dyn Read + Send> = if args.file.as_os_str() == "-" {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(&args.file).map_err(|error| {
            let problem = Problem::from_error(ErrorKind::NotFound, &error);
            Error::from(Problem { message: format!("{}: {error}", args.file.display()), ..problem })
        })?)
    };
    let body = ImportRequest { clone: args.clone, profile: args.profile, outward_links: args.outward_links };
    let begun = context.client.import(&body).await?;
    let ended = tokio::select! {
        ended = give(context, begun, from) => ended?,
        _ = tokio::signal::ctrl_c() => return Err(Error::Quiet(130)),
    };
    if ended.state != OperationState::Done {
        return Err(why(&ended).into());
    }
    let clone = of_clone(context.client.show_uncounted(&ended.subject).await?, &ended.subject)?;
    context.print(&clone, |clone| reader(context).ready(clone))
}

async fn give(context: &Context, begun: OperationView, from: Box<dyn Read + Send>) -> Done<OperationView> {
    let id = begun.id.clone();
    let receives = |operation: &OperationView| {
        operation.steps.iter().any(|step| step.name == "receive" && step.state != StepState::Waiting)
    };
    let begun = context.watch_until(begun, receives).await?;
    let (given, ended) = tokio::join!(context.client.give_data(&id, from), context.watch(begun));
    let ended = ended?;
    if ended.state == OperationState::Done {
        given?;
    }
    Ok(ended)
}
