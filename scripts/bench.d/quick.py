"""Regressions: how many instructions the service executes for fixed loads, compared with an earlier build.

On a shared machine times vary, and instruction counts hardly do. `perf stat` counts them where the processor allows it,
otherwise callgrind, which is slow. The complete service runs against the fake SQS and a Redis, with one poller and one worker,
so that the size of each batch hardly depends on chance."""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import contenders
import report
import rows
from main import Programs
from stage import Failed, redis, run, started_queue, wait_until

ONE_OF_EACH = {"CONSUMERS": "1", "WORKERS": "1", "LOG_LEVEL": "warn"}


@dataclass(frozen=True)
class Load:
    title: str
    row: rows.Row
    messages: int
    # How much two counts of the same build may differ: at batch 1, the number of deletions per call varies.
    noise: float = 0.01


USAGE = rows.Row("quick", "", (rows.SERVICE,), customers=1_000)
LOADS = [
    Load("start, first poll, stop", USAGE, 0),
    Load("usage, batch 10", USAGE, 4_000),
    Load("usage, batch 1", replace(USAGE, batch=1), 1_000, noise=0.08),
    Load("entitlements of 50 features, batch 10", replace(USAGE, mix="entitlements", features=50), 300),
]


def perf_counts():
    """True if this machine lets perf count instructions."""
    try:
        done = subprocess.run(["perf", "stat", "-x,", "-e", "instructions:u", "true"], capture_output=True, text=True)
    except FileNotFoundError:
        return False
    return done.returncode == 0 and re.match(r"\d+,", done.stderr.strip()) is not None


class Counter:
    """What runs around the service to count."""

    def __init__(self):
        self.by_perf = perf_counts()
        self.name = "perf stat -e instructions:u" if self.by_perf else "valgrind --tool=callgrind"

    def command(self, binary, output):
        if self.by_perf:
            return ["perf", "stat", "-x,", "-e", "instructions:u", "-o", output, binary]
        return ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", f"--log-file={output}", binary]

    def read(self, output):
        text = Path(output).read_text()
        pattern = r"^(\d+),.*instructions" if self.by_perf else r"Collected : (\d+)"
        found = re.search(pattern, text, re.MULTILINE)
        if not found:
            raise Failed(f"no count of instructions in: {text[-300:]}")
        return int(found[1])


def instructions(counter, programs, binary, load, log):
    """From the start of the process to its end."""
    with ExitStack() as stack, tempfile.NamedTemporaryFile() as output:
        server = stack.enter_context(redis(log))
        run([programs.bench, "prime", f"--redis={server.port}", *load.row.mix_flags()])
        queue = stack.enter_context(started_queue(programs, load.row, log))
        counted = replace(programs, service=counter.command(binary, output.name))
        child = stack.enter_context(
            contenders.start(rows.SERVICE, counted, load.row, server, queue, None, log, ONE_OF_EACH)
        )

        def comes_to(what, holds):
            wait_until(what, 120, lambda: child.poll() is not None or holds(queue.counts()))
            if child.poll() is not None:
                raise Failed(f"the service ended with status {child.returncode}, see {log}")

        comes_to("a first poll", lambda counts: counts["first_receive_us"] > 0)
        queue.ask(f"start?messages={load.messages}")
        comes_to("all messages deleted", lambda counts: counts["deleted"] >= load.messages)
        # Only the service is stopped; perf waits for it.
        os.kill(service_of(child.pid) if counter.by_perf else child.pid, signal.SIGTERM)
        child.wait(60)
        return counter.read(output.name)


def service_of(pid):
    """The child of perf."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


BASE = "BASE, in the first place: the revision to compare with; HEAD~1, or HEAD if there are changes that are not committed."


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench --quick [BASE]", description=__doc__, epilog=BASE)
    parser.add_argument("--threshold", type=float, default=1.05, help="how many times the base's count is allowed")
    parser.add_argument("--bench", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--base", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--base-revision", help=argparse.SUPPRESS)
    parser.add_argument("--validate", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--head", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, required=True, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.validate:
        return 0
    counter, log = Counter(), options.out / "log" / "quick"
    programs = Programs(options.head, options.bench, Path(), Path())
    lines, worse = [], []
    for load in LOADS:
        base = instructions(counter, programs, options.base, load, log)
        head = instructions(counter, programs, options.head, load, log)
        allowed = options.threshold + load.noise
        is_worse = head / base > allowed
        worse += [f"{load.title}: {head / base:.3f}, allowed {allowed:.2f}"] * is_worse
        print(f"{load.title}: {head / base:.3f}", flush=True)
        each = f"{head / load.messages:,.0f}" if load.messages else "-"
        lines.append([load.title, f"{base:,}", f"{head:,}", each, f"{head / base:.3f}", f"{allowed:.2f}", "more" if is_worse else ""])
    print(report.table(["load", f"base {options.base_revision}", "now", "now, per message", "now : base", "allowed", ""], lines))
    print(f"\ninstructions from start to stop, by {counter.name}; fails above what is allowed (--threshold, and the noise of the load)")
    if worse:
        print(f"failed: {'; '.join(worse)}")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
