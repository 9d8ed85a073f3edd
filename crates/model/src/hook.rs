//! What stitches a clone together: edits of its files and databases, and the user's own commands at named
//! points of an operation.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::name::Name;

macro_rules! points {
    ($($(#[$doc:meta])* $point:ident = $word:literal),+ $(,)?) => {
        /// Where in an operation hooks run. A `pre` hook runs before anything is touched, a `post` hook when all is
        /// done, but before it can no longer be undone.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        pub enum HookPoint { $($(#[$doc])* $point),+ }

        impl HookPoint {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$point),+];

            /// The word.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$point => $word),+ }
            }
        }
    };
}

points! {
    /// A first copy of production was made (by `link`, or anew after a gap).
    PostIngest = "post-ingest",
    /// A clone got its data and its servers answer; also after each refresh and rewind.
    ConfigureClone = "configure-clone",
    /// Before a refresh.
    PreRefresh = "pre-refresh",
    /// After a refresh.
    PostRefresh = "post-refresh",
    /// Before a rewind.
    PreRewind = "pre-rewind",
    /// After a rewind.
    PostRewind = "post-rewind",
    /// Before each snapshot of the app and of its clones, also before scheduled ones.
    PreSnapshot = "pre-snapshot",
    /// After each snapshot, whatever came of it.
    PostSnapshot = "post-snapshot",
    /// Before `pando start` starts a clone's servers.
    PreStart = "pre-start",
    /// After `pando start`.
    PostStart = "post-start",
    /// Before `pando stop` stops a clone's servers.
    PreStop = "pre-stop",
    /// After `pando stop`.
    PostStop = "post-stop",
    /// Before a clone is removed.
    PreDestroy = "pre-destroy",
    /// After a clone was promoted.
    PostPromote = "post-promote",
}

impl std::fmt::Display for HookPoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A command of the user's at a point of an operation. A failing one fails the operation, which is undone.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Hook {
    /// When it runs.
    pub at: HookPoint,
    /// What it is called in errors and events; the program's name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The program and its arguments; no shell reads them unless a shell is what is named. `{{db.host}}` and the
    /// like are filled in; what is secret belongs into `env`, because arguments are public.
    pub run: Vec<String>,
    /// Variables besides those that tell of the clone; `{{db.password}}` and the like are filled in.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The account it runs as, where the daemon is root and HOME/hook-accounts names that account. By default it
    /// is `pando-hook`, which owns nothing; where the daemon is not root it is the daemon's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
    /// Seconds after which it and everything that it has started is killed; 600 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<u64>,
    /// Whether it masks: a clone on which all that masks has succeeded is a masked one, and what is made of it says so.
    /// At `configure-clone` only.
    #[serde(default, skip_serializing_if = "is_false")]
    pub masks: bool,
}

impl Hook {
    /// What it is called.
    pub fn label(&self) -> &str {
        let program = || self.run.first().map_or("", |program| program.rsplit('/').next().unwrap_or(program));
        self.name.as_deref().unwrap_or_else(program)
    }
}

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hook({} {})", self.at, self.label())
    }
}

/// What kind of file an edit reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum EditFormat {
    /// `/root/element/@attribute`, `/root/element[2]`, `/root/element[@name='x']`.
    Xml,
    /// `[section]key`, or `key` before the first section.
    Ini,
    /// Java's properties: `some.key`.
    Properties,
    /// A JSON pointer: `/servers/0/host`. Comments are let be.
    Json,
    /// Keys and numbers of entries: `/production/host`.
    Yaml,
    /// `NAME` of a `define`, or `$name` of an assignment.
    Php,
    /// `NAME` of a shell-like `NAME=value`.
    Env,
}

impl EditFormat {
    /// The format that a file's name tells.
    pub fn of_file(file: &str) -> Option<Self> {
        let name = file.rsplit('/').next().unwrap_or(file);
        if name == ".env" || name.starts_with(".env.") {
            return Some(Self::Env);
        }
        match name.rsplit_once('.')?.1 {
            "xml" => Some(Self::Xml),
            "ini" | "cnf" | "cfg" => Some(Self::Ini),
            "properties" => Some(Self::Properties),
            "json" => Some(Self::Json),
            "yml" | "yaml" => Some(Self::Yaml),
            "php" => Some(Self::Php),
            "env" => Some(Self::Env),
            _ => None,
        }
    }
}

/// One change of a clone, made after it got its data (also after each refresh and rewind), before the hooks of
/// `configure-clone`. Exactly one of `set`, `replace`, `remove`, `write` and `sql` is given. Files are named
/// `SOURCE/PATH`; in values and statements `{{db.host}}` and the like are filled in.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Edit {
    /// The file in which the value at `path` becomes `value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<String>,
    /// The file in which every `find` (or match of `pattern`) becomes `with`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace: Option<String>,
    /// The file that goes; with `path`: the entry of it. That it is not there is no error: lock files come and go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove: Option<String>,
    /// The file that is written anew from `text`; its directory must be there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write: Option<String>,
    /// A statement for the database of `source`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql: Option<String>,
    /// How `set` and `remove` read the file; by its ending when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<EditFormat>,
    /// The place in the file, in the manner of its format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// What `set` writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Whether `set` may add what is not there (ini, properties, env).
    #[serde(default, skip_serializing_if = "is_false")]
    pub create: bool,
    /// The text that `replace` looks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub find: Option<String>,
    /// A regular expression that `replace` looks for instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// What `replace` puts there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with: Option<String>,
    /// What `write` writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The permission bits of a file that `write` makes, such as "0640"; "0600" when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// The source whose database `sql` is for; the only one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Name>,
    /// Whether it masks: a clone on which all that masks has succeeded is a masked one, and what is made of it says so.
    #[serde(default, skip_serializing_if = "is_false")]
    pub masks: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
