//! Spells every Redis key. Ids are used raw, unescaped, as the SDKs use them.
//!
//! Source: `cacheKeysHelpers.js` of the published packages. Our own keys stay below the prefix, so that an ACL that
//! allows `<prefix>:*` allows them; tombstones stay outside `<prefix>:c_*`, so that no scan takes them for a customer.

use crate::entitlement::{CurrencyId, CustomerId, FeatureId, ResourceId, Subject};

/// Names the refetch after a cache miss in the keys of SDK 3.x and 4.x.
const REFETCH: &str = "refetchEntityEntitlementsAfterCacheMiss";
/// Stands between a prefix and a customer's id.
const CUSTOMER: &[u8] = b":c_";
/// Suffix of the key that holds a value's timestamp.
pub const TIMESTAMP: &str = "#timestamp";
/// The SCAN pattern of the customers' keys of every environment.
pub const ANY_CUSTOMER_KEYS: &str = "*:c_*";

/// Spells the keys of one environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyspace {
    prefix: String,
}

/// The locks of the SDKs that concern one customer or resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderLocks {
    /// `P-C`; for a resource `P-C:R` and `P-C`, since SDK 2.x takes the customer's for a resource too. Held for up to
    /// 5 s, while what was refetched is written.
    pub write: Vec<String>,
    /// `P:refetchEntityEntitlementsAfterCacheMiss-C[:R]`. Held from before Stigg is asked until the answer is written.
    pub refetch: String,
}

impl Keyspace {
    /// The keys below this ENVIRONMENT_PREFIX.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into() }
    }

    /// `P:c_C` or `P:c_C:r_R`: holds the entitlements.
    pub fn customer_key(&self, subject: &Subject) -> String {
        self.spell(":c_", subject, ":r_")
    }

    /// The SDKs' locks that a change of this subject respects.
    pub fn reader_locks(&self, subject: &Subject) -> ReaderLocks {
        ReaderLocks { write: self.with_customers("-", subject, ":"), refetch: self.refetch_lock(subject) }
    }

    /// See [`ReaderLocks::refetch`].
    pub fn refetch_lock(&self, subject: &Subject) -> String {
        self.spell(&[":", REFETCH, "-"].concat(), subject, ":")
    }

    /// The channel on which SDKs that wait for a refetch learn that it is done.
    pub fn refetch_channel(&self, subject: &Subject) -> String {
        self.spell(&[":", REFETCH, ":"].concat(), subject, ":")
    }

    /// `P:check:<token>`: written to test whether writes work. Not a customer's key.
    pub fn probe_key(&self, token: &str) -> String {
        [&self.prefix, ":check:", token].concat()
    }

    /// `P:purged:c_C[:r_R]`: the last purge of this customer or resource.
    pub fn tombstone(&self, subject: &Subject) -> String {
        self.spell(":purged:c_", subject, ":r_")
    }

    /// `P:purged`: the last invalidation of the environment.
    pub fn environment_tombstone(&self) -> String {
        [&self.prefix, ":purged"].concat()
    }

    /// The tombstones that can make a list of this subject out of date: the environment's, its own, and for a resource
    /// its customer's.
    pub fn tombstones(&self, subject: &Subject) -> Vec<String> {
        let mut tombstones = vec![self.environment_tombstone()];
        tombstones.extend(self.with_customers(":purged:c_", subject, ":r_"));
        tombstones
    }

    /// True for a key of a customer of this environment.
    pub fn is_customer_key(&self, key: &[u8]) -> bool {
        key.strip_prefix(self.prefix.as_bytes()).is_some_and(|rest| rest.starts_with(CUSTOMER))
    }

    /// The SCAN pattern of every customer's keys in the environment, glob characters of the prefix escaped.
    pub fn customer_keys_pattern(&self) -> String {
        let mut pattern = String::new();
        for character in self.prefix.chars() {
            pattern.extend(matches!(character, '*' | '?' | '[' | ']' | '\\').then_some('\\'));
            pattern.push(character);
        }
        pattern + ":c_*"
    }

    /// The tombstone of the subject whose customer key this is; `None` for any other key. If an id contains a separator
    /// of other keys (`:f_`), there is no tombstone either, and an out-of-order list may be written again.
    pub fn tombstone_of(&self, key: &[u8]) -> Option<Vec<u8>> {
        let customer = key.strip_prefix(self.prefix.as_bytes())?.strip_prefix(b":")?;
        let has = |part: &[u8]| customer.windows(part.len()).any(|window| window == part);
        let is_other = has(b":f_") || has(b":credit_") || customer.ends_with(b":metadata");
        (!is_other).then(|| [self.prefix.as_bytes(), b":purged:", customer].concat())
    }

    /// The subject whose customer key this is. `None` for any other key, and for one that does not tell: ids are not escaped,
    /// so an id may contain a separator of other keys, or `:r_` more than once. A single `:r_` begins a resource.
    pub fn subject_of(&self, key: &[u8]) -> Option<Subject> {
        self.tombstone_of(key)?;
        let rest = str::from_utf8(key.strip_prefix(self.prefix.as_bytes())?).ok()?.strip_prefix(":c_")?;
        let (customer, resource) = rest.split_once(":r_").map_or((rest, None), |(c, r)| (c, Some(r)));
        let is_clear =
            !customer.is_empty() && resource.is_none_or(|id| !id.is_empty() && !id.contains(":r_"));
        is_clear.then(|| Subject {
            customer: CustomerId(customer.to_owned()),
            resource: resource.map(|id| ResourceId(id.to_owned())),
        })
    }

    fn spell(&self, before: &str, subject: &Subject, before_resource: &str) -> String {
        let customer = subject.customer.as_str();
        match &subject.resource {
            None => [&self.prefix, before, customer].concat(),
            Some(resource) => [&self.prefix, before, customer, before_resource, resource.as_str()].concat(),
        }
    }

    /// The subject's, and for a resource its customer's as well.
    fn with_customers(&self, before: &str, subject: &Subject, before_resource: &str) -> Vec<String> {
        let mut keys = vec![self.spell(before, subject, before_resource)];
        if subject.resource.is_some() {
            keys.push([&self.prefix, before, subject.customer.as_str()].concat());
        }
        keys
    }
}

