//! The messages of the queue, and SQS's rules for them. Pure: the time (milliseconds since the start of the queue) and
//! what chance decided are arguments.

mod groups;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::{Counts, Supply};
use groups::Groups;

/// No message can be hidden for longer, counted from its receive.
pub const VISIBILITY_SECS_MAX: u64 = 12 * 60 * 60;

/// How far back disorder reaches.
const DISORDER_DEPTH: usize = 1_000;

/// What never changes of a message.
#[derive(Debug)]
pub struct Message {
    pub id: String,
    pub body: Body,
    pub sent_at_ms: i64,
    pub group: Option<String>,
}

impl Message {
    /// Its number in the supply that it came from.
    pub fn supplied(&self) -> Option<u64> {
        match self.body {
            Body::Supplied(number) => Some(number),
            Body::Sent { .. } => None,
        }
    }
}

#[derive(Debug)]
pub enum Body {
    Sent {
        /// As a JSON text, quotes included: it is escaped once.
        json: String,
        /// Hexadecimal.
        md5: String,
    },
    /// Made from this number by the supply, for each delivery.
    Supplied(u64),
}

/// Names one receive of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    pub message: u64,
    pub number: u64,
}

/// A message as it is delivered.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub message: Arc<Message>,
    pub receipt: Receipt,
    pub receive_count: u32,
    pub first_received_at_ms: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Visible,
    InFlight { until: u64, since: u64 },
}

#[derive(Debug)]
struct Tracked {
    message: Arc<Message>,
    state: State,
    /// The number of the last receipt; the handles of older ones are stale.
    receipt: u64,
    receive_count: u32,
    first_received_at_ms: i64,
    /// It was delivered while it was in flight. Once is enough: a message that waits for long would become a dead letter.
    was_duplicated: bool,
}

#[derive(Debug)]
enum Order {
    /// May hold messages that were deleted while they were visible: they are skipped.
    Standard(VecDeque<u64>),
    Fifo(Groups),
}

/// What chance decided about one receive.
#[derive(Debug, Default, Clone, Copy)]
pub struct Chances {
    /// Where in the queue to begin, if order is not kept.
    pub disorder: Option<u64>,
    /// Which of the messages in flight is delivered once more.
    pub duplicate: Option<u64>,
}

/// Who asks for how much, when.
#[derive(Debug, Clone, Copy)]
pub struct Receive<'a> {
    pub messages_max: usize,
    pub visibility_ms: u64,
    pub now: u64,
    pub wall_clock_ms: i64,
    pub chances: Chances,
    pub supply: Option<&'a dyn Supply>,
}

/// Why a message could not be completed: SQS's code and message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryFault {
    pub code: &'static str,
    pub message: &'static str,
}

/// Too many are in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverLimit;

/// The messages.
#[derive(Debug)]
pub struct Store {
    max_receive_count: Option<u32>,
    in_flight_max: usize,
    messages: HashMap<u64, Tracked>,
    order: Order,
    /// (until, message)
    in_flight: BTreeSet<(u64, u64)>,
    /// A receive waits for the next message of the supply.
    pub is_watched: bool,
    next_message: u64,
    next_receipt: u64,
    dead: Vec<Arc<Message>>,
    counts: Counts,
}

impl Store {
    pub fn new(fifo: bool, max_receive_count: Option<u32>, in_flight_max: usize) -> Self {
        Self {
            max_receive_count,
            in_flight_max,
            messages: HashMap::new(),
            order: if fifo { Order::Fifo(Groups::default()) } else { Order::Standard(VecDeque::new()) },
            in_flight: BTreeSet::new(),
            is_watched: false,
            next_message: 1,
            next_receipt: 1,
            dead: Vec::new(),
            counts: Counts::default(),
        }
    }

    pub fn is_fifo(&self) -> bool {
        matches!(self.order, Order::Fifo(_))
    }

    /// The number that the next message will have.
    pub fn next_message(&self) -> u64 {
        self.next_message
    }

    /// Puts a message in.
    pub fn send(&mut self, message: Message) {
        let number = self.next_message;
        self.next_message += 1;
        match &mut self.order {
            Order::Standard(visible) => visible.push_back(number),
            Order::Fifo(groups) => {
                let group = message.group.as_deref().expect("a message of a FIFO queue has a group");
                groups.add(group, number);
            }
        }
        self.messages.insert(
            number,
            Tracked {
                message: Arc::new(message),
                state: State::Visible,
                receipt: 0,
                receive_count: 0,
                first_received_at_ms: 0,
                was_duplicated: false,
            },
        );
        self.counts.sent += 1;
    }

