//! The queue over HTTP: one signed POST a call, one deadline a call. The loops decide when to retry.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Method, Request, Uri};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use url::Url;

use super::errors::{FailedCall, Fault, of_receive};
use super::protocol;
use super::server_clock::ServerClock;
use super::{BatchOutcome, Delivery, Operation, Queue, QueueError, ReceiptHandle};
use crate::aws::CredentialsProvider;
use crate::aws::signing::Signer;
use crate::clock;
use crate::clock::EpochMs;
use crate::config::Proxy;
use crate::http_client::{HttpClient, HttpErrorKind, HttpOptions};

/// What calls that are answered at once may take.
const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// Ten messages of 1 MiB each, every character escaped in JSON, and their attributes.
const ANSWER_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// SQS's default. A receive asks for it if the queue's own visibility timeout is 0: otherwise every message in flight would be
/// delivered again at once.
const DEFAULT_VISIBILITY: Duration = Duration::from_secs(30);
/// A connection that breaks later than this was not closed already when it was taken for the call.
const CLOSED_WITHIN: Duration = Duration::from_secs(1);
const AMZ_TARGET: HeaderName = HeaderName::from_static("x-amz-target");

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
    /// What a long poll may take, its wait included.
    pub long_poll_deadline: Duration,
    /// The proxy on the way.
    pub proxy: Option<Proxy>,
}

/// The real [`Queue`].
pub struct SqsClient {
    settings: SqsSettings,
    /// The endpoint. Empty, which cannot be signed, if it is not a valid HTTP address.
    uri: Uri,
    /// For calls that are answered at once.
    http: HttpClient,
    long_poll_http: HttpClient,
    credentials: Arc<CredentialsProvider>,
    signer: Signer,
    server_clock: ServerClock,
    /// The queue's own visibility timeout is 0.
    lacks_visibility_timeout: AtomicBool,
}

impl SqsClient {
    /// Makes no call yet.
    pub fn new(mut settings: SqsSettings, credentials: Arc<CredentialsProvider>) -> Self {
        let endpoint = &mut settings.endpoint;
        // As AWS's SDKs do: the path of the call, `/`, is appended to the endpoint's.
        if !endpoint.path().ends_with('/') {
            endpoint.set_path(&format!("{}/", endpoint.path()));
        }
        let http = |deadline| {
            let (pool_size, proxy) = (settings.pool_size, settings.proxy.clone());
            let answer_bytes_max = ANSWER_BYTES_MAX;
            HttpClient::new(&settings.endpoint, HttpOptions { pool_size, answer_bytes_max, deadline, proxy })
        };
        Self {
            uri: settings.endpoint.as_str().parse().unwrap_or_default(),
            http: http(CALL_DEADLINE),
            long_poll_http: http(settings.long_poll_deadline),
            credentials,
            signer: Signer::new("sqs", settings.region.as_str()),
            server_clock: ServerClock::default(),
            lacks_visibility_timeout: AtomicBool::new(false),
            settings,
        }
    }

    /// An attribute of the queue, or `All`, by name. IAM may deny this call.
    pub fn attributes(&self, name: &str) -> Result<HashMap<String, String>, QueueError> {
        let body = protocol::get_attributes(&self.settings.queue_url, name);
        self.call(&self.http, Operation::GetAttributes, &body, protocol::parse_attributes)
    }

    /// Receives one message that stays visible to everyone, without waiting. Returns its receive count, which
    /// this receive raises, if there was one.
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
        let http = if wait.is_zero() { &self.http } else { &self.long_poll_http };
        let body = protocol::receive(&self.settings.queue_url, max_messages, wait, visibility);
        self.call(http, Operation::Receive, &body, |answer| {
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
        self.call(&self.http, operation, &body, |answer| protocol::parse_batch(answer, count))
    }

    /// One call. If it was refused because of this machine's clock, or met a connection that the server has closed, it is sent
    /// once more, with a deadline of its own.
    fn call<T>(
        &self,
        http: &HttpClient,
        operation: Operation,
        body: &[u8],
        parse: impl FnOnce(&[u8]) -> Result<T, String>,
    ) -> Result<T, QueueError> {
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
                provider: &self.credentials,
            };
            let mut request = Request::new(body.to_vec());
            *request.method_mut() = Method::POST;
            *request.uri_mut() = self.uri.clone();
            let headers = request.headers_mut();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(protocol::CONTENT_TYPE));
            headers.insert(AMZ_TARGET, HeaderValue::from_static(operation.target()));
            let signed_at = self.server_clock.corrected(now);
            self.signer.sign(&mut request, &credentials, signed_at).map_err(|cause| {
                let source = self.credentials.describe();
                failed.failed("not_signable", &format!("{cause}; check the values of {source}"))
            })?;
            let asked_at = Instant::now();
            let answer = match http.send(request, None) {
                // One that was in use a moment ago is not tested before.
                Err(error)
                    if is_first
                        && error.kind == HttpErrorKind::Connection
                        && asked_at.elapsed() < CLOSED_WITHIN =>
                {
                    is_first = false;
                    continue;
                }
                answer => answer.map_err(|error| failed.unanswered(&error))?,
            };

            let now = clock::now();
            let status = answer.status().as_u16();
            let header = |name: &str| answer.headers().get(name)?.to_str().ok();
            let date = header("date").and_then(parse_http_date);
            let was_off = date.is_some_and(|date| self.server_clock.observe(date, now, signed_at));
            if status == 200 {
                return parse(answer.body()).map_err(|error| {
                    failed.failed("unreadable_answer", &format!("{error}; {}", failed.is_this_sqs()))
                });
            }
            let error_header = header("x-amzn-query-error").or_else(|| header("x-amzn-errortype"));
            let refusal = protocol::parse_error(status, error_header, answer.body());
            let fault = Fault::of(status, &refusal.code, &refusal.message);
            if was_off && is_first && fault.concerns_the_time() {
                is_first = false;
                continue;
            }
            if fault.concerns_the_key(status) {
                self.credentials.invalidate(&credentials.access_key_id);
            }
            return Err(failed.refused(&refusal, fault));
        }
    }
}

impl Queue for SqsClient {
    fn receive(&self, max_messages: u8, wait: Duration) -> Result<Vec<Delivery>, QueueError> {
        let lacks_timeout = self.lacks_visibility_timeout.load(Ordering::Relaxed);
        let visibility = lacks_timeout.then_some(DEFAULT_VISIBILITY);
        let asked_at = Instant::now();
        let received = self.receive_for(max_messages, wait, visibility);
        received.map_err(|error| of_receive(error, asked_at.elapsed(), wait))
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
        let attributes = self.attributes("VisibilityTimeout")?;
        // SQS always knows it. At most 12 hours, which 16 bits hold.
        let secs = attributes.get("VisibilityTimeout").and_then(|secs| secs.parse::<u16>().ok());
        let timeout = secs.map_or(DEFAULT_VISIBILITY, |secs| Duration::from_secs(secs.into()));
        self.lacks_visibility_timeout.store(timeout.is_zero(), Ordering::Relaxed);
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
