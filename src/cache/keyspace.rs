//! Every Redis key is spelled here, and nowhere else.
//!
//! Ids are used raw, unescaped, as the SDKs use them. Source: `cacheKeysHelpers.js` of the published packages;
//! the purge marks are ours, kept below the prefix (so that an ACL that allows `<prefix>:*` allows them) and
//! outside of `<prefix>:c_*` (so that they are no customer's key).

use crate::entitlement::{CurrencyId, FeatureId, Subject};
use crate::message::UsageOf;

/// What SDK 3.x and 4.x call the refetch after a cache miss, in the key of its lock.
const REFETCH_OPERATION: &str = "refetchEntityEntitlementsAfterCacheMiss";

/// Spells the keys of one environment.
#[derive(Debug, Clone)]
pub struct Keyspace {
    prefix: String,
}

impl Keyspace {
    /// The keys below this ENVIRONMENT_PREFIX.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
        }
    }

    /// `P:c_C` or `P:c_C:r_R`: holds the entitlements.
    pub fn customer_key(&self, subject: &Subject) -> String {
        let customer = subject.customer.as_str();
        match &subject.resource {
            None => [&self.prefix, ":c_", customer].concat(),
            Some(resource) => [&self.prefix, ":c_", customer, ":r_", resource.as_str()].concat(),
        }
    }

    /// The redlocks of the SDKs' writes: `P-C`, or `P-C:R`, held while what was refetched is written, and
    /// `P:refetchEntityEntitlementsAfterCacheMiss-C[:R]`, held from before Stigg is asked until it is written. What
    /// comes meanwhile has to wait for both: the answer under way may be older, and the SDK writes it where nothing
    /// is stored. SDK 2.x takes `P-C` for a resource too, so a resource minds that one as well.
    pub fn lock_keys(&self, subject: &Subject) -> Vec<String> {
        let prefix = self.prefix.as_str();
        let customer = subject.customer.as_str();
        let of_customer = [prefix, "-", customer].concat();
        match &subject.resource {
            None => vec![of_customer, self.refetch_lock(subject)],
            Some(resource) => vec![
                [prefix, "-", customer, ":", resource.as_str()].concat(),
                self.refetch_lock(subject),
                of_customer,
            ],
        }
    }

    /// `P:refetchEntityEntitlementsAfterCacheMiss-C[:R]`: the one of these that is held from before Stigg is asked.
    pub fn refetch_lock(&self, subject: &Subject) -> String {
        let prefix = self.prefix.as_str();
        let customer = subject.customer.as_str();
        match &subject.resource {
            None => [prefix, ":", REFETCH_OPERATION, "-", customer].concat(),
            Some(resource) => [
                prefix,
                ":",
                REFETCH_OPERATION,
                "-",
                customer,
                ":",
                resource.as_str(),
            ]
            .concat(),
        }
    }

    /// `P:refetchEntityEntitlementsAfterCacheMiss:C[:R]`: the channel on which SDKs that wait for that lock are told
    /// that there is something to read.
    pub fn refetch_channel(&self, subject: &Subject) -> String {
        let channel = format!(
            "{}:{REFETCH_OPERATION}:{}",
            self.prefix,
            subject.customer.as_str()
        );
        match &subject.resource {
            None => channel,
            Some(resource) => format!("{channel}:{}", resource.as_str()),
        }
    }

    /// `P:check:<token>`: written and deleted again to see whether it can be. No customer's key.
    pub fn probe_key(&self, token: &str) -> String {
        format!("{}:check:{token}", self.prefix)
    }

    /// `P:purged:c_C` or `P:purged:c_C:r_R`: when the last purge of the customer was sent.
    pub fn purge_mark(&self, subject: &Subject) -> String {
        let customer = subject.customer.as_str();
        match &subject.resource {
            None => [&self.prefix, ":purged:c_", customer].concat(),
            Some(resource) => [&self.prefix, ":purged:c_", customer, ":r_", resource.as_str()].concat(),
        }
    }

    /// `P:purged`: when the last invalidation of the environment was sent.
    pub fn environment_purge_mark(&self) -> String {
        [&self.prefix, ":purged"].concat()
    }

    /// Every mark that a write for this subject minds: the environment's, its own, and third, for a resource, its
    /// customer's.
    pub fn purge_marks(&self, subject: &Subject) -> Vec<String> {
        let mut marks = vec![self.environment_purge_mark(), self.purge_mark(subject)];
        if subject.resource.is_some() {
            marks.push(self.purge_mark(&Subject {
                customer: subject.customer.clone(),
                resource: None,
            }));
        }
        marks
    }

    /// True for a key of a customer of this environment.
    pub fn is_customers(&self, key: &[u8]) -> bool {
        key.strip_prefix(self.prefix.as_bytes())
            .is_some_and(|rest| rest.starts_with(CUSTOMER_MARK))
    }

    /// The SCAN pattern of every customer's keys in the environment, glob characters of the prefix escaped.
    pub fn customer_keys_pattern(&self) -> String {
        let mut pattern = String::with_capacity(self.prefix.len() + 4);
        for character in self.prefix.chars() {
            if matches!(character, '*' | '?' | '[' | ']' | '\\') {
                pattern.push('\\');
            }
            pattern.push(character);
        }
        pattern.push_str(":c_*");
        pattern
    }
}

