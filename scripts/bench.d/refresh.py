"""How long messages take while purged customers are refreshed (REFRESH_AFTER_PURGE), beside how long they take before."""

import json
import threading
import time
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import contenders
import report
import rows
from meter import alive
from stage import Failed, redis, run, started_queue, wait_until

SAMPLE = Path(__file__).parents[2] / "tests" / "samples" / "graphql-entitlements-updated-v2.json"
LOAD = rows.Row("refresh", "", (rows.SERVICE,))
MESSAGES_PER_SECOND = 1_000
EDGE_DELAY_SECS = 0.05
REFRESH_RATES = (20, 200)


@contextmanager
def edge_api():
    """Answers each call with the same entitlements, after a delay. Yields its URL and the paths that were called."""
    entitlements = json.loads(SAMPLE.read_text())["data"]["entitlementsUpdatedV2"]["entitlements"]
    state = {"__typename": "EntitlementsState", "entitlementsV2": entitlements, "accessDeniedReason": None}
    body = json.dumps({"data": {"entitlementsState": state}}).encode()
    calls = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            calls.append(self.path)
            time.sleep(EDGE_DELAY_SECS)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", calls
        finally:
            server.shutdown()


def one(programs, rate, seconds, log):
    """The times of one run, in microseconds: before the purge, and while its customers are refreshed."""
    with ExitStack() as stack:
        server = stack.enter_context(redis(log))
        run([programs.bench, "prime", f"--redis={server.port}", *LOAD.mix_flags()])
        queue = stack.enter_context(started_queue(programs, LOAD, log, watched=server))
        url, calls = stack.enter_context(edge_api())
        extra = {"EDGE_API_URL": url, "REFRESH_AFTER_PURGE": "1", "REFRESH_RATE": str(rate)}
        child = stack.enter_context(
            contenders.start(rows.SERVICE, programs, LOAD, server, queue, None, log, extra)
        )
        wait_until("a first poll", 20, lambda: alive(child) and queue.counts()["first_receive_us"] > 0)
        queue.ask(f"start?rate={MESSAGES_PER_SECOND}")
        time.sleep(3)
        figures = {"rate": rate, "before": measured(queue, seconds)}
        # All are purged, and more wait than can be refreshed while it is measured.
        queue.ask(f"purge?customers={LOAD.customers}")
        wait_until("a first refresh", 20, lambda: alive(child) and calls)
        time.sleep(1)
        began = len(calls)
        figures["during"] = measured(queue, seconds)
        alive(child)
        figures["refreshes_per_second"] = (len(calls) - began) / seconds
        if not figures["refreshes_per_second"]:
            raise Failed("nothing was refreshed while it was measured")
        return figures


def measured(queue, seconds):
    queue.ask("measure")
    time.sleep(seconds)
    return queue.counts()["delivered_to_written"]


def measure(options, programs):
    """Prints the table. Rounds take turns with the rates."""
    lines = []
    for number in range(options.rounds):
        for rate in REFRESH_RATES:
            figures = one(programs, rate, options.seconds, options.out / "log" / f"refresh-{rate}-{number}")
            before, during = figures["before"], figures["during"]
            lines.append(
                [
                    str(rate),
                    report.shown(figures["refreshes_per_second"]),
                    *(report.shown(times[name] / 1_000) for name in ("p50_us", "p99_us") for times in (before, during)),
                    report.shown(during["p99_us"] / before["p99_us"]),
                ]
            )
    head = ["REFRESH_RATE", "refreshes/s", "p50 before, ms", "p50 during, ms", "p99 before, ms", "p99 during, ms", "p99 during : before"]
    print(report.table(head, lines))
    print(f"\n{MESSAGES_PER_SECOND} usages/s; received -> written; rounds of {options.seconds} s; {LOAD.customers:,} customers purged")
    return 0
