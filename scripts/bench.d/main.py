"""Measures every row and every contender, round after round. Started by scripts/bench, which builds what is needed."""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import chart
import growth
import measure
import readme
import refresh
import report
import results
import rows
from stage import Failed, redis, run

ROOT = Path(__file__).resolve().parents[2]
# A run with fewer rounds or less time is not complete: it is a quick look.
ROUNDS, SECONDS = 5, 4


@dataclass(frozen=True)
class Programs:
    """Paths of the programs."""

    service: Path
    bench: Path
    node_worker: Path
    fauxqs: Path
    # The service of another revision.
    revision: Path | None = None


@dataclass(frozen=True)
class Certificate:
    """The certificate of localhost, made for this run."""

    authority: Path
    chain: Path
    key: Path


QUICK = "scripts/bench --quick compares instructions with an earlier revision: see scripts/bench --quick --help."


def at_least_one(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} measures nothing: the minimum is 1")
    return number


def contenders_named(text):
    return rows.known("contender", text.split(","), list(rows.WARM_UP_SECS))


def program(text):
    path = Path(text)
    if not os.access(path, os.X_OK) or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is not an executable program")
    return path


def arguments():
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__, epilog=QUICK, allow_abbrev=False)
    parser.add_argument("--main", action="store_true", help="only the rows that have a target")
    parser.add_argument("--rows", type=lambda text: text.split(","), help="only these rows (names, with commas between)")
    parser.add_argument("--contenders", type=contenders_named, help=f"only these, with commas between: {', '.join(rows.WARM_UP_SECS)}")
    parser.add_argument("--rounds", type=at_least_one, default=ROUNDS)
    parser.add_argument("--minute-rounds", type=at_least_one, help="rounds of the one-minute row; with --main 1, else as --rounds")
    parser.add_argument("--seconds", type=at_least_one, default=SECONDS, help="measured in each run, after the warm-up")
    parser.add_argument("--binary", type=program, help="measure this program as the service")
    parser.add_argument("--against", metavar="REVISION", help="the binary of this revision is one more contender in every row")
    parser.add_argument("--growth", action="store_true", help="instead: how cost and memory grow")
    parser.add_argument("--refresh", action="store_true", help="instead: how long messages take while purged customers are refreshed")
    parser.add_argument("--readme", action="store_true", help="write the last complete results into README.md, tests/README.md, RESULTS.md and its chart, and end")
    parser.add_argument("--validate", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--programs", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--revision-program", type=program, help=argparse.SUPPRESS)
    parser.add_argument("--shipped", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tools", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--revision", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, required=True, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.against and options.growth:
        parser.error("--growth measures the service alone: leave --against out")
    return options


def text_of(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()


def machine():
    cpu = next(
        (line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": cpu,
        "memory_gib": round(memory_kib / 1024**2),
        "kernel": f"{platform.system()} {platform.release()}",
        "redis": text_of("redis-server", "--version").split("v=")[1].split()[0],
        "node": text_of("node", "--version").lstrip("v"),
    }


def certificate(directory):
    """Creates an authority for this run, and a certificate of localhost that it has signed."""
    made = Certificate(directory / "authority.pem", directory / "localhost.pem", directory / "localhost.key")
    request, authority_key = directory / "localhost.csr", directory / "authority.key"
    extensions = directory / "extensions"
    extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subprocess.run(
        ["openssl", "req", "-x509", *new_key, "-keyout", authority_key, "-out", made.authority, "-days", "2"]
        + ["-subj", "/CN=authority of this run"],
        check=True,
        capture_output=True,
    )
    subprocess.run(
        ["openssl", "req", *new_key, "-keyout", made.key, "-out", request, "-subj", "/CN=localhost"],
        check=True,
        capture_output=True,
    )
    subprocess.run(
        ["openssl", "x509", "-req", "-in", request, "-CA", made.authority, "-CAkey", authority_key, "-days", "2"]
        + ["-CAcreateserial", "-extfile", extensions, "-out", made.chain],
        check=True,
        capture_output=True,
    )
    return made


def redis_alone(programs, seconds, log):
    """Messages per second that Redis itself can write."""
    found = {}
    for row in rows.named(["usage", "list-50"]):
        with redis(log) as server:
            counts = run([programs.bench, "redis-limit", f"--redis={server.port}", f"--seconds={seconds}", *row.mix_flags()])
        found[row.title] = counts["messages"] / counts["seconds"]
    return found


def rounds_of(row, options):
    if row.name != "minute":
        return options.rounds
    return options.minute_rounds or (1 if options.main else options.rounds)


def measured(options, chosen, programs, result, save):
    """All rounds. The figures of each run are saved at once."""
    log, cert = options.out / "log", certificate(options.out)
    for number in range(options.rounds):
        for row in chosen:
            if number >= rounds_of(row, options):
                continue
            # The order rotates, so that none always benefits from the caches that another has warmed.
            turn = number % len(row.contenders)
            for contender in row.contenders[turn:] + row.contenders[:turn]:
                if options.contenders and contender not in options.contenders:
                    continue
                name = f"{row.name}-{contender.replace(' ', '-')}-{number}"
                try:
                    figures = measure.one(programs, row, contender, options.seconds, cert, log / name)
                except (Failed, OSError, subprocess.SubprocessError) as failure:
                    result["failures"].append(f"{contender}, {row.title}, round {number + 1}: {failure}")
                    print(f"round {number + 1}  {row.name:15} {contender:12} failed: {failure}", flush=True)
                    continue
                result["runs"].setdefault(row.name, {}).setdefault(contender, []).append(figures)
                save()
                summary = f"{figures['messages_per_second']:>10,.0f}/s {figures['messages_per_cpu_second']:>10,.0f} per CPU-s"
                if "peak_kib" in figures:
                    summary += f"{figures['peak_kib'] / 1024:>7.1f} MiB"
                print(f"round {number + 1}  {row.name:15} {contender:12} {summary}", flush=True)
        if {"usage", "list-50"} & {row.name for row in chosen} and not options.contenders:
            for title, rate in redis_alone(programs, 2, log / "redis-alone").items():
                result.setdefault("redis_limit", {}).setdefault(title, []).append(rate)


def main():
    options = arguments()
    chosen = [row for row in rows.ROWS if row.main or not options.main]
    # With --growth, they are parts of the names of its tables.
    if options.rows and not options.growth:
        chosen = rows.named(options.rows)
    if options.against:
        chosen = [rows.with_revision(row) for row in chosen]
    if options.validate:
        return 0
    if options.readme:
        return readme.write(ROOT, options.results)
    programs = Programs(
        options.binary or options.shipped or options.programs / "persistent-cache-service",
        options.programs / "examples" / "bench",
        options.tools / "bench-node" / "worker.mjs",
        options.tools / "bench-node" / "node_modules" / "fauxqs" / "dist" / "cli.js",
        options.revision_program,
    )
    shutil.rmtree(options.out / "log", ignore_errors=True)
    result = {
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()) + " UTC",
        "revision": options.revision,
        "against": options.against,
        "machine": machine(),
        "load_before": os.getloadavg()[0],
        "rounds": options.rounds,
        "seconds": options.seconds,
        "binary": str(options.binary or "static release build"),
        "binary_bytes": programs.service.stat().st_size,
        "is_static": options.binary is None,
        "runs": {},
        "failures": [],
    }
    if result["load_before"] > 1:
        print(f"others use this machine as well (load {result['load_before']:.1f}), so these figures are not reliable")
    if options.refresh:
        return refresh.measure(options, programs)
    if options.growth:
        return growth.measured(options, programs, result)
    is_partial = options.rows or options.contenders or options.main or options.binary or options.minute_rounds
    is_complete = not is_partial and options.rounds >= ROUNDS and options.seconds >= SECONDS
    last = options.out / "last.json"

    def save():
        last.write_text(json.dumps(result, indent=1))

    began = time.monotonic()
    try:
        measured(options, chosen, programs, result, save)
    finally:
        for key in options.out.glob("*.key"):
            key.unlink()
    result["took_seconds"] = round(time.monotonic() - began)
    save()
    (options.out / "chart.svg").write_text(chart.svg(result))
    if is_complete and not result["failures"]:
        results.keep(options.results, "bench", result)
    print(f"\n{report.whole(result)}\n\n{result['took_seconds']} s; figures: {last}, chart: {options.out / 'chart.svg'}")
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
