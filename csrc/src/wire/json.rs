//! Storey 1, JSON of messages: a strict scan, reading by tag, writing by tag (protocol 2, section 3).
//! Works on byte slices only.
//!
//! serde can read enums whose tag is a member of the object, but keeps a tree of the whole object while
//! it looks for the tag: dozens of bytes for each number, and the buffers of a widget message are
//! millions of numbers. Here the text is scanned once without storing it, then read straight into the
//! variant that the scan found.

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, IgnoredAny, IntoDeserializer,
    MapAccess, SeqAccess, VariantAccess, Visitor,
};
use serde::{Deserialize, Serialize};
use serde_json::{Error, Map, Value};

/// What a scan of a message found.
pub(super) struct Outline {
    /// Value of the tag member, if there is one.
    pub tag: Option<String>,
    /// Names of all other members, in their order.
    pub names: Vec<String>,
}

/// Scans a whole message: one JSON object, no byte order mark, nothing after it, valid UTF-8, no
/// unpaired surrogate, no duplicate member at any depth (two readers could understand it differently).
pub(super) fn outline(text: &[u8], tag: Option<&'static str>) -> Result<Outline, Error> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let outline = reader.deserialize_map(OutlineVisitor { tag })?;
    reader.end()?;
    Ok(outline)
}

struct OutlineVisitor {
    tag: Option<&'static str>,
}

impl<'de> Visitor<'de> for OutlineVisitor {
    type Value = Outline;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Outline, A::Error> {
        let mut seen = HashSet::new();
        let mut tag = None;
        let mut names = Vec::new();
        while let Some(name) = members.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(duplicate(&name));
            }
            if self.tag == Some(name.as_str()) {
                tag = Some(members.next_value()?);
            } else {
                members.next_value::<Checked>()?;
                names.push(name);
            }
        }
        Ok(Outline { tag, names })
    }
}

fn duplicate<E: serde::de::Error>(name: &str) -> E {
    E::custom(format_args!("duplicate member `{name}`"))
}

/// A JSON value that is checked and not kept. Unlike `IgnoredAny` it decodes every string, which finds unpaired
/// surrogates, and sees duplicate members.
struct Checked;

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        reader.deserialize_any(Checked)
    }
}

impl<'de> Visitor<'de> for Checked {
    type Value = Checked;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_str<E>(self, _: &str) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Checked, A::Error> {
        while elements.next_element::<Checked>()?.is_some() {}
        Ok(Checked)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Checked, A::Error> {
        let mut seen = HashSet::new();
        while let Some(name) = members.next_key::<String>()? {
            members.next_value::<Checked>()?;
            if let Some(name) = seen.replace(name) {
                return Err(duplicate(&name));
            }
        }
        Ok(Checked)
    }
}

/// Reads the members with the given names, in their order in the text.
pub(super) fn members(text: &[u8], names: &[String]) -> Result<Map<String, Value>, Error> {
    // Nearly no message has unknown members: the text is then not read again.
    if names.is_empty() {
        return Ok(Map::new());
    }
    let names = names.iter().map(String::as_str).collect();
    serde_json::Deserializer::from_slice(text).deserialize_map(MembersVisitor { names })
}

struct MembersVisitor<'a> {
    names: HashSet<&'a str>,
}

impl<'de> Visitor<'de> for MembersVisitor<'_> {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if self.names.contains(name.as_str()) {
                found.insert(name, members.next_value()?);
            } else {
                members.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

/// Reads the variant `variant` of the enum `T` from the object `text`; also returns the names of the
/// members of the variant.
pub(super) fn read_variant<T: DeserializeOwned>(
    text: &[u8],
    variant: &str,
) -> Result<(T, &'static [&'static str]), Error> {
    let fields = Cell::new(&[][..]);
    let body = T::deserialize(VariantReader { text, variant, fields: &fields })?;
    Ok((body, fields.get()))
}

/// Shows serde an object as the content of a variant that is known already.
struct VariantReader<'a> {
    text: &'a [u8],
    variant: &'a str,
    fields: &'a Cell<&'static [&'static str]>,
}

impl<'de> Deserializer<'de> for VariantReader<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("only enums are read by their tag"))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_enum(self)
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de> EnumAccess<'de> for VariantReader<'de> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let variant: StrDeserializer<'_, Error> = self.variant.into_deserializer();
        Ok((seed.deserialize(variant)?, self))
    }
}

impl<'de> VariantAccess<'de> for VariantReader<'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Error> {
        Err(Error::custom("a variant has named members or none"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("a variant has named members or none"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.fields.set(fields);
        serde_json::Deserializer::from_slice(self.text).deserialize_struct("", fields, visitor)
    }
}

/// Writes `body`, a variant with named members or none, as one object with the tag in front.
pub(super) fn write_variant<T: Serialize>(tag: &str, body: &T) -> Vec<u8> {
    // serde writes `"name"`, or `{"name":{members}}`. Names of variants need no escapes, so the first
    // colon is the one after the name.
    let plain = write(body);
    let mut out = Vec::with_capacity(plain.len() + tag.len() + 4);
    out.extend_from_slice(b"{\"");
    out.extend_from_slice(tag.as_bytes());
    out.extend_from_slice(b"\":");
    match plain.strip_prefix(b"{") {
        None => out.extend_from_slice(&plain),
        Some(inner) => {
            let colon = inner.iter().position(|&byte| byte == b':');
            let (name, members) = inner.split_at(colon.unwrap_or(inner.len()));
            out.extend_from_slice(name);
            // `:{members}}` without the punctuation around them.
            let members = members.get(2..members.len() - 2).unwrap_or_default();
            if !members.is_empty() {
                out.push(b',');
                out.extend_from_slice(members);
            }
        }
    }
    out.push(b'}');
    out
}

/// Compact JSON of a value whose maps have string keys; other keys are the only way that writing fails.
pub(super) fn write<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("messages have string keys only")
}

/// Appends members to the object `out`. One that the object has already is left out: a duplicate would
/// make the peer refuse the message.
pub(super) fn append_members(out: &mut Vec<u8>, extra: &Map<String, Value>) {
    if extra.is_empty() {
        return;
    }
    let present = outline(out, None).map_or_else(|_| Vec::new(), |outline| outline.names);
    out.pop();
    for (name, value) in extra.iter().filter(|(name, _)| !present.contains(name)) {
        if !out.ends_with(b"{") {
            out.push(b',');
        }
        out.extend_from_slice(&write(name));
        out.push(b':');
        out.extend_from_slice(&write(value));
    }
    out.push(b'}');
}
