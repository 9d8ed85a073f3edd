//! Verbs of images with data in them.
//!
//! | file | what it answers for |
//! |---|---|
//! | `build.rs` | `image build`: a source at a moment as layers on a server image, kept in HOME and given to the engine |
//! | `bake.rs` | the tree of it: recovered, cut off production, let in to, stopped; and what of it becomes a layer |
//! | `push.rs` | `image push`: sends what its registry has not |
//! | `save.rs` | an image as one file, for engines without a registry |
//! | `site.rs` | where a source lies in an image, and which one is meant |
//! | `remove.rs` | `image rm`: forgets a name, and what no name needs |

mod bake;
mod build;
mod push;
mod remove;
mod save;
mod site;

pub use build::ImageBuild;
pub use push::ImagePush;
pub use remove::ImageRemove;
pub use save::ImageSave;
