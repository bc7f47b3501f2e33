//! The queue over HTTP: one signed POST a call, one deadline a call. The loops decide when to retry.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use http::Request;
use http::header::CONTENT_TYPE;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use url::Url;

use super::errors::{self, FailedCall};
use super::long_polls::LongPolls;
use super::protocol;
use super::server_clock::ServerClock;
use super::{BatchOutcome, Delivery, Operation, Queue, QueueError, ReceiptHandle};
use crate::aws::signing::Signer;
use crate::aws::{Credentials, CredentialsProvider};
use crate::clock;
use crate::clock::EpochMs;
use crate::config::Proxy;
use crate::http_client::{HttpClient, HttpOptions};

/// Deletes and visibility changes are small and quick.
const BATCH_DEADLINE: Duration = Duration::from_secs(10);
/// Ten messages of 1 MiB each, every character escaped in JSON, and their attributes.
const ANSWER_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// What a receive asks for if the queue's own visibility timeout is 0: SQS's default. Otherwise every message in flight
/// would be delivered again at once.
const VISIBILITY_IF_NONE: Duration = Duration::from_secs(30);
/// SQS's own bounds.
const MESSAGES_MAX: u8 = 10;
const WAIT_MAX: Duration = Duration::from_secs(20);
const VISIBILITY_SECS_MAX: u64 = 12 * 60 * 60;

/// Which queue, and how to reach it.
#[derive(Debug, Clone)]
pub struct SqsSettings {
    /// Where calls go: scheme, host, port and path.
    pub endpoint: Url,
    /// The queue, as it goes into the bodies.
    pub queue_url: String,
    /// The region to sign for.
    pub region: String,
    /// Connections kept open: as many as there are threads that call.
    pub pool_size: usize,
    /// What a receive may take beyond its long poll.
    pub receive_slack: Duration,
    /// The proxy on the way.
    pub proxy: Option<Proxy>,
}

/// The real [`Queue`].
pub struct SqsClient {
    settings: SqsSettings,
    /// For calls that are answered at once.
    http: HttpClient,
    /// For long polls of this wait: their deadline is the client's own, which costs less, see [`HttpClient::send`].
    long_poll_http: OnceLock<(Duration, HttpClient)>,
    credentials: Arc<dyn CredentialsProvider>,
    signer: Signer,
    server_clock: ServerClock,
    long_polls: LongPolls,
    /// The queue's own visibility timeout is 0.
    lacks_visibility_timeout: AtomicBool,
}

impl SqsClient {
    /// Makes no call yet.
    pub fn new(mut settings: SqsSettings, credentials: Arc<dyn CredentialsProvider>) -> Self {
        let endpoint = &mut settings.endpoint;
        // As AWS's SDKs do: the path of the call, `/`, is appended to the endpoint's.
        if !endpoint.path().ends_with('/') {
            endpoint.set_path(&format!("{}/", endpoint.path()));
        }
        Self {
            http: http_client(&settings, BATCH_DEADLINE),
            long_poll_http: OnceLock::new(),
            credentials,
            signer: Signer::new("sqs", settings.region.as_str()),
            server_clock: ServerClock::default(),
            long_polls: LongPolls::default(),
            lacks_visibility_timeout: AtomicBool::new(false),
            settings,
        }
    }

    /// An attribute of the queue, or `All`, by name. IAM may deny this call.
    pub fn attributes(&self, name: &str) -> Result<HashMap<String, String>, QueueError> {
        let body = protocol::get_attributes(&self.settings.queue_url, name);
        self.call(Operation::GetAttributes, &body, None, protocol::parse_attributes)
    }

    /// Receives one message that stays visible to everyone, without waiting. Gives its receive count, if there was one;
    /// this receive adds to it.
    pub fn peek(&self) -> Result<Option<u32>, QueueError> {
        let deliveries = self.receive_for(1, Duration::ZERO, Some(Duration::ZERO))?;
        Ok(deliveries.first().map(|delivery| delivery.receive_count))
    }

    fn receive_for(
        &self,
        max_messages: u8,
        wait: Duration,
        visibility: Option<Duration>,
    ) -> Result<Vec<Delivery>, QueueError> {
        let body = protocol::receive(&self.settings.queue_url, max_messages, wait, visibility);
        self.call(Operation::Receive, &body, Some(wait), |answer| {
            protocol::parse_receive(answer, Instant::now(), clock::now())
        })
    }

    fn batch<'a>(
        &self,
        operation: Operation,
        entries: impl ExactSizeIterator<Item = (&'a ReceiptHandle, Option<Duration>)>,
    ) -> Result<BatchOutcome, QueueError> {
        let count = entries.len();
        // SQS refuses an empty batch.
        if count == 0 {
            return Ok(BatchOutcome::new());
        }
        let body = protocol::batch(&self.settings.queue_url, entries);
        let parse = |answer: &[u8]| protocol::parse_batch(answer, count);
        self.call(operation, &body, None, parse)
    }

    /// The client for a receive of this wait, or for any other call, and the deadline if it is not the client's own. A
    /// process has one long wait.
    fn http_for(&self, wait: Option<Duration>) -> (&HttpClient, Option<Duration>) {
        let Some(wait) = wait else {
            return (&self.http, None);
        };
        let deadline = wait + self.settings.receive_slack;
        if wait.is_zero() {
            return (&self.http, Some(deadline));
        }
        let build = || (wait, http_client(&self.settings, deadline));
        let (usual_wait, http) = self.long_poll_http.get_or_init(build);
        (http, (*usual_wait != wait).then_some(deadline))
    }

