// Judges scripts/grafana/dashboard.json by the type that Grafana publishes for dashboards, which refuses fields that it
// does not know. node grafana.mjs REPOSITORY TOOLS, where TOOLS holds node_modules.

import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import path from "node:path";

import { complaints } from "./typescript.mjs";

const [repository, tools] = process.argv.slice(2).map((argument) => path.resolve(argument));
const workplace = mkdtempSync(path.join(tools, "check-"));
process.on("exit", () => rmSync(workplace, { recursive: true, force: true }));

const dashboard = JSON.parse(readFileSync(path.join(repository, "scripts/grafana/dashboard.json"), "utf8"));

// In TypeScript an enum's text is no value of the enum, so the few that are used are written as their members.
function faults(value) {
  const literal = JSON.stringify(value, null, 1)
    .replaceAll('"mode": "thresholds"', '"mode": FieldColorModeId.Thresholds')
    .replaceAll('"mode": "absolute"', '"mode": ThresholdsMode.Absolute')
    .replaceAll('"type": "value"', '"type": MappingType.ValueToText');
  const names = "type Dashboard, FieldColorModeId, MappingType, ThresholdsMode";
  const source = `import { ${names} } from "@grafana/schema";\nexport const dashboard: Dashboard = ${literal};\n`;
  return complaints(tools, workplace, source);
}

assert.equal(faults(dashboard), "");
// The judge can say no.
assert.match(faults({ ...dashboard, refreshh: "30s" }), /refreshh/);

// No two panels lie on each other, and none is wider than the page.
const places = dashboard.panels.map(({ title, gridPos }) => ({ title, ...gridPos }));
for (const [index, one] of places.entries()) {
  assert.ok(one.x + one.w <= 24, one.title);
  for (const other of places.slice(index + 1)) {
    const apart =
      one.x + one.w <= other.x || other.x + other.w <= one.x || one.y + one.h <= other.y || other.y + other.h <= one.y;
    assert.ok(apart, `${one.title} and ${other.title}`);
  }
}

console.log(`${dashboard.panels.length} panels and rows are as Grafana wants them`);
