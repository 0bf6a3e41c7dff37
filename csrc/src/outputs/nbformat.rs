//! Storey 1: outputs as applications see them, in nbformat's shape (protocol 2, section 7.6).
//!
//! nbformat allows several spellings of the same output: text as a list of lines, members left out.
//! [`normalise`] leaves one.

use serde_json::{json, Map, Value};

/// The text of an nbformat output for a plain terminal: stream text, `text/plain`, or the traceback of
/// an error, its lines joined, or `ename: evalue` without one. Empty if there is none.
pub fn plain_text(output: &Value) -> String {
    match output["output_type"].as_str() {
        Some("stream") => joined(&output["text"]).unwrap_or_default(),
        Some("error") => {
            let lines = lines(&output["traceback"]);
            if lines.is_empty() {
                format!("{}: {}", text(&output["ename"]), text(&output["evalue"]))
            } else {
                lines.join("\n")
            }
        }
        _ => joined(&output["data"]["text/plain"]).unwrap_or_default(),
    }
}

/// An nbformat output with every optional shape made definite; members it does not know stay.
pub(super) fn normalise(output: &Value) -> Result<Map<String, Value>, String> {
    let mut output = output.as_object().ok_or("not a JSON object")?.clone();
    let kind = output.get("output_type").and_then(Value::as_str);
    match kind.ok_or("no output_type")? {
        "stream" => {
            let name = output.get("name").and_then(Value::as_str);
            let name = name.unwrap_or("stdout").to_owned();
            let text = match output.get("text") {
                None => String::new(),
                Some(text) => joined(text).ok_or("stream text is not a string")?,
            };
            output.insert("name".into(), name.into());
            output.insert("text".into(), text.into());
        }
        "error" => {
            for key in ["ename", "evalue"] {
                let text = output.get(key).map(text).unwrap_or_default();
                output.insert(key.into(), text.into());
            }
            let lines = output.get("traceback").map(lines).unwrap_or_default();
            output.insert("traceback".into(), lines.into());
        }
        kind @ ("display_data" | "execute_result") => {
            let result = kind == "execute_result";
            let mut data = match output.get("data") {
                None => Map::new(),
                Some(data) => data.as_object().ok_or("data is not an object")?.clone(),
            };
            for (mime, value) in &mut data {
                if !is_json(mime) {
                    if let Some(text) = joined(value) {
                        *value = text.into();
                    }
                }
            }
            output.insert("data".into(), data.into());
            if !output.get("metadata").is_some_and(Value::is_object) {
                output.insert("metadata".into(), json!({}));
            }
            if result && !output.get("execution_count").is_some_and(Value::is_i64) {
                output.insert("execution_count".into(), Value::Null);
            }
        }
        other => return Err(format!("unknown output_type {other}")),
    }
    Ok(output)
}

/// A string, or a list of strings as nbformat files have it, as one string.
fn joined(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => parts.iter().map(Value::as_str).collect(),
        _ => None,
    }
}

/// A text that should be a string; anything else as its JSON.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The lines of a traceback; a single string is one.
pub(super) fn lines(value: &Value) -> Vec<String> {
    match value {
        Value::Array(lines) => lines.iter().map(text).collect(),
        Value::String(line) => vec![line.clone()],
        _ => Vec::new(),
    }
}

/// True for MIME types whose values are JSON structures.
pub(super) fn is_json(mime: &str) -> bool {
    mime == "application/json" || mime.ends_with("+json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_texts() {
        let plain = |output: Value| plain_text(&output);
        assert_eq!(plain(json!({"output_type": "stream", "text": ["a", "b"]})), "ab");
        assert_eq!(plain(json!({"output_type": "display_data", "data": {"text/plain": "t"}})), "t");
        assert_eq!(plain(json!({"output_type": "display_data", "data": {}})), "");
        let mut error = json!({"output_type": "error", "ename": "E", "evalue": "v",
            "traceback": ["1", "2"]});
        assert_eq!(plain(error.clone()), "1\n2");
        error["traceback"] = json!([]);
        assert_eq!(plain(error), "E: v");
    }

    #[test]
    fn normal_outputs_stay_as_they_are() {
        for output in [
            json!({"output_type": "stream", "name": "stderr", "text": "x", "more": 1}),
            json!({"output_type": "error", "ename": "E", "evalue": "v", "traceback": ["1"]}),
            json!({"output_type": "display_data", "data": {"application/json": ["a", "b"]},
                "metadata": {"k": 1}, "transient": {"display_id": "d"}}),
        ] {
            assert_eq!(Value::Object(normalise(&output).unwrap()), output);
        }
    }

    #[test]
    fn only_text_is_joined() {
        let output = json!({"output_type": "display_data", "data": {
            "image/svg+xml": ["<svg>", "</svg>"], "application/geo+json": ["a"], "x/y": [1]}});
        let normal = normalise(&output).unwrap();
        assert_eq!(
            normal["data"],
            json!({"image/svg+xml": "<svg></svg>", "application/geo+json": ["a"], "x/y": [1]})
        );
    }
}
