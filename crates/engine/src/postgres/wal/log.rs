//! The log of one mirror or recording clone: its epochs, and the calls from outside.
//!
//! ```text
//! LOG/epoch-<n>/live/        what pg_receivewal writes (its directory, its account); history files stay here
//!               segments/    complete segments, compressed; ours alone
//!               index        one entry for each of them
//!               meta.json    segment size, system identifier, version
//!               reach        the end of the log at the last look, and until when it is complete by production's clock
//! ```
//!
//! Keep one `WalLog` for a directory as long as possible: it remembers what it has read. Only one may
//! [`advance`](WalLog::advance), [`trim`](WalLog::trim) and begin epochs; any number may read beside it.
//!
//! # Crash consistency
//! An epoch appears whole, by a rename. Trimming takes entries out of the index first and files afterwards;
//! what a crash leaves is removed by the next trim. See `epoch.rs` for taking in, `reach.rs` for `reach`.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use pando_host::{Account, durable};
use pando_model::Lsn;

use super::bring::has_history;
use super::epoch::{Epoch, io_error};
use super::store::disk_bytes;
use crate::{EngineError, Point, Stretch, Want};

/// How far a log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// The end of the last valid record; 0: there is none yet.
    pub end: Lsn,
    /// Its timeline.
    pub timeline: u32,
    /// The time of the last commit or abort.
    pub last_commit: Option<Timestamp>,
    /// Whether something came since the last call.
    pub changed: bool,
}

/// A log on disk.
#[derive(Debug)]
pub struct WalLog {
    dir: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    epochs: BTreeMap<u32, Epoch>,
    last: Progress,
}

/// What is done when something goes wrong with `reach`.
const REACH: &str = "keeping how far the log is complete";

