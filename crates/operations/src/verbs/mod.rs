//! One file per verb, and the list that recovery knows them by.

pub mod apply;
pub mod bookmark;
pub mod clone;
pub mod create;
pub mod export;
pub mod image;
pub mod import;
pub mod lease;
pub mod link;
pub mod power;
pub mod prepare;
pub mod promote;
pub mod provision;
pub mod rebase;
pub mod refresh;
pub mod remove;
pub mod renew;
pub mod snapshot;
pub mod thin;
pub mod unlink;
pub mod volume;

use std::sync::Arc;

use pando_catalog::OperationRecord;

use crate::fault::{Done, Fault, failed};
use crate::journal::{Verb, recover};
use crate::world::World;

macro_rules! verbs {
    ($($verb:ty),+ $(,)?) => {
        /// Finishes or undoes an unfinished operation.
        pub fn recover_any(world: &Arc<World>, record: OperationRecord) -> Done<()> {
            match record.verb.as_str() {
                $(<$verb as Verb>::WORD => recover::<$verb>(world, record),)+
                other => Err(Fault::Problem(failed(format!("operation {} has the unknown verb {other}", record.id)))),
            }
        }

        /// Every verb with its steps and its point of no return: the tests must try them all.
        #[cfg(test)]
        pub fn known() -> Vec<(&'static str, Vec<&'static str>, usize)> {
            vec![$((
                <$verb as Verb>::WORD,
                <$verb as Verb>::STEPS.iter().map(|step| step.name).collect(),
                <$verb as Verb>::POINT_OF_NO_RETURN,
            ),)+]
        }
    };
}

verbs!(
    apply::Apply,
    bookmark::Bookmark,
    bookmark::Unbookmark,
    clone::Clone,
    create::Create,
    export::Export,
    image::ImageBuild,
    image::ImagePush,
    image::ImageRemove,
    image::ImageSave,
    import::Import,
    lease::Lease,
    link::Link,
    power::Start,
    power::Stop,
    prepare::Prepare,
    promote::Promote,
    rebase::Rebase,
    refresh::Refresh,
    remove::Remove,
    snapshot::Snapshot,
    thin::Thin,
    unlink::Unlink,
    volume::Attach,
    volume::Detach,
);
