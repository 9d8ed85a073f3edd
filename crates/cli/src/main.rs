//! The binary `pando`. It knows words, tables and progress; what is done is done by the daemon, to which
//! it speaks through `pando-api`. Only `serve` and `demo` start one, and only `init` and `doctor` do without.
//!
//! Data goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not
//! found, 4 refused.

mod args;
mod commands;
mod context;
mod demo;
mod errors;
mod human;
mod logins;
mod moments;
mod output;
mod progress;
mod quote;
#[cfg(test)]
mod reference;
mod report;
mod settings;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;

fn main() -> ExitCode {
    // A command that cannot be read has no --json yet, but whoever wrote it there wants JSON.
    let json = std::env::args_os().any(|arg| arg == "--json");
    let outcome = match Cli::try_parse() {
        Ok(cli) => commands::run(cli),
        Err(error) => args::not_understood(&error),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.tell(json),
    }
}
