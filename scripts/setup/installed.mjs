// Decides whether node_modules is what package-lock.json says, so that npm ci runs only when it must.
// Plain JavaScript: it runs before anything is installed, on any Node from 18. Exit 0: current, 1: not.
// npm keeps the tree it installed in node_modules/.package-lock.json; a package for another platform is not in it.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

const root = process.argv[2] ?? ".";

const read = (file) => {
  try {
    return JSON.parse(readFileSync(join(root, file), "utf8")).packages;
  } catch {
    return undefined;
  }
};

/** A package may name the systems it is for, as npm does: "linux", or "!win32". */
const allows = (names, own) => {
  const list = [names ?? []].flat();
  const refused = list.filter((name) => name.startsWith("!"));
  return !refused.includes(`!${own}`) && (list.length === refused.length || list.includes(own));
};

const isForThisMachine = (entry) =>
  allows(entry.os, process.platform) && allows(entry.cpu, process.arch) && allows(entry.libc, "glibc");

const isCurrent = () => {
  const wanted = read("package-lock.json");
  const installed = read("node_modules/.package-lock.json");
  if (!wanted || !installed) return false;
  for (const [path, entry] of Object.entries(wanted)) {
    if (!path.startsWith("node_modules/")) continue;
    const found = installed[path];
    if (!found) {
      // The lock file names packages for every platform; one without a checksum was not to be had when it was made.
      if (entry.peer || !isForThisMachine(entry) || (entry.optional && !entry.integrity)) continue;
      return false;
    }
    if (entry.link ? !found.link : found.version !== entry.version || found.integrity !== entry.integrity) return false;
    if (!existsSync(join(root, path))) return false;
  }
  return true;
};

process.exit(isCurrent() ? 0 : 1);
