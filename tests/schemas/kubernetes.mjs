// Checks scripts/helm and scripts/kubernetes: the chart with the value files of tests/schemas/helm, by Helm's own linter, by
// the schema of each API (required fields, enums, patterns), and by its TypeScript type, which refuses fields that the API does
// not know; then what the manifests say together. Then that scripts/kubernetes/manifests.yaml is what the chart renders.
//
// node kubernetes.mjs REPOSITORY TOOLS [--write], where TOOLS holds node_modules, layer/kubectl and layer/helm. `--write` renders
// scripts/kubernetes/manifests.yaml again.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

import { complaints } from "./typescript.mjs";

const [repository, tools] = process.argv.slice(2, 4).map((argument) => path.resolve(argument));
const writes = process.argv[4] === "--write";
const require = createRequire(path.join(tools, "package.json"));
const { parseAllDocuments } = require("yaml");
const kubernetes = path.join(repository, "scripts/kubernetes");
const chart = path.join(repository, "scripts/helm");
const workplace = mkdtempSync(path.join(tools, "check-"));
process.on("exit", () => rmSync(workplace, { recursive: true, force: true }));

// The packages are found from the place of the file that imports them.
const loader = path.join(workplace, "load.mjs");
writeFileSync(loader, "export const load = (name) => import(name);");
const { load } = await import(pathToFileURL(loader));

// Where the schema and the type of each kind are.
const MODULES = {
  "v1 ConfigMap": "kubernetes-models/v1/ConfigMap",
  "v1 Service": "kubernetes-models/v1/Service",
  "v1 ServiceAccount": "kubernetes-models/v1/ServiceAccount",
  "apps/v1 Deployment": "kubernetes-models/apps/v1/Deployment",
  "autoscaling/v2 HorizontalPodAutoscaler": "kubernetes-models/autoscaling/v2/HorizontalPodAutoscaler",
  "policy/v1 PodDisruptionBudget": "kubernetes-models/policy/v1/PodDisruptionBudget",
  "networking.k8s.io/v1 NetworkPolicy": "kubernetes-models/networking.k8s.io/v1/NetworkPolicy",
  "monitoring.coreos.com/v1 ServiceMonitor":
    "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/ServiceMonitor",
  "monitoring.coreos.com/v1 PrometheusRule":
    "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule",
  "keda.sh/v1alpha1 ScaledObject": "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject",
  "keda.sh/v1alpha1 TriggerAuthentication": "@kubernetes-models/keda/keda.sh/v1alpha1/TriggerAuthentication",
};

function read(text) {
  return parseAllDocuments(text, { version: "1.1" }).map((document) => {
    assert.deepEqual(document.errors, []);
    return document.toJS();
  });
}

const moduleOf = ({ apiVersion, kind }) => {
  const found = MODULES[`${apiVersion} ${kind}`];
  assert.ok(found, `no schema is known for ${apiVersion} ${kind}`);
  return found;
};

// Faults of the schema, if any.
async function schemaFault(manifest) {
  const { [manifest.kind]: Model } = await load(moduleOf(manifest));
  try {
    new Model(manifest).validate();
  } catch (error) {
    return error.message;
  }
  return undefined;
}

// What the TypeScript compiler says of all of them: written out as literals, in which it wants to know every field.
function typeFaults(all) {
  const lines = all.map((manifest, number) => [
    `import type { I${manifest.kind} as Type${number} } from ${JSON.stringify(moduleOf(manifest))};`,
    `export const manifest${number}: Type${number} = ${JSON.stringify(manifest, null, 1)};`,
  ]);
  return complaints(tools, workplace, lines.flat().join("\n"));
}