    /// Makes visible what was hidden until now.
    pub fn wake(&mut self, now: u64) {
        while let Some(&(until, number)) = self.in_flight.first()
            && until <= now
        {
            self.make_visible(number);
        }
    }

    /// When the next visibility timeout ends.
    pub fn next_wake(&self) -> Option<u64> {
        self.in_flight.first().map(|(until, _)| *until)
    }

    /// True if a receive could bring something.
    pub fn has_some(&self) -> bool {
        match &self.order {
            Order::Standard(visible) => !visible.is_empty(),
            Order::Fifo(groups) => groups.has_ready(),
        }
    }

    /// Delivers what is visible; moves what was received too often to the dead letters.
    pub fn receive(&mut self, receive: Receive<'_>) -> Result<Vec<Delivery>, OverLimit> {
        self.wake(receive.now);
        if self.in_flight.len() >= self.in_flight_max {
            return Err(OverLimit);
        }
        let mut deliveries = Vec::new();
        if let Some(chance) = receive.chances.duplicate {
            deliveries.extend(self.duplicate(chance, receive));
        }
        while deliveries.len() < receive.messages_max
            && let Some(number) = self.take_visible(receive)
        {
            if self.is_dead(number) {
                self.bury(number);
            } else {
                deliveries.push(self.deliver(number, receive));
            }
        }
        if let Order::Fifo(groups) = &mut self.order {
            groups.close_batch();
        }
        Ok(deliveries)
    }

    /// A message in flight, once more, as a queue that delivers at least once may do.
    fn duplicate(&mut self, chance: u64, receive: Receive<'_>) -> Option<Delivery> {
        // A FIFO queue delivers exactly once while the message is in flight.
        if self.is_fifo() {
            return None;
        }
        let nth = usize::try_from(chance).unwrap_or_default() % self.in_flight.len().clamp(1, DISORDER_DEPTH);
        let entry = *self.in_flight.iter().nth(nth)?;
        let message = self.messages.get_mut(&entry.1).expect("a message");
        if std::mem::replace(&mut message.was_duplicated, true) || self.is_dead(entry.1) {
            return None;
        }
        self.in_flight.remove(&entry);
        self.counts.faults += 1;
        Some(self.deliver(entry.1, receive))
    }

    fn take_visible(&mut self, receive: Receive<'_>) -> Option<u64> {
        if !self.has_some()
            && let Some(number) = receive.supply.and_then(Supply::take_next)
        {
            let id = format!("5e9d0000-0000-4000-8000-{:012x}", self.next_message);
            self.send(Message {
                id,
                body: Body::Supplied(number),
                sent_at_ms: receive.wall_clock_ms,
                group: None,
            });
        }
        match &mut self.order {
            Order::Fifo(groups) => groups.take(),
            Order::Standard(visible) => loop {
                if let Some(chance) = receive.chances.disorder
                    && !visible.is_empty()
                {
                    let depth = visible.len().min(DISORDER_DEPTH);
                    visible.swap(0, usize::try_from(chance).unwrap_or_default() % depth);
                }
                let number = visible.pop_front()?;
                if self.messages.contains_key(&number) {
                    return Some(number);
                }
            },
        }
    }

    fn is_dead(&self, number: u64) -> bool {
        self.max_receive_count.is_some_and(|most| self.messages[&number].receive_count >= most)
    }

    fn bury(&mut self, number: u64) {
        let message = self.messages.remove(&number).expect("a message");
        if let Order::Fifo(groups) = &mut self.order {
            groups.remove(message.message.group.as_deref().unwrap_or_default(), number, true);
        }
        self.dead.push(message.message);
        self.counts.dead += 1;
    }

