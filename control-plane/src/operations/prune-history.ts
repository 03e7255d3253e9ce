// One turn of forgetting: jobs past their time with everything that is theirs, then what grows beside them, a batch of each in a
// transaction of its own. Ended things only, oldest first, and never what another operation holds: the queue notices nothing.
// Sums of removed jobs stay (history_days). What dies in between is found again, because only what is still there is looked for.
import type { Tx } from "../store/database.ts";
import {
  lockEndedJobs,
  removeCertificates,
  removeHostEvents,
  removeJobs,
  removeJoinTokens,
  removeKeys,
  removeSessions,
  removeUnnamedArtifacts,
  unknownArtifacts,
} from "../store/retention.ts";
import { removeIdleShares } from "../store/shares.ts";
import type { Context } from "./context.ts";

const dayMs = 24 * 60 * 60_000;

/** How long things are kept, in ms. */
export type Retention = {
  /** Ended jobs, with stages, attempts, costs, files and events. */
  readonly jobsMs: number;
  /** Events of hosts, their ended sessions, tokens that cannot be used, certificates that were replaced. */
  readonly hostsMs: number;
};
/** What people look back at; a year's sums are in history_days. */
export const defaultRetention: Retention = { jobsMs: 90 * dayMs, hostsMs: 30 * dayMs };

/** What submissions promise: a key answers the same job for a day. */
const keysMs = dayMs;
/** Bytes that nobody named within a day were never finished: an end waits in the journal of its host for less. */
const unnamedMs = dayMs;
/** Bytes that were asked for lately are about to be named. */
const askedMs = 60 * 60_000;

/** Jobs of one transaction: about 100 ms of work, and locks on rows that nobody else writes. */
const jobsAtOnce = 100;
/** Rows of the other tables of one transaction. */
const rowsAtOnce = 500;
/** A walk through all artifacts begins this often; it is the only act here whose cost follows what is kept. */
const walkEveryMs = dayMs;

/** What a leader of this loop remembers. Losing it costs one more walk. */
export type PruneMemory = { artifactsAfter: string | undefined; walkedAt: number };
export const newPruneMemory = (): PruneMemory => ({ artifactsAfter: "", walkedAt: Number.NEGATIVE_INFINITY });

export type Pruned = {
  readonly jobs: number;
  readonly hostEvents: number;
  readonly sessions: number;
  readonly keys: number;
  readonly joinTokens: number;
  readonly certificates: number;
  readonly shares: number;
  readonly artifacts: number;
  /** A batch was full, or a walk is not at its end: there may be more. */
  readonly isMore: boolean;
};

/** `nowMs`: a clock that never goes back. */
export const pruneHistory = async (
  ctx: Context,
  memory: PruneMemory = newPruneMemory(),
  retention: Retention = defaultRetention,
  nowMs: number = performance.now(),
): Promise<Pruned> => {
  const within = (act: (tx: Tx) => Promise<number>): Promise<number> => ctx.db.transaction(act);
  const { jobsMs, hostsMs } = retention;
  const jobs = await within(async (tx) => removeJobs(tx, await lockEndedJobs(tx, jobsMs, jobsAtOnce)));
  const hostEvents = await within((tx) => removeHostEvents(tx, hostsMs, rowsAtOnce));
  const sessions = await within((tx) => removeSessions(tx, hostsMs, rowsAtOnce));
  const keys = await within((tx) => removeKeys(tx, keysMs, rowsAtOnce));
  const joinTokens = await within((tx) => removeJoinTokens(tx, hostsMs, rowsAtOnce));
  const certificates = await within((tx) => removeCertificates(tx, hostsMs, rowsAtOnce));
  const shares = await within((tx) => removeIdleShares(tx, rowsAtOnce));
  const artifacts = await walkArtifacts(ctx, memory, nowMs);
  return {
    jobs,
    hostEvents,
    sessions,
    keys,
    joinTokens,
    certificates,
    shares,
    artifacts,
    isMore:
      jobs === jobsAtOnce ||
      [hostEvents, sessions, keys, joinTokens, certificates, shares].includes(rowsAtOnce) ||
      memory.artifactsAfter !== undefined,
  };
};

/**
 * A page of a walk, then, at its end, the files in the store that no row knows. A row goes before its file: a crash between the two
 * leaves a file that the next walk finds. Answers how many files are gone.
 */
const walkArtifacts = async (ctx: Context, memory: PruneMemory, nowMs: number): Promise<number> => {
  if (memory.artifactsAfter === undefined) {
    if (nowMs - memory.walkedAt < walkEveryMs) return 0;
    memory.artifactsAfter = "";
  }
  const after = memory.artifactsAfter;
  const page = await ctx.db.transaction((tx) =>
    removeUnnamedArtifacts(tx, { after, keepMs: unnamedMs, limit: rowsAtOnce }),
  );
  let removed = 0;
  for (const sha256 of page.removed) if (await ctx.artifacts.remove(sha256, askedMs)) removed++;
  memory.artifactsAfter = page.end;
  if (page.end !== undefined) return removed;
  memory.walkedAt = nowMs;
  return removed + (await removeUnknownFiles(ctx));
};

const removeUnknownFiles = async (ctx: Context): Promise<number> => {
  let removed = 0;
  const clear = async (digests: readonly string[]) => {
    for (const sha256 of await unknownArtifacts(ctx.db.direct, digests))
      if (await ctx.artifacts.remove(sha256, unnamedMs)) removed++;
  };
  let part: string[] = [];
  for await (const sha256 of ctx.artifacts.idle(unnamedMs)) {
    part.push(sha256);
    if (part.length < rowsAtOnce) continue;
    await clear(part);
    part = [];
  }
  if (part.length > 0) await clear(part);
  return removed;
};
