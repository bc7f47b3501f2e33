"""One run: fresh processes, one contender, one row. Returns its figures."""

import time
from contextlib import ExitStack

import contenders
import fauxqs
import rows
from meter import Meter, alive, checked
from stage import memory_kib, redis, run, started_queue, wait_until


def one(programs, row, contender, seconds, certificate, log):
    """The figures of one run."""
    with ExitStack() as stack:
        server = stack.enter_context(redis(log))
        run([programs.bench, "prime", f"--redis={server.port}", *row.mix_flags()])
        if row.queue == "fauxqs":
            return fauxqs.one(programs, row, contender, server, log)
        watched = server if row.kind == "times" else None
        queue = stack.enter_context(started_queue(programs, row, log, certificate, watched))
        began, at_us = time.monotonic(), queue.counts()["now_us"]
        spawned = time.monotonic()
        child = stack.enter_context(
            contenders.start(contender, programs, row, server, queue, certificate, log)
        )
        wait_until("a first poll", 20, lambda: alive(child) and queue.counts()["first_receive_us"] > 0)
        first_poll = (queue.counts()["first_receive_us"] - at_us) / 1e6 - (spawned - began)
        time.sleep(1)
        figures = {"start_to_first_poll_ms": first_poll * 1_000, "idle_kib": memory_kib(child.pid)[0]}
        load = times if row.kind == "times" else throughput
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


def throughput(row, contender, seconds, child, server, queue):
    """Figures at full rate."""
    queue.ask("start")
    time.sleep(rows.WARM_UP_SECS[contender])
    queue.ask("measure")
    before, meter = queue.counts()["deleted"], Meter([child], server, queue)
    time.sleep(row.seconds or seconds)
    alive(child)
    counts = queue.counts()
    figures = meter.figures(counts["deleted"] - before, contenders.is_worker(contender))
    return figures | {"to_deleted": counts["delivered_to_deleted"]}


def times(row, contender, seconds, child, server, queue):
    """Latencies: at the top rate, and at half of it."""
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
    return {"to_written": counts["delivered_to_written"], "to_deleted": counts["delivered_to_deleted"]}
