//! A PostgreSQL log sequence number: a byte position in the write-ahead log, shown as `16/B374D848`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A byte position in a write-ahead log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lsn(pub u64);

/// The text is not two hexadecimal numbers with a slash between them.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{0:?} is not a log position such as 16/B374D848")]
pub struct LsnParseError(String);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl FromStr for Lsn {
    type Err = LsnParseError;
    fn from_str(text: &str) -> Result<Self, LsnParseError> {
        let part = |half: &str| {
            let digits = half.len() <= 8 && half.bytes().all(|b| b.is_ascii_hexdigit());
            digits.then(|| u64::from_str_radix(half, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| Some(Self((part(high)? << 32) | part(low)?)))
            .ok_or_else(|| LsnParseError(text.chars().take(80).collect()))
    }
}

impl TryFrom<String> for Lsn {
    type Error = LsnParseError;
    fn try_from(text: String) -> Result<Self, LsnParseError> {
        text.parse()
    }
}

impl From<Lsn> for String {
    fn from(lsn: Lsn) -> String {
        lsn.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        assert_eq!("16/B374D848".parse::<Lsn>().map(|l| l.to_string()), Ok("16/B374D848".to_owned()));
        assert_eq!("0/0".parse(), Ok(Lsn(0)));
        for bad in ["", "/", "1", "1/", "/1", "1/2/3", "+1/2", "123456789/1", "x/y"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }
}
