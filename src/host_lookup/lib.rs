//! How a static binary that was built with glibc resolves host names: with what is built into it.
//!
//! Where `/etc/nsswitch.conf` names more than `files dns` (`myhostname`, `resolve`: common on virtual machines), a static
//! binary loads the host's own modules, and if they are another glibc's, it dies of SIGFPE or SIGSEGV. No crate offers this
//! call, hence unsafe code.

/// Resolves hosts by `/etc/hosts`, then by DNS, whatever `/etc/nsswitch.conf` says. To be called before any thread is
/// started. Does nothing in a binary that is not static, or not built with glibc.
pub fn use_what_is_built_in() {
    #[cfg(all(target_env = "gnu", target_feature = "crt-static"))]
    {
        use std::ffi::{c_char, c_int};
        unsafe extern "C" {
            // In <nss.h>.
            fn __nss_configure_lookup(database: *const c_char, services: *const c_char) -> c_int;
        }
        // SAFETY: both are C strings that live for ever, the call copies what it keeps, and no lookup is in progress, since
        // no thread was started. If it fails (no memory), lookups work as nsswitch.conf says.
        let _ = unsafe { __nss_configure_lookup(c"hosts".as_ptr(), c"files dns".as_ptr()) };
    }
}
