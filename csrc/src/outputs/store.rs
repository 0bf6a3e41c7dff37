//! Storey 1: the blob store, a directory of files named by their content (protocol 2, section 8.4).
//!
//! Several processes may use one directory at once: a file appears under its name only when it is
//! complete, and two writers of the same content write the same bytes.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{json, Value};
use uuid::Uuid;

use super::hash::{is_hash, sha256_hex};
use super::OutputError;

/// The largest blob, bytes.
pub const MAX_BLOB: usize = 100 * 1024 * 1024;

/// A blob store on disk.
#[derive(Debug, Clone)]
pub struct BlobStore {
    dir: PathBuf,
}

impl BlobStore {
    /// Opens the store in this directory, made if missing and then readable by its owner only.
    ///
    /// It exists from now on even without a blob: reference clients look for it only once, when they
    /// connect.
    pub fn open(dir: impl Into<PathBuf>) -> io::Result<Self> {
        let dir = dir.into();
        make_dir(&dir)?;
        Ok(Self { dir })
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Stores some bytes and returns their hash. Bytes that are there already are not written again
    /// and keep their first media type.
    pub fn put(&self, bytes: &[u8], media_type: &str) -> Result<String, OutputError> {
        if bytes.len() > MAX_BLOB {
            return Err(OutputError::TooLarge { size: bytes.len(), limit: MAX_BLOB });
        }
        let hash = sha256_hex(bytes);
        let (content, meta) = self.files(&hash);
        // A file of another length was damaged after it was stored: write it again.
        let whole = fs::metadata(&content).is_ok_and(|found| found.len() == bytes.len() as u64);
        if whole && meta.exists() {
            return Ok(hash);
        }
        let shard = self.dir.join(&hash[..2]);
        make_dir(&shard)?;
        let sidecar = json!({
            "media_type": media_type,
            "size": bytes.len(),
            "created_at": humantime::format_rfc3339_micros(SystemTime::now()).to_string(),
        });
        let name = format!(".tmp.{}", Uuid::new_v4());
        let temporary = shard.join(&name);
        let temporary_meta = shard.join(format!("{name}.meta"));
        let written = write_new(&temporary, bytes)
            .and_then(|()| write_new(&temporary_meta, sidecar.to_string().as_bytes()))
            .and_then(|()| fs::rename(&temporary, &content))
            .and_then(|()| {
                fs::rename(&temporary_meta, &meta).inspect_err(|_| {
                    if !meta.exists() {
                        // Content without a sidecar would be served without a media type forever.
                        let _ = fs::remove_file(&content);
                    }
                })
            });
        if let Err(error) = written {
            let _ = fs::remove_file(&temporary);
            let _ = fs::remove_file(&temporary_meta);
            return Err(error.into());
        }
        Ok(hash)
    }

    /// The bytes of a blob, checked against its hash, which may be in either case.
    pub fn get(&self, hash: &str) -> Result<Vec<u8>, OutputError> {
        let missing = || OutputError::NotFound(hash.to_owned());
        let path = self.path(hash).ok_or_else(missing)?;
        let bytes = fs::read(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => missing(),
            _ => error.into(),
        })?;
        if !sha256_hex(&bytes).eq_ignore_ascii_case(hash) {
            return Err(OutputError::Corrupt(format!("blob {hash} has other content")));
        }
        Ok(bytes)
    }

    /// The media type that the blob was stored with; none without a readable sidecar.
    pub fn media_type(&self, hash: &str) -> Option<String> {
        let (_, meta) = is_hash(hash).then(|| self.files(hash))?;
        let sidecar: Value = serde_json::from_slice(&fs::read(meta).ok()?).ok()?;
        Some(sidecar.get("media_type")?.as_str()?.to_owned())
    }

    /// The file of a blob, whether it exists or not; none if the string is not a hash, so that no name
    /// leads out of the directory.
    pub fn path(&self, hash: &str) -> Option<PathBuf> {
        is_hash(hash).then(|| self.files(hash).0)
    }

