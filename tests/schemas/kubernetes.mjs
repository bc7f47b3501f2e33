// Judges scripts/kubernetes: each manifest, as kustomize makes it, by the schema of its API (required fields, enums,
// patterns), and by its TypeScript type, which refuses fields that the API does not know; then what the manifests say
// together. node kubernetes.mjs REPOSITORY TOOLS, where TOOLS holds node_modules, layer/kubectl and layer/helm.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { pathToFileURL } from "node:url";

import { complaints } from "./typescript.mjs";

const [repository, tools] = process.argv.slice(2).map((argument) => path.resolve(argument));
const require = createRequire(path.join(tools, "package.json"));
const { parseAllDocuments } = require("yaml");
const manifests = path.join(repository, "scripts/kubernetes");
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

function kustomize(directory) {
  return read(execFileSync(path.join(tools, "layer/kubectl/kubectl"), ["kustomize", directory], { encoding: "utf8" }));
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

const all = kustomize(path.join(repository, "tests/schemas/all"));
const plain = kustomize(manifests);
const byAge = read(readFileSync(path.join(manifests, "autoscaling/by-age.yaml"), "utf8"));

// Stigg's chart, as far as the post-renderer minds it, through Helm: the names are those of stigg-chart 1.0.1.
function rendered(manifest) {
  const chart = path.join(workplace, "chart");
  const plugins = path.join(workplace, "plugins");
  mkdirSync(path.join(chart, "templates"), { recursive: true });
  mkdirSync(plugins);
  symlinkSync(path.join(manifests, "stigg-chart"), path.join(plugins, "stigg-chart"));
  writeFileSync(path.join(chart, "Chart.yaml"), "{apiVersion: v2, name: stigg-chart, version: 1.0.1}");
  writeFileSync(path.join(chart, "templates/deployment.yaml"), JSON.stringify(manifest));
  const env = {
    PATH: `${path.join(tools, "layer/kubectl")}:${process.env.PATH}`,
    HELM_PLUGINS: plugins,
    HELM_DATA_HOME: workplace,
    HELM_CONFIG_HOME: workplace,
    HELM_CACHE_HOME: workplace,
  };
  const flags = ["template", "stigg", chart, "--post-renderer", "persistent-cache-service"];
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

const judged = [...all, ...plain, ...byAge, ...patched, rule];
for (const manifest of judged) {
  assert.equal(await schemaFault(manifest), undefined, `${manifest.kind} ${manifest.metadata.name}`);
}
assert.equal(typeFaults(judged), "");

// The judges can say no.
const the = (kind, from = all) => {
  const found = from.filter((manifest) => manifest.kind === kind);
  assert.equal(found.length, 1, `${found.length} of ${kind}`);
  return structuredClone(found[0]);
};
const badType = the("ServiceMonitor");
badType.spec.endpoints[0].intervall = "15s";
assert.match(typeFaults([badType]), /intervall/);
const badEnum = the("TriggerAuthentication");
badEnum.spec.podIdentity.identityOwner = "nobody";
assert.notEqual(await schemaFault(badEnum), undefined);
const badDeployment = the("Deployment");
delete badDeployment.spec.selector;
assert.notEqual(await schemaFault(badDeployment), undefined);

// What they say together.
const deployment = the("Deployment");
const pod = deployment.spec.template.spec;
const [container] = pod.containers;
const settings = the("ConfigMap").data;
const selected = deployment.spec.template.metadata.labels["app.kubernetes.io/name"];

assert.equal(container.envFrom[0].configMapRef.name, the("ConfigMap").metadata.name, "the generated name");
assert.ok(
  pod.terminationGracePeriodSeconds >= Number(settings.SHUTDOWN_TIMEOUT_SECS) + 5,
  "the grace period fits the drain",
);
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
const files = container.env.map(({ name, value }) => [name, value]);
for (const [name, file] of files) {
  assert.ok(name.endsWith("_FILE") && file.startsWith(`${container.volumeMounts[0].mountPath}/`), name);
}
assert.equal(deployment.spec.replicas, undefined, "KEDA sets the number");
assert.equal(the("Deployment", plain).spec.replicas, 2);
for (const selector of [
  deployment.spec.selector.matchLabels,
  the("Service").spec.selector,
  the("PodDisruptionBudget").spec.selector.matchLabels,
  the("NetworkPolicy").spec.podSelector.matchLabels,
]) {
  assert.deepEqual(selector, { "app.kubernetes.io/name": selected });
}
const monitor = the("ServiceMonitor");
const service = the("Service");
assert.deepEqual(monitor.spec.selector.matchLabels, { "app.kubernetes.io/name": selected });
assert.equal(service.metadata.labels[monitor.spec.jobLabel], "persistent-cache-service", "the job of the alert rules");
assert.ok(service.spec.ports.some(({ name }) => name === monitor.spec.endpoints[0].port));
assert.ok(container.ports.some(({ name }) => name === service.spec.ports[0].targetPort));
for (const label of monitor.spec.targetLabels) {
  assert.ok(service.metadata.labels[label], label);
}
const scaled = the("ScaledObject");
assert.equal(scaled.spec.scaleTargetRef.name, deployment.metadata.name);
assert.equal(scaled.spec.triggers[0].metadata.queueURL, settings.QUEUE_URL);
assert.equal(scaled.spec.triggers[0].authenticationRef.name, the("TriggerAuthentication").metadata.name);

// Each setting is one of the README's table.
const readme = readFileSync(path.join(repository, "README.md"), "utf8");
const values = read(readFileSync(path.join(manifests, "stigg-chart/values.yaml"), "utf8"))[0].persistentCache;
for (const name of [...Object.keys(settings), ...files.map(([name]) => name), ...Object.keys(values.extraEnv)]) {
  assert.ok(readme.includes(`\n| \`${name}\` |`), `${name} is a setting`);
}

// Stigg's chart with this image.
const replaced = the("Deployment", patched).spec.template.spec.containers;
assert.equal(replaced.length, 1, "the patch met the container of that name");
assert.match(replaced[0].image, /^registry\.example\.com\/persistent-cache-service:/);
assert.equal(replaced[0].livenessProbe.httpGet.path, "/livez");
assert.equal(replaced[0].env[0].value, "redis", "what the chart sets stays");

console.log(`${judged.length} manifests of ${new Set(judged.map(({ kind }) => kind)).size} kinds are as their APIs want them`);
