//! Single values: each is read, or becomes a fault that names its variable, what is wrong and the remedy.
//!
//! After a fault a value of the right type is returned all the same, so that the values after it are judged too;
//! the `Config` that it would have gone into is never built.

use std::fmt::{Display, Formatter};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use url::Url;

use super::Secret;
use super::settings::variable;

/// All faults of a configuration, one line each: variable, what is wrong, remedy. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Faults(pub(super) Vec<String>);

impl Faults {
    /// The faults, one line each.
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

/// One line a fault.
impl Display for Faults {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Faults {}

/// One setting: which, what was given (or its default), and whether it was given.
#[derive(Clone, Copy)]
pub(super) struct Raw<'a> {
    pub field: &'static str,
    pub value: Option<&'a str>,
    pub is_given: bool,
}

impl Raw<'_> {
    pub fn variable(self) -> String {
        variable(self.field)
    }
}

/// The setting in a field of `Settings`. The field's name is the only spelling of the variable's name.
macro_rules! raw {
    ($settings:expr, $group:ident . $field:ident) => {
        $crate::config::values::Raw {
            field: stringify!($field),
            value: $settings.$group.$field.as_deref(),
            is_given: $settings.given.contains(stringify!($field)),
        }
    };
}
pub(super) use raw;

/// What was found wrong, and what is worth a warning.
#[derive(Default)]
pub(super) struct Findings {
    pub faults: Vec<String>,
    pub notices: Vec<String>,
}

impl Findings {
    pub fn fault(&mut self, raw: Raw<'_>, what_and_remedy: impl Display) {
        self.faults.push(format!("{}: {what_and_remedy}", raw.variable()));
    }

    pub fn notice(&mut self, raw: Raw<'_>, what: impl Display) {
        self.notices.push(format!("{}: {what}", raw.variable()));
    }

    /// A whole number within these bounds.
    pub fn number<N>(&mut self, raw: Raw<'_>, bounds: &RangeInclusive<N>) -> N
    where
        N: FromStr + PartialOrd + Copy + Display,
    {
        let (least, most) = (*bounds.start(), *bounds.end());
        let value = raw.value.unwrap_or_default();
        match value.parse::<N>() {
            Ok(number) if bounds.contains(&number) => number,
            _ if value.starts_with("tcp://") => {
                // Kubernetes sets REDIS_PORT=tcp://… in every pod beside a Service that is named redis.
                self.fault(
                    raw,
                    format!(
                        "{} is what Kubernetes sets for a Service of that name; set a number yourself, or \
                         enableServiceLinks: false in the pod",
                        shown(value)
                    ),
                );
                least
            }
            _ => {
                self.fault(
                    raw,
                    format!(
                        "{} is not a whole number from {least} to {most}; set one",
                        shown(value)
                    ),
                );
                least
            }
        }
    }

    /// A boolean. What is not set is false.
    pub fn boolean(&mut self, raw: Raw<'_>) -> bool {
        let value = raw.value.unwrap_or("0");
        match value.to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => true,
            "0" | "false" | "no" | "off" => false,
            _ => {
                self.fault(
                    raw,
                    format!(
                        "{} is neither yes nor no; set 1, true, yes or on, or 0, false, no or off",
                        shown(value)
                    ),
                );
                false
            }
        }
    }

