//! What the demo does things with: the API of its own daemon, and Ctrl-C heeded between two things.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pando_api::{Client, ClientError, Endpoint};
use pando_model::{CloneView, DiskView, ErrorKind, Name, OperationState, OperationView, Problem, ShowView};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use super::production::failed;
use crate::context;
use crate::errors::{Done, Error};
use crate::output;

/// How long one question for an operation's end waits: also how late Ctrl-C is heeded.
const POLL_MS: u64 = 200;

/// The exit code of a program that was interrupted.
const INTERRUPTED: u8 = 130;

/// Speaks to one daemon.
pub struct Hands {
    client: Client,
    runtime: Runtime,
    told_to_stop: Arc<AtomicBool>,
}

impl Hands {
    /// For the daemon of that home; from here on a first Ctrl-C asks the demo to clean up, a second ends it.
    pub fn of(home: &std::path::Path) -> Done<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let told_to_stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&told_to_stop);
        let dir = home.parent().unwrap_or(home).to_owned();
        let (mut int, mut term, mut hup) = {
            let _inside = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
        };
        runtime.spawn(async move {
            for time in 0.. {
                tokio::select! { _ = int.recv() => {}, _ = term.recv() => {}, _ = hup.recv() => {} }
                told.store(true, Ordering::Relaxed);
                if time == 0 {
                    output::note("interrupted: cleaning up (again to leave everything where it is)");
                } else {
                    output::note(&format!("left behind: pando demo --end {} removes it", dir.display()));
                    std::process::exit(i32::from(INTERRUPTED));
                }
            }
        });
        Ok(Self { client: Client::new(Endpoint::of_home(home)), runtime, told_to_stop })
    }

    /// Fails once Ctrl-C was pressed.
    pub fn go_on(&self) -> Done {
        if self.told_to_stop.load(Ordering::Relaxed) { Err(Error::Quiet(INTERRUPTED)) } else { Ok(()) }
    }

    /// From here on Ctrl-C does not stop what is being done.
    pub fn insist(&self) {
        self.told_to_stop.store(false, Ordering::Relaxed);
    }

    /// Asks something.
    pub fn ask<T>(&self, call: impl AsyncFnOnce(&Client) -> Result<T, ClientError>) -> Done<T> {
        self.go_on()?;
        Ok(self.runtime.block_on(call(&self.client))?)
    }

    /// Begins an operation and waits for its end.
    pub fn carry_out(
        &self,
        call: impl AsyncFnOnce(&Client) -> Result<OperationView, ClientError>,
    ) -> Done<OperationView> {
        let ended = self.wait_for(self.ask(call)?)?;
        match ended.state {
            OperationState::Done => Ok(ended),
            _ => Err(context::why(&ended).into()),
        }
    }

    /// Waits for the end of an operation, however it ends.
    pub fn wait_for(&self, mut operation: OperationView) -> Done<OperationView> {
        while matches!(operation.state, OperationState::Running | OperationState::Undoing) {
            operation = self.ask(async |client| client.operation(&operation.id, POLL_MS).await)?;
        }
        Ok(operation)
    }

    /// A clone, whole.
    pub fn clone_of(&self, name: &Name) -> Done<CloneView> {
        match self.ask(async |client| client.show(name).await)? {
            ShowView::Clone(clone) => Ok(*clone),
            ShowView::App(_) => Err(Problem::new(ErrorKind::Failed, format!("{name} is no clone")).into()),
        }
    }

    /// Who uses how many bytes.
    pub fn disk(&self) -> Done<DiskView> {
        self.ask(async |client| client.disk().await)
    }
}

/// A name that is known to be one.
pub fn name(text: &str) -> Done<Name> {
    text.parse().map_err(|error| failed(format!("{text:?} is no name"), error))
}
