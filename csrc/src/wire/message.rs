//! Storey 1, one JSON message: a typed body and the other members of the object (protocol 2,
//! sections 3 and 14.4). Works on byte slices only.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::Serialize;
use serde_json::error::Category;
use serde_json::{Map, Value};

use super::json;

/// Why a payload is not a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MessageError {
    /// Not JSON: bad syntax, bytes after the value, a byte order mark, invalid UTF-8, an unpaired
    /// surrogate escape.
    BadJson(String),
    /// JSON, but no message: not an object, unknown variant, missing or mistyped or duplicate member.
    BadMessage(String),
}

impl MessageError {
    /// The name of this class of errors in the golden vectors and in logs.
    pub fn class(&self) -> &'static str {
        match self {
            MessageError::BadJson(_) => "bad_json",
            MessageError::BadMessage(_) => "bad_message",
        }
    }
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MessageError::BadJson(text) => write!(f, "invalid JSON: {text}"),
            MessageError::BadMessage(text) => write!(f, "invalid message: {text}"),
        }
    }
}

impl std::error::Error for MessageError {}

impl From<serde_json::Error> for MessageError {
    fn from(error: serde_json::Error) -> Self {
        match error.classify() {
            Category::Data => MessageError::BadMessage(error.to_string()),
            Category::Syntax | Category::Eof | Category::Io => MessageError::BadJson(error.to_string()),
        }
    }
}

/// How the variants of a message are distinguished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tag {
    /// By the value of the member of this name. The body is an enum whose variants have named members
    /// or none.
    Member(&'static str),
    /// By no tag. The body reads and writes the whole object itself; these are its members.
    None(&'static [&'static str]),
}

/// What a [`Message`] can carry.
///
/// The `Serialize` and `Deserialize` of a body leave the tag to [`Message`]: only [`Message::parse`] and
/// [`Message::to_json`] read and write the form on the wire.
pub trait Body: Serialize + DeserializeOwned {
    /// How the variants of this body are distinguished.
    const TAG: Tag;
}

/// A message with the members its body does not know.
///
/// Peers ignore unknown members (protocol 2, section 14.4), so extensions travel in `extra`.
#[derive(Debug, Clone, PartialEq)]
pub struct Message<T> {
    /// What the protocol defines.
    pub body: T,
    /// All other members, in their order.
    pub extra: Map<String, Value>,
}

impl<T> From<T> for Message<T> {
    fn from(body: T) -> Self {
        Message { body, extra: Map::new() }
    }
}

impl<T> Message<T> {
    /// Adds a member the body does not have; one of the same name is replaced.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(name.to_owned(), value.into());
        self
    }
}

impl<T: Body> Message<T> {
    /// Reads a payload (without length and type byte). Strict: exactly one JSON object, no duplicate
    /// member at any depth, no unpaired surrogate; the array form of the reference is refused.
    pub fn parse(payload: &[u8]) -> Result<Self, MessageError> {
        let (body, unknown) = match T::TAG {
            Tag::Member(tag) => {
                let mut outline = json::outline(payload, Some(tag))?;
                let variant =
                    outline.tag.ok_or_else(|| MessageError::BadMessage(format!("missing member `{tag}`")))?;
                let (body, known) = json::read_variant(payload, &variant)?;
                outline.names.retain(|name| !known.contains(&name.as_str()));
                (body, outline.names)
            }
            Tag::None(known) => {
                let mut outline = json::outline(payload, None)?;
                let body = serde_json::from_slice(payload)?;
                outline.names.retain(|name| !known.contains(&name.as_str()));
                (body, outline.names)
            }
        };
        let extra = json::members(payload, &unknown)?;
        Ok(Message { body, extra })
    }

    /// The payload: the members of the body in their canonical order, then the others. An extra member
    /// with the name of a member of the body is left out.
    pub fn to_json(&self) -> Vec<u8> {
        let mut out = match T::TAG {
            Tag::Member(tag) => json::write_variant(tag, &self.body),
            Tag::None(_) => json::write(&self.body),
        };
        json::append_members(&mut out, &self.extra);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Probe {
        Bare,
        Empty {},
        Full { text: String, any: Option<Value> },
    }

    impl Body for Probe {
        const TAG: Tag = Tag::Member("kind");
    }

    fn parse(text: &str) -> Result<Message<Probe>, MessageError> {
        Message::parse(text.as_bytes())
    }

    fn class(text: &str) -> &'static str {
        parse(text).unwrap_err().class()
    }

