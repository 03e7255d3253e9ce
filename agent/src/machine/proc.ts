// Reads /proc: who a process is (pid + start time + boot id), what it used, and which processes carry an attempt's marker.
// Decides nothing. Keeps: nothing here signals a pid whose start time was not compared a moment before, because a pid
// is reused and an agent once killed a stranger that way.
import { readdirSync, readFileSync } from "node:fs";

export type ProcessIdentity = {
  readonly pid: number;
  /** Field 22 of /proc/<pid>/stat: ticks since boot. */
  readonly start: string;
  readonly boot: string;
};

type Stat = { readonly state: string; readonly group: number; readonly start: string; readonly cpuTicks: number };

/** Milliseconds of the monotonic clock, which all processes of one boot share; performance.now() is private to a process. */
export const bootClockMs = (): number => Number(process.hrtime.bigint() / 1_000n) / 1_000;

export const readBootId = (): string => readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();

export const readStat = (pid: number): Stat | undefined => {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "latin1");
    // The name may hold anything, so count from the last bracket.
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    const at = (field: number) => fields[field - 3] ?? "";
    return {
      state: at(3),
      group: Number(at(5)),
      start: at(22),
      // Own time and that of reaped children.
      cpuTicks: Number(at(14)) + Number(at(15)) + Number(at(16)) + Number(at(17)),
    };
  } catch {
    return undefined;
  }
};

/** Zombies count as dead: where pid 1 does not reap, an orphan stays one for ever. */
export const isAlive = (identity: ProcessIdentity, bootId: string): boolean => {
  if (identity.boot !== bootId) return false;
  const stat = readStat(identity.pid);
  return stat !== undefined && stat.start === identity.start && stat.state !== "Z" && stat.state !== "X";
};

export const identityOf = (pid: number): ProcessIdentity | undefined => {
  const stat = readStat(pid);
  return stat && { pid, start: stat.start, boot: readBootId() };
};

/** The group that this process leads, or the process alone while setsid has not run yet. False when it is gone. */
export const signalSession = (leader: ProcessIdentity, signal: NodeJS.Signals, bootId: string): boolean => {
  if (!isAlive(leader, bootId)) return false;
  return kill(-leader.pid, signal) || kill(leader.pid, signal);
};

export const signalProcess = (identity: ProcessIdentity, signal: NodeJS.Signals, bootId: string): boolean =>
  isAlive(identity, bootId) && kill(identity.pid, signal);

/** Processes whose environment carries this marker with a value that starts so. Costs a read per process of the host. */
export const markedProcesses = (name: string, valuePrefix: string): { identity: ProcessIdentity; value: string }[] => {
  const boot = readBootId();
  const wanted = `${name}=${valuePrefix}`;
  const found: { identity: ProcessIdentity; value: string }[] = [];
  for (const entry of readdirSync("/proc")) {
    const pid = Number(entry);
    if (!Number.isInteger(pid) || pid === process.pid) continue;
    try {
      const stat = readStat(pid);
      const environment = readFileSync(`/proc/${pid}/environ`, "utf8").split("\0");
      const line = environment.find((text) => text.startsWith(wanted));
      if (stat && stat.state !== "Z" && line !== undefined)
        found.push({ identity: { pid, start: stat.start, boot }, value: line.slice(name.length + 1) });
    } catch {
      // Gone, or somebody else's: not ours.
    }
  }
  return found;
};

const kill = (pid: number, signal: NodeJS.Signals): boolean => {
  try {
    return process.kill(pid, signal);
  } catch {
    return false;
  }
};