impl WalLog {
    /// Opens the log in a directory, which is made if it is not there.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(dir: &Path) -> Result<Self, EngineError> {
        let make = || {
            if !dir.is_dir() {
                fs::create_dir_all(dir)?;
                fs::set_permissions(dir, Permissions::from_mode(0o711))?;
            }
            Ok(())
        };
        make().map_err(io_error(format!("making the log {}", dir.display())))?;
        Ok(Self { dir: dir.to_owned(), state: Mutex::default() })
    }

    /// Begins a new stretch. Its `live/` belongs to the account that `pg_receivewal` runs as, who must be
    /// able to reach it.
    ///
    /// # Errors
    /// When the directories cannot be made.
    pub fn begin_epoch(&self, owner: Option<&Account>) -> Result<u32, EngineError> {
        let make = || {
            let epoch = self.numbers()?.last().map_or(1, |last| last + 1);
            let hidden = self.dir.join(".epoch.tmp");
            durable::remove_tree_if_there(&hidden)?;
            for (path, mode) in
                [(hidden.clone(), 0o711), (hidden.join("segments"), 0o700), (hidden.join("live"), 0o700)]
            {
                fs::create_dir(&path)?;
                fs::set_permissions(&path, Permissions::from_mode(mode))?;
            }
            if let Some(owner) = owner.filter(|_| Account::is_root()) {
                chown(hidden.join("live"), Some(owner.uid), Some(owner.gid))?;
            }
            durable::sync_dir(&hidden)?;
            fs::rename(&hidden, self.epoch_dir(epoch))?;
            durable::sync_dir(&self.dir)?;
            Ok(epoch)
        };
        make().map_err(io_error(format!("beginning a new stretch of the log in {}", self.dir.display())))
    }

    /// The newest epoch.
    pub fn current_epoch(&self) -> Option<u32> {
        self.numbers().ok()?.last().copied()
    }

    /// The directory for `pg_receivewal -D`.
    pub fn live_dir(&self, epoch: u32) -> PathBuf {
        self.epoch_dir(epoch).join("live")
    }

    /// To be called before each start of `pg_receivewal`, while it does not run: removes what it would
    /// stumble over (T-21).
    ///
    /// # Errors
    /// When the directory cannot be read or changed.
    pub fn mend_live(&self, epoch: u32) -> Result<(), EngineError> {
        self.with(epoch, |epoch| epoch.mend())
    }

    /// Takes in what `pg_receivewal` has written to the current epoch.
    ///
    /// # Errors
    /// When there is no epoch, the disk fails, or the log is damaged; what lies before the damage stays usable.
    pub fn advance(&self) -> Result<Progress, EngineError> {
        let number = self.current_epoch().ok_or_else(|| EngineError::Invalid("the log has not begun yet".into()))?;
        let mut state = self.lock();
        let epoch = state.epoch(&self.dir, number);
        epoch.refresh()?;
        let taken = epoch.take_in();
        let path = epoch.paths().next();
        let mut progress = path.map_or_else(Progress::default, |path| Progress {
            end: path.end(),
            timeline: path.history.owner(path.end()),
            last_commit: path.entries.iter().rev().find_map(|entry| entry.last_commit).map(|(_, time)| time),
            changed: false,
        });
        taken?;
        progress.changed = Progress { changed: false, ..state.last } != progress;
        state.last = progress;
        Ok(progress)
    }

    /// Notes that the current epoch is complete until a moment of production's clock, when production's log ended
    /// at `end`. Kept, so that neither a restart nor a crash while production is away forgets it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn complete_until(&self, at: Timestamp, end: Lsn) -> Result<(), EngineError> {
        let Some(number) = self.current_epoch() else { return Ok(()) };
        self.with(number, |epoch| {
            let micros = at.as_microsecond();
            let said = epoch.reach.said().map_err(io_error(REACH))?;
            // Production's clock may have been set back; what was complete stays so.
            if said.is_some_and(|[_, noted]| micros <= noted) {
                return Ok(());
            }
            epoch.reach.note([end.0.cast_signed(), micros]).map_err(io_error(REACH))
        })
    }

    /// The point of an epoch that stands for a moment: the start of a record that ends at or after
    /// `from.lsn`, such that recovery that stops after it has applied nothing later than asked for.
    /// `None`: the log does not hold it, or `from` lies behind it.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn locate(&self, epoch: u32, from: &Point, want: Want) -> Result<Option<Point>, EngineError> {
        self.with(epoch, |epoch| epoch.locate(from, want)).map(|found| found.map(|point| Point { epoch, ..point }))
    }

    /// The unbroken stretches, oldest first. An epoch with gaps has several.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn stretches(&self) -> Result<Vec<Stretch>, EngineError> {
        let mut stretches: Vec<Stretch> = Vec::new();
        for number in self.numbers().map_err(io_error("listing the log"))? {
            // Who is shown a second takes it for a promise: it is made durable first.
            let settled = |epoch: &mut Epoch| {
                epoch.settle()?;
                epoch.settle_reach()?;
                Ok((epoch.paths().next(), epoch.reach.said().map_err(io_error(REACH))?))
            };
            let (Some(path), reach) = self.with(number, settled)? else { continue };
            let mut next = None;
            for entry in &path.entries {
                let joined = next == Some(entry.name.segno);
                next = Some(entry.name.segno + 1);
                let Some(((first, (_, last)), through)) =
                    entry.first.zip(entry.last).map(|ends| (ends, entry.last_commit.map(|(_, time)| time)))
                else {
                    continue;
                };
                match stretches.last_mut().filter(|stretch| joined && stretch.epoch == number) {
                    Some(stretch) => (stretch.last, stretch.through) = (last, through.or(stretch.through)),
                    None => stretches.push(Stretch { epoch: number, first, last, through }),
                }
            }
            if let Some([end, micros]) = reach {
                let (end, at) = (Lsn(end.cast_unsigned()), Timestamp::from_microsecond(micros).ok());
                let held =
                    |stretch: &&mut Stretch| stretch.epoch == number && stretch.first <= end && end <= stretch.last;
                stretches.iter_mut().filter(held).for_each(|stretch| stretch.through = stretch.through.max(at));
            }
        }
        Ok(stretches)
    }

    /// Writes the log from `from` to the end of the record at `to` into a `pg_wal` directory, for the
    /// account; the tree's own files of the same or a later place give way. The bytes written.
    ///
    /// # Errors
    /// When `to` is no record of the log, a segment is missing, or the disk fails.
    pub fn bring(
        &self,
        epoch: u32,
        from: Lsn,
        to: &Point,
        into: &Path,
        account: Option<&Account>,
    ) -> Result<u64, EngineError> {
        // The copying may take long; meanwhile the log must be able to advance.
        self.with(epoch, |epoch| epoch.plan(from, to))?.carry_out(into, account)
    }

    /// Drops what lies wholly before a point that stays reachable, and older epochs. History files stay (T-6).
    ///
    /// # Errors
    /// When the disk fails.
    pub fn trim(&self, before: &Point) -> Result<(), EngineError> {
        for number in self.numbers().map_err(io_error("listing the log"))? {
            if number < before.epoch {
                self.lock().epochs.remove(&number);
                self.drop_epoch(number).map_err(io_error(format!("dropping epoch {number} of the log")))?;
            } else if number == before.epoch {
                self.with(number, |epoch| match epoch.first_needed(before) {
                    Some(segno) => epoch.trim(segno),
                    None => Ok(()),
                })?;
            }
        }
        Ok(())
    }

    /// Bytes on disk.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn bytes(&self) -> Result<u64, EngineError> {
        disk_bytes(&self.dir).map_err(io_error(format!("measuring {}", self.dir.display())))
    }

    fn drop_epoch(&self, number: u32) -> io::Result<()> {
        let (dir, live) = (self.epoch_dir(number), self.live_dir(number));
        durable::remove_if_there(&dir.join("index"))?;
        durable::remove_tree_if_there(&dir.join("segments"))?;
        if !live.is_dir() || !has_history(&live)? {
            durable::remove_tree_if_there(&dir)?;
            return Ok(());
        }
        for entry in fs::read_dir(&live)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != "history") {
                durable::remove_if_there(&path)?;
            }
        }
        Ok(())
    }

    fn epoch_dir(&self, epoch: u32) -> PathBuf {
        self.dir.join(format!("epoch-{epoch}"))
    }

    fn numbers(&self) -> io::Result<Vec<u32>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let name = entry?.file_name();
            numbers.extend(name.to_str().and_then(|name| name.strip_prefix("epoch-")?.parse::<u32>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// From now on files of an epoch are synced like this.
    #[cfg(test)]
    pub(super) fn sync_by(&self, epoch: u32, how: fn(&fs::File) -> io::Result<()>) {
        self.lock().epoch(&self.dir, epoch).sync_file = how;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works with an epoch as it is now.
    fn with<T>(&self, number: u32, work: impl FnOnce(&mut Epoch) -> Result<T, EngineError>) -> Result<T, EngineError> {
        let mut state = self.lock();
        let epoch = state.epoch(&self.dir, number);
        epoch.refresh()?;
        work(epoch)
    }
}

impl State {
    fn epoch(&mut self, dir: &Path, number: u32) -> &mut Epoch {
        self.epochs.entry(number).or_insert_with(|| Epoch::at(dir.join(format!("epoch-{number}"))))
    }
}
