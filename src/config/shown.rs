//! The settings as the status page shows them to whoever reaches the port: no secret, and of addresses neither user,
//! password nor query. A value that looks as if it held a password is not shown either, wherever it stands.

use url::Url;

use super::settings::Settings;
use super::table::{SettingRow, UNLISTED};

/// One setting: its variable, its heading in the help, and whether the operator gave it.
#[allow(missing_docs)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownSetting {
    pub name: String,
    pub group: String,
    pub is_given: bool,
    pub value: Shown,
}

/// What is shown of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shown {
    /// It has none.
    NotSet,
    /// It has one, which is not shown.
    Secret,
    /// All of it but what must not be seen.
    Text(String),
}

/// All settings, in the order of the README.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShownSettings(pub Vec<ShownSetting>);

impl Settings {
    /// What the status page shows of these settings. Unlisted ones only if they are given.
    pub fn shown(&self) -> ShownSettings {
        let raws = self.raws().filter(|raw| raw.is_given || raw.setting.group != UNLISTED);
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
    let text = if is_address { address(value) } else { Some(value.to_owned()) };
    let text = text.filter(|text| !setting.is_secret() && !text.contains('@'));
    text.map_or(Shown::Secret, Shown::Text)
}

/// An address without what may be secret in it. None if it is none, or cannot be cleaned.
fn address(value: &str) -> Option<String> {
    let mut url = Url::parse(value).ok()?;
    url.set_query(None);
    url.set_fragment(None);
    // They fail where there can be neither.
    let _ = (url.set_username(""), url.set_password(None));
    Some(url.to_string())
}

/// True if the value is a secret, or an address with a password or a query.
pub(super) fn tells_a_secret(setting: &SettingRow, value: &str) -> bool {
    let has_password = |url: Url| url.password().is_some() || url.query().is_some();
    setting.is_secret()
        || Url::parse(value).is_ok_and(has_password)
        || Url::parse(&format!("http://{value}")).is_ok_and(has_password)
}
