"""The main rows with a public queue instead of the fake SQS: fauxqs, an SQS emulator from npm."""

import json
import os
import time
import urllib.request
from contextlib import contextmanager

import contenders
import rows
from meter import Meter, alive, checked
from stage import Failed, free_port, process, run, wait_until

REGION = "us-east-2"
# Enough for a few seconds.
MESSAGES = {
    ("usage", rows.SERVICE): 40_000,
    ("usage", rows.NODE): 20_000,
    ("entitlements", rows.SERVICE): 20_000,
    ("entitlements", rows.NODE): 3_000,
}


class Queue:
    def __init__(self, endpoint, pid):
        # Its queue URLs contain the region, so calls go to its own address.
        self.endpoint, self.pid, self.queue_url = endpoint, pid, None

    def left(self):
        """How many messages are not deleted yet."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        request = urllib.request.Request(
            self.endpoint,
            json.dumps({"QueueUrl": self.queue_url, "AttributeNames": names}).encode(),
            {"Content-Type": "application/x-amz-json-1.0", "X-Amz-Target": "AmazonSQS.GetQueueAttributes"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            attributes = json.load(answer)["Attributes"]
        return sum(int(attributes[name]) for name in names)


@contextmanager
def emulator(programs, log):
    port = free_port()
    env = {
        "PATH": os.environ["PATH"],
        "FAUXQS_PORT": str(port),
        "FAUXQS_HOST": "localhost",
        "FAUXQS_DEFAULT_REGION": REGION,
        "FAUXQS_LOGGER": "false",
        "NODE_ENV": "production",
    }
    with process(["node", programs.fauxqs], log, env) as child:
        queue = Queue(f"http://127.0.0.1:{port}", child.pid)

        def answers():
            try:
                urllib.request.urlopen(f"{queue.endpoint}/health", timeout=2).close()
                return True
            except OSError:
                return False

        wait_until("fauxqs answers", 20, answers)
        yield queue


def one(programs, row, contender, server, log):
    """Measures how fast a full queue is drained."""
    messages = MESSAGES[row.mix, rows.SERVICE if contender == rows.REVISION else contender]
    with emulator(programs, log) as queue:
        filled = run(
            [programs.bench, "fill", f"--endpoint={queue.endpoint}", f"--messages={messages}", *row.mix_flags()]
        )
        queue.queue_url = filled["queue_url"]
        with contenders.start(contender, programs, row, server, queue, None, log) as child:
            # The measurement begins after a quarter, so that it does not include the start.
            wait_until("a quarter deleted", 120, lambda: alive(child) and queue.left() <= messages * 3 // 4)
            before, meter = queue.left(), Meter([child], server, queue)
            while queue.left() > messages // 20:
                if time.monotonic() - meter.before[0] > 120:
                    raise Failed("the queue is not drained after 120 s")
                time.sleep(0.1)
            figures = meter.figures(before - queue.left(), True)
            wait_until("an empty queue", 60, lambda: alive(child) and queue.left() == 0)
            return figures | checked(programs, row, server, messages)
