//! Stigg's Edge API: does it answer, and does it take the key.

use super::{Area, Finding};
use crate::config::{Config, CredentialSource};
use crate::edge::EdgeClient;

pub(super) fn check(config: &Config, edge: &EdgeClient, findings: &mut Vec<Finding>) {
    let at = edge.address();
    findings.push(match edge.sentry_dsn() {
        Ok(_) => Area::Edge.ok(format!("{at} answers and takes SERVER_API_KEY")),
        Err(error) if config.credentials == CredentialSource::EdgeApi => Area::Edge.failure(error.message),
        // With credentials of one's own, only error reports and `warm` need it.
        Err(error) => Area::Edge.warning(format!("{error}. The queue is read without it")),
    });
}
