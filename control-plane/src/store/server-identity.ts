// As whom the packaged PostgreSQL runs. It refuses to run as root, so a root control plane gives it the user of the data
// folder, at first `nobody`: the one unprivileged user that every distribution has, with the passwd entry that initdb asks
// for; an invented uid has none, and creating a user is not this program's to do. Invariant: an identity that is returned
// has reached both the programs and the folder once, so what fails later is not a matter of access.
import { spawnSync } from "node:child_process";
import { chownSync, readFileSync, statSync } from "node:fs";
import { ConfigError } from "@renderplane/proto/kernel/process/environment.ts";

export type ServerIdentity = {
  /** Who owns the server's files; undefined: whoever runs this process. */
  readonly owner: { readonly uid: number; readonly gid: number } | undefined;
  /** How a program is started as that user. */
  wrap(program: string, args: readonly string[]): { command: string; args: string[]; uid?: number; gid?: number };
};

/** `probe` is a program that exits 0 without doing anything; it is run in `folder` under every candidate. */
export const chooseIdentity = (
  folder: string,
  probe: readonly [string, ...string[]],
  env: NodeJS.ProcessEnv,
): ServerIdentity => {
  if (process.getuid?.() !== 0)
    return { owner: undefined, wrap: (program, args) => ({ command: program, args: [...args] }) };
  const owner = ownerOf(folder);
  chownSync(folder, owner.uid, owner.gid);
  const failures: string[] = [];
  for (const capability of [undefined, "dac_read_search", "dac_override"]) {
    const identity = { owner, wrap: wrapAs(owner, capability) };
    const tried = identity.wrap("/bin/sh", ["-c", 'cd "$0" && exec "$@"', folder, ...probe]);
    const { command, args, ...user } = tried;
    const run = spawnSync(command, args, { ...user, env, cwd: "/", encoding: "utf8" });
    if (run.status === 0) return identity;
    failures.push(`${capability ?? "plain"}: ${(run.error?.message ?? run.stderr).trim().split("\n").at(-1)}`);
  }
  throw new ConfigError(
    `PostgreSQL runs as uid ${owner.uid} here, and that user cannot reach ${folder} or ${probe[0]} (${failures.join("; ")}). Move them below a folder that every user may enter, run the control plane as an ordinary user, or set DATABASE_URL.`,
  );
};

/** A folder that already belongs to an ordinary user keeps it, so nothing changes hands when root starts it once. */
const ownerOf = (folder: string): { uid: number; gid: number } => {
  const { uid, gid } = statSync(folder);
  if (uid !== 0) return { uid, gid };
  const line = readFileSync("/etc/passwd", "utf8")
    .split("\n")
    .find((entry) => entry.startsWith("nobody:"));
  const [, , nobodyUid, nobodyGid] = line?.split(":") ?? [];
  if (nobodyUid === undefined || nobodyGid === undefined)
    throw new ConfigError(
      "PostgreSQL refuses to run as root and /etc/passwd has no user nobody. Run as an ordinary user, or set DATABASE_URL.",
    );
  return { uid: Number(nobodyUid), gid: Number(nobodyGid) };
};

/**
 * A checkout under /root or a 0700 folder cannot be entered by another user. One capability to pass closed folders is kept
 * for that case alone; the others are dropped for good. no_setuid_fixup: without it access(2), by which PostgreSQL finds its
 * own program, ignores the capability (measured: "invalid binary … Permission denied").
 */
const wrapAs =
  (owner: { uid: number; gid: number }, capability: string | undefined): ServerIdentity["wrap"] =>
  (program, args) => {
    if (capability === undefined) return { command: program, args: [...args], ...owner };
    const only = `-all,+${capability}`;
    return {
      command: "setpriv",
      args: [
        ...["--reuid", String(owner.uid), "--regid", String(owner.gid), "--clear-groups", "--no-new-privs"],
        ...["--securebits", "+no_setuid_fixup", "--inh-caps", only, "--ambient-caps", only, "--bounding-set", only],
        program,
        ...args,
      ],
    };
  };
