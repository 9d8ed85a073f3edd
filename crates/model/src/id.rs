//! Ids. Each noun has its own type, and the text of an id carries its kind: `snap-…`, `clone-…`.
//!
//! An id is 48 bits of milliseconds and 32 random bits, written as 16 letters of lower-case Crockford
//! base32: it sorts by time of birth, and is short enough to type. Names on disk and labels on
//! containers are made from ids, never from what a user typed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const LENGTH: usize = 16;

/// The text is not an id of the kind that was asked for.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{text:?} is not an id of the form {prefix}-…")]
pub struct IdParseError {
    text: String,
    prefix: &'static str,
}

fn encode(millis: u64, random: u32) -> String {
    let bits = (u128::from(millis & 0xffff_ffff_ffff) << 32) | u128::from(random);
    (0..LENGTH).rev().map(|digit| char::from(ALPHABET[((bits >> (digit * 5)) & 31) as usize])).collect()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        pub struct $name(String);

        impl $name {
            /// The kind, as it stands before the dash.
            pub const PREFIX: &'static str = $prefix;

            /// An id from the time of birth (milliseconds since 1970) and 32 random bits.
            pub fn from_parts(millis: u64, random: u32) -> Self {
                Self(format!("{}-{}", $prefix, encode(millis, random)))
            }

            /// The whole text, kind included.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdParseError;
            fn from_str(text: &str) -> Result<Self, IdParseError> {
                let body = text.strip_prefix(concat!($prefix, "-")).unwrap_or("");
                if body.len() == LENGTH && body.bytes().all(|b| ALPHABET.contains(&b)) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(IdParseError { text: text.chars().take(80).collect(), prefix: $prefix })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdParseError;
            fn try_from(text: String) -> Result<Self, IdParseError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }
    };
}

id!(
    /// A linked production application.
    AppId,
    "app"
);
id!(
    /// A writable copy of an app at a moment.
    CloneId,
    "clone"
);
id!(
    /// A read-only state of a whole app or clone.
    SnapshotId,
    "snap"
);
id!(
    /// One run of a verb.
    OperationId,
    "op"
);
id!(
    /// A writable tree in the pool.
    VolumeId,
    "vol"
);
id!(
    /// A read-only tree in the pool. A snapshot stands on one of them, seldom on several.
    PoolSnapshotId,
    "tree"
);
id!(
    /// One running server.
    UnitId,
    "unit"
);

/// Who owns a mirror or working copy and its timeline: an app or a clone, which are equals.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum OwnerId {
    /// The mirror of an app.
    App(AppId),
    /// A clone.
    Clone(CloneId),
}

impl OwnerId {
    /// The whole text of the id behind it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::App(id) => id.as_str(),
            Self::Clone(id) => id.as_str(),
        }
    }
}

impl fmt::Display for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for OwnerId {
    type Err = IdParseError;
    fn from_str(text: &str) -> Result<Self, IdParseError> {
        match text.parse() {
            Ok(app) => Ok(Self::App(app)),
            Err(_) => text.parse().map(Self::Clone),
        }
    }
}

impl TryFrom<String> for OwnerId {
    type Error = IdParseError;
    fn try_from(text: String) -> Result<Self, IdParseError> {
        text.parse()
    }
}

impl From<OwnerId> for String {
    fn from(id: OwnerId) -> String {
        id.as_str().to_owned()
    }
}

impl From<AppId> for OwnerId {
    fn from(id: AppId) -> Self {
        Self::App(id)
    }
}

impl From<CloneId> for OwnerId {
    fn from(id: CloneId) -> Self {
        Self::Clone(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_round_trips_and_sorts_by_birth() {
        let early = SnapshotId::from_parts(1_700_000_000_000, u32::MAX);
        let late = SnapshotId::from_parts(1_700_000_000_001, 0);
        assert_eq!(early.as_str().parse::<SnapshotId>(), Ok(early.clone()));
        assert!(early < late);
    }

    #[test]
    fn another_kind_or_a_path_is_refused() {
        let volume = VolumeId::from_parts(1, 1).to_string();
        assert!(volume.parse::<SnapshotId>().is_err());
        for text in ["snap-", "snap-../../etc/passwd", "snap-0123456789abcdeF", "", "snap-0123456789abcdeé"] {
            assert!(text.parse::<SnapshotId>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_owner_is_an_app_or_a_clone() {
        let clone = CloneId::from_parts(7, 7);
        assert_eq!(clone.as_str().parse::<OwnerId>(), Ok(OwnerId::Clone(clone)));
        assert!("vol-0000000000000000".parse::<OwnerId>().is_err());
    }
}
