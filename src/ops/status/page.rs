//! The status page: one HTML document without outside assets, made of a [`Report`]. Pure.
//!
//! All of it is there without JavaScript; a few lines of script fetch it anew and put what changed (`data-live`) in its
//! place. Style and script are allowed by their hashes alone, so nothing that found its way into the page could run.

use std::fmt::{Display, Write as _};

use super::chart::{Chart, Level};
use super::history::SPAN;
use super::report::{Fault, Moment, Report, Setting, State, Step, Typical};
use super::words::{Escaped, NOTHING, bytes, count, duration, number, per_minute, per_second};
use crate::clock;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// What browsers are told beside the page. A test holds the hashes to the files.
pub(in crate::ops) const HEADERS: &[(&str, &str)] = &[
    (
        "Content-Security-Policy",
        "default-src 'none'; style-src 'sha256-tH9mTxaaveEtroXYzWjEUThOY3Mamva/2Pv1stpyfcE='; script-src 'sha256-1uvRHMg7fQMRAhR+AWPG1diUU2/ZlW+QwnvUf5YP3EQ='; connect-src 'self'; \
         img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
];

/// The whole document.
pub(super) fn render(report: &Report) -> String {
    let mut html = String::with_capacity(64 * 1024);
    head(&mut html, report);
    html.push_str("<main>");
    state(&mut html, report);
    charts(&mut html, report);
    faults(&mut html, report);
    html.push_str("<div class=\"grid\">");
    queue(&mut html, report);
    redis(&mut html, report);
    html.push_str("</div>");
    rates(&mut html, report);
    settings(&mut html, &report.settings);
    html.push_str("</main>");
    put(
        &mut html,
        format_args!(
            "<footer><nav aria-label=\"The same for programs\"><a href=\"status\">status as JSON</a>\
             <a href=\"metrics\">metrics</a><a href=\"readyz\">ready?</a><a href=\"livez\">alive?</a></nav></footer>\
             <script>{SCRIPT}</script></body></html>\n"
        ),
    );
    html
}

/// A String takes everything.
fn put(html: &mut String, what: impl Display) {
    let _ = write!(html, "{what}");
}

fn head(html: &mut String, report: &Report) {
    let word = state_in_words(report.state);
    put(
        html,
        format_args!(
            "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta name=\"color-scheme\" content=\"light dark\"><meta name=\"robots\" content=\"noindex\">\
             <noscript><meta http-equiv=\"refresh\" content=\"10\"></noscript>\
             <title>{word} · {service}</title><link rel=\"icon\" href=\"data:,\"><style>{STYLE}</style></head>\
             <body><header><h1>{service}</h1>\
             <p class=\"dim\">Version {version}, commit {commit}</p>\
             <p><button type=\"button\" id=\"pause\" hidden>Pause refreshing</button> \
             <span id=\"note\" role=\"status\" class=\"error\"></span></p></header>",
            service = Escaped(report.service),
            version = Escaped(report.version),
            commit = Escaped(report.commit),
        ),
    );
}

fn state_in_words(state: State) -> &'static str {
    match state {
        State::Ready => "Ready",
        State::NotReady => "Not ready",
        State::Stopping => "Stopping",
        State::Dead => "Dead: the loops no longer come round",
    }
}

fn state(html: &mut String, report: &Report) {
    let class = match report.state {
        State::Ready => "ready",
        State::NotReady => "not_ready",
        State::Stopping => "stopping",
        State::Dead => "dead",
    };
    begin(html, "state", "State");
    put(
        html,
        format_args!("<p class=\"state {class}\">{}</p>", state_in_words(report.state)),
    );
    for reason in &report.reasons {
        put(html, format_args!("<p>{}</p>", Escaped(reason)));
    }
    let since = |moment| When(moment, report.now);
    facts(
        html,
        &[
            ("Since", since(report.state_since).to_string()),
            ("Started", since(report.started_at).to_string()),
            (
                "As of",
                format!(
                    "<time datetime=\"{at}\">{at}</time>",
                    at = clock::rfc3339(report.now.0)
                ),
            ),
        ],
    );
    end(html);
}

fn charts(html: &mut String, report: &Report) {
    begin(html, "charts", "Last 15 minutes");
    html.push_str("<div class=\"grid\">");
    let chart = |title, value: fn(&Step) -> Option<f64>, unit| Chart {
        title,
        span_secs: SPAN.as_secs_f64(),
        steps: report
            .history
            .iter()
            .map(|step| Level {
                ago_secs: step.ago_secs,
                secs: step.secs,
                value: value(step),
            })
            .collect(),
        unit,
    };
    for chart in [
        chart(
            "Messages processed",
            |step| Some(step.processed_per_sec),
            per_second,
        ),
        chart(
            "Age of a message when written",
            |step| step.mean_age_secs,
            duration,
        ),
        chart(
            "Time to handle a message",
            |step| step.mean_handling_secs,
            duration,
        ),
        chart("Errors", |step| Some(step.errors_per_min), per_minute),
    ] {
        chart.write(html);
    }
    html.push_str("</div>");
    end(html);
}

