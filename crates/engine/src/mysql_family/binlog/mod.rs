//! The change log of a MariaDB or MySQL mirror or recording clone: what the server writes (a mirror its relay logs, a recording
//! clone its binary logs) is taken in, indexed, compressed, and given back as one relay log that ends exactly at
//! the transaction asked for.
//!
//! ```text
//! LOG/epoch-<n>/live/       what the server writes (its account)
//!              segments/    the same files under our names; complete ones compressed; ours alone
//!              posts        looks at production: clock and position
//!              reach        the last of them, also while nothing is committed
//!              refill       what the mirror has applied, while the log lacks some of it
//!              meta.json    the position that the stretch begins with
//! ```
//!
//! A mirror's own binary log would not do: it gives a commit the time of its last statement, not of its commit.
//! The relay log has production's own events. A clone is never stopped by time (M-6): a time is turned into a
//! place here, and what is replayed ends there.
//!
//! | file | what it knows |
//! |---|---|
//! | `event.rs` | events |
//! | `dialect.rs` | what differs: numbers of transactions, where they begin and end, and when they were committed |
//! | `index.rs` | transactions, looks, and the times that follow from them |
//! | `epoch.rs`, `epoch/pack.rs` | the files of one stretch; compressing them |
//! | `again.rs` | whether what comes a second time is what came before |
//!
//! # Crash consistency
//! An epoch appears whole, by a rename. See `epoch.rs` for taking in.

mod again;
#[cfg(test)]
mod any_bytes;
pub mod dialect;
mod epoch;
pub mod event;
pub mod index;
mod relay;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;
use pando_host::{Account, durable};
use pando_model::Lsn;

use self::dialect::{Dialect, Position as _};
use self::epoch::{Epoch, LIVE, Meta};
use self::index::Post;
use crate::{EngineError, Point, Stretch, Want, seat};

/// A look at production: its position, its clock, its position again.
#[derive(Debug, Clone)]
pub struct Look<P> {
    /// What was committed by then.
    pub before: P,
    /// Its clock, in microseconds since 1970.
    pub micros: i64,
    /// What was committed by then, and perhaps a little more.
    pub after: P,
}

/// A log on disk.
#[derive(Debug)]
pub struct BinLog<D: Dialect> {
    dir: PathBuf,
    epochs: Mutex<BTreeMap<u32, Epoch<D>>>,
}

fn failed(action: &str) -> impl Fn(io::Error) -> EngineError + '_ {
    move |source| EngineError::Io { action: action.to_owned(), source }
}

