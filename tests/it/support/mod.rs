//! The harness: real neighbours for the service (redis-server, moto, the published SDK), and the service itself
//! as its users run it.

pub mod child;
pub mod tools;
pub mod wait;

pub mod elasticache;
pub mod moto;
pub mod redis;
pub mod sentinel;
pub mod tls;

pub mod edge;
pub mod http;
pub mod service;

pub mod messages;
pub mod sdk;
pub mod stage;
pub mod state;
