//! Whom AWS takes credentials for.

use http::header::CONTENT_TYPE;
use http::{Method, Request};

use super::answer::{self, Refusal};
use super::{API_VERSION, Credentials, FORM, SERVICE, StsClient};
use crate::aws::signing::Signer;
use crate::clock;

impl StsClient {
    /// The caller's ARN. AWS tells it to whoever holds valid credentials, without a permission. The error says why it
    /// does not, in one line and without secrets.
    pub fn caller(&self, with: &Credentials) -> Result<String, String> {
        let at = self.address();
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(self.url.as_str())
            .header(CONTENT_TYPE, FORM)
            .header("accept", "text/xml")
            .body(format!("Action=GetCallerIdentity&Version={API_VERSION}").into_bytes())
            .map_err(|_| "the endpoint of STS is not a URI; check AWS_ENDPOINT_URL_STS".to_owned())?;
        Signer::new(SERVICE, &*self.region)
            .sign(&mut request, with, clock::now())
            .map_err(|error| error.to_string())?;
        let answer = self
            .http
            .send(request, None)
            .map_err(|error| format!("STS at {at}: {error}"))?;
        // Secrets go before anything is shortened: half of one would not be found any more.
        let body = with.redact(&String::from_utf8_lossy(&answer.body));
        if answer.status == 200 {
            return answer::caller(&body).map_err(|what| format!("STS at {at}: {what}"));
        }
        let Refusal { code, words } = answer::refusal(answer.status, &body);
        let status = answer.status;
        Err(format!("STS at {at}: HTTP {status} {code} {words}")
            .trim_end()
            .to_owned())
    }
}