    #[test]
    fn the_tag_may_stand_anywhere_and_unknown_members_keep_their_order() {
        let message = parse(r#" {"z":1,"any":{"b":1,"a":2},"text":"t:{","kind":"full","a":[{}]} "#).unwrap();
        let any = Some(json!({"b": 1, "a": 2}));
        let text = "t:{".to_owned();
        assert_eq!(message.body, Probe::Full { text, any });
        assert_eq!(
            String::from_utf8(message.to_json()).unwrap(),
            r#"{"kind":"full","text":"t:{","any":{"b":1,"a":2},"z":1,"a":[{}]}"#
        );
    }

    #[test]
    fn variants_without_members_are_objects_too() {
        assert_eq!(Message::from(Probe::Bare).to_json(), br#"{"kind":"bare"}"#);
        assert_eq!(Message::from(Probe::Empty {}).to_json(), br#"{"kind":"empty"}"#);
        assert_eq!(parse(r#"{"kind":"empty","text":1}"#).unwrap().extra.len(), 1);
        let message = Message::from(Probe::Bare).with("n", 7);
        assert_eq!(message.to_json(), br#"{"kind":"bare","n":7}"#);
        assert_eq!(parse(r#"{"kind":"bare","n":7}"#), Ok(message));
    }

    #[test]
    fn an_extra_member_never_becomes_a_duplicate() {
        let text = "body".to_owned();
        let message = Message::from(Probe::Full { text, any: None })
            .with("text", "extra")
            .with("kind", "bare")
            .with("more", true);
        assert_eq!(
            String::from_utf8(message.to_json()).unwrap(),
            r#"{"kind":"full","text":"body","any":null,"more":true}"#
        );
    }

    #[test]
    fn missing_optional_members_are_null_and_mandatory_ones_an_error() {
        let message = parse(r#"{"kind":"full","text":""}"#).unwrap();
        let text = String::new();
        assert_eq!(message.body, Probe::Full { text, any: None });
        assert_eq!(class(r#"{"kind":"full"}"#), "bad_message");
        assert_eq!(class(r#"{"kind":"full","text":null}"#), "bad_message");
        assert_eq!(class(r#"{"kind":null}"#), "bad_message");
        assert_eq!(class("{}"), "bad_message");
    }

    #[test]
    fn reading_is_strict_at_every_depth() {
        assert_eq!(class(r#"{"kind":"bare","x":{"y":[{"a":1,"a":1}]}}"#), "bad_message");
        assert_eq!(class(r#"{"kind":"bare","x":1,"x":2}"#), "bad_message");
        assert_eq!(class(r#"{"kind":"bare","\u0078":1,"x":2}"#), "bad_message");
        assert_eq!(class(r#"{"kind":"bare","x":["\ud83d"]}"#), "bad_json");
        assert_eq!(class(r#"{"kind":"bare","\ude00":1}"#), "bad_json");
        assert_eq!(class(r#"{"kind":"bare"} {}"#), "bad_json");
        assert_eq!(class("\u{feff}{}"), "bad_json");
        assert_eq!(class(r#"{"kind":"bare","x":1e999}"#), "bad_json");
        assert_eq!(class(r#"["bare"]"#), "bad_message");
        assert_eq!(class(r#""bare""#), "bad_message");
        assert_eq!(class("7"), "bad_message");
        assert_eq!(class(""), "bad_json");
        let deep = format!(r#"{{"kind":"bare","x":{}"#, "[".repeat(100_000));
        assert_eq!(class(&deep), "bad_json");
    }

    #[test]
    fn garbage_is_an_error_or_a_message_that_reads_back() {
        let text = r#"{"kind":"full","text":"a\u00e9\n","any":[1,-2,3.5e3,null,true,{"k":"v"}],"n":7}"#;
        for at in 0..text.len() {
            for byte in [0, b'"', b'{', b'}', b'[', b',', b'9', b'\\', 0xff] {
                let mut bytes = text.as_bytes().to_vec();
                bytes[at] = byte;
                if let Ok(message) = Message::<Probe>::parse(&bytes) {
                    assert_eq!(Message::parse(&message.to_json()), Ok(message));
                }
                bytes.truncate(at);
                assert!(Message::<Probe>::parse(&bytes).is_err());
            }
        }
    }
}
