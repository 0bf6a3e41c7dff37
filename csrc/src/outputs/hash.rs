//! Storey 1: content hashes.

use sha2::{Digest, Sha256};

/// True if a string has the shape of a content hash: 64 hexadecimal digits of either case (protocol 2,
/// section 8.4). Does not check whether such a blob exists.
pub fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The SHA-256 of some bytes, 64 lower-case hexadecimal digits.
pub fn sha256_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shape() {
        assert!(is_hash(&"aF".repeat(32)));
        assert!(!is_hash(&"a".repeat(63)));
        assert!(!is_hash(&"g".repeat(64)));
        // 64 bytes, but not 64 digits.
        assert!(!is_hash(&"é".repeat(32)));
    }

    #[test]
    fn known_hash() {
        assert_eq!(
            sha256_hex(b"hello world"),
            "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"
        );
    }
}
