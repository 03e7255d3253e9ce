// What runs on a cluster's folder, read from /proc. A pid file alone proves nothing after a kill -9 or a reboot: the pid may
// belong to anybody by now. Every process of a server has the cluster as its current folder, and that decides.
// Invariant: no signal is ever sent to a process that has not just been proven to belong to this cluster.
import { existsSync, readdirSync, readFileSync, readlinkSync, rmSync } from "node:fs";
import { basename, join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";

export type Postmaster = { readonly pid: number; readonly program: string };

/** The live postmaster of the cluster, or undefined. `cluster` is a real path. */
export const findPostmaster = (cluster: string): Postmaster | undefined => {
  const pid = pidIn(join(cluster, "postmaster.pid"));
  const program = pid === undefined ? undefined : programOn(pid, cluster);
  return pid === undefined || program === undefined ? undefined : { pid, program };
};

/** Processes of an earlier server on this cluster that outlive their postmaster for a moment. */
export const processesOn = (cluster: string): number[] =>
  readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => belongs(pid, cluster));

/**
 * Makes way for a new server after the postmaster died: waits for its last processes, ends what stays, and removes a pid
 * file that names a foreign process, which PostgreSQL would refuse to start over.
 */
export const clearDead = async (cluster: string): Promise<void> => {
  if (!(await isGone(() => processesOn(cluster).length === 0, 5_000))) {
    for (const pid of processesOn(cluster)) signal(pid, "SIGQUIT");
    if (!(await isGone(() => processesOn(cluster).length === 0, 5_000)))
      throw new Error(
        `processes ${processesOn(cluster).join(", ")} of an earlier PostgreSQL do not leave ${cluster}; end them with kill -QUIT`,
      );
  }
  const path = join(cluster, "postmaster.pid");
  const named = pidIn(path);
  // A pid that is free again is PostgreSQL's own to judge: it looks at the shared memory too.
  if (named !== undefined && existsSync(`/proc/${named}`) && !belongs(named, cluster)) rmSync(path, { force: true });
};

const pidIn = (path: string): number | undefined => {
  try {
    return Number(readFileSync(path, "utf8").split("\n")[0]);
  } catch {
    return undefined;
  }
};

/**
 * Fast shutdown (clients are cut off, everything is written), immediate shutdown after the deadline. Resolves when the last
 * process is gone: the one that writes the log outlives the postmaster by a moment.
 */
export const stopPostmaster = async (cluster: string, pid: number, fastMs: number): Promise<void> => {
  const hasEnded = () => !belongs(pid, cluster) && processesOn(cluster).length === 0;
  if (belongs(pid, cluster)) signal(pid, "SIGINT");
  if (await isGone(hasEnded, fastMs)) return;
  if (belongs(pid, cluster)) signal(pid, "SIGQUIT");
  if (!(await isGone(hasEnded, 5_000))) throw new Error(`PostgreSQL (pid ${pid}) on ${cluster} does not stop`);
};

export const belongs = (pid: number, cluster: string): boolean => programOn(pid, cluster) !== undefined;

/**
 * The program of a live server process on the cluster; undefined for everything else. One look that may fail anywhere: the
 * process may end between two reads. The kernel appends " (deleted)" when the file was replaced, by an upgrade say.
 */
const programOn = (pid: number, cluster: string): string | undefined => {
  if (!Number.isInteger(pid) || pid <= 1) return undefined;
  try {
    if (readlinkSync(`/proc/${pid}/cwd`) !== cluster) return undefined;
    // A zombie has ended; only its parent has not looked yet. Its state stands behind the name in parentheses.
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const program = readlinkSync(`/proc/${pid}/exe`);
    return stat.slice(stat.lastIndexOf(")")).startsWith(") Z") || !basename(program).startsWith("postgres")
      ? undefined
      : program;
  } catch {
    return undefined;
  }
};

const signal = (pid: number, name: NodeJS.Signals): void => {
  try {
    process.kill(pid, name);
  } catch {
    // It ended between the look and the signal.
  }
};

const isGone = async (test: () => boolean, deadlineMs: number): Promise<boolean> => {
  const end = performance.now() + deadlineMs;
  while (performance.now() < end) {
    if (test()) return true;
    await pause(10);
  }
  return test();
};
