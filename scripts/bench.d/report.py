"""The tables of a run, and whether each target was reached."""

from statistics import median

import rows
from rows import LIMIT, NODE, REVISION, SERVICE

MIB = 1024


def values(runs, row, contender, *path):
    """The figure at this path, of every round that has it."""
    found = []
    for figures in runs.get(row, {}).get(contender, []):
        for step in path:
            figures = figures.get(step) if isinstance(figures, dict) else None
        if figures is not None:
            found.append(figures)
    return found


def middle(runs, row, contender, *path):
    found = values(runs, row, contender, *path)
    return median(found) if found else None


def shown(number, unit=""):
    """With the significant digits only."""
    if number is None:
        return "-"
    if abs(number) >= 1_000:
        text = f"{number:,.0f}"
    elif abs(number) >= 100:
        text = f"{number:.0f}"
    elif abs(number) >= 10:
        text = f"{number:.1f}"
    else:
        text = f"{number:.3g}"
    return text + unit


def spread(runs, row, contender, *path, scale=1.0, unit=""):
    """The median, and in brackets the minimum and the maximum."""
    found = [value * scale for value in values(runs, row, contender, *path)]
    if not found:
        return "-"
    if len(found) == 1:
        return shown(found[0], unit)
    return f"{shown(median(found), unit)} ({shown(min(found))} - {shown(max(found))})"


def table(head, lines):
    """A Markdown table, aligned so that it is readable as text."""
    lines = [head, *lines]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    texts = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in lines]
    texts.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(texts)


def measured(result):
    """The rows that were measured, in the table's order."""
    return [row for row in rows.ROWS if result["runs"].get(row.name)]


def contenders_of(result, row):
    return (rows.with_revision(row) if result.get("against") else row).contenders


def speed_table(result):
    runs, lines = result["runs"], []
    for row in measured(result):
        if row.kind != "throughput":
            continue
        for contender in contenders_of(result, row):
            of = (runs, row.name, contender)
            if not values(*of, "messages_per_second"):
                continue
            lines.append(
                [
                    row.title,
                    contender,
                    spread(*of, "messages_per_second"),
                    spread(*of, "cpu_seconds_per_1000"),
                    shown(middle(*of, "messages_per_cpu_second")),
                    micros(middle(*of, "redis_cpu_seconds_per_1000")),
                    micros(middle(*of, "queue_cpu_seconds_per_1000")),
                    spread(*of, "peak_kib", scale=1 / MIB),
                    shown(middle(*of, "redis_calls_per_message")),
                    shown(middle(*of, "redis_bytes_per_message")),
                ]
            )
    head = ["load", "contender", "messages/s", "CPU s per 1,000", "messages per CPU s", "Redis µs", "queue µs", "peak MiB"]
    return table([*head, "Redis calls", "Redis bytes"], lines)


def micros(seconds_per_1000):
    """CPU time of Redis or the queue per message, if there was any."""
    return shown(seconds_per_1000 * 1_000 if seconds_per_1000 else None)


def times_table(result):
    runs, lines = result["runs"], []
    for row in measured(result):
        if row.kind != "times":
            continue
        for contender in contenders_of(result, row):
            for load, rate in (("full", "top_rate"), ("half", "messages_per_second")):
                of = (runs, row.name, contender)
                if not values(*of, rate):
                    continue
                for what, name in (("to_written", "received -> written"), ("to_deleted", "received -> deleted")):
                    count = middle(*of, load, what, "count")
                    cells = [f"{count or 0:,.0f}"]
                    for quantile, least in (("p50", 10), ("p99", 100), ("p999", 1_000)):
                        enough = (count or 0) >= least
                        cells.append(spread(*of, load, what, f"{quantile}_us", scale=1e-3) if enough else "-")
                    rate_text = f"{load} rate, {shown(middle(*of, rate))}/s"
                    lines.append([row.title, contender, rate_text, name, *cells])
    return table(["load", "contender", "rate", "time", "timed", "p50 ms", "p99 ms", "p99.9 ms"], lines)


