//! Storey 1: stream outputs that continue.

use serde_json::{json, Value};

use super::{resolve, BlobStore};

/// What a stream output has more than the elements it was merged from had together, as a stream output
/// whose text may be empty. None if it is not their continuation, or if one of them cannot be read.
pub fn continuation(output: &Value, elements: &[String], store: Option<&BlobStore>) -> Option<Value> {
    let name = stream_name(output)?;
    let mut rest = output.get("text")?.as_str()?;
    for element in elements {
        let old = resolve(element, store).ok()?;
        if stream_name(&old)? != name {
            return None;
        }
        rest = rest.strip_prefix(old.get("text")?.as_str()?)?;
    }
    Some(json!({ "output_type": "stream", "name": name, "text": rest }))
}

fn stream_name(output: &Value) -> Option<&str> {
    (output.get("output_type")?.as_str()? == "stream").then_some(())?;
    output.get("name")?.as_str()
}

#[cfg(test)]
mod tests {
    use super::super::manifest;
    use super::super::store::tests::Scratch;
    use super::*;

    #[test]
    fn the_rest_of_a_merged_text() {
        let scratch = Scratch::new();
        let store = scratch.store();
        let stream = |name: &str, text: &str| json!({"output_type": "stream", "name": name, "text": text});
        let long = "é".repeat(5000);
        let elements: Vec<String> = ["a", &long, ""]
            .iter()
            .map(|text| manifest::store(&stream("stdout", text), &store).unwrap())
            .collect();
        let whole = stream("stdout", &format!("a{long}more"));
        assert_eq!(continuation(&whole, &elements, Some(&store)), Some(stream("stdout", "more")));
        let same = stream("stdout", &format!("a{long}"));
        assert_eq!(continuation(&same, &elements, Some(&store)), Some(stream("stdout", "")));
        assert_eq!(continuation(&whole, &[], None), Some(whole.clone()));
        // Not a continuation, or not readable.
        assert_eq!(continuation(&stream("stdout", "b"), &elements, Some(&store)), None);
        assert_eq!(continuation(&stream("stderr", &format!("a{long}")), &elements, Some(&store)), None);
        assert_eq!(continuation(&whole, &elements, None), None);
        let display = r#"{"output_type":"display_data","data":{},"metadata":{}}"#.to_owned();
        assert_eq!(continuation(&whole, &[display], None), None);
    }
}
