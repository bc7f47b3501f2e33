//! What the service says on its HTTP port.

use std::collections::BTreeMap;
use std::io::Read;
use std::time::Duration;

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub content_type: String,
    pub body: String,
}

/// One GET; `None` if nobody answers.
pub fn get(url: &str) -> Option<Answer> {
    let timeout = Some(Duration::from_secs(10));
    let agent =
        ureq::Agent::config_builder().http_status_as_error(false).timeout_global(timeout).build().new_agent();
    let mut response = agent.get(url).call().ok()?;
    let content_type = response.headers().get("content-type").and_then(|value| value.to_str().ok());
    Some(Answer {
        status: response.status().as_u16(),
        content_type: content_type.unwrap_or_default().to_owned(),
        body: response.body_mut().read_to_string().ok()?,
    })
}

/// A page of Prometheus text.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// `# TYPE` by metric name.
    pub types: BTreeMap<String, String>,
    /// Metrics that have a help text.
    pub helped: Vec<String>,
    /// Values by series, spelled as on the page: `name` or `name{label="value"}`.
    pub series: BTreeMap<String, f64>,
}

impl Metrics {
    /// Reads a page. Panics at a line that is not in the format.
    pub fn parse(page: &str) -> Self {
        let mut metrics = Self { types: BTreeMap::new(), helped: Vec::new(), series: BTreeMap::new() };
        for line in page.lines().filter(|line| !line.trim().is_empty()) {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a name and a type");
                assert!(metrics.types.insert(name.into(), kind.into()).is_none(), "two types: {line}");
            } else if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a name and a help text");
                assert!(!help.is_empty(), "{line}");
                metrics.helped.push(name.into());
            } else {
                let (series, value) = line.rsplit_once(' ').expect("a series and a value");
                let value = value.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
                assert!(metrics.series.insert(series.into(), value).is_none(), "a series twice: {line}");
            }
        }
        metrics
    }

    /// The sum of all series of a metric with labels.
    pub fn sum(&self, metric: &str) -> f64 {
        let labelled = format!("{metric}{{");
        self.series.iter().filter(|(series, _)| series.starts_with(&labelled)).map(|(_, value)| value).sum()
    }

    /// The value of a series; 0 if it is not there, as for a counter that has not counted.
    pub fn value(&self, series: &str) -> f64 {
        self.series.get(series).copied().unwrap_or(0.0)
    }
}

/// Reads the head of a request or an answer, with the empty line at its end.
pub fn read_head(stream: &mut impl Read) -> std::io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// The value of a header in a head.
pub fn header_of(head: &str, name: &str) -> Option<String> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}