impl<D: Dialect> BinLog<D> {
    /// Opens the log in a directory, which is made if it is not there.
    pub fn open(dir: &Path) -> Result<Self, EngineError> {
        let opened = || {
            if !dir.is_dir() {
                fs::create_dir_all(dir)?;
                fs::set_permissions(dir, Permissions::from_mode(0o711))?;
            }
            let mut epochs = BTreeMap::new();
            for entry in fs::read_dir(dir)? {
                let entry = entry?;
                let name = entry.file_name();
                if let Some(number) = name.to_str().and_then(|name| name.strip_prefix("epoch-")?.parse().ok()) {
                    epochs.insert(number, Epoch::open(entry.path())?);
                }
            }
            Ok(epochs)
        };
        let epochs = opened().map_err(failed("opening the log"))?;
        Ok(Self { dir: dir.to_owned(), epochs: Mutex::new(epochs) })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, Epoch<D>>> {
        self.epochs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a new stretch, of a mirror that starts from a position. The account writes into its `live/`.
    pub fn begin_epoch(&self, begin: &D::Position, owner: Option<&Account>) -> Result<u32, EngineError> {
        self.begin(&Meta { begin: begin.clone(), own: false }, owner)
    }

    /// Begins a new stretch, of a clone that records what it does.
    pub fn begin_own(&self, owner: Option<&Account>) -> Result<u32, EngineError> {
        self.begin(&Meta { begin: D::Position::default(), own: true }, owner)
    }

    fn begin(&self, meta: &Meta<D::Position>, owner: Option<&Account>) -> Result<u32, EngineError> {
        let mut epochs = self.lock();
        let number = epochs.keys().last().map_or(1, |last| last + 1);
        let action = failed("beginning a stretch of the log");
        let hidden = self.dir.join(".epoch.tmp");
        durable::remove_tree_if_there(&hidden).map_err(&action)?;
        Epoch::<D>::make(&hidden, meta).map_err(&action)?;
        for (path, mode) in [("", 0o711), ("segments", 0o700), ("live", 0o700)] {
            fs::set_permissions(hidden.join(path), Permissions::from_mode(mode)).map_err(&action)?;
        }
        seat::own(&hidden.join("live"), owner)?;
        let dir = self.dir.join(format!("epoch-{number}"));
        fs::rename(&hidden, &dir).and_then(|()| durable::sync_parent(&dir)).map_err(&action)?;
        epochs.insert(number, Epoch::open(dir).map_err(&action)?);
        Ok(number)
    }

    /// The newest stretch.
    pub fn current_epoch(&self) -> Option<u32> {
        self.lock().keys().last().copied()
    }

    /// What the server is told to call its files of a stretch.
    pub fn live(&self, epoch: u32) -> PathBuf {
        self.dir.join(format!("epoch-{epoch}")).join("live").join(LIVE)
    }

    fn with<T>(
        &self,
        epoch: u32,
        action: &str,
        work: impl FnOnce(&mut Epoch<D>) -> io::Result<T>,
    ) -> Result<T, EngineError> {
        let mut epochs = self.lock();
        let epoch = epochs
            .get_mut(&epoch)
            .ok_or_else(|| EngineError::Invalid(format!("the log has no stretch {epoch} any more")))?;
        work(epoch).map_err(failed(action))
    }

    /// Where it stands what a stretch lacks of what its mirror has applied. See `refill.rs`.
    pub fn refill(&self, epoch: u32) -> PathBuf {
        self.dir.join(format!("epoch-{epoch}")).join("refill")
    }

    /// Takes in what the server has written into the newest stretch; durable on return. See [`Epoch::advance`].
    pub fn advance(&self, passed: Option<u64>) -> Result<bool, EngineError> {
        let Some(epoch) = self.current_epoch() else { return Ok(false) };
        self.with(epoch, "taking the log in", |epoch| epoch.advance(passed))
    }

    /// Gives all files that the server has written names that it does not remove, and removes its own: it is
    /// down, and begins anew.
    pub fn clear_live(&self, epoch: u32) -> Result<(), EngineError> {
        self.with(epoch, "clearing the server's files of the log", |epoch| {
            epoch.adopt()?;
            for entry in fs::read_dir(epoch.dir.join("live"))? {
                durable::remove_if_there(&entry?.path())?;
            }
            Ok(())
        })
    }

    /// From now on files are synced like this.
    #[cfg(test)]
    fn sync_by(&self, how: fn(&fs::File) -> io::Result<()>) {
        self.lock().values_mut().for_each(|epoch| epoch.sync_file = how);
    }

    /// The number that ended the newest stretch: its server had given it before, or had passed it.
    pub fn ended(&self) -> Option<D::Gtid> {
        self.lock().values().next_back()?.ended.clone()
    }

    /// Where a stretch has come to.
    pub fn position(&self, epoch: u32) -> Result<D::Position, EngineError> {
        self.with(epoch, "reading the log", |epoch| Ok(epoch.position.clone()))
    }

    /// Adds a look at production to the newest stretch, once the log has come so far. Whether it has.
    pub fn look(&self, look: &Look<D::Position>) -> Result<bool, EngineError> {
        let Some(epoch) = self.current_epoch() else { return Ok(false) };
        self.with(epoch, "keeping a look at production", |epoch| {
            if !epoch.position.reaches(&look.after) {
                return Ok(false);
            }
            let within = epoch.place_of(&look.before)?;
            let behind = if look.before == look.after { within } else { epoch.place_of(&look.after)? };
            epoch.add_post(Post { micros: look.micros, within, behind })?;
            Ok(true)
        })
    }

    /// The time up to which the newest stretch is complete, by what is in it.
    pub fn through(&self) -> Option<Timestamp> {
        let epochs = self.lock();
        let micros = epochs.values().next_back()?.through()?;
        Timestamp::from_microsecond(micros).ok()
    }

    /// The place that stands for a position: all before it lies at or before the position.
    pub fn place_of(&self, epoch: u32, position: &D::Position) -> Result<Lsn, EngineError> {
        self.with(epoch, "finding a position in the log", |epoch| epoch.place_of(position)).map(Lsn)
    }

    /// The place in one of the server's files.
    pub fn place_in(&self, epoch: u32, live: &str, byte: u64) -> Result<Option<Lsn>, EngineError> {
        self.with(epoch, "finding a file of the log", |epoch| {
            epoch.adopt()?;
            Ok(epoch.number_of(live)?.map(|number| Lsn(epoch::place(number, byte))))
        })
    }

    /// Where a stretch ends.
    pub fn end(&self, epoch: u32) -> Result<Lsn, EngineError> {
        self.with(epoch, "reading the log", |epoch| Ok(Lsn(epoch.last())))
    }

    /// The stretches there are, oldest first. Who is shown a second takes it for a promise: it is durable.
    pub fn stretches(&self) -> Result<Vec<Stretch>, EngineError> {
        let mut epochs = self.lock();
        for epoch in epochs.values_mut() {
            epoch.settle().map_err(failed("making the log durable"))?;
        }
        let stretches = epochs.iter().map(|(number, epoch)| Stretch {
            epoch: *number,
            first: Lsn(epoch.first()),
            last: Lsn(epoch.last()),
            through: epoch.through().and_then(|micros| Timestamp::from_microsecond(micros).ok()),
        });
        Ok(stretches.collect())
    }

    /// The point that stands for a moment, inside one stretch, not before `from`.
    pub fn locate(&self, from: &Point, want: Want) -> Result<Option<Point>, EngineError> {
        let found = self.with(from.epoch, "looking for a moment in the log", |epoch| {
            if from.lsn.0 < epoch.first() {
                return Ok(None);
            }
            let mut at = Point { timeline: 0, ..from.clone() };
            for group in epoch.groups_from(from.lsn.0)? {
                let by = D::committed_by(&group, &epoch.posts);
                let inside = match want {
                    Want::Time(time) => by <= time.as_microsecond(),
                    Want::Lsn(lsn) => group.end <= lsn.0,
                    Want::End => true,
                };
                if !inside {
                    break;
                }
                at.lsn = Lsn(group.end);
                at.time = Timestamp::from_microsecond(by).ok();
            }
            Ok(Some(at))
        });
        match found {
            Err(EngineError::Invalid(_)) => Ok(None),
            other => other,
        }
    }

    /// When everything before a place was certainly committed.
    pub fn time_of(&self, epoch: u32, at: Lsn) -> Result<Option<Timestamp>, EngineError> {
        self.with(epoch, "reading the log", |epoch| {
            let groups = epoch.groups_from(epoch::place(epoch::file_of(at.0), 0))?;
            let last = groups.into_iter().take_while(|group| group.end <= at.0).last();
            Ok(last.and_then(|last| Timestamp::from_microsecond(D::committed_by(&last, &epoch.posts)).ok()))
        })
    }

    /// Writes what lies between two places as one relay log. See [`Epoch::copy_out`].
    pub fn copy_out(
        &self,
        epoch: u32,
        from: Lsn,
        to: Lsn,
        known: &D::Position,
        path: &Path,
    ) -> Result<Option<D::Position>, EngineError> {
        self.with(epoch, "bringing the log to a clone", |epoch| epoch.copy_out(from.0, to.0, known, path))
    }

    /// Drops what lies before a point.
    pub fn trim(&self, before: &Point) -> Result<(), EngineError> {
        let mut epochs = self.lock();
        let old: Vec<u32> = epochs.range(..before.epoch).map(|(number, _)| *number).collect();
        let action = failed("trimming the log");
        for number in old {
            if let Some(epoch) = epochs.remove(&number) {
                durable::remove_tree_if_there(&epoch.dir).map_err(&action)?;
            }
        }
        match epochs.get_mut(&before.epoch) {
            Some(epoch) => epoch.trim(before.lsn.0).map_err(&action),
            None => Ok(()),
        }
    }
}
