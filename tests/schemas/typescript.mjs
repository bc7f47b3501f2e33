// What the TypeScript compiler says of a source whose values are written out as literals: in these it wants to know
// every field. Nothing if all is well.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import path from "node:path";

export function complaints(tools, workplace, source) {
  const file = path.join(workplace, "literals.ts");
  writeFileSync(file, source);
  const flags = ["--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "--target", "es2022"];
  const compiler = path.join(tools, "node_modules/.bin/tsc");
  const { status, stdout, error } = spawnSync(compiler, [...flags, file], { cwd: workplace, encoding: "utf8" });
  assert.equal(error, undefined);
  return status === 0 ? "" : stdout;
}
