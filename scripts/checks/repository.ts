// Where the checkout is and which files belong to it. Files that git ignores are nobody's concern here;
// without git (a tarball) the folder is walked instead.
import { execFile } from "node:child_process";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const run = promisify(execFile);
const ignored = new Set(["node_modules", ".git", ".renderplane", ".cache", "coverage"]);

export const repositoryRoot = (): string => fileURLToPath(new URL("../..", import.meta.url)).replace(/\/$/, "");

/** Paths relative to the root, sorted, of the files that `wanted` accepts. */
export const repositoryFiles = async (root: string, wanted: (name: string) => boolean): Promise<string[]> => {
  const all = (await filesOfGit(root)) ?? (await walk(root, ""));
  return all.filter(wanted).sort();
};

const filesOfGit = async (root: string): Promise<string[] | undefined> => {
  try {
    const args = ["ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate"];
    const { stdout } = await run("git", args, { cwd: root, maxBuffer: 64 * 1024 * 1024 });
    const { stdout: gone } = await run("git", ["ls-files", "-z", "--deleted"], { cwd: root });
    const deleted = new Set(gone.split("\0"));
    return stdout.split("\0").filter((name) => name !== "" && !deleted.has(name));
  } catch {
    return undefined;
  }
};

const walk = async (root: string, folder: string): Promise<string[]> => {
  const files: string[] = [];
  for (const entry of await readdir(join(root, folder), { withFileTypes: true })) {
    if (ignored.has(entry.name)) continue;
    const name = folder === "" ? entry.name : `${folder}/${entry.name}`;
    if (entry.isDirectory()) files.push(...(await walk(root, name)));
    else if (entry.isFile()) files.push(name);
  }
  return files;
};
