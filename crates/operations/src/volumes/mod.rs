//! Volumes: directories of clones under names that container engines know. What an engine asks for is decided here;
//! the daemon only speaks its protocol.
//!
//! A volume is no thing of its own but a name: of one source of one clone. Several volumes of one project that are
//! made of the same app at the same moment are one clone, so they show one instant. A clone that volumes made is
//! *served elsewhere*: its servers run in containers, never here, and it goes with its last volume.
//!
//! | file | what it answers for |
//! |---|---|
//! | `options.rs` | `-o name=value` |
//! | `birth.rs` | what a volume is to be |
//! | `group.rs` | which volumes belong together |
//! | `compose.rs` | projects that run on a clone |
//! | `init.rs` | the files that a project begins with |
//! | `in_use.rs` | whether somebody uses them now |
//! | `look.rs` | what an engine is shown |

mod birth;
pub mod compose;
mod group;
pub mod in_use;
mod init;
pub mod look;
mod options;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pando_catalog::{CloneRecord, VolumeRecord};
use pando_host::Holder;
use pando_model::{
    CloneId, CloneState, ComposeView, Name, OperationId, OperationState, OperationView, OwnerId, Problem, Request,
};

use crate::facade::{Pando, outward};
use crate::fault::{IntoProblem, failed, refused, usage};
use crate::verbs::clone::Clone;
use crate::verbs::create::Create;
use crate::verbs::remove::Remove;
use crate::verbs::volume::{Attach, Detach};

use birth::Birth;
pub use in_use::{refuse_former_in_use, refuse_in_use};
pub use look::VolumeView;
use options::Wish;

/// What is known of volumes only while the daemon runs.
pub struct Volumes {
    /// Who uses directories with these names, as the kernel says.
    pub holders: fn(&[&str]) -> std::io::Result<Vec<Holder>>,
    /// Mount calls that were answered a moment ago.
    pub mounts: in_use::Mounts,
    /// The pool's bytes.
    pub counted: look::Counted,
    /// Who uses clones.
    pub seen: look::Seen,
    /// One decision at a time: which clone a volume joins, which one goes with it.
    deciding: Mutex<()>,
    /// Volumes that are made behind, because whoever asked could not wait.
    behind: Mutex<HashMap<Name, OperationId>>,
    /// When services that are owed a start were last tried.
    tried: Mutex<HashMap<CloneId, Instant>>,
    /// Whether what a former daemon had under way is still coming to its end: volumes are only looked at.
    held: AtomicBool,
}

impl Default for Volumes {
    fn default() -> Self {
        Self {
            holders: pando_host::holders,
            mounts: in_use::Mounts::default(),
            counted: look::Counted::default(),
            seen: look::Seen::default(),
            deciding: Mutex::default(),
            behind: Mutex::default(),
            tried: Mutex::default(),
            held: AtomicBool::new(false),
        }
    }
}

impl Volumes {
    fn decide(&self) -> MutexGuard<'_, ()> {
        self.deciding.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on volumes are only looked at.
    pub fn hold(&self) {
        self.held.store(true, Ordering::Release);
    }

    /// They can be used again. The bell is rung by whoever calls.
    pub fn release(&self) {
        self.held.store(false, Ordering::Release);
    }

    /// Whether it is time to try a start again.
    pub fn may_try(&self, clone: &CloneId, now: Instant, every: Duration) -> bool {
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        let due = tried.get(clone).is_none_or(|last| now.duration_since(*last) >= every);
        if due {
            tried.insert(clone.clone(), now);
        }
        due
    }

    /// That a start did not fail: the next one need not wait.
    pub fn succeeded(&self, clone: &CloneId) {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner).remove(clone);
    }

    fn behind(&self) -> MutexGuard<'_, HashMap<Name, OperationId>> {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse(name: &str) -> Result<Name, Problem> {
    name.parse().map_err(|error: pando_model::NameError| {
        usage(error.to_string()).hint("the moment of a volume stands in its options: -o from=shop -o at=-2h")
    })
}

impl Pando {
    /// Makes a volume, and waits for it so long. What takes longer goes on behind; the first mount waits for it.
    ///
    /// # Errors
    /// When the name or the options are wrong, or what they name cannot be copied.
    pub fn volume_create(
        &self,
        name: &str,
        options: &BTreeMap<String, String>,
        patience: Duration,
    ) -> Result<(), Problem> {
        let name = parse(name)?;
        let wish = Wish::read(options)?;
        let begun = self.world.clock.instant();
        let left = || patience.saturating_sub(begun.elapsed());
        self.recovered(patience)?;
        let operation = {
            let _one = self.world.volumes.decide();
            match self.world.catalog.get::<VolumeRecord>(name.as_str()).map_err(IntoProblem::into_problem)? {
                // A call that was repeated.
                Some(known) if known.options == wish.kept => None,
                Some(known) => return Err(other_options(&known)),
                None => Some(self.bear_volume(&name, wish)?),
            }
        };
        if let Some(operation) = operation {
            let ended = self.wait(&operation, left())?;
            match ended.state {
                OperationState::Running => {
                    self.world.volumes.behind().insert(name, operation);
                    return Ok(());
                }
                OperationState::Done => {}
                _ => return Err(ended.error.unwrap_or_else(|| failed(format!("{name} was not made")))),
            }
        }
        // One that joined waits for those who make the clone; that they are slow is no error.
        match self.settled(&name, left()) {
            Err(problem) if look::records(&self.world, &name).is_err() => Err(problem),
            _ => Ok(()),
        }
    }

