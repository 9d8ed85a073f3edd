//! What is made from the definition of the command line itself: `completions`, `man`.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::args::Cli;
use crate::errors::{Done, Error};
use crate::output;

/// Arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The directory; made when missing
    dir: PathBuf,
}

/// Prints the completions of a shell.
pub fn completions(args: &CompletionsArgs) -> Done {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "pando", &mut script);
    output::text(&String::from_utf8_lossy(&script))
}

/// Writes the manual pages.
pub fn man(args: &ManArgs) -> Done {
    let write = || {
        std::fs::create_dir_all(&args.dir)?;
        clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), &args.dir)
    };
    write().map_err(|error| {
        let what = format!("the manual pages cannot be written to {}", args.dir.display());
        let mut problem = pando_model::Problem::new(pando_model::ErrorKind::Failed, what);
        problem.causes.push(error.to_string());
        Error::from(problem)
    })
}
