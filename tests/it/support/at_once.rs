//! Tables whose rows take long and need little: all rows run at the same time.

/// Runs every row in a thread of its own, and fails with the names of those that failed.
pub fn run_at_once<R: Sync>(rows: &[R], name: impl Fn(&R) -> String, run: impl Fn(&R) + Sync) {
    let run = &run;
    let failures: Vec<String> = std::thread::scope(|scope| {
        let start = |row| {
            let name = name(row);
            let thread = std::thread::Builder::new().name(format!("row: {name}"));
            (name, thread.spawn_scoped(scope, move || run(row)).expect("a thread"))
        };
        let running: Vec<_> = rows.iter().map(start).collect();
        let failed = running.into_iter().filter_map(|(name, thread)| Some((name, thread.join().err()?)));
        failed
            .map(|(name, panic)| {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                let lines: Vec<&str> = text.unwrap_or("a panic").lines().take(8).collect();
                format!("{name}: {}", lines.join("\n    "))
            })
            .collect()
    });
    let (failed, all) = (failures.len(), rows.len());
    assert!(failures.is_empty(), "{failed} of {all} rows failed:\n{}", failures.join("\n"));
}
