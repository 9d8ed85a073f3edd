//! States, as they are stored, sent and shown.
//!
//! ```text
//! app    linking ──▶ following ◀──▶ disconnected        following ──▶ paused (pool nearly full)
//!           │             └──▶ rebasing ──▶ following
//!           └──▶ failed
//! clone  creating ──▶ running ◀──▶ stopped ;  running | stopped ◀──▶ refreshing ;  any ──▶ removing
//! ```

use serde::{Deserialize, Serialize};

macro_rules! states {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident => $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// The word, as stored and shown.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
            /// The state with that word, if there is one.
            pub fn from_word(word: &str) -> Option<Self> {
                match word { $($text => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

states!(
    /// How an app's mirror is doing.
    AppState {
        /// The first copy is being made.
        Linking => "linking",
        /// The mirror follows production.
        Following => "following",
        /// Production cannot be reached; the timeline stands still.
        Disconnected => "disconnected",
        /// The log was lost on production; a new first copy is being made.
        Rebasing => "rebasing",
        /// The mirror was stopped because the pool is nearly full.
        Paused => "paused",
        /// The mirror cannot go on; `show` says why.
        Failed => "failed",
        /// There is no production behind it: what there is of it are its clones.
        Detached => "detached",
        /// The app is being removed.
        Removing => "removing",
    }
);

states!(
    /// How a clone is doing.
    CloneState {
        /// Its volume or servers are being made.
        Creating => "creating",
        /// Its servers answer; where they run in containers of the user's, such a container uses its data.
        Running => "running",
        /// Its data is there, its servers are not.
        Stopped => "stopped",
        /// Its data is being replaced (refresh, rewind, undo).
        Refreshing => "refreshing",
        /// A server died and cannot be started; `show` says why.
        Failed => "failed",
        /// It is going away.
        Removing => "removing",
    }
);

states!(
    /// What a clone's data is worth.
    Profile {
        /// Fast; may lose its last writes when the machine dies.
        Disposable => "disposable",
        /// With production's own durability.
        Durable => "durable",
    }
);

states!(
    /// Where the servers of a clone run.
    RuntimeKind {
        /// As processes of this machine.
        Process => "process",
        /// In containers of a Docker or Podman engine.
        Docker => "docker",
    }
);

states!(
    /// Where an operation stands.
    OperationState {
        /// Steps are being applied.
        Running => "running",
        /// A step failed; the steps before it are being undone.
        Undoing => "undoing",
        /// All steps applied.
        Done => "done",
        /// A step failed and everything was undone.
        Failed => "failed",
        /// A step could not be undone; it is tried again at the next start.
        Stuck => "stuck",
    }
);

states!(
    /// Where one step of an operation stands.
    StepState {
        /// Not begun.
        Waiting => "waiting",
        /// The journal says "about to"; the world may or may not have been touched.
        Begun => "begun",
        /// Applied.
        Done => "done",
        /// Undone again.
        Undone => "undone",
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_of_serde() {
        for state in [CloneState::Creating, CloneState::Refreshing, CloneState::Removing] {
            assert_eq!(serde_json::to_value(state).ok(), Some(state.as_str().into()));
            assert_eq!(CloneState::from_word(state.as_str()), Some(state));
        }
        assert_eq!(AppState::from_word("nonsense"), None);
    }
}
