//! Fail points: named places where a test can make this instance of Pando fail, wait, panic or die.
//!
//! A registry belongs to an instance, never to the process, so that tests can run side by side. An empty
//! registry (production) costs one atomic load per point.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use thiserror::Error;

/// What happens at a fail point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailAction {
    /// The place returns an error.
    Error,
    /// The place returns [`Injected::crash`]: the caller must stop as if the process had died there,
    /// undoing nothing. Lets a test crash in the middle of a process that goes on.
    Crash,
    /// The thread panics.
    Panic,
    /// The process gets SIGKILL.
    Kill,
    /// The place takes so long.
    Delay(Duration),
}

/// A fail point struck.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("fail point {point} struck")]
pub struct Injected {
    /// The point's name.
    pub point: String,
    /// Stop as if dead, undo nothing.
    pub crash: bool,
}

/// The fail points of one instance.
#[derive(Debug, Default)]
pub struct FailPoints {
    armed: AtomicBool,
    points: Mutex<BTreeMap<String, FailAction>>,
    seen: Mutex<Option<Vec<String>>>,
}

impl FailPoints {
    /// Arms a point until it is disarmed.
    pub fn arm(&self, point: impl Into<String>, action: FailAction) {
        self.points.lock().unwrap_or_else(PoisonError::into_inner).insert(point.into(), action);
        self.armed.store(true, Ordering::Release);
    }

    /// Disarms all points.
    pub fn disarm(&self) {
        self.points.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// From now on the names of the points passed are kept for [`Self::seen`].
    pub fn record(&self) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Vec::new());
        self.armed.store(true, Ordering::Release);
    }

    /// The points passed since [`Self::record`], in order.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default()
    }

    /// Arms points from a text such as `clone.volume.after=kill;link.ingest.before=error`.
    /// What cannot be read is returned.
    pub fn arm_from(&self, text: &str) -> Result<(), String> {
        for entry in text.split(';').filter(|entry| !entry.is_empty()) {
            let (point, action) = entry.split_once('=').ok_or_else(|| entry.to_owned())?;
            let action = match action {
                "error" => FailAction::Error,
                "crash" => FailAction::Crash,
                "panic" => FailAction::Panic,
                "kill" => FailAction::Kill,
                delay => match delay.strip_prefix("delay:").and_then(|ms| ms.parse().ok()) {
                    Some(ms) => FailAction::Delay(Duration::from_millis(ms)),
                    None => return Err(entry.to_owned()),
                },
            };
            self.arm(point, action);
        }
        Ok(())
    }

    /// Passes a point.
    ///
    /// # Errors
    /// [`Injected`] when the point is armed with `Error` or `Crash`.
    ///
    /// # Panics
    /// When the point is armed with `Panic`: that is its purpose.
    #[allow(clippy::panic, clippy::disallowed_methods, reason = "that is what the point was armed for")]
    pub fn pass(&self, point: &str) -> Result<(), Injected> {
        if !self.armed.load(Ordering::Acquire) {
            return Ok(());
        }
        if let Some(seen) = self.seen.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            seen.push(point.to_owned());
        }
        let action = self.points.lock().unwrap_or_else(PoisonError::into_inner).get(point).copied();
        match action {
            None => Ok(()),
            Some(FailAction::Error) => Err(Injected { point: point.to_owned(), crash: false }),
            Some(FailAction::Crash) => Err(Injected { point: point.to_owned(), crash: true }),
            Some(FailAction::Panic) => panic!("fail point {point} struck"),
            Some(FailAction::Kill) => {
                let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
                Ok(())
            }
            Some(FailAction::Delay(span)) => {
                std::thread::sleep(span);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Clock, SystemClock};

    #[test]
    fn an_armed_point_strikes_and_others_pass() {
        let points = FailPoints::default();
        assert_eq!(points.pass("a"), Ok(()));
        assert_eq!(points.arm_from("a=error;b=crash"), Ok(()));
        assert_eq!(points.pass("a"), Err(Injected { point: "a".into(), crash: false }));
        assert!(points.pass("b").is_err_and(|injected| injected.crash));
        assert_eq!(points.pass("c"), Ok(()));
        points.disarm();
        assert_eq!(points.pass("a"), Ok(()));
        assert_eq!(points.arm_from("a=nonsense"), Err("a=nonsense".to_owned()));
    }

    #[test]
    fn a_point_of_one_instance_is_none_of_anothers_and_takes_its_time_or_panics() {
        let (one, other) = (FailPoints::default(), FailPoints::default());
        assert_eq!(one.arm_from("slow=delay:30;bad=panic;end=kill"), Ok(()));
        let begun = SystemClock.instant();
        assert_eq!(one.pass("slow"), Ok(()));
        assert!(begun.elapsed() >= Duration::from_millis(30));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| one.pass("bad"))).is_err());
        for point in ["slow", "bad", "end"] {
            assert_eq!(other.pass(point), Ok(()), "another instance's");
        }
        one.record();
        assert_eq!((one.pass("slow"), one.pass("there")), (Ok(()), Ok(())));
        assert_eq!(one.seen(), ["slow", "there"]);
    }
}
