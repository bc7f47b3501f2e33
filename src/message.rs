//! Temporary: replaced by the module `message`.
#![allow(missing_docs)]
use crate::entitlement::{EpochMs, MeasuredUsage, Subject};
pub use crate::event::{EntitlementsUpdated, MalformedBody, UsageOf, told_time};

pub struct Message {
    pub event: Event,
    pub sent_at: EpochMs,
    pub implausible_timestamps: u32,
}
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    EntitlementsUpdated(EntitlementsUpdated),
    UsageUpdated(UsageUpdated),
    Purged(Vec<Subject>),
    EnvironmentInvalidated,
    Ignored { label: &'static str },
}
#[derive(Debug, Clone, PartialEq)]
pub struct UsageUpdated {
    pub subject: Subject,
    pub of: UsageOf,
    pub measured: MeasuredUsage,
    pub balance: Option<CreditBalance>,
}
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreditBalance {
    pub is_exhausted: bool,
    pub valid_until: Option<EpochMs>,
}
pub fn decode(body: &str, sent_at: EpochMs) -> Result<Message, MalformedBody> {
    use crate::event::Event as Old;
    let event = match crate::event::decode(body, sent_at)? {
        Old::EntitlementsUpdated(update) => Event::EntitlementsUpdated(update),
        Old::UsageUpdated(update) => Event::UsageUpdated(UsageUpdated {
            subject: update.subject,
            of: update.of,
            measured: update.measured,
            balance: None,
        }),
        Old::Purged(subjects) => Event::Purged(subjects),
        Old::EnvironmentInvalidated => Event::EnvironmentInvalidated,
        Old::Ignored { label } => Event::Ignored { label },
    };
    Ok(Message {
        event,
        sent_at,
        implausible_timestamps: 0,
    })
}
