//! Logs a body that cannot be read: once a message, with id, size and the place of the fault, never its content.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::settle::Settlement;
use crate::message::MalformedBody;
use crate::sqs::Delivery;

/// Message ids that are remembered: a redelivery of one of them is not logged again.
const REMEMBERED: usize = 1_024;

/// Which unreadable messages have been logged.
#[derive(Debug, Default)]
pub struct PoisonLog {
    logged: Mutex<VecDeque<String>>,
}

impl PoisonLog {
    /// Logs the message, unless it has been logged.
    pub fn malformed(&self, delivery: &Delivery, fault: &MalformedBody, settlement: Settlement) {
        let is_new = {
            let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
            let is_new = !logged.contains(&delivery.message_id);
            if is_new {
                if logged.len() >= REMEMBERED {
                    logged.pop_front();
                }
                logged.push_back(delivery.message_id.clone());
            }
            is_new
        };
        if !is_new {
            log::debug!("message {} still cannot be read", delivery.message_id);
            return;
        }
        let fate = match settlement {
            Settlement::Delete => "it is deleted (POISON_POLICY=delete)",
            Settlement::Retry { .. } => "it is left to the queue's dead-letter rule (POISON_POLICY=redrive)",
        };
        log::warn!(
            message_id = delivery.message_id.as_str(), bytes = delivery.body.len(),
            receive_count = delivery.receive_count, err:% = fault;
            "cannot read a message: {fate}"
        );
    }
}
