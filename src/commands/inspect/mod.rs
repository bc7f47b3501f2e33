//! `inspect`: what is cached for a customer, and what each generation of readers makes of it. It only reads.

mod report;
mod table;

use clap::Args;

use self::report::{Report, Snapshots};
use super::output::print_json;
use super::{CommandError, DONE, Session, print};
use crate::cache::keyspace::{metadata_key, timestamp_key};
use crate::cache::readers::entries;
use crate::clock;
use crate::config::Settings;
use crate::entitlement::{CustomerId, ResourceId, Subject};

/// Nothing is cached.
const NOT_CACHED: u8 = 3;

/// What `inspect` is asked.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The customer's id, as it was given to Stigg.
    pub customer: String,
    /// The id of one of the customer's resources: then it is this one's cache that is shown.
    #[arg(long, value_name = "ID")]
    pub resource: Option<String>,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(settings: &Settings, args: &InspectArgs) -> Result<u8, CommandError> {
    let session = Session::open(settings, settings.cache_access()?, 1)?;
    let keyspace = &session.layout.keyspace;
    let customer = Subject {
        customer: CustomerId(args.customer.clone()),
        resource: None,
    };
    let subject = Subject {
        resource: args.resource.clone().map(ResourceId),
        ..customer.clone()
    };
    let locks = keyspace.reader_locks(&subject);
    let locks: Vec<String> = locks.write.into_iter().chain([locks.refetch]).collect();
    let tombstones = keyspace.tombstones(&subject);
    let key = keyspace.customer_key(&subject);
    let of_customer = subject
        .resource
        .is_some()
        .then(|| keyspace.customer_key(&customer));

    let values = [Some(key.clone()), Some(metadata_key(&key)), of_customer.clone()];
    let mut keys = with_timestamps(values.into_iter().flatten());
    keys.extend(locks.iter().chain(&tombstones).cloned());
    let mut found: Snapshots = keys.iter().cloned().zip(session.store.snapshot(&keys)?).collect();
    let list = found.get(&key).and_then(|snapshot| snapshot.text());
    let usages = entries(list)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.usage_key(&key));
    let keys = with_timestamps(usages);
    let snapshots = session.store.snapshot(&keys)?;
    found.extend(keys.into_iter().zip(snapshots));

    let report = Report {
        customer: args.customer.clone(),
        resource: args.resource.clone(),
        ..Report::new(
            key,
            of_customer.as_deref(),
            &locks,
            &tombstones,
            &found,
            clock::now(),
        )
    };
    if args.json {
        print_json(&report)?;
    } else {
        print(table::table(&report)?)?;
    }
    Ok(if report.cached { DONE } else { NOT_CACHED })
}

fn with_timestamps(keys: impl Iterator<Item = String>) -> Vec<String> {
    keys.flat_map(|key| [timestamp_key(&key), key]).collect()
}
