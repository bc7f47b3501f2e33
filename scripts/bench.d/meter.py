"""What a run used, and whether it did its work."""

import time

from stage import Failed, cpu_seconds, run

# After a run, up to this many of a thousand keys may not hold the newest state. The SDK's usage write is not atomic (it reads
# the timestamp, then writes), so two of its consumers sometimes overtake each other. A contender that writes nothing is far above.
WRONG_OF_THOUSAND_MAX = 10


class Meter:
    """CPU time and Redis statistics since its start, for all processes of the contender together."""

    def __init__(self, children, server, queue):
        self.children, self.server, self.queue = children, server, queue
        server.ask("CONFIG", "RESETSTAT")
        self.before = self.read()

    def read(self):
        used = {"redis": cpu_seconds(self.server.pid), "queue": cpu_seconds(self.queue.pid)}
        return time.monotonic(), used | {"contender": sum(cpu_seconds(child.pid) for child in self.children)}

    def figures(self, messages, of_redis):
        """The figures since the start, for this number of messages."""
        now, cpu = self.read()
        seconds = now - self.before[0]
        used = {name: cpu[name] - self.before[1][name] for name in cpu}
        if messages <= 0:
            raise Failed("not a single message was deleted")
        figures = {
            "seconds": seconds,
            "messages": messages,
            "messages_per_second": messages / seconds,
            "cpu_seconds_per_1000": used["contender"] / messages * 1_000,
            "messages_per_cpu_second": messages / max(used["contender"], 0.01),
            "redis_cpu_seconds_per_1000": used["redis"] / messages * 1_000,
            "queue_cpu_seconds_per_1000": used["queue"] / messages * 1_000,
        }
        if of_redis:
            figures |= redis_figures(self.server, messages)
        return figures


def redis_figures(server, messages):
    """Figures per message, since the statistics were reset."""
    stats = server.info("stats")
    moved = int(stats["total_net_input_bytes"]) + int(stats["total_net_output_bytes"])
    calls = {
        name.removeprefix("cmdstat_"): int(line.split("calls=")[1].split(",")[0]) / messages
        for name, line in server.info("commandstats").items()
    }
    return {
        "redis_bytes_per_message": moved / messages,
        "redis_calls_per_message": sum(calls.values()),
        "redis_calls": {name: round(calls[name], 2) for name in sorted(calls) if calls[name] >= 0.005},
    }


def alive(child):
    if child.poll() is not None:
        raise Failed(f"it ended with status {child.returncode}")
    return True


def checked(programs, row, server, messages, more=()):
    """Checks that Redis holds the newest state of each key that is compared."""
    flags = [f"--redis={server.port}", f"--messages={messages}", *row.mix_flags(), *more]
    found = run([programs.bench, "check", *flags])
    right, wrong = found["right"], found["wrong"]
    if right == 0 or wrong * 1_000 > (right + wrong) * WRONG_OF_THOUSAND_MAX:
        raise Failed(f"{wrong} of {right + wrong} keys in Redis are wrong: {found['examples']}")
    return {"keys_right": right, "keys_wrong": wrong}
