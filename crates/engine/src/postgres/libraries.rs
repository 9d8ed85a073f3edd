//! Libraries that production's server and its sessions load: those that clones load too, and what is said of the others.

use super::facts::Facts;
use super::install::Installation;

/// What the server loads at its start.
pub const SHARED: &str = "shared_preload_libraries";
/// What each session loads at its start.
pub const SESSION: &str = "session_preload_libraries";
/// The same, from a directory of its own that anybody may name libraries of.
pub const LOCAL: &str = "local_preload_libraries";

/// Libraries that act on their own, or on other servers (T-17): never loaded into a clone.
const SCHEDULERS: [&str; 11] = [
    "pg_cron",
    "pg_net",
    "pg_partman_bgw",
    "pg_failover_slots",
    "pglogical",
    "spock",
    "bdr",
    "pgactive",
    "citus",
    "timescaledb_osm",
    "pg_background",
];

/// Libraries that come with PostgreSQL: every image of it has them.
const CONTRIB: [&str; 3] = ["auto_explain", "pg_prewarm", "pg_stat_statements"];

/// The names in a setting's list.
fn names(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(|name| name.trim().trim_matches('"')).filter(|name| !name.is_empty())
}

/// Production's libraries of one setting: those that are loaded here, and those left out.
pub fn preload(facts: &Facts, installation: &Installation, setting: &str) -> (Vec<String>, Vec<String>) {
    names(of(facts, setting))
        .map(ToOwned::to_owned)
        .partition(|name| !SCHEDULERS.contains(&bare(name)) && is_here(installation, setting, name))
}

/// Those of one setting that every image has.
pub fn contrib(facts: &Facts, setting: &str) -> String {
    names(of(facts, setting)).filter(|name| CONTRIB.contains(name)).collect::<Vec<_>>().join(",")
}

fn of<'a>(facts: &'a Facts, setting: &str) -> &'a str {
    facts.settings.get(setting).map(String::as_str).unwrap_or_default()
}

/// A bare name in [`LOCAL`] is that of a plugin (`load_libraries` in `miscinit.c`).
fn is_here(installation: &Installation, setting: &str, name: &str) -> bool {
    match setting == LOCAL && !name.contains('/') {
        true => installation.library_exists(&format!("plugins/{name}")),
        false => installation.library_exists(name),
    }
}

/// A library's name of all that it may be written as: `$libdir/pg_cron`, `/usr/lib/postgresql/15/lib/pg_cron.so`.
pub fn bare(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name).trim_end_matches(".so")
}

/// What is to be known of the libraries that clones do not have.
pub fn notes(facts: &Facts, installation: &Installation) -> Vec<String> {
    let mut notes = Vec::new();
    let left_out: Vec<String> =
        [SHARED, SESSION, LOCAL].into_iter().flat_map(|setting| preload(facts, installation, setting).1).collect();
    if !left_out.is_empty() {
        let names = left_out.join(", ");
        notes.push(format!("not loaded in clones: {names} (schedulers, or libraries this machine lacks)"));
    }
    // What is set for a database or a role lies in the data, and the server refuses whoever it cannot load them for.
    let mut refused: Vec<String> = facts
        .session_libraries
        .iter()
        .filter_map(|text| text.split_once('='))
        .flat_map(|(setting, list)| names(list).map(move |name| (setting, name)))
        .filter(|(setting, name)| !is_here(installation, setting, name))
        .map(|(setting, name)| format!("{name} ({setting})"))
        .collect();
    refused.sort();
    refused.dedup();
    if !refused.is_empty() {
        notes.push(format!(
            "production's ALTER DATABASE or ALTER ROLE has sessions load what this machine lacks, so clones refuse them: {}; \
             install it here, or RESET it in a clone",
            refused.join(", ")
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::super::settings;
    use super::*;

    #[test]
    fn t17_what_acts_on_its_own_is_not_loaded_however_it_is_written() {
        let (dir, installation) = installation(&["pg_cron", "timescaledb", "auto_explain"]);
        let cron = dir.path().join("lib/pg_cron.so");
        let written = format!("\"$libdir/pg_cron\", pg_cron.so,{}, timescaledb, $libdir/auto_explain", cron.display());
        let facts = facts(&[(SHARED, &written)], &[]);
        let (loaded, left_out) = preload(&facts, &installation, SHARED);
        assert_eq!((loaded.join(","), left_out.len()), ("timescaledb,$libdir/auto_explain".to_owned(), 3));
        // Its jobs change data.
        let text = settings::mirror(&facts, &installation, dir.path(), "", None).text();
        assert!(text.contains("timescaledb.max_background_workers = '0'"), "{text}");
    }

    #[test]
    fn libraries_of_sessions_that_are_not_here_are_named() {
        let (_dir, installation) = installation(&["auto_explain", "plugins/trusted"]);
        let told = |settings: &[(&str, &str)], set: &[&str]| notes(&facts(settings, set), &installation).join("; ");
        assert_eq!(told(&[(SESSION, "auto_explain"), (LOCAL, "trusted")], &["local_preload_libraries=trusted"]), "");
        let all = told(&[(SESSION, "auto_explain, safeupdate")], &[]);
        assert!(all.starts_with("not loaded in clones: safeupdate ("), "{all}");
        // A plugin is no library of all, nor the other way round.
        let set = ["session_preload_libraries=\"far_away\", trusted", "local_preload_libraries=auto_explain"];
        let some = told(&[], &set);
        let named = "far_away (session_preload_libraries), trusted (session_preload_libraries)";
        assert!(some.contains(&format!(": auto_explain (local_preload_libraries), {named};")), "{some}");
    }

    fn facts(settings: &[(&str, &str)], session_libraries: &[&str]) -> Facts {
        let settings: std::collections::BTreeMap<_, _> = settings.iter().copied().collect();
        let facts = serde_json::json!({ "major": 15, "settings": settings, "session_libraries": session_libraries });
        serde_json::from_value(facts).unwrap()
    }

    /// One with these libraries.
    fn installation(libraries: &[&str]) -> (tempfile::TempDir, Installation) {
        let dir = tempfile::tempdir().unwrap();
        for part in ["bin", "lib", "lib/plugins"] {
            std::fs::create_dir(dir.path().join(part)).unwrap();
        }
        for library in libraries {
            std::fs::write(dir.path().join(format!("lib/{library}.so")), "").unwrap();
        }
        let installation = Installation { major: 15, version: "15.4".to_owned(), bin: dir.path().join("bin") };
        (dir, installation)
    }
}
