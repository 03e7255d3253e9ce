// Completes package-lock.json after `npm install`: a registry mirror that lacks packages of other platforms (a biome for Android,
// say) makes npm leave them out, and `npm ci` then calls the lock file incomplete everywhere. The missing optional packages are
// named again, with the platform that their name says; they are never fetched on a platform that is not theirs.
import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

type Entry = {
  version?: string;
  optional?: boolean;
  os?: string[];
  cpu?: string[];
  libc?: string[];
  optionalDependencies?: Record<string, string>;
};
type Lock = { packages: Record<string, Entry> };

const operatingSystems = [
  "android",
  "darwin",
  "win32",
  "freebsd",
  "openbsd",
  "netbsd",
  "sunos",
  "aix",
  "wasm32",
  "openharmony",
  "linux",
];
const processors: readonly (readonly [string, string])[] = [
  ["arm64", "arm64"],
  ["aarch64", "arm64"],
  ["armv7", "arm"],
  ["arm", "arm"],
  ["ia32", "ia32"],
  ["loong64", "loong64"],
  ["mips64el", "mips64el"],
  ["ppc64", "ppc64"],
  ["riscv64", "riscv64"],
  ["s390x", "s390x"],
  ["wasm32", "wasm32"],
  ["x64", "x64"],
];

/** What a package of another platform would have said; only names that tell their platform are added. */
export const platformOf = (name: string): Pick<Entry, "os" | "cpu"> | undefined => {
  const os = operatingSystems.find((word) => name.includes(word));
  const cpu = processors.find(([word]) => name.includes(word));
  if (!os || !cpu) return undefined;
  return { os: [os], cpu: [cpu[1]] };
};

/** Adds what is missing; answers the names. */
export const completeLock = (lock: Lock): string[] => {
  const added: string[] = [];
  for (const entry of Object.values(lock.packages))
    for (const [name, range] of Object.entries(entry.optionalDependencies ?? {})) {
      const path = `node_modules/${name}`;
      const platform = platformOf(name);
      if (lock.packages[path] || !platform) continue;
      lock.packages[path] = { version: range.replace(/^[\^~]/, ""), optional: true, ...platform };
      added.push(name);
    }
  lock.packages = Object.fromEntries(Object.entries(lock.packages).sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)));
  return added;
};

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const path = new URL("../package-lock.json", import.meta.url);
  const lock = JSON.parse(await readFile(path, "utf8")) as Lock;
  const added = completeLock(lock);
  await writeFile(path, `${JSON.stringify(lock, null, 2)}\n`);
  process.stdout.write(`${added.length} packages of other platforms were named again\n`);
}
