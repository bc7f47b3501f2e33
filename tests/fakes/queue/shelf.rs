//! What lies in the queue, and SQS's rules for it. Pure: it is told the time (milliseconds since the queue was
//! made) and what chance decided.

mod groups;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::Counts;
use groups::Groups;

/// Nobody may hide a message for longer, counted from its receive.
pub const VISIBILITY_SECS_MAX: u64 = 12 * 60 * 60;

/// How far back disorder reaches.
const DISORDER_DEPTH: usize = 1_000;

/// What never changes of a message.
#[derive(Debug)]
pub struct Letter {
    pub id: String,
    /// The body as a JSON text, quotes included: it is escaped once.
    pub json_body: String,
    /// Hexadecimal.
    pub md5_of_body: String,
    pub sent_at_ms: i64,
    pub group: Option<String>,
}

impl Letter {
    /// The body as it was sent.
    pub fn body(&self) -> String {
        serde_json::from_str(&self.json_body).expect("it was escaped here")
    }
}

/// Names one receive of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    pub message: u64,
    pub number: u64,
}

/// A message as it is handed out.
#[derive(Debug, Clone)]
pub struct Handed {
    pub letter: Arc<Letter>,
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
struct Message {
    letter: Arc<Letter>,
    state: State,
    /// The number of the last receipt; the handles of older ones are stale.
    receipt: u64,
    receive_count: u32,
    first_received_at_ms: i64,
    /// It was handed out while it was in flight. Once is enough: what waits for long would die of it.
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
    /// Which of the messages in flight is handed out once more.
    pub duplicate: Option<u64>,
}

/// Who asks for how much, when.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    pub messages_max: usize,
    pub visibility_ms: u64,
    pub now: u64,
    pub wall_clock_ms: i64,
    pub chances: Chances,
}

/// Why a message could not be settled: SQS's code and words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsettled {
    pub code: &'static str,
    pub words: &'static str,
}

/// Too many are in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OverLimit;

/// The messages.
#[derive(Debug)]
pub struct Shelf {
    max_receive_count: Option<u32>,
    in_flight_max: usize,
    messages: HashMap<u64, Message>,
    order: Order,
    /// (until, message)
    in_flight: BTreeSet<(u64, u64)>,
    next_message: u64,
    next_receipt: u64,
    dead: Vec<Arc<Letter>>,
    counts: Counts,
}

