// The list of checks that need no running system, and how they are run and reported. Each is one command or one function;
// what a check means is known by the tool behind it. Both scripts/check and scripts/test run this list.
import { spawn } from "node:child_process";
import { access, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { staleDocuments } from "../docs.ts";
import { problemsOf, readCoverage } from "../requirements.ts";
import { repositoryFiles } from "./repository.ts";

export type Check = {
  readonly name: string;
  /** Empty when all is well; otherwise what a person should read. */
  readonly run: (root: string) => Promise<string>;
};

export const checks: readonly Check[] = [
  { name: "types", run: (root) => command(root, "tsc", ["-p", "."]) },
  { name: "style and import rules", run: (root) => command(root, "biome", ["check", "--colors=off", "."]) },
  { name: "contract", run: (root) => command(root, "buf", ["lint"]) },
  { name: "generated code", run: (root) => generatedIsCurrent(root) },
  { name: "generated documents", run: async (root) => lines(await staleDocuments(root), "run: node scripts/docs.ts") },
  { name: "requirement ids", run: async (root) => lines(problemsOf(await readCoverage(root)), "") },
  { name: "links in documents", run: (root) => linksLead(root) },
  { name: "shell scripts", run: (root) => shellParses(root) },
];

/** Runs them one after another; prints a line each to stderr and the full text of what fails. */
export const runChecks = async (root: string): Promise<{ passed: number; failed: number }> => {
  let failed = 0;
  for (const check of checks) {
    const started = performance.now();
    const found = await check.run(root).catch((error: unknown) => String(error));
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    console.error(`${found === "" ? "ok  " : "FAIL"} ${check.name} (${seconds} s)`);
    if (found === "") continue;
    failed++;
    console.error(found.trimEnd().replace(/^/gm, "     "));
  }
  return { passed: checks.length - failed, failed };
};

const lines = (found: readonly string[], hint: string): string =>
  found.length === 0 ? "" : [...found, hint].filter((line) => line !== "").join("\n");

/** Tools say the most important thing first; the rest is a repetition. */
const longestOutput = 64 * 1024;

/** Runs a program of the project; its output when it fails, "" when it does not. */
const command = (root: string, program: string, args: readonly string[]): Promise<string> =>
  new Promise((resolve, reject) => {
    const path = `${join(root, "node_modules/.bin")}:${process.env.PATH ?? ""}`;
    const child = spawn(program, args, {
      cwd: root,
      env: { ...process.env, PATH: path },
      stdio: ["ignore", "pipe", "pipe"],
    });
    let output = "";
    const keep = (chunk: string) => {
      if (output.length < longestOutput) output += chunk;
    };
    child.stdout.setEncoding("utf8").on("data", keep);
    child.stderr.setEncoding("utf8").on("data", keep);
    child.on("error", reject);
    child.on("close", (code, signal) =>
      resolve(code === 0 ? "" : output || `${program} ended with ${signal ?? `exit code ${code}`}`),
    );
  });

/** Generates again into an empty folder and compares: what is committed is what buf and ts-proto make of the contract. */
const generatedIsCurrent = async (root: string): Promise<string> => {
  const fresh = await mkdtemp(join(tmpdir(), "renderplane-gen-"));
  try {
    const trouble = await command(root, "buf", ["generate", "-o", fresh]);
    if (trouble !== "") return trouble;
    const [made, kept] = await Promise.all([tree(join(fresh, "proto/gen")), tree(join(root, "proto/gen"))]);
    const names = [...new Set([...made.keys(), ...kept.keys()])].filter((n) => made.get(n) !== kept.get(n));
    return lines(
      names.map((n) => `proto/gen/${n} is not what buf generate makes`),
      "run: npm run generate",
    );
  } finally {
    await rm(fresh, { recursive: true, force: true });
  }
};

const tree = async (folder: string): Promise<Map<string, string>> => {
  const files = new Map<string, string>();
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    files.set(path.slice(folder.length + 1), await readFile(path, "utf8"));
  }
  return files;
};

/** Every relative link and picture in README.md and docs/ leads to a file. */
const linksLead = async (root: string): Promise<string> => {
  const broken: string[] = [];
  for (const page of await repositoryFiles(root, (name) => /^(README\.md|docs\/.*\.md)$/.test(name))) {
    const text = await readFile(join(root, page), "utf8");
    for (const [, target = ""] of text.matchAll(/\]\(([^)#\s]+)[^)]*\)/g)) {
      if (/^[a-z]+:/.test(target)) continue;
      const found = await access(join(root, dirname(page), target)).then(
        () => true,
        () => false,
      );
      if (!found) broken.push(`${page} links to ${target}, which does not exist`);
    }
  }
  return lines(broken, "");
};

/** Scripts that a person types must parse in the plainest shell of the machine. */
const shellParses = async (root: string): Promise<string> => {
  const scripts = await repositoryFiles(root, (name) =>
    /^(scripts\/[^./]+|scripts\/setup\/.*\.sh|\.ci\/run)$/.test(name),
  );
  const found: string[] = [];
  for (const script of scripts) {
    const text = await readFile(join(root, script), "utf8");
    if (!script.endsWith(".sh") && !text.startsWith("#!/bin/sh\n"))
      found.push(`${script} does not start with #!/bin/sh`);
    const trouble = await command(root, "sh", ["-n", script]);
    if (trouble !== "") found.push(`${script}: ${trouble}`);
  }
  return lines(found, "");
};
