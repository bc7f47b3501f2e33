//! Where the tools are that scripts/tools installs, and free ports.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

/// A tool's file or directory below target/tools.
pub fn tool(relative: &str) -> PathBuf {
    let build = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("target/tmp has a parent");
    let path = build.join("tools").join(relative);
    assert!(path.exists(), "{} is missing; run scripts/tools", path.display());
    path
}

/// A program of the system.
pub fn system_program(name: &str) -> PathBuf {
    ["/usr/bin", "/usr/local/bin", "/bin", "/usr/sbin"]
        .iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|path| path.exists())
        .unwrap_or_else(|| panic!("{name} is missing; run scripts/tools"))
}

/// A file of this repository.
pub fn repository_file(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

/// A port on 127.0.0.1 that nobody listens on. From below the range the kernel takes outgoing ports from (it
/// begins at 32768), so that none of the many connections of a run takes it before its server does.
pub fn free_port() -> u16 {
    const FIRST: u16 = 15_000;
    const COUNT: u16 = 15_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = u16::try_from(std::process::id() % u32::from(COUNT)).expect("below COUNT");
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST
            + u16::try_from((u32::from(offset) * 61 + u32::from(step)) % u32::from(COUNT))
                .expect("below COUNT");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port from {FIRST} on");
}