fn rates(html: &mut String, report: &Report) {
    begin(html, "rates", "Rates");
    html.push_str(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Table of rates\"><table><caption>Over the last \
         minutes. Errors are tries without effect, failed calls to the queue and failed writes.</caption><thead><tr>\
         <td></td>",
    );
    for rates in &report.rates {
        let window = duration(rates.measured_secs.round());
        put(
            html,
            format_args!("<th scope=\"col\" class=\"number\">{window}</th>"),
        );
    }
    html.push_str("</tr></thead><tbody>");
    let mean = |typical: Option<Typical>| {
        typical.map_or_else(|| NOTHING.to_owned(), |typical| duration(typical.mean_secs))
    };
    let most = |typical: Option<Typical>| match typical.map(|typical| typical.p95_at_most_secs) {
        None => NOTHING.to_owned(),
        Some(None) => "longer than measured".to_owned(),
        Some(Some(secs)) => duration(secs),
    };
    let per_sec = |value| per_second(value);
    row(
        html,
        "Received",
        report.rates.iter().map(|rates| per_sec(rates.received_per_sec)),
    );
    row(
        html,
        "Processed",
        report.rates.iter().map(|rates| per_sec(rates.processed_per_sec)),
    );
    row(
        html,
        "Errors",
        report.rates.iter().map(|rates| per_minute(rates.errors_per_min)),
    );
    row(
        html,
        "Age when written, mean",
        report.rates.iter().map(|rates| mean(rates.age)),
    );
    row(
        html,
        "Age when written, 95 of 100 at most",
        report.rates.iter().map(|rates| most(rates.age)),
    );
    row(
        html,
        "Handling, mean",
        report.rates.iter().map(|rates| mean(rates.handling)),
    );
    row(
        html,
        "Handling, 95 of 100 at most",
        report.rates.iter().map(|rates| most(rates.handling)),
    );
    html.push_str("</tbody></table></div><h3>Since the start</h3>");
    let messages = &report.messages;
    facts(
        html,
        &[
            ("Received", count(messages.received)),
            ("Processed", count(messages.processed)),
            ("In hand now", messages.in_flight.to_string()),
            ("Failed tries", count(messages.failed_tries)),
            ("Unreadable", count(messages.malformed)),
            ("Writes not due", count(messages.writes_skipped)),
        ],
    );
    end(html);
}

fn queue(html: &mut String, report: &Report) {
    let queue = &report.queue;
    begin(html, "queue", "Queue");
    let pollers = &queue.pollers;
    let mut shown = format!("{} of {} alive", pollers.alive, pollers.total);
    for (number, what) in [(pollers.failing, "failing"), (pollers.silent, "silent")] {
        if number > 0 {
            let _ = write!(shown, ", {number} {what}");
        }
    }
    let errors: Vec<String> = queue
        .errors
        .iter()
        .filter(|(_, errors)| **errors > 0)
        .map(|(operation, errors)| format!("{} {}", count(*errors), operation.replace('_', " ")))
        .collect();
    let errors = if errors.is_empty() {
        "none".to_owned()
    } else {
        errors.join(", ")
    };
    let expiry = match report.credentials.expire_at {
        None if report.credentials.source == "static" => "never".to_owned(),
        None => "not known yet".to_owned(),
        Some(at) => When(at, report.now).to_string(),
    };
    facts(
        html,
        &[
            ("URL", Escaped(&queue.url).to_string()),
            ("Region", Escaped(&queue.region).to_string()),
            ("Pollers", shown),
            ("Last poll", perhaps(queue.last_poll_at, report.now)),
            ("Failed calls", errors),
            ("Credentials", Escaped(report.credentials.source).to_string()),
            ("They expire", expiry),
        ],
    );
    end(html);
}

fn redis(html: &mut String, report: &Report) {
    let redis = &report.redis;
    begin(html, "redis", "Redis");
    let state = if redis.connected {
        "<b class=\"ready\">connected</b>"
    } else {
        "<b class=\"not_ready\">cannot be used</b>"
    };
    facts(
        html,
        &[
            ("At", Escaped(&redis.at).to_string()),
            ("State", state.to_owned()),
            ("Last write", perhaps(redis.last_write_at, report.now)),
            ("Failed writes", count(redis.write_errors)),
            ("Readers' hits", format!("{} %", number(redis.hit_ratio_percent))),
            ("Memory used", bytes(redis.used_memory_bytes)),
        ],
    );
    end(html);
}

