//! Many subjects in little memory: a migration lists up to 90,000 customers in one message.

use crate::entitlement::{CustomerId, ResourceId, Subject};

/// Whom a purge concerns. Takes about two to three times the length of the ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subjects {
    /// The ids, one after the other.
    ids: String,
    /// Where each subject's customer ends in `ids`, and where its resource ends: at the same byte if it has none. Ids are
    /// not empty.
    ends: Vec<[u32; 2]>,
}

impl Subjects {
    /// How many.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// True if it concerns nobody.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The subject at this index; panics beyond the last.
    pub fn get(&self, index: usize) -> Subject {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before][1]);
        let [customer_end, resource_end] = self.ends[index].map(|end| end as usize);
        let resource = &self.ids[customer_end..resource_end];
        Subject {
            customer: CustomerId(self.ids[start as usize..customer_end].to_owned()),
            resource: (!resource.is_empty()).then(|| ResourceId(resource.to_owned())),
        }
    }

    pub(super) fn push(&mut self, customer: &str, resource: Option<&str>) {
        self.ends.push([customer, resource.unwrap_or_default()].map(|id| {
            self.ids.push_str(id);
            #[expect(clippy::cast_possible_truncation, reason = "a message has at most 1 MiB")]
            let end = self.ids.len() as u32;
            end
        }));
    }
}

impl From<Subject> for Subjects {
    fn from(Subject { customer, resource }: Subject) -> Self {
        let mut one = Self::default();
        one.push(customer.as_str(), resource.as_ref().map(ResourceId::as_str));
        one
    }
}
