//! Moments as people type them: times without an offset are local, `10:15` is the latest such time. What
//! leaves here is absolute, so that the daemon need not know where the person sits.

use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan};
use pando_model::{Moment, MomentParseError, Target};

use crate::errors::Done;

/// Reads `NAME` or `NAME@MOMENT`.
pub fn target(text: &str, now: Timestamp, zone: &TimeZone) -> Done<Target> {
    match text.split_once('@') {
        Some((name, text)) => Ok(Target { name: name.parse()?, moment: Some(moment(text, now, zone)?) }),
        None => Ok(Target { name: text.parse()?, moment: None }),
    }
}

/// Reads a moment.
pub fn moment(text: &str, now: Timestamp, zone: &TimeZone) -> Result<Moment, MomentParseError> {
    match local(text, now, zone) {
        Some(time) => Ok(Moment::At(time)),
        None => text.parse(),
    }
}

/// A time without an offset, if that is what the text is.
fn local(text: &str, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    if text.parse::<Timestamp>().is_ok() {
        return None;
    }
    if let Some(time) = clock_time(text) {
        return latest(time, now, zone);
    }
    let civil: DateTime = text.parse().ok()?;
    Some(civil.to_zoned(zone.clone()).ok()?.timestamp())
}

fn clock_time(text: &str) -> Option<Time> {
    let looks = text.starts_with(|c: char| c.is_ascii_digit())
        && text.contains(':')
        && text.chars().all(|c| c.is_ascii_digit() || matches!(c, ':' | '.'));
    looks.then(|| text.parse().ok()).flatten()
}

fn latest(time: Time, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let today = now.to_zoned(zone.clone()).date();
    let on = |date: jiff::civil::Date| Some(date.to_datetime(time).to_zoned(zone.clone()).ok()?.timestamp());
    on(today).filter(|moment| *moment <= now).or_else(|| on(today.checked_sub(1.day()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Moment, MomentParseError> {
        // Half past nine in the morning in Berlin, in winter.
        let now: Timestamp = "2026-11-21T08:30:00Z".parse().expect("time");
        let zone = TimeZone::get("Europe/Berlin").unwrap_or_else(|_| TimeZone::fixed(jiff::tz::offset(1)));
        moment(text, now, &zone)
    }

    fn at(text: &str) -> Result<Moment, MomentParseError> {
        Ok(Moment::At(text.parse().expect("time")))
    }

    #[test]
    fn times_without_an_offset_are_local() {
        assert_eq!(read("2026-11-21T09:00:00"), at("2026-11-21T08:00:00Z"));
        assert_eq!(read("2026-11-21 09:00"), at("2026-11-21T08:00:00Z"));
        assert_eq!(read("2026-11-21"), at("2026-11-20T23:00:00Z"));
        assert_eq!(read("2026-11-21T09:00:00Z"), at("2026-11-21T09:00:00Z"));
        assert_eq!(read("2026-11-21T09:00:00-05:00"), at("2026-11-21T14:00:00Z"));
    }

    #[test]
    fn a_time_of_day_is_the_latest_such_time() {
        assert_eq!(read("09:15"), at("2026-11-21T08:15:00Z"));
        assert_eq!(read("09:30:00"), at("2026-11-21T08:30:00Z"));
        assert_eq!(read("09:30:01"), at("2026-11-20T08:30:01Z"));
        assert_eq!(read("23:59"), at("2026-11-20T22:59:00Z"));
    }

    #[test]
    fn all_else_is_the_models() {
        assert_eq!(read("latest"), Ok(Moment::Latest));
        assert!(matches!(read("-2h"), Ok(Moment::Ago(_))));
        assert!(matches!(read("before-release"), Ok(Moment::Bookmark(_))));
        for bad in ["25:00", "9:15:", "", "2026-13-01", "10:15:99"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
