//! Where a directory of production is, and how rsync gets there.
//!
//! `file:///srv/files`, or `ssh://user@host:port/srv/files?identity=FILE&known_hosts=FILE`; without the two,
//! ssh's own configuration decides. rsync splits the text of `-e` by itself, at blanks and with quotes but
//! without a shell; so nothing that a user typed gets into it unchecked.

use std::path::{Path, PathBuf};

use pando_host::{Bounds, Tool, ToolError};
use pando_model::SourceUrl;

use super::{rsync, with_ssh_environment};
use crate::ask::PATIENCE;
use crate::{EngineError, Finding};

/// A directory of production.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Of this machine.
    Local(PathBuf),
    /// Of another.
    Remote {
        /// `user@host`, as ssh takes it.
        login: String,
        /// The port, if typed.
        port: Option<u16>,
        /// Options of ssh that the URL asked for, `-o NAME=VALUE`.
        options: Vec<String>,
        /// The directory there.
        path: String,
    },
}

/// The program.
pub fn ssh() -> Result<Tool, ToolError> {
    Tool::find("ssh", "openssh-client")
}

impl Place {
    /// Reads a URL.
    pub fn of(url: &SourceUrl) -> Result<Self, EngineError> {
        let invalid = |why: String| EngineError::Invalid(format!("{url}: {why}"));
        if url.scheme == "file" {
            return match url.host.as_deref() {
                None | Some("localhost") => Ok(Self::Local(PathBuf::from(&url.path))),
                Some(_) => Err(invalid("a file:// source is of this machine; use ssh:// for another".to_owned())),
            };
        }
        let host = url.host.as_deref().unwrap_or_default();
        let user = url.user.as_deref();
        let word = |text: &str, more: &[char]| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(&c))
        };
        if !word(host, &['.', '-', '_', ':', '%']) || user.is_some_and(|user| !word(user, &['.', '-', '_', '$', '+'])) {
            return Err(invalid("user or host holds characters that ssh does not take".to_owned()));
        }
        if url.password.is_some() {
            return Err(invalid("ssh takes no password from a URL; use a key".to_owned()));
        }
        let mut options = Vec::new();
        for (name, value) in &url.query {
            let option = match name.as_str() {
                "identity" => "IdentityFile",
                "known_hosts" => "UserKnownHostsFile",
                other => return Err(invalid(format!("{other} is unknown; known are identity and known_hosts"))),
            };
            if value.contains(['\'', '"', '\\', '\n', '\r', '\0']) || !value.starts_with('/') {
                return Err(invalid(format!("{name} must be an absolute path without quotes")));
            }
            // The inner quotes are for ssh, which splits the value of some options at blanks.
            options.push(format!("'{option}=\"{value}\"'"));
        }
        let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
        let login = user.map_or(host.clone(), |user| format!("{user}@{host}"));
        Ok(Self::Remote { login, port: url.port, options, path: url.path.clone() })
    }

    /// The argument of rsync that means "what is in it".
    pub fn argument(&self) -> String {
        match self {
            Self::Local(path) => rsync::inside(path),
            Self::Remote { login, path, .. } => format!("{login}:{}", rsync::inside(Path::new(&escape(path)))),
        }
    }

    /// What stands behind rsync's `-e`.
    pub fn remote_shell(&self) -> Result<Option<String>, EngineError> {
        let Self::Remote { port, options, .. } = self else { return Ok(None) };
        let ssh = ssh().map_err(super::tool_error("looking for ssh"))?;
        // No questions, and no waiting for a machine that is gone.
        let mut shell = format!(
            "{} -o BatchMode=yes -o ConnectTimeout=10 -o ServerAliveInterval=15 -o ServerAliveCountMax=4",
            ssh.path().display()
        );
        for option in options {
            shell.push_str(&format!(" -o {option}"));
        }
        if let Some(port) = port {
            shell.push_str(&format!(" -p {port}"));
        }
        Ok(Some(shell))
    }

    /// Looks whether it is there and readable.
    pub fn look(&self, rsync: &Tool) -> Result<Option<Finding>, EngineError> {
        match self {
            Self::Local(path) => Ok(look_here(path)),
            Self::Remote { login, .. } => {
                let shell = match self.remote_shell() {
                    Ok(shell) => shell.unwrap_or_default(),
                    Err(EngineError::Tool { source, .. }) => {
                        let fix = Some("apt-get install openssh-client".to_owned());
                        return Ok(Some(Finding { what: source.to_string(), fix, fatal: true }));
                    }
                    Err(error) => return Err(error),
                };
                let probe = rsync::probe(with_ssh_environment(rsync), &shell, &self.argument());
                match probe.run_bounded(b"", Bounds { time: PATIENCE, output: 1 << 20 }) {
                    Ok(_) => Ok(None),
                    Err(ToolError::Failed { stderr, .. }) => Ok(Some(explain(login, &stderr))),
                    Err(source) => Err(super::tool_error("looking at production by rsync")(source)),
                }
            }
        }
    }
}

/// rsync expands wildcards of a remote path; here every character means itself.
fn escape(path: &str) -> String {
    let special = |c: char| matches!(c, '*' | '?' | '[' | '\\');
    if !path.contains(['*', '?', '[']) {
        return path.to_owned();
    }
    path.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

fn look_here(path: &Path) -> Option<Finding> {
    let fatal = |what: String, fix: Option<String>| Some(Finding { what, fix, fatal: true });
    match std::fs::read_dir(path) {
        Ok(_) => None,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let fix = format!("setfacl -R -m u:{}:rX {}", whoami(), path.display());
            fatal(format!("{} cannot be read by the user that runs Pando", path.display()), Some(fix))
        }
        Err(error) => fatal(format!("{}: {error}", path.display()), None),
    }
}

fn whoami() -> String {
    pando_host::Account::current().map_or_else(|_| "PANDO".to_owned(), |account| account.name)
}

/// A failed look at another machine. The words are those of ssh and rsync in the C locale; what is not
/// known is handed on as it is.
fn explain(login: &str, stderr: &str) -> Finding {
    let line = |needle: &str| stderr.lines().find(|line| line.contains(needle)).map(|line| line.trim().to_owned());
    let named = |what: String| if what.starts_with(login) { what } else { format!("{login}: {what}") };
    let finding = |what: String, fix: Option<String>| Finding { what: named(what), fix, fatal: true };
    if let Some(what) = line("Host key verification failed.") {
        return finding(what, Some(format!("ssh {login} true    # as {}", whoami())));
    }
    if let Some(what) = line("Permission denied (") {
        return finding(what, Some(format!("ssh-copy-id {login}    # as {}", whoami())));
    }
    if stderr.contains("rsync: command not found") || stderr.contains("rsync: not found") {
        let fix = Some(format!("ssh {login} sudo apt-get install rsync"));
        return finding("there is no rsync".to_owned(), fix);
    }
    let first = rsync::first_error(stderr).or_else(|| stderr.lines().next()).unwrap_or("no answer");
    let first = line("ssh: ").unwrap_or_else(|| first.to_owned());
    finding(first, None)
}
