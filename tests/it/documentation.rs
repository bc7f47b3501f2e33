//! What users read: the README and the pages that it links to, the help, and the text of the source.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::command::{run, run_program};
use crate::support::service::Settings;
use crate::support::tools::repository_file;

const README: &str = "README.md";
const PROBLEMS: &str = "scripts/TROUBLESHOOTING.md";

/// Words that only this project used, and what to write instead. Only those that have no other meaning here.
const WORDS: &[(&str, &[&str])] = &[
    ("release, return", &["give back", "gives back", "given back", "gave back", "giving back"]),
    ("send, pass", &["hand over", "hands over", "handed over", "handing over"]),
    ("recorded, reported", &["is told", "are told", "be told", "was told", "were told", "being told"]),
    ("complete", &["settle", "settles", "settled", "settling"]),
    ("in flight", &["in hand"]),
    ("make progress", &["come round", "comes round", "came round", "coming round"]),
    ("tombstone", &["mark of a purge", "marks of purges", "purge mark", "purge marks"]),
    ("out-of-order message", &["late news"]),
    ("scan, prefix check", &["walk", "walks", "walked", "survey", "surveys", "surveyed"]),
    ("dry run", &["foresight", "foresee", "foresees", "foreseen"]),
    (
        "queue, batch, arena",
        &["lane", "lanes", "desk", "desks", "baton", "pile", "piles", "grower", "growers"],
    ),
    ("writer, log level", &["outlet", "outlets", "verbosity"]),
    ("threads, context", &["crew", "crews", "surroundings"]),
    ("is unavailable", &["is away", "are away", "was away", "were away", "be away", "being away"]),
    ("recovers", &["heal", "heals", "healed", "healing"]),
    ("retried, again", &["anew"]),
    ("end-to-end latency, p95", &["age when written", "95 of 100"]),
];

/// Every file of the repository for which this holds, by its path from the root.
fn files(is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let root = repository_file("");
    let mut waiting = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).expect("a directory can be read") {
            let path: PathBuf = entry.expect("an entry").path();
            let name = path.strip_prefix(&root).expect("below the root").display().to_string();
            if path.is_dir() {
                let is_ours = !["target", ".git", "node_modules"].iter().any(|other| name.ends_with(other));
                waiting.extend(is_ours.then_some(path));
            } else if is_wanted(&name) {
                found.push(name);
            }
        }
    }
    found.sort_unstable();
    found
}

fn text(name: &str) -> String {
    fs::read_to_string(repository_file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn extension(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, extension)| extension)
}

fn pages() -> Vec<String> {
    let pages = files(|name| extension(name) == "md");
    assert!(pages.len() > 10, "{pages:?}");
    pages
}

