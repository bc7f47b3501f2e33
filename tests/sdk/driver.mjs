// Lets the tests (Rust) drive the published SDK: one JSON request a line on stdin, one JSON answer a line on
// stdout, matched by `id`. Ends when stdin ends.
//
// usage: node driver.mjs DIRECTORY-OF-NODE_MODULES
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import readline from 'node:readline';
import { askForEntitlement, openStiggClient } from './stigg-client.mjs';

const modules = process.argv[2];
const clients = new Map();
let nextClient = 1;

const the = (request) => {
  const client = clients.get(request.client);
  if (!client) throw new Error(`no client ${request.client}`);
  return client;
};

const operations = {
  async open({ redis, timeout }) {
    const client = nextClient++;
    clients.set(client, await openStiggClient({ modules, redis, timeout }));
    return client;
  },
  async hold(request) {
    the(request).api.hold();
  },
  async release(request) {
    the(request).api.release();
  },
  /** What the SDK's cache in memory makes of a list when a credit balance comes. */
  async underBalance({ entries, balance }) {
    const { InMemoryCacheService } = createRequire(`${modules}/`)(
      `${modules}/node_modules/@stigg/node-server-sdk/dist/services/cache/inMemoryCacheService.js`,
    );
    const cache = new InMemoryCacheService(10_000_000, { trackHit() {}, trackMiss() {} });
    cache.setCustomer('customer', new Map(Object.entries(entries)));
    cache.updateEntitlementsBasedOnCreditBalanceUpdate({ customerId: 'customer', ...balance });
    return Object.fromEntries(cache.getCustomerEntitlements('customer').entitlements);
  },
  async serve(request) {
    the(request).api.serve(request.customerId, request.resourceId, request.entitlements);
  },
  async refuse(request) {
    the(request).api.refuse();
  },
  async calls(request) {
    return the(request).api.calls;
  },
  async errors(request) {
    return the(request).errors;
  },
  async entitlements(request) {
    return the(request).stigg.getEntitlements(request.customerId, request.resourceId ?? undefined);
  },
  async entitlement(request) {
    return askForEntitlement(the(request).stigg, request.kind, {
      customerId: request.customerId,
      resourceId: request.resourceId ?? undefined,
      featureId: request.featureId,
      options: request.options ?? undefined,
    });
  },
  /** Whether ioredis, by which the SDK reads, takes a server with these TLS options. Null, or why not. */
  async tls({ host, port, ca, cert, key, insecure }) {
    const { Redis } = createRequire(`${modules}/`)(`${modules}/node_modules/ioredis`);
    const file = (path) => (path ? readFileSync(path) : undefined);
    const tls = { ca: file(ca), cert: file(cert), key: file(key), rejectUnauthorized: !insecure };
    const redis = new Redis({ host, port, tls, family: 4, lazyConnect: true, retryStrategy: () => null, maxRetriesPerRequest: 0 });
    let first;
    redis.on('error', (error) => {
      first ??= error;
    });
    try {
      await redis.connect();
      await redis.ping();
      return null;
    } catch (error) {
      return String((first ?? error).code ?? (first ?? error).message);
    } finally {
      redis.disconnect();
    }
  },
  async close(request) {
    const client = the(request);
    clients.delete(request.client);
    await client.close();
  },
};

// A client whose Redis a test took away rejects promises that nobody holds. That ends no other client.
process.on('unhandledRejection', (error) => console.error('unhandled:', error));

const answer = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);

const lines = readline.createInterface({ input: process.stdin });
lines.on('line', async (line) => {
  const request = JSON.parse(line);
  try {
    const operation = operations[request.op];
    if (!operation) throw new Error(`no operation ${request.op}`);
    answer({ id: request.id, ok: (await operation(request)) ?? null });
  } catch (error) {
    answer({ id: request.id, error: error?.stack ?? String(error) });
  }
});
lines.on('close', () => process.exit(0));