/// The environment's prefix in a customer's key; `None` for any other key. If the prefix itself contains `:c_`, only its
/// first part is returned.
pub fn prefix_of(key: &[u8]) -> Option<String> {
    let end = key.windows(CUSTOMER.len()).position(|window| window == CUSTOMER)?;
    let prefix = key.get(..end)?;
    (!prefix.ends_with(b":purged")).then(|| String::from_utf8_lossy(prefix).into_owned())
}

/// `K:metadata`: why a customer has no access.
pub fn metadata_key(customer_key: &str) -> String {
    [customer_key, ":metadata"].concat()
}

/// `K:f_<featureId>`: the usage of a feature.
pub fn feature_usage_key(customer_key: &str, feature: &FeatureId) -> String {
    [customer_key, ":f_", feature.as_str()].concat()
}

/// `K:credit_<currencyId>`: the usage of a credit currency.
pub fn credit_usage_key(customer_key: &str, currency: &CurrencyId) -> String {
    [customer_key, ":credit_", currency.as_str()].concat()
}

/// `K:credit_<currencyId>#balance`: the last known balance, see `credit`. Our own key; SDKs do not read it.
pub fn balance_key(customer_key: &str, currency: &CurrencyId) -> String {
    [customer_key, ":credit_", currency.as_str(), "#balance"].concat()
}

/// `<key>#timestamp`: when the state in the key was true at the origin.
pub fn timestamp_key(key: &str) -> String {
    [key, TIMESTAMP].concat()
}

