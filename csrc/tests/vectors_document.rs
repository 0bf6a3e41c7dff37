//! The vectors of the kinds sync_message, sync_conversation, document, manifest, content_ref and
//! derived (protocol 2, sections 7, 8, 9.2 and 15).

use std::fs;
use std::path::PathBuf;

use runtimed_ffi::notebook::Notebook;
use runtimed_ffi::outputs::{self, derive, hash, BlobStore};
use runtimed_ffi::replica::{barrier, PeerSync, ReplicaError};
use serde_json::Value;

fn vectors(kind: &str) -> Vec<Value> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/vectors-v2.json");
    let file: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let all = file["vectors"].as_array().unwrap();
    all.iter().filter(|v| v["kind"] == kind).cloned().collect()
}

fn vector(kind: &str, id: &str) -> Value {
    vectors(kind).into_iter().find(|v| v["id"] == id).unwrap()
}

fn hex(text: &Value) -> Vec<u8> {
    let digits = text.as_str().unwrap().as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap() as u8;
    digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

fn heads(notebook: &Notebook) -> Vec<String> {
    notebook.heads().iter().map(ToString::to_string).collect()
}

/// A directory that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("runtimed-ffi-{name}-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn sync_messages() {
    let all = vectors("sync_message");
    let (mut good, mut bad) = (0, 0);
    for v in &all {
        let message = hex(&v["message_hex"]);
        let mut notebook = Notebook::create("nb1").unwrap();
        let before = notebook.heads();
        let mut peer = PeerSync::new();
        let result = peer.receive(&mut notebook, &message);
        assert_eq!(notebook.heads(), before, "{}", v["id"]);
        if v["expect"]["error"] == "bad_sync_message" {
            assert!(matches!(result, Err(ReplicaError::BadSync(_))), "{}", v["id"]);
            assert_eq!(peer.their_heads(), None);
            bad += 1;
        } else {
            assert!(result.unwrap().is_empty());
            let theirs: Vec<String> = peer.their_heads().unwrap().iter().map(ToString::to_string).collect();
            assert_eq!(Value::from(theirs), v["decoded"]["heads"]);
            good += 1;
        }
    }
    assert_eq!((all.len(), good, bad), (8, 3, 5));

    let fresh = Notebook::load(&hex(&vector("document", "am-fresh-doc")["document_hex"])).unwrap();
    assert_eq!(barrier(&fresh), hex(&vector("sync_message", "am-barrier")["message_hex"]));
}

/// Both sides of the recorded conversations, one after another on the same replicas: each side takes
/// what the other recorded and ends with the same document.
#[test]
fn sync_conversations() {
    let all = vectors("sync_conversation");
    assert_eq!(all.len(), 3);
    let mut client = Notebook::empty();
    let mut server = Notebook::empty();
    let (mut to_daemon, mut to_client) = (PeerSync::new(), PeerSync::new());
    let mut steps = 0;
    for v in &all {
        for step in v["steps"].as_array().unwrap() {
            let message = hex(&step["message_hex"]);
            match step["direction"].as_str().unwrap() {
                "daemon_to_client" => to_daemon.receive(&mut client, &message).unwrap(),
                "client_to_daemon" => to_client.receive(&mut server, &message).unwrap(),
                other => panic!("{other}"),
            };
            steps += 1;
        }
        // What a side sent is not in the messages it received, so it takes the other's replica.
        match v["id"].as_str().unwrap() {
            "am-initial-sync" => {
                assert_eq!(client.notebook_id().as_deref(), Some("nb1"));
                assert_eq!(Value::from(heads(&client)), v["daemon_heads"]);
                server = client.clone();
            }
            "am-edit" => {
                assert_eq!(server.source("cell-1").as_deref(), Some("print('hé')\n"));
                client = server.clone();
            }
            _ => {}
        }
    }
    assert_eq!(steps, 10);
    let full = vector("document", "am-full-doc");
    assert_eq!(Value::from(heads(&client)), full["heads"]);
    assert_eq!(client.source("cell-1").as_deref(), Some("print('hé')\n"));
    assert_eq!(client.outputs("cell-1").unwrap().len(), 1);
    assert!(to_client.missing(&server), "the daemon appended the output to a replica we lack");

    // A new peer gets it all.
    let mut late = Notebook::empty();
    talk(&mut client, &mut late);
    assert_eq!(late.heads(), client.heads());
}

fn talk(a: &mut Notebook, b: &mut Notebook) {
    let (mut pa, mut pb) = (PeerSync::new(), PeerSync::new());
    loop {
        let (ab, ba) = (pa.generate(a), pb.generate(b));
        if ab.is_none() && ba.is_none() {
            break;
        }
        ab.map(|m| pb.receive(b, &m).unwrap());
        ba.map(|m| pa.receive(a, &m).unwrap());
    }
}

