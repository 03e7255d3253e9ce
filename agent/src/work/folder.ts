// The folder of one attempt: the agent's journal and its contract with what it runs. Owns every name in it.
//   spec.json    the offer, written durably before it is accepted     lease      renewed with every acknowledged heartbeat
//   started      the Start arrived; which boot, when                  steps/     one folder a process (machine/process.ts)
//   once/        answers of acts that must not be repeated            work/      cwd of the programs, inputs and outputs
//   result.json  what will be said in Complete, written durably before it is sent
// The form of the two records is record.ts's. Keeps: a record is read whole or its folder goes to dead/; nothing is deleted before the
// control plane has answered, and then all at once, by its name: half of a folder would look like an attempt to be done again.
import {
  copyFileSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { CompleteRequest, Offer } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { Disk } from "./host.ts";
import { openRecord, sealRecord, type Whose, whoseRecord } from "./record.ts";

/** Ids become folder names. Anything else is refused as an invalid spec. */
export const attemptIdPattern = /^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/;
/** Unreadable folders and refused ends that are kept for a person; the oldest goes first. */
const maxDead = 20;

export type Spec = { readonly offer: Offer; readonly bootId: string };
/** Times of the monotonic clock of that boot, in milliseconds. */
export type Started = { readonly bootId: string; readonly atMs: number };

export type AttemptFolder = ReturnType<typeof attemptFolder>;

export const attemptsRoot = (agentDir: string): string => join(agentDir, "attempts");

export const attemptFolder = (agentDir: string, attemptId: string, disk: Disk) => {
  const root = join(attemptsRoot(agentDir), attemptId);
  const at = (name: string) => join(root, name);
  return {
    root,
    workDir: at("work"),
    leaseFile: at("lease"),
    stepDir: (name: string) => join(root, "steps", name),
    exists: () => existsSync(root),

    /** Durable before the accept is sent: also the entry of the folder itself. */
    writeSpec: (spec: Spec): void => {
      mkdirSync(at("work"), { recursive: true, mode: 0o700 });
      for (const name of ["steps", "once"]) mkdirSync(at(name), { recursive: true, mode: 0o700 });
      const message = Offer.encode(spec.offer).finish();
      disk.writeDurable(at("spec.json"), sealRecord(spec.offer, message, spec.offer, { bootId: spec.bootId }));
      disk.syncFolder(attemptsRoot(agentDir));
    },
    /** Throws when it is missing, cut, damaged or of another format. */
    readSpec: (): Spec => {
      const { message, bootId } = openRecord(readFileSync(at("spec.json")));
      if (bootId === undefined) throw new Error("spec.json has no bootId");
      const offer = Offer.decode(message);
      if (offer.attemptId !== attemptId) throw new Error(`spec.json is of attempt ${offer.attemptId}`);
      return { offer, bootId };
    },
    /** What can still be known of a folder whose records cannot all be read. */
    whose: (): Whose | undefined =>
      ["spec.json", "result.json"]
        .flatMap((name) => (existsSync(at(name)) ? (whoseRecord(readFileSync(at(name))) ?? []) : []))
        .find((found) => found.attemptId === attemptId),

    /** Whole or not there, but not synced: it only has to outlive this process; after a reboot the attempt is over anyway. */
    writeStarted: (started: Started): void => {
      writeFileSync(at("started.new"), JSON.stringify(started), { mode: 0o600 });
      renameSync(at("started.new"), at("started"));
    },
    isStarted: () => existsSync(at("started")),
    /** undefined also when it cannot be read, which costs the start time and must not cost the work. */
    readStarted: (): Started | undefined => {
      try {
        const value = readObject(at("started"));
        if (typeof value.bootId !== "string" || typeof value.atMs !== "number") return undefined;
        return { bootId: value.bootId, atMs: value.atMs };
      } catch {
        return undefined;
      }
    },

    /** The shim ends the program when this text stays the same; the next agent reads from it how long it is trusted. */
    writeLease: (renewedMs: number): void => writeFileSync(at("lease"), `${renewedMs.toFixed(3)}\n`, { mode: 0o600 }),
    readLease: (): number | undefined => {
      if (!existsSync(at("lease"))) return undefined;
      const renewedMs = Number.parseFloat(readFileSync(at("lease"), "utf8"));
      return Number.isFinite(renewedMs) ? renewedMs : undefined;
    },

    readOnce: (name: string): string | undefined => {
      const path = join(root, "once", `${name}.json`);
      return existsSync(path) ? readFileSync(path, "utf8") : undefined;
    },
    writeOnce: (name: string, json: string): void => disk.writeDurable(join(root, "once", `${name}.json`), json),

    writeResult: (request: CompleteRequest): void =>
      disk.writeDurable(at("result.json"), sealRecord(request, CompleteRequest.encode(request).finish(), request)),
    readResult: (): CompleteRequest | undefined =>
      existsSync(at("result.json"))
        ? CompleteRequest.decode(openRecord(readFileSync(at("result.json"))).message)
        : undefined,
    /** The refused end goes to dead/ for a person; the caller writes another one in its place. Answers where it lies. */
    setResultAside: (): string => {
      const target = join(agentDir, "dead", `${attemptId}.result.json`);
      mkdirSync(join(agentDir, "dead"), { recursive: true, mode: 0o700 });
      if (existsSync(at("result.json"))) copyFileSync(at("result.json"), target);
      keepNewest(join(agentDir, "dead"), maxDead);
      return target;
    },

    /** Frees what the answer no longer needs; the journal stays. */
    removeFiles: (): void => {
      for (const name of ["work", "steps"]) rmSync(at(name), { recursive: true, force: true });
    },
    remove: (): void => {
      if (!existsSync(root)) return;
      moveAside(agentDir, attemptId, "removed");
      rmSync(join(agentDir, "removed", attemptId), { recursive: true, force: true });
    },
    /** Out of the way, for a person to look at. */
    keep: (): void => moveAside(agentDir, attemptId, "kept"),
    bury: (): void => {
      moveAside(agentDir, attemptId, "dead");
      // The journal and the logs say what happened; the media may be gigabytes.
      rmSync(join(agentDir, "dead", attemptId, "work"), { recursive: true, force: true });
      keepNewest(join(agentDir, "dead"), maxDead);
    },
  };
};

/** Finishes the removals that a kill cut short. */
export const finishRemovals = (agentDir: string): void => keepNewest(join(agentDir, "removed"), 0);

/** Names of all attempt folders, oldest first. Folders that cannot be an attempt are returned too: the caller buries them. */
export const listAttempts = (agentDir: string): string[] => {
  const root = attemptsRoot(agentDir);
  mkdirSync(root, { recursive: true, mode: 0o700 });
  return readdirSync(root)
    .map((name) => ({ name, atMs: lstatSync(join(root, name)).mtimeMs }))
    .sort((a, b) => a.atMs - b.atMs)
    .map((entry) => entry.name);
};

const moveAside = (agentDir: string, name: string, place: "dead" | "kept" | "removed"): void => {
  const root = join(agentDir, place);
  mkdirSync(root, { recursive: true, mode: 0o700 });
  const target = join(root, name);
  rmSync(target, { recursive: true, force: true });
  renameSync(join(attemptsRoot(agentDir), name), target);
};

const keepNewest = (folder: string, count: number): void => {
  if (!existsSync(folder)) return;
  const newestFirst = readdirSync(folder)
    .map((entry) => ({ path: join(folder, entry), atMs: lstatSync(join(folder, entry)).mtimeMs }))
    .sort((a, b) => b.atMs - a.atMs);
  for (const entry of newestFirst.slice(count)) rmSync(entry.path, { recursive: true, force: true });
};

const readObject = (path: string): { readonly [key: string]: unknown } => {
  const value: unknown = JSON.parse(readFileSync(path, "utf8"));
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Error(`${path} holds no object`);
  return { ...value };
};
