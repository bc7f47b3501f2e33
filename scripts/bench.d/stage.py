"""The processes of a run: all are started here, and none outlives the run."""

import json
import os
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """Why a run does not count."""


@contextmanager
def process(command, log, env=None, output=None):
    """Runs a command until the block ends, or until this process ends for any reason."""
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        child = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=output or file,
            stderr=file,
            env=env,
        )
        try:
            yield child
        finally:
            if child.poll() is None:
                child.terminate()
                try:
                    child.wait(15)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()


def wait_until(what, seconds, holds):
    """Polls ten times per second."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise Failed(f"after {seconds} s still not: {what}")
        time.sleep(0.1)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run(command):
    """Runs a command to its end. Returns the JSON that it prints."""
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise Failed(f"{command[0]} {command[1]}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def cpu_seconds(pid):
    """User and system time of all threads of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_kib(pid):
    """Resident memory: now, and at its peak."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines if line.startswith(("VmRSS", "VmHWM")))
    return int(found["VmRSS"].split()[0]), int(found["VmHWM"].split()[0])


class Redis:
    """A private server on loopback that writes nothing to disk."""

    def __init__(self, port, pid):
        self.port, self.pid = port, pid

    def ask(self, *command):
        """Sends one command. Returns its answer, which has to be text or a number."""
        with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
            parts = b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in (word.encode() for word in command))
            connection.sendall(b"*%d\r\n%s" % (len(command), parts))
            stream = connection.makefile("rb")
            first = stream.readline().decode().strip()
            if first.startswith("-"):
                raise Failed(f"Redis refused {command[0]}: {first}")
            return stream.read(int(first[1:])).decode() if first.startswith("$") else first[1:]

    def info(self, section):
        lines = self.ask("INFO", section).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)


@contextmanager
def redis(log):
    port = free_port()
    options = ["--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--loglevel", "warning"]
    with process(["redis-server", *options], log) as child:
        server = Redis(port, child.pid)

        def answers():
            try:
                return server.ask("PING") == "PONG"
            except OSError:
                return False

        wait_until("a Redis that answers", 10, answers)
        yield server


class Queue:
    """The fake SQS; see tests/bench/queue.rs."""

    def __init__(self, child, address):
        self.pid = child.pid
        self.endpoint, self.queue_url, self.control = address["endpoint"], address["queue_url"], address["control"]
        self.body_bytes = address["body_bytes"]

    def ask(self, what):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.control}/{what}", timeout=10) as answer:
            return json.load(answer)

    def counts(self):
        counts = self.ask("counts")
        if counts["complaints"]:
            raise Failed(f"a call broke SQS's rules: {counts['complaints'][0]}")
        return counts

    def drain(self, seconds=120):
        """Stops the supply and waits until all messages are deleted. Returns how many there were."""
        messages = self.ask("stop")["messages"]
        wait_until("all messages deleted", seconds, lambda: self.counts()["deleted"] >= messages)
        return messages


@contextmanager
def started_queue(programs, row, log, certificate=None, watched=None, more=()):
    flags = [f"--round-trip-ms={row.round_trip_ms}", *row.mix_flags(), *more]
    if row.tls:
        flags += ["--certificate", certificate.chain, "--key", certificate.key]
    if watched:
        flags += [f"--watch-redis={watched.port}"]
    with process([programs.bench, "queue", *flags], log, output=subprocess.PIPE) as child:
        address = child.stdout.readline()
        if not address:
            raise Failed(f"the queue did not start, see {log}")
        yield Queue(child, json.loads(address))
