//! The settings as the status page shows them to whoever reaches the port: no secret, and of addresses neither user,
//! password nor query. A value that looks as if it held a password is not shown either, wherever it stands.

use url::Url;

use super::settings::Settings;
use super::table::{SettingRow, UNLISTED};

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

impl Settings {
    /// What the status page shows of these settings. Unlisted ones only if they are given.
    pub fn shown(&self) -> ShownSettings {
        let raws = self
            .raws()
            .filter(|raw| raw.is_given || raw.setting.group != UNLISTED);
        let shown = raws.map(|raw| ShownSetting {
            name: raw.setting.variable.to_owned(),
            group: raw.setting.group.to_owned(),
            is_given: raw.is_given,
            value: raw.value.map_or(Shown::NotSet, |value| shown(raw.setting, value)),
        });
        ShownSettings(shown.collect())
    }
}

fn shown(setting: &SettingRow, value: &str) -> Shown {
    let is_address = value.contains("://");
    let text = if is_address {
        address(value)
    } else {
        Some(value.to_owned())
    };
    let text = text.filter(|text| !setting.is_secret() && !text.contains('@'));
    text.map_or(Shown::Secret, Shown::Text)
}

/// An address without what may be secret in it. None if it is none, or cannot be cleaned.
fn address(value: &str) -> Option<String> {
    let mut url = Url::parse(value).ok()?;
    url.set_query(None);
    url.set_fragment(None);
    if !url.username().is_empty() || url.password().is_some() {
        url.set_username("").ok()?;
        url.set_password(None).ok()?;
    }
    Some(url.to_string())
}

/// True if the value is a secret, or an address with a password or a query.
pub(super) fn tells_a_secret(setting: &SettingRow, value: &str) -> bool {
    let has_password = |url: Url| url.password().is_some() || url.query().is_some();
    setting.is_secret()
        || Url::parse(value).is_ok_and(has_password)
        || Url::parse(&format!("http://{value}")).is_ok_and(has_password)
}
