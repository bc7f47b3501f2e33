//! The result of a long run as a file, from which `scripts/bench --readme` writes a table into `tests/README.md`.

use std::fs;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

/// Where the result goes.
#[derive(Debug, Args)]
pub struct ResultFile {
    /// Write the result of a successful run into this file, as JSON.
    #[arg(long, value_name = "FILE")]
    result: Option<PathBuf>,
    /// The revision that the result is of.
    #[arg(long, default_value = "unknown", hide = true)]
    revision: String,
}

impl ResultFile {
    /// Writes the rows of the table: name and value.
    pub fn write(&self, rows: &[(&str, String)]) {
        let Some(path) = &self.result else { return };
        let result = json!({
            "revision": self.revision,
            "date": time::OffsetDateTime::now_utc().date().to_string(),
            "cores": std::thread::available_parallelism().map_or(1, usize::from),
            "rows": rows,
        });
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory).expect("the result's directory can be created");
        }
        fs::write(path, format!("{result}\n")).expect("the result can be written");
    }
}
