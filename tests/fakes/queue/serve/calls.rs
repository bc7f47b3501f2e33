//! What each call does.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use persistent_cache_service::clock;

use super::super::Faults;
use super::super::Supply;
use super::super::dice::Dice;
use super::super::http::Answer;
use super::super::protocol::{
    self, AttributesCall, ChangeCall, DeleteCall, EntryEnd, Operation, ReceiveCall, Refusal, served,
};
use super::super::store::{Chances, Delivery, EntryFault, Receipt, Receive, VISIBILITY_SECS_MAX};
use super::Server;

/// The bounds of a visibility timeout, as numbers of the protocol.
const VISIBILITY_BOUNDS: (i64, i64) = (0, VISIBILITY_SECS_MAX.cast_signed());

const ATTRIBUTES: [&str; 6] = [
    "All",
    "VisibilityTimeout",
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "RedrivePolicy",
    "FifoQueue",
];

impl Server {
    /// Does what is asked.
    pub(super) fn call(
        &self,
        operation: Operation,
        body: &[u8],
        dice: &mut Dice,
        faults: &Faults,
    ) -> Result<Answer, Refusal> {
        if let Some(supply) = &self.options.supply {
            supply.called(operation);
        }
        match operation {
            Operation::Receive => self.receive(body, dice.chances(faults)),
            Operation::DeleteBatch => self.delete(body, dice, faults),
            Operation::ChangeVisibilityBatch => self.change_visibility(body, dice, faults),
            Operation::GetAttributes => self.attributes(body),
        }
    }

    fn check_queue(&self, queue_url: &str) -> Result<(), Refusal> {
        let path = queue_url.split_once("://").and_then(|(_, rest)| rest.find('/').map(|at| &rest[at..]));
        if path == Some(self.path.as_str()) {
            return Ok(());
        }
        Err(Refusal::of_sqs("QueueDoesNotExist", "The specified queue does not exist."))
    }

    fn receive(&self, body: &[u8], chances: Chances) -> Result<Answer, Refusal> {
        let call: ReceiveCall<'_> = protocol::parse(body)?;
        self.check_queue(&call.queue_url)?;
        let wanted = call.wanted()?;
        let messages_max = protocol::within("MaxNumberOfMessages", call.max_number_of_messages, (1, 10), 1)?;
        let wait_secs = protocol::within("WaitTimeSeconds", call.wait_time_seconds, (0, 20), 0)?;
        let visibility_secs = call
            .visibility_timeout
            .map(|given| protocol::within("VisibilityTimeout", Some(given), VISIBILITY_BOUNDS, 0))
            .transpose()?;
        let visibility = visibility_secs.map_or(self.options.visibility_timeout, Duration::from_secs);
        let deliveries = self.take(
            usize::try_from(messages_max).unwrap_or(1),
            Duration::from_secs(wait_secs),
            visibility,
            chances,
        )?;
        let supply = self.options.supply.as_deref();
        let json = protocol::messages(&deliveries, wanted, self.options.seed, supply);
        if let Some(supply) = supply {
            let numbers = deliveries.iter().filter_map(|delivery| delivery.message.supplied());
            supply.delivered(&numbers.collect::<Vec<_>>());
        }
        Ok(served(json))
    }

    /// Waits until there is something, at most for `wait`.
    fn take(
        &self,
        messages_max: usize,
        wait: Duration,
        visibility: Duration,
        chances: Chances,
    ) -> Result<Vec<Delivery>, Refusal> {
        let supply = self.options.supply.as_deref();
        let until = Instant::now() + wait;
        let mut store = self.store.lock().unwrap();
        loop {
            let now = self.now();
            let deliveries = store.receive(Receive {
                messages_max,
                visibility_ms: u64::try_from(visibility.as_millis()).unwrap_or(u64::MAX / 2),
                now,
                wall_clock_ms: clock::now().0,
                chances,
                supply,
            });
            let deliveries = deliveries.map_err(|_| {
                Refusal::of_sqs("OverLimit", "The maximum number of in flight messages is reached.")
            })?;
            let left = until.saturating_duration_since(Instant::now());
            if !deliveries.is_empty() || left.is_zero() || self.has_ended() {
                // There may be more: one wake-up may stand for many messages, and one receive waits for the next.
                self.arrived.notify_one();
                return Ok(deliveries);
            }
            let wake = store.next_wake().map(|at| Duration::from_millis(at.saturating_sub(now) + 1));
            // One of those that wait watches the supply's clock. The others wait until they are notified.
            let is_first = !std::mem::replace(&mut store.is_watched, true);
            let next = supply.filter(|_| is_first).and_then(Supply::next_in);
            let wake = wake.into_iter().chain(next).min();
            self.open_polls.fetch_add(1, Ordering::SeqCst);
            store = self.arrived.wait_timeout(store, wake.map_or(left, |wake| wake.min(left))).unwrap().0;
            self.open_polls.fetch_sub(1, Ordering::SeqCst);
            store.is_watched &= !is_first;
        }
    }

