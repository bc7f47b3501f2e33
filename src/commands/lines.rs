//! Files that are read line by line; `-` is standard input.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// The file, and how many lines it has, if that can be known beforehand.
pub(super) fn open(file: &str) -> std::io::Result<(Box<dyn BufRead + Send>, Option<u64>)> {
    if file == "-" {
        return Ok((Box::new(BufReader::new(std::io::stdin())), None));
    }
    let path = Path::new(file);
    let total = if path.is_file() {
        Some(BufReader::new(File::open(path)?).split(b'\n').count() as u64)
    } else {
        // A pipe can be read once.
        None
    };
    Ok((Box::new(BufReader::new(File::open(path)?)), total))
}
