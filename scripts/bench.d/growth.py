"""How the cost of a message and the memory of the service grow: with the keys in Redis, with the features of a customer, with
the length of a body, and with the instances on one queue.

Ends with an estimate for a million messages per second, calculated from these figures."""

import json
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace

import contenders
import report
import results
import rows
from meter import Meter, alive, checked
from stage import Failed, memory_kib, redis, run, started_queue, wait_until

MILLION = 1_000_000
# A run with fewer rounds or less time is not complete.
ROUNDS, SECONDS = 2, 4


@dataclass(frozen=True)
class Step:
    """One measurement of a table."""

    table: str
    title: str
    load: rows.Row
    instances: int = 1
    probes: int = 0


def usage(**changes):
    return replace(rows.Row("growth", "", (rows.SERVICE,)), **changes)


def entitlements(features, customers, **changes):
    return usage(mix="entitlements", features=features, customers=customers, **changes)


def counted(number, what):
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


# A customer with two features has six keys: entitlements, metadata, one usage, and the timestamp of each.
KEYS = [
    Step("keys in Redis", f"{keys:,} keys", usage(features=2, customers=keys // 6))
    for keys in (1_000, 100_000, 1_000_000)
]
FEATURES = [
    Step("features of a customer", counted(features, "feature"), entitlements(features, customers))
    for features, customers in ((1, 2_000), (5, 2_000), (50, 1_000), (300, 200))
]
# As many features as fit into the longest body that SQS accepts. Ten bodies of 1 MiB do not fit into one of its answers.
BODIES = [
    Step("length of a body", title, entitlements(features, 50, batch=batch))
    for title, features, batch in (("256 KiB", 489, 10), ("1 MiB", 1_950, 1))
]
INSTANCES = [
    Step("instances on one queue", counted(count, "instance"), usage(), count) for count in (1, 2, 4, 8)
] + [
    Step("instances on one queue", f"{counted(count, 'instance')}, round trip 20 ms", usage(round_trip_ms=20), count)
    for count in (1, 2, 4, 8)
]
BATCHES = [Step("size of a batch", f"batch {batch}", usage(batch=batch)) for batch in (1, 10)]
STEPS = KEYS + FEATURES + BODIES + INSTANCES + BATCHES


def one(programs, step, seconds, log):
    """The figures of one step."""
    row = step.load
    with ExitStack() as stack:
        server = stack.enter_context(redis(log))
        mix = [*row.mix_flags(), f"--probes={step.probes}"]
        run([programs.bench, "prime", f"--redis={server.port}", *mix])
        queue = stack.enter_context(started_queue(programs, row, log, more=[f"--probes={step.probes}"]))
        children = [
            stack.enter_context(contenders.start(rows.SERVICE, programs, row, server, queue, None, log))
            for _ in range(step.instances)
        ]
        # Each of the ten pollers of an instance has called once.
        wait_until("first polls", 30, lambda: all(map(alive, children)) and queue.counts()["receives"] >= 10 * step.instances)
        time.sleep(1)
        idle = [memory_kib(child.pid)[0] for child in children]
        queue.ask("start")
        time.sleep(2)
        before, meter = queue.counts()["deleted"], Meter(children, server, queue)
        time.sleep(seconds)
        all(map(alive, children))
        figures = meter.figures(queue.counts()["deleted"] - before, True)
        messages = queue.drain(120)
        counts = queue.counts()
        peaks = [memory_kib(child.pid)[1] for child in children]
        memory = server.info("memory")
        # Compared without probes, because their number changes the messages.
        if step.probes == 0:
            figures |= checked(programs, row, server, messages, more=["--probes=0"])
        return figures | {
            "body_bytes": queue.body_bytes,
            "keys": int(server.ask("DBSIZE")),
            "redis_mib": int(memory["used_memory"]) / 1024**2,
            "idle_kib": max(idle),
            "peak_kib": max(peaks),
            "all_peaks_kib": sum(peaks),
            "messages_per_receive": messages / max(counts["receives"] - counts["empty_receives"], 1),
            "messages_per_delete_call": messages / max(counts["deletes"], 1),
        }


def measured(options, programs, result):
    """Measures all steps, round after round, and prints the tables."""
    chosen = [step for step in STEPS if not options.rows or any(name in step.table for name in options.rows)]
    last = options.out / "last-growth.json"
    for number in range(options.rounds):
        for step in chosen:
            try:
                figures = one(programs, step, options.seconds, options.out / "log" / f"growth-{number}")
            except (Failed, OSError) as failure:
                result["failures"].append(f"{step.table}, {step.title}: {failure}")
                print(f"round {number + 1}  {step.title:40} failed: {failure}", flush=True)
                continue
            result["runs"].setdefault(step.table, {}).setdefault(step.title, []).append(figures)
            last.write_text(json.dumps(result, indent=1))
            print(f"round {number + 1}  {step.title:40} {figures['messages_per_second']:>10,.0f}/s", flush=True)
    is_complete = chosen == STEPS and not options.binary and options.rounds >= ROUNDS and options.seconds >= SECONDS
    if is_complete and not result["failures"]:
        results.keep(options.results, "growth", result)
    print("\n" + tables(result) + "\n\n" + estimate(result))
    return 1 if result["failures"] else 0


def tables(result):
    head = ["messages/s", "CPU s per 1,000", "Redis CPU s per 1,000", "peak MiB (each)", "idle MiB", "Redis MiB", "keys", "body bytes"]
    parts = []
    for name, steps in result["runs"].items():
        lines = []
        for title in steps:
            of = (result["runs"], name, title)
            lines.append(
                [
                    title,
                    report.spread(*of, "messages_per_second"),
                    report.spread(*of, "cpu_seconds_per_1000"),
                    report.shown(report.middle(*of, "redis_cpu_seconds_per_1000")),
                    report.spread(*of, "peak_kib", scale=1 / 1024),
                    report.shown(report.middle(*of, "idle_kib") / 1024),
                    report.shown(report.middle(*of, "redis_mib")),
                    report.shown(report.middle(*of, "keys")),
                    report.shown(report.middle(*of, "body_bytes")),
                ]
            )
        parts.append(report.table([name, *head], lines))
    return "\n\n".join(parts)


SPLIT = """The limit is Redis, which writes on one thread. All keys of an environment are in one slot of a cluster, so one primary is
the limit of one environment. Beyond that, use several environments: each ENVIRONMENT_PREFIX with its own queue, instances and
Redis. Several databases of one Redis share its thread, so REDIS_DB separates environments but adds no capacity."""

# Planned share of each core: the rest is for peaks, and for other work on the machine.
PLANNED_SHARE = 0.6
# SQS standard queues in us-east-1, beyond the first million calls. A call of up to 64 KiB counts as one.
DOLLARS_PER_MILLION_CALLS = 0.40


def estimate(result):
    """What a million usage messages per second would need."""
    lines = []
    for title in ("batch 1", "batch 10"):
        of = (result["runs"], "size of a batch", title)
        cpu = report.middle(*of, "cpu_seconds_per_1000")
        if not cpu:
            continue
        redis_cpu = report.middle(*of, "redis_cpu_seconds_per_1000")
        calls = 1 / report.middle(*of, "messages_per_receive") + 1 / report.middle(*of, "messages_per_delete_call")
        lines.append(
            [
                title,
                report.shown(cpu * MILLION / 1_000 / PLANNED_SHARE),
                report.shown(redis_cpu * MILLION / 1_000 / PLANNED_SHARE),
                report.shown(calls * MILLION),
                report.shown(calls * 86_400 * DOLLARS_PER_MILLION_CALLS, " $"),
            ]
        )
    if not lines:
        return ""
    head = ["1,000,000 usage messages/s, calculated", "cores of the service", "Redis primaries", "queue calls/s", "SQS a day"]
    return report.table(head, lines) + (
        f"\n\nAssumptions: the cost per message as measured here; {PLANNED_SHARE:.0%} of each core is used; one Redis primary "
        f"uses one core; {DOLLARS_PER_MILLION_CALLS} $ per million calls (receive and delete; sending costs the publisher as "
        "much again); batches as full as here."
        f"\n\n{SPLIT}"
    )
