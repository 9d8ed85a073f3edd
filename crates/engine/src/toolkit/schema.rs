//! The published schemas are what the code reads and writes: `UPDATE=1` writes them anew.

use std::path::Path;

use utoipa::{PartialSchema, ToSchema};

use super::message::{
    Done, Entry, Identity, IsReady, Looked, Missing, Operation, PROTOCOL, Place, Question, Serve, SourceOf, Stop,
    ToRun, UnitOf, UrlOf, Where, Wrong,
};

fn add<T: ToSchema + PartialSchema>(all: &mut serde_json::Map<String, serde_json::Value>) {
    all.insert(T::name().into_owned(), serde_json::to_value(T::schema()).expect("a schema"));
}

fn schema() -> serde_json::Value {
    let mut all = serde_json::Map::new();
    add::<Operation>(&mut all);
    add::<Question>(&mut all);
    add::<SourceOf>(&mut all);
    add::<UrlOf>(&mut all);
    add::<Place>(&mut all);
    add::<Serve>(&mut all);
    add::<Entry>(&mut all);
    add::<Identity>(&mut all);
    add::<Missing>(&mut all);
    add::<Looked>(&mut all);
    add::<Wrong>(&mut all);
    add::<ToRun>(&mut all);
    add::<UnitOf>(&mut all);
    add::<Stop>(&mut all);
    add::<Where>(&mut all);
    add::<IsReady>(&mut all);
    add::<Done>(&mut all);
    let text = serde_json::to_string(&all).expect("JSON").replace("#/components/schemas/", "#/$defs/");
    serde_json::json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": format!("Pando and a toolkit, protocol {PROTOCOL}"),
        "description": "Question is what a toolkit reads on stdin. Its answers: Identity (identify), Looked \
            (preflight), ToRun (ingest, follow, unit), Where (position), IsReady (ready), Done (prepare, sanitise).",
        "$defs": serde_json::from_str::<serde_json::Value>(&text).expect("JSON"),
    })
}

#[test]
fn the_published_schema_is_what_the_code_speaks() {
    let file = format!("../../docs/toolkit/v{PROTOCOL}.schema.json");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = serde_json::to_string_pretty(&schema()).expect("JSON") + "\n";
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &text).expect("writing the schema");
    }
    let published = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(published, text, "run the tests with UPDATE=1 and commit {}", path.display());
}
