"""The section of README: written from the last whole run and the last run of growth, never by hand."""

import json

import chart
import growth
import report

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
HEADING = "### Speed"

TEXT = """{heading}

```sh
scripts/bench          # everything in the tables below; about an hour
scripts/bench --main   # only the loads that the bars are about
scripts/bench --against REVISION   # the binary of that revision as one more contender, and the ratios between them
scripts/bench --growth # how cost and memory grow with keys, features, bodies and instances
scripts/bench --quick  # instructions of four fixed loads, beside those of HEAD~1 (or --quick REVISION)
```

Each builds first, which takes ten minutes or more on a new clone with two cores, and `--against` as long again for a
revision that it has not built before; `--quick` counts for two or three. They take Node 20 or newer, Python 3, OpenSSL, a
Redis server and, where `perf` cannot count instructions, valgrind: what is missing is installed as root, else named.
`scripts/bench --help` has the rest, `--rows usage,list-50 --rounds 1` (a look) among it. A run that is not whole changes
nothing here; `scripts/bench --readme` puts the last whole one into this section.

{begin}
![Messages per CPU-second](scripts/bench.d/chart.svg)

The queue is a simulator of ours (`tests/bench/simulator`) in a process of its own: it speaks SQS's protocol, as fast as
it can or with a settable round trip, and checks no signatures. It is not SQS; no SQS is as fast. The rows that say so
have [fauxqs](https://www.npmjs.com/package/fauxqs) in its place, an emulator that others wrote, filled beforehand. Redis
is a real one on the same machine. *Bars* are what was asked of the first version before it was written, beside such a
node worker on such a machine.

What is compared, all of it against the same queue and a Redis of the run's own, with fresh processes for each run:

- *service*: the static release binary with its defaults and the BATCH_SIZE of the load.
- *node worker* (`scripts/bench.d/node/worker.mjs`): what one would write from the public parts. `sqs-consumer` and
  `@aws-sdk/client-sqs` bring the messages; the Redis cache class of the published SDK 3.95.0 writes them, with its
  lock, its timestamps and its `MULTI`. Ten consumers, kept connections, production mode, deletions in batches.
- *bare client*: the service's own queue client, which only receives and deletes. *raw sockets*: the same without
  signature, HTTP library or decoding, to tell what the simulator can give.

The customers of all messages are in the cache, so each message is written. After each run Redis is compared with the
newest state that was sent; a run in which the service or the node worker has not written it is not counted. (One key
of a hundred may differ: the SDK's class reads and then writes, and two of its consumers may do so at the same time.)

{tables}
{growth}{end}
"""

GROWTH = """
#### How it grows

The service alone; *peak* and *idle* are the memory of one instance. {date}, revision {revision}, {rounds} rounds of
{seconds} s.

{tables}

{estimate}
"""


def of_growth(growth_file):
    """The tables of growth, if they were measured."""
    if not growth_file.exists():
        return ""
    result = json.loads(growth_file.read_text())
    told = {name: result[name] for name in ("date", "revision", "rounds", "seconds")}
    return GROWTH.format(tables=growth.tables(result), estimate=growth.estimate(result), **told)


def write(root, result_file, growth_file):
    """Puts the tables of the last whole run, and of growth, into README."""
    if not result_file.exists():
        raise SystemExit(f"there is no whole run yet ({result_file}): run scripts/bench first")
    result = json.loads(result_file.read_text())
    (root / "scripts" / "bench.d" / "chart.svg").write_text(chart.svg(result))
    path = root / "README.md"
    readme = path.read_text()
    section = TEXT.format(
        heading=HEADING, begin=BEGIN, end=END, tables=report.whole(result), growth=of_growth(growth_file)
    )
    if BEGIN in readme:
        # The text before the tables may have been edited since; what is between the marks is ours.
        before, rest = readme.split(BEGIN, 1)
        between = section[section.index(BEGIN) : section.index(END)]
        readme = before + between + END + rest.split(END, 1)[1]
    else:
        # The end of "How it works", which is where the limits begin.
        before, limits = readme.split("\n## Limits\n", 1)
        readme = f"{before}\n{section}\n## Limits\n{limits}"
    path.write_text(readme)
    print(f"README.md: {HEADING} is of the run of {result['date']}, revision {result['revision']}")
