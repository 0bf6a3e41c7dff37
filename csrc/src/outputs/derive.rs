//! Storey 1: names derived from hashes that reference peers derive the same way.

use super::hash::sha256_hex;

/// The file a room's document is kept in: the SHA-256 of the id's UTF-8 bytes (protocol 2,
/// section 9.2).
pub fn notebook_file_name(notebook_id: &str) -> String {
    format!("{}.automerge", sha256_hex(notebook_id.as_bytes()))
}

/// The directory, below the base directory, of a daemon in development mode: the text of the workspace
/// path is hashed as it is, so `/a` and `/a/` differ (protocol 2, section 1.2).
pub fn worktree_dir(workspace_path: &str) -> String {
    format!("worktrees/{}", &sha256_hex(workspace_path.as_bytes())[..12])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(
            notebook_file_name(""),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855.automerge"
        );
        assert_eq!(worktree_dir("/home/u/project"), "worktrees/4eb6cd28fb98");
    }
}
