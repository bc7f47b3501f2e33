"""The generated blocks of README.md, tests/README.md and RESULTS.md: the last complete results of the four long runs."""

import chart
import growth
import report
import results
from rows import NODE, SERVICE

RESULTS = "scripts/bench.d/RESULTS.md"
README = "README.md"
TESTS = "tests/README.md"

SPEED = """![Messages per CPU-second](scripts/bench.d/chart.svg)

{table}

The Node worker combines `sqs-consumer` with the SDK's own Redis cache class. Measured on {date}, revision {revision},
{cores} cores, with a fake SQS. [All results]({results}).
"""

GROWTH = """Measured on {date}, revision {revision}, {rounds} rounds of {seconds} s. *peak* and *idle* are
the memory of one instance.

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


def of_rows(result, command):
    """The table of a run of chaos or fuzz."""
    facts = f"`{command}` on {result['date']}, revision {result['revision']}, {result['cores']} cores:"
    return f"{facts}\n\n{report.table(['result', ''], result['rows'])}"


def replace(path, block, text):
    """Puts a text between the two markers of a block."""
    begin, end = f"<!-- {block}:begin -->\n", f"<!-- {block}:end -->"
    before, rest = path.read_text().split(begin, 1)
    path.write_text(before + begin + text.rstrip() + "\n" + end + rest.split(end, 1)[1])


def write(root, directory):
    """Writes the last complete results into the pages that users read."""
    found = results.all_of_one_revision(directory)
    bench = found["bench"]
    (root / "scripts" / "bench.d" / "chart.svg").write_text(chart.svg(bench))
    replace(root / RESULTS, "bench", "![Messages per CPU-second](chart.svg)\n\n" + report.whole(bench))
    replace(root / RESULTS, "growth", of_growth(found["growth"]))
    replace(root / README, "speed", of_speed(bench))
    for name in ("chaos", "fuzz"):
        replace(root / TESTS, name, of_rows(found[name], results.COMMANDS[name]))
    print(f"{README}, {TESTS} and {RESULTS} show revision {bench['revision']}; check what RESULTS.md says about the figures")