#[test]
fn documents() {
    let all = vectors("document");
    for v in &all {
        let notebook = Notebook::load(&hex(&v["document_hex"])).unwrap();
        let expect = &v["expect"];
        if v.get("heads").is_some() {
            assert_eq!(Value::from(heads(&notebook)), v["heads"]);
        }
        if let Some(id) = expect["notebook_id"].as_str() {
            assert_eq!(notebook.notebook_id().as_deref(), Some(id));
        }
        if let Some(metadata) = expect["metadata"].as_object() {
            let found = notebook.metadata();
            assert_eq!(found.len(), metadata.len());
            assert!(found.iter().all(|(k, v)| metadata[k] == v.as_str()));
        }
        let cells = notebook.cells();
        let wanted = expect["cells"].as_array().unwrap();
        assert_eq!(cells.len(), wanted.len(), "{}", v["id"]);
        for (cell, want) in cells.iter().zip(wanted) {
            let count = notebook.execution_count_text(&cell.id);
            for (key, value) in want.as_object().unwrap() {
                match key.as_str() {
                    "note" => {}
                    "id" => assert_eq!(cell.id, *value),
                    "cell_type" => assert_eq!(cell.cell_type, *value),
                    "source" => assert_eq!(cell.source, *value),
                    "execution_count" => assert_eq!(count.as_deref(), value.as_str()),
                    "outputs" => assert_eq!(Value::from(cell.outputs.clone()), *value),
                    other => panic!("{other}"),
                }
            }
            assert_eq!(notebook.cell(&cell.id).as_ref(), Some(cell));
        }
    }
    assert_eq!(all.len(), 3);
}

#[test]
fn manifests() {
    let scratch = Scratch::new("manifests");
    let store = BlobStore::open(scratch.0.join("blobs")).unwrap();
    let all = vectors("manifest");
    for v in &all {
        let mut output = v["nbformat_output"].clone();
        if output["text"] == "<8192 times x>" {
            output["text"] = "x".repeat(8192).into();
        }
        let text = outputs::build(&output, &store).unwrap().to_string();
        assert_eq!(text, v["manifest_utf8"].as_str().unwrap(), "{}", v["id"]);
        let hash = store.put(text.as_bytes(), outputs::manifest::MANIFEST_TYPE).unwrap();
        assert_eq!(hash, v["sha256"].as_str().unwrap());
        assert_eq!(store.media_type(&hash).as_deref(), v["stored_media_type"].as_str());
        let resolved = outputs::resolve(&hash, Some(&store)).unwrap();
        assert_eq!(resolved["output_type"], output["output_type"]);
        assert_eq!(outputs::build(&resolved, &store).unwrap().to_string(), text);
    }
    assert_eq!(all.len(), 11);
}

#[test]
fn content_references() {
    let scratch = Scratch::new("references");
    let store = BlobStore::open(scratch.0.join("blobs")).unwrap();
    let all = vectors("content_ref");
    for v in &all {
        let times = v["content_repeat"].as_u64().unwrap() as usize;
        let text = v["content_unit"].as_str().unwrap().repeat(times);
        assert_eq!(text.len() as u64, v["byte_length"].as_u64().unwrap());
        let mime = v["media_type"].as_str().unwrap();
        let output = serde_json::json!({"output_type": "display_data", "data": {mime: text}});
        let manifest = outputs::build(&output, &store).unwrap();
        let reference = &manifest["data"][mime];
        if v["expect"]["inline"] == true {
            assert_eq!(reference["inline"], text.as_str());
        } else {
            assert_eq!(*reference, v["expect"]["content_ref"]);
            let hash = reference["blob"].as_str().unwrap();
            assert_eq!(store.get(hash).unwrap(), text.as_bytes());
            assert_eq!(store.media_type(hash).as_deref(), Some(mime));
        }
    }
    assert_eq!(all.len(), 5);
}

#[test]
fn derived_names() {
    let scratch = Scratch::new("derived");
    let store = BlobStore::open(scratch.0.join("blobs")).unwrap();
    let (mut run, mut left) = (0, 0);
    let all = vectors("derived");
    for v in &all {
        let (input, expect) = (&v["input"], &v["expect"]);
        let given = |key: &str| input[key].as_str().unwrap_or_else(|| panic!("{}", v["id"]));
        let id = v["id"].as_str().unwrap();
        if id.starts_with("blob-path-") {
            let hash = store.put(given("content_utf8").as_bytes(), "text/plain").unwrap();
            assert_eq!(expect["hash"], hash.as_str());
            for file in ["blob", "meta"] {
                assert!(scratch.0.join(expect[file].as_str().unwrap()).is_file());
            }
        } else if id.starts_with("hash-shape-") {
            assert_eq!(expect["is_hash"], hash::is_hash(given("candidate")));
        } else if id.starts_with("doc-file-") {
            let name = derive::notebook_file_name(given("notebook_id"));
            assert_eq!(expect["file_name"], name);
        } else if id.starts_with("worktree-") {
            assert_eq!(expect["dir"], derive::worktree_dir(given("workspace_path")));
        } else {
            // Environments, trust and launching are the host program's.
            let elsewhere = ["inline-", "trust-", "uuid-room-"];
            assert!(elsewhere.iter().any(|prefix| id.starts_with(prefix)), "{id}");
            left += 1;
            continue;
        }
        run += 1;
    }
    assert_eq!((all.len(), run, left), (29, 17, 12));
}
