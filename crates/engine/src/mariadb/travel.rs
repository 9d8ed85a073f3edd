//! A tree that travels: what is taken out of it before it goes, whether this machine can serve one that came, and
//! what of that is not believed.
//!
//! What production's accounts had is not only in a table: Aria's log keeps the rows that were changed. After a clean
//! stop all of it that lies before the last checkpoint's page is needed by nobody, and becomes a hole.
//!
//! What it knows of itself comes from a stranger. Settings are written into an option file, so they must be plain
//! values; a tree must hold files and directories only, and no `.isl`, by which InnoDB would open a file anywhere.
//! That it was shut to production's accounts is not believed either: it is shut again before anybody may enter.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use pando_host::durable;

use super::facts::Facts;
use super::install::Installations;
use super::io;
use super::tree::PREPARED;
use crate::EngineError;

/// What is run on a server that is to be stopped for good: the tables of accounts and of other servers are made anew
/// without what was in their rows before, and so much is logged behind it that none of it is in the log's last page.
pub const FORGET: [&str; 5] = [
    "ALTER TABLE mysql.global_priv FORCE",
    "ALTER TABLE mysql.servers FORCE",
    "CREATE OR REPLACE TABLE mysql.pando_forget (t LONGBLOB) ENGINE = Aria TRANSACTIONAL = 1",
    "INSERT INTO mysql.pando_forget VALUES (REPEAT('x', 40000))",
    "DROP TABLE mysql.pando_forget",
];

/// A page of Aria's log.
const PAGE: u64 = 8192;

/// Of the log of a tree that was stopped cleanly only the page of the last checkpoint stays, and the first, which
/// says what file it is. Answers whether it could be read.
pub fn forget(data: &Path) -> Result<bool, EngineError> {
    let action = io("clearing the log of a tree");
    let Some((number, offset)) = checkpoint(&fs::read(data.join("aria_log_control")).map_err(&action)?) else {
        return Ok(false);
    };
    for entry in fs::read_dir(data).map_err(&action)? {
        let entry = entry.map_err(&action)?;
        let name = entry.file_name();
        let of = name.to_str().and_then(|name| name.strip_prefix("aria_log.")).and_then(|end| end.parse::<u32>().ok());
        match of {
            Some(of) if of < number => fs::remove_file(entry.path()).map_err(&action)?,
            Some(of) if of == number => {
                let file = File::options().read(true).write(true).open(entry.path()).map_err(&action)?;
                let zeros = [0; PAGE as usize];
                for page in 1..u64::from(offset) / PAGE {
                    file.write_all_at(&zeros, page * PAGE).map_err(&action)?;
                }
            }
            _ => {}
        }
    }
    Ok(true)
}

/// The file and the place in it of the last checkpoint, from a control file as all versions have written it.
fn checkpoint(control: &[u8]) -> Option<(u32, u32)> {
    const MAGIC: [u8; 4] = [0xfe, 0xfe, 0x0c, 0x01];
    let number = |at: usize, length: usize| {
        let bytes = control.get(at..at + length)?;
        Some(bytes.iter().rev().fold(0_u32, |sum, byte| sum << 8 | u32::from(*byte)))
    };
    // Magic, the tree's name, the length of what never changes and of what does, the size of a block.
    let known = control.starts_with(&MAGIC) && number(20, 2)? == 30 && u64::from(number(24, 2)?) == PAGE;
    known.then(|| Some((number(34, 3)?, number(37, 4)?))).flatten()
}

/// Whether a tree with these facts can be served here.
pub fn fits(installations: &Installations, facts: &Facts) -> Result<(), EngineError> {
    let texts = facts.settings.iter().flat_map(|(name, value)| [name, value]).chain([&facts.version, &facts.role]);
    let strange = |text: &&String| text.len() > 1000 || text.contains(char::is_control);
    if let Some(text) = texts.chain(&facts.rights).find(strange) {
        let shown: String = text.chars().take(80).collect();
        return Err(EngineError::Invalid(format!("{shown:?} is no setting")));
    }
    installations.of(facts.series).map(drop)
}

