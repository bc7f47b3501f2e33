//! Which build this is. `scripts/build`, or the `Containerfile`, passes the commit at compile time.

use std::sync::LazyLock;

/// The version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from, or `unknown` for a build by hand.
pub const COMMIT: &str = match option_env!("PCS_COMMIT") {
    Some(commit) => commit,
    None => "unknown",
};

/// Both, as `--version` prints them.
pub fn version_and_commit() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| format!("{VERSION} (commit {COMMIT})"));
    &TEXT
}