def footprint_table(result):
    runs, lines = result["runs"], []
    for contender in (SERVICE, REVISION, NODE) if result.get("against") else (SERVICE, NODE):
        # Start and idle memory do not depend on the load. A round trip would count as part of the start.
        of_all = {"all": {contender: []}}
        for row in measured(result):
            if row.round_trip_ms == 0 and not row.tls:
                of_all["all"][contender] += runs[row.name].get(contender, [])
        minute = (runs, "minute", contender)
        lines.append(
            [
                contender,
                spread(of_all, "all", contender, "start_to_first_poll_ms"),
                spread(of_all, "all", contender, "idle_kib", scale=1 / MIB),
                spread(*minute, "loaded_kib", scale=1 / MIB),
                spread(*minute, "peak_kib", scale=1 / MIB),
            ]
        )
    head = ["contender", "start to first poll, ms", "idle MiB", "after a minute MiB", "peak MiB"]
    return table(head, lines)


def ratio(one, other):
    return one / other if one and other else None


def targets(result):
    """(what, at least or at most, target, value or None): set before the first version was written."""
    runs = result["runs"]

    def per_cpu(row):
        return ratio(
            middle(runs, row, SERVICE, "messages_per_cpu_second"), middle(runs, row, NODE, "messages_per_cpu_second")
        )

    def of_limit(row):
        return ratio(middle(runs, row, SERVICE, "messages_per_second"), middle(runs, row, LIMIT, "messages_per_second"))

    def mib(row, figure):
        kib = middle(runs, row, SERVICE, figure)
        return kib / MIB if kib else None

    written_us = middle(runs, "times", SERVICE, "half", "to_written", "p99_us")
    return [
        ("messages per CPU-second, service : node worker, usage, batch 10", ">=", 20, per_cpu("usage")),
        ("the same, entitlements of 50 features", ">=", 10, per_cpu("list-50")),
        ("the same, usage, batch 1", ">=", 15, per_cpu("usage-1")),
        ("messages/s, service : bare client, batch 10, round trip 20 ms", ">=", 0.9, of_limit("usage-20ms")),
        ("messages/s, service : bare client, batch 10, round trip 0, usage", ">=", 0.5, of_limit("usage")),
        (
            "memory at peak, node worker : service, entitlements of 50 features",
            ">=",
            10,
            ratio(middle(runs, "minute", NODE, "peak_kib"), middle(runs, "minute", SERVICE, "peak_kib")),
        ),
        ("resident memory idle (of the runs of one minute), MiB", "<=", 12, mib("minute", "idle_kib")),
        ("resident memory at peak, entitlements of 50 features, MiB", "<=", 25, mib("minute", "peak_kib")),
        ("received -> written p99 at half of the top rate, ms", "<=", 10, written_us and written_us / 1_000),
        ("start to first poll (of the runs of usage, batch 10), ms", "<=", 50, middle(runs, "usage", SERVICE, "start_to_first_poll_ms")),
        ("static binary, MB", "<=", 8, result["binary_bytes"] / 1e6 if result.get("is_static") else None),
    ]


def verdict(sense, target, value):
    if value is None:
        return "not measured"
    return "reached" if (value >= target if sense == ">=" else value <= target) else "missed"


def targets_table(result):
    lines = [
        [what, f"{sense} {target}", shown(value), verdict(sense, target, value)]
        for what, sense, target, value in targets(result)
    ]
    return table(["target", "required", "measured", ""], lines)


def cpu_with_redis(runs, row, contender):
    """CPU time of the contender and Redis together per message: the median of the rounds."""
    parts = [values(runs, row, contender, name) for name in ("cpu_seconds_per_1000", "redis_cpu_seconds_per_1000")]
    sums = [own + of_redis for own, of_redis in zip(*parts)]
    return median(sums) if sums else None


def comparisons(result):
    """(what, at least or at most, target, value or None, value of the other revision or None)."""
    runs = result["runs"]

    def of_revision(figure):
        return middle(runs, "usage", REVISION, figure), middle(runs, "usage", SERVICE, figure)

    redis_then, redis_now = of_revision("redis_cpu_seconds_per_1000")
    rate_then, rate_now = of_revision("messages_per_second")
    lines = [
        ("Redis CPU of a message, revision : service, usage, batch 10", ">=", 1.6, ratio(redis_then, redis_now), None)
    ]
    for row, target in (("usage", 8), ("list-50", 3.5), ("usage-1", 20)):
        node = cpu_with_redis(runs, row, NODE)
        now, then = (ratio(node, cpu_with_redis(runs, row, contender)) for contender in (SERVICE, REVISION))
        what = f"CPU of worker and Redis for a message, node worker : service, {rows.named([row])[0].title}"
        lines.append((what, ">=", target, now, then))
    what = "messages/s on these cores, service : revision, usage, batch 10"
    lines.append((what, ">=", 1.15, ratio(rate_now, rate_then), None))
    for what, figure, target in (("idle", "idle_kib", 10), ("at peak, entitlements of 50 features", "peak_kib", 25)):
        now, then = (middle(runs, "minute", contender, figure) for contender in (SERVICE, REVISION))
        lines.append((f"resident memory {what}, MiB", "<=", target, now and now / MIB, then and then / MIB))
    return lines


