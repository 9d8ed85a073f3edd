//! The reference of the command line, `docs/cli.md`, written by its test from the definition itself.

use clap::{Command, CommandFactory};

use crate::args::Cli;

fn section(command: &mut Command, out: &mut String) {
    let name = command.get_bin_name().unwrap_or(command.get_name()).to_owned();
    let help = command.render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    out.push_str(&format!("\n## {name}\n\n```text\n{}\n```\n", lines.join("\n").trim_end()));
    for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
        section(sub, out);
    }
}

fn reference() -> String {
    let mut out = "# The command line\n\nWritten by a test from the definition; `UPDATE=1 cargo test -p pando reference` \
        writes it anew.\n\nData goes to stdout, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage, \
        3 not found, 4 refused.\nAn error is one line, its causes (`  because: …`) and a hint (`  hint: …`); with `--json` \
        the last line of stderr is the\nsame as JSON: `{kind, title, causes, hint}`. `rm --json` prints a list of \
        operations, `events --follow --json` one event per line.\n"
        .to_owned();
    let mut command = Cli::command().term_width(100);
    command.build();
    section(&mut command, &mut out);
    out
}

#[test]
fn the_reference_in_docs_is_this_one() -> std::io::Result<()> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, reference())?;
    }
    let committed = std::fs::read_to_string(path)?;
    assert!(committed == reference(), "docs/cli.md is out of date: run this test with UPDATE=1");
    Ok(())
}
