// The worker that one would write from the public parts: sqs-consumer and the AWS SDK bring the messages, and the
// published Stigg SDK's own Redis cache class writes them (its lock, its timestamps, its MULTI). Ten consumers in one
// process, as the documented default of the service has ten.
//
// It is written to be fast where that is plain: kept connections, batches, one parse a message, the messages of a
// batch side by side, no log, and straight to the cache class, without the SDK's look-up of the customer before a usage.

import { createRequire } from "node:module";
import { Agent as HttpAgent } from "node:http";
import { Agent as HttpsAgent } from "node:https";
import { SQSClient } from "@aws-sdk/client-sqs";
import { NodeHttpHandler } from "@smithy/node-http-handler";
import { Consumer } from "sqs-consumer";

const require = createRequire(import.meta.url);
const { RedisCacheService } = require("@stigg/node-server-sdk/dist/services/cache/redisCacheService.js");

const setting = (name, otherwise) => process.env[name] || otherwise;
const consumers = Number(setting("CONSUMERS", "10"));
const batchSize = Number(setting("BATCH_SIZE", "1"));

const silent = { log() {}, debug() {}, error: console.error, setInstanceId() {}, getInstanceId() {} };
const nothing = { trackHit() {}, trackMiss() {}, trackRedisClientError() {} };
const cache = new RedisCacheService(
  {
    entitlementsTimeout: 1_000,
    redis: {
      host: setting("REDIS_HOST", "127.0.0.1"),
      port: Number(setting("REDIS_PORT", "6379")),
      environmentPrefix: setting("ENVIRONMENT_PREFIX", "production"),
      ttl: Number(setting("KEYS_TTL_IN_SECS", "604800")),
      // Nobody refetches here, so no reader has to learn of a refetch.
      distributedEntitlementsFetching: { disabled: true },
    },
  },
  silent,
  nothing,
);

const time = (iso) => (iso ? Date.parse(iso) : undefined);
const meters = { INCREMENTAL: "Incremental", FLUCTUATING: "Fluctuating", NONE: "None" };

// One entry of a webhook's list, as the SDK keeps it (CacheMapper.js of the SDK does the same for the API's form).
function cached(entry) {
  const { feature } = entry;
  return {
    calculatedEntitlement: {
      feature: {
        id: feature.id,
        featureType: feature.featureType,
        meterType: meters[feature.meterType],
        units: feature.unit || "",
        unitsPlural: feature.units || "",
      },
      usageLimit: entry.usageLimit,
      hasUnlimitedUsage: entry.hasUnlimitedUsage,
      hasSoftLimit: !!entry.hasSoftLimit,
      accessDeniedReason: entry.accessDeniedReason || undefined,
      enumValues: entry.enumValues || [],
      validUntil: entry.validUntil || undefined,
    },
    featureUsage: {
      resetPeriod: entry.resetPeriod,
      resetPeriodConfiguration: entry.resetPeriodConfiguration && {
        __typename: "MonthlyResetPeriodConfig",
        monthlyAccordingTo: entry.resetPeriodConfiguration.accordingTo,
      },
      currentUsage: entry.currentUsage || 0,
      usagePeriodAnchor: time(entry.usagePeriodAnchor),
      usagePeriodStart: time(entry.usagePeriodStart),
      usagePeriodEnd: time(entry.usagePeriodEnd),
    },
  };
}

async function handle({ Body }) {
  const message = JSON.parse(Body);
  const customerId = message.customer.id;
  const resourceId = message.resource?.id;
  const timestamp = new Date(message.timestamp);
  if (message.type === "measurement.reported") {
    const isWritten = await cache.updateFeatureUsage({
      customerId,
      resourceId,
      featureId: message.feature.id,
      currentUsage: message.currentUsage,
      usagePeriodStart: time(message.usagePeriodStart),
      usagePeriodEnd: time(message.usagePeriodEnd),
      timestamp,
    });
    // The class tells a failure of Redis in this way, and only here.
    if (!isWritten) throw new Error("the usage was not written");
  } else if (message.type === "entitlements.updated") {
    const entitlements = new Map();
    const measuredAt = new Map();
    for (const entry of message.entitlements) {
      entitlements.set(entry.feature.id, cached(entry));
      measuredAt.set(entry.feature.id, timestamp.getTime());
    }
    await cache.setCustomer(customerId, entitlements, resourceId, timestamp.getTime(), measuredAt);
  }
}

const pool = { keepAlive: true, maxSockets: 4 * consumers };
const sqs = new SQSClient({
  region: process.env.AWS_REGION,
  endpoint: process.env.AWS_ENDPOINT_URL_SQS,
  requestHandler: new NodeHttpHandler({ httpAgent: new HttpAgent(pool), httpsAgent: new HttpsAgent(pool) }),
});

await cache.waitForInitialization();
const running = Array.from({ length: consumers }, () => {
  const consumer = Consumer.create({
    sqs,
    queueUrl: process.env.QUEUE_URL,
    batchSize,
    waitTimeSeconds: 20,
    // The whole batch at once, so that its deletes are one call.
    handleMessageBatch: async (messages) => {
      await Promise.all(messages.map(handle));
      return messages;
    },
  });
  for (const fault of ["error", "processing_error", "timeout_error"]) {
    consumer.on(fault, (error) => console.error(`${fault}: ${error.message}`));
  }
  consumer.start();
  return consumer;
});

for (const signal of ["SIGTERM", "SIGINT"]) {
  process.on(signal, () => {
    running.forEach((consumer) => consumer.stop({ abort: true }));
    process.exit(0);
  });
}
