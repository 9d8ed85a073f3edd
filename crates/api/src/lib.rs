//! The REST contract of Pando: paths, bodies, errors, the OpenAPI document and a typed client. It builds
//! without the server, so that whatever speaks to a daemon (the command line, a test, a plugin) needs this alone.
//!
//! The bodies are the requests and views of `pando-model`; a mutation answers `202` and the operation it
//! started; every error travels as `application/problem+json` (RFC 9457) and is a [`pando_model::Problem`].

mod body;
mod client;
mod endpoint;
mod openapi;
pub mod paths;

pub use body::{InitRequest, VersionView};
pub use client::{Client, ClientError};
pub use endpoint::{Endpoint, EndpointError, socket_path};
pub use openapi::openapi_json;

/// The media type of every error.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// The longest time a call with `wait_ms` waits before it answers with what there is.
pub const MAX_WAIT_MS: u64 = 30_000;
