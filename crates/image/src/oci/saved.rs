//! Images as a Docker or Podman engine gives them (`save`) and takes them (`load`): one tar with a `manifest.json`
//! that names the configuration and the layers.
//!
//! An image that is kept as a file is more than that: a tar that is OCI's layout and has Docker's `manifest.json`
//! beside it, both over the same blobs, as newer Docker engines save it. Older ones read nothing else than the latter,
//! and what knows registries reads the former, where digests stay what they are.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::take::take;
use super::{Base, Descriptor, Facts, LAYOUT, Layer, LayerScan, MANIFEST, Reference, digest_of, hex_of, index};
use crate::ImageError;
use crate::tar::{BLOCK, Entry, Writer};

/// The largest JSON document that is read.
const MOST_JSON: u64 = 8 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Named {
    config: String,
    layers: Vec<String>,
}

/// Reads what an engine saved; its layers go into a directory of work.
pub fn read_saved(from: &mut dyn Read, dir: &Path) -> Result<Base, ImageError> {
    let mut archive = tar::Archive::new(from);
    let (mut documents, mut links, mut layers) = (HashMap::new(), HashMap::new(), HashMap::new());
    for entry in archive.entries().map_err(ImageError::Stream)? {
        let mut entry = entry.map_err(ImageError::Stream)?;
        let path = plain(&String::from_utf8_lossy(&entry.path_bytes()));
        let kind = entry.header().entry_type();
        if kind.is_symlink() || kind.is_hard_link() {
            let target = entry.link_name_bytes().unwrap_or_default();
            let target = String::from_utf8_lossy(&target).into_owned();
            let up = path.rsplit_once('/').map_or("", |(up, _)| up);
            let to = if kind.is_symlink() { plain(&format!("{up}/{target}")) } else { plain(&target) };
            links.insert(path, to);
        } else if kind.is_file() {
            let mut first = [0];
            let got = entry.read(&mut first).map_err(ImageError::Stream)?;
            let mut whole = io::Cursor::new(first.get(..got).unwrap_or_default().to_vec()).chain(&mut entry);
            if path.ends_with(".json") || (path.starts_with("blobs/") && matches!(first, [b'{' | b'['])) {
                let mut text = Vec::new();
                (&mut whole).take(MOST_JSON).read_to_end(&mut text).map_err(ImageError::Stream)?;
                documents.insert(path, text);
            } else if path.ends_with(".tar") || path.starts_with("blobs/") {
                layers.insert(path, take(&mut whole, dir)?);
            }
        }
    }
    assemble(&documents, &links, &layers)
}

/// A path without `.` and `..`.
fn plain(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn assemble(
    documents: &HashMap<String, Vec<u8>>,
    links: &HashMap<String, String>,
    layers: &HashMap<String, (Layer, LayerScan)>,
) -> Result<Base, ImageError> {
    let missing = |what: &str| ImageError::Unfit(format!("the engine's image has no {what}"));
    let json = |error: serde_json::Error| ImageError::Unfit(format!("the engine's image cannot be read: {error}"));
    let named = documents.get("manifest.json").ok_or_else(|| missing("manifest.json"))?;
    let named: Vec<Named> = serde_json::from_slice(named).map_err(json)?;
    let named = named.first().ok_or_else(|| missing("image in it"))?;
    let config = documents.get(&plain(&named.config)).ok_or_else(|| missing("configuration"))?;
    let config: serde_json::Value = serde_json::from_slice(config).map_err(json)?;
    let mut found = Vec::new();
    for path in &named.layers {
        let mut path = plain(path);
        if let Some(to) = links.get(&path) {
            path.clone_from(to);
        }
        found.push(layers.get(&path).ok_or_else(|| missing(&format!("layer {path}")))?.clone());
    }
    let (layers, scans): (Vec<Layer>, Vec<LayerScan>) = found.into_iter().unzip();
    let said = config["rootfs"]["diff_ids"].as_array().into_iter().flatten();
    if !said.map(|one| one.as_str().unwrap_or_default()).eq(layers.iter().map(|layer| layer.diff_id.as_str())) {
        return Err(ImageError::Unfit("the engine's image does not have the layers that it names".to_owned()));
    }
    Ok(Base { config, layers, facts: Facts::of(scans.into_iter()) })
}

/// The files of what an engine is to load: a name, and the bytes or where they are.
enum Part<'a> {
    Bytes(Vec<u8>),
    File(&'a Path, u64),
}

/// An image that is to be a file.
pub struct Archive<'a> {
    /// Its name.
    pub reference: &'a Reference,
    /// Its manifest, as registries get it.
    pub manifest: &'a [u8],
    /// Its configuration.
    pub config: &'a [u8],
    /// All its layers, from the bottom up, and where they are.
    pub layers: &'a [(Layer, PathBuf)],
}

impl Archive<'_> {
    fn parts(&self) -> Vec<(String, Part<'_>)> {
        let name = |digest: &str| format!("blobs/sha256/{}", hex_of(digest).unwrap_or_default());
        let (manifest, config) = (digest_of(self.manifest), digest_of(self.config));
        let size = self.manifest.len() as u64;
        let named = Descriptor { media_type: MANIFEST.to_owned(), digest: manifest.clone(), size };
        let layers: Vec<String> = self.layers.iter().map(|(layer, _)| name(&layer.blob.digest)).collect();
        let docker = serde_json::json!([{
            "Config": name(&config), "RepoTags": [self.reference.to_string()], "Layers": layers,
        }]);
        let index = index(&BTreeMap::from([(self.reference.to_string(), named)]));
        let mut parts = vec![
            ("oci-layout".to_owned(), Part::Bytes(LAYOUT.to_vec())),
            ("index.json".to_owned(), Part::Bytes(index)),
            ("manifest.json".to_owned(), Part::Bytes(docker.to_string().into_bytes())),
            (name(&manifest), Part::Bytes(self.manifest.to_vec())),
            (name(&config), Part::Bytes(self.config.to_vec())),
        ];
        for ((layer, path), name) in self.layers.iter().zip(layers) {
            if !parts.iter().any(|(known, _)| *known == name) {
                parts.push((name, Part::File(path, layer.blob.size)));
            }
        }
        parts
    }

    /// How many bytes [`Archive::write`] writes.
    pub fn length(&self) -> u64 {
        length(&self.parts())
    }

    /// Writes it. The same image under the same name gives the same bytes.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        write(out, self.parts())
    }
}

