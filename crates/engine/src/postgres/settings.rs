//! The configuration files Pando writes into a tree. Production's own are never used: they may name
//! its archive, its standbys, its secrets (T-10), and sizes that do not fit a clone's machine (T-25).

use std::fmt::Write;
use std::path::Path;

use pando_model::{Profile, SettingChange};

use super::facts::Facts;
use super::install::Installation;
use super::libraries::{self, SESSION, SHARED};
use crate::EngineError;

/// Settings in order; a later one wins, as in PostgreSQL.
#[derive(Debug, Clone, Default)]
pub struct Settings(Vec<(String, String)>);

/// Names the socket of a server without TCP.
pub const SOCKET_PORT: u16 = 5432;

/// Settings of production that mirrors and clones have: what a standby must have at least as large as its primary (T-11), and
/// what texts of data and queries mean.
pub const TAKEN_EVERYWHERE: [&str; 12] = [
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
    "TimeZone",
    "DateStyle",
    "IntervalStyle",
    "default_text_search_config",
    "search_path",
    "bytea_output",
    "track_commit_timestamp",
];

/// Those by which the same statement would come to something else in a clone. Nothing of memory, cost or places.
pub const RESULTS: [&str; 15] = [
    "array_nulls",
    "backslash_quote",
    "default_transaction_deferrable",
    "default_transaction_isolation",
    "extra_float_digits",
    "gin_fuzzy_search_limit",
    "lo_compat_privileges",
    "quote_all_identifiers",
    "row_security",
    "standard_conforming_strings",
    "synchronize_seqscans",
    TIMEZONE_SET,
    "transform_null_equals",
    "xmlbinary",
    "xmloption",
];

/// Names a file; those that come with PostgreSQL are everywhere.
const TIMEZONE_SET: &str = "timezone_abbreviations";
const TIMEZONE_SETS: [&str; 3] = ["Default", "Australia", "India"];

/// How numbers, money and times are written: a server that lacks the locale does not start, so it is left out there.
pub const LOCALES: [&str; 3] = ["lc_monetary", "lc_numeric", "lc_time"];

/// The same of extensions that come with PostgreSQL. A server that has not loaded one yet keeps what is set for it.
pub const OF_EXTENSIONS: [&str; 4] = [
    "pg_trgm.similarity_threshold",
    "pg_trgm.strict_word_similarity_threshold",
    "pg_trgm.word_similarity_threshold",
    "plpgsql.variable_conflict",
];

/// Settings that belong to Pando: a user's `--set` may not touch them.
const OURS: [&str; 24] = [
    "archive_cleanup_command",
    "archive_command",
    "archive_library",
    "archive_mode",
    "config_file",
    "data_directory",
    "external_pid_file",
    "hba_file",
    "ident_file",
    "include",
    "include_dir",
    "include_if_exists",
    "listen_addresses",
    "logging_collector",
    "max_logical_replication_workers",
    "port",
    "primary_conninfo",
    "primary_slot_name",
    "recovery_end_command",
    "recovery_target_action",
    "restore_command",
    "shared_preload_libraries",
    "unix_socket_directories",
    "synchronous_standby_names",
];

impl Settings {
    /// Adds one.
    pub fn set(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.0.push((name.to_owned(), value.into()));
        self
    }

    /// Adds those of production's that are known.
    fn take(&mut self, facts: &Facts, names: &[&str]) -> &mut Self {
        for name in names {
            if let Some(value) = facts.settings.get(*name) {
                self.set(name, value);
            }
        }
        self
    }

    /// Adds what the results of statements depend on.
    fn take_results(&mut self, facts: &Facts, has_locale: impl Fn(&str) -> bool) -> &mut Self {
        let value = |name: &str| facts.settings.get(name).map(String::as_str);
        let strange = value(TIMEZONE_SET).is_some_and(|set| !TIMEZONE_SETS.contains(&set));
        let usual: Vec<&str> = RESULTS.into_iter().filter(|name| !strange || *name != TIMEZONE_SET).collect();
        let locales = LOCALES.into_iter().filter(|name| value(name).is_some_and(&has_locale));
        let locales: Vec<&str> = locales.collect();
        self.take(facts, &usual).take(facts, &locales).take(facts, &OF_EXTENSIONS)
    }

    /// The text of a `postgresql.conf`.
    pub fn text(&self) -> String {
        let mut text = String::from("# Written by Pando; changes are lost. Use `--set name=value`.\n");
        for (name, value) in &self.0 {
            let _ = writeln!(text, "{name} = '{}'", value.replace('\'', "''"));
        }
        text
    }
}

/// What mirrors and clones share: what a standby must have at least as large as its primary (T-11), and
/// what changes the meaning of data or queries.
fn common(facts: &Facts, installation: &Installation, run: &Path) -> Settings {
    let mut settings = everywhere(facts);
    let libraries = libraries::preload(facts, installation, SHARED).0;
    settings.set(SHARED, libraries.join(",")).set("unix_socket_directories", run.to_string_lossy());
    if libraries.iter().any(|name| libraries::bare(name) == "timescaledb") {
        // Its tables need it; its jobs, which change and drop data, do not run without workers (T-17).
        settings.set("timescaledb.max_background_workers", "0");
    }
    settings
}

