//! Foreign programs, run in one way: argument vectors, absolute path, clean environment, C locale, no
//! stdin but a file, stderr kept for the error. Nothing here ever goes through a shell.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
#[allow(clippy::disallowed_types, reason = "the one place that builds commands")]
use std::process::{Command, Stdio};
use std::sync::Arc;

use thiserror::Error;

use crate::account::Account;

/// Where programs are looked for, besides directories that a caller names.
pub const SEARCH_PATH: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// A foreign program that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tool {
    path: PathBuf,
}

/// Why a foreign program did not do its work.
#[derive(Debug, Error)]
pub enum ToolError {
    /// It is not installed.
    #[error("the program {name} is not installed")]
    Missing {
        /// Its name.
        name: String,
        /// The command that installs it.
        install: Option<String>,
    },
    /// It could not be started.
    #[error("{program} could not be started")]
    Start {
        /// Its path.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It ended with an error.
    #[error("{program} failed ({status}): {stderr}")]
    Failed {
        /// Its name.
        program: String,
        /// Exit code or signal, in words.
        status: String,
        /// The end of its stderr.
        stderr: String,
    },
    /// It took longer than it was given, and was killed.
    #[error("{program} had not ended after {seconds} s and was killed")]
    Late {
        /// Its name.
        program: String,
        /// What it was given.
        seconds: u64,
    },
    /// It was killed, because Pando is about to end.
    #[error("{program} had not ended when Pando was stopped")]
    GivenUp {
        /// Its name.
        program: String,
    },
    /// It printed more than it may, and was killed.
    #[error("{program} printed more than {limit} bytes and was killed")]
    Flood {
        /// Its name.
        program: String,
        /// What it may print.
        limit: usize,
    },
}

impl ToolError {
    /// The command that would help, where one is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { install, .. } => install.as_ref().map(|command| format!("install it: {command}")),
            _ => None,
        }
    }
}

/// What a program left behind.
#[derive(Debug, Clone)]
pub struct Finished {
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error, as text.
    pub stderr: String,
}

impl Finished {
    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl Tool {
    /// Looks for a program on the usual paths. `package` is Debian's package that holds it.
    pub fn find(name: &str, package: &str) -> Result<Self, ToolError> {
        Self::find_in(SEARCH_PATH.iter().map(Path::new), name).ok_or_else(|| ToolError::Missing {
            name: name.to_owned(),
            install: Some(format!("apt-get install {package}")),
        })
    }

    /// Looks for a program in the given directories, first one wins.
    pub fn find_in<'a>(dirs: impl IntoIterator<Item = &'a Path>, name: &str) -> Option<Self> {
        dirs.into_iter()
            .map(|dir| dir.join(name))
            .find(|path| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok() && path.is_file())
            .map(|path| Self { path })
    }

    /// A program whose absolute path is known; that it is there shows when it is started.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Begins a command.
    pub fn command(&self) -> ToolCommand {
        ToolCommand {
            program: self.path.clone(),
            args: Vec::new(),
            env: BTreeMap::new(),
            dir: None,
            account: None,
            input: None,
            inherited: Vec::new(),
        }
    }
}

/// A command being built.
#[derive(Debug, Clone)]
pub struct ToolCommand {
    program: PathBuf,
    args: Vec<OsString>,
    env: BTreeMap<OsString, OsString>,
    dir: Option<PathBuf>,
    account: Option<Account>,
    input: Option<Arc<File>>,
    inherited: Vec<&'static str>,
}

impl ToolCommand {
    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of the otherwise clean environment. The place for secrets: arguments are public.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(name.as_ref().to_owned(), value.as_ref().to_owned());
        self
    }

    /// Hands a variable of Pando's own environment on, if it is set (`HOME`, `SSH_AUTH_SOCK`).
    #[must_use]
    pub fn inherit(mut self, name: &'static str) -> Self {
        self.inherited.push(name);
        self
    }

    /// Sets the working directory; `/` otherwise.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// Sets its standard input; nothing otherwise.
    #[must_use]
    pub fn input(mut self, file: File) -> Self {
        self.input = Some(Arc::new(file));
        self
    }

    /// Runs it as another account (only root can).
    #[must_use]
    pub fn account(mut self, account: Option<&Account>) -> Self {
        self.account = account.cloned();
        self
    }

    /// The program's path.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The ready-made command, for callers that own the child themselves.
    #[allow(clippy::disallowed_types, reason = "the one place that builds commands")]
    pub fn build(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            .env_clear()
            .env("PATH", SEARCH_PATH.join(":"))
            .env("LC_ALL", "C")
            .env("LANG", "C")
            .env("TZ", "UTC")
            .current_dir(self.dir.as_deref().unwrap_or(Path::new("/")))
            .stdin(self.input.as_ref().and_then(|file| file.try_clone().ok()).map_or_else(Stdio::null, Stdio::from));
        for name in &self.inherited {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.envs(&self.env);
        if let Some(account) = self.account.as_ref().filter(|_| Account::is_root()) {
            // Dropping uid from root with Command::uid also clears the supplementary groups.
            command.uid(account.uid).gid(account.gid);
        }
        command
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// [`ToolError::Start`] or [`ToolError::Failed`] with the end of its stderr.
    pub fn run(&self) -> Result<Finished, ToolError> {
        let output =
            self.build().output().map_err(|source| ToolError::Start { program: self.program.clone(), source })?;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            Ok(Finished { stdout: output.stdout, stderr })
        } else {
            Err(ToolError::Failed {
                program: self.program.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                status: output.status.to_string(),
                stderr: tail(&stderr, 2000),
            })
        }
    }
}

/// The last `limit` bytes of a text, cut at a character, without blank ends.
pub fn tail(text: &str, limit: usize) -> String {
    let text = text.trim();
    let mut start = text.len().saturating_sub(limit);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text.get(start..).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_a_clean_environment_and_keeps_stderr() -> Result<(), ToolError> {
        let env = Tool::find("env", "coreutils")?.command().env("SECRET", "x").run()?.text();
        assert!(env.contains("LC_ALL=C") && env.contains("SECRET=x") && !env.contains("CARGO"));
        let failed = Tool::find("ls", "coreutils")?.command().arg("--").arg("/no/such").run();
        assert!(matches!(failed, Err(ToolError::Failed { stderr, .. }) if stderr.contains("No such file")));
        Ok(())
    }

    #[test]
    fn a_missing_tool_says_how_to_install_it() {
        let missing = Tool::find("no-such-tool", "no-such-package");
        assert!(missing.is_err_and(|e| e.hint().is_some_and(|hint| hint.contains("apt-get install no-such-package"))));
    }

    #[test]
    fn a_tail_is_cut_at_a_character() {
        assert_eq!(tail("aé", 1), "");
        assert_eq!(tail("  abc\n", 2), "bc");
    }
}
