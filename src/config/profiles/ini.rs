//! The format of AWS's shared files, as the SDKs read it. Pure.
//!
//! It looks like INI and is not: an indented line belongs to the setting above it, either as one of its nested
//! settings (`s3 =` and then `  max_concurrent_requests = 20`) or as more of its value; `#` and `;` begin a comment
//! within a line only after white space; names of settings have no case. The INI libraries take a nested setting for
//! one of the profile itself, so that a nested `region` would be the profile's: hence this reader. A line that is no
//! line of the format is an error with its number, never with its text: it may hold a secret.

use std::collections::BTreeMap;

/// Settings of one profile, names in lower case.
pub type Settings = BTreeMap<String, String>;

/// Which of the two files: they name their sections differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `[default]` and `[profile NAME]`; other sections are not profiles.
    Config,
    /// `[NAME]`.
    Credentials,
}

/// What a file holds.
#[derive(Default, PartialEq, Eq)]
pub struct Parsed {
    /// Settings by name of the profile.
    pub profiles: BTreeMap<String, Settings>,
    /// Sections that are not profiles (`[NAME]` in a config file), for a hint where one was meant.
    pub other_sections: Vec<String>,
}

/// A line that is no line of the format.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct BadLine {
    /// From 1.
    pub line: usize,
    /// What is wrong, and the remedy.
    pub what: &'static str,
}

/// What `[profile default]` of a config file goes by until all of the file is read; no profile can be named so.
const EXACT_DEFAULT: &str = "profile default";

/// Where the next lines belong.
enum Place {
    BeforeAnySection,
    /// A section that is not a profile.
    Elsewhere,
    /// A profile, and the setting that was read last.
    Profile(String, Option<String>),
}

/// Reads one of the two files.
pub fn parse(text: &str, kind: Kind) -> Result<Parsed, BadLine> {
    let mut parsed = Parsed::default();
    let mut place = Place::BeforeAnySection;
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let bad = |what| BadLine {
            line: number + 1,
            what,
        };
        if line.trim().is_empty() || line.trim_start().starts_with(['#', ';']) {
            continue;
        }
        if let Some(rest) = line.strip_prefix('[') {
            let (name, _) = rest
                .split_once(']')
                .ok_or_else(|| bad("the name of a section does not end; close it with ]"))?;
            place = if let Some(name) = profile_name(name.trim(), kind) {
                parsed.profiles.entry(name.to_owned()).or_default();
                Place::Profile(name.to_owned(), None)
            } else {
                parsed.other_sections.push(name.trim().to_owned());
                Place::Elsewhere
            };
            continue;
        }
        let (profile, last) = match &mut place {
            Place::BeforeAnySection => {
                return Err(bad("a setting stands before any [section]; move it into one"));
            }
            Place::Elsewhere => continue,
            Place::Profile(profile, last) => (&*profile, last),
        };
        let settings = parsed.profiles.entry(profile.clone()).or_default();
        if line.starts_with([' ', '\t']) {
            let above = last
                .as_ref()
                .and_then(|name| settings.get_mut(name))
                .ok_or_else(|| bad("an indented line has no setting above it; begin it at the margin"))?;
            // Below an empty value stand settings of a nested kind, which are nobody's here.
            if !above.is_empty() {
                above.push('\n');
                above.push_str(line.trim());
            }
            continue;
        }
        let (name, value) = line
            .split_once('=')
            .ok_or_else(|| bad("is no setting; write it NAME = VALUE"))?;
        let name = name.trim().to_ascii_lowercase();
        if name.is_empty() {
            return Err(bad("a setting has no name; write it NAME = VALUE"));
        }
        settings.insert(name.clone(), without_comment(value).trim().to_owned());
        *last = Some(name);
    }
    // `[profile default]` is the more exact name: where it is, `[default]` counts for nothing.
    if kind == Kind::Config
        && let Some(settings) = parsed.profiles.remove(EXACT_DEFAULT)
    {
        parsed.profiles.insert("default".to_owned(), settings);
    }
    Ok(parsed)
}

