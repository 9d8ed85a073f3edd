//! Images with data in them: what is asked for, and what is shown.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::moment::Moment;
use crate::name::Name;
use crate::source::EngineKind;
use crate::state::Profile;

/// Whom a registry of images knows.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RegistryLogin {
    /// The account.
    pub user: String,
    /// Its password or token; an identity token where the account is `<token>`.
    pub password: String,
    /// The registry that it is for, and nobody else: host and port. Any, when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<String>,
}

impl fmt::Debug for RegistryLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryLogin").field("user", &self.user).finish_non_exhaustive()
    }
}

/// `image build`: data at a moment as an image. What is absent is as it was at the last build of that reference, or as
/// usual.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageRequest {
    /// The image's name: `shop-db:ci`, `registry.example/shop-db:ci`.
    pub reference: String,
    /// The app or clone; as at the last build when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// `latest` when absent, whatever it was at the last build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moment: Option<Moment>,
    /// Which source, where several could be in an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Name>,
    /// The image below; the official one of the server's exact version when absent, and nothing below a directory.
    /// `oci:DIR` is a directory in OCI's layout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Where a directory lies in it; a server's data lies where its image has it. `/` when absent and nothing is below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The account that may do everything in it; `pando` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Its password; made and shown when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// The most bytes that the data may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// What data written in its containers is worth; `disposable` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// Whether the container engine gets it; when absent, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load: Option<bool>,
    /// Whether the data is to be masked: by the app's own edits and hooks that mask, or, of a clone, before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masked: Option<bool>,
    /// What the server image's registry is shown, where it has to be taken from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<RegistryLogin>,
}

impl fmt::Debug for ImageRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ImageRequest").field("reference", &self.reference).finish_non_exhaustive()
    }
}

/// `image push`: sends an image to its registry.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImagePushRequest {
    /// The image.
    pub reference: String,
    /// What the registry is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login: Option<RegistryLogin>,
}

/// An image as one file, streamed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageSaveRequest {
    /// The image.
    pub reference: String,
}

/// `image rm`: forgets an image.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageRemoveRequest {
    /// The image.
    pub reference: String,
}

/// An image with data in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImageView {
    /// Its name.
    pub reference: String,
    /// The digest of its manifest.
    pub digest: String,
    /// The app or clone it was made of.
    pub name: Name,
    /// The app that this stems from.
    pub app: Name,
    /// The source in it.
    pub source: Name,
    /// What knows that.
    pub engine: EngineKind,
    /// The moment that it shows.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub moment: Timestamp,
    /// As typed.
    pub asked: String,
    /// The image below, as named; `scratch` is nothing.
    pub base: String,
    /// Whether its data was masked.
    pub masked: bool,
    /// Who may do everything in it; absent where there is no server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// With this password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// The port that its server listens on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Where the data lies in it.
    pub path: String,
    /// Bytes of the data.
    pub data_bytes: u64,
    /// Bytes of all its layers, compressed.
    pub layer_bytes: u64,
    /// How many layers the data has.
    pub data_layers: usize,
    /// Bytes of the layers that its making added, compressed.
    pub new_bytes: u64,
    /// Bytes that differ from the image before it, counted in blocks of 64 KiB.
    pub changed_bytes: u64,
    /// Bytes of the files that these are in: a layer takes a file in whole.
    pub changed_file_bytes: u64,
    /// When it was made.
    #[cfg_attr(feature = "openapi", schema(value_type = String))]
    pub built_at: Timestamp,
    /// When it was sent to its registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
    pub pushed_at: Option<Timestamp>,
    /// Whether the name was ever sent to its registry.
    pub pushes: bool,
}
