// Boots a Debian, installs the package in it and drives it by systemctl, beside a private Redis and a local SQS.
//
// usage: node try.mjs TOOLS-DIRECTORY ROOT-OF-THE-DEBIAN
// Exit status 77 where systemd did not boot: nothing of the package is in it by then.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { REGION, cleanUp, freePort, start, startQueue, startRedis, waitFor } from '../demo.d/neighbours.mjs';

const [tools, root] = process.argv.slice(2);
const UNIT = 'persistent-cache-service.service';
const KEY = 'server-key-of-the-try';
const sample = fileURLToPath(new URL('../../tests/samples/graphql-entitlements-updated-v2.json', import.meta.url));
const say = (text) => console.log(text);

let children;
let leader;
let booted = false;
/** Runs a command in the booted system. */
const inside = (...command) =>
  new Promise((resolve) => {
    const args = ['--target', String(leader), '--all', '--root', '--', ...command];
    execFile('nsenter', args, { env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C', DEBIAN_FRONTEND: 'noninteractive' } }, (error, stdout, stderr) =>
      resolve({ status: error ? (error.code ?? 1) : 0, text: `${stdout}${stderr}`.trim() }),
    );
  });
const done = async (...command) => {
  const ended = await inside(...command);
  assert.equal(ended.status, 0, `${command.join(' ')}: ${ended.text}\n${(await inside('journalctl', '--no-pager', '--lines', '40')).text}`);
  return ended.text;
};
const property = async (name) => (await inside('systemctl', 'show', '--property', name, '--value', UNIT)).text;
const settings = (environment) =>
  fs.writeFileSync(path.join(root, 'etc/default/persistent-cache-service'), Object.entries(environment).map(([name, value]) => `${name}=${value}\n`).join(''));
const isReady = async () => (await property('StatusText')).startsWith('ready: ');

async function story() {
  // As every machine has it, and the installer of this small one does not make it.
  fs.writeFileSync(path.join(root, 'etc/hosts'), '127.0.0.1 localhost\n');
  const nspawn = start('systemd', 'systemd-nspawn', ['--quiet', '--boot', '--register=no', '--keep-unit', '--link-journal=no', '--directory', root], { PATH: process.env.PATH });
  children = `/proc/${nspawn.process.pid}/task/${nspawn.process.pid}/children`;
  await waitFor('systemd to have booted', async () => {
    // Its first child prepares, and is gone by the time that the system boots.
    leader = fs.readFileSync(children, 'utf8').trim().split(' ').at(-1);
    return leader && /^(running|degraded)/.test((await inside('systemctl', 'is-system-running')).text);
  });
  booted = true;
  say(`booted: ${(await done('systemctl', '--version')).split('\n')[0]}`);

  await done('dpkg', '--install', '/root/package.deb');
  assert.equal(await property('UnitFileState'), 'enabled');
  assert.equal(await property('ActiveState'), 'inactive', 'a first installation starts nothing');
  say('installed: enabled, not started');

  const redis = await startRedis(path.join(tools, 'sdk'));
  const queue = await startQueue(path.join(tools, 'sdk'), path.join(tools, 'moto/bin/moto_server'));
  const environment = {
    QUEUE_URL: queue.url,
    AWS_REGION: REGION,
    AWS_ACCESS_KEY_ID: queue.key.id,
    AWS_SECRET_ACCESS_KEY_FILE: `/run/credentials/${UNIT}/aws-secret-access-key`,
    SERVER_API_KEY_FILE: `/run/credentials/${UNIT}/server-api-key`,
    REDIS_HOST: 'localhost',
    REDIS_PORT: redis.port,
    PORT: await freePort(),
    CACHE_UPDATE_POLICY: 'UPSERT',
    WAIT_TIME_SECS: '1',
    DISABLE_SENTRY: '1',
  };
  fs.mkdirSync(path.join(root, 'etc/credstore'), { recursive: true });
  const secrets = { 'server-api-key': KEY, 'aws-secret-access-key': queue.key.secret };
  for (const [name, secret] of Object.entries(secrets)) fs.writeFileSync(path.join(root, `etc/credstore/persistent-cache-service.${name}`), `${secret}\n`, { mode: 0o600 });

  settings({ ...environment, PORT: 'http' });
  assert.notEqual((await inside('systemctl', 'start', UNIT)).status, 0);
  assert.deepEqual([await property('ActiveState'), await property('ExecMainStatus'), await property('NRestarts')], ['failed', '78', '0']);
  assert.match((await inside('journalctl', '--no-pager', '--unit', UNIT)).text, /PORT: /);
  say('a faulty configuration: status 78, said in the journal, not tried again');

  settings(environment);
  await done('systemctl', 'reset-failed', UNIT);
  await done('systemctl', 'start', UNIT);
  await waitFor('systemctl status to say ready', isReady);
  say(`started: ${await property('StatusText')}`);
  const pid = await property('MainPID');
  const uid = /^Uid:\s+(\d+)/m.exec(await done('cat', `/proc/${pid}/status`))[1];
  assert.notEqual(uid, '0');
  assert.ok(!(await done('cat', `/proc/${pid}/environ`)).includes(KEY), 'no secret is in the environment');
  say(`it runs as uid ${uid}, without a secret in its environment`);

  await queue.send(fs.readFileSync(sample, 'utf8'));
  await waitFor('the message in Redis', () => redis.client.exists('production:c_customer-demo-01'));
  say('a message got through');

  const dropIn = path.join(root, 'etc/systemd/system', `${UNIT}.d`);
  fs.mkdirSync(dropIn, { recursive: true });
  fs.writeFileSync(path.join(dropIn, 'quick.conf'), '[Service]\nWatchdogSec=2\nTimeoutAbortSec=2\n');
  await done('systemctl', 'daemon-reload');
  await done('systemctl', 'restart', UNIT);
  await waitFor('it to be ready', isReady);
  await done('systemctl', 'kill', '--signal', 'STOP', UNIT);
  await waitFor('the watchdog to restart it', async () => (await property('NRestarts')) === '1' && (await isReady()));
  say('stopped from outside, it fed the watchdog no more, and was restarted');

  await done('systemctl', 'stop', UNIT);
  assert.deepEqual([await property('ActiveState'), await property('Result'), await property('ExecMainStatus')], ['inactive', 'success', '0']);
  say('stopped: success');
  await done('dpkg', '--purge', 'persistent-cache-service');
  assert.equal(await property('LoadState'), 'not-found');
  say('purged');
}

let failed = 0;
try {
  await story();
} catch (error) {
  console.error(error.stack);
  if (booted) console.error((await inside('journalctl', '--no-pager', '--lines', '40', '--output', 'cat', '--unit', UNIT)).text);
  failed = booted ? 1 : 77;
} finally {
  // The booted system first: it would outlive a systemd-nspawn that is ended over its head.
  if (children && fs.existsSync(children)) {
    for (const child of fs.readFileSync(children, 'utf8').trim().split(' ')) if (child) process.kill(Number(child), 'SIGKILL');
  }
  cleanUp();
}
process.exit(failed);
