// The demo's story: the sample messages, and what the published SDK answers before and after each.
//
// usage: node demo.mjs TOOLS-DIRECTORY SERVICE-BINARY
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { openStiggClient } from '../../tests/sdk/stigg-client.mjs';
import { REGION, cleanUp, freePort, start, startQueue, startRedis, stop, waitFor } from './neighbours.mjs';

const [tools, binary] = process.argv.slice(2);
const modules = path.join(tools, 'sdk');
const samples = fileURLToPath(new URL('../../tests/samples/', import.meta.url));
const PREFIX = 'production';

// The samples tell of one morning; it is moved to this moment, since a reader takes an ended period for no usage.
const SAMPLES_NOW = Date.parse('2026-11-20T08:10:00Z');
const shift = Date.now() - SAMPLES_NOW;
const moved = (text) =>
  text
    .replace(/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{3})?Z/g, (time) => new Date(Date.parse(time) + shift).toISOString())
    .replace(/\b\d{13}\b/g, (epochMs) => String(Number(epochMs) + shift));
const sample = (name) => moved(fs.readFileSync(path.join(samples, `${name}.json`), 'utf8'));

const say = (text = '') => console.log(text);
let wrong = 0;

// ---- what the SDK is asked ------------------------------------------------------------------------------------

const access = (answer) => (answer.hasAccess ? 'access' : `no access (${answer.accessDeniedReason})`);
const spoken = (answer, text) => (answer.isFallback ? 'has to ask Stigg, which refuses here' : text);
const metered = (customerId, featureId, resourceId) => async ({ stigg }) => {
  const answer = await stigg.getMeteredEntitlement({ customerId, featureId, resourceId, options: { requestedUsage: 1 } });
  return spoken(answer, answer.usageLimit === undefined ? access(answer) : `${answer.currentUsage} of ${answer.usageLimit}, ${access(answer)}`);
};
const boolean = (customerId, featureId) => async ({ stigg }) => {
  const answer = await stigg.getBooleanEntitlement({ customerId, featureId });
  return spoken(answer, access(answer));
};
const enumeration = (customerId, featureId) => async ({ stigg }) => {
  const answer = await stigg.getEnumEntitlement({ customerId, featureId });
  return spoken(answer, `${answer.enumValues.join(', ')}: ${access(answer)}`);
};
const creditKey = `${PREFIX}:c_customer-demo-01:credit_cred-type-ai`;
const credits = () => async ({ redis }) => {
  const stored = await redis.get(creditKey);
  return stored ? `${JSON.parse(stored).currentUsage} consumed` : '(no key)';
};

const QUESTIONS = {
  calls: ['demo-01: API calls', metered('customer-demo-01', 'feature-api-calls')],
  sso: ['demo-01: single sign-on', boolean('customer-demo-01', 'feature-sso')],
  regions: ['demo-01: regions', enumeration('customer-demo-01', 'feature-regions')],
  storage: ['demo-01, site-1: storage', metered('customer-demo-01', 'feature-storage', 'site-1')],
  other: ['demo-02: API calls', metered('customer-demo-02', 'feature-api-calls')],
  credits: ['demo-01: AI credits (key in Redis)', credits()],
};

async function askAll(world) {
  const answers = {};
  for (const [name, [, ask]] of Object.entries(QUESTIONS)) answers[name] = await ask(world);
  return answers;
}

// ---- how it is shown ------------------------------------------------------------------------------------------

function table(rows) {
  const widths = [0, 1, 2].map((column) => Math.max(...rows.map((row) => row[column].length)));
  rows.forEach((row, index) => {
    const cells = widths.map((width, column) => row[column].padEnd(width));
    say(`   ${cells.join('   ')}   ${row[3]}`.trimEnd());
    if (index === 0) say(`   ${widths.map((width) => '-'.repeat(width)).join('   ')}`);
  });
}

