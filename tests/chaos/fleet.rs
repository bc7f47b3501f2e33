//! The instances of the service, each behind a fault proxy of its own before Redis.

use std::sync::{Mutex, MutexGuard};

use crate::fakes::proxy::FaultProxy;
use crate::support::child::Signal;
use crate::support::service::{SERVER_API_KEY, Service, Settings};
use crate::support::tools::free_port;
use crate::support::wait::PATIENCE;

/// Where the queue is and who may read it.
pub struct QueueAccess {
    pub url: String,
    pub region: String,
    pub access_key_id: String,
    pub secret_access_key: String,
}

/// All instances.
pub struct Fleet {
    instances: Vec<Instance>,
}

struct Instance {
    settings: Settings,
    /// `None` for the moment between a kill and the next start.
    service: Mutex<Option<Service>>,
}

impl Instance {
    fn service(&self) -> MutexGuard<'_, Option<Service>> {
        self.service.lock().expect("no holder panics")
    }
}

impl Fleet {
    /// An instance for each proxy, all ready.
    pub fn start(queue: &QueueAccess, proxies: &[FaultProxy]) -> Self {
        let instances: Vec<Instance> = proxies
            .iter()
            .map(|proxy| {
                let settings = settings(queue, proxy);
                let service = Mutex::new(Some(Service::spawn(&settings)));
                Instance { settings, service }
            })
            .collect();
        for instance in &instances {
            instance.service().as_ref().expect("running").wait_until_ready();
        }
        Self { instances }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.instances.len()
    }

    /// Kills one with -9 and starts it again at once. Reports an instance that had ended by itself.
    pub fn kill(&self, index: usize) -> Result<(), String> {
        let instance = &self.instances[index];
        let mut service = instance.service();
        let ended = service.as_ref().map_or(Ok(()), |service| lives(index, service));
        // Its end first, then the next one: they share a port.
        *service = None;
        *service = Some(Service::spawn(&instance.settings));
        ended
    }

    /// Whether every instance lives.
    pub fn check(&self) -> Result<(), String> {
        for (index, instance) in self.instances.iter().enumerate() {
            if let Some(service) = instance.service().as_ref() {
                lives(index, service)?;
            }
        }
        Ok(())
    }

    /// Ends all with SIGTERM. Each has to end well.
    pub fn stop(&self) -> Result<(), String> {
        for (index, instance) in self.instances.iter().enumerate() {
            let Some(service) = instance.service().take() else {
                continue;
            };
            lives(index, &service)?;
            service.signal(Signal::Terminate);
            let status = service.wait_for_exit(PATIENCE);
            if !status.success() {
                return Err(format!(
                    "instance {index} ended with {status} when it was stopped:\n{}",
                    last_words(&service)
                ));
            }
        }
        Ok(())
    }

    /// What each said last.
    pub fn last_words(&self) -> String {
        let words = |(index, instance): (usize, &Instance)| {
            let service = instance.service();
            let words = service.as_ref().map(last_words).unwrap_or_default();
            format!("--- instance {index}\n{words}")
        };
        self.instances.iter().enumerate().map(words).collect::<Vec<_>>().join("\n")
    }
}

fn lives(index: usize, service: &Service) -> Result<(), String> {
    match service.exit_status() {
        None => Ok(()),
        Some(status) => Err(format!("instance {index} ended by itself ({status}):\n{}", last_words(service))),
    }
}

fn last_words(service: &Service) -> String {
    let mut lines = service.log_lines();
    lines.drain(..lines.len().saturating_sub(20));
    lines.extend(service.stderr());
    lines.join("\n")
}

fn settings(queue: &QueueAccess, proxy: &FaultProxy) -> Settings {
    [
        ("AWS_REGION", queue.region.as_str()),
        ("QUEUE_URL", &queue.url),
        ("AWS_ACCESS_KEY_ID", &queue.access_key_id),
        ("AWS_SECRET_ACCESS_KEY", &queue.secret_access_key),
        ("SERVER_API_KEY", SERVER_API_KEY),
        // Nothing listens there, on purpose.
        ("EDGE_API_URL", "http://127.0.0.1:9"),
        ("DISABLE_SENTRY", "1"),
        ("REDIS_HOST", "127.0.0.1"),
        ("REDIS_PORT", &proxy.port().to_string()),
        ("PORT", &free_port().to_string()),
        // Every customer is written; entries live for a week, so that nothing expires.
        ("CACHE_UPDATE_POLICY", "UPSERT"),
        ("BATCH_SIZE", "10"),
        ("WAIT_TIME_SECS", "2"),
    ]
    .into_iter()
    .fold(Settings::default(), |settings, (name, value)| settings.set(name, value))
}