    /// Begins what makes a volume, and waits until its record is there: who comes next finds it.
    fn bear_volume(&self, name: &Name, wish: Wish) -> Result<OperationId, Problem> {
        self.world.volumes.behind().remove(name);
        let claim = format!("volume/{name}");
        let view = match outward(birth::of(&self.world, name, wish))? {
            Birth::Join(volume) => self.begin(&[claim], |_| Ok(Attach::new(volume)))?,
            Birth::Empty(wanted) => {
                let claims = [name.to_string(), claim];
                self.begin(&claims, |world| Create::new(world, wanted))?
            }
            Birth::Make(request, wanted) => {
                let claims = [request.clone.to_string(), claim];
                self.begin(&claims, |world| Clone::for_containers(world, *request, wanted))?
            }
        };
        loop {
            let seen = self.world.rung();
            let running = self.operation(&view.id)?.state == OperationState::Running;
            if !running || look::records(&self.world, name).is_ok() {
                return Ok(view.id);
            }
            self.world.wait_for_bell(seen, Duration::from_millis(20));
        }
    }

    /// What a person begins a Compose project on clones of an app with.
    ///
    /// # Errors
    /// When there is no app of that name.
    pub fn compose_files(&self, app: &Name) -> Result<ComposeView, Problem> {
        outward(init::files(&self.world, app))
    }

    /// A volume, as an engine sees it. Waits for nothing.
    ///
    /// # Errors
    /// When there is none with that name; when it was made behind and that failed, the reason.
    pub fn volume(&self, name: &str) -> Result<VolumeView, Problem> {
        let name = parse(name)?;
        outward(look::volume(&self.world, &name)).map_err(|problem| self.why_gone(&name).unwrap_or(problem))
    }