/** Sends samples, waits for the expected answers, shows what changed. Answers that are not named must stay. */
async function step(world, title, names, changes) {
  say(`\n>> ${title}`);
  say(`   sent: ${names.join(', ')}`);
  const before = world.answers;
  const expected = { ...before, ...changes };
  for (const name of names) await world.queue.send(sample(name));
  // Deleted means applied: only then is the SDK asked.
  await waitFor('an empty queue', async () => (await world.queue.messages()) === 0, 30).catch(() => check('the queue is emptied within 30 s', false));
  const after = await askAll(world);
  const shown = Object.keys(expected).filter((name) => name in changes || after[name] !== expected[name]);
  const rows = shown.map((name) => {
    const right = after[name] === expected[name];
    if (!right) wrong += 1;
    return [QUESTIONS[name][0], before[name], after[name], right ? 'right' : `WRONG, expected: ${expected[name]}`];
  });
  if (rows.length > 0) table([['question', 'before', 'after', ''], ...rows]);
  else say('   every answer is as it was: right');
  world.answers = after;
}

function check(what, holds) {
  say(`   ${what}: ${holds ? 'right' : 'WRONG'}`);
  if (!holds) wrong += 1;
}

// ---- the older state, as Stigg's API would give it ------------------------------------------------------------

const at = moved('2026-11-20T07:00:00.000Z');
const older = (refId, featureType, fields) => ({
  __typename: 'Entitlement',
  isGranted: true,
  accessDeniedReason: null,
  usageLimit: null,
  hasUnlimitedUsage: false,
  hasSoftLimit: false,
  currentUsage: null,
  enumValues: null,
  entitlementUpdatedAt: at,
  usageUpdatedAt: at,
  resetPeriod: null,
  resetPeriodConfiguration: null,
  validUntil: null,
  ...fields,
  feature: { __typename: 'EntitlementFeature', refId, featureType, meterType: fields.meterType ?? null, featureUnits: null, featureUnitsPlural: null, displayName: refId, description: null },
});
const OLDER = [
  ['customer-demo-01', undefined, [
    older('feature-api-calls', 'NUMBER', { meterType: 'Incremental', usageLimit: 50, currentUsage: 50 }),
    older('feature-regions', 'ENUM', { enumValues: ['eu'] }),
  ]],
  ['customer-demo-01', 'site-1', [older('feature-storage', 'NUMBER', { meterType: 'Fluctuating', usageLimit: 5, currentUsage: 5 })]],
  ['customer-demo-02', undefined, [older('feature-api-calls', 'NUMBER', { meterType: 'Incremental', usageLimit: 20, currentUsage: 1 })]],
];

// ---- the story ------------------------------------------------------------------------------------------------

