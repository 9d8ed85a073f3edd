//! Redis and Valkey in containers: which image, and whether one loads what this machine's server has written.
//!
//! Nothing in a tree depends on the C library: keys are bytes.

use super::facts::Facts;
use super::install::{Family, Installation, OLDEST, Version, words};
use super::tree;
use crate::{Baked, Finding, ImageContent, ImageLook};

/// Whose image is right: production's own version where it loads what the mirror's server writes, else the mirror's.
fn whose<'a>(facts: &'a Facts, mirror: &'a Installation) -> (Version, &'a str) {
    let own = facts.version.number >= OLDEST && facts.version.loads(mirror.version) && !facts.exact.is_empty();
    if own { (facts.version, &facts.exact) } else { (mirror.version, &mirror.exact) }
}

/// The official image: `redis:7.0.15`, `valkey/valkey:8.0.1`.
pub fn official(facts: &Facts, mirror: &Installation) -> String {
    let (version, exact) = whose(facts, mirror);
    match version.family {
        Family::Redis => format!("redis:{exact}"),
        Family::Valkey => format!("valkey/valkey:{exact}"),
    }
}

/// What to look for in it.
pub fn look(facts: &Facts, mirror: &Installation) -> ImageLook {
    let server = match whose(facts, mirror).0.family {
        Family::Redis => "redis-server",
        Family::Valkey => "valkey-server",
    };
    ImageLook { server, libraries: false }
}

/// Where an image has its data. Its server is told of its settings, so that it asks for the password: told nothing it
/// would let everybody in.
pub fn baked(env: &dyn Fn(&str) -> Option<String>) -> Baked {
    // "https://…/8.0.1.tar.gz", where the image says it no other way.
    let of_url = |url: String| url.rsplit('/').next().map(|file| file.trim_end_matches(".tar.gz").to_owned());
    let valkey = env("VALKEY_VERSION");
    let number = valkey.clone().or_else(|| env("REDIS_VERSION")).or_else(|| env("REDIS_DOWNLOAD_URL").and_then(of_url));
    let (account, words) = if valkey.is_some() { ("valkey", "Valkey") } else { ("redis", "Redis") };
    Baked {
        path: "/data".to_owned(),
        account,
        port: 6379,
        version: number.map(|number| format!("{words} server v={number} sha=0")),
        command: Some(vec![format!("{account}-server"), format!("/data/{}", tree::CONF)]),
    }
}

/// What of a tree an image does not suit.
pub fn suits(written_by: Version, image: &ImageContent) -> Vec<Finding> {
    let fix = Some(format!("name an image of {written_by} or later: --image SOURCE=REFERENCE"));
    let said = image.version.as_deref().unwrap_or_default();
    let family = if said.starts_with("Valkey") { Family::Valkey } else { Family::Redis };
    let what = match words(said, family) {
        Some(version) if version.number >= OLDEST && version.loads(written_by) => return Vec::new(),
        Some(version) => format!("it has {version}, which cannot read what the mirror's {written_by} has written"),
        None => "it has no Redis or Valkey server".to_owned(),
    };
    vec![Finding { what, fix, fatal: true }]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(said: &str) -> Version {
        let family = if said.starts_with("Valkey") { Family::Valkey } else { Family::Redis };
        words(said, family).expect("a version")
    }

    #[test]
    fn r08_the_image_says_its_version() {
        let of =
            |known: &'static str, value: &'static str| baked(&move |name| (name == known).then(|| value.to_owned()));
        let seven = version("Redis server v=7.0.15 sha=0");
        for baked in [of("REDIS_VERSION", "7.2.4"), of("REDIS_DOWNLOAD_URL", "https://x/8.0.1.tar.gz")] {
            assert_eq!(baked.account, "redis");
            assert!(suits(seven, &ImageContent { version: baked.version, ..ImageContent::default() }).is_empty());
        }
        let valkey = of("VALKEY_VERSION", "8.0.1");
        assert_eq!(valkey.command.unwrap_or_default()[0], "valkey-server");
        assert!(of("PATH", "/bin").version.is_none());
    }

    #[test]
    fn r08_an_image_that_cannot_load_the_tree_is_refused() {
        let of = |written: &str, said: &str| {
            let content = ImageContent { version: Some(said.to_owned()), ..ImageContent::default() };
            suits(version(written), &content)
        };
        let seven = "Redis server v=7.0.15 sha=0 malloc=jemalloc";
        assert!(of(seven, seven).is_empty() && of(seven, "Redis server v=7.4.1").is_empty());
        assert!(of(seven, "Valkey server v=8.0.1").is_empty());
        let old = of("Redis server v=7.2.4", seven);
        assert!(old[0].fatal && old[0].what.contains("Redis 7.0") && old[0].what.contains("Redis 7.2"), "{old:?}");
        assert!(of("Redis server v=6.2.1", "Redis server v=6.2.6")[0].fatal, "it knows no list of AOF files");
        assert!(of(seven, "exec: redis-server: not found")[0].fatal);
    }
}
