//! What the outside sees of an error: a kind that says what to do, one line, its causes, one hint.

use serde::{Deserialize, Serialize};

/// The handful of kinds an error has for the outside; each has its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ErrorKind {
    /// It was tried and did not work; the causes say why. Exit code 1.
    Failed,
    /// The request is malformed. Exit code 2.
    Usage,
    /// What was named is not there. Exit code 3.
    NotFound,
    /// It is there but may not be touched now: in use, pinned, not allowed, name taken. Exit code 4.
    Refused,
}

impl ErrorKind {
    /// The exit code of the command line.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Refused => 4,
        }
    }

    /// The HTTP status of the REST API.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Failed => 500,
            Self::Usage => 400,
            Self::NotFound => 404,
            Self::Refused => 409,
        }
    }
}

/// An error for the outside. Travels as RFC 9457 problem+json.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// What to do about it.
    pub kind: ErrorKind,
    /// One line: what was being done.
    #[serde(rename = "title")]
    pub message: String,
    /// Why, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// What to try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Problem {
    /// A problem without causes or hint.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), causes: Vec::new(), hint: None }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A problem from an error and the chain of its sources.
    pub fn from_error(kind: ErrorKind, error: &dyn std::error::Error) -> Self {
        let mut problem = Self::new(kind, error.to_string());
        let mut source = error.source();
        while let Some(cause) = source {
            problem.causes.push(cause.to_string());
            source = cause.source();
        }
        problem
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        self.causes.iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}

impl std::error::Error for Problem {}
