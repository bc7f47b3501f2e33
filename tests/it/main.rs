//! The stories: what an outsider sees of the service, against a real redis-server, an SQS that checks signatures
//! (moto) and the published SDK. One file a story; `support` is the harness. `scripts/tools` installs what the
//! harness needs.

// A harness that cannot do its work fails the test, loudly and where it happened.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// Stories have a stage and a state; times become metrics, which are floats.
#![allow(clippy::similar_names, clippy::cast_precision_loss)]

mod support;

mod harness;

mod formats;
mod golden;
mod readers;

mod delivery;
mod disorder;
mod late_news;
mod lock;
mod policy;
mod purge;

mod edge_credentials;
mod elasticache;
mod faults_at_start;
mod guard;
mod redis_access;
mod redis_outages;
mod sentinel;
mod shutdown;

mod config;
mod house;
mod http;
mod logs;
mod reports;
