//! The stories: what an outsider sees of the service, against a real redis-server, an SQS that checks signatures
//! (moto) and the published SDK. One file a story; `support` is the harness. `scripts/tools` installs what the
//! harness needs.

// A harness that cannot do its work fails the test, loudly and where it happened.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// Stories have a stage and a state; times become metrics, which are floats.
#![allow(clippy::similar_names, clippy::cast_precision_loss)]

#[path = "../fakes/mod.rs"]
mod fakes;
mod support;

mod fake_queue;
mod fault_proxy;
mod harness;
mod refusing_redis;

mod formats;
mod golden;
mod readers;

mod credits;
mod delivery;
mod disorder;
mod lock;
mod lone_surrogates;
mod model;
mod moving_over;
mod own_failures;
mod policy;
mod purge;
mod redriven;
mod refetch;
mod refresh;
mod timestamps;
mod tombstones;

mod credentials;
mod credentials_profile;
mod elasticache;
mod faults_at_start;
mod network_faults;
mod prefix_check;
mod proxy;
mod queue_calls;
mod redis_access;
mod redis_outages;
mod refusals;
mod secrets;
mod sentinel;
mod sentinel_answers;
mod servers;
mod shutdown;
mod stops;
mod systemd;
mod unneeded_passwords;

mod faulty;
mod panics;
mod visibility;
mod watchdog;

mod command_check;
mod command_check_needs;
mod command_inspect;
mod command_probes;
mod command_purge;
mod command_replay;
mod command_warm;
mod config;
mod documentation;
mod hostile_clients;
mod house;
mod http;
mod logs;
mod renewed_certificates;
mod reports;
mod status_page;
mod tls_matrix;
mod watching;
