//! The fake queue keeps SQS's rules: what it delivers, what it refuses, and how it fails on purpose. By calls over
//! HTTP, and by the service's own client.

pub mod caller;

mod faults;
mod refusals;
mod rules;
