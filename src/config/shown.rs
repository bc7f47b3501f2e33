//! The settings as the status page shows them to whoever reaches the port: no secret, and of addresses neither user,
//! password nor query.
//!
//! What a value is worth is known by its field; a value that looks as if it held a password is not shown either, wherever
//! it stands.

use clap::{Arg, ArgMatches, Command};
use url::Url;

use super::settings::{KEPT_AS_THEY_ARE, Settings, variable};

/// Paths that are as good as a password: on ECS whoever knows it is given the task's credentials.
const SECRET_ADDRESSES: [&str; 2] = [
    "aws_container_credentials_full_uri",
    "aws_container_credentials_relative_uri",
];
/// What the help calls the values of secrets.
const SECRET_VALUES: [&str; 2] = ["SECRET", "DSN"];

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownSetting {
    /// Its variable.
    pub name: String,
    /// Its heading in the help.
    pub group: String,
    /// Given by the operator, rather than left to its default.
    pub is_given: bool,
    /// What is shown of it.
    pub value: Shown,
}

/// What is shown of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// It has none.
    NotSet,
    /// It has one that is nobody's business.
    Secret,
    /// All of it but what must not be seen.
    Text(String),
}

/// All settings, in the order of the README. A debug print names none: it would be longer than all else.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct ShownSettings(pub Vec<ShownSetting>);

impl std::fmt::Debug for ShownSettings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("as the status page shows them")
    }
}

impl ShownSettings {
    /// The settings of this command line. Hidden ones only if they are given.
    pub(super) fn of(command: &Command, values: &ArgMatches, is_given: impl Fn(&str) -> bool) -> Self {
        let show = |arg: &Arg| {
            let field = arg.get_id().as_str();
            let value = values.get_raw(field).and_then(|mut values| values.next());
            ShownSetting {
                name: variable(field),
                group: arg.get_help_heading().unwrap_or("Other").to_owned(),
                is_given: is_given(field),
                value: value.map_or(Shown::NotSet, |value| shown(arg, &value.to_string_lossy())),
            }
        };
        let is_shown = |arg: &&Arg| !arg.is_hide_set() || is_given(arg.get_id().as_str());
        Self(command.get_arguments().filter(is_shown).map(show).collect())
    }
}

impl Settings {
    /// What the status page shows of these settings.
    pub fn shown(&self) -> &ShownSettings {
        &self.shown
    }
}

fn shown(arg: &Arg, value: &str) -> Shown {
    let field = arg.get_id().as_str();
    let is_called_secret = arg
        .get_value_names()
        .unwrap_or_default()
        .iter()
        .any(|name| SECRET_VALUES.contains(&name.as_str()));
    if is_called_secret || KEPT_AS_THEY_ARE.contains(&field) || SECRET_ADDRESSES.contains(&field) {
        return Shown::Secret;
    }
    let text = if value.contains("://") {
        address(value)
    } else {
        Some(value.to_owned())
    };
    match text {
        Some(text) if !text.contains('@') => Shown::Text(text),
        _ => Shown::Secret,
    }
}

/// An address without what may be secret in it. None if it is none, or cannot be cleaned.
fn address(value: &str) -> Option<String> {
    let mut url = Url::parse(value).ok()?;
    url.set_query(None);
    url.set_fragment(None);
    if !url.username().is_empty() {
        url.set_username("").ok()?;
    }
    if url.password().is_some() {
        url.set_password(None).ok()?;
    }
    Some(url.to_string())
}
