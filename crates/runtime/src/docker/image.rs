//! Images: which one a server wants, whether the engine has it, and what is in it.
//!
//! What is in an image is found by programs run in it, the server itself, `ldd` and `find`, in containers that see
//! nothing of the machine; once for each image and daemon. Nothing has to be pulled twice, and no data is touched.

use std::io::{self, Read, Write};
use std::sync::PoisonError;

use pando_host::clock::id_parts;
use pando_host::{Clock, SystemClock};

use super::client::{Trouble, encoded};
use super::{DockerRuntime, Duration, failed, form, look};
use crate::RuntimeError;

/// Whoever looks after clones asks for what is left of looks, every second until it is known: an engine that hangs does not keep
/// it from its work.
const LISTED_WITHIN: Duration = Duration::from_secs(1);
/// All that a container prints.
const BOTH: &str = "stdout=1&stderr=1";

/// What an image holds, as far as a server's data asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageFacts {
    /// What the server says to `--version`; none when it is not there.
    pub version: Option<String>,
    /// The C library: `glibc 2.36`, `musl`; none when it could not be found out.
    pub libc: Option<String>,
    /// Paths of libraries and of extensions' control files.
    pub files: Vec<String>,
}

/// What an engine says of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Inspected {
    id: String,
    /// What it declares as volumes.
    volumes: Vec<String>,
    /// The digests of its layers, unpacked, from the bottom up.
    layers: Vec<String>,
}

/// A reference without its tag, and the tag. A port is no tag, and a digest is none either.
fn split(reference: &str) -> (&str, Option<&str>) {
    if reference.contains('@') {
        return (reference, None);
    }
    match reference.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (reference, None),
    }
}

impl DockerRuntime {
    /// Asks the engine for an image, and remembers what it says.
    fn inspect_image(&self, reference: &str) -> Result<Option<Inspected>, Trouble> {
        let answer = match self.client.get(&format!("/images/{reference}/json")) {
            Ok(answer) => answer,
            Err(trouble) if trouble.is_missing() => return Ok(None),
            Err(trouble) => return Err(trouble),
        };
        let volumes = answer["Config"]["Volumes"].as_object().into_iter().flatten();
        let layers = answer["RootFS"]["Layers"].as_array().into_iter().flatten();
        let found = Inspected {
            layers: layers.filter_map(|one| Some(one.as_str()?.to_owned())).collect(),
            id: answer["Id"].as_str().unwrap_or(reference).to_owned(),
            volumes: volumes.map(|(path, _)| path.clone()).collect(),
        };
        let mut images = self.images.lock().unwrap_or_else(PoisonError::into_inner);
        images.insert(reference.to_owned(), found.clone());
        Ok(Some(found))
    }

    /// What the engine last said of an image, since [`Self::has_image`] asks before each clone; else what it says now.
    fn inspected(&self, reference: &str) -> Result<Inspected, Trouble> {
        let known = self.images.lock().unwrap_or_else(PoisonError::into_inner).get(reference).cloned();
        match known {
            Some(known) => Ok(known),
            None => self.inspect_image(reference)?.ok_or_else(|| {
                let message = format!("the engine has no image {reference}");
                Trouble::Refused { status: 404, message }
            }),
        }
    }

    /// What an image declares as volumes.
    pub(super) fn volumes_of(&self, reference: &str) -> Result<Vec<String>, Trouble> {
        Ok(self.inspected(reference)?.volumes)
    }

    /// Whether the engine has an image.
    pub fn has_image(&self, reference: &str) -> Result<bool, RuntimeError> {
        let found = self.inspect_image(reference).map_err(failed(format!("asking for the image {reference}")))?;
        Ok(found.is_some())
    }

