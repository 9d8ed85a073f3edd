//! A tree that travels: whether this machine can serve one that came, and what of that is not believed.
//!
//! What it knows of itself comes from a stranger. Settings are written into an option file, so they must be plain
//! values; a tree must hold files and directories only, and no `.isl`, by which InnoDB would open a file anywhere. Where
//! else its files lead to nobody can see from here, and its server is confined for that. That it was shut to
//! production's accounts is not believed either: it is shut again before anybody may enter.

use std::fs;
use std::path::Path;

use pando_host::durable;

use super::facts::Facts;
use super::flavor::Flavor;
use super::install::Installations;
use super::io;
use super::tree::PREPARED;
use super::zone;
use crate::EngineError;

/// Whether a tree with these facts can be served here.
pub fn fits(installations: &Installations, facts: &Facts) -> Result<(), EngineError> {
    plain(facts)?;
    if let Some(zone) = facts.zone.as_ref().filter(|zone| !zone::is_known(zone)) {
        return Err(EngineError::Invalid(format!("this machine does not know the time zone {zone} of production's")));
    }
    installations.of(facts.series()).map(drop)
}

/// Whether facts are values that may be written into an option file.
pub fn plain(facts: &Facts) -> Result<(), EngineError> {
    let texts = facts
        .settings
        .iter()
        .flat_map(|(name, value)| [name, value])
        .chain([&facts.version, &facts.role])
        .chain(&facts.zone);
    let strange = |text: &&String| text.len() > 1000 || text.contains(char::is_control);
    if let Some(text) = texts.chain(&facts.rights).find(strange) {
        let shown: String = text.chars().take(80).collect();
        return Err(EngineError::Invalid(format!("{shown:?} is no setting")));
    }
    Ok(())
}

/// Looks at a tree that came from elsewhere.
pub fn receive<F: Flavor>(data: &Path) -> Result<(), EngineError> {
    let refuse = |what: String| Err(EngineError::Invalid(format!("this is not a {} tree: {what}", F::PROGRAMS.make)));
    for file in F::TREE {
        if !fs::symlink_metadata(data.join(file)).is_ok_and(|meta| meta.is_file()) {
            return refuse(format!("{file} is missing"));
        }
    }
    if !fs::symlink_metadata(data.join("mysql")).is_ok_and(|meta| meta.is_dir()) {
        return refuse("the database mysql is missing".to_owned());
    }
    // Databases are directories, and have none below them.
    for entry in fs::read_dir(data).map_err(io("reading a tree"))? {
        let entry = entry.map_err(io("reading a tree"))?;
        let kind = entry.file_type().map_err(io("reading a tree"))?;
        belongs(&entry, kind.is_dir() || kind.is_file())?;
        // Keys that a stranger knows: the server makes its own.
        if Path::new(&entry.file_name()).extension().is_some_and(|end| end == "pem") && kind.is_file() {
            fs::remove_file(entry.path()).map_err(io("removing a stranger's keys"))?;
        }
        if kind.is_dir() {
            for inner in fs::read_dir(entry.path()).map_err(io("reading a tree"))? {
                let inner = inner.map_err(io("reading a tree"))?;
                belongs(&inner, inner.file_type().map_err(io("reading a tree"))?.is_file())?;
            }
        }
    }
    durable::remove_if_there(&data.join(PREPARED)).map(drop).map_err(io("reading a tree's mark"))
}

fn belongs(entry: &fs::DirEntry, expected: bool) -> Result<(), EngineError> {
    let name = entry.file_name();
    if !expected || Path::new(&name).extension().is_some_and(|end| end.eq_ignore_ascii_case("isl")) {
        return Err(EngineError::Invalid(format!("{name:?} does not belong into a server's tree")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mariadb::Mariadb;
    use crate::mysql::Mysql;

    fn tree<F: Flavor>() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        for file in F::TREE.iter().chain(&[PREPARED]) {
            fs::write(dir.path().join(file), "x").expect("a file");
        }
        fs::write(dir.path().join("server-key.pem"), "x").expect("a file");
        for name in ["mysql", "blog", "pando.replay"] {
            fs::create_dir(dir.path().join(name)).expect("a directory");
        }
        fs::write(dir.path().join("blog/t.ibd"), "x").expect("a file");
        dir
    }

    #[test]
    fn m16_what_a_tree_says_of_itself_is_taken_away() {
        for (dir, looked) in
            [(tree::<Mariadb>(), receive::<Mariadb> as fn(&Path) -> _), (tree::<Mysql>(), receive::<Mysql>)]
        {
            looked(dir.path()).expect("a good tree");
            assert!(!dir.path().join(PREPARED).exists(), "its accounts count as open");
            assert!(!dir.path().join("server-key.pem").exists(), "its keys are known to whoever sent them");
        }
    }

    #[test]
    fn m14_what_leads_out_of_a_tree_is_refused() {
        for (name, link) in [("blog/x.isl", false), ("blog/x.ISL", false), ("blog/t.MYD", true), ("other", true)] {
            let dir = tree::<Mariadb>();
            let path = dir.path().join(name);
            if link {
                std::os::unix::fs::symlink("../ibdata1", &path).expect("a link");
            } else {
                fs::write(&path, "/etc/shadow").expect("a file");
            }
            let refused = receive::<Mariadb>(dir.path());
            assert!(refused.is_err_and(|error| error.to_string().contains("does not belong")), "{name}");
        }
        let dir = tree::<Mariadb>();
        fs::create_dir(dir.path().join("blog/inner")).expect("a directory");
        assert!(receive::<Mariadb>(dir.path()).is_err());
        for missing in ["ibdata1", "aria_log_control"] {
            let dir = tree::<Mariadb>();
            fs::remove_file(dir.path().join(missing)).expect("removing a file");
            assert!(receive::<Mariadb>(dir.path()).is_err(), "{missing}");
        }
        assert!(receive::<Mysql>(tree::<Mariadb>().path()).is_err_and(|error| error.to_string().contains("mysql.ibd")));
    }

    #[test]
    fn facts_of_a_stranger_are_plain_values() {
        let none = Installations::none(&Mariadb::PROGRAMS);
        let with = |value: &str| {
            let mut facts = Facts { version: "10.11.19-MariaDB".to_owned(), ..Facts::default() };
            facts.settings.insert("sql_mode".to_owned(), value.to_owned());
            fits(&none, &facts).expect_err("no server is installed here").to_string()
        };
        assert!(with("STRICT_ALL_TABLES").contains("10.11 is needed here"));
        assert!(with("x\nplugin_load=evil").contains("is no setting"));
        let zone = |name: &str| Facts { zone: Some(name.to_owned()), ..Facts::default() };
        let refused = |name| fits(&none, &zone(name)).expect_err("no such zone").to_string();
        assert!(refused(":/etc/localtime").contains("does not know the time zone"));
        assert!(refused("Europe\n").contains("is no setting"));
    }
}
