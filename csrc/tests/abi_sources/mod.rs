//! The sources of the ABI, parsed: what the tests of the header and of the exports share.

// Each test program uses its part of this.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};

use syn::Item;

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn parse(path: &Path) -> syn::File {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The files of the ABI: the result codes, `abi/mod.rs`, then its modules in the order in which it lists them.
pub fn abi_files() -> Vec<PathBuf> {
    let dir = root().join("src/abi");
    let module_list = dir.join("mod.rs");
    let modules = parse(&module_list).items.into_iter().filter_map(|item| match item {
        Item::Mod(module) if module.content.is_none() => Some(dir.join(format!("{}.rs", module.ident))),
        _ => None,
    });
    let modules: Vec<_> = modules.collect();
    [root().join("src/code.rs"), module_list].into_iter().chain(modules).collect()
}

pub fn rust_files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}
