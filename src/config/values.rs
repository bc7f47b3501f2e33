//! Single values: each is read, or becomes a fault that names its variable, what is wrong and the remedy. After a fault, a
//! value of the right type is returned all the same, so that the values after it are judged too.

use std::fmt::Display;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use url::Url;

use super::Secret;
use super::table::{Holds, SettingRow};

/// All faults of a configuration, one line each: variable, what is wrong, remedy. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Faults(pub(super) Vec<String>);

impl Faults {
    /// The faults, one line each.
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

/// One setting: which, what was given (or its default), and whether it was given.
#[derive(Clone, Copy)]
pub(super) struct Raw<'a> {
    pub setting: &'static SettingRow,
    pub value: Option<&'a str>,
    pub is_given: bool,
}

impl Raw<'_> {
    pub fn variable(self) -> &'static str {
        self.setting.variable
    }

    pub fn is_a_switch(self) -> bool {
        self.setting.holds == Holds::Bool
    }
}

/// The setting of this name, in small letters. A name that is not in the table does not compile.
macro_rules! raw {
    ($settings:expr, $group:ident . $name:ident) => {
        $settings.raw(const { $crate::config::table::position(stringify!($name)) })
    };
}
pub(super) use raw;

/// What was found wrong, and what is worth a warning.
#[derive(Clone, Default)]
pub(super) struct Findings {
    pub faults: Vec<String>,
    pub notices: Vec<String>,
}

impl Findings {
    pub fn fault(&mut self, raw: Raw<'_>, what_and_remedy: impl Display) {
        let mut fault = format!("{}: {what_and_remedy}", raw.variable());
        if raw.value.is_some_and(is_quoted) {
            fault.push_str("; remove the quotes around the value");
        }
        self.faults.push(fault);
    }

    pub fn notice(&mut self, raw: Raw<'_>, what: impl Display) {
        self.notices.push(format!("{}: {what}", raw.variable()));
    }

    /// The value, or all faults that were found. Without a value there is one.
    pub fn unless_faulty<T>(self, value: Option<T>) -> Result<T, Faults> {
        let value = value.filter(|_| self.faults.is_empty());
        value.ok_or(Faults(self.faults))
    }

    /// What a function makes of the value, if there is one. Its error is the fault.
    pub fn read<T>(&mut self, raw: Raw<'_>, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        read(raw.value?).map_err(|fault| self.fault(raw, fault)).ok()
    }

    /// A fault, with this remedy, if the setting has no value.
    pub fn require(&mut self, raw: Raw<'_>, remedy: &str) {
        if raw.value.is_none() {
            self.fault(raw, format!("is required{remedy}"));
        }
    }

