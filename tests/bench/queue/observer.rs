//! Observes in Redis itself when the state of a probe was written: Redis publishes each write, and this reads what it
//! publishes of probes. It runs in the process of the queue, so that both times are of one clock.

use crate::mix::PREFIX;
use crate::resp::Connection;

use super::supply::BenchSupply;

/// A subscription.
pub struct Observer(Connection);

impl Observer {
    pub fn of(port: u16) -> anyhow::Result<Self> {
        let mut redis = Connection::open(port)?;
        redis.call(&["CONFIG", "SET", "notify-keyspace-events", "K$"])?;
        redis.call(&["PSUBSCRIBE", &pattern()])?;
        Ok(Self(redis))
    }

    /// For as long as Redis lives.
    pub fn watch(mut self, supply: &BenchSupply) {
        let mut line = String::new();
        let (before, after) = parts();
        while self.0.read_line(&mut line).is_ok_and(|read| read > 0) {
            // The channel is the only line of what is published that looks like this: the pattern has an asterisk.
            let probe = line.strip_prefix(&before).and_then(|rest| rest.strip_suffix(&after));
            if let Some(probe) = probe.and_then(|number| number.parse().ok()) {
                supply.seen_written(probe);
            }
        }
    }
}

/// The channel of a probe's first feature, up to its number and behind it.
fn parts() -> (String, String) {
    (format!("__keyspace@0__:{PREFIX}:c_probe-"), ":f_feature-0#timestamp".to_owned())
}

fn pattern() -> String {
    let (before, after) = parts();
    format!("{before}*{after}")
}
