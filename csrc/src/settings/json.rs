//! Storey 1: the values of a document as JSON, and JSON as values.

use automerge::transaction::{Transactable, Transaction};
use automerge::{
    Automerge, AutomergeError, ObjId, ObjType, Prop, ReadDoc, ScalarValue, ScalarValueRef, ValueRef,
};
use serde_json::{Map, Value};

/// Objects in objects; what lies deeper is left out. JSON of the C ABI is not deeper either.
const DEPTH: usize = 100;

/// A map of the document. Values that JSON does not have (bytes, unknown types) are left out.
pub fn read_map(doc: &Automerge, map: &ObjId) -> Map<String, Value> {
    map_at(doc, map, DEPTH)
}

fn map_at(doc: &Automerge, map: &ObjId, depth: usize) -> Map<String, Value> {
    let items = doc.map_range(map, ..);
    items
        .filter_map(|item| Some((item.key.to_string(), value(doc, &item.value, &item.id(), depth)?)))
        .collect()
}

fn value(doc: &Automerge, value: &ValueRef<'_>, id: &ObjId, depth: usize) -> Option<Value> {
    if depth == 0 {
        return None;
    }
    match value {
        ValueRef::Object(ObjType::Map | ObjType::Table) => Some(Value::Object(map_at(doc, id, depth - 1))),
        ValueRef::Object(ObjType::List) => {
            let items = doc.list_range(id, ..);
            Some(Value::Array(
                items.filter_map(|item| self::value(doc, &item.value, &item.id(), depth - 1)).collect(),
            ))
        }
        // Some writers make every string a text that can be edited.
        ValueRef::Object(ObjType::Text) => doc.text(id).ok().map(Value::String),
        ValueRef::Scalar(scalar) => scalar_json(scalar),
    }
}

fn scalar_json(scalar: &ScalarValueRef<'_>) -> Option<Value> {
    match scalar {
        ScalarValueRef::Str(text) => Some(Value::String(text.to_string())),
        ScalarValueRef::Int(number) | ScalarValueRef::Timestamp(number) | ScalarValueRef::Counter(number) => {
            Some((*number).into())
        }
        ScalarValueRef::Uint(number) => Some((*number).into()),
        ScalarValueRef::F64(number) => serde_json::Number::from_f64(*number).map(Value::Number),
        ScalarValueRef::Boolean(flag) => Some(Value::Bool(*flag)),
        ScalarValueRef::Null => Some(Value::Null),
        ScalarValueRef::Bytes(_) | ScalarValueRef::Unknown { .. } => None,
    }
}

/// Writes the members of `wanted` that `present` does not have. Objects are compared member by member, a list
/// is replaced as a whole. True if anything was written.
///
/// # Errors
/// The document refused.
pub fn write_differences(
    tx: &mut Transaction<'_>,
    map: &ObjId,
    present: &Map<String, Value>,
    wanted: &Map<String, Value>,
) -> Result<bool, AutomergeError> {
    let none = Map::new();
    let mut changed = false;
    for (key, value) in wanted {
        match (value, present.get(key)) {
            (value, Some(known)) if value == known => {}
            (Value::Object(members), known) => {
                let known = known.and_then(Value::as_object);
                // Only a map that exists can be compared; `present` may be a default.
                let (inner, known) = match tx.get(map, key.as_str())? {
                    Some((automerge::Value::Object(ObjType::Map), inner)) => (inner, known.unwrap_or(&none)),
                    _ => {
                        changed = true;
                        (tx.put_object(map, key.as_str(), ObjType::Map)?, &none)
                    }
                };
                changed |= write_differences(tx, &inner, known, members)?;
            }
            (value, _) => {
                write(tx, map, key.as_str().into(), value, Place::Member)?;
                changed = true;
            }
        }
    }
    Ok(changed)
}

/// Where a value goes: over what is there, or between others.
#[derive(Clone, Copy)]
enum Place {
    Member,
    Element,
}

fn write(
    tx: &mut Transaction<'_>,
    parent: &ObjId,
    prop: Prop,
    value: &Value,
    place: Place,
) -> Result<(), AutomergeError> {
    let scalar = match value {
        Value::Object(members) => {
            let map = make(tx, parent, prop, ObjType::Map, place)?;
            for (key, value) in members {
                write(tx, &map, key.as_str().into(), value, Place::Member)?;
            }
            return Ok(());
        }
        Value::Array(elements) => {
            let list = make(tx, parent, prop, ObjType::List, place)?;
            for (index, element) in elements.iter().enumerate() {
                write(tx, &list, index.into(), element, Place::Element)?;
            }
            return Ok(());
        }
        Value::String(text) => ScalarValue::Str(text.as_str().into()),
        Value::Bool(flag) => ScalarValue::Boolean(*flag),
        Value::Null => ScalarValue::Null,
        Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => ScalarValue::Int(number),
            (None, Some(number)) => ScalarValue::Uint(number),
            (None, None) => ScalarValue::F64(number.as_f64().unwrap_or_default()),
        },
    };
    match (place, prop) {
        (Place::Element, Prop::Seq(index)) => tx.insert(parent, index, scalar),
        (_, prop) => tx.put(parent, prop, scalar),
    }
}

fn make(
    tx: &mut Transaction<'_>,
    parent: &ObjId,
    prop: Prop,
    kind: ObjType,
    place: Place,
) -> Result<ObjId, AutomergeError> {
    match (place, prop) {
        (Place::Element, Prop::Seq(index)) => tx.insert_object(parent, index, kind),
        (_, prop) => tx.put_object(parent, prop, kind),
    }
}
