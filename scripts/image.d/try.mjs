// Runs the image beside a private Redis and a local SQS: it is healthy, a message gets through, it stops well.
//
// usage: node try.mjs TOOLS-DIRECTORY podman|chroot ROOT-OF-THE-IMAGE PODMAN RUN AND ITS OPTIONS…
import { execFile } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { REGION, cleanUp, freePort, start, startQueue, startRedis, stop, waitFor } from '../demo.d/neighbours.mjs';

const [tools, runner, root, ...podmanRun] = process.argv.slice(2);
const NAME = 'persistent-cache-service';
const CONTAINER = `pcs-try-${process.pid}`;
const sample = fileURLToPath(new URL('../../tests/samples/graphql-entitlements-updated-v2.json', import.meta.url));

const output = (program, args) =>
  new Promise((resolve) => {
    execFile(program, args, (error, stdout, stderr) => resolve({ status: error ? (error.code ?? 1) : 0, text: `${stdout}${stderr}`.trim() }));
  });

/** How the image is run, and how one of its commands is run inside. */
const RUNNERS = {
  podman: {
    args: (environment) => [...podmanRun, '--rm', '--name', CONTAINER, ...Object.entries(environment).flatMap(([name, value]) => ['--env', `${name}=${value}`]), NAME],
    // The health check as the image defines it, by hand: its timer needs a systemd.
    healthy: () => output(podmanRun[0], [...podmanRun.slice(1, podmanRun.indexOf('run')), 'healthcheck', 'run', CONTAINER]),
  },
  chroot: {
    args: () => ['unshare', '--mount', '--propagation', 'private', 'sh', '-c', `mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec chroot --userspec=65532:65532 "$0" /${NAME}`, root],
    healthy: (environment) => output('chroot', ['--userspec=65532:65532', root, `/${NAME}`, 'ready', '--port', environment.PORT]),
  },
};

async function story() {
  const files = fs.readdirSync(root, { recursive: true }).filter((file) => fs.lstatSync(path.join(root, file)).isFile());
  console.log(`files: ${files.sort().join(', ')}`);
  const redis = await startRedis(path.join(tools, 'sdk'));
  const queue = await startQueue(path.join(tools, 'sdk'), path.join(tools, 'moto/bin/moto_server'));
  const environment = {
    AWS_REGION: REGION,
    QUEUE_URL: queue.url,
    AWS_ACCESS_KEY_ID: queue.key.id,
    AWS_SECRET_ACCESS_KEY: queue.key.secret,
    SERVER_API_KEY: 'server-key-of-the-try',
    // By name: it is looked up in an image that has no nsswitch.conf.
    REDIS_HOST: runner === 'podman' ? 'localhost' : '127.0.0.1',
    REDIS_PORT: String(redis.port),
    PORT: String(await freePort()),
    CACHE_UPDATE_POLICY: 'UPSERT',
    WAIT_TIME_SECS: '1',
    DISABLE_SENTRY: '1',
  };
  const { args, healthy } = RUNNERS[runner];
  const [program, ...rest] = args(environment);
  const service = start('the image', program, rest, { ...environment, PATH: process.env.PATH });
  let last;
  await waitFor('the health check to succeed', async () => (last = await healthy(environment)).status === 0).catch((error) => {
    throw new Error(`${error.message}\n${last?.text}\n${service.output()}`);
  });
  console.log(`healthy (${runner})`);

  await queue.send(fs.readFileSync(sample, 'utf8'));
  await waitFor('the message in Redis', () => redis.client.exists('production:c_customer-demo-01'));
  await waitFor('an empty queue', async () => (await queue.messages()) === 0);
  console.log('the message is in Redis, and deleted from the queue');

  const version = await fetch(`http://127.0.0.1:${environment.PORT}/metrics`).then((response) => response.text());
  console.log(/persistent_cache_build_info{.*/.exec(version)[0]);
  const status = await stop(service);
  if (status !== 0) throw new Error(`it ended with exit status ${status}\n${service.output()}`);
  console.log('stopped with exit status 0');
}

let failed = 0;
try {
  await story();
} catch (error) {
  console.error(error.stack);
  failed = 1;
} finally {
  cleanUp();
  if (runner === 'podman') await output(podmanRun[0], [...podmanRun.slice(1, podmanRun.indexOf('run')), 'rm', '--force', '--ignore', CONTAINER]);
}
process.exit(failed);
