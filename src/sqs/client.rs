//! The queue over HTTP: one signed POST a call, one deadline a call, no retry. The loops decide when to try again.

mod peek;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use url::Url;

pub use self::peek::QueueFacts;
use super::faults::{self, FailedCall};
use super::sign::Signer;
use super::wire::{self, WireError, WireRequest};
use super::{BatchOutcome, Delivery, Operation, Queue, QueueError, ReceiptHandle};
use crate::aws::signing::SignError;
use crate::aws::{Credentials, CredentialsProvider};
use crate::clock;
use crate::config::Proxy;
use crate::entitlement::EpochMs;
use crate::http_client::{Answer, HttpClient, HttpOptions};

/// Deletes and visibility changes are small and quick; ten seconds of silence are a fault.
const BATCH_DEADLINE: Duration = Duration::from_secs(10);
/// Ten messages of 1 MiB each, every character of them escaped in JSON text, and their attributes.
const ANSWER_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// What a receive asks for where the queue itself hides nothing: SQS's default. Else what is in hand would come again at
/// once, and again, for as long as it is.
const HIDDEN: Duration = Duration::from_secs(30);
/// SQS's own bounds.
const MESSAGES_MAX: u8 = 10;
const WAIT_MAX: Duration = Duration::from_secs(20);

/// Which queue, and how to reach it.
#[derive(Debug, Clone)]
pub struct SqsSettings {
    /// Scheme, host and port of the calls; its path is ignored, SQS listens at the root.
    pub endpoint: Url,
    /// The queue, as it goes into the bodies.
    pub queue_url: String,
    /// The region to sign for.
    pub region: String,
    /// Connections kept open: as many as there are threads that call.
    pub pool_size: usize,
    /// What a receive may take beyond its long poll.
    pub receive_slack: Duration,
    /// The way there.
    pub proxy: Option<Proxy>,
}

/// The real [`Queue`].
pub struct SqsClient {
    /// For calls that are answered at once.
    http: HttpClient,
    /// For long polls, whose deadline is another: see [`HttpClient::send`]. With the wait that it is for.
    long_polls: OnceLock<(Duration, HttpClient)>,
    options: HttpOptions,
    endpoint: Url,
    signer: Result<Signer, SignError>,
    address: String,
    queue_url: String,
    region: String,
    receive_slack: Duration,
    credentials: Arc<dyn CredentialsProvider>,
    /// The queue's own visibility timeout is 0: each receive has to ask for another.
    hides_nothing: AtomicBool,
}

impl SqsClient {
    /// Calls nobody yet.
    pub fn new(settings: SqsSettings, credentials: Arc<dyn CredentialsProvider>) -> Self {
        let SqsSettings {
            mut endpoint,
            queue_url,
            region,
            pool_size,
            receive_slack,
            proxy,
        } = settings;
        endpoint.set_path("/");
        endpoint.set_query(None);
        endpoint.set_fragment(None);
        let options = HttpOptions {
            pool_size,
            answer_bytes_max: ANSWER_BYTES_MAX,
            deadline: BATCH_DEADLINE,
            proxy,
        };
        Self {
            http: HttpClient::new(&endpoint, options.clone()),
            long_polls: OnceLock::new(),
            options,
            address: endpoint.origin().ascii_serialization(),
            signer: Signer::new(&endpoint, region.clone()),
            endpoint,
            queue_url,
            region,
            receive_slack,
            credentials,
            hides_nothing: AtomicBool::new(false),
        }
    }

    /// The client for receives that wait so long, and the deadline it has to be told. There is one long wait in a
    /// process, so its deadline is the client's own.
    fn client_for(&self, wait: Duration) -> (&HttpClient, Option<Duration>) {
        let deadline = wait + self.receive_slack;
        if wait.is_zero() {
            return (&self.http, Some(deadline));
        }
        let (usual_wait, http) = self.long_polls.get_or_init(|| {
            let options = HttpOptions {
                deadline,
                ..self.options.clone()
            };
            (wait, HttpClient::new(&self.endpoint, options))
        });
        (http, (*usual_wait != wait).then_some(deadline))
    }