/// Looks at a tree that came from elsewhere.
pub fn receive(data: &Path) -> Result<(), EngineError> {
    let refuse = |what: String| Err(EngineError::Invalid(format!("this is not a MariaDB tree: {what}")));
    for file in ["ibdata1", "ib_logfile0", "aria_log_control"] {
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
        plain(&entry, kind.is_dir() || kind.is_file())?;
        if kind.is_dir() {
            for inner in fs::read_dir(entry.path()).map_err(io("reading a tree"))? {
                let inner = inner.map_err(io("reading a tree"))?;
                plain(&inner, inner.file_type().map_err(io("reading a tree"))?.is_file())?;
            }
        }
    }
    durable::remove_if_there(&data.join(PREPARED)).map(drop).map_err(io("reading a tree's mark"))
}

fn plain(entry: &fs::DirEntry, expected: bool) -> Result<(), EngineError> {
    let name = entry.file_name();
    if !expected || Path::new(&name).extension().is_some_and(|end| end.eq_ignore_ascii_case("isl")) {
        return Err(EngineError::Invalid(format!("this is not a MariaDB tree: {name:?} does not belong into one")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        for file in ["ibdata1", "ib_logfile0", "aria_log_control", PREPARED] {
            fs::write(dir.path().join(file), "x").expect("a file");
        }
        for name in ["mysql", "blog", "pando.replay"] {
            fs::create_dir(dir.path().join(name)).expect("a directory");
        }
        fs::write(dir.path().join("blog/t.ibd"), "x").expect("a file");
        dir
    }

    #[test]
    fn m16_of_the_log_before_the_last_checkpoint_nothing_stays() {
        let dir = tree();
        // As a server left it: file 2, byte 24680 (in the fourth page).
        let mut control = b"\xfe\xfe\x0c\x01................\x1e\x00\x16\x00\x00\x20csumcsum".to_vec();
        control.extend([2, 0, 0, 0x68, 0x60, 0, 0, 2, 0, 0, 0, 250, 0, 0, 0, 0, 0, 0]);
        fs::write(dir.path().join("aria_log_control"), &control).expect("a file");
        let log: Vec<u8> = (1..=5).flat_map(|page| vec![page; PAGE as usize]).collect();
        for name in ["aria_log.00000001", "aria_log.00000002"] {
            fs::write(dir.path().join(name), &log).expect("a file");
        }
        assert!(forget(dir.path()).expect("a log"));
        assert!(!dir.path().join("aria_log.00000001").exists());
        let left = fs::read(dir.path().join("aria_log.00000002")).expect("a file");
        let pages: Vec<u8> = left.chunks(PAGE as usize).map(|page| page[0]).collect();
        assert_eq!((pages, left.len()), (vec![1, 0, 0, 4, 5], log.len()));
        control[24] = 1;
        fs::write(dir.path().join("aria_log_control"), &control).expect("a file");
        assert!(!forget(dir.path()).expect("a log"), "pages of another size are left alone");
    }

    #[test]
    fn m16_what_a_tree_says_of_itself_is_taken_away() {
        let dir = tree();
        receive(dir.path()).expect("a good tree");
        assert!(!dir.path().join(PREPARED).exists(), "its accounts count as open");
    }

    #[test]
    fn m14_what_leads_out_of_a_tree_is_refused() {
        for (name, link) in [("blog/x.isl", false), ("blog/x.ISL", false), ("blog/t.MYD", true), ("other", true)] {
            let dir = tree();
            let path = dir.path().join(name);
            if link {
                std::os::unix::fs::symlink("../ibdata1", &path).expect("a link");
            } else {
                fs::write(&path, "/etc/shadow").expect("a file");
            }
            assert!(receive(dir.path()).is_err_and(|error| error.to_string().contains("does not belong")), "{name}");
        }
        let dir = tree();
        fs::create_dir(dir.path().join("blog/inner")).expect("a directory");
        assert!(receive(dir.path()).is_err());
        for missing in ["ibdata1", "aria_log_control"] {
            let dir = tree();
            fs::remove_file(dir.path().join(missing)).expect("removing a file");
            assert!(receive(dir.path()).is_err(), "{missing}");
        }
    }

    #[test]
    fn facts_of_a_stranger_are_plain_values() {
        let with = |value: &str| {
            let mut facts = Facts { series: (10, 11), ..Facts::default() };
            facts.settings.insert("sql_mode".to_owned(), value.to_owned());
            fits(&Installations::default(), &facts).expect_err("no server is installed here").to_string()
        };
        assert!(with("STRICT_ALL_TABLES").contains("10.11 is needed here"));
        assert!(with("x\nplugin_load=evil").contains("is no setting"));
    }
}
