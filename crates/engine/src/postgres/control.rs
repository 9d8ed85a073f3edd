//! What `pg_controldata` says of a tree that may not be running.

use std::collections::BTreeMap;
use std::path::Path;

use pando_host::Account;
use pando_model::Lsn;

use super::install::Installation;
use crate::EngineError;

/// The control file's content, as far as it is needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// Where replay of this tree begins.
    pub redo: Lsn,
    /// The timeline of its last checkpoint.
    pub timeline: u32,
    /// Where a standby's tree becomes consistent; zero for a primary's.
    pub minimum: Lsn,
    /// The timeline that belongs to `minimum`; zero for a primary's.
    pub minimum_timeline: u32,
    /// The last checkpoint itself.
    pub checkpoint: Lsn,
    /// `in production`, `shut down`, `in archive recovery`, …
    pub state: String,
    /// Bytes of a log segment: a power of two, from 1 MB to 1 GB.
    pub segment: u64,
    /// The sizes that a standby must have at least (T-11).
    pub sizes: BTreeMap<String, u64>,
}

impl Control {
    /// The file name of the log segment that holds the last checkpoint.
    pub fn checkpoint_segment(&self) -> String {
        let number = self.checkpoint.0 / self.segment;
        let per_id = (1 << 32) / self.segment;
        format!("{:08X}{:08X}{:08X}", self.timeline, number / per_id, number % per_id)
    }
}

/// Reads a tree's control file.
pub fn read(installation: &Installation, account: Option<&Account>, data: &Path) -> Result<Control, EngineError> {
    let action = || "reading the control file of a PostgreSQL tree".to_owned();
    let finished = installation
        .tool("pg_controldata")?
        .command()
        .arg("--pgdata")
        .arg(data)
        .account(account)
        .run()
        .map_err(|source| EngineError::Tool { action: action(), source })?;
    parse(&finished.text()).ok_or_else(|| EngineError::Invalid(format!("{}: something is missing in it", action())))
}

pub(super) fn parse(text: &str) -> Option<Control> {
    let fields: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.split_once(':')).map(|(name, value)| (name.trim(), value.trim())).collect();
    let sizes = fields
        .iter()
        .filter_map(|(name, value)| {
            let name =
                name.strip_suffix(" setting")?.replace("_xacts", "_transactions").replace("_xact", "_transaction");
            Some((name, value.parse().ok()?))
        })
        .collect();
    // A damaged file is printed too, with a warning. What is calculated with must be what it can be.
    let sizes_of_segments = (1 << 20)..=(1 << 30);
    let segment = fields.get("Bytes per WAL segment")?.parse().ok();
    let segment = segment.filter(|bytes: &u64| bytes.is_power_of_two() && sizes_of_segments.contains(bytes))?;
    Some(Control {
        redo: fields.get("Latest checkpoint's REDO location")?.parse().ok()?,
        timeline: fields.get("Latest checkpoint's TimeLineID")?.parse().ok()?,
        minimum: fields.get("Minimum recovery ending location")?.parse().ok()?,
        minimum_timeline: fields.get("Min recovery ending loc's timeline")?.parse().ok()?,
        checkpoint: fields.get("Latest checkpoint location")?.parse().ok()?,
        state: (*fields.get("Database cluster state")?).to_owned(),
        segment,
        sizes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORDED: &str = "\
pg_control version number:            1300
Database cluster state:               in archive recovery
Latest checkpoint location:           0/3000060
Latest checkpoint's REDO location:    0/3000028
Latest checkpoint's TimeLineID:       1
Minimum recovery ending location:     0/3000110
Min recovery ending loc's timeline:   1
wal_level setting:                    replica
max_connections setting:              100
max_locks_per_xact setting:           64
Bytes per WAL segment:                16777216
";

    #[test]
    fn recorded_output_is_read() {
        let control = parse(RECORDED).expect("a control file");
        assert_eq!((control.redo, control.minimum), (Lsn(0x300_0028), Lsn(0x300_0110)));
        assert_eq!(control.sizes.get("max_connections"), Some(&100));
        assert_eq!(control.sizes.get("max_locks_per_transaction"), Some(&64));
        assert_eq!(control.checkpoint_segment(), "000000010000000000000003");
        assert_eq!(parse("nonsense"), None);
        // Of a damaged file: nothing is calculated with it.
        for bytes in ["0", "1", "16777217", "8589934592"] {
            assert_eq!(parse(&RECORDED.replace("16777216", bytes)), None, "{bytes}");
        }
    }
}
