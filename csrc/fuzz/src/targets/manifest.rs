//! Outputs as others stored them. Invariants:
//! - an element or a manifest that cannot be read is `Corrupt` or `NotFound`, nothing else;
//! - what is read is an nbformat output in its one spelling: stored and read again it is the same, by value and by
//!   manifest;
//! - what can be read at all can be read without the entries that cannot, and is the same if there are none;
//! - no name leads out of the store, and nothing stays behind.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use runtimed_ffi::outputs::hash::is_hash;
use runtimed_ffi::outputs::{
    build, continuation, manifest, plain_text, resolve, resolve_available, BlobStore, OutputError,
};
use serde_json::{Map, Value};

use super::script::first;

/// The content of the one blob that manifests can refer to.
pub const BLOB: &str = "[\"a blob\"]";

/// One byte for what the rest is, an element or a manifest, and whether it is stored again.
pub fn check(data: &[u8]) {
    let (flags, bytes) = first(data);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let output = if flags & 1 == 0 { element(text) } else { stored_manifest(text) };
    let Some(output) = output.map(readable) else { return };
    if flags & 2 != 0 {
        if let Some(known) = known_members(&output) {
            let scratch = Scratch::new();
            let built = build(&known, &scratch.store).expect("an output has a manifest");
            let hash = scratch.put(&built.to_string());
            assert_eq!(resolve(&hash, Some(&scratch.store)).expect("a manifest of ours is readable"), known);
        }
    }
}

fn element(text: &str) -> Option<Value> {
    let output = refused(resolve(text, None));
    assert_eq!(refused(resolve_available(text, None)), output);
    if is_hash(text) || serde_json::from_str::<Value>(text).is_err() {
        assert_eq!(output, None);
    }
    output
}

fn stored_manifest(text: &str) -> Option<Value> {
    // What is no JSON need not go to the disk and back to be found out.
    serde_json::from_str::<Value>(text).ok()?;
    let scratch = Scratch::new();
    scratch.put(BLOB);
    let hash = scratch.put(text);
    let strict = refused(resolve(&hash, Some(&scratch.store)));
    let lenient = refused(resolve_available(&hash, Some(&scratch.store)));
    if strict.is_some() {
        assert_eq!(strict, lenient);
    }
    lenient
}

/// Gives the one spelling of an output that was read.
fn readable(output: Value) -> Value {
    let kind = output["output_type"].as_str().expect("an output has a type");
    assert!(matches!(kind, "stream" | "error" | "display_data" | "execute_result"), "{kind}");
    let element = output.to_string();
    let again = refused(resolve(&element, None)).expect("an output is its own element");
    // A manifest may hold what elements spell in another way; once more changes nothing.
    assert_eq!(refused(resolve(&again.to_string(), None)).as_ref(), Some(&again));
    let text = plain_text(&again);
    if kind == "stream" {
        assert_eq!(again["text"], text.as_str());
        let rest = continuation(&again, &[element], None).expect("a text goes on from itself");
        assert_eq!(rest["text"], "");
    }
    again
}

/// The output with the members that manifests can hold; none if its bundle holds what manifests cannot
/// distinguish: text under a type of JSON, and what is no text under another.
fn known_members(output: &Value) -> Option<Value> {
    let json = |mime: &str| mime == "application/json" || mime.ends_with("+json");
    let data = output.get("data").and_then(Value::as_object);
    if data.is_some_and(|data| data.iter().any(|(mime, value)| json(mime) == value.is_string())) {
        return None;
    }
    let names: &[&str] = match output["output_type"].as_str()? {
        "stream" => &["output_type", "name", "text"],
        "error" => &["output_type", "ename", "evalue", "traceback"],
        "execute_result" => &["output_type", "data", "metadata", "execution_count"],
        _ => &["output_type", "data", "metadata"],
    };
    let mut known: Map<String, Value> =
        names.iter().map(|name| ((*name).to_owned(), output[*name].clone())).collect();
    if let Some(id) = output.get("transient").and_then(|transient| transient.get("display_id")) {
        if id.is_string() && output.get("data").is_some() {
            known.insert("transient".into(), serde_json::json!({ "display_id": id }));
        }
    }
    Some(Value::Object(known))
}

fn refused<T>(read: Result<T, OutputError>) -> Option<T> {
    match read {
        Ok(read) => Some(read),
        Err(OutputError::Corrupt(_) | OutputError::NotFound(_)) => None,
        Err(other) => panic!("{other:?}"),
    }
}

/// A store that goes with its directory.
struct Scratch {
    dir: PathBuf,
    store: BlobStore,
}

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("rtd-fuzz-{}-{number}", std::process::id()));
        let store = BlobStore::open(&dir).expect("a directory for temporary files");
        Self { dir, store }
    }

    fn put(&self, text: &str) -> String {
        let hash = self.store.put(text.as_bytes(), manifest::MANIFEST_TYPE).expect("the disk is not full");
        assert!(self.store.path(&hash).expect("a hash has a path").starts_with(&self.dir));
        hash
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.dir).expect("the directory is ours");
    }
}
