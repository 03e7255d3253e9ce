// When so many hosts of a pool fall silent at once that we are more likely cut off than they are dead. While its valve is closed,
// nothing of the pool is given away: late work is cheaper than all of it twice. An ordered table of rules, first match wins.
// Silence that a host announced (goodbye) does not count, and neither do hosts that have been away for long.
import type { Timings } from "@renderplane/proto/kernel/limits.ts";

/** Twelve heartbeats, a minute at the default: silence that began within it counts as one blow. */
export const valveWindowBeats = 12;
/** Fewer hosts than this die by themselves often enough. */
export const valveHosts = 3;
/** More than this share of the pool. */
export const valveShare = 0.5;

export type PoolFacts = {
  readonly pool: string;
  /** Hosts that were heard within the window and the time until they are suspect (or, of a closed valve, since then). */
  readonly hosts: number;
  /** Of those, silent longer than suspectMs. */
  readonly silent: number;
  /** null: no valve was ever closed here. */
  readonly valve: {
    readonly isClosed: boolean;
    readonly opensInMs: number;
    readonly openedAgoMs: number | null;
  } | null;
};
export type ValveVerdict = {
  readonly action: "close" | "open" | "keep";
  readonly rule: "mass_disconnect" | "recovered" | "time" | "closed" | "just_opened" | "calm";
  readonly reason: string;
};

export const judgeValve = (pool: PoolFacts, timings: Pick<Timings, "suspectMs" | "heartbeatMs">): ValveVerdict => {
  const { hosts, silent, valve } = pool;
  const said = `${silent} of ${hosts} hosts of pool ${pool.pool} are silent`;
  const isMass = silent >= valveHosts && silent > hosts * valveShare;
  if (valve?.isClosed) {
    if (hosts - silent > hosts * valveShare)
      return { action: "open", rule: "recovered", reason: `${hosts - silent} of ${hosts} hosts are back` };
    if (valve.opensInMs <= 0) return { action: "open", rule: "time", reason: `${said}, and its time is up` };
    return { action: "keep", rule: "closed", reason: said };
  }
  // The hosts that a valve was closed for are still in the window: it must not close for them again.
  const afterMs = timings.suspectMs + timings.heartbeatMs * valveWindowBeats;
  if (isMass && valve?.openedAgoMs != null && valve.openedAgoMs < afterMs)
    return { action: "keep", rule: "just_opened", reason: said };
  if (isMass) return { action: "close", rule: "mass_disconnect", reason: `${said} at once` };
  return { action: "keep", rule: "calm", reason: said };
};
