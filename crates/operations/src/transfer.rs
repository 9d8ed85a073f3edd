//! The streams between an operation and whoever asked for it: `export` gives bytes, `import` takes them. The
//! operation offers its end of a socket pair under its id and waits until the other end was fetched.
//!
//! Streams live in memory only: what a crash cuts off is undone like any operation.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pando_model::{OperationId, Problem};

use crate::fault::{Done, Fault, failed, io as io_problem, refused};
use crate::journal::Run;
use crate::world::World;

/// How long an operation waits for somebody to fetch its stream.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a stream that stands still looks whether the daemon stops.
const LOOK: Duration = Duration::from_millis(300);

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the operation to whoever asked.
    Out,
    /// To the operation.
    In,
}

#[cfg(test)]
type Other = dyn Fn(Way, UnixStream) + Send + Sync;

/// The streams that wait to be fetched.
#[derive(Default)]
pub struct Transfers {
    offered: Mutex<HashMap<OperationId, (Way, UnixStream)>>,
    /// Tests: what stands in for the other end.
    #[cfg(test)]
    other: Mutex<Option<Arc<Other>>>,
}

impl Transfers {
    /// Puts something in the place of whoever is at the other end.
    #[cfg(test)]
    pub fn stand_in(&self, other: impl Fn(Way, UnixStream) + Send + Sync + 'static) {
        *self.other.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(other));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<OperationId, (Way, UnixStream)>> {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The other end of an operation's stream; each can be fetched once.
    pub fn fetch(&self, id: &OperationId, way: Way) -> Option<UnixStream> {
        let mut offered = self.lock();
        match offered.get(id) {
            Some((offered_way, _)) if *offered_way == way => offered.remove(id).map(|(_, stream)| stream),
            _ => None,
        }
    }
}

/// The operation's end of a stream. Ends with an error when the daemon stops.
pub struct Stream {
    world: Arc<World>,
    socket: UnixStream,
}

/// Offers a stream and waits until its other end was fetched.
pub fn open(run: &Run, way: Way) -> Done<Stream> {
    let failed_to = |error| Fault::Problem(io_problem("opening a stream", error));
    let world = &run.world;
    let (ours, theirs) = UnixStream::pair().map_err(failed_to)?;
    ours.set_read_timeout(Some(LOOK)).map_err(failed_to)?;
    ours.set_write_timeout(Some(LOOK)).map_err(failed_to)?;
    let stream = Stream { world: Arc::clone(world), socket: ours };
    #[cfg(test)]
    if let Some(other) = world.transfers.other.lock().unwrap_or_else(PoisonError::into_inner).clone() {
        std::thread::spawn(move || other(way, theirs));
        return Ok(stream);
    }
    world.transfers.lock().insert(run.id.clone(), (way, theirs));
    world.ring();
    let begun = world.clock.instant();
    loop {
        let seen = world.rung();
        if !world.transfers.lock().contains_key(&run.id) {
            return Ok(stream);
        }
        if world.is_stopping() || begun.elapsed() >= PATIENCE {
            world.transfers.lock().remove(&run.id);
            let what = if way == Way::Out { "fetched what was to be exported" } else { "sent what was to be imported" };
            return Err(failed(format!("nobody {what}")).into());
        }
        world.wait_for_bell(seen, LOOK);
    }
}

/// The other end of an operation's stream. Waits a moment: the operation may not be there yet.
pub fn fetch(world: &World, id: &OperationId, way: Way) -> Result<UnixStream, Problem> {
    let begun = world.clock.instant();
    loop {
        let seen = world.rung();
        if let Some(stream) = world.transfers.fetch(id, way) {
            world.ring();
            return Ok(stream);
        }
        if world.is_stopping() || begun.elapsed() >= Duration::from_secs(5) {
            return Err(refused(format!("the operation {id} has no stream to fetch now")));
        }
        world.wait_for_bell(seen, LOOK);
    }
}

impl Stream {
    /// Repeats what only timed out, until the daemon stops.
    fn patiently<T>(&mut self, mut work: impl FnMut(&mut UnixStream) -> io::Result<T>) -> io::Result<T> {
        loop {
            match work(&mut self.socket) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    if self.world.is_stopping() {
                        return Err(io::Error::other("the daemon is stopping"));
                    }
                }
                done => return done,
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.patiently(|socket| socket.read(buffer))
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.patiently(|socket| socket.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