    /// All volumes.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn volumes(&self) -> Result<Vec<VolumeView>, Problem> {
        outward(look::volumes(&self.world))
    }

    /// Where a volume is, once it can be used; waits for that so long. `id` is the engine's word for this use of it.
    ///
    /// # Errors
    /// When there is none with that name, or it cannot be used now.
    pub fn volume_mount(&self, name: &str, id: &str, patience: Duration) -> Result<PathBuf, Problem> {
        let name = parse(name)?;
        let begun = self.world.clock.instant();
        self.recovered(patience)?;
        // Before the look: a refresh that begins now waits, or is seen here.
        self.world.volumes.mounts.begin(&name, id, self.world.clock.instant());
        let place = self.settled(&name, patience.saturating_sub(begun.elapsed()));
        if place.is_err() {
            self.world.volumes.mounts.end(&name, id);
        }
        place
    }

    /// That an engine has no use for a volume any more. Nothing depends on it.
    pub fn volume_unmount(&self, name: &str, id: &str) {
        if let Ok(name) = parse(name) {
            self.world.volumes.mounts.end(&name, id);
        }
    }

    /// Waits so long until what a former daemon had under way has come to its end.
    fn recovered(&self, patience: Duration) -> Result<(), Problem> {
        let begun = self.world.clock.instant();
        loop {
            let seen = self.world.rung();
            if !self.world.volumes.held.load(Ordering::Acquire) {
                return Ok(());
            }
            let left = patience.saturating_sub(begun.elapsed());
            if left.is_zero() || self.world.is_stopping() {
                return Err(refused("pando has just started, and brings to its end what was under way before")
                    .hint("try again in a moment"));
            }
            self.world.wait_for_bell(seen, left);
        }
    }

    /// Where a volume is, once nothing is being done to it.
    fn settled(&self, name: &Name, patience: Duration) -> Result<PathBuf, Problem> {
        let begun = self.world.clock.instant();
        loop {
            let seen = self.world.rung();
            let found = outward(look::records(&self.world, name));
            let (volume, clone) = found.map_err(|problem| self.why_gone(name).unwrap_or(problem))?;
            match clone.state {
                CloneState::Running | CloneState::Stopped => {
                    let place = look::place(&self.world, &volume, &clone).filter(|place| place.is_dir());
                    return place.ok_or_else(|| failed(format!("the directory of the volume {name} is not there")));
                }
                CloneState::Removing => return Err(refused(format!("{name} is being removed"))),
                CloneState::Failed => {
                    let mut problem = refused(format!("{name} cannot be used"));
                    problem.causes.extend(clone.problem);
                    return Err(problem.hint(format!("pando refresh {}", clone.name)));
                }
                CloneState::Creating | CloneState::Refreshing => {}
            }
            let left = patience.saturating_sub(begun.elapsed());
            if left.is_zero() || self.world.is_stopping() {
                return Err(refused(format!("{name} is not ready yet: {}", clone.state))
                    .hint("it goes on; try again in a moment (`pando ops` shows how far it is)"));
            }
            self.world.wait_for_bell(seen, left);
        }
    }

    /// Why a volume that was made behind is not there.
    fn why_gone(&self, name: &Name) -> Option<Problem> {
        let operation = self.world.volumes.behind().get(name)?.clone();
        self.operation(&operation).ok()?.error
    }

    /// Removes a volume, and its clone with the last one where volumes made it. Waits so long; the rest is done
    /// behind.
    ///
    /// # Errors
    /// When there is none with that name, it is in use, or others were made of it.
    pub fn volume_remove(&self, name: &str, patience: Duration) -> Result<(), Problem> {
        let name = parse(name)?;
        let begun = self.world.clock.instant();
        self.recovered(patience)?;
        let operation = {
            let _one = self.world.volumes.decide();
            self.drop_volume(&name)?
        };
        let ended = self.wait(&operation.id, patience.saturating_sub(begun.elapsed()))?;
        match ended.state {
            OperationState::Done | OperationState::Running => Ok(()),
            _ => Err(ended.error.unwrap_or_else(|| failed(format!("{name} was not removed")))),
        }
    }

    /// Begins to remove a volume. Whoever calls decides alone.
    fn drop_volume(&self, name: &Name) -> Result<OperationView, Problem> {
        let (_, clone) = outward(look::records(&self.world, name))?;
        let of_clone: Vec<VolumeRecord> =
            self.world.catalog.of(clone.id.as_str()).map_err(IntoProblem::into_problem)?;
        if clone.elsewhere && of_clone.len() == 1 {
            let claims = [clone.name.to_string(), format!("volume/{name}")];
            return self.begin(&claims, |world| Remove::new(world, clone.name));
        }
        let begun = self.begin(&[format!("volume/{name}")], |world| Detach::new(world, name))?;
        // The next decision counts what is left.
        self.wait(&begun.id, Duration::from_secs(10))
    }

    /// Names of volumes stand for their clones. To remove one of several is to remove that one alone.
    pub(crate) fn meant(&self, request: Request) -> Result<Meant, Problem> {
        let clone = |name: &Name| -> Result<Name, Problem> {
            let owner = self.world.catalog.owner(name).map_err(IntoProblem::into_problem)?;
            let Some(OwnerId::Clone(id)) = owner else { return Ok(name.clone()) };
            let record: Option<CloneRecord> = self.world.catalog.get(id.as_str()).map_err(IntoProblem::into_problem)?;
            Ok(record.map_or_else(|| name.clone(), |record| record.name))
        };
        Ok(Meant::Request(match request {
            Request::Snapshot { name, body } => Request::Snapshot { name: clone(&name)?, body },
            Request::Bookmark { name, body } => Request::Bookmark { name: clone(&name)?, body },
            Request::Unbookmark { name, bookmark } => Request::Unbookmark { name: clone(&name)?, bookmark },
            Request::Start { clone: name } => Request::Start { clone: clone(&name)? },
            Request::Stop { clone: name } => Request::Stop { clone: clone(&name)? },
            Request::Refresh { clone: name, moment } => Request::Refresh { clone: clone(&name)?, moment },
            Request::Rewind { clone: name, moment } => Request::Rewind { clone: clone(&name)?, moment },
            Request::Undo { clone: name } => Request::Undo { clone: clone(&name)? },
            Request::Promote { clone: name } => Request::Promote { clone: clone(&name)? },
            Request::Lease { clone: name, body } => Request::Lease { clone: clone(&name)?, body },
            Request::BuildImage(body) => {
                let name = body.name.as_ref().map(&clone).transpose()?;
                Request::BuildImage(pando_model::ImageRequest { name, ..body })
            }
            Request::Clone(body) => Request::Clone(pando_model::CloneRequest { from: clone(&body.from)?, ..body }),
            Request::Remove { clone: name } => {
                let meant = clone(&name)?;
                if meant != name {
                    let _one = self.world.volumes.decide();
                    return Ok(Meant::Begun(self.drop_volume(&name)?));
                }
                Request::Remove { clone: name }
            }
            other => other,
        }))
    }
}

/// What a request comes to once names of volumes are known for what they are.
pub(crate) enum Meant {
    /// The same of their clones.
    Request(Request),
    /// It was begun.
    Begun(OperationView),
}

fn other_options(known: &VolumeRecord) -> Problem {
    let options: Vec<String> = known.options.iter().map(|(name, value)| format!("{name}={value}")).collect();
    refused(format!("there is a volume {} with other options: {}", known.name, options.join(" ")))
        .hint(format!("remove it first: docker volume rm {}", known.name))
}