const fn is_false(value: &bool) -> bool {
    !*value
}

impl Edit {
    /// What it does, in one line and without values, which may be secret.
    pub fn label(&self) -> String {
        let at = self.path.as_deref().map(|path| format!(" {path}")).unwrap_or_default();
        match (&self.set, &self.replace, &self.remove, &self.write, &self.sql) {
            (Some(file), ..) => format!("set {file}{at}"),
            (_, Some(file), ..) => format!("replace in {file}"),
            (_, _, Some(file), ..) => format!("remove {file}{at}"),
            (_, _, _, Some(file), _) => format!("write {file}"),
            (.., Some(_)) => match &self.source {
                Some(source) => format!("sql on {source}"),
                None => "sql".to_owned(),
            },
            _ => "an edit that does nothing".to_owned(),
        }
    }

    /// Why it cannot be, whatever it is made on.
    pub fn wrong(&self) -> Option<String> {
        let kinds = [&self.set, &self.replace, &self.remove, &self.write, &self.sql];
        if kinds.iter().filter(|kind| kind.is_some()).count() != 1 {
            return Some("an edit has exactly one of set, replace, remove, write and sql".to_owned());
        }
        let given = [
            ("path", self.path.is_some(), self.set.is_some() || self.remove.is_some()),
            ("format", self.format.is_some(), self.set.is_some() || self.remove.is_some()),
            ("value", self.value.is_some(), self.set.is_some()),
            ("create", self.create, self.set.is_some()),
            ("find", self.find.is_some(), self.replace.is_some()),
            ("pattern", self.pattern.is_some(), self.replace.is_some()),
            ("with", self.with.is_some(), self.replace.is_some()),
            ("text", self.text.is_some(), self.write.is_some()),
            ("mode", self.mode.is_some(), self.write.is_some()),
            ("source", self.source.is_some(), self.sql.is_some()),
        ];
        let what = self.label();
        if let Some((key, ..)) = given.iter().find(|(_, given, fits)| *given && !*fits) {
            return Some(format!("{what}: {key} does not belong there"));
        }
        let missing = |key: &str| Some(format!("{what}: {key} is missing"));
        if self.set.is_some() && self.path.is_none() {
            return missing("path");
        }
        if self.set.is_some() && self.value.is_none() {
            return missing("value");
        }
        if self.replace.is_some() && self.with.is_none() {
            return missing("with");
        }
        if self.replace.is_some() && self.find.is_some() == self.pattern.is_some() {
            return Some(format!("{what}: it needs either find or pattern"));
        }
        if self.write.is_some() && self.text.is_none() {
            return missing("text");
        }
        let mode = self.mode.as_deref();
        if mode.is_some_and(|mode| !u32::from_str_radix(mode, 8).is_ok_and(|mode| mode <= 0o777)) {
            return Some(format!("{what}: mode is permission bits such as \"0640\""));
        }
        None
    }

    /// The file it is about, if it is about one.
    pub fn file(&self) -> Option<&str> {
        [&self.set, &self.replace, &self.remove, &self.write].into_iter().find_map(Option::as_deref)
    }
}

impl std::fmt::Debug for Edit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Edit({})", self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_the_points_are_those_of_serde() -> Result<(), serde_json::Error> {
        for point in HookPoint::ALL {
            assert_eq!(serde_json::to_value(point)?, point.as_str());
        }
        Ok(())
    }

    #[test]
    fn an_edit_is_one_thing_and_whole() {
        let text = |text: &str| Some(text.to_owned());
        let set = Edit { set: text("home/a.xml"), path: text("/a"), value: text("x"), ..Edit::default() };
        assert_eq!(set.wrong(), None);
        for bad in [
            Edit::default(),
            Edit { remove: text("home/b"), ..set.clone() },
            Edit { value: None, ..set.clone() },
            Edit { find: text("x"), ..set.clone() },
            Edit { replace: text("home/a"), with: text("x"), ..Edit::default() },
            Edit { write: text("home/a"), text: text("x"), mode: text("9"), ..Edit::default() },
        ] {
            assert!(bad.wrong().is_some(), "{bad:?}");
        }
        assert!(!format!("{set:?}").contains("\"x\""));
    }

    #[test]
    fn a_files_name_tells_its_format() {
        for (file, format) in [
            ("home/dbconfig.xml", Some(EditFormat::Xml)),
            ("web/.env", Some(EditFormat::Env)),
            ("web/.env.local", Some(EditFormat::Env)),
            ("web/config/database.yml", Some(EditFormat::Yaml)),
            ("home/.jira-home.lock", None),
            ("web/README", None),
        ] {
            assert_eq!(EditFormat::of_file(file), format, "{file}");
        }
    }
}
