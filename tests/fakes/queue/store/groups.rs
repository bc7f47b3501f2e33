//! The order of a FIFO queue: inside a group messages come in the order in which they were sent, and while one of
//! a group is in flight none of that group is delivered.

use std::collections::{BTreeSet, HashMap, VecDeque};

#[derive(Debug, Default)]
struct Group {
    /// Every message of the group, those in flight included.
    messages: BTreeSet<u64>,
    in_flight: usize,
    /// It waits in `ready`.
    is_ready: bool,
}

/// Every group with messages.
#[derive(Debug, Default)]
pub struct Groups {
    by_name: HashMap<String, Group>,
    ready: VecDeque<String>,
    /// The group that the current batch takes from, and the last number taken.
    open: Option<(String, u64)>,
}

impl Groups {
    /// A message was sent.
    pub fn add(&mut self, name: &str, number: u64) {
        self.by_name.entry(name.to_owned()).or_default().messages.insert(number);
        self.make_ready(name);
    }

    fn make_ready(&mut self, name: &str) {
        if let Some(group) = self.by_name.get_mut(name)
            && group.in_flight == 0
            && !group.is_ready
            && !group.messages.is_empty()
        {
            group.is_ready = true;
            self.ready.push_back(name.to_owned());
        }
    }

    /// True if a group has messages and none in flight.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next message of the batch: of the same group as the one before while it has any. It counts as in flight.
    pub fn take(&mut self) -> Option<u64> {
        loop {
            if let Some((name, last)) = &mut self.open {
                let group = self.by_name.get_mut(name.as_str());
                let next = group.and_then(|group| {
                    let next = group.messages.range(*last + 1..).next().copied()?;
                    group.in_flight += 1;
                    Some(next)
                });
                if let Some(next) = next {
                    *last = next;
                    return Some(next);
                }
                self.close_batch();
            }
            let name = self.ready.pop_front()?;
            if let Some(group) = self.by_name.get_mut(&name) {
                group.is_ready = false;
            }
            self.open = Some((name, 0));
        }
    }

    /// The batch is complete.
    pub fn close_batch(&mut self) {
        if let Some((name, _)) = self.open.take() {
            // Nothing of it may be in flight: all that was taken may have gone to the dead letters.
            self.make_ready(&name);
        }
    }

    /// A message in flight is visible again.
    pub fn release(&mut self, name: &str) {
        if let Some(group) = self.by_name.get_mut(name) {
            group.in_flight -= 1;
        }
        self.make_ready(name);
    }

    /// A message left the queue.
    pub fn remove(&mut self, name: &str, number: u64, was_in_flight: bool) {
        let Some(group) = self.by_name.get_mut(name) else {
            return;
        };
        group.messages.remove(&number);
        if was_in_flight {
            group.in_flight -= 1;
        }
        let is_open = self.open.as_ref().is_some_and(|(open, _)| open == name);
        if group.messages.is_empty() && !group.is_ready && !is_open {
            self.by_name.remove(name);
        } else if !is_open {
            self.make_ready(name);
        }
    }
}
