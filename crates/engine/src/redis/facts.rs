//! What preflight learns of production: its version, what it lets us do, and the settings that change what data
//! or commands mean.

use std::collections::BTreeMap;

use pando_host::{Clock, SystemClock};
use pando_model::SourceUrl;
use serde::{Deserialize, Serialize};

use super::client::{Client, ClientError};
use super::install::{Family, Installations, Version};
use super::production;
use crate::{EngineError, Finding, Preflight};

/// What is known of production.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Facts {
    /// Its version.
    pub version: Version,
    /// The whole of it: `7.0.15`.
    #[serde(default)]
    pub exact: String,
    /// How many databases it has.
    pub databases: u32,
    /// Settings that clones share.
    pub settings: BTreeMap<String, String>,
}

/// Settings that change what an application sees: carried over where production tells them.
pub const SHARED: [&str; 3] = ["maxmemory", "maxmemory-policy", "notify-keyspace-events"];
/// Where production does not tell: more than anybody has.
const MANY_DATABASES: u32 = 1024;
/// Modules that Redis 8 brings along.
const BUILT_IN: [&str; 5] = ["ReJSON", "search", "timeseries", "bf", "vectorset"];

fn fatal(what: impl Into<String>, fix: Option<String>) -> Finding {
    Finding { what: what.into(), fix, fatal: true }
}

fn advice(what: impl Into<String>, fix: Option<&str>) -> Finding {
    Finding { what: what.into(), fix: fix.map(str::to_owned), fatal: false }
}

fn config(client: &mut Client, name: &str) -> Option<String> {
    client.call(&["CONFIG", "GET", name]).ok()?.list().get(1).map(super::client::Reply::text)
}

/// Looks at production.
pub fn look(installations: &Installations, url: &SourceUrl) -> Result<Preflight, EngineError> {
    let failed = |error: ClientError| EngineError::Server {
        action: format!("production's Redis at {url} cannot be asked"),
        source: Box::new(error),
    };
    let mut client = production::connect(url, "pando-preflight").map_err(failed)?;
    let info = match client.info(None) {
        Ok(info) => info,
        Err(ClientError::Refused(why)) if why.starts_with("NOPERM") => {
            let user = url.user.as_deref().unwrap_or("default");
            let fix = format!("ACL SETUSER {user} +info +psync +replconf +ping");
            return Ok(Preflight { findings: vec![fatal(why, Some(fix))], ..Preflight::default() });
        }
        Err(error) => return Err(failed(error)),
    };
    let value = |name: &str| info.get(name).map(String::as_str).unwrap_or_default();
    let (family, exact) = match info.get("valkey_version") {
        Some(version) => (Family::Valkey, version.as_str()),
        None => (Family::Redis, value("redis_version")),
    };
    let version = Version::parse(family, exact)
        .ok_or_else(|| EngineError::Invalid("production does not say its version".to_owned()))?;
    let mut findings = Vec::new();
    if let Err(error) = installations.for_production(version) {
        let fix = if installations.is_empty() { Some("apt-get install redis-server".to_owned()) } else { None };
        findings.push(fatal(error.to_string(), fix));
    }
    if value("cluster_enabled") == "1" {
        findings.push(fatal("production is a node of a cluster: only single servers can be linked", None));
    }
    findings.extend(modules(&mut client, version));
    findings.extend(may_replicate(&mut client, url));
    let save = config(&mut client, "save");
    if value("aof_enabled") == "0" && save.as_deref() == Some("") {
        findings.push(advice(
            "production keeps nothing on disk: a restart empties it (moments before that stay in the timeline)",
            Some("CONFIG SET save '3600 1 300 100'"),
        ));
    }
    findings.extend(clock(&mut client));
    let databases = config(&mut client, "databases").and_then(|text| text.parse().ok()).unwrap_or(MANY_DATABASES);
    let settings = SHARED.iter().filter_map(|name| Some(((*name).to_owned(), config(&mut client, name)?))).collect();
    let facts = Facts { version, exact: exact.to_owned(), databases, settings };
    Ok(Preflight {
        facts: serde_json::to_value(&facts).unwrap_or_default(),
        version: Some(version.to_string()),
        findings,
        notes: vec![
            "keys whose TTL has run out since the moment are gone in clones; `--set redis.ttl=alive` gives them the \
             time they had left"
                .to_owned(),
        ],
        bytes: value("used_memory").parse().ok(),
        belongs_to: None,
    })
}

/// Modules whose data no server here can load.
fn modules(client: &mut Client, version: Version) -> Option<Finding> {
    let listed = client.call(&["MODULE", "LIST"]).ok()?;
    let names: Vec<String> = listed
        .list()
        .iter()
        .filter_map(|module| {
            let fields = module.list();
            let at = fields.iter().position(|field| field.text() == "name")?;
            Some(fields.get(at + 1)?.text())
        })
        .filter(|name| !(version.number >= (8, 0) && BUILT_IN.contains(&name.as_str())))
        .collect();
    let what = format!("production has modules that Pando's servers do not load: {}", names.join(", "));
    (!names.is_empty()).then(|| fatal(what, None))
}

/// Whether this user may be a replica.
fn may_replicate(client: &mut Client, url: &SourceUrl) -> Option<Finding> {
    if let Ok(known) = client.call(&["COMMAND", "INFO", "PSYNC"])
        && known.list().first().is_some_and(|command| command.list().is_empty())
    {
        return Some(fatal("production has no PSYNC command (renamed, or taken away by its provider)", None));
    }
    let user = url.user.as_deref().unwrap_or("default");
    for command in [&["PSYNC", "?", "-1"][..], &["REPLCONF", "ACK", "0"], &["PING"]] {
        let words = [&["ACL", "DRYRUN", user][..], command].concat();
        // Where it may not be asked, the first copy will tell.
        let answer = client.call(&words).ok()?.text();
        if answer != "OK" {
            let fix = format!("ACL SETUSER {user} +info +psync +replconf +ping");
            return Some(fatal(answer, Some(fix)));
        }
    }
    None
}

/// Times of this engine are of this machine's clock: production's should say the same.
fn clock(client: &mut Client) -> Option<Finding> {
    let seconds: i64 = client.call(&["TIME"]).ok()?.list().first()?.text().parse().ok()?;
    let off = seconds - SystemClock.now().as_second();
    (off.abs() > 1).then(|| {
        advice(
            format!("production's clock is {off} s off this machine's: moments are told by this machine's"),
            Some("synchronise both clocks (chrony, systemd-timesyncd)"),
        )
    })
}
