//! Up to when a stretch of a log is complete though nothing was committed since: noted with every look at
//! production, because without production nobody could tell it again.
//!
//! # Crash consistency
//! The numbers lie in one sector of a file and are written in place: a daemon that is killed forgets nothing, and of a
//! crash of the machine remains what was written before, or what was synced since. So [`Reach::settle`] comes
//! before anybody is told. A failed sync takes the note away: the kernel may have dropped what it could not write,
//! and the next sync would succeed all the same.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use pando_host::durable;

/// The note of one stretch: `N` numbers.
#[derive(Debug)]
pub struct Reach<const N: usize> {
    path: PathBuf,
    /// Whether what it says was synced since it was written.
    settled: bool,
}

impl<const N: usize> Reach<N> {
    /// The note in a stretch's directory; there may be none yet.
    pub fn at(dir: &Path) -> Self {
        // Whoever wrote it may have been killed before it was synced.
        Self { path: dir.join("reach"), settled: false }
    }

    /// What it says.
    pub fn said(&self) -> io::Result<Option<[i64; N]>> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let (numbers, rest) = bytes.as_chunks();
        let numbers: Option<&[[u8; 8]; N]> = numbers.try_into().ok().filter(|_| rest.is_empty());
        Ok(numbers.map(|numbers| numbers.map(i64::from_le_bytes)))
    }

    /// Says something else from now on.
    pub fn note(&mut self, numbers: [i64; N]) -> io::Result<()> {
        let bytes = numbers.map(i64::to_le_bytes);
        if self.said()?.is_none() {
            durable::write_atomic(&self.path, bytes.as_flattened(), 0o600)?;
            self.settled = true;
            return Ok(());
        }
        self.settled = false;
        OpenOptions::new().write(true).open(&self.path)?.write_all_at(bytes.as_flattened(), 0)
    }

    /// Makes it durable. `sync`: how.
    pub fn settle(&mut self, sync: fn(&File) -> io::Result<()>) -> io::Result<()> {
        if self.settled {
            return Ok(());
        }
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if let Err(error) = sync(&file) {
            durable::remove_if_there(&self.path)?;
            return Err(error);
        }
        self.settled = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Done = Result<(), Box<dyn std::error::Error>>;

    fn refuses(_: &File) -> io::Result<()> {
        Err(io::Error::other("the disk is gone"))
    }

    #[test]
    fn whoever_comes_next_reads_what_was_noted_last() -> Done {
        let dir = tempfile::tempdir()?;
        let mut reach = Reach::<2>::at(dir.path());
        assert_eq!(reach.said()?, None);
        for second in [1, 2, i64::MAX] {
            reach.note([second, -second])?;
            assert_eq!(Reach::<2>::at(dir.path()).said()?, Some([second, -second]));
        }
        Ok(())
    }

    #[test]
    fn a_note_of_another_form_says_nothing_and_is_replaced() -> Done {
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join("reach"), "0/16B3748 2026-11-21T10:00:00Z\n")?;
        let mut reach = Reach::<2>::at(dir.path());
        assert_eq!(reach.said()?, None);
        reach.note([3, 4])?;
        assert_eq!(reach.said()?, Some([3, 4]));
        Ok(())
    }

    #[test]
    fn what_could_not_be_synced_is_not_said_any_more() -> Done {
        let dir = tempfile::tempdir()?;
        let mut reach = Reach::<1>::at(dir.path());
        reach.note([1])?;
        reach.settle(refuses)?; // Written whole: durable already.
        reach.note([2])?;
        assert!(reach.settle(refuses).is_err());
        assert_eq!(reach.said()?, None);
        reach.note([3])?;
        reach.settle(File::sync_data)?;
        assert_eq!(reach.said()?, Some([3]));
        // The next daemon cannot know whether the last one synced it.
        assert!(Reach::<1>::at(dir.path()).settle(refuses).is_err());
        Ok(())
    }
}
