//! Storey 1: the settings document: its members, their defaults, what older programs wrote.

use automerge::transaction::Transactable;
use automerge::{Automerge, AutomergeError, ReadDoc, ROOT};
use serde_json::{json, Map, Value};

use super::json::{read_map, write_differences};
use super::SettingsError;
use crate::replica::{admit_file, Applied, Doc, Replica, ReplicaError, ENCODING};

/// Members that older programs wrote at the root, as text with commas, and where their content is now.
const LEGACY: [(&str, &str); 2] = [("default_uv_packages", "uv"), ("default_conda_packages", "conda")];

/// The name of the schema in the settings file; no setting.
const SCHEMA: &str = "$schema";

/// A replica of the settings. Members that the protocol does not define are kept.
#[derive(Debug, Clone)]
pub struct Settings {
    doc: Automerge,
}

impl Settings {
    /// A document without any change, for a peer: the structure comes from the daemon.
    pub fn empty() -> Self {
        Self { doc: Automerge::new_with_encoding(ENCODING) }
    }

    /// New settings: every member with its default.
    ///
    /// # Errors
    /// The document engine refused.
    pub fn create() -> Result<Self, ReplicaError> {
        let mut settings = Self::empty();
        settings.write(&Map::new(), &defaults())?;
        Ok(settings)
    }

    /// Loads saved settings, with changes appended to them as far as they can be read, and moves what older
    /// programs wrote to its place. True if the end was dropped.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn load_prefix(bytes: &[u8]) -> Result<(Self, bool), ReplicaError> {
        let (doc, torn) = admit_file(bytes)?;
        let mut settings = Self { doc };
        settings.migrate()?;
        Ok((settings, torn))
    }

    /// The settings as JSON: the defined members first, with their default where there is none of the right
    /// type, then the others.
    pub fn to_json(&self) -> Map<String, Value> {
        let mut members = read_map(&self.doc, &ROOT);
        let legacy = take_legacy(&mut members);
        let mut all = defaults();
        overlay(&mut all, legacy);
        overlay(&mut all, members);
        all
    }

    /// Changes the members that are given and different, as one change. Objects are compared member by
    /// member, a list is replaced as a whole. False if nothing was different.
    ///
    /// # Errors
    /// `WrongType` when a defined member has another type than its own; nothing changed then.
    pub fn change(&mut self, members: &Map<String, Value>) -> Result<bool, SettingsError> {
        let mut wanted = members.clone();
        wanted.remove(SCHEMA);
        let mut legacy = take_legacy(&mut wanted);
        for (key, value) in std::mem::take(&mut wanted) {
            match (legacy.get_mut(&key), value) {
                // The present form of a setting takes precedence over the old one.
                (Some(Value::Object(old)), Value::Object(new)) => old.extend(new),
                (_, value) => {
                    legacy.insert(key, value);
                }
            }
        }
        check(&legacy)?;
        Ok(self.write(&self.to_json(), &legacy)?)
    }

    fn write(
        &mut self,
        present: &Map<String, Value>,
        wanted: &Map<String, Value>,
    ) -> Result<bool, ReplicaError> {
        let mut tx = self.doc.transaction();
        let written = write_differences(&mut tx, &ROOT, present, wanted);
        if matches!(written, Ok(true)) {
            tx.commit();
        } else {
            tx.rollback();
        }
        Ok(written?)
    }

    fn migrate(&mut self) -> Result<(), ReplicaError> {
        let mut members = read_map(&self.doc, &ROOT);
        if !LEGACY.iter().any(|(old, _)| members.contains_key(*old)) {
            return Ok(());
        }
        let old = take_legacy(&mut members);
        let mut wanted = old.clone();
        for (key, value) in &old {
            let known =
                members.get(key).and_then(|map| map.get("default_packages")).and_then(Value::as_array);
            // What was set in the present form is newer.
            if known.is_some_and(|packages| !packages.is_empty()) || value["default_packages"] == json!([]) {
                wanted.remove(key);
            }
        }
        let mut tx = self.doc.transaction();
        let written = (|| -> Result<(), AutomergeError> {
            write_differences(&mut tx, &ROOT, &members, &wanted)?;
            for (key, _) in LEGACY {
                if tx.get(ROOT, key)?.is_some() {
                    tx.delete(ROOT, key)?;
                }
            }
            Ok(())
        })();
        if written.is_ok() {
            tx.commit();
        } else {
            tx.rollback();
        }
        Ok(written?)
    }
}

