// The import rules of biome.json: each forbidden direction is really refused, each allowed one really passes.
import { execFile } from "node:child_process";
import { copyFile, mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { repositoryRoot } from "./repository.ts";

const refused = [
  ["control-plane/src/domain/a.ts", "../store/jobs.ts"],
  ["control-plane/src/domain/a.ts", "node:fs"],
  ["control-plane/src/domain/a.ts", "pg"],
  ["control-plane/src/store/a.ts", "../operations/submit-job.ts"],
  ["control-plane/src/operations/a.ts", "../http/edge.ts"],
  ["control-plane/src/operations/a.ts", "../store/embedded.ts"],
  ["control-plane/src/loops/a.ts", "../bus/redis.ts"],
  ["control-plane/src/http/a.ts", "../grpc/session.ts"],
  ["control-plane/src/cli/a.ts", "../operations/submit-job.ts"],
  ["control-plane/src/http/a.ts", "@renderplane/agent/src/agent.ts"],
  ["agent/src/work/a.ts", "../machine/process.ts"],
  ["agent/src/stages/a.ts", "../link/session.ts"],
  ["agent/src/agent.ts", "@renderplane/control-plane/src/main.ts"],
  ["proto/kernel/a.ts", "@renderplane/agent/src/agent.ts"],
] as const;
const allowed = [
  ["control-plane/src/domain/a.ts", "@renderplane/proto/kernel/units.ts"],
  ["control-plane/src/domain/a.ts", "./job.ts"],
  ["control-plane/src/operations/a.ts", "../store/jobs.ts"],
  ["control-plane/src/operations/a.ts", "../bus/bus.ts"],
  ["control-plane/src/control-plane.ts", "./store/embedded.ts"],
  ["control-plane/src/operations/a.test.ts", "../store/postgres.ts"],
  ["agent/src/stages/a.ts", "../work/contract.ts"],
  ["agent/src/agent.ts", "./machine/process.ts"],
] as const;

/** Each pair gets a folder of its own with the room's path inside, so that one run of biome answers for all. */
describe("imports point left", () => {
  const faults = new Set<string>();
  let folder = "";

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "renderplane-rules-"));
    await copyFile(join(repositoryRoot(), "biome.json"), join(folder, "biome.json"));
    for (const [file, specifier] of [...refused, ...allowed]) {
      const path = join(folder, named(file, specifier));
      await mkdir(dirname(path), { recursive: true });
      await writeFile(path, `import { x } from "${specifier}";\nexport const y = x;\n`);
    }
    const output = await new Promise<string>((resolve) => {
      const args = ["lint", "--max-diagnostics=none", "--colors=off", "--only=style/noRestrictedImports", "."];
      const options = { cwd: folder, maxBuffer: 16 * 1024 * 1024 };
      execFile(join(repositoryRoot(), "node_modules/.bin/biome"), args, options, (_, stdout, stderr) =>
        resolve(stdout + stderr),
      );
    });
    for (const [, file = ""] of output.matchAll(/^(\S+?):\d+:\d+ lint\/style\/noRestrictedImports/gm)) faults.add(file);
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  test.each(refused)("%s may not import %s", (file, specifier) => {
    expect(faults).toContain(named(file, specifier));
  });
  test.each(allowed)("%s may import %s", (file, specifier) => {
    expect(faults).not.toContain(named(file, specifier));
  });
});

/** "a/b.ts" and "../c/d.ts" -> "a/b-__c_d.ts": the same room, a name for the pair. */
const named = (file: string, specifier: string): string => {
  const pair = specifier.replace(/[^a-z]+/g, "_");
  return file.endsWith(".test.ts")
    ? file.replace(/\.test\.ts$/, `-${pair}.test.ts`)
    : file.replace(/\.ts$/, `-${pair}.ts`);
};
