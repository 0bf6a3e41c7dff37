//! The committed C header is what the sources of the ABI say, and every export is guarded.
//!
//! `make header` runs this with RTD_UPDATE_HEADER=1, which rewrites the header instead of comparing.

use std::fs;
use std::path::{Path, PathBuf};

use syn::{Expr, Item, ItemEnum, ItemFn, Stmt, Visibility};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn parse(path: &Path) -> syn::File {
    let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The files of the ABI: the result codes, `abi/mod.rs`, then its modules in the order in which it lists them.
fn abi_files() -> Vec<PathBuf> {
    let dir = root().join("src/abi");
    let module_list = dir.join("mod.rs");
    let modules = parse(&module_list).items.into_iter().filter_map(|item| match item {
        Item::Mod(module) if module.content.is_none() => Some(dir.join(format!("{}.rs", module.ident))),
        _ => None,
    });
    let modules: Vec<_> = modules.collect();
    [root().join("src/code.rs"), module_list].into_iter().chain(modules).collect()
}

fn rust_files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

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

fn is_export(function: &ItemFn) -> bool {
    let attributes = function.attrs.iter();
    attributes
        .map(|a| match &a.meta {
            syn::Meta::List(list) => list.tokens.to_string(), // #[unsafe(no_mangle)]
            meta => meta.path().get_ident().map(ToString::to_string).unwrap_or_default(),
        })
        .any(|text| text == "no_mangle" || text.starts_with("export_name"))
}

/// The body is one expression, and that is a call of a function named `guard...`.
fn is_guarded(function: &ItemFn) -> bool {
    let [Stmt::Expr(Expr::Call(call), _)] = function.block.stmts.as_slice() else { return false };
    let Expr::Path(callee) = &*call.func else { return false };
    callee.path.segments.last().is_some_and(|s| s.ident.to_string().starts_with("guard"))
}

/// No panic may cross into C: the compiler would end the process.
#[test]
fn every_export_is_guarded() {
    let mut exports = 0;
    for path in abi_files() {
        for item in parse(&path).items {
            if let Item::Fn(function) = item {
                if is_export(&function) {
                    exports += 1;
                    let name = &function.sig.ident;
                    assert!(
                        is_guarded(&function),
                        "{}: the body of {name} is not one guard(..)",
                        path.display()
                    );
                    assert!(
                        function.attrs.iter().any(|a| a.path().is_ident("doc")),
                        "{}: {name} has no comment",
                        path.display()
                    );
                }
            }
        }
    }
    assert!(exports > 0, "no export found: has the ABI moved?");
}

/// Exports live in the files that the header is made from, and no macro hides one.
#[test]
fn exports_are_plain_and_in_one_place() {
    let known = abi_files();
    let mut files = Vec::new();
    rust_files(&root().join("src"), &mut files);
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        let is_abi = known.contains(&path);
        assert!(is_abi || !text.contains("no_mangle"), "{}: an export outside src/abi", path.display());
        assert!(!text.contains("export_name"), "{}: exports carry their own name", path.display());
        if is_abi {
            for item in parse(&path).items {
                if let Item::Macro(item) = item {
                    let hidden = item.mac.tokens.to_string().contains("no_mangle");
                    assert!(!hidden, "{}: a macro defines an export", path.display());
                }
            }
        }
    }
}
