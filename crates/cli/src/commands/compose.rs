//! `compose init`: the files that a Compose project on clones of an app begins with.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use pando_model::{ErrorKind, Name, Problem};

use crate::context::Context;
use crate::errors::{Done, Error};
use crate::output;

/// Arguments of `compose`.
#[derive(Debug, Args)]
pub struct ComposeArgs {
    #[command(subcommand)]
    command: ComposeCommand,
}

/// What is done for Compose.
#[derive(Debug, Subcommand)]
enum ComposeCommand {
    /// Write compose.yaml and .env for an app: its servers on volumes of a clone, and a place for the application
    ///
    /// Nothing that is there is overwritten. `pando clone APP CLONE --compose compose.yaml` brings it up.
    Init(InitArgs),
}

/// Arguments of `compose init`.
#[derive(Debug, Args)]
struct InitArgs {
    /// The app's name
    app: Name,
    /// Where the files go; made where it is missing
    #[arg(default_value = ".")]
    dir: PathBuf,
}

/// The commands for Compose.
pub async fn compose(context: &Context, args: &ComposeArgs) -> Done {
    let ComposeCommand::Init(args) = &args.command;
    let files = context.client.compose_files(&args.app).await?;
    let (compose, env) = (args.dir.join("compose.yaml"), args.dir.join(".env"));
    for path in [&compose, &env] {
        if path.symlink_metadata().is_ok() {
            let what = format!("{} is there already, and is not overwritten", path.display());
            return Err(Problem::new(ErrorKind::Refused, what).hint("name another directory").into());
        }
    }
    std::fs::create_dir_all(&args.dir).map_err(|error| unusable(&args.dir, "made", &error))?;
    write(&compose, &files.compose, 0o644)?;
    write(&env, &files.env, 0o600)?;
    if context.json {
        return output::json(&serde_json::json!({ "compose": compose, "env": env }));
    }
    output::line(&format!("{} and {} are written", compose.display(), env.display()))?;
    output::line(&format!("next: pando clone {} CLONE --compose {}", args.app, compose.display()))
}

fn write(path: &Path, text: &str, mode: u32) -> Done {
    let made = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    made.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| unusable(path, "written", &error))
}

fn unusable(path: &Path, what: &str, error: &std::io::Error) -> Error {
    let mut problem = Problem::new(ErrorKind::Failed, format!("{} cannot be {what}", path.display()));
    problem.causes.push(error.to_string());
    problem.into()
}

/// A file's whole path: the daemon stands elsewhere.
pub fn whole_path(file: &Path) -> Result<String, Error> {
    let path = file.canonicalize().map_err(|error| unusable(file, "read", &error))?;
    path.into_os_string().into_string().map_err(|path| {
        let what = format!("{} is not plain text", Path::new(&path).display());
        Problem::new(ErrorKind::Usage, what).into()
    })
}
