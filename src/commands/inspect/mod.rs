//! `inspect`: what is cached for a customer, and what each generation of readers makes of it. It only reads.

mod report;
mod table;

use std::io::IsTerminal;

use clap::Args;

use self::report::{Looks, Report};
use super::{DONE, FAILED, Opened, complain, print};
use crate::cache::keyspace::{Keyspace, metadata_key, timestamp_key};
use crate::cache::readers::entries;
use crate::clock;
use crate::config::Settings;
use crate::entitlement::{CustomerId, ResourceId, Subject};
use crate::store::admin::KeySnapshot;
use crate::store::{RedisStore, StoreError};

/// Nothing is cached of whom was asked for.
const NOT_CACHED: u8 = 3;

/// What `inspect` is asked.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The customer's id, as it was given to Stigg.
    pub customer: String,
    /// The id of one of the customer's resources: then it is that one's cache that is shown.
    #[arg(long, value_name = "ID")]
    pub resource: Option<String>,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
}

pub(super) fn run(settings: &Settings, args: &InspectArgs) -> u8 {
    // One connection: what is looked at is looked at in a row.
    let opened = match Opened::new(settings, 1) {
        Ok(opened) => opened,
        Err(status) => return status,
    };
    let subject = Subject {
        customer: CustomerId(args.customer.clone()),
        resource: args.resource.clone().map(ResourceId),
    };
    let keyspace = Keyspace::new(opened.access.environment_prefix.clone());
    let looks = match look(&opened.store, &keyspace, &subject) {
        Ok(looks) => looks,
        Err(error) => {
            complain(error);
            return FAILED;
        }
    };
    let report = Report::new(
        args.customer.clone(),
        args.resource.clone(),
        keyspace.customer_key(&subject),
        &looks,
        clock::now(),
    );
    if args.json {
        match serde_json::to_string_pretty(&report) {
            Ok(json) => print(&format!("{json}\n")),
            Err(error) => {
                complain(format!("cannot print what was found as JSON: {error}"));
                return FAILED;
            }
        };
    } else {
        let is_coloured = settings.may_colour() && std::io::stdout().is_terminal();
        print(&table::table(&report, clock::now(), is_coloured));
    }
    if report.cached { DONE } else { NOT_CACHED }
}

/// Two round trips: the list, and then the usages of its entries.
fn look(store: &RedisStore, keyspace: &Keyspace, subject: &Subject) -> Result<Looks, StoreError> {
    let key = keyspace.customer_key(subject);
    let metadata = metadata_key(&key);
    let locks = keyspace.reader_locks(subject);
    let locks: Vec<String> = locks.write.into_iter().chain([locks.refetch]).collect();
    let tombstones = keyspace.tombstones(subject);
    let customers = subject.resource.is_some().then(|| {
        let customer = Subject {
            customer: subject.customer.clone(),
            resource: None,
        };
        timestamp_key(&keyspace.customer_key(&customer))
    });

    let mut keys = vec![
        key.clone(),
        timestamp_key(&key),
        metadata.clone(),
        timestamp_key(&metadata),
    ];
    keys.extend(customers.clone());
    keys.extend(locks.clone());
    keys.extend(tombstones.clone());
    let mut found = store.snapshot(&keys)?.into_iter();
    let list = pair(&mut found);
    let metadata = pair(&mut found);
    let customer_list = customers.and_then(|_| found.next());
    let locks = locks.into_iter().zip(found.by_ref()).collect();
    let tombstones = tombstones.into_iter().zip(found).collect();

    let usage_keys: Vec<String> = entries(list[0].text())
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.usage_key(&key))
        .collect();
    let both: Vec<String> = usage_keys
        .iter()
        .flat_map(|key| [key.clone(), timestamp_key(key)])
        .collect();
    let mut found = store.snapshot(&both)?.into_iter();
    let usages = usage_keys
        .into_iter()
        .map(|key| (key, pair(&mut found)))
        .collect();
    Ok(Looks {
        list,
        customer_list,
        metadata,
        usages,
        locks,
        tombstones,
    })
}

/// A value and its timestamp. There is a snapshot of each key that was asked for.
fn pair(snapshots: &mut impl Iterator<Item = KeySnapshot>) -> [KeySnapshot; 2] {
    [(); 2].map(|()| snapshots.next().unwrap_or(KeySnapshot::ABSENT))
}
