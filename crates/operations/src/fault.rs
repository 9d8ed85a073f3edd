//! How a step fails: with a problem for the outside, or (in tests) as if the process had died there.

use pando_catalog::CatalogError;
use pando_engine::EngineError;
use pando_host::secret::SecretError;
use pando_host::{Injected, ToolError};
use pando_image::ImageError;
use pando_model::{ErrorKind, Problem};
use pando_pool::PoolError;
use pando_runtime::RuntimeError;

/// Why a step did not do its work.
#[derive(Debug)]
pub enum Fault {
    /// For the outside.
    Problem(Problem),
    /// A fail point asked to stop as if dead: nothing is undone.
    Crash,
}

/// What a step answers.
pub type Done<T> = Result<T, Fault>;

/// A problem of the kind "refused".
pub fn refused(message: impl Into<String>) -> Problem {
    Problem::new(ErrorKind::Refused, message)
}

/// A problem of the kind "not found".
pub fn not_found(message: impl Into<String>) -> Problem {
    Problem::new(ErrorKind::NotFound, message)
}

/// A problem of the kind "failed".
pub fn failed(message: impl Into<String>) -> Problem {
    Problem::new(ErrorKind::Failed, message)
}

/// A problem of the kind "usage".
pub fn usage(message: impl Into<String>) -> Problem {
    Problem::new(ErrorKind::Usage, message)
}

/// A problem from a failed file operation.
pub fn io(action: &str, source: std::io::Error) -> Problem {
    let mut problem = failed(action);
    problem.causes.push(source.to_string());
    problem
}

impl From<Problem> for Fault {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Injected> for Fault {
    fn from(injected: Injected) -> Self {
        if injected.crash { Self::Crash } else { Self::Problem(failed(injected.to_string())) }
    }
}

/// Turns a seam's error into a problem.
pub trait IntoProblem {
    /// The problem.
    fn into_problem(self) -> Problem;
}

impl IntoProblem for CatalogError {
    fn into_problem(self) -> Problem {
        match &self {
            Self::NameTaken(name) => refused(format!("the name {name} is taken"))
                .hint("choose another name, or `pando ls` to see what has it"),
            _ => Problem::from_error(ErrorKind::Failed, &self),
        }
    }
}

impl IntoProblem for PoolError {
    fn into_problem(self) -> Problem {
        let problem = Problem::from_error(ErrorKind::Failed, &self);
        match &self {
            Self::Full(_) => problem.hint("`pando du` shows who holds what; remove clones, or give the pool more room"),
            Self::Tool { source, .. } => with_hint(problem, source.hint()),
            _ => problem,
        }
    }
}

impl IntoProblem for EngineError {
    fn into_problem(self) -> Problem {
        let problem = match &self {
            // A user's value, refused before anything was touched.
            Self::Invalid(_) => Problem::from_error(ErrorKind::Refused, &self),
            _ => Problem::from_error(ErrorKind::Failed, &self),
        };
        match &self {
            Self::Tool { source, .. } => with_hint(problem, source.hint()),
            Self::Server { source, .. } => {
                let hint = source.downcast_ref::<ToolError>().and_then(ToolError::hint);
                let advice = production_hint(&problem.to_string()).map(str::to_owned);
                with_hint(problem, hint.or(advice))
            }
            _ => problem,
        }
    }
}

/// What helps against the usual refusals of libpq, of the clients of MariaDB and MySQL, and of Redis.
fn production_hint(text: &str) -> Option<&'static str> {
    const KNOWN: [(&str, &str); 16] = [
        ("password authentication failed", "check the user and password in the URL"),
        (
            "Access denied for user",
            "check the user and password in the URL, and that the user may come from this machine",
        ),
        ("WRONGPASS", "check the user and password in the URL"),
        ("NOAUTH", "put the password into the URL: redis://:PASSWORD@HOST, or redis://USER:PASSWORD@HOST"),
        ("without any password configured", "production has no password: leave it out of the URL"),
        ("no password supplied", "put the password into the URL: postgres://USER:PASSWORD@HOST/DATABASE"),
        (
            "no pg_hba.conf entry",
            "let this machine in: a line in production's pg_hba.conf, then SELECT pg_reload_conf();",
        ),
        (
            "permission denied for table",
            "a fence locks tables: GRANT pg_maintain TO the role of the URL (PostgreSQL 17 and later), or GRANT UPDATE, \
             DELETE, TRUNCATE ON ALL TABLES IN SCHEMA …",
        ),
        ("lock timeout", "something writes for longer than a fence waits: try again when it is over"),
        ("Connection refused", "check host and port, and that production listens on that address"),
        ("Can't connect to", "check host and port, and that production listens on that address"),
        ("could not translate host name", "check the host's name in the URL"),
        ("server host '", "check the host's name in the URL"),
        ("failed to lookup address", "check the host's name in the URL"),
        ("timeout expired", "check host, port and firewalls: nobody answers there"),
        ("does not exist", "check the name of the database or user in the URL"),
    ];
    KNOWN.iter().find(|(sign, _)| text.contains(sign)).map(|(_, hint)| *hint)
}

impl IntoProblem for RuntimeError {
    fn into_problem(self) -> Problem {
        Problem::from_error(ErrorKind::Failed, &self)
    }
}

impl IntoProblem for SecretError {
    fn into_problem(self) -> Problem {
        Problem::from_error(ErrorKind::Failed, &self)
    }
}

fn with_hint(problem: Problem, hint: Option<String>) -> Problem {
    match hint {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

macro_rules! faults {
    ($($error:ty),+) => { $(
        impl From<$error> for Fault {
            fn from(error: $error) -> Self {
                Self::Problem(error.into_problem())
            }
        }
    )+ };
}

impl IntoProblem for ImageError {
    fn into_problem(self) -> Problem {
        let kind = match &self {
            Self::Refused(_) | Self::Unfit(_) | Self::Denied { .. } | Self::Mistrusted { .. } => ErrorKind::Refused,
            Self::Io { .. } | Self::Stream(_) | Self::Registry(_) => ErrorKind::Failed,
        };
        let problem = Problem::from_error(kind, &self);
        match &self {
            Self::Denied { registry } => problem.hint(format!(
                "docker login {registry}; or give PANDO_REGISTRY_USER and PANDO_REGISTRY_PASSWORD to this command"
            )),
            Self::Mistrusted { registry, .. } => problem.hint(format!(
                "where it, or an authority of your own, has signed itself: put that certificate into \
                 /etc/docker/certs.d/{registry}/ca.crt on the machine of the daemon; one that it asks for goes there as \
                 client.cert and client.key"
            )),
            _ => problem,
        }
    }
}

faults!(ImageError, CatalogError, PoolError, EngineError, RuntimeError, SecretError);

impl Fault {
    /// The problem; a crash becomes one too, for callers outside of operations.
    pub fn into_problem(self) -> Problem {
        match self {
            Self::Problem(problem) => problem,
            Self::Crash => failed("stopped by a fail point"),
        }
    }
}