    /// Content and sidecar of a string known to be a hash.
    fn files(&self, hash: &str) -> (PathBuf, PathBuf) {
        let hash = hash.to_ascii_lowercase();
        let shard = self.dir.join(&hash[..2]);
        (shard.join(&hash[2..]), shard.join(format!("{}.meta", &hash[2..])))
    }
}

fn make_dir(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::File::create_new(path)?.write_all(bytes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A directory that goes away with the test.
    pub struct Scratch(pub PathBuf);

    impl Scratch {
        pub fn new() -> Self {
            Self(std::env::temp_dir().join(format!("runtimed-ffi-test-{}", Uuid::new_v4())))
        }

        pub fn store(&self) -> BlobStore {
            BlobStore::open(self.0.join("blobs")).unwrap()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn layout_and_idempotence() {
        let scratch = Scratch::new();
        let store = scratch.store();
        let hash = store.put(b"hello world", "text/plain").unwrap();
        assert_eq!(store.put(b"hello world", "image/png").unwrap(), hash);
        assert_eq!(store.media_type(&hash).as_deref(), Some("text/plain"));
        assert_eq!(store.get(&hash).unwrap(), b"hello world");
        assert_eq!(store.get(&hash.to_uppercase()).unwrap(), b"hello world");
        let path = store.path(&hash).unwrap();
        assert_eq!(path, store.dir().join(&hash[..2]).join(&hash[2..]));

        let shard = path.parent().unwrap();
        assert_eq!(fs::read_dir(shard).unwrap().count(), 2, "no temporary files left");
        let meta: Value = serde_json::from_slice(&fs::read(path.with_extension("meta")).unwrap()).unwrap();
        let members: Vec<&String> = meta.as_object().unwrap().keys().collect();
        assert_eq!(members, ["media_type", "size", "created_at"]);
        assert_eq!(meta["size"], 11);
        let time = meta["created_at"].as_str().unwrap();
        assert_eq!((time.len(), &time[26..]), (27, "Z"));
    }

    #[cfg(unix)]
    #[test]
    fn only_the_owner_may_enter() {
        use std::os::unix::fs::PermissionsExt;
        let scratch = Scratch::new();
        let store = scratch.store();
        let hash = store.put(b"", "text/plain").unwrap();
        for dir in [store.dir(), store.path(&hash).unwrap().parent().unwrap()] {
            let mode = fs::metadata(dir).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
        }
    }

    #[test]
    fn what_is_not_there() {
        let scratch = Scratch::new();
        let store = scratch.store();
        let unknown = "a".repeat(64);
        let outside = format!("../{}", "a".repeat(61));
        for name in ["", "x", unknown.as_str(), outside.as_str(), "/etc/passwd"] {
            assert!(matches!(store.get(name), Err(OutputError::NotFound(hash)) if hash == name));
            assert_eq!(store.media_type(name), None);
        }
        assert_eq!(store.path(&outside), None);
    }

    #[test]
    fn damage_is_detected_and_repaired() {
        let scratch = Scratch::new();
        let store = scratch.store();
        let hash = store.put(b"content", "text/plain").unwrap();
        let path = store.path(&hash).unwrap();
        fs::write(&path, b"cont").unwrap();
        assert!(matches!(store.get(&hash), Err(OutputError::Corrupt(_))));
        store.put(b"content", "text/plain").unwrap();
        assert_eq!(store.get(&hash).unwrap(), b"content");

        // A sidecar that got lost comes back too.
        fs::remove_file(path.with_extension("meta")).unwrap();
        assert_eq!(store.media_type(&hash), None);
        store.put(b"content", "text/csv").unwrap();
        assert_eq!(store.media_type(&hash).as_deref(), Some("text/csv"));
    }

    #[test]
    fn too_large() {
        let scratch = Scratch::new();
        let error = scratch.store().put(&vec![0; MAX_BLOB + 1], "text/plain").unwrap_err();
        assert_eq!(error.to_string(), "blob too large: 104857601 bytes (max 104857600)");
    }
}
