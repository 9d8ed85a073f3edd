//! What stands behind `@`: a moment, and the `NAME@MOMENT` that users type.
//!
//! Grammar, tried in this order: `latest`, `now`, `-SPAN` (`-2h`, `-1h30m`, `-45s`, `-3d`), `lsn:X/Y`,
//! `gtid:…`, a snapshot id, a timestamp, and else a bookmark. A timestamp is RFC 3339
//! (`2026-11-21T10:00:00Z`, an offset or a blank instead of `T` are fine); without an offset it is UTC
//! here: the command line turns local time into UTC before it sends it.

use std::fmt;
use std::str::FromStr;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::id::SnapshotId;
use crate::lsn::Lsn;
use crate::name::{Name, NameError};

/// A moment that can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Moment {
    /// The newest prepared snapshot: the fastest start.
    Latest,
    /// The second of the request; waits until the mirror has reached it.
    Now,
    /// A point in time.
    At(Timestamp),
    /// So long before the request.
    Ago(SignedDuration),
    /// Exactly what one snapshot holds.
    Snapshot(SnapshotId),
    /// What a user gave a name to.
    Bookmark(Name),
    /// A position in PostgreSQL's log.
    Lsn(Lsn),
    /// A position in MariaDB's or MySQL's log.
    Gtid(String),
}

/// Why a text is not a moment.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum MomentParseError {
    /// `-…` that is not a span of time.
    #[error("{0:?} is not a span such as -90s, -2h or -1h30m")]
    Span(String),
    /// `lsn:…` that is not a position.
    #[error("{0:?} is not a log position such as lsn:16/B374D848")]
    Lsn(String),
    /// Neither a time nor a possible bookmark.
    #[error("{0:?} is not a moment: use latest, now, -2h, 2026-11-21T10:00:00Z, a bookmark, a snapshot id or lsn:…")]
    Unknown(String),
    /// The part before `@` is not a name.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// Reads `8h`, `1h30m`, `90s`, `2d`, `1w` as a positive span. A bare number has no unit and is refused.
pub fn parse_span(text: &str) -> Option<SignedDuration> {
    let mut rest = text;
    let mut total: i64 = 0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let amount: i64 = rest.get(..digits)?.parse().ok()?;
        let unit = match rest.as_bytes().get(digits)? {
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86_400,
            b'w' => 604_800,
            _ => return None,
        };
        total = total.checked_add(amount.checked_mul(unit)?)?;
        rest = rest.get(digits + 1..)?;
    }
    (total <= 100 * 366 * 86_400).then(|| SignedDuration::from_secs(total))
}

fn parse_time(text: &str) -> Option<Timestamp> {
    text.parse::<Timestamp>().ok().or_else(|| {
        let civil: DateTime = text.parse().ok()?;
        civil.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
    })
}

impl FromStr for Moment {
    type Err = MomentParseError;
    fn from_str(text: &str) -> Result<Self, MomentParseError> {
        let short = || text.chars().take(120).collect::<String>();
        match text {
            "latest" => return Ok(Self::Latest),
            "now" => return Ok(Self::Now),
            _ => {}
        }
        if let Some(span) = text.strip_prefix('-') {
            return parse_span(span).map(Self::Ago).ok_or_else(|| MomentParseError::Span(short()));
        }
        if let Some(lsn) = text.strip_prefix("lsn:") {
            return lsn.parse().map(Self::Lsn).map_err(|_| MomentParseError::Lsn(short()));
        }
        if let Some(gtid) = text.strip_prefix("gtid:") {
            let good =
                !gtid.is_empty() && gtid.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b':' | b','));
            return good.then(|| Self::Gtid(gtid.to_owned())).ok_or_else(|| MomentParseError::Unknown(short()));
        }
        if let Ok(id) = text.parse() {
            return Ok(Self::Snapshot(id));
        }
        if let Some(time) = parse_time(text) {
            return Ok(Self::At(time));
        }
        // What begins like a date was meant as one: a typing error must not become "no such bookmark".
        if text.len() >= 5 && text.as_bytes()[..4].iter().all(u8::is_ascii_digit) && text.as_bytes()[4] == b'-' {
            return Err(MomentParseError::Unknown(short()));
        }
        text.parse().map(Self::Bookmark).map_err(|_| MomentParseError::Unknown(short()))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Now => f.write_str("now"),
            Self::At(time) => time.fmt(f),
            Self::Ago(span) => write!(f, "-{}s", span.as_secs()),
            Self::Snapshot(id) => id.fmt(f),
            Self::Bookmark(name) => name.fmt(f),
            Self::Lsn(lsn) => write!(f, "lsn:{lsn}"),
            Self::Gtid(gtid) => write!(f, "gtid:{gtid}"),
        }
    }
}

