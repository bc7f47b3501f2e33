// What an image must say of itself.
//
// usage: node inspect.mjs INSPECT.JSON VERSION COMMIT
import assert from 'node:assert/strict';
import fs from 'node:fs';

const [file, version, commit] = process.argv.slice(2);
const { config } = JSON.parse(fs.readFileSync(file, 'utf8')).Docker;

assert.match(config.User, /^[1-9]\d*:[1-9]\d*$/, 'the user is a number, and not root');
assert.deepEqual(config.Entrypoint, ['/persistent-cache-service']);
assert.deepEqual(config.Healthcheck.Test, ['CMD', '/persistent-cache-service', 'ready']);
assert.ok(config.ExposedPorts['4000/tcp'], 'the port is declared');
const labels = config.Labels;
assert.equal(labels['org.opencontainers.image.version'], version, 'the Containerfile and Cargo.toml name one version');
assert.equal(labels['org.opencontainers.image.revision'], commit);
for (const name of ['title', 'description', 'licenses']) assert.ok(labels[`org.opencontainers.image.${name}`], name);
console.log(`user ${config.User}, health check: ${config.Healthcheck.Test.slice(1).join(' ')}, version ${version}, commit ${commit}`);
