"""Runs the static binary in a root that holds nothing but it, its authorities and /etc/hosts and /etc/resolv.conf: it
finds Redis by /etc/hosts and the queue by DNS and TLS. Then once more with an nsswitch.conf and modules that kill
whoever loads them, as those of another glibc do.

usage: unshare --net try.py BINARY WORK-DIRECTORY
"""

import http.server
import os
import pathlib
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time

BINARY, WORK = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
PATIENCE = 60  # seconds
CHROOT = shutil.which("chroot") or "/usr/sbin/chroot"  # the service has no PATH
QUEUE_HOST = "sqs.us-east-2.example.test"
# It dies as a module of another glibc would make it die.
MODULE = "#include <signal.h>\n__attribute__((constructor)) static void dies(void) { raise(SIGFPE); }\n"
LOOKS_UP = """
#include <netdb.h>
#include <stddef.h>
int main(void) { struct addrinfo *found; return getaddrinfo("redis.example.test", "6379", NULL, &found) != 0; }
"""


def run(*command, **options):
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, **options)


def answer_dns():
    """A DNS server that knows one name."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))
    name = b"".join(bytes([len(part)]) + part.encode() for part in QUEUE_HOST.split(".")) + b"\0"
    while True:
        query, peer = server.recvfrom(512)
        question = query[12 : query.index(b"\0", 12) + 5]
        is_known, is_ipv4 = question[:-4].lower() == name, question[-4:-2] == b"\0\1"
        answers = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 5, 4) + bytes([127, 0, 0, 1]) if is_known and is_ipv4 else b""
        flags = 0x8180 if is_known else 0x8183
        server.sendto(query[:2] + struct.pack(">HHHHH", flags, 1, 1 if answers else 0, 0, 0) + question + answers, peer)


class Queue(http.server.BaseHTTPRequestHandler):
    """An SQS that never has a message."""

    protocol_version = "HTTP/1.1"
    asked = threading.Event()

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.set()
        time.sleep(0.2)
        self.send_response(200)
        self.send_header("Content-Type", "application/x-amz-json-1.0")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_):
        pass


def serve_queue():
    subject = ["-subj", f"/CN={QUEUE_HOST}", "-addext", f"subjectAltName=DNS:{QUEUE_HOST}"]
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
        "-addext", "basicConstraints=critical,CA:FALSE", *subject, "-keyout", WORK / "key.pem", "-out", WORK / "cert.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(WORK / "cert.pem", WORK / "key.pem")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 443), Queue)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.serve_forever()


def empty_root(name):
    root = WORK / name
    (root / "etc/ssl/certs").mkdir(parents=True)
    run("install", "-m", "755", BINARY, root / "service")
    (root / "etc/hosts").write_text("127.0.0.1 redis.example.test\n")
    (root / "etc/resolv.conf").write_text("nameserver 127.0.0.1\n")
    (root / "etc/ssl/certs/ca-certificates.crt").write_bytes((WORK / "cert.pem").read_bytes())
    return root


def root_with_hostile_modules():
    """Also proves that they are hostile: a static program that looks a name up by nsswitch.conf dies of them."""
    root = empty_root("hostile")
    (root / "etc/nsswitch.conf").write_text("hosts: mymachines resolve [!UNAVAIL=return] files myhostname dns\n")
    (WORK / "module.c").write_text(MODULE)
    (WORK / "looks_up.c").write_text(LOOKS_UP)
    for library in ("libc.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"):
        path = pathlib.Path(subprocess.check_output(["cc", f"-print-file-name={library}"], text=True).strip())
        if path.is_absolute():
            for folder in {path.resolve().parent.relative_to("/"), pathlib.Path("lib64"), pathlib.Path("lib")}:
                (root / folder).mkdir(parents=True, exist_ok=True)
                run("cp", "--dereference", path, root / folder / library)
    modules = pathlib.Path(subprocess.check_output(["cc", "-print-file-name=libc.so.6"], text=True).strip()).resolve().parent
    for module in ("mymachines", "resolve", "myhostname"):
        run("cc", "-shared", "-fPIC", "-o", root / modules.relative_to("/") / f"libnss_{module}.so.2", WORK / "module.c")
    run("cc", "-static", "-w", "-o", root / "looks_up", WORK / "looks_up.c")
    died = subprocess.run([CHROOT, root, "/looks_up"], check=False).returncode
    if died != -8:
        sys.exit(f"the trap is no trap: a static program that looks up a name ended with {died} instead of SIGFPE")
    print("a static program without the cure: dies of SIGFPE")
    return root


def try_in(root, what):
    Queue.asked.clear()
    environment = {
        "QUEUE_URL": f"https://{QUEUE_HOST}/123456789012/queue",
        "AWS_REGION": "us-east-2",
        "AWS_ACCESS_KEY_ID": "AKIAOFTHETRY",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "SERVER_API_KEY": "server-key-of-the-try",
        "REDIS_HOST": "redis.example.test",
        "PORT": "4000",
        "DISABLE_SENTRY": "1",
    }
    with open(WORK / "log", "w+", encoding="utf-8") as log:
        service = subprocess.Popen([CHROOT, root, "/service"], env=environment, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + PATIENCE
            ready = [CHROOT, str(root), "/service", "ready", "--port", "4000"]
            while subprocess.run(ready, env={}, check=False, capture_output=True).returncode != 0:
                log.seek(0)
                if service.poll() is not None:
                    sys.exit(f"{what}: it ended with {service.returncode}\n{log.read()}")
                if time.monotonic() > deadline:
                    sys.exit(f"{what}: not ready after {PATIENCE} s\n{log.read()}")
                time.sleep(0.1)
            if not Queue.asked.is_set():
                sys.exit(f"{what}: ready, though the queue was not asked")
            service.terminate()
            if service.wait(PATIENCE) != 0:
                sys.exit(f"{what}: the stop ended with {service.returncode}")
        finally:
            service.kill()
            service.wait()
    print(f"{what}: ready, with Redis by /etc/hosts and the queue by DNS and TLS")


def main():
    os.umask(0o022)
    run("ip", "link", "set", "lo", "up")
    redis = subprocess.Popen(["redis-server", "--port", "6379", "--bind", "127.0.0.1", "--save", "", "--dir", WORK],
                             stdout=subprocess.DEVNULL)
    try:
        for loop in (answer_dns, serve_queue):
            threading.Thread(target=loop, daemon=True).start()
        deadline = time.monotonic() + PATIENCE
        while not (WORK / "cert.pem").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        root = empty_root("empty")
        print(f"in the root: {', '.join(str(path.relative_to(root)) for path in sorted(root.rglob('*')) if path.is_file())}")
        try_in(root, "an empty root")
        if b"glibc" in BINARY.read_bytes():
            try_in(root_with_hostile_modules(), "a root with modules of another glibc")
    finally:
        redis.kill()
        redis.wait()


main()
