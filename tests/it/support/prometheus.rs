//! A real Prometheus that scrapes a service, and promtool.

use std::path::Path;

use serde_json::Value;

use super::aws::Directory;
use super::child::Process;
use super::command::{Ended, run_program};
use super::http::get;
use super::tools::{free_port, system_program};
use super::wait::PATIENCE;

/// The name that the rules and the manifests give the job.
pub const JOB: &str = "persistent-cache-service";

/// A running Prometheus.
pub struct Prometheus {
    process: Process,
    base: String,
    _directory: Directory,
}

impl Prometheus {
    /// Starts one that scrapes this port of 127.0.0.1 each second, and evaluates these rules as often.
    pub fn start(scraped_port: &str, rules: &Path) -> Self {
        let directory = Directory::new();
        let configuration = directory.write(
            "prometheus.yml",
            &format!(
                "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
                 rule_files: [{}]\n\
                 scrape_configs:\n  - job_name: {JOB}\n    static_configs:\n      \
                 - {{targets: ['127.0.0.1:{scraped_port}'], labels: {{environment: test}}}}\n",
                rules.display()
            ),
        );
        let port = free_port();
        let arguments = [
            format!("--config.file={configuration}"),
            format!("--storage.tsdb.path={}/data", directory.path()),
            format!("--web.listen-address=127.0.0.1:{port}"),
            "--log.level=warn".to_owned(),
        ];
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let prometheus = Self {
            process: Process::start("prometheus", &system_program("prometheus"), &arguments, &[]),
            base: format!("http://127.0.0.1:{port}"),
            _directory: directory,
        };
        prometheus.process.wait_for(PATIENCE, "prometheus to be ready", || {
            get(&format!("{}/-/ready", prometheus.base)).filter(|answer| answer.status == 200)
        });
        prometheus
    }

    /// `data` of an answer of its API.
    pub fn api(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let query = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
        let answer = get(&format!("{}/api/v1/{path}?{query}", self.base)).expect("prometheus answers");
        let mut body: Value = serde_json::from_str(&answer.body).expect("an answer in JSON");
        assert_eq!(body["status"], "success", "{path} {parameters:?}: {body}");
        body["data"].take()
    }

    /// The values that an expression has now; NaN, which no panel shows, left out.
    pub fn values(&self, expression: &str) -> Vec<f64> {
        let data = self.api("query", &[("query", expression)]);
        let result = data["result"].as_array().expect("a vector").iter();
        result
            .map(|sample| sample["value"][1].as_str().expect("a value"))
            .map(|value| value.parse::<f64>().expect("a number"))
            .filter(|value| !value.is_nan())
            .collect()
    }
}

/// Runs promtool.
pub fn promtool(arguments: &[&str], input: &str) -> Ended {
    run_program("promtool", &system_program("promtool"), arguments, &[], input)
}
