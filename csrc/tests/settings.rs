//! The settings of a host: recorded traffic, several peers, and what a restart brings back.

mod support;

use std::path::{Path, PathBuf};

use runtimed_ffi::code::rtd_event_kind::*;
use runtimed_ffi::drive::{DriveError, EventSource, Host, HostOptions};
use runtimed_ffi::replica::{Doc, PeerSync};
use runtimed_ffi::settings::Settings;
use serde_json::{json, Map, Value};
use support::{until, Place, Raw};

const HELLO: &str = r#"{"channel":"settings_sync"}"#;

fn golden(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/v2")).join(name)
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

fn recorded_mirror() -> Value {
    let text = std::fs::read(golden("files/settings.json")).unwrap();
    let mut members = object(serde_json::from_slice(&text).unwrap());
    members.remove("$schema");
    Value::Object(members)
}

/// A peer of the settings channel with a replica of its own.
struct Peer {
    raw: Raw,
    sync: PeerSync,
    settings: Settings,
}

impl Peer {
    fn open(place: &Place) -> Self {
        let raw = Raw::open(&place.socket(), HELLO);
        let mut peer = Self { raw, sync: PeerSync::new(), settings: Settings::empty() };
        peer.until(|settings| !settings.doc().get_heads().is_empty());
        peer
    }

    /// Exchanges messages until the settings are as wanted.
    fn until(&mut self, wanted: impl Fn(&Settings) -> bool) {
        while !wanted(&self.settings) {
            let frame = self.raw.frame();
            self.sync.receive(&mut self.settings, &frame).unwrap();
            self.send_changes();
        }
    }

    fn send_changes(&mut self) {
        if let Some(message) = self.sync.generate(&self.settings) {
            self.raw.send(&message);
        }
    }

    fn change(&mut self, members: Value) {
        assert!(self.settings.change(&object(members)).unwrap());
        self.send_changes();
    }
}

fn open(place: &Place, journal: &Path) -> Host {
    let host = Host::open(&place.socket(), HostOptions::default()).unwrap();
    host.open_settings(Some(journal)).unwrap();
    host
}

/// Waits for changes of peers until the settings are as wanted.
fn wait_for_settings(host: &Host, wanted: impl Fn(&Value) -> bool) {
    while !wanted(&host.settings().unwrap()) {
        until(host, RTD_EV_SETTINGS_CHANGED);
    }
}

#[test]
fn the_files_of_the_reference_load() {
    let (settings, torn) =
        Settings::load_prefix(&std::fs::read(golden("files/settings.automerge")).unwrap()).unwrap();
    assert!(!torn);
    assert_eq!(Value::Object(settings.to_json()), recorded_mirror());
}

#[test]
fn recorded_clients_end_in_the_recorded_settings() {
    let text = std::fs::read(golden("settings.json")).unwrap();
    let recording: Value = serde_json::from_slice(&text).unwrap();
    let connections: Vec<&Vec<Value>> = recording["connections"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["frames"].as_array().unwrap())
        .collect();
    let bytes = |frame: &Value| hex::decode(frame["hex"].as_str().unwrap_or_default()).unwrap();
    // What the recorded daemon had when it started: its own first change.
    let (mut sync, mut settings) = (PeerSync::new(), Settings::empty());
    for frame in connections[0].iter().filter(|frame| frame["from"] == "daemon") {
        if settings.doc().get_heads().is_empty() {
            sync.receive(&mut settings, &bytes(frame)).unwrap();
        }
    }
    let place = Place::new();
    let journal = place.0.join("settings.automerge");
    std::fs::write(&journal, settings.doc().save()).unwrap();
    let host = open(&place, &journal);

    let mut raws: Vec<Option<Raw>> = connections.iter().map(|_| None).collect();
    let mut frames: Vec<(f64, usize, &Value)> = connections
        .iter()
        .enumerate()
        .flat_map(|(number, frames)| {
            frames.iter().map(move |frame| (frame["t"].as_f64().unwrap(), number, frame))
        })
        .filter(|(_, _, frame)| frame["from"] == "client" && frame["kind"] != "close")
        .collect();
    frames.sort_by(|one, two| one.0.total_cmp(&two.0));
    for (_, number, frame) in frames {
        let raw = raws[number].get_or_insert_with(|| Raw::connect(&place.socket()));
        raw.send(&bytes(frame));
    }
    wait_for_settings(&host, |settings| *settings == recorded_mirror());
    for raw in raws.iter_mut().flatten() {
        assert!(!raw.frame().is_empty(), "the host speaks first and answers");
    }
    let (kept, _) = Settings::load_prefix(&std::fs::read(&journal).unwrap()).unwrap();
    assert_eq!(Value::Object(kept.to_json()), recorded_mirror());
}

#[test]
fn peers_and_the_host_converge_and_a_restart_brings_it_back() {
    let place = Place::new();
    let journal = place.0.join("settings.automerge");
    {
        let host = open(&place, &journal);
        assert!(matches!(host.open_settings(None), Err(DriveError::State(_))));
        let (mut one, mut two) = (Peer::open(&place), Peer::open(&place));
        one.change(json!({"theme": "dark"}));
        two.change(json!({"uv": {"default_packages": ["six"]}}));
        wait_for_settings(&host, |settings| {
            settings["theme"] == "dark" && settings["uv"]["default_packages"] == json!(["six"])
        });
        host.change_settings(&object(json!({"default_runtime": "deno"}))).unwrap();
        let wanted = host.settings().unwrap();
        for peer in [&mut one, &mut two] {
            peer.until(|settings| Value::Object(settings.to_json()) == wanted);
        }
        let before = std::fs::read(&journal).unwrap();
        host.change_settings(&object(wanted.clone())).unwrap();
        assert!(host.change_settings(&object(json!({"theme": 5}))).is_err());
        assert_eq!(std::fs::read(&journal).unwrap(), before, "what is not different is not written");
    }
    let host = open(&place, &journal);
    let settings = host.settings().unwrap();
    assert_eq!((&settings["theme"], &settings["default_runtime"]), (&json!("dark"), &json!("deno")));
    let late = Peer::open(&place);
    assert_eq!(Value::Object(late.settings.to_json()), settings);
}

#[test]
fn a_change_makes_one_event_until_the_settings_were_read() {
    let place = Place::new();
    let host = open(&place, &place.0.join("settings.automerge"));
    let mut peer = Peer::open(&place);
    for theme in ["dark", "light", "system", "dark"] {
        peer.change(json!({"theme": theme}));
    }
    until(&host, RTD_EV_SETTINGS_CHANGED);
    peer.change(json!({"default_python_env": "conda"}));
    // The host has answered everything, so it has emitted all events.
    peer.raw.send(b"not a sync message");
    while peer.raw.next().is_some() {}
    assert!(host.next_event().unwrap().is_none());
    assert_eq!(host.settings().unwrap()["default_python_env"], "conda");
    let mut peer = Peer::open(&place);
    peer.change(json!({"theme": "light"}));
    until(&host, RTD_EV_SETTINGS_CHANGED);
}

#[test]
fn an_unreadable_file_is_left_alone_and_settings_that_are_not_open_are_not_served() {
    let place = Place::new();
    let host = Host::open(&place.socket(), HostOptions::default()).unwrap();
    Raw::open(&place.socket(), HELLO).closed();
    assert!(matches!(host.settings(), Err(DriveError::State(_))));
    let journal = place.0.join("settings.automerge");
    std::fs::write(&journal, b"garbage").unwrap();
    assert!(matches!(host.open_settings(Some(&journal)), Err(DriveError::Corrupt(_))));
    assert_eq!(std::fs::read(&journal).unwrap(), b"garbage");
    host.open_settings(None).unwrap();
    Peer::open(&place);
}
