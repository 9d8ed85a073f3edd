//! What production's accounts had is not only in a table: Aria's log keeps the rows that were changed. After a clean
//! stop all of it that lies before the last checkpoint's page is needed by nobody, and becomes a hole.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use pando_host::plain;

use crate::EngineError;
use crate::mysql_family::io;

/// What is run on a server that is to be stopped for good: the tables of accounts and of other servers are made anew
/// without what was in their rows before, and so much is logged behind it that none of it is in the log's last page.
pub const FORGET: &[&str] = &[
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
    let Some((number, offset)) = checkpoint(&plain::read(&data.join("aria_log_control")).map_err(&action)?) else {
        return Ok(false);
    };
    for entry in fs::read_dir(data).map_err(&action)? {
        let entry = entry.map_err(&action)?;
        let name = entry.file_name();
        let of = name.to_str().and_then(|name| name.strip_prefix("aria_log.")).and_then(|end| end.parse::<u32>().ok());
        match of {
            Some(of) if of < number => fs::remove_file(entry.path()).map_err(&action)?,
            Some(of) if of == number => {
                let file = plain::edit(&entry.path()).map_err(&action)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m16_of_the_log_before_the_last_checkpoint_nothing_stays() {
        let dir = tempfile::tempdir().expect("a directory");
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
        let outside = dir.path().join("outside");
        fs::rename(dir.path().join("aria_log.00000002"), &outside).expect("moved");
        fs::write(&outside, &log).expect("a file");
        std::os::unix::fs::symlink(&outside, dir.path().join("aria_log.00000002")).expect("a link");
        assert!(forget(dir.path()).is_err() && fs::read(&outside).expect("a file") == log, "a link leads nowhere");
        control[24] = 1;
        fs::write(dir.path().join("aria_log_control"), &control).expect("a file");
        assert!(!forget(dir.path()).expect("a log"), "pages of another size are left alone");
    }
}
