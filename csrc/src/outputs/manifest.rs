//! Storey 1: outputs in three shapes.
//!
//! *nbformat*: what applications see. *Manifest*: the same with every text behind a content reference,
//! so that large ones live in blobs (protocol 2, section 8.2). *Element*: the string in the document,
//! either nbformat JSON or the hash of a manifest.

use serde_json::{json, Map, Value};

use super::hash::is_hash;
use super::nbformat::{is_json, lines, normalise, text};
use super::{BlobStore, OutputError};

/// Texts of this many bytes and more go into a blob (protocol 2, section 8.1). Readers must not depend
/// on it.
pub const THRESHOLD: usize = 8192;

/// The media type manifests are stored with.
pub const MANIFEST_TYPE: &str = "application/x-jupyter-output+json";

/// Builds the manifest of an nbformat output; its large texts are stored as blobs.
pub fn build(output: &Value, store: &BlobStore) -> Result<Value, OutputError> {
    let output = normalise(output).map_err(OutputError::BadOutput)?;
    manifest(output, store)
}

/// Stores an output and returns the element for the document: its nbformat JSON if that is short, else
/// the hash of its manifest.
///
/// The JSON is in the shape every reference reader takes (protocol 2, section 12.4): stream text is one
/// string, an error has its traceback, an execute_result its count.
pub fn store(output: &Value, store: &BlobStore) -> Result<String, OutputError> {
    let output = Value::Object(normalise(output).map_err(OutputError::BadOutput)?);
    let text = output.to_string();
    if text.len() < THRESHOLD {
        return Ok(text);
    }
    let manifest = build(&output, store)?;
    store.put(manifest.to_string().as_bytes(), MANIFEST_TYPE)
}

/// The nbformat output of an element. A blob that is not there is [`OutputError::NotFound`] with its
/// hash, so that the caller can fetch it elsewhere and ask again.
pub fn resolve(element: &str, store: Option<&BlobStore>) -> Result<Value, OutputError> {
    resolve_with(element, store, false)
}

/// Like [`resolve`], but leaves out MIME entries that cannot be read (protocol 2, section 12.4). An
/// error if nothing remains of an output.
pub fn resolve_available(element: &str, store: Option<&BlobStore>) -> Result<Value, OutputError> {
    resolve_with(element, store, true)
}

fn manifest(mut output: Map<String, Value>, store: &BlobStore) -> Result<Value, OutputError> {
    let mut take = |key: &str| output.remove(key).unwrap_or_default();
    let kind = take("output_type");
    Ok(match kind.as_str() {
        Some("stream") => json!({
            "output_type": kind,
            "name": take("name"),
            "text": reference(&text(&take("text")), "text/plain", store)?,
        }),
        Some("error") => json!({
            "output_type": kind,
            "ename": take("ename"),
            "evalue": take("evalue"),
            "traceback": reference(&take("traceback").to_string(), "application/json", store)?,
        }),
        _ => {
            let mut data = Map::new();
            if let Value::Object(bundle) = take("data") {
                for (mime, value) in bundle {
                    // JSON is stored as its text; a string as it is, whatever its type.
                    let reference = reference(&text_of_mime(value), &mime, store)?;
                    data.insert(mime, reference);
                }
            }
            let result = kind == "execute_result";
            let mut manifest = json!({ "output_type": kind, "data": data });
            let metadata = take("metadata");
            if metadata.as_object().is_some_and(|m| !m.is_empty()) {
                manifest["metadata"] = metadata;
            }
            if result {
                manifest["execution_count"] = take("execution_count");
            }
            let transient = take("transient");
            if let Some(id) = transient.get("display_id").filter(|id| id.is_string()) {
                manifest["transient"] = json!({ "display_id": id });
            }
            manifest
        }
    })
}

