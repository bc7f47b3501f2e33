//! Many subjects in little memory: a migration lists up to 90,000 customers in one message.

use crate::entitlement::{CustomerId, ResourceId, Subject};

/// Whom a purge concerns, each once. Takes about two to three times the length of the ids.
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

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = Subject> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// The subject of that index; panics behind the last.
    pub fn get(&self, index: usize) -> Subject {
        let (customer, resource) = self.ids_of(index);
        Subject {
            customer: CustomerId(customer.to_owned()),
            resource: (!resource.is_empty()).then(|| ResourceId(resource.to_owned())),
        }
    }

    pub(super) fn push(&mut self, customer: &str, resource: Option<&str>) {
        self.ids.push_str(customer);
        let customer_end = self.end();
        self.ids.push_str(resource.unwrap_or_default());
        self.ends.push([customer_end, self.end()]);
    }

    /// Keeps the first of those that are the same.
    pub(super) fn without_duplicates(self) -> Self {
        let ids_of = |index: &u32| self.ids_of(*index as usize);
        let mut sorted: Vec<u32> = (0..).take(self.len()).collect();
        sorted.sort_unstable_by_key(|index| (ids_of(index), *index));
        let mut is_duplicate = vec![false; self.len()];
        for [one, next] in sorted.array_windows() {
            is_duplicate[*next as usize] = ids_of(one) == ids_of(next);
        }
        if !is_duplicate.contains(&true) {
            return self;
        }
        let kept = (0..self.len()).filter(|index| !is_duplicate[*index]);
        kept.fold(Self::default(), |mut unique, index| {
            let (customer, resource) = self.ids_of(index);
            unique.push(customer, Some(resource));
            unique
        })
    }

    #[expect(clippy::cast_possible_truncation, reason = "a message has at most 1 MiB")]
    fn end(&self) -> u32 {
        self.ids.len() as u32
    }

    /// The customer and the resource; an empty text if there is none.
    fn ids_of(&self, index: usize) -> (&str, &str) {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before][1]);
        let [customer_end, resource_end] = self.ends[index].map(|end| end as usize);
        (&self.ids[start as usize..customer_end], &self.ids[customer_end..resource_end])
    }
}

impl FromIterator<Subject> for Subjects {
    fn from_iter<I: IntoIterator<Item = Subject>>(subjects: I) -> Self {
        let mut all = Self::default();
        for subject in subjects {
            let resource = subject.resource.as_ref().map(ResourceId::as_str);
            all.push(subject.customer.as_str(), resource);
        }
        all
    }
}