impl TryFrom<String> for Moment {
    type Error = MomentParseError;
    fn try_from(text: String) -> Result<Self, MomentParseError> {
        text.parse()
    }
}

impl From<Moment> for String {
    fn from(moment: Moment) -> String {
        moment.to_string()
    }
}

// By hand: the derive would describe the variants, while a moment travels as the text that users type.
#[cfg(feature = "openapi")]
impl utoipa::PartialSchema for Moment {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        let grammar = "`latest`, `now`, `-2h`, an RFC 3339 timestamp, a bookmark, a snapshot id, `lsn:…` or `gtid:…`";
        utoipa::openapi::schema::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .description(Some(grammar))
            .into()
    }
}

#[cfg(feature = "openapi")]
impl utoipa::ToSchema for Moment {}

/// `NAME` or `NAME@MOMENT`, as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// An app or a clone.
    pub name: Name,
    /// What stood behind the `@`, if one was typed.
    pub moment: Option<Moment>,
}

impl FromStr for Target {
    type Err = MomentParseError;
    fn from_str(text: &str) -> Result<Self, MomentParseError> {
        let (name, moment) = match text.split_once('@') {
            Some((name, moment)) => (name, Some(moment.parse()?)),
            None => (text, None),
        };
        Ok(Self { name: name.parse()?, moment })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_kind_of_moment_is_read() {
        let read = |text: &str| text.parse::<Moment>();
        assert_eq!(read("latest"), Ok(Moment::Latest));
        assert_eq!(read("now"), Ok(Moment::Now));
        assert_eq!(read("-1h30m"), Ok(Moment::Ago(SignedDuration::from_secs(5400))));
        assert_eq!(read("lsn:0/A0"), Ok(Moment::Lsn(Lsn(160))));
        assert!(matches!(read("gtid:0-1-42"), Ok(Moment::Gtid(_))));
        assert!(matches!(read("snap-0123456789abcdef"), Ok(Moment::Snapshot(_))));
        assert!(matches!(read("before-release"), Ok(Moment::Bookmark(_))));
        let same = read("2026-11-21T10:00:00Z");
        assert!(matches!(same, Ok(Moment::At(_))));
        for text in ["2026-11-21 10:00:00", "2026-11-21T11:00:00+01:00", "2026-11-21 10:00"] {
            assert_eq!(read(text), same, "{text}");
        }
    }

    #[test]
    fn what_is_not_a_moment_is_refused() {
        for text in
            ["", "-", "-2", "-2x", "-h", "lsn:", "lsn:zz", "2026-13-01", "2026-11-21T25:00", "a b", "../x", "gtid:"]
        {
            assert!(text.parse::<Moment>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_target_has_a_name_and_maybe_a_moment() {
        assert_eq!("shop".parse::<Target>().map(|t| t.moment), Ok(None));
        assert_eq!("shop@now".parse::<Target>().map(|t| t.moment), Ok(Some(Moment::Now)));
        for text in ["@now", "a b@now", "shop@", "../x", ""] {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_round_trips(text in "\\PC{0,40}") {
            if let Ok(moment) = text.parse::<Moment>() {
                prop_assert_eq!(moment.to_string().parse::<Moment>(), Ok(moment));
            }
        }
    }
}
