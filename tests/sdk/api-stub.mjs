// Stands in for Stigg's API (Edge REST, GraphQL, websockets) towards one SDK client: answers what it was given
// for a customer, refuses everything else, and writes down every call.
import http from 'node:http';

const ENTITLEMENTS = /^\/v1\/c\/([^?]+)\/entitlements\.json(?:\?resourceId=(.*))?$/;

const ownerKey = (customerId, resourceId) => JSON.stringify([customerId, resourceId ?? null]);

export async function startApiStub() {
  const calls = [];
  const entitlementsByOwner = new Map();
  let held = null;

  const server = http.createServer(async (request, response) => {
    request.resume();
    const match = request.method === 'GET' ? ENTITLEMENTS.exec(request.url) : null;
    const entitlements = match
      ? entitlementsByOwner.get(ownerKey(decodeURIComponent(match[1]), match[2] && decodeURIComponent(match[2])))
      : undefined;
    calls.push(`${request.method} ${request.url} -> ${entitlements ? 200 : 403}`);
    // The answer is decided when the request arrives, however long it takes.
    if (held) await held.released;
    // 403 and not 5xx: the SDK retries a 5xx, and a test would wait for its back-off.
    const [status, body] = entitlements
      ? [200, { data: { entitlements } }]
      : [403, { errors: [{ message: 'refused by the API stub' }] }];
    response.writeHead(status, { 'content-type': 'application/json' });
    response.end(JSON.stringify(body));
  });
  server.on('upgrade', (request, socket) => {
    calls.push(`WEBSOCKET ${request.url} -> refused`);
    socket.destroy();
  });
  await new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(0, '127.0.0.1', resolve);
  });

  return {
    url: `http://127.0.0.1:${server.address().port}`,
    /** Every call so far, one line each. */
    calls,
    /** From now on answers with these GraphQL entitlements for this customer (and resource). */
    serve(customerId, resourceId, entitlements) {
      entitlementsByOwner.set(ownerKey(customerId, resourceId), entitlements);
    },
    /** From now on keeps every answer back until `release`. */
    hold() {
      held = {};
      held.released = new Promise((resolve) => { held.release = resolve; });
    },
    /** Sends the answers that were kept back. */
    release() {
      held?.release();
      held = null;
    },
    /** From now on refuses every call, and forgets the calls so far. */
    refuse() {
      entitlementsByOwner.clear();
      calls.length = 0;
    },
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
}