impl Shelf {
    pub fn new(fifo: bool, max_receive_count: Option<u32>, in_flight_max: usize) -> Self {
        Self {
            max_receive_count,
            in_flight_max,
            messages: HashMap::new(),
            order: if fifo { Order::Fifo(Groups::default()) } else { Order::Standard(VecDeque::new()) },
            in_flight: BTreeSet::new(),
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
    pub fn send(&mut self, letter: Letter) {
        let number = self.next_message;
        self.next_message += 1;
        match &mut self.order {
            Order::Standard(visible) => visible.push_back(number),
            Order::Fifo(groups) => {
                let group = letter.group.as_deref().expect("a message of a FIFO queue has a group");
                groups.add(group, number);
            }
        }
        self.messages.insert(
            number,
            Message {
                letter: Arc::new(letter),
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

    /// When the next message becomes visible by itself.
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

    /// Hands out what is visible; moves what was received too often to the dead letters.
    pub fn receive(&mut self, ask: Ask) -> Result<Vec<Handed>, OverLimit> {
        self.wake(ask.now);
        if self.in_flight.len() >= self.in_flight_max {
            return Err(OverLimit);
        }
        let mut handed = Vec::new();
        if let Some(chance) = ask.chances.duplicate {
            handed.extend(self.duplicate(chance, ask));
        }
        while handed.len() < ask.messages_max
            && let Some(number) = self.take_visible(ask.chances.disorder)
        {
            if self.is_dead(number) {
                self.bury(number);
            } else {
                handed.push(self.hand_out(number, ask));
            }
        }
        if let Order::Fifo(groups) = &mut self.order {
            groups.close_batch();
        }
        Ok(handed)
    }

    /// A message in flight, once more, as a queue that delivers at least once may do.
    fn duplicate(&mut self, chance: u64, ask: Ask) -> Option<Handed> {
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
        Some(self.hand_out(entry.1, ask))
    }

    fn take_visible(&mut self, disorder: Option<u64>) -> Option<u64> {
        match &mut self.order {
            Order::Fifo(groups) => groups.take(),
            Order::Standard(visible) => loop {
                if let Some(chance) = disorder
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
            groups.remove(message.letter.group.as_deref().unwrap_or_default(), number, true);
        }
        self.dead.push(message.letter);
        self.counts.dead += 1;
    }

    fn hand_out(&mut self, number: u64, ask: Ask) -> Handed {
        let receipt = self.next_receipt;
        self.next_receipt += 1;
        let message = self.messages.get_mut(&number).expect("a message");
        message.receipt = receipt;
        message.receive_count += 1;
        if message.receive_count == 1 {
            message.first_received_at_ms = ask.wall_clock_ms;
        }
        let until = ask.now + ask.visibility_ms;
        message.state = State::InFlight { until, since: ask.now };
        let handed = Handed {
            letter: Arc::clone(&message.letter),
            receipt: Receipt { message: number, number: receipt },
            receive_count: message.receive_count,
            first_received_at_ms: message.first_received_at_ms,
        };
        self.in_flight.insert((until, number));
        self.counts.received += 1;
        if handed.receive_count > 1 {
            self.counts.redelivered += 1;
        }
        handed
    }

    fn make_visible(&mut self, number: u64) {
        let message = self.messages.get_mut(&number).expect("a message");
        if let State::InFlight { until, .. } = message.state {
            self.in_flight.remove(&(until, number));
            message.state = State::Visible;
            match &mut self.order {
                Order::Standard(visible) => visible.push_back(number),
                Order::Fifo(groups) => {
                    groups.give_back(message.letter.group.as_deref().unwrap_or_default());
                }
            }
        }
    }

    /// Deletes a message. A stale handle deletes nothing and is no error, as documented (a FIFO queue says so).
    pub fn delete(&mut self, receipt: Receipt, now: u64) -> Result<(), Unsettled> {
        self.wake(now);
        let is_fifo = self.is_fifo();
        let Some(message) = self.messages.get(&receipt.message) else {
            return Ok(());
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
            return Err(Unsettled {
                code: "InvalidParameterValue",
                words: "Value for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired.",
            });
        }
        if is_stale {
            return Ok(());
        }
        let message = self.messages.remove(&receipt.message).expect("a message");
        if let Order::Fifo(groups) = &mut self.order {
            groups.remove(message.letter.group.as_deref().unwrap_or_default(), receipt.message, true);
        }
        self.counts.deleted += 1;
        Ok(())
    }

    /// Hides a message for this long from now.
    pub fn change_visibility(&mut self, receipt: Receipt, secs: u64, now: u64) -> Result<(), Unsettled> {
        self.wake(now);
        let number = receipt.message;
        let gone = Unsettled {
            code: "InvalidParameterValue",
            words: "Value for parameter ReceiptHandle is invalid. Reason: Message does not exist or is not \
                    available for visibility timeout change.",
        };
        let Some(message) = self.messages.get_mut(&number) else {
            return Err(gone);
        };
        if message.receipt != receipt.number {
            return Err(gone);
        }
        let State::InFlight { until, since } = message.state else {
            return Err(Unsettled {
                code: "MessageNotInflight",
                words: "The specified message isn't in flight.",
            });
        };
        if now + secs * 1_000 > since + VISIBILITY_SECS_MAX * 1_000 {
            return Err(Unsettled {
                code: "InvalidParameterValue",
                words: "Total VisibilityTimeout for the message is beyond the limit [43200 seconds]",
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

    /// One consistent look.
    pub fn counts(&mut self, now: u64) -> Counts {
        self.wake(now);
        let in_flight = self.in_flight.len() as u64;
        Counts { in_flight, visible: self.messages.len() as u64 - in_flight, ..self.counts.clone() }
    }

    /// Bodies of the dead letters, in the order in which they died.
    pub fn dead_letters(&self) -> Vec<String> {
        self.dead.iter().map(|letter| letter.body()).collect()
    }

    /// A fault was made on purpose.
    pub fn count_fault(&mut self) {
        self.counts.faults += 1;
    }
}