    /// Has the engine pull an image from where it comes from.
    pub fn pull(&self, reference: &str) -> Result<(), RuntimeError> {
        let (name, tag) = split(reference);
        let tag = tag.map(|tag| format!("&tag={}", encoded(tag))).unwrap_or_default();
        let path = format!("/images/create?fromImage={}{tag}", encoded(name));
        self.client.pull(&path).map_err(failed(format!("pulling the image {reference}")))
    }

    /// The id of an image that the engine has, and the digests of its layers.
    pub fn image_layers(&self, reference: &str) -> Result<Option<(String, Vec<String>)>, RuntimeError> {
        let found = self.inspect_image(reference).map_err(failed(format!("asking for the image {reference}")))?;
        // Podman leaves the digest's name away.
        Ok(found.map(|about| (format!("sha256:{}", about.id.trim_start_matches("sha256:")), about.layers)))
    }

    /// All of an image that the engine has, as one tar.
    pub fn save_image(&self, reference: &str) -> Result<impl Read + use<>, RuntimeError> {
        let path = format!("/images/{reference}/get");
        self.client.get_stream(&path).map_err(failed(format!("taking the image {reference} from the engine")))
    }

    /// Gives the engine an image as one tar of that length. Repeated, nothing changes.
    pub fn load_image(
        &self,
        length: u64,
        write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), RuntimeError> {
        let loaded = self.client.post_stream("/images/load?quiet=1", length, write);
        loaded.map_err(failed("giving an image to the engine"))
    }

    /// Takes a name of an image away from the engine, and the image with its last name. That there is none is no error.
    pub fn untag_image(&self, reference: &str) -> Result<(), RuntimeError> {
        match self.client.delete(&format!("/images/{reference}?noprune=1")) {
            Err(trouble) if !trouble.is_missing() => {
                Err(failed(format!("removing the image {reference} from the engine"))(trouble))
            }
            _ => Ok(()),
        }
    }

    /// Gives an image of the engine's a name; whatever had it before loses it.
    pub fn tag_image(&self, id: &str, reference: &str) -> Result<(), RuntimeError> {
        let (name, tag) = split(reference);
        let tag = tag.map(|tag| format!("&tag={}", encoded(tag))).unwrap_or_default();
        let tagged = self.client.post(&format!("/images/{id}/tag?repo={}{tag}", encoded(name)), None);
        tagged.map(drop).map_err(failed(format!("naming the image {reference}")))
    }

