//! What a failed sync leaves of the log.

use super::*;
use crate::redis::aof::DIR;

type Done = Result<(), Box<dyn std::error::Error>>;

fn append(data: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let path = data.join(DIR).join("appendonly.aof.1.incr.aof");
    OpenOptions::new().create(true).append(true).open(path)?.write_all(bytes)
}

/// Only the index cannot be synced.
fn refuses_the_index(file: &File) -> std::io::Result<()> {
    let path = fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(file)))?;
    if path.ends_with("index") { Err(std::io::Error::from_raw_os_error(5)) } else { Ok(()) }
}

#[test]
fn a_record_whose_sync_has_failed_counts_only_once_it_was_written_anew() -> Done {
    let dir = tempfile::tempdir()?;
    let (data, log) = (dir.path().join("data"), dir.path().join("log"));
    fs::create_dir_all(data.join(DIR))?;
    fs::write(
        data.join(DIR).join("appendonly.aof.manifest"),
        "file appendonly.aof.1.base.rdb seq 1 type b\nfile appendonly.aof.1.incr.aof seq 1 type i\n",
    )?;
    append(&data, b"#TS:100\r\n*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n1\r\n")?;
    let tree = Tree { name: "one".to_owned(), after: 0, from: 0 };
    let mut log = AofLog::open(&log);
    let time = |second| Timestamp::from_second(second).unwrap_or_default();
    let look = |log: &AofLog, second| log.advance(&data, &tree, Some(time(second)), true, Some(1));
    let first = look(&log, 101)?.end;
    append(&data, b"#TS:102\r\n*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\n2\r\n")?;
    log.sync_file = refuses_the_index;
    for _ in 0..2 {
        assert!(look(&log, 103).is_err());
        let shown = log.stretches()?;
        assert_eq!((shown[0].last.0, shown[0].through), (first, Some(time(101))), "{shown:?}");
    }
    log.sync_file = File::sync_data;
    let second = look(&log, 104)?.end;
    assert!(second > first);
    assert_eq!(log.stretches()?[0].through, Some(time(104)));
    Ok(())
}

#[test]
fn idle_seconds_are_kept_for_the_next_daemon_and_for_the_next_boot() -> Done {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    fs::create_dir_all(data.join(DIR))?;
    fs::write(data.join(DIR).join("appendonly.aof.manifest"), "file appendonly.aof.1.incr.aof seq 1 type i\n")?;
    append(&data, b"")?;
    let tree = Tree { name: "one".to_owned(), after: 0, from: 0 };
    let log = AofLog::open(&dir.path().join("log"));
    let time = |second| Timestamp::from_second(second).unwrap_or_default();
    log.advance(&data, &tree, Some(time(100)), true, Some(1))?;
    for second in 101..=140 {
        log.note_through(time(second))?;
    }
    // Of two that looked at once, the one that looked first noted last.
    log.note_through(time(139))?;
    drop(log);
    let shown = AofLog::open(&dir.path().join("log")).stretches()?[0].through;
    assert_eq!(shown, Some(time(140)), "the next daemon knows what the last one has shown");
    Ok(())
}