/// What stands between a prefix and a customer's id.
const CUSTOMER_MARK: &[u8] = b":c_";

/// What a prefix of purge marks ends with: they look like keys of customers, and are ours.
const PURGE_MARKS_END: &[u8] = b":purged";

/// The SCAN pattern of the customers' keys of every environment.
pub const ANY_CUSTOMER_KEYS: &str = "*:c_*";

/// The prefix of a customer's key, whichever environment it is of. None if it is no such key. A prefix may hold
/// anything, also what stands behind it: then the first part of it is given.
pub fn prefix_of(key: &[u8]) -> Option<String> {
    let end = key
        .windows(CUSTOMER_MARK.len())
        .position(|window| window == CUSTOMER_MARK)?;
    let prefix = key.get(..end)?;
    (!prefix.ends_with(PURGE_MARKS_END)).then(|| String::from_utf8_lossy(prefix).into_owned())
}

/// `K:metadata`: why a customer has no access.
pub fn metadata_key(customer_key: &str) -> String {
    [customer_key, ":metadata"].concat()
}

/// `K:f_<featureId>` or `K:credit_<currencyId>`: a usage.
pub fn usage_key(customer_key: &str, of: &UsageOf) -> String {
    match of {
        UsageOf::Feature(feature) => feature_usage_key(customer_key, feature),
        UsageOf::Credit(currency) => credit_usage_key(customer_key, currency),
    }
}

/// `K:f_<featureId>`.
pub fn feature_usage_key(customer_key: &str, feature: &FeatureId) -> String {
    [customer_key, ":f_", feature.as_str()].concat()
}

/// `K:credit_<currencyId>`.
pub fn credit_usage_key(customer_key: &str, currency: &CurrencyId) -> String {
    [customer_key, ":credit_", currency.as_str()].concat()
}

/// `<key>#timestamp`: when the state in the key was true at the origin.
pub fn timestamp_key(key: &str) -> String {
    [key, "#timestamp"].concat()
}

/// What [`timestamp_key`] puts behind a key, as bytes: scanned keys may be anything, and others are written as bytes.
pub const TIMESTAMP_SUFFIX: &[u8] = b"#timestamp";

/// A scanned key's value key: the key itself, or the one that it is the timestamp of.
pub fn value_key(scanned: &[u8]) -> &[u8] {
    scanned.strip_suffix(TIMESTAMP_SUFFIX).unwrap_or(scanned)
}

/// The purge mark of the customer (or resource) whose customer key this is, given the mark of the environment.
/// `None` for another key. Ids may look like the parts of other keys: then there is no mark, which costs nothing
/// but the memory that it would have been.
pub fn purge_mark_of(customer_key: &[u8], environment_mark: &str) -> Option<Vec<u8>> {
    let prefix = environment_mark.strip_suffix("purged")?;
    let customer = customer_key.strip_prefix(prefix.as_bytes())?;
    let has = |part: &[u8]| customer.windows(part.len()).any(|window| window == part);
    let is_other = has(b":f_") || has(b":credit_") || customer.ends_with(b":metadata");
    (!is_other).then(|| [environment_mark.as_bytes(), b":", customer].concat())
}

