//! Saved documents. Invariants:
//! - bytes that are no document are `Corrupt`, and nothing else happens;
//! - what loads can be read, edited, saved and loaded again, and is the same then; so is what is saved in pieces;
//! - what loads strictly loads as a prefix too, to the same document if nothing is dropped;
//! - a torn end changes nothing of what is before it, and is reported;
//! - settings that load can be changed, and never lose their defined members.

use runtimed_ffi::notebook::{Notebook, Op};
use runtimed_ffi::replica::ReplicaError;
use runtimed_ffi::settings::Settings;
use serde_json::{json, Map};

use super::document::{edit, examine, fix_checksums};
use super::script::first;

/// One byte for what is done, then the file.
pub fn check(data: &[u8]) {
    let (flags, bytes) = first(data);
    let mut bytes = bytes.to_vec();
    if flags & 1 != 0 {
        fix_checksums(&mut bytes);
    }
    if flags & 2 != 0 {
        return settings(&bytes);
    }
    let prefix = refused(Notebook::load_prefix(&bytes));
    if flags & 4 != 0 {
        let strict = refused(Notebook::load(&bytes));
        match (&strict, &prefix) {
            (Some(strict), Some((prefix, false))) => {
                assert_eq!(prefix.heads(), strict.heads());
                assert_eq!(prefix.cells(), strict.cells());
            }
            (None, Some((_, torn))) => assert!(torn, "good as a prefix and bad as a whole"),
            (Some(strict), _) => examine(strict),
            (None, None) => {}
        }
    }
    let Some((mut notebook, torn)) = prefix else { return };
    if flags & 8 != 0 {
        bytes.push(flags);
        let (again, torn) = Notebook::load_prefix(&bytes).expect("a byte behind it harms nothing");
        assert!(torn);
        assert_eq!(again.heads(), notebook.heads());
        bytes.pop();
    }
    if flags & 16 != 0 {
        append(&mut notebook, &bytes, torn);
    }
    examine(&notebook);
}

/// Edits it and appends what is new to the file, as a journal does.
fn append(notebook: &mut Notebook, bytes: &[u8], torn: bool) {
    // An actor that is not in the file: a change that waits for others would have the number of the next one.
    let free = |actor: &[u8; 16]| !bytes.windows(16).any(|part| part == actor);
    let Some(actor) = (7..=255).map(|byte| [byte; 16]).find(free) else { return };
    notebook.set_actor(&actor);
    let before = notebook.heads();
    // What could not be read is not written behind: the file is made new.
    let mut file = if torn { notebook.save() } else { bytes.to_vec() };
    let ops = [
        edit(notebook, &bytes[bytes.len() - bytes.len().min(9)..]),
        Op::insert_cell("new", "code", "x", None),
    ];
    match notebook.edit(&ops) {
        Ok(changed) => assert!(changed && notebook.cell("new").is_some_and(|cell| cell.source == "x")),
        Err(_) => assert_eq!(notebook.heads(), before),
    }
    file.extend(notebook.save_since(&before));
    let (again, torn) = Notebook::load_prefix(&file).expect("what is appended can be loaded");
    assert!(!torn);
    assert_eq!(again.heads(), notebook.heads());
}

fn settings(bytes: &[u8]) {
    let Some((mut settings, _)) = refused(Settings::load_prefix(bytes)) else { return };
    let members = settings.to_json();
    for (name, kind) in Settings::create().unwrap().to_json() {
        assert_eq!(std::mem::discriminant(&members[&name]), std::mem::discriminant(&kind), "{name}");
    }
    let theme = Map::from_iter([("theme".to_owned(), json!("dark"))]);
    settings.change(&theme).expect("a setting can be changed");
    assert_eq!(settings.to_json()["theme"], "dark");
    assert_eq!(settings.change(&theme), Ok(false));
}

/// The one way not to be a document.
fn refused<T>(loaded: Result<T, ReplicaError>) -> Option<T> {
    match loaded {
        Ok(loaded) => Some(loaded),
        Err(ReplicaError::Corrupt(_)) => None,
        Err(other) => panic!("{other:?}"),
    }
}
