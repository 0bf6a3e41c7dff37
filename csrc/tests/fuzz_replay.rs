//! The fuzz targets on stable Rust, without libFuzzer: on every input of their corpora and every input that failed
//! once. The bodies are those of `csrc/fuzz` (docs/fuzzing.md); `tools/corpus.py` packs a corpus into one file.

#[path = "../fuzz/src/targets/mod.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use targets::TARGETS;

/// Bytes of an input in a corpus. Larger ones are slow and find no more.
const LARGEST: usize = 4_096;

fn fuzz() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz"))
}

fn entries(directory: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut paths: Vec<PathBuf> = found.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// The inputs of a packed corpus: a big-endian length of four bytes before each.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let path = fuzz().join("corpus").join(name).with_extension("inputs");
    let packed = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut rest = packed.as_slice();
    let mut inputs = Vec::new();
    while let Some((length, behind)) = rest.split_first_chunk() {
        let (input, behind) = behind.split_at(u32::from_be_bytes(*length) as usize);
        inputs.push(input.to_vec());
        rest = behind;
    }
    assert!(rest.is_empty(), "{} ends within an input", path.display());
    inputs
}

fn fails(check: fn(&[u8]), data: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| check(data))).is_err()
}

#[test]
fn every_target_takes_its_corpus() {
    let mut total = 0;
    for (name, check) in TARGETS {
        let inputs = corpus(name);
        assert!(inputs.iter().all(|data| data.len() <= LARGEST), "{name}: an input is too large");
        assert!(inputs.len() >= 10, "{name}: the corpus has only {} inputs", inputs.len());
        total += inputs.len();
        let failed: Vec<String> = inputs.iter().filter(|data| fails(check, data)).map(hex::encode).collect();
        assert!(failed.is_empty(), "{name}: {failed:#?}");
    }
    assert!(total >= 4_900, "{total} inputs: some are missing");
}

#[test]
fn nothing_that_failed_once_fails_again() {
    for directory in entries(&fuzz().join("crashers")).into_iter().filter(|path| path.is_dir()) {
        let name = directory.file_name().unwrap().to_str().unwrap();
        let target = TARGETS.iter().find(|(target, _)| *target == name);
        let check = target.unwrap_or_else(|| panic!("no target {name}")).1;
        let files = entries(&directory);
        let failed: Vec<_> = files.iter().filter(|path| fails(check, &fs::read(path).unwrap())).collect();
        assert!(failed.is_empty(), "{name}: {failed:?}");
    }
}

#[test]
fn every_target_takes_nothing_and_noise() {
    // Truncations and a cheap generator: what can be done without libFuzzer in a second.
    let mut state = 1u32;
    let mut noise = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    for (name, check) in TARGETS {
        check(&[]);
        for mut data in corpus(name).into_iter().take(20) {
            for _ in 0..10 {
                let place = usize::from(noise()) * 7 % data.len().max(1);
                if let Some(byte) = data.get_mut(place) {
                    *byte = noise();
                }
                check(&data);
            }
            data.truncate(data.len() / 2);
            check(&data);
        }
    }
}

#[test]
fn each_target_has_its_program_and_its_corpus() {
    let names: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let stems = |directory: &str| -> BTreeSet<String> {
        let paths = entries(&fuzz().join(directory));
        paths.iter().map(|path| path.file_stem().unwrap().to_string_lossy().into_owned()).collect()
    };
    assert_eq!(stems("fuzz_targets"), names);
    assert_eq!(stems("corpus"), names);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for name in &names {
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} is not built");
    }
}
