//! Documents and blobs a reference daemon left on disk: every one loads and reads as
//! `tests/golden/v2/files/expected.json` describes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use runtimed_ffi::notebook::Notebook;
use runtimed_ffi::outputs::{self, derive::notebook_file_name, hash::sha256_hex, BlobStore};
use runtimed_ffi::replica::PeerSync;
use serde_json::Value;

fn files() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/v2/files")
}

fn expected() -> Value {
    serde_json::from_slice(&fs::read(files().join("expected.json")).unwrap()).unwrap()
}

/// All files of the blob directory, as shard and name.
fn blob_files() -> Vec<(String, String)> {
    let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
    let mut found = Vec::new();
    for shard in fs::read_dir(files().join("blobs")).unwrap() {
        let shard = name(shard.unwrap());
        for file in fs::read_dir(files().join("blobs").join(&shard)).unwrap() {
            found.push((shard.clone(), name(file.unwrap())));
        }
    }
    found
}

#[test]
fn every_blob_has_its_hash_and_every_sidecar_its_size() {
    let store = BlobStore::open(files().join("blobs")).unwrap();
    let (mut contents, mut sidecars) = (0, 0);
    for (shard, name) in blob_files() {
        if let Some(rest) = name.strip_suffix(".meta") {
            let path = files().join("blobs").join(&shard).join(&name);
            let meta: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
            let hash = format!("{shard}{rest}");
            assert_eq!(meta["size"], store.get(&hash).unwrap().len());
            assert_eq!(store.media_type(&hash).as_deref(), meta["media_type"].as_str());
            sidecars += 1;
        } else {
            let hash = format!("{shard}{name}");
            let bytes = store.get(&hash).unwrap();
            assert_eq!(store.path(&hash).unwrap(), store.dir().join(&shard).join(&name));
            // Manifests are written as we write them, but for the order of MIME types.
            if let Ok(Value::Object(manifest)) = serde_json::from_slice(&bytes) {
                if manifest.contains_key("output_type") {
                    let resolved = outputs::resolve_available(&hash, Some(&store));
                    if let Ok(output) = resolved {
                        let again = outputs::build(&output, &store).unwrap();
                        assert_eq!(again, Value::Object(manifest));
                    }
                }
            }
            contents += 1;
        }
    }
    assert_eq!((contents, sidecars), (45, 45));
}

/// The text of an expected output; one too long for the file is described there.
fn same(found: &Value, wanted: &Value, long: &mut usize) -> bool {
    if let Some(described) = wanted.get("long_text") {
        *long += 1;
        let text = found.as_str().unwrap();
        return described["sha256"] == sha256_hex(text.as_bytes()) && described["bytes"] == text.len();
    }
    match (found, wanted) {
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && b.iter().all(|(k, v)| a.contains_key(k) && same(&a[k], v, long))
        }
        _ => found == wanted,
    }
}

#[test]
fn every_document() {
    let expected = expected();
    let golden = BlobStore::open(files().join("blobs")).unwrap();
    // The blobs that were left out, made again.
    let scratch = std::env::temp_dir().join(format!("runtimed-ffi-golden-{}", std::process::id()));
    let store = BlobStore::open(&scratch).unwrap();
    let mut left_out = BTreeSet::new();
    for text in ["0123456789abcde\n".repeat(65_536), format!("'{}'", "y".repeat(1_000_000))] {
        left_out.insert(store.put(text.as_bytes(), "text/plain").unwrap());
    }
    for described in expected["blobs_left_out"].as_array().unwrap() {
        assert!(left_out.remove(described["hash"].as_str().unwrap()));
    }
    assert!(left_out.is_empty());
    for (shard, name) in blob_files() {
        if !name.ends_with(".meta") {
            let hash = format!("{shard}{name}");
            store.put(&golden.get(&hash).unwrap(), "text/plain").unwrap();
        }
    }

    let (mut documents, mut cells, mut elements, mut long) = (0, 0, 0, 0);
    for want in expected["notebooks"].as_array().unwrap() {
        let file = want["file"].as_str().unwrap();
        let id = want["notebook_id"].as_str().unwrap();
        assert_eq!(file, format!("notebook-docs/{}", notebook_file_name(id)));
        let bytes = fs::read(files().join(file)).unwrap();
        assert_eq!(want["bytes"], bytes.len());
        let mut notebook = Notebook::load(&bytes).unwrap();
        let (prefix, torn) = Notebook::load_prefix(&bytes).unwrap();
        assert_eq!((prefix.heads(), torn), (notebook.heads(), false));
        let heads: Vec<String> = notebook.heads().iter().map(ToString::to_string).collect();
        assert_eq!(Value::from(heads), want["heads"], "{id}");
        assert_eq!(notebook.notebook_id().as_deref(), Some(id));
        let metadata = notebook.metadata();
        assert_eq!(metadata.len(), want["metadata"].as_object().unwrap().len());
        assert!(metadata.iter().all(|(k, v)| want["metadata"][k] == v.as_str()));

        let found = notebook.cells();
        let wanted = want["cells"].as_array().unwrap();
        assert_eq!(found.len(), wanted.len(), "{id}");
        for (cell, want) in found.iter().zip(wanted) {
            assert_eq!(want["id"], cell.id.as_str());
            assert_eq!(want["cell_type"], cell.cell_type.as_str());
            assert_eq!(want["source"], cell.source.as_str());
            assert_eq!(cell.execution_count, None);
            let count = notebook.execution_count_text(&cell.id);
            assert_eq!(want["execution_count"].as_str(), count.as_deref());
            assert_eq!(want["output_hashes"], Value::from(cell.outputs.clone()));
            let outputs = want["outputs"].as_array().unwrap();
            assert_eq!(outputs.len(), cell.outputs.len());
            for (element, want) in cell.outputs.iter().zip(outputs) {
                let output = outputs::resolve(element, Some(&store)).unwrap();
                assert!(same(&output, want, &mut long), "{id} {element}: {output}");
                elements += 1;
            }
            cells += 1;
        }
        documents += 1;

        // A peer that joins sees the same, and what is saved can be loaded.
        let mut joined = Notebook::empty();
        join(&mut notebook, &mut joined);
        assert_eq!(joined.cells(), found);
        assert_eq!(Notebook::load(&notebook.save()).unwrap().cells(), found);
    }
    fs::remove_dir_all(&scratch).unwrap();
    let stored = fs::read_dir(files().join("notebook-docs")).unwrap().count();
    assert_eq!((documents, stored), (9, 9));
    assert_eq!((cells, elements, long), (36, 42, 2));
}

fn join(a: &mut Notebook, b: &mut Notebook) {
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
