//! Credentials that a program prints, `credential_process`. The one room that starts a process.
//!
//! The command line is split into words and run without a shell, as botocore and the AWS CLI do it (other SDKs pass it
//! to a shell; the documented syntax, words and double quotes, means the same to both, and an image without a shell is
//! enough). Whoever needs a shell writes `sh -c '…'`. The program gets no input; its standard error is not read, since
//! programs write secrets there; what it prints is bounded, and so is its time: then it is killed, with all
//! that it started. Settings of ours that are secrets are not in its environment.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded, select};
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Credentials;
use crate::entitlement::EpochMs;
use crate::shutdown::Stop;

/// Credentials are a few kilobytes.
const OUTPUT_BYTES_MAX: u64 = 64 * 1024;
/// Between two looks at whether a program that has closed its output has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Enough to start a program, beside what the allocator keeps for a thread.
const STACK_BYTES: usize = 256 * 1024;
/// What a program that fetches AWS credentials has no business with.
const NOT_PASSED_ON: [&str; 6] = [
    "SERVER_API_KEY",
    "REDIS_PASSWORD",
    "REDIS_URL",
    "REDIS_SENTINEL_PASSWORD",
    "SENTRY_DSN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
];

/// Runs the command and reads the credentials that it prints. The error is what happened and the remedy; it holds
/// nothing of the command's arguments or of what was printed.
pub fn credentials(command: &str, deadline: Duration, stop: &Stop) -> Result<Credentials, String> {
    let words = shlex::split(command)
        .ok_or("its quotes do not match; surround words that hold spaces with double quotes")?;
    let Some((program, arguments)) = words.split_first() else {
        return Err("it is empty; name a program".to_owned());
    };
    if stop.is_stopped() {
        // Whoever waited for the one that was killed must not start another.
        return Err(format!("{program} is not started, as the service stops"));
    }
    let output = run(program, arguments, deadline, stop)?;
    parse(&output).map_err(|what| {
        format!(
            "{program} printed something else than documented: {what}; it has to print {{\"Version\": 1, \
             \"AccessKeyId\": …, \"SecretAccessKey\": …, \"SessionToken\": …, \"Expiration\": …}}"
        )
    })
}

fn run(program: &str, arguments: &[String], deadline: Duration, stop: &Stop) -> Result<Vec<u8>, String> {
    let ends = Instant::now() + deadline;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // A group of its own, so that what it starts can be killed with it.
        .process_group(0);
    for variable in NOT_PASSED_ON {
        command.env_remove(variable);
    }
    let child = command.spawn().map_err(|error| {
        format!(
            "cannot start {program}: {error}; check its path and permissions (it is run without a shell: no ~, no \
             variables; write sh -c '…' for those)"
        )
    })?;
    let mut child = Running {
        child,
        is_reaped: false,
    };
    let output = child
        .output()
        .map_err(|error| format!("cannot read from {program}: {error}"))?;
    let too_slow = || {
        format!(
            "{program} did not end within {} seconds and was killed; run it by hand to see why",
            deadline.as_secs()
        )
    };
    let stopped = || format!("{program} was killed, as the service stops");
    let printed = select! {
        recv(output) -> printed => printed
            .map_err(|_| format!("cannot read from {program}"))?
            .map_err(|error| format!("cannot read from {program}: {error}"))?,
        recv(stop.channel()) -> _ => return Err(stopped()),
        default(ends.saturating_duration_since(Instant::now())) => return Err(too_slow()),
    };
    if printed.len() as u64 > OUTPUT_BYTES_MAX {
        return Err(format!(
            "{program} printed more than {OUTPUT_BYTES_MAX} bytes and was killed; it has to print credentials alone"
        ));
    }
    let status = loop {
        match child.ended() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() >= ends => return Err(too_slow()),
            Ok(None) if stop.wait(LOOK_AGAIN) => return Err(stopped()),
            Ok(None) => {}
            Err(error) => return Err(format!("cannot wait for {program}: {error}")),
        }
    };
    if status.success() {
        Ok(printed)
    } else {
        Err(format!(
            "{program} ended with {status}; run it by hand to see what it writes to standard error"
        ))
    }
}

/// A program that does not outlive its value.
struct Running {
    child: Child,
    /// It was waited for: its number may be another's by now.
    is_reaped: bool,
}

impl Running {
    /// What it prints, up to a little more than is allowed. Read by a thread of its own, as a pipe has no deadline;
    /// the thread ends with the program, whose end closes the pipe.
    fn output(&mut self) -> std::io::Result<Receiver<std::io::Result<Vec<u8>>>> {
        let stdout = self.child.stdout.take().ok_or(std::io::ErrorKind::BrokenPipe)?;
        let (tell, output) = bounded(1); // one result, and nobody waits to be rid of it
        std::thread::Builder::new()
            .name("credential-process".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let mut printed = Vec::new();
                let read = stdout.take(OUTPUT_BYTES_MAX + 1).read_to_end(&mut printed);
                // The reader may have given up.
                let _ = tell.send(read.map(|_| printed));
            })?;
        Ok(output)
    }

    fn ended(&mut self) -> std::io::Result<Option<ExitStatus>> {
        let ended = self.child.try_wait()?;
        self.is_reaped |= ended.is_some();
        Ok(ended)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_reaped {
            return;
        }
        // It may have ended and left others that hold its output open: they are of its group.
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Version 1 of what a program prints.
fn parse(output: &[u8]) -> Result<Credentials, String> {
    let printed: Value = serde_json::from_slice(output).map_err(|_| "it is not JSON")?;
    if printed.get("Version") != Some(&Value::from(1)) {
        return Err("its Version is not 1".to_owned());
    }
    let optional = |name: &str| match printed.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(format!("its {name} is not a text")),
    };
    let field = |name: &str| optional(name)?.ok_or_else(|| format!("it has no {name}"));
    let expires_at = optional("Expiration")?
        .map(|text| {
            OffsetDateTime::parse(&text, &Rfc3339)
                .ok()
                .and_then(|at| i64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok())
                .map(EpochMs)
                .ok_or("its Expiration is not a date")
        })
        .transpose()?;
    Ok(Credentials {
        access_key_id: field("AccessKeyId")?,
        secret_access_key: field("SecretAccessKey")?,
        session_token: optional("SessionToken")?,
        expires_at,
    })
}

#[cfg(test)]
mod tests;