/// The same, as far as it does not depend on where the server runs.
fn everywhere(facts: &Facts) -> Settings {
    let mut settings = Settings::default();
    settings.take(facts, &TAKEN_EVERYWHERE);
    settings
        .set("lc_messages", "C")
        .set("logging_collector", "off")
        .set("log_destination", "stderr")
        .set("log_line_prefix", "%m [%p] ")
        .set("log_timezone", "UTC")
        .set("archive_mode", "off")
        .set("ssl", "off")
        .set("huge_pages", "off")
        .set("max_logical_replication_workers", "0")
        .set("update_process_title", "off")
        .set("wal_recycle", "off")
        .set("wal_init_zero", "off");
    // Each replication origin of production's needs a place: without one the server does not start.
    let places = |name: &str| {
        facts.settings.get(name).and_then(|count| count.parse::<u32>().ok()).unwrap_or(0).max(10).to_string()
    };
    settings.set("max_replication_slots", places("max_replication_slots"));
    if facts.major >= 18 {
        settings.set("max_active_replication_origins", places("max_active_replication_origins"));
    }
    // At least two segments must fit, however large production chose them.
    let segment = facts.settings.get("wal_segment_size").and_then(|size| size.parse::<u64>().ok()).unwrap_or(0);
    let (least, most) = if segment > 40 << 20 { ("2GB", "4GB") } else { ("80MB", "1GB") };
    settings.set("min_wal_size", least).set("max_wal_size", most);
    settings
}

/// The mirror's settings: a standby that only Pando talks to.
pub fn mirror(facts: &Facts, installation: &Installation, run: &Path, conninfo: &str, slot: Option<&str>) -> Settings {
    let mut settings = common(facts, installation, run);
    settings
        .set("listen_addresses", "")
        .set("port", SOCKET_PORT.to_string())
        .set("shared_buffers", "64MB")
        .set("hot_standby", "on")
        .set("hot_standby_feedback", "off")
        .set("max_standby_streaming_delay", "1s")
        .set("max_standby_archive_delay", "1s")
        .set("primary_conninfo", conninfo)
        .set("primary_slot_name", slot.unwrap_or_default())
        .set("recovery_target_timeline", "latest")
        .set("wal_retrieve_retry_interval", "500ms")
        .set("wal_receiver_status_interval", "1s")
        // Half of it is how long an idle link stays silent before production is asked for a sign of life.
        .set("wal_receiver_timeout", "5s")
        .set("wal_receiver_create_temp_slot", "off");
    settings
}

/// A clone's settings, the user's last.
pub fn clone(
    facts: &Facts,
    installation: &Installation,
    run: &Path,
    port: Option<u16>,
    profile: Profile,
    user: &SettingChange,
) -> Result<Settings, EngineError> {
    let mut settings = common(facts, installation, run);
    settings
        .take_results(facts, |name| facts.has_locale_here(name))
        .set(SESSION, libraries::preload(facts, installation, SESSION).0.join(","))
        .set("listen_addresses", if port.is_some() { "127.0.0.1" } else { "" })
        .set("port", port.unwrap_or(SOCKET_PORT).to_string())
        .set("shared_buffers", "64MB")
        // Not a standby: no connection before the moment is reached, and no demands on sizes (T-11).
        .set("hot_standby", "off")
        .set("password_encryption", "scram-sha-256")
        .set(
            "wal_level",
            if facts.settings.get("wal_level").is_some_and(|l| l == "logical") { "logical" } else { "replica" },
        );
    if profile == Profile::Disposable {
        // Commits stay synchronous: without syncs that costs next to nothing, and what was acknowledged is there
        // after a crash of the server, and in a clone of the clone.
        settings.set("fsync", "off").set("full_page_writes", "off").set("checkpoint_timeout", "30min");
    }
    for (name, value) in user {
        check(name, value)?;
        settings.set(name, value);
    }
    Ok(settings)
}

/// A tree's settings, and more: its server does nothing by itself while an image is made of it, nor writes to the log
/// what depends on how long that takes (the running transactions, each 15 s), so that each time it is the same.
pub fn alone(data: &Path) -> Result<String, EngineError> {
    let action = || "reading a clone's settings".to_owned();
    let text = pando_host::plain::read_text(&data.join("postgresql.conf"))
        .map_err(|source| EngineError::Io { action: action(), source })?;
    Ok(format!("{text}autovacuum = 'off'\nwal_level = 'minimal'\nmax_wal_senders = '0'\n"))
}

