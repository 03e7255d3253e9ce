// The last release as files: unpacked from this repository's own history into a folder, with the libraries of this checkout and
// its own contract (proto). What "the last release" is stands in the file last-release: the commit that was handed over last.
// Throws with what to do when the history is not here; a shallow clone has no past to test against.
import { execFile, spawn } from "node:child_process";
import { mkdir, readdir, readFile, symlink } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const root = fileURLToPath(new URL("../../", import.meta.url));
const run = promisify(execFile);

export const lastRelease = async (): Promise<string> =>
  (await readFile(join(root, "scripts/skew/last-release"), "utf8")).trim();

/** Agent and contract of that commit under `target`; answers the path of the agent's door. */
export const unpackAgent = async (commit: string, target: string): Promise<string> => {
  await run("git", ["-C", root, "cat-file", "-e", `${commit}^{commit}`]).catch(() => {
    throw new Error(
      `the commit ${commit} of scripts/skew/last-release is not in this clone's history. Run git fetch --unshallow, or clone without --depth.`,
    );
  });
  await mkdir(target, { recursive: true });
  await extract(commit, target);
  await linkLibraries(target);
  return join(target, "agent/src/start.js");
};

const extract = (commit: string, target: string): Promise<void> =>
  new Promise((resolve, reject) => {
    const archive = spawn("git", ["-C", root, "archive", commit, "agent", "proto", "package.json"], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const tar = spawn("tar", ["-x", "-C", target], { stdio: ["pipe", "ignore", "inherit"] });
    archive.stdout.pipe(tar.stdin);
    const codes: (number | null)[] = [];
    for (const child of [archive, tar]) {
      child.once("error", reject);
      child.once("close", (code) => {
        codes.push(code);
        if (codes.length < 2) return;
        if (codes.every((each) => each === 0)) resolve();
        else
          reject(new Error(`the agent of ${commit} could not be unpacked (git archive and tar ended with ${codes})`));
      });
    }
  });

/** Every library is this checkout's; the workspaces are the release's own, or it would read today's contract. */
const linkLibraries = async (target: string): Promise<void> => {
  const [from, to] = [join(root, "node_modules"), join(target, "node_modules")];
  await mkdir(join(to, "@renderplane"), { recursive: true });
  for (const name of await readdir(from))
    if (name !== "@renderplane" && !name.startsWith(".")) await symlink(join(from, name), join(to, name));
  for (const workspace of ["agent", "proto"])
    await symlink(join(target, workspace), join(to, "@renderplane", workspace));
};
