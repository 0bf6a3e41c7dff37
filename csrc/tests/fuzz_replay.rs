//! What the fuzz targets are given, without libFuzzer: the files of their corpus, and every input that failed once.
//! The bodies are those of `csrc/fuzz` (docs/fuzzing.md).

#[path = "../fuzz/src/targets/mod.rs"]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::{Path, PathBuf};

use targets::TARGETS;

/// A corpus is a few dozen small files: what is larger belongs to whoever fuzzes.
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

/// Runs each file of a directory; gives the number of files and the names of those that failed.
fn replay(directory: &Path, check: fn(&[u8])) -> (usize, Vec<PathBuf>) {
    let files = entries(directory);
    let failed = files.iter().filter(|path| {
        let data = fs::read(path).unwrap();
        catch_unwind(AssertUnwindSafe(|| check(&data))).is_err()
    });
    (files.len(), failed.cloned().collect())
}

#[test]
fn every_target_takes_its_corpus() {
    for (name, check) in TARGETS {
        let corpus = fuzz().join("corpus").join(name);
        for path in entries(&corpus) {
            assert!(fs::metadata(&path).unwrap().len() <= LARGEST as u64, "{} is too large", path.display());
        }
        let (count, failed) = replay(&corpus, check);
        assert!(count >= 10, "{name}: the corpus has only {count} files");
        assert!(failed.is_empty(), "{name}: {failed:?}");
    }
}

#[test]
fn nothing_that_failed_once_fails_again() {
    for directory in entries(&fuzz().join("crashers")).into_iter().filter(|path| path.is_dir()) {
        let name = directory.file_name().unwrap().to_str().unwrap();
        let target = TARGETS.iter().find(|(target, _)| *target == name);
        let (_, failed) = replay(&directory, target.unwrap_or_else(|| panic!("no target {name}")).1);
        assert!(failed.is_empty(), "{name}: {failed:?}");
    }
}

#[test]
fn every_target_takes_nothing_and_noise() {
    // Truncations and a cheap generator: what a machine without libFuzzer can do to it in a second.
    let mut state = 1u32;
    let mut noise = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    for (name, check) in TARGETS {
        check(&[]);
        for path in entries(&fuzz().join("corpus").join(name)).iter().take(20) {
            let mut data = fs::read(path).unwrap();
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
