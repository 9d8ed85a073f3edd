//! Values for a shell: quoted so that no value can end its quotes, and variable names that a shell takes.

use std::collections::BTreeMap;

use pando_model::{CloneView, EngineKind, Name, SourceUrl, SourceView};

/// A value as one word of a POSIX shell.
pub fn shell(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:@%+=,-".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\'', r"'\''"))
}

/// A name as part of a variable's name.
pub fn variable(name: &Name) -> String {
    let mut text = name.as_str().to_ascii_uppercase().replace(['-', '.'], "_");
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        text.insert(0, '_');
    }
    text
}

/// What libpq reads from the environment, from a clone's address.
pub fn libpq(source: &SourceView) -> Option<BTreeMap<&'static str, String>> {
    let url: SourceUrl = source.url.as_deref()?.parse().ok()?;
    let from_query = url.query.get("host").cloned();
    let host = source.host.clone().or_else(|| url.host.clone()).or(from_query);
    let port = source.port.or(url.port).map(|port| port.to_string());
    let known = [
        ("PGHOST", host.or_else(|| source.socket_dir.clone())),
        ("PGPORT", port),
        ("PGUSER", url.user.clone()),
        ("PGPASSWORD", url.password.clone()),
        ("PGDATABASE", url.database().map(str::to_owned)),
    ];
    Some(known.into_iter().filter_map(|(name, value)| Some((name, value?))).collect())
}

/// What `redis-cli` reads, from a clone's address: arguments, and the password in the environment.
pub fn redis(source: &SourceView) -> Option<(Vec<String>, BTreeMap<&'static str, String>)> {
    let url: SourceUrl = source.url.as_deref()?.parse().ok()?;
    let known = [
        ("-h", url.host.clone()),
        ("-p", url.port.map(|port| port.to_string())),
        ("-n", url.database().map(str::to_owned)),
        ("--user", url.user.clone()),
    ];
    let args = known.into_iter().filter_map(|(flag, value)| Some([flag.to_owned(), value?])).flatten().collect();
    Some((args, url.password.map(|password| ("REDISCLI_AUTH", password)).into_iter().collect()))
}