/// The settings of a server in a container of the user's: where the official image expects it.
pub fn container(facts: &Facts, profile: Profile, user: &SettingChange) -> Result<Settings, EngineError> {
    let mut settings = everywhere(facts);
    settings
        .take_results(facts, |name| facts.has_locale(name))
        .set(SHARED, libraries::contrib(facts, SHARED))
        .set(SESSION, libraries::contrib(facts, SESSION))
        .set("listen_addresses", "*")
        .set("port", SOCKET_PORT.to_string())
        .set("unix_socket_directories", "/var/run/postgresql")
        .set("password_encryption", "scram-sha-256");
    if profile == Profile::Disposable {
        // Pages stay whole: the tree is snapshotted while a server writes that nobody here can pause.
        settings.set("fsync", "off").set("checkpoint_timeout", "30min");
    }
    for (name, value) in user {
        check(name, value)?;
        settings.set(name, value);
    }
    Ok(settings)
}

/// Who may enter a server in a container: who is inside of it, as in the official image; all others by password.
pub const CONTAINER_DOOR: &str = "# Written by Pando.\nlocal all all trust\nlocal replication all trust\n\
                                  host all all all scram-sha-256\n";

/// Whether a user may set this.
pub fn check(name: &str, value: &str) -> Result<(), EngineError> {
    let plain = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'));
    if !plain {
        return Err(EngineError::Invalid(format!("{name:?} is not the name of a PostgreSQL setting")));
    }
    if OURS.contains(&name.to_lowercase().as_str()) {
        return Err(EngineError::Invalid(format!("the setting {name} belongs to Pando and cannot be changed")));
    }
    if value.contains(['\n', '\r', '\0']) {
        return Err(EngineError::Invalid(format!("the value of {name} has a line break in it")));
    }
    Ok(())
}

/// Who may connect. The socket directory is private to the account. With `open`, the clone's own role may
/// come over loopback: production's passwords are gone by then.
pub fn host_based(open: bool) -> String {
    let mut text = String::from("# Written by Pando.\nlocal all all trust\nlocal replication all trust\n");
    if open {
        text.push_str("host all all 127.0.0.1/32 scram-sha-256\nhost all all ::1/128 scram-sha-256\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_setting_is_checked_and_quoted() {
        assert!(check("work_mem", "64MB").is_ok());
        assert!(check("auto_explain.log_min_duration", "0").is_ok());
        for (name, value) in
            [("archive_command", "x"), ("Listen_Addresses", "*"), ("a b", "1"), ("work_mem", "1\nport=1")]
        {
            assert!(check(name, value).is_err(), "{name}");
        }
        let mut settings = Settings::default();
        settings.set("search_path", "a'b");
        assert!(settings.text().ends_with("search_path = 'a''b'\n"));
    }

    #[test]
    fn the_door_is_closed_until_it_is_opened() {
        assert!(!host_based(false).contains("host "));
        assert!(host_based(true).contains("scram-sha-256"));
    }

    #[test]
    fn production_s_replication_origins_have_their_places() {
        let text = |major: u32, set: &[(&str, &str)]| everywhere(&facts(major, set)).text();
        assert!(text(15, &[("max_replication_slots", "40")]).contains("max_replication_slots = '40'"));
        assert!(text(15, &[("max_replication_slots", "0")]).contains("max_replication_slots = '10'"));
        assert!(!text(17, &[]).contains("max_active_replication_origins"));
        let newer = text(18, &[("max_active_replication_origins", "64")]);
        assert!(newer.contains("max_active_replication_origins = '64'"), "{newer}");
    }

    #[test]
    fn what_results_depend_on_is_production_s_and_a_locale_that_is_not_here_is_left_out() {
        let set = [
            ("transform_null_equals", "on"),
            ("timezone_abbreviations", "Australia"),
            ("lc_time", "xx_YY.UTF-8"),
            ("lc_numeric", "C"),
            ("pg_trgm.similarity_threshold", "0.5"),
        ];
        let text = |set: &[(&str, &str)], locales: &[&str]| {
            let facts = serde_json::json!({
                "major": 17, "locales": locales,
                "settings": set.iter().copied().collect::<std::collections::BTreeMap<_, _>>(),
            });
            let facts = serde_json::from_value(facts).unwrap();
            container(&facts, Profile::Durable, &SettingChange::new()).unwrap().text()
        };
        let plain = text(&set, &["C"]);
        for line in ["transform_null_equals = 'on'", "timezone_abbreviations = 'Australia'", "lc_numeric = 'C'"] {
            assert!(plain.contains(line), "{line}: {plain}");
        }
        assert!(plain.contains("pg_trgm.similarity_threshold = '0.5'") && !plain.contains("lc_time"), "{plain}");
        // A database has it, so whoever serves that one has it.
        assert!(text(&set, &["C", "xx_YY.utf8"]).contains("lc_time = 'xx_YY.UTF-8'"));
        let own = text(&[("timezone_abbreviations", "Ours")], &[]);
        assert!(!own.contains("timezone_abbreviations"), "{own}");
    }

    fn facts(major: u32, settings: &[(&str, &str)]) -> Facts {
        let settings: std::collections::BTreeMap<_, _> = settings.iter().copied().collect();
        serde_json::from_value(serde_json::json!({ "major": major, "settings": settings })).unwrap()
    }
}