async function story() {
  say('>> Starting a private Redis and a local SQS (moto) that checks signatures');
  const redis = await startRedis(modules);
  const queue = await startQueue(modules, path.join(tools, 'moto/bin/moto_server'));
  const refused = await queue.sendWithWrongSecret('{}');
  check(`a message signed with a wrong secret is refused with ${refused.status}`, refused.status === 403);

  say('\n>> The published SDK (@stigg/node-server-sdk 3.95.0, redis mode) fetches an older state from a stub of');
  say("   Stigg's API, once. From then on the stub refuses every call: what the SDK answers is from the cache.");
  const sdk = await openStiggClient({ modules, redis: { host: '127.0.0.1', port: redis.port, environmentPrefix: PREFIX } });
  for (const [customerId, resourceId, entitlements] of OLDER) sdk.api.serve(customerId, resourceId, entitlements);
  for (const [customerId, resourceId] of OLDER) await sdk.stigg.getEntitlements(customerId, resourceId);
  sdk.api.refuse();
  const world = { stigg: sdk.stigg, redis: redis.client, queue };
  world.answers = await askAll(world);

  say('\n>> Starting the service: 10 pollers, the documented settings, with a long poll of 2 s instead of 20 s');
  const port = await freePort();
  const service = start('the service', binary, [], {
    AWS_REGION: REGION,
    QUEUE_URL: queue.url,
    AWS_ACCESS_KEY_ID: queue.key.id,
    AWS_SECRET_ACCESS_KEY: queue.key.secret,
    SERVER_API_KEY: 'server-key-of-the-demo',
    REDIS_HOST: '127.0.0.1',
    REDIS_PORT: String(redis.port),
    PORT: String(port),
    WAIT_TIME_SECS: '2',
    DISABLE_SENTRY: '1',
  });
  const ready = async () => {
    const answer = await fetch(`http://127.0.0.1:${port}/readyz`).then((response) => response.text(), () => '');
    return answer.includes('"consumers":10') && answer;
  };
  say(`   /readyz: ${await waitFor('the service to be ready with 10 pollers', ready)}`);

  await step(
    world,
    'A plan was upgraded: entitlements of demo-01 (GraphQL form) and of one of its sites (webhook form)',
    ['graphql-entitlements-updated-v2', 'webhook-entitlements-updated'],
    {
      calls: '42 of 100, access',
      sso: 'access',
      regions: 'eu, us: access',
      storage: '7.5 of 10, access',
      credits: '250 consumed',
    },
  );
  await step(world, 'A call was counted (webhook form; then the same again, wrapped by SNS and by EventBridge)', ['webhook-measurement-reported', 'sns-envelope', 'eventbridge-envelope'], {
    calls: '43 of 100, access',
  });
  await step(world, 'Another call was counted (GraphQL form)', ['graphql-usage-updated-v2'], { calls: '44 of 100, access' });
  await step(world, 'Credits were used up (a key that SDK 4.x reads)', ['graphql-credit-balance-updated'], { credits: '1000 consumed' });
  await step(world, 'A message that came late: the count of before, once more', ['webhook-measurement-reported'], {});
  await step(world, 'A type that changes nothing here', ['event-unknown'], {});
  await step(world, 'demo-02 lost its subscription (event log form)', ['event-entitlements-updated-empty'], {
    other: 'no access (CustomerNotFound)',
  });
  say();
  check(`calls of Stigg's API so far: ${sdk.api.calls.length}`, sdk.api.calls.length === 0);

  await step(world, 'A purge of demo-01: its state is no longer known, so the next reader has to ask', ['event-purge-customer'], {
    calls: 'has to ask Stigg, which refuses here',
    sso: 'has to ask Stigg, which refuses here',
    regions: 'has to ask Stigg, which refuses here',
    storage: 'has to ask Stigg, which refuses here',
  });
  check(`now the SDK does call: ${new Set(sdk.api.calls).size} different calls, each refused`, sdk.api.calls.length > 0);
  await step(world, 'A migration of demo-01 and demo-02', ['event-subscriptions-migrated'], {
    other: 'has to ask Stigg, which refuses here',
  });

  say('\n>> A package was published to all customers: the environment is invalidated');
  await world.queue.send(sample('graphql-package-published'));
  const entries = async () => (await redis.client.keys(`${PREFIX}:c_*#timestamp`)).filter((key) => !/:(f|credit)_/.test(key)).length;
  await waitFor('no customer to be left in Redis', async () => (await entries()) === 0, 20).catch((error) => say(`   ${error.message}`));
  check('no customer is left in Redis', (await entries()) === 0);

  say('\n>> Stopping the service with SIGTERM');
  const status = await stop(service);
  check(`exit status ${status}`, status === 0);
  check('the queue is empty', (await queue.messages()) === 0);
}

for (const signal of ['SIGINT', 'SIGTERM']) {
  process.on(signal, () => {
    cleanUp();
    process.exit(130);
  });
}
try {
  await story();
  say(wrong === 0 ? '\nEvery answer was right.' : `\n${wrong} answers were WRONG.`);
} catch (error) {
  say(`\nthe demo failed: ${error.stack}`);
  wrong += 1;
} finally {
  cleanUp();
}
process.exit(wrong === 0 ? 0 : 1);
