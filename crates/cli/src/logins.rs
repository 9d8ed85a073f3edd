//! What a registry of images is shown, looked up where the user is; the daemon may run as somebody else. In this order:
//! the environment (`PANDO_REGISTRY_USER`, `PANDO_REGISTRY_PASSWORD`), then the files of Docker and Podman, each with
//! the helper programs that it names (`docker-credential-NAME`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use pando_host::tool::SEARCH_PATH;
use pando_host::{Bounds, Tool};
use pando_model::{ErrorKind, Problem, RegistryLogin};
use serde_json::Value;

use crate::context::variable;
use crate::errors::{Done, Error};
use crate::output;

/// What Docker calls its own registry where it keeps logins.
const HUB: &str = "https://index.docker.io/v1/";
/// What a helper gives as the user of an identity token.
const IDENTITY: &str = "<token>";
/// A helper may ask its user something.
const HELPER: Bounds = Bounds { time: Duration::from_secs(120), output: 1 << 20 };

/// A repository, as logins are kept by.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    /// Host and port; `docker.io` where a name has none.
    registry: String,
    /// The rest of the name, without its tag.
    path: String,
}

impl Place {
    /// Of a name of an image; a directory has no registry.
    fn of(reference: &str) -> Option<Self> {
        if reference.starts_with("oci:") {
            return None;
        }
        let name = reference.split('@').next().unwrap_or_default();
        let name = match name.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => name,
            _ => name,
        };
        let (registry, path) = match name.split_once('/') {
            Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host, path),
            _ => ("docker.io", name),
        };
        Some(Self { registry: registry.to_owned(), path: path.to_owned() })
    }

    /// What helper programs are asked for.
    fn server(&self) -> &str {
        if self.registry == "docker.io" { HUB } else { &self.registry }
    }

    /// What a login for it may be kept under, the narrowest first: Podman knows logins for a part of a registry.
    fn keys(&self) -> Vec<String> {
        let host = &self.registry;
        let narrow = self.path.match_indices('/').map(|(at, _)| &self.path[..at]).chain([self.path.as_str()]);
        let mut keys: Vec<String> = narrow.map(|path| format!("{host}/{path}")).collect();
        keys.reverse();
        keys.push(host.clone());
        keys.extend(["https://", "http://"].map(|scheme| format!("{scheme}{host}")));
        keys.extend(["v1", "v2"].map(|version| format!("https://{host}/{version}/")));
        if host == "docker.io" {
            keys.extend([HUB.to_owned(), "index.docker.io".to_owned()]);
        }
        keys
    }

    fn login(&self, user: &str, password: &str) -> RegistryLogin {
        RegistryLogin { user: user.to_owned(), password: password.to_owned(), registry: Some(self.registry.clone()) }
    }
}

/// What the registry of an image is shown.
pub fn of_image(reference: &str) -> Done<Option<RegistryLogin>> {
    let Some(place) = Place::of(reference) else { return Ok(None) };
    match from_environment(&place)? {
        Some(login) => Ok(Some(login)),
        None => kept(&place),
    }
}

/// What the registry of a server image is shown. The environment's login is for the registry of the image that is
/// made, if that has one.
pub fn of_base(base: &str, reference: &str) -> Done<Option<RegistryLogin>> {
    let Some(place) = Place::of(base) else { return Ok(None) };
    let made = Place::of(reference).map(|made| made.registry);
    if made.as_ref() == Some(&place.registry) || (made.as_deref() == Some("docker.io") && base != OFFICIAL) {
        return of_image(base);
    }
    kept(&place)
}

/// Stands for the server images that are taken when none is named.
pub const OFFICIAL: &str = "docker.io/library/postgres";

fn from_environment(place: &Place) -> Done<Option<RegistryLogin>> {
    match (variable("PANDO_REGISTRY_USER"), variable("PANDO_REGISTRY_PASSWORD")) {
        (Some(user), Some(password)) => Ok(Some(place.login(&user, &password))),
        (None, None) => Ok(None),
        _ => {
            let hint = "PANDO_REGISTRY_USER and PANDO_REGISTRY_PASSWORD";
            Err(Error::usage("a login at a registry needs both of its variables", hint))
        }
    }
}