    /// One call. If it was refused because of this machine's clock, it is sent once more, with a deadline of its own.
    fn call<T>(
        &self,
        operation: Operation,
        body: &[u8],
        wait: Option<Duration>,
        parse: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Result<T, QueueError> {
        let (http, deadline) = self.http_for(wait);
        let mut is_first = true;
        loop {
            let now = clock::now();
            let credentials = self.credentials.current(now).map_err(|error| QueueError {
                message: format!("cannot sign calls to queue {}: {error}", self.settings.queue_url),
                kind: error.kind,
                refused: false,
            })?;
            let failed = FailedCall {
                operation,
                settings: &self.settings,
                credentials: &credentials,
                provider: &*self.credentials,
            };
            let signed_at = self.server_clock.corrected(now);
            let request = self.signed(operation, body, &credentials, signed_at);
            let request = request.map_err(|cause| {
                let source = self.credentials.describe();
                failed.failed("not_signable", &format!("{cause}; check the values of {source}"))
            })?;
            let answer = http.send(request, deadline);
            let answer = answer.map_err(|error| errors::unanswered(failed, &error))?;

            let now = clock::now();
            let header = |name: &str| answer.headers.get(name)?.to_str().ok();
            let date = header("date").and_then(parse_http_date);
            let was_off = date.is_some_and(|date| self.server_clock.observe(date, now, signed_at));
            if answer.status == 200 {
                return parse(&answer.body).map_err(|error| {
                    failed.failed("unreadable_answer", &format!("{error}; {}", failed.is_this_sqs()))
                });
            }
            let error_header = header("x-amzn-query-error").or_else(|| header("x-amzn-errortype"));
            let refusal = protocol::parse_error(answer.status, error_header, &answer.body);
            let fault = refusal.fault();
            if was_off && is_first && fault.concerns_the_time() {
                is_first = false;
                continue;
            }
            if fault.concerns_the_key(answer.status) {
                self.credentials.invalidate(&credentials.access_key_id, now);
            }
            return Err(errors::refused(failed, &refusal, date.map(|date| now.0 - date.0)));
        }
    }

    fn signed(
        &self,
        operation: Operation,
        body: &[u8],
        credentials: &Credentials,
        at: EpochMs,
    ) -> Result<Request<Vec<u8>>, String> {
        let mut request = Request::post(self.settings.endpoint.as_str())
            .header(CONTENT_TYPE, protocol::CONTENT_TYPE)
            .header("x-amz-target", ["AmazonSQS.", operation.names().1].concat())
            .body(body.to_vec())
            .map_err(|error| format!("cannot build the request: {error}"))?;
        let signed = self.signer.sign(&mut request, credentials, at);
        signed.map_err(|error| error.to_string()).map(|()| request)
    }
}

impl Queue for SqsClient {
    fn receive(&self, max_messages: u8, wait: Duration) -> Result<Vec<Delivery>, QueueError> {
        let wait = wait.min(WAIT_MAX);
        let lacks_timeout = self.lacks_visibility_timeout.load(Ordering::Relaxed);
        let visibility = lacks_timeout.then_some(VISIBILITY_IF_NONE);
        let asked_at = Instant::now();
        let end = self.receive_for(max_messages.clamp(1, MESSAGES_MAX), wait, visibility);
        self.long_polls.ended(wait, asked_at, Instant::now(), end)
    }

    fn delete_batch(&self, receipt_handles: &[ReceiptHandle]) -> Result<BatchOutcome, QueueError> {
        let entries = receipt_handles.iter().map(|handle| (handle, None));
        self.batch(Operation::Delete, entries)
    }

    fn change_visibility_batch(
        &self,
        entries: &[(ReceiptHandle, Duration)],
    ) -> Result<BatchOutcome, QueueError> {
        let entries = entries.iter().map(|(handle, time)| (handle, Some(*time)));
        self.batch(Operation::ChangeVisibility, entries)
    }

    fn visibility_timeout(&self) -> Result<Duration, QueueError> {
        let body = protocol::get_attributes(&self.settings.queue_url, "VisibilityTimeout");
        let secs = self.call(Operation::GetAttributes, &body, None, |answer| {
            let attributes = protocol::parse_attributes(answer)?;
            let secs = attributes.get("VisibilityTimeout").and_then(|secs| secs.parse().ok());
            secs.filter(|secs| *secs <= VISIBILITY_SECS_MAX)
                .ok_or_else(|| "the answer has no VisibilityTimeout of 0 to 43200 s".to_owned())
        })?;
        self.lacks_visibility_timeout.store(secs == 0, Ordering::Relaxed);
        Ok(Duration::from_secs(secs))
    }
}

fn http_client(settings: &SqsSettings, deadline: Duration) -> HttpClient {
    let options = HttpOptions {
        pool_size: settings.pool_size,
        answer_bytes_max: ANSWER_BYTES_MAX,
        deadline,
        proxy: settings.proxy.clone(),
    };
    HttpClient::new(&settings.endpoint, options)
}

/// `Mon, 02 Nov 2026 12:00:00 GMT`.
pub(crate) fn parse_http_date(text: &str) -> Option<EpochMs> {
    let at = OffsetDateTime::parse(text, &Rfc2822).ok()?;
    Some(EpochMs(at.unix_timestamp().checked_mul(1000)?))
}

#[cfg(test)]
mod tests;