    fn deliver(&mut self, number: u64, receive: Receive<'_>) -> Delivery {
        let receipt = self.next_receipt;
        self.next_receipt += 1;
        let message = self.messages.get_mut(&number).expect("a message");
        message.receipt = receipt;
        message.receive_count += 1;
        if message.receive_count == 1 {
            message.first_received_at_ms = receive.wall_clock_ms;
        }
        let until = receive.now + receive.visibility_ms;
        message.state = State::InFlight { until, since: receive.now };
        let deliveries = Delivery {
            message: Arc::clone(&message.message),
            receipt: Receipt { message: number, number: receipt },
            receive_count: message.receive_count,
            first_received_at_ms: message.first_received_at_ms,
        };
        self.in_flight.insert((until, number));
        self.counts.received += 1;
        if deliveries.receive_count > 1 {
            self.counts.redelivered += 1;
        }
        deliveries
    }

    fn make_visible(&mut self, number: u64) {
        let message = self.messages.get_mut(&number).expect("a message");
        if let State::InFlight { until, .. } = message.state {
            self.in_flight.remove(&(until, number));
            message.state = State::Visible;
            match &mut self.order {
                Order::Standard(visible) => visible.push_back(number),
                Order::Fifo(groups) => {
                    groups.release(message.message.group.as_deref().unwrap_or_default());
                }
            }
        }
    }

    /// Deletes a message and gives it. A stale handle deletes nothing and is no error, as documented (a FIFO queue says so).
    pub fn delete(&mut self, receipt: Receipt, now: u64) -> Result<Option<Arc<Message>>, EntryFault> {
        self.wake(now);
        let is_fifo = self.is_fifo();
        let Some(message) = self.messages.get(&receipt.message) else {
            return Ok(None);
        };
        let is_stale = message.receipt != receipt.number;
        let was_in_flight = match message.state {
            State::Visible => false,
            State::InFlight { until, .. } => {
                if !is_stale {
                    self.in_flight.remove(&(until, receipt.message));
                }
                true
            }
        };
        if is_fifo && (is_stale || !was_in_flight) {
            return Err(EntryFault {
                code: "InvalidParameterValue",
                message: "Value for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired.",
            });
        }
        if is_stale {
            return Ok(None);
        }
        let message = self.messages.remove(&receipt.message).expect("a message");
        if let Order::Fifo(groups) = &mut self.order {
            groups.remove(message.message.group.as_deref().unwrap_or_default(), receipt.message, true);
        }
        self.counts.deleted += 1;
        Ok(Some(message.message))
    }

    /// Hides a message for this long from now.
    pub fn change_visibility(&mut self, receipt: Receipt, secs: u64, now: u64) -> Result<(), EntryFault> {
        self.wake(now);
        let number = receipt.message;
        let gone = EntryFault {
            code: "InvalidParameterValue",
            message: "Value for parameter ReceiptHandle is invalid. Reason: Message does not exist or is not \
                    available for visibility timeout change.",
        };
        let Some(message) = self.messages.get_mut(&number) else {
            return Err(gone);
        };
        if message.receipt != receipt.number {
            return Err(gone);
        }
        let State::InFlight { until, since } = message.state else {
            return Err(EntryFault {
                code: "MessageNotInflight",
                message: "The specified message isn't in flight.",
            });
        };
        if now + secs * 1_000 > since + VISIBILITY_SECS_MAX * 1_000 {
            return Err(EntryFault {
                code: "InvalidParameterValue",
                message: "Total VisibilityTimeout for the message is beyond the limit [43200 seconds]",
            });
        }
        if secs == 0 {
            self.make_visible(number);
            return Ok(());
        }
        let later = now + secs * 1_000;
        message.state = State::InFlight { until: later, since };
        self.in_flight.remove(&(until, number));
        self.in_flight.insert((later, number));
        Ok(())
    }

    /// A consistent snapshot.
    pub fn counts(&mut self, now: u64) -> Counts {
        self.wake(now);
        let in_flight = self.in_flight.len() as u64;
        Counts { in_flight, visible: self.messages.len() as u64 - in_flight, ..self.counts.clone() }
    }

    /// Bodies of the dead letters, in the order in which they became dead letters.
    pub fn dead_letters(&self) -> Vec<String> {
        let body = |message: &Arc<Message>| match &message.body {
            Body::Sent { json, .. } => serde_json::from_str(json).expect("it was escaped here"),
            Body::Supplied(number) => format!("message {number} of the supply"),
        };
        self.dead.iter().map(body).collect()
    }

    /// A fault was made on purpose.
    pub fn count_fault(&mut self) {
        self.counts.faults += 1;
    }
}
