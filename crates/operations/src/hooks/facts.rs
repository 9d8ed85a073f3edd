//! What hooks and edits are told of a clone (or of an app): as `{{db.host}}`, as variables, and as JSON.

use std::collections::BTreeMap;

use pando_edit::Edited;
use pando_model::{Hook, HookPoint, SourceUrl};
use serde_json::{Value, json};

use crate::fault::Done;
use crate::journal::Run;
use crate::owner::Owner;
use crate::units;

/// What is known of a source of a clone, by the names it is asked for.
pub const OF_SOURCE: [&str; 9] =
    ["engine", "path", "url", "host", "port", "user", "password", "database", "socket_dir"];
/// Of all else.
pub const OF_ALL: [&str; 9] = [
    "app.name",
    "clone.name",
    "clone.id",
    "clone.moment",
    "clone.profile",
    "hook.point",
    "operation.id",
    "owner.name",
    "owner.moment",
];

/// The facts, by their names.
pub struct Facts {
    values: BTreeMap<String, String>,
    sources: Vec<String>,
    secrets: Vec<String>,
    /// Whether new content has to be on disk before all goes on.
    pub durable: bool,
}

impl Facts {
    /// Those of an owner at a point.
    pub fn of(run: &Run, point: HookPoint, owner: &Owner) -> Done<Self> {
        let world = &run.world;
        let mut values = BTreeMap::new();
        let mut secrets = Vec::new();
        let mut put = |key: String, value: String| values.insert(key, value);
        put("hook.point".to_owned(), point.to_string());
        put("operation.id".to_owned(), run.id.to_string());
        put("app.name".to_owned(), owner.app.name.to_string());
        put("owner.name".to_owned(), owner.name.to_string());
        let mut password = None;
        if let Some(clone) = &owner.clone {
            put("clone.name".to_owned(), clone.name.to_string());
            put("clone.id".to_owned(), clone.id.to_string());
            put("clone.moment".to_owned(), clone.moment.to_string());
            put("owner.moment".to_owned(), clone.moment.to_string());
            put("clone.profile".to_owned(), clone.profile.to_string());
            let word = world.unseal_text(&clone.password)?;
            secrets.push(word.clone());
            password = Some(word);
        }
        for (name, held) in &owner.sources {
            let mut put = |key: &str, value: String| put(format!("{name}.{key}"), value);
            put("engine", held.kind.to_string());
            let clone = owner.clone.as_ref();
            // The stable place of a clone's data, which later refreshes swap. An app has none.
            let path = clone
                .map_or_else(|| held.seat.data.clone(), |clone| world.home.clone_dir(&clone.name).join(name.as_str()));
            put("path", path.to_string_lossy().into_owned());
            let port = owner.ports.get(name).copied();
            let url = port
                .zip(password.as_deref())
                .and_then(|(port, password)| held.engine.address(&held.source, port, &units::credentials(password)));
            let (Some(url), Some(port)) = (url, port) else { continue };
            put("host", "127.0.0.1".to_owned());
            put("port", port.to_string());
            put("socket_dir", held.seat.run.to_string_lossy().into_owned());
            if let Ok(parts) = url.parse::<SourceUrl>() {
                put("user", parts.user.clone().unwrap_or_default());
                put("password", parts.password.clone().unwrap_or_default());
                put("database", parts.database().unwrap_or_default().to_owned());
            }
            put("url", url);
        }
        let durable = owner.clone.as_ref().is_some_and(|clone| clone.profile == pando_model::Profile::Durable);
        let sources = owner.sources.keys().map(ToString::to_string).collect();
        Ok(Self { values, sources, secrets, durable })
    }

    /// One fact.
    pub fn get(&self, key: &str) -> Option<String> {
        self.values.get(key).cloned()
    }

    /// A text with what stands between double braces filled in.
    pub fn fill(&self, text: &str) -> Edited<String> {
        pando_edit::fill(text, &|key| self.get(key))
    }

    /// As variables: `PANDO_CLONE_NAME`, `PANDO_DB_HOST`.
    pub fn variables(&self) -> BTreeMap<String, String> {
        let name = |key: &str| format!("PANDO_{}", key.replace(['.', '-'], "_").to_uppercase());
        self.values.iter().map(|(key, value)| (name(key), value.clone())).collect()
    }

    /// As JSON: `{"clone": {"name": …}, "sources": {"db": {"host": …}}}`.
    pub fn json(&self) -> String {
        let mut all = json!({ "sources": {} });
        for (key, value) in &self.values {
            let Some((of, key)) = key.rsplit_once('.') else { continue };
            let place =
                if self.sources.iter().any(|source| source == of) { &mut all["sources"][of] } else { &mut all[of] };
            place[key] = Value::String(value.clone());
        }
        all.to_string()
    }

    /// What may be shown to nobody.
    pub fn secrets(&self, hook: &Hook) -> Vec<String> {
        // The values of its variables may be passwords; short ones are words that would be missed.
        let env = hook.env.values().filter(|value| value.len() >= 8 && !value.contains("{{")).cloned();
        self.secrets.iter().cloned().chain(env).collect()
    }
}
