//! The manual page of all known problems, made from the Markdown page that the documentation links to.

use clap_mangen::roff::{Inline, Roff, bold, roman};

const MARKDOWN: &str = include_str!("../../scripts/TROUBLESHOOTING.md");
const NAME: &str = "persistent-cache-service-troubleshooting";

/// Understands the Markdown that the page uses: headings, paragraphs, list items on one line, `code` and **bold**.
pub fn page() -> String {
    let mut page = Roff::new();
    page.control("TH", [NAME, "7"]);
    for block in MARKDOWN.split("\n\n").flat_map(|block| block.split("\n- ")) {
        let text = block.trim_start_matches(['#', '-']).trim().replace('\n', " ");
        match block.split_whitespace().next() {
            Some("#") => {
                let name = format!("{NAME} - known problems and their remedies");
                page.control("SH", ["NAME"]).text([roman(name)]).control("SH", ["DESCRIPTION"])
            }
            Some("##") => page.control("SH", [text.as_str()]),
            Some("###") => page.control("SS", [text.replace('`', "").as_str()]),
            _ => page.control("PP", []).text(inlines(&text)),
        };
    }
    page.to_roff()
}

fn inlines(text: &str) -> Vec<Inline> {
    let parts = text.replace("**", "`");
    parts
        .split('`')
        .enumerate()
        .map(|(at, part)| if at % 2 == 1 { bold(part) } else { roman(part) })
        .collect()
}