fn faults(html: &mut String, report: &Report) {
    begin(html, "errors", "Last errors");
    if report.errors.is_empty() {
        html.push_str("<p>None since the start.</p>");
    } else {
        html.push_str("<ol class=\"faults\">");
        report
            .errors
            .iter()
            .for_each(|fault| one_fault(html, fault, report.now));
        html.push_str("</ol>");
    }
    end(html);
}

fn one_fault(html: &mut String, fault: &Fault, now: Moment) {
    let times = if fault.times == 1 {
        "once".to_owned()
    } else {
        format!("{} times since {}", count(fault.times), When(fault.first_at, now))
    };
    let over = if fault.is_over { "; it is over" } else { "" };
    put(
        html,
        format_args!(
            "<li><p><b class=\"{level}\">{level}</b> {}</p><p>{}</p><p class=\"dim\">{}, {times}{over}</p></li>",
            Escaped(&fault.what),
            Escaped(&fault.why),
            When(fault.last_at, now),
            level = Escaped(fault.level),
        ),
    );
}

fn settings(html: &mut String, settings: &[Setting]) {
    html.push_str("<section aria-labelledby=\"settings-h\"><h2 id=\"settings-h\">Settings</h2>");
    let given = settings.iter().filter(|setting| setting.is_given);
    table_of_settings(html, "Given, secrets not shown", given);
    html.push_str("<details><summary>All others, as they are by default</summary>");
    let others = settings.iter().filter(|setting| !setting.is_given);
    table_of_settings(html, "Left to their default", others);
    html.push_str("</details></section>");
}

fn table_of_settings<'a>(html: &mut String, caption: &str, settings: impl Iterator<Item = &'a Setting>) {
    put(
        html,
        format_args!(
            "<table class=\"settings\"><caption>{caption}</caption><thead><tr><th scope=\"col\">Setting</th>\
             <th scope=\"col\">Value</th></tr></thead><tbody>"
        ),
    );
    for setting in settings {
        let value = match &setting.value {
            Some(value) => Escaped(value).to_string(),
            None if setting.is_set => "<i>set</i>".to_owned(),
            None => "<i>not set</i>".to_owned(),
        };
        put(
            html,
            format_args!(
                "<tr><th scope=\"row\">{}</th><td class=\"text\">{value}</td></tr>",
                // A name that is too long for a phone breaks between its words.
                Escaped(&setting.name).to_string().replace('_', "_<wbr>")
            ),
        );
    }
    html.push_str("</tbody></table>");
}

/// A section whose content is put anew at each refresh.
fn begin(html: &mut String, id: &str, title: &str) {
    put(
        html,
        format_args!(
            "<section aria-labelledby=\"{id}-h\"><h2 id=\"{id}-h\">{title}</h2><div id=\"{id}\" data-live>"
        ),
    );
}

fn end(html: &mut String) {
    html.push_str("</div></section>");
}

/// Names, and values that are HTML already.
fn facts(html: &mut String, facts: &[(&str, String)]) {
    html.push_str("<dl>");
    for (name, value) in facts {
        put(html, format_args!("<dt>{name}</dt><dd>{value}</dd>"));
    }
    html.push_str("</dl>");
}

fn row(html: &mut String, name: &str, values: impl Iterator<Item = String>) {
    put(html, format_args!("<tr><th scope=\"row\">{name}</th>"));
    for value in values {
        put(
            html,
            format_args!("<td class=\"number\">{}</td>", Escaped(&value)),
        );
    }
    html.push_str("</tr>");
}

fn perhaps(moment: Option<Moment>, now: Moment) -> String {
    moment.map_or_else(|| "never".to_owned(), |moment| When(moment, now).to_string())
}

/// A moment, and how far it is from another.
struct When(Moment, Moment);

impl Display for When {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(Moment(at), Moment(now)) = self;
        #[allow(clippy::cast_precision_loss)] // milliseconds between two moments of this service
        let secs = ((now.0 - at.0) as f64 / 1_000.0).round();
        let exactly = clock::rfc3339(*at);
        write!(formatter, "<time datetime=\"{exactly}\" title=\"{exactly}\">")?;
        if secs >= 1.0 {
            write!(formatter, "{} ago</time>", duration(secs))
        } else if secs <= -1.0 {
            write!(formatter, "in {}</time>", duration(-secs))
        } else {
            write!(formatter, "now</time>")
        }
    }
}

#[cfg(test)]
mod tests;