def comparison_table(result):
    """The comparison with the other revision, if there was one."""
    if not result.get("against"):
        return ""
    lines = [
        [what, f"{sense} {target}", shown(value), shown(then), verdict(sense, target, value)]
        for what, sense, target, value, then in comparisons(result)
    ]
    return table([f"compared with revision {result['against']}", "required", "measured", "revision", ""], lines)


# What such a node worker reached when the targets were set, in messages per CPU-second. With less, the comparison would be unfair.
FAIR_NODE = {"usage": 4_300, "list-50": 500, "usage-1": 780}


def fairness_table(result):
    lines = []
    for row in rows.named(FAIR_NODE):
        value = middle(result["runs"], row.name, NODE, "messages_per_cpu_second")
        if value:
            least = FAIR_NODE[row.name]
            ours = middle(result["runs"], row.name, SERVICE, "messages_per_cpu_second")
            judgement = "fair" if value >= least else "slower than it should be"
            lines.append([row.title, f"{least:,}", shown(value), judgement, shown(ratio(ours, max(least, value)))])
    head = ["node worker, messages per CPU-second", "when the targets were set", "measured", "", "service : the faster of the two"]
    return table(head, lines) if lines else ""


def notes(result):
    """What a reader needs to interpret the tables."""
    machine = result["machine"]
    lines = [
        f"{machine['cores']} cores of {machine['cpu']}, {machine['memory_gib']} GiB; {machine['kernel']}; "
        f"Redis {machine['redis']}, Node {machine['node']}; {result['date']}, revision {result['revision']}; "
        f"up to {result['rounds']} rounds of {result['seconds']} s, with the contenders taking turns.",
        "The queue, Redis and the contender share these cores. "
        f"Load average before the run: {result['load_before']:.1f}" + (" (from the builds before it, or from other work)." if result["load_before"] > 1 else "."),
        "Median (minimum - maximum) of the rounds; the targets are compared with medians. CPU is user and system time of the "
        "contender's process; Redis µs and queue µs are the CPU time per message of the other two.",
        "Redis calls include those inside scripts; bytes are the sum of both directions. A round trip of 20 ms only delays the "
        "queue: ten pollers with batches of ten then receive at most 5,000 messages/s.",
        "received -> written: from the delivery of a message by the queue until Redis publishes that the key is set, for one "
        "message of 50; received -> deleted: until the queue receives the deletion, for all messages. Percentiles are the upper "
        "ends of slots that are 3 % wide; p99 requires 100 times, p99.9 requires 1,000.",
        *([f"{REVISION}: the service as {result['against']} ships it."] if result.get("against") else []),
        f"{LIMIT}: the service's own queue client with ten pollers, which only receives and deletes."
    ]
    for row, of_row in result["runs"].items():
        for contender, runs in of_row.items():
            wrong = sum(run.get("keys_wrong", 0) for run in runs)
            if wrong:
                total = sum(run["keys_right"] for run in runs) + wrong
                lines.append(f"{contender}, {row}: {wrong} of {total} keys did not hold the newest state at the end.")
    lines += [f"Not counted: {failure}" for failure in result["failures"]]
    return "\n".join(f"- {line}" for line in lines)


def redis_table(result):
    redis = result.get("redis_limit") or {}
    lines = [[name, shown(median(found)), f"{shown(min(found))} - {shown(max(found))}"] for name, found in redis.items()]
    return table(["Redis alone: plain SETs in pipelines of 50", "messages/s", "minimum - maximum"], lines) if lines else ""


def whole(result):
    parts = [
        speed_table(result),
        redis_table(result),
        times_table(result),
        footprint_table(result),
        targets_table(result),
        comparison_table(result),
        fairness_table(result),
        notes(result),
    ]
    return "\n\n".join(part for part in parts if part.count("\n") > 1 or part.startswith("-"))
