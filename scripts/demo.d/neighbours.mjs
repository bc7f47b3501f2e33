// The service's neighbours in the demo: child processes that end with it, a private Redis, and a local SQS that
// checks signatures (moto).
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import { createRequire } from 'node:module';
import net from 'node:net';
import os from 'node:os';
import path from 'node:path';

export const REGION = 'us-east-2';

const children = [];
const directories = [];

/** Waits until `condition` gives a value; fails after `seconds` with what was waited for. */
export async function waitFor(what, condition, seconds = 60) {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    const dead = children.find((child) => child.unexpectedEnd);
    if (dead) throw new Error(`${dead.title} ended (${dead.unexpectedEnd}) before: ${what}\n${dead.output()}`);
    const value = await condition();
    if (value) return value;
    if (Date.now() > deadline) throw new Error(`waited ${seconds} s in vain for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Starts a program that the kernel kills when this process ends, however it ends. */
export function start(title, program, args, env = {}) {
  const process = spawn('/usr/bin/setpriv', ['--pdeathsig', 'KILL', '--', program, ...args], {
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const lines = [];
  const child = { title, process, output: () => lines.slice(-30).join(''), lines, stopping: false };
  for (const stream of [process.stdout, process.stderr]) stream.on('data', (chunk) => lines.push(String(chunk)));
  process.on('error', (error) => (child.unexpectedEnd = error.message));
  child.ended = new Promise((resolve) => {
    process.on('exit', (code, signal) => {
      if (!child.stopping) child.unexpectedEnd = signal ?? `exit status ${code}`;
      resolve(code);
    });
  });
  children.push(child);
  return child;
}

/** Ends a child with SIGTERM and gives its exit status. */
export async function stop(child) {
  child.stopping = true;
  child.process.kill('SIGTERM');
  return child.ended;
}

/** Ends everything that is still running, and removes what was put on disk. */
export function cleanUp() {
  for (const child of children) {
    child.stopping = true;
    child.process.kill('SIGKILL');
  }
  for (const directory of directories) fs.rmSync(directory, { recursive: true, force: true });
}

export async function freePort() {
  const server = net.createServer();
  await new Promise((resolve, reject) => server.once('error', reject).listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** A redis-server of our own: own port, own directory, nothing persisted. */
export async function startRedis(modules) {
  const port = await freePort();
  const directory = fs.mkdtempSync(path.join(os.tmpdir(), 'persistent-cache-demo-'));
  directories.push(directory);
  start('redis-server', 'redis-server', ['--port', port, '--bind', '127.0.0.1', '--save', '', '--dir', directory].map(String), {
    PATH: process.env.PATH,
  });
  const Redis = createRequire(`${modules}/`)('ioredis');
  const client = new Redis({ host: '127.0.0.1', port, retryStrategy: () => 50, maxRetriesPerRequest: null });
  client.on('error', () => {}); // it is not up yet; waitFor below has the last word
  await waitFor('redis-server to answer', () => client.ping());
  return { port, client };
}

/** moto with signature checks on, and a queue in it. */
export async function startQueue(modules, motoServer) {
  const aws4 = createRequire(`${modules}/`)('aws4');
  const port = await freePort();
  const endpoint = `http://127.0.0.1:${port}`;
  start('moto', motoServer, ['--host', '127.0.0.1', '--port', String(port)], { INITIAL_NO_AUTH_ACTION_COUNT: '3' });

  const call = async (key, service, headers, body) => {
    const request = aws4.sign(
      { service, region: service === 'iam' ? 'us-east-1' : REGION, method: 'POST', path: '/', host: `127.0.0.1:${port}`, headers, body },
      { accessKeyId: key.id, secretAccessKey: key.secret },
    );
    delete request.headers.Host; // fetch sets it itself, to the same
    delete request.headers['Content-Length'];
    const response = await fetch(`${endpoint}/`, { method: 'POST', headers: request.headers, body });
    return { status: response.status, text: await response.text() };
  };
  const succeed = (answer) => {
    if (answer.status !== 200) throw new Error(`moto: ${answer.status} ${answer.text}`);
    return answer.text;
  };
  const nobody = { id: 'AKIANOBODY', secret: 'none' };
  const iam = async (parameters) => {
    const body = new URLSearchParams({ ...parameters, Version: '2010-05-08' }).toString();
    return succeed(await call(nobody, 'iam', { 'Content-Type': 'application/x-www-form-urlencoded' }, body));
  };
  const sqs = (key, action, body) =>
    call(key, 'sqs', { 'Content-Type': 'application/x-amz-json-1.0', 'X-Amz-Target': `AmazonSQS.${action}` }, JSON.stringify(body));

  await waitFor('moto to answer', () => fetch(`${endpoint}/moto-api/data.json`).then((response) => response.ok, () => false));
  // The three calls that moto lets pass unsigned: a user with a key and a policy.
  await iam({ Action: 'CreateUser', UserName: 'demo' });
  const keyXml = await iam({ Action: 'CreateAccessKey', UserName: 'demo' });
  const policy = { Version: '2012-10-17', Statement: [{ Effect: 'Allow', Action: 'sqs:*', Resource: '*' }] };
  await iam({ Action: 'PutUserPolicy', UserName: 'demo', PolicyName: 'demo', PolicyDocument: JSON.stringify(policy) });
  const element = (name) => new RegExp(`<${name}>([^<]+)<`).exec(keyXml)[1];
  const key = { id: element('AccessKeyId'), secret: element('SecretAccessKey') };

  const { QueueUrl: url } = JSON.parse(succeed(await sqs(key, 'CreateQueue', { QueueName: 'stigg-state-changes' })));
  return {
    url,
    key,
    send: async (body) => succeed(await sqs(key, 'SendMessage', { QueueUrl: url, MessageBody: body })),
    sendWithWrongSecret: (body) =>
      sqs({ ...key, secret: 'a-wrong-secret' }, 'SendMessage', { QueueUrl: url, MessageBody: body }),
    messages: async () => {
      const names = ['ApproximateNumberOfMessages', 'ApproximateNumberOfMessagesNotVisible'];
      const { Attributes } = JSON.parse(succeed(await sqs(key, 'GetQueueAttributes', { QueueUrl: url, AttributeNames: names })));
      return names.reduce((sum, name) => sum + Number(Attributes[name]), 0);
    },
  };
}
