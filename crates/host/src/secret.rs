//! Secrets: made from the kernel's randomness, kept in memory under a type that does not print them, and
//! encrypted at rest with a key that lies in its own file (mode 0600) under HOME.

use std::fmt;
use std::io;
use std::path::Path;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use thiserror::Error;

use crate::clock::random;
use crate::durable::write_atomic;

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// 192 random bits in letters and digits that need no quoting in a URL.
    pub fn generate() -> Self {
        const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        Self(random::<32>().iter().map(|byte| char::from(LETTERS[usize::from(byte & 63)])).collect())
    }

    /// The text itself; the caller sees to it that it reaches no log, error or argument.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Why sealing or opening failed.
#[derive(Debug, Error)]
pub enum SecretError {
    /// The key file could not be read or made.
    #[error("the secret key file could not be used")]
    KeyFile(#[source] io::Error),
    /// The key file has the wrong length.
    #[error("the secret key file is damaged: it must hold 32 bytes")]
    KeyLength,
    /// The data was not sealed with this key, or was changed.
    #[error("a stored secret cannot be decrypted with this home's key")]
    Damaged,
}

/// Seals and opens secrets at rest.
pub struct SecretKey(LessSafeKey);

impl SecretKey {
    /// Reads the key from `path`; makes a new one when the file is not there.
    pub fn open_or_create(path: &Path) -> Result<Self, SecretError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let fresh = random::<32>();
                write_atomic(path, &fresh, 0o600).map_err(SecretError::KeyFile)?;
                fresh.to_vec()
            }
            Err(error) => return Err(SecretError::KeyFile(error)),
        };
        Self::from_bytes(&bytes)
    }

    /// A key of exactly 32 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SecretError> {
        let key = UnboundKey::new(&AES_256_GCM, bytes).map_err(|_| SecretError::KeyLength)?;
        Ok(Self(LessSafeKey::new(key)))
    }

    /// Encrypts: 12 bytes nonce, then cipher text with its tag.
    pub fn seal(&self, plain: &[u8]) -> Result<Vec<u8>, SecretError> {
        let nonce: [u8; NONCE_LEN] = random();
        let mut body = plain.to_vec();
        self.0
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut body)
            .map_err(|_| SecretError::Damaged)?;
        let mut sealed = nonce.to_vec();
        sealed.append(&mut body);
        Ok(sealed)
    }

    /// Decrypts what [`Self::seal`] made.
    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, SecretError> {
        let (nonce, body) = sealed.split_at_checked(NONCE_LEN).ok_or(SecretError::Damaged)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SecretError::Damaged)?;
        let mut body = body.to_vec();
        Ok(self.0.open_in_place(nonce, Aad::empty(), &mut body).map_err(|_| SecretError::Damaged)?.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sealed_secrets_open_with_the_same_key_only() -> Result<(), SecretError> {
        let dir = tempfile::tempdir().map_err(SecretError::KeyFile)?;
        let path = dir.path().join("key");
        let sealed = SecretKey::open_or_create(&path)?.seal(b"hunter2")?;
        assert!(!sealed.windows(7).any(|window| window == b"hunter2"));
        assert_eq!(SecretKey::open_or_create(&path)?.open(&sealed)?, b"hunter2");
        assert!(SecretKey::from_bytes(&[7; 32])?.open(&sealed).is_err());
        assert!(SecretKey::open_or_create(&path)?.open(&sealed[..5]).is_err());
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(…)");
        Ok(())
    }
}
