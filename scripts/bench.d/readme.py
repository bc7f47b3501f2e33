"""The generated blocks of RESULTS.md and README.md: written from the last whole run and the last run of growth, never by hand."""

import json

import chart
import growth
import report
from rows import NODE, SERVICE

RESULTS = "scripts/bench.d/RESULTS.md"
README = "README.md"

SPEED = """![Messages per CPU-second](scripts/bench.d/chart.svg)

{table}

The Node worker combines `sqs-consumer` with the SDK's own Redis cache class. Measured on {date}, revision {revision},
{cores} cores, with a simulated queue. [All results]({results}).
"""

GROWTH = """Measured on {date}, revision {revision}, {rounds} rounds of {seconds} s. The service runs alone; *peak* and *idle* are the
memory of one instance.

{tables}

{estimate}
"""


def of_growth(result):
    facts = {name: result[name] for name in ("date", "revision", "rounds", "seconds")}
    return GROWTH.format(tables=growth.tables(result), estimate=growth.estimate(result), **facts)


def of_speed(result):
    """The few figures of README.md."""
    per_cpu, minute = "messages_per_cpu_second", "minute"
    figures = [
        ("messages per CPU-second: usage, batch 1", "usage-1", per_cpu, 1, ""),
        ("messages per CPU-second: usage, batch 10", "usage", per_cpu, 1, ""),
        ("messages per CPU-second: entitlements of 50 features, batch 10", "list-50", per_cpu, 1, ""),
        ("resident memory, idle", minute, "idle_kib", report.MIB, " MiB"),
        ("resident memory, peak with 50 features", minute, "peak_kib", report.MIB, " MiB"),
        ("start to first poll", "usage", "start_to_first_poll_ms", 1, " ms"),
    ]
    lines = ["| median | this service | Node worker |", "|---|---|---|"]
    for title, row, figure, scale, unit in figures:
        medians = [report.middle(result["runs"], row, contender, figure) for contender in (SERVICE, NODE)]
        lines.append(f"| {title} | {' | '.join(report.shown(value and value / scale, unit) for value in medians)} |")
    return SPEED.format(
        table="\n".join(lines),
        date=result["date"][:10],
        revision=result["revision"],
        cores=result["machine"]["cores"],
        results=RESULTS,
    )


def replace(path, block, text):
    """Puts a text between the two markers of a block."""
    begin, end = f"<!-- {block}:begin -->\n", f"<!-- {block}:end -->"
    before, rest = path.read_text().split(begin, 1)
    path.write_text(before + begin + text.rstrip() + "\n" + end + rest.split(end, 1)[1])


def write(root, result_file, growth_file):
    """Puts the tables of the last whole run, and of growth, where users read them."""
    if not result_file.exists():
        raise SystemExit(f"there is no whole run yet ({result_file}): run scripts/bench first")
    result = json.loads(result_file.read_text())
    (root / "scripts" / "bench.d" / "chart.svg").write_text(chart.svg(result))
    replace(root / RESULTS, "bench", "![Messages per CPU-second](chart.svg)\n\n" + report.whole(result))
    replace(root / README, "speed", of_speed(result))
    if growth_file.exists():
        replace(root / RESULTS, "growth", of_growth(json.loads(growth_file.read_text())))
    print(f"{RESULTS} and {README} are of the run of {result['date']}, revision {result['revision']}")
