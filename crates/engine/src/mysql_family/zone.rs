//! The time zone of production's machine, which decides what a TIMESTAMP shows where `time_zone` is `SYSTEM`.
//!
//! A statement in production's binary log that was run so is run by a mirror in the zone of the mirror's own process: in
//! another one a conversion (TIMESTAMP to DATETIME) would store other hours. So servers of Pando run in production's. It
//! tells only an abbreviation, which is none of one zone (`CST`), but it shows any moment in its zone: the one that is looked
//! for is that of this machine's which shows them all alike, at each change of an offset since 1970.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::{TimeZone, db};

use super::facts::{Facts, finding};
use super::wire::{ClientError, Session};
use crate::{EngineError, Finding};

/// The moments that a TIMESTAMP can be, up to the end of 2037. At zero it is none, and MariaDB shows none since 11.7.
const MOMENTS: Range<i64> = 1..2_145_916_800;
/// So far apart are those of the first look.
const APART: usize = 10 * 86_400;
/// So many at once, as one argument of a client.
const AT_ONCE: usize = 2000;
/// Where this machine has its zones, those that nobody needs twice are named.
const NAMED: &str = "/usr/share/zoneinfo/zone1970.tab";

/// How far from UTC production's machine was at moments, in seconds.
type Shown = BTreeMap<i64, i64>;

/// What is known of the zone.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Zone {
    /// Its name; none where it is UTC, or this machine knows none like it.
    pub name: Option<String>,
    /// How far from UTC it is, where that never changed.
    pub always: Option<i64>,
}

/// Finds it. `ask`: asks production. `abbreviation`: its own word.
pub fn find(ask: &dyn Fn(&str) -> Result<String, EngineError>, abbreviation: &str) -> Result<Zone, EngineError> {
    find_in(known(), ask, abbreviation)
}

fn find_in(
    mut zones: Vec<(String, TimeZone)>,
    ask: &dyn Fn(&str) -> Result<String, EngineError>,
    abbreviation: &str,
) -> Result<Zone, EngineError> {
    let mut seen = shown(ask, MOMENTS.step_by(APART).collect())?;
    zones.retain(|(_, zone)| is_like(zone, &seen));
    // Between those moments it may be another all the same.
    let changes: BTreeSet<i64> = zones.iter().flat_map(|(_, zone)| changes(zone)).collect();
    seen.append(&mut shown(ask, changes.into_iter().collect())?);
    zones.retain(|(_, zone)| is_like(zone, &seen));
    zones.sort_by_key(|(_, zone)| !says(zone, abbreviation));
    let always = seen.values().next().copied().filter(|first| seen.values().all(|offset| offset == first));
    let name = zones.into_iter().next().map(|(name, _)| name).filter(|_| always != Some(0));
    Ok(Zone { name, always })
}

/// What production's machine shows.
fn shown(ask: &dyn Fn(&str) -> Result<String, EngineError>, moments: Vec<i64>) -> Result<Shown, EngineError> {
    let mut shown = Shown::new();
    for some in moments.chunks(AT_ONCE) {
        let asked: Vec<String> = some.iter().map(|moment| format!("FROM_UNIXTIME({moment})")).collect();
        let answer = ask(&format!("SET time_zone = 'SYSTEM'; SELECT {}", asked.join(",")))?;
        let read: Vec<i64> = answer.trim_end().split('\t').filter_map(as_if_utc).collect();
        if read.len() != some.len() {
            let start: String = answer.chars().take(80).collect();
            return Err(EngineError::Invalid(format!("production's time zone cannot be read: {start:?}")));
        }
        shown.extend(some.iter().zip(read).map(|(moment, local)| (*moment, local - moment)));
    }
    Ok(shown)
}

fn as_if_utc(text: &str) -> Option<i64> {
    let local: DateTime = text.parse().ok()?;
    Some(TimeZone::UTC.to_timestamp(local).ok()?.as_second())
}

fn is_like(zone: &TimeZone, shown: &Shown) -> bool {
    shown.iter().all(|(moment, offset)| {
        let at = Timestamp::from_second(*moment);
        at.is_ok_and(|at| i64::from(zone.to_offset(at).seconds()) == *offset)
    })
}

/// The last second before each change of a zone's offset, and the first one of it.
fn changes(zone: &TimeZone) -> Vec<i64> {
    let changes = zone.following(Timestamp::UNIX_EPOCH).map(|change| change.timestamp().as_second());
    changes.take_while(|change| MOMENTS.contains(change)).flat_map(|change| [change - 1, change]).collect()
}

/// Whether it has ever called itself so.
fn says(zone: &TimeZone, abbreviation: &str) -> bool {
    MOMENTS.step_by(APART).filter_map(|moment| Timestamp::from_second(moment).ok()).any(|moment| {
        let said = zone.to_offset_info(moment);
        said.abbreviation() == abbreviation
    })
}

