//! The few bodies that belong to the REST contract alone; all others are `pando-model`'s.

use serde::{Deserialize, Serialize};

/// What `GET /v1` answers.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VersionView {
    /// The version of the daemon.
    pub version: String,
    /// The directory it serves.
    pub home: String,
}

/// What `POST /v1/init` takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InitRequest {
    /// An absolute directory to use as pool; by default one is made under HOME.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Size in bytes of the image file, where one is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
}
