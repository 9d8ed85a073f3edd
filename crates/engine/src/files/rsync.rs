//! rsync: the one place that knows its flags, its exit codes and what it prints.

use std::path::Path;

use pando_host::{Tool, ToolError};

use crate::Verdict;

/// What an exit code means. In a live directory files come and go under the copy's hands. 24: some were gone
/// when it was their turn; all the rest is as it should be. 23: errors; where a file went between being found
/// and its attributes being read, rsync reports that as one, and deletes nothing in this run.
pub fn verdict(code: i32, log: &str) -> Verdict {
    match code {
        0 | 24 => Verdict::Done,
        23 if log.contains("No such file or directory (2)") || log.contains("file has vanished") => Verdict::Again,
        _ => Verdict::Failed,
    }
}

/// The program.
pub fn find() -> Result<Tool, ToolError> {
    Tool::find("rsync", "rsync")
}

/// Its version, such as `3.2.7`.
pub fn version(tool: &Tool) -> Result<String, ToolError> {
    Ok(parse_version(&tool.command().arg("--version").run()?.text()).unwrap_or_else(|| "of unknown version".to_owned()))
}

pub fn parse_version(text: &str) -> Option<String> {
    let (_, rest) = text.lines().next()?.split_once("version ")?;
    Some(rest.split_whitespace().next()?.trim_start_matches('v').to_owned())
}

/// Whether a version lacks `--inplace` together with `--sparse`.
pub fn too_old(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
    match (parts.next().flatten(), parts.next().flatten(), parts.next().flatten()) {
        (Some(major), Some(minor), patch) => (major, minor, patch.unwrap_or(0)) < (3, 1, 3),
        _ => false,
    }
}

/// The flags of a copy that is exact, in place, and shares what did not change. `first`: of one that has
/// nothing to share yet.
pub fn flags(root: bool, first: bool) -> Vec<String> {
    let mut flags = vec![
        "--archive",
        "--hard-links",
        // Ids, not names: the same name may be another user here.
        "--numeric-ids",
        // A device file made by production would open a device of this machine.
        "--no-devices",
        // Rewriting a file whole would end the sharing of its blocks with every snapshot.
        "--inplace",
        "--no-whole-file",
        "--partial",
        // The mirror is production without the excluded files, also where a pattern was added later.
        "--delete",
        "--delete-excluded",
        // Compare times to the nanosecond: a file written twice in one second has changed.
        "--modify-window=-1",
        // Remote paths are no shell words.
        "--protect-args",
        "--info=progress2",
        "--no-human-readable",
    ];
    if first {
        // On an update it would write all zeros again; see `holes`.
        flags.push("--sparse");
    }
    if root {
        // btrfs shows its compression property as an attribute that no other file system takes; rules of
        // one's own replace rsync's, which leave out `system.` (ACLs travel by --acls). `sr`: on both sides,
        // or with --delete-excluded the receiver takes an ACL for an attribute that production has not.
        flags.extend(["--acls", "--xattrs", "--filter=-xsr btrfs.*", "--filter=-xsr system.*"]);
    } else {
        // In place means opening the copy for writing, which a mode such as 0444 forbids all but root.
        flags.push("--chmod=Du+rwx,Fu+rw");
    }
    flags.into_iter().map(str::to_owned).collect()
}

/// Bytes done and in all, from the last line of `--info=progress2`:
/// `3288334336  97%  388.07MB/s    0:00:08 (xfr#2, to-chk=1/10)`.
pub fn progress(log: &str) -> Option<(u64, Option<u64>)> {
    log.rsplit(['\r', '\n']).find_map(|line| {
        let mut words = line.split_whitespace();
        let done: u64 = words.next()?.parse().ok()?;
        let percent: u64 = words.next()?.strip_suffix('%')?.parse().ok()?;
        // While files are still being found (`ir-chk`) the percentage is of what is known so far; and a whole
        // percentage says little about the total as long as it is small.
        let total = (percent >= 5 && line.contains("to-chk=")).then(|| done.saturating_mul(100) / percent);
        Some((done, total))
    })
}

/// The first line in which rsync says what went wrong, from a unit's log.
pub fn first_error(log: &str) -> Option<&str> {
    let lines = || log.split(['\r', '\n']).map(str::trim);
    let cause = lines().find(|line| line.starts_with("rsync: ") || line.contains(": rsync: "));
    cause.or_else(|| lines().find(|line| line.starts_with("rsync error: ")))
}

/// A listing of one directory without its entries: is it there, and may we read it?
pub fn probe(command: pando_host::ToolCommand, shell: &str, from: &str) -> pando_host::ToolCommand {
    command.args(["--list-only", "--dirs", "--exclude=*", "--protect-args", "-e", shell, "--", from])
}

/// A local path as the argument that means "what is in it".
pub fn inside(path: &Path) -> String {
    format!("{}/", path.display().to_string().trim_end_matches('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_old_ones_known() {
        let text = "rsync  version v3.2.7  protocol version 31\nCopyright";
        assert_eq!(parse_version(text).as_deref(), Some("3.2.7"));
        assert_eq!(parse_version("rsync  version 3.5.0  protocol version 32").as_deref(), Some("3.5.0"));
        assert!(too_old("3.1.2") && too_old("2.6.9") && !too_old("3.1.3") && !too_old("3.2") && !too_old("4.0.0"));
    }

    #[test]
    fn files_that_went_are_no_failure() {
        let gone = "rsync: [sender] get_xattr_names: llistxattr(\"/a/b\",1024) failed: No such file or directory (2)\n";
        let denied = "rsync: [sender] send_files failed to open \"/a/b\": Permission denied (13)\n";
        assert_eq!((verdict(0, ""), verdict(24, gone)), (Verdict::Done, Verdict::Done));
        assert_eq!((verdict(23, gone), verdict(23, denied)), (Verdict::Again, Verdict::Failed));
        assert_eq!(verdict(12, gone), Verdict::Failed);
    }

    #[test]
    fn progress_is_read_from_the_last_line() {
        let log = "         65536   0%    0.00kB/s    0:00:00  \r   3288334336  97%  388.07MB/s    0:00:08 (xfr#2, to-chk=1/10)\n";
        assert_eq!(progress(log), Some((3_288_334_336, Some(3_390_035_397))));
        assert_eq!(progress("  4096  50%    1.00kB/s    0:00:00 (xfr#1, ir-chk=1/10)\r"), Some((4096, None)));
        assert_eq!(progress("rsync: nothing yet"), None);
        assert_eq!(progress(""), None);
    }

    #[test]
    fn the_first_error_is_the_cause_not_the_summary() {
        let log = "  0   0%\rrsync: [sender] send_files failed to open \"/a/b\": Permission denied (13)\n\
                   rsync error: some files/attrs were not transferred (code 23) at main.c(1338) [sender=3.2.7]\n";
        assert!(first_error(log).is_some_and(|line| line.contains("Permission denied")));
        assert_eq!(first_error("all well"), None);
    }
}
