"""How each contender is started: the same queue, the same Redis, the same batch size."""

import os

import rows
from stage import free_port, process


def environment(row, redis, queue, certificate):
    """From the environment of this process, only PATH."""
    env = {
        "PATH": os.environ["PATH"],
        "AWS_REGION": "us-east-2",
        "AWS_ENDPOINT_URL_SQS": queue.endpoint,
        "QUEUE_URL": queue.queue_url,
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "ENVIRONMENT_PREFIX": "production",
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(redis.port),
        "BATCH_SIZE": str(row.batch),
    }
    if row.tls:
        env["SSL_CERT_FILE"] = env["NODE_EXTRA_CA_CERTS"] = str(certificate.authority)
    return env


def start(contender, programs, row, redis, queue, certificate, log, extra=None):
    """Runs the contender until the block ends."""
    env = environment(row, redis, queue, certificate) | (extra or {})
    if contender in (rows.SERVICE, rows.REVISION):
        env |= {"SERVER_API_KEY": "server-key", "DISABLE_SENTRY": "1", "PORT": str(free_port())}
        program = programs.service if contender == rows.SERVICE else programs.revision
        # It may be a command that runs the service.
        return process(program if isinstance(program, list) else [program], log, env)
    if contender == rows.NODE:
        return process(["node", programs.node_worker], log, env | {"NODE_ENV": "production"})
    flags = [f"--queue-url={queue.queue_url}", f"--batch={row.batch}"]
    return process([programs.bench, "limit", *flags], log, env)


def is_worker(contender):
    """True if it writes to Redis."""
    return contender in (rows.SERVICE, rows.REVISION, rows.NODE)