/// The lines of Markdown outside of blocks of code.
fn prose(markdown: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    markdown.lines().filter(move |line| {
        let is_fence = line.starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// The targets of the links in Markdown.
fn links(markdown: &str) -> Vec<String> {
    let of_line = |line: &str| -> Vec<String> {
        let behind = line.split("](").skip(1);
        behind.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
    };
    prose(markdown).flat_map(of_line).collect()
}

/// What a link into this Markdown may name: its headings as GitHub spells them, and its `<a id>`.
fn anchors(markdown: &str) -> BTreeSet<String> {
    let heading = |line: &str| -> Option<String> {
        let title = line.strip_prefix('#')?.trim_start_matches('#').trim();
        let kept = title.to_lowercase().replace(' ', "-");
        Some(kept.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect())
    };
    let ids = markdown.split("<a id=\"").skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned()));
    prose(markdown).filter_map(heading).chain(ids).collect()
}

#[test]
fn the_readme_is_short_enough_for_five_minutes() {
    let readme = text(README);
    assert!(readme.lines().count() <= 350, "{} lines", readme.lines().count());
    assert!(readme.len() <= 25_000, "{} bytes", readme.len());
}

#[test]
fn every_link_between_pages_leads_to_a_file_and_a_heading_that_exist() {
    let mut broken = Vec::new();
    let mut count = 0;
    for page in pages() {
        let markdown = text(&page);
        for link in links(&markdown).into_iter().filter(|link| !link.contains("://")) {
            count += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let folder = Path::new(&page).parent().expect("a page is in a folder");
            let target = if path.is_empty() {
                repository_file(&page)
            } else {
                repository_file("").join(folder).join(path)
            };
            let has_anchor = || fs::read_to_string(&target).is_ok_and(|text| anchors(&text).contains(anchor));
            if !target.exists() || !anchor.is_empty() && !has_anchor() {
                broken.push(format!("{page}: {link}"));
            }
        }
    }
    assert!(count > 50, "{count} links were found");
    assert_eq!(broken, [""; 0]);
}

#[test]
fn the_readme_leads_to_every_other_page() {
    let linked: BTreeSet<String> = links(&text(README)).into_iter().map(|link| before(&link, '#')).collect();
    let missing: Vec<String> =
        pages().into_iter().filter(|page| page != README && !linked.contains(page)).collect();
    assert_eq!(missing, [""; 0]);
}

fn before(text: &str, end: char) -> String {
    text.split(end).next().unwrap_or_default().to_owned()
}

/// Every word of a text that begins like this, up to a character that is not part of a name.
fn names<'a>(text: &'a str, start: &'a str) -> impl Iterator<Item = &'a str> {
    text.match_indices(start).map(move |(at, _)| {
        let rest = &text[at..];
        let end =
            rest.find(|c: char| !c.is_ascii_alphanumeric() && !"_/.-".contains(c)).unwrap_or(rest.len());
        rest[..end].trim_end_matches(['.', '/', '-'])
    })
}

#[test]
fn every_metric_and_every_file_that_a_page_names_exists() {
    let metrics = text("scripts/prometheus/README.md");
    let mut unknown = Vec::new();
    for page in pages() {
        let markdown = text(&page);
        let is_metric = |name: &str| {
            metrics.contains(&format!("\n| `{name}`")) || metrics.contains(&format!("\n| `{name}{{"))
        };
        unknown
            .extend(names(&markdown, "persistent_cache_").filter(|name| !is_metric(name)).map(str::to_owned));
        for start in ["`scripts/", "`tests/", "`src/"] {
            let exists = |name: &str| name.contains("/**") || repository_file(name).exists();
            let named = names(&markdown, start.trim_start_matches('`'))
                .filter(|name| markdown.contains(&format!("`{name}")));
            unknown.extend(named.filter(|name| !exists(name)).map(|name| format!("{page}: {name}")));
        }
    }
    assert_eq!(unknown, [""; 0]);
}

#[test]
fn every_script_says_in_its_help_what_it_needs_and_what_it_leaves() {
    // The others are started by dpkg or helm.
    let scripts = files(|name| name.starts_with("scripts/") && extension(name).is_empty())
        .into_iter()
        .filter(|script| text(script).contains("lib/tools.sh"))
        .collect::<Vec<_>>();
    assert!(scripts.len() >= 14, "scripts: {scripts:?}");
    for script in scripts {
        let path = [("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())];
        let help = run_program("help", &repository_file(&script), &["--help"], &path, "");
        assert_eq!(help.status, 0, "{script} --help: {help:?}");
        for start in ["\nNeeds ", "\nLeaves "] {
            assert!(help.stdout.contains(start), "{script} --help has no line {start:?}: {}", help.stdout);
        }
        assert!(!help.stdout.contains("\n== "), "{script} --help starts to work: {}", help.stdout);
    }
}

#[test]
fn every_problem_says_what_you_see_what_happens_and_what_to_do() {
    let problems = text(PROBLEMS);
    let sections: Vec<&str> = problems.split("\n### ").skip(1).collect();
    assert!(sections.len() > 30, "{} problems", sections.len());
    for section in sections {
        for part in ["\n- **You see**: ", "\n- **What happens**: ", "\n- **What to do**: "] {
            assert_eq!(section.matches(part).count(), 1, "{part} of {section}");
        }
    }
}

/// What users read, with a name for each text. Of the source, everything before a file's tests.
fn texts_for_users() -> Vec<(String, String)> {
    let is_shipped = |name: &str| {
        let is_of_users = ["md", "yaml", "yml", "service", "env"].contains(&extension(name));
        is_of_users
            || ["Containerfile", "scripts/deb.d/default", "scripts/grafana/dashboard.json"].contains(&name)
    };
    let is_source = |name: &str| name.starts_with("src/") && !name.contains("test") && !name.contains("stub");
    let mut texts: Vec<(String, String)> = files(|name| is_shipped(name) || is_source(name))
        .into_iter()
        .map(|name| (name.clone(), before_tests(&text(&name))))
        .collect();
    let help = run(&Settings::default(), &["--help"]).stdout;
    for command in
        ["check", "inspect", "replay", "warm", "verify", "purge", "live", "ready", "completions", "man"]
    {
        texts.push((format!("{command} --help"), run(&Settings::default(), &[command, "--help"]).stdout));
    }
    texts.push(("--help".to_owned(), help));
    texts
}

fn before_tests(source: &str) -> String {
    source.split("#[cfg(test)]\nmod ").next().unwrap_or_default().to_owned()
}

/// The words of a text in small letters, with one space around each, so that line breaks and punctuation do not count.
fn words(text: &str) -> String {
    let small = text.to_lowercase();
    let words: Vec<&str> =
        small.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    format!(" {} ", words.join(" "))
}

/// Where these texts use words that only this project used.
fn own_words(texts: Vec<(String, String)>) -> Vec<String> {
    let mut found = Vec::new();
    for (name, text) in texts {
        assert!(!text.is_empty(), "{name}");
        let text = words(&text);
        for (instead, phrases) in WORDS {
            for phrase in *phrases {
                for (at, _) in text.match_indices(&format!(" {phrase} ")) {
                    let before: String = text[..at].chars().rev().take(50).collect();
                    let before: String = before.chars().rev().collect();
                    found.push(format!("{name}: …{before} [{phrase}]: write {instead}"));
                }
            }
        }
    }
    found
}

#[test]
fn text_for_users_uses_the_words_of_the_field() {
    let found = own_words(texts_for_users());
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn tests_and_scripts_use_the_words_of_the_field_in_names_and_comments() {
    let is_read = |name: &str| {
        (name.starts_with("tests/") && ["rs", "mjs"].contains(&extension(name)))
            || (name.starts_with("scripts/") && ["", "py", "sh", "mjs"].contains(&extension(name)))
    };
    let texts = files(is_read).into_iter().filter(|name| name != "tests/it/documentation.rs");
    let found = own_words(texts.map(|name| (name.clone(), text(&name))).collect());
    assert!(found.is_empty(), "{}", found.join("\n"));
}