/// The zones of this machine, by their usual names first.
fn known() -> Vec<(String, TimeZone)> {
    let usual = std::fs::read_to_string(NAMED).unwrap_or_default();
    let usual: BTreeSet<&str> =
        usual.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split('\t').nth(2)).collect();
    let mut names: Vec<String> = db().available().map(|name| name.to_string()).filter(|name| is_name(name)).collect();
    names.sort_by_key(|name| !usual.contains(name.as_str()));
    names.into_iter().filter_map(|name| db().get(&name).ok().map(|zone| (name, zone))).collect()
}

/// Whether this machine's servers can run in it.
pub fn is_known(name: &str) -> bool {
    is_name(name) && db().get(name).is_ok()
}

/// Whether it is a name, and no path or rule, which a server would follow as well.
fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-' | '+'))
}

/// What a server of Pando's is told in its environment.
pub fn environment(facts: &Facts) -> BTreeMap<String, String> {
    let name = facts.zone.as_ref().filter(|name| is_name(name));
    name.map(|name| ("TZ".to_owned(), name.clone())).into_iter().collect()
}

/// What a server of Pando's lacks that should be in production's zone: one in a container has the zones of its image.
pub fn missed(session: &mut Session, facts: &Facts) -> Result<Option<String>, ClientError> {
    const WINTER_AND_SUMMER: [i64; 2] = [1_736_942_400, 1_752_580_800];
    let Some((name, zone)) = facts.zone.as_deref().and_then(|name| Some((name, db().get(name).ok()?))) else {
        return Ok(None);
    };
    for moment in WINTER_AND_SUMMER {
        let utc = format!("'1970-01-01' + INTERVAL {moment} SECOND");
        let rows =
            session.query(&format!("SELECT TIMESTAMPDIFF(SECOND, {utc}, CONVERT_TZ({utc}, '+00:00', 'SYSTEM'))"))?;
        let offset = rows.first(0).and_then(|offset| offset.parse().ok());
        if !offset.is_some_and(|offset| is_like(&zone, &Shown::from([(moment, offset)]))) {
            let why = "is not one that its server knows, and a TIMESTAMP would show other hours";
            return Ok(Some(format!("the time zone of production's machine, {name}, {why} (is tzdata in its image?)")));
        }
    }
    Ok(None)
}

