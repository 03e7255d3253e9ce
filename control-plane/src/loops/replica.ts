// This process among the replicas: its row says every heartbeat that it lives and where it is reached, and it knows where the others
// are. Removes its row when it stops. Says aloud what a person must mend: two living processes of one name, replicas
// without Redis. Invariant: nobody is judged here; silent replicas are the matter of watch-replicas, under a lead.
import { type Rhythm, rhythm } from "@renderplane/proto/kernel/process/rhythm.ts";
import type { Context } from "../operations/context.ts";
import { leaveReplica, watchReplicas } from "../operations/watch-replicas.ts";
import { beatReplica, otherReplicas, type ReplicaRow, type ReplicaSelf } from "../store/replicas.ts";

/** A wrong set-up is repeated in the log this often, not at every heartbeat. */
const remindMs = 60_000;

export type Replica = Rhythm & {
  /** Where agents reach the replicas that are up, this one first. */
  agentAddresses(): readonly string[];
};

export const createReplica = (
  ctx: Context,
  options: {
    readonly self: () => ReplicaSelf;
    /** No Redis: bells do not reach other replicas. */
    readonly isAlone: boolean;
    /** Others took this replica for gone and closed its sessions: its hosts must say hello again. */
    readonly onForgotten: () => void;
  },
): Replica => {
  const { timings, log } = ctx;
  let others: readonly ReplicaRow[] = [];
  const reminders = new Map<string, number>();
  const remind = (message: string, facts: object): void => {
    const last = reminders.get(message);
    if (last !== undefined && performance.now() - last < remindMs) return;
    reminders.set(message, performance.now());
    log.error(facts, message);
  };
  const beat = rhythm({
    name: "replica",
    periodMs: timings.heartbeatMs,
    errorPauseMs: Math.min(1_000, timings.heartbeatMs),
    turn: async () => {
      const self = options.self();
      if (await beatReplica(ctx.db.direct, self)) {
        log.warn(
          "this replica was silent for so long that the others took it for gone; its hosts are asked to come back",
        );
        options.onForgotten();
      }
      others = (await otherReplicas(ctx.db.direct, self.id)).filter((row) => row.silentMs < timings.replicaMs);
      const twins = others.filter((row) => row.name === self.name && row.isConnected).map((row) => row.id);
      if (twins.length > 0)
        remind("two replicas have the same name; give each its own with RENDERPLANE_REPLICA", {
          name: self.name,
          twins,
        });
      if (options.isAlone && others.length > 0)
        remind("several replicas run without Redis, so they wake each other only by polling; set REDIS_URL for each", {
          others: others.map((row) => row.id),
        });
    },
    onError: (error) => log.warn({ err: error }, "the heartbeat of this replica was not stored"),
  });
  return {
    ...beat,
    stop: async () => {
      await beat.stop();
      await leaveReplica(ctx).catch((error: unknown) =>
        log.warn({ err: error }, "the row of this replica was not removed"),
      );
    },
    agentAddresses: () =>
      [options.self().agentAddress, ...others.map((row) => row.agentAddress)].filter((address) => address !== ""),
  };
};

/** Beats that a watch must have heard before it judges: after an outage of the database everybody was silent. */
const hearingBeats = 2;

/** Runs under a lead. */
export const createReplicaWatch = (ctx: Context): Rhythm => {
  const { timings, log } = ctx;
  const periodMs = timings.replicaMs / 3;
  let hearingSince = performance.now();
  let lastTurn = hearingSince;
  return rhythm({
    name: "replicas",
    periodMs,
    turn: async () => {
      const now = performance.now();
      if (now - lastTurn > timings.replicaMs) hearingSince = now;
      lastTurn = now;
      if (now - hearingSince >= timings.heartbeatMs * hearingBeats) await watchReplicas(ctx);
    },
    onError: (error) => {
      hearingSince = performance.now();
      log.error({ err: error, loop: "replicas" }, "loop turn failed");
    },
  });
};
