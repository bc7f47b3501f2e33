//! The harness: real neighbours for the service (redis-server, moto, the published SDK), and the service itself
//! as its users run it.

pub mod at_once;
pub mod child;
pub mod tools;
pub mod wait;

pub mod elasticache;
pub mod moto;
pub mod redis;
pub mod sentinel;
pub mod tls;

pub mod aws;
pub mod command;
pub mod connect_proxy;
pub mod container;
pub mod edge;
pub mod fake_stage;
pub mod hostile;
pub mod http;
pub mod http_stub;
pub mod imds;
pub mod notify_socket;
pub mod prometheus;
pub mod sentry;
pub mod service;
pub mod tls_front;

pub mod messages;
pub mod sdk;
pub mod stage;
pub mod state;
