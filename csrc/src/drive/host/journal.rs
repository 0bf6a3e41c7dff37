//! Storey 3, host: a document on disk: the saved document, then the changes since, appended.
//!
//! An edit costs its own size. A crash can tear only the last chunk, which was not acknowledged to any peer yet; the
//! loader drops it. Rewriting is atomic (temporary file, then rename).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::drive::DriveError;
use crate::notebook::Notebook;
use crate::replica::{ChangeHash, Doc, ReplicaError};
use crate::settings::Settings;

/// The appended part may grow to the size of the saved part, but at least to this many bytes,
/// before the file is rewritten: rewriting then costs a constant factor.
const REWRITE_MIN: u64 = 256 * 1024;

/// An open journal.
pub struct Journal {
    path: PathBuf,
    /// `None` after a failed write: the next change rewrites the whole file.
    file: Option<File>,
    saved: u64,
    appended: u64,
    heads: Vec<ChangeHash>,
}

impl Journal {
    /// Opens the document at `path`, or creates a new one for `notebook_id` there.
    ///
    /// # Errors
    /// `Corrupt` when the file is no document or belongs to another notebook (the file stays as it
    /// is); `Io` when it cannot be read or written.
    pub fn open(path: &Path, notebook_id: &str) -> Result<(Self, Notebook), DriveError> {
        let load = |bytes: &[u8]| {
            let (notebook, torn) = Notebook::load_prefix(bytes)?;
            if notebook.notebook_id().is_some_and(|id| id != notebook_id) {
                let text = format!("{} belongs to another notebook", path.display());
                return Err(DriveError::Corrupt(text));
            }
            Ok((notebook, torn))
        };
        Self::open_with(path, load, || Notebook::create(notebook_id))
    }

    /// Opens the settings at `path`, or creates them there with their defaults.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open_settings(path: &Path) -> Result<(Self, Settings), DriveError> {
        Self::open_with(path, |bytes| Ok(Settings::load_prefix(bytes)?), Settings::create)
    }

    fn open_with<D: Doc>(
        path: &Path,
        load: impl FnOnce(&[u8]) -> Result<(D, bool), DriveError>,
        create: impl FnOnce() -> Result<D, ReplicaError>,
    ) -> Result<(Self, D), DriveError> {
        let (document, torn) = match fs::read(path) {
            Ok(bytes) => load(&bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => (create()?, true),
            Err(error) => return Err(error.into()),
        };
        let mut journal =
            Self { path: path.into(), file: None, saved: 0, appended: 0, heads: document.doc().get_heads() };
        if torn {
            journal.rewrite(&document)?;
        } else {
            let file = OpenOptions::new().append(true).open(path)?;
            journal.saved = file.metadata()?.len();
            journal.file = Some(file);
        }
        Ok((journal, document))
    }

    /// Writes the changes since the last call.
    ///
    /// # Errors
    /// The disk refused. Nothing is lost: the next call writes the whole document.
    pub fn record(&mut self, document: &dyn Doc) -> io::Result<()> {
        let heads = document.doc().get_heads();
        if heads == self.heads && self.file.is_some() {
            return Ok(());
        }
        let Some(file) = self.file.as_mut().filter(|_| self.appended <= self.saved.max(REWRITE_MIN)) else {
            return self.rewrite(document);
        };
        let bytes = document.doc().save_after(&self.heads);
        if let Err(error) = file.write_all(&bytes) {
            // Part of the chunk may be in the file; bytes appended after it would be unreadable.
            self.file = None;
            return Err(error);
        }
        self.appended += bytes.len() as u64;
        self.heads = heads;
        Ok(())
    }

    fn rewrite(&mut self, document: &dyn Doc) -> io::Result<()> {
        let bytes = document.doc().save();
        let temporary = self.path.with_extension(format!("tmp.{}", uuid::Uuid::new_v4().simple()));
        let written = (|| {
            let mut file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(&bytes)?;
            file.sync_data()?;
            fs::rename(&temporary, &self.path)?;
            Ok(file)
        })();
        match written {
            Ok(file) => {
                self.file = Some(file);
                self.saved = bytes.len() as u64;
                self.appended = 0;
                self.heads = document.doc().get_heads();
                Ok(())
            }
            Err(error) => {
                let _never_made = fs::remove_file(&temporary);
                Err(error)
            }
        }
    }
}