    /// A fault of each setting that is given.
    pub fn refuse<'a>(&mut self, raws: impl IntoIterator<Item = Raw<'a>>, why: &str) {
        for raw in raws.into_iter().filter(|raw| raw.is_given) {
            self.fault(raw, format!("is given {why}"));
        }
    }

    /// A whole number within the setting's bounds.
    pub fn number<N: TryFrom<u64> + Default>(&mut self, raw: Raw<'_>) -> N {
        let Holds::Number(_, least, most) = raw.setting.holds else {
            return N::default();
        };
        let number = self.read(raw, |value| {
            let number = value.parse().ok().and_then(|number| {
                let is_within = (least..=most).contains(&number);
                N::try_from(number).ok().filter(|_| is_within)
            });
            let value = shown(value);
            number.ok_or_else(|| format!("{value} is not a whole number from {least} to {most}; set one"))
        });
        number.unwrap_or_default()
    }

    /// A boolean. What is not set is false.
    pub fn boolean(&mut self, raw: Raw<'_>) -> bool {
        let is_on = self.read(raw, |value| match value.to_ascii_lowercase().as_str() {
            "1" | "true" | "yes" | "on" => Ok(true),
            "0" | "false" | "no" | "off" => Ok(false),
            _ => Err(format!("{} is neither yes nor no; set 1 or 0", shown(value))),
        });
        is_on.unwrap_or_default()
    }

    /// One of these choices, in upper or lower case. The list is also the fault's remedy.
    pub fn choice<T: Copy, const N: usize>(&mut self, raw: Raw<'_>, choices: [(&str, T); N]) -> T {
        let choice = self.read(raw, |value| {
            let chosen = choices.iter().find(|(word, _)| word.eq_ignore_ascii_case(value));
            let words = choices.map(|(word, _)| word).join(", ");
            let fault = || format!("{} is not known; set one of {words}", shown(value));
            chosen.map(|(_, choice)| *choice).ok_or_else(fault)
        });
        choice.unwrap_or(choices[0].1)
    }

    /// The newer setting, or the older one where the newer is not set. Either way a notice says so.
    pub fn newer_or_older<'a>(&mut self, newer: Raw<'a>, older: Raw<'a>) -> Raw<'a> {
        if !older.is_given {
            return newer;
        }
        let name = newer.variable();
        if newer.is_given {
            self.notice(older, format!("has no effect, as {name} is set"));
            return newer;
        }
        self.notice(older, format!("is the older name of {name}; use {name}"));
        older
    }

    /// A secret, inline or in a file. The file must be readable and hold something now.
    pub fn secret(&mut self, inline: Raw<'_>, file: Raw<'_>) -> Option<Secret> {
        let Some(path) = file.value else {
            return inline.value.map(Secret::inline);
        };
        if inline.value.is_some() {
            let file = file.variable();
            self.fault(inline, format!("is given together with {file}; unset one"));
            return None;
        }
        // Whoever mistakes NAME_FILE for NAME puts the secret itself here; it does not look like a path.
        let name = Some(path).filter(|path| path.starts_with(['/', '.']));
        let name = name.unwrap_or("the file (its name is not shown, as it may be the secret itself)");
        self.file(file, name, |content| match std::str::from_utf8(content) {
            Ok(text) if !text.trim().is_empty() => Ok(Secret::file(path)),
            Ok(_) | Err(_) => Err(format!("{name} is empty or not UTF-8; put the secret into it")),
        })
    }

    /// A secret that travels in an HTTP header or a signature, where white space or a control character can only
    /// be a mistake of copying.
    pub fn token(&mut self, inline: Raw<'_>, file: Raw<'_>) -> Option<Secret> {
        let secret = self.secret(inline, file)?;
        // A secret that was read a moment ago; if it has gone since, its user will say so.
        let text = secret.read().unwrap_or_default();
        if text.chars().all(|letter| letter.is_ascii_graphic()) {
            return Some(secret);
        }
        let given = if inline.value.is_some() { inline } else { file };
        let what =
            "the secret holds white space, a control character or a letter beyond ASCII; copy it once more";
        self.fault(given, what);
        None
    }

    /// An http or https URL without user, query or fragment.
    pub fn http_url(&mut self, raw: Raw<'_>) -> Option<Url> {
        self.read(raw, |value| {
            let remedy = "set one that starts with https://";
            let url = Url::parse(value).map_err(|error| format!("is not a URL ({error}); {remedy}"))?;
            if !matches!(url.scheme(), "http" | "https") {
                return Err(format!("is not an http or https URL; {remedy}"));
            }
            if !url.username().is_empty() || url.password().is_some() {
                return Err("holds a user or password, which would show in the log; remove them".into());
            }
            if url.query().is_some() || url.fragment().is_some() {
                return Err("holds a query or a fragment; remove what follows ? or #".into());
            }
            Ok(url)
        })
    }

    /// A PEM file with at least one certificate.
    pub fn certificates(&mut self, raw: Raw<'_>) -> Option<PathBuf> {
        self.pem(raw, "valid certificate", |pem| {
            let mut certificates = CertificateDer::pem_slice_iter(pem).peekable();
            certificates.peek().is_some() && certificates.all(|certificate| certificate.is_ok())
        })
    }

    /// A PEM file with a private key. Nothing of it is shown.
    pub fn private_key(&mut self, raw: Raw<'_>) -> Option<PathBuf> {
        let is_key = |pem: &[u8]| PrivateKeyDer::from_pem_slice(pem).is_ok();
        self.pem(raw, "private key that is not encrypted", is_key)
    }

    fn pem(&mut self, raw: Raw<'_>, what: &str, is_valid: impl Fn(&[u8]) -> bool) -> Option<PathBuf> {
        let path = raw.value?;
        let fault = || format!("{path} holds no {what}; set a PEM file of one");
        self.file(raw, path, |pem| is_valid(pem).then(|| path.into()).ok_or_else(fault))
    }

    /// What a function makes of a file's content. In a fault the file is called `name`.
    fn file<T>(
        &mut self,
        raw: Raw<'_>,
        name: &str,
        read: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Option<T> {
        let path = raw.value?;
        let file = std::fs::metadata(path).and_then(|file| {
            // Files are read again at each use: a pipe would be empty by then, or block the reader for ever.
            match (file.is_file(), file.is_dir()) {
                (true, _) => Ok((file.permissions().mode() & 0o777, std::fs::read(path)?)),
                (false, true) => Err(std::io::ErrorKind::IsADirectory.into()),
                (false, false) => Err(std::io::ErrorKind::NotSeekable.into()),
            }
        });
        // Not the error's own text, which may repeat the path.
        let fault = |error: std::io::Error| {
            let why = error.kind().to_string().replace("entity not found", "no such file");
            format!("cannot read {name}: {why}; check the path and its permissions")
        };
        let value = file.map_err(fault).and_then(|(mode, content)| Ok((mode, read(&content)?)));
        let (mode, value) = value.map_err(|fault| self.fault(raw, fault)).ok()?;
        // Kubernetes and Docker mount secrets readable by all, where no other users are.
        let is_mounted =
            path.starts_with("/run/secrets/") || Path::new(path).with_file_name("..data").exists();
        let others = if is_mounted { 0o002 } else { 0o006 };
        if raw.setting.holds == Holds::SecretFile && mode & others != 0 {
            self.notice(raw, format!("every user can read or change {path} (mode {mode:04o}); chmod 600 it"));
        }
        Some(value)
    }
}

/// True if the first and the last character are the same kind of quote.
pub(super) fn is_quoted(value: &str) -> bool {
    let is_in = |quote| value.strip_prefix(quote).is_some_and(|rest| rest.ends_with(quote));
    is_in('"') || is_in('\'')
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
