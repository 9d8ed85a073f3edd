//! The customers of the demo's shop: one thread that places orders all the time, each in one transaction, every
//! fourth with an attachment, and the oracle that remembers what was committed when.
//!
//! An attachment is written before the order that names it is committed. The oracle's lock is held during each
//! transaction, so whoever holds it knows that no commit is under way: see [`Oracle::still`].

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use pando_host::{Clock, SystemClock};
use pando_model::{ErrorKind, Problem};

use super::production::{self, Shop};
use crate::errors::Done;

/// The time between two orders.
const TICK: Duration = Duration::from_millis(10);

/// One order that was committed.
#[derive(Debug, Clone, Copy)]
struct Commit {
    /// A time before the commit, …
    before: Timestamp,
    /// … and one after it.
    after: Timestamp,
    /// How long the whole transaction took.
    took: Duration,
}

/// How production did during a span of time.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Orders committed per second.
    pub per_second: f64,
    /// The transaction's time, which half of them did not exceed.
    pub median: Duration,
    /// The same for 99 of 100.
    pub most: Duration,
    /// The slowest.
    pub slowest: Duration,
}

/// What was committed when. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Oracle {
    commits: Arc<Mutex<Vec<Commit>>>,
    failed: Arc<Mutex<Option<String>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time in microseconds, which is what PostgreSQL counts in.
pub fn now() -> Timestamp {
    let now = SystemClock.now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

impl Oracle {
    /// A moment in which no commit is under way, and exactly how many orders were committed before it.
    pub fn still(&self) -> (Timestamp, u64) {
        let commits = lock(&self.commits);
        (now(), commits.len() as u64)
    }

    /// How many orders a state of that moment may hold: from the ones certainly committed by then to the ones
    /// that may have been.
    pub fn at(&self, moment: Timestamp) -> (u64, u64) {
        let commits = lock(&self.commits);
        let certain = commits.partition_point(|commit| commit.after <= moment);
        let possible = commits.partition_point(|commit| commit.before <= moment);
        (certain as u64, possible as u64)
    }

    /// How production did between two times.
    pub fn pace(&self, from: Timestamp, to: Timestamp) -> Pace {
        let commits = lock(&self.commits);
        let inside = commits.iter().filter(|commit| commit.after > from && commit.after <= to);
        let mut times: Vec<Duration> = inside.map(|commit| commit.took).collect();
        times.sort();
        let at = |part: f64| times.get((times.len() as f64 * part) as usize).or(times.last()).copied();
        let span = to.duration_since(from).as_secs_f64().max(0.001);
        Pace {
            per_second: times.len() as f64 / span,
            median: at(0.5).unwrap_or_default(),
            most: at(0.99).unwrap_or_default(),
            slowest: at(1.0).unwrap_or_default(),
        }
    }

    /// Whether production refused an order.
    pub fn check(&self) -> Done {
        match lock(&self.failed).as_ref() {
            None => Ok(()),
            Some(why) => {
                let mut problem = Problem::new(ErrorKind::Failed, "the demo's production refused an order");
                problem.causes.push(why.clone());
                Err(problem.into())
            }
        }
    }
}

/// The running thread.
#[derive(Debug)]
pub struct Writer {
    /// What it committed.
    pub oracle: Oracle,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Begins to place orders.
    pub fn start(shop: Shop) -> Self {
        let (oracle, stop) = (Oracle::default(), Arc::new(AtomicBool::new(false)));
        let (seen, told) = (oracle.clone(), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            if let Err(why) = place_orders(&shop, shop.past + 1, &seen, &told) {
                *lock(&seen.failed) = Some(why);
            }
        });
        Self { oracle, stop, thread: Some(thread) }
    }

    /// Ends it and waits.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Places orders for ever: what a demo that was kept goes on with.
pub fn forever(shop: &Shop) -> Done {
    let last: i64 = production::query_one(&mut shop.connect()?, "SELECT max(id) FROM orders")?;
    let why = place_orders(shop, last + 1, &Oracle::default(), &AtomicBool::new(false));
    why.map_err(|why| Problem::new(ErrorKind::Failed, why).into())
}

fn place_orders(shop: &Shop, first: i64, oracle: &Oracle, stop: &AtomicBool) -> Result<(), String> {
    let words = |error: postgres::Error| super::production::words(&error);
    let mut client = shop.connect().map_err(|error| format!("{error:?}"))?;
    let order = client
        .prepare("INSERT INTO orders (id, customer, product, note, attachment) VALUES ($1, $2, $3, $4, $5)")
        .map_err(words)?;
    let sold = client.prepare("UPDATE products SET sold = sold + 1 WHERE id = $1").map_err(words)?;
    let mut due = SystemClock.instant();
    let mut id = first;
    while !stop.load(Ordering::Relaxed) {
        let attachment = (id % 4 == 0).then(|| production::attachment(id));
        if let Some(name) = &attachment {
            write(&shop.attachments, name, id).map_err(|error| format!("writing {name}: {error}"))?;
        }
        let (customer, product) = (id % production::CUSTOMERS + 1, id % production::PRODUCTS + 1);
        let mut commits = lock(&oracle.commits);
        let (before, begun) = (now(), SystemClock.instant());
        let mut transaction = client.transaction().map_err(words)?;
        let note = "placed during the demo";
        transaction.execute(&order, &[&id, &customer, &product, &note, &attachment]).map_err(words)?;
        transaction.execute(&sold, &[&product]).map_err(words)?;
        transaction.commit().map_err(words)?;
        let took = SystemClock.instant().duration_since(begun);
        commits.push(Commit { before, after: now(), took });
        drop(commits);
        id += 1;
        due = (due + TICK).max(SystemClock.instant());
        SystemClock.sleep(due.saturating_duration_since(SystemClock.instant()));
    }
    Ok(())
}

/// Writes the attachment of an order.
pub fn write(root: &Path, name: &str, id: i64) -> std::io::Result<()> {
    let path = root.join(name);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, production::content(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oracle_bounds_what_a_moment_holds() {
        let at = |micros: i64| Timestamp::from_microsecond(micros).expect("a time");
        let oracle = Oracle::default();
        for (before, after) in [(10, 20), (30, 40)] {
            let took = Duration::from_micros((after - before) as u64);
            lock(&oracle.commits).push(Commit { before: at(before), after: at(after), took });
        }
        let seen: Vec<(u64, u64)> = [5, 10, 20, 25, 35, 40].map(|micros| oracle.at(at(micros))).to_vec();
        assert_eq!(seen, [(0, 0), (0, 1), (1, 1), (1, 1), (1, 2), (2, 2)]);
        assert_eq!(oracle.still().1, 2);
        let pace = oracle.pace(at(0), at(1_000_000));
        assert_eq!((pace.per_second.round(), pace.slowest.as_micros()), (2.0, 10));
        assert!(oracle.check().is_ok());
    }
}
