"""One run: fresh processes, one contender, one row. Returns its figures."""

import time
from contextlib import ExitStack

import contenders
import fauxqs
import rows
from stage import Failed, cpu_seconds, memory_kib, redis, run, simulator, wait_until

# Of a thousand keys that are looked at after a run, so many may hold something else than the newest state. The SDK's
# usage write is not atomic (it reads the timestamp, then writes), so that two of its consumers overtake each other now
# and then; what does not write at all is far beyond.
WRONG_OF_THOUSAND_MAX = 10


class Meter:
    """What the kernel and Redis account, from its start on. Of all children of the contender together."""

    def __init__(self, children, server, queue):
        self.children, self.server, self.queue = children, server, queue
        server.ask("CONFIG", "RESETSTAT")
        self.before = self.read()

    def read(self):
        used = {"redis": cpu_seconds(self.server.pid), "queue": cpu_seconds(self.queue.pid)}
        return time.monotonic(), used | {"contender": sum(cpu_seconds(child.pid) for child in self.children)}

    def figures(self, messages, of_redis):
        """Of so many messages since the start."""
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
    """Per message, since the statistics were reset."""
    stats = server.info("stats")
    moved = int(stats["total_net_input_bytes"]) + int(stats["total_net_output_bytes"])
    calls = {
        name.removeprefix("cmdstat_"): int(told.split("calls=")[1].split(",")[0]) / messages
        for name, told in server.info("commandstats").items()
    }
    return {
        "redis_bytes_per_message": moved / messages,
        "redis_calls_per_message": sum(calls.values()),
        "redis_calls": {name: round(calls[name], 2) for name in sorted(calls) if calls[name] >= 0.005},
    }


def one(programs, row, contender, seconds, certificate, log):
    """The figures of one run."""
    with ExitStack() as stack:
        server = stack.enter_context(redis(log))
        run([programs.bench, "prime", f"--redis={server.port}", *row.mix_flags()])
        if row.queue == "fauxqs":
            return fauxqs.one(programs, row, contender, server, log)
        watched = server if row.sort == "times" else None
        queue = stack.enter_context(simulator(programs, row, log, certificate, watched))
        began, at_us = time.monotonic(), queue.counts()["now_us"]
        spawned = time.monotonic()
        child = stack.enter_context(
            contenders.start(contender, programs, row, server, queue, certificate, log)
        )
        wait_until("a first poll", 20, lambda: alive(child) and queue.counts()["first_receive_us"] > 0)
        first_poll = (queue.counts()["first_receive_us"] - at_us) / 1e6 - (spawned - began)
        time.sleep(1)
        figures = {"start_to_first_poll_ms": first_poll * 1_000, "idle_kib": memory_kib(child.pid)[0]}
        load = times if row.sort == "times" else throughput
        figures |= load(row, contender, seconds, child, server, queue)
        messages = queue.drain()
        figures["loaded_kib"], figures["peak_kib"] = memory_kib(child.pid)
        counts = queue.counts()
        figures["redelivered"] = counts["redelivered"]
        figures["messages_per_receive"] = messages / max(counts["receives"] - counts["empty_receives"], 1)
        figures["messages_per_delete_call"] = messages / max(counts["deletes"], 1)
        if contenders.is_worker(contender):
            figures |= checked(programs, row, server, messages)
        return figures


def alive(child):
    if child.poll() is not None:
        raise Failed(f"it ended with status {child.returncode}")
    return True


def throughput(row, contender, seconds, child, server, queue):
    """All that it can."""
    queue.ask("start")
    time.sleep(rows.WARM_UP_SECS[contender])
    queue.ask("measure")
    before, meter = queue.counts()["deleted"], Meter([child], server, queue)
    time.sleep(row.seconds or seconds)
    alive(child)
    counts = queue.counts()
    figures = meter.figures(counts["deleted"] - before, contenders.is_worker(contender))
    return figures | {"to_deleted": counts["handed_out_to_deleted"]}


def times(row, contender, seconds, child, server, queue):
    """How long a message takes: at the top rate, and at half of it."""
    queue.ask("start")
    time.sleep(rows.WARM_UP_SECS[contender])
    queue.ask("measure")
    before, began = queue.counts()["deleted"], time.monotonic()
    time.sleep(seconds)
    counts = queue.counts()
    top = (counts["deleted"] - before) / (time.monotonic() - began)
    figures = {"top_rate": top, "full": of_times(counts)}
    queue.drain()
    queue.ask(f"start?rate={top / 2}")
    time.sleep(1)
    queue.ask("measure")
    before, meter = queue.counts()["deleted"], Meter([child], server, queue)
    time.sleep(seconds)
    alive(child)
    counts = queue.counts()
    return figures | meter.figures(counts["deleted"] - before, False) | {"half": of_times(counts)}


def of_times(counts):
    return {"to_written": counts["handed_out_to_written"], "to_deleted": counts["handed_out_to_deleted"]}


def checked(programs, row, server, messages, more=()):
    """Redis has to hold the newest state of each key that is looked at."""
    flags = [f"--redis={server.port}", f"--messages={messages}", *row.mix_flags(), *more]
    found = run([programs.bench, "check", *flags])
    right, wrong = found["right"], found["wrong"]
    if right == 0 or wrong * 1_000 > (right + wrong) * WRONG_OF_THOUSAND_MAX:
        raise Failed(f"{wrong} of {right + wrong} keys in Redis are wrong: {found['examples']}")
    return {"keys_right": right, "keys_wrong": wrong}
