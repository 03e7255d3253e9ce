// The agent's one tie to the control plane: enrols once, keeps a session open for ever, renews the certificate, and carries the
// supervisor's calls. It decides when to come back and nothing about work: attempts go on while the way is down, and the
// supervisor counts their leases.
import { randomUUID } from "node:crypto";
import type { AgentServiceClient, Health, HeldAttempt, Progress } from "@renderplane/proto/gen/renderplane/v1/agent.ts";
import type { Inventory } from "@renderplane/proto/gen/renderplane/v1/types.ts";
import { RenderplaneError } from "@renderplane/proto/kernel/errors.ts";
import { maxAttemptsPerHost } from "@renderplane/proto/kernel/limits.ts";
import { ConfigError } from "@renderplane/proto/kernel/process/environment.ts";
import type { Lifetime } from "@renderplane/proto/kernel/process/lifecycle.ts";
import type { Logger } from "@renderplane/proto/kernel/process/logger.ts";
import type { ControlPlane, Supervisor } from "../work/contract.ts";
import { openClient, splitAddress } from "./client.ts";
import { complete, placeOutputs } from "./complete.ts";
import { diagnose } from "./diagnose.ts";
import { enrol } from "./enrol.ts";
import { isPassing } from "./errors.ts";
import { type Identity, identityPath, readIdentity } from "./identity.ts";
import { createComeback, defaultPace, type Pace, pause, retryDelayMs } from "./pace.ts";
import { createRenewalOfIdentity } from "./renewal.ts";
import { type Outgoing, runSession } from "./session.ts";

export type LinkOptions = {
  /** State folder of the agent; the identity lies there. */
  readonly dir: string;
  readonly name: string;
  readonly agentVersion: string;
  /** host:port; needed until the host is enrolled. */
  readonly enrolAddress?: string;
  /** host:port; without it, what enrolment answered. */
  readonly sessionAddress?: string;
  readonly joinToken?: string;
  readonly inventory: () => Inventory;
  readonly health: () => Promise<Health>;
  readonly supervisor?: Supervisor;
  readonly pace?: Partial<Pace>;
  readonly log: Logger;
};

export type Link = Lifetime &
  ControlPlane & {
    /** Before start, when the supervisor was made after the link. */
    attach(supervisor: Supervisor): void;
    /** The host's id, undefined until it is enrolled. */
    hostId(): string | undefined;
    isOpen(): boolean;
  };

