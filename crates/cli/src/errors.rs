//! How an error becomes words and an exit code. What the libraries say is mapped here and nowhere else.

use std::io;
use std::process::ExitCode;

use pando_api::{ClientError, EndpointError};
use pando_model::{ErrorKind, MomentParseError, NameError, Problem};

use crate::output;

/// What a command comes to.
pub type Done<T = ()> = Result<T, Error>;

/// Why a command did not end well.
#[derive(Debug)]
pub enum Error {
    /// Something to tell.
    Problem(Box<Problem>),
    /// Everything was said already; only the exit code is left.
    Quiet(u8),
}

impl Error {
    /// A problem from its kind and one line.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Problem::new(kind, message).into()
    }

    /// Wrong usage.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Problem::new(ErrorKind::Usage, message).hint(hint).into()
    }

    /// The exit code.
    pub fn code(&self) -> u8 {
        match self {
            Self::Problem(problem) => problem.kind.exit_code(),
            Self::Quiet(code) => *code,
        }
    }

    /// Says what there is to say, and gives the exit code.
    pub fn tell(&self, json: bool) -> ExitCode {
        if let Self::Problem(problem) = self {
            output::problem(problem, json);
        }
        ExitCode::from(self.code())
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self::Problem(Box::new(problem))
    }
}

impl From<io::Error> for Error {
    /// Whoever closed our stdout has seen enough: that is no failure.
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Quiet(0),
            _ => Problem::from_error(ErrorKind::Failed, &error).into(),
        }
    }
}

impl From<NameError> for Error {
    fn from(error: NameError) -> Self {
        Problem::from_error(ErrorKind::Usage, &error).hint("a name looks like shop, dev1 or feature-x.2").into()
    }
}

impl From<MomentParseError> for Error {
    fn from(error: MomentParseError) -> Self {
        let hint = "NAME@MOMENT: shop@latest, shop@-2h, shop@10:15, shop@2026-11-21T10:15, shop@BOOKMARK";
        Problem::from_error(ErrorKind::Usage, &error).hint(hint).into()
    }
}

impl From<EndpointError> for Error {
    fn from(error: EndpointError) -> Self {
        Problem::from_error(ErrorKind::Usage, &error).hint("set --host or PANDO_HOST").into()
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Problem::from_error(ErrorKind::Failed, &error).into()
    }
}

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Self {
        let with = |kind, hint: &str| Problem::from_error(kind, &error).hint(hint);
        let problem = match &error {
            ClientError::Unreachable { endpoint, source } => unreachable(endpoint, source),
            ClientError::Broken { .. } => {
                with(ErrorKind::Failed, "if the daemon was stopped, start it again; what it had begun, it takes up")
            }
            ClientError::Foreign { .. } => with(ErrorKind::Failed, "check --host, and that both are of one version"),
            ClientError::Unauthorized { .. } => {
                with(ErrorKind::Refused, "set PANDO_TOKEN to what the file `token` in that daemon's home holds")
            }
            ClientError::Problem(problem) => problem.clone(),
        };
        problem.into()
    }
}

fn unreachable(endpoint: &str, source: &io::Error) -> Problem {
    if source.kind() == io::ErrorKind::PermissionDenied {
        let problem = Problem::new(ErrorKind::Refused, format!("you may not speak to the pando daemon at {endpoint}"));
        return problem.hint("run this as the user that the daemon runs as");
    }
    let mut problem = Problem::new(ErrorKind::Failed, format!("no pando daemon answers at {endpoint}"));
    // That a socket is not there says no more than the line above.
    if source.kind() != io::ErrorKind::NotFound {
        problem.causes.push(source.to_string());
    }
    problem.hint("pando serve")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(error: ClientError) -> Problem {
        match Error::from(error) {
            Error::Problem(problem) => *problem,
            Error::Quiet(code) => panic!("quiet {code}"),
        }
    }

    fn unreachable_because(kind: io::ErrorKind) -> ClientError {
        ClientError::Unreachable { endpoint: "/h/run/pando.sock".into(), source: kind.into() }
    }

    #[test]
    fn every_kind_has_its_exit_code() {
        let kinds = [ErrorKind::Failed, ErrorKind::Usage, ErrorKind::NotFound, ErrorKind::Refused];
        assert_eq!(kinds.map(|kind| Error::new(kind, "x").code()), [1, 2, 3, 4]);
    }

    #[test]
    fn a_missing_daemon_is_named_with_the_command_that_starts_it() {
        let problem = told(unreachable_because(io::ErrorKind::NotFound));
        assert_eq!(problem.message, "no pando daemon answers at /h/run/pando.sock");
        assert_eq!((problem.kind, problem.hint.as_deref()), (ErrorKind::Failed, Some("pando serve")));
        assert!(problem.causes.is_empty());
    }

    #[test]
    fn a_socket_of_somebody_else_is_refused_not_missing() {
        assert_eq!(told(unreachable_because(io::ErrorKind::PermissionDenied)).kind, ErrorKind::Refused);
    }

    #[test]
    fn what_the_daemon_said_is_passed_on_whole() {
        let said = Problem::new(ErrorKind::NotFound, "there is no app shop").hint("pando ls");
        assert_eq!(told(ClientError::Problem(said.clone())), said);
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        assert_eq!(Error::from(io::Error::from(io::ErrorKind::BrokenPipe)).code(), 0);
    }
}