/// The variables of a clone, in the order in which they are printed, and the ones that two sources claim.
pub fn variables(clone: &CloneView) -> (Vec<(String, String)>, Vec<String>) {
    let mut all: Vec<(String, String)> = Vec::new();
    let mut claimed = Vec::new();
    for (name, source) in &clone.sources {
        let base = variable(name);
        let directory = (source.engine == EngineKind::Files).then(|| (format!("{base}_PATH"), source.path.clone()));
        let url = source.url.clone().map(|url| (format!("{base}_URL"), url));
        for (variable, value) in url.into_iter().chain(directory) {
            if all.iter().any(|(known, _)| *known == variable) {
                claimed.push(variable);
            } else {
                all.push((variable, value));
            }
        }
    }
    // The usual names: an application has one database, and perhaps one Redis beside it.
    let beside = |kind: EngineKind| matches!(kind, EngineKind::Files | EngineKind::Redis);
    let mut redis = clone.sources.values().filter(|source| source.engine == EngineKind::Redis);
    if let (Some(only), None) = (redis.next(), redis.next())
        && let Some(url) = &only.url
        && all.iter().all(|(known, _)| known != "REDIS_URL")
    {
        all.push(("REDIS_URL".to_owned(), url.clone()));
    }
    let mut databases = clone.sources.values().filter(|source| !beside(source.engine));
    if let (Some(only), None) = (databases.next(), databases.next()) {
        let url = only.url.clone().map(|url| ("DATABASE_URL".to_owned(), url));
        let libpq = (only.engine == EngineKind::Postgres).then(|| libpq(only)).flatten().unwrap_or_default();
        let more = url.into_iter().chain(libpq.into_iter().map(|(name, value)| (name.to_owned(), value)));
        let fresh: Vec<_> = more.filter(|(name, _)| all.iter().all(|(known, _)| known != name)).collect();
        all.extend(fresh);
    }
    (all, claimed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(engine: &str, url: &str) -> serde_json::Value {
        serde_json::json!({"engine": engine, "path": "/pool/a b", "url": url, "host": "127.0.0.1", "port": 5444})
    }

    fn clone(sources: serde_json::Value) -> CloneView {
        serde_json::from_value(serde_json::json!({
            "name": "dev1", "id": "clone-0123456789abcdef", "app": "shop", "parent": "shop",
            "moment": "2026-11-21T10:00:00Z", "asked": "latest", "snapshot": null, "profile": "disposable",
            "record": false, "state": "running", "lease_until": null, "created_at": "2026-11-21T10:00:00Z",
            "sources": sources, "timing": {"storage_ms": 1, "ready_ms": 2}, "unique_bytes": null,
            "unique_is_estimate": false
        }))
        .expect("a clone")
    }

    #[test]
    fn values_survive_a_shell() {
        assert_eq!(shell("postgres://u:p@127.0.0.1:5444/shop"), "postgres://u:p@127.0.0.1:5444/shop");
        assert_eq!(shell(""), "''");
        assert_eq!(shell("it's $HOME `x` \\ \"q\"\n!"), "'it'\\''s $HOME `x` \\ \"q\"\n!'");
        assert_eq!(shell("a?b&c;d"), "'a?b&c;d'");
    }

    #[test]
    fn what_a_shell_reads_back_is_what_was_quoted() {
        for value in ["it's", "''", "$(id)", "a b", "p'w$d\"`\\", "é\n", "*", "~", "#x", "-n"] {
            let shell = pando_host::Tool::find("sh", "dash").expect("sh");
            let script = format!("X={}; printf %s \"$X\"", super::shell(value));
            assert_eq!(shell.command().arg("-c").arg(script).run().expect("ran").text(), value);
        }
    }

    #[test]
    fn names_become_variables() {
        let read = ["db", "my-app.v2", "7up"].map(|name| variable(&name.parse().expect("name")));
        assert_eq!(read, ["DB", "MY_APP_V2", "_7UP"]);
    }

    #[test]
    fn one_database_also_gives_the_usual_names() {
        let clone = clone(serde_json::json!({
            "db": source("postgres", "postgres://shop:p%27w%24d@127.0.0.1:5444/shop%20x"),
            "files": {"engine": "files", "path": "/pool/a b"}
        }));
        let (all, claimed) = variables(&clone);
        let value = |name: &str| all.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        assert_eq!(value("DATABASE_URL"), value("DB_URL"));
        assert_eq!(value("PGPASSWORD"), Some("p'w$d"));
        assert_eq!(
            (value("PGHOST"), value("PGPORT"), value("PGUSER")),
            (Some("127.0.0.1"), Some("5444"), Some("shop"))
        );
        assert_eq!((value("PGDATABASE"), value("FILES_PATH")), (Some("shop x"), Some("/pool/a b")));
        assert!(claimed.is_empty());
    }

    #[test]
    fn a_redis_beside_a_database_gives_both_usual_names() {
        let redis = source("redis", "redis://pando:pw@127.0.0.1:6444/0");
        let (all, claimed) =
            variables(&clone(serde_json::json!({"db": source("postgres", "postgres://u:p@h/d"), "q": redis})));
        let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
        assert!(["DB_URL", "Q_URL", "REDIS_URL", "DATABASE_URL"].iter().all(|name| names.contains(name)), "{names:?}");
        assert!(claimed.is_empty());
    }

    #[test]
    fn two_databases_give_only_their_own_names_and_clashes_are_told() {
        let url = "postgres://u:p@127.0.0.1:1/a";
        let clone = clone(serde_json::json!({"a-b": source("postgres", url), "a.b": source("postgres", url)}));
        let (all, claimed) = variables(&clone);
        assert_eq!(all.len(), 1);
        assert_eq!(claimed, ["A_B_URL"]);
    }
}