fn text_of_mime(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

/// A content reference to a text (protocol 2, section 8.1).
fn reference(text: &str, media_type: &str, store: &BlobStore) -> Result<Value, OutputError> {
    if text.len() < THRESHOLD {
        return Ok(json!({ "inline": text }));
    }
    let hash = store.put(text.as_bytes(), media_type)?;
    Ok(json!({ "blob": hash, "size": text.len() }))
}

fn resolve_with(element: &str, store: Option<&BlobStore>, lenient: bool) -> Result<Value, OutputError> {
    if is_hash(element) {
        let manifest = blob(element, store)?;
        let manifest: Value = serde_json::from_str(&manifest)
            .map_err(|e| OutputError::Corrupt(format!("manifest {element}: {e}")))?;
        return from_manifest(&manifest, store, lenient);
    }
    let output: Value = serde_json::from_str(element).map_err(|e| OutputError::Corrupt(e.to_string()))?;
    normalise(&output).map(Value::Object).map_err(OutputError::Corrupt)
}

fn from_manifest(manifest: &Value, store: Option<&BlobStore>, lenient: bool) -> Result<Value, OutputError> {
    let kind = &manifest["output_type"];
    match kind.as_str() {
        Some("stream") => Ok(json!({
            "output_type": kind,
            "name": manifest["name"].as_str().unwrap_or("stdout"),
            "text": content(&manifest["text"], store)?,
        })),
        Some("error") => Ok(json!({
            "output_type": kind,
            "ename": text(&manifest["ename"]),
            "evalue": text(&manifest["evalue"]),
            "traceback": traceback(&manifest["traceback"], store)?,
        })),
        Some("display_data" | "execute_result") => bundle(manifest, store, lenient),
        _ => Err(OutputError::Corrupt("manifest of unknown output_type".into())),
    }
}

fn bundle(manifest: &Value, store: Option<&BlobStore>, lenient: bool) -> Result<Value, OutputError> {
    let references =
        manifest["data"].as_object().ok_or_else(|| OutputError::Corrupt("manifest without data".into()))?;
    let mut data = Map::new();
    let mut failed = None;
    for (mime, reference) in references {
        match content(reference, store) {
            Ok(text) => {
                data.insert(mime.clone(), mime_value(mime, text));
            }
            Err(error) if lenient => failed = Some(error),
            Err(error) => return Err(error),
        }
    }
    if let Some(error) = failed.filter(|_| data.is_empty()) {
        return Err(error);
    }
    let metadata = &manifest["metadata"];
    let mut output = json!({
        "output_type": manifest["output_type"],
        "data": data,
        "metadata": if metadata.is_object() { metadata.clone() } else { json!({}) },
    });
    if manifest["output_type"] == "execute_result" {
        output["execution_count"] = manifest["execution_count"].clone();
    }
    if manifest["transient"].is_object() {
        output["transient"] = manifest["transient"].clone();
    }
    Ok(output)
}

/// A value of a MIME bundle out of its stored text: JSON types are parsed if they can be.
fn mime_value(mime: &str, text: String) -> Value {
    if is_json(mime) {
        if let Ok(value) = serde_json::from_str(&text) {
            return value;
        }
    }
    text.into()
}

/// A traceback: a plain list, or a reference to the JSON of one.
fn traceback(value: &Value, store: Option<&BlobStore>) -> Result<Vec<String>, OutputError> {
    if value.is_array() {
        return Ok(lines(value));
    }
    let text = content(value, store)?;
    match serde_json::from_str(&text) {
        Ok(list @ Value::Array(_)) => Ok(lines(&list)),
        _ => Err(OutputError::Corrupt("traceback is not a JSON array".into())),
    }
}

/// The text a content reference stands for; its form is known by the member it has.
fn content(reference: &Value, store: Option<&BlobStore>) -> Result<String, OutputError> {
    if let Some(text) = reference.get("inline").and_then(Value::as_str) {
        return Ok(text.to_owned());
    }
    match reference.get("blob").and_then(Value::as_str) {
        Some(hash) => blob(hash, store),
        None => Err(OutputError::Corrupt("not a content reference".into())),
    }
}

/// The text of a blob.
fn blob(hash: &str, store: Option<&BlobStore>) -> Result<String, OutputError> {
    let store = store.ok_or_else(|| OutputError::NotFound(hash.to_owned()))?;
    String::from_utf8(store.get(hash)?).map_err(|_| OutputError::Corrupt(format!("blob {hash} is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::super::store::tests::Scratch;
    use super::*;

    fn round_trip(output: &Value, by_hash: bool) {
        let scratch = Scratch::new();
        let blobs = scratch.store();
        let element = store(output, &blobs).unwrap();
        assert_eq!(is_hash(&element), by_hash);
        assert_eq!(resolve(&element, Some(&blobs)).unwrap(), *output);
        let manifest = build(output, &blobs).unwrap();
        let hash = blobs.put(manifest.to_string().as_bytes(), MANIFEST_TYPE);
        assert_eq!(resolve(&hash.unwrap(), Some(&blobs)).unwrap(), *output);
    }

    #[test]
    fn every_kind_there_and_back() {
        for n in [1, 3_000] {
            let text = "é中🐍\r\n".repeat(n);
            let by_hash = n > 1;
            round_trip(&json!({"output_type": "stream", "name": "stderr", "text": text}), by_hash);
            round_trip(
                &json!({"output_type": "error", "ename": "E", "evalue": "v", "traceback": [text, "x"]}),
                by_hash,
            );
            round_trip(
                &json!({"output_type": "display_data",
                    "data": {"text/plain": text, "application/json": {"a": [1, null]}, "image/png": "iVBO"},
                    "metadata": {"image/png": {"width": 3}}, "transient": {"display_id": "d"}}),
                by_hash,
            );
            round_trip(
                &json!({"output_type": "execute_result", "data": {"application/geo+json": [text]},
                    "metadata": {}, "execution_count": 7}),
                by_hash,
            );
            round_trip(
                &json!({"output_type": "execute_result", "data": {"text/plain": text},
                    "metadata": {}, "execution_count": null}),
                by_hash,
            );
        }
    }

    #[test]
    fn incomplete_outputs_become_definite() {
        let scratch = Scratch::new();
        let blobs = scratch.store();
        let stored = |output: Value| store(&output, &blobs).unwrap();
        assert_eq!(
            stored(json!({"output_type": "stream", "text": ["a\n", "b"]})),
            r#"{"output_type":"stream","text":"a\nb","name":"stdout"}"#
        );
        assert_eq!(
            stored(json!({"output_type": "error", "ename": "E"})),
            r#"{"output_type":"error","ename":"E","evalue":"","traceback":[]}"#
        );
        assert_eq!(
            stored(json!({"output_type": "execute_result", "data": {"text/html": ["<", ">"]}})),
            r#"{"output_type":"execute_result","data":{"text/html":"<>"},"metadata":{},"execution_count":null}"#
        );
        for bad in [
            json!([]),
            json!({}),
            json!({"output_type": "x"}),
            json!({"output_type": "stream", "text": 1}),
            json!({"output_type": "display_data", "data": []}),
        ] {
            assert!(matches!(store(&bad, &blobs), Err(OutputError::BadOutput(_))));
            assert!(matches!(build(&bad, &blobs), Err(OutputError::BadOutput(_))));
        }
    }

    #[test]
    fn the_threshold_of_an_element() {
        let scratch = Scratch::new();
        let blobs = scratch.store();
        let frame = r#"{"output_type":"stream","name":"stdout","text":""}"#.len();
        for (total, by_hash) in [(THRESHOLD - 1, false), (THRESHOLD, true)] {
            let text = "x".repeat(total - frame);
            let output = json!({"output_type": "stream", "name": "stdout", "text": text});
            let element = store(&output, &blobs).unwrap();
            assert_eq!(is_hash(&element), by_hash);
        }
    }

    #[test]
    fn readers_take_what_others_write() {
        let scratch = Scratch::new();
        let blobs = scratch.store();
        let put = |manifest: Value| {
            let element = blobs.put(manifest.to_string().as_bytes(), MANIFEST_TYPE);
            resolve(&element.unwrap().to_uppercase(), Some(&blobs)).unwrap()
        };
        let error = json!({"output_type": "error", "ename": "E", "evalue": "v",
            "traceback": ["1", "2"]});
        assert_eq!(put(error.clone()), error);
        let display = put(json!({"output_type": "display_data", "more": 1,
            "data": {"application/json": {"inline": "{broken"}}}));
        assert_eq!(
            display,
            json!({"output_type": "display_data", "data": {"application/json": "{broken"},
                "metadata": {}})
        );
    }

    #[test]
    fn missing_blobs() {
        let scratch = Scratch::new();
        let blobs = scratch.store();
        let lost = "b".repeat(64);
        let not_found = |result: Result<Value, OutputError>, hash: &str| {
            assert!(matches!(result, Err(OutputError::NotFound(found)) if found == hash));
        };
        not_found(resolve(&lost, Some(&blobs)), &lost);
        not_found(resolve(&lost, None), &lost);
        let mut manifest = json!({"output_type": "display_data", "data": {
            "image/png": {"blob": lost, "size": 9}, "text/plain": {"inline": "img"}}});
        let put = |manifest: &Value| {
            let text = manifest.to_string();
            blobs.put(text.as_bytes(), MANIFEST_TYPE).unwrap()
        };
        let hash = put(&manifest);
        not_found(resolve(&hash, Some(&blobs)), &lost);
        let rest = resolve_available(&hash, Some(&blobs)).unwrap();
        assert_eq!(rest["data"], json!({"text/plain": "img"}));
        manifest["data"] = json!({"image/png": {"blob": lost, "size": 9}});
        not_found(resolve_available(&put(&manifest), Some(&blobs)), &lost);
    }

    #[test]
    fn malformed_elements_are_refused() {
        for element in ["", "x", "1", "{}", r#"{"output_type":"x"}"#] {
            assert!(matches!(resolve(element, None), Err(OutputError::Corrupt(_))));
        }
    }
}
