//! The stories: what an outsider sees of the service, against a real redis-server, an SQS that checks signatures
//! (moto) and the published SDK. One file a story; `support` is the harness. `scripts/tools` installs what the
//! harness needs.

// A harness that cannot do its work fails the test, loudly and where it happened.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

mod harness;
