//! How a static binary that was built with glibc looks up host names: with what is built into it, and nothing else.
//!
//! glibc asks `/etc/nsswitch.conf` how. Where that names more than `files dns` (`myhostname`, `resolve`, `mymachines`:
//! common on virtual machines), a static binary loads the host's own modules for these, and if they belong to another
//! glibc than the one it was built with, it dies of SIGFPE or SIGSEGV at its first look-up. `/etc/hosts` and the DNS
//! servers of `/etc/resolv.conf` (systemd-resolved's, where that runs) are built in, so they are what it uses.
//!
//! The one place with unsafe code: no crate offers this call, and glibc reads the choice from nowhere else. A C object
//! with a constructor would be as unsafe, and hidden from those who read `main`.

/// Looks up hosts in `/etc/hosts`, then by DNS, whatever `/etc/nsswitch.conf` says. Call it before the first thread is
/// started. Does nothing in a binary that is not static, or not built with glibc.
pub fn use_what_is_built_in() {
    #[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
    static_glibc::configure();
}

#[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
mod static_glibc {
    use std::ffi::{c_char, c_int};

    unsafe extern "C" {
        // Declared in <nss.h>, for programs that bring a configuration of their own.
        fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
    }

    pub fn configure() {
        // SAFETY: both are C strings that live for ever, and the call copies what it keeps. It takes glibc's own lock,
        // and no look-up is under way, since no thread was started yet. If it fails (no memory), look-ups work as
        // nsswitch.conf says.
        let _ = unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
    }
}