    /// What an image that the engine has holds: which version of a server, and where `libraries` matter, which C
    /// library and what lies beside it.
    pub fn image_facts(&self, reference: &str, server: &str, libraries: bool) -> Result<ImageFacts, RuntimeError> {
        let failing = || failed(format!("looking into the image {reference}"));
        let id = (self.inspected(reference).map_err(failing())?.id, server.to_owned());
        if let Some(known) = self.facts.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Ok(known.clone());
        }
        let (code, said) = self.probe(reference, &[server, "--version"], "stdout=1").map_err(failing())?;
        // Of what is not there the container's first process says so, and fails. Warnings go to the other stream.
        let version = said.lines().next().filter(|_| code == Some(0)).map(str::to_owned);
        let mut facts = ImageFacts { version, ..ImageFacts::default() };
        if libraries {
            // Both print something even where they fail: musl's `ldd` does.
            let (_, linker) = self.probe(reference, &["ldd", "--version"], BOTH).map_err(failing())?;
            let words =
                ["find", "/usr", "(", "-name", "*.control", "-o", "-name", "*.so", ")", "-path", "*postgresql*"];
            let (_, found) = self.probe(reference, &words, BOTH).map_err(failing())?;
            facts.libc = libc(&linker);
            facts.files = found.lines().filter(|line| line.starts_with('/')).map(str::to_owned).collect();
        }
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).insert(id, facts.clone());
        Ok(facts)
    }

    /// Runs a program in an image; its exit code and what it printed to these streams.
    fn probe(&self, reference: &str, words: &[&str], streams: &str) -> Result<(Option<i64>, String), Trouble> {
        let (millis, random) = id_parts(&SystemClock);
        let name = format!("pando-probe-{millis}-{random}");
        let mut left = self.probes_left.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = self.run_probe(&name, reference, words, streams);
        let removed = self.remove_probe(&name);
        *left |= removed.is_err();
        let ended = outcome?;
        removed.map(|()| ended)
    }

    fn remove_probe(&self, container: &str) -> Result<(), Trouble> {
        match self.client.delete(&format!("/containers/{container}?force=1&v=1")) {
            Err(trouble) if !trouble.is_missing() => Err(trouble),
            _ => Ok(()),
        }
    }

    /// Takes away the containers of looks that the engine's death, or a daemon's, has cut off. Where no engine answers they
    /// wait for the next time.
    pub(super) fn clear_probes(&self) {
        let Ok(mut left) = self.probes_left.try_lock() else { return };
        if !*left {
            return;
        }
        let label = format!("{}={}", form::HOME, self.home.display());
        let filter = serde_json::json!({ "label": [label, form::PROBE] }).to_string();
        let path = format!("/containers/json?all=1&filters={}", encoded(&filter));
        let cleared = self.client.get_within(&path, LISTED_WITHIN).and_then(|listed| {
            let mut ids = listed.as_array().into_iter().flatten().filter_map(|one| one["Id"].as_str());
            ids.try_for_each(|id| self.remove_probe(id))
        });
        *left = cleared.is_err();
    }

    fn run_probe(
        &self,
        name: &str,
        reference: &str,
        words: &[&str],
        streams: &str,
    ) -> Result<(Option<i64>, String), Trouble> {
        let wanted = form::probe(reference, words, &self.home);
        self.client.post(&format!("/containers/create?name={name}"), Some(&wanted))?;
        self.client.post(&format!("/containers/{name}/start"), None)?;
        let begun = SystemClock.instant();
        let code = loop {
            let state = self.client.container(name)?["State"].take();
            if state["Running"].as_bool() != Some(true) {
                break state["ExitCode"].as_i64();
            }
            if begun.elapsed() > Duration::from_secs(60) {
                let source = io::Error::new(io::ErrorKind::TimedOut, format!("{words:?} does not end"));
                return Err(Trouble::Silent(source));
            }
            SystemClock.sleep(Duration::from_millis(5));
        };
        let printed = self.client.get_bytes(&format!("/containers/{name}/logs?{streams}"))?;
        Ok((code, String::from_utf8_lossy(&look::unwrapped(&printed)).into_owned()))
    }
}

/// "ldd (Debian GLIBC 2.36-9+deb12u13) 2.36", or "musl libc (x86_64)".
fn libc(printed: &str) -> Option<String> {
    let first = printed.lines().next()?;
    if first.starts_with("musl") {
        return Some("musl".to_owned());
    }
    let version = first.strip_prefix("ldd")?.split_whitespace().last()?;
    version.starts_with(|c: char| c.is_ascii_digit()).then(|| format!("glibc {version}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_has_a_tag_or_none() {
        assert_eq!(split("postgres:15.4"), ("postgres", Some("15.4")));
        assert_eq!(split("localhost:5000/postgres"), ("localhost:5000/postgres", None));
        assert_eq!(split("localhost:5000/postgres:15"), ("localhost:5000/postgres", Some("15")));
        assert_eq!(split("postgres@sha256:aa"), ("postgres@sha256:aa", None));
    }

    #[test]
    fn t14_the_c_library_is_read_from_what_ldd_says() {
        assert_eq!(libc("ldd (Debian GLIBC 2.36-9+deb12u13) 2.36\nCopyright").as_deref(), Some("glibc 2.36"));
        assert_eq!(libc("ldd (GNU libc) 2.28\n").as_deref(), Some("glibc 2.28"));
        assert_eq!(libc("musl libc (x86_64)\nVersion 1.2.5\n").as_deref(), Some("musl"));
        assert_eq!(libc("sh: not found"), None);
    }
}
