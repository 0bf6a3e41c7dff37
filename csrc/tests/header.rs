//! The committed C header is what the sources of the ABI say.
//!
//! `make header` runs this with RTD_UPDATE_HEADER=1, which rewrites the header instead of comparing.

mod abi_sources;

use std::fs;
use std::path::PathBuf;

use abi_sources::{abi_files, parse, root};
use syn::{Item, ItemEnum, Visibility};

/// Enums never cross as arguments (an unknown number would be undefined behaviour), so no function
/// leads cbindgen to them: they are asked for by name.
fn enum_names(files: &[PathBuf]) -> Vec<String> {
    let items = files.iter().flat_map(|f| parse(f).items);
    items
        .filter_map(|item| match item {
            Item::Enum(ItemEnum { vis: Visibility::Public(_), ident, .. }) => Some(ident.to_string()),
            _ => None,
        })
        .filter(|name| name.starts_with("rtd_"))
        .collect()
}

fn generate() -> String {
    let files = abi_files();
    let mut config = cbindgen::Config::from_file(root().join("cbindgen.toml")).expect("cbindgen.toml");
    config.export.include = enum_names(&files);
    // cbindgen follows the modules that mod.rs lists.
    let builder = cbindgen::Builder::new().with_config(config).with_src(&files[0]).with_src(&files[1]);
    let mut out = Vec::new();
    builder.generate().expect("cbindgen").write(&mut out);
    let text = String::from_utf8(out).unwrap();
    text.trim_start().lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[test]
fn header_matches_the_sources() {
    let path = root().join("include/runtimed_ffi.h");
    let wanted = generate();
    if std::env::var_os("RTD_UPDATE_HEADER").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        // Untouched when equal, so that nothing is rebuilt for it.
        if fs::read_to_string(&path).ok().as_deref() != Some(&wanted) {
            fs::write(&path, &wanted).unwrap();
        }
        return;
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    let difference = wanted.lines().zip(found.lines()).position(|(w, f)| w != f);
    let line = difference.unwrap_or_else(|| wanted.lines().count().min(found.lines().count()));
    assert!(
        wanted == found,
        "include/runtimed_ffi.h is not what the sources say; run `make header`.\nline {}:\n  sources: {:?}\n  file:    {:?}",
        line + 1,
        wanted.lines().nth(line),
        found.lines().nth(line),
    );
}

#[test]
fn slice_for_other_hosts_has_declarations_only() {
    let header = generate();
    let slice = header.split("/* rtd-cdef-begin */").nth(1).expect("first marker");
    let slice = slice.split("/* rtd-cdef-end */").next().unwrap();
    for line in slice.lines() {
        let code = line.trim_start();
        assert!(!code.starts_with('#'), "a preprocessor line, which cffi and LuaJIT refuse: {line}");
        assert!(!code.contains("__attribute__"), "an attribute: {line}");
    }
}