#[cfg(test)]
impl Journal {
    /// Makes the next append fail, as on a full disk; rewriting goes to `path` from now on.
    pub(super) fn break_for_test(&mut self, path: &Path) {
        self.file = Some(File::open(&self.path).unwrap());
        self.path = path.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notebook::Op;

    struct Place(PathBuf);

    impl Place {
        fn new() -> Self {
            let place = std::env::temp_dir().join(format!("rtd-{}", uuid::Uuid::new_v4().simple()));
            fs::create_dir(&place).unwrap();
            Self(place)
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn edit(notebook: &mut Notebook, id: &str) {
        notebook.edit(&[Op::insert_cell(id, "code", &"x".repeat(50), None)]).unwrap();
    }

    #[test]
    fn an_edit_appends_its_own_size_and_every_prefix_of_the_file_loads() {
        let place = Place::new();
        let path = place.0.join("n");
        let (mut journal, mut notebook) = Journal::open(&path, "n").unwrap();
        let mut sizes = vec![fs::metadata(&path).unwrap().len()];
        for number in 0..50 {
            edit(&mut notebook, &format!("c{number}"));
            journal.record(&notebook).unwrap();
            sizes.push(fs::metadata(&path).unwrap().len());
        }
        let (first, last) = (sizes[2] - sizes[1], sizes[50] - sizes[49]);
        assert!(last < first * 2, "{first} bytes for an early edit, {last} for a late one");
        let bytes = fs::read(&path).unwrap();
        for (count, size) in sizes.iter().enumerate() {
            // A crash in the middle of the next chunk loses that chunk only.
            for torn in [0, 1, 9, 40] {
                let end = (*size as usize + torn).min(bytes.len());
                let (loaded, _) = Notebook::load_prefix(&bytes[..end]).unwrap();
                assert_eq!(loaded.cells().len(), count);
            }
        }
    }

    #[test]
    fn nothing_is_appended_behind_a_write_that_failed() {
        let place = Place::new();
        let path = place.0.join("n");
        let (mut journal, mut notebook) = Journal::open(&path, "n").unwrap();
        for outage in 0..2 {
            edit(&mut notebook, &format!("before-{outage}"));
            journal.record(&notebook).unwrap();
            // Part of the chunk was written before the disk was full.
            let torn = [0x85, 0x6f, 0x4a, 0x83, 1, 2, 3];
            OpenOptions::new().append(true).open(&path).unwrap().write_all(&torn).unwrap();
            journal.break_for_test(&path);
            edit(&mut notebook, &format!("lost-{outage}"));
            assert!(journal.record(&notebook).is_err());
            // There is space again; nothing has changed since.
            journal.record(&notebook).unwrap();
            edit(&mut notebook, &format!("after-{outage}"));
            journal.record(&notebook).unwrap();
            let (loaded, torn) = Notebook::load_prefix(&fs::read(&path).unwrap()).unwrap();
            assert_eq!((loaded.heads(), torn), (notebook.heads(), false), "outage {outage}");
        }
    }

    #[test]
    fn the_cost_of_an_edit_does_not_depend_on_the_size_of_the_notebook() {
        use std::os::unix::fs::MetadataExt;
        let place = Place::new();
        let appended: Vec<u64> = [10, 5_000]
            .into_iter()
            .map(|cells: usize| {
                let path = place.0.join(cells.to_string());
                let (mut journal, mut notebook) = Journal::open(&path, "n").unwrap();
                let ops: Vec<Op> = (0..cells)
                    .map(|number| Op::insert_cell(&format!("c{number:04}"), "code", "1", None))
                    .collect();
                notebook.edit(&ops).unwrap();
                // As after opening it: all that is there is saved.
                journal.rewrite(&notebook).unwrap();
                let before = fs::metadata(&path).unwrap();
                let insert =
                    Op::SpliceSource { cell_id: "c0005".into(), index: 1, delete: 0, insert: "x".into() };
                notebook.edit(&[insert]).unwrap();
                journal.record(&notebook).unwrap();
                let after = fs::metadata(&path).unwrap();
                assert_eq!(after.ino(), before.ino(), "the file was appended to and not rewritten");
                after.len() - before.len()
            })
            .collect();
        // What differs is the length of a few numbers.
        assert!(appended[1] <= appended[0] + 16, "{appended:?} bytes for one character");
    }

    #[test]
    fn a_long_journal_is_rewritten_and_loses_nothing() {
        let place = Place::new();
        let path = place.0.join("n");
        let (mut journal, mut notebook) = Journal::open(&path, "n").unwrap();
        let mut shrank = false;
        let mut before = 0;
        for number in 0..200 {
            // Changing text that does not compress to nothing: a rewritten file is the history's size.
            let value = uuid::Uuid::new_v4().to_string().repeat(100);
            notebook.edit(&[Op::SetMetadata { key: format!("k{}", number % 5), value }]).unwrap();
            journal.record(&notebook).unwrap();
            let size = fs::metadata(&path).unwrap().len();
            shrank |= size < before;
            before = size;
        }
        assert!(shrank, "the file was never rewritten");
        let (_, loaded) = Journal::open(&path, "n").unwrap();
        assert_eq!(loaded.heads(), notebook.heads());
        assert_eq!(fs::read_dir(&place.0).unwrap().count(), 1, "no temporary file stays");
    }
}