fn parts<'a>(tag: &str, config: &(String, Vec<u8>), layers: &'a [(Layer, Option<PathBuf>)]) -> Vec<(String, Part<'a>)> {
    let name = |digest: &str, end: &str| format!("{}.{end}", hex_of(digest).unwrap_or_default());
    let names: Vec<String> = layers.iter().map(|(layer, _)| name(&layer.blob.digest, "tar")).collect();
    let manifest = serde_json::json!([{ "Config": name(&config.0, "json"), "RepoTags": [tag], "Layers": names }]);
    let mut parts = vec![
        (name(&config.0, "json"), Part::Bytes(config.1.clone())),
        ("manifest.json".to_owned(), Part::Bytes(manifest.to_string().into_bytes())),
    ];
    for ((layer, path), name) in layers.iter().zip(names) {
        // One that the engine has already is named, and not sent.
        if let Some(path) = path
            && !parts.iter().any(|(known, _)| *known == name)
        {
            parts.push((name, Part::File(path, layer.blob.size)));
        }
    }
    parts
}

/// How many bytes [`write_saved`] writes.
pub fn saved_length(tag: &str, config: &(String, Vec<u8>), layers: &[(Layer, Option<PathBuf>)]) -> u64 {
    length(&parts(tag, config, layers))
}

fn length(parts: &[(String, Part<'_>)]) -> u64 {
    let block = BLOCK as u64;
    let length = |part: &Part<'_>| match part {
        Part::Bytes(bytes) => bytes.len() as u64,
        Part::File(_, size) => *size,
    };
    parts.iter().map(|(_, part)| block + length(part).div_ceil(block) * block).sum::<u64>() + 2 * block
}

/// Writes an image for an engine to load under a tag. Layers without a path are those that it has.
pub fn write_saved(
    out: &mut dyn Write,
    tag: &str,
    config: &(String, Vec<u8>),
    layers: &[(Layer, Option<PathBuf>)],
) -> io::Result<()> {
    write(out, parts(tag, config, layers))
}

fn write(out: &mut dyn Write, parts: Vec<(String, Part<'_>)>) -> io::Result<()> {
    let mut tar = Writer::new(out);
    let mut buffer = vec![0; 1 << 18];
    for (name, part) in parts {
        match part {
            Part::Bytes(bytes) => {
                tar.head(&Entry::file(&name, 0o644, bytes.len() as u64))?;
                tar.data(&bytes)?;
            }
            Part::File(path, size) => {
                tar.head(&Entry::file(&name, 0o644, size))?;
                let mut file = File::open(path)?;
                loop {
                    let got = file.read(&mut buffer)?;
                    if got == 0 {
                        break;
                    }
                    tar.data(buffer.get(..got).unwrap_or_default())?;
                }
            }
        }
    }
    tar.finish().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::digest_of;

    #[test]
    fn what_is_written_for_an_engine_is_read_back_and_has_the_length_that_was_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut small = tar::Builder::new(Vec::new());
        let mut head = tar::Header::new_gnu();
        head.set_size(0);
        head.set_mode(0o644);
        small.append_data(&mut head, "a", &b""[..]).unwrap();
        let bytes = small.into_inner().unwrap();
        let (layer, _) = take(&mut &*bytes, dir.path()).unwrap();
        let path = dir.path().join(hex_of(&layer.blob.digest).unwrap());
        let config = serde_json::json!({ "rootfs": { "diff_ids": [layer.diff_id] } }).to_string().into_bytes();
        let config = (digest_of(&config), config);
        let layers = [(layer.clone(), Some(path))];
        let mut written = Vec::new();
        write_saved(&mut written, "x:1", &config, &layers).unwrap();
        assert_eq!(written.len() as u64, saved_length("x:1", &config, &layers));
        let back = read_saved(&mut &*written, dir.path()).unwrap();
        assert_eq!(back.layers, std::slice::from_ref(&layer));
        // As a file it has its digests, and the same bytes each time.
        let reference: Reference = "reg.example/team/x:1".parse().unwrap();
        let layers = [(layer.clone(), layers[0].1.clone().unwrap())];
        let archive = Archive { reference: &reference, manifest: b"{}", config: &config.1, layers: &layers };
        let (mut file, mut again) = (Vec::new(), Vec::new());
        archive.write(&mut file).unwrap();
        archive.write(&mut again).unwrap();
        assert!(file == again && file.len() as u64 == archive.length());
        assert_eq!(read_saved(&mut &*file, dir.path()).unwrap().layers, std::slice::from_ref(&layer));
        // One that is not sent is not there: the engine is to have it.
        written.clear();
        write_saved(&mut written, "x:1", &config, &[(layer, None)]).unwrap();
        assert!(read_saved(&mut &*written, dir.path()).is_err());
    }

    #[test]
    fn a_link_to_a_layer_is_followed() {
        assert_eq!(plain("one/../two/./layer.tar"), "two/layer.tar");
        assert_eq!(plain("../../etc/passwd"), "etc/passwd");
    }
}
