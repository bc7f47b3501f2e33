//! Secrets: a type that never shows what it holds.

use std::io::Error;
use std::path::PathBuf;

/// A secret that never shows: its `Debug` is redacted, and it has no `Display`. Given inline or as a file
/// (`NAME_FILE`) that is read again at each use, so that a rotated secret is used.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(SecretSource);

#[derive(Clone, PartialEq, Eq)]
enum SecretSource {
    Inline(String),
    File(PathBuf),
}

impl Secret {
    /// A secret given as it is.
    pub fn inline(value: impl Into<String>) -> Self {
        Self(SecretSource::Inline(value.into()))
    }

    /// A secret in a file, without the line breaks at its end.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self(SecretSource::File(path.into()))
    }

    /// The secret, as it is now. Fails if its file cannot be read; the error names the path.
    pub fn read(&self) -> Result<String, Error> {
        match &self.0 {
            SecretSource::Inline(value) => Ok(value.clone()),
            SecretSource::File(path) => {
                let named = |error: Error| Error::new(error.kind(), format!("{}: {error}", path.display()));
                let text = std::fs::read_to_string(path).map_err(named)?;
                Ok(text.trim_end_matches(['\r', '\n']).to_owned())
            }
        }
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            SecretSource::Inline(_) => formatter.write_str("[redacted]"),
            SecretSource::File(path) => write!(formatter, "[redacted, read from {}]", path.display()),
        }
    }
}