    /// One of these words, in any case. The list is also the fault's remedy.
    pub fn choice<T: Copy, const N: usize>(&mut self, raw: Raw<'_>, choices: [(&str, T); N]) -> T {
        let value = raw.value.unwrap_or_default();
        if let Some((_, choice)) = choices.iter().find(|(word, _)| word.eq_ignore_ascii_case(value)) {
            return *choice;
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        self.fault(
            raw,
            format!("{} is not known; set one of {}", shown(value), words.join(", ")),
        );
        choices[0].1
    }

    /// A secret, inline or in a file. The file must be readable and hold something now.
    pub fn secret(&mut self, inline: Raw<'_>, file: Raw<'_>) -> Option<Secret> {
        match (inline.value, file.value) {
            (None, None) => None,
            (Some(_), Some(_)) => {
                self.fault(
                    inline,
                    format!("is given together with {}; unset one of the two", file.variable()),
                );
                None
            }
            (Some(value), None) => Some(Secret::inline(value)),
            (None, Some(path)) => self.secret_file(file, path),
        }
    }

    fn secret_file(&mut self, file: Raw<'_>, path: &str) -> Option<Secret> {
        // Whoever mistakes NAME_FILE for NAME puts the secret itself here; it does not look like a path.
        let name = if path.starts_with(['/', '.']) {
            path
        } else {
            "the file (its name is not shown, as it may be the secret itself)"
        };
        let secret = Secret::file(path);
        let fault = match readable_again(Path::new(path)).and_then(|()| secret.read()) {
            Ok(text) if text.trim().is_empty() => format!("{name} is empty; put the secret into it"),
            Ok(_) => return Some(secret),
            Err(error) => {
                format!(
                    "cannot read {name}: {}; check the path and its permissions",
                    why(&error)
                )
            }
        };
        self.fault(file, fault);
        None
    }

    /// A secret that travels in an HTTP header or a signature, where white space or a control character can only
    /// be a mistake of copying.
    pub fn token(&mut self, inline: Raw<'_>, file: Raw<'_>) -> Option<Secret> {
        let secret = self.secret(inline, file)?;
        let given = if inline.value.is_some() { inline } else { file };
        // A secret that was read a moment ago; if it has gone since, its user will say so.
        let text = secret.read().unwrap_or_default();
        if text.chars().any(|letter| !letter.is_ascii_graphic()) {
            self.fault(
                given,
                "the secret holds white space, a control character or a letter beyond ASCII; copy it once more",
            );
            return None;
        }
        Some(secret)
    }

    /// An http or https URL without user, query or fragment.
    pub fn http_url(&mut self, raw: Raw<'_>) -> Option<Url> {
        let value = raw.value?;
        let fault = match Url::parse(value) {
            Err(error) => format!("is not a URL ({error}); set one that starts with https://"),
            Ok(url) if !matches!(url.scheme(), "http" | "https") => {
                "is not an http or https URL; set one that starts with https://".to_owned()
            }
            Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                "holds a user or password, which would show in the log; remove them".to_owned()
            }
            Ok(url) if url.query().is_some() || url.fragment().is_some() => {
                "holds a query or a fragment; remove what follows ? or #".to_owned()
            }
            Ok(url) => return Some(url),
        };
        self.fault(raw, fault);
        None
    }

    /// A PEM file with at least one certificate.
    pub fn certificates(&mut self, raw: Raw<'_>) -> Option<PathBuf> {
        let path = raw.value?;
        let fault = match readable_again(Path::new(path)).and_then(|()| std::fs::read(path)) {
            Err(error) => format!(
                "cannot read {path}: {}; check the path and its permissions",
                why(&error)
            ),
            Ok(pem) => match CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>() {
                Err(error) => format!("{path} is not valid PEM ({error}); set a file of PEM certificates"),
                Ok(certificates) if certificates.is_empty() => {
                    format!("{path} holds no certificate; set a file of PEM certificates")
                }
                Ok(_) => return Some(PathBuf::from(path)),
            },
        };
        self.fault(raw, fault);
        None
    }

    /// A PEM file with a private key. Nothing of it is shown.
    pub fn private_key(&mut self, raw: Raw<'_>) -> Option<PathBuf> {
        let path = raw.value?;
        let fault = match readable_again(Path::new(path)).and_then(|()| std::fs::read(path)) {
            Err(error) => format!(
                "cannot read {path}: {}; check the path and its permissions",
                why(&error)
            ),
            Ok(pem) => match PrivateKeyDer::from_pem_slice(&pem) {
                Err(_) => format!("{path} holds no private key that is not encrypted; set a PEM file of one"),
                Ok(_) => return Some(PathBuf::from(path)),
            },
        };
        self.fault(raw, fault);
        None
    }
}

/// Files are read again at each use: a pipe would be empty by then, or block the reader for ever.
fn readable_again(path: &Path) -> std::io::Result<()> {
    let file = std::fs::metadata(path)?;
    if file.is_dir() {
        return Err(std::io::ErrorKind::IsADirectory.into());
    }
    if file.is_file() {
        Ok(())
    } else {
        Err(std::io::ErrorKind::NotSeekable.into())
    }
}

/// A value as a fault shows it: quoted, in one line and short. What may hold a password is not shown.
pub(super) fn shown(value: &str) -> String {
    const LONGEST: usize = 60;
    if value.contains('@') {
        return "the value (not shown, it may hold a password)".to_owned();
    }
    let short: String = value.chars().take(LONGEST).collect();
    let rest = if short.len() < value.len() { "…" } else { "" };
    format!("'{}{rest}'", short.escape_debug())
}
/// Why a file cannot be read, without its path: that may be a secret which was put into the wrong variable.
fn why(error: &std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::NotFound {
        return "no such file".to_owned();
    }
    error.kind().to_string()
}
