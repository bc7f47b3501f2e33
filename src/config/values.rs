//! Single values: each is read, or becomes a fault that names its variable, what is wrong and the remedy. After a fault, a
//! value of the right type is returned all the same, so that the values after it are checked too.

use std::collections::HashSet;
use std::fmt::Display;
use std::io::{Error, ErrorKind};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustls::pki_types::pem::PemObject;
use url::Url;

use super::Secret;
use super::settings::Settings;
use super::table::{Holds, Setting, TABLE};

/// All faults of a configuration, one line each: variable, what is wrong, remedy. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Faults(pub Vec<String>);

/// Settings, with what was found wrong in them and what is worth a warning.
pub(super) struct Validator<'a> {
    pub settings: &'a Settings,
    faults: Vec<String>,
    notices: Vec<String>,
}

impl<'a> Validator<'a> {
    pub fn new(settings: &'a Settings) -> Self {
        Self { settings, faults: settings.faults.clone(), notices: settings.notices.clone() }
    }

    /// What was given, else the default.
    pub fn value(&self, setting: Setting) -> Option<&'a str> {
        self.settings.value(setting)
    }

    pub fn owned(&self, setting: Setting) -> Option<String> {
        self.value(setting).map(str::to_owned)
    }

    pub fn is_given(&self, setting: Setting) -> bool {
        self.settings.given(setting).is_some()
    }

    pub fn first_given(&self, settings: &[Setting]) -> Option<Setting> {
        settings.iter().copied().find(|setting| self.is_given(setting))
    }

    /// The settings that were given whose names begin with this.
    pub fn given(&self, prefix: &str) -> Vec<Setting> {
        let begins = |setting: &Setting| setting.variable.starts_with(prefix);
        TABLE.iter().copied().filter(begins).filter(|setting| self.is_given(setting)).collect()
    }

    pub fn fault(&mut self, setting: Setting, what_and_remedy: impl Display) {
        let is_in_quotes = self.value(setting).is_some_and(is_quoted);
        let quotes = if is_in_quotes { "; remove the quotes around the value" } else { "" };
        self.faults.push(format!("{}: {what_and_remedy}{quotes}", setting.variable));
    }

    pub fn notice(&mut self, setting: Setting, what: impl Display) {
        self.notices.push(format!("{}: {what}", setting.variable));
    }

    /// Grows with each fault, also with one that was found before.
    pub fn faults(&self) -> usize {
        self.faults.len()
    }

    /// Each once, though some settings are read for several purposes.
    pub fn notices(&self) -> Vec<String> {
        once(&self.notices)
    }

    /// What is read, or all faults that were found. Where nothing is read there is one.
    pub fn finish<T>(mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Result<T, Faults> {
        let value = read(&mut self);
        value.filter(|_| self.faults.is_empty()).ok_or_else(|| Faults(once(&self.faults)))
    }

    /// What a function makes of the value, if there is one. Its error is the fault.
    pub fn read<T>(
        &mut self,
        setting: Setting,
        read: impl FnOnce(&'a str) -> Result<T, String>,
    ) -> Option<T> {
        read(self.value(setting)?).map_err(|fault| self.fault(setting, fault)).ok()
    }

    /// The value if `is_fit` accepts it. `what` ends the fault: what it is not, and the remedy.
    pub fn text(&mut self, setting: Setting, is_fit: impl Fn(&str) -> bool, what: &str) -> Option<String> {
        let fault = |text: &str| format!("{} {what}", shown(text));
        self.read(setting, |text| if is_fit(text) { Ok(text.to_owned()) } else { Err(fault(text)) })
    }

    /// A fault of the first of these, with this remedy, if none is given.
    pub fn require(&mut self, settings: &[Setting], remedy: &str) {
        if self.first_given(settings).is_none() {
            self.fault(settings[0], format!("is required{remedy}"));
        }
    }

    /// A fault if one of these is given and none of the others, which it needs.
    pub fn require_with(&mut self, given: &[Setting], needed: &[Setting]) {
        if let (Some(given), None) = (self.first_given(given), self.first_given(needed)) {
            let given = given.variable;
            self.fault(needed[0], format!("is required with {given}; set it, or unset {given}"));
        }
    }

    pub fn require_both(&mut self, one: &[Setting], other: &[Setting]) {
        self.require_with(one, other);
        self.require_with(other, one);
    }

    /// A fault of each setting that is given and whose name begins with this, but for booleans, which may be off.
    pub fn refuse(&mut self, prefix: &str, why: &str) {
        for setting in self.given(prefix).into_iter().filter(|setting| setting.holds != Holds::Bool) {
            self.fault(setting, format!("is given {why}"));
        }
    }

    /// A whole number within the setting's bounds.
    pub fn number<N: TryFrom<u64> + Default>(&mut self, setting: Setting) -> N {
        let Holds::Number(_, least, most) = setting.holds else {
            return N::default();
        };
        let number = self.read(setting, |value| {
            let number = value.parse().ok().filter(|number| (least..=most).contains(number));
            let fault = || format!("{} is not a whole number from {least} to {most}; set one", shown(value));
            number.and_then(|number| N::try_from(number).ok()).ok_or_else(fault)
        });
        number.unwrap_or_default()
    }

    /// A boolean. What is not set is false.
    pub fn boolean(&mut self, setting: Setting) -> bool {
        const NO: [&str; 4] = ["0", "false", "no", "off"];
        let words = ["0", "1", "false", "true", "no", "yes", "off", "on"];
        self.choice(setting, words.map(|word| (word, !NO.contains(&word))))
    }

    /// One of these choices, in upper or lower case. The list is also the fault's remedy.
    pub fn choice<T: Copy, const N: usize>(&mut self, setting: Setting, choices: [(&str, T); N]) -> T {
        let choice = self.read(setting, |value| {
            let chosen = choices.iter().find(|(word, _)| word.eq_ignore_ascii_case(value));
            let words = choices.map(|(word, _)| word).join(", ");
            let fault = || format!("{} is not known; set one of {words}", shown(value));
            chosen.map(|(_, choice)| *choice).ok_or_else(fault)
        });
        choice.unwrap_or(choices[0].1)
    }

    /// The newer setting, or the older one where the newer is not set. Either way a notice says so.
    pub fn newer_or_older(&mut self, newer: Setting, older: Setting) -> Setting {
        if !self.is_given(older) {
            return newer;
        }
        let name = newer.variable;
        if self.is_given(newer) {
            self.notice(older, format!("has no effect, as {name} is set"));
            return newer;
        }
        self.notice(older, format!("is the older name of {name}; use {name}"));
        older
    }

    /// A secret, in one of these settings: inline, or in a file (`NAME_FILE`), which must hold something now.
    pub fn secret(&mut self, settings: &[Setting]) -> Option<Secret> {
        let setting = self.first_given(settings)?;
        let value = self.value(setting)?;
        if let Some(other) = settings.iter().rev().find(|other| **other != setting && self.is_given(other)) {
            self.fault(setting, format!("is given together with {}; unset one", other.variable));
            return None;
        }
        if !setting.variable.ends_with("_FILE") {
            return Some(Secret::inline(value));
        }
        // Whoever mistakes NAME_FILE for NAME puts the secret itself here; it does not look like a path.
        let name = Some(value).filter(|path| path.starts_with(['/', '.']));
        let name = name.unwrap_or("the file (its name is not shown, as it may be the secret itself)");
        self.file(setting, name, |content| match std::str::from_utf8(content) {
            Ok(text) if !text.trim().is_empty() => Ok(Secret::file(value)),
            Ok(_) | Err(_) => Err(format!("{name} is empty or not UTF-8; put the secret into it")),
        })
    }

    /// A secret that travels in an HTTP header or a signature, where white space or a control character can only be a
    /// mistake of copying.
    pub fn token(&mut self, settings: &[Setting]) -> Option<Secret> {
        let (setting, secret) = (self.first_given(settings)?, self.secret(settings)?);
        // It was read a moment ago; if it has gone since, its user will say so.
        if secret.read().unwrap_or_default().chars().all(|letter| letter.is_ascii_graphic()) {
            return Some(secret);
        }
        let what = "the text contains white space, a control character or a character that is not ASCII; copy it again";
        self.fault(setting, what);
        None
    }

    pub fn http_url(&mut self, setting: Setting) -> Option<Url> {
        self.read(setting, |text| http_url(text, false))
    }

    /// A notice if the URL in the first of these that is given is an http one to another machine.
    pub fn notice_plaintext(&mut self, settings: &[Setting], what: &str) {
        let is_plain = |url: Url| url.scheme() == "http" && !is_loopback(&url);
        if let Some(setting) = self.first_given(settings)
            && self.value(setting).is_some_and(|text| Url::parse(text).is_ok_and(is_plain))
        {
            self.notice(setting, format!("is not https: {what} unencrypted"));
        }
    }

    /// What a PEM file holds, at least one and all of them valid. Its content is never shown.
    pub fn pem<T: PemObject>(&mut self, setting: Setting, what: &str) -> Option<Vec<T>> {
        let path = self.value(setting)?;
        self.file(setting, path, |pem| {
            let found = T::pem_slice_iter(pem).collect::<Result<Vec<T>, _>>().ok();
            let fault = || format!("{path} holds no {what}; set a PEM file of one");
            found.filter(|found| !found.is_empty()).ok_or_else(fault)
        })
    }

    /// What a function makes of a file's content. In a fault the file is called `name`.
    fn file<T>(
        &mut self,
        setting: Setting,
        name: &str,
        read: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Option<T> {
        let path = Path::new(self.value(setting)?);
        // Not the error's own text, which may repeat the path.
        let fault = |error: Error| {
            let why = error.kind().to_string().replace("entity not found", "no such file");
            format!("cannot read {name}: {why}; check the path and its permissions")
        };
        let value = read_file(path).map_err(fault).and_then(|content| read(&content));
        self.notice_open(setting, path);
        value.map_err(|fault| self.fault(setting, fault)).ok()
    }

    /// A notice if a secret's file can be read or changed by every user.
    pub fn notice_open(&mut self, setting: Setting, path: &Path) {
        // Kubernetes and Docker mount secrets readable by all, where no other users are.
        let is_mounted = path.starts_with("/run/secrets") || path.with_file_name("..data").exists();
        let others = if is_mounted { 0o002 } else { 0o006 };
        let mode = std::fs::metadata(path).map_or(0, |file| file.permissions().mode() & 0o777);
        if setting.holds == Holds::SecretFile && mode & others != 0 {
            let what = format!("every user can read or change {} (mode {mode:04o})", path.display());
            self.notice(setting, format!("{what}; chmod 600 it"));
        }
    }
}

/// A file that is read again at each use: a pipe would be empty by then, or block the reader for ever.
pub(super) fn read_file(path: &Path) -> Result<Vec<u8>, Error> {
    let file = std::fs::metadata(path)?;
    let is_readable_again = file.is_file() || file.is_dir(); // reading a directory has an error of its own
    if is_readable_again { std::fs::read(path) } else { Err(ErrorKind::NotSeekable.into()) }
}

/// An http or https URL without what may be secret in it: user, password, fragment and, unless it may have one, query.
pub(super) fn http_url(text: &str, may_have_query: bool) -> Result<Url, String> {
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let url = url.ok_or("is not an http or https URL; set one that starts with https://")?;
    let has_query = url.query().is_some() && !may_have_query || url.fragment().is_some();
    if has_query || !url.username().is_empty() || url.password().is_some() {
        return Err(
            "holds a user, password, query or fragment; remove them, as they would show in the log".into()
        );
    }
    Ok(url)
}

pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let is_address = host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    is_address || host == "localhost" || host.ends_with(".localhost")
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

fn once(lines: &[String]) -> Vec<String> {
    let mut seen = HashSet::new();
    lines.iter().filter(|line| seen.insert(*line)).cloned().collect()
}
