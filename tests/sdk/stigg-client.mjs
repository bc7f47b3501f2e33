// The published SDK, in Redis mode, with the API stub where Stigg's API would be.
import { createRequire } from 'node:module';
import { startApiStub } from './api-stub.mjs';

let opened = 0;

/** Keeps what the SDK logs as errors. A class: the SDK merges a plain object into `console` itself. */
class ErrorLog {
  constructor() {
    this.errors = [];
  }

  error(...parts) {
    this.errors.push(parts.map((part) => part?.message ?? String(part)).join(' '));
  }

  log() {}

  debug() {}
}

/**
 * Opens an SDK client.
 *
 * `modules` is the directory that holds node_modules; `redis` are the SDK's redis options (ioredis options,
 * environmentPrefix, ttl); `timeout` is how long it waits for one answer of the API. Nothing is called at start: remote configuration and realtime updates are off.
 */
export async function openStiggClient({ modules, redis, timeout = 5000 }) {
  const { Stigg, LogLevel } = createRequire(`${modules}/`)('@stigg/node-server-sdk');
  const api = await startApiStub();
  const logger = new ErrorLog();
  const stigg = Stigg.initialize({
    // One instance an API key: the SDK returns the earlier client for a key that it has seen.
    apiKey: `server-key-of-client-${++opened}`,
    baseUri: api.url,
    baseEdgeUri: api.url,
    wsUrl: api.url.replace('http:', 'ws:'),
    enableRemoteConfig: false,
    realtimeUpdatesEnabled: false,
    timeout,
    entitlementsTimeout: timeout,
    logConfiguration: { logger, logLevel: LogLevel.ERROR },
    redis: { commandTimeout: 5000, ...redis },
  });
  await stigg.waitForInitialization();
  return {
    stigg,
    api,
    /** What the SDK logged as an error. */
    errors: logger.errors,
    async close() {
      api.close();
      await stigg.close();
    },
  };
}

/** One question to the SDK; `kind` is Boolean, Numeric, Metered or Enum. */
export function askForEntitlement(stigg, kind, question) {
  return stigg[`get${kind}Entitlement`](question);
}