/// What a user is told of it, where it decides anything: as a note, or as something that is wrong.
pub fn told(facts: &Facts, zone: &Zone) -> Result<Option<String>, Finding> {
    if facts.setting("time_zone") != "SYSTEM" || zone.always == Some(0) {
        return Ok(None);
    }
    if let Some(name) = &zone.name {
        return Ok(Some(format!(
            "time_zone is SYSTEM: mirror and clones are in the zone of production's machine, {name}"
        )));
    }
    let what = format!(
        "time_zone is SYSTEM, and this machine knows no zone like the one of production's ({}); mirror and clones are in \
         UTC: a TIMESTAMP is shown there in UTC, and a statement that converts one (DATETIME to TIMESTAMP, say) stores \
         another moment in the mirror",
        facts.setting("system_time_zone")
    );
    let fix = match zone.always {
        Some(offset) => {
            let (sign, minutes) = (if offset < 0 { '-' } else { '+' }, offset.abs() / 60);
            let zone = format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60);
            Some(format!(
                "SET GLOBAL time_zone = '{zone}';  -- and default_time_zone = '{zone}' in its section; then link"
            ))
        }
        None if db().is_definitively_empty() => Some("apt-get install tzdata  # here, then link".to_owned()),
        None => None,
    };
    Err(finding(what, fix.as_deref(), false))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pando_testkit::{FamilyProduction, Make, tools};

    use super::*;
    use crate::mysql_family::mirror::CLOCK;

    /// Production's answers, were its machine in that zone.
    fn production(zone: TimeZone) -> impl Fn(&str) -> Result<String, EngineError> {
        move |sql| {
            let moments = sql.split("FROM_UNIXTIME(").skip(1).filter_map(|rest| rest.split_once(')')?.0.parse().ok());
            let shown = moments.map(|moment: i64| {
                let moment = Timestamp::from_second(moment).expect("a moment");
                zone.to_datetime(moment).strftime("%Y-%m-%d %H:%M:%S").to_string()
            });
            Ok(shown.collect::<Vec<_>>().join("\t") + "\n")
        }
    }

    fn zone(name: &str) -> TimeZone {
        TimeZone::get(name).unwrap_or_else(|_| TimeZone::posix(name).expect("a zone"))
    }

    #[test]
    fn the_zone_is_the_one_that_shows_every_moment_alike() {
        for (machine, abbreviation) in [
            ("Europe/Berlin", "CEST"),
            ("America/New_York", "EST"),
            ("America/Toronto", "EST"),
            ("Asia/Shanghai", "CST"),
            ("America/Chicago", "CST"),
            ("Australia/Lord_Howe", "+11"),
            ("Asia/Kolkata", "IST"),
        ] {
            let found = find(&production(zone(machine)), abbreviation).expect("answers");
            assert_eq!(found.name.as_deref(), Some(machine), "{abbreviation}");
        }
        // Every other one is found as one of the same rules.
        let tokyo = find(&production(zone("Japan")), "JST").expect("answers");
        assert_eq!(tokyo, Zone { name: Some("Asia/Tokyo".to_owned()), always: Some(32_400) });
        let utc = find(&production(TimeZone::UTC), "UTC").expect("answers");
        assert_eq!(utc, Zone { name: None, always: Some(0) });
        // Berlin's rules of today for all of the past are no zone's.
        let rules = find(&production(zone("CET-1CEST,M3.5.0,M10.5.0/3")), "CEST").expect("answers");
        assert_eq!(rules, Zone::default());
        assert!(find(&|_| Ok("ERROR".to_owned()), "UTC").is_err());
    }

    #[test]
    fn a_zone_that_differs_for_some_days_only_is_another() {
        let (here, there) = (zone("AAA0BBB,J100,J200"), zone("AAA0BBB,J100,J201"));
        let found = |zones: &[(&str, &TimeZone)]| {
            let zones = zones.iter().map(|(name, zone)| ((*name).to_owned(), (*zone).clone())).collect();
            find_in(zones, &production(here.clone()), "AAA").expect("answers").name
        };
        assert_eq!(found(&[("There", &there), ("Here", &here)]).as_deref(), Some("Here"));
        assert_eq!(found(&[("There", &there)]), None);
    }

    #[test]
    fn m14_a_production_whose_zone_nobody_here_knows_is_told() {
        let facts = |zone: &str| {
            let mut facts = Facts::default();
            facts.settings.insert("time_zone".to_owned(), zone.to_owned());
            facts.settings.insert("system_time_zone".to_owned(), "EST".to_owned());
            facts
        };
        let unknown = |always| Zone { name: None, always };
        assert_eq!(told(&facts("+02:00"), &unknown(None)), Ok(None));
        assert_eq!(told(&facts("SYSTEM"), &unknown(Some(0))), Ok(None));
        let known = Zone { name: Some("America/New_York".to_owned()), always: None };
        assert!(told(&facts("SYSTEM"), &known).is_ok_and(|note| note.is_some_and(|note| note.contains("New_York"))));
        let found = told(&facts("SYSTEM"), &unknown(None)).expect_err("no zone");
        assert!(!found.fatal && found.fix.is_none() && found.what.contains("(EST)"), "{found:?}");
        let found = told(&facts("SYSTEM"), &unknown(Some(19_800))).expect_err("no zone");
        assert!(found.fix.is_some_and(|fix| fix.starts_with("SET GLOBAL time_zone = '+05:30';")));
    }

    /// In Berlin's summer time, and an hour later in its winter time, when its clocks show the same.
    fn clock<M: Make>() {
        let production = FamilyProduction::<M>::start_in("Europe/Berlin", &[]);
        for second in [1_729_989_000, 1_729_992_600] {
            let shown = production.sql(&format!("SET timestamp = {second}; {CLOCK}; SELECT NOW()"));
            assert_eq!(shown, format!("{second}000000\n2024-10-27 02:30:00"));
        }
        let mut session =
            Session::over_socket(&production.socket(), "root", "", Duration::from_secs(5)).expect("a server");
        for (name, lacks) in [("Europe/Berlin", false), ("Europe/London", true), ("Africa/Algiers", true)] {
            let facts = Facts { zone: Some(name.to_owned()), ..Facts::default() };
            let missed = missed(&mut session, &facts).expect("an answer");
            assert_eq!(missed.is_some_and(|why| why.contains(name)), lacks, "{name}");
        }
    }

    #[test]
    fn m06_the_clock_of_a_production_whose_hour_comes_twice_is_one_moment() {
        if tools::require("mariadbd") && tools::require("mariadb") {
            clock::<pando_testkit::Mariadb>();
        }
        if tools::require_mysql() {
            clock::<pando_testkit::Mysql>();
        }
    }

    #[test]
    fn a_server_is_told_a_name_and_nothing_that_leads_elsewhere() {
        for (name, told) in [("Europe/Berlin", true), ("Etc/GMT+5", true), (":/etc/x", false), ("../x", false)] {
            let facts = Facts { zone: Some(name.to_owned()), ..Facts::default() };
            assert_eq!(environment(&facts).contains_key("TZ"), told, "{name}");
            assert_eq!(is_known(name), told, "{name}");
        }
        assert!(environment(&Facts::default()).is_empty() && !is_known("Europe/Nowhere"));
    }
}
