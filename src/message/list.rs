//! Lists, converted entry by entry while they are read, so that a long one is never in memory twice.

use std::borrow::Cow;
use std::cell::RefCell;

use serde::de::{IgnoredAny, MapAccess, SeqAccess};

use super::MalformedBody;
use super::convert;
use super::field::{Field, FromJson};
use super::subjects::Subjects;
use super::wire::{Entry, ListedCustomer};
use crate::entitlement::{Entitlement, EpochMs};

/// A list of what its entries were converted to. A fault in it is reported to whoever takes it.
#[derive(Debug)]
pub(super) struct List<T>(RefCell<Result<T, MalformedBody>>);

impl<'de, T: Default> Field<List<T>>
where
    List<T>: FromJson<'de>,
{
    /// Takes the entries, once. `key` is the name of the field, for the location of a fault.
    pub(super) fn take_list(&self, key: &str) -> Result<Option<T>, MalformedBody> {
        let entries = self.get()?.map(|list| list.0.replace(Ok(T::default())));
        entries.transpose().map_err(|fault| fault.within(key))
    }
}

impl<T: Default> List<T> {
    /// Converts a list: null entries say nothing, and after a fault the rest is skipped.
    fn read<'de, E: FromJson<'de>, A: SeqAccess<'de>>(
        mut list: A,
        mut add: impl FnMut(&mut T, E) -> Result<(), MalformedBody>,
    ) -> Result<Self, A::Error> {
        let mut entries = T::default();
        let mut index = 0_usize;
        while let Some(entry) = list.next_element::<Field<E>>()? {
            let added = entry
                .take()
                .and_then(|entry| entry.map_or(Ok(()), |entry| add(&mut entries, entry)));
            if let Err(fault) = added {
                while list.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Self(RefCell::new(Err(fault.within(&format!("[{index}]"))))));
            }
            index += 1;
        }
        Ok(Self(RefCell::new(Ok(entries))))
    }
}

/// An entitlement list.
pub(super) type EntitlementList = List<Entitlements>;

/// The entries of an entitlement list, without those of unknown kinds.
#[derive(Debug, Default)]
pub(super) struct Entitlements {
    pub(super) entries: Vec<ListedEntitlement>,
    /// Each `entitlementUpdatedAt`, in order; of neighbors with the same one, the first.
    pub(super) updated_at: Vec<EpochMs>,
}

/// An entitlement. Its `usage_updated_at` is what the entry itself says.
#[derive(Debug)]
pub(super) struct ListedEntitlement {
    pub(super) entitlement: Entitlement,
    /// The entry has a `currentUsage`.
    pub(super) has_usage: bool,
}

impl<'de> FromJson<'de> for EntitlementList {
    const WANTED: &'static str = "a list";

    fn from_list<A: SeqAccess<'de>>(list: A) -> Result<Option<Self>, A::Error> {
        let read = Self::read(list, |list: &mut Entitlements, entry: Box<Entry<'de>>| {
            if let Some(at) = entry.entitlement_updated_at.if_valid()
                && list.updated_at.last() != Some(&at.0)
            {
                list.updated_at.push(at.0);
            }
            list.entries.extend(convert::entitlement(entry)?);
            Ok(())
        });
        read.map(Some)
    }
}

/// A list of customers.
pub(super) type SubjectList = List<Subjects>;

impl<'de> FromJson<'de> for SubjectList {
    const WANTED: &'static str = "a list";

    fn from_list<A: SeqAccess<'de>>(list: A) -> Result<Option<Self>, A::Error> {
        let read = Self::read(list, |subjects: &mut Subjects, listed: Listed<'de>| {
            match listed {
                Listed::Id(id) => subjects.push(&id, None),
                Listed::Customer(customer) => {
                    let (customer, resource) = convert::listed_customer(&customer)?;
                    subjects.push(customer, resource);
                }
            }
            Ok(())
        });
        read.map(Some)
    }
}

/// A customer in a list: its id, or an object with it.
enum Listed<'a> {
    Id(Cow<'a, str>),
    Customer(Box<ListedCustomer<'a>>),
}

impl<'de> FromJson<'de> for Listed<'de> {
    const WANTED: &'static str = "an object";

    fn from_text(id: Cow<'de, str>) -> Option<Self> {
        (!id.is_empty()).then_some(Self::Id(id))
    }

    fn from_object<A: MapAccess<'de>>(object: A, levels: usize) -> Result<Option<Self>, A::Error> {
        Ok(Box::from_object(object, levels)?.map(Self::Customer))
    }
}
