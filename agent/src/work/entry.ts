// One attempt as the supervisor holds it in memory, and how that is told in Hello and heartbeats. What the states mean and what
// leads from one to the next stands in supervisor.ts; its folder holds the same across restarts.
import { type HeldAttempt, HeldState, type Offer } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { Lease } from "../domain/trust.ts";
import type { AttemptRun } from "./attempt.ts";
import type { AttemptFolder } from "./folder.ts";

export type Entry = {
  readonly offer: Offer;
  readonly folder: AttemptFolder;
  /** Monotonic; renewals sent earlier did not list this attempt. */
  readonly heldSinceMs: number;
  lease: Lease;
  /** Its Start came while this agent could not trust itself; it begins when that is over. */
  isStartDue?: boolean;
  /** On the wire, once it has ended: what its end takes of the journal's bound. */
  endBytes?: number;
  state: "accepted" | "running" | "waiting" | "ended";
  run?: AttemptRun;
};

export const heldOf = (entry: Entry): HeldAttempt => ({
  attemptId: entry.offer.attemptId,
  fence: entry.offer.fence,
  state:
    entry.state === "ended"
      ? HeldState.HELD_STATE_ENDED
      : entry.state === "accepted"
        ? HeldState.HELD_STATE_ACCEPTED
        : HeldState.HELD_STATE_RUNNING,
});