/// The profile that a section is of; none if it is not of a profile.
fn profile_name(section: &str, kind: Kind) -> Option<&str> {
    let quotes = ['"', '\''];
    match kind {
        Kind::Credentials => Some(section.trim_matches(quotes)),
        Kind::Config if section == "default" => Some(section),
        Kind::Config => {
            let name = section.strip_prefix("profile")?;
            let is_apart = name.starts_with([' ', '\t']);
            is_apart.then(|| match name.trim().trim_matches(quotes) {
                "default" => EXACT_DEFAULT,
                name => name,
            })
        }
    }
}

fn without_comment(value: &str) -> &str {
    let comment = value
        .char_indices()
        .zip(value.chars().skip(1))
        .find(|((_, before), letter)| matches!(before, ' ' | '\t') && matches!(letter, '#' | ';'));
    comment.map_or(value, |((at, _), _)| &value[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profiles(text: &str, kind: Kind) -> Vec<(String, Vec<(String, String)>)> {
        parse(text, kind)
            .unwrap()
            .profiles
            .into_iter()
            .map(|(name, settings)| (name, settings.into_iter().collect()))
            .collect()
    }

    fn one(name: &str, settings: &[(&str, &str)]) -> (String, Vec<(String, String)>) {
        let settings = settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        (name.to_owned(), settings)
    }

    #[test]
    fn sections_are_profiles_by_the_files_own_naming() {
        let text = "[default]\na = 1\n[profile one]\nb=2\n[ profile  \"two words\" ]\nc = 3\n[sso-session x]\nd = 4\n[one]\ne = 5\n";
        assert_eq!(
            profiles(text, Kind::Config),
            [
                one("default", &[("a", "1")]),
                one("one", &[("b", "2")]),
                one("two words", &[("c", "3")])
            ]
        );
        assert_eq!(
            parse(text, Kind::Config).unwrap().other_sections,
            ["sso-session x", "one"]
        );
        assert_eq!(
            profiles("[default]\n[one] # mine\nb = 2\n", Kind::Credentials),
            [one("default", &[]), one("one", &[("b", "2")])]
        );
    }

    #[test]
    fn comments_blank_lines_case_and_the_mark_at_the_beginning_do_not_matter() {
        let text = "\u{feff}# top\r\n\r\n[default]\r\n; note\r\n  # indented note\r\nAWS_Access_Key_Id = AKIA1 ; mine\r\nsecret=a#b;c=d\t# not this\r\nempty =\r\n";
        assert_eq!(
            profiles(text, Kind::Credentials),
            [one(
                "default",
                &[
                    ("aws_access_key_id", "AKIA1"),
                    ("empty", ""),
                    ("secret", "a#b;c=d")
                ]
            )]
        );
    }

    #[test]
    fn a_nested_setting_is_not_the_profiles_and_an_indented_line_goes_on() {
        let text = "[profile p]\nregion = eu-west-1\ns3 =\n  region = us-east-1\n  max_queue_size=100\nlong = one\n two\nlast = 3\n";
        assert_eq!(
            profiles(text, Kind::Config),
            [one(
                "p",
                &[
                    ("last", "3"),
                    ("long", "one\ntwo"),
                    ("region", "eu-west-1"),
                    ("s3", "")
                ]
            )]
        );
    }

    #[test]
    fn sections_of_one_name_are_one_and_the_last_value_counts() {
        assert_eq!(
            profiles("[a]\nx = 1\ny = 1\n[b]\n[a]\ny = 2\n", Kind::Credentials),
            [one("a", &[("x", "1"), ("y", "2")]), one("b", &[])]
        );
        let both = "[profile default]\nx = exact\n[default]\nx = plain\ny = plain\n";
        assert_eq!(profiles(both, Kind::Config), [one("default", &[("x", "exact")])]);
    }

    #[test]
    fn what_is_no_line_of_the_format_is_told_by_its_number_and_not_by_its_text() {
        for (text, line, what) in [
            ("hunter2 = 1\n", 1, "stands before any [section]"),
            ("[a]\nhunter2\n", 2, "write it NAME = VALUE"),
            ("[a]\n= hunter2\n", 2, "has no name"),
            ("[a]\n\n[hunter2\n", 3, "close it with ]"),
            ("[a]\n  hunter2 = 1\n", 2, "begin it at the margin"),
        ] {
            let error = parse(text, Kind::Credentials).map(|_| ()).unwrap_err();
            assert_eq!(error.line, line, "{text}");
            assert!(error.what.contains(what), "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        assert!(parse("[sso-session a]\nanything goes\n", Kind::Config).is_ok());
    }
}
