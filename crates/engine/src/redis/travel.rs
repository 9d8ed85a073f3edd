//! A tree that came from elsewhere: whether this machine can serve it, and what of it is not believed.
//!
//! What it knows of itself comes from a stranger, and is written into a server's configuration: so only settings that
//! preflight would have noted, with plain values. Of the tree only what its list of files names is kept.

use std::fs;
use std::path::Path;

use super::aof::{self, Manifest};
use super::facts::{Facts, SHARED};
use super::install::Installations;
use super::{io, tree};
use crate::EngineError;

/// A server makes room for each of its databases before anything is in them.
const MOST_DATABASES: u32 = 100_000;

/// Whether a tree with these facts can be served here.
pub fn fits(installations: &Installations, facts: &Facts) -> Result<(), EngineError> {
    let strange = |(name, value): &(&String, &String)| {
        !SHARED.contains(&name.as_str()) || value.len() > 1000 || value.contains(char::is_control)
    };
    if let Some((name, value)) = facts.settings.iter().find(strange) {
        let shown: String = value.chars().take(80).collect();
        return Err(EngineError::Invalid(format!("{name:?} = {shown:?} is no setting of a clone")));
    }
    if facts.databases == 0 || facts.databases > MOST_DATABASES || facts.exact.contains(char::is_control) {
        return Err(EngineError::Invalid(format!("no Redis has {} databases", facts.databases)));
    }
    installations.for_production(facts.version).map(drop)
}

/// Looks at a tree that came from elsewhere.
pub fn receive(data: &Path) -> Result<(), EngineError> {
    let refuse = |what: String| Err(EngineError::Invalid(format!("this is not a Redis tree: {what}")));
    if !fs::symlink_metadata(data.join(aof::DIR)).is_ok_and(|meta| meta.is_dir()) {
        return refuse(format!("{} is missing", aof::DIR));
    }
    let listed = fs::symlink_metadata(Manifest::path(data)).is_ok_and(|meta| meta.is_file());
    let Some(manifest) = listed.then(|| Manifest::read(data)).transpose()?.flatten() else {
        return refuse("the list of its files is missing".to_owned());
    };
    for part in &manifest.0 {
        // Only the names that servers give: each lies beside the list.
        let named = part.name.starts_with("appendonly.aof.") && !part.name.contains('/');
        if !named || !fs::symlink_metadata(aof::file(data, part)).is_ok_and(|meta| meta.is_file()) {
            return refuse(format!("{:?} is no file of it", part.name));
        }
    }
    // Users, settings and marks of another home: what is not data goes.
    tree::clean(data).map(drop)?;
    match tree::moment(data) {
        Some(_) => Ok(()),
        None => pando_host::durable::remove_if_there(&data.join(tree::MOMENT)).map(drop).map_err(io("reading a tree")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(list: &str, files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join(aof::DIR)).expect("a directory");
        fs::write(Manifest::path(dir.path()), list).expect("a list");
        for file in files {
            fs::write(dir.path().join(file), "x").expect("a file");
        }
        dir
    }

    const GOOD: &str = "file appendonly.aof.1.base.rdb seq 1 type b\n";

    #[test]
    fn r07_what_is_not_data_is_taken_away() {
        let base = "appendonlydir/appendonly.aof.1.base.rdb";
        let dir = made(GOOD, &[base, "pando.users", "pando.conf", "pando.stretch", "pando.moment", "dump.rdb"]);
        receive(dir.path()).expect("a good tree");
        let mut left: Vec<_> =
            fs::read_dir(dir.path()).expect("its files").flatten().map(|one| one.file_name()).collect();
        left.sort();
        assert_eq!(left, [aof::DIR], "its moment was none");
        assert!(dir.path().join(base).exists());
    }

    #[test]
    fn lists_that_lead_elsewhere_are_refused() {
        for name in ["..", "../../etc/passwd", "other", "appendonly.aof.1.incr.aof"] {
            let dir = made(&format!("file {name} seq 1 type i\n"), &[]);
            assert!(receive(dir.path()).is_err(), "{name}");
        }
        let dir = made(GOOD, &[]);
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("appendonlydir/appendonly.aof.1.base.rdb"))
            .expect("a link");
        assert!(receive(dir.path()).is_err());
        assert!(receive(tempfile::tempdir().expect("a directory").path()).is_err());
    }

    #[test]
    fn facts_of_a_stranger_are_plain_values() {
        let with = |name: &str, value: &str, databases: u32| {
            let facts = serde_json::json!({
                "version": { "family": "redis", "number": [7, 0] }, "databases": databases, "settings": { name: value },
            });
            let facts: Facts = serde_json::from_value(facts).expect("facts");
            fits(&Installations::default(), &facts).expect_err("no server is installed here").to_string()
        };
        assert!(with("maxmemory", "0", 16).contains("cannot read its data"));
        for (name, value) in [("loadmodule", "/tmp/evil.so"), ("maxmemory", "1\nloadmodule /tmp/evil.so")] {
            assert!(with(name, value, 16).contains("is no setting"), "{name}");
        }
        assert!(with("maxmemory", "0", 4_000_000_000).contains("databases"));
    }
}