/// The value key of a scanned key: the key itself, or the one that it is the timestamp of.
pub fn value_key(scanned: &[u8]) -> &[u8] {
    scanned.strip_suffix(TIMESTAMP.as_bytes()).unwrap_or(scanned)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(keys.customer_key(&subject("cus", Some("site"))), "production:c_cus:r_site");
        assert_eq!(metadata_key(&customer), "production:c_cus:1:metadata");
        assert_eq!(feature_usage_key(&customer, &FeatureId("api".to_owned())), "production:c_cus:1:f_api");
        assert_eq!(credit_usage_key(&customer, &CurrencyId("ai".to_owned())), "production:c_cus:1:credit_ai");
        assert_eq!(timestamp_key(&customer), "production:c_cus:1#timestamp");
    }

    #[test]
    fn a_resource_respects_its_own_locks_and_the_one_that_sdk_2_takes() {
        let keys = Keyspace::new("p");
        let of_customer = keys.reader_locks(&subject("c", None));
        assert_eq!(of_customer.write, ["p-c"]);
        assert_eq!(of_customer.refetch, "p:refetchEntityEntitlementsAfterCacheMiss-c");
        let of_resource = keys.reader_locks(&subject("c", Some("r")));
        assert_eq!(of_resource.write, ["p-c:r", "p-c"]);
        assert_eq!(of_resource.refetch, "p:refetchEntityEntitlementsAfterCacheMiss-c:r");
        assert_eq!(
            keys.refetch_channel(&subject("c", Some("r"))),
            "p:refetchEntityEntitlementsAfterCacheMiss:c:r"
        );
    }

    #[test]
    fn glob_characters_of_a_prefix_match_only_themselves() {
        assert_eq!(Keyspace::new(r"a*b?c[d]e\f").customer_keys_pattern(), r"a\*b\?c\[d\]e\\f:c_*");
    }

    #[test]
    fn a_key_shows_its_environment_whatever_the_prefix_holds() {
        let keys = Keyspace::new("eu:prod*");
        let own = keys.customer_key(&subject("cus:c_1", Some("r")));
        assert!(keys.is_customer_key(own.as_bytes()));
        assert!(!keys.is_customer_key(b"eu:prod2:c_1") && !keys.is_customer_key(b"eu:prod*"));
        assert_eq!(prefix_of(own.as_bytes()).as_deref(), Some("eu:prod*"));
        assert_eq!(prefix_of(b"staging:c_1#timestamp").as_deref(), Some("staging"));
        assert_eq!(prefix_of(b"\xff:c_1").as_deref(), Some("\u{fffd}"));
        assert_eq!(prefix_of(b"sessions:1"), None);
        let tombstone = keys.tombstone(&subject("c", None));
        assert!(!keys.is_customer_key(tombstone.as_bytes()));
        assert_eq!(prefix_of(tombstone.as_bytes()), None);
    }

    #[test]
    fn a_resource_has_its_own_tombstone_and_those_of_customer_and_environment() {
        let tombstones = Keyspace::new("p").tombstones(&subject("c", Some("r")));
        assert_eq!(tombstones, ["p:purged", "p:purged:c_c:r_r", "p:purged:c_c"]);
    }

    #[test]
    fn a_scanned_customer_key_leads_to_the_tombstone_that_messages_look_at() {
        let keys = Keyspace::new("p");
        for subject in [subject("c:1", None), subject("c", Some("r"))] {
            let key = keys.customer_key(&subject);
            assert_eq!(keys.tombstone_of(key.as_bytes()), Some(keys.tombstone(&subject).into_bytes()));
        }
        for other in ["p:c_c:metadata", "p:c_c:f_api", "p:c_c:r_r:credit_ai", "q:c_c"] {
            assert_eq!(keys.tombstone_of(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn a_scanned_customer_key_leads_to_its_subject_unless_it_could_be_that_of_several() {
        let keys = Keyspace::new("p:c_x");
        for subject in [subject("c:1", None), subject("c", Some("r")), subject("a:b", Some("c:d"))] {
            let key = keys.customer_key(&subject);
            assert_eq!(keys.subject_of(key.as_bytes()), Some(subject));
        }
        for unclear in ["c_a:r_b:r_c", "c_a:r_:r_b", "c_:r_b", "c_a:r_", "c_", "c_a:f_b", "c_a:metadata"] {
            assert_eq!(keys.subject_of(format!("p:c_x:{unclear}").as_bytes()), None, "{unclear}");
        }
        assert_eq!(keys.subject_of(b"p:c_x:c_\xff"), None);
        assert_eq!(keys.subject_of(b"q:c_a"), None);
    }
}