    fn delete(&self, body: &[u8], dice: &mut Dice, faults: &Faults) -> Result<Answer, Refusal> {
        let call: DeleteCall<'_> = protocol::parse(body)?;
        self.check_queue(&call.queue_url)?;
        let ids: Vec<&str> = call.entries.iter().map(|entry| entry.id.as_ref()).collect();
        protocol::check_batch(&ids)?;
        let handles = call.entries.iter().map(|entry| entry.receipt_handle.as_ref());
        let entries: Vec<_> = ids.into_iter().zip(handles).collect();
        let supply = self.options.supply.as_deref();
        Ok(self.each(&entries, dice, faults, |_, receipt, now| {
            let mut store = self.store.lock().unwrap();
            let deleted = store.delete(receipt, now);
            // The next of its group may be had now.
            if store.is_fifo() && store.has_some() {
                self.arrived.notify_one();
            }
            drop(store);
            if let (Some(supply), Some(number)) = (supply, deleted?.and_then(|message| message.supplied())) {
                supply.deleted(number);
            }
            Ok(())
        }))
    }

    fn change_visibility(&self, body: &[u8], dice: &mut Dice, faults: &Faults) -> Result<Answer, Refusal> {
        let call: ChangeCall<'_> = protocol::parse(body)?;
        self.check_queue(&call.queue_url)?;
        let ids: Vec<&str> = call.entries.iter().map(|entry| entry.id.as_ref()).collect();
        protocol::check_batch(&ids)?;
        let handles = call.entries.iter().map(|entry| entry.receipt_handle.as_ref());
        let entries: Vec<_> = ids.into_iter().zip(handles).collect();
        Ok(self.each(&entries, dice, faults, |index, receipt, now| {
            let secs = call.entries[index].visibility_timeout;
            let Some(secs) = secs.and_then(|secs| u64::try_from(secs).ok()).filter(|secs| *secs <= VISIBILITY_SECS_MAX)
            else {
                return Err(EntryFault {
                    code: "InvalidParameterValue",
                    message: "Value for parameter VisibilityTimeout is invalid. Reason: Must be between 0 and 43200.",
                });
            };
            let end = self.store.lock().unwrap().change_visibility(receipt, secs, now);
            self.arrived.notify_one();
            end
        }))
    }

    /// Applies a call to each entry, and reports how each ended.
    fn each(
        &self,
        entries: &[(&str, &str)],
        dice: &mut Dice,
        faults: &Faults,
        act: impl Fn(usize, Receipt, u64) -> Result<(), EntryFault>,
    ) -> Answer {
        let now = self.now();
        let mut ends = Vec::with_capacity(entries.len());
        for (index, (id, handle)) in entries.iter().enumerate() {
            let failure = if let Some(sender) = dice.entry_fails(faults) {
                self.store.lock().unwrap().count_fault();
                let code = if sender { "ReceiptHandleIsInvalid" } else { "InternalError" };
                Some((code, "A fault made on purpose.", sender))
            } else if let Some(receipt) = protocol::receipt(handle, self.options.seed) {
                let end = act(index, receipt, now);
                end.err().map(|fault| (fault.code, fault.message, true))
            } else {
                self.complain("ReceiptHandleIsInvalid: a handle that this queue never issued".to_owned());
                Some(("ReceiptHandleIsInvalid", "The input receipt handle is invalid.", true))
            };
            ends.push(EntryEnd { id, failure });
        }
        served(protocol::batch(&ends))
    }

    fn attributes(&self, body: &[u8]) -> Result<Answer, Refusal> {
        let call: AttributesCall<'_> = protocol::parse(body)?;
        self.check_queue(&call.queue_url)?;
        if self.options.deny_attributes {
            return Err(Refusal::common(
                403,
                "AccessDeniedException",
                "User: arn:aws:iam::000000000000:user/service is not authorized to perform: sqs:getqueueattributes \
                 on resource: arn:aws:sqs:us-east-1:000000000000:state-changes because no identity-based policy \
                 allows the sqs:getqueueattributes action",
            ));
        }
        if let Some(unknown) = call.attribute_names.iter().find(|name| !ATTRIBUTES.contains(&name.as_ref())) {
            return Err(Refusal::of_sqs("InvalidAttributeName", format!("Unknown Attribute {unknown}.")));
        }
        let counts = self.counts();
        let mut attributes = serde_json::Map::new();
        let mut add = |name: &str, value: String| {
            if call.attribute_names.iter().any(|asked| asked == "All" || asked == name) {
                attributes.insert(name.to_owned(), value.into());
            }
        };
        add("VisibilityTimeout", self.options.visibility_timeout.as_secs().to_string());
        add("ApproximateNumberOfMessages", counts.visible.to_string());
        add("ApproximateNumberOfMessagesNotVisible", counts.in_flight.to_string());
        if let Some(most) = self.options.max_receive_count {
            let policy = serde_json::json!({
                "deadLetterTargetArn": "arn:aws:sqs:us-east-1:000000000000:dead-letters",
                "maxReceiveCount": most,
            });
            add("RedrivePolicy", policy.to_string());
        }
        if self.options.fifo {
            add("FifoQueue", "true".to_owned());
        }
        // As with SQS: none asked for, none reported.
        if attributes.is_empty() {
            return Ok(served("{}".to_owned()));
        }
        Ok(served(serde_json::json!({"Attributes": attributes}).to_string()))
    }
}