/// The files that keep logins, of which the first that knows one wins.
fn files() -> Vec<PathBuf> {
    let path = |name: &str| variable(name).map(PathBuf::from);
    let home = path("HOME");
    let below_home = |below: &str| home.as_ref().map(|home| home.join(below));
    let docker = path("DOCKER_CONFIG").or_else(|| below_home(".docker"));
    let config = path("XDG_CONFIG_HOME").or_else(|| below_home(".config"));
    [
        path("REGISTRY_AUTH_FILE"),
        docker.map(|dir| dir.join("config.json")),
        path("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
        config.map(|dir| dir.join("containers/auth.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn kept(place: &Place) -> Done<Option<RegistryLogin>> {
    for file in files() {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        let Ok(config) = serde_json::from_str::<Value>(&text) else {
            output::note(&format!("{} is no JSON: no login is taken from it", file.display()));
            continue;
        };
        if let Some(login) = kept_in(&config, place)? {
            return Ok(Some(login));
        }
    }
    Ok(None)
}

/// The login that one file keeps for a registry, itself or with a helper.
fn kept_in(config: &Value, place: &Place) -> Done<Option<RegistryLogin>> {
    let for_this = place.keys().iter().find_map(|key| config["credHelpers"][key].as_str().map(str::to_owned));
    if let Some(helper) = for_this {
        return asked(&helper, place).map_err(|why| broken(&helper, place, &why));
    }
    if let Some(helper) = config["credsStore"].as_str().filter(|name| !name.is_empty()) {
        match asked(helper, place) {
            Ok(Some(login)) => return Ok(Some(login)),
            Ok(None) => {}
            // Docker goes on with what the file itself has; a store that is left over from elsewhere is common.
            Err(why) => output::note(&format!("docker-credential-{helper} is of no use: {why}")),
        }
    }
    Ok(place.keys().iter().find_map(|key| entry(config["auths"].get(key)?, place)))
}

fn entry(kept: &Value, place: &Place) -> Option<RegistryLogin> {
    if let Some(token) = kept["identitytoken"].as_str().filter(|token| !token.is_empty()) {
        return Some(place.login(IDENTITY, token));
    }
    let plain = match kept["auth"].as_str() {
        Some(auth) => String::from_utf8(BASE64_STANDARD.decode(auth).ok()?).ok()?,
        None => format!("{}:{}", kept["username"].as_str()?, kept["password"].as_str()?),
    };
    let (user, password) = plain.trim_end_matches('\0').split_once(':')?;
    Some(place.login(user, password))
}

fn broken(helper: &str, place: &Place, why: &str) -> Error {
    let text = format!("the login at {} is kept by docker-credential-{helper}", place.registry);
    let mut problem = Problem::new(ErrorKind::Refused, text);
    problem.causes.push(why.to_owned());
    problem.hint("install it, or give PANDO_REGISTRY_USER and PANDO_REGISTRY_PASSWORD").into()
}

/// Asks a helper program; why that is impossible, in words. One that knows no login ends with an error of its own, of
/// which only the text on its standard output tells: it is as good as an answer.
fn asked(helper: &str, place: &Place) -> Result<Option<RegistryLogin>, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !helper.chars().all(plain) {
        return Err(format!("{helper:?} is no name of a program"));
    }
    let own = variable("PATH").unwrap_or_default();
    let dirs: Vec<PathBuf> = std::env::split_paths(&own).filter(|dir| dir.is_absolute()).collect();
    let dirs = dirs.iter().map(PathBuf::as_path).chain(SEARCH_PATH.iter().map(Path::new));
    let tool = Tool::find_in(dirs, &format!("docker-credential-{helper}"));
    let tool = tool.ok_or_else(|| "it is not on the PATH".to_owned())?;
    // It is the user's own program and looks for its user's keys: key rings, profiles, agents, proxies.
    let command = std::env::vars_os().fold(tool.command(), |command, (name, value)| command.env(name, value));
    let finished = match command.arg("get").run_bounded(place.server().as_bytes(), HELPER) {
        Ok(finished) => finished,
        Err(pando_host::ToolError::Failed { stderr, .. }) if stderr.is_empty() => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    let told: Value = serde_json::from_slice(&finished.stdout).map_err(|_| "it answers no JSON".to_owned())?;
    let (user, secret) = (told["Username"].as_str(), told["Secret"].as_str());
    Ok(user.zip(secret).map(|(user, secret)| place.login(user, secret)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(config: &str, reference: &str) -> Option<(String, String)> {
        let config = serde_json::from_str(config).unwrap();
        let found = kept_in(&config, &Place::of(reference).unwrap());
        found.unwrap_or_else(|_| panic!("{reference}")).map(|login| (login.user, login.password))
    }

    #[test]
    fn a_login_is_found_where_docker_and_podman_keep_it() {
        let config = r#"{"auths": {"reg.example:5000": {"auth": "YW5uOml0J3M6bWU="},
            "reg.example:5000/team/shop": {"username": "team", "password": "narrow"},
            "https://old.example/v2/": {"auth": "YW5uOm9sZA=="},
            "acr.example": {"auth": "MDA6", "identitytoken": "refresh"},
            "https://index.docker.io/v1/": {"auth": "aHViOnNlY3JldA=="}, "empty.example": {}}}"#;
        let pair = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        assert_eq!(of(config, "reg.example:5000/shop:1"), pair("ann", "it's:me"));
        assert_eq!(of(config, "reg.example:5000/team/shop:1"), pair("team", "narrow"));
        assert_eq!(of(config, "reg.example:5000/team/shops:1"), pair("ann", "it's:me"));
        assert_eq!(of(config, "old.example/shop"), pair("ann", "old"));
        assert_eq!(of(config, "acr.example/shop"), pair(IDENTITY, "refresh"));
        for hub in ["team/shop", "postgres:15", "docker.io/team/shop"] {
            assert_eq!(of(config, hub), pair("hub", "secret"), "{hub}");
        }
        for none in ["empty.example/shop", "other.example/shop"] {
            assert_eq!(of(config, none), None, "{none}");
        }
        assert_eq!(Place::of("oci:/srv/layout"), None);
    }

    #[test]
    fn a_helper_that_is_missing_is_named_where_only_it_has_the_login() {
        let config = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        let place = Place::of("reg.example/shop").unwrap();
        let only = config(r#"{"credHelpers": {"reg.example": "no-such-helper"}}"#);
        assert!(kept_in(&only, &place).is_err());
        let elsewhere = config(r#"{"credHelpers": {"other.example": "no-such-helper"}}"#);
        assert!(kept_in(&elsewhere, &place).is_ok_and(|login| login.is_none()));
        let left_over = config(r#"{"credsStore": "no-such", "auths": {"reg.example": {"auth": "YW5uOm9sZA=="}}}"#);
        assert!(kept_in(&left_over, &place).is_ok_and(|login| login.is_some()));
        assert!(asked("../evil", &place).is_err());
    }
}