    /// One call. `deadline` is for calls that last longer than others of this client.
    fn call<T>(
        &self,
        operation: Operation,
        request: WireRequest,
        (http, deadline): (&HttpClient, Option<Duration>),
        parse: impl FnOnce(&[u8]) -> Result<T, WireError>,
    ) -> Result<T, QueueError> {
        let now = clock::now();
        let credentials = self.credentials.current(now).map_err(|error| QueueError {
            message: format!("cannot sign calls to queue {}: {error}", self.queue_url),
            kind: error.kind,
            refused: false,
        })?;
        let to_send = self
            .signer
            .as_ref()
            .map_err(SignError::clone)
            .and_then(|signer| signer.signed_request(request, &credentials, now))
            .map_err(|error| {
                let source = self.credentials.describe();
                QueueError {
                    message: format!(
                        "{error}; check the values of {source}, and AWS_ENDPOINT_URL_SQS if it is set"
                    ),
                    kind: "not_signable".to_owned(),
                    refused: false,
                }
            })?;
        let source = self.credentials.describe();
        let failed = FailedCall {
            operation,
            queue_url: &self.queue_url,
            region: &self.region,
            endpoint: &self.address,
            access_key_id: &credentials.access_key_id,
            credentials: &source,
            decided_by: self.credentials.decided_by(),
        };
        let answer = http
            .send(to_send, deadline)
            .map_err(|error| faults::unanswered(failed, &error))?;
        if answer.status == 200 {
            parse(&answer.body).map_err(|error| faults::unreadable(failed, &error))
        } else {
            Err(self.refused(failed, &answer, &credentials))
        }
    }

    fn refused(&self, failed: FailedCall<'_>, answer: &Answer, credentials: &Credentials) -> QueueError {
        let now = clock::now();
        let header = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok());
        // Secrets go before anything is shortened: half of one would not be found any more.
        let body = credentials.redact(&String::from_utf8_lossy(&answer.body));
        let error_header = header("x-amzn-query-error").or_else(|| header("x-amzn-errortype"));
        let refusal = wire::parse_error(answer.status, error_header, body.as_bytes());
        if answer.status == 403 || refusal.code.starts_with("ExpiredToken") {
            self.credentials.invalidate(&credentials.access_key_id, now);
        }
        let ahead_ms = header("date")
            .and_then(parse_http_date)
            .map(|there| now.0 - there.0);
        faults::refused(failed, answer.status, &refusal, ahead_ms)
    }

    fn batch(
        &self,
        operation: Operation,
        request: WireRequest,
        entries: usize,
    ) -> Result<BatchOutcome, QueueError> {
        if entries == 0 {
            // SQS refuses an empty batch.
            return Ok(BatchOutcome::new());
        }
        self.call(operation, request, (&self.http, None), |body| {
            wire::parse_batch(body, entries)
        })
    }
}

impl Queue for SqsClient {
    fn receive(&self, max_messages: u8, wait: Duration) -> Result<Vec<Delivery>, QueueError> {
        let wait = wait.min(WAIT_MAX);
        let hidden = self.hides_nothing.load(Ordering::Relaxed).then_some(HIDDEN);
        let request =
            wire::receive_request(&self.queue_url, max_messages.clamp(1, MESSAGES_MAX), wait, hidden);
        let client = self.client_for(wait);
        let messages = self.call(Operation::Receive, request, client, wire::parse_receive)?;
        let received_at = Instant::now();
        let delivery = |message: wire::ReceivedMessage| Delivery {
            message_id: message.message_id,
            receipt_handle: message.receipt_handle,
            body: message.body,
            sent_at: message.sent_at.unwrap_or_else(clock::now),
            receive_count: message.receive_count,
            received_at,
        };
        Ok(messages.into_iter().map(delivery).collect())
    }

    fn delete_batch(&self, receipt_handles: &[ReceiptHandle]) -> Result<BatchOutcome, QueueError> {
        let request = wire::delete_request(&self.queue_url, receipt_handles);
        self.batch(Operation::Delete, request, receipt_handles.len())
    }

    fn change_visibility_batch(
        &self,
        entries: &[(ReceiptHandle, Duration)],
    ) -> Result<BatchOutcome, QueueError> {
        let request = wire::change_visibility_request(&self.queue_url, entries);
        self.batch(Operation::ChangeVisibility, request, entries.len())
    }

    fn visibility_timeout(&self) -> Result<Duration, QueueError> {
        let request = wire::visibility_timeout_request(&self.queue_url);
        let timeout = self.call(
            Operation::GetAttributes,
            request,
            (&self.http, None),
            wire::parse_visibility_timeout,
        )?;
        self.hides_nothing.store(timeout.is_zero(), Ordering::Relaxed);
        Ok(timeout)
    }
}

/// `Mon, 02 Nov 2026 12:00:00 GMT`.
pub(crate) fn parse_http_date(text: &str) -> Option<EpochMs> {
    let at = OffsetDateTime::parse(text, &Rfc2822).ok()?;
    Some(EpochMs(at.unix_timestamp().checked_mul(1000)?))
}

#[cfg(test)]
mod tests;
