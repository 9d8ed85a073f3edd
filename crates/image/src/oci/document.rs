//! An image's configuration and manifest: those of the server image, with data laid over it.
//!
//! What the server image declares as a volume is left out where the data lies. An engine makes a volume of its own for
//! it at every start and copies all that the image has there; without the declaration the data stays in the image's
//! layers, and what a container writes is copied file by file.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Base, CONFIG, Descriptor, Layer, MANIFEST, Reference, digest_of};

/// The media type of an index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What an image is made of.
pub struct Image<'a> {
    /// What lies below.
    pub base: &'a Base,
    /// What lies above it.
    pub layers: &'a [Layer],
    /// Where the data lies.
    pub place: &'a str,
    /// What it runs, where that is not what the server image runs.
    pub command: Option<&'a [String]>,
    /// What it says of itself.
    pub labels: &'a BTreeMap<String, String>,
    /// The moment that it shows.
    pub created: Timestamp,
}

impl Image<'_> {
    /// All layers, from the bottom up.
    pub fn all(&self) -> impl Iterator<Item = &Layer> {
        self.base.layers.iter().chain(self.layers)
    }

    /// The configuration.
    pub fn config(&self) -> Vec<u8> {
        let base = &self.base.config;
        let mut config = base["config"].clone();
        if let Some(config) = config.as_object_mut() {
            // Of the image that this one is no longer.
            config.remove("Image");
            self.declare_no_volume(config);
            if let Some(command) = self.command {
                config.insert("Cmd".to_owned(), json!(command));
            }
            let labels = config.entry("Labels").or_insert(Value::Null);
            let mut all = labels.as_object().cloned().unwrap_or_default();
            all.extend(self.labels.iter().map(|(key, value)| (key.clone(), json!(value))));
            *labels = Value::Object(all);
        }
        let mut made = json!({
            "architecture": base["architecture"],
            "os": base["os"],
            "created": self.created,
            "config": config,
            "rootfs": { "type": "layers", "diff_ids": self.all().map(|layer| &layer.diff_id).collect::<Vec<_>>() },
        });
        if let Some(variant) = base.get("variant") {
            made["variant"] = variant.clone();
        }
        // One that does not tell of every layer tells nothing: engines refuse that.
        let told = base["history"].as_array().cloned().unwrap_or_default();
        let real = told.iter().filter(|one| one["empty_layer"].as_bool() != Some(true)).count();
        if real == self.base.layers.len() {
            let ours = |_: &Layer| json!({ "created": self.created, "created_by": "pando image build" });
            made["history"] = Value::Array(told.into_iter().chain(self.layers.iter().map(ours)).collect());
        }
        // The order of the keys is that of the alphabet, whatever order they came in.
        sorted(&made).to_string().into_bytes()
    }

    fn declare_no_volume(&self, config: &mut serde_json::Map<String, Value>) {
        let within = |inner: &str, outer: &str| {
            inner.strip_prefix(outer.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if let Some(volumes) = config.get_mut("Volumes").and_then(Value::as_object_mut) {
            volumes.retain(|path, _| !within(path, self.place) && !within(self.place, path));
            if volumes.is_empty() {
                config.remove("Volumes");
            }
        }
    }

    /// The manifest, for a configuration.
    pub fn manifest(&self, config: &[u8]) -> Vec<u8> {
        let config = Descriptor { media_type: CONFIG.to_owned(), digest: digest_of(config), size: config.len() as u64 };
        let layers: Vec<&Descriptor> = self.all().map(|layer| &layer.blob).collect();
        let made = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        sorted(&made).to_string().into_bytes()
    }
}

fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let ordered: BTreeMap<&String, Value> = map.iter().map(|(key, value)| (key, sorted(value))).collect();
            ordered.into_iter().map(|(key, value)| (key.clone(), value)).collect::<serde_json::Map<_, _>>().into()
        }
        Value::Array(all) => all.iter().map(sorted).collect::<Vec<_>>().into(),
        other => other.clone(),
    }
}

/// The index of a directory in OCI's layout: which names stand for which manifests.
pub fn index(names: &BTreeMap<String, Descriptor>) -> Vec<u8> {
    let whole = |name: &str| name.parse().map_or_else(|_| name.to_owned(), |read: Reference| read.whole());
    let one = |(name, manifest): (&String, &Descriptor)| {
        json!({
            "mediaType": manifest.media_type, "digest": manifest.digest, "size": manifest.size,
            // The second is how containerd and Podman are told a whole name.
            "annotations": { "org.opencontainers.image.ref.name": name, "io.containerd.image.name": whole(name) },
        })
    };
    let manifests: Vec<Value> = names.iter().map(one).collect();
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests }).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Facts;

    fn layer(byte: u8) -> Layer {
        let digest = digest_of(&[byte]);
        let blob = Descriptor { media_type: super::super::GZIP.to_owned(), digest: digest.clone(), size: 1 };
        Layer { blob, diff_id: digest }
    }

    fn made(config: Value, history: Value) -> Value {
        let base = json!({ "architecture": "amd64", "os": "linux", "config": config, "history": history });
        let base = Base { config: base, layers: vec![layer(1)], facts: Facts::default() };
        let labels = BTreeMap::from([("pando.app".to_owned(), "shop".to_owned())]);
        let created = "2026-11-27T10:00:00Z".parse().unwrap();
        let image = Image {
            base: &base,
            layers: &[layer(2)],
            place: "/var/lib/x/data",
            command: None,
            labels: &labels,
            created,
        };
        let config = image.config();
        assert_eq!(image.config(), config);
        let manifest: Value = serde_json::from_slice(&image.manifest(&config)).unwrap();
        assert_eq!(manifest["config"]["digest"], digest_of(&config));
        assert_eq!(manifest["layers"].as_array().unwrap().len(), 2);
        serde_json::from_slice(&config).unwrap()
    }

    #[test]
    fn the_volume_that_would_be_copied_at_every_start_is_declared_no_more() {
        let volumes = json!({ "/var/lib/x": {}, "/var/lib/x/data/wal": {}, "/var/lib/xy": {}, "/other": {} });
        let config = made(json!({ "Volumes": volumes, "Labels": { "a": "b" }, "Image": "sha256:1" }), json!([]));
        let left: Vec<&String> = config["config"]["Volumes"].as_object().unwrap().keys().collect();
        assert_eq!(left, ["/other", "/var/lib/xy"]);
        assert_eq!(config["config"]["Labels"], json!({ "a": "b", "pando.app": "shop" }));
        assert!(config["config"].get("Image").is_none() && config.get("history").is_none());
        let config = made(json!({ "Volumes": { "/var/lib/x/data": {} } }), json!([{ "empty_layer": true }, {}]));
        assert!(config["config"].get("Volumes").is_none());
        assert_eq!(config["history"].as_array().unwrap().len(), 3);
    }
}
