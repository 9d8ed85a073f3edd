//! Names that users give to apps, clones, sources and bookmarks.
//!
//! The alphabet is the one Docker allows for volumes, so that a name is safe in a path, in a URL and on
//! a command line as it stands. The rule: a letter or digit first, then letters, digits, `_`, `.`, `-`;
//! at most 63 characters, no `..`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A name that passed the rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(value_type = String))]
pub struct Name(String);

/// Why a text cannot be a name.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum NameError {
    /// Nothing was given.
    #[error("a name cannot be empty")]
    Empty,
    /// More than 63 characters.
    #[error("a name has at most 63 characters, this one has {0}")]
    TooLong(usize),
    /// A character outside the alphabet, or a bad first one.
    #[error("{0:?} cannot be a name: it takes letters, digits, '_', '.' and '-', and starts with a letter or digit")]
    Alphabet(String),
}

impl Name {
    /// The longest a name can be, in characters.
    pub const MAX: usize = 63;

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let length = text.chars().count();
        if length == 0 {
            return Err(NameError::Empty);
        }
        if length > Self::MAX {
            return Err(NameError::TooLong(length));
        }
        let good = text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
            && !text.contains("..");
        if good { Ok(Self(text.to_owned())) } else { Err(NameError::Alphabet(text.to_owned())) }
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names_pass_and_bad_ones_say_why() {
        for good in ["shop", "a", "7", "dev_1.feature-x", &"n".repeat(63)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        assert_eq!("".parse::<Name>(), Err(NameError::Empty));
        assert_eq!("x".repeat(300).parse::<Name>(), Err(NameError::TooLong(300)));
        for bad in ["../x", "a b", "a/b", ".hidden", "-x", "a@b", "a:b", "é", "a..b", "a\n", "a\0"] {
            assert!(matches!(bad.parse::<Name>(), Err(NameError::Alphabet(_))), "{bad:?}");
        }
    }
}
