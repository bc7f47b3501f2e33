"""What is measured: each row is one load, with its contenders."""

from dataclasses import dataclass, replace

SERVICE, NODE, LIMIT = "service", "node worker", "bare client"
# The binary of another revision; only with --against.
REVISION = "revision"

# Node compiles hot code while it runs, so it warms up longer.
WARM_UP_SECS = {SERVICE: 2, REVISION: 2, NODE: 6, LIMIT: 1}


@dataclass(frozen=True)
class Row:
    name: str
    title: str
    contenders: tuple
    mix: str = "usage"
    features: int = 10
    customers: int = 10_000
    batch: int = 10
    round_trip_ms: int = 0
    tls: bool = False
    # How long it is measured; None: --seconds.
    seconds: int | None = None
    # 'throughput': at full rate. 'times': latencies at full rate, then at half of it.
    kind: str = "throughput"
    # 'fake': the fake SQS of the tests. 'fauxqs': a public emulator.
    queue: str = "fake"
    # It has a target, so it is part of --main.
    main: bool = False

    def mix_flags(self):
        return [f"--mix={self.mix}", f"--features={self.features}", f"--customers={self.customers}"]


BOTH = (SERVICE, NODE)
LIST_50 = dict(mix="entitlements", features=50, customers=2_000)

ROWS = [
    Row("usage", "usage, batch 10", BOTH + (LIMIT,), main=True),
    Row("list-5", "entitlements of 5 features, batch 10", BOTH, mix="entitlements", features=5),
    Row("list-50", "entitlements of 50 features, batch 10", BOTH + (LIMIT,), main=True, **LIST_50),
    Row("list-300", "entitlements of 300 features, batch 10", BOTH, mix="entitlements", features=300, customers=500),
    Row("mixed", "80 % usage, 20 % entitlements of 50, batch 10", BOTH, mix="mixed", features=50, customers=2_000),
    Row("usage-1", "usage, batch 1", BOTH + (LIMIT,), batch=1, main=True),
    Row("usage-20ms", "usage, batch 10, round trip 20 ms", BOTH + (LIMIT,), round_trip_ms=20, main=True),
    Row("usage-1-20ms", "usage, batch 1, round trip 20 ms", BOTH + (LIMIT,), batch=1, round_trip_ms=20),
    Row("usage-tls", "usage, batch 10, TLS to the queue", BOTH + (LIMIT,), tls=True),
    Row("list-50-tls", "entitlements of 50 features, batch 10, TLS to the queue", BOTH, tls=True, **LIST_50),
    Row("times", "usage, batch 10: times", BOTH, kind="times", main=True),
    Row("times-50", "entitlements of 50 features, batch 10: times", BOTH, kind="times", **LIST_50),
    Row("minute", "entitlements of 50 features, batch 10, one minute", BOTH, seconds=60, main=True, **LIST_50),
    Row("usage-fauxqs", "usage, batch 10, fauxqs", BOTH, queue="fauxqs"),
    Row("list-50-fauxqs", "entitlements of 50 features, batch 10, fauxqs", BOTH, queue="fauxqs", **LIST_50),
]


def with_revision(row):
    """The row with the other revision as the contender after the service."""
    return replace(row, contenders=(SERVICE, REVISION) + tuple(name for name in row.contenders if name != SERVICE))


def known(what, names, there_are):
    """The names. Ends the program if one of them is unknown."""
    unknown = sorted(set(names) - set(there_are))
    if unknown:
        raise SystemExit(f"unknown {what}: {', '.join(unknown)}; known are {', '.join(there_are)}")
    return names


def named(names):
    """The rows of these names, in the order of the table."""
    names = known("row", names, [row.name for row in ROWS])
    return [row for row in ROWS if row.name in names]
