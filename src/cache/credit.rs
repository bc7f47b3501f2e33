//! Adjusts a stored entitlement list to a credit balance: the entries whose credit rate is in its currency.
//!
//! Source: `updateEntitlementsBasedOnCreditBalanceUpdate` of `@stigg/node-server-sdk` 3.95.0, which does this to its
//! cache in memory. SDK 4.x derives this from the credit usage, so format v4 does not need it.

use serde_json::{Map, Value};

use crate::clock::EpochMs;
use crate::entitlement::CurrencyId;
use crate::json::replace_lone_surrogates;
use crate::message::CreditBalance;

/// What the SDKs answer for a feature whose credits are used up.
const INSUFFICIENT_CREDITS: &str = "InsufficientCredits";
const REASON: &str = "accessDeniedReason";
const VALID_UNTIL: &str = "validUntil";

/// The balance in the record that `apply.lua` keeps at a balance key: `value_at,period_at,balance_at,exhausted,valid_until`.
/// `None` if it has none, or one from before the list.
pub fn known_balance(record: &str, listed_at: EpochMs) -> Option<CreditBalance> {
    let mut fields = record.split(',').skip(2);
    let balance_at: i64 = fields.next()?.parse().ok()?;
    let is_exhausted = fields.next()? == "1";
    let valid_until = fields.next()?.parse().ok().map(EpochMs);
    (balance_at >= listed_at.0).then_some(CreditBalance { is_exhausted, valid_until })
}

/// The list adjusted to these balances. `None` if nothing changes, or if the list cannot be read.
pub fn adjusted(list: &str, balances: &[(&CurrencyId, CreditBalance)]) -> Option<String> {
    let entries = serde_json::from_str(list).ok();
    // An SDK may have written half an emoji.
    let mut entries: Map<String, Value> =
        entries.or_else(|| serde_json::from_str(&replace_lone_surrogates(list)?).ok())?;
    let mut is_changed = false;
    for entry in entries.values_mut() {
        is_changed |= adjust_entry(entry, balances).unwrap_or(false);
    }
    is_changed.then(|| serde_json::to_string(&entries).ok())?
}

/// True if that changed it; `None` if none of the balances concerns it.
fn adjust_entry(entry: &mut Value, balances: &[(&CurrencyId, CreditBalance)]) -> Option<bool> {
    let entitlement = entry.get_mut("calculatedEntitlement")?.as_object_mut()?;
    let currency = entitlement.get("creditRate")?.get("currencyId")?.as_str()?;
    let (_, balance) = balances.iter().find(|(of, _)| of.as_str() == currency)?;
    let before = entitlement.clone();
    let has_soft_limit = before.get("hasSoftLimit") == Some(&Value::Bool(true));
    let reason = before.get(REASON).filter(|reason| !reason.is_null()).cloned();
    let reason = match (balance.is_exhausted, has_soft_limit) {
        (true, false) => reason.or_else(|| Some(INSUFFICIENT_CREDITS.into())),
        (true, true) => reason,
        (false, _) => reason.filter(|reason| *reason != INSUFFICIENT_CREDITS),
    };
    put(entitlement, "hasSoftLimit", REASON, reason);
    let valid_until = balance.valid_until.map(|at| at.0.into());
    put(entitlement, "enumValues", VALID_UNTIL, valid_until);
    Some(*entitlement != before)
}

/// Sets or removes a field. It goes where newly written lists have it, so that equal states are equal texts.
fn put(fields: &mut Map<String, Value>, behind: &str, name: &str, value: Option<Value>) {
    fields.shift_remove(name);
    if let Some(value) = value {
        let index = fields.keys().position(|key| key == behind);
        let index = index.map_or(fields.len(), |index| index + 1);
        fields.shift_insert(index, name.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn balance(is_exhausted: bool, valid_until: Option<i64>) -> CreditBalance {
        CreditBalance { is_exhausted, valid_until: valid_until.map(EpochMs) }
    }

    fn adjusted_to(
        list: &str,
        currency: &str,
        is_exhausted: bool,
        valid_until: Option<i64>,
    ) -> Option<String> {
        adjusted(list, &[(&CurrencyId(currency.to_owned()), balance(is_exhausted, valid_until))])
    }

    /// A list of one entry that is paid in `ai`, with these fields besides.
    fn list(fields: &Value) -> String {
        let mut entitlement = json!({"usageLimit": 10, "hasSoftLimit": false, "enumValues": []});
        for (name, value) in fields.as_object().expect("an object") {
            entitlement[name] = value.clone();
        }
        entitlement["creditRate"] = json!({"amount": 2, "currencyId": "ai"});
        json!({"f": {"calculatedEntitlement": entitlement, "featureUsage": {"currentUsage": 1.5}}})
            .to_string()
    }

    fn reason(list: &str) -> Value {
        let list: Value = serde_json::from_str(list).expect("a list");
        list["f"]["calculatedEntitlement"][REASON].clone()
    }

    #[test]
    fn an_exhausted_balance_denies_and_a_new_one_grants() {
        let before = list(&json!({}));
        let denied = adjusted_to(&before, "ai", true, None).expect("a change");
        assert_eq!(reason(&denied), "InsufficientCredits");
        assert_eq!(adjusted_to(&denied, "ai", true, None), None);
        assert_eq!(adjusted_to(&denied, "ai", false, None), Some(before));
    }

    #[test]
    fn another_reason_stays_a_soft_limit_grants_and_another_currency_changes_nothing() {
        let denied = list(&json!({"accessDeniedReason": "CustomerIsArchived"}));
        for is_exhausted in [true, false] {
            assert_eq!(adjusted_to(&denied, "ai", is_exhausted, None), None);
        }
        let soft = list(&json!({"hasSoftLimit": true}));
        assert_eq!(adjusted_to(&soft, "ai", true, None), None);
        assert_eq!(adjusted_to(&list(&json!({})), "other", true, None), None);
        assert_eq!(adjusted_to("not a list", "ai", true, None), None);
    }

    #[test]
    fn a_list_in_which_an_sdk_wrote_half_an_emoji_is_adjusted_as_well() {
        let before = list(&json!({"name": "half"})).replace("half", r"\ud83d");
        let denied = adjusted_to(&before, "ai", true, None).expect("a change");
        assert_eq!(reason(&denied), "InsufficientCredits");
    }

    #[test]
    fn valid_until_is_that_of_the_balance_and_the_order_of_fields_is_always_the_same() {
        let with = adjusted_to(&list(&json!({})), "ai", true, Some(7)).expect("a change");
        assert!(
            with.contains(
                r#""hasSoftLimit":false,"accessDeniedReason":"InsufficientCredits","enumValues":[],"validUntil":7,"creditRate""#
            ),
            "{with}"
        );
        let without = adjusted_to(&with, "ai", false, None).expect("a change");
        assert_eq!(without, list(&json!({})));
    }

    #[test]
    fn a_record_without_a_balance_is_none() {
        assert_eq!(known_balance("5,5,,,", EpochMs(0)), None);
        assert_eq!(known_balance("", EpochMs(0)), None);
        assert_eq!(known_balance("5,,1,0,7", EpochMs(1)), Some(balance(false, Some(7))));
        assert_eq!(known_balance("5,,1,0,7", EpochMs(2)), None, "the list is newer");
    }
}