impl Doc for Settings {
    fn doc(&self) -> &Automerge {
        &self.doc
    }
}

impl Replica for Settings {
    type Changes = ();

    fn doc_mut(&mut self) -> &mut Automerge {
        &mut self.doc
    }

    fn changed(&mut self, _: &Applied<'_>) {}

    fn restore(&mut self, document: Automerge) {
        self.doc = document;
    }
}

fn defaults() -> Map<String, Value> {
    let members = [
        ("theme", json!("system")),
        ("default_runtime", json!("python")),
        ("default_python_env", json!("uv")),
        ("uv", json!({"default_packages": []})),
        ("conda", json!({"default_packages": []})),
    ];
    members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Removes the members of older programs; returns their content in the present form.
fn take_legacy(members: &mut Map<String, Value>) -> Map<String, Value> {
    let mut found = Map::new();
    for (old, new) in LEGACY {
        if let Some(Value::String(text)) = members.remove(old) {
            let packages: Vec<&str> =
                text.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
            found.insert(new.to_owned(), json!({"default_packages": packages}));
        }
    }
    found
}

/// Puts `members` over `all`; a defined member only if it has its type.
fn overlay(all: &mut Map<String, Value>, members: Map<String, Value>) {
    for (key, value) in members {
        let one = Map::from_iter([(key.clone(), value.clone())]);
        if check(&one).is_err() {
            continue;
        }
        match (all.get_mut(&key), value) {
            (Some(Value::Object(known)), Value::Object(more)) => known.extend(more),
            (_, value) => {
                all.insert(key, value);
            }
        }
    }
}

fn check(members: &Map<String, Value>) -> Result<(), SettingsError> {
    let bad = |key: &str, what: &str| Err(SettingsError::WrongType(format!("{key} must be {what}")));
    for (key, value) in members {
        match key.as_str() {
            "theme" | "default_runtime" | "default_python_env" if !value.is_string() => {
                return bad(key, "a string");
            }
            "uv" | "conda" => {
                let Some(tool) = value.as_object() else { return bad(key, "an object") };
                let strings =
                    |list: &Value| list.as_array().is_some_and(|list| list.iter().all(Value::is_string));
                if tool.get("default_packages").is_some_and(|list| !strings(list)) {
                    return bad(&format!("{key}.default_packages"), "a list of strings");
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::PeerSync;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    /// Exchanges messages until neither side has one.
    fn settle(one: &mut Settings, two: &mut Settings) {
        let (mut first, mut second) = (PeerSync::new(), PeerSync::new());
        loop {
            let (there, back) = (first.generate(one), second.generate(two));
            if there.is_none() && back.is_none() {
                return;
            }
            if let Some(message) = there {
                second.receive(two, &message).unwrap();
            }
            if let Some(message) = back {
                first.receive(one, &message).unwrap();
            }
        }
    }

    #[test]
    fn new_settings_are_the_defaults_and_only_differences_are_written() {
        let mut settings = Settings::create().unwrap();
        let wanted = json!({"theme": "system", "default_runtime": "python", "default_python_env": "uv",
            "uv": {"default_packages": []}, "conda": {"default_packages": []}});
        assert_eq!(Value::Object(settings.to_json()), wanted);
        let heads = settings.doc.get_heads();
        let mut same = object(wanted);
        same.insert(SCHEMA.into(), json!("./settings.schema.json"));
        assert!(!settings.change(&same).unwrap());
        assert_eq!(settings.doc.get_heads(), heads, "nothing different, no change");
        assert!(settings
            .change(&object(json!({"theme": "dark", "uv": {"default_packages": ["six"]}})))
            .unwrap());
        assert_eq!(settings.doc.get_heads().len(), 1);
        assert_eq!(settings.to_json()["uv"], json!({"default_packages": ["six"]}));
        assert_eq!(settings.to_json()["theme"], "dark");
    }

    #[test]
    fn a_member_of_another_type_changes_nothing() {
        let mut settings = Settings::create().unwrap();
        let before = settings.doc.get_heads();
        for wrong in [
            json!({"theme": 1}),
            json!({"uv": []}),
            json!({"theme": "dark", "conda": {"default_packages": [1]}}),
        ] {
            assert!(matches!(settings.change(&object(wrong)), Err(SettingsError::WrongType(_))));
        }
        assert_eq!(settings.doc.get_heads(), before);
    }

    #[test]
    fn members_that_the_protocol_does_not_define_are_kept() {
        let mut settings = Settings::create().unwrap();
        let more = json!({"editor": {"tabs": 4, "rulers": [80, 120.5], "wrap": null, "deep": {"on": true}}});
        assert!(settings.change(&object(more.clone())).unwrap());
        let (loaded, torn) = Settings::load_prefix(&settings.doc.save()).unwrap();
        assert!(!torn);
        assert_eq!(loaded.to_json()["editor"], more["editor"]);
        assert!(!settings.change(&object(more)).unwrap());
    }

    #[test]
    fn edits_of_two_peers_both_stay() {
        let mut one = Settings::create().unwrap();
        let mut two = Settings::empty();
        settle(&mut one, &mut two);
        one.change(&object(json!({"theme": "dark"}))).unwrap();
        two.change(&object(json!({"conda": {"default_packages": ["numpy"]}}))).unwrap();
        settle(&mut one, &mut two);
        assert_eq!(one.to_json(), two.to_json());
        assert_eq!(one.to_json()["theme"], "dark");
        assert_eq!(two.to_json()["conda"]["default_packages"], json!(["numpy"]));
    }

    #[test]
    fn what_older_programs_wrote_moves_to_its_place_once() {
        let mut old = Settings::empty();
        old.write(&Map::new(), &object(json!({"theme": "light", "default_uv_packages": "six, attrs,,", "default_conda_packages": ""})))
            .unwrap();
        let (mut settings, _) = Settings::load_prefix(&old.doc.save()).unwrap();
        let uv = json!({"default_packages": ["six", "attrs"]});
        assert_eq!((&settings.to_json()["uv"], &settings.to_json()["theme"]), (&uv, &json!("light")));
        assert!(settings.doc.get(ROOT, "default_uv_packages").unwrap().is_none());
        let heads = settings.doc.get_heads();
        let (again, _) = Settings::load_prefix(&settings.doc.save()).unwrap();
        assert_eq!(again.doc.get_heads(), heads);
        // The same in JSON; the present form takes precedence.
        settings
            .change(&object(json!({"default_conda_packages": "a,b", "default_uv_packages": "x", "uv": uv})))
            .unwrap();
        assert_eq!(settings.to_json()["conda"], json!({"default_packages": ["a", "b"]}));
        assert_eq!(settings.to_json()["uv"], uv);
    }

    #[test]
    fn the_present_form_in_a_document_takes_precedence_over_the_older_one() {
        for (present, wanted) in [(json!(["new"]), json!(["new"])), (json!([]), json!(["old"]))] {
            let mut document = Settings::empty();
            let members = json!({"uv": {"default_packages": present}, "default_uv_packages": "old"});
            document.write(&Map::new(), &object(members)).unwrap();
            let (settings, _) = Settings::load_prefix(&document.doc.save()).unwrap();
            assert_eq!(settings.to_json()["uv"], json!({"default_packages": wanted}));
            assert!(settings.doc.get(ROOT, "default_uv_packages").unwrap().is_none());
        }
    }

    #[test]
    fn a_document_of_another_shape_reads_as_defaults_and_can_be_repaired() {
        let mut odd = Settings::empty();
        odd.write(
            &Map::new(),
            &object(json!({"theme": 7, "uv": "none", "conda": {"default_packages": "x"}})),
        )
        .unwrap();
        let defaults = Settings::create().unwrap().to_json();
        assert_eq!(odd.to_json(), defaults);
        odd.change(&object(json!({"uv": {"default_packages": ["six"]}, "theme": "dark"}))).unwrap();
        assert_eq!(odd.to_json()["uv"], json!({"default_packages": ["six"]}));
    }
}