export const createLink = (options: LinkOptions): Link => {
  const { dir, log } = options;
  const pace: Pace = { ...defaultPace, ...options.pace };
  const instanceId = randomUUID();
  const stopped = new AbortController();
  /** The newest of each attempt, said again when a session opens: the control plane forgets live progress with the stream. */
  const newest = new Map<string, Progress>();
  let supervisor = options.supervisor;
  let identity: Identity | undefined;
  let client: AgentServiceClient | undefined;
  let send: ((message: Outgoing, key?: string) => void) | undefined;
  let session = new AbortController();
  let loop: Promise<void> | undefined;
  let lastReason = "";

  const sendProgress = (value: Progress) => send?.({ $case: "progress", value }, `progress:${value.attemptId}`);
  const addressOf = (who: Identity) => options.sessionAddress ?? who.sessionAddress;
  const renewal = createRenewalOfIdentity({
    dir,
    identity: () => known(identity),
    client: () => (send ? client : undefined),
    pauseMs: pace.renewalPauseMs,
    log,
    onRenewed: (renewed) => {
      identity = renewed;
      // The next stream is opened at once with the new certificate; calls under way end on the old channel.
      session.abort(new Error(renewedReason));
    },
  });

  /** The identity from disk, or a new one; waits for a control plane that is away, gives up when it was refused. */
  const identify = async (): Promise<Identity | undefined> => {
    const kept = await readIdentity(dir);
    if (kept) return kept;
    const { joinToken, enrolAddress } = options;
    if (!joinToken)
      throw new ConfigError(
        `RENDERPLANE_JOIN_TOKEN is not set and ${identityPath(dir)} is not there: this host is not enrolled. ` +
          "Ask the control plane for a join token and set RENDERPLANE_JOIN_TOKEN or RENDERPLANE_JOIN_TOKEN_FILE",
      );
    if (!enrolAddress)
      throw new ConfigError("RENDERPLANE_ENROL_ADDRESS is not set: it is the host:port where this host enrols");
    for (let failures = 1; !stopped.signal.aborted; failures++) {
      try {
        const request = { dir, name: options.name, address: enrolAddress, token: joinToken };
        const fresh = await enrol({ ...request, inventory: options.inventory() });
        log.info({ hostId: fresh.hostId }, "enrolled");
        return fresh;
      } catch (error) {
        if (!(error instanceof RenderplaneError) || !isPassing(error)) throw error;
        tell(error);
        await pause(retryDelayMs(error, failures, pace), stopped.signal);
      }
    }
    return undefined;
  };

  /** The same reason is told once, not at every try. */
  const tell = (error: RenderplaneError) => {
    const level = error.message === lastReason ? "debug" : isPassing(error) ? "warn" : "error";
    lastReason = error.message;
    log[level]({ code: error.code, reason: error.message }, "no session with the control plane; work goes on");
  };

  const stayConnected = async (): Promise<void> => {
    const overseer = attached(supervisor);
    const comeback = createComeback(pace);
    let connectedAs: Identity | undefined;
    while (!stopped.signal.aborted) {
      const who = known(identity);
      if (who !== connectedAs || !client) {
        client?.close();
        client = openClient(addressOf(who), who);
        connectedAs = who;
      }
      session = new AbortController();
      const end = await runSession({
        client,
        supervisor: overseer,
        instanceId,
        agentVersion: options.agentVersion,
        inventory: options.inventory,
        health: options.health,
        helloLimitMs: pace.helloLimitMs,
        signal: AbortSignal.any([stopped.signal, session.signal]),
        log,
        onOpen: (open) => {
          send = open;
          lastReason = "";
          forgetGone(newest, overseer.held());
          for (const value of newest.values()) sendProgress(value);
        },
      });
      send = undefined;
      if (stopped.signal.aborted || identity !== who) continue;
      const isBlind = !end.wasOpen && end.error?.code === "unavailable" && end.error.retryAfterMs === undefined;
      const error = isBlind ? await diagnose(addressOf(who), who, dir) : end.error;
      if (error) tell(error);
      await pause(comeback({ error, livedMs: end.livedMs }), stopped.signal);
    }
  };

  const way = (): AgentServiceClient => {
    if (!client) throw new RenderplaneError("unavailable", "the agent has no way to the control plane yet");
    return client;
  };

  return {
    name: "link",
    attach: (next) => {
      supervisor = next;
    },
    hostId: () => identity?.hostId,
    isOpen: () => send !== undefined,
    start: async () => {
      if (loop || stopped.signal.aborted) return;
      attached(supervisor);
      identity = await identify();
      if (!identity) return;
      splitAddress(addressOf(identity));
      loop = stayConnected();
      await renewal.start();
    },
    stop: async () => {
      stopped.abort(new Error("the agent stops"));
      await renewal.stop();
      await loop;
      client?.close();
      client = undefined;
    },
    // An answer without a stream is dropped: the next session brings the offer again.
    answerOffer: (value) => send?.({ $case: "offerAnswer", value }),
    sendProgress: (value) => {
      if (newest.size >= 2 * maxAttemptsPerHost) forgetGone(newest, supervisor?.held() ?? []);
      newest.set(value.attemptId, value);
      sendProgress(value);
    },
    complete: async (request) => complete(way(), request),
    placeOutputs: async (request) => placeOutputs(way(), request),
  };
};

const forgetGone = (newest: Map<string, Progress>, held: readonly HeldAttempt[]): void => {
  const ids = new Set(held.map((attempt) => attempt.attemptId));
  for (const id of newest.keys()) if (!ids.has(id)) newest.delete(id);
};

const renewedReason = "the certificate was renewed";

const known = (identity: Identity | undefined): Identity => {
  if (!identity) throw new Error("the link has no identity before it has started");
  return identity;
};
const attached = (supervisor: Supervisor | undefined): Supervisor => {
  if (!supervisor) throw new Error("the link was started before attach() gave it a supervisor");
  return supervisor;
};
