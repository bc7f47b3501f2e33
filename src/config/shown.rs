//! The settings as the status page shows them to whoever reaches the port: no secret, and of addresses neither user,
//! password nor query. A value that looks as if it held a password is not shown either, wherever it stands.

use serde::Serialize;
use url::Url;

use super::settings::Settings;
use super::table::{Setting, TABLE, UNLISTED};

/// One setting, as JSON shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShownSetting {
    /// Its variable.
    pub name: &'static str,
    /// None if it has none, or one that must not be seen.
    pub value: Option<String>,
    /// It has a value.
    pub is_set: bool,
    /// The operator gave it; else it is the default.
    pub is_given: bool,
}

impl Settings {
    /// What the status page shows of these settings, in the order of the README. Unlisted ones only if they are given.
    pub fn shown(&self) -> Vec<ShownSetting> {
        let is_listed = |setting: &Setting| setting.group != UNLISTED || self.given(setting).is_some();
        let shown = TABLE.iter().copied().filter(is_listed).map(|setting| ShownSetting {
            name: setting.variable,
            value: self.value(setting).and_then(|value| shown(setting, value)),
            is_set: self.value(setting).is_some(),
            is_given: self.given(setting).is_some(),
        });
        shown.collect()
    }
}

fn shown(setting: Setting, value: &str) -> Option<String> {
    let mut text = value.to_owned();
    // unix:/path?pass=… is a URL, too.
    if value.contains(":/") {
        let mut url = Url::parse(value).ok()?;
        url.set_query(None);
        url.set_fragment(None);
        // They fail where there can be neither.
        let _ = (url.set_username(""), url.set_password(None));
        text = url.to_string();
    }
    Some(text).filter(|text| !setting.is_secret() && !text.contains('@'))
}
