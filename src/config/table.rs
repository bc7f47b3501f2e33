//! README's tables of settings, made of the same definitions as the flags and the help.

use std::fmt::Write;

use clap::CommandFactory;

use super::settings::{Settings, variable};

/// Markdown: a table for each group of settings (variable, flag, default, meaning).
pub fn settings_table() -> String {
    let command = Settings::command();
    let mut table = String::new(); // takes everything, so that the results of writing need no look
    let mut group = "";
    for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
        let heading = arg.get_help_heading().unwrap_or("Other");
        if heading != group {
            let gap = if group.is_empty() { "" } else { "\n" };
            let _ = write!(
                table,
                "{gap}**{heading}**\n\n| Variable | Flag | Default | Meaning |\n|---|---|---|---|\n"
            );
            group = heading;
        }
        let variable = variable(arg.get_id().as_str());
        let flag = arg.get_long().unwrap_or_default();
        let default = arg
            .get_default_values()
            .first()
            .map(|value| format!("`{}`", value.to_string_lossy()))
            .unwrap_or_default();
        let meaning = arg
            .get_help()
            .map(ToString::to_string)
            .unwrap_or_default()
            .replace('|', "\\|");
        let stop = if meaning.ends_with('.') { "" } else { "." };
        let _ = writeln!(
            table,
            "| `{variable}` | `--{flag}` | {default} | {meaning}{stop} |"
        );
    }
    table
}