/// The timestamp key of a value key, as bytes.
pub fn timestamp_key_of(value_key: &[u8]) -> Vec<u8> {
    [value_key, TIMESTAMP_SUFFIX].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entitlement::{CurrencyId, CustomerId, FeatureId, ResourceId};

    fn subject(customer: &str, resource: Option<&str>) -> Subject {
        Subject {
            customer: CustomerId(customer.to_owned()),
            resource: resource.map(|resource| ResourceId(resource.to_owned())),
        }
    }

    #[test]
    fn keys_are_those_of_the_sdks() {
        let keys = Keyspace::new("production");
        let customer = keys.customer_key(&subject("cus:1", None));
        assert_eq!(customer, "production:c_cus:1");
        assert_eq!(
            keys.customer_key(&subject("cus", Some("site"))),
            "production:c_cus:r_site"
        );
        assert_eq!(metadata_key(&customer), "production:c_cus:1:metadata");
        assert_eq!(
            usage_key(&customer, &UsageOf::Feature(FeatureId("api".to_owned()))),
            "production:c_cus:1:f_api"
        );
        assert_eq!(
            usage_key(&customer, &UsageOf::Credit(CurrencyId("ai".to_owned()))),
            "production:c_cus:1:credit_ai"
        );
        assert_eq!(timestamp_key(&customer), "production:c_cus:1#timestamp");
    }

    #[test]
    fn a_resource_minds_its_own_locks_and_the_one_that_sdk_2_takes() {
        let keys = Keyspace::new("p");
        assert_eq!(
            keys.lock_keys(&subject("c", None)),
            ["p-c", "p:refetchEntityEntitlementsAfterCacheMiss-c"]
        );
        assert_eq!(
            keys.lock_keys(&subject("c", Some("r"))),
            ["p-c:r", "p:refetchEntityEntitlementsAfterCacheMiss-c:r", "p-c"]
        );
    }

    #[test]
    fn the_lock_of_a_refetch_is_one_of_those_that_a_write_minds() {
        let keys = Keyspace::new("p");
        for subject in [subject("c", None), subject("c", Some("r"))] {
            assert!(keys.lock_keys(&subject).contains(&keys.refetch_lock(&subject)));
        }
        assert_eq!(
            keys.refetch_channel(&subject("c", Some("r"))),
            "p:refetchEntityEntitlementsAfterCacheMiss:c:r"
        );
    }

    #[test]
    fn glob_characters_of_a_prefix_match_only_themselves() {
        assert_eq!(
            Keyspace::new(r"a*b?c[d]e\f").customer_keys_pattern(),
            r"a\*b\?c\[d\]e\\f:c_*"
        );
    }

    #[test]
    fn a_key_tells_whose_it_is_whatever_its_prefix_holds() {
        let keys = Keyspace::new("eu:prod*");
        let own = keys.customer_key(&subject("cus:c_1", Some("r")));
        assert!(keys.is_customers(own.as_bytes()));
        assert!(!keys.is_customers(b"eu:prod2:c_1") && !keys.is_customers(b"eu:prod*"));
        assert_eq!(prefix_of(own.as_bytes()).as_deref(), Some("eu:prod*"));
        assert_eq!(prefix_of(b"staging:c_1#timestamp").as_deref(), Some("staging"));
        assert_eq!(prefix_of(b"\xff:c_1").as_deref(), Some("\u{fffd}"));
        assert_eq!(prefix_of(b"sessions:1"), None);
        let mark = keys.purge_mark(&subject("c", None));
        assert!(!keys.is_customers(mark.as_bytes()));
        assert_eq!(prefix_of(mark.as_bytes()), None);
    }

    #[test]
    fn a_purge_mark_is_no_customers_key() {
        let keys = Keyspace::new("p");
        assert_eq!(
            keys.purge_marks(&subject("c", Some("r"))),
            ["p:purged", "p:purged:c_c:r_r", "p:purged:c_c"]
        );
    }

    #[test]
    fn the_mark_of_a_scanned_customer_key_is_the_one_that_its_messages_mind() {
        let keys = Keyspace::new("p");
        let environment = keys.environment_purge_mark();
        for subject in [subject("c:1", None), subject("c", Some("r"))] {
            let key = keys.customer_key(&subject);
            assert_eq!(
                purge_mark_of(key.as_bytes(), &environment),
                Some(keys.purge_mark(&subject).into_bytes())
            );
        }
        for other in ["p:c_c:metadata", "p:c_c:f_api", "p:c_c:r_r:credit_ai", "q:c_c"] {
            assert_eq!(purge_mark_of(other.as_bytes(), &environment), None, "{other}");
        }
    }
}