const helm = (...flags) =>
  execFileSync(path.join(tools, "layer/helm/helm"), flags, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
const template = (values, ...flags) =>
  helm("template", "persistent-cache-service", chart, "--namespace", "persistent-cache", "--values", values, ...flags);

// ---- the plain manifests -----------------------------------------------------------------------------------------

const manifests = path.join(kubernetes, "manifests.yaml");
const plain = `# persistent-cache-service without Helm. Rendered from scripts/helm with values.yaml beside this file, and checked by
# scripts/test release. Edit the image and the ConfigMap, create the secret, and:
#   kubectl apply --namespace persistent-cache --filename manifests.yaml
# A changed ConfigMap takes: kubectl rollout restart deployment/persistent-cache-service
${template(path.join(kubernetes, "values.yaml")).replace(/^ *(helm\.sh\/chart|app\.kubernetes\.io\/managed-by|checksum\/settings): .*\n/gm, "").replace(/^ *annotations:\n *# Changed settings roll the pods\.\n/gm, "")}`;
if (writes) writeFileSync(manifests, plain);
assert.equal(
  readFileSync(manifests, "utf8"),
  plain,
  "scripts/kubernetes/manifests.yaml is not what the chart renders: node tests/schemas/kubernetes.mjs . TOOLS --write",
);

// ---- the chart ---------------------------------------------------------------------------------------------------

const files = path.join(repository, "tests/schemas/helm");
const releases = {};
for (const file of readdirSync(files)) {
  const values = path.join(files, file);
  helm("lint", "--strict", chart, "--values", values);
  releases[path.parse(file).name] = read(template(values));
}
assert.equal(Object.keys(releases).length, 5);

const { version, appVersion } = read(readFileSync(path.join(chart, "Chart.yaml"), "utf8"))[0];
const [, crate] = /^version = "(.*)"$/m.exec(readFileSync(path.join(repository, "Cargo.toml"), "utf8"));
assert.deepEqual([version, appVersion], [crate, crate]);

// Values that would be ignored, or would put a secret into a ConfigMap, are refused.
const minimal = path.join(files, "minimal.yaml");
const refusal = (...flags) => {
  try {
    template(minimal, ...flags);
  } catch (error) {
    return error.stderr;
  }
  return "";
};
assert.match(refusal("--set", "settings.REDIS_HOSTT=db-1"), /REDIS_HOSTT/);
assert.match(refusal("--set", "settings.REDIS_PASSWORD=secret"), /REDIS_PASSWORD/);
assert.match(refusal("--set", "replicas=3"), /replicas/);
assert.match(refusal("--set", "keda.trigger=cpu"), /trigger/);
assert.match(refusal("--set", "settings.QUEUE_URL="), /settings\.QUEUE_URL: set the URL of the SQS queue/);
assert.match(refusal("--set", "image.repository="), /image\.repository: set the image/);

// Stigg's chart, as far as the post-renderer minds it, through Helm: the names are those of stigg-chart 1.0.1.
function rendered(manifest) {
  const stiggs = path.join(workplace, "chart");
  const plugins = path.join(workplace, "plugins");
  mkdirSync(path.join(stiggs, "templates"), { recursive: true });
  mkdirSync(plugins);
  symlinkSync(path.join(kubernetes, "stigg-chart"), path.join(plugins, "stigg-chart"));
  writeFileSync(path.join(stiggs, "Chart.yaml"), "{apiVersion: v2, name: stigg-chart, version: 1.0.1}");
  writeFileSync(path.join(stiggs, "templates/deployment.yaml"), JSON.stringify(manifest));
  const env = {
    PATH: `${path.join(tools, "layer/kubectl")}:${process.env.PATH}`,
    HELM_PLUGINS: plugins,
    HELM_DATA_HOME: workplace,
    HELM_CONFIG_HOME: workplace,
    HELM_CACHE_HOME: workplace,
  };
  const flags = ["template", "stigg", stiggs, "--post-renderer", "persistent-cache-service"];
  return read(execFileSync(path.join(tools, "layer/helm/helm"), flags, { encoding: "utf8", env }));
}

const labels = { app: "stigg-persistent-cache" };
const ofStigg = {
  name: "persistent-cache-service",
  image: "public.ecr.aws/stigg/persistent-cache-service:2.39.0",
  env: [{ name: "REDIS_HOST", value: "redis" }],
};
const patched = rendered({
  apiVersion: "apps/v1",
  kind: "Deployment",
  metadata: { name: "stigg-persistent-cache" },
  spec: {
    selector: { matchLabels: labels },
    template: { metadata: { labels }, spec: { containers: [ofStigg] } },
  },
});

// The alert rules, as scripts/prometheus/README.md says to give them to the operator.
const { groups } = read(readFileSync(path.join(repository, "scripts/prometheus/alerts.yml"), "utf8"))[0];
const rule = {
  apiVersion: "monitoring.coreos.com/v1",
  kind: "PrometheusRule",
  metadata: { name: "persistent-cache-service" },
  spec: { groups },
};

const judged = [...Object.values(releases).flat(), ...read(plain), ...patched, rule];
for (const manifest of judged) {
  assert.equal(await schemaFault(manifest), undefined, `${manifest.kind} ${manifest.metadata.name}`);
}
assert.equal(typeFaults(judged), "");

// The judges can say no.
const the = (kind, release) => {
  const found = (releases[release] ?? release).filter((manifest) => manifest.kind === kind);
  assert.equal(found.length, 1, `${found.length} of ${kind}`);
  return structuredClone(found[0]);
};
const badType = the("ServiceMonitor", "irsa-and-prometheus");
badType.spec.endpoints[0].intervall = "15s";
assert.match(typeFaults([badType]), /intervall/);
const badEnum = the("TriggerAuthentication", "keda-queue-depth");
badEnum.spec.podIdentity.identityOwner = "nobody";
assert.notEqual(await schemaFault(badEnum), undefined);
const badDeployment = the("Deployment", "minimal");
delete badDeployment.spec.selector;
assert.notEqual(await schemaFault(badDeployment), undefined);

// What the manifests of each release say together.
for (const [name, release] of Object.entries(releases)) {
  const deployment = the("Deployment", name);
  const pod = deployment.spec.template.spec;
  const [container] = pod.containers;
  const settings = the("ConfigMap", name).data;
  const labels = Object.entries(deployment.spec.template.metadata.labels);
  const selects = (selector) => Object.entries(selector).every(([key, value]) => labels.some((label) => label[0] === key && label[1] === value));
  const has = (kind) => release.some((manifest) => manifest.kind === kind);

  assert.equal(container.envFrom[0].configMapRef.name, the("ConfigMap", name).metadata.name);
  assert.ok(pod.terminationGracePeriodSeconds >= Number(settings.SHUTDOWN_TIMEOUT_SECS) + 5, "the grace period fits the drain");
  assert.deepEqual(
    [pod.securityContext.runAsNonRoot, pod.securityContext.seccompProfile.type, pod.automountServiceAccountToken],
    [true, "RuntimeDefault", false],
  );
  assert.deepEqual(container.securityContext, {
    allowPrivilegeEscalation: false,
    capabilities: { drop: ["ALL"] },
    readOnlyRootFilesystem: true,
  });
  assert.equal(pod.volumes[0].secret.defaultMode, 0o440);
  for (const { name: variable, value } of container.env) {
    const key = path.basename(value);
    assert.equal(variable, `${key}_FILE`);
    assert.equal(path.dirname(value), container.volumeMounts[0].mountPath);
    assert.ok(pod.volumes[0].secret.items.some((item) => item.key === key && item.path === key), key);
  }
  for (const value of Object.values(settings)) assert.equal(typeof value, "string");
  assert.equal(container.ports[0].containerPort, Number(settings.PORT ?? 4000));
  assert.ok(selects(deployment.spec.selector.matchLabels));
  assert.ok(selects(the("NetworkPolicy", name).spec.podSelector.matchLabels));
  for (const rule of the("NetworkPolicy", name).spec.ingress) assert.ok(rule.from.length > 0, "only those named may connect");
  const service = the("Service", name);
  assert.ok(selects(service.spec.selector));
  assert.ok(container.ports.some(({ name: port }) => port === service.spec.ports[0].targetPort));
  if (has("PodDisruptionBudget")) assert.ok(selects(the("PodDisruptionBudget", name).spec.selector.matchLabels));
  assert.equal(pod.serviceAccountName, has("ServiceAccount") ? the("ServiceAccount", name).metadata.name : "existing");
  if (has("ServiceMonitor")) {
    const { spec } = the("ServiceMonitor", name);
    assert.deepEqual(spec.selector.matchLabels, service.spec.selector);
    assert.equal(service.metadata.labels[spec.jobLabel], "persistent-cache-service", "the job of the alert rules");
    assert.ok(service.spec.ports.some(({ name: port }) => port === spec.endpoints[0].port));
    for (const label of spec.targetLabels) assert.ok(service.metadata.labels[label], label);
  }
  // KEDA sets the number: with one in the manifest each upgrade would set it back.
  assert.equal(deployment.spec.replicas === undefined, has("ScaledObject"));
  if (has("ScaledObject")) assert.equal(the("ScaledObject", name).spec.scaleTargetRef.name, deployment.metadata.name);
}
const scaled = the("ScaledObject", "keda-queue-depth");
const [byDepth] = scaled.spec.triggers;
assert.equal(byDepth.metadata.queueURL, the("ConfigMap", "keda-queue-depth").data.QUEUE_URL);
assert.equal(byDepth.metadata.queueLength, "1000000", "a large number is no float");
assert.equal(byDepth.authenticationRef.name, the("TriggerAuthentication", "keda-queue-depth").metadata.name);
assert.equal(the("ConfigMap", "strict-cluster").data.KEYS_TTL_IN_SECS, "31536000", "a large number is no float");
assert.equal(the("ConfigMap", "strict-cluster").data.REDIS_HOST, undefined, "an empty setting is left out");
const [annotation] = Object.entries(the("ServiceAccount", "irsa-and-prometheus").metadata.annotations);
assert.deepEqual(annotation, ["eks.amazonaws.com/role-arn", "arn:aws:iam::123456789012:role/persistent-cache-service"]);

// The chart knows the settings of README's table: each is one of `settings`, or a secret.
const readme = readFileSync(path.join(repository, "README.md"), "utf8");
const [, table] = readme.split(/<!-- settings:(?:begin|end) -->/);
const documented = [...table.matchAll(/^\| `([A-Z][A-Z0-9_]+)` \|/gm)].map(([, name]) => name);
const schema = JSON.parse(readFileSync(path.join(chart, "values.schema.json"), "utf8")).properties;
const mounted = schema.secret.properties.keys.items.enum;
const known = [...Object.keys(schema.settings.properties), ...mounted, ...mounted.map((key) => `${key}_FILE`), "AWS_SESSION_TOKEN"];
assert.deepEqual([...new Set(known.filter((name) => documented.includes(name)))].sort(), [...documented].sort());
assert.deepEqual(Object.keys(schema.settings.properties).filter((name) => !documented.includes(name)), []);
assert.deepEqual(mounted.filter((key) => !documented.includes(`${key}_FILE`)), []);
const values = read(readFileSync(path.join(kubernetes, "stigg-chart/values.yaml"), "utf8"))[0].persistentCache;
for (const name of Object.keys(values.extraEnv)) assert.ok(documented.includes(name), `${name} is a setting`);

// Stigg's chart with this image.
const replaced = the("Deployment", patched).spec.template.spec.containers;
assert.equal(replaced.length, 1, "the patch met the container of that name");
assert.match(replaced[0].image, /^registry\.example\.com\/persistent-cache-service:/);
assert.equal(replaced[0].livenessProbe.httpGet.path, "/livez");
assert.equal(replaced[0].env[0].value, "redis", "what the chart sets stays");

console.log(`${judged.length} manifests of ${new Set(judged.map(({ kind }) => kind)).size} kinds are as their APIs want them`);
